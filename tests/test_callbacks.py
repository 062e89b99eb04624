import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastfc as fc

X = np.random.default_rng(0).standard_normal((25, 3))
Y = X @ [[1.0], [2.0], [3.0]]


def fit(net=None, **options):
    net = net or fc.MLP([3, 4, 1], seed=0)
    defaults = {"loss": fc.MSELoss(), "optimizer": fc.SGD(0.05), "epochs": 5, "seed": 0}
    return net.fit(X, Y, **(defaults | options))


class Log(fc.Callback):
    def __init__(self):
        self.calls = []

    def on_start(self, run):
        self.calls.append(("start", run.epochs, len(run.history)))

    def on_epoch(self, run):
        self.calls.append(("epoch", run.optimizer.lr, len(run.history)))

    def on_end(self, run):
        self.calls.append(("end", run.stopped, len(run.history)))


def test_start_epochs_end():
    log = Log()
    fit(callbacks=[log], epochs=2)
    assert log.calls == [("start", 2, 0), ("epoch", 0.05, 1), ("epoch", 0.05, 2), ("end", False, 2)]


def test_functions_change_lr_and_stop():
    def halve(run):
        run.optimizer.lr /= 2
        if len(run.history) == 3:
            run.stop()

    log = Log()
    history = fit(callbacks=[halve, log])
    assert history["lr"].tolist() == [0.05, 0.025, 0.0125]
    assert log.calls[-1] == ("end", True, 3)


def test_the_end_comes_after_an_exception_too():
    def fail(run):
        raise RuntimeError("mine")

    log = Log()
    with pytest.raises(RuntimeError, match="mine"):
        fit(callbacks=[log, fail])
    assert log.calls[-1] == ("end", False, 1)


@pytest.mark.parametrize("bad", [3, "stop", fc.EarlyStopping])
def test_what_is_no_callback(bad):
    with pytest.raises(TypeError, match="a callback is an object such as EarlyStopping"):
        fit(callbacks=[bad])


def values_of(values):
    """A metric that takes these values one after another."""
    values = iter(values)
    return lambda y_true, y_pred: next(values)


def test_early_stopping_restores_the_best_weights():
    net, seen = fc.MLP([3, 4, 1], seed=0), []
    metric = values_of([3, 1, 2, 1, 0.5])
    metric.__name__ = "error"
    stopping = fc.EarlyStopping("val_error", patience=2, mode="min")
    keep = lambda run: seen.append(run.network.params.copy())
    history = fit(net, validation_data=(X, Y), metrics=[metric], callbacks=[stopping, keep], epochs=9)
    assert history["val_error"].tolist() == [3, 1, 2, 1]
    assert (stopping.best, stopping.best_epoch) == (1, 2)
    assert_array_equal(net.params, seen[1])


def test_early_stopping_for_more_and_by_how_much():
    metric = values_of([0.5, 0.6, 0.64, 0.66, 0.9])
    metric.__name__ = "accuracy"
    stopping = fc.EarlyStopping("accuracy", patience=1, min_delta=0.05)
    assert len(fit(metrics=[metric], callbacks=[stopping])) == 3
    assert (stopping.best, stopping.best_epoch) == (0.6, 2)


def test_early_stopping_waits_for_a_column_that_there_is():
    net = fc.MLP([3, 4, 1], seed=0)
    before = net.params.copy()
    with pytest.raises(ValueError, match=r"monitor='val_loss' is none of loss; give fit validation_data"):
        fit(net, callbacks=[fc.EarlyStopping()])
    assert_array_equal(net.params, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"patience": 0}, "patience must be at least 1"), ({"min_delta": -1}, "min_delta"), ({"mode": "best"}, "mode")],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        fc.EarlyStopping(**options)


def test_early_stopping_after_a_first_value_that_is_nan():
    stopping = fc.EarlyStopping("error", patience=2, mode="min")
    assert np.isnan(stopping.best)
    metric = values_of([np.nan, 3, np.nan, 2, 4, 5])
    metric.__name__ = "error"
    assert len(fit(metrics=[metric], callbacks=[stopping], epochs=9)) == 6
    assert (stopping.best, stopping.best_epoch) == (2, 4)


def test_early_stopping_when_all_values_are_nan():
    stopping, metric = fc.EarlyStopping("error", patience=2), values_of([np.nan] * 9)
    metric.__name__ = "error"
    assert len(fit(metrics=[metric], callbacks=[stopping], epochs=9)) == 3


def test_each_end_comes_even_if_one_fails():
    class Fails(fc.Callback):
        def on_end(self, run):
            raise RuntimeError("mine")

    log = Log()
    with pytest.raises(RuntimeError, match="mine"):
        fit(callbacks=[Fails(), log], epochs=1)
    assert log.calls[-1] == ("end", False, 1)


def test_a_callback_that_does_not_fit_leaves_the_history():
    net = fc.MLP([3, 4, 1], seed=0)
    history = fit(net)
    with pytest.raises(ValueError, match="EarlyStopping: monitor='val_loss' is none of loss"):
        fit(net, callbacks=[fc.EarlyStopping()])
    assert net.history is history


def test_what_no_early_stopping_takes():
    with pytest.raises(TypeError, match="EarlyStopping: monitor must be a column of the history, got None"):
        fc.EarlyStopping(None)
    with pytest.raises(TypeError, match=r"fit: callbacks must be a sequence such as \[EarlyStopping\(\)\]"):
        fit(callbacks=fc.EarlyStopping("loss"))
