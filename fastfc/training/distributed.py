"""Training on the ranks of an MPI job, and in shards: what `Epoch` does, for a part of each batch.

A batch of n rows is cut into S shards, whatever the number of ranks is: shard s has the rows from n s // S on. Each
rank computes the shards from r S // R on, see kernels/training/shards.py; their sums travel, and every rank makes the
same update. Means are taken once: losses are sums here, divided by the weights of the whole batch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfc._version import __version__
from fastfc.kernels.ops import loss_rules, loss_table
from fastfc.kernels.ops.loss_table import LossColumn
from fastfc.kernels.optim import update as update_kernels
from fastfc.kernels.program import table as program_table
from fastfc.kernels.runtime import threads
from fastfc.kernels.runtime.cache import defer_sigint
from fastfc.kernels.runtime.status import BAD_SHAPE, OK
from fastfc.kernels.training import levenberg_marquardt, objective, shards
from fastfc.nn.dropout import Dropout
from fastfc.nn.layer import Layer, explained_error
from fastfc.ranks import EPOCH, GRADIENT, Ranks, digest, known_to_all
from fastfc.training.callbacks import EarlyStopping
from fastfc.training.epoch import Epoch
from fastfc.training.evaluation import all_weights, whole
from fastfc.training.samples import (
    NOTHING,
    Data,
    by_class,
    class_weights_of,
    classes_in,
    is_mean_over_classes,
    split_at,
    weight_sum,
)
from fastfc.training.step import kernel_arguments
from fastfc.training.streaming import StreamDataset, StreamEpoch

if TYPE_CHECKING:
    from fastfc.nn.container import Container
    from fastfc.optim.base import Optimizer

SAMPLED = 1000  # rows that tell whether ranks have the same data
EVALUATOR = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int64)


class Masses(NamedTuple):
    """What the means of losses divide by, for all rows of all ranks.

    Attributes
    ----------
    n : int
        Rows.
    offsets : (ranks + 1,) int64 array
        Where the rows of each rank begin, if each has its own.
    weights : (n,) array
        Of the samples; (0,) if all are 1.
    classes : list of (n,) arrays or None
        For each loss that is a mean over classes, the weights of the samples times those of their classes.
    table : (k, c) array
        Of losses.
    """

    n: int
    offsets: NDArray[np.int64]
    weights: NDArray[Any]
    classes: list[NDArray[np.float64] | None]
    table: NDArray[np.float64]

    def weight_sum(self, rows: Any, n: int | None = None) -> float:
        """What these rows weigh, n of them."""
        n = len(np.arange(self.n)[rows]) if n is None else n
        return weight_sum(self.weights[rows] if self.weights.size else self.weights, n)

    def shared(self, used: Any) -> Masses:
        """With the shares of the losses in these rows, see Data.with_shares."""
        total, table = self.weight_sum(used), self.table.copy()
        for row, of in zip(table, self.classes, strict=True):
            row[LossColumn.SHARE] = 1.0 if of is None or not total else of[used].sum() / total or 1.0
        return self._replace(table=table)

    def divisors(self, rows: Any, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """For a batch of these n rows: what each mean divides by, and how often it counts in an epoch."""
        total = self.weight_sum(rows, n)
        divisors = np.array([total if of is None else of[rows].sum() for of in self.classes])
        counted = divisors / np.where([of is None for of in self.classes], 1.0, self.table[:, LossColumn.SHARE])
        return divisors, np.where(self.table[:, LossColumn.REDUCTION] == loss_table.SUM, 1.0, counted)


def masses_of(data: Data, ranks: Ranks) -> Masses:
    """Of all rows, `data` having the targets and weights of all ranks."""
    offsets = ranks.offsets(len(data.x)) if ranks.local else np.array([0, len(data.x)])
    over_classes = [is_mean_over_classes(data, row) for row in data.losses]
    classes = [
        class_weights_of(data, row)[0] if of else None for row, of in zip(data.losses, over_classes, strict=True)
    ]
    return Masses(int(offsets[-1]), offsets, data.weights, classes, data.losses)


def summed_tables(table: NDArray[np.float64], divisors: NDArray[np.float64], outputs: int) -> NDArray[np.float64]:
    """The losses as sums whose values are parts of the means; of several, first each one alone."""
    table = table.copy()
    for row, divisor in zip(table, divisors, strict=True):
        code = int(row[LossColumn.CODE])
        if row[LossColumn.REDUCTION] == loss_table.MEAN and not code & loss_rules.BY_ROWS:
            columns = (int(row[LossColumn.WIDTH]) or outputs) // int(row[LossColumn.MEMBERS])
            divisor *= columns // 2 if code & loss_rules.VARIANCES else columns
        if row[LossColumn.REDUCTION] != loss_table.SUM:
            row[LossColumn.WEIGHT] = row[LossColumn.WEIGHT] / divisor if divisor else 0.0
            row[LossColumn.REDUCTION] = loss_table.SUM
    if len(table) == 1:
        return table
    alone = [table.copy() for _ in table]
    for i, only in enumerate(alone):
        only[np.arange(len(only)) != i, LossColumn.WEIGHT] = 0.0
    return np.concatenate([*alone, table])


def check_can_be_cut(network: Container, data: Data) -> None:
    """Raise if what a batch gives is not the sum of what its rows give."""
    if data.program.has(program_table.BATCH_NORM):
        raise ValueError(
            f"{network}: BatchNorm1d needs the mean and variance of a whole batch, which comm and shards cut; use "
            "LayerNorm or RMSNorm, or freeze it: net[1].frozen = True"
        )
    if (data.losses[:, LossColumn.CODE] == loss_rules.CUSTOM_ARRAY).any():
        raise ValueError(
            f"{network}: a loss of your own by a function of whole arrays needs whole batches, which comm and shards "
            "cut; give a function of single elements"
        )


def sums_of(first: int, last: int) -> tuple[NDArray[np.int64], int]:
    """Which shards the sums of the tree begin with and how many they are of, (2, sums); how many rows they need."""
    begins, sizes = np.zeros((2, shards.MOST_SUMS), np.int64)
    n, most = shards.sums_of(first, last, begins, sizes)
    return np.array([begins[:n], sizes[:n]]), most


def add_in_tree(layout: NDArray[np.int64], vectors: list[NDArray[Any]]) -> NDArray[Any]:
    """The sum of the sums that the ranks hand over, see kernels/training/shards.py; it overwrites them."""
    begins, sizes = np.zeros((2, len(vectors) + 1), np.int64)
    waiting: list[NDArray[Any]] = []
    with np.errstate(all="ignore"):  # what is not finite shows in the loss
        for (begin, size), vector in zip(layout.T, vectors, strict=True):
            waiting.append(vector)
            n = len(waiting)
            begins[n - 1], sizes[n - 1] = begin, size
            while shards.merges(begins, sizes, n):
                right, n = waiting.pop(), n - 1
                np.add(waiting[-1], right, out=waiting[-1])
                sizes[n - 1] *= 2
        for vector in waiting[1:]:
            np.add(waiting[0], vector, out=waiting[0])
    return waiting[0]


class Batches(NamedTuple):
    """The rows of one update that this rank computes the gradients of, where they lie, and the tables of losses.

    Attributes
    ----------
    x, target, labels, weights, order
        As for `train_steps`.
    bounds : (batches, shards + 1) int64 array
        Where each shard begins in the order, or in the arrays.
    starts : (batches,) int64 array
        Where each batch would begin.
    tables : (batches tables losses, c) array
    counted : (batches, 1 or losses) array
        How often the value of a table counts in an epoch.
    """

    x: NDArray[Any]
    target: NDArray[Any]
    labels: NDArray[np.int64]
    weights: NDArray[Any]
    order: NDArray[np.int64]
    bounds: NDArray[np.int64]
    starts: NDArray[np.int64]
    tables: NDArray[np.float64]
    counted: NDArray[np.float64]


class Sharded(Epoch):
    """What epochs in shards have in common, on arrays in memory and on data that come in parts."""

    ranks: Ranks
    masses: Masses
    records: NDArray[Any]  # our rows, if other ranks have others
    kernels = ()  # of shards: the optimizer decides which
    everything: Batches | None = None  # all samples as one batch, for who takes them so

    def join(self, ranks: Ranks) -> None:
        self.ranks = ranks
        first, last = ranks.shards * ranks.rank // ranks.size, ranks.shards * (ranks.rank + 1) // ranks.size
        self.own = np.arange(first, last + 1)
        shares = [ranks.share(ranks.shards, rank) for rank in range(ranks.size)]
        layouts = [sums_of(share.start, share.stop) for share in shares]
        self.layout = np.concatenate([layout for layout, _ in layouts], axis=1)
        self.n_sums = [layout.shape[1] for layout, _ in layouts]
        self.room = layouts[ranks.rank][1]

    def use(self, data: Data, batch_size: int) -> None:
        self.data, self.batch_size = data, batch_size
        self.program = self.network.program_for(data.x)
        self.arguments = kernel_arguments(
            self.network, self.program, data, self.optimizer, -(-batch_size // self.ranks.shards)
        )
        p = self.network.grads.size
        if getattr(self, "sums", NOTHING).size != self.room * p:
            self.sums = np.zeros((self.room, p), data.x.dtype)

    def calls(self, order: NDArray[np.int64], n: int, total: float = 0.0) -> Iterator[tuple[int, float]]:
        """Train on n samples, update by update, so that all ranks see the same totals at the same time."""
        update = self.batch_size * self.accumulate
        for first in range(0, n, update):
            last = min(n, first + update)
            total = self.call(order, first, last, total)
            yield last, total

    def call(self, order: NDArray[np.int64], first: int, last: int, so_far: float = 0.0) -> float:
        if self.optimizer.full_batch:
            return so_far + Minimiser(self, order).step()
        batches, n_batches = self.batches(order, first, last), -(-(last - first) // self.batch_size)
        values, status, failed = self.gradients(batches)
        if status != OK:
            raise failed
        *_, hyper, segments, vector, grads, state, count, _, counters = self.arguments
        with defer_sigint():
            _, totals, _ = self.reduced(values, batches.counted, self.sums, grads, OK)
            n_threads = threads.prepare_threads(self.network.n_threads, update_kernels.UPDATE_WORK * grads.size)
            rest = self.optimizer.code, 1.0 / n_batches, n_threads, threads.MIN_RANGE_WORK
            update_kernels.update.call(grads, hyper, segments, vector[: grads.size], state, count, *rest)
            counters[1] += n_batches
        return so_far + totals

    def batches(self, order: NDArray[np.int64], first: int, last: int) -> Batches:
        """What this rank has of the samples first, …, last - 1 in an order."""
        ranges = [(start, min(start + self.batch_size, last)) for start in range(first, last, self.batch_size)]
        tables, counted = [], []
        for start, stop in ranges:
            rows = order[start:stop] if order.size else slice(start, stop)
            divisors, counts = self.masses.divisors(rows, stop - start)
            tables.append(summed_tables(self.masses.table, divisors, self.program.outputs))
            counted.append(counts)
        bounds = np.array([start + (stop - start) * self.own // self.ranks.shards for start, stop in ranges])
        starts, losses = np.array([start for start, _ in ranges]), np.concatenate(tables)
        data, numbers = self.data, (losses, np.array(counted))
        if not self.ranks.local:
            return Batches(data.x, data.target, data.labels, data.weights, order, bounds, starts, *numbers)
        return self.fetched(order, ranges)._replace(tables=numbers[0], counted=numbers[1])

    def fetched(self, order: NDArray[np.int64], ranges: Sequence[tuple[int, int]]) -> Batches:
        """The rows of our shards, which other ranks may have."""
        ranks, needed, edges = self.ranks, [], []
        for rank in range(ranks.size):
            share = ranks.share(ranks.shards, rank)
            edges.append([[a + (b - a) * s // ranks.shards for s in (share.start, share.stop)] for a, b in ranges])
            parts = [order[i:j] if order.size else np.arange(i, j) for i, j in edges[-1]]
            needed.append(np.concatenate(parts))
        records = ranks.exchange(self.records, self.masses.offsets, needed)
        bounds, starts, begin = [], [], 0
        for (start, stop), (i, j) in zip(ranges, edges[ranks.rank], strict=True):
            bounds.append(begin + start + (stop - start) * self.own // ranks.shards - i)
            starts.append(begin + start - i)
            begin += j - i
        data, nothing = self.data, np.zeros((0, 0))
        x, target = records["x"], records["target"] if data.target.shape[1] else data.target
        labels, weights = (np.ascontiguousarray(records[name]).reshape(-1) for name in ("labels", "weights"))
        places = NOTHING, np.array(bounds), np.array(starts)
        return Batches(x, target, labels, weights, *places, nothing, nothing)

    def gradients(self, batches: Batches) -> tuple[NDArray[np.float64], int, Any]:
        """Leave the sums of our shards in self.sums; (shards, batches, tables) values, a status and its exception."""
        n_batches, n_shards = len(batches.bounds), len(self.own) - 1
        n_tables = len(batches.tables) // (n_batches * len(self.masses.table))
        values, outcome = np.zeros((n_shards * n_batches, n_tables)), np.zeros(1, np.int64)
        hyper, _, vector, grads, _, count, workspace, counters = self.arguments[6:]
        samples = batches.x, self.program.table, batches.target, batches.labels, batches.weights, batches.tables, hyper
        places = batches.order, batches.bounds, batches.starts
        arrays = *samples, *places, vector, grads, self.sums, values, outcome, count, workspace, counters
        kernel, work = shards.shard_gradients, self.program.work(3 * int(np.diff(batches.bounds).max(initial=0)))
        self.network.run(kernel, work, *arrays, int(self.own[0]))
        failed = None
        if outcome[0] != OK:
            try:
                kernel.failed(int(outcome[0]), *arrays, int(self.own[0]), 1, 1)
            except ValueError as error:
                failed = explained_error(error, self.network)
        shown = values.reshape(n_shards, n_batches, n_tables)
        return shown, int(outcome[0]), failed

    def reduced(
        self, values: NDArray[Any], counted: NDArray[Any], sums: NDArray[Any], out: NDArray[Any], status: int
    ) -> Any:
        """out = the sum over all shards. The loss, its part of an epoch's, and the worst status: if not OK, no sum."""
        n, (first, *_, last) = self.ranks.shards, self.own
        each, numbers = values if values.shape[2] == 1 else values[:, :, :-1], np.zeros(2 * n + 1)
        numbers[0] = status
        numbers[1 + first : 1 + last] = values[:, :, -1].sum(axis=1)
        numbers[1 + n + first : 1 + n + last] = (each * counted).sum(axis=(1, 2))
        everyone = self.ranks.meet(GRADIENT, numbers)
        worst = int(everyone[:, 0].max())
        if worst == OK:
            own = sums[: self.n_sums[self.ranks.rank]]
            self.ranks.reduce(own, self.n_sums, lambda vectors: add_in_tree(self.layout, vectors), out)
        value, total = everyone[:, 1:].sum(axis=0).reshape(2, n).sum(axis=1).tolist()
        return value, total, worst


class ShardedEpoch(Sharded):
    """Epochs on arrays in memory."""

    def __init__(self, ranks: Ranks, network: Container, data: Data, *rest: Any) -> None:
        check_can_be_cut(network, data)
        self.join(ranks)
        super().__init__(network, data, *rest)

    def count(self, data: Data) -> int:
        everyone = whole(data, self.ranks)
        self.masses = masses_of(everyone, self.ranks)
        if self.ranks.local:
            self.records = records_of(data, everyone)
        return self.masses.n

    def weigh(self, data: Data, used: Any) -> Data:
        self.masses = self.masses.shared(used)
        self.weight_sum = self.masses.weight_sum(used)
        if not self.weight_sum and used == slice(None):
            raise ValueError("fit: the weights of all samples for training are 0; give at least one a positive weight")
        return data


class ShardedStreamEpoch(Sharded, StreamEpoch):
    """Epochs on data that come in parts, the same on all ranks."""

    def __init__(self, ranks: Ranks, network: Container, data: StreamDataset, *rest: Any) -> None:
        if ranks.local:
            raise TypeError("fit: rows='local' is for arrays in memory; give each rank an array of its rows")
        check_can_be_cut(network, data.first)
        self.join(ranks)
        super().__init__(network, data, *rest)

    def use(self, data: Data, batch_size: int) -> None:
        self.masses = masses_of(data, self.ranks)
        super().use(data, batch_size)


def records_of(data: Data, everyone: Data) -> NDArray[Any]:
    """x, targets, classes and weights of the own samples, row by row, as they travel; in the form that all have."""
    n, target = len(data.x), data.target if data.target.shape[1] else np.zeros((len(data.x), 0), data.x.dtype)
    labels = data.labels.reshape(n, classes_in(data.losses) if everyone.labels.size else 0)
    weights = all_weights(data)[:, None] if everyone.weights.size else np.zeros((n, 0), data.x.dtype)
    parts = {"x": data.x, "target": target, "labels": labels, "weights": weights}
    fields = [(name, part.dtype, part.shape[1:]) for name, part in parts.items()]
    records = np.zeros(n, np.dtype(fields, align=True))
    for name, part in parts.items():
        records[name] = part
    return records


class Minimiser:
    """A step of L-BFGS or Levenberg–Marquardt, whose kernel asks us for each gradient."""

    def __init__(self, epoch: Sharded, order: NDArray[np.int64]) -> None:
        self.epoch, self.value, self.total = epoch, 0.0, 0.0
        self.error: BaseException | None = None
        self.first: float | None = None  # the total before the step
        # only the masks of dropout depend on the order
        masks = epoch.program.has(program_table.DROPOUT)
        if epoch.everything is None or masks:
            epoch.everything = epoch.batches(order if masks else NOTHING, 0, epoch.n)
        self.batch = epoch.everything

    def step(self) -> float:
        """Part of the epoch's loss, before the step."""
        epoch, data = self.epoch, self.epoch.data
        table, (hyper, segments, vector, grads, state, count, workspace, counters) = (
            epoch.program.table,
            epoch.arguments[6:],
        )
        function = EVALUATOR(self.evaluate)
        address = ctypes.cast(function, ctypes.c_void_p).value
        place = np.array([address, address], np.uintp)
        arrays = (
            data.x,
            table,
            data.labels,
            data.weights,
            self.batch.tables,
            hyper,
            segments,
            vector,
            grads,
            state,
            count,
        )
        try:
            shards.minimise_elsewhere.call(*arrays, workspace, counters, epoch.optimizer.code, place.ctypes.data)
        except ValueError as error:
            if self.error is None:
                raise explained_error(error, epoch.network) from None
        if self.error is not None:
            raise self.error
        counters[1] += 1
        return self.first or 0.0

    def evaluate(self, what: int) -> float:
        """What kernels/training/objective.py asks for: a status or a number. Nothing may be raised here."""
        if what in (objective.VALUE, objective.TOTAL):
            return self.value if what == objective.VALUE else self.total
        try:
            with defer_sigint():
                return float(self.gradient() if what == objective.GRADIENT else self.equations())
        except BaseException as error:
            self.error = error
            return float(BAD_SHAPE)

    def gradient(self) -> int:
        epoch = self.epoch
        values, status, _ = epoch.gradients(self.batch)
        arrays = values, self.batch.counted, epoch.sums, epoch.network.grads
        self.value, self.total, status = epoch.reduced(*arrays, status)
        self.first = self.total if self.first is None else self.first
        return status

    def equations(self) -> int:
        """Jᵀ J and Jᵀ r, into the optimizer's state."""
        epoch, batch, p = self.epoch, self.batch, self.epoch.network.grads.size
        hyper, segments, vector, grads, state, count, workspace, counters = epoch.arguments[6:]
        out, sums = np.zeros(p * p + p, grads.dtype), np.zeros((epoch.room, p * p + p), grads.dtype)
        scratch = np.zeros(levenberg_marquardt.ROWS * epoch.program.outputs * (p + 1), grads.dtype)
        outcome = np.zeros(1, np.int64)
        samples = batch.x, epoch.program.table, batch.target, batch.weights, batch.tables
        arrays = *samples, hyper, segments, batch.bounds[0], vector, grads, sums, scratch, outcome
        shards.shard_equations.call(*arrays, count, workspace, counters, int(epoch.own[0]))
        nothing = np.zeros((len(epoch.own) - 1, 1, 1))
        _, _, status = epoch.reduced(nothing, nothing[:1, :, 0], sums, out, int(outcome[0]))
        flat = state.reshape(-1)
        flat[: p * p], flat[2 * p * p : 2 * p * p + p] = out[: p * p], out[p * p :]
        return status


def settings_of_options(loss: Any, optimizer: Optimizer, options: Any, ranks: Ranks) -> dict[str, str]:
    """What was asked for and must be the same on all ranks, by name and as text."""
    settings = {"the version of fastfc": __version__, "shards": str(ranks.shards)}
    settings |= {"the loss": repr(loss), "the optimizer": repr(optimizer), "steps so far": str(optimizer.count[0])}
    numbers = "epochs", "batch_size", "shuffle", "accumulate", "drop_last"
    settings |= {name: repr(getattr(options, name)) for name in numbers}
    if options.seed is None or isinstance(options.seed, int | np.integer):
        settings["seed"] = repr(options.seed)
    settings["callbacks"] = ", ".join(map(named, options.callbacks)) or "none"
    settings["metrics"] = ", ".join(map(named, options.metrics)) or "none"
    return settings | {"rows": "local" if ranks.local else "same"}


def settings_of_held_out(class_weight: Any, validation_data: Any, validation_split: float) -> dict[str, str]:
    """Whether classes are weighted, and samples held out."""
    return {
        "class_weight": repr(class_weight),
        "validation_data": "none" if validation_data is None else "given",
        "validation_split": repr(validation_split),
    }


def settings_of(network: Container, samples: Any, optimizer: Optimizer, ranks: Ranks) -> dict[str, str]:
    """What is trained, and on which samples; the same on all ranks before the first step."""
    settings = {"the network": f"{network}, {network.dtype}"}
    settings["the digest of what is trained, and how"] = digest(optimizer.prepare(network)[1])
    for name, part in (("the training data", samples.training), ("the validation data", samples.validation)):
        settings[name] = "none" if part is None else described(part.first, part.n, ranks)
    return settings


def named(thing: Any) -> str:
    """A metric or a callback as text, without addresses of memory."""
    if isinstance(thing, str | EarlyStopping):
        return str(thing)
    return str(getattr(thing, "__name__", type(thing).__name__))


def described(data: Data, n: int | None, ranks: Ranks) -> str:
    """The shapes of samples and, if they are to be the same, a digest of some of them."""
    arrays = data.x, data.target, data.labels, data.weights
    if ranks.local:
        return f"rows of {data.x.shape[1:]} and {data.target.shape[1:]} {data.x.dtype}"
    shapes = ", ".join(f"{array.shape} {array.dtype}" for array in arrays)
    sampled = digest(*(array[:: max(1, len(array) // SAMPLED)] for array in arrays))
    return f"{n} rows, arrays of {shapes} with the digest {sampled}"


def take_from_main(network: Container, optimizer: Optimizer, rng: np.random.Generator, ranks: Ranks) -> None:
    """Begin with what rank 0 has: parameters, buffers, seeds of dropout, the optimizer's memory, order of samples."""
    optimizer.prepare(network)
    dropouts = [layer for layer in every_layer(network) if isinstance(layer, Dropout)]
    own: dict[str, Any] = {
        "arrays": [network.params, network.buffers, optimizer.state, optimizer.count, optimizer.hyper],
        "seeds": [layer.seed for layer in dropouts],
        "rng_step": network.rng_step,
        "generator": rng.bit_generator.state,
    }
    main = ranks.of_main(own)
    if ranks.main:
        return
    for array, values in zip(own["arrays"], main["arrays"], strict=True):
        array[...] = values
    for layer, seed in zip(dropouts, main["seeds"], strict=True):
        if layer.seed != seed:
            layer.restore_seed(seed)
    network.rng_step, rng.bit_generator.state = main["rng_step"], main["generator"]


def every_layer(layer: Layer) -> Iterator[Layer]:
    """A layer and all that are part of it."""
    yield layer
    for part in layer.parts():
        if part is not layer:
            yield from every_layer(part)


def split(data: Any, fraction: float, ranks: Ranks | None) -> tuple[Any, Any]:
    """`Data.split`; of rows of its own, each rank has those that it gives of both parts of all rows."""
    if ranks is None or not ranks.local or not isinstance(data, Data):
        return data.split(fraction)
    offsets = ranks.offsets(len(data.x))
    own = int(np.clip(split_at(int(offsets[-1]), fraction) - offsets[ranks.rank], 0, len(data.x)))
    return data.rows(slice(0, own)), data.rows(slice(own, len(data.x)), own)


def balanced(y: Any, loss: Any, ranks: Ranks) -> dict[Any, float]:
    """The weights of balanced classes, by the rows of all ranks."""
    everyone = ranks.gather(np.asarray(y))
    weights = np.asarray(by_class("balanced", everyone, None, loss))
    names, places = np.unique(everyone, return_index=True)
    return dict(zip(names.tolist(), weights[places].tolist(), strict=True))


def agree_on_epoch(ranks: Ranks, params: Sequence[Any], hypers: Sequence[Any], stopped: bool) -> bool:
    """Whether a rank has stopped; an error if parameters or options of optimizers are not the same on all."""
    if ranks.size == 1:
        return stopped
    digests = [float(int(digest(*arrays), 16)) for arrays in (params, hypers)]
    everyone = ranks.meet(EPOCH, [float(stopped), *digests])
    for i, what in enumerate(("parameters", "options of the optimizer"), 1):
        other = (everyone[:, i] != everyone[0, i]).nonzero()[0]
        if len(other):
            text = (
                f"fit: the {what} of rank {other[0]} are no longer those of rank 0; callbacks must change the same on "
                "all ranks, and only files and output are for run.main alone"
            )
            raise known_to_all(RuntimeError(text))
    return bool(everyone[:, 0].any())
