"""`fit(drop_last=True)`: an epoch on the first whole batches of its order, and on nothing else."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc
from fastfc.data import streams

RNG = np.random.default_rng(0)
X = RNG.standard_normal((50, 3)).astype(np.float32)
Y = X @ RNG.standard_normal((3, 2)).astype(np.float32)
LABELS = RNG.integers(0, 4, 50)
WEIGHTS = RNG.random(50).astype(np.float32)
CASES = {
    "numbers": (fc.MSELoss(), Y, None, 2),
    "classes": (fc.CrossEntropyLoss(), LABELS, None, 4),
    "weights": (fc.MSELoss(), Y, WEIGHTS, 2),
    "weights of classes": (fc.CrossEntropyLoss(weight=[1, 2, 3, 4], ignore_index=3), LABELS, WEIGHTS, 4),
}


def net_for(n_out):
    return fc.MLP([3, 8, n_out], "tanh", seed=0)


def by_hand(loss, y, weights, n_out, batch_size, accumulate, epochs):
    """Parameters and losses of epochs, each a `fit` of the samples that are used, in the order that fit draws."""
    net, optimizer, losses, rng = net_for(n_out), fc.Adam(0.01), [], np.random.default_rng(3)
    for _ in range(epochs):
        rows = rng.permutation(50)[: 50 - 50 % batch_size]
        given = {"sample_weight": weights[rows]} if weights is not None else {}
        options = {"batch_size": batch_size, "accumulate": accumulate, "shuffle": False}
        losses += net.fit(X[rows], y[rows], loss=loss, optimizer=optimizer, **options, **given).loss
    return net, optimizer, losses


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch_size, accumulate", [(8, 1), (7, 3), (10, 1), (50, 1)])
def test_an_epoch_is_its_whole_batches(case, batch_size, accumulate):
    loss, y, weights, n_out = CASES[case]
    net, optimizer = net_for(n_out), fc.Adam(0.01)
    options = {"batch_size": batch_size, "accumulate": accumulate, "epochs": 3, "seed": 3}
    history = net.fit(X, y, loss=loss, optimizer=optimizer, sample_weight=weights, drop_last=True, **options)
    expected, its_optimizer, losses = by_hand(*CASES[case], batch_size, accumulate, 3)
    assert_array_equal(net.params, expected.params)
    assert_allclose(history.loss, losses, rtol=1e-12)
    assert optimizer.steps_per_epoch == its_optimizer.steps_per_epoch == -(-(50 // batch_size) // accumulate)
    assert optimizer.count[0] == 3 * optimizer.steps_per_epoch


def test_in_the_order_of_the_samples():
    nets = [net_for(2), net_for(2)]
    options = {"loss": fc.MSELoss(), "batch_size": 8, "shuffle": False, "epochs": 2}
    nets[0].fit(X, Y, optimizer=fc.Adam(), drop_last=True, **options)
    nets[1].fit(X[:48], Y[:48], optimizer=fc.Adam(), **options)
    assert_array_equal(nets[0].params, nets[1].params)


@pytest.mark.parametrize("shuffle", [True, False])
def test_arrays_on_disk(tmp_path, monkeypatch, shuffle):
    """Windows of a few blocks give the batches; the last one drops what is less than a batch."""
    for name, value in (("IN_MEMORY", 0), ("BLOCK", 60), ("WINDOW", 300)):
        monkeypatch.setattr(streams, name, value)
    np.save(tmp_path / "x.npy", X)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    net, optimizer = net_for(2), fc.Adam(0.01)
    options = {"loss": fc.MSELoss(), "batch_size": 8, "epochs": 2, "shuffle": shuffle}
    history = net.fit(x, Y, optimizer=optimizer, drop_last=True, seed=0, **options)
    assert (optimizer.count[0], optimizer.steps_per_epoch) == (12, 6)
    assert len(history) == 2
    if not shuffle:
        twin = net_for(2)
        same = twin.fit(X[:48], Y[:48], optimizer=fc.Adam(0.01), **options)
        assert_array_equal(net.params, twin.params)
        assert_allclose(history.loss, same.loss, rtol=1e-12)


def test_a_sample_that_is_left_alone_is_dropped():
    net = fc.Sequential([fc.Linear(3, 4, seed=0), fc.BatchNorm1d(4), fc.Linear(4, 2, seed=1)])
    options = {"loss": fc.MSELoss(), "optimizer": fc.Adam(), "batch_size": 7}
    with pytest.raises(ValueError, match="leave one alone"):
        net.fit(X, Y, **options)
    net.fit(X, Y, drop_last=True, **options)
    assert options["optimizer"].count[0] == 7


def test_an_optimizer_of_all_samples_drops_none():
    nets = [net_for(2), net_for(2)]
    for net, drop_last in zip(nets, (True, False), strict=True):
        net.fit(X, Y, loss=fc.MSELoss(), optimizer=fc.LBFGS(), batch_size=99, seed=0, drop_last=drop_last)
    assert_array_equal(nets[0].params, nets[1].params)


def test_divergence_is_named_in_the_samples_that_are_used():
    net = net_for(2)
    with pytest.warns(fc.DivergenceWarning, match="in update 2 of epoch 1 the loss became"):
        net.fit(X, Y, loss=fc.MSELoss(), optimizer=fc.SGD(1e30), batch_size=16, drop_last=True, seed=0)


def test_what_it_refuses(tmp_path, monkeypatch):
    net, options = net_for(2), {"loss": fc.MSELoss(), "optimizer": fc.Adam(), "drop_last": True}
    before = net.params.copy()
    monkeypatch.setattr(streams, "IN_MEMORY", 0)
    np.save(tmp_path / "x.npy", X)
    for x in (X, np.load(tmp_path / "x.npy", mmap_mode="r")):
        with pytest.raises(
            ValueError, match="fit: drop_last=True leaves no batch of batch_size=51, there are 50 samples"
        ):
            net.fit(x, Y, batch_size=51, **options)
    with pytest.raises(ValueError, match="fit: drop_last is for arrays; leave the last batch out"):
        net.fit([(X, Y)], **options)
    with pytest.raises(TypeError, match="fit: drop_last must be True or False"):
        net.fit(X, Y, **options | {"drop_last": "yes"})
    assert_array_equal(net.params, before)
