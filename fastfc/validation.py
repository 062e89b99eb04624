"""The edge: what a user passes becomes an array or number the kernels take, or a clear error."""

import math
import operator
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfc import frames as tables
from fastfc.kernels.runtime import kernel as boundary

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
    """`a` as an array of real numbers of any dtype."""
    if type(a) is np.ndarray and a.dtype.kind in "biuf":
        return a
    if boundary.is_masked(a):
        raise TypeError(f"{owner}: {what} is a masked array; fill it first, for example with {what}.filled(0)")
    given = tables.as_array(a, owner, what) if tables.is_table(a) else a
    try:
        array: NDArray[Any] = boundary.as_array(given, f"{owner}: {what}")
    except (TypeError, ValueError, RuntimeError) as error:  # the last of PyTorch
        reason = unsuitable(a, what) or (
            f"can't be made an array: {error}" if isinstance(error, RuntimeError) else None
        )
        if reason is None:
            raise
        raise TypeError(f"{owner}: {what} {reason}") from None
    if array.dtype.kind not in "biuf":
        reason = unsuitable(a, what) or f"has dtype {array.dtype}{made_of(a)}; give real numbers, e.g. as np.float32"
        raise TypeError(f"{owner}: {what} {reason}")
    return array


def unsuitable(a: Any, what: str) -> str | None:
    """What is wrong with something that looks like an array, and what to do; None for what nobody can know."""
    kind = type(a).__name__
    if hasattr(a, "nnz") and hasattr(a, "toarray"):
        return f"is a sparse matrix, {kind}; give {what}.toarray(), or if that is too large batches of its rows"
    if hasattr(a, "collect") and hasattr(a, "lazy"):
        return f"is a {kind}, which has no rows yet; give {what}.collect()"
    if hasattr(a, "detach") and hasattr(a, "requires_grad"):
        return unsuitable_tensor(a, what)
    if isinstance(a, Mapping):
        return f"is a {kind}; give an array with a row for each sample, such as np.column_stack(list({what}.values()))"
    names = getattr(getattr(a, "dtype", None), "names", None)
    if names:
        return f"has the fields {', '.join(names)}; use numpy.lib.recfunctions.structured_to_unstructured({what})"
    return None


def unsuitable_tensor(a: Any, what: str) -> str | None:
    """The same of a tensor of PyTorch."""
    wrong, fix = [], what
    for is_so, says, then in (
        (a.requires_grad, "needs a gradient", ".detach()"),
        (a.device.type != "cpu", f"is on the device {a.device}", ".cpu()"),
        (str(a.layout) != "torch.strided", f"has the layout {a.layout}", ".to_dense()"),
        (str(a.dtype) == "torch.bfloat16", "is bfloat16", ".float()"),
        (a.is_neg(), "is not negated yet", ".resolve_neg()"),
    ):
        if is_so:
            wrong.append(says)
            fix += then
    return f"is a tensor that {' and '.join(wrong)}; give {fix}" if wrong else None


def made_of(a: Any) -> str:
    """What it is, if that is neither an array nor of Python's own."""
    return "" if type(a).__module__ in ("numpy", "builtins") else f", made of a {type(a).__name__}"


def float_dtype(dtype: Any, owner: object) -> np.dtype[Any]:
    """float32 or float64 in the machine's byte order, else TypeError."""
    try:
        found = None if dtype is None else np.dtype(dtype)  # NumPy's None is float64
    except (TypeError, ValueError, SyntaxError):  # the last for ",f4"
        found = None
    if found is None or found not in FLOATS:  # NumPy's dtypes equal None
        raise TypeError(f"{owner}: dtype must be np.float32 or np.float64, got {found or repr(dtype)}")
    return found


def positive_int(value: Any, owner: object, what: str, *, or_zero: bool = False) -> int:
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{owner}: {what} must be an integer, got {value!r}") from None
    if value < 1 - or_zero:
        raise ValueError(f"{owner}: {what} must be at least {1 - or_zero}, got {value}")
    if value >= 1 << 63:
        raise ValueError(f"{owner}: {what} must be less than 2**63")
    return value


def real_number(value: Any, owner: object, what: str) -> float:
    if not isinstance(value, Real):
        raise TypeError(f"{owner}: {what} must be a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{owner}: {what} must be finite and fit in a float") from None


def finite_number(value: Any, owner: object, what: str) -> float:
    number = real_number(value, owner, what)
    if not math.isfinite(number):
        raise ValueError(f"{owner}: {what} must be finite, got {value}")
    return number


def positive_number(value: Any, owner: object, what: str, *, or_zero: bool = False) -> float:
    number = real_number(value, owner, what)
    if not (math.isfinite(number) and (number > 0 or (or_zero and number == 0))):
        rule = "not negative" if or_zero else "positive"
        raise ValueError(f"{owner}: {what} must be finite and {rule}, got {value}")
    return number


def fraction(value: Any, owner: object, what: str) -> float:
    """A number from 0 to 1."""
    number = real_number(value, owner, what)
    if not 0 <= number <= 1:
        raise ValueError(f"{owner}: {what} must lie in [0, 1], got {value}")
    return number


def flag(value: Any, owner: object, what: str) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{owner}: {what} must be True or False, got {value!r}")
    return bool(value)


def choice(value: Any, owner: object, what: str, allowed: Iterable[str | None]) -> Any:
    allowed = tuple(allowed)
    if isinstance(value, np.ndarray) or value not in allowed:  # an array compares its elements
        raise ValueError(
            f"{owner}: {what} must be one of {', '.join(map(repr, allowed))}, got {value!r}"
            + did_you_mean(value, allowed)
        )
    return value


def plural(n: int, noun: str) -> str:
    """So many of a noun, as in "1 step" and "1,024 steps"."""
    return f"{n:,} {noun}" + "s" * (n != 1)


def did_you_mean(name: Any, known: Iterable[Any]) -> str:
    """The end of an error about a name that is not known: the nearest of those that are, if one is near."""
    if not isinstance(name, str):
        return ""
    # without what people spell differently: LeakyReLU, leaky-relu, leaky_relu
    plain = {plainly(other): other for other in known if isinstance(other, str)}
    import difflib  # only mistakes need it

    near = difflib.get_close_matches(plainly(name), plain, n=1)
    return f"; did you mean {plain[near[0]]!r}?" if near else ""


def plainly(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


def unknown(what: str, name: Any, known: Iterable[str]) -> ValueError:
    """The error about a name that is not known: all that are, and the nearest."""
    known = tuple(known)
    return ValueError(f"unknown {what} {name!r}; known are {', '.join(map(repr, known))}{did_you_mean(name, known)}")


def listed(values: Any, owner: object, what: str, example: str) -> list[Any]:
    """What is in a sequence that is not a string."""
    if isinstance(values, str | bytes) or not np.iterable(values):
        raise TypeError(f"{owner}: {what} must be a sequence such as {example}, got {values!r}")
    return list(values)


def as_generator(seed: Any, owner: object) -> np.random.Generator:
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{owner}: seed must be an int of at least 0, a numpy.random.Generator or None, got {seed!r}"
        ) from None
