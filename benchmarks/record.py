"""Run the benchmarks and store one JSON file in `benchmarks/results`: pytest-benchmark's, with what the report reads.

    python -m benchmarks.record [pytest arguments, such as benchmarks/bench_gibbs_sweep.py or -k em]

Files are only ever added. A run in which an answer was wrong stores nothing.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from classfit.storage import replacing

__all__ = ["ALL", "RESULTS", "main", "slim", "store"]

RESULTS = Path(__file__).parent / "results"
ALL = ["-o", "testpaths=benchmarks"]
"""What pytest runs where no argument is a path."""


def main(arguments: list[str]) -> int:
    """Exit status of pytest; prints where the results are."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        status = pytest.main(
            [
                *ALL,
                *arguments,
                f"--benchmark-json={raw}",
                "--benchmark-columns=median,iqr,rounds",
                "--benchmark-sort=name",
            ]
        )
        if status != pytest.ExitCode.OK:
            print("Nothing is stored: not every benchmark passed.", file=sys.stderr)
            return int(status)
        print(f"Stored benchmarks/results/{store(json.loads(raw.read_text()), RESULTS).name}")
    return 0


def store(raw: dict[str, Any], folder: Path) -> Path:
    """Write a run to a new file, atomically; the name has the date (UTC) and the commit."""
    run = slim(raw)
    when = run["datetime"][:19].replace(":", "")
    commit = run["commit_info"]["id"][:7] + ("-changed" if run["commit_info"]["dirty"] else "")
    path = folder / f"{when}_{commit}.json"
    if path.exists():
        raise FileExistsError(f"{path} exists, and results are never overwritten")
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(run, indent=1) + "\n")
    return path


def slim(raw: dict[str, Any]) -> dict[str, Any]:
    """pytest-benchmark's JSON without each round's time, numbers to five digits: some tens of kilobytes."""
    benchmarks = []
    for benchmark in raw["benchmarks"]:
        stats = {name: value for name, value in benchmark["stats"].items() if name != "data"}
        benchmarks.append({**benchmark, "stats": stats})
    return _rounded({**raw, "benchmarks": benchmarks})


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
