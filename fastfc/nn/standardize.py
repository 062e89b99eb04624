"""Standardize, for inputs of different size and unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastfc.kernels.program import table as program_table
from fastfc.nn.lowering import Lowering
from fastfc.nn.norms import FeatureNorm, Rows, row
from fastfc.validation import as_real

__all__ = ["Standardize"]


class Standardize(FeatureNorm):
    """y = (x − mean) / scale, with a stored mean and spread of each feature; dL/dx = dL/dy / scale.

    Put it first, so that a network takes data in its own units, and keeps and saves how to scale them.

    Parameters
    ----------
    features : int
    dtype : np.float32 or np.float64
    name : str, optional
        Shown in errors, summaries and reports.

    Attributes
    ----------
    mean, scale : (features,) arrays
        In `buffers`: they are not trained. First 0 and 1. Assigning to one copies the values into place.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong kind or out of its range; in use, for x of another width.

    References
    ----------
    Y. LeCun, L. Bottou, G. Orr, K.-R. Müller, "Efficient BackProp", 1998, section 4.3; `adapt` computes what
    scikit-learn's StandardScaler does.

    Examples
    --------
    >>> import fastfc as fc
    >>> layer = fc.Standardize.of([[1, 5], [3, 5]])
    >>> layer.mean, layer.scale
    (array([2., 5.], dtype=float32), array([1., 1.], dtype=float32))
    >>> layer.predict([[4, 5]])
    array([[2., 0.]], dtype=float32)
    """

    mean, scale = row("mean"), row("scale")

    def __init__(self, features: int, *, dtype: Any = np.float32, name: str | None = None) -> None:
        super().__init__(features, self.rows({}), dtype, name)
        self.scale = np.ones(self.in_features)

    @staticmethod
    def rows(options: Mapping[str, Any]) -> Rows:
        return (), ("mean", "scale")

    @classmethod
    def of(cls, x: ArrayLike, *, dtype: Any = np.float32, name: str | None = None) -> Standardize:
        """A layer that is adapted to `x`, (n, features)."""
        x = as_real(x, "Standardize", "x")
        if x.ndim != 2:
            raise ValueError(f"Standardize: x has shape {x.shape}, expected (n, features)")
        return cls(x.shape[1], dtype=dtype, name=name).adapt(x)

    def adapt(self, x: ArrayLike) -> Standardize:
        """Set the mean, and as scale the standard deviation (biased), of the features of `x`; the layer itself.

        Parameters
        ----------
        x : (n, features) array of finite real numbers, n >= 1
            The scale of a feature that is constant, but for rounding, is 1.
        """
        x = self._check_rows(as_real(x, self, "x")).astype(np.float64)
        if len(x) == 0:
            raise ValueError(f"{self}: x has shape {x.shape}; give at least one sample")
        mean, variance = x.mean(axis=0), x.var(axis=0)
        if not (np.isfinite(mean) & np.isfinite(variance)).all():
            column = int(np.argmin(np.isfinite(mean) & np.isfinite(variance)))
            raise ValueError(f"{self}: column {column} of x has entries that are not finite")
        # the rounding of a constant's variance, as scikit-learn bounds it (Chan, Golub, LeVeque 1983)
        eps = np.finfo(np.float64).eps
        constant = variance <= len(x) * eps * variance + (len(x) * mean * eps) ** 2
        self.mean, self.scale = mean, np.where(constant, 1, np.sqrt(variance))
        return self

    def inverse(self, *, name: str | None = None) -> Standardize:
        """A layer that undoes this one, y = scale x + mean: for a network that is trained on standardised targets.

        Examples
        --------
        >>> import fastfc as fc
        >>> layer = fc.Standardize.of([[1, 5], [3, 7]])
        >>> layer.inverse().predict(layer.predict([[2.5, 6]]))
        array([[2.5, 6. ]], dtype=float32)
        """
        mean, scale = self.mean.astype(np.float64), self.scale.astype(np.float64)
        layer = Standardize(self.in_features, dtype=self.dtype, name=name)
        layer.mean, layer.scale = -mean / scale, 1 / scale
        return layer

    def record(self, lowering: Lowering, value: int, first: int, alone: bool = True) -> int:
        self._check_width(lowering, value)
        return lowering.op(program_table.STANDARDIZE, value, weight=self._place("mean", first))
