"""Split-merge moves and log joint densities of the Triton engine: under the interpreter, or on the GPU where one is."""

import importlib
from itertools import pairwise

import numpy as np
import pytest
import torch
from test_gibbs import make_noise, make_problem
from test_split_merge import make_proposals
from tolerances import PEER_RELATIVE

import kernels
from kernels import GibbsState, NIWPrior, SplitMergeProposals

pytest.importorskip("triton")

from kernels.triton import common

# By name: the package's attribute of that name is the function.
engine = importlib.import_module("kernels.triton.split_merge")
log_joint = importlib.import_module("kernels.triton.log_joint").log_joint
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def there(value):
    return type(value)(*(field.to(DEVICE) for field in value)) if isinstance(value, tuple) else value.to(DEVICE)


def on_device(state, x, proposals, arguments):
    """By the Triton engine; the results on the CPU."""
    moved = {name: there(value) for name, value in arguments.items()}
    return [
        type(found)(*(field.cpu() for field in found))
        for found in engine.split_merge(there(state), there(x), there(proposals), **moved)
    ]


def assert_moves_of_the_reference(state, x, proposals, arguments):
    """Label for label; returns how many splits and merges were accepted."""
    expected, expected_info = kernels.split_merge(state, x, proposals, engine="reference", **arguments)
    found, info = on_device(state, x, proposals, arguments)
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.alpha, state.alpha)
    assert torch.equal(info.split, expected_info.split)
    assert torch.equal(info.accepted, expected_info.accepted)
    assert torch.allclose(info.log_ratio, expected_info.log_ratio, rtol=PEER_RELATIVE, atol=PEER_RELATIVE)
    return np.array([int((info.accepted & kind).sum()) for kind in (info.split, ~info.split)])


def problem(D, N=14, G=2, seed=0, n_components=4, P=8, n_candidates=None, launch="random"):
    state, x, _, _, _, arguments = make_problem(seed, N=N, D=D, G=G, T=1, n_components=n_components)
    rng = np.random.default_rng(seed)
    return state, x, make_proposals(rng, arguments["group_offsets"], P, 2, n_candidates, launch), arguments


# D in every entry of the table of block sizes.
@pytest.mark.parametrize("held", [1, 32])
@pytest.mark.parametrize(
    ("D", "n_candidates", "launch"),
    [(1, None, "random"), (2, 5, "with i"), (3, 0, "random"), (17, 6, "with i"), (33, 4, "random"), (70, 3, "with i")],
)
def test_moves_equal_the_reference(D, n_candidates, launch, held, monkeypatch, poisoned):
    """With and without memory for the records of all components."""
    monkeypatch.setattr(engine, "MOST_HELD", held)
    P = 5 if D < 17 else 3
    assert_moves_of_the_reference(*problem(D, P=P, n_candidates=n_candidates, launch=launch))


def test_the_cases_split_and_unite(poisoned):
    accepted = sum(
        assert_moves_of_the_reference(*problem(D, seed=seed, n_candidates=6)) for D, seed in ((1, 2), (2, 3))
    )
    assert (accepted >= 2).all(), f"{accepted.tolist()} splits and merges were accepted"


def test_more_components_than_points_looked_at_together():
    """At this alpha all that can be split is: 33 of 40 points are alone, the others will be nearly so."""
    state, x, proposals, arguments = problem(2, N=40, G=1, P=16, n_candidates=3)
    proposals = proposals._replace(anchors=33 + torch.arange(32).view(16, 1, 2) % 7)
    taken = (proposals.candidates[..., None] == proposals.anchors[:, :, None]).any(-1)
    proposals = proposals._replace(candidates=proposals.candidates.masked_fill(taken, -1))
    labels = torch.cat([1 + torch.arange(33), torch.zeros(7, dtype=torch.int64)])
    state = GibbsState(labels, torch.tensor([1e30], dtype=torch.float64))
    assert assert_moves_of_the_reference(state, x, proposals, arguments)[0] >= 4


def test_more_candidates_than_points_looked_at_together(poisoned):
    """The first 30 places are empty, so that candidates lie on either side of the 32 that are looked at first."""
    state, x, proposals, arguments = problem(2, N=9, G=1, P=3, n_components=2)

    def later(field, empty):
        return torch.cat([torch.full((*field.shape[:-1], 30), empty, dtype=field.dtype), field], dim=-1)

    spread = proposals._replace(
        candidates=later(proposals.candidates, -1),
        launch=later(proposals.launch, False),
        uniforms=later(proposals.uniforms, 0.0),
        accept=torch.zeros_like(proposals.accept),  # whatever is possible
    )
    assert assert_moves_of_the_reference(state, x, spread, arguments)[1] >= 1


def test_one_call_equals_many_and_two_runs_are_equal_to_the_bit(poisoned):
    state, x, proposals, arguments = problem(3, P=4, n_candidates=6)
    together, info = on_device(state, x, proposals, arguments)
    again, info_again = on_device(state, x, proposals, arguments)
    assert torch.equal(together.labels, again.labels)
    assert torch.equal(info.log_ratio, info_again.log_ratio)
    one_by_one = state
    for p in range(4):
        single = SplitMergeProposals(*(field[p : p + 1] for field in proposals))
        one_by_one, _ = on_device(one_by_one, x, single, arguments)
    assert torch.equal(together.labels, one_by_one.labels)


def test_float32_points_strided_inputs_and_anchors_that_are_one_point():
    state, x, proposals, arguments = problem(4, P=5)
    anchors = proposals.anchors.clone()
    anchors[2, :, 1] = anchors[2, :, 0]  # no proposal
    strided = x.float().T.contiguous().T
    given = proposals._replace(anchors=anchors, uniforms=proposals.uniforms.mT.contiguous().mT)
    assert_moves_of_the_reference(state, strided, given, arguments)


def test_a_ratio_that_is_no_number_is_refused():
    state, x, proposals, arguments = problem(2, P=3)
    broken = arguments["prior"]._replace(kappa0=torch.full_like(arguments["prior"].kappa0, torch.nan))
    found, info = on_device(state, x, proposals, arguments | {"prior": broken})
    assert torch.equal(found.labels, state.labels)
    assert not info.accepted.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("D", [1, 3, 17, 64, 70])
def test_log_joint_equals_the_reference(D, dtype, poisoned):
    state, x, _, _, _, arguments = make_problem(D, N=20 if D < 17 else 9, D=D, G=3, T=1, n_components=3)
    sizes = arguments["group_offsets"].diff()
    each_alone = torch.cat([torch.arange(n) for n in sizes.tolist()])
    states = GibbsState(torch.stack([state.labels, each_alone]), torch.stack([state.alpha, 3 * state.alpha]))
    expected = kernels.log_joint(states, x.to(dtype), engine="reference", **arguments)
    moved = {name: there(value) for name, value in arguments.items()}

    def found(states):
        return log_joint(there(states), there(x.to(dtype)), **moved).cpu()

    assert torch.allclose(found(states), expected, rtol=PEER_RELATIVE)
    assert torch.allclose(found(GibbsState(*(field[1] for field in states))), expected[1], rtol=PEER_RELATIVE)
    assert found(GibbsState(*(field[:0] for field in states))).shape == (0, 3)


def test_log_joint_of_more_points_than_are_looked_at_together():
    state, x, _, arguments = problem(1, N=35, G=1)
    state = GibbsState(torch.zeros(35, dtype=torch.int64), state.alpha)
    expected = kernels.log_joint(state, x, engine="reference", **arguments)
    moved = {name: there(value) for name, value in arguments.items()}
    assert torch.allclose(log_joint(there(state), there(x), **moved).cpu(), expected, rtol=PEER_RELATIVE)


def test_log_joint_of_numbers_that_no_point_has():
    """Which only a caller that does not check its labels can give."""
    state, x, _, arguments = problem(2, G=1)
    numbers = torch.tensor([0, 2, 3, 5])
    gaps = GibbsState(numbers[state.labels.clamp(max=3)], state.alpha)
    without = GibbsState(state.labels.clamp(max=3), state.alpha)
    expected = kernels.log_joint(without, x, engine="reference", **arguments)
    moved = {name: there(value) for name, value in arguments.items()}
    assert torch.allclose(log_joint(there(gaps), there(x), **moved).cpu(), expected, rtol=PEER_RELATIVE)


@pytest.mark.parametrize("alpha", [1e4, 1e6, 1e12, 1e30])
def test_log_joint_of_a_large_alpha(alpha):
    state, x, _, arguments = problem(3, G=3)
    state = GibbsState(state.labels, torch.full_like(state.alpha, alpha))
    expected = kernels.log_joint(state, x, engine="reference", **arguments)
    moved = {name: there(value) for name, value in arguments.items()}
    assert torch.allclose(log_joint(there(state), there(x), **moved).cpu(), expected, rtol=PEER_RELATIVE)


def test_a_prior_of_nearly_dependent_features_far_from_zero_loses_no_digits():
    """S0 = L L' of condition 1e8: as in the units in which it is the identity, where the reference is exact."""
    D = 3
    state, x, proposals, arguments = problem(D, N=20, G=2, P=6)
    near = arguments["prior"]._replace(mu0=torch.zeros(2, D).double(), S0=torch.eye(D).double().repeat(2, 1, 1))
    z = x.double() - x.double().mean(0)
    rotation = torch.linalg.qr(torch.randn(D, D, generator=torch.manual_seed(0)).double()).Q
    L = torch.linalg.cholesky(rotation @ torch.diag(torch.logspace(0, 8, D).double()) @ rotation.T)
    mu0 = torch.full((D,), 1e3).double()
    far = near._replace(mu0=mu0.repeat(2, 1), S0=(L @ L.T).repeat(2, 1, 1))
    points = z @ L.T + mu0
    offsets = arguments["group_offsets"]
    of_near, of_far = ({"prior": prior, "group_offsets": offsets} for prior in (near, far))
    expected, info = kernels.split_merge(state, z, proposals, engine="reference", **of_near)
    found, found_info = on_device(state, points, proposals, of_far)
    assert torch.equal(found.labels, expected.labels)
    rounding = 1e-7  # of S0: 1e8 times that of a number
    finite = info.log_ratio.isfinite()
    assert (info.log_ratio[finite].abs() > 0.1).any()
    assert (found_info.log_ratio[finite] - info.log_ratio[finite]).abs().max() < rounding
    moved = {name: there(value) for name, value in of_far.items()}
    scale = offsets.diff() * L.diagonal().log().sum()  # of densities, in other units
    joint = log_joint(there(state), there(points), **moved).cpu()
    assert torch.allclose(joint, kernels.log_joint(state, z, engine="reference", **of_near) - scale, atol=10 * rounding)
    order, uniforms, noise = make_noise(np.random.default_rng(0), offsets, 3)
    labels = kernels.gibbs_sweep(state, z, order, uniforms, noise, engine="reference", **of_near).labels
    noise = type(noise)(*map(there, noise))
    swept = kernels.gibbs_sweep(
        there(state), there(points), there(order), there(uniforms), noise, engine="triton", **moved
    )
    assert torch.equal(swept.labels.cpu(), labels)


@pytest.mark.parametrize("call", ["split_merge", "gibbs_sweep", "log_joint"])
def test_points_that_could_not_leave_a_component_are_refused(call):
    """Just within the limit labels are those of the reference."""

    def found(engine, far):
        state, x, proposals, arguments = problem(3, N=12, G=1, P=4, n_candidates=6)
        order, uniforms, _ = (there(v) for v in make_noise(np.random.default_rng(0), arguments["group_offsets"], 1))
        prior = arguments["prior"]._replace(S0=torch.eye(3).double()[None])
        x[1] = arguments["prior"].mu0[0] + far / 3**0.5
        arguments = {name: there(value) for name, value in (arguments | {"prior": prior}).items()}
        if call == "log_joint":
            return kernels.log_joint(there(state), there(x), engine=engine, **arguments).cpu()
        if call == "split_merge":
            after, _ = kernels.split_merge(there(state), there(x), there(proposals), engine=engine, **arguments)
        else:
            after = kernels.gibbs_sweep(there(state), there(x), order[0], uniforms[0], engine=engine, **arguments)
        return after.labels.cpu()

    within, expected = found("triton", 999.0), found("reference", 999.0)
    if call == "log_joint":
        assert torch.allclose(within, expected, rtol=PEER_RELATIVE, atol=0)
    else:
        assert torch.equal(within, expected)
    with pytest.raises(ValueError, match=r"is at most 1e\+06, or .*; group 0 has one of 1e\+06"):
        found("triton", 1001.0)


def test_a_distance_that_is_no_number_is_refused():
    """The others are at the prior's mean; whitened, this one is inf - inf, because the features are correlated."""
    state, x, _, arguments = problem(3, N=12, G=1)
    x[:] = 0.0
    x[1] = 1e160
    S0 = 1e-300 * (0.1 * torch.eye(3) + 0.9).double()[None]
    prior = arguments["prior"]._replace(mu0=torch.zeros(1, 3).double(), S0=S0)
    arguments = {name: there(value) for name, value in (arguments | {"prior": prior}).items()}
    with pytest.raises(ValueError, match=r"is at most 1e\+06, or .*; group 0 has one of nan"):
        log_joint(there(state), there(x), **arguments)


def test_points_are_whitened_by_the_prior_of_their_group_however_many_at_a_time(monkeypatch):
    records = importlib.import_module("kernels.triton.records")
    _, x, _, arguments = problem(3, N=20, G=3)
    mu0, _, _, S0 = (field.numpy() for field in arguments["prior"])
    edges, chol = pairwise(arguments["group_offsets"].tolist()), np.linalg.cholesky(S0)
    expected = np.concatenate(
        [np.linalg.solve(L, (x[a:b].numpy() - m).T).T for (a, b), L, m in zip(edges, chol, mu0, strict=True)]
    )
    moved = [there(arguments[name]) for name in ("prior", "group_offsets")]
    for tile, at_once in ((32, 1000), (4, 2), (5, 1), (1, 7)):
        monkeypatch.setattr(records, "TILE", tile)
        monkeypatch.setattr(records, "WHITENED_BYTES", 8 * 3 * (3 + 2 * tile) * at_once)
        z, log_det = records.whitened(there(x), *moved)
        np.testing.assert_allclose(z.cpu(), expected, rtol=PEER_RELATIVE)
        np.testing.assert_allclose(log_det.cpu(), np.linalg.slogdet(S0)[1], rtol=PEER_RELATIVE)


def test_views_at_odd_addresses_run_the_same_kernels():
    state = problem(2, G=1)[0]
    odd = torch.cat([state.alpha, state.alpha])[1:]
    assert odd.data_ptr() % 16
    assert common.aligned(odd).data_ptr() % 16 == 0
    assert torch.equal(common.aligned(odd), odd)
    assert common.aligned(state.alpha) is state.alpha


def test_one_group_without_offsets(monkeypatch):
    state, x, proposals, arguments = problem(2, G=1, P=2)
    prior: NIWPrior = arguments["prior"]
    with_offsets = on_device(state, x, proposals, arguments)[0]
    monkeypatch.setattr(torch, "tensor", None)  # it would copy two numbers from the host, which waits for the device
    found, _ = engine.split_merge(there(state), there(x), there(proposals), prior=there(prior))
    assert torch.equal(found.labels.cpu(), with_offsets.labels)
    assert torch.equal(
        log_joint(there(state), there(x), prior=there(prior)),
        log_joint(there(state), there(x), **{name: there(value) for name, value in arguments.items()}),
    )
