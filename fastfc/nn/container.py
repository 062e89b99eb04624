"""`Container`: layers whose parameters live in one flat vector, as trainers and exporters know networks."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeGuard

import numpy as np
from numpy.typing import NDArray

from fastfc.attributes import OF_NETWORKS
from fastfc.data.columns import Columns, Names, as_names, check_sample
from fastfc.nn.layer import Layer, Parameter
from fastfc.validation import as_floats, positive_int

# The networks by name, as models/ enters them: files and models of other libraries become networks of these classes.
CONTAINERS: dict[str, type[Any]] = {}
# The ensemble of networks, as models/ enters it: a file may hold one.
ENSEMBLES: dict[str, type[Any]] = {}


def is_a(layer: Any, kind: str) -> TypeGuard[Any]:
    """Whether a layer is a network of the class with this name."""
    return isinstance(layer, CONTAINERS[kind])


class Container(Layer):
    """Layers whose parameters live in one flat vector.

    Trainers and exporters know a network as that: `layers`, and of a graph `nodes`, `inputs` and `outputs`.
    """

    layers: tuple[Any, ...]  # of Layer; Any, as a layer's own attributes, such as weight, are its kind's
    history: Any

    _input_shapes: tuple[tuple[int, ...], ...] | None = None

    _fixed: ClassVar[Mapping[str, str]] = {
        "in_features": "it is that of the layers; make a new network",
        "out_features": "it is that of the layers; make a new network",
        "layers": "the vectors are made of theirs; make a new network, such as Sequential([*net, Tanh()])",
        "dtype": "it is that of the layers; make a new network of layers with dtype=…",
    }

    _elsewhere = OF_NETWORKS
    _internal = frozenset(("columns", "input_names", "learn_names", "rows_of_input", "target_names"))

    _arrays = ()

    _input_names: tuple[Names | None, ...] | None = None  # of frames that we were fitted on, see columns.py

    _target_names: tuple[Names | None, ...] | None = None

    @property
    def dtype(self) -> np.dtype[Any] | None:
        return self._vector.dtype if self._vector.size else None

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...] | None:
        """The shape of a sample of each input, where samples need not be rows; None where they are.

        `predict`, `forward`, `fit` and `evaluate` then take (n, *shape) too, and make it (n, features) in the order of
        memory. `from_onnx` sets it for models that take images, or one number for each sample: the shape ().

        Raises
        ------
        ValueError
            On assignment, unless there is one shape for each input, whose product is its number of features.
        """
        return self._input_shapes

    @input_shapes.setter
    def input_shapes(self, shapes: Iterable[Iterable[int]] | None) -> None:
        if shapes is not None:
            checked = tuple(
                tuple(positive_int(size, self, "each size in input_shapes") for size in shape) for shape in shapes
            )
            widths = self.input_widths()
            if len(checked) != len(widths) or any(
                width not in (None, math.prod(shape)) for width, shape in zip(widths, checked, strict=True)
            ):
                raise ValueError(f"{self}: input_shapes {checked} do not fit inputs of {widths} features")
            shapes = checked
        self._input_shapes = shapes
        self.raise_version()

    def rows_of_input(self, x: Any, i: int = 0) -> Any:
        """The x of input i with each sample as a row."""
        if self._input_shapes is None:
            return x
        shape, x = self._input_shapes[i], as_floats(x, self.dtype, self, "x")
        if x.ndim == 1 + len(shape) and x.shape[1:] == shape:
            return x.reshape(len(x), math.prod(shape))
        if x.ndim > 1 and x.shape == shape and shape != (1, x.size):  # (1, width) is a row
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

    def _list_trained(self) -> list[Parameter]:
        parameters, start = [], 0
        for i, layer in enumerate([] if self.frozen else self.layers):
            for name, first, shape in layer.trained_parameters():
                parameters.append(Parameter(f"{layer.name or i}.{name}", start + first, shape))
            start += layer.params.size
        return parameters

    @property
    def feature_names(self) -> Any:
        """Names of the columns of the data frame that the network was fitted on, a list; None after arrays.

        A frame whose columns have other names or another order is refused. For a graph of several inputs, a list with
        the names of each. Assign names to have frames checked by them, None to forget them.
        """
        known = self.input_names()
        if known is None:
            return None
        lists = [None if names is None else list(names) for names in known]
        return lists[0] if self.one_input else lists

    @feature_names.setter
    def feature_names(self, names: Any) -> None:
        self.learn_names(as_names(names, self.input_widths()), None)

    def input_names(self) -> tuple[Names | None, ...] | None:
        """The names of the columns of each input, where they are known."""
        return self._input_names

    def target_names(self) -> tuple[Names | None, ...] | None:
        """The names of the columns of each output, where they are known."""
        return self._target_names

    def learn_names(self, inputs: tuple[Names | None, ...] | None, targets: tuple[Names | None, ...] | None) -> None:
        """Know these names from now on."""
        if (inputs, targets) != (self._input_names, self._target_names):
            self._input_names, self._target_names = inputs, targets

    def columns(self, *, learning: bool = False) -> Columns:
        """The names that we know, for checks of frames; learning, the first frame may have others."""
        counts = len(self.input_widths()), len(self.output_widths())
        return Columns(self, self.input_names(), self.target_names(), counts, learning=learning)

    def check_names(self, x: Any) -> None:
        if type(x) is not np.ndarray and self.input_names() is not None:
            self.columns().check(x)
            check_sample(self, self.input_names(), x)

    def join(self, x: Any) -> NDArray[Any]:
        return super().join(self.rows_of_input(x))

    def _more(self) -> list[str]:
        """Lines below the summary's table."""
        kinds = dict.fromkeys(name.rpartition(".")[2] for name, _ in self.named_buffers())
        return [f"and {self.buffers.size:,} numbers that are not trained: {', '.join(kinds)}"] if kinds else []

    def parts(self) -> Sequence[Layer]:
        return self.layers

    def bind(
        self, vector: NDArray[Any], grads: NDArray[Any], n_buffers: int = 0, owner: weakref.ref[Layer] | None = None
    ) -> None:
        super().bind(vector, grads, n_buffers, owner)
        # parameters of all layers come first, then buffers of all
        first, first_buffer = 0, vector.size - n_buffers
        for layer in self.layers:
            last, n = first + layer.params.size, layer.buffers.size
            layer.bind(vector[first : first_buffer + n if n else last], grads[first:last], n, weakref.ref(self))
            first, first_buffer = last, first_buffer + n

    def __copy__(self) -> Container:
        return copy.deepcopy(self)  # a shallow copy would move our layers' arrays to itself


def check_free(network: str, layers: tuple[Layer, ...]) -> None:
    """Raise if a layer is part of another network."""
    for i, layer in enumerate(layers):
        if layer.network() is not None:
            raise ValueError(f"{network}: layer {i}, {layer}, is in another network; copy.deepcopy(layer)")
