"""Made fits of the controls, as the step stores them."""

import numpy as np

from paper_repro.controls import PAPER, Fit, planned_fits

CELLS = [[1, 2], [3, 2], [3, 4]]
NAMES = list("abcdef")


def made_fits(shattered, seed: int = 0):
    """Fits in random order; shattered(fit, g) says which are.

    Shattered: 50 nats seen, -20 held out, -17 left out; collapsed: 0, -5, -5.
    """
    fits = planned_fits(CELLS, 3, 2)
    np.random.default_rng(seed).shuffle(fits)
    state = np.array([[shattered(fit, g) for g in range(6)] for fit in fits])
    part = np.array([[fit.share < 1] for fit in fits])
    described = {name: np.array([getattr(fit, name) for fit in fits]) for name in Fit._fields}
    return described | {
        "small_share": np.where(state, 0.9, 0.2),
        "mean_in": np.where(state, 50.0, 0.0),
        "std_in": np.where(state, 1.0, 20.0),
        "mean_out": np.where(part, np.where(state, -20.0, -5.0), np.nan),
        "mean_left_out": np.where(part, np.where(state, -17.0, -5.0), np.nan),
        "log_joint": np.where(state, -100.0, -200.0),
        "n_components": np.where(state, 40.0, 5.0),
    }


def made_figure_b4():
    """Half of the classes shatter in the cell of most dimensions, one of them with one seed only."""
    fits = made_fits(lambda fit, g: fit.D == 4 and fit.variant == PAPER and g < 2 + (fit.seed == 1))
    return {"fits": fits, "class_names": NAMES, "memorization": np.linspace(0.1, 0.6, 6)}
