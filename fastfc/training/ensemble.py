"""`fit` and `evaluate` of an ensemble: as for one network, and what its members have for themselves."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfc.kernels.runtime import threads
from fastfc.kernels.runtime.cache import defer_sigint
from fastfc.kernels.runtime.native import one_piece
from fastfc.kernels.runtime.status import OK, STATUSES, UNKNOWN
from fastfc.kernels.training import members as kernels
from fastfc.losses.base import Loss, as_weights
from fastfc.metrics import get_metric, is_ours
from fastfc.optim.base import Optimizer
from fastfc.optim.schedule import ReduceLROnPlateau
from fastfc.ranks import EPOCH, OUTPUTS, SETTINGS, Pulse, Ranks, ranks_of
from fastfc.training.callbacks import Callback, Run, as_callback
from fastfc.training.distributed import agree_on_epoch, settings_of_held_out, settings_of_options
from fastfc.training.epoch import DivergenceWarning
from fastfc.training.evaluation import as_scores, dataset, measured, whole
from fastfc.training.fit import Options, Samples, check_samples, columns_of_history, held_out
from fastfc.training.history import History
from fastfc.training.member_ranks import exchanged, settings_of_team, share, take_from_main
from fastfc.training.members import Member, MembersEpoch
from fastfc.training.outputs import averaged, link_of, outputs_of
from fastfc.training.progress import Progress
from fastfc.training.samples import Data, by_class, refuse_not_finite
from fastfc.training.step import check_loss, check_loss_and_optimizer
from fastfc.validation import as_generator, as_real, flag, fraction, listed, positive_int

if TYPE_CHECKING:
    from fastfc.data.columns import Columns

# Multiplications that an element of a loss takes as long as.
LOSS_WORK = 32
BOOTSTRAP, SUBSET = 1, 2  # behind the seed of a member, for what is drawn beside its orders


def fit(
    team: Any,
    x: Any,
    y: Any = None,
    *,
    loss: Loss,
    optimizer: Optimizer | Sequence[Optimizer],
    epochs: int = 1,
    batch_size: int = 32,
    shuffle: bool = True,
    seed: int | Sequence[int] | np.random.Generator | None = None,
    sample_weight: Any = None,
    class_weight: Any = None,
    bootstrap: bool = False,
    subset: float | Sequence[Any] | None = None,
    validation_data: tuple[Any, ...] | None = None,
    validation_split: float = 0.0,
    metrics: Sequence[Any] = (),
    callbacks: Sequence[Any] = (),
    joint_callbacks: Sequence[Any] = (),
    accumulate: int = 1,
    drop_last: bool = False,
    progress: bool = False,
    comm: Any = None,
) -> History:
    """Train all members, each as `net.fit` trains it alone, with the same bits; one native call for all of them.

    Arguments that are not listed here are those of a network's `fit`, for every member. Members are spread over
    `n_threads`; each takes its steps one after another.

    Parameters
    ----------
    x, y : arrays
        As for a network, in memory.
    optimizer : Optimizer or sequence of Optimizer
        Of one, every member gets a copy, so that the copies can be changed one by one as `team.optimizers`. A sequence
        has one for each member, which may differ in all: learning rate, weight decay, schedule, rule. A second `fit`
        with the same one goes on with the copies.
    seed : int, sequence of int, numpy.random.Generator or None
        Of the orders of samples: member k has seed + k, or seed[k]. A generator draws one for each.
    sample_weight : (n,) or (k, n) array of numbers, optional
        The same for all members, or a row for each. Samples that validation_split takes out have these weights too; the
        metrics of the mean prediction are without those of single members.
    bootstrap : bool
        Whether each member has its own random weights: how often each of the n samples is among n that are drawn with
        replacement, `np.bincount(np.random.default_rng([seed + k, 1]).integers(n, size=n), minlength=n)`.
    subset : float, or sequence of index arrays or masks, optional
        A part of the samples, drawn for each member without replacement; or which samples each member is trained on.
    callbacks : sequence of Callback or callable
        Of each member: each has a copy, and stops and is restored by itself. Their `run.network` is the member. It is
        `copy.copy`: what `on_start` makes is the member's own, a list that `__init__` has made is shared by all.
    joint_callbacks : sequence of Callback or callable
        Of the ensemble: they see its history, below. `EarlyStopping` here stops all members at once, on the
        ensemble's score, and restores all. Their `run.network` is the ensemble, `run.optimizer` the list of optimizers.
    comm : mpi4py.MPI.Comm, optional
        The ranks that train together, such as MPI.COMM_WORLD; all give the same samples. Each trains a block of the
        members, rank r of R those from ⌈k r / R⌉ on, and at the end all of them hold the whole ensemble, with the bits
        that it has in one process. The run begins with what rank 0 has. Callbacks of members are called on the rank
        that trains them, joint ones on all ranks with the same history and the whole ensemble; they must do the same to
        it, and only the rank whose `run.main` is true writes files. What is raised on one rank is raised on all. See
        fastfc/training/README.md; needs the extra `fastfc[mpi]`.

    Returns
    -------
    History
        Of the ensemble, also kept as `team.history`. `loss` and `val_loss` are means of the members' losses, over
        those that are trained in this epoch; with validation data, the metrics are those of the mean prediction, as
        `predict` gives it, of all members that have not diverged. Each member has its own as `team[k].history`.

    Raises
    ------
    TypeError, ValueError
        As for a network; for options that are not one for each member. An error in one member names it, and all members
        are those of the end of the epoch before.

    Warns
    -----
    DivergenceWarning
        For each member whose loss or parameters become infinite or not a number. It is left as it was at the end of the
        epoch before, and out of the predictions, see `team.left_out`; the others go on.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> x = np.linspace(-1, 1, 50)[:, None]
    >>> team = fc.Ensemble(lambda seed: fc.MLP([1, 8, 1], "tanh", seed=seed), 5)
    >>> history = team.fit(x, x**2, loss=fc.MSELoss(), optimizer=fc.Adam(0.01), epochs=30, seed=0)
    >>> alone = fc.MLP([1, 8, 1], "tanh", seed=3)
    >>> own = alone.fit(x, x**2, loss=fc.MSELoss(), optimizer=fc.Adam(0.01), epochs=30, seed=3)
    >>> bool((alone.params == team[3].params).all())
    True
    """
    ranks = ranks_of(comm, "same", None, "fit") or Ranks(None, "same", 1)
    shared = Options(epochs, batch_size, shuffle, seed, accumulate, drop_last, progress, callbacks, metrics)
    options = MembersOptions(shared, joint_callbacks, bootstrap, subset)
    data = x, y, sample_weight, class_weight, validation_data, validation_split
    with ranks.together("fit"):
        return train_members(team, data, loss, optimizer, options, ranks)


class MembersOptions(NamedTuple):
    """What `fit` was asked for: what every network is asked, and what is of ensembles."""

    shared: Options
    joint_callbacks: Sequence[Any]
    bootstrap: bool
    subset: Any


def train_members(
    team: Any, data: tuple[Any, ...], loss: Loss, optimizer: Any, options: MembersOptions, ranks: Ranks
) -> History:
    """`fit`, once it is known who trains."""
    shared, first = options.shared.checked(), team.members[0]
    called = [as_callback(c) for c in listed(shared.callbacks, "fit", "callbacks", "[EarlyStopping()]")]
    joint = listed(options.joint_callbacks, "fit", "joint_callbacks", "[EarlyStopping()]")
    joint = [as_callback(callback) for callback in joint]
    check_loss(loss)
    optimizers = checked_optimizers(team, optimizer, loss, shared.accumulate)
    metrics, scores = as_scores(shared.metrics, "fit", first, loss)
    ranks.compare({"the number of members": str(len(team))})
    columns, seeds = first.columns(learning=True), ranks.of_main(member_seeds(shared.seed, len(team)))
    with one_piece():
        samples, weights = prepare_samples(team, data, loss, columns)
        own_scores = [score for metric, score in zip(metrics, scores, strict=True) if is_ours(metric)]
        check_samples(first, samples, own_scores)
        draws = Draws(seeds, flag(options.bootstrap, "fit", "bootstrap"), options.subset, weights)
        monitored = columns_of_history(samples, scores)
        members = members_of(team, optimizers, draws, samples.training, loss, shared, called, monitored)
        epoch = MembersEpoch(members, team.vectors(), team.n_threads, bool(shared.shuffle))
    outputs = outputs_of(first, loss)
    links = tuple(map(link_of, outputs))
    team_scores = [get_metric(metric, [averaged(output) for output in outputs]) for metric in metrics]
    seen = [name for name in monitored if name.startswith("val_") or name == "loss"]
    run = Run(team, optimizers, History(), shared.epochs, seen, ranks.main)  # type: ignore[arg-type]
    held = draws.held_out_weights(samples.training.n, samples.validation, loss)  # type: ignore[arg-type]
    trainer = MembersTrainer(team, run, members, samples, scores, team_scores, joint, held, ranks)
    trainer.epoch = epoch
    trainer.epoch.members = members[ranks.block(len(members))]
    trainer.progress_bar = Progress(shared.progress and ranks.main, shared.epochs, samples.training.n)
    if ranks.size > 1:
        settings = settings_of_options(loss, optimizers[0], shared, ranks) | settings_of_held_out(*data[3:])
        ranks.compare(settings | settings_of_team(team, optimizers, samples, options, weights, ranks))
        take_from_main(ranks, team, members, seeds)

    def begin() -> None:
        team.begin_fit(tuple(optimizers), optimizer, links, run.history)
        for member in members:
            member.network.history = member.run.history
            member.network.learn_names(columns.inputs, columns.targets)

    return trainer.train(begin)


def prepare_samples(team: Any, data: tuple[Any, ...], loss: Loss, columns: Columns) -> tuple[Samples, Any]:
    """The samples for training and validation, and the weights (k, n) of the members, None if they share them."""
    x, y, sample_weight, class_weight, validation_data, validation_split = data
    first, of_each = team.members[0], np.ndim(sample_weight) == 2
    of_all = (None, None) if of_each else (sample_weight, class_weight)
    training = in_memory(dataset(first, x, y, loss, columns, *of_all), "x")
    weights = own_weights(sample_weight, class_weight, training, len(team), loss) if of_each else None
    samples = held_out(first, training, validation_data, validation_split, loss, columns)
    in_memory(samples.validation, "validation_data")
    return samples, weights


def members_of(
    team: Any,
    optimizers: Sequence[Optimizer],
    draws: Draws,
    data: Any,
    loss: Loss,
    options: Options,
    callbacks: Sequence[Callback],
    monitored: list[str],
) -> list[Member]:
    """The members with what each has for itself."""
    for own in optimizers:
        own.watched_column(monitored)  # raises before the first step if it is missing
    members, parts = [], draws.parts(data, loss)
    for k, (network, own, (samples, rows)) in enumerate(zip(team.members, optimizers, parts, strict=True)):
        run, rng = Run(network, own, History(), options.epochs, monitored), own.generator(draws.seeds[k])
        sizes = options.batch_size, options.accumulate, options.drop_last
        member = Member(k, network, own, samples, rows, *sizes, rng, run)
        member.callbacks = [copy.copy(callback) for callback in callbacks]
        members.append(member)
    return members


def in_memory(data: Any, what: str, owner: str = "fit") -> Any:
    if not isinstance(data, Data | None):
        raise ValueError(f"{owner}: an ensemble takes arrays in memory, such as np.asarray(x); {what} is read in parts")
    return data


def checked_optimizers(team: Any, optimizer: Any, loss: Loss, accumulate: int) -> list[Optimizer]:
    """An optimizer for each member."""
    optimizers = team.optimizers_for(optimizer)
    for network, own in zip(team.members, optimizers, strict=True):
        check_loss_and_optimizer(loss, own)
        own.check_network(network)
        if accumulate > 1 and own.full_batch:
            raise ValueError(f"fit: {own} takes all samples at once; accumulate is for batches")
    return optimizers


def member_seeds(seed: Any, k: int) -> list[Any]:
    """The seed of each member's fit."""
    if seed is None:
        return [None] * k
    if isinstance(seed, np.random.Generator):
        return [int(drawn) for drawn in seed.integers(1 << 62, size=k)]
    if np.iterable(seed):
        seeds = list(seed)
        if len(seeds) != k:
            raise ValueError(f"fit: seed has {len(seeds)} items for {k} members; give one for each")
        return [None if one is None else positive_int(one, "fit", "each seed", or_zero=True) for one in seeds]
    first = positive_int(seed, "fit", "seed", or_zero=True)
    return [first + i for i in range(k)]


def own_weights(sample_weight: Any, class_weight: Any, data: Data, k: int, loss: Loss) -> NDArray[Any]:
    """(k, n) weights of samples, times those of their classes."""
    given = as_real(sample_weight, loss, "sample_weight")
    if given.shape != (k, data.n):
        raise ValueError(
            f"fit: sample_weight has shape {given.shape}; it must be (n,) or (k, n), here ({data.n},) "
            f"or ({k}, {data.n})"
        )
    return np.array([by_class(class_weight, data.y, row, loss) for row in given])


class Draws(NamedTuple):
    """What members have of the samples for themselves."""

    seeds: Sequence[Any]
    bootstrap: bool
    subset: Any
    weights: Any  # (k, n), of all samples that were given

    def parts(self, data: Data, loss: Loss) -> list[tuple[Data, NDArray[np.int64] | None]]:
        """For each member the samples with its weights, and the numbers of its own ones, None for all."""
        weights, rows = self.member_weights(data, loss), self.member_rows(data.n)
        parts = [(data._replace(weights=own), chosen) for own, chosen in zip(weights, rows, strict=True)]
        for k, (own, chosen) in enumerate(parts):
            if not (own if chosen is None else own.rows(chosen)).weight_sum:
                raise ValueError(
                    f"fit: the weights of all samples for training of member {k} are 0; give at least one a positive "
                    "weight"
                )
        return parts

    def member_weights(self, data: Data, loss: Loss) -> list[NDArray[Any]]:
        weights, dtype = [data.weights] * len(self.seeds), data.x.dtype
        if self.weights is not None:
            own = [as_weights(row[: data.n], data.n, dtype, loss) for row in self.weights]
            weights = [np.ascontiguousarray(row) for row in own]
        if self.bootstrap:
            counts = [drawn(seed, BOOTSTRAP).integers(data.n, size=data.n) for seed in self.seeds]
            times = [np.bincount(count, minlength=data.n).astype(dtype) for count in counts]
            weights = [t * w if w.size else t for t, w in zip(times, weights, strict=True)]
        return weights

    def held_out_weights(self, n: int, validation: Any, loss: Loss) -> list[NDArray[Any]] | None:
        """Each member's own weights of samples that were split off behind n; None if there are none."""
        if self.weights is None or not isinstance(validation, Data) or self.weights.shape[1] == n:
            return None
        own = [as_weights(row[n:], validation.n, validation.x.dtype, loss) for row in self.weights]
        return [np.ascontiguousarray(row) for row in own]

    def member_rows(self, n: int) -> list[NDArray[np.int64] | None]:
        k = len(self.seeds)
        if self.subset is None:
            return [None] * k
        if not np.iterable(self.subset):
            size = round(n * fraction(self.subset, "fit", "subset"))
            if size < 1:
                raise ValueError(f"fit: subset={self.subset} leaves none of {n} samples")
            return [np.sort(drawn(seed, SUBSET).permutation(n)[:size]) for seed in self.seeds]
        chosen = list(self.subset)
        if len(chosen) != k:
            raise ValueError(f"fit: subset has {len(chosen)} items for {k} members; give the samples of each")
        return [as_rows(rows, n, i) for i, rows in enumerate(chosen)]


def drawn(seed: Any, what: int) -> np.random.Generator:
    return as_generator(None if seed is None else [seed, what], "fit")


def as_rows(rows: Any, n: int, k: int) -> NDArray[np.int64]:
    """The numbers of samples, of indices or a mask."""
    what = f"subset[{k}]"
    rows = as_real(rows, "fit", what)
    if rows.dtype == bool and rows.shape == (n,):
        rows = np.flatnonzero(rows)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or not rows.size:
        raise ValueError(
            f"fit: {what} must be numbers of samples, or a mask of {n} of them; got {rows.dtype} {rows.shape}"
        )
    if rows.min() < -n or rows.max() >= n:
        raise ValueError(f"fit: {what} names sample {rows.max() if rows.max() >= n else rows.min()} of {n}")
    return np.ascontiguousarray(rows % n, np.int64)


@dataclass
class MembersTrainer:
    """What the epochs of an ensemble's `fit` need."""

    team: Any
    run: Run
    members: list[Member]
    samples: Samples
    scores: Sequence[tuple[str, Any]]
    team_scores: Sequence[tuple[str, Any]]  # of the mean prediction
    callbacks: Sequence[Callback]
    held_out_weights: Sequence[NDArray[Any]] | None  # of each member, if they have their own
    ranks: Ranks
    epoch: Any = None
    progress_bar: Any = None

    def train(self, begin: Callable[[], None]) -> History:
        """Epoch by epoch, until all are done, or all members have stopped or diverged, or a joint callback stops."""
        started: list[tuple[Callback, Run, int | None]] = []
        try:
            with self.ranks.all_or_none():
                for callback, run, k in self.all_callbacks():
                    started.append((callback, run, k))
                    callback.on_start(run)
                self.ranks.meet(SETTINGS)  # nothing has changed where another rank fails
                begin()
                for i in range(self.run.epochs):
                    self.after(*self.one_epoch(i), started)
                    if self.is_over():
                        break
        finally:
            try:
                with self.ranks.all_or_none():
                    self.progress_bar.close()
                    end(started)
            finally:
                share(self.ranks, self.team, self.members)
        return self.run.history

    def all_callbacks(self) -> Iterator[tuple[Callback, Run, int | None]]:
        """Of our members, and those of the ensemble."""
        for member in self.epoch.members:
            yield from ((callback, member.run, member.index) for callback in member.callbacks)
        yield from ((callback, self.run, None) for callback in self.callbacks)

    def after(
        self, is_trained: bool, diverged: dict[int, str], started: list[tuple[Callback, Run, int | None]]
    ) -> None:
        """What follows an epoch: callbacks, and the end of members that have diverged or stopped."""
        self.let_go([member for member in self.epoch.members if member.index in diverged], started)
        for member in self.epoch.members:
            for callback in member.callbacks:
                callback.on_epoch(member.run)
        if self.callbacks and is_trained:
            share(self.ranks, self.team, self.members)
            for callback in self.callbacks:
                callback.on_epoch(self.run)
            hypers = [member.optimizer.hyper for member in self.members]
            if agree_on_epoch(self.ranks, [self.team.params], hypers, self.run.stopped):
                self.run.stop()
        self.let_go([member for member in self.epoch.members if member.run.stopped], started)
        for k, text in sorted(diverged.items()):
            warnings.warn(DivergenceWarning(f"member {k}: {text}"), stacklevel=5)

    def is_over(self) -> bool:
        """Whether no rank goes on."""
        return self.run.stopped or not self.ranks.meet(EPOCH, [len(self.epoch.members)]).any()

    def let_go(self, members: Sequence[Member], started: list[tuple[Callback, Run, int | None]]) -> None:
        """Train these members no longer: their callbacks end, which may restore the best weights."""
        gone = {member.index for member in members}
        self.epoch.members = [member for member in self.epoch.members if member.index not in gone]
        ended = [row for row in started if row[2] in gone]
        started[:] = [row for row in started if row[2] not in gone]
        end(ended)

    def one_epoch(self, i: int) -> tuple[bool, dict[int, str]]:
        """An epoch of all members that are trained: whether there are still some, and what is said of who diverged.

        If anything but Ctrl-C is raised, it is undone.
        """
        start, epoch = time.perf_counter(), self.epoch
        rows = {member.index: first_columns(member.optimizer) for member in epoch.members}
        epoch.save()
        try:
            epoch.draw()
            pulse = Pulse(self.ranks)
            for done, value in epoch.run():
                self.progress_bar.show(i, done, value, self.run.history)
                pulse.beat()
            if pulse.finish():
                raise KeyboardInterrupt
            diverged = {member.index: str(warning) for member, warning in epoch.diverged()}
            outputs = self.measure([m for m in epoch.members if m.index not in diverged], rows, diverged)
            with defer_sigint():  # an epoch is in the history of all ranks, or of none
                return self.record(rows, diverged, outputs, start)
        except Exception:
            epoch.restore()
            raise

    def record(
        self, rows: dict[int, dict[str, float]], diverged: dict[int, str], outputs: Any, start: float
    ) -> tuple[bool, dict[int, str]]:
        """Put the rows of all ranks into the histories of members, and that of the ensemble into its own."""
        columns = ["epoch", "loss", "lr", *columns_of_history(self.samples, self.scores)[1:]]
        rows, diverged = exchanged(self.ranks, len(self.members), columns, rows, diverged)
        team_row = self.team_row(rows, outputs) if rows else {}
        seconds = {"seconds": time.perf_counter() - start}
        team_row, seconds = self.ranks.of_main((team_row, seconds), EPOCH)
        self.team.leave_out(diverged)
        for k, row in rows.items():
            self.members[k].run.history.rows.append(row | seconds)
        for member in [member for member in self.epoch.members if member.index in rows]:
            finish(member)
        if rows:
            self.run.history.rows.append(team_row | seconds)
        return bool(rows), diverged

    def measure(self, going: Sequence[Member], rows: dict[int, dict[str, float]], lost: Iterable[int]) -> Any:
        """Write losses and metrics into the rows of our members; their outputs for the mean prediction, if any."""
        for member in going:
            rows[member.index]["loss"] = self.epoch.mean_loss(member)
        if self.samples.validation is not None:
            return self.validate(going, rows, lost)
        for member in going if self.scores else ():
            own = member.own_data()
            rows[member.index] |= measured(member.network, own, None, self.scores, self.samples.what)
        return None

    def validate(self, going: Sequence[Member], rows: dict[int, dict[str, float]], lost: Iterable[int]) -> Any:
        """Measure members that are trained on the validation data; outputs of these or, for metrics, of all of ours."""
        data, team = self.samples.validation, self.team
        assert isinstance(data, Data)
        seen = [member.index for member in going]
        if self.scores:
            ours = range(len(team))[self.ranks.block(len(team))]
            seen = [k for k in ours if k not in lost and k not in team.left_out]
        if not seen:
            return np.empty((0, data.n, data.program.outputs), data.x.dtype)
        outputs, values = team_losses(team, data, seen)
        for member in going:
            i, own, value = seen.index(member.index), data, values[seen.index(member.index)]
            if self.held_out_weights is not None:
                own = data._replace(weights=self.held_out_weights[member.index])
                [value] = losses_of(team, own, outputs[i : i + 1], [member.index])
            rows[member.index]["val_loss"] = value
            predicted, used = member.network.split_output(outputs[i]), positive_weights(own)
            rows[member.index] |= {f"val_{name}": score(data.y, predicted, used) for name, score in self.scores}
        return outputs

    def team_row(self, rows: dict[int, dict[str, float]], outputs: Any) -> dict[str, float]:
        """The row of the ensemble: means of those of members and, for metrics, the mean of the outputs of all."""
        data, chosen = self.samples.validation, list(rows.values())
        names = ("loss", "lr") if data is None else ("loss", "lr", "val_loss")
        row = {"epoch": max(row["epoch"] for row in chosen)}
        row |= {name: float(np.mean([row[name] for row in chosen])) for name in names}
        if data is not None and self.scores:
            assert isinstance(data, Data)
            predicted = self.team.members[0].split_output(self.team.average(self.ranks.gather(outputs, OUTPUTS)))
            row |= {f"val_{name}": score(data.y, predicted, positive_weights(data)) for name, score in self.team_scores}
        return row


def finish(member: Member) -> None:
    """After the epoch of a member: count it, and let its schedule see the row."""
    optimizer = member.optimizer
    optimizer.epochs += 1
    if isinstance(optimizer.schedule, ReduceLROnPlateau):  # the others look at no column, which takes a while
        optimizer.epoch_end(member.run.history.rows[-1][optimizer.watched_column(member.run.monitored)])


def first_columns(optimizer: Optimizer) -> dict[str, float]:
    lr = optimizer.lr if optimizer.schedule is None else optimizer.current_lr
    return {"epoch": optimizer.epochs + 1, "loss": np.nan, "lr": lr}


def end(started: Sequence[tuple[Callback, Run, int | None]]) -> None:
    """Call `on_end` of all, even if one raises."""
    with ExitStack() as stack:
        for callback, run, _ in started:
            stack.callback(callback.on_end, run)


def team_losses(team: Any, data: Data, members: Sequence[int]) -> tuple[NDArray[Any], list[float]]:
    """The outputs of some members for the same samples, (m, n, o), and the loss of each."""
    outputs = team.outputs(data.x, members)
    return outputs, losses_of(team, data, outputs, members)


def positive_weights(data: Data) -> NDArray[Any] | None:
    """The weights that metrics take, if there are any."""
    return data.weights if data.weights.size and data.weights.min() >= 0 else None


def losses_of(team: Any, data: Data, outputs: NDArray[Any], members: Sequence[int]) -> list[float]:
    """The loss of each of these members, by its outputs for the same samples."""
    m, n, o = outputs.shape
    work = outputs.size * LOSS_WORK
    n_threads = min(threads.prepare_threads(team.n_threads, work), m)
    scratch, values, statuses = np.empty((n_threads, n * o), outputs.dtype), np.empty(m), np.zeros(m, np.int64)
    samples = data.target, data.labels, data.weights, data.losses
    kernels.member_losses.call(*samples, outputs.reshape(m * n, o), scratch, values, statuses, n_threads)
    for k in np.flatnonzero(statuses != OK)[:1]:
        meaning = STATUSES.get(int(statuses[k]), UNKNOWN)
        raise meaning.error(f"member {members[k]}: {meaning.text}")
    losses: list[float] = values.tolist()
    return losses


def evaluate(
    team: Any,
    x: Any,
    y: Any,
    loss: Loss,
    *,
    sample_weight: ArrayLike | None = None,
    metrics: Sequence[Any] = (),
    comm: Any = None,
    rows: str = "same",
) -> Any:
    """The mean of the members' losses, and metrics of the mean prediction. Changes nothing.

    Members that diverged in the latest `fit` are left out.

    Parameters
    ----------
    x, y, loss, sample_weight, metrics
        As for a network, in memory. Metrics see what `predict` gives, of the outputs that this loss is for.
    comm, rows
        As for a network: each rank computes the outputs for its rows, and all of them get the same result.

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
    >>> team = fc.Ensemble(lambda seed: fc.MLP([2, 1], init="zeros"), 2)
    >>> team[1].params = [1, 1, 0]
    >>> team.evaluate([[1, 2]], [[3]], fc.MSELoss())
    4.5
    >>> team.evaluate([[1, 2]], [[3]], fc.MSELoss(), metrics=["mae"])
    {'loss': 4.5, 'mae': 1.5}
    """
    ranks = ranks_of(comm, rows, None, "evaluate") or Ranks(None, "same", 1)
    with ranks.together("evaluate"):
        check_loss(loss)
        first = team.members[0]
        metrics, _ = as_scores(metrics, "evaluate", first, loss)
        data = in_memory(dataset(first, x, y, loss, first.columns(), sample_weight, owner="evaluate"), "x", "evaluate")
        kept = team.kept()
        if ranks.size > 1:
            settings = team.settings() | {"the loss": repr(loss), "members": str(kept)}
            ranks.compare(settings | ({} if ranks.local else {"the number of rows": str(data.n)}))
            data = whole(data, ranks)
        # rows first, as ranks put them together
        outputs = ranks.output(lambda x: np.moveaxis(team.outputs(x, kept), 1, 0), data.x, data.program.whole)
        return scored(team, data, np.ascontiguousarray(np.moveaxis(outputs, 0, 1)), kept, loss, metrics)


def scored(
    team: Any, data: Data, outputs: NDArray[Any], kept: Sequence[int], loss: Loss, metrics: Sequence[Any]
) -> float | dict[str, float]:
    """The mean of the losses of these members by their outputs (m, n, o), and metrics of the mean prediction."""
    first, row = team.members[0], {"loss": float(np.mean(losses_of(team, data, outputs, kept)))}
    if not np.isfinite(row["loss"]) or (metrics and not np.isfinite(outputs).all()):
        refuse_not_finite(data, "evaluate: {}")
    if metrics:
        kinds = outputs_of(first, loss)
        predicted = first.split_output(team.average(outputs, [link_of(kind) for kind in kinds]))
        named = [get_metric(metric, [averaged(kind) for kind in kinds]) for metric in metrics]
        row |= {name: score(data.y, predicted, positive_weights(data)) for name, score in named}
    return row if metrics else row["loss"]
