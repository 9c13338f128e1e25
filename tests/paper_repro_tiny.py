"""The smallest profile, protocol and network under which every step of the main job runs, in a second or two."""

from dataclasses import replace

import numpy as np

from paper_repro.profiles import DIGITS, PAPER


def _tiny(network):
    training = {"epochs": 1, "batch_size": 512, "width": 8} if "width" in network.settings else {"epochs": 1}
    return replace(network, settings={**network.settings, **training}, dimensions=dict.fromkeys(network.dimensions, 2))


TINY_PROFILE = replace(
    DIGITS,
    name="tiny",
    title="tiny (scaled down)",
    width=8,
    dimensions=(4, 4, 8, 8),
    epochs=6,
    batch_size=256,
    convnet=_tiny(DIGITS.convnet),
    vit=_tiny(DIGITS.vit),
    mixer=_tiny(DIGITS.mixer),
)
TINY_PROTOCOL = replace(PAPER, n_sweeps=16, n_discard=8, thin=2, entropy_draws=200)

TINY_ROBUSTNESS = replace(
    DIGITS.robustness,
    network={**DIGITS.robustness.network, "width": 8, "epochs": 1, "batch_size": 256},
    # Fewer, and a point would be in the subset of all of them.
    n_trials=30,
    n_bins=3,
    n0=5,
    n=40,
    certified_per_bin=4,
    attacked_per_bin=4,
    budgets={"Linf": (0.0, 0.1, 0.2), "L2": (0.0, 0.5, 1.0)},
    n_memorized=300,
    least_points=4,
    kl_draws=50,
    n_held_out=50,
)
TINY_PROFILE = replace(
    TINY_PROFILE, robustness=TINY_ROBUSTNESS, n_control_seeds=1, untrained={"pixels": 4, "layer3": 8, "layer4": 8}
)


def tiny_network(seed=0):
    from paper_repro.networks import residual_network

    return residual_network((1, 1, 1, 1), width=8, n_classes=10, in_channels=1, seed=seed)


def assert_fitted_as_the_protocol(pipeline, workspace, of, steps, points):
    """That densities of layer3, as fitted and left out, are those of the protocol's mixture of these points."""
    from classfit import DPGaussianMixture
    from paper_repro.inputs import labels_in
    from paper_repro.steps import derived_seed
    from paper_repro.storage import read_arrays

    labels = labels_in(workspace.folder(pipeline.dataset))
    x = read_arrays(workspace.folder(points) / "layer3.npz")["values"]
    names = ("n_sweeps", "n_discard", "thin", "block_size", "n_init_components", "official")
    model = DPGaussianMixture(
        **{name: pipeline.sampler()[name] for name in names},
        random_state=derived_seed(0, "posterior", of, "layer3"),
    ).fit(x, groups=labels)
    found = read_arrays(workspace.folder(steps["leave_one_out_layer3"]) / "densities.npz")
    order = np.argsort(labels, kind="stable")
    np.testing.assert_allclose(found["seen"], model.score_samples(x, groups=labels)[order], rtol=1e-9)
    np.testing.assert_allclose(found["left_out"], model.leave_one_out().log_density[order], rtol=1e-9)


if __name__ == "__main__":
    import sys
    from pathlib import Path

    import torch

    from paper_repro.pipeline import Pipeline
    from paper_repro.steps import Workspace

    torch.set_num_threads(1)  # as in the tests
    pipeline = Pipeline(TINY_PROFILE, TINY_PROTOCOL)
    workspace = Workspace(Path(sys.argv[1]))
    with workspace.lock():
        workspace.run([*(pipeline.figures[name] for name in sys.argv[2:]), pipeline.classes])
