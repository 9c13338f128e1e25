"""Peels, as the protocol `converged` tries them: 40 a class, of up to 20 points, in 10 classes of 500 points.

The labels are those of one component, and of two states in `bench_gibbs_sweep.py`: 6 components, "settled", and dozens,
"shattered". The peer is ours as well, the form that moves take in which all points may move: by scale matrices in place
of inner products.
"""

import importlib
from typing import Any

import numpy as np
import pytest
import torch

import kernels
from benchmarks.bench_gibbs_sweep import N_CLASS, SEPARATION, G, K, n_components, state_of_chain
from benchmarks.made import classes
from benchmarks.measure import Peer, compare
from classfit.prior import group_variances, niw_prior, standardise, standardised
from classfit.proposals import PEELS_A_ROUND, companions_of, peels, unlearned
from kernels import GibbsState, NIWPrior, SplitMergeInfo, SplitMergeProposals
from paper_repro.workers import one_thread
from tests import tolerances

SAY = {"one": "one component", "few": "6 components", "many": "dozens of components"}


@pytest.mark.parametrize(
    ("components", "D"), [("one", 16), ("one", 64), ("few", 16), ("few", 64), ("many", 64)], ids=str
)
def test_peels(benchmark: Any, components: str, D: int) -> None:
    case = classes(G, N_CLASS, K, D, SEPARATION if components == "few" else 0.0, torch.float32)
    prior = niw_prior(*group_variances(case.x, case.group_offsets), K)
    x = standardise(case.x, prior, case.group_offsets)
    before = state_of_chain("shattered" if components == "many" else "settled", case, x, standardised(prior))
    if components == "one":
        before = before._replace(labels=torch.zeros_like(before.labels))
    arguments = {"prior": standardised(prior), "group_offsets": case.group_offsets}
    engine, proposals = kernels.unchecked(x), made_peels(x, N_CLASS, standardised(prior))

    def log_ratios() -> torch.Tensor:
        return engine.split_merge(before, x, proposals, **arguments)[1].log_ratio

    def by_scale_matrices() -> torch.Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(importlib.import_module("kernels.cpu.split_merge"), "MOST_CANDIDATES", -1)
            return log_ratios()

    prove_ratios(x, before, standardised(prior))
    result = compare(
        benchmark,
        log_ratios,
        [Peer("by scale matrices", by_scale_matrices, 1e3 * tolerances.PEER_RELATIVE)],
        rounds=13,
        operation=f"split_merge, peels, {SAY[components]}",
        shapes={"classes": G, "points a class": N_CLASS, "features": D, "peels a class": PEELS_A_ROUND},
        dtype="float32",
        work=G * PEELS_A_ROUND,
    )
    result.measure("one peel", result.seconds / (G * PEELS_A_ROUND) * 1e6, "us", more_is_better=False)
    after, info = kernels.split_merge(before, x, proposals, **arguments)
    result.measure("peels accepted", 100 * float(info.accepted.double().mean()), "%")
    result.measure("components", float(n_components(after.labels).double().mean()), "")


def made_peels(x: torch.Tensor, n: int, prior: NIWPrior) -> SplitMergeProposals:
    """Of classes of n points."""
    companions = [companions_of(part, scale) for part, scale in zip(x.double().split(n), prior.S0, strict=True)]
    rngs = [np.random.default_rng([5, g]) for g in range(len(companions))]
    return peels(rngs, companions, [unlearned([others]) for others in companions])


def prove_ratios(x: torch.Tensor, state: GibbsState, prior: NIWPrior) -> None:
    """Five peels of the first 60 points of the first class against the reference."""
    n, first = 60, NIWPrior(*(field[:1] for field in prior))
    start = GibbsState(torch.unique(state.labels[:n], return_inverse=True)[1], state.alpha[:1])
    given = SplitMergeProposals(*(field[:5] for field in made_peels(x[:n], n, first)))
    with one_thread():
        found: list[SplitMergeInfo] = [
            kernels.split_merge(start, x[:n], given, prior=first, engine=engine)[1] for engine in ("auto", "reference")
        ]
    np.testing.assert_allclose(found[0].log_ratio, found[1].log_ratio, rtol=1e-7, atol=1e3 * tolerances.PEER_RELATIVE)
    assert found[0].log_ratio.isfinite().any()
