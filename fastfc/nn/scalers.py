"""Layers by numbers of data: `RobustScale` and `QuantileNormal` for inputs, and `Clamp` for outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from fastfc.kernels.program import table
from fastfc.nn.activations import SmoothClip
from fastfc.nn.layer import option
from fastfc.nn.lowering import Lowering
from fastfc.nn.norms import FeatureNorm, Rows, row
from fastfc.nn.numeric_embedding import samples
from fastfc.nn.tensors import Shapes, TensorLayer, tensor
from fastfc.validation import as_real, float_dtype, positive_int, positive_number

__all__ = ["Clamp", "QuantileNormal", "RobustScale"]

# What a constant feature is divided by: nothing is left of it.
CONSTANT_SCALE = 1e30
# The quantiles of the normal distribution that stand for 0 and 1, as scikit-learn has them.
LEAST = 1e-7


def limit_or_none(value: Any, owner: str, what: str) -> float | None:
    return None if value is None else positive_number(value, owner, what)


class RobustScale(FeatureNorm):
    """z = (x − center) / scale, and y = z / √(1 + (z / limit)²), which stays within ±limit.

    `adapt` sets center to the median and scale to the distance of the quartiles of each feature, so that no few far
    numbers decide it.

    Parameters
    ----------
    features : int
    limit : float, positive, or None
        None is no clip: y = z.
    dtype : np.float32 or np.float64
    name : str, optional
        Shown in errors, summaries and reports.

    Attributes
    ----------
    center, scale : (features,) arrays
        In `buffers`: they are not trained. First 0 and 1. Assigning to one copies the values into place.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong kind or out of its range; in use, for x of another width.

    References
    ----------
    D. Holzmüller, L. Grinsztajn, I. Steinwart, "Better by default: strong pre-tuned MLPs and boosted trees on tabular
    data", NeurIPS 2024.

    Examples
    --------
    >>> import fastfc as fc
    >>> layer = fc.RobustScale.of([[0.0], [1], [2], [3], [4]])
    >>> layer.center, layer.scale
    (array([2.], dtype=float32), array([2.], dtype=float32))
    >>> layer.predict([[2], [10], [1e9]])
    array([[0. ],
           [2.4],
           [3. ]], dtype=float32)
    """

    center, scale = row("center"), row("scale")
    limit: float | None = option(limit_or_none)

    def __init__(
        self, features: int, limit: float | None = 3.0, *, dtype: Any = np.float32, name: str | None = None
    ) -> None:
        self.limit = limit
        super().__init__(features, self.rows({}), dtype, name)
        self.scale = np.ones(self.in_features)

    @staticmethod
    def rows(options: Mapping[str, Any]) -> Rows:
        return (), ("center", "scale")

    @classmethod
    def of(cls, x: ArrayLike, limit: float | None = 3.0, *, dtype: Any = np.float32, name: str | None = None) -> Any:
        """A layer that is adapted to `x`, (n, features)."""
        x = as_real(x, "RobustScale", "x")
        if x.ndim != 2:
            raise ValueError(f"RobustScale: x has shape {x.shape}, expected (n, features)")
        return cls(x.shape[1], limit, dtype=dtype, name=name).adapt(x)

    def adapt(self, x: ArrayLike) -> RobustScale:
        """Set center and scale from the features of `x`; the layer itself.

        Parameters
        ----------
        x : (n, features) array of finite real numbers, n >= 1
            Where the quartiles are the same, the scale is half the distance of the least and the greatest number; where
            these are the same too, y is 0.
        """
        x = samples(self._check_rows(as_real(x, self, "x")), self)
        low, self.center, high = np.quantile(x, [0.25, 0.5, 0.75], axis=0)
        scale = np.where(high > low, high - low, (x.max(axis=0) - x.min(axis=0)) / 2)
        self.scale = np.where(scale > 0, scale, CONSTANT_SCALE)
        return self

    def record(self, lowering: Lowering, value: int, first: int, alone: bool = True) -> int:
        self._check_width(lowering, value)
        z = lowering.op(table.STANDARDIZE, value, weight=self._place("center", first))
        return z if self.limit is None else lowering.activation(z, SmoothClip(self.limit).numbers())

    def _settings(self) -> list[str]:
        return [f"limit={self.limit}"] * (self.limit != 3.0)


class QuantileNormal(TensorLayer):
    """y = the piecewise linear function of each feature that takes its quantiles to those of the normal distribution.

    y is constant beyond the least and the greatest number of the data, at ±5.2.

    Parameters
    ----------
    features : int
    n_quantiles : int, at least 2
    dtype : np.float32 or np.float64
    name : str, optional
        Shown in errors, summaries and reports.

    Attributes
    ----------
    knots, values : (features, n_quantiles) arrays
        x, not falling, and y, between which y is interpolated. In `buffers`: they are not trained. First those of a
        standard normal distribution. A feature with few values has fewer knots, and repeats the last one.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong kind or out of its range; in use, for x of another width.

    References
    ----------
    sklearn.preprocessing.QuantileTransformer; here between quantiles the normal numbers are interpolated, not the
    probabilities, and a value that many samples share is taken to the middle of its probabilities.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> x = np.exp(np.random.default_rng(0).standard_normal((10_000, 1)))
    >>> y = fc.QuantileNormal.of(x).predict(x)
    >>> print(f"{abs(y.mean()):.2f} {y.std():.2f} {y[x[:, 0] < 1].max():.1f}")
    0.00 1.00 0.0
    """

    in_features: int
    out_features: int
    n_quantiles: int

    _fixed: ClassVar[Mapping[str, str]] = {"n_quantiles": "make a new QuantileNormal"}
    knots, values = tensor("knots"), tensor("values")

    def __init__(
        self, features: int, n_quantiles: int = 1000, *, dtype: Any = np.float32, name: str | None = None
    ) -> None:
        features = positive_int(features, "QuantileNormal", "features")
        if positive_int(n_quantiles, "QuantileNormal", "n_quantiles") < 2:
            raise ValueError(f"QuantileNormal: n_quantiles must be at least 2, got {n_quantiles}")
        self._fix(in_features=features, out_features=features, n_quantiles=int(n_quantiles))
        self.name = name
        self._make_tensors(
            {"features": features, "n_quantiles": self.n_quantiles}, float_dtype(dtype, "QuantileNormal")
        )
        normal = normal_quantiles(np.linspace(0, 1, self.n_quantiles))
        self.knots = self.values = np.broadcast_to(normal, self.knots.shape)

    @staticmethod
    def shapes(options: Mapping[str, Any]) -> tuple[Shapes, Shapes]:
        shape = options["features"], options["n_quantiles"]
        return {}, {"knots": shape, "values": shape}

    @classmethod
    def of(
        cls, x: ArrayLike, n_quantiles: int = 1000, *, dtype: Any = np.float32, name: str | None = None
    ) -> QuantileNormal:
        """A layer that is adapted to `x`, (n, features), with at most n quantiles."""
        x = as_real(x, "QuantileNormal", "x")
        if x.ndim != 2:
            raise ValueError(f"QuantileNormal: x has shape {x.shape}, expected (n, features)")
        n_quantiles = positive_int(n_quantiles, "QuantileNormal", "n_quantiles")
        return cls(x.shape[1], min(n_quantiles, max(2, len(x))), dtype=dtype, name=name).adapt(x)

    def adapt(self, x: ArrayLike) -> QuantileNormal:
        """Set the knots to the quantiles of the features of `x`; the layer itself.

        Parameters
        ----------
        x : (n, features) array of finite real numbers, n >= 1
            A feature that is constant becomes 0.
        """
        x = samples(self._check_rows(as_real(x, self, "x")), self)
        shares = np.linspace(0, 1, self.n_quantiles)
        quantiles = np.quantile(x, shares, axis=0).T.astype(self.knots.dtype)
        for knots, values, given in zip(self.knots, self.values, quantiles, strict=True):
            distinct, first, counts = np.unique(given, return_index=True, return_counts=True)
            middle = normal_quantiles((shares[first] + shares[first + counts - 1]) / 2)
            knots[...], values[...] = distinct[-1], middle[-1]
            knots[: distinct.size], values[: distinct.size] = distinct, middle
        return self

    def record(self, lowering: Lowering, value: int, first: int, alone: bool = True) -> int:
        self._check_width(lowering, value)
        return lowering.op(table.POLYGON, value, weight=self._place("knots", first), number=self.n_quantiles)

    def _arguments(self) -> list[str]:
        return [str(self.in_features), str(self.n_quantiles)]


class Clamp(FeatureNorm):
    """y = min(max(x, low), high), with bounds of each feature; dL/dx = dL/dy where low <= x <= high, else 0.

    Put last, behind a network that is trained and the inverse of what its targets were standardised by, it keeps
    predictions within the range of the targets that were seen, so that no faulty row gives an absurd one.

    Parameters
    ----------
    features : int
    dtype : np.float32 or np.float64
    name : str, optional
        Shown in errors, summaries and reports.

    Attributes
    ----------
    low, high : (features,) arrays
        In `buffers`: they are not trained. First the least and the greatest finite number. Assigning to one copies the
        values into place.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong kind or out of its range; in use, for x of another width.

    References
    ----------
    torch.clamp

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> x = np.linspace(-1, 1, 50)[:, None]
    >>> y = 100 + 7 * np.concatenate([x, x**2], axis=1)
    >>> scale = fc.Standardize.of(y)
    >>> net = fc.initializers.fit_to(fc.MLP([1, 16, 2], "tanh"), x, seed=0)
    >>> history = net.fit(x, scale.predict(y), loss=fc.MSELoss(), optimizer=fc.Adam(0.02), epochs=100, seed=0)
    >>> whole = fc.Sequential([net, scale.inverse(), fc.Clamp.of(y)])
    >>> bool(abs(whole.predict(x) - y).max() < 1)
    True
    >>> whole.predict([[1e3]]).max(), y.max()
    (np.float32(107.0), np.float64(107.0))
    """

    low, high = row("low"), row("high")

    def __init__(self, features: int, *, dtype: Any = np.float32, name: str | None = None) -> None:
        super().__init__(features, self.rows({}), dtype, name)
        limits = np.finfo(self.low.dtype)
        self.low, self.high = (np.full(self.in_features, limit) for limit in (limits.min, limits.max))

    @staticmethod
    def rows(options: Mapping[str, Any]) -> Rows:
        return (), ("low", "high")

    @classmethod
    def of(cls, y: ArrayLike, *, dtype: Any = np.float32, name: str | None = None) -> Clamp:
        """A layer that is adapted to `y`, (n, features)."""
        y = as_real(y, "Clamp", "y")
        if y.ndim != 2:
            raise ValueError(f"Clamp: y has shape {y.shape}, expected (n, features); use y[:, None] for one column")
        return cls(y.shape[1], dtype=dtype, name=name).adapt(y)

    def adapt(self, y: ArrayLike) -> Clamp:
        """Set the bounds to the least and the greatest number of each feature of `y`; the layer itself.

        Parameters
        ----------
        y : (n, features) array of finite real numbers, n >= 1
        """
        y = samples(self._check_rows(as_real(y, self, "y")), self)
        self.low, self.high = y.min(axis=0), y.max(axis=0)
        return self

    def record(self, lowering: Lowering, value: int, first: int, alone: bool = True) -> int:
        self._check_width(lowering, value)
        return lowering.op(table.CLAMP, value, weight=self._place("low", first))


def normal_quantiles(shares: Any) -> Any:
    """Numbers below which a standard normal one is with these probabilities."""
    from statistics import NormalDist  # with its fractions, longer to import than all layers

    inverse = NormalDist().inv_cdf
    return np.array([inverse(share) for share in np.clip(shares, LEAST, 1 - LEAST).tolist()])
