"""What one core can do, measured now: the yardsticks of every claim of speed."""

import time

import numpy as np
from numba import njit

from fastfc.kernels.runtime.native import DTYPES
from fastfc.kernels.simd.isa import lanes
from fastfc.kernels.simd.memory import at, itemsize, pointer
from fastfc.kernels.simd.vector import fma, load, splat, store, width


@njit(nogil=True)
def multiply_add(x, times):
    """Twelve independent chains of fused multiply-adds that never leave the registers."""
    p = pointer(x)
    a, b = load(p), splat(p, 0.5)
    # all different, or LLVM may find that the chains are one
    s0, s1, s2, s3, s4, s5 = a, a + 1.0, a + 2.0, a + 3.0, a + 4.0, a + 5.0
    s6, s7, s8, s9, s10, s11 = a + 6.0, a + 7.0, a + 8.0, a + 9.0, a + 10.0, a + 11.0
    for _ in range(times):
        s0, s1, s2, s3 = fma(s0, b, a), fma(s1, b, a), fma(s2, b, a), fma(s3, b, a)
        s4, s5, s6, s7 = fma(s4, b, a), fma(s5, b, a), fma(s6, b, a), fma(s7, b, a)
        s8, s9, s10, s11 = fma(s8, b, a), fma(s9, b, a), fma(s10, b, a), fma(s11, b, a)
    store(p, s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7 + s8 + s9 + s10 + s11)


@njit(nogil=True)
def read_all(x):
    p = pointer(x)
    step = width(p) * itemsize(p)
    s0 = s1 = s2 = s3 = splat(p, 0.0)
    for _ in range(x.size // (4 * width(p))):
        s0, s1 = s0 + load(p), s1 + load(at(p, step))
        s2, s3 = s2 + load(at(p, 2 * step)), s3 + load(at(p, 3 * step))
        p = at(p, 4 * step)
    store(pointer(x), s0 + s1 + s2 + s3)


def fastest(run, *args, repeat=9):
    """Seconds of the fastest of some runs, after one that compiles."""
    run(*args)
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        run(*args)
        times.append(time.perf_counter() - begin)
    return min(times)


def fma_peak(dtype=np.float32):
    """Fused multiply-adds of one core, in GFLOP/s (10⁹ multiplications and additions a second)."""
    count = lanes(DTYPES[np.dtype(dtype)])
    times = 1_000_000
    seconds = fastest(multiply_add, np.ones(count, dtype), times)
    return 2 * 12 * count * times / seconds / 1e9


def read_bandwidth(mebibytes=256):
    """Bytes that one core reads from memory, in GB/s (10⁹ bytes a second)."""
    x = np.ones(mebibytes << 18, np.float32)  # zeros would all be one page of memory
    return x.nbytes / fastest(read_all, x) / 1e9
