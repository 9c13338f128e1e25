"""What was measured on a GPU, as a table for the README: `python -m benchmarks.gpu_report [FILE.json]`, the newest run.

Beside each time is what `performance_model.py` predicts for the same kernels, of the same version of Triton, on the GPU
of the same kind that it knows (an H200 is an H100 with more and faster memory), and how many times as long a peer takes
on the same card.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import performance_model as model
from benchmarks.gpu import RESULTS

__all__ = ["main", "markdown", "newest"]

LIKE = {"H200": "H100"}
"""GPUs whose kernels run as on another that the model knows."""

PER_SWEEP = "Gibbs sweeps"


def newest() -> dict[str, Any]:
    """The newest stored run."""
    return json.loads(max(RESULTS.glob("*.json")).read_text())


def markdown(report: Mapping[str, Any]) -> str:
    """A row an operation and D."""
    name, version = report["gpu"]["name"], report["versions"]["triton"]
    known = next((LIKE.get(part, part) for part in name.split() if LIKE.get(part, part) in model.GPUS), None)
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
        peers = "; ".join(
            f"{peer}: {found['ratio']:.3g} times as long" for peer, found in timing.get("peers", {}).items()
        )
        cells = (operation, str(D), model.in_words(seconds), model.in_words(guess) if guess else "", share, peers)
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE.json", help="default: the newest stored run")
    file = parser.parse_args().file
    try:
        report = json.loads(file.read_text()) if file else newest()
        print(markdown(report))
    except (OSError, ValueError, KeyError) as problem:
        parser.error(f"{file} is no report of `python -m benchmarks.gpu`: {problem!r}")


if __name__ == "__main__":
    main()
