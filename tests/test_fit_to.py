"""`fc.initializers.fit_to`: what each unit gives for the data, in networks of every kind."""

import copy

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc
from fastfc.data import streams
from fastfc.nn import initializers

RNG = np.random.default_rng(0)
X = RNG.gamma(2.0, 10.0, (300, 4)).astype(np.float32)


def linears(layer):
    if isinstance(layer, fc.Linear):
        return [layer]
    return [one for part in getattr(layer, "layers", ()) for one in linears(part)]


def residual():
    a, b = fc.Input(3), fc.Input(1)
    h = fc.SELU()(fc.Linear(3, 8)(a))
    twice = fc.Linear(8, 8)
    h = h + fc.Tanh()(twice(h))
    h = fc.Mish()(fc.concatenate([0.5 * h, b, h * h]))
    return fc.Graph([a, b], [fc.Linear(17, 3)(h), fc.Linear(17, 1)(twice_of(twice, h))])


def twice_of(layer, node):
    return fc.concatenate([layer(fc.Linear(17, 8)(node)), fc.Linear(17, 9)(node)])


NETWORKS = {
    "MLP": lambda dtype: fc.MLP([4, 16, 16, 3], "selu", dtype=dtype),
    "one layer": lambda dtype: fc.Linear(4, 5, dtype=dtype),
    "no bias": lambda dtype: fc.Sequential(
        [fc.Linear(4, 8, bias=False, dtype=dtype), fc.ReLU(), fc.Linear(8, 2, dtype=dtype)]
    ),
    "all kinds": lambda dtype: fc.Sequential(
        [fc.Standardize.of(X, dtype=dtype), fc.Linear(4, 8, dtype=dtype), fc.BatchNorm1d(8, dtype=dtype), fc.GELU(),
         fc.Dropout(0.5), fc.Sequential([fc.Linear(8, 6, dtype=dtype), fc.LayerNorm(6, dtype=dtype)]),
         fc.Linear(6, 1, dtype=dtype)]
    ),
}  # fmt: skip


def outputs_of_linears(net, x):
    """(layer, its output before the bias) of each Linear of a chain."""
    for layer in [net] if isinstance(net, fc.Linear) else net:
        if isinstance(layer, fc.Sequential):
            yield from outputs_of_linears(layer, x)
        x, before = layer.predict(x), x
        if isinstance(layer, fc.Linear):
            yield layer, before.astype(np.float64) @ layer.weight


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_each_unit_has_spread_one_and_its_sign_changes_within_the_data(name, dtype):
    net = NETWORKS[name](dtype)
    assert fc.initializers.fit_to(net, X, seed=0) is net
    for layer, z in outputs_of_linears(net, X.astype(dtype)):
        assert_allclose(z.std(axis=0), 1, rtol=5e-6 if dtype == np.float32 else 1e-12)
        if layer.bias is not None:
            y = z + layer.bias
            assert (y.min(axis=0) < 0).all() and (y.max(axis=0) > 0).all()
            assert len(set(layer.bias.tolist())) == layer.out_features


def test_by_hand():
    """The formula with the numbers that the generator draws."""
    net, rng = fc.initializers.fit_to(fc.MLP([4, 6, 2], "tanh", dtype=np.float64), X, seed=7), np.random.default_rng(7)
    h = X.astype(np.float64)
    for layer in net[::2]:
        weight = rng.standard_normal(layer.weight.shape)
        weight /= (h @ weight).std(axis=0)
        shares, rows = rng.standard_exponential(5), rng.integers(len(h), size=(5, layer.out_features))
        z = h @ weight
        bias = -sum(
            share / shares.sum() * z[row, np.arange(layer.out_features)]
            for share, row in zip(shares, rows, strict=True)
        )
        assert_allclose(layer.weight, weight, rtol=1e-12)
        assert_allclose(layer.bias, bias, rtol=1e-9, atol=1e-12)
        h = np.tanh(z + bias)


def test_graphs_of_several_inputs_and_outputs_and_shared_layers():
    net = fc.initializers.fit_to(residual(), (X[:, :3], X[:, 3:]), seed=0)
    first, second = net.predict((X[:, :3], X[:, 3:]))
    assert_allclose(np.concatenate([first, second], axis=1).std(axis=0), 1, rtol=1e-5)
    h = X[:, :3] @ net.layers[0].weight
    assert_allclose(h.std(axis=0), 1, rtol=1e-5)


def test_a_graph_inside_a_chain_gives_the_same():
    a = fc.Input(4)
    inner = fc.Graph(a, fc.Tanh()(fc.Linear(4, 5)(a)))
    nets = [fc.Sequential([inner, fc.Linear(5, 2)]), fc.Sequential([fc.Linear(4, 5), fc.Tanh(), fc.Linear(5, 2)])]
    for net in nets:
        fc.initializers.fit_to(net, X, seed=1)
    assert_array_equal(nets[0].params, nets[1].params)


def test_constant_units_stay_finite():
    """Columns that are constant, dead units and a single sample have a spread of 0."""
    x = np.concatenate([np.full((50, 2), 1e6), np.zeros((50, 1))], axis=1).astype(np.float32)
    for data in (x, x[:1]):
        net = fc.initializers.fit_to(fc.MLP([3, 4, 2], "relu"), data, seed=0)
        assert np.isfinite(net.params).all()
        assert np.abs(net[0].weight).max() < 10  # the numbers that were drawn
        assert_allclose(net.predict(data), 0, atol=1)


def test_frozen_layers_and_others_stay():
    net = fc.Sequential([fc.Linear(4, 5, seed=0), fc.Linear(5, 5, seed=1), fc.LayerNorm(5), fc.Linear(5, 2, seed=2)])
    net[1].frozen = True
    before = copy.deepcopy(net)
    fc.initializers.fit_to(net, X, seed=0)
    assert_array_equal(net[1].params, before[1].params)
    assert_array_equal(net[2].params, before[2].params)
    assert not np.array_equal(net[0].params, before[0].params)
    net.frozen = True
    before = net.params.copy()
    fc.initializers.fit_to(net, X, seed=1)
    assert_array_equal(net.params, before)


def test_frames():
    pandas = pytest.importorskip("pandas")
    frame, net = pandas.DataFrame(X, columns=list("abcd")), fc.MLP([4, 5, 2])
    fc.initializers.fit_to(net, frame, seed=0)
    assert_array_equal(net.params, fc.initializers.fit_to(fc.MLP([4, 5, 2]), X, seed=0).params)
    net.feature_names = list("abcd")
    with pytest.raises(ValueError, match="columns"):
        fc.initializers.fit_to(net, frame[list("dcba")], seed=0)


def test_the_seed_decides():
    nets = [fc.initializers.fit_to(fc.MLP([4, 5, 2]), X, seed=seed) for seed in (0, np.random.default_rng(0), 1)]
    assert_array_equal(nets[0].params, nets[1].params)
    assert not np.array_equal(nets[0].params, nets[2].params)


def test_a_large_table_is_sampled(monkeypatch):
    seen = []
    layer = fc.Linear(4, 3)
    monkeypatch.setattr(fc.Linear, "initialise_from", lambda self, x, rng: seen.append(x))
    fc.initializers.fit_to(layer, X, seed=0)
    monkeypatch.setattr(initializers, "MOST_BYTES", 4 * 7 * 100)
    fc.initializers.fit_to(layer, X, seed=0)
    assert [len(x) for x in seen] == [300, 100]
    assert len({tuple(row) for row in seen[1].tolist()} & {tuple(row) for row in X.tolist()}) == 100


def test_arrays_on_disk(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", X)
    for name, value in (("IN_MEMORY", 0), ("BLOCK", 160), ("WINDOW", 1600)):
        monkeypatch.setattr(streams, name, value)
    net = fc.initializers.fit_to(fc.MLP([4, 5, 2]), np.load(tmp_path / "x.npy", mmap_mode="r"), seed=0)
    assert_allclose(net.predict(X).std(axis=0), 1, atol=0.3)


@pytest.mark.parametrize(
    "net, x, error, message",
    [
        (fc.MLP([4, 2], seed=0), X[:, :3], ValueError, "expected .*4"),
        (fc.MLP([4, 2], seed=0), X[:0], ValueError, r"fit_to: x has shape \(0, 4\); give rows of samples"),
        (fc.MLP([4, 2], seed=0), X[0], ValueError, r"fit_to: x has shape \(4,\); give rows of samples"),
        (fc.MLP([4, 2], seed=0), np.where(X > 50, np.nan, X), ValueError, "fit_to: x is not finite"),
        (fc.MLP([4, 2], seed=0), X + 1j, TypeError, "complex"),
        (fc.Adam(), X, TypeError, "fit_to: network must be a network or a layer, got Adam"),
    ],
)
def test_what_it_refuses(net, x, error, message):
    before = net.params.copy() if hasattr(net, "params") else None
    with pytest.raises(error, match=message):
        fc.initializers.fit_to(net, x)
    assert before is None or np.array_equal(net.params, before)
