"""Log-density of every point under every Student-t component, on the GPU: the kernel of `gaussian_log_density.py`."""

from torch import Tensor

from kernels.triton.gaussian_log_density import component_log_density


def student_t_log_density(x: Tensor, location: Tensor, precision_chol: Tensor, df: Tensor) -> Tensor:
    """See `kernels.student_t_log_density`."""
    return component_log_density(x, location, precision_chol, df)
