"""Each operation at the paper's shapes, timed and proven there, beside its peers on the same card.

Part of `benchmarks.gpu`. What is timed is held against the reference, on some of its points or groups and within the
tolerances of `gpu_checks.py`, and each peer's answer against ours; a wrong one has no ratio.
"""

import functools
import importlib
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import kernels
from benchmarks import gpu_checks
from benchmarks.gpu_checks import CONDITION, FEATURES
from kernels import AlphaNoise, GibbsState, NIWPrior, SplitMergeProposals
from tests import tolerances
from tests.cases import MixtureCase

__all__ = ["Sizes", "measurements", "timed"]

LOG_TWO_PI = math.log(2 * math.pi)
PROVEN_POINTS = 20


class Sizes(NamedTuple):
    """Shapes of what is checked and timed."""

    checked: int = 300
    checked_features: tuple[int, ...] = FEATURES
    features: tuple[int, ...] = (64, 16)
    points: int = 50_000
    components: int = 12_000
    peer_points: int = 100
    """Points of torch.distributions in one call: it holds points x components x features numbers, several times."""
    groups: int = 100
    group: int = 500
    per_group: int = 6
    sweeps: int = 400
    matmul: int = 8192
    copied: int = 2**30
    """Bytes."""
    launches: int = 200
    proposals: int = 40
    """Split-merge proposals a group, as many as a round of `converged` peels, with so many candidates each."""
    candidates: int = 20
    states: int = 20
    """Labellings of which the log joint density is taken."""
    chain_groups: int = 100
    """Groups that are fitted by the protocol "converged"; 0 for none."""
    repeats: int = 15


def timed(call: Callable[[], Any], device: str, repeats: int, warm_up: int = 2) -> dict[str, float]:
    """Seconds of a call by device events: median, least and most."""
    for _ in range(warm_up):
        call()
    seconds = []
    for _ in range(repeats):
        if device == "cpu":
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        else:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begin.record()
            call()
            end.record()
            torch.cuda.synchronize()
            seconds.append(begin.elapsed_time(end) / 1e3)
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds), "repeats": repeats}


def _seconds(operation: str, device: str, repeats: int, *arguments: Any, **options: Any) -> dict[str, Any]:
    """Of an operation on the engine alone, and behind its argument checks, which take about as long as a small one."""
    alone = functools.partial(getattr(_engine(), operation), *arguments, **options)
    checked = functools.partial(getattr(kernels, operation), *arguments, **options, engine="triton")
    return {
        "seconds": timed(alone, device, repeats),
        "seconds_with_argument_checks": timed(checked, device, repeats)["median"],
    }


def measurements(device: str, sizes: Sizes, seed: int) -> list[tuple[str, int, Callable[[], dict[str, Any]]]]:
    """Operation, features, and a call that times and proves it; see `_proof` for what it says of the answer."""
    timings: list[tuple[str, Callable[..., dict[str, Any]]]] = [
        ("mixture density", _time_mixture),
        ("Gaussian densities", functools.partial(_time_components, family="gaussian")),
        ("Student-t densities", functools.partial(_time_components, family="student_t")),
        ("EM statistics", _time_em),
        ("component statistics", _time_component_statistics),
        ("precision factors", _time_precision_cholesky),
        ("Gibbs sweeps", functools.partial(_time_gibbs, block_size=1)),
        ("Gibbs sweeps, blocks of 4", functools.partial(_time_gibbs, block_size=4)),
        ("split-merge proposals", _time_split_merge),
        ("log joint density", _time_log_joint),
    ]
    return [
        (name, D, functools.partial(measure, device, sizes, D, seed))
        for D in sizes.features
        for name, measure in timings
    ]


def _proof(actual: Sequence[Tensor], expected: Sequence[Tensor], tolerance: Sequence[Any]) -> dict[str, Any]:
    """Is what was timed right, and what is its largest error, in units of the tolerance?"""
    check = gpu_checks.judge([tensor.cpu() for tensor in actual], list(expected), list(tolerance), bitwise=True)
    return {"worst_of_tolerance": check.worst, "proven": check.passed}


def _some(n: int, device: str) -> Tensor:
    """Rows that are proven: a few from the first to the last."""
    return torch.linspace(0, n - 1, min(n, PROVEN_POINTS), device=device).long()


def _first_and_last(G: int, n: int, device: str) -> Tensor:
    """The rows of the first and the last of G groups of n."""
    return (torch.tensor([[0], [G - 1]], device=device) * n + torch.arange(n, device=device)).flatten()


def _case(x: Tensor, log_weight: Tensor, mean: Tensor, factor: Tensor, df: Tensor) -> MixtureCase:
    """On the processor, where the reference is quick with little."""
    here = [tensor.cpu() for tensor in (x, log_weight, mean, factor, df)]
    return MixtureCase(*here, covariance=torch.empty(0))


def _made_mixture(N: int, M: int, D: int, device: str, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Points, log weights, means, factors of precisions and of covariances, made on the device."""
    random = torch.Generator(device).manual_seed(seed)
    chol = 0.1 * torch.randn(M, D, D, device=device, generator=random).tril(-1) / math.sqrt(D)
    chol += torch.eye(D, device=device)
    factor = torch.linalg.solve_triangular(chol, torch.eye(D, device=device).expand(M, D, D), upper=False).tril()
    mean = torch.randn(M, D, device=device, generator=random)
    x = mean[torch.arange(N, device=device) % M] + torch.randn(N, D, device=device, generator=random)
    log_weight = torch.randn(M, device=device, generator=random).log_softmax(0)
    return x, log_weight, mean, factor.contiguous(), chol


def _time_mixture(device: str, sizes: Sizes, D: int, seed: int) -> dict[str, Any]:
    N, M = sizes.points, sizes.components
    x, log_weight, mean, factor, chol = _made_mixture(N, M, D, device, seed)
    few = x[: sizes.peer_points]
    found = _seconds("mixture_log_density", device, sizes.repeats, x, log_weight, mean, factor)
    median = found["seconds"]["median"]
    flops = float(N) * M * D * (D + 1)
    traffic = 4.0 * (N * D + M * (D * D + D + 1) + N)
    rates = {
        "points": N, "components": M, **found, "flops": flops, "bytes": traffic, "ceiling": "matmul_tf32",
        "flops_per_second": flops / median, "bytes_per_second": traffic / median,
    }  # fmt: skip
    ours = _engine().mixture_log_density(x, log_weight, mean, factor)
    some = _some(N, device)
    case = _case(x[some], log_weight, mean, factor, torch.ones(M))
    expected, tolerance = gpu_checks.mixture_reference(case, "gaussian", [0, M])
    rates |= _proof([ours[some]], [expected.squeeze(1)], [tolerance.squeeze(1)])

    def distributions() -> Tensor:
        components = torch.distributions.MultivariateNormal(mean, scale_tril=chol, validate_args=False)
        weights = torch.distributions.Categorical(logits=log_weight, validate_args=False)
        return torch.distributions.MixtureSameFamily(weights, components, validate_args=False).log_prob(few)

    allowed = tolerances.log_density(x.dtype, D, CONDITION, squared_distance=2 * float(ours.abs().max()))
    peers = {
        "torch.distributions": _peer(distributions, ours[: len(few)], allowed, median, device, N / len(few)),
        # On all points: it goes through the components in a loop, which few points would not fill.
        "scikit-learn": _peer(lambda: _scikit_learn(x, log_weight, mean, factor), ours, allowed, median, device, 1.0),
    }
    # A peer that could not be asked has no difference; one that was, and differs, has no ratio.
    agree = all("ratio" in peer for peer in peers.values() if "largest_difference" in peer)
    return rates | {"peers": peers, "proven": rates["proven"] and agree}


def _scikit_learn(x: Tensor, log_weight: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """score_samples of scikit-learn's mixture by its array API, on the device of x."""
    from sklearn import config_context
    from sklearn.mixture import GaussianMixture

    model = GaussianMixture(len(mean))
    model.weights_, model.means_, model.n_features_in_ = log_weight.exp(), mean, x.shape[1]
    model.precisions_cholesky_, model.covariances_ = factor.mT.contiguous(), factor
    with config_context(array_api_dispatch=True):
        return torch.as_tensor(model.score_samples(x))


def _peer(
    call: Callable[[], Tensor], expected: Tensor, tolerance: float, ours: float, device: str, scale: float
) -> dict[str, Any]:
    """Time of a peer on some of the points, and how many times as long it would take on all; or why there is none."""
    try:
        error = float((call().to(expected.device) - expected).abs().max())
        if not error <= tolerance:  # NaN is no answer
            return {"error": f"differs by {error:.3g}, allowed {tolerance:.3g}", "largest_difference": error}
        seconds = timed(call, device, repeats=3, warm_up=1)["median"]
    except Exception as problem:  # not installed, too old for the array API, out of memory: it is said
        return {"error": f"{type(problem).__name__}: {problem}"[:200]}
    return {
        "seconds_for_part": seconds,
        "part": 1 / scale,
        "ratio": seconds * scale / ours,
        "largest_difference": error,
    }


def _time_components(device: str, sizes: Sizes, D: int, seed: int, family: str) -> dict[str, Any]:
    """Every point under each of as many components as EM has, written out."""
    N, M = sizes.points, sizes.groups * sizes.per_group
    x, log_weight, mean, factor, _ = _made_mixture(N, M, D, device, seed)
    df = torch.linspace(3, 20, M, device=device)
    arguments = (x, mean, factor) + ((df,) if family == "student_t" else ())
    found = _seconds(f"{family}_log_density", device, sizes.repeats, *arguments)
    median = found["seconds"]["median"]
    flops, traffic = float(N) * M * D * (D + 1), 4.0 * (N * D + M * (D * D + D) + N * M)
    some = _some(N, device)
    ours = getattr(_engine(), f"{family}_log_density")(*arguments)[some]
    expected, tolerance = gpu_checks.component_reference(_case(x[some], log_weight, mean, factor, df), family)
    return {
        "points": N, "components": M, **found, "flops": flops, "bytes": traffic, "ceiling": "matmul_tf32",
        "flops_per_second": flops / median, "bytes_per_second": traffic / median,
        **_proof([ours], [expected], [tolerance]),
    }  # fmt: skip


def _time_em(device: str, sizes: Sizes, D: int, seed: int) -> dict[str, Any]:
    G, n, K = sizes.groups, sizes.group, sizes.per_group
    N, M = G * n, G * K
    x, _, mean, factor, _ = _made_mixture(N, M, D, device, seed)
    groups = torch.arange(G + 1, device=device)
    offsets = {"group_offsets": groups * n, "component_offsets": groups * K}
    log_weight = torch.full((M,), -math.log(K), device=device)
    found = _seconds("em_statistics", device, sizes.repeats, x, log_weight, mean, factor, **offsets)
    median = found["seconds"]["median"]

    def batched() -> Tensor:
        """The same by torch's batched products, float32."""
        difference = x.view(G, 1, n, D) - mean.view(G, K, 1, D)
        white = difference @ factor.view(G, K, D, D).mT
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1).view(G, K, 1)
        joint = log_det - 0.5 * (white.square().sum(-1) + D * LOG_TWO_PI)
        r = joint.softmax(1)
        shift = (r[..., None] * difference).sum(2) / r.sum(-1, keepdim=True)
        centred = difference - shift[:, :, None]
        return (r[..., None] * centred).mT @ centred

    # Its responsibilities differ from ours in float32: it is a yardstick, no proof.
    seconds = timed(batched, device, sizes.repeats)["median"]
    flops = float(N) * K * 2 * D * (D + 1)
    ours = _engine().em_statistics(x, log_weight, mean, factor, **offsets)
    rows, own, two = _first_and_last(G, n, device), _first_and_last(G, K, device), _first_and_last(G, 1, device)
    case = _case(x[rows], log_weight[own], mean[own], factor[own], torch.ones(2 * K))
    expected, tolerance = gpu_checks.em_reference(case, [0, K, 2 * K], [0, n, 2 * n])
    return {
        "groups": G, "points": N, "components": M, **found, "flops": flops, "ceiling": "matmul_tf32",
        "flops_per_second": flops / median,
        "peers": {"torch, batched": {"seconds": seconds, "ratio": seconds / median}},
        **_proof([*(field[own] for field in ours[:3]), ours.log_likelihood[two]], expected, tolerance),
    }  # fmt: skip


def _time_component_statistics(device: str, sizes: Sizes, D: int, seed: int) -> dict[str, Any]:
    G, n, K = sizes.groups, sizes.group, sizes.per_group
    N = G * n
    x = _made_mixture(N, K, D, device, seed)[0]
    labels = torch.arange(N, device=device) % K
    offsets = torch.arange(G + 1, device=device) * n
    found = _seconds("component_statistics", device, sizes.repeats, x, labels, K, group_offsets=offsets)
    traffic = 4.0 * N * D + 8.0 * G * K * (D * D + D + 1)
    rate = traffic / found["seconds"]["median"]
    ours = _engine().component_statistics(x, labels, K, group_offsets=offsets)
    rows, two = _first_and_last(G, n, device), _first_and_last(G, 1, device)
    expected = kernels.component_statistics(
        x[rows].cpu(), labels[rows].cpu(), K, group_offsets=torch.arange(3) * n, engine="reference"
    )
    size = float(x.abs().max())
    allowed = [0.5, tolerances.moments(torch.float64, 1, 2 * size), tolerances.moments(torch.float64, n, size**2)]
    return {
        "groups": G, "points": N, **found, "bytes": traffic, "bytes_per_second": rate,
        **_proof([field[two] for field in ours], expected, allowed),
    }  # fmt: skip


def _time_precision_cholesky(device: str, sizes: Sizes, D: int, seed: int) -> dict[str, Any]:
    M = sizes.groups * sizes.per_group
    chol = _made_mixture(1, M, D, device, seed)[4]
    covariance = chol @ chol.mT
    found = _seconds("precision_cholesky", device, sizes.repeats, covariance)
    some = _some(M, device)
    ours = _engine().precision_cholesky(covariance)
    proof = _proof([field[some] for field in ours], *gpu_checks.cholesky_reference(covariance[some].cpu()))
    return {"components": M, **found, **proof}


class _Chains(NamedTuple):
    """A state of the chains of all groups, on the device."""

    state: GibbsState
    x: Tensor
    prior: NIWPrior
    group_offsets: Tensor

    def first_and_last(self) -> "_Chains":
        """Those of two groups, on the processor."""
        G = len(self.group_offsets) - 1
        n, device = len(self.x) // G, str(self.x.device)
        rows, two = _first_and_last(G, n, device), _first_and_last(G, 1, device)
        state = GibbsState(self.state.labels[..., rows].cpu(), self.state.alpha[..., two].cpu())
        prior = NIWPrior(*(field[two].cpu() for field in self.prior))
        return _Chains(state, self.x[rows].cpu(), prior, torch.arange(3) * n)


def _made_chains(device: str, sizes: Sizes, D: int, random: torch.Generator) -> tuple[_Chains, Tensor]:
    """Clusters far apart, labels at random, and a prior like the paper's; and the cluster [G, n] of each point."""
    G, n = sizes.groups, sizes.group
    centres = 5 * torch.randn(G, sizes.per_group, D, device=device, generator=random)
    member = torch.randint(sizes.per_group, (G, n), device=device, generator=random)
    x = centres[torch.arange(G, device=device)[:, None], member] + torch.randn(G, n, D, device=device, generator=random)
    mean, variance = x.mean(1).double(), x.double().var(1, unbiased=False)
    ones = torch.ones(G, dtype=torch.float64, device=device)
    prior = NIWPrior(mean, 0.01 * ones, (D + 2) * ones, torch.diag_embed(variance / 6 ** (2 / D)))
    labels = torch.randint(min(6, n), (G, n), device=device, generator=random)
    labels = torch.cat([torch.unique(own, return_inverse=True)[1] for own in labels])
    return _Chains(GibbsState(labels, ones), x.view(G * n, D), prior, torch.arange(G + 1, device=device) * n), member


def _time_gibbs(device: str, sizes: Sizes, D: int, seed: int, block_size: int) -> dict[str, Any]:
    """A whole fit by the paper's protocol, from random labels; random numbers come from the device, timed apart."""
    G, n, T = sizes.groups, sizes.group, sizes.sweeps
    N = G * n
    random = torch.Generator(device).manual_seed(seed)
    (state, x, prior, offsets), _ = _made_chains(device, sizes, D, random)

    def numbers() -> tuple[Tensor, Tensor, AlphaNoise]:
        order = torch.rand(T, G, n, device=device, generator=random).argsort(-1).view(T, N)
        uniforms = torch.rand(T, N, device=device, generator=random, dtype=torch.float64)
        beta, gamma = (torch.empty(T, k, device=device, dtype=torch.float64) for k in (N, N + G))
        choice = torch.rand(T, G, device=device, generator=random, dtype=torch.float64)
        return (
            order,
            uniforms,
            AlphaNoise(beta.exponential_(generator=random), gamma.exponential_(generator=random), choice),
        )

    random_seconds = timed(numbers, device, repeats=1, warm_up=1)["median"]
    order, uniforms, noise = numbers()
    arguments = (state, x, order, uniforms, noise)
    options = {"prior": prior, "group_offsets": offsets, "block_size": block_size}
    engine = _engine()
    engine.gibbs_sweep(state, x, order[0], uniforms[0], **options)  # compiled here
    states: list[GibbsState] = []
    sweeps = timed(lambda: states.append(engine.gibbs_sweep(*arguments, **options)), device, repeats=2, warm_up=0)
    whole = timed(lambda: kernels.gibbs_sweep(*arguments, **options, engine="triton"), device, repeats=1, warm_up=0)
    last = states[-1].labels[-1].view(G, n)
    # The reference would take hours for all sweeps: its labels are compared by the checks.
    equal = all(map(torch.equal, states[0], states[1]))
    return {
        "groups": G, "points": N, "sweeps": T, "block_size": block_size, "seconds": sweeps,
        "seconds_with_argument_checks": whole["median"], "seconds_of_random_numbers": random_seconds,
        "components": float((last.amax(1) + 1).double().mean()),
        "two_runs_bitwise_equal": equal, "proven": equal,
    }  # fmt: skip


def _time_split_merge(device: str, sizes: Sizes, D: int, seed: int) -> dict[str, Any]:
    """A round of peels from settled labels, a tenth of the points each alone: in turns one of these and a random point,
    with candidates beside it, against another point; all of one component, or of what would be one."""
    G, n, P = sizes.groups, sizes.group, sizes.proposals
    C, n_alone = min(sizes.candidates, n - 2), max(1, n // 10)
    random = torch.Generator(device).manual_seed(seed)
    chains, member = _made_chains(device, sizes, D, random)
    labels = member.clone()
    labels[:, :n_alone] = sizes.per_group + torch.arange(n_alone, device=device)
    labels = torch.cat([torch.unique(own, return_inverse=True)[1] for own in labels])
    chains = chains._replace(state=chains.state._replace(labels=labels))
    numbers = {"device": device, "generator": random, "dtype": torch.float64}
    first = torch.randint(n, (P, G), device=device, generator=random)
    first[::2] = torch.randint(n_alone, first[::2].shape, device=device, generator=random)
    own = member.expand(P, G, n).gather(2, first[..., None])
    nearness = (
        torch.rand(P, G, n, **numbers) + (member == own) + 2 * (torch.arange(n, device=device) == first[..., None])
    )
    points = nearness.argsort(-1, descending=True)
    proposals = SplitMergeProposals(
        points[..., :2].contiguous(),
        points[..., 2 : 2 + C].contiguous(),
        torch.ones(P, G, C, dtype=torch.bool, device=device),
        torch.rand(P, G, 2, C, **numbers),
        torch.rand(P, G, **numbers),
    )
    options = {"prior": chains.prior, "group_offsets": chains.group_offsets}
    found = _seconds("split_merge", device, sizes.repeats, chains.state, chains.x, proposals, **options)
    after, info = _engine().split_merge(chains.state, chains.x, proposals, **options)
    small, two = chains.first_and_last(), _first_and_last(G, 1, device)
    of_two = SplitMergeProposals(*(field[:, two].cpu() for field in proposals))
    expected, expected_info = kernels.split_merge(
        small.state, small.x, of_two, prior=small.prior, group_offsets=small.group_offsets, engine="reference"
    )
    labels = after.labels[_first_and_last(G, n, device)]
    ratio = tolerances.PEER_RELATIVE * (1 + expected_info.log_ratio.abs().nan_to_num(posinf=0))
    actual, wanted = [labels, info.log_ratio[:, two]], [expected.labels, expected_info.log_ratio]
    moves = {"evaluated": float((info.log_ratio > -torch.inf).double().mean()), "accepted": int(info.accepted.sum())}
    return {"groups": G, "points": G * n, "proposals": P, **moves, **found, **_proof(actual, wanted, [0.5, ratio])}


def _time_log_joint(device: str, sizes: Sizes, D: int, seed: int) -> dict[str, Any]:
    """Of the same random labels, again and again: what it costs does not depend on that."""
    T = sizes.states
    chains, _ = _made_chains(device, sizes, D, torch.Generator(device).manual_seed(seed))
    states = GibbsState(chains.state.labels.repeat(T, 1), chains.state.alpha.repeat(T, 1))
    options = {"prior": chains.prior, "group_offsets": chains.group_offsets}
    found = _seconds("log_joint", device, sizes.repeats, states, chains.x, **options)
    ours = _engine().log_joint(states, chains.x, **options)[:, _first_and_last(sizes.groups, 1, device)]
    small = chains.first_and_last()
    expected = kernels.log_joint(
        small.state, small.x, prior=small.prior, group_offsets=small.group_offsets, engine="reference"
    ).expand(T, 2)
    proof = _proof([ours], [expected], [tolerances.PEER_RELATIVE * expected.abs()])
    return {"groups": sizes.groups, "points": len(chains.x), "states": T, **found, **proof}


def _engine() -> Any:
    return importlib.import_module("kernels.triton")
