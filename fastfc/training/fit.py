"""Training: `train_step`, `fit` and `evaluate`, which are methods of every network."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fastfc.data.columns import Columns
from fastfc.data.streams import gives_batches, source_of
from fastfc.kernels.ops import losses
from fastfc.kernels.training import step as step_kernels
from fastfc.losses.base import Loss
from fastfc.metrics import get_metric, is_ours
from fastfc.optim.base import Optimizer
from fastfc.training.callbacks import Run, as_callback
from fastfc.training.epoch import DivergenceWarning, Epoch, arguments
from fastfc.training.history import History
from fastfc.training.outputs import outputs_of
from fastfc.training.progress import Progress
from fastfc.training.samples import NOTHING, Data, as_data, by_class, check_finite, check_values, refuse_not_finite
from fastfc.training.streaming import StreamDataset, StreamEpoch
from fastfc.validation import listed, positive_int

if TYPE_CHECKING:
    from fastfc.nn.container import Container


def train_step(
    network: Container,
    x: ArrayLike,
    y: ArrayLike,
    loss: Loss,
    optimizer: Optimizer,
    sample_weight: ArrayLike | None = None,
) -> float:
    """One step on one batch: forward, loss, backward, update.

    Parameters
    ----------
    x : (n, in_features) array of real numbers
    y : the loss's target for these n samples
    loss : Loss
    optimizer : Optimizer
    sample_weight : (n,) array of numbers, optional
        At least 0 where the loss is a mean, which divides by their sum; of either sign with reduction="sum".

    Returns
    -------
    float
        The loss before the update.

    Raises
    ------
    TypeError, ValueError
        For bad input, such as a prediction that the loss is not defined for. Whatever is raised, parameters, buffers
        and the optimizer's memory are then unchanged; `grads` may not be.

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
    if ready is not None and sample_weight is None and type(x) is np.ndarray and type(y) is np.ndarray:
        # the shortest way, for arrays of the same kind with the same loss and optimizer as in the latest step
        known_loss, known_optimizer, segments, space, kind, table, tape, rest = ready
        same = loss is known_loss and optimizer is known_optimizer and optimizer.segments is segments
        if same and network._space is space and (x.shape, x.dtype, y.shape, y.dtype) == kind:
            targets = (x[:0], y) if y.dtype == np.int64 else (y, NOTHING)
            if network._saved is not None:
                network._saved = None
            tape[0] = -1
            try:
                return step_kernels.train_step.call(x, table, *targets, *rest)
            except ValueError:
                network._step_ready = None
                check_values(network, as_data(network, x, y, loss), loss)  # says more than the kernel can
                raise
    check_loss_and_optimizer(loss, optimizer)
    columns = None if type(x) is np.ndarray else Columns(network, learning=network._known_names() is None)
    if columns is not None:
        columns.look(x, y)
    data = as_data(network, x, y, loss, sample_weight)
    program = network._program_for(data.x)
    given = arguments(network, program, data, optimizer, len(data.x))
    work = program.largest * len(data.x)
    try:
        value = network._call(step_kernels.train_step, work, *given, optimizer.code)
    except ValueError:
        check_values(network, data, loss)
        raise
    if columns is not None:
        columns.teach()
    target = data.labels if data.labels.size else data.target
    if data.y is y and not data.weights.size and network._one_input and network._is_serial(work):
        kind, rest = (data.x.shape, data.x.dtype, target.shape, target.dtype), (*given[4:], optimizer.code, 1, 1)
        network._step_ready = (
            loss,
            optimizer,
            optimizer.segments,
            network._space,
            kind,
            program.table,
            network._tape,
            rest,
        )
    return value


def fit(
    network: Container,
    x: Any,
    y: Any = None,
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
        A tuple of arrays for a graph of several inputs. Also a data frame of pandas, polars or pyarrow whose columns
        are numbers, an array on disk (np.memmap, Zarr), or, without y, an iterable of batches; see Notes.
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
    sample_weight : (n,) array of numbers, optional
        How much each sample counts in the loss, a mean weighted by them. They are at least 0, but for losses with
        reduction="sum", which take any; metrics are without weights then.
    class_weight : "balanced", or dict or array from class to weight, optional
        The same by a sample's class, for targets that are classes; "balanced" is n / (classes × samples of the class),
        without those that the loss ignores.
    validation_data : (x, y) or (x, y, sample_weight), optional
        Evaluated after each epoch.
    validation_split : float
        Instead, this fraction of the samples, the last ones, is taken out for validation.
    metrics : sequence of str or callable
        Computed after each epoch, on the validation data if there are any; see fastfc.metrics. With several outputs,
        callables get tuples.
    callbacks : sequence of Callback or callable
        Called at the start, after each epoch and at the end, see Callback.
    accumulate : int
        So many batches give one update, by the mean of their gradients.
    progress : bool
        Whether to show a bar on stderr, if that is a terminal or a notebook's: epoch, samples a second, loss, and of
        the validation its loss and first metric. Needs the extra `fastfc[progress]`.

    Returns
    -------
    History
        Also kept as `network.history` while this runs. After Ctrl-C the network is that of the last
        completed step, and its history that of the completed epochs.

    Raises
    ------
    TypeError, ValueError
        For bad input, all of it checked before the first step.
    ValueError
        If samples for training or validation are infinite or not a number, as soon as that shows; if a prediction is
        out of the range that the loss is defined for.
    Exception
        What an iterable of batches, a metric or a callback raises.
    ImportError
        For progress without tqdm, where a bar would be seen; before the first step too.

    Warns
    -----
    DivergenceWarning
        If the loss or a parameter becomes infinite or not a number: training then stops, and network and optimizer are
        those of the end of the epoch before. The text tells the epoch and the layer.
        `warnings.simplefilter("error", fastfc.DivergenceWarning)` makes it an exception.

    Notes
    -----
    **An epoch that fails is undone**, whatever it raises and wherever the data are: network, optimizer, history and the
    order of samples are then those of the end of the epoch before, and another `fit` goes on from there. An epoch ends
    when its validation and its metrics are done; what a callback raises comes after it. Only Ctrl-C leaves the network
    as it is in the middle of an epoch.

    **Arrays on disk** of more than 256 MiB (as float32 and the like), x or y or both, are never in memory as a whole.
    Each epoch reads blocks of about 1 MiB, or whole chunks of Zarr, in a new random order; the rows of as many such
    blocks as make 32 MiB are shuffled together. Smaller arrays, and np.asarray(memmap), train like arrays in memory.

    **Frames.** The network remembers the names of their columns, `network.feature_names`, as scikit-learn does. A frame
    that has others, or these in another order, is an error wherever it is given later: validation data, predict,
    forward, evaluate, train_step. A second fit may have other names, but none that has moved. Arrays have no names, and
    are always taken. Nor may several targets be given in another order.

    **Batches** are an iterable of (x, y) or (x, y, sample_weight), or a function that returns one for each epoch: a
    list, a generator function, a DataLoader of PyTorch, a tf.data.Dataset. Each is one batch, in the order in which
    they come; `batch_size`, `shuffle` and `validation_split` are for arrays. A generator gives its batches once,
    which is one epoch. validation_data may be such an iterable as well, if it is neither a tuple nor a list.

    Both are read by a thread of its own, ahead of the training. What it raises, and bad input that it meets, ends
    `fit`, as above.

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
    optimizer.bind(network)
    epochs = positive_int(epochs, "fit", "epochs")
    batch_size = positive_int(batch_size, "fit", "batch_size")
    accumulate = positive_int(accumulate, "fit", "accumulate")
    if accumulate > 1 and optimizer.full_batch:
        raise ValueError(f"fit: {optimizer} takes all samples at once; accumulate is for batches")
    metrics, scores = as_scores(metrics, "fit", network, loss)
    called = [as_callback(callback) for callback in listed(callbacks, "fit", "callbacks", "[EarlyStopping()]")]
    columns = Columns(network, learning=True)
    data = prepare(network, x, y, loss, columns, sample_weight, class_weight)
    data, validation, told = held_out(network, data, validation_data, validation_split, loss, columns)
    for part, what in ((data, "training"), (validation, "validation")):
        if isinstance(part, Data) and not part.weight_sum:
            raise ValueError(f"fit: the weights of all samples for {what} are 0; give at least one a positive weight")
    if isinstance(validation, Data):
        check_finite(network, validation, told)
    # our own metrics say what does not fit before anything has changed; others may count their calls
    ours = [score for given, score in zip(metrics, scores, strict=True) if is_ours(given)]
    if ours:
        evaluation(network, (data if validation is None else validation).first, ours, told)
    passes = epochs * (2 if scores and validation is None else 1)
    data.check_epochs(passes, "epochs" if passes == epochs else "epochs with metrics but no validation_data")
    if validation is not None:
        validation.check_epochs(epochs, "epochs with validation")
    line = Progress(progress, epochs, data.n)
    of_data = network, data, optimizer, batch_size, accumulate
    epoch_of = Epoch(*of_data) if isinstance(data, Data) else StreamEpoch(*of_data)  # type: ignore[arg-type]
    rng = optimizer.generator(seed)

    history = History()
    prefix = "" if validation is None else "val_"
    monitored = ["loss"] + ["val_loss"] * (validation is not None) + [prefix + name for name, _ in scores]
    optimizer._watched(monitored)  # says what is wrong before the first step
    run = Run(network, optimizer, history, epochs, monitored)
    started = []
    try:
        for callback in called:
            started.append(callback)
            callback.on_start(run)
        network.history = history
        columns.teach()
        for epoch in range(epochs):
            start = time.perf_counter()
            row = {"epoch": optimizer.epochs + 1, "loss": np.nan, "lr": optimizer.current_lr}
            epoch_of.save(rng)
            try:
                for done, row["loss"] in epoch_of.run(epoch_of.order(rng) if shuffle else NOTHING):
                    line.show(epoch, done, row["loss"], history)
                row |= measured(network, data, validation, scores, told)
            except DivergenceWarning as warning:
                epoch_of.restore()
                warnings.warn(warning, stacklevel=2)
                break
            except Exception:
                epoch_of.restore()
                raise
            optimizer.epochs += 1
            history.rows.append(row | {"seconds": time.perf_counter() - start})
            optimizer.epoch_end(row[optimizer._watched(monitored)])
            line.show(epoch, epoch_of.n, row["loss"], history)
            for callback in called:
                callback.on_epoch(run)
            if run.stopped:
                break
    finally:
        line.close()
        with ExitStack() as stack:  # calls all of them, even if one raises
            for callback in reversed(started):
                stack.callback(callback.on_end, run)
    return history


def evaluate(
    network: Container,
    x: Any,
    y: Any = None,
    loss: Any = None,
    *,
    sample_weight: ArrayLike | None = None,
    metrics: Sequence[Any] = (),
) -> Any:
    """Loss over all samples, and metrics. Changes nothing.

    Parameters
    ----------
    x, y, loss, sample_weight, metrics
        As for `fit`; with an iterable of batches, evaluate(batches, loss=loss). Metrics need the outputs of all samples
        in memory.

    Returns
    -------
    float, or with metrics a dict of floats: the loss as "loss" and each metric by its name

    Raises
    ------
    TypeError, ValueError
        For bad input, such as samples that are infinite or not a number, and make the loss so.

    Examples
    --------
    >>> import fastfc as fc
    >>> net = fc.MLP([2, 1], init="zeros")
    >>> net.evaluate([[1, 2], [3, 4]], [[1], [3]], fc.MSELoss())
    5.0
    >>> net.evaluate([[1, 2], [3, 4]], [[1], [3]], fc.MSELoss(), metrics=["mae"])
    {'loss': 5.0, 'mae': 2.0}
    """
    check_loss(loss)
    _, scores = as_scores(metrics, "evaluate", network, loss)
    data = prepare(network, x, y, loss, Columns(network), sample_weight, owner="evaluate")
    found = evaluation(network, data, scores, "evaluate: {}")
    return found if scores else found["loss"]


def as_scores(metrics: Any, owner: str, network: Container, loss: Loss) -> tuple[list[Any], list[tuple[str, Any]]]:
    """The metrics, and the name and function of each, which knows what this network's outputs are."""
    metrics, outputs = listed(metrics, owner, "metrics", "['accuracy']"), outputs_of(network, loss)
    scores, taken = [get_metric(metric, outputs) for metric in metrics], ["epoch", "loss", "lr", "seconds"]
    for name, _ in scores:
        if name in taken:
            raise ValueError(f"{owner}: there would be two columns {name!r}; give the metric's function another name")
        taken.append(name)
    return metrics, scores


def evaluation(
    network: Container, data: Data | StreamDataset, scores: Sequence[tuple[str, Any]], told: str
) -> dict[str, float]:
    """The loss and the metrics of a prediction. `told` is how an error names x or y, "fit: {}" for instance."""
    if not isinstance(data, Data):
        return data.evaluation(scores, told)
    output = network._output(data.x)
    values, gradient = output[:0, 0], np.empty_like(output)
    arrays = output, data.target, data.labels, data.weights, data.losses, values, gradient
    found = {"loss": losses.loss.call(*arrays)}
    if not math.isfinite(found["loss"]) or (scores and not np.isfinite(output).all()):
        refuse_not_finite(data, told)
    if scores:
        weighted = data.weights.size and data.weights.min() >= 0
        predicted, weights = network._split_output(output), data.weights if weighted else None
        found |= {name: score(data.y, predicted, weights) for name, score in scores}
    return found


def prepare(
    network: Container,
    x: Any,
    y: Any,
    loss: Loss,
    columns: Columns,
    sample_weight: ArrayLike | None = None,
    class_weight: Any = None,
    owner: str = "fit",
) -> Data | StreamDataset:
    """What x and y give, in memory or in parts, checked; of parts the first."""
    source = source_of(x, y, sample_weight, owner, columns.look)
    if source is not None:
        return StreamDataset(network, source, loss, class_weight)
    x = columns.take(x, y)
    data = as_data(network, x, y, loss, by_class(class_weight, y, sample_weight, loss))
    check_values(network, data, loss)
    return data


def held_out(
    network: Container,
    data: Data | StreamDataset,
    validation_data: Any,
    validation_split: float,
    loss: Loss,
    columns: Columns,
) -> tuple[Data | StreamDataset, Data | StreamDataset | None, str]:
    """The samples for training, those for validation if there are any, and how an error names x or y of these."""
    if validation_data is None:
        return (*data.split(validation_split), "fit: {}") if validation_split else (data, None, "fit: {}")
    if validation_split:
        raise ValueError("fit: give validation_data or validation_split, not both")
    if gives_batches(validation_data):
        validation_data = validation_data, None
    elif not isinstance(validation_data, tuple | list) or len(validation_data) not in (2, 3):
        kind = type(validation_data).__name__
        got = f"{len(validation_data)} items" if isinstance(validation_data, tuple | list) else f"a {kind}"
        raise ValueError(f"fit: validation_data must be (x, y) or (x, y, sample_weight), got {got}")
    x, y, *weights = validation_data
    return data, prepare(network, x, y, loss, columns, *weights), "fit: {} of validation_data"


def measured(
    network: Container,
    data: Data | StreamDataset,
    validation: Data | StreamDataset | None,
    scores: Sequence[tuple[str, Any]],
    told: str,
) -> dict[str, float]:
    """What the history says of the network at the end of an epoch."""
    if validation is not None:
        return {f"val_{name}": value for name, value in evaluation(network, validation, scores, told).items()}
    found = evaluation(network, data, scores, told) if scores else {}
    return {name: found[name] for name, _ in scores}  # the loss is that of the training


def check_loss_and_optimizer(loss: Loss, optimizer: Optimizer) -> None:
    check_loss(loss)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be an object such as SGD(lr=0.1), got {optimizer!r}")
    optimizer.check_loss(loss)


def check_loss(loss: Any) -> None:
    if not isinstance(loss, Loss):
        several = "MultiLoss([...]), for several outputs" if isinstance(loss, tuple | list) else "MSELoss()"
        raise TypeError(f"loss must be an object such as {several}, got {loss!r}")
    loss.check_scalar()
