"""Few rows times a matrix whose rows are neighbours in memory, as Wᵀ's are: squares of it are transposed in registers.

Each register of sums is one chain of multiply-adds, in which the next waits 4 cycles or so for the one before. So
several registers are under way at once, and nothing is packed: each element of B serves a few multiply-adds only.
"""

from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastfc.kernels.simd.isa import host_isa, lanes
from fastfc.kernels.simd.llvm import (
    I64,
    first_lanes,
    fma_value,
    llvm_float,
    llvm_vector,
    load_value,
    shared_function,
    splat_value,
    step,
    store_value,
)
from fastfc.kernels.simd.transpose import transpose_few, transpose_vectors

# Columns of Bᵀ that lie a multiple of so many bytes apart fall into a few sets of L1, and push each other out. So each
# register lags behind the one before by so many bytes (Zen 5, 1 x 512 x 512: AVX-512 83 to 94 GB/s, AVX2 57 to 71).
ALIASING, LAG = 2048, 256


def across(isa, rows):
    """Registers across the columns that are under way at once, for so many rows."""
    return 2 if isa.vector_bytes == 64 or (rows > 2 and isa.registers == 16) else 4


def many_rows(isa):
    """For so many rows this is faster than to pack B, and the registers suffice."""
    return 8 if isa.vector_bytes == 64 else 4 if isa.registers == 32 or isa.fma else 1


MANY_ROWS = many_rows(host_isa())


# If so few columns are left they need a third of the shuffles, and don't wait for their own chain of additions.
NARROW_BYTES = 16


def narrow_columns(dtype):
    return NARROW_BYTES * 8 // dtype.bitwidth


class Operands(NamedTuple):
    """What a function is called with: numbers in bytes, but the columns."""

    nbytes: ir.Value
    lag: ir.Value
    a: ir.Value
    a_row: ir.Value
    b: ir.Value
    b_column: ir.Value
    start: ir.Value
    start_row: ir.Value
    start_column: ir.Value
    c: ir.Value
    c_row: ir.Value
    columns: ir.Value


class Squares(NamedTuple):
    """C[rows, columns] = start + A[rows, k] B[k, columns], with `registers` across the columns.

    k summands are `nbytes` of A, a multiple of a register. If it is `clipped`, only the first `columns` of the
    registers' lanes exist, else all. The last register, if it is `narrow`, has at most NARROW_BYTES of columns. Each
    register is `lag` bytes behind the one before.
    """

    dtype: types.Float
    rows: int
    registers: int
    clipped: bool = False
    narrow: bool = False

    def function(self, module, emit):
        """The LLVM function of this in `module`, which `emit` writes, a method of this."""
        name = ".".join(map(str, ("fastfc.squares", emit.__name__, *self)))
        if name in module.globals:
            return module.globals[name]
        element = llvm_float(self.dtype).as_pointer()
        arguments = [I64, I64, element, I64, element, I64, element, I64, I64, element, I64, I64]
        function = shared_function(module, name, arguments)
        emit(ir.IRBuilder(function.append_basic_block("entry")), Operands(*function.args))
        return function

    @property
    def vector(self):
        return llvm_vector(self.dtype)

    @property
    def places(self):
        """The registers of sums, those of a column side by side."""
        return [(i, j) for j in range(self.registers) for i in range(self.rows)]

    def column(self, builder, x, q):
        """Where column q of B begins; the last one stands for those that don't exist."""
        index = ir.Constant(I64, q)
        if self.clipped:
            last = builder.sub(x.columns, ir.Constant(I64, 1))
            index = builder.select(builder.icmp_signed("<", index, last), index, last)
        return step(builder, x.b, builder.mul(x.b_column, index))

    def columns_of(self, builder, x, j):
        """The columns of register j."""
        first, narrow = j * self.vector.count, self.narrow and j == self.registers - 1
        count = narrow_columns(self.dtype) if narrow else self.vector.count
        return [self.column(builder, x, q) for q in range(first, first + count)]

    def place(self, builder, base, row_bytes, i, j):
        """The pointer i rows and j registers further."""
        offset = builder.add(builder.mul(row_bytes, ir.Constant(I64, i)), ir.Constant(I64, j * self.vector_bytes))
        return step(builder, base, offset)

    @property
    def vector_bytes(self):
        return host_isa().vector_bytes

    def mask(self, builder, x, j):
        """The lanes of register j that exist, None for all."""
        before = ir.Constant(I64, j * self.vector.count)
        return first_lanes(builder, builder.sub(x.columns, before), self.vector) if self.clipped else None

    def emit_start(self, builder, x):
        """The sums at the beginning: those of `start`, or its column spread over them."""
        spread, matrix, done = (builder.append_basic_block(name) for name in ("spread", "matrix", "start"))
        builder.cbranch(builder.icmp_signed("==", x.start_column, ir.Constant(I64, 0)), spread, matrix)
        builder.position_at_end(spread)
        column = [builder.load(self.place(builder, x.start, x.start_row, i, 0), align=1) for i in range(self.rows)]
        column = [splat_value(builder, value, self.vector) for value in column]
        builder.branch(done)
        builder.position_at_end(matrix)
        loaded = {
            (i, j): load_value(
                builder, self.place(builder, x.start, x.start_row, i, j), self.vector, self.mask(builder, x, j)
            )
            for i, j in self.places
        }
        builder.branch(done)
        matrix = builder.block
        builder.position_at_end(done)
        first = {place: builder.phi(self.vector) for place in self.places}
        for (i, j), phi in first.items():
            phi.add_incoming(column[i], spread)
            phi.add_incoming(loaded[i, j], matrix)
        return first

    def emit_store(self, builder, x, sums):
        for i, j in self.places:
            target = self.place(builder, x.c, x.c_row, i, j)
            store_value(builder, sums[i, j], target, self.mask(builder, x, j))

    def square(self, builder, columns, offset):
        """The registers at an offset in each of the columns of B, transposed: rows of B."""
        block = [load_value(builder, step(builder, column, offset), self.vector) for column in columns]
        return transpose_vectors(builder, block) if len(block) == self.vector.count else transpose_few(builder, block)

    def add(self, builder, x, offset, q, row, sums, j):
        """Sums of register j with what summand q from an offset on adds, a row of B."""
        size = self.dtype.bitwidth // 8
        a = [self.place(builder, step(builder, x.a, offset), x.a_row, i, 0) for i in range(self.rows)]
        for i, base in enumerate(a):
            element = builder.load(step(builder, base, ir.Constant(I64, q * size)), align=1)
            sums[i, j] = fma_value(builder, splat_value(builder, element, self.vector), row, sums[i, j])

    def emit(self, builder, x):
        """All of it."""
        first = self.emit_start(builder, x)
        columns = [self.columns_of(builder, x, j) for j in range(self.registers)]
        end = builder.add(x.nbytes, builder.mul(x.lag, ir.Constant(I64, self.registers - 1)))
        before, loop, done = builder.block, builder.append_basic_block("k"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        offset = builder.phi(I64)
        phis = {place: builder.phi(self.vector) for place in self.places}
        sums = dict(phis)
        for j in range(self.registers):
            within = builder.sub(offset, builder.mul(x.lag, ir.Constant(I64, j)))
            unchanged = builder.block
            with builder.if_then(builder.icmp_unsigned("<", within, x.nbytes)):
                for q, row in enumerate(self.square(builder, columns[j], within)):
                    self.add(builder, x, within, q, row, sums, j)
                changed = builder.block
            for i in range(self.rows):
                merged = builder.phi(self.vector)
                merged.add_incoming(sums[i, j], changed)
                merged.add_incoming(phis[i, j], unchanged)
                sums[i, j] = merged
        after = builder.add(offset, ir.Constant(I64, self.vector_bytes))
        for phi, initial, following in [
            (offset, ir.Constant(I64, 0), after),
            *[(phis[place], first[place], sums[place]) for place in self.places],
        ]:
            phi.add_incoming(initial, before)
            phi.add_incoming(following, builder.block)
        builder.cbranch(builder.icmp_signed("<", after, end), loop, done)
        builder.position_at_end(done)
        self.emit_store(builder, x, sums)
        builder.ret_void()

    def emit_some(self, builder, x):
        """The summands from byte `lag` to byte `nbytes` of a register's, of which all are read.

        They are of one register of columns.
        """
        first, zero, size = self.emit_start(builder, x), ir.Constant(I64, 0), self.dtype.bitwidth // 8
        rows = self.square(builder, self.columns_of(builder, x, 0), zero)
        blocks = [builder.append_basic_block(f"summand.{q}") for q in range(self.vector.count)]
        done = builder.append_basic_block("done")
        switch, entered = builder.switch(x.lag, done), {builder.block: first}
        before, ends = dict(entered), dict(entered)
        for q, block in enumerate(blocks):
            switch.add_case(ir.Constant(I64, q * size), block)
            builder.position_at_end(block)
            sums = self.emit_phis(builder, entered | before)
            self.add(builder, x, zero, q, rows[q], sums, 0)
            before = {block: sums}
            ends |= before
            if q + 1 < len(blocks):
                more = builder.icmp_signed("<", ir.Constant(I64, (q + 1) * size), x.nbytes)
                builder.cbranch(more, blocks[q + 1], done)
        builder.branch(done)
        builder.position_at_end(done)
        self.emit_store(builder, x, self.emit_phis(builder, ends))
        builder.ret_void()

    def emit_phis(self, builder, before):
        """The sums, from any of some blocks."""
        phis = {place: builder.phi(self.vector) for place in self.places}
        for block, sums in before.items():
            for place, phi in phis.items():
                phi.add_incoming(sums[place], block)
        return phis


def multiply_squares(rows):
    """Two intrinsics for so many rows of A and C: the product, and that of some of a register's summands."""
    n_across = across(host_isa(), rows)

    def call(builder, function, numbers, matrices):
        """Call with the pointers and strides of A, B, start and C."""
        (a, a_row, _), (b, _, b_column), start, (c, c_row, _) = (cgutils.unpack_tuple(builder, x, 3) for x in matrices)
        nbytes, lag, columns = numbers
        builder.call(function, [nbytes, lag, a, a_row, b, b_column, *start, c, c_row, columns])

    @intrinsic
    def multiply(typingctx, nbytes, lag, a, b, start, c, columns):
        """c[rows, columns] = start + a b for `nbytes` of summands and at most n_across registers and NARROW_BYTES."""
        dtype = c[0].dtype

        def codegen(context, builder, signature, args):
            nbytes, lag, *matrices, columns = args
            count, few = lanes(dtype), narrow_columns(dtype)
            whole = Squares(dtype, rows, n_across)
            clipped, one = whole._replace(clipped=True), Squares(dtype, rows, 1, clipped=True)
            some, more = (Squares(dtype, rows, 1 + r, clipped=True, narrow=True) for r in (n_across // 2, n_across))
            function = None
            # the smallest for so many columns
            for shape, most in [
                (more, n_across * count + few),
                (whole, n_across * count),
                (clipped, n_across * count - 1),
                (some, n_across // 2 * count + few),
                (one, count),
            ]:
                other = shape.function(builder.module, shape.emit)
                fits = builder.icmp_signed("<=", columns, ir.Constant(I64, most))
                function = builder.select(fits, other, function) if function else other
            call(builder, function, (nbytes, lag, columns), matrices)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, a, b, start, c, types.int64), codegen

    @intrinsic
    def multiply_some(typingctx, first, last, a, b, start, c, columns):
        """c[rows, columns] = start + a b for one register of columns and bytes `first` to `last` of one of summands."""
        dtype = c[0].dtype

        def codegen(context, builder, signature, args):
            first, last, *matrices, columns = args
            shape = Squares(dtype, rows, 1, clipped=True)
            call(builder, shape.function(builder.module, shape.emit_some), (last, first, columns), matrices)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, a, b, start, c, types.int64), codegen

    return multiply, multiply_some
