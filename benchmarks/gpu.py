"""Everything worth knowing about the Triton engine on the GPU at hand, in one command and one JSON file, in minutes.

    make bench-gpu          or          python -m benchmarks.gpu [--seed N] [--seconds 460] [--output FILE.json]

1. every kernel against the reference, on fresh random inputs (`gpu_checks.py`); where one fails, nothing is timed
2. the card's own ceilings: copy bandwidth, and matrix products in TF32, float32 and float64; and what the host needs
   for a launch
3. each operation at the paper's shapes, by device events, median, without and with its argument checks (for which the
   host waits); beside it torch.distributions and scikit-learn's mixture on the same card, and what
   `performance_model.py` predicted for the installed version of Triton
4. 400 sweeps of 100 classes of 500 points in 64 dimensions: a whole CIFAR-100-sized fit
5. the estimators of `classfit` with `device=`, on the GPU and on the processor (`gpu_fits.py`), a tenth of the sweeps;
   and, if half of the time is left, the protocol "converged" on the GPU

Needs numpy, torch, triton and a GPU; no network. scikit-learn and `classfit` are timed where they are installed.
"""

import argparse
import functools
import importlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import kernels
from benchmarks import performance_model
from benchmarks.gpu_checks import FEATURES, run_checks
from benchmarks.gpu_fits import chains, fits
from kernels import AlphaNoise, GibbsState, NIWPrior

__all__ = ["FULL", "Sizes", "main", "run", "write"]

RESULTS = Path(__file__).parent / "results" / "gpu"
LOG_TWO_PI = math.log(2 * math.pi)


class Sizes(NamedTuple):
    """Shapes of what is checked and timed."""

    checked: int = 300
    checked_features: tuple[int, ...] = FEATURES
    features: tuple[int, ...] = (64, 16)
    points: int = 50_000
    components: int = 12_000
    peer_points: int = 100
    """Points of torch.distributions in one call: it holds points x components x features numbers, several times."""
    groups: int = 100
    group: int = 500
    per_group: int = 6
    sweeps: int = 400
    matmul: int = 8192
    copied: int = 2**30
    """Bytes."""
    launches: int = 200
    chain_groups: int = 100
    """Groups that are fitted by the protocol "converged"; 0 for none."""
    repeats: int = 15


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

    The report so far is saved before what may take longer than there is time.
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
    report["ceilings"] = ceilings(device, sizes)
    report["host_seconds"] = host_seconds(device, sizes)
    say(json.dumps(report["ceilings"] | report["host_seconds"]))
    predicted = _predictions(device)
    report["predicted_from_kernels_of_triton"] = performance_model.version_here() if predicted else None
    report["timings"], report["left_out"] = [], []
    for name, D, measure in _measurements(device, sizes, seed):
        if time.monotonic() - start > seconds:
            report["left_out"].append(f"{name} D={D}: out of time")
            continue
        found = {"operation": name, "features": D, **measure()}
        if (name, D) in predicted:
            found["predicted_seconds"] = predicted[name, D]
        for rate, ceiling in (("flops_per_second", found.get("ceiling")), ("bytes_per_second", "copy")):
            if rate in found and ceiling in report["ceilings"]:
                found[f"fraction_of_{ceiling}"] = found[rate] / report["ceilings"][ceiling]
        report["timings"].append(found)
        say(json.dumps(found))
    report["fits"] = []
    try:
        for D in sizes.features:
            for found in fits(device, sizes.groups, sizes.group, D, max(8, sizes.sweeps // 10), seed):
                report["fits"].append(found)
                say(json.dumps(found))
            if time.monotonic() - start > seconds:
                report["left_out"].append(f"fits after D={D}: out of time")
                break
        if sizes.chain_groups and time.monotonic() - start > 0.5 * seconds:
            report["left_out"].append("protocol converged: out of time")
        elif sizes.chain_groups:
            save(report)
            found = chains(device, sizes.chain_groups, sizes.group, sizes.features[0], seed)
            report["fits"].append(found)
            say(json.dumps(found))
    except ModuleNotFoundError as problem:  # what `classfit` needs beyond the kernels
        report["left_out"].append(f"fits: {problem}")
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


def timed(call: Callable[[], Any], device: str, repeats: int, warm_up: int = 2) -> dict[str, float]:
    """Seconds of a call by device events: median, least and most."""
    for _ in range(warm_up):
        call()
    seconds = []
    for _ in range(repeats):
        if device == "cpu":
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        else:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begin.record()
            call()
            end.record()
            torch.cuda.synchronize()
            seconds.append(begin.elapsed_time(end) / 1e3)
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds), "repeats": repeats}


def _seconds(operation: str, device: str, repeats: int, *arguments: Any, **options: Any) -> dict[str, Any]:
    """Of an operation on the engine alone, and behind its argument checks, which take about as long as a small one."""
    engine = importlib.import_module("kernels.triton")
    alone = functools.partial(getattr(engine, operation), *arguments, **options)
    checked = functools.partial(getattr(kernels, operation), *arguments, **options, engine="triton")
    return {
        "seconds": timed(alone, device, repeats),
        "seconds_with_argument_checks": timed(checked, device, repeats)["median"],
    }


def _measurements(device: str, sizes: Sizes, seed: int) -> list[tuple[str, int, Callable[[], dict[str, Any]]]]:
    out: list[tuple[str, int, Callable[[], dict[str, Any]]]] = []
    for D in sizes.features:
        out.append(("mixture density", D, lambda D=D: _time_mixture(device, sizes, D, seed)))
        out.append(("EM statistics", D, lambda D=D: _time_em(device, sizes, D, seed)))
        out.append(("component statistics", D, lambda D=D: _time_component_statistics(device, sizes, D, seed)))
        for block_size in (1, 4):
            name = "Gibbs sweeps" + (f", blocks of {block_size}" if block_size > 1 else "")
            out.append((name, D, lambda D=D, b=block_size: _time_gibbs(device, sizes, D, b, seed)))
    return out


def _made_mixture(N: int, M: int, D: int, device: str, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Points, log weights, means, factors of precisions and of covariances, made on the device."""
    random = torch.Generator(device).manual_seed(seed)
    chol = 0.1 * torch.randn(M, D, D, device=device, generator=random).tril(-1) / math.sqrt(D)
    chol += torch.eye(D, device=device)
    factor = torch.linalg.solve_triangular(chol, torch.eye(D, device=device).expand(M, D, D), upper=False).tril()
    mean = torch.randn(M, D, device=device, generator=random)
    x = mean[torch.arange(N, device=device) % M] + torch.randn(N, D, device=device, generator=random)
    log_weight = torch.randn(M, device=device, generator=random).log_softmax(0)
    return x, log_weight, mean, factor.contiguous(), chol


def _time_mixture(device: str, sizes: Sizes, D: int, seed: int) -> dict[str, Any]:
    N, M = sizes.points, sizes.components
    x, log_weight, mean, factor, chol = _made_mixture(N, M, D, device, seed)
    few = x[: sizes.peer_points]

    def ours(x: Tensor = x) -> Tensor:
        return kernels.mixture_log_density(x, log_weight, mean, factor, engine="triton")

    found = _seconds("mixture_log_density", device, sizes.repeats, x, log_weight, mean, factor)
    median = found["seconds"]["median"]
    flops = float(N) * M * D * (D + 1)
    traffic = 4.0 * (N * D + M * (D * D + D + 1) + N)
    rates = {
        "points": N, "components": M, **found, "flops": flops, "bytes": traffic, "ceiling": "matmul_tf32",
        "flops_per_second": flops / median, "bytes_per_second": traffic / median,
    }  # fmt: skip

    def distributions() -> Tensor:
        components = torch.distributions.MultivariateNormal(mean, scale_tril=chol, validate_args=False)
        weights = torch.distributions.Categorical(logits=log_weight, validate_args=False)
        return torch.distributions.MixtureSameFamily(weights, components, validate_args=False).log_prob(few)

    peers = {
        "torch.distributions": _peer(distributions, ours(few), median, device, N / len(few)),
        # On all points: it goes through the components in a loop, which few points would not fill.
        "scikit-learn": _peer(lambda: _scikit_learn(x, log_weight, mean, factor), ours(), median, device, 1.0),
    }
    return rates | {"peers": peers}


def _scikit_learn(x: Tensor, log_weight: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """score_samples of scikit-learn's mixture by its array API, on the device of x."""
    from sklearn import config_context
    from sklearn.mixture import GaussianMixture

    model = GaussianMixture(len(mean))
    model.weights_, model.means_, model.n_features_in_ = log_weight.exp(), mean, x.shape[1]
    model.precisions_cholesky_, model.covariances_ = factor.mT.contiguous(), factor
    with config_context(array_api_dispatch=True):
        return torch.as_tensor(model.score_samples(x))


def _peer(call: Callable[[], Tensor], expected: Tensor, ours: float, device: str, scale: float) -> dict[str, Any]:
    """Time of a peer on some of the points, and how many times as long it would take on all; or why there is none."""
    try:
        error = float((call().to(expected.device) - expected).abs().max())
        seconds = timed(call, device, repeats=3, warm_up=1)["median"]
    except Exception as problem:  # not installed, too old for the array API, out of memory: it is said
        return {"error": f"{type(problem).__name__}: {problem}"[:200]}
    return {
        "seconds_for_part": seconds,
        "part": 1 / scale,
        "ratio": seconds * scale / ours,
        "largest_difference": error,
    }


def _time_em(device: str, sizes: Sizes, D: int, seed: int) -> dict[str, Any]:
    G, N = sizes.groups, sizes.groups * sizes.group
    M = G * sizes.per_group
    x, _, mean, factor, _ = _made_mixture(N, M, D, device, seed)
    groups = torch.arange(G + 1, device=device)
    offsets = {"group_offsets": groups * sizes.group, "component_offsets": groups * sizes.per_group}
    log_weight = torch.full((M,), -math.log(sizes.per_group), device=device)
    found = _seconds("em_statistics", device, sizes.repeats, x, log_weight, mean, factor, **offsets)
    median = found["seconds"]["median"]

    def batched() -> Tensor:
        """The same by torch's batched products, float32."""
        K = sizes.per_group
        difference = x.view(G, 1, sizes.group, D) - mean.view(G, K, 1, D)
        white = difference @ factor.view(G, K, D, D).mT
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1).view(G, K, 1)
        joint = log_det - 0.5 * (white.square().sum(-1) + D * LOG_TWO_PI)
        r = joint.softmax(1)
        shift = (r[..., None] * difference).sum(2) / r.sum(-1, keepdim=True)
        centred = difference - shift[:, :, None]
        return (r[..., None] * centred).mT @ centred

    # Its responsibilities differ from ours in float32: it is a yardstick, no proof.
    seconds = timed(batched, device, sizes.repeats)["median"]
    flops = float(N) * sizes.per_group * 2 * D * (D + 1)
    return {
        "groups": G, "points": N, "components": M, **found, "flops": flops, "ceiling": "matmul_tf32",
        "flops_per_second": flops / median,
        "peers": {"torch, batched": {"seconds": seconds, "ratio": seconds / median}},
    }  # fmt: skip


def _time_component_statistics(device: str, sizes: Sizes, D: int, seed: int) -> dict[str, Any]:
    G, N, K = sizes.groups, sizes.groups * sizes.group, sizes.per_group
    x = _made_mixture(N, K, D, device, seed)[0]
    labels = torch.arange(N, device=device) % K
    offsets = torch.arange(G + 1, device=device) * sizes.group
    found = _seconds("component_statistics", device, sizes.repeats, x, labels, K, group_offsets=offsets)
    traffic = 4.0 * N * D + 8.0 * G * K * (D * D + D + 1)
    rate = traffic / found["seconds"]["median"]
    return {"groups": G, "points": N, **found, "bytes": traffic, "bytes_per_second": rate}


def _time_gibbs(device: str, sizes: Sizes, D: int, block_size: int, seed: int) -> dict[str, Any]:
    """A whole fit by the paper's protocol, from random labels; random numbers come from the device, timed apart."""
    G, n, T = sizes.groups, sizes.group, sizes.sweeps
    N = G * n
    random = torch.Generator(device).manual_seed(seed)
    centres = 5 * torch.randn(G, sizes.per_group, D, device=device, generator=random)
    member = torch.randint(sizes.per_group, (G, n), device=device, generator=random)
    x = centres[torch.arange(G, device=device)[:, None], member] + torch.randn(G, n, D, device=device, generator=random)
    mean, variance = x.mean(1).double(), x.double().var(1, unbiased=False)
    x = x.view(N, D)
    ones = torch.ones(G, dtype=torch.float64, device=device)
    prior = NIWPrior(mean, 0.01 * ones, (D + 2) * ones, torch.diag_embed(variance / 6 ** (2 / D)))
    labels = torch.randint(min(6, n), (G, n), device=device, generator=random)
    labels = torch.cat([torch.unique(own, return_inverse=True)[1] for own in labels])
    offsets = torch.arange(G + 1, device=device) * n

    def numbers() -> tuple[Tensor, Tensor, AlphaNoise]:
        order = torch.rand(T, G, n, device=device, generator=random).argsort(-1).view(T, N)
        uniforms = torch.rand(T, N, device=device, generator=random, dtype=torch.float64)
        beta, gamma = (torch.empty(T, k, device=device, dtype=torch.float64) for k in (N, N + G))
        choice = torch.rand(T, G, device=device, generator=random, dtype=torch.float64)
        return (
            order,
            uniforms,
            AlphaNoise(beta.exponential_(generator=random), gamma.exponential_(generator=random), choice),
        )

    random_seconds = timed(numbers, device, repeats=1, warm_up=1)["median"]
    order, uniforms, noise = numbers()
    arguments = (GibbsState(labels, ones.clone()), x, order, uniforms, noise)
    options = {"prior": prior, "group_offsets": offsets, "block_size": block_size}
    engine = importlib.import_module("kernels.triton")
    engine.gibbs_sweep(GibbsState(labels, ones.clone()), x, order[0], uniforms[0], **options)  # compiled here
    states: list[GibbsState] = []
    sweeps = timed(lambda: states.append(engine.gibbs_sweep(*arguments, **options)), device, repeats=2, warm_up=0)
    whole = timed(lambda: kernels.gibbs_sweep(*arguments, **options, engine="triton"), device, repeats=1, warm_up=0)
    last = states[-1].labels[-1].view(G, n)
    return {
        "groups": G, "points": N, "sweeps": T, "block_size": block_size, "seconds": sweeps,
        "seconds_with_argument_checks": whole["median"], "seconds_of_random_numbers": random_seconds,
        "components": float((last.amax(1) + 1).double().mean()),
        "two_runs_bitwise_equal": all(map(torch.equal, states[0], states[1])),
    }  # fmt: skip


def _predictions(device: str) -> dict[tuple[str, int], float]:
    """Of the performance model, where it knows this GPU."""
    if device == "cpu":
        return {}
    name = next((name for name in performance_model.GPUS if name in torch.cuda.get_device_name()), None)
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
    print(f"{'Every check passed' if report['passed'] else 'A CHECK FAILED'}. Stored {path}")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
