"""Figure 3: memorization and robustness of training points, in bins by log-density at stage 4."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from paper_repro.density_bins import weighted_f1
from paper_repro.figures import heading, scores, style
from paper_repro.figures.style import Stored, styled
from paper_repro.statistics import rank_correlation, share_error

__all__ = ["caption", "compute", "draw", "finding", "look_for", "table"]

# Not the colours of the two groups of classes.
COLOURS, MARKERS = (style.MUTED, style.INK, style.LINE, "#cc79a7"), "oDs^"

REMOVED = {
    "own_class_removed": "share_of_own_class_removed",
    "right_outside": "accuracy_without_30_percent_at_random",
}
"""Columns of what a network without a bin has lost; numbers stored before it was measured have none."""

CONTROL = {
    "control_radius": "control_certified_radius_normalised",
    "control_right_radius": "control_certified_radius_wrong_as_0_normalised",
    "control_not_abstained": "control_classification_rate",
    "control_smoothed_f1": "control_f1_smoothed",
}
"""Columns of certificates by the network without the certified points alone; under `paper` there is none."""


def compute(
    log_density: np.ndarray,
    memorization: np.ndarray,
    memorization_error: np.ndarray,
    right_outside: np.ndarray,
    bins: np.ndarray,
    labels: np.ndarray,
    high: np.ndarray,
    predicted: np.ndarray,
    certified_rows: np.ndarray,
    smoothed: np.ndarray,
    radius: np.ndarray,
    pixels_per_unit: float,
    attacked_rows: np.ndarray,
    survived: Mapping[str, np.ndarray],
    budgets: Mapping[str, np.ndarray],
    scale: Mapping[str, Any],
    control: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """What is drawn, bin by bin.

    Args:
        log_density: [N] in nats, of each training point under the density of its own class at stage 4.
        memorization, memorization_error: [N] scores and their standard errors, nan if these are not known.
        right_outside: [N] share of the networks behind the scores, of those that were not trained on the point, that
            classify it rightly; nan if it is not known.
        bins: [N] int, 0 for the lowest log-densities.
        labels: [N] class of each point.
        high: [G] bool, the high-density classes.
        predicted: [N] class that a network trained without the point's bin gives it.
        certified_rows: [n] the points that were certified.
        smoothed: [n] class by the smoothed classifier, -1 where it abstains.
        radius: [n] certified L2 radius in normalised units; 0 where it abstains.
        pixels_per_unit: pixel values (0..1) that one normalised unit is, at least: the smallest standard deviation of a
            channel, for a perturbation d of the pixels becomes d / std, no longer than |d| / min(std).
        attacked_rows: [m] the points that were attacked.
        survived: by the title of an attack, [m, E] whether a point stays rightly classified within each budget.
        budgets: by title, [E] in pixel values, rising from 0.
        scale: what a caption says: sigma, n0, n, alpha, n_trials (0: scores were given), and a sentence on the
            networks.
        control: smoothed and radius [n] by a network that was trained without the certified points alone, if there is
            one.

    Returns:
        Arrays [B] over bins. own_class_removed: the share of its own class that leaves the training with a point's bin,
        in the mean over the bin's points. right_outside: mean of the bin. control_radius, control_smoothed_f1 and so
        on: as without "control_", by the network without the certified points alone. robust_accuracy [A, E, B]: by
        attack, budget and bin; robust_accuracy_by_group [A, E, 2]: in low- and high-density classes (nan where there
        are no points). attack_success [A, B]: of the points that are rightly classified without an attack, the share
        that falls within the middle budget.
    """
    n_bins = int(bins.max()) + 1

    def by_bin(values: np.ndarray, of: np.ndarray, function: Any) -> np.ndarray:
        return np.array([function(values[of == b]) for b in range(n_bins)])

    def f1(rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
        own = bins[rows]
        return np.array([weighted_f1(labels[rows[own == b]], classes[own == b]) for b in range(n_bins)])

    def certificates(smoothed: np.ndarray, radius: np.ndarray) -> dict[str, np.ndarray]:
        right = smoothed == labels[certified_rows]
        return {
            "radius": by_bin(radius, certified, np.mean),
            "radius_std": by_bin(radius, certified, np.std),
            "right_radius": by_bin(np.where(right, radius, 0.0), certified, np.mean),
            "not_abstained": by_bin(smoothed >= 0, certified, np.mean),
            "smoothed_f1": f1(certified_rows, smoothed),
        }

    every, certified, attacked = np.arange(len(labels)), bins[certified_rows], bins[attacked_rows]
    beside = certificates(*control) if control is not None else {}
    in_group = [~high[labels[attacked_rows]], high[labels[attacked_rows]]]
    shares = list(survived.values())
    robust = np.array([[_share(values[attacked == b]) for b in range(n_bins)] for values in shares]).swapaxes(1, 2)
    by_group = np.array([[_share(values[own]) for own in in_group] for values in shares]).swapaxes(1, 2)
    middle = robust.shape[1] // 2
    return {
        "n_points": np.bincount(bins),
        "log_density_mean": by_bin(log_density, bins, np.mean),
        "log_density_std": by_bin(log_density, bins, np.std),
        "memorization_mean": by_bin(memorization, bins, np.mean),
        "memorization_std": by_bin(memorization, bins, np.std),
        "memorization_error": by_bin(memorization_error, bins, np.mean),
        "f1": f1(every, predicted),
        "n_certified": np.bincount(certified, minlength=n_bins),
        **certificates(smoothed, radius),
        **{f"control_{name}": values for name, values in beside.items()},
        "high_share": by_bin(high[labels], bins, np.mean),
        "own_class_removed": _own_class_removed(bins, labels),
        "right_outside": by_bin(right_outside, bins, np.mean),
        "n_attacked": np.bincount(attacked, minlength=n_bins),
        "robust_accuracy": robust,
        "robust_accuracy_by_group": by_group,
        "attack_success": 1 - robust[:, middle] / np.where(robust[:, 0] > 0, robust[:, 0], np.nan),
        "attack_titles": np.array(list(survived)),
        "budgets": np.array([budgets[title] for title in survived]),
        "pixels_per_unit": np.array(pixels_per_unit),
        **{name: np.array(value) for name, value in scale.items()},
    }


def table(stored: Stored) -> list[dict[str, Any]]:
    """One row a bin."""
    return [
        {
            "bin": b + 1,
            "n_points": int(stored["n_points"][b]),
            "mean_log_density_nats": float(stored["log_density_mean"][b]),
            "std_log_density_nats": float(stored["log_density_std"][b]),
            "mean_memorization": float(stored["memorization_mean"][b]),
            "std_memorization": float(stored["memorization_std"][b]),
            "mean_standard_error_of_memorization": float(stored["memorization_error"][b]),
            "f1_without_the_bin": float(stored["f1"][b]),
            "n_certified": int(stored["n_certified"][b]),
            "certified_radius_normalised": float(stored["radius"][b]),
            "certified_radius_pixels": float(stored["radius"][b] * stored["pixels_per_unit"]),
            "certified_radius_wrong_as_0_normalised": float(stored["right_radius"][b]),
            "classification_rate": float(stored["not_abstained"][b]),
            "f1_smoothed": float(stored["smoothed_f1"][b]),
            "share_of_high_density_classes": float(stored["high_share"][b]),
            **{words: float(stored[name][b]) for name, words in (REMOVED | CONTROL).items() if name in stored},
            "n_attacked": int(stored["n_attacked"][b]),
            "n_attacked_rightly_classified": int(_rightly(stored)[b]),
            **{
                f"success of {title}": float(success[b])
                for title, success in zip(stored["attack_titles"], stored["attack_success"], strict=True)
            },
        }
        for b in range(len(stored["n_points"]))
    ]


@styled
def draw(stored: Stored) -> Figure:
    figure = style.canvas(heading("figure_3"), stored, width=9.2, height=10.6)
    panels = figure.subplots(5, 2)
    x = np.arange(1, len(stored["n_points"]) + 1)
    density, memorization, f1, radius, rate, smoothed, share, attacked = panels[:4].flat
    _band(density, x, stored["log_density_mean"], stored["log_density_std"])
    density.set(title="Log-density, mean ± std", ylabel="nats")
    _band(memorization, x, stored["memorization_mean"], stored["memorization_std"])
    memorization.set(title="Memorization, mean ± std")
    _line(f1, x, stored["f1"])
    f1.set(title="F1 without the bin")
    look: dict[str, Any] = {"color": style.MUTED, "linestyle": style.DASHES, "marker": None}
    if _has_control(stored):
        _line(f1, x, stored["right_outside"], label="accuracy without 30% at random", **look)
        f1.legend(loc="best", fontsize=7)
    n = stored["n_certified"]
    _line(radius, x, stored["radius"], stored["radius_std"] / np.sqrt(n))
    radius.set(title="Certified radius, mean", ylabel="normalised units")
    k = float(stored["pixels_per_unit"])
    pixels = radius.secondary_yaxis("right", functions=(lambda value: value * k, lambda value: value / k))
    pixels.set_ylabel("pixel values")
    pixels.spines["right"].set_visible(True)
    _line(rate, x, stored["not_abstained"], share_error(stored["not_abstained"], n))
    rate.set(title="Classification rate (not abstained)")
    _line(smoothed, x, stored["smoothed_f1"], share_error(stored["smoothed_f1"], n))
    smoothed.set(title="F1 of the smoothed classifier")
    for axes, name in ((radius, "radius"), (rate, "not_abstained"), (smoothed, "smoothed_f1")):
        if f"control_{name}" in stored:
            _line(axes, x, stored[f"control_{name}"], label="without the certified points alone", **look)
            axes.legend(loc="best", fontsize=7)
    _stacked(share, x, stored["high_share"])
    share.set(title="Points by class, below or above the gap", ylim=(0, 1.2), yticks=np.linspace(0, 1, 6))
    middle = stored["budgets"].shape[1] // 2
    for look, title, budgets, success in _attacks(stored, "attack_success"):
        _line(attacked, x, success, label=f"{title}, {_budget(budgets[middle])}", **look)
    attacked.set(title="Success of attacks (not in the paper)", ylim=(-0.03, 1.35), yticks=np.linspace(0, 1, 6))
    attacked.legend(loc="upper center", ncols=2, fontsize=7, handlelength=1.5)
    for axes in panels[:4].flat:
        axes.set_xlim(0.4, len(x) + 0.6)
        step = 10 if len(x) > 25 else 5
        axes.set_xticks([1, *range(step, len(x) + 1, step)])
    for axes in (share, attacked):
        axes.set_xlabel("density bin, lowest first")
    for axes, norm in zip(panels[4], ("L∞", "L2"), strict=True):
        _curves(axes, stored, norm)
    for axes in (rate, share, attacked, *panels[4]):
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def caption(stored: Stored) -> str:
    n_bins, n = len(stored["n_points"]), stored["n_points"]
    size = f"{n.min()}" if n.min() == n.max() else f"{n.min()} or {n.max()}"
    dashed = (
        "Such a network has lost more of some classes than of others; dashed is the accuracy of the networks behind "
        "the scores on points outside of their subsets, which lose about as much of every class. "
    )
    dashed = dashed if _has_control(stored) else ""
    control = (
        "Dashed are certificates of the same points, under the same noise, by one network that was trained without "
        "these points alone, and so lacks about as much of every class. "
    )
    control = control if "control_radius" in stored else ""
    sizes, attacked, rightly = map(_count, (stored["n_certified"], stored["n_attacked"], _rightly(stored)))
    return (
        f"Training points in {n_bins} bins of {size} by the log-density of each point under its own class at stage 4 "
        "(under the protocol heldout of a fit that leaves the point out; the paper has 50 bins). "
        f"Memorization is {scores.origin(stored)}. F1 is of a network trained without the "
        f"bin, averaged over classes by their number of points. {dashed}"
        f"Certification: {sizes} points a bin (the paper: all), by a network trained without the bin and with the "
        f"noise, sigma = {float(stored['sigma']):g} in normalised units, n0 = {int(stored['n0'])}, "
        f"n = {int(stored['n']):,} (the paper: 100,000), alpha = {float(stored['alpha']):g}. The radius is that of the "
        "class which the smoothed classifier gives, rightly or not; where it abstains it counts as 0, and where all n "
        f"draws agree it is {_largest_radius(stored):.2f}, the largest there can be. Bars are one standard error "
        f"over the certified points (for F1 up to a quarter too short where few classes have most of them). {control}"
        "F1 of the smoothed classifier is of the certified points, and F1 of few points is lower than that of all "
        "points of a bin (measured: by up to 0.04 at 50 points a bin), so its level does not compare "
        f"with F1 without the bin. Attacks, which the paper does not have, of {attacked} points a bin, of which "
        f"{rightly} are rightly classified by the network without the bin: the share of these that an attack moves to "
        "another class, and accuracy against the budget in classes below and above the largest gap between class means "
        "(which there always is: whether it parts two groups, figure 1 and the scorecard say). PGD also tries the "
        f"single step of FGSM; budgets are in pixel values, 0 to 1. {stored['networks']} {stored['note']}"
    )


def look_for(stored: Stored) -> str:
    return (
        "In the paper memorization falls with density among low-density points and jumps up where the high-density "
        "classes begin; F1 mirrors it. The certified radius and the F1 of the smoothed classifier drop there."
    )


def finding(stored: Stored) -> str:
    def levels(words: str, values: np.ndarray) -> str:
        level = f"{values[0]:.2f} in the lowest bin, {values[-1]:.2f} in the highest"
        extremes = {"least": int(np.argmin(values)), "most": int(np.argmax(values))}
        inside = [
            f"{kind} {values[b]:.2f} in bin {b + 1}"
            for kind, b in extremes.items()
            if values[b] not in (values[0], values[-1])
        ]
        level += f" ({', '.join(inside)})" if inside else ""
        rank = rank_correlation(values, np.arange(len(values)))
        return f"{words}: {level}" + ("" if np.isnan(rank) else f", rank correlation with density {style.rank(rank)}")

    words = {
        "memorization_mean": "mean memorization",
        "f1": "F1 without the bin",
        "radius": "certified radius",
        "smoothed_f1": "F1 of the smoothed classifier",
    }
    text = f"From low to high density, {'; '.join(levels(what, stored[name]) for name, what in words.items())}."
    control = [levels(words[name], stored[f"control_{name}"]) for name in words if f"control_{name}" in stored]
    if control:
        text += f" By a network that lacks the certified points alone, {'; '.join(control)}."
    error = float(stored["memorization_error"].mean())
    if np.isfinite(error):
        text += f" The standard error of a single point's memorization is {error:.2f} on average."
    if "own_class_removed" in stored:
        removed = stored["own_class_removed"]
        text += (
            f" A network without a bin lacks, in the mean over its points, {removed.min():.0%} to {removed.max():.0%} "
            f"(bin {int(np.argmax(removed)) + 1}) of the training images of a point's own class."
        )
    return text


def _has_control(stored: Stored) -> bool:
    return "right_outside" in stored and bool(np.isfinite(stored["right_outside"]).all())


def _rightly(stored: Stored) -> np.ndarray:
    """[B] attacked points that are rightly classified within the budget 0, without an attack."""
    return np.rint(stored["robust_accuracy"][0, 0] * stored["n_attacked"]).astype(int)


def _largest_radius(stored: Stored) -> float:
    """Of a point whose n draws are all of one class: with that the bound of the class's probability is alpha^(1/n)."""
    from scipy.stats import norm

    sigma, n, alpha = (float(stored[name]) for name in ("sigma", "n", "alpha"))
    return max(0.0, sigma * float(norm.ppf(alpha ** (1 / n))))


def _own_class_removed(bins: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[B] the share of its own class that is in the bin, in the mean over the bin's points."""
    counts = np.zeros((bins.max() + 1, labels.max() + 1))
    np.add.at(counts, (bins, labels), 1)
    return (counts**2 / np.maximum(counts.sum(0), 1)).sum(1) / counts.sum(1)


def _share(survived: np.ndarray) -> np.ndarray:
    """[E] share of the points [m, E] that stand within each budget; nan if there are no points."""
    return survived.mean(0) if len(survived) else np.full(survived.shape[1], np.nan)


def _budget(value: float) -> str:
    """Of an attack, in pixel values: as a multiple of 1/255 if it is one."""
    levels = 255 * value
    return f"{levels:.0f}/255" if abs(levels - round(levels)) < 1e-6 and value < 0.1 else f"{value:.3g}"


def _count(n: np.ndarray) -> str:
    return f"{n.min()}" if n.min() == n.max() else f"{n.min()} to {n.max()}"


def _line(axes: Axes, x: np.ndarray, y: np.ndarray, error: np.ndarray | None = None, **look: Any) -> None:
    look = {"color": style.LOW, "marker": "o", **look}
    if error is not None:
        style.bars(axes, x, y - error, y + error, color=look["color"], alpha=0.45, linewidth=1.2)
    axes.plot(x, y, markersize=4 if len(x) <= 25 else 2.5, linewidth=1.4, **look)


def _attacks(stored: Stored, name: str) -> Iterator[tuple[dict[str, Any], str, np.ndarray, np.ndarray]]:
    """Look, title, budgets and one array of each attack."""
    for colour, marker, title, budgets, values in zip(
        COLOURS, MARKERS, stored["attack_titles"], stored["budgets"], stored[name], strict=False
    ):
        yield {"color": colour, "marker": marker}, str(title), budgets, values


def _curves(axes: Axes, stored: Stored, norm: str) -> None:
    """Accuracy against the budget of attacks in one norm, in the colours of the two groups of classes."""
    dashes = iter(("-", "--", ":"))
    for look, title, budgets, robust in _attacks(stored, "robust_accuracy_by_group"):
        if norm in title:
            dash = next(dashes)
            for group, colour, words in ((0, style.LOW, "below"), (1, style.HIGH, "above")):
                line = {"color": colour, "marker": look["marker"], "linestyle": dash}
                _line(axes, budgets, robust[:, group], label=f"{title}, {words}", **line)
    axes.set(title=f"Accuracy under {norm} attacks (not in the paper)", ylim=(-0.03, 1.03))
    axes.set_xlabel(f"budget ({norm}, pixel values)")
    axes.legend(loc="best", fontsize=7, handlelength=2.2)


def _stacked(axes: Axes, x: np.ndarray, high: np.ndarray) -> None:
    axes.bar(x, 1 - high, color=style.LOW, width=0.85, label="below the gap")
    look: dict[str, Any] = {"color": style.HIGH, "hatch": "///", "edgecolor": "white", "linewidth": 0}
    axes.bar(x, high, bottom=1 - high, width=0.85, label="above it", **look)
    axes.legend(loc="upper center", ncols=2, fontsize=7)


def _band(axes: Axes, x: np.ndarray, mean: np.ndarray, std: np.ndarray) -> None:
    axes.fill_between(x, mean - std, mean + std, color=style.LOW, alpha=0.22, linewidth=0)
    _line(axes, x, mean)
