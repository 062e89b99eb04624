"""`fastfc doctor`: what fastfc finds on this machine."""

import importlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import numpy as np

from fastfc._version import __version__
from fastfc.benchmark.processor import processor
from fastfc.kernels.runtime import threads


def threading_layers():
    """The threading layers of Numba that load here, in the order in which Numba tries them."""
    modules = {"tbb": "tbbpool", "omp": "omppool", "workqueue": "workqueue"}
    layers = []
    for layer in importlib.import_module("numba").config.THREADING_LAYER_PRIORITY:
        try:
            importlib.import_module(f"numba.np.ufunc.{modules[layer]}")
        except ImportError:
            continue
        layers.append(layer)
    return layers


# What fastfc runs on, what its extras need, and what it is compared with.
PACKAGES = [
    "numpy",
    "numba",
    "llvmlite",
    "scikit-learn",
    "safetensors",
    "onnx",
    "onnxruntime",
    "pandas",
    "polars",
    "pyarrow",
]
PACKAGES += ["matplotlib", "graphviz", "tqdm", "torch", "jax"]


def versions():
    yield f"fastfc {__version__}"
    yield f"Python {platform.python_version()}"
    for package in PACKAGES:
        try:
            yield f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            continue


def installed():
    """Where fastfc lies and, in a clone, at which commit."""
    folder = Path(__file__).parents[1]
    if not (folder.parent / ".git").exists():
        return str(folder)
    ask = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return str(folder)
    return f"{folder}, commit {commit}"


def kernel_cache(folder):
    """The folder of compiled kernels, and how much is in it."""
    if folder is None:
        return "off"
    sizes = [file.stat().st_size for file in folder.iterdir()]
    return f"{folder}: {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB"


def ready_kernels():
    """The folder of kernels that were compiled elsewhere, and whether it is used."""
    from fastfc.kernels.runtime import portable

    folder, reason = portable.state()
    if folder is None:
        return "none from elsewhere (FASTFC_KERNELS)"
    return f"{folder} is not used: {reason}" if reason else kernel_cache(folder)


def cache_fact(name, cache):
    """Size, ways and cores of a cache, in words."""
    if not cache.nbytes:
        return f"no {name}"
    shared = f" for {cache.cores} cores" if cache.cores > 1 else ""
    return f"{name} {cache.nbytes >> 10} KiB, {cache.ways} ways{shared}"


def block_fact(blocking):
    """KC, MC and NC of large products, in words."""
    from fastfc.kernels.ops.gemm_plan import a_block_bytes

    summand_bytes, nr = blocking.packed_kc * blocking.itemsize, blocking.vectors * blocking.lanes
    mc, nc = (nbytes // summand_bytes for nbytes in (a_block_bytes(blocking), blocking.nc_bytes))
    return f"KC {blocking.packed_kc}, MC {mc // blocking.mr * blocking.mr}, NC {nc // nr * nr}"


def facts():
    from fastfc.kernels import machine
    from fastfc.kernels.ops import gemm, gemm_plan
    from fastfc.kernels.runtime import cache
    from fastfc.kernels.simd import isa as simd
    from fastfc.kernels.simd.caches import host_caches

    isa, caches = simd.host_isa(), host_caches()
    fma = "with" if isa.fma else "without"
    yield "system", platform.platform()
    yield "processor", processor()
    vectors = f"{8 * isa.vector_bytes}-bit vectors in {isa.registers} registers"
    yield "instructions", f"{isa.name}: {vectors}, {fma} fused multiply-add"
    for dtype in (np.float32, np.float64):
        rows, columns = gemm.tile(dtype)
        yield f"{dtype.__name__} tile", f"{rows} x {columns}"
        yield f"{dtype.__name__} blocks", block_fact(gemm_plan.blocking_of(isa, caches, np.dtype(dtype).itemsize))
    levels = zip(("L1", "L2", "L3"), (caches.l1, caches.l2, caches.l3), strict=True)
    yield "caches", f"{', '.join(cache_fact(*level) for level in levels)} ({caches.source})"
    limit = threads.quota()
    yield "cores", f"{threads.cores()} by affinity, " + ("no quota" if limit is None else f"quota of {limit:g}")
    number, why = threads.auto_threads()
    others = ", ".join(f"{what} {n}" for n, what in threads.limits() if what != why)
    yield "threads", f'"auto" takes {number}, for {why}' + f" ({others})" * bool(others)
    yield "threading", f"{', '.join(threading_layers())} (of Numba, for your own prange loops)"
    yield "kernel cache", kernel_cache(cache.cache_folder())
    yield "kernels", ready_kernels()
    for dtype in (np.float32, np.float64):
        yield f"{dtype.__name__} peak", f"{machine.fma_peak(dtype):.0f} GFLOP/s on one core (measured)"
    yield "memory read", f"{machine.read_bandwidth():.1f} GB/s on one core (measured)"
    yield "installed", installed()
    yield "versions", ", ".join(versions())


def doctor():
    for name, fact in facts():
        print(f"{name:<16}{fact}", flush=True)
