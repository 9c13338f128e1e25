"""The Triton engine, for GPUs: one file an operation, the same functions as `kernels.reference`.

Without a GPU the kernels run under Triton's interpreter, on CPU tensors (TRITON_INTERPRET=1 before Python starts), and
compile for every target ahead of time (`python -m kernels.aot`).
"""

import triton

if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 5):
    raise ImportError(f"the kernels need Triton 3.5 or newer, as torch 2.9 brings it; this is {triton.__version__}")

from kernels.triton.component_statistics import component_statistics
from kernels.triton.em_statistics import em_statistics
from kernels.triton.gaussian_log_density import gaussian_log_density
from kernels.triton.gibbs_sweep import gibbs_sweep
from kernels.triton.log_joint import log_joint
from kernels.triton.mixture_log_density import mixture_log_density
from kernels.triton.precision_cholesky import precision_cholesky
from kernels.triton.split_merge import split_merge
from kernels.triton.student_t_log_density import student_t_log_density

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
