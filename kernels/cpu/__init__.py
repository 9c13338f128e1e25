"""The CPU engine: compiled by numba, one thread a core, the same functions as `kernels.reference`.

Whitening a tile of points is nearly all the work of every operation, so one register-blocked routine (`tile.py`) serves
them all. Work is split over threads by group or by panel of points and never within a sum, so the number of threads
does not change a bit of the result.
"""

from kernels.cpu.component_statistics import component_statistics
from kernels.cpu.em_statistics import em_statistics
from kernels.cpu.gaussian_log_density import gaussian_log_density
from kernels.cpu.gibbs_sweep import gibbs_sweep
from kernels.cpu.mixture_log_density import mixture_log_density
from kernels.cpu.split_merge import split_merge
from kernels.cpu.student_t_log_density import student_t_log_density

__all__ = [
    "component_statistics",
    "em_statistics",
    "gaussian_log_density",
    "gibbs_sweep",
    "mixture_log_density",
    "split_merge",
    "student_t_log_density",
]
