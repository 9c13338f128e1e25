"""Results that are kept in the repository: what is copied, that it is enough, and the part of the README on it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from kept_files import content, paths_of_a_machine
from made_protocols import store
from made_run import PROTOCOLS_RUN, SMALL_PROFILE, finish, pipelines
from made_run import _classes as write_classes
from typer.testing import CliRunner

import paper_repro
from paper_repro import keep as keeping
from paper_repro import readme, report, storage
from paper_repro.cli import app
from paper_repro.figures import figure_a7, module
from paper_repro.keep import LIMIT_BYTES, KeepError, default_folder, keep, kept_runs
from paper_repro.pipeline import Pipeline
from paper_repro.profiles import PAPER, PROFILES, PROTOCOLS
from paper_repro.steps import State, Step, Workspace

FIGURES = {"paper": [f"figure_{name}" for name in ("1", "2", "a5", "a6", "a7", "b3", "b5", "b8", "b11")]}
FIGURES["em"] = [name for name in FIGURES["paper"] if name in ("figure_1", "figure_a5", "figure_a6", "figure_a7")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run under two protocols."""
    workspace = Workspace(tmp_path_factory.mktemp("made") / "runs" / "small")
    for pipeline in pipelines():
        finish(workspace, pipeline)
    return workspace


@pytest.fixture(scope="module")
def kept_once(run, tmp_path_factory):
    """The paths of the runs and of what the command kept of them."""
    into = tmp_path_factory.mktemp("kept") / "results"
    with pytest.MonkeyPatch.context() as patch:
        _known(patch)
        arguments = ["keep", "--profile", "small", "--runs-dir", str(run.root.parent), "--into", str(into)]
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "paper: 9 figures" in result.output
    assert "em: 4 figures" in result.output
    assert result.output.splitlines()[-1] == str((into / "small").resolve())
    return into


@pytest.fixture
def kept(kept_once, tmp_path):
    """A copy that a test may spoil."""
    return Path(shutil.copytree(kept_once, tmp_path / "paper_repro" / "results"))


@pytest.fixture
def copied(run, tmp_path):
    """A copy of the run that a test may spoil."""
    return Workspace(Path(shutil.copytree(run.root, tmp_path / "runs" / "small")))


@pytest.fixture
def command(monkeypatch):
    _known(monkeypatch)

    def call(*arguments):
        return CliRunner().invoke(app, [*map(str, arguments), "--profile", "small"])

    return call


def _known(patch):
    patch.setitem(PROFILES, "small", SMALL_PROFILE)
    for name, protocol in PROTOCOLS_RUN.items():
        patch.setitem(PROTOCOLS, name, protocol)
    patch.setenv("COLUMNS", "300")


def one_protocol():
    """For tests about files: with two, keeping draws their comparison, which takes seconds."""
    return pipelines()[:1]


def without_report(folder):
    """The report says when it was written."""
    return {name: data for name, data in content(folder).items() if not re.search("report.html|side_by_side", name)}


def test_what_is_kept(kept_once, run):
    # Beside the protocols lie the pictures and the table of their comparison.
    found = {name for name in content(kept_once / "small") if not name.startswith("side_by_side/")}
    assert (kept_once / "small" / "side_by_side" / "figure_1.svg").exists()
    network = {f"network/{name}" for name in ("network.json", "history.csv", "weights.safetensors")}
    expected = {"dataset/dataset.json"} | network
    for protocol, figures in FIGURES.items():
        expected |= {f"{protocol}/{name}/numbers.npz" for name in figures}
        expected |= {f"{protocol}/{name}/{name}.{kind}" for name in figures for kind in ("csv", "svg", "png")}
        rest = ("classes/classes.csv", "classes/traces.npz", "scorecard/scorecard.json", "scorecard/scorecard.csv")
        expected |= {f"{protocol}/{name}" for name in (*rest, "report.html")}
    provenance = {f"{step.name}/provenance.json" for pipeline in pipelines() for step in pipeline.steps}
    assert found == expected | provenance
    for name in expected - {"paper/report.html", "em/report.html"}:
        assert (kept_once / "small" / name).read_bytes() == (run.root / name).read_bytes()


def test_other_networks_and_trials_of_memorization_are_kept_as_the_network_is(tmp_path):
    digits = Pipeline(PROFILES["digits"], PROTOCOLS["paper"])
    trained = [step.name for step in keeping._trained(digits)]
    assert trained == ["network", "convnet/network", "vit/network", "mixer/network", "memorization"]
    workspace = Workspace(tmp_path)
    step = Step("memorization", {}, lambda work: storage.write_bytes(work.folder / "trials.npz", b"0" * 1_000), ())
    assert keeping._bytes(workspace, step) == 0
    workspace.run([step])
    assert keeping._bytes(workspace, step) == 1_000
    for name in ("convnet/network/weights.safetensors", "convnet/representations/provenance.json"):
        (tmp_path / "kept" / name).parent.mkdir(parents=True)
        (tmp_path / "kept" / name).write_bytes(b"0" * 1_000)
    assert keeping._check_size(tmp_path / "kept", limit=1_000, apart=set(trained)) == 2_000
    with pytest.raises(KeepError, match=r"0.0 MB are more .* the largest: convnet/representations/prov\S+ 0.00 MB\. "):
        keeping._check_size(tmp_path / "kept", limit=999, apart=set(trained))


def test_steps_are_whole_or_in_part(kept_once, run):
    workspace = Workspace(kept_once / "small")
    for pipeline in pipelines():
        for step in pipeline.steps:
            whole = step in (*pipeline.figures.values(), pipeline.classes, pipeline.scorecard, pipeline.network)
            # With inputs: what was left out counts by its hash.
            assert workspace.state(step) == (State.DONE if whole else State.KEPT), step.name
            record, original = workspace.provenance(step), run.provenance(step)
            assert {**record["files"], **record.get("left_out", {})} == original["files"]
            assert {k: v for k, v in record.items() if k not in ("files", "left_out")} == {
                k: v for k, v in original.items() if k != "files"
            }


def test_large_weights_are_left_out(run, tmp_path, monkeypatch):
    network = run.folder(pipelines()[0].network)
    size = sum((network / name).stat().st_size for name in ("network.json", "history.csv", "weights.safetensors"))
    for limit, names in ((size, {"weights.safetensors"}), (size - 1, set())):
        monkeypatch.setattr(keeping, "TRAINED_BYTES", limit)
        keep(run, one_protocol(), tmp_path / "small")
        found = {path.name for path in (tmp_path / "small" / "network").iterdir()}
        assert found == names | {"network.json", "history.csv", "provenance.json"}
        page = " ".join((tmp_path / "small" / "paper" / "report.html").read_text(encoding="utf-8").split())
        without = "without images and fits." if names else "without images, networks and fits."
        assert without in page
        assert ("and the weights of the networks whose classes are fitted" in page) == bool(names)


def test_nothing_is_taken_for_what_a_run_could_go_on_from(kept_once):
    workspace, (pipeline, _) = Workspace(kept_once / "small"), pipelines()
    assert {step.name for step in workspace.to_do(pipeline.steps)} == {step.name for step in pipeline.steps}


def test_check_and_list(kept, command):
    for protocol in FIGURES:
        result = command("check", "--protocol", protocol, "--runs-dir", kept)
        assert result.exit_code == 0, result.output
        assert result.output.count("done") == len(FIGURES[protocol]) + 1
        assert re.search(r"Kept results: of \d+ steps behind them not all files were kept", result.output)
    assert command("list", "--runs-dir", kept).output.count("done") == len(FIGURES["paper"])


def test_check_finds_what_was_spoiled(kept, command):
    def spoil(name, old, new):
        path = kept / "small" / name
        before = path.read_bytes()
        assert old in before
        path.write_bytes(before.replace(old, new, 1))
        result = command("check", "--runs-dir", kept)
        path.write_bytes(before)
        assert result.exit_code == 1
        return result.output

    assert "damaged or missing: figure_1.csv" in spoil("paper/figure_1/figure_1.csv", b",", b";")
    assert "network is damaged" in spoil("network/network.json", b"0.875", b"0.975")
    record = json.loads((kept / "small" / "paper" / "posterior_stage_3" / "provenance.json").read_text())
    digest = record["left_out"]["large.npz"].encode()
    assert "settings or inputs have changed" in spoil("paper/posterior_stage_3/provenance.json", digest, b"0" * 64)
    assert command("check", "--runs-dir", kept).exit_code == 0
    assert command("check", "--runs-dir", kept, "--seed", "1").exit_code == 1


def test_draw_needs_nothing_else(kept, command):
    before = content(kept / "small")
    for name in FIGURES["paper"]:
        for kind in ("svg", "png", "csv"):
            (kept / "small" / "paper" / name / f"{name}.{kind}").unlink()
    (kept / "small" / "paper" / "report.html").unlink()
    result = command("draw", "--runs-dir", kept)
    assert result.exit_code == 0, result.output
    assert command("check", "--runs-dir", kept).exit_code == 0
    after = content(kept / "small")
    after.pop(".lock")
    written = re.compile(rb"Written [^<]*")
    assert after.keys() == before.keys()
    assert all(written.sub(b"", after[name]) == written.sub(b"", before[name]) for name in before)


def test_a_table_of_other_columns_leaves_the_scorecard_up_to_date(kept, command, monkeypatch):
    rows = figure_a7.table
    monkeypatch.setattr(figure_a7, "table", lambda stored: [row | {"another": 1} for row in rows(stored)])
    assert command("draw", "figure_a7", "--runs-dir", kept).exit_code == 0
    assert b"another" in (kept / "small" / "paper" / "figure_a7" / "figure_a7.csv").read_bytes()
    assert command("check", "--runs-dir", kept).exit_code == 0


def test_figures_that_were_never_computed_are_missed_only_by_name(kept, command, monkeypatch):
    monkeypatch.setattr("paper_repro.cli.draw_figure", lambda folder, name: None)  # the pictures are there
    for protocol in FIGURES:  # it is the same under each
        shutil.rmtree(kept / "small" / protocol / "figure_a6")
    result = command("draw", "--runs-dir", kept)
    assert result.exit_code == 0, result.output
    assert "Never computed: figure_a6." in result.output
    result = command("draw", "figure_a6", "--runs-dir", kept)
    assert result.exit_code == 1
    assert f"use `paper-repro run figure_a6 --profile small --runs-dir {kept}`" in result.output
    page = (kept / "small" / "paper" / "report.html").read_text(encoding="utf-8")
    assert "Run <code>paper-repro run figure_a6 --profile small</code>." in page


def test_a_protocol_without_results_gets_no_report(kept, command):
    before = content(kept)
    result = command("draw", "--protocol", "heldout", "--runs-dir", kept)
    assert result.exit_code == 1
    said = f"use `paper-repro run --profile small --protocol heldout --runs-dir {kept}`"
    assert f"No figure is stored in {kept / 'small' / 'heldout'}: {said}" in result.output
    assert content(kept) == before


def test_a_report_keeps_its_date_while_it_says_the_same(kept, command):
    reports = [kept / "small" / name / "report.html" for name in FIGURES]
    for path in reports:
        path.write_text(
            re.sub("Written [^<]*", "Written long ago.", path.read_text(encoding="utf-8")), encoding="utf-8"
        )
    assert command("draw", "figure_a5", "--runs-dir", kept).exit_code == 0
    assert ["long ago" in path.read_text(encoding="utf-8") for path in reports] == [True, True]
    shutil.rmtree(kept / "small" / "paper" / "figure_a6")
    assert command("draw", "figure_a5", "--runs-dir", kept).exit_code == 0
    assert ["long ago" in path.read_text(encoding="utf-8") for path in reports] == [False, True]


def test_a_damaged_report_is_written_anew(kept, command):
    path = kept / "small" / "em" / "report.html"
    whole = path.read_bytes()
    path.write_bytes(whole[:2000] + "–".encode()[:1])
    assert command("draw", "figure_a6", "--protocol", "em", "--runs-dir", kept).exit_code == 0
    assert len(path.read_bytes()) == len(whole)


def test_another_seed_is_kept_apart(kept, copied, command):
    before = content(kept / "small")
    _, em = (Pipeline(SMALL_PROFILE, protocol, seed=3) for protocol in PROTOCOLS_RUN.values())
    finish(Workspace(copied.root.with_name("small-seed3")), em)
    result = command("keep", "--seed", 3, "--runs-dir", copied.root.parent, "--into", kept)
    assert result.exit_code == 0, result.output
    assert content(kept / "small") == before
    page = (kept / "small-seed3" / "em" / "report.html").read_text(encoding="utf-8")
    assert "paper-repro draw --profile small --protocol em --seed 3 --runs-dir FOLDER" in page
    assert "copy <code>small-seed3/</code>" in page
    for name in ("small-seed", "small-seed0", "small-seed03", "small-seedling", ".small-seed4.new", "smaller-seed1"):
        (kept / name).mkdir()
    runs = [(run.folder.name, run.title) for run in kept_runs(kept)]
    assert runs == [("small", SMALL_PROFILE.title), ("small-seed3", f"{SMALL_PROFILE.title}, seed 3")]
    link = f"{kept.parent.name}/{kept.name}/small-seed3/em/report.html"
    assert f"| {SMALL_PROFILE.title}, seed 3 | [em]({link}) |" in readme.section(kept)
    assert f"### {SMALL_PROFILE.title}, seed 3" in readme.findings(kept)


def test_pictures_of_another_matplotlib_make_nothing_stale(kept, command):
    """`draw` records the bytes that it drew; the scorecard rests on the numbers."""
    workspace, (pipeline, _) = Workspace(kept / "small"), pipelines()
    step = pipeline.figures["figure_a7"]
    for kind in ("svg", "png"):
        path = workspace.folder(step) / f"figure_a7.{kind}"
        path.write_bytes(path.read_bytes() + b" ")
    workspace.record(step)
    assert command("check", "--runs-dir", kept).exit_code == 0
    numbers = workspace.folder(step) / "numbers.npz"
    storage.write_arrays(numbers, storage.read_arrays(numbers) | {"gap": np.array(1.0)})
    workspace.record(step)
    assert workspace.state(pipeline.scorecard) == State.STALE


def test_steps_of_another_machine_are_told_apart(kept, command):
    path = kept / "small" / "network" / "provenance.json"
    record = json.loads(path.read_text())
    record["machine"] |= {"gpu": "NVIDIA H200", "cores": 99}
    record["started"] = "2026-01-01T03:04:05+00:00"  # a day before the others
    record["versions"]["torch"] = "9.9"
    storage.write_json(path, record)
    storage.write_json(
        kept / "small" / "network" / "network.json",
        storage.read_json(kept / "small" / "network" / "network.json") | {"device": "cuda"},
    )
    workspace, (pipeline, _) = Workspace(kept / "small"), pipelines()
    workspace.record(pipeline.network)
    page = " ".join(report.write_report(workspace, pipeline).read_text(encoding="utf-8").split())
    assert re.search(r"<dt>Machine</dt><dd>[^<]*; network: NVIDIA H200, [^<]*, cores: 99, [^<]*, torch 9\.9</dd>", page)
    assert "no flips; on a GPU.</dd>" in page


def test_a_claim_that_could_not_be_tested_says_why(kept, command):
    path = kept / "small" / "paper" / "scorecard" / "scorecard.json"
    claims = json.loads(path.read_text())
    claims[0] |= {"name": "C5", "parts": [], "remark": "There was nothing."}
    storage.write_json(path, claims)
    assert "\n\ntiny (scaled down), C5 under `paper`: There was nothing." in readme.section(kept)


def test_the_report(kept_once):
    page = (kept_once / "small" / "paper" / "report.html").read_text(encoding="utf-8")
    for name in FIGURES["paper"]:
        assert f'<figure id="{name}"' in page
    assert "87.5%" in page
    assert "1,437" in page
    assert page.count('class="spark"') == 4 * 10 * 2
    for step in pipelines()[0].steps:
        assert f"<td>{step.name}</td>" in page
    assert not re.search("out of date|damaged|missing", page, re.IGNORECASE)
    assert 'href="../em/report.html"' in page
    assert "These are kept results" in page
    assert "Out of date" not in page
    pictures = re.findall(r'<img src="([^"]+)" alt="Figure ', page)
    compared = [f"../side_by_side/{name}.svg" for name in ("figure_1", "figure_a7")]
    assert pictures == compared + [f"{name}/{name}.svg" for name in FIGURES["paper"]]
    for target in pictures + re.findall(r'href="([^"#][^"]*)"', page):
        assert (kept_once / "small" / "paper" / target).is_file(), target


def test_traces_are_those_of_each_class_and_shaded_where_the_chain_is_kept(tmp_path):
    workspace, pipeline = Workspace(tmp_path), Pipeline(SMALL_PROFILE, PAPER)
    store(workspace, pipeline.classes, lambda folder: write_classes(folder, pipeline), {})
    traces = storage.read_arrays(workspace.folder(pipeline.classes) / "traces.npz")
    for stage in report._stages(workspace, pipeline):
        for g, row in enumerate(stage["rows"]):
            expected = report.sparkline(traces[f"log_joint_{stage['number']}"][:, g])
            assert row["log_joint_trace"] == expected
    assert PAPER.n_discard / PAPER.n_sweeps == 0.8
    page = report.write_report(workspace, pipeline).read_text(encoding="utf-8")
    assert "background: linear-gradient(90deg, transparent 80%, var(--grid) 0)" in page
    assert "transparent 50%" in report.write_report(workspace, Pipeline(SMALL_PROFILE, PROTOCOLS["em"])).read_text()


def test_a_figure_of_any_protocol_is_linked_where_it_is(tmp_path):
    workspace, pipeline = Workspace(tmp_path), Pipeline(SMALL_PROFILE, PROTOCOLS["em"])
    link = 'href="../paper/report.html#figure_a6"'
    assert link not in report.write_report(workspace, pipeline).read_text(encoding="utf-8")
    for name in ("figure_a6", "figure_a7"):  # of which the second depends on the protocol
        folder = tmp_path / "paper" / name
        folder.mkdir(parents=True)
        (folder / f"{name}.svg").write_text("<svg/>")
    page = report.write_report(workspace, pipeline).read_text(encoding="utf-8")
    assert page.count(link) == 1
    assert 'report.html#figure_a7"' not in page


@pytest.mark.parametrize("protocol", ["paper", "heldout"])
def test_the_table_of_classes_says_which_points_it_is_of(tmp_path, protocol):
    workspace, pipeline = Workspace(tmp_path), Pipeline(SMALL_PROFILE, PROTOCOLS[protocol])
    store(workspace, pipeline.classes, lambda folder: write_classes(folder, pipeline), {})
    page = report.write_report(workspace, pipeline).read_text(encoding="utf-8")
    assert ("each of a fit that leaves the point out" in page) == (protocol == "heldout")


def test_no_path_of_the_machine_is_kept(kept_once, run, tmp_path):
    assert paths_of_a_machine(kept_once) == []
    assert not any(str(run.root.parent.parent).encode() in data for data in content(kept_once).values())
    (tmp_path / "a.json").write_text('{"source": "/elsewhere/cifar100.zip"}')
    (tmp_path / "b.html").write_text("<p>read from: /home/somebody/data</p>")
    assert len(paths_of_a_machine(tmp_path)) == 2


def test_what_was_kept_can_be_kept_again(kept, kept_once, monkeypatch):
    _known(monkeypatch)
    again = ["keep", "--profile", "small", "--runs-dir", str(kept), "--into", str(kept.parent / "again")]
    result = CliRunner().invoke(app, again)
    assert result.exit_code == 0, result.output
    assert without_report(kept.parent / "again") == without_report(kept_once)


def test_too_much_is_refused_and_names_the_largest(run, tmp_path):
    folder = tmp_path / "all" / "small"
    n_bytes = keep(run, one_protocol(), folder).n_bytes
    sizes = {name: len(data) for name, data in content(folder).items()}
    assert n_bytes == sum(sizes.values())
    sizes = {name: size for name, size in sizes.items() if not name.startswith("network/")}
    counted = sum(sizes.values())
    largest = sorted(sizes, key=lambda name: -sizes[name])[:5]
    words = f"{counted / 1e6:.1f} MB are more than the 0.1 MB that may be kept; the largest: "
    words += ", ".join(f"{name} {sizes[name] / 1e6:.2f} MB" for name in largest)
    with pytest.raises(KeepError, match=re.escape(words)):
        keep(run, one_protocol(), tmp_path / "less" / "small", limit=100_000)
    assert list((tmp_path / "less").iterdir()) == []
    keep(run, one_protocol(), folder, limit=counted)
    with pytest.raises(KeepError):
        keep(run, one_protocol(), folder, limit=counted - 1)
    assert LIMIT_BYTES == 10_000_000


def test_a_failure_on_the_way_leaves_what_was_there(run, kept, monkeypatch):
    before = content(kept)
    copyfile, copies = shutil.copyfile, []

    def fails_late(source, target):
        copies.append(target)
        if len(copies) == 8:
            raise OSError("no space left")
        return copyfile(source, target)

    monkeypatch.setattr(keeping.shutil, "copyfile", fails_late)
    with pytest.raises(OSError, match="no space left"):
        keep(run, one_protocol(), kept / "small")
    assert content(kept) == before
    new = kept.parent / "new" / "small"
    copies.clear()
    with pytest.raises(OSError, match="no space left"):
        keep(run, one_protocol(), new)
    assert not new.exists()


def test_a_kill_leaves_no_half_copy(run, kept):
    """As it is after SIGKILL while files are copied, and between the two moves."""
    keep(run, one_protocol(), kept / "small")
    before = without_report(kept / "small")
    shutil.copytree(kept / "small" / "paper", kept / ".small.new" / "paper")
    (kept / "small").rename(kept / ".small.old")
    assert kept_runs(kept) == []
    with pytest.raises(KeepError, match=r"more than the 0\.001 MB"):
        keep(run, one_protocol(), kept / "small", limit=1000)
    assert [path.name for path in kept.iterdir()] == ["small"]
    keep(run, one_protocol(), kept / "small")
    assert [path.name for path in kept.iterdir()] == ["small"]
    assert without_report(kept / "small") == before


def test_a_link_stays_one(run, kept):
    keep(run, one_protocol(), kept / "small")
    before = without_report(kept / "small")
    (kept / "small").rename(kept / "elsewhere")
    (kept / "small").symlink_to("elsewhere")
    for _ in range(2):
        keep(run, one_protocol(), kept / "small")
        assert sorted(path.name for path in kept.iterdir()) == ["elsewhere", "small"]
        assert (kept / "small").is_symlink()
        assert without_report(kept / "elsewhere") == before


def test_one_protocol_and_what_was_not_run(copied, tmp_path, command):
    paper, em = pipelines()
    shutil.rmtree(copied.folder(paper.figures["figure_a6"]))
    shutil.rmtree(copied.folder(paper.scorecard))
    result = command("keep", "--protocol", "paper", "--runs-dir", copied.root.parent, "--into", tmp_path / "kept")
    assert result.exit_code == 0, result.output
    assert "paper: 8 figures; not run: figure_a6, scorecard" in result.output
    found = {path.name for path in (tmp_path / "kept" / "small").iterdir()}
    assert found == {"dataset", "network", "representations", "test_representations", "gaussian", "paper"}
    for step in em.steps[3:]:
        shutil.rmtree(copied.folder(step), ignore_errors=True)
    assert list(keep(copied, [paper, em], tmp_path / "again").protocols) == ["paper"]


@pytest.mark.parametrize("what", ["stale", "damaged", "inputs"])
def test_what_is_not_up_to_date_is_refused(copied, tmp_path, what, command):
    pipeline = pipelines()[0]
    step = pipeline.figures["figure_1"]
    if what == "damaged":
        (copied.folder(step) / "figure_1.csv").write_bytes(b"")
    elif what == "stale":
        copied.record(step, fingerprint="0" * 64)
    else:
        (copied.folder(pipeline.dataset) / "data.safetensors").write_bytes(b"others")
    result = command("keep", "--runs-dir", copied.root.parent, "--into", tmp_path / "kept")
    assert result.exit_code == 1
    assert "paper/figure_1 in" in result.output
    said = f"is not up to date; bring it up to date (paper-repro run --profile small --runs-dir {copied.root.parent}), "
    assert said in result.output
    assert not (tmp_path / "kept" / "small").exists()


def test_nothing_to_keep(tmp_path, command):
    result = command("keep", "--runs-dir", tmp_path / "none", "--into", tmp_path / "kept")
    assert result.exit_code == 1
    assert "there is nothing to keep: no figure is finished in" in result.output


def test_a_run_is_not_replaced(copied, command):
    before = content(copied.root)
    before.pop(".lock", None)
    result = command("keep", "--runs-dir", copied.root.parent, "--into", copied.root.parent)
    assert result.exit_code == 1
    assert "holds something else than kept results" in result.output
    after = content(copied.root)
    after.pop(".lock")
    assert after == before


def test_the_folder_of_the_checkout(monkeypatch, tmp_path):
    assert default_folder() == Path(paper_repro.__file__).resolve().parent / "results"
    monkeypatch.setattr(keeping, "__file__", str(tmp_path / "site-packages" / "paper_repro" / "keep.py"))
    with pytest.raises(
        KeepError, match="is not in a checkout of the project: say where to keep results, --into FOLDER"
    ):
        default_folder()


def test_the_section_of_the_readme(kept, monkeypatch):
    _known(monkeypatch)
    text = readme.section(kept)
    assert "- **tiny (scaled down).** Digits is an embedded stand-in" in text
    assert "87.5% of the test and 93.8% of the training images" in text
    head, _, *lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert head == ["network", "protocol", "C1", "C2", "C4", "fits that converged"]
    verdicts = {
        protocol: {
            claim["name"]: claim["verdict"]
            for claim in storage.read_json(kept / "small" / protocol / "scorecard" / "scorecard.json")
        }
        for protocol in FIGURES
    }
    assert verdicts["paper"].keys() == {"C1", "C2", "C4"}
    assert verdicts["em"].keys() == {"C1", "C2"}
    words = {"✓": "reproduced", "✗": "not reproduced", "?": "inconclusive"}
    for cells, protocol in zip(lines, FIGURES, strict=True):
        *names, c1, c2, c4, converged = cells
        assert names[-1] == f"[{protocol}](paper_repro/results/small/{protocol}/report.html)"
        assert names[:-1] == ([] if protocol == "em" else ["tiny (scaled down)"])
        marks = dict(zip(("C1", "C2", "C4"), (c1, c2, c4), strict=True))
        assert {name: words[mark] for name, mark in marks.items() if mark != "–"} == verdicts[protocol]
        assert converged == "–"
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (kept.parent.parent / target).is_file(), target
    assert text.count("![") == 2
    assert "![Figure 1, under each protocol:" in text
    assert "![Figure B.5, protocol paper:" in text
    assert text.count("*Figure B.5.* Squares: ") == 1
    # The fits that `heldout` takes from another protocol are no results of it.
    (kept / "small" / "converged" / "posterior_stage_1").mkdir(parents=True)
    assert readme.section(kept) == text
    shutil.rmtree(kept / "small" / "em")
    shutil.rmtree(kept / "small" / "side_by_side")
    text = readme.section(kept)
    assert "![Figure 1, protocol paper:" in text
    assert "/small/paper/figure_1/figure_1.png)" in text


def test_the_findings_are_those_of_the_figures(kept, monkeypatch):
    _known(monkeypatch)
    text = readme.findings(kept)
    assert text.count("<details>") == text.count("</details>") == len(FIGURES)
    for protocol in FIGURES:
        stored = storage.read_arrays(kept / "small" / protocol / "figure_a7" / "numbers.npz")
        assert module("figure_a7").finding(stored) in text.split(f"protocol <code>{protocol}</code>")[1]
    assert "Intra-class distance and relative entropy" not in text.split("protocol <code>em</code>")[1]


def test_how_many_fits_converged(kept):
    """Of all stages; nothing where there is one chain a class."""
    assert readme._convergence(kept / "small", "paper") == ""
    rows = [
        {"stage": stage, "class": f"c{g}", "above_largest_gap": g > 1, "verdict": verdict}
        for stage, verdicts in ((3, "nnnn"), (4, "cncn"))
        for g, verdict in enumerate({"c": "converged", "n": "not converged"}[letter] for letter in verdicts)
    ]
    folder = kept / "small" / "converged" / "classes"
    folder.mkdir(parents=True)
    storage.write_csv(folder / "classes.csv", rows)
    assert readme._convergence(kept / "small", "converged") == "2 of 8"
    folder = kept / "small" / "heldout" / "classes"
    folder.mkdir(parents=True)
    storage.write_csv(folder / "classes.csv", [row | {"folds": 200, "folds_converged": 3} for row in rows])
    assert readme._convergence(kept / "small", "heldout") == "24 of 1,600"
