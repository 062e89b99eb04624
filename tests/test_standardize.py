import pickle

import numpy as np
import pytest
from arrays import DTYPES, normal
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc
from fastfc import reference


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, features", [(1, 1), (9, 3), (33, 18)])
def test_against_the_reference(n, features, dtype):
    x, g = 5 * normal((n, features), dtype) + 100, normal((n, features), dtype, 1)
    layer = fc.Standardize.of(x, dtype=dtype)
    assert_allclose(layer.mean, x.astype(np.float64).mean(axis=0), rtol=np.finfo(dtype).eps)
    spread = x.astype(np.float64).std(axis=0)
    assert_allclose(layer.scale, np.where(n == 1, 1, spread), rtol=np.finfo(dtype).eps)
    y = reference.standardize(x, layer.mean, layer.scale)
    assert_array_equal(layer.predict(x), y)
    assert_array_equal(layer.forward(x), y)
    assert_array_equal(layer.backward(g), g / layer.scale)
    assert layer.params.size == layer.grads.size == 0
    assert_array_equal(pickle.loads(pickle.dumps(layer)).predict(x), y)


def test_it_is_scikit_learns():
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    x = normal((200, 4), np.float64) * [1, 1e6, 1e-6, 1] + [1e8, 0, 1, 0]
    x[:, 3] = 0.1  # constant, but for rounding
    scaler, layer = preprocessing.StandardScaler().fit(x), fc.Standardize.of(x, dtype=np.float64)
    assert_allclose(layer.mean, scaler.mean_, rtol=1e-15)
    assert_allclose(layer.scale, scaler.scale_, rtol=1e-9)
    assert layer.scale[3] == scaler.scale_[3] == 1
    assert_allclose(layer.predict(x), scaler.transform(x), rtol=1e-6, atol=1e-9)


def test_training_leaves_it_and_a_network_can_adapt():
    net, x = fc.Sequential([fc.Standardize(3), fc.Linear(3, 2)]), 5 * normal((50, 3), np.float32) + 7
    assert_array_equal(net[0].predict(x), x)
    assert net[0].adapt(x) is net[0]
    expected = fc.Standardize.of(x)
    net.fit(x, np.zeros((50, 2)), loss=fc.MSELoss(), optimizer=fc.SGD(0.1, momentum=0.9), epochs=3)
    assert_array_equal(net[0].buffers, expected.buffers)
    assert_array_equal(net.buffers, expected.buffers)


BAD = [
    (lambda: fc.Standardize(0), ValueError, "features must be at least 1"),
    (lambda: fc.Standardize.of([1, 2]), ValueError, r"expected \(n, features\)"),
    (lambda: fc.Standardize(2).adapt(np.zeros((3, 4))), ValueError, r"x has shape \(3, 4\), expected \(n, 2\)"),
    (lambda: fc.Standardize(2).adapt(np.zeros((0, 2))), ValueError, "give at least one sample"),
    (lambda: fc.Standardize(2).adapt([[1, 2], [3, np.nan]]), ValueError, "column 1 of x has entries that are not"),
    (lambda: fc.Standardize(2).adapt([["a", "b"]]), TypeError, "give real numbers"),
    (lambda: fc.Standardize(2, dtype=int), TypeError, "dtype must be"),
]


@pytest.mark.parametrize("call, error, message", BAD)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_repr():
    assert repr(fc.Standardize(3, name="units")) == "Standardize(3, name='units')"
