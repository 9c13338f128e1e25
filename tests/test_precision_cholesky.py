"""Inverse Cholesky factors: the reference against numpy, the engines against the reference."""

import importlib.util

import numpy as np
import pytest
import torch
from cases import covariances
from tolerances import UNIT_ROUNDOFF, assert_within, inverse_factor

from kernels import precision_cholesky

DTYPES = [torch.float32, torch.float64]
DIMENSIONS = [1, 2, 3, 4, 5, 8, 16, 31, 32, 33, 64, 65, 100]
ENGINES = ["cpu", "triton"] if importlib.util.find_spec("triton") else ["cpu"]
CONDITION = 1e3


def matrices(M: int, D: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(covariances(np.random.default_rng(seed), M, D, CONDITION))


@pytest.mark.parametrize("D", DIMENSIONS)
def test_the_reference_equals_numpy(D):
    covariance = matrices(3, D)
    actual = precision_cholesky(covariance, engine="reference")
    sign, log_det = np.linalg.slogdet(covariance.numpy())
    assert (sign == 1).all()
    tolerance = inverse_factor(torch.float64, D, CONDITION)
    np.testing.assert_allclose(actual.log_det, log_det, rtol=0, atol=tolerance)
    white = actual.precision_chol @ covariance @ actual.precision_chol.mT
    assert_within(white, torch.eye(D).expand(3, D, D), tolerance)
    assert not actual.precision_chol.triu(1).any()
    assert (actual.precision_chol.diagonal(dim1=-2, dim2=-1) > 0).all()


@pytest.mark.parametrize("D", DIMENSIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("engine", ENGINES)
def test_equal_the_reference(engine, dtype, D):
    covariance = matrices(5, D).to(dtype)
    garbage = covariance + torch.full((D, D), 1e3, dtype=dtype).triu(1)
    actual, expected = precision_cholesky(garbage, engine=engine), precision_cholesky(covariance, engine="reference")
    assert actual.precision_chol.dtype == dtype
    assert actual.log_det.dtype == torch.float64
    assert_within(actual.log_det, expected.log_det, inverse_factor(torch.float64, D, CONDITION))
    largest = float(expected.precision_chol.abs().max())
    # Computed in float64, then rounded to the dtype of the covariance.
    rounding = UNIT_ROUNDOFF[dtype] + inverse_factor(torch.float64, D, CONDITION)
    assert_within(actual.precision_chol, expected.precision_chol, rounding * largest)
    assert not actual.precision_chol.triu(1).any()


@pytest.mark.parametrize("engine", [*ENGINES, "reference"])
def test_a_matrix_without_a_factor_harms_no_other(engine):
    covariance = matrices(4, 6)
    expected = precision_cholesky(covariance, engine=engine)
    covariance[1, 3, 3] = -1.0
    covariance[2] = 0.0
    actual = precision_cholesky(covariance, engine=engine)
    assert actual.log_det.isnan().tolist() == [False, True, True, False]
    assert actual.precision_chol[1:3].isnan().all()
    for field, value in zip(actual, expected, strict=True):
        assert torch.equal(field[[0, 3]], value[[0, 3]])


@pytest.mark.parametrize("engine", [*ENGINES, "reference"])
@pytest.mark.parametrize("scale", [1e-16, 1e16])
def test_scales(engine, scale):
    covariance = matrices(2, 7)
    actual = precision_cholesky(covariance * scale, engine=engine)
    expected = precision_cholesky(covariance, engine="reference")
    tolerance = inverse_factor(torch.float64, 7, CONDITION)
    assert_within(actual.log_det, expected.log_det + 7 * np.log(scale), tolerance)
    largest = float(expected.precision_chol.abs().max())
    assert_within(actual.precision_chol * scale**0.5, expected.precision_chol, tolerance * largest)


def test_nothing_in_nothing_out():
    for engine in (*ENGINES, "reference"):
        actual = precision_cholesky(torch.empty(0, 3, 3), engine=engine)
        assert (list(actual.precision_chol.shape), list(actual.log_det.shape)) == ([0, 3, 3], [0])


def test_threads_do_not_matter(two_threads):
    covariance = matrices(9, 20)
    two = precision_cholesky(covariance)
    torch.set_num_threads(1)
    for field, value in zip(two, precision_cholesky(covariance), strict=True):
        assert torch.equal(field, value)


@pytest.mark.parametrize(
    ("covariance", "words"),
    [
        ([[1.0]], "covariance must be a torch.Tensor, got list"),
        (torch.eye(2), r"covariance must have shape \[M, D, D\] with D >= 1, got \[2, 2\]"),
        (torch.ones(1, 2, 3), r"covariance must have shape \[M, D, D\] with D >= 1, got \[1, 2, 3\]"),
        (torch.ones(1, 2, 2).long(), "covariance must be float32 or float64, got torch.int64"),
        (
            torch.tensor([[[1.0, 0], [torch.nan, 1]]]),
            r"covariance must be finite, got 1 non-finite values, the first at \(0, 1, 0\)",
        ),
    ],
)
def test_bad_input(covariance, words):
    with pytest.raises(ValueError, match=words):
        precision_cholesky(covariance)
