"""Whether the kept networks, and raw pixels, agree on which classes are high-density: a table and a picture.

Written by `python -m paper_repro.readme` from the numbers of figures B.5 and B.9 of every kept run.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from paper_repro.figures import RAW_PIXELS, scores, style
from paper_repro.figures.class_density import parted
from paper_repro.figures.style import Stored, styled
from paper_repro.keep import kept_runs
from paper_repro.pipeline import protocol_folder
from paper_repro.profiles import PAPER, PROTOCOLS
from paper_repro.statistics import least_a_side, p_words
from paper_repro.storage import read_arrays, write_csv

__all__ = ["FOLDER", "Fit", "draw", "fits", "pairs", "picture", "section", "table", "write"]

FOLDER = "across_networks"
HEADING = "Which classes are high-density in which network, and in raw pixels"
DRAWN = "converged"
"""The protocol whose high-density classes are groups."""


class Fit(NamedTuple):
    """Every class in one space under one protocol."""

    network: str
    protocol: str
    stage: int | None
    """None: of raw pixels, not of a network."""
    class_names: tuple[str, ...]
    seen: np.ndarray
    """[G] mean log-density of the points of a class as fitted, in nats."""
    left_out: np.ndarray
    """[G] likewise, each given all others of its class."""
    high: np.ndarray
    """[G] bool: above the largest gap of the means as fitted, if it parts them (`class_density.parted`)."""


def fits(results: Path) -> list[Fit]:
    """Of all kept runs that have figure B.5, by protocol, stage and network, after the raw pixels of the first run that
    has figure B.9: they are those of every network. Of runs with different classes those that most have."""
    found = []
    for protocol in PROTOCOLS.values():
        for run in kept_runs(results):
            path = run.folder / protocol_folder(protocol, False) / "figure_b5" / "numbers.npz"
            if path.is_file():
                stored = read_arrays(path)
                names = tuple(str(each) for each in stored["class_names"])
                for s, stage in enumerate(stored["stages"].tolist()):
                    found.append(Fit(run.title, protocol.name, stage, names, *_parted(stored, s)))
    if not found:
        return []
    (most, _), *_ = Counter(fit.class_names for fit in found).most_common(1)
    order = list(PROTOCOLS)
    found = [fit for fit in found if fit.class_names == most]
    return [*_pixels(results, most), *sorted(found, key=lambda fit: (order.index(fit.protocol), fit.stage))]


def _pixels(results: Path, class_names: tuple[str, ...]) -> list[Fit]:
    for protocol, run in product((DRAWN, PAPER.name), kept_runs(results)):
        path = run.folder / protocol / "figure_b9" / "numbers.npz"
        if path.is_file():
            stored = read_arrays(path)
            if tuple(str(each) for each in stored["class_names"]) == class_names:
                for p in np.flatnonzero(stored["places"] == RAW_PIXELS):
                    return [Fit(RAW_PIXELS.lower(), protocol, None, class_names, *_parted(stored, int(p)))]
    return []


def _parted(stored: Stored, s: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means as fitted and left out, and which classes are high."""
    seen = stored["seen_mean"][s]
    return seen, stored["left_out_mean"][s], parted(seen, stored["seen_std"][s]).above


def pairs(found: Sequence[Fit]) -> list[dict[str, Any]]:
    """Two networks each, under the same protocol at the same stage, or raw pixels and a network, where each has
    enough high classes, and others, for a group.

    both counts the classes that are high in both; expected is how many there would be by chance, and p how often
    chance leaves as many, if any a of the G classes are as likely as any others to be the high ones
    (hypergeometric). The rank correlations are Spearman's, over classes, with their 95% bootstrap intervals.
    """
    from scipy.stats import hypergeom

    rows = []
    grouped = [fit for fit in found if min(fit.high.sum(), (~fit.high).sum()) >= least_a_side(len(fit.high))]
    for one, other in combinations(grouped, 2):
        alike = (one.protocol, one.stage) == (other.protocol, other.stage)
        if alike or (one.stage is None and other.protocol in (one.protocol, DRAWN)):
            G, a, b = len(one.high), int(one.high.sum()), int(other.high.sum())
            both = int((one.high & other.high).sum())
            rows.append(
                {
                    "protocol": other.protocol,
                    "stage": other.stage,
                    "networks": (one.network, other.network),
                    "of_pixels": one.protocol if one.stage is None else "",
                    "high": (a, b),
                    "both": both,
                    "expected": a * b / G,
                    "p": float(hypergeom.sf(both - 1, G, a, b)),
                    "seen": scores.correlation(one.seen, other.seen),
                    "left_out": scores.correlation(one.left_out, other.left_out),
                }
            )
    return rows


def table(found: Sequence[Fit]) -> list[dict[str, Any]]:
    """One row a fit and class."""
    return [
        {
            "network": fit.network,
            "protocol": fit.protocol,
            "stage": fit.stage,
            "class": name,
            "mean_log_density_as_fitted_nats": float(fit.seen[g]),
            "mean_log_density_left_out_nats": float(fit.left_out[g]),
            "high_density_as_fitted": bool(fit.high[g]),
        }
        for fit in found
        for g, name in enumerate(fit.class_names)
    ]


def section(results: Path) -> str:
    """The agreement of all pairs, as a table in Markdown; empty where there is no pair."""
    found = fits(results)
    rows = pairs(found)
    if not rows:
        return ""
    columns = ("protocol", "stage", "networks", "high in each", "in both", "by chance", "p", "as fitted", "left out")
    lines = [columns, ["---"] * len(columns)]
    for row in rows:
        networks = [_short(title) for title in row["networks"]]
        if row["of_pixels"]:
            networks[0] += f" (`{row['of_pixels']}`)"
        lines.append(
            [
                f"`{row['protocol']}`",
                str(row["stage"]),
                " and ".join(networks),
                " and ".join(map(str, row["high"])),
                str(row["both"]),
                f"{row['expected']:.1f}",
                p_words(row["p"]).removeprefix("p ").removeprefix("= "),
                scores.words(row["seen"]),
                scores.words(row["left_out"]),
            ]
        )
    return "\n\n".join(
        [
            "### Are the high classes the same in every network?",
            "High classes, as fitted, in two networks that each have enough for a group. By chance: how many would "
            "be high in both if any classes were as likely as others; p: how often chance leaves as many "
            "(one-sided, not corrected for the number of rows). Then rank correlations of the classes' mean "
            "log-densities, as fitted and left out, with 95% intervals over classes. With the same seed a class has "
            "the same random numbers in every network, which may make some of the agreement.",
            "\n".join(f"| {' | '.join(line)} |" for line in lines),
        ]
    )


def _where(fit: Fit) -> str:
    where = fit.network.capitalize() if fit.stage is None else f"Stage {fit.stage}, {_short(fit.network)}"
    return f"{where} ({fit.protocol})"


def _short(title: str) -> str:
    """Without the dataset, and without what a title says of its scale."""
    letter, colon, words = title.rpartition(": ")
    return letter + colon + words.split(", ", 1)[-1].replace(" (scaled down)", "")


@styled
def draw(found: Sequence[Fit]) -> Figure:
    """Classes in columns, those that are high in most rows first; a row a stage and network."""
    high = np.stack([fit.high for fit in found])
    rank = np.stack([fit.left_out.argsort().argsort() for fit in found]).mean(0)
    order = np.lexsort((rank, -high.sum(0)))
    names = [found[0].class_names[g] for g in order]
    words = "every column is a class, sorted by the number of rows in which it is high"
    figure = style.canvas(HEADING, {"subtitle": np.array(words)}, width=14, height=0.32 * len(found) + 1.9)
    axes = figure.subplots()
    places = [row + (0.3 if fit.stage else 0) for row, fit in enumerate(found)]  # a gap after the pixels
    for place, fit in zip(places, found, strict=True):
        for own, colour in ((True, style.HIGH), (False, style.GRID)):
            columns = np.flatnonzero(fit.high[order] == own)
            axes.bar(columns, 0.84, 0.84, bottom=place - 0.42, color=colour, linewidth=0)
    axes.set_yticks(places, [f"{_where(fit)}: {int(fit.high.sum())}" for fit in found])
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.tick_params(length=0)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(places[-1] + 0.5, -0.5)
    marks = [Patch(color=style.HIGH, label="above the largest gap"), Patch(color=style.GRID, label="not")]
    figure.legend(handles=marks, loc="upper right", ncols=2, fontsize=8)
    axes.grid(visible=False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    return figure


def picture(results: Path) -> list[str]:
    """What the README shows of it, as Markdown; links are from two folders above."""
    if not (results / FOLDER / f"{FOLDER}.png").is_file():
        return []
    return [
        "**The networks beside each other:**",
        f"![{HEADING}](paper_repro/{results.name}/{FOLDER}/{FOLDER}.png)",
        "*Orange: the class is above the largest gap. Columns are sorted by the number of such rows, so that some "
        "order would show by chance too; how much: [the table](paper_repro/FINDINGS.md).*",
    ]


def write(results: Path) -> None:
    """The table and the picture, in a folder of their own, if there are networks to compare; else none."""
    found, folder = fits(results), results / FOLDER
    drawn = [fit for fit in found if fit.protocol == DRAWN or fit.stage is None]
    shutil.rmtree(folder, ignore_errors=True)
    if len({fit.network for fit in drawn if fit.stage}) > 1:
        folder.mkdir()
        write_csv(folder / f"{FOLDER}.csv", table(found))
        style.save(draw(drawn), folder, FOLDER)
