"""The CPU engine: compiled by numba, one thread a core, the same functions as `kernels.reference`.

Whitening a tile of points is nearly all the work of every operation, so one register-blocked routine (`tile.py`) serves
them all. Work is split over threads by group or by panel of points and never within a sum, so the number of threads
does not change a bit of the result.
"""

import atexit
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numba import config as numba_config
from numba.misc.appdirs import AppDirs

config: Any = numba_config  # its names are made when it is imported


@contextmanager
def _cache_of_these_sources() -> Iterator[None]:
    """Compiled code is kept from run to run, in a folder named after the sources.

    Numba on its own compares only the file of a compiled function, not those of the functions that it calls, and would
    go on using old code after an update. The folder lies where the user wants it (NUMBA_CACHE_DIR), else beside the
    sources, or among the user's own where nothing can be written there, or is for this process alone.
    """
    chosen, package = config.CACHE_DIR, Path(__file__).resolve().parent
    sources = b"".join(path.read_bytes() for path in sorted(package.glob("*.py")))
    name = hashlib.sha256(sources).hexdigest()[:16]
    places = [chosen] if chosen else []
    places += [package / "__pycache__", AppDirs("numba", appauthor=False).user_cache_dir]
    found = next((str(Path(place, name)) for place in places if _can_write(Path(place, name))), None)
    config.CACHE_DIR = found or _for_this_process()
    try:
        yield
    finally:
        config.CACHE_DIR = chosen


def _for_this_process() -> str:
    """A folder that nobody else can know of, gone at the end: whoever could write to it could have code run."""
    folder = tempfile.mkdtemp(prefix="numba-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


with _cache_of_these_sources():
    from kernels.cpu.component_statistics import component_statistics
    from kernels.cpu.em_statistics import em_statistics
    from kernels.cpu.gaussian_log_density import gaussian_log_density
    from kernels.cpu.gibbs_sweep import gibbs_sweep
    from kernels.cpu.log_joint import log_joint
    from kernels.cpu.mixture_log_density import mixture_log_density
    from kernels.cpu.precision_cholesky import precision_cholesky
    from kernels.cpu.split_merge import split_merge
    from kernels.cpu.student_t_log_density import student_t_log_density

__all__ = [
    "component_statistics",
    "em_statistics",
    "gaussian_log_density",
    "gibbs_sweep",
    "log_joint",
    "mixture_log_density",
    "precision_cholesky",
    "split_merge",
    "student_t_log_density",
]
