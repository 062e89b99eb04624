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
from fastfc.data import columns
from fastfc.data.columns import Names
from fastfc.nn.layer import Layer, Parameter
from fastfc.validation import as_floats, positive_int

# The networks by name, as models/ enters them: files and models of other libraries become networks of these classes.
CONTAINERS: dict[str, type[Any]] = {}


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

    def _more(self) -> list[str]:
        """Lines below the summary's table."""
        kinds = dict.fromkeys(name.rpartition(".")[2] for name, _ in self.named_buffers())
        return [f"and {self.buffers.size:,} numbers that are not trained: {', '.join(kinds)}"] if kinds else []

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

    def __copy__(self) -> Container:
        return copy.deepcopy(self)  # a shallow copy would move our layers' arrays to itself


def check_free(network: str, layers: tuple[Layer, ...]) -> None:
    """Raise if a layer is part of another network."""
    for i, layer in enumerate(layers):
        if layer._owner is not None and layer._owner() is not None:
            raise ValueError(f"{network}: layer {i}, {layer}, is in another network; copy.deepcopy(layer)")
