"""Datasets in every layout, on small archives made here: what is read, and what is said of what is not there."""

import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from tolerances import PEER_RELATIVE, UNIT_ROUNDOFF

from paper_repro import datasets
from paper_repro.datasets import DatasetError, cifar100, mini_imagenet
from paper_repro.datasets.images import ClassFolders
from paper_repro.datasets.pickles import read_pickle
from paper_repro.pipeline import Pipeline
from paper_repro.profiles import CIFAR100_LAPTOP, PAPER
from paper_repro.steps import ARCHIVE_ORDER, Workspace
from paper_repro.storage import read_arrays

GROUPS = ["cat", "ant", "bee"]
CIFAR100_ZIP = Path(__file__).parents[2] / "shared" / "data" / "cifar100.zip"


def png(image):
    """An image [H, W, 3] as bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def made(n, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def class_folders(n_train, n_test, size=32):
    """Content of class folders: name to bytes, and the images by class and part."""
    files, images = {}, {}
    for g, group in enumerate(GROUPS):
        for part, n in (("train", n_train), ("test", n_test)):
            images[group, part] = made(n, size, seed=2 * g + (part == "test"))
            files |= {f"{part}/{group}/{i:03d}.png": png(image) for i, image in enumerate(images[group, part])}
    return files, images


def write_folder(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_zip(path, files, top=""):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(top + name, data)
    return path


def expected_images(images, part):
    """[N, 3, H, W] in the order of class and file name, and labels."""
    groups = sorted(GROUPS)
    stacked = np.concatenate([images[group, part] for group in groups]).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(stacked)), [g for g in range(3) for _ in images[groups[g], part]]


@pytest.fixture
def small_mini(monkeypatch):
    for name, value in {"N_CLASSES": 3, "N_IMAGES": 6, "N_TEST": 2}.items():
        monkeypatch.setattr(mini_imagenet, name, value)


def test_names():
    with pytest.raises(ValueError, match=r"dataset must be one of 'digits', 'cifar100', .* got 'mnist'"):
        datasets.load("mnist")
    with pytest.raises(DatasetError, match=r"embedded in scikit-learn: it takes no source \(--data\), got here"):
        datasets.load("digits", source=Path("here"), test_fraction=0.2, seed=0)


def test_pixel_statistics_and_normalisation():
    images = torch.from_numpy(made(5, 7).transpose(0, 3, 1, 2).copy())
    mean, std = datasets.pixel_statistics(images, 255)
    values = images.double().div(255).transpose(0, 1).flatten(1)
    assert mean == pytest.approx(values.mean(1).tolist(), rel=PEER_RELATIVE)
    assert std == pytest.approx(values.std(1, correction=0).tolist(), rel=PEER_RELATIVE)
    found = datasets.normalised(images, white=255, mean=mean, std=std).double().transpose(0, 1).flatten(1)
    tolerance = values.shape[1] * UNIT_ROUNDOFF[torch.float32]
    assert found.mean(1).tolist() == pytest.approx([0, 0, 0], abs=tolerance)
    assert found.std(1, correction=0).tolist() == pytest.approx([1, 1, 1], abs=tolerance)


@pytest.mark.parametrize("layout", ["folder", "zip", "zip in a folder"])
def test_cifar100_from_class_folders(tmp_path, small_cifar, layout):
    files, images = class_folders(4, 2)
    files |= {"__MACOSX/train/cat/._000.png": b"", "train/cat/.hidden.png": b"", "readme.txt": b"words"}
    if layout == "folder":
        source = write_folder(tmp_path / "images", files)
    else:
        top = "cifar/" if layout == "zip in a folder" else ""
        source = write_zip(tmp_path / "images.zip", files, top)
    data = datasets.load("cifar100", source=source)
    assert data.class_names == sorted(GROUPS)
    for found, labels, part in (
        (data.train_images, data.train_labels, "train"),
        (data.test_images, data.test_labels, "test"),
    ):
        expected, expected_labels = expected_images(images, part)
        assert torch.equal(found, expected)
        assert labels.tolist() == expected_labels


def official_archive(folder):
    """The images of `class_folders(4, 2)` as the published cifar-100-python: named, in an order of its own."""
    folder.mkdir(parents=True)
    _, images = class_folders(4, 2)
    for part, n in (("train", 4), ("test", 2)):
        rows = [
            (images[group, part][i], sorted(GROUPS).index(group), i) for i in reversed(range(n)) for group in GROUPS
        ]
        stored = {
            "data": np.stack([image.transpose(2, 0, 1).ravel() for image, _, _ in rows]),
            "fine_labels": [g for _, g, _ in rows],
            "filenames": [f"{i:03d}.png" for _, _, i in rows],
        }
        (folder / part).write_bytes(pickle.dumps(stored, protocol=2))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": sorted(GROUPS)}, protocol=2))
    return folder


@pytest.mark.parametrize("inner", ["", "cifar-100-python"])
def test_cifar100_is_the_same_in_every_form_that_names_its_images(tmp_path, small_cifar, inner):
    """Whatever was computed from one form is good for the others: digests are made of these hashes."""
    files, _ = class_folders(4, 2)
    official_archive(tmp_path / "data" / inner)
    sources = [tmp_path / "data", write_zip(tmp_path / "c.zip", files), write_folder(tmp_path / "folders", files)]
    written = []
    for i, source in enumerate(sources):
        workspace, step = Workspace(tmp_path / str(i)), Pipeline(CIFAR100_LAPTOP, PAPER, data=source).dataset
        workspace.run([step])
        written.append(workspace._digest(step))
    assert written[0] == written[1] == written[2]


def test_kept_networks_are_of_that_form():
    """Other words in dataset.json would make the kept network stale."""
    kept = Path(cifar100.__file__).parents[1] / "results" / "cifar100-laptop" / "dataset" / "dataset.json"
    if not kept.exists():
        pytest.skip("no result is kept in paper_repro/results yet")
    assert json.loads(kept.read_text())["source"] == cifar100.SOURCE


def test_cifar100_is_found_in_its_usual_place(tmp_path, small_cifar, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=r"(?s)not found in data/cifar100.zip, .*torchvision.*--data PATH"):
        datasets.load("cifar100")
    official_archive(tmp_path / "data" / "cifar-100-python")
    assert len(datasets.load("cifar100").train_images) == 12


def test_missing_and_damaged_datasets_are_told_what_to_do(tmp_path, small_cifar):
    with pytest.raises(DatasetError, match=r"(?s)was not found in .*nowhere\.\nGet it in one of these forms"):
        datasets.load("cifar100", source=tmp_path / "nowhere")
    files, _ = class_folders(4, 2)
    whole = write_zip(tmp_path / "whole.zip", files)
    half = tmp_path / "half.zip"
    half.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(DatasetError, match=r"half\.zip is no whole zip file .* get it again"):
        datasets.load("cifar100", source=half)
    fewer = write_zip(
        tmp_path / "fewer.zip", {name: data for name, data in files.items() if name != "train/bee/001.png"}
    )
    with pytest.raises(DatasetError, match="4 training images of each of 3 classes; class bee has 3"):
        datasets.load("cifar100", source=fewer)
    spoiled = write_zip(tmp_path / "spoiled.zip", files | {"test/ant/000.png": files["test/ant/000.png"][:-40]})
    with pytest.raises(DatasetError, match=r"test/ant/000\.png is no whole image"):
        datasets.load("cifar100", source=spoiled)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DatasetError, match=r"4 training images of each of 3 classes; no class was found \(train/<cla"):
        datasets.load("cifar100", source=empty)


def test_a_name_that_is_no_text_is_said(tmp_path):
    files, _ = class_folders(2, 1)
    folder = write_folder(tmp_path / "images", files)
    try:
        os.rename(folder / "train" / "bee", os.fsencode(folder / "train") + b"/b\xe9e")
    except OSError:
        pytest.skip("the file system has no such names")
    with pytest.raises(DatasetError, match=r"images has 'train/b\\udce9e/', a name that is not in UTF-8: give it anot"):
        datasets.load("image-folder", source=folder, size=8, test_fraction=0.0, seed=0)


def test_how_far_the_reading_is_can_be_seen(tmp_path, small_cifar, monkeypatch):
    """Once a minute where there is no terminal (here, after every image), and only where it is asked for."""
    source, said = write_zip(tmp_path / "images.zip", class_folders(4, 2)[0]), io.StringIO()
    step = Pipeline(CIFAR100_LAPTOP, PAPER, data=source).dataset
    for often in (False, True):
        if often:
            monkeypatch.setattr("paper_repro.workers.SAY_EVERY_SECONDS", 0.0)
        Workspace(tmp_path / f"runs-{often}", Console(file=said, width=200)).run([step])
        assert ("images of the dataset: 12 of 12\nimages of the dataset: 1 of 6\n" in said.getvalue()) is often
    before = said.getvalue()
    datasets.load("cifar100", source=source)
    assert said.getvalue() == before


def test_wrong_size_is_refused(tmp_path, small_cifar):
    files, _ = class_folders(4, 2, size=16)
    with pytest.raises(DatasetError, match=r"of 32 x 32 pixels, got \[16, 16\]"):
        datasets.load("cifar100", source=write_folder(tmp_path, files))
    mixed = files | {"train/ant/000.png": png(made(1, 8)[0])}
    with pytest.raises(DatasetError, match=r"one size, the first has \[8, 8\] pixels and image 1 \[16, 16\]"):
        datasets.load("cifar100", source=write_zip(tmp_path / "mixed.zip", mixed))


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


def test_a_pickle_can_run_nothing(tmp_path):
    path = tmp_path / "train"
    path.write_bytes(pickle.dumps({"data": Evil()}))
    with pytest.raises(DatasetError, match=r"train is not read \(it asks for (posix|nt)\.system"):
        read_pickle(path)
    path.write_bytes(pickle.dumps({"data": np.arange(6, dtype=np.uint8).reshape(2, 3), "labels": [1, 2]}, protocol=2))
    assert read_pickle(path)["data"].tolist() == [[0, 1, 2], [3, 4, 5]]
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DatasetError, match="get it again"):
        read_pickle(path)


def mini_pickles(folder):
    """The few-shot files: three parts of one class each."""
    folder.mkdir(parents=True, exist_ok=True)
    for g, part in enumerate(("train", "val", "test")):
        content = {"image_data": made(6, 84, seed=g), "class_dict": {f"n0{g}": list(range(6))}}
        (folder / f"mini-imagenet-cache-{part}.pkl").write_bytes(pickle.dumps(content, protocol=2))
    return folder


def test_mini_imagenet_from_pickles_is_split_by_class(tmp_path, small_mini):
    data = datasets.load("mini-imagenet", source=mini_pickles(tmp_path), size=84)
    assert data.train_images.shape == (12, 3, 84, 84)
    assert data.train_labels.bincount().tolist() == [4, 4, 4]
    assert data.test_labels.bincount().tolist() == [2, 2, 2]
    assert data.class_names == ["n00", "n01", "n02"]
    # The record says which image went where, and its hash is that of the pixels.
    rows = [row for row in data.split if row["part"] == "test"]
    assert [row["class"] for row in rows] == ["n00", "n00", "n01", "n01", "n02", "n02"]
    part, number = rows[0]["name"].split("/")
    assert part == "train"
    assert data.test_images[0].permute(1, 2, 0).tolist() == made(6, 84, seed=0)[int(number)].tolist()
    assert len({row["sha256"] for row in data.split}) == 18
    again = datasets.load("mini-imagenet", source=tmp_path, size=84)
    assert again.split == data.split
    (tmp_path / "mini-imagenet-cache-val.pkl").unlink()
    with pytest.raises(DatasetError, match=r"cache-val\.pkl is missing; all three parts"):
        datasets.load("mini-imagenet", source=tmp_path, size=84)


@pytest.mark.parametrize("layout", ["classes", "parts"])
def test_mini_imagenet_from_class_folders_of_any_size(tmp_path, small_mini, layout):
    pictures = made(6, 100)
    for g, group in enumerate(GROUPS):
        top = "" if layout == "classes" else f"{('train', 'val', 'test')[g]}/"
        write_folder(tmp_path, {f"{top}{group}/{i}.png": png(picture) for i, picture in enumerate(pictures)})
    data = datasets.load("mini-imagenet", source=tmp_path, size=84)
    assert data.train_images.shape == (12, 3, 84, 84)
    assert data.test_labels.bincount().tolist() == [2, 2, 2]
    shutil.rmtree(next(path for path in tmp_path.rglob("cat")))
    with pytest.raises(DatasetError, match=r"(?s)6 images of each of 3 classes; it has 2 classes.*timm/mini-imagenet"):
        datasets.load("mini-imagenet", source=tmp_path, size=84)


def test_any_image_folder(tmp_path):
    files, images = class_folders(5, 3, size=20)
    split = datasets.load(
        "image-folder", source=write_folder(tmp_path / "a", files), size=20, test_fraction=0.5, seed=0
    )
    assert torch.equal(split.train_images, expected_images(images, "train")[0])
    assert split.split is None
    flat = {name.removeprefix("train/"): data for name, data in files.items() if name.startswith("train/")}
    options = {"source": write_zip(tmp_path / "b.zip", flat), "size": 12, "test_fraction": 0.4}
    data = datasets.load("image-folder", **options, seed=0)
    assert data.train_images.shape == (9, 3, 12, 12)
    assert data.test_labels.bincount().tolist() == [2, 2, 2]
    assert {row["name"] for row in data.split} == set(flat)
    assert datasets.load("image-folder", **options, seed=1).split != data.split
    one = {name: data for name, data in flat.items() if name.startswith("ant")}
    with pytest.raises(DatasetError, match="at least two class folders with images, got"):
        datasets.load("image-folder", source=write_folder(tmp_path / "c", one), size=12, test_fraction=0.4, seed=0)
    stray = files | {"test/dog/0.png": files["test/ant/000.png"]}
    with pytest.raises(DatasetError, match="test images of 'dog', a class without images to train on"):
        datasets.load("image-folder", source=write_zip(tmp_path / "d.zip", stray), size=12, test_fraction=0.4, seed=0)
    few = {name: data for name, data in flat.items() if not name.startswith("bee") or name == "bee/000.png"}
    with pytest.raises(DatasetError, match="has one image of 'bee', which leaves none to train on"):
        datasets.load("image-folder", source=write_zip(tmp_path / "e.zip", few), size=12, test_fraction=0.4, seed=0)


@pytest.mark.parametrize(
    ("renamed", "n_train", "n_test"),
    [
        # ImageNet as it is often unpacked: validation images in one folder.
        ({"test/{group}/": "val/{group}-"}, 12, 3),
        # A test folder without classes beside one for validation that has them.
        ({"test/{group}/": "val/{group}/", "other": "test/0.png"}, 15, 9),
        ({"train/": "Train/", "test/": "Test/"}, 15, 9),
        ({"train/": "training/", "test/": "validation/"}, 15, 9),
        # Others beside them, with images but no parts.
        ({"test/{group}/": "samples/{group}-"}, 12, 3),
        ({"train/": "x/y/train/", "test/": "x/y/test/"}, 15, 9),
    ],
)
def test_parts_of_an_image_folder(tmp_path, renamed, n_train, n_test):
    """By whichever of the usual names; a folder for training is never a class."""
    files, images = class_folders(5, 3, size=8)
    if (other := renamed.pop("other", None)) is not None:
        files[other] = files["test/ant/000.png"]
    for old, new in renamed.items():
        for group in GROUPS:
            before, after = (text.format(group=group) for text in (old, new))
            if "{" not in old:
                before, after = f"{before}{group}/", f"{after}{group}/"
            files = {
                after + name.removeprefix(before) if name.startswith(before) else name: data
                for name, data in files.items()
            }
    source = write_folder(tmp_path / "images", files)
    data = datasets.load("image-folder", source=source, size=8, test_fraction=0.2, seed=0)
    assert data.class_names == sorted(GROUPS)
    assert (len(data.train_labels), len(data.test_labels)) == (n_train, n_test)
    assert (data.split is None) == (n_test == 9)
    # Where none are wanted, none are read.
    for path in source.rglob("[Tt]est/*/*.png"):
        path.write_bytes(b"")
    data = datasets.load("image-folder", source=source, size=8, test_fraction=0.0, seed=0)
    assert torch.equal(data.train_images, expected_images(images, "train")[0])
    assert len(data.test_labels) == 0


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_an_image_folder_is_told_from_itself_before_it_was_changed(tmp_path, form):
    for g, name in enumerate(("a/x.bmp", "a/y.bmp", "b/x.bmp")):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), 60 * g, np.uint8)).save(path)

    def identity():
        if form == "folder":
            return ClassFolders(tmp_path / "images").identity
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            for path in sorted((tmp_path / "images").rglob("*.bmp")):
                archive.write(path, path.relative_to(tmp_path))
        return ClassFolders(tmp_path / "images.zip").identity

    found = [identity()]
    assert identity() == found[0]
    (tmp_path / "images/b/notes.txt").write_text("no image")
    assert identity() == found[0]
    # Another of the same size, one by another name, one less.
    path = tmp_path / "images/a/x.bmp"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    found.append(identity())
    path.rename(path.with_name("z.bmp"))
    found.append(identity())
    path.with_name("z.bmp").unlink()
    found.append(identity())
    assert len(set(found)) == 4


def test_a_class_may_be_called_train(tmp_path):
    files = {f"{group}/{i}.png": png(made(1, 8, seed=i)[0]) for group in ("bus", "train", "val") for i in range(3)}
    files |= {f"train/steam/{i}.png": files["bus/0.png"] for i in range(2)}
    source = write_folder(tmp_path / "images", files)
    data = datasets.load("image-folder", source=source, size=8, test_fraction=0.0, seed=0)
    assert data.class_names == ["bus", "train", "val"]
    assert data.train_labels.bincount().tolist() == [3, 5, 3]


def test_folders_without_images_are_said(tmp_path):
    files = {f"{group}/{i}.tif": made_bytes("TIFF", i) for group in "ab" for i in range(2)}
    files |= {"c/0.gif": made_bytes("GIF", 0), "d/0.heic": b"", "e/deep/notes.txt": b"", ".git/x": b""}
    expected = "with no images in bird, d, e"
    sources = write_folder(tmp_path / "images", files), write_zip(tmp_path / "images.zip", files | {"bird/": b""})
    (sources[0] / "bird").mkdir()
    for source in sources:
        data = datasets.load("image-folder", source=source, size=8, test_fraction=0.0, seed=0)
        assert data.class_names == ["a", "b", "c"]
        assert data.source.endswith(expected)
    many = {f"{group}/0.heic": b"" for group in "fghijkl"}
    source = write_folder(tmp_path / "images", many)
    data = datasets.load("image-folder", source=source, size=8, test_fraction=0.0, seed=0)
    assert data.source.endswith("with no images in bird, d, e, f, g and 5 more")


def test_links_are_followed(tmp_path):
    """To folders at every depth and to files, into the order of their names; a loop of them ends."""
    files, _ = class_folders(4, 2, size=8)
    whole = write_folder(tmp_path / "whole", files)
    store = write_folder(tmp_path / "store", files)
    linked = tmp_path / "linked"
    (linked / "test" / "ant").mkdir(parents=True)
    links = ["train", "test/bee", "test/cat", *(f"test/ant/{i:03d}.png" for i in range(2))]
    for name in links:
        (linked / name).symlink_to(store / name)
    for name, target in {"train/cat/all": store / "train", "test/ant/up": linked}.items():
        (linked / name).symlink_to(target)
    assert datasets.images.ClassFolders(linked).names == datasets.images.ClassFolders(whole).names == sorted(files)
    options = {"size": 8, "test_fraction": 0.2, "seed": 0}
    expected, found = (datasets.load("image-folder", source=source, **options) for source in (whole, linked))
    assert torch.equal(found.train_images, expected.train_images)
    assert torch.equal(found.test_images, expected.test_images)
    # Classes that are links to one folder are no loop.
    twice = write_folder(tmp_path / "twice", {"ant/0.png": files["train/ant/000.png"]})
    (twice / "bee").symlink_to(twice / "ant")
    assert datasets.images.ClassFolders(twice).names == ["ant/0.png", "bee/0.png"]


@pytest.mark.parametrize(
    ("renamed", "said"),
    [
        ({"train/": "val/"}, "test, val"),
        ({"train/": "x/Validation/", "test/": "x/test/"}, "Validation, test"),
        # Images in no class folder, or of one class.
        ({f"train/{group}/": f"train/{group}-" for group in GROUPS}, "test, train"),
        ({f"train/{group}/": f"train/ant/{group}-" for group in GROUPS}, "test, train"),
    ],
)
def test_parts_are_no_classes(tmp_path, renamed, said):
    files, _ = class_folders(3, 2, size=8)
    for old, new in renamed.items():
        files = {new + name.removeprefix(old) if name.startswith(old) else name: data for name, data in files.items()}
    options = {"size": 8, "test_fraction": 0.0, "seed": 0}
    source = write_folder(tmp_path / "images", files)
    for path in (source, write_zip(tmp_path / "images.zip", files)):
        with pytest.raises(DatasetError, match=rf"images\S* has no classes: .* \({said}\) .* Give one of them alone"):
            datasets.load("image-folder", source=path, **options)
    # One part alone is read, and so are classes that are called so beside others.
    part = source / "x" / "test" if (source / "x").exists() else source / "test"
    assert datasets.load("image-folder", source=part, **options).class_names == sorted(GROUPS)
    write_folder(tmp_path / "one" / "test", {f"{group}/0.png": png(made(1, 8)[0]) for group in GROUPS})
    assert datasets.load("image-folder", source=tmp_path / "one", **options).class_names == sorted(GROUPS)
    write_folder(tmp_path / "one", {f"{group}/0.png": png(made(1, 8)[0]) for group in ("bird", "val")})
    assert datasets.load("image-folder", source=tmp_path / "one", **options).class_names == ["bird", "test", "val"]


def test_images_by_every_suffix_and_others_counted(tmp_path):
    """Those of torchvision's ImageFolder, and what else Pillow reads."""
    formats = {"jpg": "JPEG", "jpeg": "JPEG", "jfif": "JPEG", "ppm": "PPM", "tiff": "TIFF", "webp": "WEBP"}
    formats |= {suffix: suffix.upper() for suffix in ("png", "bmp", "gif")}
    files = {f"a/{suffix}.{suffix.upper()}": made_bytes(format_name, 0) for suffix, format_name in formats.items()}
    grey = b"P5 8 8 255\n" + bytes(range(64))
    files |= {"a/grey.pgm": grey, "b/deep.pgm": b"P5 8 8 65535\n" + np.arange(64, dtype=">u2").tobytes()}
    files |= {"b/.DS_Store": b"", "b/Thumbs.db": b"", "b/Desktop.ini": b""}
    options = {"size": 8, "test_fraction": 0.0, "seed": 0}
    data = datasets.load("image-folder", source=write_folder(tmp_path / "images", files), **options)
    assert data.train_labels.tolist() == [0] * 10 + [1]
    assert data.source == "class folders in a folder"
    np.testing.assert_array_equal(data.train_images[2], np.broadcast_to(np.arange(64).reshape(8, 8), (3, 8, 8)))
    assert not data.train_images[10].any()
    others = {"b/x.AVIF": b"", "a/y.avif": b"", "LICENSE": b""}
    data = datasets.load("image-folder", source=write_zip(tmp_path / "images.zip", files | others), **options)
    assert (data.source, data.ignored) == ("class folders in a zip", "3 other files ignored (.avif, no suffix)")
    data = datasets.load("image-folder", source=write_folder(tmp_path / "images", {"c/x.avif": b""}), **options)
    assert data.source == "class folders in a folder, with no images in c"
    assert data.ignored == "1 other file ignored (.avif)"


def test_damaged_images_are_said_together(tmp_path, small_cifar):
    files = {f"{group}/{i:02d}.png": png(made(1, 8)[0]) for group in ("x/犬", "x/猫") for i in range(12)}
    damaged = {name: b"" for name in list(files)[3:13]} | {"x/猫/05.png": files["x/猫/05.png"][:-40]}
    source = write_folder(tmp_path / "own", files | damaged)
    (source / "x" / "猫" / "99.png").symlink_to("nowhere")
    with pytest.raises(DatasetError) as raised:
        datasets.load("image-folder", source=source, size=8, test_fraction=0.0, seed=0)
    first, *lines = str(raised.value).split("\n  ")
    assert first == f"{source} has 12 images that cannot be used; remove or replace them:"
    assert lines == [f"{name} is no whole image (its format is unknown)" for name in list(damaged)[:10]] + [
        "and 2 more"
    ]
    for name in list(damaged)[:10]:
        (source / name).unlink()
    with pytest.raises(
        DatasetError, match=r"2 images that(?s:.*)05\.png is no whole image (?s:.*)99\.png cannot be read"
    ):
        datasets.load("image-folder", source=source, size=8, test_fraction=0.0, seed=0)
    # Of an archive that is known there is another copy.
    files, _ = class_folders(4, 2)
    spoiled = write_zip(tmp_path / "c.zip", files | {"test/ant/000.png": b""})
    with pytest.raises(DatasetError, match=r"c\.zip has 1 image that cannot be used; get the dataset again:"):
        datasets.load("cifar100", source=spoiled)


def made_bytes(format_name, seed):
    buffer = io.BytesIO()
    Image.fromarray(made(1, 8, seed)[0]).save(buffer, format_name)
    return buffer.getvalue()


def test_images_of_sixteen_bits():
    buffer = io.BytesIO()
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(values).save(buffer, "PNG")
    found = datasets.images.decode(buffer.getvalue(), "ramp.png")
    np.testing.assert_array_equal(found, np.broadcast_to(values >> 8, (3, 8, 8)))
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.float32)).save(buffer, "TIFF")
    with pytest.raises(DatasetError, match=r"ramp\.tif must have pixels of 8 or 16 bits, it is read as mode F, of 32"):
        datasets.images.decode(buffer.getvalue(), "ramp.tif")


def test_whatever_is_damaged_is_said_by_name(tmp_path):
    """A compressed zip, a PNG's header: each raises an error of its own kind."""
    rng, n = np.random.default_rng(0), 0
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/0.png", png(made(1, 8)[0]))
        archive.writestr("b/0.png", bytes(4000))
    whole = path.read_bytes()
    for place in rng.integers(0, len(whole), 300):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            datasets.load("image-folder", source=path, size=8, test_fraction=0.0, seed=0)
        except DatasetError:
            n += 1
    assert n > 0
    image = png(made(1, 8)[0])
    for place in range(len(image)):
        try:
            datasets.images.decode(image[:place] + bytes([image[place] ^ 0x55]) + image[place + 1 :], "0.png")
        except DatasetError as error:
            assert "0.png is no whole image" in str(error)  # noqa: PT017, most places are harmless or not by chance
    path.write_bytes(b"\x1f\x8b")
    with pytest.raises(DatasetError, match=r"is no whole zip file .*: get it again, or unpack it"):
        datasets.load("image-folder", source=path, size=8, test_fraction=0.0, seed=0)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda stored: stored.pop("fine_labels"),
        lambda stored: stored.pop("filenames"),
        lambda stored: stored.update(data=stored["data"][:-1]),
        lambda stored: stored.update(data=stored["data"][:, :-1]),
        lambda stored: stored.update(fine_labels=[100, *stored["fine_labels"][1:]]),
        lambda stored: stored.update(data="pixels"),
    ],
)
def test_an_official_archive_of_something_else(tmp_path, small_cifar, spoil):
    folder = official_archive(tmp_path / "data")
    stored = read_pickle(folder / "test")
    spoil(stored)
    (folder / "test").write_bytes(pickle.dumps(stored, protocol=2))
    with pytest.raises(DatasetError, match=r"test is not that of CIFAR-100 .* get the archive again"):
        datasets.load("cifar100", source=folder)


@pytest.mark.parametrize("content", [[1], {"names": []}])
def test_an_official_archive_with_other_names(tmp_path, small_cifar, content):
    folder = official_archive(tmp_path / "data")
    (folder / "meta").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DatasetError, match=r"meta is not that of CIFAR-100 .* get the archive again"):
        datasets.load("cifar100", source=folder)


@pytest.mark.parametrize("content", [[1], {"image_data": []}, {"class_dict": {"a": [0]}, "image_data": [1, 2]}])
def test_pickles_of_something_else(tmp_path, small_mini, content):
    folder = mini_pickles(tmp_path)
    (folder / "mini-imagenet-cache-val.pkl").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DatasetError, match=r"cache-val\.pkl is not that of Mini-ImageNet .* get the archive again"):
        datasets.load("mini-imagenet", source=folder, size=84)


def test_the_order_of_the_official_archive_is_kept(tmp_path, small_cifar):
    """Published scores are in it."""
    folder = official_archive(tmp_path / "data")
    data = datasets.load("cifar100", source=folder)
    stored = read_pickle(folder / "train")
    assert np.array(stored["fine_labels"])[data.archive_order].tolist() == data.train_labels.tolist()
    np.testing.assert_array_equal(stored["data"][data.archive_order], data.train_images.flatten(1).numpy())
    workspace, step = Workspace(tmp_path / "runs"), Pipeline(CIFAR100_LAPTOP, PAPER, data=folder).dataset
    workspace.run([step])
    kept = read_arrays(workspace.folder(step) / ARCHIVE_ORDER)["order"]
    np.testing.assert_array_equal(kept, data.archive_order)


def write_parquet(path, rows, label):
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = "img" if label == "fine_label" else "image"
    features = {label: {"names": sorted(GROUPS), "_type": "ClassLabel"}}
    table = pa.table({image: [{"bytes": data, "path": None} for data, _ in rows], label: [g for _, g in rows]})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), path)


def test_parquet(tmp_path, small_cifar, small_mini):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra 'parquet')")
    images, labels = made(12), [2, 0, 1] * 4
    rows = [(png(image), g) for image, g in zip(images, labels, strict=True)]
    write_parquet(tmp_path / "c" / "train-00000-of-00002.parquet", rows[:7], "fine_label")
    write_parquet(tmp_path / "c" / "train-00001-of-00002.parquet", rows[7:], "fine_label")
    write_parquet(tmp_path / "c" / "test-00000-of-00001.parquet", rows[:6], "fine_label")
    data = datasets.load("cifar100", source=tmp_path / "c")
    assert data.train_images.permute(0, 2, 3, 1).numpy().tolist() == images.tolist()
    assert data.train_labels.tolist() == labels
    assert data.class_names == sorted(GROUPS)
    write_parquet(tmp_path / "m" / "data" / "train-00000-of-00001.parquet", rows, "label")
    write_parquet(tmp_path / "m" / "data" / "validation-00000-of-00001.parquet", rows[:6], "label")
    mini = datasets.load("mini-imagenet", source=tmp_path / "m", size=84)
    assert mini.train_labels.bincount().tolist() == [4, 4, 4]


def test_without_pyarrow_the_message_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"need pyarrow: pip install 'classfit\[parquet\]'"):
        datasets.load("cifar100", source=tmp_path)


@pytest.mark.skipif(not CIFAR100_ZIP.exists(), reason="cifar100.zip is not beside the checkout")
def test_the_real_cifar100_is_whole():
    folders = cifar100.ClassFolders(CIFAR100_ZIP)
    assert len(folders.part(("train",))) == 50_000
    assert len(folders.part(("test",))) == 10_000
    assert len({group for group, _ in folders.part(("train",))}) == 100
