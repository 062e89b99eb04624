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

A table of floats has a row for each loss, with the columns of the prediction and of the target that it is for. To add
a pointwise loss: a rule of registers, a number, and an arm in `pointwise`.
"""

import numpy as np

from fastfc.kernels.ops.activation_rules import softmax_row, sum_lanes
from fastfc.kernels.ops.matrix import Matrix, copy_matrix
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.elementary import exp_vector, log1p_to_one, log1p_vector, log_vector
from fastfc.kernels.simd.memory import at, itemsize, read, write
from fastfc.kernels.simd.vector import (
    absolute,
    copysign,
    fma,
    lane,
    load_first,
    splat,
    store_first,
    where_less,
    where_less_equal,
    width,
)

# columns of the table. CLASSES: its targets are classes, in labels, if there are any. VECTOR: from there on a number
# for each of LENGTH columns, if bit 1 of VECTORS is set, and then a weight for each, if bit 2 is. A width of 0 is all
# columns. SHARE: of the epoch's weights, those that a mean over classes divides by.
CODE, FIRST, WIDTH, FIRST_TARGET, CLASSES, WEIGHT, REDUCTION, A, B, C, VECTORS, LENGTH, SHARE, VECTOR = range(14)
HAS_VECTOR, HAS_WEIGHTS = 1, 2  # bits of VECTORS
MEAN, SUM, NONE, BATCH_MEAN = range(4)
MSE, L1, HUBER, BCE, BCE_WITH_LOGITS, POISSON, POISSON_LOG, GAUSSIAN, KL, KL_LOG, QUANTILE, CUSTOM = range(12)
CROSS_ENTROPY, NLL, MULTI_MARGIN, CUSTOM_ARRAY = range(12, 16)
SEVERAL = 16  # not one loss but a table of several
# Elements in a block of whole rows, whose losses are summed in registers.
BLOCK = 1024
BLOCK_BYTES = BLOCK * 8
NO_CLASS = -(2.0**63)  # for the class to be ignored
LOG_2PI = 1.8378770664093453


@helper
def mse_rule(total, p, t, w):
    error = p - t
    return fma(error * w, error, total), error * 2.0


@helper
def l1_rule(total, p, t, w):
    error = p - t
    sign = where_less(error, 0.0, -1.0, where_less(0.0, error, 1.0, error))
    return fma(absolute(error), w, total), sign


@helper
def huber_rule(total, p, t, w, a, b):
    error = p - t
    size = absolute(error)
    c = where_less(a, size, a, size)
    return fma(c * fma(c, -0.5, size) / b, w, total), copysign(c / b, error)


@helper
def bce_rule(total, p, t, w):
    yes, no = log_vector(p), log1p_vector(0.0 - p)
    yes, no = where_less(yes, -100.0, -100.0, yes), where_less(no, -100.0, -100.0, no)
    spread = p * (1.0 - p)
    spread = where_less(spread, 1e-12, 1e-12, spread)
    return fma(fma(t, yes, (1.0 - t) * no), 0.0 - w, total), (p - t) / spread


@helper
def bce_with_logits_rule(total, p, t, v, w):
    e = exp_vector(0.0 - absolute(p))
    m = fma(v - 1.0, t, 1.0)
    slope = where_less(p, 0.0, v * t, 1.0 - t)  # of the loss where |p| is large
    value = fma(m, log1p_to_one(e), absolute(p) * slope)
    rest = e / (e + 1.0) * m  # m σ(p) − v t would lose it next to slope
    return fma(value, w, total), where_less(p, 0.0, rest - slope, slope - rest)


@helper
def stirling(value, t, b):
    """With the approximation of log t!, for t > 1, if b is not 0."""
    if b != 0.0:
        rest = fma(t, log_vector(t), fma(log_vector(t) + LOG_2PI, 0.5, 0.0 - t))
        return value + where_less_equal(t, 1.0, 0.0, rest)
    return value


@helper
def poisson_rule(total, p, t, w, a, b):
    value = stirling(p - t * log_vector(p + a), t, b)
    return fma(value, w, total), 1.0 - t / (p + a)


@helper
def poisson_log_rule(total, p, t, w, b):
    e = exp_vector(p)
    return fma(stirling(e - t * p, t, b), w, total), e - t


@helper
def gaussian_rule(total, p, t, v, w, a, b):
    v = where_less(v, a, a, v)
    error = p - t
    relative = error / v
    value = fma(error, relative, log_vector(v) + b) * 0.5
    return fma(value, w, total), relative, (1.0 - error * relative) / v * 0.5


@helper
def kl_rule(total, p, t, w):
    log = where_less(t, 0.0, log_vector(t), where_less(0.0, t, log_vector(t), t))  # t log t is 0 for t = 0
    return fma(fma(t, log, 0.0 - t * p), w, total), 0.0 - t


@helper
def kl_log_rule(total, p, t, w):
    e = exp_vector(t)
    return fma(e * (t - p), w, total), 0.0 - e


@helper
def quantile_rule(total, p, t, v, w):
    error = t - p
    slope = where_less(error, 0.0, v - 1.0, where_less(0.0, error, v, error))
    return fma(error * slope, w, total), 0.0 - slope


@helper
def eager_rule(code, total, p, t, v, w, a, b):
    if code == MSE:
        total, g = mse_rule(total, p, t, w)
    else:
        total, g = bce_with_logits_rule(total, p, t, v, w)
    return total, g, v


@helper
def lazy_rule(code, total, p, t, v, w, a, b):
    if code == L1:
        total, g = l1_rule(total, p, t, w)
    elif code == HUBER:
        total, g = huber_rule(total, p, t, w, a, b)
    elif code == BCE:
        total, g = bce_rule(total, p, t, w)
    elif code == POISSON:
        total, g = poisson_rule(total, p, t, w, a, b)
    elif code == POISSON_LOG:
        total, g = poisson_log_rule(total, p, t, w, b)
    elif code == GAUSSIAN:
        total, g, v = gaussian_rule(total, p, t, v, w, a, b)
    elif code == KL:
        total, g = kl_rule(total, p, t, w)
    elif code == KL_LOG:
        total, g = kl_log_rule(total, p, t, w)
    else:
        total, g = quantile_rule(total, p, t, v, w)
    return total, g, v


@helper
def dense(data, columns):
    """Neighbours in memory as a matrix."""
    return Matrix(data, columns * itemsize(data), itemsize(data))


@helper
def soft_cross_entropy_row(count, z, q, out, scale):
    """Σ q (log Σ eᶻ − z), and out = (softmax(z) Σ q − q) scale."""
    size, lanes, value, weight_sum = itemsize(z), width(z), 0.0, 0.0
    top, denominator = softmax_row(count, z, out, 1.0)
    log_sum = np.log(np.float64(denominator))
    for first in range(0, count, BLOCK):
        last, total, weight = min(count, first + BLOCK), splat(z, 0.0), splat(z, 0.0)
        for j in range(first, last, lanes):
            some = last - j
            y = load_first(at(q, j * size), some, 0.0)
            less = load_first(at(z, j * size), some, 0.0) - top - log_sum
            # a class of no weight may have a logit of −∞
            total, weight = total - where_less_equal(y, 0.0, 0.0, y * less), weight + y
        value, weight_sum = value + np.float64(sum_lanes(total, z)), weight_sum + np.float64(sum_lanes(weight, z))
    for j in range(0, count, lanes):
        some = count - j
        difference = load_first(at(out, j * size), some, 0.0) * weight_sum - load_first(at(q, j * size), some, 0.0)
        store_first(at(out, j * size), difference * scale, some)
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
    copy_matrix(np.int64(1), count, dense(z, count), dense(out, count))
    start = margin - np.float64(read(at(z, label * size)))
    write(at(out, label * size), -np.inf)
    for first in range(0, count, BLOCK):
        last, total, slope = min(count, first + BLOCK), splat(z, 0.0), splat(z, 0.0)
        for j in range(first, last, lanes):
            here, some = at(out, j * size), last - j
            excess = load_first(here, some, -np.inf) + start
            excess = where_less(excess, 0.0, 0.0, excess)
            g = excess * 2.0 if squared else where_less(0.0, excess, 1.0, excess)
            total = fma(excess, excess, total) if squared else total + excess
            store_first(here, g * scale, some)
            slope = slope + g
        value, slopes = value + np.float64(sum_lanes(total, z)), slopes + np.float64(sum_lanes(slope, z))
    write(at(out, label * size), 0.0 - slopes * scale)
    return value


@helper
def mix_row(count, y, q, v, keep, spread):
    """q = (keep y + spread) v"""
    size = itemsize(y)
    for j in range(0, count, width(y)):
        here, some = j * size, count - j
        value = fma(load_first(at(y, here), some, 0.0), keep, splat(y, spread)) * load_first(at(v, here), some, 0.0)
        store_first(at(q, here), value, some)
