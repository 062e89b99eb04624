"""`fit` and `evaluate` of an ensemble: as for one network, and what its members have for themselves."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfc.kernels.runtime import threads
from fastfc.kernels.runtime.status import OK, STATUSES, UNKNOWN
from fastfc.kernels.training import members as kernels
from fastfc.losses.base import Loss, as_weights
from fastfc.metrics import get_metric, is_ours
from fastfc.optim.base import Optimizer
from fastfc.optim.schedules import ReduceLROnPlateau
from fastfc.training.callbacks import Callback, Run, as_callback
from fastfc.training.epoch import DivergenceWarning
from fastfc.training.evaluation import as_scores, dataset, measured
from fastfc.training.fit import Samples, check_samples, columns_of_history, held_out
from fastfc.training.history import History
from fastfc.training.members import Member, MembersEpoch
from fastfc.training.outputs import averaged, link_of, outputs_of
from fastfc.training.progress import Progress
from fastfc.training.samples import Data, by_class, refuse_not_finite
from fastfc.training.step import check_loss, check_loss_and_optimizer
from fastfc.validation import as_generator, as_real, flag, fraction, listed, positive_int

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
    epochs = positive_int(epochs, "fit", "epochs")
    batch_size = positive_int(batch_size, "fit", "batch_size")
    accumulate = positive_int(accumulate, "fit", "accumulate")
    called = [as_callback(c) for c in listed(callbacks, "fit", "callbacks", "[EarlyStopping()]")]
    joint = [as_callback(c) for c in listed(joint_callbacks, "fit", "joint_callbacks", "[EarlyStopping()]")]
    first, seeds = team.members[0], member_seeds(seed, len(team))
    check_loss(loss)
    optimizers = checked_optimizers(team, optimizer, loss, accumulate)
    metrics, scores = as_scores(metrics, "fit", first, loss)
    columns = first.columns(learning=True)
    of_each = np.ndim(sample_weight) == 2
    shared = None if of_each else sample_weight
    of_classes = None if of_each else class_weight
    training = in_memory(dataset(first, x, y, loss, columns, shared, of_classes), "x")
    weights = own_weights(sample_weight, class_weight, training, len(team), loss) if of_each else None
    samples = held_out(first, training, validation_data, validation_split, loss, columns)
    in_memory(samples.validation, "validation_data")
    check_samples(first, samples, [score for metric, score in zip(metrics, scores, strict=True) if is_ours(metric)])
    draws = Draws(seeds, flag(bootstrap, "fit", "bootstrap"), subset, weights)
    parts = draws.parts(samples.training, loss)  # type: ignore[arg-type]
    monitored, drop_last = columns_of_history(samples, scores), flag(drop_last, "fit", "drop_last")
    shuffle = bool(shuffle)
    for own in optimizers:
        own.watched_column(monitored)  # raises before the first step if it is missing
    members = []
    for k, (network, own, (data, rows)) in enumerate(zip(team.members, optimizers, parts, strict=True)):
        run = Run(network, own, History(), epochs, monitored)
        rng = own.generator(seeds[k])
        member = Member(k, network, own, data, rows, batch_size, accumulate, drop_last, rng, run)
        member.callbacks = [copy.copy(callback) for callback in called]
        members.append(member)
    outputs = outputs_of(first, loss)
    team_scores = [get_metric(metric, [averaged(output) for output in outputs]) for metric in metrics]
    seen = [name for name in monitored if name.startswith("val_") or name == "loss"]
    run = Run(team, optimizers, History(), epochs, seen)  # type: ignore[arg-type]
    held = draws.held_out_weights(samples.training.n, samples.validation, loss)  # type: ignore[arg-type]
    trainer = MembersTrainer(team, run, members, samples, scores, team_scores, joint, held)
    trainer.epoch = MembersEpoch(members, team.vectors(), team.n_threads, shuffle)
    trainer.progress_bar = Progress(progress, epochs, training.n)

    def begin() -> None:
        team.begin_fit(tuple(optimizers), optimizer, tuple(link_of(output) for output in outputs), run.history)
        for member in members:
            member.network.history = member.run.history
            member.network.learn_names(columns.inputs, columns.targets)

    return trainer.train(begin)


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
    epoch: Any = None
    progress_bar: Any = None

    def train(self, begin: Callable[[], None]) -> History:
        """Epoch by epoch, until all are done, or all members have stopped or diverged, or a joint callback stops."""
        started: list[tuple[Callback, Run, int | None]] = []
        try:
            for callback, run, k in self.all_callbacks():
                started.append((callback, run, k))
                callback.on_start(run)
            begin()
            for i in range(self.run.epochs):
                diverged = self.one_epoch(i)
                self.let_go([member for member, _ in diverged], started)
                for member in self.epoch.members:
                    for callback in member.callbacks:
                        callback.on_epoch(member.run)
                for callback in self.callbacks if self.epoch.members else ():
                    callback.on_epoch(self.run)
                self.let_go([member for member in self.epoch.members if member.run.stopped], started)
                for member, warning in diverged:
                    warnings.warn(DivergenceWarning(f"member {member.index}: {warning}"), stacklevel=3)
                if self.run.stopped or not self.epoch.members:
                    break
        finally:
            self.progress_bar.close()
            end(started)
        return self.run.history

    def all_callbacks(self) -> Iterator[tuple[Callback, Run, int | None]]:
        for member in self.members:
            yield from ((callback, member.run, member.index) for callback in member.callbacks)
        yield from ((callback, self.run, None) for callback in self.callbacks)

    def let_go(self, members: Sequence[Member], started: list[tuple[Callback, Run, int | None]]) -> None:
        """Train these members no longer: their callbacks end, which may restore the best weights."""
        gone = {member.index for member in members}
        self.epoch.members = [member for member in self.epoch.members if member.index not in gone]
        ended = [row for row in started if row[2] in gone]
        started[:] = [row for row in started if row[2] not in gone]
        end(ended)

    def one_epoch(self, i: int) -> list[tuple[Member, DivergenceWarning]]:
        """An epoch of all members that are trained, and those that diverged in it.

        If anything but Ctrl-C is raised, it is undone.
        """
        start, epoch = time.perf_counter(), self.epoch
        rows = {member.index: first_columns(member.optimizer) for member in epoch.members}
        epoch.save()
        try:
            epoch.draw()
            for done, value in epoch.run():
                self.progress_bar.show(i, done, value, self.run.history)
            diverged = list(epoch.diverged())
            lost = {member.index for member, _ in diverged}
            going = [member for member in epoch.members if member.index not in lost]
            team_row = self.measure(going, rows, lost) if going else {}
        except Exception:
            epoch.restore()
            raise
        self.team.leave_out(lost)
        seconds = time.perf_counter() - start
        for member in going:
            self.finish(member, rows[member.index] | {"seconds": seconds})
        if going:
            self.run.history.rows.append(team_row | {"seconds": seconds})
        return diverged

    def finish(self, member: Member, row: dict[str, float]) -> None:
        """After the epoch of a member: count it, and let its schedule see the row."""
        optimizer = member.optimizer
        optimizer.epochs += 1
        member.run.history.rows.append(row)
        if isinstance(optimizer.schedule, ReduceLROnPlateau):  # the others look at no column, which takes a while
            optimizer.epoch_end(row[optimizer.watched_column(member.run.monitored)])

    def measure(self, going: Sequence[Member], rows: dict[int, dict[str, float]], lost: set[int]) -> dict[str, float]:
        """Write losses and metrics into the rows of members; the row of the ensemble."""
        for member in going:
            rows[member.index]["loss"] = self.epoch.mean_loss(member)
        if self.samples.validation is None:
            for member in going if self.scores else ():
                own = member.own_data()
                rows[member.index] |= measured(member.network, own, None, self.scores, self.samples.what)
            of_team = {}
        else:
            of_team = self.validate(going, rows, lost)
        chosen = [rows[member.index] for member in going]
        means = {name: float(np.mean([row[name] for row in chosen])) for name in ("loss", "lr")}
        return {"epoch": max(row["epoch"] for row in chosen), **means, **of_team}

    def validate(self, going: Sequence[Member], rows: dict[int, dict[str, float]], lost: set[int]) -> dict[str, float]:
        """Measure on the validation data: each member that is trained and, for metrics, the mean of all."""
        data, team = self.samples.validation, self.team
        assert isinstance(data, Data)
        seen = [member.index for member in going]
        if self.scores:
            seen = [k for k in range(len(team)) if k not in lost and k not in team.left_out]
        outputs, values = team_losses(team, data, seen)
        for member in going:
            i, own, value = seen.index(member.index), data, values[seen.index(member.index)]
            if self.held_out_weights is not None:
                own = data._replace(weights=self.held_out_weights[member.index])
                [value] = losses_of(team, own, outputs[i : i + 1], [member.index])
            rows[member.index]["val_loss"] = value
            predicted, used = member.network.split_output(outputs[i]), positive_weights(own)
            rows[member.index] |= {f"val_{name}": score(data.y, predicted, used) for name, score in self.scores}
        row = {"val_loss": float(np.mean([rows[member.index]["val_loss"] for member in going]))}
        if self.scores:
            predicted = team.members[0].split_output(team.average(outputs))
            row |= {f"val_{name}": score(data.y, predicted, positive_weights(data)) for name, score in self.team_scores}
        return row


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
) -> Any:
    """The mean of the members' losses, and metrics of the mean prediction. Changes nothing.

    Members that diverged in the latest `fit` are left out.

    Parameters
    ----------
    x, y, loss, sample_weight, metrics
        As for a network, in memory. Metrics see what `predict` gives, of the outputs that this loss is for.

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
    check_loss(loss)
    first = team.members[0]
    metrics, _ = as_scores(metrics, "evaluate", first, loss)
    data = in_memory(dataset(first, x, y, loss, first.columns(), sample_weight, owner="evaluate"), "x", "evaluate")
    outputs, values = team_losses(team, data, team.kept())
    row = {"loss": float(np.mean(values))}
    if not np.isfinite(row["loss"]) or (metrics and not np.isfinite(outputs).all()):
        refuse_not_finite(data, "evaluate: {}")
    if metrics:
        kinds = outputs_of(first, loss)
        predicted = first.split_output(team.average(outputs, [link_of(kind) for kind in kinds]))
        named = [get_metric(metric, [averaged(kind) for kind in kinds]) for metric in metrics]
        row |= {name: score(data.y, predicted, positive_weights(data)) for name, score in named}
    return row if metrics else row["loss"]
