"""Kernels by number: tables of addresses through which a program, a loss or an optimizer calls what it needs.

Each kernel is compiled when something that needs it is made; a call of one that is not loaded raises NotLoaded.
"""

import contextlib
import pickle
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from fastfc.kernels.runtime import portable
from fastfc.kernels.runtime.cache import KernelCache, compile_lock
from fastfc.kernels.runtime.linkage import call_address, define_symbol
from fastfc.kernels.runtime.native import DTYPES, compiled_kernels, load_asked, not_loaded
from fastfc.kernels.simd.llvm import I64

SIZE = 128  # kernels that a table has room for
tables: dict[str, "DispatchTable"] = {}


class DispatchTable:
    """Kernels of one signature.

    Parameters
    ----------
    name : str
    signature : callable
        dtype (a Numba float type) -> Numba signature. The first argument is a pointer to the dtype.

    Attributes
    ----------
    call : nopython function
        call(number, arguments), a tuple of them: the result of the kernel of this number.
    require : nopython function
        require(number, like): raise NotLoaded unless that kernel is loaded for the dtype of a pointer, so that nothing
        is done before that is known.
    """

    def __init__(self, name, signature):
        self.name, self.signature = name, signature
        self.kernels: dict[int, Any] = {}
        # an address for each number, and the number of the kernel that was missing last
        self.addresses: dict[Any, Any] = {dtype: np.zeros(SIZE + 1, np.int64) for dtype in DTYPES.values()}
        for dtype, addresses in self.addresses.items():
            define_symbol(self.symbol(dtype), addresses.ctypes.data)
        tables[name] = self
        self.call, self.require = dispatch(self), requirement(self)

    def symbol(self, dtype):
        return f"fastfc.{self.name}.{dtype}"

    def add(self, number, kernel):
        """Have this kernel called by this number."""
        if not 0 <= number < SIZE or number in self.kernels:
            raise ValueError(f"{self.name}: {number} is no free number below {SIZE}")
        self.kernels[number] = kernel

    def slot(self, number):
        """Where the addresses of a kernel are, by dtype."""
        return {dtype: addresses[number : number + 1].view(np.uintp) for dtype, addresses in self.addresses.items()}

    def ensure_missing(self, dtype):
        """Load what a call raised NotLoaded for."""
        self.kernels[int(self.addresses[dtype][SIZE])].compile_or_load(dtype)


def load_missing(name, dtype):
    """Load what NotLoaded was raised for: the kernel, or what the table of this name was asked for."""
    load_asked(dtype)
    if name in tables:
        tables[name].ensure_missing(dtype)
    else:
        compiled_kernels[name].compile_or_load(dtype)


def address_of(table, dtype, context, builder, number):
    """The address of a kernel; if it is not loaded, the function that is being compiled raises NotLoaded."""
    addresses = global_array(builder, table.symbol(dtype))
    place = lambda i: builder.gep(addresses, [ir.Constant(I64, 0), i])
    address = builder.load(place(number))
    with cgutils.if_unlikely(builder, builder.icmp_unsigned("==", address, ir.Constant(I64, 0))):
        builder.store(number, place(ir.Constant(I64, SIZE)))
        context.call_conv.return_user_exc(builder, *not_loaded(table))
    return address


def global_array(builder, name):
    known = builder.module.globals
    kind = ir.ArrayType(I64, SIZE + 1)
    return known[name] if name in known else cgutils.add_global_variable(builder.module, kind, name)


def dispatch(table):
    @intrinsic
    def call(typingctx, number, arguments):
        dtype = arguments[0].dtype
        expected = table.signature(dtype)

        def codegen(context, builder, signature, args):
            address = address_of(table, dtype, context, builder, args[0])
            values = cgutils.unpack_tuple(builder, args[1], len(arguments))
            values = [
                context.cast(builder, value, given, wanted)
                for value, given, wanted in zip(values, arguments, expected.args, strict=True)
            ]
            return call_address(context, builder, address, expected, values)

        return expected.return_type(types.int64, arguments), codegen

    return call


def requirement(table):
    @intrinsic
    def require(typingctx, number, like):
        def codegen(context, builder, signature, args):
            address_of(table, like.dtype, context, builder, args[0])
            return context.get_dummy_value()

        return types.void(types.int64, like), codegen

    return require


class IRCache(KernelCache):
    """The cache of a kernel that is written as LLVM IR; its files hold machine code."""

    def __init__(self, name):
        self.name = name


class IRKernel:
    """Functions that are written as LLVM IR, compiled together, once for each dtype.

    Numba neither types nor lowers them, so they compile in hundredths of a second.

    Parameters
    ----------
    name : str
    functions : list of (DispatchTable, int, callable)
        The table and the number by which a function is called, and what writes its body: emit(builder, *arguments),
        which returns its result.
    """

    def __init__(self, name, functions):
        self.name, self.functions, self.cache, self.compiled = name, functions, IRCache(name), set()
        self.all_slots = [table.slot(number) for table, number, _ in functions]
        self.slots, self.optional = self.all_slots[-1], True  # the last is filled last
        for table, number, _ in functions:
            table.add(number, self)
        compiled_kernels[name] = self

    def signature(self, dtype):
        """What its machine code depends on, beside its name."""
        return dtype

    def load(self, dtype):
        """Load what is compiled already; whether that is so."""
        if not self.slots[dtype][0]:
            with compile_lock():
                self.use(dtype, self.find(dtype))
        return bool(self.slots[dtype][0])

    def find(self, dtype):
        """The library that is compiled already, or None."""
        rebuild = lambda content: cpu_target.target_context.codegen().unserialize_library(pickle.loads(content))
        found = portable.load(self.name, dtype, rebuild)
        stored = self.cached(dtype) if found is None else None
        if stored is not None:
            with contextlib.suppress(Exception):  # whatever is wrong with the file, compiling helps
                found = rebuild(stored)
        return found

    def cached(self, dtype):
        """What the cache has of it, or None."""
        return self.cache.read(dtype, cpu_target.target_context)

    def compile_or_load(self, dtype):
        """Load for `dtype` from the cache, or compile, unless that is done."""
        if self.load(dtype):
            return
        with compile_lock():
            if not self.slots[dtype][0]:
                context = cpu_target.target_context
                library = self.compile(dtype, context)
                content = pickle.dumps(library.serialize_using_object_code(), protocol=-1)
                self.cache.write(self.cache.key(dtype, context), content)
                self.compiled.add(dtype)
                self.use(dtype, library)

    def use(self, dtype, library):
        """Let callers find what is compiled, if it is and they don't find it yet."""
        if library is not None and not self.slots[dtype][0]:
            for i, slot in enumerate(self.all_slots):
                slot[dtype][0] = library.get_pointer_to_function(self.symbol(dtype, i))

    def loaded_types(self):
        return [dtype for dtype, slot in self.slots.items() if slot[0]]

    def was_compiled(self, dtype):
        """Whether this process compiled it, and did not find it in the cache."""
        return dtype in self.compiled

    def symbol(self, dtype, i):
        return f"fastfc.{self.name}.{dtype}.{i}"

    def compile(self, dtype, context):
        library = context.codegen().create_library(f"fastfc.{self.name}.{dtype}")
        library.enable_object_caching()
        module = library.create_ir_module(library.name)
        for i, (table, _, emit) in enumerate(self.functions):
            signature, convention = table.signature(dtype), context.call_conv
            kind = convention.get_function_type(signature.return_type, signature.args)
            function = ir.Function(module, kind, self.symbol(dtype, i))
            builder = ir.IRBuilder(function.append_basic_block("entry"))
            packer = context.get_arg_packer(signature.args)
            arguments = packer.from_arguments(builder, convention.get_arguments(function))
            convention.return_value(builder, emit(builder, *arguments))
        library.add_ir_module(module)
        library.finalize()
        return library
