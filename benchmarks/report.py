"""Read `benchmarks/results`: print the newest run as a table, and draw the history of every operation as a page.

    python -m benchmarks.report [--results DIR] [--output DIR] [--markdown]

The page is `index.html` in the output folder (runs/benchmarks), with an SVG and a PNG picture of each operation. The
exit status is 1 if the newest run misses a figure that has to be reached. With --markdown it prints what
`benchmarks/README.md` has of that run, and does no more.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment
from rich.console import Console
from rich.table import Table

from benchmarks.performance_model import in_words, peers_in_words
from benchmarks.record import RESULTS
from classfit.storage import replacing

__all__ = ["HOURS", "Row", "Run", "load", "main", "markdown", "missed_of", "rows", "table", "verdict", "write_page"]

HOURS = "gpu_hours.json"
"""Beside the measurements, but none: what `benchmarks.gpu_hours` predicts."""

QUIET = 0.2
"""Processors busy with something else, below which a measurement counts as undisturbed."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Benchmarks</title>
<style>
body { font: 15px/1.5 sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { padding: .15em .8em; text-align: left; border-bottom: 1px solid #ddd }
td.number { text-align: right } .met { color: #067d17 } .missed { color: #b3261e } img { max-width: 100% }
</style></head><body>
<h1>Benchmarks</h1>
<p>{{ runs | length }} runs. The newest: {{ newest.date }}, commit {{ newest.commit }}, {{ newest.machine }}.</p>
<p>Times are medians of one call. A peer is timed in turns with ours, in one process, after its answer was found equal;
the ratio is the median over rounds of the ratio within a round. A * marks times disturbed by other processes.</p>
<h2>Newest run</h2>
<table><tr><th>operation<th>figure<th>value<th>goal<th></tr>
{% for row in rows %}<tr><td><b>{{ row.operation }}</b> {{ row.sizes }}<td>{{ row.figure }}
<td class="number">{{ row.value }}<td>{{ row.goal }}
<td class="{{ 'missed' if row.verdict.startswith('missed') else 'met' }}">{{ row.verdict }}</tr>
{% endfor %}</table>
<h2>History</h2>
{% for case, picture in pictures %}<h3>{{ case }}</h3>
<a href="{{ picture }}.svg"><img src="{{ picture }}.png" alt="{{ case }}"></a>
{% endfor %}</body></html>
"""


class Run(NamedTuple):
    """One file of results."""

    date: str
    commit: str
    machine: str
    benchmarks: dict[str, Any]
    """By case: pytest-benchmark's record of it."""


class Row(NamedTuple):
    """One figure of one benchmark, as it is shown."""

    operation: str
    """Empty below the first figure of a benchmark."""
    sizes: str
    figure: str
    value: str
    goal: str
    verdict: str


def load(folder: Path) -> list[Run]:
    """All runs, oldest first.

    Raises:
        ValueError: a file is not one that `benchmarks.record` wrote.
    """
    runs = []
    for path in folder.glob("*.json"):
        if path.name == HOURS:
            continue
        try:
            stored = json.loads(path.read_text())
            machine, commit = stored["machine_info"], stored["commit_info"]
            clock = stored["benchmarks"][0]["options"]["timer"]
            name = f"{machine['processor']}, {machine['threads']} threads, {clock}"
            changed = " with changes" if commit["dirty"] else ""
            benchmarks = {case_of(benchmark): benchmark for benchmark in stored["benchmarks"]}
            runs.append(Run(stored["datetime"][:16].replace("T", " "), commit["id"][:7] + changed, name, benchmarks))
        except (KeyError, IndexError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a file of benchmark results: {error!r}") from error
    return sorted(runs, key=lambda run: run.date)


def case_of(benchmark: dict[str, Any]) -> str:
    """Operation, type and sizes: what has to be the same for two times to be compared."""
    return " ".join(_names(benchmark["extra_info"]))


def _names(info: dict[str, Any]) -> tuple[str, str]:
    return f"{info['operation']}, {info['dtype']}", ", ".join(
        f"{size:,} {name}" for name, size in info["shapes"].items()
    )


def verdict(measure: dict[str, Any]) -> str:
    """Is the figure where it has to be, and where it would best be? Empty if nobody said."""
    must, aim = (_reached(measure, measure[goal]) for goal in ("must", "aim"))
    if must is False:
        return "missed"
    if aim is True:
        return "met, and the aim too" if must else "aim met"
    if must is True:
        return "met" if aim is None else "met, the aim not"
    return "" if aim is None else "aim not met"


def _reached(measure: dict[str, Any], goal: float | None) -> bool | None:
    if goal is None:
        return None
    return measure["value"] >= goal if measure["more_is_better"] else measure["value"] <= goal


def rows(run: Run) -> Iterator[Row]:
    """Every figure of a run, the benchmarks in the order of their names."""
    for _, benchmark in sorted(run.benchmarks.items()):
        info = benchmark["extra_info"]
        disturbed = " *" if (info["busy_elsewhere"] or 0) > QUIET else ""
        yield Row(*_names(info), "one call", f"{benchmark['stats']['median'] * 1e3:,.4g} ms{disturbed}", "", "")
        for measure in info["measures"]:
            sign, unit = "≥" if measure["more_is_better"] else "≤", measure["unit"] and " " + measure["unit"]
            goals = [f"{what} {sign} {measure[what]:g}{unit}" for what in ("must", "aim") if measure[what] is not None]
            yield Row("", "", measure["name"], f"{measure['value']:,.4g}{unit}", ", ".join(goals), verdict(measure))


def missed_of(run: Run) -> list[str]:
    """The figures of a run that had to be reached and were not, each with its operation."""
    return [
        f"{case}: {measure['name']}"
        for case, benchmark in sorted(run.benchmarks.items())
        for measure in benchmark["extra_info"]["measures"]
        if verdict(measure) == "missed"
    ]


def table(run: Run) -> Table:
    """The newest run, for a terminal."""
    drawn = Table(title=f"{run.date}, commit {run.commit}, {run.machine}", caption="* disturbed by other processes")
    for column in ("operation", "figure", "value", "goal", ""):
        drawn.add_column(column, justify="right" if column == "value" else "left")
    for row in rows(run):
        if row.operation and drawn.row_count:
            drawn.add_section()
        colour = "red" if row.verdict.startswith("missed") else "green" if row.verdict else None
        drawn.add_row(row.operation, *row[2:], style=colour)
    return drawn


def markdown(run: Run) -> str:
    """A table for `benchmarks/README.md`: every benchmark that has a peer, beside it; and what the run missed."""
    lines = [f"| {run.date[:10]}, commit {run.commit}, {run.machine.split(',')[0]} | ours | a peer takes |"]
    lines.append("| --- | ---: | --- |")
    for _, benchmark in sorted(run.benchmarks.items()):
        info = benchmark["extra_info"]
        if not info["peers"]:
            continue
        ours = in_words(benchmark["stats"]["median"])
        lines.append(f"| {': '.join(_names(info))} | {ours} | {peers_in_words(info['peers'])} |")
    if missed := missed_of(run):
        lines += ["", f"Missed: {'; '.join(missed)}"]
    return "\n".join(lines)


def write_page(runs: list[Run], folder: Path) -> Path:
    """The page and its pictures; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for case in sorted({case for run in runs for case in run.benchmarks}):
        name = re.sub(r"\W+", "-", case).strip("-").lower()
        draw_history(case, [run for run in runs if case in run.benchmarks], folder / name)
        pictures.append((case, name))
    template = Environment(autoescape=True).from_string(PAGE)
    page = template.render(runs=runs, newest=runs[-1], rows=list(rows(runs[-1])), pictures=pictures)
    with replacing(folder / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder / "index.html"


def draw_history(case: str, runs: list[Run], path: Path) -> None:
    """Times of ours and its peers, and how many times faster ours is, by run. A colour a peer, a marker a machine."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    times, ratios = figure.subplots(1, 2)
    peers = _in_order(name for run in runs for name in run.benchmarks[case]["extra_info"]["peers"])
    machines = _in_order(run.machine for run in runs)
    for colour, name in enumerate(["ours", *peers]):
        for machine, marker in zip(machines, "os^vDP*X" * len(machines), strict=False):
            at, seconds, factor = [], [], []
            for i, run in enumerate(runs):
                benchmark = run.benchmarks[case]
                own, others = benchmark["extra_info"]["work"], benchmark["extra_info"]["peers"]
                if run.machine == machine and (name == "ours" or name in others):
                    timed, work = (benchmark["stats"], own) if name == "ours" else (others[name], others[name]["work"])
                    at.append(i)
                    # A peer that does less in a call is drawn at the time it would need for as much as ours.
                    seconds.append([timed[quartile] * own / work for quartile in ("q1", "median", "q3")])
                    factor.append(None if name == "ours" else others[name]["ratio"])
            if not at:
                continue
            low, middle, high = zip(*seconds, strict=True)
            label = name if machine == machines[0] or name not in peers else None
            style = {"color": f"C{colour}", "marker": marker, "label": label}
            times.plot(at, middle, **style)
            times.fill_between(at, low, high, color=f"C{colour}", alpha=0.2)
            if name != "ours":
                ratios.plot(at, factor, **style)
    commits = [run.commit.replace(" with changes", "+") for run in runs]
    for axes, what in ((times, "seconds a call, median and quartiles"), (ratios, "times faster than the peer")):
        axes.set(yscale="log", ylabel=what, xlabel="commit")
        axes.set_xticks(range(len(runs)), commits, rotation=45, fontsize="x-small")
        axes.grid(alpha=0.3)
    times.legend(fontsize="x-small")
    figure.suptitle(case, fontsize="small")
    for suffix in ("svg", "png"):
        with replacing(path.with_suffix(f".{suffix}")) as temporary:
            figure.savefig(temporary, format=suffix, dpi=150)


def _in_order(names: Iterable[str]) -> list[str]:
    """Each once, in the order in which they are first seen."""
    return list(dict.fromkeys(names))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Show the newest benchmark results, and draw a page with all.")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"), help="folder for the page")
    parser.add_argument("--markdown", action="store_true", help="print the table of benchmarks/README.md instead")
    options = parser.parse_args(arguments)
    runs = load(options.results)
    console = Console()
    if not runs:
        console.print(f"No results in {options.results}: make some with `python -m benchmarks.record`.")
        return 0
    if options.markdown:
        print(markdown(runs[-1]))
        return 0
    console.print(table(runs[-1]))
    print(f"History: {write_page(runs, options.output)}")
    missed = missed_of(runs[-1])
    if missed:
        print(f"Missed: {'; '.join(missed)}", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
