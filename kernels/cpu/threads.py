"""Run compiled calls on as many threads as torch may use. The calls release the interpreter lock."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch


def run(function: Callable[..., object], tasks: Iterable[tuple]) -> list:
    """[function(*task) for task in tasks], in parallel, results in order; an error in one is raised."""
    tasks = list(tasks)
    n_threads = min(torch.get_num_threads(), len(tasks))
    if n_threads <= 1:
        return [function(*task) for task in tasks]
    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(lambda task: function(*task), tasks))


def split(n: int, multiple: int) -> list[tuple[int, int]]:
    """Ranges that cover 0..n, a few for each thread so that a slow core does less, cut at multiples of `multiple`."""
    n_pieces = 1 if torch.get_num_threads() == 1 else 4 * torch.get_num_threads()
    step = max(1, -(-n // (n_pieces * multiple))) * multiple
    return [(start, min(start + step, n)) for start in range(0, n, step)]
