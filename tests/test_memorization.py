"""Memorization: subsets, scores and their errors, trials shared and resumed, and planted labels."""

import io
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.stats import rankdata
from spawned import made_fit
from tolerances import MONTE_CARLO_SIGMAS, PEER_RELATIVE

from paper_repro import datasets, robustness_scale, workers
from paper_repro.memorization import (
    Trials,
    covering_seed,
    held_out_groups,
    load_trials,
    memorization_groups,
    memorization_scores,
    run_trials,
    shard_of,
    subset,
)
from paper_repro.storage import read_arrays, write_arrays, write_json, write_tensors
from paper_repro.subset_networks import SubsetNetworks


def test_a_subset_follows_from_the_seed_and_the_trial():
    first = subset(5, 100, seed=1)
    assert first.sum() == 70
    np.testing.assert_array_equal(first, subset(5, 100, seed=1))
    assert not np.array_equal(first, subset(6, 100, seed=1))
    assert not np.array_equal(first, subset(5, 100, seed=2))
    share = np.mean([subset(trial, 50, seed=0) for trial in range(400)], axis=0)
    assert np.abs(share - 0.7).max() < MONTE_CARLO_SIGMAS * np.sqrt(0.7 * 0.3 / 400)


def test_scores_are_the_definition():
    rng = np.random.default_rng(0)
    inside, correct = rng.random((40, 30)) < 0.7, rng.random((40, 30)) < 0.6
    scores = memorization_scores(Trials(inside, correct))
    for i in range(30):
        in_, out = correct[inside[:, i], i], correct[~inside[:, i], i]
        assert scores.value[i] == pytest.approx(in_.mean() - out.mean(), abs=PEER_RELATIVE)
        assert (scores.n_inside[i], scores.n_outside[i]) == (len(in_), len(out))


def test_the_standard_error_is_that_of_repeated_estimates():
    """200 trials of points that are right with 0.9 inside and 0.4 outside, 500 times over (as 500 points)."""
    rng = np.random.default_rng(1)
    inside = np.stack([subset(trial, 500, seed=3) for trial in range(200)])
    correct = rng.random((200, 500)) < np.where(inside, 0.9, 0.4)
    scores = memorization_scores(Trials(inside, correct))
    spread = scores.value.std(ddof=1)
    error_of_spread = spread / np.sqrt(2 * 499)
    assert abs(scores.standard_error.mean() - spread) < MONTE_CARLO_SIGMAS * error_of_spread
    assert abs(scores.value.mean() - 0.5) < MONTE_CARLO_SIGMAS * spread / np.sqrt(500)
    certain = memorization_scores(Trials(inside, inside))
    assert (certain.value == 1).all()
    assert (certain.standard_error > 0).all()


def test_a_point_that_is_never_left_out_has_no_score():
    inside = np.array([[True, True], [False, True]])
    with pytest.raises(ValueError, match="among 2 trials 1 points are not, the first is 1"):
        memorization_scores(Trials(inside, inside))


def test_a_seed_whose_subsets_leave_every_point_out_and_in():
    """With few trials some seeds have a point that is in all of them."""
    inside = {seed: np.stack([subset(trial, 20, seed=seed) for trial in range(6)]) for seed in range(50)}
    good = [seed for seed, rows in inside.items() if rows.any(0).all() and not rows.all(0).any()]
    assert 0 < len(good) < 50
    assert good[0] > 0
    assert covering_seed(range(50), 6, 20) == good[0]
    assert covering_seed(range(good[0] + 1, 50), 6, 20) == good[1]
    with pytest.raises(ValueError, match=r"n_trials must be so many that each of the 20 points .* got 1 .*5 seeds"):
        covering_seed(range(5), 1, 20)


def test_shards_share_the_trials_and_finished_ones_are_kept(tmp_path):
    together, apart = tmp_path / "together", tmp_path / "apart"
    together.mkdir()
    apart.mkdir()
    run_trials(together, made_fit, 7, 20, seed=0)
    run_trials(apart, made_fit, 7, 20, seed=0, shard=(1, 3))
    assert [path.name for path in sorted(apart.iterdir())] == [f"checkpoint-trial-0000{r}.npz" for r in (1, 4)]
    for i in (0, 2):
        run_trials(apart, made_fit, 7, 20, seed=0, shard=(i, 3))
    for ours, theirs in zip(load_trials(apart, 20, seed=0), load_trials(together, 20, seed=0), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    def never(inside, trial):
        raise AssertionError("a finished trial is not run again")

    run_trials(apart, never, 7, 20, seed=0)
    with pytest.raises(ValueError, match=r"shard must be \(i, n\) with 0 <= i < n, got \(3, 3\)"):
        run_trials(apart, made_fit, 7, 20, seed=0, shard=(3, 3))


def test_progress_is_said_where_there_is_no_terminal(tmp_path, monkeypatch):
    """Once a minute (here, after every task), in one process and in several."""
    said = io.StringIO()
    given = {"seed": 0, "console": Console(file=said, width=100)}
    run_trials(tmp_path, made_fit, 3, 20, **given, n_processes=1)
    assert said.getvalue() == ""
    monkeypatch.setattr(workers, "SAY_EVERY_SECONDS", 0.0)
    for n_trials, n_processes in ((5, 1), (7, 2)):
        run_trials(tmp_path, made_fit, n_trials, 20, **given, n_processes=n_processes)
        assert f"memorization trials: {n_trials} of {n_trials}" in said.getvalue()


def test_trials_of_another_seed_or_of_something_else_are_refused_and_few_are_too_few(tmp_path):
    run_trials(tmp_path, made_fit, 3, 20, seed=0, of="these")
    assert load_trials(tmp_path, 20, seed=0, of="these").inside.shape == (3, 20)
    for seed, of in ((1, "these"), (0, "others"), (0, "")):
        with pytest.raises(ValueError, match="is of another seed, profile or version, or of images that are others"):
            load_trials(tmp_path, 20, seed=seed, of=of)
    # Those of earlier versions do not say what they are of.
    path = tmp_path / "checkpoint-trial-00001.npz"
    stored = read_arrays(path)
    del stored["of"]
    write_arrays(path, stored)
    with pytest.raises(ValueError, match=r"checkpoint-trial-00001\.npz is of another seed, profile or version"):
        load_trials(tmp_path, 20, seed=0, of="these")
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="at least 2 finished trials, got 0"):
        load_trials(tmp_path / "none", 20, seed=0)


def test_killed_trials_go_on_to_the_same_numbers(tmp_path):
    """Two processes of trials, killed with their parent while at work: what is there is whole, the rest is the same."""
    code = (
        "import sys, pathlib, spawned\n"
        "from paper_repro.memorization import run_trials\n"
        "if __name__ == '__main__':\n"
        "    run_trials(pathlib.Path(sys.argv[1]), spawned.slow_fit, 40, 20, seed=0, n_processes=2)\n"
    )
    script, killed, straight = tmp_path / "trials.py", tmp_path / "killed", tmp_path / "straight"
    script.write_text(code)
    killed.mkdir()
    straight.mkdir()
    paths = ":".join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    process = subprocess.Popen([sys.executable, script, killed], env={"PYTHONPATH": paths, "PATH": ""})
    deadline = time.monotonic() + 120
    while len(list(killed.glob("checkpoint*"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    n_left = len(list(killed.glob("checkpoint*")))
    assert 3 <= n_left < 40
    # The processes end with their parent: no more files after the time that several would take.
    time.sleep(1.0)
    assert len(list(killed.glob("checkpoint*"))) <= n_left + 2
    run_trials(straight, made_fit, 40, 20, seed=0)
    run_trials(killed, made_fit, 40, 20, seed=0)
    for path in straight.iterdir():
        assert (killed / path.name).read_bytes() == path.read_bytes()


def test_groups():
    scores = np.array([0.5, 0.0, 0.0, 0.0, 0.9, -0.2, 0.1, 0.0, 0.95, 0.3])
    groups = memorization_groups(scores, 3, seed=0)
    assert groups.most.tolist() == [0, 4, 8]
    assert 5 in groups.least
    assert (scores[groups.least] <= 0).all()
    assert len(set(groups.random.tolist())) == 3
    tied = {tuple(memorization_groups(scores, 3, seed=seed).least) for seed in range(20)}
    assert len(tied) > 1
    held = held_out_groups(scores, 3, seed=0)
    assert held.most.tolist() == [0, 4, 8]
    assert (scores[held.least] == 0).all()
    assert len(set(np.concatenate(held).tolist())) == 9
    with pytest.raises(ValueError, match="third of the points, got 4"):
        held_out_groups(scores, 4, seed=0)
    with pytest.raises(ValueError, match=r"n must be in 1..10, got 11"):
        memorization_groups(scores, 11, seed=0)


def test_shards_in_words():
    assert shard_of("2/5") == (2, 5)
    for text in ("5/5", "-1/2", "1", "a/b", "1/0"):
        with pytest.raises(ValueError, match=f"shard must be i/n with 0 <= i < n, got '{text}'"):
            shard_of(text)


N_TRIALS = 15
"""A quarter of the profile's, to save time: more trials only sharpen the scores."""


def test_planted_labels_rank_above_the_rest(tmp_path):
    """Of half of the digits 5% get a wrong label; the area under the curve of their scores is at least 0.95."""
    data = datasets.load("digits", test_fraction=0.2, seed=0)
    images, labels = data.train_images[::2], data.train_labels[::2].clone()
    rng = np.random.default_rng(0)
    planted = rng.choice(len(labels), round(0.05 * len(labels)), replace=False)
    labels[planted] = (labels[planted] + torch.from_numpy(rng.integers(1, 10, len(planted)))) % 10
    write_tensors(tmp_path / "data.safetensors", {"train_images": images, "train_labels": labels})
    mean, std = datasets.pixel_statistics(images, data.white)
    about = {"class_names": data.class_names, "image_shape": [1, 8, 8], "white": data.white, "mean": mean, "std": std}
    write_json(tmp_path / "dataset.json", about)
    settings = {"stem": "cifar", **robustness_scale.DIGITS.network}
    networks = SubsetNetworks(tmp_path, settings)
    run_trials(tmp_path, partial(fit_digits, networks), N_TRIALS, len(labels), seed=0)
    trials = load_trials(tmp_path, len(labels), seed=0)
    # At so few trials a point may never have been left out.
    scored = ~trials.inside.all(0)
    scores = memorization_scores(Trials(trials.inside[:, scored], trials.correct[:, scored])).value
    wrong = np.isin(np.flatnonzero(scored), planted)
    ranks = rankdata(scores)
    n_wrong = wrong.sum()
    area = (ranks[wrong].sum() - n_wrong * (n_wrong + 1) / 2) / (n_wrong * (~wrong).sum())
    assert robustness_scale.DIGITS.n_trials >= N_TRIALS
    assert area >= 0.95


def fit_digits(networks, inside, trial):
    return networks.predict(networks.fit(inside, seed=trial), np.arange(len(inside))) == networks.labels
