"""Memory: nothing is kept by any call, peaks are what they are said to be, and without memory nothing is lost."""

import ctypes
import gc
import sys
import time

import fuzz
import numpy as np
import pytest
from arrays import normal
from numba import njit
from processes import run
from sample import slow
from soak import report

import fastfc as fc
from fastfc import kernels

QUICK, FULL, SECONDS = 1_000, 1_000_000, 3  # calls of each function, and what they may take
WINDOWS = 8  # of calls, at most
FLAT = 2 << 20  # bytes by which a process of constant memory may seem to grow

linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def resident():
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


class Usage(ctypes.Structure):
    """struct mallinfo2 of GNU's C library"""

    names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = [(name, ctypes.c_size_t) for name in names]


def allocated():
    """Bytes that are allocated by native code, 0 if that is not known; and blocks of Python."""
    libc, usage = ctypes.CDLL(None), None
    if hasattr(libc, "mallinfo2"):
        libc.mallinfo2.restype = Usage
        usage = libc.mallinfo2()
    return (usage.uordblks + usage.hblkhd if usage else 0), sys.getallocatedblocks()


# --- what is called


def kernel_calls(name):
    """A good call, and bad ones."""
    specification = [text.partition(":")[::2] for text in fuzz.SPECIFICATIONS[name].split()]
    sizes = {"n": 7, "i": 5, "o": 9, "2": 18}
    arrays = [normal([sizes[a] for a in axes.rstrip("*")], np.float32, i) for i, (_, axes) in enumerate(specification)]
    arrays = [np.abs(a) / 9 for a in arrays]
    if specification[1][0] == "labels":
        arrays[1] = np.arange(7)
    rest = {"activation_forward": ("tanh",), "activation_backward": ("tanh",), "sgd": (1e-9, 0.5, 0.0)}.get(name, ())
    function = getattr(kernels, name)

    def variants():
        yield "good", lambda: function(*arrays, *rest)
        strided = [np.repeat(a, 2, axis=-1)[..., ::2] for a in arrays]
        yield "strided", lambda: function(*strided, *rest)
        lists = [a if axes.endswith("*") else a.tolist() for a, (_, axes) in zip(arrays, specification, strict=True)]
        yield "lists", lambda: function(*lists, *rest)
        wrong = [*arrays[:-1], arrays[-1][..., :-1]]
        yield "shape", refuses(lambda: function(*wrong, *rest))
        other = [*arrays[:-1], arrays[-1].astype(int)]
        yield "dtype", refuses(lambda: function(*other, *rest))
        if name != "sgd":
            masked = [np.ma.array(arrays[0]), *arrays[1:]]
            yield "masked", refuses(lambda: function(*masked, *rest))

    return arrays, list(variants())


def refuses(call):
    def run():
        try:
            call()
        except (TypeError, ValueError, RuntimeError):
            return
        raise AssertionError("taken")

    return run


@njit
def compiled(net, x, y, loss, optimizer):
    return net.predict(x), net.train_step(x, y, loss, optimizer)


def network_calls(kind):
    """Calls of what networks can do, and bad ones."""
    dtype = np.float32
    if kind == "mlp":
        net = fc.MLP([5, 8, 3], "tanh", seed=0, dtype=dtype)
    else:
        layers = [fc.Linear(5, 6, seed=0), fc.LayerNorm(6), fc.GELU(), fc.BatchNorm1d(6), fc.Dropout(0.1, seed=1)]
        net = fc.Sequential([*layers, fc.Linear(6, 3, seed=2)])
    x, y, labels = normal((7, 5), dtype), normal((7, 3), dtype, 1), np.arange(7) % 3
    loss, entropy, optimizer = fc.MSELoss(), fc.CrossEntropyLoss(), fc.Adam(1e-9)
    odd, long, weights, wrong = x.astype(np.float64), x.tolist(), np.ones(7, dtype), np.full(7, 9)
    calls = {
        "predict": lambda: net.predict(x),
        "predict of a list": lambda: net.predict(long),
        "predict of one": lambda: net.predict(x[0]),
        "forward": lambda: net.forward(x),
        "forward and backward": lambda: net.backward(net.forward(odd)),
        "train_step": lambda: net.train_step(x, y, loss, optimizer),
        "train_step with weights": lambda: net.train_step(x, labels, entropy, optimizer, weights),
        "update_parameters": lambda: net.update_parameters(1e-9),
        "evaluate": lambda: net.evaluate(x, labels, entropy, metrics=["accuracy"]),
        "fit of one epoch": lambda: net.fit(x, y, loss=loss, optimizer=optimizer, batch_size=4, seed=0),
        "loss": lambda: loss(x, x),
        "loss of classes": lambda: entropy(y, labels),
        "metric": lambda: fc.metrics.rmse(y, y),
        "new network": lambda: fc.MLP([5, 3], seed=0).predict(x),
        "new optimizer": lambda: net.train_step(x, y, loss, fc.SGD(1e-9, momentum=0.5)),
        "bad predict": refuses(lambda: net.predict(x[:, :4])),
        "masked predict": refuses(lambda: net.predict(np.ma.array(x))),
        "bad out": refuses(lambda: net.predict(x, out=y[:3])),
        "bad forward": refuses(lambda: net.forward(x * 1j)),
        "bad backward": refuses(lambda: net.backward(x)),
        "bad train_step": refuses(lambda: net.train_step(x, wrong, entropy, optimizer)),
        "bad fit": refuses(lambda: net.fit(x, y[:3], loss=loss, optimizer=optimizer)),
        "bad loss": refuses(lambda: loss(x, y)),
    }
    if kind == "mlp":
        optimizer.prepare(net)
        net.reserve(7)
        calls["nopython"] = lambda: compiled(net, x, y, loss, optimizer)
    return [x, y, labels, odd, weights, wrong, loss, entropy], list(calls.items())


FUNCTIONS = {name: lambda name=name: kernel_calls(name) for name in fuzz.KERNELS}
FUNCTIONS |= {kind: lambda kind=kind: network_calls(kind) for kind in ("mlp", "layers")}
QUICK_FUNCTIONS = "dense_forward", "cross_entropy_loss", "sgd", "mlp", "layers"  # one of each way into native code


@pytest.fixture
def frozen():
    """What was there before is not looked at by the collector, which takes it long."""
    gc.collect()
    gc.freeze()


def growth(watched, call, times):
    """By how much references to these, bytes of native code and blocks of Python grow in so many calls."""
    gc.collect()
    references, before = [sys.getrefcount(x) for x in watched], allocated()
    for _ in range(times):
        call()
    gc.collect()
    after = allocated()
    more = np.abs(np.subtract([sys.getrefcount(x) for x in watched], references)).max()
    return more, after[0] - before[0], after[1] - before[1]


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize("name", [name if name in QUICK_FUNCTIONS else slow(name) for name in FUNCTIONS])
def test_calls_keep_nothing(name):
    """References to arguments, blocks of Python and bytes of native code are as many after many calls.

    Python and Numba keep free objects: in windows of a thousand calls 502, 279, 1 and 0 blocks more were seen first. A
    leak grows in each window.
    """
    watched, calls = FUNCTIONS[name]()
    watched = [*watched, None, 1, 0.5]
    for what, call in calls:
        times = QUICK // 10 if what == "fit of one epoch" else QUICK
        for _ in range(times // 10):
            call()
        for _ in range(WINDOWS):
            found = growth(watched, call, times)
            if np.all(np.less(found, (times // 20, 8 * times, times // 10))):
                break
        else:
            raise AssertionError(f"{what}: {found} in {times} calls, in each of {WINDOWS} windows")


@linux
@pytest.mark.soak
@pytest.mark.parametrize("name", FUNCTIONS)
def test_memory_is_flat_over_a_million_calls(name):
    watched, calls = FUNCTIONS[name]()
    made, most = {}, 0
    for what, call in calls:
        for _ in range(1000):
            call()
        gc.collect()
        references, before = [sys.getrefcount(x) for x in watched], resident()
        begin, times = time.perf_counter(), 0
        while times < FULL and time.perf_counter() - begin < SECONDS:
            for _ in range(1000):
                call()
            times += 1000
        gc.collect()
        made[what] = times
        most = max(most, resident() - before)
        assert resident() - before < FLAT, what
        assert np.abs(np.subtract([sys.getrefcount(x) for x in watched], references)).max() < 100, what
    fewest = min(made, key=made.get)
    report(f"memory of {name}", calls=sum(made.values()), most_bytes_more=most, fewest_calls=made[fewest])


# --- peaks

PEAK = """
import numpy as np
import fastfc as fc

def status(name):
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])

def peak_of(call):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak so far
    before = status("VmRSS")
    call()
    return status("VmHWM") - before
"""
PREDICT = """
net = fc.MLP([64, 512, 512, 10], seed=0)
x, out = np.ones((100_000, 64), np.float32), np.ones((100_000, 10), np.float32)
net.predict(x[:5000], out=out[:5000])
print(peak_of(lambda: net.predict(x, out=out)))
"""
FIT = """
net = fc.MLP([64, 512, 512, 10], seed=0)
x, y = np.ones((40_000, 64), np.float32), np.zeros(40_000, int)
options = dict(loss=fc.CrossEntropyLoss(), optimizer=fc.Adam())
net.fit(x[:64], y[:64], batch_size=32, **options)
fit = lambda: net.fit(x, y, batch_size=20_000, **options)
first = peak_of(fit)
print(first, net.program_for(x).workspace_size(20_000) * 4 + len(x) * 8 + 3 * net.params.nbytes, peak_of(fit))
"""


@linux
def test_predictions_go_through_in_blocks():
    """200 MB of hidden values if all were there at once."""
    assert int(run(PEAK + PREDICT)[0]) < 8 << 20


@linux
def test_training_takes_the_space_of_a_batch_once():
    """The space that the program asks for, the order of the samples, and what an epoch began with to go back to."""
    first, said, again = map(int, run(PEAK + FIT)[0].split())
    assert said / 2 < first < said + (8 << 20)
    assert again < said - first / 2 + (8 << 20) and again < 24 << 20


# --- without memory

LIMITED = """
import resource
import numpy as np
import fastfc as fc
from fastfc import kernels

def limit(more):
    used = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.RLIM_INFINITY))

def fails(call, *arrays):
    before = [a.copy() for a in arrays]
    limit(32 << 20)
    try:
        call()
    except MemoryError as error:
        print("MemoryError")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    for a, b in zip(arrays, before):
        np.testing.assert_array_equal(a, b)
"""
NETWORK = """
def train(net, optimizer):
    return net.fit(x[:500], y[:500], loss=loss, optimizer=optimizer, batch_size=50, seed=0).loss

x, y, loss = np.random.default_rng(0).random((60_000, 32)), np.arange(60_000) % 4, fc.CrossEntropyLoss()
nets = [fc.MLP([32, 256, 4], "tanh", seed=0, dtype=np.float64) for _ in range(2)]
optimizers = [fc.Adam(), fc.Adam()]
assert train(nets[0], optimizers[0]) == train(nets[1], optimizers[1])
net, optimizer = nets[0], optimizers[0]
history, kept = net.history, [net.params, net.grads, optimizer.state, optimizer.count]
net.predict(x[:9]), net.backward(net.forward(x[:9]))
big = fc.MLP([2000, 2000], seed=0)
big.train_step(np.ones((2, 2000)), np.ones((2, 2000)), fc.MSELoss(), fc.SGD())
fails(lambda: net.fit(x, y, loss=loss, optimizer=optimizer, batch_size=60_000), *kept)
fails(lambda: net.train_step(x, y, loss, optimizer), *kept)
fails(lambda: net.forward(x), *kept)
fails(lambda: net.predict(np.broadcast_to(x[:1], (10**7, 32))), *kept)
fails(lambda: net.reserve(10**6), *kept)
fails(lambda: fc.Linear(10_000, 10_000), *kept)
fails(lambda: fc.Adam(amsgrad=True).prepare(big), big.params, big.grads)
ones, adam = np.ones((2, 2000)), fc.Adam(amsgrad=True)
fails(lambda: big.fit(ones, ones, loss=fc.MSELoss(), optimizer=adam), big.params)
assert net.history is history
assert train(net, optimizer) == train(nets[1], optimizers[1])
np.testing.assert_array_equal(net.params, nets[1].params)
np.testing.assert_array_equal(net.predict(x), nets[1].predict(x))
"""
KERNELS = """
x, g = np.ones((9000, 3000), np.float32), np.ones((9000, 3000), np.float32)
out, long, rows = np.full((3000, 3000), 7, np.float32), np.full((2, 2 * 10**7), 0.5), np.full((2, 10**7), 7.0)
small = np.ones((2, 3), np.float32)
kernels.dense_weight_grad(small, small, np.zeros((3, 3), np.float32))
kernels.activation_forward(np.ones((2, 3))[:, ::2], np.ones((2, 2)), "softmax")
kernels.activation_backward(np.ones((2, 3))[:, ::2], np.ones((2, 2)), np.ones((2, 2)), "softmax")
kernels.cross_entropy_loss(np.ones((2, 6))[:, ::2], np.zeros(2, int), np.ones((2, 3)))
fails(lambda: kernels.dense_weight_grad(x, g, out), out)
fails(lambda: kernels.activation_forward(long[:, ::2], rows, "softmax"), rows)
fails(lambda: kernels.activation_backward(long[:, ::2], long[:, 1::2], rows, "softmax"), rows)
fails(lambda: kernels.cross_entropy_loss(long[:, ::2], np.zeros(2, int), rows), rows)
fails(lambda: kernels.mse_loss(long.astype(np.float16), rows, rows), rows)
kernels.dense_weight_grad(x, g, out)
assert (out == 9000).all()
kernels.activation_forward(long[:, ::2], rows, "softmax")
np.testing.assert_allclose(rows, 1e-7)
"""


@linux
@pytest.mark.parametrize(("code", "times"), [(NETWORK, 8), slow(KERNELS, 5)], ids=["networks", "kernels"])
def test_without_memory_nothing_changes_and_the_next_call_works(code, times):
    assert run(LIMITED + code)[0].split() == ["MemoryError"] * times
