"""Answers known beforehand: worksheets, the chain rule written out, other conventions, convergence."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc
from fastfc import kernels

DTYPES = [np.float32, np.float64]


def linear(weight, bias, dtype=np.float64):
    layer = fc.Linear(*np.shape(weight), dtype=dtype)
    layer.weight, layer.bias = weight, bias
    return layer


@pytest.mark.parametrize("dtype", DTYPES)
def test_worksheet_of_one_linear_layer(dtype):
    layer = linear([[0.5, -1], [1.5, 0]], [0.1, 0.2], dtype)
    # 1·0.5 + 2·1.5 + 0.1 = 3.6 and 1·(−1) + 2·0 + 0.2 = −0.8
    assert_allclose(layer.forward([[1, 2]]), [[3.6, -0.8]], rtol=2 * np.finfo(dtype).eps)
    # dx₁ = 1·0.5 + 2·(−1) = −1.5 (one published worksheet prints −1.6), dx₂ = 1·1.5 + 2·0 = 1.5
    assert_array_equal(layer.backward([[1, 2]]), [[-1.5, 1.5]])
    assert_array_equal(layer.weight_grad, [[1, 2], [2, 4]])
    assert_array_equal(layer.bias_grad, [1, 2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_worksheet_of_a_bias_gradient(dtype):
    # 0.1 + 0.3 + 0.2 = 0.6 and −0.2 − 0.1 + 0 = −0.3 (the same worksheet prints +0.3)
    grad_output = np.array([[0.1, -0.2], [0.3, -0.1], [0.2, 0]], dtype)
    out = np.full(2, np.nan, dtype)
    kernels.dense_bias_grad(grad_output, out)
    assert_allclose(out, [0.6, -0.3], rtol=2 * np.finfo(dtype).eps)
    layer = linear(np.zeros((1, 2)), [0, 0], dtype)
    layer.forward(np.zeros((3, 1)))
    layer.backward(grad_output)
    assert_array_equal(layer.bias_grad, out)


def test_three_functions_composed_and_the_chain_rule():
    # o = f3(f2(f1(x))) with f1(x) = 2x + 1, f2 = tanh, f3(u) = 3u − 1
    net = fc.Sequential([linear([[2]], [1]), fc.Tanh(), linear([[3]], [-1])])
    x = 0.25
    u = np.tanh(2 * x + 1)
    assert_allclose(net.forward([[x]]), [[3 * u - 1]], rtol=1e-14)
    df3, df2, df1 = 3, 1 - u**2, 2
    assert_allclose(net.backward([[1]]), [[df3 * df2 * df1]], rtol=1e-14)
    assert_allclose(net[0].weight_grad, [[df3 * df2 * x]], rtol=1e-14)
    assert_allclose(net[0].bias_grad, [df3 * df2], rtol=1e-14)
    assert_allclose(net[2].weight_grad, [[u]], rtol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_three_linear_layers_and_the_chain_rule(dtype):
    rng = np.random.default_rng(0)
    x, g, w1, w2, w3 = (rng.integers(-3, 4, shape) for shape in [(5, 2), (5, 4), (2, 3), (3, 5), (5, 4)])
    net = fc.Sequential([linear(w, np.zeros(w.shape[1]), dtype) for w in (w1, w2, w3)])
    assert_array_equal(net.forward(x), x @ w1 @ w2 @ w3)
    assert_array_equal(net.backward(g), g @ w3.T @ w2.T @ w1.T)
    assert_array_equal(net[2].weight_grad, (x @ w1 @ w2).T @ g)
    assert_array_equal(net[1].weight_grad, (x @ w1).T @ g @ w3.T)
    assert_array_equal(net[0].weight_grad, x.T @ g @ w3.T @ w2.T)


@pytest.fixture
def columns():
    """Samples as columns: X (F, m) and y (1, m)."""
    rng = np.random.default_rng(1)
    return rng.standard_normal((3, 7)), rng.standard_normal((1, 7))


def test_column_convention_linear_regression_with_kernels(columns):
    X, y = columns
    (F, m), rng = X.shape, np.random.default_rng(2)
    w, b = rng.standard_normal((1, F)), rng.standard_normal(1)
    prediction, g = np.empty((1, m)), np.empty((1, m))
    kernels.dense_forward(X.T, w.T, b, prediction.T)
    assert_allclose(prediction, w @ X + b, rtol=1e-14)
    value = kernels.mse_loss(prediction, y, g)
    assert_allclose(value, np.sum((y - prediction) ** 2) / m, rtol=1e-14)

    dw, dX, db = np.empty((1, F)), np.empty((F, m)), np.empty(1)
    kernels.dense_weight_grad(X.T, g.T, dw.T)
    kernels.dense_input_grad(g.T, w.T, dX.T)
    kernels.dense_bias_grad(g.T, db)
    error = 2 / m * (w @ X + b - y)
    assert_allclose(dw, error @ X.T, rtol=1e-13)
    assert_allclose(dX, w.T @ error, rtol=1e-13)
    assert_allclose(db, error.sum(axis=1), rtol=1e-13)


def test_column_convention_two_layers_with_sigmoid(columns):
    X, y = columns
    (F, m), H, rng = X.shape, 4, np.random.default_rng(3)
    W1, b1 = rng.standard_normal((H, F)), rng.standard_normal((H, 1))
    W2, b2 = rng.standard_normal((1, H)), rng.standard_normal((1, 1))
    net = fc.Sequential([linear(W1.T, b1.ravel()), fc.Sigmoid(), linear(W2.T, b2.ravel())])

    A = 1 / (1 + np.exp(-(W1 @ X + b1)))
    prediction = net.forward(X.T).T
    assert_allclose(prediction, W2 @ A + b2, rtol=1e-14)
    value, g = fc.MSELoss()(prediction.T, y.T)
    assert_allclose(value, np.mean((W2 @ A + b2 - y) ** 2), rtol=1e-14)

    dX = net.backward(g).T
    error = 2 / m * (prediction - y)
    dZ = W2.T @ error * A * (1 - A)
    assert_allclose(net[2].weight_grad.T, error @ A.T, rtol=1e-12)
    assert_allclose(net[2].bias_grad, error.sum(axis=1), rtol=1e-12)
    assert_allclose(net[0].weight_grad.T, dZ @ X.T, rtol=1e-12)
    assert_allclose(net[0].bias_grad, dZ.sum(axis=1), rtol=1e-12)
    assert_allclose(dX, W1.T @ dZ, rtol=1e-12)


DERIVATIVES = {
    fc.ReLU: lambda z: (z > 0) * 1.0,
    fc.Sigmoid: lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2,
    fc.Tanh: lambda z: 1 / np.cosh(z) ** 2,
    fc.Identity: lambda z: np.ones_like(z),
}


@pytest.mark.parametrize("activation", DERIVATIVES)
def test_batched_rows_with_weight_decay(activation):
    rng = np.random.default_rng(4)
    O, W, b, G = (rng.standard_normal(shape) for shape in [(6, 3), (3, 4), (4,), (6, 4)])  # noqa: E741
    net = fc.Sequential([linear(W, b), activation()])
    net.forward(O)
    grad_input = net.backward(G)
    G = G * DERIVATIVES[activation](O @ W + b)
    assert_allclose(net[0].weight_grad, O.T @ G, rtol=1e-12, atol=1e-14)
    assert_allclose(net[0].bias_grad, np.ones(6) @ G, rtol=1e-12, atol=1e-14)
    assert_allclose(grad_input, G @ W.T, rtol=1e-12, atol=1e-14)
    lam, lr = 0.3, 0.1
    fc.SGD(lr, weight_decay=lam).step(net)
    assert_allclose(net[0].weight, W - lr * (O.T @ G + lam * W), rtol=1e-12)
    assert_allclose(net[0].bias, b - lr * (G.sum(axis=0) + lam * b), rtol=1e-12)


@pytest.mark.parametrize("activation", DERIVATIVES)
def test_per_sample_columns_against_a_batch(activation):
    rng = np.random.default_rng(5)
    Z, W, b, D = (rng.standard_normal(shape) for shape in [(5, 3), (4, 3), (4,), (5, 4)])
    net = fc.Sequential([linear(W.T, b), activation()])
    dW, db, previous = np.zeros((4, 3)), np.zeros(4), np.empty((5, 3))
    for i, (z, delta) in enumerate(zip(Z, D, strict=True)):
        epsilon = delta * DERIVATIVES[activation](W @ z + b)
        net.forward(z[None])
        assert_allclose(net.backward(delta[None])[0], W.T @ epsilon, rtol=1e-12, atol=1e-14)
        assert_allclose(net[0].bias_grad, epsilon, rtol=1e-12)
        assert_allclose(net[0].weight_grad.T, np.outer(epsilon, z), rtol=1e-12)
        db, dW, previous[i] = db + epsilon, dW + np.outer(epsilon, z), W.T @ epsilon
    net.forward(Z)
    assert_allclose(net.backward(D), previous, rtol=1e-12, atol=1e-14)
    assert_allclose(net[0].bias_grad, db, rtol=1e-12, atol=1e-14)
    assert_allclose(net[0].weight_grad.T, dW, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", [[1], [[0, 1, 0]]])
def test_softmax_with_cross_entropy(dtype, target):
    value, grad = fc.CrossEntropyLoss()(np.log([[0.2, 0.7, 0.1]]).astype(dtype), target)
    assert_allclose(grad, [[0.2, -0.3, 0.1]], rtol=8 * np.finfo(dtype).eps)
    assert_allclose(value, -np.log(0.7), rtol=8 * np.finfo(dtype).eps)


def test_softmax_regression_converges_to_the_one_minimum():
    rng = np.random.default_rng(6)
    labels = np.repeat([0, 1, 2], 20)
    x = np.array([[2, 0], [-1, 2], [-1, -2]])[labels] + 0.5 * rng.standard_normal((60, 2))
    loss, lam, found = fc.CrossEntropyLoss(), 0.01, []
    for seed in (0, 1):  # a convex problem with an L2 penalty: both starts must end at the same place
        net = fc.MLP([2, 3], seed=seed, dtype=np.float64)
        optimizer = fc.SGD(lr=0.5, momentum=0.9, weight_decay=lam)
        net.fit(x, labels, loss=loss, optimizer=optimizer, epochs=1500, batch_size=60)
        net.backward(loss(net.forward(x), labels)[1])
        assert_allclose(net.grads + lam * net.params, 0, atol=1e-12)
        assert np.mean(net.predict(x).argmax(axis=1) == labels) == 1
        found.append(net.params)
    assert_allclose(found[0], found[1], atol=1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_layer_network_learns_two_moons(dtype):
    rng = np.random.default_rng(7)
    angle, labels = rng.uniform(0, np.pi, 100), np.arange(100) % 2
    x = np.where(labels, [1 - np.cos(angle), 0.5 - np.sin(angle)], [np.cos(angle), np.sin(angle)]).T
    net = fc.MLP([2, 16, 2], activation="tanh", init="xavier", seed=0, dtype=dtype)
    history = net.fit(x, labels, loss=fc.CrossEntropyLoss(), optimizer=fc.SGD(0.2, momentum=0.9), epochs=150, seed=0)
    assert history.loss[-1] < 0.01
    assert_array_equal(net.predict(x).argmax(axis=1), labels)


LAYERS = {
    "Linear": lambda: fc.Linear(3, 4, seed=0),
    "Identity": fc.Identity,
    "ReLU": fc.ReLU,
    "Sigmoid": fc.Sigmoid,
    "Tanh": fc.Tanh,
    "Softmax": fc.Softmax,
    "MLP relu": lambda: fc.MLP([3, 5, 4], seed=1),
    "MLP tanh, softmax": lambda: fc.MLP([3, 5, 6, 4], activation="tanh", output_activation="softmax", seed=2),
    "MLP sigmoid": lambda: fc.MLP([3, 5, 4], activation="sigmoid", output_activation="sigmoid", seed=3),
}
X = np.random.default_rng(8).standard_normal((5, 3))


@pytest.mark.parametrize("name", LAYERS)
def test_numerical_gradients_of_layers(name):
    report = fc.check_gradients(LAYERS[name](), X)
    assert report, report


@pytest.mark.parametrize(
    "loss, target",
    [
        (fc.MSELoss(), X[:, :2]),
        (fc.CrossEntropyLoss(), [0, 1, 1, 0, 1]),
        (fc.CrossEntropyLoss(), np.full((5, 2), 0.5)),
        (fc.BCEWithLogitsLoss(), np.tile([0.25, 1], (5, 1))),
    ],
)
def test_numerical_gradients_of_losses(loss, target):
    prediction = X[:, :2].copy()
    _, grad = loss(prediction, target)
    assert_allclose(grad, fc.numerical_gradient(lambda p: loss(p, target)[0], prediction), atol=1e-9)
    report = fc.check_gradients(fc.MLP([3, 6, 2], activation="tanh", seed=4), X, target, loss)
    assert report, report
