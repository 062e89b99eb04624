"""Networks: `Sequential`, layers one after another, and `MLP`, the usual stack of Linear layers."""

from __future__ import annotations

import copy
import math
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, overload

import numpy as np
from numpy.typing import NDArray

from fastfc.attributes import OF_NETWORKS
from fastfc.data import columns
from fastfc.data.columns import Names
from fastfc.nn.activations import Activation, Identity, get_activation
from fastfc.nn.dropout import Dropout
from fastfc.nn.initializers import Initializer
from fastfc.nn.layer import Layer, Linear, Parameter
from fastfc.nn.lowering import Recorder
from fastfc.training import fit as training
from fastfc.training import lr_finder
from fastfc.training.history import History
from fastfc.validation import as_floats, as_generator, listed, positive_int

if TYPE_CHECKING:
    from fastfc.optim.first_order import Optimizer


class Network(Layer):
    """Base of the networks: layers whose parameters live in one flat vector, and their training."""

    layers: tuple[Layer, ...]
    _input_shapes: tuple[tuple[int, ...], ...] | None = None

    _fixed: ClassVar[Mapping[str, str]] = {
        "in_features": "it is that of the layers; make a new network",
        "out_features": "it is that of the layers; make a new network",
        "layers": "the vectors are made of theirs; make a new network, such as Sequential([*net, Tanh()])",
        "dtype": "it is that of the layers; make a new network of layers with dtype=…",
    }
    _elsewhere = OF_NETWORKS
    _arrays = ()
    _input_names: tuple[Names | None, ...] | None = None  # of frames that we were fitted on, see columns.py
    _target_names: tuple[Names | None, ...] | None = None

    train_step = training.train_step
    fit = training.fit
    evaluate = training.evaluate
    find_lr = lr_finder.find_lr

    def __init__(self, in_features: int | None, out_features: int | None) -> None:
        self._fix(in_features=in_features, out_features=out_features)
        self.history = History()
        self._rehome()

    @property
    def dtype(self) -> np.dtype[Any] | None:
        return self._vector.dtype if self._vector.size else None

    @property
    def history(self) -> History:
        """Of the latest `fit`."""
        return self._history

    @history.setter
    def history(self, value: History) -> None:
        if not isinstance(value, History):
            raise TypeError(f"{self}: history must be a History, got {value!r}")
        self._history = value

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...] | None:
        """The shape of a sample of each input, where samples need not be rows; None where they are.

        `predict`, `forward`, `fit` and `evaluate` then take (n, *shape) too, and make it (n, features) in the order of
        memory. `from_onnx` sets it for models that take images, or one number for each sample: the shape ().

        Raises
        ------
        ValueError
            On assignment, if there is not one shape for each input, of as many numbers as it has features.
        """
        return self._input_shapes

    @input_shapes.setter
    def input_shapes(self, shapes: Iterable[Iterable[int]] | None) -> None:
        if shapes is not None:
            found = tuple(
                tuple(positive_int(size, self, "each size in input_shapes") for size in shape) for shape in shapes
            )
            widths = self._input_widths()
            if len(found) != len(widths) or any(
                width not in (None, math.prod(shape)) for width, shape in zip(widths, found, strict=True)
            ):
                raise ValueError(f"{self}: input_shapes {found} do not fit inputs of {widths} features")
            shapes = found
        self._input_shapes = shapes

    def forward(self, x: Any) -> Any:
        return super().forward(self._as_rows(x))

    def _as_rows(self, x: Any, i: int = 0) -> Any:
        """What is given for input i, with each sample as a row."""
        if self._input_shapes is None:
            return x
        shape, x = self._input_shapes[i], as_floats(x, self.dtype, self, "x")
        if x.ndim == 1 + len(shape) and x.shape[1:] == shape:
            return x.reshape(len(x), math.prod(shape))
        if x.ndim > 1 and x.shape == shape:
            return x.reshape(-1)
        if x.ndim > 2:
            sizes = "".join(f", {size}" for size in shape)
            raise ValueError(f"{self}: x has shape {x.shape}, expected (n{sizes}) or (n, {math.prod(shape)})")
        return x

    def named_parameters(self) -> list[tuple[str, NDArray[Any], NDArray[Any]]]:
        return [
            (f"{layer.name or i}.{name}", parameter, grad)
            for i, layer in enumerate(self.layers)
            for name, parameter, grad in layer.named_parameters()
        ]

    def named_buffers(self) -> list[tuple[str, NDArray[Any]]]:
        return [
            (f"{layer.name or i}.{name}", values)
            for i, layer in enumerate(self.layers)
            for name, values in layer.named_buffers()
        ]

    def _trained(self) -> list[Parameter]:
        parameters, start = [], 0
        for i, layer in enumerate([] if self.frozen else self.layers):
            for name, first, shape in layer._trained():
                parameters.append(Parameter(f"{layer.name or i}.{name}", start + first, shape))
            start += layer._params.size
        return parameters

    @property
    def feature_names(self) -> Any:
        """Names of the columns of the data frame that the network was fitted on, a list; None after arrays.

        A frame whose columns have other names or another order is refused. For a graph of several inputs, a list with
        the names of each. Assign names to have frames checked by them, None to forget them.
        """
        known = self._known_names()
        if known is None:
            return None
        lists = [None if names is None else list(names) for names in known]
        return lists[0] if self._one_input else lists

    @feature_names.setter
    def feature_names(self, names: Any) -> None:
        self._input_names, self._target_names = columns.as_names(names, self._input_widths()), None

    def _known_names(self) -> tuple[Names | None, ...] | None:
        return self._input_names

    def _input_widths(self) -> list[int | None]:
        return [self.in_features]

    def _look(self, x: Any) -> None:
        if type(x) is not np.ndarray and self._known_names() is not None:
            columns.Columns(self).look(x)
            columns.check_sample(self, x)

    def _join(self, x: Any) -> NDArray[Any]:
        self._look(x)
        return super()._join(self._as_rows(x))

    def summary(self) -> str:
        """A table of the parts, the width of what they give and their numbers of parameters."""
        raise NotImplementedError

    def _more(self) -> list[str]:
        """Lines below the summary's table."""
        kinds = dict.fromkeys(name.rpartition(".")[2] for name, _ in self.named_buffers())
        return [f"and {self.buffers.size:,} numbers that are not trained: {', '.join(kinds)}"] if kinds else []

    def plot(self, path: Any = None) -> Any:
        """A diagram of the network: layers, shapes, parameters, and for a Graph its nodes and gates.

        What flows along an edge is (n, width) for n samples. After `backward`, `train_step` or `fit`, the edge into a
        layer also tells the Euclidean norm of the gradient of each of its parameters, |dL/d weight|, from `grads`:
        that of the latest batch, and for a layer with several uses the sum over them.

        Parameters
        ----------
        path : str or path-like, optional
            A file to write, ending in .svg, .png or .pdf; this needs Graphviz's program `dot`.

        Returns
        -------
        graphviz.Digraph
            A notebook shows it, if there is `dot`; its text is `.source`.

        Raises
        ------
        ImportError
            Without the package graphviz, the extra `fastfc[graphviz]`.
        ValueError
            If path has another ending.
        RuntimeError
            If a file is wanted and there is no `dot`.

        Examples
        --------
        >>> import fastfc as fc
        >>> diagram = fc.MLP([64, 128, 10]).plot()
        >>> "Linear(64, 128)" in diagram.source
        True
        """
        from fastfc.io import graphviz as diagram

        return diagram.draw(self, path)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        optimizer: Optimizer | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write everything to a safetensors file, for `load` and `load_checkpoint`. Needs `fastfc[safetensors]`.

        That is layers, parameters, buffers and history, and of the optimizer all that `fit` needs to go on as if it
        had never stopped: hyperparameters, state, schedule, and the order of samples of a `seed` that is a number.
        The file is there whole or not at all: a file of that name is replaced at the end. Gradients and `n_threads`
        are not part of it.

        Parameters
        ----------
        path : str or path-like
        optimizer : Optimizer, optional
        metadata : dict, optional
            Notes of your own: None, strings, numbers, and lists and dicts of them.

        Raises
        ------
        TypeError
            If a layer, the optimizer or the metadata can't be stored, as an Elementwise, which is code.
        """
        from fastfc.io import checkpoint as files

        files.save(self, path, optimizer, metadata)

    def to_torch(self) -> Any:
        """A torch.nn.Sequential of the same layers, with copies of the parameters. Needs `fastfc[torch]`.

        It is in eval mode, in which its output is that of `predict`. Linear layers, activations, Dropout, LayerNorm,
        RMSNorm, BatchNorm1d, Standardize (a module of fastfc.io.torch_modules) and Sequential can be converted.

        Raises
        ------
        TypeError
            Naming the layers that PyTorch has no counterpart for.
        """
        from fastfc.io import torch

        return torch.to_torch(self)

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Write the network as an ONNX model, which any runtime can run: what `predict` computes.

        Inputs are (batch, width), named as the `Input` nodes are, or "input" and "input_1", …; outputs are "output" or
        "output_0", …. Dropout is left out; BatchNorm1d takes its running statistics. ONNX Runtime runs all of it in
        float32; in float64 all but GELU("none"), as it has no such erf.

        Parameters
        ----------
        path : str or path-like
            Replaced if it exists, once the new file is complete.

        Raises
        ------
        ValueError
            Naming it, if a layer cannot be written: an Elementwise of your own function, a layer class of your own;
            or if there are more than 2 GB of parameters. Nothing is written then.

        References
        ----------
        Operators of opset 20 of https://onnx.ai/onnx/operators/

        Examples
        --------
        >>> import fastfc as fc
        >>> fc.MLP([4, 8, 3], output_activation="softmax").to_onnx("classifier.onnx")
        >>> fc.from_onnx("classifier.onnx")
        Sequential([Linear(4, 8), ReLU(), Linear(8, 3), Softmax()])
        """
        from fastfc.io.onnx.writer import to_onnx

        to_onnx(self, path)

    def _parts(self) -> Sequence[Layer]:
        return self.layers

    def _bind(self, vector: NDArray[Any], grads: NDArray[Any], n_buffers: int = 0) -> None:
        super()._bind(vector, grads, n_buffers)
        start, place = 0, vector.size - n_buffers
        for layer in self.layers:
            stop, n = start + layer._params.size, layer._buffers.size
            layer._bind(vector[start : place + n if n else stop], grads[start:stop], n)
            layer._owner = weakref.ref(self)
            start, place = stop, place + n

    def __copy__(self) -> Network:
        return copy.deepcopy(self)  # a shallow copy would move our layers' arrays to itself


class Sequential(Network):
    """Layers one after another: the output of each is the input of the next.

    All parameters live in one flat aligned vector `params`, in the order W1, b1, W2, b2, …, all
    gradients in `grads`; the layers' `weight`, `bias`, … become views of them. A Linear followed by an
    activation of single elements predicts, and mostly trains, as one fused step.

    Parameters
    ----------
    layers : iterable of Layer
        Each layer object belongs to one network only; copy.deepcopy(layer) for use in another.

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
        If there is no layer, widths or dtypes of neighbours differ, or a layer is used twice.

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

    def __init__(self, layers: Iterable[Layer]) -> None:
        layers = tuple(listed(layers, "Sequential", "layers", "[Linear(2, 8), ReLU(), Linear(8, 1)]"))
        check_chain(layers)
        self._fix(layers=layers)
        super().__init__(
            next((layer.in_features for layer in layers if layer.in_features), None),
            next((layer.out_features for layer in layers[::-1] if layer.out_features), None),
        )

    def summary(self) -> str:
        """A table of the layers, the width of their outputs and their numbers of parameters."""
        rows, width = [("layer", "output", "parameters")], self.in_features
        for layer in self.layers:
            width = layer.out_features or width
            rows.append((str(layer), str(width or "any"), f"{layer.params.size:,}"))
        rows.append(("total", "", f"{self.params.size:,}"))
        first, second, third = (max(map(len, column)) for column in zip(*rows, strict=True))
        return "\n".join([f"{a:<{first}}  {b:>{second}}  {c:>{third}}" for a, b, c in rows] + self._more())

    def _record(self, recorder: Recorder, value: int, first: int, alone: bool = True) -> int:
        for layer in self.layers:
            value = layer._record(recorder, value, first, alone)
            first, alone = first + layer._params.size, True
        return value

    def _known_names(self) -> tuple[Names | None, ...] | None:
        first = self.layers[0]
        return first._known_names() if self._input_names is None and isinstance(first, Network) else self._input_names

    def _last_layers(self) -> list[Layer | None]:
        changing = [layer for layer in self.layers if not isinstance(layer, Identity | Dropout)]
        return changing[-1]._last_layers() if changing else [None]

    def __len__(self) -> int:
        return len(self.layers)

    @overload
    def __getitem__(self, index: int) -> Layer: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Layer, ...]: ...
    def __getitem__(self, index: int | slice) -> Layer | tuple[Layer, ...]:
        return self.layers[index]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __repr__(self) -> str:
        return f"Sequential([{', '.join(map(repr, self.layers))}])"


def MLP(
    sizes: Sequence[int],
    activation: str | Activation | type[Activation] | Sequence[Any] = "relu",
    output_activation: str | Activation | type[Activation] | None = None,
    init: str | Initializer = "he",
    seed: int | np.random.Generator | None = None,
    dtype: Any = np.float32,
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

    Returns
    -------
    Sequential

    Raises
    ------
    TypeError, ValueError
        For sizes that are not at least two positive integers, a name that there is not, or another number of
        activations than of hidden layers.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.MLP([64, 128, 10])
    Sequential([Linear(64, 128), ReLU(), Linear(128, 10)])
    >>> fc.MLP([8, 4, 2, 1], activation=[fc.LeakyReLU(0.1), "tanh"])
    Sequential([Linear(8, 4), LeakyReLU(negative_slope=0.1), Linear(4, 2), Tanh(), Linear(2, 1)])
    """
    sizes = [positive_int(size, "MLP", "each size") for size in listed(sizes, "MLP", "sizes", "[64, 128, 10]")]
    if len(sizes) < 2:
        raise ValueError(f"MLP: sizes must name at least the input's and output's width, got {sizes}")
    rng, n_hidden = as_generator(seed, "MLP"), len(sizes) - 2
    if not np.iterable(activation) or isinstance(activation, str):
        get_activation(activation)  # says what is wrong with it where there is no hidden layer too
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
    return Sequential(layers)


def check_chain(layers: tuple[Layer, ...]) -> None:
    """Raise unless these layers can follow one another in a new network."""
    if not layers:
        raise ValueError("Sequential: a network needs at least one layer")
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise TypeError(f"Sequential: layer {i} must be a layer object such as ReLU(), got {layer!r}")
        if any(layer is other for other in layers[:i]):
            raise ValueError(f"Sequential: layer {i}, {layer}, is there twice; use copy.deepcopy(layer)")
    check_free("Sequential", layers)
    last = None  # the latest layer that fixes width and dtype
    for i, layer in enumerate(layers):
        if layer.dtype is None:
            continue
        if last is not None and layer.in_features != last.out_features:
            raise ValueError(
                f"Sequential: {last} gives {last.out_features} numbers per sample, but layer {i}, {layer}, "
                f"takes {layer.in_features}; make the two widths equal"
            )
        if last is not None and layer.dtype != last.dtype:
            raise ValueError(f"Sequential: {last} is {last.dtype}, but layer {i}, {layer}, is {layer.dtype}")
        last = layer


def check_free(network: str, layers: tuple[Layer, ...]) -> None:
    """Raise if a layer is part of another network."""
    for i, layer in enumerate(layers):
        if layer._owner is not None and layer._owner() is not None:
            raise ValueError(f"{network}: layer {i}, {layer}, is in another network; copy.deepcopy(layer)")
