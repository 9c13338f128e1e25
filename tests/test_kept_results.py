"""The results that this repository keeps are whole, and its pages are theirs; what makes them small."""

import shutil

import numpy as np
import pytest
from kept_files import CHECKOUT, content, paths_of_a_machine
from typer.testing import CliRunner

from paper_repro import across_networks, readme
from paper_repro import keep as keeping
from paper_repro.chains import thinned
from paper_repro.cli import app
from paper_repro.figures.style import compact_svg
from paper_repro.given_scores import given_before
from paper_repro.keep import LIMIT_BYTES
from paper_repro.pipeline import Pipeline
from paper_repro.profiles import PROTOCOLS
from paper_repro.steps import State, Workspace
from paper_repro.storage import write_csv

RESULTS = CHECKOUT / "paper_repro" / "results"
KEPT_RUNS = keeping.kept_runs(RESULTS)
TRAINED = ("network", "convnet/network", "memorization")
NONE_KEPT = "no result is kept in paper_repro/results yet"


def test_a_page_is_updated_between_its_marks(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"# Title\n\n{readme.BEGIN}\nold\n{readme.END}\n\nrest\n", encoding="utf-8")
    assert readme.update(path, "new")
    assert path.read_text(encoding="utf-8") == f"# Title\n\n{readme.BEGIN}\nnew\n{readme.END}\n\nrest\n"
    assert not readme.update(path, "new")
    path.write_text(readme.END + readme.BEGIN, encoding="utf-8")
    with pytest.raises(ValueError, match="must have the marks"):
        readme.update(path, "new")


@pytest.mark.parametrize(("page", "section"), [("README.md", "section"), ("paper_repro/FINDINGS.md", "findings")])
def test_the_pages_are_those_of_the_kept_results(page, section):
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    written = getattr(readme, section)(RESULTS)
    assert text.split(readme.BEGIN)[1].split(readme.END)[0] == f"\n{written}\n"
    if not KEPT_RUNS:
        pytest.skip(f"{NONE_KEPT}: the pages say no more than that")


def test_the_networks_beside_each_other_are_the_kept_ones(tmp_path):
    rows = across_networks.table(across_networks.fits(RESULTS))
    if not rows:
        pytest.skip(NONE_KEPT)
    write_csv(tmp_path / "rows.csv", rows)
    kept = RESULTS / across_networks.FOLDER / f"{across_networks.FOLDER}.csv"
    assert kept.read_bytes() == (tmp_path / "rows.csv").read_bytes()


def test_a_table_holds_eight_digits_of_its_floats_and_all_of_the_rest(tmp_path):
    path = tmp_path / "table.csv"
    row = {"nats": -31234.56789012, "share": np.float64(1 / 3), "count": 1234567890123, "high": True, "name": "1.23456"}
    write_csv(path, [row, row | {"nats": np.nan, "share": 1e-20 / 3, "count": 2.0}])
    assert path.read_text(encoding="utf-8").splitlines() == [
        "nats,share,count,high,name",
        "-31234.568,0.33333333,1234567890123,True,1.23456",
        "nan,3.3333333e-21,2.0,True,1.23456",
    ]


def test_the_kept_results_are_whole(tmp_path, monkeypatch):
    if not KEPT_RUNS:
        pytest.skip(NONE_KEPT)
    for run in KEPT_RUNS:
        name = run.folder.name
        if run != KEPT_RUNS[0]:  # every figure is made of every run's numbers; to write them all takes a minute
            monkeypatch.setattr("paper_repro.figures.style.save", lambda figure, folder, name: None)
            monkeypatch.setattr("paper_repro.side_by_side.save", lambda figure, folder, name: None)
        sizes = {file: len(data) for file, data in content(RESULTS / name).items()}
        trained = {
            step: sum(sizes.pop(file) for file in list(sizes) if file.startswith(f"{step}/")) for step in TRAINED
        }
        assert sum(sizes.values()) <= LIMIT_BYTES
        # Provenance is not counted.
        assert max(trained.values()) <= keeping.TRAINED_BYTES + 10_000
        assert paths_of_a_machine(RESULTS / name) == []
        shutil.copytree(RESULTS / name, tmp_path / name)
        for protocol in (protocol for protocol in PROTOCOLS if (RESULTS / name / protocol).is_dir()):
            workspace = Workspace(tmp_path / name)
            pipeline = Pipeline(run.profile, PROTOCOLS[protocol], seed=run.seed, scores=given_before(workspace))
            there = [step for step in keeping._trained(pipeline) if workspace.provenance(step)]
            # A network of full width is more than the repository keeps.
            large = {step.name for step in there if workspace.provenance(step).get("left_out")}
            assert large <= {"network"}
            assert not (large and name == "cifar100-laptop")
            found = {step.name: workspace.state(step, with_inputs=False) for step in there}
            assert found == {step: State.KEPT if step in large else State.DONE for step in found}
            kept = [figure for figure, step in pipeline.figures.items() if workspace.provenance(step)]
            steps = (*pipeline.figures.values(), pipeline.scorecard_of(kept))
            states = {step.name: workspace.state(step) for step in steps}
            assert set(states.values()) <= {State.DONE, State.MISSING}, states
            drawn = [figure for figure, step in pipeline.figures.items() if states[step.name] == State.DONE]
            options = [*drawn, "--profile", run.profile.name, "--protocol", protocol, "--seed", str(run.seed)]
            options += ["--runs-dir", str(tmp_path)]
            if protocol == "paper":  # one is enough: this takes half a minute
                result = CliRunner().invoke(app, ["draw", *options])
                assert result.exit_code == 0, result.output
            assert CliRunner().invoke(app, ["check", *options]).exit_code == 0


def test_thinned_traces():
    trace = np.arange(400.0)[:, None] + np.array([0.0, 1000.0])
    trace[100:, 1] = np.nan
    found = thinned(trace, 60)
    assert found.shape == (60, 2)
    assert found.dtype == np.float32
    assert found[[0, -1], 0].tolist() == [0, 399]
    assert found[[0, -1], 1].tolist() == [1000, 1099]
    assert np.isin(found, trace).all()
    chains = np.stack([trace, trace + 0.5], axis=1)
    assert thinned(chains, 60).shape == (30, 2, 2)
    np.testing.assert_array_equal(thinned(chains, 60)[:, 1], thinned(chains, 60)[:, 0] + 0.5)
    short = thinned(np.array([[3], [4], [-1]]), 60)
    assert short[:2, 0].tolist() == [3, 4]
    assert np.isnan(short[2:]).all()


def test_compact_pictures():
    style = ' clip-path="url(#p)" style="fill: none; stroke: #0072b2"'
    svg = (
        '<?xml version="1.0"?>\n<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="9pt">\n <!-- 20 -->\n <defs>\n'
        '  <style type="text/css">*{stroke-linecap: butt}</style>\n'
        '  <clipPath id="p"><rect id="r" width="1"/></clipPath>\n'
        '  <path id="m" d="M 0 1.2345678 \nL 2 -0.00049 \nz\n" style="stroke: #0072b2"/>\n'
        '  <path id="n" d="M 0 1" style="stroke: #0072b2"/>\n </defs>\n <g id="lines">\n'
        '  <g id="line_1">\n   <path d="M 1 2 \nL 3 1.5 \nL 2.9 4.5 \nz\nM 9 9 \nL 6 9 \nL 6 19.5 \n"'
        f"{style}/>\n  </g>\n"
        f'  <g id="line_2">\n   <path d="M 5 6 \nC 7 8 9 10 11 12 \n"{style}/>\n  </g>\n'
        '  <g id="tick"><g id="mark"><use xlink:href="#m" x="7" style="stroke: #0072b2"/></g><g id="none"/></g>\n'
        '  <g transform="translate(231.293436 8.5) scale(0.0123 -0.0123)">\n   <use xlink:href="#n"/>\n'
        '   <use xlink:href="#m" transform="translate(40.625 0)"/>\n'
        '   <use xlink:href="#n" transform="translate(80 -9.5) scale(0.7)"/>\n'
        '   <use xlink:href="#m" transform="translate(90 -9.5)"/>\n  </g>\n'
        '  <use xlink:href="#n" x="1.23456" y="2" style="opacity: 0.5"/>\n'
        '  <use xlink:href="#m" x="3" y="4" style="opacity: 0.5"/>\n </g>\n</svg>'
    )
    short = ' clip-path="url(#i0)" style="fill:none;stroke:#0072b2"'
    assert compact_svg(svg) == (
        '<svg width="9pt"><defs><style type="text/css">svg{stroke-linecap: butt}.c0{stroke:#0072b2}</style>'
        '<clipPath id="i0"><rect width="1"/></clipPath>'
        '<path id="i1" d="M0 1.23l2-1.23z" class="c0"/>'
        '<path id="i2" d="M0 1" class="c0"/></defs>'
        f'<g><g{short}><path d="M1 2l2-.5l-.1 3zM9 9h-3v10.5"/><path d="M5 6C7 8 9 10 11 12"/></g>'
        '<use href="#i1" x="7" class="c0"/>'
        '<g transform="translate(231.29 8.5) scale(0.0123 -0.0123)"><use href="#i2"/><use href="#i1" x="40.62"/>'
        '<use href="#i2" transform="translate(80 -9.5) scale(0.7)"/><use href="#i1" x="90" y="-9.5"/></g>'
        '<use href="#i2" x="1.23" y="2" style="opacity:0.5"/>'
        '<use href="#i1" x="3" y="4" style="opacity:0.5"/>'
        "</g></svg>"
    )
    for compact in (
        compact_svg(svg),
        '<svg><use x="1" style="fill:none;opacity:0.5"/><use x="2" style="fill:none;opacity:0.5"/></svg>',
    ):
        assert compact_svg(compact) == compact
