"""Losses: `value, grad = loss(prediction, target)`, with grad = dL/dprediction."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfc.attributes import OF_LOSSES, Guarded, is_ours, names_of, suggestion
from fastfc.kernels.ops import losses as native
from fastfc.kernels.runtime import kernel as edge
from fastfc.kernels.runtime import user_functions as custom
from fastfc.validation import FLOATS, as_floats, as_real, choice, finite_number, flag, fraction, listed, positive_number

NO_LABELS = np.zeros(0, np.int64)
NO_TARGETS = {dtype: np.zeros((0, 0), dtype) for dtype in FLOATS}
NO_WEIGHTS = {dtype: np.zeros(0, dtype) for dtype in FLOATS}
REDUCTIONS = {"mean": native.MEAN, "sum": native.SUM, "none": native.NONE}
# What the kernels take as targets: numbers (n, t), classes (n k,), and the table of losses, see kernels/ops/losses.py.
Targets = tuple[NDArray[Any], NDArray[np.int64], NDArray[np.float64]]


class Loss(Guarded):
    """Base of the losses: checks at the edge, then one kernel gives value and gradient.

    A loss can't be changed after it is made. A class of yours, derived from one, may set attributes of its own.

    Parameters
    ----------
    reduction : "mean", "sum" or "none"
        What becomes of the losses of the elements (of the samples, where the target is classes). With sample
        weights the mean divides by their sum.
    a, b, c : float
        Numbers that its rule takes, see kernels/ops/losses.py.
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
        table = np.zeros((1, native.VECTOR + len(numbers)))
        row = table[0]
        row[native.CODE], row[native.REDUCTION] = self.code, reductions[reduction]
        row[native.CLASSES], row[native.WEIGHT], row[native.SHARE] = self.of_classes, 1, 1
        row[native.A], row[native.B], row[native.C] = a, b, c
        row[native.VECTORS] = native.HAS_VECTOR * (vector is not None)
        row[native.VECTORS] += native.HAS_WEIGHTS * (column_weights is not None)
        row[native.LENGTH], row[native.VECTOR :] = len(numbers) / max(1, int(row[native.VECTORS]).bit_count()), numbers
        self._table = table

    _elsewhere = OF_LOSSES

    def __setattr__(self, name: str, value: Any) -> None:
        if "_table" in self.__dict__:
            self._refuse(name)
        if isinstance(value, np.ndarray) and name != "_table":
            value.flags.writeable = False  # the kernels have a copy in the table
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        self._refuse(name)
        super().__delattr__(name)

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
        for name in sorted(state, key=lambda name: name == "_table"):  # with which the loss is whole
            setattr(self, name, state[name])

    @property
    def _handle(self) -> tuple[NDArray[np.float64]]:
        """What we are in nopython code, see nopython.LossType."""
        return (self._table,)

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
        vectors = int(self._table[0, native.VECTORS]).bit_count()
        numbers = (self._table.shape[1] - native.VECTOR) // max(vectors, 1)
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


def evaluate(owner: Loss, *arguments: Any) -> float:
    """Call the kernel; its errors name the loss."""
    try:
        return native.loss.call(*arguments)
    except ValueError as error:
        raise ValueError(f"{owner}{str(error).removeprefix(native.loss.name)}") from None


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
    return edge.as_array(values, f"{owner}: {what}").ndim


def check_probabilities(loss: Loss, target: NDArray[Any], fix: str) -> None:
    low, high = target.min(), target.max()
    if not (low >= 0 and high <= 1):  # so written that NaN fails
        raise ValueError(f"{loss}: target must lie in [0, 1], it runs from {low:g} to {high:g}; {fix}")


def column_weights(weight: ArrayLike | None, owner: str) -> NDArray[np.float64] | None:
    """The weights of a loss's columns."""
    if weight is not None and rank(weight, owner, "weight") != 1:
        raise ValueError(
            f"{owner}: weight must be a vector, one number for each column; weights of samples are sample_weight, and "
            "a factor of all losses is one of the learning rate"
        )
    return as_numbers(weight, owner, "weight")


class MSELoss(Loss):
    """Mean squared error over all elements, L = mean((ŷ − y)²), dL/dŷ = 2 (ŷ − y) / size.

    The target has the prediction's shape, (n, features) or (n,).

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        What becomes of the losses of the elements. With sample weights the mean divides by their sum.

    Raises
    ------
    TypeError, ValueError
        For a parameter out of its range; when called, for shapes that do not fit, or targets it cannot have.

    References
    ----------
    C. Bishop, "Pattern Recognition and Machine Learning", 2006, section 3.1.1.

    Examples
    --------
    >>> import fastfc as fc
    >>> value, grad = fc.MSELoss()([[1, 2]], [[0, 4]])
    >>> value
    2.5
    >>> grad
    array([[ 1., -2.]], dtype=float32)
    """

    code = native.MSE

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__(reduction)


class L1Loss(Loss):
    """Mean absolute error over all elements, L = mean(|ŷ − y|), dL/dŷ = sign(ŷ − y) / size.

    The target has the prediction's shape, (n, features) or (n,). The gradient is 0 where ŷ = y.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        What becomes of the losses of the elements. With sample weights the mean divides by their sum.

    Raises
    ------
    TypeError, ValueError
        For a parameter out of its range; when called, for shapes that do not fit, or targets it cannot have.

    References
    ----------
    torch.nn.L1Loss

    Examples
    --------
    >>> import fastfc as fc
    >>> value, grad = fc.L1Loss()([[1, 2]], [[0, 4]])
    >>> value, grad.tolist()
    (1.5, [[0.5, -0.5]])
    """

    code = native.L1

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__(reduction)


class HuberLoss(Loss):
    """Squared error for small errors e = ŷ − y, absolute error for large ones: the mean of

        e² / 2 where |e| ≤ δ,    δ (|e| − δ / 2) elsewhere

    The gradient is e, cut to [−δ, δ]. The target has the prediction's shape, (n, features) or (n,).

    Parameters
    ----------
    delta : float
        δ, positive.
    reduction : {"mean", "sum", "none"}
        What becomes of the losses of the elements. With sample weights the mean divides by their sum.

    Raises
    ------
    TypeError, ValueError
        For a parameter out of its range; when called, for shapes that do not fit, or targets it cannot have.

    References
    ----------
    P. J. Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35, 1964.

    Examples
    --------
    >>> import fastfc as fc
    >>> value, grad = fc.HuberLoss()([[1.5, 3]], [[1, 0]])
    >>> value, grad.tolist()
    (1.3125, [[0.25, 0.5]])
    """

    code = native.HUBER

    def __init__(self, delta: float = 1.0, *, reduction: str = "mean") -> None:
        self.delta = positive_number(delta, "HuberLoss", "delta")
        super().__init__(reduction, self.delta, 1.0)


class SmoothL1Loss(Loss):
    """Huber's loss divided by β, which has slope ±1 for large errors e = ŷ − y: the mean of

        e² / (2 β) where |e| < β,    |e| − β / 2 elsewhere

    The target has the prediction's shape, (n, features) or (n,).

    Parameters
    ----------
    beta : float
        β, at least 0; 0 is L1Loss.
    reduction : {"mean", "sum", "none"}
        What becomes of the losses of the elements. With sample weights the mean divides by their sum.

    Raises
    ------
    TypeError, ValueError
        For a parameter out of its range; when called, for shapes that do not fit, or targets it cannot have.

    References
    ----------
    R. Girshick, "Fast R-CNN", ICCV 2015, equation 3.

    Examples
    --------
    >>> import fastfc as fc
    >>> value, grad = fc.SmoothL1Loss(beta=2.0)([[1, 3]], [[0, 0]])
    >>> value, grad.tolist()
    (1.125, [[0.25, 0.5]])
    """

    def __init__(self, beta: float = 1.0, *, reduction: str = "mean") -> None:
        self.beta = positive_number(beta, "SmoothL1Loss", "beta", or_zero=True)
        self.code = native.HUBER if self.beta else native.L1
        super().__init__(reduction, self.beta, self.beta)


class ClassLoss(Loss):
    """Base of the losses whose targets are class indices."""

    of_classes = True
    ignore_index: int | None = None

    def _set_weight(self, weight: ArrayLike | None) -> NDArray[np.float64] | None:
        self.weight = as_numbers(weight, type(self).__name__, "weight")
        return self.weight

    def _set_ignored(self, ignore_index: int) -> int:
        name = type(self).__name__
        if not isinstance(ignore_index, int | np.integer) or isinstance(ignore_index, bool):
            raise TypeError(f"{name}: ignore_index must be an integer, got {ignore_index!r}")
        if abs(int(ignore_index)) > 2**53:
            raise ValueError(f"{name}: ignore_index must lie within ±2⁵³, got {ignore_index}")
        self.ignore_index = int(ignore_index)
        return self.ignore_index

    def as_target(self, target: ArrayLike, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"{self}: prediction has shape {shape}, expected (n, classes), neither of them 0")
        self._check_columns(shape[1])
        if type(target) is np.ndarray and target.dtype == np.int64 and target.shape == shape[:1]:
            return target
        target = as_real(target, self, "target")
        if target.shape != shape[:1]:
            return self._as_probabilities(target, shape, dtype)
        if target.dtype.kind == "f":
            raise TypeError(
                f"{self}: class indices are integers, target has dtype {target.dtype}; use target.astype(np.int64)"
            )
        return target.astype(np.int64, copy=False)

    def _as_probabilities(self, target: NDArray[Any], shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        fix = "; use target.ravel()" if target.shape == (shape[0], 1) else ""
        raise ValueError(
            f"{self}: target has shape {target.shape}, prediction {shape}; give class indices of shape {shape[:1]}{fix}"
        )

    def check_values(self, target: NDArray[Any], shape: tuple[int, ...]) -> None:
        classes = target if self.ignore_index is None else target[target != self.ignore_index]
        low, high = classes.min(initial=0), classes.max(initial=0)
        if low < 0 or high >= shape[1]:
            raise ValueError(
                f"{self}: class indices must lie in 0..{shape[1] - 1} for prediction of shape {shape}, "
                f"target has {classes.min()} to {high}; widen the output layer or renumber the classes"
            )


class CrossEntropyLoss(ClassLoss):
    """Cross-entropy of softmax(logits), the mean over rows of −Σ y log softmax(z).

    dL/dz = (softmax(z) − y) / n. Predictions are logits z, (n, classes): put no softmax before this
    loss. The target is either class indices, (n,) integers from 0 to classes − 1, or probabilities y,
    (n, classes) in [0, 1].

    Parameters
    ----------
    weight : (classes,) array, optional
        Factors v of the classes' terms, not negative. The mean over class indices then divides by the sum
        of the samples' factors, that over probabilities by n.
    ignore_index : int
        A class index whose samples count nothing. A mean of nothing is 0 (PyTorch: NaN).
    label_smoothing : float
        ε in [0, 1]: y is replaced by (1 − ε) y + ε / classes.
    reduction : {"mean", "sum", "none"}
        What becomes of the losses of the samples. With sample weights the mean divides by their sum.

    Raises
    ------
    TypeError, ValueError
        For a parameter out of its range; when called, for shapes that do not fit, or targets it cannot have.

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", 2016, section 6.2.2.3. Label smoothing:
    C. Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> value, grad = fc.CrossEntropyLoss()(np.log([[0.2, 0.7, 0.1]]), [1])
    >>> print(f"{value:.4f}", grad.round(4))
    0.3567 [[ 0.2 -0.3  0.1]]
    """

    code = native.CROSS_ENTROPY

    def __init__(
        self,
        weight: ArrayLike | None = None,
        *,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        self.label_smoothing = fraction(label_smoothing, "CrossEntropyLoss", "label_smoothing")
        vector, ignored = self._set_weight(weight), self._set_ignored(ignore_index)
        super().__init__(reduction, self.label_smoothing, 0.0, ignored, vector)

    def _as_probabilities(self, target: NDArray[Any], shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        if target.shape == shape:
            return target.astype(dtype, copy=False)
        fix = "; use target.ravel()" if target.shape == (shape[0], 1) else ""
        raise ValueError(
            f"{self}: target has shape {target.shape}, prediction {shape}; give class indices of shape "
            f"{shape[:1]} or probabilities of shape {shape}{fix}"
        )

    def check_values(self, target: NDArray[Any], shape: tuple[int, ...]) -> None:
        if target.ndim == 2:
            check_probabilities(self, target, "or give class indices as a 1-d integer array")
        else:
            super().check_values(target, shape)


class NLLLoss(ClassLoss):
    """Negative log-likelihood of log-probabilities, the mean over rows of −z at the row's class.

    Predictions are log-probabilities z, (n, classes), such as LogSoftmax gives; the target is class
    indices, (n,) integers. dL/dz = −1 / n at the class, 0 elsewhere.

    Parameters
    ----------
    weight : (classes,) array, optional
        Factors of the classes' losses, not negative; the mean divides by the sum of the samples' factors.
    ignore_index : int
        A class index whose samples count nothing. A mean of nothing is 0 (PyTorch: NaN).
    reduction : {"mean", "sum", "none"}
        What becomes of the losses of the samples. With sample weights the mean divides by their sum.

    Raises
    ------
    TypeError, ValueError
        For a parameter out of its range; when called, for shapes that do not fit, or targets it cannot have.

    References
    ----------
    C. Bishop, "Pattern Recognition and Machine Learning", 2006, section 4.3.4.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> value, grad = fc.NLLLoss()(np.log([[0.25, 0.5, 0.25]]), [1])
    >>> print(f"{value:.4f}", grad.tolist())
    0.6931 [[0.0, -1.0, 0.0]]
    """

    code = native.NLL

    def __init__(self, weight: ArrayLike | None = None, *, ignore_index: int = -100, reduction: str = "mean") -> None:
        vector, ignored = self._set_weight(weight), self._set_ignored(ignore_index)
        super().__init__(reduction, 0.0, 0.0, ignored, vector)


class BCELoss(Loss):
    """Binary cross-entropy of probabilities, L = −mean(y log p + (1 − y) log(1 − p)).

    Predictions p, (n, features) or (n,), lie in [0, 1], as Sigmoid gives them; BCEWithLogitsLoss without
    Sigmoid is faster and more accurate. Logarithms are at least −100, as in PyTorch, and
    dL/dp = (p − y) / max(p (1 − p), 10⁻¹²) / size. The target y, in [0, 1], has the same shape.

    Parameters
    ----------
    weight : (features,) array, optional
        Factors of the columns' losses, not negative; the mean divides by the number of elements nevertheless, as in
        PyTorch. Weights of samples are `sample_weight`.
    reduction : {"mean", "sum", "none"}
        What becomes of the losses of the elements. With sample weights the mean divides by their sum.

    Raises
    ------
    TypeError, ValueError
        For a parameter out of its range; when called, for shapes that do not fit, or targets it cannot have.

    References
    ----------
    C. Bishop, "Pattern Recognition and Machine Learning", 2006, equation 4.90.

    Examples
    --------
    >>> import fastfc as fc
    >>> value, grad = fc.BCELoss()([[0.5, 0.5]], [[1, 0]])
    >>> print(f"{value:.4f}", grad)
    0.6931 [[-1.  1.]]
    """

    code = native.BCE

    def __init__(self, weight: ArrayLike | None = None, *, reduction: str = "mean") -> None:
        self.weight = column_weights(weight, "BCELoss")
        super().__init__(reduction, column_weights=self.weight)

    def check_values(self, target: NDArray[Any], shape: tuple[int, ...]) -> None:
        check_probabilities(self, target, "for labels −1 and 1 use (target + 1) / 2")


class BCEWithLogitsLoss(Loss):
    """Binary cross-entropy of sigmoid(logits), the mean over all elements.

    L = −mean(v y log σ(z) + (1 − y) log(1 − σ(z))), computed so that nothing overflows or cancels, and
    dL/dz = ((1 + (v − 1) y) σ(z) − v y) / size. The target y, in [0, 1], has the logits' shape,
    (n, features) or (n,).

    Parameters
    ----------
    weight : (features,) array, optional
        Factors of the columns' losses, as for BCELoss.
    pos_weight : float or (features,) array, optional
        v, the weight of positive targets, of each column if it is an array; not negative.
    reduction : {"mean", "sum", "none"}
        What becomes of the losses of the elements. With sample weights the mean divides by their sum.

    Raises
    ------
    TypeError, ValueError
        For a parameter out of its range; when called, for shapes that do not fit, or targets it cannot have.

    References
    ----------
    C. Bishop, "Pattern Recognition and Machine Learning", 2006, equation 4.90, for v = 1; v is that of
    torch.nn.BCEWithLogitsLoss.

    Examples
    --------
    >>> import fastfc as fc
    >>> value, grad = fc.BCEWithLogitsLoss()([[0.0, 0.0]], [[1, 0]])
    >>> print(f"{value:.4f}", grad)
    0.6931 [[-0.25  0.25]]
    """

    code = native.BCE_WITH_LOGITS

    def __init__(
        self, pos_weight: ArrayLike | None = None, *, weight: ArrayLike | None = None, reduction: str = "mean"
    ) -> None:
        self.weight = column_weights(weight, "BCEWithLogitsLoss")
        if pos_weight is not None and rank(pos_weight, "BCEWithLogitsLoss", "pos_weight") == 0:
            self.pos_weight: Any = positive_number(pos_weight, "BCEWithLogitsLoss", "pos_weight", or_zero=True)
            super().__init__(reduction, c=self.pos_weight, column_weights=self.weight)
        else:
            self.pos_weight = as_numbers(pos_weight, "BCEWithLogitsLoss", "pos_weight")
            super().__init__(reduction, c=1.0, vector=self.pos_weight, column_weights=self.weight)
            if self.weight is not None and self.pos_weight is not None and len(self.weight) != len(self.pos_weight):
                raise ValueError(
                    f"BCEWithLogitsLoss: weight has {len(self.weight)} numbers, pos_weight {len(self.pos_weight)}; "
                    "give both one for each column"
                )

    def check_values(self, target: NDArray[Any], shape: tuple[int, ...]) -> None:
        check_probabilities(self, target, "for labels −1 and 1 use (target + 1) / 2")


class PoissonNLLLoss(Loss):
    """Negative log-likelihood of counts y that are Poisson distributed with mean λ, but for log y!.

    L = mean(e^z − y z) with the prediction z = log λ, or mean(λ − y log(λ + ε)) if the prediction is λ.
    The target has the prediction's shape, (n, features) or (n,).

    Parameters
    ----------
    log_input : bool
        Whether predictions are log λ.
    full : bool
        Whether to add Stirling's approximation of log y!, y log y − y + log(2 π y) / 2, where y > 1.
    eps : float
        ε, positive; for log_input=False.
    reduction : {"mean", "sum", "none"}
        What becomes of the losses of the elements. With sample weights the mean divides by their sum.

    Raises
    ------
    TypeError, ValueError
        For a parameter out of its range; when called, for shapes that do not fit, or targets it cannot have.

    References
    ----------
    P. McCullagh, J. Nelder, "Generalized Linear Models", 1989, section 6.2.

    Examples
    --------
    >>> import fastfc as fc
    >>> value, grad = fc.PoissonNLLLoss()([[0.0, 0.0]], [[1, 3]])
    >>> value, grad.tolist()
    (1.0, [[0.0, -1.0]])
    """

    def __init__(
        self, log_input: bool = True, full: bool = False, *, eps: float = 1e-8, reduction: str = "mean"
    ) -> None:
        name = "PoissonNLLLoss"
        self.log_input, self.full = flag(log_input, name, "log_input"), flag(full, name, "full")
        self.eps = positive_number(eps, name, "eps")
        self.code = native.POISSON_LOG if log_input else native.POISSON
        super().__init__(reduction, self.eps, self.full)


class GaussianNLLLoss(Loss):
    """Negative log-likelihood of normally distributed targets with mean μ and variance v, but for a constant.

        L = mean(log max(v, ε) + (y − μ)² / max(v, ε)) / 2

    The prediction has 2 k columns: k means, then k variances, which may not be negative (make them with
    Softplus, for example); the target y has k columns. As in PyTorch, the gradient is that of L at max(v, ε).

    Parameters
    ----------
    full : bool
        Whether to add the constant log(2 π) / 2.
    eps : float
        ε, positive.
    reduction : {"mean", "sum", "none"}
        What becomes of the losses of the elements. With sample weights the mean divides by their sum.

    Raises
    ------
    TypeError, ValueError
        For a parameter out of its range; when called, for shapes that do not fit, or targets it cannot have.

    References
    ----------
    D. Nix, A. Weigend, "Estimating the mean and variance of the target probability distribution", ICNN 1994.

    Examples
    --------
    >>> import fastfc as fc
    >>> value, grad = fc.GaussianNLLLoss()([[3.0, 1.0]], [[1.0]])
    >>> value, grad.tolist()
    (2.0, [[2.0, -1.5]])
    """

    code = native.GAUSSIAN

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        self.full = flag(full, "GaussianNLLLoss", "full")
        self.eps = positive_number(eps, "GaussianNLLLoss", "eps")
        super().__init__(reduction, self.eps, native.LOG_2PI if full else 0.0)

    def target_width(self, width: int) -> int:
        return width // 2

    def as_target(self, target: ArrayLike, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        target = as_floats(target, dtype, self, "target")
        if len(shape) != 2 or 0 in shape or shape[1] % 2:
            raise ValueError(f"{self}: prediction has shape {shape}, expected (n, 2 k): k means, then k variances")
        if target.shape != (shape[0], shape[1] // 2):
            raise ValueError(
                f"{self}: target has shape {target.shape}, prediction {shape}; the prediction has a mean and a "
                f"variance for each column of the target, so that must have shape ({shape[0]}, {shape[1] // 2})"
            )
        return target


class KLDivLoss(Loss):
    """Kullback-Leibler divergence of predicted log-probabilities z from probabilities y, y (log y − z).

    dL/dz = −y / size. The target has the prediction's shape, (n, classes) or (n,); its values are not checked.

    Parameters
    ----------
    log_target : bool
        Whether the targets are log y.
    reduction : "mean", "batchmean", "sum" or "none"
        "mean" divides the sum by the number of elements, "batchmean", the divergence as it is defined, by n.

    Raises
    ------
    TypeError, ValueError
        For a parameter out of its range; when called, for shapes that do not fit, or targets it cannot have.

    References
    ----------
    S. Kullback, R. Leibler, "On information and sufficiency", Annals of Mathematical Statistics 22, 1951.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> value, grad = fc.KLDivLoss(reduction="batchmean")(np.log([[0.5, 0.5]]), [[1.0, 0.0]])
    >>> print(f"{value:.4f}", grad)
    0.6931 [[-1.  0.]]
    """

    def __init__(self, log_target: bool = False, *, reduction: str = "mean") -> None:
        self.log_target = flag(log_target, "KLDivLoss", "log_target")
        reductions = {**REDUCTIONS, "batchmean": native.BATCH_MEAN}
        self.code = native.KL_LOG if log_target else native.KL
        super().__init__(reduction, reductions=reductions)


class MultiMarginLoss(ClassLoss):
    """Hinge loss of several classes, the mean over rows of v_y Σ max(0, margin − z_y + z_j)ᵖ / classes, j ≠ y.

    Predictions are scores z, (n, classes), the target class indices y, (n,) integers.

    Parameters
    ----------
    p : int
        1 or 2.
    margin : float
        Finite.
    weight : (classes,) array, optional
        Factors v of the classes' losses, not negative; the mean divides by n nevertheless, as in PyTorch.
    reduction : {"mean", "sum", "none"}
        What becomes of the losses of the samples. With sample weights the mean divides by their sum.

    Raises
    ------
    TypeError, ValueError
        For a parameter out of its range; when called, for shapes that do not fit, or targets it cannot have.

    References
    ----------
    K. Crammer, Y. Singer, "On the algorithmic implementation of multiclass kernel-based vector machines",
    JMLR 2, 2001, with the sum of all violations in place of the largest.

    Examples
    --------
    >>> import fastfc as fc
    >>> value, grad = fc.MultiMarginLoss()([[0.0, 0.5, 2.0, -1.0]], [2])
    >>> value, grad.tolist()
    (0.0, [[0.0, 0.0, 0.0, 0.0]])
    >>> value, grad = fc.MultiMarginLoss()([[0.0, 0.5, 2.0, -1.0]], [1])
    >>> value, grad.tolist()
    (0.75, [[0.25, -0.5, 0.25, 0.0]])
    """

    code = native.MULTI_MARGIN

    def __init__(
        self, p: int = 1, margin: float = 1.0, weight: ArrayLike | None = None, *, reduction: str = "mean"
    ) -> None:
        if rank(p, "MultiMarginLoss", "p") or p not in (1, 2):
            raise ValueError(f"MultiMarginLoss: p must be 1 or 2, got {p!r}")
        self.p, self.margin = int(p), finite_number(margin, "MultiMarginLoss", "margin")
        super().__init__(reduction, self.margin, p, native.NO_CLASS, self._set_weight(weight))


class QuantileLoss(Loss):
    """Pinball loss, whose least mean is at a quantile q of the target: the mean of

        q (y − ŷ) where ŷ < y,    (1 − q) (ŷ − y) elsewhere

    The gradient is −q, 1 − q, or 0 where ŷ = y. The target has the prediction's shape, (n, features) or (n,).
    To predict several quantiles of one target, give the target once for each: np.repeat(y[:, None], 3, axis=1).

    Parameters
    ----------
    quantile : float or (features,) array
        q in (0, 1), of each column if it is an array.
    reduction : {"mean", "sum", "none"}
        What becomes of the losses of the elements. With sample weights the mean divides by their sum.

    Raises
    ------
    TypeError, ValueError
        For a parameter out of its range; when called, for shapes that do not fit, or targets it cannot have.

    References
    ----------
    R. Koenker, G. Bassett, "Regression quantiles", Econometrica 46, 1978.

    Examples
    --------
    >>> import fastfc as fc
    >>> value, grad = fc.QuantileLoss(0.75)([[1, 2]], [[3, 0]])
    >>> value, grad.tolist()
    (1.0, [[-0.375, 0.125]])
    """

    code = native.QUANTILE

    def __init__(self, quantile: ArrayLike = 0.5, *, reduction: str = "mean") -> None:
        single = rank(quantile, "QuantileLoss", "quantile") == 0
        given: Any = [quantile] if single else quantile
        numbers = as_numbers(given, "QuantileLoss", "quantile")
        if numbers is None or not (numbers.min() > 0 and numbers.max() < 1):
            raise ValueError(f"QuantileLoss: quantile must lie between 0 and 1, got {quantile!r}")
        if single:
            self.quantile: Any = float(numbers[0])
            super().__init__(reduction, c=self.quantile)
        else:
            self.quantile = numbers
            super().__init__(reduction, vector=numbers)


class CustomLoss(Loss):
    """A loss of the user's own, from functions decorated with `numba.njit`.

    Either two functions of numbers, value(p, t), the loss of one element, and gradient(p, t), its derivative
    with respect to the prediction p. They take part in reductions and sample weights as built-in losses do.

    Or one function of matrices, f(prediction, target, out), that writes dL/d(prediction) to `out` and
    returns L, a mean over the samples. It takes no sample weights.

    They are compiled once for each dtype, with the first object made of them; networks are not compiled anew.
    What an exception in them does is not defined. Pickles hold the functions' names if they are of a module.

    Parameters
    ----------
    value : function
        value(p, t), or f(prediction, target, out) if no gradient is given.
    gradient : function, optional
        gradient(p, t).
    reduction : {"mean", "sum", "none"}
        What becomes of the losses of the elements. With sample weights the mean divides by their sum.

    Raises
    ------
    TypeError, ValueError
        For a parameter out of its range; when called, for shapes that do not fit, or targets it cannot have.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> from numba import njit
    >>> value = njit(lambda p, t: np.cosh(p - t) - 1)
    >>> gradient = njit(lambda p, t: np.sinh(p - t))
    >>> loss = fc.CustomLoss(value, gradient)
    >>> print("{:.3f} {}".format(*loss([[1.0, 0.0]], [[0.0, 0.0]])))
    0.272 [[0.5876006 0.       ]]
    """

    def __init__(
        self, value: Callable[..., Any], gradient: Callable[..., Any] | None = None, *, reduction: str = "mean"
    ) -> None:
        self.value, self.gradient = value, gradient
        if gradient is None and reduction != "mean":
            raise ValueError("CustomLoss: a function of matrices returns a mean; reduction must be 'mean'")
        self.code = native.CUSTOM_ARRAY if gradient is None else native.CUSTOM
        functions = [("value", value)] if gradient is None else [("value", value), ("gradient", gradient)]
        for what, function in functions:
            custom.parameters(function, "CustomLoss", what)  # before it is looked up, as it may have no hash
        make = native.custom_array if gradient is None else native.custom_pass
        super().__init__(reduction, custom.place("CustomLoss", make, *functions))

    def _settings(self) -> list[str]:
        return [f.__name__ for f in (self.value, self.gradient) if f is not None]

    def __reduce__(self) -> Any:
        return rebuild, (self.value, self.gradient, self.reduction)

    def __call__(
        self, prediction: ArrayLike, target: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> tuple[Any, Any]:
        if sample_weight is not None and self.gradient is None:
            raise ValueError(f"{self}: a function of matrices takes no sample weights; give value and gradient")
        return super().__call__(prediction, target, sample_weight)

    __call__.__doc__ = Loss.__call__.__doc__


def rebuild(value: Any, gradient: Any, reduction: str) -> CustomLoss:
    return CustomLoss(value, gradient, reduction=reduction)


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

    code = native.SEVERAL

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
        table = np.zeros((len(losses), max(loss._table.shape[1] for loss in losses)))
        for row, loss, weight in zip(table, losses, self.weights, strict=True):
            row[: loss._table.shape[1]] = loss._table[0]
            row[native.WEIGHT] = weight
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
            row[native.FIRST], row[native.WIDTH] = column, width
            row[native.CLASSES], row[native.FIRST_TARGET] = columns == 0, number if columns else place
            column, number, place = column + width, number + columns, place + (columns == 0)
        return table

    def check_targets(self, targets: Targets, widths: Sequence[int]) -> None:
        target, labels, table = targets
        n, places = len(target), int(table[:, native.CLASSES].sum())
        if places:
            labels = labels.reshape(-1, places)
            n = len(labels)
        for loss, row, width in zip(self.losses, table, widths, strict=True):
            first = int(row[native.FIRST_TARGET])
            if row[native.CLASSES]:
                loss.check_values(labels[:, first], (n, width))
            else:
                loss.check_values(target[:, first : first + loss.target_width(width)], (n, width))

    def __repr__(self) -> str:
        return f"MultiLoss({list(self.losses)}, weights={list(self.weights)})"
