"""Made densities of points as fitted and left out, for figure B.5."""

import numpy as np


def made_figure_b5(high: int = 3, n: int = 40, few: int = 0, n_classes: int = 8):
    """Log-densities of classes at two stages; as fitted the last `high` classes lie 50 nats above, left out below."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(n_classes), n)
    jump = 50.0 * (labels >= n_classes - high)
    seen = {stage: labels + jump + rng.normal(size=len(labels)) for stage in (3, 4)}
    left_out = {stage: labels - 0.5 * jump + 5 * rng.normal(size=len(labels)) for stage in (3, 4)}
    draws = {stage: np.where(np.arange(len(labels)) < few, 2.0, 20.0) for stage in (3, 4)}
    return {
        "seen": seen,
        "left_out": left_out,
        "effective_draws": draws,
        "labels": labels,
        "class_names": [f"c{g}" for g in range(n_classes)],
        "dimensions": {3: 64, 4: 64},
    }
