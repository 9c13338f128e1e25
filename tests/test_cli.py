"""The command line before anything is computed: errors in a line, and a quick start."""

import io
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from paper_repro import cli, dry_run
from paper_repro.cli import app
from paper_repro.datasets import load


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "figure_9"], "'figure_9' is unknown; known: figure_1, figure_2, figure_3, figure_4, figure_a5"),
        (["check", "figure_9"], "'figure_9' is unknown"),
        (["run", "--profile", "mnist"], "'mnist' is unknown; known: digits"),
        (["run", "--protocol", "fast"], "'fast' is unknown; known: paper"),
        (["run", "--seed", "-1"], "must not be negative, got -1"),
    ],
)
def test_errors_name_what_is_known(arguments, message, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = CliRunner().invoke(app, [*arguments, "--runs-dir", str(tmp_path)])
    assert result.exit_code == 2
    assert re.search(message, result.output)
    assert list(tmp_path.iterdir()) == []


def test_the_command_starts_quickly_without_torch():
    code = "import sys, paper_repro.cli; sys.exit(any(m in sys.modules for m in ('torch', 'matplotlib', 'classfit')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_terminal_without_such_letters_stops_nothing(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    monkeypatch.setattr(cli, "app", lambda prog_name: cli.console.print("[green]✓[/] network"))
    cli.main()
    assert written.getvalue() == b"? network\n"


@pytest.mark.parametrize(
    ("arguments", "place"), [(["run", "figure_a6"], "data/cifar100.zip"), (["trials", "--data", "nope"], "nope")]
)
def test_a_missing_dataset_ends_with_what_to_get(arguments, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [*arguments, "--profile", "cifar100-laptop", "--runs-dir", "runs"])
    assert result.exit_code == 1
    assert f"CIFAR-100 was not found in {place}" in result.output
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("arguments", [["trials"], ["run"], ["run", "--dry-run"]])
def test_a_dataset_that_is_none_is_said_in_a_line(arguments, tmp_path, monkeypatch):
    # A dry run reads it last of all.
    monkeypatch.setattr(
        dry_run, "dry_run", lambda *_, data, **__: load("digits", source=data, test_fraction=0.2, seed=0)
    )
    result = CliRunner().invoke(app, [*arguments, "--data", "nope", "--runs-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output == "digits is embedded in scikit-learn: it takes no source (--data), got nope\n"


@pytest.mark.parametrize("verb", ["run", "trials", "keep"])
def test_a_folder_that_cannot_be_written_to_is_named(verb, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, [verb, "--runs-dir", str(tmp_path / "file" / "runs")])
    assert result.exit_code == 2
    said = (
        f"Invalid value for --runs-dir: {tmp_path / 'file' / 'runs' / 'digits'} cannot be written to (Not a directory)"
    )
    assert said in result.output


def test_nothing_is_kept_below_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, ["keep", "--runs-dir", str(tmp_path), "--into", str(tmp_path / "file" / "kept")])
    assert result.exit_code == 2
    assert f"Invalid value for --into: {tmp_path / 'file'} is a file" in result.output


def test_nothing_is_drawn_where_nothing_is_stored(tmp_path):
    result = CliRunner().invoke(app, ["draw", "figure_3", "--seed", "2", "--runs-dir", str(tmp_path / "nowhere")])
    assert result.exit_code == 1
    command = f"paper-repro run figure_3 --seed 2 --runs-dir {tmp_path / 'nowhere'}"
    folder = tmp_path / "nowhere" / "digits-seed2" / "paper"
    assert result.output == f"No figure is stored in {folder}: use `{command}`\n"
    assert list(tmp_path.iterdir()) == []


def test_a_figure_that_the_profile_has_not(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    result = CliRunner().invoke(app, ["run", "figure_a9", "--profile", "cifar100-laptop", "--runs-dir", str(tmp_path)])
    assert result.exit_code == 2
    assert "'figure_a9' is not in profile cifar100-laptop; known: figure_1," in result.output
    result = CliRunner().invoke(app, ["run", "figure_2", "--protocol", "em", "--runs-dir", str(tmp_path)])
    said = "'figure_2' is not in profile digits under em, but under paper, converged, heldout; known: figure_1,"
    assert said in result.output


@pytest.mark.parametrize("protocol", ["converged", "heldout", "em"])
def test_the_published_code_has_one_protocol(protocol, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    options = ["--protocol", protocol, "--official", "--runs-dir", str(tmp_path)]
    model = ["--model", "resnet18", "--data", str(tmp_path)]
    for command in (["run"], ["run", "--dry-run"], ["analyze", *model]):
        result = CliRunner().invoke(app, [*command, *options])
        assert result.exit_code == 2
        assert f"is for the published sampler, not for '{protocol}'" in result.output
