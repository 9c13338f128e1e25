"""Ours and its peers, timed in turns in one process: what is timed, and what counts.

On a shared machine the speed of everything drifts by tens of per cent within minutes. So each round times every peer
and then ours, one call each, and the figure that counts is the median over rounds of the ratio within a round.
On a machine that is busy throughout, processor time on one thread says more (threads that wait for each other are then
slow out of all proportion): OMP_NUM_THREADS=1 python -m benchmarks.record --benchmark-timer=time.process_time
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PAUSE_SECONDS = 0.02
"""Before each call: after one, OpenMP's threads go on spinning for milliseconds, on the cores of the next."""

__all__ = ["Measure", "Peer", "Result", "compare", "elsewhere", "prove", "spread"]


class Peer(NamedTuple):
    """Something else that computes what ours computes."""

    name: str
    run: Callable[[], Any]
    tolerance: float | None
    """Largest absolute difference of its answer to ours; None if it answers another question (a yardstick)."""
    work: float | None = None
    """What one call does, in the unit in which the work of ours is given; None: as much."""
    every: int = 1
    """It is timed in every so many rounds: more than 1 for a slow one."""
    must: float | None = None
    """How many times faster ours has to be for the same work; see `Measure`."""
    aim: float | None = None
    """How many times faster ours would best be."""


class Measure(NamedTuple):
    """A figure that counts, and what it should be."""

    name: str
    value: float
    unit: str
    must: float | None = None
    """Has to be reached, or `benchmarks.report` fails."""
    aim: float | None = None
    """Would be good."""
    more_is_better: bool = True


class Result:
    """What is stored of one benchmark, in pytest-benchmark's `extra_info`."""

    def __init__(self, info: dict[str, Any], seconds: float, ratios: dict[str, float]) -> None:
        self.info = info
        self.seconds = seconds
        """Median time of one call of ours."""
        self.ratios = ratios
        """Times that ours is faster, by peer."""

    def measure(self, *args: Any, **kwargs: Any) -> None:
        """Store a `Measure`."""
        self.info["measures"].append(Measure(*args, **kwargs)._asdict())


def compare(
    benchmark: Any,
    ours: Callable[[], Any],
    peers: Sequence[Peer] = (),
    *,
    rounds: int,
    operation: str,
    shapes: dict[str, int],
    dtype: str,
    flops: float | None = None,
    work: float = 1.0,
) -> Result:
    """Prove that the answers are equal, then time ours and its peers in turns.

    Args:
        benchmark: pytest-benchmark's fixture. Its own figures are of ours, a call a round.
        ours: has run before, so that nothing is compiled within the clock.
        peers: see `Peer`.
        rounds: calls of ours that are timed.
        operation, shapes, dtype: what is timed.
        flops: floating-point operations that the formula needs for one call of ours.
        work: what one call of ours does, in any unit.

    Raises:
        AssertionError: an answer differs by more than the tolerance, before anything is timed.
    """
    prove(ours, peers)
    times: dict[str, list[float]] = {peer.name: [] for peer in peers}
    timed_in: dict[str, list[int]] = {peer.name: [] for peer in peers}
    n_setups = 0
    # The clock of --benchmark-timer, which has no public name.
    clock = getattr(benchmark, "_timer", time.perf_counter)

    def time_peers() -> None:
        nonlocal n_setups
        for peer in peers:
            if n_setups % peer.every == 0:
                time.sleep(PAUSE_SECONDS)
                start = clock()
                peer.run()
                times[peer.name].append(clock() - start)
                timed_in[peer.name].append(n_setups)
        n_setups += 1
        time.sleep(PAUSE_SECONDS)

    load = elsewhere()
    benchmark.pedantic(ours, setup=time_peers, rounds=rounds)
    info = benchmark.extra_info
    info.update(operation=operation, shapes=shapes, dtype=dtype, flops=flops, work=work)
    info.update(busy_elsewhere=load(), peers={}, measures=[])
    if benchmark.stats is None:  # --benchmark-disable: a dry run
        return Result(info, float("nan"), {peer.name: float("nan") for peer in peers})
    own = benchmark.stats.stats.data
    result = Result(info, statistics.median(own), {})
    for peer in peers:
        peer_work = work if peer.work is None else peer.work
        pairs = zip(times[peer.name], (own[i] for i in timed_in[peer.name]), strict=True)
        ratio = statistics.median(theirs / mine for theirs, mine in pairs) * work / peer_work
        result.ratios[peer.name] = ratio
        info["peers"][peer.name] = {**spread(times[peer.name]), "work": peer_work, "ratio": ratio}
        result.measure(f"faster than {peer.name}", ratio, "x", peer.must, peer.aim)
    return result


def prove(ours: Callable[[], Any], peers: Sequence[Peer]) -> None:
    """AssertionError unless each peer's answer is ours within its tolerance."""
    for peer in peers:
        if peer.tolerance is not None:
            np.testing.assert_allclose(
                np.asarray(ours()), np.asarray(peer.run()), rtol=0, atol=peer.tolerance, err_msg=f"peer {peer.name}"
            )


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """What is kept of a list of times: quartiles, the least, and how many."""
    q1, median, q3 = np.quantile(seconds, [0.25, 0.5, 0.75]).tolist()
    return {"median": median, "q1": q1, "q3": q3, "min": min(seconds), "rounds": len(seconds)}


def elsewhere() -> Callable[[], float | None]:
    """Starts a measurement of the processor time that other processes take; the call returns it, in processors.

    A number well above zero says that times (and, with many threads, ratios too) were disturbed. None where the system
    does not tell.
    """
    start, machine, own = time.perf_counter(), _machine_busy(), _own_busy()

    def stop() -> float | None:
        now = _machine_busy()
        if machine is None or now is None:
            return None
        busy = (now - machine) - (_own_busy() - own)
        return round(max(busy, 0.0) / (time.perf_counter() - start), 2)

    return stop


def _machine_busy() -> float | None:
    """Seconds in which any processor of the machine did anything but wait, since it was started."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _waiting, interrupt, soft_interrupt, stolen = (int(field) for field in fields[:8])
    return (user + nice + system + interrupt + soft_interrupt + stolen) / os.sysconf("SC_CLK_TCK")


def _own_busy() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
