"""Fully connected layers: `Linear`, and `Tied`, which shares its weight."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfc.kernels.program import table
from fastfc.nn.initializers import Initializer, get_initializer, mean_of_some, spread_of
from fastfc.nn.layer import Layer, aligned_zeros, assign
from fastfc.nn.lowering import Lowering
from fastfc.validation import as_generator, choice, flag, float_dtype, positive_int

__all__ = ["Linear", "Tied"]


def view(index: int, what: str) -> Any:
    """Property of Linear: one of its views; assigning to it copies the values into place."""

    def get(self: Linear) -> NDArray[Any] | None:
        return self._views[index]

    def put(self: Linear, value: ArrayLike) -> None:
        assign(self, what, value, get(self))

    return property(get, put)


class Linear(Layer):
    """Fully connected layer, y = x W + b.

    With g = dL/dy, `backward` computes dL/dW = xᵀ g, dL/db = the column sums of g and dL/dx = g Wᵀ. In the NTK
    parametrization y = c x W + b with c = 1 / √in_features, dL/dW = c xᵀ g and dL/dx = c g Wᵀ.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
        Whether there is a bias; without one y = x W.
    init, bias_init : str or callable
        First values of weight and bias, see fastfc.nn.initializers; a callable gets (rng, shape, dtype) and returns
        an array.
    parametrization : {"standard", "ntk"}
        With "ntk", weights of variance 1, as those of `init="normal"`, give outputs of the size of the inputs, and one
        learning rate serves layers of any width.
    seed : int, numpy.random.Generator or None
    dtype : np.float32 or np.float64
        Of parameters and computation; inputs are converted to it.
    name : str, optional
        Shown in errors, summaries and reports.

    Attributes
    ----------
    weight, weight_grad : (in_features, out_features) arrays
    bias, bias_grad : (out_features,) arrays, or None
        Views of `params` and `grads`. Assigning to one copies the values into place.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong kind or out of its range; in use, for x of another width.

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", 2016, section 6.5.
    A. Jacot, F. Gabriel, C. Hongler, "Neural tangent kernel", NeurIPS 2018.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> layer = fc.Linear(2, 2)
    >>> layer.weight = [[0.5, -1], [1.5, 0]]
    >>> layer.bias = [0.1, 0.2]
    >>> layer.forward([[1, 2]])
    array([[ 3.6, -0.8]], dtype=float32)
    >>> layer.backward([[1, 2]])
    array([[-1.5,  1.5]], dtype=float32)
    >>> layer.weight_grad
    array([[1., 2.],
           [2., 4.]], dtype=float32)
    >>> layer.update_parameters(lr=0.1)
    >>> layer.bias
    array([0., 0.], dtype=float32)
    """

    in_features: int
    out_features: int
    weight, bias = view(0, "weight"), view(1, "bias")
    weight_grad, bias_grad = view(2, "weight_grad"), view(3, "bias_grad")
    parametrization: str = "standard"

    _fixed: ClassVar[Mapping[str, str]] = {"parametrization": "make a new layer with parametrization=…"}
    _internal = frozenset({"factor", "effective_weight"})

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        init: str | Initializer = "he",
        bias_init: str | Initializer = "zeros",
        parametrization: str = "standard",
        seed: int | np.random.Generator | None = None,
        dtype: Any = np.float32,
        name: str | None = None,
    ) -> None:
        self._fix(
            in_features=positive_int(in_features, "Linear", "in_features"),
            out_features=positive_int(out_features, "Linear", "out_features"),
            parametrization=choice(parametrization, "Linear", "parametrization", ("standard", "ntk")),
        )
        self.name = name
        dtype = float_dtype(dtype, "Linear")
        size = (self.in_features + flag(bias, "Linear", "bias")) * self.out_features
        self.bind(aligned_zeros(size, dtype), aligned_zeros(size, dtype))
        rng = as_generator(seed, "Linear")
        self.weight = get_initializer(init)(rng, self.weight.shape, dtype)
        if bias:
            self.bias = get_initializer(bias_init)(rng, self.bias.shape, dtype)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._params.dtype

    def factor(self, width: int | None = None) -> float:
        """What the product of so many inputs is multiplied by."""
        return 1 / math.sqrt(width or self.in_features) if self.parametrization == "ntk" else 1.0

    def effective_weight(self, width: int | None = None) -> NDArray[Any]:
        """The weight with that factor, which a layer of the standard parametrization would have."""
        return self.weight if self.parametrization == "standard" else self.weight * self.dtype.type(self.factor(width))

    def named_parameters(self) -> list[tuple[str, NDArray[Any], NDArray[Any]]]:
        bias = [("bias", self.bias, self.bias_grad)]
        return [("weight", self.weight, self.weight_grad)] + bias * (self.bias is not None)

    def bind(self, vector: NDArray[Any], grads: NDArray[Any], n_buffers: int = 0, owner: Any = None) -> None:
        super().bind(vector, grads, n_buffers, owner)
        params = self._params
        shape, n_weights = (self.in_features, self.out_features), self.in_features * self.out_features
        bias, bias_grad = (params[n_weights:], grads[n_weights:]) if params.size > n_weights else (None, None)
        self._views = params[:n_weights].reshape(shape), bias, grads[:n_weights].reshape(shape), bias_grad

    @classmethod
    def tensor_shapes(cls, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        width = options["out_features"]
        return {"weight": (options["in_features"], width)} | ({"bias": (width,)} if options["bias"] else {})

    def initialise_from(self, x: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        if self.frozen_here_or_above():
            return self.output(x)
        self.weight = rng.standard_normal(self.weight.shape)
        if self.bias is not None:
            self.bias = np.zeros(self.out_features)
        z = self.output(x)
        spread = spread_of(z)
        self.weight = self.weight / spread
        z /= spread
        if self.bias is not None:
            self.bias = -mean_of_some(z, rng)
            z += self.bias
        return z

    def record(self, lowering: Lowering, value: int, first: int, alone: bool = True) -> int:
        lowering.weights[self] = first
        bias = table.NOWHERE if self.bias is None else first + self.in_features * self.out_features
        value = scaled(lowering, value, self.factor())
        return lowering.op(table.PRODUCT, value, width=self.out_features, weight=first, bias=bias)

    def __repr__(self) -> str:
        bias = "" if self.bias is not None else ", bias=False"
        dtype = "" if self.dtype == np.float32 else f", dtype={self.dtype}"
        kind = "" if self.parametrization == "standard" else f", parametrization={self.parametrization!r}"
        name = "" if self.name is None else f", name={self.name!r}"
        return f"Linear({self.in_features}, {self.out_features}{bias}{kind}{dtype}{name})"


def scaled(lowering: Lowering, value: int, factor: float) -> int:
    """Record a product with a number."""
    return value if factor == 1 else lowering.op(table.SCALE, value, factor=factor)


class Tied(Layer):
    """A Linear layer with the weight of another one, transposed, as the decoder of an autoencoder: y = x Wᵀ + b.

    W is trained once: its gradient is the sum of what both layers contribute. The bias, which starts at zero, is
    this layer's own. If the other layer is in the NTK parametrization, so is this one: y = c x Wᵀ + b with
    c = 1 / √in_features, of its own inputs.

    Parameters
    ----------
    layer : Linear
        Comes before this layer in the same network.
    bias : bool
    name : str, optional

    Raises
    ------
    TypeError
        If layer is not a Linear.

    References
    ----------
    P. Vincent et al., "Stacked denoising autoencoders", JMLR 11, 2010, section 3.3.

    Examples
    --------
    >>> import fastfc as fc
    >>> encoder = fc.Linear(3, 2, seed=0)
    >>> net = fc.Sequential([encoder, fc.Tanh(), fc.Tied(encoder)])
    >>> net.params.size
    11
    >>> net.predict([[0, 0, 0]])
    array([[0., 0., 0.]], dtype=float32)
    """

    in_features: int
    out_features: int
    layer: Linear

    _fixed: ClassVar[Mapping[str, str]] = {"layer": "make a new Tied layer"}

    def __init__(self, layer: Linear, bias: bool = True, *, name: str | None = None) -> None:
        if not isinstance(layer, Linear):
            raise TypeError(f"Tied: give the Linear layer whose weight it shares, got {layer!r}")
        self._fix(layer=layer, in_features=layer.out_features, out_features=layer.in_features)
        self.name = name
        size = self.out_features * flag(bias, "Tied", "bias")
        self.bind(aligned_zeros(size, layer.dtype), aligned_zeros(size, layer.dtype))

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.layer.dtype

    @property
    def bias(self) -> NDArray[Any] | None:
        return self._params if self._params.size else None

    @bias.setter
    def bias(self, value: ArrayLike) -> None:
        assign(self, "bias", value, self.bias)

    @property
    def bias_grad(self) -> NDArray[Any] | None:
        return self._grads if self._grads.size else None

    @bias_grad.setter
    def bias_grad(self, value: ArrayLike) -> None:
        assign(self, "bias_grad", value, self.bias_grad)

    def named_parameters(self) -> list[tuple[str, NDArray[Any], NDArray[Any]]]:
        return [("bias", self._params, self._grads)] if self._params.size else []

    @classmethod
    def tensor_shapes(cls, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        return {"bias": (options["layer"].in_features,)} if options["bias"] else {}

    def record(self, lowering: Lowering, value: int, first: int, alone: bool = True) -> int:
        if self.layer not in lowering.weights:
            raise ValueError(f"{self}: {self.layer} must come before it in the same network")
        weight, bias = lowering.weights[self.layer], first if self._params.size else table.NOWHERE
        value = scaled(lowering, value, self.layer.factor(self.in_features))
        return lowering.op(table.PRODUCT, value, width=self.out_features, weight=weight, bias=bias, transposed=True)

    def __repr__(self) -> str:
        bias = "" if self._params.size else ", bias=False"
        name = "" if self.name is None else f", name={self.name!r}"
        return f"Tied({self.layer}{bias}{name})"
