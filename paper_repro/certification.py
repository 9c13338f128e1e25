"""Certified robustness by randomized smoothing: CERTIFY of Cohen, Rosenfeld & Kolter (2019).

The smoothed classifier g(x) is the class that a network f most probably returns for x + noise, noise ~ N(0, sigma^2 I):

    g(x) = argmax_c P(f(x + noise) = c).        If P(f(x + noise) = c) >= p > 1/2, then g(x + d) = c for all
                                                |d|_2 < sigma Phi^-1(p)

p is a lower confidence bound from n draws, for the class that n0 other draws voted for. With probability at least
1 - alpha a certificate holds; where the bound is not above 1/2, the smoothed classifier abstains.
"""

import warnings
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import beta, norm
from torch import Tensor, nn

__all__ = ["ABSTAIN", "COPIES_AT_ONCE", "Certificates", "certify", "lower_bound", "smoothed_counts"]

ABSTAIN = -1
COPIES_AT_ONCE = 1000
"""Noisy copies in one pass. The noise depends on it."""


class Certificates(NamedTuple):
    predicted: np.ndarray
    """[N] int64: class of the smoothed classifier, or ABSTAIN."""
    radius: np.ndarray
    """[N] float64: certified L2 radius in the units of the network's input; 0 where it abstains."""


def certify(selection: np.ndarray, estimation: np.ndarray, *, sigma: float, alpha: float) -> Certificates:
    """Certificates from the votes of noisy copies.

    Args:
        selection: [N, C] int: of n0 copies of each point, how many were given each class. Chooses the class.
        estimation: [N, C] int: the same of n other copies. Bounds the probability of that class.
        sigma: standard deviation of the noise, positive.
        alpha: probability that a certificate is wrong, at most; in (0, 1).

    Raises:
        ValueError: shapes that do not match, alpha or sigma out of range.

    Warns:
        UserWarning: n is so small that even n votes of n do not lift the bound above 1/2.
    """
    if selection.shape != estimation.shape or selection.ndim != 2:
        raise ValueError(
            f"selection and estimation must both be [N, C], got {list(selection.shape)} and {list(estimation.shape)}"
        )
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    n = estimation.sum(1)
    voted = selection.argmax(1)
    k = estimation[np.arange(len(voted)), voted]
    least = lower_bound(n, n, alpha)
    if (least <= 0.5).any():
        warnings.warn(
            f"{n.min()} draws at alpha = {alpha} can only abstain: {n.min()} votes of {n.min()} bound the probability "
            f"at {least.min():.3f}; at least {int(np.log(alpha) / np.log(0.5)) + 1} draws are needed",
            stacklevel=2,
        )
    p = lower_bound(k, n, alpha)
    certain = p > 0.5
    radius = np.where(certain, sigma * norm.ppf(np.where(certain, p, 0.5)), 0.0)
    return Certificates(np.where(certain, voted, ABSTAIN), radius)


def lower_bound(k: np.ndarray, n: np.ndarray, alpha: float) -> np.ndarray:
    """Exact one-sided lower confidence bound (Clopper & Pearson 1934) of a probability, at level 1 - alpha.

        the alpha quantile of Beta(k, n - k + 1); 0 for k = 0

    Args:
        k: successes.
        n: trials, at least 1.
        alpha: in (0, 1).

    Raises:
        ValueError: alpha out of range.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    k, n = np.asarray(k), np.asarray(n)
    return np.where(k > 0, beta.ppf(alpha, np.maximum(k, 1), n - k + 1), 0.0)


@torch.inference_mode()
def smoothed_counts(
    network: nn.Module, image: Tensor, n: int, *, sigma: float, n_classes: int, seed: int
) -> np.ndarray:
    """[C] int64: how many of n noisy copies of an image the network gives each class.

    Args:
        network: maps [B, ...] to scores [B, C]; in eval mode.
        image: [...], without a batch axis.
        n: number of copies.
        sigma: standard deviation of the noise, in the units of the image.
        n_classes: C.
        seed: of the noise of this image.

    Raises:
        ValueError: n below 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    generator = torch.Generator(image.device).manual_seed(seed)
    counts = torch.zeros(n_classes, dtype=torch.int64, device=image.device)
    for first in range(0, n, COPIES_AT_ONCE):
        size = min(COPIES_AT_ONCE, n - first)
        noise = torch.randn((size, *image.shape), generator=generator, dtype=image.dtype, device=image.device)
        counts += network(noise.mul_(sigma).add_(image)).argmax(1).bincount(minlength=n_classes)
    return counts.cpu().numpy()
