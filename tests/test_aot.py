"""Every Triton kernel, compiled for every target without a GPU: nothing spills, and tensor cores do the work."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

TARGETS = ["sm_80", "sm_90", "sm_100", "gfx942"]
ON_TENSOR_CORES = ["gaussian_log_density", "mixture_log_density", "em_statistics", "component_statistics"]
MODULES = [*ON_TENSOR_CORES, "gibbs_sweep"]
MULTIPROCESSOR_REGISTERS = 65536


def run(code_or_module, *arguments):
    """In a process of its own, since the interpreter, which other tests use, excludes the compiler."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, *code_or_module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Triton keeps what it compiled, by a hash of the source: only the first run after a change takes minutes."""
    path = tmp_path_factory.mktemp("aot") / "report.json"
    done = run(["-m", "kernels.aot"], "--output", str(path))
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


def label(kernel):
    return f"{kernel['label']} {kernel['target']}"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("module", MODULES)
def test_every_entry_of_the_tables_fits(report, module, target):
    kernels = [k for k in report["kernels"] if (k["module"], k["target"]) == (module, target)]
    assert {k["constexprs"]["DP"] for k in kernels} == {16, 32, 64, 128}
    # Compiles, spills nothing, and stays within the target's registers and shared memory.
    assert {label(k): k["problems"] for k in kernels if k["problems"]} == {}
    assert all(k["registers"] > 0 and k["instructions"] > 0 for k in kernels)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("module", ON_TENSOR_CORES)
def test_products_run_on_tensor_cores(report, module, target):
    kernels = [k for k in report["kernels"] if (k["module"], k["target"]) == (module, target)]
    expected = {
        "sm_80": ("HMMA.1688.F32.TF32", "DMMA"),
        "sm_90": ("HGMMA", "HMMA.1688.F32.TF32", "DMMA"),
        "sm_100": ("UTCHMMA", "HMMA.1688.F32.TF32", "DMMA"),
        "gfx942": ("v_mfma_f32", "v_mfma_f64"),
    }[target]
    slow = [label(k) for k in kernels if not any(name.startswith(expected) for name in k["tensor_core"])]
    assert kernels
    assert slow == []
    # In the loop, not beside it.
    assert all(any(name.startswith(("HMMA", "HGMMA", "UTC", "DMMA", "v_mfma")) for name in k["loop"]) for k in kernels)


def test_two_mixture_programs_share_a_multiprocessor(report):
    """One waits for its tensor cores or its components while the other works: the estimate of its speed rests on it."""
    (kernel,) = [k for k in report["kernels"] if label(k) == "gaussian mixture fp32 D=64 sm_90"]
    assert 2 * kernel["registers"] * kernel["warps"] * 32 <= MULTIPROCESSOR_REGISTERS
    assert 2 * (kernel["shared"] + 1024) <= 228 * 1024
    assert {name.split(".")[0] for name in kernel["tensor_core"]} == {"HGMMA"}


def test_the_report_names_its_versions(report):
    import triton

    assert report["triton"] == triton.__version__
    assert report["commit"]


def test_problems_are_seen():
    code = """
from kernels.aot import Compiled
good = Compiled("m", "k", "sm_90", {}, warps=8, stages=1, registers=128, shared=1000)
assert good.problems() == []
for changed, words in (
    ({"spill_loads": 1}, "spills (1 loads, 0 stores)"),
    ({"registers": 256, "warps": 4}, "256 registers a thread are more than 255"),
    ({"warps": 32}, "131072 registers a program are more than 65536"),
    ({"shared": 232449}, "232449 bytes of shared memory are more than 232448"),
    ({"error": "RuntimeError: no"}, "does not compile: RuntimeError: no"),
    ({"target": "gfx942", "registers": 264}, "270336 registers a program are more than 131072"),
):
    found = good._replace(**changed).problems()
    assert found == [words], (changed, found)
"""
    done = run(["-c", code])
    assert done.returncode == 0, done.stderr


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
aot.cases = lambda module: [aot.Case(broken.kernel, {{"x_ptr": "*fp32"}}, {{"D": 1}}, 1, 1, "broken")]
(problem,) = aot.compile_case("m", 0, "sm_90").problems()
assert problem.startswith("does not compile: CompileTimeAssertionFailure"), problem
"""
    done = run(["-c", code])
    assert done.returncode == 0, done.stderr


def test_the_interpreter_is_refused():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "kernels.aot"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert "the interpreter and the compiler cannot run in one process" in done.stderr
