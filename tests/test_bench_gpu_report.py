"""What was measured on a GPU: its table in `kernels/README.md`, and what is said of two runs. No GPU is needed."""

import json
from pathlib import Path

import pytest

pytest.importorskip("triton")

from benchmarks import gpu_report
from benchmarks import performance_model as model

PAGE = Path(__file__).parents[1] / "kernels/README.md"
MODEL_FACTOR = 1.5
"""Measured over predicted, of sweeps: 1.0 with 16 features and 1.4 with 64, which the page says."""


def test_the_page_has_what_was_measured():
    report = gpu_report.published()
    assert report["passed"]
    assert all(check["passed"] and check["bitwise"] for check in report["checks"])
    assert report["left_out"] == []
    found = gpu_report.markdown(report)
    assert len(found.splitlines()) == 2 + len(report["timings"])
    assert found in PAGE.read_text(), f"python -m benchmarks.gpu_report {gpu_report.RESULTS / gpu_report.PUBLISHED}"


def test_a_run_of_ones_own_is_not_what_the_page_has(tmp_path, monkeypatch, capsys):
    own = gpu_report.published()
    (tmp_path / gpu_report.PUBLISHED).write_text(json.dumps(own))
    own["gpu"]["name"] = "Another GPU"
    (tmp_path / "2999-01-01T000000_aaaaaaa.json").write_text(json.dumps(own))
    monkeypatch.setattr(gpu_report, "RESULTS", tmp_path)
    assert gpu_report.published()["gpu"]["name"] == "NVIDIA H200"
    assert gpu_report.main([]) == 0
    assert "Another GPU" in capsys.readouterr().out


def test_two_runs_are_compared(tmp_path, capsys):
    before = gpu_report.published()
    slower, gone, elsewhere, failed = (json.loads(json.dumps(before)) for _ in range(4))
    slower["timings"][3]["seconds"]["median"] *= 1.16
    slower["timings"].append(slower["timings"][0] | {"operation": "another"})  # new ones are no loss
    slower["sizes"]["another"] = 1
    del gone["timings"][2]
    elsewhere["versions"]["triton"] = "3.9.0"
    failed["passed"] = False
    paths = {}
    for name, report in dict(before=before, slower=slower, gone=gone, elsewhere=elsewhere, failed=failed).items():
        paths[name] = tmp_path / f"{name}.json"
        paths[name].write_text(json.dumps(report))

    def compared(name, other="before"):
        try:
            status = gpu_report.main([str(paths[other]), str(paths[name])])
        except SystemExit as stopped:
            status = stopped.code
        found = capsys.readouterr()
        return status, (found.out + found.err).splitlines()

    status, lines = compared("before")
    assert (status, lines[-1]) == (0, "Slower: none; not timed any more: none")
    assert len(lines) == len(before["timings"]) + 1
    assert {line.split()[-1] for line in lines[:-1]} == {"1.00"}
    status, lines = compared("slower")
    assert (status, lines[-1]) == (1, "Slower: Gibbs sweeps D=64; not timed any more: none")
    assert any(line.endswith("1.16  REGRESSED") for line in lines)
    assert compared("before", "slower")[1][-1] == "Slower: none; not timed any more: another D=64"
    assert (compared("gone")[0], compared("gone")[1][-1]) == (
        1, "Slower: none; not timed any more: component statistics D=64",
    )  # fmt: skip
    for name, why in (("elsewhere", "differ in versions: triton 3.6.0 and 3.9.0"), ("failed", "has failed")):
        status, lines = compared(name)
        assert status == 2
        assert why in lines[-1]


def test_a_measurement_of_an_unknown_gpu_has_no_prediction():
    report = gpu_report.published()
    unknown = report | {"gpu": report["gpu"] | {"name": "Another GPU"}}
    lines, before = gpu_report.markdown(unknown).splitlines(), gpu_report.markdown(report).splitlines()
    assert [line.split(" | ")[2] for line in lines[2:]] == [line.split(" | ")[2] for line in before[2:]]
    assert {line.split(" | ")[3].strip() for line in lines[2:]} == {""}
    assert "23 ms" in before[2].split(" | ")[3]


@pytest.mark.parametrize(
    ("device", "known"),
    [
        ("NVIDIA H200", "H100"), ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA B200", "B200"), ("AMD Instinct MI300X", "MI300X"), ("NVIDIA RTX A1000", None), ("Tesla T4", None),
    ],
)  # fmt: skip
def test_a_gpu_is_known_by_its_name(device, known):
    assert model.like(device) == known
    report = gpu_report.published()
    report["gpu"]["name"] = device
    assert f"| predicted for {known} |" in gpu_report.markdown(report) or known is None


def test_sweeps_took_what_is_predicted_for_them():
    """Steps and their cycles are counted by hand, whatever the kernel does: what was measured holds them."""
    report = gpu_report.published()
    sweeps = [timing for timing in report["timings"] if timing["operation"] == "Gibbs sweeps"]
    assert [timing["features"] for timing in sweeps] == [64, 16]
    for timing in sweeps:
        predicted = gpu_report._prediction(timing, "H100", report["versions"]["triton"])
        assert 0.9 < timing["seconds"]["median"] / predicted < MODEL_FACTOR
