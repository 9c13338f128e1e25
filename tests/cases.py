"""Made inputs: one readable list of sizes, and mixtures of stated condition number, dtype and shift, with what each
operation makes of them."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import kernels
from tests.tolerances import log_densities

# (points, components, features): ones, odd sizes, sizes around a tile of 32 or 64 points and a block of 4 features.
SIZES = [(1, 1, 1), (2, 3, 1), (15, 2, 3), (31, 1, 4), (33, 5, 5), (63, 4, 16), (65, 3, 17), (257, 7, 33), (300, 3, 64)]


class MixtureCase(NamedTuple):
    x: Tensor
    log_weight: Tensor
    location: Tensor
    precision_chol: Tensor
    df: Tensor
    covariance: Tensor
    """[M, D, D] float64: that precision_chol is the inverse Cholesky factor of."""


def covariances(rng: np.random.Generator, M: int, D: int, condition: float) -> np.ndarray:
    """[M, D, D] full covariance matrices of that condition number, in random directions."""
    basis = np.linalg.qr(rng.normal(size=(M, D, D)))[0]
    spectrum = np.geomspace(1, 1 / condition, D) if D > 1 else np.ones(1)
    return (basis * spectrum) @ basis.transpose(0, 2, 1)


def mixture_case(
    N: int,
    M: int,
    D: int,
    dtype: torch.dtype = torch.float64,
    condition: float = 10.0,
    shift: float = 0.0,
    seed: int = 0,
    spread: float = 1.0,
) -> MixtureCase:
    """Points from a mixture of M components a few standard deviations apart (times `spread`), all moved by `shift`."""
    rng = np.random.default_rng([seed, N, M, D])
    covariance = covariances(rng, M, D, condition)
    chol = np.linalg.cholesky(covariance)
    location = spread * rng.normal(size=(M, D)) + shift
    component = rng.integers(M, size=N)
    x = location[component] + np.einsum("nij,nj->ni", chol[component], rng.normal(size=(N, D)))
    log_weight = np.log(rng.dirichlet(np.ones(M)))
    precision_chol = np.tril(np.linalg.inv(chol))
    df = rng.uniform(1, 20, size=M)
    tensors = [torch.from_numpy(a) for a in (x, log_weight, location, precision_chol, df)]
    return MixtureCase(*(t.to(dtype) for t in tensors), covariance=torch.from_numpy(covariance))


def overflowing_case():
    """Points and components whose whitening overflows float32: in x - location, in y = W (x - location), in |y|^2."""
    return MixtureCase(
        x=torch.tensor([[0.5, -0.5], [1e20, 1e20], [3e38, 0.0]]),
        log_weight=torch.zeros(3),
        location=torch.tensor([[0.0, 0.0], [0.0, 0.0], [-3e38, 0.0]]),
        precision_chol=torch.tensor(
            [[[1.0, 0.0], [0.0, 1.0]], [[1e-25, 0.0], [-1e25, 1e25]], [[1.0, 0.0], [0.0, 1.0]]]
        ),
        df=torch.full((3,), 3.0),
        covariance=torch.empty(0),
    )


def ragged(total: int, n_groups: int, seed: int = 0, empty: bool = False) -> Tensor:
    """Offsets of groups of random sizes that add up to total; one of size 1 where possible, one empty if asked for."""
    rng = np.random.default_rng([seed, total, n_groups])
    cuts = (
        np.sort(rng.choice(np.arange(1, total), size=n_groups - 1, replace=False))
        if n_groups > 1
        else np.array([], int)
    )
    edges = np.concatenate([[0], cuts, [total]])
    if n_groups > 1 and total > 2:
        edges[1] = 1
    if empty and n_groups > 2:
        edges[2] = edges[1]
    return torch.from_numpy(np.sort(edges).astype(np.int64))


def arguments(case: MixtureCase, family: str) -> dict[str, Tensor]:
    """Of the component densities of that family, "gaussian" or "student_t", by name."""
    if family == "gaussian":
        return {"x": case.x, "mean": case.location, "precision_chol": case.precision_chol}
    return {"x": case.x, "location": case.location, "precision_chol": case.precision_chol, "df": case.df}


def mixture_arguments(case: MixtureCase, family: str) -> dict[str, Tensor | None]:
    """Of `mixture_log_density`, by name."""
    return {
        "x": case.x,
        "log_weight": case.log_weight,
        "location": case.location,
        "precision_chol": case.precision_chol,
        "df": case.df if family == "student_t" else None,
    }


def squared_distance(case: MixtureCase) -> Tensor:
    """[N, M] float64: squared distance of each point to each component in units of its covariance."""
    difference = case.x.double()[:, None] - case.location.double()
    return torch.einsum("mij,nmj->nmi", case.precision_chol.double().tril(), difference).square().sum(-1)


def component_densities(case: MixtureCase, family: str, engine: str) -> Tensor:
    return getattr(kernels, f"{family}_log_density")(**arguments(case, family), engine=engine)


def mixture_densities(case: MixtureCase, family: str, engine: str, **offsets: Tensor) -> Tensor:
    return kernels.mixture_log_density(**mixture_arguments(case, family), **offsets, engine=engine)


def statistics(case: MixtureCase, engine: str = "cpu", **offsets: Tensor) -> kernels.EMStatistics:
    return kernels.em_statistics(case.x, case.log_weight, case.location, case.precision_chol, **offsets, engine=engine)


def component_tolerance(case: MixtureCase, expected: Tensor, condition: float) -> Tensor:
    """Of every component density [N, M]."""
    return log_densities(case.x.dtype, case.x.shape[1], condition, squared_distance(case), expected)


def mixture_tolerance(case: MixtureCase, family: str, condition: float, components: slice = slice(None)) -> Tensor:
    """Of each point: the mean of its components' tolerances, weighted by what they add to the density."""
    expected = component_densities(case, family, "reference")
    tolerance = component_tolerance(case, expected, condition)
    share = (case.log_weight.double() + expected)[:, components].softmax(1)
    return (share * tolerance[:, components]).sum(1)


def every_other(t: Tensor) -> Tensor:
    """The same values, with others between them in memory."""
    return torch.stack([t, torch.full_like(t, 7)], dim=-1).flatten(-2)[..., ::2]


def three_groups(D: int = 3, dtype: type = np.float64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points of three groups in random order: names, and 60 + 25 + 1 points."""
    rng = np.random.default_rng(seed)
    names = np.array(["fox"] * 60 + ["ant"] * 25 + ["elk"])
    X = rng.normal(size=(len(names), D)) + 4 * rng.integers(0, 2, size=(len(names), 1))
    order = rng.permutation(len(names))
    return X[order].astype(dtype), names[order]
