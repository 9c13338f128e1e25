"""What must hold for any groups, points and components: of the CPU engine and of the reference, in both dtypes."""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch
from cases import MixtureCase, component_densities, component_tolerance, mixture_case, mixture_densities, statistics
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tolerances import QUADRATURE, UNIT_ROUNDOFF, assert_within, moments

import kernels

ENGINES = ["cpu", "reference"]
FAMILIES = ["gaussian", "student_t"]
CONDITION = 10.0

quick = settings(max_examples=40, derandomize=True, deadline=None, database=None)


class Problem(NamedTuple):
    case: MixtureCase
    group_offsets: torch.Tensor
    component_offsets: torch.Tensor
    rng: np.random.Generator

    @property
    def offsets(self):
        return {"group_offsets": self.group_offsets, "component_offsets": self.component_offsets}

    @property
    def groups(self):
        """Rows and components of each group."""
        rows, components = pairwise(self.group_offsets.tolist()), pairwise(self.component_offsets.tolist())
        return [(slice(a, b), slice(c, d)) for (a, b), (c, d) in zip(rows, components, strict=True)]


@st.composite
def problems(draw, least_points=0, least_components=0):
    """Up to 4 groups, some of no or one point, some of no or one component; components that overlap."""
    sizes = st.tuples(
        st.one_of(st.integers(least_points, least_points + 2), st.integers(least_points, 70)),
        st.integers(least_components, 4),
    )
    groups = draw(st.lists(sizes, min_size=1, max_size=4))
    N, M = (sum(column) for column in zip(*groups, strict=True))
    assume(N > 0)
    assume(M > 0)
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    seed = draw(st.integers(0, 10**6))
    case = mixture_case(N, M, draw(st.integers(1, 9)), dtype, CONDITION, seed=seed, spread=0.3)
    group_offsets, component_offsets = (
        torch.tensor([0, *np.cumsum(column).tolist()]) for column in zip(*groups, strict=True)
    )
    return Problem(case, group_offsets, component_offsets, np.random.default_rng(seed))


def tolerance(case, value):
    """Of every component density [N, M]; twice, where two computed values are compared."""
    return 2 * component_tolerance(case, value.double(), CONDITION)


def assert_same_statistics(case, actual, expected):
    component = component_densities(case, "gaussian", "reference")
    worst = float((component.softmax(1) * tolerance(case, component)).sum(1).max())
    size = float((case.x[:, None] - case.location).abs().max())
    for field, value, unit in zip(actual[:3], expected[:3], (1.0, size, size**2), strict=True):
        assert_within(field, value, moments(case.x.dtype, len(case.x), unit, worst))
    assert_within(actual.log_likelihood, expected.log_likelihood, worst * len(case.x))


# ---------------------------------------------------------------- symmetries


@quick
@given(problems())
@pytest.mark.parametrize("engine", ENGINES)
def test_permuting_points_permutes_densities(engine, problem):
    order = torch.from_numpy(problem.rng.permutation(len(problem.case.x)))
    permuted = problem.case._replace(x=problem.case.x[order])
    by_group = {"component_offsets": problem.component_offsets}
    for family in FAMILIES:
        before = component_densities(problem.case, family, engine)
        bound = tolerance(problem.case, before)[order]
        assert_within(component_densities(permuted, family, engine), before[order], bound)
        before = mixture_densities(problem.case, family, engine, **by_group)
        assert_within(
            mixture_densities(permuted, family, engine, **by_group), before[order], bound.amax(1, keepdim=True)
        )


@quick
@given(problems())
@pytest.mark.parametrize("engine", ENGINES)
def test_permuting_points_within_groups_keeps_statistics(engine, problem):
    case = problem.case
    order = torch.cat(
        [torch.from_numpy(rows.start + problem.rng.permutation(rows.stop - rows.start)) for rows, _ in problem.groups]
    )
    permuted = case._replace(x=case.x[order])
    assert_same_statistics(
        case, statistics(permuted, engine, **problem.offsets), statistics(case, engine, **problem.offsets)
    )
    labels = torch.from_numpy(problem.rng.integers(3, size=len(case.x)))
    actual, expected = (
        kernels.component_statistics(x, k, 3, group_offsets=problem.group_offsets, engine=engine)
        for x, k in ((permuted.x, labels[order]), (case.x, labels))
    )
    assert torch.equal(actual.counts, expected.counts)
    size = float(case.x.abs().max())
    assert_within(actual.means, expected.means, moments(torch.float64, len(case.x), size))
    assert_within(actual.scatters, expected.scatters, moments(torch.float64, len(case.x), size**2))


@quick
@given(problems())
@pytest.mark.parametrize("engine", ENGINES)
def test_permuting_components_within_groups(engine, problem):
    case = problem.case
    order = torch.cat(
        [
            torch.from_numpy(parts.start + problem.rng.permutation(parts.stop - parts.start))
            for _, parts in problem.groups
        ]
    )
    names = ("log_weight", "location", "precision_chol", "df")
    permuted = case._replace(**{name: getattr(case, name)[order] for name in names})
    for family in FAMILIES:
        before = component_densities(case, family, engine)
        bound = tolerance(case, before)
        assert_within(component_densities(permuted, family, engine), before[:, order], bound[:, order])
        actual, before = (mixture_densities(c, family, engine, **problem.offsets) for c in (permuted, case))
        assert_within(actual, before, bound.amax(1))
    after, before = (statistics(c, engine, **problem.offsets) for c in (permuted, case))
    reordered = before._replace(counts=before.counts[order], sums=before.sums[order], scatters=before.scatters[order])
    assert_same_statistics(case, after, reordered)


@quick
@given(problems(), st.integers(-5000, 5000))
@pytest.mark.parametrize("engine", ENGINES)
def test_shifting_points_and_components_together_changes_nothing(engine, problem, shift):
    # On a grid of 1/1024 the shift is exact even in float32, so what is left is the engine's own doing: nothing at all.
    case = problem.case._replace(
        x=(problem.case.x * 1024).round() / 1024, location=(problem.case.location * 1024).round() / 1024
    )
    shifted = case._replace(x=case.x + shift, location=case.location + shift)
    assert torch.equal(shifted.x - shift, case.x)
    for family in FAMILIES:
        assert torch.equal(component_densities(shifted, family, engine), component_densities(case, family, engine))
        assert torch.equal(mixture_densities(shifted, family, engine), mixture_densities(case, family, engine))
    after, before = (statistics(c, engine, **problem.offsets) for c in (shifted, case))
    assert torch.equal(after.counts, before.counts)
    assert torch.equal(after.sums, before.sums)
    assert torch.equal(after.log_likelihood, before.log_likelihood)
    # The new means, which scatters are about, are rounded where the data lie.
    rounding = UNIT_ROUNDOFF[torch.float64] * 5000
    spread = float((case.x[:, None] - case.location).abs().max())
    assert_within(after.scatters, before.scatters, moments(case.x.dtype, len(case.x), (spread + rounding) ** 2))


@quick
@given(problems(), st.floats(-8, 8))
@pytest.mark.parametrize("engine", ENGINES)
def test_scaling_by_s_lowers_log_densities_by_D_log_s(engine, problem, exponent):
    case, s = problem.case, 10**exponent
    scaled = case._replace(x=case.x * s, location=case.location * s, precision_chol=case.precision_chol / s)
    by_group = {"component_offsets": problem.component_offsets}
    jacobian = case.x.shape[1] * math.log(s)
    for family in FAMILIES:
        after, before = (component_densities(c, family, engine).double() for c in (scaled, case))
        # The scaled inputs are rounded too: x, location and factor, each by u. That is less than the engine is allowed.
        bound = 2 * tolerance(case, before.abs() + after.abs())
        assert_within(after + jacobian, before, bound)
        after, before = (mixture_densities(c, family, engine, **by_group).double() for c in (scaled, case))
        assert_within(after + jacobian, before, bound.amax(1, keepdim=True))


@quick
@given(problems())
@pytest.mark.parametrize("engine", ENGINES)
def test_duplicated_points(engine, problem):
    case = problem.case
    twice = case._replace(x=case.x.repeat_interleave(2, dim=0))
    for family in FAMILIES:
        for densities in (component_densities, mixture_densities):
            after, before = densities(twice, family, engine), densities(case, family, engine)
            bound = tolerance(case, before) if before.ndim == 2 else tolerance(case, before[:, None]).amax(1)
            for copy in (after[::2], after[1::2]):
                assert_within(copy, before, bound)
    offsets = {"group_offsets": 2 * problem.group_offsets, "component_offsets": problem.component_offsets}
    after, before = statistics(twice, engine, **offsets), statistics(case, engine, **problem.offsets)
    assert_same_statistics(twice, after, type(before)(*(2 * field for field in before)))


# ---------------------------------------------------------------- bounds and sums


@quick
@given(problems())
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixture_lies_between_its_largest_term_and_that_plus_log_M(family, engine, problem):
    case = problem.case
    terms = case.log_weight.double() + component_densities(case, family, engine).double()
    bound = tolerance(case, terms)
    by_group = mixture_densities(case, family, engine, component_offsets=problem.component_offsets).double()
    for g, (_, parts) in enumerate(problem.groups):
        if parts.start == parts.stop:
            assert (by_group[:, g] == -torch.inf).all()
            continue
        largest, slack = terms[:, parts].amax(1), bound[:, parts].amax(1)
        assert (by_group[:, g] >= largest - slack).all()
        assert (by_group[:, g] <= largest + math.log(parts.stop - parts.start) + slack).all()


@quick
@given(problems(least_components=1))
@pytest.mark.parametrize("engine", ENGINES)
def test_responsibilities_sum_to_one(engine, problem):
    case, dtype = problem.case, problem.case.x.dtype
    actual = statistics(case, engine, **problem.offsets)
    own = mixture_densities(case, "gaussian", engine, **problem.offsets).double()
    assert (actual.counts >= 0).all()
    for g, (rows, parts) in enumerate(problem.groups):
        n = rows.stop - rows.start
        assert_within(actual.counts[parts].sum(), torch.tensor(n), moments(dtype, max(n, 1), 1.0))
        slack = float(tolerance(case, own[:, None])[rows].sum())
        assert_within(actual.log_likelihood[g], own[rows].sum(), slack)


@quick
@given(st.integers(1, 9), st.integers(0, 10**6))
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_densities_integrate_to_one(family, engine, M, seed):
    # The double exponential rule: with x = sinh(pi/2 sinh t), even a Cauchy falls off doubly exponentially in t.
    step = 0.01
    t = step * torch.arange(-450, 451, dtype=torch.float64)
    x = (0.5 * math.pi * t.sinh()).sinh()
    weight = step * (0.5 * math.pi * t.sinh()).cosh() * 0.5 * math.pi * t.cosh()
    case = mixture_case(1, M, 1, seed=seed)
    scale = torch.from_numpy(np.random.default_rng(seed).uniform(0.3, 3.0, size=M))
    case = case._replace(x=x[:, None], precision_chol=1 / scale[:, None, None])
    assert_within(weight @ component_densities(case, family, engine).exp(), torch.ones(M), QUADRATURE)
    assert_within(weight @ mixture_densities(case, family, engine).exp(), torch.tensor(1.0), QUADRATURE)


# ---------------------------------------------------------------- EM, and few points


@quick
@given(problems(least_points=60, least_components=1))
@pytest.mark.parametrize("engine", ENGINES)
def test_the_likelihood_does_not_fall_over_an_em_step(engine, problem):
    case = problem.case
    before = statistics(case, engine, **problem.offsets)
    counts = before.counts.double()
    group = torch.repeat_interleave(problem.component_offsets.diff())
    # A component of fewer points than this may have no covariance.
    assume((counts > 3 * case.x.shape[1]).all())
    covariance = before.scatters.double() / counts[:, None, None]
    improved = case._replace(
        log_weight=(counts / problem.group_offsets.diff()[group]).log(),
        location=case.location.double() + before.sums.double() / counts[:, None],
        precision_chol=torch.linalg.inv(torch.linalg.cholesky(covariance)),
    )
    improved = improved._replace(**{name: getattr(improved, name).to(case.x.dtype) for name in improved._fields[:5]})
    after = statistics(improved, engine, **problem.offsets)
    slack = float(tolerance(improved, component_densities(improved, "gaussian", "reference")).amax(1).sum())
    assert (after.log_likelihood > before.log_likelihood - slack).all()
    assert after.log_likelihood.sum() > before.log_likelihood.sum()


@quick
@given(st.integers(1, 6), st.integers(0, 10**6), st.sampled_from([torch.float32, torch.float64]))
@pytest.mark.parametrize("engine", ENGINES)
def test_fewer_points_than_features_and_a_constant_feature(engine, N, seed, dtype):
    D = 8
    case = mixture_case(N, 2, D, dtype, seed=seed, spread=0.3)
    case = case._replace(x=case.x.index_fill(1, torch.tensor([3]), 0.1))
    for family in FAMILIES:
        actual, expected = (component_densities(case, family, name) for name in (engine, "reference"))
        assert_within(actual, expected, tolerance(case, expected))
    of_one = case._replace(
        log_weight=case.log_weight[:1], location=case.location[:1], precision_chol=case.precision_chol[:1]
    )
    hard = kernels.component_statistics(case.x, torch.zeros(N, dtype=torch.int64), 1, engine=engine).scatters[0, 0]
    soft = statistics(of_one, engine).scatters[0]
    for scatter, precision in ((hard, torch.float64), (soft, dtype)):
        rounding = moments(precision, N, float(scatter.abs().max()) + 1)
        assert_within(scatter[3], torch.zeros(D), rounding)
        eigenvalues = torch.linalg.eigvalsh(scatter.double())
        # N points about their mean span N - 1 dimensions at most.
        assert_within(eigenvalues[: D - N + 1], torch.zeros(D - N + 1), rounding)
        assert (eigenvalues[D - N + 1 :] > rounding).all()
