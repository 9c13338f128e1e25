"""Made densities of points as fitted and left out, for figures B.5 and B.9, and of test images, for B.8."""

import numpy as np
from made_robustness import SENTENCE


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


def made_figure_b8(high: int = 3, n_classes: int = 8):
    """The same, and five test images a class, below its points left out; the denser half is classified rightly."""
    numbers = made_figure_b5(high=high, n_classes=n_classes)
    rng = np.random.default_rng(1)
    test_labels = np.arange(5 * n_classes) % n_classes
    jump = 50.0 * (test_labels >= n_classes - high)
    test = {stage: test_labels - 3 - 0.5 * jump + rng.normal(size=len(test_labels)) for stage in (3, 4)}
    return {
        **{name: numbers[name] for name in ("seen", "left_out", "labels", "class_names", "dimensions")},
        "test": test,
        "test_labels": test_labels,
        "right": test[4] > np.median(test[4]),
    }


def made_figure_b9(scored=True):
    """Figure B.5 of two made spaces; the densest of the first are in small components, and are memorized."""
    b5 = made_figure_b5(n_classes=10)
    last = b5["labels"] >= 7
    return {
        "places": ["Raw pixels", "Stage 4, untrained"],
        "dimensions": [32, 64],
        **{name: list(b5[name].values()) for name in ("seen", "left_out", "effective_draws")},
        "small": [0.75 * last, np.zeros(len(last))],
        "labels": b5["labels"],
        "class_names": b5["class_names"],
        "n_bins": 20,
        "memorization": np.where(last, 0.75, 0.5 - b5["labels"] / 40) if scored else None,
        "scale": {"n_trials": 60, "networks": SENTENCE} if scored else None,
    }


def made_figure_b11():
    """Figure B.5 of ten Gaussians, of which the last three are shattered; so are the own points of the last two."""
    b5, g = made_figure_b5(n_classes=10), np.arange(10)
    return {
        **b5,
        "own": {stage: values - 40.0 * (b5["labels"] == 7) for stage, values in b5["seen"].items()},
        "own_small": {stage: np.where(g >= 8, 0.8, 0.1) for stage in (3, 4)},
        "small": {stage: np.where(g >= 7, 0.9, 0.2) for stage in (3, 4)},
    }
