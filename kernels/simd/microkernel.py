"""The micro-kernel of the matrix product: a tile of accumulators in registers."""

from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastfc.kernels.simd.compiler import declared, finished
from fastfc.kernels.simd.isa import LINE, host_isa, lanes
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
    shared_function,
    splat_value,
    step,
    store_value,
)


class Operands(NamedTuple):
    """What a tile's function is called with: numbers in bytes, but k and columns."""

    k: ir.Value
    a: ir.Value
    a_row: ir.Value
    a_column: ir.Value
    b: ir.Value
    b_row: ir.Value
    start: ir.Value
    start_row: ir.Value
    start_column: ir.Value
    c: ir.Value
    c_row: ir.Value
    columns: ir.Value
    floor: ir.Value
    ahead: ir.Value
    gap: ir.Value


class Tile(NamedTuple):
    """C[rows, columns] = max(floor, start + A[rows, k] B[k, columns]), accumulators in registers.

    `masked` says that only the first `columns` of the vectors' lanes exist. The other lanes of C and start are never
    touched in memory, and those of B only where registers can't be loaded in part: there B is padded.
    """

    dtype: types.Float
    rows: int
    vectors: int
    masked: bool

    def function(self, module):
        """The LLVM function of this tile, in `module`."""
        name = f"fastfc.tile.{self.dtype}.{self.rows}x{self.vectors}.{int(self.masked)}"
        if name in module.globals:
            return module.globals[name]
        element = llvm_float(self.dtype).as_pointer()
        arguments = [I64, element, I64, I64, element, I64, element, I64, I64, element, I64, I64, element.pointee]
        arguments += [element, I64]
        function = shared_function(module, name, arguments)
        self.emit(ir.IRBuilder(function.append_basic_block("entry")), Operands(*function.args))
        return function

    @property
    def places(self):
        return [(i, j) for i in range(self.rows) for j in range(self.vectors)]

    def emit(self, builder, x):
        vector = llvm_vector(self.dtype)
        masks = [None] * self.vectors
        if self.masked:
            lanes_before = [ir.Constant(I64, j * vector.count) for j in range(self.vectors)]
            masks = [first_lanes(builder, builder.sub(x.columns, before), vector) for before in lanes_before]
        first = self.emit_start(builder, x, masks)
        sums = self.emit_sum(builder, x, masks if host_isa().masked_loads else [None] * self.vectors, first)
        floors = splat_value(builder, x.floor, vector)
        for i, j in self.places:
            # written so that NaN survives: an ordered comparison with NaN is false
            value = emit_where_less(builder, sums[i, j], floors, floors, sums[i, j])
            store_value(builder, value, self.across(builder, down(builder, x.c, x.c_row, i), j), masks[j])
        builder.ret_void()

    def across(self, builder, row, j):
        """The pointer j registers further."""
        return step(builder, row, ir.Constant(I64, j * host_isa().vector_bytes))

    def emit_start(self, builder, x, masks):
        """The tile of `start`, or its column spread over the tile."""
        vector = llvm_vector(self.dtype)
        spread, matrix, done = (builder.append_basic_block(name) for name in ("spread", "matrix", "start"))
        builder.cbranch(builder.icmp_signed("==", x.start_column, ir.Constant(I64, 0)), spread, matrix)
        rows = range(self.rows)
        builder.position_at_end(spread)
        column = [builder.load(down(builder, x.start, x.start_row, i), align=1) for i in rows]
        column = [splat_value(builder, value, vector) for value in column]
        builder.branch(done)
        builder.position_at_end(matrix)
        at_row = [down(builder, x.start, x.start_row, i) for i in rows]
        places = {(i, j): self.across(builder, at_row[i], j) for i, j in self.places}
        loaded = {(i, j): load_value(builder, places[i, j], vector, masks[j]) for i, j in places}
        builder.branch(done)
        builder.position_at_end(done)
        first = {place: builder.phi(vector) for place in self.places}
        for (i, j), phi in first.items():
            phi.add_incoming(column[i], spread)
            phi.add_incoming(loaded[i, j], matrix)
        return first

    def emit_sum(self, builder, x, masks, first):
        """The tile of `first` + A B."""
        vector = llvm_vector(self.dtype)
        # a pointer for every three rows; from one for all LLVM would derive them by a serial chain of additions
        a_first = [down(builder, x.a, x.a_row, i) for i in range(0, self.rows, 3)]
        distances = self.emit_distances(builder, x)
        before = builder.block
        loop, done = builder.append_basic_block("k"), builder.append_basic_block("done")
        builder.cbranch(builder.icmp_signed(">", x.k, ir.Constant(I64, 0)), loop, done)

        builder.position_at_end(loop)
        left, b = builder.phi(I64), builder.phi(x.b.type)
        a = [builder.phi(x.a.type) for _ in a_first]
        sums = {place: builder.phi(vector) for place in self.places}
        b_row = [load_value(builder, self.across(builder, b, j), vector, masks[j]) for j in range(self.vectors)]
        for distance in distances:
            prefetch(builder, step(builder, b, distance))
        added = {}
        for i in range(self.rows):
            element = builder.load(down(builder, a[i // 3], x.a_row, i % 3), align=1)
            element = splat_value(builder, element, vector)
            for j in range(self.vectors):
                added[i, j] = fma_value(builder, element, b_row[j], sums[i, j])
        after, of_a = builder.sub(left, ir.Constant(I64, 1)), zip(a, a_first, strict=True)
        for phi, initial, following in [
            (left, x.k, after),
            *[(now, pointer, opaque(builder, step(builder, now, x.a_column))) for now, pointer in of_a],
            (b, x.b, step(builder, b, x.b_row)),
            *[(sums[place], first[place], added[place]) for place in self.places],
        ]:
            phi.add_incoming(initial, before)
            phi.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed(">", after, ir.Constant(I64, 0)), loop, done)

        builder.position_at_end(done)
        results = {place: builder.phi(vector) for place in self.places}
        for place in self.places:
            results[place].add_incoming(first[place], before)
            results[place].add_incoming(added[place], loop)
        return results

    def emit_distances(self, builder, x):
        """The bytes from a row of B to what is asked for while it is used: a line at `ahead`, and one `gap` further.

        The second only where a row of B takes more than a line. Narrow tiles ask for nothing.
        """
        if self.masked or self.vectors != host_isa().vectors:
            return []
        first = builder.sub(builder.ptrtoint(x.ahead, I64), builder.ptrtoint(x.b, I64))
        wide = self.vectors * host_isa().vector_bytes > LINE
        return [first, builder.add(first, x.gap)] if wide else [first]


def down(builder, base, row_bytes, i):
    """The pointer i rows further."""
    return step(builder, base, builder.mul(row_bytes, ir.Constant(I64, i)))


@intrinsic
def multiply_tile(typingctx, rows, k, a, b, start, c, columns, floor, ahead, gap):
    """c[rows, columns] = max(floor, start + a b): see Tile.

    a (rows, k), b (k, columns), c and start (rows, columns) are tuples of a pointer and the bytes from row to
    row and from column to column. Columns of b and c are neighbours, and those of start, or start is one
    column (its second stride is 0), spread over the tile. For each row of b a line of memory is asked for, from the
    pointer `ahead` on, which takes b's steps, and another one `gap` bytes further.
    """
    isa, dtype = host_isa(), floor
    number = types.int64

    def codegen(context, builder, signature, args):
        rows, k, a, b, start, c, columns, floor, ahead, gap = args
        (a, a_row, a_step), (b, b_row, _) = (cgutils.unpack_tuple(builder, x, 3) for x in (a, b))
        (start, start_row, start_column), (c, c_row, _) = (cgutils.unpack_tuple(builder, x, 3) for x in (start, c))
        rest = [k, a, a_row, a_step, b, b_row, start, start_row, start_column, c, c_row, columns, floor, ahead, gap]
        end = builder.append_basic_block("tile.end")
        other = builder.append_basic_block("tile.none")
        switch = builder.switch(rows, other)
        builder.position_at_end(other)
        builder.unreachable()
        with finished(context) as module:
            for r in range(1, isa.rows + 1):
                block = builder.append_basic_block(f"tile.{r}")
                switch.add_case(ir.Constant(I64, r), block)
                builder.position_at_end(block)
                vectors = isa.tile_vectors(r)
                # whole, or masked and no wider than needed
                half = (vectors + 1) // 2
                choices = [(vectors, False), (vectors, True), (half, True), (1, True)]
                tiles = {c: declared(builder.module, Tile(dtype, r, *c).function(module)) for c in choices}
                function = tiles[vectors, True]
                for v in (half, 1):
                    fits = builder.icmp_signed("<=", columns, ir.Constant(I64, v * lanes(dtype)))
                    function = builder.select(fits, tiles[v, True], function)
                full = builder.icmp_signed("==", columns, ir.Constant(I64, vectors * lanes(dtype)))
                function = builder.select(full, tiles[vectors, False], function)
                builder.call(function, rest)
                builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(number, number, a, b, start, c, number, dtype, ahead, number), codegen
