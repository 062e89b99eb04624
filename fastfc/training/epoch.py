"""Epochs on arrays in memory, each in as few native calls as Ctrl-C allows."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastfc.kernels.program import table as program_table
from fastfc.kernels.runtime.cache import defer_sigint
from fastfc.kernels.training import step as step_kernels
from fastfc.nn.lowering import Program
from fastfc.optim.base import Optimizer
from fastfc.training.samples import Data, refuse_not_finite
from fastfc.training.step import kernel_arguments, load_for

if TYPE_CHECKING:
    from fastfc.nn.container import Container

# What a native call may take while Ctrl-C waits for it, at the speed of the latest one.
CALL_SECONDS = 0.05

ADVICE = "Use a smaller lr, clip_norm=1.0 in the optimizer, or features of mean 0 and spread 1"


class DivergenceWarning(RuntimeWarning):
    """A training whose loss or parameters became infinite or not a number, see `fit`.

    Examples
    --------
    >>> import warnings, fastfc as fc
    >>> net, data = fc.MLP([1, 1], init="zeros"), ([[1.0]], [[2.0]])
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", fc.DivergenceWarning)
    ...     try:
    ...         net.fit(*data, loss=fc.MSELoss(), optimizer=fc.SGD(lr=1e30), epochs=9)
    ...     except fc.DivergenceWarning as warning:
    ...         print(str(warning).partition(";")[0])
    fit stopped: in update 1 of epoch 2 the loss became inf
    >>> net.params
    array([4.e+30, 4.e+30], dtype=float32)
    """


class Epoch:
    """Epochs on some data, each in as few native calls as Ctrl-C allows, which Python answers between calls."""

    kernels: tuple[Any, ...] = (step_kernels.train_steps,)

    def __init__(
        self,
        network: Container,
        data: Data,
        optimizer: Optimizer,
        batch_size: int,
        accumulate: int,
        drop_last: bool = False,
    ) -> None:
        self.n_samples = self.count(data)
        planned = plan_batches(network, data.program, self.n_samples, optimizer, (batch_size, accumulate), drop_last)
        self.n, batch_size, accumulate = planned
        self.begin(network, self.weigh(data, slice(None)), optimizer, batch_size, accumulate)

    def count(self, data: Data) -> int:
        """How many samples there are."""
        return data.n

    def weigh(self, data: Data, used: Any) -> Data:
        """Note what the samples that are used weigh; the data with their shares of the losses."""
        self.weight_sum = data.weight_sum_of(used)
        return data.with_shares(used)

    def begin(self, network: Container, data: Data, optimizer: Optimizer, batch_size: int, accumulate: int) -> None:
        self.network, self.optimizer, self.accumulate = network, optimizer, accumulate
        load_for(data, optimizer, *self.kernels)
        self.use(data, batch_size)
        seconds = 6e-9 * self.batch_size * self.accumulate * (self.program.multiplications + 1)
        self.updates = max(1, int(CALL_SECONDS / seconds))  # in the next call

    def use(self, data: Data, batch_size: int) -> None:
        """Train on this data from now on; a callback may have frozen a layer, or changed the optimizer's options."""
        self.data, self.batch_size = data, batch_size
        self.program = self.network.program_for(data.x)
        self.arguments = kernel_arguments(self.network, self.program, data, self.optimizer, batch_size)

    def order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        return rng.permutation(self.n_samples)

    def run(self, order: NDArray[np.int64]) -> Iterator[tuple[int, float]]:
        """One epoch; after each call the number of samples done and their mean loss."""
        if self.n < self.n_samples:  # what is dropped does not count
            used = order[: self.n] if order.size else slice(self.n)
            self.use(self.weigh(self.data, used), self.batch_size)
        for done, total in self.calls(order, self.n):
            if not math.isfinite(total):
                raise self.diverged(order)
            yield done, total / (self.weight_sum * done / self.n) if self.weight_sum else 0.0
        if self.went_out():
            raise self.diverged(order)  # in the last update, which no loss has shown

    def went_out(self) -> bool:
        """Whether parameters or buffers became infinite or NaN."""
        return not self.network.is_finite() and all(np.isfinite(before).all() for _, before in self.saved[:2])

    def calls(self, order: NDArray[np.int64], n: int, total: float = 0.0) -> Iterator[tuple[int, float]]:
        """Train on n samples; after each call how many are done, and the total with their losses.

        The losses are added in one sum, so its bits do not depend on the number of calls, which depends on time.
        """
        update, done = self.batch_size * self.accumulate, 0
        while done < n:
            last, start = min(n, done + self.updates * update), time.perf_counter()
            total = self.call(order, done, last, total)
            seconds = (time.perf_counter() - start) * update / (last - done)
            self.updates = max(1, int(CALL_SECONDS / seconds))
            done = last
            yield done, total

    def call(self, order: NDArray[np.int64], first: int, last: int, so_far: float = 0.0) -> float:
        rest = order, first, last, self.batch_size, self.accumulate, self.optimizer.code, so_far
        return self.network.run(
            step_kernels.train_steps, self.program.work(3 * self.batch_size), *self.arguments, *rest
        )

    def save(self, rng: np.random.Generator) -> None:
        """Keep what an epoch changes, as it is before it, with the generator of its order."""
        self.use(self.data, self.batch_size)
        network, optimizer = self.network, self.optimizer
        arrays = network.params, network.buffers, optimizer.state, optimizer.count, self.arguments[-1]
        self.saved = [(array, array.copy()) for array in arrays]
        self.rng, self.rng_state = rng, rng.bit_generator.state

    def restore(self) -> None:
        """Undo the epoch."""
        with defer_sigint():
            for array, copy in self.saved:
                array[...] = copy
            self.rng.bit_generator.state = self.rng_state

    def diverged(self, order: NDArray[np.int64]) -> Exception:
        """The exception that names the update and the largest layer: the epoch is repeated up to that update."""
        refuse_not_finite(self.data, "fit: {}")
        self.restore()
        update, value = self.batch_size * self.accumulate, 0.0
        for first in range(0, self.n, update):
            layers = [(float(np.abs(p).max()), name) for name, p, _ in self.network.named_parameters() if p.size]
            value = self.call(order, first, min(first + update, self.n))
            if not (math.isfinite(value) and self.network.is_finite()):
                break
        seen = f"the loss became {value}" if not math.isfinite(value) else "parameters became infinite or NaN"
        epoch, (largest, name) = self.optimizer.epochs + 1, max(layers, default=(0.0, "none"))
        return DivergenceWarning(
            f"fit stopped: in update {first // update + 1} of epoch {epoch} {seen}; the largest parameter was "
            f"{largest:.2g}, in {name}. The network is that of the end of epoch {epoch - 1}. {ADVICE}"
        )


def used_samples(n: int, batch_size: int, drop_last: bool) -> int:
    """How many of n samples an epoch takes."""
    if not drop_last:
        return n
    if n < batch_size:
        raise ValueError(
            f"fit: drop_last=True leaves no batch of batch_size={batch_size}, there are {n} samples; choose a smaller "
            "batch_size"
        )
    return n - n % batch_size


def plan_batches(
    network: Container, program: Program, n: int, optimizer: Optimizer, sizes: tuple[int, int], drop_last: bool
) -> tuple[int, int, int]:
    """Samples of an epoch and of a batch, and batches of an update, of n samples and the two sizes that are wanted.

    The optimizer knows the updates of an epoch then.
    """
    batch_size, accumulate = sizes
    if optimizer.full_batch:
        batch_size = n
    n = used_samples(n, batch_size, drop_last)
    batch_size = min(batch_size, n)
    check_last_batch(network, program, n, batch_size)
    accumulate = min(accumulate, -(-n // batch_size))
    optimizer.steps_per_epoch = -(-n // (batch_size * accumulate))
    return n, batch_size, accumulate


def check_last_batch(network: Container, program: Program, n: int, batch_size: int) -> None:
    """Raise if a batch would be too small."""
    if (n % batch_size or batch_size) == 1 and program.has(program_table.BATCH_NORM):
        raise ValueError(
            f"{network}: {n} samples in batches of {batch_size} leave one alone, and BatchNorm1d "
            f"needs two for their variance; choose another batch_size"
        )
