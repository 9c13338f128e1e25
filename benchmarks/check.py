"""Has an operation become slower? Times this tree and an earlier commit in turns, in one job.

    python -m benchmarks.check [BASE]        BASE: a commit; by default the last one, or with no changes the one before

Each tree has a process of its own that imports `kernels` and `classfit` from there (BASE from a copy in a temporary
folder, with its own compiled code); the operations are those of `benchmarks.workload` in this tree, for both. The exit
status is 1 if an operation is slower by more than 15% in two series of measurements in a row.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

__all__ = ["Outcome", "judge", "main", "slowdown"]

ALLOWED = 1.15
MIN_ROUNDS = 15
SECONDS = 3.0
"""A series of rounds goes on for so long."""
ROOT = Path(__file__).resolve().parents[1]

Pairs = Sequence[tuple[float, ...]]
"""(this tree, BASE) seconds, one pair a round."""


class Outcome(NamedTuple):
    operation: str
    ratios: list[float]
    """Of this tree's time to BASE's: one series, or two if the first was past the limit."""
    regressed: bool


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


def compare_trees(base: Path, cache: Path) -> Iterator[Outcome]:
    """Every operation that both trees have, as it is measured."""
    with ExitStack() as stack:
        trees = [Tree(ROOT, {}), Tree(base, {"NUMBA_CACHE_DIR": str(cache)})]
        for tree in trees:
            stack.callback(tree.close)

        def measure(operation: str) -> list[tuple[float, ...]]:
            pairs: list[tuple[float, ...]] = []
            while len(pairs) < MIN_ROUNDS or sum(map(sum, pairs)) < SECONDS:
                pairs.append(tuple(float(tree.ask(f"time {operation}")) for tree in trees))
            return pairs

        for operation in trees[0].ask("list").split():
            # Both compile and warm up before either is timed.
            ready, base_ready = (tree.ask(f"prepare {operation}") for tree in trees)
            if ready != "ready":
                raise RuntimeError(f"{operation} does not run in this tree: {ready}")
            if base_ready == "ready":
                yield judge(operation, measure)
            else:
                print(f"{operation:28} does not run in BASE ({base_ready})", flush=True)


def commit_of(name: str | None) -> str | None:
    """The commit to compare with, or None if there is none."""
    if name is None:
        name = "HEAD" if _git("status", "--porcelain", "--untracked-files=no") else "HEAD~1"
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


def main() -> int:
    parser = argparse.ArgumentParser(description="Fail if an operation is slower than at an earlier commit.")
    parser.add_argument("base", nargs="?", help="commit to compare with")
    commit = commit_of(parser.parse_args().base)
    if commit is None:
        print("There is no earlier commit to compare with: nothing is checked, and that passes.")
        return 0
    print(f"This tree against {commit[:10]}: ratio of times, median over rounds, allowed {ALLOWED}", flush=True)
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        extract(commit, Path(folder) / "base")
        for outcome in compare_trees(Path(folder) / "base", Path(folder) / "numba"):
            outcomes.append(outcome)
            ratios = ", again ".join(f"{ratio:.2f}" for ratio in outcome.ratios)
            print(f"{outcome.operation:28} {ratios}{'  REGRESSED' * outcome.regressed}", flush=True)
    if not outcomes:
        print("BASE has none of the operations: nothing is checked, and that passes.")
    return int(any(outcome.regressed for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
