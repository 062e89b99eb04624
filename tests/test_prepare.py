"""x, y and weights are converted and checked once, whatever takes them: `prepare` is the one place."""

import ast
import inspect
from collections import Counter

import numpy as np
import pandas as pd
import pytest

import fastfc as fc
from fastfc import training, validation
from fastfc.data import columns, streams
from fastfc.losses import base, classification
from fastfc.nn import layer as layer_module
from fastfc.sklearn import MLPRegressor

RNG = np.random.default_rng(0)
X, Y, CLASSES = RNG.standard_normal((12, 3)), RNG.standard_normal((12, 2)), RNG.integers(2, size=12)
WEIGHTS = np.arange(1, 13)


class Counts(Counter):
    """How often things of these kinds are converted and checked, and how many rows of targets."""

    def watch(self, monkeypatch, owner, name, what, rows=lambda *args: 1):
        function = inspect.getattr_static(owner, name)

        def counted(*args, **kwargs):
            self[what] += rows(*args)
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)


@pytest.fixture
def counts(monkeypatch):
    result = Counts()
    for kind in (base.Loss, classification.ClassLoss):
        result.watch(monkeypatch, kind, "as_target", "targets")
    for kind in (fc.MSELoss, fc.CrossEntropyLoss):
        result.watch(monkeypatch, kind, "check_targets", "values")
    result.watch(monkeypatch, layer_module.Layer, "join", "x")
    result.watch(monkeypatch, layer_module.Layer, "_check_rows", "widths")
    result.watch(monkeypatch, columns.Columns, "check", "names")
    for name in ("prepare", "as_weights"):
        result.watch(monkeypatch, training.samples, name, name)
    for module in (training.evaluation, training.step, training.lr_finder, training.streaming, training.gradcheck):
        result.watch(monkeypatch, module, "prepare", "prepare")
    return result


def optimizer():
    return fc.SGD(0.01)


def net(out=2):
    return fc.Sequential([fc.Linear(3, 4, seed=0), fc.ReLU(), fc.Linear(4, out, seed=1)])


MSE, CE = fc.MSELoss(), fc.CrossEntropyLoss()
VALIDATION = (X[:5], Y[:5])
LISTS = X.tolist(), Y.tolist()
FRAME = pd.DataFrame(X, columns=list("abc"))
ONE = {"targets": 1, "values": 1, "x": 1, "widths": 1, "prepare": 1, "as_weights": 1, "names": 1}
CASES = {
    "fit": (lambda: net().fit(X, Y, loss=MSE, optimizer=optimizer(), epochs=3), ONE),
    "fit of lists": (lambda: net().fit(*LISTS, loss=MSE, optimizer=optimizer(), epochs=3), ONE),
    "fit of a frame": (lambda: net().fit(FRAME, Y, loss=MSE, optimizer=optimizer(), epochs=3), ONE),
    "fit with metrics": (lambda: net().fit(X, Y, loss=MSE, optimizer=optimizer(), epochs=3, metrics=["mae"]), ONE),
    "fit of classes": (lambda: net().fit(X, CLASSES, loss=CE, optimizer=optimizer(), epochs=3), ONE),
    "fit with weights": (
        lambda: net().fit(X, CLASSES, loss=CE, optimizer=optimizer(), sample_weight=WEIGHTS, epochs=2),
        ONE,
    ),
    "fit with a split": (lambda: net().fit(X, Y, loss=MSE, optimizer=optimizer(), validation_split=0.25), ONE),
    "fit with validation": (
        lambda: net().fit(X, Y, loss=MSE, optimizer=optimizer(), epochs=3, validation_data=VALIDATION),
        {what: 2 for what in ONE} | {"widths": 1},
    ),
    "fit of batches": (
        lambda: net().fit([(X[i : i + 4], Y[i : i + 4]) for i in (0, 4, 8)], loss=MSE, optimizer=optimizer()),
        {what: 3 for what in ONE} | {"widths": 1},
    ),
    "fit of batches twice": (
        lambda: net().fit([(X[:4], Y[:4]), (X[4:], Y[4:])], loss=MSE, optimizer=optimizer(), epochs=2),
        {what: 4 for what in ONE} | {"widths": 1, "names": 4},
    ),
    "evaluate": (lambda: net().evaluate(X, Y, MSE), ONE),
    "evaluate with metrics": (lambda: net().evaluate(X, Y, MSE, metrics=["mae", "r2"]), ONE),
    "evaluate batches": (
        lambda: net().evaluate([(X[:4], Y[:4]), (X[4:], Y[4:])], loss=MSE),
        {what: 2 for what in ONE} | {"widths": 1},
    ),
    # the kernel checks the values of a step by itself, and arrays have no names
    "train_step": (lambda: net().train_step(X, Y, MSE, optimizer()), ONE | {"values": 0, "names": 0}),
    "train_step of lists": (lambda: net().train_step(*LISTS, MSE, optimizer()), ONE | {"values": 0}),
    "find_lr": (lambda: net().find_lr(X, Y, MSE, optimizer(), steps=5, batch_size=4, seed=0), ONE),
    "check_gradients": (lambda: fc.check_gradients(net(), X, Y, MSE), None),
}


@pytest.mark.parametrize("case", CASES)
def test_conversions_and_checks_are_counted(case, counts):
    """Targets went through the loss once to be converted and again at each step of find_lr, evaluation of a gradient
    and first batch; the width of x was looked at in five places."""
    run, expected = CASES[case]
    run()
    if expected is None:  # forward converts x in each evaluation, which costs nothing
        assert (counts["targets"], counts["values"], counts["prepare"]) == (1, 1, 1)
        return
    assert {what: counts[what] for what in expected} == expected


def test_partial_fit_converts_each_batch_once(counts):
    estimator = MLPRegressor(hidden_layer_sizes=(4,), batch_size=4, random_state=0)
    estimator.partial_fit(X, Y)
    assert counts["targets"] <= 3 and counts["values"] == 0


def test_readers_know_no_network():
    """Readers of streams called `network._join` and `network._output`, of which they knew the names of columns too."""
    for module in (streams, columns):
        tree = ast.parse(inspect.getsource(module))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        assert not names & {"network", "net", "layer"}, module.__name__


def test_a_batch_that_is_read_to_check_it_is_the_first_of_the_epoch():
    read = []

    def batches():
        for i in (0, 4, 8):
            read.append(i)
            yield X[i : i + 4], Y[i : i + 4]

    history = net().fit(batches(), loss=MSE, optimizer=optimizer())
    assert read == [0, 4, 8] and history["loss"].size == 1


def test_as_real_gives_arrays_back():
    """What is an array already is not copied, so that converting once is converting at most once."""
    assert validation.as_real(X, "owner", "x") is X
