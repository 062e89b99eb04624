"""Losses of numbers."""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike, NDArray

from fastfc.kernels.ops import loss_rules
from fastfc.losses.base import Loss, as_numbers, rank
from fastfc.validation import as_floats, flag, positive_number

__all__ = [
    "GaussianNLLLoss",
    "HuberLoss",
    "L1Loss",
    "MSELoss",
    "PoissonNLLLoss",
    "QuantileLoss",
    "SmoothL1Loss",
]


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

    code = loss_rules.MSE

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

    code = loss_rules.L1

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

    code = loss_rules.HUBER

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
        self.code = loss_rules.HUBER if self.beta else loss_rules.L1
        super().__init__(reduction, self.beta, self.beta)


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
        self.code = loss_rules.POISSON_LOG if log_input else loss_rules.POISSON
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

    code = loss_rules.GAUSSIAN

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        self.full = flag(full, "GaussianNLLLoss", "full")
        self.eps = positive_number(eps, "GaussianNLLLoss", "eps")
        super().__init__(reduction, self.eps, loss_rules.LOG_2PI if full else 0.0)

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

    code = loss_rules.QUANTILE

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
