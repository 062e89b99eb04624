"""Data that come in parts: arrays on disk that are larger than memory, and iterables of batches.

Parts are read by a thread of its own, ahead of the training that uses them, which gives up the GIL.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Set
from contextlib import closing
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfc.validation import as_real

# Arrays on disk of at most so many bytes are read as a whole; they then train like arrays in memory.
IN_MEMORY = 2**28
# Of larger ones, blocks of about BLOCK bytes are read in a random order, and so many as fit into WINDOW are shuffled.
BLOCK, WINDOW = 2**20, 2**25
AHEAD = 1  # parts that wait, besides the one in use and the one that is being read
GROUP, GROUP_SECONDS = 64, 0.002  # batches are handed over together: each time costs both threads
PATIENCE = 0.1  # seconds between looks at whether the other thread is still there
FAREWELL = 2.0  # seconds that a thread has to end


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
    """A function of arrays, of each in nested tuples; None stays None."""
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
    return [a for a in (tree if several(tree) else [tree]) if on_disk(a)]


def several(tree: Any) -> bool:
    """Whether this is a tuple or a list of arrays, and not of numbers or rows of them."""
    shape = getattr(tree[0], "shape", ()) if isinstance(tree, tuple | list) and len(tree) > 0 else ()
    return isinstance(shape, tuple) and len(shape) > 0  # a class has a shape too, which is none


def gives_batches(x: Any) -> bool:
    """Whether this is an iterable, or a function that returns one, and no array, table or sequence of numbers."""
    if isinstance(x, np.ndarray | str | bytes | Mapping | Set | type):
        return False
    if any(hasattr(x, name) for name in ("__array__", "to_numpy", "__array_interface__", "dtype")):
        return False
    return callable(x) or (hasattr(x, "__iter__") and not (hasattr(x, "__getitem__") and hasattr(x, "__len__")))


def source_of(
    x: Any, y: Any, sample_weight: Any, owner: str, look: Callable[..., None] = lambda *given: None
) -> Blocks | Batches | None:
    """What gives the samples in parts, if they do not come as arrays; `look` sees x and y as they come."""
    if y is None:
        if isinstance(x, list | tuple) or gives_batches(x):
            if sample_weight is not None:
                raise TypeError(f"{owner}: with batches, leave out sample_weight; give batches (x, y, sample_weight)")
            return Batches(x, owner, look)
        raise TypeError(f"{owner}: y is missing; give the targets, or as x an iterable of batches (x, y)")
    if gives_batches(x):
        raise TypeError(f"{owner}: x is {kind(x)}, which must give batches (x, y); leave out y")
    if not too_large(x, y, sample_weight):
        return None
    look(x, y)
    return Blocks((x, y, sample_weight), owner)


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
        """Arrays can be read as often as one likes."""

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

    def parts(self, rng: np.random.Generator | None, batch: int, accumulate: int) -> Iterator[Part]:
        """An epoch; every part but the last is of whole updates."""
        starts = np.arange(self.first, self.last, self.block)
        if rng is not None:
            rng.shuffle(starts)
        update, rest, rest_rows = batch * accumulate, self.read(0, 0), np.zeros(0, np.int64)
        for w in range(0, len(starts), self.blocks_at_once):
            ranges = [(s, min(s + self.block, self.last)) for s in starts[w : w + self.blocks_at_once].tolist()]
            samples = self.joined(rest, ranges)
            rows = np.concatenate([rest_rows, *(np.arange(*pair) for pair in ranges)])
            n = len(rows)
            used = n if w + self.blocks_at_once >= len(starts) else n - n % update
            order = np.arange(n) if rng is None else rng.permutation(n)
            left = order[used:]
            rest, rest_rows = tree_map(lambda a, left=left: a[left], samples), rows[left]
            if used:
                yield Part(samples, None if rng is None else order[:used], used, batch, rows)

    def joined(self, rest: Any, ranges: list[tuple[int, int]]) -> tuple[Any, Any, Any]:
        """The rest of the window before, and some blocks."""

        def join(a: Any, kept: NDArray[Any]) -> NDArray[Any]:
            size = len(kept) + sum(last - first for first, last in ranges)
            out = np.empty((size, *a.shape[1:]), kept.dtype)
            out[: len(kept)], place = kept, len(kept)
            for first, last in ranges:
                out[place : place + last - first] = a[first:last]
                place += last - first
            return out

        return tree_map(join, self.trees, rest)


class Batches:
    """An iterable of batches (x, y) or (x, y, sample_weight), or a function that returns one for each epoch."""

    together = GROUP

    def __init__(self, batches: Any, owner: str, look: Callable[..., None], *, of_x: bool = False) -> None:
        self.batches, self.owner, self.look, self.of_x = batches, owner, look, of_x
        self.begun: Iterator[Any] | None = None
        self.again = callable(batches) or iter(batches) is not batches
        self.n: int | None = None  # how many samples there are is known when all have been seen

    @property
    def n_batches(self) -> int | None:
        """How many there are, if that can be told."""
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

    def head(self) -> Any:
        """The first batch, which will be the first again."""
        begun = self.start()
        try:
            first = next(begun)
        except StopIteration:
            raise ValueError(f"{self.owner}: {kind(self.batches)} gives no batch; give at least one") from None
        self.begun = chain([first], begun)
        return self.batch(first, 0)

    def start(self) -> Iterator[Any]:
        if self.begun is not None:
            begun, self.begun = self.begun, None
            return begun
        found = self.batches() if callable(self.batches) else self.batches
        try:
            return iter(found)
        except TypeError:
            raise TypeError(
                f"{self.owner}: {kind(self.batches)} must return an iterator of batches, got {kind(found)}"
            ) from None

    def in_order(self) -> Iterator[Any]:
        for i, batch in enumerate(self.start()):
            yield self.batch(batch, i)

    def batch(self, given: Any, i: int) -> Any:
        if self.of_x:
            self._look(i, given)
            return arrays_of(given, f"{self.owner}: batch {i}")
        if not isinstance(given, tuple | list) or len(given) not in (2, 3):
            what = f"{kind(given)} of {len(given)}" if isinstance(given, tuple | list) else kind(given)
            raise TypeError(f"{self.owner}: batch {i} must be (x, y) or (x, y, sample_weight), got {what}")
        self._look(i, *given[:2])
        where, names = f"{self.owner}: batch {i}", ("x", "y", "sample_weight")
        return (*(arrays_of(part, where, name) for part, name in zip(given, names, strict=False)), None)[:3]

    def _look(self, i: int, *given: Any) -> None:
        try:
            self.look(*given)
        except ValueError as error:
            raise ValueError(f"batch {i}: {error}") from None

    def parts(self, rng: np.random.Generator | None, batch: int, accumulate: int) -> Iterator[Part]:
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


def arrays_of(given: Any, owner: str, what: str = "x") -> Any:
    """Tensors, tables and lists as arrays, in nested tuples; arrays on disk stay there."""
    if given is None or on_disk(given) or type(given) is np.ndarray:
        return given
    if isinstance(given, tuple) or several(given):
        return tuple(arrays_of(part, owner, f"{what}[{i}]") for i, part in enumerate(given))
    if hasattr(given, "numpy") and not hasattr(given, "__array__"):
        given = given.numpy()
    return as_real(given, owner, what)


def prefetch(items: Iterable[Any], together: int = 1) -> Generator[Any, None, None]:
    """The same items, got by a thread while the caller is busy with the ones before; its exceptions come here.

    So many are handed over together, if they come fast. Close this generator, as contextlib.closing does, and the
    thread ends with what it is at.
    """
    waiting: queue.Queue[tuple[list[Any], BaseException | None, bool]] = queue.Queue(AHEAD)
    closed = threading.Event()

    def put(group: list[Any], error: BaseException | None, last: bool) -> bool:
        while not closed.is_set():
            try:
                waiting.put((group, error, last), timeout=PATIENCE)
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
        except BaseException as error:  # whoever waits for an item gets it
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
                group, error, last = waiting.get(timeout=PATIENCE)
            except queue.Empty:
                continue  # so that Ctrl-C is seen on every system
            while group:
                yield group.pop(0)
            if error is not None:
                raise error
    finally:
        closed.set()
        thread.join(FAREWELL)


def predict(network: Any, x: Any, out: Any, params: Any) -> Any:
    """The outputs for x, that is read in parts; see Layer.predict."""
    n = None
    source: Batches | Blocks
    if gives_batches(x):
        source = Batches(x, str(network), lambda batch: network._look(input_of(network, batch)), of_x=True)
        parts = inputs(network, source)
    else:
        source = Blocks((x, None, None), str(network))
        n, parts = source.n, (network._join(samples[0]) for samples in source.in_order())
    found, place = [], 0
    with closing(prefetch(parts, source.together)) as reading:
        for part in reading:
            result = network._output(part, None, params)
            if out is None and n is not None:
                out = np.empty((n, *result.shape[1:]), result.dtype)
            if out is None:
                found.append(result)
                continue
            wanted = len(out) if n is None else n, *result.shape[1:]
            if tuple(out.shape) != wanted or out.dtype != result.dtype:
                raise ValueError(
                    f"{network}: out has shape {tuple(out.shape)} and dtype {out.dtype}, expected {wanted} and "
                    f"{result.dtype}"
                )
            if place + len(result) > len(out):
                raise ValueError(f"{network}: out has {len(out)} rows, and the batches have more; make it longer")
            out[place : place + len(result)] = result
            place += len(result)
    if out is None and not found:
        raise ValueError(f"{network}: {kind(x)} gives no batch; give at least one")
    if out is not None and place != len(out):
        raise ValueError(f"{network}: out has {len(out)} rows, but the batches only {place}; give out[:{place}]")
    return np.concatenate(found) if out is None else out


def input_of(network: Any, batch: Any) -> Any:
    """The x of a batch, which may be (x,) or (x, y)."""
    return batch[0] if isinstance(batch, tuple) and (network._one_input or isinstance(batch[0], tuple)) else batch


def inputs(network: Any, batches: Batches) -> Iterator[NDArray[Any]]:
    """The x of batches, which may be (x,) or (x, y) as for `fit`."""
    for i, batch in enumerate(batches.in_order()):
        try:
            yield network._join(input_of(network, batch))
        except (TypeError, ValueError) as error:
            raise type(error)(f"batch {i}: {error}") from None
