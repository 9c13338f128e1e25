"""What one pass through a network costs, operation by operation: floating-point operations and bytes moved.

The project's own training and inference code runs on the real networks at full width and the real batch size, on
tensors that have shapes and types but no values (torch's FakeTensorMode), so nothing is computed and no GPU is needed.
Operations that torch's flop counter knows (convolutions, matrix products, attention) are counted by its formulas; a
multiply-add is two. Every operation, known or not, moves its inputs and outputs once, as in eager mode; views are free.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

from paper_repro import training
from paper_repro.datasets import normalised
from paper_repro.networks import build
from paper_repro.training import TrainingSettings

__all__ = ["ATTENTION", "Operation", "forward", "gradient", "network_of", "traced", "update"]

aten = torch.ops.aten
# Missing in the counter's own table: what fused attention is called on tensors of the CPU.
ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
}
# Neither computes nor moves anything.
FREE = {aten._unsafe_view, aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided, aten.new_empty_strided}


class Operation(NamedTuple):
    kind: str
    """"convolution", "product" (of matrices, attention among them) or "other"."""
    bfloat16: bool
    """Whether its result is of that type; else it is float32, or of integers."""
    flops: float
    bytes: float


def network_of(settings: Mapping[str, Any], image_shape: Sequence[int], n_classes: int) -> nn.Module:
    """The network of a step's settings (architecture, width, stem), with random weights."""
    return build(settings, image_shape=tuple(image_shape), n_classes=n_classes, seed=0, pretrained=False)


def update(network: nn.Module, how: TrainingSettings, image_shape: Sequence[int]) -> list[Operation]:
    """One update: crops, forward, backward and optimizer, as `paper_repro.training` does it, in bfloat16 if it is set.

    Args:
        network: loses its values.
        how: batch_size, optimizer, ...
        image_shape: channels, height and width.
    """
    mode = _without_values(network)
    optimizer = training._optimizer(network, how)
    for group in optimizer.param_groups:
        group["foreach"] = True  # torch's own choice on a GPU, though not for tensors without values
    C = image_shape[0]
    prepare = partial(normalised, white=255, mean=[0.5] * C, std=[0.2] * C)

    def epoch() -> None:
        images = torch.zeros(how.batch_size, *image_shape, dtype=torch.uint8)
        labels = torch.zeros(how.batch_size, dtype=torch.int64)
        training._epoch(network, optimizer, images, labels, how, 0, 0, prepare)

    # Every GPU that times are predicted for multiplies bfloat16; the processor at hand need not.
    with patch.object(training, "bfloat16_is_fast", lambda device: True):
        traced(epoch, mode)  # the first update also makes the optimizer's momentum
        return traced(epoch, mode)


def forward(network: nn.Module, batch_size: int, image_shape: Sequence[int]) -> list[Operation]:
    """A batch in eval mode, in float32, as everything but training runs it."""
    mode = _without_values(network.eval())

    @torch.no_grad()
    def run() -> None:
        network(torch.zeros(batch_size, *image_shape))

    return traced(run, mode)


def gradient(network: nn.Module, batch_size: int, image_shape: Sequence[int]) -> list[Operation]:
    """Forward, and backward to the images but not to the weights, in float32: what an attack does."""
    mode = _without_values(network.eval().requires_grad_(False))

    def run() -> None:
        images = torch.zeros(batch_size, *image_shape).requires_grad_()
        network(images).sum().backward()

    return traced(run, mode)


def traced(function: Callable[[], object], mode: FakeTensorMode) -> list[Operation]:
    """The operations of a call, made on tensors without values."""
    with mode, _Trace() as trace:
        function()
    return trace.operations


def _without_values(network: nn.Module) -> FakeTensorMode:
    """Take the values of the network's tensors; what runs it has to run in the mode that is returned."""
    mode = FakeTensorMode()
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fake = mode.from_tensor(parameter.detach())
            setattr(module, name, nn.Parameter(fake, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, mode.from_tensor(buffer))
    return mode


class _Trace(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:  # `loss.item()`, of a loss that has no value
            return 0.0
        out = func(*args, **kwargs)
        packet = func.overloadpacket
        if func.is_view or func.namespace == "prim" or packet in FREE:
            return out
        # By identity: an operation that reads a tensor twice moves it once.
        read = {id(tensor): tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        written = [tensor for tensor in tree_leaves(out) if isinstance(tensor, Tensor)]
        formula = flop_registry.get(packet) or ATTENTION.get(packet)
        kind = "other" if formula is None else "convolution" if "convolution" in str(packet) else "product"
        self.operations.append(
            Operation(
                kind,
                any(tensor.dtype == torch.bfloat16 for tensor in written),
                float(formula(*args, **kwargs, out_val=out)) if formula else 0.0,
                float(sum(tensor.nbytes for tensor in (*read.values(), *written))),
            )
        )
        return out
