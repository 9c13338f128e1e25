"""Every Triton kernel against the reference, on the device: fresh random inputs, poisoned outputs, each call twice.

Needs torch, triton and numpy. Under the interpreter (TRITON_INTERPRET=1) the same checks run on the CPU, if small.
"""

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import kernels
from kernels import AlphaNoise, GibbsState, NIWPrior, SplitMergeProposals
from tests import tolerances
from tests.cases import (
    MixtureCase,
    component_densities,
    component_tolerance,
    mixture_case,
    mixture_densities,
    ragged,
    statistics,
)

__all__ = [
    "CONDITION",
    "FEATURES",
    "Check",
    "checks",
    "cholesky_reference",
    "component_reference",
    "em_reference",
    "judge",
    "mixture_reference",
    "poisoned",
    "run_checks",
]

FEATURES = (64, 16, 17, 128)
"""One for each padded size; 17 has zeros to ignore."""

CONDITION = 1e3
SHIFT = 1e3

FEW_POINTS = 40
"""Of no more than these all proposals may be declined by chance."""


class Check(NamedTuple):
    """One call of an operation, compared with the reference and with itself."""

    name: str
    passed: bool
    worst: float
    """Largest error in units of its tolerance; for labels, the number that differ for no good reason."""
    bitwise: bool
    """Two calls gave the same bits."""
    message: str = ""
    seconds: float = 0.0
    """Of the check as a whole, in which its kernels are compiled."""


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill new memory with NaN or a huge number, so that an output that is not written shows."""
    empty, new_empty = torch.empty, Tensor.new_empty

    def filled(make: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        tensor = make(*args, **kwargs)
        huge = 10**9 if tensor.dtype in (torch.int32, torch.int64) else 0
        return tensor.fill_(torch.nan if tensor.is_floating_point() else huge)

    torch.empty = lambda *args, **kwargs: filled(empty, *args, **kwargs)  # type: ignore[assignment]
    Tensor.new_empty = lambda *args, **kwargs: filled(new_empty, *args, **kwargs)  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        torch.empty, Tensor.new_empty = empty, new_empty  # type: ignore[method-assign]


def run_checks(device: str, seed: int, size: int, features: tuple[int, ...], deadline: float) -> Iterator[Check]:
    """All checks in turn; those that would begin after the deadline (time.monotonic) fail as not run."""
    for name, check in checks(device, seed, size, features):
        if time.monotonic() > deadline:
            yield Check(name, False, float("nan"), False, "not run: out of time")
            continue
        start = time.monotonic()
        try:
            result = check()
        except Exception as error:  # a check that breaks must not hide the others
            result = Check(name, False, float("nan"), False, f"{type(error).__name__}: {error}"[:500])
        yield result._replace(name=name, seconds=time.monotonic() - start)


def checks(device: str, seed: int, size: int, features: tuple[int, ...]) -> Iterator[tuple[str, Callable[[], Check]]]:
    """Name and check of every operation at about `size` points, for each number of features and dtype."""
    for D in features:
        for dtype in (torch.float32, torch.float64):
            case = mixture_case(size + 1, 6, D, dtype, CONDITION, SHIFT, seed)
            what = f"D={D} {str(dtype).removeprefix('torch.')}"
            for family in ("gaussian", "student_t"):
                yield f"{family}_log_density {what}", lambda c=case, f=family: _components(c, f, device)
                yield f"mixture_log_density {family} {what}", lambda c=case, f=family: _mixture(c, f, device)
            # So many components that they are split among programs; as of one mixture, and of each point's group.
            many = mixture_case(size + 1, 40, D, dtype, CONDITION, SHIFT, seed)
            yield f"gaussian_log_density of 40 {what}", lambda c=many: _components(c, "gaussian", device)
            yield f"mixture_log_density of 40 {what}", lambda c=many: _mixture(c, "gaussian", device, [0, 40])
            own = ragged(size + 1, 3).tolist()
            yield (
                f"mixture_log_density of the own group {what}",
                lambda c=many, own=own: _mixture(c, "gaussian", device, [0, 1, 3, 40], own),
            )
            near = mixture_case(size + 1, 6, D, dtype, CONDITION, 0.0, seed, spread=0.05)
            yield f"em_statistics {what}", lambda c=near: _em(c, device)
            yield f"em_statistics of three groups {what}", lambda c=near, own=own: _em(c, device, [0, 1, 3, 6], own)
            yield f"component_statistics {what}", lambda c=case: _component_statistics(c, device)
            yield f"precision_cholesky {what}", lambda c=case: _precision_cholesky(c, device)
        for block_size in (1, 4, 9):
            shared_new = block_size == 9
            n = max(size // 5, 12)
            yield (
                f"gibbs_sweep D={D} block={block_size}",
                lambda D=D, b=block_size, s=shared_new, n=n: _gibbs(n, D, b, s, seed, device),
            )
        # With a large alpha and hardly a likelihood, more components than a launch has room for at first.
        half = max(size // 2, 12)
        yield f"gibbs_sweep of many components D={D}", lambda D=D, n=half: _many_components(n, D, seed, device)
        yield f"gibbs_sweep at a power D={D}", lambda D=D, n=n: _gibbs(n, D, 1, False, seed, device, power=0.3)
        # Few candidates, as in peels, and all points, as in Jain & Neal's proposals; and more components than records.
        for candidates in (6, n):
            yield (
                f"split_merge D={D} candidates={candidates}",
                lambda D=D, n=n, c=candidates: _split_merge(n, D, c, seed, device),
            )
        yield f"split_merge of many components D={D}", lambda D=D, n=n: _split_merge(n, D, 6, seed, device, held=1)
        yield f"log_joint D={D}", lambda D=D, n=n: _log_joint(n, D, seed, device)


def _twice(call: Callable[[], Any]) -> tuple[list[Tensor], bool]:
    """The outputs of a call, with poisoned memory, on the CPU; and whether a second call gives the same bits."""
    with poisoned():
        first, second = call(), call()
    one, two = (list(out) if isinstance(out, tuple) else [out] for out in (first, second))
    return [tensor.cpu() for tensor in one], all(
        torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in zip(one, two, strict=True)
    )


def judge(actual: list[Tensor], expected: list[Tensor], tolerance: list[Any], bitwise: bool) -> Check:
    worst = 0.0
    for a, e, t in zip(actual, expected, tolerance, strict=True):
        if a.shape != e.shape:
            return Check("", False, float("inf"), bitwise, f"shape {list(a.shape)}, expected {list(e.shape)}")
        a, e = a.double(), e.double()
        error = torch.where(a == e, 0.0, (a - e).abs() / torch.as_tensor(t, dtype=torch.float64).expand(e.shape))
        # NaN is no number within a tolerance.
        worst = max(worst, float(error.nan_to_num(nan=torch.inf).max()) if error.numel() else 0.0)
    passed = worst <= 1 and bitwise
    return Check(
        "", passed, worst, bitwise, "" if passed else "differs from the reference" if bitwise else "two runs differ"
    )


def _on(case: MixtureCase, device: str) -> MixtureCase:
    return MixtureCase(*(field.to(device) for field in case))


def component_reference(case: MixtureCase, family: str) -> tuple[Tensor, Tensor]:
    """Densities and their tolerances."""
    expected = component_densities(case, family, "reference")
    return expected, component_tolerance(case, expected, CONDITION)


def _components(case: MixtureCase, family: str, device: str) -> Check:
    actual, bitwise = _twice(lambda: component_densities(_on(case, device), family, "triton"))
    expected, tolerance = component_reference(case, family)
    return judge(actual, [expected], [tolerance], bitwise)


def _mixture(
    case: MixtureCase,
    family: str,
    device: str,
    component_edges: Sequence[int] = (0, 1, 3, 6),
    group_edges: Sequence[int] | None = None,
) -> Check:
    """Each point under each group of components, or under its own."""
    edges = (component_edges, group_edges)
    actual, bitwise = _twice(lambda: mixture_densities(_on(case, device), family, "triton", **_offsets(device, *edges)))
    expected, tolerance = mixture_reference(case, family, *edges)
    return judge(actual, [expected], [tolerance], bitwise)


def _offsets(
    device: str, component_edges: Sequence[int] | None, group_edges: Sequence[int] | None
) -> dict[str, Tensor]:
    """Of those that are given, by name."""
    edges = {"component_offsets": component_edges, "group_offsets": group_edges}
    return {name: torch.tensor(own).to(device) for name, own in edges.items() if own is not None}


def mixture_reference(
    case: MixtureCase, family: str, component_edges: Sequence[int], group_edges: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Densities of each point under each group of components, or under its own, and their tolerances."""
    component, error = component_reference(case, family)
    joint = case.log_weight.double() + component
    edges = list(pairwise(component_edges))
    tolerance = torch.stack([(joint[:, a:b].softmax(1) * error[:, a:b]).sum(1) for a, b in edges], dim=1)
    if group_edges is not None:
        tolerance = tolerance[torch.arange(len(case.x)), _groups_of(group_edges)]
    offsets = _offsets("cpu", component_edges, group_edges)
    return mixture_densities(case, family, "reference", **offsets), tolerance


def _groups_of(edges: Sequence[int]) -> Tensor:
    """The group of each row."""
    return torch.repeat_interleave(torch.tensor(edges).diff())


def _em(
    case: MixtureCase,
    device: str,
    component_edges: Sequence[int] | None = None,
    group_edges: Sequence[int] | None = None,
) -> Check:
    """All points under all components, as one group, or each under those of its own."""
    edges = (component_edges, group_edges)
    actual, bitwise = _twice(lambda: statistics(_on(case, device), "triton", **_offsets(device, *edges)))
    return judge(actual, *em_reference(case, *edges), bitwise)


def em_reference(
    case: MixtureCase, component_edges: Sequence[int] | None = None, group_edges: Sequence[int] | None = None
) -> tuple[list[Tensor], list[Any]]:
    """The statistics of points that are one group, or of each group, and their tolerances."""
    component, error = component_reference(case, "gaussian")
    joint = case.log_weight.double() + component
    groups = torch.zeros(len(case.x), dtype=torch.int64)
    if component_edges is not None and group_edges is not None:
        groups = _groups_of(group_edges)
        joint = joint.masked_fill(_groups_of(component_edges) != groups[:, None], -torch.inf)
    share = joint.softmax(1)
    error = (share * error).sum(1)
    dtype, N, worst = case.x.dtype, len(case.x), float(error.max())
    size = float((share[..., None] * (case.x[:, None].double() - case.location.double()).abs()).max())
    allowed = [tolerances.moments(dtype, N, unit, worst) for unit in (1.0, size, size**2)]
    of_groups = torch.zeros(int(groups.max()) + 1, dtype=torch.float64).index_add_(0, groups, error)
    offsets = _offsets("cpu", component_edges, group_edges)
    return list(statistics(case, "reference", **offsets)), [*allowed, of_groups]


def _precision_cholesky(case: MixtureCase, device: str) -> Check:
    factor = case.precision_chol.double()
    covariance = torch.linalg.inv(factor.mT @ factor).to(case.x.dtype)
    actual, bitwise = _twice(lambda: tuple(kernels.precision_cholesky(covariance.to(device), engine="triton")))
    return judge(actual, *cholesky_reference(covariance), bitwise)


def cholesky_reference(covariance: Tensor) -> tuple[list[Tensor], list[Any]]:
    """Factors and log-determinants, and their tolerances."""
    expected = kernels.precision_cholesky(covariance, engine="reference")
    D, largest = covariance.shape[-1], float(expected.precision_chol.abs().max())
    exact = tolerances.inverse_factor(torch.float64, D, CONDITION)
    rounding = tolerances.UNIT_ROUNDOFF[covariance.dtype]
    return list(expected), [(exact + rounding) * largest, exact]


def _component_statistics(case: MixtureCase, device: str) -> Check:
    """Labels of 3, of which one is nobody's, in ragged groups."""
    N = len(case.x)
    labels = torch.arange(N) % 3
    labels[labels == 1] = 0
    offsets = ragged(N, 3)

    def call(x: Tensor, engine: str) -> Any:
        return kernels.component_statistics(
            x, labels.to(x.device), 3, group_offsets=offsets.to(x.device), engine=engine
        )

    actual, bitwise = _twice(lambda: call(case.x.to(device), "triton"))
    allowed = [0.5, tolerances.moments(torch.float64, 1, 2 * SHIFT), tolerances.moments(torch.float64, N, SHIFT)]
    return judge(actual, list(call(case.x, "reference")), allowed, bitwise)


class _Chain(NamedTuple):
    """Two groups of points and a state of their chains."""

    state: GibbsState
    x: Tensor
    prior: NIWPrior
    group_offsets: Tensor


def _chain(rng: np.random.Generator, n: int, D: int, alpha: float | None = None) -> _Chain:
    """Of three clusters each, labelled at random; alpha at random if it is not given.

    The second group lies far from zero, and its features are nearly dependent: of its S0 the condition is up to 1e4.
    """
    sizes = [n, n // 2 + 1]
    edges = np.cumsum([0, *sizes])
    N, G = int(edges[-1]), len(sizes)
    x = rng.normal(size=(N, D)) + 3 * rng.integers(0, 3, size=(N, 1))
    rotation = np.linalg.qr(rng.normal(size=(D, D)))[0]
    x[edges[1] :] = 1e3 + x[edges[1] :] @ rotation * np.logspace(0, 2, D) @ rotation.T
    groups = [x[a:b] for a, b in pairwise(edges)]
    S0 = [(np.cov(own.T, bias=True).reshape(D, D) + np.eye(D)) / 6 ** (2 / D) for own in groups]
    made = (np.array([own.mean(0) for own in groups]), np.full(G, 0.01), np.full(G, D + 2.0), np.array(S0))
    prior = NIWPrior(*map(torch.from_numpy, made))
    labels = np.concatenate([np.unique(rng.integers(6, size=size), return_inverse=True)[1] for size in sizes])
    concentration = rng.exponential(size=G) + 0.1 if alpha is None else np.full(G, alpha)
    state = GibbsState(torch.from_numpy(labels), torch.from_numpy(concentration))
    return _Chain(state, torch.from_numpy(x), prior, torch.from_numpy(edges))


def _there(value: Any, device: str) -> Any:
    if value is None:
        return None
    return type(value)(*(field.to(device) for field in value)) if isinstance(value, tuple) else value.to(device)


def _many_components(n: int, D: int, seed: int, device: str) -> Check:
    from kernels.triton.gibbs_sweep import FIRST_CAPACITY

    # Of 150 points 80 to 110 components.
    least = FIRST_CAPACITY if n > 2 * FIRST_CAPACITY else 0
    return _gibbs(n, D, 1, False, seed, device, alpha=200.0, power=0.01, more_than=least)


def _gibbs(
    n: int, D: int, block_size: int, shared_new: bool, seed: int, device: str, alpha: float | None = None,
    power: float | None = None, more_than: int = 0,
) -> Check:  # fmt: skip
    """Two sweeps of two groups, label for label, up to a group's first uniform that is too near to an edge to tell.

    A given alpha stays; of components there must be more than `more_than`, or the check shows nothing.
    """
    rng, T = np.random.default_rng([seed, n, D, block_size]), 2
    state, x, prior, offsets = _chain(rng, n, D, alpha)
    edges, sizes = offsets.numpy(), offsets.diff().tolist()
    N, G = len(x), len(sizes)
    order = torch.from_numpy(np.stack([np.concatenate([rng.permutation(s) for s in sizes]) for _ in range(T)]))
    uniforms = torch.from_numpy(rng.random((T, N)))
    numbers = (rng.exponential(size=(T, N)), rng.exponential(size=(T, N + G)), rng.random((T, G)))
    noise = AlphaNoise(*map(torch.from_numpy, numbers)) if alpha is None else None
    likelihood = {} if power is None else {"inverse_temperature": torch.full((G,), power, dtype=torch.float64)}

    def call(device: str, engine: str) -> GibbsState:
        here = [_there(value, device) for value in (state, x, order, uniforms, noise, prior, offsets)]
        options = {"block_size": block_size, "shared_new": shared_new, "engine": engine}
        options |= {name: value.to(device) for name, value in likelihood.items()}
        return kernels.gibbs_sweep(*here[:5], prior=here[5], group_offsets=here[6], **options)

    (actual, found_alpha), bitwise = _twice(lambda: call(device, "triton"))
    with _weights_seen() as weights:
        expected = call("cpu", "reference")
    near = [
        min(((weight.cumsum(0)[:-1] - u).abs().tolist()), default=1.0) < tolerances.UNIFORM_EDGE
        for weight, u in zip(weights, uniforms.flatten(), strict=True)
    ]
    unclear = torch.tensor(near).reshape(T, N)
    wrong = 0
    for a, b in pairwise(edges.tolist()):
        from_sweep = unclear[:, a:b].any(1).long().argmax() if unclear[:, a:b].any() else T
        wrong += int((actual[:from_sweep, a:b] != expected.labels[:from_sweep, a:b]).sum())
    same_alpha = bool(unclear.any()) or torch.allclose(found_alpha, expected.alpha, rtol=1e-10, atol=0)
    n_components = int(expected.labels.max()) + 1
    passed = wrong == 0 and bitwise and same_alpha and n_components > more_than
    message = f"{wrong} labels of {actual.numel()} differ; alpha {'equal' if same_alpha else 'differs'}"
    return Check("", passed, float(wrong), bitwise, "" if passed else f"{message}; {n_components} components")


def _split_merge(n: int, D: int, n_candidates: int, seed: int, device: str, held: int | None = None) -> Check:
    """Proposals for two groups, label for label, and the log of each one's acceptance ratio.

    A few points are alone at the start. Proposals are in turns to split a component and to unite one of those points
    with others; `held`: of how many components the kernel is to keep records, in place of its own number.
    """
    # By name: in the package, the function has the name of its file.
    kernel = importlib.import_module("kernels.triton.split_merge")
    rng = np.random.default_rng([seed, n, D, n_candidates])
    chain = _chain(rng, n, D)
    sizes = chain.group_offsets.diff().tolist()
    n_alone, own = min(sizes) // 4, [labels.numpy() for labels in chain.state.labels.split(sizes)]
    for labels in own:  # of the chain's state itself
        labels[:n_alone] = 6 + np.arange(n_alone)
        labels[:] = np.unique(labels, return_inverse=True)[1]
    P, C, S = 4 + n // 10, n_candidates, 2
    anchors, candidates = np.zeros((P, 2, 2), np.int64), np.full((P, 2, C), -1)
    for p in range(P):
        for g, size in enumerate(sizes):
            points = rng.permutation(size)
            # One that is alone, or all of one component.
            first = points == points[points < n_alone][0] if p % 2 else own[g][points] == own[g][points[-1]]
            points = np.concatenate([points[first], points[~first]])
            anchors[p, g], rest = points[:2], points[2 : 2 + C]
            candidates[p, g, : len(rest)] = rest
    # Candidates of a peel start with its anchor.
    launch = np.ones((P, 2, C), np.bool_) if n > C else rng.random((P, 2, C)) < 0.5
    accept = rng.random((P, 2))
    accept[::4] = 1e-300  # so that splits are accepted too
    numbers = (anchors, candidates, launch, rng.random((P, 2, S, C)), accept)
    proposals = SplitMergeProposals(*map(torch.from_numpy, numbers))

    def call(device: str, engine: str) -> tuple[Tensor, ...]:
        state, x, prior, offsets = (_there(value, device) for value in chain)
        there = _there(proposals, device)
        after, info = kernels.split_merge(state, x, there, prior=prior, group_offsets=offsets, engine=engine)
        return after.labels, after.alpha, info.split.int(), info.accepted.int(), info.log_ratio

    usual = kernel.MOST_HELD
    try:
        kernel.MOST_HELD = held or usual
        actual, bitwise = _twice(lambda: call(device, "triton"))
    finally:
        kernel.MOST_HELD = usual
    expected = list(call("cpu", "reference"))
    _, _, split, accepted, log_ratio = expected
    if n > FEW_POINTS and not all((accepted[split == kind] == 1).any() for kind in (0, 1)):
        return Check("", False, float("nan"), bitwise, "no split or no merge is accepted: nothing is shown")
    ratio = tolerances.PEER_RELATIVE * (1 + log_ratio.abs().nan_to_num(posinf=0))
    return judge(actual, expected, [0.5, 1e-300, 0.5, 0.5, ratio], bitwise)


def _log_joint(n: int, D: int, seed: int, device: str) -> Check:
    """Of two labellings of two groups: as they start, and of points that are each alone."""
    chain = _chain(np.random.default_rng([seed, n, D]), n, D)
    alone = torch.cat([torch.arange(size) for size in chain.group_offsets.diff().tolist()])
    states = GibbsState(torch.stack([chain.state.labels, alone]), chain.state.alpha.repeat(2, 1))

    def call(device: str, engine: str) -> Tensor:
        state, x, prior, offsets = (_there(value, device) for value in chain._replace(state=states))
        return kernels.log_joint(state, x, prior=prior, group_offsets=offsets, engine=engine)

    actual, bitwise = _twice(lambda: call(device, "triton"))
    expected = call("cpu", "reference")
    return judge(actual, [expected], [tolerances.PEER_RELATIVE * expected.abs()], bitwise)


@contextmanager
def _weights_seen() -> Iterator[list[Tensor]]:
    """The probabilities that the reference draws labels from, in the order of the visits."""
    softmax, seen = torch.softmax, []

    def recorded(*args: Any, **kwargs: Any) -> Tensor:
        seen.append(softmax(*args, **kwargs))
        return seen[-1]

    torch.softmax = recorded  # type: ignore[assignment]
    try:
        yield seen
    finally:
        torch.softmax = softmax
