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
    sin           y = sin z                             f′ = cos z
    cos           y = cos z                             f′ = −sin z
    smooth_clip   y = z / √(1 + (z / a)²)               f′ = (1 + (z / a)²)^(−3/2)

and along rows, with the gradient g = dL/dy of the loss:

    softmax       yᵢ = e^zᵢ / Σ e^zⱼ                    dL/dzᵢ = yᵢ (gᵢ − Σ gⱼ yⱼ)
    log_softmax   yᵢ = zᵢ − log Σ e^zⱼ                  dL/dzᵢ = gᵢ − e^yᵢ Σ gⱼ
"""

from collections import namedtuple

import numpy as np
from llvmlite import ir
from numba import types

from fastfc.kernels.runtime.dispatch import DispatchTable, IRKernel
from fastfc.kernels.runtime.linkage import call_at
from fastfc.kernels.runtime.native import CompiledKernel, named_after
from fastfc.kernels.runtime.status import OK
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.elementary import (
    exp_below,
    exp_of_minus_rounded,
    exp_vector,
    expm1_below,
    expm1_vector,
    log1p_to_one,
    log_normal,
    maximum,
    minimum,
    normal_vector,
    sigmoid_and_slope,
    sigmoid_vector,
    softplus_vector,
    tanh_vector,
)
from fastfc.kernels.simd.formula import Operand, Rows, each_register, formula, number_of_parameters
from fastfc.kernels.simd.llvm import I64
from fastfc.kernels.simd.memory import at, itemsize
from fastfc.kernels.simd.trigonometric import cos_vector, sin_vector
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
    square_root,
    store,
    store_first,
    sum_of_lanes,
    where_less,
    where_less_equal,
    width,
)

DERIVATIVE = 1000  # added to a code: not the activation but the product with its derivative

# A function by its code, and the numbers in its formula, 0 where it has none.
Activation = namedtuple("Activation", ["code", "a", "b"])
activation_type = types.NamedTuple([types.int64, types.float64, types.float64], Activation)
NUMBERS = activation_type.types  # of a kernel that is called from Python, where each argument is one number
ACTIVATIONS: dict[str, Activation] = {}
# codes of derivatives in terms of the input, and of functions along rows
OF_INPUT: set[int] = set()
ROWWISE: set[int] = set()

# out[j] = f(x[j]) for j < count, neighbours in memory; out may be x
FORWARD = DispatchTable(
    "activations",
    lambda dtype: types.int64(*[types.CPointer(dtype)] * 2, types.int64, *[types.float64] * 2),
)
# out[j] = g[j] f′, f′ in terms of what is kept; out may be g
BACKWARD = DispatchTable(
    "activation_derivatives",
    lambda dtype: types.int64(*[types.CPointer(dtype)] * 3, types.int64, *[types.float64] * 2),
)
run_forward, require_forward, run_backward, require_backward = (
    FORWARD.call,
    FORWARD.require,
    BACKWARD.call,
    BACKWARD.require,
)

# G. Klambauer, T. Unterthiner, A. Mayr, S. Hochreiter, "Self-normalizing neural networks", NeurIPS 2017
SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
SELU_BELOW = SELU_ALPHA * SELU_SCALE
SELU_BELOW_REST = by_dtype(float32=2.329668e-08, float64=0.0)  # what float32 leaves of it
# D. Hendrycks, K. Gimpel, "Gaussian error linear units (GELUs)", 2016: v = TWICE_ROOT (z + CUBIC z³)
TWICE_ROOT, CUBIC = 1.5957691216057308, 0.044715
DENSITY = 0.3989422804014327  # of the normal distribution at 0
# a number whose square is finite, and the cube of whose inverse is 0
FARTHEST = by_dtype(float32=2.0**60, float64=2.0**500)


def of_input(activation):
    """Whether the derivative is in terms of z, not of y = f(z)."""
    return activation.code in OF_INPUT or (activation.code == LEAKY_RELU and activation.a < 0)


def map_registers(rule, number_of_inputs):
    """The emitter of out[j] = rule(x[j], ...) for one or two inputs; after them come the numbers in the formula."""

    def emit(builder, *args):
        *pointers, count, a, b = args
        *inputs, out = [Rows(builder, pointer) for pointer in pointers]
        numbers = [Operand(builder, number) for number in (a, b)][: number_of_parameters(rule) - number_of_inputs]
        each_register(
            builder,
            count,
            out.vector,
            lambda position: out.write(position, rule(*(x.read(position) for x in inputs), *numbers)),
        )
        return ir.Constant(I64, OK)

    return emit


def elementwise_function(name, rule, derivative=None):
    """Declare a function of one number by a formula, and its product with g by another; its code."""
    code = len(FORWARD.kernels)
    functions = [(FORWARD, code, map_registers(rule, 1))]
    if derivative is not None:
        functions.append((BACKWARD, code, map_registers(derivative, 2)))
    IRKernel(f"activation_{name}", functions)
    return code


def activation(name, rule, derivative, a=0.0, b=0.0, of_input=False):
    """Declare an elementwise activation; its code.

    Parameters
    ----------
    name : str
    rule : function
        f(z), or with the numbers in the formula f(z, a) or f(z, a, b), of operands.
    derivative : function
        g f′ of y = f(z), or of z if `of_input`, and g, and of the same numbers.
    a, b : float
        The numbers unless others are given.
    """
    code = elementwise_function(name, rule, derivative)
    ACTIVATIONS[name] = Activation(code, a, b)
    if of_input:
        OF_INPUT.add(code)
    return code


def nopython_function(name, forward, backward):
    """Declare a function by two nopython functions, with the arguments of the tables; its code."""
    code = len(FORWARD.kernels)
    for table, f, what in ((FORWARD, forward, "forward"), (BACKWARD, backward, "backward")):
        f.__name__ = f.__qualname__ = f"activation_{name}_{what}"
        table.add(code, CompiledKernel(f, table.signature, optional=True, slots=table.slot(code)))
    return code


def row_activation(name, function, derivative):
    """Declare an activation along rows by two nopython functions: (x, out, count) and (count, y, g, out); its code."""

    def forward(x, out, count, a, b):
        function(x, out, count)
        return OK

    def backward(y, g, out, count, a, b):
        derivative(count, y, g, out)
        return OK

    code = nopython_function(name, forward, backward)
    ACTIVATIONS[name] = Activation(code, 0.0, 0.0)
    ROWWISE.add(code)
    return code


def identity(x):
    return x


def identity_derivative(y, g):
    return g


IDENTITY = activation("identity", identity, identity_derivative)
NONE = Activation(IDENTITY, 0.0, 0.0)


def relu(x):
    return maximum(x, 0.0)


def relu_derivative(y, g):
    return where_less_equal(y, 0.0, 0.0, g)


RELU = activation("relu", relu, relu_derivative)


def leaky_relu(z, a):
    return where_less(0.0, z, z, z * a)


def leaky_relu_derivative(y, g, a):
    return where_less(0.0, y, g, g * a)


LEAKY_RELU = activation("leaky_relu", leaky_relu, leaky_relu_derivative, a=0.01)


def sigmoid_derivative(y, g):
    return g * (y * (1.0 - y))


activation("sigmoid", sigmoid_vector, sigmoid_derivative)


def log_sigmoid(z):
    return minimum(z, 0.0) - log1p_to_one(exp_of_minus_rounded(z))


def log_sigmoid_derivative(y, g):
    return g * (0.0 - expm1_below(y))


activation("log_sigmoid", log_sigmoid, log_sigmoid_derivative)


def tanh_derivative(y, g):
    return g * (1.0 - y * y)


TANH = activation("tanh", tanh_vector, tanh_derivative)


def hardtanh(z, a, b):
    return minimum(maximum(z, a), b)


def hardtanh_derivative(y, g, a, b):
    return where_less(a, y, where_less(y, b, g, 0.0), 0.0)


HARDTANH = activation("hardtanh", hardtanh, hardtanh_derivative, a=-1.0, b=1.0)
ACTIVATIONS["relu6"] = Activation(HARDTANH, 0.0, 6.0)


def elu(z, a, b):
    return where_less_equal(z, 0.0, expm1_vector(z * b) * a, z)


def elu_derivative(z, g, a, b):
    return where_less(0.0, z, g, g * (exp_vector(z * b) * (a * b)))


ELU = activation("elu", elu, elu_derivative, a=1.0, b=1.0, of_input=True)


def selu(z):
    below = expm1_vector(z)
    return where_less_equal(z, 0.0, fma(below, SELU_BELOW, below * SELU_BELOW_REST(z)), z * SELU_SCALE)


def selu_derivative(z, g):
    return g * where_less(0.0, z, SELU_SCALE, exp_vector(z) * SELU_BELOW)


activation("selu", selu, selu_derivative, of_input=True)
ACTIVATIONS["celu"] = Activation(ELU, 1.0, 1.0)


def softplus(z, a, b):
    scaled = z * a
    return where_less(b, scaled, z, softplus_vector(scaled) / a)


def softplus_derivative(z, g, a, b):
    scaled = z * a
    return where_less(b, scaled, g, g * sigmoid_vector(scaled))


activation("softplus", softplus, softplus_derivative, a=1.0, b=20.0, of_input=True)


def softsign(z):
    return z / (absolute(z) + 1.0)


def softsign_derivative(z, g):
    slope = 1.0 / (absolute(z) + 1.0)
    # NaN at infinity, as y is
    return g * fma(z, 0.0, slope * slope)


activation("softsign", softsign, softsign_derivative, of_input=True)


def hardsigmoid(z):
    return minimum(maximum(z + 3.0, 0.0), 6.0) / 6.0


def hardsigmoid_derivative(z, g):
    return where_less(absolute(z), 3.0, g * (1.0 / 6.0), 0.0)


activation("hardsigmoid", hardsigmoid, hardsigmoid_derivative, of_input=True)


def hardswish(z):
    return z * (minimum(maximum(z + 3.0, 0.0), 6.0) / 6.0)


def hardswish_derivative(z, g):
    return where_less_equal(z, -3.0, 0.0, where_less_equal(3.0, z, g, g * (z / 3.0 + 0.5)))


activation("hardswish", hardswish, hardswish_derivative, of_input=True)


def silu(z):
    return z / (exp_vector(0.0 - z) + 1.0)


def silu_derivative(z, g):
    s, slope = sigmoid_and_slope(z)
    return g * fma(z, slope, s)


activation("silu", silu, silu_derivative, of_input=True)


def gelu(z):
    below, _ = normal_vector(z)
    return z * below


def gelu_derivative(z, g):
    below, e = normal_vector(z)
    return g * fma(z, e * DENSITY, below)


activation("gelu", gelu, gelu_derivative, of_input=True)


def gelu_tanh(z):
    return z * sigmoid_vector(z * fma(z * z, TWICE_ROOT * CUBIC, TWICE_ROOT))


def gelu_tanh_derivative(z, g):
    square = z * z
    s, slope = sigmoid_and_slope(z * fma(square, TWICE_ROOT * CUBIC, TWICE_ROOT))
    return g * fma(z * slope, fma(square, 3.0 * TWICE_ROOT * CUBIC, TWICE_ROOT), s)


activation("gelu_tanh", gelu_tanh, gelu_tanh_derivative, of_input=True)


def mish_parts(z):
    """e^−|z|, and ω = tanh(log(1 + eᶻ)) as a quotient, both by e²ᶻ for z > 0."""
    e = exp_of_minus_rounded(z)
    above = where_less(z, 0.0, fma(e, e, e * 2.0), fma(e, 2.0, 1.0))
    return e, above, above + where_less(z, 0.0, 2.0, e * e * 2.0)


def mish(z):
    e, above, below = mish_parts(z)
    inverse = 1.0 / below
    quotient = above * inverse
    # for z < 0, what rounding lost of both
    lost = (fma(0.0 - quotient, below, above) + fma(e, e, e * 2.0 - above)) * inverse
    return fma(z, quotient, minimum(z, 0.0) * lost)


def mish_derivative(z, g):
    e, above, below = mish_parts(z)
    inverse = 1.0 / below
    slope = fma(e, 4.0, 4.0) * where_less(z, 0.0, e, e * e) * inverse * inverse
    return g * fma(z, slope, above * inverse)


activation("mish", mish, mish_derivative, of_input=True)


def sin_derivative(z, g):
    return g * cos_vector(z)


def cos_derivative(z, g):
    return g * (0.0 - sin_vector(z))


SIN = activation("sin", sin_vector, sin_derivative, of_input=True)
COS = activation("cos", cos_vector, cos_derivative, of_input=True)


def smooth_clip_parts(z, a):
    """r = z / a, but no further from 0 than where the quotient below is 1, and √(1 + r²)."""
    ratio = z / a
    ratio = minimum(maximum(ratio, 0.0 - FARTHEST(ratio)), FARTHEST(ratio))
    return ratio, square_root(fma(ratio, ratio, 1.0))


def smooth_clip(z, a):
    ratio, root = smooth_clip_parts(z, a)
    return ratio / root * a


def smooth_clip_derivative(z, g, a):
    _, root = smooth_clip_parts(z, a)
    return g * (1.0 / root / root / root)


activation("smooth_clip", smooth_clip, smooth_clip_derivative, a=3.0, of_input=True)


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


@formula
def larger(a, b):
    return where_less(a, b, b, a)


@formula
def add(a, b):
    return a + b


largest_of, total_of = fold(larger, -np.inf), fold(add, 0.0)


@helper
def sum_of(count, x):
    return sum_of_lanes(total_of(count, x, splat(x, 0.0)))


@formula
def less_share(y, g, total):
    return g - exp_below(y) * total


@helper
def largest(count, x):
    return largest_lane(largest_of(count, x, splat(x, -infinity(x))))


@helper
def softmax_row(count, x, out, scale):
    """out = scale e^(x − max x) / Σ; returns max x and Σ, as log Σ eˣ = max x + log Σ."""
    size, lanes, top, total = itemsize(x), width(x), largest(count, x), splat(x, 0.0)
    n_left = count % lanes
    whole = count - n_left
    for j in range(0, whole, lanes):
        e = exp_below(load(at(x, j * size)) - top)
        store(at(out, j * size), e)
        total = total + e
    # stays in a register: what a masked store wrote can't be loaded before it is in the cache
    last = exp_below(load_first(at(x, whole * size), n_left, -np.inf) - top)
    denominator = sum_of_lanes(total + last)
    factor = scale / denominator
    for j in range(0, whole, lanes):
        src = at(out, j * size)
        store(src, load(src) * factor)
    store_first(at(out, whole * size), last * factor, n_left)
    return top, denominator


@helper
def softmax_derivative_row(count, y, g, out):
    size, lanes, total = itemsize(y), width(y), splat(y, 0.0)
    n_left = count % lanes
    whole = count - n_left
    end = whole * size
    for j in range(0, whole, lanes):
        total = fma(load(at(y, j * size)), load(at(g, j * size)), total)
    last, last_g = load_first(at(y, end), n_left, 0.0), load_first(at(g, end), n_left, 0.0)
    mean = sum_of_lanes(fma(last, last_g, total))
    for j in range(0, whole, lanes):
        store(at(out, j * size), load(at(y, j * size)) * (load(at(g, j * size)) - mean))
    store_first(at(out, end), last * (last_g - mean), n_left)


@helper
def log_softmax_row(count, x, out):
    size, lanes, top, total = itemsize(x), width(x), largest(count, x), splat(x, 0.0)
    n_left = count % lanes
    whole = count - n_left
    for j in range(0, whole, lanes):
        total = total + exp_below(load(at(x, j * size)) - top)
    last = load_first(at(x, whole * size), n_left, -np.inf) - top
    rest = lane(log_normal(splat(x, sum_of_lanes(total + exp_below(last)))), 0)
    for j in range(0, whole, lanes):
        store(at(out, j * size), load(at(x, j * size)) - top - rest)
    store_first(at(out, whole * size), last - rest, n_left)


@helper
def log_softmax_derivative_row(count, y, g, out):
    size, lanes, total = itemsize(y), width(y), sum_of(count, g)
    n_left = count % lanes
    end = (count - n_left) * size
    for j in range(0, end, lanes * size):
        store(at(out, j), less_share(load(at(y, j)), load(at(g, j)), total))
    if n_left:
        last = less_share(load_first(at(y, end), n_left, 0.0), load_first(at(g, end), n_left, 0.0), total)
        store_first(at(out, end), last, n_left)


@helper
def softmax_forward(x, out, count):
    softmax_row(count, x, out, 1.0)


@helper
def log_softmax_forward(x, out, count):
    log_softmax_row(count, x, out)


def custom_forward(x, out, count, a, b):
    call_at(a, x, (count, x, x, out, 1))
    return OK


def custom_backward(x, g, out, count, a, b):
    call_at(b, x, (count, x, g, out, 0))
    return OK


SOFTMAX = row_activation("softmax", softmax_forward, softmax_derivative_row)
LOG_SOFTMAX = row_activation("log_softmax", log_softmax_forward, log_softmax_derivative_row)
CUSTOM = nopython_function("custom", custom_forward, custom_backward)  # a and b are addresses, see linkage.call_at
OF_INPUT.add(CUSTOM)
