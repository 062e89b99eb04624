"""The same seed, the same bits: in another process, with any threads, batch, and after a pause."""

import itertools
import pickle

import numpy as np
import pytest
from arrays import DTYPES, normal
from examples import LAYERS, inputs
from processes import run
from soak import report

import fastfc as fc
from fastfc.kernels.runtime import threads

QUICK, FULL = 1, 12  # seeds

# Large enough for threads to pay, in rows, in columns and in chunks of a long batch.
TRAIN = """
import hashlib, pickle, sys
import numpy as np
import fastfc as fc
from fastfc.kernels.runtime.pool import pool

def digest(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()[:16]

def build(seed):
    x, rng = fc.Input(96), np.random.default_rng(seed)
    h = fc.Tanh()(fc.Linear(96, 160, seed=rng)(x))
    h = fc.Dropout(0.2, seed=rng)(fc.LayerNorm(160)(h + fc.ReLU()(fc.Linear(160, 160, seed=rng)(h))))
    return fc.Graph(x, fc.Linear(160, 7, seed=rng)(fc.BatchNorm1d(160)(h)))

def data(seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((6000, 96)).astype(np.float32), rng.integers(0, 7, 6000)

def fit(net, optimizer, seed, epochs, batch_size=300):
    x, y = data(seed)
    options = dict(loss=fc.CrossEntropyLoss(), optimizer=optimizer, epochs=epochs, batch_size=batch_size, seed=seed)
    return net.fit(x, y, **options)

def everything(seed, n_threads):
    net, optimizer = build(seed), fc.AdamW(1e-3, schedule=fc.CosineAnnealingLR(60))
    net.n_threads = n_threads
    history = fit(net, optimizer, seed, 2)
    long = fit(net, fc.SGD(0.01), seed, 1, 6000)
    x, _ = data(seed)
    return digest(net.params, net.predict(x), optimizer.state, history.loss, long.loss)
"""
EVERYTHING = """
seeds, n_threads = range({first}, {last}), {n_threads!r}
print(*[everything(seed, n_threads) for seed in seeds])
print(pool.n_workers)
"""


# n_threads, and how many NUMBA_NUM_THREADS allows; the last asks for more than there are
SETTINGS = pytest.mark.parametrize(("n_threads", "count"), [(1, 2), (2, 2), (64, 3), ("auto", 2)])


@pytest.fixture(scope="module")
def digests():
    """Those of this process, computed once for each range of seeds."""
    namespace, known = {}, {}
    exec(TRAIN, namespace)

    def find(first, last):
        if (first, last) not in known:
            known[first, last] = [namespace["everything"](seed, 1) for seed in range(first, last)]
        return known[first, last]

    return find


def check(digests, last, n_threads, count):
    code = TRAIN + EVERYTHING.format(first=0, last=last, n_threads=n_threads)
    *found, n_workers = run(code, NUMBA_NUM_THREADS=count, PYTHONHASHSEED=last + count)[0].split()
    assert found == digests(0, last)
    assert (int(n_workers) > 0) == (n_threads != 1 and threads.cores() > 1)


@pytest.mark.few(3)
@SETTINGS
def test_processes_and_threads_give_the_same_bits(digests, n_threads, count):
    check(digests, QUICK, n_threads, count)


@SETTINGS
@pytest.mark.soak
def test_many_seeds_give_the_same_bits(digests, n_threads, count):
    check(digests, FULL, n_threads, count)
    report(f"determinism, {n_threads} of {count} threads", runs=FULL)


def test_another_process_goes_on_where_this_one_stopped(tmp_path):
    namespace = {}
    exec(TRAIN, namespace)
    net, optimizer = namespace["build"](3), fc.Adam(1e-3, average=0.9)
    namespace["fit"](net, optimizer, 3, 1)
    tmp_path.joinpath("run").write_bytes(pickle.dumps((net, optimizer)))
    code = f"""
net, optimizer = pickle.load(open({str(tmp_path / "run")!r}, "rb"))
fit(net, optimizer, 3, 2)
print(digest(net.params, optimizer.state))
"""
    output, _ = run(TRAIN + code, NUMBA_NUM_THREADS=1)
    namespace["fit"](net, optimizer, 3, 2)
    assert output.split() == [namespace["digest"](net.params, optimizer.state)]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_prediction_has_the_same_bits_in_any_batch(name, dtype):
    net, x = LAYERS[name](dtype), np.concatenate([inputs(name, seed, dtype) for seed in range(5)])
    whole = net.predict(x)
    for first, last in itertools.combinations((0, 1, 2, 7, 16, 31, 59, 60), 2):
        np.testing.assert_array_equal(net.predict(x[first:last]), whole[first:last])
    np.testing.assert_array_equal([net.predict(row) for row in x], whole)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_prediction_of_wide_layers_has_the_same_bits_in_any_batch(dtype):
    """Through panels, in blocks and on threads."""
    net, x = fc.MLP([300, 517, 260, 9], "gelu", seed=0, dtype=dtype), normal((700, 300), dtype)
    whole = net.predict(x)
    for n_threads in (1, 2):
        net.n_threads = n_threads
        for cuts in ([1, 2, 3], [16, 17, 400], [64, 128, 699], [350]):
            parts = [net.predict(part) for part in np.split(x, cuts)]
            np.testing.assert_array_equal(np.concatenate(parts), whole)
