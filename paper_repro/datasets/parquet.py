"""Images in parquet files as Hugging Face lays them out: <part>-00000-of-00003.parquet, images as encoded bytes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from paper_repro.datasets.images import DatasetError

__all__ = ["ParquetPart", "has_parquet", "read_parquet"]


class ParquetPart(NamedTuple):
    names: list[str]
    """Of each image: its path if one is stored, else its part and number."""
    images: list[bytes]
    """As encoded."""
    labels: list[int]
    class_names: list[str]


def read_parquet(folder: Path, parts: Sequence[str], image: str, label: str) -> ParquetPart:
    """All rows of the files of these parts, in order.

    Args:
        folder: where the files lie, at any depth.
        parts: "train", "validation", "test".
        image, label: names of the columns.

    Raises:
        DatasetError: no such files, other columns, or pyarrow is not installed.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise DatasetError(
            f"{folder} holds parquet files, which need pyarrow: pip install 'classfit[parquet]'"
        ) from None
    found = ParquetPart([], [], [], [])
    for part in parts:
        # train-00000-of-00001.parquet, or train/0000.parquet.
        every = sorted(folder.rglob("*.parquet"))
        files = [path for path in every if path.name.startswith(f"{part}-") or path.parent.name == part]
        if not files:
            raise DatasetError(f"{folder} has no parquet files of part {part!r}, like {part}-00000-of-00001.parquet")
        for path in files:
            try:
                table = pq.read_table(path, columns=[image, label])
            except (OSError, ValueError) as error:
                raise DatasetError(
                    f"{path} is no whole parquet file with columns {image} and {label} ({error})"
                ) from None
            found.class_names[:] = _class_names(table.schema.metadata, label) or found.class_names
            for row in table.column(image).to_pylist():
                found.names.append(row.get("path") or f"{part}/{len(found.names):06d}")
                found.images.append(row["bytes"])
            found.labels.extend(table.column(label).to_pylist())
    names = found.class_names or [str(g) for g in range(max(found.labels) + 1)]
    return found._replace(class_names=names)


def _class_names(metadata: dict[bytes, bytes] | None, label: str) -> list[str]:
    """From the description of the columns in the file."""
    try:
        return list(json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]["names"])
    except (KeyError, ValueError, TypeError):
        return []


def has_parquet(folder: Path) -> bool:
    """Whether there are any such files."""
    return folder.is_dir() and any(True for _ in folder.rglob("*.parquet"))
