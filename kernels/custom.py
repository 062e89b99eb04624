"""Functions of the user's own: compiled once for each dtype, and called by addresses that tables hold as numbers."""

import numpy as np
from numba import cfunc, njit, types
from numba.core import errors
from numba.core.dispatcher import Dispatcher

from fastfc.kernels.activations import CUSTOM, Activation
from fastfc.kernels.cache import compile_lock
from fastfc.kernels.edge import DTYPES

# by the functions; kept for as long as the process lives, as programs and compiled code hold the addresses
activations: dict[tuple[Dispatcher, Dispatcher], tuple[Activation, object]] = {}


def activation(function, derivative):
    """The Activation of two compiled functions of a number."""
    for f, what in ((function, "function"), (derivative, "derivative")):
        if not isinstance(f, Dispatcher):
            raise TypeError(f"Elementwise: {what} must be decorated with numba.njit, got {f!r}")
    key = function, derivative
    with compile_lock():
        if key not in activations:
            compiled = [
                [compile_row(make, f, what, dtype) for dtype in DTYPES.values()]
                for make, f, what in ((forward, function, "function"), (backward, derivative, "derivative"))
            ]
            addresses = np.array([[address(row) for row in rows] for rows in compiled], np.uint64)
            places = addresses.ctypes.data + np.array([0, addresses.strides[0]], np.uint64)
            activations[key] = Activation(CUSTOM, *map(float, places.view(np.float64))), (addresses, compiled)
    return activations[key][0]


def forward(f):
    def row(x, g, out, count):
        for i in range(count):
            out[i] = f(x[i])
        return 0

    return row


def backward(f):
    def row(x, g, out, count):
        for i in range(count):
            out[i] = g[i] * f(x[i])
        return 0

    return row


def compile_row(make, f, what, dtype):
    """The compiled function (x, g, out, count) -> int64 of pointers, see simd.call_at."""
    f.compile((dtype,))
    given = f.overloads[(dtype,)].signature.return_type
    if not isinstance(given, types.Float):
        raise TypeError(f"Elementwise: {what} must return a float for a {dtype}; {f.__name__} returns {given}")
    row = njit(types.int64(*[types.CPointer(dtype)] * 3, types.int64), nogil=True, error_model="numpy")(make(f))
    [result] = row.overloads.values()
    return result


def address(result):
    return result.library.get_pointer_to_function(result.fndesc.llvm_func_name)


def inlined(function, owner, what):
    """A user's @njit function for use in native code: divisions by zero give infinity or NaN, not an exception."""
    if not isinstance(function, Dispatcher):
        raise TypeError(f"{owner}: {what} must be decorated with numba.njit, got {function!r}")
    options = {name: value for name, value in function.targetoptions.items() if name != "nopython"}
    return njit(**{**options, "error_model": "numpy"})(function.py_func)


def c_function(source, signature, dtype, owner):
    """`source` as a C function of this signature, which lives as long as the result."""
    try:
        return cfunc(signature, error_model="numpy")(source)
    except errors.NumbaError as error:
        raise TypeError(f"{owner}: Numba can't compile it for {dtype}: {error}") from None


def bits(function):
    """The address of a C function as the bits of a float64, for tables of floats."""
    return np.int64(function.address).view(np.float64)
