"""Activations of matrices, forward and backward: the functions of `fastfc.kernels`; see activation_rules.py."""

import contextlib
from typing import Any

import numpy as np
from numba.core import errors
from numba.extending import overload
from numpy.typing import ArrayLike, NDArray

from fastfc.kernels.ops.activation_rules import (
    ACTIVATIONS,
    BACKWARD,
    COS,
    FORWARD,
    IDENTITY,
    LOG_SOFTMAX,
    NUMBERS,
    ROWWISE,
    SIN,
    SOFTMAX,
    TANH,
    Activation,
    elementwise_function,
    require_backward,
    require_forward,
    run_backward,
    run_forward,
)
from fastfc.kernels.runtime.kernel import kernel
from fastfc.kernels.runtime.native import requires
from fastfc.kernels.runtime.overlap import overlaps, same
from fastfc.kernels.runtime.status import BAD_SHAPE, NO_MEMORY, OK, OVERLAP, check
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.elementary import erf_vector, exp_vector, expm1_vector, log1p_vector, log_vector
from fastfc.kernels.simd.memory import allocate, at, is_null, pointer, read, release, write


@helper
def apply(x, out, count, activation):
    """out[j] = f(x[j]) for j < count, neighbours in memory; out may be x."""
    run_forward(activation.code, (x, out, count, activation.a, activation.b))


@helper
def apply_derivative(saved, g, out, count, activation):
    """out[j] = g[j] f′, f′ in terms of what is kept, for j < count, neighbours in memory; out may be g."""
    run_backward(activation.code, (saved, g, out, count, activation.a, activation.b))


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
    require_forward(code, pointer(out))
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
    require_backward(code, pointer(out))
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


def activation_forward(x: ArrayLike, out: NDArray[Any], activation: str) -> None:
    """out = f(x), elementwise or along rows (softmax, log_softmax).

    Parameters
    ----------
    x : (n, o) or (o,) float32 or float64, any strides
    out : same shape and dtype, overwritten; may be `x` itself
    activation : str
        A name in ACTIVATIONS, which has the numbers in its formula too; the formulas are in activation_rules.py.

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


def activation_backward(output: ArrayLike, grad_output: ArrayLike, out: NDArray[Any], activation: str) -> None:
    """out = dL/dz from what a layer y = f(z) keeps and grad_output = dL/dy.

    Parameters
    ----------
    output : (n, o) or (o,) float32 or float64, any strides
        y; but z for an activation whose derivative is in terms of z, see `of_input`.
    grad_output : same shape and dtype, any strides
    out : same shape and dtype, overwritten; may be `grad_output` itself
    activation : str
        A name in ACTIVATIONS, which has the numbers in its formula too; the formulas are in activation_rules.py.

    Notes
    -----
    The derivative of relu at 0 is 0, as in PyTorch and JAX.
    """
    _activation_backward.call(as_rows(output), as_rows(grad_output), as_rows(out), *named(activation))


@helper
def nothing_to_load(like):
    pass


def load_for(code):
    """What code calls to have the activation of its products loaded."""
    return nothing_to_load if code == IDENTITY else requires(*kernels_of(code, FORWARD))


def kernels_of(code, *tables):
    """What computes an activation and its derivative, or one of them."""
    return list({table.kernels[code]: None for table in tables or (FORWARD, BACKWARD) if code in table.kernels})


@overload(as_rows)
def nopython_as_rows(x):
    if x.ndim == 1:
        return lambda x: np.expand_dims(x, 0)
    return lambda x: x


@overload(activation_forward, prefer_literal=True)
def nopython_forward(x, out, activation):
    code, a, b = literal(activation)
    load = requires(*kernels_of(code, FORWARD))

    def run(x, out, activation):
        load(out)
        check(_activation_forward(as_rows(x), as_rows(out), code, a, b))

    return run


@overload(activation_backward, prefer_literal=True)
def nopython_backward(output, grad_output, out, activation):
    code, a, b = literal(activation)
    load = requires(*kernels_of(code, BACKWARD))

    def run(output, grad_output, out, activation):
        load(out)
        check(_activation_backward(as_rows(output), as_rows(grad_output), as_rows(out), code, a, b))

    return run


def function(name, formula, code):
    """A function of (x, out), for Python and nopython code."""

    def run(x: ArrayLike, out: NDArray[Any]) -> None:
        _activation_forward.call(as_rows(x), as_rows(out), code, 0.0, 0.0)

    run.__name__ = run.__qualname__ = name
    run.__doc__ = f"out = {formula}, elementwise, at most 4 ulp from exact; arguments as for activation_forward."
    load = requires(*kernels_of(code, FORWARD))

    @overload(run)
    def nopython(x, out):
        def compiled(x, out):
            load(out)
            check(_activation_forward(as_rows(x), as_rows(out), code, 0.0, 0.0))

        return compiled

    return run


exp = function("exp", "eˣ", elementwise_function("exp", exp_vector))
expm1 = function("expm1", "eˣ − 1", elementwise_function("expm1", expm1_vector))
log = function("log", "log x", elementwise_function("log", log_vector))
log1p = function("log1p", "log(1 + x)", elementwise_function("log1p", log1p_vector))
tanh = function("tanh", "tanh x", TANH)
erf = function("erf", "2/√π ∫ e^(−t²) dt from 0 to x", elementwise_function("erf", erf_vector))
sin = function("sin", "sin x", SIN)
cos = function("cos", "cos x", COS)
