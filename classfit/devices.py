"""On which device the kernels run: the processor, or a GPU that Triton compiles for.

What an estimator holds lies on the processor. It moves what an operation reads to the device, and back what it finds.
Random numbers are drawn on the processor, so that a chain starts alike on every device; from there on, chains of two
devices are draws from the same posterior but not the same draws, because sums are rounded in another order.
"""

from typing import NamedTuple, TypeVar

import torch

CPU = torch.device("cpu")
"""Named wherever a tensor is made here: the caller may have set another device as torch's default."""

Tensors = TypeVar("Tensors", bound=NamedTuple)


def checked(device: str | torch.device | None, n_features: int | None = None) -> torch.device:
    """The device of that name; None is the processor.

    Raises:
        ValueError: no name of a device; no such device is here; or, if n_features is given, the kernels do not know the
            device, or do not take so many features there.
    """
    try:
        found = torch.device("cpu" if device is None else device)
        numbers = torch.empty(0, n_features or 1, device=found)
    except Exception as error:  # torch has one kind for each reason
        raise ValueError(f"device must be a device that torch can use here, got {device!r} ({error})") from error
    if n_features is not None and found.type != "cpu":
        try:
            from kernels.triton.common import target

            target(numbers)
        except (ImportError, ValueError) as error:
            raise ValueError(f"device must be None or 'cpu', got {device!r}: {error}") from error
    return found


def name(device: torch.device) -> str:
    """What a chain's checkpoint calls the device: on another one its sweeps would be rounded in another order."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def moved(tensors: Tensors, device: torch.device) -> Tensors:
    """A named tuple of tensors, on the device."""
    return type(tensors)(*(field.to(device) for field in tensors))
