"""Independent tasks shared among processes of one thread each.

Many small networks train faster side by side than one after another on all threads, and on one thread a network ends at
the same bits whatever the machine's number of cores. A task writes its own file; nothing is passed back.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from paper_repro.steps import KilledError
from paper_repro.storage import MENDABLE

__all__ = ["n_workers", "one_thread", "progress", "run_tasks"]

SAY_EVERY_SECONDS = 60.0
REFUSED = 100
"""Exit status of a process less the error number that the file system gave it; all of those are below 128."""


def run_tasks(
    function: Callable[[Any], None],
    tasks: Sequence[Any],
    finished: Callable[[Any], bool],
    *,
    description: str,
    console: Console | None = None,
    n_processes: int | None = None,
) -> None:
    """Call `function(task)` for every task that is not finished, in `n_processes` processes of one thread.

    Args:
        function: can be pickled (a function of a module, or functools.partial of one); writes one file, atomically.
        tasks: can be pickled.
        finished: whether the file of a task is there.
        description: of the progress bar.
        console: where that is shown, if anywhere: every minute as a line, if it is no terminal.
        n_processes: None takes as many as torch has threads, or one where there is a GPU. One is this process.

    Raises:
        OSError: the file system refused what the user can mend.
        KilledError: a process was killed; what its tasks have finished stays.
        RuntimeError: a process ended with another error; likewise.
    """
    left = [task for task in tasks if not finished(task)]
    n_processes = min(n_processes or n_workers(), len(left))
    with progress(description, len(tasks), console) as show:
        show(len(tasks) - len(left))
        if n_processes <= 1:
            # Beside a GPU, the processor's part of a task has all threads.
            run = function if torch.cuda.is_available() else partial(_on_one_thread, function)
            for n, task in enumerate(left, start=len(tasks) - len(left) + 1):
                run(task)
                show(n)
            return
        # "spawn": a forked process inherits torch's threads in a state that it cannot use.
        context = multiprocessing.get_context("spawn")
        shares = [left[k::n_processes] for k in range(n_processes)]
        processes = [context.Process(target=_work, args=(function, share), daemon=True) for share in shares]
        try:
            _start(processes)
            while running := [process.sentinel for process in processes if process.is_alive()]:
                wait(running, timeout=0.5)
                show(sum(map(finished, tasks)))
                if any(process.exitcode for process in processes):
                    break
            # Before those that are left are ended.
            killed = [-code for process in processes if (code := process.exitcode or 0) < 0]
        finally:
            for process in processes:
                process.terminate()
                process.join()
    failed = [task for task in left if not finished(task)]
    if failed:
        if refused := [code - REFUSED for process in processes if (code := process.exitcode or 0) > REFUSED]:
            raise OSError(refused[0], os.strerror(refused[0]))
        if killed:
            raise KilledError(
                f"{description}: a process was ended by {signal.Signals(killed[0]).name}, as the system does where "
                "memory runs out. What is finished stays: run the same command again to go on from here"
            )
        raise RuntimeError(f"{description}: {len(failed)} of {len(tasks)} tasks failed, the first is {failed[0]!r}")


@contextmanager
def progress(description: str, total: int, console: Console | None) -> Iterator[Callable[[int], None]]:
    """Gives show(n), which shows how many are done: in a bar, or in a line a minute if the console is no terminal.

    Args:
        description: what they are.
        total: how many there are.
        console: None shows nothing.
    """
    columns = (TextColumn(description), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    quiet = console is None or not console.is_terminal
    said_at = time.monotonic()
    with Progress(*columns, console=console, disable=quiet, transient=True) as bar:
        shown = bar.add_task("", total=total)

        def show(n: int) -> None:
            nonlocal said_at
            bar.update(shown, completed=n)
            if console is not None and quiet and time.monotonic() - said_at > SAY_EVERY_SECONDS:
                console.print(f"{description}: {n:,} of {total:,}")
                said_at = time.monotonic()

        yield show


def n_workers() -> int:
    """Processes that `run_tasks` takes if it is not told."""
    return 1 if torch.cuda.is_available() else torch.get_num_threads()


def _start(processes: list[Any]) -> None:
    # Ctrl-C reaches all processes; the parent answers, and ends the others. They are born with it blocked: while they
    # import, each would print a traceback. The tracker of resources would let it through again when it is started.
    resource_tracker.ensure_running()
    let_through = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    # OpenMP reads this when the new process starts.
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        for process in processes:
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, let_through)
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _work(function: Callable[[Any], None], tasks: Sequence[Any]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for task in tasks:
        try:
            _on_one_thread(function, task)
        except OSError as error:
            if error.errno not in MENDABLE:
                raise
            sys.exit(REFUSED + error.errno)


def _end_with_parent() -> None:
    """A process whose parent was killed would work on unseen, beside the one that is started next."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _on_one_thread(function: Callable[[Any], None], task: Any) -> None:
    with one_thread():
        function(task)


@contextmanager
def one_thread() -> Iterator[None]:
    """As a task is run. Many operations on tiny tensors gain nothing from threads that wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
