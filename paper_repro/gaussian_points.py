"""A control of the classes' structure: the same fits to points of one Gaussian a class.

representations -> points of a Gaussian with the mean and covariance of each class -> posterior of stages 3 and 4
                -> densities of points left out -> figure B.11

A Gaussian has no clusters, so what its points show as well is of the second moments of a class, of the prior and of the
numbers of points and dimensions. Under the protocols `paper` and `converged`.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from paper_repro.inputs import representation_of, train_labels
from paper_repro.steps import Step, Work, derived_seed
from paper_repro.storage import write_arrays

if TYPE_CHECKING:
    from paper_repro.pipeline import Pipeline

__all__ = ["figure_b11", "gaussian_points", "gaussian_steps", "points"]


def gaussian_points(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[n, D] float64: as many points as in x [n, D], of the Gaussian with its mean and covariance (divisor n).

    The covariance may be singular: points then lie in the space that x spans.
    """
    variance, directions = np.linalg.eigh(np.atleast_2d(np.cov(x.T, bias=True)))
    scale = np.sqrt(np.clip(variance, 0, None))
    return x.mean(0) + (rng.standard_normal(x.shape) * scale) @ directions.T


def points(work: Work) -> None:
    """In place of representations: of each stage the points, in the order of the images."""
    labels = train_labels(work)
    for layer in work.settings["dimensions"]:
        x = representation_of(work, layer)["values"]
        made = np.empty_like(x)
        for g in range(labels.max() + 1):
            rng = np.random.default_rng(derived_seed(work.settings["seed"], "gaussian points", layer, g))
            made[labels == g] = gaussian_points(x[labels == g].astype(np.float64), rng)
        write_arrays(work.folder / f"{layer}.npz", {"values": made})


def gaussian_steps(pipeline: "Pipeline") -> dict[str, Step]:
    """By what they make: the points, and of each stage a posterior and densities of points left out.

    Empty where the densities of the protocol are not those of whole fits that points can be left out of.
    """
    if not pipeline.leaves_out:
        return {}
    dimensions = {f"layer{stage}": pipeline.profile.dimensions[stage - 1] for stage in pipeline.left_out}
    made = Step(
        "gaussian/representations",
        {"dimensions": dimensions, "seed": pipeline.seed},
        points,
        (pipeline.dataset, pipeline.representations),
    )
    return {"points": made} | pipeline.fits_beside("gaussian", made)


def figure_b11(pipeline: "Pipeline") -> tuple[dict[str, Any], tuple[Step, ...]]:
    """Settings and inputs: the fits to these points, and those to the classes' own."""
    stages = list(pipeline.left_out)
    dimensions = [pipeline.profile.dimensions[stage - 1] for stage in stages]
    own = [step for stage in stages for step in (pipeline.posteriors[stage], pipeline.left_out[stage])]
    return {"stages": stages, "dimensions": dimensions}, (pipeline.dataset, *pipeline.gaussian.values(), *own)
