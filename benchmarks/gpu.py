"""Everything worth knowing about the Triton engine on the GPU at hand, in one command and one JSON file, in minutes.

    make bench-gpu          or          python -m benchmarks.gpu [--seed N] [--seconds 460] [--output FILE.json]

1. every kernel against the reference, on fresh random inputs (`gpu_checks.py`); where one fails, nothing is timed
2. the card's own ceilings: copy bandwidth, and matrix products in TF32, float32 and float64; and what the host needs
   for a launch
3. each operation at the paper's shapes, by device events, median, without and with its argument checks (for which the
   host waits), and part of its answer against the reference; beside it torch.distributions and scikit-learn's mixture
   on the same card, and what `performance_model.py` predicted for the installed version of Triton
4. 400 sweeps of 100 classes of 500 points in 64 dimensions: a whole CIFAR-100-sized fit
5. the estimators of `classfit` with `device=`, on the GPU and on the processor (`gpu_fits.py`), a tenth of the sweeps;
   and, if half of the time is left, the protocol "converged" on the GPU

Needs numpy, torch, triton and a GPU; no network. scikit-learn and `classfit` are timed where they are installed.
"""

import argparse
import functools
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks import performance_model
from benchmarks.gpu_checks import run_checks
from benchmarks.gpu_fits import FITTED, chains, fits
from benchmarks.gpu_timings import Sizes, measurements, timed

__all__ = ["FULL", "Sizes", "main", "run", "write"]

RESULTS = Path(__file__).parent / "results" / "gpu"

FULL = Sizes()


def run(
    device: str,
    seed: int,
    seconds: float,
    sizes: Sizes = FULL,
    say: Callable[[str], Any] = print,
    save: Callable[[dict[str, Any]], Any] = lambda report: None,
) -> dict[str, Any]:
    """All of it; timings are left out, and said to be, where a check fails or the time is used up.

    The report so far is saved after the checks, each timing and each fit, any of which may fail or take longer than
    there is time. A timing that fails by anything but want of memory is a failed check.
    """
    start = time.monotonic()
    report: dict[str, Any] = {**_provenance(device), "seed": seed, "sizes": sizes._asdict(), "checks": []}
    for check in run_checks(device, seed, sizes.checked, sizes.checked_features, start + 0.7 * seconds):
        report["checks"].append(check._asdict())
        say(f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.worst:.2g} of tolerance {check.message}")
    report["passed"] = all(check["passed"] for check in report["checks"])
    report["check_seconds"] = time.monotonic() - start
    if not report["passed"]:
        say("Nothing is timed: not every check passed.")
        return report
    save(report)
    report["ceilings"] = ceilings(device, sizes)
    report["host_seconds"] = host_seconds(device, sizes)
    say(json.dumps(report["ceilings"] | report["host_seconds"]))
    predicted = _predictions(device)
    report["predicted_from_kernels_of_triton"] = performance_model.version_here() if predicted else None
    report["timings"], report["left_out"], report["fits"] = [], [], []

    def leave_out(name: str, why: str) -> None:
        report["left_out"].append(f"{name}: {why}"[:200])
        say(f"left out {report['left_out'][-1]}")

    for name, D, measure in measurements(device, sizes, seed):
        if time.monotonic() - start > seconds:
            leave_out(f"{name} D={D}", "out of time")
            continue
        try:
            found = {"operation": name, "features": D, **measure()}
        except Exception as problem:  # what has been timed is worth keeping
            report["passed"] &= isinstance(problem, torch.OutOfMemoryError)
            leave_out(f"{name} D={D}", f"{type(problem).__name__}: {problem}")
            continue
        if not found["proven"]:
            report["passed"] = False
            for peer in found.get("peers", {}).values():
                peer.pop("ratio", None)
        if (name, D) in predicted:
            found["predicted_seconds"] = predicted[name, D]
        for rate, ceiling in (("flops_per_second", found.get("ceiling")), ("bytes_per_second", "copy")):
            if rate in found and ceiling in report["ceilings"]:
                found[f"fraction_of_{ceiling}"] = found[rate] / report["ceilings"][ceiling]
        report["timings"].append(found)
        say(json.dumps(found))
        save(report)
    size = (sizes.groups, sizes.group)
    whole: list[tuple[str, float, Callable[[], Iterable[dict[str, Any]]]]] = []
    for D in sizes.features:
        for name in FITTED:
            measure_fit = functools.partial(fits, name, device, *size, D, max(8, sizes.sweeps // 10), seed)
            whole.append((f"{name} D={D}", seconds, measure_fit))
    if sizes.chain_groups:
        measure_chains = functools.partial(chains, device, sizes.chain_groups, sizes.group, sizes.features[0], seed)
        whole.append(("protocol converged", 0.5 * seconds, measure_chains))
    for name, limit, measure_whole in whole:
        save(report)
        if time.monotonic() - start > limit:
            leave_out(name, "out of time")
            continue
        try:
            for found in measure_whole():
                report["fits"].append(found)
                say(json.dumps(found))
        except Exception as problem:  # what `classfit` needs beyond the kernels is missing, or a fit fails
            leave_out(name, f"{type(problem).__name__}: {problem}")
    report["seconds"] = time.monotonic() - start
    return report


def ceilings(device: str, sizes: Sizes) -> dict[str, float]:
    """What the card itself reaches: bytes/s of a copy (read and written), flop/s of square matrix products."""
    source = torch.ones(sizes.copied // 4, device=device)
    target = torch.empty_like(source)
    copy = timed(functools.partial(target.copy_, source), device, sizes.repeats)["median"]
    out = {"copy": 2 * 4 * len(source) / copy}
    del source, target
    before = torch.get_float32_matmul_precision()
    for name, dtype, precision, n in (
        ("matmul_tf32", torch.float32, "high", sizes.matmul),
        ("matmul_float32", torch.float32, "highest", sizes.matmul // 2),
        ("matmul_float64", torch.float64, "highest", sizes.matmul // 2),
    ):
        torch.set_float32_matmul_precision(precision)
        a, b = (torch.randn(n, n, dtype=dtype, device=device) for _ in range(2))
        product = torch.empty_like(a)
        multiply = functools.partial(torch.matmul, a, b, out=product)
        out[name] = 2 * n**3 / timed(multiply, device, sizes.repeats)["median"]
    torch.set_float32_matmul_precision(before)
    return out


def host_seconds(device: str, sizes: Sizes) -> dict[str, float]:
    """Of an operation of torch and of a Triton kernel that do next to nothing, when many are asked for."""
    em = importlib.import_module("kernels.triton.em_statistics")
    offsets, number = torch.arange(2, device=device), torch.zeros(2, dtype=torch.float64, device=device)
    out = torch.empty_like(number)
    options = em.launch_options(4, em.target(number[:, None]))
    calls = {
        "torch_operation": lambda: number.add_(0),
        "triton_launch": lambda: em._log_likelihood_kernel[(1,)](
            number, offsets, number, out, 1, BN=em.SUMMED, **options
        ),
    }

    def many(call: Callable[[], Any]) -> None:
        for _ in range(sizes.launches):
            call()

    return {
        name: timed(functools.partial(many, call), device, sizes.repeats)["median"] / sizes.launches
        for name, call in calls.items()
    }


def _predictions(device: str) -> dict[tuple[str, int], float]:
    """Of the performance model, where it knows this GPU."""
    if device == "cpu":
        return {}
    name = performance_model.like(torch.cuda.get_device_name())
    rows = performance_model.predictions() if name else []
    return {(row.operation.split(", 10")[0], row.features): row.seconds for row in rows if row.gpu == name}


def _provenance(device: str) -> dict[str, Any]:
    import triton

    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    gpu: dict[str, Any] = {"name": "none: the interpreter, which says nothing about speed"}
    if device != "cpu":
        properties = torch.cuda.get_device_properties(0)
        gpu = {
            "name": properties.name,
            "capability": list(torch.cuda.get_device_capability()),
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
        }
    versions = {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit or "unknown",
        "gpu": gpu,
        "versions": versions,
    }


def write(report: dict[str, Any], path: Path) -> None:
    """The report as JSON; the file appears as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
        json.dump(report, file, indent=1)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--seed", type=int, default=int.from_bytes(os.urandom(4)), help="of all inputs; default: a fresh one"
    )
    parser.add_argument("--seconds", type=float, default=460.0, help="no measurement begins after this many")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: a new file in benchmarks/results/gpu")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("No GPU here. The same checks run under the interpreter: make test", file=sys.stderr)
        return 2
    os.environ.setdefault("SCIPY_ARRAY_API", "1")  # scikit-learn's array API asks for it, before scipy is imported

    def path_of(report: dict[str, Any]) -> Path:
        stamp = f"{report['date'][:19].replace(':', '')}_{report['commit'][:7]}"
        return options.output or RESULTS / f"{stamp}.json"

    report = run("cuda", options.seed, options.seconds, save=lambda report: write(report, path_of(report)))
    path = path_of(report)
    write(report, path)
    left_out = f"; left out: {len(report['left_out'])}" if report.get("left_out") else ""
    print(f"{'Every check passed' if report['passed'] else 'A CHECK FAILED'}{left_out}. Stored {path}")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
