import copy
import pickle

import numpy as np
import pytest
from arrays import DTYPES, LAYOUTS, normal
from numba import njit
from numpy.testing import assert_array_equal

import fastfc as fc
from fastfc import reference
from fastfc.kernels.program import table as program_table
from fastfc.kernels.program.table import Column
from fastfc.kernels.simd import memory, random
from fastfc.kernels.simd import vector as simd

SHAPES = [(1, 1), (7, 3), (5, 16), (3, 33), (64, 100)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_masks_are_the_references(shape, layout, dtype):
    layer, x = fc.Dropout(0.3, seed=5), np.ones(shape, dtype)
    for draw in (1, 2):
        mask = reference.dropout_mask(shape, 0.3, layer.seed, 1, draw)
        assert_array_equal(layer.forward(LAYOUTS[layout](x)), mask.astype(dtype))
        assert_array_equal(layer.backward(LAYOUTS[layout](2 * x)), 2 * mask.astype(dtype))


def test_predict_drops_nothing():
    layer, x = fc.Dropout(0.5), normal((9, 17), np.float32)
    assert_array_equal(layer.predict(x), x)
    out = np.empty(17, np.float32)
    assert_array_equal(layer.predict(x[0], out=out), x[0])


def with_dropouts(place, p, dtype):
    """Layers with a dropout, whose result is scaled by NTK, behind a product, an activation or one with parameters."""
    before = {
        "input": [],
        "product": [fc.Linear(5, 6, seed=1, dtype=dtype)],
        "activation": [fc.Linear(5, 6, seed=1, dtype=dtype), fc.GELU()],
        "parametric": [fc.Linear(5, 6, seed=1, dtype=dtype), fc.Parametric("mish", 6, dtype=dtype)],
        "norm": [fc.Linear(5, 6, seed=1, dtype=dtype), fc.LayerNorm(6, dtype=dtype)],
        "dropout": [fc.Linear(5, 6, seed=1, dtype=dtype), fc.Tanh(), fc.Dropout(p, seed=2)],
    }[place]
    width = 6 if before else 5
    scaled = fc.Linear(width, 3, parametrization="ntk", seed=4, dtype=dtype)
    return [*before, fc.Dropout(p, seed=3), scaled, fc.GELU(), fc.Dropout(p, seed=5)]


PLACES = ["input", "product", "activation", "parametric", "norm", "dropout"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", PLACES)
def test_predictions_have_the_bits_of_networks_without_dropouts(place, dtype):
    net, without = (fc.Sequential(with_dropouts(place, p, dtype)) for p in (0.4, 0.0))
    for n in (1, 9, 300):
        x = normal((n, 5), dtype)
        assert_array_equal(net.predict(x), without.predict(x))


@pytest.mark.parametrize("place", PLACES)
def test_a_dropout_takes_over_the_factor_of_the_layer_behind_it(place):
    """With the bits of two passes, which a second reader of the dropout enforces; and a prediction skips its copies."""
    x, t = normal((9, 5), np.float32), normal((9, 3), np.float32)
    net = fc.Sequential(with_dropouts(place, 0.4, np.float32))
    *layers, scaled, gelu, last = with_dropouts(place, 0.4, np.float32)
    a = h = fc.Input(5)
    for layer in layers:
        h = layer(h)
    graph = fc.Graph(a, [last(gelu(scaled(h))), h])
    assert_array_equal(net.forward(x), graph.forward(x)[0])
    grads = net.backward(t), graph.backward((t, np.zeros((9, h.width), np.float32)))
    assert_array_equal(*grads)
    assert_array_equal(net.grads, graph.grads)

    ops, others = (network.program_for(x).ops() for network in (net, graph))
    assert len(ops) == len(others) - 1
    dropouts = ops[ops[:, Column.OP] == program_table.DROPOUT]
    assert dropouts[-2:, Column.SKIPPED].tolist() == [place == "parametric", True]


def test_none_and_all():
    x = normal((9, 17), np.float32)
    for p, expected in ((0, x), (1, np.zeros_like(x)), (1e-12, x)):
        layer = fc.Dropout(p)
        assert_array_equal(layer.forward(x), expected)
        assert_array_equal(layer.backward(x), expected)


def test_layers_of_one_seed_and_uses_of_one_layer_differ():
    x, layer, ones = fc.Input(64), fc.Dropout(seed=0), np.ones((4, 64), np.float32)
    net = fc.Graph(x, [layer(x), layer(x), fc.Dropout(seed=0)(x)])
    first, *others = net.forward(ones)
    for other in others:
        assert 0.3 < (first == other).mean() < 0.7
    assert 0.3 < (fc.Dropout().forward(ones) == fc.Dropout().forward(ones)).mean() < 0.7
    assert_array_equal(fc.Dropout(seed=3).forward(ones), fc.Dropout(seed=3).forward(ones))


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_go_on_where_the_network_is(clone):
    net, x = fc.Sequential([fc.Linear(4, 9, seed=0), fc.Dropout(seed=1)]), normal((5, 4), np.float32)
    first = net.forward(x)
    other = clone(clone(net))
    again = net.forward(x)
    assert not (again == first).all()
    assert_array_equal(other.forward(x), again)


def test_steps_forwards_and_more_memory_count_alike():
    """Each forward in training has a mask of its own, however the network was used between."""
    net, x = fc.Sequential([fc.Linear(4, 9, seed=0), fc.Dropout(seed=1)]), normal((5, 4), np.float32)
    y, calls = np.zeros((5, 9), np.float32), 0
    net.reserve(5)
    for n in (5, 2, 5):
        net.forward(x[:n])
        net.train_step(x[:n], y[:n], fc.MSELoss(), fc.SGD(1e-9))
        net.fit(x, y, loss=fc.MSELoss(), optimizer=fc.SGD(1e-9), epochs=2, batch_size=2)
        nopython_forward(net, x[:n])
        net.predict(x)
        net.forward(np.zeros((50 * n, 4), np.float32))
        calls += 1 + 1 + 6 + 1 + 1
        assert net.rng_step == calls
    last = net.forward(x) != 0
    assert_array_equal(last, reference.dropout_mask((5, 9), 0.5, net[1].seed, 2, calls + 1) != 0)


@njit
def nopython_forward(net, x):
    return net.forward(x)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_statistics_of_masks(p):
    draws = np.array([(fc.Dropout(p, seed=s).forward(np.ones((128, 256), np.float32)) != 0) for s in range(32)])
    n = draws.size
    assert abs(draws.mean() - (1 - p)) < 5 * np.sqrt(p * (1 - p) / n)
    # correlation with neighbours in each direction, with the next seed, and with later draws
    z = (draws - (1 - p)) / np.sqrt(p * (1 - p))
    layer = fc.Dropout(p, seed=0)
    series = np.array([layer.forward(np.ones((16, 256), np.float32)) != 0 for _ in range(200)])
    later = (series - (1 - p)) / np.sqrt(p * (1 - p))
    pairs = [(z[:, :, :-k], z[:, :, k:]) for k in (1, 2, 4, 16, 64)] + [(z[:, :-k], z[:, k:]) for k in (1, 2, 64)]
    for a, b in [*pairs, (z[:-1], z[1:]), (later[:-1], later[1:])]:
        assert abs((a * b).mean()) < 5 / np.sqrt(a.size)
    per_column = z.mean(axis=(0, 1)) * np.sqrt(32 * 128)
    assert np.abs(per_column).max() < 5 and 0.8 < per_column.std() < 1.2


def test_each_of_the_random_bits():
    """How often 32 random bits are below each power of two: a threshold of 2ᵏ keeps 2ᵏ of 2³²."""
    counts = np.zeros(33)

    @njit
    def count(key, n, threshold, out):
        like, total = memory.pointer(out), 0.0
        for i in range(0, n, simd.width(like)):
            total += simd.sum_of_lanes(random.chosen(like, key, i, threshold, 1.0))
        return total

    n = 1 << 16
    for k in range(22, 32):
        counts[k] = count(12345, n, 1 << k, np.empty(1))
        expected, chance = n * 2.0 ** (k - 32), 2.0 ** (k - 32)
        assert abs(counts[k] - expected) < 5 * np.sqrt(n * chance * (1 - chance))


def test_numbers_that_are_not_finite_stay():
    """0 · NaN is NaN, as in PyTorch: a mask hides no mistake."""
    y = fc.Dropout(0.5, seed=0).forward(np.full((1, 64), np.nan, np.float32))
    assert np.isnan(y).all()


@pytest.mark.parametrize("p", [-0.1, 1.1, np.nan, np.inf])
def test_bad_p(p):
    with pytest.raises(ValueError, match=r"Dropout: p must lie in \[0, 1\]"):
        fc.Dropout(p)
    with pytest.raises(TypeError, match="Dropout: p must be a number"):
        fc.Dropout("a")


def test_repr_and_widths():
    assert repr(fc.Dropout(0.25)) == "Dropout(0.25)"
    net = fc.Sequential([fc.Dropout(), fc.Linear(3, 2)])
    assert (net.in_features, net.out_features) == (3, 2)


def test_a_hundred_steps_of_torch():
    torch = pytest.importorskip("torch")
    linear = [fc.Linear(4, 9, seed=0, dtype=np.float64), fc.Linear(9, 2, seed=1, dtype=np.float64)]
    net = fc.Sequential([linear[0], fc.Tanh(), fc.Dropout(0.3, seed=2), linear[1]])
    weights = [torch.tensor(values.copy(), requires_grad=True) for _, values, _ in net.named_parameters()]
    optimizer, ours = torch.optim.SGD(weights, lr=0.05, momentum=0.9), fc.SGD(0.05, momentum=0.9)
    for step in range(100):
        x, y = normal((12, 4), np.float64, step), normal((12, 2), np.float64, step + 1)
        value = net.train_step(x, y, fc.MSELoss(), ours)
        mask = torch.tensor(reference.dropout_mask((12, 9), 0.3, net[2].seed, 2, step + 1))
        hidden = torch.tanh(torch.tensor(x) @ weights[0] + weights[1]) * mask
        loss = torch.nn.functional.mse_loss(hidden @ weights[2] + weights[3], torch.tensor(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert abs(value - loss.item()) <= 1e-9 * loss.item()
