"""Estimators on a GPU: that of the machine, or a pretended one with Triton's kernels under the interpreter."""

import pickle
import subprocess
import sys
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

pytest.importorskip("triton")

import pretend_gpu

from classfit import (
    ClassConditionalDensity,
    DPGaussianMixture,
    GaussianMixture,
    Posterior,
    annealing,
    convergence,
    proposals,
    state_evidence,
    states,
)
from classfit.protocols import em, heldout
from kernels.triton import common
from paper_repro import computations, inputs, machine, timing
from paper_repro.steps import Work
from paper_repro.storage import read_arrays, write_arrays, write_json, write_tensors

SETTINGS: dict[str, Any] = {"n_sweeps": 6, "n_discard": 2, "thin": 2, "random_state": 0}


class GPU(NamedTuple):
    name: str
    calls: list[str]
    """Kernels that were called there; empty on a real one."""

    def ran(self, *kernels: str) -> bool:
        """Exactly these have been called since the last question; on a real GPU that is not known."""
        found = set(self.calls)
        self.calls.clear()
        return self.name == "cuda" or found == set(kernels)


@pytest.fixture
def gpu(monkeypatch):
    if torch.cuda.is_available():
        yield GPU("cuda", [])
    else:
        with pretend_gpu.PretendGPU(monkeypatch) as pretended:
            yield GPU(pretend_gpu.DEVICE, pretended.calls)


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(9, 2)), rng.normal(size=(5, 2)) + 6, rng.normal(size=(8, 2)) - 3])
    return X, np.repeat(["a", "b"], [14, 8])


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


def test_a_fit_and_all_that_its_posterior_is_asked(gpu, points):
    X, groups = points
    here = DPGaussianMixture(2, **SETTINGS).fit(X, groups=groups)
    assert gpu.ran()
    there = DPGaussianMixture(2, device=gpu.name, **SETTINGS).fit(X, groups=groups)
    assert gpu.ran("gibbs_sweep", "log_joint")
    np.testing.assert_array_equal(there.posterior_.labels, here.posterior_.labels)
    close(there.posterior_.alpha, here.posterior_.alpha)
    close(there.trace_.log_joint, here.trace_.log_joint)
    for kernel, ask in (
        ("mixture_log_density", lambda model: model.posterior_.relative_entropy(40, 0)),
        ("mixture_log_density", lambda model: model.score_samples(X, groups)),
        ("mixture_log_density", lambda model: model.class_log_density(X)),
        ("mixture_log_density", lambda model: model.posterior_.kl_divergence(20, 0)),
        ("student_t_log_density", lambda model: model.posterior_.component_probabilities(X, groups)),
        ("student_t_log_density", lambda model: model.predict(X, groups)),
    ):
        close(ask(there), ask(here))
        assert gpu.ran(kernel)
    close(there.leave_one_out(), here.leave_one_out())
    assert gpu.ran("component_statistics", "precision_cholesky", "student_t_log_density")
    assert there.posterior_.x.device.type == "cpu"
    close(there.sample(3, "a"), here.sample(3, "a"))


def test_em_of_several_groups_and_numbers_of_components(gpu, points):
    X, groups = points
    model = GaussianMixture([1, 2], n_init=2, random_state=0)
    here = clone(model).fit(X, groups=groups)
    assert gpu.ran()
    there = clone(model).set_params(device=gpu.name).fit(X, groups=groups)
    assert gpu.ran("component_statistics", "em_statistics", "precision_cholesky")
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_", "lower_bound_", "n_iter_", "converged_"):
        close(getattr(there, name), getattr(here, name))
    for kernel, ask in (
        ("mixture_log_density", lambda model: model.class_log_density(X)),
        ("mixture_log_density", lambda model: model.bic(X, groups)),
        ("gaussian_log_density", lambda model: model.predict_proba(X, groups)),
    ):
        close(ask(there), ask(here))
        assert gpu.ran(kernel)
    close(there.sample(3, "b")[0], here.sample(3, "b")[0])
    expected = em(X, groups, n_components=(1,)).log_density
    assert gpu.ran()
    close(em(X, groups, n_components=(1,), device=gpu.name).log_density, expected)
    assert gpu.ran("component_statistics", "em_statistics", "mixture_log_density", "precision_cholesky")


def test_a_classifier_takes_the_device_of_its_density(gpu, points):
    X, groups = points
    here = ClassConditionalDensity(GaussianMixture(random_state=0)).fit(X, groups)
    there = ClassConditionalDensity(GaussianMixture(random_state=0, device=gpu.name)).fit(X, groups)
    gpu.calls.clear()
    close(there.predict_proba(X), here.predict_proba(X))
    assert gpu.ran("mixture_log_density")


def test_chains_until_they_converge(gpu, points, monkeypatch, tmp_path):
    """Of two groups, from burn-in to the end, with few of all that there is much of."""
    few = {"MAX_ROUNDS": 4, "CHECK_ROUNDS": 4, "KEEP_EVERY": 1, "BURN_IN_ROUNDS": 1, "SWEEPS_A_ROUND": 1, "N_CHAINS": 2}
    for name, value in (few | {"SLOWNESS": 2, "SETTLING_ROUNDS": (1,)}).items():
        monkeypatch.setattr(convergence, name, value)
    monkeypatch.setattr(annealing, "SWEEPS_A_TEMPERATURE", 1)
    monkeypatch.setattr(annealing, "TEMPERATURES", np.array([0.0, 1.0]))
    monkeypatch.setattr(proposals, "PEELS_A_ROUND", 2)
    X, groups = points[0][10:18], np.repeat(["a", "b"], 4)
    path = tmp_path / "chains.npz"
    model = DPGaussianMixture(2, protocol="converged", random_state=1, checkpoint=path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        here = clone(model).fit(X, groups=groups)
        assert gpu.ran()
        found = here.convergence_
        best = np.sort(found.burn_in_log_evidence, axis=1)
        assert (best[:, -1] < best[:, -2] + 1e-6).any(), "between equal starts rounding must not choose"
        assert np.isfinite(found.burn_in_log_evidence[:, convergence.SLOWER]).any()
        assert np.nansum(found.split_acceptance) > 0
        with pytest.raises(ValueError, match="belongs to other data, other settings or another device"):
            clone(model).set_params(device=gpu.name).fit(X, groups=groups)
        path.unlink()
        there = clone(model).set_params(device=gpu.name).fit(X, groups=groups)
        assert gpu.ran("gibbs_sweep", "log_joint", "mixture_log_density", "split_merge")
    np.testing.assert_array_equal(there.posterior_.labels, here.posterior_.labels)
    assert there.posterior_.labels.max() > 0
    for name, values in found._asdict().items():
        close(getattr(there.convergence_, name), values)
    close(there.score_samples(X, groups), here.score_samples(X, groups))
    assert gpu.ran("mixture_log_density")


def test_the_evidence_of_states(gpu, points, monkeypatch):
    for name, value in {"BURN_IN_ROUNDS": 1, "SWEEPS_A_ROUND": 1}.items():
        monkeypatch.setattr(convergence, name, value)
    monkeypatch.setattr(annealing, "SWEEPS_A_TEMPERATURE", 1)
    monkeypatch.setattr(annealing, "TEMPERATURES", np.array([0.0, 0.5, 1.0]))
    monkeypatch.setattr(states, "SWEEPS", 2)
    monkeypatch.setattr(proposals, "PEELS_A_ROUND", 2)
    X, groups = points[0][8:20], np.repeat(["a", "b"], 6)
    posterior = DPGaussianMixture(2, **SETTINGS).fit(X, groups=groups).posterior_
    here = state_evidence(posterior, slowness=2, random_state=3)
    assert gpu.ran()
    there = state_evidence(posterior.to(gpu.name), slowness=2, random_state=3)
    assert gpu.ran("gibbs_sweep", "log_joint", "split_merge")
    for name, values in here._asdict().items():
        close(getattr(there, name), values)
    assert (here.many_upper != here.few_upper).all()


def _asked(X: np.ndarray, groups: np.ndarray) -> dict[str, np.ndarray]:
    model = DPGaussianMixture(2, **SETTINGS).fit(X, groups=groups)
    posterior = model.posterior_
    converged = DPGaussianMixture(2, protocol="converged", random_state=0).fit(X, groups=groups)
    return {
        "scores": model.score_samples(X, groups),
        "every class": model.class_log_density(X),
        "components": model.predict_proba(X, groups),
        "left out": model.leave_one_out().log_density,
        "divergence": posterior.kl_divergence(n_draws=10, random_state=0).value,
        "relative entropy": posterior.relative_entropy(n_draws=10, random_state=0).value,
        "evidence": np.stack(state_evidence(posterior, slowness=1)),
        "one group": DPGaussianMixture(2, **SETTINGS).fit(X).score_samples(X),
        "chains": converged.score_samples(X, groups),
        "held out": heldout(X, groups, n_folds=2, protocol=None, random_state=0).log_density,
        "em": GaussianMixture([1, 2], random_state=0).fit(X, groups=groups).score_samples(X, groups),
    }


def test_the_default_device_of_torch_does_not_matter(points, monkeypatch):
    for name, value in {"BURN_IN_ROUNDS": 1, "CHECK_ROUNDS": 5, "MAX_ROUNDS": 5}.items():
        monkeypatch.setattr(convergence, name, value)
    monkeypatch.setattr(DPGaussianMixture, "_schedule", _short(DPGaussianMixture._schedule))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        expected = _asked(*points)
        with torch.device("meta"):  # in place of a GPU, as after torch.set_default_device("cuda")
            found = _asked(*points)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_points_held_out(gpu, points, monkeypatch):
    X, groups = points
    options = {"n_folds": 2, "protocol": None, "random_state": 0}
    monkeypatch.setattr(DPGaussianMixture, "_schedule", _short(DPGaussianMixture._schedule))
    here = heldout(X[14:], groups[14:], **options)
    assert gpu.ran()
    there = heldout(X[14:], groups[14:], device=gpu.name, **options)
    assert gpu.ran("gibbs_sweep", "log_joint", "mixture_log_density")
    close(there.log_density, here.log_density)
    close(there.diagnostics["in_sample"], here.diagnostics["in_sample"])


def _short(schedule):
    return lambda model: schedule(model)._replace(n_sweeps=4, n_discard=2, thin=2)


def test_a_saved_posterior_is_used_where_it_is_sent(gpu, points, tmp_path):
    X, groups = points
    model = DPGaussianMixture(2, **SETTINGS).fit(X, groups=groups)
    model.posterior_.save(tmp_path / "posterior.npz")
    loaded = Posterior.load(tmp_path / "posterior.npz")
    loaded.log_density(X)
    assert gpu.ran()
    close(loaded.to(gpu.name).log_density(X), model.class_log_density(X))
    assert gpu.ran("mixture_log_density")
    loaded.to(None).log_density(X)
    assert gpu.ran()


def test_a_chain_goes_on_only_where_it_began(gpu, points, tmp_path):
    X, _ = points
    path = tmp_path / "chain.npz"
    DPGaussianMixture(2, checkpoint=path, **SETTINGS).fit(X[14:])
    with pytest.raises(ValueError, match="belongs to other data, other settings or another device"):
        DPGaussianMixture(2, checkpoint=path, device=gpu.name, **SETTINGS).fit(X[14:])
    path.unlink()
    first = DPGaussianMixture(2, checkpoint=path, device=gpu.name, **SETTINGS).fit(X[14:])
    gpu.calls.clear()
    again = DPGaussianMixture(2, checkpoint=path, device=gpu.name, **SETTINGS).fit(X[14:])
    assert gpu.ran()
    np.testing.assert_array_equal(again.posterior_.labels, first.posterior_.labels)


def test_what_a_gpu_cannot_do_is_refused(gpu, points):
    with pytest.raises(ValueError, match=r"corrected must be False on device '.*': it has no GPU kernel"):
        DPGaussianMixture(2, corrected=True, block_size=2, device=gpu.name, **SETTINGS).fit(points[0])
    wide = np.random.default_rng(0).normal(size=(4, common.MAX_FEATURES + 1))
    for protocol in (None, "converged"):  # before anything is done, not hours later
        with pytest.raises(
            ValueError, match=r"device must be .*: engine 'triton' takes x with at most 128 features, got"
        ):
            DPGaussianMixture(2, device=gpu.name, protocol=protocol, **SETTINGS).fit(wide)
    posterior = DPGaussianMixture(2, n_sweeps=4, n_discard=0).fit(wide).posterior_
    for ask in (lambda: GaussianMixture(device=gpu.name).fit(wide), lambda: posterior.to(gpu.name)):
        with pytest.raises(ValueError, match=r"device must be .*: engine 'triton' takes x with at most 128 features"):
            ask()
    assert gpu.ran()


@pytest.mark.parametrize("device", ["gpu", "cuda:99", 1.5])
@pytest.mark.parametrize("estimator", [DPGaussianMixture, GaussianMixture])
def test_a_device_that_is_not_here(estimator, device, points):
    with pytest.raises(ValueError, match=f"device must be a device that torch can use here, got {device!r}"):
        estimator(device=device).fit(points[0])


@pytest.mark.parametrize("problem", [None, "sm_75", "no Triton", "no GPU"])
def test_where_the_pipeline_fits_densities(problem, monkeypatch):
    """On a GPU only if the kernels can: not on another kind of GPU, in more dimensions, or without Triton."""

    def target(x):
        if problem == "sm_75" or x.shape[1] > 128:
            raise ValueError(f"engine 'triton' takes no {x.shape[1]} features on {problem}")
        return "sm_90"

    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "is_available", lambda: problem != "no GPU")
    monkeypatch.setattr(torch, "empty", lambda *size, device: empty(*size, device="meta"))
    monkeypatch.setattr(common, "target", target)
    if problem == "no Triton":
        monkeypatch.setitem(sys.modules, "kernels.triton.common", None)
    machine.density_device.cache_clear()
    settings = {**SETTINGS, "block_size": 4, "n_init_components": 6, "official": False}
    expected = "cuda" if problem is None else "cpu"
    assert machine.density_device(128) == computations.mixture(settings, 0, 128).device == expected
    assert machine.density_device(129) == computations.mixture(settings, 0, 129).device == "cpu"
    assert computations.mixture(settings, 0, 2, corrected=True).device == "cpu"
    machine.density_device.cache_clear()


def test_an_old_triton_is_named():
    code = "import triton; triton.__version__ = '3.4.0'; import kernels.triton"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: the kernels need Triton 3.5 or newer, as torch 2.9 brings it; this is 3.4.0" in done.stderr


def test_a_step_begins_a_chain_of_its_own_on_another_device(gpu, points, tmp_path, monkeypatch):
    """What a machine without the GPU left behind is neither gone on from nor in the way."""
    monkeypatch.setattr(computations, "values_of", lambda work, layer: points[0][14:])
    monkeypatch.setattr(computations, "train_labels", lambda work: np.zeros(8, int))
    monkeypatch.setattr(computations, "class_names", lambda work: ["a"])
    chain = {**SETTINGS, "block_size": 4, "n_init_components": 2, "official": False, "seed": 0, "stage": 4}
    for device in ("cpu", gpu.name):
        monkeypatch.setattr(computations, "density_device", lambda n_features, device=device: device)
        computations.posterior(Work(tmp_path, chain, {}, Console(quiet=True)))
    assert len(list(tmp_path.glob("checkpoint-*.npz"))) == 2


def test_estimates_over_classes():
    """On the processor a class costs what the others do; on a GPU the first costs most."""
    assert timing.over_classes(lambda n: 3.0 * n, 100, "cpu") == 300
    assert timing.over_classes(lambda n: 50 + 2.0 * n, 100, "cuda") == pytest.approx(250)


def test_a_fitted_estimator_goes_where_it_is_sent(gpu, points):
    """As when it was pickled beside a GPU and is used on a machine without."""
    X, groups = points
    there = DPGaussianMixture(2, device=gpu.name, **SETTINGS).fit(X, groups=groups)
    sent = pickle.loads(pickle.dumps(there))
    gpu.calls.clear()
    close(sent.set_params(device=None).score_samples(X, groups), there.score_samples(X, groups))
    assert gpu.ran("mixture_log_density")  # by the second alone
    sent.leave_one_out()
    sent.predict(X, groups)
    assert gpu.ran()
    with pytest.raises(ValueError, match="device must be a device that torch can use here, got 'cuda:99'"):
        sent.set_params(device="cuda:99").class_log_density(X)


def test_steps_of_the_pipeline(gpu, points, tmp_path, monkeypatch):
    X, groups = points
    for folder in ("dataset", "representations"):
        (tmp_path / folder).mkdir()
    write_tensors(
        tmp_path / "dataset/data.safetensors", {"train_labels": torch.from_numpy((groups == "b").astype(int))}
    )
    write_json(tmp_path / "dataset/dataset.json", {"class_names": ["a", "b"]})
    write_arrays(tmp_path / "representations/layer4.npz", {"values": X})
    chain = {**SETTINGS, "block_size": 4, "n_init_components": 2, "official": False, "seed": 0, "stage": 4}

    def run(step: str, settings: dict[str, Any], folder: str) -> None:
        folders = {name: tmp_path / name for name in ("dataset", "representations")}
        folders["posterior_stage_4"] = tmp_path / folder / "posterior"
        (tmp_path / folder / step).mkdir(parents=True)
        getattr(computations, step)(Work(tmp_path / folder / step, settings, folders, Console(quiet=True)))

    for folder, device in (("here", "cpu"), ("there", gpu.name)):
        for module in (computations, inputs):
            monkeypatch.setattr(module, "density_device", lambda n_features, device=device: device)
        gpu.calls.clear()
        run("posterior", chain, folder)
        assert gpu.ran(*(["gibbs_sweep", "log_joint", "mixture_log_density"] if device == gpu.name else []))
        run("relative_entropy", {"stage": 4, "n_draws": 20, "seed": 0}, folder)
        run("leave_one_out", {"stage": 4}, folder)
        kernels = ("component_statistics", "mixture_log_density", "precision_cholesky", "student_t_log_density")
        assert gpu.ran(*(kernels if device == gpu.name else []))
    for file in ("posterior/density.npz", "relative_entropy/relative_entropy.npz", "leave_one_out/densities.npz"):
        here, there = (read_arrays(tmp_path / folder / file) for folder in ("here", "there"))
        for name, values in here.items():
            (np.testing.assert_array_equal if values.dtype.kind == "U" else close)(there[name], values)
