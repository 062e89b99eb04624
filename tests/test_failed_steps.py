"""What a step or an epoch that fails half way leaves behind: nothing, whatever fails and wherever the data are."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastfc as fc
from fastfc.data import streams
from fastfc.kernels.runtime import status as statuses
from fastfc.training import epoch as training

RNG = np.random.default_rng(0)
X = RNG.standard_normal((24, 3))
Y = X @ [[1.0], [2.0], [3.0]] + 1
LABELS = (Y[:, 0] > 1).astype(np.int64)
MSE, BCE, CROSS_ENTROPY = fc.MSELoss(), fc.BCELoss(), fc.CrossEntropyLoss()


def net_for(dtype=np.float64):
    """With all that an epoch changes: parameters, running statistics and the counter of dropout's masks."""
    first, last = fc.Linear(3, 6, seed=0, dtype=dtype), fc.Linear(6, 1, seed=1, dtype=dtype)
    return fc.Sequential([first, fc.BatchNorm1d(6, dtype=dtype), fc.Tanh(), fc.Dropout(0.2, seed=2), last])


def everything(net, optimizer):
    """All that is to be as it was."""
    arrays = [array.copy() for array in (net.params, optimizer.state, optimizer.count, net._counters)]
    rest = optimizer.epochs, optimizer.lr, optimizer.current_lr, optimizer._plateau
    return [*arrays, *rest, optimizer._generator and optimizer._generator.bit_generator.state]


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        if isinstance(one, np.ndarray):
            assert_array_equal(one, other)
        else:
            assert one == other


def arrays(tmp_path):
    return X, Y


def batches(tmp_path):
    return ([(X[i : i + 8], Y[i : i + 8]) for i in range(0, 24, 8)],)


def function(tmp_path):
    return (lambda: iter(batches(tmp_path)[0]),)


def blocks(tmp_path):
    for name, array in (("x", X), ("y", Y)):
        np.save(tmp_path / f"{name}.npy", array)
    return tuple(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy")


DATA = {"arrays": arrays, "list": batches, "function": function, "memmap": blocks}


@pytest.fixture
def data(request, tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "IN_MEMORY", 0)
    monkeypatch.setattr(streams, "BLOCK", 200)
    monkeypatch.setattr(streams, "WINDOW", 600)
    return DATA[request.param](tmp_path)


def fit(net, data, optimizer, epochs, **options):
    defaults = {"loss": MSE, "batch_size": 8, "seed": 0, "validation_data": (X[:5], Y[:5])}
    return net.fit(*data, optimizer=optimizer, epochs=epochs, **(defaults | options))


class Failing:
    """The kernel of an epoch, that fails once in an epoch, when it has done its work."""

    def __init__(self, kernel, error, optimizer, epoch):
        self.kernel, self.error, self.optimizer, self.epoch = kernel, error, optimizer, epoch

    def call(self, *args):
        value = self.kernel.call(*args)
        if self.optimizer.epochs == self.epoch and self.error is not None:
            error, self.error = self.error, None
            raise error
        return value


def made(make):
    """An optimizer that knows how many steps an epoch has, where `fit` cannot know."""
    optimizer = make()
    optimizer.steps_per_epoch = 3
    return optimizer


def assert_undone(data, make, error, epoch, monkeypatch, **options):
    """Fail in an epoch, see that it is undone, and go on as if it had not been."""
    net, optimizer, twin, other = net_for(), made(make), net_for(), made(make)
    if epoch:
        fit(twin, data, other, epoch, **options)
    monkeypatch.setattr(
        training.step_kernels, "train_steps", Failing(training.step_kernels.train_steps, error, optimizer, epoch)
    )
    with pytest.raises(type(error), match=str(error)):
        fit(net, data, optimizer, 3, **options)
    assert len(net.history) == epoch
    if epoch:
        assert_same(everything(net, optimizer), everything(twin, other))
    else:
        assert_array_equal(net.params, twin.params)
        assert not optimizer.state.any() and not optimizer.count.any() and net._counters[1] == 0
    fit(net, data, optimizer, 2, **options)
    fit(twin, data, other, 2, **options)
    assert_same(everything(net, optimizer), everything(twin, other))


ERRORS = [
    meaning.error(meaning.text.partition(";")[0].partition("(")[0].partition("[")[0])
    for meaning in [*statuses.STATUSES.values(), statuses.UNKNOWN]
]


@pytest.mark.parametrize("data", DATA, indirect=True)
@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_an_epoch_that_any_status_ends_is_undone(data, error, monkeypatch):
    """Arrays kept the updates before the failure, made them a second time, and lost the order of the samples."""
    make = lambda: fc.SGD(0.05, momentum=0.9)
    assert_undone(data, make, error, 1, monkeypatch)


OPTIMIZERS = {
    "Adam": lambda: fc.Adam(0.01, average=0.9),
    "NAdam": lambda: fc.NAdam(0.01),
    "schedule": lambda: fc.SGD(0.1, schedule=fc.StepLR(2, gamma=0.5)),
    "schedule of epochs": lambda: fc.SGD(0.1, schedule=fc.StepLR(1, gamma=0.5, unit="epoch")),
    "plateau": lambda: fc.SGD(0.1, schedule=fc.ReduceLROnPlateau(patience=0, threshold=10.0)),
    "no momentum": lambda: fc.SGD(0.1),
}


@pytest.mark.parametrize("data", DATA, indirect=True)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("epoch", [0, 2])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_an_epoch_is_undone_with_any_optimizer(data, make, epoch, accumulate, monkeypatch):
    assert_undone(data, make, RuntimeError("mine"), epoch, monkeypatch, accumulate=accumulate)


@pytest.mark.parametrize("make", [lambda: fc.LBFGS(max_iter=3), lambda: fc.Adam(0.01)])
def test_a_generator_of_orders_is_set_back(make, monkeypatch):
    net, rng = net_for(), np.random.default_rng(1)
    optimizer = make()
    fit(net, (X, Y), optimizer, 1, seed=rng)
    before, state = everything(net, optimizer), rng.bit_generator.state
    monkeypatch.setattr(
        training.step_kernels, "train_steps", Failing(training.step_kernels.train_steps, OSError("mine"), optimizer, 1)
    )
    with pytest.raises(OSError, match="mine"):
        fit(net, (X, Y), optimizer, 1, seed=rng)
    assert_same(everything(net, optimizer), before)
    assert rng.bit_generator.state == state


def later(value, calls):
    """A function that raises after so many calls."""
    left = [calls]

    def call(*args):
        left[0] -= 1
        if left[0] < 0:
            left[0] = 10**9
            raise OSError("mine")
        return value

    return call


def batches_that_end(calls, bad=None):
    """A function of batches that, after so many epochs, gives one more batch and then something bad."""
    left = [calls]

    def epoch():
        left[0] -= 1
        for i, batch in enumerate(batches(None)[0]):
            if i == 1 and left[0] == -1:
                if bad is None:
                    raise OSError("mine")
                yield bad
            yield batch

    return epoch


WAYS = {
    "a metric": lambda: ({"metrics": [later(1.0, 1)]}, OSError("mine")),
    "the iterable": lambda: ({"x": batches_that_end(1)}, OSError("mine")),
    "the iterable for validation": lambda: ({"validation_data": batches_that_end(1)}, OSError("mine")),
    "a batch of another width": lambda: ({"x": batches_that_end(1, (X[:2, :2], Y[:2]))}, ValueError("batch 1: ")),
    "NaN in a batch": lambda: ({"x": batches_that_end(1, (X[:2] * np.nan, Y[:2]))}, ValueError("x is not finite")),
    "NaN in validation": lambda: (
        {"validation_data": batches_that_end(1, (X[:2] * np.nan, Y[:2]))},
        ValueError("fit: x of validation_data is not finite in row 0 of batch 1"),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_whatever_ends_an_epoch(way):
    failing, error = WAYS[way]()
    data = batches(None)
    make = lambda: fc.SGD(0.1, momentum=0.5, schedule=fc.ReduceLROnPlateau(patience=0, threshold=10.0))
    net, optimizer, twin, other = net_for(), make(), net_for(), make()
    fit(twin, data, other, 1)
    expected = everything(twin, other)
    data = (failing.pop("x"),) if "x" in failing else data
    with pytest.raises(type(error), match=str(error)):
        fit(net, data, optimizer, 3, **failing)
    assert len(net.history) == 1
    assert_same(everything(net, optimizer), expected)


def test_an_epoch_whose_callback_fails_is_over():
    net, optimizer, twin, other = net_for(), fc.Adam(0.01), net_for(), fc.Adam(0.01)
    with pytest.raises(OSError, match="mine"):
        fit(net, (X, Y), optimizer, 3, callbacks=[later(None, 1)])
    fit(twin, (X, Y), other, 2)
    assert len(net.history) == 2
    assert_same(everything(net, optimizer), everything(twin, other))


@pytest.mark.parametrize("data", DATA, indirect=True)
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_a_diverged_epoch_is_undone_with_its_order(data, action):
    net, optimizer, twin, other = net_for(), fc.SGD(0.05), net_for(), fc.SGD(0.05)
    fit(net, data, optimizer, 1), fit(twin, data, other, 1)
    optimizer.lr = 1e300
    with warnings.catch_warnings():
        warnings.simplefilter(action, fc.DivergenceWarning)
        try:
            fit(net, data, optimizer, 1)
        except fc.DivergenceWarning:
            assert action == "error"
    optimizer.lr = 0.05
    fit(net, data, optimizer, 2), fit(twin, data, other, 2)
    assert_same(everything(net, optimizer), everything(twin, other))


def outside():
    """A Linear whose third sample gives a probability of 5."""
    net = fc.Sequential([fc.Linear(1, 1, init="zeros", dtype=np.float64)])
    net[0].weight[:], net[0].bias[:] = 1, 0
    return net, np.array([[0.3], [0.6], [5.0]]), np.array([[0.0], [1.0], [1.0]]), BCE


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_a_prediction_out_of_range_ends_an_epoch(make, stream):
    """Two good updates were kept and made a second time, before the error of the third sample."""
    net, x, y, loss = outside()
    optimizer = made(make)
    net.train_step(x[:2], y[:2], loss, optimizer)
    before = everything(net, optimizer)[:4]
    data = ([(x[i : i + 1], y[i : i + 1]) for i in range(3)],) if stream else (x, y)
    for _ in range(2):
        with pytest.raises(ValueError, match="a prediction is out of range: BCELoss"):
            net.fit(*data, loss=loss, optimizer=optimizer, batch_size=1, shuffle=False, epochs=2)
        assert_same(everything(net, optimizer)[:4], before)
        assert optimizer.epochs == 0 and len(net.history) == 0


def computed_index():
    """A network that computes an index for an Embedding, which the second batch makes one of no row."""
    net = fc.Sequential([fc.Linear(1, 1, init="zeros", dtype=np.float64), fc.Embedding(3, 2, seed=0, dtype=np.float64)])
    net[0].weight[:] = 1
    return net, np.array([[0.0], [2.0], [3.0]]), np.ones((3, 2)), MSE


# what makes a step fail: a network, good x and y, what is wrong, and the text
STEPS = {
    "prediction": (outside, lambda x, y: (x, y), "a prediction is out of range"),
    "computed index": (computed_index, lambda x, y: (x, y), "computes for an Embedding is no row"),
    "probability": (
        lambda: (net_for(), X, np.clip(Y, 0, 1), fc.BCEWithLogitsLoss()),
        lambda x, y: (x, y - 1),
        "must lie in",
    ),
    "label": (
        lambda: (fc.MLP([3, 4, 2], seed=0, dtype=np.float64), X, LABELS, CROSS_ENTROPY),
        lambda x, y: (x, y + 1),
        "class indices must lie in",
    ),
    "one sample": (lambda: (net_for(), X, Y, MSE), lambda x, y: (x[:1], y[:1]), "at least two samples"),
}


@pytest.mark.parametrize("make", [*OPTIMIZERS.values(), fc.LBFGS], ids=[*OPTIMIZERS.keys(), "LBFGS"])
@pytest.mark.parametrize("way", ["short", "long"])
@pytest.mark.parametrize("case", STEPS)
def test_a_step_that_fails_changes_nothing_and_does_not_run_again(case, way, make, monkeypatch):
    build, spoil, message = STEPS[case]
    (net, x, y, loss), optimizer = build(), made(make)
    good = slice(0, 2) if len(x) == 3 else slice(None)
    net.train_step(x[good].copy(), y[good].copy(), loss, optimizer)
    net.train_step(x[good].copy(), y[good].copy(), loss, optimizer)
    if case == "prediction":
        net.params[:] = 1, 0
    before = everything(net, optimizer)
    bad_x, bad_y = spoil(x, y)
    if way == "short" and len(bad_x) != len(x[good]):
        bad_x, bad_y = bad_x[-2:], bad_y[-2:]
    if way == "long":
        bad_x, bad_y = bad_x.tolist(), bad_y.tolist()
    monkeypatch.setattr(training.step_kernels.train_step, "run", None)  # the slow way would call it
    with pytest.raises(ValueError, match=message):
        net.train_step(bad_x, bad_y, loss, optimizer)
    assert_same(everything(net, optimizer), before)


@pytest.mark.parametrize("make", [lambda: fc.LBFGS(lr=1.0), fc.LevenbergMarquardt])
def test_a_search_that_leaves_where_the_network_is_defined_comes_back(make):
    """A trial of a search that computes an index of no row was an error, after which count had moved."""
    x = fc.Input(1)
    h = fc.Linear(1, 1, init="zeros", dtype=np.float64)
    index = h(x)
    net = fc.Graph(
        x, fc.Linear(1, 2, seed=1, dtype=np.float64)(index) + fc.Embedding(3, 2, seed=0, dtype=np.float64)(index)
    )
    h.weight[:] = 1
    given, target, optimizer = np.array([[0.0], [1.0], [2.0]]), np.ones((3, 2)), make()
    first = net.train_step(given, target, MSE, optimizer)
    for _ in range(3):
        assert net.train_step(given, target, MSE, optimizer) <= first
    assert_array_equal(h.weight, 1)
