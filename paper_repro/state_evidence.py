"""The evidence of the two states of each class at a stage: what figure B.10 is drawn from."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paper_repro.inputs import load_posterior, posterior_in
from paper_repro.robustness import checkpoint_of, gathered
from paper_repro.steps import Step, Work, derived_seed
from paper_repro.storage import write_arrays
from paper_repro.timing import over_classes, seconds_of

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
    """Some classes at a time, each time with a file, so that a run that is stopped loses little."""
    from paper_repro.workers import run_tasks

    source = work.input(f"posterior_stage_{work.settings['stage']}")
    parts = _parts(posterior_in(source))
    run_tasks(
        partial(_bounds_of_part, work.folder, dict(work.settings), source),
        parts,
        lambda part: checkpoint_of(work.folder, part).exists(),
        description="evidence of states",
        console=work.console,
    )
    write_arrays(work.folder / "evidence.npz", gathered(work.folder, parts))


def _bounds_of_part(folder: Path, settings: Any, source: Path, part: tuple[int, int]) -> None:
    from classfit import state_evidence

    seed = derived_seed(settings["seed"], "state evidence", settings["stage"])
    found = state_evidence(posterior_in(source).of_groups(slice(*part)), random_state=seed)
    write_arrays(checkpoint_of(folder, part), found._asdict())


def _parts(posterior: Any) -> list[tuple[int, int]]:
    """The first class of each and that after its last; on a GPU all go at once."""
    from classfit.states import GROUPS_AT_ONCE

    G = len(posterior.groups)
    at_once = GROUPS_AT_ONCE if posterior.device.type == "cpu" else G
    return [(a, min(a + at_once, G)) for a in range(0, G, at_once)]


def _estimate(work: Work) -> float:
    """From some of the classes, annealed as fast as can be; the very first pays for what is compiled, or loaded."""
    from classfit import state_evidence
    from classfit.states import SLOWNESS
    from paper_repro.workers import n_workers, one_thread

    posterior = load_posterior(work, work.settings["stage"])
    left = [part for part in _parts(posterior) if not checkpoint_of(work.folder, part).exists()]
    if not left:
        return 0.0

    def seconds(n: int) -> float:
        return seconds_of(lambda: state_evidence(posterior.of_groups(slice(0, n)), slowness=1))

    with one_thread():
        seconds(1)
        all_classes = over_classes(seconds, sum(b - a for a, b in left), posterior.device.type)
    return SLOWNESS * all_classes / min(n_workers(), len(left))
