"""`Clamp`, and networks whose targets were standardised: trained without it, and then put together."""

import numpy as np
import pytest
from nopython_code import predict
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc
from fastfc import reference

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 3))
Y = np.array([5.0, -300.0]) + X @ (RNG.standard_normal((3, 2)) * [1.0, 40.0])
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@DTYPES
def test_against_the_formula(dtype):
    layer, x = fc.Clamp.of(Y[:5], dtype=dtype), Y.astype(dtype)
    assert_array_equal(layer.low, Y[:5].astype(dtype).min(axis=0))
    for values in (x, np.asfortranarray(x), x[::-1], np.stack([x, x])[0]):
        assert_array_equal(layer.predict(values), reference.clamp(values, layer.low, layer.high))
    grad = np.where((x >= layer.low) & (x <= layer.high), 2, 0)
    assert_array_equal(layer.forward(x), layer.predict(x))
    assert_array_equal(layer.backward(np.full_like(x, 2)), grad)
    assert 0 < grad.sum() < 2 * x.size


def test_first_bounds_change_nothing_but_infinity():
    x = np.array([[1.5, -np.inf, np.nan], [np.inf, 0, -1e30]], np.float32)
    most = np.finfo(np.float32).max
    assert_array_equal(fc.Clamp(3).predict(x), [[1.5, -most, np.nan], [most, 0, np.float32(-1e30)]])
    assert fc.Sequential([fc.Linear(3, 3), fc.Clamp(3)]).is_finite()


def test_gradients_add_up_where_a_value_is_read_twice():
    a = fc.Input(2)
    h = fc.Linear(2, 2, seed=0, dtype=np.float64)(a)
    bounded = fc.Clamp(2, dtype=np.float64)
    bounded.low, bounded.high = [-0.5, -0.25], [0.5, 1.0]
    net = fc.Graph(a, bounded(h) * h + bounded(h))
    assert fc.check_gradients(net, X[:, :2])


def test_inverse_undoes_what_standardize_does():
    for dtype, rtol in ((np.float32, 1e-5), (np.float64, 1e-13)):
        layer = fc.Standardize.of(Y, dtype=dtype)
        inverse = layer.inverse(name="units")
        assert_allclose(inverse.predict(layer.predict(Y)), Y, rtol=rtol)
        assert (inverse.dtype, inverse.name) == (layer.dtype, "units")
        assert_allclose(inverse.inverse().scale, layer.scale, rtol=rtol)


@DTYPES
@pytest.mark.parametrize("graph", [False, True])
def test_a_network_in_units_and_within_the_range_of_its_targets(graph, dtype, tmp_path):
    """The same in Python, in nopython code, from a file, and in ONNX Runtime."""
    scale, net = fc.Standardize.of(Y, dtype=dtype), fc.MLP([3, 16, 2], "tanh", dtype=dtype, seed=0)
    fc.initializers.fit_to(net, X, seed=1)
    net.fit(X, scale.predict(Y), loss=fc.MSELoss(), optimizer=fc.Adam(0.02), epochs=60, seed=0)
    z = net.predict(X)
    ends = [scale.inverse(), fc.Clamp.of(Y, dtype=dtype)]
    if graph:
        a = fc.Input(3)
        whole = fc.Graph(a, ends[1](ends[0](net(a))))
    else:
        whole = fc.Sequential([net, *ends])
    far = np.concatenate([X, 1e3 * X]).astype(dtype)
    y = whole.predict(far)
    assert_allclose(y[:40], np.clip(z * scale.scale + scale.mean, Y.min(axis=0), Y.max(axis=0)), rtol=1e-5, atol=1e-4)
    assert np.mean((y[:40] - Y) ** 2) < 0.2 * np.mean((Y - Y.mean(axis=0)) ** 2)
    for j in range(2):
        assert (y[:, j] >= ends[1].low[j]).all() and (y[:, j] <= ends[1].high[j]).all()
    assert_array_equal(predict(whole, far), y)
    whole.save(tmp_path / "net")
    assert_array_equal(fc.load(tmp_path / "net").predict(far), y)
    runtime = pytest.importorskip("onnxruntime")
    whole.to_onnx(tmp_path / "net.onnx")
    (theirs,) = runtime.InferenceSession(tmp_path / "net.onnx").run(None, {"input": far})
    assert_allclose(theirs, y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: fc.Clamp(0), ValueError, "Clamp: features must be at least 1"),
        (lambda: fc.Clamp.of([1.0, 2.0]), ValueError, r"Clamp: y has shape \(2,\), expected \(n, features\); use y"),
        (lambda: fc.Clamp.of(np.zeros((0, 2))), ValueError, "give at least one sample"),
        (lambda: fc.Clamp.of([[1.0, np.inf]]), ValueError, "column 1 of x has entries that are not finite"),
        (lambda: fc.Clamp(2).predict(np.zeros((3, 4))), ValueError, r"Clamp\(2\): x has shape \(3, 4\)"),
        (lambda: setattr(fc.Clamp(2), "low", [1.0]), ValueError, "low"),
    ],
)
def test_what_it_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make()
