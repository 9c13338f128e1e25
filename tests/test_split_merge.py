"""Split-merge and corrected block moves: engine against reference label for label; enumeration; Geweke's test."""

import importlib
from functools import cache

import numpy as np
import pytest
import tolerances
import torch
from scipy.special import gammaln
from test_gibbs import (
    draw_partitions,
    draw_points,
    exact_posterior,
    far_in_the_second_group,
    far_problem,
    geweke_statistics,
    make_noise,
    make_prior,
    make_problem,
    moved_far_from_zero,
    scipy_log_marginal,
)
from tolerances import MONTE_CARLO_SIGMAS, PEER_RELATIVE

from classfit.proposals import aim_of, companions_of, peels, unlearned
from kernels import AlphaNoise, GibbsState, NIWPrior, SplitMergeProposals, gibbs_sweep, split_merge, unchecked
from kernels.cpu import components, rank_one
from kernels.cpu.moments import factor_scratch
from kernels.cpu.parts import Proposal
from kernels.cpu.peels import MOST_CANDIDATES, make_peel, propose_peel
from kernels.cpu.small_components import LARGEST_PRODUCT

split_merge_of_engine = importlib.import_module("kernels.cpu.split_merge")


def make_proposals(
    rng: np.random.Generator,
    group_offsets: torch.Tensor,
    P: int,
    n_scans: int = 2,
    n_candidates: int | None = None,
    launch: str = "random",
) -> SplitMergeProposals:
    """Random anchors and, in random order, all other points of the group or the first few of them as candidates."""
    sizes = group_offsets.diff().tolist()
    C = max(sizes) if n_candidates is None else n_candidates
    anchors, candidates = np.zeros((P, len(sizes), 2), np.int64), np.full((P, len(sizes), C), -1)
    for p in range(P):
        for g, n in enumerate(sizes):
            points = rng.permutation(n)
            if n > 1:
                anchors[p, g] = points[:2]
                rest = points[2 : 2 + C]
                candidates[p, g, : len(rest)] = rest
    bits = rng.random(candidates.shape) < 0.5 if launch == "random" else np.ones(candidates.shape, np.bool_)
    numbers = (anchors, candidates, bits, rng.random((P, len(sizes), n_scans, C)), rng.random((P, len(sizes))))
    return SplitMergeProposals(*(torch.from_numpy(field) for field in numbers))


# --- Engine against reference


@pytest.fixture
def form(request, monkeypatch) -> None:
    """How the engine makes proposals of few candidates; of many it makes all by factors."""
    if request.param == "factors":
        monkeypatch.setattr(split_merge_of_engine, "MOST_CANDIDATES", -1)


@pytest.mark.parametrize("form", ["products", "factors"], indirect=True)
@pytest.mark.parametrize(("n_candidates", "launch"), [(None, "random"), (5, "with i"), (0, "random")])
@pytest.mark.parametrize("D", [1, 2, 5, 17])
def test_engine_makes_the_moves_of_the_reference(D, n_candidates, launch, form):
    accepted = torch.zeros(2)
    for seed in range(2):
        state, x, _, _, _, arguments = make_problem(seed, N=40, D=D, G=3, T=1, n_components=4)
        rng, offsets = np.random.default_rng(seed), arguments["group_offsets"]
        proposals = make_proposals(rng, offsets, 25, 3, n_candidates, launch)
        expected, expected_info = split_merge(state, x, proposals, engine="reference", **arguments)
        got, info = split_merge(state, x, proposals, **arguments)
        assert torch.equal(got.labels, expected.labels)
        assert torch.equal(got.alpha, state.alpha)
        assert torch.equal(info.split, expected_info.split)
        assert torch.equal(info.accepted, expected_info.accepted)
        assert torch.allclose(info.log_ratio, expected_info.log_ratio, rtol=PEER_RELATIVE, atol=PEER_RELATIVE)
        accepted += torch.stack([(info.accepted & info.split).sum(), (info.accepted & ~info.split).sum()])
    assert n_candidates == 0 or (accepted > 0).all(), f"{accepted.tolist()} splits and merges were accepted"


@pytest.mark.parametrize(
    ("engine", "form"), [("reference", ""), ("cpu", "products"), ("cpu", "factors")], indirect=["form"]
)
def test_ratio_where_the_split_that_undoes_a_merge_is_next_to_impossible(engine, form):
    """The candidate, labelled as the 400 points far away, would join them by odds of exp(-1500)."""
    rng, D = np.random.default_rng(3), 2
    x = np.concatenate([rng.normal(size=(400, D)), [[1000.0, 0.0], [1000.5, 0.0]]])
    near, i, k = list(range(400)), 400, 401
    prior = NIWPrior(
        *(torch.from_numpy(v) for v in (np.zeros((1, D)), np.array([0.01]), np.array([4.0]), np.eye(D)[None]))
    )
    labels = torch.zeros(402, dtype=torch.int64)
    labels[i] = 1
    numbers = ([[[i, 0]]], [[[k]]], [[[True]]], [[[[0.5]]]], [[0.5]])
    proposals = SplitMergeProposals(*map(torch.tensor, numbers))
    proposals = proposals._replace(uniforms=proposals.uniforms.double(), accept=proposals.accept.double())
    state = GibbsState(labels, torch.tensor([0.7], dtype=torch.float64))
    _, info = split_merge(state, x=torch.from_numpy(x), proposals=proposals, prior=prior, engine=engine)

    def marginal(*points: int) -> float:
        return scipy_log_marginal(x[list(points)], prior)

    of_i, of_near = marginal(i, k) - marginal(i), np.log(400) + marginal(*near, k) - marginal(*near)
    assert of_near - of_i < -1500
    log_split = np.log(0.7) + gammaln(401) - gammaln(402) + marginal(i) + marginal(*near, k) - marginal(*near, i, k)
    log_split -= of_near - np.logaddexp(of_i, of_near)
    assert float(info.log_ratio) == pytest.approx(-log_split, rel=1e-9)


def test_more_components_than_memory_is_first_set_aside_for():
    state, x, _, _, _, arguments = make_problem(5, N=50, D=2, G=1, T=1)
    state = GibbsState(torch.arange(50), torch.tensor([1e30], dtype=torch.float64))
    proposals = make_proposals(np.random.default_rng(5), arguments["group_offsets"], 150)
    merged, info = split_merge(state, x, proposals, **arguments)
    assert torch.equal(merged.labels, state.labels), "at this alpha nothing unites"
    state = GibbsState(torch.zeros(50, dtype=torch.int64), state.alpha)
    results = [split_merge(state, x, proposals, engine=engine, **arguments) for engine in ("reference", "cpu")]
    assert torch.equal(results[0][0].labels, results[1][0].labels)
    assert results[1][0].labels.max() > 16
    assert not info.split.any()


@pytest.mark.parametrize("n_candidates", [None, MOST_CANDIDATES])
def test_64_dimensions_and_float32_data(n_candidates):
    state, x, _, _, _, arguments = make_problem(7, N=90, D=64, G=2, T=1)
    proposals = make_proposals(np.random.default_rng(7), arguments["group_offsets"], 6, 2, n_candidates)
    x = x.float()
    (expected, expected_info), (got, info) = (
        split_merge(state, x, proposals, engine=engine, **arguments) for engine in ("reference", "cpu")
    )
    assert torch.equal(got.labels, expected.labels)
    assert torch.allclose(info.log_ratio, expected_info.log_ratio, rtol=PEER_RELATIVE, atol=1e3 * PEER_RELATIVE)


def test_one_call_equals_many_on_any_number_of_threads_and_inputs_stay(two_threads, poisoned):
    state, x, _, _, _, arguments = make_problem(4, N=200, D=4, G=5, T=1)
    proposals = make_proposals(np.random.default_rng(4), arguments["group_offsets"], 30)
    before = [field.clone() for field in (*state, x, *proposals)]
    together, _ = split_merge(state, x, proposals, **arguments)
    torch.set_num_threads(1)
    one_by_one = state
    for p in range(30):
        one_by_one, _ = split_merge(
            one_by_one, x, SplitMergeProposals(*(field[p : p + 1] for field in proposals)), **arguments
        )
    assert torch.equal(together.labels, one_by_one.labels)
    for a, b in zip(arguments["group_offsets"][:-1], arguments["group_offsets"][1:], strict=True):
        used = torch.unique(together.labels[a:b])
        assert torch.equal(used, torch.arange(len(used)))
    assert not torch.equal(together.labels, state.labels)
    for now, then in zip((*state, x, *proposals), before, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("block_size", [2, 4, 7])
@pytest.mark.parametrize("D", [1, 3, 17])
def test_corrected_blocks_are_those_of_the_reference(D, block_size):
    refused = 0
    for seed in range(2):
        state, x, order, uniforms, noise, arguments = make_problem(seed, N=60, D=D, G=3, T=2)
        accept = torch.from_numpy(np.random.default_rng(seed).random(order.shape))
        arguments |= {"block_size": block_size}
        expected = gibbs_sweep(state, x, order, uniforms, noise, correction=accept, engine="reference", **arguments)
        for dtype in (torch.float64, torch.float32):
            got = gibbs_sweep(state, x.to(dtype), order, uniforms, noise, correction=accept, **arguments)
            assert torch.equal(got.labels, expected.labels)
        plain = gibbs_sweep(state, x, order, uniforms, noise, **arguments)
        refused += int((plain.labels != expected.labels).sum())
    assert refused > 0, "the correction never refused a block"


@pytest.mark.parametrize("engine", ["reference", "cpu"])
def test_a_group_of_no_more_than_a_block_is_visited_one_point_at_a_time(engine):
    state, x, order, uniforms, noise, arguments = make_problem(1, N=8, D=2, G=2, T=3)
    assert arguments["group_offsets"].tolist() == [0, 1, 8]
    one_by_one = gibbs_sweep(state, x, order, uniforms, noise, engine=engine, **arguments)
    for block_size in (7, 9):
        options = {"block_size": block_size, "correction": uniforms, "engine": engine}
        assert torch.equal(
            gibbs_sweep(state, x, order, uniforms, noise, **options, **arguments).labels, one_by_one.labels
        )


def ratios_in_every_form(state, x, proposals, arguments) -> list[np.ndarray]:
    """Of the reference, of inner products and of factors."""
    _, expected = split_merge(state, x, proposals, engine="reference", **arguments)
    _, products = split_merge(state, x, proposals, **arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split_merge_of_engine, "MOST_CANDIDATES", -1)
        _, factors = split_merge(state, x, proposals, **arguments)
    assert products.log_ratio.isfinite().sum() >= 8
    return [info.log_ratio.numpy() for info in (expected, products, factors)]


@pytest.mark.parametrize(("of_largest", "taken"), [(0.96, True), (1.04, False)])
def test_products_of_points_far_away_are_taken_as_long_as_they_have_digits(of_largest, taken):
    """Two of 30 points in 16 dimensions are so far out; the first is the anchor of every other proposal."""
    distance = 0.25 * np.sqrt(of_largest * LARGEST_PRODUCT)
    state, x, _, _, _, arguments = far_problem((distance, distance), torch.float64)
    proposals = make_proposals(np.random.default_rng(3), arguments["group_offsets"], 40, 2, 8, "with i")
    anchors = proposals.anchors.clone()
    anchors[::2] = torch.tensor([0, 2])
    others = proposals.candidates
    others = torch.where((others == anchors[..., :1]) | (others == anchors[..., 1:]), -1, others)
    proposals = proposals._replace(anchors=anchors, candidates=others)
    expected, products, factors = ratios_in_every_form(state, x, proposals, arguments)
    assert np.array_equal(products, factors) != taken
    np.testing.assert_allclose(products, expected, rtol=tolerances.PRODUCTS_RELATIVE, atol=tolerances.PRODUCTS_NATS)


@pytest.mark.parametrize(("nu0", "taken"), [(50.0, True), (1e6, False)])
def test_products_are_not_taken_where_the_prior_takes_their_digits(nu0, taken):
    state, x, _, _, _, arguments = make_problem(3, N=30, D=4, G=1, T=1, n_components=2)
    proposals = make_proposals(np.random.default_rng(3), arguments["group_offsets"], 20, 2, 8, "with i")
    prior = arguments["prior"]._replace(
        kappa0=torch.full((1,), 1e-7, dtype=torch.float64), nu0=torch.full((1,), nu0, dtype=torch.float64)
    )
    prior = prior._replace(S0=nu0 * prior.S0)
    expected, products, factors = ratios_in_every_form(state, x, proposals, arguments | {"prior": prior})
    assert np.array_equal(products, factors) != taken
    np.testing.assert_allclose(products, expected, rtol=tolerances.PEER_RELATIVE, atol=tolerances.PRODUCTS_NATS)


def test_a_ratio_does_not_depend_on_how_many_candidates_others_name():
    state, x, _, _, _, arguments = make_problem(5, N=20, D=3, G=1, T=1, n_components=2)
    proposals = make_proposals(np.random.default_rng(5), arguments["group_offsets"], 20)
    more = MOST_CANDIDATES + 1 - proposals.candidates.shape[2]
    padded = SplitMergeProposals(
        proposals.anchors,
        *(torch.nn.functional.pad(f, (0, more), value=v) for f, v in zip(proposals[1:4], (-1, 0, 0), strict=True)),
        proposals.accept,
    )
    of_both = [split_merge(state, x, given, **arguments)[1].log_ratio for given in (proposals, padded)]
    assert torch.equal(*of_both)
    assert not np.array_equal(*ratios_in_every_form(state, x, padded, arguments)[1:])


def test_points_far_from_zero_give_the_same_ratios_to_the_bit():
    state, x, _, _, _, arguments = make_problem(6, N=40, D=3, G=2, T=1)
    proposals = make_proposals(np.random.default_rng(6), arguments["group_offsets"], 12)
    near, far = (
        split_merge(state, points, proposals, prior=prior, group_offsets=arguments["group_offsets"])
        for points, prior in moved_far_from_zero(x, arguments["prior"], 2.0**40)
    )
    assert torch.equal(near[0].labels, far[0].labels)
    assert torch.equal(near[1].log_ratio, far[1].log_ratio)


# --- Moves that float64 cannot make


@pytest.mark.parametrize("n_candidates", [None, 0])
def test_a_ratio_that_is_no_number_is_refused(n_candidates):
    state, x, _, _, _, arguments = make_problem(2, N=20, D=2, G=1, T=1, n_components=3)
    proposals = make_proposals(np.random.default_rng(2), arguments["group_offsets"], 20, 2, n_candidates)
    broken = arguments["prior"]._replace(nu0=torch.full((1,), torch.nan, dtype=torch.float64))
    found, info = unchecked(x).split_merge(state, x, proposals, **arguments | {"prior": broken})
    assert torch.equal(found.labels, state.labels)
    assert not info.accepted.any()
    assert 0 < info.split.sum() < 20
    assert info.log_ratio[info.split].isnan().all()
    if n_candidates is None:
        assert info.log_ratio[~info.split].isnan().all()


@pytest.mark.parametrize("D", [1, 2, 7, 64])
def test_the_factor_after_a_point_came_and_after_it_left(D):
    rng, kappa = np.random.default_rng(D), 3.5
    root = np.tril(rng.normal(size=(D, D))) / 8 + np.eye(D)
    x, mean, Dp = rng.normal(size=D), rng.normal(size=D), -(-D // 4) * 4
    W = np.zeros((Dp, Dp))
    W[:D, :D] = np.linalg.inv(root)
    S, d, scratch, now = root @ root.T, x - mean, np.full((2, Dp), np.nan), mean.copy()
    larger = S + kappa / (kappa + 1) * np.outer(d, d)
    change = rank_one.move_factor(x, kappa / (kappa + 1), 1 / (kappa + 1), W, now, *scratch)
    np.testing.assert_allclose(W[:D, :D] @ larger @ W[:D, :D].T, np.eye(D), atol=PEER_RELATIVE)
    np.testing.assert_allclose(now, mean + d / (kappa + 1), rtol=PEER_RELATIVE)
    assert change == pytest.approx(np.linalg.slogdet(larger)[1] - np.linalg.slogdet(S)[1], rel=PEER_RELATIVE)
    assert rank_one.move_factor(x, -(kappa + 1) / kappa, -1 / kappa, W, now, *scratch) == pytest.approx(-change)
    np.testing.assert_allclose(W[:D, :D], np.linalg.inv(root), atol=PEER_RELATIVE)
    np.testing.assert_allclose(now, mean, rtol=PEER_RELATIVE)
    assert not np.triu(W, 1).any()
    assert not W[D:].any()


def test_a_point_that_is_all_of_a_component_leaves_no_number():
    # What rounding may make of 1 - r q for a point far from all others: 0, or less.
    for q in (0.8, 0.9):
        assert np.isnan(rank_one.without(q, kappa=5.0)).all()
    for x in (1.0, 2.0):
        factor, mean, scratch = np.diag([1.0, 1, 0, 0]), np.zeros(2), np.empty((2, 4))
        assert np.isnan(rank_one.move_factor(np.array([x, 0.0]), -1.0, -0.25, factor, mean, *scratch))


@pytest.mark.parametrize("i", [0, 2])
@pytest.mark.parametrize("too_large", [0.5, 2.0])
def test_a_point_that_cannot_be_taken_out_of_a_part_leaves_no_ratio(too_large, i):
    """The factor of a component as rounding may leave it: 1 - r q of the last point is 0, or below it.

    It is a candidate, or the anchor that is to leave the others.
    """
    x, labels, scratch = np.array([[0.0] * 3, [0.0] * 3, [1.0] * 3]), np.zeros(3, np.int64), np.empty(4)
    prior = components.make_prior(x, 1.0, 5.0, np.eye(3), factor_scratch(3))
    one, parts = components.make_components(x, 1), components.make_components(x, 3)
    one.size[0], one.W[0, :3, :3] = 3, too_large * np.eye(3)
    proposal = Proposal(i, 1, np.array([2 - i]), np.array([False]), np.array([[0.5]]))
    marginal, with_i = components.log_marginals(prior), np.empty(3, np.bool_)
    of_both = (x, labels, 1.0, proposal, prior, marginal, one)
    peel = make_peel(x, np.hstack([x, np.ones((3, 1))]))
    assert np.isnan(split_merge_of_engine._propose(*of_both, parts, with_i, scratch, scratch.copy()))
    assert np.isnan(propose_peel(*of_both, peel, with_i))
    one.W[0, :3, :3] = 0.25 * np.eye(3)
    ratio = split_merge_of_engine._propose(*of_both, parts, with_i, scratch, scratch.copy())
    assert np.isfinite(ratio)
    assert propose_peel(*of_both, peel, with_i) == pytest.approx(ratio, rel=1e-9)


def test_what_is_too_far_for_float64_is_refused():
    state, x, _, _, _, arguments = far_problem((3e6,), torch.float64)
    proposals = make_proposals(np.random.default_rng(0), arguments["group_offsets"], 2)
    words = r"\(x - mu0\)' S0\^-1 \(x - mu0\) is below 4.5e\+13, or .* group 0 has a point above"
    with pytest.raises(ValueError, match=words):
        split_merge(state, x, proposals, engine="cpu", **arguments)


@pytest.mark.parametrize("place", [0, 31, 32, 69])
def test_what_is_too_far_is_refused_wherever_it_is(place):
    state, x, _, _, arguments = far_in_the_second_group(place, 3e7)
    proposals = make_proposals(np.random.default_rng(0), arguments["group_offsets"], 1)
    with pytest.raises(ValueError, match=r"below 4.5e\+13, or .* group 1 has a point above"):
        split_merge(state, x, proposals, engine="cpu", **arguments)


# --- Exactness: all partitions of six points

POINTS = np.array([[0.0, 0.0], [0.4, 0.3], [2.5, 1.0], [2.2, 1.6], [1.2, 0.4], [-1.5, 2.0]])
MOVES = {
    "all_points": {"n_candidates": None, "launch": "random"},
    "two_candidates": {"n_candidates": 2, "launch": "with i"},
}


def assert_posterior_over_partitions(labels: np.ndarray, exact: dict[tuple[int, ...], float]) -> None:
    """labels [T, chains, 6]: shares of all partitions against their probabilities, in Monte Carlo standard errors."""
    n_chains = labels.shape[1]
    index = {p: i for i, p in enumerate(exact)}
    counts = np.zeros((n_chains, len(exact)))
    for chain in range(n_chains):
        for row in labels[:, chain]:
            first: dict[int, int] = {}
            counts[chain, index[tuple(first.setdefault(k, len(first)) for k in row)]] += 1
    share, probability = counts / len(labels), np.array(list(exact.values()))
    rare = probability < 2e-3
    share = np.column_stack([share[:, ~rare], share[:, rare].sum(1)])
    probability = np.append(probability[~rare], probability[rare].sum())
    error = (share.mean(0) - probability) / (share.std(0, ddof=1) / np.sqrt(n_chains))
    assert len(probability) >= 15
    assert np.abs(error).max() < MONTE_CARLO_SIGMAS
    assert np.mean(error**2) < 1 + MONTE_CARLO_SIGMAS * np.sqrt(2 / len(error))


@cache
def exact_posterior_of_six_points(inverse_temperature: float = 1.0) -> dict[tuple[int, ...], float]:
    prior = make_prior(POINTS, torch.tensor([0, 6]), n_init_components=3)
    return exact_posterior(POINTS, prior, 0.7, inverse_temperature)


def six_points(n_chains: int):
    prior = make_prior(POINTS, torch.tensor([0, 6]), n_init_components=3)
    arguments = {
        "prior": NIWPrior(*(field.expand(n_chains, *field.shape[1:]).contiguous() for field in prior)),
        "group_offsets": 6 * torch.arange(n_chains + 1),
    }
    alpha = torch.full((n_chains,), 0.7, dtype=torch.float64)
    state = GibbsState(torch.zeros(6 * n_chains, dtype=torch.int64), alpha)
    return exact_posterior_of_six_points(), state, torch.from_numpy(np.tile(POINTS, (n_chains, 1))), arguments


def test_peels_that_aim_sample_the_posterior_over_all_203_partitions():
    """Aimed by labellings of anything: what a peel is tried with does not change what is sampled."""
    n_chains, n_rounds, n_discard, rng = 300, 60, 10, np.random.default_rng(32)
    exact, state, x, arguments = six_points(n_chains)
    companions = companions_of(torch.from_numpy(POINTS), torch.eye(2, dtype=torch.float64))
    aim = aim_of([np.array([0, 0, 1, 1, 0, 2]), np.array([0, 1, 1, 1, 2, 2])], companions)
    assert not np.array_equal(aim.companions, unlearned([companions]).companions)
    rngs, after = rng.spawn(n_chains), []
    for _ in range(n_rounds):
        order, uniforms, _ = make_noise(rng, arguments["group_offsets"], 1)
        state = gibbs_sweep(state, x, order[0], uniforms[0], **arguments)
        state, _ = split_merge(state, x, peels(rngs, [companions] * n_chains, [aim] * n_chains), **arguments)
        after.append(state.labels.reshape(n_chains, 6).numpy())
    assert_posterior_over_partitions(np.stack(after[n_discard:]), exact)


@pytest.mark.parametrize(
    ("move", "form"),
    [("all_points", "factors"), ("all_points", "products"), ("two_candidates", "products")],
    indirect=["form"],
)
def test_split_merge_samples_the_posterior_over_all_203_partitions(move, form):
    """Jain & Neal's move alone reaches every partition; with few candidates, a Gibbs sweep goes between."""
    rng = np.random.default_rng(31)
    n_chains, n_rounds, n_discard = 300, 100, 15
    exact, state, x, arguments = six_points(n_chains)
    after = []
    for _ in range(n_rounds):
        proposals = make_proposals(rng, arguments["group_offsets"], 3, 2, **MOVES[move])
        state, _ = split_merge(state, x, proposals, **arguments)
        if move != "all_points":
            order, uniforms, _ = make_noise(rng, arguments["group_offsets"], 1)
            state = gibbs_sweep(state, x, order[0], uniforms[0], **arguments)
            proposals = make_proposals(rng, arguments["group_offsets"], 3, 2, **MOVES[move])
            state, _ = split_merge(state, x, proposals, **arguments)
        after.append(state.labels.reshape(n_chains, 6).numpy())
    assert_posterior_over_partitions(np.stack(after[n_discard:]), exact)


@pytest.mark.parametrize("block_size", [2, 4, 6])
def test_corrected_blocks_sample_the_posterior_over_all_203_partitions(block_size):
    rng = np.random.default_rng(41)
    n_chains, n_sweeps, n_discard = 300, 300, 40
    exact, state, x, arguments = six_points(n_chains)
    order, uniforms, _ = make_noise(rng, arguments["group_offsets"], n_sweeps)
    accept = torch.from_numpy(rng.random(order.shape))
    arguments |= {"block_size": block_size}
    result = gibbs_sweep(state, x, order, uniforms, correction=accept, **arguments)
    assert_posterior_over_partitions(result.labels[n_discard:].reshape(-1, n_chains, 6).numpy(), exact)


@pytest.mark.parametrize("block_size", [1, 3])
def test_tempered_sweeps_sample_the_tempered_posterior(block_size):
    rng = np.random.default_rng(51)
    n_chains, n_sweeps, n_discard, beta = 300, 260, 40, 0.6
    _, state, x, arguments = six_points(n_chains)
    exact = exact_posterior_of_six_points(beta)
    order, uniforms, _ = make_noise(rng, arguments["group_offsets"], n_sweeps)
    arguments |= {"block_size": block_size, "inverse_temperature": torch.full((n_chains,), beta, dtype=torch.float64)}
    result = gibbs_sweep(state, x, order, uniforms, correction=torch.from_numpy(rng.random(order.shape)), **arguments)
    assert_posterior_over_partitions(result.labels[n_discard:].reshape(-1, n_chains, 6).numpy(), exact)


def test_tempered_engine_equals_the_reference_at_every_sweep():
    state, x, order, uniforms, noise, arguments = make_problem(2, N=60, D=3, G=3, T=3)
    accept = torch.from_numpy(np.random.default_rng(2).random(order.shape))
    beta = torch.tensor([[0.0, 0.2, 0.5], [0.3, 0.6, 1.0], [1.0, 1.0, 2.0]], dtype=torch.float64)
    arguments |= {"block_size": 2, "correction": accept, "inverse_temperature": beta}
    expected = gibbs_sweep(state, x, order, uniforms, noise, engine="reference", **arguments)
    got = gibbs_sweep(state, x, order, uniforms, noise, **arguments)
    assert torch.equal(got.labels, expected.labels)
    with pytest.raises(ValueError, match="inverse_temperature must not be negative, got -1"):
        gibbs_sweep(state, x, order, uniforms, noise, **arguments | {"inverse_temperature": -beta.sign()})
    with pytest.raises(ValueError, match=r"inverse_temperature must have shape \[3\] or \[3, 3\], got \[2\]"):
        gibbs_sweep(state, x, order, uniforms, noise, **arguments | {"inverse_temperature": beta[0, :2]})


def test_uncorrected_blocks_do_not():
    """The published approximation is seen to be one, so the test above can fail."""
    rng = np.random.default_rng(41)
    n_chains, n_sweeps = 300, 300
    exact, state, x, arguments = six_points(n_chains)
    order, uniforms, _ = make_noise(rng, arguments["group_offsets"], n_sweeps)
    result = gibbs_sweep(state, x, order, uniforms, block_size=4, **arguments)
    with pytest.raises(AssertionError):
        assert_posterior_over_partitions(result.labels[40:].reshape(-1, n_chains, 6).numpy(), exact)


# --- Geweke's joint-distribution test


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_split_merge_with_corrected_blocks_leaves_the_joint_distribution_invariant(dtype):
    rng = np.random.default_rng(78)
    C, n, D, kappa0, nu0 = 4000, 7, 2, 0.3, 5.0
    prior = NIWPrior(
        torch.zeros(C, D, dtype=torch.float64),
        torch.full((C,), kappa0, dtype=torch.float64),
        torch.full((C,), nu0, dtype=torch.float64),
        torch.eye(D, dtype=torch.float64).expand(C, D, D).contiguous(),
    )
    arguments = {"prior": prior, "group_offsets": n * torch.arange(C + 1)}
    forward_alpha = rng.gamma(1, size=3 * C)
    forward_labels = draw_partitions(rng, forward_alpha, n)
    forward = geweke_statistics(forward_alpha, forward_labels, draw_points(rng, forward_labels, D, kappa0, nu0))
    alpha, labels = forward_alpha[:C], forward_labels[:C]
    for _ in range(6):
        data = draw_points(rng, labels, D, kappa0, nu0)
        x = torch.from_numpy(data.reshape(-1, D)).to(dtype)
        # The restaurant's numbering of tables may have been lost to a sweep: any labels without gaps will do.
        state = GibbsState(torch.from_numpy(labels.reshape(-1)), torch.from_numpy(alpha))
        for move in MOVES.values():
            state, info = split_merge(
                state, x, make_proposals(rng, arguments["group_offsets"], 2, 1, **move), **arguments
            )
            assert info.accepted.any()
        order, uniforms, noise = make_noise(rng, arguments["group_offsets"], 1)
        state = gibbs_sweep(
            state,
            x,
            order[0],
            uniforms[0],
            AlphaNoise(*(field[0] for field in noise)),
            block_size=3,
            correction=torch.from_numpy(rng.random(C * n)),
            **arguments,
        )
        alpha, labels = state.alpha.numpy(), state.labels.reshape(C, n).numpy()
    after = geweke_statistics(alpha, labels, draw_points(rng, labels, D, kappa0, nu0))
    for name, values in after.items():
        fresh = forward[name][C:]
        error = np.sqrt(values.var() / C + fresh.var() / len(fresh))
        assert abs(values.mean() - fresh.mean()) < MONTE_CARLO_SIGMAS * error, name


# --- Bad input


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("anchors", torch.tensor([[[0, 9]]]), r"proposals.anchors must be from 0 to 5 in group 0, got 9 in proposal 0"),
        ("candidates", torch.tensor([[[2, 3, 4, -2]]]), r"candidates must be from -1 to 5 in group 0, got -2"),
        ("candidates", torch.tensor([[[2, 2, 4, -1]]]), "proposal 0 of group 0 names one twice"),
        ("candidates", torch.tensor([[[0, 2, 4, -1]]]), "proposal 0 of group 0 names one twice"),
        ("launch", torch.zeros(1, 1, 4), "proposals.launch must be torch.bool, got torch.float32"),
        ("uniforms", torch.ones(1, 1, 1, 4, dtype=torch.float64), r"proposals.uniforms must be in \[0, 1\), got 1.0"),
        ("uniforms", torch.ones(1, 1, 0, 4, dtype=torch.float64), "at least one scan, got none"),
        ("accept", torch.tensor([[-0.5]], dtype=torch.float64), r"proposals.accept must be in \[0, 1\), got -0.5"),
        ("accept", torch.zeros(2, 1, dtype=torch.float64), r"anchors must have shape \[P, G, 2\] = \[2, 1, 2\]"),
    ],
)
def test_bad_proposals_are_refused(field, value, message):
    _, state, x, arguments = six_points(1)
    proposals = make_proposals(np.random.default_rng(0), arguments["group_offsets"], 1, 1, 4)
    with pytest.raises(ValueError, match=message):
        split_merge(state, x, proposals._replace(**{field: value}), **arguments)


def test_correction_is_checked_and_not_for_shared_new_components():
    _, state, x, arguments = six_points(1)
    order, uniforms, _ = make_noise(np.random.default_rng(0), arguments["group_offsets"], 1)
    with pytest.raises(ValueError, match="correction must be None with shared_new"):
        gibbs_sweep(state, x, order, uniforms, correction=uniforms, shared_new=True, block_size=2, **arguments)
    with pytest.raises(ValueError, match=r"correction must be in \[0, 1\), got 1"):
        gibbs_sweep(state, x, order, uniforms, correction=torch.ones_like(uniforms), block_size=2, **arguments)
