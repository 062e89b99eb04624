"""`CustomLoss`, a loss of your own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import ArrayLike

from fastfc.kernels.ops import loss_rules
from fastfc.kernels.ops import losses as loss_kernels
from fastfc.kernels.runtime import user_functions
from fastfc.losses.base import Loss


class CustomLoss(Loss):
    """A loss of the user's own, from functions decorated with `numba.njit`.

    Either two functions of numbers, value(p, t), the loss of one element, and gradient(p, t), its derivative
    with respect to the prediction p. They take part in reductions and sample weights as built-in losses do.

    Or one function of matrices, f(prediction, target, out), that writes dL/d(prediction) to `out` and
    returns L, a mean over the samples. It takes no sample weights.

    They are compiled once for each dtype, with the first object made of them; networks are not compiled again.
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
        self.code = loss_rules.CUSTOM_ARRAY if gradient is None else loss_rules.CUSTOM
        functions = [("value", value)] if gradient is None else [("value", value), ("gradient", gradient)]
        for what, function in functions:
            user_functions.parameters(function, "CustomLoss", what)  # before it is looked up, as it may have no hash
        make = loss_kernels.custom_array if gradient is None else loss_kernels.custom_pass
        super().__init__(reduction, user_functions.function_pointer("CustomLoss", make, *functions))

    def _settings(self) -> list[str]:
        return [f.__name__ for f in (self.value, self.gradient) if f is not None]

    def __reduce__(self) -> Any:
        return rebuild, (self.value, self.gradient, self.reduction)

    def check_weights(self, sample_weight: ArrayLike | None) -> None:
        if sample_weight is not None and self.gradient is None:
            raise ValueError(f"{self}: a function of matrices takes no sample weights; give value and gradient")


def rebuild(value: Any, gradient: Any, reduction: str) -> CustomLoss:
    return CustomLoss(value, gradient, reduction=reduction)
