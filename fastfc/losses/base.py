"""`Loss`, what every loss can do, and what the kernels take as targets and weights."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfc.attributes import OF_LOSSES, Versioned, is_ours, names_of, suggestion
from fastfc.kernels.ops import loss_rules, loss_table
from fastfc.kernels.ops import losses as loss_kernels
from fastfc.kernels.ops.loss_table import LossColumn
from fastfc.kernels.runtime import kernel as boundary
from fastfc.kernels.runtime.native import compile_or_load_all
from fastfc.validation import FLOATS, as_floats, choice

NO_LABELS = np.zeros(0, np.int64)
NO_TARGETS = {dtype: np.zeros((0, 0), dtype) for dtype in FLOATS}
NO_WEIGHTS = {dtype: np.zeros(0, dtype) for dtype in FLOATS}
REDUCTIONS = {"mean": loss_table.MEAN, "sum": loss_table.SUM, "none": loss_table.NONE}
# What the kernels take as targets: numbers (n, t), classes (n k,), and the table of losses (loss_table.py).
Targets = tuple[NDArray[Any], NDArray[np.int64], NDArray[np.float64]]


class Loss(Versioned):
    """Base of the losses: checks at the edge, then one kernel gives value and gradient.

    A loss can't be changed after it is made. A class of yours, derived from one, may set attributes of its own.

    Parameters
    ----------
    reduction : "mean", "sum" or "none"
        What becomes of the losses of the elements (of the samples, where the target is classes). With sample
        weights the mean divides by their sum.
    a, b, c : float
        Numbers that its rule takes, see kernels/ops/loss_rules.py.
    vector : (columns,) array, optional
        The same for each column.
    column_weights : (columns,) array, optional
        Factors of the losses of each column.
    """

    code: int  # what the kernels call it
    of_classes = False  # whether targets may be class indices

    def __init__(
        self,
        reduction: str,
        a: float = 0.0,
        b: float = 0.0,
        c: float = 0.0,
        vector: NDArray[np.float64] | None = None,
        reductions: dict[str, int] = REDUCTIONS,
        column_weights: NDArray[np.float64] | None = None,
    ) -> None:
        self.reduction = choice(reduction, type(self).__name__, "reduction", reductions)
        numbers = np.concatenate([np.zeros(0), *(v for v in (vector, column_weights) if v is not None)])
        table = np.zeros((1, loss_table.VECTOR + len(numbers)))
        row = table[0]
        row[LossColumn.CODE], row[LossColumn.REDUCTION] = self.code, reductions[reduction]
        row[LossColumn.CLASSES], row[LossColumn.WEIGHT], row[LossColumn.SHARE] = self.of_classes, 1, 1
        row[LossColumn.A], row[LossColumn.B], row[LossColumn.C], row[LossColumn.MEMBERS] = a, b, c, 1
        row[LossColumn.VECTORS] = loss_table.HAS_VECTOR * (vector is not None)
        row[LossColumn.VECTORS] += loss_table.HAS_WEIGHTS * (column_weights is not None)
        row[LossColumn.LENGTH], row[loss_table.VECTOR :] = (
            len(numbers) / max(1, int(row[LossColumn.VECTORS]).bit_count()),
            numbers,
        )
        self._table = table

    _elsewhere = OF_LOSSES
    _internal = frozenset({"table"})

    def __setattr__(self, name: str, value: Any) -> None:
        if "_table" in self.__dict__:
            self._refuse(name)
        if isinstance(value, np.ndarray) and name != "_table":
            value.flags.writeable = False  # the kernels have a copy in the table
        object.__setattr__(self, name, value)
        self.raise_version()

    def __delattr__(self, name: str) -> None:
        self._refuse(name)
        super().__delattr__(name)
        self.raise_version()

    def _refuse(self, name: str) -> None:
        if name.startswith("_"):
            return
        ours = next(kind for kind in type(self).__mro__ if is_ours(kind))
        known = names_of(ours) | set(inspect.signature(ours).parameters)
        if name in known:
            raise AttributeError(f"{self}: a loss can't be changed; make a new one")
        if type(self) is ours:
            raise AttributeError(suggestion(f"{ours.__name__} has no attribute {name!r}", name, known, OF_LOSSES))

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name in sorted(state.keys() - {"version"}, key=lambda name: name == "_table"):  # which makes the loss whole
            setattr(self, name, state[name])

    @property
    def table(self) -> NDArray[np.float64]:
        """The table of losses that the kernels read, see kernels/ops/loss_table.py."""
        return self._table

    @property
    def _handle(self) -> tuple[NDArray[np.float64]]:
        """What we are in nopython code, see nopython.LossType."""
        self.load(loss_kernels.evaluate_losses.loaded_types())  # the code that takes it has loaded those
        return (self._table,)

    def load(self, dtypes: Iterable[Any]) -> None:
        """Compile, or load, what this loss needs."""
        for dtype in dtypes:
            compile_or_load_all(kernels_of(self._table), dtype)

    @property
    def takes_negative_weights(self) -> bool:
        """Whether samples may have negative weights: not where a mean divides by their sum."""
        return self.reduction in ("sum", "none")

    def __call__(
        self, prediction: ArrayLike, target: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> tuple[Any, Any]:
        """Value and gradient of the loss.

        Parameters
        ----------
        prediction : (n, features) array of real numbers
        target : see the class
        sample_weight : (n,) array of real numbers, optional
            Not negative where a mean divides by their sum. Losses with reduction="sum" take any, as policy gradients
            need them: weights advantage / n are the mean over n samples.

        Returns
        -------
        value : float
            With reduction="none" an array: the loss of each element, or of each sample for losses of classes.
        grad : array of prediction's shape and dtype
            With reduction="none" that of the sum.

        Raises
        ------
        TypeError, ValueError
            Naming what does not fit, both shapes, and the fix.
        """
        self.check_weights(sample_weight)
        prediction = as_floats(prediction, None, self, "prediction")
        target = self.check_target(target, prediction.shape, prediction.dtype)
        grad = np.empty(prediction.shape, prediction.dtype)
        weights = as_weights(sample_weight, len(prediction), prediction.dtype, self)
        return self._value(prediction, target, grad, weights), grad

    def check_target(self, target: ArrayLike, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """`target` as the kernel takes it, checked against a prediction of this shape and dtype."""
        target = self.as_target(target, shape, dtype)
        self.check_values(target, shape)
        return target

    def as_target(self, target: ArrayLike, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """`target` as the kernel takes it, int64 if it is classes; its values are not looked at."""
        target = as_floats(target, dtype, self, "target")
        if target.shape != shape:
            fix = "; use target[:, None]" if (*target.shape, 1) == shape else ""
            raise ValueError(f"{self}: target has shape {target.shape}, prediction {shape}; they must be equal{fix}")
        if len(shape) not in (1, 2) or 0 in shape:
            raise ValueError(f"{self}: prediction has shape {shape}, expected (n, features), neither of them 0")
        self._check_columns(shape[1] if len(shape) == 2 else 1)
        return target

    def _check_columns(self, columns: int) -> None:
        vectors = int(self._table[0, LossColumn.VECTORS]).bit_count()
        numbers = (self._table.shape[1] - loss_table.VECTOR) // max(vectors, 1)
        if numbers not in (0, columns):
            raise ValueError(f"{self}: it has {numbers} numbers, one for each column, but the prediction has {columns}")

    def target_width(self, width: int) -> int:
        """Columns of numeric targets for an output of this width."""
        return width

    def as_targets(self, y: Any, widths: Sequence[int], n: int, dtype: Any) -> Targets:
        """The targets of n samples as the kernels take them: numbers, classes, and the table of losses.

        widths are those of the network's outputs, which stand side by side in the prediction. The values of y are not
        looked at.
        """
        target = self.as_target(y, (n, sum(widths)), dtype)
        if target.dtype == np.int64:
            return NO_TARGETS[np.dtype(dtype)], target, self._table
        return target, NO_LABELS, self._table

    def check_targets(self, targets: Targets, widths: Sequence[int]) -> None:
        """Raise if targets from `as_targets` have values that no target of this loss can have."""
        target = targets[1] if targets[1].size else targets[0]
        self.check_values(target, (len(target), sum(widths)))

    def check_values(self, target: NDArray[Any], shape: tuple[int, ...]) -> None:
        """Raise if a target has values that no target of this loss can have."""

    def check_weights(self, sample_weight: ArrayLike | None) -> None:
        """Raise if the loss takes no weights of samples, and there are some."""

    def check_scalar(self) -> None:
        """Raise if the loss is not one number, as it must be to train with it."""
        if self.reduction == "none":
            raise ValueError(f"{self}: there is no training with reduction='none'; use 'mean' or 'sum'")

    def _value(
        self,
        prediction: NDArray[Any],
        target: NDArray[Any],
        grad: NDArray[Any],
        weights: NDArray[Any] | None = None,
    ) -> Any:
        """The value; the gradient goes to grad."""
        dtype = prediction.dtype
        shape = target.shape[:1] if self.of_classes else target.shape
        values = np.empty(shape if self.reduction == "none" else 0, dtype)
        weights = NO_WEIGHTS[dtype] if weights is None else weights
        if prediction.ndim == 1:
            prediction, target, grad = prediction[:, None], target[:, None], grad[:, None]
        targets = (NO_TARGETS[dtype], target) if target.dtype == np.int64 else (target, NO_LABELS)
        value = evaluate(self, prediction, *targets, weights, self._table, values.ravel(), grad)
        return values if self.reduction == "none" else value

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._settings())})"

    def _settings(self) -> list[str]:
        """The arguments that are not the default ones."""
        given = []
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value = getattr(self, name)
            value = value.tolist() if isinstance(value, np.ndarray) else value
            if value != parameter.default:
                given.append(f"{name}={value!r}")
        return given


def kernels_of(table: NDArray[np.float64], of_classes: bool = False) -> list[Any]:
    """What a table of losses needs that not every one does; less if it is known that targets are classes."""
    codes = set(table[:, LossColumn.CODE].astype(int).tolist())
    entropies = table[table[:, LossColumn.CODE] == loss_rules.CROSS_ENTROPY]
    if len(entropies) and (not of_classes or entropies[:, LossColumn.A].any()):  # or label smoothing
        codes.add(loss_rules.SOFT_CROSS_ENTROPY)
    return [kernel for kernel in map(loss_rules.kernel_of, sorted(codes)) if kernel is not None]


def evaluate(owner: Loss, *arguments: Any) -> float:
    """Call the kernel; its errors name the loss."""
    try:
        return loss_kernels.loss.call(*arguments)
    except ValueError as error:
        raise ValueError(f"{owner}{str(error).removeprefix(loss_kernels.loss.name)}") from None


def as_weights(weights: ArrayLike | None, n: int, dtype: Any, owner: Loss) -> NDArray[Any]:
    """The weights of n samples as the kernels take them; empty if there are none."""
    if weights is None:
        return NO_WEIGHTS[np.dtype(dtype)]
    weights = as_floats(weights, dtype, owner, "sample_weight")
    if weights.shape != (n,):
        raise ValueError(f"{owner}: sample_weight has shape {weights.shape}, expected ({n},), one for each sample")
    if not (weights.min(initial=0) > -np.inf and weights.max(initial=0) < np.inf):
        raise ValueError(f"{owner}: sample_weight must be finite and not negative")
    if weights.min(initial=0) < 0 and not owner.takes_negative_weights:
        raise ValueError(
            f"{owner}: sample_weight must be finite and not negative, as the mean divides by its sum; for weights of "
            "either sign, such as advantages, use reduction='sum' and weights / n"
        )
    return weights


def as_numbers(values: ArrayLike | None, owner: str, what: str) -> NDArray[np.float64] | None:
    """Numbers for each column, finite and not negative; None stays None."""
    if values is None:
        return None
    numbers = as_floats(values, np.dtype(float), owner, what)
    if numbers.ndim != 1 or not numbers.size or not (numbers.min() >= 0 and numbers.max() < np.inf):
        raise ValueError(f"{owner}: {what} must be a vector of finite numbers, not negative; got {numbers.tolist()}")
    numbers = numbers.copy()
    numbers.flags.writeable = False  # the loss has its own copy, which changes here would not reach
    return numbers


def rank(values: Any, owner: str, what: str) -> int:
    return boundary.as_array(values, f"{owner}: {what}").ndim


def column_weights(weight: ArrayLike | None, owner: str) -> NDArray[np.float64] | None:
    """The weights of a loss's columns."""
    if weight is not None and rank(weight, owner, "weight") != 1:
        raise ValueError(
            f"{owner}: weight must be a vector, one number for each column; weights of samples are sample_weight, and "
            "a factor of all losses is one of the learning rate"
        )
    return as_numbers(weight, owner, "weight")
