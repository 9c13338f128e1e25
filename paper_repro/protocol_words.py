"""What changes from protocol to protocol, in sentences that are made from the stored numbers.

Every sentence holds for any numbers: no class, one, or many; claims that are inconclusive; parts that are not stored.
Names of protocols stand between backticks.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from paper_repro.chains import Tally
from paper_repro.claims import CLAIMS, LEAST_CLASSES
from paper_repro.figures import style
from paper_repro.statistics import LEVEL, gap_p_value, is_split, least_a_side, p_words
from paper_repro.storage import Stored

__all__ = ["Facts", "facts_of", "overlap_row", "paragraph"]


class Facts(NamedTuple):
    """What is said of one protocol; the numbers are of the last stage."""

    name: str
    stage: int
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    """Mean log-density of each class, in nats."""
    high: frozenset[str]
    """Names of its high-density classes."""
    gap: float
    """The largest one between sorted class means, in nats."""
    p: float
    """How often chance alone leaves one as large."""
    ratio: float
    """Of within-class standard deviations, low- to high-density (geometric means); nan without both kinds."""
    verdicts: Mapping[str, str]
    tallies: tuple[Tally, ...]
    stale: tuple[str, ...]


def facts_of(
    name: str, stored: Stored, verdicts: Mapping[str, str], tallies: Sequence[Tally], stale: Sequence[str]
) -> Facts:
    """From the stored numbers of figure A.7 (or figure 1), the scorecard and the table of classes.

    Args:
        name: of the protocol.
        stored: stages [S], class_names [G], mean and std [S, G] in nats, high [G] bool and gap of the last stage.
        verdicts: by name of the claim; empty if there is no scorecard.
        tallies: of each stage; empty if there is no table of classes.
        stale: names of the steps that were not made with the settings and inputs that the others were made with.
    """
    mean, std, high = stored["mean"][-1], stored["std"][-1], stored["high"]
    ratio = float("nan")
    if high.any() and not high.all() and (std > 0).all():
        ratio = float(np.exp(np.log(std[~high]).mean() - np.log(std[high]).mean()))
    names = tuple(str(name) for name in stored["class_names"])
    return Facts(
        name,
        int(stored["stages"][-1]),
        names,
        tuple(mean.tolist()),
        frozenset(np.array(names)[high].tolist()),
        float(stored["gap"]),
        gap_p_value(mean),
        ratio,
        verdicts,
        tuple(tallies),
        tuple(stale),
    )


def overlap_row(reference: Facts, other: Facts) -> dict[str, Any]:
    """How many of the reference's high-density classes are high-density under another protocol: a row of overlap.csv.

    None stands for what does not exist: the overlap of protocols with different classes, the Jaccard index of two empty
    sets, the mean over no classes.
    """
    same = reference.classes == other.classes
    both, either = len(reference.high & other.high), len(reference.high | other.high)
    level = [m for name, m in zip(other.classes, other.mean, strict=True) if name in reference.high] if same else []
    last = other.tallies[-1] if other.tallies else None
    judged = last is not None and last.kind in ("several", "em")
    return {
        "protocol": other.name,
        "out_of_date": ", ".join(other.stale),
        "stage": other.stage,
        "classes": len(other.classes),
        "high_density_classes": len(other.high),
        "compared_with": reference.name,
        "of": len(reference.high),
        "found_again": both if same else None,
        "jaccard": both / either if same and either else None,
        "mean_log_density_of_those_nats": float(np.mean(level)) if level else None,
        "largest_gap_nats": other.gap,
        "p_value": other.p,
        "ratio_of_std": other.ratio,
        "classes_converged": last.n_converged if last is not None and judged else None,
        "names": "; ".join(name for name in other.classes if name in other.high),
    }


def paragraph(facts: Sequence[Facts], not_run: Sequence[str] = ()) -> str:
    """What changes, in one paragraph; `facts` are of at least two protocols, the others are compared with the first."""
    sentences = (_stale, _counts, _overlap, _level, _gaps, _ratios, _claims, _convergence)
    found = [sentence for make in sentences if (sentence := make(facts))]
    if not_run:
        found.append(f"No results are stored for {_names(not_run)}.")
    return " ".join(found)


# ---------------------------------------------------------------- sentences


def _stale(facts: Sequence[Facts]) -> str:
    old = [f"{', '.join(f.stale)} under `{f.name}`" for f in facts if f.stale]
    if not old:
        return ""
    return (
        f"Out of date: {_list(old)}, made with other settings, another seed or from other images or another network; "
        "differences may come from that."
    )


def _counts(facts: Sequence[Facts]) -> str:
    counted = [f"{len(f.high)} of {len(f.classes)} under `{f.name}`" for f in facts]
    return f"Classes above the largest gap at stage {facts[0].stage}: {_list(counted)}."


def _overlap(facts: Sequence[Facts]) -> str:
    first, found, other = facts[0], [], []
    if not first.high:
        return f"`{first.name}` has no class above a gap that could be above one elsewhere."
    for f in facts[1:]:
        row = overlap_row(first, f)
        if row["found_again"] is None:
            other.append(f.name)
        else:
            found.append(f"{row['found_again']} of {row['of']} for `{f.name}` (Jaccard index {row['jaccard']:.2f})")
    words = []
    if found:
        words.append(f"Above it under `{first.name}` and under the other as well: {_list(found)}.")
    if other:
        words.append(f"The classes of {_names(other)} are others and cannot be compared with those of `{first.name}`.")
    return " ".join(words)


def _level(facts: Sequence[Facts]) -> str:
    first = facts[0]
    rows = [overlap_row(first, f) for f in facts]
    levels = [
        f"{style.nats(row['mean_log_density_of_those_nats'])} under `{row['protocol']}`"
        for row in rows
        if row["mean_log_density_of_those_nats"] is not None
    ]
    if len(levels) < 2:
        return ""
    which = "classes that are" if len(first.high) > 1 else "class that is"
    verb = "have" if len(first.high) > 1 else "has"
    return f"The {which} above it under `{first.name}` {verb} a mean log-density, in nats, of {_list(levels)}."


def _gaps(facts: Sequence[Facts]) -> str:
    gaps = [f"{f.gap:.1f} nats under `{f.name}` ({p_words(f.p)})" for f in facts]
    real, not_real = ([f.name for f in facts if is_split(np.array(f.mean), f.p) == small] for small in (True, False))
    least = ", ".join(str(least_a_side(n)) for n in sorted({len(f.classes) for f in facts}))
    words = f"The largest gap between sorted class means is {_list(gaps)}; p is how often chance alone leaves one as "
    words += f"large. At the {1 - LEVEL:.0%} level it is larger than by chance, and has at least {least} classes on "
    words += "either side, under "
    words += f"{_names(real)}, but not under {_names(not_real)}." if real and not_real else ""
    words += "all of them." if not not_real else "none of them." if not real else ""
    few = min(len(f.classes) for f in facts)
    if not_real and few < LEAST_CLASSES:
        words += f" {few} classes are too few to tell a gap from chance."
    return words


def _ratios(facts: Sequence[Facts]) -> str:
    known = [f"{_times(f.ratio)} under `{f.name}`" for f in facts if np.isfinite(f.ratio)]
    none = [f.name for f in facts if not np.isfinite(f.ratio)]
    words = []
    if known:
        words.append(
            "The standard deviation of log-density within a class is, in classes below over those above the largest "
            f"gap (the paper: about ten): {_list(known)}."
        )
    if none:
        words.append(f"There is no such ratio of standard deviations under {_names(none)}.")
    return " ".join(words)


def _claims(facts: Sequence[Facts]) -> str:
    with_card = [f for f in facts if f.verdicts]
    without = [f.name for f in facts if not f.verdicts]
    words = []
    if len(with_card) > 1:
        changed, same = [], []
        for claim, test in CLAIMS.items():
            said = {f.name: f.verdicts[claim] for f in with_card if claim in f.verdicts}
            if len(said) < 2:
                continue
            if len(set(said.values())) == 1:
                same.append(claim)
            else:
                by_verdict = [
                    f"{verdict} under {_names([name for name in said if said[name] == verdict])}"
                    for verdict in dict.fromkeys(said.values())
                ]
                changed.append(f"{claim} ({test.title[0].lower()}{test.title[1:]}) is {', '.join(by_verdict)}")
        if changed:
            words.append(f"Verdicts that change: {'; '.join(changed)}.")
            if same:
                words.append(f"Verdicts that do not: {', '.join(same)}.")
        elif same:
            words.append(f"No claim that can be compared changes its verdict ({', '.join(same)}).")
    if len(without) == len(facts):
        words.append("No scorecard is stored, so no verdicts can be compared.")
    elif without:
        words.append(f"No scorecard is stored for {_names(without)}.")
    return " ".join(words)


def _convergence(facts: Sequence[Facts]) -> str:
    say: dict[str, Callable[[Facts], str]] = {"several": _several, "one": _one, "em": _em}
    words = [say[f.tallies[-1].kind](f) for f in facts if f.tallies and f.tallies[-1].kind]
    without = [f.name for f in facts if not f.tallies or not f.tallies[-1].kind]
    if without:
        words.append(f"Whether fits converged is not stored for {_names(without)}.")
    return " ".join(words)


def _several(facts: Facts) -> str:
    last, total = facts.tallies[-1], sum(tally.n_classes for tally in facts.tallies)
    good = sum(tally.n_converged for tally in facts.tallies)
    words = f"Under `{facts.name}` the chains converged for {last.n_converged} of {last.n_classes} classes at stage "
    words += f"{facts.stage}, and for {good} of {total} at all stages together"
    if fits := sum(tally.n_fits for tally in facts.tallies):
        words += (
            f"; of {fits:,} fits that leave points out {sum(tally.n_fits_converged for tally in facts.tallies)} did"
        )
    return f"{words}; what it says of the others depends on the chain." if good < total else f"{words}."


def _one(facts: Facts) -> str:
    return f"`{facts.name}` has one chain a class, which cannot tell whether it converged."


def _em(facts: Facts) -> str:
    good, total = (sum(getattr(tally, name) for tally in facts.tallies) for name in ("n_converged", "n_classes"))
    return f"Under `{facts.name}` nothing is sampled; EM reached its tolerance in {good} of {total} fits."


# ---------------------------------------------------------------- words


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _names(names: Sequence[str]) -> str:
    return _list([f"`{name}`" for name in names])


def _times(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"
