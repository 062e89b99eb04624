"""Dropout: y = x m / (1 − p), where the mask m is 0 with probability p and 1 otherwise.

The mask is never stored. Whether an element is dropped is decided by 32 random bits, a hash of a key and of the
element's number (row · columns + column), so the same bits come again in backward, and for any instruction set,
dtype and number of threads. The key is made of the layer's seed, its step in the program, and the number of the
forward in training. Masks repeat after 2³² elements.
"""

from collections import namedtuple

import numpy as np
from numba import types

from fastfc.kernels.ops.matrix import element, matrix_type
from fastfc.kernels.runtime.native import compiled_kernel
from fastfc.kernels.runtime.status import OK
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import itemsize
from fastfc.kernels.simd.random import chosen
from fastfc.kernels.simd.vector import load, load_first, store, store_first, width

# The key of a mask and its p, and numbers that x is multiplied by before and after it.
Mask = namedtuple("Mask", ["key", "p", "before", "after"])
mask_type = types.NamedTuple([types.int64, *[types.float64] * 3], Mask)


@helper
def mix(x):
    """A bijection of 64-bit integers that changes half of the bits: the finaliser of SplitMix64 (Steele 2014)."""
    x = np.uint64(x)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@helper
def key(seed, step, rng_step):
    """64 bits that differ for each seed, step and draw."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    once = mix(np.uint64(seed) + golden)
    return np.int64(mix(mix(once + np.uint64(step) * golden) + np.uint64(rng_step) * golden))


@helper
def skip(random, count):
    """The key with which element i has the bits that element i + count has with this one."""
    low = np.int64(0xFFFFFFFF)
    return (random & ~low) | ((random + count) & low)


@compiled_kernel(
    lambda dtype: types.int64(*[matrix_type(dtype)] * 2, *[types.int64] * 2, mask_type, types.int64), optional=True
)
def apply_dropout(x, y, n, columns, mask, add):
    """y (+)= x before m / (1 − p) after: forward, and backward with the gradients for x and y."""
    size, lanes = itemsize(x.data), width(x.data)
    contiguous = x.column == size and y.column == size
    if contiguous and x.row == columns * size and y.row == x.row:
        n, columns = 1, n * columns
    threshold = min(np.int64(np.rint((1.0 - mask.p) * 2.0**32)), (1 << 32) - 1)
    scale = 1.0 / (1.0 - mask.p) if mask.p < 1.0 else 0.0
    whole, step = (columns - columns % lanes, lanes) if contiguous else (0, 1)
    for r in range(n):
        for j in range(0, whole, lanes):
            src = element(y, r, j)
            factors = chosen(src, mask.key, r * columns + j, threshold, scale)
            value = load(element(x, r, j)) * mask.before * factors * mask.after
            store(src, load(src) + value if add else value)
        for j in range(whole, columns, step):
            src, count = element(y, r, j), min(step, columns - j)
            factors = chosen(src, mask.key, r * columns + j, threshold, scale)
            value = load_first(element(x, r, j), count, 0.0) * mask.before * factors * mask.after
            store_first(src, load_first(src, count, 0.0) + value if add else value, count)
    return OK
