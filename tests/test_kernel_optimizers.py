from fractions import Fraction

import numpy as np
import pytest
from arrays import DTYPES, WRITABLE, nan, normal
from hypothesis import given
from hypothesis import strategies as st

from fastfc import reference
from fastfc.kernels import sgd
from fastfc.kernels.simd.isa import host_isa

dtypes = pytest.mark.parametrize("dtype", DTYPES)


def sizes(dtype):
    lanes = host_isa().vector_bytes // np.dtype(dtype).itemsize
    return [0, 1, 2, lanes - 1, lanes, lanes + 1, 1009]


@dtypes
@pytest.mark.parametrize(("momentum", "weight_decay"), [(0, 0), (0.5, 0), (0, 0.25), (0.5, 0.25)])
def test_exact_on_small_integers(dtype, momentum, weight_decay):
    for size in sizes(dtype):
        rng = np.random.default_rng(size)
        p, g, v = (rng.integers(-8, 9, size).astype(dtype) for _ in range(3))
        expected_p, expected_v = p.copy(), v.copy()
        for _ in range(3):
            sgd(p, g, v, 0.5, momentum, weight_decay)
            reference.sgd(expected_p, g, expected_v, 0.5, momentum, weight_decay)
        np.testing.assert_array_equal(p, expected_p)
        np.testing.assert_array_equal(v, expected_v)


@dtypes
def test_one_step_by_the_formula(dtype):
    p, g, v = (normal(50, dtype, seed) for seed in range(3))
    start = [[Fraction(float(x)) for x in a] for a in (p, g, v)]
    lr, momentum, decay = (Fraction(float(dtype(x))) for x in (0.1, 0.9, 0.01))
    sgd(p, g, v, 0.1, 0.9, 0.01)
    for j, (x, grad, velocity) in enumerate(zip(*start, strict=True)):
        exact_v = momentum * velocity + (grad + decay * x)
        exact_p = x - lr * exact_v
        size = abs(x) + abs(grad) + abs(velocity)
        assert abs(Fraction(float(v[j])) - exact_v) <= 3 * float(np.finfo(dtype).eps) * size
        assert abs(Fraction(float(p[j])) - exact_p) <= 3 * float(np.finfo(dtype).eps) * size


@dtypes
def test_velocity_may_be_empty_and_is_not_read_without_momentum(dtype):
    for velocity in (np.empty(0, dtype), nan(9, dtype)):
        p, g = np.arange(9, dtype=dtype), np.ones(9, dtype)
        sgd(p, g, velocity, 1, 0, 0)
        np.testing.assert_array_equal(p, np.arange(9) - 1)
        assert np.isnan(velocity).all()


@dtypes
@pytest.mark.parametrize("layout", [name for name in WRITABLE if name != "F"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_any_layout_gives_the_same_bits(dtype, layout, which):
    plain = [normal(37, dtype, seed) for seed in range(3)]
    other = [WRITABLE[layout](a) if k == which else a.copy() for k, a in enumerate(plain)]
    sgd(*plain, 0.1, 0.9, 0.01)
    sgd(*other, 0.1, 0.9, 0.01)
    for a, b in zip(plain, other, strict=True):
        np.testing.assert_array_equal(a, b)


@given(size=st.integers(0, 70), lr=st.floats(1e-4, 1), momentum=st.floats(0, 1), decay=st.floats(0, 1))
def test_against_the_reference(size, lr, momentum, decay):
    p, g, v = (normal(size, float, seed) for seed in range(3))
    expected_p, expected_v = p.copy(), v.copy()
    sgd(p, g, v, lr, momentum, decay)
    reference.sgd(expected_p, g, expected_v, lr, momentum, decay)
    np.testing.assert_allclose(p, expected_p, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(v, expected_v, rtol=1e-12, atol=1e-14)


@dtypes
def test_nan_stays_where_it_is(dtype):
    p, g, v = np.zeros(20, dtype), np.zeros(20, dtype), np.zeros(20, dtype)
    g[17] = np.nan
    sgd(p, g, v, 0.1, 0.9, 0)
    assert np.isnan(p[17])
    assert np.isfinite(p).sum() == 19


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"velocity": np.zeros(3)}, ValueError, r"sgd: velocity \(3,\) does not fit.*params \(4,\)"),
        ({"velocity": np.zeros(0)}, ValueError, r"sgd: velocity \(0,\) does not fit"),
        ({"velocity": np.zeros(4, "f4")}, TypeError, "sgd: velocity is float32.*float64"),
        ({"grads": np.zeros(5)}, ValueError, r"sgd:.*grads \(5,\)"),
        ({"grads": np.zeros(4, "f4")}, TypeError, "sgd: grads is float32"),
        ({"lr": "a"}, TypeError, "sgd: 'a'"),
        ({"lr": 1j}, TypeError, "sgd: 1j"),
        ({"momentum": None}, TypeError, "sgd: .*None"),
    ],
)
def test_bad_arguments_change_nothing(change, error, message):
    good = {"params": np.full(4, 7.0), "grads": np.ones(4), "velocity": np.ones(4), "lr": 1, "momentum": 0.5}
    arguments = good | change
    with pytest.raises(error, match=message):
        sgd(*arguments.values(), 0)
    np.testing.assert_array_equal(good["params"], 7)
    np.testing.assert_array_equal(good["velocity"], 1)
