"""The main job as a user starts it: every figure of the embedded dataset, from images to the report."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import compare


def test_repro(benchmark: Any, tmp_path: Path) -> None:
    """What `make repro` does once its environment is there. Once: the network is trained in it."""
    peaks = []

    def ours() -> None:
        command = "import sys; from paper_repro.cli import main; sys.exit(main())"
        process = subprocess.Popen(
            [sys.executable, "-c", command, "run", "--runs-dir", str(tmp_path)], stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        peaks.append(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))

    result = compare(benchmark, ours, rounds=1, operation="paper-repro run", shapes={"images": 1797}, dtype="float32")
    assert list(tmp_path.rglob("report.html"))
    result.measure("time", result.seconds, "s", must=480, more_is_better=False)
    result.measure("memory of the main process at the peak", max(peaks) / 1e9, "GB", must=4, more_is_better=False)
