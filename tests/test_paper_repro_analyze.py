"""The analysis of a network that is given, on an image folder."""

import html
import re
import shlex
import sys

import numpy as np
import pytest
import torch
import torchvision
from paper_repro_tiny import TINY_PROTOCOL
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from paper_repro import storage
from paper_repro.analyze import IMAGENET, Analysis, _hash, load_model
from paper_repro.cli import app
from paper_repro.networks import residual_network
from paper_repro.profiles import PROTOCOLS
from paper_repro.steps import Workspace

MODULE = """
from paper_repro.networks import residual_network

def small():
    return residual_network((1, 1, 1, 1), width=8, n_classes=3, in_channels=3, seed=0)

def grey():
    return residual_network((1, 1, 1, 1), width=8, n_classes=3, in_channels=1, seed=0)

def particular():
    network = small()
    network.register_forward_pre_hook(lambda module, images: 1 / 0)
    return network

def no_network():
    return 3


def asks(width):
    return small()


def breaks():
    return None.eval()


def changed():
    # The same weights, and images times what the test says.
    network = small()
    network.register_forward_pre_hook(lambda module, images: (images[0] * FACTOR,))
    return network


FACTOR = 1.0


def listed():
    # Some networks return more than a tensor.
    network = small()
    network.register_forward_hook(lambda module, images, classes: {"classes": classes})
    return network
"""


@pytest.fixture
def images(tmp_path):
    """Three classes of ten grey-level images each."""
    rng = np.random.default_rng(0)
    for g in range(3):
        folder = tmp_path / "images" / f"class_{g}"
        folder.mkdir(parents=True)
        for i in range(10):
            Image.fromarray(rng.integers(60 * g, 60 * g + 100, (12, 16, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def analyze(tmp_path, images, monkeypatch):
    """Call the command on them, with a module of the working directory."""
    (tmp_path / "my_networks.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    monkeypatch.setitem(PROTOCOLS, "paper", TINY_PROTOCOL)

    def call(*arguments):
        options = ["--data", str(images), "--size", "16", "--runs-dir", "runs"]
        return CliRunner().invoke(app, ["analyze", *options, *map(str, arguments)])

    return call


def test_from_a_network_to_a_report(analyze, tmp_path):
    result = analyze("--model", "my_networks:small")
    assert result.exit_code == 0, result.output
    (root,) = (tmp_path / "runs").glob("analysis-my_networks-small-*")
    report = root / "paper" / "report.html"
    assert result.output.splitlines()[-1] == str(report.resolve())
    page = report.read_text(encoding="utf-8")
    for name in ("figure_1", "figure_2", "figure_a6", "figure_a7", "figure_b5"):
        assert f'<figure id="{name}"' in page
    assert "scaled-down" not in page
    assert "paper-repro run" not in page
    claims = storage.read_json(root / "paper" / "scorecard" / "scorecard.json")
    assert [claim["name"] for claim in claims] == ["C1", "C2", "C4"]
    stored = storage.read_arrays(root / "paper" / "figure_a7" / "numbers.npz")
    # As many as the layer has channels, or as there are images.
    assert stored["dimensions"].tolist() == [8, 16, 30, 30]
    assert "D = 30" in page
    assert "1 = layer1, 2 = layer2" in str(stored["note"])
    about = storage.read_json(root / "dataset" / "dataset.json")
    assert (about["n_train"], about["n_test"]) == (30, 0)
    assert about["mean"] == [0.485, 0.456, 0.406]
    again = analyze("--model", "my_networks:small")
    assert "✓" not in again.output


def test_the_time_that_representations_take_is_estimated(images, tmp_path, monkeypatch):
    (tmp_path / "networks_of_a_file.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    network = load_model("networks_of_a_file:listed", None)
    analysis = Analysis(network, TINY_PROTOCOL, model="m", data=images, size=16)
    workspace = Workspace(tmp_path / "runs")
    workspace.run([analysis.dataset])
    assert 0 < workspace.estimate(analysis.representations) < 60


def test_other_layers(analyze, tmp_path):
    chosen = ("--layers", "conv1, layer1,layer2 ", "--dimensions", "2,3,5")
    result = analyze("--model", "my_networks:small", *chosen)
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("runs/analysis-my_networks-small-*/paper/figure_a7/numbers.npz")
    stored = storage.read_arrays(path)
    assert stored["dimensions"].tolist() == [2, 3, 5]
    assert stored["stages"].tolist() == [1, 2, 3]
    page = " ".join((path.parents[1] / "report.html").read_text(encoding="utf-8").split())
    assert "outputs of the layers conv1, layer1, layer2 on the images, averaged over positions where a layer" in page
    assert 'aria-label="Figure 1: Class-conditional log-density of each class, stages 2 and 3"' in page
    assert 'aria-label="Figure 2: Intra-class distance and relative entropy against log-density, stage 3"' in page
    assert "Each mark is a class at stage 3." in page
    assert "for all three stages" in page
    assert not re.search(r"four stages|at stage 4|, stage 4", page)


def test_a_class_of_one_image(analyze, images, tmp_path):
    for path in sorted((images / "class_0").iterdir())[1:]:
        path.unlink()
    result = analyze("--model", "my_networks:small", "--layers", "layer1,layer2", "--dimensions", "2,3")
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("runs/analysis-my_networks-small-*/paper/report.html")
    page = path.read_text(encoding="utf-8")
    (words,) = re.findall(r"Correlation with mean log-density[^<]*", page)
    assert "over 3 classes: none for distance (of too few classes), " in words
    assert not re.search(r"[+−]nan|\bnan\b", words)
    # No feature of a single image varies: what was said in the terminal is said in the report, at either stage.
    for stage, n_features in ((1, 2), (2, 3)):
        warned = f"Its fits warned: features are const.*: in 1 of 3 groups, at most {n_features} of .* class class_0"
        assert re.search(rf"Stage {stage} [^<]*</h3>\s*<p class=\"note\">{warned}\.</p>", page)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "my_networks:absent"), "cannot be had"),
        (("--model", "my_networks:no_network"), "must return a torch module"),
        (
            ("--model", "my_networks:asks"),
            "called without arguments, 'my_networks:asks' cannot be had: missing a required argument: 'width'",
        ),
        (("--model", "resnet18"), "weights must be given for torchvision's resnet18"),
        (("--model", "resnet_18"), "or the name of a torchvision model that classifies images, got 'resnet_18'"),
        (("--model", "fcn_resnet50"), "got fcn_resnet50, which is for another task: give package.module:function"),
        (("--model", "quantized_resnet18"), "got quantized_resnet18, which is for another task"),
        (("--model", "my_networks:small", "--layers", "layer1"), "at least two"),
        (("--model", "my_networks:small", "--layers", "layer1,layer2,"), "an empty one in ['layer1', 'layer2', '']"),
        (("--model", "my_networks:small", "--layers", "layer1,layer9"), "no layer 'layer9'"),
        (("--model", "my_networks:small", "--dimensions", "4,4"), "one for each of the 4 layers"),
        (("--model", "my_networks:small", "--dimensions", "0,4,4,4"), "(--dimensions) must be positive, got [0, 4,"),
        (
            ("--model", "my_networks:small", "--dimensions", "4,99,4,4"),
            "(--dimensions) must be at most 16 for 'layer2', the number of its channels, got 99",
        ),
        (("--model", "my_networks:small", "--mean", "0.1,0.2"), "(--mean) must be three finite numbers, one a channel"),
        (("--model", "my_networks:small", "--mean", "0.1,nan,0.2"), "(--mean) must be three finite numbers"),
        (("--model", "my_networks:small", "--std", "1,inf,1"), "(--std) must be three finite numbers"),
        (("--model", "my_networks:small", "--std", "0,0,0"), "std (--std) must be positive, got [0.0, 0.0, 0.0]"),
        (("--model", "my_networks:particular"), "network must take float32 images"),
        (("--model", "my_networks:grey"), "network must take float32 images of 3 channels and 16 x 16 pixels"),
    ],
)
def test_what_cannot_be_analysed(analyze, arguments, message, tmp_path):
    result = analyze(*arguments)
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("option", "kind"), [("--dimensions", "whole numbers"), ("--mean", "numbers")])
def test_what_is_no_number_is_named(analyze, option, kind, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = analyze("--model", "my_networks:small", option, "a,b")
    assert result.exit_code == 2
    assert f"Invalid value for {option}: must be {kind} with commas between, got 'a,b'" in result.output


def test_other_weights_data_and_seeds_are_another_analysis(images, tmp_path):
    steps = []
    for weights, data, seed in ((0, images, 0), (1, images, 0), (0, tmp_path / "b" / images.name, 0), (0, images, 3)):
        network = residual_network((1, 1, 1, 1), width=8, n_classes=3, in_channels=3, seed=weights)
        steps.append(Analysis(network, TINY_PROTOCOL, model="a.b:c", data=data, size=16, seed=seed))
    assert steps[0].dataset.fingerprint == steps[1].dataset.fingerprint
    assert steps[0].representations.fingerprint != steps[1].representations.fingerprint
    # None replaces what another made.
    names = [step.run_folder for step in steps]
    assert len(set(names)) == len(names)
    assert re.fullmatch(rf"analysis-a\.b-c-{images.stem}-[0-9a-f]{{8}}", names[0])
    assert names[3] == f"{names[0]}-seed3"


@pytest.mark.parametrize("kind", ["safetensors", "torch", "nested"])
def test_torchvision_networks_take_a_weights_file(tmp_path, kind):
    import torchvision

    state = torchvision.models.resnet18(num_classes=5).state_dict()
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if kind == "nested" else state, path)
    network = load_model("resnet18", path)
    assert not network.training
    assert torch.equal(network.fc.weight, state["fc.weight"])


def test_torchvision_networks_with_other_units_convert_the_images(tmp_path):
    """As with torchvision's own weights: without it the representations are of other images."""
    made = torchvision.models.get_model("googlenet", init_weights=False)
    torch.save(made.state_dict(), tmp_path / "w.pt")
    assert load_model("googlenet", tmp_path / "w.pt").transform_input
    weights = torchvision.models.get_model_weights("googlenet").DEFAULT
    assert weights.transforms().mean == list(IMAGENET["mean"])


def test_torchvision_networks_with_channels_last_are_refused(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"layers \[B, C, H, W\], those of swin_t are \[B, H, W, C\]"):
        load_model("swin_t", tmp_path / "w.pt")


def test_weights_of_any_type_are_told_apart():
    found = set()
    for value in (0.5, 1.5):
        network = nn.Linear(2, 2)
        with torch.no_grad():
            network.weight.fill_(0.25)
            network.bias.fill_(0.25)
        network.register_buffer("rounded", torch.full((), value, dtype=torch.bfloat16))
        found.add(_hash(network))
    assert len(found) == 2


def test_weights_that_are_not_the_networks(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"weights must be those of resnet18, .*w\.pt are not"):
        load_model("resnet18", tmp_path / "w.pt")
    (tmp_path / "w.pt").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="must be a file of tensors alone") as refused:
        load_model("resnet18", tmp_path / "w.pt")
    assert "weights_only=False" not in str(refused.value), "advice of torch that may be unsafe"


def test_the_same_analysis_under_another_protocol(images):
    network = residual_network((1, 1, 1, 1), width=8, n_classes=3, in_channels=3, seed=0)
    given = {"model": "m", "data": images, "size": 16, "seed": 3, "layers": ["layer1", "layer2"]}
    under = Analysis(network, TINY_PROTOCOL, **given).under(PROTOCOLS["em"])
    em = Analysis(network, PROTOCOLS["em"], **given)
    assert under.folder == "em"
    assert {name: step.fingerprint for name, step in under.figures.items()} == {
        name: step.fingerprint for name, step in em.figures.items()
    }


# With 30 images the last layers keep fewer dimensions than they are asked for, which is known once images are read.
@pytest.mark.parametrize(
    "options", [("--layers", "layer1,layer2", "--dimensions", "2,3"), ("--layers", "layer1,layer4")]
)
def test_other_code_with_the_same_weights_is_refused(analyze, tmp_path, monkeypatch, options):
    chosen = ("--model", "my_networks:changed", *options)
    assert analyze(*chosen).exit_code == 0
    (root,) = (tmp_path / "runs").iterdir()
    drawn = (root / "paper/figure_1/numbers.npz").read_bytes()
    # By rounding, as on another machine, and by what changes the representations.
    monkeypatch.setattr(sys.modules["my_networks"], "FACTOR", 1.0001)
    again = analyze(*chosen)
    assert again.exit_code == 0
    assert "✓" not in again.output
    monkeypatch.setattr(sys.modules["my_networks"], "FACTOR", 1.1)
    other = analyze(*chosen)
    assert other.exit_code == 1
    assert "its layer 'layer1' gives other activations than it did then: its code has changed" in other.stderr
    assert (root / "paper/figure_1/numbers.npz").read_bytes() == drawn
    elsewhere = analyze(*chosen, "--runs-dir", "others")
    assert elsewhere.exit_code == 0
    (path,) = (tmp_path / "others").glob("*/paper/figure_1/numbers.npz")
    assert path.read_bytes() != drawn


def test_code_that_gives_other_channels_is_refused(images, tmp_path, monkeypatch):
    network = residual_network((1, 1, 1, 1), width=8, n_classes=3, in_channels=3, seed=0)
    layers = ["layer1", "layer2"]
    made = Analysis(network, TINY_PROTOCOL, model="m", data=images, size=16, layers=layers, dimensions=[2, 3])
    workspace = Workspace(tmp_path / "runs")
    workspace.run([made.representations])
    made.refuse_other_code(workspace)
    made.probe["layer2"] = made.probe["layer2"][:, :1]
    with pytest.raises(ValueError, match="its layer 'layer2' gives other activations"):
        made.refuse_other_code(workspace)


def test_a_link_to_nothing_is_said_in_words(analyze, images):
    (images / "class_1" / "link.png").symlink_to(images / "nowhere.png")
    result = analyze("--model", "my_networks:small", "--layers", "layer1,layer2", "--dimensions", "2,3")
    assert result.exit_code == 1
    assert "class_1/link.png cannot be read" in result.stderr


def test_images_that_have_changed_are_read_again(analyze, images, tmp_path):
    chosen = ("--model", "my_networks:small", "--layers", "layer1,layer2", "--dimensions", "2,3")
    assert analyze(*chosen).exit_code == 0
    (root,) = (tmp_path / "runs").iterdir()
    assert storage.read_json(root / "dataset/dataset.json")["n_train"] == 30
    for path in (images / "class_2").iterdir():
        path.unlink()
    fewer = analyze(*chosen)
    assert fewer.exit_code == 0
    assert "Images are those already in" not in fewer.output
    assert storage.read_json(root / "dataset/dataset.json")["n_train"] == 20
    assert storage.read_arrays(root / "paper/figure_1/numbers.npz")["class_names"].tolist() == ["class_0", "class_1"]
    # One in the place of another of the same size.
    path = images / "class_0" / "0.png"
    path.write_bytes(path.read_bytes()[::-1])
    assert "0.png is no whole image" in analyze(*chosen).output


def test_other_layers_are_another_analysis(images):
    network = residual_network((1, 1, 1, 1), width=8, n_classes=3, in_channels=3, seed=0)
    given = {"model": "m", "data": images, "size": 16}
    folders = {
        Analysis(network, TINY_PROTOCOL, **given, layers=layers, dimensions=dimensions).run_folder
        for layers in (["layer1", "layer2"], ["layer1", "layer3"])
        for dimensions in (None, [2, 3])
    }
    assert len(folders) == 4


def test_the_report_says_how_to_go_on(analyze, images, tmp_path):
    result = analyze("--model", "my_networks:small", "--layers", "layer1, layer2", "--dimensions", "2,3")
    assert result.exit_code == 0
    (path,) = tmp_path.glob("runs/*/paper/report.html")
    page = html.unescape(path.read_text(encoding="utf-8"))
    command = f"paper-repro analyze --model my_networks:small --data {images} --dimensions 2,3 --layers layer1,layer2"
    assert f"<code>{command} --size 16</code>" in page
    given = {"model": "m:f", "data": images / "a b", "weights": images / "w.pt", "seed": 4, "size": 16}
    network = residual_network((1, 1, 1, 1), width=8, n_classes=3, in_channels=3, seed=0)
    other = Analysis(network, PROTOCOLS["em"], **given, mean=(0, 0.5, 1)).command("run", tmp_path / "r")
    assert shlex.split(other) == [
        *("paper-repro", "analyze", "--model", "m:f", "--data", str(images / "a b"), "--weights", str(images / "w.pt")),
        *("--size", "16", "--mean", "0,0.5,1", "--protocol", "em", "--seed", "4", "--runs-dir", str(tmp_path / "r")),
    ]


def test_folds_need_images(analyze, images, tmp_path):
    for path in sorted((images / "class_1").iterdir())[4:]:
        path.unlink()
    result = analyze("--model", "my_networks:small", "--layers", "layer1,layer2", "--protocol", "heldout")
    assert result.exit_code == 1
    assert result.stderr == "class 'class_1' has 4 images; under `heldout` each needs at least 5, one for every fold\n"
    assert not list(tmp_path.glob("runs/*/representations"))


def test_an_error_in_the_given_function_is_shown_with_its_line(analyze):
    result = analyze("--model", "my_networks:breaks")
    assert isinstance(result.exception, RuntimeError)
    assert isinstance(result.exception.__cause__, AttributeError)


def test_more_dimensions_than_images_are_refused(analyze):
    result = analyze("--model", "my_networks:small", "--dimensions", "4,4,4,31")
    assert result.exit_code == 1
    said = "dimensions (--dimensions) must be at most 30 for 'layer4', the number of images, got 31"
    assert result.stderr == f"{said}\n"
    assert "representations" not in result.stdout


def test_the_help_says_what_memory_it_takes(analyze, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    assert "All are held in memory, 3 x size^2 bytes each." in analyze("--help").output
