"""EM statistics: the CPU engine against the reference."""

from itertools import pairwise

import pytest
import torch
from cases import SIZES, component_tolerance, mixture_case, ragged, statistics
from tolerances import UNIT_ROUNDOFF, assert_within, moments

import kernels

DTYPES = [torch.float32, torch.float64]
SHIFT = 1e3


def assert_equal_the_reference(case, condition, **offsets):
    actual, expected = statistics(case, **offsets), statistics(case, "reference", **offsets)
    dtype, N = case.x.dtype, len(case.x)
    assert {t.dtype for t in actual[:3]} == {dtype}
    assert actual.log_likelihood.dtype == torch.float64
    assert {t.dtype for t in expected} == {torch.float64}

    component = kernels.gaussian_log_density(case.x, case.location, case.precision_chol, engine="reference")
    joint = case.log_weight.double() + component
    error = (joint.softmax(1) * component_tolerance(case, component, condition)).sum(1)
    # How far points of a component lie from its mean: sums and scatters are in this unit and its square.
    size = float((joint.softmax(1)[..., None] * (case.x[:, None].double() - case.location.double()).abs()).max())
    worst = float(error.max())
    assert_within(actual.counts, expected.counts, moments(dtype, N, 1.0, worst))
    assert_within(actual.sums, expected.sums, moments(dtype, N, size, worst))
    assert_within(actual.scatters, expected.scatters, moments(dtype, N, size**2, worst))
    assert_within(actual.log_likelihood, expected.log_likelihood, float(error.sum()))
    assert torch.equal(actual.scatters, actual.scatters.mT), "scatters are exactly symmetric"
    return actual


# ---------------------------------------------------------------- against the reference


@pytest.mark.parametrize("condition", [1e1, 1e3, 1e6])
@pytest.mark.parametrize(("N", "M", "D"), SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_the_reference(dtype, N, M, D, condition):
    for shift in (0.0, SHIFT):
        for spread in (0.05, 1.0):
            assert_equal_the_reference(mixture_case(N, M, D, dtype, condition, shift, spread=spread), condition)


@pytest.mark.parametrize("scale", [1e-8, 1e8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_scales(dtype, scale):
    case = mixture_case(65, 3, 17, dtype, spread=0.05)
    case = case._replace(x=case.x * scale, location=case.location * scale, precision_chol=case.precision_chol / scale)
    assert_equal_the_reference(case, 10.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_points_far_away_have_responsibilities(dtype):
    case = mixture_case(33, 5, 5, dtype)
    distance = 10.0 ** torch.arange(33).clamp(max=12)
    actual = assert_equal_the_reference(case._replace(x=(case.location[0] + distance[:, None]).to(dtype)), 10.0)
    assert_within(actual.counts.sum(), torch.tensor(33.0), moments(dtype, 33, 1.0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_scatters_are_about_the_new_mean(dtype):
    # Components far from their points: a scatter about the old mean would be off by n |new mean - old mean|^2.
    case = mixture_case(200, 1, 3, dtype)
    moved = case._replace(location=case.location + 100)
    actual = statistics(moved)
    new_mean = moved.location.double() + actual.sums.double() / 200
    assert_within(new_mean[0], case.x.double().mean(0), moments(dtype, 1, 100.0))
    centred = case.x.double() - case.x.double().mean(0)
    assert_within(actual.scatters[0], centred.T @ centred, moments(dtype, 200, float(centred.square().max())))


def test_scatters_of_float32_far_from_zero():
    # Of points and means that float32 holds as they are; about a new mean that is rounded to it they would be off by
    # n (u shift)^2, 400 times as much.
    case = mixture_case(400, 1, 3, torch.float32)
    grid, shift = 2.0**-4, 2.0**20
    case = case._replace(**{name: (getattr(case, name) / grid).round() * grid + shift for name in ("x", "location")})
    actual, expected = statistics(case), statistics(case, "reference")
    largest = float(expected.scatters.abs().max())
    assert_within(actual.scatters, expected.scatters, moments(torch.float32, 1, largest))


def test_sums_over_many_points_are_rounded_once():
    # Added up in float32, they would be off by 1e-5 and more.
    N, dtype = 300_000, torch.float32
    x = torch.rand(N, 1, generator=torch.Generator().manual_seed(0))
    component = (torch.zeros(1), torch.full((1, 1), 0.25), torch.ones(1, 1, 1))
    actual = kernels.em_statistics(x, *component, engine="cpu")
    exact = x[:, 0].double()
    assert actual.counts.tolist() == [N]
    total, scatter = (exact - 0.25).sum(), (exact - exact.mean()).square().sum()
    assert_within(actual.sums[0, 0], total, 2 * UNIT_ROUNDOFF[dtype] * total)
    # A product of a tile of 64 points is in float32.
    assert_within(actual.scatters[0, 0, 0], scatter, 64 * UNIT_ROUNDOFF[dtype] * scatter)


# ---------------------------------------------------------------- ragged groups, weights of zero


@pytest.mark.parametrize("dtype", DTYPES)
def test_ragged_groups(dtype):
    N, M, D = 300, 12, 6
    case = mixture_case(N, M, D, dtype, spread=0.3)
    components, points = ragged(M, 6, empty=True), ragged(N, 6, seed=1)
    layouts = [(points, components), (points.flip(0).neg() + N, components), (ragged(N, 6, empty=True), ragged(M, 6))]
    sizes = [[n for layout in layouts for n in layout[i].diff().tolist()] for i in (0, 1)]
    assert {0, 1} <= set(sizes[0]), "groups of no and of one point"
    assert {0, 1} <= set(sizes[1]), "groups of no and of one component"
    for group_offsets, component_offsets in layouts:
        together = statistics(case, group_offsets=group_offsets, component_offsets=component_offsets)
        expected = statistics(case, "reference", group_offsets=group_offsets, component_offsets=component_offsets)
        edges = zip(pairwise(group_offsets.tolist()), pairwise(component_offsets.tolist()), strict=True)
        for g, ((a, b), (c, d)) in enumerate(edges):
            if a == b:
                assert not any(field[c:d].any() for field in (*together[:3], *expected[:3]))
                assert together.log_likelihood[g] == expected.log_likelihood[g] == 0
            elif c == d:
                assert together.log_likelihood[g] == expected.log_likelihood[g] == -torch.inf
            else:
                alone = assert_equal_the_reference(
                    case._replace(
                        x=case.x[a:b],
                        log_weight=case.log_weight[c:d],
                        location=case.location[c:d],
                        precision_chol=case.precision_chol[c:d],
                    ),
                    10.0,
                )
                for field, value in zip(together[:3], alone[:3], strict=True):
                    assert torch.equal(field[c:d], value), "a group's statistics are those of the group alone"
                assert together.log_likelihood[g] == alone.log_likelihood[0]


@pytest.mark.parametrize("engine", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_weight_of_zero_takes_a_component_out(dtype, engine):
    case = mixture_case(63, 4, 5, dtype, spread=0.3)
    kept = [0, 1, 3]
    log_weight = case.log_weight.clone()
    log_weight[2] = -torch.inf
    actual = statistics(case._replace(log_weight=log_weight), engine)
    without = statistics(
        case._replace(
            log_weight=case.log_weight[kept], location=case.location[kept], precision_chol=case.precision_chol[kept]
        ),
        engine,
    )
    for field, value in zip(actual[:3], without[:3], strict=True):
        assert_within(field[kept], value, moments(dtype, 63, float(value.abs().max())))
        assert not field[2].any()
    assert_within(actual.log_likelihood, without.log_likelihood, moments(dtype, 63, 10.0))


@pytest.mark.parametrize("engine", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_only_weights_of_zero(dtype, engine):
    case = mixture_case(63, 4, 5, dtype)
    actual = statistics(case._replace(log_weight=torch.full((4,), -torch.inf, dtype=dtype)), engine)
    assert not any(field.any() for field in actual[:3])
    assert actual.log_likelihood.tolist() == [-torch.inf]


# ---------------------------------------------------------------- layout, memory, threads


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_output_is_written(request, dtype):
    cases = [mixture_case(N, M, D, dtype) for N, M, D in SIZES]
    # The first calls compile, which must not see the poison.
    expected = [statistics(case) for case in cases]
    request.getfixturevalue("poisoned")
    for case, values in zip(cases, expected, strict=True):
        for field, value in zip(statistics(case), values, strict=True):
            assert torch.equal(field, value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_and_two_threads_give_the_same_bits(two_threads, dtype):
    case = mixture_case(2100, 9, 5, dtype, spread=0.3)
    offsets = {"group_offsets": ragged(2100, 4), "component_offsets": ragged(9, 4)}
    results = []
    for n_threads in (2, 1):
        torch.set_num_threads(n_threads)
        results.append([*statistics(case), *statistics(case, **offsets)])
    for two, one in zip(*results, strict=True):
        assert torch.equal(two, one)


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_inputs(dtype):
    case = mixture_case(63, 4, 17, dtype)
    strided = case._replace(
        x=case.x.T.contiguous().T,
        log_weight=case.log_weight.repeat_interleave(2)[::2],
        location=case.location.repeat_interleave(2, dim=1)[:, ::2],
        precision_chol=case.precision_chol.mT.contiguous().mT,
    )
    assert not any(t.is_contiguous() for t in strided[:4])
    for field, value in zip(statistics(strided), statistics(case), strict=True):
        assert torch.equal(field, value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_inputs_are_left_alone(dtype):
    case = mixture_case(63, 4, 17, dtype)
    before = [t.clone() for t in case]
    for engine in ("cpu", "reference"):
        statistics(case, engine)
    assert all(torch.equal(a, b) for a, b in zip(case, before, strict=True))


@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_above_the_diagonal_nothing_is_read(engine):
    case = mixture_case(33, 5, 5)
    garbage = case._replace(precision_chol=case.precision_chol + torch.ones(5, 5, 5).double().triu(1) * 1e3)
    for field, value in zip(statistics(garbage, engine), statistics(case, engine), strict=True):
        assert torch.equal(field, value)
