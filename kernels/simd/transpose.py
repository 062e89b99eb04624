"""Blocks of a matrix, transposed in registers."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastfc.kernels.simd.llvm import I64, first_lanes, llvm_vector, load_value, shuffle, step, store_value


def load_rows(builder, vector, source, source_row, rows, mask=None):
    """As many rows as a register has lanes; from `rows` on, copies of the last row."""
    last, result = builder.sub(rows, ir.Constant(I64, 1)), []
    for i in range(vector.count):
        index = ir.Constant(I64, i)
        index = builder.select(builder.icmp_signed("<", index, rows), index, last)
        result.append(load_value(builder, step(builder, source, builder.mul(index, source_row)), vector, mask))
    return result


def transpose_fours(builder, block):
    """Transpose the 4 x 4 squares of float32 along each group of four rows.

    By interleaving: x86 does that within 128 bits at twice the rate of other shuffles.
    """
    count = block[0].type.count
    quads = range(0, count, 4)
    low = [lane for q in quads for lane in (q, count + q, q + 1, count + q + 1)]
    high = [lane + 2 for lane in low]
    first = [lane for q in quads for lane in (q, q + 1, count + q, count + q + 1)]
    second = [lane + 2 for lane in first]
    result = []
    for q in range(0, len(block), 4):
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


def transpose_few(builder, block):
    """Rows that are as many as 128 bits have lanes to columns, each repeated up to a register."""
    few, count = len(block), block[0].type.count
    groups = range(0, count, few)
    if few == 4:
        parts = transpose_fours(builder, block)
    else:
        parts = [shuffle(builder, block, [lane for g in groups for lane in (g + i, count + g + i)]) for i in (0, 1)]
    repeated = lambda first: [first + lane % few for lane in range(count)]
    return [shuffle(builder, [parts[i % few]] * 2, repeated(i // few * few)) for i in range(count)]


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

        def emit(mask):
            return transpose_vectors(builder, load_rows(builder, vector, source, source_row, rows, mask))

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


@intrinsic
def add_columns(typingctx, total, source, source_row, rows):
    """total[i] + Σ source[i, :], over the columns of a square in order; of at most `rows` rows, see transpose_block."""

    def codegen(context, builder, signature, args):
        total, source, source_row, rows = args
        for column in transpose_vectors(builder, load_rows(builder, total.type, source, source_row, rows)):
            total = builder.fadd(total, column)
        return total

    return total(total, source, types.int64, types.int64), codegen
