"""Normalisation layers: along each sample (`LayerNorm`, `RMSNorm`) or over a batch (`BatchNorm1d`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfc.kernels.ops import norms
from fastfc.kernels.program import table
from fastfc.nn.layer import Layer, aligned_zeros, assign, option
from fastfc.nn.lowering import Lowering
from fastfc.validation import flag, float_dtype, fraction, positive_int, positive_number

__all__ = ["BatchNorm1d", "LayerNorm", "RMSNorm"]

Rows = tuple[tuple[str, ...], tuple[str, ...]]  # names of what is trained, and of buffers


def not_negative(value: Any, owner: str, what: str) -> float:
    return positive_number(value, owner, what, or_zero=True)


def row(name: str, of: str = "vector") -> Any:
    """Property of PerFeature: one of its rows, None if it has no such one; assigning copies the values into place."""

    def get(self: FeatureNorm) -> NDArray[Any] | None:
        return self._row(name, of)

    def put(self: FeatureNorm, value: ArrayLike) -> None:
        assign(self, name if of == "vector" else f"{name}_grad", value, get(self))

    return property(get, put)


def positive_or_none(value: Any, owner: object, what: str) -> float | None:
    return None if value is None else positive_number(value, owner, what, or_zero=True)


def weight_and_bias(weight: bool, bias: bool) -> tuple[str, ...]:
    """Names of the parameters; there is no bias without a weight."""
    return (("weight", "bias") if bias else ("weight",)) if weight else ()


class FeatureNorm(Layer):
    """Base of the layers whose parameters and buffers are rows of one number for each feature.

    Attributes
    ----------
    in_features, out_features : int
    """

    _internal = frozenset({"rows"})

    in_features: int
    out_features: int

    def __init__(self, features: int, rows: Rows, dtype: Any, name: str | None) -> None:
        kind, (trained, buffers) = type(self).__name__, rows
        width = positive_int(features, kind, "features")
        self._fix(in_features=width, out_features=width)
        self.name = name
        self._trained_rows, self._buffer_rows = trained, buffers
        dtype, p, b = float_dtype(dtype, kind), len(trained) * width, len(buffers) * width
        self.bind(aligned_zeros(p + b, dtype), aligned_zeros(p, dtype), b)

    @staticmethod
    def rows(options: Mapping[str, Any]) -> Rows:
        """The rows that a layer of these options has."""
        raise NotImplementedError

    @classmethod
    def tensor_shapes(cls, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        trained, buffers = cls.rows(options)
        return dict.fromkeys(trained + buffers, (options["features"],))

    @property
    def dtype(self) -> np.dtype[Any] | None:
        return self._params.dtype if self._params.size or self._buffers.size else None

    def named_parameters(self) -> list[tuple[str, NDArray[Any], NDArray[Any]]]:
        return [(name, self._row(name), self._row(name, "grads")) for name in self._trained_rows]

    def named_buffers(self) -> list[tuple[str, NDArray[Any]]]:
        return [(name, self._row(name)) for name in self._buffer_rows]

    def _row(self, name: str, of: str = "vector") -> Any:
        first = self._place(name, 0)
        return None if first < 0 else getattr(self, f"_{of}")[first : first + self.in_features]

    def _place(self, name: str, first: int) -> int:
        """Where a row is in the vector of values if our parameters begin at `first`, -1 if there is none."""
        if name in self._buffer_rows:  # at the vector's end
            first += self._vector.size - self._buffers.size
            return first + self._buffer_rows.index(name) * self.in_features
        return first + self._trained_rows.index(name) * self.in_features if name in self._trained_rows else -1

    def _check_width(self, lowering: Lowering, value: int) -> None:
        if lowering.widths[value] != self.in_features:
            raise ValueError(f"{self} takes {self.in_features} numbers per sample, got {lowering.widths[value]}")

    def __repr__(self) -> str:
        dtype = f", dtype={self.dtype}" if self.dtype is not None and self.dtype != np.float32 else ""
        name = "" if self.name is None else f", name={self.name!r}"
        settings = "".join(f", {setting}" for setting in self._settings())
        return f"{type(self).__name__}({self.in_features}{settings}{dtype}{name})"

    def _settings(self) -> list[str]:
        """The arguments of its own that are not the default ones."""
        return []


class LayerNorm(FeatureNorm):
    """y = (x − μ) / √(σ² + ε) · γ + β, with mean μ and variance σ² (biased) of each sample's features.

    With x̂ = (x − μ) / √(σ² + ε), g = dL/dy and means over a sample's features,
    dL/dx = (γ g − mean(γ g) − x̂ mean(γ g x̂)) / √(σ² + ε), dL/dγ = Σ g x̂ and dL/dβ = Σ g over the samples.

    Parameters
    ----------
    features : int
    eps : float
        ε, not negative.
    elementwise_affine : bool
        Whether there is a weight γ, first 1.
    bias : bool
        Whether there is a bias β, first 0, if there is a weight.
    dtype : np.float32 or np.float64
    name : str, optional
        Shown in errors, summaries and reports.

    Attributes
    ----------
    weight, bias, weight_grad, bias_grad : (features,) arrays, or None
        Views of `params` and `grads`. Assigning to one copies the values into place.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong kind or out of its range; in use, for x of another width.

    References
    ----------
    J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization", arXiv:1607.06450, 2016.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.LayerNorm(4, eps=0).predict([1, 1, 3, 3])
    array([-1., -1.,  1.,  1.], dtype=float32)
    """

    weight, bias, weight_grad, bias_grad = row("weight"), row("bias"), row("weight", "grads"), row("bias", "grads")
    eps: float = option(not_negative)

    def __init__(
        self,
        features: int,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: Any = np.float32,
        name: str | None = None,
    ) -> None:
        self.eps = eps
        affine, bias = flag(elementwise_affine, "LayerNorm", "elementwise_affine"), flag(bias, "LayerNorm", "bias")
        super().__init__(features, self.rows({"elementwise_affine": affine, "bias": bias}), dtype, name)
        if affine:
            self.weight = np.ones(self.in_features)

    @staticmethod
    def rows(options: Mapping[str, Any]) -> Rows:
        return weight_and_bias(options["elementwise_affine"], options["bias"]), ()

    def _settings(self) -> list[str]:
        eps = [f"eps={self.eps:g}"] * (self.eps != 1e-5)
        if self.weight is None:
            return [*eps, "elementwise_affine=False"]
        return eps + ["bias=False"] * (self.bias is None)

    def record(self, lowering: Lowering, value: int, first: int, alone: bool = True) -> int:
        self._check_width(lowering, value)
        weight, bias = self._place("weight", first), self._place("bias", first)
        return lowering.norm(table.LAYER_NORM, value, 2, weight=weight, bias=bias, factor=self.eps)


class RMSNorm(FeatureNorm):
    """y = x / √(mean(x²) + ε) · γ, with the mean over each sample's features.

    With r = 1 / √(mean(x²) + ε) and g = dL/dy, dL/dx = r (γ g − x r mean(γ g x r)) and dL/dγ = Σ g x r.

    Parameters
    ----------
    features : int
    eps : float, optional
        ε, not negative; by default the machine epsilon of the dtype.
    elementwise_affine : bool
        Whether there is a weight γ, first 1.
    dtype : np.float32 or np.float64
    name : str, optional
        Shown in errors, summaries and reports.

    Attributes
    ----------
    weight, weight_grad : (features,) arrays, or None

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong kind or out of its range; in use, for x of another width.

    References
    ----------
    B. Zhang, R. Sennrich, "Root mean square layer normalization", NeurIPS 2019.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.RMSNorm(4).predict([3, 3, -3, -3])
    array([ 1.,  1., -1., -1.], dtype=float32)
    """

    weight, weight_grad = row("weight"), row("weight", "grads")
    eps: float | None = option(lambda eps, owner, what: None if eps is None else not_negative(eps, owner, what))

    def __init__(
        self,
        features: int,
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        dtype: Any = np.float32,
        name: str | None = None,
    ) -> None:
        self.eps = eps
        affine = flag(elementwise_affine, "RMSNorm", "elementwise_affine")
        super().__init__(features, self.rows({"elementwise_affine": affine}), dtype, name)
        if affine:
            self.weight = np.ones(self.in_features)

    @staticmethod
    def rows(options: Mapping[str, Any]) -> Rows:
        return weight_and_bias(options["elementwise_affine"], False), ()

    def _settings(self) -> list[str]:
        eps = [] if self.eps is None else [f"eps={self.eps:g}"]
        return eps + ["elementwise_affine=False"] * (self.weight is None)

    def record(self, lowering: Lowering, value: int, first: int, alone: bool = True) -> int:
        self._check_width(lowering, value)
        eps = -1.0 if self.eps is None else self.eps
        return lowering.norm(table.RMS_NORM, value, 2, weight=self._place("weight", first), bias=-1, factor=eps)


class BatchNorm1d(FeatureNorm):
    """y = (x − μ) / √(σ² + ε) · γ + β, with mean μ and variance σ² of each feature.

    `forward` and training take μ and σ² (biased) of the batch, and move the running statistics towards them:
    running = (1 − momentum) running + momentum · (μ, unbiased variance). `predict` takes the running statistics.
    With x̂ = (x − μ) / √(σ² + ε), g = dL/dy and means over the batch, dL/dγ = Σ g x̂, dL/dβ = Σ g and
    dL/dx = γ (g − mean(g) − x̂ mean(g x̂)) / √(σ² + ε).

    Parameters
    ----------
    features : int
    eps : float
        ε, not negative.
    momentum : float or None
        From 0 to 1. With None the running statistics are the plain mean of those of all batches: the k-th forward in
        training takes 1 / k.
    affine : bool
        Whether there are a weight γ, first 1, and a bias β, first 0.
    track_running_stats : bool
        Without running statistics `predict` takes those of its batch too: a row's output then depends on the others.
    bias : bool
        Whether there is a bias, if there is a weight.
    dtype : np.float32 or np.float64
    name : str, optional
        Shown in errors, summaries and reports.

    Attributes
    ----------
    weight, bias, weight_grad, bias_grad : (features,) arrays, or None
    running_mean, running_var : (features,) arrays, or None
        In `buffers`. First 0 and 1. A frozen layer, or a layer of a frozen network, leaves them alone and takes them
        in training too, as a layer in eval mode does in PyTorch; then a batch may be one sample. What is frozen in a
        group of an optimizer is parameters only.

    Raises
    ------
    ValueError
        By training and `forward` with a batch of one sample, which has no variance; without running statistics by
        `predict` too.

    References
    ----------
    S. Ioffe, C. Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate
    shift", ICML 2015.

    Examples
    --------
    >>> import fastfc as fc
    >>> layer = fc.BatchNorm1d(1, eps=0, momentum=0.5)
    >>> layer.forward([[1], [3]])
    array([[-1.],
           [ 1.]], dtype=float32)
    >>> layer.running_mean, layer.running_var
    (array([1.], dtype=float32), array([1.5], dtype=float32))
    """

    weight, bias, weight_grad, bias_grad = row("weight"), row("bias"), row("weight", "grads"), row("bias", "grads")
    running_mean, running_var = row("running_mean"), row("running_var")
    eps: float = option(not_negative)
    momentum: float | None = option(lambda value, owner, what: None if value is None else fraction(value, owner, what))

    def __init__(
        self,
        features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        dtype: Any = np.float32,
        name: str | None = None,
    ) -> None:
        self.eps, self.momentum = eps, momentum
        affine, bias = flag(affine, "BatchNorm1d", "affine"), flag(bias, "BatchNorm1d", "bias")
        tracked = flag(track_running_stats, "BatchNorm1d", "track_running_stats")
        rows = self.rows({"affine": affine, "bias": bias, "track_running_stats": tracked})
        super().__init__(features, rows, dtype, name)
        if affine:
            self.weight = np.ones(self.in_features)
        if tracked:
            self.running_var = np.ones(self.in_features)

    @staticmethod
    def rows(options: Mapping[str, Any]) -> Rows:
        tracked = options.get("track_running_stats", True)  # files of version 0.1 have neither this nor bias
        buffers = ("running_mean", "running_var") if tracked else ()
        return weight_and_bias(options["affine"], options.get("bias", True)), buffers

    def _settings(self) -> list[str]:
        momentum = "momentum=None" if self.momentum is None else f"momentum={self.momentum:g}"
        settings = [f"eps={self.eps:g}"] * (self.eps != 1e-5) + [momentum] * (self.momentum != 0.1)
        settings += ["affine=False"] * (self.weight is None)
        settings += ["track_running_stats=False"] * (self.running_mean is None)
        return settings + ["bias=False"] * (self.bias is None and self.weight is not None)

    def record(self, lowering: Lowering, value: int, first: int, alone: bool = True) -> int:
        self._check_width(lowering, value)
        return lowering.norm(
            table.FROZEN_BATCH_NORM if self.frozen_here_or_above() else table.BATCH_NORM,
            value,
            norms.COLUMN_ROWS * self.in_features / table.ROW_MULTIPLE,
            weight=self._place("weight", first),
            bias=self._place("bias", first),
            number=self._place("running_mean", first),
            factor=self.eps,
            factor_2=-1.0 if self.momentum is None else self.momentum,
        )
