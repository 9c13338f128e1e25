"""What the chains of a fit say of themselves: columns of the table of classes, and the sentence above it."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from paper_repro.storage import Stored

__all__ = [
    "SHATTERED",
    "Tally",
    "chain_rows",
    "columns_of_chains",
    "displayed",
    "kept_rows",
    "n_chains",
    "small_share",
    "summary",
    "tally",
    "thinned",
    "until_stopped",
]

CONVERGED, NOT_CONVERGED, ONE_CHAIN = "converged", "not converged", "one chain"
EM_CONVERGED, EM_NOT_CONVERGED = "EM converged", "EM not converged"

SHATTERED = 0.5
"""Share of points in components of fewer points than dimensions, above which a class is called shattered."""


def small_share(labels: np.ndarray, edges: Sequence[int], D: int) -> np.ndarray:
    """[G] share of each class's points in components of fewer than D points, mean over the kept sweeps [S, N]."""
    share = in_small_components(labels, edges, D)
    return np.array([share[a:b].mean() for a, b in pairwise(edges)])


def in_small_components(labels: np.ndarray, edges: Sequence[int], D: int) -> np.ndarray:
    """[N] share of the kept sweeps [S, N] in which each point is in a component of fewer than D points.

    Points are sorted by class, in segments between the edges; labels are numbers within a class.
    """

    def of_class(part: np.ndarray) -> np.ndarray:
        return np.mean([np.bincount(row)[row] < D for row in part], axis=0)

    return np.concatenate([of_class(labels[:, a:b]) for a, b in pairwise(edges)])


def chain_rows(trace: Stored, diagnostics: Stored, n_discard: int | None) -> list[dict[str, Any]]:
    """Columns of classes.csv that judge the fit, one row a class.

    Args:
        trace: what is stored of a `classfit.dpgmm.Trace` or a `classfit.convergence.Convergence`; empty if nothing
            was sampled.
        diagnostics: of the protocols `heldout` (of the fits to the folds) and `em`; else empty.
        n_discard: sweeps that a single chain discards at first; of no use for others.

    Returns:
        Each row has "verdict", and after it what the protocol knows: for several chains what they are flagged for,
        rounds, R-hat and effective sample size, the shares of proposed splits and merges that were accepted (mean
        over chains; nan if none was proposed), how far the lowest chain is above simple labellings, and the mean
        log-density of the class's points under each chain alone; for every chain its log joint in nats, mean over the
        sweeps it keeps; for held-out fits, how many of them converged.
    """
    if not trace:
        return [{"verdict": EM_CONVERGED if good else EM_NOT_CONVERGED} for good in diagnostics["converged"].tolist()]
    rows: list[dict[str, Any]] = []
    for g in range(trace["log_joint"].shape[-1]):
        kept = trace["log_joint"][kept_rows(trace, g, n_discard)][..., g].reshape(-1, n_chains(trace))
        joints = {f"{_JOINT}{c}": float(mean) for c, mean in enumerate(kept.mean(0), start=1)}
        if "converged" not in trace:
            rows.append({"verdict": ONE_CHAIN, **joints})
            continue
        row = {
            "verdict": CONVERGED if trace["converged"][g] else NOT_CONVERGED,
            "flagged_for": _reasons(trace, g),
            "rounds": int(trace["rounds"][g]),
            **{name: float(trace[name][g]) for name in ("rhat_log_joint", "rhat_n_components")},
            **{name: float(trace[name][g]) for name in ("ess_log_joint", "ess_n_components")},
            **{f"{kind}_acceptance": _mean(trace[f"{kind}_acceptance"][:, g]) for kind in ("split", "merge")},
            "least_above_simple_nats": float(trace["above_simple"][:, g].min()),
            **(columns_of_chains(trace["mean_log_density"][:, g]) if "mean_log_density" in trace else {}),
            **joints,
        }
        if "converged" in diagnostics:
            folds = diagnostics["converged"][:, g]
            row |= {"folds": len(folds), "folds_converged": int(folds.sum())}
        rows.append(row)
    return rows


def until_stopped(values: np.ndarray) -> np.ndarray:
    """Of a group's trace [n_sweeps, C] the sweeps before it had stopped (nan, or -1 components)."""
    return values[~((values == -1) | np.isnan(values)).any(1)]


def thinned(trace: np.ndarray, n: int) -> np.ndarray:
    """What a small picture needs of a trace [T, G], or [T, C, G] of C chains: n sweeps evenly over it, all chains
    together, but at least 10 of each. Where a group has fewer, as it had stopped, nan at the end; float32."""
    chains = trace.reshape(len(trace), -1, trace.shape[-1]).astype(np.float64)
    n_chains, n_groups = chains.shape[1:]
    found = np.full((max(n // n_chains, 10), n_chains, n_groups), np.nan, dtype=np.float32)
    for g in range(n_groups):
        own = until_stopped(chains[..., g])
        chosen = np.unique(np.linspace(0, len(own) - 1, min(len(own), len(found))).round().astype(int))
        found[: len(chosen), :, g] = own[chosen]
    return found.reshape(-1, *trace.shape[1:])


def columns_of_chains(means: np.ndarray) -> dict[str, float]:
    """Of tables: the mean log-density of a class under each chain alone, [C] in nats."""
    return {f"{_DENSITY}{c}": float(mean) for c, mean in enumerate(means, start=1)}


def kept_rows(trace: Stored, g: int, n_discard: int | None) -> slice:
    """Rows of the traces that a class's density rests on: after the discarded sweeps, or the second half of rounds."""
    if "rounds" in trace:
        stopped = int(trace["rounds"][g])
        return slice(stopped // 2, stopped)
    return slice(int(np.searchsorted(trace["sweep"], n_discard or 0, side="right")), len(trace["sweep"]))


class Tally(NamedTuple):
    """How many classes of a stage converged."""

    kind: str
    """"several" chains a class, "one" chain, "em", or "" if it was stored before there was a verdict."""
    flagged: list[str]
    """Names of the classes that did not."""
    n_classes: int
    n_fits: int
    """Fits that leave points out (protocol heldout); else 0."""
    n_fits_converged: int

    @property
    def n_converged(self) -> int:
        return self.n_classes - len(self.flagged)


def tally(rows: Sequence[Mapping[str, Any]]) -> Tally:
    """Count the verdicts in a stage's rows of classes.csv."""
    verdicts = [str(row.get("verdict", "")) for row in rows]
    flagged = [str(row["class"]) for row, said in zip(rows, verdicts, strict=True) if said in _FAILED]
    fits, good = (sum(int(row.get(name) or 0) for row in rows) for name in ("folds", "folds_converged"))
    return Tally(_KINDS.get(verdicts[0], ""), flagged, len(rows), fits, good)


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a stage's rows of classes.csv say of all its classes: "words", one line, and "flagged", names of classes."""
    found = tally(rows)
    counted = f"{found.n_converged} of {found.n_classes} classes"
    words = {
        "several": f"{counted} converged",
        "one": "One chain a class: whether it converged cannot be told from it",
        "em": f"EM reached its tolerance in {counted}",
        "": "",
    }[found.kind]
    if found.n_fits:
        words += (
            f" when fitted to all their points, and {found.n_fits_converged} of {found.n_fits} fits that leave some out"
        )
    return {"words": words and f"{words}.", "flagged": found.flagged}


def displayed(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What the chains say, from a stage's rows of classes.csv, as words under the headings of the report's table.

    Empty if nothing was sampled, or if it was stored before this was.
    """
    n_chains = sum(name.startswith(_JOINT) for name in rows[0])
    found = []
    for row in rows if n_chains else ():
        cells = {"class": str(row["class"])}
        if "rhat_log_joint" in row:
            cells |= {
                "flagged for": row["flagged_for"] or "–",
                "rounds": str(row["rounds"]),
                "R-hat: log joint, components": _pair(row["rhat_log_joint"], row["rhat_n_components"], ".3f"),
                "ESS: log joint, components": _pair(row["ess_log_joint"], row["ess_n_components"], ".0f"),
                "accepted: splits, merges": _pair(row["split_acceptance"], row["merge_acceptance"], ".2%"),
            }
        if "folds" in row:
            cells["held-out fits converged"] = f"{row['folds_converged']} of {row['folds']}"
        for c in range(1, n_chains + 1):
            heading = f"log joint of chain {c} (nats)" if n_chains > 1 else "log joint (nats)"
            cells[heading] = _nats(row[_JOINT + str(c)])
        if densities := [float(value) for name, value in row.items() if name.startswith(_DENSITY)]:
            cells["mean log-density: highest less lowest chain (nats)"] = _nats(max(densities) - min(densities))
        if "least_above_simple_nats" in row:
            cells["lowest above simple labellings (nats)"] = _nats(row["least_above_simple_nats"])
        found.append(cells)
    return found


_JOINT = "log_joint_nats_chain_"
_DENSITY = "mean_log_density_nats_chain_"
_FAILED = (NOT_CONVERGED, EM_NOT_CONVERGED)
_KINDS = {
    CONVERGED: "several",
    NOT_CONVERGED: "several",
    ONE_CHAIN: "one",
    EM_CONVERGED: "em",
    EM_NOT_CONVERGED: "em",
}


def _reasons(trace: Stored, g: int) -> str:
    """What a class is flagged for; empty if it converged."""
    from classfit.convergence import MAX_RHAT, MIN_ESS

    if trace["converged"][g]:
        return ""
    found = []
    if max(trace["rhat_log_joint"][g], trace["rhat_n_components"][g]) >= MAX_RHAT:
        found.append("R-hat")
    if min(trace["ess_log_joint"][g], trace["ess_n_components"][g]) <= MIN_ESS:
        found.append("ESS")
    return ", ".join(found)


def n_chains(trace: Stored) -> int:
    return trace["log_joint"].shape[1] if trace["log_joint"].ndim == 3 else 1


def _mean(values: np.ndarray) -> float:
    """Of the finite ones."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _pair(first: Any, second: Any, digits: str) -> str:
    """Two numbers side by side; a dash for a share of nothing."""
    return ", ".join(f"{float(value):{digits}}" if not np.isnan(float(value)) else "–" for value in (first, second))


def _nats(value: Any) -> str:
    return f"{float(value):,.1f}".replace("-", "−")
