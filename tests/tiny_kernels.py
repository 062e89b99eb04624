"""Kernels that compile in no time, for processes that start with an empty cache; each calls the one before."""

import numpy as np
from numba.extending import overload

from fastfc.kernels.runtime.kernel import kernel

compiled: list[str] = []  # in this process, as one:float64


def compiling(name, x):
    raise NotImplementedError("for nopython code")


@overload(compiling, prefer_literal=True)
def nopython_compiling(name, x):
    compiled.append(f"{name.literal_value}:{x.dtype}")
    return lambda name, x: None


@kernel("x[n] -> out[n]")
def one(x, out):
    compiling("one", x)
    for i in range(x.size):
        out[i] = x[i] + 1
    return 0


@kernel("x[n] -> out[n]")
def two(x, out):
    compiling("two", x)
    return one(x, out)


@kernel("x[n] -> out[n]")
def three(x, out):
    compiling("three", x)
    return two(x, out)


def use(kernel, dtype="f8"):
    out = np.zeros(3, dtype)
    kernel.call(np.arange(3, dtype=dtype), out)
    assert out.tolist() == [1, 2, 3]
