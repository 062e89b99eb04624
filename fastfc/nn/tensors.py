"""Base of layers with several arrays of any shapes, by their names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfc.nn.layer import Layer, aligned_zeros, assign
from fastfc.nn.lowering import Lowering

Shapes = dict[str, tuple[int, ...]]


def tensor(name: str, of: str = "values") -> Any:
    """Property of a TensorLayer: one of its arrays, None if it has no such one; assigning copies into place."""

    def get(self: TensorLayer) -> NDArray[Any] | None:
        return self._views[of].get(name)

    def put(self: TensorLayer, value: ArrayLike) -> None:
        assign(self, name if of == "values" else f"{name}_grad", value, get(self))

    return property(get, put)


class TensorLayer(Layer):
    """Base of the layers whose parameters and buffers are arrays of their own shapes.

    Attributes
    ----------
    in_features, out_features : int or None
    """

    _internal = frozenset({"shapes"})

    @staticmethod
    def shapes(options: Mapping[str, Any]) -> tuple[Shapes, Shapes]:
        """Shapes of the parameters and of the buffers of a layer of these options."""
        raise NotImplementedError

    @classmethod
    def tensor_shapes(cls, options: Mapping[str, Any]) -> Shapes:
        trained, buffers = cls.shapes(options)
        return trained | buffers

    def _make_tensors(self, options: Mapping[str, Any], dtype: np.dtype[Any]) -> None:
        """Zeros of these shapes."""
        self._trained_shapes, self._buffer_shapes = self.shapes(options)
        p, b = (sum(map(math.prod, shapes.values())) for shapes in (self._trained_shapes, self._buffer_shapes))
        self.bind(aligned_zeros(p + b, dtype), aligned_zeros(p, dtype), b)

    def bind(self, vector: NDArray[Any], grads: NDArray[Any], n_buffers: int = 0, owner: Any = None) -> None:
        super().bind(vector, grads, n_buffers, owner)
        trained, buffers = self._trained_shapes, self._buffer_shapes
        self._views = {
            "values": views(self._params, trained) | views(self._buffers, buffers),
            "grads": views(grads, trained),
        }

    def _place(self, name: str, first: int) -> int:
        """Where an array is in the vector of values if our parameters begin at `first`."""
        if name in self._buffer_shapes:  # at the vector's end
            first += self._vector.size - self._buffers.size
            return first + begins(self._buffer_shapes)[name]
        return first + begins(self._trained_shapes)[name]

    @property
    def dtype(self) -> np.dtype[Any] | None:
        return (self._params if self._params.size else self._buffers).dtype

    def named_parameters(self) -> list[tuple[str, NDArray[Any], NDArray[Any]]]:
        values, grads = self._views["values"], self._views["grads"]
        return [(name, values[name], grads[name]) for name in self._trained_shapes]

    def named_buffers(self) -> list[tuple[str, NDArray[Any]]]:
        return [(name, self._views["values"][name]) for name in self._buffer_shapes]

    def _check_width(self, lowering: Lowering, value: int) -> None:
        if self.in_features not in (None, lowering.widths[value]):
            raise ValueError(f"{self} takes {self.in_features} numbers per sample, got {lowering.widths[value]}")

    def _arguments(self) -> list[str]:
        """The arguments of its own that `repr` shows."""
        return []

    def __repr__(self) -> str:
        dtype = [] if self.dtype == np.float32 else [f"dtype={self.dtype}"]
        name = [] if self.name is None else [f"name={self.name!r}"]
        return f"{type(self).__name__}({', '.join([*self._arguments(), *dtype, *name])})"


def begins(shapes: Shapes) -> dict[str, int]:
    """Where each array begins, one after another."""
    return dict(zip(shapes, accumulate(map(math.prod, shapes.values()), initial=0), strict=False))


def views(vector: NDArray[Any], shapes: Shapes) -> dict[str, NDArray[Any]]:
    places = begins(shapes)
    return {
        name: vector[places[name] : places[name] + math.prod(shape)].reshape(shape) for name, shape in shapes.items()
    }
