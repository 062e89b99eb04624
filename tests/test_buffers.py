"""Buffers, which are kept but not trained, are apart from parameters: in every kind of network and wherever both go."""

import copy
import json
import pickle

import files_0_1_0 as old
import numpy as np
import pytest
from numba import njit
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc


def norm(features, affine=True, **options):
    return fc.BatchNorm1d(features, affine=affine, **options)


def chain():
    return fc.Sequential(
        [fc.Standardize.of(4 * samples() + 1), fc.Linear(3, 4, seed=0), norm(4), fc.ReLU(), fc.Linear(4, 2, seed=1)]
    )


def nested():
    inner = fc.Sequential([norm(3, name="a"), fc.Linear(3, 4, seed=0), norm(4, affine=False)])
    return fc.Sequential([fc.Linear(3, 3, seed=2), inner, fc.Tanh(), fc.Sequential([norm(4), fc.Linear(4, 2, seed=1)])])


def graph():
    x, shared = fc.Input(3), norm(3, name="shared")
    inner = fc.Sequential([fc.Linear(3, 3, seed=0), norm(3, affine=False), fc.Tanh()])
    return fc.Graph(x, fc.Linear(3, 2, seed=1)(inner(shared(x)) + shared(x)))


def tied():
    encoder = fc.Linear(3, 2, seed=0)
    return fc.Sequential([norm(3), encoder, fc.Tanh(), norm(2), fc.Tied(encoder), fc.Linear(3, 2, seed=1)])


def without():
    return fc.MLP([3, 4, 2], seed=0)


def samples(n=12, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)


NETS = [chain, nested, graph, tied, without]
X, Y = samples(), samples(seed=1)[:, :2].copy()
every_net = pytest.mark.parametrize("make", NETS)


def trained(make, optimizer=None, **options):
    net, optimizer = make(), optimizer or fc.Adam(0.01)
    net.fit(X, Y, loss=fc.MSELoss(), optimizer=optimizer, epochs=3, batch_size=4, seed=0, **options)
    return net, optimizer


@every_net
def test_two_vectors_hold_what_the_names_say(make):
    net, optimizer = trained(make)
    for flat, named in ((net.params, net.named_parameters()), (net.buffers, net.named_buffers())):
        assert_array_equal(flat, np.concatenate([values.ravel() for _, values, *_ in named] or [[]]))
        assert all(np.shares_memory(flat, values) for _, values, *_ in named)
    assert net.grads.shape == net.params.shape and optimizer.state.shape == (2, net.params.size)
    assert f"{net.params.size}" in net.summary().splitlines()[-1 - bool(net.buffers.size)].split()
    assert (f"and {net.buffers.size} numbers that are not trained" in net.summary()) == bool(net.buffers.size)


@every_net
def test_scaling_parameters_leaves_buffers(make):
    """net.params *= 0.99 scaled running statistics and what Standardize does."""
    net, _ = trained(make)
    buffers, named = net.buffers.copy(), [(name, p.copy()) for name, p, _ in net.named_parameters()]
    net.params *= 0.5
    net.params = net.params * 0.5
    assert_array_equal(net.buffers, buffers)
    for (_, before), (_, after, _) in zip(named, net.named_parameters(), strict=True):
        assert_array_equal(after, before / 4)


@njit
def nopython_predict(net, x, params):
    return net.predict(x), net.predict(x, params=params), net.params * 1, net.buffers * 1


@every_net
def test_predict_with_other_parameters_takes_the_networks_buffers(make):
    net, _ = trained(make)
    other = 0.5 * net.params
    twin = copy.deepcopy(net)
    twin.params = other
    expected = twin.predict(X)
    assert_array_equal(net.predict(X, params=other), expected)
    assert_array_equal(net.predict(X[0], params=other), expected[0])
    assert_array_equal(net.predict(lambda: [X[:5], X[5:]], params=other), expected)
    found = nopython_predict(net, X, other)
    for a, b in zip(found, (net.predict(X), expected, net.params, net.buffers), strict=True):
        assert_array_equal(a, b)
    for bad in (other[:-1], np.zeros(other.size + net.buffers.size + 1, np.float32)):
        with pytest.raises(ValueError, match="params"):
            net.predict(X, params=bad)
        with pytest.raises(ValueError, match="params"):
            nopython_predict(net, X, bad)
    with pytest.raises(TypeError, match="params has dtype float64"):
        net.predict(X, params=other.astype(np.float64))


@every_net
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies(make, way):
    net, _ = trained(make)
    twin = way(net)
    assert_array_equal(twin.params, net.params)
    assert_array_equal(twin.buffers, net.buffers)
    assert_array_equal(twin.predict(X), net.predict(X))
    trained(lambda: twin)
    assert not np.array_equal(twin.params, net.params)
    for part in twin.layers:
        assert np.shares_memory(part.params, twin.params) == bool(part.params.size)
        assert np.shares_memory(part.buffers, twin.buffers) == bool(part.buffers.size)


@every_net
def test_parts_alone(make):
    """A part of a network computes with its own piece of the network's vectors, and touches no other's."""
    net, _ = trained(make)
    for index, part in enumerate(net.layers):
        if isinstance(part, fc.Tied):
            continue
        width = part.in_features or 3
        x = np.random.default_rng(1).normal(size=(6, width)).astype(np.float32)
        twin = copy.deepcopy(part)
        assert_array_equal(part.predict(x), twin.predict(x))
        others = {name: values.copy() for name, values in of_others(net, index)}
        part.forward(x)
        twin.forward(x)
        g = np.ones((6, part.out_features or width), np.float32)
        assert_array_equal(part.backward(g), twin.backward(g))
        assert_array_equal(part.grads, twin.grads)
        steps = [(fc.Adam(0.1), layer) for layer in (part, twin)]
        for optimizer, layer in steps:
            if isinstance(layer, fc.Sequential):
                for _ in range(2):
                    layer.train_step(x, np.zeros_like(g), fc.MSELoss(), optimizer)
            elif layer.params.size:
                optimizer.step(layer)
        assert_array_equal(part.params, twin.params)
        assert_array_equal(part.buffers, twin.buffers)
        assert_array_equal(steps[0][0].state, steps[1][0].state)
        for name, values in of_others(net, index):
            assert_array_equal(values, others[name], err_msg=name)


def of_others(net, index):
    """Parameters and buffers of all layers but one."""
    for i, layer in enumerate(net.layers):
        if i != index:
            yield from (
                (f"{i}.{name}", values) for name, values, *_ in layer.named_parameters() + layer.named_buffers()
            )


OPTIMIZERS = {
    "momentum": lambda: fc.SGD(0.01, momentum=0.9),
    "amsgrad and average": lambda: fc.Adam(0.01, amsgrad=True, average=0.5),
    "clipped": lambda: fc.Adam(0.01, clip_norm=0.1, clip_value=0.05),
    "penalties": lambda: fc.AdamW(0.01, l2=0.1, l1=0.1, max_norm=1.0, penalize_bias=True),
    "groups": lambda: fc.Adam(0.01, groups={"*weight": {"lr": 0.1}}),
    "lbfgs": lambda: fc.LBFGS(max_iter=2),
}


@every_net
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_files_and_training_that_goes_on(make, name, tmp_path):
    net, optimizer = trained(make, OPTIMIZERS[name]())
    net.save(tmp_path / "net.safetensors", optimizer=optimizer)
    twin, its_optimizer, _ = fc.load_checkpoint(tmp_path / "net.safetensors")
    assert_array_equal(its_optimizer.state, optimizer.state)
    if optimizer.average:
        assert optimizer.average_params.shape == net.params.shape
        assert_array_equal(
            twin.predict(X, params=its_optimizer.average_params), net.predict(X, params=optimizer.average_params)
        )
    trained(lambda: net, optimizer)
    trained(lambda: twin, its_optimizer)
    assert_array_equal(twin.params, net.params)
    assert_array_equal(twin.buffers, net.buffers)


@pytest.mark.parametrize("name", old.CASES)
def test_files_of_version_0_1_0(name):
    """Their states have columns for the buffers, which stood behind each layer's parameters."""
    seen, width = json.loads((old.HERE / "seen.json").read_text())[name], old.CASES[name][2]
    x, y = old.data(3, width)
    net, optimizer, _ = fc.load_checkpoint(old.HERE / f"{name}.safetensors")
    assert_array_equal(net.predict(x[:3]), np.array(seen["prediction"], np.float32))
    assert len(net.history) == 2
    history = net.fit(x, y, epochs=2, loss=fc.MSELoss(), optimizer=optimizer, batch_size=8, seed=0)
    if name == "lbfgs":  # its sums are in another order, which its line search does not forgive
        assert history.loss[-1] <= 1.01 * seen["loss"][-1]
    else:
        assert_allclose(history.loss, seen["loss"], rtol=1e-5)
        assert_allclose(net.predict(x[:3]), seen["later"], rtol=1e-4, atol=1e-5)


@every_net
def test_early_stopping_restores_buffers_too(make):
    """It restored the weights alone once buffers were apart."""
    net, seen = make(), []
    stopping = fc.EarlyStopping("loss", patience=1, min_delta=1e9)
    remember = lambda run: seen.append((run.network.params.copy(), run.network.buffers.copy()))
    fit = {"loss": fc.MSELoss(), "optimizer": fc.Adam(0.1), "epochs": 5}
    net.fit(X, Y, callbacks=[remember, stopping], **fit)
    assert len(seen) == 2
    assert_array_equal(net.params, seen[0][0])
    assert_array_equal(net.buffers, seen[0][1])


@pytest.mark.parametrize("make", NETS[:-1])
def test_an_epoch_that_fails_restores_buffers_too(make):
    net, optimizer = trained(make)
    before, x = net._vector.copy(), X.copy()
    x[-1] = np.nan
    with pytest.raises(ValueError, match="x is not finite"):
        net.fit(x, Y, loss=fc.MSELoss(), optimizer=optimizer, batch_size=4, shuffle=False)
    with pytest.raises(ValueError, match="x is not finite"):
        net.fit([(X, Y), (x, Y)], loss=fc.MSELoss(), optimizer=optimizer)
    assert_array_equal(net._vector, before)


def test_a_network_of_buffers_alone():
    net = fc.Sequential([fc.Standardize.of(X), fc.Standardize(3)])
    assert net.params.size == 0 and net.buffers.size == 12 and net.dtype == np.float32
    assert_allclose(net.predict(X), (X - X.mean(0)) / X.std(0), rtol=1e-4, atol=1e-6)
    before = net.buffers.copy()
    net.train_step(X, X, fc.MSELoss(), fc.Adam())
    assert_array_equal(net.buffers, before)
    assert_array_equal(copy.deepcopy(net).predict(X), net.predict(X))
