import gc
import os
import signal
import sys

import pytest
import sample
from hypothesis import settings

from fastfc.kernels.runtime import kernel as boundary

# Numba makes many objects that stay: the collector would go through them again and again.
gc.set_threshold(50_000, 50, 1000)
# The first example may compile a kernel, which takes seconds.
settings.register_profile("fastfc", deadline=None)
settings.load_profile("fastfc")
# Tests of few calls are of the fast way in too.
boundary.CALLS_BEFORE_FASTCALL = 1
# A shell starts processes in the background with Ctrl-C ignored, which tests send to themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)


def n_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Two workers for the whole suite, where pytest-xdist is installed and nothing else is asked for.

    They share the cache of compiled kernels, in which each is compiled once. The tests of a file run in one worker.
    """
    option = config.option
    alone = option.usepdb or option.collectonly or option.keyword or option.capture == "no" or n_cores() < 2
    is_worker = hasattr(config, "workerinput")
    if getattr(option, "numprocesses", 0) is None and not (alone or is_worker) and all(map(os.path.isdir, config.args)):
        option.numprocesses, option.dist = 2, "loadfile"
        # A worker has one core: none for a second process that compiles, nor for threads of NumPy's that wait.
        os.environ["FASTFC_SECOND"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    if option.markexpr == "not slow and not soak" and any("::" in arg for arg in config.args):
        option.markexpr = "not soak"  # what is named runs


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Cases that the sample leaves out are slow."""
    unstable = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if unstable:  # workers would collect different tests
        raise pytest.UsageError(f"the address of an object is in the name of a case; give it ids: {unstable[0]}")
    items = [item for item in items if not (item.get_closest_marker("soak") or item.get_closest_marker("slow"))]
    kept = sample.of(items)
    for item in items:
        if item not in kept:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish(session):
    """Let the collector, which tests call, skip what was imported: half a second each time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """And what the tests of a file have compiled."""
    if nextitem and nextitem.path != item.path:
        gc.collect()
        gc.freeze()


def pytest_runtest_setup(item):
    """PyTorch's threads, which wait for one another in turns, take far longer for few numbers than one thread."""
    if "torch" in sys.modules and sys.modules["torch"].get_num_threads() > 1:
        sys.modules["torch"].set_num_threads(1)
