"""Compile every Triton kernel with every entry of its block-size table for every target, and read the machine code.

    python -m kernels.aot [--target sm_90 ...] [--only TEXT] [--output FILE]

No GPU is needed: the compilers and NVIDIA's disassembler come with Triton. Prints a table and, if everything was
compiled, stores it as `kernels/aot_tables/triton-VERSION.json`: what each kernel takes (registers, shared memory,
stack), what it spills, its tensor-core instructions, and its loops. The block sizes in `kernels/triton` were chosen
from this table, the tests hold it to the limits of each target, and `benchmarks.performance_model` predicts speeds
from it.
"""

import argparse
import ast
import hashlib
import importlib
import json
import os
import re
import subprocess
import tempfile
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

FOLDER = Path(__file__).parent / "aot_tables"
MODULES = (
    "components",
    "gaussian_log_density",
    "mixture_log_density",
    "em_statistics",
    "component_statistics",
    "gibbs_sweep",
    "split_merge",
    "log_joint",
)


class Limits(NamedTuple):
    """What one program may take."""

    gpu: GPUTarget
    registers: int
    """Of a thread."""
    register_file: int
    """Registers of a multiprocessor, for all threads of a program."""
    shared: int
    """Bytes."""


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
    loops: list[dict[str, int]] = []  # noqa: RUF012
    """In program order: `depth` (0 outermost), `instructions` and `tensor_core` ones, inner loops' not counted."""

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
    return importlib.import_module(f"kernels.triton.{module}").aot_cases()


def compile_case(module: str, index: int) -> Compiled:
    """Compile the case of that index and measure it; errors of the compiler are recorded, not raised."""
    case = cases(module)[index]
    result = Compiled(module, case.label, case.target, case.constexprs, case.options["num_warps"])
    signature = case.signature | dict.fromkeys(case.constexprs, "constexpr")
    gpu = LIMITS[case.target].gpu
    # Memory that torch allocates is aligned, and AMD's backend asks whether a tensor is below 2 GB: what the launcher
    # finds for nearly every pointer that these kernels are given.
    found = [["tt.divisibility", 16]] + ([["tt.pointer_range", 32]] if gpu.backend == "hip" else [])
    names = case.kernel.arg_names
    pointers = {(i,): found for i, name in enumerate(names) if signature[name].startswith("*")}
    source = ASTSource(case.kernel, {name: signature[name] for name in names}, case.constexprs, pointers)
    try:
        compiled = triton.compile(source, target=gpu, options=case.options)
    except Exception as error:  # the compiler raises what it likes, down to bare RuntimeError
        return result._replace(error=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    measured = _read_amd(compiled.asm["amdgcn"]) if case.target == "gfx942" else _read_nvidia(compiled.asm["cubin"])
    return result._replace(shared=compiled.metadata.shared, **measured)


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
    index = {int(at, 16): i for i, (at, _, _, _) in enumerate(instructions)}
    last_exit = max(i for i, name in enumerate(names) if name == "EXIT")
    jumps = []
    for i, (_, name, _, operands) in enumerate(instructions):
        to = re.search(r"0x([0-9a-f]+)", operands) if name == "BRA" else None
        # Behind the last exit are waits, moved out of the way, that jump back to where they were asked for: no loops.
        if to and i <= last_exit and index.get(int(to[1], 16), i) < i:
            jumps.append((index[int(to[1], 16)], i))
    return {
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),  # type: ignore[index]
        "stack": int(re.search(r"STACK:(\d+)", usage)[1]),  # type: ignore[index]
        "spill_loads": names.count("LDL"),
        "spill_stores": names.count("STL"),
        "tensor_core": dict(Counter(name + mode for _, name, mode, _ in instructions if name.endswith("MMA"))),
        "instructions": len(names),
        "loops": _loops(jumps, [name.endswith("MMA") for name in names]),
    }


def _read_amd(assembly: str) -> dict[str, Any]:
    def field(name: str) -> int:
        return int(re.search(rf"\.{name}:\s*(\d+)", assembly)[1])  # type: ignore[index]

    # A label or an instruction a line, up to the end of the function: a kernel may end in several places.
    code = assembly[: assembly.index(".Lfunc_end0")]
    body = re.findall(r"^(?:(\.LBB\w+):|\s+([a-z]\w+)(.*))", code, re.MULTILINE)
    labels = {label: i for i, (label, _, _) in enumerate(body) if label}
    jumps = []
    for i, (_, name, operands) in enumerate(body):
        start = labels.get(operands.split(";")[0].strip()) if name.startswith(("s_cbranch", "s_branch")) else None
        if start is not None and start < i:
            jumps.append((start, i))
    names = [name for _, name, _ in body if name]
    return {
        "registers": field("vgpr_count"),
        "stack": field("private_segment_fixed_size"),
        "spill_loads": field("vgpr_spill_count"),
        "spill_stores": field("vgpr_spill_count"),
        "tensor_core": dict(Counter(name for name in names if name.startswith("v_mfma"))),
        "instructions": len(names),
        "loops": _loops(jumps, [name.startswith("v_mfma") for _, name, _ in body]),
    }


def _loops(jumps: list[tuple[int, int]], tensor_core: list[bool]) -> list[dict[str, int]]:
    """From backward jumps (to, from) in the code; jumps to the same place are one loop."""
    ends: dict[int, int] = {}
    for start, end in jumps:
        ends[start] = max(end, ends.get(start, end))
    spans = sorted(ends.items())
    out = []
    for start, end in spans:
        inner = [(a, b) for a, b in spans if start < a and b <= end]
        own = [i for i in range(start, end + 1) if not any(a <= i <= b for a, b in inner)]
        depth = sum(a < start and end <= b for a, b in spans)
        out.append({"depth": depth, "instructions": len(own), "tensor_core": sum(tensor_core[i] for i in own)})
    return out


def compile_all(targets: tuple[str, ...] = TARGETS, only: str = "", processes: int | None = None) -> list[Compiled]:
    """Compile every case whose module and label contain `only`, on all processors."""
    jobs = [
        (module, index)
        for module in MODULES
        for index, case in enumerate(cases(module))
        if case.target in targets and only in f"{module} {case.label}"
    ]
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(compile_case, *zip(*jobs, strict=True))) if jobs else []


def fingerprint(module: str) -> str:
    """Of all that the operation's compiled kernels come from: functions and constants of the device, and the cases with
    their block sizes. What the host alone reads is left out, and so are comments and docstrings."""
    digest = hashlib.sha256()
    for name in ("common", "records", module):
        tree = ast.parse((Path(__file__).parent / "triton" / f"{name}.py").read_text())
        tree.body = [node for node in tree.body if _of_the_device(node)]
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                kept = [n for n in body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
                node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
        digest.update(ast.unparse(tree).encode())
    for case in cases(module):
        digest.update(repr((case.label, case.target, case.signature, case.constexprs, case.options)).encode())
    return digest.hexdigest()


def _of_the_device(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign):  # kernels read no other globals
        return "tl.constexpr(" in ast.unparse(node.value)
    decorators = node.decorator_list if isinstance(node, ast.FunctionDef) else []
    return any(ast.unparse(decorator).startswith("triton.jit") for decorator in decorators)


def stored() -> dict[str, Any] | None:
    """The stored table of the installed version of Triton, or None."""
    path = FOLDER / f"triton-{triton.__version__}.json"
    return json.loads(path.read_text()) if path.exists() else None


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
        "problems",
    )
    out = Table(*columns, title=f"Triton {triton.__version__}, ahead of time", title_justify="left")
    for r in results:
        out.add_row(
            r.label,
            r.target,
            " ".join(f"{key}={value}" for key, value in r.constexprs.items()),
            *(str(number) for number in (r.warps, r.registers, r.shared, r.stack)),
            f"{r.spill_loads}/{r.spill_stores}",
            " ".join(f"{name}x{count}" for name, count in r.tensor_core.items()),
            "; ".join(r.problems()),
            style="red" if r.problems() else None,
        )
    return out


def write(results: list[Compiled], path: Path) -> None:
    """The results with the versions they belong to, as JSON; the file is replaced as a whole."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    head = {
        "triton": triton.__version__,
        "commit": commit or "unknown",
        "fingerprints": {module: fingerprint(module) for module in MODULES},
    }
    # A line a kernel, so that a change of the table can be read as a difference of files.
    lines = ",\n".join(json.dumps(r._asdict()) for r in results)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
        file.write(json.dumps(head, indent=1)[:-2] + f',\n "kernels": [\n{lines}\n]}}\n')
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kernels.aot", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this target (may be repeated)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only kernels whose label contains this")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table to this file instead")
    arguments = parser.parse_args()
    if INTERPRETED:
        parser.error("TRITON_INTERPRET is set: the interpreter and the compiler cannot run in one process")
    results = compile_all(tuple(arguments.target or TARGETS), arguments.only)
    console = Console(width=None if Console().is_terminal else 240)
    console.print(table(results))
    console.print(f"{len(results)} kernels, {sum(bool(r.problems()) for r in results)} with problems")
    path = arguments.output
    if path is None and not arguments.target and not arguments.only:
        path = FOLDER / f"triton-{triton.__version__}.json"
    if path is not None:
        write(results, path)
        console.print(f"Stored {path}")


if __name__ == "__main__":
    main()
