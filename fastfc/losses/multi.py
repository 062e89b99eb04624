"""`MultiLoss`, a loss for networks of several outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfc.kernels.ops import loss_rules
from fastfc.kernels.ops.loss_table import LossColumn
from fastfc.losses.base import NO_LABELS, NO_TARGETS, NO_WEIGHTS, Loss, Targets, as_weights, evaluate
from fastfc.validation import as_floats, listed, positive_number


class MultiLoss(Loss):
    """A weighted sum of losses, Σ wᵢ Lᵢ, one for each output of a network.

    Predictions and targets are tuples with one array for each output, class indices among them where a
    loss takes them; so is the gradient.

    Parameters
    ----------
    losses : sequence of Loss
        One for each output.
    weights : sequence of float, optional
        Factors of the losses, not negative; 1 unless given.

    Raises
    ------
    TypeError, ValueError
        If there is no loss, or not one weight for each; when called, for other numbers of outputs.

    References
    ----------
    R. Caruana, "Multitask learning", Machine Learning 28, 1997.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> loss = fc.MultiLoss([fc.CrossEntropyLoss(), fc.MSELoss()], weights=[1, 0.5])
    >>> value, (g, h) = loss((np.zeros((1, 2)), [[3.0]]), ([0], [[1.0]]))
    >>> print(f"{value:.4f}", g, h)
    2.6931 [[-0.5  0.5]] [[2.]]
    """

    code = loss_rules.SEVERAL

    def __init__(self, losses: Sequence[Loss], weights: Sequence[float] | None = None) -> None:
        losses = tuple(listed(losses, "MultiLoss", "losses", "[CrossEntropyLoss(), MSELoss()]"))
        if not losses or not all(isinstance(loss, Loss) and not isinstance(loss, MultiLoss) for loss in losses):
            raise TypeError(
                f"MultiLoss: losses must be losses such as MSELoss(), one for each output, got {list(losses)}"
            )
        for loss in losses:
            loss.check_scalar()
        weights = [1.0] * len(losses) if weights is None else listed(weights, "MultiLoss", "weights", "[1.0, 0.5]")
        if len(weights) != len(losses):
            raise ValueError(f"MultiLoss: give one weight for each of {len(losses)} losses, got {len(weights)}")
        self.weights = tuple(positive_number(weight, "MultiLoss", "each weight", or_zero=True) for weight in weights)
        self.losses, self.reduction = losses, "mean"
        self._tables: dict[Any, NDArray[np.float64]] = {}  # for the widths of outputs and targets
        table = np.zeros((len(losses), max(loss.table.shape[1] for loss in losses)))
        for row, loss, weight in zip(table, losses, self.weights, strict=True):
            row[: loss.table.shape[1]] = loss.table[0]
            row[LossColumn.WEIGHT] = weight
        self._table = table  # without widths

    def __reduce__(self) -> Any:
        return MultiLoss, (self.losses, self.weights)  # tables hold addresses, which are those of this process

    @property
    def takes_negative_weights(self) -> bool:
        return all(loss.takes_negative_weights for loss in self.losses)

    def __call__(self, prediction: Any, target: Any, sample_weight: ArrayLike | None = None) -> tuple[Any, Any]:
        """Value and gradient of the loss: as for other losses, with tuples of arrays, one for each output."""
        self._check_number(prediction, "prediction")
        first = as_floats(prediction[0], None, self, "prediction")
        outputs = [as_floats(p, first.dtype, self, "prediction") for p in prediction]
        if any(p.ndim != 2 or len(p) != len(first) for p in outputs):
            shapes = ", ".join(str(p.shape) for p in outputs)
            raise ValueError(f"{self}: predictions have shapes {shapes}; expected (n, width) of each output")
        widths, n, dtype = [p.shape[1] for p in outputs], len(first), first.dtype
        targets = self.as_targets(target, widths, n, dtype)
        self.check_targets(targets, widths)
        weights, joined = as_weights(sample_weight, n, dtype, self), np.concatenate(outputs, axis=1)
        grad = np.empty(joined.shape, dtype)
        target, labels, table = targets
        value = evaluate(self, joined, target, labels, weights, table, NO_WEIGHTS[dtype], grad)
        return value, tuple(np.split(grad, np.cumsum(widths)[:-1], axis=1))

    def _check_number(self, given: Any, what: str) -> None:
        if not isinstance(given, tuple | list) or len(given) != len(self.losses):
            number = f"{len(given)}" if isinstance(given, tuple | list) else f"a {type(given).__name__}"
            raise ValueError(
                f"{self}: {what} must be a tuple of {len(self.losses)} arrays, one for each loss, got {number}"
            )

    def as_targets(self, y: Any, widths: Sequence[int], n: int, dtype: Any) -> Targets:
        self._check_number(y, "target")
        if len(widths) != len(self.losses):
            raise ValueError(f"{self}: it is for {len(self.losses)} outputs, the network has {len(widths)}")
        given = [
            loss.as_target(target, (n, width), dtype)
            for loss, target, width in zip(self.losses, y, widths, strict=True)
        ]
        numbers, labels = [t for t in given if t.dtype != np.int64], [t for t in given if t.dtype == np.int64]
        key = tuple(widths), tuple(0 if t.dtype == np.int64 else t.shape[1] for t in given)
        if key not in self._tables:
            self._tables[key] = self._table_for(*key)
        return (
            np.concatenate(numbers, axis=1) if numbers else NO_TARGETS[np.dtype(dtype)],
            np.stack(labels, axis=1).ravel() if labels else NO_LABELS,
            self._tables[key],
        )

    def _table_for(self, widths: Sequence[int], target_widths: Sequence[int]) -> NDArray[np.float64]:
        """The losses' rows; a target without columns is classes. As nopython.table_for."""
        table, column, number, place = self._table.copy(), 0, 0, 0
        for row, width, columns in zip(table, widths, target_widths, strict=True):
            row[LossColumn.FIRST], row[LossColumn.WIDTH] = column, width
            row[LossColumn.CLASSES], row[LossColumn.FIRST_TARGET] = columns == 0, number if columns else place
            column, number, place = column + width, number + columns, place + (columns == 0)
        return table

    def check_targets(self, targets: Targets, widths: Sequence[int]) -> None:
        target, labels, table = targets
        n, places = len(target), int(table[:, LossColumn.CLASSES].sum())
        if places:
            labels = labels.reshape(-1, places)
            n = len(labels)
        for loss, row, width in zip(self.losses, table, widths, strict=True):
            first = int(row[LossColumn.FIRST_TARGET])
            if row[LossColumn.CLASSES]:
                loss.check_values(labels[:, first], (n, width))
            else:
                loss.check_values(target[:, first : first + loss.target_width(width)], (n, width))

    def __repr__(self) -> str:
        return f"MultiLoss({list(self.losses)}, weights={list(self.weights)})"
