import copy
import pickle

import numpy as np
import pytest
from arrays import DTYPES, LAYOUTS, normal
from numba import njit
from numpy.testing import assert_array_equal

import fastfc as fc
from fastfc import reference


def indices(shape, rows, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).integers(0, rows, shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, rows, wide, columns", [(1, 1, 1, 1), (9, 4, 3, 2), (7, 50, 17, 1), (200, 5, 33, 3)])
def test_against_the_reference(n, rows, wide, columns, dtype):
    layer = fc.Embedding(rows, wide, columns, seed=0, dtype=dtype)
    x, g = indices((n, columns), rows, dtype), np.round(4 * normal((n, columns * wide), dtype, 1))
    assert_array_equal(layer.forward(x), reference.embedding(x, layer.weight))
    assert_array_equal(layer.predict(x.astype(int)), reference.embedding(x, layer.weight))
    layer.grads[:] = np.nan
    assert_array_equal(layer.backward(g), np.zeros((n, columns)))
    assert_array_equal(layer.weight_grad, reference.embedding_weight_grad(x, layer.weight, g))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    layer, x, g = fc.Embedding(5, 18, 3, seed=0), indices((9, 3), 5), np.round(4 * normal((9, 54), np.float32, 1))
    assert_array_equal(layer.forward(LAYOUTS[layout](x)), reference.embedding(x, layer.weight))
    layer.backward(LAYOUTS[layout](g))
    assert_array_equal(layer.weight_grad, reference.embedding_weight_grad(x, layer.weight, g))


def numbers_and_categories(dtype=np.float32):
    x, c, table = fc.Input(3), fc.Input(2), fc.Embedding(4, 3, 2, seed=0, dtype=dtype, name="table")
    both = fc.concatenate([x, table(c), c])
    return fc.Graph([x, c], fc.Linear(11, 2, seed=1, dtype=dtype)(both) + fc.Linear(6, 2, seed=2)(table(c)))


def test_categories_beside_numbers_and_a_table_that_is_used_twice():
    net = numbers_and_categories()
    x, c, g = normal((9, 3), np.float32), indices((9, 2), 4), normal((9, 2), np.float32, 1)
    table, first, second = net.layers
    e = reference.embedding(c, table.weight)
    expected = np.hstack([x, e, c]) @ first.weight + first.bias + e @ second.weight + second.bias
    np.testing.assert_allclose(net.forward((x, c)), expected, rtol=1e-5, atol=1e-5)
    grad_x, grad_c = net.backward(g)
    through = g @ first.weight.T
    np.testing.assert_allclose(grad_x, through[:, :3], rtol=1e-6)
    np.testing.assert_allclose(grad_c, through[:, 9:], rtol=1e-6)  # nothing comes through the table
    grad = reference.embedding_weight_grad(c, table.weight, through[:, 3:9] + g @ second.weight.T)
    np.testing.assert_allclose(table.weight_grad, grad, rtol=1e-4, atol=1e-5)


@njit
def nopython(net, x, y, loss, optimizer, what):
    if what == 0:
        net.predict(x)
    elif what == 1:
        net.forward(x)
    else:
        net.train_step(x, y, loss, optimizer)


@pytest.mark.parametrize("wrong", [-1, 4, 0.5, np.nan, np.inf, -np.inf, 1e30])
def test_what_is_no_row_is_refused_and_changes_nothing(wrong):
    net, loss, optimizer = fc.Sequential([fc.Embedding(4, 3, 2), fc.Linear(6, 2)]), fc.MSELoss(), fc.SGD()
    x, y = indices((9, 2), 4), np.zeros((9, 2), np.float32)
    net.train_step(x, y, loss, optimizer)
    net.reserve(9)
    before, state, draws = net.params.copy(), optimizer.state.copy(), net.rng_step
    x[8, 1] = wrong
    said = rf"x holds {wrong:g}, but Embedding\(4, 3\) takes whole numbers from 0 to 3".replace("+", r"\+")
    calls = [
        lambda: net.predict(x),
        lambda: net.predict(x[8]),
        lambda: net.forward(x),
        lambda: net.train_step(x, y, loss, optimizer),
        lambda: net.fit(x, y, loss=loss, optimizer=optimizer, shuffle=False, batch_size=4),
        lambda: net.fit(x[:8], y[:8], loss=loss, optimizer=optimizer, validation_data=(x, y)),
        lambda: net.evaluate(x, y, loss),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=said):
            call()
    for what in range(3):
        with pytest.raises(ValueError, match="Embedding was given what is not a whole number"):
            nopython(net, x, y, loss, optimizer, what)
    assert_array_equal(net.params, before)
    assert_array_equal(optimizer.state, state)
    assert net.rng_step == draws
    net.n_threads = 2
    with pytest.raises(ValueError, match=said):
        net.predict(np.repeat(x, 100_000, axis=0))


def test_an_index_that_changed_after_forward_writes_nowhere():
    layer, x = fc.Embedding(4, 3), indices((9, 1), 4)
    layer.forward(x)
    x[0] = 1e6
    with pytest.raises((ValueError, MemoryError)):
        layer.backward(np.zeros((9, 3), np.float32))


def test_a_computed_index():
    net = fc.Sequential([fc.Linear(1, 1, init="zeros"), fc.Embedding(4, 2, seed=0)])
    assert_array_equal(net.predict([[7]]), net[1].weight[:1])
    net[0].bias = [9]
    with pytest.raises(ValueError, match="what a network computes for an Embedding is no row"):
        net.predict([[7]])


def test_copies_and_repr():
    layer = fc.Embedding(4, 3, 2, seed=0, dtype=np.float64)
    x = indices((5, 2), 4, np.float64)
    for clone in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_array_equal(clone.predict(x), layer.predict(x))
    assert repr(layer) == "Embedding(4, 3, 2, dtype=float64)"
    assert repr(fc.Embedding(4, 3, name="a")) == "Embedding(4, 3, name='a')"
    assert_array_equal(fc.Embedding(4, 3, init="zeros").weight, np.zeros((4, 3)))
    weights = fc.Embedding(1000, 30, seed=1).weight
    assert abs(weights.mean()) < 0.02 and abs(weights.std() - 1) < 0.02


@pytest.mark.parametrize(
    "arguments, message",
    [((0, 3), "num_embeddings"), ((3, 0), "embedding_dim"), ((3, 3, 0), "in_features"), ((2**24 + 1, 1), "2.*24")],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        fc.Embedding(*arguments)


def test_a_hundred_steps_of_torch():
    torch = pytest.importorskip("torch")
    net = fc.Sequential([fc.Embedding(6, 3, 2, seed=0, dtype=np.float64), fc.Linear(6, 2, seed=1, dtype=np.float64)])
    table = torch.nn.Embedding(6, 3, _weight=torch.tensor(net[0].weight.copy()))
    linear = torch.nn.Linear(6, 2).double()
    linear.weight.data, linear.bias.data = torch.tensor(net[1].weight.T.copy()), torch.tensor(net[1].bias)
    optimizer = torch.optim.SGD([*table.parameters(), *linear.parameters()], lr=0.05, momentum=0.9)
    ours = fc.SGD(0.05, momentum=0.9)
    for step in range(100):
        x, y = indices((12, 2), 6, np.float64, step), normal((12, 2), np.float64, step)
        value = net.train_step(x, y, fc.MSELoss(), ours)
        output = linear(table(torch.tensor(x.astype(int))).reshape(12, 6))
        loss = torch.nn.functional.mse_loss(output, torch.tensor(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert abs(value - loss.item()) <= 1e-10 * loss.item()


def test_gradients_beside_a_layer_that_comes_first_start_anew():
    numbers, category = fc.Input(3), fc.Input(1)
    parts = [fc.Linear(3, 2, seed=0)(numbers), fc.Embedding(5, 2, seed=0)(category)]
    net = fc.Graph([numbers, category], fc.concatenate(parts))
    x, g = (normal((4, 3), np.float32), np.arange(4)[:, None]), np.ones((4, 4))
    net.forward(x)
    net.backward(g)
    first = net.grads.copy()
    net.forward(x)
    net.backward(g)
    assert_array_equal(net.grads, first)
