"""What the paper-sized profiles would cost on four GPUs, step by step: predictions, not measurements.

    python -m benchmarks.gpu_hours [--profile NAME] [--store]

What is counted and what is assumed: `benchmarks.step_costs`.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import step_costs
from benchmarks.performance_model import GPUS, LAUNCH_SECONDS
from benchmarks.record import RESULTS
from benchmarks.report import HOURS
from benchmarks.roofline import MEASURED, PEAKS, shares
from benchmarks.step_costs import PROFILE_NAMES
from classfit.storage import replacing
from paper_repro.profiles import PROFILES

__all__ = ["main", "markdown", "predictions", "read", "totals"]

Stored = Mapping[str, Any]

ROWS = {
    "network": "residual network",
    "convnet/network": "plain ConvNet",
    "vit/network": "ViT-B/16, fine-tuning",
    "mixer/network": "Mixer-B/16, fine-tuning",
    "representations": "representations",
    "memorization": "memorization",
    "density_bins": "networks without a density bin",
    "certification": "certification",
    "attacks": "attacks",
    "posterior": "posteriors of {} layers",
    "relative_entropy": "relative entropies of {} stages",
    "kl_by_stage": "KL by stage",
    "kl_at_other_dimensions": "KL by stage at equal dimensions",
    "generative": "generative classification",
    "controls": "controls of figure 1",
}
"""Of the table, by the step's name or the start of its kind."""


def predictions(names: Sequence[str] = PROFILE_NAMES) -> dict[str, Any]:
    """All that is stored: the costs of every step under the protocol `paper`, and what they rest on."""
    return {
        "what": "predictions, not measurements: see benchmarks/step_costs.py",
        "torch": torch.__version__,
        "peaks": {
            name: {"single": gpu.single, "memory": gpu.memory, **PEAKS[name]._asdict()} for name, gpu in GPUS.items()
        },
        "measured": {name: known._asdict() for name, known in MEASURED.items()},
        "share_of_best_case": shares(),
        "launch_seconds": LAUNCH_SECONDS,
        "components": step_costs.COMPONENTS,
        "processor": {"machine": step_costs.machine(), "seconds": step_costs.processor_rates()},
        "networks": {name: step_costs.networks(PROFILES[name]) for name in names},
        "profiles": {name: [cost._asdict() for cost in step_costs.costs(PROFILES[name])] for name in names},
    }


def read() -> dict[str, Any]:
    """The stored predictions."""
    return json.loads((RESULTS / HOURS).read_text())


def markdown(stored: Stored, profile: str) -> str:
    """A table for `benchmarks/README.md`: a row a step, or several alike, with best and likely hours on each GPU."""
    lines = [
        f"| {profile}: predicted hours | EFLOP | " + " | ".join(GPUS) + " | two cores |",
        "| --- |" + " ---: |" * (len(GPUS) + 2),
    ]
    found = stored["profiles"][profile]
    for row, words in ROWS.items():
        own = [cost for cost in found if _row_of(cost["step"]) == row]
        lines.append(_line(words.format(len(own)), own))
    on_gpu = [cost for cost in found if not cost["processor_hours"]]
    lines.append(_line("**all networks**", on_gpu))
    return "\n".join(lines)


def totals(stored: Stored) -> str:
    """A table for `benchmarks/README.md`: all networks of each profile, and its densities without a GPU."""
    lines = ["| all networks of | EFLOP | " + " | ".join(GPUS) + " | densities, two cores |"]
    lines.append("| --- |" + " ---: |" * (len(GPUS) + 2))
    for profile, found in stored["profiles"].items():
        cells = _cells([cost for cost in found if not cost["processor_hours"]])
        on_processor = _cells([cost for cost in found if cost["processor_hours"]])
        lines.append(f"| {profile} | " + " | ".join([*cells[:-1], on_processor[-1]]) + " |")
    return "\n".join(lines)


def _row_of(step: str) -> str:
    """The key of the row in which a step is counted."""
    kind = step.rsplit("/", 1)[-1]
    return step if step in ROWS else next(row for row in ROWS if kind.startswith(row) or kind.endswith(f"_{row}"))


def _line(words: str, costs: Iterable[Stored]) -> str:
    return f"| {words} | " + " | ".join(_cells(costs)) + " |"


def _cells(costs: Iterable[Stored]) -> list[str]:
    costs = list(costs)
    hours = [_range([cost["hours"][gpu] for cost in costs]) for gpu in GPUS]
    processor = [cost["processor_hours"] for cost in costs if cost["processor_hours"]]
    return [f"{sum(cost['flops'] for cost in costs) / 1e18:.3g}", *hours, _range(processor) if processor else ""]


def _range(hours: Sequence[Mapping[str, float]]) -> str:
    """Best and likely, summed."""
    best, likely = (_number(sum(entry[case] for entry in hours)) for case in ("best", "likely"))
    return best if best == likely else f"{best} to {likely}"


def _number(hours: float) -> str:
    if hours < 0.01:
        return "<0.01"
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}" if hours >= 1 else f"{hours:.2f}"


def show(stored: Stored, console: Console) -> None:
    """Every step of every profile."""
    for profile, found in stored["profiles"].items():
        table = Table("step", "Eflop", "PB", *GPUS, "two cores", title=f"{profile}: predicted hours, best to likely")
        for cost in found:
            flops, *cells = _cells([cost])
            table.add_row(cost["step"], flops, f"{cost['bytes'] / 1e15:.3g}", *cells)
        console.print(table)
    measured = ", ".join(f"{share:.0%} in {name}" for name, share in stored["share_of_best_case"].items())
    console.print(
        "Predictions, not measurements. Best: every operation at the published peak of flops or bandwidth, or the "
        f"launches. Likely: the least share of it that was measured ({measured}). Densities: the "
        "performance model of the Triton kernels, and, where there is no GPU, two cores."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_hours", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--profile", choices=PROFILE_NAMES, help="one of them; all if not given")
    parser.add_argument("--store", action="store_true", help=f"write benchmarks/results/{HOURS}, and print the tables")
    given = parser.parse_args(arguments)
    if given.store and given.profile:
        parser.error("--store is for all profiles, without --profile")
    stored = predictions([given.profile] if given.profile else PROFILE_NAMES)
    show(stored, Console(width=None if Console().is_terminal else 160))
    if given.store:
        with replacing(RESULTS / HOURS) as temporary:
            temporary.write_text(json.dumps(stored, indent=1) + "\n")
        print(markdown(stored, PROFILE_NAMES[0]), totals(stored), sep="\n\n")


if __name__ == "__main__":
    main()
