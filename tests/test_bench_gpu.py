"""`make bench-gpu` without a GPU: its checks under the interpreter, small, and its file; and the performance model."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

pytest.importorskip("triton")

import kernels
from benchmarks import gpu, gpu_checks, gpu_fits, gpu_report, gpu_timings
from benchmarks import performance_model as model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FAR = float("inf")
PAGE = Path(__file__).parents[1] / "kernels/README.md"
NEWEST = model.stored_versions()[-1]
SMALL = gpu.Sizes(
    checked=20, checked_features=(3,), features=(3,), points=20, components=7, peer_points=5, groups=2, group=8,
    per_group=2, sweeps=2, matmul=16, copied=64, launches=2, repeats=1, proposals=3, candidates=3, states=2,
    chain_groups=0,
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
    assert all(0 < seconds < 1 for seconds in report["host_seconds"].values()), report["host_seconds"]
    assert report["left_out"] == []
    assert [t["operation"] for t in report["timings"]] == [
        "mixture density", "Gaussian densities", "Student-t densities", "EM statistics", "component statistics",
        "precision factors", "Gibbs sweeps", "Gibbs sweeps, blocks of 4", "split-merge proposals", "log joint density",
    ]  # fmt: skip
    assert all(timing["proven"] and timing.get("worst_of_tolerance", 0) <= 1 for timing in report["timings"])
    mixture, gibbs = report["timings"][0], report["timings"][6]
    assert mixture["flops"] == 20 * 7 * 3 * 4
    assert mixture["fraction_of_matmul_tf32"] > 0
    for name, peer in mixture["peers"].items():
        assert peer.get("largest_difference", FAR) < 1e-4, (name, peer)
    assert gibbs["two_runs_bitwise_equal"]
    assert [fit["what"].split(",")[0] for fit in report["fits"]] == [
        "DPGaussianMixture.fit", "DPGaussianMixture.class_log_density",
        "GaussianMixture.fit", "GaussianMixture.class_log_density",
    ]  # fmt: skip
    assert all(fit["seconds"][DEVICE] > 0 and fit.get("largest_difference", 0) < 1e-4 for fit in report["fits"])
    assert len(said) == len(report["checks"]) + 1 + len(report["timings"]) + len(report["fits"])
    gpu.write(report, tmp_path / "deep" / "report.json")
    assert json.loads((tmp_path / "deep" / "report.json").read_text())["seed"] == 1
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["report.json"]


def test_what_is_timed_is_the_engine_without_argument_checks(monkeypatch):
    checked = []
    for name in ("points", "matrices"):
        check = getattr(kernels._check, name)
        monkeypatch.setattr(kernels._check, name, lambda x, check=check: checked.append(True) or check(x))

    def was_checked(call, device, repeats, warm_up=1):
        checked.clear()
        for _ in range(repeats):
            call()
        return {"median": 2.0 if checked else 1.0}

    monkeypatch.setattr(gpu_timings, "timed", was_checked)
    for name, _, measure in gpu_timings.measurements(DEVICE, SMALL, seed=1):
        found = measure()
        assert found["seconds"]["median"] == 1.0, name
        assert found["seconds_with_argument_checks"] == 2.0, name


def test_all_numbers_follow_from_the_seed(monkeypatch):
    arguments = []
    monkeypatch.setattr(kernels, "gibbs_sweep", lambda *args, **options: arguments.append(args) or 1 / 0)
    for _ in range(2):
        torch.rand(3)
        with pytest.raises(ZeroDivisionError):
            dict(gpu_checks.checks(DEVICE, 4, 12, (2,)))["gibbs_sweep D=2 block=1"]()
    for one, two in zip(*arguments, strict=True):
        fields = zip(one, two, strict=True) if isinstance(one, tuple) else [(one, two)]
        assert all(torch.equal(a, b) for a, b in fields)


def test_a_wrong_kernel_is_seen_and_nothing_is_timed(monkeypatch):
    engine = importlib.import_module("kernels.triton")
    right = engine.gaussian_log_density
    monkeypatch.setattr(engine, "gaussian_log_density", lambda *args: right(*args) + 1e-1)
    for slow in ("_gibbs", "_split_merge"):
        monkeypatch.setattr(gpu_checks, slow, lambda *args, **options: gpu_checks.Check("", True, 0.0, True))
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


def test_a_wrong_answer_at_the_timed_shape_fails_and_has_no_ratio(monkeypatch):
    """All of the checks, of other shapes, pass."""
    engine = importlib.import_module("kernels.triton")

    def wrong(right, change):
        def called(*args, **options):
            return change(right(*args, **options))

        return called

    def of_first_field(change):
        return lambda found: found._replace(**{found._fields[0]: change(found[0])})

    def another_label(found):
        state, info = found
        return state._replace(labels=state.labels + 1), info

    changes = {
        "mixture_log_density": lambda found: found + 0.1,
        "gaussian_log_density": lambda found: found + 0.1,
        "student_t_log_density": lambda found: found * torch.nan,
        "em_statistics": of_first_field(lambda counts: counts + 1),
        "component_statistics": of_first_field(lambda counts: counts + 1),
        "precision_cholesky": of_first_field(lambda factor: factor.mT),
        "gibbs_sweep": of_first_field(lambda labels: labels + int(torch.randint(10**9, ()))),
        "split_merge": another_label,
        "log_joint": lambda found: found + 1,
    }
    assert set(changes) == set(engine.__all__)
    for part in ("run_checks", "fits"):
        monkeypatch.setattr(gpu, part, lambda *args: iter(()))

    def no_warm_up(call, device, repeats, warm_up=0):
        return [call() for _ in range(repeats)] and {"median": 1.0}

    monkeypatch.setattr(gpu_timings, "timed", no_warm_up)
    for name, change in changes.items():
        monkeypatch.setattr(engine, name, wrong(getattr(engine, name), change))
    report = gpu.run(DEVICE, seed=1, seconds=FAR, sizes=SMALL, say=lambda line: None)
    assert not report["passed"]
    assert len(report["timings"]) == 10
    for timing in report["timings"]:
        assert not timing["proven"], timing
        assert not any("ratio" in peer for peer in timing.get("peers", {}).values()), timing
    assert "differs by 0.1" in report["timings"][0]["peers"]["torch.distributions"]["error"]
    assert "times as long" not in gpu_report.markdown(report)


def test_what_was_timed_is_saved_before_fits_and_survives_their_failure(monkeypatch):
    saved, said = [], []

    def broken(name, *args):
        if name == gpu.FITTED[0]:
            raise RuntimeError("no such thing")
        yield {"what": name}

    def too_large():
        raise torch.OutOfMemoryError("too little")

    timings = [("an operation", 3, lambda: {"proven": True}), ("another", 3, too_large)]
    monkeypatch.setattr(gpu, "run_checks", lambda *args: iter(()))
    monkeypatch.setattr(gpu, "fits", broken)
    monkeypatch.setattr(gpu, "chains", lambda *args: 1 / 0)
    monkeypatch.setattr(gpu, "measurements", lambda *args: timings)
    report = gpu.run(
        DEVICE, 1, FAR, SMALL._replace(chain_groups=2), said.append, lambda report: saved.append(json.dumps(report))
    )
    assert report["passed"]
    assert report["left_out"] == [
        "another D=3: OutOfMemoryError: too little",
        "DPGaussianMixture D=3: RuntimeError: no such thing",
        "protocol converged: ZeroDivisionError: division by zero",
    ]
    assert report["fits"] == [{"what": gpu.FITTED[1]}]
    first = next(found for found in map(json.loads, saved) if found.get("timings"))
    assert ([timing["operation"] for timing in first["timings"]], first["fits"]) == (["an operation"], [])
    assert sum(line.startswith("left out ") for line in said) == 3
    # A kernel that crashes where it is timed has not passed.
    monkeypatch.setattr(gpu, "measurements", lambda *args: [("an operation", 3, lambda: 1 / 0)])
    assert not gpu.run(DEVICE, 1, FAR, SMALL, said.append)["passed"]


def test_chains_are_fitted_and_timed():
    (found,) = gpu_fits.chains(DEVICE, groups=1, group=6, D=2, seed=1)
    assert found["seconds"][DEVICE] > 0
    assert found["converged"] in (0.0, 1.0)


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
    return model.predictions(NEWEST)


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
    """Mixture density at 60 per cent of its floor on sm_90."""
    of_h100 = {(row.operation, row.features): row for row in rows if row.gpu == "H100"}
    assert of_h100["mixture density", 64].fraction >= 0.6


def test_instructions_and_occupancy_count():
    compiled = model.load_kernels(NEWEST)
    before = model.predict("B200", compiled, "mixture density", 64)
    kernel = compiled["gaussian mixture fp32 D=64", "sm_100"]
    longer = kernel | {"loops": [loop | {"instructions": 2 * loop["instructions"]} for loop in kernel["loops"]]}
    compiled["gaussian mixture fp32 D=64", "sm_100"] = longer
    assert model.predict("B200", compiled, "mixture density", 64).seconds > 1.5 * before.seconds
    gpu_ = model.GPUS["B200"]
    assert model.fitting_programs({"registers": 128, "warps": 8, "shared": 0}, gpu_) == 2
    assert model.fitting_programs({"registers": 129, "warps": 8, "shared": 0}, gpu_) == 1
    assert model.fitting_programs({"registers": 16, "warps": 8, "shared": 60_000}, gpu_) == 3


def test_records_beyond_the_cache_slow_sweeps_down():
    gpu_ = model.GPUS["H100"]
    few, many = (model.gibbs_cycles(gpu_, 64, 50, groups)["rebuild"] for groups in (10, 132))
    assert few < many


def test_the_page_has_the_predictions_of_the_newest_table(rows):
    found = model.markdown(rows, NEWEST)
    lines = found.splitlines()
    assert len(lines) == 2 + len(model.SHAPES) * len(model.FEATURES)
    assert {line.count("|") for line in lines} == {3 + len(model.GPUS)}
    assert found in PAGE.read_text(), f"python -m benchmarks.performance_model --triton {NEWEST}"


def test_the_installed_version_of_triton_is_preferred(monkeypatch):
    triton = importlib.import_module("triton")
    for version in model.stored_versions():
        monkeypatch.setattr(triton, "__version__", version)
        assert model.version_here() == version
        assert model.load_kernels() == model.load_kernels(version)
    assert model.load_kernels() != model.load_kernels(model.stored_versions()[0])
    monkeypatch.setattr(triton, "__version__", "3.7.0+git")
    assert model.version_here() == NEWEST
    monkeypatch.setitem(sys.modules, "triton", None)
    assert model.version_here() == NEWEST


VIEWS = {
    "alias", "as_strided", "detach", "diagonal", "empty", "expand", "new_empty", "permute", "select", "slice", "split",
    "squeeze", "t", "transpose", "unbind", "unsqueeze", "view", "_local_scalar_dense", "_unsafe_view",
}  # fmt: skip


@pytest.mark.parametrize("D", model.FEATURES)
def test_launches_of_em_statistics_are_counted(monkeypatch, D):
    launches = []

    class Counted:
        def __getitem__(self, grid):
            return self

        def __call__(self, *args, **options):
            launches.append("kernel")

    class Layout(Counted):
        def __call__(self, *args, **options):
            super().__call__()
            with _disable_current_modes():
                args[4].fill_(24 * 2)

    class Trace(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            if operation.__name__.split(".")[0] not in VIEWS:
                launches.append(operation.__name__)
            return operation(*args, **(kwargs or {}))

    engine = importlib.import_module("kernels.triton")
    monkeypatch.setattr(importlib.import_module("kernels.triton.em_statistics"), "_layout_kernel", Layout())
    for module, kernel in (
        ("components", "_pack_kernel"),
        ("components", "_relative_kernel"),
        ("em_statistics", "_statistics_kernel"),
        ("em_statistics", "_log_likelihood_kernel"),
        ("em_statistics", "_merge_kernel"),
        ("mixture_log_density", "_mixture_kernel"),
    ):
        monkeypatch.setattr(importlib.import_module(f"kernels.triton.{module}"), kernel, Counted())
    offsets = {"group_offsets": torch.arange(4) * 8, "component_offsets": torch.arange(4) * 2}
    offsets = {name: value.to(DEVICE) for name, value in offsets.items()}
    x, W = torch.zeros(24, D, device=DEVICE), torch.eye(D, device=DEVICE).repeat(6, 1, 1)
    with Trace():
        engine.em_statistics(x, x[0, :6], x[:6], W, **offsets)
    assert launches.count("kernel") == 7
    assert len(launches) == model.EM_LAUNCHES, launches
