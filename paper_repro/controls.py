"""Controls of figure 1: the same classes under the protocol `paper` with other seeds, dimensions, blocks and priors.

A *cell* is a stage and a number of dimensions. Every seed is fitted twice in every cell: to all points of each class,
and to four fifths of them, drawn anew for each seed, so that the rest are held out. Variants of the sampler and of the
prior are fitted to all points at the last but one stage, where the paper's groups begin. Each fit of all classes is one
file, so that a run that was killed loses only the fit in hand.

A class is *shattered* in a fit if more than half of its points lie in components of fewer points than dimensions, on
average over the kept sweeps: such a component's covariance is mostly the prior's. Otherwise it is *collapsed*.
"""

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from paper_repro.chains import small_share
from paper_repro.computations import estimate_representations, mixture, representations
from paper_repro.inputs import class_names, labels_in
from paper_repro.steps import Step, Work, derived_seed
from paper_repro.storage import read_arrays, write_arrays
from paper_repro.timing import seconds_of

if TYPE_CHECKING:
    from paper_repro.pipeline import Pipeline

__all__ = [
    "EXACT",
    "FITTED_SHARE",
    "PAPER",
    "STATISTICS",
    "VARIANTS",
    "Fit",
    "control_steps",
    "controls",
    "estimate_controls",
    "fit_classes",
    "planned_fits",
]

VARIANT_SEEDS = 1
"""Of each variant: each is compared with the same seed of the paper's."""

FITTED_SHARE = 0.8
PAPER = "as the paper"
VARIANTS: dict[str, dict[str, Any]] = {
    PAPER: {},
    "single points instead of blocks of 4": {"block_size": 1},
    "blocks of 4, corrected to be exact": {"corrected": True},
    "kappa0 = 0.001 instead of 0.01": {"kappa0": 0.001},
    "S0 twice as large": {"S0_scale": 2.0},
}
"""By name; arguments of `DPGaussianMixture` beside those of the protocol. Priors that favour small components more than
the paper's are left out: with kappa0 = 0.1 a hundred classes had not finished after ten minutes of processor."""
EXACT = [name for name, options in VARIANTS.items() if {"block_size", "corrected"} & options.keys()]
"""Variants that sample the same posterior as the paper's protocol is meant to, exactly."""


STATISTICS = (
    "mean_in",
    "std_in",
    "mean_out",
    "mean_left_out",
    "log_joint",
    "n_components",
    "small_share",
)
"""Of a class in a fit; `fit_classes` says what each is."""


class Fit(NamedTuple):
    """One fit of every class."""

    stage: int
    D: int
    seed: int
    """Number of the seed, from 0."""
    share: float
    """Of each class's points that are fitted."""
    variant: str

    @property
    def file(self) -> str:
        number = list(VARIANTS).index(self.variant)
        return f"stage{self.stage}-D{self.D}-seed{self.seed}-{round(100 * self.share)}-variant{number}.npz"


def planned_fits(cells: Sequence[Sequence[int]], n_seeds: int, n_variant_seeds: int) -> list[Fit]:
    """All fits: seeds outermost, so that a run that is stopped has whole seeds.

    Args:
        cells: (stage, D); variants are fitted in the last but one.
        n_seeds, n_variant_seeds: of every cell, and of every variant (at most n_seeds).
    """
    fits = []
    for seed in range(n_seeds):
        fits += [Fit(stage, D, seed, share, PAPER) for stage, D in cells for share in (1.0, FITTED_SHARE)]
        if seed < n_variant_seeds:
            others = [variant for variant in VARIANTS if variant != PAPER]
            fits += [Fit(stage, D, seed, 1.0, variant) for stage, D in cells[-2:-1] for variant in others]
    return fits


def fit_classes(
    x: np.ndarray, labels: np.ndarray, fit: Fit, sampler: Mapping[str, Any], seed: int
) -> dict[str, np.ndarray]:
    """Fit every class and say where its chain ended.

    Args:
        x: [N, D] float32 representations.
        labels: [N] class of each point, 0..G - 1.
        fit: which fit; its stage says only which random numbers are drawn.
        sampler: settings of the protocol, as `computations.mixture` takes them.
        seed: of the run.

    Returns:
        By class [G]: mean_in, std_in (log-density of fitted points, nats), mean_out (of held-out points), mean_left_out
        (of fitted points, each given the others, by `leave_one_out`; both nan where no points are held out), log_joint
        (mean over kept sweeps, nats), n_components (likewise), small_share (share of points in components of fewer than
        D points, likewise).
    """
    # Variants share the random numbers of the fit that they are compared with.
    random_state = derived_seed(seed, "controls", fit.stage, fit.D, fit.seed, fit.share)
    fitted = _fitted(labels, fit.share, random_state)
    model = mixture(sampler, random_state, fit.D, **VARIANTS[fit.variant])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant features were reported with the main fits
        model.fit(x[fitted], groups=labels[fitted])
    density = model.posterior_.log_density(x, groups=labels)
    # The estimate from the points that were fitted, where points that were not can say how good it is.
    left_out = np.full(len(x), np.nan)
    if fit.share < 1:
        left_out[fitted] = model.leave_one_out().log_density
    groups = [labels == g for g in model.groups_]
    trace = model.trace_
    kept = trace.sweep > sampler["n_discard"]
    return {
        "mean_in": np.array([density[own & fitted].mean() for own in groups]),
        "std_in": np.array([density[own & fitted].std() for own in groups]),
        "mean_out": np.array([density[own & ~fitted].mean() if fit.share < 1 else np.nan for own in groups]),
        "mean_left_out": np.array([left_out[own & fitted].mean() for own in groups]),
        "log_joint": trace.log_joint[kept].mean(0),
        "n_components": trace.n_components[kept].mean(0),
        "small_share": small_share(model.posterior_.labels, model.posterior_.group_offsets.tolist(), fit.D),
    }


def _fitted(labels: np.ndarray, share: float, random_state: int) -> np.ndarray:
    """[N] bool: round(share n) of the n points of each class, at random."""
    chosen = np.zeros(len(labels), np.bool_)
    rng = np.random.default_rng(random_state)
    for g in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == g))
        chosen[rows[: round(share * len(rows))]] = True
    return chosen


def controls(work: Work) -> None:
    """All fits, as arrays [F, G] beside the description of each fit [F]."""
    from paper_repro.workers import run_tasks

    settings = work.settings
    fits = planned_fits(settings["cells"], settings["n_seeds"], settings["n_variant_seeds"])
    folder = _fits(work)
    folder.mkdir(exist_ok=True)
    run_tasks(
        partial(_run, dict(work.inputs), dict(settings), folder),
        fits,
        lambda fit: (folder / fit.file).exists(),
        description="fits with other seeds, dimensions, blocks and priors",
        console=work.console,
    )
    found = [read_arrays(folder / fit.file) for fit in fits]
    described = {name: np.array([getattr(fit, name) for fit in fits]) for name in Fit._fields}
    statistics = {name: np.stack([f[name] for f in found]) for name in STATISTICS}
    write_arrays(work.folder / "fits.npz", described | statistics)


def _fits(work: Work) -> Path:
    return work.folder / "checkpoint-fits"


def _run(inputs: Mapping[str, Path], settings: Mapping[str, Any], folder: Path, fit: Fit) -> None:
    write_arrays(folder / fit.file, fit_classes(*_points(inputs, fit), fit, settings, settings["seed"]))


def _points(inputs: Mapping[str, Path], fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Representations of that stage in that many dimensions, the leading singular vectors, and labels."""
    representations = inputs["wide_representations"] / f"layer{fit.stage}.npz"
    return np.ascontiguousarray(read_arrays(representations)["values"][:, : fit.D]), labels_in(inputs["dataset"])


def estimate_controls(work: Work) -> float:
    """From a few sweeps in each cell, of the first classes; chains slow down as components appear."""
    from paper_repro.workers import n_workers, one_thread

    settings, few = work.settings, 12
    planned = planned_fits(settings["cells"], settings["n_seeds"], settings["n_variant_seeds"])
    fits = [fit for fit in planned if not (_fits(work) / fit.file).exists()]
    G = len(class_names(work))
    n_timed = min(G, 4)
    short = {**settings, "n_sweeps": few, "n_discard": 0}
    seconds: dict[tuple[int, int], float] = {}
    with one_thread():
        for fit in fits:
            if (fit.stage, fit.D) in seconds:
                continue
            x, labels = _points(work.inputs, fit)
            some = labels < n_timed
            for _ in range(2):  # the first also compiles
                took = seconds_of(partial(fit_classes, x[some], labels[some], fit, short, settings["seed"]))
            seconds[fit.stage, fit.D] = took * G / n_timed * settings["n_sweeps"] / few
    return sum(seconds[fit.stage, fit.D] * fit.share for fit in fits) / n_workers()


def control_steps(pipeline: "Pipeline") -> dict[str, Step]:
    """Representations in as many dimensions as the last stage at every stage that is wide enough, and the fits.

    Empty if the profile has no controls, and under other protocols than `paper`, which they are controls of.
    """
    profile = pipeline.profile
    if not profile.n_control_seeds or pipeline.protocol.density != "chain" or pipeline.official:
        return {}
    few, many = profile.dimensions[0], profile.dimensions[-1]
    channels = dict(zip(pipeline.posteriors, profile.channels, strict=True))
    dimensions = {f"layer{stage}": many if width >= many else few for stage, width in channels.items()}
    wide = Step(
        "wide_representations",
        {"dimensions": dimensions},
        representations,
        (pipeline.dataset, pipeline.network),
        estimate_representations,
    )
    cells = [[stage, few] for stage in channels] + [[stage, many] for stage, width in channels.items() if width >= many]
    n_seeds = {"n_seeds": profile.n_control_seeds, "n_variant_seeds": min(VARIANT_SEEDS, profile.n_control_seeds)}
    settings = {"cells": cells, **n_seeds, "variants": list(VARIANTS), "statistics": list(STATISTICS)}
    fits = Step("controls", settings | pipeline.sampler(), controls, (pipeline.dataset, wide), estimate_controls)
    return {"wide_representations": wide, "controls": fits}
