from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc
from fastfc import reference


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
        with pytest.raises(ValueError, match=r"state is for 8 float64 parameters.*new optimizer"):
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


def sgd_twin(w, g, s, t, lr=0.1, momentum=0.9, dampening=0.0, nesterov=False, weight_decay=0.01):
    g = g + weight_decay * w
    s[0] = momentum * s[0] + (g if t == 1 else (1 - dampening) * g)
    w -= lr * (g + momentum * s[0] if nesterov else s[0])


RULES = {
    "dampening": (lambda: fc.SGD(0.1, 0.9, 0.01, dampening=0.25), partial(sgd_twin, dampening=0.25)),
    "nesterov": (lambda: fc.SGD(0.1, 0.9, 0.01, nesterov=True), partial(sgd_twin, nesterov=True)),
    "Adam": (
        lambda: fc.Adam(0.1, weight_decay=0.01),
        lambda w, g, s, t: reference.adam(w, g, s[0], s[1], t, 0.1, 0.9, 0.999, 1e-8, 0.01),
    ),
    "amsgrad": (
        lambda: fc.Adam(0.1, (0.5, 0.75), amsgrad=True),
        lambda w, g, s, t: reference.adam(w, g, s[0], s[1], t, 0.1, 0.5, 0.75, 1e-8, 0.0, largest=s[2]),
    ),
    "AdamW": (
        lambda: fc.AdamW(0.1, eps=1e-3),
        lambda w, g, s, t: reference.adam(w, g, s[0], s[1], t, 0.1, 0.9, 0.999, 1e-3, 0.01, decoupled=True),
    ),
    "RMSprop": (
        lambda: fc.RMSprop(0.1, 0.9, weight_decay=0.01, momentum=0.5),
        lambda w, g, s, t: reference.rmsprop(w, g, s[0], s[1], 0.1, 0.9, 1e-8, 0.01, 0.5),
    ),
    "centered": (
        lambda: fc.RMSprop(0.1, 0.9, centered=True),
        lambda w, g, s, t: reference.rmsprop(w, g, s[0], s[1], 0.1, 0.9, 1e-8, 0.0, 0.0, mean=s[2]),
    ),
    "Adagrad": (
        lambda: fc.Adagrad(0.1, lr_decay=0.1, weight_decay=0.01),
        lambda w, g, s, t: reference.adagrad(w, g, s[0], t, 0.1, 0.1, 0.01, 1e-10),
    ),
    "Lion": (
        lambda: fc.Lion(0.1, weight_decay=0.01),
        lambda w, g, s, t: reference.lion(w, g, s[0], 0.1, 0.9, 0.99, 0.01),
    ),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 7, 16, 40])
@pytest.mark.parametrize("name", RULES)
def test_rules_against_the_formulas(name, size, dtype):
    make, formula = RULES[name]
    layer, optimizer, rng = fc.Linear(size, 1, dtype=dtype, seed=0), make(), np.random.default_rng(size)
    w, s = layer.params.astype(np.float64), np.zeros((3, size + 1))
    for t in range(1, 31):
        layer.grads[:] = rng.standard_normal(size + 1)
        optimizer.step(layer)
        formula(w, layer.grads.astype(np.float64), s, t)
        assert_allclose(layer.params, w, rtol=200 * np.finfo(dtype).eps, atol=200 * np.finfo(dtype).eps)
        assert_allclose(optimizer.state, s[: len(optimizer.state)], rtol=1e-3 if dtype == np.float32 else 1e-9)
    assert optimizer.count[0] == 30


@pytest.mark.parametrize("name", RULES)
def test_epochs_are_the_loop_of_steps(name):
    x, rng = np.random.default_rng(0).standard_normal((40, 3)), np.random.default_rng(5)
    y, nets = x @ [[1.0], [2.0], [3.0]], [fc.MLP([3, 4, 1], seed=0, dtype=np.float64) for _ in range(2)]
    first, second = RULES[name][0](), RULES[name][0]()
    nets[0].fit(x, y, loss=fc.MSELoss(), optimizer=first, epochs=2, batch_size=16, seed=5)
    for _ in range(2):
        order = rng.permutation(40)
        for rows in (order[:16], order[16:32], order[32:]):
            nets[1].train_step(x[rows], y[rows], fc.MSELoss(), second)
    assert_array_equal(nets[0].params, nets[1].params)
    assert_array_equal(first.state, second.state)


@pytest.mark.parametrize("name", RULES)
def test_rules_descend(name):
    net, optimizer = fc.MLP([1, 1], init="zeros", dtype=np.float64), RULES[name][0]()
    x = np.linspace(-1, 1, 20)[:, None]
    losses = [net.train_step(x, 2 * x + 1, fc.MSELoss(), optimizer) for _ in range(200)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: fc.Adam(betas=(1.0, 0.999)), "Adam: beta1 must be less than 1"),
        (lambda: fc.Adam(betas=(0.9, -1)), "Adam: beta2"),
        (lambda: fc.AdamW(eps=0), "AdamW: eps must be finite and positive"),
        (lambda: fc.RMSprop(alpha=2), "RMSprop: alpha must be less than 1"),
        (lambda: fc.Adagrad(lr_decay=-1), "Adagrad: lr_decay"),
        (lambda: fc.Lion(lr=0), "Lion: lr"),
        (lambda: fc.SGD(nesterov=True), "nesterov needs a momentum"),
    ],
)
def test_bad_numbers(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", RULES)
def test_reprs_rebuild(name):
    names = {c.__name__: c for c in (fc.SGD, fc.Adam, fc.AdamW, fc.RMSprop, fc.Adagrad, fc.Lion)}
    optimizer = RULES[name][0]()
    twin = eval(repr(optimizer), names)
    assert repr(twin) == repr(optimizer) and twin.code == optimizer.code
    assert_array_equal(twin.hyper, optimizer.hyper)


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
