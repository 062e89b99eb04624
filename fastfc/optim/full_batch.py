"""Optimizers for small data sets, whose steps look at all samples: L-BFGS and Levenberg–Marquardt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastfc.kernels.optim import rules
from fastfc.kernels.optim import update as update_kernels
from fastfc.kernels.runtime import native
from fastfc.kernels.training import lbfgs, levenberg_marquardt
from fastfc.losses.base import Loss
from fastfc.losses.regression import MSELoss
from fastfc.nn.layer import Layer
from fastfc.optim.base import Optimizer, of_rule
from fastfc.validation import positive_int, positive_number

# options of the others
UNUSED = {"clip_norm", "clip_value", "l1", "l2", "penalize_bias", "max_norm", "schedule", "average", "maximize"}
Groups = Mapping[str, Mapping[str, Any]] | None

__all__ = [
    "LBFGS",
    "LevenbergMarquardt",
]


class FullBatch(Optimizer):
    """Base of the optimizers that evaluate the loss as often as they need; `fit` gives them all samples at once."""

    full_batch = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name in UNUSED and (isinstance(value, np.ndarray) or value):
            raise ValueError(f"{type(self).__name__}: it has no {name}; its own search decides about each step")
        super().__setattr__(name, value)

    def step(self, network: Layer) -> None:
        raise TypeError(f"{self} needs the loss and the data, not only gradients; call fit or train_step")

    @property
    def _handle(self) -> tuple[Any, ...]:
        self.load([native.DTYPES[self.state.dtype]])  # we may come from a pickle, with a state
        return super()._handle


class LBFGS(FullBatch):
    """L-BFGS: steps by a model of the curvature from the latest steps, with a line search (strong Wolfe conditions).

    The direction is −H ∇L, H the inverse of the Hessian as the latest pairs of steps and changes of the gradient show
    it, by the two-loop recursion. Dropout draws one mask for a whole step.

    Parameters
    ----------
    lr : float
        What a line search tries first, positive.
    max_iter : int
        Iterations in each step, which is an epoch of `fit`.
    max_eval : int, optional
        Evaluations of the loss in each step, at most; 5/4 max_iter by default.
    tolerance_grad, tolerance_change : float
        A step ends early if no element of the gradient is larger, or neither the loss nor a parameter changes by more.
    history_size : int
        Pairs that are remembered.
    weight_decay : float
        λ, at least 0; λ/2 ‖w‖² is part of what is minimised, not of the loss that is shown.
    groups : dict of dicts, optional
        As for other optimizers, with the options "weight_decay" and "frozen".

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range, or groups that name no parameter.

    References
    ----------
    J. Nocedal, S. Wright, "Numerical Optimization", 2nd edition, 2006, algorithms 3.5, 3.6 and 7.4.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> x = np.linspace(-1, 1, 50)[:, None]
    >>> net = fc.MLP([1, 8, 1], activation="tanh", seed=0, dtype=np.float64)
    >>> history = net.fit(x, np.sin(3 * x), loss=fc.MSELoss(), optimizer=fc.LBFGS(), epochs=20, seed=0)
    >>> net.evaluate(x, np.sin(3 * x), fc.MSELoss()) < 1e-3
    True
    """

    code = rules.LBFGS
    _group_options = ("weight_decay", "frozen")
    _optional_kernel = lbfgs.lbfgs

    _max_eval: int | None = None  # as the user assigned it
    _history_size = 0
    tolerance_grad = of_rule(lbfgs.TOLERANCE_GRAD - update_kernels.RULE, "tolerance_grad", or_zero=True)
    tolerance_change = of_rule(lbfgs.TOLERANCE_CHANGE - update_kernels.RULE, "tolerance_change", or_zero=True)

    def __init__(
        self,
        lr: float = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 10,
        weight_decay: float = 0.0,
        groups: Groups = None,
    ) -> None:
        super().__init__(
            ("lr", lr),
            ("tolerance_grad", tolerance_grad),
            ("tolerance_change", tolerance_change),
            ("weight_decay", weight_decay),
            groups=groups,
        )
        self.max_iter, self.max_eval, self.history_size = max_iter, max_eval, history_size
        self._names += ["max_iter", "max_eval", "history_size"]

    @property
    def max_iter(self) -> int:
        return int(self.hyper[lbfgs.MAX_ITER])

    @max_iter.setter
    def max_iter(self, value: int) -> None:
        self.hyper[lbfgs.MAX_ITER] = positive_int(value, "LBFGS", "max_iter")
        self.max_eval = self._max_eval

    @property
    def max_eval(self) -> Any:
        """An int; 5/4 max_iter unless it is assigned."""
        return int(self.hyper[lbfgs.MAX_EVAL])

    @max_eval.setter
    def max_eval(self, value: int | None) -> None:
        self._max_eval = None if value is None else positive_int(value, "LBFGS", "max_eval")
        self.hyper[lbfgs.MAX_EVAL] = self._max_eval or max(self.max_iter * 5 // 4, 2)

    @property
    def history_size(self) -> int:
        """It can't be changed after the first step."""
        return self._history_size

    @history_size.setter
    def history_size(self, value: int) -> None:
        value = positive_int(value, "LBFGS", "history_size")
        if value != self._history_size:
            self._refuse_after_steps("history_size", f"it remembers up to {self._history_size} pairs of steps")
        self._history_size = value
        self._state = self._state if self.count[0] else self._state[:0]
        self._options_changed()

    def option_as_given(self, name: str) -> Any:
        return self._max_eval if name == "max_eval" else super().option_as_given(name)

    @property
    def _rule_rows(self) -> int:
        return lbfgs.PAIRS + 2 * self.history_size


class LevenbergMarquardt(FullBatch):
    """Levenberg–Marquardt, for least squares: as good as any for a few hundred parameters and one or a few outputs.

    With residuals r and their Jacobian J, (Jᵀ J + λ I) δ = Jᵀ r and w ← w − δ, where λ falls by a factor after a step
    that makes the loss less, and grows by it until one does. J costs a backward pass for each sample and output, and
    Jᵀ J memory for p² numbers. Use float64.

    Parameters
    ----------
    damping : float
        λ at first, positive.
    factor : float
        More than 1.
    max_damping : float
        A λ so large ends the search: the loss has no descent that rounding leaves.
    groups : dict of dicts, optional
        As for other optimizers, with the option "frozen".

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range, or groups that name no parameter.

    References
    ----------
    M. Hagan, M. Menhaj, "Training feedforward networks with the Marquardt algorithm", IEEE Transactions on Neural
    Networks 5, 1994.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> x = np.linspace(-1, 1, 50)[:, None]
    >>> net = fc.MLP([1, 8, 1], activation="tanh", seed=0, dtype=np.float64)
    >>> history = net.fit(x, np.sin(3 * x), loss=fc.MSELoss(), optimizer=fc.LevenbergMarquardt(), epochs=100)
    >>> net.evaluate(x, np.sin(3 * x), fc.MSELoss()) < 1e-5
    True
    """

    code = rules.LEVENBERG_MARQUARDT
    _group_options = ("frozen",)
    _optional_kernel = levenberg_marquardt.levenberg_marquardt
    _outputs = 0

    factor = of_rule(levenberg_marquardt.GROWTH - update_kernels.RULE, "factor", above=1.0)
    max_damping = of_rule(levenberg_marquardt.MAX_DAMPING - update_kernels.RULE, "max_damping")

    def __init__(
        self, damping: float = 1e-3, factor: float = 10.0, max_damping: float = 1e10, groups: Groups = None
    ) -> None:
        numbers = ("damping", damping), ("factor", factor), ("max_damping", max_damping)
        super().__init__(("lr", 1.0), *numbers, groups=groups)
        self._names.remove("lr")

    @property
    def damping(self) -> float:
        """λ at first; it can't be changed after the first step."""
        return float(self.hyper[levenberg_marquardt.DAMPING])

    @damping.setter
    def damping(self, value: float) -> None:
        value = positive_number(value, "LevenbergMarquardt", "damping")
        if value != self.damping:
            self._refuse_after_steps("damping", "it is λ at first, and each step chooses the next one")
        self.hyper[levenberg_marquardt.DAMPING] = value

    def check_loss(self, loss: Loss) -> None:
        if type(loss) is not MSELoss:
            raise TypeError(f"{self} is for least squares: it takes MSELoss(), not {loss}")

    def prepare(self, network: Layer) -> tuple[NDArray[Any], NDArray[np.float64]]:
        self.measure(network)
        return super().prepare(network)

    def measure(self, network: Layer) -> None:
        self._outputs, self._parameters = sum(network.output_widths()), network.params.size

    @property
    def _rule_rows(self) -> int:
        return levenberg_marquardt.rows(self._parameters, self._outputs) if self._outputs else 0
