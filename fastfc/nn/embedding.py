"""Embedding, for columns of categories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastfc.kernels.program import table as program_table
from fastfc.nn.initializers import Initializer, get_initializer
from fastfc.nn.layer import Layer, aligned_zeros
from fastfc.nn.linear import view
from fastfc.nn.lowering import Lowering
from fastfc.validation import as_generator, float_dtype, positive_int

__all__ = ["Embedding"]


def standard_normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    return rng.standard_normal(shape, dtype)


class Embedding(Layer):
    """Rows of a table by whole numbers: y = (weight[x₁], weight[x₂], …), side by side.

    Backward adds dL/dy to the rows of dL/d(weight) that were looked up, all others are 0; dL/dx is 0.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
        Rows of the table and their width. In float32 there can be at most 2²⁴ rows, as it holds no larger whole
        numbers exactly.
    in_features : int
        Columns of x, all of which take rows from the same table.
    init : str or callable
        First values of the table, by default standard normal, see fastfc.nn.initializers.
    seed : int, numpy.random.Generator or None
    dtype : np.float32 or np.float64
    name : str, optional
        Shown in errors, summaries and reports.

    Attributes
    ----------
    weight, weight_grad : (num_embeddings, embedding_dim) arrays
        Views of `params` and `grads`. Assigning to one copies the values into place.

    Raises
    ------
    ValueError
        If x holds anything but whole numbers from 0 to num_embeddings − 1; nothing is changed then.

    References
    ----------
    Y. Bengio, R. Ducharme, P. Vincent, C. Jauvin, "A neural probabilistic language model", JMLR 3, 2003.

    Examples
    --------
    >>> import fastfc as fc
    >>> layer = fc.Embedding(3, 2, in_features=2)
    >>> layer.weight = [[0, 1], [10, 11], [20, 21]]
    >>> layer.forward([[2, 0], [1, 1]])
    array([[20., 21.,  0.,  1.],
           [10., 11., 10., 11.]], dtype=float32)

    Categories beside numbers, in a Graph:

    >>> numbers, color = fc.Input(5), fc.Input(1)
    >>> x = fc.concatenate([numbers, fc.Embedding(7, 3)(color)])
    >>> net = fc.Graph([numbers, color], fc.Linear(8, 1)(x))
    """

    in_features: int
    out_features: int
    num_embeddings: int
    embedding_dim: int

    _fixed: ClassVar[Mapping[str, str]] = dict.fromkeys(("num_embeddings", "embedding_dim"), "make a new Embedding")
    weight, weight_grad = view(0, "weight"), view(1, "weight_grad")

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        in_features: int = 1,
        *,
        init: str | Initializer = standard_normal,
        seed: int | np.random.Generator | None = None,
        dtype: Any = np.float32,
        name: str | None = None,
    ) -> None:
        sizes = (("num_embeddings", num_embeddings), ("embedding_dim", embedding_dim), ("in_features", in_features))
        self._fix(**{what: positive_int(size, "Embedding", what) for what, size in sizes})
        self._fix(out_features=self.in_features * self.embedding_dim)
        self.name = name
        dtype = float_dtype(dtype, "Embedding")
        if dtype == np.float32 and num_embeddings > 1 << 24:
            raise ValueError(f"Embedding: float32 can number 2**24 rows, not {num_embeddings}; use dtype=np.float64")
        size = self.num_embeddings * self.embedding_dim
        self.bind(aligned_zeros(size, dtype), aligned_zeros(size, dtype))
        self.weight = get_initializer(init)(as_generator(seed, "Embedding"), self.weight.shape, dtype)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._params.dtype

    def named_parameters(self) -> list[tuple[str, NDArray[Any], NDArray[Any]]]:
        return [("weight", self.weight, self.weight_grad)]

    def bind(self, vector: NDArray[Any], grads: NDArray[Any], n_buffers: int = 0, owner: Any = None) -> None:
        super().bind(vector, grads, n_buffers, owner)
        shape = self.num_embeddings, self.embedding_dim
        self._views = self._params.reshape(shape), grads.reshape(shape)

    @classmethod
    def tensor_shapes(cls, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        return {"weight": (options["num_embeddings"], options["embedding_dim"])}

    def record(self, lowering: Lowering, value: int, first: int, alone: bool = True) -> int:
        if lowering.widths[value] != self.in_features:
            raise ValueError(f"{self} takes {self.in_features} numbers per sample, got {lowering.widths[value]}")
        return lowering.op(
            program_table.EMBEDDING, value, width=self.out_features, weight=first, number=self.num_embeddings
        )

    def __repr__(self) -> str:
        columns = "" if self.in_features == 1 else f", {self.in_features}"
        dtype = "" if self.dtype == np.float32 else f", dtype={self.dtype}"
        name = "" if self.name is None else f", name={self.name!r}"
        return f"Embedding({self.num_embeddings}, {self.embedding_dim}{columns}{dtype}{name})"
