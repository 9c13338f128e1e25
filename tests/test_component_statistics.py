"""Moments of hard assignments: the CPU engine against the reference."""

import pytest
import torch
from cases import SIZES, mixture_case, ragged
from tolerances import UNIT_ROUNDOFF, assert_within, moments

import kernels
from kernels import component_statistics

DTYPES = [torch.float32, torch.float64]


def assignment(N, M, seed=0):
    """Labels in 0..M - 1."""
    return torch.randint(M, (N,), generator=torch.Generator().manual_seed(seed))


def assert_equal_the_reference(x, labels, K, **offsets):
    actual = component_statistics(x, labels, K, **offsets, engine="cpu")
    expected = component_statistics(x, labels, K, **offsets, engine="reference")
    N, magnitude = len(x), float(x.abs().max())
    spread = float((x.double() - x.double().mean(0)).abs().max())
    assert actual.counts.dtype == torch.int64
    assert actual.means.dtype == actual.scatters.dtype == torch.float64
    assert torch.equal(actual.counts, expected.counts)
    # Float64 throughout, whatever the dtype of the points.
    assert_within(actual.means, expected.means, moments(torch.float64, 1, magnitude))
    assert_within(actual.scatters, expected.scatters, moments(torch.float64, N, max(spread, 1e-6 * magnitude) ** 2))
    assert torch.equal(actual.scatters, actual.scatters.mT), "scatters are exactly symmetric"
    return actual


@pytest.mark.parametrize("shift", [0.0, 1e3])
@pytest.mark.parametrize(("N", "M", "D"), [*SIZES, (130, 2, 100)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_the_reference(dtype, N, M, D, shift):
    case = mixture_case(N, M, D, dtype, shift=shift)
    assert_equal_the_reference(case.x, assignment(N, M), M)


@pytest.mark.parametrize("scale", [1e-8, 1e8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_scales(dtype, scale):
    case = mixture_case(65, 3, 17, dtype)
    assert_equal_the_reference(case.x * scale, assignment(65, 3), 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ragged_groups(dtype):
    N, K = 200, 6
    case = mixture_case(N, 1, 5, dtype)
    labels = assignment(N, K - 2)
    offsets = ragged(N, 7, empty=True)
    assert offsets.diff()[:2].tolist() == [1, 0]
    together = assert_equal_the_reference(case.x, labels, K, group_offsets=offsets)
    assert torch.equal(together.counts.sum(1), offsets.diff())
    for field in together:
        assert not field[1].any(), "a group without points"
        assert not field[:, K - 2 :].any(), "labels without points"
    for g in (0, 3):
        a, b = offsets[g : g + 2].tolist()
        alone = component_statistics(case.x[a:b], labels[a:b], K, engine="cpu")
        for field, value in zip(together, alone, strict=True):
            assert torch.equal(field[g], value[0])


def test_duplicated_points_have_no_scatter():
    x = torch.full((50, 3), 0.1)
    actual = component_statistics(x, torch.zeros(50, dtype=torch.int64), 1, engine="cpu")
    assert_within(actual.means[0, 0], x[0], moments(torch.float64, 1, 0.1))
    assert_within(
        actual.scatters[0, 0], torch.zeros(3, 3), moments(torch.float64, 50, 0.1 * UNIT_ROUNDOFF[torch.float64])
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_output_is_written(request, dtype):
    cases = [(mixture_case(N, M, D, dtype).x, assignment(N, M), M + 1) for N, M, D in SIZES]
    # The first calls compile, which must not see the poison.
    expected = [component_statistics(*case, engine="cpu") for case in cases]
    request.getfixturevalue("poisoned")
    for case, values in zip(cases, expected, strict=True):
        for field, value in zip(component_statistics(*case, engine="cpu"), values, strict=True):
            assert torch.equal(field, value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_and_two_threads_give_the_same_bits(two_threads, dtype):
    x, labels, offsets = mixture_case(1000, 1, 7, dtype).x, assignment(1000, 5), ragged(1000, 5)
    results = []
    for n_threads in (2, 1):
        torch.set_num_threads(n_threads)
        results.append(kernels.component_statistics(x, labels, 5, group_offsets=offsets, engine="cpu"))
    for two, one in zip(*results, strict=True):
        assert torch.equal(two, one)


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_inputs_and_inputs_left_alone(dtype):
    x, labels = mixture_case(63, 1, 17, dtype).x, assignment(63, 4)
    expected = component_statistics(x, labels, 4, engine="cpu")
    strided_x, strided_labels = x.T.contiguous().T, labels.repeat_interleave(2)[::2]
    for engine in ("cpu", "reference"):
        component_statistics(strided_x, strided_labels, 4, engine=engine)
    assert torch.equal(strided_x, mixture_case(63, 1, 17, dtype).x)
    assert torch.equal(strided_labels, labels)
    for field, value in zip(component_statistics(strided_x, strided_labels, 4, engine="cpu"), expected, strict=True):
        assert torch.equal(field, value)
