"""Every Triton kernel for every target, compiled without a GPU: nothing spills, and tensor cores do the work.

Compiling all of it takes minutes. So the table that `python -m kernels.aot` stores is held to the limits, always and
whole; it must belong to the code as it is now; and some kernels, others after each change, are compiled again and must
come out as stored. A version of Triton without a stored table gets these same kernels, held to the limits alone.
"""

import hashlib
import json
import os
import subprocess
import sys

import pytest

triton = pytest.importorskip("triton")

from kernels import aot  # noqa: E402  (without Triton it cannot be imported)
from kernels.triton.components import PACKED  # noqa: E402
from kernels.triton.gaussian_log_density import BLOCKS as OF_COMPONENTS  # noqa: E402
from kernels.triton.mixture_log_density import BLOCKS as OF_MIXTURES  # noqa: E402

TARGETS = ["sm_80", "sm_90", "sm_100", "gfx942"]
ON_TENSOR_CORES = ["gaussian_log_density", "mixture_log_density", "em_statistics", "component_statistics"]
MODULES = [*aot.MODULES]
NO_PRODUCTS = ("em layout", "em log-likelihood", "em merge")
N_COMPILED_AGAIN = 8
MULTIPROCESSOR_REGISTERS = 65536
TABLES = sorted(aot.FOLDER.glob("triton-*.json"))
NEWEST = max((tuple(map(int, path.stem.split("-")[1].split("."))) for path in TABLES), default=())
ALL_TABLES = pytest.mark.parametrize(
    "table", [json.loads(path.read_text()) for path in TABLES], ids=lambda t: t["triton"]
)


def excused(version, kernel):
    """Spills that are known of an older version of Triton. The newest has none."""
    label, target = kernel["label"], kernel["target"]
    if version != "3.6.0":
        return False
    return (
        (target == "sm_100" and "fp64" in label)  # its assembler has no float64 tensor-core instruction for sm_100
        or (target == "sm_100" and kernel["module"] == "component_statistics")  # in float64 too
        or (target == "sm_100" and label == "em joint fp32 D=128")  # 3 stores and 4 loads, for an occupancy
        or (target == "sm_100" and label == "gaussian mixture fp32 D=16")  # 1 store and 2 loads, likewise
        or (target == "sm_90" and label.startswith("gibbs") and "block=32" in label)
        or (target == "sm_90" and label == "em joint fp64 D=64")  # 8 stores and 4 loads
    )


def run(*command):
    """In a process of its own, since the interpreter, which other tests use, excludes the compiler."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, check=False)


def label(kernel):
    return f"{kernel['label']} {kernel['target']}"


def bad(version, kernels):
    """Problems by kernel; of a version with excuses, those for spills aside."""
    found = {label(k): aot.Compiled(**k).problems() for k in kernels}
    excuse = {label(k) for k in kernels if excused(version, k)}
    return {
        name: problems
        for name, problems in found.items()
        if problems and not (name in excuse and all(problem.startswith("spills") for problem in problems))
    }


def of_target(table, module, target):
    return [k for k in table["kernels"] if (k["module"], k["target"]) == (module, target)]


# ---------------------------------------------------------------- the stored tables


def test_the_newest_table_needs_no_excuse():
    version = ".".join(map(str, NEWEST))
    assert not excused(version, {"label": "gaussian density fp64 D=64", "target": "sm_100", "module": "m"})


@ALL_TABLES
def test_the_table_belongs_to_this_code(table):
    now = {module: aot.fingerprint(module) for module in MODULES}
    changed = [module for module in MODULES if table["fingerprints"][module] != now[module]]
    assert changed == [], f"run `python -m kernels.aot` with Triton {table['triton']}: these changed"
    stored = [(k["module"], label(k), k["constexprs"], k["warps"]) for k in table["kernels"]]
    shipped = [
        (module, f"{case.label} {case.target}", case.constexprs, case.options["num_warps"])
        for module in MODULES
        for case in aot.cases(module)
    ]
    assert stored == shipped
    assert table["commit"]


def test_factors_are_packed_as_the_kernels_read_them():
    tables = [*OF_COMPONENTS.items(), *OF_MIXTURES.items()]
    assert sorted(map(str, PACKED)) == sorted({str((*key, blocks.features)) for key, blocks in tables})


@ALL_TABLES
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("module", MODULES)
def test_every_entry_fits(table, module, target):
    kernels = of_target(table, module, target)
    assert {k["constexprs"]["DP"] for k in kernels if "DP" in k["constexprs"]} == {16, 32, 64, 128}
    # Compiles, spills nothing, and stays within the target's registers and shared memory.
    assert bad(table["triton"], kernels) == {}
    assert all(k["registers"] > 0 and k["instructions"] > 50 for k in kernels)


@ALL_TABLES
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("module", ON_TENSOR_CORES)
def test_products_run_on_tensor_cores(table, module, target):
    kernels = [k for k in of_target(table, module, target) if not (excused(table["triton"], k) and target == "sm_100")]
    kernels = [k for k in kernels if not k["label"].startswith(NO_PRODUCTS)]
    expected = {
        "sm_80": ("HMMA.1688.F32.TF32", "DMMA"),
        "sm_90": ("HGMMA", "HMMA.1688.F32.TF32", "DMMA"),
        "sm_100": ("UTCHMMA", "HMMA.1688.F32.TF32", "DMMA"),
        "gfx942": ("v_mfma_f32", "v_mfma_f64"),
    }[target]
    assert kernels or table["triton"] == "3.6.0"
    assert [label(k) for k in kernels if not any(name.startswith(expected) for name in k["tensor_core"])] == []
    # In a loop, not beside it.
    assert [label(k) for k in kernels if not any(loop["tensor_core"] for loop in k["loops"])] == []


@ALL_TABLES
def test_two_mixture_programs_share_a_multiprocessor(table):
    """One waits for its tensor cores or its components while the other works: the estimate of its speed rests on it.

    Triton 3.8 takes 156 registers a thread where the others take 127: only one fits.
    """
    programs = 1 if table["triton"] == "3.8.0" else 2
    (kernel,) = [k for k in table["kernels"] if label(k) == "gaussian mixture fp32 D=64 sm_90"]
    assert programs * kernel["registers"] * kernel["warps"] * 32 <= MULTIPROCESSOR_REGISTERS
    assert programs * (kernel["shared"] + 1024) <= 228 * 1024
    assert {name.split(".")[0] for name in kernel["tensor_core"]} == {"HGMMA"}


# ---------------------------------------------------------------- some kernels, compiled again


def test_some_kernels_come_out_as_stored():
    code = """
import json, sys
from kernels import aot
jobs = json.loads(sys.argv[1])
print(json.dumps([aot.compile_case(module, index)._asdict() for module, index in jobs]))
"""
    jobs = [(module, index) for module in MODULES for index in range(len(aot.cases(module)))]
    state = "".join(aot.fingerprint(module) for module in MODULES)
    jobs.sort(key=lambda job: hashlib.sha256(f"{job}{state}".encode()).digest())
    # The one that the estimates rest on, and some that follow from the code.
    mixture = next(i for i, c in enumerate(aot.cases("mixture_log_density")) if c.label.endswith("fp32 D=64"))
    done = run("-c", code, json.dumps([("mixture_log_density", mixture), *jobs[: N_COMPILED_AGAIN - 1]]))
    assert done.returncode == 0, done.stderr
    compiled = json.loads(done.stdout)
    assert bad(triton.__version__, compiled) == {}
    table = aot.stored()
    if table is None:
        pytest.skip(f"{len(compiled)} kernels compile within limits, but no table of this version of Triton is stored")
    stored = {label(k): k for k in table["kernels"]}
    assert compiled == [stored[label(k)] for k in compiled]


@pytest.fixture(scope="module")
def compiled_pointers():
    """By target: problems of a kernel that has nothing but pointers, what is known of them, and what would be."""
    code = """
import json
from triton.compiler import make_backend
from kernels import aot
source, seen, found = aot.ASTSource, [], {}
aot.ASTSource = lambda *args: seen.append(args[3]) or source(*args)
for index, case in enumerate(aot.cases("em_statistics")):
    if case.label == "em log-likelihood fp64":
        seen.clear()
        problems = aot.compile_case("em_statistics", index).problems()
        launched = make_backend(aot.LIMITS[case.target].gpu).parse_attr("DS")
        as_launched = seen == [{(i,): launched for i in range(4)}]
        found[case.target] = problems, as_launched, repr((seen, launched))
print(json.dumps(found))
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("target", TARGETS)
def test_pointers_are_as_the_launcher_finds_them(target, compiled_pointers):
    """Aligned tensors below 2 GB: what each backend of Triton makes of these is what the kernels are compiled for."""
    problems, as_launched, words = compiled_pointers[target]
    assert problems == []
    assert as_launched, words


# ---------------------------------------------------------------- what the report would notice


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"spill_loads": 1}, "spills (1 loads, 0 stores)"),
        ({"registers": 256, "warps": 4}, "256 registers a thread are more than 255"),
        ({"warps": 32}, "131072 registers a program are more than 65536"),
        ({"shared": 232449}, "232449 bytes of shared memory are more than 232448"),
        ({"error": "RuntimeError: no"}, "does not compile: RuntimeError: no"),
        ({"target": "gfx942", "registers": 264}, "135168 registers a program are more than 131072"),
    ],
)
def test_problems_are_seen(changed, words):
    good = aot.Compiled("m", "k", "sm_90", {}, warps=8, registers=128, shared=1000)
    assert good.problems() == []
    assert good._replace(**changed).problems() == [words]


def test_loops_are_told_apart():
    # 0..9, within it 2..4 (entered twice, from 3 and from 4) and 6..7; then 11..12.
    found = aot._loops([(2, 3), (2, 4), (6, 7), (0, 9), (11, 12)], [i in (3, 8) for i in range(14)])
    assert [tuple(loop.values()) for loop in found] == [(0, 5, 1), (1, 3, 1), (1, 2, 0), (0, 2, 0)]


def test_the_fingerprint_is_of_the_code(tmp_path, monkeypatch):
    monkeypatch.setattr(aot, "__file__", str(tmp_path / "aot.py"))
    asked = [aot.Case("op", "sm_90", None, {"x_ptr": "*fp32"}, {"DP": 16}, {"num_warps": 4})]
    monkeypatch.setattr(aot, "cases", lambda module: asked)
    (tmp_path / "triton").mkdir()

    def of(common, op, records="C = tl.constexpr(1)\n"):
        (tmp_path / "triton" / "records.py").write_text(records)
        (tmp_path / "triton" / "common.py").write_text(common)
        (tmp_path / "triton" / "op.py").write_text(op)
        return aot.fingerprint("op")

    one, two = "A = tl.constexpr(1)\n", "A = tl.constexpr(2)\n"
    first = of(one, '"""Words."""\nB = tl.constexpr(2)  # words\n')
    assert of(one, '"""Others."""\nB = tl.constexpr(2)\n') == first
    assert of(one, "B = tl.constexpr(3)\n") != first
    assert of(two, "B = tl.constexpr(2)\n") != first
    assert of(one, "B = tl.constexpr(2)\n", "C = tl.constexpr(3)\n") != first
    assert of(one, "B = tl.constexpr(2)\nHOST = 1\n\ndef host():\n    return 1\n") == first
    device = "B = tl.constexpr(2)\n\n{}\ndef device():\n    return {}\n"
    for decorator in ("@triton.jit", "@triton.jit(do_not_specialize=B)"):
        there = of(one, device.format(decorator, 1))
        assert first != there != of(one, device.format(decorator, 2))
    asked[0] = asked[0]._replace(options={"num_warps": 8})
    assert of(one, "B = tl.constexpr(2)\n") != first


def test_a_kernel_that_does_not_compile_is_reported(tmp_path):
    (tmp_path / "broken.py").write_text(
        "import triton, triton.language as tl\n"
        "@triton.jit\n"
        "def kernel(x_ptr, D: tl.constexpr):\n"
        "    tl.static_assert(D > 99)\n"
        "    tl.store(x_ptr, 0.0)\n"
    )
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import broken
from kernels import aot
case = aot.Case("broken", "sm_90", broken.kernel, {{"x_ptr": "*fp32"}}, {{"D": 1}}, {{"num_warps": 1}})
aot.cases = lambda module: [case]
(problem,) = aot.compile_case("m", 0).problems()
assert problem.startswith("does not compile: CompileTimeAssertionFailure"), problem
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr


def test_the_interpreter_is_refused():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "kernels.aot"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert "the interpreter and the compiler cannot run in one process" in done.stderr
