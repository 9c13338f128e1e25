"""Published memorization of classes: the embedded file, and figures B.1 and B.2."""

import csv
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from made_published import MEMORIZATION, NAMES, made_figure_b1, made_figure_b2
from rich.console import Console
from scipy.stats import spearmanr
from tolerances import PEER_RELATIVE

from paper_repro import computations, published, storage
from paper_repro.figures import FIGURES, figure_b1, figure_b2, label, scores
from paper_repro.pipeline import Pipeline
from paper_repro.profiles import DIGITS, PAPER, PROFILES, PROTOCOLS
from paper_repro.published import class_memorization, matched, published_memorization
from paper_repro.statistics import N_BOOTSTRAP
from paper_repro.steps import Work

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CIFAR100 = "cifar100_resnet18_memorization"
WORDS = {"subtitle": np.array("made"), "note": np.array("A note.")}
HEADER = "# of nobody\nclass_number,class,n_points,mean_memorization,share_above_0.7\n"


def test_the_embedded_file_is_that_of_the_published_scores():
    """Written to 6 decimals."""
    path, images = DATA / "authors" / "resnet18" / "cifar100" / "mem_scores.npz", DATA / "cifar100.zip"
    if not path.exists() or not images.exists():
        pytest.skip("the published memorization scores and CIFAR-100 are not beside this checkout")
    stored = storage.read_arrays(path)
    with zipfile.ZipFile(images) as archive:
        names = sorted({name.split("/")[1] for name in archive.namelist() if name.endswith(".png")})
    found, embedded = class_memorization(stored["tr_mem"], stored["tr_labels"], names), published_memorization(CIFAR100)
    assert list(embedded) == names
    lines = (published.FOLDER / f"{CIFAR100}.csv").read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    for g, (name, row) in enumerate(zip(names, rows, strict=True)):
        own = stored["tr_mem"][stored["tr_labels"] == g].astype(np.float64)
        assert int(row["n_points"]) == len(own) == 500
        assert embedded[name] == float(row["mean_memorization"]) == round(found[name], 6)
        assert float(row["share_above_0.7"]) == round(float((own > 0.7).mean()), 6)


def test_the_embedded_file_says_where_it_is_from():
    lines = (published.FOLDER / f"{CIFAR100}.csv").read_text(encoding="utf-8").splitlines()
    said = " ".join(line for line in lines if line.startswith("#"))
    assert "Jamroż & Kurdziel" in said
    assert "ResNet18" in said
    numbers = [int(line.split(",")[0]) for line in lines if line[0].isdigit()]
    assert numbers == list(range(100))
    assert list(published_memorization(CIFAR100)) == sorted(published_memorization(CIFAR100))


def test_means_over_classes():
    scores, labels = np.array([0.8, 0.0, 0.7, 0.5], np.float32), np.array([1, 0, 1, 1])
    found = class_memorization(scores, labels, ["ant", "bee"])
    assert list(found) == ["ant", "bee"]
    assert found["ant"] == 0.0
    assert found["bee"] == pytest.approx(2 / 3, rel=1e-6)
    with pytest.raises(ValueError, match=r"every class must have a point, class 2 \(cat\) has none"):
        class_memorization(scores, labels, ["ant", "bee", "cat"])
    with pytest.raises(ValueError, match="one for each of 4 labels, got 3"):
        class_memorization(scores[:3], labels, ["ant", "bee"])


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Write a file `made` of published scores in place of the embedded ones."""
    monkeypatch.setattr(published, "FOLDER", tmp_path)

    def write(text):
        (tmp_path / "made.csv").write_text(text, encoding="utf-8")

    return write


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "0,ant,5,0.5\n", "the line of class 'ant' is no row of numbers"),
        (HEADER + "0,ant,5,half,0.1\n", "the line of class 'ant' is no row of numbers"),
        (HEADER + "0,ant,5,1.5,0.1\n", "class 'ant' has numbers that scores cannot have"),
        (HEADER + "0,ant,0,0.5,0.1\n", "class 'ant' has numbers that scores cannot have"),
        (HEADER + "0,ant,5,nan,0.1\n", "class 'ant' has numbers that scores cannot have"),
        (HEADER + "0,ant,5,0.5,0.1\n1,ant,5,0.5,0.1\n", "has class 'ant' twice"),
        (HEADER, "has no class"),
        ("class,mean\nant,0.5\n", "must have the columns class_number, class, .*, got class, mean"),
    ],
)
def test_a_bad_file_is_refused(file, text, message):
    file(text)
    with pytest.raises(ValueError, match=message):
        published_memorization("made")


def test_an_unknown_file_is_refused(file):
    file(HEADER)
    with pytest.raises(ValueError, match="published scores 'cifar10' are unknown; known: made"):
        published_memorization("cifar10")


def test_classes_are_matched_by_name():
    known = class_memorization(MEMORIZATION, np.arange(6), NAMES)
    shuffled = [NAMES[g] for g in (3, 0, 5)]
    assert matched(known, shuffled).tolist() == [0.4, 0.1, 0.5]
    with pytest.raises(ValueError, match="2 of 3 classes have no published memorization score: gnu, yak; there are"):
        matched(known, ["ant", "gnu", "yak"])


def test_figure_b1_numbers():
    numbers = made_figure_b1()
    stored = figure_b1.compute(**numbers) | WORDS
    labels, log_density = numbers["labels"], numbers["log_density"]
    for s, stage in enumerate((3, 4)):
        own = [log_density[stage][labels == g] for g in range(6)]
        for kind, statistic in (("mean", np.mean), ("std", np.std)):
            rho, low, high = stored[f"{kind}_correlation"][s]
            expected = spearmanr(MEMORIZATION, [statistic(part) for part in own]).statistic
            assert rho == pytest.approx(expected, rel=PEER_RELATIVE)
            assert -1 <= low <= rho <= high <= 1
    assert stored["high"].tolist() == [False] * 4 + [True] * 2
    rows = figure_b1.table(stored)
    assert [row["published_mean_memorization"] for row in rows] == [*MEMORIZATION, *MEMORIZATION]
    words = figure_b1.finding(stored)
    assert re.search(
        r"The 6 classes above the largest gap at stage 4 have a mean memorization of 0\.55, the 12 below it of 0\.25: "
        r"a difference of \+0\.30 \(\+0\.\d\d to \+0\.\d\d\)\.",
        figure_b1.finding(thrice(stored)),
    )
    assert f"{stored['std_correlation'][1][0]:+.2f}".replace("-", "−") in words


def thrice(stored):
    """Every class three times."""
    by_class = {name: np.concatenate([stored[name]] * 3) for name in ("memorization", "high", "class_names")}
    return stored | by_class | {name: np.tile(stored[name], 3) for name in ("mean", "std")}


def test_a_few_classes_have_names_and_no_mean():
    stored = figure_b1.compute(**made_figure_b1()) | WORDS
    assert figure_b1.finding(stored).endswith(
        ". Only elk (0.60), fox (0.50) are above the largest gap at stage 4, too few for a mean; the mean memorization "
        "of the other 4 is 0.25."
    )
    one = thrice(stored) | {"high": np.arange(18) != 5}
    assert "Only fox (0.50) is below the largest gap at stage 4, too few for a mean" in figure_b1.finding(one)
    assert "mean memorization of both groups" not in figure_b1.caption(stored)
    figure = figure_b1.draw(stored)
    assert not [line for axes in figure.axes for line in axes.lines if line.get_linestyle() == "--"]
    key = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(key) == 2
    assert key[1].endswith(" (2): elk, fox")


def test_the_intervals_are_over_classes():
    """Twice the classes with the same numbers leave the correlation as it is, and an interval narrower by √2."""
    rng = np.random.default_rng(0)
    memorization, level = rng.random(60), rng.normal(size=60)

    def interval(times):
        numbers = {
            "log_density": dict.fromkeys((3, 4), np.tile(level, times)),
            "labels": np.arange(60 * times),
            "class_names": [str(g) for g in range(60 * times)],
            "dimensions": {3: 1, 4: 1},
            "memorization": np.tile(memorization, times),
        }
        return figure_b1.compute(**numbers)["mean_correlation"][0]

    once, twice = interval(1), interval(2)
    assert once[0] == pytest.approx(twice[0], rel=PEER_RELATIVE)
    # The ends of an interval of B draws are off by some 1 / sqrt(B) of its width.
    ratio = (once[2] - once[1]) / (twice[2] - twice[1])
    assert abs(ratio / np.sqrt(2) - 1) < 4 / np.sqrt(N_BOOTSTRAP) * np.sqrt(2)


def test_figure_b1_draws_what_it_says():
    stored = figure_b1.compute(**made_figure_b1()) | WORDS
    panels = figure_b1.draw(stored).axes
    titles = [axes.get_title(loc="left") for axes in panels]
    assert titles == ["Stage 3  (D = 64)", "Stage 4  (D = 64)", "", ""]
    correlations = [stored[f"{kind}_correlation"][s] for kind in ("mean", "std") for s in (0, 1)]
    assert [axes.get_title(loc="right") for axes in panels] == [scores.short(found) for found in correlations]
    assert len({axes.get_title(loc="right") for axes in panels}) > 2
    assert [axes.get_xscale() for axes in panels] == ["linear", "linear", "log", "log"]
    high = next(line for line in panels[1].lines if line.get_marker() == "D")
    np.testing.assert_array_equal(high.get_xdata(), stored["mean"][1][4:])
    np.testing.assert_array_equal(high.get_ydata(), MEMORIZATION[4:])
    figure = figure_b1.draw(thrice(stored))
    means = [[line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"] for axes in figure.axes]
    assert means[1] == pytest.approx([0.25, 0.55])
    assert means[0] == means[2] == means[3] == []
    assert figure.legends[0].get_texts()[2].get_text() == "mean of the group"
    assert "dashed lines are at the mean memorization of both groups" in figure_b1.caption(thrice(stored))


@pytest.mark.parametrize("constant", ["memorization", "log_density"])
def test_without_differences_nothing_is_correlated(constant):
    numbers = made_figure_b1()
    if constant == "memorization":
        numbers["memorization"] = np.full(6, 0.5)
    else:
        numbers["log_density"] = {stage: np.zeros(120) for stage in (3, 4)}
    stored = figure_b1.compute(**numbers) | WORDS
    assert "mean log-density undefined at stage 3" in figure_b1.finding(stored)
    assert "nan" not in figure_b1.finding(stored)
    assert figure_b1.draw(stored).axes[0].get_title(loc="right") == "no ρ"


def test_figure_b2_numbers():
    stored = figure_b2.compute(**made_figure_b2()) | WORDS
    numbers = made_figure_b2()
    expected = spearmanr(numbers["ours"], numbers["published"]).statistic
    assert stored["correlation"][0] == pytest.approx(expected, rel=PEER_RELATIVE)
    assert figure_b2.table(stored)[1] == {"class": "bee", "mean_memorization": 0.05, "published_mean_memorization": 0.2}
    (axes,) = figure_b2.draw(stored).axes
    marks = next(line for line in axes.lines if line.get_marker() == "o")
    np.testing.assert_array_equal(marks.get_xdata(), MEMORIZATION)
    said = "the mean of ours, which are estimated from 40 networks trained on random 70% subsets. They are small."
    assert said in figure_b2.caption(stored)
    assert "averaged over classes 0.18 and 0.35" in figure_b2.finding(stored)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_who_has_the_figures(protocol):
    for name, profile in PROFILES.items():
        figures = Pipeline(profile, PROTOCOLS[protocol]).figures
        assert ({"figure_b1", "figure_b2"} <= set(figures)) == (profile.dataset == "cifar100"), name
        assert ("figure_b1" in figures) == ("figure_b2" in figures)
    assert (label("figure_b1"), label("figure_b2"), label("figure_a10")) == (
        "Figure B.1",
        "Figure B.2",
        "Figure A.10",
    )
    assert list(FIGURES)[-11:] == [f"figure_b{k}" for k in range(1, 12)]


def test_a_changed_file_of_scores_makes_the_figures_stale(file):
    from dataclasses import replace

    profile = replace(DIGITS, published="made")

    def fingerprints(text):
        file(text)
        return {name: step.fingerprint for name, step in Pipeline(profile, PAPER).figures.items()}

    before, after = fingerprints(HEADER + "0,0,5,0.5,0.1\n"), fingerprints(HEADER + "0,0,5,0.6,0.1\n")
    assert {name for name in before if before[name] != after[name]} == {
        "figure_b1",
        "figure_b2",
        "figure_b4",
        "figure_b5",
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_steps_read_what_every_protocol_stores(protocol, tmp_path):
    """Classes of the dataset in another order than those of the file."""
    numbers, order = made_figure_b1(), [5, 3, 1, 0, 2, 4]
    names = ["wolf", "apple", "worm", "bear", "seal", "crab"]
    steps = Pipeline(PROFILES["cifar100-laptop"], PROTOCOLS[protocol]).figures
    folders = {step.name: tmp_path / step.name for name in ("figure_b1", "figure_b2") for step in steps[name].inputs}
    for folder in folders.values():
        folder.mkdir(parents=True)
    labels = np.array(order)[numbers["labels"]]
    storage.write_tensors(folders["dataset"] / "data.safetensors", {"train_labels": torch.from_numpy(labels)})
    storage.write_json(folders["dataset"] / "dataset.json", {"class_names": names})
    for stage in (3, 4):
        folder = folders[f"{protocol}/posterior_stage_{stage}"]
        storage.write_arrays(folder / "density.npz", {"log_density": numbers["log_density"][stage]})
    storage.write_arrays(folders["memorization"] / "scores.npz", {"value": labels / 10})
    theirs = published_memorization(CIFAR100)
    for name in ("figure_b1", "figure_b2"):
        step = steps[name]
        folder = tmp_path / step.name
        folder.mkdir()
        inputs = {step_in.name: folders[step_in.name] for step_in in step.inputs}
        computations.figure(Work(folder, step.settings, inputs, Console(quiet=True)))
        stored = storage.read_arrays(folder / "numbers.npz")
        assert stored["class_names"].tolist() == names
        key = "memorization" if name == "figure_b1" else "published"
        assert stored[key].tolist() == [theirs[name] for name in names]
        assert (folder / f"{name}.png").exists()
    assert stored["ours"].tolist() == pytest.approx([g / 10 for g in range(6)])
    assert "protocol " + protocol in str(stored["subtitle"])
