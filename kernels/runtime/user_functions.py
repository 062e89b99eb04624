"""Functions of the user's own: compiled once for each dtype, and called by addresses that tables hold as numbers."""

import inspect
from functools import cache

import numpy as np
from numba import cfunc, njit, types
from numba.core import errors
from numba.core.dispatcher import Dispatcher

from fastfc.kernels.runtime.cache import compile_lock
from fastfc.kernels.runtime.native import DTYPES
from fastfc.kernels.simd.memory import address, at, itemsize, read, vector, write


@cache
def function_pointer(owner, make, *functions):
    """Where the addresses of C functions stand, for float32 and float64 (see simd.call_at), as bits of a float64.

    `make` takes the functions and a dtype, and returns source and signature; the functions are (what, function).
    """
    compiled = []
    with compile_lock():
        for dtype in DTYPES.values():
            source, signature = make(*(inlined(f, owner, what) for what, f in functions), dtype)
            try:
                compiled.append(cfunc(signature, error_model="numpy")(source))
            except errors.NumbaError as error:
                raise TypeError(f"{owner}: Numba can't compile it for {dtype}: {error}") from None
    addresses = np.array([function.address for function in compiled])
    kept_alive.append((addresses, compiled))
    return float(np.int64(addresses.ctypes.data).view(np.float64))


kept_alive: list[tuple[object, object]] = []  # as long as the process lives, as programs and tables hold the places


def parameters(function, owner, what):
    """The number of parameters of a user's @njit function."""
    if not isinstance(function, Dispatcher):
        raise TypeError(f"{owner}: {what} must be decorated with numba.njit, got {function!r}")
    return len(inspect.signature(function.py_func).parameters)


def inlined(function, owner, what):
    """A user's @njit function for use in native code: divisions by zero give infinity or NaN, not an exception."""
    parameters(function, owner, what)
    options = {name: value for name, value in function.targetoptions.items() if name != "nopython"}
    return njit(**{**options, "error_model": "numpy"})(function.py_func)


def numbers_row(f, dtype):
    """out = g f(x), for f of a number; forward without g."""
    f.compile((dtype,))
    given = f.overloads[(dtype,)].signature.return_type
    if not isinstance(given, types.Float):
        raise TypeError(
            f"Elementwise: a function of a number must return a float; {f.__name__} returns {given} for {dtype}"
        )

    def row(count, x, g, out, forward):
        size = itemsize(x)
        for j in range(count):
            value = f(read(at(x, j * size)))
            write(at(out, j * size), value if forward else read(at(g, j * size)) * value)
        return 0.0

    return row, row_signature(dtype)


def function_row(f, dtype):
    """f(x, out)"""

    def row(count, x, g, out, forward):
        z, y = vector(x, count), vector(out, count)
        f(z.copy() if address(z) == address(y) else z, y)
        return 0.0

    return row, row_signature(dtype)


def derivative_row(f, dtype):
    """f(x, g, out)"""

    def row(count, x, g, out, forward):
        z, dy, dz = vector(x, count), vector(g, count), vector(out, count)
        z, dy = z.copy() if address(z) == address(dz) else z, dy.copy() if address(dy) == address(dz) else dy
        f(z, dy, dz)
        return 0.0

    return row, row_signature(dtype)


def row_signature(dtype):
    return types.float64(types.int64, *[types.CPointer(dtype)] * 3, types.int64)


def activation_pointers(function, derivative):
    """The places of an activation and its derivative, each of a number or of arrays."""
    return [
        function_pointer("Elementwise", row_of(f, what, *of_arrays), (what, f))
        for f, what, *of_arrays in (
            (function, "function", function_row, "(x, out)"),
            (derivative, "derivative", derivative_row, "(x, grad_output, out)"),
        )
    ]


def row_of(f, what, of_arrays, form):
    count = parameters(f, "Elementwise", what)
    if count not in (1, form.count(",") + 1):
        raise TypeError(
            f"Elementwise: {what} takes (x), a number, or {form}, arrays; {f.__name__} takes {count} arguments"
        )
    return numbers_row if count == 1 else of_arrays
