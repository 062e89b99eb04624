"""Embeddings of numbers: several functions of each feature, and sums of them with trained weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfc.kernels.ops.activations import named
from fastfc.kernels.ops.numeric_embedding import COSINES, PIECES, WAVES
from fastfc.kernels.program import table
from fastfc.nn.lowering import Lowering
from fastfc.nn.tensors import Shapes, TensorLayer, tensor
from fastfc.validation import as_generator, as_real, choice, flag, float_dtype, positive_int, positive_number

__all__ = ["NumericEmbedding"]

FUNCTIONS = {"pbld": COSINES, "plr": WAVES, "plr-lite": WAVES, "ple": PIECES}
# What None stands for, by kind: numbers of a feature, its frequencies or bins, and their first size.
EMBEDDING_DIM = {"pbld": 3, "plr": 24, "plr-lite": 24, "ple": 0}
N_FUNCTIONS = {"pbld": 16, "plr": 48, "plr-lite": 48, "ple": 48}
SCALE = {"pbld": 0.1, "plr": 0.01, "plr-lite": 0.01, "ple": 1.0}


class NumericEmbedding(TensorLayer):
    """Functions u₁, u₂, … of each feature z, and their sums yₘ = Σₖ uₖ Vₖₘ + cₘ, side by side, feature after feature.

    - "pbld": uₖ = cos(2π wₖ z + bₖ); behind the sums of all features stand the features themselves.
    - "plr": uₖ = cos(2π wₖ z), and then sin(2π wₖ z), and y is ReLU of the sums.
    - "plr-lite": the same, with V and c that all features share.
    - "ple": uₖ is the place of z in bin k, (z − edgeₖ) / (edgeₖ₊₁ − edgeₖ), not below 0 but in the first bin, not
      above 1 but in the last. Without an embedding_dim there is no sum, and y = u.

    w, b, V and c are trained, the edges of bins are not.

    Parameters
    ----------
    in_features : int
    embedding_dim : int, optional
        Numbers that become of each feature: 3 for "pbld", 24 for "plr" and "plr-lite", all u for "ple" by default.
    kind : {"pbld", "plr", "plr-lite", "ple"}
    n_frequencies : int, optional
        How many w (or bins) a feature has; 16 for "pbld", 48 for the others by default.
    frequency_scale : float, optional
        Standard deviation of the first w, from a normal distribution; 0.1 for "pbld", 0.01 for "plr" by default.
    dense : bool, optional
        Whether the features themselves stand behind; for "pbld" by default.
    relu : bool, optional
        Whether y is ReLU of the sums; for "plr" and "plr-lite" by default.
    seed : int, numpy.random.Generator or None
        Of the first values: b uniform in ±π, V and c uniform in ±1/√K for K functions.
    dtype : np.float32 or np.float64
    name : str, optional
        Shown in errors, summaries and reports.

    Attributes
    ----------
    frequency, frequency_grad : (in_features, n_frequencies) arrays, or None
        w.
    phase, phase_grad : (in_features, n_frequencies) arrays, or None
        b, of "pbld".
    weight, weight_grad : (in_features, K, embedding_dim) arrays, or None
        V; for "plr-lite" (K, embedding_dim).
    bias, bias_grad : (in_features, embedding_dim) arrays, or None
        c; for "plr-lite" (embedding_dim,).
    edges : (in_features, n_frequencies + 1) array, or None
        Of "ple", in `buffers`. First from −1 to 1; see `of` and `adapt`. A bin of no width gives 0.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong kind or out of its range; in use, for x of another width.

    References
    ----------
    Y. Gorishniy, I. Rubachev, A. Babenko, "On embeddings for numerical features in tabular deep learning", NeurIPS
    2022; "pbld" is of D. Holzmüller, L. Grinsztajn, I. Steinwart, "Better by default: strong pre-tuned MLPs and boosted
    trees on tabular data", NeurIPS 2024.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.NumericEmbedding(5, seed=0)
    NumericEmbedding(5, 3, kind='pbld', n_frequencies=16)
    >>> layer = fc.NumericEmbedding.of([[0.0], [1], [2], [3], [4]], kind="ple", n_frequencies=2)
    >>> layer.edges
    array([[0., 2., 4.]], dtype=float32)
    >>> layer.predict([[3]])
    array([[1. , 0.5]], dtype=float32)
    """

    in_features: int
    out_features: int
    embedding_dim: int | None
    kind: str
    n_frequencies: int
    frequency_scale: float
    dense: bool
    relu: bool

    _fixed: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("embedding_dim", "kind", "n_frequencies", "frequency_scale", "dense", "relu"), "make a new NumericEmbedding"
    )
    frequency, frequency_grad = tensor("frequency"), tensor("frequency", "grads")
    phase, phase_grad = tensor("phase"), tensor("phase", "grads")
    weight, weight_grad = tensor("weight"), tensor("weight", "grads")
    bias, bias_grad = tensor("bias"), tensor("bias", "grads")
    edges = tensor("edges")

    def __init__(
        self,
        in_features: int,
        embedding_dim: int | None = None,
        kind: str = "pbld",
        *,
        n_frequencies: int | None = None,
        frequency_scale: float | None = None,
        dense: bool | None = None,
        relu: bool | None = None,
        seed: int | np.random.Generator | None = None,
        dtype: Any = np.float32,
        name: str | None = None,
    ) -> None:
        owner, kind = "NumericEmbedding", choice(kind, "NumericEmbedding", "kind", FUNCTIONS)
        d = EMBEDDING_DIM[kind] or None if embedding_dim is None else embedding_dim
        is_plr = FUNCTIONS[kind] == WAVES
        self._fix(
            in_features=positive_int(in_features, owner, "in_features"),
            embedding_dim=None if d is None else positive_int(d, owner, "embedding_dim"),
            kind=kind,
            n_frequencies=positive_int(
                N_FUNCTIONS[kind] if n_frequencies is None else n_frequencies, owner, "n_frequencies"
            ),
            frequency_scale=positive_number(
                SCALE[kind] if frequency_scale is None else frequency_scale, owner, "frequency_scale"
            ),
            dense=kind == "pbld" if dense is None else flag(dense, owner, "dense"),
            relu=is_plr if relu is None else flag(relu, owner, "relu"),
        )
        width = self.in_features * (self.embedding_dim or self.n_frequencies)
        self._fix(out_features=width + self.in_features * self.dense)
        self.name = name
        options = {what: getattr(self, what) for what in ("in_features", "embedding_dim", "kind", "n_frequencies")}
        self._make_tensors(options, float_dtype(dtype, owner))
        self._draw(as_generator(seed, owner))

    def _draw(self, rng: np.random.Generator) -> None:
        """First values."""
        bound = 1 / np.sqrt(n_functions(self.kind, self.n_frequencies))
        for name, values, _ in self.named_parameters():
            if name == "frequency":
                values[...] = rng.normal(0, self.frequency_scale, values.shape)
            else:
                limit = np.pi if name == "phase" else bound
                values[...] = rng.uniform(-limit, limit, values.shape)
        if self.edges is not None:
            self.edges = np.broadcast_to(np.linspace(-1, 1, self.n_frequencies + 1), self.edges.shape)

    @staticmethod
    def shapes(options: Mapping[str, Any]) -> tuple[Shapes, Shapes]:
        features, d, kind = options["in_features"], options["embedding_dim"], options["kind"]
        n = options["n_frequencies"]
        trained: Shapes = {} if kind == "ple" else {"frequency": (features, n)}
        if kind == "pbld":
            trained["phase"] = features, n
        if d is not None:
            owners = () if kind == "plr-lite" else (features,)
            trained |= {"weight": (*owners, n_functions(kind, n), d), "bias": (*owners, d)}
        return trained, {"edges": (features, n + 1)} if kind == "ple" else {}

    @classmethod
    def of(cls, x: ArrayLike, embedding_dim: int | None = None, kind: str = "ple", **options: Any) -> NumericEmbedding:
        """A layer for `x`, (n, in_features); for kind "ple" adapted to it."""
        x = as_real(x, "NumericEmbedding", "x")
        if x.ndim != 2:
            raise ValueError(f"NumericEmbedding: x has shape {x.shape}, expected (n, in_features)")
        layer = cls(x.shape[1], embedding_dim, kind, **options)
        return layer.adapt(x) if kind == "ple" else layer

    def adapt(self, x: ArrayLike) -> NumericEmbedding:
        """Set the edges of bins to the quantiles of each feature of `x`; the layer itself.

        Parameters
        ----------
        x : (n, in_features) array of finite real numbers, n >= 1
            A feature with few values has fewer bins; those that are left over have no width and give 0.
        """
        if self.edges is None:
            raise ValueError(f"{self}: only kind 'ple' has bins to adapt")
        x = samples(self._check_rows(as_real(x, self, "x")), self)
        quantiles = np.quantile(x, np.linspace(0, 1, self.n_frequencies + 1), axis=0).T.astype(self.edges.dtype)
        for edges, given in zip(self.edges, quantiles, strict=True):
            distinct = np.unique(given)
            edges[...] = distinct[-1]
            edges[: distinct.size] = distinct
        return self

    def record(self, lowering: Lowering, value: int, first: int, alone: bool = True) -> int:
        self._check_width(lowering, value)
        has_weight = self.embedding_dim is not None
        y = lowering.op(
            table.NUMERIC_EMBEDDING,
            value,
            width=self.in_features * (self.embedding_dim or self.n_frequencies * (1 + (self.kind[:3] == "plr"))),
            weight=self._place("edges" if self.kind == "ple" else "frequency", first),
            bias=self._place("weight", first) if has_weight else table.NOWHERE,
            number=n_functions(self.kind, self.n_frequencies),
            factor=float(FUNCTIONS[self.kind]),
            transposed=self.kind == "plr-lite",
        )
        if self.relu:
            y = lowering.activation(y, named("relu"))
        return lowering.concatenate([y, value]) if self.dense else y

    def _arguments(self) -> list[str]:
        kind, usual = self.kind, {"dense": self.kind == "pbld", "relu": FUNCTIONS[self.kind] == WAVES}
        settings = [f"{name}={getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value]
        width = [] if self.embedding_dim is None else [str(self.embedding_dim)]
        return [str(self.in_features), *width, f"kind={kind!r}", f"n_frequencies={self.n_frequencies}", *settings]


def n_functions(kind: str, n_frequencies: int) -> int:
    """How many functions of each feature there are."""
    return n_frequencies * (2 if FUNCTIONS[kind] == WAVES else 1)


def samples(x: NDArray[Any], owner: object) -> NDArray[np.float64]:
    """Samples to adapt a layer to, at least one and all finite."""
    x = x.astype(np.float64)
    if len(x) == 0:
        raise ValueError(f"{owner}: x has shape {x.shape}; give at least one sample")
    finite = np.isfinite(x).all(axis=0)
    if not finite.all():
        raise ValueError(f"{owner}: column {int(np.argmin(finite))} of x has entries that are not finite")
    return x
