"""What a long run does beside its steps, tried at full width: for a dry run.

Each function returns what it tried, in words, or raises.
"""

import pickle
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paper_repro.datasets import DatasetError, cifar100, normalised
from paper_repro.machine import network_device
from paper_repro.networks import build
from paper_repro.networks.transformers import FOLDER, URLS, file_of
from paper_repro.steps import Step, Workspace
from paper_repro.storage import read_json
from paper_repro.training import CHECKPOINT_EPOCHS, TrainingSettings, train

__all__ = ["bfloat16", "interrupted_training", "made_archive", "missing_weights", "real_dataset"]

N_CLASSES = 2


def real_dataset(step_of: Callable[[Path | None], Step], data: Path | None, folder: Path) -> tuple[bool, str]:
    """Read the profile's own dataset if it is there, else CIFAR-100's official archive, made of noise but complete.

    Args:
        step_of: the step `dataset` of the profile, by where its data are.
        data: where the dataset is said to be; None looks in the usual places.
        folder: for what is made.

    Returns:
        Whether the real dataset was read, and words.

    Raises:
        DatasetError: a dataset that is not whole, or was said to be where it is not.
    """
    workspace, step, words = Workspace(folder / "dataset"), step_of(data), "Read the dataset"
    try:
        workspace.run([step])
    except DatasetError as error:
        if data is not None or "not found in" not in str(error):
            raise
        words = str(error).split("\n", 1)[0]
        if step.settings["name"] != "cifar100":
            return False, f"{words} Its reader was not tried."
        step = step_of(made_archive(folder / "archive"))
        workspace.run([step])
        words += " Read an archive like the official one, but of noise"
    about = read_json(workspace.folder(step) / "dataset.json")
    sizes = f"{about['n_train']:,} training and {about['n_test']:,} test images of {len(about['class_names'])} classes"
    return words.startswith("Read"), f"{words}: {sizes}."


def made_archive(folder: Path) -> Path:
    """Files as those of cifar-100-python: as many images, of noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, n in (("train", cifar100.N_TRAIN), ("test", cifar100.N_TEST)):
        labels = rng.permutation(np.repeat(np.arange(cifar100.N_CLASSES), n))
        images = rng.integers(0, 256, (len(labels), 3 * cifar100.SIZE**2), dtype=np.uint8)
        files = [f"{part}_{i:05d}.png" for i in range(len(labels))]
        stored = {"data": images, "fine_labels": labels.tolist(), "filenames": files}
        (folder / part).write_bytes(pickle.dumps(stored, protocol=2))
    names = [f"class {g:02d}" for g in range(cifar100.N_CLASSES)]
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}, protocol=2))
    return folder


def interrupted_training(settings: Mapping[str, Any], image_shape: tuple[int, int, int]) -> str:
    """Stop a training after its checkpoint, go on in a new network, and compare with one that was not stopped.

    Raises:
        RuntimeError: the two do not end at the same bits.
    """
    how = TrainingSettings.of(settings)._replace(epochs=CHECKPOINT_EPOCHS + 2, batch_size=N_CLASSES)
    images, labels = _made(image_shape, 2 * N_CLASSES)
    calls = 0

    def prepare(batch: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2 * (CHECKPOINT_EPOCHS + 1):  # batches: in the epoch after the checkpoint
            raise InterruptedError
        return _normalised(batch)

    def fit(checkpoint: Path | None, prepare: Any) -> nn.Module:
        network = _network(settings, image_shape)
        train(network, images, labels, how, seed=0, prepare=prepare, checkpoint=checkpoint)
        return network

    with tempfile.TemporaryDirectory(prefix="paper-repro-dry-run-") as folder:
        checkpoint = Path(folder) / "checkpoint.safetensors"
        with suppress(InterruptedError):
            fit(checkpoint, prepare)
        if not checkpoint.exists():
            raise RuntimeError("training wrote no checkpoint before it was stopped")
        continued = fit(checkpoint, prepare).state_dict()
    whole = fit(None, _normalised).state_dict()
    differ = [name for name in whole if not torch.equal(whole[name], continued[name])]
    if differ:
        raise RuntimeError(f"training that was stopped and went on ends elsewhere: in {', '.join(differ[:3])}")
    return "Training that was stopped after a checkpoint went on to the same bits."


def bfloat16(settings: Mapping[str, Any], image_shape: tuple[int, int, int]) -> None:
    """An update in mixed precision, wherever it is run: slow, but of the types that a GPU would see.

    Raises:
        RuntimeError: a loss or gradients that are not finite.
    """
    network = _network(settings, image_shape)
    device = next(network.parameters()).device
    images, labels = (part.to(device) for part in _made(image_shape, N_CLASSES))
    with torch.autocast(device.type, torch.bfloat16):
        output = network(_normalised(images).contiguous(memory_format=torch.channels_last))
    loss = nn.functional.cross_entropy(output.float(), labels)
    loss.backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    if output.dtype != torch.bfloat16 or not all(bool(part.isfinite().all()) for part in (loss, *gradients)):
        raise RuntimeError(f"an update of {settings['architecture']} in bfloat16 must be finite, got a loss of {loss}")


def missing_weights(architecture: str) -> str | None:
    """What is to be said if the published weights of an architecture that has some are not on the disk."""
    if architecture not in URLS or file_of(architecture, FOLDER).exists():
        return None
    return (
        f"the pretrained weights of {architecture}, which are not at {file_of(architecture, FOLDER)}; a real run "
        f"wants them only when it comes to that network. They are at {URLS[architecture]}"
    )


def _network(settings: Mapping[str, Any], image_shape: tuple[int, int, int]) -> nn.Module:
    network = build(settings, image_shape=image_shape, n_classes=N_CLASSES, seed=0, pretrained=False)
    return network.to(network_device())


def _made(image_shape: tuple[int, int, int], n: int) -> tuple[Tensor, Tensor]:
    images = torch.randint(256, (n, *image_shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return images, torch.arange(n) % N_CLASSES


def _normalised(images: Tensor) -> Tensor:
    C = images.shape[1]
    return normalised(images, white=255, mean=[0.5] * C, std=[0.25] * C)
