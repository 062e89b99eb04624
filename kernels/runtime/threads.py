"""Kernels on several threads: blocks of the output, each computed by the serial kernel.

The bits of an element do not depend on the block that it is in, so they do not depend on the threads either.
"""

import contextlib
import ctypes
import importlib
import math
import operator
import os
import sys
import threading
from functools import cache
from pathlib import Path

import numba
import numpy as np

from fastfc.kernels.runtime import plan
from fastfc.kernels.runtime.native import DTYPES, load_parallel
from fastfc.kernels.simd.compiler import helper

CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

# Multiplications that each thread must have to do for a launch to pay (asv: threads.Launch).
MIN_WORK = 1 << 20

serial = threading.Event()  # set in a forked child, where GNU OpenMP would wait for its lost threads forever
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=serial.set)


def cores():
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def cpu_max(cgroup):
    """Quota and period of one control group, as text; the quota is "max" or -1 without limit."""
    for files in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):  # version 2, version 1
        try:
            return " ".join((cgroup / file).read_text() for file in files).split()
        except OSError:
            continue
    return "max", "1"


@cache
def quota(root=CGROUPS, membership=MEMBERSHIP):
    """Processor seconds a second that the container allows, the least of all levels; None without limit."""
    if not membership.exists():
        return None
    limits = []
    for line in os.fsdecode(membership.read_bytes()).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "cpu" if controllers else root
        level = base / path.lstrip("/")
        for cgroup in (level, *level.parents):
            limit, period = cpu_max(cgroup)
            if limit not in ("max", "-1"):
                limits.append(int(limit) / int(period))
            if cgroup == base:
                break
    return min(limits, default=None)


plan.available_cores = lambda: min(cores(), quota() or cores())


@cache
def start():
    """Have Numba start its threads, and leave the settings of others as they were.

    Numba sets how many threads OpenMP uses, also for others that use the same library, and settles how
    multiprocessing starts processes, which a program may settle only once.
    """
    import multiprocessing  # no other part needs it

    method: str | None = multiprocessing.get_start_method(allow_none=True)
    get, put = openmp_threads()
    before = get()
    numba.get_num_threads()
    put(before)
    if method is None:
        multiprocessing.set_start_method(None, force=True)


def openmp_threads():
    """Functions that get and set the number of threads in the OpenMP that Numba uses, if it uses one."""
    try:
        library = ctypes.CDLL(importlib.import_module("numba.np.ufunc.omppool").__file__)
        return library.omp_get_max_threads, library.omp_set_num_threads
    except (ImportError, OSError, AttributeError):
        return int, int


@contextlib.contextmanager
def launch(n_threads, work, out):
    """How many parts to make of so many multiplications, 1 where threads would not pay or would not be safe.

    If there are several, what computes parts for the dtype of the array `out` is loaded.

    Numba's own layer "workqueue" aborts the process when two threads launch at once, and the other launch may be
    the user's: there, only a process with a single thread launches.
    """
    if operator.index(n_threads) < 1:
        raise ValueError(f"n_threads must be at least 1, got {n_threads}")
    n_threads = min(n_threads, work // MIN_WORK)
    if n_threads > 1 and not serial.is_set():
        start()
        # Numba counted the cores once, when it was imported, and knows of no quota
        n_threads = min(n_threads, numba.get_num_threads(), cores(), math.ceil(quota() or n_threads))
    dtype = getattr(out, "dtype", None)
    if n_threads < 2 or serial.is_set() or dtype not in DTYPES:
        yield 1
        return
    load_parallel(DTYPES[dtype])
    yield 1 if layer() == "workqueue" and len(sys._current_frames()) > 1 else n_threads


def single(n_threads, name, work):
    """Whether a kernel of this name runs on one thread, as it is asked to or as so little work does not pay."""
    if type(n_threads) is not int:
        try:
            n_threads = operator.index(n_threads)
        except TypeError:
            raise TypeError(f"{name}: n_threads must be an integer, got {n_threads!r}") from None
    if n_threads < 1:
        raise ValueError(f"{name}: n_threads must be at least 1, got {n_threads}")
    return n_threads == 1 or small(n_threads, work)


def small(n_threads, work):
    """Whether so few multiplications are not worth the microsecond in which `launch` finds that threads don't pay."""
    return n_threads > 1 and work < 2 * MIN_WORK


def multiplications(a, b, c):
    """n i o, from the three matrices of a product in any order; whatever they are, for the kernel has yet to check."""
    try:
        return math.isqrt(a.size * b.size * c.size)
    except (AttributeError, TypeError):
        return math.isqrt(size(a) * size(b) * size(c))


def size(a):
    """How many elements, 0 of what is no array."""
    try:
        return np.asarray(a).size
    except (TypeError, ValueError):
        return 0


def layer():
    """The threading layer, as Numba settles it at the first parallel run; until then taken for the worst."""
    try:
        return numba.threading_layer()
    except ValueError:
        return "workqueue"


@helper
def thread_range(index, n_threads, count):
    """Slice of `count` items that part `index` has.

    Whole cache lines, so that two threads never share one; the last part has the rest as well. So no part is
    narrower than a line unless the whole is: its few columns would be summed another way, see `gemm.NARROW`.
    """
    line = 16
    lines = max(1, count // line)
    first, last = index * lines // n_threads, (index + 1) * lines // n_threads
    return slice(first * line, count if last == lines else last * line)
