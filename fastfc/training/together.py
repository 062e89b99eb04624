"""Steps of several networks in one native call, for trainings that stand still after each step.

A training is a generator: it yields a `Step` and is sent the loss. So trainings of any kind, each with its own order of
samples and its own end, go side by side.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfc.kernels.runtime import threads
from fastfc.kernels.runtime.arrays import N_FIELDS, describe
from fastfc.kernels.runtime.cache import defer_sigint
from fastfc.kernels.runtime.native import one_piece
from fastfc.kernels.runtime.status import OK
from fastfc.kernels.training import members as kernels
from fastfc.kernels.training.members import N_COLUMNS, Argument, Number
from fastfc.losses.base import Loss
from fastfc.nn.layer import aligned_rows
from fastfc.optim.base import Optimizer
from fastfc.training.members import shared_arguments
from fastfc.training.samples import prepare
from fastfc.training.step import load_for

ADDRESSES = {name: name * N_FIELDS for name in (Argument.X, Argument.TARGET, Argument.LABELS, Argument.WEIGHTS)}


# How long a training goes on before it is another one's turn: long beside the time in which caches fill, and short
# enough for Ctrl-C to leave all of them about equally far.
TURN_SECONDS = 0.05


class Step(NamedTuple):
    """A step of `network.train_step` that a training waits for."""

    network: Any
    x: NDArray[Any]
    target: NDArray[Any]
    loss: Loss
    optimizer: Optimizer
    weights: NDArray[Any] | None = None

    def run(self) -> float:
        network: Any = self.network
        value: float = network.train_step(self.x, self.target, self.loss, self.optimizer, self.weights)
        return value


Training = Generator[Step, float, None]


class Row(NamedTuple):
    """The row of a table for steps like one: the versions that it holds for, and what keeps its arrays alive."""

    versions: tuple[int, int, int]
    numbers: NDArray[np.int64]
    work: int
    workspace_size: int
    arrays: tuple[Any, ...]


def train_together(trainings: Sequence[Training], beat: Callable[[], None] = lambda: None) -> None:
    """Run trainings to their ends: where several threads pay, the next step of all of them in one native call.

    On one thread they take turns, for each would throw out of the caches what the next one needs. `beat` is called
    after each call. Each has the bits that it has alone. What a step or `beat` raises is raised in all of them, Ctrl-C
    too, whenever it comes.
    """
    steps, waiting = Steps(), dict[Training, Step]()
    with ExitStack() as stack:
        stack.enter_context(defer_sigint())
        ctrl_c: Any = signal.getsignal(signal.SIGINT)  # which waits, unless it is handled elsewhere
        for training in trainings:
            stack.callback(training.close)  # ends it, if another one raises
            advance(training, None, waiting)
        chosen, end = list[Training](), 0.0
        while waiting:
            n, now = len(waiting), time.perf_counter()
            try:
                if now >= end:
                    end, first = now + TURN_SECONDS, next(iter(waiting))
                    waiting[first] = waiting.pop(first)  # to the end of the queue
                    several = n > 1 and steps.n_threads_for(list(waiting.values())) > 1
                    chosen = list(waiting) if several else [first]
                values = steps.run([waiting[training] for training in chosen])
                beat()
                if getattr(ctrl_c, "waiting", False):
                    ctrl_c.waiting = False
                    raise KeyboardInterrupt
            except BaseException as error:
                with ExitStack() as others:  # all of them, even if one raises
                    for training in reversed(waiting):
                        others.callback(throw, training, error)
                return
            for training, value in zip(chosen, values, strict=True):
                advance(training, value, waiting)
            if len(waiting) < n:
                end = 0.0


def advance(training: Training, value: Any, waiting: dict[Training, Step]) -> None:
    """Let a training go on to its next step, if it has one."""
    try:
        waiting[training] = training.send(value)
    except StopIteration:
        waiting.pop(training, None)


def throw(training: Training, error: BaseException) -> None:
    """Raise an error in a training, which may end well nevertheless, as after Ctrl-C."""
    with suppress(StopIteration):
        training.throw(error)


class Steps:
    """Runs steps of several networks, and remembers the rows of those it has seen."""

    def __init__(self) -> None:
        self.rows: dict[Any, Row] = {}
        self.workspaces = np.zeros((0, 0), np.float32)

    def run(self, steps: Sequence[Step]) -> list[float]:
        """The losses of these steps; an error names what does not fit."""
        if len(steps) == 1:
            return [steps[0].run()]
        rows = self.rows_of(steps)
        if rows is None:
            return [step.run() for step in steps]
        table = np.array([row.numbers for row in rows])
        for numbers, step in zip(table, steps, strict=True):
            numbers[ADDRESSES[Argument.X]] = address(step.x)
            target = Argument.LABELS if step.target.ndim == 1 else Argument.TARGET
            numbers[ADDRESSES[target]] = address(step.target)
            if step.weights is not None:
                numbers[ADDRESSES[Argument.WEIGHTS]] = address(step.weights)
        size = max(row.workspace_size for row in rows)
        n_threads, dtype = self.n_threads_for(steps), steps[0].x.dtype
        if len(self.workspaces) < n_threads or self.workspaces.shape[1] < size or self.workspaces.dtype != dtype:
            self.workspaces = aligned_rows(n_threads, size, dtype)
        values, statuses = np.zeros(len(steps)), np.full(len(steps), kernels.PENDING)
        kernels.step_members.call(table, self.workspaces, values, statuses, n_threads)
        for i in np.flatnonzero(statuses != OK):  # which has changed nothing: alone it says why
            values[i] = steps[int(i)].run()
        losses: list[float] = values.tolist()
        return losses

    def n_threads_for(self, steps: Sequence[Step]) -> int:
        """How many threads these steps pay for, together in one call."""
        rows = self.rows_of(steps)
        if rows is None:
            return 1
        work = sum(row.work for row in rows)
        return min(threads.prepare_threads(steps[0].network.n_threads, work), len(steps))

    def rows_of(self, steps: Sequence[Step]) -> list[Row] | None:
        """Their rows, if all of them have one."""
        rows = [row for step in steps if (row := self.row(step)) is not None]
        return rows if len(rows) == len(steps) else None

    def row(self, step: Step) -> Row | None:
        """The row of a step, but for the addresses of its batch; None for one that needs more than addresses."""
        network, x, target, loss, optimizer, weights = step
        key = id(network), x.shape, x.strides, target.shape, target.strides, weights is None
        versions = network.version, loss.version, optimizer.version
        row = self.rows.get(key)
        if row is not None and row.versions == versions:
            return row
        with one_piece():
            data = prepare(network, x, target, loss, weights, values=False)
            as_given = data.x is x and (data.labels is target or data.target is target)
            if not as_given or (weights is not None and data.weights is not weights) or not network.one_input:
                return None
            load_for(data, optimizer, kernels.step_members)
            arguments = shared_arguments(network, data, optimizer)
        numbers = np.zeros(N_COLUMNS, np.int64)
        described = [number for array in arguments for number in describe(array)]
        numbers[: len(described)] = described
        numbers[Number.OPTIMIZER] = optimizer.code
        versions = network.version, loss.version, optimizer.version
        size = data.program.workspace_size(data.n)
        self.rows[key] = Row(versions, numbers, data.program.work(3 * data.n), size, (network, *arguments))
        return self.rows[key]


def address(array: NDArray[Any]) -> int:
    number: int = array.__array_interface__["data"][0]
    return number
