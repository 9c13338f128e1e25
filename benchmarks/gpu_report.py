"""What was measured on a GPU, as a table for `kernels/README.md`, or what changed from one run to another.

    python -m benchmarks.gpu_report [FILE.json]         a table; by default of the newest stored run
    python -m benchmarks.gpu_report A.json B.json       B's times over A's; exit status 1 if one is above 1.15

Beside each time is what `performance_model.py` predicts for the same kernels, of the same version of Triton, on the GPU
of the same kind that it knows (an H200 is an H100 with more and faster memory), and how many times as long a peer takes
on the same card. Two runs are compared if their card, versions and shapes are the same.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import performance_model as model
from benchmarks.gpu import RESULTS

__all__ = ["changes", "main", "markdown", "newest", "published"]

PUBLISHED = "2026-11-27T043556_f344fe7.json"
"""The stored run whose table `kernels/README.md` has. A newer one changes nothing there until it is named here."""

ALLOWED = 1.15
PER_SWEEP = "Gibbs sweeps"
NO_SHAPES = ("repeats", "checked", "checked_features", "launches", "chain_groups", "matmul", "copied", "peer_points")
"""Sizes of a run that its timings of operations do not depend on."""


def newest() -> dict[str, Any]:
    """The newest stored run."""
    return json.loads(max(RESULTS.glob("*.json")).read_text())


def published() -> dict[str, Any]:
    """The stored run whose table `kernels/README.md` has."""
    return json.loads((RESULTS / PUBLISHED).read_text())


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, float], list[str]]:
    """How many times as long each operation takes as before, and the operations that are not timed any more.

    Raises:
        ValueError: the runs are of different cards, versions or shapes, or a check has failed.
    """
    for what in ("gpu", "versions", "sizes"):
        one, two = ({name: run[what][name] for name in run[what] if name not in NO_SHAPES} for run in (before, after))
        differ = [f"{name} {one[name]} and {two[name]}" for name in one if name in two and one[name] != two[name]]
        if differ:
            raise ValueError(f"the runs differ in {what}: {', '.join(differ)}")
    for run in (before, after):
        if not run["passed"]:
            raise ValueError(f"a check of the run of {run['date']} has failed: its times say nothing")
    earlier, now = ({f"{t['operation']} D={t['features']}": t["seconds"]["median"] for t in run["timings"]}
                    for run in (before, after))  # fmt: skip
    ratios = {name: seconds / earlier[name] for name, seconds in now.items() if name in earlier}
    return ratios, [name for name in earlier if name not in now]


def markdown(report: Mapping[str, Any]) -> str:
    """A row an operation and D."""
    name, version = report["gpu"]["name"], report["versions"]["triton"]
    known = model.like(name)
    heading = f"measured on one {name} (torch {report['versions']['torch'].split('+')[0]}, Triton {version})"
    predicted = f"predicted for {known}" if known else "predicted"
    lines = [
        f"| {heading} | D | median | {predicted} | of TF32 products | a peer takes |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for timing in report["timings"]:
        seconds, D = timing["seconds"]["median"], timing["features"]
        sweeps = timing["operation"].startswith(PER_SWEEP)
        operation = timing["operation"] + (f", {timing['components']:.1f} components" if sweeps else "")
        guess = _prediction(timing, known, version)
        # Three products of TF32 for one of float32.
        rate = 3 * timing.get("flops", 0.0) / seconds
        share = f"{rate / report['ceilings']['matmul_tf32']:.0%}" if timing["operation"] == "mixture density" else ""
        peers = model.peers_in_words(timing.get("peers", {}))
        took = model.in_words(seconds) if timing.get("proven", True) else "wrong answer"
        cells = (operation, str(D), took, model.in_words(guess) if guess else "", share, peers)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _prediction(timing: Mapping[str, Any], known: str | None, version: str) -> float | None:
    if known is None or version not in model.stored_versions():
        return None
    operation, D = timing["operation"], timing["features"]
    if operation == PER_SWEEP:
        shape = {
            "groups": timing["groups"],
            "group": timing["points"] // timing["groups"],
            "sweeps": timing["sweeps"],
            "components": round(timing["components"]),
        }
        return model.predict_gibbs(known, operation, D, shape).seconds
    if operation in model.SHAPES:
        return model.predict(known, model.load_kernels(version), operation, D).seconds
    return None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.json", help="one or two; default: the newest run")
    files = parser.parse_args(arguments).files
    if len(files) > 2:
        parser.error(f"one or two files, got {len(files)}")
    try:
        reports = [json.loads(file.read_text()) for file in files] or [newest()]
        if len(reports) == 1:
            print(markdown(reports[0]))
            return int(not reports[0]["passed"])
        ratios, gone = changes(*reports)
    except (OSError, ValueError, KeyError, TypeError) as problem:
        where = " and ".join(map(str, files or [RESULTS]))
        parser.error(f"no reports of `python -m benchmarks.gpu` to use in {where}: {problem!r}")
    for name, ratio in ratios.items():
        print(f"{name:32} {ratio:.2f}{'  REGRESSED' * (ratio > ALLOWED)}")
    print(f"Slower: {', '.join(name for name, ratio in ratios.items() if ratio > ALLOWED) or 'none'}; "
          f"not timed any more: {', '.join(gone) or 'none'}")  # fmt: skip
    return int(bool(gone) or any(ratio > ALLOWED for ratio in ratios.values()))


if __name__ == "__main__":
    sys.exit(main())
