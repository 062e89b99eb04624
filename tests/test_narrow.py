"""Many rows of few columns, whose rows lie side by side in registers: the bits of the same rows in small batches."""

import itertools

import numpy as np
import pytest
from arrays import DTYPES, LAYOUTS, integers, nan, normal
from test_gemm import with_small_caches  # noqa: F401

import fastfc as fc
from fastfc.kernels import dense_add_weight_grad, dense_forward, dense_input_grad, dense_weight_grad
from fastfc.kernels.ops.gemm import CHUNK
from fastfc.kernels.ops.narrow import DEEP, LAST, MANY, MOST_CHUNKS
from fastfc.kernels.simd.isa import host_isa
from fastfc.kernels.simd.narrow import SUMMED

dtypes = pytest.mark.parametrize("dtype", DTYPES)
FEW = MANY // 2


def sizes(dtype):
    """(k, n): one row and several in a register, one register to four, and beyond what is narrow."""
    lanes = host_isa().vector_bytes // np.dtype(dtype).itemsize
    columns = [1, 2, 3, 4, 5, lanes // 2, lanes - 1, lanes, lanes + 1, 2 * lanes, 2 * lanes + 1]
    columns += [3 * lanes, 4 * lanes - 1, 4 * lanes, 4 * lanes + 1]
    return itertools.product([1, 2, 3, 5, 8, lanes, 2 * lanes + 1, DEEP, DEEP + 1], sorted({*columns} - {0}))


def in_small_batches(run, rows):
    """What `run` gives for a few rows at a time."""
    return np.concatenate([run(slice(first, min(first + FEW, rows))) for first in range(0, rows, FEW)])


@dtypes
@pytest.mark.parametrize("rows", [MANY, MANY + 77])
def test_many_rows_have_the_bits_of_few(dtype, rows):
    for k, n in sizes(dtype):
        x, weight, bias = normal((rows, k), dtype), normal((k, n), dtype, 1), normal(n, dtype, 2)

        def forward(some, activation="relu", x=x, weight=weight, bias=bias, n=n):
            out = nan((len(x[some]), n), dtype)
            dense_forward(x[some], weight, bias, out, activation)
            return out

        def input_grad(some, x=x, weight=weight, n=n):
            out = nan((len(x[some]), n), dtype)
            dense_input_grad(x[some], np.ascontiguousarray(weight.T), out)
            return out

        for run in (forward, input_grad):
            np.testing.assert_array_equal(run(slice(rows)), in_small_batches(run, rows), f"{k} x {n}")


@dtypes
@pytest.mark.parametrize("activation", ["identity", "sigmoid", "tanh"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_many_rows_in_any_layout_and_with_any_activation(dtype, layout, activation):
    x, weight, bias = normal((5 * MANY, 5), dtype), normal((5, 3), dtype, 1), normal(3, dtype, 2)
    out, expected = nan((len(x), 3), dtype), nan((len(x), 3), dtype)
    change = LAYOUTS[layout]
    dense_forward(change(x), change(weight), change(bias), out, activation)
    for first in range(0, len(x), FEW):
        some = slice(first, first + FEW)
        dense_forward(x[some], weight, bias, expected[some], activation)
    np.testing.assert_array_equal(out, expected)


@dtypes
def test_rows_before_and_after_the_output_stay(dtype):
    """Whole registers are stored: what goes beyond a row must be within the output."""
    for k, n in sizes(dtype):
        memory = np.full((MANY + 40, n), 777, dtype)
        out = memory[20:-20]
        x = integers((MANY, k), dtype)
        dense_forward(x, np.ones((k, n), dtype), np.zeros(n, dtype), out)
        np.testing.assert_array_equal(out, np.repeat(x.sum(1, keepdims=True), n, 1))
        assert (memory[:20] == 777).all(), (k, n)
        assert (memory[-20:] == 777).all(), (k, n)


@dtypes
def test_what_is_larger_than_the_caches_goes_past_them(dtype, with_small_caches):  # noqa: F811
    """From the first boundary of a register on, wherever the output begins."""
    for n, shift in itertools.product([1, 2, 4, 8], range(0, 17, 3)):
        x, weight, bias = normal((20 * MANY, 3), dtype), normal((3, n), dtype, 1), normal(n, dtype, 2)
        out = nan(20 * MANY * n + 16, dtype)[shift:][: 20 * MANY * n].reshape(-1, n)
        dense_forward(x, weight, bias, out)
        expected = nan((FEW, n), dtype)
        for first in range(0, len(x), FEW):
            dense_forward(x[first : first + FEW], weight, bias, expected)
            np.testing.assert_array_equal(out[first : first + FEW], expected, f"{n} columns from {shift} on")


@dtypes
@pytest.mark.parametrize("activation", [fc.ReLU(), fc.Tanh(), fc.GELU()], ids=str)
def test_gradients_that_pass_an_activation(dtype, activation):
    net = fc.Sequential([fc.Linear(6, 4, seed=0, dtype=dtype), activation, fc.Linear(4, 3, seed=1, dtype=dtype)])
    x, grad = normal((3 * MANY, 6), dtype), normal((3 * MANY, 3), dtype, 1)

    def run(some):
        net.forward(x[some])
        return net.backward(grad[some])

    np.testing.assert_array_equal(run(slice(len(x))), in_small_batches(run, len(x)))


def gradients(dtype):
    """(i, o): each number of rows that there is, and one more, with one register and two of columns, both ways."""
    lanes = host_isa().vector_bytes // np.dtype(dtype).itemsize
    most = max(SUMMED)
    shapes = [(r, c) for r in (1, 2, 3, *SUMMED, most + 1) for c in (max(2, r), lanes, 2 * lanes) if c >= r]
    shapes += [(r, c) for r in (2, 5, 6) for c in (lanes + 1, 2 * lanes + 1, 3 * lanes + 4, 4 * lanes, 4 * lanes + 1)]
    shapes += [(6, 4 * lanes - 1)]  # wider than two registers of SSE, and some columns left
    shapes += [(r, lanes + last) for r in (9, most) for last in (1, LAST, LAST + 1)]
    return sorted({*shapes, *[(c, r) for r, c in shapes[::2]]})


@dtypes
@pytest.mark.parametrize("n_threads", [1, 2])
def test_long_batches_have_the_bits_of_their_chunks(dtype, n_threads):
    most_rows, widest = (2 + MOST_CHUNKS) * CHUNK, 4 * 64 // np.dtype(dtype).itemsize + 1
    xs, gs = normal((most_rows, widest), dtype), normal((most_rows, widest), dtype, 1)
    for case, (i, o) in enumerate(gradients(dtype)[:: 1 if n_threads == 1 else 5]):
        n = most_rows - (0, 1, 5, CHUNK - 1)[case % 4]
        x, g, before = (np.ascontiguousarray(a) for a in (xs[:n, :i], gs[:n, :o], xs[:i, :o]))
        out, added, part = nan((i, o), dtype), before.copy(), nan((i, o), dtype)
        dense_weight_grad(x, g, out, n_threads)
        dense_add_weight_grad(x, g, added, n_threads)
        total, further = np.zeros((i, o), dtype), before.copy()
        dense_add_weight_grad(x[:CHUNK], g[:CHUNK], further)
        for first in range(0, n, CHUNK):
            dense_weight_grad(x[first : first + CHUNK], g[first : first + CHUNK], part)
            total += part
            further += part if first else 0
        np.testing.assert_array_equal(out, total, f"{i} x {o}")
        np.testing.assert_array_equal(added, further, f"{i} x {o}")


@dtypes
@pytest.mark.parametrize("layout", LAYOUTS)
def test_long_batches_in_any_layout(dtype, layout):
    n, change = (2 + MOST_CHUNKS) * CHUNK + 3, LAYOUTS[layout]
    x, g, plain, out = normal((n, 3), dtype), normal((n, 5), dtype, 1), nan((3, 5), dtype), nan((3, 5), dtype)
    dense_weight_grad(x, g, plain)
    dense_weight_grad(change(x), change(g), out)
    np.testing.assert_array_equal(out, plain)
