import gc
import io
import signal
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
import zarr
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc
from fastfc.data import streams
from fastfc.training import progress

RNG = np.random.default_rng(0)
X = RNG.standard_normal((1003, 5)).astype(np.float32)
Y = (X @ RNG.standard_normal((5, 1)) + 1).astype(np.float32)
LABELS = (Y[:, 0] > 1).astype(np.int64)
WEIGHTS = RNG.random(len(X)).astype(np.float32)
MSE, CROSS_ENTROPY = fc.MSELoss(), fc.CrossEntropyLoss()


@pytest.fixture
def small(monkeypatch):
    """Everything on disk is larger than memory: blocks of 25 rows or so, 10 of them at once."""
    monkeypatch.setattr(streams, "IN_MEMORY", 0)
    monkeypatch.setattr(streams, "BLOCK", 600)
    monkeypatch.setattr(streams, "WINDOW", 6000)


def memmap(tmp_path, array, name="a"):
    np.save(tmp_path / f"{name}.npy", array)
    return np.load(tmp_path / f"{name}.npy", mmap_mode="r")


def stored(array, chunks=100):
    return zarr.array(array, chunks=(chunks, *array.shape[1:]))


def net_for(n_out=1, **options):
    return fc.MLP([5, 8, n_out], activation="tanh", seed=0, **options)


def fit(net, *data, **options):
    defaults = {"loss": MSE, "optimizer": fc.SGD(0.05, momentum=0.9), "epochs": 3, "seed": 0}
    return net.fit(*data, **{**defaults, **options})


def batches(*arrays, size=32):
    return [tuple(a[i : i + size] for a in arrays) for i in range(0, len(arrays[0]), size)]


def alive():
    return [thread for thread in threading.enumerate() if thread.name == "fastfc reads ahead"]


def assert_all_threads_ended():
    gc.collect()
    end = time.monotonic() + 5
    while alive() and time.monotonic() < end:
        time.sleep(0.01)
    assert alive() == []


def assert_same_training(net, twin, history, other):
    assert_array_equal(net.params, twin.params)
    assert history.names() == other.names()
    for name in set(history.names()) - {"seconds"}:
        assert_allclose(history[name], other[name], rtol=1e-6, err_msg=name)


# ---------- arrays on disk


@pytest.mark.parametrize("kind", ["memmap", "zarr", "y only"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_in_order_blocks_train_as_arrays_do(kind, accumulate, small, tmp_path):
    if kind == "memmap":
        x, y, w = (memmap(tmp_path, a, name) for name, a in [("x", X), ("y", Y), ("w", WEIGHTS)])
    elif kind == "zarr":
        x, y, w = stored(X), stored(Y, 70), stored(WEIGHTS)
    else:
        x, y, w = X, memmap(tmp_path, Y), WEIGHTS
    net, twin, options = net_for(), net_for(), {"shuffle": False, "accumulate": accumulate, "metrics": ["mae"]}
    history = fit(net, x, y, sample_weight=w, validation_data=(x, y, w), **options)
    other = fit(twin, X, Y, sample_weight=WEIGHTS, validation_data=(X, Y, WEIGHTS), **options)
    assert_same_training(net, twin, history, other)
    assert_all_threads_ended()


def test_what_fits_into_memory_trains_as_arrays_do(tmp_path):
    for x, y in [(memmap(tmp_path, X, "x"), memmap(tmp_path, Y, "y")), (stored(X), stored(Y)), (X, stored(Y))]:
        net, twin = net_for(), net_for()
        assert_same_training(net, twin, fit(net, x, y), fit(twin, X, Y))
        assert_array_equal(net.predict(x), net.predict(X))
        assert net.evaluate(x, y, MSE) == net.evaluate(X, Y, MSE)


def visited(source, batch=32, accumulate=1, seed=0):
    """The first column of the samples of each part, in the order of training."""
    rng = None if seed is None else np.random.default_rng(seed)
    for part in source.parts(rng, batch, accumulate):
        x, n = part.samples[0], part.n
        order = np.arange(n) if part.order is None else part.order
        if part.rows is not None:
            assert_array_equal(part.rows[order], x[order, 0])
        assert len(order) == n
        yield x[order, 0]


@pytest.mark.parametrize("n", [1, 7, 32, 600, 1003])
@pytest.mark.parametrize("batch, accumulate", [(1, 1), (32, 1), (10, 3), (2000, 1)])
def test_an_epoch_visits_every_row_once_in_whole_updates(n, batch, accumulate, small):
    numbers = np.arange(n, dtype=np.float32)[:, None] * np.ones(5, np.float32)
    for x in (numbers, stored(numbers, 11)):
        source = streams.Blocks((x, np.zeros((n, 1), np.float32), None), "fit")
        for seed in (None, 0):
            parts = list(visited(source, batch, accumulate, seed))
            assert_array_equal(np.sort(np.concatenate(parts)), np.arange(n))
            assert all(len(part) % (batch * accumulate) == 0 for part in parts[:-1])


def test_the_order_is_random_across_the_whole_and_told_by_the_seed(small):
    numbers = np.arange(1003, dtype=np.float32)[:, None] * np.ones(5, np.float32)
    source = streams.Blocks((numbers, np.zeros((1003, 1), np.float32), None), "fit")
    first, again, other = (np.concatenate(list(visited(source, seed=seed))) for seed in (0, 0, 1))
    assert_array_equal(first, again)
    assert (first != other).any()
    # ten blocks at once are from everywhere: a window has rows of both halves, and neighbours are not neighbours
    window = first[:200]
    assert 0.2 < np.mean(window < 500) < 0.8
    assert np.mean(np.abs(np.diff(first)) == 1) < 0.1


@pytest.mark.parametrize("chunks", [7, 64, 2000])
def test_blocks_are_whole_chunks(chunks, small):
    source = streams.Blocks((stored(X, chunks), stored(Y, chunks), None), "fit")
    assert source.block % chunks == 0


def test_shuffled_blocks_learn_and_the_seed_decides(small, tmp_path):
    x, y, losses, nets = memmap(tmp_path, X, "x"), stored(Y), [], []
    for seed in (1, 1, 2):
        nets.append(net_for())
        losses.append(fit(nets[-1], x, y, epochs=4, seed=seed).loss)
    assert_array_equal(nets[0].params, nets[1].params)
    assert (nets[0].params != nets[2].params).any()
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0] / 5


def test_a_second_fit_goes_on_where_the_first_stopped(small, tmp_path):
    x, y = memmap(tmp_path, X, "x"), memmap(tmp_path, Y, "y")
    net, twin, optimizer = net_for(), net_for(), fc.Adam(0.01)
    fit(net, x, y, optimizer=optimizer, epochs=1)
    fit(net, x, y, optimizer=optimizer, epochs=2)
    fit(twin, x, y, optimizer=fc.Adam(0.01), epochs=3)
    assert_array_equal(net.params, twin.params)


def test_classes_weights_and_a_validation_split(small, tmp_path):
    x, y = memmap(tmp_path, X, "x"), memmap(tmp_path, LABELS, "y")
    for class_weight in ("balanced", {0: 1.0, 1: 3.0}, [1.0, 2.0]):
        net, twin = net_for(2), net_for(2)
        options = {"loss": CROSS_ENTROPY, "class_weight": class_weight, "shuffle": False, "metrics": ["accuracy"]}
        options |= {"validation_split": 0.25}
        assert_same_training(net, twin, fit(net, x, y, **options), fit(twin, X, LABELS, **options))


@pytest.mark.parametrize(
    "loss",
    [
        fc.CrossEntropyLoss(weight=[1.0, 5.0]),
        fc.CrossEntropyLoss(ignore_index=1),
        fc.CrossEntropyLoss(reduction="sum"),
        fc.MultiMarginLoss(),
    ],
    ids=str,
)
def test_losses_of_classes_are_the_means_of_all(loss, small, tmp_path):
    y = np.sort(LABELS)  # blocks differ
    net, twin = net_for(2), net_for(2)
    stream = memmap(tmp_path, X, "x"), memmap(tmp_path, y, "y")
    options = {"loss": loss, "shuffle": False, "epochs": 2}
    history = fit(net, *stream, optimizer=fc.SGD(1e-3), **options)
    assert_same_training(net, twin, history, fit(twin, X, y, optimizer=fc.SGD(1e-3), **options))
    assert_allclose(net.evaluate(*stream, loss), twin.evaluate(X, y, loss), rtol=1e-6)


def two_heads():
    x, z = fc.Input(3), fc.Input(2)
    h = fc.Tanh()(fc.Linear(5, 8, seed=0)(fc.concatenate([x, z])))
    return fc.Graph([x, z], [fc.Linear(8, 1, seed=1)(h), fc.Linear(8, 2, seed=2)(h)])


def test_several_inputs_outputs_and_losses(small, tmp_path):
    loss, inputs = fc.MultiLoss([MSE, fc.CrossEntropyLoss(ignore_index=0)], weights=[1, 0.5]), (X[:, :3], X[:, 3:])
    disk = memmap(tmp_path, inputs[0], "a"), stored(inputs[1])
    options = {"loss": loss, "shuffle": False}
    for x, y in [(disk, (memmap(tmp_path, Y, "y"), LABELS)), (list(disk), [Y, LABELS])]:
        net, twin = two_heads(), two_heads()
        fit(net, x, y, **options)
        fit(twin, inputs, (Y, LABELS), **options)
        assert_array_equal(net.params, twin.params)
        value = twin.evaluate(inputs, (np.sort(Y, axis=0), np.sort(LABELS)), loss)
        assert_allclose(net.evaluate(x, (np.sort(Y, axis=0), np.sort(LABELS)), loss), value, rtol=1e-6)
        for ours, theirs in zip(net.predict(x), net.predict(inputs), strict=True):
            assert_array_equal(ours, theirs)
    net, twin = two_heads(), two_heads()
    parts = [((a, b), (c, d)) for a, b, c, d in batches(*inputs, Y, LABELS)]
    fit(net, parts, **options)
    fit(twin, inputs, (Y, LABELS), **options)
    assert_array_equal(net.params, twin.params)
    for found in (net.predict(iter(parts)), net.predict(p[0] for p in parts)):
        assert_array_equal(found[1], twin.predict(inputs)[1])


def test_the_mean_of_several_losses_in_one_window(monkeypatch):
    monkeypatch.setattr(streams, "IN_MEMORY", 0)
    loss = fc.MultiLoss([MSE, fc.CrossEntropyLoss(ignore_index=0)])
    x, y = (X[:, :3], X[:, 3:]), (stored(Y), np.sort(LABELS))
    history = fit(two_heads(), x, y, loss=loss, shuffle=False)
    other = fit(two_heads(), x, (Y, np.sort(LABELS)), loss=loss, shuffle=False)
    assert_allclose(history.loss, other.loss, rtol=1e-6)


@pytest.mark.parametrize("kind", ["memmap", "zarr", "generator", "batches with y", "function"])
def test_predict(kind, small, tmp_path):
    net = net_for(3)
    x = {
        "memmap": lambda: memmap(tmp_path, X),
        "zarr": lambda: stored(X),
        "generator": lambda: (x for (x,) in batches(X)),
        "batches with y": lambda: iter(batches(X, Y)),
        "function": lambda: lambda: iter(batches(X)),
    }[kind]
    expected = net.predict(X)
    assert_array_equal(net.predict(x()), expected)
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float32, (1003, 3))
    assert net.predict(x(), out=out) is out
    assert_array_equal(out, expected)
    assert_array_equal(net.predict(x(), params=2 * net.params), net.predict(X, params=2 * net.params))
    for bad in (np.zeros((1003, 2), np.float32), np.zeros((1002, 3), np.float32), np.zeros((1004, 3), np.float32)):
        with pytest.raises(ValueError, match="out has "):
            net.predict(x(), out=bad)
    with pytest.raises(ValueError, match=r"out has .* dtype float64, expected .* float32"):
        net.predict(x(), out=np.zeros((1003, 3)))
    assert_all_threads_ended()


def test_other_dtypes_are_converted_block_by_block(small, tmp_path):
    pixels = RNG.integers(0, 256, (1003, 5), dtype=np.uint8)
    net, twin = net_for(dtype=np.float64), net_for(dtype=np.float64)
    fit(net, memmap(tmp_path, pixels), Y, shuffle=False, optimizer=fc.SGD(1e-6))
    fit(twin, pixels, Y, shuffle=False, optimizer=fc.SGD(1e-6))
    assert_array_equal(net.params, twin.params)


def test_memory_is_bounded(tmp_path):
    """64 MB on disk, of which windows of 2 MB are in memory."""
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (2**18, 64))
    y = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float32, (2**18, 1))
    net, old = fc.MLP([64, 4, 1], seed=0), (streams.IN_MEMORY, streams.BLOCK, streams.WINDOW)
    fit(net, np.zeros((9, 64), np.float32), Y[:9], epochs=1)
    streams.IN_MEMORY, streams.BLOCK, streams.WINDOW = 0, 2**17, 2**21
    try:
        tracemalloc.start()
        fit(net, x, y, epochs=1, batch_size=256, optimizer=fc.SGD(1e-3), validation_data=(x, y))
        net.evaluate(x, y, MSE)
        out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float32, (2**18, 1))
        net.predict(x, out=out)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        streams.IN_MEMORY, streams.BLOCK, streams.WINDOW = old
    assert peak < 16e6


# ---------- iterables of batches


def as_generator_function(items):
    def generate():
        yield from items

    return generate


class Loader:
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


class Sized(Loader):
    def __len__(self):
        return len(self.items)


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Tensor:
    """All that a tensor is sure to have."""

    def __init__(self, array):
        self.array, self.shape = array, array.shape

    def numpy(self):
        return self.array


KINDS = {
    "list": lambda items: items,
    "lists": lambda items: [list(item) for item in items],
    "function": as_generator_function,
    "loader": Loader,
    "sized loader": Sized,
    "tensors": lambda items: Loader([tuple(map(Tensor, item)) for item in items]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_batches_train_as_arrays_do(kind, accumulate):
    net, twin = net_for(), net_for()
    options = {"accumulate": accumulate, "metrics": ["mae"], "shuffle": False}
    history = fit(net, KINDS[kind](batches(X, Y, WEIGHTS)), **options)
    other = fit(twin, X, Y, sample_weight=WEIGHTS, **options)
    assert_same_training(net, twin, history, other)
    assert_all_threads_ended()


def test_validation_and_evaluation_by_batches():
    net, twin = net_for(2), net_for(2)
    options = {"loss": CROSS_ENTROPY, "metrics": ["accuracy", "f1_macro"], "shuffle": False}
    loader = Loader(batches(X[:500], LABELS[:500]))
    history = fit(net, X, LABELS, validation_data=loader, **options)
    other = fit(twin, X, LABELS, validation_data=(X[:500], LABELS[:500]), **options)
    assert_same_training(net, twin, history, other)
    for found in (loader, as_generator_function(loader.items), iter(loader), loader.items):
        value = net.evaluate(found, loss=CROSS_ENTROPY, metrics=["accuracy"])
        expected = twin.evaluate(X[:500], LABELS[:500], CROSS_ENTROPY, metrics=["accuracy"])
        assert_allclose([*value.values()], [*expected.values()], rtol=1e-6)


def test_a_generator_is_for_one_epoch():
    net, twin = net_for(), net_for()
    fit(net, iter(batches(X, Y)), epochs=1)
    fit(twin, X, Y, epochs=1, shuffle=False)
    assert_array_equal(net.params, twin.params)
    once = lambda: (batch for batch in batches(X, Y))
    before = net.params.copy()
    with pytest.raises(ValueError, match=r"a generator gives its batches once, but epochs need them 2 times; give .*"):
        fit(net, once(), epochs=2)
    with pytest.raises(ValueError, match="epochs with metrics but no validation_data need them 2 times"):
        fit(net, once(), epochs=1, metrics=["mae"])
    with pytest.raises(ValueError, match="epochs with validation need them 2 times"):
        fit(net, X, Y, epochs=2, validation_data=once())
    assert_array_equal(net.params, before)
    fit(net, once(), epochs=1, metrics=["mae"], validation_data=once())


def test_schedules_by_epoch_know_the_length_where_there_is_one():
    schedule = lambda: fc.StepLR(1, gamma=0.5, unit="epoch")
    items = batches(X, Y)
    for given in (items, Sized(items)):
        history = fit(net_for(), given, optimizer=fc.SGD(0.1, schedule=schedule()))
        assert_allclose(history["lr"], [0.1, 0.05, 0.025], rtol=1e-6)
    with pytest.raises(ValueError, match=r"assign optimizer\.steps_per_epoch"):
        fit(net_for(), Loader(items), optimizer=fc.SGD(0.1, schedule=schedule()))


def test_early_stopping_ends_the_reading():
    net, stopping = net_for(), fc.EarlyStopping("loss", patience=1, min_delta=100)
    history = fit(net, as_generator_function(batches(X, Y)), epochs=50, callbacks=[stopping])
    assert len(history) == 2
    assert_all_threads_ended()


def test_loader_of_pytorch():
    torch = pytest.importorskip("torch")
    from torch.utils.data import DataLoader, TensorDataset

    data = TensorDataset(torch.from_numpy(X), torch.from_numpy(LABELS))
    net, twin = net_for(2), net_for(2)
    loader = DataLoader(data, batch_size=32)
    history = fit(net, loader, loss=CROSS_ENTROPY, metrics=["accuracy"], validation_data=loader)
    options = {"loss": CROSS_ENTROPY, "shuffle": False, "metrics": ["accuracy"], "validation_data": (X, LABELS)}
    assert_same_training(net, twin, history, fit(twin, X, LABELS, **options))
    assert_array_equal(net.predict(loader), net.predict(X))
    assert_array_equal(net.predict(DataLoader(TensorDataset(torch.from_numpy(X)), batch_size=100)), net.predict(X))
    assert_array_equal(net.predict(torch.from_numpy(X)), net.predict(X))
    shuffled = DataLoader(data, batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(0))
    assert fit(net, shuffled, loss=CROSS_ENTROPY, epochs=5).loss[-1] < history.loss[-1]


def test_batches_of_frames():
    import pandas as pd
    import polars as pl

    for frames in (pd, pl):
        net, twin = net_for(), net_for()
        fit(net, [(frames.DataFrame(x), frames.DataFrame(y)) for x, y in batches(X, Y)])
        fit(twin, X, Y, shuffle=False)
        assert_array_equal(net.params, twin.params)


# ---------- errors


def gives(*items):
    return lambda: iter(items)


B = (X[:32], Y[:32])
BAD_FIT = [
    ((X,), {}, TypeError, "y is missing; give the targets, or as x an iterable of batches"),
    ((iter([B]), Y), {}, TypeError, r"x is a list_iterator, which must give batches \(x, y\); leave out y"),
    (([B],), {"sample_weight": WEIGHTS}, TypeError, "leave out sample_weight"),
    (([],), {}, ValueError, "a list gives no batch"),
    (((X, Y),), {}, TypeError, r"batch 0 must be \(x, y\) or \(x, y, sample_weight\), got a ndarray"),
    (([(X,)],), {}, TypeError, "got a tuple of 1"),
    ((lambda: 3,), {}, TypeError, "a function must return an iterator of batches, got an int"),
    (([(X[:, :3], Y)],), {}, ValueError, r"batch 0: .*x has shape \(1003, 3\), expected \(n, 5\)"),
    (([(X, Y[:3])],), {}, ValueError, r"batch 0: .*y \(3, 1\)"),
    (([B],), {"class_weight": "balanced", "loss": CROSS_ENTROPY}, ValueError, "needs all targets before"),
    (([B],), {"validation_split": 0.5}, ValueError, "validation_split is for arrays"),
    (([B],), {"optimizer": fc.LBFGS()}, TypeError, "takes all samples at once"),
    (([(X, LABELS + 1)],), {"loss": CROSS_ENTROPY}, ValueError, r"batch 0: .*class indices must lie in 0\.\.0"),
]


def test_arrays_on_disk_of_different_lengths(small, tmp_path):
    with pytest.raises(ValueError, match=r"fit: arrays have shapes \[\(1003, 5\), \(1000, 1\)\]; give as many rows"):
        fit(net_for(), memmap(tmp_path, X), Y[:1000])
    with pytest.raises(ValueError, match=r"x has shape \(1, 5\), expected \(n, 3\)"):
        fc.MLP([3, 1]).predict(memmap(tmp_path, X[:1]))
    with pytest.raises(ValueError, match="at least one sample"):
        fit(net_for(), memmap(tmp_path, X[:0]), Y[:0])


@pytest.mark.parametrize("data, options, error, message", BAD_FIT)
def test_bad_streams_change_nothing(data, options, error, message):
    net = net_for()
    history, params = fit(net, X, Y), net.params.copy()
    with pytest.raises(error, match=message):
        fit(net, *data, **options)
    assert_array_equal(net.params, params)
    assert net.history is history
    assert_all_threads_ended()


LATE = [
    ([B, (X[:, :3], Y)], {}, ValueError, "batch 1: .*x has shape"),
    ([B, B, 5], {}, TypeError, "batch 2 must be .*, got an int"),
    ([B, (X[:4], X[:4, :1].astype(str))], {}, TypeError, "has dtype <U"),
    (
        [B, B, (X[:40], Y[:40])],
        {"accumulate": 3},
        ValueError,
        r"accumulate=3 takes batches of one size.*\[32, 32, 40\]",
    ),
    ([B, (np.full((4, 5), np.nan), Y[:4])], {}, ValueError, "x is not finite in row 0 of batch 1"),
    ([(*B, np.zeros(32))], {}, ValueError, "weights of all samples for training are 0"),
    ([B, (*B, -np.ones(32))], {}, ValueError, "batch 1: .*not negative"),
]


@pytest.mark.parametrize("items, options, error, message", LATE)
def test_bad_batches_undo_the_epoch(items, options, error, message):
    net, optimizer = net_for(), fc.SGD(0.05, momentum=0.9)
    fit(net, X, Y, optimizer=optimizer)
    params, state, count = net.params.copy(), optimizer.state.copy(), optimizer.count.copy()
    with pytest.raises(error, match=message):
        fit(net, gives(*items), optimizer=optimizer, **options)
    assert_array_equal(net.params, params)
    assert_array_equal(optimizer.state, state)
    assert_array_equal(optimizer.count, count)
    assert_all_threads_ended()


def test_an_exception_of_the_generator_comes_with_its_place():
    def broken():
        yield B
        raise OSError("the disk is gone")

    net = net_for()
    before = net.params.copy()
    with pytest.raises(OSError, match="the disk is gone") as info:
        fit(net, broken)
    assert "broken" in [frame.name for frame in info.traceback]
    assert_array_equal(net.params, before)
    with pytest.raises(OSError, match="gone"):
        net.evaluate(broken, loss=MSE)
    with pytest.raises(OSError, match="gone"):
        net.predict(broken)
    assert_all_threads_ended()


def test_batch_norm_needs_two():
    net = fc.Sequential([fc.Linear(5, 4, seed=0), fc.BatchNorm1d(4), fc.Linear(4, 1, seed=1)])
    with pytest.raises(ValueError, match="leave one alone"):
        fit(net, gives(B, (X[:1], Y[:1])))


def test_rows_that_are_not_finite_are_numbered_as_on_disk(small, tmp_path):
    wrong = X.copy()
    wrong[777, 2] = np.inf
    with pytest.raises(ValueError, match="x is not finite in row 777; remove"):
        fit(net_for(), memmap(tmp_path, wrong), Y)


def test_a_diverging_stream_restores_the_epoch_before(small, tmp_path):
    net, x = net_for(), memmap(tmp_path, X * 1e3)
    start = net.params.copy()
    linear = fc.MLP([5, 1], seed=0)
    with pytest.warns(fc.DivergenceWarning, match=r"fit stopped: in window \d of epoch 1 .* end of epoch 0"):
        history = fit(linear, x, Y, optimizer=fc.SGD(1e10))
    assert len(history) == 0 and np.isfinite(linear.params).all()
    with pytest.warns(fc.DivergenceWarning, match=r"in batch \d"):
        fit(linear, batches(X * 1e3, Y), optimizer=fc.SGD(1e10))
    assert_array_equal(net.params, start)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no timer")
def test_ctrl_c_ends_the_thread():
    def endless():
        while True:
            yield B

    def interrupt(*_):
        raise KeyboardInterrupt

    net, old = net_for(), signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(net, endless)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert_all_threads_ended()
    assert (net.params != net_for().params).any()  # the steps that are completed count


def test_reading_is_ahead_of_the_use_but_bounded():
    read, used = [], []

    def items():
        for i in range(20):
            time.sleep(2 * streams.GROUP_SECONDS)
            read.append(i)
            yield i

    for item in streams.prefetch(items()):
        time.sleep(0.02)
        used.append(item)
        assert len(read) <= len(used) + streams.AHEAD + 1
        if item == 10:
            assert len(read) > len(used)
    assert used == list(range(20))


def test_small_items_are_handed_over_together_and_none_is_lost():
    def items():
        yield from range(1000)
        raise OSError("gone")

    seen = []
    with pytest.raises(OSError, match="gone"):
        for item in streams.prefetch(items()):
            seen.append(item)
    assert seen == list(range(1000))
    assert list(streams.prefetch([])) == []


def test_the_generator_is_closed_where_it_runs():
    closed = []

    def items():
        try:
            while True:
                yield threading.current_thread().name
        finally:
            closed.append(threading.current_thread().name)

    reading = streams.prefetch(items())
    assert next(reading) == "fastfc reads ahead"
    reading.close()
    assert closed == ["fastfc reads ahead"]
    assert_all_threads_ended()


def test_sequences_and_tables_are_arrays():
    import pandas as pd

    for x in (X, X.tolist(), pd.DataFrame(X), range(5), "text", b"bytes", {"a": 1}, {1, 2}, np.float32(3), None, int):
        assert not streams.gives_batches(x)
    for x in (
        iter([]),
        (i for i in "ab"),
        lambda: [],
        Loader([]),
        Sized([]),
        map(abs, [1]),
        zip([1], [2], strict=True),
    ):
        assert streams.gives_batches(x)
    with pytest.raises(TypeError, match="dtype"):
        net_for().predict("text")


def test_a_bar_without_a_known_end(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(sys, "stderr", Terminal())
    history = fit(net_for(), Loader(batches(X, Y)), progress=True)
    last = sys.stderr.getvalue().split("\r")[-1]
    assert "epoch 3/3" in last and f"loss={history.loss[-1]:.3g}" in last
    assert "3009" in last or "3.01k" in last


def test_what_is_larger_than_memory(tmp_path):
    """The files have holes: nothing is written."""
    small, large = (np.memmap(tmp_path / str(n), np.uint8, "w+", shape=(n, 2**16)) for n in (2**10, 2**10 + 1))
    labels = np.zeros(2**10 + 1, np.int64)
    assert streams.source_of(small, labels[1:], None, "fit") is None  # 256 MiB as float32
    source = streams.source_of(large, labels, None, "fit")
    assert (source.block, source.blocks_at_once) == (3, 42)
    assert streams.source_of(np.asarray(large), labels, None, "fit") is None
    assert streams.too_large(large) and not streams.too_large(small)


def test_predict_of_nothing_and_of_what_is_no_number(small, tmp_path):
    with pytest.raises(ValueError, match="a generator gives no batch"):
        net_for().predict(x for x in ())
    with pytest.raises(TypeError, match="has dtype complex64; give real numbers"):
        net_for().predict(memmap(tmp_path, X * 1j))
