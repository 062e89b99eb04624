"""Explicit SIMD in Numba: the file that knows LLVM (with entry.py, which knows the C interface of Python).

It adds two kinds of value to nopython code: a *pointer* (address of float32 or float64 elements, moved
by bytes, so that any stride is legal) and a *Vector* (one SIMD register). `Tile` generates the register
tile of the matrix product. How wide a register is, how many there are and whether they multiply and add
in one rounding comes from the instruction set that LLVM compiles for, see `host_isa`.
"""

import contextlib
import operator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, overload, register_model

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


class ISA(NamedTuple):
    """What the kernels need to know of an instruction set.

    `rows` and `vectors` span the register tile: rows x vectors accumulators, one row of `vectors`
    registers for the right operand and one for a broadcast element of the left must fit `registers`.
    `few_rows` gives wider tiles for 1, 2, ... rows, to have enough sums under way at once.
    """

    name: str
    vector_bytes: int
    registers: int
    fma: bool
    rows: int
    vectors: int
    few_rows: tuple[int, ...]

    def tile_vectors(self, rows):
        """Registers across a tile of `rows` rows."""
        return self.few_rows[rows - 1] if rows <= len(self.few_rows) else self.vectors


ISAS = {
    "avx512": ISA("avx512", 64, 32, True, 14, 2, (8, 4, 4, 4)),
    "avx2": ISA("avx2", 32, 16, True, 6, 2, (8, 4)),
    "neon": ISA("neon", 16, 32, True, 8, 3, (8, 4, 4)),
    "sse": ISA("sse", 16, 16, False, 6, 2, (8, 4)),
    "generic": ISA("generic", 16, 16, False, 6, 2, (8, 4)),
}


@cache
def l2_bytes():
    """Size of a core's second-level cache; 1 MiB where the system doesn't tell."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
        return int(text[:-1]) * {"K": 1 << 10, "M": 1 << 20}[text[-1]]
    except (OSError, ValueError, KeyError):
        return 1 << 20


@cache
def host_isa():
    """The instruction set that Numba's LLVM target compiles for (NUMBA_CPU_NAME is obeyed).

    LLVM offers no query for "which registers", so this compiles one vector fma and looks.
    """
    probe = """define <16 x float> @probe(<16 x float> %a, <16 x float> %b) {
        %c = call <16 x float> @llvm.fma.v16f32(<16 x float> %a, <16 x float> %a, <16 x float> %b)
        ret <16 x float> %c }
        declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)"""
    codegen = cpu_target.target_context.codegen()
    module = llvm.parse_assembly(probe)
    module.triple = codegen._tm.triple
    assembly = codegen._tm.emit_assembly(module)
    fused = "vfmadd" in assembly
    if fused and "zmm" in assembly:
        return ISAS["avx512"]
    if fused and "ymm" in assembly:
        return ISAS["avx2"]
    if "fmla" in assembly:
        return ISAS["neon"]
    return ISAS["sse" if "xmm" in assembly else "generic"]


def lanes(dtype):
    """Elements of `dtype` (a Numba float type) in one register."""
    return host_isa().vector_bytes * 8 // dtype.bitwidth


class Vector(types.Type):
    """One SIMD register of `lanes` elements."""

    def __init__(self, dtype):
        self.dtype, self.lanes = dtype, lanes(dtype)
        super().__init__(name=f"Vector({dtype} x {self.lanes})")


def llvm_float(dtype):
    return ir.FloatType() if dtype == types.float32 else ir.DoubleType()


def llvm_vector(dtype):
    return ir.VectorType(llvm_float(dtype), lanes(dtype))


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        super().__init__(manager, vector, llvm_vector(vector.dtype))


def call_intrinsic(builder, name, result, *args):
    """Call llvm.<name>, overloaded on the result's type."""
    signature = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}"), args)


def suffix(vector):
    return f"v{vector.count}f{32 if isinstance(vector.element, ir.FloatType) else 64}"


def splat_value(builder, scalar, vector):
    if isinstance(scalar, ir.Constant):
        return ir.Constant(vector, [scalar.constant] * vector.count)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(I32, 0))
    zeros = ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


def fma_value(builder, a, b, c):
    """a b + c, in one rounding where the instruction set can (without, LLVM would call libm)."""
    if host_isa().fma:
        return call_intrinsic(builder, f"fma.{suffix(a.type)}", a.type, a, b, c)
    return builder.fadd(builder.fmul(a, b), c)


def step(builder, pointer, offset):
    """`pointer` moved by `offset` bytes."""
    moved = builder.gep(builder.bitcast(pointer, I8.as_pointer()), [offset])
    return builder.bitcast(moved, pointer.type)


def opaque(builder, value):
    """The same value, of which LLVM knows nothing."""
    return builder.asm(ir.FunctionType(value.type, [value.type]), "", "=r,0", [value], False)


def first_lanes(builder, count, vector):
    """Mask of the lanes below `count` (an i64)."""
    ints = ir.VectorType(I32, vector.count)
    all_lanes = ir.Constant(I64, vector.count)
    count = builder.trunc(builder.select(builder.icmp_signed("<", count, all_lanes), count, all_lanes), I32)
    one = builder.insert_element(ir.Constant(ints, ir.Undefined), count, ir.Constant(I32, 0))
    counts = builder.shuffle_vector(one, ir.Constant(ints, ir.Undefined), ir.Constant(ints, [0] * vector.count))
    return builder.icmp_signed("<", ir.Constant(ints, list(range(vector.count))), counts)


def load_value(builder, pointer, vector, mask=None, fill=None):
    # align=1 throughout: fields of packed records are legal inputs, and unaligned moves cost the same
    pointer = builder.bitcast(pointer, vector.as_pointer())
    if mask is None:
        return builder.load(pointer, align=1)
    fill = fill or ir.Constant(vector, [0.0] * vector.count)
    name = f"masked.load.{suffix(vector)}.p0"
    return call_intrinsic(builder, name, vector, pointer, ir.Constant(I32, 1), mask, fill)


def store_value(builder, value, pointer, mask=None):
    pointer = builder.bitcast(pointer, value.type.as_pointer())
    if mask is None:
        builder.store(value, pointer, align=1)
    else:
        name = f"masked.store.{suffix(value.type)}.p0"
        call_intrinsic(builder, name, ir.VoidType(), value, pointer, ir.Constant(I32, 1), mask)


def prefetch(builder, pointer):
    """Ask for the cache line at `pointer`, which may be any address."""
    pointer = builder.bitcast(pointer, I8.as_pointer())
    signature = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
    builder.call(function, [pointer, *(ir.Constant(I32, value) for value in (0, 3, 1))])  # read, all caches, data


@intrinsic
def pointer(typingctx, array):
    """Address of an array's first element; the caller keeps the array alive."""

    def codegen(context, builder, signature, args):
        return context.make_array(array)(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), codegen


@intrinsic
def address(typingctx, array):
    """Address of an array's first element, as an integer."""

    def codegen(context, builder, signature, args):
        return builder.ptrtoint(context.make_array(array)(context, builder, args[0]).data, I64)

    return types.int64(array), codegen


def constant_pointer(value):
    """An intrinsic: pointer to a constant of the element type of `like`, a pointer."""

    @intrinsic
    def constant(typingctx, like):
        def codegen(context, builder, signature, args):
            return cgutils.global_constant(builder, "fastfc.constant", ir.Constant(llvm_float(like.dtype), value))

        return like(like), codegen

    return constant


zero, one = constant_pointer(0.0), constant_pointer(1.0)


@intrinsic
def at(typingctx, base, offset):
    """The pointer `offset` bytes further."""

    def codegen(context, builder, signature, args):
        return step(builder, *args)

    return base(base, types.int64), codegen


@intrinsic
def read(typingctx, base):
    """The element at a pointer."""

    def codegen(context, builder, signature, args):
        return builder.load(args[0], align=1)

    return base.dtype(base), codegen


@intrinsic
def write(typingctx, base, value):
    """Set the element at a pointer."""

    def codegen(context, builder, signature, args):
        builder.store(args[1], args[0], align=1)
        return context.get_dummy_value()

    return types.void(base, base.dtype), codegen


@intrinsic
def itemsize(typingctx, base):
    """Bytes of an element at a pointer."""

    def codegen(context, builder, signature, args):
        return ir.Constant(I64, base.dtype.bitwidth // 8)

    return types.int64(base), codegen


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
def allocate(typingctx, like, size):
    """`size` bytes from a 64-byte boundary on, as a pointer of the type of `like`, and the memory to release.

    For size 0, and if there is no memory left, both are null.
    """
    result = types.Tuple((like, types.voidptr))

    def codegen(context, builder, signature, args):
        null = ir.Constant(I8.as_pointer(), None)
        wanted = builder.icmp_signed(">", args[1], ir.Constant(I64, 0))
        before = builder.block
        with builder.if_then(wanted):
            fresh = context.nrt.allocate(builder, builder.add(args[1], ir.Constant(I64, 63)))
            inside = builder.block
        memory = builder.phi(I8.as_pointer())
        memory.add_incoming(null, before)
        memory.add_incoming(fresh, inside)
        rounded = builder.add(builder.ptrtoint(memory, I64), ir.Constant(I64, 63))
        start = builder.inttoptr(builder.and_(rounded, ir.Constant(I64, -64)), args[0].type)
        return context.make_tuple(builder, result, [start, memory])

    return result(like, types.int64), codegen


@intrinsic
def release(typingctx, memory):
    """Give back what `allocate` gave; null is no memory and needs no release."""

    def codegen(context, builder, signature, args):
        with builder.if_then(builder.icmp_unsigned("!=", args[0], ir.Constant(args[0].type, None))):
            context.nrt.free(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.voidptr), codegen


@intrinsic(prefer_literal=True)
def stack(typingctx, like, size):
    """A constant number of bytes, from a 64-byte boundary on, that end with the calling function."""

    def codegen(context, builder, signature, args):
        with builder.goto_entry_block():  # cgutils.alloca_once would fill it with zeros, byte by byte
            memory = builder.alloca(ir.ArrayType(I8, size.literal_value + 63))
        rounded = builder.add(builder.ptrtoint(memory, I64), ir.Constant(I64, 63))
        return builder.inttoptr(builder.and_(rounded, ir.Constant(I64, -64)), args[0].type)

    return like(like, size), codegen


def array_at(context, builder, kind, data, shape, strides):
    """An array of memory that somebody else keeps."""
    array = context.make_array(kind)(context, builder)
    size = shape[0]
    for extent in shape[1:]:
        size = builder.mul(size, extent)
    array.data = builder.bitcast(data, array.data.type)
    array.shape, array.strides = (cgutils.pack_array(builder, numbers, I64) for numbers in (shape, strides))
    array.nitems, array.itemsize = size, ir.Constant(I64, kind.dtype.bitwidth // 8)
    array.meminfo, array.parent = (cgutils.get_null_value(p.type) for p in (array.meminfo, array.parent))
    return array._getvalue(), size


@intrinsic
def view(typingctx, matrix, rows, columns):
    """A matrix, given by a pointer and the bytes from row to row and from column to column, as an array."""
    kind = types.Array(matrix[0].dtype, 2, "A", aligned=False)

    def codegen(context, builder, signature, args):
        data, *strides = cgutils.unpack_tuple(builder, args[0], 3)
        return array_at(context, builder, kind, data, args[1:], strides)[0]

    return kind(matrix, types.int64, types.int64), codegen


@intrinsic
def vector(typingctx, data, count):
    """Neighbours in memory as an array."""
    kind = types.Array(data.dtype, 1, "A", aligned=False)

    def codegen(context, builder, signature, args):
        return array_at(context, builder, kind, args[0], args[1:], [ir.Constant(I64, data.dtype.bitwidth // 8)])[0]

    return kind(data, types.int64), codegen


@intrinsic
def is_null(typingctx, memory):
    def codegen(context, builder, signature, args):
        return builder.icmp_unsigned("==", args[0], ir.Constant(args[0].type, None))

    return types.boolean(types.voidptr), codegen


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


def elementwise(emit, count):
    """An intrinsic of `count` vectors (or scalars, spread over the lanes) from an IR emitter."""

    def spread(context, builder, vector, kind, value):
        if isinstance(kind, Vector):
            return value
        return splat_value(builder, context.cast(builder, value, kind, vector.dtype), llvm_vector(vector.dtype))

    def define(*kinds):
        vector = next(kind for kind in kinds if isinstance(kind, Vector))

        def codegen(context, builder, signature, args):
            return emit(builder, *[spread(context, builder, vector, k, a) for k, a in zip(kinds, args, strict=True)])

        return vector(*kinds), codegen

    if count == 1:
        return intrinsic(lambda typingctx, a: define(a))
    if count == 2:
        return intrinsic(lambda typingctx, a, b: define(a, b))
    if count == 3:
        return intrinsic(lambda typingctx, a, b, c: define(a, b, c))
    return intrinsic(lambda typingctx, a, b, c, d: define(a, b, c, d))


def emit_where_less(builder, a, b, then, otherwise):
    return builder.select(builder.fcmp_ordered("<", a, b), then, otherwise)


def emit_where_less_equal(builder, a, b, then, otherwise):
    return builder.select(builder.fcmp_ordered("<=", a, b), then, otherwise)


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


fma = elementwise(fma_value, 3)
where_less = elementwise(emit_where_less, 4)
where_less_equal = elementwise(emit_where_less_equal, 4)
copysign = elementwise(emit_copysign, 2)
absolute = elementwise(emit_abs, 1)
power_of_two = elementwise(emit_power_of_two, 1)
square_root = elementwise(emit_sqrt, 1)
binary_exponent = elementwise(emit_binary_exponent, 1)
significand = elementwise(emit_significand, 1)

for symbol, emit in (
    (operator.add, lambda builder, a, b: builder.fadd(a, b)),
    (operator.sub, lambda builder, a, b: builder.fsub(a, b)),
    (operator.mul, lambda builder, a, b: builder.fmul(a, b)),
    (operator.truediv, lambda builder, a, b: builder.fdiv(a, b)),
):

    def define_operator(symbol, operate):
        @overload(symbol)
        def overloaded(a, b):
            if isinstance(a, Vector) or isinstance(b, Vector):
                return lambda a, b: operate(a, b)

    define_operator(symbol, elementwise(emit, 2))


def polynomial(coefficients):
    """An intrinsic that evaluates Σ cₙ xⁿ by Horner's rule; coefficients by dtype name, c₀ first."""

    @intrinsic
    def evaluate(typingctx, x):
        terms = coefficients[str(x.dtype)]

        def codegen(context, builder, signature, args):
            vector = args[0].type
            total = ir.Constant(vector, [terms[-1]] * vector.count)
            for c in reversed(terms[:-1]):
                total = fma_value(builder, total, args[0], ir.Constant(vector, [c] * vector.count))
            return total

        return x(x), codegen

    return evaluate


def shuffle(builder, pair, chosen):
    """The chosen lanes of two vectors, those of the second numbered after those of the first."""
    a, b = pair
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(chosen)), chosen))


def transpose_fours(builder, block):
    """Transpose the 4 x 4 squares of float32 along each group of four rows.

    By interleaving: x86 does that within 128 bits at twice the rate of other shuffles.
    """
    count = len(block)
    quads = range(0, count, 4)
    low = [lane for q in quads for lane in (q, count + q, q + 1, count + q + 1)]
    high = [lane + 2 for lane in low]
    first = [lane for q in quads for lane in (q, q + 1, count + q, count + q + 1)]
    second = [lane + 2 for lane in first]
    result = []
    for q in quads:
        for half in (low, high):
            pairs = [shuffle(builder, block[q + i : q + i + 2], half) for i in (0, 2)]
            result += [shuffle(builder, pairs, chosen) for chosen in (first, second)]
    return result


def transpose_vectors(builder, block):
    """Rows of a square, as vectors, to its columns."""
    count = len(block)
    fours = isinstance(block[0].type.element, ir.FloatType)
    if fours:
        block = transpose_fours(builder, block)
    half = count // 2
    while half > (2 if fours else 0):
        # exchange the off-diagonal squares of side `half`
        keep = [lane if not lane & half else count + lane - half for lane in range(count)]
        take = [lane + half if not lane & half else count + lane for lane in range(count)]
        for i in range(count):
            if not i & half:
                pair = block[i], block[i + half]
                block[i], block[i + half] = (shuffle(builder, pair, chosen) for chosen in (keep, take))
        half //= 2
    return block


@intrinsic
def transpose_block(typingctx, source, source_row, rows, columns, target, target_row):
    """target[j, i] = source[i, j] for a block of `rows` x `columns`, each at most one register's lanes.

    Lanes from `rows` on are filled with copies of the last row; memory is written up to whole registers.
    """

    def codegen(context, builder, signature, args):
        source, source_row, rows, columns, target, target_row = args
        vector = llvm_vector(signature.args[0].dtype)
        count = vector.count
        constant = lambda value: ir.Constant(I64, value)
        last = builder.sub(rows, constant(1))

        def emit(mask):
            block = []
            for i in range(count):
                row = builder.select(builder.icmp_signed("<", constant(i), rows), constant(i), last)
                block.append(load_value(builder, step(builder, source, builder.mul(row, source_row)), vector, mask))
            return transpose_vectors(builder, block)

        full = builder.icmp_signed(">=", columns, constant(count))
        with builder.if_else(full) as (whole, part):
            with whole:
                for j, row in enumerate(emit(None)):
                    store_value(builder, row, step(builder, target, builder.mul(target_row, constant(j))))
            with part:
                for j, row in enumerate(emit(first_lanes(builder, columns, vector))):
                    with builder.if_then(builder.icmp_signed("<", constant(j), columns)):
                        store_value(builder, row, step(builder, target, builder.mul(target_row, constant(j))))
        return context.get_dummy_value()

    number = types.int64
    return types.void(source, number, number, number, source, number), codegen


def across_lanes(combine):
    """An intrinsic: a vector's upper half is combined with its lower half until one lane is left."""

    @intrinsic
    def reduce(typingctx, vector):
        def codegen(context, builder, signature, args):
            total = args[0]
            while total.type.count > 1:
                half = total.type.count // 2
                low, high = (shuffle(builder, [total, total], list(range(i, i + half))) for i in (0, half))
                total = combine(builder, low, high)
            return builder.extract_element(total, ir.Constant(I32, 0))

        return vector.dtype(vector), codegen

    return reduce


sum_of_lanes = across_lanes(lambda builder, a, b: builder.fadd(a, b))
largest_lane = across_lanes(lambda builder, a, b: emit_where_less(builder, a, b, b, a))


def by_dtype(float32, float64):
    """An intrinsic: the constant for the dtype of its argument, in every lane."""
    return polynomial({"float32": (float32,), "float64": (float64,)})


def mixed(builder, x):
    """A hash of 32-bit integers in which each bit of x changes each bit of the result about half of the time.

    C. Wellons, "Prospecting for hash functions", https://nullprogram.com/blog/2018/07/31/, two rounds with the
    constants that were found later (bias 0.107).
    """
    constant = lambda value: ir.Constant(x.type, [value] * x.type.count)
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        x = builder.mul(builder.xor(x, builder.lshr(x, constant(shift))), constant(factor))
    return builder.xor(x, builder.lshr(x, constant(15)))


@intrinsic
def chosen(typingctx, like, key, index, threshold, value):
    """`value` in lane i if random 32 bits, a function of key and index + i alone, are below threshold; elsewhere 0.

    The key has 64 bits: a round of `mixed` with each half of them. Of the index, the lowest 32 bits count.
    """
    vector = Vector(like.dtype)

    def codegen(context, builder, signature, args):
        kind = llvm_vector(like.dtype)
        ints = ir.VectorType(I32, kind.count)

        def spread(number):
            one = builder.insert_element(ir.Constant(ints, ir.Undefined), builder.trunc(number, I32), I32(0))
            return builder.shuffle_vector(one, ir.Constant(ints, ir.Undefined), ir.Constant(ints, [0] * kind.count))

        _, key, index, threshold, number = args
        place = builder.add(spread(index), ir.Constant(ints, list(range(kind.count))))
        bits = mixed(builder, builder.add(place, spread(key)))
        bits = mixed(builder, builder.xor(bits, spread(builder.lshr(key, ir.Constant(I64, 32)))))
        value = splat_value(builder, context.cast(builder, number, signature.args[4], like.dtype), kind)
        below = builder.icmp_unsigned("<", bits, spread(threshold))
        return builder.select(below, value, ir.Constant(kind, [0.0] * kind.count))

    return vector(like, types.int64, types.int64, types.int64, value), codegen


class Tile(NamedTuple):
    """C[rows, columns] = max(floor, start + A[rows, k] B[k, columns]), accumulators in registers.

    `packed` says that the elements of a column of A are neighbours in memory; `masked` that only the
    first `columns` of the vectors' lanes exist, the other lanes are never touched in memory.
    """

    dtype: types.Float
    rows: int
    vectors: int
    masked: bool
    packed: bool

    def function(self, module):
        """The LLVM function of this tile, in `module`."""
        name = f"fastfc.tile.{self.dtype}.{self.rows}x{self.vectors}.{int(self.masked)}{int(self.packed)}"
        if name in module.globals:
            return module.globals[name]
        element = llvm_float(self.dtype).as_pointer()
        arguments = [I64, element, I64, I64, element, I64, element, I64, I64, element, I64, I64, element.pointee]
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
        function.linkage = "linkonce_odr"
        for attribute in ("noinline", "nounwind"):
            function.attributes.add(attribute)
        self.emit(ir.IRBuilder(function.append_basic_block("entry")), *function.args)
        return function

    def emit(self, builder, k, a, a_row, a_step, b, b_step, start, start_row, start_column, c, c_row, columns, floor):
        vector = llvm_vector(self.dtype)
        size = self.dtype.bitwidth // 8
        bytes_ = vector.count * size
        constant = lambda value: ir.Constant(I64, value)
        tile = [(i, j) for i in range(self.rows) for j in range(self.vectors)]
        if self.packed:
            a_row = constant(size)
        masks = [None] * self.vectors
        if self.masked:
            masks = [
                first_lanes(builder, builder.sub(columns, constant(j * vector.count)), vector)
                for j in range(self.vectors)
            ]

        def across(row, j):
            return step(builder, row, constant(j * bytes_))

        def down(base, stride, i):
            return step(builder, base, builder.mul(stride, constant(i)))

        spread_block = builder.append_basic_block("spread")
        matrix_block = builder.append_basic_block("matrix")
        begin, loop, done = (builder.append_basic_block(name) for name in ("begin", "k", "done"))
        builder.cbranch(builder.icmp_signed("==", start_column, constant(0)), spread_block, matrix_block)
        builder.position_at_end(spread_block)
        column = [
            splat_value(builder, builder.load(down(start, start_row, i), align=1), vector) for i in range(self.rows)
        ]
        builder.branch(begin)
        builder.position_at_end(matrix_block)
        loaded = {(i, j): load_value(builder, across(down(start, start_row, i), j), vector, masks[j]) for i, j in tile}
        builder.branch(begin)

        builder.position_at_end(begin)
        first = {}
        for i, j in tile:
            first[i, j] = builder.phi(vector)
            first[i, j].add_incoming(column[i], spread_block)
            first[i, j].add_incoming(loaded[i, j], matrix_block)
        a_first = [down(a, a_row, i) for i in range(0, self.rows, 3)]
        builder.cbranch(builder.icmp_signed(">", k, constant(0)), loop, done)

        builder.position_at_end(loop)
        left = builder.phi(I64)
        # a pointer for every three rows; from one for all LLVM would derive them by a serial chain of additions
        a_now, b_now = [builder.phi(a.type) for _ in range(0, self.rows, 3)], builder.phi(b.type)
        sums = {place: builder.phi(vector) for place in tile}
        row_b = [load_value(builder, across(b_now, j), vector, masks[j]) for j in range(self.vectors)]
        added = {}
        for i in range(self.rows):
            element = splat_value(builder, builder.load(down(a_now[i // 3], a_row, i % 3), align=1), vector)
            for j in range(self.vectors):
                added[i, j] = fma_value(builder, element, row_b[j], sums[i, j])
        after = builder.sub(left, constant(1))
        for phi, initial, following in [
            (left, k, after),
            *[(now, a_first[g], opaque(builder, step(builder, now, a_step))) for g, now in enumerate(a_now)],
            (b_now, b, step(builder, b_now, b_step)),
            *[(sums[place], first[place], added[place]) for place in tile],
        ]:
            phi.add_incoming(initial, begin)
            phi.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed(">", after, constant(0)), loop, done)

        builder.position_at_end(done)
        results = {place: builder.phi(vector) for place in tile}
        for place in tile:
            results[place].add_incoming(first[place], begin)
            results[place].add_incoming(added[place], loop)
        floors = splat_value(builder, floor, vector)
        for i, j in tile:
            # written so that NaN survives: an ordered comparison with NaN is false
            value = emit_where_less(builder, results[i, j], floors, floors, results[i, j])
            store_value(builder, value, across(down(c, c_row, i), j), masks[j])
        builder.ret_void()


@intrinsic
def tile_columns(typingctx, like, rows):
    """Columns of the tile for blocks of `rows` rows, for the element type of a pointer."""
    isa = host_isa()

    def codegen(context, builder, signature, args):
        result = ir.Constant(I64, isa.vectors * lanes(like.dtype))
        for r in reversed(range(1, isa.rows + 1)):
            wide = ir.Constant(I64, isa.tile_vectors(r) * lanes(like.dtype))
            result = builder.select(builder.icmp_signed("==", args[1], ir.Constant(I64, r)), wide, result)
        return result

    return types.int64(like, types.int64), codegen


@intrinsic
def tile_rows(typingctx, like):
    """The most rows that a tile can have, for the element type of a pointer."""

    def codegen(context, builder, signature, args):
        return ir.Constant(I64, host_isa().rows)

    return types.int64(like), codegen


@intrinsic
def multiply_tile(typingctx, rows, k, a, b, start, c, columns, floor):
    """c[rows, columns] = max(floor, start + a b): see Tile.

    a (rows, k), b (k, columns), c and start (rows, columns) are tuples of a pointer and the bytes from row to
    row and from column to column. Columns of b and c are neighbours, and those of start, or start is one
    column (its second stride is 0), spread over the tile.
    """
    isa, dtype = host_isa(), floor
    number = types.int64

    def codegen(context, builder, signature, args):
        rows, k, a, b, start, c, columns, floor = args
        (a, a_row, a_step), (b, b_row, _) = (cgutils.unpack_tuple(builder, x, 3) for x in (a, b))
        (start, start_row, start_column), (c, c_row, _) = (cgutils.unpack_tuple(builder, x, 3) for x in (start, c))
        rest = [k, a, a_row, a_step, b, b_row, start, start_row, start_column, c, c_row, columns, floor]
        packed = builder.icmp_signed("==", a_row, ir.Constant(I64, dtype.bitwidth // 8))
        end = builder.append_basic_block("tile.end")
        other = builder.append_basic_block("tile.none")
        switch = builder.switch(rows, other)
        builder.position_at_end(other)
        builder.unreachable()
        for r in range(1, isa.rows + 1):
            block = builder.append_basic_block(f"tile.{r}")
            switch.add_case(ir.Constant(I64, r), block)
            builder.position_at_end(block)
            vectors = isa.tile_vectors(r)
            # whole, or masked and no wider than needed
            choices = [(vectors, False), (vectors, True), (vectors // 2, True), (1, True)]
            function = None
            for is_packed in (True, False):
                tiles = {c: Tile(dtype, r, *c, is_packed).function(builder.module) for c in choices}
                chosen = tiles[vectors, True]
                for v in (vectors // 2, 1):
                    fits = builder.icmp_signed("<=", columns, ir.Constant(I64, v * lanes(dtype)))
                    chosen = builder.select(fits, tiles[v, True], chosen)
                full = builder.icmp_signed("==", columns, ir.Constant(I64, vectors * lanes(dtype)))
                chosen = builder.select(full, tiles[vectors, False], chosen)
                function = builder.select(packed, function, chosen) if function else chosen
            builder.call(function, rest)
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(number, number, a, b, start, c, number, dtype), codegen


# How far ahead in each row a square is asked for: so many rows at once are too many for the processor to foresee.
PREFETCH_BYTES = 256


@intrinsic
def multiply_square(typingctx, a, b, c, columns):
    """c[0, :columns] += a b, for a square of b whose rows are neighbours: it is transposed in registers.

    a (1, lanes), b (lanes, columns), c (1, columns) as for multiply_tile, columns at most the lanes.
    """
    dtype = c[0].dtype

    def codegen(context, builder, signature, args):
        (a, _, a_step), (b, _, b_column), (c, _, _) = (cgutils.unpack_tuple(builder, x, 3) for x in args[:3])
        columns, vector = args[3], llvm_vector(dtype)
        constant = lambda value: ir.Constant(I64, value)

        def emit(mask, column):
            rows = [step(builder, b, builder.mul(b_column, column(i))) for i in range(vector.count)]
            for row in rows:
                prefetch(builder, step(builder, row, constant(PREFETCH_BYTES)))
            block = [load_value(builder, row, vector) for row in rows]
            total = load_value(builder, c, vector, mask)
            for q, row in enumerate(transpose_vectors(builder, block)):
                element = builder.load(step(builder, a, builder.mul(a_step, constant(q))), align=1)
                total = fma_value(builder, splat_value(builder, element, vector), row, total)
            store_value(builder, total, c, mask)

        last = builder.sub(columns, constant(1))
        with builder.if_else(builder.icmp_signed(">=", columns, constant(vector.count))) as (whole, part):
            with whole:
                emit(None, constant)
            with part:
                below = lambda i: builder.select(builder.icmp_signed("<", constant(i), columns), constant(i), last)
                emit(first_lanes(builder, columns, vector), below)
        return context.get_dummy_value()

    return types.void(a, b, c, types.int64), codegen


# What a thread holds while it is in LLVM, whether it compiles or frees what was compiled.
LLVM_LOCK = getattr(llvm.ffi.lib, "_lock", contextlib.nullcontext())


def define_symbol(name, address):
    """Let native code refer to a memory cell by name; the cell must live as long as the process."""
    llvm.add_symbol(name, address)


def cell_value(builder, name):
    """What stands in a memory cell: the address of a function, or 0."""
    known = builder.module.globals
    return builder.load(known[name] if name in known else cgutils.add_global_variable(builder.module, I64, name))


def call_through_cell(context, builder, name, signature, args, missing=None):
    """Call the Numba function whose address stands in the cell `name`; if none does, raise `missing`."""
    address = cell_value(builder, name)
    if missing is not None:
        with cgutils.if_unlikely(builder, builder.icmp_unsigned("==", address, ir.Constant(I64, 0))):
            context.call_conv.return_user_exc(builder, *missing)
    convention = context.call_conv
    kind = convention.get_function_type(signature.return_type, signature.args)
    function = builder.inttoptr(address, kind.as_pointer())
    status, result = convention.call_function(builder, function, signature.return_type, signature.args, args)
    with cgutils.if_unlikely(builder, status.is_error):
        convention.return_status_propagate(builder, status)
    return result


@intrinsic
def call_at(typingctx, place, like, arguments):
    """Call a C function of a tuple of numbers and pointers, to a float64, whose address stands at a place in memory.

    The place is given by the bits of a float64, and has two addresses: for pointers to float32 and to float64.
    """

    def codegen(context, builder, signature, args):
        addresses = builder.inttoptr(builder.bitcast(args[0], I64), I64.as_pointer())
        address = builder.load(builder.gep(addresses, [ir.Constant(I64, int(like.dtype == types.float64))]))
        values = cgutils.unpack_tuple(builder, args[2], len(arguments))
        kind = ir.FunctionType(ir.DoubleType(), [value.type for value in values])
        return builder.call(builder.inttoptr(address, kind.as_pointer()), values)

    return types.float64(types.float64, like, arguments), codegen
