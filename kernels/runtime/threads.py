"""How many threads a kernel runs on: as many as it is asked for, and as pay for so much work.

Each thread computes a range of the output with the serial kernel. The bits of an element do not depend on the range
that it is in, so they do not depend on the number of threads either, and "auto" is a safe default.
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
from typing import Any

import numba
import numpy as np

from fastfc.kernels.runtime import plan
from fastfc.kernels.runtime.pool import pool
from fastfc.kernels.simd.compiler import helper

CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

AUTO = "auto"

# Multiplications that each thread must have to do. Measured on two cores of a Zen 5 (asv: threads.Launch), which do
# some 120,000 of them a microsecond: to wake a worker costs the caller 9 µs, and it begins 20 µs later. So a call of
# 4 Mi (32 µs) is the first that does not lose when workers sleep, and gains 14 µs when they do not. After a rest of
# 20 ms in a virtual machine, whose core sleeps as well, it is 36 and 85 µs, and calls of up to 200 µs gain nothing.
MIN_WORK = 1 << 21
# The same for a product inside a network's call, before which workers have hardly fallen asleep: a launch is 0.5 µs.
MIN_RANGE_WORK = 1 << 18
# To read an element from L2 or beyond takes as long as so many multiplications.
ELEMENT_WORK = 4
# So few multiplications that, with all matrices of a product, they are less than 2 MIN_WORK.
TINY = MIN_WORK // 8

allowed = None  # the number of threads that threadpoolctl allows; None without a limit


def cores():
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def numba_threads():
    """How many threads Numba may use: NUMBA_NUM_THREADS, less where numba.set_num_threads says so."""
    try:
        numba.threading_layer()
    except ValueError:  # nobody has used its threads yet, and to ask would start them
        return numba.config.NUMBA_NUM_THREADS
    return numba.get_num_threads()


def environment_limit(name):
    """The number of threads that an environment variable allows; None if it says nothing.

    OMP_NUM_THREADS may be a list, for nested regions, and is not ours: what it has that is no number says nothing.
    """
    text = os.environ.get(name, "").partition(",")[0].strip()
    if not text or (name == "OMP_NUM_THREADS" and not text.isdigit()):
        return None
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"{name} must be a positive integer, got {os.environ[name]!r}")
    return max(1, int(text))


def alone():
    """Why this thread should not have others compute for it, as text; empty if it may."""
    if plan.forked.is_set():
        return "a forked process"
    multiprocessing = sys.modules.get("multiprocessing")
    variables = "FASTFC_NUM_THREADS", "OMP_NUM_THREADS"  # which loky sets
    if multiprocessing and multiprocessing.parent_process():
        return "" if any(map(environment_limit, variables)) else "a process of multiprocessing"
    joblib = sys.modules.get("joblib.parallel")
    if joblib and joblib.get_active_backend()[0].nesting_level:
        return "a worker of joblib"
    return "numba.prange" if in_prange() else ""


def in_prange():
    """Whether Python code runs inside a prange, by Numba's objmode."""
    with contextlib.suppress(ValueError):
        of_openmp = numba.threading_layer() == "omp" and openmp_in_parallel()()
        # a thread that Python did not start
        return bool(of_openmp) or isinstance(threading.current_thread(), threading._DummyThread)
    return False


@cache
def openmp_in_parallel():
    """omp_in_parallel of the OpenMP that Numba uses."""
    try:
        return ctypes.CDLL(importlib.import_module("numba.np.ufunc.omppool").__file__).omp_in_parallel
    except (ImportError, OSError, AttributeError):
        return int


def limits():
    """(threads, what says so) of everything that limits how many threads "auto" takes, here and now."""
    yield cores(), "cores by affinity"
    limit = quota()
    if limit is not None:
        yield math.ceil(limit), "the quota of the control group"
    yield numba_threads(), "NUMBA_NUM_THREADS"
    for name in ("OMP_NUM_THREADS", "FASTFC_NUM_THREADS"):
        limit = environment_limit(name)
        if limit is not None:
            yield limit, name
    if allowed is not None:
        yield allowed, "threadpoolctl"
    why = alone()
    if why:
        yield 1, why


def auto_threads():
    """(threads, why) of the most that "auto" takes, here and now."""
    return min(limits(), key=operator.itemgetter(0))


def limit_to(n_threads):
    """Let "auto" take at most so many threads, and those who name a number too; as many as it would is no limit."""
    global allowed
    allowed = None
    if n_threads < auto_threads()[0]:
        allowed = max(1, n_threads)


def most_threads(n_threads):
    """At most how many threads are used, of so many that are asked for."""
    if n_threads == AUTO:
        return auto_threads()[0]
    return min(n_threads, cores(), math.ceil(quota() or n_threads), numba_threads(), allowed or n_threads)


def prepare_threads(n_threads, work):
    """Number of threads for so many multiplications, 1 where threads do not pay; for several, the workers are there.

    `n_threads` is "auto" or a positive integer.
    """
    if n_threads == 1 or work < 2 * MIN_WORK:
        return 1
    n_threads = min(most_threads(n_threads), work // MIN_WORK)
    if n_threads < 2:
        return 1
    pool.grow(n_threads - 1)
    return min(n_threads, pool.n_workers + 1)


def check_n_threads(n_threads, where):
    """`n_threads` as "auto" or an int of at least 1, or an error that says where it was given."""
    if type(n_threads) is str and n_threads == AUTO:
        return n_threads
    try:
        if isinstance(n_threads, bool):
            raise TypeError
        number = operator.index(n_threads)
    except TypeError:
        raise TypeError(f'{where}: n_threads must be "auto" or an integer, got {n_threads!r}') from None
    if number < 1:
        raise ValueError(
            f'{where}: n_threads must be at least 1, got {n_threads}; "auto" takes as many as this process may use'
        )
    return number


def is_tiny(n_threads, a, b, axis):
    """Whether a product of a and of an axis of b runs on one thread anyway; this takes a tenth of a microsecond."""
    try:
        return (n_threads is AUTO or (type(n_threads) is int and n_threads >= 1)) and a.size * b.shape[axis] < TINY
    except (AttributeError, IndexError, TypeError):  # not matrices, as the kernel will say
        return False


def resolve(n_threads, where, work):
    """Number of threads for a kernel: what it was given, checked, and what pays for so many multiplications."""
    if n_threads is not AUTO:
        n_threads = check_n_threads(n_threads, where)
    return 1 if work < 2 * MIN_WORK else prepare_threads(n_threads, work)


def shape(a: Any) -> tuple[int, int]:
    """Rows and columns of a matrix; 0 of what is none, which the kernel will see to."""
    return a.shape if isinstance(a, np.ndarray) and a.ndim == 2 else (0, 0)


def product_work(m, n, k):
    """Multiplications of a product (m, k) by (k, n), and what the time to read and write its matrices is worth."""
    return m * n * k + ELEMENT_WORK * (m * k + k * n + m * n)


product_work_in_kernels = helper(product_work)


@helper
def thread_range(index, n_threads, count):
    """First and last + 1 of the `count` items that thread `index` has.

    Whole cache lines, so that two threads never share one; the last range has the rest as well. So no range is
    narrower than a line unless the whole is: its few columns would be summed another way, see `gemm.NARROW`.
    """
    line = 16
    lines = max(1, count // line)
    first, last = index * lines // n_threads, (index + 1) * lines // n_threads
    return first * line, count if last == lines else last * line
