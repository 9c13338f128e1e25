"""What is said before a run, estimates of its steps, and the dry run."""

import io
import re

import numpy as np
import pictures
import pytest
import torch
from paper_repro_tiny import TINY_PROFILE, TINY_PROTOCOL
from rich.console import Console
from tolerances import PEER_RELATIVE
from typer.testing import CliRunner

from classfit import convergence
from paper_repro import computations, plan, storage, timing
from paper_repro.cli import app
from paper_repro.datasets import load
from paper_repro.dry_run import shrunk_profile, shrunk_protocol
from paper_repro.pipeline import Pipeline
from paper_repro.profiles import CONVERGED, HELDOUT, PAPER, PROFILES, PROTOCOLS
from paper_repro.steps import Workspace

QUICK = {"dataset", "classes", "scorecard", "gaussian/representations"}
"""Steps without an estimate beside the figures: they take seconds, but for images that have to be decoded."""


@pytest.mark.parametrize("name", PROFILES)
def test_every_long_step_has_an_estimate(name):
    steps = Pipeline(PROFILES[name], PAPER).steps
    without = [step for step in steps if step.estimate is None and not step.kind.startswith("figure_")]
    assert {step.name if step.kind == "representations" else step.kind for step in without} == QUICK


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    """A workspace with everything that the dry run of the tiny profile makes, and what was said."""
    said = io.StringIO()
    workspace = Workspace(tmp_path_factory.mktemp("dry"), Console(file=said, width=200))
    pipeline = Pipeline(shrunk_profile(TINY_PROFILE), shrunk_protocol(PAPER))
    workspace.run([pipeline.dataset])
    first = plan.make_plan(workspace, pipeline, [*pipeline.figures.values(), pipeline.scorecard])
    with pictures.left_empty():
        workspace.run([*pipeline.figures.values(), pipeline.scorecard])
    return workspace, pipeline, first, said.getvalue()


def test_the_plan_times_what_can_be_timed(dry):
    workspace, pipeline, first, _ = dry
    assert first.seconds.keys() == {
        "network", "convnet/network", "vit/network", "mixer/network", "memorization", "untrained/representations",
    }  # fmt: skip
    assert all(np.isfinite(seconds) and seconds > 0 for seconds in first.seconds.values())
    timed = {step.name for step in pipeline.steps if step.estimate} - {
        f"paper/relative_entropy_stage_{stage}" for stage in (1, 2, 3)
    }
    assert set(first.waiting) == timed - first.seconds.keys()
    done = plan.make_plan(workspace, pipeline, pipeline.figures.values())
    assert (done.n_steps, done.seconds, done.disk_bytes) == (0, {}, 0)


def test_the_disk_is_what_was_written(dry):
    workspace, pipeline, _, _ = dry
    about = storage.read_json(workspace.folder(pipeline.dataset) / "dataset.json")
    for step in (pipeline.network, pipeline.robustness["density_bins"]):
        written = [storage.read_tensors(path)[0] for path in workspace.folder(step).glob("*.safetensors")]
        assert plan._kept_bytes(step, about) == sum(tensor.nbytes for part in written for tensor in part.values())
    arrays = storage.read_arrays(workspace.folder(pipeline.representations) / "layer4.npz")
    assert plan._kept_bytes(pipeline.representations, about) > arrays["values"].nbytes


def test_every_estimate_is_a_time(dry):
    workspace, pipeline, _, _ = dry
    for name in ("attacks", "certification", "kl_by_stage", "generative"):
        seconds = workspace.estimate(pipeline.robustness[name])
        assert np.isfinite(seconds)
        assert seconds >= 0
    assert workspace.estimate(pipeline.representations) > 0


def test_an_estimate_is_made_once(dry):
    workspace, pipeline, _, _ = dry
    first = workspace.estimate(pipeline.representations)
    assert workspace.estimate(pipeline.representations) == first


def made_points(root, labels):
    """What a posterior at stage 1 reads."""
    for name in ("dataset", "representations"):
        (root / name).mkdir()
    storage.write_tensors(root / "dataset" / "data.safetensors", {"train_labels": torch.from_numpy(labels)})
    storage.write_json(root / "dataset" / "dataset.json", {"class_names": [f"class {g}" for g in range(10)]})
    values = np.random.default_rng(0).normal(size=(len(labels), 2)).astype(np.float32)
    storage.write_arrays(root / "representations" / "layer1.npz", {"values": values})
    return values


def test_what_a_chain_has_done_takes_no_more_time(tmp_path, monkeypatch):
    made_points(tmp_path, np.tile(np.arange(10), 10))
    workspace = Workspace(tmp_path)
    monkeypatch.setattr(computations, "extrapolated", lambda *_: 60.0)
    work = workspace.work(Pipeline(TINY_PROFILE, TINY_PROTOCOL).posteriors[1])
    work.folder.mkdir(parents=True)
    checkpoint = work.folder / "checkpoint-cpu.npz"
    for sweep, left in ((None, 60), (4, 45), (16, 0)):
        if sweep is not None:
            storage.write_arrays(checkpoint, {"sweep": sweep})
        assert computations.estimate_posterior(work) == left
    monkeypatch.setattr(computations, "timed_fit", lambda *_: (60.0, None))
    work = workspace.work(Pipeline(TINY_PROFILE, CONVERGED).posteriors[1])
    work.folder.mkdir(parents=True)
    checkpoint = work.folder / "checkpoint-cpu.npz"
    whole = convergence.BURN_IN_IN_ROUNDS + convergence.MAX_ROUNDS
    begun, none = np.arange(10) < 5, np.zeros(10, int)
    stopped = np.where(begun, 100, 0)  # half of the groups, long before the end of the budget
    for state, done in (
        (None, 0),
        ({"round": 0, "begun": begun, "stopped": none}, convergence.BURN_IN_IN_ROUNDS / whole / 2),
        (
            {"round": 120, "begun": none == 0, "stopped": stopped},
            0.5 + (convergence.BURN_IN_IN_ROUNDS + 120) / whole / 2,
        ),
        ({"round": 120, "begun": none == 0, "stopped": none + 100}, 1),
    ):
        if state is not None:
            storage.write_arrays(checkpoint, state)
        assert computations.estimate_posterior(work) == pytest.approx(60 * (1 - done), abs=PEER_RELATIVE)


def test_a_fit_is_timed_by_the_class_of_median_size():
    """Scaled by its share of the points; the first few points of the class pay for what is compiled."""
    labels = np.repeat([0, 1, 2], [5, 40, 20])
    x, fitted = np.arange(65.0)[:, None], []

    def fit(points, groups):
        fitted.append((len(points), sorted(set(groups.tolist()))))
        return points

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "seconds_of", lambda call: call() or 3.0)
        seconds, found = timing.timed_fit(fit, x, labels, "cpu")
        assert seconds == pytest.approx(3 * 65 / 20)
        np.testing.assert_array_equal(found, x[labels == 2])
        assert fitted == [(8, [0]), (20, [0])]
        fitted.clear()
        patch.setattr(timing, "extrapolated", lambda seconds, few, more, all_: seconds(few) + seconds(more) + all_)
        assert timing.timed_fit(fit, x, labels, "cuda")[0] == pytest.approx((3 + 3 + 3) * 65 / (20 * 3))
        assert fitted == [(8, [0]), (20, [0]), (60, [0, 1, 2])]


def test_folds_that_are_done_take_no_more_time(tmp_path, monkeypatch):
    # Classes in turns, as the points of many datasets lie.
    values, fitted = made_points(tmp_path, np.tile(np.arange(10), 10)), []

    class Fits:
        def fit(self, x, groups):
            assert len(x) == len(groups)
            fitted.append(np.bincount(groups).tolist())

    monkeypatch.setattr(computations, "_mixture", lambda *_: Fits())
    monkeypatch.setattr(timing, "over_classes", lambda seconds, n, _: n * (seconds(1) >= 0))
    workspace = Workspace(tmp_path)
    work = workspace.work(Pipeline(TINY_PROFILE, HELDOUT).posteriors[1])
    assert computations.estimate_posterior(work) == 5 * 10
    assert fitted == [[8], [8]]  # four fifths of a class: to compile, and timed
    folds = computations._folds(work, values)
    folds.mkdir(parents=True)
    for f, left in enumerate((5, 4, 3, 2, 1)):
        (folds / f"fold{f}.npz").touch()
        assert computations.estimate_posterior(work) == left * 10


def test_what_is_short_is_timed_once_and_what_is_long_without_what_the_first_call_compiles():
    def timings(compiling, fixed, each):
        asked = []

        def seconds(n):
            asked.append(n)
            return (compiling if len(asked) == 1 else 0) + fixed + each * n

        return timing.extrapolated(seconds, 10, 40, 1000), asked

    assert timings(0, 0, 0.001) == (pytest.approx(1), [10])
    assert timings(1, 0, 0.001) == (pytest.approx(1), [10, 10])
    assert timings(100, 0, 0.01) == (pytest.approx(10), [10, 10])
    assert timings(100, 2, 0.1) == (pytest.approx(102), [10, 10, 40])
    assert timing.extrapolated(lambda n: n, 10, 40, 7) == 7


def test_the_line_says_what_is_known():
    text = plan.describe(plan.Plan(7, {"a": 30.0, "b": 7200.0}, ["c"], 2_500_000_000, 10**11))
    assert text == (
        "7 steps are to be done, which will keep about 2.5 GB on disk (100.0 GB free). Timed on this machine: about "
        "2.0 h for 2 of them (b 2.0 h, a 30 s). 1 more can be timed only when their inputs are there; each says so if "
        "it is long."
    )


@pytest.mark.parametrize(
    ("seconds", "words"), [(5, "5 s"), (119, "119 s"), (150, "2.5 min"), (7199, "120 min"), (200_000, "2.3 days")]
)
def test_durations(seconds, words):
    assert plan.duration(seconds) == words


@pytest.mark.parametrize("name", PROFILES)
def test_a_dry_run_has_every_step_at_full_width(name):
    whole, dry = (Pipeline(profile, PAPER) for profile in (PROFILES[name], shrunk_profile(PROFILES[name])))
    assert [step.name for step in whole.steps] == [step.name for step in dry.steps]
    for step, small in zip(whole.steps, dry.steps, strict=True):
        for key in ("architecture", "width", "stem", "dimensions", "optimizer", "crop_padding"):
            assert step.settings.get(key) == small.settings.get(key)
    assert all(protocol.density == shrunk_protocol(protocol).density for protocol in PROTOCOLS.values())


def test_a_dry_run_keeps_nothing(monkeypatch, tmp_path):
    monkeypatch.setitem(PROFILES, "tiny", TINY_PROFILE)
    monkeypatch.setitem(PROTOCOLS, "paper", TINY_PROTOCOL)
    result = CliRunner().invoke(
        app, ["run", "figure_a6", "--dry-run", "--profile", "tiny", "--runs-dir", str(tmp_path / "runs")]
    )
    assert result.exit_code == 0, result.output
    assert "All 4 steps of tiny went through" in result.output
    assert [line.split()[1] for line in result.output.splitlines() if line.startswith("✓")] == [
        "dataset", "network", "representations", "paper/figure_a6",
    ]  # fmt: skip
    assert not (tmp_path / "runs").exists()
    assert "Read the dataset: 1,437 training and 360 test images of 10 classes" in result.output
    assert "went on to the same bits" in result.output
    assert ("Not tried: a GPU" in result.output) is not torch.cuda.is_available()
    assert "python -m benchmarks.gpu_hours" in result.output.splitlines()[-1]
    assert "What the paper-sized profiles would cost" in result.output.splitlines()[-1]  # "tiny" is none


def test_made_images_are_of_the_datasets_shape():
    data = load("made", image_shape=[3, 6, 5], n_classes=2, n_per_class=8)
    assert data.train_images.shape == (16, 3, 6, 5)
    assert data.test_images.shape == (4, 3, 6, 5)
    assert data.train_labels.bincount().tolist() == [8, 8]
    again = load("made", image_shape=[3, 6, 5], n_classes=2, n_per_class=8)
    np.testing.assert_array_equal(data.train_images, again.train_images)


def test_a_run_says_its_plan_once(monkeypatch, tmp_path):
    monkeypatch.setitem(PROFILES, "tiny", TINY_PROFILE)
    monkeypatch.setitem(PROTOCOLS, "paper", TINY_PROTOCOL)
    command = ["run", "figure_a6", "--profile", "tiny", "--runs-dir", str(tmp_path)]
    first, second = (CliRunner().invoke(app, command).output for _ in range(2))
    said = " ".join(first.split())
    assert re.search(r"3 steps are to be done, .* Timed on this machine: about .* \(network .*1 more can be", said)
    assert "to be done" not in second
