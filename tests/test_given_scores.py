"""Memorization scores from a file in place of networks on random subsets: `paper-repro run --scores`."""

from dataclasses import replace

import numpy as np
import pytest
from paper_repro_tiny import TINY_PROFILE, TINY_PROTOCOL
from typer.testing import CliRunner

from paper_repro import storage
from paper_repro.cli import app
from paper_repro.figures import figure_a11
from paper_repro.given_scores import GivenScores, ScoresError, given, given_before
from paper_repro.pipeline import Pipeline
from paper_repro.profiles import PROFILES, PROTOCOLS
from paper_repro.steps import State, Workspace


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "tiny")


@pytest.fixture
def labels(workspace):
    dataset = Pipeline(TINY_PROFILE, TINY_PROTOCOL).dataset
    workspace.run([dataset])
    return storage.read_tensors(workspace.folder(dataset) / "data.safetensors")[0]["train_labels"].numpy()


@pytest.fixture
def scores(labels):
    return np.random.default_rng(0).uniform(-0.1, 1, len(labels)).astype(np.float32)


def memorization(path, workspace):
    return Pipeline(TINY_PROFILE, TINY_PROTOCOL, scores=given(path, workspace)).robustness["memorization"]


def test_scores_as_published_and_of_another_run(workspace, labels, scores, tmp_path):
    published, ours = tmp_path / "mem_scores.npz", tmp_path / "scores.npz"
    np.savez(published, tr_mem=scores, tr_labels=labels.astype(np.int32))
    np.savez(ours, value=scores, standard_error=np.full(len(scores), 0.1))
    for path, error in ((published, np.nan), (ours, 0.1)):
        step = memorization(path, workspace)
        workspace.run([step])
        found = storage.read_arrays(workspace.folder(step) / "scores.npz")
        np.testing.assert_array_equal(found["value"], scores.astype(np.float64))
        np.testing.assert_array_equal(found["standard_error"], np.full(len(scores), error))
    assert workspace.provenance(step)["settings"]["file"] == "scores.npz"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mem": np.zeros(3)}, "must hold an array tr_mem or value of scores, got mem"),
        ({"tr_mem": np.zeros((3, 2))}, r"tr_mem must be \[N\] numbers in -1..1, got float64 \[3, 2\]"),
        ({"tr_mem": np.array([0.0, np.nan])}, r"tr_mem must be \[N\] numbers in -1..1"),
        ({"value": np.array([0.0, 1.5])}, r"value must be \[N\] numbers in -1..1"),
        ({"value": np.arange(2)}, r"numbers in -1..1, got int64 \[2\]"),
        ({"tr_mem": np.zeros(3), "tr_labels": np.zeros(2)}, r"tr_labels must be as many as the scores, 3, got \(2,\)"),
    ],
)
def test_files_without_scores_are_refused(arrays, message, workspace, tmp_path):
    np.savez(tmp_path / "given.npz", **arrays)
    with pytest.raises(ScoresError, match=message):
        given(tmp_path / "given.npz", workspace)


def test_scores_of_1_and_of_less_than_nothing_are_taken(workspace, tmp_path):
    np.savez(tmp_path / "given.npz", tr_mem=np.array([1.0, -1.0]), tr_labels=np.zeros(2))
    assert given(tmp_path / "given.npz", workspace).file == "given.npz"


def test_scores_in_the_order_of_the_archive(workspace, labels, scores, tmp_path):
    """As published, for images that the dataset has in the order of class and file name."""
    order = np.random.default_rng(1).permutation(len(labels))
    path = tmp_path / "mem_scores.npz"
    in_archive = np.empty_like(scores), np.empty_like(labels)
    in_archive[0][order], in_archive[1][order] = scores, labels
    np.savez(path, tr_mem=in_archive[0], tr_labels=in_archive[1])
    step = memorization(path, workspace)
    with pytest.raises(ScoresError, match="is in another order than the training images"):
        workspace.run([step])
    before = workspace._digest(step.inputs[0])
    storage.write_arrays(workspace.root / "dataset" / "archive_order.npz", {"order": order})
    workspace.record(step.inputs[0])
    assert workspace._digest(step.inputs[0]) == before
    workspace.run([step])
    found = storage.read_arrays(workspace.folder(step) / "scores.npz")
    np.testing.assert_array_equal(found["value"], scores.astype(np.float64))
    np.testing.assert_array_equal(found["tr_labels"], labels)


def test_a_file_that_is_no_npz_is_refused(workspace, tmp_path):
    (tmp_path / "given.npz").write_text("scores")
    with pytest.raises(ScoresError, match=r"given\.npz cannot be read as an \.npz of arrays"):
        given(tmp_path / "given.npz", workspace)


def test_scores_of_other_images_are_refused(workspace, labels, scores, tmp_path):
    path = tmp_path / "given.npz"
    np.savez(path, tr_mem=scores[:-1])
    with pytest.raises(ScoresError, match="must hold a score for each of 1,437 training images, got 1,436"):
        workspace.run([memorization(path, workspace)])
    other = labels.copy()
    other[7] = 9 - other[7]
    np.savez(path, tr_mem=scores, tr_labels=other)
    with pytest.raises(ScoresError, match=f"image 7 is of class {labels[7]} .* its score of class {other[7]}"):
        workspace.run([memorization(path, workspace)])


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.setitem(PROFILES, "tiny", TINY_PROFILE)
    monkeypatch.setitem(PROTOCOLS, "paper", TINY_PROTOCOL)

    def run(command, *arguments):
        options = ("--profile", "tiny", "--runs-dir", str(tmp_path))
        return CliRunner().invoke(app, [command, *map(str, arguments), *options])

    return run


def test_from_the_command_line(workspace, labels, scores, tmp_path, call):
    path = tmp_path / "mem_scores.npz"
    path.write_bytes(b"")
    refused = call("run", "figure_a11", "--scores", path)
    assert refused.exit_code == 1
    assert "cannot be read as an .npz" in refused.stderr
    np.savez(path, tr_mem=scores)
    result = call("run", "figure_a11", "--scores", path)
    assert result.exit_code == 0
    assert "has no classes (tr_labels), so its order is not checked." in result.output
    assert not (workspace.root / "memorization" / "trials.npz").exists()
    stored = storage.read_arrays(workspace.root / "paper" / "figure_a11" / "numbers.npz")
    assert int(stored["n_trials"]) == 0
    most = np.sort(scores)[-TINY_PROFILE.robustness.n_held_out :]
    assert (stored["lowest_score"][0], stored["highest_score"][0]) == (most[0], most[-1])
    said = figure_a11.caption(stored)
    assert "Scores are those given in mem_scores.npz. " in said
    assert "0 networks" not in said
    assert "0 trials" not in said
    # They go with the results: no later command needs the file.
    path.unlink()
    assert given_before(workspace).file == "mem_scores.npz"
    assert "Everything was up to date." in call("run", "figure_a11").output
    assert call("draw", "figure_a11").exit_code == 0
    assert call("check", "figure_a11").exit_code == 0
    refused = call("trials")
    assert refused.exit_code == 1
    assert "are given in mem_scores.npz: there are no trials" in refused.stderr
    # Without them the step is another one.
    estimated = Pipeline(TINY_PROFILE, TINY_PROTOCOL)
    assert workspace.state(estimated.robustness["memorization"]) == State.STALE
    (workspace.root / "memorization" / "scores.npz").unlink()
    for _ in range(2):  # what was known of them is still there
        lost = call("run", "figure_a11")
        assert lost.exit_code == 1
        assert "were given in mem_scores.npz: give them again, --scores" in lost.stderr


def test_a_run_that_needs_no_scores_takes_note_of_them(workspace, labels, scores, tmp_path, call):
    path = tmp_path / "mem_scores.npz"
    np.savez(path, tr_mem=scores)
    assert call("run", "figure_a6", "--scores", path).exit_code == 0
    assert given_before(workspace).file == "mem_scores.npz"
    # The same by another name is the same.
    path.rename(tmp_path / "other.npz")
    assert "Everything was up to date." in call("run", "figure_a6", "--scores", tmp_path / "other.npz").output
    assert given_before(workspace).file == "mem_scores.npz"


def test_scores_of_other_images_leave_trials_as_they_are(workspace, labels, scores, tmp_path, call):
    trial = workspace.root / "memorization" / "checkpoint-trial-00000.npz"
    trial.parent.mkdir()
    trial.write_bytes(b"trained for long")
    path = tmp_path / "mem_scores.npz"
    np.savez(path, tr_mem=scores[:-1])
    refused = call("run", "figure_a6", "--scores", path)
    assert refused.exit_code == 1
    assert "must hold a score for each of 1,437 training images" in refused.stderr
    assert trial.exists()


def test_scores_that_nothing_needs_are_refused(scores, tmp_path, call, monkeypatch):
    path = tmp_path / "mem_scores.npz"
    np.savez(path, tr_mem=scores)
    assert "is not for --dry-run" in call("run", "--dry-run", "--scores", path).output
    monkeypatch.setitem(PROFILES, "tiny", replace(TINY_PROFILE, robustness=None))
    assert "no figure of tiny needs scores" in call("run", "--scores", path).output


def test_figure_b2_compares_scores_that_were_estimated():
    published = replace(TINY_PROFILE, published="cifar100_resnet18_memorization")
    scores = GivenScores("mem_scores.npz", "0" * 64, None)
    assert "figure_b2" in Pipeline(published, TINY_PROTOCOL).figures
    assert "figure_b2" not in Pipeline(published, TINY_PROTOCOL, scores=scores).figures
