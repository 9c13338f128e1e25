"""Every operation in float64, written to be read: one equation a line, no fusion, no tricks.

This file is the only truth the engines are tested against. It is itself tested against scipy, scikit-learn and
enumeration.
Each function has the name and the signature of the public operation in `kernels`, less `engine`.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from kernels.types import (
    AlphaNoise,
    ComponentStatistics,
    EMStatistics,
    GibbsState,
    NIWPrior,
    PrecisionCholesky,
    SplitMergeInfo,
    SplitMergeProposals,
)


def _squared_distance(x: Tensor, location: Tensor, precision_chol: Tensor) -> Tensor:
    """[N, M] of |W_m (x_n - location_m)|^2: subtract first, then whiten. What lies above W's diagonal is not read."""
    columns = [((x - loc) @ w.tril().T).square().sum(-1) for loc, w in zip(location, precision_chol, strict=True)]
    return torch.stack(columns, dim=1) if columns else x.new_empty(len(x), 0)


def _half_log_det_precision(precision_chol: Tensor) -> Tensor:
    """[M] of log det W = 0.5 log det(precision)."""
    return precision_chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def gaussian_log_density(x: Tensor, mean: Tensor, precision_chol: Tensor) -> Tensor:
    """log N(x_n | mean_m, Sigma_m) = -D/2 log(2 pi) + log det W_m - |W_m (x_n - mean_m)|^2 / 2."""
    x, mean, precision_chol = x.double(), mean.double(), precision_chol.double()
    D = x.shape[1]
    log_normaliser = -0.5 * D * math.log(2 * math.pi) + _half_log_det_precision(precision_chol)
    return log_normaliser - 0.5 * _squared_distance(x, mean, precision_chol)


def student_t_log_density(x: Tensor, location: Tensor, precision_chol: Tensor, df: Tensor) -> Tensor:
    """log t_df(x_n | location_m, scale_m), with d = |W_m (x_n - location_m)|^2:
    lgamma((df + D)/2) - lgamma(df/2) - D/2 log(df pi) + log det W_m - (df + D)/2 log(1 + d / df).
    """
    x, location, precision_chol, df = x.double(), location.double(), precision_chol.double(), df.double()
    D = x.shape[1]
    log_normaliser = (
        torch.lgamma(0.5 * (df + D))
        - torch.lgamma(0.5 * df)
        - 0.5 * D * torch.log(df * math.pi)
        + _half_log_det_precision(precision_chol)
    )
    squared_distance = _squared_distance(x, location, precision_chol)
    return log_normaliser - 0.5 * (df + D) * torch.log1p(squared_distance / df)


def mixture_log_density(
    x: Tensor,
    log_weight: Tensor,
    location: Tensor,
    precision_chol: Tensor,
    df: Tensor | None = None,
    component_offsets: Tensor | None = None,
    *,
    group_offsets: Tensor | None = None,
) -> Tensor:
    """log sum_m exp(log_weight_m) p_m(x_n) over all components, over each group's, or over the point's own group's."""
    if df is None:
        component = gaussian_log_density(x, location, precision_chol)
    else:
        component = student_t_log_density(x, location, precision_chol, df)
    joint = log_weight.double() + component
    if component_offsets is None:
        return torch.logsumexp(joint, dim=1)
    groups = _segments(component_offsets)
    per_group = torch.stack([torch.logsumexp(joint[:, a:b], dim=1) for a, b in groups], dim=1)
    if group_offsets is None:
        return per_group
    return torch.cat([per_group[a:b, g] for g, (a, b) in enumerate(_segments(group_offsets))])


def em_statistics(
    x: Tensor,
    log_weight: Tensor,
    mean: Tensor,
    precision_chol: Tensor,
    *,
    group_offsets: Tensor | None = None,
    component_offsets: Tensor | None = None,
) -> EMStatistics:
    """Responsibilities r_nm = softmax_m(log_weight_m + log N(x_n | m)) within the point's group, and their moments."""
    x, log_weight = x.double(), log_weight.double()
    mean, precision_chol = mean.double(), precision_chol.double()
    points = _segments(group_offsets) if group_offsets is not None else [(0, len(x))]
    components = _segments(component_offsets) if component_offsets is not None else [(0, len(mean))]
    counts, sums, scatters, log_likelihood = [], [], [], []
    for (a, b), (c, d) in zip(points, components, strict=True):
        joint = log_weight[c:d] + gaussian_log_density(x[a:b], mean[c:d], precision_chol[c:d])
        evidence = torch.logsumexp(joint, dim=1, keepdim=True)
        responsibility = torch.where(evidence == -math.inf, 0.0, torch.exp(joint - evidence))
        log_likelihood.append(evidence.sum())
        for m in range(d - c):
            r = responsibility[:, m]
            count = r.sum()
            centred = x[a:b] - mean[c + m]
            total = r @ centred
            shift = total / count if count > 0 else torch.zeros_like(total)
            about_mean = centred - shift
            counts.append(count)
            sums.append(total)
            scatters.append((r[:, None] * about_mean).T @ about_mean)
    D = x.shape[1]
    return EMStatistics(
        counts=torch.stack(counts) if counts else x.new_empty(0),
        sums=torch.stack(sums) if sums else x.new_empty(0, D),
        scatters=torch.stack(scatters) if scatters else x.new_empty(0, D, D),
        log_likelihood=torch.stack(log_likelihood),
    )


def precision_cholesky(covariance: Tensor) -> PrecisionCholesky:
    """W = L^-1 and log det(covariance) = -2 log det W, with covariance = L L'; nan where there is no such L."""
    covariance = covariance.double()
    chol, info = torch.linalg.cholesky_ex(covariance.tril() + covariance.tril(-1).mT)
    precision_chol = torch.linalg.inv_ex(chol).inverse.tril()
    precision_chol[info != 0] = torch.nan
    return PrecisionCholesky(precision_chol, -2 * _half_log_det_precision(precision_chol))


def component_statistics(
    x: Tensor, labels: Tensor, n_components: int, *, group_offsets: Tensor | None = None
) -> ComponentStatistics:
    """Count, mean and scatter about that mean of the points of each label, per group."""
    x = x.double()
    segments = _segments(group_offsets) if group_offsets is not None else [(0, len(x))]
    G, D = len(segments), x.shape[1]
    counts = torch.zeros(G, n_components, dtype=torch.int64, device=x.device)
    means = torch.zeros(G, n_components, D, dtype=torch.float64, device=x.device)
    scatters = torch.zeros(G, n_components, D, D, dtype=torch.float64, device=x.device)
    for g, (a, b) in enumerate(segments):
        for k in range(n_components):
            members = x[a:b][labels[a:b] == k]
            if len(members):
                counts[g, k] = len(members)
                means[g, k] = members.mean(0)
                scatters[g, k] = (members - means[g, k]).T @ (members - means[g, k])
    return ComponentStatistics(counts, means, scatters)


def gibbs_sweep(
    state: GibbsState,
    x: Tensor,
    order: Tensor,
    uniforms: Tensor,
    alpha_noise: AlphaNoise | None = None,
    *,
    prior: NIWPrior,
    group_offsets: Tensor | None = None,
    block_size: int = 1,
    shared_new: bool = False,
    alpha_shape: int = 1,
    correction: Tensor | None = None,
    inverse_temperature: Tensor | None = None,
) -> GibbsState:
    """Visit the points of each group in the given order; draw each label from its conditional given all the others."""
    x = x.double()
    segments = _segments(group_offsets) if group_offsets is not None else [(0, len(x))]
    stacked = order.ndim == 2
    orders, all_uniforms = (order, uniforms) if stacked else (order[None], uniforms[None])
    corrections = None if correction is None else correction.double().reshape(len(orders), -1)
    beta = torch.ones(len(orders), len(segments)) if inverse_temperature is None else inverse_temperature
    beta = beta.expand(len(orders), len(segments))
    labels, alpha = state.labels.clone(), state.alpha.double().clone()
    labels_after, alpha_after = [], []
    for t in range(len(orders)):
        for g, (a, b) in enumerate(segments):
            labels[a:b] = _sweep_group(
                labels[a:b].tolist(),
                x[a:b],
                orders[t, a:b].tolist(),
                all_uniforms[t, a:b].double().tolist(),
                float(alpha[g]),
                NIWPrior(*(field[g] for field in prior)),
                block_size,
                shared_new,
                None if corrections is None else corrections[t, a:b].tolist(),
                float(beta[t, g]),
            )
            if alpha_noise is not None:
                n_components = int(labels[a:b].max()) + 1
                noise = _noise_of_group(alpha_noise, t, g, a, b, alpha_shape)
                alpha[g] = _resample_alpha(alpha[g], n_components, noise, alpha_shape)
        labels_after.append(labels.clone())
        alpha_after.append(alpha.clone())
    if not stacked:
        return GibbsState(labels, alpha)
    return GibbsState(torch.stack(labels_after), torch.stack(alpha_after))


def _sweep_group(
    labels: list[int],
    x: Tensor,
    order: list[int],
    uniforms: list[float],
    alpha: float,
    prior: NIWPrior,
    block_size: int,
    shared_new: bool,
    correction: list[float] | None,
    beta: float,
) -> Tensor:
    """One sweep of one group. A label is a slot; a new component takes the lowest slot that holds no point.

    Within a block every label is drawn given the points outside the block only; new components are opened in visiting
    order after all draws of the block, one for all of them with `shared_new`, else one each. With `correction`, the
    draw of a block is a Metropolis-Hastings proposal.
    """
    if correction is not None and len(order) <= block_size:
        block_size = 1
    for start in range(0, len(order), block_size):
        block = order[start : start + block_size]
        before = [labels[i] for i in block]
        for i in block:
            labels[i] = -1
        occupied = sorted(set(labels) - {-1})
        drawn, log_conditionals = [], []
        for position, i in enumerate(block, start):
            log_weight = []
            for slot in occupied:
                members = x[[j for j, label in enumerate(labels) if label == slot]]
                log_weight.append(math.log(len(members)) + beta * _niw_predictive(x[i], members, prior))
            log_weight.append(math.log(alpha) + beta * _niw_predictive(x[i], x[:0], prior))
            joint = torch.tensor(log_weight, dtype=torch.float64)
            edges = torch.softmax(joint, dim=0).cumsum(0)
            choice = min(int((edges <= uniforms[position]).sum()), len(occupied))
            drawn.append(occupied[choice] if choice < len(occupied) else -1)
            log_conditionals.append(dict(zip([*occupied, -1], torch.log_softmax(joint, dim=0).tolist(), strict=True)))
        opened = None
        for i, slot in zip(block, drawn, strict=True):
            labels[i] = slot
        for i, slot in zip(block, drawn, strict=True):
            if slot == -1:
                if opened is None or not shared_new:
                    opened = min(set(range(len(order))) - set(labels))
                labels[i] = opened
        if correction is not None:
            after = [labels[i] for i in block]
            log_ratio = _block_log_ratio(labels, block, before, after, log_conditionals, x, alpha, prior, beta)
            if not correction[start] < math.exp(min(0.0, log_ratio)):
                for i, slot in zip(block, before, strict=True):
                    labels[i] = slot
    return torch.unique(torch.tensor(labels), return_inverse=True)[1]


def _block_log_ratio(
    labels: list[int],
    block: list[int],
    before: list[int],
    after: list[int],
    log_conditionals: list[dict[int, float]],
    x: Tensor,
    alpha: float,
    prior: NIWPrior,
    beta: float,
) -> float:
    """log [pi(after) q(before) / (pi(before) q(after))] for the labels of a block given those of all other points.

    q is the product of the conditionals that each label was drawn from, pi the joint conditional: the product of those
    in which each label is given the ones before it, too.
    """
    log_joint, log_proposal = {}, {}
    for name, slots in (("before", before), ("after", after)):
        assigned = [-1 if i in block else label for i, label in enumerate(labels)]
        occupied = set(assigned) - {-1}
        new = [slot for slot in slots if slot not in occupied]
        log_joint[name] = log_proposal[name] = 0.0
        if len(new) > len(set(new)):  # two points in one new component are never proposed
            log_proposal[name] = -math.inf
        for i, slot, log_conditional in zip(block, slots, log_conditionals, strict=True):
            members = x[[j for j, label in enumerate(assigned) if label == slot]]
            weight = math.log(len(members)) if len(members) else math.log(alpha)
            log_joint[name] += weight + beta * _niw_predictive(x[i], members, prior)
            log_proposal[name] += log_conditional[slot if slot in occupied else -1]
            assigned[i] = slot
    return log_joint["after"] - log_joint["before"] + log_proposal["before"] - log_proposal["after"]


def _niw_predictive(x: Tensor, members: Tensor, prior: NIWPrior) -> float:
    """log t(x) of a component that holds `members`: the predictive of its normal-inverse-Wishart posterior."""
    n, D = len(members), x.shape[0]
    mu0, kappa0, nu0, S0 = (field.double() for field in prior)
    xbar = members.mean(0) if n else mu0
    C = (members - xbar).T @ (members - xbar)
    kappa_n, nu_n = kappa0 + n, nu0 + n
    m_n = (kappa0 * mu0 + n * xbar) / kappa_n
    S_n = S0 + C + (kappa0 * n / kappa_n) * torch.outer(xbar - mu0, xbar - mu0)
    df = nu_n - D + 1
    scale = S_n * (kappa_n + 1) / (kappa_n * df)
    precision_chol = torch.linalg.inv(torch.linalg.cholesky(scale))
    return float(student_t_log_density(x[None], m_n[None], precision_chol[None], df[None])[0, 0])


def split_merge(
    state: GibbsState,
    x: Tensor,
    proposals: SplitMergeProposals,
    *,
    prior: NIWPrior,
    group_offsets: Tensor | None = None,
) -> tuple[GibbsState, SplitMergeInfo]:
    """Try the proposals of each group one after the other."""
    x = x.double()
    segments = _segments(group_offsets) if group_offsets is not None else [(0, len(x))]
    P, G = proposals.accept.shape
    labels = state.labels.clone()
    split, accepted = (torch.zeros(P, G, dtype=torch.bool, device=x.device) for _ in range(2))
    log_ratio = torch.full((P, G), -math.inf, dtype=torch.float64, device=x.device)
    for g, (a, b) in enumerate(segments):
        of_group = labels[a:b].tolist()
        for p in range(P):
            i, j = proposals.anchors[p, g].tolist()
            if i == j:
                continue
            one = SplitMergeProposals(*(field[p, g] for field in proposals))
            split[p, g] = of_group[i] == of_group[j]
            arguments = (of_group, x[a:b], one, float(state.alpha[g]), NIWPrior(*(field[g] for field in prior)))
            of_group, log_ratio[p, g], accepted[p, g] = _try_split_or_merge(*arguments)
        labels[a:b] = torch.tensor(of_group)
    return GibbsState(labels, state.alpha.clone()), SplitMergeInfo(split, log_ratio, accepted)


def _try_split_or_merge(
    labels: list[int], x: Tensor, proposal: SplitMergeProposals, alpha: float, prior: NIWPrior
) -> tuple[list[int], float, bool]:
    """Jain & Neal (2004), with the points that may go with i limited to the candidates."""
    i, j = proposal.anchors.tolist()
    together = [n for n, label in enumerate(labels) if label in (labels[i], labels[j])]
    is_split = labels[i] == labels[j]
    movable = [(t, n) for t, n in enumerate(proposal.candidates.tolist()) if n in together]
    with_i = [n for n in together if labels[n] == labels[i]]
    if not is_split and not set(with_i) <= {i} | {n for _, n in movable}:
        return labels, -math.inf, False
    side = dict.fromkeys(together, "j") | {i: "i"}
    for t, n in movable:
        side[n] = "i" if proposal.launch[t] else "j"
    for scan in range(len(proposal.uniforms)):
        last = scan == len(proposal.uniforms) - 1
        log_proposal = 0.0
        for t, n in movable:
            log_weight = {}
            for name in ("i", "j"):
                members = x[[other for other in together if side[other] == name and other != n]]
                log_weight[name] = math.log(len(members)) + _niw_predictive(x[n], members, prior)
            log_odds = log_weight["i"] - log_weight["j"]
            log_i, log_j = (min(odds, 0.0) - math.log1p(math.exp(-abs(odds))) for odds in (log_odds, -log_odds))
            if last and not is_split:
                side[n] = "i" if n in with_i else "j"
            else:
                side[n] = "i" if float(proposal.uniforms[scan, t]) < math.exp(log_i) else "j"
            log_proposal += log_i if side[n] == "i" else log_j
    parts = [[n for n in together if side[n] == name] for name in ("i", "j")]
    # Posterior odds of the two parts against one component, over the probability of the split that leads there.
    log_split = (
        math.log(alpha)
        + sum(math.lgamma(len(part)) + _niw_log_marginal(x[part], prior) for part in parts)
        - math.lgamma(len(together))
        - _niw_log_marginal(x[together], prior)
        - log_proposal
    )
    log_ratio = log_split if is_split else -log_split
    if not float(proposal.accept) < math.exp(min(0.0, log_ratio)):
        return labels, log_ratio, False
    new_label = max(labels) + 1 if is_split else labels[j]
    moved = parts[0] if is_split else with_i
    labels = [new_label if n in moved else label for n, label in enumerate(labels)]
    return torch.unique(torch.tensor(labels), return_inverse=True)[1].tolist(), log_ratio, True


def log_joint(state: GibbsState, x: Tensor, *, prior: NIWPrior, group_offsets: Tensor | None = None) -> Tensor:
    """log CRP(labels | alpha) + sum_k log p(points of k), each point given the ones before it."""
    x = x.double()
    segments = _segments(group_offsets) if group_offsets is not None else [(0, len(x))]
    every_labels, every_alpha = state.labels.reshape(-1, len(x)), state.alpha.reshape(-1, len(segments))
    value = torch.zeros(every_alpha.shape, dtype=torch.float64, device=x.device)
    for t, (labels, alphas) in enumerate(zip(every_labels, every_alpha, strict=True)):
        for g, (a, b) in enumerate(segments):
            alpha, of_group = float(alphas[g]), NIWPrior(*(field[g] for field in prior))
            for i in range(b - a):
                earlier = x[a : a + i][labels[a : a + i] == labels[a + i]]
                seat = (len(earlier) or alpha) / (i + alpha)
                value[t, g] += math.log(seat) + _niw_predictive(x[a + i], earlier, of_group)
    return value.reshape(state.alpha.shape)


def _niw_log_marginal(x: Tensor, prior: NIWPrior) -> float:
    """log of the density of all points of one component: each given the ones before it."""
    return sum(_niw_predictive(x[n], x[:n], prior) for n in range(len(x)))


def _resample_alpha(alpha: Tensor, n_components: int, noise: AlphaNoise, alpha_shape: int) -> Tensor:
    """Escobar & West (1995) under alpha ~ Gamma(a, 1).

    eta ~ Beta(alpha + 1, n), as a product of n variables Beta(alpha + 1 + j, 1) = U^(1 / (alpha + 1 + j));
    alpha | eta ~ Gamma(shape, rate 1 - log eta), with shape a + K at odds a + K - 1 : n (1 - log eta), else a + K - 1,
    as a sum of `shape` exponentials.
    """
    n = noise.beta.shape[0]
    minus_log_eta = (noise.beta.double() / (alpha + 1 + torch.arange(n, device=alpha.device))).sum()
    rate = 1 + minus_log_eta
    smaller = alpha_shape + n_components - 1
    probability = smaller / (smaller + n * rate)
    shape = smaller + int(noise.choice.double() < probability)
    return noise.gamma[:shape].double().sum() / rate


def _noise_of_group(noise: AlphaNoise, t: int, g: int, a: int, b: int, alpha_shape: int) -> AlphaNoise:
    beta, gamma, choice = (field if field.ndim == 2 else field[None] for field in noise)
    return AlphaNoise(beta[t, a:b], gamma[t, a + alpha_shape * g : b + alpha_shape * (g + 1)], choice[t, g])


def _segments(offsets: Tensor) -> list[tuple[int, int]]:
    edges = offsets.tolist()
    return list(pairwise(edges))
