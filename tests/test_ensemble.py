"""Ensembles: each member has the bits that its network has alone, and the ensemble's predictions are means."""

import copy
import functools
import gc
import math
import pickle
import signal
import threading
import warnings

import numpy as np
import pytest
from numba import njit
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc
from fastfc.kernels.runtime import threads
from fastfc.metrics import softmax
from fastfc.training import members

K = 3
RNG = np.random.default_rng(0)
X = RNG.standard_normal((45, 5))
Y = np.sin(X[:, :2])
CLASSES = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)
VALIDATION = X[:9] + 0.1, Y[:9]


def mlp(seed, dtype=np.float32):
    return fc.MLP([5, 16, 2], "tanh", seed=seed, dtype=dtype)


def rich(seed):
    """Statistics, random masks that differ in their part and stream, and buffers that are not trained."""
    layers = [fc.Standardize.of(X), fc.Linear(5, 16, seed=seed), fc.BatchNorm1d(16), fc.ReLU()]
    return fc.Sequential([*layers, fc.Dropout(0.1 + 0.2 * seed, seed=seed), fc.Linear(16, 2, seed=seed)])


def graph(seed):
    x = fc.Input(5)
    h = fc.LayerNorm(5)(x)
    return fc.Graph(x, fc.Linear(5, 2, seed=seed + 1)(h + fc.GELU()(fc.Linear(5, 5, seed=seed)(h))))


def frozen(seed):
    net = mlp(seed)
    net[0].frozen = True
    return net


def everything(net, optimizer):
    """All that a fit changes, as bytes."""
    arrays = net.params, net.buffers, optimizer.state, optimizer.count
    return [a.tobytes() for a in arrays], net.rng_step


def rows(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history.rows]


def fit(net, optimizer, seed, y=Y, loss=None, **options):
    options = {"epochs": 3, "batch_size": 8} | options
    return net.fit(X, y, loss=loss or fc.MSELoss(), optimizer=optimizer, seed=seed, **options)


def check_alone(make, optimizer, n_threads=1, own=None, **options):
    """Train an ensemble twice, as two fits, and each network alone; everything must have the same bits.

    `own` gives the options that a network alone needs for what is the member's own.
    """
    team = fc.Ensemble(make, K, n_threads=n_threads)
    optimizers = [copy.deepcopy(optimizer) for _ in range(K)]
    for _ in range(2):
        fit(team, optimizer, 7, **options)
    for k in range(K):
        net = make(k)
        alone = {name: value for name, value in options.items() if name not in ("bootstrap", "subset")}
        for _ in range(2):
            history = fit(net, optimizers[k], 7 + k, **alone | (own(k) if own else {}))
        assert everything(team[k], team.optimizers[k]) == everything(net, optimizers[k]), k
        assert rows(team[k].history) == rows(history)
    return team


OPTIMIZERS = [
    fc.SGD(0.05),
    fc.SGD(0.05, momentum=0.9, nesterov=True, schedule=fc.CosineAnnealingLR(20)),
    fc.Adam(0.01, average=0.9, clip_norm=0.5, schedule=fc.OneCycleLR(0.05, 6, unit="epoch")),
    fc.AdamW(0.01, weight_decay=0.1, l1=1e-4, groups={"*.bias": {"lr": 0.1, "weight_decay": 0.0}}, max_norm=1.0),
    fc.RMSprop(0.01, schedule=fc.ReduceLROnPlateau(patience=0, factor=0.5)),
    fc.NAdam(0.01),
    fc.LBFGS(),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
def test_optimizers(optimizer):
    check_alone(mlp, copy.deepcopy(optimizer), validation_data=VALIDATION, metrics=["mae"])


@pytest.mark.parametrize("make", [rich, graph, frozen])
def test_networks(make):
    check_alone(make, fc.Adam(0.01), metrics=["r2"])


def test_float64():
    check_alone(lambda seed: mlp(seed, np.float64), fc.LevenbergMarquardt(), epochs=2)
    check_alone(lambda seed: mlp(seed, np.float64), fc.Adam(0.01))


WEIGHTS = RNG.random((K, 45))


@pytest.mark.parametrize(
    "options",
    [
        {"shuffle": False},
        {"batch_size": 100, "epochs": 2},
        {"batch_size": 7, "accumulate": 3},
        {"batch_size": 7, "drop_last": True, "y": CLASSES % 2, "loss": fc.CrossEntropyLoss(weight=[1.0, 2.0])},
        {"batch_size": 7, "drop_last": True, "shuffle": False, "sample_weight": WEIGHTS[0]},
        {"sample_weight": WEIGHTS[0], "validation_split": 0.2},
        {"y": CLASSES % 2, "loss": fc.CrossEntropyLoss(weight=[1.0, 2.0]), "class_weight": "balanced"},
        {"callbacks": [fc.EarlyStopping("val_loss", patience=1)], "validation_data": VALIDATION, "epochs": 30},
    ],
    ids=str,
)
def test_options(options):
    check_alone(mlp, fc.Adam(0.02), **options)


def drawn(k, what):
    return np.random.default_rng([7 + k, what])


def subset_of(k):
    return np.sort(drawn(k, 2).permutation(45)[:18])


@pytest.mark.parametrize("shuffle", [True, False])
def test_own_samples(shuffle):
    """Bootstrap, weights of each, and parts of the samples are what the networks alone get by other arguments."""
    counts = [np.bincount(drawn(k, 1).integers(45, size=45), minlength=45) for k in range(K)]
    check_alone(mlp, fc.Adam(0.01), shuffle=shuffle, bootstrap=True, own=lambda k: {"sample_weight": counts[k]})
    check_alone(mlp, fc.Adam(0.01), shuffle=shuffle, sample_weight=WEIGHTS, own=lambda k: {"sample_weight": WEIGHTS[k]})
    held_out = {"validation_split": 0.2, "metrics": ["mae"], "shuffle": shuffle}  # with the member's weights too
    check_alone(mlp, fc.Adam(0.01), sample_weight=WEIGHTS, own=lambda k: {"sample_weight": WEIGHTS[k]}, **held_out)
    classes = {"y": CLASSES % 2, "loss": fc.CrossEntropyLoss(weight=[1.0, 2.0]), "class_weight": "balanced"} | held_out
    classes["metrics"] = ["accuracy"]
    check_alone(mlp, fc.Adam(0.01), sample_weight=WEIGHTS, own=lambda k: {"sample_weight": WEIGHTS[k]}, **classes)
    parts = [np.arange(k, 40, k + 2) for k in range(K)]
    masks = [np.isin(np.arange(45), part) for part in parts]
    for subset, chosen in ((0.4, subset_of), (parts, parts.__getitem__), (masks, parts.__getitem__)):
        team = fc.Ensemble(mlp, K)
        fit(team, fc.Adam(0.01), 7, shuffle=shuffle, subset=subset, metrics=["mae"])
        for k in range(K):
            net = mlp(k)
            history = net.fit(
                X[chosen(k)], Y[chosen(k)], loss=fc.MSELoss(), optimizer=fc.Adam(0.01), epochs=3, batch_size=8,
                seed=7 + k, shuffle=shuffle, metrics=["mae"],
            )  # fmt: skip
            assert_array_equal(team[k].params, net.params)
            assert rows(team[k].history) == rows(history)


def test_options_of_each():
    """Optimizers of several rules, seeds of one's own, and what a generator draws."""
    optimizers = [fc.SGD(0.1), fc.Adam(0.01), fc.AdamW(0.1, weight_decay=0.5)]
    team = fc.Ensemble(mlp, K)
    fit(team, copy.deepcopy(optimizers), [5, 5, 0])
    for k, seed in enumerate([5, 5, 0]):
        net = mlp(k)
        fit(net, optimizers[k], seed)
        assert_array_equal(team[k].params, net.params)
    twins = [fc.Ensemble(mlp, K) for _ in range(2)]
    for twin in twins:
        fit(twin, fc.SGD(0.1), np.random.default_rng(3))
    assert_array_equal(twins[0].params, twins[1].params)


@pytest.mark.parametrize("n_threads", [2, "auto"])
def test_threads(monkeypatch, n_threads):
    monkeypatch.setattr(threads, "MIN_WORK", 1)
    team = check_alone(rich, fc.Adam(0.01), n_threads, validation_data=VALIDATION, metrics=["mae"])
    several = team.predict(X, return_std=True)
    team.n_threads = 1
    for a, b in zip(several, team.predict(X, return_std=True), strict=True):
        assert_array_equal(a, b)
    candidates = RNG.standard_normal((5, team[0].params.size)).astype(np.float32)
    many = np.tile(X, (20, 1))
    team[0].n_threads = n_threads
    assert_array_equal(team[0].predict(many, params=candidates)[3], team[0].predict(many, params=candidates[3]))


def test_many_calls(monkeypatch):
    """An epoch in many native calls has the bits of one in a single call."""
    monkeypatch.setattr(members, "CALL_SECONDS", 0.0)
    check_alone(rich, fc.Adam(0.01))


def test_one_member():
    team = fc.Ensemble(mlp, 1)
    fit(team, fc.Adam(0.01), 0)
    assert_array_equal(team.predict(X), team[0].predict(X))
    assert not team.predict(X, return_std=True)[1].any()


# members


def test_members_are_views():
    nets = [rich(k) for k in range(K)]
    before = [(net.params.copy(), net.buffers.copy()) for net in nets]
    team = fc.Ensemble.of(nets)
    assert team[1] is nets[1] and list(team) == nets and len(team) == K and team[-1] is nets[2]
    for _ in range(2):
        for k in range(K):
            for mine, its in (
                (team.params, nets[k].params),
                (team.buffers, nets[k].buffers),
                (team.grads, nets[k].grads),
            ):
                assert mine[k].ctypes.data == its.ctypes.data and mine[k].shape == its.shape
            assert np.shares_memory(nets[k][1].weight, team.params) and nets[k].params.ctypes.data % 64 == 0
        fit(team, fc.Adam(0.01), 0)
        fit(team[1], fc.Adam(0.01), 0)
        team[0].train_step(X, Y, fc.MSELoss(), fc.SGD(0.1))
    assert all((net.params != p).any() and net.buffers.any() for net, (p, _) in zip(nets, before, strict=True))
    team.params = np.zeros_like(team.params)
    assert not nets[2][1].weight.any()
    alone = copy.deepcopy(team[0])
    alone.params = alone.params + 1
    assert not team.params.any() and alone.network() is None


def test_members_outlive_their_ensemble():
    member = fc.Ensemble(mlp, K)[1]
    gc.collect()
    assert_array_equal(member.predict(X), mlp(1).predict(X))


def test_make():
    """A parameter named seed gets the member's seed, or else the first one without a default, if there is one."""

    class Maker:
        def __call__(self, width=16, seed=None):
            return fc.MLP([5, width, 2], "tanh", seed=seed)

    def positional(number, /, width=2):
        return mlp(number)

    named = functools.partial(fc.MLP, [5, 16, 2], "tanh")
    for make in (lambda s: mlp(s), mlp, Maker(), positional, named):
        assert_array_equal(fc.Ensemble(make, 2, seed=4)[1].params, mlp(5).params)
    for make in (lambda: mlp(0), lambda width=16: mlp(0)):
        assert_array_equal(fc.Ensemble(make, 2)[1].params, mlp(0).params)


def other_graph(seed):
    x = fc.Input(5)
    h = fc.LayerNorm(5)(x)
    return fc.Graph(x, fc.Linear(5, 2, seed=seed + 1)(x + fc.GELU()(fc.Linear(5, 5, seed=seed)(h))))


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (lambda: fc.MLP([5, 17, 2], "tanh"), r"layer 0 is Linear\(5, 17\)"),
        (lambda: fc.MLP([5, 16, 2], "relu"), r"layer 1 is ReLU\(\), not Tanh\(\)"),
        (lambda: fc.MLP([5, 16, 2], "tanh", dtype=np.float64), "float64"),
        (lambda: fc.MLP([5, 16, 16, 2], "tanh"), "5 layers, not 3"),
        (lambda: graph(0), "a Graph, not a Sequential"),
    ],
)
def test_other_shapes(other, match):
    with pytest.raises(ValueError, match=f"member 1 differs from member 0.*{match}"):
        fc.Ensemble.of([mlp(0), other()])


def test_other_connections():
    with pytest.raises(ValueError, match=r"member 2 differs.*connected"):
        fc.Ensemble.of([graph(0), graph(1), other_graph(2)])
    net = mlp(0)
    with pytest.raises(ValueError, match="member 1 is duplicated"):
        fc.Ensemble.of([net, net])
    team = fc.Ensemble.of([net])
    with pytest.raises(ValueError, match="is in an ensemble"):
        fc.Ensemble.of([mlp(1), net])
    with pytest.raises(ValueError, match="in another network"):
        fc.Sequential([team[0], fc.ReLU()])
    with pytest.raises(ValueError, match="at least one"):
        fc.Ensemble.of([])
    with pytest.raises(TypeError, match="member 0 must be a network"):
        fc.Ensemble(lambda: 3, 2)
    with pytest.raises(TypeError, match="make must be a function"):
        fc.Ensemble([mlp(0)], 1)


def test_copy_member():
    """The copy trains as the source does, but for its order of samples; a further fit goes on with it."""
    team = fc.Ensemble(rich, K)
    fit(team, [fc.Adam(0.01 * (k + 1)) for k in range(K)], 0)
    team.copy_member(2, 0)
    assert team.optimizers[0].lr == team.optimizers[2].lr and team.optimizers[0] is not team.optimizers[2]
    for a, b in ((team.params, team.params), (team.buffers, team.buffers)):
        assert_array_equal(a[0], b[2])
    assert everything(team[0], team.optimizers[0])[0] == everything(team[2], team.optimizers[2])[0]
    team.optimizers[0].lr = 0.005
    fit(team, team.optimizers, 0)
    assert team[0].history["lr"][0] == 0.005 and len(np.unique(team.params, axis=0)) == K
    with pytest.raises(IndexError, match="source must be the number of a member, 0 to 2, got 3"):
        team.copy_member(3, 0)


# errors, divergence, Ctrl-C


def state(team):
    return [everything(net, o) for net, o in zip(team, team.optimizers, strict=True)], rows(team.history)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"optimizer": [fc.SGD()]}, ValueError, "1 optimizers for 3 members"),
        ({"optimizer": [fc.SGD()] * 3}, ValueError, "optimizer 1 is duplicated"),
        ({"optimizer": "adam"}, TypeError, "optimizer must be"),
        ({"optimizer": [fc.SGD(), fc.SGD(), 3]}, TypeError, "optimizer must be an object"),
        ({"seed": [1, 2]}, ValueError, "seed has 2 items for 3 members"),
        ({"sample_weight": np.ones((2, 45))}, ValueError, r"sample_weight has shape \(2, 45\)"),
        ({"sample_weight": -np.ones((3, 45))}, ValueError, "not negative"),
        ({"sample_weight": np.zeros((3, 45))}, ValueError, "member 0 are 0"),
        ({"subset": 0.001}, ValueError, "none of 45"),
        ({"subset": [[0], [1]]}, ValueError, "subset has 2 items"),
        ({"subset": [[0], [1], [45]]}, ValueError, r"subset\[2\] names sample 45"),
        ({"subset": [[0], [1], [0.5]]}, ValueError, r"subset\[2\] must be numbers of samples"),
        ({"bootstrap": 3}, TypeError, "bootstrap must be True or False"),
        ({"x": iter([])}, (ValueError, TypeError), "in memory|batches"),
        ({"callbacks": [fc.EarlyStopping("val_loss")]}, ValueError, "val_loss"),
        ({"joint_callbacks": [fc.EarlyStopping("val_loss")]}, ValueError, "val_loss"),
        ({"optimizer": fc.LBFGS(), "accumulate": 2}, ValueError, "accumulate is for batches"),
        ({"y": Y[:, :1]}, ValueError, "shape"),
    ],
)
def test_refused(options, error, match):
    team = fc.Ensemble(mlp, K)
    optimizer = fc.Adam(0.01)
    fit(team, optimizer, 0)
    before, optimizers = state(team), team.optimizers
    options = {"x": X, "y": Y, "loss": fc.MSELoss(), "optimizer": fc.Adam(), "epochs": 1} | options
    x, y = options.pop("x"), options.pop("y")
    with pytest.raises(error, match=match):
        team.fit(x, y, **options)
    assert all(a is b for a, b in zip(team.optimizers, optimizers, strict=True)) and state(team) == before


def test_changed_optimizer():
    """The copies are the members' own: a change of the original is not silently lost."""
    team, optimizer = fc.Ensemble(mlp, K), fc.Adam(0.01)
    fit(team, optimizer, 0)
    optimizer.lr = 0.1
    with pytest.raises(ValueError, match=r"change those of team\.optimizers"):
        fit(team, optimizer, 0)


def test_failed_epoch():
    """A metric that raises undoes the epoch of all members, with their orders."""
    team, twin = fc.Ensemble(rich, K), fc.Ensemble(rich, K)
    calls = []

    def metric(y_true, y_pred):
        calls.append(0)
        if len(calls) == 11:
            raise RuntimeError("not now")
        return 1.0

    optimizer, its = fc.Adam(0.01), fc.Adam(0.01)
    with pytest.raises(RuntimeError, match="not now"):
        fit(team, optimizer, 0, metrics=[metric], epochs=9, validation_data=VALIDATION)
    fit(twin, its, 0, epochs=2)
    assert state(team)[0] == state(twin)[0] and len(team.history) == 2
    fit(team, optimizer, 0)
    fit(twin, its, 0)
    assert state(team)[0] == state(twin)[0]


def test_bad_predictions_name_the_member():
    team = fc.Ensemble(lambda seed: fc.MLP([5, 1], seed=seed), K)
    team.params = np.zeros_like(team.params)
    team[1][0].bias = [-1]  # BCELoss takes probabilities
    team[0][0].bias = team[2][0].bias = [0.5]
    before = team.params.copy()
    target = (X[:, :1] > 0).astype(int)
    with pytest.raises(ValueError, match=r"member 1: .*BCELoss takes probabilities"):
        fit(team, fc.SGD(1e-6), 0, y=target, loss=fc.BCELoss())
    assert_array_equal(team.params, before)
    with pytest.raises(ValueError, match=r"member 1: .*BCELoss takes probabilities"):
        team.evaluate(X, target, fc.BCELoss())


def test_divergence():
    """One member diverges: it is named, left as it was before that epoch, and the others have the bits of their own."""
    team = fc.Ensemble(mlp, K)
    optimizers = [fc.SGD(0.01), fc.SGD(1e3), fc.SGD(0.01)]
    ended = []

    class Ends(fc.Callback):
        def on_end(self, run):
            ended.append([net is run.network for net in team].index(True))

    with pytest.warns(fc.DivergenceWarning, match=r"^member 1: fit stopped: in update \d of epoch \d.*layer|^member 1"):
        fit(team, optimizers, 0, epochs=9, callbacks=[Ends()], validation_data=VALIDATION, metrics=["mae"])
    assert (team.left_out == {1} and ended == [1, 0, 2]) or sorted(ended) == [0, 1, 2]
    alone = mlp(1)
    with pytest.warns(fc.DivergenceWarning):
        history = fit(alone, fc.SGD(1e3), 1, epochs=9, validation_data=VALIDATION, metrics=["mae"])
    assert_array_equal(team[1].params, alone.params)
    assert rows(team[1].history) == rows(history)
    for k in (0, 2):
        net = mlp(k)
        fit(net, fc.SGD(0.01), k, epochs=9)
        assert_array_equal(team[k].params, net.params)
    assert_allclose(team.predict(X), (team[0].predict(X) + team[2].predict(X)) / 2, rtol=1e-6)
    assert team.predict(X, members=True).shape == (K, 45, 2) and "left out, as they diverged: 1" in team.summary()
    team.copy_member(0, 1)
    assert team.left_out == frozenset()


def test_all_diverge():
    team = fc.Ensemble(mlp, K)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = fit(team, fc.SGD(1e5), 0, epochs=9)
    assert len(caught) == K and len(history) < 9
    with pytest.raises(ValueError, match="all members have diverged"):
        team.predict(X)


def test_divergence_as_error():
    team = fc.Ensemble(mlp, K)
    with warnings.catch_warnings():
        warnings.simplefilter("error", fc.DivergenceWarning)
        with pytest.raises(fc.DivergenceWarning, match="member 2"):
            fit(team, [fc.SGD(0.01), fc.SGD(0.01), fc.SGD(1e9)], 0, epochs=9)
    assert np.isfinite(team.params).all() and np.isfinite(team[0].history["loss"]).all()


def test_ctrl_c(monkeypatch):
    """Ctrl-C comes between two native calls: members are those of completed steps, and the next fit works."""
    monkeypatch.setattr(members, "CALL_SECONDS", 0.0)
    team, optimizer, ended = fc.Ensemble(rich, K), fc.Adam(0.01), []

    class Ends(fc.Callback):
        def on_end(self, run):
            ended.append(run)

    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        fit(team, optimizer, 0, epochs=100_000, callbacks=[Ends()])
    counts = [int(o.count[0]) for o in team.optimizers]
    assert len(ended) == K and min(counts) > 0 and len(set(counts)) == 1 and np.isfinite(team.params).all()
    assert all(net.rng_step == count for net, count in zip(team, counts, strict=True))
    assert len(fit(team, optimizer, 0)) == 3


# early stopping


def test_early_stopping_of_each():
    """Members stop by themselves; each keeps its best weights, as its network alone."""
    stopping = fc.EarlyStopping("val_loss", patience=2)
    options = {"validation_data": VALIDATION, "epochs": 60, "callbacks": [stopping], "batch_size": 4}
    team = check_alone(mlp, fc.Adam(0.1), **options)
    lengths = [len(net.history) for net in team]
    assert len(set(lengths)) > 1 and len(team.history) == max(lengths)


def test_joint_early_stopping():
    """The ensemble's score stops all members, and restores all to the epoch of the best."""
    team, seen = fc.Ensemble(mlp, K), []
    stopping = fc.EarlyStopping("val_mae", patience=2)
    keep = lambda run: seen.append(run.network.params.copy())
    history = fit(
        team, fc.Adam(0.1), 0, epochs=60, batch_size=4, validation_data=VALIDATION, metrics=["mae"],
        joint_callbacks=[stopping, keep],
    )  # fmt: skip
    best = int(history["val_mae"].argmin())
    assert len(history) == best + 3 < 60 and stopping.best_epoch == best + 1
    assert_array_equal(team.params, seen[best])
    assert_allclose(history["val_mae"][best], np.abs(team.predict(VALIDATION[0]) - VALIDATION[1]).mean(), rtol=1e-6)
    assert all(len(net.history) == len(history) for net in team)


def test_history():
    team = fc.Ensemble(mlp, K)
    seen = []
    history = fit(
        team, [fc.Adam(0.01 * (k + 1)) for k in range(K)], 0, validation_data=VALIDATION, metrics=["mae"],
        callbacks=[lambda run: seen.append(run.network)],
    )  # fmt: skip
    assert history is team.history and history.names() == ["epoch", "loss", "lr", "val_loss", "val_mae", "seconds"]
    for name in ("loss", "val_loss", "lr"):
        assert_allclose(history[name], np.mean([net.history[name] for net in team], axis=0), rtol=1e-12)
    assert (history["val_mae"] < np.mean([net.history["val_mae"] for net in team], axis=0)).all()  # of the mean
    assert seen == list(team) * 3


# predictions


def test_predict():
    team = fc.Ensemble(mlp, 9)
    each = np.array([net.predict(X) for net in team], np.float64)
    assert_array_equal(team.predict(X, members=True), each.astype(np.float32))
    assert_array_equal(team.predict(X, members=[4, 1]), each[[4, 1]].astype(np.float32))
    turned = [3, 1, 0, 2, 4, 5, 8, 7, 8]  # as many as there are, in another order
    assert_array_equal(team.predict(X, members=turned), each[turned].astype(np.float32))
    mean, std = team.predict(X, return_std=True)
    assert_allclose(mean, each.mean(0), rtol=1e-5, atol=1e-6)
    assert_allclose(std, each.std(0), rtol=1e-5, atol=1e-6)
    assert_allclose(team.predict(X, quantiles=[0.1, 0.5]), np.quantile(each, [0.1, 0.5], axis=0), rtol=1e-5, atol=1e-6)
    assert_allclose(team.predict(X, quantiles=0.5), np.median(each, axis=0), rtol=1e-5, atol=1e-6)
    assert team.predict(X[0]).shape == (2,) and team.predict(X[0], members=True).shape == (9, 2)
    assert team.predict(X[:0]).shape == (0, 2) and team.predict(X[:0], quantiles=[0.5]).shape == (1, 0, 2)
    for bad in ({"quantiles": 1.5}, {"quantiles": []}, {"members": True, "return_std": True}):
        with pytest.raises(ValueError, match=r"quantiles|members"):
            team.predict(X, **bad)
    with pytest.raises(IndexError, match="members must be the number of a member, 0 to 8, got 9"):
        team.predict(X, members=[9])
    with pytest.raises(IndexError, match="got True"):
        team.predict(X, members=[True, False])
    with pytest.raises(ValueError, match="x has shape"):
        team.predict(X[:, :4])


@pytest.mark.parametrize("width", [1, 2, 17])
def test_bits_of_a_row(width, monkeypatch):
    """A row's mean, spread and quantiles have the same bits in a batch of any size, however the rows are cut."""
    team = fc.Ensemble(lambda seed: fc.MLP([5, 8, width], seed=seed), 11, loss=fc.CrossEntropyLoss())
    many = RNG.standard_normal((300, 5)).astype(np.float32)
    whole = [*team.predict(many, return_std=True), team.predict(many, quantiles=[0.3])[0]]
    for part in (slice(0, 1), slice(7, 24), slice(299, 300)):
        few = [*team.predict(many[part], return_std=True), team.predict(many[part], quantiles=[0.3])[0]]
        for a, b in zip(whole, few, strict=True):
            assert_array_equal(a[part], b)
    monkeypatch.setattr("fastfc.models.ensemble.MOST_BYTES", 4000)
    assert_array_equal(team.predict(many), whole[0])


@pytest.mark.parametrize(
    ("loss", "link", "last", "of_each"),
    [
        (fc.CrossEntropyLoss(), "softmax", None, lambda z: softmax(z.reshape(-1, 2)).reshape(z.shape)),
        (fc.BCEWithLogitsLoss(), "sigmoid", None, lambda z: 1 / (1 + np.exp(-z))),
        (fc.NLLLoss(), "exp", fc.LogSoftmax, np.exp),
        (fc.CrossEntropyLoss(), "identity", fc.Softmax, lambda z: z),
        (fc.BCELoss(), "identity", fc.Sigmoid, lambda z: z),
        (fc.PoissonNLLLoss(), "exp", None, np.exp),
        (fc.MultiMarginLoss(), "identity", None, lambda z: z),
        (fc.HuberLoss(), "identity", None, lambda z: z),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, fc.MSELoss.__mro__[1]) else None,
)
def test_links(loss, link, last, of_each):
    """What is averaged is what the outputs stand for, by the loss and the last layer; `fit` finds that out."""

    def make(seed):
        return fc.MLP([5, 8, 2], "tanh", output_activation=last and last(), seed=seed)

    team = fc.Ensemble(make, 4)
    team.params = 3 * team.params
    of_classes = isinstance(loss, fc.CrossEntropyLoss | fc.NLLLoss | fc.MultiMarginLoss)
    y = CLASSES % 2 if of_classes else (Y > 0).astype(float)
    fit(team, fc.SGD(1e-4), 0, y=y, loss=loss, epochs=1)
    each = of_each(np.array([net.predict(X) for net in team], np.float64))
    assert team.link == (link,)
    assert_allclose(team.predict(X), each.mean(0), rtol=1e-4, atol=1e-6)
    assert_allclose(team.predict(X, members=True), each, rtol=1e-4, atol=1e-6)
    assert fc.Ensemble.of([copy.deepcopy(net) for net in team], loss=loss).link == (link,)
    value = np.mean([net.evaluate(X, y, loss) for net in team])
    assert_allclose(team.evaluate(X, y, loss), value, rtol=1e-6)


def test_metrics_are_of_the_mean():
    """Accuracy and the area under the curve see averaged probabilities: their threshold is that of probabilities."""
    team = fc.Ensemble(lambda seed: fc.MLP([5, 4, 1], seed=seed), 5)
    team.params = 8 * RNG.standard_normal(team.params.shape)
    y = (X[:, :1] > 0).astype(int)
    loss = fc.BCEWithLogitsLoss()
    found = team.evaluate(X, y, loss, metrics=["accuracy", "roc_auc"])
    team.link = "sigmoid"
    mean = team.predict(X)
    assert found["accuracy"] == np.mean((mean > 0.5) == y)
    worse = np.mean((np.mean([net.predict(X) for net in team], axis=0) > 0) == y)
    assert found["accuracy"] != worse  # else this shows nothing
    with pytest.raises(ValueError, match="link must be one of"):
        team.link = "probit"
    with pytest.raises(ValueError, match="means and variances"):
        team.link = "gaussian"


def test_mixture():
    """Means and variances become those of the mixture of the members' normal distributions."""

    def make(seed):
        return fc.Sequential([fc.Linear(5, 4, seed=seed), fc.Softplus()])

    team = fc.Ensemble(make, 4, loss=fc.GaussianNLLLoss())
    each = np.array([net.predict(X) for net in team], np.float64)
    mean, variance = each[:, :, :2].mean(0), each[:, :, 2:].mean(0) + each[:, :, :2].var(0)
    assert_allclose(team.predict(X), np.concatenate([mean, variance], axis=1), rtol=1e-5)
    assert_allclose(team.evaluate(X, mean, fc.GaussianNLLLoss(), metrics=["mae"])["mae"], 0, atol=1e-6)


def two_outputs(seed):
    x = fc.Input(5)
    h = fc.Tanh()(fc.Linear(5, 8, seed=seed)(x))
    return fc.Graph(x, [fc.Linear(8, 3, seed=seed + 1)(h), fc.Linear(8, 1, seed=seed + 2)(h)])


def test_several_outputs():
    loss = fc.MultiLoss([fc.CrossEntropyLoss(), fc.MSELoss()])
    team = fc.Ensemble(two_outputs, 4)
    team.fit(X, (CLASSES, Y[:, :1]), loss=loss, optimizer=fc.Adam(0.01), epochs=2, seed=0)
    alone = two_outputs(2)
    alone.fit(X, (CLASSES, Y[:, :1]), loss=loss, optimizer=fc.Adam(0.01), epochs=2, seed=2)
    assert_array_equal(team[2].params, alone.params)
    assert team.link == ("softmax", "identity")
    each = [net.predict(X) for net in team]
    (choice, amount), (choice_std, _) = team.predict(X, return_std=True)
    assert_allclose(choice, np.mean([softmax(a) for a, _ in each], axis=0), rtol=1e-4)
    assert_allclose(amount, np.mean([b for _, b in each], axis=0), rtol=1e-4, atol=1e-6)
    assert choice_std.shape == (45, 3)
    assert [part.shape for part in team.predict(X, members=True)] == [(4, 45, 3), (4, 45, 1)]
    assert [part.shape for part in team.predict(X[0], quantiles=[0.1, 0.9])] == [(2, 3), (2, 1)]


def test_dropout_and_other_layers_differ_in_predictions():
    """Members may drop other parts, or none: their predictions are those of their networks."""
    nets = [fc.Sequential([fc.Linear(5, 3, seed=k), fc.Dropout(p, seed=k)]) for k, p in enumerate([0.0, 0.5, 1.0])]
    team = fc.Ensemble.of(nets)
    assert_array_equal(team.predict(X, members=True), [net.predict(X) for net in nets])
    nets[1][1].p = 0.9
    fit(team, fc.SGD(0.1), 0, y=Y[:, [0, 1, 1]])
    assert_array_equal(team.predict(X, members=True), [net.predict(X) for net in nets])


# candidates


@pytest.mark.parametrize("make", [mlp, rich, graph])
def test_candidates(make):
    net = make(0)
    candidates = RNG.standard_normal((5, net.params.size)).astype(np.float32)
    found = net.predict(X, params=candidates)
    assert_array_equal(found, [net.predict(X, params=row) for row in candidates])
    assert_array_equal(net.predict(X[0], params=candidates), found[:, 0])
    assert net.predict(X[:0], params=candidates).shape == (5, 0, 2)
    assert net.predict(X, params=candidates[:0]).shape == (0, 45, 2)
    out = np.full((5, 45, 2), np.nan, np.float32)
    assert net.predict(X, out, candidates[::-1]) is out
    assert_array_equal(out, found[::-1])
    for wrong, error in ((candidates[:, 1:], ValueError), (candidates.astype(float), TypeError)):
        with pytest.raises(error, match="params"):
            net.predict(X, params=wrong)
    with pytest.raises(ValueError, match="out"):
        net.predict(X, out[:4], candidates)
    with pytest.raises(ValueError, match="in memory"):
        net.predict(iter([X]), params=candidates)


@pytest.mark.parametrize("make", [mlp, rich])
def test_candidates_in_any_memory(make):
    """Vectors of numbers that do not lie side by side were read as if they did, and beyond their end."""
    net = make(0)
    candidates = RNG.standard_normal((4, net.params.size)).astype(np.float32)
    expected = net.predict(X, params=candidates)
    spaced = np.repeat(candidates, 2, axis=1)[:, ::2]
    for same in (
        np.asfortranarray(candidates),
        spaced,
        candidates[:, ::-1].copy()[:, ::-1],
        np.repeat(candidates, 2, 0)[::2],
    ):
        assert_array_equal(net.predict(X, params=same), expected)
        assert_array_equal(net.predict(X, params=same[2]), expected[2])
        assert_array_equal(net.predict(iter([X]), params=same[2]), expected[2])


def test_candidates_of_several_outputs():
    net = two_outputs(0)
    candidates = RNG.standard_normal((3, net.params.size)).astype(np.float32)
    choice, amount = net.predict(X, params=candidates)
    assert choice.shape == (3, 45, 3)
    assert_array_equal(amount[2], net.predict(X, params=candidates[2])[1])


def test_wrong_index():
    def make(seed):
        return fc.Sequential([fc.Embedding(4, 2, seed=seed), fc.Linear(2, 1, seed=seed)])

    team, x = fc.Ensemble(make, 3), np.array([[0.0], [4.0]])
    for predict in (team.predict, lambda x: team[0].predict(x, params=team.params)):
        with pytest.raises(ValueError, match="x holds 4, but Embedding"):
            predict(x)


# compiled code, files


@njit
def controller(team, k, x, out):
    team.predict_one(k, x, out)
    return team.predict_one(k, x)


def test_nopython():
    for make in (mlp, rich, lambda seed: mlp(seed, np.float64)):
        team = fc.Ensemble(make, K)
        x = X[0].astype(team.dtype)
        for k in range(K):
            out = np.empty(2, team.dtype)
            assert_array_equal(controller(team, k, x, out), team[k].predict(x))
            assert_array_equal(out, team[k].predict(x))
            assert_array_equal(out, team.predict_one(k, x))
    team[2].params = team[2].params * 2
    assert_array_equal(controller(team, 2, x, out), team[2].predict(x))
    for k in (K, -1):
        with pytest.raises(IndexError, match="k must be the number of a member"):
            controller(team, k, x, out)
    with pytest.raises(ValueError, match="x has another width"):
        controller(team, 0, x[:3], out)
    with pytest.raises(TypeError, match="x is an array of float32, the network of float64"):
        controller(team, 0, x.astype(np.float32), out)


def test_files(tmp_path):
    """A run that goes on from a file, or from a pickle, has the bits of one that never stopped."""
    for make, optimizer in (
        (rich, fc.Adam(0.01, schedule=fc.ReduceLROnPlateau(patience=0), average=0.9)),
        (graph, fc.SGD()),
    ):
        team = fc.Ensemble(make, K, loss=fc.CrossEntropyLoss())
        team.save(tmp_path / "new.safetensors")
        new = fc.load(tmp_path / "new.safetensors")
        assert new.link == ("softmax",) and new.optimizers == ()
        optimizers = [copy.deepcopy(optimizer) for _ in range(K)]
        optimizers[1].lr = 0.005
        fit(team, optimizers, 0)
        team.save(tmp_path / "team.safetensors", metadata={"unit": "m"})
        read = fc.load_checkpoint(tmp_path / "team.safetensors")
        twins = [read.network, pickle.loads(pickle.dumps(team)), copy.deepcopy(team), copy.copy(team)]
        assert read.metadata == {"unit": "m"} and read.optimizer is twins[0].optimizers
        fit(team, optimizers, 0)
        for twin in twins:
            assert isinstance(twin, fc.Ensemble) and twin.link == team.link and len(twin.history) == 3
            fit(twin, twin.optimizers, 0)
            assert state(twin) == state(team)
            assert np.shares_memory(twin[1].params, twin.params) and not np.shares_memory(twin.params, team.params)
            assert_array_equal(twin.predict(X), team.predict(X))


def test_files_with_left_out_members(tmp_path):
    team = fc.Ensemble(mlp, K)
    with pytest.warns(fc.DivergenceWarning):
        fit(team, [fc.SGD(0.01), fc.SGD(1e6), fc.SGD(0.01)], 0)
    team.save(tmp_path / "team.safetensors")
    assert fc.load(tmp_path / "team.safetensors").left_out == {1} == pickle.loads(pickle.dumps(team)).left_out
    assert not math.isnan(fc.load(tmp_path / "team.safetensors").predict(X).sum())


def test_text():
    team = fc.Ensemble(mlp, 2)
    assert repr(team) == "Ensemble of 2 × Sequential([Linear(5, 16), Tanh(), Linear(16, 2)])"
    text = team.summary().splitlines()
    assert text[0] == "2 members, each of" and text[-1] == "260 parameters of all members"
