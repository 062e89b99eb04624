"""`Schedule`, what every schedule can do, and `ReduceLROnPlateau`, which `fit` tells the losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fastfc.attributes import frozen
from fastfc.kernels.optim import schedules as schedule_kernels
from fastfc.metrics import watched
from fastfc.validation import choice, positive_int, positive_number


@frozen
class Schedule:
    """Base of the schedules: given to an optimizer, whose `lr` is their base rate.

    As one of `schedules` of an optimizer, a schedule has the base 1: the option is multiplied by `rate(1.0, t)`.

    Their counter t is the number of updates that the optimizer has made, or with unit="epoch" of epochs. How many
    updates an epoch has is told by `fit`, and by you (`optimizer.steps_per_epoch = 100`) if you call `train_step`.
    So StepLR(2) multiplies the rate every two batches, and StepLR(2, unit="epoch") every two epochs.
    """

    code: ClassVar[int]
    _: KW_ONLY
    unit: str = "update"

    def __post_init__(self) -> None:
        choice(self.unit, self._owner, "unit", ("update", "epoch"))
        self._check()

    @property
    def _owner(self) -> str:
        return type(self).__name__

    def _check(self) -> None:
        """Raise if a number is not allowed."""
        raise NotImplementedError

    def _numbers(self) -> dict[int, float]:
        """What the kernel reads, by its place in the optimizer's numbers."""
        raise NotImplementedError

    def _milestones(self) -> Sequence[int]:
        """Numbers behind all others."""
        return ()

    def write(self, hyper: NDArray[np.float64]) -> NDArray[np.float64]:
        """An optimizer's numbers with ours."""
        milestones, behind = self._milestones(), len(hyper)
        hyper = np.concatenate([hyper, milestones])
        hyper[schedule_kernels.SCHEDULE], hyper[schedule_kernels.EPOCH] = self.code, self.unit == "epoch"
        for place, number in self._numbers().items():
            hyper[place] = number
        if milestones:
            hyper[schedule_kernels.C] = behind
        return hyper

    def numbers(self, base: float) -> NDArray[np.float64]:
        """What the kernel reads of a schedule by itself, of this base."""
        numbers = self.write(np.zeros(schedule_kernels.N_NUMBERS))
        numbers[schedule_kernels.LR] = base
        return numbers

    def rate(self, base_lr: float, t: int) -> float:
        """The learning rate after t updates, or epochs."""
        numbers = self.numbers(base_lr)
        numbers[schedule_kernels.EPOCH] = 0
        return float(schedule_kernels.scheduled_rate(None, numbers, 0, 1.0, float(t)))


Seen = tuple[float, int, int]  # by ReduceLROnPlateau: best loss, bad epochs, cooldown left


@frozen
class ReduceLROnPlateau:
    """A factor on the optimizer's `lr` whenever the loss has not become better for more than `patience` epochs.

    `fit` tells it the loss of each epoch, that of the validation data if there are any, or the column of the history
    that it monitors; elsewhere call `optimizer.epoch_end(loss)`. A value that is NaN, as of a network that diverges, is
    not better than any. Changes of lr by less than 1e-8 are not made.

    Parameters
    ----------
    factor : float
        Positive and less than 1.
    patience, cooldown : int
        At least 0. For `cooldown` epochs after a change nothing is counted.
    threshold : float
        At least 0. A loss is better if it is less than (1 − threshold) best, in mode "max" more than
        (1 + threshold) best.
    min_lr : float
        The lowest rate, at least 0.
    mode : {"min", "max", None}
        Whether less or more is better. None knows it of the loss and of fastfc's metrics; a metric of your own needs
        to be told.
    monitor : str, optional
        A column of the history, such as "val_accuracy", instead of the loss.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range; when training starts, for a column that the history will
        not have, or one of a metric of your own without a mode.

    References
    ----------
    torch.optim.lr_scheduler.ReduceLROnPlateau, with threshold_mode="rel"

    Examples
    --------
    >>> import fastfc as fc
    >>> optimizer = fc.SGD(1.0, schedule=fc.ReduceLROnPlateau(factor=0.5, patience=1))
    >>> for loss in (3.0, 2.0, 2.0, 2.0, 2.0):
    ...     optimizer.epoch_end(loss)
    >>> optimizer.lr
    0.5
    """

    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0
    min_lr: float = 0.0
    mode: str | None = None
    monitor: str | None = None

    def __post_init__(self) -> None:
        owner = type(self).__name__
        if positive_number(self.factor, owner, "factor") >= 1:
            raise ValueError(f"{owner}: factor must be less than 1, got {self.factor}")
        for what in ("patience", "cooldown"):
            positive_int(getattr(self, what), owner, what, or_zero=True)
        positive_number(self.threshold, owner, "threshold", or_zero=True)
        positive_number(self.min_lr, owner, "min_lr", or_zero=True)
        choice(self.mode, owner, "mode", ("min", "max", None))
        if not isinstance(self.monitor, str | None):
            raise TypeError(f"{owner}: monitor must be a column of the history, got {self.monitor!r}")

    def column(self, columns: Sequence[str]) -> str:
        """The one of these columns of the history that we watch; ValueError if it, or its direction, is not known."""
        monitor = self.monitor or ("val_loss" if "val_loss" in columns else "loss")
        watched("ReduceLROnPlateau", monitor, self.mode, columns)
        return monitor

    def reduced(self, lr: float, loss: float, seen: Seen | None) -> tuple[float, Seen]:
        """The rate after an epoch with this loss, and what we have seen then: best loss, bad epochs, cooldown left."""
        monitor = self.monitor or "loss"
        sign = 1.0 if watched("ReduceLROnPlateau", monitor, self.mode, [monitor]) == "min" else -1.0
        best, bad, cooldown = seen or (sign * np.inf, 0, 0)
        if sign * loss < sign * best * (1.0 - sign * self.threshold):
            best, bad = loss, 0
        else:
            bad += 1
        if cooldown > 0:
            bad, cooldown = 0, cooldown - 1
        if bad > self.patience:
            bad, cooldown, new = 0, self.cooldown, max(lr * self.factor, self.min_lr)
            lr = new if lr - new > 1e-8 else lr
        return lr, (best, bad, cooldown)
