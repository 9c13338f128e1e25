"""Calibration on data drawn from the model, in small; `recovery.py` is the long version."""

import recovery
from tolerances import MONTE_CARLO_SIGMAS

from classfit import convergence


def test_the_truth_is_a_draw_from_the_posterior(monkeypatch):
    for name, value in {"MAX_ROUNDS": 10**9, "CHECK_ROUNDS": 10**9, "BURN_IN_ROUNDS": 5, "KEEP_EVERY": 1}.items():
        monkeypatch.setattr(convergence, name, value)
    below = recovery.ranks(40, n=20, D=2, seed=4, rounds=20)
    found = recovery.report(below, convergence.N_KEPT * convergence.N_CHAINS)
    assert abs(found["coverage"] - found["nominal"]) < MONTE_CARLO_SIGMAS * found["standard_error"]
    assert found["p_uniform"] > 1e-3
