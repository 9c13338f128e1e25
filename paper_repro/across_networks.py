"""Whether the kept networks, and raw pixels, agree on which classes are high-density: a table and a picture.

Written by `python -m paper_repro.readme` from the numbers of figures B.5 and B.9 of every kept run.
"""

from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from paper_repro.figures import scores, style
from paper_repro.figures.style import styled
from paper_repro.pipeline import protocol_folder
from paper_repro.profiles import PAPER, PROFILES, PROTOCOLS
from paper_repro.statistics import p_words
from paper_repro.storage import read_arrays, write_csv
from paper_repro.untrained import PIXELS_TITLE

__all__ = ["FOLDER", "Fit", "draw", "fits", "pairs", "picture", "section", "table", "write"]

FOLDER = "across_networks"
HEADING = "Which classes are high-density in which network"
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
    """[G] bool: above the largest gap of the means as fitted."""


def fits(results: Path) -> list[Fit]:
    """Of all kept runs that have figure B.5, by protocol, stage and network, after the raw pixels of the first run that
    has figure B.9: they are those of every network."""
    found = []
    for protocol in PROTOCOLS.values():
        for name, profile in PROFILES.items():
            path = results / name / protocol_folder(protocol, False) / "figure_b5" / "numbers.npz"
            if path.is_file():
                stored = read_arrays(path)
                names = tuple(str(each) for each in stored["class_names"])
                for s, stage in enumerate(stored["stages"].tolist()):
                    parts = (stored[key][s] for key in ("seen_mean", "left_out_mean", "high"))
                    found.append(Fit(profile.title, protocol.name, stage, names, *parts))
    order = list(PROTOCOLS)
    return [*_pixels(results), *sorted(found, key=lambda fit: (order.index(fit.protocol), fit.stage))]


def _pixels(results: Path) -> list[Fit]:
    for protocol, name in product((DRAWN, PAPER.name), PROFILES):
        path = results / name / protocol / "figure_b9" / "numbers.npz"
        if path.is_file():
            stored = read_arrays(path)
            names = tuple(str(each) for each in stored["class_names"])
            for p in np.flatnonzero(stored["places"] == PIXELS_TITLE):
                parts = (stored[key][p] for key in ("seen_mean", "left_out_mean", "high"))
                return [Fit(PIXELS_TITLE.lower(), protocol, None, names, *parts)]
    return []


def pairs(found: Sequence[Fit]) -> list[dict[str, Any]]:
    """Two networks each, of the same classes under the same protocol at the same stage, or raw pixels and a network.

    both counts the classes that are high in either; expected is how many there would be by chance, and p how often
    chance leaves as many, if any a of the G classes are as likely as any others to be the high ones
    (hypergeometric). The rank correlations are Spearman's, over classes, with their 95% bootstrap intervals.
    """
    from scipy.stats import hypergeom

    rows = []
    for one, other in combinations(found, 2):
        alike = (one.protocol, one.stage) == (other.protocol, other.stage)
        if one.class_names == other.class_names and (alike or (one.stage is None and other.protocol == DRAWN)):
            G, a, b = len(one.high), int(one.high.sum()), int(other.high.sum())
            both = int((one.high & other.high).sum())
            rows.append(
                {
                    "protocol": other.protocol,
                    "stage": other.stage,
                    "networks": (one.network, other.network),
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
        lines.append(
            [
                f"`{row['protocol']}`",
                str(row["stage"]),
                " and ".join(map(_short, row["networks"])),
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
            "Classes above the largest gap as fitted, in two networks each. By chance: how many would be so in both if "
            "any classes were as likely as others; p: how often chance leaves as many. Then rank correlations of the "
            "classes' mean log-densities, as fitted and left out, with 95% intervals over classes."
            + (f" Densities of raw pixels are those of `{found[0].protocol}`." if found[0].stage is None else ""),
            "\n".join(f"| {' | '.join(line)} |" for line in lines),
        ]
    )


def _where(fit: Fit) -> str:
    if fit.stage is None:
        return f"{fit.network.capitalize()} ({fit.protocol})"
    return f"Stage {fit.stage}, {_short(fit.network)}"


def _short(title: str) -> str:
    """Without the dataset, and without what a title says of its scale."""
    return title.split(", ", 1)[-1].removesuffix(" (scaled down)")


@styled
def draw(found: Sequence[Fit]) -> Figure:
    """Classes in columns, those that are high in most rows first; a row a stage and network."""
    high = np.stack([fit.high for fit in found])
    rank = np.stack([fit.left_out.argsort().argsort() for fit in found]).mean(0)
    order = np.lexsort((rank, -high.sum(0)))
    names = [found[0].class_names[g] for g in order]
    subtitle = {"subtitle": np.array(f"protocol {found[-1].protocol} · every column is a class")}
    figure = style.canvas(HEADING, subtitle, width=12.4, height=0.3 * len(found) + 1.5)
    axes = figure.subplots()
    for row, fit in enumerate(found):
        for own, colour in ((True, style.HIGH), (False, style.GRID)):
            columns = np.flatnonzero(fit.high[order] == own)
            axes.bar(columns, 0.84, 0.84, bottom=row - 0.42, color=colour, linewidth=0)
    axes.set_yticks(range(len(found)), [f"{_where(fit)}: {int(fit.high.sum())}" for fit in found])
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    axes.tick_params(length=0)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(len(found) - 0.5, -0.5)
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
        f"*Columns are classes, orange where a class is above the largest gap (protocol `{DRAWN}`); those that are so "
        "in most rows come first.*",
    ]


def write(results: Path) -> None:
    """The table and the picture, in a folder of their own, if there are networks to compare."""
    found = fits(results)
    drawn = [fit for fit in found if fit.protocol == DRAWN or fit.stage is None]
    drawn = [fit for fit in drawn if fit.class_names == drawn[-1].class_names]
    if len({fit.network for fit in drawn if fit.stage}) > 1:
        folder = results / FOLDER
        folder.mkdir(exist_ok=True)
        write_csv(folder / f"{FOLDER}.csv", table(found))
        style.save(draw(drawn), folder, FOLDER)
