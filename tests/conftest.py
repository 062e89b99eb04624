import signal

import sample
from hypothesis import settings

from fastfc.kernels.runtime import kernel as boundary

# The first example may compile a kernel, which takes seconds.
settings.register_profile("fastfc", deadline=None)
settings.load_profile("fastfc")
# Tests of few calls are of the fast way in too.
boundary.CALLS_BEFORE_FASTCALL = 1
# A shell starts processes in the background with Ctrl-C ignored, which tests send to themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--sample", action="store_true", help="of many cases of a test those in sample.py")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--sample"):
        kept = sample.of(items)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]
