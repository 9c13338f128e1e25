"""What a result is computed with and on: devices, versions, commit, processor, memory."""

import os
import platform
import re
import resource
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["density_device", "network_device", "peak_memory_bytes", "reset_peak_memory", "software"]

PACKAGES = ("classfit", "torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "numba", "matplotlib")


def network_device() -> str:
    """Where networks run: "cuda" if there is a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@cache
def density_device(n_features: int) -> str:
    """Where densities in so many dimensions are fitted and evaluated: on a GPU, if the kernels know it and can."""
    if network_device() == "cpu":
        return "cpu"
    from classfit.devices import checked

    try:
        return checked("cuda", n_features).type
    except ValueError:
        return "cpu"


@cache
def software() -> dict[str, Any]:
    """Versions, git commit (None outside a checkout; "+changes" with uncommitted ones) and the machine.

    A GPU is named where there is one: networks run on it, and densities are fitted there.
    """
    import torch

    versions = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    machine = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if network_device() == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    return {"versions": versions, "commit": _commit(), "machine": machine}


def reset_peak_memory() -> None:
    """Start a new measurement of `peak_memory_bytes` where the system can (Linux); else it is of the whole process."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes() -> int:
    """Highest resident memory of this process since `reset_peak_memory`, in bytes."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or "unknown"


def _commit() -> str | None:
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / ".git").exists():
        return None
    try:
        commit = _git(checkout, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(checkout, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(checkout: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(checkout), *arguments], check=True, capture_output=True, text=True, timeout=10
    ).stdout.strip()
