"""Activation functions and their derivatives, on vectors, rows and matrices.

Elementwise, with a derivative f′ in terms of what a layer keeps, the output y = f(z) where that loses nothing,
else the input z. Φ and φ are the normal distribution and its density, σ the sigmoid.

    identity      y = z                                 f′ = 1
    relu          y = max(z, 0)                         f′ = 1 if y > 0 else 0
    leaky_relu    y = z if z > 0 else a z               f′ = 1 if y > 0 else a (of z for a < 0)
    sigmoid       y = 1 / (1 + e⁻ᶻ)                     f′ = y (1 − y)
    log_sigmoid   y = −log(1 + e⁻ᶻ)                     f′ = 1 − eʸ
    tanh          y = tanh z                            f′ = 1 − y²
    hardtanh      y = min(max(z, a), b)                 f′ = 1 if a < y < b else 0
    elu           y = z if z > 0 else a (eᵇᶻ − 1)       f′ = 1 if z > 0 else a b eᵇᶻ
    selu          y = 1.05… elu(z) with a = 1.67…, b = 1
    softplus      y = log(1 + eᵃᶻ) / a, z if a z > b    f′ = σ(a z), 1 if a z > b
    softsign      y = z / (1 + |z|)                     f′ = 1 / (1 + |z|)²
    hardsigmoid   y = min(max(z + 3, 0), 6) / 6         f′ = 1/6 if −3 < z < 3 else 0
    hardswish     y = z hardsigmoid(z)                  f′ = 0 if z <= −3, z/3 + 1/2 if z < 3, else 1
    silu          y = z σ(z)                            f′ = σ(z) (1 + z (1 − σ(z)))
    gelu          y = z Φ(z)                            f′ = Φ(z) + z φ(z)
    gelu_tanh     y = z σ(v)                            f′ = σ(v) + z σ(v) (1 − σ(v)) v′
                  v = 2 √(2/π) (z + 0.044715 z³)
    mish          y = z ω, ω = tanh(log(1 + eᶻ))        f′ = ω + z σ(z) (1 − ω²)

and along rows, with the gradient g = dL/dy of the loss:

    softmax       yᵢ = e^zᵢ / Σ e^zⱼ                    dL/dzᵢ = yᵢ (gᵢ − Σ gⱼ yⱼ)
    log_softmax   yᵢ = zᵢ − log Σ e^zⱼ                  dL/dzᵢ = gᵢ − e^yᵢ Σ gⱼ
"""

from collections import namedtuple

import numpy as np
from numba import types

from fastfc.kernels.runtime.native import named_after
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.elementary import (
    erf_vector,
    exp_below,
    exp_of_minus_rounded,
    exp_vector,
    expm1_below,
    expm1_vector,
    log1p_to_one,
    log1p_vector,
    log_normal,
    log_vector,
    maximum,
    minimum,
    normal_vector,
    sigmoid_and_slope,
    sigmoid_vector,
    softplus_vector,
    tanh_vector,
)
from fastfc.kernels.simd.memory import at, itemsize, stack
from fastfc.kernels.simd.vector import (
    absolute,
    by_dtype,
    fma,
    infinity,
    lane,
    largest_lane,
    load,
    load_first,
    splat,
    store,
    store_first,
    sum_of_lanes,
    where_less,
    where_less_equal,
    width,
)

(
    IDENTITY,
    RELU,
    LEAKY_RELU,
    SIGMOID,
    LOG_SIGMOID,
    TANH,
    HARDTANH,
    ELU,
    SELU,
    SOFTPLUS,
    SOFTSIGN,
    HARDSIGMOID,
    HARDSWISH,
    SILU,
    GELU,
    GELU_TANH,
    MISH,
    CUSTOM,
    SOFTMAX,
    LOG_SOFTMAX,
    EXP,
    EXPM1,
    LOG,
    LOG1P,
    ERF,
) = range(25)
LAZY = frozenset(range(CUSTOM + 1)) - {IDENTITY, RELU, SIGMOID, TANH, SOFTMAX, EXP, CUSTOM}  # see apply_lazy
DERIVATIVE = 1000  # added to a code: not the activation but the product with its derivative
# derivatives in terms of the input
OF_INPUT = {ELU, SELU, SOFTPLUS, SOFTSIGN, HARDSIGMOID, HARDSWISH, SILU, GELU, GELU_TANH, MISH, CUSTOM}
ROWWISE = {SOFTMAX, LOG_SOFTMAX}

# A function by its code, and the numbers in its formula, 0 where it has none.
Activation = namedtuple("Activation", ["code", "a", "b"])
activation_type = types.NamedTuple([types.int64, types.float64, types.float64], Activation)
NUMBERS = activation_type.types  # of a kernel that is called from Python, where each argument is one number
NONE = Activation(IDENTITY, 0.0, 0.0)

ACTIVATIONS = {
    "identity": NONE,
    "relu": Activation(RELU, 0.0, 0.0),
    "leaky_relu": Activation(LEAKY_RELU, 0.01, 0.0),
    "sigmoid": Activation(SIGMOID, 0.0, 0.0),
    "log_sigmoid": Activation(LOG_SIGMOID, 0.0, 0.0),
    "tanh": Activation(TANH, 0.0, 0.0),
    "hardtanh": Activation(HARDTANH, -1.0, 1.0),
    "relu6": Activation(HARDTANH, 0.0, 6.0),
    "elu": Activation(ELU, 1.0, 1.0),
    "selu": Activation(SELU, 0.0, 0.0),
    "celu": Activation(ELU, 1.0, 1.0),
    "softplus": Activation(SOFTPLUS, 1.0, 20.0),
    "softsign": Activation(SOFTSIGN, 0.0, 0.0),
    "hardsigmoid": Activation(HARDSIGMOID, 0.0, 0.0),
    "hardswish": Activation(HARDSWISH, 0.0, 0.0),
    "silu": Activation(SILU, 0.0, 0.0),
    "gelu": Activation(GELU, 0.0, 0.0),
    "gelu_tanh": Activation(GELU_TANH, 0.0, 0.0),
    "mish": Activation(MISH, 0.0, 0.0),
    "softmax": Activation(SOFTMAX, 0.0, 0.0),
    "log_softmax": Activation(LOG_SOFTMAX, 0.0, 0.0),
}

# G. Klambauer, T. Unterthiner, A. Mayr, S. Hochreiter, "Self-normalizing neural networks", NeurIPS 2017
SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
SELU_BELOW = SELU_ALPHA * SELU_SCALE
SELU_BELOW_REST = by_dtype(float32=2.329668e-08, float64=0.0)  # what float32 leaves of it
# D. Hendrycks, K. Gimpel, "Gaussian error linear units (GELUs)", 2016: v = TWICE_ROOT (z + CUBIC z³)
TWICE_ROOT, CUBIC = 1.5957691216057308, 0.044715
DENSITY = 0.3989422804014327  # of the normal distribution at 0


def of_input(activation):
    """Whether the derivative is in terms of z, not of y = f(z)."""
    return activation.code in OF_INPUT or (activation.code == LEAKY_RELU and activation.a < 0)


def rowwise(f):
    """out[j] = f(x[j], ...) for j < count, neighbours in memory; after out come the numbers in f's formula."""

    def map_row(count, x, out, *numbers):
        size, lanes, last = itemsize(x), width(x), stack(x, 64)
        # the last vector, if it is not whole, goes through the same code elsewhere: f is long, and compiled once
        for j in range(0, count, lanes):
            here, there = at(x, j * size), at(out, j * size)
            if count - j < lanes:
                store(last, load_first(here, count - j, 0.0))
                here, there = last, last
            store(there, f(load(here), *numbers))
        some = count % lanes
        if some:
            store_first(at(out, (count - some) * size), load(last), some)

    return helper(named_after(map_row, f))


def rowwise_pair(f):
    """out[j] = f(y[j], g[j], ...) for j < count, neighbours in memory."""

    def map_row(count, y, g, out, *numbers):
        size, lanes, last, last_g = itemsize(y), width(y), stack(y, 64), stack(y, 64)
        for j in range(0, count, lanes):
            here, grads, there = at(y, j * size), at(g, j * size), at(out, j * size)
            if count - j < lanes:
                store(last, load_first(here, count - j, 0.0))
                store(last_g, load_first(grads, count - j, 0.0))
                here, grads, there = last, last_g, last
            store(there, f(load(here), load(grads), *numbers))
        some = count % lanes
        if some:
            store_first(at(out, (count - some) * size), load(last), some)

    return helper(named_after(map_row, f))


@rowwise
@helper
def identity_row(x):
    return x


@rowwise
@helper
def relu_row(x):
    return maximum(x, 0.0)


@rowwise_pair
@helper
def relu_derivative_row(y, g):
    return where_less_equal(y, 0.0, 0.0, g)


@rowwise
@helper
def leaky_relu_row(z, a):
    return where_less(0.0, z, z, z * a)


@rowwise_pair
@helper
def leaky_relu_derivative_row(y, g, a):
    return where_less(0.0, y, g, g * a)


@rowwise_pair
@helper
def sigmoid_derivative_row(y, g):
    return g * (y * (1.0 - y))


@rowwise
@helper
def log_sigmoid_row(z):
    return minimum(z, 0.0) - log1p_to_one(exp_of_minus_rounded(z))


@rowwise_pair
@helper
def log_sigmoid_derivative_row(y, g):
    return g * (0.0 - expm1_below(y))


@rowwise_pair
@helper
def tanh_derivative_row(y, g):
    return g * (1.0 - y * y)


@rowwise
@helper
def hardtanh_row(z, a, b):
    return minimum(maximum(z, a), b)


@rowwise_pair
@helper
def hardtanh_derivative_row(y, g, a, b):
    return where_less(a, y, where_less(y, b, g, 0.0), 0.0)


@rowwise
@helper
def elu_row(z, a, b):
    return where_less_equal(z, 0.0, expm1_vector(z * b) * a, z)


@rowwise_pair
@helper
def elu_derivative_row(z, g, a, b):
    return where_less(0.0, z, g, g * (exp_vector(z * b) * (a * b)))


@rowwise
@helper
def selu_row(z):
    below = expm1_vector(z)
    return where_less_equal(z, 0.0, fma(below, SELU_BELOW, below * SELU_BELOW_REST(z)), z * SELU_SCALE)


@rowwise_pair
@helper
def selu_derivative_row(z, g):
    return g * where_less(0.0, z, SELU_SCALE, exp_vector(z) * SELU_BELOW)


@rowwise
@helper
def softplus_row(z, a, b):
    scaled = z * a
    return where_less(b, scaled, z, softplus_vector(scaled) / a)


@rowwise_pair
@helper
def softplus_derivative_row(z, g, a, b):
    scaled = z * a
    return where_less(b, scaled, g, g * sigmoid_vector(scaled))


@rowwise
@helper
def softsign_row(z):
    return z / (absolute(z) + 1.0)


@rowwise_pair
@helper
def softsign_derivative_row(z, g):
    slope = 1.0 / (absolute(z) + 1.0)
    # NaN at infinity, as y is
    return g * fma(z, 0.0, slope * slope)


@rowwise
@helper
def hardsigmoid_row(z):
    return minimum(maximum(z + 3.0, 0.0), 6.0) / 6.0


@rowwise_pair
@helper
def hardsigmoid_derivative_row(z, g):
    return where_less(absolute(z), 3.0, g * (1.0 / 6.0), 0.0)


@rowwise
@helper
def hardswish_row(z):
    return z * (minimum(maximum(z + 3.0, 0.0), 6.0) / 6.0)


@rowwise_pair
@helper
def hardswish_derivative_row(z, g):
    return where_less_equal(z, -3.0, 0.0, where_less_equal(3.0, z, g, g * (z / 3.0 + 0.5)))


@rowwise
@helper
def silu_row(z):
    return z / (exp_vector(0.0 - z) + 1.0)


@rowwise_pair
@helper
def silu_derivative_row(z, g):
    s, slope = sigmoid_and_slope(z)
    return g * fma(z, slope, s)


@rowwise
@helper
def gelu_row(z):
    below, _ = normal_vector(z)
    return z * below


@rowwise_pair
@helper
def gelu_derivative_row(z, g):
    below, e = normal_vector(z)
    return g * fma(z, e * DENSITY, below)


@rowwise
@helper
def gelu_tanh_row(z):
    return z * sigmoid_vector(z * fma(z * z, TWICE_ROOT * CUBIC, TWICE_ROOT))


@rowwise_pair
@helper
def gelu_tanh_derivative_row(z, g):
    square = z * z
    s, slope = sigmoid_and_slope(z * fma(square, TWICE_ROOT * CUBIC, TWICE_ROOT))
    return g * fma(z * slope, fma(square, 3.0 * TWICE_ROOT * CUBIC, TWICE_ROOT), s)


@helper
def mish_parts(z):
    """e^−|z|, and ω = tanh(log(1 + eᶻ)) as a quotient, both by e²ᶻ for z > 0."""
    e = exp_of_minus_rounded(z)
    above = where_less(z, 0.0, fma(e, e, e * 2.0), fma(e, 2.0, 1.0))
    return e, above, above + where_less(z, 0.0, 2.0, e * e * 2.0)


@rowwise
@helper
def mish_row(z):
    e, above, below = mish_parts(z)
    inverse = 1.0 / below
    quotient = above * inverse
    # for z < 0, what rounding lost of both
    lost = (fma(0.0 - quotient, below, above) + fma(e, e, e * 2.0 - above)) * inverse
    return fma(z, quotient, minimum(z, 0.0) * lost)


@rowwise_pair
@helper
def mish_derivative_row(z, g):
    e, above, below = mish_parts(z)
    inverse = 1.0 / below
    slope = fma(e, 4.0, 4.0) * where_less(z, 0.0, e, e * e) * inverse * inverse
    return g * fma(z, slope, above * inverse)


exp_row, expm1_row, log_row, log1p_row, erf_row, sigmoid_row, tanh_row = (
    rowwise(f) for f in (exp_vector, expm1_vector, log_vector, log1p_vector, erf_vector, sigmoid_vector, tanh_vector)
)


@helper
def sum_lanes(vector, like):
    return sum_of_lanes(vector)


def fold(f, fill):
    """f(... f(f(start, x[0]), x[1]) ..., x[count - 1]) for vectors x, with `fill` where the last is not whole."""

    def fold_row(count, x, start, *numbers):
        size, lanes, total = itemsize(x), width(x), start
        whole = count - count % lanes
        for j in range(0, whole, lanes):
            total = f(total, load(at(x, j * size)), *numbers)
        if whole < count:
            total = f(total, load_first(at(x, whole * size), count - whole, fill), *numbers)
        return total

    return helper(named_after(fold_row, f))


@helper
def larger(a, b):
    return where_less(a, b, b, a)


@helper
def add(a, b):
    return a + b


largest_of, total_of = fold(larger, -np.inf), fold(add, 0.0)


@helper
def sum_of(count, x):
    return sum_of_lanes(total_of(count, x, splat(x, 0.0)))


@rowwise_pair
@helper
def less_share_row(y, g, total):
    return g - exp_below(y) * total


@helper
def largest(count, x):
    return largest_lane(largest_of(count, x, splat(x, -infinity(x))))


@helper
def softmax_row(count, x, out, scale):
    """out = scale e^(x − max x) / Σ; returns max x and Σ, as log Σ eˣ = max x + log Σ."""
    size, lanes, top, total = itemsize(x), width(x), largest(count, x), splat(x, 0.0)
    some = count % lanes
    whole = count - some
    for j in range(0, whole, lanes):
        e = exp_below(load(at(x, j * size)) - top)
        store(at(out, j * size), e)
        total = total + e
    # stays in a register: what a masked store wrote can't be loaded before it is in the cache
    last = exp_below(load_first(at(x, whole * size), some, -np.inf) - top)
    denominator = sum_of_lanes(total + last)
    factor = scale / denominator
    for j in range(0, whole, lanes):
        here = at(out, j * size)
        store(here, load(here) * factor)
    store_first(at(out, whole * size), last * factor, some)
    return top, denominator


@helper
def softmax_derivative_row(count, y, g, out):
    size, lanes, total = itemsize(y), width(y), splat(y, 0.0)
    some = count % lanes
    whole = count - some
    end = whole * size
    for j in range(0, whole, lanes):
        total = fma(load(at(y, j * size)), load(at(g, j * size)), total)
    last, last_g = load_first(at(y, end), some, 0.0), load_first(at(g, end), some, 0.0)
    mean = sum_of_lanes(fma(last, last_g, total))
    for j in range(0, whole, lanes):
        store(at(out, j * size), load(at(y, j * size)) * (load(at(g, j * size)) - mean))
    store_first(at(out, end), last * (last_g - mean), some)


@helper
def log_softmax_row(count, x, out):
    size, lanes, top, total = itemsize(x), width(x), largest(count, x), splat(x, 0.0)
    some = count % lanes
    whole = count - some
    for j in range(0, whole, lanes):
        total = total + exp_below(load(at(x, j * size)) - top)
    last = load_first(at(x, whole * size), some, -np.inf) - top
    rest = lane(log_normal(splat(x, sum_of_lanes(total + exp_below(last)))), 0)
    for j in range(0, whole, lanes):
        store(at(out, j * size), load(at(x, j * size)) - top - rest)
    store_first(at(out, whole * size), last - rest, some)


@helper
def log_softmax_derivative_row(count, y, g, out):
    less_share_row(count, y, g, out, sum_of(count, g))
