import numpy as np
import pytest
from arrays import DTYPES, multiply_add, nan, normal
from numba import njit

from fastfc.kernels.simd import isa as isa_module
from fastfc.kernels.simd import memory
from fastfc.kernels.simd import transpose as transpose_module
from fastfc.kernels.simd import vector as simd

dtypes = pytest.mark.parametrize("dtype", DTYPES)


def lanes(dtype):
    return isa_module.host_isa().vector_bytes // np.dtype(dtype).itemsize


def on_vectors(function):
    """out = function(a, b, c) for arrays of one register."""
    function = njit(function)

    @njit
    def run(a, b, c, out):
        pa, pb, pc = memory.pointer(a), memory.pointer(b), memory.pointer(c)
        simd.store(memory.pointer(out), function(simd.load(pa), simd.load(pb), simd.load(pc)))

    return run


@dtypes
@pytest.mark.parametrize(
    ("vector", "expected"),
    [
        (lambda a, b, c: a + b - c, lambda a, b, c: a + b - c),
        (lambda a, b, c: a * b / c, lambda a, b, c: a * b / c),
        (lambda a, b, c: 2.0 * a - 1.0, lambda a, b, c: 2 * a - 1),
        (lambda a, b, c: simd.fma(a, b, c), multiply_add),
        (lambda a, b, c: simd.copysign(a, b), lambda a, b, c: np.copysign(a, b)),
        (lambda a, b, c: simd.absolute(a), lambda a, b, c: np.abs(a)),
        (lambda a, b, c: simd.where_less(a, b, c, 1.0), lambda a, b, c: np.where(a < b, c, 1)),
        (lambda a, b, c: simd.where_less_equal(a, a, c, 1.0), lambda a, b, c: c),
        (lambda a, b, c: simd.splat(a, 0.1), lambda a, b, c: np.full_like(a, 0.1)),
        (lambda a, b, c: simd.splat(a, simd.lane(b, 1)), lambda a, b, c: np.full_like(a, b[1])),
    ],
)
def test_vectors_do_what_numpy_does(dtype, vector, expected):
    a, b, c = (normal(lanes(dtype), dtype, seed) for seed in range(3))
    out = nan(lanes(dtype), dtype)
    on_vectors(vector)(a, b, c, out)
    np.testing.assert_array_equal(out, expected(a, b, c))


@dtypes
def test_comparison_with_nan_is_false(dtype):
    a = np.full(lanes(dtype), np.nan, dtype)
    out = np.zeros_like(a)
    both = on_vectors(lambda a, b, c: simd.where_less(a, 0.0, 1.0, 2.0) + simd.where_less_equal(a, 0.0, 1.0, 2.0))
    both(a, a, a, out)
    np.testing.assert_array_equal(out, 4)


@njit
def copy_first(x, out, count):
    simd.store_first(memory.pointer(out), simd.load_first(memory.pointer(x), count, -1.0), count)


@njit
def load_first(x, out, count):
    simd.store(memory.pointer(out), simd.load_first(memory.pointer(x), count, -1.0))


@dtypes
def test_masks(dtype):
    """Any count, far beyond a register and 32 bits too, as for the rest of a huge array."""
    width = lanes(dtype)
    x = np.arange(width, dtype=dtype)
    for count in [*range(-1, width + 2), 2**31 - 1, 2**31, 2**32, 2**33 + 1]:
        loaded, stored, inside = nan(width, dtype), np.full(width, -1, dtype), max(0, min(count, width))
        load_first(x, loaded, count)
        copy_first(x, stored, count)
        expected = np.where(np.arange(width) < inside, x, -1)
        np.testing.assert_array_equal(loaded, expected, str(count))
        np.testing.assert_array_equal(stored, expected, str(count))


@njit
def transpose(x, rows, columns, out):
    transpose_module.transpose_block(
        memory.pointer(x), x.strides[0], rows, columns, memory.pointer(out), out.strides[0]
    )


@dtypes
def test_transpose_block(dtype):
    width = lanes(dtype)
    x = normal((width, width + 3), dtype)
    for rows in range(1, width + 1):
        for columns in range(1, width + 1):
            out = np.full((width, width), 7, dtype)
            transpose(x, rows, columns, out)
            np.testing.assert_array_equal(out[:columns, :rows], x[:rows, :columns].T)
            np.testing.assert_array_equal(out[columns:], 7)


@njit
def by_pointers(x, out):
    p = memory.at(memory.pointer(x), memory.itemsize(memory.pointer(x)))
    memory.write(memory.pointer(out), memory.read(p) + memory.read(memory.zero(p)))
    return memory.address(x), simd.width(p)


@dtypes
def test_pointers(dtype):
    x, out = normal(3, dtype), np.zeros(1, dtype)
    assert by_pointers(x, out) == (x.ctypes.data, lanes(dtype))
    assert out[0] == x[1]


@njit
def powers(x, out):
    shifted = simd.load(memory.pointer(x))
    simd.store(memory.pointer(out), simd.power_of_two(shifted))


@dtypes
def test_power_of_two(dtype):
    info = np.finfo(dtype)
    n = np.linspace(info.minexp, info.maxexp - 1, lanes(dtype)).round()
    out = nan(lanes(dtype), dtype)
    powers((n + 1.5 * 2**info.nmant).astype(dtype), out)
    np.testing.assert_array_equal(out, np.exp2(n))


def test_isa_of_this_process():
    isa = isa_module.host_isa()
    assert isa in isa_module.ISAS.values()
    assert isa_module.host_isa() is isa
    assert isa_module.compiled_isa() is isa
