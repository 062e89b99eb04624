"""Kernels that are compiled when another kernel first calls them."""

import numpy as np
import pytest
from late_kernels import call_late, late
from numba import types
from processes import start

from fastfc.kernels.runtime.native import CompiledKernel


@pytest.fixture
def not_loaded():
    """`late` as it is before anybody has called it."""
    call()
    late.kernel.slots[types.float64][0] = 0


def call():
    out = np.zeros(3)
    call_late.call(np.arange(3.0), out, 1)
    return out.tolist()


def test_the_first_call_loads_it(not_loaded):
    assert call() == [1, 2, 3]
    assert late.kernel.loaded_types() == [types.float64]
    assert late.kernel.optional and not call_late.optional  # whoever loads the caller leaves it alone


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, KeyboardInterrupt])
def test_an_error_of_the_compiler_reaches_the_caller(not_loaded, monkeypatch, error):
    """Native code can't hand it on: Ctrl-C would be lost, and the kernel called by an address that is 0."""

    def fail(kernel, dtype):
        if kernel is late.kernel:
            raise error("no kernel")

    with monkeypatch.context() as patch:
        patch.setattr(CompiledKernel, "compile_or_load", fail)
        with pytest.raises(error):
            call()
    assert call() == [1, 2, 3]


def test_a_worker_may_need_it_while_the_caller_has_pythons_lock():
    """A short call keeps Python's lock, which the worker needs to compile: the launch gives it away meanwhile."""
    code = """
import numpy as np
from late_kernels import call_late, late
from numba import types
from fastfc.kernels.runtime.kernel import CALLS_BEFORE_FASTCALL
from fastfc.kernels.runtime.pool import pool
pool.grow(1)
x, out = np.arange(64.0), np.zeros(64)
for _ in range(CALLS_BEFORE_FASTCALL):
    call_late.call(x, out, 2)
for _ in range(20):
    late.kernel.slots[types.float64][0], out[:] = 0, 0
    call_late.call(x, out, 2)
    np.testing.assert_array_equal(out, x + 1)
print(call_late.call.__name__, pool.n_workers)
"""
    process = start(code)
    try:
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert output == "call_late 1\n", errors
