"""The main job from end to end, at a scale of seconds."""

import csv
import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pictures
import pytest
import torch
import typer
from paper_repro_tiny import TINY_PROFILE, TINY_PROTOCOL
from rich.console import Console
from typer.testing import CliRunner

from classfit import DPGaussianMixture, convergence
from paper_repro import computations, storage
from paper_repro.cli import app
from paper_repro.figures import FIGURES as ALL_FIGURES
from paper_repro.figures import figure_b4
from paper_repro.machine import software
from paper_repro.pipeline import DEFAULTS, DENSITY_FIGURES, STAGES, Pipeline
from paper_repro.profiles import CONVERGED, DIGITS, EM, HELDOUT, PAPER, PROFILES, PROTOCOLS
from paper_repro.report import write_report
from paper_repro.steps import State, Workspace, derived_seed

SECONDS_TO_WAIT = 300
FIGURES = list(Pipeline(TINY_PROFILE, TINY_PROTOCOL).figures)
DRAWN_AGAIN = ("figure_1", "figure_3", "figure_a5", "figure_b4")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An undisturbed run, its report included."""
    runs = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROFILES, "tiny", TINY_PROFILE)
        patch.setitem(PROTOCOLS, "paper", TINY_PROTOCOL)
        # Of pictures those that tests compare with others: all are written from made numbers elsewhere.
        with pictures.left_empty(but=(*DRAWN_AGAIN, "figure_2", "figure_a6")):
            result = CliRunner().invoke(app, ["run", "--profile", "tiny", "--runs-dir", str(runs)])
    assert result.exit_code == 0, result.output
    report = runs / "tiny" / "paper" / "report.html"
    assert result.output.splitlines()[-1] == str(report.resolve())
    return runs


@pytest.fixture
def runs(finished, tmp_path):
    """A copy that a test may spoil."""
    return Path(shutil.copytree(finished, tmp_path / "runs"))


@pytest.fixture
def command(monkeypatch):
    """Call paper-repro with the tiny profile and protocol."""
    monkeypatch.setitem(PROFILES, "tiny", TINY_PROFILE)
    monkeypatch.setitem(PROTOCOLS, "paper", TINY_PROTOCOL)

    def call(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


def keep_only(runs, *figures):
    """Of the figures, leave these: to draw all of them takes longer than most tests."""
    for name in set(FIGURES) - set(figures):
        shutil.rmtree(runs / "tiny" / "paper" / name)


def results(folder):
    """Hash of every result file, by its path; not the provenance, which has times in it."""
    return {
        f"{path.parent.relative_to(folder)}/{name}": digest
        for path in sorted(folder.rglob("provenance.json"))
        for name, digest in json.loads(path.read_text())["files"].items()
    }


def test_only_comparisons_with_scores_of_other_images_are_left_out():
    """And what is of several chains alone."""
    assert set(ALL_FIGURES) - set(FIGURES) == {"figure_b1", "figure_b2", "figure_b10"}


def test_every_figure_has_its_files(finished):
    for name in FIGURES:
        folder = finished / "tiny" / "paper" / name
        expected = {"numbers.npz", "provenance.json", *(f"{name}.{kind}" for kind in ("svg", "png", "csv"))}
        assert {path.name for path in folder.iterdir()} == expected
        said = str(storage.read_arrays(folder / "numbers.npz")["subtitle"])
        stand_ins = {"figure_a8": "plain ConvNet", "figure_a9": "small ViT", "figure_a10": "small Mixer"}
        assert said.startswith("tiny (scaled down) · protocol paper · seed 0")
        assert stand_ins.get(name, "") in said


def test_nothing_is_left_behind(finished):
    left = [path.name for path in finished.rglob("*") if re.match(r"checkpoint|started|.*\.tmp$", path.name)]
    assert left == []


def test_the_numbers_agree_with_each_other(finished):
    root = finished / "tiny"
    data, _ = storage.read_tensors(root / "dataset" / "data.safetensors")
    labels = data["train_labels"].numpy()
    stored = storage.read_arrays(root / "paper" / "figure_a7" / "numbers.npz")
    for s, stage in enumerate(STAGES):
        values = storage.read_arrays(root / "representations" / f"layer{stage}.npz")["values"]
        assert values.shape == (1437, TINY_PROFILE.dimensions[s])
        density = storage.read_arrays(root / "paper" / f"posterior_stage_{stage}" / "density.npz")["log_density"]
        for g in range(10):
            assert stored["mean"][s, g] == density[labels == g].mean()
    entropy = storage.read_arrays(root / "paper" / "relative_entropy_stage_4" / "relative_entropy.npz")
    figure_2 = storage.read_arrays(root / "paper" / "figure_2" / "numbers.npz")
    np.testing.assert_array_equal(figure_2["relative_entropy"], entropy["value"])
    np.testing.assert_array_equal(figure_2["mean_log_density"], stored["mean"][-1])
    rows = (root / "paper" / "classes" / "classes.csv").read_text().splitlines()
    assert len(rows) == 1 + 4 * 10
    for row in csv.DictReader(rows):
        high = row["above_largest_gap"] == "True"
        assert row["density_group"] == ("" if float(row["gap_p_value"]) >= 0.05 else "high" if high else "low")
    assert [row["above_largest_gap"] for row in csv.DictReader(rows)][-10:] == stored["high"].astype(str).tolist()
    assert rows[-10].split(",")[3] == f"{stored['mean'][-1, 0]:.8g}"


def test_the_density_is_that_of_the_saved_posterior(finished):
    from classfit import Posterior

    root = finished / "tiny"
    values = storage.read_arrays(root / "representations" / "layer4.npz")["values"]
    labels = storage.read_tensors(root / "dataset" / "data.safetensors")[0]["train_labels"].numpy()
    posterior = Posterior.load(root / "paper" / "posterior_stage_4" / "posterior.npz")
    density = storage.read_arrays(root / "paper" / "posterior_stage_4" / "density.npz")["log_density"]
    np.testing.assert_array_equal(posterior.log_density(values, groups=labels), density)
    assert posterior.labels.shape == (4, 1437)
    assert not posterior.official


def test_the_report(finished):
    page = (finished / "tiny" / "paper" / "report.html").read_text(encoding="utf-8")
    assert "This is a scaled-down run" in page
    accuracy = storage.read_json(finished / "tiny" / "network" / "network.json")["test_accuracy"]
    assert f"{100 * accuracy:.1f}%" in page
    for name in FIGURES:
        assert f'<figure id="{name}"' in page
    assert page.count("What to look for") == len(FIGURES)
    assert page.count('class="spark"') == 4 * 10 * 2
    assert f"{TINY_PROTOCOL.n_sweeps} sweeps from 6 random components" in page
    for step in Pipeline(TINY_PROFILE, TINY_PROTOCOL).steps:
        assert f"<td>{step.name}</td>" in page
    assert "Out of date" not in page


def test_the_report_needs_no_other_resource(finished):
    page = (finished / "tiny" / "paper" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img|iframe|object)\b|@import|url\((?!#)", page)
    for target in re.findall(r'href="([^"#][^"]*)"', page):
        assert (finished / "tiny" / "paper" / target).is_file(), target
    ids = re.findall(r'\bid="([^"]+)"', page)
    # A name within one picture may be defined twice, never with two meanings; between pictures none is shared.
    owners = {name: name.split("-")[0] for name in ids if name.startswith("figure_")}
    assert set(owners.values()) == set(FIGURES)
    drawn = {name: re.findall(rf'<figure id="{name}".*?</figure>', page, re.DOTALL) for name in DRAWN_AGAIN}
    for name, (picture,) in drawn.items():
        of_svg = picture[picture.index("<svg") : picture.index("</svg>")]
        named = re.findall(r'\b(?:id|class)="([^"]+)"|}\.(\w[^{]*){', of_svg)
        assert len(named) > 10
        assert {"".join(names).split("-")[0] for names in named} == {name}


def test_a_second_run_computes_nothing(runs, command):
    before = results(runs)
    result = command("run", "--profile", "tiny", "--runs-dir", runs)
    assert result.exit_code == 0
    assert "Everything was up to date." in result.output
    assert "✓" not in result.output
    assert results(runs) == before


def test_a_changed_setting_redoes_what_depends_on_it(runs):
    workspace = Workspace(runs / "tiny")
    changed = Pipeline(TINY_PROFILE, replace(TINY_PROTOCOL, entropy_draws=100))
    redone = {step.name for step in workspace.run([*changed.figures.values(), changed.classes])}
    entropies = {f"paper/relative_entropy_stage_{stage}" for stage in STAGES}
    assert redone == entropies | {"paper/figure_2", "paper/classes"}
    seeded = Pipeline(TINY_PROFILE, TINY_PROTOCOL, seed=1)
    assert {workspace.state(step) for step in seeded.steps} == {State.STALE}


def test_one_figure_alone_needs_only_its_own_steps(tmp_path, command):
    result = command("run", "figure_a6", "--profile", "tiny", "--runs-dir", tmp_path)
    assert result.exit_code == 0
    done = sorted(path.parent.name for path in tmp_path.rglob("provenance.json"))
    assert done == ["dataset", "figure_a6", "network", "representations"]
    page = (tmp_path / "tiny" / "paper" / "report.html").read_text(encoding="utf-8")
    assert page.count("<figure ") == 1
    options = f"--profile tiny --runs-dir {tmp_path}"
    assert f"Run <code>paper-repro run figure_2 {options}</code>." in page
    assert f"Run <code>paper-repro run densities {options}</code>." in page
    assert all(f"paper-repro {verb} {options}\n" in page.replace("</pre>", "\n") for verb in ("draw", "run"))
    assert all(f"paper-repro {verb} {options}  " in page for verb in ("list", "check"))


def test_draw_needs_no_network_and_no_data(finished, tmp_path, command):
    for name in DRAWN_AGAIN:
        shutil.copytree(finished / "tiny" / "paper" / name, tmp_path / "tiny" / "paper" / name)
    (tmp_path / "tiny" / "paper" / "figure_1" / "figure_1.svg").unlink()
    before = {key: value for key, value in results(finished).items() if any(f"/{name}/" in key for name in DRAWN_AGAIN)}
    result = command("draw", "--profile", "tiny", "--runs-dir", tmp_path)
    assert result.exit_code == 0, result.output
    assert results(tmp_path) == before
    page = (tmp_path / "tiny" / "paper" / "report.html").read_text(encoding="utf-8")
    assert page.count("<figure ") == len(DRAWN_AGAIN)
    assert "Out of date" not in page


def test_a_run_from_kept_results_tests_the_claims_of_all_its_figures(finished, command, tmp_path):
    where = ("--profile", "tiny", "--runs-dir")
    assert command("keep", *where, finished, "--into", tmp_path).exit_code == 0
    shutil.rmtree(tmp_path / "tiny" / "paper" / "figure_2")
    path = tmp_path / "tiny" / "paper" / "scorecard" / "scorecard.json"
    before = storage.read_json(path)
    with pictures.left_empty():
        result = command("run", "figure_2", *where, tmp_path)
    assert result.exit_code == 0, result.output
    assert "✓ paper/figure_2" in result.output
    assert "figure_1" not in result.output
    assert storage.read_json(path) == before
    assert command("check", *where, tmp_path).exit_code == 0


def test_draw_refuses_damaged_numbers(runs, command):
    keep_only(runs, "figure_2", "figure_a6")
    numbers = runs / "tiny" / "paper" / "figure_2" / "numbers.npz"
    numbers.write_bytes(numbers.read_bytes()[:-1])
    result = command("draw", "figure_2", "--profile", "tiny", "--runs-dir", runs)
    assert result.exit_code == 1
    said = f"No whole numbers are stored for figure_2: use `paper-repro run figure_2 --profile tiny --runs-dir {runs}`"
    assert said in result.output
    # Neither is it left out in silence.
    result = command("draw", "--profile", "tiny", "--runs-dir", runs)
    assert result.exit_code == 1
    assert "Drew figure_a6." in result.output


def test_numbers_of_another_version_are_out_of_date(runs, command, monkeypatch):
    """Which kept less than this one draws from: the report is written all the same, and says what to run."""

    def lacks(_):
        raise KeyError("a number that is new")

    keep_only(runs, "figure_b4", "figure_1", "figure_a6")
    for part in ("table", "finding"):
        monkeypatch.setattr(figure_b4, part, lacks)
    with pytest.raises(KeyError, match="that is new"):  # up to date, that would be a fault of this version
        write_report(Workspace(runs / "tiny"), Pipeline(TINY_PROFILE, TINY_PROTOCOL))
    monkeypatch.setitem(PROFILES, "tiny", replace(TINY_PROFILE, note="Something else."))
    before = results(runs / "tiny" / "paper" / "figure_b4")
    result = command("draw", "--profile", "tiny", "--runs-dir", runs)
    assert result.exit_code == 1
    assert "No whole numbers are stored for figure_b4: use" in result.output
    assert results(runs / "tiny" / "paper" / "figure_b4") == before
    page = (runs / "tiny" / "paper" / "report.html").read_text()
    assert f"<b>Figure B.4</b>, {ALL_FIGURES['figure_b4']}: stale. Run <code>paper-repro run figure_b4" in page
    assert page.count("Out of date:") == 2


def test_check(runs, command):
    def check(*arguments):
        result = command("check", *arguments, "--profile", "tiny", "--runs-dir", runs)
        return result.exit_code, result.output

    assert check()[0] == 0
    picture = runs / "tiny" / "paper" / "figure_1" / "figure_1.png"
    whole = picture.read_bytes()
    picture.write_bytes(b"")
    code, output = check()
    assert code == 1
    assert "damaged" in output
    assert "figure_1.png" in output
    assert check("figure_2")[0] == 0
    picture.write_bytes(whole)
    assert check()[0] == 0
    assert check("--seed", "1")[0] == 1
    (runs / "tiny" / "network" / "weights.safetensors").unlink()
    code, output = check("figure_a5")
    assert code == 1
    assert "network is damaged" in output
    shutil.rmtree(runs / "tiny")
    code, output = check("figure_a6")
    assert code == 1
    assert "missing" in output


def test_results_of_another_seed_lie_apart(runs, command):
    before = results(runs / "tiny")
    where = ("--profile", "tiny", "--runs-dir", runs, "--seed", 1)
    assert command("check", "figure_a6", *where).exit_code == 1
    result = command("run", "figure_a6", *where)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == str((runs / "tiny-seed1" / "paper" / "report.html").resolve())
    assert results(runs / "tiny") == before
    other = results(runs / "tiny-seed1")
    assert other["network/weights.safetensors"] != before["network/weights.safetensors"]
    assert command("check", "figure_a6", *where).exit_code == 0
    result = command("draw", *where)
    assert result.exit_code == 0
    assert "Drew figure_a6." in result.output
    assert command("list", *where).output.count("done") == 1
    assert command("check", "--profile", "tiny", "--runs-dir", runs).exit_code == 0


def test_a_figure_that_cannot_be_computed_keeps_no_other_from_being(runs, command, monkeypatch):
    """Too few memorized points in a class, as a better network than the paper's might leave: said, and no more lost."""
    scale = replace(TINY_PROFILE.robustness, least_points=1000)
    monkeypatch.setitem(PROFILES, "tiny", replace(TINY_PROFILE, robustness=scale))
    shutil.rmtree(runs / "tiny" / "paper" / "figure_a7")
    result = command("run", "--profile", "tiny", "--runs-dir", runs)
    assert result.exit_code == 1
    words = "least_points must leave at least two classes, got 1000: of 10 classes 0 have"
    assert f"Not all could be computed. {words}" in result.stderr
    assert f"{words} as many points among the" in result.stdout
    assert "✓ paper/figure_a7" in result.stdout
    page = (runs / "tiny" / "paper" / "report.html").read_text(encoding="utf-8")
    assert '<figure id="figure_a7"' in page
    # Of the claims those whose figures are there.
    names = {claim["name"] for claim in json.loads((runs / "tiny/paper/scorecard/scorecard.json").read_text())}
    assert "C1" in names
    assert "C7" not in names


def test_what_took_long_is_not_thrown_away(runs, command):
    network = Pipeline(TINY_PROFILE, TINY_PROTOCOL).network
    Workspace(runs / "tiny").record(network, wall_seconds=7200.0, fingerprint="0" * 64)
    before = results(runs)
    result = command("run", "figure_a5", "--profile", "tiny", "--runs-dir", runs)
    assert result.exit_code == 1
    assert "network (120 min; settings or inputs have changed since) would be thrown away" in result.output
    assert f"Use another --runs-dir, or remove from {runs / 'tiny'} what may go" in result.output
    assert results(runs) == before


def test_commands_that_are_named_have_the_options_that_are_no_defaults(tmp_path, command, monkeypatch):
    for name, known in typer.main.get_command(app).commands.items():
        defaults = {option.opts[0]: str(option.default) for option in known.params}
        if name not in ("keep", "analyze", "trials"):  # of the others, these are named
            assert {option: defaults[option] for option in DEFAULTS} == DEFAULTS
    assert Pipeline(DIGITS, PAPER).command("run", Path("runs"), ["figure_3"]) == "paper-repro run figure_3"
    pipeline = Pipeline(TINY_PROFILE, EM, seed=3, official=True)
    _, *words = shlex.split(pipeline.command("list", tmp_path / "my runs"))
    assert words[-1] == "--official"
    monkeypatch.setenv("COLUMNS", "200")
    said = f"profile tiny, protocol em, seed 3, in {tmp_path / 'my runs' / 'tiny-seed3'}"
    assert said in command(*words).output.replace("\n", "")


def test_groups_of_classes_are_told_where_the_gap_is_none_of_chance(runs):
    workspace, pipeline = Workspace(runs / "tiny"), Pipeline(TINY_PROFILE, TINY_PROTOCOL)
    path = workspace.folder(pipeline.classes) / "classes.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for i, row in enumerate(rows):
        g, high = i % 10, i % 10 >= 5
        row["mean_log_density_nats"] = g + 100 * high * (row["stage"] == "4")
        row["density_group"] = "high" if high else "low"
    storage.write_csv(path, rows)
    workspace.record(pipeline.classes)
    page = write_report(workspace, pipeline).read_text(encoding="utf-8")
    *without, last = page[page.index("<h3>Stage 1 ") : page.index('<section id="cost">')].split("<h3>")[1:]
    assert (last.count("◆ high"), last.count("● low"), "No groups" in last) == (5, 5, False)
    for stage in without:
        assert not re.search("◆|●", stage)
        assert re.search(r"No groups: chance alone .* \(p = (1|0\.\d+)\)", stage)


def test_list(runs, command):
    result = command("list", "--profile", "tiny", "--runs-dir", runs)
    assert result.exit_code == 0
    assert all(name in result.output for name in (*FIGURES, *PROFILES, *PROTOCOLS))
    assert result.output.count("done") == len(FIGURES)
    assert "missing" in command("list", "--runs-dir", runs).output


def test_a_second_run_at_the_same_time_is_told_so(tmp_path, command):
    with Workspace(tmp_path / "tiny").lock():
        result = command("run", "--profile", "tiny", "--runs-dir", tmp_path)
    assert result.exit_code == 1
    assert f"process {os.getpid()}" in result.output
    assert "wait for it" in result.output


def test_a_killed_run_ends_with_the_numbers_of_an_undisturbed_one(finished, tmp_path):
    """SIGKILL in training, in a fit, and while figures are drawn."""
    tiny = [
        sys.executable,
        str(Path(__file__).with_name("paper_repro_tiny.py")),
        str(tmp_path),
        "figure_2",
        "figure_a6",
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    signs = ("network/checkpoint.safetensors", "paper/posterior_stage_4/started.json", "paper/figure_2/started.json")
    for sign in signs:
        process = subprocess.Popen(tiny, env=environment)
        deadline = time.monotonic() + SECONDS_TO_WAIT
        while process.poll() is None and not (tmp_path / sign).exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, f"the run ended before it could be killed at {sign}"
    subprocess.run(tiny, env=environment, check=True, timeout=SECONDS_TO_WAIT)
    network = storage.read_json(tmp_path / "network" / "provenance.json")
    assert network["continued_after_interruption"]
    found, straight = results(tmp_path), results(finished / "tiny")
    assert found == {name: straight[name] for name in found}
    for name in ("network/weights.safetensors", "paper/figure_2/figure_2.svg", "paper/classes/classes.csv"):
        assert name in found


def test_protocol_paper_is_the_published_one():
    pipeline = Pipeline(DIGITS, PAPER)
    settings = pipeline.posteriors[3].settings
    assert settings == {
        "stage": 3, "n_sweeps": 400, "n_discard": 320, "thin": 4, "block_size": 4, "n_init_components": 6,
        "official": False, "seed": 0,
    }  # fmt: skip
    assert pipeline.entropies[4].settings["n_draws"] == 100_000
    assert pipeline.representations.settings["dimensions"] == {"layer1": 16, "layer2": 16, "layer3": 64, "layer4": 64}


def test_official_results_lie_beside_the_others():
    plain, official = Pipeline(DIGITS, PAPER), Pipeline(DIGITS, PAPER, official=True)
    assert official.posteriors[1].name == "paper-official/posterior_stage_1"
    assert official.posteriors[1].settings["official"]
    assert official.network.fingerprint == plain.network.fingerprint
    assert "as coded (--official)" in official.subtitle


def test_steps_come_after_their_inputs():
    seen = set()
    for step in Pipeline(DIGITS, PAPER).steps:
        assert {step_in.name for step_in in step.inputs} <= seen
        seen.add(step.name)


def test_each_use_of_the_seed_has_its_own():
    uses = [(seed, name, stage) for seed in range(20) for name in ("posterior", "weights") for stage in STAGES]
    seeds = [derived_seed(*use) for use in uses]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_protocol_em_has_its_figures_and_a_report(tmp_path):
    pipeline = Pipeline(TINY_PROFILE, replace(EM, entropy_draws=200))
    assert not {"figure_2", "figure_4", "figure_a11"} & set(pipeline.figures)
    workspace = Workspace(tmp_path)
    with workspace.lock():
        workspace.run([pipeline.figures["figure_1"], pipeline.classes])
    page = write_report(workspace, pipeline).read_text()
    assert "number of components by BIC" in page
    stored = storage.read_arrays(tmp_path / "em" / "figure_1" / "numbers.npz")
    assert np.isfinite(stored["mean"]).all()


def test_densities_are_the_figures_that_need_nothing_but_the_network(finished, command, tmp_path):
    where = ("--profile", "tiny", "--runs-dir", tmp_path)
    for name in ("dataset", "network", "representations", "wide_representations", "controls", "convnet"):
        shutil.copytree(finished / "tiny" / name, tmp_path / "tiny" / name)
    with pictures.left_empty():
        result = command("run", "densities", "figure_a8", *where)
    assert result.exit_code == 0, result.output
    root = tmp_path / "tiny" / "paper"
    done = {path.parent.name for path in root.rglob("numbers.npz")}
    assert done == {name for name in DENSITY_FIGURES if not name.startswith("figure_b1")} | {"figure_a8"}
    assert (root / "classes" / "classes.csv").exists()
    assert not (tmp_path / "tiny" / "memorization").exists()
    claims = storage.read_json(root / "scorecard" / "scorecard.json")
    assert [claim["name"] for claim in claims] == ["C1", "C2", "C3", "C4"]
    assert command("check", "figure_1", *where).exit_code == 0
    result = command("check", *where)
    assert result.exit_code == 1
    assert re.search(r"scorecard +done", result.output)
    # A figure that no claim is about.
    assert command("run", "figure_a5", *where, "--seed", 1).exit_code == 0
    result = command("run", "density", *where)
    assert result.exit_code == 2
    assert "'density' is unknown" in result.output


def test_two_protocols_are_compared_in_both_reports(runs, command):
    result = command("run", "figure_1", "figure_a7", "--protocol", "em", "--profile", "tiny", "--runs-dir", runs)
    assert result.exit_code == 0, result.output
    sections = []
    for name in ("paper", "em"):
        page = (runs / "tiny" / name / "report.html").read_text(encoding="utf-8")
        sections.append(page[page.index('<section id="protocols">') : page.index('<section id="run">')])
        assert [figure in sections[-1] for figure in ("-figure_1", "-figure_2", "-figure_4", "-figure_a7")] == [
            True, False, False, True,
        ]  # fmt: skip
        assert "Figure 2 is stored under <code>paper</code> only." in sections[-1]
        assert "Whether fits converged is not stored for <code>em</code>" in sections[-1]
        assert "<code>paper</code> has one chain a class" in sections[-1]
    assert sections[0] == sections[1]
    stored = [
        storage.read_arrays(runs / "tiny" / name / "figure_a7" / "numbers.npz")["high"] for name in ("paper", "em")
    ]
    both, either = (stored[0] & stored[1]).sum(), (stored[0] | stored[1]).sum()
    assert f"{both} of {stored[0].sum()} for <code>em</code> (Jaccard index {both / either:.2f})" in sections[0]
    # A report that is written beside another has its scorecard, of some figures, up to date.
    page = runs / "tiny" / "em" / "report.html"
    page.write_text("to be written anew")
    result = command("draw", "figure_1", "--profile", "tiny", "--runs-dir", runs)
    assert result.exit_code == 0, result.output
    assert "em/scorecard" in page.read_text(encoding="utf-8")
    assert "out of date" not in page.read_text(encoding="utf-8")
    # Pictures are redrawn from stored numbers alone.
    picture = runs / "tiny" / "side_by_side" / "figure_a7.png"
    before = picture.read_bytes()
    picture.unlink()
    for kept in ("dataset", "network", "representations"):
        shutil.rmtree(runs / "tiny" / kept)
    result = command("draw", "figure_1", "--protocol", "em", "--profile", "tiny", "--runs-dir", runs)
    assert result.exit_code == 0, result.output
    assert picture.read_bytes() == before


def environment():
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "COLUMNS": "200"}


def test_a_stopped_run_says_how_to_go_on(tmp_path):
    command = [sys.executable, "-m", "paper_repro", "run", "figure_a6", "--runs-dir", str(tmp_path)]

    def heeds_signals():
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs do not

    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True, preexec_fn=heeds_signals)
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while process.poll() is None and time.monotonic() < deadline:
        if (tmp_path / "digits" / "network" / "checkpoint.safetensors").exists():
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=SECONDS_TO_WAIT)
    assert process.returncode == 130
    assert said == "\nStopped. Run the same command again to go on from here.\n"


def test_the_package_is_the_command(tmp_path):
    def call(*arguments):
        command = [sys.executable, "-m", "paper_repro", *arguments]
        return subprocess.run(command, env=environment(), cwd=tmp_path, capture_output=True, text=True, check=False)

    assert "Usage: paper-repro run" in call("run", "--help").stdout
    refused = call("run", "--seed", "-1")
    assert refused.returncode == 2
    assert "must not be negative, got -1" in refused.stderr


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES])
def test_what_the_file_system_refuses_is_said_in_a_line(code, tmp_path, command, monkeypatch):
    where = ("--profile", "tiny", "--runs-dir", tmp_path / "runs")

    def refused(path, *_, **__):
        raise OSError(code, os.strerror(code), *([] if code == errno.ENOSPC else [str(path)]))

    def said(place):
        return f"{os.strerror(code)}: {place}. Put that right, then run the same command again.\n"

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refused)
        result = command("run", "figure_a6", *where)
    root = tmp_path / "runs" / "tiny"
    assert (result.exit_code, result.stderr) == (1, said(root))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", refused)
        result = command("run", "figure_a6", *where)
    started = root / "dataset" / f".started.json.{os.getpid()}.tmp"
    assert (result.exit_code, result.stderr) == (1, said(root if code == errno.ENOSPC else started))
    with monkeypatch.context() as patch:
        patch.setattr("paper_repro.robustness.memorization_trials", lambda work, _: refused(work.folder))
        result = command("trials", *where)
    assert (result.exit_code, result.stderr) == (1, said(root / "memorization"))


@pytest.mark.parametrize(
    ("kind", "name", "figure"),
    [
        ("network", "checkpoint.safetensors", "figure_a6"),
        ("posterior_stage_4", "checkpoint-cpu.npz", "figure_2"),
        ("certification", "checkpoint-00000.npz", "figure_3"),
    ],
)
def test_progress_that_is_damaged_is_said_in_a_line(runs, command, kind, name, figure):
    workspace, pipeline = Workspace(runs / "tiny"), Pipeline(TINY_PROFILE, TINY_PROTOCOL)
    (step,) = (step for step in pipeline.steps if step.name in (kind, f"paper/{kind}"))
    folder = workspace.folder(step)
    storage.write_json(folder / "started.json", {**workspace.claim(step), "versions": software()["versions"]})
    (folder / "provenance.json").unlink()
    (folder / name).write_bytes(b"PK\x03\x04half")
    keep_only(runs, figure)
    result = command("run", figure, "--profile", "tiny", "--runs-dir", runs)
    assert isinstance(result.exception, SystemExit)
    assert re.fullmatch(rf"(checkpoint )?{folder / name} is damaged .*[Mm]ove it away.*\n", result.stderr)
    assert (folder / name).exists()


def test_other_errors_of_the_file_system_are_not_swallowed(tmp_path, command, monkeypatch):
    def broken(path, _):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, "write_bytes", broken)
    result = command("run", "figure_a6", "--profile", "tiny", "--runs-dir", tmp_path)
    assert isinstance(result.exception, OSError)


@pytest.mark.parametrize("protocol", [TINY_PROTOCOL, CONVERGED, HELDOUT, EM])
def test_warnings_of_fits_are_said_once_with_names_of_classes(tmp_path, monkeypatch, protocol):
    for name, value in (("MAX_ROUNDS", 10), ("CHECK_ROUNDS", 5), ("BURN_IN_ROUNDS", 2)):
        monkeypatch.setattr(convergence, name, value)
    labels = np.repeat([0, 1], 20)
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    x[20:, 2] = 3
    for name in ("dataset", "representations"):
        (tmp_path / name).mkdir()
    storage.write_tensors(tmp_path / "dataset" / "data.safetensors", {"train_labels": torch.from_numpy(labels)})
    storage.write_json(tmp_path / "dataset" / "dataset.json", {"class_names": ["ant", "elk[2]"]})
    storage.write_arrays(tmp_path / "representations" / "layer1.npz", {"values": x})
    step = Pipeline(TINY_PROFILE, protocol).posteriors[1]
    workspace = Workspace(tmp_path, Console(record=True, width=300))
    really = DPGaussianMixture.fit

    def fit(self, *arguments, **options):
        warnings.warn("something else", UserWarning, stacklevel=1)
        return really(self, *arguments, **options)

    monkeypatch.setattr(DPGaussianMixture, "fit", fit)
    with warnings.catch_warnings(record=True) as passed:
        warnings.simplefilter("always")
        computations.estimate_posterior(workspace.work(step))
        assert passed == []
        steps = [*(step_in for step_in in step.inputs if "posterior" in step_in.name), step]
        for each in steps:
            workspace.folder(each).mkdir(parents=True)
            computations.posterior(workspace.work(each))
    assert {str(warning.message) for warning in passed} == (set() if protocol is EM else {"something else"})
    said = [
        "features are constant within their group, or vary by less than can be squared, and get variance 1: in 1 of 2 "
        "groups, at most 1 of 4 each; the first is feature 2 of class elk[2]"
    ]
    if protocol in (CONVERGED, HELDOUT):
        said.append("fits of 2 of 2 classes did not converge (ant, elk[2]): see the table of classes")
    for each in steps:
        assert storage.read_json(workspace.folder(each) / computations.WARNINGS) == said[:1]
    lines = [f"{each.name}: {words}" for each in steps for words in said]
    assert workspace.console.export_text().splitlines() == lines
