"""Where arrays enter: one native function per kernel and dtype, checked, cached, callable from anywhere.

A kernel is compiled once per dtype, for arrays of any strides. Its machine code is reached through a slot
that holds its address: nopython code that calls it, the user's own included, knows only the name of the
slot. So it compiles in milliseconds, and is compiled anew after an upgrade, see native.Dependency.
"""

import re
import sys
from numbers import Real

import numpy as np
from numba import types
from numba.core.typing.templates import signature

from fastfc.kernels.runtime.cache import compile_lock
from fastfc.kernels.runtime.dispatch import load_missing
from fastfc.kernels.runtime.fastcall import NotLoaded, builtin
from fastfc.kernels.runtime.native import DTYPES, CompiledKernel, load_asked
from fastfc.kernels.runtime.status import OK, OVERLAP, STATUSES, UNKNOWN

# A builtin function takes a tenth of a second to make, and saves some 0.2 ms a call.
CALLS_BEFORE_FASTCALL = 100


def as_array(x, where):
    """np.asarray whose errors say where."""
    try:
        return np.asarray(x)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        if "inhomogeneous" in str(error):
            raise kind(f"{where} has rows of different lengths; make it rectangular") from error
        raise kind(f"{where} can't be made an array: {error}") from error


def is_masked(x):
    """Whether x is a masked array; NumPy imports their module when somebody uses it."""
    module = sys.modules.get("numpy.ma")
    return module is not None and isinstance(x, module.MaskedArray)


def as_scalar(x, kind):
    """A number as the native function takes it, whose own conversion would take text too."""
    if not isinstance(x, Real | np.bool_):
        raise TypeError(f"{x!r} is not a real number")
    return int(x) if isinstance(kind, types.Integer) else float(x)  # type: ignore[arg-type]


class Argument:
    """One array argument as a specification says it: "x[n, i]", "target:int64[n]"."""

    def __init__(self, text, written):
        [(name, kind, dims)] = re.findall(r"(\w+)(?::(\w+))?\[([\w, ]*)\]", text)
        self.name, self.dims, self.written = name, dims.replace(" ", "").split(","), written
        self.kind = getattr(types, kind) if kind else None

    def type(self, dtype):
        return types.Array(self.kind or dtype, len(self.dims), "A", readonly=not self.written, aligned=False)

    def shape(self):
        return "(" + ", ".join(self.dims) + ("," if len(self.dims) == 1 else "") + ")"


class Kernel(CompiledKernel):
    """A native function of arrays that can be called from Python.

    The function returns a status, OK for instance, or a tuple of a status and a float. Python calls `call`.

    Parameters
    ----------
    function : callable
        The nopython source: a function of the arrays and the scalars.
    specification : str
        The arrays, those that are written after the arrow: "x[n, i], weight[i, o] -> out[n, o]".
    *scalars : Numba types
    result : Numba type
    in_place : str, optional
        The argument that the output may be.
    wrong_index : callable, optional
        What BAD_INDEX means, as text, from all arrays.
    """

    from_python = True

    def __init__(self, function, specification, *scalars, result=types.int64, in_place=None, wrong_index=None):
        read, _, written = specification.partition("->")
        find = re.compile(r"\w+(?::\w+)?\[[\w, ]*\]").findall
        self.arguments = [Argument(text, False) for text in find(read)]
        self.arguments += [Argument(text, True) for text in find(written)]
        self.scalars, self.in_place, self.wrong_index = scalars, in_place, wrong_index
        self.call, self.calls = self.slow_path, 0  # after some calls, a builtin function
        super().__init__(
            function,
            lambda dtype: signature(result, *[a.type(dtype) for a in self.arguments], *scalars),
        )

    def slow_path(self, *args):
        """Convert what can be converted and run, or say what is wrong: what `call` does with unusual arguments."""
        given, scalars = args[: len(self.arguments)], args[len(self.arguments) :]
        written = [(x, a) for x, a in zip(given, self.arguments, strict=True) if a.written]
        for out, argument in written:
            self.check_out(out, argument)
        outs = [(x, a) for x, a in written if not a.kind]
        dtype = outs[0][0].dtype
        for out, argument in outs:
            if out.dtype != dtype:
                raise TypeError(
                    f"{self.name}: {argument.name} is {out.dtype}, but another output is {dtype}: "
                    f"one dtype for all, for example {argument.name}.astype({str(dtype)!r})"
                )
        arrays = [
            x if a.written else self.convert(x, a, np.dtype(str(a.kind)) if a.kind else dtype)
            for x, a in zip(given, self.arguments, strict=True)
        ]
        misfit = self.misfit(arrays)
        if misfit is not None:
            raise ValueError(f"{self.name}: {self.wrong_shape(arrays, misfit)}")
        load_asked(DTYPES[dtype], self)
        self.calls += 1
        if self.calls >= CALLS_BEFORE_FASTCALL and self.call == self.slow_path:
            with compile_lock():
                if self.call == self.slow_path:
                    signatures = {kind: self.signature(kind) for kind in DTYPES.values()}
                    self.call = builtin(self.name, self.slot_name, signatures, self.slow_path, self.failed)
        try:
            status, value = self.run(arrays, scalars)
        except (TypeError, ValueError, OverflowError):  # of as_scalar, or a number that is too large
            raise TypeError(f"{self.name}: {', '.join(map(repr, scalars))} should be real numbers") from None
        return self.answer(status, value, arrays, scalars)

    def failed(self, status, *args):
        """What a call with these arguments, which returned this status, gives: it is not run again."""
        return self.answer(status, None, args[: len(self.arguments)], args[len(self.arguments) :])

    def answer(self, status, value, arrays, scalars):
        """The value of a call, or the exception that its status means.

        Where extents overlap and elements don't, as those of interleaved arrays, copies are computed with: a kernel
        that returns OVERLAP has written nothing.
        """
        if status == OVERLAP:
            self.check_overlap(arrays)
            copies = [np.array(x) if a.written else x for x, a in zip(arrays, self.arguments, strict=True)]
            status, value = self.run(copies, scalars)
            if status == OK:
                for target, copy, a in zip(arrays, copies, self.arguments, strict=True):
                    if a.written:
                        target[...] = copy
        if status == OK:
            return value
        meaning = STATUSES.get(status, UNKNOWN)
        details = meaning.details and meaning.details(self, arrays)
        raise meaning.error(f"{self.name}: {details or meaning.text}")

    def run(self, arrays, scalars):
        """Status and value of a native call."""
        dtype = self.element(arrays)
        try:
            result = self.entries[dtype](*arrays, *map(as_scalar, scalars, self.scalars))
        except NotLoaded as error:
            load_missing(error.args[1], dtype)
            return self.run(arrays, scalars)
        return result if isinstance(result, tuple) else (result, None)

    def element(self, arrays):
        """The Numba type of the floats."""
        return next(DTYPES[x.dtype] for x, a in zip(arrays, self.arguments, strict=True) if not a.kind)

    def check_overlap(self, arrays):
        for i, (out, written) in enumerate(zip(arrays, self.arguments, strict=True)):
            for j, (x, a) in enumerate(zip(arrays, self.arguments, strict=True)):
                allowed = a.name == self.in_place and x.ctypes.data == out.ctypes.data and x.strides == out.strides
                if written.written and i != j and not allowed and np.shares_memory(x, out):
                    raise ValueError(
                        f"{self.name}: {written.name} overlaps {a.name} in memory; give it an array of its own"
                    )

    def check_out(self, out, argument):
        where = f"{self.name}: {argument.name}"
        if not isinstance(out, np.ndarray) or is_masked(out):
            raise TypeError(f"{where} must be a NumPy array that can be written into, not {type(out).__name__}")
        wanted = [np.dtype(str(argument.kind))] if argument.kind else list(DTYPES)
        if out.dtype not in wanted or not out.dtype.isnative:
            allowed = " or ".join(map(str, wanted))
            raise TypeError(f"{where} has dtype {out.dtype.str}; it must be {allowed} in native byte order")
        if not out.flags.writeable:
            raise ValueError(f"{where} is read-only; give it a writable array")

    def convert(self, x, argument, dtype):
        where = f"{self.name}: {argument.name}"
        if is_masked(x):
            raise TypeError(f"{where} is a masked array; fill it first, for example with x.filled(0)")
        python = not isinstance(x, np.ndarray)  # numbers in lists have no precision of their own
        x = as_array(x, where)
        if x.dtype == dtype:
            return x
        if dtype.kind == "i":
            if x.dtype.kind in "iub" and (x.dtype.kind != "u" or x.dtype.itemsize < 8):
                return x.astype(dtype)
            raise TypeError(f"{where} must hold integers, not {x.dtype}; convert it with astype(int)")
        if x.dtype.kind in "iub" or (
            x.dtype.kind == "f" and (python or x.dtype.newbyteorder("=") in (np.dtype("f2"), dtype))
        ):
            return x.astype(dtype)
        if x.dtype.kind == "f":
            raise TypeError(
                f"{where} is {x.dtype}, but {self.arguments[-1].name} is {dtype}: "
                f"one dtype for all, for example {argument.name}.astype({str(dtype)!r})"
            )
        raise TypeError(f"{where} has dtype {x.dtype}; give real numbers: float32, float64 or integers")

    def misfit(self, arrays):
        """The first argument whose shape does not fit the ones before it; None if all do."""
        sizes: dict[str, int] = {}
        for x, a in zip(arrays, self.arguments, strict=True):
            fits = x.ndim == len(a.dims)
            for dim, size in zip(a.dims, x.shape, strict=False):
                fits = fits and sizes.setdefault(dim, size) == size
            if not fits:
                return a
        return None

    def wrong_label(self, arrays):
        named = {a.name: x for x, a in zip(arrays, self.arguments, strict=True)}
        if "prediction" not in named:
            return "a class index is negative, or not below the number of classes"
        labels, classes = named["target"], named["prediction"].shape[1]
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        return f"class {wrong} in target, but prediction has {classes} columns: 0 to {classes - 1}"

    def wrong_shape(self, arrays, misfit=None):
        """What does not fit, as text: of a call that returned BAD_SHAPE the last argument, if nothing else tells."""
        misfit = misfit or self.misfit(arrays) or self.arguments[-1]
        shapes = {a.name: x.shape for x, a in zip(arrays, self.arguments, strict=True)}
        got = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        needed = ", ".join(f"{a.name} {a.shape()}" for a in self.arguments)
        return f"{misfit.name} {shapes[misfit.name]} does not fit; got {got}; needed {needed}"


def kernel(specification, *scalars, **options):
    """Decorator: see Kernel."""
    return lambda function: Kernel(function, specification, *scalars, **options)
