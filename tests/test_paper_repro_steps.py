"""Steps are computed once, again when they must be, and never half."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
from rich.console import Console

from paper_repro import steps, storage
from paper_repro.machine import software
from paper_repro.steps import BusyError, CannotError, DiscardError, State, Step, Work, Workspace


@dataclass
class Toy:
    """first -> second -> third, and a lone one; each writes its setting and what its inputs wrote."""

    settings: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("first", "second", "third", "lone"), 0))
    computed: list[str] = field(default_factory=list)
    fails: str = ""
    more: int = 0
    """What another version of the code makes of the same settings."""

    def compute(self, work: Work) -> None:
        name = work.folder.name
        self.computed.append(name)
        progress = work.folder / "checkpoint.json"
        start = storage.read_json(progress) if progress.exists() else 0
        if self.fails == name:
            storage.write_json(progress, 7)
            (work.folder / ".result.json.99.tmp").write_text("half")
            raise RuntimeError("stopped here")
        inputs = {key: storage.read_json(folder / "result.json") for key, folder in work.inputs.items()}
        storage.write_json(work.folder / "result.json", [work.settings["value"] + self.more, start, inputs])

    def step(self, name: str, *inputs: Step) -> Step:
        return Step(name, {"value": self.settings[name], "seed": 3}, self.compute, inputs)

    def steps(self) -> dict[str, Step]:
        first = self.step("first")
        second = self.step("second", first)
        return {"first": first, "second": second, "third": self.step("third", second), "lone": self.step("lone")}

    def run(self, workspace: Workspace) -> list[str]:
        self.computed.clear()
        workspace.run(self.steps().values())
        return list(self.computed)


@pytest.fixture
def toy():
    return Toy()


@pytest.fixture
def said():
    return io.StringIO()


@pytest.fixture
def workspace(tmp_path, said):
    return Workspace(tmp_path / "runs", Console(file=said, width=200))


def test_steps_kept_in_part_count_as_done_only_for_what_does_not_read_them(toy, workspace):
    toy.run(workspace)
    first = toy.steps()["first"]
    record = workspace.provenance(first)
    storage.write_json(
        workspace.folder(first) / "provenance.json", {**record, "files": {}, "left_out": record["files"]}
    )
    (workspace.folder(first) / "result.json").unlink()
    toy.settings["third"] = 1
    toy.computed.clear()
    workspace.run([toy.steps()["third"]], kept=True)
    assert toy.computed == ["third"]
    toy.settings["second"] = 1
    with pytest.raises(CannotError, match="second needs files of first that were not kept"):
        workspace.run([toy.steps()["second"]], kept=True)
    assert toy.run(workspace) == ["first", "second", "third"]


def test_finished_steps_are_reused(toy, workspace):
    assert toy.run(workspace) == ["first", "second", "third", "lone"]
    assert toy.run(workspace) == []
    assert {workspace.state(step) for step in toy.steps().values()} == {State.DONE}


def test_a_changed_setting_redoes_exactly_what_depends_on_it(toy, workspace, said):
    toy.run(workspace)
    toy.settings["second"] = 5
    states = {name: workspace.state(step) for name, step in toy.steps().items()}
    assert states == {"first": "done", "second": "stale", "third": "stale", "lone": "done"}
    assert toy.run(workspace) == ["second", "third"]
    assert "second: settings or inputs have changed" in said.getvalue()
    assert storage.read_json(workspace.root / "third/result.json")[2]["second"][0] == 5


@pytest.mark.parametrize(("seconds", "refused"), [(30, False), (120, True)])
def test_an_attempt_that_took_long_is_not_thrown_away_either(toy, workspace, seconds, refused):
    """It had made a checkpoint, or finished a file, so long after its start; then a setting changes, or an input."""
    toy.run(workspace)
    step = toy.steps()["second"]
    folder = workspace.folder(step)
    claim = {**workspace.claim(step), "versions": software()["versions"]}
    (folder / "provenance.json").unlink()
    storage.write_json(folder / "started.json", claim)
    started = (folder / "started.json").stat().st_mtime
    os.utime(folder / "result.json", (started, started + seconds))
    toy.settings["second"] = 5
    if not refused:
        assert toy.run(workspace) == ["second", "third"]
        return
    with pytest.raises(DiscardError, match=r"second \(2 min, unfinished; settings or .*\) would be thrown away"):
        toy.run(workspace)
    assert (folder / "result.json").exists()
    toy.settings["second"] = step.settings["value"]
    first = toy.steps()["first"]
    result = (workspace.folder(first) / "result.json").read_bytes()
    storage.write_json(workspace.folder(first) / "result.json", ["another result", 0, {}])
    workspace.record(first)
    with pytest.raises(DiscardError, match=r"second \(2 min, unfinished; settings or .*\) would be thrown away"):
        toy.run(workspace)
    # With the settings and inputs that it began with it goes on.
    (workspace.folder(first) / "result.json").write_bytes(result)
    workspace.record(first)
    assert toy.run(workspace)[0] == "second"
    assert workspace.provenance(step)["continued_after_interruption"]


def test_an_input_that_came_out_otherwise_redoes_what_depends_on_it(toy, workspace):
    toy.run(workspace)
    step = toy.steps()["first"]
    storage.write_json(workspace.folder(step) / "result.json", ["another result", 0, {}])
    workspace.record(step)
    assert workspace.state(step) == State.DONE
    assert workspace.state(toy.steps()["second"]) == State.STALE
    assert toy.run(workspace) == ["second", "third"]


@pytest.mark.parametrize(
    ("record", "took"),
    [
        ({"wall_seconds": 7200.0}, "second (120 min; CHANGED)"),
        ({"wall_seconds": 3.0, "continued_after_interruption": True}, "second (0 min since it was continued; CHANGED)"),
        ({"wall_seconds": 59.0}, None),
        ({"wall_seconds": 7200.0, "left_out": {"large.npz": "0" * 64}}, None),
    ],
)
@pytest.mark.parametrize("what", ["settings", "inputs"])
def test_what_took_long_is_not_thrown_away(toy, workspace, what, record, took):
    toy.run(workspace)
    workspace.record(toy.steps()["second"], **record)
    if what == "settings":
        toy.settings["second"] = 5
    else:
        step = toy.steps()["first"]
        storage.write_json(workspace.folder(step) / "result.json", ["another result", 0, {}])
        workspace.record(step)
    if took is None:
        assert toy.run(workspace) == ["second", "third"]
        return
    before = (workspace.root / "second/result.json").read_bytes()
    took = took.replace("CHANGED", "settings or inputs have changed since")
    words = re.escape(f"{took} would be thrown away and computed again. Use another --runs-dir, or")
    with pytest.raises(DiscardError, match=words):
        toy.run(workspace)
    with pytest.raises(DiscardError, match=words):
        workspace.join(toy.steps()["second"])
    assert (workspace.root / "second/result.json").read_bytes() == before
    # Nor are the other files of one that is damaged.
    (workspace.root / "second/result.json").unlink()
    (workspace.root / "second/other.json").write_text("worth something")
    with pytest.raises(DiscardError, match="would be thrown away"):
        toy.run(workspace)
    assert (workspace.root / "second/other.json").exists()


def test_a_damaged_step_that_took_long_is_not_computed_again_unasked(toy, workspace):
    toy.run(workspace)
    step = toy.steps()["second"]
    workspace.record(step, wall_seconds=7200.0)
    (workspace.folder(step) / "result.json").unlink()
    with pytest.raises(DiscardError, match=r"second \(120 min; damaged or missing: result.json\) would be thrown"):
        toy.run(workspace)
    (workspace.folder(step) / "provenance.json").write_text("")
    with pytest.raises(
        DiscardError, match=r"second \(nobody knows how long; damaged: provenance.json\) would be thrown"
    ):
        toy.run(workspace)
    shutil.rmtree(workspace.folder(step))
    assert toy.run(workspace) == ["second"]


def interrupted(toy, workspace, seconds, **versions):
    """The folder of the second step, begun with these versions, whose checkpoint is from so long after that."""
    toy.fails = "second"
    with pytest.raises(RuntimeError, match="stopped here"):
        toy.run(workspace)
    toy.fails = ""
    folder = workspace.root / "second"
    claim = storage.read_json(folder / "started.json")
    storage.write_json(folder / "started.json", {**claim, "versions": claim["versions"] | versions})
    started = (folder / "started.json").stat().st_mtime
    os.utime(folder / "checkpoint.json", (started, started + seconds))
    return folder


@pytest.mark.parametrize("how", ["a copy, whose files are all as new", "a clock that was put back"])
def test_long_progress_is_known_for_such_in(toy, workspace, how):
    folder = interrupted(toy, workspace, -7200 if "clock" in how else 7200)
    if "copy" in how:
        claim = storage.read_json(folder / "started.json")
        storage.write_json(folder / "started.json", {**claim, "begun": claim["begun"] - 7200})
        for path in folder.iterdir():
            os.utime(path)
    toy.settings["second"] = 5
    with pytest.raises(DiscardError, match=r"second \(120 min, unfinished; settings or .*\) would be thrown away"):
        toy.run(workspace)
    assert (folder / "checkpoint.json").exists()
    toy.settings["second"] = 0
    assert toy.run(workspace)[0] == "second"


def test_progress_of_which_nobody_knows_what_it_was_begun_with_is_not_thrown_away(toy, workspace):
    folder = interrupted(toy, workspace, 7200)
    (folder / "started.json").write_text("")
    words = r"second \(nobody knows how long, unfinished; damaged: started.json\) would be thrown"
    with pytest.raises(DiscardError, match=words):
        toy.run(workspace)
    with pytest.raises(DiscardError, match=words):
        workspace.join(toy.steps()["second"])
    assert (folder / "checkpoint.json").exists()
    (folder / "checkpoint.json").unlink()
    assert toy.run(workspace)[0] == "second"


def test_long_progress_of_other_versions_is_not_thrown_away(toy, workspace):
    folder = interrupted(toy, workspace, 7200, torch="0.0")
    with pytest.raises(DiscardError, match=r"second \(120 min, unfinished; begun with torch 0\.0\) would be thrown"):
        toy.run(workspace)
    with pytest.raises(DiscardError, match="begun with torch"):
        workspace.join(toy.steps()["second"])
    assert (folder / "checkpoint.json").exists()


def test_versions_that_nothing_is_computed_with_do_not_matter(toy, workspace, said):
    python = ".".join(software()["versions"]["python"].split(".")[:2]) + ".99"
    interrupted(toy, workspace, 7200, matplotlib="0.0", python=python)
    toy.run(workspace)
    assert "second: continuing where it was stopped" in said.getvalue()


def test_a_kill_while_old_progress_is_thrown_away_leaves_none_of_it(toy, workspace, monkeypatch):
    """Where it lay, without the record of what it was begun with, it would be taken for another machine's."""
    interrupted(toy, workspace, 1)
    toy.settings["second"] = 5

    def killed(path, ignore_errors=False):
        if not ignore_errors:
            (path / "started.json").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr("paper_repro.steps.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        toy.run(workspace)
    monkeypatch.undo()
    assert toy.run(workspace)[0] == "second"


def test_checkpoints_that_nothing_began_are_left_alone(toy, workspace):
    """Trials of other machines, copied before any were run here."""
    trial = workspace.root / "second" / "checkpoint-trial-00001.npz"
    trial.parent.mkdir(parents=True)
    trial.write_bytes(b"trained for long")
    with pytest.raises(DiscardError, match="second holds checkpoints that nothing here has begun"):
        toy.run(workspace)
    with pytest.raises(DiscardError, match="holds checkpoints"):
        workspace.join(toy.steps()["second"])
    assert trial.read_bytes() == b"trained for long"


def test_what_cannot_be_computed_keeps_nothing_else_from_being(toy, workspace, said):
    def cannot(work):
        toy.computed.append("bad")
        raise CannotError("no weights [here]")

    good, bad = toy.step("first"), Step("bad", {}, cannot)
    needs_both = Step("third", {"value": 0}, toy.compute, (bad, good))
    with pytest.raises(CannotError, match=r"^no weights \[here\]$"):
        workspace.run([bad, needs_both, toy.step("lone")])
    assert toy.computed == ["bad", "first", "lone"]
    assert "bad: no weights [here]" in said.getvalue()
    assert workspace.state(good) == State.DONE
    assert workspace.state(bad) == State.UNFINISHED


def test_an_estimate_that_cannot_be_made_is_none(toy, workspace):
    def cannot(work):
        raise CannotError("too few points")

    assert workspace.estimate(Step("long", {"value": 0}, toy.compute, estimate=cannot)) == 0


def test_states_of_many_steps_read_every_file_once(toy, workspace, monkeypatch):
    toy.run(workspace)
    toy.settings["second"] = 5
    steps, read = list(toy.steps().values()), []
    expected = [workspace.state(step) for step in steps]
    monkeypatch.setattr("paper_repro.steps.sha256", lambda path: read.append(path) or storage.sha256(path))
    assert Workspace(workspace.root).states(steps) == expected
    assert len(read) == len(set(read)) == len(steps)


def test_a_file_is_read_once_and_again_when_it_has_changed(toy, workspace, monkeypatch):
    """By all that a command does, and whichever of size and time gives the change away."""
    read = []
    monkeypatch.setattr("paper_repro.steps.sha256", lambda path: read.append(path) or storage.sha256(path))
    toy.run(workspace)
    toy.run(workspace)
    assert sorted(read) == sorted(workspace.root / name / "result.json" for name in toy.settings)
    step = toy.steps()["second"]
    path = workspace.folder(step) / "result.json"
    whole, written = path.read_bytes(), path.stat().st_mtime_ns
    for content, time in ((whole + b" ", written), (whole[:-2] + b"9\n", written + 1)):
        path.write_bytes(content)
        os.utime(path, ns=(time, time))
        assert workspace.state(step) == State.DAMAGED


@pytest.mark.parametrize("there", [True, False])
def test_what_a_link_leads_to_is_left_alone(toy, workspace, tmp_path, there):
    """The folder of a step may be a link to another run's."""
    toy.run(workspace)
    (workspace.root / "second").rename(tmp_path / "others")
    (workspace.root / "second").symlink_to(tmp_path / ("others" if there else "nowhere"))
    before = storage.read_json(tmp_path / "others" / "result.json")
    toy.settings["second"] = 5
    assert toy.run(workspace) == ["second", "third"]
    assert storage.read_json(workspace.root / "second" / "result.json") != before
    assert storage.read_json(tmp_path / "others" / "result.json") == before
    assert sorted(path.name for path in workspace.root.iterdir()) == sorted(toy.settings)


def test_all_that_would_be_thrown_away_is_named_before_anything_is(toy, workspace):
    toy.run(workspace)
    for name in ("second", "third"):
        workspace.record(toy.steps()[name], wall_seconds=90.0)
    toy.settings["first"] = 1
    with pytest.raises(
        DiscardError, match=r"^second \(2 min; settings .*\), third \(2 min; settings .*\) would be thrown away"
    ):
        toy.run(workspace)
    assert toy.computed == []


def test_what_comes_out_as_it_was_makes_nothing_to_be_thrown_away(toy, workspace):
    toy.run(workspace)
    workspace.record(toy.steps()["second"], wall_seconds=90.0)
    shutil.rmtree(workspace.root / "first")
    assert toy.run(workspace) == ["first"]
    # When it does not come out so, that is known only then.
    shutil.rmtree(workspace.root / "first")
    toy.more = 1
    with pytest.raises(DiscardError, match=r"^second \(2 min; settings .*\) would be thrown away"):
        toy.run(workspace)
    assert toy.computed == ["first"]


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_damage_is_found_said_and_made_good(toy, workspace, said, damage):
    toy.run(workspace)
    folder = workspace.root / "second"
    whole = (folder / "result.json").read_bytes()
    if damage == "changed":
        (folder / "result.json").write_bytes(whole[:-2] + b"9\n")
    else:
        (folder / "result.json").unlink()
    assert workspace.state(toy.steps()["second"]) == State.DAMAGED
    assert workspace.state(toy.steps()["third"]) == State.STALE
    assert workspace.state(toy.steps()["third"], with_inputs=False) == State.DONE
    # The result is the same again, so what depends on it is still good.
    assert toy.run(workspace) == ["second"]
    assert (folder / "result.json").read_bytes() == whole
    assert "result.json is damaged or missing" in said.getvalue()


def test_a_stopped_step_goes_on_from_its_checkpoint(toy, workspace, said, monkeypatch):
    monkeypatch.setattr(Workspace, "estimate", lambda self, step: 150.0 if step.name == "second" else 0.0)
    toy.fails = "second"
    with pytest.raises(RuntimeError, match="stopped here"):
        toy.run(workspace)
    assert workspace.state(toy.steps()["second"]) == State.UNFINISHED
    assert workspace.state(toy.steps()["third"]) == State.MISSING
    toy.fails = ""
    assert toy.run(workspace) == ["second", "third", "lone"]
    assert "second: continuing where it was stopped\nsecond: will take about 2 min" in said.getvalue()
    assert storage.read_json(workspace.root / "second/result.json")[1] == 7
    assert workspace.provenance(toy.steps()["second"])["continued_after_interruption"]
    assert sorted(path.name for path in (workspace.root / "second").iterdir()) == ["provenance.json", "result.json"]


def test_a_step_that_was_stopped_when_it_was_finished_leaves_no_progress(toy, workspace, monkeypatch):
    toy.fails = "second"
    with pytest.raises(RuntimeError, match="stopped here"):
        toy.run(workspace)
    toy.fails = ""
    folder = workspace.root / "second"
    (folder / "checkpoint-fits").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(steps.shutil, "rmtree", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            toy.run(workspace)
    assert workspace.state(toy.steps()["second"]) == State.DONE
    assert toy.run(workspace) == ["third", "lone"]
    assert sorted(path.name for path in folder.iterdir()) == ["provenance.json", "result.json"]


@pytest.mark.parametrize("change", ["setting", "version"])
def test_progress_made_under_another_setting_or_version_is_dropped(toy, workspace, change):
    toy.fails = "second"
    with pytest.raises(RuntimeError, match="stopped here"):
        toy.run(workspace)
    toy.fails = ""
    if change == "setting":
        toy.settings["second"] = 1
    else:
        started = workspace.root / "second/started.json"
        claim = storage.read_json(started)
        claim["versions"]["torch"] = "0.0"
        storage.write_json(started, claim)
    toy.run(workspace)
    assert storage.read_json(workspace.root / "second/result.json")[1] == 0


def test_provenance_says_what_was_done(toy, workspace):
    toy.run(workspace)
    record = json.loads((workspace.root / "second/provenance.json").read_text())
    second = toy.steps()["second"]
    assert record["step"] == "second"
    assert record["settings"] == {"value": 0, "seed": 3}
    assert record["seed"] == 3
    assert record["fingerprint"] == second.fingerprint
    assert record["inputs"].keys() == {"first"}
    assert record["files"] == {"result.json": storage.sha256(workspace.root / "second/result.json")}
    assert {"python", "torch", "numpy", "classfit"} <= record["versions"].keys()
    assert record["wall_seconds"] >= 0
    assert record["peak_memory_bytes"] > 1_000_000
    assert {"commit", "machine", "started"} <= record.keys()


def test_the_fingerprint_covers_name_settings_and_inputs(toy):
    plain = toy.steps()
    toy.settings["first"] = 1
    changed = toy.steps()
    assert plain["third"].fingerprint != changed["third"].fingerprint
    assert plain["lone"].fingerprint == changed["lone"].fingerprint
    assert len({step.fingerprint for step in plain.values()}) == len(plain)


@pytest.mark.parametrize(("seconds", "is_said"), [(59.0, False), (150.0, True)])
def test_long_steps_are_announced(toy, workspace, said, seconds, is_said):
    workspace.run([Step("long", {"value": 0}, toy.compute, estimate=lambda work: seconds)])
    assert ("long: will take about 2 min" in said.getvalue()) == is_said


HOLDER = """
import sys, time
from pathlib import Path
from paper_repro.steps import Workspace
with Workspace(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time_and_none_after_a_kill(workspace):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(workspace.root)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(BusyError, match=rf"process {holder.pid} .* is working in .*runs; wait for it"),
            workspace.lock(),
        ):
            pass
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    with workspace.lock():
        pass


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "numbers.json"
    storage.write_json(path, [1])

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        storage.write_json(path, [2])
    assert storage.read_json(path) == [1]
    assert [found.name for found in tmp_path.iterdir()] == ["numbers.json"]


def test_arrays_come_back_and_nothing_is_pickled(tmp_path):
    arrays = {"x": np.arange(6.0).reshape(2, 3), "names": np.array(["a", "Jamroż"]), "flag": np.array(True)}
    storage.write_arrays(tmp_path / "a.npz", arrays)
    storage.write_arrays(tmp_path / "b.npz", arrays)
    found = storage.read_arrays(tmp_path / "a.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with pytest.raises(ValueError, match="numbers or strings, got dtype object"):
        storage.write_arrays(tmp_path / "c.npz", {"bad": np.array([None])})
