"""Figure B.5, beyond the paper: log-density of each class's points as they were fitted, and had they been left out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_repro.figures import heading, scores, style
from paper_repro.figures.class_density import beside_seen, beside_seen_key, class_statistics, parted
from paper_repro.figures.style import Stored, styled
from paper_repro.statistics import LEVEL, gap_p_value, group_difference, is_split, least_a_side, p_words

__all__ = ["caption", "compute", "draw", "finding", "look_for", "table"]

KINDS = {"seen": "as fitted", "left_out": "left out"}
FEW_DRAWS = 5
"""Below so many effective draws a point's density rests on one or two labellings."""


def compute(
    seen: Mapping[int, np.ndarray],
    left_out: Mapping[int, np.ndarray],
    effective_draws: Mapping[int, np.ndarray],
    labels: np.ndarray,
    class_names: Sequence[str],
    dimensions: Mapping[int, int],
    memorization: np.ndarray | None = None,
    remark: str = "",
) -> dict[str, np.ndarray]:
    """Statistics of each class at each stage, seen and left out, and how the classes that look dense fare.

    Args:
        seen, left_out: by stage, [N] in nats: each training point under the predictive density of its own class, given
            all points of the class, and given all but itself.
        effective_draws: by stage, [N] of `left_out`.
        labels: [N] class of each point, 0..G - 1.
        class_names: G names.
        dimensions: by stage, D of the space of the densities.
        memorization: [G] published mean score of each class, where there is one.
        remark: a sentence for the caption.

    Returns:
        stages, dimensions [S]; class_names [G]; seen_mean, seen_std, left_out_mean, left_out_std [S, G]; high [S, G]
        bool: above the largest gap of the means of points seen; {seen, left_out}_gap and _p [S]: the largest gap
        between sorted means, and how often chance leaves one as large; correlation [S, 3]: Spearman's, of the two
        means, with its 95% bootstrap interval over classes; few_draws [S]: share of points with fewer effective draws
        than FEW_DRAWS; with memorization {seen, left_out}_memorization [S, 3]: its rank correlation with the mean;
        remark.
    """
    from classfit import density_groups

    stages, G = sorted(seen), len(class_names)
    found: dict[str, list[Any]] = {}
    for stage in stages:
        statistics = {
            kind: class_statistics(values[stage], labels, G)
            for kind, values in {"seen": seen, "left_out": left_out}.items()
        }
        high = density_groups(statistics["seen"][0]).high
        row: dict[str, Any] = {"high": high}
        for kind, (mean, std) in statistics.items():
            row |= {f"{kind}_mean": mean, f"{kind}_std": std}
            row |= {f"{kind}_gap": density_groups(mean).gap, f"{kind}_p": gap_p_value(mean)}
            if memorization is not None:
                row[f"{kind}_memorization"] = scores.correlation(mean, memorization)
        row["correlation"] = scores.correlation(statistics["seen"][0], statistics["left_out"][0])
        row["few_draws"] = (effective_draws[stage] < FEW_DRAWS).mean()
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    return {
        "stages": np.array(stages),
        "dimensions": np.array([dimensions[stage] for stage in stages]),
        "class_names": np.array(class_names),
        "remark": np.array(remark),
        **{name: np.array(values) for name, values in found.items()},
    }


def table(stored: Stored) -> list[dict[str, Any]]:
    """One row a stage and class."""
    return [
        {
            "stage": int(stage),
            "class": str(name),
            **{
                f"{kind}_{statistic}_log_density_nats": float(stored[f"{kind}_{statistic}"][s, g])
                for kind in KINDS
                for statistic in ("mean", "std")
            },
            "high_density_as_fitted": bool(stored["high"][s, g]),
        }
        for s, stage in enumerate(stored["stages"])
        for g, name in enumerate(stored["class_names"])
    ]


@styled
def draw(stored: Stored) -> Figure:
    figure = style.canvas(heading("figure_b5"), stored, width=9.2, height=3.9)
    panels = figure.subplots(1, len(stored["stages"]), squeeze=False)[0]
    # Colours are for classes that stand apart, as in figure 1.
    splits = [parted(mean, std) for mean, std in zip(stored["seen_mean"], stored["seen_std"], strict=True)]
    apart = {**stored, "high": np.array([split.above for split in splits])}
    for s, axes in enumerate(panels):
        beside_seen(axes, apart, s, {"left_out": (style.LINE, "s")}, bars=KINDS)
        axes.set_title(axes.get_title("left"), pad=2 * style.LINE_POINTS + 6)
        gaps = [
            f"{of} {stored[f'{kind}_gap'][s]:.1f} nats ({p_words(stored[f'{kind}_p'][s])})"
            for kind, of in KINDS.items()
        ]
        spreads = f"as fitted, {splits[s].spreads}" if splits[s].spreads else ""
        style.above(axes, f"largest gap {', '.join(gaps)}\n{spreads}")
    panels[0].set_ylabel("log-density of own training points (nats)")
    marks = beside_seen_key({"left out": (style.LINE, "s")}, of_parted=True)
    marks.append(Line2D([], [], color=style.MUTED, alpha=0.4, linewidth=5, label="± 1 standard deviation"))
    figure.legend(handles=marks, loc="outside lower center", ncols=2, fontsize=8, handlelength=1.8)
    return figure


def caption(stored: Stored) -> str:
    stages = " and ".join(str(stage) for stage in stored["stages"])
    return (
        "Beyond the paper. Mean (mark) and standard deviation (bar) of the log-density of each class's own training "
        f"points at stages {stages}, classes sorted by the mean as fitted. As fitted, as in the paper: under a density "
        "that saw the point; orange diamonds are above the largest gap between these means in the panel, where it "
        "parts classes as in figure 1. Left out (green squares): the same points, each under the density given all "
        "others of its class, by importance sampling from the labellings of the same fit. Above each panel stand the "
        "largest gaps between either's means and, where that parts classes, how much smaller standard deviations as "
        "fitted are above theirs (geometric means). A density left out rests on as many points, but for one; what it "
        "cannot see is a state that no labelling of the fit is in. Within a chain it is rather too high than too low, "
        "since the labels of the other points were drawn with the point there; over several chains that do not mix, "
        "the one under which the point is least likely counts most. "
        f"{stored['remark']} {stored['note']}"
    ).replace("  ", " ")


def look_for(stored: Stored) -> str:
    return (
        "Whether the classes that look dense are dense for points that their fit has not seen. If they are, green "
        "squares jump where orange diamonds begin; if the squares go on level, or fall, high density is of the points "
        "that were fitted."
    )


def finding(stored: Stored) -> str:
    return " ".join(_stage(stored, s) for s in range(len(stored["stages"])))


def _stage(stored: Stored, s: int) -> str:
    high = stored["high"][s]
    seen, left_out = (stored[f"{kind}_mean"][s] for kind in KINDS)
    words = (
        f"At stage {stored['stages'][s]} the largest gap between sorted class means is {stored['seen_gap'][s]:.1f} "
        f"nats as fitted ({p_words(stored['seen_p'][s])}) and {stored['left_out_gap'][s]:.1f} left out "
        f"({p_words(stored['left_out_p'][s])}; p is how often a sample of one mode like theirs has one as large)."
    )
    for kind, which in zip(KINDS, ("as fitted", "left out"), strict=True):
        mean, p = stored[f"{kind}_mean"][s], stored[f"{kind}_p"][s]
        if p < 1 - LEVEL and not is_split(mean, p):
            words += f" With fewer than {least_a_side(len(mean))} classes on one side, that {which} is of outliers."
    if high.any() and not high.all():
        n = int(high.sum())
        words += (
            f" The {n} {'class' if n == 1 else 'classes'} above the gap as fitted {'has' if n == 1 else 'have'} a mean "
            f"log-density of {style.nats(seen[high].mean())} as fitted and {style.nats(left_out[high].mean())} left "
            f"out, the others {style.nats(seen[~high].mean())} and {style.nats(left_out[~high].mean())}: left out a "
            f"difference (nats, {LEVEL:.0%} interval over classes, for this split) of "
            f"{scores.words(group_difference(left_out, high), 1)}."
        )
    words += f" Rank correlation of the two means: {scores.words(stored['correlation'][s])}."
    if "seen_memorization" in stored:
        words += (
            " Rank correlation with published memorization over classes (95% interval): "
            f"{scores.words(stored['seen_memorization'][s])} as fitted, "
            f"{scores.words(stored['left_out_memorization'][s])} left out."
        )
    if stored["few_draws"][s] > 0:
        words += (
            f" For {stored['few_draws'][s]:.1%} of the points the density left out rests on fewer than {FEW_DRAWS} "
            "effective labellings."
        )
    return words
