"""What tells whether a chain is where it should be."""

import torch
from torch import Tensor

from classfit.devices import moved
from kernels import GibbsState, NIWPrior, unchecked
from kernels.cpu import threads


@threads.reserved()
def log_joint(labels: Tensor, alpha: Tensor, x: Tensor, group_offsets: Tensor, prior: NIWPrior) -> Tensor:
    """Log of the joint density of the labels and the data of each group, given alpha: `kernels.log_joint`, unchecked.

    Args:
        labels: [N] int64, 0..K_g - 1 within each group, or [T, N].
        alpha: [G] float64, or [T, G].
        x: [N, D] points sorted by group.
        group_offsets: [G + 1] int64.
        prior: of each group, in the units of x.

    Returns:
        float64 of the shape of alpha, in nats, on the processor: there it is computed, wherever the tensors are.
    """
    cpu = torch.device("cpu")
    here, state, on_processor = x.to(cpu), moved(GibbsState(labels, alpha), cpu), moved(prior, cpu)
    return unchecked(here).log_joint(state, here, prior=on_processor, group_offsets=group_offsets.to(cpu))
