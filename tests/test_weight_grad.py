import itertools

import numpy as np
import pytest
from arrays import BLOCKING, DTYPES, WRITABLE, assert_product_close, by_shape, chain, integers, nan, normal

from fastfc.kernels import dense_add_weight_grad, dense_weight_grad
from fastfc.kernels.ops.gemm import CHUNK, LONG
from fastfc.kernels.simd.squares import MANY_ROWS

dtypes = pytest.mark.parametrize("dtype", DTYPES)


@pytest.mark.parametrize(("dtype", "shape"), by_shape())
def test_exact_on_small_integers(dtype, shape):
    i, n, o = shape
    x, g, before = integers((n, i), dtype), integers((n, o), dtype, 1), integers((i, o), dtype, 2)
    out, added = nan((i, o), dtype), before.copy()
    dense_weight_grad(x, g, out)
    dense_add_weight_grad(x, g, added)
    np.testing.assert_array_equal(out, x.T @ g)
    np.testing.assert_array_equal(added, before + x.T @ g)


@dtypes
def test_adding_continues_the_chain_of_the_output(dtype):
    x, g, before = normal((7, 5), dtype), normal((7, 3), dtype, 1), normal((5, 3), dtype, 2)
    out = before.copy()
    dense_add_weight_grad(x, g, out)
    np.testing.assert_array_equal(out, chain(x.T, g, before))


@dtypes
@pytest.mark.parametrize("layout", WRITABLE)
def test_adding_to_any_layout(dtype, layout):
    x, g, before = normal((9, 17), dtype), normal((9, 35), dtype, 1), normal((17, 35), dtype, 2)
    out = WRITABLE[layout](before)
    dense_add_weight_grad(x, g, out)
    assert_product_close(out, x.T, g, before)


@dtypes
def test_two_halves_of_a_batch_add_up_to_the_bits_of_the_whole(dtype):
    """The chain over the batch is in order, so that it may be interrupted anywhere."""
    n = BLOCKING.packed_kc + 100
    x, g = normal((n, 5), dtype), normal((n, 11), dtype, 1)
    whole, halves = nan((5, 11), dtype), nan((5, 11), dtype)
    dense_weight_grad(x, g, whole)
    dense_weight_grad(x[:333], g[:333], halves)
    dense_add_weight_grad(x[333:], g[333:], halves)
    np.testing.assert_array_equal(halves, whole)


@dtypes
@pytest.mark.parametrize("layout", WRITABLE)
@pytest.mark.parametrize("n", [1, 40, 1000, CHUNK + 1])
def test_one_feature_and_one_output(dtype, layout, n):
    """A dot product, in another order than other gradients."""
    x, g, before = normal((n, 1), dtype), normal((n, 1), dtype, 1), normal((1, 1), dtype, 2)
    plain, out = nan((1, 1), dtype), WRITABLE[layout](nan((1, 1), dtype))
    dense_weight_grad(x, g, plain)
    assert_product_close(plain, x.T, g)
    dense_weight_grad(WRITABLE[layout](x), WRITABLE[layout](g), out)
    np.testing.assert_array_equal(out, plain)
    out[...] = before
    dense_add_weight_grad(x, g, out)
    assert_product_close(out, x.T, g, before)


@dtypes
def test_an_empty_batch(dtype):
    out = nan((3, 4), dtype)
    dense_weight_grad(np.empty((0, 3), dtype), np.empty((0, 4), dtype), out)
    np.testing.assert_array_equal(out, 0)
    out[...] = 5
    dense_add_weight_grad(np.empty((0, 3), dtype), np.empty((0, 4), dtype), out)
    np.testing.assert_array_equal(out, 5)


@dtypes
@pytest.mark.parametrize("n", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1])
def test_long_batches_are_exact_on_small_integers(dtype, n):
    x, g, before = integers((n, 5), dtype), integers((n, 19), dtype, 1), integers((5, 19), dtype, 2)
    for layout in WRITABLE.values():
        out, added = layout(nan((5, 19), dtype)), layout(before)
        dense_weight_grad(x, g, out)
        dense_add_weight_grad(x, g, added)
        np.testing.assert_array_equal(out, x.T @ g)
        np.testing.assert_array_equal(added, before + x.T @ g)


@dtypes
def test_a_long_batch_has_the_bits_of_its_chunks_added_in_order(dtype):
    n = 2 * CHUNK + 100
    x, g = normal((n, 3), dtype), normal((n, 5), dtype, 1)
    out, total, part = nan((3, 5), dtype), np.zeros((3, 5), dtype), nan((3, 5), dtype)
    dense_weight_grad(x, g, out)
    for r in range(0, n, CHUNK):
        dense_weight_grad(x[r : r + CHUNK], g[r : r + CHUNK], part)
        total += part
    np.testing.assert_array_equal(out, total)


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (0, 0)])
def test_a_long_batch_and_no_features(sizes):
    i, o = sizes
    x, g, out = np.ones((2 * CHUNK, i)), np.ones((2 * CHUNK, o)), np.empty((i, o))
    dense_weight_grad(x, g, out)
    dense_add_weight_grad(x, g, out)


@dtypes
def test_columns_that_are_long_rows_in_memory_have_the_same_bits(dtype):
    """Of x and grad_output by columns, few of one are few rows times a transposed matrix."""
    for n, i, o in itertools.product((LONG - 1, LONG, 533), (1, 2, 5, MANY_ROWS, MANY_ROWS + 1, 17, 70), (1, 3, 9, 33)):
        x, g, out, expected = normal((n, i), dtype), normal((n, o), dtype, 1), nan((i, o), dtype), nan((i, o), dtype)
        dense_weight_grad(x, g, expected)
        for target in (out, np.asfortranarray(out)):
            dense_weight_grad(np.asfortranarray(x), np.asfortranarray(g), target)
            np.testing.assert_array_equal(target, expected, f"{n} x {i} x {o}")
        dense_add_weight_grad(np.asfortranarray(x), np.asfortranarray(g), out)
        dense_add_weight_grad(x, g, expected)
        np.testing.assert_array_equal(out, expected, f"{n} x {i} x {o}")
