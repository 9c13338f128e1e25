"""Figures are made of their numbers, but their pictures are left empty: to write them takes longest."""

from contextlib import contextmanager

import pytest

from paper_repro.figures import style
from paper_repro.storage import write_bytes


@contextmanager
def left_empty():
    def save(figure, folder, name):
        for kind in ("svg", "png"):
            write_bytes(folder / f"{name}.{kind}", b"<svg></svg>")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "save", save)
        yield
