import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc

X = np.random.default_rng(0).standard_normal((4, 3))


@given(st.lists(st.floats(-1e3, 1e3), min_size=0, max_size=5))
def test_gradient_of_a_quadratic(values):
    w = np.array(values)
    gradient = fc.numerical_gradient(lambda w: float((w**2).sum()), w)
    assert_allclose(gradient, 2 * w, atol=1e-4)  # rounding of Σ w² ≤ 5e6, divided by h = 6e-6
    assert_array_equal(w, np.array(values))


def test_gradient_of_a_matrix_and_of_a_strided_view():
    a = np.arange(12.0).reshape(3, 4)
    w = np.zeros((4, 6))[:, ::2]
    assert_allclose(fc.numerical_gradient(lambda w: np.trace(a @ w), w), a.T, atol=1e-9)
    assert fc.numerical_gradient(lambda w: float(w) ** 2, np.array(3.0)).round(6) == 6


def test_float32_and_eps():
    w = np.array([1.0, 100.0], np.float32)
    assert_allclose(fc.numerical_gradient(lambda w: (w**2).sum(), w), [2, 200], rtol=1e-2)
    w = np.array([1e4], np.float32)  # h is rounded: divide by the step taken
    assert fc.numerical_gradient(lambda w: w[0], w) == 1
    assert_allclose(fc.numerical_gradient(lambda w: w[0] ** 3, np.ones(1), eps=0.5), [3.25])  # 3 + h²


def test_w_is_restored_bit_for_bit_even_if_f_fails():
    w = np.array([0.1, 1e300, -0.0, 5e-324])
    before = w.tobytes()
    fc.numerical_gradient(lambda w: 0.0, w)
    assert w.tobytes() == before

    def fails(w):
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fc.numerical_gradient(fails, w)
    assert w.tobytes() == before


@pytest.mark.parametrize("w", [[1.0], np.arange(3), np.zeros(2, complex), np.zeros(2, np.float16), 1.0])
def test_bad_w(w):
    with pytest.raises(TypeError, match="w must be a writable float array, got"):
        fc.numerical_gradient(lambda w: 0.0, w)


def test_read_only_w_and_bad_eps():
    w = np.zeros(2)
    w.flags.writeable = False
    with pytest.raises(TypeError, match="writable"):
        fc.numerical_gradient(lambda w: 0.0, w)
    for eps in (0, -1, np.nan, 1e-30):
        with pytest.raises(ValueError, match="eps"):
            fc.numerical_gradient(lambda w: 0.0, np.ones(2), eps)


def test_report():
    net = fc.MLP([3, 4, 2], activation="tanh", seed=0)
    report = fc.check_gradients(net, X)
    assert report
    assert [(row.name, row.shape) for row in report] == [
        ("0.weight", (3, 4)),
        ("0.bias", (4,)),
        ("2.weight", (4, 2)),
        ("2.bias", (2,)),
        ("input", (4, 3)),
    ]
    assert all(row.absolute < 1e-8 and row.relative < 1e-8 for row in report)
    lines = str(report).splitlines()
    assert lines[0].split() == ["gradient", "of", "shape", "max", "error", "relative"]
    assert lines[1].split()[:2] == ["0.weight", "3x4"] and lines[1].endswith("ok")


class WrongTanh(fc.Tanh):
    def backward(self, grad_output):
        return super().backward(grad_output) * 1.0001


class WrongBias(fc.Linear):
    def backward(self, grad_output):
        grad_input = super().backward(grad_output)
        self.bias_grad[0] += 1e-3
        return grad_input


class WrongNaN(fc.Linear):
    def backward(self, grad_output):
        return super().backward(grad_output) * np.nan


@pytest.mark.parametrize(
    "layer, wrong",
    [(WrongTanh(), ["input"]), (WrongBias(3, 2, seed=0), ["bias"]), (WrongNaN(3, 2, seed=0), ["input"])],
)
def test_wrong_gradients_are_found(layer, wrong):
    report = fc.check_gradients(layer, X)
    assert not report
    assert [row.name for row in report if not row.ok] == wrong
    assert str(report).count("WRONG") == 1


def test_zero_gradients_are_right():
    assert fc.check_gradients(fc.Linear(3, 2, init="zeros"), np.zeros((2, 3)))
    assert fc.check_gradients(fc.ReLU(), -np.ones((2, 3)))
    assert fc.check_gradients(fc.Linear(3, 2), np.zeros((0, 3)))


def test_the_network_is_left_alone():
    net = fc.MLP([3, 4, 2], seed=0)
    net.forward(X)
    grad_input = net.backward(np.ones((4, 2)))
    params, grads, x = net.params.copy(), net.grads.copy(), X.copy()
    assert fc.check_gradients(net, x)
    assert net.params.dtype == np.float32
    assert_array_equal(net.params, params)
    assert_array_equal(net.grads, grads)
    assert_array_equal(x, X)
    assert_array_equal(net.backward(np.ones((4, 2))), grad_input)


def test_bad_arguments():
    net = fc.MLP([3, 2])
    with pytest.raises(TypeError, match="a network or layer object"):
        fc.check_gradients(fc.Tanh, X)
    with pytest.raises(TypeError, match="both target and loss"):
        fc.check_gradients(net, X, loss=fc.MSELoss())
    with pytest.raises(ValueError, match=r"expected \(n, 3\)"):
        fc.check_gradients(net, X.T)
    with pytest.raises(ValueError, match="tolerance"):
        fc.check_gradients(net, X, tolerance=0)
