"""What changes under stricter protocols: the same figures under every protocol that has results, side by side.

The pictures and overlap.csv lie in the folder `side_by_side` of the run, beside those of the protocols. They come from
the stored numbers of each protocol's figures alone, and can be redrawn without data or network.
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from paper_repro.chains import Tally, tally
from paper_repro.figures.side_by_side import DRAWN, Column, draw
from paper_repro.figures.style import Stored, save
from paper_repro.pipeline import Pipeline, protocol_folder
from paper_repro.profiles import PROTOCOLS
from paper_repro.protocol_words import Facts, facts_of, overlap_row, paragraph
from paper_repro.robustness_pipeline import OF_CONVERGED
from paper_repro.steps import State, Step, Workspace
from paper_repro.storage import read_arrays, read_csv, read_json, write_csv

__all__ = ["Comparison", "Result", "compare"]

FOLDER = "side_by_side"


class Result(NamedTuple):
    """What is stored of one protocol."""

    pipeline: Pipeline
    figures: dict[str, Stored]
    """Numbers, by name of the figure."""
    stale: tuple[str, ...]
    """Names of the steps that were not made with this report's settings, or not from the same images and network."""
    verdicts: dict[str, str]
    """By claim; empty if there is no scorecard."""
    tallies: tuple[Tally, ...]
    """Of each stage; empty if there is no table of classes."""

    @property
    def name(self) -> str:
        return self.pipeline.folder

    @property
    def densities(self) -> Stored | None:
        """Means and spreads of all classes: figure A.7, or figure 1 where that is all there is."""
        return self.figures.get("figure_a7", self.figures.get("figure_1"))


class Comparison(NamedTuple):
    results: list[Result]
    """At least two, in the order of the protocols; the first is the one that the others are compared with."""
    paragraph: str
    """What changes, in words; names of protocols stand between backticks."""
    pictures: dict[str, list[str]]
    """Figures that are drawn, and the protocols that are columns of them."""
    absent: dict[str, list[str]]
    """Figures that fewer than two protocols have, and which do."""
    folder: Path
    """Where the pictures and the table lie."""

    def caption(self, name: str) -> str:
        """Of a picture."""
        words = {
            "figure_2": "Each mark is a class at the last stage, an orange diamond above the largest gap under that "
            "protocol, whether it parts groups or not, with least-squares lines, Pearson's correlations r and rank "
            "correlations ρ. Both axes are the same in all columns. Relative entropies under `heldout` are of the fits "
            "to all points, those of `converged`.",
            "figure_4": "Mean and standard deviation over pairs of classes, on one vertical scale. Which points are "
            "memorized does not depend on the protocol; the figure under `heldout` is that of `converged`.",
        }.get(name, _DENSITIES.format(first=self.pictures[name][0]))
        without = [f"`{result.name}`" for result in self.results if result.name not in self.pictures[name]]
        return f"{words} It is not shown for {' and '.join(without)}." if without else words

    def others_to_write(self, pipeline: Pipeline) -> list[Pipeline]:
        """Those with a report that this one makes incomplete, and with nothing out of date in it."""
        reports = [r.pipeline for r in self.results if r.pipeline is not pipeline and not r.stale]
        return [other for other in reports if (self.folder.parent / other.folder / "report.html").exists()]


_DENSITIES = (
    "Mean and standard deviation of each class's log-density, sorted by mean under that protocol. Colours are as "
    "in that figure; rings mark the classes above the gap of the same stage under `{first}`, wherever they are under "
    "the others. A stage has one vertical scale, because the densities are of the same points in the same space; "
    "a panel that would be squeezed on it, or squeeze the first, has its own and says so."
)


def compare(workspace: Workspace, pipeline: Pipeline) -> Comparison | None:
    """Draw the figures of all protocols side by side, for this pipeline's report and the others.

    None if fewer than two protocols have results.
    """
    results = _results(workspace, pipeline)
    if len(results) < 2:
        return None
    facts = [
        facts_of(r.name, stored, r.verdicts, r.tallies, r.stale) for r in results if (stored := r.densities) is not None
    ]
    not_run = [name for name in PROTOCOLS if name not in {result.name for result in results}]
    folder = workspace.root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    pictures, absent = {}, {}
    for name in DRAWN:
        columns = _columns(name, results, facts)
        names = list(columns)
        if len(columns) < 2:
            absent[name] = names
            continue
        pictures[name] = names
        save(draw(name, list(columns.values()), f"{pipeline.profile.title} · seed {pipeline.seed}"), folder, name)
    write_csv(folder / "overlap.csv", [overlap_row(facts[0], other) for other in facts])
    return Comparison(results, paragraph(facts, not_run), pictures, absent, folder)


def _results(workspace: Workspace, pipeline: Pipeline) -> list[Result]:
    """Of every protocol, also as the published code has it, that has stored densities of its classes."""
    found: list[Result] = []
    # Steps that all protocols share, as the first one found them: what was made from others is out of date.
    shared: dict[str, str] = {}
    for protocol in PROTOCOLS.values():
        for official in (False, True):
            folder = protocol_folder(protocol, official)
            if folder != pipeline.folder and not (workspace.root / folder).is_dir():
                continue
            other = pipeline if folder == pipeline.folder else pipeline.under(protocol, official=official)
            result = _result(workspace, other, shared)
            if result.densities is not None:
                found.append(result)
    return found


def _result(workspace: Workspace, pipeline: Pipeline, shared: dict[str, str]) -> Result:
    stale: list[str] = []

    def has(step: Step, name: str) -> bool:
        state = workspace.state(step, with_inputs=False)
        if state not in (State.DONE, State.STALE):
            return False
        digests = (workspace.provenance(step) or {})["inputs"]
        same = [shared.setdefault(key, value) == value for key, value in digests.items() if "/" not in key]
        if state == State.STALE or not all(same):
            stale.append(name)
        return True

    figures: dict[str, Stored] = {
        name: read_arrays(workspace.folder(step) / "numbers.npz")
        for name, step in pipeline.figures.items()
        if name in DRAWN and has(step, name)
    }
    verdicts: dict[str, str] = {}
    tallies: tuple[Tally, ...] = ()
    card = pipeline.scorecard
    if workspace.state(card, with_inputs=False) == State.STALE:
        card = pipeline.scorecard_there(workspace)
    if has(card, "scorecard"):
        claims = read_json(workspace.folder(card) / "scorecard.json")
        verdicts = {claim["name"]: claim["verdict"] for claim in claims}
    if has(pipeline.classes, "classes"):
        rows = read_csv(workspace.folder(pipeline.classes) / "classes.csv")
        tallies = tuple(tally(list(part)) for _, part in groupby(rows, key=lambda row: row["stage"]))
    return Result(pipeline, figures, tuple(stale), verdicts, tallies)


def _columns(name: str, results: Sequence[Result], facts: Sequence[Facts]) -> dict[str, Column]:
    """By protocol: one for each that has this figure of the same classes and stages as the first that has it, and of
    its own fits."""
    columns: dict[str, Column] = {}
    for result, about in zip(results, facts, strict=True):
        stored = result.figures.get(name)
        if stored is None or (columns and not _alike(name, next(iter(columns.values())).stored, stored)):
            continue
        if name in OF_CONVERGED and result.pipeline.folder_of_whole in columns:
            continue  # that figure again
        title = f"{result.name}, out of date" if name in result.stale else result.name
        columns[result.name] = Column(title, _mark(name, facts[0], about, stored), stored)
    return columns


def _alike(name: str, first: Stored, other: Stored) -> bool:
    # The classes of figure 4 are those with enough points of every kind; what it shows is over pairs of them.
    keys = [key for key in ("stages", "class_names") if key in first and (name, key) != ("figure_4", "class_names")]
    return all(first[key].tolist() == other[key].tolist() for key in keys)


def _mark(name: str, reference: Facts, about: Facts, stored: Stored) -> str:
    if name == "figure_4":
        return f"{len(stored['class_names'])} classes"
    row: dict[str, Any] = overlap_row(reference, about)
    counted = f"{row['high_density_classes']} of {row['classes']} above the largest gap"
    if about is reference or row["found_again"] is None or not reference.high:
        return f"{counted}\n"
    return f"{counted},\n{row['found_again']} of the {row['of']} of {reference.name}"
