"""`fastfc doctor`: what fastfc finds on this machine."""

import importlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import numpy as np

from fastfc import __version__

CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def processor():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
        if platform.system() == "Darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


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


def quota(root=CGROUPS, membership=MEMBERSHIP):
    """Processor seconds a second that the container allows, the least of all levels; None without limit."""
    if not membership.exists():
        return None
    limits = []
    for line in membership.read_text().splitlines():
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
    from fastfc.kernels import cache, gemm, machine, simd

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
