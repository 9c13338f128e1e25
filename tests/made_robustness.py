"""Made numbers for figures 3, 4, A.11, B.6 and B.7."""

import numpy as np

STAGES, N, N_BINS, N_CLASSES = [1, 2, 3, 4], 120, 6, 4
SENTENCE = "Networks are made up."


def made_figure_3():
    """Two high-density classes; points of the highest bin are misclassified, abstained from and fall to attacks."""
    rng = np.random.default_rng(0)
    labels = np.arange(N) % N_CLASSES
    bins = np.arange(N) // (N // N_BINS)
    rows = np.arange(0, N, 2)
    last = bins == N_BINS - 1
    standing = np.stack([np.ones(len(rows), bool), ~last[rows], bins[rows] < 2], axis=1)
    titles = ("FGSM (L∞)", "PGD (L∞)", "PGD (L2)", "DeepFool (L2)")
    return {
        "log_density": np.arange(N) / 2.0,
        "memorization": rng.random(N),
        "memorization_error": np.full(N, 0.1),
        "right_outside": np.linspace(0.2, 0.6, N),
        "bins": bins,
        "labels": labels,
        "high": np.array([False, True, False, True]),
        "predicted": np.where(last, (labels + 1) % N_CLASSES, labels),
        "certified_rows": rows,
        "smoothed": np.where(last[rows], -1, labels[rows]),
        "radius": np.where(last[rows], 0.0, 0.8),
        "control": (np.where(bins[rows] == 0, -1, labels[rows]), np.where(bins[rows] == 0, 0.0, 0.6)),
        "pixels_per_unit": 0.25,
        "attacked_rows": rows,
        "survived": dict.fromkeys(titles, standing),
        "budgets": dict.fromkeys(titles, np.array([0.0, 0.1, 0.2])),
        "scale": {"sigma": 0.5, "n0": 100, "n": 1000, "alpha": 0.001, "n_trials": 60, "networks": SENTENCE},
    }


def made_figure_4():
    """Pairs differ by 10 nats times the stage, twice as much among the least memorized."""
    times = {"most": 10.0, "random": 15.0, "least": 20.0}
    off_diagonal = ~np.eye(3, dtype=bool)
    return {
        "stages": STAGES,
        "divergence": {kind: np.stack([value * s * off_diagonal for s in STAGES]) for kind, value in times.items()},
        "standard_error": {kind: np.full((4, 3, 3), 0.5) * off_diagonal for kind in times},
        "memorization": {"most": np.array([0.9, 1.0]), "random": np.array([0.0, 0.4]), "least": np.array([-0.1, 0.0])},
        "class_names": ["a", "b", "d"],
        "n_classes": 5,
        "least_points": 2,
        "scale": {"threshold": np.nan, "n_trials": 60, "dimensions": [16, 16, 64, 64], "networks": SENTENCE},
    }


CELLS = [[1, 16], [2, 16], [3, 16], [4, 16], [3, 64], [4, 64]]


def made_figure_b6():
    """As figure 4, at each stage; 100 nats more at stage 4 with D = 64."""
    numbers = made_figure_4()
    del numbers["stages"]
    rows = [stage - 1 for stage, _ in CELLS]
    for name in ("divergence", "standard_error"):
        numbers[name] = {kind: value[rows] for kind, value in numbers[name].items()}
    for value in numbers["divergence"].values():
        value[-1] += 100 * ~np.eye(3, dtype=bool)
    return {"cells": CELLS, **numbers}


def made_figure_b7():
    """Of 100 points the last 10, densest as fitted and least dense left out, are in small components at stage 4."""
    density, last = np.arange(100.0), np.arange(100) >= 90
    memorization = 1 - density / 100 + 0.5 * last
    return {
        "seen": {3: density, 4: density + 50 * last},
        "left_out": {3: density, 4: density - 200 * last},
        "small": {3: np.zeros(100), 4: 0.75 * last},
        "memorization": memorization,
        "dimensions": {3: 16, 4: 64},
        "n_bins": 20,
        "scale": {"n_trials": 60, "networks": SENTENCE},
    }


def made_figure_a11():
    """All right at the last stage; before it, one in three of the most memorized is wrong."""
    labels = np.arange(30) % 3
    wrong = np.where(np.arange(30) < 10, (labels + 1) % 3, labels)
    kinds = ("most", "random", "least")
    return {
        "stages": STAGES,
        "predicted": {k: np.stack([wrong if k == "most" else labels] * 3 + [labels]) for k in kinds},
        "labels": dict.fromkeys(kinds, labels),
        "memorization": {k: np.linspace(0, 1, 30) for k in kinds},
        "n_fitted": 1000,
        "scale": {"n_trials": 60, "networks": SENTENCE},
    }


MADE_ROBUSTNESS = {
    "figure_3": made_figure_3,
    "figure_4": made_figure_4,
    "figure_a11": made_figure_a11,
    "figure_b6": made_figure_b6,
    "figure_b7": made_figure_b7,
}
