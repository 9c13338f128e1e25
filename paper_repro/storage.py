"""Files of a run: every one is written to a temporary name in its own folder and then moved into place, so that a
process killed at any moment leaves either the old file or the new one."""

import csv
import errno
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "MENDABLE",
    "DamagedError",
    "Stored",
    "read_arrays",
    "read_csv",
    "read_json",
    "read_tensors",
    "sha256",
    "write_arrays",
    "write_bytes",
    "write_csv",
    "write_json",
    "write_tensors",
]

Stored = Mapping[str, np.ndarray]
"""Arrays of a file, by name."""
CSV_DIGITS = 8
"""A hundredth of a nat of the largest log joint densities, and more than float32 holds."""
MENDABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
"""What the file system refuses until the user makes room or allows it."""


class DamagedError(ValueError):
    """A file that a step goes on from is not what was written under its name. Those of finished steps have hashes."""


def write_bytes(path: Path, data: bytes) -> None:
    # Here and below: what is heavy is imported when it is needed, so that `paper-repro list` is quick.
    from classfit.storage import replacing

    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> None:
    """One line a row under a header of the columns, or of the keys of the first; floats to CSV_DIGITS significant
    digits. Without rows it needs the columns."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=columns or list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _rounded(value) if isinstance(value, float) else value for name, value in row.items()})
    write_bytes(path, text.getvalue().encode())


def _rounded(value: float) -> float:
    return float(f"{value:.{CSV_DIGITS}g}")


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """An npz file of numbers and strings; the same arrays give the same bytes."""
    from classfit.storage import write_npz

    write_npz(path, **arrays)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    with _whole(path), np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def write_tensors(path: Path, tensors: Mapping[str, "Tensor"], notes: Any = None) -> None:
    """A safetensors file; `notes` (any JSON value) travels in its header, so both change in one move."""
    from safetensors.torch import save

    header = None if notes is None else {"notes": json.dumps(notes)}
    write_bytes(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=header))


def read_tensors(path: Path, names: Sequence[str] = ()) -> tuple[dict[str, "Tensor"], Any]:
    """The tensors, all or those of these names, and the notes of a file of `write_tensors`."""
    from safetensors import safe_open

    with _whole(path), safe_open(path, framework="pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in names or stored.keys()}
        header = stored.metadata() or {}
    return tensors, json.loads(header["notes"]) if "notes" in header else None


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:  # zip, zlib, numpy and safetensors each have their own
        raise DamagedError(
            f"{path} is damaged ({error}). Move it away, then run the same command again: what it held is computed anew"
        ) from error


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
