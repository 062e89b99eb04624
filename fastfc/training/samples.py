"""Samples as the kernels take them: converted, joined, checked and weighed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfc.data.columns import Columns
from fastfc.kernels.ops import loss_rules
from fastfc.kernels.ops.activation_rules import CUSTOM
from fastfc.kernels.program import interpreter
from fastfc.kernels.program import table as program_table
from fastfc.losses.base import Loss, as_numbers, as_weights
from fastfc.losses.multi import MultiLoss
from fastfc.nn.lowering import Program
from fastfc.validation import as_real, listed, positive_number

if TYPE_CHECKING:
    from fastfc.nn.container import Container

NOTHING = np.zeros(0, np.int64)


class Data(NamedTuple):
    """Samples as the native functions take them, and the targets as they were given."""

    x: NDArray[Any]
    target: NDArray[Any]  # numbers, those of several outputs side by side
    labels: NDArray[np.int64]  # classes
    losses: NDArray[np.float64]  # the table of losses
    weights: NDArray[Any]  # of the samples; none are all 1
    y: Any
    start: int = 0  # the row of the first sample in what was given

    @property
    def weight_sum(self) -> float:
        """The sum of the samples' weights."""
        return weight_sum_of(self.weights, len(self.x))

    def shared(self) -> Data:
        """With what the means over classes divide by, as SHARE of the mass in the table of losses."""
        if not self.labels.size or not self.weight_sum:
            return self
        table = self.losses.copy()
        for row in table:
            if row[loss_rules.CLASSES]:
                row[loss_rules.SHARE] = class_weight_sum(self, row) / self.weight_sum or 1.0
        return self._replace(losses=table)

    @property
    def n(self) -> int:
        return len(self.x)

    @property
    def first(self) -> Data:
        """Samples to see whether metrics take them."""
        return self

    def check_epochs(self, epochs: int, why: str) -> None:
        """Arrays can be read as often as one likes."""

    def split(self, fraction: float) -> tuple[Data, Data]:
        """The first samples for training, the last ones, this fraction of them, for validation."""
        n = len(self.x)
        middle = split_at(n, fraction)
        return self.rows(slice(0, middle)), self.rows(slice(middle, n))

    def rows(self, rows: slice) -> Data:
        n = len(self.x)
        labels = self.labels.reshape(n, -1)[rows].ravel() if self.labels.size else self.labels
        target = self.target[rows] if self.target.size else self.target
        return Data(self.x[rows], target, labels, self.losses, self.weights[rows], samples(self.y, rows), rows.start)


def weight_sum_of(weights: NDArray[Any], n: int) -> float:
    """The sum of the weights of n samples; n if there are none, or negative ones, which say nothing of how many."""
    return float(weights.sum(dtype=np.float64)) if weights.size and weights.min() >= 0 else float(n)


def class_weight_sum(data: Data, row: NDArray[np.float64], rows: Any = slice(None)) -> float:
    """What the mean of a loss over classes divides by: the samples' weights times the factors of their classes."""
    classes = data.labels.reshape(len(data.x), -1)[rows, int(row[loss_rules.FIRST_TARGET])]
    weights = data.weights[rows].astype(np.float64) if data.weights.size else np.ones(len(classes))
    counted = classes != row[loss_rules.C]
    factors = row[loss_rules.VECTOR + classes[counted]] if row[loss_rules.VECTORS] else 1.0
    return float((weights[counted] * factors).sum())


def samples(data: Any, rows: Any) -> Any:
    """Some samples of one array, or of each in a tuple."""
    if isinstance(data, tuple):
        return tuple(samples(part, rows) for part in data)
    return np.asarray(data)[rows]


def split_at(n: int, fraction: float) -> int:
    """How many samples are for training, if this fraction of all is for validation."""
    fraction = positive_number(fraction, "fit", "validation_split")
    n_validation = round(n * fraction)
    if not 0 < n_validation < n:
        raise ValueError(
            f"fit: validation_split={fraction} leaves {n_validation} of {n} samples for validation; both "
            "parts need at least one"
        )
    return n - n_validation


def by_class(class_weight: Any, y: Any, sample_weight: ArrayLike | None, loss: Loss) -> ArrayLike | None:
    """The samples' weights times those of their classes."""
    if class_weight is None:
        return sample_weight
    if isinstance(loss, MultiLoss):
        raise ValueError(
            "fit: class_weight is for one output; give a loss of the MultiLoss weights of its own, such as "
            "CrossEntropyLoss(weight=[1.0, 2.0])"
        )
    classes = as_real(y, "fit", "y")
    classes = classes[:, 0] if classes.shape[1:] == (1,) else classes
    if classes.ndim != 1 or (classes.dtype.kind == "f" and (classes != np.round(classes)).any()):
        raise ValueError(f"fit: class_weight needs classes as targets, (n,) integers; y has shape {np.shape(y)}")
    counted = classes != getattr(loss, "ignore_index", None)
    names, place, counts = np.unique(classes[counted], return_inverse=True, return_counts=True)
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(f"fit: class_weight must be 'balanced' or weights by class, got {class_weight!r}")
        weights = counts.sum() / (len(names) * counts)
    else:
        known = class_weight
        if not isinstance(known, Mapping):
            known = dict(enumerate(listed(known, "fit", "class_weight", "[1.0, 2.0]")))
        missing = [name for name in names.tolist() if name not in known]
        if missing:
            raise ValueError(f"fit: class_weight has no weight for class {missing[0]:g}")
        weights = as_numbers([known[name] for name in names.tolist()], "fit", "class_weight")
    result = np.ones(len(classes))
    result[counted] = weights[place]
    return result if sample_weight is None else result * as_weights(sample_weight, len(result), result.dtype, loss)


def as_data(network: Container, x: Any, y: Any, loss: Loss, sample_weight: ArrayLike | None = None) -> Data:
    """x and y as the kernels take them, checked against the network and each other; targets' values are not."""
    x = network._join(x)
    program, n = network._program_for(x), len(x)
    if n == 0:
        raise ValueError(f"{network}: x has shape {x.shape}; give at least one sample")
    if network._target_names is not None and type(y) is not np.ndarray:
        Columns(network).look(None, y)
    several = isinstance(loss, MultiLoss) or len(network._output_widths()) > 1
    if several and isinstance(y, tuple | list):
        y = tuple(as_real(part, network, f"y[{i}]") for i, part in enumerate(y))
    joined = y
    if not isinstance(loss, MultiLoss):
        joined = as_real(network._join_targets(y), network, "y")
        if joined.shape[:1] != x.shape[:1]:
            raise ValueError(f"{network}: x has shape {x.shape}, y {joined.shape}; give one target for each sample")
        y = y if several else joined
    target, labels, table_of_losses = loss.as_targets(joined, widths(network, program, loss), n, x.dtype)
    return Data(x, target, labels, table_of_losses, as_weights(sample_weight, n, x.dtype, loss), y)


def widths(network: Container, program: Program, loss: Loss) -> list[int]:
    """The widths of the outputs that the parts of a loss are for."""
    return network._output_widths() if isinstance(loss, MultiLoss) else [program.outputs]


def check_values(network: Container, data: Data, loss: Loss) -> None:
    """Raise if x holds indices that no table has, or the targets have values that the loss can't have."""
    program = network._program_for(data.x)
    wrong = interpreter.wrong_index(program.table, data.x)
    if wrong:
        raise ValueError(f"{network}: {wrong}")
    loss.check_targets((data.target, data.labels, data.losses), widths(network, program, loss))


def check_finite(network: Container, data: Data, told: str, where: Callable[[int], str] = "row {}".format) -> None:
    """Raise if samples are infinite or not a number; functions of the user's own may have a use for such."""
    program = network._program_for(data.x).table
    steps = program[1 : 1 + program[0, program_table.N_OPS], program_table.CODE]
    if (
        CUSTOM not in steps
        and not np.isin(data.losses[:, loss_rules.CODE], (loss_rules.CUSTOM, loss_rules.CUSTOM_ARRAY)).any()
    ):
        refuse_not_finite(data, told, where)


def refuse_not_finite(data: Data, told: str, where: Callable[[int], str] = "row {}".format) -> None:
    """Raise, naming the first one, if samples are infinite or not a number."""
    for what, values in (("x", data.x), ("y", data.target)):
        wrong = ~np.isfinite(values).all(axis=1)
        if wrong.any():
            row = where(data.start + int(wrong.argmax()))
            raise ValueError(f"{told.format(what)} is not finite in {row}; remove such samples")
