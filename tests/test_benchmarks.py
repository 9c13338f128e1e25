"""What the benchmarks decide and store, with made numbers. Nothing is timed here."""

import json
from types import SimpleNamespace

import pytest

from benchmarks.check import judge, slowdown
from benchmarks.measure import Measure, Peer, compare
from benchmarks.record import slim, store
from benchmarks.report import load, rows, verdict, write_page


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
        "bytes": 1,
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
