"""The reference against something more naive still: loops over numbers, in Python's own arithmetic."""

import inspect
import math
from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc
from fastfc import kernels, reference
from fastfc.kernels.ops.activation_rules import ACTIVATIONS, of_input

KERNELS = [
    "dense_forward",
    "dense_input_grad",
    "dense_weight_grad",
    "dense_add_weight_grad",
    "dense_bias_grad",
    "dense_add_bias_grad",
    "activation_forward",
    "activation_backward",
    "exp",
    "tanh",
    *(name for name in kernels.__all__ if name.endswith("_loss")),
    "sgd",
]


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_has_a_reference_with_its_signature(name):
    kernel = inspect.signature(getattr(kernels, name)).parameters
    expected = inspect.signature(getattr(reference, name)).parameters
    assert [p for p in kernel if p != "n_threads"] == list(expected)
    for parameter in expected:
        assert kernel[parameter].default == expected[parameter].default


def integers(*shape, dtype=np.float32):
    return np.random.default_rng(0).integers(-8, 9, shape).astype(dtype)


def product(a, b):
    return [[sum(a[i, k] * b[k, j] for k in range(a.shape[1])) for j in range(b.shape[1])] for i in range(a.shape[0])]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n, n_in, n_out", [(1, 1, 1), (2, 3, 4), (5, 2, 1)])
def test_dense_products_are_exact(n, n_in, n_out, dtype):
    x, weight, bias = (
        integers(n, n_in, dtype=dtype),
        integers(n_in, n_out, dtype=dtype),
        integers(n_out, dtype=dtype),
    )
    g = integers(n, n_out, dtype=dtype)
    column_sums = [sum(g[:, j]) for j in range(n_out)]

    def out_of(function, *arguments, start=np.nan, shape):
        out = np.full(shape, start, dtype)
        function(*arguments, out)
        return out

    assert_array_equal(out_of(reference.dense_forward, x, weight, bias, shape=(n, n_out)), product(x, weight) + bias)
    assert_array_equal(out_of(reference.dense_input_grad, g, weight, shape=(n, n_in)), product(g, weight.T))
    shape = (n_in, n_out)
    assert_array_equal(out_of(reference.dense_weight_grad, x, g, shape=shape), product(x.T, g))
    assert_array_equal(out_of(reference.dense_add_weight_grad, x, g, start=2, shape=shape), np.add(product(x.T, g), 2))
    assert_array_equal(out_of(reference.dense_bias_grad, g, shape=n_out), column_sums)
    assert_array_equal(out_of(reference.dense_add_bias_grad, g, start=2, shape=n_out), np.add(column_sums, 2))


Z = [[-30.0, -1.5, 0.0], [0.5, 2.0, 30.0]]


@pytest.mark.parametrize(
    "name, formula",
    [
        ("identity", lambda z: z),
        ("relu", lambda z: max(z, 0)),
        ("sigmoid", lambda z: 1 / (1 + math.exp(-z))),
        ("tanh", math.tanh),
        ("leaky_relu", lambda z: z if z > 0 else 0.01 * z),
        ("log_sigmoid", lambda z: -math.log1p(math.exp(-z))),
        ("hardtanh", lambda z: max(min(z, 1), -1)),
        ("relu6", lambda z: max(min(z, 6), 0)),
        ("elu", lambda z: z if z > 0 else math.expm1(z)),
        ("celu", lambda z: z if z > 0 else math.expm1(z)),
        ("selu", lambda z: 1.0507009873554805 * (z if z > 0 else 1.6732632423543772 * math.expm1(z))),
        ("softplus", lambda z: z if z > 20 else math.log1p(math.exp(z))),
        ("softsign", lambda z: z / (1 + abs(z))),
        ("hardsigmoid", lambda z: max(min(z + 3, 6), 0) / 6),
        ("hardswish", lambda z: z * (max(min(z + 3, 6), 0) / 6)),
        ("silu", lambda z: z / (1 + math.exp(-z))),
        ("gelu", lambda z: z * 0.5 * math.erfc(-z / math.sqrt(2))),
        ("gelu_tanh", lambda z: 0.5 * z * (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))),
        ("mish", lambda z: z * math.tanh(math.log1p(math.exp(z)))),
    ],
)
def test_activations(name, formula):
    out = np.full((2, 3), np.nan)
    reference.activation_forward(np.array(Z), out, name)
    assert_allclose(out, [[formula(z) for z in row] for row in Z], rtol=2e-15)
    weight, bias, fused = np.eye(3), np.zeros(3), np.empty((2, 3))
    reference.dense_forward(np.array(Z), weight, bias, fused, name)
    assert_array_equal(fused, out)


def test_softmax():
    out = np.full((2, 3), np.nan)
    reference.activation_forward(np.array(Z), out, "softmax")
    assert_allclose(out, [[math.exp(z) / sum(map(math.exp, row)) for z in row] for row in Z], rtol=1e-15)
    assert_array_equal(reference.softmax(np.array([1e4, 1e4])), [0.5, 0.5])


@pytest.mark.parametrize("name", reference.ACTIVATIONS)
def test_derivatives_are_numerical_gradients(name):
    rng = np.random.default_rng(1)
    z, g, out = rng.standard_normal((2, 3)), rng.standard_normal((2, 3)), np.full((2, 3), np.nan)
    activation = reference.ACTIVATIONS[name]
    kept = z if of_input(ACTIVATIONS[name]) else activation(z)
    reference.activation_backward(kept, g, out, name)
    assert_allclose(out, fc.numerical_gradient(lambda z: (g * activation(z)).sum(), z), atol=1e-9)


def test_functions():
    x = np.array([-np.inf, -1, -0.0, 0.5, np.nan])
    out = np.empty(5)
    reference.exp(x, out)
    assert_allclose(out, [0, math.exp(-1), 1, math.exp(0.5), math.nan], rtol=4e-16)
    for name in ("tanh", "expm1", "erf"):
        getattr(reference, name)(x, out)
        assert_allclose(out, [-1, getattr(math, name)(-1), -0.0, getattr(math, name)(0.5), math.nan], rtol=4e-16)
    for name, at_minus_half in (("log", math.nan), ("log1p", math.log(0.5))):
        with np.errstate(invalid="ignore"):
            getattr(reference, name)(np.array([-0.5, 2]), out[:2])
        assert_allclose(out[:2], [at_minus_half, getattr(math, name)(2)], rtol=4e-16)


def test_losses():
    z, y = [[-1.0, 2.0], [0.5, 3.0]], [[0.25, 0.75], [1.0, 0.0]]
    out, elements = np.empty((2, 2)), [(0, 0), (0, 1), (1, 0), (1, 1)]
    z_array, y_array = np.array(z), np.array(y)

    def p(i, j):
        return math.exp(z[i][j]) / sum(map(math.exp, z[i]))

    def s(i, j):
        return 1 / (1 + math.exp(-z[i][j]))

    value = reference.mse_loss(z_array, y_array, out)
    assert_allclose(value, sum((z[i][j] - y[i][j]) ** 2 for i, j in elements) / 4, rtol=1e-15)
    assert_allclose(out.ravel(), [2 * (z[i][j] - y[i][j]) / 4 for i, j in elements], rtol=1e-15)

    value = reference.cross_entropy_loss(z_array, y_array, out)
    assert_allclose(value, -sum(y[i][j] * math.log(p(i, j)) for i, j in elements) / 2, rtol=1e-15)
    assert_allclose(out.ravel(), [(p(i, j) - y[i][j]) / 2 for i, j in elements], rtol=1e-14)

    value = reference.cross_entropy_loss(z_array, np.array([1, 0]), out)
    assert_allclose(value, -(math.log(p(0, 1)) + math.log(p(1, 0))) / 2, rtol=1e-15)
    assert_allclose(out, [[p(0, 0) / 2, (p(0, 1) - 1) / 2], [(p(1, 0) - 1) / 2, p(1, 1) / 2]], rtol=1e-14)

    value = reference.bce_with_logits_loss(z_array, y_array, out)
    terms = (y[i][j] * math.log(s(i, j)) + (1 - y[i][j]) * math.log(1 - s(i, j)) for i, j in elements)
    assert_allclose(value, -sum(terms) / 4, rtol=1e-14)
    assert_allclose(out.ravel(), [(s(i, j) - y[i][j]) / 4 for i, j in elements], rtol=1e-14)


def test_sgd():
    params, grads, velocity = np.array([4.0, -2.0]), np.array([2.0, 1.0]), np.array([1.0, 0.0])
    reference.sgd(params, grads, velocity, 0.25, 0.5, 0.5)
    # g = [2 + 2, 1 − 1], v = [0.5 + 4, 0], w = [4 − 1.125, −2]
    assert_array_equal(velocity, [4.5, 0])
    assert_array_equal(params, [2.875, -2])
    reference.sgd(params, grads, np.zeros(0), 1.0, 0.0, 0.0)
    assert_array_equal(params, [0.875, -3])


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh", "identity"])
def test_train_step_follows_the_numerical_gradient(activation):
    rng = np.random.default_rng(2)
    sizes, x, target = [3, 4, 5, 2], rng.standard_normal((6, 3)), rng.integers(0, 2, 6)
    weights = [rng.standard_normal(shape) for shape in pairwise(sizes)]
    biases = [rng.standard_normal(n) for n in sizes[1:]]

    def loss(_=None):
        y = x
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            y = y @ weight + bias
            y = reference.ACTIVATIONS[activation](y) if i < 2 else y
        return -np.log(reference.softmax(y)[np.arange(6), target]).mean()

    before = loss()
    expected = [p - 0.1 * fc.numerical_gradient(loss, p) for p in weights + biases]
    value = reference.train_step(x, target, weights, biases, 0.1, activation)
    assert_allclose(value, before, rtol=1e-14)
    for parameter, wanted in zip(weights + biases, expected, strict=True):
        assert_allclose(parameter, wanted, atol=1e-9)
