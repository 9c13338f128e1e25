"""The evidence of the two states of each class at a stage: what figure B.10 is drawn from."""

import time
from typing import TYPE_CHECKING, Any

from paper_repro.inputs import load_posterior
from paper_repro.steps import Step, Work, derived_seed
from paper_repro.storage import write_arrays

if TYPE_CHECKING:
    from paper_repro.pipeline import Pipeline

__all__ = ["evidence_steps", "figure_b10"]

STAGES = (3, 4)


def evidence_steps(pipeline: "Pipeline") -> dict[int, Step]:
    """By stage; of the protocol that looks for the better state alone."""
    if pipeline.protocol.density != "converged" or pipeline.official:
        return {}
    return {
        stage: Step(
            f"{pipeline.folder}/state_evidence_stage_{stage}",
            {"stage": stage, "seed": pipeline.seed},
            _bounds,
            (pipeline.posteriors[stage],),
            _estimate,
        )
        for stage in STAGES
    }


def figure_b10(pipeline: "Pipeline") -> tuple[dict[str, Any], tuple[Step, ...]]:
    """Settings of the figure beside those of all, and its inputs."""
    dimensions = [pipeline.profile.dimensions[stage - 1] for stage in STAGES]
    posteriors = [pipeline.posteriors[stage] for stage in STAGES]
    more = {"stages": list(STAGES), "dimensions": dimensions}
    return more, (pipeline.dataset, *posteriors, *pipeline.evidence.values())


def _bounds(work: Work) -> None:
    from classfit import state_evidence

    stage = work.settings["stage"]
    found = state_evidence(
        load_posterior(work, stage),
        random_state=derived_seed(work.settings["seed"], "state evidence", stage),
        verbose=int(work.console.is_terminal),
    )
    write_arrays(work.folder / "evidence.npz", found._asdict())


def _estimate(work: Work) -> float:
    """From the first classes, annealed as fast as can be; the very first pays for what is compiled, or loaded."""
    from classfit import state_evidence
    from classfit.states import GROUPS_AT_ONCE, SLOWNESS

    posterior = load_posterior(work, work.settings["stage"])
    G = len(posterior.groups)
    part = posterior.of_groups(slice(0, min(GROUPS_AT_ONCE, G)))
    state_evidence(posterior.of_groups(slice(0, 1)), slowness=1)
    start = time.perf_counter()
    state_evidence(part, slowness=1)
    return (time.perf_counter() - start) * SLOWNESS * G / len(part.groups)
