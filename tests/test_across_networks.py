"""Networks beside each other: which classes are high in which, against counts by hand and scipy's distribution."""

import csv
import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from paper_repro import across_networks
from paper_repro.profiles import PROFILES
from paper_repro.statistics import rank_correlation_interval
from paper_repro.storage import read_arrays, write_arrays

NAMES = np.array([f"c{g}" for g in range(10)])
FIRST, OTHER = "cifar100-laptop", "cifar100-resnet18"


def kept(results, name, protocol, high, class_names=NAMES):
    """Figure B.5 of a run, two stages: at the second the first `high` classes are 50 nats above the others."""
    rng = np.random.default_rng(sum(map(ord, name)) + high)
    left_out = np.arange(10.0) + rng.normal(size=(2, 10))
    chosen = np.stack([np.arange(10) < 2, np.arange(10) < high])
    # What figure B.5 itself calls high does not count.
    stored = {"stages": np.array([3, 4]), "class_names": class_names, "high": ~chosen, "left_out_mean": left_out}
    stored |= {"seen_mean": left_out + 50 * chosen, "seen_std": np.where(chosen, 1.0, 9.0)}
    folder = results / name / protocol / "figure_b5"
    folder.mkdir(parents=True)
    write_arrays(folder / "numbers.npz", stored)


def kept_pixels(results, name, high, protocol="paper", class_names=NAMES):
    """Figure B.9 of a run: of its places the raw pixels are the second."""
    chosen = np.arange(10) < high
    values, std = np.arange(10.0) + 50 * chosen, np.where(chosen, 1.0, 9.0)
    stored = {"places": np.array(["Stage 4, untrained", "Raw pixels"]), "class_names": class_names}
    stored |= {"seen_mean": np.stack([values[::-1], values]), "seen_std": np.stack([std[::-1], std])}
    stored["left_out_mean"] = stored["seen_mean"]
    folder = results / name / protocol / "figure_b9"
    folder.mkdir(parents=True)
    write_arrays(folder / "numbers.npz", stored)


@pytest.fixture
def results(tmp_path):
    root = tmp_path / "results"
    kept(root, FIRST, "converged", 4)
    kept(root, OTHER, "converged", 3)
    kept(root, OTHER, "paper", 1)
    return root


def test_pairs_are_of_the_same_stage_protocol_and_classes(results):
    rows = across_networks.pairs(across_networks.fits(results))
    titles = (f"A: {PROFILES[FIRST].title}", f"B: {PROFILES[OTHER].title}")
    assert [(row["protocol"], row["stage"], row["networks"]) for row in rows] == [
        ("converged", 3, titles),
        ("converged", 4, titles),
    ]
    row = rows[1]
    assert (row["high"], row["both"], row["expected"]) == ((4, 3), 3, 1.2)
    # All 3 of the one among the 4 of the other.
    assert row["p"] == pytest.approx(math.comb(4, 3) / math.comb(10, 3))
    assert rows[0]["p"] == pytest.approx(1 / math.comb(10, 2))
    first, other = (f for f in across_networks.fits(results) if f.protocol == "converged" and f.stage == 4)
    for kind in ("seen", "left_out"):
        values = getattr(first, kind), getattr(other, kind)
        assert row[kind][0] == pytest.approx(spearmanr(*values).statistic)
        np.testing.assert_array_equal(row[kind], rank_correlation_interval(*values))


def test_another_seed_of_a_network_is_a_network(results):
    kept(results, f"{FIRST}-seed2", "converged", 4)
    first, other = f"A: {PROFILES[FIRST].title}", f"B: {PROFILES[OTHER].title}"
    again = f"A2: {PROFILES[FIRST].title}, seed 2"
    found = [row["networks"] for row in across_networks.pairs(across_networks.fits(results)) if row["stage"] == 4]
    assert found == [(first, again), (first, other), (again, other)]
    assert "A: ResNet18 of half width and A2: ResNet18 of half width, seed 2 | 4 and 4 |" in across_networks.section(
        results
    )


def test_networks_of_other_classes_are_not_compared(tmp_path):
    kept(tmp_path, FIRST, "converged", 4)
    kept(tmp_path, OTHER, "converged", 3, class_names=NAMES[::-1])
    assert across_networks.pairs(across_networks.fits(tmp_path)) == []
    assert across_networks.section(tmp_path) == ""
    stale = tmp_path / across_networks.FOLDER
    stale.mkdir()
    (stale / "across_networks.png").touch()
    across_networks.write(tmp_path)
    assert not stale.exists()
    assert across_networks.picture(tmp_path) == []
    assert across_networks.fits(tmp_path / "nothing") == []


def test_the_classes_are_those_of_most_runs(results):
    """Neither a run of another dataset nor its pixels stand in their way."""
    kept(results, "mini-imagenet-resnet18", "converged", 3, class_names=NAMES[::-1])
    kept_pixels(results, "digits", 5, class_names=NAMES[::-1])
    kept_pixels(results, OTHER, 6)
    found = across_networks.fits(results)
    assert {fit.class_names for fit in found} == {tuple(NAMES)}
    assert found[0].high.sum() == 6
    across_networks.write(results)
    assert (results / "across_networks" / "across_networks.png").is_file()


def test_what_chance_leaves_above_a_gap_is_not_high(tmp_path):
    kept(tmp_path, FIRST, "converged", 4)
    path = tmp_path / FIRST / "converged" / "figure_b5" / "numbers.npz"
    write_arrays(path, {**read_arrays(path), "seen_mean": np.arange(20.0).reshape(2, 10), "seen_std": np.ones((2, 10))})
    assert not any(fit.high.any() for fit in across_networks.fits(tmp_path))


def test_the_section_and_the_picture(results):
    section = across_networks.section(results)
    assert "| `converged` | 4 | A: ResNet18 of half width and B: ResNet18 | 4 and 3 | 3 | 1.2 | 0.03 | +" in section
    assert len(section.splitlines()) == 8
    across_networks.write(results)
    folder = results / "across_networks"
    with (folder / "across_networks.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 * 10
    of_first = [row for row in rows if (row["network"], row["stage"]) == (f"A: {PROFILES[FIRST].title}", "4")]
    assert [row["class"] for row in of_first if row["high_density_as_fitted"] == "True"] == ["c0", "c1", "c2", "c3"]
    words = across_networks.picture(results)
    assert "](paper_repro/results/across_networks/across_networks.png)" in words[1]
    assert (folder / "across_networks.png").stat().st_size > 10_000


def test_the_picture_has_high_classes_in_their_columns(results):
    """Columns from the class that is high in most rows to those that are in none, by density left out."""
    found = [fit for fit in across_networks.fits(results) if fit.protocol == "converged"]
    (axes,) = across_networks.draw(found).axes
    columns = [tick.get_text() for tick in axes.get_xticklabels()]
    assert {*columns[:2]} == {"c0", "c1"}
    assert columns[2:4] == ["c2", "c3"]
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows[2] == "Stage 4, A: ResNet18 of half width (converged): 4"
    assert {columns[round(bar.get_x() + 0.42)] for bar in axes.containers[4]} == {"c0", "c1", "c2", "c3"}
    assert {round(bar.get_y() + 0.42, 6) for bar in axes.containers[4]} == {2.3}


def test_raw_pixels_are_compared_with_every_network(results):
    """Once: those of a second network are the same."""
    kept_pixels(results, FIRST, 6)
    kept_pixels(results, OTHER, 6)
    found = across_networks.fits(results)
    assert [fit.stage for fit in found] == [None, 3, 4, 3, 3, 4, 4]
    rows = across_networks.pairs(found)
    of_pixels = [row for row in rows if row["networks"][0] == "raw pixels"]
    assert [(row["protocol"], row["stage"], row["of_pixels"]) for row in of_pixels] == [
        ("paper", 3, "paper"),
        *[("converged", 3, "paper")] * 2,
        *[("converged", 4, "paper")] * 2,
    ]
    assert (of_pixels[3]["high"], of_pixels[3]["both"]) == ((6, 4), 4)
    assert of_pixels[3]["p"] == pytest.approx(math.comb(6, 4) / math.comb(10, 4))
    assert len(rows) == len(of_pixels) + 2
    section = across_networks.section(results)
    assert (
        "| `converged` | 4 | raw pixels (`paper`) and A: ResNet18 of half width | 6 and 4 | 4 | 2.4 | 0.07 | "
        in section
    )
    drawn = [fit for fit in found if fit.protocol == "converged" or fit.stage is None]
    (axes,) = across_networks.draw(drawn).axes
    assert axes.get_yticklabels()[0].get_text() == "Raw pixels (paper): 6"
    across_networks.write(results)
    assert "raw pixels,paper,,c0," in (results / "across_networks" / "across_networks.csv").read_text(encoding="utf-8")
    kept_pixels(results, OTHER, 5, "converged")  # are preferred
    assert across_networks.fits(results)[0].high.sum() == 5
    assert "raw pixels (`converged`) and" in across_networks.section(results)
