"""Processes that are started from one that computes answer right, and end with status 0."""

import json
import os

import pytest
from processes import run
from soak import report

from fastfc.cli.doctor import threading_layers
from fastfc.kernels.runtime.cache import cache_folder

# Children, requests and predictions: here, and in the long run
FEW, MANY = 8, 400
long = pytest.mark.soak
counts = pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=long)])
counts_and_layers = pytest.mark.parametrize(
    ("count", "layer"), [(FEW, None), *(pytest.param(MANY, layer, marks=long) for layer in ("omp", "tbb", "workqueue"))]
)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def figures(call, layer=None):
    """What a function of tests/forks.py found in a process of its own, under a threading layer of Numba."""
    if layer is not None and layer not in threading_layers():
        pytest.skip(f"no {layer} here")
    environment = {"FASTFC_CACHE": cache_folder() or "0"} | ({"NUMBA_THREADING_LAYER": layer} if layer else {})
    output, _ = run(f"import forks\nif __name__ == '__main__': forks.{call}", **environment)
    found = json.loads(output.splitlines()[-1])
    report(f"{call} {layer or ''}", **found)
    return found


@needs_fork
@counts_and_layers
def test_forks_after_a_parallel_call(count, layer):
    assert figures(f"forks({count})", layer)["right"] == count


@needs_fork
@counts_and_layers
def test_forks_while_threads_fit_and_compile(count, layer):
    """A child would wait forever for what a thread of the parent held."""
    assert figures(f"busy({count})", layer)["right"] == count


@pytest.mark.few(1)
@counts
@pytest.mark.parametrize("method", ["spawn", pytest.param("fork", marks=needs_fork), "forkserver"])
def test_pools(method, count):
    if method == "forkserver" and not hasattr(os, "fork"):
        pytest.skip("no forkserver here")
    assert figures(f"pools({method!r}, {count})")["right"] == 2 * count


@needs_fork
@counts
def test_a_server_that_forks_workers(count):
    found = figures(f"server({10 * count})")
    assert found["right"] == 10 * count and found["ended_well"] == found["workers"] > 3


@counts
def test_joblib_with_inputs_mapped_into_memory(count):
    pytest.importorskip("joblib")
    assert figures(f"loky({count})")["right"] == count
