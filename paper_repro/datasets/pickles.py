"""Pickled files as published, read without running anything that is in them."""

import io
import pickle
from pathlib import Path
from typing import Any

from paper_repro.datasets.images import DatasetError

__all__ = ["read_pickle"]

# All that arrays of numbers need; by the names of old and new versions of NumPy. Nothing of it runs given code.
_ALLOWED = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not an array of numbers")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_pickle(path: Path) -> Any:
    """Dicts, lists, strings, numbers and arrays of a pickle (of Python 2 as well).

    Raises:
        DatasetError: a damaged file, or one that asks for anything else.
    """
    try:
        return _Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path} is not read ({error}); get it again") from None
