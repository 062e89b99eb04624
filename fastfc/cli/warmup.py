"""`fastfc warmup`: compile all kernels ahead of their first use, for this machine or for others."""

import os
import subprocess
import sys
import tempfile
import time

import numpy as np

from fastfc.kernels.runtime import plan, portable
from fastfc.kernels.runtime.cache import cache_folder
from fastfc.kernels.runtime.native import DTYPES, CompiledKernel, compiled_kernels
from fastfc.kernels.training import members  # noqa: F401  # its kernels are imported when used


def warmup(dtypes):
    """Compile every kernel for these dtypes into the cache, or find it there; the exit status."""
    folder = cache_folder()
    if folder is None:
        print("fastfc warmup: there is no cache folder to compile into (see fastfc doctor)", file=sys.stderr)
        return 1
    begin = time.perf_counter()
    for _ in compile_all(dtypes):
        pass
    print(f"{time.perf_counter() - begin:.1f} s in all; compiled kernels are in {folder}")
    return 0


def compile_all(dtypes):
    """Compile every kernel for these dtypes, or find it, and say so; yields each with its Numba type."""
    for dtype in dtypes:
        kind, kernels = DTYPES[np.dtype(dtype)], list(compiled_kernels.values())
        found = {kernel for kernel in kernels if kernel.load(kind)}
        typed = [kernel for kernel in kernels if isinstance(kernel, CompiledKernel)]
        with plan.together(plan.missing(typed, kind), kind):
            for kernel in kernels:
                begin = time.perf_counter()
                print(f"{dtype:<8}{kernel.name:<30}", end="", flush=True)
                kernel.compile_or_load(kind)
                here = kernel.was_compiled(kind)
                origin = ", from the cache" if kernel in found else "" if here else ", by the second process"
                print(f"{time.perf_counter() - begin:6.2f} s{origin}", flush=True)
                yield kernel, kind


def warmup_for_others(out, isas, dtypes):
    """Compile every kernel for instruction sets instead of this processor, into the folder `out`; the exit status.

    Each instruction set takes a process of its own, for Numba learns at its start what to compile for.
    """
    with tempfile.TemporaryDirectory() as temporary:
        for isa in isas:
            wanted = os.environ | portable.environment(isa)
            status = write(out, dtypes) if wanted == os.environ else start_over(wanted, out, isa, dtypes, temporary)
            if status:
                return status
    return 0


def start_over(wanted, out, isa, dtypes, temporary):
    """The same command for one instruction set in a process with the environment `wanted`; its exit status."""
    wanted = wanted | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    if cache_folder() is None:
        wanted["FASTFC_CACHE"] = temporary
    command = [sys.executable, "-P", "-m", "fastfc.cli.main", "warmup", "--out", out, "--isa", isa, "--dtype", *dtypes]
    return subprocess.call(command, env=wanted)


def write(out, dtypes):
    """Compile for the instruction set that the environment names, and write what comes out."""
    try:
        folder = portable.prepare(out)
        for kernel, dtype in compile_all(dtypes):
            cached = kernel.cached(dtype)
            if cached is None:
                raise OSError(f"{kernel.name} can't be kept in the cache folder {cache_folder()}")
            portable.write(folder, kernel.name, kernel.signature(dtype), cached)
    except OSError as error:
        print(f"fastfc warmup: {error}", file=sys.stderr)
        return 1
    sizes = [file.stat().st_size for file in folder.iterdir()]
    print(f"{len(sizes)} files of {sum(sizes) / 1e6:.1f} MB are in {folder}; set FASTFC_KERNELS to {out} to use them")
    return 0
