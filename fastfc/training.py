"""Training: `train_step`, `fit` and `evaluate`, which are methods of every network."""

from __future__ import annotations

import operator
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .callbacks import Run, as_callback
from .checks import as_floats, as_real, positive_int, positive_number
from .history import History
from .kernels import training as native
from .losses import Loss
from .metrics import get_metric
from .optimizers import Optimizer
from .program import Program

if TYPE_CHECKING:
    from .network import Network

# What a native call may take while Ctrl-C waits for it, at the speed of the latest one.
CALL_SECONDS = 0.05
NOTHING = np.zeros(0, np.int64)


class Data(NamedTuple):
    """Samples as the native functions take them, and the targets as they were given."""

    x: NDArray[Any]
    target: NDArray[Any]  # numeric targets, those of several outputs side by side
    labels: NDArray[np.int64]  # classes
    weights: NDArray[Any]  # of the samples; none are all 1
    y: Any

    @property
    def n(self) -> int:
        return len(self.x)

    @property
    def mass(self) -> float:
        """The sum of the samples' weights."""
        return float(self.weights.sum(dtype=np.float64)) if self.weights.size else float(self.n)

    def rows(self, rows: slice) -> Data:
        classes = self.labels.size // self.n
        labels = self.labels.reshape(self.n, classes)[rows].reshape(-1)
        return Data(self.x[rows], self.target[rows], labels, self.weights[rows], samples(self.y, rows))


def samples(data: Any, rows: Any) -> Any:
    """Some samples of one array, or of each in a tuple."""
    if isinstance(data, (tuple, list)):
        return tuple(part[rows] for part in data)
    return data[rows]

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
        now = loss, optimizer, optimizer.state, network._space
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
    same = loss, optimizer, optimizer.state, network._space
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
    sample_weight: ArrayLike | None = None,
    class_weight: Any = None,
    validation_data: tuple[Any, ...] | None = None,
    validation_split: float = 0.0,
    metrics: Sequence[Any] = (),
    callbacks: Sequence[Any] = (),
    accumulate: int = 1,
    progress: bool = False,
) -> History:
    """Train on all samples, batch by batch, for some epochs.

    A second `fit` with the same optimizer goes on where the first one stopped: with its state, its schedule and the
    order of its samples, if the seed is the same number.

    Parameters
    ----------
    x : (n, in_features) array of real numbers
        A tuple of arrays for a graph of several inputs.
    y : the loss's target for these n samples
        A tuple of arrays for a graph of several outputs.
    loss : Loss
    optimizer : Optimizer
    epochs, batch_size : int
        The last batch of an epoch is smaller if batch_size does not divide n.
    shuffle : bool
        Whether to visit the samples in a new random order each epoch, the next `permutation(n)` of
        `numpy.random.default_rng(seed)`.
    seed : int, numpy.random.Generator or None
    sample_weight : (n,) array of numbers, at least 0, optional
        How much each sample counts in the loss, a mean weighted by them.
    class_weight : "balanced", or dict or array from class to weight, optional
        The same by a sample's class, for targets that are classes; "balanced" is n / (classes × samples of the class).
    validation_data : (x, y) or (x, y, sample_weight), optional
        Evaluated after each epoch.
    validation_split : float
        Instead, this fraction of the samples, the last ones, is taken out for validation.
    metrics : sequence of str or callable
        Computed after each epoch, on the validation data if there are any; see fastfc.metrics.
    callbacks : sequence of Callback or callable
        Called at the start, after each epoch and at the end, see Callback.
    accumulate : int
        So many batches give one update, by the mean of their gradients.
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
    FloatingPointError
        If the loss is infinite or not a number. The message tells the epoch and the layer; network and optimizer are
        then those of the end of the epoch before.

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
    accumulate = positive_int(accumulate, "fit", "accumulate")
    scores = [get_metric(metric) for metric in metrics]
    called = [as_callback(callback) for callback in callbacks]
    data = Data.of(network, x, y, loss, with_classes(sample_weight, class_weight, y))
    validation = None
    if validation_data is not None:
        if len(validation_data) not in (2, 3):
            raise ValueError(f"fit: validation_data must be (x, y) or (x, y, sample_weight), got {len(validation_data)}")
        validation = Data.of(network, *validation_data[:2], loss, *validation_data[2:])
    elif validation_split:
        data, validation = data.split(validation_split)
    rng = optimizer.order(seed)
    steps = Epochs(network, data, loss, optimizer, batch_size, accumulate)

    network.history = history = History()
    run = Run(network, optimizer, history, epochs)
    line = Progress(progress, epochs, data.n)
    try:
        for callback in called:
            callback.on_start(run)
        for epoch in range(epochs):
            start, lr = time.perf_counter(), optimizer.lr
            order = rng.permutation(data.n) if shuffle else NOTHING
            total = steps.run(order, lambda done, total, epoch=epoch: line.show(epoch, done, total, history))
            row = {"epoch": optimizer.epochs + 1, "loss": total, "lr": lr}
            if validation is not None:
                row |= {f"val_{name}": value for name, value in evaluation(network, validation, loss, scores).items()}
            elif scores:
                row |= {name: value for name, value in evaluation(network, data, loss, scores).items() if name != "loss"}
            history.rows.append(row | {"seconds": time.perf_counter() - start})
            optimizer.end_epoch(row.get("val_loss", total))
            line.show(epoch, data.n, total, history)
            for callback in called:
                callback.on_epoch(run)
            if run.stopped:
                break
    finally:
        line.close()
        for callback in called:
            callback.on_end(run)
    return history


#REST

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
