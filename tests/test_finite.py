"""Infinity and NaN: in samples for training, validation and the search of a rate; and of networks that give them."""

import warnings

import numpy as np
import pytest
from numba import njit
from numpy.testing import assert_array_equal

import fastfc as fc
from fastfc.data import streams
from fastfc.kernels.ops.activation_rules import CUSTOM

X = np.random.default_rng(0).standard_normal((24, 3))
Y = X @ [[1.0], [2.0], [3.0]] + 1
MSE = fc.MSELoss()
ROW = 13


def net_for(activation="relu"):
    return fc.MLP([3, 4, 1], activation, seed=0, dtype=np.float64)


def spoiled(what, value):
    x, y = X.copy(), Y.copy()
    {"x": x, "y": y}[what][ROW, 0] = value
    return x, y


def memmaps(tmp_path, *arrays):
    for i, array in enumerate(arrays):
        np.save(tmp_path / f"{i}.npy", array)
    return tuple(np.load(tmp_path / f"{i}.npy", mmap_mode="r") for i in range(len(arrays)))


def batches(x, y):
    return lambda: iter([(x[i : i + 8], y[i : i + 8]) for i in range(0, len(x), 8)])


# how data are given, and how an error names the row
FORMS = {
    "arrays": (lambda tmp_path, x, y: (x, y), f"row {ROW};"),
    "lists": (lambda tmp_path, x, y: (x.tolist(), y.tolist()), f"row {ROW};"),
    "weighted": (lambda tmp_path, x, y: (x, y, np.ones(len(x))), f"row {ROW};"),
    "no weight": (lambda tmp_path, x, y: (x, y, (np.arange(len(x)) != ROW) * 1.0), f"row {ROW};"),
    "on disk": (memmaps, f"row {ROW};"),
    "batches": (lambda tmp_path, x, y: batches(x, y), f"row {ROW % 8} of batch {ROW // 8};"),
}
BAD = pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
WHAT = pytest.mark.parametrize("what", ["x", "y"])
FORM = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Arrays on disk are read in blocks of some rows."""
    monkeypatch.setattr(streams, "IN_MEMORY", 0)
    monkeypatch.setattr(streams, "BLOCK", 200)


@BAD
@WHAT
@FORM
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "softmax"])
def test_samples_for_validation_are_refused(activation, form, what, value, tmp_path):
    """The loss was NaN, EarlyStopping gave back the first epoch, ReduceLROnPlateau made the rate 1e-8."""
    give, row = FORMS[form]
    net, optimizer = net_for(activation), fc.Adam(0.01, schedule=fc.ReduceLROnPlateau(patience=0))
    net.fit(X, Y, loss=MSE, optimizer=optimizer, seed=0)
    before, epochs = [a.copy() for a in (net.params, optimizer.state, optimizer.count)], optimizer.epochs
    with pytest.raises(ValueError, match=f"^fit: {what} of validation_data is not finite in {row} remove"):
        net.fit(
            X, Y, loss=MSE, optimizer=optimizer, epochs=5, seed=0, callbacks=[fc.EarlyStopping()],
            validation_data=give(tmp_path, *spoiled(what, value)),
        )  # fmt: skip
    for array, old in zip((net.params, optimizer.state, optimizer.count), before, strict=True):
        assert_array_equal(array, old)
    assert (optimizer.lr, optimizer.epochs) == (0.01, epochs)


@BAD
@WHAT
def test_the_row_is_that_of_the_whole_where_a_part_is_for_validation(what, value, tmp_path):
    x, y = spoiled(what, value)
    for data in ((x, y), memmaps(tmp_path, x, y)):
        with pytest.raises(ValueError, match=f"^fit: {what} is not finite in row {ROW};"):
            net_for("tanh").fit(*data, loss=MSE, optimizer=fc.SGD(0.01), validation_split=0.5)


@BAD
@WHAT
@FORM
def test_evaluate_refuses_them_too(form, what, value, tmp_path):
    give, row = FORMS[form]
    given = give(tmp_path, *spoiled(what, value))
    data, weights = (given[:2], given[2:]) if isinstance(given, tuple) else ((given,), ())
    options = {"sample_weight": weights[0]} if weights else {}
    for metrics in ([], ["mae"]):
        with pytest.raises(ValueError, match=f"^evaluate: {what} is not finite in {row}"):
            net_for("relu").evaluate(*data, loss=MSE, metrics=metrics, **options)
    if what == "x" and np.isinf(value):  # nothing is wrong then
        assert np.isfinite(net_for("tanh").evaluate(*data, loss=MSE, **options))


@BAD
@WHAT
@FORM
def test_samples_for_training_are_refused(form, what, value, tmp_path):
    """With metrics, which are tried before the first step, the error told of validation data that there were not."""
    give, row = FORMS[form]
    given = give(tmp_path, *spoiled(what, value))
    data, weights = (given[:2], given[2:]) if isinstance(given, tuple) else ((given,), ())
    options = {"sample_weight": weights[0]} if weights else {}
    net = net_for("tanh")
    before = net.params.copy()
    for metrics in ([], ["mae"]):
        with pytest.raises(ValueError, match=f"^fit: {what} is not finite in {row}"):
            net.fit(*data, loss=MSE, optimizer=fc.SGD(0.01), epochs=3, metrics=metrics, **options)
        assert_array_equal(net.params, before)


@BAD
@pytest.mark.parametrize("where", ["training", "validation"])
def test_weights_are_refused(where, value):
    weights = np.ones(24)
    weights[ROW] = value
    options = {"sample_weight": weights} if where == "training" else {"validation_data": (X, Y, weights)}
    with pytest.raises(ValueError, match="sample_weight must be finite"):
        net_for().fit(X, Y, loss=MSE, optimizer=fc.SGD(0.01), **options)


@njit
def known(p, t):
    return 0.0 if np.isnan(t) else (p - t) ** 2


@njit
def slope(p, t):
    return 0.0 if np.isnan(t) else 2 * (p - t)


def test_a_loss_of_the_users_own_may_have_a_use_for_them(tmp_path):
    """It trains with targets that are missing, so it validates with them."""
    loss, data = fc.CustomLoss(known, slope), spoiled("y", np.nan)
    for form in ("arrays", "on disk", "batches"):
        validation = FORMS[form][0](tmp_path, *data)
        history = net_for().fit(*data, loss=loss, optimizer=fc.SGD(0.01), epochs=2, seed=0, validation_data=validation)
        assert np.isfinite(history.val_loss).all() and len(history) == 2
    with pytest.raises(ValueError, match=f"fit: x of validation_data is not finite in row {ROW}"):
        net_for().fit(*data, loss=loss, optimizer=fc.SGD(0.01), validation_data=spoiled("x", np.nan))


def test_a_layer_of_the_users_own_may_have_a_use_for_them():
    layer = fc.Elementwise(njit(lambda x: 0.0 if np.isnan(x) else x), njit(lambda x: 1.0))
    data = spoiled("x", np.nan)
    validate = lambda net, x: net.fit(x, Y, loss=MSE, optimizer=fc.SGD(0.01), seed=0, validation_data=(x, Y))
    net = fc.Sequential([layer, fc.Linear(3, 1, seed=0, dtype=np.float64)])
    assert np.isfinite(validate(net, data[0]).val_loss).all()
    wide = np.zeros((24, CUSTOM))  # a number that is not a layer's code
    net = fc.MLP([CUSTOM, 2, 1], "tanh", seed=0, dtype=np.float64)
    wide[ROW] = np.inf
    with pytest.raises(ValueError, match=f"x of validation_data is not finite in row {ROW}"):
        net.fit(np.zeros_like(wide), Y, loss=MSE, optimizer=fc.SGD(0.01), seed=0, validation_data=(wide, Y))


def values_of(values):
    values = iter(values)
    metric = lambda y, prediction: next(values)
    metric.__name__ = "worth"
    return metric


INF, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    ("values", "mode", "best"),
    [
        ([NAN, 3, NAN, 2, NAN, 4], "min", 4),
        ([NAN, 3, NAN, 2, NAN, 4], "max", 6),
        ([5, NAN, NAN, NAN, NAN, NAN], "min", 1),
        ([NAN, NAN, NAN, NAN, NAN, 7], "max", 6),
        ([INF, NAN, 4, NAN, INF, 5], "min", 3),
        ([-INF, NAN, -4, NAN, -INF, -5], "max", 3),
        ([INF, NAN, INF, NAN, INF, NAN], "min", 0),
        ([NAN] * 6, "min", 0),
        ([NAN] * 6, "max", 0),
        ([1, INF, 3, NAN, 4, 5], "max", 2),
    ],
)
def test_early_stopping_never_takes_nan_for_the_best(values, mode, best):
    """Where all were NaN, the weights of the first epoch came back."""
    net, kept = net_for(), []
    stopping = fc.EarlyStopping("worth", patience=6, mode=mode)
    net.fit(
        X, Y, loss=MSE, optimizer=fc.SGD(0.01), epochs=6, seed=0, metrics=[values_of(values)],
        callbacks=[stopping, lambda run: kept.append(run.network.params.copy())],
    )  # fmt: skip
    assert stopping.best_epoch == best
    assert stopping.best == values[best - 1] if best else np.isnan(stopping.best)
    assert_array_equal(net.params, kept[best - 1])  # of the last one if there is none


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_plateau_never_takes_nan_for_the_best(mode):
    """A loss that is NaN counts as an epoch without an improvement, as in PyTorch."""
    torch = pytest.importorskip("torch")
    ours = fc.SGD(1.0, schedule=fc.ReduceLROnPlateau(factor=0.5, patience=1, mode=mode))
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, factor=0.5, patience=1, mode=mode)
    for value in (NAN, 3.0, NAN, 2.0, INF, 2.5, -INF, NAN, NAN, 4.0):
        ours.epoch_end(value)
        plateau.step(value)
        assert ours.lr == theirs.param_groups[0]["lr"]


def test_a_network_that_gives_nan_for_finite_samples_is_no_fault_of_the_data():
    """Samples for validation so far out that the loss overflows: a column of infinities, and no error."""
    net, far = net_for(), (X * 1e200, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = net.fit(X, Y, loss=MSE, optimizer=fc.SGD(0.01), epochs=2, seed=0, validation_data=far)
    assert np.isinf(history.val_loss).all()
    assert np.isinf(net.evaluate(*far, MSE))


@BAD
@WHAT
@pytest.mark.parametrize("row", [0, 5, 23])
def test_the_search_of_a_rate_names_them(row, what, value):
    """Met in the second step, they made the suggestion 1e-07."""
    x, y = X.copy(), Y.copy()
    {"x": x, "y": y}[what][row, 0] = value
    for batch_size in (2, 8, 24):
        with pytest.raises(ValueError, match=f"^find_lr: (the loss is .* step.*: )?{what} is not finite in row {row};"):
            net_for().find_lr(x, y, MSE, fc.SGD(), batch_size=batch_size, seed=0)
    with pytest.raises(FloatingPointError, match=f"the loss is .* before the first step: {what} is not finite in row"):
        net_for().find_lr(x, y, MSE, fc.SGD(), seed=0)  # as it was before this named the row


@pytest.mark.parametrize("highest", [1e3, 1e300])
def test_the_search_of_a_rate_ends_where_the_network_diverges(highest):
    """Finite samples: what was seen before is what counts."""
    found = net_for().find_lr(X, Y, MSE, fc.SGD(), highest=highest, steps=50, seed=0)
    assert np.isfinite(found.losses).all() and 1 < len(found.losses) < 50
    assert found.rates[0] / 10 < found.suggestion < found.rates[-1]


def test_the_search_of_a_rate_ends_where_the_loss_is_not_defined():
    """Rates that make probabilities of more than 1, or negative variances, were an error."""
    x, y = np.full((24, 1), 0.5), np.ones((24, 1))
    net = fc.Sequential([fc.Linear(1, 1, init="zeros", bias_init=fc.Constant(0.5), dtype=np.float64)])
    found = net.find_lr(x, y, fc.BCELoss(), fc.SGD(), seed=0)
    assert np.isfinite(found.losses).all() and found.rates[0] / 10 < found.suggestion < found.rates[-1] < 10
    net.params[:] = 1
    with pytest.raises(ValueError, match="a prediction is out of range"):
        net.find_lr(x, y, fc.BCELoss(), fc.SGD(), seed=0)


def test_the_search_of_a_rate_needs_a_network_that_gives_numbers():
    with pytest.raises(FloatingPointError, match="before the first step, though x and y are finite"):
        net_for().find_lr(X * 1e200, Y, MSE, fc.SGD())
