"""Training on data that come in parts, see streams.py: what `fit` and `evaluate` do with arrays in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfc.data.streams import Batches, Blocks, prefetch, tree_map
from fastfc.kernels.ops import loss_rules, losses
from fastfc.losses.base import Loss
from fastfc.training.epoch import ADVICE, DivergenceWarning, Epoch, check_last_batch
from fastfc.training.samples import (
    NOTHING,
    Data,
    as_data,
    by_class,
    check_finite,
    check_values,
    class_weight_sum,
    refuse_not_finite,
    split_at,
    weight_sum_of,
)

if TYPE_CHECKING:
    from fastfc.nn.container import Container
    from fastfc.optim.base import Optimizer


class StreamDataset:
    """Samples that come in parts, checked and converted as they come."""

    def __init__(self, network: Container, source: Blocks | Batches, loss: Loss, class_weight: Any = None) -> None:
        self.network, self.source, self.loss = network, source, loss
        self.class_weight = self._counted(class_weight) if isinstance(class_weight, str) else class_weight
        self.first = self.data(source.head(), 0, None)

    @property
    def n(self) -> int | None:
        """How many samples there are, if that is known."""
        return self.source.n

    def _counted(self, class_weight: str) -> Any:
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
        x, y, weights = samples
        try:
            data = as_data(self.network, x, y, self.loss, by_class(self.class_weight, y, weights, self.loss))
            check_values(self.network, data, self.loss)
        except (TypeError, ValueError) as error:
            if rows is None and isinstance(self.source, Batches):
                raise type(error)(f"batch {i}: {error}") from None
            raise
        return data

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

    def place_of(self, i: int, row: int) -> str:
        """Where a row of part i, read in order, is in what was given."""
        if isinstance(self.source, Batches):
            return f"row {row} of batch {i}"
        return f"row {self.source.first + i * self.source.block + row}"

    def checked(self, told: str) -> Iterator[Data]:
        """All parts in order; for `fit`, of finite numbers, where `evaluate` takes infinity if the loss is finite."""
        for i, samples in enumerate(self.source.in_order()):
            data = self.data(samples, i, None)
            if self.source.owner == "fit":
                check_finite(self.network, data, told, partial(self.place_of, i))
            yield data

    def evaluation(self, scores: Sequence[tuple[str, Any]], told: str) -> dict[str, float]:
        """The loss and the metrics of a prediction, of which metrics need all outputs and targets in memory."""
        totals: Any = 0.0
        weight_sums: Any = 0.0
        kept = []
        with closing(prefetch(self.checked(told), self.source.together)) as reading:
            for i, data in enumerate(reading):
                output = self.network._output(data.x)
                weight_sum, values = weight_sums_of(data), means(data, output)
                if not np.isfinite(values).all() or (scores and not np.isfinite(output).all()):
                    refuse_not_finite(data, told, partial(self.place_of, i))
                totals, weight_sums = totals + values * weight_sum, weight_sums + weight_sum
                if scores:
                    kept.append((self.network._split_output(output), data.y, weights_of(data)))
        summed = data.losses[:, loss_rules.REDUCTION] == loss_rules.SUM
        weighted = bool((weight_sums > 0).all())
        if not weighted and not summed.all():
            totals, weight_sums = np.where(weight_sums > 0, totals, 0.0), np.where(weight_sums > 0, weight_sums, 1.0)
        found = {"loss": float(np.where(summed, totals, totals / weight_sums).sum())}
        if scores:
            predicted, y, weights = tree_map(lambda *arrays: np.concatenate(arrays), *kept)
            weights = None if (weights == 1).all() or weights.min() < 0 else weights
            found |= {name: score(y, predicted, weights) for name, score in scores}
        return found


def weights_of(data: Data) -> NDArray[Any]:
    return data.weights if data.weights.size else np.ones(len(data.x), data.x.dtype)


def weight_sums_of(data: Data) -> NDArray[np.float64]:
    """What the mean of each loss divides by; 1 for sums."""
    weight_sums = np.full(len(data.losses), data.weight_sum)
    for r, row in enumerate(data.losses):
        if row[loss_rules.REDUCTION] == loss_rules.SUM:
            weight_sums[r] = 1.0
        elif is_mean_over_classes(data, row):
            weight_sums[r] = class_weight_sum(data, row)
    return weight_sums


def is_mean_over_classes(data: Data, row: NDArray[np.float64]) -> bool:
    """Whether a loss divides by the weights of the classes that count."""
    over_classes = (
        row[loss_rules.CODE] in (loss_rules.CROSS_ENTROPY, loss_rules.NLL)
        and row[loss_rules.REDUCTION] == loss_rules.MEAN
    )
    return over_classes and data.labels.size > 0 and bool(row[loss_rules.CLASSES])


def means(data: Data, output: NDArray[Any]) -> NDArray[np.float64]:
    """The value of each loss of the table."""
    found, gradient = np.zeros(len(data.losses)), np.empty_like(output)
    for r in range(len(found)):
        only = data.losses.copy()
        only[np.arange(len(only)) != r, loss_rules.WEIGHT] = 0.0
        arrays = output, data.target, data.labels, data.weights, only, output[:0, 0], gradient
        found[r] = losses.loss.call(*arrays)
    return found


class Ready(NamedTuple):
    """A part as the native functions take it, and its number."""

    data: Data
    order: NDArray[np.int64]  # of the samples that are used, if they are not the first ones
    n: int
    batch: int
    weight_sum: float  # of the samples that are used
    counted: float  # what the mean of the losses divides by
    rows: NDArray[np.int64] | None
    number: int


class StreamEpoch(Epoch):
    """Epochs on data that come in parts: while one is trained on, a thread reads the next."""

    def __init__(
        self, network: Container, data: StreamDataset, optimizer: Optimizer, batch_size: int, accumulate: int
    ) -> None:
        self.streamed, self.source = data, data.source
        self.n: Any = self.source.n
        if optimizer.full_batch:
            raise TypeError(f"fit: {optimizer} takes all samples at once; give arrays in memory, or another optimizer")
        self.wanted = first = batch_size  # of arrays; batches have their own
        steps: int | None
        if isinstance(self.source, Blocks):
            check_last_batch(network, data.first, self.source.n, min(batch_size, self.source.n))
            steps = -(-self.source.n // (batch_size * accumulate))
        else:
            first, batches = len(data.first.x), self.source.n_batches
            steps = batches and -(-batches // accumulate)
        if steps:
            optimizer.steps_per_epoch = steps
        self.begin(network, data.first, optimizer, first, accumulate)

    def order(self, rng: np.random.Generator) -> Any:
        """The generator of this epoch's orders; the thread that reads has it for itself."""
        return np.random.default_rng(rng.integers(2**63, size=4))

    def ready(self, order: Any) -> Iterator[Ready]:
        rng = order if isinstance(order, np.random.Generator) else None
        for number, part in enumerate(self.source.parts(rng, self.wanted, self.accumulate)):
            data = self.streamed.data(part.samples, number, part.rows)
            n = len(data.x) if part.n is None else part.n
            batch = min(part.batch or n, n)
            if part.rows is None:
                check_last_batch(self.network, data, n, batch)
            used = slice(n) if part.order is None else part.order
            weight_sum = weight_sum_of(data.weights[used] if data.weights.size else data.weights, n)
            row, divisor = data.losses[0], weight_sum
            if len(data.losses) == 1 and is_mean_over_classes(data, row):
                divisor = class_weight_sum(data, row, used)
            else:
                data = data.shared()
            yield Ready(
                data, NOTHING if part.order is None else part.order, n, batch, weight_sum, divisor, part.rows, number
            )

    def run(self, order: Any) -> Iterator[tuple[int, float]]:
        """One epoch; after each call the number of samples done and their mean loss."""
        seen, total, weight_sum, counted = 0, 0.0, 0.0, 0.0
        with closing(prefetch(self.ready(order), self.source.together)) as parts:
            for ready in parts:
                self.data, self.batch_size = ready.data, ready.batch
                self._look_again()
                for done, so_far in self.calls(ready.order, ready.n, total):
                    total = so_far
                    if not math.isfinite(total):
                        raise self.gone_wrong(ready)
                    below = counted + ready.counted * done / ready.n
                    yield seen + done, total / below if below else 0.0
                seen, weight_sum, counted = seen + ready.n, weight_sum + ready.weight_sum, counted + ready.counted
                if self.went_out():
                    raise self.gone_wrong(ready)
        if not weight_sum:
            raise ValueError("fit: the weights of all samples for training are 0; give at least one a positive one")
        self.n = seen

    def gone_wrong(self, ready: Ready) -> Exception:
        """What is told where a loss or a parameter is not finite."""
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
