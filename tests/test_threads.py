"""Several threads: the same bits, as many as pay and as are allowed, and nobody else's settings changed."""

import ctypes
import json
import os
import pickle
import threading
import time

import numpy as np
import pytest
from processes import run
from soak import report

import fastfc as fc
from fastfc import kernels
from fastfc.cli.doctor import threading_layers
from fastfc.kernels.runtime import threads
from fastfc.kernels.runtime.cache import cache_folder
from fastfc.kernels.runtime.pool import HAS_AFFINITY, OWNED, SLEEPS, THREAD, WORKERS, pool
from fastfc.kernels.runtime.threads import MIN_WORK, prepare_threads, thread_range
from fastfc.training import step

# Seconds that many threads call everything: here, and in the long run
SECONDS, LONG_SECONDS, MANY = 1, 60, 64
long = pytest.mark.soak
needs_cores = pytest.mark.skipif(threads.auto_threads()[0] < 2, reason="one thread is all there is here")
# in the second row, few columns or one more than a whole number of cache lines
SHAPES = [(257, 300, 129), (33, 300, 1025), (4096, 64, 64), (700, 1100, 31)]
SHAPES += [(300, 70, 1), (5, 70, 17), (5, 33, 70), (300, 3, 70), (9000, 1, 1), (9000, 1, 33)]
MANY_CORES = 8


@pytest.fixture
def many_cores(monkeypatch):
    """A machine of eight cores, on which any work pays."""
    monkeypatch.setattr(threads, "cores", lambda: MANY_CORES)
    monkeypatch.setattr(threads, "numba_threads", lambda: MANY_CORES)
    monkeypatch.setattr(threads, "quota", lambda: None)
    monkeypatch.setattr(threads, "MIN_WORK", 1)
    monkeypatch.setattr(threads, "MIN_RANGE_WORK", 1)
    monkeypatch.setattr(threads, "TINY", 0)


def calls(n, i, o, dtype):
    """Each kernel with arguments, and an output to fill."""
    rng = np.random.default_rng(n + i + o)
    x, weight, bias, grad = (rng.standard_normal(s).astype(dtype) for s in [(n, i), (i, o), o, (n, o)])
    yield lambda out, **k: kernels.dense_forward(x, weight, bias, out, "tanh", **k), (n, o)
    yield lambda out, **k: kernels.dense_weight_grad(x, grad, out, **k), (i, o)
    yield lambda out, **k: kernels.dense_add_weight_grad(x, grad, out, **k), (i, o)
    yield lambda out, **k: kernels.dense_input_grad(grad, weight, out, **k), (n, i)
    yield lambda out, **k: kernels.dense_bias_grad(grad, out, **k), (o,)
    yield lambda out, **k: kernels.dense_add_bias_grad(grad, out, **k), (o,)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_number_of_threads_gives_the_same_bits(shape, dtype, many_cores):
    for call, size in calls(*shape, dtype):
        expected = np.ones(size, dtype)
        call(expected, n_threads=1)
        for n_threads in (2, 3, 64, "auto"):
            out = np.ones(size, dtype)
            call(out, n_threads=n_threads)
            np.testing.assert_array_equal(out, expected)
    assert pool.n_workers >= MANY_CORES - 1


NETWORKS = {
    "wide": (lambda: fc.MLP([70, 300, 130, 5], "gelu", seed=0), fc.AdamW),
    "narrow": (lambda: fc.MLP([9, 8, 3], "tanh", seed=0), fc.SGD),
    "layers of every kind": (
        lambda: fc.Sequential(
            [
                *[fc.Linear(20, 90, seed=0), fc.BatchNorm1d(90), fc.SiLU(), fc.Dropout(0.3, seed=1)],
                *[fc.Linear(90, 33, seed=2), fc.LayerNorm(33), fc.ELU(), fc.Linear(33, 4, seed=3), fc.Softmax()],
            ]
        ),
        lambda: fc.Lion(1e-3),
    ),
}


def test_the_shortest_way_of_a_step_takes_the_threads_of_now(monkeypatch, many_cores):
    """It prepared everything anew for each step on several threads."""
    net, loss, optimizer = fc.MLP([9, 8, 3], seed=0), fc.MSELoss(), fc.SGD()
    x, y, found = np.ones((4, 9), np.float32), np.ones((4, 3), np.float32), []
    net.train_step(x, y, loss, optimizer)
    prepared = threads.prepare_threads
    monkeypatch.setattr(threads, "prepare_threads", lambda *work: found.append(prepared(*work)) or found[-1])
    monkeypatch.delattr(step, "train_step")
    net.train_step(x, y, loss, optimizer)
    monkeypatch.setattr(threads, "cores", lambda: 3)
    net.train_step(x, y, loss, optimizer)
    assert found == [MANY_CORES, 3]


@pytest.mark.parametrize("n", [2, 16, 38, 700])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_have_the_same_bits_on_any_number_of_threads(name, n, many_cores):
    """Products, activations, updates and the rows of predictions are shared by threads."""
    make, optimizer = NETWORKS[name]
    rng, found = np.random.default_rng(n), []
    x, y = (rng.standard_normal((n, w)).astype(np.float32) for w in (make().in_features, make().out_features))
    for n_threads in (1, 2, 3, 8, "auto"):
        net, rule = make(), optimizer()
        net.n_threads = n_threads
        values = [net.predict(x), net.predict(x[0]), net.forward(x), net.backward(y), net.grads.copy()]
        values += [net.train_step(x, y, fc.MSELoss(), rule) for _ in range(2)]
        net.fit(x, y, loss=fc.HuberLoss(), optimizer=rule, epochs=2, batch_size=max(2, n // 2), seed=0)
        values += [net.params, net.buffers, rule.state, net.predict(x)]
        found.append(values)
    for values in found[1:]:
        for value, expected in zip(values, found[0], strict=True):
            np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 31, 33, 100, 1000])
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_cover_everything_once_and_are_not_narrow(count, parts):
    pieces = [np.arange(count)[slice(*thread_range.py_func(p, parts, count))] for p in range(parts)]
    np.testing.assert_array_equal(np.concatenate(pieces), np.arange(count))
    assert all(len(piece) >= min(count, 16) for piece in pieces if len(piece))


def test_small_work_stays_on_one_thread():
    assert prepare_threads(8, 2 * MIN_WORK - 1) == prepare_threads("auto", 2 * MIN_WORK - 1) == 1


def test_nothing_is_loaded_and_no_thread_started_for_small_networks():
    code = """
import numpy as np
import fastfc as fc
from fastfc.kernels.runtime.pool import pool
net, x = fc.MLP([17, 64, 6], seed=0), np.ones((64, 17), np.float32)
net.predict(x)
net.fit(x, x[:, :6], loss=fc.MSELoss(), optimizer=fc.Adam(), epochs=3)
print(pool.n_workers, pool.slot[0])
"""
    assert run(code, FASTFC_CACHE=cache_folder() or "0")[0].split() == ["0", "0"]


@pytest.mark.parametrize("n_threads", [0, -1])
def test_no_threads_is_an_error(n_threads):
    out = np.full((2, 2), 7.0)
    with pytest.raises(ValueError, match="n_threads must be at least 1"):
        kernels.dense_input_grad(np.ones((2, 3)), np.ones((2, 3)), out, n_threads=n_threads)
    assert (out == 7).all()


def test_errors_are_those_of_one_thread(many_cores):
    with pytest.raises(ValueError, match=r"dense_forward.*weight \(5, 8\)"):
        kernels.dense_forward(np.ones((4, 6)), np.ones((5, 8)), np.ones(8), np.ones((4, 8)), n_threads=2)


@pytest.mark.parametrize("out", [None, 1.0, [[0.0]], np.zeros((4, 8), int)])
def test_what_cannot_be_an_output_is_refused_as_on_one_thread(out):
    for n_threads in (1, 2):
        with pytest.raises(TypeError, match="dense_forward: out"):
            kernels.dense_forward(np.ones((4, 6)), np.ones((6, 8)), np.ones(8), out, n_threads=n_threads)
        with pytest.raises(TypeError, match="dense_input_grad: out"):
            kernels.dense_input_grad(np.ones((4, 8)), np.ones((6, 8)), out, n_threads=n_threads)
        with pytest.raises(TypeError, match="dense_weight_grad: out"):
            kernels.dense_weight_grad(np.ones((4, 6)), np.ones((4, 8)), out, n_threads=n_threads)


@needs_cores
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_answers():
    x, weight, bias = np.ones((512, 256)), np.ones((256, 256)), np.zeros(256)
    out = np.empty((512, 256))
    kernels.dense_forward(x, weight, bias, out, n_threads=2)
    child = os.fork()
    if not child:
        out[:] = 0
        kernels.dense_forward(x, weight, bias, out, n_threads=2)
        os._exit(0 if (out == 256).all() else 1)
    hanging = threading.Timer(60, os.kill, (child, 9))
    hanging.start()
    status = os.waitpid(child, 0)[1]
    hanging.cancel()
    assert os.waitstatus_to_exitcode(status) == 0


@needs_cores
def test_calls_from_many_python_threads():
    x, weight, bias = np.ones((256, 128)), np.ones((128, 256)), np.zeros(256)
    outs = [np.zeros((256, 256)) for _ in range(8)]

    def work(out):
        for _ in range(20):
            kernels.dense_forward(x, weight, bias, out, n_threads=2)

    workers = [threading.Thread(target=work, args=(out,)) for out in outs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all((out == 128).all() for out in outs)


@pytest.fixture(scope="module")
def users_cache(tmp_path_factory):
    """Where Numba keeps the compiled functions of tests/many_threads.py."""
    return tmp_path_factory.mktemp("numba")


@pytest.mark.few(2)
@needs_cores
@pytest.mark.parametrize("seconds", [SECONDS, pytest.param(LONG_SECONDS, marks=long)])
@pytest.mark.parametrize("parallel", [False, True], ids=["serial", "parallel"])
@pytest.mark.parametrize("wanted", ["omp", "workqueue", "tbb"])
def test_many_threads_call_everything(wanted, parallel, seconds, users_cache):
    """Networks that all share, kernels, training, nopython code, and the user's own parallel functions."""
    if wanted not in threading_layers():
        pytest.skip(f"no {wanted} here")
    environment = {"NUMBA_THREADING_LAYER": wanted, "NUMBA_CACHE_DIR": users_cache}
    environment["FASTFC_CACHE"] = cache_folder() or "0"
    figures = json.loads(run(f"import many_threads; many_threads.run({seconds}, {MANY}, {parallel})", **environment)[0])
    assert figures["layer"] == wanted and figures["fewest_of_a_thread"] > 0
    report("threads, " + ("parallel" if parallel else "serial"), **figures)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_does_not_begin_its_parents_job():
    """Whatever instant of a launch another thread was in when this one forked."""
    code = """
import os
from fastfc.kernels.runtime.pool import N_WORKERS, OWNED, TICKET, WAITING, pool
words = [OWNED, TICKET, WAITING, N_WORKERS]
pool.words[words] = 7
if child := os.fork():
    os.waitpid(child, 0)
else:
    print(*pool.words[words], flush=True)
    os._exit(0)
"""
    assert run(code, FASTFC_CACHE=cache_folder() or "0")[0].split() == ["0"] * 4


def test_settings_of_others_stay():
    """Numba's threads are not started, OpenMP not told how many to use, multiprocessing not how to start processes."""
    code = """
import multiprocessing, threading
import numba, numpy as np
from fastfc import kernels
from fastfc.kernels.runtime.pool import pool
x, out = np.ones((512, 512), np.float32), np.empty((512, 512), np.float32)
for _ in range(2):
    kernels.dense_forward(x, x, x[0], out, n_threads=2)
multiprocessing.set_start_method("spawn")
try:
    print(numba.threading_layer())
except ValueError:
    print(pool.n_workers, threading.active_count())
numba.set_num_threads(1)
kernels.dense_forward(x, x, x[0], out, n_threads=2)
print(numba.get_num_threads())
"""
    n_workers, active, numbas = run(code, FASTFC_CACHE=cache_folder() or "0")[0].split()
    assert int(n_workers) == min(1, threads.auto_threads()[0] - 1) and (active, numbas) == ("1", "1")


def test_in_threads_of_joblib():
    joblib = pytest.importorskip("joblib")
    net, x = fc.MLP([6, 16, 2], seed=0), np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)
    net.n_threads = 2
    expected = net.predict(x)
    jobs = (joblib.delayed(net.predict)(x[first:]) for first in range(100))
    for first, found in enumerate(joblib.Parallel(n_jobs=8, prefer="threads")(jobs)):
        np.testing.assert_array_equal(found, expected[first:])


@needs_cores
def test_a_thread_with_nothing_to_do_takes_no_time():
    code = """
import time, numpy as np
from fastfc import kernels
x, out = np.ones((512, 512), np.float32), np.empty((512, 512), np.float32)
for _ in range(3):
    kernels.dense_forward(x, x, x[0], out, n_threads=2)
begin = time.process_time()
time.sleep(0.2)
print(time.process_time() - begin)
"""
    assert float(run(code, FASTFC_CACHE=cache_folder() or "0")[0]) < 0.02


def in_one_thread(work):
    """What `work` returns in a thread of its own."""
    found = []
    other = threading.Thread(target=lambda: found.append(work()))
    other.start()
    other.join()
    return found[0]


@needs_cores
def test_a_launch_while_another_runs_computes_alone(many_cores):
    """As one of another thread does, and one inside a range: neither waits for the other."""
    x = np.random.default_rng(0).standard_normal((300, 200)).astype(np.float32)
    expected, out = np.empty((300, 300), np.float32), np.empty((300, 300), np.float32)
    kernels.dense_forward(x, x.T, x[:, 0], expected, n_threads=1)
    pool.grow(2)
    pool.words[OWNED] = 1
    try:
        kernels.dense_forward(x, x.T, x[:, 0], out, n_threads=3)
    finally:
        pool.words[OWNED] = 0
    np.testing.assert_array_equal(out, expected)


@needs_cores
@pytest.mark.skipif(not HAS_AFFINITY, reason="no thread can be told its cores here")
def test_a_worker_wakes_on_another_core_than_its_launchers():
    """Where a sleeping core does not count as idle, as in virtual machines, a worker would wake on the launcher's."""
    c, mask = ctypes.pythonapi, (ctypes.c_uint8 * 1024)()
    c.pthread_getaffinity_np.argtypes = ctypes.c_ulong, ctypes.c_size_t, ctypes.c_void_p
    x, out = np.ones((512, 512), np.float32), np.empty((512, 512), np.float32)
    found = []
    for _ in range(100):  # this thread may change its core at any time
        kernels.dense_forward(x, x, x[0], out, n_threads=2)
        while not pool.words[WORKERS + SLEEPS]:
            time.sleep(0.001)
        core = c.sched_getcpu()
        kernels.dense_forward(x, x, x[0], out, n_threads=2)
        assert c.pthread_getaffinity_np(int(pool.words[WORKERS + THREAD]), len(mask), mask) == 0
        found.append((core, {i for i in range(8 * len(mask)) if mask[i // 8] >> i % 8 & 1}))
        if found[-1][1] == os.sched_getaffinity(0) - {core}:
            return
    pytest.fail(f"the launcher's core and the worker's: {found}")


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"cpu.max": "4000 1000", "a/cpu.max": "2000 1000", "a/b/cpu.max": "max 1000"}, 2),
        ("3:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ("3:cpu:/a\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("2:memory:/\n", {}, None),
    ],
    ids=["no limit", "limit", "limit above", "version 1", "version 1, no limit", "no controller"],
)
def test_quota_of_control_groups(tmp_path, membership, files, quota):
    groups = tmp_path / "cgroup"
    for name, text in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(text)
    (tmp_path / "membership").write_text(membership)
    assert threads.quota(groups, tmp_path / "membership") == quota


def test_quota_without_control_groups(tmp_path):
    assert threads.quota(tmp_path, tmp_path / "absent") is None


BIG = 1 << 40


@pytest.mark.parametrize(("limit", "expected"), [(None, 8), (9, 8), (1.5, 2), (1, 1), (0.5, 1)])
@pytest.mark.parametrize("n_threads", [8, "auto"])
def test_a_launch_keeps_to_the_quota(monkeypatch, many_cores, n_threads, limit, expected):
    monkeypatch.setattr(threads, "quota", lambda: limit)
    assert prepare_threads(n_threads, BIG) == expected


@needs_cores
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
@pytest.mark.parametrize("n_threads", [2, "auto"])
def test_a_launch_keeps_to_the_affinity_of_now(n_threads):
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert prepare_threads(n_threads, BIG) == 1
    finally:
        os.sched_setaffinity(0, before)
    assert prepare_threads(n_threads, BIG) >= 2


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("OMP_NUM_THREADS", "3", 3),
        ("OMP_NUM_THREADS", "3,2", 3),
        ("OMP_NUM_THREADS", " 2 ", 2),
        ("OMP_NUM_THREADS", "many", 8),
        ("OMP_NUM_THREADS", "", 8),
        ("FASTFC_NUM_THREADS", "1", 1),
        ("FASTFC_NUM_THREADS", "5", 5),
        ("FASTFC_NUM_THREADS", "100", 8),
        ("FASTFC_NUM_THREADS", "", 8),
    ],
)
def test_auto_keeps_to_the_environment(monkeypatch, many_cores, name, text, expected):
    for other in ("OMP_NUM_THREADS", "FASTFC_NUM_THREADS"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, text)
    assert prepare_threads("auto", BIG) == expected
    assert prepare_threads(6, BIG) == 6  # who names a number means it
    assert (expected, name) in threads.limits() or expected == 8


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_a_wrong_number_in_our_own_variable_is_an_error(monkeypatch, text):
    monkeypatch.setenv("FASTFC_NUM_THREADS", text)
    with pytest.raises(ValueError, match=f"FASTFC_NUM_THREADS must be a positive integer, got '{text}'"):
        prepare_threads("auto", BIG)


def test_auto_keeps_to_numbas_number():
    code = """
import numba
from fastfc.kernels.runtime import threads
print(threads.numba_threads())
threads.cores = lambda: 8
numba.set_num_threads(2)
print(threads.prepare_threads("auto", 1 << 40))
numba.set_num_threads(1)
print(threads.prepare_threads("auto", 1 << 40), threads.prepare_threads(8, 1 << 40))
"""
    assert run(code, NUMBA_NUM_THREADS=3, FASTFC_NUM_THREADS="")[0].split() == ["3", "2", "1", "1"]


@pytest.mark.few(2)
@pytest.mark.parametrize("user_api", [None, "fastfc"])
@pytest.mark.parametrize("first", ["threadpoolctl", "fastfc"])
def test_auto_keeps_to_threadpoolctl(first, user_api):
    """Whichever is imported first, and though fastfc never imports it."""
    pytest.importorskip("threadpoolctl")
    code = f"""
import sys, {first}
from fastfc.kernels.runtime import threads
assert ("threadpoolctl" in sys.modules) == ({first!r} == "threadpoolctl")
threads.cores = threads.numba_threads = lambda: 8
threads.quota = lambda: None
import threadpoolctl
def found():
    return [threads.prepare_threads(n, 1 << 40) for n in ("auto", 4)]
print(found())
with threadpoolctl.threadpool_limits(2, user_api={user_api!r}):
    print(found(), [i["num_threads"] for i in threadpoolctl.threadpool_info() if i["user_api"] == "fastfc"])
    with threadpoolctl.threadpool_limits(1, user_api={user_api!r}):
        print(found())
    print(found())
with threadpoolctl.threadpool_limits(1, user_api="blas"):
    print(found())
print(found(), threads.allowed)
"""
    wanted = ["[8, 4]", "[2, 2] [2]", "[1, 1]", "[2, 2]", "[8, 4]", "[8, 4] None"]
    assert run(code, OMP_NUM_THREADS="", FASTFC_NUM_THREADS="")[0].splitlines() == wanted


@pytest.mark.parametrize("n_threads", [1, 3, "auto"])
def test_networks_are_made_with_a_number_of_threads(n_threads):
    x = fc.Input(2)
    nets = [
        fc.MLP([2, 3, 1], n_threads=n_threads),
        fc.Sequential([fc.Linear(2, 1)], n_threads=n_threads),
        fc.Graph(x, fc.Linear(2, 1)(x), n_threads=n_threads),
    ]
    for net in nets:
        assert (
            [net.n_threads] * len(net.layers)
            == [layer.n_threads for layer in net.layers]
            == [n_threads for _ in net.layers]
        )
        assert pickle.loads(pickle.dumps(net)).n_threads == n_threads
    layer = fc.Linear(2, 1)
    assert layer.n_threads == "auto"
    layer.n_threads = 2
    fc.Sequential([layer])
    assert layer.n_threads == 2


@pytest.mark.parametrize(
    ("n_threads", "error"),
    [(0, ValueError), (2.0, TypeError), ("all", TypeError), (None, TypeError), (True, TypeError)],
)
def test_networks_refuse_what_is_no_number_of_threads(n_threads, error):
    layer = fc.Linear(2, 1)
    for name, make in {
        "MLP": lambda: fc.MLP([2, 1], n_threads=n_threads),
        "Sequential": lambda: fc.Sequential([layer], n_threads=n_threads),
        "Linear": lambda: setattr(layer, "n_threads", n_threads),
    }.items():
        with pytest.raises(error, match=rf"{name}.*: n_threads must be .*{n_threads}"):
            make()
    assert layer.n_threads == "auto"
    fc.Sequential([layer])  # which is free


def auto_number():
    return prepare_threads("auto", BIG)


@needs_cores
@pytest.mark.parametrize("backend", ["threading", "loky", "multiprocessing", "sequential"])
def test_workers_of_joblib_take_one_thread(backend, monkeypatch):
    joblib = pytest.importorskip("joblib")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("FASTFC_NUM_THREADS", raising=False)
    found = joblib.Parallel(2, backend=backend)(joblib.delayed(auto_number)() for _ in range(3))
    assert found == [1 if backend != "sequential" else auto_number()] * 3
    assert auto_number() > 1


@needs_cores
def test_threads_of_python_may_have_others_compute():
    assert in_one_thread(auto_number) == auto_number() > 1


@pytest.mark.parametrize(
    ("n_threads", "error"),
    [(0, ValueError), (-3, ValueError), (1.5, TypeError), ("2", TypeError), (None, TypeError), (np.ones(2), TypeError)],
)
def test_the_kernel_is_named_that_was_given_no_number_of_threads(n_threads, error):
    x, out, sums = np.ones((2, 2)), np.full((2, 2), 7.0), np.full(2, 7.0)
    for name, call in {
        "dense_forward": lambda: kernels.dense_forward(x, x, x[0], out, n_threads=n_threads),
        "dense_input_grad": lambda: kernels.dense_input_grad(x, x, out, n_threads),
        "dense_weight_grad": lambda: kernels.dense_add_weight_grad(x, x, out, n_threads),
        "dense_bias_grad": lambda: kernels.dense_bias_grad(x, sums, n_threads),
    }.items():
        with pytest.raises(error, match=f"{name}: n_threads must be"):
            call()
    assert (out == 7).all() and (sums == 7).all()
