"""Inverse Cholesky factors of many matrices: torch's batched linear algebra on the device, which has no equal here."""

import torch
from torch import Tensor

from kernels.types import PrecisionCholesky


def precision_cholesky(covariance: Tensor) -> PrecisionCholesky:
    matrices = covariance.double().tril()
    factor, info = torch.linalg.cholesky_ex(matrices)
    singular = info != 0
    identity = torch.eye(matrices.shape[-1], dtype=torch.float64, device=matrices.device)
    inverse = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return PrecisionCholesky(
        inverse.masked_fill(singular[:, None, None], torch.nan).to(covariance.dtype),
        log_det.masked_fill(singular, torch.nan),
    )
