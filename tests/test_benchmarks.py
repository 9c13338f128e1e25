"""What the benchmarks decide and store, with made numbers; and that they run. No time is judged here."""

import contextlib
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from planted_faults import FAULTS

from benchmarks import check, record, report
from benchmarks.check import Outcome, judge, slowdown
from benchmarks.measure import Measure, Peer, compare
from benchmarks.record import slim, store
from benchmarks.report import load, rows, verdict, write_page
from benchmarks.workload import OPERATIONS

ROOT = Path(__file__).parents[1]


def test_the_page_has_a_stored_run():
    page = (ROOT / "benchmarks/README.md").read_text()
    tables = [report.markdown(run) for run in load(report.RESULTS)]
    assert any(table in page for table in tables), "python -m benchmarks.report --markdown"
    assert all(len(table.splitlines()) > 10 for table in tables)


class FakeBenchmark:
    """pytest-benchmark's fixture, with made times of ours."""

    def __init__(self, seconds: list[float]) -> None:
        self.extra_info: dict = {}
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=seconds))

    def pedantic(self, target, setup, rounds):
        for _ in range(rounds):
            setup()
            target()


def made_run(date: str, ratio: float, commit: str = "a" * 40) -> dict:
    """A file of pytest-benchmark with one benchmark, as the conftest of the benchmarks makes it."""
    measures = [
        Measure("faster than a peer", ratio, "x", must=10, aim=20)._asdict(),
        Measure("memory", 150.0, "MB", must=200, more_is_better=False)._asdict(),
    ]
    times = {"median": 0.5, "q1": 0.4, "q3": 0.6, "min": 0.3, "rounds": 3}
    info = {
        "operation": "an operation",
        "shapes": {"points": 1000},
        "dtype": "float32",
        "flops": 1.0,
        "work": 2.0,
        "busy_elsewhere": 0.5,
        "peers": {"a peer": {**times, "work": 1.0, "ratio": ratio}},
        "measures": measures,
    }
    return {
        "machine_info": {"processor": "a processor", "threads": 2},
        "commit_info": {"id": commit, "dirty": True},
        "benchmarks": [
            {
                "name": "test",
                "extra_info": info,
                "options": {"timer": "perf_counter"},
                "stats": {**times, "data": [0.123456789] * 1000},
            }
        ],
        "datetime": f"{date}T12:00:00.5+00:00",
    }


def series(*ratios: float):
    """A measurement that finds these ratios of this tree's time to the base's, one a series."""
    values = iter(ratios)

    def measure(operation: str) -> list[tuple[float, float]]:
        ratio = next(values)
        return [(ratio * base, base) for base in (0.010, 0.011, 0.030)]

    return measure


@pytest.mark.parametrize(
    ("ratios", "regressed"),
    [((0.5,), False), ((1.14,), False), ((1.2, 1.0), False), ((1.2, 1.16), True), ((2.0, 2.0), True)],
)
def test_a_regression_has_to_show_twice(ratios, regressed):
    outcome = judge("op", series(*ratios))
    assert outcome.regressed is regressed
    assert outcome.ratios == pytest.approx(list(ratios))


def test_drift_of_the_machine_and_single_slow_calls_are_no_regression():
    drifting = [(1.1 * base, base) for base in (1.0, 2.0, 3.0, 4.0, 5.0)]
    assert slowdown(drifting) == pytest.approx(1.1)
    disturbed = [(1.0, 1.0)] * 5 + [(9.0, 1.0), (1.0, 0.1)]
    assert slowdown(disturbed) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("value", "must", "aim", "more", "expected"),
    [
        (9.9, 10, 20, True, "missed"),
        (10.0, 10, None, True, "met"),
        (15.0, 10, 20, True, "met, the aim not"),
        (25.0, 10, 20, True, "met, and the aim too"),
        (0.2, 1.0, 0.3, False, "met, and the aim too"),
        (1.1, 1.0, 0.3, False, "missed"),
        (0.5, None, 1.0, True, "aim not met"),
        (5.0, None, None, True, ""),
    ],
)
def test_verdict(value, must, aim, more, expected):
    assert verdict(Measure("figure", value, "x", must, aim, more)._asdict()) == expected


def test_compare_refuses_a_wrong_answer_before_it_times_anything():
    benchmark = FakeBenchmark([1.0])
    with pytest.raises(AssertionError, match="peer a liar"):
        compare(
            benchmark, lambda: 1.0, [Peer("a liar", lambda: 1.2, tolerance=0.1)],
            rounds=1, operation="op", shapes={}, dtype="float32",
        )  # fmt: skip
    assert not benchmark.extra_info


def test_compare_takes_the_ratio_within_a_round_for_the_same_work(monkeypatch):
    """The machine becomes slower by the round; the peer, timed in rounds 0 and 2, takes 6 times as long for half."""
    own = [1.0, 5.0, 10.0]
    theirs = iter([6.0 * own[0], 6.0 * own[2]])
    clock = SimpleNamespace(now=0.0)

    def peer() -> None:
        clock.now += next(theirs)

    monkeypatch.setattr("benchmarks.measure.time.perf_counter", lambda: clock.now)
    benchmark = FakeBenchmark(own)
    result = compare(
        benchmark, lambda: None, [Peer("a peer", peer, None, work=1.0, every=2, must=10)],
        rounds=3, operation="op", shapes={}, dtype="float32", work=2.0,
    )  # fmt: skip
    assert result.ratios == {"a peer": pytest.approx(12.0)}
    assert result.seconds == 5.0
    assert benchmark.extra_info["measures"][0]["must"] == 10
    assert benchmark.extra_info["peers"]["a peer"]["rounds"] == 2


def test_results_are_small_and_never_overwritten(tmp_path):
    raw = made_run("2025-01-02", 12.0)
    assert "data" not in slim(raw)["benchmarks"][0]["stats"]
    path = store(raw, tmp_path)
    assert path.name == "2025-01-02T120000_aaaaaaa-changed.json"
    assert json.loads(path.read_text()) == slim(raw)
    assert path.stat().st_size < 5_000
    with pytest.raises(FileExistsError, match="never overwritten"):
        store(raw, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_report_of_made_results(tmp_path):
    store(made_run("2025-01-02", 25.0, "b" * 40), tmp_path)
    store(made_run("2025-01-01", 9.0), tmp_path)
    runs = load(tmp_path)
    assert [run.commit for run in runs] == ["aaaaaaa with changes", "bbbbbbb with changes"]
    time, ratio, memory = rows(runs[-1])
    assert (time.operation, time.value) == ("an operation, float32", "500 ms *")  # something else was running
    assert (ratio.value, ratio.goal, ratio.verdict) == ("25 x", "must ≥ 10 x, aim ≥ 20 x", "met, and the aim too")
    assert (memory.value, memory.goal, memory.verdict) == ("150 MB", "must ≤ 200 MB", "met")
    page = write_page(runs, tmp_path / "page")
    text = page.read_text()
    assert "2 runs. The newest: 2025-01-02 12:00, commit bbbbbbb" in text
    assert sorted(path.suffix for path in page.parent.iterdir()) == [".html", ".png", ".svg"]
    (picture,) = page.parent.glob("*.png")
    assert picture.name in text


def test_report_names_a_file_that_is_no_result(tmp_path):
    (tmp_path / "odd.json").write_text("{}")
    with pytest.raises(ValueError, match=r"odd\.json is not a file of benchmark results"):
        load(tmp_path)


def test_the_report_fails_where_a_figure_that_has_to_be_reached_is_not(tmp_path, capsys):
    arguments = ["--results", str(tmp_path / "results"), "--output", str(tmp_path / "page")]
    assert report.main(arguments) == 0
    store(made_run("2025-01-01", 9.9), tmp_path / "results")
    assert report.main(arguments) == 1
    missed = "Missed: an operation, float32 1,000 points: faster than a peer"
    assert f"{missed}\n" in capsys.readouterr().err
    assert report.main([*arguments, "--markdown"]) == 0
    assert capsys.readouterr().out.endswith(f"\n\n{missed}\n")
    store(made_run("2025-01-02", 15.0), tmp_path / "results")
    assert report.main(arguments) == 0


FAKE_KERNELS = """
import time

def mixture_log_density(*arguments):
    time.sleep({seconds})
"""


def test_trees_are_timed_in_turns_and_what_runs_in_no_base_is_named(tmp_path, monkeypatch):
    """This tree is slow; of its bases the first is empty, and the next, a fast one, lacks an operation."""
    monkeypatch.setattr(check, "MIN_ROUNDS", 3)
    monkeypatch.setattr(check, "SECONDS", 0.0)
    lacking = FAKE_KERNELS.format(seconds=0.1) + "\ndef student_t_log_density(*arguments): pass\n"
    for name, code in (("slow", lacking), ("fast", FAKE_KERNELS.format(seconds=0.01))):
        (tmp_path / name / "kernels").mkdir(parents=True)
        (tmp_path / name / "kernels" / "__init__.py").write_text(code)
    (tmp_path / "empty").mkdir()
    bases = {"aaa": tmp_path / "empty", "bbb": tmp_path / "fast"}
    with contextlib.closing(check.compare_trees(tmp_path / "slow", bases, tmp_path)) as outcomes:
        *timed, missing = islice(outcomes, 4)
    assert {(outcome.base, outcome.regressed, len(outcome.ratios)) for outcome in timed} == {("bbb", True, 2)}
    assert all(ratio > check.ALLOWED for outcome in timed for ratio in outcome.ratios), timed
    assert (missing.operation, missing.ratios, missing.regressed) == ("student_t_log_density", [], False)
    assert missing.base.startswith("aaa: ImportError")
    assert "; bbb: AttributeError" in missing.base


@pytest.mark.parametrize(
    ("outcomes", "arguments", "status", "last"),
    [
        ([Outcome("a", [1.0], False)], [], 0, "1 operations; slower: none; not compared: none"),
        ([Outcome("a", [1.2, 1.3], True)], [], 1, "1 operations; slower: a; not compared: none"),
        ([Outcome("a", [1.0], False), Outcome("b", [], False)], [], 1, "2 operations; slower: none; not compared: b"),
        ([Outcome("b", [], False)], ["--new", "b"], 0, "1 operations; slower: none; not compared: b"),
        ([Outcome("a", [], False), Outcome("b", [], False)], ["--new", "b"], 1, None),
    ],
)
def test_the_check_passes_only_if_all_was_compared(monkeypatch, capsys, outcomes, arguments, status, last):
    monkeypatch.setattr(check, "bases_of", lambda name: ["c" * 40])
    monkeypatch.setattr(check, "extract", lambda commit, folder: None)
    monkeypatch.setattr(check, "compare_trees", lambda *arguments: iter(outcomes))
    assert check.main(arguments) == status
    assert last is None or capsys.readouterr().out.splitlines()[-1] == last


def test_the_bases_of_a_check(tmp_path, monkeypatch, capsys):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check, "RESULTS", tmp_path / "results")
    git("init", "-q")
    (tmp_path / "file").write_text("0")
    git("add", "file")
    git("commit", "-qm", "0")
    assert check.bases_of(None) == []
    for name in "123":
        git("commit", "-qm", name, "--allow-empty")
    zero, one, two, three = git("rev-list", "--reverse", "HEAD").splitlines()
    assert check.bases_of("HEAD~3") == [zero]
    assert check.bases_of(None) == [two]
    (tmp_path / "results").mkdir()
    for name in (
        f"2025-01-01T000000_{zero[:7]}",
        f"2025-01-02T000000_{one[:7]}",
        f"2025-01-03T000000_{two[:7]}-changed",
    ):
        (tmp_path / "results" / f"{name}.json").touch()
    (tmp_path / "results" / "gpu_hours.json").touch()
    assert check.bases_of(None) == [one, two]
    (tmp_path / "file").write_text("1")
    assert check.bases_of(None) == [one, three]
    (tmp_path / "results" / "2025-01-04T000000_fffffff.json").touch()  # not of this clone
    assert check.bases_of(None) == [three]
    with pytest.raises(SystemExit) as stopped:
        check.main(["typo"])
    assert stopped.value.code == 2
    assert "typo is no commit" in capsys.readouterr().err


def test_all_benchmarks_are_chosen_from_by_a_word(monkeypatch):
    given = []
    monkeypatch.setattr(pytest, "main", lambda arguments: given.extend(arguments) or pytest.ExitCode.TESTS_FAILED)
    assert record.main(["-k", "em"]) == 1
    assert given[:4] == [*record.ALL, "-k", "em"]


def numbers(found):
    """All arrays of an answer: of a tensor, a tuple of them, an estimator that was fitted, or what such a one holds."""
    if isinstance(found, torch.Tensor | np.ndarray):
        yield np.asarray(found)
    elif isinstance(found, tuple):
        for part in found:
            yield from numbers(part)
    elif hasattr(found, "__dict__"):
        for name, value in sorted(vars(found).items()):
            if name.endswith("_") or not hasattr(found, "get_params"):
                yield from numbers(value)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_of_the_check_runs_and_runs_again(operation):
    """Its inputs are as they were: what is timed is the same every time."""
    call = OPERATIONS[operation]()
    first, again = (list(numbers(call())) for _ in range(2))
    assert first
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_text_of_each_planted_fault_is_there_once():
    found = {fault.name: (ROOT / fault.file).read_text().count(fault.old) for fault in FAULTS}
    assert {name: n for name, n in found.items() if n != 1} == {}


def test_the_readme_counts_the_planted_faults():
    assert f"`make faults` plants {len(FAULTS)} faults" in (ROOT / "README.md").read_text()


def test_every_benchmark_is_imported_and_runs():
    """But that of `paper-repro run` (minutes), those with dpgmm as a peer, and the longest; of two types the first."""
    code = """
import sys, pytest
from benchmarks import bench_fit, record
bench_fit.SWEEPS = 20
left_out = "not (repro or settled or b1 or float64 or first or shattered or large)"
sys.exit(pytest.main([*record.ALL, "--benchmark-disable", "-v", "-p", "no:cacheprovider", "-k", left_out]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for path in (ROOT / "benchmarks").glob("bench_*.py"):
        assert f"{path.name}::" in done.stdout or path.name == "bench_repro.py", path.name
