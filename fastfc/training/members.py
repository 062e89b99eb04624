"""Epochs of many networks on the same arrays, each in as few native calls for all of them as Ctrl-C allows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastfc.kernels.runtime import threads
from fastfc.kernels.runtime.arrays import describe
from fastfc.kernels.runtime.cache import defer_sigint
from fastfc.kernels.runtime.status import OK, STATUSES, UNKNOWN
from fastfc.kernels.training import members as kernels
from fastfc.kernels.training.members import N_COLUMNS, Number
from fastfc.nn.container import Container
from fastfc.nn.layer import aligned_rows
from fastfc.optim.base import Optimizer
from fastfc.training.callbacks import Callback, Run
from fastfc.training.epoch import CALL_SECONDS, DivergenceWarning, Epoch, plan_batches
from fastfc.training.samples import NOTHING, Data
from fastfc.training.step import load_for


def shared_arguments(network: Container, data: Data, optimizer: Optimizer) -> tuple[Any, ...]:
    """A member's arrays, in the order of `kernels.Argument` without the last one; workspaces belong to threads."""
    program, (vector, grads) = network.program_for(data.x), network.vectors(data.x.dtype)
    state, segments = optimizer.prepare(network)
    _, counters = network.workspace_for(program, 0, data.x.dtype)
    samples = data.x, program.table, data.target, data.labels, data.weights, data.losses
    return *samples, optimizer.hyper, segments, vector, grads, state, optimizer.count, counters


@dataclass
class Member:
    """A network of an ensemble in a `fit`, with what it has for itself.

    Attributes
    ----------
    data : Data
        The samples of all members, with the weights of this one.
    rows : (m,) int64 array or None
        Which samples are its own; None for all.
    order : (m,) int64 array
        The order of its own samples in this epoch; (0,) as they lie.
    saved : tuple
        What the epoch changes, as it was before it.
    arguments, versions : tuple
        The arrays that its row of the table describes, and the versions for which it does.
    """

    index: int
    network: Container
    optimizer: Optimizer
    data: Data
    rows: NDArray[np.int64] | None
    batch_size: int
    accumulate: int
    drop_last: bool
    rng: np.random.Generator
    run: Run
    callbacks: list[Callback] = field(default_factory=list)
    order: NDArray[np.int64] = field(default_factory=lambda: NOTHING)
    saved: tuple[Any, ...] = ()
    arguments: tuple[Any, ...] = ()
    versions: tuple[int, ...] = ()
    n_weighed = 0

    def __post_init__(self) -> None:
        program, sizes = self.network.program_for(self.data.x), (self.batch_size, self.accumulate)
        planned = plan_batches(self.network, program, self.n_own, self.optimizer, sizes, self.drop_last)
        self.n, self.batch_size, self.accumulate = planned
        self.data = self.data._replace(program=program)
        self.weigh(slice(None))

    @property
    def n_own(self) -> int:
        """How many samples are its own; an epoch takes n of them."""
        return self.data.n if self.rows is None else len(self.rows)

    def weigh(self, used: Any) -> None:
        """Have the sums of weights of those of its own samples that an epoch takes."""
        used = used if self.rows is None else self.rows[used]
        self.weight_sum = self.data.weight_sum_of(used)
        self.data, self.n_weighed = self.data.with_shares(used), self.n_weighed + 1

    def own_data(self) -> Data:
        """Its own samples, as a network alone has them."""
        return self.data if self.rows is None else self.data.rows(self.rows)

    def state(self) -> tuple[NDArray[Any], ...]:
        """What an epoch changes beside parameters and buffers."""
        return self.optimizer.state, self.optimizer.count, self.arguments[-1]

    def alone(self, params: NDArray[Any], buffers: NDArray[Any]) -> Epoch:
        """The same epoch of this network alone, as it was before it, with these parameters and buffers."""
        epoch = Epoch(self.network, self.own_data(), self.optimizer, self.batch_size, self.accumulate, self.drop_last)
        *copies, epoch.rng_state = self.saved
        epoch.rng = self.rng
        arrays = self.network.params, self.network.buffers, *self.state()
        epoch.saved = list(zip(arrays, (params, buffers, *copies), strict=True))
        return epoch


class MembersEpoch:
    """Epochs of those members that are still trained.

    Parameters
    ----------
    members : sequence of Member
    vectors : (k, v) array
        Parameters and buffers of all networks of the ensemble.
    n_threads : int or "auto"
    """

    def __init__(self, members: Sequence[Member], vectors: NDArray[Any], n_threads: int | str, shuffle: bool) -> None:
        self.members, self.vectors, self.n_threads, self.shuffle = list(members), vectors, n_threads, shuffle
        self.orders = np.empty((len(vectors), max(member.n_own for member in members)), np.int64)
        self.table = np.zeros((len(vectors), N_COLUMNS), np.int64)
        self.totals = np.zeros(len(vectors))
        # of each member: samples of an epoch and of an update
        self.n = np.array([member.n for member in members])
        self.steps = np.array([member.batch_size * member.accumulate for member in members])
        programs = [(member.data.program, member.batch_size) for member in members]
        self.work = 3 * sum(program.work(batch_size) for program, batch_size in programs)
        size = max(program.workspace_size(batch_size) for program, batch_size in programs)
        self.workspaces = aligned_rows(1, size, vectors.dtype)
        multiplications = max(program.multiplications + 1 for program, _ in programs)
        seconds = 6e-9 * int(self.steps.max()) * multiplications * len(members)
        self.updates = max(1, int(CALL_SECONDS / seconds))  # in the next call
        for member in members:
            load_for(member.data, member.optimizer, kernels.train_members)

    def save(self) -> None:
        """Keep what an epoch changes, as it is before it."""
        self.before = self.vectors.copy()
        for member in self.members:
            self.enter(member)
            copies = [array.copy() for array in member.state()]
            member.saved = *copies, member.rng.bit_generator.state

    def draw(self) -> None:
        """The orders of samples: each member's own, as its network alone draws it."""
        for member in self.members:
            n, rows = member.n_own, member.rows
            if self.shuffle:
                member.order = member.rng.permutation(n)
                self.orders[member.index, :n] = member.order if rows is None else rows[member.order]
            if member.n < n:  # what is dropped does not count
                member.weigh(member.order[: member.n] if self.shuffle else slice(member.n))
                self.enter(member)

    def enter(self, member: Member) -> None:
        """Write the member's row of the table; a callback may have changed its optimizer or frozen a layer."""
        if member.arguments and member.versions == (member.network.version, member.optimizer.version, member.n_weighed):
            return
        arguments, k = shared_arguments(member.network, member.data, member.optimizer), member.index
        member.versions = member.network.version, member.optimizer.version, member.n_weighed
        order = self.orders[k, : member.n_own] if self.shuffle else NOTHING
        if not self.shuffle and member.rows is not None:
            order = member.rows
        member.arguments = arguments
        row = [number for array in (*arguments, order) for number in describe(array)]
        self.table[k, : Number.FIRST] = row
        self.table[k, Number.BATCH_SIZE : Number.OPTIMIZER] = member.batch_size, member.accumulate
        self.table[k, Number.OPTIMIZER] = member.optimizer.code

    def run(self) -> Iterator[tuple[int, float]]:
        """One epoch of all members; after each call the samples done, and the mean of the members' mean losses.

        Afterwards `totals` has the members' sums of losses, and `diverged` the warnings of those that diverged, which
        are as they were before the epoch.
        """
        active = np.array([member.index for member in self.members], np.int64)
        share = np.array([member.n / (member.weight_sum or np.inf) for member in self.members])
        self.totals[:], done = 0.0, np.zeros_like(self.n)
        while (rows := active[done[active] < self.n[active]]).size:
            last = np.minimum(self.n[rows], done[rows] + self.updates * self.steps[rows])
            self.call(rows, done[rows], last)
            done[rows] = last
            going = np.isfinite(self.totals[active])
            active, share = active[going], share[going]
            if active.size:
                yield int(done[active].max()), float((self.totals[active] / done[active] * share).mean())

    def call(self, rows: NDArray[np.int64], first: NDArray[np.int64], last: NDArray[np.int64]) -> None:
        """Train some members on samples `first`, …, `last` − 1 of their orders, in one native call."""
        self.table[rows, Number.FIRST], self.table[rows, Number.LAST] = first, last
        table, totals, statuses = self.table[rows], self.totals[rows], np.full(len(rows), kernels.PENDING)
        n_updates = int(-(-(last - first) // self.steps[rows]).max())
        n_threads = min(threads.prepare_threads(self.n_threads, self.work * n_updates), len(rows))
        if n_threads > len(self.workspaces):
            self.workspaces = aligned_rows(n_threads, self.workspaces.shape[1], self.vectors.dtype)
        start = time.perf_counter()
        kernels.train_members.call(table, self.workspaces, totals, statuses, n_threads)
        self.updates = max(1, int(CALL_SECONDS * n_updates / (time.perf_counter() - start)))
        self.totals[rows] = totals
        failed = np.flatnonzero(statuses != OK)
        if failed.size:
            self.raise_status(int(rows[failed[0]]), int(statuses[failed[0]]))

    def raise_status(self, k: int, status: int) -> None:
        """Raise what a network alone raises, by its epoch again, and name the member."""
        self.restore()
        member = self.member(k)
        epoch = self.alone(member)
        try:
            for _ in epoch.calls(member.order, member.n):
                pass
        except Exception as error:
            raise type(error)(f"member {k}: {error}") from error
        raise STATUSES.get(status, UNKNOWN).error(f"member {k}: {STATUSES.get(status, UNKNOWN).text}")

    def member(self, k: int) -> Member:
        return next(member for member in self.members if member.index == k)

    def alone(self, member: Member) -> Epoch:
        size, before = member.network.params.size, self.before[member.index]
        return member.alone(before[:size], before[size:])

    def diverged(self) -> Iterator[tuple[Member, DivergenceWarning]]:
        """Members whose losses, parameters or buffers became infinite or NaN; they are as before the epoch."""
        finite = np.isfinite(self.totals)
        were_finite, are_finite = (np.isfinite(vectors).all(axis=1) for vectors in (self.before, self.vectors))
        finite &= are_finite | ~were_finite
        for member in [member for member in self.members if not finite[member.index]]:
            epoch = self.alone(member)
            try:
                warning = epoch.diverged(member.order)
            finally:
                epoch.restore()
            if not isinstance(warning, DivergenceWarning):
                raise warning
            yield member, warning

    def mean_loss(self, member: Member) -> float:
        if not member.weight_sum:
            return 0.0
        return float(self.totals[member.index]) / (member.weight_sum * member.n / member.n)  # rounded as for one alone

    def restore(self) -> None:
        """Undo the epoch of all members that are still trained."""
        with defer_sigint():
            for member in self.members:
                self.vectors[member.index] = self.before[member.index]
                *copies, state = member.saved
                for array, saved in zip(member.state(), copies, strict=True):
                    array[...] = saved
                member.rng.bit_generator.state = state
