import re

import numpy as np
import pytest
from arrays import multiply_add_lines
from numba import float32, float64, int64, njit

from fastfc.kernels import machine
from fastfc.kernels.simd.isa import host_isa, lanes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_peak_is_plausible(dtype):
    """At least half a vector of multiply-adds per cycle at 1 GHz, at most four vectors at 7 GHz."""
    width = host_isa().vector_bytes // np.dtype(dtype).itemsize
    assert width * 0.5 <= machine.fma_peak(dtype) <= width * 2 * 4 * 7


def test_peak_of_float64_is_below_that_of_float32():
    assert machine.fma_peak(np.float64) < machine.fma_peak(np.float32)


def test_bandwidth_is_that_of_memory():
    """Of pages that were written: the operating system reads fresh zeros from one page, in the cache."""
    x = np.ones(256 << 18, np.float32)
    seconds = machine.fastest(machine.read_all, x)
    assert machine.read_bandwidth() <= 1.5 * x.nbytes / seconds / 1e9


def assembly(function, arguments):
    fresh = njit(function.py_func)
    fresh.compile(arguments)
    return "".join(fresh.inspect_asm().values())


@pytest.mark.parametrize("dtype", [float32, float64])
def test_nothing_is_optimised_away(dtype):
    """Twelve chains, and four loads, stand in the assembly with registers of full width."""
    chains = len(multiply_add_lines(assembly(machine.multiply_add, (dtype[::1], int64)), dtype))
    # without fused instructions, the starts of the chains and their sum are additions too
    assert chains >= 12 and (chains % 12 == 0 or not host_isa().fma)
    register = {"avx512": "zmm", "avx2": "ymm", "sse": "xmm", "neon": r"v\d+\."}[host_isa().name]
    lines = assembly(machine.read_all, (dtype[::1],)).splitlines()
    assert sum(bool(re.search(rf"\tv?f?addp?\w*\t.*{register}", line)) for line in lines) >= 4


def test_sums_are_right():
    for dtype in (float32, float64):
        x = np.ones(lanes(dtype), str(dtype))
        machine.multiply_add(x, 60)
        np.testing.assert_allclose(x, 24, rtol=1e-6)  # s = s / 2 + 1 has the limit 2
        x = np.ones(lanes(dtype) * 4 * 10, str(dtype))
        machine.read_all(x)
        np.testing.assert_array_equal(x[: lanes(dtype)], 40)
