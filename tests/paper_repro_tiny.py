"""The smallest profile, protocol and network under which every step of the main job runs, in a second or two."""

from dataclasses import replace

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
