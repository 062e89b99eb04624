"""Losses: a value L for n samples, and its gradient dL/d(prediction).

Pointwise, for each element p of the prediction and t of the target; w is the weight of its sample, times
that of its column, 1 unless given:

    mse               (p − t)²                                           2 (p − t)
    l1                |p − t|                                            sign(p − t)
    huber             c (|p − t| − c / 2) / b, c = min(|p − t|, a)       c sign(p − t) / b; smooth l1 for b = a
    bce               −t log p − (1 − t) log(1 − p), logs ≥ −100         (p − t) / max(p (1 − p), 10⁻¹²)
    bce with logits   (1 − t) p + m log(1 + e⁻ᵖ), m = 1 + (v − 1) t      m σ(p) − v t, v the weight of positive targets
    poisson           p − t log(p + a), or eᵖ − t p                      1 − t / (p + a), or eᵖ − t
    gaussian          (log v + (p − t)² / v) / 2                         (p − t) / v, and (1 − (p − t)² / v) / 2 v for v
    kl                t (log t − p), or eᵗ (t − p)                       −t, or −eᵗ
    quantile          max(v (t − p), (v − 1) (t − p))                    −v, 1 − v, or 0 where p = t

and by rows, z a row of the prediction, y its class or its probabilities of classes, v the weights of the classes:

    cross entropy     Σ q (log Σ eᶻ − z), q = v ((1 − a) y + a / o)      softmax(z) Σ q − q
    nll               −v_y z_y                                           −v_y at the class
    multi margin      v_y Σ max(0, a − z_y + z)ᵇ / o over the others     v_y b max(…)ᵇ⁻¹ / o, −Σ of these at the class

The mean divides the sum of w L by the sum of w, and by the columns of a pointwise target; cross entropy of classes and
nll by the sum of w v_y. Sums are in registers for a block of whole rows, then in float64, in the order of the rows.

The table of losses is in loss_table.py. To add a pointwise loss: a formula, and its declaration by `pointwise_loss`.
"""

import inspect

import numpy as np
from llvmlite import ir
from numba import types

from fastfc.kernels.ops.activation_rules import softmax_row
from fastfc.kernels.ops.matrix import contiguous_matrix, copy_matrix
from fastfc.kernels.runtime.dispatch import DispatchTable, IRKernel
from fastfc.kernels.runtime.linkage import call_at
from fastfc.kernels.runtime.native import CompiledKernel
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.elementary import exp_vector, log1p_to_one, log1p_vector, log_vector
from fastfc.kernels.simd.formula import Operand, Rows, each_register, only_if_not_zero
from fastfc.kernels.simd.llvm import I64
from fastfc.kernels.simd.memory import at, itemsize, read, write
from fastfc.kernels.simd.vector import (
    absolute,
    copysign,
    fma,
    lane,
    load_first,
    splat,
    store,
    store_first,
    sum_as_double,
    sum_of_lanes,
    where_less,
    where_less_equal,
    width,
)

# Elements in a block of whole rows, whose losses are summed in registers.
BLOCK = 1024
BLOCK_BYTES = BLOCK * 8
LOG_2PI = 1.8378770664093453


# What the kernels need to know of a loss stands in its code, above its number in the tables.
BY_ROWS, OF_PROBABILITIES, PREDICTS_PROBABILITIES, VARIANCES, OF_ARRAYS = 256, 512, 1024, 2048, 4096
# of a loss by rows: targets are classes only, it is divided by their number, the mean by the weights of the classes
ONLY_CLASSES, BY_NUMBER_OF_CLASSES, BY_CLASS_WEIGHTS, SOFT = 8192, 16384, 32768, 65536
EAGER = 131072  # computed where it is called, not through a table: the rows of usual losses are short
NUMBER = 255  # the bits of the number

# The sum of w L of `count` elements that are neighbours in memory, and out = scale w dL/dp. With `keep` their losses go
# to `values` instead. The gradient of a v that is predicted goes over v.
POINTWISE = DispatchTable(
    "pointwise_losses",
    lambda dtype: types.float64(*[types.CPointer(dtype)] * 6, types.int64, types.int64, *[types.float64] * 3),
)
# L of one row of `count` classes, which has a label or probabilities q, and out = scale dL/dz.
BY_ROW = DispatchTable(
    "row_losses",
    lambda dtype: types.float64(*[types.CPointer(dtype)] * 3, types.int64, types.int64, *[types.float64] * 3),
)
run_pointwise, run_row, require_row = POINTWISE.call, BY_ROW.call, BY_ROW.require


def next_number():
    return len(POINTWISE.kernels) + len(BY_ROW.kernels)


def kernel_of(code):
    """What computes a loss."""
    return (BY_ROW if int(code) & BY_ROWS else POINTWISE).kernels.get(int(code) & NUMBER)


def pointwise_loss(name, rule, traits=0):
    """Declare a loss of elements by a formula; its code.

    The formula takes what it needs of: total, the sum so far, p, t, v, w, and a and b, numbers. It returns the sum
    with w L, dL/dp and, if v is predicted, dL/dv.
    """
    code = next_number()
    IRKernel(f"loss_{name}", [(POINTWISE, code, pointwise_emitter(rule))])
    return code | traits


def pointwise_emitter(rule):
    takes = inspect.signature(rule).parameters

    def emit(builder, *arguments):
        p, t, v, w, out, values, count, keep, scale, a, b = arguments
        # what fills the lanes beyond has a loss that is finite, and no weight
        inputs = {"p": Rows(builder, p, 1.0), "t": Rows(builder, t), "v": Rows(builder, v, 1.0), "w": Rows(builder, w)}
        out, values, v = Rows(builder, out), Rows(builder, values), inputs["v"]
        numbers = {name: Operand(builder, number) for name, number in (("a", a), ("b", b), ("scale", scale))}
        zeros = Operand(builder, ir.Constant(out.vector, [0.0] * out.vector.count))
        keeps = builder.icmp_signed("!=", keep, ir.Constant(I64, 0))

        def body(position, total):
            given = {"total": total, **numbers} | {name: rows.read(position) for name, rows in inputs.items()}
            total, g, *of_v = rule(**{name: given[name] for name in takes})
            factor = given["w"] * given["scale"]
            out.write(position, g * factor)
            for gradient in of_v:
                v.write(position, gradient * factor)
            with builder.if_then(keeps):
                values.write(position, total)
            return [Operand(builder, builder.select(keeps, zeros.value, total.value))]

        [total] = each_register(builder, count, out.vector, body, [zeros])
        return sum_as_double(total)

    return emit


def row_loss(name, function, traits=0):
    """Declare a loss of rows by a nopython function with the arguments of the table; its code."""
    code = next_number()
    function.__name__ = function.__qualname__ = f"loss_{name}"
    BY_ROW.add(code, CompiledKernel(function, BY_ROW.signature, optional=True, slots=BY_ROW.slot(code)))
    return code | traits | BY_ROWS


def mse_rule(total, p, t, w):
    error = p - t
    return fma(error * w, error, total), error * 2.0


MSE = pointwise_loss("mse", mse_rule)


def l1_rule(total, p, t, w):
    error = p - t
    sign = where_less(error, 0.0, -1.0, where_less(0.0, error, 1.0, error))
    return fma(absolute(error), w, total), sign


L1 = pointwise_loss("l1", l1_rule)


def huber_rule(total, p, t, w, a, b):
    error = p - t
    size = absolute(error)
    c = where_less(a, size, a, size)
    return fma(c * fma(c, -0.5, size) / b, w, total), copysign(c / b, error)


HUBER = pointwise_loss("huber", huber_rule)


def bce_rule(total, p, t, w):
    yes, no = log_vector(p), log1p_vector(0.0 - p)
    yes, no = where_less(yes, -100.0, -100.0, yes), where_less(no, -100.0, -100.0, no)
    spread = p * (1.0 - p)
    spread = where_less(spread, 1e-12, 1e-12, spread)
    return fma(fma(t, yes, (1.0 - t) * no), 0.0 - w, total), (p - t) / spread


BCE = pointwise_loss("bce", bce_rule, OF_PROBABILITIES | PREDICTS_PROBABILITIES)


def bce_with_logits_rule(total, p, t, v, w):
    e = exp_vector(0.0 - absolute(p))
    m = fma(v - 1.0, t, 1.0)
    slope = where_less(p, 0.0, v * t, 1.0 - t)  # of the loss where |p| is large
    value = fma(m, log1p_to_one(e), absolute(p) * slope)
    rest = e / (e + 1.0) * m  # m σ(p) − v t would lose it next to slope
    return fma(value, w, total), where_less(p, 0.0, rest - slope, slope - rest)


BCE_WITH_LOGITS = pointwise_loss("bce_with_logits", bce_with_logits_rule, OF_PROBABILITIES)


def stirling(value, t, b):
    """With the approximation of log t!, for t > 1, if b is not 0."""

    def whole():
        log = log_vector(t)
        rest = fma(t, log, fma(log + LOG_2PI, 0.5, 0.0 - t))
        return value + where_less_equal(t, 1.0, 0.0, rest)

    return only_if_not_zero(b, whole, value)


def poisson_rule(total, p, t, w, a, b):
    value = stirling(p - t * log_vector(p + a), t, b)
    return fma(value, w, total), 1.0 - t / (p + a)


POISSON = pointwise_loss("poisson", poisson_rule)


def poisson_log_rule(total, p, t, w, b):
    e = exp_vector(p)
    return fma(stirling(e - t * p, t, b), w, total), e - t


POISSON_LOG = pointwise_loss("poisson_log", poisson_log_rule)


def gaussian_rule(total, p, t, v, w, a, b):
    v = where_less(v, a, a, v)
    error = p - t
    relative = error / v
    value = fma(error, relative, log_vector(v) + b) * 0.5
    return fma(value, w, total), relative, (1.0 - error * relative) / v * 0.5


GAUSSIAN = pointwise_loss("gaussian", gaussian_rule, VARIANCES)


def kl_rule(total, p, t, w):
    log = log_vector(t)
    log = where_less(t, 0.0, log, where_less(0.0, t, log, t))  # t log t is 0 for t = 0
    return fma(fma(t, log, 0.0 - t * p), w, total), 0.0 - t


KL = pointwise_loss("kl", kl_rule)


def kl_log_rule(total, p, t, w):
    e = exp_vector(t)
    return fma(e * (t - p), w, total), 0.0 - e


KL_LOG = pointwise_loss("kl_log", kl_log_rule)


def quantile_rule(total, p, t, v, w):
    error = t - p
    slope = where_less(error, 0.0, v - 1.0, where_less(0.0, error, v, error))
    return fma(error * slope, w, total), 0.0 - slope


QUANTILE = pointwise_loss("quantile", quantile_rule)


def custom(p, t, v, w, out, values, count, keep, scale, a, b):
    return call_at(a, p, (count, p, t, w, out, values, keep, scale))


custom.__name__ = custom.__qualname__ = "loss_custom"
CUSTOM = next_number()
POINTWISE.add(CUSTOM, CompiledKernel(custom, POINTWISE.signature, optional=True, slots=POINTWISE.slot(CUSTOM)))
CUSTOM_ARRAY = NUMBER | OF_ARRAYS  # of no table: its address is in the table of losses


@helper
def soft_cross_entropy_row(count, z, q, out, scale):
    """Σ q (log Σ eᶻ − z), and out = (softmax(z) Σ q − q) scale."""
    size, lanes, value, weight_sum = itemsize(z), width(z), 0.0, 0.0
    top, denominator = softmax_row(count, z, out, 1.0)
    log_sum = np.log(np.float64(denominator))
    for first in range(0, count, BLOCK):
        last, total, weight = min(count, first + BLOCK), splat(z, 0.0), splat(z, 0.0)
        for j in range(first, last, lanes):
            n_left = last - j
            y = load_first(at(q, j * size), n_left, 0.0)
            less = load_first(at(z, j * size), n_left, 0.0) - top - log_sum
            # a class of no weight may have a logit of −∞
            total, weight = total - where_less_equal(y, 0.0, 0.0, y * less), weight + y
        value, weight_sum = value + np.float64(sum_of_lanes(total)), weight_sum + np.float64(sum_of_lanes(weight))
    for j in range(0, count, lanes):
        n_left = count - j
        difference = load_first(at(out, j * size), n_left, 0.0) * weight_sum - load_first(at(q, j * size), n_left, 0.0)
        store_first(at(out, j * size), difference * scale, n_left)
    return value


@helper
def cross_entropy_row(count, z, label, out, scale):
    """log Σ eᶻ − z_y, and out = (softmax(z) − [class]) scale."""
    size, rounded = itemsize(z), lane(splat(z, scale), 0)
    top, denominator = softmax_row(count, z, out, rounded)
    chosen = at(out, label * size)
    write(chosen, read(chosen) - rounded)
    return np.log(np.float64(denominator)) - (np.float64(read(at(z, label * size))) - top)


@helper
def multi_margin_row(count, z, label, out, scale, margin, squared):
    size, lanes, value, slopes = itemsize(z), width(z), 0.0, 0.0
    copy_matrix(np.int64(1), count, contiguous_matrix(z, count), contiguous_matrix(out, count))
    start = margin - np.float64(read(at(z, label * size)))
    write(at(out, label * size), -np.inf)
    for first in range(0, count, BLOCK):
        last, total, slope = min(count, first + BLOCK), splat(z, 0.0), splat(z, 0.0)
        for j in range(first, last, lanes):
            src, n_left = at(out, j * size), last - j
            excess = load_first(src, n_left, -np.inf) + start
            excess = where_less(excess, 0.0, 0.0, excess)
            g = excess * 2.0 if squared else where_less(0.0, excess, 1.0, excess)
            total = fma(excess, excess, total) if squared else total + excess
            store_first(src, g * scale, n_left)
            slope = slope + g
        value, slopes = value + np.float64(sum_of_lanes(total)), slopes + np.float64(sum_of_lanes(slope))
    write(at(out, label * size), 0.0 - slopes * scale)
    return value


@helper
def mix_row(count, y, q, v, keep, spread):
    """q = (keep y + spread) v"""
    size = itemsize(y)
    for j in range(0, count, width(y)):
        offset, n_left = j * size, count - j
        value = fma(load_first(at(y, offset), n_left, 0.0), keep, splat(y, spread)) * load_first(
            at(v, offset), n_left, 0.0
        )
        store_first(at(q, offset), value, n_left)


@helper
def fill(count, target, value):
    size, n_left = itemsize(target), count % width(target)
    for j in range(0, count - n_left, width(target)):
        store(at(target, j * size), splat(target, value))
    store_first(at(target, (count - n_left) * size), splat(target, value), n_left)


def soft_cross_entropy(z, q, out, count, label, scale, a, b):
    return soft_cross_entropy_row(count, z, q, out, scale)


@helper
def nll_row(count, z, label, out, scale):
    fill(count, out, 0.0)
    write(at(out, label * itemsize(z)), -scale)
    return -np.float64(read(at(z, label * itemsize(z))))


def multi_margin(z, q, out, count, label, scale, a, b):
    return multi_margin_row(count, z, label, out, scale, a, b == 2.0)


CROSS_ENTROPY = (NUMBER - 1) | BY_ROWS | EAGER | OF_PROBABILITIES | BY_CLASS_WEIGHTS | SOFT
SOFT_CROSS_ENTROPY = row_loss("soft_cross_entropy", soft_cross_entropy)
NLL = (NUMBER - 2) | BY_ROWS | EAGER | ONLY_CLASSES | BY_CLASS_WEIGHTS
MULTI_MARGIN = row_loss("multi_margin", multi_margin, ONLY_CLASSES | BY_NUMBER_OF_CLASSES)
SEVERAL = NUMBER  # not one loss but a table of several
