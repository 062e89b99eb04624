"""Kernels on several threads: blocks of the output, each computed by the serial kernel.

The bits of an element do not depend on the block that it is in, so they do not depend on the threads either.
"""

import contextlib
import math
import operator
import os
import threading

import numba
import numpy as np
from numba import njit

# Multiplications that each thread must have to do for a launch to pay (asv: threads.Launch).
LEAST_WORK = 1 << 20

serial = threading.Event()  # set in a forked child, where GNU OpenMP would wait for its lost threads forever
launching = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=serial.set)


@contextlib.contextmanager
def launch(n_threads, work):
    """How many parts to make of so many multiplications, 1 where threads would not pay or would not be safe.

    Numba's own layer "workqueue" aborts the process when two threads launch at once: there, whoever comes
    second works alone.
    """
    if operator.index(n_threads) < 1:
        raise ValueError(f"n_threads must be at least 1, got {n_threads}")
    parts = min(n_threads, numba.get_num_threads(), work // LEAST_WORK)
    if parts < 2 or serial.is_set():
        yield 1
    elif layer() != "workqueue":
        yield parts
    elif launching.acquire(blocking=False):
        try:
            yield parts
        finally:
            launching.release()
    else:
        yield 1


def multiplications(a, b, c):
    """n i o, from the three matrices of a product in any order; whatever they are, for the kernel has yet to check."""
    return math.isqrt(np.size(a) * np.size(b) * np.size(c))


def layer():
    """The threading layer, as Numba settles it at the first parallel run; until then taken for the worst."""
    try:
        return numba.threading_layer()
    except ValueError:
        return "workqueue"


@njit
def part(index, parts, count):
    """Slice of `count` items that part `index` has; whole cache lines, so that two threads never share one."""
    line = 16
    lines = (count + line - 1) // line
    return slice(min(count, index * lines // parts * line), min(count, (index + 1) * lines // parts * line))
