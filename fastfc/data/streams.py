"""Data that come in parts: arrays on disk that are larger than memory, and iterables of batches.

Parts are read by a thread of its own, ahead of the training that uses them, which gives up the GIL.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Set
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfc.validation import as_real

# Arrays on disk of at most so many bytes are read as a whole; they then train like arrays in memory.
IN_MEMORY = 2**28
# Of larger ones, blocks of about BLOCK bytes are read in a random order, and so many as fit into WINDOW are shuffled.
BLOCK, WINDOW = 2**20, 2**25
PREFETCH = 1  # parts that wait, besides the one in use and the one that is being read
GROUP, GROUP_SECONDS = 64, 0.002  # batches are handed over together, as each handover costs both threads
POLL_SECONDS = 0.1  # between two looks at whether the other thread still runs
JOIN_SECONDS = 2.0  # that a thread has to end


class Part(NamedTuple):
    """Some samples: x, y and weights, or tuples of arrays, and their order in training.

    Attributes
    ----------
    order : (n,) int64 array, or None for the order in which they lie
        Those of the samples that are to be used.
    n : int or None
        How many these are; None for all.
    batch : int or None
        Samples in a batch of them; None for all.
    rows : (n,) int64 array, or None
        Which samples of the whole these are.
    """

    samples: tuple[Any, Any, Any]
    order: NDArray[np.int64] | None
    n: int | None
    batch: int | None
    rows: NDArray[np.int64] | None = None


def tree_map(function: Callable[..., Any], *trees: Any) -> Any:
    """The function of corresponding arrays in nested tuples; None stays None."""
    if trees[0] is None:
        return None
    if isinstance(trees[0], tuple):
        return tuple(tree_map(function, *parts) for parts in zip(*trees, strict=True))
    return function(*trees)


def tree_leaves(tree: Any) -> list[Any]:
    """The arrays in nested tuples."""
    if isinstance(tree, tuple | list):
        return [leaf for part in tree for leaf in tree_leaves(part)]
    return [] if tree is None else [tree]


def on_disk(a: Any) -> bool:
    """Whether this is a np.memmap, or an array of Zarr or HDF5."""
    if isinstance(a, np.ndarray):
        return isinstance(a, np.memmap)
    return hasattr(a, "chunks") and hasattr(a, "shape") and hasattr(a, "dtype") and hasattr(a, "__getitem__")


def too_large(*trees: Any) -> bool:
    """Whether arrays on disk are too large to be read as a whole."""
    return sum(a.size * max(a.dtype.itemsize, 4) for tree in trees for a in arrays_on_disk(tree)) > IN_MEMORY


def arrays_on_disk(tree: Any) -> list[Any]:
    return [a for a in (tree if is_sequence_of_arrays(tree) else [tree]) if on_disk(a)]


def is_sequence_of_arrays(tree: Any) -> bool:
    """Whether this is a tuple or a list of arrays, and not of numbers or rows of them."""
    shape = getattr(tree[0], "shape", ()) if isinstance(tree, tuple | list) and len(tree) > 0 else ()
    return isinstance(shape, tuple) and len(shape) > 0  # a class of arrays has a shape too, which is a property


def gives_batches(x: Any) -> bool:
    """Whether this is an iterable, or a function that returns one, and no array, table or sequence of numbers."""
    if isinstance(x, np.ndarray | str | bytes | Mapping | Set | type):
        return False
    if any(hasattr(x, name) for name in ("__array__", "to_numpy", "__array_interface__", "dtype")):
        return False
    return callable(x) or (hasattr(x, "__iter__") and not (hasattr(x, "__getitem__") and hasattr(x, "__len__")))


def source_of(
    x: Any, y: Any, sample_weight: Any, owner: str, check_names: Callable[..., None]
) -> Blocks | Batches | None:
    """The reader of samples that come in parts; None for arrays in memory.

    `check_names(x, y)` gets frames before they become arrays.
    """
    if is_dask_frame(x):
        return Partitions((x, y, sample_weight), owner, check_names)
    if y is None:
        if isinstance(x, list | tuple) or gives_batches(x):
            if sample_weight is not None:
                raise TypeError(f"{owner}: with batches, leave out sample_weight; give batches (x, y, sample_weight)")
            return Batches(x, owner, check_names)
        raise TypeError(f"{owner}: y is missing; give the targets, or as x an iterable of batches (x, y)")
    if gives_batches(x):
        raise TypeError(f"{owner}: x is {kind(x)}, which must give batches (x, y); leave out y")
    if not too_large(x, y, sample_weight):
        return None
    check_names(x, y)
    return Blocks((x, y, sample_weight), owner)


def source_of_inputs(x: Any, owner: str, one_input: bool, check_names: Callable[..., None]) -> Blocks | Batches:
    """The reader of the x of a prediction; batches may be (x,) or (x, y) as for `fit`."""
    if gives_batches(x):
        return Batches(x, owner, check_names, inputs="one" if one_input else "several")
    return Blocks((x, None, None), owner)


def kind(x: Any) -> str:
    name = type(x).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


class Blocks:
    """Arrays on disk, read in blocks of rows.

    In training, the blocks come in a new random order each epoch. As many neighbours in this order as fit into a
    window of memory are shuffled together; what their last batch lacks, the next window adds.
    """

    together = 1  # see prefetch: no more blocks are in memory than must be

    def __init__(self, trees: tuple[Any, Any, Any], owner: str, first: int = 0, last: int | None = None) -> None:
        self.trees = tuple(
            arrays_of(tree, owner, name) for tree, name in zip(trees, ("x", "y", "sample_weight"), strict=True)
        )
        arrays = tree_leaves(self.trees)
        shapes = [tuple(a.shape) for a in arrays]
        if any(len(shape) == 0 or shape[0] != shapes[0][0] for shape in shapes):
            raise ValueError(f"{owner}: arrays have shapes {shapes}; give as many rows in each")
        for a in arrays:
            if a.dtype.kind not in "biuf":
                raise TypeError(f"{owner}: an array of shape {tuple(a.shape)} has dtype {a.dtype}; give real numbers")
        self.owner, self.first, self.last = owner, first, shapes[0][0] if last is None else last
        self.n = self.last - first
        row = sum(int(np.prod(a.shape[1:])) * max(a.dtype.itemsize, 4) for a in arrays)
        chunks = [a.chunks[0] for a in arrays if getattr(a, "chunks", None)]
        chunk = max([max(c) if isinstance(c, tuple) else c for c in chunks], default=1)  # Dask has a tuple of them
        self.block = chunk * max(1, BLOCK // max(row * chunk, 1))  # rows: whole chunks, which are decompressed as one
        self.blocks_at_once = max(1, WINDOW // max(row * self.block, 1))

    def check_epochs(self, epochs: int, why: str) -> None:
        """Arrays can be read any number of times."""

    def named(self, error: Exception, i: int) -> Exception:
        """The error of part i; rows are named by the one who knows which they are."""
        return error

    def part(self, first: int, last: int) -> Blocks:
        """These rows only."""
        return Blocks(self.trees, self.owner, self.first + first, self.first + last)

    def targets(self) -> Blocks:
        """The same rows of y alone."""
        return Blocks((self.trees[1],) * 2 + (None,), self.owner, self.first, self.last)

    def read(self, first: int, last: int) -> tuple[Any, Any, Any]:
        return tree_map(lambda a: np.asarray(a[first:last]), self.trees)

    def head(self) -> tuple[Any, Any, Any]:
        """The first sample, to see whether it fits."""
        return self.read(self.first, min(self.first + 1, self.last))

    def in_order(self) -> Iterator[tuple[Any, Any, Any]]:
        for first in range(self.first, self.last, self.block):
            yield self.read(first, min(first + self.block, self.last))

    def parts(
        self, rng: np.random.Generator | None, batch: int, accumulate: int, drop_last: bool = False
    ) -> Iterator[Part]:
        """An epoch; every part but the last is of whole updates, and the last one of whole batches if `drop_last`."""
        starts = np.arange(self.first, self.last, self.block)
        if rng is not None:
            rng.shuffle(starts)
        update, rest, rest_rows = batch * accumulate, self.read(0, 0), np.zeros(0, np.int64)
        for w in range(0, len(starts), self.blocks_at_once):
            ranges = [(s, min(s + self.block, self.last)) for s in starts[w : w + self.blocks_at_once].tolist()]
            samples = self.joined(rest, ranges)
            rows = np.concatenate([rest_rows, *(np.arange(*pair) for pair in ranges)])
            n = len(rows)
            is_last = w + self.blocks_at_once >= len(starts)
            used = n - n % (batch if drop_last else 1) if is_last else n - n % update
            order = np.arange(n) if rng is None else rng.permutation(n)
            left = order[used:]
            rest, rest_rows = tree_map(lambda a, left=left: a[left], samples), rows[left]
            if used:
                yield Part(samples, None if rng is None else order[:used], used, batch, rows)

    def joined(self, rest: Any, ranges: list[tuple[int, int]]) -> tuple[Any, Any, Any]:
        """The rest of the window before, and some blocks."""

        def join(a: Any, rest: NDArray[Any]) -> NDArray[Any]:
            size = len(rest) + sum(last - first for first, last in ranges)
            out = np.empty((size, *a.shape[1:]), rest.dtype)
            out[: len(rest)], row = rest, len(rest)
            for first, last in ranges:
                out[row : row + last - first] = a[first:last]
                row += last - first
            return out

        return tree_map(join, self.trees, rest)


class Batches:
    """An iterable of batches (x, y) or (x, y, sample_weight), or a function that returns one for each epoch.

    Parameters
    ----------
    batches : iterable or callable
    owner : str
        Who reads, for errors.
    check_names : callable
        Gets x and y of each batch as they come, before they are arrays.
    inputs : {None, "one", "several"}
        For a prediction, how many inputs x is for; batches are then x, (x,) or (x, y).
    """

    together = GROUP

    def __init__(
        self, batches: Any, owner: str, check_names: Callable[..., None], *, inputs: str | None = None
    ) -> None:
        self.batches, self.owner, self.check_names, self.inputs = batches, owner, check_names, inputs
        self.begun: Iterator[Any] | None = None  # the iterator whose first batch `head` has read
        self.first: Any = None  # that batch
        self.again = callable(batches) or iter(batches) is not batches
        self.n: int | None = None  # the number of samples is known when all have been read

    @property
    def n_batches(self) -> int | None:
        """The number of batches, if it is known."""
        try:
            return len(self.batches)
        except TypeError:
            return None

    def check_epochs(self, epochs: int, why: str) -> None:
        """Raise if they would have to be read more often than they can."""
        if epochs > 1 and not self.again:
            raise ValueError(
                f"{self.owner}: {kind(self.batches)} gives its batches once, but {why} need them {epochs} times; give "
                "a list, a loader, or the generator function itself instead of what it returns"
            )

    def named(self, error: Exception, i: int) -> Exception:
        """The error of batch i, with its number."""
        return type(error)(f"batch {i}: {error}")

    def head(self) -> Any:
        """The first batch, which `in_order` gives again, the same object."""
        self.begun = self.start()
        try:
            self.first = self.batch(next(self.begun), 0)
        except StopIteration:
            raise ValueError(f"{self.owner}: {kind(self.batches)} gives no batch; give at least one") from None
        return self.first

    def start(self) -> Iterator[Any]:
        iterable = self.batches() if callable(self.batches) else self.batches
        try:
            return iter(iterable)
        except TypeError:
            raise TypeError(
                f"{self.owner}: {kind(self.batches)} must return an iterator of batches, got {kind(iterable)}"
            ) from None

    def in_order(self) -> Iterator[Any]:
        begun, first = self.begun, self.first
        self.begun = self.first = None
        if begun is not None:
            yield first
        for i, batch in enumerate(self.start() if begun is None else begun, int(begun is not None)):
            yield self.batch(batch, i)

    def batch(self, batch: Any, i: int) -> tuple[Any, Any, Any]:
        """x, y and weights of a batch, as arrays or None."""
        where, names = f"{self.owner}: batch {i}", ("x", "y", "sample_weight")
        if self.inputs is not None:
            self._check_names(i, self.input_of(batch))
            return self.input_of(arrays_of(batch, where)), None, None
        if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
            what = f"{kind(batch)} of {len(batch)}" if isinstance(batch, tuple | list) else kind(batch)
            raise TypeError(f"{where} must be (x, y) or (x, y, sample_weight), got {what}")
        self._check_names(i, *batch[:2])
        x, y, weights = (*(arrays_of(a, where, name) for a, name in zip(batch, names, strict=False)), None)[:3]
        return x, y, weights

    def _check_names(self, i: int, *frames: Any) -> None:
        try:
            self.check_names(*frames)
        except ValueError as error:
            raise self.named(error, i) from None

    def input_of(self, batch: Any) -> Any:
        """The x of a batch, which may be (x,) or (x, y); several inputs are a tuple themselves."""
        is_pair = isinstance(batch, tuple) and (self.inputs == "one" or isinstance(batch[0], tuple))
        return batch[0] if is_pair else batch

    def parts(
        self, rng: np.random.Generator | None, batch: int, accumulate: int, drop_last: bool = False
    ) -> Iterator[Part]:
        """An epoch: so many batches in a part as give an update."""
        group: list[Any] = []
        for i, samples in enumerate(self.in_order()):
            group.append(samples)
            if len(group) == accumulate:
                yield self.joined(group, i)
                group = []
        if group:
            yield self.joined(group, i)

    def joined(self, group: list[Any], i: int) -> Part:
        if len(group) == 1:
            return Part(group[0], None, None, None)
        sizes = [len(tree_leaves(samples)[0]) for samples in group]
        if any(size != sizes[0] for size in sizes[:-1]) or sizes[-1] > sizes[0]:
            raise ValueError(
                f"{self.owner}: accumulate={len(sizes)} takes batches of one size, up to {i} they are of {sizes}"
            )
        return Part(tree_map(lambda *arrays: np.concatenate(arrays), *group), None, None, sizes[0])


class Partitions(Batches):
    """Data frames of Dask, read partition by partition.

    In training, the partitions come in a new random order each epoch, and so do the rows of each, in batches.

    Parameters
    ----------
    frames : tuple
        x, y and weights or None, of the same partitions.
    """

    def __init__(self, frames: tuple[Any, Any, Any], owner: str, check_names: Callable[..., None]) -> None:
        self.frames = [frame for frame in frames if frame is not None]
        numbers = [getattr(frame, "npartitions", None) for frame in self.frames]
        if len(self.frames) < 2 or numbers != numbers[:1] * len(numbers):
            raise ValueError(
                f"{owner}: x is a frame of Dask of {numbers[0]} partitions; give y and sample_weight as frames of the "
                f"same partitions, such as frame[['x1', 'x2']] and frame[['y']], got {numbers[1:] or 'no y'}"
            )
        self.n_partitions: int = frames[0].npartitions
        # some may be empty, as after a filter
        super().__init__(
            lambda: filter(lambda part: len(part[0]), map(self.partition, range(self.n_partitions))), owner, check_names
        )

    def partition(self, i: int) -> tuple[Any, ...]:
        """The rows of a partition, computed by Dask all at once."""
        return sys.modules["dask"].compute(*(frame.partitions[i] for frame in self.frames))

    def named(self, error: Exception, i: int) -> Exception:
        return type(error)(f"partition {i}: {error}")

    def parts(
        self, rng: np.random.Generator | None, batch: int, accumulate: int, drop_last: bool = False
    ) -> Iterator[Part]:
        self.begun = self.first = None
        for i in range(self.n_partitions) if rng is None else rng.permutation(self.n_partitions).tolist():
            samples = self.batch(self.partition(i), i)
            n = len(tree_leaves(samples)[0])
            if n:
                yield Part(samples, None if rng is None else rng.permutation(n), n, batch)


def is_dask_frame(x: Any) -> bool:
    """Whether this is a data frame or a series of Dask."""
    return type(x).__module__.partition(".")[0].startswith("dask") and hasattr(x, "partitions") and not on_disk(x)


def arrays_of(data: Any, owner: str, what: str = "x") -> Any:
    """Tensors, tables and lists as arrays, in nested tuples; arrays on disk stay there."""
    if data is None or on_disk(data) or type(data) is np.ndarray:
        return data
    if isinstance(data, tuple) or is_sequence_of_arrays(data):
        return tuple(arrays_of(part, owner, f"{what}[{i}]") for i, part in enumerate(data))
    if hasattr(data, "numpy") and not hasattr(data, "__array__"):
        data = data.numpy()
    return as_real(data, owner, what)


def prefetch(items: Iterable[Any], together: int = 1) -> Generator[Any, None, None]:
    """The same items, read by a thread while the caller uses the ones before; its exceptions are raised here.

    The thread hands over up to `together` items at once, if they come fast. Close this generator, as
    contextlib.closing does, and the thread ends after the item that it reads.
    """
    waiting: queue.Queue[tuple[list[Any], BaseException | None, bool]] = queue.Queue(PREFETCH)
    closed = threading.Event()

    def put(group: list[Any], error: BaseException | None, last: bool) -> bool:
        while not closed.is_set():
            try:
                waiting.put((group, error, last), timeout=POLL_SECONDS)
                return True
            except queue.Full:
                pass
        return False

    def read() -> None:
        iterator: Iterator[Any] = iter(())
        group: list[Any] = []
        try:
            iterator, begin = iter(items), time.perf_counter()
            for item in iterator:
                group.append(item)
                if len(group) == together or time.perf_counter() - begin > GROUP_SECONDS:
                    if not put(group, None, False):
                        return
                    group, begin = [], time.perf_counter()
            put(group, None, True)
        except BaseException as error:  # raised where the items are used
            put(group, error, True)
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=read, name="fastfc reads ahead", daemon=True)
    thread.start()
    try:
        last = False
        while not last:
            try:
                group, error, last = waiting.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue  # so that Ctrl-C is seen on every system
            while group:
                yield group.pop(0)
            if error is not None:
                raise error
    finally:
        closed.set()
        thread.join(JOIN_SECONDS)


class Rows:
    """Where the parts of a result go: into `out` if there is one, else into an array that is made of them.

    Parameters
    ----------
    out : array or None
        In memory or on disk.
    owner : str
        Whose result it is, for errors.
    n : int or None
        The number of rows, if it is known.
    """

    def __init__(self, out: Any, owner: str, n: int | None) -> None:
        self.out, self.owner, self.n, self.done = out, owner, n, 0
        self.parts: list[NDArray[Any]] = []

    def append(self, part: NDArray[Any]) -> None:
        if self.out is None and self.n is not None:
            self.out = np.empty((self.n, *part.shape[1:]), part.dtype)
        if self.out is None:
            self.parts.append(part)
            return
        shape = len(self.out) if self.n is None else self.n, *part.shape[1:]
        if tuple(self.out.shape) != shape or self.out.dtype != part.dtype:
            raise ValueError(
                f"{self.owner}: out has shape {tuple(self.out.shape)} and dtype {self.out.dtype}, expected {shape} and "
                f"{part.dtype}"
            )
        if self.done + len(part) > len(self.out):
            raise ValueError(f"{self.owner}: out has {len(self.out)} rows, and the batches have more; make it longer")
        self.out[self.done : self.done + len(part)] = part
        self.done += len(part)

    def result(self, nothing: str) -> Any:
        """All rows; `nothing` says what is wrong if there was no part."""
        if self.out is None and not self.parts:
            raise ValueError(f"{self.owner}: {nothing}")
        if self.out is not None and self.done != len(self.out):
            raise ValueError(
                f"{self.owner}: out has {len(self.out)} rows, but the batches only {self.done}; give out[:{self.done}]"
            )
        return np.concatenate(self.parts) if self.out is None else self.out
