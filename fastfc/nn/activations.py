"""Activations as layers. Their names, numbers and definitions are PyTorch's."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from fastfc.kernels.ops.activation_rules import CUSTOM
from fastfc.kernels.ops.activation_rules import Activation as Numbers
from fastfc.kernels.ops.activations import named
from fastfc.kernels.runtime import user_functions
from fastfc.nn.layer import Layer, option
from fastfc.nn.lowering import Lowering
from fastfc.validation import choice, finite_number, positive_number, real_number, unknown

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "SELU",
    "Cos",
    "Elementwise",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "Identity",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Sin",
    "SmoothClip",
    "Softmax",
    "Softplus",
    "Softsign",
    "Tanh",
]


class Activation(Layer):
    """Base of the activations: any width, no parameters; `name` is what the kernels call it."""

    name: str

    _internal = frozenset({"numbers"})
    _fixed: ClassVar[Mapping[str, str]] = {
        "name": "its name says which function it is; make another activation",
    }

    def numbers(self) -> Numbers:
        """What the kernels take: the function's code and the numbers in its formula."""
        return named(self.name)

    def record(self, lowering: Lowering, value: int, first: int, alone: bool = True) -> int:
        return lowering.activation(value, self.numbers(), alone)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def along_features(dim: Any, owner: str, what: str) -> int:
    if isinstance(dim, bool | float | np.ndarray) or dim not in (None, 1, -1):  # an array compares its elements
        raise ValueError(f"{owner}: dim must be 1, -1 or None, the features of x, (n, features), got {dim!r}")
    return -1


class Identity(Activation):
    """y = x, with dL/dx = dL/dy.

    References
    ----------
    torch.nn.Identity

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


class LeakyReLU(Activation):
    """y = x where x > 0, else negative_slope · x; f′ = 1 where x > 0, else negative_slope.

    Parameters
    ----------
    negative_slope : float, finite
        Kept as an attribute, as the parameters of all activations are.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range.

    References
    ----------
    A. Maas, A. Hannun, A. Ng, "Rectifier nonlinearities improve neural network acoustic models", ICML 2013.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.LeakyReLU(0.25).predict([-2, 0, 2])
    array([-0.5,  0. ,  2. ], dtype=float32)
    """

    name = "leaky_relu"

    negative_slope: float = option(finite_number)

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def numbers(self) -> Numbers:
        return named(self.name)._replace(a=self.negative_slope)

    def __repr__(self) -> str:
        return f"LeakyReLU(negative_slope={self.negative_slope:g})"


class Sigmoid(Activation):
    """y = 1 / (1 + e⁻ˣ), with f′ = y (1 − y).

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", 2016, section 6.3.2.

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


class LogSigmoid(Activation):
    """y = −log(1 + e⁻ˣ), the logarithm of the sigmoid, with f′ = 1 − eʸ.

    References
    ----------
    torch.nn.LogSigmoid

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.LogSigmoid().predict([-100, 0])
    array([-100.        ,   -0.6931472], dtype=float32)
    """

    name = "log_sigmoid"


class Tanh(Activation):
    """y = tanh x, with f′ = 1 − y².

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", 2016, section 6.3.2.

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


class Hardtanh(Activation):
    """y = min(max(x, min_val), max_val), with f′ = 1 where min_val < x < max_val and 0 elsewhere.

    Parameters
    ----------
    min_val, max_val : float
        min_val < max_val; one of them may be infinite, which is not a bound on that side.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range.

    References
    ----------
    torch.nn.Hardtanh

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.Hardtanh().predict([-3, 0.5, 3])
    array([-1. ,  0.5,  1. ])
    """

    name = "hardtanh"

    min_val: float = option(real_number)
    max_val: float = option(real_number)

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        self.min_val, self.max_val = min_val, max_val

    def check_options(self) -> None:
        low, high = self.min_val, self.max_val
        if high is not None and not low < high:  # None while they are first told; NaN is never less
            raise ValueError(f"Hardtanh: min_val must be less than max_val, got {low:g} and {high:g}")

    def numbers(self) -> Numbers:
        return named(self.name)._replace(a=self.min_val, b=self.max_val)

    def __repr__(self) -> str:
        return f"Hardtanh(min_val={self.min_val:g}, max_val={self.max_val:g})"


class ReLU6(Activation):
    """y = min(max(x, 0), 6), with f′ = 1 where 0 < x < 6 and 0 elsewhere.

    References
    ----------
    A. Krizhevsky, "Convolutional deep belief networks on CIFAR-10", 2010.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.ReLU6().predict([-1, 2, 7])
    array([0., 2., 6.], dtype=float32)
    """

    name = "relu6"


class ELU(Activation):
    """y = x where x > 0, else alpha (eˣ − 1); f′ = 1 where x > 0, else alpha eˣ.

    Parameters
    ----------
    alpha : float, finite

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range.

    References
    ----------
    D.-A. Clevert, T. Unterthiner, S. Hochreiter, "Fast and accurate deep network learning by exponential linear
    units (ELUs)", ICLR 2016.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.ELU(alpha=2).predict([-100, 0, 3])
    array([-2.,  0.,  3.], dtype=float32)
    """

    name = "elu"

    alpha: float = option(finite_number)

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def numbers(self) -> Numbers:
        return named(self.name)._replace(a=self.alpha)

    def __repr__(self) -> str:
        return f"ELU(alpha={self.alpha:g})"


class SELU(Activation):
    """y = s x where x > 0, else s α (eˣ − 1), with s = 1.0507009873554805 and α = 1.6732632423543772.

    f′ = s where x > 0, else s α eˣ. With weights of mean 0 and variance 1 / in_features, outputs tend to mean 0
    and variance 1.

    References
    ----------
    G. Klambauer, T. Unterthiner, A. Mayr, S. Hochreiter, "Self-normalizing neural networks", NeurIPS 2017.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.SELU().predict([-100, 0, 1])
    array([-1.7580993,  0.       ,  1.050701 ], dtype=float32)
    """

    name = "selu"


def not_zero(value: Any, owner: object, what: str) -> float:
    number = finite_number(value, owner, what)
    if number == 0:
        raise ValueError(f"{owner}: {what} must not be 0")
    return number


class CELU(Activation):
    """y = x where x > 0, else alpha (e^(x / alpha) − 1); f′ = 1 where x > 0, else e^(x / alpha).

    Parameters
    ----------
    alpha : float, finite, not 0

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range.

    References
    ----------
    J. Barron, "Continuously differentiable exponential linear units", 2017, arXiv:1704.07483.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.CELU(alpha=2).predict([-100, 0, 3])
    array([-2.,  0.,  3.], dtype=float32)
    """

    name = "celu"

    alpha: float = option(finite_number)

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def check_options(self) -> None:
        if self.alpha == 0:
            raise ValueError("CELU: alpha must not be 0")

    def numbers(self) -> Numbers:
        return named(self.name)._replace(a=self.alpha, b=1 / self.alpha)

    def __repr__(self) -> str:
        return f"CELU(alpha={self.alpha:g})"


class Softplus(Activation):
    """y = log(1 + e^(beta x)) / beta, with f′ = 1 / (1 + e^(−beta x)).

    Parameters
    ----------
    beta : float, positive
    threshold : float
        Where beta x is above it, y = x and f′ = 1.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range.

    References
    ----------
    C. Dugas, Y. Bengio, F. Bélisle, C. Nadeau, R. Garcia, "Incorporating second-order functional knowledge for
    better option pricing", NIPS 2000.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.Softplus().predict([-1, 0, 100])
    array([  0.3132617,   0.6931472, 100.       ], dtype=float32)
    """

    name = "softplus"

    beta: float = option(positive_number)
    threshold: float = option(finite_number)

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self.beta = beta
        self.threshold = threshold

    def numbers(self) -> Numbers:
        return named(self.name)._replace(a=self.beta, b=self.threshold)

    def __repr__(self) -> str:
        return f"Softplus(beta={self.beta:g}, threshold={self.threshold:g})"


class Softsign(Activation):
    """y = x / (1 + |x|), with f′ = 1 / (1 + |x|)².

    References
    ----------
    X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.Softsign().predict([-3, 0, 1])
    array([-0.75,  0.  ,  0.5 ], dtype=float32)
    """

    name = "softsign"


class Hardsigmoid(Activation):
    """y = min(max(x + 3, 0), 6) / 6, with f′ = 1/6 where −3 < x < 3 and 0 elsewhere.

    References
    ----------
    M. Courbariaux, Y. Bengio, J.-P. David, "BinaryConnect", NIPS 2015; the slope is PyTorch's.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.Hardsigmoid().predict([-5, 0, 5])
    array([0. , 0.5, 1. ], dtype=float32)
    """

    name = "hardsigmoid"


class Hardswish(Activation):
    """y = x · hardsigmoid(x), with f′ = 0 where x <= −3, 1 where x >= 3 and x / 3 + 1/2 between.

    References
    ----------
    A. Howard et al., "Searching for MobileNetV3", ICCV 2019.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.Hardswish().predict([-5, 1.5, 5])
    array([-0.   ,  1.125,  5.   ])
    """

    name = "hardswish"


class SiLU(Activation):
    """y = x σ(x) with the sigmoid σ, also known as swish; f′ = σ(x) (1 + x (1 − σ(x))).

    References
    ----------
    S. Elfwing, E. Uchibe, K. Doya, "Sigmoid-weighted linear units for neural network function approximation in
    reinforcement learning", Neural Networks 107, 2018.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.SiLU().predict([-1, 0, 1])
    array([-0.26894143,  0.        ,  0.7310586 ], dtype=float32)
    """

    name = "silu"


class GELU(Activation):
    """y = x Φ(x) with the normal distribution Φ, with f′ = Φ(x) + x φ(x), φ its density.

    Parameters
    ----------
    approximate : {"none", "tanh"}
        With "tanh", Φ(x) is approximated by (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2, to 5e-4.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range.

    References
    ----------
    D. Hendrycks, K. Gimpel, "Gaussian error linear units (GELUs)", 2016, arXiv:1606.08415.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.GELU().predict([-1, 0, 1])
    array([-0.15865526,  0.        ,  0.8413447 ], dtype=float32)
    """

    approximate: str = option(lambda value, owner, what: choice(value, owner, what, ("none", "tanh")))

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    @property
    def name(self) -> str:  # type: ignore[override]
        return "gelu" if self.approximate == "none" else "gelu_tanh"

    def __repr__(self) -> str:
        return f"GELU(approximate={self.approximate!r})"


class Mish(Activation):
    """y = x ω with ω = tanh(log(1 + eˣ)), with f′ = ω + x σ(x) (1 − ω²), σ the sigmoid.

    References
    ----------
    D. Misra, "Mish: a self regularized non-monotonic activation function", BMVC 2020.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.Mish().predict([-1, 0, 1])
    array([-0.30340147,  0.        ,  0.8650984 ], dtype=float32)
    """

    name = "mish"


class Sin(Activation):
    """y = sin x, with f′ = cos x.

    References
    ----------
    V. Sitzmann et al., "Implicit neural representations with periodic activation functions", NeurIPS 2020.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.Sin().predict([0, 1.5707964])
    array([0., 1.])
    """

    name = "sin"


class Cos(Activation):
    """y = cos x, with f′ = −sin x.

    References
    ----------
    A. Rahimi, B. Recht, "Random features for large-scale kernel machines", NeurIPS 2007.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.Cos().predict([0, 3.1415927])
    array([ 1., -1.])
    """

    name = "cos"


class SmoothClip(Activation):
    """y = x / √(1 + (x / limit)²), which stays within ±limit, with f′ = (1 + (x / limit)²)^(−3/2).

    Parameters
    ----------
    limit : float, positive

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range.

    References
    ----------
    D. Holzmüller, L. Grinsztajn, I. Steinwart, "Better by default: strong pre-tuned MLPs and boosted trees on tabular
    data", NeurIPS 2024.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.SmoothClip().predict([-1e9, 0, 4])
    array([-3. ,  0. ,  2.4])
    """

    name = "smooth_clip"

    limit: float = option(positive_number)

    def __init__(self, limit: float = 3.0) -> None:
        self.limit = limit

    def numbers(self) -> Numbers:
        return named(self.name)._replace(a=self.limit)

    def __repr__(self) -> str:
        return f"SmoothClip(limit={self.limit:g})"


class Softmax(Activation):
    """yᵢ = e^xᵢ / Σⱼ e^xⱼ along each row, with dL/dx = y ⊙ (g − Σ g y) for g = dL/dy.

    Train classifiers on logits with `CrossEntropyLoss`, which holds its own softmax; this layer is
    for networks that must give probabilities.

    Parameters
    ----------
    dim : {None, 1, -1}
        The axis of x, (n, features), as PyTorch calls it: all of these are the features.

    Raises
    ------
    ValueError
        For another axis.

    References
    ----------
    J. Bridle, "Probabilistic interpretation of feedforward classification network outputs, with relationships to
    statistical pattern recognition", 1990.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.Softmax().predict([1, 1, 1, 1])
    array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """

    name = "softmax"
    dim: int | None = option(along_features, -1)

    def __init__(self, dim: int | None = None) -> None:
        self.dim = dim


class LogSoftmax(Activation):
    """yᵢ = xᵢ − log Σⱼ e^xⱼ along each row, with dL/dxᵢ = gᵢ − e^yᵢ Σⱼ gⱼ for g = dL/dy.

    Parameters
    ----------
    dim : {None, 1, -1}
        As for Softmax.

    Raises
    ------
    ValueError
        For another axis.

    References
    ----------
    torch.nn.LogSoftmax

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.LogSoftmax().predict([1, 1, 1, 1])
    array([-1.3862944, -1.3862944, -1.3862944, -1.3862944], dtype=float32)
    """

    name = "log_softmax"
    dim: int | None = option(along_features, -1)

    def __init__(self, dim: int | None = None) -> None:
        self.dim = dim


class Elementwise(Activation):
    """An activation of your own, y = f(x) for each element, from two functions decorated with `numba.njit`.

    Parameters
    ----------
    function : f(x) or f(x, out)
        Of a number, which returns a float; or of arrays (k,), which writes y to `out`.
    derivative : df(x) or df(x, grad_output, out)
        Of a number, which returns f′(x); or of arrays (k,), which writes dL/dx = grad_output f′(x) to `out`.

    Raises
    ------
    TypeError
        If one is not an `@njit` function of this form, or a function of a number does not give a float for a float.

    Notes
    -----
    Functions of arrays are given pieces of the data of any length k, and must treat each element alone. Each function
    is compiled once for float32 and once for float64, and lives as long as the process; two activations of the same
    functions share them. What an exception in them does is not defined. Networks with it can be pickled if its
    functions can, as those at the top of a module.

    Examples
    --------
    >>> import fastfc as fc
    >>> from numba import njit
    >>> @njit
    ... def square(x):
    ...     return x * x
    >>> @njit
    ... def twice(x):
    ...     return x + x
    >>> layer = fc.Elementwise(square, twice)
    >>> layer.forward([[-1, 3]])
    array([[1., 9.]], dtype=float32)
    >>> layer.backward([[1, 1]])
    array([[-2.,  6.]], dtype=float32)
    """

    name = "elementwise"
    _fixed: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("function", "derivative"), "make another Elementwise"),
    }
    function: Callable[[float], float]
    derivative: Callable[[float], float]

    def __init__(self, function: Callable[[float], float], derivative: Callable[[float], float]) -> None:
        self._fix(function=function, derivative=derivative)
        self.numbers()

    def numbers(self) -> Numbers:
        return Numbers(CUSTOM, *user_functions.activation_pointers(self.function, self.derivative))

    def __repr__(self) -> str:
        return f"Elementwise({self.function.__name__}, {self.derivative.__name__})"


# Files and torch.nn know these by the names of their classes.
LAYERS: tuple[type[Activation], ...] = tuple(kind for kind in Activation.__subclasses__() if kind is not Elementwise)
ACTIVATIONS: dict[str, Callable[[], Activation]] = {
    **{kind.name: kind for kind in LAYERS if kind is not GELU},
    "gelu": GELU,
    "gelu_tanh": lambda: GELU("tanh"),
}


def get_activation(activation: str | Activation | type[Activation]) -> Activation:
    """A new activation layer: of that name, of that class, or like that object."""
    if isinstance(activation, Activation):
        return copy.deepcopy(activation)
    if isinstance(activation, type) and issubclass(activation, Activation):
        return activation()
    if not isinstance(activation, str):
        raise TypeError(
            "an activation's name is a string such as 'relu'; give a name, or a layer such as fc.LeakyReLU(0.1), got "
            f"{activation!r}"
        )
    if activation not in ACTIVATIONS:
        raise unknown("activation", activation, ACTIVATIONS)
    return ACTIVATIONS[activation]()
