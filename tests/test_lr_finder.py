import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastfc as fc

X = np.linspace(-1, 1, 64)[:, None]


def test_the_suggestion_trains_and_nothing_changes():
    net, optimizer = fc.MLP([1, 16, 1], activation="tanh", seed=0), fc.SGD(0.5, momentum=0.9)
    params = net.params.copy()
    found = net.find_lr(X, X**2, fc.MSELoss(), optimizer, seed=0)
    assert_array_equal(net.params, params)
    assert optimizer.lr == 0.5 and optimizer.count[0] == 0
    assert len(found.rates) == len(found.losses) <= 100
    assert found.rates[0] == 1e-6 and np.all(np.diff(found.rates) > 0)
    first = net.evaluate(X, X**2, fc.MSELoss())
    net.fit(X, X**2, loss=fc.MSELoss(), optimizer=fc.SGD(found.suggestion, momentum=0.9), epochs=200, seed=0)
    assert net.evaluate(X, X**2, fc.MSELoss()) < first / 10


def test_it_ends_where_the_loss_explodes():
    net = fc.MLP([1, 16, 1], seed=0)
    found = net.find_lr(X, 100 * X, fc.MSELoss(), fc.SGD(), highest=1e6, seed=0)
    assert found.rates[-1] < 1e5 and np.isfinite(found.losses).all()


def test_picture(tmp_path):
    pytest.importorskip("matplotlib")
    net = fc.MLP([1, 4, 1], seed=0)
    net.find_lr(X, X, fc.MSELoss(), fc.SGD(), seed=0).save_plot(tmp_path / "rates.png")
    assert (tmp_path / "rates.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "message"),
    [({"lowest": 0}, "rate"), ({"lowest": 1, "highest": 0.1}, "highest"), ({"steps": 0}, "steps")],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        fc.MLP([1, 1]).find_lr(X, X, fc.MSELoss(), fc.SGD(), **options)


def test_the_schedule_plays_no_part():
    net = fc.MLP([1, 16, 1], seed=0)
    plain, *others = (
        net.find_lr(X, X**2, fc.MSELoss(), fc.SGD(schedule=schedule), seed=0)
        for schedule in (None, fc.OneCycleLR(max_lr=0.1, total_steps=5), fc.StepLR(1, unit="epoch"))
    )
    for other in others:
        assert_array_equal(other.losses, plain.losses)


def test_lists_of_inputs_and_outputs():
    a, b = fc.Input(1), fc.Input(1)
    net = fc.Graph([a, b], [fc.Linear(1, 2, seed=0)(a + b), fc.Linear(1, 1, seed=1)(a * b)])
    loss, labels = fc.MultiLoss([fc.CrossEntropyLoss(), fc.MSELoss()]), (X[:, 0] > 0).astype(int)
    tuples = net.find_lr((X, -X), (labels, X), loss, fc.SGD(), seed=0)
    lists = net.find_lr([X, -X], [labels, X], loss, fc.SGD(), seed=0)
    assert_array_equal(lists.losses, tuples.losses)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"y": X[:5]}, ValueError, r"x has shape \(64, 1\), y \(5, 1\)"),
        ({"x": X * np.nan}, FloatingPointError, "find_lr: the loss is nan before the first step"),
        ({"loss": "mse"}, TypeError, "loss must be an object such as"),
        ({"optimizer": "sgd"}, TypeError, "optimizer must be an object such as"),
        ({"optimizer": fc.LBFGS()}, TypeError, "finds the size of its steps by itself"),
        ({"seed": "a"}, TypeError, "find_lr: seed must be an int"),
    ],
)
def test_bad_input(change, error, message):
    net = fc.MLP([1, 2, 1], seed=0)
    with pytest.raises(error, match=message):
        net.find_lr(**({"x": X, "y": X, "loss": fc.MSELoss(), "optimizer": fc.SGD()} | change))
