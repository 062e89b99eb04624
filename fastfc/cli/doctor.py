"""`fastfc doctor`: what fastfc finds on this machine."""

import importlib
import platform
from importlib import metadata

import numpy as np

from fastfc._version import __version__
from fastfc.benchmark.processor import processor
from fastfc.kernels.runtime.threads import cores, quota


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


def versions():
    yield f"fastfc {__version__}"
    yield f"Python {platform.python_version()}"
    for package in ["numpy", "numba", "llvmlite", "torch", "jax"]:
        try:
            yield f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            continue


def facts():
    from fastfc.kernels import machine
    from fastfc.kernels.ops import gemm
    from fastfc.kernels.runtime import cache
    from fastfc.kernels.simd import isa as simd

    isa = simd.host_isa()
    fma = "with" if isa.fma else "without"
    yield "processor", processor()
    vectors = f"{8 * isa.vector_bytes}-bit vectors in {isa.registers} registers"
    yield "instructions", f"{isa.name}: {vectors}, {fma} fused multiply-add"
    for dtype in (np.float32, np.float64):
        rows, columns = gemm.tile(dtype)
        yield f"{dtype.__name__} tile", f"{rows} x {columns}"
    limit = quota()
    yield "cores", f"{cores()} by affinity, " + ("no quota" if limit is None else f"quota of {limit:g}")
    yield "threading", ", ".join(threading_layers())
    yield "kernel cache", str(cache.cache_folder() or "off")
    for dtype in (np.float32, np.float64):
        yield f"{dtype.__name__} peak", f"{machine.fma_peak(dtype):.0f} GFLOP/s on one core (measured)"
    yield "memory read", f"{machine.read_bandwidth():.1f} GB/s on one core (measured)"
    yield "versions", ", ".join(versions())


def doctor():
    for name, fact in facts():
        print(f"{name:<14}{fact}", flush=True)
