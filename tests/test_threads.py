"""Threads of the CPU engine beside those of torch."""

import threading
import time

import numpy as np
import pytest
import torch

from classfit.prior import group_variances
from kernels.cpu import threads


def of_a_new_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def test_torch_has_one_thread_within_and_the_engine_those_of_torch(two_threads):
    with threads.reserved():
        assert (torch.get_num_threads(), threads.available()) == (1, 2)
        with threads.reserved():
            assert (torch.get_num_threads(), threads.available()) == (1, 2)
        assert (torch.get_num_threads(), threads.available()) == (1, 2)
    assert (torch.get_num_threads(), threads.available(), of_a_new_thread()) == (2, 2, 2)


def test_variances_of_one_feature_do_not_depend_on_the_number_of_threads(two_threads):
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(100_000, 1)))
    found = [group_variances(x, torch.tensor([0, len(x)]))]
    torch.set_num_threads(3)
    found.append(group_variances(x, torch.tensor([0, len(x)])))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_threads_that_overlap_give_back_what_torch_had(two_threads):
    """The second comes while the first is within, and stays longer."""
    found, entered, left = {}, threading.Event(), threading.Event()

    def second():
        with threads.reserved():
            found["within"] = (torch.get_num_threads(), threads.available())
            entered.set()
            assert left.wait(60)
        found["after"] = torch.get_num_threads()

    thread = threading.Thread(target=second)
    with threads.reserved():
        thread.start()
        assert entered.wait(60)
    left.set()
    thread.join()
    assert found == {"within": (1, 2), "after": 2}
    assert (torch.get_num_threads(), of_a_new_thread()) == (2, 2)


def test_calls_that_run_apart_have_one_thread_each(two_threads):
    met = threading.Barrier(2)

    def call(k):
        met.wait(60)  # for the other thread's
        return k, threading.get_ident(), threads.available()

    with threads.reserved():
        found = threads.run_apart(call, [(k,) for k in range(4)])
        assert threads.available() == 2
    assert [k for k, _, _ in found] == [0, 1, 2, 3]
    assert len({thread for _, thread, _ in found}) == 2
    assert {available for _, _, available in found} == {1}


def test_an_error_in_any_thread_is_raised(two_threads):
    """In the helper: the caller's thread waits until the other one is at work."""
    caller, failing = threading.get_ident(), threading.Event()

    def task():
        if threading.get_ident() == caller:
            assert failing.wait(60)
        else:
            failing.set()
            raise MemoryError("of the helper")

    with pytest.raises(MemoryError, match="of the helper"):
        threads.run(task, [(), ()])


def test_after_an_error_the_others_stop_with_the_task_they_are_at(two_threads):
    caller, begun = threading.get_ident(), []

    def task(i):
        begun.append(i)
        if threading.get_ident() == caller:
            raise KeyboardInterrupt
        time.sleep(0.05)

    with pytest.raises(KeyboardInterrupt):
        threads.run(task, [(i,) for i in range(100)])
    assert len(begun) < 100


def test_results_are_in_the_order_of_the_tasks(two_threads):
    """Though the first is done last."""
    done = threading.Event()

    def task(i):
        if i == 0:
            assert done.wait(60)
        else:
            done.set()
        return i

    assert threads.run(task, [(i,) for i in range(5)]) == list(range(5))
