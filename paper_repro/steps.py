"""Steps that are computed once: each has settings, inputs (other steps) and a folder with what it made.

A step may read nothing but its settings and the folders of its inputs. Its *fingerprint* is a hash of its settings and
of the fingerprints of its inputs, so a changed setting makes exactly the steps that depend on it stale. When a step is
finished, `provenance.json` is written last, with the hash of every file; without it, or if a hash differs, the step is
not finished. Files that were left out when results were kept are listed apart, with their hashes, so that what was made
from what can still be told. While a step runs, `started.json` names the fingerprint, and files called `checkpoint*` may
hold its progress: a killed step goes on from them.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from paper_repro.machine import peak_memory_bytes, reset_peak_memory, software
from paper_repro.storage import read_json, sha256, write_json

__all__ = [
    "ARCHIVE_ORDER",
    "WORTH_SAYING_SECONDS",
    "BusyError",
    "CannotError",
    "DiscardError",
    "KilledError",
    "State",
    "Step",
    "Work",
    "Workspace",
    "derived_seed",
]

PROVENANCE, STARTED = "provenance.json", "started.json"
BEGUN = "begun"
"""When an attempt was, in seconds since 1970, in its `started.json`."""
ARCHIVE_ORDER = "archive_order.npz"
"""Of the images, in the step `dataset`: no part of what they are."""
WORTH_SAYING_SECONDS = 60.0
"""A step that would take longer is announced with an estimate, and one that took longer is never thrown away."""


class State(StrEnum):
    DONE = "done"
    MISSING = "missing"
    UNFINISHED = "unfinished"
    STALE = "stale"
    DAMAGED = "damaged"
    KEPT = "kept in part"
    """Done, and then only some of its files were kept, on purpose (`paper_repro.keep`)."""


class BusyError(RuntimeError):
    """Another process works in the same folder."""


class DiscardError(RuntimeError):
    """What took long to compute would be thrown away."""


class KilledError(RuntimeError):
    """A process that shared the work was killed."""


class CannotError(ValueError):
    """A step cannot be computed as things are; the message says what to do. Others can. A result that it had with other
    settings or inputs is gone, if it was one of a minute or less."""


def derived_seed(seed: int, *names: object) -> int:
    """A seed of its own for each use, from the one seed of a run: 0..2^31 - 1."""
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


@dataclass(frozen=True)
class Work:
    """What the function of a step gets."""

    folder: Path
    """Where it writes its files."""
    settings: Mapping[str, Any]
    inputs: Mapping[str, Path]
    """Folder of each input, by the name of the step."""
    console: Console

    def input(self, kind: str) -> Path:
        """Folder of the one input whose name ends in `kind`, whatever folder it lies in."""
        (folder,) = (path for name, path in self.inputs.items() if name.rsplit("/", 1)[-1] == kind)
        return folder


@dataclass(frozen=True)
class Step:
    name: str
    """Also its folder within the workspace; may contain a slash."""
    settings: Mapping[str, Any]
    """JSON values; all that the result depends on, apart from the inputs."""
    compute: Callable[[Work], None]
    inputs: tuple["Step", ...] = ()
    estimate: Callable[[Work], float] | None = None
    """Wall seconds that `compute` would take, from timing a small part of it."""
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        described = [self.name, self.settings, [step.fingerprint for step in self.inputs]]
        fingerprint = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
        object.__setattr__(self, "fingerprint", fingerprint)

    @property
    def kind(self) -> str:
        """What it makes: the last part of its name, whatever folder it lies in."""
        return self.name.rsplit("/", 1)[-1]

    @property
    def seed(self) -> int | None:
        """Its own, or that of its inputs."""
        return self.settings.get("seed", next((step.seed for step in self.inputs), None))


class Workspace:
    """The folder that holds the folders of all steps of one profile."""

    def __init__(self, root: Path, console: Console | None = None) -> None:
        self.root = root
        self.console = console or Console(quiet=True)
        self._estimates: dict[str, float] = {}
        self._digests: dict[tuple[Path, int, int, int], str] = {}

    def folder(self, step: Step) -> Path:
        return self.root / step.name

    def provenance(self, step: Step) -> dict[str, Any] | None:
        """What is recorded of a finished step; None if there is no readable record."""
        try:
            record = read_json(self.folder(step) / PROVENANCE)
        except (OSError, ValueError):
            return None
        whole = isinstance(record, dict) and {"fingerprint", "files", "inputs"} <= record.keys()
        return record if whole else None

    def state(self, step: Step, *, with_inputs: bool = True) -> State:
        """Whether the step's files are all there, whole, and made with these settings from these inputs.

        with_inputs=False leaves the files of the inputs out of it (their settings still count), for a folder of figures
        without the steps that it was computed from. Inputs that are kept in part will do, by the hashes of all files.
        """
        return self._state(step, {} if with_inputs else None)

    def states(self, steps: Iterable[Step]) -> list[State]:
        """Of each; every file is read once."""
        known: dict[str, State] = {}
        return [self._state(step, known) for step in steps]

    def _state(self, step: Step, known: dict[str, State] | None) -> State:
        """`known`: states found before, by the names of steps; None leaves the files of inputs out of it."""
        if known is None:
            return self._find_state(step, None)
        if step.name not in known:
            known[step.name] = self._find_state(step, known)
        return known[step.name]

    def _find_state(self, step: Step, known: dict[str, State] | None) -> State:
        folder = self.folder(step)
        record = self.provenance(step)
        if record is None:
            if (folder / PROVENANCE).exists():
                return State.DAMAGED
            return State.UNFINISHED if (folder / STARTED).exists() else State.MISSING
        if self.damaged_files(step):
            return State.DAMAGED
        if record["fingerprint"] != step.fingerprint:
            return State.STALE
        if known is not None:
            for step_in in step.inputs:
                finished = self._state(step_in, known) in (State.DONE, State.KEPT)
                if not finished or record["inputs"].get(step_in.name) != self._digest(step_in):
                    return State.STALE
        return State.KEPT if record.get("left_out") else State.DONE

    def damaged_files(self, step: Step) -> list[str]:
        """Files of a finished step that are gone or differ from what was written."""
        folder, record = self.folder(step), self.provenance(step)
        files = record["files"] if record else {}
        return [name for name, digest in files.items() if not self._matches(folder / name, digest)]

    def run(self, targets: Iterable[Step], *, kept: bool = False) -> list[Step]:
        """Bring the targets, and all they depend on, up to date; returns the steps that had to be computed.

        Args:
            targets: what is wanted.
            kept: steps kept in part count as done: the targets read nothing of them.

        Raises:
            DiscardError: some are finished, or begun, with other settings, inputs or versions, or are damaged, and took
                longer than a minute.
            CannotError: some cannot be computed; all that does not need them has been.
        """
        targets = list(targets)
        self._refuse_to_discard(self.to_do(targets, kept=kept))
        computed: list[Step] = []
        finished: set[str] = set()
        failed: dict[str, CannotError] = {}
        for step in targets:
            self._ensure(step, finished, computed, failed, kept)
        if failed:
            raise CannotError("\n".join(dict.fromkeys(map(str, failed.values()))))
        return computed

    def to_do(self, targets: Iterable[Step], *, kept: bool = False) -> list[Step]:
        """The steps that `run` would compute, each after its inputs; `kept`: steps kept in part count as done."""
        finished: dict[str, bool] = {}
        left: list[Step] = []

        def visit(step: Step) -> bool:
            if step.name not in finished:
                ready = all([visit(step_in) for step_in in step.inputs])
                finished[step.name] = ready and self._is_done(step, kept=kept)
                if not finished[step.name]:
                    left.append(step)
            return finished[step.name]

        for step in targets:
            visit(step)
        return left

    def estimate(self, step: Step) -> float:
        """Seconds that a step, whose inputs are finished, would take, timed once; 0 if it cannot tell."""
        if step.estimate is None:
            return 0.0
        if step.fingerprint not in self._estimates:
            try:
                self._estimates[step.fingerprint] = step.estimate(self.work(step))
            except CannotError:  # said when it is its turn
                return 0.0
        return self._estimates[step.fingerprint]

    def join(self, step: Step) -> Work | None:
        """Bring the inputs of a step up to date and make its folder ready for progress that several processes share.

        To be called under the lock; what follows need not be. None if the step is finished.
        """
        self.run(step.inputs)
        return None if self.state(step) == State.DONE else self._open(step)

    def record(self, step: Step, /, **changes: Any) -> None:
        """Write the provenance of a finished step anew, with the hashes of its files as they are now."""
        folder = self.folder(step)
        previous = self.provenance(step) or {}
        files = {path.name: self._sha256(path) for path in sorted(folder.iterdir()) if _is_result(path)}
        write_json(folder / PROVENANCE, {**previous, **changes, "files": files})

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the workspace for this process; the system lets go of it when the process ends, however it does.

        Raises:
            BusyError: another process holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise BusyError(f"{holder} is working in {self.root}; wait for it, or use another --runs-dir") from None
            file.seek(0)
            file.truncate()
            file.write(f"process {os.getpid()} (since {datetime.now().astimezone():%d %b %H:%M:%S})")
            file.flush()
            yield

    def _ensure(
        self, step: Step, finished: set[str], computed: list[Step], failed: dict[str, CannotError], kept: bool
    ) -> CannotError | None:
        """Returns why it cannot be computed, if so."""
        if step.name in finished:
            return failed.get(step.name)
        # All of them: what one lacks does not keep the others from being finished.
        errors = [self._ensure(step_in, finished, computed, failed, kept) for step_in in step.inputs]
        if behind := list(filter(None, errors)):
            failed[step.name] = behind[0]
        elif not self._is_up_to_date(step, kept):
            try:
                if partial := [s.name for s in step.inputs if kept and self.state(s, with_inputs=False) == State.KEPT]:
                    raise CannotError(f"{step.name} needs files of {', '.join(partial)} that were not kept")
                self._compute(step)
                computed.append(step)
            except CannotError as error:
                self.console.print(f"[red]✗[/] {step.name}: {escape(str(error))}", soft_wrap=True)
                failed[step.name] = error
        elif (self.folder(step) / STARTED).exists():  # stopped when it was finished, but for this
            _clear(self.folder(step))
        finished.add(step.name)
        return failed.get(step.name)

    def _is_up_to_date(self, step: Step, kept: bool) -> bool:
        """As `state`, knowing that the inputs are finished; says why if not."""
        if self._is_done(step, kept=kept):
            return True
        state = self.state(step, with_inputs=False)
        if state == State.DONE:
            state = State.STALE
        if state == State.DAMAGED:
            names = ", ".join(self.damaged_files(step)) or PROVENANCE
            self.console.print(f"[yellow]{step.name}: {names} is damaged or missing; computing it again[/]")
        elif state == State.STALE:
            self.console.print(f"{step.name}: settings or inputs have changed")
        elif state == State.KEPT:
            self.console.print(f"{step.name}: not all of its files were kept; computing it again")
        return False

    def _is_done(self, step: Step, *, kept: bool = False) -> bool:
        """Knowing that the inputs are finished."""
        record, state = self.provenance(step) or {}, self.state(step, with_inputs=False)
        finished = state == State.DONE or (kept and state == State.KEPT)
        return finished and record["inputs"] == self._input_digests(step)

    def say_how_long(self, what: str, seconds: float) -> None:
        """If it is worth saying."""
        if seconds > WORTH_SAYING_SECONDS:
            self.console.print(f"{what}: will take about {seconds / 60:.0f} min (from a timed part of it)")

    def _compute(self, step: Step) -> None:
        work = self._open(step)
        folder = work.folder
        # An attempt that was stopped: there are checkpoints, or it had worked for long and finished files.
        continued = any(folder.glob("checkpoint*")) or _seconds_of_attempt(folder) > WORTH_SAYING_SECONDS
        if continued:
            self.console.print(f"{step.name}: continuing where it was stopped")
        self.say_how_long(step.name, self.estimate(step))
        started_at, start = datetime.now(UTC), time.perf_counter()
        reset_peak_memory()
        step.compute(work)
        seconds, memory = time.perf_counter() - start, peak_memory_bytes()
        self.record(
            step,
            step=step.name,
            settings=step.settings,
            seed=step.seed,
            **self.claim(step),
            started=started_at.isoformat(timespec="seconds"),
            continued_after_interruption=continued,
            wall_seconds=round(seconds, 3),
            peak_memory_bytes=memory,
            **software(),
        )
        _clear(folder)
        self.console.print(f"[green]✓[/] {step.name}  [dim]{seconds:.1f} s, {memory / 1e6:,.0f} MB[/]")

    def _open(self, step: Step) -> Work:
        """The step's folder, ready to be worked in."""
        self._refuse_to_discard([step])
        # Progress made by other versions is not gone on with: they may take other steps from the same state.
        self._prepare(self.folder(step), {**self.claim(step), "versions": software()["versions"]})
        return self.work(step)

    def work(self, step: Step) -> Work:
        """What its function gets."""
        inputs = {step_in.name: self.folder(step_in) for step_in in step.inputs}
        return Work(self.folder(step), step.settings, inputs, self.console)

    def _refuse_to_discard(self, steps: list[Step]) -> None:
        """Of steps that are about to be computed, as far as it is known before their inputs are."""
        names, lost = {step.name for step in steps}, []
        for step in steps:
            state = self.state(step, with_inputs=False)
            if state == State.MISSING and any(self.folder(step).glob("checkpoint*")):
                raise DiscardError(
                    f"{self.folder(step)} holds checkpoints that nothing here has begun: move them away, begin the "
                    "step, then put them back"
                )
            started = _read_or_none(self.folder(step) / STARTED) if state == State.UNFINISHED else None
            record = started or self.provenance(step) or {}
            if state == State.DAMAGED and not record:
                lost.append(f"{step.name} (nobody knows how long; damaged: {PROVENANCE})")
            if state == State.UNFINISHED and not record and _progress(self.folder(step)):
                lost.append(f"{step.name} (nobody knows how long, unfinished; damaged: {STARTED})")
            if not record or record.get("left_out"):
                continue
            inputs_known = names.isdisjoint(step_in.name for step_in in step.inputs)
            why = self._why_not(step, record, inputs_known=inputs_known)
            if not why and state == State.DAMAGED:
                why = f"damaged or missing: {', '.join(self.damaged_files(step))}"
            if not why:
                continue
            # The time of a step that was continued is only that since then.
            continued = record.get("continued_after_interruption", False)
            seconds = _seconds_of_attempt(self.folder(step)) if started else record["wall_seconds"]
            if seconds > WORTH_SAYING_SECONDS or continued:
                what = ", unfinished" if started else " since it was continued" if continued else ""
                lost.append(f"{step.name} ({seconds / 60:.0f} min{what}; {why})")
        if lost:
            raise DiscardError(
                f"{', '.join(lost)} would be thrown away and computed again. Use another --runs-dir, or remove from "
                f"{self.root} what may go"
            )

    def _why_not(self, step: Step, record: Mapping[str, Any], *, inputs_known: bool) -> str:
        """Why a finished step, or progress, is not what would be computed now; "" if it is."""
        other_inputs = inputs_known and record.get("inputs") != self._input_digests(step)
        if record.get("fingerprint") != step.fingerprint or other_inputs:
            return "settings or inputs have changed since"
        # What is finished stays, whatever it was made with; progress is gone on with by the same versions alone.
        before, now = _versions(record), _versions(software())
        if "files" in record or before == now:
            return ""
        return "begun with " + ", ".join(f"{name} {before.get(name)}" for name in now if before.get(name) != now[name])

    def claim(self, step: Step) -> dict[str, Any]:
        """What a result of the step says that it was made with: its settings and its inputs as they are now."""
        return {"fingerprint": step.fingerprint, "inputs": self._input_digests(step)}

    def _prepare(self, folder: Path, claim: dict[str, Any]) -> None:
        """Make the folder ready: empty, unless it holds the progress of the same step."""
        started = _read_or_none(folder / STARTED)
        if not (folder / PROVENANCE).exists() and started and _comparable(started) == _comparable(claim):
            return
        # In one move: whatever is left if this is stopped cannot be taken for progress.
        gone = folder.with_name(f".{folder.name}.tmp")
        for path in (gone, folder):
            if path.is_symlink():  # what it leads to may be another run's, and stays
                path.unlink()
        shutil.rmtree(gone, ignore_errors=True)
        if folder.exists():
            folder.rename(gone)
            shutil.rmtree(gone)
        folder.mkdir(parents=True)
        write_json(folder / STARTED, {**claim, BEGUN: time.time()})

    def _digest(self, step: Step) -> str:
        """One hash for all files of a finished step, those that were left out of what is kept included.

        Not for pictures and tables of figures: they are drawn from the numbers, by other versions to other bytes. Nor
        for the order that the images had in an archive: other forms of the same dataset have none.
        """
        record = self.provenance(step) or {"files": {}}
        files = {**record["files"], **record.get("left_out", {})}
        passed = (".svg", ".png", ARCHIVE_ORDER)
        numbers = {n: digest for n, digest in files.items() if not n.endswith(passed) and not n.startswith("figure_")}
        return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()

    def _input_digests(self, step: Step) -> dict[str, str]:
        return {step_in.name: self._digest(step_in) for step_in in step.inputs}

    def _matches(self, path: Path, digest: str) -> bool:
        return path.is_file() and self._sha256(path) == digest

    def _sha256(self, path: Path) -> str:
        """Of a file as it is; it is read once, and again when it has changed."""
        found = path.stat()
        key = path, found.st_size, found.st_mtime_ns, found.st_ino
        if key not in self._digests:
            self._digests[key] = sha256(path)
        return self._digests[key]


def _versions(record: Mapping[str, Any]) -> dict[str, str]:
    """Of what steps are computed with."""
    found = dict(record.get("versions", {}))
    found.pop("matplotlib", None)
    found["python"] = ".".join(str(found.get("python")).split(".")[:2])
    return found


def _comparable(claim: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in claim.items() if name != BEGUN} | {"versions": _versions(claim)}


def _seconds_of_attempt(folder: Path) -> float:
    """From the start of an attempt that did not finish to the last file that it did; 0 if there is none.

    In a copy the files are all of the same time, and a clock may have been put back: rather too long than too short.
    """
    try:
        written = (folder / STARTED).stat().st_mtime
    except OSError:
        return 0.0
    begun = (_read_or_none(folder / STARTED) or {}).get(BEGUN, written)
    return max((abs(path.stat().st_mtime - begun) for path in _progress(folder)), default=0.0)


def _progress(folder: Path) -> list[Path]:
    """What an attempt that did not finish has made."""
    return [path for path in folder.iterdir() if path.name != STARTED and not _is_temporary(path)]


def _clear(folder: Path) -> None:
    """Away with the progress of a finished step; the record of its start goes last: while it is there, more may be."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == STARTED):
        if path.is_dir() and path.name.startswith("checkpoint"):
            shutil.rmtree(path)
        elif path.name.startswith(("checkpoint", STARTED)) or _is_temporary(path):
            path.unlink(missing_ok=True)  # a shard that still works moves its own


def _is_result(path: Path) -> bool:
    return not (path.name.startswith(("checkpoint", PROVENANCE, STARTED)) or _is_temporary(path))


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _read_or_none(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None
