"""A kernel that is compiled on demand, and one that calls it on several threads."""

from numba import types

from fastfc.kernels.runtime.kernel import kernel
from fastfc.kernels.runtime.native import on_demand_kernel
from fastfc.kernels.runtime.pool import parallel
from fastfc.kernels.runtime.threads import thread_range
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import at, itemsize, pointer, read, write


@on_demand_kernel(lambda dtype: types.int64(*[types.CPointer(dtype)] * 2, types.int64))
def late(x, out, count):
    for j in range(count):
        write(at(out, j * itemsize(out)), read(at(x, j * itemsize(x))) + 1)
    return 0


@helper
def late_range(x, out, index, n_threads):
    first, last = thread_range(index, n_threads, out.size)
    return late(pointer(x[first:last]), pointer(out[first:last]), last - first)


@kernel("x[n] -> out[n]", types.int64)
def call_late(x, out, n_threads):
    """out = x + 1, of neighbours in memory."""
    if n_threads > 1:
        return parallel(late_range, (x, out), n_threads)
    return late(pointer(x), pointer(out), x.size)
