"""The one inner loop: a triangular matrix times a tile of points, with its squared norms.

A tile holds LANES points side by side, one feature a row, so that the processor's vectors run over points:

    out[i, :] = sum_{l < n} A[i, l] tile[l, :]        for ROWS rows i at a time, LANES points wide

ROWS x LANES sums live in registers for the whole loop over l: 4 rows of 4 vectors of 64 bytes are 16 of the 32 AVX-512
registers. Per step that is 4 vector loads and 4 broadcasts for 16 fused multiply-adds. Measured on one core with
AVX-512: 59 Gmul-add/s in float32 on the triangle alone, against 82 for the machine's matrix product, which would have
to do twice as many; 64 lanes beat 32 by a factor of 1.5 in float32, and 8 rows spill. LLVM does not find this blocking
in plain loops (14 Gmul-add/s), so the routine is written as vector instructions, which any processor's back end then
splits or fuses.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from kernels.cpu.compiled import leaf

ROWS = 4
TILE_BYTES = 256
FASTMATH = {"contract", "nsz"}
"""Lets the compiler fuse multiply-adds. Nothing is reordered."""


@register_jitable
def lanes(x: np.ndarray) -> int:
    """Points in a tile of x's dtype: 64 in float32, 32 in float64."""
    return TILE_BYTES // x.itemsize


@register_jitable
def padded(n: int) -> int:
    """n rounded up to a multiple of ROWS: features come in blocks of ROWS rows, the last one filled with zeros."""
    return (n + ROWS - 1) // ROWS * ROWS


def _multiply(*, transposed: bool = False, squared: bool = False, n_rows: int = ROWS) -> Any:
    """out[row + r, column + j] = sum_{l < n} matrix[row + r, l] tile[l, column + j] for r < ROWS, j < LANES.

    matrix, tile, out: C-contiguous 2-d arrays of one dtype. With `transposed`, matrix[l, row + r] is read instead. With
    `squared`, the ROWS sums are squared and added to out[0, column + j]. Twice as many rows have half as many lanes. No
    bounds are checked.
    """

    @intrinsic
    def multiply(
        typingctx: Any, matrix: Any, row: Any, n: Any, tile: Any, out: Any, column: Any
    ) -> tuple[Any, Callable]:
        signature = types.void(matrix, types.intp, types.intp, tile, out, types.intp)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            dtype = signature.args[0].dtype
            itemsize = dtype.bitwidth // 8
            width = 64 // itemsize
            scalar = context.get_value_type(dtype)
            vector = ir.VectorType(scalar, width)
            n_vectors = TILE_BYTES // 64 * ROWS // n_rows
            matrix, tile, out = (context.make_array(signature.args[i])(context, builder, args[i]) for i in (0, 3, 4))
            row, n, column = args[1], args[2], args[5]
            stride = {id(a): cgutils.unpack_tuple(builder, a.shape)[1] for a in (matrix, tile, out)}

            def constant(value: int) -> Any:
                return ir.Constant(row.type, value)

            def address(array: Any, i: Any, j: Any) -> Any:
                return builder.gep(array.data, [builder.add(builder.mul(i, stride[id(array)]), j)])

            def vector_address(array: Any, i: Any, v: int) -> Any:
                return builder.bitcast(address(array, i, builder.add(column, constant(v * width))), vector.as_pointer())

            fma = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{width}f{dtype.bitwidth}"
            )
            rows = [builder.add(row, constant(r)) for r in range(n_rows)]
            sums = [[cgutils.alloca_once(builder, vector) for _ in range(n_vectors)] for _ in rows]
            for r in range(n_rows):
                for v in range(n_vectors):
                    builder.store(ir.Constant(vector, None), sums[r][v])
            lane_zero = ir.Constant(ir.VectorType(ir.IntType(32), width), None)
            undefined = ir.Constant(vector, ir.Undefined)
            with cgutils.for_range(builder, n, intp=row.type) as loop:
                points = [builder.load(vector_address(tile, loop.index, v), align=itemsize) for v in range(n_vectors)]
                for r in range(n_rows):
                    place = (loop.index, rows[r]) if transposed else (rows[r], loop.index)
                    entry = builder.load(address(matrix, *place))
                    entry = builder.insert_element(undefined, entry, ir.Constant(ir.IntType(32), 0))
                    entry = builder.shuffle_vector(entry, undefined, lane_zero)
                    for v in range(n_vectors):
                        builder.store(builder.call(fma, [entry, points[v], builder.load(sums[r][v])]), sums[r][v])
            for v in range(n_vectors):
                if squared:
                    place = vector_address(out, constant(0), v)
                    total = builder.load(place, align=itemsize)
                    for r in range(n_rows):
                        value = builder.load(sums[r][v])
                        total = builder.call(fma, [value, value, total])
                    builder.store(total, place, align=itemsize)
                else:
                    for r in range(n_rows):
                        builder.store(builder.load(sums[r][v]), vector_address(out, rows[r], v), align=itemsize)
            return context.get_dummy_value()

        return signature, generate

    return multiply


multiply_rows, multiply_columns, add_squares = _multiply(), _multiply(transposed=True), _multiply(squared=True)
multiply_tall = _multiply(transposed=True, n_rows=2 * ROWS)


@leaf(fastmath=FASTMATH)
def squared_distance(W: np.ndarray, location: np.ndarray, x: np.ndarray, work: np.ndarray, q: np.ndarray) -> None:
    """q = |W (x - location)|^2 for a tile: x, work [Dp, LANES], q [1, LANES], W [Dp, Dp], location [D].

    Rows D..Dp of W and the entries above its diagonal must be zero. `work` is overwritten. Of finite numbers that
    overflow on the way q is inf.
    """
    _centre(x, location, work)
    for j in range(x.shape[1]):
        q[0, j] = 0
    for i in range(0, len(W), ROWS):
        add_squares(W, i, i + ROWS, work, q, 0)
    for j in range(x.shape[1]):
        # inf - inf or 0 inf: NaN, which the densities would carry on.
        q[0, j] = q[0, j] if q[0, j] == q[0, j] else math.inf


@leaf(fastmath=FASTMATH)
def whiten(W: np.ndarray, location: np.ndarray, x: np.ndarray, work: np.ndarray, y: np.ndarray, q: np.ndarray) -> None:
    """y = W (x - location) and q = |y|^2 for a tile: as `squared_distance`, with y [Dp, LANES] and q [LANES]."""
    n_lanes = x.shape[1]
    _centre(x, location, work)
    for j in range(n_lanes):
        q[j] = 0
    for i in range(0, len(W), ROWS):
        multiply_rows(W, i, i + ROWS, work, y, 0)
        for r in range(i, i + ROWS):
            for j in range(n_lanes):
                q[j] += y[r, j] * y[r, j]


@leaf(fastmath=FASTMATH)
def _centre(x: np.ndarray, location: np.ndarray, work: np.ndarray) -> None:
    """work = x - location for a tile, zero past the last feature."""
    D, n_lanes = len(location), x.shape[1]
    for i in range(D):
        centre = location[i]
        for j in range(n_lanes):
            work[i, j] = x[i, j] - centre
    for i in range(D, len(work)):
        for j in range(n_lanes):
            work[i, j] = 0


@leaf()
def load_tile(x: np.ndarray, rows: np.ndarray, start: int, stop: int, tile: np.ndarray) -> None:
    """tile[:, j] = x[rows[start + j]]; the last point fills the lanes past `stop`, so that no lane holds rubbish."""
    for j in range(tile.shape[1]):
        row = rows[min(start + j, stop - 1)]
        for i in range(x.shape[1]):
            tile[i, j] = x[row, i]


@leaf()
def load_triangle(source: np.ndarray, W: np.ndarray) -> None:
    """Copy the lower triangle of source [D, D] into W [Dp, Dp], whose other entries are zero already."""
    for i in range(len(source)):
        for j in range(i + 1):
            W[i, j] = source[i, j]
