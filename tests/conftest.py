"""Set-up that all tests share."""

import importlib.util
import os
from pathlib import Path

import torch

# Triton reads this once, when it is first imported: without a GPU its kernels run on CPU tensors.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import numpy as np
import pytest

from benchmarks import gpu_checks

if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton"):
    import quick_interpreter

    quick_interpreter.use()

# scikit-learn's estimator checks skip their array-API part without it; scipy reads it when it is first imported.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

# Two cores that other work may share: many threads on small tensors wait for each other more than they compute.
torch.set_num_threads(1)

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"


@pytest.fixture
def golden():
    """Load an array file of the published implementation's outputs; skip where they are not at hand."""

    def load(name: str) -> dict[str, np.ndarray]:
        path = GOLDEN / name
        if not path.exists():
            pytest.skip(f"the published implementation's outputs ({name}) are not beside this checkout")
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}

    return load


@pytest.fixture
def poisoned(monkeypatch):
    """Fill uninitialised memory with NaN (floats) or a huge number (int64), so that an unwritten output shows."""
    numpy_empty = np.empty

    def empty(*args, **kwargs):
        array = numpy_empty(*args, **kwargs)
        array.fill(np.nan if array.dtype.kind == "f" else 10**9 if array.dtype == np.int64 else 0)
        return array

    monkeypatch.setattr(np, "empty", empty)
    with gpu_checks.poisoned():
        yield


@pytest.fixture
def two_threads():
    """Run with two threads whatever the machine has, and put the number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_cifar(monkeypatch):
    """The archive of CIFAR-100 has 3 classes of 4 training and 2 test images."""
    for name, value in {"N_CLASSES": 3, "N_TRAIN": 4, "N_TEST": 2}.items():
        monkeypatch.setattr(f"paper_repro.datasets.cifar100.{name}", value)
