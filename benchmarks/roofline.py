"""How long a GPU takes for operations of `benchmarks.network_work`: at its published peaks, and as others measured.

An operation takes the longer of its flops at the dense peak and its bytes at the bandwidth. The peak is that of
bfloat16 where its result is of that type; else of float32, for which torch's defaults give convolutions TF32, and
matrix products not. Small convolutions with batch norm are bound by bandwidth.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch

from benchmarks.network_work import Operation, network_of, update
from benchmarks.performance_model import GPUS
from paper_repro.training import TrainingSettings

__all__ = ["MEASURED", "PEAKS", "roofline", "shares"]


class Peaks(NamedTuple):
    """Published dense rates beyond those of `performance_model.Gpu`, in flop/s, from the same sheets."""

    bfloat16: float
    float32: float
    """Without tensor cores."""


PEAKS = {
    "A100": Peaks(312e12, 19.5e12),
    "H100": Peaks(989.4e12, 66.9e12),
    "B200": Peaks(2.25e15, 75e12),
    "MI300X": Peaks(1307.4e12, 163.4e12),
}


class Measured(NamedTuple):
    """A speed of training that was measured on one GPU."""

    architecture: str
    image_size: int
    batch_size: int
    bfloat16: bool
    """Or float16; else float32 with TF32."""
    images_a_second: float
    source: str
    gpu: str = "A100"
    """80 GB or 40 GB, 400 W."""
    memory: float | None = None
    """Its bandwidth in bytes/s, where it is not that of the GPU of this name in `performance_model.GPUS`."""


RESNET50_README = "NVIDIA/DeepLearningExamples, PyTorch/Classification/ConvNets/resnet50v1.5 (container 21.03)"
MEASURED = {
    "ResNet50, mixed precision": Measured("resnet50", 224, 256, True, 2470.0, RESNET50_README),
    "ResNet50, TF32": Measured("resnet50", 224, 256, False, 938.0, RESNET50_README),
    # "7 min" and "32.3 PFLOPs", with three times the flops of a forward pass an image.
    "ResNet18 on CIFAR-10": Measured(
        "resnet18", 32, 512, True, 32.3e15 / (7 * 60) / (3 * 1.11e9), "KellerJordan/cifar10-airbench, README"
    ),
    # 160 epochs of 50,000 images in 192 s. An H200 has the multiprocessors of an H100 and 4.8 TB/s.
    "ResNet18 on CIFAR-100, this project's": Measured(
        "resnet18", 32, 512, True, 160 * 50_000 / 192.2, "paper_repro/results/cifar100-resnet18", "H100", 4.8e12
    ),
}


@cache
def shares() -> dict[str, float]:
    """Of each measured speed: its share of the best case here."""
    from torchvision.models import resnet50

    found = {}
    for name, known in MEASURED.items():
        shape = (3, known.image_size, known.image_size)
        settings = {"architecture": known.architecture, "width": 64, "stem": "cifar"}
        network = resnet50() if known.image_size == 224 else network_of(settings, shape, 10)
        how = TrainingSettings(epochs=1, batch_size=known.batch_size, peak_learning_rate=0.1, bfloat16=known.bfloat16)
        best = roofline(update(network.to(memory_format=torch.channels_last), how, shape), known.gpu, known.memory)
        found[name] = known.images_a_second / known.batch_size * best
    return found


def roofline(operations: Sequence[Operation], name: str, memory: float | None = None) -> float:
    """Seconds in which a GPU at its peaks (memory: at another bandwidth) does these operations one after another."""
    gpu, peaks = GPUS[name], PEAKS[name]
    bandwidth = memory or gpu.memory

    def rate(operation: Operation) -> float:
        if operation.bfloat16:
            return peaks.bfloat16
        flags = {"convolution": torch.backends.cudnn.allow_tf32, "product": torch.backends.cuda.matmul.allow_tf32}
        return gpu.single if flags.get(operation.kind) else peaks.float32

    return sum(max(operation.flops / rate(operation), operation.bytes / bandwidth) for operation in operations)
