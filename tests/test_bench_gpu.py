"""`make bench-gpu` without a GPU: its checks under the interpreter, small, and its file; and the performance model."""

import importlib
import json
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from benchmarks import gpu, gpu_checks
from benchmarks import performance_model as model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FAR = float("inf")
SMALL = gpu.Sizes(
    checked=20, checked_features=(3,), features=(3,), points=20, components=7, peer_points=5, groups=2, group=8,
    per_group=2, sweeps=2, matmul=16, copied=64, repeats=1,
)  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore:divide by zero encountered in log:RuntimeWarning")


def test_a_run_checks_everything_times_everything_and_is_stored(tmp_path):
    said = []
    report = gpu.run(DEVICE, seed=1, seconds=FAR, sizes=SMALL, say=said.append)
    failed = [check for check in report["checks"] if not check["passed"]]
    assert failed == []
    names = " ".join(check["name"] for check in report["checks"])
    for operation in importlib.import_module("kernels.triton").__all__:
        assert operation in names
    assert all(check["bitwise"] for check in report["checks"])
    assert set(report["ceilings"]) == {"copy", "matmul_tf32", "matmul_float32", "matmul_float64"}
    assert report["left_out"] == []
    assert [t["operation"] for t in report["timings"]] == [
        "mixture density", "EM statistics", "component statistics", "Gibbs sweeps", "Gibbs sweeps, blocks of 4",
    ]  # fmt: skip
    mixture, *_, gibbs = report["timings"]
    assert mixture["flops"] == 20 * 7 * 3 * 4
    assert mixture["fraction_of_matmul_tf32"] > 0
    for name, peer in mixture["peers"].items():
        assert peer.get("largest_difference", FAR) < 1e-4, (name, peer)
    assert gibbs["two_runs_bitwise_equal"]
    assert len(said) == len(report["checks"]) + 1 + len(report["timings"])
    gpu.write(report, tmp_path / "deep" / "report.json")
    assert json.loads((tmp_path / "deep" / "report.json").read_text())["seed"] == 1
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["report.json"]


def test_a_wrong_kernel_is_seen_and_nothing_is_timed(monkeypatch):
    engine = importlib.import_module("kernels.triton")
    right = engine.gaussian_log_density
    monkeypatch.setattr(engine, "gaussian_log_density", lambda *args: right(*args) + 1e-1)
    report = gpu.run(DEVICE, seed=2, seconds=FAR, sizes=SMALL, say=lambda line: None)
    failed = {check["name"].split()[0] for check in report["checks"] if not check["passed"]}
    assert failed == {"gaussian_log_density"}
    assert "timings" not in report


def test_unwritten_outputs_and_unequal_runs_are_seen(monkeypatch):
    checks = dict(gpu_checks.checks(DEVICE, 3, 12, (2,)))
    engine = importlib.import_module("kernels.triton")
    monkeypatch.setattr(engine, "gaussian_log_density", lambda x, m, W: torch.empty(len(x), len(m), dtype=x.dtype))
    assert checks["gaussian_log_density D=2 float64"]().worst == FAR
    right, calls = engine.student_t_log_density, []

    def another_bit(*args):
        calls.append(1)
        return right(*args) * (1 + 1e-15 * len(calls))

    monkeypatch.setattr(engine, "student_t_log_density", another_bit)
    found = checks["student_t_log_density D=2 float64"]()
    assert (found.passed, found.bitwise, found.message) == (False, False, "two runs differ")


def test_wrong_labels_are_counted(monkeypatch):
    engine = importlib.import_module("kernels.triton")
    right = engine.gibbs_sweep

    def wrong(*args, **kwargs):
        state = right(*args, **kwargs)
        state.labels[-1, 0] += 1
        return state

    monkeypatch.setattr(engine, "gibbs_sweep", wrong)
    found = dict(gpu_checks.checks(DEVICE, 4, 12, (2,)))["gibbs_sweep D=2 block=1"]()
    assert not found.passed
    assert found.message.startswith("1 labels of")


def test_what_breaks_or_comes_too_late_fails(monkeypatch):
    engine = importlib.import_module("kernels.triton")

    def broken(*args, **kwargs):
        raise RuntimeError("no such thing")

    for name in engine.__all__:
        monkeypatch.setattr(engine, name, broken)
    found = list(gpu_checks.run_checks(DEVICE, 5, 12, (2,), FAR))
    assert {check.message for check in found} == {"RuntimeError: no such thing"}
    late = list(gpu_checks.run_checks(DEVICE, 5, 12, (2,), -FAR))
    assert {(check.passed, check.message) for check in late} == {(False, "not run: out of time")}


@pytest.mark.skipif(DEVICE == "cuda", reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert gpu.main([]) == 2
    assert "No GPU here" in capsys.readouterr().err


def test_it_needs_no_more_than_torch_triton_and_numpy():
    code = """
import sys
for name in "numba sklearn scipy rich typer torchvision matplotlib safetensors jinja2 pytest".split():
    sys.modules[name] = None
import benchmarks.gpu, kernels.triton
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- the performance model


@pytest.fixture(scope="module")
def rows():
    return model.predictions()


def test_no_prediction_is_below_its_floor(rows):
    assert len(rows) == len(model.SHAPES) * len(model.FEATURES) * len(model.GPUS)
    assert all(0 < row.floor < row.seconds and row.fraction == row.floor / row.seconds for row in rows)


def test_floors_by_hand(rows):
    (mixture,) = [r for r in rows if (r.operation, r.gpu, r.features) == ("mixture density", "H100", 64)]
    # 600 million pairs of 2,080 multiply-adds, three products of TF32 each.
    assert mixture.flops == 6e8 * 4160
    assert mixture.floor == pytest.approx(3 * 6e8 * 4160 / 494.7e12)
    assert mixture.programs == 2


def test_the_goals_are_predicted(rows):
    """Mixture density at 60 per cent of its floor on sm_90; a CIFAR-100-sized fit in 5 seconds on an H100."""
    of_h100 = {(row.operation, row.features): row for row in rows if row.gpu == "H100"}
    assert of_h100["mixture density", 64].fraction >= 0.6
    assert all(row.seconds < 5 for (name, _), row in of_h100.items() if name.startswith("Gibbs"))


def test_instructions_and_occupancy_count():
    kernels = model.load_kernels()
    before = model.predict("B200", kernels, "mixture density", 64)
    kernel = kernels["gaussian mixture fp32 D=64", "sm_100"]
    longer = kernel | {"loops": [loop | {"instructions": 2 * loop["instructions"]} for loop in kernel["loops"]]}
    kernels["gaussian mixture fp32 D=64", "sm_100"] = longer
    assert model.predict("B200", kernels, "mixture density", 64).seconds > 1.5 * before.seconds
    gpu_ = model.GPUS["B200"]
    assert model.fitting_programs({"registers": 128, "warps": 8, "shared": 0}, gpu_) == 2
    assert model.fitting_programs({"registers": 129, "warps": 8, "shared": 0}, gpu_) == 1
    assert model.fitting_programs({"registers": 16, "warps": 8, "shared": 60_000}, gpu_) == 3


def test_records_beyond_the_cache_slow_sweeps_down():
    gpu_ = model.GPUS["H100"]
    few, many = (model.gibbs_cycles(gpu_, 64, 50, groups)["rebuild"] for groups in (10, 132))
    assert few < many


def test_the_table_for_the_readme(rows):
    lines = model.markdown(rows).splitlines()
    assert lines[0].startswith("| predicted, not measured |")
    assert len(lines) == 2 + len(model.SHAPES) * len(model.FEATURES)
    assert {line.count("|") for line in lines} == {3 + len(model.GPUS)}
