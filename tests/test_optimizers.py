import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc


def layer_with_gradient(seed=0, dtype=np.float64):
    layer, rng = fc.Linear(3, 2, dtype=dtype), np.random.default_rng(seed)
    layer.params[:] = rng.integers(-8, 9, 8)
    layer.grads[:] = rng.integers(-8, 9, 8)
    return layer


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_plain_step_is_exact(dtype):
    layer = layer_with_gradient(dtype=dtype)
    before = layer.params.copy()
    fc.SGD(lr=0.25).step(layer)
    assert_array_equal(layer.params, before - 0.25 * layer.grads)
    assert layer.params.dtype == dtype


def test_three_steps_by_hand():
    # w = 4, ∇L = 2 all along, λ = 1/2, μ = 1/2, lr = 1/4
    layer = fc.Linear(1, 1)
    layer.weight, layer.weight_grad = [[4]], [[2]]
    optimizer = fc.SGD(lr=0.25, momentum=0.5, weight_decay=0.5)
    seen = []
    for _ in range(3):
        optimizer.step(layer)
        seen.append(layer.weight[0, 0])
    # g = 2 + 2 = 4, v = 4, w = 3; g = 3.5, v = 5.5, w = 1.625; g = 2.8125, v = 5.5625, w = 0.234375
    assert seen == [3, 1.625, 0.234375]


@pytest.mark.parametrize("momentum", [0, 0.9])
@pytest.mark.parametrize("weight_decay", [0, 0.01])
def test_against_the_formula(momentum, weight_decay):
    layer, optimizer = layer_with_gradient(), fc.SGD(0.1, momentum, weight_decay)
    w, v, rng = layer.params.copy(), np.zeros(8), np.random.default_rng(1)
    for _ in range(10):
        layer.grads[:] = rng.standard_normal(8)
        optimizer.step(layer)
        v = momentum * v + layer.grads + weight_decay * w
        w = w - 0.1 * v
        assert_allclose(layer.params, w, rtol=1e-13, atol=1e-15)


def test_weight_decay_is_the_gradient_of_the_penalty():
    layer, lam = layer_with_gradient(), 0.25
    penalty = fc.numerical_gradient(lambda w: lam / 2 * np.sum(w**2), layer.params.copy())
    before = layer.params.copy()
    fc.SGD(lr=1, weight_decay=lam).step(layer)
    assert_allclose(layer.params, before - (layer.grads + penalty), atol=1e-8)


def test_gradients_are_left_alone():
    layer = layer_with_gradient()
    before = layer.grads.copy()
    fc.SGD(0.1, 0.9, 0.1).step(layer)
    assert_array_equal(layer.grads, before)


def test_velocity_belongs_to_one_network():
    optimizer = fc.SGD(momentum=0.5)
    optimizer.step(layer_with_gradient())
    velocity = optimizer.velocity.copy()
    for other in (fc.Linear(3, 3, dtype=np.float64), layer_with_gradient(dtype=np.float32)):
        other.grads[:] = 1
        before = other.params.copy()
        with pytest.raises(ValueError, match=r"velocity is for 8 float64 parameters.*new optimizer"):
            optimizer.step(other)
        assert_array_equal(other.params, before)
    assert_array_equal(optimizer.velocity, velocity)


def test_without_momentum_one_optimizer_serves_many():
    optimizer = fc.SGD(lr=1)
    for dtype in (np.float32, np.float64):
        layer = layer_with_gradient(dtype=dtype)
        before = layer.params.copy()
        optimizer.step(layer)
        assert_array_equal(layer.params, before - layer.grads)
    assert optimizer.velocity is None


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"lr": 0}, ValueError, "lr must be finite and positive, got 0"),
        ({"lr": -1}, ValueError, "lr"),
        ({"lr": np.nan}, ValueError, "lr"),
        ({"lr": np.inf}, ValueError, "lr"),
        ({"lr": "fast"}, TypeError, "lr must be a number, got 'fast'"),
        ({"momentum": -0.1}, ValueError, "momentum must be finite and not negative"),
        ({"momentum": 1}, ValueError, "momentum must be less than 1"),
        ({"weight_decay": -1e-9}, ValueError, "weight_decay"),
        ({"weight_decay": None}, TypeError, "weight_decay"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=f"SGD: {message}"):
        fc.SGD(**options)


def test_repr_rebuilds():
    assert repr(eval(repr(fc.SGD(0.1, 0.9, 1e-4)), {"SGD": fc.SGD})) == "SGD(lr=0.1, momentum=0.9, weight_decay=0.0001)"
    assert fc.SGD(lr=np.float32(0.5)).lr == 0.5
