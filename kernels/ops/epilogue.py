"""What is done to a block of a product as soon as it is complete: activations and their derivatives."""

from fastfc.kernels.ops.activation_rules import DERIVATIVE, IDENTITY, RELU, Activation
from fastfc.kernels.ops.activations import apply, apply_derivative
from fastfc.kernels.ops.matrix import element
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import itemsize


@helper
def epilogue(activation, count, values, y):
    """The activations and derivatives that are not done in registers, in place."""
    code = activation.code
    if code >= DERIVATIVE:
        apply_derivative(y, values, values, count, Activation(code - DERIVATIVE, activation.a, activation.b))
    elif code != IDENTITY and code != RELU:
        apply(values, values, count, activation)


@helper
def matrix_epilogue(activation, m, n, values, y):
    """A derivative for matrices of any strides."""
    size = itemsize(values.data)
    step = n if values.column == size and y.column == size else 1
    for i in range(m):
        for j in range(0, n, step):
            epilogue(activation, step, element(values, i, j), element(y, i, j))
