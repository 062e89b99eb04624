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

import contextlib
from collections import namedtuple

import numpy as np
from numba import njit, types
from numba.core import errors
from numba.extending import overload

from fastfc.kernels.runtime.kernel import (
    BAD_SHAPE,
    NO_MEMORY,
    OK,
    OVERLAP,
    check,
    kernel,
    loaded,
    named_after,
    native,
    overlaps,
    same,
)
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
from fastfc.kernels.simd.vector import (
    absolute,
    allocate,
    at,
    by_dtype,
    call_at,
    fma,
    infinity,
    is_null,
    itemsize,
    lane,
    largest_lane,
    load,
    load_first,
    pointer,
    read,
    release,
    splat,
    stack,
    store,
    store_first,
    sum_of_lanes,
    where_less,
    where_less_equal,
    width,
    write,
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
OTHERS = frozenset(range(CUSTOM + 1)) - {IDENTITY, RELU, SIGMOID, TANH, SOFTMAX, EXP, CUSTOM}  # see apply_other
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

    return njit(named_after(map_row, f))


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

    return njit(named_after(map_row, f))


@rowwise
@njit
def identity_row(x):
    return x


@rowwise
@njit
def relu_row(x):
    return maximum(x, 0.0)


@rowwise_pair
@njit
def relu_derivative_row(y, g):
    return where_less_equal(y, 0.0, 0.0, g)


@rowwise
@njit
def leaky_relu_row(z, a):
    return where_less(0.0, z, z, z * a)


@rowwise_pair
@njit
def leaky_relu_derivative_row(y, g, a):
    return where_less(0.0, y, g, g * a)


@rowwise_pair
@njit
def sigmoid_derivative_row(y, g):
    return g * (y * (1.0 - y))


@rowwise
@njit
def log_sigmoid_row(z):
    return minimum(z, 0.0) - log1p_to_one(exp_of_minus_rounded(z))


@rowwise_pair
@njit
def log_sigmoid_derivative_row(y, g):
    return g * (0.0 - expm1_below(y))


@rowwise_pair
@njit
def tanh_derivative_row(y, g):
    return g * (1.0 - y * y)


@rowwise
@njit
def hardtanh_row(z, a, b):
    return minimum(maximum(z, a), b)


@rowwise_pair
@njit
def hardtanh_derivative_row(y, g, a, b):
    return where_less(a, y, where_less(y, b, g, 0.0), 0.0)


@rowwise
@njit
def elu_row(z, a, b):
    return where_less_equal(z, 0.0, expm1_vector(z * b) * a, z)


@rowwise_pair
@njit
def elu_derivative_row(z, g, a, b):
    return where_less(0.0, z, g, g * (exp_vector(z * b) * (a * b)))


@rowwise
@njit
def selu_row(z):
    below = expm1_vector(z)
    return where_less_equal(z, 0.0, fma(below, SELU_BELOW, below * SELU_BELOW_REST(z)), z * SELU_SCALE)


@rowwise_pair
@njit
def selu_derivative_row(z, g):
    return g * where_less(0.0, z, SELU_SCALE, exp_vector(z) * SELU_BELOW)


@rowwise
@njit
def softplus_row(z, a, b):
    scaled = z * a
    return where_less(b, scaled, z, softplus_vector(scaled) / a)


@rowwise_pair
@njit
def softplus_derivative_row(z, g, a, b):
    scaled = z * a
    return where_less(b, scaled, g, g * sigmoid_vector(scaled))


@rowwise
@njit
def softsign_row(z):
    return z / (absolute(z) + 1.0)


@rowwise_pair
@njit
def softsign_derivative_row(z, g):
    slope = 1.0 / (absolute(z) + 1.0)
    # NaN at infinity, as y is
    return g * fma(z, 0.0, slope * slope)


@rowwise
@njit
def hardsigmoid_row(z):
    return minimum(maximum(z + 3.0, 0.0), 6.0) / 6.0


@rowwise_pair
@njit
def hardsigmoid_derivative_row(z, g):
    return where_less(absolute(z), 3.0, g * (1.0 / 6.0), 0.0)


@rowwise
@njit
def hardswish_row(z):
    return z * (minimum(maximum(z + 3.0, 0.0), 6.0) / 6.0)


@rowwise_pair
@njit
def hardswish_derivative_row(z, g):
    return where_less_equal(z, -3.0, 0.0, where_less_equal(3.0, z, g, g * (z / 3.0 + 0.5)))


@rowwise
@njit
def silu_row(z):
    return z / (exp_vector(0.0 - z) + 1.0)


@rowwise_pair
@njit
def silu_derivative_row(z, g):
    s, slope = sigmoid_and_slope(z)
    return g * fma(z, slope, s)


@rowwise
@njit
def gelu_row(z):
    below, _ = normal_vector(z)
    return z * below


@rowwise_pair
@njit
def gelu_derivative_row(z, g):
    below, e = normal_vector(z)
    return g * fma(z, e * DENSITY, below)


@rowwise
@njit
def gelu_tanh_row(z):
    return z * sigmoid_vector(z * fma(z * z, TWICE_ROOT * CUBIC, TWICE_ROOT))


@rowwise_pair
@njit
def gelu_tanh_derivative_row(z, g):
    square = z * z
    s, slope = sigmoid_and_slope(z * fma(square, TWICE_ROOT * CUBIC, TWICE_ROOT))
    return g * fma(z * slope, fma(square, 3.0 * TWICE_ROOT * CUBIC, TWICE_ROOT), s)


@njit
def mish_parts(z):
    """e^−|z|, and ω = tanh(log(1 + eᶻ)) as a quotient, both by e²ᶻ for z > 0."""
    e = exp_of_minus_rounded(z)
    above = where_less(z, 0.0, fma(e, e, e * 2.0), fma(e, 2.0, 1.0))
    return e, above, above + where_less(z, 0.0, 2.0, e * e * 2.0)


@rowwise
@njit
def mish_row(z):
    e, above, below = mish_parts(z)
    inverse = 1.0 / below
    quotient = above * inverse
    # for z < 0, what rounding lost of both
    lost = (fma(0.0 - quotient, below, above) + fma(e, e, e * 2.0 - above)) * inverse
    return fma(z, quotient, minimum(z, 0.0) * lost)


@rowwise_pair
@njit
def mish_derivative_row(z, g):
    e, above, below = mish_parts(z)
    inverse = 1.0 / below
    slope = fma(e, 4.0, 4.0) * where_less(z, 0.0, e, e * e) * inverse * inverse
    return g * fma(z, slope, above * inverse)


exp_row, expm1_row, log_row, log1p_row, erf_row, sigmoid_row, tanh_row = (
    rowwise(f) for f in (exp_vector, expm1_vector, log_vector, log1p_vector, erf_vector, sigmoid_vector, tanh_vector)
)


@njit
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

    return njit(named_after(fold_row, f))


@njit
def larger(a, b):
    return where_less(a, b, b, a)


@njit
def add(a, b):
    return a + b


largest_of, total_of = fold(larger, -np.inf), fold(add, 0.0)


@njit
def sum_of(count, x):
    return sum_of_lanes(total_of(count, x, splat(x, 0.0)))


@rowwise_pair
@njit
def less_share_row(y, g, total):
    return g - exp_below(y) * total


@njit
def largest(count, x):
    return largest_lane(largest_of(count, x, splat(x, -infinity(x))))


@njit
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


@njit
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


@njit
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


@njit
def log_softmax_derivative_row(count, y, g, out):
    less_share_row(count, y, g, out, sum_of(count, g))


@native(
    lambda dtype: types.int64(types.CPointer(dtype), types.CPointer(dtype), types.int64, activation_type), optional=True
)
def apply_other(x, out, count, activation):
    """`apply` for the functions that most networks do not need."""
    code, a, b = activation
    if code == LEAKY_RELU:
        leaky_relu_row(count, x, out, a)
    elif code == LOG_SIGMOID:
        log_sigmoid_row(count, x, out)
    elif code == HARDTANH:
        hardtanh_row(count, x, out, a, b)
    elif code == ELU:
        elu_row(count, x, out, a, b)
    elif code == SELU:
        selu_row(count, x, out)
    elif code == SOFTPLUS:
        softplus_row(count, x, out, a, b)
    elif code == SOFTSIGN:
        softsign_row(count, x, out)
    elif code == HARDSIGMOID:
        hardsigmoid_row(count, x, out)
    elif code == HARDSWISH:
        hardswish_row(count, x, out)
    elif code == SILU:
        silu_row(count, x, out)
    elif code == GELU:
        gelu_row(count, x, out)
    elif code == GELU_TANH:
        gelu_tanh_row(count, x, out)
    elif code == MISH:
        mish_row(count, x, out)
    elif code == LOG_SOFTMAX:
        log_softmax_row(count, x, out)
    elif code == EXPM1:
        expm1_row(count, x, out)
    elif code == LOG:
        log_row(count, x, out)
    elif code == LOG1P:
        log1p_row(count, x, out)
    else:
        erf_row(count, x, out)
    return OK


@native(lambda dtype: types.int64(types.CPointer(dtype), types.CPointer(dtype), types.int64, activation_type))
def apply(x, out, count, activation):
    """out[j] = f(x[j]) for j < count, neighbours in memory; out may be x."""
    code, a, _ = activation
    if code == IDENTITY:
        identity_row(count, x, out)
    elif code == RELU:
        relu_row(count, x, out)
    elif code == SIGMOID:
        sigmoid_row(count, x, out)
    elif code == TANH:
        tanh_row(count, x, out)
    elif code == SOFTMAX:
        softmax_row(count, x, out, 1.0)
    elif code == EXP:
        exp_row(count, x, out)
    elif code == CUSTOM:
        call_at(a, x, (count, x, x, out, 1))
    else:
        return apply_other(x, out, count, activation)
    return OK


@native(lambda dtype: types.int64(*[types.CPointer(dtype)] * 3, types.int64, activation_type), optional=True)
def derive_other(kept, g, out, count, activation):
    """`apply_derivative` for those."""
    code, a, b = activation
    if code == LEAKY_RELU:
        leaky_relu_derivative_row(count, kept, g, out, a)
    elif code == LOG_SIGMOID:
        log_sigmoid_derivative_row(count, kept, g, out)
    elif code == HARDTANH:
        hardtanh_derivative_row(count, kept, g, out, a, b)
    elif code == ELU:
        elu_derivative_row(count, kept, g, out, a, b)
    elif code == SELU:
        selu_derivative_row(count, kept, g, out)
    elif code == SOFTPLUS:
        softplus_derivative_row(count, kept, g, out, a, b)
    elif code == SOFTSIGN:
        softsign_derivative_row(count, kept, g, out)
    elif code == HARDSIGMOID:
        hardsigmoid_derivative_row(count, kept, g, out)
    elif code == HARDSWISH:
        hardswish_derivative_row(count, kept, g, out)
    elif code == SILU:
        silu_derivative_row(count, kept, g, out)
    elif code == GELU:
        gelu_derivative_row(count, kept, g, out)
    elif code == GELU_TANH:
        gelu_tanh_derivative_row(count, kept, g, out)
    elif code == MISH:
        mish_derivative_row(count, kept, g, out)
    else:
        log_softmax_derivative_row(count, kept, g, out)
    return OK


@native(lambda dtype: types.int64(*[types.CPointer(dtype)] * 3, types.int64, activation_type))
def apply_derivative(kept, g, out, count, activation):
    """out[j] = g[j] f′, f′ in terms of what is kept, for j < count, neighbours in memory; out may be g."""
    code, _, b = activation
    if code == IDENTITY:
        identity_row(count, g, out)
    elif code == RELU:
        relu_derivative_row(count, kept, g, out)
    elif code == SIGMOID:
        sigmoid_derivative_row(count, kept, g, out)
    elif code == TANH:
        tanh_derivative_row(count, kept, g, out)
    elif code == SOFTMAX:
        softmax_derivative_row(count, kept, g, out)
    elif code == CUSTOM:
        call_at(b, kept, (count, kept, g, out, 0))
    else:
        return derive_other(kept, g, out, count, activation)
    return OK


@njit
def neighbours(x, axis):
    """Whether the elements along an axis are neighbours in memory."""
    return x.strides[axis] == x.itemsize


@njit
def spread_out(count, source, source_step, target, target_step):
    """Copy elements that are so many bytes apart."""
    for j in range(count):
        write(at(target, j * target_step), read(at(source, j * source_step)))


@kernel("x[n, o] -> out[n, o]", *NUMBERS, in_place="x")
def _activation_forward(x, out, code, a, b):
    if x.shape != out.shape:
        return BAD_SHAPE
    if overlaps(x, out) and not same(x, out):
        return OVERLAP
    if out.size == 0:  # of which there may be more rows than a loop could pass
        return OK
    f, elementwise, size = Activation(code, a, b), code != SOFTMAX and code != LOG_SOFTMAX, out.itemsize
    along = 0 if elementwise and neighbours(x, 0) and neighbours(out, 0) else 1
    count, lines = out.shape[along], out.shape[1 - along]
    step, out_step = x.strides[1 - along], out.strides[1 - along]
    if neighbours(x, along) and neighbours(out, along):
        if elementwise and step == out_step == count * size:
            count, lines = count * lines, 1
        for i in range(lines):
            apply(at(pointer(x), i * step), at(pointer(out), i * out_step), count, f)
        return OK
    row, memory = allocate(pointer(out), count * size)
    if count and is_null(memory):
        return NO_MEMORY
    for i in range(lines):
        spread_out(count, at(pointer(x), i * step), x.strides[along], row, size)
        apply(row, row, count, f)
        spread_out(count, row, size, at(pointer(out), i * out_step), out.strides[along])
    release(memory)
    return OK


@kernel("output[n, o], grad_output[n, o] -> out[n, o]", *NUMBERS, in_place="grad_output")
def _activation_backward(output, grad_output, out, code, a, b):
    if output.shape != out.shape or grad_output.shape != out.shape:
        return BAD_SHAPE
    if overlaps(output, out) or (overlaps(grad_output, out) and not same(grad_output, out)):
        return OVERLAP
    if out.size == 0:  # of which there may be more rows than a loop could pass
        return OK
    f, elementwise, size = Activation(code, a, b), code != SOFTMAX and code != LOG_SOFTMAX, out.itemsize
    columns = neighbours(output, 0) and neighbours(grad_output, 0) and neighbours(out, 0)
    along = 0 if elementwise and columns else 1
    count, lines = out.shape[along], out.shape[1 - along]
    step, grad_step, out_step = output.strides[1 - along], grad_output.strides[1 - along], out.strides[1 - along]
    y, g, result = pointer(output), pointer(grad_output), pointer(out)
    if neighbours(output, along) and neighbours(grad_output, along) and neighbours(out, along):
        if elementwise and step == grad_step == out_step == count * size:
            count, lines = count * lines, 1
        for i in range(lines):
            apply_derivative(at(y, i * step), at(g, i * grad_step), at(result, i * out_step), count, f)
        return OK
    row, memory = allocate(result, 2 * count * size)
    if count and is_null(memory):
        return NO_MEMORY
    grads = at(row, count * size)
    for i in range(lines):
        spread_out(count, at(y, i * step), output.strides[along], row, size)
        spread_out(count, at(g, i * grad_step), grad_output.strides[along], grads, size)
        apply_derivative(row, grads, grads, count, f)
        spread_out(count, grads, size, at(result, i * out_step), out.strides[along])
    release(memory)
    return OK


def as_rows(x):
    """A vector as a matrix of one row, anything else as it is."""
    if isinstance(x, np.ndarray):
        return x[np.newaxis] if x.ndim == 1 else x
    with contextlib.suppress(TypeError, ValueError):  # the kernel says what is wrong
        return [x] if np.ndim(x) == 1 else x
    return x


def named(name):
    """The activation of that name; ValueError for an unknown one."""
    try:
        return ACTIVATIONS[name]
    except (KeyError, TypeError):
        raise ValueError(f"unknown activation {name!r}; there are: {', '.join(ACTIVATIONS)}") from None


def fused(name):
    """An elementwise activation by its name, which can follow a product in registers."""
    activation = named(name)
    if activation.code in ROWWISE:
        raise ValueError(f"{name} works along rows and can't be fused; call activation_forward after the product")
    return activation


def literal(name, find=named):
    """The activation that nopython code names by a string literal."""
    value = getattr(name, "literal_value", getattr(name, "value", name))
    if isinstance(value, str):
        return find(value)
    raise errors.TypingError("activation must be a string literal in nopython code, such as activation='relu'")


def activation_forward(x, out, activation):
    """out = f(x), elementwise or along rows (softmax, log_softmax).

    Parameters
    ----------
    x : (n, o) or (o,) float32 or float64, any strides
    out : same shape and dtype, overwritten; may be `x` itself
    activation : str
        A name in ACTIVATIONS, which has the numbers in its formula too; the formulas are in the module's docstring.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfc.kernels import activation_forward
    >>> y = np.empty(3)
    >>> activation_forward(np.array([-1.0, 0.0, 2.0]), y, "relu")
    >>> y.tolist()
    [0.0, 0.0, 2.0]
    """
    _activation_forward.call(as_rows(x), as_rows(out), *named(activation))


def activation_backward(output, grad_output, out, activation):
    """out = dL/dz from what a layer y = f(z) keeps and grad_output = dL/dy.

    Parameters
    ----------
    output : (n, o) or (o,) float32 or float64, any strides
        y; but z for an activation whose derivative is in terms of z, see `of_input`.
    grad_output : same shape and dtype, any strides
    out : same shape and dtype, overwritten; may be `grad_output` itself
    activation : str
        A name in ACTIVATIONS, which has the numbers in its formula too; the formulas are in the module's docstring.

    Notes
    -----
    The derivative of relu at 0 is 0, as in PyTorch and JAX.
    """
    _activation_backward.call(as_rows(output), as_rows(grad_output), as_rows(out), *named(activation))


@njit
def nothing_to_load(like):
    pass


load_others = loaded(apply_other, derive_other)


def load_for(code):
    """What code with this activation calls to have it loaded."""
    return load_others if code in OTHERS else nothing_to_load


@overload(as_rows)
def nopython_as_rows(x):
    if x.ndim == 1:
        return lambda x: np.expand_dims(x, 0)
    return lambda x: x


@overload(activation_forward, prefer_literal=True)
def nopython_forward(x, out, activation):
    code, a, b = literal(activation)
    load = load_for(code)

    def run(x, out, activation):
        load(out)
        check(_activation_forward(as_rows(x), as_rows(out), code, a, b))

    return run


@overload(activation_backward, prefer_literal=True)
def nopython_backward(output, grad_output, out, activation):
    code, a, b = literal(activation)
    load = load_for(code)

    def run(output, grad_output, out, activation):
        load(out)
        check(_activation_backward(as_rows(output), as_rows(grad_output), as_rows(out), code, a, b))

    return run


def function(name, formula, code):
    """A function of (x, out), for Python and nopython code."""

    def run(x, out):
        _activation_forward.call(as_rows(x), as_rows(out), code, 0.0, 0.0)

    run.__name__ = run.__qualname__ = name
    run.__doc__ = f"out = {formula}, elementwise, at most 4 ulp from exact; arguments as for activation_forward."

    load = load_for(code)

    @overload(run)
    def nopython(x, out):
        def compiled(x, out):
            load(out)
            check(_activation_forward(as_rows(x), as_rows(out), code, 0.0, 0.0))

        return compiled

    return run


exp = function("exp", "eˣ", EXP)
expm1 = function("expm1", "eˣ − 1", EXPM1)
log = function("log", "log x", LOG)
log1p = function("log1p", "log(1 + x)", LOG1P)
tanh = function("tanh", "tanh x", TANH)
erf = function("erf", "2/√π ∫ e^(−t²) dt from 0 to x", ERF)
