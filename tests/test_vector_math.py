"""exp and log1p of the CPU engine against numpy's in extended precision."""

import numpy as np
import pytest
from tolerances import VECTOR_MATH

from kernels.cpu import vector_math


def apply(function, x):
    power, out = np.full_like(x, np.nan), np.full_like(x, np.nan)
    function(x, power, out)
    return out


def assert_relative(actual, expected):
    assert np.isfinite(actual).all()
    error = np.abs(actual.astype(np.longdouble) - expected)
    assert (error <= VECTOR_MATH * np.abs(expected)).all(), f"{float((error / np.abs(expected)).max()):.2g}"


@pytest.mark.parametrize("n", [1, 7, 64, 100_003])
def test_exp(n):
    x = np.random.default_rng(n).uniform(-708, 708, n)
    x[0] = 0.0
    assert_relative(apply(vector_math.exp, x), np.exp(x.astype(np.longdouble)))


def test_exp_of_small_numbers_in_place():
    x = np.concatenate([np.linspace(-1, 1, 10_001), np.geomspace(1e-300, 1, 301), -np.geomspace(1e-300, 1, 301)])
    expected, power = np.exp(x.astype(np.longdouble)), np.empty_like(x)
    vector_math.exp(x, power, x)
    assert_relative(x, expected)


@pytest.mark.parametrize("n", [1, 7, 64, 100_003])
def test_log1p(n):
    x = 10.0 ** np.random.default_rng(n).uniform(-300, 300, n)
    assert_relative(apply(vector_math.log1p, x), np.log1p(x.astype(np.longdouble)))


def test_log1p_around_one_and_around_powers_of_two():
    x = np.concatenate([np.linspace(0.001, 5, 100_001), np.geomspace(1e-18, 1e-2, 10_001)])
    powers = 2.0 ** np.arange(1, 60)
    x = np.concatenate([x, powers - 1, powers - 1 - 2.0**-30, powers - 1 + 2.0**-30, np.sqrt(2) * powers - 1])
    assert_relative(apply(vector_math.log1p, x), np.log1p(x.astype(np.longdouble)))
    assert apply(vector_math.log1p, np.zeros(3)).tolist() == [0.0, 0.0, 0.0]
