"""What the Triton kernels should take on four GPUs, from compiled code and public peaks: predictions, not measurements.

    python -m benchmarks.performance_model [--triton VERSION]

An operation's floor is the time in which the tensor cores, at their published peak, make the multiply-adds that the
formula needs (a factor is triangular: D (D + 1) / 2 a point and component; float32 on NVIDIA takes three products of
TF32), or in which the memory moves inputs and outputs once, whichever is longer. The prediction counts what the
compiled kernel does beyond that, from the table of `python -m kernels.aot`: for a tile of points and one component, a
multiprocessor needs

    max(products, instructions, shared memory, (products + instructions + barriers) / programs)   cycles

products: of whole blocks, at the peak rate. Instructions: those of the loop, of every warp, one a cycle on each of four
schedulers. Shared memory: what tensor cores and threads read and write, 128 bytes a cycle. Programs: how many fit, by
registers and shared memory; one fills the waits of another. The last, partly empty, round of programs is counted;
clocks that fall under load, and traffic from L2, are not, so it is rather the best that can happen than the likeliest.
Measured since, on an H200: densities take 2.1 times as long, Gibbs sweeps 1.0 and 1.4 times (`benchmarks.gpu_report`).
A Gibbs sweep is a chain of steps that wait for each other: its model counts them.
"""

import argparse
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "GPUS",
    "SHAPES",
    "Prediction",
    "in_words",
    "like",
    "load_kernels",
    "peers_in_words",
    "predict",
    "predict_gibbs",
    "stored_versions",
]

AOT = Path(__file__).parents[1] / "kernels" / "aot_tables"


class Gpu(NamedTuple):
    """A GPU as its maker publishes it, but for latencies; dense rates, in flop/s, bytes/s, Hz and bytes."""

    target: str
    multiprocessors: int
    clock: float
    """At which the peaks are stated."""
    single: float
    """Tensor cores on float32 data: TF32 on NVIDIA, float32 on AMD."""
    double: float
    """Tensor cores in float64."""
    memory: float
    l2: float
    registers: int
    """Of a multiprocessor, 32 bits each."""
    shared: int
    """Bytes of shared memory of a multiprocessor."""
    l1_cycles: int
    """From a load to its use, if L1 has the data: assumed, of the size that microbenchmarks find."""
    l2_cycles: int
    source: str


GPUS = {
    "A100": Gpu(
        "sm_80", 108, 1.41e9, 156e12, 19.5e12, 2.039e12, 40e6, 65536, 164 * 1024, 38, 270,
        "NVIDIA A100 Tensor Core GPU data sheet (SXM, 80 GB)",
    ),
    "H100": Gpu(
        "sm_90", 132, 1.83e9, 494.7e12, 67e12, 3.35e12, 50e6, 65536, 228 * 1024, 40, 270,
        "NVIDIA H100 Tensor Core GPU data sheet and architecture white paper (SXM5)",
    ),
    "B200": Gpu(
        "sm_100", 148, 1.86e9, 1.1e15, 40e12, 8e12, 126e6, 65536, 228 * 1024, 40, 300,
        "NVIDIA Blackwell architecture technical brief (HGX B200, 1,000 W)",
    ),
    "MI300X": Gpu(
        "gfx942", 304, 2.1e9, 163.4e12, 163.4e12, 5.3e12, 256e6, 4 * 512 * 64, 64 * 1024, 120, 450,
        "AMD Instinct MI300X data sheet; L2: its Infinity Cache",
    ),
}  # fmt: skip

LIKE = {"H200": "H100"}
"""GPUs whose kernels run as on another that the model knows: an H200 is an H100 with more and faster memory."""

SHAPES: dict[str, dict[str, int]] = {
    "mixture density": {"points": 50_000, "components": 12_000},
    "EM statistics": {"groups": 100, "points": 50_000, "components": 600},
    "Gibbs sweeps, 10 components": {"groups": 100, "group": 500, "sweeps": 400, "components": 10},
    "Gibbs sweeps, 50 components": {"groups": 100, "group": 500, "sweeps": 400, "components": 50},
}
"""The paper's: 100 classes of 500 points; 20 kept sweeps of 6 components are 12,000; EM with 6 components a class."""

FEATURES = (16, 64)
SHARED_BYTES_A_CYCLE = 128
L2_BYTES_A_CYCLE = 64
SCHEDULERS = 4
BARRIER_CYCLES = 30
LAUNCH_SECONDS = 13e-6
"""Of the host for an operation of torch, and for a Triton kernel: 12.6 and 25.8 us, measured beside an H200
(`results/gpu`), with torch 2.11 and Triton 3.6."""
TRITON_LAUNCH_SECONDS = 26e-6
EM_LAUNCHES = 7
"""Triton kernels of EM statistics; no operation of torch, as `tests/test_bench_gpu.py` counts in a trace."""


class Prediction(NamedTuple):
    operation: str
    gpu: str
    features: int
    flops: float
    """That the formula needs, once (TF32's three products count as one)."""
    bytes: float
    """Inputs and outputs, each once."""
    floor: float
    """Seconds; see the head of this file."""
    seconds: float
    """Predicted."""
    fraction: float
    """floor / seconds."""
    bound: str
    """What the time goes to."""
    programs: int
    """On a multiprocessor."""


def like(device: str) -> str | None:
    """The GPU in `GPUS` that a device of this name is, or runs as: of an "NVIDIA A100-SXM4-80GB" A100."""
    names = dict.fromkeys(GPUS) | LIKE
    found = next((name for name in names if re.search(rf"\b{name}\b", device)), None)
    return found and LIKE.get(found, found)


def stored_versions() -> list[str]:
    """Versions of Triton that a table of compiled kernels is stored of, the newest last."""
    versions = (path.stem.removeprefix("triton-") for path in AOT.glob("triton-*.json"))
    return sorted(versions, key=lambda version: [int(part) for part in version.split(".")])


def version_here() -> str:
    """That of the Triton installed here, if a table of it is stored; else the newest stored."""
    stored = stored_versions()
    try:
        import triton
    except ImportError:
        return stored[-1]
    return triton.__version__ if triton.__version__ in stored else stored[-1]


def load_kernels(version: str | None = None) -> dict[tuple[str, str], dict[str, Any]]:
    """By label and target, of the table stored of that version of Triton (by default `version_here`)."""
    table = json.loads((AOT / f"triton-{version or version_here()}.json").read_text())
    return {(k["label"], k["target"]): k for k in table["kernels"]}


def fitting_programs(kernel: dict[str, Any], gpu: Gpu) -> int:
    """Programs of a kernel that a multiprocessor holds at a time, by registers and shared memory."""
    lanes = 64 if gpu.target == "gfx942" else 32
    registers = -(-kernel["registers"] // 8) * 8 * kernel["warps"] * lanes
    return max(1, min(gpu.registers // registers, gpu.shared // (kernel["shared"] + 1024), 64 // kernel["warps"]))


def predict(
    name: str,
    kernels: dict[tuple[str, str], dict[str, Any]],
    operation: str,
    D: int,
    shape: dict[str, int] | None = None,
) -> Prediction:
    """A density or EM operation on the GPU of that name, of its shape in `SHAPES` or (a density) of another."""
    if operation == "mixture density":
        return _predict_mixture(name, kernels, D, shape or SHAPES[operation])
    return _predict_em(name, kernels, D)


def _predict_mixture(
    name: str, kernels: dict[tuple[str, str], dict[str, Any]], D: int, shape: dict[str, int]
) -> Prediction:
    gpu = GPUS[name]
    N, M = shape["points"], shape["components"]
    kernel = kernels[f"gaussian mixture fp32 D={D}", gpu.target]
    BN = kernel["constexprs"]["BN"]
    cycles, bound, programs = _whitening_cycles(kernel, gpu, D)
    splits = max(1, min(math.ceil(2048 / math.ceil(N / BN)), M // 8))
    grid = math.ceil(N / BN) * splits
    rounds = math.ceil(grid / (gpu.multiprocessors * programs))
    seconds = rounds * programs * math.ceil(M / splits) * cycles / gpu.clock + 3 * TRITON_LAUNCH_SECONDS
    flops = float(N) * M * D * (D + 1)
    traffic = 4.0 * (N * D + M * (D * (D + 1) // 2 + D + 1) + N)
    floor = max(flops * _split(gpu) / gpu.single, traffic / gpu.memory)
    return Prediction("mixture density", name, D, flops, traffic, floor, seconds, floor / seconds, bound, programs)


def _whitening_cycles(kernel: dict[str, Any], gpu: Gpu, D: int) -> tuple[float, str, int]:
    """`_cycles` for a tile of points and one component."""
    constants = kernel["constexprs"]
    BN, BK = constants["BN"], constants["BK"]
    products = _products(gpu, BN * D * (D + BK) // 2)
    # The tile is read once a component, the factor (its high and its low part) is written, and read by each half tile.
    factor_bytes = 4 * D * (D + BK) // 2 * (2 if constants["SPLIT"] else 1)
    shared = 4 * BN * D + factor_bytes * (1 + BN // 64 * (1.5 if constants["SPLIT"] else 1))
    return _cycles(kernel, gpu, products, _main_loop(kernel), shared)


def _main_loop(kernel: dict[str, Any]) -> int:
    """Instructions of the loop in which the products are."""
    return max(kernel["loops"], key=lambda loop: loop["tensor_core"])["instructions"]


def _predict_em(name: str, kernels: dict[tuple[str, str], dict[str, Any]], D: int) -> Prediction:
    """Log joint densities, then moments: two kernels, and five small ones whose launches are most of it."""
    gpu, shape = GPUS[name], SHAPES["EM statistics"]
    N, M, G = shape["points"], shape["components"], shape["groups"]
    joint, moments = kernels[f"em joint fp32 D={D}", gpu.target], kernels[f"em fp32 D={D}", gpu.target]
    joint_cycles, _, at_once = _whitening_cycles(joint, gpu, D)
    rounds = math.ceil(G * math.ceil(N / G / joint["constexprs"]["BN"]) / (gpu.multiprocessors * at_once))
    kernel_seconds = rounds * at_once * M / G * joint_cycles / gpu.clock
    BN = moments["constexprs"]["BN"]
    cycles, bound, programs = _cycles(moments, gpu, _products(gpu, BN * D * D), _main_loop(moments), 8 * BN * D)
    splits = math.ceil(1024 / M)
    tiles = math.ceil(N // G / BN / splits)
    rounds = math.ceil(M * splits / (gpu.multiprocessors * programs))
    kernel_seconds += rounds * programs * tiles * cycles / gpu.clock
    flops = float(N) * M / G * 2 * D * (D + 1)  # whitening, and the lower half of a scatter
    traffic = 4.0 * (N * D + 2 * M * (D * D + D + 1))
    floor = max(flops * _split(gpu) / gpu.single, traffic / gpu.memory)
    launches = EM_LAUNCHES * TRITON_LAUNCH_SECONDS
    seconds = kernel_seconds + launches
    bound = "launches" if kernel_seconds < launches else bound
    return Prediction("EM statistics", name, D, flops, traffic, floor, seconds, floor / seconds, bound, programs)


def _split(gpu: Gpu) -> int:
    return 1 if gpu.target == "gfx942" else 3


def _products(gpu: Gpu, multiply_adds: int) -> float:
    """Cycles of a multiprocessor's tensor cores for that many multiply-adds of float32 data."""
    return 2 * multiply_adds * _split(gpu) / (gpu.single / gpu.multiprocessors / gpu.clock)


def _cycles(
    kernel: dict[str, Any], gpu: Gpu, products: float, instructions: float, shared_bytes: float
) -> tuple[float, str, int]:
    """Cycles of a multiprocessor a tile (of one of its programs), what they go to, and the programs on it."""
    programs = fitting_programs(kernel, gpu)
    issue = instructions * kernel["warps"] / SCHEDULERS
    one_after_another = (products + issue + 8 * BARRIER_CYCLES) / programs
    parts = {
        "tensor cores": products,
        "instructions": issue,
        "shared memory": shared_bytes / SHARED_BYTES_A_CYCLE,
        "waits": one_after_another,
    }
    bound = max(parts, key=lambda part: parts[part])
    return parts[bound], bound, programs


def gibbs_cycles(gpu: Gpu, D: int, slots: int, groups: int) -> dict[str, float]:
    """Cycles of one point of a sweep, block size 1, by phase: each number is a count of steps that wait for each other.

    The counts are read off `kernels/triton/gibbs_sweep.py`. `slots` components hold points; one label in five changes.
    """
    special = 210  # a division, logarithm or exponential in float64: a dozen or two dependent operations
    reduction = 150  # in a warp, float64: five steps of shuffle (twice, for two words) and add
    across = 2 * reduction + BARRIER_CYCLES  # between warps too
    looks = math.ceil(slots / 32)
    # order, label; count, row of the Gram matrix; count, diagonal, both again; count, row of the Gram matrix
    visit = (
        (6 + 4 * looks) * gpu.l1_cycles + 4 * BARRIER_CYCLES + (2 + 2 * looks) * reduction + (6 + 4 * looks) * special
    )
    record = 8.0 * D * (D + 2)
    if groups * (slots + 1) * record < gpu.l2:
        arrival = record / L2_BYTES_A_CYCLE
    else:
        arrival = record * min(groups, gpu.multiprocessors) / (gpu.memory / gpu.clock)
    rate = gpu.double / gpu.multiprocessors / gpu.clock
    product = 2 * 16 * D * (D + 16) / rate
    prepare = (slots + 1) * (gpu.l2_cycles + arrival + product) / 16
    # label, count, P; two reductions across warps; three barriers; P goes back; two divisions and a logarithm
    move = 3 * gpu.l2_cycles + 2 * across + 3 * BARRIER_CYCLES + arrival + 3 * special
    return {"visit": visit, "prepare": prepare, "rebuild": move, "commit": 0.2 * 2 * move}


def predict_gibbs(name: str, operation: str, D: int, shape: dict[str, int] | None = None) -> Prediction:
    """All sweeps of all groups in one launch, of the shape in `SHAPES` or another: as many groups at a time as there
    are multiprocessors."""
    gpu, shape = GPUS[name], shape or SHAPES[operation]
    G, n, T, slots = shape["groups"], shape["group"], shape["sweeps"], shape["components"]
    cycles = gibbs_cycles(gpu, D, slots, G)
    rounds = math.ceil(G / gpu.multiprocessors)
    seconds = rounds * n * T * sum(cycles.values()) / gpu.clock
    # A density under each slot, and a component's update for a point that moves in and out.
    flops = float(G * n * T) * ((slots + 1) * (D * (D + 1) + 3 * D) + 2 * 4 * D * D)
    traffic = float(G * n) * (8 * D + T * 40)
    floor = max(flops / gpu.double, traffic / gpu.memory)
    bound = max(cycles, key=lambda phase: cycles[phase])
    return Prediction(operation, name, D, flops, traffic, floor, seconds, floor / seconds, f"latency: {bound}", 1)


def predictions(version: str | None = None) -> list[Prediction]:
    """Every operation and number of features on every GPU, with kernels as in `load_kernels`."""
    kernels = load_kernels(version)
    out = []
    for operation in SHAPES:
        for D in FEATURES:
            for name in GPUS:
                if operation.startswith("Gibbs"):
                    out.append(predict_gibbs(name, operation, D))
                else:
                    out.append(predict(name, kernels, operation, D))
    return out


def markdown(rows: list[Prediction], version: str) -> str:
    """A table for `kernels/README.md`: a row an operation and D, a column a GPU."""
    lines = [f"| predicted, not measured (Triton {version}) | D | " + " | ".join(GPUS) + " |"]
    lines.append("| --- | ---: |" + " ---: |" * len(GPUS))
    for operation in SHAPES:
        for D in FEATURES:
            own = [row for row in rows if (row.operation, row.features) == (operation, D)]
            cells = []
            for row in own:
                fraction = f" ({row.fraction:.0%})" if operation == "mixture density" else ""
                cells.append(in_words(row.seconds) + fraction)
            lines.append(f"| {operation} | {D} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def in_words(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds >= 0.1 else f"{seconds * 1e3:.2g} ms"


def peers_in_words(peers: Mapping[str, Mapping[str, Any]]) -> str:
    """How many times as long as ours each peer takes, of those whose ratio is known."""
    ratios = {name: peer["ratio"] for name, peer in peers.items() if "ratio" in peer}
    return "; ".join(f"{name}: {f'{r:,.0f}' if r >= 100 else f'{r:.3g}'} times as long" for name, r in ratios.items())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.performance_model", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--triton", choices=stored_versions(), help="whose compiled kernels; default: the installed, else the newest"
    )
    version = parser.parse_args().triton or version_here()
    rows = predictions(version)
    from rich.console import Console  # not at the top: `benchmarks.gpu` does without
    from rich.table import Table

    columns = ("operation", "GPU", "D", "Gflop", "MB", "floor", "predicted", "of floor", "time goes to", "programs")
    table = Table(*columns, title=f"Predicted, not measured, with Triton {version}", title_justify="left")
    for row in rows:
        table.add_row(
            row.operation, row.gpu, str(row.features), f"{row.flops / 1e9:.4g}", f"{row.bytes / 1e6:.4g}",
            in_words(row.floor), in_words(row.seconds), f"{row.fraction:.0%}", row.bound, str(row.programs),
        )  # fmt: skip
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table)
    console.print("Peaks from: " + "; ".join(f"{name}: {gpu.source}" for name, gpu in GPUS.items()))
    print(markdown(rows, version))


if __name__ == "__main__":
    main()
