"""The builtin functions by which Python enters: which calls they take, and that they keep nothing."""

import pickle
import sys
import threading

import numpy as np
import pytest

import fastfc as fc
from fastfc import kernels
from fastfc.kernels.ops.dense_bias_grad import _dense_bias_grad
from fastfc.kernels.ops.losses import loss
from fastfc.kernels.optim.update import _sgd
from fastfc.kernels.runtime.fastcall import builtin
from fastfc.kernels.runtime.status import BAD_SHAPE, OVERLAP


@pytest.fixture
def watched():
    """The bias gradient's builtin function, and the calls that it hands on."""
    kernel, calls = _dense_bias_grad, []
    for dtype in kernel.slots:
        kernel.compile_or_load(dtype)
    signatures = {dtype: kernel.signature(dtype) for dtype in kernel.slots}
    failures = []
    call = builtin(
        "watched",
        kernel.slot_name,
        signatures,
        lambda *args, **names: calls.append((args, names)),
        lambda *args: failures.append(args),
    )
    return call, calls, failures


def sums(dtype):
    return np.arange(6, dtype=dtype).reshape(2, 3), np.full(3, np.nan, dtype)


class Subclass(np.ndarray):
    pass


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        lambda x: x[:, ::-1],
        lambda x: np.asfortranarray(x),
        lambda x: pickle.loads(pickle.dumps(x)),
        lambda x: np.broadcast_to(x[:1], x.shape),
    ],
    ids=["plain", "reversed", "fortran", "unpickled", "broadcast"],
)
def test_arrays_are_read_in_place(watched, dtype, view):
    call, calls, failures = watched
    g, out = sums(dtype)
    assert call(view(g), out, 0, 1) is None
    np.testing.assert_array_equal(out, view(g).sum(0))
    assert not calls and not failures


def read_only(x):
    x.flags.writeable = False
    return x


@pytest.mark.parametrize(
    "change",
    [
        lambda g, out: ((g.tolist(), out, 0, 1), {}),
        lambda g, out: ((g.view(Subclass), out, 0, 1), {}),
        lambda g, out: ((g, out.view(Subclass), 0, 1), {}),
        lambda g, out: ((g, read_only(out), 0, 1), {}),
        lambda g, out: ((g.astype(">f4"), out, 0, 1), {}),
        lambda g, out: ((g.astype("f8"), out, 0, 1), {}),
        lambda g, out: ((g.astype("f2"), out, 0, 1), {}),
        lambda g, out: ((g[0], out, 0, 1), {}),
        lambda g, out: ((g, out[None], 0, 1), {}),
        lambda g, out: ((g, out, 0.0, 1), {}),
        lambda g, out: ((g, out, True, 1), {}),
        lambda g, out: ((g, out, 1 << 70, 1), {}),
        lambda g, out: ((g, out, None, 1), {}),
        lambda g, out: ((g, out), {}),
        lambda g, out: ((g, out, 0, 1, 0), {}),
        lambda g, out: ((g, out), {"accumulate": 0}),
    ],
)
def test_what_is_unusual_is_handed_on(watched, change):
    call, calls, failures = watched
    g, out = sums(np.float32)
    args, keywords = change(g, out)
    call(*args, **keywords)
    [(handed, names)] = calls
    assert not failures
    assert len(handed) == len(args) and all(a is b for a, b in zip(handed, args, strict=True))
    assert names == keywords
    assert np.isnan(out).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("change", "status"),
    [(lambda g, out: (g, out[:2], 0, 1), BAD_SHAPE), (lambda g, out: (out[None], out, 0, 1), OVERLAP)],
)
def test_a_status_is_handed_on_with_the_arguments(watched, change, status, dtype):
    """The status was dropped, and the kernel run a second time to learn it."""
    call, calls, failures = watched
    args = change(*sums(dtype))
    call(*args)
    [(handed, *rest)] = failures
    assert handed == status and not calls
    assert len(rest) == len(args) and all(a is b for a, b in zip(rest, args, strict=True))


def test_errors_of_the_slow_way_pass_through():
    g, out = sums(np.float32)
    kernels.dense_bias_grad(g, out)
    with pytest.raises(ValueError, match="out"):
        _dense_bias_grad.call(g, out[:2], 0, 1)


def test_calls_keep_no_references():
    x, grads, out, velocity = (np.ones((1, 3), np.float32) for _ in range(4))
    lr = 0.5
    kernels.sgd(x[0], grads[0], velocity[0], lr, 0.0, 0.0)
    flat, none, labels = (x[0], grads[0], velocity[0]), np.zeros(0, np.float32), np.zeros(0, int)
    [table] = fc.MSELoss()._handle
    loss.call(x, grads, labels, none, table, none, out)  # compiling leaves references behind
    watched = [x, grads, out, *flat, lr, None]
    before = [sys.getrefcount(thing) for thing in watched]
    for _ in range(100):
        loss.call(x, grads, labels, none, table, none, out)
        _sgd.call(flat[1], flat[0], flat[2], lr, 0.0, 0.0)
    after = [sys.getrefcount(thing) for thing in watched]
    assert np.abs(np.subtract(after, before)).max() < 10


def test_other_threads_run_during_a_long_call():
    """The lock is given back: a thread that only counts goes on counting."""
    x, out = np.ones((1 << 14, 1 << 10), np.float32), np.zeros(1 << 10, np.float32)
    kernels.dense_bias_grad(x, out)
    done, counted = threading.Event(), []

    def count():
        while not done.wait(1e-4):
            counted.append(None)

    thread = threading.Thread(target=count)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)  # only a lock that is given back lets another thread run
    try:
        thread.start()
        before = len(counted)
        for _ in range(20):
            kernels.dense_bias_grad(x, out)
        during = len(counted) - before
    finally:
        sys.setswitchinterval(interval)
        done.set()
        thread.join()
    assert during > 0


@pytest.mark.parametrize("lr", [0.5, 1, True, np.float32(0.5), np.float64(0.5), np.int64(1), np.True_])
def test_real_numbers_are_scalars(lr):
    params = np.ones(2, np.float32)
    kernels.sgd(params, np.ones_like(params), np.zeros_like(params), lr, 0.0, 0.0)
    assert params.tolist() == [1 - float(lr)] * 2


@pytest.mark.parametrize("lr", ["0.5", b"1", None, 1j, [0.5], np.array([0.5]), 10**400])
def test_what_is_no_real_number_is_no_scalar(lr):
    params = np.ones(2, np.float32)
    with pytest.raises(TypeError, match=r"sgd: .* should be real numbers"):
        kernels.sgd(params, np.ones_like(params), np.zeros_like(params), lr, 0.0, 0.0)
    assert params.tolist() == [1, 1]
