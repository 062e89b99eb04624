"""Nopython functions that are compiled once for each dtype and called through a slot."""

import contextlib
import ctypes
import functools
import sys
import threading
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils, errors
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin

from fastfc.kernels.runtime import plan, portable
from fastfc.kernels.runtime.cache import KernelCache, compile_lock, hash_of_sources, rebuild
from fastfc.kernels.runtime.fastcall import NotLoaded
from fastfc.kernels.runtime.linkage import call_through_slot, define_symbol, slot_value
from fastfc.kernels.simd.compiler import HelperLibrary, KernelCompiler, rare_collections
from fastfc.kernels.simd.llvm import I32, I64

POLL_SECONDS = 0.05  # between two looks for what another process compiles

DTYPES = {np.dtype("f4"): types.float32, np.dtype("f8"): types.float64}


def named_after(made, *parts):
    """`made`, which a factory made of these, under a name of its own.

    Cached code of several processes is linked by names: two functions of one name and type could stand for each other.
    """
    made.__qualname__ += " of " + ", ".join(getattr(part, "__qualname__", str(part)) for part in parts)
    return made


compiled_kernels: dict[str, Any] = {}  # CompiledKernel, or IRKernel of dispatch.py


class CompiledKernel:
    """A nopython function that is compiled once per dtype and called through a slot.

    Parameters
    ----------
    function : callable
        The nopython source.
    signature : callable
        dtype (a Numba float type) -> Numba signature. The first argument tells the dtype, see element_type.
    optional : bool
        Whether it is loaded only for what asks for it, by `compile_or_load` or `requires`, or by the first call from
        Python.
    slots : dict, optional
        Where its address for each dtype goes, if it is in a table (see dispatch.py).
    """

    from_python = False  # whether Python calls it
    on_demand = False  # whether what calls it may have it loaded, see OnDemand

    def __init__(self, function, signature, optional=False, slots=None):
        self.name, self.signature = function.__name__.lstrip("_"), signature
        self.function, self.optional = function, optional
        self.slots = slots or {dtype: np.zeros(1, np.uintp) for dtype in DTYPES.values()}
        self.entries = {}  # the wrappers for Python, by dtype
        compiled_kernels[self.name] = self
        for dtype in DTYPES.values():
            define_symbol(self.slot_name(dtype), self.slots[dtype].ctypes.data)
        register(self, self, self.lower)

    def lower(self, context, builder, sig, args):
        """Write a call."""
        dtype = element_type(sig.args[0])
        if self.optional:
            return call_through_slot(context, builder, self.slot_name(dtype), sig, args, not_loaded(self))
        add_dependency(context, builder, Dependency(self.name, dtype))
        return call_through_slot(context, builder, self.slot_name(dtype), sig, args)

    @cached_property
    def compiler(self):
        """Numba's dispatcher, made when it is needed, for most kernels are not; it is never called."""
        options = {} if self.from_python else {"no_cpython_wrapper": True}
        compiler = njit(nogil=True, error_model="numpy", pipeline_class=KernelCompiler, **options)(self.function)
        compiler._cache = KernelCache(self.function)
        return compiler

    def slot_name(self, dtype):
        return f"fastfc.{self.name}.{dtype}"

    def compile_or_load(self, dtype):
        """Load for `dtype` from the cache, or compile, unless that is done."""
        if not self.slots[dtype][0] and not self.load(dtype):
            plan.compile_or_load([self], dtype, POLL_SECONDS)

    def loaded_types(self):
        return [dtype for dtype, slot in self.slots.items() if slot[0]]

    def was_compiled(self, dtype):
        """Whether this process compiled it, and did not find it in the cache."""
        return self.compiler.stats.cache_misses[self.signature(dtype)] > 0

    def load(self, dtype):
        """Load what is compiled already; whether that is so."""
        if not self.slots[dtype][0]:
            with compile_lock():
                self.use(dtype, self.find(self.signature(dtype)))
        return bool(self.slots[dtype][0])

    def load_or_try(self, dtype):
        """Load, or compile unless another process does; whether it is loaded."""
        if not self.slots[dtype][0]:
            with compile_lock():
                self.use(dtype, self.find_or_compile(self.signature(dtype)))
        return bool(self.slots[dtype][0])

    def compile_only(self, dtype):
        """Compile into the cache, unless that is done or another process does it."""
        if self.cached(dtype) is None:
            with compile_lock():
                self.find_or_compile(self.signature(dtype))

    def cached(self, dtype):
        """What the cache has of it: the pickled compile result, or None."""
        return self.compiler._cache.read(self.signature(dtype), self.compiler.targetctx)

    def use(self, dtype, result):
        """Let callers find a compiled function, if it is one and they don't find it yet."""
        if result is not None and not self.slots[dtype][0]:
            self.entries[dtype] = result.entry_point
            self.slots[dtype][0] = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)

    def find(self, signature):
        """The function that is compiled already, or None."""
        context = self.compiler.targetctx
        found = portable.load(self.name, signature, functools.partial(rebuild, context))
        return found or self.compiler._cache.load(signature, context)

    def find_or_compile(self, signature):
        """The compiled function, or None while another process compiles it."""
        result = self.find(signature)
        if result is None:
            with self.compiler._cache.claim(signature, self.compiler.targetctx) as mine:
                if mine:
                    with rare_collections():
                        self.compiler.compile(signature)  # it looks into the cache once more
                    result = self.compiler.overloads[signature.args]
        return result


def compiled_kernel(signature, optional=False):
    """Decorator: see CompiledKernel."""
    return lambda function: CompiledKernel(function, signature, optional)


def on_demand_kernel(signature):
    """Decorator: the kernel as others call it, see OnDemand."""
    return lambda function: OnDemand(CompiledKernel(function, signature, optional=True))


class Dependency:
    """Kept with compiled code that calls a kernel: the kernel is loaded when the code is loaded from a cache.

    If the kernels have changed since, the code may call them with what they no longer take: Numba, which then gets an
    OSError, compiles it anew.
    """

    def __init__(self, name, dtype, sources=None):
        if sources not in (None, hash_of_sources()):
            raise OSError(f"compiled for another version of {name}")
        self.name, self.dtype = name, dtype
        if not plan.only_compiles():
            self()

    def __call__(self):
        compiled_kernels[self.name].compile_or_load(self.dtype)

    def __reduce__(self):
        return Dependency, (self.name, self.dtype, hash_of_sources())


class Stale(ModuleType):
    """Stands for a module that an earlier version kept with compiled code: that code is compiled anew."""

    def __getattr__(self, name):
        if name.startswith("__"):  # asked by what looks at all modules
            raise AttributeError(name)
        raise OSError(f"compiled for another version of {self.__name__}.{name}")


def __getattr__(name):
    if name == "Load":  # of 0.2
        raise OSError("compiled for another version of fastfc")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


sys.modules["fastfc.kernels.edge"] = Stale("fastfc.kernels.edge")  # of 0.1


def element_type(argument):
    """The dtype of an array, a pointer, or of the pointer that a tuple begins with."""
    return element_type(argument[0]) if isinstance(argument, types.BaseTuple) else getattr(argument, "dtype", None)


def register(key, kernel, lower):
    """Teach Numba to call a compiled kernel by `key`: lower(context, builder, sig, args) writes the call."""

    class Template(AbstractTemplate):
        def generic(self, args, kws):
            dtype = element_type(args[0])
            expected = kernel.signature(dtype) if dtype in kernel.slots else None
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

    Template.key = key
    infer_global(key, types.Function(Template))
    lower_builtin(key, types.VarArg(types.Any))(lower)


def not_loaded(kernel):
    """The exception of a call, and its arguments."""
    return NotLoaded, ("fastfc: something that this needs is not loaded", kernel.name)


class OnDemand:
    """A compiled kernel as other kernels call it that rarely need it: the first call compiles or loads it.

    So it costs those nothing who never need it, and nobody has to know before who will.
    """

    def __init__(self, kernel):
        self.kernel, kernel.on_demand = kernel, True
        register(self, kernel, self.lower)

    def __call__(self, *args):
        """What the source computes, in Python."""
        return self.kernel.function(*args)

    def lower(self, context, builder, sig, args):
        name = self.kernel.slot_name(element_type(sig.args[0]))
        with cgutils.if_unlikely(builder, builder.icmp_unsigned("==", slot_value(builder, name), ir.Constant(I64, 0))):
            text = context.insert_const_string(builder.module, name)
            load = cgutils.get_or_insert_function(builder.module, ir.FunctionType(I32, [text.type]), LOADER)
            interrupted = builder.call(load, [text])
            with builder.if_then(builder.icmp_unsigned("!=", interrupted, ir.Constant(I32, 0))):
                again = ir.FunctionType(ir.VoidType(), [])
                builder.call(cgutils.get_or_insert_function(builder.module, again, "PyErr_SetInterrupt"), [])
        return call_through_slot(context, builder, name, sig, args, not_loaded(self.kernel))


# What is asked for and not yet loaded: an ordered set for each dtype, of all threads, for any may run what needs it.
asked: dict[Any, dict[Any, None]] = {dtype: {} for dtype in DTYPES.values()}
blocks = threading.local()  # depth: how many of `one_piece` this thread is in


@contextlib.contextmanager
def one_piece():
    """What the block asks for by `compile_or_load_all` is compiled or loaded when it ends, as one piece of work.

    If it raises, or something is called meanwhile, then with the next kernel that Python calls.
    """
    blocks.depth = getattr(blocks, "depth", 0) + 1
    try:
        yield
    finally:
        blocks.depth -= 1
    for dtype in DTYPES.values():
        compile_or_load_all([], dtype)


def compile_or_load_all(kernels, dtype):
    """Load kernels for `dtype` from the cache, or compile those that are missing, as one piece of work."""
    asked[dtype].update(dict.fromkeys(kernels))
    if not getattr(blocks, "depth", 0):
        load_asked(dtype)


def load_asked(dtype, *kernels):
    """Load what is asked for and these kernels now."""
    wanted = [*asked[dtype], *kernels]
    missing = [kernel for kernel in wanted if not kernel.load(dtype)]
    typed = [kernel for kernel in missing if isinstance(kernel, CompiledKernel)]
    if typed:
        plan.compile_or_load(typed, dtype, POLL_SECONDS)
    for kernel in missing:
        kernel.compile_or_load(dtype)
    for kernel in wanted:
        asked[dtype].pop(kernel, None)


# What native code calls to have a kernel loaded, by the name of its slot.
LOADER = "fastfc.load_on_demand"


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p)
def load_on_demand(slot_name):
    """Compile or load a kernel; whether Ctrl-C came meanwhile, which no exception can tell through native code.

    Whatever else fails does so once more, and is raised, when the caller finds that the kernel is still not there.
    """
    try:
        _, name, dtype = slot_name.decode().split(".")
        compiled_kernels[name].compile_or_load(getattr(types, dtype))
    except KeyboardInterrupt:
        return 1
    except Exception:
        pass
    return 0


define_symbol(LOADER, ctypes.cast(load_on_demand, ctypes.c_void_p).value)


def add_dependency(context, builder, load):
    """Load a kernel whenever the code that is being compiled, or what that is linked into, is loaded from a cache."""
    library = context.active_code_library
    if context.fndesc.modname == "<dynamic>" or isinstance(library, HelperLibrary):
        # no environment that survives a cache: what only kernels call
        library._reload_init.add(load)
    else:  # also reaches what is compiled against a user's function that comes from a cache
        context.get_env_manager(builder).add_const(load)


def requires(*kernels):
    """An intrinsic of a pointer or array: whenever the code that calls it is loaded, so are these kernels."""

    @intrinsic
    def load(typingctx, like):
        def codegen(context, builder, signature, args):
            for kernel in kernels:
                add_dependency(context, builder, Dependency(kernel.name, like.dtype))
            return context.get_dummy_value()

        return types.void(like), codegen

    return load
