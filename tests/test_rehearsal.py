"""What a dry run tries beside the steps, and that it notices when it fails."""

import io
from dataclasses import replace

import pytest
import torch
from paper_repro_tiny import TINY_PROFILE
from rich.console import Console

from paper_repro import dry_run, rehearsal, training
from paper_repro.datasets import DatasetError
from paper_repro.networks import transformers
from paper_repro.pipeline import Pipeline
from paper_repro.profiles import PAPER, PROFILES
from paper_repro.steps import Workspace

CONVNET = {"architecture": "convnet", "width": 8, "epochs": 3, "batch_size": 5, "peak_learning_rate": 0.1, "flip": True}
SHAPE = (3, 8, 8)


def dataset_of(name):
    return lambda source: Pipeline(PROFILES[name], PAPER, data=source).dataset


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_archive_is_made_and_read_where_there_is_no_dataset(nowhere, small_cifar):
    real, words = rehearsal.real_dataset(dataset_of("cifar100-resnet18"), None, nowhere / "made")
    assert not real
    assert words.startswith("CIFAR-100 was not found in data/cifar100.zip")
    assert words.endswith("12 training and 6 test images of 3 classes.")


def test_a_dataset_that_is_there_is_read(nowhere, small_cifar):
    archive = rehearsal.made_archive(nowhere / "here" / "archive")
    real, words = rehearsal.real_dataset(dataset_of("cifar100-resnet18"), archive, nowhere / "made")
    assert real
    assert words == "Read the dataset: 12 training and 6 test images of 3 classes."
    (archive / "test").unlink()
    with pytest.raises(DatasetError, match="has no file test"):
        rehearsal.real_dataset(dataset_of("cifar100-resnet18"), archive, nowhere / "again")
    with pytest.raises(DatasetError, match="was not found in"):
        rehearsal.real_dataset(dataset_of("cifar100-resnet18"), nowhere / "gone", nowhere / "third")


def test_a_reader_that_was_not_tried_is_named(nowhere):
    real, words = rehearsal.real_dataset(dataset_of("mini-imagenet-resnet18"), None, nowhere / "made")
    assert not real
    assert (
        words == "Mini-ImageNet was not found in data/mini-imagenet.zip, data/mini-imagenet. Its reader was not tried."
    )


def test_a_stopped_training_goes_on_to_the_same_bits():
    assert "same bits" in rehearsal.interrupted_training(CONVNET, SHAPE)


def test_a_checkpoint_that_forgets_is_noticed(monkeypatch):
    store = training._store

    def forgetful(path, network, optimizer, history):
        optimizer.state.clear()
        for parameter in network.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        store(path, network, optimizer, history)

    monkeypatch.setattr(training, "_store", forgetful)
    with pytest.raises(RuntimeError, match="ends elsewhere: in conv1"):
        rehearsal.interrupted_training(CONVNET, SHAPE)
    monkeypatch.setattr(training, "_store", lambda *arguments: None)
    with pytest.raises(RuntimeError, match="wrote no checkpoint"):
        rehearsal.interrupted_training(CONVNET, SHAPE)


def test_bfloat16_is_used_and_has_to_be_finite(monkeypatch):
    rehearsal.bfloat16(CONVNET, SHAPE)
    build = rehearsal.build

    def broken(*arguments, **options):
        network = build(*arguments, **options)
        network.conv1.weight.data.fill_(float("inf"))
        return network

    monkeypatch.setattr(rehearsal, "build", broken)
    with pytest.raises(RuntimeError, match="an update of convnet in bfloat16 must be finite"):
        rehearsal.bfloat16(CONVNET, SHAPE)


def test_missing_weights_are_named_and_those_there_are_used(nowhere):
    assert rehearsal.missing_weights("resnet18") is None
    assert "data/sam/ViT-B_16.npz" in rehearsal.missing_weights("vit_b16")
    shrunk = dry_run.shrunk_profile(PROFILES["cifar100-resnet18"])
    assert shrunk.vit.settings["pretrained"] is False
    path = transformers.file_of("vit_b16", transformers.FOLDER)
    path.parent.mkdir(parents=True)
    path.touch()
    assert rehearsal.missing_weights("vit_b16") is None
    shrunk = dry_run.shrunk_profile(PROFILES["cifar100-resnet18"])
    assert shrunk.vit.settings["pretrained"] is True
    assert shrunk.mixer.settings["pretrained"] is False


def test_half_of_the_trials_are_a_shard(tmp_path):
    said = io.StringIO()
    workspace = Workspace(tmp_path, Console(file=said, width=200))
    profile = replace(TINY_PROFILE, robustness=replace(TINY_PROFILE.robustness, n_trials=4))
    pipeline = Pipeline(dry_run.shrunk_profile(profile), dry_run.shrunk_protocol(PAPER))
    step = pipeline.robustness["memorization"]
    dry_run._half_of_the_trials(workspace, pipeline, [pipeline.figures["figure_a6"]])
    assert not workspace.folder(step).exists()
    dry_run._half_of_the_trials(workspace, pipeline, [pipeline.figures["figure_4"]])
    trials = [int(path.stem[-5:]) for path in workspace.folder(step).glob("checkpoint-trial-*")]
    assert sorted(trials) == list(range(0, step.settings["n_trials"], 2))
