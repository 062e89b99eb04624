"""`Ranks`: the processes of an MPI job that compute one run together, through mpi4py.

Nothing here imports mpi4py: a communicator comes from the user. Whatever ranks tell one another begins with `meet`, in
which each says that it is well. A rank on which something was raised says so there instead, with its message, and the
others, which are in their own next `meet`, raise too. So none waits for a rank that is gone.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastfc.extras import extra
from fastfc.kernels.runtime import threads
from fastfc.kernels.runtime.cache import defer_sigint
from fastfc.validation import choice, positive_int

SHARDS = 16
# Numbers of a message: what it says and is for, and a status and two sums of each shard. It has this length for any
# shards, so that ranks that do not agree on them hear so; what is more follows.
MESSAGE = 2 * SHARDS + 3
USED = "Allgather", "Allgatherv", "Alltoallv", "Sendrecv", "allgather", "bcast"  # of a communicator
KNOWN = "_fastfc_known_to_all_ranks"  # the attribute of exceptions that all ranks raise
SIZE_VARIABLES = "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_SIZE", "SLURM_STEP_NUM_TASKS"  # by which mpiexec tells
WELL, FAILED, INTERRUPTED = range(3)
# What a meeting is for. Ranks that meet for different things do not run the same program.
MEETINGS = (
    *("the settings", "the numbers of rows", "rows", "a gradient", "outputs", "work of its own"),
    *("the end of an epoch", "the end"),
)
SETTINGS, COUNTS, ROWS, GRADIENT, OUTPUTS, WORK, EPOCH, END = range(len(MEETINGS))
PULSE = 0.5  # seconds of work after which ranks hear of one another


class Ranks:
    """Who computes which part of a run.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm or None
        None is one process alone.
    rows : {"same", "local"}
        Whether all ranks have all samples, or each its own; then the samples are those of all ranks, one after another.
    shards : int
        Into how many ranges of rows each batch is cut.
    """

    def __init__(self, comm: Any, rows: str, shards: int) -> None:
        self.comm, self.shards, self.local = comm, shards, rows == "local"
        self.rank: int = 0 if comm is None else comm.Get_rank()
        self.size: int = 1 if comm is None else comm.Get_size()
        self.owner = ""
        self.told = False  # whether all ranks know of what has been raised
        self._handler: Any = None  # of Ctrl-C, while that is ignored
        self.received: NDArray[Any] = np.empty((0, 0))

    @property
    def main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def share(self, n: int, rank: int | None = None) -> slice:
        """The part of n things in a row that a rank has, this one if none is named."""
        rank = self.rank if rank is None else rank
        return slice(n * rank // self.size, n * (rank + 1) // self.size)

    def block(self, n: int, rank: int | None = None) -> slice:
        """The same of things of which rank 0 is to have the first, however few they are."""
        rank = self.rank if rank is None else rank
        return slice(-(-n * rank // self.size), -(-n * (rank + 1) // self.size))

    # ---- together

    @contextlib.contextmanager
    def together(self, owner: str) -> Iterator[None]:
        """A piece of work that all ranks do, or none: what is raised on one of them is raised on all."""
        self.owner = owner
        try:
            with self.all_or_none(), self._one_core_each():
                yield
        finally:
            if self._handler is not None:
                signal.signal(signal.SIGINT, self._handler)

    @contextlib.contextmanager
    def all_or_none(self) -> Iterator[None]:
        """A part of such work; after it all ranks are at the same place, whether it has raised or not."""
        before, self.told = self.told, False
        try:
            yield
            self.meet(END)
        except BaseException as error:
            try:
                if not self.told and not hasattr(error, KNOWN):
                    self._fail(error)
            finally:
                self._ignore_ctrl_c()
            raise
        finally:
            self.told = before or self.told

    def check_shards(self) -> None:
        """Raise if there are more ranks than shards."""
        if self.size > self.shards:
            raise ValueError(
                f"{self.owner}: there are {self.size} ranks for {self.shards} shards; give shards={self.size}, or more"
            )

    def meet(self, what: int, numbers: Sequence[float] | NDArray[np.float64] = ()) -> NDArray[np.float64]:
        """The numbers of all ranks, (ranks, numbers)."""
        numbers = np.array(numbers, np.float64)
        if self.size == 1:
            return numbers[None]
        message = np.zeros(MESSAGE)
        message[1], first = what, numbers[: MESSAGE - 2]
        message[2 : 2 + len(first)] = first
        with defer_sigint():
            everyone = self._exchanged(message, "")
            return self._numbers_of(everyone, what, numbers, len(first))

    def _numbers_of(
        self, everyone: NDArray[np.float64], what: int, numbers: NDArray[np.float64], n_first: int
    ) -> NDArray[np.float64]:
        """The numbers in the messages of all ranks and behind them; an error if ranks do not meet for the same."""
        if (everyone[:, 1] != what).any():
            other = int((everyone[:, 1] != what).argmax())
            text = (
                f"{self.owner}: rank {self.rank} has come to {MEETINGS[what]}, rank {other} to "
                f"{MEETINGS[int(everyone[other, 1])]}; all ranks must run the same program on the same data"
            )
            raise known_to_all(RuntimeError(text))
        everyone = everyone[:, 2 : 2 + len(numbers)]
        rest = numbers[n_first:]
        return np.hstack([everyone, self._gathered(rest)]) if len(rest) else everyone

    def _gathered(self, message: NDArray[np.float64]) -> NDArray[np.float64]:
        everyone = np.empty((self.size, message.size))
        self.comm.Allgather(message, everyone)
        return everyone

    def _exchanged(self, message: NDArray[np.float64], text: str) -> NDArray[np.float64]:
        """The messages of all ranks; what was raised on one is raised here, unless this one has something to tell."""
        everyone = self._gathered(message)
        texts = self.comm.allgather(text) if everyone[:, 0].any() else []
        self.told = self.told or bool(texts)
        if texts and message[0] == WELL:
            rank = int(everyone[:, 0].argmax())
            if everyone[rank, 0] == INTERRUPTED:
                raise known_to_all(KeyboardInterrupt(f"rank {rank} was interrupted"))
            raised = f"{self.owner}: rank {rank} of {self.size} raised {texts[rank]}"
            raise known_to_all(RuntimeError(raised), said=True)
        return everyone

    def _fail(self, error: BaseException) -> None:
        """Tell the others what was raised here."""
        known_to_all(error)
        if self.size == 1:
            return
        message = np.zeros(MESSAGE)
        message[0] = INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
        with defer_sigint():
            everyone = self._exchanged(message, f"{type(error).__name__}: {error}")
        known_to_all(error, said=not self.main and everyone[0, 0] != WELL)

    def _ignore_ctrl_c(self) -> None:
        """A Ctrl-C at mpiexec comes to each rank at another time; once one has told, the others need no second one."""
        handler = signal.getsignal(signal.SIGINT)
        is_main = threading.current_thread() is threading.main_thread()
        if self.size == 1 or not is_main or not callable(handler):
            return
        self._handler = handler
        for _ in range(2):
            with contextlib.suppress(KeyboardInterrupt):  # of one that has just come, which signal() raises
                signal.signal(signal.SIGINT, signal.SIG_IGN)

    @contextlib.contextmanager
    def _one_core_each(self) -> Iterator[None]:
        """Ranks on one machine share its cores."""
        if self.size == 1:
            yield
            return
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        mine, before = (socket.gethostname(), cores), threads.allowed
        with defer_sigint():
            self.meet(SETTINGS)
            everyone = self.comm.allgather(mine)
        threads.limit_to(max(1, threads.cores() // everyone.count(mine)))
        try:
            yield
        finally:
            threads.allowed = before

    # ---- the same everywhere

    def compare(self, settings: Mapping[str, str]) -> None:
        """Raise, on all ranks, if they are not the same."""
        if self.size == 1:
            return
        with defer_sigint():
            self.meet(SETTINGS)
            everyone = self.comm.allgather(dict(settings))
        for name, value in everyone[0].items():
            for rank, other in enumerate(everyone):
                if other.get(name) != value:
                    values = f"rank 0 has {value}, rank {rank} {other.get(name)}"
                    raise known_to_all(ValueError(f"{self.owner}: {name} differs between ranks: {values}"))

    def of_main(self, value: Any, what: int = SETTINGS) -> Any:
        """What rank 0 has."""
        if self.size == 1:
            return value
        with defer_sigint():
            self.meet(what)
            return self.comm.bcast(value)

    def collect(self, value: Any, what: int) -> list[Any]:
        """What each rank has, which must be what can be pickled."""
        if self.size == 1:
            return [value]
        own = pickle.dumps(value)  # raises before others wait for it
        with defer_sigint():
            self.meet(what)
            everyone = self.comm.allgather(own)
        return [pickle.loads(of_rank) if i != self.rank else value for i, of_rank in enumerate(everyone)]

    # ---- rows

    def offsets(self, n: int) -> NDArray[np.int64]:
        """Where the rows of each rank begin, if this one has n; and how many there are."""
        return np.concatenate([[0], np.cumsum(self.meet(COUNTS, [n])[:, 0])]).astype(np.int64)

    def gather(self, own: NDArray[Any], what: int = ROWS) -> NDArray[Any]:
        """The rows of all ranks, one after another."""
        if self.size == 1:
            return own
        own = np.ascontiguousarray(own)
        with defer_sigint():
            offsets = self.offsets(len(own))
            everyone = np.empty((int(offsets[-1]), *own.shape[1:]), own.dtype)
            row = own.nbytes // len(own) if len(own) else everyone.nbytes // max(len(everyone), 1)
            counts = np.diff(offsets) * row
            self.comm.Allgatherv(as_bytes(own), (as_bytes(everyone), (counts, offsets[:-1] * row)))
        return everyone

    def output(self, function: Callable[[Any], NDArray[Any]], x: Any, whole: bool = False) -> NDArray[Any]:
        """A function of all rows, of which each rank computes its own; of `whole`, it takes only all of them."""
        if whole and self.local:
            raise ValueError(f"{self.owner}: the output for a row depends on other rows; give all ranks all rows")
        if whole or self.size == 1:
            return function(x)
        return self.gather(function(x if self.local else x[self.share(len(x))]), OUTPUTS)

    def exchange(
        self, records: NDArray[Any], offsets: NDArray[np.int64], rows: Sequence[NDArray[np.int64]]
    ) -> NDArray[Any]:
        """The records that this rank needs: rows[r] are the numbers of those that rank r needs.

        records are the own ones, of all that `offsets` counts.
        """
        first, last = offsets[self.rank : self.rank + 2]
        own = [needed[(needed >= first) & (needed < last)] - first for needed in rows]
        send = np.ascontiguousarray(records[np.concatenate(own)])
        owners = np.searchsorted(offsets, rows[self.rank], "right") - 1
        received = np.empty(len(owners), records.dtype)
        if self.size == 1:
            received = send
        else:
            size = records.itemsize
            counts = np.array([len(part) for part in own]) * size, np.bincount(owners, minlength=self.size) * size
            with defer_sigint():
                self.meet(ROWS)
                self.comm.Alltoallv((as_bytes(send), counts[0]), (as_bytes(received), counts[1]))
        result = np.empty_like(received)
        result[np.argsort(owners, kind="stable")] = received
        return result

    # ---- sums

    def reduce(
        self,
        sums: NDArray[Any],
        n_sums: Sequence[int],
        add: Callable[[list[NDArray[Any]]], NDArray[Any]],
        out: NDArray[Any],
    ) -> None:
        """out = the sum of the vectors of all ranks, so many of each, in the order of the ranks, as `add` takes it.

        Each rank gets its share of the elements from all others, adds them, and gives the result to all.
        """
        if self.size == 1:
            out[...] = add(list(sums))
            return
        shares = [self.share(out.size, rank) for rank in range(self.size)]
        mine, ends = shares[self.rank], np.cumsum(n_sums)
        received = self._memory((int(ends[-1]), mine.stop - mine.start), out.dtype)
        of_rank = [received[end - n : end] for n, end in zip(n_sums, ends, strict=True)]
        of_rank[self.rank][...] = sums[:, mine]
        for to, source in self._rounds():
            part = sums[:, shares[to]]
            self.comm.Sendrecv(np.ascontiguousarray(part), to, recvbuf=of_rank[source], source=source)
        out[mine] = add(list(received))
        for to, source in self._rounds():
            self.comm.Sendrecv(out[mine], to, recvbuf=out[shares[source]], source=source)

    def _rounds(self) -> list[tuple[int, int]]:
        """Whom each rank sends to, and whom it receives from, so that all pairs meet once."""
        return [((self.rank + i) % self.size, (self.rank - i) % self.size) for i in range(1, self.size)]

    def _memory(self, shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array that is kept for the next time: fresh memory takes as long as what travels."""
        if self.received.shape != shape or self.received.dtype != dtype:
            self.received = np.empty(shape, dtype)
        return self.received


class Pulse:
    """Meetings of ranks that work on their own, in which they hear whether another one has failed.

    Parameters
    ----------
    ranks : Ranks
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.next = time.monotonic() + PULSE

    def beat(self) -> None:
        """Meet, if the latest meeting was a while ago."""
        if self.ranks.size > 1 and time.monotonic() >= self.next:
            self.ranks.meet(WORK, [0.0])
            self.next = time.monotonic() + PULSE

    def finish(self) -> bool:
        """Wait until all ranks have done their work; whether there was a Ctrl-C meanwhile, which they get too."""
        if self.ranks.size == 1:
            return False
        if self.ranks.told:  # by a KeyboardInterrupt that was taken for the end of our work
            raise known_to_all(KeyboardInterrupt("another rank was interrupted"))
        done = False
        try:
            with defer_sigint():
                while not done:
                    done = bool(self.ranks.meet(WORK, [1.0]).all())
        except KeyboardInterrupt:
            if self.ranks.told or not done:
                raise
            return True
        return False


def known_to_all(error: BaseException, said: bool = False) -> BaseException:
    """An exception that is raised on all ranks, so that none has to be told; `said` if rank 0 raises the same one."""
    setattr(error, KNOWN, said)
    return error


def in_place_of(other: BaseException, error: BaseException) -> BaseException:
    """An exception that says what another one does, known to whom that is."""
    return known_to_all(error, said=is_said_elsewhere(other)) if hasattr(other, KNOWN) else error


def is_said_elsewhere(error: BaseException) -> bool:
    """Whether another rank tells the user of this exception."""
    return bool(getattr(error, KNOWN, False))


def world() -> Any:
    """MPI.COMM_WORLD, if mpiexec started several processes of which this is one; else None."""
    sizes = [int(os.environ[name]) for name in SIZE_VARIABLES if os.environ.get(name, "").isdigit()]
    return extra("mpi4py.MPI", "mpi", "mpiexec").COMM_WORLD if max(sizes, default=1) > 1 else None


def digest(*arrays: Any) -> str:
    """A number for the bytes of arrays, as text, by which ranks compare them."""
    number = 0
    for array in map(np.ascontiguousarray, arrays):
        if not array.dtype.hasobject:  # which is refused where it is used
            number = zlib.crc32(as_bytes(array).data, number)
    return f"{number:08x}"


def as_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)


def ranks_of(comm: Any, rows: Any, shards: Any, owner: str) -> Ranks | None:
    """The ranks of a run; None for one without a communicator that is not cut into shards."""
    choice(rows, owner, "rows", ("same", "local"))
    shards = None if shards is None else positive_int(shards, owner, "shards")
    if comm is None and rows == "local":
        raise ValueError(f"{owner}: rows='local' is for comm, such as comm=MPI.COMM_WORLD; leave it out")
    if comm is None and shards is None:
        return None
    if comm is not None and not all(hasattr(comm, name) for name in USED):
        raise TypeError(
            f"{owner}: comm must be a communicator of mpi4py, such as MPI.COMM_WORLD (pip install 'fastfc[mpi]'), "
            f"got {comm!r}"
        )
    if comm is not None and (not comm or getattr(comm, "is_inter", False)):
        raise ValueError(f"{owner}: comm must be a communicator of the ranks of one group, got {comm!r}")
    return Ranks(comm, rows, shards or SHARDS)
