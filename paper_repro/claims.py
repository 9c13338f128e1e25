"""The paper's claims, tested on the stored numbers of its figures: statistics, intervals, verdicts.

A claim has parts. Each part holds, does not hold, or is unclear, by where the 95% interval of its statistic lies. Of
two groups of classes it is the p-value of the gap between them, and the interval of the ratio of their spreads; that
there are none is said where either fails. A p-value above 5% is weak evidence of that.

    reproduced       every part holds
    not reproduced   at least one part does not hold
    inconclusive     anything else: an interval that covers both, too few classes (of all, or in a group), no
                     high-density classes

Classes are the units that are resampled (claims 1-4, 7), and bins for trends over them (5); changes from bin to bin (5,
6) and from stage to stage (8) have the error of their points. What is tested is whether the numbers of this run show
what the paper says; whether this run is like the paper's is said by its profile and protocol.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paper_repro.statistics import (
    LEAST_IN_GROUP,
    LEVEL,
    ORDER_OF_MAGNITUDE,
    Interval,
    difference,
    gap_p_value,
    group_difference,
    is_split,
    least_a_side,
    modes_p_value,
    negative,
    normal_interval,
    p_words,
    rank_correlation,
    rank_correlation_interval,
    resampled,
    share_error,
)
from paper_repro.steps import Work
from paper_repro.storage import Stored, read_arrays, write_csv, write_json

__all__ = ["CLAIMS", "Claim", "Part", "assess", "scorecard"]

LEAST_CLASSES = 20
"""With fewer classes no gap between them can be told from chance with any power."""
LEAST_BINS = 6
"""Fewer bins show no trend: of 5 in any order, 13% have an interval that leaves out 0."""
LITTLE = 0.5
"""Of a rank correlation: one of this size explains a quarter of the variance of ranks."""
AS_CONVERGED = "The result of `converged`, whose densities these are."
"""Remark of claims whose figures are the same under the protocol heldout."""

HOLDS, FAILS, UNCLEAR = "holds", "does not hold", "unclear"
REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE = "reproduced", "not reproduced", "inconclusive"


class Part(NamedTuple):
    """One statement of a claim, with the number that decides it."""

    statement: str
    statistic: str
    value: float
    low: float
    """Lower end of the 95% interval; nan where the statistic has none (a p-value)."""
    high: float
    outcome: str
    """"holds", "does not hold" or "unclear"."""


class Claim(NamedTuple):
    name: str
    """C1 to C8."""
    title: str
    paper: str
    """What the paper says."""
    figures: tuple[str, ...]
    """Whose stored numbers it is tested on."""
    parts: tuple[Part, ...]
    verdict: str
    remark: str
    """Why it is inconclusive, or what to keep in mind."""


def _above(statement: str, statistic: str, value: float, low: float, high: float, bound: float = 0.0) -> Part:
    """A part that holds if the statistic is above a bound."""
    outcome = HOLDS if low > bound else FAILS if high < bound else UNCLEAR
    return Part(statement, statistic, value, low, high, outcome)


def _below(statement: str, statistic: str, value: float, low: float, high: float, bound: float) -> Part:
    """A part that holds if the statistic is below a bound."""
    outcome = HOLDS if high < bound else FAILS if low > bound else UNCLEAR
    return Part(statement, statistic, value, low, high, outcome)


# ---------------------------------------------------------------- two groups of classes


class _Groups(NamedTuple):
    """What tells whether the classes of one stage or layer fall into two groups."""

    gap: Part
    ratio: Part
    found: bool
    excluded: bool
    outliers: bool
    """The gap is beyond chance, but on one side of it there are too few classes for a group."""
    without: str
    """Where the others, without too few on one side, may be two groups: what there is of them."""
    least: int
    """Classes that are enough for a group."""
    smaller: int
    """Classes on the side of the largest gap that has fewer."""
    words: str
    """The gap, and how many classes are above it."""


def _two_groups(mean: np.ndarray, std: np.ndarray, where: str, n_far: int = 0) -> _Groups:
    """`n_far`: how many classes beside these have been left out as outliers; fewer than a group would have may be."""
    from classfit import density_groups

    groups = density_groups(mean)
    high, G = groups.high, len(mean)
    p = gap_p_value(mean)
    smaller, least = min(high.sum(), (~high).sum()), least_a_side(G)
    real = is_split(mean, p)
    nan = float("nan")
    words = f"{groups.gap:.1f} nats, {int(high.sum())} of {G} classes above it"
    gap = Part(
        f"{where}: class means leave a gap that chance does not, with at least {least} classes on each side",
        f"p-value of the largest gap, {words}",
        p,
        nan,
        nan,
        HOLDS if real else FAILS,
    )
    with np.errstate(divide="ignore"):  # a class without spread: there is no ratio
        value, low, upper = (float(np.exp(v)) for v in negative(group_difference(np.log(std), high)))
    value = value if 0 < value < np.inf else nan
    ratio = _above(
        f"{where}: densities spread about ten times less within high-density classes",
        "ratio of within-class standard deviations, low- to high-density (geometric means; an interval needs "
        f"{LEAST_IN_GROUP} classes on each side)",
        value,
        low,
        upper,
        ORDER_OF_MAGNITUDE,
    )
    # A gap is seldom told from chance where the groups are of like size; spreads that differ so much are no chance.
    if not real and smaller >= least and ratio.outcome == HOLDS:
        gap = gap._replace(outcome=UNCLEAR)
    # A few classes far from all others do not make one group of two.
    without = ""
    far = n_far + int(smaller)
    if smaller and far < least_a_side(G + n_far) and G - smaller >= LEAST_CLASSES:
        rest = high if high.sum() > smaller else ~high
        others = _two_groups(mean[rest], std[rest], where, far)
        if not others.excluded:
            gap, ratio = gap._replace(outcome=UNCLEAR), ratio._replace(outcome=UNCLEAR)
            without = others.without or (
                f"{where}: without {'a class' if far == 1 else f'{far} classes'} far from the others there may "
                f"be two groups: largest gap {others.words}, {p_words(others.gap.value)}, ratio of spreads "
                f"{others.ratio.value:.1f}."
            )
    if G < LEAST_CLASSES:
        gap, ratio = gap._replace(outcome=UNCLEAR), ratio._replace(outcome=UNCLEAR)
    found = gap.outcome == HOLDS and ratio.outcome == HOLDS
    excluded = gap.outcome == FAILS or ratio.outcome == FAILS
    outliers = G >= LEAST_CLASSES and p < 1 - LEVEL and smaller < least
    return _Groups(gap, ratio, found, excluded, outliers, without, least, int(smaller), words)


def _no_groups(mean: np.ndarray, std: np.ndarray, where: str) -> tuple[Part, str]:
    """The part that says that there are no two groups here, and a remark."""
    groups = _two_groups(mean, std, where)
    outcome = FAILS if groups.found else HOLDS if groups.excluded else UNCLEAR
    # Too few classes to be a group, but too far from the others, and too alike, to be none.
    if groups.outliers and not groups.ratio.value <= ORDER_OF_MAGNITUDE:
        outcome = UNCLEAR
    p = p_words(groups.gap.value)
    statistic = f"ratio of within-class standard deviations across the largest gap ({groups.words}; {p})"
    part = Part(
        f"{where}: no two groups (of at least {groups.least} classes each, with a gap that chance does not leave and "
        "about ten times less spread in one)",
        statistic,
        groups.ratio.value,
        groups.ratio.low,
        groups.ratio.high,
        outcome,
    )
    return part, groups.without


def _c1(figures: Mapping[str, Stored]) -> tuple[list[Part], str]:
    stored = figures["figure_a7"]
    groups = _two_groups(stored["mean"][-1], stored["std"][-1], f"stage {stored['stages'][-1]}")
    # The claim is about the last stage; the paper's figure 1 shows the one before it as well.
    before = _two_groups(stored["mean"][-2], stored["std"][-2], "")
    words = f"At stage {stored['stages'][-2]}: largest gap {before.words}, {p_words(before.gap.value)}"
    if np.isfinite(before.ratio.value):
        words += f"; ratio of spreads {before.ratio.value:.1f}"
    modes = ""
    if groups.gap.outcome == UNCLEAR and not _few(stored) and not groups.without:
        modes = (
            "Silverman's test of one mode, which finds overlapping groups of like size more easily and does not decide "
            f"here: {p_words(modes_p_value(stored['mean'][-1]))}."
        )
    return [groups.gap, groups.ratio], " ".join(filter(None, (_few(stored), groups.without, modes, f"{words}.")))


def _c2(figures: Mapping[str, Stored]) -> tuple[list[Part], str]:
    stored = figures["figure_a7"]
    stages, D = stored["stages"], stored["dimensions"]
    early = range(min(2, len(stages) - 2))  # the last two are where the paper sees groups
    if not early:
        return [], f"Of {len(stages)} layers none is early: the last two are where the paper sees groups."
    parts, remarks = zip(
        *(_no_groups(stored["mean"][s], stored["std"][s], f"stage {stages[s]}") for s in early), strict=True
    )
    first = stages[0]
    words = f"Stages {first}-{stages[1]} have {D[0]} and {D[1]}" if len(early) > 1 else f"Stage {first} has {D[0]}"
    note = f"{words} dimensions here, stage {stages[-1]} has {D[-1]}: depth and dimension change together."
    return list(parts), " ".join(filter(None, (_few(stored), *remarks, note if D[0] != D[-1] else "")))


def _c3(figures: Mapping[str, Stored]) -> tuple[list[Part], str]:
    stored = figures["figure_a8"]
    found = [
        _no_groups(mean, std, f"layer {layer}, {words}")
        for where, words in (("before", "before ReLU"), ("after", "after ReLU"))
        for layer, mean, std in zip(
            stored[f"{where}_stages"], stored[f"{where}_mean"], stored[f"{where}_std"], strict=True
        )
    ]
    parts, remarks = zip(*found, strict=True)
    few = _few({"class_names": stored["after_class_names"]})
    return list(parts), " ".join(filter(None, (few, *remarks, "The paper reads this network before the ReLU only.")))


def _few(stored: Stored) -> str:
    G = len(stored["class_names"])
    return f"{G} classes are too few to tell a gap from chance." if G < LEAST_CLASSES else ""


# ---------------------------------------------------------------- what goes with density


def _c4(figures: Mapping[str, Stored]) -> tuple[list[Part], str]:
    from paper_repro.figures.scores import words

    stored = figures["figure_2"]
    density, distance, low = stored["mean_log_density"], stored["mean_distance"], ~stored["high"]
    among_low = rank_correlation_interval(distance[low], density[low])
    remark = (
        "Rank correlation of the mean distance with mean log-density: "
        f"{words(rank_correlation_interval(distance, density))} over all classes, {words(among_low)} over the "
        f"{int(low.sum())} below the largest gap."
    )
    if "figure_b5" in figures:
        left_out = figures["figure_b5"]["left_out_mean"][-1]
        by_entropy, by_distance = (
            words(rank_correlation_interval(values, left_out)) for values in (stored["relative_entropy"], distance)
        )
        remark += (
            " Relative entropy is of the same densities as fitted: with the mean log-density of points left out of the "
            f"fit (figure B.5) its rank correlation is {by_entropy}, and that of the distance {by_distance}."
        )
    return [
        _above(
            "relative entropy grows with mean log-density",
            "rank correlation over classes",
            *rank_correlation_interval(stored["relative_entropy"], density),
        ),
        _below(
            "the mean distance within a class does not explain it: less than a quarter of the variance of ranks",
            f"size of the rank correlation over classes (a quarter is {LITTLE} squared)",
            *rank_correlation_interval(distance, density, size=True),
            LITTLE,
        ),
    ], remark


def _transition(figures: Mapping[str, Stored]) -> tuple[int, str]:
    """The first bin in which most points are of high-density classes, and a remark; 0 if there is none, no bin before
    it, or no two groups of classes."""
    stored, by_stage = figures["figure_3"], figures["figure_a7"]
    groups = _two_groups(by_stage["mean"][-1], by_stage["std"][-1], "")
    why = _few(by_stage)
    if not why and groups.excluded:
        why = "at the last stage there are no two groups (C1)."
    elif not why and (groups.without or groups.smaller < LEAST_IN_GROUP):
        few = "1 class" if groups.smaller == 1 else f"{groups.smaller} classes"
        why = f"on one side of the largest gap at the last stage there is no group, only {few} (C1)."
    if why:
        return 0, f"There is no transition to look at: {why}"
    mostly = np.flatnonzero(stored["high_share"] > 0.5)
    if len(mostly) == 0 or mostly[0] == 0:
        return (
            0,
            "No bin is the first with mostly points of high-density classes, so there is no transition to look at (the "
            f"highest bin has {stored['high_share'][-1]:.0%} of them).",
        )
    at = int(mostly[0])
    remark = f"The transition is at bin {at + 1} of {len(stored['high_share'])}."
    if "own_class_removed" in stored:  # not in numbers stored before it was measured
        before, after = (part.mean() for part in np.split(stored["own_class_removed"], [at]))
        remark += (
            f" In the mean, a network without a bin lacks {before:.0%} of the images of a point's own class before it, "
            f"and {after:.0%} from there on"
        )
        remark += ", which lowers F1 and may lower certified radius, not memorization." if after > before else "."
    return at, remark


def _c5(figures: Mapping[str, Stored]) -> tuple[list[Part], str]:
    stored = figures["figure_3"]
    at, remark = _transition(figures)
    if at == 0:
        return [], remark
    memorization, n = stored["memorization_mean"], stored["n_points"]
    errors = stored["memorization_std"] / np.sqrt(n)

    def trend(values: np.ndarray) -> Interval:
        if at < LEAST_BINS:
            return (rank_correlation(values[:at], np.arange(at)), float("nan"), float("nan"))
        return rank_correlation_interval(values[:at], np.arange(at))

    parts = [
        _above(
            "memorization falls with density before the transition",
            "minus the rank correlation over bins",
            *negative(trend(memorization)),
        ),
        _above(
            "memorization jumps up at the transition", "difference across it", *difference(memorization, errors, at)
        ),
        _above("F1 rises with density before the transition", "rank correlation over bins", *trend(stored["f1"])),
        _above(
            "F1 drops at the transition",
            "minus the difference across it",
            *negative(difference(stored["f1"], share_error(stored["f1"], n), at)),
        ),
    ]
    outside = stored.get("right_outside", np.full(len(n), np.nan))
    if np.isfinite(outside).all():
        f1, control = (difference(values, np.zeros(len(n)), at)[0] for values in (stored["f1"], outside))
        remark += (
            f" Across it F1 changes by {f1:+.2f}, the accuracy of networks that lack points at random, about as "
            f"many of every class, by {control:+.2f}."
        )
    return parts, remark


def _c6(figures: Mapping[str, Stored]) -> tuple[list[Part], str]:
    stored = figures["figure_3"]
    at, remark = _transition(figures)
    if at == 0:
        return [], remark
    n = stored["n_certified"]

    def drop(kind: str, name: str) -> Interval:
        """Across the transition, of certificates by the networks without a bin ("") or by the one beside them."""
        values = stored[kind + name]
        spread = stored[f"{kind}radius_std"] / np.sqrt(np.maximum(n, 1))
        return negative(difference(values, spread if name == "radius" else share_error(values, n), at))

    words = {"radius": "the certified radius (normalised units)", "smoothed_f1": "F1 of the smoothed classifier"}
    if "control_radius" in stored:  # not under the protocol paper
        control = {name: "{:.2f} ({:.2f} to {:.2f})".format(*drop("control_", name)) for name in words}
        remark += (
            " By one network that lacks the certified points alone, about as many of every class, the radius drops by "
            f"{control['radius']} and F1 of the smoothed classifier by {control['smoothed_f1']} (95% intervals over "
            "points)."
        )
    return [
        _above(f"{words[name]} drops at the transition", "minus the difference across it", *drop("", name))
        for name in words
    ], remark


# ---------------------------------------------------------------- by stage

MOST, RANDOM, LEAST = 0, 1, 2
"""Rows of the stored arrays of figures 4 and A.11."""


def _c7(figures: Mapping[str, Stored]) -> tuple[list[Part], str]:
    stored = figures["figure_4"]
    divergence = stored["divergence"]  # [3, S, G, G]
    G = divergence.shape[-1]

    def over_pairs(statistic: Callable[[np.ndarray], float]) -> Interval:
        """Classes are resampled; a pair of a class with itself counts for nothing."""

        def of(rows: np.ndarray) -> float:
            values = divergence[:, :, rows][..., rows]
            pairs = rows[:, None] != rows[None, :]
            return statistic(values[..., pairs].mean(-1)) if pairs.any() else float("nan")

        return resampled(G, of)

    def third_step(mean: np.ndarray) -> float:
        steps = np.diff(mean[RANDOM])
        return float(steps[1] - np.delete(steps, 1).max())

    parts = [
        _above(
            "KL grows most between stages 2 and 3 (random points)",
            "that step less the largest other one, nats",
            *over_pairs(third_step),
        )
    ]
    for upper, lower, words in ((LEAST, RANDOM, "least memorized above random"), (RANDOM, MOST, "random above most")):
        parts.append(
            _above(
                f"at the last stage KL is ordered: {words}",
                "difference of means over pairs, nats",
                *over_pairs(lambda mean, upper=upper, lower=lower: float(mean[upper, -1] - mean[lower, -1])),  # type: ignore[misc]
            )
        )
    few = f"{G} classes have enough points of every kind: too few for intervals." if G < LEAST_IN_GROUP else ""
    if LEAST_IN_GROUP <= G < LEAST_CLASSES:
        few = (
            f"{G} classes have enough points of every kind; intervals over so few are too narrow (13: they cover 90%)."
        )
    D = stored["dimensions"]
    note = f"Dimensions are {', '.join(map(str, D))} at these stages; under `paper`, figure B.6 has them equal."
    return parts, " ".join(filter(None, (few, note if len(set(D.tolist())) > 1 else "")))


def _c8(figures: Mapping[str, Stored]) -> tuple[list[Part], str]:
    stored = figures["figure_a11"]
    f1, error = stored["f1"], stored["error"]  # [3, S]

    def least(upper: tuple[Any, Any], lower: tuple[Any, Any]) -> Interval:
        """Of the differences the one that decides whether all are above 0, with an interval for all of them at once."""
        value, its_error = f1[upper] - f1[lower], np.hypot(error[upper], error[lower])
        differences = [normal_interval(*each, at_once=len(value)) for each in zip(value, its_error, strict=True)]
        return min(differences, key=lambda interval: (interval[2] >= 0, interval[1]))

    later, earlier, every = slice(1, None), slice(None, -1), slice(None)
    compared = {
        "generative F1 rises from each stage to the next (random points)": ((RANDOM, later), (RANDOM, earlier)),
        "at every stage F1 is ordered: least memorized above random": ((LEAST, every), (RANDOM, every)),
        "at every stage F1 is ordered: random above most": ((RANDOM, every), (MOST, every)),
    }
    statistic = "smallest difference (interval for all of them at once)"
    return [_above(statement, statistic, *least(*pair)) for statement, pair in compared.items()], ""


class _Test(NamedTuple):
    title: str
    paper: str
    figures: tuple[str, ...]
    parts: Callable[[Mapping[str, Stored]], tuple[list[Part], str]]
    also: tuple[str, ...] = ()
    """Figures that its remark makes use of, where they are there."""


CLAIMS = {
    "C1": _Test(
        "Two groups of classes at the last stage",
        "Class means of log-density leave a wide gap, and the spread within classes differs by an order of magnitude.",
        ("figure_a7",),
        _c1,
    ),
    "C2": _Test("No such groups at stages 1 and 2", "They emerge in the deeper stages only.", ("figure_a7",), _c2),
    "C3": _Test("None in a plain ConvNet", "A plain network shows no such groups at any layer.", ("figure_a8",), _c3),
    "C4": _Test(
        "Relative entropy goes with density, distance does not",
        "Relative entropy grows with mean log-density; the mean distance within a class does not explain it.",
        ("figure_2",),
        _c4,
        ("figure_b5",),
    ),
    "C5": _Test(
        "Memorization falls, then jumps",
        "Memorization falls with density among low-density points and jumps up at the transition; F1 mirrors it.",
        ("figure_3", "figure_a7"),
        _c5,
    ),
    "C6": _Test(
        "Certified robustness drops at the transition",
        "The certified radius and the F1 of the smoothed classifier drop where high-density classes begin.",
        ("figure_3", "figure_a7"),
        _c6,
    ),
    "C7": _Test(
        "Classes part between stages 2 and 3",
        "KL between classes grows mostly between stages 2 and 3; least memorized above random above most memorized.",
        ("figure_4",),
        _c7,
    ),
    "C8": _Test(
        "Generative classification improves with depth",
        "F1 of classification by class densities rises by stage, in the same order of points.",
        ("figure_a11",),
        _c8,
    ),
}
"""The design's claims, by name, in order."""


def assess(figures: Mapping[str, Stored]) -> list[Claim]:
    """Test every claim whose figures are there.

    Args:
        figures: stored numbers by name of the figure.

    Returns:
        The claims in order, less those that need a figure which is not there.
    """
    found = []
    for name, test in CLAIMS.items():
        if not all(figure in figures for figure in test.figures):
            continue
        parts, remark = test.parts(figures)
        outcomes = [part.outcome for part in parts]
        if parts and all(outcome == HOLDS for outcome in outcomes):
            verdict = REPRODUCED
        elif FAILS in outcomes:
            verdict = NOT_REPRODUCED
        else:
            verdict = INCONCLUSIVE
        found.append(Claim(name, test.title, test.paper, test.figures, tuple(parts), verdict, remark))
    return found


def as_json(claims: list[Claim]) -> list[dict[str, Any]]:
    """For scorecard.json: nan becomes null."""

    def number(value: float) -> float | None:
        return value if np.isfinite(value) else None

    return [
        claim._asdict()
        | {
            "parts": [
                part._asdict() | {name: number(getattr(part, name)) for name in ("value", "low", "high")}
                for part in claim.parts
            ]
        }
        for claim in claims
    ]


def scorecard(work: Work) -> None:
    """The step: every claim that the figures among its inputs allow, as scorecard.json and scorecard.csv."""
    figures = {Path(name).name: read_arrays(folder / "numbers.npz") for name, folder in work.inputs.items()}
    shared = set(work.settings.get("of_converged", ()))
    claims = [
        claim._replace(remark=f"{AS_CONVERGED} {claim.remark}".strip()) if shared.issuperset(claim.figures) else claim
        for claim in assess(figures)
    ]
    write_json(work.folder / "scorecard.json", as_json(claims))
    rows = [
        {"claim": claim.name, "title": claim.title, "verdict": claim.verdict, **part._asdict()}
        for claim in claims
        for part in claim.parts or (Part(claim.remark, "", float("nan"), float("nan"), float("nan"), UNCLEAR),)
    ]
    # Of figure 3 alone there are none: its claims need the groups of figure A.7.
    write_csv(work.folder / "scorecard.csv", rows, ("claim", "title", "verdict", *Part._fields))
    for claim in claims:
        work.console.print(f"{claim.name} {claim.title}: [b]{claim.verdict}[/]")
