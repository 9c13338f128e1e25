"""The steps behind figures 3, 4, A.11, B.6 and B.7, as a part of the pipeline.

dataset -> memorization                                     networks on random subsets, or scores from a file
dataset, posterior of stage 4 -> density bins               networks without each bin
        density bins -> certification, attacks              -> figure 3
                     -> control of certification, where densities are not the paper's
memorization, representations -> KL by stage                -> figure 4
                              -> generative classification  -> figure A.11
memorization, wide representations -> KL at other dimensions -> figure B.6, with those by stage
memorization, posteriors, points left out             -> figure B.7
"""

from typing import TYPE_CHECKING, Any

from paper_repro import memorized_densities, robustness
from paper_repro.given_scores import scores_step
from paper_repro.robustness_scale import RobustnessScale
from paper_repro.steps import Step

if TYPE_CHECKING:
    from paper_repro.pipeline import Pipeline

__all__ = ["OF_CONVERGED", "ROBUSTNESS_FIGURES", "origin_of_scores", "robustness_figure", "robustness_steps"]

ROBUSTNESS_FIGURES = ("figure_3", "figure_4", "figure_a11", "figure_b6", "figure_b7")
PAPER_BINS = 50
"""Of figure 3 in the paper; figure B.7 needs no network for each, and has as many under every profile."""
OF_CONVERGED = ("figure_4", "figure_a11")
"""Figures that are the same under the protocol heldout."""
SAME = "The densities, and so the whole figure, are those of the protocol converged."
"""What they say there."""


def robustness_steps(pipeline: "Pipeline") -> dict[str, Step]:
    """By name; without controls there is none at other dimensions."""
    scale, seed, folder = _scale(pipeline), pipeline.seed, pipeline.folder
    subset_networks = {"network": {**pipeline.network.settings, **scale.network}, "seed": seed}
    # Figure 4 draws its points from the densities, and those of A.11 are left out of every fit: nothing to hold out.
    whole = pipeline.folder_of_whole
    stages = {"stages": sorted(pipeline.posteriors), **pipeline.sampler(pipeline.protocol_of_whole)}
    if pipeline.scores:
        memorization = scores_step(pipeline.scores, pipeline.dataset)
    else:
        memorization = Step(
            "memorization",
            {**subset_networks, "n_trials": scale.n_trials},
            robustness.memorization,
            (pipeline.dataset,),
            robustness.estimate_memorization,
        )
    bins = Step(
        f"{folder}/density_bins",
        {**subset_networks, "n_bins": scale.n_bins, "sigma": scale.sigma},
        robustness.density_bins,
        (pipeline.dataset, pipeline.posteriors[4]),
        robustness.estimate_density_bins,
    )
    certified = {
        **subset_networks,
        "sigma": scale.sigma,
        "n0": scale.n0,
        "n": scale.n,
        "alpha": scale.alpha,
        "n_per_bin": scale.certified_per_bin,
        "points_a_task": 10,
    }
    certification = Step(
        f"{folder}/certification",
        certified,
        robustness.certification,
        (pipeline.dataset, bins),
        robustness.estimate_certification,
    )
    budgets = {norm: list(values) for norm, values in scale.budgets.items()}
    attacks = Step(
        f"{folder}/attacks",
        {**subset_networks, "n_per_bin": scale.attacked_per_bin, "points_a_task": 100, "budgets": budgets},
        robustness.attacks,
        (pipeline.dataset, bins),
        robustness.estimate_attacks,
    )
    pairs = {
        "threshold": scale.threshold,
        "n_points": scale.n_memorized,
        "least_points": scale.least_points,
        "n_draws": scale.kl_draws,
    }
    kl = Step(
        f"{whole}/kl_by_stage",
        stages | pairs,
        memorized_densities.kl_by_stage,
        (pipeline.dataset, pipeline.representations, memorization),
        memorized_densities.estimate_kl_by_stage,
    )
    generative = Step(
        f"{whole}/generative",
        {**stages, "n_points": scale.n_held_out},
        memorized_densities.generative,
        (pipeline.dataset, pipeline.representations, memorization),
        memorized_densities.estimate_generative,
    )
    steps = [memorization, bins, certification, attacks, kl, generative]
    if pipeline.protocol.density != "chain":  # as published there is none
        control = Step(
            f"{folder}/certification_control",
            certified,
            robustness.certification_control,
            (pipeline.dataset, bins),
            robustness.estimate_certification_control,
        )
        steps.append(control)
    if pipeline.controls:
        others = [cell for cell in _cells(pipeline) if cell not in _cells_of_figure_4(pipeline)]
        other = Step(
            f"{folder}/kl_at_other_dimensions",
            {"cells": others, **pipeline.sampler(), **pairs},
            memorized_densities.kl_by_stage,
            (pipeline.dataset, pipeline.controls["wide_representations"], memorization),
            memorized_densities.estimate_kl_by_stage,
        )
        steps.append(other)
    return {step.kind: step for step in steps}


def robustness_figure(pipeline: "Pipeline", name: str) -> tuple[dict[str, Any], tuple[Step, ...]]:
    """Settings and inputs of a figure."""
    scale, steps, words = _scale(pipeline), pipeline.robustness, origin_of_scores(pipeline, name)
    stages = {"stages": sorted(pipeline.posteriors)}
    scores = (pipeline.dataset, steps["memorization"])
    if name == "figure_3":
        noise = {"sigma": scale.sigma, "n0": scale.n0, "n": scale.n, "alpha": scale.alpha}
        kinds = ("density_bins", "certification", "certification_control", "attacks")
        made = [steps[kind] for kind in kinds if kind in steps]
        return words | noise, (*scores, pipeline.posteriors[4], *made)
    chosen: dict[str, Any] = {"threshold": scale.threshold, "least_points": scale.least_points}
    chosen["dimensions"] = list(pipeline.profile.dimensions)
    if pipeline.protocol.density == "heldout" and name in OF_CONVERGED:
        words["note"] = " ".join(filter(None, (SAME, pipeline.profile.note)))
    if name == "figure_4":
        return words | stages | chosen, (*scores, steps["kl_by_stage"])
    if name == "figure_b6":
        needed = (*scores, steps["kl_by_stage"], steps["kl_at_other_dimensions"])
        return words | {"cells": _cells(pipeline)} | chosen, needed
    if name == "figure_b7":
        kept = list(pipeline.left_out)
        dimensions = {"dimensions": [pipeline.profile.dimensions[stage - 1] for stage in kept]}
        posteriors = [pipeline.posteriors[stage] for stage in kept]
        bins = {"stages": kept, "n_bins": PAPER_BINS, "remark": pipeline.of_all_points}
        return words | bins | dimensions, (*scores, *posteriors, *pipeline.left_out.values())
    return words | stages, (*scores, steps["generative"])


def origin_of_scores(pipeline: "Pipeline", name: str) -> dict[str, Any]:
    """What the caption of a figure says: of how many networks the scores are (0: they were given), and a sentence."""
    scale = _scale(pipeline)
    if pipeline.scores:
        others = f"; robustness is of {scale.networks}" if name == "figure_3" else ""
        return {"networks": f"Scores are those given in {pipeline.scores.file}{others}.", "n_trials": 0}
    return {"networks": f"Scores and robustness are of {scale.networks}.", "n_trials": scale.n_trials}


def _cells(pipeline: "Pipeline") -> list[list[int]]:
    """Stages and numbers of dimensions of figure B.6."""
    return list(pipeline.controls["controls"].settings["cells"])


def _cells_of_figure_4(pipeline: "Pipeline") -> list[list[int]]:
    return [[stage, D] for stage, D in zip(pipeline.posteriors, pipeline.profile.dimensions, strict=True)]


def _scale(pipeline: "Pipeline") -> RobustnessScale:
    if pipeline.profile.robustness is None:
        raise ValueError(
            f"profile must have a scale for figures 3, 4, A.11, B.6 and B.7, {pipeline.profile.name} has none"
        )
    return pipeline.profile.robustness
