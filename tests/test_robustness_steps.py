"""The steps behind figures 3, 4, A.11, B.6, B.7 at a scale of seconds: kills, shards, numbers that fit together."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pictures
import pytest
import torch
from paper_repro_tiny import TINY_PROFILE, TINY_PROTOCOL
from rich.console import Console
from tolerances import PEER_RELATIVE
from typer.testing import CliRunner

from paper_repro import memorized_densities, robustness, steps
from paper_repro.cli import app
from paper_repro.memorization import subset
from paper_repro.pipeline import Pipeline
from paper_repro.profiles import PROFILES, PROTOCOLS
from paper_repro.robustness_scale import LAPTOP
from paper_repro.steps import CannotError, State, Work, Workspace
from paper_repro.storage import read_arrays, read_tensors, write_tensors

FIGURES = ("figure_3", "figure_4", "figure_a11", "figure_b6", "figure_b7")
CODE = """
import sys
from pathlib import Path
import torch
from paper_repro_tiny import TINY_PROFILE, TINY_PROTOCOL
from paper_repro.pipeline import Pipeline
from paper_repro.steps import Workspace
torch.set_num_threads(1)
pipeline = Pipeline(TINY_PROFILE, TINY_PROTOCOL)
Workspace(Path(sys.argv[1])).run([pipeline.robustness[sys.argv[2]]])
"""


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(TINY_PROFILE, TINY_PROTOCOL)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pipeline):
    workspace = Workspace(tmp_path_factory.mktemp("robustness") / "tiny")
    with pictures.left_empty():
        workspace.run([*(pipeline.figures[name] for name in FIGURES), control_of(pipeline)])
    return workspace


def control_of(pipeline):
    """The step that figure 3 has under other protocols than the paper's, at the scale and on the bins of this one."""
    alike = pipeline.robustness["certification"]
    return replace(
        alike,
        name=f"{alike.name}_control",
        compute=robustness.certification_control,
        estimate=robustness.estimate_certification_control,
    )


def test_only_protocols_beyond_the_paper_have_a_control_of_certificates(pipeline):
    for density in ("chain", "converged", "heldout", "em"):
        made = Pipeline(TINY_PROFILE, replace(TINY_PROTOCOL, density=density))
        inputs = {step.name: step for step in made.figures["figure_3"].inputs}
        assert (f"{made.folder}/certification_control" in inputs) == (density != "chain")
        if density != "chain":
            step, alike = inputs[f"{made.folder}/certification_control"], made.robustness["certification"]
            assert (step.settings, step.inputs) == (alike.settings, alike.inputs)
            assert step.compute is robustness.certification_control


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".npz", ".safetensors")}


def test_the_numbers_fit_together(finished, pipeline):
    made = {name: finished.folder(step) for name, step in pipeline.robustness.items()}
    trials, scores = (read_arrays(made["memorization"] / f"{name}.npz") for name in ("trials", "scores"))
    np.testing.assert_array_equal(trials["inside"].sum(1), np.full(30, round(0.7 * 1437)))
    right = (trials["correct"] & trials["inside"])[:, 5].sum() / trials["inside"][:, 5].sum()
    lucky = (trials["correct"] & ~trials["inside"])[:, 5].sum() / (~trials["inside"])[:, 5].sum()
    assert scores["value"][5] == pytest.approx(right - lucky)
    bins = read_arrays(made["density_bins"] / "bins.npz")
    assert np.bincount(bins["bins"]).tolist() == [479, 479, 479]
    certificates = read_arrays(made["certification"] / "certificates.npz")
    assert np.bincount(bins["bins"][certificates["rows"]]).tolist() == [4, 4, 4]
    assert (certificates["selection"].sum(1) == 5).all()
    assert (certificates["estimation"].sum(1) == 40).all()
    control = read_arrays(finished.folder(control_of(pipeline)) / "certificates.npz")
    np.testing.assert_array_equal(control["rows"], certificates["rows"])
    assert (control["estimation"].sum(1) == 40).all()
    assert not np.array_equal(control["estimation"], certificates["estimation"])
    attacked = read_arrays(made["attacks"] / "attacks.npz")
    labels = pipeline_labels(finished, pipeline)
    right = bins["predicted"][attacked["rows"]] == labels[attacked["rows"]]
    np.testing.assert_array_equal(attacked["fgsm"][:, 0], right)
    stored = read_arrays(finished.folder(pipeline.figures["figure_3"]) / "numbers.npz")
    outside = np.ma.masked_array(trials["correct"], trials["inside"]).mean(0)
    assert stored["right_outside"] == pytest.approx([outside[bins["bins"] == b].mean() for b in range(3)])
    kl = read_arrays(made["kl_by_stage"] / "kl.npz")
    G = len(kl["classes"])
    assert kl["most_value_4"].shape == (G, G)
    assert scores["value"][kl["most_rows"]].mean() > scores["value"][kl["least_rows"]].mean()
    other = read_arrays(made["kl_at_other_dimensions"] / "kl.npz")
    for name in ("classes", "most_rows", "random_rows", "least_rows"):
        np.testing.assert_array_equal(other[name], kl[name])
    # Figure 4 has 4, 4, 8, 8 dimensions; figure B.6 takes what it can from there.
    stored = read_arrays(finished.folder(pipeline.figures["figure_b6"]) / "numbers.npz")
    cells = list(zip(stored["stages"].tolist(), stored["cell_dimensions"].tolist(), strict=True))
    assert cells == [(1, 4), (2, 4), (3, 4), (4, 4), (1, 8), (2, 8), (3, 8), (4, 8)]
    for k, kind in enumerate(("most", "random", "least")):
        from_figure_4 = {(1, 4): 1, (2, 4): 2, (3, 8): 3, (4, 8): 4}
        for cell, values in zip(cells, stored["divergence"][k], strict=True):
            place = from_figure_4.get(cell)
            expected = kl[f"{kind}_value_{place}"] if place else other[f"{kind}_value_{cell[0]}_{cell[1]}"]
            np.testing.assert_array_equal(values, expected)
    assert "random_value_4_8" not in other
    assert not np.array_equal(other["random_value_4_4"], kl["random_value_4"])
    left_out = read_arrays(made["generative"] / "generative.npz")
    rows = np.concatenate([left_out[f"{kind}_rows"] for kind in ("most", "random", "least")])
    assert len(set(rows.tolist())) == 150
    assert left_out["most_predicted"].shape == (4, 50)
    for step in pipeline.robustness.values():
        assert not list(finished.folder(step).glob("checkpoint*"))


def test_every_seed_of_a_profile_has_scores(tmp_path):
    """At 40 trials of 50,000 points 3% of seeds have a point that would be in all; 0 is none, 4 is one."""
    for seed, first in ((0, True), (4, False)):
        work = Work(tmp_path, {"seed": seed, "n_trials": LAPTOP.n_trials}, {}, Console(quiet=True))
        found = robustness._subsets_seed(work, 50_000)
        assert (found == steps.derived_seed(seed, "subsets")) is first
        n_in = sum(subset(trial, 50_000, seed=found).astype(int) for trial in range(LAPTOP.n_trials))
        assert 0 < n_in.min() <= n_in.max() < LAPTOP.n_trials
    with pytest.raises(CannotError, match="n_trials must be so many"):
        robustness._subsets_seed(Work(tmp_path, {"seed": 0, "n_trials": 2}, {}, Console(quiet=True)), 1000)


def test_what_is_finished_takes_no_more_time(finished, pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(robustness, "_seconds_a_network", lambda work, share: 2.0)
    trials, bins = (pipeline.robustness[name] for name in ("memorization", "density_bins"))
    work = replace(finished.work(trials), folder=tmp_path)
    assert robustness.estimate_memorization(work) == 60
    for trial in range(29):
        (tmp_path / f"checkpoint-trial-{trial:05d}.npz").touch()
    assert robustness.estimate_memorization(work) == robustness.estimate_memorization(work, (2, 3)) == 2
    assert robustness.estimate_memorization(work, (0, 3)) == 0
    work = replace(finished.work(bins), folder=tmp_path)
    assert robustness.estimate_density_bins(work) == 12
    robustness._weights(tmp_path, 0, "plain").touch()
    assert robustness.estimate_density_bins(work) == 10
    for name, estimate in (
        ("certification", robustness.estimate_certification),
        ("certification_control", robustness.estimate_certification_control),
        ("attacks", robustness.estimate_attacks),
    ):
        step = control_of(pipeline) if name == "certification_control" else pipeline.robustness[name]
        work = replace(finished.work(step), folder=tmp_path / name)
        work.folder.mkdir()
        assert estimate(work) > 0
        for chunk in robustness._chunks(work, robustness._chosen(work)[0]):
            robustness.checkpoint_of(work.folder, chunk).touch()
        if name == "certification_control":
            assert estimate(work) > 0
            (work.folder / robustness.CONTROL).touch()
        assert estimate(work) == 0


def test_without_a_memorized_point_the_figure_cannot_be_computed(finished, pipeline):
    work = finished.work(pipeline.robustness["kl_by_stage"])
    work = replace(work, settings={**work.settings, "threshold": 1.5})
    for function in (memorized_densities.kl_by_stage, memorized_densities.estimate_kl_by_stage):
        with pytest.raises(CannotError, match=r"no memorization score is above 1\.5, the highest is "):
            function(work)


def test_bins_of_points_left_out_are_of_the_same_points(finished, pipeline):
    """Points lie sorted by class in one file, and as in the dataset in the other."""
    stored = read_arrays(finished.folder(pipeline.figures["figure_b7"]) / "numbers.npz")
    memorization = read_arrays(finished.folder(pipeline.robustness["memorization"]) / "scores.npz")["value"]
    for s, stage in enumerate((3, 4)):
        density = read_arrays(finished.folder(pipeline.posteriors[stage]) / "density.npz")["log_density"]
        for b, rows in enumerate(np.array_split(np.argsort(density, kind="stable"), 50)):
            assert stored["seen_density"][s, b] == pytest.approx(density[rows].mean(), rel=PEER_RELATIVE)
            assert stored["seen_memorization"][s, b] == pytest.approx(memorization[rows].mean(), rel=PEER_RELATIVE)


def pipeline_labels(workspace, pipeline):
    from safetensors.numpy import load_file

    return load_file(workspace.folder(pipeline.dataset) / "data.safetensors")["train_labels"]


@pytest.mark.parametrize("name", ["memorization", "density_bins", "certification"])
def test_a_killed_step_goes_on_to_the_same_numbers(finished, pipeline, tmp_path, monkeypatch, name):
    """SIGKILL as soon as one task is finished; then the step is run again."""
    step = pipeline.robustness[name]
    root = copied(finished, tmp_path / "tiny")
    workspace = Workspace(root)
    folder = workspace.folder(step)
    expected = files(folder)
    for path in folder.iterdir():
        path.unlink()
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, str(root), name], env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 120
    started = {"memorization": "checkpoint-*", "density_bins": "without_bin_*", "certification": "checkpoint-*"}[name]

    def has_begun():
        try:
            return any(folder.glob(started))
        except FileNotFoundError:  # a step begins with a new folder: for a moment there is none
            return False

    while not has_begun() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert workspace.state(step) == State.UNFINISHED
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("without_bin_*")}
    monkeypatch.setattr(steps, "WORTH_SAYING_SECONDS", 0.0)  # the attempt took no minute
    assert [done.name for done in workspace.run([step])] == [step.name]
    assert files(folder) == expected
    assert all((folder / name).stat().st_mtime_ns == written for name, written in kept.items())
    # So that its time, which is of the rest alone, is not taken for that of the whole.
    assert workspace.provenance(step)["continued_after_interruption"]


def test_two_processes_give_what_one_gives(finished, pipeline, tmp_path, two_threads):
    """The networks are trained on one thread each, however many processes there are."""
    assert torch.get_num_threads() == 2
    step = pipeline.robustness["density_bins"]
    workspace = Workspace(copied(finished, tmp_path / "tiny"))
    expected = files(workspace.folder(step))
    for path in workspace.folder(step).iterdir():
        path.unlink()
    workspace.run([step])
    assert files(workspace.folder(step)) == expected
    assert torch.get_num_threads() == 2


def test_shards_from_the_command_line(finished, pipeline, tmp_path, monkeypatch):
    monkeypatch.setitem(PROFILES, "tiny", TINY_PROFILE)
    monkeypatch.setitem(PROTOCOLS, "paper", TINY_PROTOCOL)
    step = pipeline.robustness["memorization"]
    workspace = Workspace(copied(finished, tmp_path / "tiny"))
    expected = files(workspace.folder(step))

    def trials(*arguments):
        return CliRunner().invoke(app, ["trials", "--profile", "tiny", "--runs-dir", str(tmp_path), *arguments])

    assert "All trials were finished." in trials().output
    for path in workspace.folder(step).iterdir():
        path.unlink()
    monkeypatch.setattr(robustness, "_seconds_a_network", lambda work, share: 30.0)
    first = trials("--shard", "1/3")
    assert first.exit_code == 0, first.output
    assert "shard 1/3: will take about 5 min (from a timed part of it)" in first.output
    assert "10 of 30 trials are finished, in" in first.output
    assert "20 of 30" in trials("--shard", "0/3").output
    assert "will take" not in trials("--shard", "0/3").output
    workspace.run([step])
    assert files(workspace.folder(step)) == expected
    assert trials("--shard", "3/3").exit_code == 2


def test_trials_of_other_images_or_networks_are_refused(finished, pipeline, tmp_path):
    """So are those of the same images in another order; more of the same networks go on from what there is."""
    step = pipeline.robustness["memorization"]
    work = replace(finished.work(step), folder=tmp_path / "trials")
    work.folder.mkdir()

    def with_trials(n, **settings):
        return replace(work, settings={**work.settings, **settings, "n_trials": n})

    robustness.memorization_trials(with_trials(30))
    robustness.memorization(with_trials(31))
    assert read_arrays(work.folder / "trials.npz")["correct"].shape == (31, 1437)
    images, _ = read_tensors(finished.folder(pipeline.dataset) / "data.safetensors")
    reordered = dict(images, train_images=images["train_images"].flip(0), train_labels=images["train_labels"].flip(0))
    dataset = tmp_path / "dataset"
    shutil.copytree(finished.folder(pipeline.dataset), dataset)
    write_tensors(dataset / "data.safetensors", reordered)
    network = {**work.settings["network"], "epochs": 2}
    for other in (replace(with_trials(31), inputs={"dataset": dataset}), with_trials(31, network=network)):
        with pytest.raises(ValueError, match="of images that are others or in another order"):
            robustness.memorization(other)


def copied(workspace, root):
    return Path(shutil.copytree(workspace.root, root))
