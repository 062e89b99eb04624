import copy
import enum

import numba
import numpy as np
import pytest
from arrays import DTYPES, LAYOUTS, nan, normal
from numpy.testing import assert_array_equal

import fastfc as fc
from fastfc import kernels
from fastfc.kernels.ops.gemm import CHUNK
from fastfc.kernels.program import interpreter

ACTIVATIONS = ["identity", "relu", "sigmoid", "tanh", "softmax"]
ONE_THREAD = 1, 1  # parts, and the least work that pays for one


def enumerations(kind=enum.IntEnum):
    """Those of the kernels."""
    for one in kind.__subclasses__():
        yield from enumerations(one)
        if one.__module__.startswith("fastfc.kernels.") and len(one):
            yield one


@pytest.mark.parametrize("columns", [*enumerations()], ids=lambda columns: columns.__name__)
def test_columns_are_integers_in_nopython_code(columns):
    """Others are no indices with numba before 0.68."""
    assert {numba.typeof(column) for column in columns} == {numba.types.intp}
    assert numba.typeof(columns).member_type == numba.types.intp


class Arguments:
    """What the kernels take, for a network: memory is full of NaN."""

    def __init__(self, net, batch=20):
        self.net, self.program = net, net.program_for(np.zeros((0, net.in_features), net.dtype))
        self.table, self.params = self.program.table, net.params.copy()
        self.grads = nan(self.params.shape, net.dtype)
        self.workspace = nan(self.program.workspace_size(batch), net.dtype)
        self.counters = np.zeros(2, np.int64)

    def nan(self, *shape):
        return nan(shape, self.net.dtype)

    def predict(self, x):
        out = self.nan(len(x), self.program.outputs)
        interpreter.predict.call(self.params, self.table, x, out, *ONE_THREAD)
        return out

    def forward(self, x):
        out = self.nan(len(x), self.program.outputs)
        interpreter.forward.call(x, self.table, self.params, out, self.workspace, self.counters, *ONE_THREAD)
        return out

    def backward(self, x, output, grad_output):
        grad_input = self.nan(*x.shape)
        arrays = self.params, self.table, x, output, grad_output, self.counters, self.grads, grad_input, self.workspace
        interpreter.backward.call(*arrays, *ONE_THREAD)
        return grad_input


def by_layers(layers, x, grad_output):
    """Output, gradient of the input and all gradients: the kernels of one layer after another."""
    kept = [x]
    for layer in layers:
        x, width = kept[-1], layer.out_features or kept[-1].shape[1]
        kept.append(nan((len(x), width), x.dtype))
        if isinstance(layer, fc.Linear):
            kernels.dense_forward(x, layer.weight, layer.bias, kept[-1])
        else:
            kernels.activation_forward(x, kept[-1], layer.name)
    g, grads = grad_output, []
    for layer, x, y in zip(layers[::-1], kept[-2::-1], kept[:0:-1], strict=True):
        g_next = nan(x.shape, x.dtype)
        if isinstance(layer, fc.Linear):
            weight_grad, bias_grad = nan(layer.weight.shape, x.dtype), nan(layer.bias.shape, x.dtype)
            kernels.dense_weight_grad(x, g, weight_grad)
            kernels.dense_bias_grad(g, bias_grad)
            kernels.dense_input_grad(g, layer.weight, g_next)
            grads = [weight_grad.ravel(), bias_grad, *grads]
        else:
            kernels.activation_backward(y, g, g_next, layer.name)
        g = g_next
    return kept[-1], g, np.concatenate(grads)


SHAPES = {
    "one of everything": (1, [1, 1, 1]),
    "one sample": (1, [3, 5, 2]),
    "one feature": (7, [1, 4, 1]),
    "one layer": (9, [5, 4]),
    "deep": (17, [3, 4, 5, 6, 5, 4, 3]),
    "beyond a vector": (33, [17, 65, 33, 9]),
    "more rows than a chain of sums": (CHUNK + 7, [3, 5, 2]),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("n, sizes", SHAPES.values(), ids=SHAPES.keys())
def test_bits_are_those_of_the_layers_kernels(n, sizes, activation, dtype):
    net = fc.MLP(sizes, activation, output_activation=activation, seed=0, dtype=dtype)
    net.params[:] = normal(net.params.shape, dtype)
    run, x, g = Arguments(net, n), normal((n, sizes[0]), dtype, 1), normal((n, sizes[-1]), dtype, 2)
    output, grad_input, grads = by_layers(net.layers, x, g)
    assert_array_equal(run.predict(x), output)
    y, before = run.forward(x), g.copy()
    assert_array_equal(y, output)
    for _ in range(2):  # backward leaves what forward saved, and its arguments
        assert_array_equal(run.backward(x, y, g), grad_input)
        assert_array_equal(run.grads, grads)
    assert_array_equal(g, before)
    assert_array_equal(run.params, net.params)


@pytest.mark.parametrize("n", [20, 2 * CHUNK + 5])
def test_a_shared_layer_adds_to_its_gradient(n):
    x, layer = fc.Input(3), fc.Linear(3, 3, seed=0)
    net, samples, g = fc.Graph(x, layer(layer(x))), normal((n, 3), np.float32), normal((n, 3), np.float32, 1)
    run = Arguments(net, n)
    run.backward(samples, run.forward(samples), g)
    middle, g_middle = layer.predict(samples), np.empty_like(g)
    kernels.dense_input_grad(g, layer.weight, g_middle)
    weight_grad, bias_grad = layer.weight_grad.copy(), layer.bias_grad.copy()
    kernels.dense_weight_grad(middle, g, weight_grad)
    kernels.dense_bias_grad(g, bias_grad)
    kernels.dense_add_weight_grad(samples, g_middle, weight_grad)
    kernels.dense_add_bias_grad(g_middle, bias_grad)
    assert_array_equal(run.grads, np.concatenate([weight_grad.ravel(), bias_grad]))


def all_gates():
    x = fc.Input(5)
    a, b = fc.Linear(5, 7, seed=0)(x), fc.Linear(5, 7, seed=1)(x)
    return fc.Graph(x, [fc.concatenate([x, a * b, x]), a + 0.1 * b, fc.Tanh()(x), x * x])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_change_no_bit(layout, dtype):
    net = copy.deepcopy(all_gates())
    net.convert_to(dtype)
    run, x, g = Arguments(net), normal((9, 5), dtype), normal((9, net.out_features), dtype, 1)
    output = run.forward(x)
    grad_input = run.backward(x, output, g)
    grads, change = run.grads.copy(), LAYOUTS[layout]
    run.workspace[:] = np.nan
    assert_array_equal(run.predict(change(x)), output)
    assert_array_equal(run.forward(change(x)), output)
    assert_array_equal(run.backward(change(x), output, change(g)), grad_input)
    assert_array_equal(run.grads, grads)
    if layout != "read-only":
        out = change(nan(output.shape, dtype))
        interpreter.predict.call(run.params, run.table, x, out, *ONE_THREAD)
        assert_array_equal(out, output)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_not_finite_stays_in_its_sample(value, activation):
    net = fc.MLP([5, 9, 3], activation, seed=0)
    run, x = Arguments(net), normal((8, 5), np.float32)
    clean = run.predict(x)
    x[3, 2] = value
    y = run.predict(x)
    assert_array_equal(run.forward(x), y)
    assert_array_equal(np.delete(y, 3, axis=0), np.delete(clean, 3, axis=0))
    expected = net[2].predict(net[1].predict(net[0].predict(x)))
    assert_array_equal(y, expected)
    if np.isnan(value):
        assert np.isnan(y[3]).all()


def test_gates_pass_on_what_is_not_finite():
    x = fc.Input(4)
    values = np.array([[np.nan, np.inf, -np.inf, -0.0]])
    got = fc.Graph(x, [0 * x, x + x, -1 * x, fc.concatenate([x])]).predict(values)
    with np.errstate(invalid="ignore"):
        expected = [0 * values, values + values, -values, values]
    for y, wanted in zip(got, expected, strict=True):
        assert_array_equal(y, wanted)
        assert_array_equal(np.signbit(y[:, 1:]), np.signbit(wanted[:, 1:]))


@pytest.mark.parametrize("net", [fc.MLP([5, 40, 3], "tanh", seed=0), all_gates()], ids=["chain", "gates"])
def test_batches_grow_and_shrink(net):
    for n in (3, 700, 1, 0, 17, 701, 16):
        fresh, x = copy.deepcopy(net), normal((n, 5), np.float32, n)
        net._workspace[:] = np.nan
        ours, theirs = net.forward(x), fresh.forward(x)
        assert_array_equal(np.hstack(ours) if n else 0, np.hstack(theirs) if n else 0)
        assert_array_equal(net.backward(ours), fresh.backward(theirs))
        assert_array_equal(net.grads, fresh.grads)


def test_memory_is_kept_while_it_is_large_enough():
    net, x = fc.MLP([5, 9, 3]), normal((100, 5), np.float32)
    net.forward(x)
    space = net._workspace
    for n in (1, 100, 50):
        net.forward(x[:n])
        net.train_step(x[:n], np.zeros((n, 3)), fc.MSELoss(), fc.SGD())
        assert net._workspace is space
    net.forward(np.zeros((200, 5)))
    assert net._workspace is not space


@pytest.mark.parametrize("net", [fc.MLP([5, 9, 3]), all_gates()], ids=["chain", "gates"])
def test_no_samples(net):
    run, x = Arguments(net), np.zeros((0, 5), np.float32)
    assert run.predict(x).shape == (0, net.out_features)
    run.backward(x, run.forward(x), np.zeros((0, net.out_features), np.float32))
    assert_array_equal(run.grads, np.zeros(net.params.size))


@pytest.mark.parametrize(
    "change", [lambda x, out: (x[:, :4], out), lambda x, out: (x, out[:, :2]), lambda x, out: (x[:3], out)]
)
def test_predict_checks_shapes(change):
    run = Arguments(fc.MLP([5, 9, 3]))
    x, out = change(np.zeros((4, 5), np.float32), run.nan(4, 3))
    with pytest.raises(ValueError, match="does not fit"):
        interpreter.predict.call(run.params, run.table, x, out, *ONE_THREAD)
    with pytest.raises(ValueError, match="does not fit"):
        interpreter.predict.call(run.params[1:], run.table, np.zeros((4, 5), np.float32), run.nan(4, 3), *ONE_THREAD)
    assert np.isnan(out).all()


def test_predict_into_its_own_input_is_refused():
    run, x = Arguments(fc.MLP([3, 9, 3])), normal((4, 3), np.float32)
    before = x.copy()
    with pytest.raises(ValueError, match="overlaps x in memory"):
        interpreter.predict.call(run.params, run.table, x, x, *ONE_THREAD)
    assert_array_equal(x, before)
    pairs = np.zeros((4, 3, 2), np.float32)  # interleaved: the extents overlap, the elements do not
    pairs[:, :, 0] = x
    interpreter.predict.call(run.params, run.table, pairs[:, :, 0], pairs[:, :, 1], *ONE_THREAD)
    assert_array_equal(pairs[:, :, 1], run.predict(x))
    assert_array_equal(pairs[:, :, 0], x)
