"""The report's section on several protocols, on made results."""

import csv
import re
from dataclasses import replace

import numpy as np
import pytest
from made_chains import made_convergence
from made_protocols import made_densities, store, store_figure, store_scorecard
from made_robustness import made_figure_4
from paper_repro_tiny import TINY_PROFILE
from test_paper_repro_figures import assert_gaps_are_said_beside_the_data, made_figure_2

from paper_repro import report, side_by_side, storage
from paper_repro.chains import chain_rows
from paper_repro.figures import figure_2, figure_4, style
from paper_repro.figures.side_by_side import DRAWN, Column, draw
from paper_repro.pipeline import Pipeline
from paper_repro.profiles import CONVERGED, EM, PAPER, PROTOCOLS
from paper_repro.report import write_report
from paper_repro.side_by_side import compare
from paper_repro.steps import State, Workspace

EMPTY = '<svg height="1" viewBox="0 0 1 1"></svg>'


@pytest.fixture
def drawn(monkeypatch):
    """Figures that were to be saved, by name; the files are empty ones, for drawing takes seconds."""
    figures = {}

    def save(figure, folder, name):
        figures[name] = figure
        (folder / f"{name}.svg").write_text(EMPTY)
        (folder / f"{name}.png").write_text("")

    monkeypatch.setattr(side_by_side, "save", save)
    return figures


def pipeline_of(name, seed=0, official=False):
    return Pipeline(TINY_PROFILE, PROTOCOLS[name], seed=seed, official=official)


@pytest.fixture
def workspace(tmp_path):
    """Protocols paper and converged with figure A.7, the latter with a table of classes too."""
    workspace = Workspace(tmp_path / "tiny")
    store_figure(workspace, pipeline_of("paper"), "figure_a7", made_densities((27, 28, 29)))
    store_figure(workspace, pipeline_of("converged"), "figure_a7", made_densities((29, 1)))
    store_scorecard(workspace, pipeline_of("paper"), {"C1": "reproduced", "C2": "reproduced"})
    store_scorecard(workspace, pipeline_of("converged"), {"C1": "not reproduced", "C2": "reproduced"})
    judged = chain_rows(made_convergence(30), {}, None)
    rows = [
        {"stage": s, "class": f"c{g}", "n_points": 3, "mean_log_density_nats": 1.0, "std_log_density_nats": 1.0,
         "mean_components": 2.0, "relative_entropy_nats": 1.0, "relative_entropy_standard_error_nats": 0.1,
         "density_group": "low"} | row
        for s in (1, 2, 3, 4)
        for g, row in enumerate(judged)
    ]  # fmt: skip

    def write(folder):
        storage.write_csv(folder / "classes.csv", rows)
        trace = made_convergence(30)
        names = ("n_components", "log_joint")
        storage.write_arrays(folder / "traces.npz", {f"{n}_{s}": trace[n] for n in names for s in (1, 2, 3, 4)})

    store(workspace, pipeline_of("converged").classes, write, {})
    return workspace


def page_of(workspace, name):
    return (workspace.root / name / "report.html").read_text(encoding="utf-8")


def test_one_protocol_alone_has_no_such_section(tmp_path, drawn):
    workspace = Workspace(tmp_path)
    store_figure(workspace, pipeline_of("paper"), "figure_1", made_densities((27, 28, 29)))
    assert compare(workspace, pipeline_of("paper")) is None
    # Results of the shared steps, and a figure without densities, are no results of a protocol.
    (tmp_path / "em").mkdir()
    assert compare(workspace, pipeline_of("em")) is None
    assert "stricter protocols" not in write_report(workspace, pipeline_of("paper")).read_text()
    assert not (tmp_path / "side_by_side").exists()


def test_both_reports_have_the_section(workspace, drawn):
    for name in ("paper", "converged"):
        write_report(workspace, pipeline_of(name))
    for name in ("paper", "converged"):
        page = page_of(workspace, name)
        section = page[page.index('<section id="protocols">') : page.index('<section id="run">')]
        assert "<h2>What changes under stricter protocols</h2>" in section
        assert (
            "3 of 30 under <code>paper</code> and 2 of 30 under <code>converged</code>. Above it under "
            "<code>paper</code> and under the other as well: 1 of 3 for <code>converged</code> (Jaccard index 0.25)."
        ) in section
        assert "is reproduced under <code>paper</code>, not reproduced under <code>converged</code>" in section
        assert "Verdicts that do not: C2." in section
        assert "converged for 5 of 30 classes at stage 4, and for 20 of 120 at all stages together" in section
        assert "Whether fits converged is not stored for <code>paper</code>" in section
        assert "No results are stored for <code>heldout</code> and <code>em</code>." in section
        assert section.count("<figure ") == 1
        assert 'id="protocols-figure_a7"' in section
        assert section.count('<span class="verdict') == 4
        assert "Out of date" not in section
        for target in re.findall(r'href="([^"#][^"]*)"', section):
            assert (workspace.root / name / target).exists(), target
        assert not re.search(r"<(script|link|img|iframe|object)\b|@import", page)


def test_a_report_brings_the_others_up_to_date(workspace, drawn):
    write_report(workspace, pipeline_of("paper"))
    store_figure(workspace, pipeline_of("em"), "figure_1", made_densities(()))
    write_report(workspace, pipeline_of("em"))
    assert "0 of 30 under <code>em</code>" in page_of(workspace, "paper")
    assert 'href="../em/report.html"' in page_of(workspace, "paper")
    for kind in ("svg", "png"):
        assert (workspace.root / "side_by_side" / f"figure_a7.{kind}").exists()
    # There was no report of it.
    assert not (workspace.root / "converged" / "report.html").exists()


def test_the_table_of_the_overlap(workspace, drawn):
    comparison = compare(workspace, pipeline_of("paper"))
    with (comparison.folder / "overlap.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["protocol"] for row in rows] == ["paper", "converged"]
    assert [row["found_again"] for row in rows] == ["3", "1"]
    assert float(rows[1]["jaccard"]) == 1 / 4
    assert rows[1]["classes_converged"] == "5"
    assert rows[0]["classes_converged"] == ""
    assert rows[1]["names"] == "c1; c29"


def test_other_seeds_are_said_and_their_reports_left_alone(workspace, drawn):
    write_report(workspace, pipeline_of("paper"))
    before = page_of(workspace, "paper")
    store_figure(workspace, pipeline_of("em", seed=1), "figure_a7", made_densities((3,)))
    page = write_report(workspace, pipeline_of("em", seed=1)).read_text()
    assert "Out of date: figure_a7, scorecard under <code>paper</code>" in page
    assert drawn["figure_a7"].axes[0].get_title(loc="left") == "paper, out of date"
    assert drawn["figure_a7"].axes[2].get_title(loc="left") == "em"
    assert page_of(workspace, "paper") == before


def test_steps_of_another_seed_are_marked_in_the_table_of_steps(workspace):
    for seed, state in ((0, State.DONE), (1, State.STALE)):
        found = report._steps(workspace, pipeline_of("paper", seed=seed))
        assert {step["step"]: step["state"] for step in found} == {"paper/figure_a7": state, "paper/scorecard": state}


def test_other_settings_of_a_protocol_are_said(workspace, drawn, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "converged", replace(CONVERGED, n_init_components=3))
    comparison = compare(workspace, pipeline_of("paper"))
    assert "Out of date: figure_a7, scorecard, classes under `converged`" in comparison.paragraph


def test_representations_of_another_network_are_said(workspace, drawn):
    other = {"dataset": "images", "representations": "of another network"}
    store_figure(workspace, pipeline_of("em"), "figure_a7", made_densities((3,)), other)
    paragraph = compare(workspace, pipeline_of("paper")).paragraph
    assert "Out of date: figure_a7 under `em`, made with" in paragraph
    # The order in which reports are written does not matter.
    assert compare(workspace, pipeline_of("em")).paragraph == paragraph


def test_damaged_results_are_not_shown(workspace, drawn):
    (workspace.root / "converged" / "figure_a7" / "numbers.npz").write_bytes(b"")
    assert compare(workspace, pipeline_of("paper")) is None


def test_the_published_code_is_a_column_of_its_own(workspace, drawn):
    store_figure(workspace, pipeline_of("paper", official=True), "figure_a7", made_densities((3, 29)))
    comparison = compare(workspace, pipeline_of("paper", official=True))
    assert [result.name for result in comparison.results] == ["paper", "paper-official", "converged"]
    assert "2 of 30 under `paper-official`" in comparison.paragraph
    assert comparison.folder == workspace.root / "side_by_side"
    headings = [axes.texts[0].get_text().split("\n")[2] for axes in drawn["figure_a7"].axes[:3]]
    assert headings == ["3 above it", *["2 above it, 1 of the 3 of paper"] * 2]


def test_other_classes_or_stages_are_no_column(workspace, drawn):
    names = [f"d{g}" for g in range(30)]
    store_figure(workspace, pipeline_of("em"), "figure_a7", made_densities((3,), names=names))
    comparison = compare(workspace, pipeline_of("paper"))
    assert comparison.pictures["figure_a7"] == ["paper", "converged"]
    assert "It is not shown for `em`." in comparison.caption("figure_a7")
    assert "The classes of `em` are others" in comparison.paragraph


def test_figure_4_may_be_of_other_classes_and_says_how_many(workspace, drawn):
    """They are those with enough memorized points, not all that the densities are of."""
    numbers = figure_4.compute(**made_figure_4())
    of = {"paper": ["a", "b", "d"], "converged": ["a", "b"], "heldout": ["a", "b"]}
    store_figure(workspace, pipeline_of("heldout"), "figure_a7", made_densities((29,)))
    for name, names in of.items():
        store_figure(workspace, pipeline_of(name), "figure_4", numbers | {"class_names": np.array(names)})
    comparison = compare(workspace, pipeline_of("paper"))
    assert comparison.pictures["figure_a7"] == ["paper", "converged", "heldout"]
    # That of heldout is that of converged.
    assert comparison.pictures["figure_4"] == ["paper", "converged"]
    assert "It is not shown for `heldout`." in comparison.caption("figure_4")
    assert [axes.texts[0].get_text() for axes in drawn["figure_4"].axes] == ["3 classes", "2 classes"]


def test_figures_that_one_protocol_has_are_not_drawn_but_named(workspace, drawn):
    store_figure(workspace, pipeline_of("paper"), "figure_1", made_densities((29,)))
    page = write_report(workspace, pipeline_of("paper")).read_text()
    assert "Figure 1 is stored under <code>paper</code> only." in page
    assert "Figure 4" not in page[page.index('id="protocols"') : page.index('id="run"')]
    assert set(drawn) == {"figure_a7"}


def test_a_protocol_that_is_not_listed_is_still_ones_own(workspace, drawn, monkeypatch):
    """As in tests that change a protocol: a report's own results are judged by its own pipeline."""
    mine = Pipeline(TINY_PROFILE, replace(EM, entropy_draws=3))
    store_figure(workspace, mine, "figure_a7", made_densities((3,)))
    assert "Out of date" not in compare(workspace, mine).paragraph


# ---------------------------------------------------------------- pictures

COLUMNS = [
    Column("paper", "3 of 30\nthe others", made_densities((27, 28, 29), stages=(3, 4))),
    Column("converged", "2 of 30\n1 of 3", made_densities((29, 1), stages=(3, 4))),
]


def rings(axes):
    return [line for line in axes.lines if line.get_marker() == "o" and line.get_markerfacecolor() == "none"]


@pytest.mark.parametrize("name", ["figure_1", "figure_a7"])
def test_columns_of_densities(name):
    figure = draw(name, COLUMNS, "made up")
    panels = figure.axes
    assert [axes.get_title(loc="left") for axes in panels] == ["paper", "converged", "", ""]
    said = [[text.get_text() for text in axes.texts] for axes in panels[:2]]
    assert said[0] == ["largest gap 60.1 nats, p = 0.001\nspreads 10 times smaller above it\n3 above it"]
    assert said[1][0].endswith("\n2 above it, 1 of the 3 of paper")
    assert panels[2].get_ylabel() == "Stage 4 (D = 64)\nlog-density (nats)"
    assert figure.texts[1].get_text() == "made up"
    key = [text.get_text() for text in figure.legends[0].get_texts()]
    above = "above the largest gap, if p < 0.05 or spreads over 3.2 times smaller"
    assert key[:3] == ["class", above, "above it under paper"]
    # One scale a stage, and rings at the same three classes wherever they are.
    assert panels[0].get_ylim() == panels[1].get_ylim()
    for axes, column in zip(panels[2:], COLUMNS, strict=True):
        mean = column.stored["mean"][-1]
        order = np.argsort(mean, kind="stable")
        (ring,) = rings(axes)
        assert [int(order[int(x)]) for x in ring.get_xdata()] == sorted((27, 28, 29), key=lambda g: mean[g])
        np.testing.assert_array_equal(ring.get_ydata(), np.sort(mean[[27, 28, 29]]))
    assert_gaps_are_said_beside_the_data(figure, 4)
    # Colours follow the own split.
    diamonds = [sum(len(line.get_xdata()) for line in axes.lines if line.get_marker() == "D") for axes in panels]
    assert diamonds == [3, 2, 3, 2]


def test_a_panel_that_would_squeeze_the_others_has_its_own_scale():
    wide = Column("em", "", made_densities((29,), level=2000.0))
    figure = draw("figure_1", [*COLUMNS, wide], "made up")
    first, second, third = figure.axes[:3]
    assert first.get_ylim() == second.get_ylim() != third.get_ylim()
    assert third.get_ylim()[1] > 2000 > 100 > first.get_ylim()[1]
    assert_gaps_are_said_beside_the_data(figure, 6)
    said = [[text.get_text() for text in axes.texts] for axes in (second, third)]
    assert "own scale" in said[1]
    assert "own scale" not in said[0]


def test_every_stage_has_a_scale_of_its_own():
    raised = [column.stored | {"mean": column.stored["mean"] + [[500.0], [0.0]]} for column in COLUMNS]
    columns = [column._replace(stored=stored) for column, stored in zip(COLUMNS, raised, strict=True)]
    upper, _, lower, _ = draw("figure_1", columns, "made up").axes
    assert upper.get_ylim()[0] > 400 > lower.get_ylim()[1]


def test_columns_of_figure_2_and_4():
    two = figure_2.compute(**made_figure_2())
    figure = draw("figure_2", [Column("paper", "a\nb", two), Column("heldout", "", two)], "made up")
    panels, key = figure.axes, [text.get_text() for text in figure.legends[0].get_texts()]
    assert key == ["class below the largest gap under that protocol", "class above it", "least-squares line"]
    assert len(panels) == 4
    assert panels[0].get_xlim() == panels[3].get_xlim()
    assert panels[0].get_ylim() == panels[1].get_ylim()
    assert [axes.get_title(loc="left") for axes in panels] == ["paper", "heldout", "", ""]
    four = figure_4.compute(**made_figure_4())
    more = four | {"mean": four["mean"] * 3}
    panels = draw("figure_4", [Column("paper", "3 classes", four), Column("heldout", "3 classes", more)], "").axes
    assert [axes.get_title(loc="left") for axes in panels] == ["paper", "heldout"]
    assert panels[0].get_ylim() == panels[1].get_ylim()
    assert panels[0].get_ylim()[1] > more["mean"].max()


@pytest.mark.filterwarnings("error:constrained_layout")
@pytest.mark.parametrize("n_classes", [3, 100])
def test_pictures_are_whole_and_the_same_each_time(n_classes, tmp_path):
    column = Column("paper", "mark", made_densities((1,), n_classes=n_classes))
    for folder in (tmp_path / "first", tmp_path / "again"):
        folder.mkdir()
        style.save(draw("figure_1", [column, column._replace(title="em")], "made up"), folder, "figure_1")
    first, again = ((tmp_path / folder / "figure_1.svg").read_bytes() for folder in ("first", "again"))
    assert len(first) > 10_000
    assert first == again


@pytest.mark.parametrize("name", ["figure_1", "figure_a7"])
def test_four_protocols_have_room_for_panels_and_words(name):
    """Words over a column neither take the width of its panels nor run into the next column, or out of the picture."""
    stored = made_densities(range(17, 100), stages=(3, 4), n_classes=100)
    figure = draw(name, [Column(title, "", stored) for title in ("paper", "converged", "heldout", "em")], "")
    figure.draw_without_rendering()
    panels, right = figure.axes[:4], figure.bbox.width
    assert all(axes.bbox.width > 0.18 * right for axes in panels)
    ends = [*(axes.bbox.x0 for axes in panels[1:]), right]
    for axes, end in zip(panels, ends, strict=True):
        assert max(text.get_window_extent().x1 for text in axes.texts) < end
    # The scale, which is the same, stands on the left alone.
    labelled = [any(label.get_visible() for label in axes.get_yticklabels()) for axes in panels]
    assert labelled == [True, False, False, False]


def test_what_is_drawn_are_figures_of_the_paper():
    assert set(DRAWN) == {"figure_1", "figure_2", "figure_4", "figure_a7"}
    assert set(DRAWN) <= set(pipeline_of("paper").figures)


def test_the_same_under_another_protocol():
    em = Pipeline(TINY_PROFILE, PAPER, seed=3).under(EM)
    assert (em.folder, em.seed) == ("em", 3)
    assert em.figures["figure_1"].fingerprint == Pipeline(TINY_PROFILE, EM, seed=3).figures["figure_1"].fingerprint
