"""Activations as layers. Each derivative is written in terms of the output y = f(x), which forward saves."""

from .kernels.activations import named
from .layers import Layer
from .program import Recorder


class Activation(Layer):
    """Base of the activations: any width, no parameters; `name` is what the kernels call it."""

    name: str

    def _record(self, recorder: Recorder, value: int, first: int, alone: bool = True) -> int:
        return recorder.activation(value, named(self.name), alone)

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
