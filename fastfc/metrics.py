"""Metrics, functions `metric(y_true, y_pred, sample_weight=None)` of targets and a network's outputs.

The definitions are scikit-learn's. Predictions are what `predict` returns, (n, c) or, for one output, (n, 1) or
(n,); how many classes there are is told by c, so a class that no sample has does no harm. In float64 whatever the
dtype. A metric is NaN if it is undefined, or if a prediction is NaN.

In `fit` and `evaluate` the loss and the last layer tell what the outputs are: logits, probabilities, logarithms of
them, labels one by one, or numbers in the unit of the targets; see fastfc.training.outputs. A metric that you call
knows arrays only: `threshold`, `multilabel` and `from_logits` tell it, and one output is a logit unless they do.
Functions of your own get what `predict` returns.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfc.attributes import frozen
from fastfc.validation import as_real, choice, did_you_mean, finite_number, flag, positive_int, unknown

__all__ = ["F1", "Accuracy", "TopK", "accuracy", "f1", "mae", "r2", "rmse", "roc_auc", "top_k_accuracy"]

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
    y_true: ArrayLike,
    y_pred: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    threshold: float = 0.0,
    multilabel: bool = False,
) -> float:
    """Share of the samples whose class is predicted, Σ w [ĉ = c] / Σ w; of several labels, all of them.

    Parameters
    ----------
    y_true : (n,) or (n, 1) class indices, or (n, c) probabilities, of which the greatest counts
        With multilabel (n, c) zeros and ones.
    y_pred : (n, c), (n, 1) or (n,) array
        Of c outputs the greatest, the first of equal ones, decides: logits or probabilities. One output says
        class 1 if it is greater than `threshold`, class 0 otherwise.
    sample_weight : (n,) array, optional
    threshold : float
        For one output, and for each of several labels: 0 for logits (networks trained with BCEWithLogitsLoss), 0.5 for
        probabilities (networks that end in Sigmoid). `fit` and `evaluate` take it from the loss and the last layer.
    multilabel : bool
        Whether each column is a label of its own, which is true or not, instead of one of c classes.

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
    if multilabel and is_matrix(y_pred):
        labels, said, weight = decided_labels("accuracy", y_true, y_pred, sample_weight, threshold)
        return mean((labels == said).all(axis=1), weight)
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
    multilabel: bool = False,
) -> float:
    """F₁ = 2 TP / (2 TP + FP + FN) of a class, the harmonic mean of precision and recall, 0 if all three are 0.

    Parameters
    ----------
    y_true, y_pred, sample_weight, threshold, multilabel
        As for `accuracy`.
    average : {"binary", "macro", "micro", "weighted"}
        "binary": that of class 1 of two; "macro": mean over the classes that are true or predicted for some
        sample, or over all labels; "weighted": over classes or labels, each with the weight of its true samples;
        "micro": from TP, FP and FN of all of them, which for classes is the accuracy.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        As for `accuracy`; "binary" with more than two classes, or with several labels.

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
    if multilabel and is_matrix(y_pred):
        return f1_of_labels(average, *decided_labels("f1", y_true, y_pred, sample_weight, threshold))
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


def f1_of_labels(average: str, labels: Array, said: Array, weight: Array) -> float:
    if average == "binary":
        raise ValueError(f"f1: there are {labels.shape[1]} labels; give average='macro', 'micro' or 'weighted'")
    right, support, claimed = weight @ (labels & said), weight @ labels, weight @ said
    both = support + claimed
    if average == "micro":
        return float(2 * right.sum() / both.sum()) if both.any() else 0.0
    scores = np.divide(2 * right, both, out=np.zeros(len(both)), where=both != 0)
    return mean(scores, support if average == "weighted" and support.any() else np.ones(len(scores)))


@silent
def roc_auc(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    from_logits: bool | None = None,
    multilabel: bool = False,
) -> float:
    """Area under the receiver operating characteristic: P(s₊ > s₋) + P(s₊ = s₋) / 2.

    s₊ and s₋ are scores of a sample of the class and one of another. With more than two classes the mean of each
    one's area against the rest, and of several labels the mean of theirs. NaN if a class or label has no sample, or
    all.

    Parameters
    ----------
    y_true : (n,) or (n, 1) class indices, or (n, c) probabilities, of which the greatest counts
        With multilabel (n, c) zeros and ones.
    y_pred : (n, c), (n, 1) or (n,) array
        One output is the score of class 1, each of several labels' that of its label.
    sample_weight : (n,) array, optional
    from_logits : bool, optional
        Whether rows of c outputs are logits, of which softmax is taken. Unless given, they are probabilities if none
        is negative and each row's sum is 1, else logits.
    multilabel : bool
        As for `accuracy`.

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
    if multilabel and is_matrix(y_pred):
        labels, scores, weight = labels_of("roc_auc", y_true, y_pred, sample_weight)
        return float(np.mean([area(*columns, weight) for columns in zip(labels.T, scores.T, strict=True)]))
    true, scores, weight = labelled("roc_auc", y_true, y_pred, sample_weight)
    if scores.shape[1] == 1:
        return area(true == 1, scores[:, 0], weight)
    if from_logits or (from_logits is None and not are_probabilities(scores)):
        scores = softmax(scores)
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
        For values that are not real numbers, or shapes that do not fit.

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
    """`metrics.accuracy` with options, Σ w [ĉ = c] / Σ w, for `metrics=[...]`.

    Parameters
    ----------
    threshold : float, optional
        More than this says class 1. Unless given, `fit` and `evaluate` take it from the loss and the last layer: 0 for
        logits, 0.5 for probabilities; a call takes 0.
    multilabel : bool, optional
        Whether each column is a label of its own. Unless given, `fit` and `evaluate` say so of BCELoss and
        BCEWithLogitsLoss; a call takes False.

    Raises
    ------
    TypeError, ValueError
        For a threshold that is not a number; when called, for targets that do not fit the outputs.

    References
    ----------
    sklearn.metrics.accuracy_score.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.Accuracy(threshold=0.5)([1, 0], [0.7, 0.2])
    1.0
    """

    threshold: float | None = None
    multilabel: bool | None = None
    name = "accuracy"

    def __post_init__(self) -> None:
        check_options(self)

    def __call__(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        return accuracy(y_true, y_pred, sample_weight, **given_options(self))


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
    threshold, multilabel : optional
        As for `Accuracy`.

    Raises
    ------
    TypeError, ValueError
        For another average, or a threshold that is not a number; when called, for targets that do not fit the outputs.

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
    threshold: float | None = None
    multilabel: bool | None = None

    def __post_init__(self) -> None:
        choice(self.average, "F1", "average", AVERAGES)
        check_options(self)

    @property
    def name(self) -> str:
        return "f1" if self.average == "binary" else f"f1_{self.average}"

    def __call__(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        return f1(y_true, y_pred, sample_weight, average=self.average, **given_options(self))


def check_options(metric: Accuracy | F1) -> None:
    owner = type(metric).__name__
    if metric.threshold is not None:
        finite_number(metric.threshold, owner, "threshold")
    if metric.multilabel is not None:
        flag(metric.multilabel, owner, "multilabel")


def given_options(metric: Accuracy | F1) -> dict[str, Any]:
    options = {"threshold": metric.threshold, "multilabel": metric.multilabel}
    return {name: value for name, value in options.items() if value is not None}


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


# Whether less or more of it is better. What is not here only its user knows.
DIRECTIONS = {
    "loss": "min",
    "accuracy": "max",
    "top_k_accuracy": "max",
    "f1": "max",
    "f1_macro": "max",
    "f1_micro": "max",
    "f1_weighted": "max",
    "roc_auc": "max",
    "mae": "min",
    "rmse": "min",
    "r2": "max",
}


def direction(column: str) -> str | None:
    """Whether less or more is better of a column of the history, "min" or "max"; None if that is not known."""
    name = column.removeprefix("val_")
    return "max" if re.fullmatch(r"top_\d+_accuracy", name) else DIRECTIONS.get(name)


def watched(owner: str, monitor: str, mode: str | None, columns: Sequence[str]) -> str:
    """Whether less or more is better, "min" or "max", of the column that something watches.

    Raises
    ------
    ValueError
        If there will be no such column, or the mode is None and nobody but the user can know it.
    """
    if monitor not in columns:
        raise ValueError(
            f"{owner}: monitor={monitor!r} is none of {', '.join(columns)}; give fit validation_data or metrics for it"
            + did_you_mean(monitor, columns)
        )
    found = mode or direction(monitor)
    if found is None:
        raise ValueError(
            f"{owner}: whether less or more of {monitor!r} is better only you know; give mode='min' or mode='max'"
        )
    return found


def get_metric(metric: str | Metric, outputs: Sequence[Any] | None = None) -> tuple[str, Metric]:
    """Name and function of a metric given by name, or as a callable of (y_true, y_pred).

    The function is one of (y_true, y_pred, sample_weight=None) and returns a float. A callable without a parameter
    named `sample_weight` never sees the weights. Compiled functions (`@njit`) will do, and scikit-learn's.

    Parameters
    ----------
    metric : str or callable
    outputs : list of fastfc.training.outputs.Outputs, optional
        What the outputs of a network are, for metrics of ours.

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
            raise unknown("metric", metric, BY_NAME)
        name, metric = metric, BY_NAME[metric]
    elif isinstance(metric, type) or not callable(metric):
        raise TypeError(
            f"a metric is a name, an object such as TopK(5) or a function of (y_true, y_pred), got {metric!r}"
        )
    else:
        name = str(getattr(metric, "name", None) or getattr(metric, "__name__", type(metric).__name__))
    if is_ours(metric):
        return name, metric if outputs is None else told(name, metric, outputs)
    weighted = "sample_weight" in inspect.signature(metric).parameters

    def function(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
        extra = {"sample_weight": sample_weight} if weighted else {}
        value = as_real(metric(y_true, y_pred, **extra), f"metric {name}", "its value")
        if value.ndim:
            raise TypeError(f"metric {name}: its value must be one number, got an array of shape {value.shape}")
        return float(value)

    return name, function


def is_ours(metric: Any) -> bool:
    """Whether a metric, or the name of one, is defined here."""
    return isinstance(metric, str | Accuracy | F1 | TopK) or any(metric is ours for ours in BY_NAME.values())


def told(name: str, metric: Metric, outputs: Sequence[Any]) -> Metric:
    """A metric of ours that knows what the outputs of a network are."""
    first = outputs[0]
    options: dict[str, Any] = {}
    takes = function_of(metric)
    if takes in (accuracy, f1):
        options = {"threshold": first.threshold, "multilabel": first.labels}
        if isinstance(metric, Accuracy | F1):
            options |= given_options(metric)
        if isinstance(metric, F1):
            options["average"] = metric.average
    elif takes is roc_auc:
        options = {"from_logits": first.from_logits, "multilabel": first.labels}
    elif isinstance(metric, TopK):
        options = {"k": metric.k}

    def function(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
        if isinstance(y_pred, tuple):
            shown = "".join(f", {key}={value!r}" for key, value in options.items() if value is not None)
            raise ValueError(
                f"{name}: the network has {len(y_pred)} outputs; give a function of both tuples, such as "
                f"lambda y_true, y_pred: fastfc.metrics.{takes.__name__}(y_true[0], y_pred[0]{shown})"
            )
        if isinstance(y_true, tuple):  # of a MultiLoss for one output
            (y_true,) = y_true
        several = is_matrix(y_pred)
        if takes is top_k_accuracy and first.labels and several:
            raise ValueError(f"{name}: {first.loss} trains labels one by one, of which none comes first")
        if options.get("threshold", 0.0) is None:
            if options["multilabel"] or not several:
                raise ValueError(
                    f"{name}: what the output means {first.loss} does not tell; give {CLASSES[takes]}(threshold=0.0) "
                    "for logits, threshold=0.5 for probabilities"
                )
            return takes(y_true, y_pred, sample_weight, **options | {"threshold": 0.0})
        if takes in (mae, rmse, r2):
            return takes(first.targets(y_true), first.numbers(y_pred), sample_weight)
        return takes(first.targets(y_true), first.scores(y_pred), sample_weight, **options)

    return function


CLASSES = {accuracy: "Accuracy", f1: "F1"}


def function_of(metric: Metric) -> Metric:
    """The function that a metric of ours calls."""
    return {Accuracy: accuracy, F1: f1, TopK: top_k_accuracy}.get(type(metric), metric)


def mean(values: Array, weight: Array) -> float:
    return float(values @ weight / weight.sum())


def area(positive: Array, scores: Array, weight: Array) -> float:
    """Σ₊ w₊ (weight of negatives below + half of those equal) / (Σ w₊ Σ w₋), over the different scores."""
    _, rank = np.unique(scores, return_inverse=True)
    above = np.bincount(rank, weight * positive)
    below = np.bincount(rank, weight * ~positive)
    pairs = above.sum() * below.sum()
    return float(above @ (np.cumsum(below) - below / 2) / pairs) if pairs else math.nan


def are_probabilities(rows: Array) -> bool:
    return bool((rows >= 0).all() and np.allclose(rows.sum(axis=1), 1))


def softmax(scores: Array) -> Array:
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def is_matrix(y_pred: ArrayLike) -> bool:
    """Whether there are several columns."""
    shape = np.shape(y_pred)
    return len(shape) == 2 and shape[1] > 1


def decided_labels(
    owner: str, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None, threshold: float
) -> tuple[Array, Array, Array]:
    """Labels (n, c), those that are predicted, and weights (n,)."""
    labels, scores, weight = labels_of(owner, y_true, y_pred, sample_weight)
    return labels, scores > threshold, weight


def labels_of(
    owner: str, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None
) -> tuple[Array, Array, Array]:
    """Labels (n, c) of which each is true or not, outputs (n, c) and weights (n,)."""
    true, scores, weight = numeric(owner, y_true, y_pred, sample_weight)
    if not np.isin(true, (0, 1)).all():
        raise ValueError(f"{owner}: labels must be 0 or 1, y_true has {true.min():g} to {true.max():g}")
    return true == 1, scores, weight


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
        if not are_probabilities(true):
            fix = f"; for labels one by one {owner} takes multilabel=True" if np.isin(true, (0, 1)).all() else ""
            raise ValueError(
                f"{owner}: rows of y_true must be probabilities of the {classes} classes, with the sum 1{fix}"
            )
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


def __dir__() -> list[str]:
    """The public names, which editors and notebooks offer, and those with underscores."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("_"))})
