"""Run compiled calls on as many threads as torch may use. The calls release the interpreter lock."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock

import torch

_reserved: ContextVar[int | None] = ContextVar("_reserved", default=None)
_lock, _inside, _of_torch = Lock(), 0, 1
"""How many threads of the caller are within `reserved`, and how many threads torch had when the first of them came."""


@contextmanager
def reserved() -> Iterator[None]:
    """Within it torch runs on one thread, and the engine keeps the threads that torch had.

    For code that goes to and fro between the engine and small torch operations: torch's threads spin for milliseconds
    after each operation, on the cores that the engine needs, and wait for each other when another process has one.
    """
    global _inside, _of_torch
    if _reserved.get() is not None:
        yield
        return
    # Torch's number is the process's: while another thread is within, it says 1.
    with _lock:
        if _inside == 0:
            _of_torch = torch.get_num_threads()
        _inside += 1
        n_threads = _of_torch
        torch.set_num_threads(1)
    token = _reserved.set(n_threads)
    try:
        yield
    finally:
        _reserved.reset(token)
        with _lock:
            _inside -= 1
            torch.set_num_threads(n_threads)


def available() -> int:
    """Threads that the engine may use."""
    n_threads = _reserved.get()
    return torch.get_num_threads() if n_threads is None else n_threads


def run(function: Callable[..., object], tasks: Iterable[tuple]) -> list:
    """[function(*task) for task in tasks], in parallel, results in order; an error in one is raised."""
    tasks = list(tasks)
    results: list = [None] * len(tasks)
    left = deque(enumerate(tasks))

    def work() -> None:
        while left:
            try:
                i, task = left.popleft()
            except IndexError:  # another thread took the last
                return
            results[i] = function(*task)

    # Threads help themselves: handing each task to a pool would take longer than a small one runs.
    n_helpers = min(available(), len(tasks)) - 1
    if n_helpers < 1:
        work()
        return results
    with ThreadPoolExecutor(n_helpers) as pool:
        helpers = [pool.submit(work) for _ in range(n_helpers)]
        try:
            work()
        finally:
            left.clear()  # after an error, or when interrupted, the others stop with the task they are at
    for helper in helpers:
        helper.result()
    return results


def run_apart(function: Callable[..., object], tasks: Iterable[tuple]) -> list:
    """`run` for calls of Python that go to and fro between it and the engine, each with one thread to itself: while one
    is in the interpreter, others are in compiled code."""

    def alone(*task: object) -> object:
        token = _reserved.set(1)
        try:
            return function(*task)
        finally:
            _reserved.reset(token)

    return run(alone, tasks)


def split(n: int, multiple: int) -> list[tuple[int, int]]:
    """Ranges that cover 0..n, a few for each thread so that a slow core does less, cut at multiples of `multiple`."""
    n_pieces = 1 if available() == 1 else 4 * available()
    step = max(1, -(-n // (n_pieces * multiple))) * multiple
    return [(start, min(start + step, n)) for start in range(0, n, step)]
