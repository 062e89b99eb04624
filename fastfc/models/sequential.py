"""Networks: `Sequential`, layers one after another, and `MLP`, the usual stack of Linear layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from fastfc.data.columns import Names
from fastfc.kernels.runtime.threads import AUTO, check_n_threads
from fastfc.models.network import Network
from fastfc.nn.activations import Activation, Identity, get_activation
from fastfc.nn.container import CONTAINERS, check_free
from fastfc.nn.dropout import Dropout
from fastfc.nn.initializers import Initializer
from fastfc.nn.layer import Layer
from fastfc.nn.linear import Linear
from fastfc.nn.lowering import Lowering
from fastfc.validation import as_generator, listed, positive_int


class Sequential(Network):
    """Layers one after another: the output of each is the input of the next.

    All parameters live in one flat aligned vector `params`, in the order W1, b1, W2, b2, …, all
    gradients in `grads`; the layers' `weight`, `bias`, … become views of them. A Linear followed by an
    activation of single elements predicts, and mostly trains, as one fused step.

    Parameters
    ----------
    layers : iterable of Layer
        Each layer object belongs to one network only; copy.deepcopy(layer) for use in another.
    n_threads : int or "auto"
        At most this many threads; an attribute too. "auto" is as many as pay and as this process may use.

    Attributes
    ----------
    layers : tuple of Layer
    params, grads : (p,) arrays, float32 or float64
    buffers : (b,) array
        What is kept but not trained, layer by layer.
    history : History
        Of the latest `fit`.

    Raises
    ------
    ValueError
        Without a layer, if widths or dtypes of neighbours differ, or a layer is used twice.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> net = fc.Sequential([fc.Linear(2, 8, seed=0), fc.Tanh(), fc.Linear(8, 1, seed=1)])
    >>> print(net.summary())
    layer         output  parameters
    Linear(2, 8)       8          24
    Tanh()             8           0
    Linear(8, 1)       1           9
    total                         33
    >>> x, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([[0], [1], [1], [0]])
    >>> history = net.fit(x, y, loss=fc.MSELoss(), optimizer=fc.SGD(lr=0.2, momentum=0.9), epochs=300, seed=0)
    >>> net.predict(x).round(1) + 0
    array([[0.],
           [1.],
           [1.],
           [0.]], dtype=float32)
    """

    def __init__(self, layers: Iterable[Layer], *, n_threads: int | str = AUTO) -> None:
        n_threads = check_n_threads(n_threads, "Sequential")
        layers = tuple(listed(layers, "Sequential", "layers", "[Linear(2, 8), ReLU(), Linear(8, 1)]"))
        check_chain(layers)
        self._fix(layers=layers)
        super().__init__(
            next((layer.in_features for layer in layers if layer.in_features), None),
            next((layer.out_features for layer in layers[::-1] if layer.out_features), None),
            n_threads,
        )

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("layer", "output", "parameters")]
        width = self.in_features
        for layer in self.layers:
            width = layer.out_features or width
            rows.append((str(layer), str(width or "any"), f"{layer.params.size:,}"))
        return [*rows, ("total", "", f"{self.params.size:,}")]

    def record(self, lowering: Lowering, value: int, first: int, alone: bool = True) -> int:
        for layer in self.layers:
            value = layer.record(lowering, value, first, alone)
            first, alone = first + layer.params.size, True
        return value

    def initialise_from(self, x: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        for layer in self.layers:
            x = layer.initialise_from(x, rng)
        return x

    def input_names(self) -> tuple[Names | None, ...] | None:
        first, own = self.layers[0], super().input_names()
        return first.input_names() if own is None and isinstance(first, Network) else own

    def last_layers(self) -> list[Layer | None]:
        changing = [layer for layer in self.layers if not isinstance(layer, Identity | Dropout)]
        return changing[-1].last_layers() if changing else [None]

    def __len__(self) -> int:
        return len(self.layers)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Any, ...]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self.layers[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.layers)

    def __repr__(self) -> str:
        return f"Sequential([{', '.join(map(repr, self.layers))}])"


CONTAINERS["Sequential"] = Sequential


def MLP(
    sizes: Sequence[int],
    activation: str | Activation | type[Activation] | Sequence[Any] = "relu",
    output_activation: str | Activation | type[Activation] | None = None,
    init: str | Initializer = "he",
    seed: int | np.random.Generator | None = None,
    dtype: Any = np.float32,
    *,
    n_threads: int | str = AUTO,
) -> Sequential:
    """A multi-layer perceptron: Linear layers of these sizes with an activation between them.

    Parameters
    ----------
    sizes : sequence of at least two ints
        Width of the input, of each hidden layer, and of the output.
    activation : str, Activation, class of one, or sequence of them
        After each hidden layer: "relu", "tanh", "gelu", …, any of fastfc.nn.activations.ACTIVATIONS, or a layer such as
        LeakyReLU(0.1), of which each hidden layer gets a copy. A sequence has one for each hidden layer.
    output_activation : str, Activation, class of one, or None
        After the last layer. None gives logits, which is what CrossEntropyLoss and BCEWithLogitsLoss take.
    init : str or callable
        First values of the weights, see fastfc.nn.initializers; biases start at zero.
    seed : int, numpy.random.Generator or None
    dtype : np.float32 or np.float64
    n_threads : int or "auto"
        At most this many threads, see Sequential.

    Returns
    -------
    Sequential

    Raises
    ------
    TypeError, ValueError
        For sizes that are not at least two positive integers, an unknown name, or another number of
        activations than of hidden layers.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.MLP([64, 128, 10])
    Sequential([Linear(64, 128), ReLU(), Linear(128, 10)])
    >>> fc.MLP([8, 4, 2, 1], activation=[fc.LeakyReLU(0.1), "tanh"])
    Sequential([Linear(8, 4), LeakyReLU(negative_slope=0.1), Linear(4, 2), Tanh(), Linear(2, 1)])
    """
    n_threads = check_n_threads(n_threads, "MLP")
    sizes = [positive_int(size, "MLP", "each size") for size in listed(sizes, "MLP", "sizes", "[64, 128, 10]")]
    if len(sizes) < 2:
        raise ValueError(f"MLP: sizes must name at least the input's and output's width, got {sizes}")
    rng, n_hidden = as_generator(seed, "MLP"), len(sizes) - 2
    if not np.iterable(activation) or isinstance(activation, str):
        get_activation(activation)  # checks it even without a hidden layer
        activation = [activation] * n_hidden
    activation = list(activation)
    if len(activation) != n_hidden:
        raise ValueError(
            f"MLP: activation has {len(activation)} items for {n_hidden} hidden layers; give one for each, or one "
            "for all"
        )
    layers: list[Layer] = []
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        layers.append(Linear(n_in, n_out, init=init, seed=rng, dtype=dtype))
        layers += [get_activation(one) for one in activation[i : i + 1]]
    if output_activation is not None:
        layers.append(get_activation(output_activation))
    return Sequential(layers, n_threads=n_threads)


def check_chain(layers: tuple[Layer, ...]) -> None:
    """Raise unless these layers can follow one another in a new network."""
    if not layers:
        raise ValueError("Sequential: a network needs at least one layer")
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise TypeError(f"Sequential: layer {i} must be a layer object such as ReLU(), got {layer!r}")
        if any(layer is other for other in layers[:i]):
            raise ValueError(f"Sequential: layer {i}, {layer}, is duplicated; use copy.deepcopy(layer)")
    check_free("Sequential", layers)
    last = typed = None  # the latest layer that fixes the width, and the latest that fixes the dtype
    for i, layer in enumerate(layers):
        if last is not None and layer.in_features not in (None, last.out_features):
            raise ValueError(
                f"Sequential: {last} gives {last.out_features} numbers per sample, but layer {i}, {layer}, "
                f"takes {layer.in_features}; make the two widths equal"
            )
        if typed is not None and layer.dtype is not None and layer.dtype != typed.dtype:
            raise ValueError(f"Sequential: {typed} is {typed.dtype}, but layer {i}, {layer}, is {layer.dtype}")
        last, typed = last if layer.in_features is None else layer, typed if layer.dtype is None else layer
