"""Component and mixture log-densities: the CPU engine against the reference."""

import subprocess
import sys

import pytest
import torch
from cases import (
    SIZES,
    component_densities,
    component_tolerance,
    every_other,
    mixture_case,
    mixture_densities,
    mixture_tolerance,
    overflowing_case,
    ragged,
    squared_distance,
)
from tolerances import FLOAT32_NATS_PER_FEATURE, MEGABYTES_BEYOND_OUTPUTS, assert_within, log_densities

DTYPES = [torch.float32, torch.float64]
FAMILIES = ["gaussian", "student_t"]
SHIFT = 1e3


def both(case, family):
    """The component and the mixture densities of the engine under test."""
    return component_densities(case, family, "cpu"), mixture_densities(case, family, "cpu")


# ---------------------------------------------------------------- against the reference


@pytest.mark.parametrize("condition", [1e1, 1e3, 1e6])
@pytest.mark.parametrize(("N", "M", "D"), SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_the_reference(family, dtype, N, M, D, condition):
    for shift in (0.0, SHIFT):
        case = mixture_case(N, M, D, dtype, condition, shift)
        expected = component_densities(case, family, "reference")
        actual = component_densities(case, family, "cpu")
        assert actual.dtype == dtype
        assert expected.dtype == torch.float64
        assert_within(actual, expected, component_tolerance(case, expected, condition))
        actual, expected = (mixture_densities(case, family, engine) for engine in ("cpu", "reference"))
        assert actual.dtype == dtype
        assert_within(actual, expected, mixture_tolerance(case, family, condition))


@pytest.mark.parametrize(("N", "D"), [(300, 4), (300, 16), (300, 64), (200, 128)])
@pytest.mark.parametrize("family", FAMILIES)
def test_float32_keeps_its_promise_at_condition_1e3_and_shift_1e3(family, N, D):
    case = mixture_case(N, 1, D, torch.float32, condition=1e3, shift=SHIFT)
    for densities in (component_densities, mixture_densities):
        actual, expected = (densities(case, family, engine) for engine in ("cpu", "reference"))
        assert_within(actual, expected, FLOAT32_NATS_PER_FEATURE * D)


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1e3, 1e8])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_scales(family, dtype, scale):
    case = mixture_case(65, 3, 64, dtype)
    case = case._replace(x=case.x * scale, location=case.location * scale, precision_chol=case.precision_chol / scale)
    expected = component_densities(case, family, "reference")
    if scale == 1e-8:
        assert expected.max() > 720, "the densities themselves should overflow"
    if scale == 1e8:
        assert expected.max() < -750, "the densities themselves should underflow"
    assert_within(component_densities(case, family, "cpu"), expected, component_tolerance(case, expected, 10.0))
    actual, expected = (mixture_densities(case, family, engine) for engine in ("cpu", "reference"))
    assert_within(actual, expected, mixture_tolerance(case, family, 10.0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_points_far_away(family, dtype):
    case = mixture_case(33, 5, 5, dtype)
    distance = 10.0 ** torch.arange(33).clamp(max=15)
    case = case._replace(x=(case.location[0] + distance[:, None]).to(dtype))
    expected = component_densities(case, family, "reference")
    assert expected.isfinite().all()
    assert_within(component_densities(case, family, "cpu"), expected, component_tolerance(case, expected, 10.0))
    actual, expected = (mixture_densities(case, family, engine) for engine in ("cpu", "reference"))
    assert_within(actual, expected, mixture_tolerance(case, family, 10.0))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_overflows_float32_has_density_zero(family):
    case = overflowing_case()
    expected = torch.full((3, 3), -torch.inf, dtype=torch.float64)
    expected[0, 0] = component_densities(case, family, "reference")[0, 0]
    tolerance = log_densities(torch.float32, 2, 1.0, torch.ones(1), expected[0, 0])
    assert_within(component_densities(case, family, "cpu"), expected, tolerance)
    assert_within(mixture_densities(case, family, "cpu"), expected.logsumexp(1), tolerance)


# ---------------------------------------------------------------- ragged groups


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_groups(family, dtype):
    N, M, D = 300, 12, 6
    case = mixture_case(N, M, D, dtype, spread=0.3)
    # Groups 0 and 1 have one and no component, and in the second layout one and no point.
    components, points = ragged(M, 6, empty=True), ragged(N, 6, seed=1, empty=True)
    assert components.diff()[:2].tolist() == points.diff()[:2].tolist() == [1, 0]
    by_group = mixture_densities(case, family, "cpu", component_offsets=components)
    expected = mixture_densities(case, family, "reference", component_offsets=components)
    assert by_group.dtype == dtype
    for g, (a, b) in enumerate(zip(components[:-1].tolist(), components[1:].tolist(), strict=True)):
        assert_within(by_group[:, g], expected[:, g], mixture_tolerance(case, family, 10.0, slice(a, b)))
        part = case._replace(
            log_weight=case.log_weight[a:b],
            location=case.location[a:b],
            precision_chol=case.precision_chol[a:b],
            df=case.df[a:b],
        )
        assert torch.equal(by_group[:, g], mixture_densities(part, family, "cpu")), "a column is that mixture alone"
    assert (by_group[:, 1] == -torch.inf).all()

    for layout in (points, points.flip(0).neg() + N):
        own = mixture_densities(case, family, "cpu", component_offsets=components, group_offsets=layout)
        group = torch.repeat_interleave(layout.diff())
        assert torch.equal(own, by_group[torch.arange(N), group])
        reference = mixture_densities(case, family, "reference", component_offsets=components, group_offsets=layout)
        assert torch.equal(reference, expected[torch.arange(N), group])


@pytest.mark.parametrize("family", FAMILIES)
def test_no_components_at_all(family):
    case = mixture_case(5, 1, 3)
    case = case._replace(
        **{name: getattr(case, name)[:0] for name in ("log_weight", "location", "precision_chol", "df")}
    )
    for engine in ("cpu", "reference"):
        assert component_densities(case, family, engine).shape == (5, 0)
        assert torch.equal(mixture_densities(case, family, engine), torch.full((5,), -torch.inf).double())


@pytest.mark.parametrize("engine", ["cpu", "reference"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_weight_of_zero_takes_a_component_out(family, engine):
    case = mixture_case(63, 4, 16, spread=0.3)
    log_weight = case.log_weight.clone()
    log_weight[2] = -torch.inf
    kept = [0, 1, 3]
    without = case._replace(
        log_weight=case.log_weight[kept],
        location=case.location[kept],
        precision_chol=case.precision_chol[kept],
        df=case.df[kept],
    )
    actual = mixture_densities(case._replace(log_weight=log_weight), family, engine)
    tolerance = mixture_tolerance(case, family, 10.0)
    assert_within(actual, mixture_densities(without, family, engine), tolerance)
    nothing = mixture_densities(case._replace(log_weight=torch.full_like(log_weight, -torch.inf)), family, engine)
    assert (nothing == -torch.inf).all()


def test_weights_need_not_be_normalised():
    case = mixture_case(33, 5, 5)
    for engine in ("cpu", "reference"):
        moved = mixture_densities(case._replace(log_weight=case.log_weight - 1000), "gaussian", engine)
        expected = mixture_densities(case, "gaussian", "reference") - 1000
        assert_within(
            moved, expected, log_densities(torch.float64, 5, 10.0, squared_distance(case), expected[:, None]).amax(1)
        )


# ---------------------------------------------------------------- layout, memory, threads


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_output_is_written(request, family, dtype):
    cases = [mixture_case(N, M, D, dtype) for N, M, D in SIZES]
    # The first calls compile, which must not see the poison.
    expected = [both(case, family) for case in cases]
    request.getfixturevalue("poisoned")
    for case, values in zip(cases, expected, strict=True):
        for actual, value in zip(both(case, family), values, strict=True):
            assert torch.equal(actual, value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_one_and_two_threads_give_the_same_bits(two_threads, family, dtype):
    case = mixture_case(2100, 6, 5, dtype)
    offsets = {"component_offsets": ragged(6, 3), "group_offsets": ragged(2100, 3)}
    results = []
    for n_threads in (2, 1):
        torch.set_num_threads(n_threads)
        results.append([*both(case, family), mixture_densities(case, family, "cpu", **offsets)])
    for two, one in zip(*results, strict=True):
        assert torch.equal(two, one)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_strided_inputs(family, dtype):
    case = mixture_case(63, 4, 17, dtype)
    expected = both(case, family)

    strided = case._replace(
        x=case.x.T.contiguous().T,
        log_weight=every_other(case.log_weight),
        location=every_other(case.location),
        precision_chol=case.precision_chol.mT.contiguous().mT,
        df=every_other(case.df),
    )
    assert not any(t.is_contiguous() for t in strided[:5])
    for actual, value in zip(both(strided, family), expected, strict=True):
        assert torch.equal(actual, value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_inputs_are_left_alone(family, dtype):
    case = mixture_case(63, 4, 17, dtype)
    before = [t.clone() for t in case]
    for engine in ("cpu", "reference"):
        component_densities(case, family, engine)
        mixture_densities(case, family, engine, component_offsets=torch.tensor([0, 1, 4]))
    assert all(torch.equal(a, b) for a, b in zip(case, before, strict=True))


@pytest.mark.parametrize("engine", ["cpu", "reference"])
@pytest.mark.parametrize("family", FAMILIES)
def test_above_the_diagonal_nothing_is_read(family, engine):
    case = mixture_case(33, 5, 5)
    garbage = case._replace(precision_chol=case.precision_chol + torch.ones(5, 5, 5).double().triu(1) * 1e3)
    for densities in (component_densities, mixture_densities):
        assert torch.equal(densities(garbage, family, engine), densities(case, family, engine))


MEMORY = """
import resource, torch, kernels
torch.set_num_threads(2)
x, location = torch.randn(50_000, 16), torch.randn(2_000, 16)
rest = torch.zeros(2_000), location, torch.eye(16).expand(2_000, 16, 16).contiguous()
kernels.mixture_log_density(x[:600], *rest, engine="cpu")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert kernels.mixture_log_density(x, *rest, engine="cpu").isfinite().all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_large_mixture_needs_little_memory():
    result = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    bytes_per_unit = 1 if sys.platform == "darwin" else 1024
    assert int(result.stdout) * bytes_per_unit < MEGABYTES_BEYOND_OUTPUTS * 1e6
