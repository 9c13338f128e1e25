"""Results that stay in the repository: figures, scorecards, tables, provenance; not what they were computed from.

A kept folder is a workspace whose steps are either whole (figures, scorecard, table of classes, and, if they are small,
networks and the trials of memorization) or kept in part (the rest): of those the report reads a few small files, and
the provenance has the hashes of the others, so that what was made from what can still be checked. `paper-repro draw
--runs-dir` redraws figures and report from it, and a run that begins from a copy of it does not train those again.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from paper_repro.pipeline import Pipeline, run_folder
from paper_repro.profiles import PROFILES, Profile
from paper_repro.report import write_reports
from paper_repro.steps import PROVENANCE, State, Step, Workspace
from paper_repro.storage import write_json

__all__ = ["LIMIT_BYTES", "KeepError", "Kept", "KeptRun", "default_folder", "keep", "kept_runs"]

LIMIT_BYTES = 10_000_000
"""Of all that is kept but what was trained: it lies in the repository for good."""
TRAINED_BYTES = 6_000_000
"""Networks, and the trials of memorization, are kept beside it if each is up to this size: they take longest."""
LETTERS = {"cifar100-laptop": "A", "cifar100-resnet18": "B", "cifar100-laptop-resnet50": "R"}
"""Of the profiles whose runs the repository keeps."""
FILES = {"dataset": ("dataset.json",), "network": ("network.json", "history.csv")}
"""What the report reads of steps that are kept in part, by the last part of their names."""


class KeepError(ValueError):
    """What is there cannot be kept."""


class Kept(NamedTuple):
    folder: Path
    n_bytes: int
    protocols: dict[str, list[str]]
    """Figures by folder of the protocol."""
    left_out: dict[str, list[str]]
    """Figures, scorecards and tables that have not been computed, likewise."""

    def lines(self) -> list[str]:
        """What to say of it."""
        found = []
        for name, figures in self.protocols.items():
            missing = self.left_out[name]
            found.append(f"{name}: {len(figures)} figures" + (f"; not run: {', '.join(missing)}" if missing else ""))
        return [*found, f"Kept {self.n_bytes / 1e6:.1f} MB in"]


class KeptRun(NamedTuple):
    folder: Path
    profile: Profile
    seed: int

    @property
    def title(self) -> str:
        """With the letter that README and FINDINGS call the network by, and the seed, if it is another than 0."""
        letter, seed = LETTERS.get(self.profile.name), str(self.seed or "")
        return (f"{letter}{seed}: " if letter else "") + self.profile.title + (f", seed {seed}" if seed else "")


def kept_runs(results: Path) -> list[KeptRun]:
    """What `keep` left in the folder, in the order of `paper-repro list`, each profile's seeds in theirs."""
    found = []
    for folder in results.iterdir() if results.is_dir() else ():
        name, _, digits = folder.name.partition("-seed")
        seed = int(digits) if digits.isdecimal() else 0
        if name in PROFILES and folder.name == run_folder(name, seed):
            found.append(KeptRun(folder, PROFILES[name], seed))
    order = list(PROFILES)
    return sorted(found, key=lambda run: (order.index(run.profile.name), run.seed))


def default_folder() -> Path:
    """`paper_repro/results` of the checkout.

    Raises:
        KeepError: the package does not lie in one.
    """
    package = Path(__file__).resolve().parent
    if not (package.parent / "pyproject.toml").is_file():
        raise KeepError(f"{package} is not in a checkout of the project: say where to keep results, --into FOLDER")
    return package / "results"


def keep(workspace: Workspace, pipelines: Sequence[Pipeline], folder: Path, limit: int = LIMIT_BYTES) -> Kept:
    """Copy what is finished and up to date; the folder is replaced as a whole, or left as it was.

    Args:
        workspace: of the run, locked.
        pipelines: of one profile, by protocol; those without a finished figure are left out.
        folder: where to keep it.
        limit: most bytes in all, but for networks and the trials of memorization.

    Raises:
        KeepError: no finished figure, something out of date or damaged, or more bytes than the limit.
    """
    folder = folder.resolve()  # a link stays one
    _check_replaceable(folder, pipelines[0].dataset)
    copy, previous = (folder.with_name(f".{folder.name}.{kind}") for kind in ("new", "old"))
    if previous.exists() and not folder.exists():  # stopped between the two moves below
        previous.rename(folder)
    for left in (copy, previous):
        shutil.rmtree(left, ignore_errors=True)
    kept: dict[str, list[str]] = {}
    missing: dict[str, list[str]] = {}
    written = Workspace(copy)
    try:
        for pipeline in pipelines:
            finished, not_run = _finished(workspace, pipeline)
            figures = [name for name, step in pipeline.figures.items() if step.name in finished]
            if figures:
                trained = [step for step in _trained(pipeline) if step.name in finished]
                small = [step for step in trained if _bytes(workspace, step) <= TRAINED_BYTES]
                whole = {step.name for step in (*_whole(pipeline), *small)}
                kept[pipeline.folder], missing[pipeline.folder] = figures, not_run
                for step in pipeline.steps:
                    if step.name in finished:
                        _copy(workspace, written, step, whole=step.name in whole)
        if not kept:
            raise KeepError(f"there is nothing to keep: no figure is finished in {workspace.root}")
        write_reports(written, [pipeline for pipeline in pipelines if pipeline.folder in kept])
        n_bytes = _check_size(copy, limit, apart={step.name for step in _trained(pipelines[0])})
        if folder.exists():
            folder.rename(previous)
        copy.rename(folder)
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    shutil.rmtree(previous, ignore_errors=True)
    return Kept(folder, n_bytes, kept, missing)


def _check_replaceable(folder: Path, dataset: Step) -> None:
    """That nothing but kept results would be lost."""
    if folder.exists() and any(folder.iterdir()):
        record = Workspace(folder).provenance(dataset) or {}
        if not record.get("left_out"):
            raise KeepError(
                f"{folder} holds something else than kept results, and would be replaced: name another --into"
            )


def _whole(pipeline: Pipeline) -> list[Step]:
    """The steps of which every file is kept."""
    return [*pipeline.figures.values(), pipeline.classes, pipeline.scorecard]


def _trained(pipeline: Pipeline) -> list[Step]:
    """The steps that are hours of training, and small."""
    memorization = pipeline.robustness.get("memorization")
    return [*pipeline.networks, *([memorization] if memorization else [])]


def _bytes(workspace: Workspace, step: Step) -> int:
    record = workspace.provenance(step) or {"files": {}}
    return sum((workspace.folder(step) / name).stat().st_size for name in record["files"])


def _finished(workspace: Workspace, pipeline: Pipeline) -> tuple[set[str], list[str]]:
    """Names of the steps that are up to date, and of figures and tables that have not been computed."""
    behind = {step.name for step in workspace.to_do(pipeline.steps, kept=True)}
    not_run = []
    for step in _whole(pipeline):
        if step.name not in behind:
            continue
        if workspace.state(step, with_inputs=False) not in (State.MISSING, State.UNFINISHED):
            raise KeepError(
                f"{step.name} in {workspace.root} is not up to date; bring it up to date "
                f"({pipeline.command('run', workspace.root.parent)}), remove its folder, or keep another --protocol"
            )
        not_run.append(step.kind)
    return {step.name for step in pipeline.steps} - behind, not_run


def _copy(source: Workspace, target: Workspace, step: Step, *, whole: bool) -> None:
    record = source.provenance(step)
    if record is None:
        raise KeepError(f"{step.name} in {source.root} has changed while it was copied")
    files: dict[str, str] = record["files"]
    chosen = files.keys() if whole else FILES.get(step.kind, ())
    from_folder, folder = source.folder(step), target.folder(step)
    folder.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        shutil.copyfile(from_folder / name, folder / name)
    # What an earlier keep left out stays left out: a run may begin from kept results and add to them.
    left_out = record.get("left_out", {}) | {name: digest for name, digest in files.items() if name not in chosen}
    parts = {"files": {name: files[name] for name in chosen}} | ({"left_out": left_out} if left_out else {})
    write_json(folder / PROVENANCE, {**record, **parts})


def _check_size(folder: Path, limit: int, apart: set[str]) -> int:
    """Bytes in all, those of the steps apart too, which do not count for the limit."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    n_bytes = sum(sizes.values())
    sizes = {name: size for name, size in sizes.items() if name.rpartition("/")[0] not in apart}
    total = sum(sizes.values())
    if total > limit:
        largest = sorted(sizes.items(), key=lambda item: -item[1])[:5]
        words = ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in largest)
        raise KeepError(
            f"{total / 1e6:.1f} MB are more than the {limit / 1e6:g} MB that may be kept; the largest: {words}. "
            "Keep one --protocol, or fewer figures"
        )
    return n_bytes
