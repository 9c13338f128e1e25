"""What steps ask of networks and estimators that are put in place of the real ones: points, noise, seeds, settings."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from spawned import broken, full

from paper_repro import computations, memorized_densities, robustness
from paper_repro.analyze import Analysis
from paper_repro.certification import ABSTAIN, certify
from paper_repro.networks import residual_network
from paper_repro.profiles import PAPER
from paper_repro.steps import CannotError, Work
from paper_repro.storage import read_arrays, write_arrays
from paper_repro.workers import run_tasks

BINS = np.array([0, 1, 1, 0, 2])


class Networks:
    """In place of the networks of subsets; an image is the number of its row, a network the name of its file."""

    about = {"class_names": ["a", "b"]}  # noqa: RUF012
    labels = np.zeros(len(BINS), int)

    def __init__(self):
        self.fitted, self.saved = [], []

    def fit(self, inside, *, seed, noise=0.0):
        self.fitted.append((inside.tolist(), noise, seed))

    def save(self, network, path):
        self.saved.append(path.name)

    def load(self, path):
        return path.name

    def images(self, rows):
        return torch.from_numpy(rows)

    def predict(self, network, rows):
        return np.zeros(len(rows), int)


def test_networks_of_a_bin_never_see_it_and_one_has_noise():
    networks = Networks()
    for kind in ("plain", "noisy"):
        robustness._fit_without_bin(Path(), networks, {"sigma": 0.5, "seed": 0}, BINS, (1, kind))
    assert networks.saved == ["without_bin_01_plain.safetensors", "without_bin_01_noisy.safetensors"]
    others = [True, False, False, True, True]
    assert [asked[:2] for asked in networks.fitted] == [(others, 0.0), (others, 0.5)]
    assert len({seed for *_, seed in networks.fitted}) == 2


@pytest.fixture
def votes(monkeypatch, tmp_path):
    """Of four points by networks in place of the real ones: what was asked, by whom, and of what."""
    asked, networks = [], Networks()

    def counts(network, image, n, *, sigma, n_classes, seed):
        asked.append((network, int(image), n, sigma, seed))
        return np.array([n, 0])

    monkeypatch.setattr("paper_repro.certification.smoothed_counts", counts)
    monkeypatch.setattr("paper_repro.workers.n_workers", lambda: 1)
    made = {"_chosen": (np.array([0, 3, 1, 4]), BINS), "_subset_networks": networks, "_bins_folder": tmp_path}
    for name, value in made.items():
        monkeypatch.setattr(robustness, name, lambda *_, value=value: value)
    settings = {"seed": 0, "n0": 5, "n": 40, "sigma": 0.5, "alpha": 0.001, "points_a_task": 3}
    return SimpleNamespace(asked=asked, networks=networks, work=Work(tmp_path, settings, {}, Console(quiet=True)))


def test_votes_are_of_the_noisy_network_without_the_bin_and_choose_and_bound_with_other_noise(votes):
    robustness.certification(votes.work)
    assert [of for *of, _ in votes.asked] == [
        [f"without_bin_0{BINS[row]}_noisy.safetensors", row, n, 0.5] for row in (0, 3, 1, 4) for n in (5, 40)
    ]
    assert len({seed for *_, seed in votes.asked}) == 8


def test_the_control_asks_one_network_that_lacks_the_points_alone_under_the_same_noise(votes, tmp_path):
    robustness.certification(votes.work)
    of_bins = [asked for _, *asked in votes.asked]
    votes.asked.clear()
    (tmp_path / "control").mkdir()
    robustness.certification_control(replace(votes.work, folder=tmp_path / "control"))
    assert [asked for _, *asked in votes.asked] == of_bins
    assert {network for network, *_ in votes.asked} == {robustness.CONTROL}
    ((inside, noise, _),) = votes.networks.fitted
    assert (inside, noise) == ([False, False, True, False, False], 0.5)
    assert votes.networks.saved == [robustness.CONTROL]
    stored = read_arrays(tmp_path / "control" / "certificates.npz")
    assert stored["rows"].tolist() == [0, 3, 1, 4]
    assert stored["estimation"].tolist() == [[40, 0]] * 4


def test_certificates_choose_by_the_first_votes_and_bound_by_the_others(tmp_path, monkeypatch):
    votes = {"selection": np.array([[3, 2], [1, 4]]), "estimation": np.array([[30, 10], [40, 0]])}
    made = {"_chosen": (np.arange(2), BINS), "gathered": votes, "_subset_networks": None, "_bins_folder": tmp_path}
    for name, value in made.items():
        monkeypatch.setattr(robustness, name, lambda *_, value=value: value)
    monkeypatch.setattr("paper_repro.workers.run_tasks", lambda *_, **__: None)
    settings = {"sigma": 0.5, "alpha": 0.01}
    robustness.certification(Work(tmp_path, settings | {"points_a_task": 2}, {}, Console(quiet=True)))
    stored = read_arrays(tmp_path / "certificates.npz")
    assert stored["predicted"].tolist() == [0, ABSTAIN]
    assert stored["radius"].tolist() == certify(votes["selection"], votes["estimation"], **settings).radius.tolist()


def test_trials_have_seeds_of_their_own():
    networks = Networks()
    for trial in (0, 1):
        robustness._fit_trial(networks, 0, np.ones(5, bool), trial)
    assert len({seed for *_, seed in networks.fitted}) == 2


def test_points_held_out_of_figure_a11_are_not_fitted(tmp_path, monkeypatch):
    fitted, predicted = [], []

    class Classifier:
        def __init__(self, density): ...

        def fit(self, X, y):
            fitted.extend(X[:, 0])
            return self

        def predict(self, X):
            predicted.extend(X[:, 0])
            return np.zeros(len(X), int)

    monkeypatch.setattr("classfit.ClassConditionalDensity", Classifier)
    monkeypatch.setattr(memorized_densities, "_mixture", lambda *_: None)
    write_arrays(tmp_path / "layer4.npz", {"values": np.arange(6.0)[:, None]})
    groups = {"most": np.array([1]), "random": np.array([4]), "least": np.array([2])}
    memorized_densities._classify(tmp_path, {}, tmp_path, groups, np.zeros(6, int), 4)
    assert (fitted, predicted) == ([0, 3, 5], [1, 4, 2])


def test_classes_compared_have_just_enough_points_of_every_kind(tmp_path, monkeypatch):
    scores, labels = np.arange(6) / 10, np.array([0, 0, 0, 1, 1, 2])
    monkeypatch.setattr(memorized_densities, "train_scores", lambda _: {"value": scores})
    monkeypatch.setattr(memorized_densities, "train_labels", lambda _: labels)

    def groups(**settings):
        work = Work(tmp_path, {"threshold": None, "seed": 0} | settings, {}, Console(quiet=True))
        kept, classes = memorized_densities._groups_of_classes(work)
        return {name: rows.tolist() for name, rows in kept.items()}, classes.tolist()

    every = {kind: [0, 1, 2, 3, 4] for kind in ("most", "random", "least")}
    assert groups(n_points=6, least_points=2) == (every, [0, 1])
    above, _ = groups(threshold=0.3, least_points=0)
    assert (above["most"], above["least"]) == ([4, 5], [0, 1])
    with pytest.raises(CannotError, match="got 2: of 3 classes 0 have as many points among the 3 of each kind"):
        groups(n_points=3, least_points=2)  # of one kind there are


def test_divergences_are_of_the_points_of_their_kind_in_as_many_dimensions(tmp_path, monkeypatch):
    fitted = []

    class Mixture:
        posterior_ = SimpleNamespace(kl_divergence=lambda **_: SimpleNamespace(_asdict=lambda: {"value": np.eye(2)}))

        def fit(self, X, groups):
            fitted.append((X.tolist(), groups.tolist()))
            return self

    monkeypatch.setattr(memorized_densities, "_mixture", lambda *_: Mixture())
    write_arrays(tmp_path / "layer4.npz", {"values": np.arange(12.0).reshape(6, 2)})
    rows = {"most": np.array([1, 3]), "random": np.array([4, 5]), "least": np.array([0, 2])}
    for task in (("most", 4), ("least", 4, 1)):
        settings = {"seed": 0, "n_draws": 5}
        memorized_densities._class_divergences(tmp_path, settings, tmp_path, rows, np.array([0, 1] * 3), task)
    assert fitted == [([[2, 3], [6, 7]], [1, 1]), ([[0], [4]], [0, 0])]


def test_densities_that_are_done_take_no_more_time(tmp_path, monkeypatch):
    """Each takes six seconds, on two processes."""
    rows = {kind: np.arange(2) for kind in ("most", "random", "least")}
    made = {"train_labels": np.arange(6) % 2, "_groups_of_classes": (rows, np.arange(2)), "_held_out": rows}
    made |= {"_representations": tmp_path, "_values": np.zeros((6, 2)), "values_of": np.zeros((6, 2))}
    made |= {"_timed_fit": (6.0, SimpleNamespace(class_log_density=lambda x: None)), "seconds_of": 0.0}
    for name, value in (made | {"_seconds_of_divergences": 0.0}).items():
        monkeypatch.setattr(memorized_densities, name, lambda *_, value=value: value)
    monkeypatch.setattr("paper_repro.workers.n_workers", lambda: 2)
    work = Work(tmp_path, {"stages": [3, 4], "n_draws": 5}, {}, Console(quiet=True))
    for estimate, tasks in (
        (memorized_densities.estimate_kl_by_stage, [(kind, stage) for kind in rows for stage in (3, 4)]),
        (memorized_densities.estimate_generative, [3, 4]),
    ):
        for left in range(len(tasks), 0, -1):
            assert estimate(work) == 6 * left / min(2, left)
            robustness.checkpoint_of(tmp_path, tasks[left - 1]).touch()
        assert estimate(work) == 0


def test_official_reaches_the_estimator():
    chain = {"n_sweeps": 8, "n_discard": 4, "thin": 2, "block_size": 4, "n_init_components": 3}
    for official in (False, True):
        assert computations.mixture({**chain, "official": official}, 0, 2).official is official


def test_every_layer_of_every_network_has_a_seed_of_its_own():
    layers = [{"stage": 3}, {"stage": 4}, {"network": "convnet", "layer": "conv1"}]
    layers += [{"network": "convnet", "layer": "conv2"}, {"network": "vit", "layer": "conv1"}]
    settings = [{"seed": seed, **layer} for seed in (0, 1) for layer in layers]
    assert len({computations._seed_of_layer(SimpleNamespace(settings=each)) for each in settings}) == len(settings)


def test_the_number_of_components_of_a_class_is_a_mean_over_labellings():
    labels = np.array([[0, 1, 2, 0, 0], [0, 0, 1, 0, 1]])
    posterior = SimpleNamespace(group_offsets=torch.tensor([0, 3, 5]), labels=labels)
    assert computations._mean_components(posterior).tolist() == [2.5, 1.5]


def test_the_first_half_of_the_layers_of_a_model_has_16_dimensions_and_the_others_64(tmp_path):
    network = residual_network((1, 1, 1, 1), width=64, n_classes=3, in_channels=3, seed=0)
    layers = ["conv1", "layer1", "layer2", "layer3", "layer4"]
    found = Analysis(network, PAPER, model="m", data=tmp_path, size=16, layers=layers)
    assert found.profile.dimensions == (16, 16, 64, 64, 64)


@pytest.mark.parametrize("n_processes", [1, 2])
def test_a_full_disk_is_said_by_whichever_process_met_it(n_processes):
    def call(task):
        run_tasks(task, [0, 1], lambda _: False, description="tasks", n_processes=n_processes)

    with pytest.raises(OSError, match="No space left on device"):
        call(full)
    with pytest.raises(RuntimeError if n_processes > 1 else OSError, match=r"tasks failed|Input/output"):
        call(broken)
