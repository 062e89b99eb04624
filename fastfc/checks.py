"""The edge: what a user passes becomes an array or number the kernels take, or a clear error."""

import math
import operator
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def as_floats(a: ArrayLike, dtype: Any, owner: object, what: str) -> NDArray[Any]:
    """`a` as an array of `dtype`, copied only if it must be; TypeError if it does not hold real numbers.

    With `dtype` None, float32 and float64 stay as they are and other numbers become float32.
    """
    if type(a) is np.ndarray and a.dtype == dtype:
        return a
    a = as_real(a, owner, what)
    if dtype is None:
        native = a.dtype.newbyteorder("=")
        dtype = native if native in FLOATS else FLOATS[0]
    return a.astype(dtype, copy=False)


def as_real(a: ArrayLike, owner: object, what: str) -> NDArray[Any]:
    """`a` as an array of real numbers of whatever dtype."""
    if type(a) is np.ndarray and a.dtype.kind in "biuf":
        return a
    try:
        a = np.asarray(a)
    except ValueError as error:
        raise ValueError(f"{owner}: {what} has rows of different lengths; make it rectangular") from error
    if a.dtype.kind not in "biuf":
        raise TypeError(f"{owner}: {what} has dtype {a.dtype}; give real numbers, e.g. as np.float32")
    return a


def float_dtype(dtype: Any, owner: object) -> np.dtype[Any]:
    """float32 or float64 in the machine's byte order, else TypeError."""
    if np.dtype(dtype) not in FLOATS:
        raise TypeError(f"{owner}: dtype must be np.float32 or np.float64, got {np.dtype(dtype)}")
    return np.dtype(dtype)


def positive_int(value: Any, owner: object, what: str) -> int:
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{owner}: {what} must be an integer, got {value!r}") from None
    if value < 1:
        raise ValueError(f"{owner}: {what} must be at least 1, got {value}")
    return value


def finite_number(value: Any, owner: object, what: str) -> float:
    if not isinstance(value, Real):
        raise TypeError(f"{owner}: {what} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{owner}: {what} must be finite, got {value}")
    return float(value)


def positive_number(value: Any, owner: object, what: str, *, or_zero: bool = False) -> float:
    if not isinstance(value, Real):
        raise TypeError(f"{owner}: {what} must be a number, got {value!r}")
    number = float(value)
    if not (math.isfinite(number) and (number > 0 or (or_zero and number == 0))):
        rule = "not negative" if or_zero else "positive"
        raise ValueError(f"{owner}: {what} must be finite and {rule}, got {value}")
    return number
