"""`Progress`: the bar of a `fit`, drawn by tqdm."""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fastfc.extras import extra

if TYPE_CHECKING:
    from fastfc.training.history import History

EVERY = 0.1  # seconds


def can_show() -> bool:
    """Whether tqdm is installed, for callers that show no bar without it."""
    return find_spec("tqdm") is not None


def is_watched() -> bool:
    """Whether stderr is a terminal, or a notebook's."""
    return sys.stderr is not None and (sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel"))


class Progress:
    """One bar on stderr for a `fit`: epoch, samples and how many a second, loss, validation.

    Silent, and without need of tqdm, unless stderr is a terminal or a notebook's.

    Parameters
    ----------
    show : bool
    epochs : int
    n : int or None
        Samples of an epoch; None if not known.

    Raises
    ------
    ImportError
        Without tqdm, if a bar would be shown.
    """

    def __init__(self, show: bool, epochs: int, n: int | None) -> None:
        self.tqdm: Any = None
        if show and is_watched():
            self.tqdm = extra("tqdm.auto", "progress", "progress=True").tqdm
        self.epochs, self.n = epochs, n
        self.epoch = self.before = self.done = 0  # before: samples of the epochs that are over
        self.loss = 0.0
        self.history: History | None = None
        self.bar: Any = None
        self.next, self.start = time.perf_counter() + EVERY, time.time()

    def show(self, epoch: int, done: int, loss: float, history: History) -> None:
        """How far an epoch, counted from 0, is: samples done and their mean loss. May be called often."""
        if self.tqdm is None:
            return
        if epoch != self.epoch:
            self.before, self.epoch = self.before + self.done, epoch
        self.done, self.loss, self.history = done, loss, history
        if time.perf_counter() >= self.next:
            self._draw(history)

    def close(self) -> None:
        """Leave the bar as the latest `show` said."""
        if self.history is not None:
            self._draw(self.history)
            self.bar.close()

    def _draw(self, history: History) -> None:
        if self.bar is None:
            total = self.n and self.n * self.epochs
            options = {"mininterval": 0, "miniters": 1, "smoothing": 0, "dynamic_ncols": True, "unit_scale": True}
            self.bar = self.tqdm(total=total, unit=" samples", file=sys.stderr, **options)
            self.bar.start_t = self.start
        row = history.rows[-1] if history.rows else {}
        scores = [name for name in row if name.startswith("val_")][:2]
        self.bar.set_description_str(f"epoch {self.epoch + 1}/{self.epochs}", refresh=False)
        self.bar.set_postfix({"loss": self.loss} | {name: row[name] for name in scores}, refresh=False)
        self.bar.update(self.before + self.done - self.bar.n)
        self.next = time.perf_counter() + EVERY
