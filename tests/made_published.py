"""Made numbers for figures B.1 and B.2."""

import numpy as np

NAMES = ["ant", "bee", "cat", "dog", "elk", "fox"]
MEMORIZATION = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.5])


def made_figure_b1():
    """Densities at stage 4 that fall with memorization, but for the last two classes: dense, and tightly so."""
    labels = np.tile(np.arange(6), 20)
    noise = np.random.default_rng(0).normal(size=len(labels))
    level, spread = np.array([-10.0, -20.0, -30.0, -40.0, 50.0, 60.0]), np.array([8.0, 8.0, 8.0, 8.0, 1.0, 1.0])
    return {
        "log_density": {3: labels + noise, 4: level[labels] + spread[labels] * noise},
        "labels": labels,
        "class_names": NAMES,
        "dimensions": {3: 64, 4: 64},
        "memorization": MEMORIZATION,
    }


def made_figure_b2():
    """Our scores are half of the published ones, but for two classes that change places."""
    ours = MEMORIZATION / 2
    ours[[0, 1]] = ours[[1, 0]]
    return {
        "ours": ours,
        "published": MEMORIZATION,
        "class_names": NAMES,
        "n_trials": 40,
        "networks": "They are small.",
    }


MADE_PUBLISHED = {"figure_b1": made_figure_b1, "figure_b2": made_figure_b2}
