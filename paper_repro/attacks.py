"""Empirical robustness: accuracy under attacks of growing budget, by foolbox (Rauber et al. 2017, 2020)."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["ATTACKS", "Attack", "survives"]


class Attack(NamedTuple):
    title: str
    norm: str
    """Of the budget: "Linf" or "L2", in pixel values, which lie in 0..1."""
    parts: tuple[str, ...]
    """Names of foolbox's attacks. A point falls if any of them finds an adversarial image within the budget."""


# The one full step of the fast gradient method lies within the family of PGD's paths, but not on the path that PGD
# takes: with it as a first try, PGD is never the weaker of the two.
ATTACKS = {
    "fgsm": Attack("FGSM (L∞)", "Linf", ("LinfFastGradientAttack",)),
    "linf-pgd": Attack("PGD (L∞)", "Linf", ("LinfFastGradientAttack", "LinfProjectedGradientDescentAttack")),
    "l2-pgd": Attack("PGD (L2)", "L2", ("L2FastGradientAttack", "L2ProjectedGradientDescentAttack")),
    "deepfool": Attack("DeepFool (L2)", "L2", ("L2DeepFoolAttack",)),
}
# Steps of 2.5 / n of the budget (Madry et al. 2018): enough to cross the ball from any start, in n steps.
PGD = {"steps": 20, "rel_stepsize": 2.5 / 20}
OPTIONS = {"LinfProjectedGradientDescentAttack": PGD, "L2ProjectedGradientDescentAttack": PGD}


def survives(
    network: nn.Module,
    images: Tensor,
    labels: np.ndarray,
    attack: str,
    budgets: Sequence[float],
    *,
    mean: Any = 0.0,
    std: Any = 1.0,
    seed: int = 0,
) -> np.ndarray:
    """Whether each image is classified rightly, and stays so within each budget.

    An adversarial image within one budget is within every larger one, so a point that fell has fallen.

    Args:
        network: maps normalised images [N, C, H, W] to scores; put into eval mode.
        images: [N, C, H, W] float32, normalised: (pixels - mean) / std with pixels in 0..1.
        labels: [N] int64.
        attack: a key of ATTACKS.
        budgets: B rising numbers from 0 on, in pixel values, in the norm of the attack.
        mean, std: of the normalisation: numbers, or one a channel.
        seed: of random starts.

    Returns:
        [B, N] bool; the row of budget 0 is whether the image itself is classified rightly.

    Raises:
        ValueError: an unknown attack, or budgets that do not rise from 0 or above.
    """
    if attack not in ATTACKS:
        raise ValueError(f"attack must be one of {', '.join(ATTACKS)}, got {attack!r}")
    if min(budgets) < 0 or list(budgets) != sorted(set(budgets)):
        raise ValueError(f"budgets must rise from 0 or above, got {list(budgets)}")
    # foolbox brings in GitPython, which otherwise refuses to be imported where there is no git.
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import foolbox

    truth = torch.as_tensor(labels, device=images.device)
    mean, std = (torch.as_tensor(units, dtype=images.dtype, device=images.device) for units in (mean, std))
    mean, std = mean.reshape(-1, 1, 1), std.reshape(-1, 1, 1)
    # Rounding may carry a black or white pixel just out of 0..1.
    pixels = (images * std + mean).clamp(0, 1)
    model = foolbox.PyTorchModel(_Normalised(network, mean, std).eval(), bounds=(0, 1), device=images.device)
    with torch.no_grad():
        right = (model(pixels).argmax(1) == truth).cpu().numpy()
    rows = torch.from_numpy(np.flatnonzero(right)).to(images.device)
    positive = [budget for budget in budgets if budget > 0]
    standing = np.repeat(right[None], len(budgets), axis=0)
    # foolbox draws random starts from the global generator.
    with torch.random.fork_rng(), _frozen(network):
        torch.manual_seed(seed)
        for name in ATTACKS[attack].parts:
            instance = _instance(foolbox.attacks, name)
            if positive and right.any():
                _, _, fell = instance(model, pixels[rows], truth[rows], epsilons=positive)
                standing[len(budgets) - len(positive) :, right] &= ~fell.cpu().numpy()
    return np.logical_and.accumulate(standing, axis=0)


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Without gradients of the weights, which foolbox would have computed at each step: a third of its work."""
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


class _Normalised(nn.Module):
    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network, self.mean, self.std = network, mean, std

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network((pixels - self.mean) / self.std)


def _instance(attacks: Any, name: str) -> Any:
    return getattr(attacks, name)(**OPTIONS.get(name, {}))
