"""A device that is not there: its tensors lie on the processor, but mix with its own as little as those of a GPU.

Code that moves tensors to a GPU and back can be run without one: an operation on tensors of two devices, numpy's view
of a tensor that was not brought back, or a kernel called with tensors of the processor raises here, as it would there.
Kernels are Triton's, under the interpreter.
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import kernels
import kernels.triton
from kernels.triton import common

NAME = "pretend"
DEVICE = f"{NAME}:0"
_INDEXING = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default}
_COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class _There(torch.Tensor):
    """A tensor of the device; `here` is where its values are."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> "_There":
        shape = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        there = torch.Tensor._make_wrapper_subclass(cls, here.size(), device=DEVICE, **shape)
        there.here = here
        return there

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def tolist(self):  # which torch refuses to subclasses
        return self.here.tolist()


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, _There)]
    if there and func not in _COPIES:
        indices = tree_leaves(args[1]) if func in _INDEXING else []
        strangers = [t for t in tensors if t.ndim and not isinstance(t, _There) and not any(t is i for i in indices)]
        if strangers:
            raise RuntimeError(f"{func}: tensors on {DEVICE} and on the processor")
    device = kwargs.get("device")
    if device is not None and torch.device(device).type == NAME:
        kwargs, stays = {**kwargs, "device": "cpu"}, True
    else:
        stays = bool(there) and device is None
    out = func(*tree_map(_here, args), **tree_map(_here, kwargs))
    if func._schema.name.endswith("_") and isinstance(args[0], torch.Tensor):
        return args[0]
    return tree_map(_from_here, out) if stays else out


def _here(value: Any) -> Any:
    return value.here if isinstance(value, _There) else value


def _from_here(value: Any) -> Any:
    return _There(value) if isinstance(value, torch.Tensor) else value


class _Module:
    """`torch.pretend`. It has no devices of its own, so that tests which come later in the process see none."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return False

    def device_count(self) -> int:
        return 0

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass


class _Engine:
    """Triton's kernels for tensors of the device."""

    calls: list[str]

    def __init__(self) -> None:
        self.calls = []

    def __getattr__(self, name: str) -> Any:
        operation = getattr(kernels.triton, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            if not all(isinstance(tensor, _There) for tensor in given):
                raise ValueError(f"{name}: a tensor is on the processor")
            self.calls.append(name)
            return tree_map(_from_here, operation(*tree_map(_here, args), **tree_map(_here, kwargs)))

        return run


class PretendGPU(TorchDispatchMode):
    """Within it, torch has the device."""

    def __init__(self, monkeypatch: Any) -> None:
        super().__init__()
        if not hasattr(torch, NAME):
            _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
        self.engine, usual = _Engine(), kernels._engine

        def engine(name: str, x: torch.Tensor) -> Any:
            return self.engine if isinstance(x, _There) and name == "auto" else usual(name, x)

        monkeypatch.setattr(kernels, "_engine", engine)
        target = common.target
        monkeypatch.setattr(common, "target", lambda x: target(_here(x)))

    @property
    def calls(self) -> list[str]:
        """Names of the kernels that were called with tensors of the device."""
        return self.engine.calls

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})
