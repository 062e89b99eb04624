import copy
import gc
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nopython_code import forward_backward, train_step
from nopython_code import predict as nopython_predict
from numba import njit
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc
from fastfc import kernels, reference
from fastfc.io.torch import counterpart
from fastfc.kernels.ops import activation_rules
from fastfc.kernels.program.interpreter import predict
from fastfc.nn.activations import ACTIVATIONS, get_activation
from fastfc.nn.activations import LAYERS as KINDS

# layers by what they are called in the reference, with the numbers that differ from its own
LAYERS = {
    **{kind().name: (kind(), ()) for kind in KINDS},
    "gelu": (fc.GELU(), ()),
    "gelu_tanh": (fc.GELU("tanh"), ()),
    "leaky_relu": (fc.LeakyReLU(0.2), (0.2,)),
    "hardtanh": (fc.Hardtanh(-0.5, 2), (-0.5, 2)),
    "elu": (fc.ELU(0.7), (0.7,)),
    "celu": (fc.CELU(2), (2, 0.5)),
    "softplus": (fc.Softplus(2, 10), (2, 10)),
    "leaky_relu of a negative slope": (fc.LeakyReLU(-0.2), (-0.2,)),
}
every_activation = pytest.mark.parametrize("name", LAYERS)


def of_reference(name, table):
    f, numbers = table[name.partition(" ")[0]], LAYERS[name][1]
    return lambda *arrays: f(*arrays, *numbers)


def formula(name):
    return of_reference(name, reference.ACTIVATIONS)


def test_every_name_has_a_layer():
    assert set(ACTIVATIONS) == set(activation_rules.ACTIVATIONS)
    assert set(ACTIVATIONS) <= LAYERS.keys()
    for name in ACTIVATIONS:
        assert get_activation(name).numbers() == activation_rules.ACTIVATIONS[name]
        assert "Examples" in type(get_activation(name)).__doc__


@every_activation
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (4, 33)])
def test_forward(name, dtype, shape):
    layer = copy.copy(LAYERS[name][0])
    x = np.random.default_rng(0).normal(0, 3, shape).astype(dtype)
    y = layer.forward(x)
    assert y.dtype == dtype and y is not x
    eps = np.finfo(dtype).eps
    assert_allclose(y, formula(name)(x.astype(np.float64)), rtol=40 * eps, atol=eps)
    assert_array_equal(layer.predict(x), y)


@every_activation
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_backward(name, dtype):
    rng, layer = np.random.default_rng(1), copy.copy(LAYERS[name][0])
    x, g = rng.normal(0, 2, (4, 33)).astype(dtype), rng.normal(0, 1, (4, 33)).astype(dtype)
    y = layer.forward(x)
    before = g.copy()
    grad_input = layer.backward(g)
    wide = x.astype(np.float64)
    kept = wide if activation_rules.of_input(layer.numbers()) else formula(name)(wide)
    expected = of_reference(name, reference.DERIVATIVES)(kept, g.astype(np.float64))
    # 1 − y² and y (1 − y) lose what y rounded away: the error is absolute, about eps · |g|
    bound = np.abs(g).sum(axis=1, keepdims=True) if "softmax" in name else np.abs(g)
    assert (np.abs(grad_input - expected) <= 6 * np.finfo(dtype).eps * (bound + np.abs(expected))).all()
    assert grad_input.dtype == y.dtype == dtype
    assert_array_equal(g, before)


@every_activation
def test_in_a_network(name):
    """Fused with a product, behind one whose output another layer reads, alone, and at both ends."""
    layer = LAYERS[name][0]
    rng = np.random.default_rng(3)
    net = fc.Sequential(
        [fc.Linear(3, 5, seed=0), copy.copy(layer), fc.Linear(5, 4, seed=1), copy.copy(layer), copy.copy(layer)]
    )
    x = fc.Input(3)
    z = fc.Linear(3, 4, seed=2)(x)
    y = copy.copy(layer)(z)
    ends = [fc.Linear(4, 2, seed=3)(y), z, fc.Linear(4, 2, seed=4)(copy.copy(layer)(y))]
    data = rng.normal(0, 1, (6, 3)).astype(np.float32)
    for network in (net, fc.Graph(x, fc.concatenate(ends))):
        assert fc.check_gradients(network, data)
        assert_array_equal(network.predict(data), network.forward(data))
    hidden = formula(name)(data.astype(float) @ net.layers[0].weight + net.layers[0].bias)
    out = formula(name)(formula(name)(hidden @ net.layers[2].weight + net.layers[2].bias))
    assert_allclose(net.predict(data), out, rtol=1e-4, atol=1e-5)
    net.fit(data, np.zeros((6, 4), np.float32), loss=fc.MSELoss(), optimizer=fc.SGD(lr=0.01), epochs=2, batch_size=4)
    assert np.isfinite(net.params).all()


@njit
def fused(x, weight, bias, out):
    kernels.dense_forward(x, weight, bias, out, "gelu")
    return out


@every_activation
def test_in_nopython_code(name):
    x = np.random.default_rng(4).normal(0, 1, (5, 3)).astype(np.float32)
    net = fc.Sequential([fc.Linear(3, 4, seed=0), copy.copy(LAYERS[name][0]), fc.Linear(4, 2, seed=1)])
    twin, y = copy.deepcopy(net), np.zeros((5, 2), np.float32)
    loss, sgd, its_sgd = fc.MSELoss(), fc.SGD(lr=0.1), fc.SGD(lr=0.1)
    net.reserve(5)
    sgd.prepare(net)
    assert_array_equal(nopython_predict(net, x), twin.predict(x))
    assert train_step(net, x, y, loss, sgd) == twin.train_step(x, y, loss, its_sgd)
    assert_array_equal(net.params, twin.params)


def test_kernels_in_nopython_code():
    x, weight, bias = np.ones((2, 3)), np.full((3, 2), 0.5), np.zeros(2)
    assert_allclose(fused(x, weight, bias, np.empty((2, 2))), formula("gelu")(np.full((2, 2), 1.5)), rtol=1e-15)


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
def test_input_of_other_dtypes(name):
    layer = copy.copy(LAYERS[name][0])
    x = np.array([[1, 0, 2], [3, 1, 0]])
    expected = layer.forward(x.astype(np.float32))
    for other in (x, x.tolist(), x.astype(np.float16), x.astype(">f4")):
        y = layer.forward(other)
        assert y.dtype == np.float32
        assert_array_equal(y, expected)
    assert layer.forward(x.astype(">f8")).dtype == np.float64


@every_activation
def test_bad_input(name):
    layer = copy.copy(LAYERS[name][0])
    kind = type(layer).__name__
    with pytest.raises(RuntimeError, match=rf"{kind}\(.*\): backward needs .* call forward"):
        layer.backward([[1.0]])
    y = layer.forward([[1, 2]])
    for x, error in [([1, 2], ValueError), (np.zeros((1, 2, 3)), ValueError), ([[1j]], TypeError)]:
        with pytest.raises(error, match=rf"{kind}\(.*\): x has"):
            layer.forward(x)
    with pytest.raises(ValueError, match=r"grad_output has shape \(2, 1\); it must have the output's, \(1, 2\)"):
        layer.backward([[1], [2]])
    assert_array_equal(layer.backward(np.zeros_like(y)), np.zeros((1, 2)))
    layer.update_parameters(0.1)  # nothing to update


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: fc.LeakyReLU("0.1"), TypeError, "LeakyReLU: negative_slope must be a number, got '0.1'"),
        (lambda: fc.LeakyReLU(np.nan), ValueError, "LeakyReLU: negative_slope must be finite, got nan"),
        (lambda: fc.ELU(np.inf), ValueError, "ELU: alpha must be finite, got inf"),
        (lambda: fc.CELU(0), ValueError, "CELU: alpha must not be 0"),
        (lambda: fc.Softplus(beta=0), ValueError, "Softplus: beta must be finite and positive, got 0"),
        (lambda: fc.Softplus(threshold=None), TypeError, "Softplus: threshold must be a number, got None"),
        (lambda: fc.Hardtanh(1, 1), ValueError, "Hardtanh: min_val must be less than max_val, got 1 and 1"),
        (lambda: fc.Hardtanh(np.nan, 1), ValueError, "Hardtanh: min_val must be less than max_val, got nan and 1"),
        (
            lambda: fc.Hardtanh(np.inf, np.inf),
            ValueError,
            "Hardtanh: min_val must be less than max_val, got inf and inf",
        ),
        (lambda: fc.GELU("erf"), ValueError, "GELU: approximate must be one of 'none', 'tanh', got 'erf'"),
        (lambda: fc.Elementwise(np.sin, cosine), TypeError, "Elementwise: function must be decorated with numba.njit"),
        (lambda: fc.Elementwise(cosine, abs), TypeError, "Elementwise: derivative must be decorated with numba.njit"),
        (lambda: fc.Elementwise(cosine, sign), TypeError, "must return a float; sign returns int64"),
        (lambda: fc.Elementwise(sine_of, sine_of), TypeError, r"derivative takes \(x\), .* sine_of takes 2"),
        (lambda: fc.Softmax(dim=np.array([1, 2])), ValueError, "Softmax: dim must be 1, -1 or None"),
    ],
)
def test_bad_numbers(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_names():
    with pytest.raises(ValueError, match=r"unknown activation 'rellu'; known are 'identity', 'relu'"):
        get_activation("rellu")
    with pytest.raises(TypeError, match="'relu'"):
        get_activation(3)


@every_activation
def test_repr_and_pickle(name):
    layer = LAYERS[name][0]
    again = pickle.loads(pickle.dumps(layer))
    assert repr(again) == repr(layer)
    assert eval(repr(layer), vars(fc)).numbers() == again.numbers() == layer.numbers()


@njit
def sine(x):
    return math.sin(x)


@njit
def cosine(x):
    return math.cos(x)


@njit
def sine_of(x, out):
    for j in range(len(x)):
        out[j] = 0
        out[j] += math.sin(x[j])  # wrong if out is x


@njit
def cosine_of(x, grad_output, out):
    out[:] = 0
    out += grad_output * np.cos(x)


@njit
def sign(x):
    return 1 if x > 0 else -1


def of_sines(*functions):
    layers = [fc.Linear(3, 6, seed=0), fc.Elementwise(sine, cosine), fc.Linear(6, 2, seed=1)]
    return fc.Sequential([*layers, fc.Elementwise(*functions or (sine, cosine))])


@pytest.mark.parametrize("functions", [(sine, cosine), (sine_of, cosine_of), (sine, cosine_of)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_functions_of_the_user(functions, dtype):
    layer, x = fc.Elementwise(*functions), np.random.default_rng(0).normal(0, 2, (7, 19)).astype(dtype)
    assert_allclose(layer.forward(x), np.sin(x), rtol=4 * np.finfo(dtype).eps)
    assert_allclose(layer.backward(np.full_like(x, 2)), 2 * np.cos(x), rtol=4 * np.finfo(dtype).eps)
    assert_array_equal(layer.predict(x[:, ::2]), layer.predict(x)[:, ::2])


@pytest.mark.parametrize("functions", [(sine, cosine), (sine_of, cosine_of)])
def test_network_of_functions_of_the_user(functions):
    net, x = of_sines(*functions), np.random.default_rng(0).normal(0, 1, (40, 3)).astype(np.float32)
    assert fc.check_gradients(net, x[:4])
    first, last = net.layers[0], net.layers[2]
    exact = np.sin(np.sin(x.astype(float) @ first.weight + first.bias) @ last.weight + last.bias)
    assert_allclose(net.predict(x), exact, atol=1e-6)
    assert_array_equal(net.predict(x), net.forward(x))
    twin = pickle.loads(pickle.dumps(net))
    assert repr(twin) == repr(net)
    for network in (net, twin):
        network.fit(x, exact[::-1], loss=fc.MSELoss(), optimizer=fc.SGD(lr=0.1), epochs=3, batch_size=16, seed=0)
    assert_array_equal(twin.params, net.params)
    assert not np.array_equal(net.params, of_sines().params)
    assert_array_equal(net.predict(x), net.forward(x))
    node = fc.Input(3)
    graph = fc.Graph(node, [fc.Linear(2, 1, seed=0)(fc.Elementwise(sine, cosine)(fc.Linear(3, 2, seed=1)(node)))])
    assert fc.check_gradients(graph, x[:4])


def test_functions_of_the_user_in_nopython_code():
    net, x = of_sines(), np.random.default_rng(1).normal(0, 1, (5, 3)).astype(np.float32)
    twin, sgd, its_sgd = copy.deepcopy(net), fc.SGD(lr=0.1), fc.SGD(lr=0.1)
    net.reserve(5)
    sgd.prepare(net)
    assert_array_equal(nopython_predict(net, x), twin.predict(x))
    y = np.ones((5, 2), np.float32)
    assert train_step(net, x, y, fc.MSELoss(), sgd) == twin.train_step(x, y, fc.MSELoss(), its_sgd)
    assert_array_equal(net.params, twin.params)


def test_functions_outlive_their_layer():
    table = fc.Elementwise(njit(lambda x: x + 1.0), njit(lambda x: 1.0 + 0 * x)).program_for(np.zeros((0, 4))).table
    gc.collect()
    out = np.zeros((3, 4))
    predict.call(np.zeros(0), table, np.ones((3, 4)), out, 1, 1)
    assert_array_equal(out, 2)


def test_functions_are_compiled_once():
    layer = fc.Elementwise(sine, cosine)
    assert fc.Elementwise(sine, cosine).numbers() == layer.numbers() == copy.deepcopy(layer).numbers()
    assert fc.Elementwise(cosine, sine).numbers() != layer.numbers()


@pytest.mark.parametrize("low, high", [(-0.5, np.inf), (-np.inf, 0.5)])
def test_a_bound_on_one_side(low, high, tmp_path):
    """As PyTorch's Hardtanh takes it: an infinite bound was refused."""
    x = np.array([[-np.inf, -3, -0.5, 0.25, 0.5, 3, np.inf, np.nan]])
    net = fc.Sequential([fc.Hardtanh(low, high)])
    assert_array_equal(net.predict(x), np.clip(x, low, high))
    net.forward(x[:, 1:-2])
    assert_array_equal(net.backward(np.ones((1, 5))), [[low < a < high for a in x[0, 1:-2]]])
    net.save(tmp_path / "net")
    assert repr(fc.load(tmp_path / "net")) == repr(net)


SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 3.0, -3.0, 6.0, 1.0, -1.0, 20.0, -20.0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "name, way",
    [
        (name, way)
        for name in ACTIVATIONS
        for way in ("layer", "after a product", "between products", "nopython")
        if way == "layer" or "softmax" not in name  # of several columns a product makes NaN
    ],
)
def test_special_numbers_as_in_pytorch(name, way, dtype):
    """At NaN ELU, CELU, SELU and Hardswish had the derivative 1 where PyTorch has NaN, Hardtanh and ReLU6 where 0.

    PyTorch's code for fewer numbers than fill its registers has 1 as well; each number is there often enough here.
    """
    torch = pytest.importorskip("torch")
    numbers = torch.nn.GELU(approximate="tanh") if name == "gelu_tanh" else None
    kind = type(ACTIVATIONS[name]()).__name__
    theirs = numbers or counterpart(torch, kind)(**({"dim": 1} if "Softmax" in kind else {}))
    x = np.repeat(np.array(SPECIAL, dtype), 64)[:, None]
    if "Softmax" in kind:
        x = np.hstack([x, np.ones_like(x)])
    net = layer = ACTIVATIONS[name]()
    if way != "layer":
        ends = [fc.Linear(1, 1, init="zeros", dtype=dtype) for _ in range(2)]
        for end in ends:
            end.weight = [[1.0]]
        net = fc.Sequential([ends[0], layer] if way == "after a product" else [ends[0], layer, ends[1]])
    grad = np.full_like(x, 0.5)
    if way == "nopython":
        net.reserve(len(x))
        y, dx = forward_backward(net, x, grad)
    else:
        y, dx = net.forward(x), net.backward(grad)
    z = torch.tensor(x, requires_grad=True)
    out = theirs(z)
    out.backward(torch.tensor(grad))
    tolerance = {"rtol": 16 * np.finfo(dtype).eps, "atol": 16 * np.finfo(dtype).eps}
    if name == "hardsigmoid":  # a sixth, its slope, is of float32 there
        tolerance["rtol"] = 1e-6
    assert_allclose(y, out.detach().numpy(), **tolerance)
    assert_allclose(dx, z.grad.numpy(), **tolerance)
    with np.errstate(invalid="ignore"):
        assert_allclose(net.predict(x), y, **tolerance)
