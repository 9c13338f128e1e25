"""Figures B.1 and B.2 as a part of the pipeline: our classes against published memorization scores.

dataset, posteriors of stages 3 and 4, published scores -> figure B.1
dataset, memorization, published scores                 -> figure B.2
"""

from typing import TYPE_CHECKING, Any

from paper_repro.published import content_hash
from paper_repro.robustness_pipeline import origin_of_scores
from paper_repro.steps import Step

if TYPE_CHECKING:
    from paper_repro.pipeline import Pipeline
    from paper_repro.profiles import Profile

__all__ = ["PUBLISHED_FIGURES", "absent", "published_figure", "scores_of"]

PUBLISHED_FIGURES = ("figure_b1", "figure_b2")


def absent(pipeline: "Pipeline") -> set[str]:
    """Of these figures, those that need what is not there: published scores, or scores that were estimated here."""
    if not pipeline.profile.published:
        return set(PUBLISHED_FIGURES)
    return set() if pipeline.profile.robustness and not pipeline.scores else {"figure_b2"}


def scores_of(profile: "Profile") -> dict[str, Any]:
    """Which published scores the profile has, for the settings of a figure; a changed file makes it stale."""
    return {"published": profile.published} | (
        {"published_sha256": content_hash(profile.published)} if profile.published else {}
    )


def published_figure(pipeline: "Pipeline", name: str) -> tuple[dict[str, Any], tuple[Step, ...]]:
    """Settings and inputs of a figure."""
    profile = pipeline.profile
    scores = scores_of(profile)
    if name == "figure_b1":
        stages = [3, 4]
        settings = scores | {"stages": stages, "dimensions": [profile.dimensions[stage - 1] for stage in stages]}
        return settings, (pipeline.dataset, *(pipeline.posteriors[stage] for stage in stages))
    return scores | origin_of_scores(pipeline, name), (pipeline.dataset, pipeline.robustness["memorization"])
