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


def arguments(
    network: Container, program: Program, data: Data, optimizer: Optimizer, batch_size: int
) -> tuple[Any, ...]:
    """What the native functions take for training on this data in batches of this size."""
    vector, grads = network._vectors(data.x.dtype)
    state, segments = optimizer.prepare(network)
    space = network._space_for(program, batch_size, data.x.dtype)
    network._saved = None  # the space is used anew
    given = data.x, program.table, data.target, data.labels, data.weights, data.losses
    return *given, optimizer.hyper, segments, vector, grads, state, optimizer.count, space, network._tape


class Epoch:
    """Epochs on some data, each in as few native calls as Ctrl-C allows, which Python answers between calls."""

    def __init__(self, network: Container, data: Data, optimizer: Optimizer, batch_size: int, accumulate: int) -> None:
        self.n, self.weight_sum = data.n, data.weight_sum
        n = self.n
        batch_size = n if optimizer.full_batch else min(batch_size, n)
        check_last_batch(network, data, n, batch_size)
        accumulate = min(accumulate, -(-n // batch_size))
        optimizer.steps_per_epoch = -(-n // (batch_size * accumulate))
        self.begin(network, data.shared(), optimizer, batch_size, accumulate)

    def begin(self, network: Container, data: Data, optimizer: Optimizer, batch_size: int, accumulate: int) -> None:
        self.network, self.data, self.optimizer = network, data, optimizer
        self.batch_size, self.accumulate = batch_size, accumulate
        self._look_again()
        seconds = 6e-9 * self.batch_size * self.accumulate * (self.program.multiplications + 1)
        self.updates = max(1, int(CALL_SECONDS / seconds))  # in the next call

    def _look_again(self) -> None:
        """A callback may have frozen a layer or given the optimizer another schedule."""
        network, optimizer = self.network, self.optimizer
        self.program = network._program_for(self.data.x)
        self.given = arguments(network, self.program, self.data, optimizer, self.batch_size)

    def order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        return rng.permutation(self.n)

    def run(self, order: NDArray[np.int64]) -> Iterator[tuple[int, float]]:
        """One epoch; after each call the number of samples done and their mean loss."""
        for done, total in self.calls(order, self.n):
            if not math.isfinite(total):
                raise self.diverged(order)
            yield done, total / (self.weight_sum * done / self.n)
        if self.went_out():
            raise self.diverged(order)  # in the last update, which no loss has shown

    def went_out(self) -> bool:
        """Whether parameters or buffers became infinite or NaN."""
        return not self.network._is_finite() and all(np.isfinite(before).all() for _, before in self.saved[:2])

    def calls(self, order: NDArray[np.int64], n: int, total: float = 0.0) -> Iterator[tuple[int, float]]:
        """Train on n samples; after each call how many are done, and the total with their losses.

        It is one sum, whose bits do not depend on how many calls there are, which is a matter of time.
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
        return self.network._call(step_kernels.train_steps, self.program.largest * self.batch_size, *self.given, *rest)

    def save(self, rng: np.random.Generator) -> None:
        """Keep what an epoch changes, as it is before it, with the generator of its order."""
        self._look_again()
        network, optimizer = self.network, self.optimizer
        values = network.params, network.buffers
        arrays: tuple[Any, ...] = *values, optimizer.state, optimizer.count, network._tape
        self.saved = [(array, array.copy()) for array in arrays]
        self.rng, self.rng_state = rng, rng.bit_generator.state

    def restore(self) -> None:
        """Undo the epoch."""
        with defer_sigint():
            for array, copy in self.saved:
                array[...] = copy
            self.rng.bit_generator.state = self.rng_state

    def diverged(self, order: NDArray[np.int64]) -> Exception:
        """What went wrong in which update, and which layer was the largest: the epoch once more until there."""
        refuse_not_finite(self.data, "fit: {}")
        self.restore()
        update, value = self.batch_size * self.accumulate, 0.0
        for first in range(0, len(self.data.x), update):
            layers = [(float(np.abs(p).max()), name) for name, p, _ in self.network.named_parameters() if p.size]
            value = self.call(order, first, min(first + update, len(self.data.x)))
            if not (math.isfinite(value) and self.network._is_finite()):
                break
        seen = f"the loss became {value}" if not math.isfinite(value) else "parameters became infinite or NaN"
        epoch, (largest, name) = self.optimizer.epochs + 1, max(layers, default=(0.0, "none"))
        return DivergenceWarning(
            f"fit stopped: in update {first // update + 1} of epoch {epoch} {seen}; the largest parameter was "
            f"{largest:.2g}, in {name}. The network is that of the end of epoch {epoch - 1}. {ADVICE}"
        )


def check_last_batch(network: Container, data: Data, n: int, batch_size: int) -> None:
    """Raise if a batch would be too small."""
    if (n % batch_size or batch_size) == 1 and network._program_for(data.x).has(program_table.BATCH_NORM):
        raise ValueError(
            f"{network}: {n} samples in batches of {batch_size} leave one alone, and BatchNorm1d "
            f"needs two for their variance; choose another batch_size"
        )
