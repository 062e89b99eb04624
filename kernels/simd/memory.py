"""Pointers, memory, and arrays made of them."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastfc.kernels.simd.llvm import I8, I64, llvm_float, step


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


@intrinsic
def offset_in(typingctx, base, nbytes):
    """The bytes of a pointer beyond a multiple of `nbytes`, a power of two."""

    def codegen(context, builder, signature, args):
        return builder.and_(builder.ptrtoint(args[0], I64), builder.sub(args[1], ir.Constant(I64, 1)))

    return types.int64(base, types.int64), codegen


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
