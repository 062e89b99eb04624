"""Schedules: how the learning rate, or another option, changes from update to update, or from epoch to epoch.

The formulas stand in kernels/optim/schedules.py, and hold in `fit`, `train_step` and nopython code alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastfc.attributes import frozen
from fastfc.kernels.optim import schedules as schedule_kernels
from fastfc.optim.schedule import ReduceLROnPlateau as ReduceLROnPlateau  # where it was in 0.2.0
from fastfc.optim.schedule import Schedule as Schedule
from fastfc.validation import choice, flag, fraction, listed, positive_int, positive_number


@frozen
class StepLR(Schedule):
    """A factor γ every `step_size` updates: η = lr γ^⌊t / step_size⌋.

    Parameters
    ----------
    step_size : int
        At least 1.
    gamma : float
        γ, positive.
    unit : {"update", "epoch"}
        What t and step_size count: updates, one for each batch, unless you say "epoch". Loops in PyTorch mostly call
        `scheduler.step()` once an epoch, which is unit="epoch" here.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range.

    References
    ----------
    torch.optim.lr_scheduler.StepLR

    Examples
    --------
    >>> import fastfc as fc
    >>> schedule = fc.StepLR(2, gamma=0.5)
    >>> [schedule.rate(1.0, t) for t in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]

    Every two batches, and every two epochs of four batches each:

    >>> net, x, y = fc.MLP([1, 1], seed=0), [[0], [1], [2], [3]], [[1], [3], [5], [7]]
    >>> for unit in ("update", "epoch"):
    ...     optimizer = fc.SGD(0.1, schedule=fc.StepLR(2, gamma=0.5, unit=unit))
    ...     history = net.fit(x, y, loss=fc.MSELoss(), optimizer=optimizer, epochs=4, batch_size=1, seed=0)
    ...     print([row["lr"] for row in history.rows], optimizer.lr, optimizer.current_lr)
    [0.1, 0.025, 0.00625, 0.0015625] 0.1 0.000390625
    [0.1, 0.1, 0.05, 0.05] 0.1 0.025
    """

    code = schedule_kernels.STEP
    step_size: int
    gamma: float = 0.1

    def _check(self) -> None:
        positive_int(self.step_size, self._owner, "step_size")
        positive_number(self.gamma, self._owner, "gamma")

    def _numbers(self) -> dict[int, float]:
        return {schedule_kernels.A: self.step_size, schedule_kernels.B: self.gamma}


@frozen
class MultiStepLR(Schedule):
    """A factor γ at each milestone: η = lr γ^(number of milestones ≤ t).

    Parameters
    ----------
    milestones : sequence of int
        At least 1 each, in any order.
    gamma : float
        γ, positive.
    unit : {"update", "epoch"}
        What t and the milestones count: updates, one for each batch, unless you say "epoch". Loops in PyTorch mostly
        call `scheduler.step()` once an epoch, which is unit="epoch" here.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range.

    References
    ----------
    torch.optim.lr_scheduler.MultiStepLR

    Examples
    --------
    >>> import fastfc as fc
    >>> schedule = fc.MultiStepLR([1, 3], gamma=0.5)
    >>> [schedule.rate(1.0, t) for t in range(5)]
    [1.0, 0.5, 0.5, 0.25, 0.25]
    """

    code = schedule_kernels.MULTI_STEP
    milestones: Sequence[int]
    gamma: float = 0.1

    def _check(self) -> None:
        milestones = listed(self.milestones, self._owner, "milestones", "[30, 80]")
        object.__setattr__(
            self, "milestones", tuple(positive_int(m, self._owner, "each milestone") for m in milestones)
        )
        positive_number(self.gamma, self._owner, "gamma")

    def _numbers(self) -> dict[int, float]:
        return {schedule_kernels.A: len(self.milestones), schedule_kernels.B: self.gamma}

    def _milestones(self) -> Sequence[int]:
        return self.milestones


@frozen
class ExponentialLR(Schedule):
    """A factor γ at every update: η = lr γᵗ.

    Parameters
    ----------
    gamma : float
        γ, positive.
    unit : {"update", "epoch"}
        What t counts: updates, one for each batch, unless you say "epoch". Loops in PyTorch mostly call
        `scheduler.step()` once an epoch, which is unit="epoch" here.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range.

    References
    ----------
    torch.optim.lr_scheduler.ExponentialLR

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.ExponentialLR(0.5).rate(1.0, 3)
    0.125
    """

    code = schedule_kernels.EXPONENTIAL
    gamma: float

    def _check(self) -> None:
        positive_number(self.gamma, self._owner, "gamma")

    def _numbers(self) -> dict[int, float]:
        return {schedule_kernels.B: self.gamma}


@frozen
class CosineAnnealingLR(Schedule):
    """Down half a cosine: η = eta_min + (lr − eta_min) (1 + cos(π t / T_max)) / 2, and after T_max up again.

    Parameters
    ----------
    T_max : int
        At least 1.
    eta_min : float
        The lowest rate, at least 0.
    unit : {"update", "epoch"}
        What t and T_max count: updates, one for each batch, unless you say "epoch". Loops in PyTorch mostly call
        `scheduler.step()` once an epoch, which is unit="epoch" here.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range.

    References
    ----------
    I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017.
    torch.optim.lr_scheduler.CosineAnnealingLR

    Examples
    --------
    >>> import fastfc as fc
    >>> optimizer = fc.Adam(1e-3, schedule=fc.CosineAnnealingLR(T_max=1000))
    >>> round(optimizer.schedule.rate(1e-3, 500), 6)
    0.0005
    """

    code = schedule_kernels.COSINE
    T_max: int
    eta_min: float = 0.0

    def _check(self) -> None:
        positive_int(self.T_max, self._owner, "T_max")
        positive_number(self.eta_min, self._owner, "eta_min", or_zero=True)

    def _numbers(self) -> dict[int, float]:
        return {schedule_kernels.A: self.T_max, schedule_kernels.B: self.eta_min}


@frozen
class CosineAnnealingWarmRestarts(Schedule):
    """Down half a cosine as CosineAnnealingLR, again and again: for T_0, T_0 T_mult, T_0 T_mult², … updates.

    η = eta_min + (lr − eta_min) (1 + cos(π t / T)) / 2, with t and T counted from the latest restart.

    Parameters
    ----------
    T_0, T_mult : int
        At least 1.
    eta_min : float
        The lowest rate, at least 0.
    unit : {"update", "epoch"}
        What t and T_0 count: updates, one for each batch, unless you say "epoch". Loops in PyTorch mostly call
        `scheduler.step()` once an epoch, which is unit="epoch" here.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range.

    References
    ----------
    I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017.
    torch.optim.lr_scheduler.CosineAnnealingWarmRestarts

    Examples
    --------
    >>> import fastfc as fc
    >>> schedule = fc.CosineAnnealingWarmRestarts(2, T_mult=2)
    >>> [round(schedule.rate(1.0, t), 3) for t in range(7)]
    [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]
    """

    code = schedule_kernels.RESTARTS
    T_0: int
    T_mult: int = 1
    eta_min: float = 0.0

    def _check(self) -> None:
        positive_int(self.T_0, self._owner, "T_0")
        positive_int(self.T_mult, self._owner, "T_mult")
        positive_number(self.eta_min, self._owner, "eta_min", or_zero=True)

    def _numbers(self) -> dict[int, float]:
        return {schedule_kernels.A: self.T_0, schedule_kernels.B: self.eta_min, schedule_kernels.C: self.T_mult}


@frozen
class LinearLR(Schedule):
    """Straight from start_factor lr to end_factor lr, where it stays: η = lr (s + (e − s) min(t / total_iters, 1)).

    Parameters
    ----------
    start_factor, end_factor : float
        s and e, from 0 to 1.
    total_iters : int
        At least 1.
    unit : {"update", "epoch"}
        What t and total_iters count: updates, one for each batch, unless you say "epoch".

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range.

    References
    ----------
    torch.optim.lr_scheduler.LinearLR

    Examples
    --------
    >>> import fastfc as fc
    >>> schedule = fc.LinearLR(1.0, 0.0, total_iters=4)
    >>> [schedule.rate(1.0, t) for t in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    code = schedule_kernels.LINEAR
    start_factor: float = 1.0 / 3.0
    end_factor: float = 1.0
    total_iters: int = 5

    def _check(self) -> None:
        fraction(self.start_factor, self._owner, "start_factor")
        fraction(self.end_factor, self._owner, "end_factor")
        positive_int(self.total_iters, self._owner, "total_iters")

    def _numbers(self) -> dict[int, float]:
        return {
            schedule_kernels.A: self.total_iters,
            schedule_kernels.B: self.start_factor,
            schedule_kernels.C: self.end_factor,
        }


@frozen
class FlatCosineLR(Schedule):
    """lr in the first half, then down half a cosine to 0: with u = t / total_steps, η = lr (1 + cos(π (2 u − 1))) / 2.

    Parameters
    ----------
    total_steps : int
        Length of the training, at least 1; after it the rate stays 0.
    unit : {"update", "epoch"}
        What t and total_steps count: updates, one for each batch, unless you say "epoch".

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range.

    References
    ----------
    D. Holzmüller, L. Grinsztajn, I. Steinwart, "Better by default: strong pre-tuned MLPs and boosted trees on tabular
    data", NeurIPS 2024: "flat_cos".

    Examples
    --------
    >>> import fastfc as fc
    >>> schedule = fc.FlatCosineLR(total_steps=8)
    >>> [round(schedule.rate(1.0, t), 3) for t in range(10)]
    [1.0, 1.0, 1.0, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    code = schedule_kernels.FLAT_COSINE
    total_steps: int

    def _check(self) -> None:
        positive_int(self.total_steps, self._owner, "total_steps")

    def _numbers(self) -> dict[int, float]:
        return {schedule_kernels.A: self.total_steps}


@frozen
class CosLogLR(Schedule):
    """Up from 0 to lr and down to 0 in cycles, each twice as long as the one before: "coslog".

    With u = t / total_steps and c cycles, η = lr (1 − cos(2 π log₂(1 + (2ᶜ − 1) u))) / 2. The rate of the first step
    is 0: moments of the gradient take it, and parameters stay.

    Parameters
    ----------
    total_steps : int
        Length of the training, at least 1; after it the rate stays 0.
    cycles : int
        c, from 1 to 50.
    unit : {"update", "epoch"}
        What t and total_steps count: updates, one for each batch, unless you say "epoch".

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range.

    References
    ----------
    D. Holzmüller, L. Grinsztajn, I. Steinwart, "Better by default: strong pre-tuned MLPs and boosted trees on tabular
    data", NeurIPS 2024, section 3: "coslog4" has four cycles.

    Examples
    --------
    >>> import fastfc as fc
    >>> schedule = fc.CosLogLR(total_steps=30)
    >>> [round(schedule.rate(1.0, t), 3) for t in (0, 1, 2, 4, 6, 9, 14, 20, 30)]
    [0.0, 0.93, 0.0, 0.93, 0.0, 0.984, 0.0, 0.984, 0.0]
    """

    code = schedule_kernels.COS_LOG
    total_steps: int
    cycles: int = 4

    def _check(self) -> None:
        positive_int(self.total_steps, self._owner, "total_steps")
        if positive_int(self.cycles, self._owner, "cycles") > 50:
            raise ValueError(f"{self._owner}: cycles must be at most 50, got {self.cycles}")

    def _numbers(self) -> dict[int, float]:
        return {schedule_kernels.A: self.total_steps, schedule_kernels.B: self.cycles}


@frozen
class OneCycleLR(Schedule):
    """Up from max_lr / div_factor to max_lr, and down to max_lr / div_factor / final_div_factor, where it stays.

    Along half a cosine each, or straight. The rate is highest after pct_start total_steps − 1 updates; in three
    phases it comes down as long as it went up, and then on to the end.

    Parameters
    ----------
    max_lr : float or None
        Positive; None stands for the optimizer's `lr`, which otherwise plays no part.
    total_steps : int
        Length of the cycle, at least 1.
    pct_start : float
        From 0 to 1.
    anneal_strategy : {"cos", "linear"}
    div_factor, final_div_factor : float
        Positive.
    three_phase : bool
    unit : {"update", "epoch"}
        What t and total_steps count.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range.

    References
    ----------
    L. Smith, N. Topin, "Super-convergence: very fast training of neural networks using large learning rates", 2018.
    torch.optim.lr_scheduler.OneCycleLR, without its cycle of the momentum

    Examples
    --------
    >>> import fastfc as fc
    >>> schedule = fc.OneCycleLR(max_lr=1.0, total_steps=6, pct_start=0.5, anneal_strategy="linear", div_factor=4)
    >>> [round(schedule.rate(1.0, t), 3) for t in range(6)]
    [0.25, 0.625, 1.0, 0.667, 0.333, 0.0]
    """

    code = schedule_kernels.ONE_CYCLE
    max_lr: float | None
    total_steps: int
    pct_start: float = 0.3
    anneal_strategy: str = "cos"
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False

    def _check(self) -> None:
        if self.max_lr is not None:
            positive_number(self.max_lr, self._owner, "max_lr")
        positive_int(self.total_steps, self._owner, "total_steps")
        fraction(self.pct_start, self._owner, "pct_start")
        choice(self.anneal_strategy, self._owner, "anneal_strategy", ("cos", "linear"))
        positive_number(self.div_factor, self._owner, "div_factor")
        positive_number(self.final_div_factor, self._owner, "final_div_factor")
        flag(self.three_phase, self._owner, "three_phase")

    def _numbers(self) -> dict[int, float]:
        return {
            schedule_kernels.A: self.total_steps,
            schedule_kernels.B: self.max_lr or 0.0,
            schedule_kernels.C: self.pct_start,
            schedule_kernels.D: self.div_factor,
            schedule_kernels.E: self.final_div_factor,
            schedule_kernels.F: self.anneal_strategy == "linear",
            schedule_kernels.G: self.three_phase,
        }


@frozen
class LinearWarmup(Schedule):
    """Straight up to lr: η = lr (s + (1 − s) t / total_iters) with s = start_factor; then another schedule, from 0 on.

    Parameters
    ----------
    total_iters : int
        Length of the warm-up, at least 1.
    start_factor : float
        s, from 0 to 1.
    after : Schedule or None
        What follows; None for lr. Its unit must be ours.
    unit : {"update", "epoch"}
        What t and total_iters count.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range.

    References
    ----------
    torch.optim.lr_scheduler.LinearLR, and SequentialLR for what follows

    Examples
    --------
    >>> import fastfc as fc
    >>> schedule = fc.LinearWarmup(4, start_factor=0.0, after=fc.StepLR(1, gamma=0.5))
    >>> [schedule.rate(1.0, t) for t in range(7)]
    [0.0, 0.25, 0.5, 0.75, 1.0, 0.5, 0.25]
    """

    total_iters: int
    start_factor: float = 1.0 / 3.0
    after: Schedule | None = None

    def _check(self) -> None:
        positive_int(self.total_iters, self._owner, "total_iters")
        fraction(self.start_factor, self._owner, "start_factor")
        if self.after is None:
            return
        if not isinstance(self.after, Schedule) or isinstance(self.after, LinearWarmup):
            raise TypeError(f"LinearWarmup: after must be a schedule such as StepLR(100), got {self.after!r}")
        if self.after.unit != self.unit:
            raise ValueError(
                f"LinearWarmup: its unit is {self.unit!r}, that of after {self.after.unit!r}; give both one"
            )

    @property
    def code(self) -> int:  # type: ignore[override]
        return self.after.code if self.after else schedule_kernels.CONSTANT

    def _numbers(self) -> dict[int, float]:
        rest = self.after._numbers() if self.after else {}
        return {**rest, schedule_kernels.WARMUP: self.total_iters, schedule_kernels.START: self.start_factor}

    def _milestones(self) -> Sequence[int]:
        return self.after._milestones() if self.after else ()
