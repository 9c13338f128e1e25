"""Has an operation become slower? Times this tree and an earlier commit in turns, in one job.

    python -m benchmarks.check [BASE] [--new OPERATION ...]

BASE is a commit. By default it is that of the newest stored run, so that many small losses add up to one that is seen.
What does not run there, or all if this clone has no such commit, is compared with the last one (with no changes, the
one before).

Each tree has a process of its own that imports `kernels` and `classfit` from there (BASE from a copy in a temporary
folder, with its own compiled code); the operations are those of `benchmarks.workload` in this tree, for both. The exit
status is 1 if an operation is slower by more than 15% in two series of measurements in a row, or if one could not be
compared and is not named as new.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

__all__ = ["Outcome", "bases_of", "compare_trees", "judge", "main", "slowdown"]

ALLOWED = 1.15
MIN_ROUNDS = 15
SECONDS = 3.0
"""A series of rounds goes on for so long."""
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"

Pairs = Sequence[tuple[float, ...]]
"""(this tree, BASE) seconds, one pair a round."""


class Outcome(NamedTuple):
    operation: str
    ratios: list[float]
    """Of this tree's time to BASE's: one series, or two if the first was past the limit; none without a BASE."""
    regressed: bool
    base: str = ""
    """The commit that it was compared with, or why with none."""


def slowdown(pairs: Pairs) -> float:
    """Median over rounds of the ratio within a round: what slows both trees down does not show."""
    return statistics.median(current / base for current, base in pairs)


def judge(operation: str, measure: Callable[[str], Pairs]) -> Outcome:
    """Measure, and measure again if it looks slower: a regression has to show twice in a row."""
    ratios = [slowdown(measure(operation))]
    if ratios[0] > ALLOWED:
        ratios.append(slowdown(measure(operation)))
    return Outcome(operation, ratios, all(ratio > ALLOWED for ratio in ratios))


class Tree:
    """A process that runs operations of one tree, one at a time, when it is told to."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.workload", str(folder)],
            cwd=ROOT,
            # Threads that have nothing to do must not spin while the other tree is timed.
            env={**os.environ, "OMP_WAIT_POLICY": "passive", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, request: str) -> str:
        """One line there, one line back."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if not answer:
            raise RuntimeError(f"the process that was asked to {request} has died with status {self.process.wait()}")
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare_trees(tree: Path, bases: Mapping[str, Path], cache: Path) -> Iterator[Outcome]:
    """Every operation, as it is measured, in a tree and in the first of the bases (by commit) in which it runs."""
    with ExitStack() as stack:
        current = Tree(tree, {})
        earlier = {name: Tree(base, {"NUMBA_CACHE_DIR": str(cache / name)}) for name, base in bases.items()}
        for started in (current, *earlier.values()):
            stack.callback(started.close)

        for operation in current.ask("list").split():
            # All compile and warm up before any is timed.
            if (ready := current.ask(f"prepare {operation}")) != "ready":
                raise RuntimeError(f"{operation} does not run in this tree: {ready}")
            why_not = {}
            for name, base in earlier.items():
                if (ready := base.ask(f"prepare {operation}")) == "ready":
                    yield judge(operation, partial(in_turns, trees=(current, base)))._replace(base=name)
                    break
                why_not[name] = ready
            else:
                reasons = "; ".join(f"{name}: {reason}" for name, reason in why_not.items())
                yield Outcome(operation, [], False, reasons)


def in_turns(operation: str, trees: Sequence[Tree]) -> Pairs:
    """A series of rounds."""
    pairs: list[tuple[float, ...]] = []
    while len(pairs) < MIN_ROUNDS or sum(map(sum, pairs)) < SECONDS:
        pairs.append(tuple(float(tree.ask(f"time {operation}")) for tree in trees))
    return pairs


def bases_of(name: str | None) -> list[str]:
    """The commits to compare with, the first that an operation runs in counts; none if there is no earlier one.

    Raises:
        ValueError: the name is of no commit.
    """
    if name is not None:
        commit = _commit(name)
        if commit is None:
            raise ValueError(f"{name} is no commit of {ROOT}")
        return [commit]
    changes = bool(_git("status", "--porcelain", "--untracked-files=no"))
    # Runs of trees with changes have no commit to go back to; their names say so.
    stored = [path.stem for path in RESULTS.glob("*T*_*.json") if not path.stem.endswith("-changed")]
    names = [max(stored).split("_")[1]] if stored else []
    names.append("HEAD" if changes else "HEAD~1")
    this_tree = None if changes else _commit("HEAD")
    return list(dict.fromkeys(commit for name in names if (commit := _commit(name)) not in (None, this_tree)))


def _commit(name: str) -> str | None:
    """Its id, or None if there is none of that name."""
    return _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") or None


def extract(commit: str, folder: Path) -> None:
    """The files of a commit."""
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", "--format=tar", commit], check=True, capture_output=True
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")


def _git(*arguments: str) -> str:
    """Output of a git command, empty if it fails."""
    try:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fail if an operation is slower than at an earlier commit.")
    parser.add_argument("base", nargs="?", help="commit to compare with; default: that of the newest stored run")
    parser.add_argument("--new", nargs="+", default=[], metavar="OPERATION", help="may be missing in BASE")
    options = parser.parse_args(arguments)
    try:
        commits = bases_of(options.base)
    except ValueError as problem:
        parser.error(str(problem))
    if not commits:
        print("There is no earlier commit to compare with: nothing is checked, and that passes.")
        return 0
    against = ", or ".join(commit[:10] for commit in commits)
    print(f"This tree against {against}: ratio of times, median over rounds, allowed {ALLOWED}", flush=True)
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        bases = {commit[:10]: Path(folder) / commit for commit in commits}
        for commit, base in zip(commits, bases.values(), strict=True):
            extract(commit, base)
        for outcome in compare_trees(ROOT, bases, Path(folder) / "numba"):
            outcomes.append(outcome)
            ratios = ", again ".join(f"{ratio:.2f}" for ratio in outcome.ratios) or "not compared"
            print(f"{outcome.operation:36} {ratios} ({outcome.base}){'  REGRESSED' * outcome.regressed}", flush=True)
    unchecked = [outcome.operation for outcome in outcomes if not outcome.ratios]
    regressed = [outcome.operation for outcome in outcomes if outcome.regressed]
    found = f"{len(outcomes)} operations; slower: {', '.join(regressed) or 'none'}; not compared: "
    print(found + (", ".join(unchecked) or "none"))
    return int(bool(regressed) or not set(unchecked) <= set(options.new))


if __name__ == "__main__":
    sys.exit(main())
