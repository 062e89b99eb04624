"""Processes that are started from one that computes answer right, and end with status 0."""

import json
import os

import pytest
from processes import run
from soak import report

from fastfc.kernels.runtime.cache import cache_folder

# Children, requests and predictions: here, and in the long run
FEW, MANY = 4, 400
long = pytest.mark.soak
counts = pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=long)])
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def figures(call):
    """What a function of tests/forks.py found in a process of its own."""
    output, _ = run(f"import forks\nif __name__ == '__main__': forks.{call}", FASTFC_CACHE=cache_folder() or "0")
    found = json.loads(output.splitlines()[-1])
    report(call, **found)
    return found


@needs_fork
@counts
def test_forks_after_a_parallel_call(count):
    assert figures(f"forks({count})")["right"] == count


@needs_fork
@counts
def test_forks_while_threads_fit_and_compile(count):
    """A child would wait forever for what a thread of the parent held."""
    assert figures(f"busy({count})")["right"] == count


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
