"""Figure B.2, beyond the paper: our memorization of each class against the published one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from paper_repro.figures import heading, scores, style
from paper_repro.figures.style import Stored, styled

__all__ = ["caption", "compute", "draw", "finding", "look_for", "table"]


def compute(
    ours: np.ndarray, published: np.ndarray, class_names: Sequence[str], n_trials: int, networks: str
) -> dict[str, np.ndarray]:
    """How the two go together.

    Args:
        ours: [G] mean memorization score of the training points of each class.
        published: [G] likewise.
        class_names: G names.
        n_trials: networks that our scores are estimated from; 0 if they were given.
        networks: a sentence on them, for the caption.

    Returns:
        These, and correlation [3]: Spearman's, with its 95% bootstrap interval over classes.
    """
    ours, published = np.asarray(ours, dtype=np.float64), np.asarray(published, dtype=np.float64)
    return {
        "ours": ours,
        "published": published,
        "class_names": np.array(class_names),
        "correlation": scores.correlation(published, ours),
        "n_trials": np.array(n_trials),
        "networks": np.array(networks),
    }


def table(stored: Stored) -> list[dict[str, Any]]:
    """One row a class."""
    return [
        {
            "class": str(name),
            "mean_memorization": float(stored["ours"][g]),
            "published_mean_memorization": float(stored["published"][g]),
        }
        for g, name in enumerate(stored["class_names"])
    ]


@styled
def draw(stored: Stored) -> Figure:
    published, ours = stored["published"], stored["ours"]
    figure = style.canvas(heading("figure_b2"), stored, width=6.4, height=4.6)
    axes = figure.subplots()
    axes.plot(published, ours, "o", color=style.LINE, markersize=5, alpha=0.85)
    ends = np.array([min(published.min(), ours.min()), max(published.max(), ours.max())])
    axes.plot(ends, ends, color=style.INK, linewidth=1, linestyle=style.DASHES, zorder=1)
    axes.annotate("equal", (ends[1], ends[1]), (-4, 0), textcoords="offset points", ha="right", va="bottom", fontsize=8)
    axes.set_title(scores.short(stored["correlation"]), loc="right", fontweight="normal", fontsize=9)
    axes.set_xlabel("published mean memorization of the class")
    axes.set_ylabel("our mean memorization of the class")
    axes.margins(0.06)
    style.name_points(axes, published, ours, [str(name) for name in stored["class_names"]])
    return figure


def caption(stored: Stored) -> str:
    return (
        f"Beyond the paper. Each mark is a class. Horizontal: {scores.PUBLISHED}, over its training points. Vertical: "
        f"the mean of ours, which are {scores.origin(stored)}. {stored['networks']} On the dashed line both are equal. "
        f"ρ is Spearman's rank correlation over classes with its 95% bootstrap interval. {stored['note']}"
    )


def look_for(stored: Stored) -> str:
    return (
        "A high rank correlation: then the classes that our networks have to memorize are those that the authors' "
        "networks memorize, whatever the level, and figures 3, 4 and A.11 rest on scores like theirs. The marks "
        "need not lie on the line: networks that know less of images they are not shown have higher scores throughout, "
        "and networks that do not fit those they are shown have lower ones."
    )


def finding(stored: Stored) -> str:
    ours, published = stored["ours"], stored["published"]
    return (
        f"Rank correlation over {len(ours)} classes (95% interval): {scores.words(stored['correlation'])}. Our class "
        f"means lie between {ours.min():.2f} and {ours.max():.2f}, the published ones between {published.min():.2f} "
        f"and {published.max():.2f}; averaged over classes {ours.mean():.2f} and {published.mean():.2f}."
    )
