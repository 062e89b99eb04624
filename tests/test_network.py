import copy
import gc
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc
from fastfc import reference
from fastfc.kernels.ops.gemm_plan import blocking_of
from fastfc.kernels.program.interpreter import rows_of_block
from fastfc.kernels.simd.caches import host_caches
from fastfc.kernels.simd.isa import host_isa

CLONES = [copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))]


def small_net(dtype=np.float64, activation="tanh"):
    return fc.MLP([3, 5, 4, 2], activation=activation, seed=0, dtype=dtype)


def data(n=6, width=3, dtype=np.float64):
    return np.random.default_rng(n).standard_normal((n, width)).astype(dtype)


def integer_net(sizes, seed=0):
    """Small integers and ReLU: every sum is exact in any order."""
    net, rng = fc.MLP(sizes), np.random.default_rng(seed)
    net.params[:] = rng.integers(-3, 4, net.params.size)
    return net


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh", "identity", "softmax"])
def test_same_as_layer_by_layer(activation, dtype):
    net = small_net(dtype, activation)
    layers, x, g = copy.deepcopy(net.layers), data(dtype=dtype), data(6, 2, dtype)
    y = x
    for layer in layers:
        y = layer.forward(y)
    grad = g
    for layer in reversed(layers):
        grad = layer.backward(grad)
    tolerance = 16 * np.finfo(dtype).eps
    assert_allclose(net.forward(x), y, rtol=tolerance, atol=tolerance)
    assert_allclose(net.backward(g), grad, rtol=tolerance, atol=tolerance)
    assert_allclose(net.grads, np.concatenate([layer.grads for layer in layers]), rtol=tolerance, atol=tolerance)


@given(sizes=st.lists(st.integers(1, 20), min_size=2, max_size=5), n=st.integers(0, 9))
def test_any_shape_is_exact(sizes, n):
    net, rng = integer_net(sizes), np.random.default_rng(n)
    x, g = rng.integers(-3, 4, (n, sizes[0])), rng.integers(-3, 4, (n, sizes[-1]))
    linears = net[::2]
    outputs = [x]
    for layer in linears:
        outputs.append(np.maximum(outputs[-1] @ layer.weight.astype(int) + layer.bias.astype(int), 0))
    assert_array_equal(net.forward(x), outputs[-2] @ linears[-1].weight + linears[-1].bias)
    net.grads[:] = np.nan
    grad_input = net.backward(g)
    for layer, z in zip(reversed(linears), reversed(outputs[:-1]), strict=True):
        assert_array_equal(layer.weight_grad, z.T @ g)
        assert_array_equal(layer.bias_grad, g.sum(axis=0))
        g = (g @ layer.weight.T.astype(int)) * ((z > 0) | (layer is linears[0]))
    assert_array_equal(grad_input, g)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_live_in_one_aligned_vector(dtype):
    net = small_net(dtype)
    for flat, names in [(net.params, ("weight", "bias")), (net.grads, ("weight_grad", "bias_grad"))]:
        assert flat.dtype == dtype and flat.ctypes.data % 64 == 0
        flat[:] = np.arange(flat.size)
        parts = [getattr(layer, name).ravel() for layer in net[::2] for name in names]
        assert_array_equal(np.concatenate(parts), np.arange(flat.size))
        for layer in net[::2]:
            assert np.shares_memory(getattr(layer, names[0]), flat)


def test_building_a_network_keeps_the_values():
    layer = fc.Linear(3, 2, seed=0)
    layer.weight_grad = np.ones((3, 2))
    params, grads = layer.params.copy(), layer.grads.copy()
    net = fc.Sequential([layer])
    assert_array_equal(net.params, params)
    assert_array_equal(net.grads, grads)
    layer.weight = np.zeros((3, 2))
    assert_array_equal(net.params, np.zeros(8))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_train_step_against_the_reference(dtype):
    net, rng = small_net(dtype), np.random.default_rng(1)
    weights = [layer.weight.astype(np.float64) for layer in net[::2]]
    biases = [layer.bias.astype(np.float64) for layer in net[::2]]
    optimizer = fc.SGD(lr=0.1)
    for _ in range(20):
        x, labels = rng.standard_normal((7, 3)).astype(dtype), rng.integers(0, 2, 7)
        value = net.train_step(x, labels, fc.CrossEntropyLoss(), optimizer)
        expected = reference.train_step(x.astype(np.float64), labels, weights, biases, 0.1, "tanh")
        assert_allclose(value, expected, rtol=100 * np.finfo(dtype).eps)
    for layer, weight, bias in zip(net[::2], weights, biases, strict=True):
        assert_allclose(layer.weight, weight, atol=100 * np.finfo(dtype).eps)
        assert_allclose(layer.bias, bias, atol=100 * np.finfo(dtype).eps)


def test_update_parameters():
    net = small_net()
    before = net.params.copy()
    net.grads[:] = np.arange(net.grads.size)
    net.update_parameters(lr=0.5)
    assert_array_equal(net.params, before - 0.5 * np.arange(net.grads.size))
    with pytest.raises(ValueError, match="lr must be finite and positive, got 0"):
        net.update_parameters(0)


@pytest.mark.parametrize("sizes", [[3, 7, 2], [3, 3000, 2], [3, 40, 2000, 2], [3, 9000, 2]])
def test_predict_in_blocks(sizes):
    """More rows than go through all layers at once, and spaces on the stack and beyond it."""
    net, rng = integer_net(sizes), np.random.default_rng(0)
    numbers = max(sum(pair) for pair in pairwise([0, *sizes[1:-1]]))
    block = rows_of_block(4 * numbers, blocking_of(host_isa(), host_caches(), 4))
    for n in (0, 1, block - 1, block, block + 1, 2 * block + 1):
        x = rng.integers(-3, 4, (n, 3))
        assert_array_equal(net.predict(x), net.forward(x))
    assert_array_equal(fc.Sequential([fc.ReLU()]).predict(x), np.maximum(x, 0))


def test_predict_saves_nothing():
    net, x, g = small_net(), data(), data(6, 2)
    net.forward(x)
    before = net.backward(g)
    net.predict(data(50))
    assert_array_equal(net.backward(g), before)
    fresh = small_net()
    fresh.predict(x)
    with pytest.raises(RuntimeError, match="call forward"):
        fresh.backward(g)


def test_predict_of_one_sample():
    net, x = integer_net([3, 7, 2]), np.array([1, -2, 3])
    assert net.predict(x).shape == (2,)
    assert_array_equal(net.predict(x), net.predict(x[None])[0])


def test_predict_from_many_threads():
    net = integer_net([3, 70, 2])
    inputs = [np.random.default_rng(i).integers(-3, 4, (20 + i, 3)) for i in range(16)]
    expected = [net.predict(x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        for y, result in zip(expected * 10, pool.map(net.predict, inputs * 10), strict=True):
            assert_array_equal(result, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("clone", CLONES)
def test_copies_are_whole_and_independent(clone, dtype):
    net, x = small_net(dtype), data(dtype=dtype)
    net.fit(x, x[:, :2], loss=fc.MSELoss(), optimizer=fc.SGD(0.1), epochs=2)
    twin, before = clone(net), net.params.copy()
    assert repr(twin) == repr(net) and twin.history == net.history and twin.dtype == dtype
    assert_array_equal(twin.params, net.params)
    assert_array_equal(twin.grads, net.grads)
    assert_array_equal(twin.predict(x), net.predict(x))
    assert twin.params.ctypes.data % 64 == 0 and np.shares_memory(twin[0].weight, twin.params)
    twin.fit(x, x[:, :2], loss=fc.MSELoss(), optimizer=fc.SGD(0.1))
    assert_array_equal(net.params, before)
    assert np.shares_memory(net[0].weight, net.params) and len(net.history.loss) == 2
    assert (twin.params != before).any()
    with pytest.raises(ValueError, match="is in another network"):
        fc.Sequential([twin[0]])


def test_networks_inside_networks():
    inner = fc.Sequential([fc.Linear(3, 4, seed=0, dtype=np.float64), fc.Tanh()])
    outer = fc.Sequential([inner, fc.Linear(4, 2, seed=1, dtype=np.float64, name="head")])
    assert np.shares_memory(inner[0].weight, outer.params)
    assert [name for name, _, _ in outer.named_parameters()] == [
        "0.0.weight",
        "0.0.bias",
        "head.weight",
        "head.bias",
    ]
    assert fc.check_gradients(pickle.loads(pickle.dumps(outer)), data())


def test_sequence_protocol_summary_and_repr():
    net = fc.MLP([64, 128, 10], output_activation="softmax")
    assert len(net) == 4 and net[0] is net.layers[0] and net[-1] is net.layers[3] and list(net) == list(net[:])
    assert repr(net) == "Sequential([Linear(64, 128), ReLU(), Linear(128, 10), Softmax()])"
    names = {"Sequential": fc.Sequential, "Linear": fc.Linear, "ReLU": fc.ReLU, "Softmax": fc.Softmax}
    assert repr(eval(repr(net), names)) == repr(net)
    assert net.summary().splitlines() == [
        "layer            output  parameters",
        "Linear(64, 128)     128       8,320",
        "ReLU()              128           0",
        "Linear(128, 10)      10       1,290",
        "Softmax()            10           0",
        "total                         9,610",
    ]
    assert "any" in fc.Sequential([fc.ReLU()]).summary()


def test_layer_is_free_again_when_its_network_is_gone():
    layer = fc.Linear(3, 2)
    fc.Sequential([layer])
    gc.collect()
    fc.Sequential([layer])


L = fc.Linear


@pytest.mark.parametrize(
    "layers, error, message",
    [
        ([], ValueError, "at least one layer"),
        ([L(2, 3), L(4, 1)], ValueError, r"Linear\(2, 3\) gives 3 .* layer 1, Linear\(4, 1\), takes 4"),
        (
            [L(2, 3), fc.ReLU(), L(4, 1, name="head")],
            ValueError,
            r"layer 2, Linear\(4, 1, name='head'\), takes 4",
        ),
        ([L(2, 3), L(3, 1, dtype=np.float64)], ValueError, r"Linear\(2, 3\) is float32, .* is float64"),
        ([fc.ReLU], TypeError, r"layer 0 must be a layer object such as ReLU\(\), got <class"),
        ([L(2, 2), "relu"], TypeError, "layer 1 .* got 'relu'"),
        ([layer := fc.Linear(2, 2), layer], ValueError, r"layer 1, Linear\(2, 2\), is duplicated.*deepcopy"),
        ([relu := fc.ReLU(), fc.Linear(2, 2), relu], ValueError, r"layer 2, ReLU\(\), is duplicated"),
    ],
)
def test_bad_layers(layers, error, message):
    with pytest.raises(error, match=message):
        fc.Sequential(layers)


def test_refused_layers_are_unchanged():
    net = small_net()
    free = fc.Linear(3, 3, dtype=np.float64)
    params, owned = free.params, net[0]
    with pytest.raises(ValueError, match=r"layer 1, .* is in another network; copy\.deepcopy"):
        fc.Sequential([free, owned])
    assert free.params is params and np.shares_memory(owned.weight, net.params)
    assert len(fc.Sequential([free, copy.deepcopy(owned)])) == 2


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (([],), ValueError, "at least the input's and output's width"),
        (([3],), ValueError, r"got \[3\]"),
        (([3, 0, 2],), ValueError, "each size must be at least 1, got 0"),
        (([3, 2.5],), TypeError, "each size must be an integer, got 2.5"),
        ((3, 2), TypeError, "sizes must be a sequence"),
        (("32",), TypeError, "sizes must be a sequence"),
        (([3, 4, 2], "rellu"), ValueError, "unknown activation 'rellu'"),
        (([3, 2], "relu", "soft"), ValueError, "unknown activation 'soft'"),
        (([3, 2], "relu", None, "hee"), ValueError, "unknown initializer 'hee'"),
        (([3, 2], "relu", None, "he", 0, np.float16), TypeError, "got float16"),
    ],
)
def test_bad_mlp(arguments, error, message):
    with pytest.raises(error, match=message):
        fc.MLP(*arguments)


def test_seed():
    assert_array_equal(fc.MLP([3, 3, 3], seed=1).params, fc.MLP([3, 3, 3], seed=1).params)
    net = fc.MLP([3, 3, 3], seed=1)
    assert (net[0].weight != net[2].weight).all()


def test_bad_input_names_the_network():
    net = fc.MLP([3, 2])
    with pytest.raises(ValueError, match=r"Sequential\(\[Linear\(3, 2\)\]\): x has shape \(5, 4\), expected \(n, 3\)"):
        net.forward(np.zeros((5, 4)))
    with pytest.raises(ValueError, match=r"x\.T"):
        net.predict(np.zeros((3, 4)))
    with pytest.raises(TypeError, match="x has dtype complex128"):
        net.predict([[1j, 0, 0]])


def test_threads_change_no_bit(monkeypatch):
    monkeypatch.setattr(fc.kernels.runtime.threads, "MIN_WORK", 1)
    x, y = np.random.default_rng(0).random((300, 20)), np.arange(300) % 5
    results = []
    for n_threads in (1, 2):
        net = fc.MLP([20, 33, 5], seed=0)
        net.n_threads = n_threads
        assert [layer.n_threads for layer in net] == [n_threads] * 3
        net.fit(x, y, loss=fc.CrossEntropyLoss(), optimizer=fc.SGD(lr=0.1), epochs=2, batch_size=64, seed=0)
        results.append(net.params)
    np.testing.assert_array_equal(*results)
    with pytest.raises(ValueError, match="n_threads must be at least 1"):
        net.n_threads = 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predict_into_an_array_and_with_other_parameters(dtype):
    net, other, x = small_net(dtype), small_net(dtype), data(dtype=dtype)
    other.params[:] *= 2
    out = np.full((6, 2), np.nan, dtype)
    assert net.predict(x, out) is out
    assert_array_equal(out, net.predict(x))
    assert_array_equal(net.predict(x, params=other.params), other.predict(x))
    one = np.full(2, np.nan, dtype)
    net.predict(x[0], one)
    assert_array_equal(one, out[0])
    net.predict_one(x[1], one)
    assert_array_equal(one, out[1])
    with pytest.raises(ValueError, match=r"params \(5,\)"):
        net.predict(x, params=other.params[:5])
    with pytest.raises(ValueError, match=r"out \(5, 2\)"):
        net.predict(x, out[:5])


GIVEN = ["gelu", fc.GELU(), fc.GELU, fc.LeakyReLU(0.3), fc.Softmax(), [fc.GELU("tanh"), "relu"], (fc.ELU(2.0), fc.Tanh)]


@pytest.mark.parametrize("given", GIVEN)
def test_activations_as_the_estimators_take_them(given):
    """MLP took names only."""
    net = fc.MLP(
        [3, 4, 5, 1], activation=given, output_activation=given if not isinstance(given, list | tuple) else None
    )
    wanted = list(given) if isinstance(given, list | tuple) else [given] * 3
    wanted = [fc.MLP([1, 1], output_activation=one)[1] for one in wanted]
    assert [str(layer) for layer in net if not isinstance(layer, fc.Linear)] == [str(layer) for layer in wanted]
    layers = [layer for layer in net if not isinstance(layer, fc.Linear)]
    assert len({id(layer) for layer in layers}) == len(layers) and not any(layer is given for layer in layers)
    assert net.predict(np.ones((2, 3))).shape == (2, 1)


def test_activations_that_do_not_fit():
    with pytest.raises(ValueError, match="MLP: activation has 1 items for 2 hidden layers"):
        fc.MLP([3, 4, 5, 1], activation=["relu"])
    for bad in (3, None, fc.Linear(1, 1), fc.Linear, lambda x: x):
        with pytest.raises(TypeError, match="an activation's name is a string such as 'relu'; give a name, or a layer"):
            fc.MLP([3, 4, 1], activation=bad)


def test_shapes_are_told_in_the_layers_terms():
    """`predict: out (8, 1) does not fit; got params (3,), program (6, 19), …` named what users have never seen."""
    x = np.ones((4, 3), np.float32)
    wide, read_only = np.zeros((4, 2), np.float32), np.broadcast_to(np.float32(0), (4, 1))
    calls = [
        (
            lambda net: net.predict(x, params=x[0]),
            ValueError,
            r"params \(3,\) does not fit; it must have shape \(21,\)",
        ),
        (lambda net: net.predict(x, params=net.params[None, :-1]), ValueError, r"params \(1, 20\) does not fit"),
        (lambda net: net.predict(x, params=net.params.astype(float)), TypeError, r"params has dtype float64, .*astype"),
        (lambda net: net.predict(x, out=wide), ValueError, r"out \(4, 2\) does not fit; it must have shape \(4, 1\)"),
        (lambda net: net.predict(x, out=wide[:, 0]), ValueError, r"out \(4,\) does not fit"),
        (lambda net: net.predict(x[0], out=x[0]), ValueError, r"out \(3,\) does not fit; it must have shape \(1,\)"),
        (lambda net: net.predict(x, out=np.zeros((4, 1))), TypeError, r"out has dtype float64, .*np.zeros\(\(4, 1\)"),
        (lambda net: net.predict(x, out=[[0.0]] * 4), TypeError, "out must be an array .* not a list"),
        (lambda net: net.predict(x, out=read_only), ValueError, "out is read-only; give a writable array"),
        (lambda net: net.predict_one(x[0], x[0]), ValueError, r"out \(3,\) does not fit; it must have shape \(1,\)"),
        (lambda net: net.predict_one(x[0].astype(float), x[0, :1]), TypeError, "x has dtype float64, expected float32"),
        (lambda net: net.predict_one(x, x[:, :1]), ValueError, r"x has shape"),
    ]
    for call, error, message in calls:
        net = fc.MLP([3, 4, 1], seed=0)
        with pytest.raises(error, match=message) as raised:
            call(net)
        text = str(raised.value)
        assert text.startswith("Sequential([") and not any(word in text for word in ("program", "segments", "tape"))


@njit
def one(net, x):
    return net.predict_one(x)


@njit
def one_into(net, x, out):
    return net.predict_one(x, out)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predict_one_returns_the_output(dtype):
    """Without `out` it was a TypeError in Python, and it returned nothing."""
    net, x, out = fc.MLP([3, 4, 2], seed=0, dtype=dtype), np.arange(3, dtype=dtype), np.empty(2, dtype)
    expected = net.predict(x)
    for found in (net.predict_one(x), one(net, x), net.predict_one(x, out), one_into(net, x, out), out):
        assert_array_equal(found, expected)
    assert net.predict_one(x, out) is out
    for bad, error in (([1, 2, 3], TypeError), (np.arange(3), TypeError), (np.zeros(2, dtype), ValueError)):
        with pytest.raises(error):
            net.predict_one(bad)


def table_of(html):
    """The cells of the rows of a table."""
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [[unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def test_notebooks_show_tables():
    """A network was one long line there."""
    a = fc.Input(2, "a & b")
    for net in (fc.MLP([1000, 20, 1]), fc.Graph(a, fc.Linear(2, 3)(a)), fc.Sequential([fc.BatchNorm1d(3)])):
        rows = table_of(net._repr_html_())
        assert [line.split() for line in net.summary().splitlines()[: len(rows)]] == [
            " ".join(row).split() for row in rows
        ]
    assert "&amp;" in fc.Graph(a, fc.Linear(2, 3)(a))._repr_html_()
    assert "running_mean" in fc.Sequential([fc.BatchNorm1d(3)])._repr_html_()


def test_notebooks_show_histories():
    net = fc.MLP([1, 1], seed=0)
    assert table_of(net.history._repr_html_()) == [[]]
    history = net.fit([[1.0]], [[2.0]], loss=fc.MSELoss(), optimizer=fc.SGD(0.1), epochs=25, seed=0)
    heads, *rows = table_of(history._repr_html_())
    assert heads == history.names() and len(rows) == 20
    assert [float(row[heads.index("epoch")]) for row in rows] == list(range(6, 26))
    assert "the last 20 of 25 epochs" in history._repr_html_()
