import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest

from fastfc import kernels, reference
from fastfc.benchmark.worker import (
    KERNELS,
    LAYOUTS,
    ReferenceWorker,
    Shape,
    Worker,
    WorkerProcess,
    formulas,
    installed,
    load,
    start,
    values,
    work,
)

SHAPE = Shape(5, 7, 3)
WHOLE = [slice(None)] * 3


def prepared(worker, shape=SHAPE, dtype="float32"):
    worker.prepare(shape, dtype)
    return worker


@pytest.mark.parametrize("text", ["5x7x3", "5x7x3:transposed", "1x20x300:sliced"])
def test_a_shape_reads_what_it_writes(text):
    assert str(Shape.parse(text)) == text


@pytest.mark.parametrize("text", ["5x7", "5x7x3x1", "0x7x3", "5x7x-3", "5x7x3:", "5x7x3:diagonal", "5x7x٣"])
def test_a_bad_shape_is_named(text):
    with pytest.raises(ValueError, match="is not rows x inputs x outputs"):
        Shape.parse(text)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_view_is_the_matrix_in_its_layout(layout):
    matrix = np.arange(12.0).reshape(3, 4)
    keep, view = LAYOUTS[layout]
    kept = view(keep(matrix))
    np.testing.assert_array_equal(kept, matrix)
    assert kept.strides == {"contiguous": (32, 8), "transposed": (8, 24), "sliced": (64, 16)}[layout]


@pytest.fixture(scope="module", params=["NumPy", "PyTorch", "JAX", "fastfc"])
def library(request):
    if request.param not in [*installed(), "fastfc"]:
        pytest.skip("not installed")
    worker = WorkerProcess(request.param, "", 1)
    yield worker
    worker.close()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_library_computes_the_four_formulas(library, dtype, layout):
    shape = SHAPE._replace(layout=layout)
    library.ask("prepare", shape, dtype)
    judge = prepared(ReferenceWorker(), shape, dtype)
    expected = formulas(values(shape, dtype), *WHOLE)
    for kernel in KERNELS:
        result = library.ask("result", kernel)
        assert result.dtype == dtype
        np.testing.assert_allclose(result, expected[kernel], rtol=1e-4, atol=1e-6, err_msg=kernel)
        assert judge.error(kernel, result) <= 1


def test_formulas_are_those_of_the_reference():
    arrays = values(SHAPE, "float64")
    for kernel, (call, out) in load("NumPy", 1)(lambda kept: kept, *arrays).items():
        call()
        np.testing.assert_allclose(out, formulas(arrays, *WHOLE)[kernel], rtol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("wrong", KERNELS)
def test_an_error_larger_than_its_bound_shows(wrong, dtype, monkeypatch):
    name = f"dense_{wrong}"
    right = getattr(reference, name)

    def spoilt(*args, **options):
        right(*args)
        out = args[3] if wrong == "forward" else args[-1]
        out.flat[-1] += 1

    monkeypatch.setattr(kernels, name, spoilt)
    fastfc, judge = prepared(Worker("fastfc", 1), dtype=dtype), prepared(ReferenceWorker(), dtype=dtype)
    for kernel in KERNELS:
        assert (judge.error(kernel, fastfc.result(kernel)) > 1) == (kernel == wrong)


def test_nan_is_an_error():
    judge = prepared(ReferenceWorker())
    assert not judge.error("bias_grad", np.full(3, np.nan)) <= 1


def test_large_float64_results_are_judged_in_part():
    shape = Shape(2, 300, 1000)
    judge, numpy = prepared(ReferenceWorker(), shape, "float64"), prepared(Worker("NumPy", 1), shape, "float64")
    for kernel in KERNELS:
        assert judge.error(kernel, numpy.result(kernel)) <= 1
    assert judge.exact["weight_grad"].shape == (150, 250)


def test_work_counts_every_multiplication_and_addition():
    assert work(SHAPE, "forward", "float32") == 2 * 5 * 7 * 3
    assert work(SHAPE, "bias_grad", "float64") == (5 + 1) * 3 * 8


def test_the_judge_does_the_work_that_it_says():
    judge = prepared(ReferenceWorker(), Shape(64, 64, 64))
    rate = judge.result("forward") / judge.seconds("forward", 3) / 1e9
    assert 0.1 < rate < 1e4
    assert judge.result("bias_grad") == 64 * 64 * 4


def test_the_judge_reads_and_writes_no_memory_but_its_own():
    judge = prepared(ReferenceWorker(), Shape(1, 1, 1))
    assert judge.result("bias_grad") == judge.vector_bytes


def test_seconds_are_those_of_one_call():
    worker = Worker("NumPy", 1)
    worker.calls = {"forward": (lambda: time.sleep(0.01), None)}
    assert 0.01 <= worker.seconds("forward", 2) < 0.02


@pytest.fixture
def worker():
    worker = WorkerProcess("NumPy", "", 1)
    yield worker
    worker.close()


def test_a_worker_answers_from_its_process(worker):
    worker.ask("prepare", SHAPE, "float32")
    result = worker.ask("result", "bias_grad")
    np.testing.assert_allclose(result, values(SHAPE, "float32")[3].sum(axis=0), rtol=1e-5)


def state(worker):
    with open(f"/proc/{worker.process.pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


@pytest.mark.skipif(sys.platform != "linux", reason="processes are stopped on Linux only")
def test_a_worker_is_stopped_between_requests(worker):
    for _ in range(2):
        worker.ask("prepare", SHAPE, "float32")
        time.sleep(0.05)
        assert state(worker) == "T"


def python(code):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return [sys.executable, "-P", "-c", code], environment


def test_a_library_that_fails_is_named():
    code = """
from fastfc.benchmark.worker import Shape, WorkerProcess
worker = WorkerProcess("NumPy", "", 1)
worker.ask("prepare", Shape(1, 1, 1), "float32")
worker.ask("result", "no_such_kernel")
"""
    command, environment = python(code)
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment, timeout=120)
    assert done.returncode == 1
    assert "KeyError: 'no_such_kernel'\n" in done.stderr
    assert done.stderr.endswith("the process of NumPy ended, see its message above\n")


def test_what_a_library_prints_comes_not_between_the_answers():
    code = """
from fastfc.benchmark import worker as peers
def prepare(self, shape, dtype):
    print("a greeting")
peers.Worker.prepare = prepare
peers.serve("NumPy", 1)
"""
    command, environment = python(code)
    request = pickle.dumps(("prepare", SHAPE, "float32"))
    done = subprocess.run(command, input=request, capture_output=True, env=environment, timeout=120)
    assert pickle.loads(done.stdout) is None
    assert done.stderr.strip() == b"a greeting"


@pytest.mark.skipif(sys.platform != "linux", reason="processes are stopped on Linux only")
def test_no_worker_outlives_the_one_who_asks():
    code = """
import os
from fastfc.benchmark.worker import Shape, WorkerProcess
worker = WorkerProcess("NumPy", "", 1)
worker.ask("prepare", Shape(1, 1, 1), "float32")
print(worker.process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    command, environment = python(code)
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, timeout=120)
    gone = time.monotonic() + 10
    while time.monotonic() < gone:
        try:
            with open(f"/proc/{int(done.stdout)}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return
        except FileNotFoundError:
            return
        time.sleep(0.05)
    raise AssertionError("still there")


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_start_has_every_worker(threads, alone, monkeypatch):
    started = []
    monkeypatch.setattr(
        "fastfc.benchmark.worker.WorkerProcess", lambda library, version, *rest: started.append((library, *rest))
    )
    start(threads, ["NumPy"], module="some.module", alone=alone, isa="avx2")
    with_one = [("fastfc, 1 thread", 1)] * (threads == 2 and alone)
    expected = [("NumPy", threads), ("fastfc", threads), *with_one, ("limit", 1)]
    assert started == [(*each, "some.module", "avx2") for each in expected]


def test_a_library_is_installed_when_all_its_packages_are():
    packages = {"some": ["numpy", "no-such-package"], "other": ["numpy", "pytest"], "none": ["no-such-package"]}
    assert installed(packages) == {"other": np.__version__}
