"""Figure B.5: points as fitted and left out."""

import re

import numpy as np
import pytest
from made_left_out import made_figure_b5

from paper_repro.figures import figure_b5
from paper_repro.statistics import gap_p_value

WORDS = {"subtitle": np.array("made"), "note": np.array("A note.")}


def test_numbers_of_the_classes():
    numbers = made_figure_b5(few=32)
    seen, left_out, labels = (numbers[name] for name in ("seen", "left_out", "labels"))
    stored = figure_b5.compute(**numbers)
    for s, stage in enumerate((3, 4)):
        for kind, values in (("seen", seen), ("left_out", left_out)):
            mean = np.array([values[stage][labels == g].mean() for g in range(8)])
            assert np.allclose(stored[f"{kind}_mean"][s], mean)
            assert np.allclose(stored[f"{kind}_std"][s], [values[stage][labels == g].std() for g in range(8)])
            assert stored[f"{kind}_gap"][s] == pytest.approx(np.diff(np.sort(mean)).max())
            assert stored[f"{kind}_p"][s] == gap_p_value(mean)
        assert stored["high"][s].tolist() == [False] * 5 + [True] * 3
        assert stored["few_draws"][s] == pytest.approx(0.1)
    assert (stored["correlation"][:, 0] < 0).all()
    rows = figure_b5.table(stored)
    assert len(rows) == 16
    assert rows[15]["class"] == "c7"
    assert rows[15]["left_out_mean_log_density_nats"] == stored["left_out_mean"][1, 7]
    assert (rows[15]["high_density_as_fitted"], rows[0]["high_density_as_fitted"]) == (True, False)


def test_words():
    stored = figure_b5.compute(**made_figure_b5(few=32)) | WORDS
    words = figure_b5.finding(stored)
    assert "The 3 classes above the gap as fitted have a mean log-density of" in words
    enough = figure_b5.compute(**made_figure_b5() | {"effective_draws": dict.fromkeys((3, 4), np.full(320, 5.0))})
    assert not enough["few_draws"].any()
    assert words.count("For 10.0% of the points the density left out rests on fewer than 5 effective labellings.") == 2
    assert "labellings" not in figure_b5.finding(figure_b5.compute(**made_figure_b5()))
    assert "The 1 class above the gap as fitted has" in figure_b5.finding(figure_b5.compute(**made_figure_b5(high=1)))
    assert re.search(r"left out a difference \(nats.*?\) of −\d+\.\d \(too few classes for an interval\)\.", words)
    many = figure_b5.finding(figure_b5.compute(**made_figure_b5(high=5, n_classes=10)))
    assert re.search(r"for this split\) of −(1\d|2\d)\.\d \(−\d+\.\d to −\d+\.\d\)\.", many)
    one = figure_b5.compute(**made_figure_b5(high=1)) | {"seen_p": [0.01, 0.2], "left_out_p": [0.2, 0.2]}
    assert figure_b5.finding(one).count("With fewer than 2 classes on one side, that as fitted is of outliers.") == 1
    several = figure_b5.compute(**made_figure_b5()) | {"seen_p": [0.01, 0.01], "left_out_p": [0.2, 0.2]}
    assert "outliers" not in figure_b5.finding(several)
    assert figure_b5.caption(stored).endswith("is least likely counts most. A note.")
    remark = figure_b5.compute(**made_figure_b5(), remark="Of all points.") | WORDS
    assert "Of all points. A note." in figure_b5.caption(remark)
    assert "green squares" in figure_b5.look_for(stored)


def test_memorization_where_it_is_known():
    numbers = made_figure_b5()
    stored = figure_b5.compute(**numbers, memorization=np.arange(8) / 8) | WORDS
    assert stored["seen_memorization"][:, 0].tolist() == [1.0, 1.0]
    assert (stored["left_out_memorization"][:, 0] < 0).all()
    assert "published memorization over classes (95% interval): +1.00" in figure_b5.finding(stored)
    assert "published" not in figure_b5.finding(figure_b5.compute(**numbers) | WORDS)


def test_classes_that_are_all_the_same():
    numbers = made_figure_b5()
    same = dict.fromkeys((3, 4), np.zeros(len(numbers["labels"])))
    stored = figure_b5.compute(**numbers | {"seen": same, "left_out": same}) | WORDS
    assert not stored["high"].any()
    assert "undefined" in figure_b5.finding(stored)
    assert "above the gap as fitted" not in figure_b5.finding(stored)
    figure_b5.draw(stored)


def test_classes_are_orange_where_they_are_in_figure_1():
    """Above a gap that chance may have left, with spreads that are alike, they are not."""
    stored = figure_b5.compute(**made_figure_b5(high=0)) | WORDS
    assert stored["high"].any()
    for s, axes in enumerate(figure_b5.draw(stored).axes):
        _, high, _ = (line.get_xydata() for line in axes.lines)
        assert not len(high)
        words = [text.get_text() for text in axes.texts]
        first, second = words[0].split("\n")
        assert first.startswith(f"largest gap as fitted {stored['seen_gap'][s]:.1f} nats (p")
        assert second == ""


def test_marks_lie_where_the_numbers_are():
    stored = figure_b5.compute(**made_figure_b5()) | WORDS
    for s, axes in enumerate(figure_b5.draw(stored).axes):
        order = np.argsort(stored["seen_mean"][s])
        low, high, left_out = (line.get_xydata() for line in axes.lines)
        assert np.allclose(np.concatenate([low, high])[:, 1], stored["seen_mean"][s][order])
        assert np.allclose(left_out[:, 1], stored["left_out_mean"][s][order])
        assert high[:, 0].tolist() == [5, 6, 7]
        bars = axes.patches[2].get_path().vertices
        expected = stored["left_out_mean"][s][order] - stored["left_out_std"][s][order]
        assert np.allclose(bars[::2, 1], expected)
