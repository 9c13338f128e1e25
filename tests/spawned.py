"""What tests let other processes do. A process imports the module of its function: this one is quick to import."""

import errno
import os
import time

import numpy as np


def full(_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def broken(_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def made_fit(inside, trial):
    """Right on every point inside, and outside on those with an even number, but for one in three trials."""
    lucky = np.random.default_rng(trial).random(len(inside)) < 1 / 3
    return inside | (np.arange(len(inside)) % 2 == 0) & ~lucky


def slow_fit(inside, trial):
    time.sleep(0.3)
    return made_fit(inside, trial)
