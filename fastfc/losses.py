"""Losses: `value, grad = loss(prediction, target)`, with grad = dL/dprediction."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import kernels
from .checks import as_floats, as_real
from .kernels import losses as native


class Loss:
    """Base of the losses: checks at the edge, then one kernel gives value and gradient."""

    code: int  # what the kernels call it
    _handle = ()  # in nopython code, see nopython.LossType

    def __call__(self, prediction: ArrayLike, target: ArrayLike) -> tuple[float, NDArray[Any]]:
        """Value and gradient of the loss.

        Parameters
        ----------
        prediction : (n, features) array of real numbers
        target : see the class

        Returns
        -------
        value : float
        grad : array of prediction's shape and dtype

        Raises
        ------
        TypeError, ValueError
            Naming what does not fit, both shapes, and the fix.
        """
        prediction = as_floats(prediction, None, self, "prediction")
        target = self.check_target(target, prediction.shape, prediction.dtype)
        grad = np.empty(prediction.shape, prediction.dtype)
        return self._value(prediction, target, grad), grad

    def check_target(self, target: ArrayLike, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """`target` as the kernel takes it, checked against a prediction of this shape and dtype."""
        target = self.as_target(target, shape, dtype)
        self.check_values(target, shape)
        return target

    def as_target(self, target: ArrayLike, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """`target` as the kernel takes it; its values are not looked at."""
        target = as_floats(target, dtype, self, "target")
        if target.shape != shape:
            fix = "; use target[:, None]" if (*target.shape, 1) == shape else ""
            raise ValueError(f"{self}: target has shape {target.shape}, prediction {shape}; they must be equal{fix}")
        if len(shape) not in (1, 2) or 0 in shape:
            raise ValueError(f"{self}: prediction has shape {shape}, expected (n, features), neither of them 0")
        return target

    def check_values(self, target: NDArray[Any], shape: tuple[int, ...]) -> None:
        """Raise if a target has values that no target of this loss can have."""

    def _value(self, prediction: NDArray[Any], target: NDArray[Any], grad: NDArray[Any]) -> float:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class MSELoss(Loss):
    """Mean squared error over all elements, L = mean((ŷ − y)²), dL/dŷ = 2 (ŷ − y) / size.

    The target has the prediction's shape, (n, features) or (n,).

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

    def _value(self, prediction: NDArray[Any], target: NDArray[Any], grad: NDArray[Any]) -> float:
        return kernels.mse_loss(prediction, target, grad)


class CrossEntropyLoss(Loss):
    """Cross-entropy of softmax(logits), the mean over rows of −Σ y log softmax(z).

    dL/dz = (softmax(z) − y) / n. Predictions are logits z, (n, classes): put no softmax before this
    loss. The target is either class indices, (n,) integers from 0 to classes − 1, or probabilities y,
    (n, classes) in [0, 1].

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", 2016, section 6.2.2.3.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> value, grad = fc.CrossEntropyLoss()(np.log([[0.2, 0.7, 0.1]]), [1])
    >>> print(f"{value:.4f}", grad.round(4))
    0.3567 [[ 0.2 -0.3  0.1]]
    """

    code = native.CROSS_ENTROPY

    def as_target(self, target: ArrayLike, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        if type(target) is np.ndarray and target.dtype == np.int64 and target.shape == shape[:1] and 0 not in shape:
            return target
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"{self}: prediction has shape {shape}, expected (n, classes), neither of them 0")
        target = as_real(target, self, "target")
        if target.shape == shape:
            return target.astype(dtype, copy=False)
        if target.shape != shape[:1]:
            fix = "; use target.ravel()" if target.shape == (shape[0], 1) else ""
            raise ValueError(
                f"{self}: target has shape {target.shape}, prediction {shape}; give class indices of shape "
                f"{shape[:1]} or probabilities of shape {shape}{fix}"
            )
        if target.dtype.kind == "f":
            raise TypeError(
                f"{self}: class indices are integers, target has dtype {target.dtype}; use target.astype(np.int64)"
            )
        return target.astype(np.int64, copy=False)

    def check_values(self, target: NDArray[Any], shape: tuple[int, ...]) -> None:
        if target.ndim == 2:
            check_probabilities(self, target, "or give class indices as a 1-d integer array")
            return
        low, high = target.min(), target.max()
        if low < 0 or high >= shape[1]:
            raise ValueError(
                f"{self}: class indices must lie in 0..{shape[1] - 1} for prediction of shape {shape}, "
                f"target has {low} to {high}; widen the output layer or renumber the classes"
            )

    def _value(self, prediction: NDArray[Any], target: NDArray[Any], grad: NDArray[Any]) -> float:
        return kernels.cross_entropy_loss(prediction, target, grad)


class BCEWithLogitsLoss(Loss):
    """Binary cross-entropy of sigmoid(logits), the mean over all elements.

    L = −mean(y log σ(z) + (1 − y) log(1 − σ(z))), computed as max(z, 0) − z y + log(1 + e^−|z|), and
    dL/dz = (σ(z) − y) / size. The target y, in [0, 1], has the logits' shape, (n, features) or (n,).

    Examples
    --------
    >>> import fastfc as fc
    >>> value, grad = fc.BCEWithLogitsLoss()([[0.0, 0.0]], [[1, 0]])
    >>> print(f"{value:.4f}", grad)
    0.6931 [[-0.25  0.25]]
    """

    code = native.BCE_WITH_LOGITS

    def check_values(self, target: NDArray[Any], shape: tuple[int, ...]) -> None:
        check_probabilities(self, target, "for labels −1 and 1 use (target + 1) / 2")

    def _value(self, prediction: NDArray[Any], target: NDArray[Any], grad: NDArray[Any]) -> float:
        return kernels.bce_with_logits_loss(prediction, target, grad)


def check_probabilities(loss: Loss, target: NDArray[Any], fix: str) -> None:
    low, high = target.min(), target.max()
    if not (low >= 0 and high <= 1):  # so written that NaN fails
        raise ValueError(f"{loss}: target must lie in [0, 1], it runs from {low:g} to {high:g}; {fix}")
