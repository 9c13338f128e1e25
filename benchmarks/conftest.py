"""pytest-benchmark, told which files are benchmarks and what to store about the machine and the commit."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest

from paper_repro.machine import software

PEER_PACKAGES = ("triton", "pytest-benchmark", "dpgmm")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("python_files", "bench_*.py")
    software()  # kept: the commit is the one that is timed, even if another is checked out before the end


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    """Processor, cores, threads, memory and versions. The host's name is nobody's business."""
    made_with = software()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        **made_with["machine"],
        "memory_bytes": memory,
        "python_implementation": platform.python_implementation(),
        "versions": {**made_with["versions"], **{name: _version(name) for name in PEER_PACKAGES}},
        "cpu": {"brand": made_with["machine"]["processor"]},  # where pytest-benchmark looks when it compares
    }


def pytest_benchmark_generate_commit_info(config: pytest.Config) -> dict[str, Any]:
    commit, _, changes = (software()["commit"] or "unknown").partition("+")
    return {"id": commit, "dirty": bool(changes)}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
