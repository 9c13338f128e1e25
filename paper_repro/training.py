"""Training of a classifier as in the paper, resumable to the same bits.

Every epoch draws its order and its crops from a generator of its own, so a run that was killed and goes on from its
checkpoint (weights, momentum, history) ends where an undisturbed one does, on the same number of threads.
"""

import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from paper_repro.storage import read_tensors, write_tensors

__all__ = ["Epoch", "TrainingSettings", "estimate_seconds", "learning_rate", "train"]


class TrainingSettings(NamedTuple):
    epochs: int
    batch_size: int
    peak_learning_rate: float
    warmup: float = 0.15
    """Share of all updates during which the learning rate rises."""
    momentum: float = 0.9
    weight_decay: float = 1e-6
    crop_padding: int = 4
    """Pixels of black added on each side before a random crop to the original size."""


class Epoch(NamedTuple):
    loss: float
    """Mean cross-entropy over the epoch, in nats, on augmented images."""
    accuracy: float
    """Share of augmented images classified rightly during the epoch."""


CHECKPOINT_EPOCHS = 4


def train(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: TrainingSettings,
    *,
    black: float,
    seed: int,
    noise: float = 0.0,
    checkpoint: Path | None = None,
    console: Console | None = None,
) -> list[Epoch]:
    """Train the network in place: SGD with Nesterov momentum, linear warm-up then linear decay, random crops.

    Args:
        network: freshly initialised, on the CPU.
        images: [N, C, H, W] float32, normalised.
        labels: [N] int64.
        settings: as above.
        black: the normalised value of a black pixel, which pads the images.
        seed: of the order of images, of the crops and of the noise.
        noise: standard deviation of Gaussian noise that is added to the normalised images, anew in each epoch.
        checkpoint: a safetensors file, written every few epochs; if it exists, training goes on from it.
        console: where a progress bar is shown, if anywhere.

    Returns:
        What each epoch reached.
    """
    optimizer = _optimizer(network, settings)
    history: list[Epoch] = []
    if checkpoint is not None and checkpoint.exists():
        history = _restore(checkpoint, network, optimizer)
    network.train()
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
    quiet = console is None or not console.is_terminal
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=quiet, transient=True) as bar:
        task = bar.add_task("", total=settings.epochs, completed=len(history), state="")
        for epoch in range(len(history), settings.epochs):
            history.append(_epoch(network, optimizer, images, labels, settings, epoch, black, seed, noise))
            state = f"loss {history[-1].loss:.3f} nats, accuracy {history[-1].accuracy:.1%}"
            bar.update(task, advance=1, state=state)
            if checkpoint is not None and (epoch + 1) % CHECKPOINT_EPOCHS == 0:
                _store(checkpoint, network, optimizer, history)
    return history


def learning_rate(update: int, n_updates: int, settings: TrainingSettings) -> float:
    """Learning rate of an update (0-based): from 0 to the peak over `warmup` of all updates, then down to 0."""
    done = (update + 1) / (n_updates + 1)
    if done < settings.warmup:
        return settings.peak_learning_rate * done / settings.warmup
    return settings.peak_learning_rate * (1 - done) / (1 - settings.warmup)


def estimate_seconds(network: nn.Module, images: Tensor, labels: Tensor, settings: TrainingSettings) -> float:
    """Wall seconds that training would take, from a few timed updates; the network is spoiled."""
    optimizer = _optimizer(network, settings)
    batch = images[: settings.batch_size], labels[: settings.batch_size]
    network.train()
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        _update(network, optimizer, *batch)
        seconds.append(time.perf_counter() - start)
    # The first updates also choose kernels and allocate memory; the median passes over them.
    return median(seconds) * settings.epochs * _updates_per_epoch(images, settings)


def _optimizer(network: nn.Module, settings: TrainingSettings) -> torch.optim.SGD:
    return torch.optim.SGD(
        network.parameters(),
        lr=settings.peak_learning_rate,
        momentum=settings.momentum,
        nesterov=True,
        weight_decay=settings.weight_decay,
    )


def _epoch(
    network: nn.Module,
    optimizer: torch.optim.SGD,
    images: Tensor,
    labels: Tensor,
    settings: TrainingSettings,
    epoch: int,
    black: float,
    seed: int,
    noise: float,
) -> Epoch:
    generator = torch.Generator().manual_seed(seed + epoch)
    order = torch.randperm(len(images), generator=generator)
    cropped = random_crop(images, settings.crop_padding, black, generator)
    if noise > 0:
        cropped = cropped + noise * torch.randn(cropped.shape, generator=generator)
    per_epoch = _updates_per_epoch(images, settings)
    loss, n_correct = 0.0, 0
    for i, batch in enumerate(order.split(settings.batch_size)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(epoch * per_epoch + i, settings.epochs * per_epoch, settings)
        batch_loss, batch_correct = _update(network, optimizer, cropped[batch], labels[batch])
        loss += batch_loss * len(batch)
        n_correct += batch_correct
    return Epoch(loss / len(images), n_correct / len(images))


def _update(network: nn.Module, optimizer: torch.optim.SGD, images: Tensor, labels: Tensor) -> tuple[float, int]:
    output = network(images.contiguous(memory_format=torch.channels_last))
    loss = F.cross_entropy(output, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item(), int((output.argmax(1) == labels).sum())


def random_crop(images: Tensor, padding: int, black: float, generator: torch.Generator) -> Tensor:
    """Each image [N, C, H, W] padded on all sides by `padding` pixels of `black`, then cropped at random to H x W."""
    N, _, H, W = images.shape
    padded = F.pad(images, (padding,) * 4, value=black)
    top, left = torch.randint(2 * padding + 1, (2, N, 1), generator=generator)
    rows, columns = top + torch.arange(H), left + torch.arange(W)
    n = torch.arange(N)[:, None, None]
    return padded.permute(0, 2, 3, 1)[n, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _updates_per_epoch(images: Tensor, settings: TrainingSettings) -> int:
    return -(-len(images) // settings.batch_size)


def _store(path: Path, network: nn.Module, optimizer: torch.optim.SGD, history: list[Epoch]) -> None:
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        tensors[f"momentum.{name}"] = optimizer.state[parameter]["momentum_buffer"]
    write_tensors(path, tensors, notes=[list(epoch) for epoch in history])


def _restore(path: Path, network: nn.Module, optimizer: torch.optim.SGD) -> list[Epoch]:
    tensors, notes = read_tensors(path)
    network.load_state_dict({name: tensors[f"network.{name}"] for name in network.state_dict()})
    for name, parameter in network.named_parameters():
        optimizer.state[parameter]["momentum_buffer"] = tensors[f"momentum.{name}"]
    return [Epoch(*epoch) for epoch in notes]
