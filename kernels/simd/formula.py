"""Formulas: Python functions of registers and numbers that write LLVM IR themselves.

Numba would type and lower each of them, which takes much longer than to optimise what they are. A formula computes with
`Operand`s, so it reads like the mathematics that it is; other formulas call it, and so does nopython code, in which its
instructions then stand.
"""

import inspect
import operator

from llvmlite import ir
from numba import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin, models, register_model

from fastfc.kernels.simd.isa import lanes
from fastfc.kernels.simd.llvm import (
    I64,
    call_intrinsic,
    first_lanes,
    llvm_vector,
    load_value,
    opaque,
    splat_value,
    store_value,
)


class Vector(types.Type):
    """One SIMD register of `lanes` elements."""

    def __init__(self, dtype):
        self.dtype, self.lanes = dtype, lanes(dtype)
        super().__init__(name=f"Vector({dtype} x {self.lanes})")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        super().__init__(manager, vector, llvm_vector(vector.dtype))


class Operand:
    """A register, or a number of float64, while LLVM IR is written; a Python number may stand beside it."""

    def __init__(self, builder, value):
        self.builder, self.value = builder, value

    @property
    def is_single(self):
        """Whether a register holds float32."""
        return isinstance(self.value.type.element, ir.FloatType)

    def __add__(self, other):
        return arithmetic("fadd", self, other)

    def __radd__(self, other):
        return arithmetic("fadd", other, self)

    def __sub__(self, other):
        return arithmetic("fsub", self, other)

    def __rsub__(self, other):
        return arithmetic("fsub", other, self)

    def __mul__(self, other):
        return arithmetic("fmul", self, other)

    def __rmul__(self, other):
        return arithmetic("fmul", other, self)

    def __truediv__(self, other):
        return arithmetic("fdiv", self, other)

    def __rtruediv__(self, other):
        return arithmetic("fdiv", other, self)

    def __pow__(self, other):
        return power(self, other)

    def __rpow__(self, other):
        return power(other, self)


def is_register(x):
    return isinstance(x, Operand) and isinstance(x.value.type, ir.VectorType)


def converted(builder, x, kind):
    """An operand or number as a value of this LLVM type: a vector, or double."""
    if not isinstance(x, Operand):
        number = float(x)
        return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)
    if x.value.type == kind:
        return x.value
    if isinstance(x.value, ir.Constant):
        return ir.Constant(kind, [x.value.constant] * kind.count)
    single = isinstance(kind.element, ir.FloatType)
    return splat_value(builder, builder.fptrunc(x.value, kind.element) if single else x.value, kind)


def together(*operands):
    """The builder, and all operands as values of one type: that of the registers if there is one, else double."""
    builder = next(x.builder for x in operands if isinstance(x, Operand))
    kind = next((x.value.type for x in operands if is_register(x)), ir.DoubleType())
    return builder, *(converted(builder, x, kind) for x in operands)


def arithmetic(name, a, b):
    builder, a, b = together(a, b)
    return Operand(builder, getattr(builder, name)(a, b))


def power(a, b):
    """aᵇ of numbers."""
    builder, a, b = together(a, b)
    return Operand(builder, call_intrinsic(builder, "pow.f64", ir.DoubleType(), a, b))


def root(a):
    """√a of a number."""
    return Operand(a.builder, call_intrinsic(a.builder, "sqrt.f64", ir.DoubleType(), a.value))


def if_equal(a, b, then, otherwise):
    """One of two operands, by two numbers that are the same for all lanes."""
    builder, a, b = together(a, b)
    _, then, otherwise = together(then, otherwise)
    return Operand(builder, builder.select(builder.fcmp_ordered("==", a, b), then, otherwise))


def only_if_not_zero(condition, make, otherwise):
    """make(), which is computed only if a number is not 0, or an operand."""
    builder = condition.builder
    before = builder.block
    with builder.if_then(builder.fcmp_unordered("!=", condition.value, ir.Constant(ir.DoubleType(), 0.0))):
        made, inside = make().value, builder.block
    result = builder.phi(made.type)
    result.add_incoming(otherwise.value, before)
    result.add_incoming(made, inside)
    return Operand(builder, result)


class Formula:
    """A function of operands that nopython code may call with Vectors and numbers."""

    def __init__(self, function, results=1):
        self.function, self.__doc__, self.__name__ = function, function.__doc__, function.__name__

        class Template(AbstractTemplate):
            key = self

            def generic(self, args, kws):
                vector = next(kind for kind in args if isinstance(kind, Vector))
                return signature(vector if results == 1 else types.UniTuple(vector, results), *args)

        infer_global(self, types.Function(Template))
        lower_builtin(self, types.VarArg(types.Any))(self.lower)

    def __call__(self, *operands):
        return self.function(*operands)

    def lower(self, context, builder, sig, args):
        result = self.function(*operands_of(context, builder, sig, args))
        return (
            context.make_tuple(builder, sig.return_type, [x.value for x in result])
            if isinstance(result, tuple)
            else result.value
        )


def operands_of(context, builder, sig, args):
    """What a formula takes, of the arguments of a call in nopython code."""
    return [
        Operand(builder, value if isinstance(kind, Vector) else context.cast(builder, value, kind, types.float64))
        for kind, value in zip(sig.args, args, strict=True)
    ]


def formula(function):
    """Decorator: see Formula. What it returns is one register."""
    return Formula(function)


def formula_of_two(function):
    """Decorator: see Formula. What it returns is two registers."""
    return Formula(function, 2)


def elementwise(emit):
    """The formula of an emitter: a function of a builder and of values of one type."""

    def apply(*operands):
        builder, *values = together(*operands)
        return Operand(builder, emit(builder, *values))

    return Formula(apply)


def register_operators():
    """Let nopython code compute with Vectors."""
    for symbol in (operator.add, operator.sub, operator.mul, operator.truediv):

        class Template(AbstractTemplate):
            key = symbol

            def generic(self, args, kws):
                vector = next((kind for kind in args if isinstance(kind, Vector)), None)
                return None if vector is None else signature(vector, *args)

        infer_global(symbol)(Template)

        def lower(context, builder, sig, args, symbol=symbol):
            return symbol(*operands_of(context, builder, sig, args)).value

        for kinds in ((Vector, Vector), (Vector, types.Any), (types.Any, Vector)):
            lower_builtin(symbol, *kinds)(lower)


register_operators()


def number_of_parameters(function):
    """How many operands a formula takes."""
    return len(inspect.signature(getattr(function, "function", function)).parameters)


class Rows:
    """Neighbours in memory, whose registers a loop reads and writes."""

    def __init__(self, builder, pointer, fill=0.0):
        self.builder, self.pointer = builder, pointer
        self.vector = ir.VectorType(pointer.type.pointee, lanes(types.float32 if is_float(pointer) else types.float64))
        self.fill = fill

    def read(self, position):
        """The register from element j on; beyond the first `mask` lanes, if there is a mask, it is filled."""
        fill = ir.Constant(self.vector, [self.fill] * self.vector.count)
        return Operand(self.builder, load_value(self.builder, self.at(position), self.vector, position.mask, fill))

    def write(self, position, operand):
        value = converted(self.builder, operand, self.vector)
        store_value(self.builder, value, self.at(position), position.mask)

    def at(self, position):
        return self.builder.gep(self.pointer, [position.index])


def is_float(pointer):
    return isinstance(pointer.type.pointee, ir.FloatType)


class Position:
    """Where a loop is: the number of its first element, and a mask if not all lanes are there."""

    def __init__(self, index, mask=None):
        self.index, self.mask = index, mask


def each_register(builder, count, vector, body, carry=()):
    """for each register of `count` elements: carry = body(position, *carry); what is carried in the end.

    Whole registers have a loop of their own, without masks, which halve the speed of memory.
    """
    zero = ir.Constant(I64, 0)
    # LLVM would unroll the loop eight times if it knew the step: slower where memory is what takes the time
    n = opaque(builder, ir.Constant(I64, vector.count))
    whole = builder.and_(count, ir.Constant(I64, -vector.count))
    before = builder.block
    head, inside, after = (builder.append_basic_block(name) for name in ("registers", "register", "rest"))
    tail, done = builder.append_basic_block("tail"), builder.append_basic_block("done")
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(I64)
    index.add_incoming(zero, before)
    carried = [builder.phi(x.value.type) for x in carry]
    for phi, x in zip(carried, carry, strict=True):
        phi.add_incoming(x.value, before)
    builder.cbranch(builder.icmp_signed("<", index, whole), inside, after)
    builder.position_at_end(inside)
    results = body(Position(index), *(Operand(builder, phi) for phi in carried)) or ()
    index.add_incoming(builder.add(index, n), builder.block)
    for phi, x in zip(carried, results, strict=True):
        phi.add_incoming(x.value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    rest = builder.sub(count, whole)
    builder.cbranch(builder.icmp_signed(">", rest, zero), tail, done)
    builder.position_at_end(tail)
    mask = first_lanes(builder, rest, vector)
    last = body(Position(whole, mask), *(Operand(builder, phi) for phi in carried)) or ()
    end = builder.block
    builder.branch(done)
    builder.position_at_end(done)
    final = []
    for phi, x in zip(carried, last, strict=True):
        both = builder.phi(phi.type)
        both.add_incoming(phi, after)
        both.add_incoming(x.value, end)
        final.append(Operand(builder, both))
    return final
