"""Made bounds of the evidence of two states, of ten classes."""

import numpy as np


def made_evidence():
    """Of ten classes: 0 to 3 shattered, 4 and 5 open, 6 to 8 collapsed; of the last no two states were found."""
    lower = np.array([300.0, 250, 200, 60, 20, -30, -200, -500, -2000, 400])
    return {
        "many_lower": lower,
        "many_upper": lower + 80,
        "few_lower": np.zeros(10),
        "few_upper": np.full(10, 30.0),
        "many_small": np.full(10, 0.9),
        "few_small": np.array([0.1] * 9 + [0.8]),
    }


def made_figure_b10():
    share = np.zeros((4, 10))
    share[:, :3], share[:1, 3], share[1:, 9] = 0.9, 0.9, 0.9
    return {
        "evidence": {3: made_evidence(), 4: made_evidence()},
        "small_share": {3: share, 4: share},
        "class_names": [f"c{g}" for g in range(10)],
        "dimensions": {3: 64, 4: 64},
    }
