"""Explicit SIMD in Numba: a second kind of value, a *Vector*, which is one register, and what computes on it.

Vectors are loaded from a *pointer*, the address of float32 or float64 elements, moved by bytes, so that any stride is
legal (memory.py). How wide a register is comes from the instruction set that LLVM compiles for (isa.py).
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastfc.kernels.simd.formula import Formula, Operand, Vector, elementwise
from fastfc.kernels.simd.isa import lanes
from fastfc.kernels.simd.llvm import (
    I32,
    I64,
    call_intrinsic,
    emit_where_less,
    first_lanes,
    fma_value,
    llvm_float,
    llvm_vector,
    load_value,
    prefetch,
    shuffle,
    splat_value,
    store_value,
    suffix,
)


@intrinsic
def infinity(typingctx, like):
    """Infinity, in the element type of a pointer or vector."""

    def codegen(context, builder, signature, args):
        return ir.Constant(llvm_float(like.dtype), float("inf"))

    return like.dtype(like), codegen


@intrinsic
def width(typingctx, base):
    """Elements in one register, for the element type of a pointer."""

    def codegen(context, builder, signature, args):
        return ir.Constant(I64, lanes(base.dtype))

    return types.int64(base), codegen


@intrinsic
def load(typingctx, base):
    def codegen(context, builder, signature, args):
        return load_value(builder, args[0], llvm_vector(base.dtype))

    return Vector(base.dtype)(base), codegen


@intrinsic
def load_first(typingctx, base, count, fill):
    """The first `count` lanes from memory, `fill` in the others; memory beyond them is not touched."""

    def codegen(context, builder, signature, args):
        vector = llvm_vector(base.dtype)
        fills = splat_value(builder, context.cast(builder, args[2], fill, base.dtype), vector)
        return load_value(builder, args[0], vector, first_lanes(builder, args[1], vector), fills)

    return Vector(base.dtype)(base, types.int64, fill), codegen


@intrinsic
def store(typingctx, base, value):
    def codegen(context, builder, signature, args):
        store_value(builder, args[1], args[0])
        return context.get_dummy_value()

    return types.void(base, value), codegen


@intrinsic
def store_first(typingctx, base, value, count):
    """Store the first `count` lanes; memory beyond them is not touched."""

    def codegen(context, builder, signature, args):
        mask = first_lanes(builder, args[2], args[1].type)
        store_value(builder, args[1], args[0], mask)
        return context.get_dummy_value()

    return types.void(base, value, types.int64), codegen


@intrinsic
def fetch(typingctx, base):
    """Bring a cache line that will be read; any address is legal."""

    def codegen(context, builder, signature, args):
        prefetch(builder, args[0])
        return context.get_dummy_value()

    return types.void(base), codegen


@intrinsic
def splat(typingctx, like, scalar):
    """A vector of the type of `like` (a vector or a pointer) with `scalar` in every lane."""
    vector = Vector(like.dtype)

    def codegen(context, builder, signature, args):
        value = context.cast(builder, args[1], scalar, like.dtype)
        return splat_value(builder, value, llvm_vector(like.dtype))

    return vector(like, scalar), codegen


@intrinsic
def lane(typingctx, vector, index):
    """One element of a vector."""

    def codegen(context, builder, signature, args):
        return builder.extract_element(*args)

    return vector.dtype(vector, types.int64), codegen


def emit_where_less_equal(builder, a, b, then, otherwise):
    return builder.select(builder.fcmp_ordered("<=", a, b), then, otherwise)


def emit_where_subnormal(builder, a, then, otherwise):
    """`then` where a is 0 or smaller than any normal number: no bit of its exponent is set."""
    single = isinstance(a.type.element, ir.FloatType)
    ints = ir.VectorType(ir.IntType(32 if single else 64), a.type.count)
    exponent = ir.Constant(ints, [0x7F800000 if single else 0x7FF0000000000000] * a.type.count)
    bits = builder.and_(builder.bitcast(a, ints), exponent)
    is_zero = builder.icmp_unsigned("==", bits, ir.Constant(ints, [0] * a.type.count))
    return builder.select(is_zero, then, otherwise)


def emit_copysign(builder, magnitude, sign):
    return call_intrinsic(builder, f"copysign.{suffix(sign.type)}", sign.type, magnitude, sign)


def emit_abs(builder, a):
    return call_intrinsic(builder, f"fabs.{suffix(a.type)}", a.type, a)


def emit_sqrt(builder, a):
    return call_intrinsic(builder, f"sqrt.{suffix(a.type)}", a.type, a)


def emit_power_of_two(builder, shifted):
    """2ⁿ from `shifted` = n + ROUND, whose lowest mantissa bits hold n as an integer."""
    vector = shifted.type
    bits, mantissa = (32, 23) if isinstance(vector.element, ir.FloatType) else (64, 52)
    ints = ir.VectorType(ir.IntType(bits), vector.count)
    bias = (1 << (bits - mantissa - 2)) - 1
    n = builder.add(builder.bitcast(shifted, ints), ir.Constant(ints, [bias] * vector.count))
    return builder.bitcast(builder.shl(n, ir.Constant(ints, [mantissa] * vector.count)), vector)


def float_bits(builder, a):
    """A vector's bits as integers, how many of them are the mantissa, and the bits of √½."""
    single = isinstance(a.type.element, ir.FloatType)
    ints = ir.VectorType(ir.IntType(32 if single else 64), a.type.count)
    root = 0x3F3504F3 if single else 0x3FE6A09E667F3BCD
    constant = lambda value: ir.Constant(ints, [value] * a.type.count)
    return builder.bitcast(a, ints), constant(23 if single else 52), constant(root)


def emit_binary_exponent(builder, a):
    """The integer k with 2ᵏ √½ <= a < 2ᵏ √2, for normal a > 0."""
    bits, mantissa, root = float_bits(builder, a)
    return builder.sitofp(builder.ashr(builder.sub(bits, root), mantissa), a.type)


def emit_significand(builder, a):
    """a / 2ᵏ, see emit_binary_exponent."""
    bits, mantissa, root = float_bits(builder, a)
    k = builder.ashr(builder.sub(bits, root), mantissa)
    return builder.bitcast(builder.sub(bits, builder.shl(k, mantissa)), a.type)


fma = elementwise(fma_value)
where_less = elementwise(emit_where_less)
where_less_equal = elementwise(emit_where_less_equal)
where_subnormal = elementwise(emit_where_subnormal)
copysign = elementwise(emit_copysign)
absolute = elementwise(emit_abs)
power_of_two = elementwise(emit_power_of_two)
square_root = elementwise(emit_sqrt)
binary_exponent = elementwise(emit_binary_exponent)
significand = elementwise(emit_significand)


def by_dtype(float32, float64):
    """A formula: the constant for the dtype of its argument."""

    def constant(x):
        return Operand(x.builder, ir.Constant(x.value.type, [float32 if x.is_single else float64] * x.value.type.count))

    return Formula(constant)


def polynomial(coefficients):
    """A formula that evaluates Σ cₙ xⁿ by Horner's rule; coefficients by dtype name, c₀ first."""

    def evaluate(x):
        total, *terms = coefficients["float32" if x.is_single else "float64"][::-1]
        for c in terms:
            total = fma(total, x, c)
        return total

    return Formula(evaluate)


def combined_lanes(builder, total, combine):
    while total.type.count > 1:
        half = total.type.count // 2
        low, high = (shuffle(builder, [total, total], list(range(i, i + half))) for i in (0, half))
        total = combine(builder, low, high)
    return builder.extract_element(total, ir.Constant(I32, 0))


def sum_as_double(operand):
    """The sum of a register's lanes, as double."""
    builder = operand.builder
    total = combined_lanes(builder, operand.value, lambda builder, a, b: builder.fadd(a, b))
    return builder.fpext(total, ir.DoubleType()) if operand.is_single else total


def across_lanes(combine):
    """An intrinsic: a vector's upper half is combined with its lower half until one lane is left."""

    @intrinsic
    def reduce(typingctx, vector):
        def codegen(context, builder, signature, args):
            return combined_lanes(builder, args[0], combine)

        return vector.dtype(vector), codegen

    return reduce


sum_of_lanes = across_lanes(lambda builder, a, b: builder.fadd(a, b))
largest_lane = across_lanes(lambda builder, a, b: emit_where_less(builder, a, b, b, a))
