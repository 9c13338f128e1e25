"""The protocol `converged`: its chains, its verdict, and that nothing else changes them."""

import warnings

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats
from scipy.special import gammaln
from sklearn.exceptions import ConvergenceWarning
from test_annealing import log_integral
from test_gibbs import scipy_log_marginal
from tolerances import MONTE_CARLO_SIGMAS, PEER_RELATIVE

from classfit import ConstantFeatureWarning, DPGaussianMixture, Posterior, convergence
from classfit.gibbs import stream
from classfit.prior import group_variances, niw_prior, standardise, standardised
from classfit.proposals import Aim, aim_of, unlearned
from kernels import GibbsState, NIWPrior, cpu

CONVERGED = {"n_init_components": 3, "protocol": "converged", "random_state": 0}


def two_clusters(n: int = 40, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)) * [1.0, 0.4] + 6 * (np.arange(n) % 2)[:, None]


@pytest.fixture
def short(monkeypatch):
    """A budget of 30 rounds, looked at after every 10."""
    few = {"MAX_ROUNDS": 30, "CHECK_ROUNDS": 10, "KEEP_EVERY": 1, "BURN_IN_ROUNDS": 4, "SETTLING_ROUNDS": (1, 3)}
    for name, value in few.items():
        monkeypatch.setattr(convergence, name, value)


@pytest.fixture
def in_one_part(monkeypatch):
    """All chains together."""
    monkeypatch.setattr(convergence, "PARTS_A_THREAD", 1)
    monkeypatch.setattr("kernels.cpu.threads.available", lambda: 1)


def problem_of(X: np.ndarray, sizes: list[int], names: list[str]) -> convergence.Problem:
    offsets = torch.tensor([0, *np.cumsum(sizes)])
    x = torch.from_numpy(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantFeatureWarning)
        prior = niw_prior(*group_variances(x, offsets), 3)
    streams = [stream(name) for name in names]
    return convergence.problem(standardise(x, prior, offsets), offsets, standardised(prior), streams, 5)


def at_rest(problem: convergence.Problem) -> convergence.Chains:
    """Chains that have begun, all points of a group in one component: as after a burn-in, but at once."""
    begun = convergence.start(problem)
    return begun._replace(begun=np.ones_like(begun.begun))


def of_one_component(problem: convergence.Problem, labels: np.ndarray | None = None) -> Posterior:
    """What the chains have kept: by default all points of a group in one component."""
    S, (N, D), G = convergence.N_KEPT * convergence.N_CHAINS, problem.x.shape, len(problem.streams)
    if labels is None:
        labels = np.zeros((S, N), np.int32)
    return Posterior(
        problem.x, problem.group_offsets, np.arange(G), labels, np.ones((len(labels), G)), problem.prior,
        torch.ones(G, D, dtype=torch.float64),
    )  # fmt: skip


def log_likelihood(problem: convergence.Problem, g: int, labels: np.ndarray) -> float:
    """log p(points of a group | labels), by scipy."""
    x = problem.x[convergence._rows(problem, g)].numpy()
    prior = NIWPrior(*(field[g : g + 1] for field in problem.prior))
    return sum(scipy_log_marginal(x[labels == k], prior) for k in np.unique(labels))


def assert_same(a, b) -> None:
    for name, one, other in zip(a._fields, a, b, strict=True):
        assert np.array_equal(one, other, equal_nan=np.asarray(one).dtype.kind == "f"), name


def test_easy_groups_converge_to_what_one_long_chain_gives():
    X = two_clusters()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        model = DPGaussianMixture(**CONVERGED).fit(X)
    found = model.convergence_
    assert found.converged.all()
    assert (found.rhat_log_joint < 1.01).all()
    assert (found.ess_n_components > 400).all()
    assert (found.rounds < convergence.MAX_ROUNDS).all()
    assert (found.above_simple > 0).all()
    assert model.posterior_.labels.shape == (convergence.N_KEPT * convergence.N_CHAINS, len(X))
    # The same posterior by Gibbs sweeps alone.
    long = DPGaussianMixture(3, n_sweeps=12_000, n_discard=200, thin=20, random_state=1).fit(X)
    t = int(found.rounds[0])
    for ours, theirs, ess in (
        (found.log_joint[t // 2 : t, :, 0], long.trace_.log_joint[10:, 0], found.ess_log_joint[0]),
        (found.n_components[t // 2 : t, :, 0], long.trace_.n_components[10:, 0], found.ess_n_components[0]),
    ):
        their_ess = float(array_stats.ess(theirs[None].astype(float), chain_axis=0, draw_axis=1))
        error = np.sqrt(ours.var() / ess + theirs.var() / their_ess)
        assert abs(ours.mean() - theirs.mean()) < MONTE_CARLO_SIGMAS * error
    assert np.abs(model.score_samples(X) - long.score_samples(X)).max() < 0.2


def test_agreement_converges_though_the_last_states_are_less_probable_than_the_mode():
    """Of points of one Gaussian the most probable labelling is one component: a draw lies below it now and then."""
    X = np.random.default_rng(1).normal(size=(120, 2))[60:]
    found = DPGaussianMixture(**CONVERGED | {"random_state": 56}).fit(X, groups=[1] * 60).convergence_
    assert found.rhat_log_joint[0] < 1.01
    assert found.above_simple.min() < -20
    assert found.converged.all()


def test_chains_start_apart_and_are_not_copies_of_each_other(short):
    problem = problem_of(two_clusters(), [40], ["ant"])
    chains = convergence.burn_in(convergence.start(problem), problem, 3)
    chains = convergence.advance(chains, problem, 2)
    traces = chains.log_joint[:, :, 0].T
    assert len({trace.tobytes() for trace in traces}) == convergence.N_CHAINS
    assert len({alpha.tobytes() for alpha in chains.alpha}) == convergence.N_CHAINS


def test_where_to_try_peels_is_learned_while_chains_settle_and_then_kept(short, in_one_part, monkeypatch):
    """From the labels of all chains since they began to settle, after 1 round and again after 3."""
    used, labels, really = [], [], convergence._round

    def spied(problem, units, data, state, index, aim):
        used.append(Aim(*(field.copy() for field in aim)))
        found = really(problem, units, data, state, index, aim)
        labels.append(dict(zip(units, convergence._parts(problem, units, found[0].labels), strict=True)))
        return found

    monkeypatch.setattr(convergence, "_round", spied)
    scattered = two_clusters(30) + 9 * np.random.default_rng(2).normal(size=(6, 2)).repeat(5, 0)
    problem = problem_of(np.concatenate([scattered, two_clusters(3, 1)]), [30, 3], "ab")
    burnt = convergence.burn_in(convergence.start(problem), problem, 3)
    settling = len(used) - 3

    def learned(rounds):
        parts = []
        for g in range(2):
            seen = [part for each in rounds for (group, _, _), part in each.items() if group == g]
            parts.append(aim_of(seen, problem.companions[g]))
        return Aim(*map(np.concatenate, zip(*parts, strict=True)))

    expected = (
        [unlearned(problem.companions)] * settling
        + [learned(labels[:4])]
        + [learned(labels[settling : settling + 1])] * 2
    )
    convergence.advance(burnt, problem, 5)
    expected += [learned(labels[settling : settling + 3])] * 5
    for found, aim in zip(used, expected, strict=True):
        assert_same(found, aim)
    assert len({aim.weight.tobytes() + aim.companions.tobytes() for aim in used}) == 4, "equal ones show little"
    last = labels[settling + 2]
    for (g, c, _), part in last.items():
        assert np.array_equal(burnt.labels[c, convergence._rows(problem, g)], part)


@pytest.mark.parametrize(("undecided", "n_tried"), [(0.001, 0), (0.05, 1), (0.06, 2)])
def test_a_chain_goes_on_from_the_best_bound_and_anneals_slower_where_that_is_close_behind(
    short, monkeypatch, undecided, n_tried
):
    """In two chains annealing ends 0.0017 and 0.051 nats a point behind; in others at the same labels or ahead."""
    monkeypatch.setattr(convergence, "UNDECIDED_NATS_A_POINT", undecided)
    monkeypatch.setattr(convergence, "SETTLING_ROUNDS", ())
    sizes, ends, really = [40, 30], {}, convergence._annealed

    def annealed(problem, units, slowness, aim):
        state, bound = really(problem, units, slowness, aim)
        ends.update(zip(units, convergence._parts(problem, units, state.labels), strict=True))
        return state, bound + (1e3 if slowness > 1 else 0.0)  # the best, wherever it is tried

    monkeypatch.setattr(convergence, "_annealed", annealed)
    problem = problem_of(np.concatenate([two_clusters(), np.random.default_rng(5).normal(size=(30, 2))]), sizes, "ab")
    chains = convergence.burn_in(convergence.start(problem), problem, 3)
    bound = chains.burn_in_log_evidence
    assert np.isfinite(bound[:, :3]).all()
    behind = bound[:, :2].max(1) - bound[:, 2]
    np.testing.assert_array_equal(np.isfinite(bound[:, 3]), (behind > 1e-6) & (behind < undecided * np.array(sizes)))
    assert np.isfinite(bound[:, 3]).sum() == n_tried
    assert (np.abs(behind) < 1e-6).any()
    best = bound.argmax(1)
    assert len(np.unique(best)) > 1, "one track alone shows little"
    for g in range(2):
        rows = convergence._rows(problem, g)
        for c in range(convergence.N_CHAINS):
            labels = torch.from_numpy(chains.labels[c, rows]).long()
            state = GibbsState(labels, torch.from_numpy(chains.alpha[c, g : g + 1]))
            found = convergence.log_evidence_of(problem, [(g, c, 0)], state)[0]
            if best[c, g] >= 2:
                np.testing.assert_array_equal(labels, ends[g, c, best[c, g]])
            else:
                assert found == pytest.approx(bound[c, best[c, g], g])


@pytest.mark.parametrize(
    ("rhat", "ess", "rounds"), [(1.6, 10, 20), (1.4, 10, 30), (1.009, 10, 30), (1.009, 401, 10), (1.02, 401, 30)]
)
def test_a_group_stops_when_it_agrees_and_half_way_if_it_is_far_from_that(short, monkeypatch, rhat, ess, rounds):
    monkeypatch.setattr(convergence, "agreement", lambda trace: (rhat, ess))
    problem = problem_of(two_clusters(), [40], ["ant"])
    chains = convergence.advance(convergence.burn_in(convergence.start(problem), problem, 3), problem, 30)
    assert chains.stopped.tolist() == [rounds]


@pytest.mark.parametrize("apart", ["log joint", "number of components"])
@pytest.mark.parametrize(("rhat", "rounds"), [(1.6, 20), (1.02, 30)])
def test_one_trace_that_disagrees_is_enough(short, monkeypatch, apart, rhat, rounds):
    kind = {"log joint": "f", "number of components": "i"}[apart]
    monkeypatch.setattr(
        convergence, "agreement", lambda trace: (rhat, 10.0) if trace.dtype.kind == kind else (1.0, 401.0)
    )
    problem = problem_of(two_clusters(6), [6], ["ant"])
    assert convergence.advance(at_rest(problem), problem, 30).stopped.tolist() == [rounds]


def test_looks_are_at_the_second_half_of_both_traces_of_each_group(short, monkeypatch):
    seen = []
    monkeypatch.setattr(convergence, "agreement", lambda trace: seen.append(trace) or (1.4, 10.0))
    problem = problem_of(two_clusters(9), [5, 4], ["ant", "elk"])
    chains = convergence.advance(at_rest(problem), problem, 30)
    traces = chains.log_joint, chains.n_components
    expected = [trace[t // 2 : t, :, g].T for t in (10, 20, 30) for g in (0, 1) for trace in traces]
    assert len(seen) == len(expected)
    assert all(np.array_equal(*pair) for pair in zip(seen, expected, strict=True))


def test_each_chain_of_each_group_goes_on_from_its_own_state(monkeypatch):
    found = []

    def stays(problem, units, data, state, *rest):
        found.extend(zip(units, convergence._parts(problem, units, state.labels), state.alpha.tolist(), strict=True))
        none = torch.zeros(2, len(units), dtype=torch.int64)
        return state, none, none

    monkeypatch.setattr(convergence, "_round", stays)
    problem = problem_of(two_clusters(9), [5, 4], ["ant", "elk"])
    labels = np.array([[0] * 9, [0, 0, 1, 1, 0, 0, 1, 0, 0], [0, 1, 2, 3, 4, 0, 0, 1, 1], [0, 1, 0, 1, 0, 0, 1, 2, 3]])
    alpha = np.arange(1.0, 9.0).reshape(4, 2)
    begun = at_rest(problem)._replace(labels=labels.astype(np.int32), alpha=alpha)
    chains = convergence.advance(begun, problem, 1)
    assert sorted((g, c) for (g, c, _), _, _ in found) == [(g, c) for g in range(2) for c in range(4)]
    for (g, c, _), part, value in found:
        assert np.array_equal(part, labels[c, convergence._rows(problem, g)])
        assert value == alpha[c, g]
    assert_same(chains._replace(labels=labels, alpha=alpha), chains)


@pytest.mark.parametrize("parts_a_thread", [1, 3, 100])
def test_chains_do_not_depend_on_the_parts_that_they_are_handed_out_in(short, two_threads, monkeypatch, parts_a_thread):
    problem = problem_of(two_clusters(9), [5, 4], ["ant", "elk"])

    def chains():
        return convergence.advance(convergence.burn_in(convergence.start(problem), problem, 3), problem, 10)

    monkeypatch.setattr(convergence, "PARTS_A_THREAD", parts_a_thread)
    in_parts = chains()
    torch.set_num_threads(1)
    monkeypatch.setattr(convergence, "PARTS_A_THREAD", 1)
    assert_same(in_parts, chains())


def test_a_group_that_has_stopped_moves_no_more(short, monkeypatch):
    """The first at the first look, the second at the last."""
    answers = iter([(1.0, 401.0)] * 2 + [(1.4, 10.0)] * 6)
    monkeypatch.setattr(convergence, "agreement", lambda trace: next(answers))
    problem = problem_of(two_clusters(9), [5, 4], ["ant", "elk"])
    chains = convergence.advance(at_rest(problem), problem, 30)
    assert chains.stopped.tolist() == [10, 30]
    assert np.isfinite(chains.log_joint[:10]).all()
    assert (chains.n_components[:10] > 0).all()
    assert np.isnan(chains.log_joint[10:, :, 0]).all()
    assert (chains.n_components[10:, :, 0] == -1).all()
    assert np.isfinite(chains.log_joint[:, :, 1]).all()
    assert (chains.kept_labels[10:, :, :5] == chains.kept_labels[9, :, :5]).all()
    assert (chains.kept_alpha[10:, :, 0] == chains.kept_alpha[9, :, 0]).all()
    # What is kept of the other is its states, not the last of them over again.
    assert len(np.unique(chains.kept_alpha[:, :, 1])) == 30 * convergence.N_CHAINS
    for t in (0, 12, 29):
        found = 1 + chains.kept_labels[t, :, 5:].max(1)
        assert np.array_equal(found, chains.n_components[t, :, 1])


def test_a_checkpoint_of_chains_of_another_seed_is_refused(short, tmp_path, monkeypatch):
    for name, value in {"MAX_ROUNDS": 10, "BURN_IN_ROUNDS": 1}.items():
        monkeypatch.setattr(convergence, name, value)
    settings = CONVERGED | {"checkpoint": tmp_path / "chains.npz"}
    with pytest.warns(ConvergenceWarning):
        DPGaussianMixture(**settings).fit(two_clusters(6))
    for other in ({"random_state": 1}, {"n_init_components": 2}, {"kappa0": 0.1}):
        with pytest.raises(ValueError, match="belongs to other data, other settings or another device"):
            DPGaussianMixture(**settings | other).fit(two_clusters(6))


def test_chains_stopped_after_any_round_go_on_to_the_same_bits(short):
    X = np.concatenate([two_clusters(30, 1), two_clusters(17, 2)])
    problem = problem_of(X, [30, 17], ["ant", "elk"])
    begun = convergence.burn_in(convergence.start(problem), problem, 3)
    whole = convergence.advance(begun, problem, 30)
    assert (whole.stopped > 0).all()
    for stop in (1, 9, 10, 23):
        parted = convergence.advance(convergence.advance(begun, problem, stop), problem, 30 - stop)
        assert_same(parted, whole)


@pytest.mark.parametrize(("step", "at"), [("burn_in", 2), ("advance", 3)])
def test_a_fit_goes_on_from_its_checkpoint_to_the_same_result(short, tmp_path, monkeypatch, step, at):
    X, names = two_clusters(50), np.repeat(["ant", "elk"], 25)
    with pytest.warns(ConvergenceWarning):
        whole = DPGaussianMixture(**CONVERGED).fit(X, groups=names)
    monkeypatch.setattr("classfit.dpgmm.SECONDS_BETWEEN_CHECKPOINTS", 0)
    monkeypatch.setattr("classfit.dpgmm.GROUPS_A_CALL", 1)
    really, calls = getattr(convergence, step), []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == at:
            raise KeyboardInterrupt
        return really(*arguments)

    monkeypatch.setattr(convergence, step, killed)
    model = DPGaussianMixture(**CONVERGED, checkpoint=tmp_path / "chains.npz")
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, groups=names)
    # What was done is not done again: one group had begun, or both.
    burnt = []
    burn_in = really if step == "burn_in" else convergence.burn_in
    monkeypatch.setattr(convergence, "burn_in", lambda *arguments: burnt.append(0) or burn_in(*arguments))
    with pytest.warns(ConvergenceWarning):
        model.fit(X, groups=names)
    assert len(burnt) == (1 if step == "burn_in" else 0)
    assert_same(model.convergence_, whole.convergence_)
    assert np.array_equal(model.posterior_.labels, whole.posterior_.labels)
    with pytest.raises(ValueError, match="belongs to other data, other settings or another device"):
        DPGaussianMixture(3, random_state=0, checkpoint=tmp_path / "chains.npz").fit(X, groups=names)


@pytest.mark.parametrize("name", ["duo", "ten", "elk"])
def test_a_group_is_fitted_alike_alone_and_among_others(short, name):
    """Ten points have fewer companions than forty, and all of them are few candidates: it is all the same to them."""
    sizes = {"cat": 40, "duo": 2, "one": 1, "ten": 10, "elk": 21}
    X = np.concatenate([two_clusters(n, seed) for seed, n in enumerate(sizes.values())])
    names = np.repeat(list(sizes), list(sizes.values()))
    own = names == name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        together = DPGaussianMixture(**CONVERGED).fit(X, groups=names)
        alone = DPGaussianMixture(**CONVERGED).fit(X[own], groups=names[own])
    g = list(together.groups_).index(name)
    t = int(alone.convergence_.rounds[0])
    assert together.convergence_.rounds[g] == t
    assert np.array_equal(together.convergence_.log_joint[:t, :, g], alone.convergence_.log_joint[:t, :, 0])
    assert np.array_equal(together.score_samples(X[own], names[own]), alone.score_samples(X[own], names[own]))


def test_labels_are_kept_and_looks_taken_at_the_same_rounds_in_steps_of_any_number_of_rounds(short, monkeypatch):
    looked = []
    monkeypatch.setattr(convergence, "agreement", lambda trace: looked.append(trace.shape[1]) or (1.4, 10.0))
    for name, value in {"KEEP_EVERY": 4, "CHECK_ROUNDS": 6}.items():
        monkeypatch.setattr(convergence, name, value)
    problem = problem_of(two_clusters(12), [12], ["ant"])
    one_by_one = at_rest(problem)
    for _ in range(30):
        one_by_one = convergence.advance(one_by_one, problem, 1)
    assert looked == [3, 3, 6, 6, 9, 9, 12, 12, 15, 15]
    looked.clear()
    assert_same(one_by_one, convergence.advance(at_rest(problem), problem, 30))
    assert looked == [3, 3, 6, 6, 9, 9, 12, 12, 15, 15]
    assert len(one_by_one.kept_labels) == 7


def test_verdict_and_labellings_are_of_the_second_half_of_a_groups_rounds(short):
    problem = problem_of(two_clusters(5), [2, 3], ["ant", "elk"])
    R, C, N = 30, convergence.N_CHAINS, 5
    number = np.arange(R * C).reshape(R, C)
    rng = np.random.default_rng(0)
    trace = rng.normal(size=(R, C, 2))
    chains = convergence.start(problem)._replace(
        round=R,
        stopped=np.array([30, 20]),
        kept_labels=np.repeat(number[:, :, None], N, 2).astype(np.int32),
        kept_alpha=np.repeat(number[:, :, None], 2, 2).astype(float),
        log_joint=trace,
        n_components=trace,
    )
    labels, alpha = convergence.kept(chains, problem)
    for rows, g, (first, last) in ((slice(0, 2), 0, (15, 29)), (slice(2, 5), 1, (10, 19))):
        assert labels[:, rows].min() == number[first].min()
        assert labels[:, rows].max() == number[last].max()
        assert np.array_equal(labels[:, rows][:, 0], alpha[:, g])
        assert len(set(alpha[:, g])) == convergence.N_KEPT * C
    chains = chains._replace(labels=np.zeros((C, N), np.int32))
    found = convergence.judge(chains, problem, of_one_component(problem))
    expected = [convergence.agreement(trace[15:30, :, 0].T), convergence.agreement(trace[10:20, :, 1].T)]
    assert found.rhat_log_joint.tolist() == [rhat for rhat, _ in expected]
    assert found.ess_n_components.tolist() == [ess for _, ess in expected]


def test_a_verdict_asks_for_agreement_of_both_traces():
    """Of one group both agree, of two others one alone; arviz says which R-hat and sample size is of which."""
    problem = problem_of(two_clusters(9), [4, 3, 2], ["ant", "elk", "fox"])
    R, C = 400, convergence.N_CHAINS
    joint, number = np.random.default_rng(0).normal(size=(2, R, C, 3))
    number[:, 0, 1] += 2
    joint[:, 0, 2] += 2
    chains = at_rest(problem)._replace(round=R, stopped=np.full(3, R), log_joint=joint, n_components=number)
    found = convergence.judge(chains, problem, of_one_component(problem))
    assert found.converged.tolist() == [True, False, False]
    for name, trace in (("log_joint", joint), ("n_components", number)):
        for g in range(3):
            second = trace[R // 2 :, :, g].T
            assert getattr(found, f"rhat_{name}")[g] == float(array_stats.rhat(second, chain_axis=0, draw_axis=1))
            assert getattr(found, f"ess_{name}")[g] == float(array_stats.ess(second, chain_axis=0, draw_axis=1))


def test_last_states_are_compared_with_simple_ones_at_the_same_alpha():
    """log p(labels | alpha = 1) + log p(points | labels), of each chain and group, by scipy."""
    problem = problem_of(two_clusters(9), [5, 4], ["ant", "elk"])
    labels = np.array([[0] * 9, [0, 0, 1, 1, 0, 0, 1, 0, 0], [0, 1, 2, 3, 4, 0, 0, 1, 1], [0, 1, 0, 1, 0, 0, 1, 2, 3]])
    simple = np.array([3.0, -7.0])
    chains = at_rest(problem)._replace(
        round=30, stopped=np.full(2, 30), labels=labels.astype(np.int32), alpha=np.full((4, 2), 0.2),
        log_joint=np.zeros((30, 4, 2)), n_components=np.ones((30, 4, 2)), simple_log_joint=simple,
    )  # fmt: skip
    found = convergence.judge(chains, problem, of_one_component(problem)).above_simple
    for g, (n, rows) in enumerate(((5, slice(0, 5)), (4, slice(5, 9)))):
        for c in range(4):
            partition = gammaln(np.bincount(labels[c, rows])).sum() - gammaln(1 + n)
            expected = partition + log_likelihood(problem, g, labels[c, rows]) - simple[g]
            assert found[c, g] == pytest.approx(expected, rel=PEER_RELATIVE)


def test_each_chain_alone_has_a_mean_log_density_of_a_groups_own_points():
    """Chain c has c + 1 components of its own in one group, one in the other: by the ratio of marginal likelihoods."""
    problem = problem_of(two_clusters(20), [12, 8], ["ant", "elk"])
    C = convergence.N_CHAINS
    of_chain = np.stack([np.concatenate([np.arange(12) % (c + 1), np.zeros(8, np.int64)]) for c in range(C)])
    posterior = of_one_component(problem, np.tile(of_chain, (convergence.N_KEPT, 1)).astype(np.int32))
    chains = at_rest(problem)._replace(
        round=30, stopped=np.full(2, 30), log_joint=np.zeros((30, C, 2)), n_components=np.ones((30, C, 2))
    )
    found = convergence.judge(chains, problem, posterior).mean_log_density
    assert found.shape == (C, 2)
    for g, (n, rows) in enumerate(((12, slice(0, 12)), (8, slice(12, 20)))):
        prior = NIWPrior(*(field[g : g + 1] for field in problem.prior))
        x = problem.x[rows].numpy()
        for c in range(C):
            labels, density = of_chain[c, rows], np.zeros(n)
            for i, point in enumerate(x):
                for k in np.unique(labels):
                    members = x[labels == k]
                    gain = scipy_log_marginal(np.vstack([members, point]), prior) - scipy_log_marginal(members, prior)
                    density[i] += len(members) / (n + 1) * np.exp(gain)
                density[i] += np.exp(scipy_log_marginal(point[None], prior)) / (n + 1)
            assert found[c, g] == pytest.approx(np.log(density).mean(), rel=PEER_RELATIVE)


def test_the_predictive_is_the_mean_of_the_chains_densities(short):
    """And so above the mean of their logs."""
    X, names = two_clusters(60), np.repeat(["ant", "elk"], 30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = DPGaussianMixture(**CONVERGED).fit(X, groups=names)
    posterior, C = model.posterior_, convergence.N_CHAINS
    of_chain = [posterior.of_sweeps(slice(c, None, C)).log_density(X, names) for c in range(C)]
    assert np.allclose(np.logaddexp.reduce(of_chain) - np.log(C), model.score_samples(X, names), rtol=PEER_RELATIVE)
    expected = np.stack([np.mean(of_chain, axis=1, where=names == name) for name in ("ant", "elk")], axis=1)
    assert np.allclose(model.convergence_.mean_log_density, expected, rtol=PEER_RELATIVE)
    assert np.ptp(expected, axis=0).min() > 0


def test_the_bound_of_a_labelling_is_its_joint_density_without_alpha():
    problem = problem_of(two_clusters(9), [5, 4], ["ant", "elk"])
    labels = np.array([0, 0, 1, 1, 0, 0, 1, 2, 1])
    state = GibbsState(torch.from_numpy(labels), torch.tensor([0.3, 2.0], dtype=torch.float64))
    found = convergence.log_evidence_of(problem, [(0, 0, 0), (1, 0, 0)], state)
    for g, (n, rows) in enumerate(((5, slice(0, 5)), (4, slice(5, 9)))):
        sizes = np.bincount(labels[rows])
        expected = gammaln(sizes).sum() + log_integral(n, len(sizes)) + log_likelihood(problem, g, labels[rows])
        assert found[g] == pytest.approx(expected, abs=1e-6)


def test_the_bound_of_annealing_is_the_larger_of_its_two(short, in_one_part, monkeypatch):
    problem = problem_of(two_clusters(9), [5, 4], ["ant", "elk"])
    state = GibbsState(torch.zeros(9, dtype=torch.int64), torch.ones(2, dtype=torch.float64))
    monkeypatch.setattr(convergence, "anneal", lambda *arguments: (state, np.array([1.0, -1.0])))
    monkeypatch.setattr(convergence, "log_evidence_of", lambda *arguments: np.zeros(2))
    units = [(0, 0, convergence.ANNEALED), (1, 0, convergence.ANNEALED)]
    _, bound = convergence._annealed(problem, units, 1, unlearned(problem.companions))
    assert bound.tolist() == [1, 0]


def test_each_chain_burns_in_from_a_start_of_its_own_and_from_one_component(in_one_part, monkeypatch):
    class Begun(Exception):
        pass

    def stopped(problem, units, data, state, *rest):
        raise Begun(units, convergence._parts(problem, units, state.labels))

    problem = problem_of(two_clusters(40), [40], ["ant"])
    starts = convergence._starts(convergence.start(problem), problem, 0, 3)
    monkeypatch.setattr(convergence, "_round", stopped)
    with pytest.raises(Begun) as begun:
        convergence.burn_in(convergence.start(problem), problem, 3)
    units, parts = begun.value.args
    assert [len(np.unique(start)) for start in starts] == [1, 3, 3, 25]
    # Two clusters: of k-means' three none crosses them, of three at random each does.
    sides = [{tuple(np.unique(start[side::2])) for side in (0, 1)} for start in starts[1:3]]
    assert (len(sides[0]), len(sides[1])) == (1, 2)
    for (_, chain, track), part in zip(units, parts, strict=True):
        assert np.array_equal(part, np.zeros(40) if track else starts[chain])


@pytest.mark.parametrize("best", [1, 6, 25])
def test_a_simple_state_is_the_best_of_one_component_and_k_means_with_6_and_25(monkeypatch, best):
    """What a chain may start from besides, k-means with K0, is none of them, however good."""
    value = dict.fromkeys((1, 6, 25), -5.0) | {best: -2.0, 3: 100.0}

    def joint(labels, alpha, *rest):
        assert alpha.tolist() == [1]
        return torch.tensor([value[len(labels.unique())]])

    monkeypatch.setattr(convergence, "log_joint", joint)
    problem = problem_of(two_clusters(40), [40], ["ant"])
    chains = convergence.start(problem)
    convergence._starts(chains, problem, 0, 3)
    assert chains.simple_log_joint.tolist() == [-2]


def test_no_two_draws_share_random_numbers(short, monkeypatch):
    """Over a burn-in in which every chain anneals twice, and rounds after it."""
    made, really = [], convergence.generator
    monkeypatch.setattr(convergence, "generator", lambda *key: made.append((*key, 0)[:5]) or really(*key))
    monkeypatch.setattr(convergence, "UNDECIDED_NATS_A_POINT", 1)

    def anneal(x, offsets, prior, rngs, slowness):
        n = len(offsets) - 1
        return GibbsState(torch.zeros(len(x), dtype=torch.int64), torch.ones(n, dtype=torch.float64)), np.full(n, -1.0)

    def bound(problem, units, state):
        return np.array([0.0 if track < convergence.ANNEALED else -1.0 for _, _, track in units])

    monkeypatch.setattr(convergence, "anneal", anneal)
    monkeypatch.setattr(convergence, "log_evidence_of", bound)
    problem = problem_of(two_clusters(9), [5, 4], ["ant", "elk"])
    chains = convergence.burn_in(convergence.start(problem), problem, 3)
    assert np.isfinite(chains.burn_in_log_evidence).all()
    convergence.advance(chains, problem, 9)
    assert len(made) == len(set(made))


def test_acceptance_is_of_splits_and_of_merges_apart(short):
    """Half of the splits, a tenth of the merges."""
    problem = problem_of(two_clusters(5), [2, 3], ["ant", "elk"])
    C = convergence.N_CHAINS
    counts = {"proposed": (10, 40), "accepted": (5, 4)}
    chains = convergence.start(problem)._replace(
        round=30,
        stopped=np.array([30, 20]),
        log_joint=np.zeros((30, C, 2)),
        n_components=np.ones((30, C, 2)),
        **{name: np.stack([np.full((C, 2), n) for n in of_both]) for name, of_both in counts.items()},
    )
    found = convergence.judge(chains, problem, of_one_component(problem))
    assert (found.split_acceptance == 0.5).all()
    assert (found.merge_acceptance == 0.1).all()


def test_a_point_against_itself_is_no_proposal(short, monkeypatch):
    """In groups of two and three points it is drawn often."""
    made, really = [], cpu.split_merge

    def spy(state, x, proposals, **options):
        made.append(int((proposals.anchors[:, :, 0] != proposals.anchors[:, :, 1]).sum()))
        return really(state, x, proposals, **options)

    problem = problem_of(two_clusters(5), [2, 3], ["ant", "elk"])
    begun = convergence.burn_in(convergence.start(problem), problem, 3)
    monkeypatch.setattr(cpu, "split_merge", spy)
    assert convergence.advance(begun, problem, 2).proposed.sum() == sum(made)


def test_splits_and_merges_are_counted_apart(short, monkeypatch):
    made, really = np.zeros((2, 2), np.int64), cpu.split_merge

    def spy(state, x, proposals, **options):
        state, info = really(state, x, proposals, **options)
        apart = proposals.anchors[:, :, 0] != proposals.anchors[:, :, 1]
        for i, kind in enumerate((info.split, ~info.split)):
            made[:, i] += [int((kind & apart).sum()), int((kind & info.accepted).sum())]
        return state, info

    monkeypatch.setattr(cpu, "split_merge", spy)
    problem = problem_of(two_clusters(12), [12], ["ant"])
    chains = convergence.advance(at_rest(problem), problem, 9)
    assert [chains.proposed.sum((1, 2)).tolist(), chains.accepted.sum((1, 2)).tolist()] == made.tolist()
    assert len(np.unique(made)) == 4, "equal numbers show little"


def test_groups_that_do_not_converge_are_named_and_no_others(short, monkeypatch):
    for name, value in {"MAX_ROUNDS": 10, "BURN_IN_ROUNDS": 1}.items():
        monkeypatch.setattr(convergence, name, value)
    really = convergence.judge

    def judge(*given, **options):
        return really(*given, **options)._replace(converged=np.array([True, False, True]))

    monkeypatch.setattr(convergence, "judge", judge)
    with pytest.warns(ConvergenceWarning, match=r"chains of 1 of 3 groups do not agree, see convergence_: elk$"):
        DPGaussianMixture(**CONVERGED).fit(two_clusters(12), groups=["fox", "elk", "ant"] * 4)


def test_groups_that_do_not_converge_are_named(short):
    X, names = two_clusters(50), np.repeat(["ant", "elk"], 25)
    with pytest.warns(ConvergenceWarning, match=r"chains of 2 of 2 groups do not agree, see convergence_: ant, elk"):
        model = DPGaussianMixture(**CONVERGED).fit(X, groups=names)
    assert not model.convergence_.converged.any()
    assert (model.convergence_.rounds == 30).all()
    assert np.isfinite(model.score_samples(X, names)).all()
    # Where warnings are errors the fit is there as well.
    again = DPGaussianMixture(**CONVERGED)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConvergenceWarning, match="do not agree"):
            again.fit(X, groups=names)
    assert np.array_equal(again.score_samples(X, names), model.score_samples(X, names))


def test_two_chains_that_stay_apart_never_converge():
    """Same points, but the states of two chains are forced apart: R-hat must say so."""
    rng = np.random.default_rng(0)
    trace = rng.normal(size=(4, 200))
    assert convergence.agreement(trace)[0] < 1.01
    assert convergence.agreement(trace + np.array([[0], [0], [0], [2]]))[0] > 1.1
    assert convergence.agreement(np.full((4, 200), 3)) == (1.0, 800.0)
    rhat, ess = convergence.agreement(np.array([[3] * 200] * 3 + [[4] * 200]))
    assert rhat == np.inf
    assert ess == 0
    assert convergence.agreement(trace) == (
        float(array_stats.rhat(trace, chain_axis=0, draw_axis=1)),
        float(array_stats.ess(trace, chain_axis=0, draw_axis=1)),
    )


def test_proposals_do_not_depend_on_labels_and_companions_are_others(short):
    problem = problem_of(np.concatenate([two_clusters(30), two_clusters(3, 1)]), [30, 3], ["ant", "elk"])
    assert [others.shape for others in problem.companions] == [(3, 30, 20), (3, 3, 2)]
    for others in problem.companions:
        for order in others:
            assert all(i not in row and len(set(row)) == len(row) for i, row in enumerate(order.tolist()))
    distance = torch.cdist(problem.x[:30], problem.x[:30]).fill_diagonal_(torch.inf)
    assert np.array_equal(problem.companions[0][1, :, 0], distance.argmin(1).numpy())


def test_the_paper_protocol_is_the_papers_settings():
    X = two_clusters()
    named = DPGaussianMixture(protocol="paper", n_sweeps=7, random_state=3).fit(X)
    spelt = DPGaussianMixture(block_size=4, n_sweeps=400, n_discard=320, thin=4, random_state=3).fit(X)
    assert np.array_equal(named.posterior_.labels, spelt.posterior_.labels)
    assert len(named.posterior_.labels) == 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protocol": "best"}, "protocol must be None or one of paper, converged, got 'best'"),
        ({"protocol": "converged", "official": True}, "official must be False under the protocol 'converged'"),
    ],
)
def test_bad_protocols_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DPGaussianMixture(**settings).fit(two_clusters())
