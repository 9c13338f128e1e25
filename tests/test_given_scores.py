"""Memorization scores from a file in place of networks on random subsets: `paper-repro run --scores`."""

import numpy as np
import pytest
from paper_repro_tiny import TINY_PROFILE, TINY_PROTOCOL
from typer.testing import CliRunner

from paper_repro import storage
from paper_repro.cli import app
from paper_repro.figures import figure_a11
from paper_repro.given_scores import ScoresError, given, given_before
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


def memorization(path):
    return Pipeline(TINY_PROFILE, TINY_PROTOCOL, scores=given(path)).robustness["memorization"]


def test_scores_as_published_and_of_another_run(workspace, labels, scores, tmp_path):
    published, ours = tmp_path / "mem_scores.npz", tmp_path / "scores.npz"
    np.savez(published, tr_mem=scores, tr_labels=labels.astype(np.int32))
    np.savez(ours, value=scores, standard_error=np.full(len(scores), 0.1))
    for path, error in ((published, np.nan), (ours, 0.1)):
        step = memorization(path)
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
def test_files_without_scores_are_refused(arrays, message, tmp_path):
    np.savez(tmp_path / "given.npz", **arrays)
    with pytest.raises(ScoresError, match=message):
        given(tmp_path / "given.npz")


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    (tmp_path / "given.npz").write_text("scores")
    with pytest.raises(ScoresError, match=r"given\.npz cannot be read as an \.npz of arrays"):
        given(tmp_path / "given.npz")


def test_scores_of_other_images_are_refused(workspace, labels, scores, tmp_path):
    path = tmp_path / "given.npz"
    np.savez(path, tr_mem=scores[:-1])
    with pytest.raises(ScoresError, match="must hold a score for each of 1,437 training images, got 1,436"):
        workspace.run([memorization(path)])
    other = labels.copy()
    other[7] = 9 - other[7]
    np.savez(path, tr_mem=scores, tr_labels=other)
    with pytest.raises(ScoresError, match=f"image 7 is of class {labels[7]} .* its score of class {other[7]}"):
        workspace.run([memorization(path)])


def test_from_the_command_line(workspace, labels, scores, tmp_path, monkeypatch):
    monkeypatch.setitem(PROFILES, "tiny", TINY_PROFILE)
    monkeypatch.setitem(PROTOCOLS, "paper", TINY_PROTOCOL)

    def call(command, *arguments):
        options = ("--profile", "tiny", "--runs-dir", str(tmp_path))
        return CliRunner().invoke(app, [command, *map(str, arguments), *options])

    path = tmp_path / "mem_scores.npz"
    path.write_bytes(b"")
    refused = call("run", "figure_a11", "--scores", path)
    assert refused.exit_code == 1
    assert "cannot be read as an .npz" in refused.stderr
    np.savez(path, tr_mem=scores)
    assert call("run", "figure_a11", "--scores", path).exit_code == 0
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
    lost = call("run", "figure_a11")
    assert lost.exit_code == 1
    assert "were given in mem_scores.npz: give them again, --scores" in lost.stderr
