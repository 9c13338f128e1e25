"""The evidence of the two states of a group, and figure B.10."""

import numpy as np
import pytest
import torch
from made_states import made_evidence, made_figure_b10
from paper_repro_tiny import TINY_PROFILE, TINY_PROTOCOL
from rich.console import Console
from scipy.special import gammaln, logsumexp
from test_annealing import log_integral
from test_figure_arguments import work_of
from test_gibbs import make_prior, partitions, scipy_log_marginal
from test_split_merge import POINTS
from tolerances import MONTE_CARLO_SIGMAS, PEER_RELATIVE

from classfit import DPGaussianMixture, Posterior, StateEvidence, convergence, state_evidence, states
from classfit.prior import group_variances, niw_prior
from kernels import NIWPrior
from paper_repro import figure_arguments
from paper_repro.figures import figure_b10
from paper_repro.pipeline import Pipeline
from paper_repro.profiles import CONVERGED, EM, HELDOUT
from paper_repro.steps import Work, derived_seed
from paper_repro.storage import read_arrays

WORDS = {"subtitle": np.array("made numbers"), "note": np.array("Nothing follows from it.")}


def log_joint_without_alpha(x: np.ndarray, labels: np.ndarray, prior: NIWPrior) -> float:
    sizes = np.bincount(labels)
    likelihood = sum(scipy_log_marginal(x[labels == k], prior) for k in range(len(sizes)))
    return gammaln(sizes).sum() + log_integral(len(x), len(sizes)) + likelihood


def posterior_of(x: np.ndarray, sizes: list[int], labels: np.ndarray, prior: NIWPrior | None = None) -> Posterior:
    """Groups 0, 1, ... of these sizes; labels [S, N]."""
    offsets, G = torch.tensor([0, *np.cumsum(sizes)]), len(sizes)
    points = torch.from_numpy(x)
    mean, variance = group_variances(points, offsets)
    prior = niw_prior(mean, variance, 3) if prior is None else prior
    return Posterior(points, offsets, np.arange(G), labels.astype(np.int32), np.ones((len(labels), G)), prior, variance)


def test_bounds_of_many_components_are_unbiased_for_the_evidence_of_six_points():
    """Which have no two states: both are of all labellings. In the units of the prior, as the bounds are."""
    G = 150
    one = make_prior(POINTS, torch.tensor([0, 6]), n_init_components=3)
    prior = NIWPrior(*(field.expand(G, *field.shape[1:]).contiguous() for field in one))
    posterior = posterior_of(np.tile(POINTS, (G, 1)), [6] * G, np.zeros((1, 6 * G), int), prior)
    found = state_evidence(posterior, slowness=1, random_state=1)
    scale = one.S0[0].diagonal().sqrt().log().sum().item()
    every = [log_joint_without_alpha(POINTS, np.array(p), one) for p in partitions(6)]
    evidence = logsumexp(every) + len(POINTS) * scale
    for ratio in (np.exp(found.many_lower - evidence), np.exp(evidence - found.many_upper)):
        assert abs(ratio.mean() - 1) < MONTE_CARLO_SIGMAS * ratio.std(ddof=1) / np.sqrt(G)
        assert ratio.std() < 1.2, "so uneven weights show little"
    assert (found.few_lower <= np.max(every) + len(POINTS) * scale + 1e-6).all()
    assert not found.two_states.any(), "in two dimensions few components are smaller than that"
    assert (found.verdict() == 0).all()


def test_the_labelling_of_few_components_is_the_best_of_those_without_many_small_ones(monkeypatch):
    """Of two groups: the last labellings of four chains, and where sweeps from one component lead."""
    sizes, place = [8, 6], np.concatenate([np.arange(8), np.arange(6)])
    one, pairs, mixed, halves = 0 * place, place // 2, place % 2, np.repeat([0, 1, 0, 1], [4, 4, 3, 3])
    worth = {pairs.tobytes(): [9.0, 9.0], halves.tobytes(): [5.0, -7.0], mixed.tobytes(): [-3.0, 1.0]}
    ended = {"rounds": one}

    def log_evidence(problem, units, state):
        assert units == [(0, 0, 0), (1, 0, 0)]
        assert state.alpha.tolist() == [1, 1]
        return np.array(worth.get(state.labels.numpy().tobytes(), [0.0, 0.0]))

    def rounds(problem, units, state, *rest):
        nothing = torch.zeros(2, len(units), dtype=torch.int64)
        return convergence.Rounds(torch.from_numpy(ended["rounds"])[None], state.alpha[None], nothing, nothing)

    monkeypatch.setattr(convergence, "log_evidence_of", log_evidence)
    monkeypatch.setattr(convergence, "rounds", rounds)
    x = np.random.default_rng(0).normal(size=(14, 3))

    def few(*labels: np.ndarray) -> np.ndarray:
        posterior = posterior_of(x, sizes, np.stack(labels))
        problem = convergence.problem(posterior.x, posterior.group_offsets, posterior.prior, [0, 1], 0)
        return states._few(posterior, problem).numpy()

    # Components of two points do not count, in three dimensions, nor do labellings before the last four.
    assert np.array_equal(few(halves, mixed, pairs, pairs, mixed), np.where(np.arange(14) < 8, one, mixed))
    assert np.array_equal(few(mixed, pairs, pairs, halves), np.where(np.arange(14) < 8, halves, mixed))
    # Where all have many small components there is still one, the first.
    ended["rounds"] = pairs
    assert np.array_equal(few(place), pairs)


def test_many_components_are_those_of_the_posterior_where_annealing_leads_to_few():
    """Of three groups: annealing leads to many in the last; of the chains only those of the first are in many."""
    sizes, D = [40, 40, 9], 3
    x = np.random.default_rng(3).normal(size=(sum(sizes), D))
    group, place = np.repeat(np.arange(3), sizes), np.concatenate([np.arange(n) for n in sizes])
    one, pairs, mixed = 0 * place, place // 2, place % 20  # 2 points each; distant ones in `mixed`
    last = [np.where(group == 0, labels, one) for labels in (pairs, mixed, one, pairs)]
    posterior = posterior_of(x, sizes, np.stack([np.where(group == 1, pairs, one), *last]))
    whole = [log_joint_without_alpha(x[:40], labels[:40], _first(posterior)) for labels in (pairs, mixed)]
    problem = convergence.problem(posterior.x, posterior.group_offsets, posterior.prior, [0, 1, 2], 0)
    annealed = torch.from_numpy(np.where(group == 2, pairs, one))
    best = (pairs, mixed)[int(np.argmax(whole))]
    many, chosen = states._many(annealed, posterior, problem)
    assert np.array_equal(many, np.select([group == 0, group == 1], [best, one], pairs))
    assert chosen.tolist() == [False, True, True]

    found = state_evidence(posterior, slowness=1)
    without = state_evidence(posterior_of(x, sizes, np.zeros((4, len(x)), int)), slowness=1)
    assert not without.two_states[:2].any(), "annealing leads to many components, so this shows nothing"
    assert found.two_states.tolist()[:2] == [True, False]
    scale = posterior.prior.S0[0].diagonal().sqrt().log().sum().item()
    assert found.many_lower[0] == pytest.approx(max(whole) + 40 * scale, rel=PEER_RELATIVE)
    assert found.many_upper[0] > found.many_lower[0]
    for name in StateEvidence._fields:
        np.testing.assert_array_equal(getattr(found, name)[1:], getattr(without, name)[1:])


def _first(posterior: Posterior) -> NIWPrior:
    return NIWPrior(*(field[:1] for field in posterior.prior))


def test_a_group_has_the_same_evidence_whichever_others_are_with_it(monkeypatch):
    x = np.random.default_rng(1).normal(size=(24, 3))
    three = posterior_of(x, [9, 7, 8], np.zeros((4, 24), int))
    together = state_evidence(three, slowness=1, random_state=5)
    monkeypatch.setattr(states, "GROUPS_AT_ONCE", 1)
    for found in (
        state_evidence(three, slowness=1, random_state=5),
        StateEvidence(
            *map(
                np.concatenate,
                zip(
                    state_evidence(three.of_groups(slice(0, 1)), slowness=1, random_state=5),
                    state_evidence(three.of_groups(slice(1, 3)), slowness=1, random_state=5),
                    strict=True,
                ),
            )
        ),
    ):
        for one, other in zip(found, together, strict=True):
            np.testing.assert_allclose(one, other, rtol=PEER_RELATIVE)
    assert (together.many_lower != state_evidence(three, slowness=1, random_state=6).many_lower).all()
    assert (together.few_lower <= together.few_upper + 20).all()


def test_what_is_refused():
    x = np.random.default_rng(1).normal(size=(9, 2))
    good = posterior_of(x, [9], np.zeros((1, 9), int))
    with pytest.raises(ValueError, match=r"a Posterior, such as mixture\.posterior_, got a DPGaussianMixture"):
        state_evidence(DPGaussianMixture())
    with pytest.raises(ValueError, match="slowness"):
        state_evidence(good, slowness=0)
    good.official = True
    with pytest.raises(ValueError, match="official must be False"):
        state_evidence(good)


def test_the_figure_is_of_converged_alone_and_its_steps_are_of_its_fits(tmp_path, monkeypatch):
    pipeline = Pipeline(TINY_PROFILE, CONVERGED)
    assert [step.name for step in pipeline.evidence.values()] == [
        f"converged/state_evidence_stage_{stage}" for stage in (3, 4)
    ]
    for stage, step in pipeline.evidence.items():
        assert step.inputs == (pipeline.posteriors[stage],)
        assert step in pipeline.figures["figure_b10"].inputs
    for protocol, official in ((TINY_PROTOCOL, False), (TINY_PROTOCOL, True), (HELDOUT, False), (EM, False)):
        other = Pipeline(TINY_PROFILE, protocol, official=official)
        assert not other.evidence
        assert "figure_b10" not in other.figures
    # What a step stores, and how long it thinks that takes.
    x = np.random.default_rng(2).normal(size=(20, 3))
    posterior = posterior_of(x, [11, 9], np.zeros((4, 20), int))
    step = pipeline.evidence[3]
    folder, source = tmp_path / "evidence", tmp_path / "posterior"
    for made in (folder, source):
        made.mkdir()
    posterior.save(source / "posterior.npz")
    work = Work(folder, step.settings, {step.inputs[0].name: source}, Console(quiet=True))
    assert step.estimate(work) > 0
    step.compute(work)
    stored = read_arrays(folder / "evidence.npz")
    expected = state_evidence(posterior, random_state=derived_seed(0, "state evidence", 3))
    for name, values in expected._asdict().items():
        np.testing.assert_array_equal(stored[name], values)


def test_a_step_that_was_stopped_goes_on_with_the_classes_that_are_left(tmp_path, monkeypatch):
    x, sizes = np.random.default_rng(2).normal(size=(30, 3)), [11, 9, 10]
    posterior = posterior_of(x, sizes, np.zeros((4, 30), int))
    step = Pipeline(TINY_PROFILE, CONVERGED).evidence[4]
    source = tmp_path / "posterior"
    source.mkdir()
    posterior.save(source / "posterior.npz")
    monkeypatch.setattr(states, "GROUPS_AT_ONCE", 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # in this process, which has the two at once
    done: list[int] = []

    def counted(part, **options):
        done.extend(part.groups)
        return state_evidence(part, slowness=1, **options)

    monkeypatch.setattr("classfit.state_evidence", counted)
    folders = {}
    for name in ("whole", "stopped"):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        work = Work(folders[name], step.settings, {step.inputs[0].name: source}, Console(quiet=True))
        if name == "stopped":
            for path in folders["whole"].glob("checkpoint*-0-*"):
                (folders[name] / path.name).write_bytes(path.read_bytes())
        step.compute(work)
        done_before = len(done)
        assert step.estimate(work) == 0
        assert len(done) == done_before, "with nothing left nothing is timed"
    assert done == [0, 1, 2, 2]
    whole, stopped = (read_arrays(folder / "evidence.npz") for folder in folders.values())
    for name in StateEvidence._fields:
        assert whole[name].shape == (3,)
        np.testing.assert_array_equal(whole[name], stopped[name])


def test_figure_b10_has_the_evidence_and_the_chains_of_its_stage(tmp_path):
    labels = np.zeros((4, 6), np.int32)
    labels[1] = np.arange(6)  # the second chain: six components of one point
    files = {}
    for stage in (3, 4):
        files[f"posterior_stage_{stage}/trace.npz"] = {"log_joint": np.zeros((5, 4, 1))}
        files[f"posterior_stage_{stage}/posterior.npz"] = {"labels": labels, "group_offsets": np.array([0, 6])}
        files[f"state_evidence_stage_{stage}/evidence.npz"] = {"many_lower": np.array([float(stage)])}
    found = figure_arguments._figure_b10(work_of(tmp_path, {"stages": [3, 4], "dimensions": [2, 2]}, files))
    assert {stage: arrays["many_lower"].tolist() for stage, arrays in found["evidence"].items()} == {3: [3.0], 4: [4.0]}
    assert found["small_share"][4].tolist() == [[0], [1], [0], [0]]
    assert found["dimensions"] == {3: 2, 4: 2}
    assert found["class_names"] == ["a", "b"]


def test_a_state_has_the_larger_evidence_where_bounds_do_not_overlap():
    assert StateEvidence(**made_evidence()).verdict().tolist() == [1] * 4 + [0] * 2 + [-1] * 3 + [0]
    touching = made_evidence() | {"many_lower": np.full(10, 30.0), "many_upper": np.full(10, 110.0)}
    assert (StateEvidence(**touching).verdict() == 0).all()
    small = made_evidence() | {"many_small": np.full(10, 0.5)}
    assert (StateEvidence(**small).verdict() == 0).all()


def test_figure_b10():
    stored = figure_b10.compute(**made_figure_b10()) | WORDS
    words = figure_b10.finding(stored)
    assert "has the larger evidence in 4 of 10 classes, the collapsed one in 3; in 2 it is open. In 1 no two" in words
    assert "none are shattered: 3 and 0, 0 and 3, 0 and 2. In 1 it is decided by less than 40 nats, which" in words
    assert "may turn to open. The bounds are 80 nats apart in the median" in words
    rows = figure_b10.table(stored)
    assert [row["larger_evidence"] for row in rows[10:]] == ["shattered"] * 4 + ["open"] * 2 + ["collapsed"] * 3 + [
        "no two states"
    ]
    assert rows[13]["chains_shattered"] == 1
    assert rows[12]["log_evidence_many_upper_nats"] == 280
    drawn = figure_b10.draw(stored)
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == [
        "collapsed state, between its bounds",
        "shattered state, likewise",
        "no chain shattered",
        "some chains shattered",
        "all 4 chains shattered",
        "no two states found",
    ]
    for panel in drawn.axes:
        assert panel.texts[0].get_text() == "4 shattered, 3 collapsed, 2 open, 1 with no two states found"
        names = [label.get_text() for label in panel.get_xticklabels()]
        # First the class of which no two states were found.
        assert names == [f"c{g}" for g in (9, 8, 7, 6, 5, 4, 3, 2, 1, 0)]
        few, many = (bars.get_path().vertices.reshape(-1, 2, 2)[:, :, 1] for bars in panel.patches)
        assert few.tolist() == [[0, 30]] * 10
        lower = made_evidence()["many_lower"][[8, 7, 6, 5, 4, 3, 2, 1, 0]]
        assert np.array_equal(many, np.stack([lower, lower + 80], axis=1))
        marks = {line.get_marker(): line.get_xdata().tolist() for line in panel.lines if line.get_marker() in "osDx"}
        assert marks == {"x": [0], "o": [1, 2, 3, 4, 5], "s": [6], "D": [7, 8, 9]}
        assert "$" not in "".join(label.get_text() for label in panel.get_yticklabels())


def test_figure_b10_says_where_it_is_decided_by_a_few_nats():
    made = made_figure_b10()
    made["evidence"][3]["many_lower"][3] = 70  # by 40 nats: not less
    for lower, few_upper in ((69.0, 30), (60, 21)):  # by 39 nats, of which the upper bound of few is one side
        made["evidence"][4]["many_lower"][3], made["evidence"][4]["few_upper"][3] = lower, few_upper
        made["evidence"][4]["many_upper"][6] = -39
        words = figure_b10.finding(figure_b10.compute(**made) | WORDS)
        third, fourth = words.split("At stage 4")
        assert "In 2 it is decided by less than 40 nats, which other random numbers may turn to open. The b" in fourth
        assert "is decided by" not in third


def test_figure_b10_where_no_class_has_two_states():
    made = made_figure_b10()
    for evidence in made["evidence"].values():
        evidence["few_small"] = np.full(10, 0.8)
    stored = figure_b10.compute(**made) | WORDS
    assert figure_b10.finding(stored).startswith("At stage 3 no two states were found, in any class. At stage 4 no")
    drawn = figure_b10.draw(stored)
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == [
        "collapsed state, between its bounds",
        "no two states found",
    ]
    assert drawn.axes[0].texts[0].get_text() == "10 with no two states found"
