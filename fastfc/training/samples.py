"""Samples as the kernels take them: `prepare` converts, joins, checks and weighs x, y and their weights, once each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfc.kernels.ops import loss_rules, loss_table
from fastfc.kernels.ops.activation_rules import CUSTOM
from fastfc.kernels.ops.loss_table import LossColumn
from fastfc.kernels.program import interpreter
from fastfc.kernels.program import table as program_table
from fastfc.losses.base import Loss, as_numbers, as_weights
from fastfc.losses.multi import MultiLoss
from fastfc.nn.lowering import Program
from fastfc.validation import as_real, listed, positive_number

if TYPE_CHECKING:
    from fastfc.data.columns import Columns
    from fastfc.nn.layer import Layer

NOTHING = np.zeros(0, np.int64)


class Data(NamedTuple):
    """Samples as the native functions take them, and the user's targets.

    Attributes
    ----------
    x : (n, in_features) array
    target : (n, columns) array
        Numeric targets, those of several outputs side by side; (0, 0) without any.
    labels : (n k,) int64 array
        Classes, of k outputs; (0,) without any.
    losses : (k, c) float64 array
        The table of losses.
    weights : (n,) array
        Of the samples; (0,) if all are 1.
    y : array or tuple of arrays
        For metrics.
    program : Program
        The network for x of this width.
    start : int
        The row of the first sample in the user's data.
    """

    x: NDArray[Any]
    target: NDArray[Any]
    labels: NDArray[np.int64]
    losses: NDArray[np.float64]
    weights: NDArray[Any]
    y: Any
    program: Program
    start: int = 0

    @property
    def weight_sum(self) -> float:
        """The sum of the samples' weights."""
        return weight_sum(self.weights, len(self.x))

    def weight_sum_of(self, rows: Any) -> float:
        """The same of some samples, a slice or indices."""
        weights = self.weights[rows] if self.weights.size else self.weights
        return weight_sum(weights, len(self.x[rows]) if isinstance(rows, slice) else len(rows))

    def with_shares(self, rows: Any = slice(None)) -> Data:
        """With what the means over classes of these samples divide by, as SHARE of their sum of weights."""
        weights = self.weight_sum_of(rows)
        if not self.labels.size or not weights:
            return self
        table = self.losses.copy()
        for row in table:
            if row[LossColumn.CLASSES]:
                row[LossColumn.SHARE] = class_weight_sum(self, row, rows) / weights or 1.0
        return self._replace(losses=table)

    @property
    def n(self) -> int:
        return len(self.x)

    @property
    def first(self) -> Data:
        """Samples that show whether metrics take them."""
        return self

    def check_epochs(self, epochs: int, why: str) -> None:
        """Arrays can be read any number of times."""

    def split(self, fraction: float) -> tuple[Data, Data]:
        """The first samples for training, the last ones, this fraction of them, for validation."""
        middle = split_at(self.n, fraction)
        return self.rows(slice(0, middle)), self.rows(slice(middle, self.n), middle)

    def rows(self, rows: Any, start: int = 0) -> Data:
        """The samples of these rows, a slice or indices."""
        n = len(self.x)
        labels = self.labels.reshape(n, -1)[rows].ravel() if self.labels.size else self.labels
        target = self.target[rows] if self.target.size else self.target
        weights = self.weights[rows] if self.weights.size else self.weights
        return Data(
            self.x[rows], target, labels, self.losses, weights, rows_of(self.y, rows), self.program, self.start + start
        )


def prepare(
    network: Layer,
    x: Any,
    y: Any,
    loss: Loss,
    sample_weight: ArrayLike | None = None,
    class_weight: Any = None,
    *,
    columns: Columns | None = None,
    values: bool = True,
) -> Data:
    """x, y and weights as the kernels take them; each is converted once, and checked once.

    In this order: names of columns, x, the network's program for its width, y, the weights, the values.

    Parameters
    ----------
    network : Layer
    x, y, loss, sample_weight, class_weight
        As for `fit`.
    columns : Columns, optional
        Checks the names of frames.
    values : bool
        Whether to check the values of x and y that the kernels refuse, so that errors name them: indices of embeddings
        and targets. It costs a pass over them.

    Raises
    ------
    TypeError, ValueError
        Naming what does not fit the network, the loss or the other arrays.
    """
    if columns is not None:
        columns.check(x, y)
    x = network.join(x)
    program, n = network.program_for(x), len(x)
    if n == 0:
        raise ValueError(f"{network}: x has shape {x.shape}; give at least one sample")
    y, joined = as_targets(network, y, loss, x)
    widths = output_widths(network, program, loss)
    targets = loss.as_targets(joined, widths, n, x.dtype)
    weights = as_weights(by_class(class_weight, y, sample_weight, loss), n, x.dtype, loss)
    if values:
        check_values(network, program, x, targets, widths, loss)
    return Data(x, *targets, weights, y, program)


def as_targets(network: Layer, y: Any, loss: Loss, x: NDArray[Any]) -> tuple[Any, Any]:
    """The targets as arrays of whatever dtype, or tuples of them: for metrics, and for the loss."""
    several = isinstance(loss, MultiLoss) or len(network.output_widths()) > 1
    if several and isinstance(y, tuple | list):
        y = tuple(as_real(part, network, f"y[{i}]") for i, part in enumerate(y))
    elif not isinstance(loss, MultiLoss):
        y = as_real(y, network, "y")
    if isinstance(loss, MultiLoss):
        return y, y
    joined = network.join_targets(y) if several else y
    if joined.shape[:1] != x.shape[:1]:
        raise ValueError(f"{network}: x has shape {x.shape}, y {joined.shape}; give one target for each sample")
    return y, joined


def output_widths(network: Layer, program: Program, loss: Loss) -> list[int]:
    """The widths of the outputs that the parts of a loss are for."""
    return network.output_widths() if isinstance(loss, MultiLoss) else [program.outputs]


def check_values(
    network: Layer, program: Program, x: NDArray[Any], targets: Any, widths: list[int], loss: Loss
) -> None:
    """Raise if x holds indices that no embedding has, or the targets have values that the loss does not take."""
    wrong = interpreter.wrong_index(program.table, x)
    if wrong:
        raise ValueError(f"{network}: {wrong}")
    loss.check_targets(targets, widths)


def explain_refused(network: Layer, data: Data, loss: Loss) -> None:
    """Raise if the kernels refused samples for their values, which `prepare` did not check."""
    targets = data.target, data.labels, data.losses
    check_values(network, data.program, data.x, targets, output_widths(network, data.program, loss), loss)


def check_finite(data: Data, what: str, name_row: Callable[[int], str] = "row {}".format) -> None:
    """Raise if samples are infinite or not a number; functions of the user's own may have a use for such.

    `what` formats the name of x or y, as "fit: {}"; `name_row` names a row.
    """
    codes = data.program.ops()[:, program_table.Column.CODE]
    custom_losses = loss_rules.CUSTOM, loss_rules.CUSTOM_ARRAY
    if CUSTOM not in codes and not np.isin(data.losses[:, LossColumn.CODE], custom_losses).any():
        refuse_not_finite(data, what, name_row)


def refuse_not_finite(data: Data, what: str, name_row: Callable[[int], str] = "row {}".format) -> None:
    """Raise, naming the first one, if samples are infinite or not a number."""
    for name, values in (("x", data.x), ("y", data.target)):
        wrong = ~np.isfinite(values).all(axis=1)
        if wrong.any():
            row = name_row(data.start + int(wrong.argmax()))
            raise ValueError(f"{what.format(name)} is not finite in {row}; remove such samples")


def weight_sum(weights: NDArray[Any], n: int) -> float:
    """The sum of the weights of n samples; n without weights, or with negative ones, which do not count samples."""
    return float(weights.sum(dtype=np.float64)) if weights.size and weights.min() >= 0 else float(n)


def is_mean_over_classes(data: Data, row: NDArray[np.float64]) -> bool:
    """Whether a loss divides by the weights of the classes that count."""
    over_classes = (
        row[LossColumn.CODE] in (loss_rules.CROSS_ENTROPY, loss_rules.NLL)
        and row[LossColumn.REDUCTION] == loss_table.MEAN
    )
    return over_classes and data.labels.size > 0 and bool(row[LossColumn.CLASSES])


def classes_in(table: NDArray[np.float64]) -> int:
    """How many classes each sample has, if its targets are classes."""
    return int(table[:, LossColumn.CLASSES].sum())


def class_weight_sum(data: Data, row: NDArray[np.float64], rows: Any = slice(None)) -> float:
    """What the mean of a loss over classes divides by: the samples' weights times the factors of their classes."""
    weights, counted = class_weights_of(data, row, rows)
    return float(weights[counted].sum())


def class_weights_of(
    data: Data, row: NDArray[np.float64], rows: Any = slice(None)
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The samples' weights times the factors of their classes, 0 if the class is ignored; and whether it is not."""
    classes = data.labels.reshape(-1, classes_in(data.losses))[rows, int(row[LossColumn.FIRST_TARGET])]
    weights = data.weights[rows].astype(np.float64) if data.weights.size else np.ones(len(classes))
    counted = classes != row[LossColumn.C]
    weights[~counted] = 0.0
    if row[LossColumn.VECTORS]:
        weights[counted] *= row[loss_table.VECTOR + classes[counted]]
    return weights, counted


def rows_of(data: Any, rows: Any) -> Any:
    """Rows of one array, or of each in a tuple."""
    if isinstance(data, tuple):
        return tuple(rows_of(part, rows) for part in data)
    return np.asarray(data)[rows]


def split_at(n: int, fraction: float) -> int:
    """How many of n samples are for training, if this fraction is for validation."""
    fraction = positive_number(fraction, "fit", "validation_split")
    n_validation = round(n * fraction)
    if not 0 < n_validation < n:
        raise ValueError(
            f"fit: validation_split={fraction} leaves {n_validation} of {n} samples for validation; both "
            "parts need at least one"
        )
    return n - n_validation


def by_class(class_weight: Any, y: Any, sample_weight: ArrayLike | None, loss: Loss) -> ArrayLike | None:
    """The samples' weights times those of their classes; y is an array of targets."""
    if class_weight is None:
        return sample_weight
    if isinstance(loss, MultiLoss) or isinstance(y, tuple):
        raise ValueError(
            "fit: class_weight is for one output; give a loss of the MultiLoss weights of its own, such as "
            "CrossEntropyLoss(weight=[1.0, 2.0])"
        )
    classes = y[:, 0] if y.shape[1:] == (1,) else y
    if classes.ndim != 1 or (classes.dtype.kind == "f" and (classes != np.round(classes)).any()):
        raise ValueError(f"fit: class_weight needs classes as targets, (n,) integers; y has shape {y.shape}")
    counted = classes != getattr(loss, "ignore_index", None)
    names, places, counts = np.unique(classes[counted], return_inverse=True, return_counts=True)
    result = np.ones(len(classes))
    result[counted] = weights_of_classes(class_weight, names, counts)[places]
    return result if sample_weight is None else result * as_weights(sample_weight, len(result), result.dtype, loss)


def weights_of_classes(class_weight: Any, names: NDArray[Any], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The weight of each class; counts are the numbers of samples of each."""
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(f"fit: class_weight must be 'balanced' or weights by class, got {class_weight!r}")
        return np.asarray(counts.sum() / (len(names) * counts))
    known = class_weight
    if not isinstance(known, Mapping):
        known = dict(enumerate(listed(known, "fit", "class_weight", "[1.0, 2.0]")))
    missing = [name for name in names.tolist() if name not in known]
    if missing:
        raise ValueError(f"fit: class_weight has no weight for class {missing[0]:g}")
    weights = as_numbers([known[name] for name in names.tolist()], "fit", "class_weight")
    assert weights is not None
    return weights
