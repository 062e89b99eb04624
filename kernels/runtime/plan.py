"""What is to be compiled for a kernel, known before it is compiled: told to the user, and shared with a second process.

The kernels that a kernel calls are found by the names in its source, and in those of its helpers. So a first call can
say how much there is to do, and compile what others need before them. With a core to spare, a second process takes
kernels from the same list: the cache excludes that both compile one, and hands over what the other has compiled.
"""

import contextlib
import functools
import importlib.util
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import ModuleType

from numba.core.dispatcher import Dispatcher
from numba.core.extending import _Intrinsic

from fastfc.kernels.runtime import cache
from fastfc.kernels.simd.compiler import Helper

# Bytes of Python's code for which a second process pays, which takes a second to start: some three seconds of work.
MUCH_WORK = 20_000
# Seconds after which the time that is left is told, if it is as much again.
PATIENCE = 3.0
# How long a second process may take to find that it has nothing left to do.
WAIT_SECONDS = 0.2


def is_kernel(value):
    return hasattr(value, "compile_or_load")


def codes(code):
    """A code object and those inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, type(code)):
            yield from codes(constant)


def contents(values):
    """Values, and what tuples and lists of them hold."""
    for value in values:
        if isinstance(value, tuple | list):
            yield from contents(value)
        else:
            yield value


def named(function):
    """What the names in a function's source stand for."""
    variables, names = function.__globals__, {name for code in codes(function.__code__) for name in code.co_names}
    for name in sorted(names & variables.keys()):
        value = variables[name]
        if isinstance(value, ModuleType):
            yield from (vars(value)[other] for other in sorted(names & vars(value).keys()))
        else:
            yield value
    for place in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # nothing is in it yet
            yield place.cell_contents


@functools.cache
def uses(function):
    """Bytes of code of a function and its helpers, and the kernels that have to be loaded with it, in order."""
    kernels: dict[object, None] = {}
    size, seen, waiting = 0, set(), [function]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        size += sum(len(code.co_code) for code in codes(current.__code__))
        for value in contents(named(current)):
            if is_kernel(value):
                if not value.optional:
                    kernels[value] = None
            elif isinstance(value, Helper | Dispatcher):
                waiting.append(value.py_func)
            elif isinstance(value, _Intrinsic) and value._defn.__closure__:
                kernels |= dict.fromkeys(filter(is_kernel, contents(named(value._defn))))
    return size, list(kernels)


def work(kernel):
    """How much there is to compile for a kernel alone, in bytes of code."""
    return uses(kernel.function)[0]


def missing(kernels, dtype):
    """The kernels that have yet to be loaded for these, those first that others need."""
    found, seen = [], set()

    def visit(kernel):
        if kernel in seen or kernel.slots[dtype][0]:
            return
        seen.add(kernel)
        for other in uses(kernel.function)[1]:
            visit(other)
        found.append(kernel)

    for kernel in kernels:
        visit(kernel)
    return found


class Telling:
    """Tells that kernels are compiled, and how long that takes: a bar in a terminal that has tqdm, else a line or two.

    Parameters
    ----------
    kernels : list
        What is to be compiled.
    dtype : Numba type
    """

    begun = False  # whether this process has said so before: then it does so again for what takes long

    def __init__(self, kernels, dtype):
        self.kernels, self.dtype, self.all = kernels, dtype, sum(map(work, kernels))
        self.start, self.bar, self.late = time.perf_counter(), None, Telling.begun
        if not kernels or (Telling.begun and self.all < MUCH_WORK):
            return
        more, Telling.begun, self.late = "more " * Telling.begun, True, False
        log = logging.getLogger("fastfc")
        if log.isEnabledFor(logging.WARNING) and sys.stderr is not None and sys.stderr.isatty() and has_tqdm():
            from tqdm import tqdm

            text = f"fastfc compiles {len(kernels)} {more}kernels for this machine, {times()}"
            form = "{desc} {percentage:3.0f} %|{bar}| {elapsed} of some {remaining} more"
            self.bar = tqdm(total=self.all, desc=text, bar_format=form, dynamic_ncols=True)
        else:
            announce(len(kernels), more)

    def next(self, kernel):
        """A kernel is there."""
        seconds = time.perf_counter() - self.start
        if self.bar is not None:
            self.bar.update(work(kernel))
        elif not self.late and seconds > PATIENCE:
            self.late = True
            self.tell(seconds)

    def tell(self, seconds):
        """Say how long it takes, if that is long."""
        done = sum(work(kernel) for kernel in self.kernels if kernel.slots[self.dtype][0] or kernel.cached(self.dtype))
        left = seconds * (self.all / done - 1)
        if left > PATIENCE:
            logging.getLogger("fastfc").warning(
                "fastfc: %.0f %% compiled in %.0f s; some %.0f s more", 100 * done / self.all, seconds, left
            )

    def close(self):
        if self.bar is not None:
            self.bar.close()


def has_tqdm():
    return importlib.util.find_spec("tqdm") is not None


def times():
    return "once" if cache.cache_folder() else "in every process"


def announce(count, more=""):
    """Say why the first call takes its time, or `more` of it."""
    logging.getLogger("fastfc").warning(
        "fastfc compiles %s for this machine, %s (fastfc warmup does it ahead)",
        "a kernel" if count == 1 else f"{count} {more}kernels",
        times(),
    )


# Processors that this process may use; `threads` knows, which needs kernels and so sets it.
available_cores: Callable[[], float] = lambda: 1
forked = threading.Event()  # set in a forked child, which leaves processes to its parent
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forked.set)


def may_start_process():
    """Whether a second process could help, and is safe to start."""
    multiprocessing = sys.modules.get("multiprocessing.process")
    return (
        cache.cache_folder() is not None
        and cache.fcntl is not None  # without locks, both would compile the same
        and "FASTFC_SECOND" not in os.environ
        and available_cores() >= 2
        and not getattr(sys, "frozen", False)
        and os.path.basename(sys.executable or "").startswith("python")  # not a program that has Python inside
        and not forked.is_set()
        and (multiprocessing is None or multiprocessing.parent_process() is None)
    )


@contextlib.contextmanager
def second_process(kernels, dtype):
    """Have a second process compile what it can of a list of kernels, while the block runs; not if that won't pay.

    It prints nothing, reads nothing, and ends with the block, or with this process however that ends: it then finds the
    end of its input.
    """
    modules = {kernel.function.__module__ for kernel in kernels}
    if len(kernels) < 2 or sum(map(work, kernels)) < MUCH_WORK or "__main__" in modules or not may_start_process():
        yield
        return
    environment = os.environ | {
        "FASTFC_CACHE": str(cache.cache_folder()),
        "FASTFC_SECOND": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    command = [sys.executable, "-P", "-W", "ignore", "-m", "fastfc.kernels.runtime.second", str(dtype)]
    try:
        process = subprocess.Popen(
            [*command, ",".join(sorted(modules)), *(kernel.name for kernel in kernels)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except OSError:  # no memory or no right for another process
        yield
        return
    try:
        yield
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(WAIT_SECONDS)  # it has nothing left to do
    finally:
        process.kill()
        process.communicate()


# busy: whether this thread goes through a list of kernels; only_compiles: whether it calls none of them
local = threading.local()


def only_compiles():
    """Whether what this thread compiles is never called in this process: then it need not load what that calls."""
    return getattr(local, "only_compiles", False)


@contextlib.contextmanager
def together(kernels, dtype):
    """While the block compiles a list of kernels, a second process does so too; nothing is told."""
    local.busy = True
    try:
        with second_process(kernels, dtype):
            yield
    finally:
        local.busy = False


def compile_or_load(kernels, dtype, poll_seconds):
    """Load kernels and all that they need; compile what is missing, leaving to other processes what they compile."""
    waiting = missing(kernels, dtype)
    if getattr(local, "busy", False):
        attend(waiting, dtype, poll_seconds)
        return
    waiting = [kernel for kernel in waiting if not kernel.load(dtype)]
    if waiting:
        telling = Telling(waiting, dtype)
        try:
            with together(waiting, dtype):
                attend(waiting, dtype, poll_seconds, telling.next)
        finally:
            telling.close()


def attend(kernels, dtype, poll_seconds, done=lambda kernel: None):
    """Go through kernels until all are there: compile those that nobody else compiles."""
    while kernels:
        left = []
        for kernel in kernels:
            if kernel.load_or_try(dtype):
                done(kernel)
            else:
                left.append(kernel)
        if len(left) == len(kernels):
            time.sleep(poll_seconds)  # without a lock, for other threads may have what they need
        kernels = left
