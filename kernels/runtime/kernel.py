"""Where arrays enter: one native function per kernel and dtype, checked, cached, callable from anywhere.

A kernel is compiled once per dtype, for arrays of any strides. Its machine code is reached through a cell
that holds its address: nopython code that calls it, the user's own included, knows only the name of the
cell. So it compiles in milliseconds, and is compiled anew after an upgrade, see Load.
"""

import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.core import errors
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, overload
from numpy.ma import MaskedArray

from fastfc.kernels.runtime.cache import KernelCache, compile_lock, source_hash
from fastfc.kernels.runtime.fastcall import NotLoaded, builtin
from fastfc.kernels.simd.vector import address, call_through_cell, define_symbol

OK, BAD_SHAPE, OVERLAP, BAD_LABEL, BAD_PROBABILITY, NO_STATE, NO_MEMORY = range(7)
BAD_PREDICTION, BAD_INDEX, ONE_SAMPLE, NO_RESIDUALS, BAD_WEIGHT = range(7, 12)
# A builtin function takes a tenth of a second to make, and saves some 0.2 ms a call.
CALLS_BEFORE_ENTRY = 100
POLL_SECONDS = 0.05  # between two looks for what another process compiles


class Meaning(NamedTuple):
    """What a status means.

    Attributes
    ----------
    error : type
        The exception that it becomes.
    text : str
        Its text in nopython code, behind "fastfc: ", and from Python behind the kernel's name.
    details : callable, optional
        (kernel, arrays) -> a text that says more, for Python, or nothing.
    """

    error: type[Exception]
    text: str
    details: Callable[[Any, Any], str | None] | None = None


# A kernel that returns OVERLAP has written nothing yet: see Kernel.answer, which relies on that.
STATUSES: dict[int, Meaning] = {
    BAD_SHAPE: Meaning(
        ValueError,
        "the shapes of the arrays do not fit; call the kernel from Python for details",
        lambda kernel, arrays: kernel.wrong_shape(arrays),
    ),
    OVERLAP: Meaning(ValueError, "an output overlaps an input in memory; give it an array of its own"),
    BAD_LABEL: Meaning(
        ValueError,
        "a class index is negative, or not below the number of columns",
        lambda kernel, arrays: kernel.wrong_label(arrays),
    ),
    BAD_PROBABILITY: Meaning(
        ValueError, "a target is not in [0, 1]", lambda kernel, arrays: "target must lie in [0, 1], all of it"
    ),
    NO_STATE: Meaning(
        ValueError,
        "the optimizer has no memory for this network yet; call optimizer.prepare(net) first, in Python, before @njit "
        "code trains it, and again after a change of its options or of what is frozen",
    ),
    NO_MEMORY: Meaning(MemoryError, "no memory left for copies of blocks of the matrices"),
    BAD_PREDICTION: Meaning(
        ValueError,
        "a prediction is out of range: BCELoss takes probabilities in [0, 1] (put Sigmoid() last, or use "
        "BCEWithLogitsLoss), GaussianNLLLoss variances that are not negative (make them with Softplus())",
    ),
    BAD_INDEX: Meaning(
        ValueError,
        "an Embedding was given what is not a whole number, or not the number of a row of its table",
        lambda kernel, arrays: kernel.wrong_index and kernel.wrong_index(*arrays),
    ),
    ONE_SAMPLE: Meaning(ValueError, "BatchNorm1d needs at least two samples for their variance"),
    NO_RESIDUALS: Meaning(
        ValueError,
        "LevenbergMarquardt is for least squares of samples one by one: it takes MSELoss() and a network without "
        "BatchNorm1d and Dropout",
    ),
    BAD_WEIGHT: Meaning(
        ValueError,
        "a sample's weight is negative or not a number; for negative ones use reduction='sum', as means divide",
    ),
}
UNKNOWN = Meaning(RuntimeError, "a kernel returned a status that has no meaning, which is a fault of fastfc")
DTYPES = {np.dtype("f4"): types.float32, np.dtype("f8"): types.float64}


def extent(x):
    """Addresses of an array's first byte and of the one after its last; 0 and 0 if it is empty."""
    raise NotImplementedError("for nopython code")


@overload(extent)
def nopython_extent(x):
    # written out: loops over the dimensions take longer than the rest of a small kernel
    if x.ndim == 1:

        def vector(x):
            reach = (x.shape[0] - 1) * x.strides[0]
            low, high = address(x) + min(reach, 0), address(x) + max(reach, 0) + x.itemsize
            return (low, high) if x.size else (0, 0)

        return vector

    def matrix(x):
        down, across = (x.shape[0] - 1) * x.strides[0], (x.shape[1] - 1) * x.strides[1]
        low = address(x) + min(down, 0) + min(across, 0)
        high = address(x) + max(down, 0) + max(across, 0) + x.itemsize
        return (low, high) if x.size else (0, 0)

    return matrix


@njit
def overlaps(x, y):
    """Whether the extents of two arrays overlap in memory."""
    x_low, x_high = extent(x)
    y_low, y_high = extent(y)
    return x_low < y_high and y_low < x_high


@njit
def same(x, y):
    """Whether two arrays of one shape are the same elements in the same order."""
    return address(x) == address(y) and x.strides == y.strides


@njit
def keep_alive(array):
    """Numba may free an array after its last use, and knows nothing of pointers into it: use it once more."""
    return array.size


@intrinsic
def raise_meaning(typingctx, status):
    """Raise what the table says of a status other than OK."""

    def codegen(context, builder, signature, args):
        [given] = args

        def give_up(meaning):
            context.call_conv.return_user_exc(builder, meaning.error, (f"fastfc: {meaning.text}",))

        for code, meaning in STATUSES.items():
            with builder.if_then(builder.icmp_signed("==", given, given.type(code))):
                give_up(meaning)
        with builder.if_then(builder.icmp_signed("!=", given, given.type(OK))):
            give_up(UNKNOWN)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@njit
def check(status):
    """In nopython code: raise what a status means."""
    if status != OK:
        raise_meaning(status)


def named_after(made, *parts):
    """`made`, which a factory made of these, under a name of its own.

    Cached code of several processes is linked by names: two functions of one name and type could stand for each other.
    """
    made.__qualname__ += " of " + ", ".join(getattr(part, "__qualname__", str(part)) for part in parts)
    return made


natives: dict[str, "Native"] = {}
parallel_natives: list["Native"] = []


class Native:
    """A nopython function that is compiled once per dtype and called through a cell.

    Parameters
    ----------
    function : callable
        The nopython source.
    signature : callable
        dtype (a Numba float type) -> Numba signature. The first argument tells the dtype, see element_type.
    parallel : bool
        Whether it has a prange. As loading that starts threads, it is not loaded with the code that calls it but
        by load_parallel, before there are several parts to compute.
    optional : bool
        Whether it is loaded only for what asks for it, by `ensure` or `loaded`, or by the first call from Python.
    """

    def __init__(self, function, signature, parallel=False, optional=False):
        self.name, self.signature = function.__name__.lstrip("_"), signature
        # two, because a dispatcher that may compile compiles whatever another thread calls it with meanwhile
        self.compiler, self.dispatcher = (
            njit(nogil=True, error_model="numpy", parallel=parallel)(function) for _ in range(2)
        )
        self.compiler._cache = KernelCache(function)
        self.dispatcher._can_compile = False
        self.cells = {}
        self.optional = parallel or optional
        natives[self.name] = self
        if parallel:
            parallel_natives.append(self)
        for dtype in DTYPES.values():
            self.cells[dtype] = np.zeros(1, np.uintp)
            define_symbol(self.cell_name(dtype), self.cells[dtype].ctypes.data)
        declare(self)

    def cell_name(self, dtype):
        return f"fastfc.{self.name}.{dtype}"

    def ensure(self, dtype):
        """Load for `dtype` from the cache, or compile, unless that is done."""
        while not self.cells[dtype][0]:
            with compile_lock():
                result = None if self.cells[dtype][0] else self.load_or_compile(self.signature(dtype))
                if result is not None:
                    self.dispatcher.add_overload(result)
                    self.cells[dtype][0] = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
            if not self.cells[dtype][0]:
                time.sleep(POLL_SECONDS)  # without the lock, for other threads may have what they need

    def load_or_compile(self, signature):
        """The compiled function, or None while another process compiles it."""
        cache, context = self.compiler._cache, self.compiler.targetctx
        result = cache.load(signature, context)
        if result is None:
            with cache.claim(signature, context) as mine:
                if mine:
                    self.compiler.compile(signature)  # it looks into the cache once more
                    result = self.compiler.overloads[signature.args]
        return result


def native(signature, parallel=False, optional=False):
    """Decorator: see Native."""
    return lambda function: Native(function, signature, parallel, optional)


def load_parallel(dtype):
    """Compile or load everything that runs on several threads, see Native."""
    for function in parallel_natives:
        function.ensure(dtype)


class Load:
    """Kept with compiled code that calls a kernel: the kernel is loaded when the code is loaded from a cache.

    If the kernels have changed since, the code may call them with what they no longer take: Numba, which then gets an
    OSError, compiles it anew.
    """

    def __init__(self, name, dtype, sources=None):
        if sources not in (None, source_hash()):
            raise OSError(f"compiled for another version of {name}")
        self.name, self.dtype = name, dtype
        self()

    def __call__(self):
        natives[self.name].ensure(self.dtype)

    def __reduce__(self):
        return Load, (self.name, self.dtype, source_hash())


def element_type(argument):
    """The dtype of an array, a pointer, or of the pointer that a tuple begins with."""
    return element_type(argument[0]) if isinstance(argument, types.BaseTuple) else getattr(argument, "dtype", None)


def declare(kernel):
    """Teach Numba to call a Native."""

    class Template(AbstractTemplate):
        key = kernel

        def generic(self, args, kws):
            dtype = element_type(args[0])
            expected = kernel.signature(dtype) if dtype in kernel.cells else None
            if (
                expected is None
                or kws
                or len(args) != len(expected.args)
                or not all(map(self.accepts, args, expected.args))
            ):
                wanted = ", ".join(map(str, kernel.signature(types.float32).args))
                raise errors.TypingError(
                    f"{kernel.name} takes {wanted} or the same in float64; got {', '.join(map(str, args))}"
                )
            return expected

        @staticmethod
        def accepts(given, expected):
            if isinstance(expected, types.Array):
                return (
                    isinstance(given, types.Array)
                    and (given.dtype, given.ndim) == (expected.dtype, expected.ndim)
                    and (given.mutable or not expected.mutable)
                )
            return True

    infer_global(kernel, types.Function(Template))

    @lower_builtin(kernel, types.VarArg(types.Any))
    def lower(context, builder, sig, args):
        dtype = element_type(sig.args[0])
        if kernel.optional:
            missing = NotLoaded, ("fastfc: something that this needs is not loaded", kernel.name)
            return call_through_cell(context, builder, kernel.cell_name(dtype), sig, args, missing)
        load_with_caller(context, builder, Load(kernel.name, dtype))
        return call_through_cell(context, builder, kernel.cell_name(dtype), sig, args)


def load_with_caller(context, builder, load):
    """Load a native whenever the code that is being compiled is loaded."""
    if context.fndesc.modname == "<dynamic>":  # the body of a prange has no constants that survive a cache
        context.active_code_library._reload_init.add(load)
    else:
        context.get_env_manager(builder).add_const(load)


def loaded(*kernels):
    """An intrinsic of a pointer or array: whenever the code that calls it is loaded, so are these optional natives."""

    @intrinsic
    def load(typingctx, like):
        def codegen(context, builder, signature, args):
            for kernel in kernels:
                load_with_caller(context, builder, Load(kernel.name, like.dtype))
            return context.get_dummy_value()

        return types.void(like), codegen

    return load


def as_array(x, where):
    """np.asarray whose errors say where."""
    try:
        return np.asarray(x)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        if "inhomogeneous" in str(error):
            raise kind(f"{where} has rows of different lengths; make it rectangular") from error
        raise kind(f"{where} can't be made an array: {error}") from error


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


class Kernel(Native):
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

    def __init__(self, function, specification, *scalars, result=types.int64, in_place=None, wrong_index=None):
        read, _, written = specification.partition("->")
        find = re.compile(r"\w+(?::\w+)?\[[\w, ]*\]").findall
        self.arguments = [Argument(text, False) for text in find(read)]
        self.arguments += [Argument(text, True) for text in find(written)]
        self.in_place, self.wrong_index = in_place, wrong_index
        self.call, self.calls = self.explain, 0  # after some calls, a builtin function
        super().__init__(
            function,
            lambda dtype: signature(result, *[a.type(dtype) for a in self.arguments], *scalars),
        )

    def explain(self, *args):
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
        self.ensure(DTYPES[dtype])
        self.calls += 1
        if self.calls >= CALLS_BEFORE_ENTRY and self.call == self.explain:
            with compile_lock():
                if self.call == self.explain:
                    signatures = {kind: self.signature(kind) for kind in DTYPES.values()}
                    self.call = builtin(self.name, self.cell_name, signatures, self.explain, self.failed)
        try:
            status, value = self.run(arrays, scalars)
        except (TypeError, ValueError, OverflowError):  # of Numba, which can't tell the type of a scalar
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
        try:
            result = self.dispatcher(*arrays, *scalars)
        except NotLoaded as error:
            natives[error.args[1]].ensure(self.element(arrays))
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
        if not isinstance(out, np.ndarray) or isinstance(out, MaskedArray):
            raise TypeError(f"{where} must be a NumPy array that can be written into, not {type(out).__name__}")
        wanted = [np.dtype(str(argument.kind))] if argument.kind else list(DTYPES)
        if out.dtype not in wanted or not out.dtype.isnative:
            allowed = " or ".join(map(str, wanted))
            raise TypeError(f"{where} has dtype {out.dtype.str}; it must be {allowed} in native byte order")
        if not out.flags.writeable:
            raise ValueError(f"{where} is read-only; give it a writable array")

    def convert(self, x, argument, dtype):
        where = f"{self.name}: {argument.name}"
        if isinstance(x, MaskedArray):
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
