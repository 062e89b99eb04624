"""Training: `train_step`, `fit` and `evaluate`, which are methods of every network, and `History`."""

from __future__ import annotations

import operator
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .checks import as_real, positive_int
from .kernels import program as native
from .losses import Loss
from .optimizers import Optimizer
from .program import Program

if TYPE_CHECKING:
    from .network import Network

# What a native call may take while Ctrl-C waits for it, at the speed of the latest one.
CALL_SECONDS = 0.05
NOTHING = np.zeros(0, np.int64)


@dataclass
class History:
    """What `fit` saw, one entry per finished epoch.

    Attributes
    ----------
    loss : list of float
        Mean over the epoch's samples of the loss just before each step.
    val_loss : list of float
        Loss on the validation data after the epoch; empty without validation data.
    seconds : list of float
        Wall time, validation included.

    Examples
    --------
    >>> import fastfc as fc
    >>> net = fc.MLP([1, 1], init="zeros")
    >>> net.fit([[2]], [[1]], loss=fc.MSELoss(), optimizer=fc.SGD(0.05), epochs=3).loss
    [1.0, 0.25, 0.0625]
    """

    loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def train_step(network: Network, x: ArrayLike, y: ArrayLike, loss: Loss, optimizer: Optimizer) -> float:
    """One step on one batch: forward, loss, backward, update.

    Parameters
    ----------
    x : (n, in_features) array of real numbers
    y : the loss's target for these n samples
    loss : Loss
    optimizer : Optimizer

    Returns
    -------
    float
        The loss before the update.

    Raises
    ------
    TypeError, ValueError
        For bad input; the network is then unchanged.

    Examples
    --------
    >>> import fastfc as fc
    >>> net = fc.MLP([2, 1], init="zeros")
    >>> net.train_step([[1, 2]], [[3]], fc.MSELoss(), fc.SGD(lr=0.1))
    9.0
    >>> net.params
    array([0.6, 1.2, 0.6], dtype=float32)
    """
    ready = network._step_ready
    if ready is not None and type(x) is np.ndarray and type(y) is np.ndarray:
        # the shortest way, for arrays of the same kind with the same loss and optimizer as in the latest step
        same, kind, table, tape, rest = ready
        now = loss, optimizer, optimizer.segments, network._space
        if all(map(operator.is_, now, same)) and (x.shape, x.dtype, y.shape, y.dtype) == kind:
            targets = (x[:0], y) if y.dtype == np.int64 else (y, NOTHING)
            network._saved, tape[0] = None, -1
            try:
                return native.step.call(x, table, *targets, *rest)
            except ValueError:
                network._step_ready = None  # the long way can say why
    check_loss_and_optimizer(loss, optimizer)
    x = network._join(x)
    program = network._program_for(x)
    target = as_target(network, x, y, loss, program)
    given = arguments(network, program, x, target, optimizer, len(x))
    try:
        value = network._call(native.step, program.largest * len(x), *given, loss.code, optimizer.code)
    except ValueError:
        loss.check_values(target, (len(x), program.outputs))  # says more than the kernel can
        raise
    if not network._one_input or not network._is_serial(program.largest * len(x)):
        return value
    same = loss, optimizer, optimizer.segments, network._space
    kind = x.shape, x.dtype, target.shape, target.dtype
    network._step_ready = same, kind, program.table, network._tape, (*given[4:], loss.code, optimizer.code, 1, 1)
    return value


def fit(
    network: Network,
    x: ArrayLike,
    y: ArrayLike,
    *,
    loss: Loss,
    optimizer: Optimizer,
    epochs: int = 1,
    batch_size: int = 32,
    shuffle: bool = True,
    seed: int | np.random.Generator | None = None,
    validation_data: tuple[ArrayLike, ArrayLike] | None = None,
    progress: bool = False,
) -> History:
    """Train on all samples, batch by batch, for some epochs.

    Parameters
    ----------
    x : (n, in_features) array of real numbers
    y : the loss's target for these n samples
    loss : Loss
    optimizer : Optimizer
    epochs, batch_size : int
        The last batch of an epoch is smaller if batch_size does not divide n.
    shuffle : bool
        Whether to visit the samples in a new random order each epoch, the next `permutation(n)` of
        `numpy.random.default_rng(seed)`.
    seed : int, numpy.random.Generator or None
    validation_data : (x, y), optional
        Evaluated after each epoch.
    progress : bool
        Whether to show a line of progress on stderr, if that is a terminal.

    Returns
    -------
    History
        Also kept as `network.history` while this runs. After Ctrl-C the network is that of the last
        completed step, and its history that of the completed epochs.

    Raises
    ------
    TypeError, ValueError
        For bad input, all of it checked before the first step.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> x = np.linspace(-1, 1, 50)[:, None]
    >>> net = fc.MLP([1, 1], seed=0)
    >>> history = net.fit(x, 2 * x + 1, loss=fc.MSELoss(), optimizer=fc.SGD(lr=0.2), epochs=40, seed=0)
    >>> net.params.round(3)
    array([2., 1.], dtype=float32)
    >>> len(history.loss)
    40
    """
    check_loss_and_optimizer(loss, optimizer)
    epochs = positive_int(epochs, "fit", "epochs")
    batch_size = positive_int(batch_size, "fit", "batch_size")
    x, y = check_data(network, x, y, loss)
    if validation_data is not None:
        if len(validation_data) != 2:
            raise ValueError(f"fit: validation_data must be (x, y), got {len(validation_data)} items")
        x_val, y_val = check_data(network, *validation_data, loss)
    rng = np.random.default_rng(seed)
    optimizer.steps_per_epoch = -(-len(x) // batch_size)
    data = Epochs(network, x, y, loss, optimizer, batch_size)

    network.history = history = History()
    line = Progress(progress, epochs, len(x))
    try:
        for epoch in range(epochs):
            start = time.perf_counter()
            order = rng.permutation(len(x)) if shuffle else NOTHING
            for done, total in data.run(order):
                line.show(epoch, done, total / done, history)
            if validation_data is not None:
                val_loss = mean_loss(network, x_val, y_val, loss, batch_size=1024)
            history.loss.append(total / len(x))
            history.seconds.append(time.perf_counter() - start)
            if validation_data is not None:
                history.val_loss.append(val_loss)
            optimizer.epoch_end(history.loss[-1] if validation_data is None else val_loss)
            line.show(epoch, len(x), total / len(x), history)
    finally:
        line.close()
    return history


def evaluate(network: Network, x: ArrayLike, y: ArrayLike, loss: Loss, batch_size: int = 1024) -> float:
    """Mean loss over all samples. Changes nothing; `batch_size` only bounds the memory.

    Examples
    --------
    >>> import fastfc as fc
    >>> net = fc.MLP([2, 1], init="zeros")
    >>> net.evaluate([[1, 2], [3, 4]], [[1], [3]], fc.MSELoss())
    5.0
    """
    check_loss(loss)
    batch_size = positive_int(batch_size, "evaluate", "batch_size")
    return mean_loss(network, *check_data(network, x, y, loss), loss, batch_size)


def arguments(
    network: Network, program: Program, x: NDArray[Any], target: NDArray[Any], optimizer: Optimizer, batch_size: int
) -> tuple[Any, ...]:
    """What the native functions take for training on this data in batches of this size."""
    params, grads = network._vectors(x.dtype)
    state, segments = optimizer.prepare(network)
    space = network._space_for(program, batch_size, x.dtype)
    network._saved = None  # the space is used anew
    targets, labels = (x[:0], target) if target.dtype == np.int64 else (target, NOTHING)
    hyper, count = optimizer.hyper, optimizer.count
    return x, program.table, targets, labels, hyper, segments, params, grads, state, count, space


class Epochs:
    """Epochs on some data, each in as few native calls as Ctrl-C allows, which Python answers between calls."""

    def __init__(
        self,
        network: Network,
        x: NDArray[Any],
        target: NDArray[Any],
        loss: Loss,
        optimizer: Optimizer,
        batch_size: int,
    ) -> None:
        self.network, self.program = network, network._program_for(x)
        self.n, self.batch_size = len(x), min(batch_size, len(x))
        self.codes = loss.code, optimizer.code
        self.given = arguments(network, self.program, x, target, optimizer, self.batch_size)
        self.steps = max(1, int(CALL_SECONDS * 1e9 / (6 * self.batch_size * (self.program.multiplications + 1))))

    def run(self, order: NDArray[np.int64]) -> Iterator[tuple[int, float]]:
        """One epoch; after each call the number of samples done and the sum of their losses."""
        done, total = 0, 0.0
        while done < self.n:
            last, start = min(self.n, done + self.steps * self.batch_size), time.perf_counter()
            rest = order, done, last, self.batch_size, *self.codes
            work = self.program.largest * self.batch_size
            total += self.network._call(native.steps, work, *self.given, *rest)
            seconds = (time.perf_counter() - start) * self.batch_size / (last - done)
            self.steps = max(1, int(CALL_SECONDS / seconds))
            done = last
            yield done, total


def mean_loss(network: Network, x: NDArray[Any], y: NDArray[Any], loss: Loss, batch_size: int) -> float:
    total = 0.0
    for rows in batches(len(x), batch_size):
        prediction = network._output(x[rows])
        grad = np.empty(prediction.shape, prediction.dtype)
        total += len(prediction) * loss._value(prediction, y[rows], grad)
    return total / len(x)


def batches(n: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, n, size)]


def check_data(network: Network, x: ArrayLike, y: ArrayLike, loss: Loss) -> tuple[NDArray[Any], NDArray[Any]]:
    """x and y as the kernels take them, checked against the network and each other."""
    x = network._join(x)
    program = network._program_for(x)
    target = as_target(network, x, y, loss, program)
    loss.check_values(target, (len(x), program.outputs))
    return x, target


def as_target(network: Network, x: NDArray[Any], y: ArrayLike, loss: Loss, program: Program) -> NDArray[Any]:
    """y as the kernels take it; its values are not looked at."""
    n, width = x.shape[0], program.outputs
    if n and type(y) is np.ndarray and y.shape == (n, width) and y.dtype == x.dtype:
        return y
    if n == 0:
        raise ValueError(f"{network}: x has shape {x.shape}; give at least one sample")
    y = as_real(network._join_targets(y), network, "y")
    if y.shape[:1] != x.shape[:1]:
        raise ValueError(f"{network}: x has shape {x.shape}, y {y.shape}; give one target for each sample")
    return loss.as_target(y, (n, width), x.dtype)


def check_loss_and_optimizer(loss: Loss, optimizer: Optimizer) -> None:
    check_loss(loss)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be an object such as SGD(lr=0.1), got {optimizer!r}")


def check_loss(loss: Loss) -> None:
    if not isinstance(loss, Loss):
        raise TypeError(f"loss must be an object such as MSELoss(), got {loss!r}")


class Progress:
    """One line on stderr that tells how far `fit` is; silent unless stderr is a terminal."""

    def __init__(self, wanted: bool, epochs: int, n: int) -> None:
        self.on = wanted and sys.stderr.isatty()
        self.epochs, self.n = epochs, n
        self.start, self.next, self.text = time.perf_counter(), 0.0, ""

    def show(self, epoch: int, done: int, loss: float, history: History) -> None:
        now = time.perf_counter() if self.on else 0.0
        finished = (epoch * self.n + done) / (self.epochs * self.n)
        if self.on and (now >= self.next or finished == 1):
            val_loss = f"  val {history.val_loss[-1]:.4f}" if history.val_loss else ""
            speed = (epoch * self.n + done) / (now - self.start)
            bar = f"{'█' * int(20 * finished):░<20}"
            text = f"epoch {epoch + 1}/{self.epochs} {bar} loss {loss:.4f}{val_loss}  {speed:,.0f} samples/s"
            sys.stderr.write("\r" + text.ljust(len(self.text)))
            self.next, self.text = now + 0.1, text

    def close(self) -> None:
        if self.text:
            sys.stderr.write("\n")
