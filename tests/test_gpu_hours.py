"""Predicted GPU hours: what is counted, and that the stored file and the pages say the same."""

import json
from pathlib import Path

import pytest
import torch
from tolerances import COUNTED_DIGITS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from benchmarks import gpu_hours, network_work, roofline, step_costs
from benchmarks.performance_model import GPUS, SHAPES, load_kernels, predict, predict_gibbs
from paper_repro import attacks
from paper_repro.pipeline import Pipeline
from paper_repro.profiles import PAPER, PROFILES
from paper_repro.steps import Step
from paper_repro.training import TrainingSettings

ROOT = Path(__file__).parents[1]
HOW = TrainingSettings(epochs=1, batch_size=4, peak_learning_rate=0.1, bfloat16=True)
CIFAR_RESNET18 = {"architecture": "resnet18", "width": 64, "stem": "cifar"}


def flops(operations):
    return sum(operation.flops for operation in operations)


@pytest.fixture(scope="module")
def stored():
    return gpu_hours.read()


def test_the_pages_have_the_stored_predictions(stored):
    page = (ROOT / "benchmarks/README.md").read_text()
    assert gpu_hours.markdown(stored, "cifar100-resnet18") in page
    totals = gpu_hours.totals(stored)
    assert totals in page
    for name, share in stored["share_of_best_case"].items():
        assert f"{share:.0%}" in page, name
    columns, _, *rows = ([cell.strip() for cell in line.split("|")] for line in totals.splitlines())
    hours = {row[1]: dict(zip(columns, row, strict=True)) for row in rows}
    small, large = hours["cifar100-resnet18"], hours["cifar100-resnet50"]
    said = (
        f"`cifar100-resnet18` takes {small['A100']} hours on an A100 and {small['H100']} on an H100, "
        f"`cifar100-resnet50` {large['A100']} and {large['H100']};"
    )
    assert said in " ".join((ROOT / "README.md").read_text().split())


def test_a_forward_pass_has_the_published_number_of_multiply_adds():
    """torchvision publishes them with its weights, in units of 10^9."""
    for kind, weights in ((models.resnet50, models.ResNet50_Weights), (models.resnet18, models.ResNet18_Weights)):
        published = weights.IMAGENET1K_V1.meta["_ops"]
        found = flops(network_work.forward(kind(), 1, (3, 224, 224))) / 2e9
        assert found == pytest.approx(published, abs=COUNTED_DIGITS)


def test_resnet18_of_cifar100_by_hand(stored):
    """Convolutions at 32, 16, 8 and 4 pixels, shortcuts, and the last layer: 0.5555 10^9 multiply-adds an image (0.556
    with batch norm); training takes three times as much, less what the images' own gradient would."""
    stem = 9 * 3 * 64 * 32**2
    stages = 4 * 9 * 64 * 64 * 32**2
    for k in (1, 2, 3):
        n, pixels = 64 * 2**k, (32 // 2**k) ** 2
        stages += (3 * 9 * n * n + 9 * n * n // 2 + n * n // 2) * pixels
    forward = 2 * (stem + stages + 512 * 100)
    network = network_work.network_of(CIFAR_RESNET18, (3, 32, 32), 100)
    assert flops(network_work.forward(network, 4, (3, 32, 32))) == 4 * forward
    network = network_work.network_of(CIFAR_RESNET18, (3, 32, 32), 100)
    assert flops(network_work.update(network, HOW, (3, 32, 32))) == 4 * (3 * forward - 2 * stem)
    kept = stored["networks"]["cifar100-resnet18"]["network"]
    assert kept["forward_flops_an_image"] == forward
    assert kept["update_flops_an_image"] == 3 * forward - 2 * stem
    (cost,) = (cost for cost in stored["profiles"]["cifar100-resnet18"] if cost["step"] == "network")
    assert cost["flops"] == pytest.approx(160 * 50_000 * (3 * forward - 2 * stem) + 60_000 * forward)


@pytest.mark.parametrize("kind", ["forward", "gradient"])
def test_the_count_is_that_of_torch_with_attention(kind):
    network = network_work.network_of({"architecture": "vit_small"}, (3, 8, 8), 10).eval()
    images = torch.zeros(2, 3, 8, 8, requires_grad=kind == "gradient")
    network.requires_grad_(False)
    unwrapped = {op: formula.__wrapped__ for op, formula in network_work.ATTENTION.items()}
    with FlopCounterMode(display=False, custom_mapping=unwrapped) as counter:
        scores = network(images)
        if kind == "gradient":
            scores.sum().backward()
    attention = [count for op, count in counter.get_flop_counts()["Global"].items() if "attention" in str(op)]
    assert len(attention) == 1 + (kind == "gradient")
    assert flops(getattr(network_work, kind)(network, 2, (3, 8, 8))) == counter.get_total_flops()


def test_bytes_are_those_of_every_input_and_output():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 5, bias=False)

        def forward(self, images):
            return self.linear(images.flatten(1)).relu()

    product, relu = network_work.forward(Two(), 7, (1, 2, 3))[-2:]
    assert (product.kind, product.flops, product.bytes) == ("product", 2 * 7 * 6 * 5, 4 * (7 * 6 + 6 * 5 + 7 * 5))
    assert (relu.kind, relu.flops, relu.bytes) == ("other", 0, 4 * 2 * 7 * 5)


def test_training_is_in_bfloat16_and_the_rest_is_not():
    settings, shape = {"architecture": "convnet", "width": 4}, (3, 8, 8)
    mixed, single = (
        network_work.update(network_work.network_of(settings, shape, 3), HOW._replace(bfloat16=chosen), shape)
        for chosen in (True, False)
    )
    assert all(o.bfloat16 for o in mixed if o.kind == "convolution")
    assert not any(o.bfloat16 for o in single)
    assert flops(mixed) == flops(single)
    assert sum(o.bytes for o in mixed) < sum(o.bytes for o in single)


def test_an_operation_takes_the_longer_of_flops_and_bytes():
    gpu, peaks = GPUS["H100"], roofline.PEAKS["H100"]
    compute = network_work.Operation("product", True, peaks.bfloat16, 1.0)
    memory = network_work.Operation("other", True, 1.0, 2 * gpu.memory)
    tf32 = network_work.Operation("convolution", False, 3 * gpu.single, 1.0)
    plain = network_work.Operation("product", False, 4 * peaks.float32, 1.0)
    assert roofline.roofline([compute, memory, tf32, plain], "H100") == pytest.approx(1 + 2 + 3 + 4)


def test_attack_passes_are_those_of_the_attacks_steps():
    n_gradients, n_forwards = step_costs.attack_passes({"Linf": (0.0, 0.1), "L2": (0.0, 0.5, 1.0)})
    # DeepFool has 50 steps, in each a gradient for each of the ten likeliest classes but the first.
    fgsm, pgd, deepfool = 1, attacks.PGD["steps"], 50 * (10 - 1)
    assert n_gradients == fgsm * (1 + 1 + 2) + pgd * (1 + 2) + deepfool
    assert n_forwards >= len(attacks.ATTACKS)


def test_settings_of_a_step_decide_its_cost():
    pipeline = Pipeline(PROFILES["cifar100-resnet18"], PAPER)
    data = step_costs.DATA["cifar100"]
    assert data == ((3, 32, 32), 100, 50_000, 10_000)
    assert step_costs.DATA["mini-imagenet"] == ((3, 84, 84), 100, 50_000, 10_000)
    (sweeps, density) = step_costs._work(pipeline.posteriors[4], data)
    assert (sweeps.D, sweeps.shape) == (64, {"groups": 100, "group": 500, "sweeps": 400})
    assert (density.shape, density.times, density.n_kept) == ({"points": 500}, 100, 20)
    (entropy,) = step_costs._work(pipeline.entropies[1], data)
    assert (entropy.D, entropy.shape, entropy.times) == (16, {"points": 100_000}, 100)
    assert len(list(step_costs._work(pipeline.robustness["kl_by_stage"], data))) == 2 * 3 * 4
    other = list(step_costs._work(pipeline.robustness["kl_at_other_dimensions"], data))
    assert [part.D for part in other[::6]] == [16, 16, 64, 64]
    whole, part = (part.shape["group"] for part in list(step_costs._work(pipeline.controls["controls"], data))[:4:2])
    assert (whole, part) == (500, 400)
    with pytest.raises(ValueError, match="cost is known here, got a/new_step"):
        list(step_costs._work(Step("a/new_step", {}, print), data))


def test_every_step_that_costs_something_is_stored(stored):
    assert list(stored["profiles"]) == list(step_costs.PROFILE_NAMES)
    for name, found in stored["profiles"].items():
        steps = {step.name for step in Pipeline(PROFILES[name], PAPER).steps if "figure" not in step.settings}
        free = {step for step in steps if step.rsplit("/", 1)[-1].startswith(step_costs.FREE)} | {step_costs.POINTS}
        assert {cost["step"] for cost in found} == steps - free
        assert len(free) == 10 + len(PROFILES[name].untrained)
        for cost in found:
            for hours in (*cost["hours"].values(), cost["processor_hours"] or {"best": 1.0, "likely": 1.0}):
                assert 0 < hours["best"] <= hours["likely"]


def test_stored_densities_are_of_the_settings_as_they_are(stored):
    pipeline = Pipeline(PROFILES["cifar100-resnet18"], PAPER)
    kept = {cost["step"]: cost["flops"] for cost in stored["profiles"]["cifar100-resnet18"] if cost["processor_hours"]}
    data, found = step_costs.DATA["cifar100"], {}
    for step in pipeline.steps:
        if step.name in kept:
            found[step.name] = step_costs._cost(step.name, list(step_costs._work(step, data))).flops
    assert found == pytest.approx(kept), "run python -m benchmarks.gpu_hours --store"


def test_densities_are_predicted_at_other_shapes_too():
    kernels = load_kernels()
    usual = predict("H100", kernels, "mixture density", 64)
    assert usual == predict("H100", kernels, "mixture density", 64, SHAPES["mixture density"])
    more = predict("H100", kernels, "mixture density", 64, {"points": 500_000, "components": 12_000})
    assert more.flops == 10 * usual.flops
    assert more.seconds > usual.seconds
    sweeps = SHAPES["Gibbs sweeps, 10 components"]
    usual = predict_gibbs("H100", "Gibbs sweeps, 10 components", 64)
    assert predict_gibbs("H100", "Gibbs sweeps", 64, {**sweeps, "sweeps": 800}).flops == 2 * usual.flops


def test_command_prints_what_was_found(capsys, monkeypatch, stored):
    monkeypatch.setattr(
        gpu_hours, "predictions", lambda names: {**stored, "profiles": {n: stored["profiles"][n] for n in names}}
    )
    gpu_hours.main(["--profile", "cifar100-resnet50"])
    said = capsys.readouterr().out
    assert "memorization" in said
    assert "Predictions, not measurements" in said
    with pytest.raises(SystemExit):
        gpu_hours.main(["--profile", "cifar100-resnet50", "--store"])


def test_storing_is_of_everything(monkeypatch, tmp_path, stored, capsys):
    monkeypatch.setattr(gpu_hours, "predictions", lambda names: stored)
    monkeypatch.setattr(gpu_hours, "RESULTS", tmp_path)
    gpu_hours.main(["--store"])
    assert [path.name for path in tmp_path.iterdir()] == ["gpu_hours.json"]
    assert json.loads((tmp_path / "gpu_hours.json").read_text()) == stored
    assert gpu_hours.markdown(stored, "cifar100-resnet18") in capsys.readouterr().out
