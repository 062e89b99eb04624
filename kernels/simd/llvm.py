"""Pieces of LLVM IR that the intrinsics are built from."""

import contextlib
from functools import cache

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastfc.kernels.simd.isa import host_isa, lanes

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


def llvm_float(dtype):
    return ir.FloatType() if dtype == types.float32 else ir.DoubleType()


def llvm_vector(dtype):
    return ir.VectorType(llvm_float(dtype), lanes(dtype))


def shared_function(module, name, arguments):
    """A function without a result that stays one function, and of which the kernels that need it keep one copy."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
    function.linkage = "linkonce_odr"
    for attribute in ("noinline", "nounwind"):
        function.attributes.add(attribute)
    return function


def call_intrinsic(builder, name, result, *args):
    """Call llvm.<name>, overloaded on the result's type."""
    signature = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}"), args)


def suffix(vector):
    return f"v{vector.count}f{32 if isinstance(vector.element, ir.FloatType) else 64}"


@cache
def alike(vector, constant):
    """A vector whose lanes all are zero (None) or ir.Undefined, which is written as one word, not one for each lane."""
    written = ir.Constant(vector, 0)
    written.constant = constant
    return written


@cache
def zeros(count):
    """Indices of a shuffle."""
    return ir.Constant(ir.VectorType(I32, count), [0] * count)


def splat_value(builder, scalar, vector):
    if isinstance(scalar, ir.Constant):
        return ir.Constant(vector, [scalar.constant] * vector.count)
    undefined = alike(vector, ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(undefined, scalar, I32(0)), undefined, zeros(vector.count))


def fma_value(builder, a, b, c):
    """a b + c, in one rounding where the instruction set can (without, LLVM would call libm)."""
    if host_isa().fma:
        return call_intrinsic(builder, f"fma.{suffix(a.type)}", a.type, a, b, c)
    return builder.fadd(builder.fmul(a, b), c)


def step(builder, pointer, offset):
    """`pointer` moved by `offset` bytes."""
    return builder.gep(pointer, [offset], source_etype=I8)


def opaque(builder, value):
    """The same value, of which LLVM knows nothing."""
    return builder.asm(ir.FunctionType(value.type, [value.type]), "", "=r,0", [value], False)


def first_lanes(builder, count, vector):
    """Mask of the lanes below `count` (an i64)."""
    ints = ir.VectorType(I32, vector.count)
    all_lanes = ir.Constant(I64, vector.count)
    count = builder.trunc(builder.select(builder.icmp_signed("<", count, all_lanes), count, all_lanes), I32)
    counts = splat_value(builder, count, ints)
    return builder.icmp_signed("<", ir.Constant(ints, list(range(vector.count))), counts)


def load_value(builder, pointer, vector, mask=None, fill=None):
    # align=1 throughout: fields of packed records are legal inputs, and unaligned moves cost the same
    if mask is None:
        return builder.load(pointer, align=1, typ=vector)
    pointer, fill = builder.bitcast(pointer, vector.element.as_pointer()), fill or alike(vector, None)
    name = f"masked.load.{suffix(vector)}.p0"
    return call_intrinsic(builder, name, vector, pointer, ir.Constant(I32, 1), mask, fill)


def store_value(builder, value, pointer, mask=None):
    if mask is None:
        builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=1)
    else:
        pointer = builder.bitcast(pointer, value.type.element.as_pointer())
        name = f"masked.store.{suffix(value.type)}.p0"
        call_intrinsic(builder, name, ir.VoidType(), value, pointer, ir.Constant(I32, 1), mask)


def prefetch(builder, pointer):
    """Ask for the cache line at `pointer`, which may be any address."""
    pointer = builder.bitcast(pointer, I8.as_pointer())
    signature = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
    builder.call(function, [pointer, *(ir.Constant(I32, value) for value in (0, 3, 1))])  # read, all caches, data


def pause(builder):
    """Tell the processor that this thread waits for another one."""
    name = {"neon": "llvm.aarch64.hint", "generic": None}.get(host_isa().name, "llvm.x86.sse2.pause")
    hint = [ir.Constant(I32, 1)] if host_isa().name == "neon" else []
    if name:
        signature = ir.FunctionType(ir.VoidType(), [a.type for a in hint])
        builder.call(cgutils.get_or_insert_function(builder.module, signature, name), hint)


def emit_where_less(builder, a, b, then, otherwise):
    return builder.select(builder.fcmp_ordered("<", a, b), then, otherwise)


def shuffle(builder, pair, chosen):
    """The chosen lanes of two vectors, those of the second numbered after those of the first."""
    a, b = pair
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(chosen)), chosen))


# What a thread holds while it is in LLVM, whether it compiles or frees what was compiled.
LLVM_LOCK = getattr(llvm.ffi.lib, "_lock", contextlib.nullcontext())
