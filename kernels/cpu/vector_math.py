"""exp and log1p of many float64 numbers at once, in plain loops that compilers turn into vector instructions.

Measured on one core with AVX-512: 1.4 ns and 4 ns a number; a call of the library's function a number takes 4 and 10,
as long as whitening a point in 16 dimensions. Errors are below two units in the last place in the ranges stated.
"""

import numpy as np

from kernels.cpu.compiled import leaf
from kernels.cpu.tile import FASTMATH

LOG2_E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10
"""ln 2 in two parts, so that n ln2 can be subtracted exactly."""
ROUND = 1.5 * 2.0**52
"""Adding this rounds to an integer, which then stands in the lowest bits."""
INVERSE_FACTORIALS = tuple(1 / float(np.prod(np.arange(1.0, k + 1))) for k in range(14))


@leaf(fastmath=FASTMATH)
def exp(x: np.ndarray, power: np.ndarray, out: np.ndarray) -> None:
    """out = e^x for x in -708..708, as 2^n e^r with |r| <= ln2 / 2; `power` is overwritten. All float64 [n]."""
    bits = power.view(np.int64)
    for j in range(len(x)):
        shifted = x[j] * LOG2_E + ROUND
        n = shifted - ROUND
        power[j] = shifted
        r = (x[j] - n * LN2_HIGH) - n * LN2_LOW
        p = INVERSE_FACTORIALS[13]
        p = p * r + INVERSE_FACTORIALS[12]
        p = p * r + INVERSE_FACTORIALS[11]
        p = p * r + INVERSE_FACTORIALS[10]
        p = p * r + INVERSE_FACTORIALS[9]
        p = p * r + INVERSE_FACTORIALS[8]
        p = p * r + INVERSE_FACTORIALS[7]
        p = p * r + INVERSE_FACTORIALS[6]
        p = p * r + INVERSE_FACTORIALS[5]
        p = p * r + INVERSE_FACTORIALS[4]
        p = p * r + INVERSE_FACTORIALS[3]
        p = p * r + 0.5
        p = p * r + 1
        out[j] = p * r + 1
    for j in range(len(x)):
        bits[j] = (bits[j] + 1023) << 52  # the exponent field of 2^n
    for j in range(len(x)):
        out[j] *= power[j]


@leaf(fastmath=FASTMATH)
def log1p(x: np.ndarray, power: np.ndarray, out: np.ndarray) -> None:
    """out = log(1 + x) for finite x >= 0 (or, by rounding, a little below), as n ln2 + log(m), m in 0.7..1.5; `power`
    is overwritten. All float64 [n].

    log(m) = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.18, as a series in s^2. What rounding 1 + x loses is added back.
    """
    bits = power.view(np.int64)
    for j in range(len(x)):
        power[j] = 1 + x[j]
    for j in range(len(x)):
        # The exponent of y sqrt(2), about: it splits y = 2^n m so that m lies around 1.
        n = ((bits[j] + 0x95F619980C433) >> 52) - 1023
        bits[j] = bits[j] - (n << 52)
        out[j] = n
    for j in range(len(x)):
        m = power[j]
        s = (m - 1) / (m + 1)
        z = s * s
        p = 1 / 23
        p = p * z + 1 / 21
        p = p * z + 1 / 19
        p = p * z + 1 / 17
        p = p * z + 1 / 15
        p = p * z + 1 / 13
        p = p * z + 1 / 11
        p = p * z + 1 / 9
        p = p * z + 1 / 7
        p = p * z + 1 / 5
        p = p * z + 1 / 3
        y = 1 + x[j]
        lost = (x[j] - (y - 1)) / y
        n = out[j]
        out[j] = n * LN2_HIGH + ((2 * s + (2 * s) * (z * p)) + (n * LN2_LOW + lost))
