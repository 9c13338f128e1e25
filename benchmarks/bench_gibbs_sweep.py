"""Collapsed Gibbs sweeps: 10 classes of 500 points fitted together, D = 64.

What a sweep costs depends on how many components there are and on how many labels change. So, four states of a chain,
the first three on classes whose 6 components are far apart:

    settled     labels where they belong: nothing moves, 6 components
    moving      some sweeps after a random start: about a tenth of the points move, 6 components
    first       random labels, as every fit starts: most points move, 6 components
    shattered   one cloud a class, which the prior breaks into about 50 components, as real classes are in 64 dimensions
"""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import kernels
from benchmarks.made import ClassInputs, classes
from benchmarks.measure import Peer, compare
from classfit.groups import one_group
from classfit.prior import group_variances, niw_posterior, niw_prior, predictive, standardise, standardised
from kernels import GibbsState, NIWPrior
from paper_repro.workers import one_thread
from tests import tolerances

G, N_CLASS, K, D = 10, 500, 6, 64
SEPARATION = 5.0
SWEEPS_TO_MOVING = 4
SWEEPS_TO_SHATTERED = 10
MUST = {"settled": 0.65, "moving": 0.9}
"""Milliseconds: half as much again as on the two cores of the stored run of commit c34f89c (0.43 and 0.60)."""
PUBLISHED_SECONDS = 1.04
"""One sweep of one class by the published code, on a machine with two cores: measured elsewhere, not here."""


@pytest.mark.parametrize(
    ("state", "block_size", "dtype"),
    [
        ("settled", 1, torch.float32),
        ("settled", 4, torch.float32),
        ("settled", 1, torch.float64),
        ("moving", 1, torch.float32),
        ("moving", 4, torch.float32),
        ("moving", 1, torch.float64),
        ("first", 1, torch.float32),
        ("shattered", 1, torch.float32),
    ],
    ids=lambda value: f"b{value}" if isinstance(value, int) else str(value).removeprefix("torch."),
)
def test_gibbs_sweep(benchmark: Any, state: str, block_size: int, dtype: torch.dtype) -> None:
    case = classes(G, N_CLASS, K, D, 0.0 if state == "shattered" else SEPARATION, dtype)
    prior = niw_prior(*group_variances(case.x, case.group_offsets), K)
    x = standardise(case.x, prior, case.group_offsets)
    before = state_of_chain(state, case, x, standardised(prior))
    n_sweeps = 1 if state == "first" else 10
    order, uniforms = random_numbers(n_sweeps)

    def ours() -> GibbsState:
        return kernels.gibbs_sweep(
            before,
            x,
            order,
            uniforms,
            prior=standardised(prior),
            group_offsets=case.group_offsets,
            block_size=block_size,
        )

    prove_labels(x, before, standardised(prior), block_size)
    peers = []
    # One sweep of one class takes it as long as thousands take ours: it is timed where it is asked for, no oftener.
    if (state, dtype) == ("settled", torch.float32):
        peers = [dpgmm_sweep(case.x[:N_CLASS], case.labels[:N_CLASS], prior, block_size)]
    after = ours()
    result = compare(
        benchmark,
        ours,
        peers,
        rounds=13,
        operation=f"gibbs_sweep, {state}, blocks of {block_size}",
        shapes={"classes": G, "points a class": N_CLASS, "features": D, "sweeps": n_sweeps},
        dtype=str(dtype).removeprefix("torch."),
        flops=n_sweeps * N_CLASS * (float(n_components(before.labels).sum()) + G) * (D + D * (D + 1) + 2 * D),
        work=G * n_sweeps,
    )
    goals = {"must": MUST[state], "aim": 0.3} if state in MUST and dtype == torch.float32 else {}
    result.measure("one sweep of one class", result.seconds / (G * n_sweeps) * 1e3, "ms", **goals, more_is_better=False)
    result.measure("the same by the published code, measured elsewhere", PUBLISHED_SECONDS * 1e3, "ms")
    previous = torch.cat([before.labels[None], after.labels[:-1]])
    result.measure("labels that move in a sweep", 100 * float((after.labels != previous).double().mean()), "%")
    result.measure("components", float(n_components(after.labels[-1]).double().mean()), "")


def state_of_chain(name: str, case: ClassInputs, x: Tensor, prior: NIWPrior) -> GibbsState:
    """The states of a chain that the head of this file lists."""
    at_random = torch.from_numpy(np.random.default_rng(1).integers(K, size=len(x)))
    start = GibbsState(at_random if name in ("first", "moving") else case.labels, torch.ones(G, dtype=torch.float64))
    n_sweeps = {"settled": 0, "first": 0, "moving": SWEEPS_TO_MOVING, "shattered": SWEEPS_TO_SHATTERED}[name]
    if n_sweeps == 0:
        return start
    order, uniforms = random_numbers(n_sweeps, seed=3)
    chain = kernels.gibbs_sweep(start, x, order, uniforms, prior=prior, group_offsets=case.group_offsets)
    return GibbsState(chain.labels[-1], chain.alpha[-1])


def n_components(labels: Tensor) -> Tensor:
    """[G]"""
    return labels.view(G, N_CLASS).amax(1) + 1


def random_numbers(n_sweeps: int, seed: int = 2) -> tuple[Tensor, Tensor]:
    """Visiting order and uniforms."""
    rng = np.random.default_rng(seed)
    order = np.stack([np.concatenate([rng.permutation(N_CLASS) for _ in range(G)]) for _ in range(n_sweeps)])
    return torch.from_numpy(order), torch.from_numpy(rng.random(order.shape))


def prove_labels(x: Tensor, state: GibbsState, prior: NIWPrior, block_size: int, n: int = 60) -> None:
    """One sweep of the first n points of the first class, label for label, against the reference."""
    rng = np.random.default_rng(4)
    start = GibbsState(torch.unique(state.labels[:n], return_inverse=True)[1], state.alpha[:1])
    order, uniforms = torch.from_numpy(rng.permutation(n)), torch.from_numpy(rng.random(n))
    first = NIWPrior(*(field[:1] for field in prior))
    with one_thread():
        mine, reference = (
            kernels.gibbs_sweep(start, x[:n], order, uniforms, prior=first, block_size=block_size, engine=engine).labels
            for engine in ("auto", "reference")
        )
    same = float((mine == reference).double().mean())
    assert same == 1.0, f"{same:.1%} of the labels of a sweep are the reference's"


def dpgmm_sweep(x: Tensor, labels: Tensor, prior: NIWPrior, block_size: int) -> Peer:
    """One sweep of one class by dpgmm 0.2.0, from the same labels, its component densities first held against ours."""
    torch.cholesky = torch.linalg.cholesky  # removed from torch, used by dpgmm
    from dpgmm.samplers import FullCovarianceCollapsedGibbsSampler
    from loguru import logger

    logger.disable("dpgmm")
    members = [set(torch.nonzero(labels == k).flatten().tolist()) for k in range(K)]

    class Sampler(FullCovarianceCollapsedGibbsSampler):
        """From given labels, and in its favour without a log-likelihood of all data; no tracking service is asked."""

        def get_initial_assignment(self, data: np.ndarray) -> Any:
            return [set(own) for own in members], labels.tolist()

        def data_log_likelihood(self, *arguments: Any) -> float:
            return 0.0

        def _init_wandb(self) -> None:
            pass

    sampler = Sampler(init_strategy="init_data_stats", max_clusters_num=K, batch_size=block_size, verbose=False)
    prior_parameters = sampler.compute_prior_params(x, K)
    parameters = [sampler.initialize_params_for_cluster(x[list(own)], prior_parameters) for own in members]
    theirs = sampler.get_t_student_calc(D).log_pdf(
        x,
        [torch.stack([own[name] for own in parameters]) for name in ("mean", "cov_chol")],
        torch.tensor([len(own) for own in members], dtype=torch.float32),
    )
    statistics = kernels.component_statistics(x, labels, K, group_offsets=one_group(len(x)).group_offsets)
    components = predictive(niw_posterior(prior, 0, statistics))
    mine = kernels.student_t_log_density(x.double(), *components)
    # Its scale matrices come from float32 sums of squares about zero.
    tolerance = tolerances.log_density(torch.float32, D, 1e3, squared_distance=2 * float(mine.abs().max()))
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=tolerance)

    def sweep() -> None:
        random.seed(0)
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002, what it draws from
        with one_thread():  # its best
            sampler.fit(1, x)

    return Peer("dpgmm 0.2.0", sweep, None, work=1, every=6)
