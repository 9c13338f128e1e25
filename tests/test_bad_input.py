"""Bad input gets a ValueError that names the argument, what came and what was expected."""

import re
import sys
from functools import partial

import numpy as np
import pytest
import torch
from cases import mixture_case

import kernels
from kernels import AlphaNoise, GibbsState, NIWPrior, SplitMergeProposals

NAN, INF = torch.nan, torch.inf
CASE = mixture_case(7, 4, 3)
GROUPS = {"group_offsets": torch.tensor([0, 2, 7]), "component_offsets": torch.tensor([0, 1, 4])}


def changed(value, index, to):
    value = value.clone()
    value[index] = to
    return value


def gaussian(**bad):
    good = {"x": CASE.x, "mean": CASE.location, "precision_chol": CASE.precision_chol}
    return kernels.gaussian_log_density(**good | bad)


def student_t(**bad):
    good = {"x": CASE.x, "location": CASE.location, "precision_chol": CASE.precision_chol, "df": CASE.df}
    return kernels.student_t_log_density(**good | bad)


def mixture(**bad):
    good = {
        "x": CASE.x,
        "log_weight": CASE.log_weight,
        "location": CASE.location,
        "precision_chol": CASE.precision_chol,
        "df": CASE.df,
    }
    return kernels.mixture_log_density(**good | GROUPS | bad)


def em(**bad):
    good = {
        "x": CASE.x,
        "log_weight": CASE.log_weight,
        "mean": CASE.location,
        "precision_chol": CASE.precision_chol,
    }
    return kernels.em_statistics(**good | GROUPS | bad)


def moments(**bad):
    good = {"x": CASE.x, "labels": torch.tensor([0, 1, 2, 0, 1, 2, 0]), "n_components": 3}
    return kernels.component_statistics(**good | {"group_offsets": GROUPS["group_offsets"]} | bad)


STATE = GibbsState(torch.tensor([0, 1, 0, 1, 2, 1, 0]), torch.tensor([1.0, 2.0]).double())
PRIOR = NIWPrior(
    mu0=torch.zeros(2, 3).double(),
    kappa0=torch.ones(2).double(),
    nu0=torch.full((2,), 5.0).double(),
    S0=torch.eye(3).double().repeat(2, 1, 1),
)
NOISE = AlphaNoise(torch.ones(7).double(), torch.ones(9).double(), torch.full((2,), 0.5).double())


def gibbs(**bad):
    good = {
        "state": STATE,
        "x": CASE.x,
        "order": torch.tensor([1, 0, 4, 3, 2, 1, 0]),
        "uniforms": torch.linspace(0, 0.9, 7).double(),
        "alpha_noise": NOISE,
        "prior": PRIOR,
        "group_offsets": GROUPS["group_offsets"],
    }
    return kernels.gibbs_sweep(**good | bad)


PROPOSALS = SplitMergeProposals(
    anchors=torch.tensor([[[0, 1], [0, 4]]]),
    candidates=torch.tensor([[[-1, -1, -1], [1, 2, 3]]]),
    launch=torch.ones(1, 2, 3, dtype=torch.bool),
    uniforms=torch.full((1, 2, 2, 3), 0.5).double(),
    accept=torch.full((1, 2), 0.5).double(),
)


def split_merge(**bad):
    good = {"state": STATE, "x": CASE.x, "proposals": PROPOSALS, "prior": PRIOR}
    return kernels.split_merge(**good | {"group_offsets": GROUPS["group_offsets"]} | bad)


def joint(**bad):
    good = {"state": STATE, "x": CASE.x, "prior": PRIOR, "group_offsets": GROUPS["group_offsets"]}
    return kernels.log_joint(**good | bad)


def test_the_good_input_is_good():
    for engine in ("cpu", "reference"):
        for operation in (gaussian, student_t, mixture, em, moments, gibbs, split_merge, joint):
            operation(engine=engine)
    gibbs(correction=torch.zeros(7), inverse_temperature=torch.ones(2).double())
    gibbs(uniforms=torch.linspace(0, 0.9, 7), block_size=32)
    gibbs(alpha_noise=None)
    two_sweeps = AlphaNoise(*(field.repeat(2, 1) for field in NOISE))
    order, uniforms = torch.tensor([[1, 0, 4, 3, 2, 1, 0]] * 2), torch.zeros(2, 7)
    assert gibbs(order=order, uniforms=uniforms, alpha_noise=two_sweeps).labels.shape == (2, 7)


X, MEAN, W = CASE.x, CASE.location, CASE.precision_chol
OFFSETS = torch.tensor

BAD = [
    # points, for every operation
    *[
        (operation, {"x": bad}, words)
        for operation in (gaussian, student_t, mixture, em, moments, gibbs, split_merge, joint)
        for bad, words in [
            (X.numpy(), "x must be a torch.Tensor, got ndarray"),
            (X[0], "x must have shape [N, D] with N >= 1 and D >= 1, got [3]"),
            (X[:0], "x must have shape [N, D] with N >= 1 and D >= 1, got [0, 3]"),
            (X[:, :0], "x must have shape [N, D] with N >= 1 and D >= 1, got [7, 0]"),
            (X.half(), "x must be float32 or float64, got torch.float16"),
            (X.long(), "x must be float32 or float64, got torch.int64"),
            (changed(X, (4, 1), NAN), "x must be finite, got 1 non-finite values, the first at (4, 1)"),
            (changed(X, (2, slice(1, 3)), INF), "x must be finite, got 2 non-finite values, the first at (2, 1)"),
            (changed(X, slice(2, 4), -INF), "x must be finite, got 6 non-finite values, the first at (2, 0)"),
            (X.clone().requires_grad_(), "x must not require gradients"),
        ]
    ],
    # components
    *[
        (operation, {name: bad}, words.format(name=name))
        for operation, name in ((gaussian, "mean"), (student_t, "location"), (mixture, "location"), (em, "mean"))
        for bad, words in [
            (None, "{name} must be a torch.Tensor, got NoneType"),
            (MEAN[:, :2], "{name} must have shape [M, D] with the D of x = [4, 3], got [4, 2]"),
            (MEAN[0, 0], "{name} must have shape [M, D] with the D of x = [0, 3], got []"),
            (MEAN.float(), "{name} must have the dtype of x, torch.float64, got torch.float32"),
            (MEAN.to("meta"), "{name} must be on the device of x, cpu, got meta"),
            (changed(MEAN, (1, 2), INF), "{name} must be finite, got 1 non-finite values, the first at (1, 2)"),
        ]
    ],
    *[
        (operation, {"precision_chol": bad}, words)
        for operation in (gaussian, student_t, mixture, em)
        for bad, words in [
            (W[:3], "precision_chol must have shape [M, D, D] = [4, 3, 3], got [3, 3, 3]"),
            (W[..., :2], "precision_chol must have shape [M, D, D] = [4, 3, 3], got [4, 3, 2]"),
            (W.float(), "precision_chol must have the dtype of x, torch.float64, got torch.float32"),
            (W.to("meta"), "precision_chol must be on the device of x, cpu, got meta"),
            (changed(W, (3, 2, 0), NAN), "precision_chol must be finite, got 1 non-finite values, the first at (3, 2"),
            (changed(W, (2, 1, 1), -0.5), "precision_chol must have a positive diagonal"),
            (changed(W, (2, 1, 1), -0.5), "component 2 has -0.5 at 1"),
            (changed(W, (1, 0, 0), 0.0), "component 1 has 0.0 at 0"),
        ]
    ],
    *[
        (operation, {"df": bad}, words)
        for operation in (student_t, mixture)
        for bad, words in [
            (3.0, "df must be a torch.Tensor, got float"),
            (CASE.df[:2], "df must have shape [M] = [4], got [2]"),
            (CASE.df.long(), "df must be float32 or float64, got torch.int64"),
            (CASE.df.to("meta"), "df must be on the device of x, cpu, got meta"),
            (changed(CASE.df, 1, NAN), "df must be finite, got 1 non-finite values, the first at (1,)"),
            (changed(CASE.df, 1, INF), "df must be finite, got 1 non-finite values, the first at (1,)"),
            (changed(CASE.df, 3, 0.0), "df must be positive, component 3 has 0.0"),
            (changed(CASE.df, 3, -2.0), "df must be positive, component 3 has -2.0"),
            (changed(CASE.df, 2, 1.1e8), "df must be at most 1e+08, component 2 has 1.1e+08; a Gaussian"),
        ]
    ],
    *[
        (operation, {"log_weight": bad}, words)
        for operation in (mixture, em)
        for bad, words in [
            ([0.0] * 4, "log_weight must be a torch.Tensor, got list"),
            (CASE.log_weight[:3], "log_weight must have shape [M] = [4], got [3]"),
            (CASE.log_weight.long(), "log_weight must be float32 or float64, got torch.int64"),
            (CASE.log_weight.to("meta"), "log_weight must be on the device of x, cpu, got meta"),
            (changed(CASE.log_weight, 2, INF), "log_weight must be finite or -inf, component 2 has inf"),
            (changed(CASE.log_weight, 2, NAN), "log_weight must be finite or -inf, component 2 has nan"),
        ]
    ],
    # groups
    *[
        (operation, {"group_offsets": bad}, words)
        for operation in (mixture, em, moments, gibbs, split_merge, joint)
        for bad, words in [
            ([0, 2, 7], "group_offsets must be a torch.Tensor, got list"),
            (OFFSETS([0, 2, 7]).int(), "group_offsets must be int64 of shape [G + 1], got torch.int32 [3]"),
            (OFFSETS([[0, 2, 7]]), "group_offsets must be int64 of shape [G + 1], got torch.int64 [1, 3]"),
            (OFFSETS([0]), "group_offsets must be int64 of shape [G + 1], got torch.int64 [1]"),
            (OFFSETS([0, 2, 7]).to("meta"), "group_offsets must be on the device of x, cpu, got meta"),
            (OFFSETS([1, 2, 7]), "group_offsets must rise from 0 to 7, got [1, 2, 7]"),
            (OFFSETS([0, 2, 6]), "group_offsets must rise from 0 to 7, got [0, 2, 6]"),
            (OFFSETS([0, 5, 2, 7]), "group_offsets must rise from 0 to 7, got [0, 5, 2, 7]"),
            (OFFSETS([*range(9), 8]), "group_offsets must rise from 0 to 7, got [0, 1, 2, 3, 4, 5, 6, 7, ...]"),
        ]
    ],
    *[
        (operation, {"component_offsets": bad}, words)
        for operation in (mixture, em)
        for bad, words in [
            (OFFSETS([0, 1, 3]), "component_offsets must rise from 0 to 4, got [0, 1, 3]"),
            (OFFSETS([0.0, 1, 4]), "component_offsets must be int64 of shape [G + 1], got torch.float32 [3]"),
            (OFFSETS([0, 1, 2, 4]), "must name the same number of groups, got 2 and 3"),
            (None, "group_offsets needs component_offsets too"),
        ]
    ],
    (em, {"group_offsets": None}, "component_offsets needs group_offsets too"),
    # labels
    (moments, {"labels": STATE.labels.tolist()}, "labels must be a torch.Tensor, got list"),
    (moments, {"labels": STATE.labels.int()}, "labels must be int64 of shape [7], got torch.int32 [7]"),
    (moments, {"labels": STATE.labels[:5]}, "labels must be int64 of shape [7], got torch.int64 [5]"),
    (moments, {"labels": STATE.labels.to("meta")}, "labels must be on the device of x, cpu, got meta"),
    (moments, {"labels": changed(STATE.labels, 4, 3)}, "labels must be in 0..2, point 4 has 3"),
    (moments, {"labels": changed(STATE.labels, 5, -1)}, "labels must be in 0..2, point 5 has -1"),
    (moments, {"n_components": 0}, "n_components must be an integer >= 1, got 0"),
    (moments, {"n_components": 3.0}, "n_components must be an integer >= 1, got 3.0"),
    # Gibbs sweeps: groups and labels
    *[
        (operation, {"group_offsets": OFFSETS([0, 2, 2, 7])}, "group 1 is empty; every group needs at least one point")
        for operation in (gibbs, split_merge, joint)
    ],
    (gibbs, {"block_size": 0}, "block_size must be an integer from 1 to 32, got 0"),
    (gibbs, {"block_size": 33}, "block_size must be an integer from 1 to 32, got 33"),
    (gibbs, {"block_size": 2.5}, "block_size must be an integer from 1 to 32, got 2.5"),
    (gibbs, {"block_size": True}, "block_size must be an integer from 1 to 32, got True"),
    (gibbs, {"shared_new": "no"}, "shared_new must be a bool, got 'no'"),
    (gibbs, {"shared_new": 1}, "shared_new must be a bool, got 1"),
    (gibbs, {"alpha_shape": 0}, "alpha_shape must be an integer >= 1, got 0"),
    (gibbs, {"alpha_shape": 2}, "alpha_noise.gamma must have shape [N + alpha_shape G] = [11], got [9]"),
    *[
        (operation, {"state": STATE._replace(labels=bad)}, words)
        for operation in (gibbs, split_merge, joint)
        for bad, words in [
            (STATE.labels.int(), "state.labels must be int64 of shape [7], got torch.int32 [7]"),
            (changed(STATE.labels, 6, -1), "state.labels must be in 0..6, point 6 has -1"),
            (changed(STATE.labels, 6, 7), "state.labels must be in 0..6, point 6 has 7"),
            (changed(STATE.labels, 0, 1), "0..K_g - 1 without gaps, group 0 has [1]"),
            (changed(STATE.labels, 0, 6), "0..K_g - 1 without gaps, group 0 has [1, 6]"),
            (changed(STATE.labels, 1, 2), "0..K_g - 1 without gaps, group 0 has [0, 2]"),
            (changed(STATE.labels, 4, 3), "0..K_g - 1 without gaps, group 1 has [0, 1, 3]"),
            (changed(STATE.labels, 4, 6), "0..K_g - 1 without gaps, group 1 has [0, 1, 6]"),
            (changed(STATE.labels, slice(2, 7), 1), "0..K_g - 1 without gaps, group 1 has [1]"),
        ]
    ],
    *[
        (operation, {"state": STATE._replace(alpha=bad)}, words)
        for operation in (gibbs, split_merge, joint)
        for bad, words in [
            (1.0, "state.alpha must be a torch.Tensor, got float"),
            (STATE.alpha[:1], "state.alpha must have shape [G] = [2], got [1]"),
            (STATE.alpha.float(), "state.alpha must be float64, got torch.float32"),
            (changed(STATE.alpha, 1, 0.0), "state.alpha must be positive and finite, got [1.0, 0.0]"),
            (changed(STATE.alpha, 1, NAN), "state.alpha must be positive and finite, got [1.0, nan]"),
            (changed(STATE.alpha, 1, INF), "state.alpha must be positive and finite, got [1.0, inf]"),
        ]
    ],
    # Gibbs sweeps: order and random numbers
    *[
        (gibbs, {"order": bad}, words)
        for bad, words in [
            ([1, 0, 4, 3, 2, 1, 0], "order must be a torch.Tensor, got list"),
            (OFFSETS([1, 0, 4, 3, 2, 1, 0]).int(), "order must be int64 of shape [7] or [T, 7], T >= 1, got torch.int"),
            (OFFSETS([1, 0, 4, 3, 2, 1]), "order must be int64 of shape [7] or [T, 7], T >= 1, got torch.int64 [6]"),
            (OFFSETS([[1] * 7])[:0], "order must be int64 of shape [7] or [T, 7], T >= 1, got torch.int64 [0, 7]"),
            (OFFSETS([1, 0, 4, 3, 2, 1, 1]), "a permutation of 0..n_g - 1, group 1 of 5 points has [4, 3, 2, 1, 1]"),
            (OFFSETS([1, 1, 4, 3, 2, 1, 0]), "a permutation of 0..n_g - 1, group 0 of 2 points has [1, 1]"),
            (OFFSETS([1, 0, 5, 3, 2, 1, 0]), "a permutation of 0..n_g - 1, group 1 of 5 points has [5, 3, 2, 1, 0]"),
            (OFFSETS([1, 0, -1, 3, 2, 1, 0]), "a permutation of 0..n_g - 1, group 1 of 5 points has [-1, 3, 2, 1, 0]"),
            (OFFSETS([1, 6, 4, 3, 2, 1, 0]), "a permutation of 0..n_g - 1, group 0 of 2 points has [1, 6]"),
            # Together a permutation of all rows, but not of each group's.
            (OFFSETS([1, 2, 4, 3, -2, 1, 0]), "a permutation of 0..n_g - 1, group 0 of 2 points has [1, 2]"),
        ]
    ],
    (
        gibbs,
        {"order": OFFSETS([[1, 0, 4, 3, 2, 1, 0], [0, 0, 4, 3, 2, 1, 0]]), "uniforms": torch.zeros(2, 7)},
        "a permutation of 0..n_g - 1, group 0 of 2 points has [0, 0]",
    ),
    *[
        (gibbs, {"uniforms": bad}, words)
        for bad, words in [
            (None, "uniforms must be a torch.Tensor, got NoneType"),
            (torch.zeros(6), "uniforms must have the shape of order = [7], got [6]"),
            (torch.zeros(7).long(), "uniforms must be float32 or float64, got torch.int64"),
            (torch.zeros(7, device="meta"), "uniforms must be on the device of x, cpu, got meta"),
            (changed(torch.zeros(7), 3, 1.0), "uniforms must be in [0, 1), got 1.0 at (3,)"),
            (changed(torch.zeros(7), 3, -0.5), "uniforms must be in [0, 1), got -0.5 at (3,)"),
            (changed(torch.zeros(7), 3, NAN), "uniforms must be in [0, 1), got nan at (3,)"),
        ]
    ],
    *[
        (gibbs, {"alpha_noise": NOISE._replace(**bad)}, words)
        for bad, words in [
            ({"beta": None}, "alpha_noise.beta must be a torch.Tensor, got NoneType"),
            ({"beta": NOISE.beta[:6]}, "alpha_noise.beta must have shape [N] = [7], got [6]"),
            ({"gamma": NOISE.gamma[:7]}, "alpha_noise.gamma must have shape [N + alpha_shape G] = [9], got [7]"),
            ({"gamma": NOISE.gamma.float()}, "alpha_noise.gamma must be float64, got torch.float32"),
            ({"choice": changed(NOISE.choice, 1, NAN)}, "alpha_noise.choice must be finite, got 1 non-finite values"),
            ({"choice": changed(NOISE.choice, 1, 1.0)}, "alpha_noise.choice must be in [0, 1), got 1.0 at (1,)"),
            ({"beta": changed(NOISE.beta, 1, -2.0)}, "alpha_noise.beta must not be negative, got -2.0"),
            ({"gamma": changed(NOISE.gamma, 1, -2.0)}, "alpha_noise.gamma must not be negative, got -2.0"),
        ]
    ],
    *[
        (gibbs, {"correction": bad}, words)
        for bad, words in [
            ([0.0] * 7, "correction must be a torch.Tensor, got list"),
            (torch.zeros(6), "correction must have the shape of order = [7], got [6]"),
            (torch.zeros(7).long(), "correction must be float32 or float64, got torch.int64"),
            (torch.zeros(7, device="meta"), "correction must be on the device of x, cpu, got meta"),
            (changed(torch.zeros(7), 3, NAN), "correction must be in [0, 1), got nan at (3,)"),
        ]
    ],
    *[
        (gibbs, {"inverse_temperature": bad}, words)
        for bad, words in [
            (1.0, "inverse_temperature must be a torch.Tensor, got float"),
            (torch.ones(3).double(), "inverse_temperature must have shape [2] or [1, 2], got [3]"),
            (torch.ones(2), "inverse_temperature must be float64, got torch.float32"),
            (torch.tensor([1.0, NAN]).double(), "inverse_temperature must be finite, got 1 non-finite values"),
        ]
    ],
    # Plain tuples, whose entries may be in any order
    *[
        (operation, {name: tuple(value)}, f"{name} must be a kernels.{type(value).__name__}, got tuple")
        for operation, name, value in [
            (gibbs, "state", STATE),
            (gibbs, "alpha_noise", NOISE),
            (split_merge, "state", STATE),
            (split_merge, "proposals", PROPOSALS),
            (joint, "state", STATE),
            *((operation, "prior", PRIOR) for operation in (gibbs, split_merge, joint)),
        ]
    ],
    # Split-merge moves: a point of the next group is none of this one
    *[
        (split_merge, {"proposals": PROPOSALS._replace(**bad)}, words)
        for bad, words in [
            ({"anchors": changed(PROPOSALS.anchors, (0, 0, 1), 2)}, "anchors must be from 0 to 1 in group 0, got 2"),
            ({"candidates": changed(PROPOSALS.candidates, (0, 0, 0), 2)}, "from -1 to 1 in group 0, got 2"),
            ({"accept": PROPOSALS.accept[0, 0]}, "proposals.accept must have shape [P, G] = [1, 2], got []"),
            ({"accept": PROPOSALS.accept.to("meta")}, "proposals.accept must be on the device of x, cpu, got meta"),
        ]
    ],
    # Gibbs sweeps: prior
    *[
        (operation, {"prior": PRIOR._replace(**bad)}, words)
        for operation in (gibbs, split_merge, joint)
        for bad, words in [
            ({"kappa0": 0.01}, "prior.kappa0 must be a torch.Tensor, got float"),
            ({"mu0": PRIOR.mu0[:1]}, "prior.mu0 must have shape [G, D] = [2, 3], got [1, 3]"),
            ({"mu0": PRIOR.mu0.float()}, "prior.mu0 must be float64, got torch.float32"),
            ({"mu0": PRIOR.mu0.to("meta")}, "prior.mu0 must be on the device of x, cpu, got meta"),
            ({"mu0": changed(PRIOR.mu0, (1, 0), NAN)}, "prior.mu0 must be finite, got 1 non-finite values"),
            ({"kappa0": changed(PRIOR.kappa0, 1, 0.0)}, "prior.kappa0 must be positive, got [1.0, 0.0]"),
            ({"nu0": changed(PRIOR.nu0, 0, 2.0)}, "prior.nu0 must be above D - 1 = 2, got [2.0, 5.0]"),
            ({"nu0": changed(PRIOR.nu0, 1, 1.1e8)}, "prior.nu0 must be at most 1e+08, got [5.0, 110000000.0]"),
            ({"S0": changed(PRIOR.S0, (1, 2, 0), NAN)}, "prior.S0 must be finite, got 1 non-finite values"),
            ({"S0": PRIOR.S0[:, :2]}, "prior.S0 must have shape [G, D, D] = [2, 3, 3], got [2, 2, 3]"),
            ({"S0": changed(PRIOR.S0, (1, 2, 2), -1.0)}, "prior.S0 must be positive definite, group 1 is not"),
            ({"S0": changed(PRIOR.S0, (1, 2, 0), 2.0)}, "prior.S0 must be positive definite, group 1 is not"),
        ]
    ],
]  # fmt: skip


@pytest.mark.parametrize(("operation", "bad", "words"), BAD, ids=[f"{op.__name__}-{words}" for op, _, words in BAD])
def test_bad_input(operation, bad, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        operation(**bad)


# ---------------------------------------------------------------- engines


def test_unknown_engine():
    with pytest.raises(ValueError, match="engine must be one of auto, cpu, triton, reference, got 'gpu'"):
        gaussian(engine="gpu")


def test_engine_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "kernels.triton", None)
    with pytest.raises(
        ValueError, match=r"engine 'triton' is not part of this version \(x is on cpu\); use 'reference'"
    ):
        gaussian(engine="triton")


def test_cpu_engine_with_tensors_elsewhere():
    with pytest.raises(ValueError, match="engine 'cpu' needs tensors on the CPU, x is on meta"):
        kernels._engine("cpu", torch.empty(1, device="meta"))


# ---------------------------------------------------------------- unusual input that is good


def test_huge_values_are_finite():
    # Their sum is not: the check must look at the values.
    x = torch.full((7, 3), 3e38)
    case = CASE._replace(x=x, location=x[:4], precision_chol=CASE.precision_chol.float())
    density = kernels.gaussian_log_density(case.x, case.location, case.precision_chol)
    assert density.isfinite().all()


def test_weights_and_degrees_of_freedom_may_be_float64_with_float32_points():
    single = {"x": X.float(), "location": MEAN.float(), "precision_chol": W.float()}
    assert mixture(**single).dtype == torch.float32
    assert em(x=X.float(), mean=MEAN.float(), precision_chol=W.float()).counts.dtype == torch.float32


def test_groups_of_the_components_alone():
    assert mixture(group_offsets=None).shape == (7, 2)


def test_shared_new_may_be_numpys():
    assert torch.equal(
        gibbs(shared_new=np.bool_(True), block_size=4).labels, gibbs(shared_new=True, block_size=4).labels
    )


def with_garbage(matrices, garbage):
    return torch.where(torch.ones(3, 3).triu(1) > 0, garbage, matrices)


@pytest.mark.parametrize("garbage", [1e3, NAN])
@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_above_the_diagonal_of_a_prior_nothing_is_read(engine, garbage):
    prior = PRIOR._replace(S0=with_garbage(PRIOR.S0, garbage))
    for found, expected in zip(gibbs(prior=prior, engine=engine), gibbs(engine=engine), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_above_the_diagonal_of_a_factor_or_a_covariance_nothing_is_read(engine):
    for operation in (gaussian, student_t, mixture):
        found = operation(precision_chol=with_garbage(W, NAN), engine=engine)
        assert torch.equal(found, operation(engine=engine))
    inverse = partial(kernels.precision_cholesky, engine=engine)
    for found, expected in (
        (em(precision_chol=with_garbage(W, NAN), engine=engine), em(engine=engine)),
        (inverse(with_garbage(PRIOR.S0, NAN)), inverse(PRIOR.S0)),
    ):
        assert all(torch.equal(field, value) for field, value in zip(found, expected, strict=True))
