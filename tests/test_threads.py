"""The dense kernels on several threads: the same bits, and nobody else's settings changed."""

import json
import os
import threading

import numba
import numpy as np
import pytest
from processes import run
from soak import report

import fastfc as fc
from fastfc import kernels
from fastfc.cli.doctor import threading_layers
from fastfc.kernels.runtime import threads
from fastfc.kernels.runtime.cache import cache_folder
from fastfc.kernels.runtime.threads import MIN_WORK, launch, layer, thread_range

# Seconds that many threads call everything: here, and in the long run
SECONDS, LONG_SECONDS, MANY = 1, 60, 64
long = pytest.mark.soak
needs_cores = pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="Numba has one thread here")
# in the second row, few columns or one more than a whole number of cache lines
SHAPES = [(257, 300, 129), (33, 300, 1025), (4096, 64, 64), (700, 1100, 31)]
SHAPES += [(300, 70, 1), (5, 70, 17), (5, 33, 70), (300, 3, 70), (9000, 1, 1), (9000, 1, 33)]

OUT = np.zeros(1, np.float32)


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


@needs_cores
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_number_of_threads_gives_the_same_bits(shape, dtype, monkeypatch):
    monkeypatch.setattr(threads, "MIN_WORK", 1)
    before = numba.get_num_threads()
    for call, size in calls(*shape, dtype):
        expected = np.ones(size, dtype)
        call(expected)
        for n_threads in (2, 3, 64):
            out = np.ones(size, dtype)
            call(out, n_threads=n_threads)
            np.testing.assert_array_equal(out, expected)
    assert numba.get_num_threads() == before


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 31, 33, 100, 1000])
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_cover_everything_once_and_are_not_narrow(count, parts):
    pieces = [np.arange(count)[thread_range.py_func(p, parts, count)] for p in range(parts)]
    np.testing.assert_array_equal(np.concatenate(pieces), np.arange(count))
    assert all(len(piece) >= min(count, 16) for piece in pieces if len(piece))


def test_small_work_stays_on_one_thread():
    with launch(8, 2 * MIN_WORK - 1, OUT) as parts:
        assert parts == 1


@pytest.mark.parametrize("n_threads", [0, -1])
def test_no_threads_is_an_error(n_threads):
    out = np.full((2, 2), 7.0)
    with pytest.raises(ValueError, match="n_threads must be at least 1"):
        kernels.dense_input_grad(np.ones((2, 3)), np.ones((2, 3)), out, n_threads=n_threads)
    assert (out == 7).all()


def test_errors_are_those_of_one_thread(monkeypatch):
    monkeypatch.setattr(threads, "MIN_WORK", 1)
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
def test_under_workqueue_only_the_only_thread_launches(monkeypatch):
    monkeypatch.setattr(threads, "layer", lambda: "workqueue")
    frames = threads.sys._current_frames
    others = frames().keys() - {threading.get_ident()}  # of tests before, such as tqdm's monitor
    monkeypatch.setattr(threads.sys, "_current_frames", lambda: frames().keys() - others)
    with launch(2, 1 << 30, OUT) as parts:
        assert parts == 2
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    with launch(2, 1 << 30, OUT) as parts:
        assert parts == 1
    done.set()
    other.join()
    with launch(2, 1 << 30, OUT) as parts:
        assert parts == 2


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
    assert layer() in ("omp", "tbb", "workqueue")


@pytest.fixture(scope="module")
def users_cache(tmp_path_factory):
    """Where Numba keeps the compiled functions of tests/many_threads.py."""
    return tmp_path_factory.mktemp("numba")


@needs_cores
@pytest.mark.parametrize("seconds", [SECONDS, pytest.param(LONG_SECONDS, marks=long)])
@pytest.mark.parametrize("parallel", [False, True], ids=["serial", "parallel"])
@pytest.mark.parametrize("wanted", ["omp", "tbb", "workqueue"])
def test_many_threads_call_everything(wanted, parallel, seconds, users_cache):
    """Networks that all share, kernels, training, nopython code, and the user's own parallel functions."""
    if wanted not in threading_layers():
        pytest.skip(f"no {wanted} here")
    environment = {"NUMBA_THREADING_LAYER": wanted, "NUMBA_CACHE_DIR": users_cache}
    environment["FASTFC_CACHE"] = cache_folder() or "0"
    figures = json.loads(run(f"import many_threads; many_threads.run({seconds}, {MANY}, {parallel})", **environment)[0])
    assert figures["layer"] == wanted and figures["fewest_of_a_thread"] > 0
    report("threads, " + ("parallel" if parallel else "serial"), **figures)


def test_settings_of_others_stay():
    """Numba's start tells OpenMP how many threads to use, and multiprocessing how to start processes."""
    code = """
import multiprocessing
import numpy as np
from fastfc import kernels
from fastfc.kernels.runtime import threads
get, put = threads.openmp_threads()
put(5)
before = get()
threads.MIN_WORK = 1
x, out = np.ones((64, 64), np.float32), np.empty((64, 64), np.float32)
for _ in range(2):
    kernels.dense_forward(x, x, x[0], out, n_threads=2)
    assert get() == before, (get(), before)
multiprocessing.set_start_method("spawn")
print(threads.layer(), before)
"""
    layer, before = run(code, FASTFC_CACHE=cache_folder() or "0")[0].split()
    assert layer in ("omp", "tbb", "workqueue") and before == ("5" if layer == "omp" else before)


def test_in_threads_of_joblib():
    joblib = pytest.importorskip("joblib")
    net, x = fc.MLP([6, 16, 2], seed=0), np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)
    net.n_threads = 2
    expected = net.predict(x)
    jobs = (joblib.delayed(net.predict)(x[first:]) for first in range(100))
    for first, found in enumerate(joblib.Parallel(n_jobs=8, prefer="threads")(jobs)):
        np.testing.assert_array_equal(found, expected[first:])


ARRAYS = """
import numpy as np
from fastfc import kernels
from fastfc.kernels.runtime import threads
x, out = np.ones((64, 64), np.float32), np.empty((64, 64), np.float32)
"""
IN_PARALLEL = {
    "forward": "kernels.dense_forward(x, x, x[0], out, n_threads=2)",
    "weight_grad": "kernels.dense_weight_grad(x, x, out, n_threads=2)",
    "input_grad": "kernels.dense_input_grad(x, x, out, n_threads=2)",
    "bias_grad": "kernels.dense_bias_grad(x, out[0], n_threads=2)",
}


def run_in_parallel(kernel, folder, first=""):
    """Let a new process, in which no serial kernel is loaded, run one on two threads; what it says besides."""
    total = 65 if kernel == "forward" else 64
    code = f"{ARRAYS}{first}threads.MIN_WORK = 1\n{IN_PARALLEL[kernel]}\nprint((out[0] == {total}).all())"
    output, errors = run(code, FASTFC_CACHE=folder)
    assert output == "True\n"
    return errors


@needs_cores
@pytest.mark.parametrize("kernel", IN_PARALLEL)
def test_threads_from_the_cache(kernel, monkeypatch):
    if cache_folder() is None:
        pytest.skip("no folder for compiled kernels")
    monkeypatch.setattr(threads, "MIN_WORK", 1)
    exec(ARRAYS + IN_PARALLEL[kernel], {})  # compiled now, if not before
    assert run_in_parallel(kernel, cache_folder()) == ""


@needs_cores
def test_threads_with_an_empty_cache(tmp_path):
    """The first process compiles, the second loads; the sums of columns alone, as compiling the products takes long."""
    few = "from fastfc.kernels.runtime import native as n\n"
    few += "n.parallel_kernels[:] = [n.compiled_kernels['column_sums_threads']]\n"
    assert "compiles" in run_in_parallel("bias_grad", tmp_path, few)
    assert run_in_parallel("bias_grad", tmp_path, few) == ""


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


@needs_cores
@pytest.mark.parametrize(("limit", "expected"), [(None, 2), (8, 2), (1.5, 2), (1, 1), (0.5, 1)])
def test_a_launch_keeps_to_the_quota(monkeypatch, limit, expected):
    monkeypatch.setattr(threads, "quota", lambda: limit)
    with launch(2, 1 << 30, OUT) as parts:
        assert parts == expected


@needs_cores
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_a_launch_keeps_to_the_affinity_of_now():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        with launch(2, 1 << 30, OUT) as parts:
            assert parts == 1
    finally:
        os.sched_setaffinity(0, before)
    with launch(2, 1 << 30, OUT) as parts:
        assert parts == 2


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
