"""What kept results depend on stays as it is: splits, the names of classes, the part of an image that is used."""

from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from test_paper_repro_datasets import png

from paper_repro import computations, datasets
from paper_repro.datasets import cifar100, mini_imagenet
from paper_repro.datasets.images import decode
from paper_repro.datasets.parquet import ParquetPart
from paper_repro.steps import Work
from paper_repro.storage import read_tensors


def test_the_split_of_the_digits_is_that_of_the_seed(tmp_path):
    images = []
    for seed in (0, 1):
        settings = {"name": "digits", "test_fraction": 0.2, "seed": seed}
        work = Work(tmp_path / str(seed), settings, {}, Console(quiet=True))
        work.folder.mkdir()
        computations.dataset(work)
        images.append(read_tensors(work.folder / "data.safetensors")[0]["test_images"])
    assert not torch.equal(*images)


def test_the_split_of_mini_imagenet_is_one_for_all(tmp_path, monkeypatch):
    """Two of six images are for testing, of each of three classes."""
    for name, value in {"N_CLASSES": 3, "N_IMAGES": 6, "N_TEST": 2}.items():
        monkeypatch.setattr(mini_imagenet, name, value)
    for group in ("ant", "bee", "cat"):
        (tmp_path / group).mkdir()
        for i in range(6):
            (tmp_path / group / f"{i}.png").write_bytes(png(np.zeros((2, 2, 3), np.uint8)))
    split = datasets.load("mini-imagenet", source=tmp_path, size=2).split
    test = [Path(row["name"]).stem for row in split if row["part"] == "test"]
    assert "".join(test) == "250325"


def test_a_misspelt_class_of_the_parquet_files_is_put_right(monkeypatch):
    """Read without pyarrow, from files that are put in place of theirs."""
    part = ParquetPart(["0"], [png(np.zeros((32, 32, 3), np.uint8))], [0], ["cloud", "cra", "crocodile"])
    monkeypatch.setattr(cifar100, "read_parquet", lambda *_: part)
    assert cifar100._parquet(Path()).class_names == ["cloud", "crab", "crocodile"]


def test_a_wide_image_loses_its_sides():
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 255
    assert (decode(png(wide), "wide.png", 8) == 255).all()
