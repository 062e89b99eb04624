"""Many rows of a few columns: several rows of the result side by side in a register, or whole registers for each row.

A tile of `microkernel` has a mask, and most lanes of its registers are empty. Here B's rows, and the column that is
spread over them, are repeated for as many rows as a register holds, and whole registers are stored, one after another:
what they write beyond their rows is overwritten by the next.
"""

from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastfc.kernels.simd.compiler import declared, finished
from fastfc.kernels.simd.isa import host_isa
from fastfc.kernels.simd.llvm import (
    I32,
    I64,
    call_intrinsic,
    emit_where_less,
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

# Rows are asked for so many bytes before they are read: where elements are picked, and where they are spread (Zen 5,
# 4,000,000 x 8 x 4: 48 to 56 GB/s, 1,000,000 x 30 x 5: 20 to 32 GB/s, both from 2 KiB on).
AHEAD_PICKED, AHEAD = 1 << 12, 1 << 13
AHEAD_SUMMED = 1 << 12


def sources(isa):
    """Registers of A from which one instruction picks any elements; 0 where there is none."""
    return {"avx512": 2, "avx2": 1}.get(isa.name, 0)


SOURCES = sources(host_isa())


def groups(vectors, sources):
    """How many groups of rows are under way at once: see Narrow."""
    return min(8, (host_isa().registers - vectors - 2) // (vectors + sources))


def down(builder, base, row_bytes, i):
    """The pointer i rows further."""
    return step(builder, base, builder.mul(row_bytes, ir.Constant(I64, i)))


def across(builder, pointer, j):
    """The pointer j registers further."""
    return step(builder, pointer, ir.Constant(I64, j * host_isa().vector_bytes))


def columns_in_registers(isa):
    """Up to so many registers of C for each row."""
    return 4 if isa.registers == 16 else 2


# What there is of Narrow: registers of C for each row, several rows in a register, and those past the caches.
REGISTERS = columns_in_registers(host_isa())
SEVERAL, STREAM = REGISTERS, REGISTERS + 1
KINDS = [*((v, 0, False) for v in range(1, 1 + REGISTERS)), *((1, SOURCES, s) for s in (False, True) if SOURCES)]
GROUPS = (*(groups(v, 0) for v in range(1, 1 + REGISTERS)), groups(1, SOURCES))


class Operands(NamedTuple):
    """What a function is called with: how often; k and n; bytes between groups of rows in A and C."""

    count: ir.Value
    k: ir.Value
    n: ir.Value
    a: ir.Value
    a_group: ir.Value
    b: ir.Value
    start: ir.Value
    c: ir.Value
    c_group: ir.Value
    floor: ir.Value


class Narrow(NamedTuple):
    """C = max(floor, start + A B) for `count` times `groups` groups of rows.

    A group is one row of A and `vectors` registers of C or, if there are `sources`, as many neighbouring rows as fit
    into so many registers of A and one of C. B's rows and start are as many registers, repeated for each row of a
    group. Whole registers of A and C are read and written. If it `streams`, C's registers have no gaps and begin at the
    boundary of one, and go past the caches to memory, which then need not be read.
    """

    dtype: types.Float
    vectors: int
    sources: int
    streams: bool = False

    def function(self, module):
        """The LLVM function of this, in `module`."""
        element = llvm_float(self.dtype).as_pointer()
        arguments = [I64, I64, I64, element, I64, element, element, element, I64, element.pointee]
        name = ".".join(map(str, ("fastfc.narrow", *self)))
        function = shared_function(module, name, arguments)
        self.emit(ir.IRBuilder(function.append_basic_block("entry")), Operands(*function.args))
        return function

    @property
    def groups(self):
        return groups(self.vectors, self.sources)

    @property
    def words(self):
        """A register as words of 4 bytes, in which elements are picked."""
        return ir.VectorType(I32, host_isa().vector_bytes // 4)

    def emit(self, builder, x):
        vector, before = llvm_vector(self.dtype), builder.block
        start = [load_value(builder, across(builder, x.start, j), vector) for j in range(self.vectors)]
        floors = splat_value(builder, x.floor, vector)
        first = self.first_picked(builder, x) if self.sources else None
        loop, end = builder.append_basic_block("rows"), builder.append_basic_block("end")
        builder.cbranch(builder.icmp_signed(">", x.count, ir.Constant(I64, 0)), loop, end)

        builder.position_at_end(loop)
        left, a, c = builder.phi(I64), builder.phi(x.a.type), builder.phi(x.c.type)
        sums = self.emit_sum(builder, x, a, start, first)
        for g in range(self.groups):
            row = down(builder, c, x.c_group, g)
            for j in range(self.vectors):
                value = emit_where_less(builder, sums[g][j], floors, floors, sums[g][j])
                self.store(builder, value, across(builder, row, j))
        after = builder.sub(left, ir.Constant(I64, 1))
        for phi, initial, following in [
            (left, x.count, after),
            (a, x.a, down(builder, a, x.a_group, self.groups)),
            (c, x.c, down(builder, c, x.c_group, self.groups)),
        ]:
            phi.add_incoming(initial, before)
            phi.add_incoming(following, builder.block)
        builder.cbranch(builder.icmp_signed(">", after, ir.Constant(I64, 0)), loop, end)
        builder.position_at_end(end)
        if self.streams:
            fence = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, fence, "llvm.x86.sse.sfence"), [])
        builder.ret_void()

    def store(self, builder, value, pointer):
        if not self.streams:
            store_value(builder, value, pointer)
            return
        pointer = builder.bitcast(pointer, value.type.as_pointer())
        stored = builder.store(value, pointer, align=host_isa().vector_bytes)
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(I32, 1)]))

    def first_picked(self, builder, x):
        """The words of A that meet each lane for the first summand: those of the row that the lane belongs to."""
        per_element, count = self.dtype.bitwidth // 32, self.words.count
        numbers = lambda values: ir.Constant(self.words, list(values))
        spread = lambda value: splat_value(builder, builder.trunc(value, I32), self.words)
        row = builder.udiv(numbers(i // per_element for i in range(count)), spread(x.n))
        element = builder.mul(row, builder.mul(spread(x.k), numbers([per_element] * count)))
        return builder.add(element, numbers(i % per_element for i in range(count)))

    def pick(self, builder, registers, words):
        """The chosen words of some registers."""
        floats = ir.VectorType(ir.FloatType(), self.words.count)
        a, *b = (builder.bitcast(register, floats) for register in registers)
        if b:
            picked = call_intrinsic(builder, "x86.avx512.vpermi2var.ps.512", floats, a, words, *b)
        else:
            picked = call_intrinsic(builder, "x86.avx2.permps", floats, a, words)
        return builder.bitcast(picked, registers[0].type)

    def emit_sum(self, builder, x, a, start, first):
        """The sums of all groups, from the rows at `a` on."""
        vector, before = llvm_vector(self.dtype), builder.block
        rows = [down(builder, a, x.a_group, g) for g in range(self.groups)]
        ahead = [step(builder, row, ir.Constant(I64, AHEAD_PICKED if self.sources else AHEAD)) for row in rows]
        for row in ahead * bool(self.sources):
            for j in range(self.sources):
                prefetch(builder, across(builder, row, j))
        read = [[load_value(builder, across(builder, row, j), vector) for j in range(self.sources)] for row in rows]
        loop, done = builder.append_basic_block("k"), builder.append_basic_block("stored")
        builder.branch(loop)

        builder.position_at_end(loop)
        left, b = builder.phi(I64), builder.phi(x.b.type)
        sums = [[builder.phi(vector) for _ in start] for _ in rows]
        if self.sources:
            words = builder.phi(self.words)
            spread = [self.pick(builder, registers, words) for registers in read]
            apart = ir.Constant(self.words, [self.dtype.bitwidth // 32] * self.words.count)
            following = [(words, first, builder.add(words, apart))]
        else:
            # a pointer for every three rows, as in a tile
            thirds, fetched = [builder.phi(x.a.type) for _ in rows[::3]], builder.phi(x.a.type)
            places = [down(builder, thirds[g // 3], x.a_group, g % 3) for g in range(self.groups)]
            spread = [splat_value(builder, builder.load(place, align=1), vector) for place in places]
            size = ir.Constant(I64, self.dtype.bitwidth // 8)
            moved = [opaque(builder, step(builder, phi, size)) for phi in thirds]
            following = list(zip(thirds, rows[::3], moved, strict=True))
            # as many bytes for each of k summands as all rows have in k
            prefetch(builder, fetched)
            apart = ir.Constant(I64, self.groups * self.dtype.bitwidth // 8)
            following.append((fetched, ahead[0], step(builder, fetched, apart)))
        b_row = [load_value(builder, across(builder, b, j), vector) for j in range(self.vectors)]
        added = [
            [fma_value(builder, element, b_row[j], sums[g][j]) for j in range(self.vectors)]
            for g, element in enumerate(spread)
        ]
        after = builder.sub(left, ir.Constant(I64, 1))
        following += [(left, x.k, after), (b, x.b, across(builder, b, self.vectors))]
        following += [(sums[g][j], start[j], added[g][j]) for g in range(self.groups) for j in range(self.vectors)]
        for phi, initial, value in following:
            phi.add_incoming(initial, before)
            phi.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed(">", after, ir.Constant(I64, 0)), loop, done)
        builder.position_at_end(done)
        return added


@intrinsic
def multiply_rows(typingctx, kind, sizes, a, b, start, c, floor):
    """Narrow of a kind, see KINDS. sizes are how often, k of at least 1, and n.

    a and c are pointers with the bytes from a group to the next.
    """

    def codegen(context, builder, signature, args):
        kind, sizes, a, b, start, c, floor_value = args
        (count, k, n), a, c = (cgutils.unpack_tuple(builder, x) for x in (sizes, a, c))
        with finished(context) as module:
            functions = [declared(builder.module, Narrow(floor, *shape).function(module)) for shape in KINDS]
        function = functions[0]
        for i, other in enumerate(functions[1:], start=1):
            function = builder.select(builder.icmp_signed("==", kind, ir.Constant(I64, i)), other, function)
        builder.call(function, [count, k, n, *a, b, start, *c, floor_value])
        return context.get_dummy_value()

    return types.void(types.int64, sizes, a, b, start, c, floor), codegen


# Rows of a weight gradient of which all sums are in registers. A sum over a chunk of a batch waits for itself, so those
# of several chunks are under way at once.
SUMMED, ROWS_AT_ONCE = (1, 2, 4, 5, 6, 8, 10, 12), 4


def chunks_at_once(rows, vectors):
    """Of how many chunks the sums are under way at once; 0 where there are too few registers."""
    chunks = min(4, max(1, 8 // (rows * vectors)))
    return chunks if (rows * chunks + 1) * vectors + 1 <= host_isa().registers else 0


class SumOperands(NamedTuple):
    """What a function is called with: how many rows of the batch, a multiple of ROWS_AT_ONCE; all else in bytes."""

    count: ir.Value
    a: ir.Value
    a_row: ir.Value
    a_chunk: ir.Value
    b: ir.Value
    b_row: ir.Value
    b_chunk: ir.Value
    out: ir.Value


class Sums(NamedTuple):
    """out[q, i, :] = Σ a[q, p, i] b[q, p, :] over the rows p of a few chunks q, for `rows` i and some registers of b.

    So much of a row is read even if there is less of it; what it gives stands in `out`.
    """

    dtype: types.Float
    rows: int
    vectors: int

    def function(self, module):
        """The LLVM function of this, in `module`."""
        element = llvm_float(self.dtype).as_pointer()
        arguments = [I64, element, I64, I64, element, I64, I64, element]
        function = shared_function(module, ".".join(map(str, ("fastfc.sums", *self))), arguments)
        self.emit(ir.IRBuilder(function.append_basic_block("entry")), SumOperands(*function.args))
        return function

    def emit(self, builder, x):
        vector, before, n_chunks = llvm_vector(self.dtype), builder.block, chunks_at_once(self.rows, self.vectors)
        places = [(q, i, j) for q in range(n_chunks) for i in range(self.rows) for j in range(self.vectors)]
        loop, done = builder.append_basic_block("loop"), builder.append_basic_block("done")
        a_first, b_first = (
            [down(builder, *chunks, q) for q in range(n_chunks)] for chunks in ((x.a, x.a_chunk), (x.b, x.b_chunk))
        )
        builder.branch(loop)
        builder.position_at_end(loop)
        left, a_offset, b_offset = (builder.phi(I64) for _ in range(3))
        sums = {place: builder.phi(vector) for place in places}
        now, a_now, b_now = dict(sums), a_offset, b_offset
        for r in range(ROWS_AT_ONCE):
            for q in range(n_chunks):
                a, b = step(builder, a_first[q], a_now), step(builder, b_first[q], b_now)
                # of few rows, whose loads take all time, each second one asks for a part of one matrix
                asked = (a, b) if self.rows >= 4 else ((a,), (), (b,), ())[r]
                for pointer in asked:
                    prefetch(builder, step(builder, pointer, ir.Constant(I64, AHEAD_SUMMED)))
                b_row = [load_value(builder, across(builder, b, j), vector) for j in range(self.vectors)]
                for i in range(self.rows):
                    place = step(builder, a, ir.Constant(I64, i * self.dtype.bitwidth // 8))
                    element = splat_value(builder, builder.load(place, align=1), vector)
                    for j in range(self.vectors):
                        now[q, i, j] = fma_value(builder, element, b_row[j], now[q, i, j])
            a_now, b_now = builder.add(a_now, x.a_row), builder.add(b_now, x.b_row)
        after, zero = builder.sub(left, ir.Constant(I64, ROWS_AT_ONCE)), ir.Constant(I64, 0)
        nothing = ir.Constant(vector, [0.0] * vector.count)
        for phi, initial, following in [
            (left, x.count, after),
            (a_offset, zero, a_now),
            (b_offset, zero, b_now),
            *[(sums[place], nothing, now[place]) for place in places],
        ]:
            phi.add_incoming(initial, before)
            phi.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed(">", after, zero), loop, done)
        builder.position_at_end(done)
        for at, place in enumerate(places):
            store_value(builder, now[place], across(builder, x.out, at))
        builder.ret_void()


@intrinsic
def sum_chunks(typingctx, rows, vectors, count, a, b, out):
    """Sums for so many rows, one of SUMMED, and vectors, for which there are chunks_at_once.

    a and b are pointers with the bytes from row to row and from chunk to chunk.
    """

    def codegen(context, builder, signature, args):
        rows, vectors, count, *matrices, out = args
        a_matrix, b_matrix = (cgutils.unpack_tuple(builder, x) for x in matrices)
        function, chosen = None, builder.add(builder.mul(rows, ir.Constant(I64, 4)), vectors)
        with finished(context) as module:
            for r, v in ((r, v) for r in SUMMED for v in (1, 2) if chunks_at_once(r, v)):
                other = declared(builder.module, Sums(out_type.dtype, r, v).function(module))
                this = builder.icmp_signed("==", chosen, ir.Constant(I64, 4 * r + v))
                function = builder.select(this, other, function) if function else other
        builder.call(function, [count, *a_matrix, *b_matrix, out])
        return context.get_dummy_value()

    out_type = out
    return types.void(types.int64, types.int64, types.int64, a, b, out), codegen
