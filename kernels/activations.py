"""Activation functions and their derivatives, on vectors, rows and matrices.

Elementwise, with y = f(z) and f′ written in terms of y, which is what a layer keeps:

    identity   y = z                f′ = 1
    relu       y = max(z, 0)        f′ = 1 if y > 0 else 0
    sigmoid    y = 1 / (1 + e⁻ᶻ)    f′ = y (1 − y)
    tanh       y = tanh z           f′ = 1 − y²

and along rows, with the gradient g = dL/dy of the loss:

    softmax    yᵢ = e^zᵢ / Σ e^zⱼ   dL/dzᵢ = yᵢ (gᵢ − Σ gⱼ yⱼ)
"""

from collections import namedtuple

import numpy as np
from numba import njit, types
from numba.core import errors
from numba.extending import overload

from fastfc.kernels.edge import BAD_SHAPE, OK, OVERLAP, check, kernel, native, overlaps, same
from fastfc.kernels.simd import (
    absolute,
    at,
    by_dtype,
    copysign,
    fma,
    infinity,
    itemsize,
    lane,
    load,
    load_first,
    pointer,
    polynomial,
    power_of_two,
    splat,
    store,
    store_first,
    where_less,
    where_less_equal,
    width,
)

IDENTITY, RELU, SIGMOID, TANH, SOFTMAX, EXP = range(6)
DERIVATIVE = 1000  # added to a code: not the activation but the product with its derivative

# A function by its code, and the numbers in its formula, 0 where it has none.
Activation = namedtuple("Activation", ["code", "a", "b"])
activation_type = types.NamedTuple([types.int64, types.float64, types.float64], Activation)
NUMBERS = activation_type.types  # of a kernel that is called from Python, where each argument is one number
NONE = Activation(IDENTITY, 0.0, 0.0)

FUSED = {
    "identity": NONE,
    "relu": Activation(RELU, 0.0, 0.0),
    "sigmoid": Activation(SIGMOID, 0.0, 0.0),
    "tanh": Activation(TANH, 0.0, 0.0),
}
ACTIVATIONS = {**FUSED, "softmax": Activation(SOFTMAX, 0.0, 0.0)}

# (eʳ − 1 − r) / r² on |r| <= ln(2) / 2, interpolated at Chebyshev nodes:
# relative error of eʳ 5e-9 (float32) and 2e-17 (float64)
exp_tail = polynomial(
    {
        "float32": (0.5, 0.1666657702559799, 0.041666554662050534, 0.008363173074513711, 0.001392617611993558),
        "float64": (
            0.5000000000000001,
            0.16666666666666669,
            0.041666666666624164,
            0.008333333333330065,
            0.0013888888917196719,
            0.00019841269863040545,
            2.4801521322368692e-05,
            2.7557268480310024e-06,
            2.7620075879983367e-07,
            2.5100375832561234e-08,
        ),
    }
)
LOG2_E = 1.4426950408889634
# ln 2 in two parts; the first has so few bits that n times it is exact
LN2_HIGH = by_dtype(float32=0.693145751953125, float64=6.93147180369123816490e-01)
LN2_LOW = by_dtype(float32=1.42860682030941723212e-6, float64=1.90821492927058770002e-10)
# adding it rounds to an integer, which then stands in the lowest bits of the mantissa
ROUND = by_dtype(float32=1.5 * 2**23, float64=1.5 * 2**52)
# e^x is 0 below, infinite above
EXP_LOWEST = by_dtype(float32=-104.0, float64=-746.0)
EXP_HIGHEST = by_dtype(float32=89.0, float64=710.0)


@njit
def split_exponent(x):
    """n + ROUND, n and eʳ − 1 with x = n ln 2 + r, |r| <= ln(2) / 2 (Cody and Waite's reduction)."""
    shifted = fma(x, LOG2_E, ROUND(x))
    n = shifted - ROUND(x)
    r = fma(n, 0.0 - LN2_LOW(x), fma(n, 0.0 - LN2_HIGH(x), x))
    return shifted, n, fma(r * r, exp_tail(r), r)


@njit
def exp_vector(x):
    x = where_less(x, EXP_LOWEST(x), EXP_LOWEST(x), x)
    x = where_less(EXP_HIGHEST(x), x, EXP_HIGHEST(x), x)
    _, n, q = split_exponent(x)
    # 2ⁿ in two factors: it may be out of range where eˣ is not
    shifted = fma(n, 0.5, ROUND(x))
    rest = n - (shifted - ROUND(x))
    return (q + 1.0) * power_of_two(shifted) * power_of_two(rest + ROUND(x))


@njit
def tanh_vector(x):
    """(e²ˣ − 1) / (e²ˣ + 1), by e²ˣ − 1 so that small x keep all their digits."""
    twice = absolute(x) * 2.0
    shifted, _, q = split_exponent(where_less(40.0, twice, 40.0, twice))
    power = power_of_two(shifted)
    less_one = fma(power, q, power - 1.0)
    return copysign(less_one / (less_one + 2.0), x)


@njit
def sigmoid_vector(x):
    e = exp_vector(0.0 - absolute(x))
    return where_less(x, 0.0, e, 1.0) / (e + 1.0)


def rowwise(f):
    """out[j] = f(x[j]) for j < count, neighbours in memory."""

    @njit
    def map_row(count, x, out):
        size, lanes = itemsize(x), width(x)
        whole = count - count % lanes
        for j in range(0, whole, lanes):
            store(at(out, j * size), f(load(at(x, j * size))))
        if whole < count:
            end, some = whole * size, count - whole
            store_first(at(out, end), f(load_first(at(x, end), some, 0.0)), some)

    return map_row


def rowwise_pair(f):
    """out[j] = f(y[j], g[j]) for j < count, neighbours in memory."""

    @njit
    def map_row(count, y, g, out):
        size, lanes = itemsize(y), width(y)
        whole = count - count % lanes
        for j in range(0, whole, lanes):
            store(at(out, j * size), f(load(at(y, j * size)), load(at(g, j * size))))
        if whole < count:
            end, some = whole * size, count - whole
            store_first(at(out, end), f(load_first(at(y, end), some, 0.0), load_first(at(g, end), some, 0.0)), some)

    return map_row


@rowwise
@njit
def identity_row(x):
    return x


@rowwise
@njit
def relu_row(x):
    return where_less(x, 0.0, 0.0, x)


exp_row, sigmoid_row, tanh_row = rowwise(exp_vector), rowwise(sigmoid_vector), rowwise(tanh_vector)


@rowwise_pair
@njit
def relu_derivative_row(y, g):
    return where_less_equal(y, 0.0, 0.0, g)


@rowwise_pair
@njit
def sigmoid_derivative_row(y, g):
    return g * (y * (1.0 - y))


@rowwise_pair
@njit
def tanh_derivative_row(y, g):
    return g * (1.0 - y * y)


@njit
def sum_lanes(vector, like):
    total = lane(vector, 0)
    for i in range(1, width(like)):
        total += lane(vector, i)
    return total


@njit
def softmax_row(count, x, out):
    """out = e^(x − max x) / Σ; returns max x and Σ, as log Σ eˣ = max x + log Σ."""
    size, lanes = itemsize(x), width(x)
    largest = splat(x, -infinity(x))
    for j in range(0, count, lanes):
        v = load_first(at(x, j * size), count - j, -infinity(x))
        largest = where_less(largest, v, v, largest)
    top = lane(largest, 0)
    for i in range(1, lanes):
        top = max(top, lane(largest, i))
    total = splat(x, 0.0)
    for j in range(0, count, lanes):
        e = exp_vector(load_first(at(x, j * size), count - j, -infinity(x)) - top)
        store_first(at(out, j * size), e, count - j)
        total = total + e
    denominator = sum_lanes(total, x)
    for j in range(0, count, lanes):
        store_first(at(out, j * size), load_first(at(out, j * size), count - j, 0.0) / denominator, count - j)
    return top, denominator


@njit
def softmax_derivative_row(count, y, g, out):
    size, lanes = itemsize(y), width(y)
    dots = splat(y, 0.0)
    for j in range(0, count, lanes):
        some = count - j
        dots = fma(load_first(at(y, j * size), some, 0.0), load_first(at(g, j * size), some, 0.0), dots)
    dot = sum_lanes(dots, y)
    for j in range(0, count, lanes):
        some = count - j
        value = load_first(at(y, j * size), some, 0.0) * (load_first(at(g, j * size), some, 0.0) - dot)
        store_first(at(out, j * size), value, some)


@native(lambda dtype: types.int64(types.CPointer(dtype), types.CPointer(dtype), types.int64, activation_type))
def apply(x, out, count, activation):
    """out[j] = f(x[j]) for j < count, neighbours in memory; out may be x."""
    code = activation.code
    if code == RELU:
        relu_row(count, x, out)
    elif code == SIGMOID:
        sigmoid_row(count, x, out)
    elif code == TANH:
        tanh_row(count, x, out)
    elif code == SOFTMAX:
        softmax_row(count, x, out)
    elif code == EXP:
        exp_row(count, x, out)
    else:
        identity_row(count, x, out)
    return OK


@native(lambda dtype: types.int64(*[types.CPointer(dtype)] * 3, types.int64, activation_type))
def apply_derivative(y, g, out, count, activation):
    """out[j] = g[j] f′, f′ in terms of y[j] = f(z[j]), for j < count, neighbours in memory; out may be g."""
    code = activation.code
    if code == RELU:
        relu_derivative_row(count, y, g, out)
    elif code == SIGMOID:
        sigmoid_derivative_row(count, y, g, out)
    elif code == TANH:
        tanh_derivative_row(count, y, g, out)
    elif code == SOFTMAX:
        softmax_derivative_row(count, y, g, out)
    else:
        identity_row(count, g, out)
    return OK


@njit
def neighbours(x, axis):
    """Whether the elements along an axis are neighbours in memory."""
    return x.strides[axis] == x.itemsize


@kernel("x[n, o] -> out[n, o]", *NUMBERS, in_place="x")
def _activation_forward(x, out, code, a, b):
    if x.shape != out.shape:
        return BAD_SHAPE
    if overlaps(x, out) and not same(x, out):
        return OVERLAP
    activation, (n, o) = Activation(code, a, b), x.shape
    along = -1
    if code != SOFTMAX and neighbours(x, 0) and neighbours(out, 0):
        along = 0
    elif neighbours(x, 1) and neighbours(out, 1):
        along = 1
    if along >= 0:
        across = 1 - along
        for i in range(x.shape[across]):
            here, there = at(pointer(x), i * x.strides[across]), at(pointer(out), i * out.strides[across])
            apply(here, there, x.shape[along], activation)
    else:
        row = np.empty(o, out.dtype)
        for i in range(n):
            row[:] = x[i]
            apply(pointer(row), pointer(row), o, activation)
            out[i] = row
    return OK


@kernel("output[n, o], grad_output[n, o] -> out[n, o]", *NUMBERS, in_place="grad_output")
def _activation_backward(output, grad_output, out, code, a, b):
    if output.shape != out.shape or grad_output.shape != out.shape:
        return BAD_SHAPE
    if overlaps(output, out) or (overlaps(grad_output, out) and not same(grad_output, out)):
        return OVERLAP
    activation, (n, o) = Activation(code, a, b), out.shape
    along = -1
    if code != SOFTMAX and neighbours(output, 0) and neighbours(grad_output, 0) and neighbours(out, 0):
        along = 0
    elif neighbours(output, 1) and neighbours(grad_output, 1) and neighbours(out, 1):
        along = 1
    if along >= 0:
        across = 1 - along
        for i in range(out.shape[across]):
            y = at(pointer(output), i * output.strides[across])
            g = at(pointer(grad_output), i * grad_output.strides[across])
            apply_derivative(y, g, at(pointer(out), i * out.strides[across]), out.shape[along], activation)
    else:
        y_row, g_row = np.empty(o, out.dtype), np.empty(o, out.dtype)
        for i in range(n):
            y_row[:] = output[i]
            g_row[:] = grad_output[i]
            apply_derivative(pointer(y_row), pointer(g_row), pointer(g_row), o, activation)
            out[i] = g_row
    return OK


def as_rows(x):
    """A vector as a matrix of one row, anything else as it is."""
    if isinstance(x, np.ndarray):
        return x[np.newaxis] if x.ndim == 1 else x
    return [x] if np.ndim(x) == 1 else x


def named(name):
    """The activation of that name; ValueError for an unknown one."""
    try:
        return ACTIVATIONS[name]
    except (KeyError, TypeError):
        raise ValueError(f"unknown activation {name!r}; there are: {', '.join(ACTIVATIONS)}") from None


def fused(name):
    """An elementwise activation by its name, which can follow a product in registers."""
    try:
        return FUSED[name]
    except (KeyError, TypeError):
        if name == "softmax":
            raise ValueError(
                "softmax works along rows and can't be fused; call activation_forward after the product"
            ) from None
        return named(name)


def literal(name, find=named):
    """The activation that nopython code names by a string literal."""
    value = getattr(name, "literal_value", getattr(name, "value", name))
    if isinstance(value, str):
        return find(value)
    raise errors.TypingError("activation must be a string literal in nopython code, such as activation='relu'")


def activation_forward(x, out, activation):
    """out = f(x), elementwise or along rows (softmax).

    Parameters
    ----------
    x : (n, o) or (o,) float32 or float64, any strides
    out : same shape and dtype, overwritten; may be `x` itself
    activation : "identity", "relu", "sigmoid", "tanh" or "softmax"

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
    """out = dL/dz from output = f(z) and grad_output = dL/d(output).

    Parameters
    ----------
    output, grad_output : (n, o) or (o,) float32 or float64, any strides
    out : same shape and dtype, overwritten; may be `grad_output` itself
    activation : "identity", "relu", "sigmoid", "tanh" or "softmax"

    Notes
    -----
    The derivative of relu at 0 is 0, as in PyTorch and JAX.
    """
    _activation_backward.call(as_rows(output), as_rows(grad_output), as_rows(out), *named(activation))


def exp(x, out):
    """out = eˣ, elementwise, at most 4 ulp from exact; arguments as for activation_forward."""
    _activation_forward.call(as_rows(x), as_rows(out), EXP, 0.0, 0.0)


def tanh(x, out):
    """out = tanh x, elementwise, at most 4 ulp from exact; arguments as for activation_forward."""
    _activation_forward.call(as_rows(x), as_rows(out), TANH, 0.0, 0.0)


@overload(as_rows)
def nopython_as_rows(x):
    if x.ndim == 1:
        return lambda x: np.expand_dims(x, 0)
    return lambda x: x


@overload(activation_forward, prefer_literal=True)
def nopython_forward(x, out, activation):
    code, a, b = literal(activation)
    return lambda x, out, activation: check(_activation_forward(as_rows(x), as_rows(out), code, a, b))


@overload(activation_backward, prefer_literal=True)
def nopython_backward(output, grad_output, out, activation):
    code, a, b = literal(activation)

    def run(output, grad_output, out, activation):
        check(_activation_backward(as_rows(output), as_rows(grad_output), as_rows(out), code, a, b))

    return run


@overload(exp)
def nopython_exp(x, out):
    return lambda x, out: check(_activation_forward(as_rows(x), as_rows(out), EXP, 0.0, 0.0))


@overload(tanh)
def nopython_tanh(x, out):
    return lambda x, out: check(_activation_forward(as_rows(x), as_rows(out), TANH, 0.0, 0.0))
