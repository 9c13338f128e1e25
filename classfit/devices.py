"""On which device the kernels run: the processor, or a GPU that Triton compiles for.

What an estimator holds lies on the processor. It moves what an operation reads to the device, and back what it finds.
Random numbers are drawn on the processor, so that a chain starts alike on every device; from there on, chains of two
devices are draws from the same posterior but not the same draws, because sums are rounded in another order.
"""

from typing import NamedTuple, TypeVar

import torch

Tensors = TypeVar("Tensors", bound=NamedTuple)


def checked(device: str | torch.device | None) -> torch.device:
    """The device of that name; None is the processor.

    Raises:
        ValueError: no name of a device, or no such device is here.
    """
    try:
        found = torch.device("cpu" if device is None else device)
        torch.empty(0, device=found)
    except Exception as error:  # torch has one kind for each reason
        raise ValueError(f"device must be a device that torch can use here, got {device!r} ({error})") from error
    return found


def moved(tensors: Tensors, device: torch.device) -> Tensors:
    """A named tuple of tensors, on the device."""
    return type(tensors)(*(field.to(device) for field in tensors))
