"""Dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastfc.kernels.ops.activation_rules import NONE
from fastfc.kernels.program import table as program_table
from fastfc.nn.layer import Layer, option
from fastfc.nn.lowering import Lowering
from fastfc.validation import as_generator, fraction

__all__ = ["Dropout"]


class Dropout(Layer):
    """y = x m / (1 − p) in training, with a mask m that is 0 with probability p, else 1; y = x in `predict`.

    Backward is dL/dx = dL/dy ⊙ m / (1 − p), with the mask of the latest forward. `forward`, `train_step` and
    `fit` count as training. The mask of an element is a hash of the seed, the place of the layer in the network, the
    number of forwards so far and the element's place in the batch: the same for float32 and float64, any
    processor and any number of threads.

    Parameters
    ----------
    p : float
        From 0 to 1, the part of the elements that is dropped.
    seed : int, numpy.random.Generator or None

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong kind or out of its range; in use, for x of another width.

    References
    ----------
    N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever, R. Salakhutdinov, "Dropout: a simple way to prevent neural
    networks from overfitting", JMLR 15, 2014. J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
    SC 2011, for numbers from counters.

    Examples
    --------
    >>> import fastfc as fc
    >>> layer = fc.Dropout(0.5, seed=1)
    >>> layer.forward([[1, 2, 3, 4, 5, 6]])
    array([[ 2.,  4.,  6.,  0., 10.,  0.]], dtype=float32)
    >>> layer.backward([[1, 1, 1, 1, 1, 1]])
    array([[2., 2., 2., 0., 2., 0.]], dtype=float32)
    >>> layer.predict([1, 2, 3, 4, 5, 6])
    array([1., 2., 3., 4., 5., 6.], dtype=float32)
    """

    _internal = frozenset({"restore_seed"})
    p: float = option(fraction)
    seed: Any = option(lambda seed, owner, what: int(as_generator(seed, owner).integers(1 << 63)))

    def __init__(self, p: float = 0.5, seed: int | np.random.Generator | None = None) -> None:
        self.p, self.seed = p, seed

    def restore_seed(self, seed: int) -> None:
        """Take the seed that another Dropout had; `seed = …` draws one from it."""
        self._seed = seed
        self.changed()

    def record(self, lowering: Lowering, value: int, first: int, alone: bool = True) -> int:
        if self.p == 0:
            return lowering.activation(value, NONE, alone)
        return lowering.op(program_table.DROPOUT, value, number=self.seed, factor=self.p, factor_2=1.0)

    def __repr__(self) -> str:
        return f"Dropout({self.p:g})"
