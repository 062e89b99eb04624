import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastfc as fc
from fastfc.metrics import BY_NAME, DIRECTIONS, direction

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


@pytest.mark.parametrize("mode, sign", [("min", 1), ("max", -1)])
@pytest.mark.parametrize(
    "keep, patience, epochs, best", [("first", 2, 4, 2), ("last", 2, 4, 4), ("first", None, 7, 5), ("last", None, 7, 6)]
)
def test_equal_epochs(keep, patience, epochs, best, mode, sign):
    """Of equal ones the first or the last is kept; none of them is an improvement; patience=None never stops."""
    metric, seen, net = values_of([sign * value for value in (3, 1, 2, 1, 0, 0, 4)]), [], fc.MLP([3, 4, 1], seed=0)
    metric.__name__ = "error"
    stopping = fc.EarlyStopping("error", patience=patience, mode=mode, keep=keep)
    look = lambda run: seen.append(run.network.params.copy())
    assert len(fit(net, metrics=[metric], callbacks=[look, stopping], epochs=7)) == epochs
    assert (stopping.best_epoch, stopping.best) == (best, 0 if epochs == 7 else sign)
    assert_array_equal(net.params, seen[best - 1])


def test_early_stopping_waits_for_a_column_that_there_is():
    net = fc.MLP([3, 4, 1], seed=0)
    before = net.params.copy()
    with pytest.raises(ValueError, match=r"monitor='val_loss' is none of loss; give fit validation_data"):
        fit(net, callbacks=[fc.EarlyStopping()])
    assert_array_equal(net.params, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 0}, "patience must be at least 1"),
        ({"min_delta": -1}, "min_delta"),
        ({"mode": "best"}, "mode"),
        ({"keep": "both"}, "keep"),
    ],
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
    stopping, metric = fc.EarlyStopping("error", patience=2, mode="min"), values_of([np.nan] * 9)
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


LESS = {"loss", "mae", "rmse"}
COLUMNS = ["loss", *BY_NAME, *(fc.TopK(k).name for k in (1, 5, 12))]


def test_every_metric_has_its_direction():
    assert set(DIRECTIONS) == {"loss", *BY_NAME}
    objects = [fc.Accuracy(), fc.Accuracy(0.5), *map(fc.TopK, (1, 5, 12)), *map(fc.F1, ("binary", "macro", "micro"))]
    for name in [*COLUMNS, *(metric.name for metric in objects)]:
        for prefix in ("", "val_"):
            assert direction(prefix + name) == ("min" if name in LESS else "max"), name


@pytest.mark.parametrize("prefix", ["", "val_"])
@pytest.mark.parametrize("name", COLUMNS[1:])
def test_the_direction_of_every_known_column(name, prefix):
    """The direction was guessed from the end of the name, and all but …loss, …mae, …rmse was maximised."""
    rising, monitor, less = values_of([1, 2, 3, 4, 5]), prefix + name, name in LESS
    rising.__name__ = name
    stopping = fc.EarlyStopping(monitor, patience=1)
    data = {"validation_data": (X, Y)} if prefix else {}
    history = fit(metrics=[rising], callbacks=[stopping], epochs=4, **data)
    assert (stopping.best, len(history)) == ((1, 2) if less else (4, 4))
    optimizer = fc.SGD(1.0, schedule=fc.ReduceLROnPlateau(0.5, patience=1, monitor=monitor))
    rising = values_of([1, 2, 3, 4, 5])
    rising.__name__ = name
    fit(metrics=[rising], optimizer=optimizer, epochs=4, net=fc.MLP([3, 1], init="zeros"), **data)
    assert optimizer.lr == (0.5 if less else 1.0)


UNKNOWN = ["mse", "mean_squared_error", "error", "brier", "my_loss", "log_loss", "hinge_loss", "pinball_rmse", "score"]


@pytest.mark.parametrize("watcher", ["stopping", "plateau"])
@pytest.mark.parametrize("prefix", ["", "val_"])
@pytest.mark.parametrize("name", UNKNOWN)
def test_the_direction_of_a_metric_of_your_own_is_asked_for(name, prefix, watcher):
    """`val_mse` was maximised without a word: the worst weights were kept."""

    def options(mode):
        metric = values_of([1, 2, 3, 4, 5])
        metric.__name__ = name
        given = {"metrics": [metric], "epochs": 4} | ({"validation_data": (X, Y)} if prefix else {})
        if watcher == "stopping":
            return given | {"callbacks": [fc.EarlyStopping(prefix + name, patience=1, mode=mode)]}
        plateau = fc.ReduceLROnPlateau(0.5, patience=1, monitor=prefix + name, mode=mode)
        return given | {"optimizer": fc.SGD(1.0, schedule=plateau)}

    net = fc.MLP([3, 1], init="zeros")
    given = options(None)
    with pytest.raises(ValueError, match=rf"less or more of '{prefix}{name}' is better .*mode='min' or mode='max'"):
        fit(net, **given)
    assert not net.params.any() and len(net.history) == 0
    for mode, better in (("min", 2), ("max", 4)):
        given = options(mode)
        history = fit(fc.MLP([3, 1], init="zeros"), **given)
        if watcher == "stopping":
            assert len(history) == better
        else:
            assert given["optimizer"].lr == (0.5 if mode == "min" else 1.0)


def test_the_plateau_of_a_column_that_there_is_not():
    with pytest.raises(ValueError, match=r"ReduceLROnPlateau: monitor='val_mae' is none of loss; .*metrics for it"):
        fit(optimizer=fc.SGD(0.1, schedule=fc.ReduceLROnPlateau(monitor="val_mae")))
    optimizer = fc.SGD(1.0, schedule=fc.ReduceLROnPlateau(0.5, 0, mode="max"))
    for score in (1, 2, 3, 2):
        optimizer.epoch_end(score)
    assert optimizer.lr == 0.5


def test_a_column_that_is_nearly_there():
    with pytest.raises(ValueError, match=r"is none of loss, val_loss, val_mae; .*did you mean 'val_mae'"):
        fit(validation_data=(X, Y), metrics=["mae"], callbacks=[fc.EarlyStopping("val_mea")])
