"""Figure B.3, beyond the paper: traces of the chains of some classes, and R-hat of all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from paper_repro.chains import SHATTERED, columns_of_chains, kept_rows
from paper_repro.figures import heading, style
from paper_repro.figures.style import Stored, styled

__all__ = ["caption", "compute", "draw", "finding", "look_for", "table"]

QUANTILES = {0.25: "lower quartile", 0.5: "median", 0.75: "upper quartile", 1.0: "highest"}
"""Of the classes, in order of R-hat (several chains) or of the number of components (one): those that are drawn."""
CHAINS = (style.INK, style.LINE, "#cc79a7", "#e69f00")
"""Colours of several chains: not those of classes that have converged or have not."""
LEAST_EXCESS = 1e-3
"""An R-hat closer to 1 is drawn here: the axis is logarithmic in R-hat - 1."""
SUMMARIES = ("rhat_log_joint", "rhat_n_components", "ess_log_joint", "ess_n_components", "converged")


def compute(
    traces: Mapping[int, Stored],
    class_names: Sequence[str],
    dimensions: Sequence[int],
    small_share: Mapping[int, np.ndarray],
    n_discard: int | None,
    remark: str = "",
) -> dict[str, np.ndarray]:
    """The traces of a few classes, and what the chains of every class say.

    Args:
        traces: by stage, what is stored of a `classfit.dpgmm.Trace` or a `classfit.convergence.Convergence`.
        class_names: G names.
        dimensions: D of each stage.
        small_share: by stage, [C, G] share of each class's points in components of fewer than D points, by chain.
        n_discard: sweeps that a single chain discards at first; None: there are several chains.
        remark: what the caption says beside.

    Returns:
        remark; stages, dimensions [S], class_names [G], several (whether there is more than one chain), drawn [S, P]
        indices of the classes that are drawn, kept [S, P, 2] first and last sweep (of several chains: round) that they
        keep; for each stage k: sweep_k [R], log_joint_k [R, C, P] float32 in nats and n_components_k [R, C, P], nan and
        -1 after a class had stopped. Of every class, over the sweeps that it keeps: mean_components [S, G],
        mean_log_joint [S, C, G] in nats, shattered [S, G] number of chains that are (`chains.SHATTERED`); and of
        several chains rhat_log_joint, rhat_n_components, ess_log_joint, ess_n_components, converged [S, G],
        mean_log_density [S, C, G] in nats (of the class's points, under a chain alone; not of fits stored before it
        was), max_rhat and min_ess, the limits, sweeps_a_round and proposals_a_round.
    """
    several, G = n_discard is None, len(class_names)
    positions = np.unique([round(q * (G - 1)) for q in QUANTILES])
    stored: dict[str, Any] = {name: [] for name in ("drawn", "kept", "mean_components", "mean_log_joint")}
    for stage, trace in traces.items():
        R = len(trace["log_joint"])
        joint, components = (trace[name].reshape(R, -1, G) for name in ("log_joint", "n_components"))
        rows = [kept_rows(trace, g, n_discard) for g in range(G)]
        mean = {
            "components": [components[rows[g], :, g].mean() for g in range(G)],
            "log_joint": [joint[rows[g], :, g].mean(0) for g in range(G)],
        }
        by = _larger_rhat(trace) if several else np.array(mean["components"])
        drawn = np.argsort(by, kind="stable")[positions]
        sweep = np.arange(1, R + 1) if several else trace["sweep"]
        stored["drawn"].append(drawn)
        stored["kept"].append([(sweep[rows[g]][0], sweep[rows[g]][-1]) for g in drawn])
        stored["mean_components"].append(mean["components"])
        stored["mean_log_joint"].append(np.transpose(mean["log_joint"]))
        stored |= {
            f"sweep_{stage}": sweep,
            f"log_joint_{stage}": joint[:, :, drawn].astype(np.float32),
            f"n_components_{stage}": components[:, :, drawn].astype(np.int32),
        }
    if several:
        from classfit import convergence, proposals

        stored |= {name: np.stack([trace[name] for trace in traces.values()]) for name in SUMMARIES}
        if all("mean_log_density" in trace for trace in traces.values()):
            stored["mean_log_density"] = np.stack([trace["mean_log_density"] for trace in traces.values()])
        stored |= {"max_rhat": convergence.MAX_RHAT, "min_ess": convergence.MIN_ESS}
        stored |= {
            "sweeps_a_round": convergence.SWEEPS_A_ROUND,
            "proposals_a_round": proposals.PEELS_A_ROUND,
        }
    stored["shattered"] = [(small_share[stage] > SHATTERED).sum(0) for stage in traces]
    about = {"stages": list(traces), "dimensions": dimensions, "class_names": class_names, "several": several}
    about |= {"remark": remark}
    return {name: np.array(value) for name, value in (about | stored).items()}


def table(stored: Stored) -> list[dict[str, Any]]:
    """One row a stage and class."""
    density = stored.get("mean_log_density")
    return [
        {
            "stage": int(stage),
            "class": str(name),
            "drawn": bool(g in stored["drawn"][s]),
            "mean_components": float(stored["mean_components"][s, g]),
            **({"chains_shattered": int(stored["shattered"][s, g])} if "shattered" in stored else {}),
            **{name: stored[name][s, g].item() for name in SUMMARIES if name in stored},
            **{
                f"log_joint_nats_chain_{c}": float(mean)
                for c, mean in enumerate(stored["mean_log_joint"][s, :, g], start=1)
            },
            **(columns_of_chains(density[s, :, g]) if density is not None else {}),
        }
        for s, stage in enumerate(stored["stages"])
        for g, name in enumerate(stored["class_names"])
    ]


@styled
def draw(stored: Stored) -> Figure:
    S, P = stored["drawn"].shape
    several = bool(stored["several"])
    figure = style.canvas(heading("figure_b3"), stored, width=9.2, height=2.15 * S + 0.5)
    cells = figure.add_gridspec(2 * S, P + several, height_ratios=[3, 2] * S)
    first: list[Axes] = []
    for s in range(S):
        for p in range(P):
            above = figure.add_subplot(cells[2 * s, p])
            below = figure.add_subplot(cells[2 * s + 1, p], sharex=above)
            _traces(above, below, stored, s, p)
            if p == 0:
                above.set_ylabel(
                    f"Stage {stored['stages'][s]} (D = {stored['dimensions'][s]})\nlog joint (nats)", fontsize=7.5
                )
                below.set_ylabel("components", fontsize=7.5)
                first += [above, below]
            if s == S - 1:
                below.set_xlabel("round" if several else "sweep", fontsize=8)
        if several:
            _every_rhat(figure.add_subplot(cells[2 * s : 2 * s + 2, P]), stored, s)
    figure.align_ylabels(first)
    _legend(figure, stored)
    return figure


def caption(stored: Stored) -> str:
    text = (
        "Above, log joint density of labels and data given alpha (nats, features in units of their scale in the "
        "class); below, number of components of the same class. "
    )
    if stored["several"]:
        text += (
            "One line a chain; each looked for the best state by itself, from one component, by annealing, and from a "
            "start of its own (one component, components at random, k-means with few and many). "
            f"A round is {stored['sweeps_a_round']} Gibbs sweeps and {stored['proposals_a_round']} or more proposals "
            "of splits and merges; the burn-in before it is not drawn. "
            f"The shaded half is kept. {_which(stored)} of the larger R-hat, that of log joint or of number of "
            "components; with it stands the smaller effective sample size (ESS). Right: that R-hat of every class, in "
            f"order. A class has converged when R-hat is below {stored['max_rhat']:g} and ESS above "
            f"{stored['min_ess']:g} for both."
        )
    else:
        text += (
            "There is one chain, so there is nothing to compare it with, and no R-hat. Sweeps before the shaded ones "
            f"are discarded; the first tenth may begin outside the panel. {_which(stored)} of the mean "
            "number of components over the kept sweeps."
        )
    return " ".join(filter(None, (text, str(stored["remark"]), str(stored["note"]))))


def look_for(stored: Stored) -> str:
    if stored["several"]:
        return (
            "Lines that lie on each other in the shaded half, of log joint and of components. Lines that run side by "
            "side are chains that have not reached the same labellings. How much the mean density of a class depends "
            "on that is said below: much where chains are in different states."
        )
    return (
        "A line that still climbs where the shade begins has not settled. One that is level has found a state; whether "
        "another start would have found the same one a single chain cannot tell: the protocol converged asks that."
    )


def finding(stored: Stored) -> str:
    stages, G = stored["stages"], len(stored["class_names"])
    if not stored["several"]:
        parts = []
        for stage, K in zip(stages, stored["mean_components"], strict=True):
            parts.append(f"{K.min():.1f} to {K.max():.1f} at stage {stage} (median {np.median(K):.1f})")
        return f"Mean number of components of a class, over the kept sweeps: {', '.join(parts)}.{_states(stored, 1)}"
    converged = ", ".join(
        f"{n} at stage {stage}" for stage, n in zip(stages, stored["converged"].sum(1).tolist(), strict=True)
    )
    spread = np.ptp(stored["mean_log_joint"], axis=1)
    apart = ", ".join(f"{np.median(values):.1f} at stage {stage}" for stage, values in zip(stages, spread, strict=True))
    return (
        f"Of {G} classes converged: {converged}. Between the highest and the lowest chain's mean log joint lie, in the "
        f"median class: {apart} nats.{_densities(stored)}{_states(stored, stored['mean_log_joint'].shape[1])}"
    )


def _densities(stored: Stored) -> str:
    """How far the chains of a class are apart in what the other figures show of it."""
    if "mean_log_density" not in stored:  # kept before this was
        return ""
    said = [
        f"{np.median(apart):.1f} (at most {apart.max():.1f}) at stage {stage}"
        for stage, apart in zip(stored["stages"], np.ptp(stored["mean_log_density"], axis=1), strict=True)
    ]
    return (
        " Between the highest and the lowest chain's mean log-density of the class's points, which the marks of "
        f"figures 1 and A.7 show of all chains together: {', '.join(said)} nats."
    )


def _states(stored: Stored, C: int) -> str:
    """How many classes are shattered, and whether all C chains of a class are in the same state."""
    if "shattered" not in stored:  # kept before this was
        return ""
    said = []
    for stage, chains in zip(stored["stages"], stored["shattered"], strict=True):
        n_all, n_some = int((chains == C).sum()), int(((chains > 0) & (chains < C)).sum())
        said.append(f"{n_all}{f' and {n_some}' if C > 1 else ''} at stage {stage}")
    which = " in all chains and in some only" if C > 1 else ""
    what = "more than half of the points in components of fewer points than dimensions"
    return f" Classes that are shattered{which} ({what}): {', '.join(said)}."


def _larger_rhat(stored: Stored) -> np.ndarray:
    return np.maximum(stored["rhat_log_joint"], stored["rhat_n_components"])


def _which(stored: Stored) -> str:
    if stored["drawn"].shape[1] < len(QUANTILES):
        return "The classes are all there are, in order"
    return "The classes drawn are, from left to right, those at the quartiles and the highest"


def _traces(above: Axes, below: Axes, stored: Stored, s: int, p: int) -> None:
    """Both traces of one class, under a title."""
    stage, g = stored["stages"][s], stored["drawn"][s, p]
    sweep, (start, end) = stored[f"sweep_{stage}"], stored["kept"][s, p]
    chosen = sweep <= end
    for axes, name in ((above, "log_joint"), (below, "n_components")):
        values = stored[f"{name}_{stage}"][chosen, :, p].astype(np.float64)
        axes.axvspan(start, end, color=style.GRID, alpha=0.55, linewidth=0, zorder=0)
        colours = CHAINS if stored["several"] else (style.LOW,)
        for c, line in enumerate(values.T):
            axes.plot(sweep[chosen], line, color=colours[c % len(colours)], linewidth=0.9)
        settled = values[len(values) // 10 :]
        # At least one whole number to each trace, also where it hardly changes.
        room = max(0.08 * np.ptp(settled), 0.6 - np.ptp(settled) / 2)
        axes.set_ylim(settled.min() - room, settled.max() + room)
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter("{x:,.0f}")  # with a true minus
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.tick_params(labelsize=6.5, length=2)
    above.tick_params(labelbottom=False)
    quantile = list(QUANTILES.values())[p] if s == 0 and stored["drawn"].shape[1] == len(QUANTILES) else ""
    if quantile:
        quantile = f"{'R-hat' if stored['several'] else 'components'}: {quantile}"
    about = f"mean {stored['mean_components'][s, g]:.1f} components"
    if stored["several"]:
        ess = min(stored["ess_log_joint"][s, g], stored["ess_n_components"][s, g])
        verdict = "converged" if stored["converged"][s, g] else "not converged"
        about = f"{verdict}\nR-hat {_rhat_words(_larger_rhat(stored)[s, g])} · ESS {ess:.0f}"
    pad = 11 + 8 * about.count("\n")
    above.set_title(f"class {stored['class_names'][g]}", fontsize=8, pad=pad)
    above.annotate(about, (0, 1), (0, 3), "axes fraction", "offset points", fontsize=6.5, color=style.MUTED)
    above.annotate(quantile, (0, 1), (0, pad + 11), "axes fraction", "offset points", fontsize=7, color=style.MUTED)


def _every_rhat(axes: Axes, stored: Stored, s: int) -> None:
    """R-hat of every class at a stage, in order; what is infinite is at the upper edge."""
    rhat, converged = _larger_rhat(stored)[s], stored["converged"][s]
    excess = np.maximum(rhat - 1, LEAST_EXCESS)
    finite = excess[np.isfinite(excess)]
    top = max(2.0, 2 * finite.max() if len(finite) else 0)
    order = np.argsort(rhat, kind="stable")
    y = np.where(np.isfinite(excess), excess, top)[order]
    for good, colour in ((True, style.LOW), (False, style.HIGH)):
        chosen = converged[order] == good
        axes.plot(
            np.flatnonzero(chosen), y[chosen], style.MARKERS[not good], color=colour, markersize=3, linestyle="none"
        )
    axes.axhline(float(stored["max_rhat"]) - 1, color=style.INK, linewidth=0.9, linestyle=style.DASHES)
    axes.set_yscale("log")
    axes.set_ylim(LEAST_EXCESS / 1.5, top * 1.5)
    ticks = {t: f"{1 + t:g}" for t in (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0) if t <= top / 2}
    ticks[LEAST_EXCESS] = f"≤ {ticks[LEAST_EXCESS]}"
    if len(finite) < len(excess):
        ticks[top] = "infinite"
    axes.yaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_yticklabels(list(ticks.values()))
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.tick_params(labelsize=6.5, length=2)
    axes.set_title("all classes", fontsize=8, pad=11)
    axes.set_ylabel("R-hat", fontsize=7.5)
    axes.annotate(
        f"{int(converged.sum())} of {len(converged)} converged", (0, 1), (0, 3), "axes fraction", "offset points",
        fontsize=6.5, color=style.MUTED,
    )  # fmt: skip
    if s == len(stored["stages"]) - 1:
        axes.set_xlabel("class, in order", fontsize=8)


def _rhat_words(rhat: float) -> str:
    return f"{rhat:.3f}" if np.isfinite(rhat) else "infinite"


def _legend(figure: Figure, stored: Stored) -> None:
    shade = Patch(color=style.GRID, alpha=0.55, linewidth=0, label="kept")
    if not stored["several"]:
        lines = [Line2D([], [], color=style.LOW, linewidth=1.2, label="the chain")]
        marks: list[Any] = []
    else:
        n_chains = stored["mean_log_joint"].shape[1]
        lines = [
            Line2D([], [], color=CHAINS[c % len(CHAINS)], linewidth=1.6, label=f"chain {c + 1}")
            for c in range(n_chains)
        ]
        look: dict[str, Any] = {"linestyle": "none", "markersize": 4}
        marks = [
            Line2D([], [], color=style.LOW, marker=style.MARKERS[False], label="converged", **look),
            Line2D([], [], color=style.HIGH, marker=style.MARKERS[True], label="not converged", **look),
            Line2D([], [], color=style.INK, linewidth=1, linestyle=style.DASHES, label=f"R-hat {stored['max_rhat']:g}"),
        ]
    handles = [*lines, shade, *marks]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, handlelength=1.6)
