"""`fit`, which is a method of every network: checks before the first step, then epoch by epoch."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastfc.data.streams import gives_batches
from fastfc.kernels.runtime.native import DTYPES, compile_or_load_all, one_piece
from fastfc.losses.base import Loss
from fastfc.metrics import is_ours
from fastfc.optim.base import Optimizer
from fastfc.ranks import EPOCH, Ranks, ranks_of
from fastfc.training.callbacks import Callback, Run, as_callback
from fastfc.training.distributed import (
    ShardedEpoch,
    ShardedStreamEpoch,
    agree_on_epoch,
    balanced,
    settings_of,
    settings_of_held_out,
    settings_of_options,
    split,
    take_from_main,
)
from fastfc.training.epoch import DivergenceWarning, Epoch
from fastfc.training.evaluation import EVALUATING, as_scores, dataset, evaluation, measured, whole
from fastfc.training.history import History
from fastfc.training.progress import Progress
from fastfc.training.samples import NOTHING, Data, check_finite
from fastfc.training.step import check_loss_and_optimizer
from fastfc.training.streaming import StreamDataset, StreamEpoch
from fastfc.validation import flag, listed, positive_int

if TYPE_CHECKING:
    from fastfc.data.columns import Columns
    from fastfc.nn.container import Container


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
    drop_last: bool = False,
    progress: bool = False,
    comm: Any = None,
    rows: str = "same",
    shards: int | None = None,
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
        The last batch of an epoch is smaller if batch_size does not divide n, unless `drop_last`.
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
        Computed after each epoch, on the validation data if given; see fastfc.metrics. With several outputs,
        callables get tuples.
    callbacks : sequence of Callback or callable
        Called at the start, after each epoch and at the end, see Callback.
    accumulate : int
        The number of batches whose mean gradient gives one update.
    drop_last : bool
        Whether to leave out a smaller last batch: the last n mod batch_size samples in the order of each epoch, which
        then count neither in the loss nor in the updates of an epoch.
    progress : bool
        Whether to show a bar on stderr, if that is a terminal or a notebook's: epoch, samples a second, loss, and of
        the validation its loss and first metric. Needs the extra `fastfc[progress]`.
    comm : mpi4py.MPI.Comm, optional
        Train on all ranks of an MPI job, such as MPI.COMM_WORLD; see Notes. Needs the extra `fastfc[mpi]`.
    rows : {"same", "local"}
        Whether all ranks give the same samples, or each its own, one or more. The samples are then those of all
        ranks, one after another, and so is the batch whose size is batch_size; rows travel to the rank that needs them.
    shards : int, optional
        Into how many ranges of rows each batch is cut, 16 with comm. Networks trained with as many shards have the same
        bits for any number of ranks; shards=16 without comm is the same in one process.

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
        those of the end of the epoch before. Its text names the epoch and the layer.
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
    that has others, or these in another order, is an error in every later use: validation data, predict,
    forward, evaluate, train_step. A second fit may have other names, but none that has moved. Arrays have no names, and
    are always taken. Nor may several targets be given in another order.

    **Batches** are an iterable of (x, y) or (x, y, sample_weight), or a function that returns one for each epoch: a
    list, a generator function, a DataLoader of PyTorch, a tf.data.Dataset. Each is one batch, in the order in which
    they come; `batch_size`, `shuffle`, `drop_last` and `validation_split` are for arrays. A generator gives its batches
    once, which is one epoch. validation_data may be such an iterable as well, if it is neither a tuple nor a list.

    **Frames of Dask** are read partition by partition, x and y being of the same ones. Each epoch takes the partitions
    in a new random order, and the rows of each in batches of batch_size. Arrays of Dask are taken like arrays on disk.

    All of these are read by a thread of its own, ahead of the training. What it raises, and bad input that it meets,
    ends `fit`, as above.

    **Ranks.** Started by `mpiexec -n 4 python -m mpi4py script.py`, each rank computes the gradient of its part of each
    batch, and all make the same update. A run begins with what rank 0 has: parameters, seeds, the optimizer's memory.
    Settings, shapes and a sample of the data are compared before the first step. Callbacks are called on all ranks with
    the same history, and must do the same to network and optimizer; files and output are for the rank whose `run.main`
    is true. What is raised on one rank is raised on all. Each rank takes its share of the cores of its machine.
    BatchNorm1d is refused unless it is frozen.

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
    ranks = ranks_of(comm, rows, shards, "fit")
    options = Options(epochs, batch_size, shuffle, seed, accumulate, drop_last, progress, callbacks, metrics)
    data = x, y, sample_weight, class_weight, validation_data, validation_split
    with ranks.together("fit") if ranks else nullcontext():
        return run_fit(network, data, loss, optimizer, options, ranks)


class Options(NamedTuple):
    """What `fit` was asked for, beside the data, the loss and the optimizer."""

    epochs: int
    batch_size: int
    shuffle: bool
    seed: Any
    accumulate: int
    drop_last: bool
    progress: bool
    callbacks: Sequence[Any]
    metrics: Sequence[Any]

    def checked(self) -> Options:
        """With numbers that are integers."""
        names = "epochs", "batch_size", "accumulate"
        epochs, batch_size, accumulate = (positive_int(getattr(self, name), "fit", name) for name in names)
        drop_last = flag(self.drop_last, "fit", "drop_last")
        return self._replace(epochs=epochs, batch_size=batch_size, accumulate=accumulate, drop_last=drop_last)


def run_fit(
    network: Container, data: tuple[Any, ...], loss: Loss, optimizer: Optimizer, options: Options, ranks: Ranks | None
) -> History:
    """`fit`, once it is known who trains."""
    if ranks is not None:
        ranks.check_shards()
    check_loss_and_optimizer(loss, optimizer)
    optimizer.bind(network)
    options = options.checked()
    if options.accumulate > 1 and optimizer.full_batch:
        raise ValueError(f"fit: {optimizer} takes all samples at once; accumulate is for batches")
    metrics, scores = as_scores(options.metrics, "fit", network, loss)
    called = [as_callback(callback) for callback in listed(options.callbacks, "fit", "callbacks", "[EarlyStopping()]")]
    columns = network.columns(learning=True)
    if ranks is not None:  # first what decides which exchanges there are
        ranks.compare(settings_of_options(loss, optimizer, options, ranks) | settings_of_held_out(*data[3:]))
    main = ranks is None or ranks.main
    with one_piece():
        samples = prepare_samples(network, data, loss, columns, ranks)
        ours = [score for metric, score in zip(metrics, scores, strict=True) if is_ours(metric)]
        measuring = check_samples(network, samples, ours, ranks)
        check_readings(samples, options.epochs, bool(scores))
        monitored = columns_of_history(samples, scores)
        optimizer.watched_column(monitored)  # raises before the first step if it is missing
        if ranks is not None:
            ranks.compare(settings_of(network, samples, optimizer, ranks))
        progress_bar = Progress(options.progress and main, options.epochs, samples.training.n)
        epoch = epochs_on(network, samples.training, optimizer, options, ranks)
        if samples.validation is not None or scores:
            compile_or_load_all(EVALUATING, DTYPES[samples.measured.first.x.dtype])
    progress_bar.n, rng = epoch.n, optimizer.generator(options.seed)
    if ranks is not None:
        take_from_main(network, optimizer, rng, ranks)

    run = Run(network, optimizer, History(), options.epochs, monitored, main)
    trainer = Trainer(epoch, rng, options.shuffle, measuring, scores, run, progress_bar, ranks)
    started: list[Callback] = []
    try:
        for callback in called:
            started.append(callback)
            callback.on_start(run)
        network.history = run.history
        network.learn_names(columns.inputs, columns.targets)
        divergence = trainer.train(called)
        if divergence is not None:
            warnings.warn(divergence, stacklevel=3)
    finally:
        progress_bar.close()
        with ExitStack() as stack:  # calls all of them, even if one raises
            for callback in reversed(started):
                stack.callback(callback.on_end, run)
    return run.history


def epochs_on(
    network: Container, data: Data | StreamDataset, optimizer: Optimizer, options: Options, ranks: Ranks | None
) -> Epoch:
    """What trains an epoch on such data."""
    sizes = options.batch_size, options.accumulate, options.drop_last
    if isinstance(data, Data):
        if ranks is None:
            return Epoch(network, data, optimizer, *sizes)
        return ShardedEpoch(ranks, network, data, optimizer, *sizes)
    if ranks is None:
        return StreamEpoch(network, data, optimizer, *sizes)
    return ShardedStreamEpoch(ranks, network, data, optimizer, *sizes)


class Samples(NamedTuple):
    """What a `fit` trains and validates on, and how an error names x or y of what it validates on."""

    training: Data | StreamDataset
    validation: Data | StreamDataset | None
    what: str

    @property
    def measured(self) -> Data | StreamDataset:
        """The samples that metrics are computed of."""
        return self.training if self.validation is None else self.validation


def prepare_samples(
    network: Container, data: tuple[Any, ...], loss: Loss, columns: Columns, ranks: Ranks | None
) -> Samples:
    """The samples for training and validation, of rows of its own those of this rank."""
    x, y, sample_weight, class_weight, validation_data, validation_split = data
    if ranks is not None and ranks.local and isinstance(class_weight, str):
        class_weight = balanced(y, loss, ranks)
    training = dataset(network, x, y, loss, columns, sample_weight, class_weight)
    return held_out(network, training, validation_data, validation_split, loss, columns, ranks)


def held_out(
    network: Container,
    training: Data | StreamDataset,
    validation_data: Any,
    validation_split: float,
    loss: Loss,
    columns: Columns,
    ranks: Ranks | None = None,
) -> Samples:
    """The samples for training and those for validation, which are split off or prepared."""
    if validation_data is None:
        train, validation = split(training, validation_split, ranks) if validation_split else (training, None)
        return Samples(train, validation, "fit: {}")
    if validation_split:
        raise ValueError("fit: give validation_data or validation_split, not both")
    if gives_batches(validation_data):
        validation_data = validation_data, None
    elif not isinstance(validation_data, tuple | list) or len(validation_data) not in (2, 3):
        kind = type(validation_data).__name__
        got = f"{len(validation_data)} items" if isinstance(validation_data, tuple | list) else f"a {kind}"
        raise ValueError(f"fit: validation_data must be (x, y) or (x, y, sample_weight), got {got}")
    x, y, *weights = validation_data
    return Samples(training, dataset(network, x, y, loss, columns, *weights), "fit: {} of validation_data")


def check_samples(
    network: Container, samples: Samples, scores: Sequence[tuple[str, Any]], ranks: Ranks | None = None
) -> Samples:
    """Raise before anything has changed: all weights are 0, validation data are not finite, or a metric fails.

    The metrics are fastfc's own; others may count their calls. The samples as they are measured.
    """
    local = ranks is not None and ranks.local
    for part, use in ((samples.training, "training"), (samples.validation, "validation")):
        if isinstance(part, Data) and not part.weight_sum and not local:
            raise ValueError(f"fit: the weights of all samples for {use} are 0; give at least one a positive weight")
    if isinstance(samples.validation, Data):
        check_finite(samples.validation, samples.what)
    if ranks is not None and samples.validation is not None:
        samples = samples._replace(validation=whole(samples.validation, ranks))
    elif ranks is not None and scores:
        samples = samples._replace(training=whole(samples.training, ranks))
    if scores:
        evaluation(network, samples.measured.first, scores, samples.what, ranks)
    return samples


def check_readings(samples: Samples, epochs: int, has_scores: bool) -> None:
    """Raise if batches would have to be read more often than they can."""
    if has_scores and samples.validation is None:
        samples.training.check_epochs(2 * epochs, "epochs with metrics but no validation_data")
    else:
        samples.training.check_epochs(epochs, "epochs")
    if samples.validation is not None:
        samples.validation.check_epochs(epochs, "epochs with validation")


def columns_of_history(samples: Samples, scores: Sequence[tuple[str, Any]]) -> list[str]:
    """The columns of the history that a callback may watch."""
    if samples.validation is None:
        return ["loss", *(name for name, _ in scores)]
    return ["loss", "val_loss", *(f"val_{name}" for name, _ in scores)]


class Trainer(NamedTuple):
    """What the epochs of a `fit` need."""

    epoch: Epoch
    rng: np.random.Generator
    shuffle: bool
    samples: Samples
    scores: Sequence[tuple[str, Any]]
    run: Run
    progress_bar: Progress
    ranks: Ranks | None = None

    def train(self, callbacks: Sequence[Callback]) -> DivergenceWarning | None:
        """Epoch by epoch, until all are done, a callback stops, or training diverges, which is returned."""
        run = self.run
        for i in range(run.epochs):
            try:
                row = self.one_epoch(i)
            except DivergenceWarning as warning:
                return warning
            run.optimizer.epochs += 1
            run.history.rows.append(row)
            run.optimizer.epoch_end(row[run.optimizer.watched_column(run.monitored)])
            self.progress_bar.show(i, self.epoch.n, row["loss"], run.history)
            for callback in callbacks:
                callback.on_epoch(run)
            arrays = [run.network.params], [run.optimizer.hyper]
            if self.ranks is not None and agree_on_epoch(self.ranks, *arrays, run.stopped):
                run.stop()
            if run.stopped:
                break
        return None

    def one_epoch(self, i: int) -> dict[str, float]:
        """The row of the history for epoch i, counted from 0; if anything but Ctrl-C is raised, the epoch is undone."""
        start, run = time.perf_counter(), self.run
        row = {"epoch": run.optimizer.epochs + 1, "loss": np.nan, "lr": run.optimizer.current_lr}
        self.epoch.save(self.rng)
        try:
            order = self.epoch.order(self.rng) if self.shuffle else NOTHING
            for done, row["loss"] in self.epoch.run(order):
                self.progress_bar.show(i, done, row["loss"], run.history)
            training, validation, what = self.samples
            row |= measured(run.network, training, validation, self.scores, what, self.ranks)
            row |= {"seconds": time.perf_counter() - start}
            return row if self.ranks is None else self.ranks.of_main(row, EPOCH)
        except Exception:
            self.epoch.restore()
            raise
