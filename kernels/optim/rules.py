"""The optimizers' rules, each declared once: the formulas are in update.py.

A rule is a formula of g, of the vectors that the optimizer remembers, and of numbers that are the same for all
parameters in a step. It returns the direction of the step, which may be a Ratio, and the new values of what is
remembered.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types

from fastfc.kernels.runtime.dispatch import DispatchTable, IRKernel
from fastfc.kernels.simd.formula import Operand, Rows, each_register, if_equal, number_of_parameters, root
from fastfc.kernels.simd.formula import formula as as_formula
from fastfc.kernels.simd.llvm import I8, I64
from fastfc.kernels.simd.vector import absolute, fma, square_root, where_less, where_subnormal

N_NUMBERS = 6  # of a rule at most
ROWS_SHIFT = 8  # of a rule's code: its number in the tables, and above it how many vectors are remembered
NUMBER = (1 << ROWS_SHIFT) - 1
LBFGS, LEVENBERG_MARQUARDT = 1 << 16, (1 << 16) + 1  # have files of their own, and no rule
CENTERED = 1  # in count[1], if the v of RMSprop is a variance

# One pass over n neighbours: gradients, parameters and state, whose vectors are so many bytes apart, by (the learning
# rate, what p is multiplied by, what of p is added to g) and the rule's numbers.
RULES = DispatchTable(
    "optimizer_rules",
    lambda dtype: types.int64(
        *[types.CPointer(dtype)] * 3,
        *[types.int64] * 2,
        types.UniTuple(types.float64, 3),
        types.UniTuple(types.float64, N_NUMBERS),
    ),
)
# Once in a step, from the rule's hyperparameters and the two counts: a factor of the learning rate, the rule's numbers,
# and the bits of what count[1] is afterwards.
NUMBERS = DispatchTable(
    "optimizer_numbers",
    lambda dtype: types.UniTuple(types.float64, N_NUMBERS + 2)(
        types.CPointer(dtype), types.UniTuple(types.float64, 5), *[types.int64] * 2
    ),
)
run_rule, step_numbers, require_rule = RULES.call, NUMBERS.call, RULES.require


class Ratio(NamedTuple):
    """A direction, m of_m / d plus what else is in the numerator, with the least that d can be.

    `numerator` is a function of what stands for m, and `others` is 0 if nothing else is in it.
    """

    numerator: Callable[[Operand], Operand]
    m: Operand
    of_m: Operand
    others: Operand
    d: Operand
    least: Operand


def limits(x):
    """The least normal number of a register's dtype, and 8 times the inverse of its relative precision."""
    info = np.finfo(np.float32 if x.is_single else np.float64)
    return float(info.tiny), 8.0 / float(info.eps)


# What has no gradient any more, as behind a dead unit, has a subnormal m after a thousand steps. To compute with it a
# processor takes several times as long (Adam of 4,608 parameters, Zen 5, with 3 % of them: 1.9 instead of 0.7 µs).
# Where a 0 gives the same bits in the end, one stands for it.


def quotient(ratio, p, lr):
    """The direction; 0 stands for a subnormal m if lr m of_m / d, added to p, rounds to p."""
    tiny, much = limits(p)
    bound = lr * ratio.of_m / ratio.least * (tiny * much)
    bound = if_equal(ratio.others, 0.0, bound, np.inf)
    m = where_subnormal(ratio.m, where_less(bound, absolute(p), 0.0, ratio.m), ratio.m)
    return ratio.numerator(m) / ratio.d


def root_before_sum(v, scale, eps):
    """√v of v >= 0, or 0 if v is subnormal and scale √v + eps rounds to eps."""
    tiny, much = limits(v)
    limit = where_less(scale * (tiny**0.5 * much), eps, tiny, 0.0)
    return square_root(where_less(v, limit, 0.0, v))


class Step:
    """A step, for what makes the numbers of a rule: the hyperparameters a, b, … and t, the number of the step."""

    def __init__(self, builder, hyperparameters, done, count):
        number = lambda value: Operand(builder, value)
        self.a, self.b, self.c, self.d, self.e = (number(builder.extract_value(hyperparameters, i)) for i in range(5))
        self.done, self.count = (number(builder.sitofp(x, ir.DoubleType())) for x in (done, count))
        self.t, self.share = self.done + 1.0, 1.0
        self.memory = number(builder.bitcast(count, ir.DoubleType()))  # count[1], whose bits may be a float's


def rule(name, formula, rows, numbers=lambda step: (step.a, step.b, step.c, step.d, step.e)):
    """Declare a rule of an optimizer that remembers so many vectors; its code.

    `numbers` makes those that the formula takes, from a Step, of which it may set share and memory.
    """
    number = len(RULES.kernels)

    def emit_pass(builder, grads, params, state, row, n, how, values):
        lr, shrink, decay = (Operand(builder, builder.extract_value(how, i)) for i in range(3))
        given = [Operand(builder, builder.extract_value(values, i)) for i in range(N_NUMBERS)]
        given = given[: number_of_parameters(formula) - 1 - rows]
        grads, params = Rows(builder, grads), Rows(builder, params)
        moved = lambda i: builder.gep(builder.bitcast(state, I8.as_pointer()), [builder.mul(row, ir.Constant(I64, i))])
        vectors = [Rows(builder, builder.bitcast(moved(i), state.type)) for i in range(rows)]

        def body(position):
            p = params.read(position)
            g = fma(p, decay, grads.read(position))
            direction, *new = formula(g, *(vector.read(position) for vector in vectors), *given)
            p = p * shrink
            if isinstance(direction, Ratio):
                direction = quotient(direction, p, lr)
            params.write(position, fma(direction, lr * -1.0, p))
            for vector, value in zip(vectors, new, strict=True):
                vector.write(position, value)

        each_register(builder, n, params.vector, body)
        return ir.Constant(I64, 0)

    def emit_numbers(builder, like, hyperparameters, done, count):
        step = Step(builder, hyperparameters, done, count)
        values = list(numbers(step))
        values += [0.0] * (N_NUMBERS - len(values))
        result = ir.Constant(ir.ArrayType(ir.DoubleType(), N_NUMBERS + 2), ir.Undefined)
        for i, x in enumerate([step.share, *values, step.memory]):
            value = x.value if isinstance(x, Operand) else ir.Constant(ir.DoubleType(), float(x))
            result = builder.insert_value(result, value, i)
        return result

    IRKernel(f"rule_{name}", [(NUMBERS, number, emit_numbers), (RULES, number, emit_pass)])
    return number | rows << ROWS_SHIFT


def rows_of(code):
    """How many vectors a rule remembers."""
    return code >> ROWS_SHIFT


def kernel_of(code):
    """What computes a rule, None if the optimizer has none."""
    return None if code >= LBFGS else RULES.kernels[code & NUMBER]


@as_formula
def sign(x):
    return where_less(x, 0.0, -1.0, where_less(0.0, x, 1.0, x))


SGD = rule("sgd", lambda g: (g,), 0)


def momentum(g, v, mu, fresh, nesterov):
    v = fma(v, mu, g * fresh)
    return if_equal(nesterov, 0.0, v, fma(v, mu, g)), v


def momentum_numbers(step):
    """In the first step with momentum v is g."""
    return step.a, if_equal(step.done, step.count, 1.0, 1.0 - step.b), step.c


MOMENTUM = rule("momentum", momentum, 1, momentum_numbers)


def adam_moments(g, m, v, beta1, beta2):
    return fma(m, beta1, g * (1.0 - beta1)), fma(v, beta2, g * g * (1.0 - beta2))


def adam_direction(g, m, v, of_m, of_g, scale, eps):
    d = fma(root_before_sum(v, scale, eps), scale, eps)
    return Ratio(lambda m: fma(g, of_g, m * of_m), m, of_m, of_g, d, eps)


def adam(g, m, v, beta1, beta2, of_m, of_g, scale, eps):
    m, v = adam_moments(g, m, v, beta1, beta2)
    return adam_direction(g, m, v, of_m, of_g, scale, eps), m, v


def amsgrad(g, m, v, largest, beta1, beta2, of_m, of_g, scale, eps):
    m, v = adam_moments(g, m, v, beta1, beta2)
    largest = where_less(largest, v, v, largest)
    return adam_direction(g, m, largest, of_m, of_g, scale, eps), m, v, largest


def adam_numbers(step):
    a, b, t = step.a, step.b, step.t
    return a, b, 1.0 / (1.0 - a**t), 0.0, 1.0 / root(1.0 - b**t), step.c


def nadam_numbers(step):
    a, b, d, t = step.a, step.b, step.d, step.t
    now, after = a * (1.0 - 0.5 * 0.96 ** (t * d)), a * (1.0 - 0.5 * 0.96 ** ((t + 1.0) * d))
    product = step.memory = now * if_equal(t, 1.0, 1.0, step.memory)
    of_m, of_g = after / (1.0 - product * after), (1.0 - now) / (1.0 - product)
    return a, b, of_m, of_g, 1.0 / root(1.0 - b**t), step.c


ADAM = rule("adam", adam, 2, adam_numbers)
AMSGRAD = rule("amsgrad", amsgrad, 3, adam_numbers)
NADAM = rule("nadam", adam, 2, nadam_numbers)


def rmsprop(g, v, b, alpha, mu, eps):
    v = fma(v, alpha, g * g * (1.0 - alpha))
    b = fma(b, mu, g / (root_before_sum(v, 1.0, eps) + eps))
    return b, v, b


def rmsprop_centered(g, v, b, a, alpha, mu, eps):
    change = g - a
    v = fma(v, alpha, change * change * (alpha * (1.0 - alpha)))
    b = fma(b, mu, g / (root_before_sum(v, 1.0, eps) + eps))
    return b, v, b, fma(a, alpha, g * (1.0 - alpha))


def centered_numbers(step):
    step.memory = float(np.int64(CENTERED).view(np.float64))
    return step.a, step.b, step.c


RMSPROP = rule("rmsprop", rmsprop, 2)
RMSPROP_CENTERED = rule("rmsprop_centered", rmsprop_centered, 3, centered_numbers)


def adagrad(g, v, eps):
    v = fma(g, g, v)
    return g / (square_root(v) + eps), v


def adagrad_numbers(step):
    step.share = 1.0 / (1.0 + (step.t - 1.0) * step.a)
    return (step.b,)


ADAGRAD = rule("adagrad", adagrad, 1, adagrad_numbers)


def lion(g, m, beta1, beta2):
    return sign(fma(m, beta1, g * (1.0 - beta1))), fma(m, beta2, g * (1.0 - beta2))


LION = rule("lion", lion, 1)
