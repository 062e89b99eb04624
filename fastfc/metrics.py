"""Metrics, functions `metric(y_true, y_pred, sample_weight=None)` of targets and a network's outputs.

The definitions are scikit-learn's. Predictions are what `predict` returns, (n, c) or, for one output, (n, 1) or
(n,); how many classes there are is told by c, so a class that no sample has does no harm. In float64 whatever the
dtype. A metric is NaN if it is undefined, or if a prediction is NaN.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .attributes import frozen
from .checks import as_real, choice, finite_number, positive_int

Array = NDArray[Any]
Metric = Callable[..., float]
AVERAGES = ("binary", "macro", "micro", "weighted")


def silent(function: Metric) -> Metric:
    """NaN if a prediction is NaN, even where it is only compared; no warnings of NaN and infinity."""

    @functools.wraps(function)
    def metric(y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None, **options: Any) -> float:
        with np.errstate(over="ignore", invalid="ignore"):
            value = function(y_true, y_pred, sample_weight, **options)
        return math.nan if np.isnan(y_pred).any() else value

    return metric


@silent
def accuracy(
    y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None, *, threshold: float = 0.0
) -> float:
    """Share of the samples whose class is predicted, Σ w [ĉ = c] / Σ w.

    Parameters
    ----------
    y_true : (n,) or (n, 1) class indices, or (n, c) probabilities, of which the greatest counts
    y_pred : (n, c), (n, 1) or (n,) array
        Of c outputs the greatest, the first of equal ones, decides: logits or probabilities. One output says
        class 1 if it is greater than `threshold`, class 0 otherwise.
    sample_weight : (n,) array, optional
    threshold : float
        For one output: 0 for logits (networks trained with BCEWithLogitsLoss), 0.5 for probabilities (networks
        that end in Sigmoid).

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        For shapes that do not fit, or class indices that are not in 0..c−1.

    References
    ----------
    sklearn.metrics.accuracy_score.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.metrics.accuracy([2, 0, 1], [[0.1, 0.2, 0.9], [3, 2, 1], [0.5, 0.2, 0.1]])
    0.6666666666666666
    >>> fc.metrics.accuracy([1, 0], [0.7, 0.2], threshold=0.5)
    1.0
    """
    true, predicted, _, weight = decisions("accuracy", y_true, y_pred, sample_weight, threshold)
    return mean(true == predicted, weight)


@silent
def top_k_accuracy(
    y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None, *, k: int = 2
) -> float:
    """Share of the samples whose class is among the k greatest outputs; of equal outputs the last ones come first.

    Parameters
    ----------
    y_true : (n,) or (n, 1) class indices, or (n, c) probabilities, of which the greatest counts
    y_pred : (n, c) array, c ≥ 2
        Logits or probabilities.
    sample_weight : (n,) array, optional
    k : int
        At least 1; from c on the result is 1.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        As for `accuracy`.

    References
    ----------
    sklearn.metrics.top_k_accuracy_score.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.metrics.top_k_accuracy([0, 0], [[2, 3, 1], [1, 2, 3]], k=2)
    0.5
    """
    k = positive_int(k, "top_k_accuracy", "k")
    true, scores, weight = labelled("top_k_accuracy", y_true, y_pred, sample_weight)
    if scores.shape[1] == 1:
        raise ValueError("top_k_accuracy: y_pred has one column; give one for each class")
    own = np.take_along_axis(scores, true[:, None], 1)
    later = np.arange(scores.shape[1]) > true[:, None]
    before = np.count_nonzero((scores > own) | ((scores == own) & later), axis=1)
    return mean(before < k, weight)


@silent
def f1(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    average: str = "binary",
    threshold: float = 0.0,
) -> float:
    """F₁ = 2 TP / (2 TP + FP + FN) of a class, the harmonic mean of precision and recall, 0 if all three are 0.

    Parameters
    ----------
    y_true, y_pred, sample_weight, threshold
        As for `accuracy`.
    average : {"binary", "macro", "micro", "weighted"}
        "binary": that of class 1 of two; "macro": mean over the classes that are true or predicted for some
        sample; "weighted": over classes, each with the weight of its true samples; "micro": from TP, FP and FN of
        all classes, which is the accuracy.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        As for `accuracy`; "binary" with more than two classes.

    References
    ----------
    sklearn.metrics.f1_score.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.metrics.f1([1, 1, 0, 0], [2.0, -1.0, 0.5, -3.0])
    0.5
    """
    choice(average, "f1", "average", AVERAGES)
    true, predicted, classes, weight = decisions("f1", y_true, y_pred, sample_weight, threshold)
    if average == "binary" and classes > 2:
        raise ValueError(f"f1: there are {classes} classes; give average='macro', 'micro' or 'weighted'")
    right = np.bincount(true, weight * (true == predicted), classes)
    support, claimed = np.bincount(true, weight, classes), np.bincount(predicted, weight, classes)
    both = support + claimed
    scores = np.divide(2 * right, both, out=np.zeros(classes), where=both != 0)
    if average == "binary":
        return float(scores[1])
    if average == "macro":
        return float(scores[np.union1d(true, predicted)].mean())
    if average == "micro":
        return float(2 * right.sum() / both.sum())
    return mean(scores, support)


@silent
def roc_auc(y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
    """Area under the receiver operating characteristic: P(s₊ > s₋) + P(s₊ = s₋) / 2.

    s₊ and s₋ are scores of a sample of the class and one of another. With more than two classes the mean of each
    one's area against the rest. NaN if a class has no sample, or all.

    Parameters
    ----------
    y_true : (n,) or (n, 1) class indices, or (n, c) probabilities, of which the greatest counts
    y_pred : (n, c), (n, 1) or (n,) array
        One output is the score of class 1. Rows of c outputs are probabilities if none is negative and each row's
        sum is 1; else they are logits, of which softmax is taken.
    sample_weight : (n,) array, optional

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        As for `accuracy`.

    References
    ----------
    sklearn.metrics.roc_auc_score with multi_class="ovr", average="macro". T. Fawcett, "An introduction to ROC
    analysis", Pattern Recognition Letters 27, 2006.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.metrics.roc_auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    true, scores, weight = labelled("roc_auc", y_true, y_pred, sample_weight)
    if scores.shape[1] == 1:
        return area(true == 1, scores[:, 0], weight)
    scores = probabilities(scores)
    if scores.shape[1] == 2:
        return area(true == 1, scores[:, 1], weight)
    return float(np.mean([area(true == k, column, weight) for k, column in enumerate(scores.T)]))


@silent
def mae(y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
    """Mean absolute error, Σ w |y − ŷ| / Σ w, the mean over outputs.

    Parameters
    ----------
    y_true, y_pred : (n,) or (n, outputs) arrays
    sample_weight : (n,) array, optional

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        For what are no real numbers, or shapes that do not fit.

    References
    ----------
    sklearn.metrics.mean_absolute_error.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.metrics.mae([1, 2, 3], [1, 3, 1])
    1.0
    """
    true, predicted, weight = numeric("mae", y_true, y_pred, sample_weight)
    return mean(np.abs(true - predicted).mean(axis=1), weight)


@silent
def rmse(y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
    """Root mean squared error, √(Σ w (y − ŷ)² / Σ w), the mean over outputs.

    Parameters
    ----------
    y_true, y_pred, sample_weight
        As for `mae`.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        As for `mae`.

    References
    ----------
    sklearn.metrics.root_mean_squared_error.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.metrics.rmse([1, 2, 3, 4], [1, 2, 3, 8])
    2.0
    """
    true, predicted, weight = numeric("rmse", y_true, y_pred, sample_weight)
    return float(np.sqrt(weight @ (true - predicted) ** 2 / weight.sum()).mean())


@silent
def r2(y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
    """Coefficient of determination, 1 − Σ w (y − ŷ)² / Σ w (y − ȳ)², the mean over outputs.

    Where all y are equal it is 1 if all ŷ are too, 0 otherwise. NaN for less than two samples.

    Parameters
    ----------
    y_true, y_pred, sample_weight
        As for `mae`.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        As for `mae`.

    References
    ----------
    sklearn.metrics.r2_score.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.metrics.r2([1, 2, 3, 4], [1, 2, 4, 4])
    0.8
    """
    true, predicted, weight = numeric("r2", y_true, y_pred, sample_weight)
    if len(true) < 2:
        return math.nan
    error = weight @ (true - predicted) ** 2
    spread = weight @ (true - weight @ true / weight.sum()) ** 2
    ratio = np.divide(error, spread, out=np.where(error != 0, 1.0, 0.0), where=spread != 0)
    return float(np.mean(1 - ratio))


@frozen
class Accuracy:
    """`metrics.accuracy` with another threshold, Σ w [ĉ = c] / Σ w, for `metrics=[...]`.

    Parameters
    ----------
    threshold : float
        0.5 for a network whose one output is a probability.

    Raises
    ------
    TypeError, ValueError
        For a threshold that is no number; when called, for targets that do not fit the outputs.

    References
    ----------
    sklearn.metrics.accuracy_score.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.Accuracy(threshold=0.5)([1, 0], [0.7, 0.2])
    1.0
    """

    threshold: float = 0.0
    name = "accuracy"

    def __post_init__(self) -> None:
        finite_number(self.threshold, "Accuracy", "threshold")

    def __call__(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        return accuracy(y_true, y_pred, sample_weight, threshold=self.threshold)


@frozen
class TopK:
    """`metrics.top_k_accuracy`, Σ w [rank of c ≤ k] / Σ w, for `metrics=[...]`.

    Parameters
    ----------
    k : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        If k is not a positive integer; when called, for targets that are neither classes nor their probabilities.

    References
    ----------
    sklearn.metrics.top_k_accuracy_score.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.TopK(2)([0, 0], [[2, 3, 1], [1, 2, 3]])
    0.5
    """

    k: int

    def __post_init__(self) -> None:
        positive_int(self.k, "TopK", "k")

    @property
    def name(self) -> str:
        return f"top_{self.k}_accuracy"

    def __call__(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        return top_k_accuracy(y_true, y_pred, sample_weight, k=self.k)


@frozen
class F1:
    """`metrics.f1`, F₁ = 2 TP / (2 TP + FP + FN), for `metrics=[...]`.

    Parameters
    ----------
    average : {"binary", "macro", "micro", "weighted"}
    threshold : float
        As for `Accuracy`.

    Raises
    ------
    TypeError, ValueError
        For another average, or a threshold that is no number; when called, for targets that do not fit the outputs.

    References
    ----------
    sklearn.metrics.f1_score.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.F1(average="macro")([0, 1, 2], [[1, 0, 0], [0, 1, 0], [0, 1, 0]])
    0.5555555555555555
    """

    average: str = "binary"
    threshold: float = 0.0

    def __post_init__(self) -> None:
        choice(self.average, "F1", "average", AVERAGES)
        finite_number(self.threshold, "F1", "threshold")

    @property
    def name(self) -> str:
        return "f1" if self.average == "binary" else f"f1_{self.average}"

    def __call__(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        return f1(y_true, y_pred, sample_weight, average=self.average, threshold=self.threshold)


BY_NAME: dict[str, Metric] = {
    "accuracy": accuracy,
    "top_k_accuracy": top_k_accuracy,
    "f1": f1,
    "f1_macro": F1("macro"),
    "f1_micro": F1("micro"),
    "f1_weighted": F1("weighted"),
    "roc_auc": roc_auc,
    "mae": mae,
    "rmse": rmse,
    "r2": r2,
}


def get_metric(metric: str | Metric) -> tuple[str, Metric]:
    """Name and function of a metric given by name, or as a callable of (y_true, y_pred).

    The function is one of (y_true, y_pred, sample_weight=None) and returns a float. A callable without a parameter
    named `sample_weight` never sees the weights. Compiled functions (`@njit`) will do, and scikit-learn's.

    Raises
    ------
    TypeError, ValueError
        For an unknown name, and for what is not callable; from the function, for what is not a number.

    Examples
    --------
    >>> from fastfc.metrics import get_metric
    >>> def largest_error(y_true, y_pred):
    ...     return abs(y_true - y_pred).max()
    >>> name, function = get_metric(largest_error)
    >>> name, function(np.array([1.0, 2.0]), np.array([1.0, 2.5]))
    ('largest_error', 0.5)
    """
    if isinstance(metric, str):
        if metric not in BY_NAME:
            raise ValueError(f"unknown metric {metric!r}; known are {', '.join(map(repr, BY_NAME))}")
        return metric, BY_NAME[metric]
    if isinstance(metric, type) or not callable(metric):
        raise TypeError(
            f"a metric is a name, an object such as TopK(5) or a function of (y_true, y_pred), got {metric!r}"
        )
    name = str(getattr(metric, "name", None) or getattr(metric, "__name__", type(metric).__name__))
    weighted = "sample_weight" in inspect.signature(metric).parameters

    def function(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
        extra = {"sample_weight": sample_weight} if weighted else {}
        value = as_real(metric(y_true, y_pred, **extra), f"metric {name}", "its value")
        if value.ndim:
            raise TypeError(f"metric {name}: its value must be one number, got an array of shape {value.shape}")
        return float(value)

    return name, function


def mean(values: Array, weight: Array) -> float:
    return float(values @ weight / weight.sum())


def area(positive: Array, scores: Array, weight: Array) -> float:
    """Σ₊ w₊ (weight of negatives below + half of those equal) / (Σ w₊ Σ w₋), over the different scores."""
    _, rank = np.unique(scores, return_inverse=True)
    above = np.bincount(rank, weight * positive)
    below = np.bincount(rank, weight * ~positive)
    pairs = above.sum() * below.sum()
    return float(above @ (np.cumsum(below) - below / 2) / pairs) if pairs else math.nan


def probabilities(scores: Array) -> Array:
    if (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1):
        return scores
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def decisions(
    owner: str, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None, threshold: float
) -> tuple[Array, Array, int, Array]:
    """True classes, predicted ones, how many classes there are, and weights."""
    true, scores, weight = labelled(owner, y_true, y_pred, sample_weight)
    if scores.shape[1] == 1:
        return true, (scores[:, 0] > threshold).astype(np.int64), 2, weight
    return true, scores.argmax(axis=1), scores.shape[1], weight


def labelled(
    owner: str, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None
) -> tuple[Array, Array, Array]:
    """Classes (n,), outputs (n, c) and weights (n,)."""
    true, scores, weight = matched(owner, y_true, y_pred, sample_weight)
    classes = max(scores.shape[1], 2)
    if scores.shape[1] > 1 and true.shape == scores.shape:
        if not (true.min() >= 0 and np.allclose(true.sum(axis=1), 1)):
            raise ValueError(f"{owner}: rows of y_true must be probabilities of the {classes} classes, with the sum 1")
        return true.argmax(axis=1), scores, weight
    if true.shape[1] != 1:
        raise ValueError(
            f"{owner}: y_true has shape {true.shape}, y_pred {scores.shape}; give class indices of shape {weight.shape}"
        )
    labels = true[:, 0]
    if not ((labels == np.floor(labels)) & (labels >= 0) & (labels < classes)).all():
        raise ValueError(
            f"{owner}: class indices must be whole numbers in 0..{classes - 1} for y_pred of shape {scores.shape}, "
            f"y_true has {true.min():g} to {true.max():g}"
        )
    return labels.astype(np.int64), scores, weight


def numeric(
    owner: str, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None
) -> tuple[Array, Array, Array]:
    """Targets (n, outputs), predictions of the same shape and weights (n,)."""
    true, predicted, weight = matched(owner, y_true, y_pred, sample_weight)
    if true.shape != predicted.shape:
        raise ValueError(f"{owner}: y_true has shape {np.shape(y_true)}, y_pred {np.shape(y_pred)}; they must be equal")
    return true, predicted, weight


def matched(
    owner: str, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None
) -> tuple[Array, Array, Array]:
    """Targets and predictions as float64 matrices of n rows, and n weights."""
    if isinstance(y_pred, tuple) and y_pred and np.ndim(y_pred[0]) == 2:
        raise ValueError(
            f"{owner}: the network has {len(y_pred)} outputs; give a function of both tuples, such as "
            f"lambda y_true, y_pred: {owner}(y_true[0], y_pred[0])"
        )
    true, predicted = as_real(y_true, owner, "y_true"), as_real(y_pred, owner, "y_pred")
    if 0 in predicted.shape or predicted.ndim not in (1, 2):
        raise ValueError(f"{owner}: y_pred has shape {predicted.shape}; give a row for each of at least one sample")
    if true.ndim not in (1, 2) or len(true) != len(predicted):
        raise ValueError(
            f"{owner}: y_true has shape {true.shape}, y_pred {predicted.shape}; give one target for each sample"
        )
    n = len(predicted)
    weight = np.ones(n) if sample_weight is None else as_real(sample_weight, owner, "sample_weight").astype(np.float64)
    if weight.shape != (n,):
        raise ValueError(f"{owner}: sample_weight has shape {weight.shape}; give one for each sample, shape {(n,)}")
    if not (np.isfinite(weight).all() and weight.min() >= 0 and weight.any()):
        raise ValueError(f"{owner}: sample_weight must be finite, not negative and not all 0")
    return true.reshape(n, -1).astype(np.float64), predicted.reshape(n, -1).astype(np.float64), weight
