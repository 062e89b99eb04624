"""Activations of matrices, forward and backward: the functions of `fastfc.kernels`; see activation_rules.py."""

import contextlib

import numpy as np
from numba import types
from numba.core import errors
from numba.extending import overload

from fastfc.kernels.ops.activation_rules import (
    ACTIVATIONS,
    CUSTOM,
    ELU,
    ERF,
    EXP,
    EXPM1,
    GELU,
    GELU_TANH,
    HARDSIGMOID,
    HARDSWISH,
    HARDTANH,
    IDENTITY,
    LAZY,
    LEAKY_RELU,
    LOG,
    LOG1P,
    LOG_SIGMOID,
    LOG_SOFTMAX,
    MISH,
    NUMBERS,
    RELU,
    ROWWISE,
    SELU,
    SIGMOID,
    SILU,
    SOFTMAX,
    SOFTPLUS,
    SOFTSIGN,
    TANH,
    Activation,
    activation_type,
    elu_derivative_row,
    elu_row,
    erf_row,
    exp_row,
    expm1_row,
    gelu_derivative_row,
    gelu_row,
    gelu_tanh_derivative_row,
    gelu_tanh_row,
    hardsigmoid_derivative_row,
    hardsigmoid_row,
    hardswish_derivative_row,
    hardswish_row,
    hardtanh_derivative_row,
    hardtanh_row,
    identity_row,
    leaky_relu_derivative_row,
    leaky_relu_row,
    log1p_row,
    log_row,
    log_sigmoid_derivative_row,
    log_sigmoid_row,
    log_softmax_derivative_row,
    log_softmax_row,
    mish_derivative_row,
    mish_row,
    relu_derivative_row,
    relu_row,
    selu_derivative_row,
    selu_row,
    sigmoid_derivative_row,
    sigmoid_row,
    silu_derivative_row,
    silu_row,
    softmax_derivative_row,
    softmax_row,
    softplus_derivative_row,
    softplus_row,
    softsign_derivative_row,
    softsign_row,
    tanh_derivative_row,
    tanh_row,
)
from fastfc.kernels.runtime.kernel import kernel
from fastfc.kernels.runtime.linkage import call_at
from fastfc.kernels.runtime.native import compiled_kernel, requires
from fastfc.kernels.runtime.overlap import overlaps, same
from fastfc.kernels.runtime.status import BAD_SHAPE, NO_MEMORY, OK, OVERLAP, check
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import allocate, at, is_null, pointer, read, release, write


@compiled_kernel(
    lambda dtype: types.int64(types.CPointer(dtype), types.CPointer(dtype), types.int64, activation_type), optional=True
)
def apply_lazy(x, out, count, activation):
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


@compiled_kernel(lambda dtype: types.int64(types.CPointer(dtype), types.CPointer(dtype), types.int64, activation_type))
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
        return apply_lazy(x, out, count, activation)
    return OK


@compiled_kernel(lambda dtype: types.int64(*[types.CPointer(dtype)] * 3, types.int64, activation_type), optional=True)
def derive_lazy(saved, g, out, count, activation):
    """`apply_derivative` for those."""
    code, a, b = activation
    if code == LEAKY_RELU:
        leaky_relu_derivative_row(count, saved, g, out, a)
    elif code == LOG_SIGMOID:
        log_sigmoid_derivative_row(count, saved, g, out)
    elif code == HARDTANH:
        hardtanh_derivative_row(count, saved, g, out, a, b)
    elif code == ELU:
        elu_derivative_row(count, saved, g, out, a, b)
    elif code == SELU:
        selu_derivative_row(count, saved, g, out)
    elif code == SOFTPLUS:
        softplus_derivative_row(count, saved, g, out, a, b)
    elif code == SOFTSIGN:
        softsign_derivative_row(count, saved, g, out)
    elif code == HARDSIGMOID:
        hardsigmoid_derivative_row(count, saved, g, out)
    elif code == HARDSWISH:
        hardswish_derivative_row(count, saved, g, out)
    elif code == SILU:
        silu_derivative_row(count, saved, g, out)
    elif code == GELU:
        gelu_derivative_row(count, saved, g, out)
    elif code == GELU_TANH:
        gelu_tanh_derivative_row(count, saved, g, out)
    elif code == MISH:
        mish_derivative_row(count, saved, g, out)
    else:
        log_softmax_derivative_row(count, saved, g, out)
    return OK


@compiled_kernel(lambda dtype: types.int64(*[types.CPointer(dtype)] * 3, types.int64, activation_type))
def apply_derivative(saved, g, out, count, activation):
    """out[j] = g[j] f′, f′ in terms of what is kept, for j < count, neighbours in memory; out may be g."""
    code, _, b = activation
    if code == IDENTITY:
        identity_row(count, g, out)
    elif code == RELU:
        relu_derivative_row(count, saved, g, out)
    elif code == SIGMOID:
        sigmoid_derivative_row(count, saved, g, out)
    elif code == TANH:
        tanh_derivative_row(count, saved, g, out)
    elif code == SOFTMAX:
        softmax_derivative_row(count, saved, g, out)
    elif code == CUSTOM:
        call_at(b, saved, (count, saved, g, out, 0))
    else:
        return derive_lazy(saved, g, out, count, activation)
    return OK


@helper
def unit_stride(x, axis):
    """Whether the elements along an axis are neighbours in memory."""
    return x.strides[axis] == x.itemsize


@helper
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
    along = 0 if elementwise and unit_stride(x, 0) and unit_stride(out, 0) else 1
    count, lines = out.shape[along], out.shape[1 - along]
    step, out_step = x.strides[1 - along], out.strides[1 - along]
    if unit_stride(x, along) and unit_stride(out, along):
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
    columns = unit_stride(output, 0) and unit_stride(grad_output, 0) and unit_stride(out, 0)
    along = 0 if elementwise and columns else 1
    count, lines = out.shape[along], out.shape[1 - along]
    step, grad_step, out_step = output.strides[1 - along], grad_output.strides[1 - along], out.strides[1 - along]
    y, g, result = pointer(output), pointer(grad_output), pointer(out)
    if unit_stride(output, along) and unit_stride(grad_output, along) and unit_stride(out, along):
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


@helper
def nothing_to_load(like):
    pass


require_lazy = requires(apply_lazy, derive_lazy)


def load_for(code):
    """What code with this activation calls to have it loaded."""
    return require_lazy if code in LAZY else nothing_to_load


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
