"""Compile every Triton kernel with every entry of its block-size table for every target, and read the machine code.

    python -m kernels.aot [--target sm_90 ...] [--only TEXT] [--output FILE]

No GPU is needed: the compilers and NVIDIA's disassembler come with Triton. Prints a table and writes a JSON file: what
each kernel takes (registers, shared memory, stack), what it spills, its tensor-core instructions, and the length of its
longest loop, from which the block sizes in `kernels/triton` were chosen.
"""

import argparse
import importlib
import json
import os
import re
import subprocess
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import triton
from rich.console import Console
from rich.table import Table
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.triton.common import INTERPRETED, TARGETS, Case

MODULES = ("gaussian_log_density", "mixture_log_density", "em_statistics", "component_statistics", "gibbs_sweep")


class Limits(NamedTuple):
    """What one program may take. Registers: of a thread, and of all threads of a multiprocessor (AMD: SIMD lane)."""

    gpu: GPUTarget
    registers: int
    register_file: int
    shared: int


LIMITS = {
    "sm_80": Limits(GPUTarget("cuda", 80, 32), 255, 65536, 163 * 1024),
    "sm_90": Limits(GPUTarget("cuda", 90, 32), 255, 65536, 227 * 1024),
    "sm_100": Limits(GPUTarget("cuda", 100, 32), 255, 65536, 227 * 1024),
    "gfx942": Limits(GPUTarget("hip", "gfx942", 64), 512, 4 * 512 * 64, 64 * 1024),
}


class Compiled(NamedTuple):
    """One kernel with one entry of its table for one target."""

    module: str
    label: str
    target: str
    constexprs: dict[str, Any]
    warps: int
    stages: int
    error: str = ""
    """Why it does not compile; empty if it does."""
    registers: int = 0
    """Of a thread. gfx942: vector registers, accumulation registers included."""
    shared: int = 0
    """Bytes a program."""
    stack: int = 0
    """Bytes a thread."""
    spill_loads: int = 0
    """Instructions that load from the stack. gfx942: registers spilled."""
    spill_stores: int = 0
    tensor_core: dict[str, int] = {}  # noqa: RUF012  (an empty default that nothing changes)
    """Tensor-core (matrix-core) instructions by name."""
    instructions: int = 0
    loop: dict[str, int] = {}  # noqa: RUF012
    """Instructions of the longest innermost loop that holds tensor-core instructions (else of the longest), by name."""
    seconds: float = 0.0

    def problems(self) -> list[str]:
        """What must not be in a shipped configuration."""
        if self.error:
            return [f"does not compile: {self.error}"]
        limits = LIMITS[self.target]
        found = []
        if self.spill_loads or self.spill_stores:
            found.append(f"spills ({self.spill_loads} loads, {self.spill_stores} stores)")
        if self.registers > limits.registers:
            found.append(f"{self.registers} registers a thread are more than {limits.registers}")
        # Registers are handed out to warps in steps of 8 a thread.
        total = -(-self.registers // 8) * 8 * self.warps * limits.gpu.warp_size
        if total > limits.register_file:
            found.append(f"{total} registers a program are more than {limits.register_file}")
        if self.shared > limits.shared:
            found.append(f"{self.shared} bytes of shared memory are more than {limits.shared}")
        return found


def cases(module: str) -> list[Case]:
    """What the operation's file asks to be compiled."""
    return [Case(*case) for case in importlib.import_module(f"kernels.triton.{module}").aot_cases()]


def compile_case(module: str, index: int, target: str) -> Compiled:
    """Compile the case of that index and measure it; errors of the compiler are recorded, not raised."""
    case = cases(module)[index]
    result = Compiled(module, case.label, target, case.constexprs, case.num_warps, case.num_stages)
    signature = case.signature | dict.fromkeys(case.constexprs, "constexpr")
    # Memory that torch allocates is aligned: what the launcher finds for every pointer that these kernels are given.
    names = case.kernel.arg_names
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")}
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages, "enable_fp_fusion": True}
    source = ASTSource(case.kernel, {name: signature[name] for name in names}, case.constexprs, aligned)
    start = time.perf_counter()
    try:
        compiled = triton.compile(source, target=LIMITS[target].gpu, options=options)
    except Exception as error:  # the compiler raises what it likes, down to bare RuntimeError
        return result._replace(error=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    measured = _read_amd(compiled.asm["amdgcn"]) if target == "gfx942" else _read_nvidia(compiled.asm["cubin"])
    return result._replace(shared=compiled.metadata.shared, seconds=round(time.perf_counter() - start, 2), **measured)


def _read_nvidia(cubin: bytes) -> dict[str, Any]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage, sass = (
            subprocess.run([tool, flag, path], capture_output=True, text=True, check=True).stdout
            for flag in ("-res-usage", "-sass")
        )
    instructions = re.findall(
        r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)((?:\.\w+)*)\s*([^;]*);", sass, re.MULTILINE
    )
    names = [name for _, name, _, _ in instructions]
    address = [int(at, 16) for at, _, _, _ in instructions]
    loops = []
    for i, (_, name, _, operands) in enumerate(instructions):
        jump = re.search(r"0x([0-9a-f]+)", operands) if name == "BRA" else None
        if jump and int(jump[1], 16) < address[i]:
            loops.append(Counter(names[address.index(int(jump[1], 16)) : i + 1]))
    tensor_core = Counter(name + mode for _, name, mode, _ in instructions if name.endswith("MMA"))
    return {
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),  # type: ignore[index]
        "stack": int(re.search(r"STACK:(\d+)", usage)[1]),  # type: ignore[index]
        "spill_loads": names.count("LDL"),
        "spill_stores": names.count("STL"),
        "tensor_core": dict(tensor_core),
        "instructions": len(names),
        "loop": _longest(loops, lambda name: name.endswith("MMA")),
    }


def _read_amd(assembly: str) -> dict[str, Any]:
    def field(name: str) -> int:
        return int(re.search(rf"\.{name}:\s*(\d+)", assembly)[1])  # type: ignore[index]

    lines = re.findall(r"^(?:(\.LBB\w+):|\s+([a-z]\w+)(.*))", assembly, re.MULTILINE)
    body = lines[: next((i for i, line in enumerate(lines) if line[1] == "s_endpgm"), len(lines)) + 1]
    labels = {label: i for i, (label, _, _) in enumerate(body) if label}
    loops = []
    for i, (_, name, operands) in enumerate(body):
        start = labels.get(operands.strip()) if name.startswith(("s_cbranch", "s_branch")) else None
        if start is not None and start < i:
            loops.append(Counter(line[1] for line in body[start : i + 1] if line[1]))
    names = [name for _, name, _ in body if name]
    return {
        "registers": field("vgpr_count"),
        "stack": field("private_segment_fixed_size"),
        "spill_loads": field("vgpr_spill_count"),
        "spill_stores": field("vgpr_spill_count"),
        "tensor_core": dict(Counter(name for name in names if name.startswith("v_mfma"))),
        "instructions": len(names),
        "loop": _longest(loops, lambda name: name.startswith("v_mfma")),
    }


def _longest(loops: list[Counter[str]], is_tensor_core: Any) -> dict[str, int]:
    with_tensor_core = [loop for loop in loops if any(map(is_tensor_core, loop))]
    return dict(max(with_tensor_core or loops, key=lambda loop: loop.total(), default=Counter()).most_common())


def compile_all(targets: tuple[str, ...] = TARGETS, only: str = "", processes: int | None = None) -> list[Compiled]:
    """Compile every case whose module and label contain `only`, on all processors."""
    jobs = [
        (module, index, target)
        for module in MODULES
        for index, case in enumerate(cases(module))
        for target in case.targets
        if target in targets and only in f"{module} {case.label}"
    ]
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(compile_case, *zip(*jobs, strict=True))) if jobs else []


def table(results: list[Compiled]) -> Table:
    columns = (
        "kernel",
        "target",
        "blocks",
        "warps",
        "registers",
        "shared",
        "stack",
        "spills",
        "tensor core",
        "loop",
        "",
    )
    out = Table(*columns, title=f"Triton {triton.__version__}, ahead of time", title_justify="left")
    for r in results:
        blocks = " ".join(f"{key}={value}" for key, value in r.constexprs.items())
        tensor_core = " ".join(f"{name}x{count}" for name, count in r.tensor_core.items())
        problems = "; ".join(r.problems())
        out.add_row(
            r.label, r.target, blocks, str(r.warps), str(r.registers), str(r.shared), str(r.stack),
            f"{r.spill_loads}/{r.spill_stores}", tensor_core, str(sum(r.loop.values())), problems,
            style="red" if problems else None,
        )  # fmt: skip
    return out


def write(results: list[Compiled], path: Path) -> None:
    """The results with the versions they belong to, as JSON; the file is replaced as a whole."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    content = {
        "triton": triton.__version__,
        "commit": commit or "unknown",
        "kernels": [r._asdict() | {"problems": r.problems()} for r in results],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
        json.dump(content, file, indent=1)
    os.replace(file.name, path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kernels.aot", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this target (may be repeated)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only kernels whose label contains this")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/aot.json"), metavar="FILE")
    arguments = parser.parse_args()
    if INTERPRETED:
        parser.error("TRITON_INTERPRET is set: the interpreter and the compiler cannot run in one process")
    results = compile_all(tuple(arguments.target or TARGETS), arguments.only)
    write(results, arguments.output)
    console = Console(width=None if Console().is_terminal else 240)
    console.print(table(results))
    console.print(
        f"{len(results)} kernels, {sum(bool(r.problems()) for r in results)} with problems; {arguments.output}"
    )


if __name__ == "__main__":
    main()
