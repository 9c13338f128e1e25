"""What tells whether a chain is where it should be."""

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
        prior: of each group, in the units of x and on its device; all others may be elsewhere.

    Returns:
        float64 of the shape of alpha, in nats, on the processor.
    """
    state = moved(GibbsState(labels, alpha), x.device)
    return unchecked(x).log_joint(state, x, prior=prior, group_offsets=group_offsets.to(x.device)).cpu()
