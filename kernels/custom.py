"""Functions of the user's own, compiled once per dtype to a C function that native code calls by its address."""

import numpy as np
from numba import cfunc, njit, types
from numba.core import errors
from numba.core.dispatcher import Dispatcher

DTYPES = types.float32, types.float64


def inlined(function, owner, what):
    """A user's @njit function for use in native code: divisions by zero give infinity or NaN, not an exception."""
    if not isinstance(function, Dispatcher):
        raise TypeError(f"{owner}: {what} must be a function decorated with numba.njit, got {function!r}")
    options = {name: value for name, value in function.targetoptions.items() if name != "nopython"}
    return njit(**{**options, "error_model": "numpy"})(function.py_func)


def c_function(source, signature, kind, owner):
    """`source` as a C function of this signature, which lives as long as the result."""
    try:
        return cfunc(signature, error_model="numpy")(source)
    except errors.NumbaError as error:
        raise TypeError(f"{owner}: Numba can't compile it for {kind}: {error}") from None


def bits(function):
    """The address of a C function as the bits of a float64, for tables of floats."""
    return np.int64(function.address).view(np.float64)
