"""Made traces: what is stored of one chain a class, and of four."""

import numpy as np

ONE_STOPPED = 20
"""Round at which every other class of `made_convergence` stops."""


def made_trace(n_classes=10, n_sweeps=16, thin=2):
    """One chain: log joint climbs by one nat a sweep, class g has 2 + g components from the second half on."""
    sweep = np.arange(thin, n_sweeps + 1, thin)
    g = np.arange(n_classes)
    return {
        "sweep": sweep,
        "n_components": np.where(sweep[:, None] > n_sweeps / 2, 2 + g, 6),
        "alpha": np.ones((len(sweep), n_classes)),
        "log_joint": sweep[:, None] - 1000.0 * (1 + g),
    }


def made_convergence(n_classes=10, n_rounds=40, n_chains=4):
    """Four chains; class g has R-hat 1.001 + 0.002 g of log joint (those from the fifth on do not converge)."""
    g, r, c = np.arange(n_classes), np.arange(n_rounds)[:, None, None], np.arange(n_chains)[None, :, None]
    rounds = np.where(g % 2 == 0, n_rounds, ONE_STOPPED)
    rhat = 1.001 + 0.002 * g
    after = r >= rounds
    rng = np.random.default_rng(0)
    joint = -100.0 * (1 + g) + c + rng.normal(size=(n_rounds, n_chains, n_classes))
    number = np.broadcast_to(3 + c + 0 * g, joint.shape)
    return {
        "converged": rhat < 1.01,
        "rhat_log_joint": rhat,
        "rhat_n_components": np.full(n_classes, 1.0),
        "ess_log_joint": np.full(n_classes, 500.0),
        "ess_n_components": np.full(n_classes, 900.0),
        "log_joint": np.where(after, np.nan, joint),
        "n_components": np.where(after, -1, number),
        "rounds": rounds,
        "split_acceptance": np.where(np.arange(n_chains)[:, None] == 0, np.nan, 0.02) + 0 * g,
        "merge_acceptance": np.full((n_chains, n_classes), np.nan),
        "burn_in_log_evidence": np.zeros((n_chains, 4, n_classes)),
        "mean_log_density": 2.0 * np.arange(n_chains)[:, None] - g,
        "above_simple": 5.0 + np.arange(n_chains)[:, None] + 0.0 * g,
    }


def made_small_share(stage, n_classes, n_chains=4):
    """None shattered at stages 1 and 2; at 3 all chains of class 0 and one of class 1; at 4 all but chain 0 of all."""
    share = np.full((n_chains, n_classes), 0.5)
    if stage == 3:
        share[:, 0], share[:1, 1:2] = 0.9, 0.51
    elif stage == 4:
        share[1:] = 1.0
    return share


def made_figure_b3(n_classes=10):
    return {
        "traces": {stage: made_convergence(n_classes) for stage in (1, 2, 3, 4)},
        "class_names": [str(g) for g in range(n_classes)],
        "dimensions": [16, 16, 64, 64],
        "small_share": {stage: made_small_share(stage, n_classes) for stage in (1, 2, 3, 4)},
        "n_discard": None,
    }
