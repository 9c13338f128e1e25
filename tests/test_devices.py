"""Estimators on a GPU: that of the machine, or a pretended one with Triton's kernels under the interpreter."""

import warnings
from typing import Any, NamedTuple

import numpy as np
import pretend_gpu
import pytest
import torch
from rich.console import Console
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from classfit import ClassConditionalDensity, DPGaussianMixture, GaussianMixture, Posterior, convergence
from classfit.protocols import em, heldout
from kernels.triton import common
from paper_repro import computations, machine
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
    assert gpu.ran("gibbs_sweep")
    np.testing.assert_array_equal(there.posterior_.labels, here.posterior_.labels)
    close(there.posterior_.alpha, here.posterior_.alpha)
    close(there.trace_.log_joint, here.trace_.log_joint)
    for kernel, ask in (
        ("mixture_log_density", lambda model: model.score_samples(X, groups)),
        ("mixture_log_density", lambda model: model.class_log_density(X)),
        ("mixture_log_density", lambda model: model.posterior_.relative_entropy(40, 0)),
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
    close(em(X, groups, n_components=(1,), device=gpu.name).log_density, em(X, groups, n_components=(1,)).log_density)


def test_a_classifier_takes_the_device_of_its_density(gpu, points):
    X, groups = points
    here = ClassConditionalDensity(GaussianMixture(random_state=0)).fit(X, groups)
    there = ClassConditionalDensity(GaussianMixture(random_state=0, device=gpu.name)).fit(X, groups)
    gpu.calls.clear()
    close(there.predict_proba(X), here.predict_proba(X))
    assert gpu.ran("mixture_log_density")


def test_chains_that_converge_are_made_here_and_evaluated_there(gpu, points, monkeypatch):
    X, groups = points
    monkeypatch.setattr(convergence, "MAX_ROUNDS", 50)
    monkeypatch.setattr(convergence, "BURN_IN_ROUNDS", 2)
    fits = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for device in (None, gpu.name):
            model = DPGaussianMixture(2, protocol="converged", random_state=0, device=device)
            fits.append(model.fit(X[14:], groups=groups[14:]))
            assert gpu.ran()
    np.testing.assert_array_equal(fits[0].posterior_.labels, fits[1].posterior_.labels)
    close(fits[1].score_samples(X), fits[0].score_samples(X))
    assert gpu.ran("mixture_log_density")


def test_points_held_out(gpu, points, monkeypatch):
    X, groups = points
    options = {"n_folds": 2, "protocol": None, "random_state": 0}
    monkeypatch.setattr(DPGaussianMixture, "_schedule", _short(DPGaussianMixture._schedule))
    here = heldout(X[14:], groups[14:], **options)
    assert gpu.ran()
    there = heldout(X[14:], groups[14:], device=gpu.name, **options)
    assert gpu.ran("gibbs_sweep", "mixture_log_density")
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
    with pytest.raises(ValueError, match="belongs to other data or other settings"):
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
    # By the kernel, before it starts.
    wide = np.random.default_rng(0).normal(size=(4, common.MAX_FEATURES + 1))
    with pytest.raises(ValueError, match="engine 'triton' takes x with at most 128 features, got 129"):
        DPGaussianMixture(2, device=gpu.name, **SETTINGS).fit(wide)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", 1.5])
@pytest.mark.parametrize("estimator", [DPGaussianMixture, GaussianMixture])
def test_a_device_that_is_not_here(estimator, device, points):
    with pytest.raises(ValueError, match=f"device must be a device that torch can use here, got {device!r}"):
        estimator(device=device).fit(points[0])


def test_where_the_pipeline_fits_densities(monkeypatch):
    assert machine.GPU_FEATURES == common.MAX_FEATURES
    settings = {**SETTINGS, "block_size": 4, "n_init_components": 6, "official": False}
    for there_is_one, narrow, wide in ((False, "cpu", "cpu"), (True, "cuda", "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=there_is_one: found)
        assert machine.network_device() == narrow
        assert machine.density_device(128) == computations.mixture(settings, 0, 128).device == narrow
        assert machine.density_device(129) == computations.mixture(settings, 0, 129).device == wide
        assert computations.mixture(settings, 0, 2, corrected=True).device == "cpu"


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
        inputs = {name: tmp_path / name for name in ("dataset", "representations")}
        inputs["posterior_stage_4"] = tmp_path / folder / "posterior"
        (tmp_path / folder / step).mkdir(parents=True)
        getattr(computations, step)(Work(tmp_path / folder / step, settings, inputs, Console(quiet=True)))

    for folder, device in (("here", "cpu"), ("there", gpu.name)):
        monkeypatch.setattr(computations, "density_device", lambda n_features, device=device: device)
        gpu.calls.clear()
        run("posterior", chain, folder)
        assert gpu.ran(*(["gibbs_sweep", "mixture_log_density"] if device == gpu.name else []))
        run("relative_entropy", {"stage": 4, "n_draws": 20, "seed": 0}, folder)
        run("leave_one_out", {"stage": 4}, folder)
        kernels = ("component_statistics", "mixture_log_density", "precision_cholesky", "student_t_log_density")
        assert gpu.ran(*(kernels if device == gpu.name else []))
    for file in ("posterior/density.npz", "relative_entropy/relative_entropy.npz", "leave_one_out/densities.npz"):
        here, there = (read_arrays(tmp_path / folder / file) for folder in ("here", "there"))
        for name, values in here.items():
            (np.testing.assert_array_equal if values.dtype.kind == "U" else close)(there[name], values)
