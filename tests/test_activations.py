import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc
from fastfc.activations import ACTIVATIONS, get_activation

FORMULAS = {
    fc.Identity: lambda x: x,
    fc.ReLU: lambda x: np.where(x > 0, x, 0),
    fc.Sigmoid: lambda x: 1 / (1 + np.exp(-x)),
    fc.Tanh: lambda x: (np.exp(2 * x) - 1) / (np.exp(2 * x) + 1),
    fc.Softmax: lambda x: np.exp(x) / np.exp(x).sum(axis=1, keepdims=True),
}
DERIVATIVES = {
    fc.Identity: lambda x: np.ones_like(x),
    fc.ReLU: lambda x: (x > 0) * 1.0,
    fc.Sigmoid: lambda x: 1 / (2 + 2 * np.cosh(x)),
    fc.Tanh: lambda x: 1 / np.cosh(x) ** 2,
}
every_activation = pytest.mark.parametrize("kind", FORMULAS)


@every_activation
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (4, 33)])
def test_forward(kind, dtype, shape):
    x = np.random.default_rng(0).normal(0, 3, shape).astype(dtype)
    y = kind().forward(x)
    assert y.dtype == dtype and y is not x
    assert_allclose(y, FORMULAS[kind](x.astype(np.float64)), rtol=16 * np.finfo(dtype).eps)
    assert_array_equal(kind().predict(x), y)


@pytest.mark.parametrize("kind", DERIVATIVES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_backward(kind, dtype):
    rng, layer = np.random.default_rng(1), kind()
    x, g = rng.normal(0, 2, (4, 33)).astype(dtype), rng.normal(0, 1, (4, 33)).astype(dtype)
    layer.forward(x)
    before = g.copy()
    grad_input = layer.backward(g)
    # 1 − y² and y (1 − y) lose what y rounded away: the error is absolute, about eps · |g|
    expected = g * DERIVATIVES[kind](x.astype(np.float64))
    assert (np.abs(grad_input - expected) <= 4 * np.finfo(dtype).eps * np.abs(g)).all()
    assert grad_input.dtype == dtype
    assert_array_equal(g, before)


def test_softmax_backward_is_the_jacobian():
    layer, rng = fc.Softmax(), np.random.default_rng(2)
    x, g = rng.normal(0, 2, (3, 5)), rng.normal(0, 1, (3, 5))
    for y, row, grad in zip(layer.forward(x), g, layer.backward(g), strict=True):
        assert_allclose(grad, (np.diag(y) - np.outer(y, y)) @ row, atol=1e-15)


def test_relu_at_zero():
    layer = fc.ReLU()
    assert_array_equal(layer.forward([[0.0, -0.0, np.finfo(np.float32).tiny]]), [[0, 0, np.finfo(np.float32).tiny]])
    assert_array_equal(layer.backward([[1, 1, 1]]), [[0, 0, 1]])


def test_limits():
    x = [-np.inf, -1e30, 1e30, np.inf]
    assert_array_equal(fc.Sigmoid().predict(x), [0, 0, 1, 1])
    assert_array_equal(fc.Tanh().predict(x), [-1, -1, 1, 1])
    assert_array_equal(fc.Softmax().predict([-1e30, 1e30, -1e30]), [0, 1, 0])


@given(shift=st.integers(-100, 100), classes=st.integers(1, 40))
def test_softmax_of_a_shifted_row(shift, classes):
    x = np.arange(classes) % 7.0
    y = fc.Softmax().predict(x)
    assert_array_equal(fc.Softmax().predict(x + shift), y)
    assert abs(y.sum() - 1) <= classes * np.finfo(np.float64).eps


@every_activation
def test_input_of_other_dtypes(kind):
    x = np.array([[1, 0, 2], [3, 1, 0]])
    expected = kind().forward(x.astype(np.float32))
    for other in (x, x.tolist(), x.astype(np.float16), x.astype(">f4")):
        y = kind().forward(other)
        assert y.dtype == np.float32
        assert_array_equal(y, expected)
    assert kind().forward(x.astype(">f8")).dtype == np.float64


@every_activation
def test_bad_input(kind):
    layer = kind()
    with pytest.raises(RuntimeError, match=rf"{kind.__name__}\(\): backward needs .* call forward"):
        layer.backward([[1.0]])
    y = layer.forward([[1, 2]])
    for x, error in [([1, 2], ValueError), (np.zeros((1, 2, 3)), ValueError), ([[1j]], TypeError)]:
        with pytest.raises(error, match=rf"{kind.__name__}\(\): x has"):
            layer.forward(x)
    with pytest.raises(ValueError, match=r"grad_output has shape \(2, 1\); it must have the output's, \(1, 2\)"):
        layer.backward([[1], [2]])
    assert_array_equal(layer.backward(np.zeros_like(y)), np.zeros((1, 2)))
    layer.update_parameters(0.1)  # nothing to update


def test_names():
    assert {name: type(get_activation(name)) for name in ACTIVATIONS} == {
        "identity": fc.Identity,
        "relu": fc.ReLU,
        "sigmoid": fc.Sigmoid,
        "tanh": fc.Tanh,
        "softmax": fc.Softmax,
    }
    with pytest.raises(ValueError, match=r"unknown activation 'rellu'; known are 'identity', 'relu'"):
        get_activation("rellu")
    with pytest.raises(TypeError, match="'relu'"):
        get_activation(fc.ReLU)


@every_activation
def test_repr_and_pickle(kind):
    assert repr(pickle.loads(pickle.dumps(kind()))) == repr(kind()) == f"{kind.__name__}()"
