"""Training of a classifier as in the paper, resumable to the same bits.

Every epoch draws its order, crops and flips from a generator of its own, so a run that was killed and goes on from its
checkpoint (weights, momentum, history) ends where an undisturbed one does, on the same number of threads.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from paper_repro.storage import read_tensors, write_tensors
from paper_repro.timing import part_that_is_short, seconds_of, typical

__all__ = [
    "Epoch",
    "TrainingSettings",
    "bfloat16_is_fast",
    "estimate_seconds",
    "learning_rate",
    "train",
]


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
    optimizer: str = "sgd"
    """"sgd" as in the paper, or "adamw", for transformers from random weights, which SGD hardly moves."""
    flip: bool = False
    """Mirror each image left to right with probability 1/2."""
    bfloat16: bool = False
    """Automatic mixed precision, where the hardware multiplies bfloat16 (see `bfloat16_is_fast`); weights stay float32.
    Measured on two cores with AMX: 2.4 times the speed of float32 for a ResNet18 of half width at 32 x 32 pixels."""

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "TrainingSettings":
        """From the settings of a step, which may hold others as well."""
        return cls(**{name: settings[name] for name in cls._fields if name in settings})


class Epoch(NamedTuple):
    loss: float
    """Mean cross-entropy over the epoch, in nats, on augmented images."""
    accuracy: float
    """Share of augmented images classified rightly during the epoch."""


Prepare = Callable[[Tensor], Tensor]

CHECKPOINT_EPOCHS, CHECKPOINT_SECONDS = 4, 60.0
"""A checkpoint is written when either has passed since the last, at the end of an epoch."""


def train(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: TrainingSettings,
    *,
    seed: int,
    prepare: Prepare = Tensor.float,
    checkpoint: Path | None = None,
    console: Console | None = None,
) -> list[Epoch]:
    """Train the network in place: SGD with Nesterov momentum (or AdamW), linear warm-up and decay, crops and flips.

    Args:
        network: freshly initialised, on the device where to train.
        images: [N, C, H, W], any dtype, black is 0; kept on the device of the network as they are.
        labels: [N] int64.
        settings: as above.
        seed: of the order of images, of the crops and of the flips.
        prepare: what makes a batch of augmented images [B, C, H, W] into the float32 input of the network.
        checkpoint: a safetensors file, written every few epochs; if it exists, training goes on from it.
        console: where a progress bar is shown, if anywhere.

    Returns:
        What each epoch reached.
    """
    optimizer = _optimizer(network, settings)
    history: list[Epoch] = []
    if checkpoint is not None and checkpoint.exists():
        history = _restore(checkpoint, network, optimizer)
    device = _device(network)
    images, labels = images.to(device), labels.to(device)
    stored_epoch, stored_at = len(history), time.monotonic()
    said_at = stored_at
    network.train()
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
    quiet = console is None or not console.is_terminal
    with (
        _repeatable(),
        Progress(*columns, TimeRemainingColumn(), console=console, disable=quiet, transient=True) as bar,
    ):
        task = bar.add_task("", total=settings.epochs, completed=len(history), state="")
        for epoch in range(len(history), settings.epochs):
            history.append(_epoch(network, optimizer, images, labels, settings, epoch, seed, prepare))
            state = f"loss {history[-1].loss:.3f} nats, accuracy {history[-1].accuracy:.1%}"
            bar.update(task, advance=1, state=state)
            late = time.monotonic() - stored_at > CHECKPOINT_SECONDS
            if checkpoint is not None and (late or len(history) - stored_epoch >= CHECKPOINT_EPOCHS):
                _store(checkpoint, network, optimizer, history)
                stored_epoch, stored_at = len(history), time.monotonic()
            if console is not None and quiet and time.monotonic() - said_at > CHECKPOINT_SECONDS:
                said_at = time.monotonic()
                console.print(f"epoch {len(history)} of {settings.epochs}: {state}")
    return history


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether the hardware multiplies matrices of bfloat16; elsewhere it is slower than float32, with AVX-512's too
    (measured: 1.35 times as slow for a ResNet18 of half width on two cores)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.cpu.get_capabilities().get("amx_bf16", False)


def learning_rate(update: int, n_updates: int, settings: TrainingSettings) -> float:
    """Learning rate of an update (0-based): from 0 to the peak over `warmup` of all updates, then down to 0."""
    done = (update + 1) / (n_updates + 1)
    if done < settings.warmup:
        return settings.peak_learning_rate * done / settings.warmup
    return settings.peak_learning_rate * (1 - done) / (1 - settings.warmup)


def estimate_seconds(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: TrainingSettings,
    prepare: Prepare = Tensor.float,
    checkpoint: Path | None = None,
) -> float:
    """Wall seconds that training would take, from a few timed updates; the network is spoiled.

    Epochs that a checkpoint has are done. Where a whole batch takes long, a part of it is timed, and time goes with the
    number of images.
    """
    optimizer, device = _optimizer(network, settings), _device(network)
    network.train()

    def seconds(n: int) -> float:
        """Of one update with n images."""
        batch = prepare(images[:n].to(device)), labels[:n].to(device)
        return seconds_of(lambda: _update(network, optimizer, *batch, settings))

    whole = min(settings.batch_size, len(images))
    done = len(read_tensors(checkpoint)[1]) if checkpoint is not None and checkpoint.exists() else 0
    n = part_that_is_short(seconds, whole)
    return typical(seconds, n) * whole / n * (settings.epochs - done) * _updates_per_epoch(images, settings)


def _optimizer(network: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "adamw":
        rate, decay = settings.peak_learning_rate, settings.weight_decay
        return torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay)
    return torch.optim.SGD(
        network.parameters(),
        lr=settings.peak_learning_rate,
        momentum=settings.momentum,
        nesterov=True,
        weight_decay=settings.weight_decay,
    )


def _epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    settings: TrainingSettings,
    epoch: int,
    seed: int,
    prepare: Prepare,
) -> Epoch:
    # Drawn on the CPU, so that every device sees the same images in the same order.
    generator = torch.Generator().manual_seed(seed + epoch)
    order = torch.randperm(len(images), generator=generator)
    top, left = torch.randint(2 * settings.crop_padding + 1, (2, len(images)), generator=generator)
    mirrored = torch.rand(len(images), generator=generator) < (0.5 if settings.flip else 0.0)
    order, top, left, mirrored = (drawn.to(images.device) for drawn in (order, top, left, mirrored))
    per_epoch = _updates_per_epoch(images, settings)
    loss, n_correct = 0.0, 0
    for i, batch in enumerate(order.split(settings.batch_size)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(epoch * per_epoch + i, settings.epochs * per_epoch, settings)
        augmented = crop(images[batch], top[batch], left[batch], mirrored[batch], settings.crop_padding)
        batch_loss, batch_correct = _update(network, optimizer, prepare(augmented), labels[batch], settings)
        loss += batch_loss * len(batch)
        n_correct += batch_correct
    return Epoch(loss / len(images), n_correct / len(images))


def _update(
    network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, settings: TrainingSettings
) -> tuple[float, int]:
    mixed = settings.bfloat16 and bfloat16_is_fast(images.device)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=mixed):
        output = network(images.contiguous(memory_format=torch.channels_last))
    loss = F.cross_entropy(output.float(), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item(), int((output.argmax(1) == labels).sum())


def crop(images: Tensor, top: Tensor, left: Tensor, mirrored: Tensor, padding: int) -> Tensor:
    """Images [N, C, H, W] with `padding` black pixels (0) on all sides, cut to H x W from row `top` [N] and column
    `left` [N] (0..2 padding), and turned left to right where `mirrored` [N] is true."""
    N, _, H, W = images.shape
    padded = F.pad(images, (padding,) * 4)
    across = torch.arange(W, device=images.device)
    rows = top[:, None] + torch.arange(H, device=images.device)
    columns = left[:, None] + torch.where(mirrored[:, None], W - 1 - across, across)
    n = torch.arange(N, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[n, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@contextmanager
def _repeatable() -> Iterator[None]:
    """Of the convolutions of a GPU only those that give the same bits twice."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _updates_per_epoch(images: Tensor, settings: TrainingSettings) -> int:
    return -(-len(images) // settings.batch_size)


def _store(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, history: list[Epoch]) -> None:
    tensors = {f"network/{name}": value.cpu() for name, value in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        for kind, value in optimizer.state[parameter].items():
            tensors[f"{kind}/{name}"] = value.cpu()
    write_tensors(path, tensors, notes=[list(epoch) for epoch in history])


def _restore(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> list[Epoch]:
    tensors, notes = read_tensors(path)
    network.load_state_dict({name: tensors.pop(f"network/{name}") for name in network.state_dict()})
    parameters = dict(network.named_parameters())
    for name, value in tensors.items():
        kind, parameter = name.split("/", 1)
        device = "cpu" if kind == "step" else parameters[parameter].device
        optimizer.state[parameters[parameter]][kind] = value.to(device)
    return [Epoch(*epoch) for epoch in notes]
