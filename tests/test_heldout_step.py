"""The protocol `heldout` as steps: the fit to all points is that of `converged`, the folds are its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from paper_repro_tiny import TINY_PROFILE
from rich.console import Console

from classfit import DPGaussianMixture, convergence, protocols
from paper_repro import computations, storage
from paper_repro.pipeline import Pipeline
from paper_repro.profiles import CONVERGED, HELDOUT
from paper_repro.steps import Work, derived_seed


@pytest.fixture
def short_chains(monkeypatch):
    for name, value in (("MAX_ROUNDS", 10), ("CHECK_ROUNDS", 5), ("BURN_IN_ROUNDS", 2)):
        monkeypatch.setattr(convergence, name, value)


def work_of(step, root):
    folder = root / step.name
    folder.mkdir(parents=True)
    return Work(folder, step.settings, {step_in.name: root / step_in.name for step_in in step.inputs}, Console())


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_fit_to_all_points_is_that_of_converged_and_densities_are_of_the_folds(tmp_path, monkeypatch, short_chains):
    labels = np.repeat([0, 1], 20)
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32) + 5 * labels[:, None]
    for name in ("dataset", "representations"):
        (tmp_path / name).mkdir()
    storage.write_tensors(tmp_path / "dataset" / "data.safetensors", {"train_labels": torch.from_numpy(labels)})
    storage.write_json(tmp_path / "dataset" / "dataset.json", {"class_names": ["ant", "elk"]})
    storage.write_arrays(tmp_path / "representations" / "layer1.npz", {"values": x})
    step = Pipeline(TINY_PROFILE, HELDOUT).posteriors[1]
    whole = step.inputs[-1]
    computations.posterior(work_of(whole, tmp_path))
    fitted, fit = [], DPGaussianMixture.fit

    def spy(self, X, y=None, groups=None):
        fitted.append(len(X))
        return fit(self, X, y, groups)

    monkeypatch.setattr(DPGaussianMixture, "fit", spy)
    work = work_of(step, tmp_path)
    computations.posterior(work)
    # A machine with another device goes on with chains of its own.
    assert len(list((work.folder / "checkpoint-folds-cpu").glob("fold*.npz"))) == 5
    assert fitted == [32] * 5
    for name in ("posterior.npz", "trace.npz"):
        there, here = (storage.read_arrays(tmp_path / of.name / name) for of in (whole, step))
        assert there.keys() == here.keys()
        for key in there:
            np.testing.assert_array_equal(there[key], here[key])
    found = protocols.heldout(x, labels, random_state=derived_seed(0, "posterior", 1))
    density = storage.read_arrays(tmp_path / step.name / "density.npz")
    np.testing.assert_array_equal(density["log_density"], found.log_density)
    np.testing.assert_array_equal(density["in_sample"], found.diagnostics["in_sample"])
    assert not np.array_equal(
        density["log_density"], storage.read_arrays(tmp_path / whole.name / "density.npz")["log_density"]
    )
    # Means of the chains are of the fits whose densities they are beside.
    assert "mean_by_chain" not in density
    in_whole, trace = (storage.read_arrays(tmp_path / whole.name / name) for name in ("density.npz", "trace.npz"))
    np.testing.assert_array_equal(in_whole["mean_by_chain"], trace["mean_log_density"])
    assert in_whole["mean_by_chain"].shape == (4, 2)
    # The report draws chains where the densities rest on them.
    for protocol, drawn in ((HELDOUT, set()), (CONVERGED, {"n_components_1", "log_joint_1"})):
        classes = Pipeline(TINY_PROFILE, protocol).classes
        entropy = tmp_path / "converged" / "relative_entropy_stage_1"
        entropy.mkdir(exist_ok=True)
        storage.write_arrays(entropy / "relative_entropy.npz", {"value": np.ones(2), "standard_error": np.ones(2)})
        asked = work_of(classes, tmp_path)
        computations.classes(replace(asked, settings={**asked.settings, "stages": [1]}))
        assert storage.read_arrays(asked.folder / "traces.npz").keys() == drawn


def test_steps_of_both_protocols_are_the_same_and_come_in_order():
    pipeline, converged = Pipeline(TINY_PROFILE, HELDOUT), Pipeline(TINY_PROFILE, CONVERGED)
    names = [step.name for step in pipeline.steps]
    assert len(names) == len(set(names))
    for stage, step in pipeline.posteriors.items():
        assert step.inputs[-1].fingerprint == converged.posteriors[stage].fingerprint
    for of in ("entropies", "left_out"):  # what follows from the posterior alone is there once
        there, here = (
            {stage: step.fingerprint for stage, step in getattr(p, of).items()} for p in (converged, pipeline)
        )
        assert here == there
        assert here
    assert pipeline.test_densities.fingerprint == converged.test_densities.fingerprint
    for name in ("kl_by_stage", "generative"):
        assert pipeline.robustness[name].fingerprint == converged.robustness[name].fingerprint
    assert pipeline.classes.fingerprint != converged.classes.fingerprint
    assert pipeline.scorecard.settings["of_converged"] == ["figure_4", "figure_a11"]
    assert "of_converged" not in converged.scorecard.settings
    for layer, step in pipeline.others["convnet"].posteriors.items():
        assert step.inputs[-1].fingerprint == converged.others["convnet"].posteriors[layer].fingerprint
    for step in pipeline.steps:
        assert {step_in.name for step_in in step.inputs} <= set(names[: names.index(step.name)])
    assert not any(name.startswith("heldout/") for name in (step.name for step in converged.steps))
