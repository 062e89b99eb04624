"""Training on data that come in parts, see data/streams.py: what `fit` and `evaluate` do with arrays in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfc.data.streams import Batches, Blocks, Part, Partitions, prefetch, tree_map
from fastfc.kernels.ops import loss_table, losses
from fastfc.kernels.ops.loss_table import LossColumn
from fastfc.losses.base import Loss
from fastfc.training.epoch import ADVICE, DivergenceWarning, Epoch, check_last_batch, used_samples
from fastfc.training.samples import (
    NOTHING,
    Data,
    by_class,
    check_finite,
    class_weight_sum,
    is_mean_over_classes,
    prepare,
    refuse_not_finite,
    split_at,
    weight_sum,
)

if TYPE_CHECKING:
    from fastfc.nn.container import Container
    from fastfc.optim.base import Optimizer


class StreamDataset:
    """Samples that come in parts, each of which is prepared as it comes.

    Attributes
    ----------
    first : Data
        The first batch, or of arrays on disk the first sample: to see, before the first step, whether it fits.
    """

    def __init__(self, network: Container, source: Blocks | Batches, loss: Loss, class_weight: Any = None) -> None:
        self.network, self.source, self.loss = network, source, loss
        self.class_weight = self._balanced(class_weight) if isinstance(class_weight, str) else class_weight
        head = source.head()
        self.first = self._prepared(head, 0, None)
        # the first batch comes again in the first epoch, when it is prepared already
        self._waiting: tuple[Any, Data] | None = (head, self.first) if isinstance(source, Batches) else None

    @property
    def n(self) -> int | None:
        """The number of samples, if it is known."""
        return self.source.n

    def _balanced(self, class_weight: str) -> Any:
        """The weights of balanced classes, from all targets."""
        if isinstance(self.source, Batches):
            raise ValueError(
                "fit: class_weight='balanced' needs all targets before the first batch; give weights by class, such as "
                "class_weight={0: 1.0, 1: 2.0}"
            )
        y = np.concatenate([samples[1] for samples in self.source.targets().in_order()])
        weights = by_class(class_weight, y, None, self.loss)
        names, places = np.unique(y, return_index=True)
        return dict(zip(names.tolist(), np.asarray(weights)[places].tolist(), strict=True))

    def data(self, samples: Any, i: int, rows: NDArray[np.int64] | None) -> Data:
        """Part i, prepared; rows say which samples it has, if they are not batch i."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and waiting[0] is samples:
            return waiting[1]
        return self._prepared(samples, i, rows)

    def _prepared(self, samples: Any, i: int, rows: NDArray[np.int64] | None) -> Data:
        x, y, weights = samples
        try:
            return prepare(self.network, x, y, self.loss, weights, self.class_weight)
        except (TypeError, ValueError) as error:
            if rows is None:
                raise self.source.named(error, i) from None
            raise

    def part(self, first: int, last: int) -> StreamDataset:
        """These rows only, of arrays on disk."""
        assert isinstance(self.source, Blocks)
        return StreamDataset(self.network, self.source.part(first, last), self.loss, self.class_weight)

    def check_epochs(self, epochs: int, why: str) -> None:
        self.source.check_epochs(epochs, why)

    def split(self, fraction: float) -> tuple[StreamDataset, StreamDataset]:
        if isinstance(self.source, Batches):
            raise ValueError("fit: validation_split is for arrays; with batches give validation_data")
        middle = split_at(self.source.n, fraction)
        return self.part(0, middle), self.part(middle, self.source.n)

    def name_row(self, i: int, row: int) -> str:
        """What an error calls a row of part i, read in order."""
        if isinstance(self.source, Batches):
            return f"row {row} of batch {i}"
        return f"row {self.source.first + i * self.source.block + row}"

    def checked(self, what: str) -> Iterator[Data]:
        """All parts in order; for `fit`, of finite numbers, where `evaluate` takes infinity if the loss is finite."""
        for i, samples in enumerate(self.source.in_order()):
            data = self.data(samples, i, None)
            if self.source.owner == "fit":
                check_finite(data, what, partial(self.name_row, i))
            yield data

    def evaluation(self, scores: Sequence[tuple[str, Any]], what: str) -> dict[str, float]:
        """The loss and the metrics of a prediction; metrics need all outputs and targets in memory."""
        totals: Any = 0.0
        divisors: Any = 0.0
        saved = []
        with closing(prefetch(self.checked(what), self.source.together)) as parts:
            for i, data in enumerate(parts):
                output = self.network.output(data.x)
                divisor, values = divisors_of(data), means(data, output)
                if not np.isfinite(values).all() or (scores and not np.isfinite(output).all()):
                    refuse_not_finite(data, what, partial(self.name_row, i))
                totals, divisors = totals + values * divisor, divisors + divisor
                if scores:
                    saved.append((self.network.split_output(output), data.y, weights_of(data)))
        row = {"loss": mean_of_parts(totals, divisors, data.losses[:, LossColumn.REDUCTION] == loss_table.SUM)}
        if scores:
            predicted, y, weights = tree_map(lambda *arrays: np.concatenate(arrays), *saved)
            weights = None if (weights == 1).all() or weights.min() < 0 else weights
            row |= {name: score(y, predicted, weights) for name, score in scores}
        return row


def mean_of_parts(totals: NDArray[np.float64], divisors: NDArray[np.float64], sums: NDArray[np.bool_]) -> float:
    """The sum of the losses of all parts, of which some are sums and others means."""
    if not (divisors > 0).all() and not sums.all():
        totals, divisors = np.where(divisors > 0, totals, 0.0), np.where(divisors > 0, divisors, 1.0)
    return float(np.where(sums, totals, totals / divisors).sum())


def weights_of(data: Data) -> NDArray[Any]:
    return data.weights if data.weights.size else np.ones(len(data.x), data.x.dtype)


def divisors_of(data: Data) -> NDArray[np.float64]:
    """What the mean of each loss divides by; 1 for sums."""
    divisors = np.full(len(data.losses), data.weight_sum)
    for r, row in enumerate(data.losses):
        if row[LossColumn.REDUCTION] == loss_table.SUM:
            divisors[r] = 1.0
        elif is_mean_over_classes(data, row):
            divisors[r] = class_weight_sum(data, row)
    return divisors


def means(data: Data, output: NDArray[Any]) -> NDArray[np.float64]:
    """The value of each loss of the table."""
    values, gradient = np.zeros(len(data.losses)), np.empty_like(output)
    for r in range(len(values)):
        only = data.losses.copy()
        only[np.arange(len(only)) != r, LossColumn.WEIGHT] = 0.0
        arrays = output, data.target, data.labels, data.weights, only, output[:0, 0], gradient
        values[r] = losses.loss.call(*arrays)
    return values


class ReadyPart(NamedTuple):
    """A part as the native functions take it, and its number.

    Attributes
    ----------
    order : (n,) int64 array
        Of the samples that are used; empty for the first n.
    n, batch : int
        How many samples are used, in batches of this size.
    weight_sum : float
        Of the samples that are used.
    divisor : float
        What the mean of the losses divides by.
    rows : (n,) int64 array, or None
        Which samples of the whole these are.
    """

    data: Data
    order: NDArray[np.int64]
    n: int
    batch: int
    weight_sum: float
    divisor: float
    rows: NDArray[np.int64] | None
    number: int


class StreamEpoch(Epoch):
    """Epochs on data that come in parts: while one is trained on, a thread reads the next."""

    def __init__(
        self,
        network: Container,
        data: StreamDataset,
        optimizer: Optimizer,
        batch_size: int,
        accumulate: int,
        drop_last: bool = False,
    ) -> None:
        self.streamed, self.source, self.drop_last = data, data.source, drop_last
        self.n: Any = self.source.n
        if optimizer.full_batch:
            raise TypeError(f"fit: {optimizer} takes all samples at once; give arrays in memory, or another optimizer")
        self.array_batch = first = batch_size  # of arrays; batches have their own sizes
        steps: int | None
        if isinstance(self.source, Blocks):
            self.n = used_samples(self.source.n, batch_size, drop_last)
            check_last_batch(network, data.first.program, self.n, min(batch_size, self.n))
            steps = -(-self.n // (batch_size * accumulate))
        else:
            if drop_last:
                raise ValueError("fit: drop_last is for arrays; leave the last batch out of the iterable of batches")
            first, batches = len(data.first.x), self.source.n_batches
            if isinstance(self.source, Partitions):
                first, batches = min(batch_size, first), None
            steps = batches and -(-batches // accumulate)
        if steps:
            optimizer.steps_per_epoch = steps
        self.begin(network, data.first, optimizer, first, accumulate)

    def order(self, rng: np.random.Generator) -> Any:
        """The generator of this epoch's orders; the thread that reads has it for itself."""
        return np.random.default_rng(rng.integers(2**63, size=4))

    def ready(self, order: Any) -> Iterator[ReadyPart]:
        rng = order if isinstance(order, np.random.Generator) else None
        for number, part in enumerate(self.source.parts(rng, self.array_batch, self.accumulate, self.drop_last)):
            yield self.ready_part(self.streamed.data(part.samples, number, part.rows), part, number)

    def ready_part(self, data: Data, part: Part, number: int) -> ReadyPart:
        """A prepared part with the sums of its weights."""
        n = len(data.x) if part.n is None else part.n
        batch = min(part.batch or n, n)
        if part.rows is None:
            check_last_batch(self.network, data.program, n, batch)
        used = slice(n) if part.order is None else part.order
        total = weight_sum(data.weights[used] if data.weights.size else data.weights, n)
        row, divisor = data.losses[0], total
        if len(data.losses) == 1 and is_mean_over_classes(data, row):
            divisor = class_weight_sum(data, row, used)
        else:
            data = data.with_shares(used)
        order = NOTHING if part.order is None else part.order
        return ReadyPart(data, order, n, batch, total, divisor, part.rows, number)

    def run(self, order: Any) -> Iterator[tuple[int, float]]:
        """One epoch; after each call the number of samples done and their mean loss."""
        seen, total, weights, divisors = 0, 0.0, 0.0, 0.0
        with closing(prefetch(self.ready(order), self.source.together)) as parts:
            for part in parts:
                self.use(part.data, part.batch)
                for done, so_far in self.calls(part.order, part.n, total):
                    total = so_far
                    if not math.isfinite(total):
                        raise self.gone_wrong(part)
                    divisor = divisors + part.divisor * done / part.n
                    yield seen + done, total / divisor if divisor else 0.0
                seen, weights, divisors = seen + part.n, weights + part.weight_sum, divisors + part.divisor
                if self.went_out():
                    raise self.gone_wrong(part)
        if not weights:
            raise ValueError("fit: the weights of all samples for training are 0; give at least one a positive one")
        self.n = seen

    def gone_wrong(self, ready: ReadyPart) -> Exception:
        """The exception for a loss or a parameter that is not finite."""
        rows, number = ready.rows, ready.number
        refuse_not_finite(
            ready.data, "fit: {}", lambda row: f"row {row} of batch {number}" if rows is None else f"row {rows[row]}"
        )
        wrong_layers = [name for name, p, _ in self.network.named_parameters() if not np.isfinite(p).all()]
        sizes = [(float(np.abs(p).max()), name) for name, p, _ in self.network.named_parameters() if p.size]
        seen = f"{wrong_layers[0]} became infinite or NaN" if wrong_layers else "the loss became infinite or NaN"
        largest = "" if wrong_layers else "; the largest parameter was {:.2g}, in {}".format(*max(sizes))
        epoch = self.optimizer.epochs + 1
        part = "batch" if ready.rows is None else "window"
        return DivergenceWarning(
            f"fit stopped: in {part} {ready.number} of epoch {epoch} {seen}{largest}. "
            f"The network is that of the end of epoch {epoch - 1}. {ADVICE}"
        )
