"""What drawing the labels of a block independently leaves out, for the Metropolis-Hastings correction."""

import math

import numpy as np

from kernels.cpu.compiled import leaf
from kernels.cpu.components import Components, Prior, Scratch, copy
from kernels.cpu.rank_one import join, remove_block


@leaf()
def excess(
    assigned: np.ndarray,
    block: np.ndarray,
    lane: int,
    labels: np.ndarray,
    n_slots: int,
    beta: float,
    prior: Prior,
    components: Components,
    scratch: Scratch,
) -> float:
    """log of the joint conditional of a block's labels, less the sum of the logs of the conditionals they are drawn
    from, up to a constant: only points that share a component differ. n_slots is a new component, a point each.

    inf for two points in one component that holds no other point, which the draw never proposes.
    """
    total = 0.0
    for k in range(n_slots):
        together, removed = 0, 0
        for i in range(len(block)):
            removed += labels[block[i]] == k
            together += assigned[i] == k
        if together < 2:
            continue
        c = components.size[k] - removed
        if c == 0:
            return math.inf
        kappa = prior.kappa0 + components.size[k]
        remove_block(components.y[k], lane, block, labels, k, kappa, scratch.block_y, scratch.block_q, scratch.v)
        points, alone, moved = scratch.block_y[:together], scratch.block_q[:together], scratch.v
        at = 0
        for i in range(len(block)):
            if assigned[i] == k:
                copy(scratch.block_y[i], points[at])
                alone[at] = scratch.block_q[i]
                at += 1
        gain = 0.0
        for i in range(together):
            joint = 0.0
            for r in range(points.shape[1]):
                joint += points[i, r] ** 2
            kappa = prior.kappa0 + c + i
            log_t = prior.predictive[c + i] - 0.5 * gain
            log_t -= 0.5 * (prior.nu0 + c + i + 1) * math.log1p(joint * kappa / (kappa + 1))
            kappa = prior.kappa0 + c
            log_t_alone = prior.predictive[c] - 0.5 * (prior.nu0 + c + 1) * math.log1p(alone[i] * kappa / (kappa + 1))
            total += math.log((c + i) / c) + beta * (log_t - log_t_alone)
            copy(points[i], moved)
            gain += join(moved, prior.kappa0 + c + i, points)
    return total
