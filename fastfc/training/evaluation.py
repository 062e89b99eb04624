"""`evaluate`, and what `fit` measures after each epoch: the loss over all samples, and metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfc.data.streams import source_of
from fastfc.kernels.ops import losses
from fastfc.kernels.program import interpreter
from fastfc.losses.base import Loss
from fastfc.ranks import COUNTS, Ranks, digest, ranks_of
from fastfc.training.outputs import metric_of, outputs_of
from fastfc.training.samples import Data, classes_in, prepare, refuse_not_finite
from fastfc.training.step import check_loss
from fastfc.training.streaming import StreamDataset
from fastfc.validation import listed

if TYPE_CHECKING:
    from fastfc.data.columns import Columns
    from fastfc.nn.container import Container


# The kernels of an evaluation
EVALUATING = interpreter.predict, losses.loss


def evaluate(
    network: Container,
    x: Any,
    y: Any = None,
    loss: Any = None,
    *,
    sample_weight: ArrayLike | None = None,
    metrics: Sequence[Any] = (),
    comm: Any = None,
    rows: str = "same",
) -> Any:
    """Loss over all samples, and metrics. Changes nothing.

    Parameters
    ----------
    x, y, loss, sample_weight, metrics
        As for `fit`; with an iterable of batches, evaluate(batches, loss=loss). Metrics need the outputs of all samples
        in memory.
    comm, rows
        As for `fit`: each rank computes the outputs for its rows, and all of them get the same result.

    Returns
    -------
    float, or with metrics a dict of floats: the loss as "loss" and each metric by its name

    Raises
    ------
    TypeError, ValueError
        For bad input, such as samples that are infinite or not a number, and make the loss so.

    Examples
    --------
    >>> import fastfc as fc
    >>> net = fc.MLP([2, 1], init="zeros")
    >>> net.evaluate([[1, 2], [3, 4]], [[1], [3]], fc.MSELoss())
    5.0
    >>> net.evaluate([[1, 2], [3, 4]], [[1], [3]], fc.MSELoss(), metrics=["mae"])
    {'loss': 5.0, 'mae': 2.0}
    """
    ranks = ranks_of(comm, rows, None, "evaluate")
    with ranks.together("evaluate") if ranks else nullcontext():
        check_loss(loss)
        _, scores = as_scores(metrics, "evaluate", network, loss)
        data = dataset(network, x, y, loss, network.columns(), sample_weight, owner="evaluate")
        if ranks:
            settings = {"the loss": repr(loss), "the digest of the parameters": digest(network.params, network.buffers)}
            ranks.compare(settings | ({} if ranks.local else {"the number of rows": str(data.n)}))
            data = whole(data, ranks)
        row = evaluation(network, data, scores, "evaluate: {}", ranks)
    return row if scores else row["loss"]


def whole(data: Any, ranks: Ranks) -> Any:
    """The own inputs, and the targets and weights of all ranks, by which losses and metrics are computed."""
    if not ranks.local:
        return data
    if not isinstance(data, Data):
        raise TypeError(f"{ranks.owner}: rows='local' is for arrays in memory; give each rank an array of its rows")
    # a rank may have no rows, and does not know then
    has_labels, has_weights = ranks.meet(COUNTS, [data.labels.size, data.weights.size]).max(axis=0).tolist()
    classes = data.labels.reshape(len(data.x), classes_in(data.losses) if has_labels else 0)
    labels = ranks.gather(classes).reshape(-1) if has_labels else data.labels
    target = ranks.gather(data.target) if data.target.shape[1] else data.target
    weights = ranks.gather(all_weights(data)) if has_weights else data.weights
    y = tuple(map(ranks.gather, data.y)) if isinstance(data.y, tuple) else ranks.gather(np.asarray(data.y))
    return data._replace(labels=labels, target=target, weights=weights, y=y)


def as_scores(metrics: Any, owner: str, network: Container, loss: Loss) -> tuple[list[Any], list[tuple[str, Any]]]:
    """The metrics, and the name and function of each, which knows what this network's outputs are."""
    metrics, outputs = listed(metrics, owner, "metrics", "['accuracy']"), outputs_of(network, loss)
    scores, columns = [metric_of(metric, outputs) for metric in metrics], ["epoch", "loss", "lr", "seconds"]
    for name, _ in scores:
        if name in columns:
            raise ValueError(f"{owner}: there would be two columns {name!r}; give the metric's function another name")
        columns.append(name)
    return metrics, scores


def all_weights(data: Data) -> NDArray[Any]:
    """The weights of samples, ones if none were given, as other ranks may have some."""
    return data.weights if data.weights.size else np.ones(len(data.x), data.x.dtype)


def evaluation(
    network: Container,
    data: Data | StreamDataset,
    scores: Sequence[tuple[str, Any]],
    what: str,
    ranks: Ranks | None = None,
) -> dict[str, float]:
    """The loss and the metrics of a prediction. `what` formats the name of x or y in an error, as "fit: {}"."""
    if not isinstance(data, Data):
        return data.evaluation(scores, what)
    output = network.output(data.x) if ranks is None else ranks.output(network.output, data.x, data.program.whole)
    values, gradient = output[:0, 0], np.empty_like(output)
    arrays = output, data.target, data.labels, data.weights, data.losses, values, gradient
    row = {"loss": losses.loss.call(*arrays)}
    if not math.isfinite(row["loss"]) or (scores and not np.isfinite(output).all()):
        refuse_not_finite(data, what)
    if scores:
        weighted = data.weights.size and data.weights.min() >= 0
        predicted, weights = network.split_output(output), data.weights if weighted else None
        row |= {name: score(data.y, predicted, weights) for name, score in scores}
    return row


def dataset(
    network: Container,
    x: Any,
    y: Any,
    loss: Loss,
    columns: Columns,
    sample_weight: ArrayLike | None = None,
    class_weight: Any = None,
    owner: str = "fit",
) -> Data | StreamDataset:
    """The prepared samples of x and y, in memory or in parts; of parts the first is prepared."""
    source = source_of(x, y, sample_weight, owner, columns.check)
    if source is not None:
        return StreamDataset(network, source, loss, class_weight)
    return prepare(network, x, y, loss, sample_weight, class_weight, columns=columns)


def measured(
    network: Container,
    data: Data | StreamDataset,
    validation: Data | StreamDataset | None,
    scores: Sequence[tuple[str, Any]],
    what: str,
    ranks: Ranks | None = None,
) -> dict[str, float]:
    """What the history says of the network at the end of an epoch."""
    if validation is not None:
        return {f"val_{name}": value for name, value in evaluation(network, validation, scores, what, ranks).items()}
    row = evaluation(network, data, scores, what, ranks) if scores else {}
    return {name: row[name] for name, _ in scores}  # the loss is that of the training
