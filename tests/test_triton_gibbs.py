"""Gibbs sweeps of the Triton engine, label for label: under the interpreter, or on the GPU where there is one."""

import importlib
import warnings
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch
from test_gibbs import two_places
from tolerances import UNIFORM_EDGE, UNIT_ROUNDOFF, assert_within

import kernels
from kernels import AlphaNoise, GibbsState, NIWPrior

pytest.importorskip("triton")
# By name: the package's attribute of that name may be the function.
engine = importlib.import_module("kernels.triton.gibbs_sweep")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Problem(NamedTuple):
    """Arguments of `gibbs_sweep`, on the CPU."""

    state: GibbsState
    x: torch.Tensor
    order: torch.Tensor
    uniforms: torch.Tensor
    noise: AlphaNoise
    prior: NIWPrior
    group_offsets: torch.Tensor


def make_problem(sizes, D, T, seed=0, labels=None, alpha=None, alpha_shape=1, shift=0.0, scale=1.0) -> Problem:
    """Groups of three clusters and six random initial components; the prior's scale matrix is full, not diagonal."""
    rng = np.random.default_rng([seed, sum(sizes), D, T])
    N, G = sum(sizes), len(sizes)
    groups = list(pairwise(np.concatenate([[0], np.cumsum(sizes)])))
    x = scale * (shift + rng.normal(size=(N, D)) + 3 * rng.integers(0, 3, size=(N, 1)))
    mu0 = np.array([x[a:b].mean(0) for a, b in groups])
    S0 = [np.cov(x[a:b].T, bias=True).reshape(D, D) + scale**2 * np.eye(D) for a, b in groups]
    if labels is None:
        labels = np.concatenate([np.unique(rng.integers(6, size=n), return_inverse=True)[1] for n in sizes])
    alpha = rng.exponential(size=G) + 0.1 if alpha is None else np.full(G, alpha)
    order = np.stack([np.concatenate([rng.permutation(n) for n in sizes]) for _ in range(T)])
    noise = (rng.exponential(size=(T, N)), rng.exponential(size=(T, N + alpha_shape * G)), rng.random((T, G)))
    prior = (mu0, np.full(G, 0.01), np.full(G, D + 2.0), np.array(S0) / 6 ** (2 / D))
    tensor = torch.from_numpy
    return Problem(
        GibbsState(tensor(np.asarray(labels)), tensor(alpha)),
        tensor(x),
        tensor(order),
        tensor(rng.random((T, N))),
        AlphaNoise(*map(tensor, noise)),
        NIWPrior(*map(tensor, prior)),
        tensor(np.concatenate([[0], np.cumsum(sizes)])),
    )


def sweep(problem: Problem, alpha_noise: bool = True, **options) -> GibbsState:
    """By the Triton engine; the result on the CPU."""
    state, x, order, uniforms, noise, prior, group_offsets = (
        type(value)(*(field.to(DEVICE) for field in value)) if isinstance(value, tuple) else value.to(DEVICE)
        for value in problem
    )
    noise = noise if alpha_noise else None
    after = engine.gibbs_sweep(state, x, order, uniforms, noise, prior=prior, group_offsets=group_offsets, **options)
    return GibbsState(*(field.cpu() for field in after))


def reference_sweep(problem: Problem, **options) -> tuple[GibbsState, torch.Tensor]:
    """By the reference; and, as `uniforms`, how far each uniform is from an edge of its cumulative probabilities."""
    state, x, order, uniforms, noise, prior, group_offsets = problem
    weights = []
    with pytest.MonkeyPatch.context() as patch:
        softmax = torch.softmax
        patch.setattr(torch, "softmax", lambda *args, **kwargs: weights.append(softmax(*args, **kwargs)) or weights[-1])
        after = kernels.gibbs_sweep(
            state, x, order, uniforms, noise, prior=prior, group_offsets=group_offsets, engine="reference", **options
        )
    assert len(weights) == uniforms.numel()
    edges = (weight.cumsum(0)[:-1] for weight in weights)
    pairs = zip(edges, uniforms.flatten(), strict=True)
    distance = [min((edge - u).abs().tolist(), default=1.0) for edge, u in pairs]
    return after, torch.tensor(distance).reshape(uniforms.shape)


def assert_same_chain(actual: GibbsState, expected: GibbsState, edge_distance: torch.Tensor, problem: Problem) -> None:
    """Equal labels and alpha of each group, up to the sweep in which a uniform of it is too near to an edge to tell."""
    n_near = int((edge_distance < UNIFORM_EDGE).sum())
    if n_near:
        warnings.warn(
            f"{n_near} of {edge_distance.numel()} uniforms are within {UNIFORM_EDGE} of an edge", stacklevel=2
        )
    for g, (a, b) in enumerate(pairwise(problem.group_offsets.tolist())):
        near = (edge_distance[:, a:b] < UNIFORM_EDGE).any(1).nonzero()
        T = int(near[0]) if len(near) else len(edge_distance)
        assert torch.equal(actual.labels[:T, a:b], expected.labels[:T, a:b]), f"group {g}"
        rounding = 4 * (b - a) * UNIT_ROUNDOFF[torch.float64]
        assert_within(actual.alpha[:T, g], expected.alpha[:T, g], rounding * expected.alpha[:T, g])


# Group sizes, D, sweeps, block size, shared_new. Sizes around a tile of 16 points; D in every entry of the table.
CASES = [
    ([1, 8, 13], 1, 2, 1, False),
    ([12, 1, 7], 2, 2, 4, False),
    ([11, 1, 7], 2, 2, 4, True),
    ([15, 6], 3, 2, 1, False),
    ([10, 12], 3, 2, 3, True),
    ([33], 5, 1, 32, False),
    ([35], 16, 1, 1, False),
    ([9, 17], 17, 1, 4, False),
    ([16], 33, 1, 1, False),
    ([9], 64, 1, 4, True),
    ([18], 70, 1, 1, False),
]


@pytest.mark.parametrize(("sizes", "D", "T", "block_size", "shared_new"), CASES)
def test_labels_equal_the_reference(sizes, D, T, block_size, shared_new, poisoned):
    problem = make_problem(sizes, D, T)
    options = {"block_size": block_size, "shared_new": shared_new}
    expected, edge_distance = reference_sweep(problem, **options)
    assert_same_chain(sweep(problem, **options), expected, edge_distance, problem)


def test_the_cases_open_and_empty_components():
    opened = emptied = 0
    for sizes, D, T, block_size, shared_new in CASES:
        problem = make_problem(sizes, D, T)
        labels = reference_sweep(problem, block_size=block_size, shared_new=shared_new)[0].labels
        for a, b in pairwise(problem.group_offsets.tolist()):
            K = torch.cat([problem.state.labels[None], labels])[:, a:b].amax(1) + 1
            opened += int((K.diff() > 0).sum())
            emptied += int((K.diff() < 0).sum())
    assert opened >= 3
    assert emptied >= 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("shift", "scale"), [(1e3, 1.0), (0.0, 1e-8), (0.0, 1e8)])
def test_shifted_and_scaled_data_of_either_dtype(dtype, shift, scale):
    made = make_problem([14], 4, 1, shift=shift, scale=scale)
    problem = made._replace(x=made.x.to(dtype), uniforms=made.uniforms.to(dtype))
    expected, edge_distance = reference_sweep(problem)
    assert_same_chain(sweep(problem), expected, edge_distance, problem)


@pytest.mark.parametrize("alpha_shape", [1, 2])
def test_alpha(alpha_shape):
    problem = make_problem([6, 1, 9], 2, 2, seed=4, alpha_shape=alpha_shape)
    expected, edge_distance = reference_sweep(problem, alpha_shape=alpha_shape)
    assert (expected.alpha[0] != problem.state.alpha).all()
    assert_same_chain(sweep(problem, alpha_shape=alpha_shape), expected, edge_distance, problem)
    kept = sweep(problem, alpha_noise=False, alpha_shape=alpha_shape).alpha
    assert torch.equal(kept, problem.state.alpha.expand(2, -1))


@pytest.mark.parametrize("block_size", [1, 3])
def test_a_power_of_the_likelihood(block_size):
    problem = make_problem([10, 7], 3, 2)
    for power in (torch.tensor([0.0, 0.3]), torch.tensor([[0.2, 1.0], [0.6, 2.0]])):
        options = {"block_size": block_size, "inverse_temperature": power.double()}
        expected, edge_distance = reference_sweep(problem, **options)
        options["inverse_temperature"] = options["inverse_temperature"].to(DEVICE)
        assert_same_chain(sweep(problem, **options), expected, edge_distance, problem)


def test_more_components_than_are_looked_at_together():
    # From 40 components to 40 or so: more than the 32 slots of a step.
    problem = make_problem([40], 2, 1, labels=np.arange(40), alpha=1e4)
    expected, edge_distance = reference_sweep(problem)
    assert expected.labels.max() >= 32
    assert_same_chain(sweep(problem), expected, edge_distance, problem)


@pytest.mark.skipif(DEVICE == "cuda", reason="compiled kernels do not look the number up again")
def test_draws_among_more_components_than_are_looked_at_together(monkeypatch, poisoned):
    """Two at a time, of five. At power 0 they are drawn by their sizes alone, so that none is next to certain."""
    problem = make_problem([9], 1, 1, labels=np.array([*range(5), 3, 3, 4, 4]), alpha=1.0)
    options = {"inverse_temperature": torch.zeros(1, dtype=torch.float64)}
    expected, edge_distance = reference_sweep(problem, **options)
    monkeypatch.setattr(engine, "SLOTS", type(engine.SLOTS)(2))
    assert_same_chain(sweep(problem, **options), expected, edge_distance, problem)


def test_a_uniform_of_zero_draws_no_slot_without_weight():
    state, x, order, uniforms, arguments = two_places()
    problem = Problem(state, x, order, uniforms, AlphaNoise(*3 * [uniforms]), **arguments)
    assert torch.equal(sweep(problem, alpha_noise=False).labels[0], state.labels)


def test_a_correction_is_refused_as_blocks_have_none():
    problem = make_problem([6], 2, 1)
    with pytest.raises(ValueError, match="correction must be None on engine 'triton', which draws blocks without it"):
        sweep(problem, correction=problem.uniforms.to(DEVICE))


def test_groups_that_outgrow_their_memory_go_on_with_more(monkeypatch, poisoned):
    problem = make_problem([16, 5, 1], 2, 3, labels=np.zeros(22, np.int64), alpha=3.0)
    with_room = sweep(problem)
    programs = []

    class Counted:
        def __getitem__(self, grid):
            programs.append(*grid)
            return kernel[grid]

    kernel = engine._gibbs_kernel
    monkeypatch.setattr(engine, "_gibbs_kernel", Counted())
    monkeypatch.setattr(engine, "FIRST_CAPACITY", 2)
    grown = sweep(problem)
    assert programs[0] == 3
    assert 1 <= programs[-1] < 3, "no group outgrew its memory, or a group that had not was started again"
    assert torch.equal(grown.labels, with_room.labels)
    assert torch.equal(grown.alpha, with_room.alpha)
    expected, edge_distance = reference_sweep(problem)
    assert_same_chain(grown, expected, edge_distance, problem)


@pytest.mark.parametrize("block_size", [1, 4])
def test_two_runs_and_two_halves_are_bitwise_equal(block_size, poisoned):
    problem = make_problem([10, 1, 17], 3, 2, seed=1)
    whole, again = (sweep(problem, block_size=block_size) for _ in range(2))
    assert torch.equal(whole.labels, again.labels)
    assert torch.equal(whole.alpha, again.alpha)
    state = problem.state
    for t in range(2):
        noise = AlphaNoise(*(field[t] for field in problem.noise))
        one = problem._replace(state=state, order=problem.order[t], uniforms=problem.uniforms[t], noise=noise)
        state = sweep(one, block_size=block_size)
        assert torch.equal(state.labels, whole.labels[t])
        assert torch.equal(state.alpha, whole.alpha[t])


def test_inputs_may_be_strided_and_stay_as_they_are():
    problem = make_problem([13], 3, 1)
    strided = problem._replace(x=problem.x.T.contiguous().T, order=problem.order.T.contiguous().T)
    before = [tensor.clone() for tensor in (problem.state.labels, problem.state.alpha, problem.x, problem.order)]
    assert torch.equal(sweep(strided).labels, sweep(problem).labels)
    for now, then in zip((problem.state.labels, problem.state.alpha, problem.x, problem.order), before, strict=True):
        assert torch.equal(now, then)


def test_numpy_integers_are_integers():
    problem = make_problem([9], 2, 1)
    numpy = sweep(problem, block_size=np.int64(4), alpha_shape=np.int64(1), shared_new=np.bool_(True))
    assert torch.equal(numpy.labels, sweep(problem, block_size=4, shared_new=True).labels)


def test_the_prior_is_factored_without_waiting_for_it(monkeypatch):
    # torch.linalg.cholesky waits for the device, to raise an error if need be.
    problem = make_problem([6], 2, 1)
    expected = sweep(problem).labels
    monkeypatch.setattr(torch.linalg, "cholesky", None)
    assert torch.equal(sweep(problem).labels, expected)


def test_one_group_without_offsets(monkeypatch):
    problem = make_problem([6], 2, 1)
    expected = sweep(problem, alpha_noise=False).labels
    arguments = [value.to(DEVICE) for value in (problem.x, problem.order, problem.uniforms)]
    state, prior = (type(v)(*(f.to(DEVICE) for f in v)) for v in (problem.state, problem.prior))
    monkeypatch.setattr(torch, "tensor", None)  # it would copy two numbers from the host, which waits for the device
    assert torch.equal(engine.gibbs_sweep(state, *arguments, prior=prior).labels.cpu(), expected)


def test_too_many_features_are_refused():
    problem = make_problem([2], 129, 1)
    with pytest.raises(ValueError, match="at most 128 features, got 129"):
        sweep(problem)
