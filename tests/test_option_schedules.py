"""Schedules of weight decay, dropout and label smoothing, and factors of groups: each update has its own numbers.

A step with schedules is compared with one of an optimizer, a loss and a network that have the numbers of that step.
"""

import copy
import pickle

import numpy as np
import pytest
from nopython_code import train
from numpy.testing import assert_allclose, assert_array_equal
from test_schedules import SCHEDULES

import fastfc as fc
from fastfc.training import epoch as epochs

RNG = np.random.default_rng(0)
X, LABELS = RNG.standard_normal((24, 3)), RNG.integers(0, 4, 24)
P, EPSILON, DECAY, STEPS = 0.4, 0.3, 0.5, 12
ALL = {
    "weight_decay": fc.FlatCosineLR(STEPS),
    "dropout": fc.LinearLR(1.0, 0.0, STEPS - 3),
    "label_smoothing": fc.MultiStepLR([2, 5], gamma=0.5),
}


def network(p=P):
    layers = [
        fc.Linear(3, 8, seed=0, dtype=np.float64),
        fc.Tanh(),
        fc.Dropout(p, seed=1),
        fc.Linear(8, 4, seed=2, dtype=np.float64),
    ]
    return fc.Sequential(layers)


def optimizer(**options):
    return fc.AdamW(0.05, weight_decay=DECAY, **options)


def smoothed(epsilon=EPSILON):
    return fc.CrossEntropyLoss(label_smoothing=epsilon)


def by_hand(schedules, steps=STEPS, rows=lambda k: slice(None)):
    """The parameters after steps that have each the numbers which the schedules give."""
    net, plain = network(), optimizer()
    share = lambda what, k: schedules[what].rate(1.0, k) if what in schedules else 1.0
    for k in range(steps):
        plain.weight_decay = DECAY * share("weight_decay", k)
        net[2].p = min(1.0, P * share("dropout", k))
        net.train_step(X[rows(k)], LABELS[rows(k)], smoothed(min(1.0, EPSILON * share("label_smoothing", k))), plain)
    return net.params


@pytest.mark.parametrize("what", ALL)
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_option_by_every_schedule(what, name):
    schedules = {what: SCHEDULES[name][0]()}
    net, scheduled = network(), optimizer(schedules=schedules)
    for _ in range(STEPS):
        net.train_step(X, LABELS, smoothed(), scheduled)
    assert_array_equal(net.params, by_hand(schedules))
    changes = any(schedules[what].rate(1.0, k) != 1.0 for k in range(STEPS))
    assert np.array_equal(net.params, by_hand({})) != changes


def test_together_and_beside_the_schedule_of_the_rate():
    """All have the same t, and milestones of one are not those of another."""
    for schedule in (None, fc.MultiStepLR([1, 3, 7], gamma=0.5)):
        net, scheduled = network(), optimizer(schedules=ALL, schedule=schedule)
        reference, plain = network(), optimizer(schedule=schedule)
        for k in range(STEPS):
            assert scheduled.current_shares == {what: one.rate(1.0, k) for what, one in ALL.items()}
            plain.weight_decay = DECAY * ALL["weight_decay"].rate(1.0, k)
            reference[2].p = P * ALL["dropout"].rate(1.0, k)
            net.train_step(X, LABELS, smoothed(), scheduled)
            reference.train_step(X, LABELS, smoothed(EPSILON * ALL["label_smoothing"].rate(1.0, k)), plain)
        assert_array_equal(net.params, reference.params)


def fitted(net, scheduled, n_epochs=3, x=X, y=LABELS, **options):
    options = {"batch_size": 6, "shuffle": False, "epochs": n_epochs} | options
    net.fit(x, y, loss=smoothed(), optimizer=scheduled, **options)
    return net.params


def batches():
    return [(X[i : i + 6], LABELS[i : i + 6]) for i in range(0, 24, 6)]


def test_in_an_epoch(monkeypatch):
    """Many updates in one native call have each the numbers of their own, wherever calls are cut."""
    expected = by_hand(ALL, rows=lambda k: slice(k % 4 * 6, k % 4 * 6 + 6))
    assert_array_equal(fitted(network(), optimizer(schedules=ALL)), expected)
    net = network()
    net.fit(batches, loss=smoothed(), optimizer=optimizer(schedules=ALL), epochs=3)
    assert_array_equal(net.params, expected)
    monkeypatch.setattr(epochs, "CALL_SECONDS", 0.0)  # an update each
    assert_array_equal(fitted(network(), optimizer(schedules=ALL)), expected)


def test_batches_of_an_update_share_its_numbers():
    net, twin, scheduled, plain = network(), network(), optimizer(schedules=ALL), optimizer()
    fitted(net, scheduled, 1, accumulate=2)
    for k, rows in enumerate((slice(12), slice(12, 24))):
        plain.weight_decay, twin[2].p = DECAY * ALL["weight_decay"].rate(1, k), P * ALL["dropout"].rate(1, k)
        loss = smoothed(EPSILON * ALL["label_smoothing"].rate(1, k))
        twin.fit(X[rows], LABELS[rows], loss=loss, optimizer=plain, batch_size=6, shuffle=False, accumulate=2)
    assert scheduled.count[0] == 2
    assert_array_equal(net.params, twin.params)


def test_in_nopython_code():
    net, scheduled = network(), optimizer(schedules=ALL)
    net.reserve(len(X))
    scheduled.prepare(net)
    train(net, X, LABELS, smoothed(), scheduled, STEPS)
    assert_array_equal(net.params, by_hand(ALL))


@pytest.mark.parametrize("way", ["file", "pickle", "copy"])
def test_resumed(way, tmp_path):
    net, scheduled = network(), optimizer(schedules=ALL)
    whole = fitted(copy.deepcopy(net), copy.deepcopy(scheduled), 3, shuffle=True, seed=3)
    fitted(net, scheduled, 1, shuffle=True, seed=3)
    if way == "file":
        net.save(tmp_path / "net", optimizer=scheduled)
        net, again, _ = fc.load_checkpoint(tmp_path / "net")
    else:
        net, again = (
            copy.deepcopy(net),
            pickle.loads(pickle.dumps(scheduled)) if way == "pickle" else copy.copy(scheduled),
        )
    assert again.schedules == ALL and repr(again) == repr(scheduled)
    assert_array_equal(fitted(net, again, 2, shuffle=True, seed=3), whole)


def test_epochs_are_counted():
    schedules = {"weight_decay": fc.StepLR(1, unit="epoch"), "dropout": fc.LinearLR(1, 0, 2, unit="epoch")}
    net, scheduled = network(), optimizer(schedules=schedules)
    with pytest.raises(ValueError, match="counts epochs; train with fit"):
        net.train_step(X, LABELS, smoothed(), scheduled)
    by_epochs = {"weight_decay": fc.MultiStepLR([4, 8]), "dropout": fc.MultiStepLR([4, 8], gamma=1e-300)}
    assert_array_equal(fitted(net, scheduled, 1), fitted(network(), optimizer(schedules=by_epochs), 1))
    assert scheduled.current_shares == {"weight_decay": 0.1, "dropout": 0.5}


def test_changed_between_steps():
    net, scheduled = network(), optimizer()
    net.train_step(X, LABELS, smoothed(), scheduled)
    scheduled.schedules = {"weight_decay": fc.FlatCosineLR(1)}
    twin, plain = copy.deepcopy(net), copy.deepcopy(scheduled)
    plain.schedules, plain.weight_decay = None, 0.0
    for one, its in ((net, scheduled), (twin, plain)):
        one.train_step(X, LABELS, smoothed(), its)
    assert_array_equal(net.params, twin.params)
    assert scheduled.schedules and not plain.schedules and "schedules" not in repr(plain)


def test_at_most_one():
    """p and label smoothing have an upper end, which no schedule passes."""
    schedules = dict.fromkeys(("dropout", "label_smoothing"), fc.OneCycleLR(9.0, STEPS))
    net, scheduled = network(), optimizer(schedules=schedules)
    for _ in range(STEPS):
        net.train_step(X, LABELS, smoothed(), scheduled)
    assert_array_equal(net.params, by_hand(schedules))


def test_of_several_outputs():
    """Each loss of a MultiLoss with label smoothing has its own, and the schedule is for all of them."""

    def two_heads():
        a = fc.Input(3)
        return fc.Graph(a, [fc.Linear(3, 4, seed=i, dtype=np.float64)(a) for i in range(3)])

    def losses(share):
        parts = [
            fc.CrossEntropyLoss(label_smoothing=0.4 * share),
            fc.CrossEntropyLoss(label_smoothing=share),
            fc.MSELoss(),
        ]
        return fc.MultiLoss(parts, weights=[1.0, 0.5, 2.0])

    nets, y = [two_heads(), two_heads()], (LABELS, 3 - LABELS, X[:, [0, 1, 2, 0]])
    scheduled, plain = optimizer(schedules={"label_smoothing": fc.LinearLR(1.0, 0.0, 4)}), optimizer()
    for share in (1.0, 0.75, 0.5, 0.25, 0.0, 0.0):
        nets[0].train_step(X, y, losses(1.0), scheduled)
        nets[1].train_step(X, y, losses(share), plain)
    assert_array_equal(nets[0].params, nets[1].params)


def test_pickles_of_0_2_0_had_fewer_numbers():
    made = fc.Adam(0.1, schedule=fc.MultiStepLR([2, 4]))
    state = made.__getstate__()
    state["hyper"] = np.concatenate([made.hyper[:25], [2.0, 4.0]])
    for name in ("_schedules", "_square_factors"):
        state.pop(name)
    again = fc.Adam.__new__(fc.Adam)
    again.__setstate__(state)
    assert repr(again) == repr(made)
    assert_array_equal(again.hyper, made.hyper)


def test_find_lr_takes_what_the_options_are():
    net, options = network(), {"steps": 9, "seed": 0, "batch_size": 6}
    found = net.find_lr(X, LABELS, smoothed(), optimizer(schedules=ALL), **options)
    assert_array_equal(found.losses, net.find_lr(X, LABELS, smoothed(), optimizer(), **options).losses)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"lr": fc.StepLR(2)}, ValueError, r"AdamW: the schedule of lr is schedule=StepLR\(.*\), not one of schedules"),
        (
            {"droput": fc.StepLR(2)},
            ValueError,
            "AdamW: schedules are for weight_decay, dropout, label_smoothing, not 'droput'",
        ),
        ({"dropout": 0.5}, TypeError, r"AdamW: schedules\['dropout'\] must be an object such as FlatCosineLR"),
        ({"dropout": fc.ReduceLROnPlateau()}, TypeError, r"schedules\['dropout'\] must be"),
        ([fc.StepLR(2)], TypeError, "AdamW: schedules must be a dict"),
    ],
)
def test_bad_schedules(options, error, message):
    with pytest.raises(error, match=message):
        optimizer(schedules=options)
    good = optimizer(schedules=ALL)
    with pytest.raises(error, match=message):
        good.schedules = options
    assert good.schedules == ALL


def test_schedules_of_what_is_not_there():
    net = fc.MLP([3, 4], seed=0, dtype=np.float64)
    with pytest.raises(ValueError, match=r"AdamW: schedules has 'dropout', but .* has no Dropout"):
        net.train_step(X, LABELS, smoothed(), optimizer(schedules={"dropout": ALL["dropout"]}))
    only = optimizer(schedules={"label_smoothing": ALL["label_smoothing"]})
    with pytest.raises(ValueError, match=r"AdamW: schedules has 'label_smoothing', but MSELoss\(\) has none"):
        net.train_step(X, X[:, [0, 1, 2, 0]], fc.MSELoss(), only)
    with pytest.raises(ValueError, match="AdamW: schedules has 'label_smoothing', which forward and loss take before"):
        only.step(net)
    assert only.count[0] == 0


KINDS = {
    "SGD": (fc.SGD, {"momentum": 0.5}),
    "Adam": (fc.Adam, {}),
    "AdamW": (fc.AdamW, {}),
    "NAdam": (fc.NAdam, {"decoupled_weight_decay": True}),
    "Lion": (fc.Lion, {}),
    "RMSprop": (fc.RMSprop, {}),
}


@pytest.mark.parametrize("name", KINDS)
def test_factors_of_groups_are_relative(name):
    """A factor times the option is that option of the group; later changes of the option count."""
    kind, options = KINDS[name]
    made = {"lr": 0.0625, "weight_decay": 0.25, **options}
    factors = {
        "*.bias": {"lr_factor": 0.25, "weight_decay_factor": 0.0},
        "1.*": {"lr_factor": 4.0},
        "0.weight": {"weight_decay_factor": 3.0},
    }
    absolute = {
        "*.bias": {"lr": 0.0625 / 4, "weight_decay": 0.0},
        "1.*": {"lr": 0.25},
        "0.weight": {"weight_decay": 0.75},
    }
    nets = [fc.Sequential([fc.Linear(3, 2, seed=0), fc.Linear(2, 4, seed=1)]) for _ in range(2)]
    first, second = kind(groups=factors, **made), kind(groups=absolute, **made)
    for k in range(3):
        for net, one in zip(nets, (first, second), strict=True):
            net.train_step(X, LABELS, smoothed(), one)
        assert_array_equal(*(net.params for net in nets))
        if k == 0:
            first.weight_decay = second.weight_decay = 0.5
            second.groups = {**second.groups, "0.weight": {"weight_decay": 1.5}}
            first.lr = second.lr = 0.125
    assert first.groups["1.*"]["lr_factor"] == 4.0


def test_the_later_one_of_factor_and_option_counts():
    net = fc.Sequential([fc.Linear(3, 2, seed=0, dtype=np.float64)])
    for groups, rates in (
        ({"*": {"lr": 0.5}, "*.bias": {"lr_factor": 2.0}}, (0.5, 0.25)),
        ({"*": {"lr_factor": 2.0}, "*.bias": {"lr": 0.5}}, (0.25, 0.5)),
    ):
        one, before = fc.SGD(0.125, groups=groups), net.params.copy()
        net.grads[:] = 1.0
        one.step(net)
        assert_allclose(before - net.params, np.repeat(rates, (6, 2)), rtol=1e-12)


@pytest.mark.parametrize("kind", [fc.AdamW, fc.Lion])
def test_squared_factors(kind):
    """θ ← θ (1 − wd lr (f_wd f_lr)²); with gradients of 0 nothing else happens."""
    net = fc.Sequential([fc.Linear(3, 2, seed=0, bias_init="normal", dtype=np.float64)])
    groups = {"*.weight": {"lr_factor": 6.0, "weight_decay_factor": 0.5}, "*.bias": {"lr_factor": 0.1}}
    schedules = {"weight_decay": fc.FlatCosineLR(4)}
    one = kind(
        0.04, weight_decay=0.02, groups=groups, square_factors=True, schedules=schedules, schedule=fc.CosLogLR(4)
    )
    expected, factors = net.params.copy(), np.repeat([6.0 * 0.5, 0.1], (6, 2))
    for k in range(4):
        net.grads[:] = 0.0
        one.step(net)
        expected *= 1 - 0.02 * schedules["weight_decay"].rate(1.0, k) * fc.CosLogLR(4).rate(0.04, k) * factors**2
        assert_allclose(net.params, expected, rtol=1e-13)
    for refused in (lambda: fc.SGD(0.1, square_factors=True), lambda: setattr(fc.Adam(), "square_factors", True)):
        with pytest.raises(ValueError, match=r"(SGD|Adam): square_factors is for a decoupled weight decay"):
            refused()


@pytest.mark.parametrize(
    "own, error, message",
    [
        ({"lr": 0.1, "lr_factor": 1.0}, ValueError, r"groups\['\*'\] has 'lr' and 'lr_factor'; give one of them"),
        ({"weight_decay": 0.1, "weight_decay_factor": 1.0}, ValueError, "has 'weight_decay' and 'weight_decay_factor'"),
        ({"lr_factor": 0.0}, ValueError, "lr_factor must be finite and positive"),
        ({"weight_decay_factor": -1.0}, ValueError, "weight_decay_factor must be finite and not negative"),
        ({"lr_faktor": 1.0}, ValueError, "not 'lr_faktor'; did you mean 'lr_factor'"),
    ],
)
def test_bad_factors(own, error, message):
    with pytest.raises(error, match=message):
        fc.AdamW(groups={"*": own})


def test_the_first_step_of_coslog_changes_moments_alone():
    net, one = network(0.0), optimizer(schedule=fc.CosLogLR(10))
    before = net.params.copy()
    net.train_step(X, LABELS, smoothed(), one)
    assert_array_equal(net.params, before)
    assert_allclose(one.state[0], 0.1 * net.grads, rtol=1e-12)
