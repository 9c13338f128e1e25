"""Tasks shared among processes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from paper_repro.steps import KilledError
from paper_repro.workers import run_tasks

SECONDS_TO_WAIT = 300
TASKS = """
import os, signal, sys, time
from functools import partial
from pathlib import Path

if __name__ == "__mp_main__" and sys.argv[2] == "while they start":
    (Path(sys.argv[1]) / f"0-{os.getpid()}").touch()
    time.sleep(600)

from paper_repro.workers import run_tasks


def begin(folder, task):
    (folder / f"{task}-{os.getpid()}").touch()
    time.sleep(600)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs do not heed it
    run_tasks(partial(begin, Path(sys.argv[1])), [1, 2], lambda task: False, description="tasks", n_processes=2)
"""


@pytest.mark.parametrize("moment", ["while they start", "while they work"])
def test_ctrl_c_is_answered_by_one_process_and_ends_all(tmp_path, moment):
    """A terminal sends it to every process of the command."""
    (tmp_path / "tasks.py").write_text(TASKS)
    begun = tmp_path / "begun"
    begun.mkdir()
    process = subprocess.Popen(
        [sys.executable, "tasks.py", str(begun), moment], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + SECONDS_TO_WAIT
        while len(list(begun.iterdir())) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=SECONDS_TO_WAIT)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert said.count("Traceback") == said.count("KeyboardInterrupt") == 1, said
    pids = [int(path.name.split("-")[1]) for path in begun.iterdir()]
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def end_or_be_killed(folder, task):
    if task == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / task).touch()


def test_a_process_that_is_killed_is_told_from_tasks_that_fail(tmp_path):
    """As the system does where memory runs out."""
    tasks = ("done", "killed")
    with pytest.raises(KilledError, match="a process was ended by SIGKILL, as the system does where memory runs out"):
        run_tasks(
            partial(end_or_be_killed, tmp_path),
            tasks,
            lambda task: (tmp_path / task).exists(),
            description="tasks",
            n_processes=2,
        )
