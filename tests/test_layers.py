import copy
import pickle

import numpy as np
import pytest
from arrays import normal
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import fastfc as fc
from fastfc import Linear


def integers(rng, shape, dtype=np.float32):
    return rng.integers(-8, 9, shape).astype(dtype)


def integer_layer(n_in, n_out, dtype=np.float32, seed=0):
    """Small integers everywhere: sums are exact in any order."""
    layer, rng = Linear(n_in, n_out, dtype=dtype), np.random.default_rng(seed)
    layer.weight, layer.bias = integers(rng, (n_in, n_out)), integers(rng, n_out)
    return layer


SHAPES = [
    (0, 3, 2),  # empty batch
    (1, 1, 1),
    (1, 64, 10),  # one sample
    (5, 7, 3),
    (64, 1, 17),  # one feature
    (33, 31, 1),  # one output
    (127, 65, 33),  # beyond every register tile, none a multiple
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n, n_in, n_out", SHAPES)
def test_forward_and_backward_are_exact(n, n_in, n_out, dtype):
    layer, rng = integer_layer(n_in, n_out, dtype), np.random.default_rng(1)
    x, g = integers(rng, (n, n_in)), integers(rng, (n, n_out))
    layer.grads[:] = np.nan
    y = layer.forward(x)
    grad_input = layer.backward(g)
    assert_array_equal(y, x @ layer.weight + layer.bias)
    assert_array_equal(layer.weight_grad, x.T @ g)
    assert_array_equal(layer.bias_grad, g.sum(axis=0))
    assert_array_equal(grad_input, g @ layer.weight.T)
    assert_array_equal(layer.predict(x), y)
    assert y.dtype == grad_input.dtype == layer.weight_grad.dtype == dtype


@given(n=st.integers(0, 20), n_in=st.integers(1, 40), n_out=st.integers(1, 40), seed=st.integers(0, 9))
def test_inner_products_agree(n, n_in, n_out, seed):
    layer, rng = integer_layer(n_in, n_out, seed=seed), np.random.default_rng(seed)
    layer.bias = np.zeros(n_out)
    x, g = integers(rng, (n, n_in)), integers(rng, (n, n_out))
    y, grad_input = layer.forward(x), layer.backward(g)
    assert (g * y).sum() == (grad_input * x).sum() == (layer.weight_grad * layer.weight).sum()


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.tolist(),
        lambda x: x.astype(np.int8),
        lambda x: x.astype(np.float16),
        lambda x: x.astype(np.longdouble),
        lambda x: x.astype(">f4"),
        lambda x: x.astype(">f8"),
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: x[::-1].copy()[::-1],
    ],
)
def test_unusual_but_right_input(change):
    layer, x = integer_layer(4, 3), integers(np.random.default_rng(0), (5, 4))
    expected = layer.forward(x)
    assert_array_equal(layer.predict(change(x)), expected)
    assert_array_equal(layer.forward(change(x)), expected)
    assert_array_equal(layer.backward(change(expected)), layer.backward(expected))


def test_bool_and_read_only_input():
    layer, x = integer_layer(4, 3), np.eye(4, dtype=bool)
    x.flags.writeable = False
    assert_array_equal(layer.forward(x), layer.weight + layer.bias)


BAD_INPUT = [
    (np.zeros((2, 3)), ValueError, r"Linear\(4, 2\): x has shape \(2, 3\), expected \(n, 4\)"),
    (np.zeros((4, 3)), ValueError, r"x\.T"),
    (np.zeros((1, 2, 4)), ValueError, r"shape \(1, 2, 4\)"),
    (np.zeros((2, 0)), ValueError, r"shape \(2, 0\)"),
    (3.0, ValueError, r"shape \(\)"),
    ([[1, 2, 3, 4], [1, 2]], ValueError, "different lengths"),
    (np.zeros((2, 4), complex), TypeError, "complex128"),
    (np.zeros((2, 4), object), TypeError, "object"),
    ([["a", "b", "c", "d"]], TypeError, "<U1"),
    (None, TypeError, "object"),
    (np.zeros((2, 4), "M8[s]"), TypeError, "datetime64"),
]


@pytest.mark.parametrize("x, error, message", BAD_INPUT)
def test_bad_input_changes_nothing(x, error, message):
    layer = integer_layer(4, 2)
    layer.forward(np.ones((3, 4)))
    before = layer.backward(np.ones((3, 2))), layer.grads.copy()
    for method in (layer.forward, layer.predict):
        with pytest.raises(error, match=message):
            method(x)
    after = layer.backward(np.ones((3, 2))), layer.grads
    assert_array_equal(after[0], before[0])
    assert_array_equal(after[1], before[1])


@pytest.mark.parametrize(
    "g, error, message",
    [
        (
            np.zeros((3, 4)),
            ValueError,
            r"grad_output has shape \(3, 4\); it must have the output's, \(3, 2\)",
        ),
        (np.zeros((1, 2)), ValueError, r"\(1, 2\)"),
        (np.zeros(2), ValueError, r"\(2,\)"),
        (1.0, ValueError, r"\(\)"),
        (np.zeros((3, 2), complex), TypeError, "grad_output has dtype complex128"),
    ],
)
def test_bad_grad_output_changes_nothing(g, error, message):
    layer = integer_layer(4, 2)
    layer.forward(np.ones((3, 4)))
    layer.grads[:] = 7
    with pytest.raises(error, match=message):
        layer.backward(g)
    assert (layer.grads == 7).all()


def test_backward_needs_forward():
    layer = Linear(2, 3, name="head")
    layer.predict([[1, 2]])
    with pytest.raises(RuntimeError, match=r"Linear\(2, 3, name='head'\).*call forward"):
        layer.backward([[1, 2, 3]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_are_views_of_one_aligned_vector(dtype):
    layer = Linear(3, 5, seed=0, dtype=dtype)
    for flat, parts in [
        (layer.params, [layer.weight, layer.bias]),
        (layer.grads, [layer.weight_grad, layer.bias_grad]),
    ]:
        assert flat.shape == (20,) and flat.dtype == dtype and flat.ctypes.data % 64 == 0
        flat[:] = np.arange(20)
        assert_array_equal(np.concatenate([part.ravel() for part in parts]), np.arange(20))


@pytest.mark.parametrize("what, shape", [("weight", (3, 5)), ("bias", 5), ("weight_grad", (3, 5)), ("bias_grad", 5)])
def test_assignment_copies_into_place(what, shape):
    layer, values = Linear(3, 5), np.random.default_rng(0).integers(9, size=shape)
    view = getattr(layer, what)
    setattr(layer, what, values)
    assert getattr(layer, what) is view
    assert_array_equal(view, values)
    for wrong in (1.0, np.zeros((5, 3)), np.zeros(1), values[None]):
        with pytest.raises(ValueError, match=f"{what} has shape"):
            setattr(layer, what, wrong)
    with pytest.raises(TypeError, match=f"{what} has dtype complex128"):
        setattr(layer, what, values * 1j)
    assert_array_equal(view, values)


def test_update_parameters():
    layer = integer_layer(3, 2)
    before = layer.params.copy()
    layer.grads[:] = np.arange(8)
    layer.update_parameters(lr=0.5)
    assert_array_equal(layer.params, before - 0.5 * np.arange(8))
    assert_array_equal(layer.grads, np.arange(8))


@pytest.mark.parametrize("lr", [0, -0.1, np.nan, np.inf, "0.1", None, 1j, [0.1]])
def test_bad_learning_rate_changes_nothing(lr):
    layer = integer_layer(3, 2)
    layer.grads[:] = 1
    before = layer.params.copy()
    with pytest.raises((TypeError, ValueError), match=r"Linear\(3, 2\): lr must be"):
        layer.update_parameters(lr)
    assert_array_equal(layer.params, before)


@pytest.mark.parametrize(
    "arguments, options, error, message",
    [
        ((0, 3), {}, ValueError, "in_features must be at least 1, got 0"),
        ((3, -1), {}, ValueError, "out_features"),
        ((3.0, 2), {}, TypeError, "in_features must be an integer"),
        (("3", 2), {}, TypeError, "in_features must be an integer"),
        ((3, 2), {"dtype": np.int32}, TypeError, "dtype must be np.float32 or np.float64, got int32"),
        ((3, 2), {"dtype": np.float16}, TypeError, "float16"),
        ((3, 2), {"init": "hee"}, ValueError, "unknown initializer 'hee'.*'he'"),
        ((3, 2), {"init": fc.He}, TypeError, r"He\(\)"),
        ((3, 2), {"bias_init": "he"}, ValueError, "bias"),
        (
            (3, 2),
            {"init": lambda rng, shape, dtype: np.zeros(shape[::-1])},
            ValueError,
            r"\(3, 2\).*\(2, 3\)",
        ),
    ],
)
def test_bad_constructor_arguments(arguments, options, error, message):
    with pytest.raises(error, match=message):
        Linear(*arguments, **options)


def test_seed():
    assert_array_equal(Linear(3, 4, seed=5).params, Linear(3, 4, seed=5).params)
    assert (Linear(3, 4, seed=5).weight != Linear(3, 4, seed=6).weight).all()
    rng = np.random.default_rng(5)
    first, second = Linear(3, 4, seed=rng), Linear(3, 4, seed=rng)
    assert_array_equal(first.params, Linear(3, 4, seed=5).params)
    assert (first.weight != second.weight).all()


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_are_whole_and_independent(clone):
    layer = integer_layer(3, 2, np.float64)
    layer.forward(np.ones((4, 3)))
    layer.backward(np.ones((4, 2)))
    twin = clone(layer)
    assert repr(twin) == repr(layer)
    assert_array_equal(twin.weight, layer.weight)
    assert_array_equal(twin.bias_grad, layer.bias_grad)
    assert np.shares_memory(twin.weight, twin.params) and twin.params.ctypes.data % 64 == 0
    twin.params[:] = 99
    assert not (layer.params == 99).any()


def test_pickle_leaves_saved_input_out():
    layer = Linear(2, 2)
    layer.forward(np.zeros((1, 2)))
    small = len(pickle.dumps(layer))
    layer.forward(np.zeros((1000, 2)))
    assert len(pickle.dumps(layer)) == small


def test_one_sample():
    layer = integer_layer(3, 2)
    assert_array_equal(layer.predict([1, 2, 3]), layer.predict([[1, 2, 3]])[0])
    with pytest.raises(ValueError, match=r"x has shape \(3,\), expected \(n, 3\); a single sample is x\[None\]"):
        layer.forward([1, 2, 3])


@pytest.mark.parametrize("layer", [Linear(3, 2), Linear(3, 2, dtype=np.float64, name="head")])
def test_repr_rebuilds_the_layer(layer):
    twin = eval(repr(layer), {"Linear": Linear, "float64": np.float64})
    assert (repr(twin), twin.dtype, twin.name) == (repr(layer), layer.dtype, layer.name)


def test_without_bias():
    layer, x = fc.Linear(3, 2, bias=False, seed=0, dtype=np.float64), normal((5, 3), np.float64)
    assert layer.bias is None
    assert layer.bias_grad is None
    assert layer.params.size == 6
    np.testing.assert_allclose(layer.predict(x), x @ layer.weight, rtol=1e-14)
    assert fc.check_gradients(layer, x)
    with pytest.raises(AttributeError, match=r"Linear\(3, 2, bias=False.*\) has no bias"):
        layer.bias = [1, 2]


@pytest.mark.parametrize("bias", [True, False])
def test_tied_weights(bias):
    encoder = fc.Linear(5, 3, seed=0)
    net, x = fc.Sequential([encoder, fc.Tanh(), fc.Tied(encoder, bias=bias)]), normal((7, 5), np.float32)
    assert net.params.size == 18 + 5 * bias
    report = fc.check_gradients(net, x)
    assert report, report
    hidden = np.tanh(x @ encoder.weight + encoder.bias)
    np.testing.assert_allclose(net.predict(x), hidden @ encoder.weight.T, rtol=1e-5, atol=1e-6)
    copied = pickle.loads(pickle.dumps(net))
    copied[0].weight = 2 * encoder.weight
    np.testing.assert_allclose(
        copied.predict(x), np.tanh(2 * x @ encoder.weight) @ copied[0].weight.T, rtol=1e-4, atol=1e-5
    )


def test_tied_to_a_layer_of_another_network():
    layer = fc.Linear(5, 3)
    with pytest.raises(
        ValueError, match=r"Tied\(Linear\(5, 3\)\): Linear\(5, 3\) must come before it in the same network"
    ):
        fc.Tied(layer).predict(np.zeros((2, 3)))
    with pytest.raises(TypeError, match="Tied: give the Linear layer"):
        fc.Tied(3)


def test_frozen_layers_stay_as_they_are():
    net = fc.MLP([4, 3, 2], seed=0)
    net[0].frozen = True
    assert [name for name, _, _ in net.trained_parameters()] == ["2.weight", "2.bias"]
    net.frozen = True
    assert net.trained_parameters() == []


def test_update_leaves_what_is_frozen():
    net = fc.Sequential([fc.Linear(2, 3, seed=0), fc.BatchNorm1d(3), fc.Linear(3, 1, seed=1)])
    net[0].frozen = True
    before = net.params.copy()
    net.grads[:] = 1
    net.update_parameters(lr=1)
    trained = np.zeros(len(before), bool)
    for _, first, shape in net.trained_parameters():
        trained[first : first + np.prod(shape)] = True
    assert trained.sum() == len(before) - 9
    assert_array_equal(net.params, before - trained)
    net[2].frozen = True
    net[2].update_parameters(lr=1)
    assert_array_equal(net.params, before - trained)
