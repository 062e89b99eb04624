"""`fastfc warmup`: compile all kernels ahead of their first use."""

import logging
import sys
import time

import numpy as np

from fastfc.kernels.runtime.cache import cache_folder
from fastfc.kernels.runtime.native import DTYPES, compiled_kernels


def warmup(dtypes):
    """Compile every kernel for these dtypes into the cache, or find it there; the exit status."""
    folder = cache_folder()
    if folder is None:
        print("fastfc warmup: there is no cache folder to compile into (see fastfc doctor)", file=sys.stderr)
        return 1
    log = logging.getLogger("fastfc")
    log.addFilter(silence)
    begin = time.perf_counter()
    try:
        for dtype in dtypes:
            for kernel in compiled_kernels.values():
                print(f"{dtype:<8}{kernel.name:<30}", end="", flush=True)
                print(compiled(kernel, DTYPES[np.dtype(dtype)]), flush=True)
    finally:
        log.removeFilter(silence)
    print(f"{time.perf_counter() - begin:.1f} s in all; compiled kernels are in {folder}")
    return 0


def silence(record):
    """For a logger: that kernels are compiled is no news here."""
    return False


def compiled(kernel, dtype):
    """Ensure that a kernel is compiled; how long it took and whether it was in the cache."""
    begin = time.perf_counter()
    kernel.compile_or_load(dtype)
    return f"{time.perf_counter() - begin:6.2f} s" + ", from the cache" * (not kernel.was_compiled(dtype))
