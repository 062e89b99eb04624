"""Losses of classes and of probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfc.kernels.ops import loss_rules, loss_table
from fastfc.losses.base import REDUCTIONS, Loss, as_numbers, column_weights, rank
from fastfc.validation import as_real, finite_number, flag, fraction, positive_number

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "KLDivLoss",
    "MultiMarginLoss",
    "NLLLoss",
]


def check_probabilities(loss: Loss, target: NDArray[Any], fix: str) -> None:
    low, high = target.min(), target.max()
    if not (low >= 0 and high <= 1):  # so written that NaN fails
        raise ValueError(f"{loss}: target must lie in [0, 1], it runs from {low:g} to {high:g}; {fix}")


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

    code = loss_rules.CROSS_ENTROPY

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

    code = loss_rules.NLL

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

    code = loss_rules.BCE

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

    code = loss_rules.BCE_WITH_LOGITS

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
        reductions = {**REDUCTIONS, "batchmean": loss_table.BATCH_MEAN}
        self.code = loss_rules.KL_LOG if log_target else loss_rules.KL
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

    code = loss_rules.MULTI_MARGIN

    def __init__(
        self, p: int = 1, margin: float = 1.0, weight: ArrayLike | None = None, *, reduction: str = "mean"
    ) -> None:
        if rank(p, "MultiMarginLoss", "p") or p not in (1, 2):
            raise ValueError(f"MultiMarginLoss: p must be 1 or 2, got {p!r}")
        self.p, self.margin = int(p), finite_number(margin, "MultiMarginLoss", "margin")
        super().__init__(reduction, self.margin, p, loss_table.NO_CLASS, self._set_weight(weight))
