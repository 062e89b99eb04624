"""Activations as layers. Each derivative is written in terms of the output y = f(x), which forward saves."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .layers import Layer


class Activation(Layer):
    """Base of the activations: any width, no parameters; `name` is what the kernels call it."""

    name: str

    def _output(self, x: NDArray[Any]) -> NDArray[Any]:
        out = np.empty(x.shape, x.dtype)
        kernels.activation_forward(x, out, self.name)
        return out

    def _forward(self, x: NDArray[Any]) -> NDArray[Any]:
        self._saved = self._output(x)
        return self._saved

    def _backward(self, grad_output: NDArray[Any], input_grad: bool = True) -> Any:
        out = np.empty(grad_output.shape, grad_output.dtype)
        kernels.activation_backward(self._saved, grad_output, out, self.name)
        return out

    def _last_output(self) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
        return None if self._saved is None else (self._saved.shape, self._saved.dtype)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Identity(Activation):
    """y = x, with dL/dx = dL/dy.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.Identity().predict([-1, 0, 2])
    array([-1.,  0.,  2.], dtype=float32)
    """

    name = "identity"


class ReLU(Activation):
    """y = max(x, 0), with f′ = 1 where x > 0 and 0 elsewhere.

    At x = 0, where any value between 0 and 1 is a subgradient, f′ is 0, as in PyTorch and JAX; some
    textbook handouts take 1.

    References
    ----------
    X. Glorot, A. Bordes, Y. Bengio, "Deep sparse rectifier neural networks", AISTATS 2011.

    Examples
    --------
    >>> import fastfc as fc
    >>> relu = fc.ReLU()
    >>> relu.forward([[-1, 0, 2]])
    array([[0., 0., 2.]], dtype=float32)
    >>> relu.backward([[5, 5, 5]])
    array([[0., 0., 5.]], dtype=float32)
    """

    name = "relu"


class Sigmoid(Activation):
    """y = 1 / (1 + e⁻ˣ), with f′ = y (1 − y).

    Examples
    --------
    >>> import fastfc as fc
    >>> sigmoid = fc.Sigmoid()
    >>> sigmoid.forward([[0]])
    array([[0.5]], dtype=float32)
    >>> sigmoid.backward([[1]])
    array([[0.25]], dtype=float32)
    """

    name = "sigmoid"


class Tanh(Activation):
    """y = tanh x, with f′ = 1 − y².

    Examples
    --------
    >>> import fastfc as fc
    >>> tanh = fc.Tanh()
    >>> tanh.forward([[0]])
    array([[0.]], dtype=float32)
    >>> tanh.backward([[3]])
    array([[3.]], dtype=float32)
    """

    name = "tanh"


class Softmax(Activation):
    """yᵢ = e^xᵢ / Σⱼ e^xⱼ along each row, with dL/dx = y ⊙ (g − Σ g y) for g = dL/dy.

    Train classifiers on logits with `CrossEntropyLoss`, which holds its own softmax; this layer is
    for networks that must give probabilities.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.Softmax().predict([1, 1, 1, 1])
    array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """

    name = "softmax"


ACTIVATIONS: dict[str, type[Activation]] = {c.name: c for c in (Identity, ReLU, Sigmoid, Tanh, Softmax)}


def get_activation(name: str) -> Activation:
    """A new activation layer of that name."""
    if not isinstance(name, str):
        raise TypeError(f"an activation's name is a string such as 'relu', got {name!r}")
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known are {', '.join(map(repr, ACTIVATIONS))}")
    return ACTIVATIONS[name]()
