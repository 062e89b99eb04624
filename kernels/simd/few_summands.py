"""Products of a few summands: rows of C one after the other.

A tile would have fewer multiply-adds than what begins and ends it.
"""

from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastfc.kernels.simd.compiler import declared, finished
from fastfc.kernels.simd.isa import host_isa
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

# So many summands: a register for each, spread over it, beside the sum (of 16 registers).
FEW = 8
# Registers of C from one test of the loop to the next.
AT_ONCE = 4


class Operands(NamedTuple):
    """What a function is called with: numbers in bytes, but rows and columns."""

    rows: ir.Value
    columns: ir.Value
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


class FewSummands(NamedTuple):
    """C = start + A B for so many summands.

    Columns of B and C are neighbours, and those of start, or start is one column.
    """

    dtype: types.Float
    summands: int

    def function(self, module):
        """The LLVM function of this, in `module`."""
        element = llvm_float(self.dtype).as_pointer()
        arguments = [I64, I64, element, I64, I64, element, I64, element, I64, I64, element, I64]
        name = ".".join(map(str, ("fastfc.few", *self)))
        function = shared_function(module, name, arguments)
        self.emit(ir.IRBuilder(function.append_basic_block("entry")), Operands(*function.args))
        return function

    def emit(self, builder, x):
        spread = builder.icmp_signed("==", x.start_column, ir.Constant(I64, 0))
        with builder.if_else(spread) as (column, matrix):
            with column:
                self.emit_rows(builder, x, spread=True)
            with matrix:
                self.emit_rows(builder, x, spread=False)
        builder.ret_void()

    def emit_rows(self, builder, x, spread):
        """All rows of C, from a start that is one column, spread over the others, or not."""
        vector, count = llvm_vector(self.dtype), llvm_vector(self.dtype).count
        left = builder.srem(x.columns, ir.Constant(I64, count))
        whole, some = (self.registers(builder, x.columns, count * n) for n in (1, AT_ONCE))
        mask, zero, nbytes = first_lanes(builder, left, vector), ir.Constant(I64, 0), host_isa().vector_bytes
        with cgutils.for_range(builder, x.rows) as rows:
            a, start, c = (
                step(builder, base, builder.mul(rows.index, row))
                for base, row in ((x.a, x.a_row), (x.start, x.start_row), (x.c, x.c_row))
            )
            elements = [self.spread(builder, down(builder, a, x.a_column, p)) for p in range(self.summands)]
            first = self.spread(builder, start) if spread else None

            def add(offset, mask=None):
                total = first or load_value(builder, step(builder, start, offset), vector, mask)
                for p, element in enumerate(elements):
                    place = step(builder, down(builder, x.b, x.b_row, p), offset)
                    total = fma_value(builder, element, load_value(builder, place, vector, mask), total)
                store_value(builder, total, step(builder, c, offset), mask)

            with cgutils.for_range_slice(builder, zero, some, ir.Constant(I64, AT_ONCE * nbytes)) as (offset, _):
                for j in range(AT_ONCE):
                    add(builder.add(offset, ir.Constant(I64, j * nbytes)))
            with cgutils.for_range_slice(builder, some, whole, ir.Constant(I64, nbytes)) as (offset, _):
                add(offset)
            with builder.if_then(builder.icmp_signed(">", left, zero)):
                add(whole, mask)

    def registers(self, builder, columns, at_once):
        """The bytes of so many columns that are whole groups of `at_once`."""
        groups = builder.sdiv(columns, ir.Constant(I64, at_once))
        return builder.mul(groups, ir.Constant(I64, at_once * self.dtype.bitwidth // 8))

    def spread(self, builder, pointer):
        return splat_value(builder, builder.load(pointer, align=1), llvm_vector(self.dtype))


def down(builder, base, row_bytes, p):
    """The pointer p rows further."""
    return step(builder, base, builder.mul(row_bytes, ir.Constant(I64, p)))


@intrinsic
def multiply_few(typingctx, sizes, a, b, start, c):
    """c[m, n] = start + a b for 1 to FEW summands; sizes are m, n and k. See FewSummands."""
    dtype = c[0].dtype

    def codegen(context, builder, signature, args):
        (m, n, k), (a, *a_steps), (b, b_row, _), start, (c, c_row, _) = (cgutils.unpack_tuple(builder, x) for x in args)
        with finished(context) as module:
            functions = [declared(builder.module, FewSummands(dtype, p).function(module)) for p in range(1, FEW + 1)]
        function = functions[0]
        for p, other in enumerate(functions[1:], start=2):
            function = builder.select(builder.icmp_signed("==", k, ir.Constant(I64, p)), other, function)
        builder.call(function, [m, n, a, *a_steps, b, b_row, *start, c, c_row])
        return context.get_dummy_value()

    return types.void(sizes, a, b, start, c), codegen
