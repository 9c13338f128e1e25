"""Densities, EM and component statistics of the Triton engine: under the interpreter, or on a GPU if there is one."""

import importlib
import inspect
import os
import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import (
    arguments,
    component_tolerance,
    every_other,
    mixture_arguments,
    mixture_case,
    mixture_tolerance,
    overflowing_case,
    ragged,
)
from tolerances import FLOAT32_NATS_PER_FEATURE, UNIT_ROUNDOFF, assert_within, log_densities, moments

import kernels

pytest.importorskip("triton")
common = importlib.import_module("kernels.triton.common")

# What a GPU does silently with a density of zero, NumPy does with a warning.
pytestmark = [
    pytest.mark.filterwarnings("ignore:divide by zero encountered in log:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered in subtract:RuntimeWarning"),
]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float64]
FAMILIES = ["gaussian", "student_t"]
SHIFT = 1e3

# Points around a tile of 32, 64 or 128; components around the 16 of a program; features around every padded size.
SHAPES = [
    (1, 1, 1), (15, 2, 2), (63, 17, 3), (257, 3, 16), (15, 16, 17), (63, 1, 32), (129, 2, 33), (257, 2, 64),
    (15, 3, 100), (63, 2, 128),
]  # fmt: skip


def on(case, device):
    return type(case)(*(field.to(device) for field in case))


def component_densities(case, family, engine="triton"):
    case = on(case, "cpu" if engine == "reference" else DEVICE)
    return getattr(kernels, f"{family}_log_density")(**arguments(case, family), engine=engine).cpu()


def mixture_densities(case, family, engine="triton", **offsets):
    device = "cpu" if engine == "reference" else DEVICE
    offsets = {name: value.to(device) for name, value in offsets.items()}
    return kernels.mixture_log_density(**mixture_arguments(on(case, device), family), **offsets, engine=engine).cpu()


def statistics(case, engine="triton", **offsets):
    device = "cpu" if engine == "reference" else DEVICE
    case, offsets = on(case, device), {name: value.to(device) for name, value in offsets.items()}
    found = kernels.em_statistics(case.x, case.log_weight, case.location, case.precision_chol, **offsets, engine=engine)
    return type(found)(*(field.cpu() for field in found))


def assert_densities_equal_the_reference(case, family, condition):
    expected = component_densities(case, family, "reference")
    actual = component_densities(case, family)
    assert actual.dtype == case.x.dtype
    assert_within(actual, expected, component_tolerance(case, expected, condition))
    actual, expected = (mixture_densities(case, family, engine) for engine in ("triton", "reference"))
    assert actual.dtype == case.x.dtype
    assert_within(actual, expected, mixture_tolerance(case, family, condition))


# ---------------------------------------------------------------- densities against the reference


@pytest.mark.parametrize(("N", "M", "D"), SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_densities_equal_the_reference(family, dtype, N, M, D):
    assert_densities_equal_the_reference(mixture_case(N, M, D, dtype, 1e3, SHIFT), family, 1e3)


@pytest.mark.parametrize("scale", [1e-8, 1e8])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_scales(family, dtype, scale):
    case = mixture_case(15, 3, 64, dtype)
    case = case._replace(x=case.x * scale, location=case.location * scale, precision_chol=case.precision_chol / scale)
    assert_densities_equal_the_reference(case, family, 10.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_points_far_away(family, dtype):
    case = mixture_case(33, 5, 5, dtype)
    distance = 10.0 ** torch.arange(33).clamp(max=15)
    case = case._replace(x=(case.location[0] + distance[:, None]).to(dtype))
    assert_densities_equal_the_reference(case, family, 10.0)


def test_many_degrees_of_freedom():
    # (df + D) / 2 times the roundoff of log(1 + q / df) would be whole nats.
    case = mixture_case(63, 4, 16, torch.float32)
    case = case._replace(df=torch.tensor([1e2, 1e4, 1e6, 1e8], dtype=torch.float64))
    expected = component_densities(case, "student_t", "reference")
    assert_within(component_densities(case, "student_t"), expected, component_tolerance(case, expected, 10.0))


@pytest.fixture
def minima_are_numbers(monkeypatch):
    """The minimum of NaN and a number is the number, as on GPUs; to the interpreter of Triton 3.6 it is NaN."""
    if DEVICE == "cpu":
        from triton.runtime.interpreter import InterpreterBuilder

        monkeypatch.setattr(InterpreterBuilder, "create_minnumf", lambda self, a, b: self.binary_op(a, b, np.fmin))


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_what_overflows_float32_has_density_zero(minima_are_numbers, family):
    case = overflowing_case()
    expected = torch.full((3, 3), -torch.inf, dtype=torch.float64)
    expected[0, 0] = component_densities(case, family, "reference")[0, 0]
    tolerance = log_densities(torch.float32, 2, 1.0, torch.ones(1), expected[0, 0])
    assert_within(component_densities(case, family), expected, tolerance)
    assert_within(mixture_densities(case, family), expected.logsumexp(1), tolerance)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_what_overflows_float32_has_no_responsibilities(minima_are_numbers):
    case = overflowing_case()
    names = ("log_weight", "location", "precision_chol")
    case = case._replace(**{name: getattr(case, name)[:2] for name in names})  # x - location itself is finite
    found = statistics(case)
    assert_within(found.counts.sum(), torch.tensor(1.0), moments(torch.float32, 1, 1.0))
    assert all(field.isfinite().all() for field in found[:3])
    assert found.log_likelihood.tolist() == [-torch.inf]


# ---------------------------------------------------------------- float32 on TF32 tensor cores


@pytest.fixture
def tensor_cores(monkeypatch):
    """The interpreter multiplies in float32: make it drop the 13 bits of operands that TF32 tensor cores ignore."""
    if DEVICE == "cuda":
        return
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    whole = InterpreterBuilder.create_dot

    def truncated(value):
        return TensorHandle((value.data.view(np.uint32) & 0xFFFFE000).view(np.float32), value.dtype)

    def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        if "TF32" in str(input_precision):
            a, b = truncated(a), truncated(b)
        return whole(self, a, b, d, input_precision, max_num_imprecise_acc)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)


@pytest.mark.parametrize(("N", "D"), [(63, 16), (129, 64), (63, 128)])
@pytest.mark.parametrize("family", FAMILIES)
def test_float32_keeps_its_promise_on_tensor_cores(tensor_cores, family, N, D):
    case = mixture_case(N, 1, D, torch.float32, condition=1e3, shift=SHIFT)
    assert_densities_equal_the_reference(case, family, 1e3)
    for densities in (component_densities, mixture_densities):
        actual, expected = (densities(case, family, engine) for engine in ("triton", "reference"))
        assert_within(actual, expected, FLOAT32_NATS_PER_FEATURE * D)


@pytest.mark.skipif(DEVICE == "cuda", reason="compiled kernels do not look the function up again")
def test_one_product_of_tf32_does_not_keep_it(tensor_cores, monkeypatch):
    monkeypatch.setattr(common, "split_tf32", lambda a: (a, a - a))
    case = mixture_case(63, 1, 16, torch.float32, condition=1e3, shift=SHIFT)
    actual, expected = (component_densities(case, "gaussian", engine) for engine in ("triton", "reference"))
    assert (actual - expected).abs().max() > FLOAT32_NATS_PER_FEATURE * 16


def test_statistics_on_tensor_cores(tensor_cores):
    assert_statistics_equal_the_reference(mixture_case(129, 2, 17, torch.float32, 1e3, SHIFT, spread=0.05), 1e3)


# ---------------------------------------------------------------- ragged groups


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_groups(family, dtype):
    N, M, D = 300, 12, 6
    case = mixture_case(N, M, D, dtype, spread=0.3)
    # Groups 0 and 1 have one and no component, and in the second layout one and no point.
    components, points = ragged(M, 6, empty=True), ragged(N, 6, seed=1, empty=True)
    assert components.diff()[:2].tolist() == points.diff()[:2].tolist() == [1, 0]
    by_group = mixture_densities(case, family, component_offsets=components)
    expected = mixture_densities(case, family, "reference", component_offsets=components)
    tolerances = torch.zeros(N, 6, dtype=torch.float64)
    for g, (a, b) in enumerate(pairwise(components.tolist())):
        if a < b:
            tolerances[:, g] = mixture_tolerance(case, family, 10.0, slice(a, b))
    assert_within(by_group, expected, tolerances)
    assert (by_group[:, 1] == -torch.inf).all()
    for layout in (points, points.flip(0).neg() + N):
        own = mixture_densities(case, family, component_offsets=components, group_offsets=layout)
        group = torch.repeat_interleave(layout.diff())
        assert_within(own, expected[torch.arange(N), group], tolerances[torch.arange(N), group])


@pytest.mark.parametrize("family", FAMILIES)
def test_components_in_several_splits(family):
    case = mixture_case(15, 45, 2, torch.float32)
    assert_densities_equal_the_reference(case, family, 10.0)
    offsets = torch.tensor([0, 3, 45])
    actual, expected = (
        mixture_densities(case, family, engine, component_offsets=offsets) for engine in ("triton", "reference")
    )
    for g, (a, b) in enumerate(pairwise(offsets.tolist())):
        assert_within(actual[:, g], expected[:, g], mixture_tolerance(case, family, 10.0, slice(a, b)))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_components_at_all(family):
    case = mixture_case(5, 1, 3)
    names = ("log_weight", "location", "precision_chol", "df", "covariance")
    case = case._replace(**{name: getattr(case, name)[:0] for name in names})
    assert component_densities(case, family).shape == (5, 0)
    assert torch.equal(mixture_densities(case, family), torch.full((5,), -torch.inf).double())
    assert [t.numel() for t in statistics(case)[:3]] == [0, 0, 0]
    assert statistics(case).log_likelihood.tolist() == [-torch.inf]


def test_weights_of_zero():
    case = mixture_case(63, 4, 5, spread=0.3)
    log_weight = case.log_weight.clone()
    log_weight[2] = -torch.inf
    case = case._replace(log_weight=log_weight)
    actual, expected = (mixture_densities(case, "gaussian", engine) for engine in ("triton", "reference"))
    assert_within(actual, expected, mixture_tolerance(case, "gaussian", 10.0))
    found = assert_statistics_equal_the_reference(case, 10.0)
    assert not any(field[2].any() for field in found[:3])
    nothing = case._replace(log_weight=torch.full_like(log_weight, -torch.inf))
    assert (mixture_densities(nothing, "gaussian") == -torch.inf).all()
    assert not any(field.any() for field in statistics(nothing)[:3])
    assert statistics(nothing).log_likelihood.tolist() == [-torch.inf]


# ---------------------------------------------------------------- EM statistics


def assert_statistics_equal_the_reference(case, condition, **offsets):
    actual, expected = statistics(case, **offsets), statistics(case, "reference", **offsets)
    dtype, N = case.x.dtype, len(case.x)
    assert {t.dtype for t in actual[:3]} == {dtype}
    assert actual.log_likelihood.dtype == torch.float64
    component = component_densities(case, "gaussian", "reference")
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


@pytest.mark.parametrize(("N", "M", "D"), SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_statistics_equal_the_reference(dtype, N, M, D):
    for shift, spread in ((0.0, 0.05), (SHIFT, 1.0)):
        assert_statistics_equal_the_reference(mixture_case(N, M, D, dtype, 1e3, shift, spread=spread), 1e3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_statistics_of_scaled_data(dtype):
    for scale in (1e-8, 1e8):
        case = mixture_case(63, 2, 3, dtype, spread=0.05)
        case = case._replace(
            x=case.x * scale, location=case.location * scale, precision_chol=case.precision_chol / scale
        )
        assert_statistics_equal_the_reference(case, 10.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_scatters_are_about_the_new_mean(dtype):
    # Components far from their points: a scatter about the old mean would be off by n |new mean - old mean|^2.
    case = mixture_case(200, 1, 3, dtype)
    found = statistics(case._replace(location=case.location + 100))
    new_mean = case.location.double() + 100 + found.sums.double() / 200
    assert_within(new_mean[0], case.x.double().mean(0), moments(dtype, 1, 100.0))
    centred = case.x.double() - case.x.double().mean(0)
    assert_within(found.scatters[0], centred.T @ centred, moments(dtype, 200, float(centred.square().max())))


@pytest.mark.parametrize("dtype", DTYPES)
def test_statistics_of_ragged_groups(dtype):
    N, M, D = 300, 12, 6
    case = mixture_case(N, M, D, dtype, spread=0.3)
    components, points = ragged(M, 6, empty=True), ragged(N, 6, seed=1)
    for group_offsets, component_offsets in (
        (points, components),
        (points.flip(0).neg() + N, components),
        (ragged(N, 6, empty=True), ragged(M, 6)),
    ):
        offsets = {"group_offsets": group_offsets, "component_offsets": component_offsets}
        together, expected = statistics(case, **offsets), statistics(case, "reference", **offsets)
        for g, ((a, b), (c, d)) in enumerate(
            zip(pairwise(group_offsets.tolist()), pairwise(component_offsets.tolist()), strict=True)
        ):
            if a == b or c == d:
                assert not any(field[c:d].any() for field in together[:3])
                assert together.log_likelihood[g] == expected.log_likelihood[g] == (0 if a == b else -torch.inf)
                continue
            for field, value in zip(together[:3], expected[:3], strict=True):
                tolerance = moments(dtype, b - a, float(value[c:d].abs().max()) + 1, 1e3 * torch.finfo(dtype).eps)
                assert_within(field[c:d], value[c:d], tolerance)
            assert_within(together.log_likelihood[g], expected.log_likelihood[g], moments(dtype, b - a, 10.0 * D))


@pytest.mark.skipif(DEVICE == "cuda", reason="compiled kernels do not look all of the numbers up again")
def test_any_number_of_groups_components_and_points_is_looked_at_together(monkeypatch):
    """Two at a time, in place of hundreds."""
    case = mixture_case(24, 9, 2, spread=0.3)
    own = {"component_offsets": ragged(9, 5), "group_offsets": ragged(24, 5, seed=1, empty=True)}

    def found(engine):
        densities = [mixture_densities(case, "gaussian", engine, **offsets) for offsets in ({}, own)]
        return [*densities, *statistics(case, engine, **own)]

    engines = [importlib.import_module(f"kernels.triton.{name}") for name in ("components", "em_statistics")]
    for engine in engines:
        monkeypatch.setattr(engine, "LOOKED_AT", 2)
    monkeypatch.setattr(engines[1], "SUMMED", 2)
    mixture = importlib.import_module("kernels.triton.mixture_log_density")
    monkeypatch.setattr(mixture, "SEARCHED", type(mixture.SEARCHED)(2))
    for actual, value in zip(found("triton"), found("reference"), strict=True):
        assert_within(actual, value, moments(torch.float64, 24, float(value.abs().max())))


@pytest.mark.parametrize("distance", [0.0, 5e2, 5e4, 1e8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_responsibilities_of_far_points_add_up_to_one(tensor_cores, dtype, distance):
    # A group of one component, and two of more; the last point of each is far from all of them.
    D, group_offsets, component_offsets = 64, torch.tensor([0, 8, 19, 24]), torch.tensor([0, 1, 4, 6])
    case = mixture_case(24, 6, D, dtype, spread=0.3)
    x = case.x.clone()
    x[group_offsets[1:] - 1] += distance
    found = assert_far_statistics_equal_the_reference(case._replace(x=x), group_offsets, component_offsets)
    for g, ((a, b), (c, d)) in enumerate(
        zip(pairwise(group_offsets.tolist()), pairwise(component_offsets.tolist()), strict=True)
    ):
        assert_within(found.counts[c:d].sum(), torch.tensor(float(b - a)), moments(dtype, b - a, 1.0))
        if g == 0:
            assert found.counts[c] == b - a


def test_far_points_of_components_in_several_splits():
    case = mixture_case(15, 45, 2, torch.float32)
    x = case.x.clone()
    x[::5] += 1e4
    found = assert_far_statistics_equal_the_reference(case._replace(x=x), torch.tensor([0, 15]), torch.tensor([0, 45]))
    assert_within(found.counts.sum(), torch.tensor(15.0), moments(torch.float32, 15, 1.0))


def assert_far_statistics_equal_the_reference(case, group_offsets, component_offsets):
    """But for points between components, whose log-densities far away float32 does not tell apart."""
    offsets = {"group_offsets": group_offsets, "component_offsets": component_offsets}
    actual, expected = statistics(case, **offsets), statistics(case, "reference", **offsets)
    relative = 1e3 * UNIT_ROUNDOFF[case.x.dtype]
    assert_within(actual.log_likelihood, expected.log_likelihood, relative * expected.log_likelihood.abs())
    assert all(field.isfinite().all() for field in actual)
    return actual


# ---------------------------------------------------------------- component statistics


@pytest.mark.parametrize(("N", "K", "D"), [(1, 1, 1), (15, 3, 2), (63, 4, 17), (129, 2, 64), (40, 2, 100)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_component_statistics_equal_the_reference(dtype, N, K, D):
    case = mixture_case(N, 2, D, dtype, shift=SHIFT)
    offsets = ragged(N, min(3, N), empty=True)
    labels = torch.from_numpy(np.random.default_rng(N).integers(K, size=N))
    labels[labels == 1] = 0
    expected = kernels.component_statistics(case.x, labels, K, group_offsets=offsets, engine="reference")
    actual = kernels.component_statistics(
        case.x.to(DEVICE), labels.to(DEVICE), K, group_offsets=offsets.to(DEVICE), engine="triton"
    )
    assert torch.equal(actual.counts.cpu(), expected.counts)
    assert_within(actual.means.cpu(), expected.means, moments(torch.float64, 1, 2 * SHIFT))
    assert_within(actual.scatters.cpu(), expected.scatters, moments(torch.float64, N, SHIFT))
    assert torch.equal(actual.scatters, actual.scatters.mT)
    if K > 1:
        assert not actual.scatters[:, 1].any()


# ---------------------------------------------------------------- outputs and inputs


def everything(case):
    labels = torch.arange(len(case.x), device=DEVICE) % 3
    return [
        *(f(case, family) for family in FAMILIES for f in (component_densities, mixture_densities)),
        *statistics(case),
        *kernels.component_statistics(case.x.to(DEVICE), labels, 4, engine="triton"),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_output_is_written_and_two_runs_give_the_same_bits(request, dtype):
    cases = [mixture_case(N, M, D, dtype) for N, M, D in ((1, 1, 1), (63, 17, 3), (129, 2, 100))]
    expected = [everything(case) for case in cases]
    request.getfixturevalue("poisoned")
    for case, values in zip(cases, expected, strict=True):
        for actual, value in zip(everything(case), values, strict=True):
            assert torch.equal(actual, value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layout_does_not_matter_and_inputs_are_left_alone(dtype):
    case = mixture_case(33, 3, 17, dtype)
    expected = everything(case)

    strided = case._replace(
        x=case.x.T.contiguous().T,
        log_weight=every_other(case.log_weight),
        location=every_other(case.location),
        # Nothing above the diagonal is read.
        precision_chol=(case.precision_chol + 1e3 * torch.ones(17, 17, dtype=dtype).triu(1)).mT.contiguous().mT,
        df=every_other(case.df),
    )
    assert not any(t.is_contiguous() for t in strided[:5])
    before = [t.clone() for t in strided]
    for actual, value in zip(everything(strided), expected, strict=True):
        assert torch.equal(actual, value)
    assert all(torch.equal(a, b) for a, b in zip(strided, before, strict=True))


# ---------------------------------------------------------------- what is refused


def test_too_many_features():
    x = torch.zeros(2, 129, device=DEVICE)
    W = torch.eye(129, device=DEVICE)[None]
    message = "at most 128 features, got 129; use engine='reference'"
    with pytest.raises(ValueError, match=message):
        kernels.gaussian_log_density(x, x[:1], W, engine="triton")
    with pytest.raises(ValueError, match=message):
        kernels.mixture_log_density(x, x[:1, 0], x[:1], W, engine="triton")
    with pytest.raises(ValueError, match=message):
        kernels.em_statistics(x, x[:1, 0], x[:1], W, engine="triton")
    with pytest.raises(ValueError, match=message):
        kernels.component_statistics(x, torch.zeros(2, dtype=torch.int64, device=DEVICE), 1, engine="triton")


def test_unsupported_gpu(monkeypatch):
    monkeypatch.setattr(common, "INTERPRETED", False)
    monkeypatch.setattr(torch.version, "hip", None)
    x = SimpleNamespace(shape=(3, 4), device=torch.device("cuda:1"))
    for capability, name in (((8, 0), "sm_80"), ((8, 6), "sm_80"), ((9, 0), "sm_90"), ((10, 3), "sm_100")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert common.target(x) == name
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(ValueError, match="runs on sm_80, sm_90, sm_100, gfx942, x is on cuda:1, which is sm_75"):
        common.target(x)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    for arch, expected in (("gfx942:sramecc+:xnack-", "gfx942"), ("gfx90a:xnack-", "which is gfx90a")):
        properties = SimpleNamespace(gcnArchName=arch)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, p=properties: p)
        if expected == "gfx942":
            assert common.target(x) == expected
        else:
            with pytest.raises(ValueError, match=expected):
                common.target(x)


def test_cpu_tensors_need_the_interpreter():
    code = (
        "import torch, kernels; x = torch.zeros(2, 2); W = torch.eye(2).expand(2, 2, 2);"
        "kernels.gaussian_log_density(x, x, W, engine='triton')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    message = (
        "ValueError: engine 'triton' needs tensors on a GPU, x is on cpu (Triton's interpreter takes tensors on the"
    )
    assert done.stderr.splitlines()[-1].startswith(message)


def test_signatures_are_those_of_the_reference():
    engine = importlib.import_module("kernels.triton")
    for name in engine.__all__:
        reference = getattr(importlib.import_module("kernels.reference"), name)
        assert inspect.signature(getattr(engine, name)) == inspect.signature(reference)
