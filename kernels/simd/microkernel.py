"""The micro-kernel of the matrix product: a tile of accumulators in registers."""

from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastfc.kernels.simd.isa import host_isa, lanes
from fastfc.kernels.simd.llvm import (
    I64,
    emit_where_less,
    first_lanes,
    fma_value,
    llvm_float,
    llvm_vector,
    load_value,
    opaque,
    prefetch,
    splat_value,
    step,
    store_value,
)
from fastfc.kernels.simd.transpose import transpose_vectors


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
