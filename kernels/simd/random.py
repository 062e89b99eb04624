"""Random lanes by a counter: the mask of Dropout."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastfc.kernels.simd.llvm import I32, I64, llvm_vector, splat_value
from fastfc.kernels.simd.vector import Vector


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

        def broadcast(number):
            one = builder.insert_element(ir.Constant(ints, ir.Undefined), builder.trunc(number, I32), I32(0))
            return builder.shuffle_vector(one, ir.Constant(ints, ir.Undefined), ir.Constant(ints, [0] * kind.count))

        _, key, index, threshold, number = args
        place = builder.add(broadcast(index), ir.Constant(ints, list(range(kind.count))))
        bits = mixed(builder, builder.add(place, broadcast(key)))
        bits = mixed(builder, builder.xor(bits, broadcast(builder.lshr(key, ir.Constant(I64, 32)))))
        value = splat_value(builder, context.cast(builder, number, signature.args[4], like.dtype), kind)
        below = builder.icmp_unsigned("<", bits, broadcast(threshold))
        return builder.select(below, value, ir.Constant(kind, [0.0] * kind.count))

    return vector(like, types.int64, types.int64, types.int64, value), codegen
