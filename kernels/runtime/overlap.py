"""Whether arrays overlap in memory."""

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.llvm import I64
from fastfc.kernels.simd.memory import address


@intrinsic
def extent(typingctx, x):
    """Addresses of an array's first byte and of the one after its last; 0 and 0 if it is empty."""
    result, zero = types.UniTuple(types.int64, 2), I64(0)

    def codegen(context, builder, signature, args):
        array = context.make_array(x)(context, builder, args[0])
        low = builder.ptrtoint(array.data, I64)
        high = builder.add(low, array.itemsize)
        extents, strides = (cgutils.unpack_tuple(builder, pair, x.ndim) for pair in (array.shape, array.strides))
        for size, stride in zip(extents, strides, strict=True):
            reach = builder.mul(builder.sub(size, I64(1)), stride)
            down = builder.icmp_signed("<", reach, zero)
            low = builder.add(low, builder.select(down, reach, zero))
            high = builder.add(high, builder.select(down, zero, reach))
        empty = builder.icmp_signed("==", array.nitems, zero)
        return context.make_tuple(builder, result, [builder.select(empty, zero, end) for end in (low, high)])

    return result(x), codegen


@helper
def meet(a, b):
    """Whether two extents overlap."""
    return a[0] < b[1] and b[0] < a[1]


@helper
def overlaps(x, y):
    """Whether the extents of two arrays overlap in memory."""
    return meet(extent(x), extent(y))


@helper
def same(x, y):
    """Whether two arrays of one shape are the same elements in the same order."""
    return address(x) == address(y) and x.strides == y.strides


@helper
def keep_alive(array):
    """Numba may free an array after its last use, and knows nothing of pointers into it: use it once more."""
    return array.size
