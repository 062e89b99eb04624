"""Predictions of many networks, or of one with many vectors of parameters, on the same samples in one call."""

from numba import types

from fastfc.kernels.program.interpreter import MANY_ROWS, predict
from fastfc.kernels.program.table import Header
from fastfc.kernels.runtime.arrays import deal, matrix_of, take_next
from fastfc.kernels.runtime.kernel import kernel
from fastfc.kernels.runtime.status import BAD_SHAPE, OK
from fastfc.kernels.runtime.threads import thread_range
from fastfc.kernels.simd.compiler import helper


@helper
def blocks_of_rows(programs, n, k, n_threads):
    """Into how many blocks of rows the samples are cut, so that threads have some four jobs each."""
    for i in range(programs.shape[0]):
        program = matrix_of(programs, programs, i, 0)
        if program[0, Header.WHOLE]:
            return 1
    return max(1, min(4 * n_threads // max(k, 1), n // MANY_ROWS))


@helper
def predict_members_range(params, programs, x, out, n_blocks, taken, index, n_threads):
    """Predict blocks of rows of members, as long as there are any."""
    n, status = x.shape[0], OK
    job = take_next(taken)
    while job < params.shape[0] * n_blocks:
        k, block = job // n_blocks, job % n_blocks
        first, last = thread_range(block, n_blocks, n)
        program = matrix_of(programs, programs, min(k, programs.shape[0] - 1), 0)
        rows = out[k * n + first : k * n + last]
        status = max(status, predict(params[k], program, x[first:last], rows, 1, 1))
        job = take_next(taken)
    return status


@kernel(
    "params[k, v], programs:int64[p, f], x[n, i] -> out[m, o]",
    types.int64,
    wrong_index=lambda params, programs, x, *rest: "x holds what is not a row of an Embedding",
)
def predict_members(params, programs, x, out, n_threads):
    """out[k n + r] = the output of program k for sample r with the parameters and buffers params[k].

    One program is for all. Threads take members times blocks of rows.
    """
    k, n = params.shape[0], x.shape[0]
    if out.shape[0] != k * n or programs.shape[0] not in (1, k):
        return BAD_SHAPE
    if out.size == 0:
        return OK
    n_blocks = blocks_of_rows(programs, n, k, n_threads) if n_threads > 1 else 1
    return deal(predict_members_range, (params, programs, x, out, n_blocks), n_threads)
