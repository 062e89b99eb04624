"""Callbacks: what `fit` calls at the start, after each epoch and at the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastfc.attributes import Guarded
from fastfc.metrics import watched
from fastfc.validation import choice, positive_int, positive_number

if TYPE_CHECKING:
    from fastfc.nn.container import Container
    from fastfc.optim.base import Optimizer
    from fastfc.training.history import History


class Run(Guarded):
    """A run of `fit`, as callbacks see it.

    Attributes
    ----------
    network : Network
    optimizer : Optimizer
        Its `lr`, for instance, may be read and changed.
    history : History
        Of the finished epochs.
    epochs : int
        How many are planned.
    monitored : list of str
        Columns of the history that a callback may watch.
    main : bool
        Whether this process is to write files and to the terminal: of the ranks of a `fit` with comm only one is.
    """

    network: Container
    optimizer: Optimizer
    history: History
    epochs: int
    monitored: list[str]
    main: bool
    stopped: bool

    _fixed = dict.fromkeys(
        ("network", "optimizer", "history", "epochs", "monitored", "main"),
        "it is that of the run; change what it holds",
    ) | {"stopped": "call stop()"}

    def __init__(
        self,
        network: Container,
        optimizer: Optimizer,
        history: History,
        epochs: int,
        monitored: list[str],
        main: bool = True,
    ) -> None:
        self._fix(network=network, optimizer=optimizer, history=history, epochs=epochs, monitored=monitored)
        self._fix(main=main, stopped=False)

    def stop(self) -> None:
        """Let no further epoch begin."""
        self._fix(stopped=True)


class Callback(Guarded):
    """Base of the callbacks. A plain function of a Run will do too: it is called after each epoch.

    Examples
    --------
    >>> import fastfc as fc
    >>> def halve(run):
    ...     run.optimizer.lr /= 2
    >>> net, optimizer = fc.MLP([1, 1], init="zeros"), fc.SGD(0.4)
    >>> history = net.fit([[1]], [[1]], loss=fc.MSELoss(), optimizer=optimizer, epochs=3, callbacks=[halve])
    >>> history["lr"]
    array([0.4, 0.2, 0.1])
    """

    def on_start(self, run: Run) -> None:
        """Before the first epoch."""

    def on_epoch(self, run: Run) -> None:
        """After each epoch, when its row is in the history."""

    def on_end(self, run: Run) -> None:
        """After the last epoch, and when an exception ends the run, Ctrl-C for instance."""


class EarlyStopping(Callback):
    """Stop when a column of the history has not improved for some epochs, and restore the best weights at the end.

    Parameters
    ----------
    monitor : str
        A column of the history, such as "val_loss" or "val_accuracy".
    patience : int or None
        Epochs without an improvement after which the run ends; None never stops, and keeps the best weights.
    min_delta : float
        A smaller change is not an improvement.
    mode : {"min", "max", None}
        Whether less or more is better. None knows it of the loss and of fastfc's metrics; a metric of your own
        needs a mode.
    keep : {"first", "last"}
        Whose weights to restore of several epochs that are best alike. A later one is not an improvement.

    Attributes
    ----------
    best : float
    best_epoch : int
        The value and the number of the best epoch, the one that is kept; NaN and 0 if there is none. NaN is not an
        improvement, nor is infinity in the wrong direction: a network that gives nothing else keeps the weights of its
        last epoch.

    Raises
    ------
    TypeError, ValueError
        For a number out of its range; when training starts, before any step, for a column that the history will not
        have, or one of a metric of your own without a mode.

    References
    ----------
    L. Prechelt, "Early stopping - but when?", in "Neural Networks: Tricks of the Trade", 1998.

    Examples
    --------
    >>> import fastfc as fc
    >>> net, stopping = fc.MLP([1, 1], init="zeros"), fc.EarlyStopping("loss", patience=2)
    >>> history = net.fit([[1]], [[1]], loss=fc.MSELoss(), optimizer=fc.SGD(0.5), epochs=9, callbacks=[stopping])
    >>> history.loss
    [1.0, 1.0, 1.0]
    >>> stopping.best_epoch
    1

    All epochs, and the weights of the last of the best ones:

    >>> keeping = fc.EarlyStopping("loss", patience=None, keep="last")
    >>> history = net.fit([[1]], [[1]], loss=fc.MSELoss(), optimizer=fc.SGD(0.5), epochs=9, callbacks=[keeping])
    >>> len(history), keeping.best_epoch
    (9, 9)
    """

    monitor: str
    patience: int | None
    min_delta: float
    mode: str | None
    keep: str
    best, best_epoch, waited = math.nan, 0, 0
    _best_values: Any = None
    _sign = 1.0

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int | None = 10,
        min_delta: float = 0.0,
        mode: str | None = None,
        *,
        keep: str = "first",
    ) -> None:
        if not isinstance(monitor, str):
            raise TypeError(f"EarlyStopping: monitor must be a column of the history, got {monitor!r}")
        self.monitor = monitor
        self.patience = None if patience is None else positive_int(patience, "EarlyStopping", "patience")
        self.min_delta = positive_number(min_delta, "EarlyStopping", "min_delta", or_zero=True)
        self.mode = choice(mode, "EarlyStopping", "mode", ("min", "max", None))
        self.keep = choice(keep, "EarlyStopping", "keep", ("first", "last"))

    def on_start(self, run: Run) -> None:
        mode = watched("EarlyStopping", self.monitor, self.mode, run.monitored)
        self._sign = -1.0 if mode == "min" else 1.0
        # the first epoch cannot be worse than one before
        self._best_values, self.best, self.best_epoch, self.waited = None, math.nan, 0, -1

    def on_epoch(self, run: Run) -> None:
        value = float(run.history[self.monitor][-1])
        best = self.best if self.best_epoch else -self._sign * math.inf
        improved = self._sign * (value - best) > self.min_delta
        if improved or (self.keep == "last" and value == self.best):
            self.best, self.best_epoch = value, int(run.history["epoch"][-1])
            self._best_values = run.network.params.copy(), run.network.buffers.copy()
        self.waited = 0 if improved else self.waited + 1
        if self.patience is not None and self.waited >= self.patience:
            run.stop()

    def on_end(self, run: Run) -> None:
        if self._best_values is not None:
            run.network.params, run.network.buffers = self._best_values
            self._best_values = None

    def __repr__(self) -> str:
        keep = "" if self.keep == "first" else f", keep={self.keep!r}"
        return f"EarlyStopping({self.monitor!r}, patience={self.patience}{keep})"


class Function(Callback):
    function: Callable[[Run], Any]

    def __init__(self, function: Callable[[Run], Any]) -> None:
        self.function = function

    def on_epoch(self, run: Run) -> None:
        self.function(run)


def as_callback(callback: Any) -> Callback:
    """A callback, of a plain function too."""
    if isinstance(callback, Callback):
        return callback
    if callable(callback) and not isinstance(callback, type):
        return Function(callback)
    raise TypeError(f"fit: a callback is an object such as EarlyStopping() or a function of a run, got {callback!r}")
