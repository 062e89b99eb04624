"""Whatever is passed to a public function: the right answer or a clear error. The cases are made in fuzz.py."""

import json
import random
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import fuzz
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run, start
from sample import slow
from soak import report

import fastfc as fc
from fastfc import kernels

QUICK, FULL = 10_000, 1_000_000
SHARE = 50_000  # cases of one process
SECONDS = 600  # that a process may take


def run_cases(first, last, tmp_path):
    """What came of the cases of these numbers, and the defects."""
    running = Path(tmp_path, "running")
    running.write_bytes(bytes(8))
    process = start(f"import fuzz; fuzz.main({first}, {last}, {str(running)!r})", PYTHONFAULTHANDLER=1)
    try:
        output, errors = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = "", f"more than {SECONDS} seconds\n{process.communicate()[1]}"
    if process.returncode:
        [number] = struct.unpack("q", running.read_bytes())
        pytest.fail(f"case {number} ended the process, exit status {process.returncode}\n{errors[-3000:]}")
    answer = json.loads(output)
    return answer["found"], answer["defects"]


def run_in_shares(last, tmp_path):
    total, defects = {}, []
    for first in range(0, last, SHARE):
        found, wrong = run_cases(first, min(last, first + SHARE), tmp_path)
        defects += wrong
        for what, count in found.items():
            total[what] = total.get(what, 0) + count
    assert defects == [], "\n".join(f"case {number}: {text}" for number, text in defects)
    assert sum(total.values()) == last
    return total


@pytest.mark.parametrize("cases", [QUICK // 4, slow(QUICK)])
def test_thousands_of_cases(cases, tmp_path):
    total = run_in_shares(cases, tmp_path)
    for kind in ("kernel_case", "network_case", "scored_case"):
        assert total[f"{kind} right"] > 100 and total[f"{kind} refused"] > 100


@pytest.mark.soak
def test_a_million_cases(tmp_path):
    begin = time.time()
    total = run_in_shares(FULL, tmp_path)
    report("fuzz", cases=FULL, seconds=round(time.time() - begin), **total)


@settings(max_examples=200, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_cases_that_shrink(r):
    """The same cases, of which hypothesis finds the simplest that fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fuzz, "LONG", [5000])  # there is no limit of memory here
        fuzz.case(r)


def test_every_public_function_is_called():
    assert set(fuzz.KERNELS) == set(kernels.__all__)
    # in the cases of networks and methods
    called = {"check_gradients", "numerical_gradient", "load_fashion_mnist", "CustomLoss", "Elementwise"}
    called |= {name for name in fc.__all__ if name.startswith("load_")}  # take no arguments
    elsewhere = {
        "initializers",
        "kernels",
        "metrics",
        "nopython",
        "reference",
        "DivergenceWarning",
        "load",
        "from_onnx",
        "from_sklearn",
        "from_torch",
        "tabular",
    }  # see fuzz_readers.py
    assert set(fuzz.MADE) | called | elsewhere == set(fc.__all__)
    assert set(fuzz.METRICS) == {name for name in fc.metrics.BY_NAME if not name.startswith("f1_")}


def test_a_defect_is_found(monkeypatch):
    """A wrong result, an error that does not say where, one that leaves something behind, one of another kind."""

    def wrong(x, out):
        out[...] = 3

    def silent(x, out):
        raise ValueError("no")

    def untidy(x, out):
        out[...] = 3
        raise ValueError("exp: no")

    def other(x, out):
        raise KeyError("exp")

    monkeypatch.setattr(fuzz, "KINDS", [fuzz.kernel_case])
    monkeypatch.setattr(fuzz, "KERNELS", ["exp"])
    for broken in (wrong, silent, untidy, other):
        monkeypatch.setattr(kernels, "exp", broken)
        with pytest.raises(fuzz.Defect):
            for number in range(100):
                fuzz.case(random.Random(number))


def zero_stride(n, columns, value=1.0):
    return np.broadcast_to(np.full((1, columns), value, np.float32), (n, columns))


def test_more_rows_than_32_bits_count():
    """Views of one row: what is summed has every row, and nothing has their size."""
    n = (1 << 31) + 5
    out, grad = np.zeros(16, np.float32), np.zeros((1, 1), np.float32)
    kernels.dense_bias_grad(zero_stride(n, 16, 0.5), out)
    np.testing.assert_array_equal(out, np.float32(n / 2))
    kernels.dense_weight_grad(zero_stride(1 << 28, 1, 0.5), zero_stride(1 << 28, 1, 0.5), grad)
    assert grad == 1 << 26


LIMITED = """
import resource
import numpy as np
import fastfc as fc
from fastfc import kernels
row = np.zeros((1, 4), np.float32)
long = np.broadcast_to(row, ((1 << 31) + 1, 4))
net, loss = fc.MLP([4, 3], seed=0), fc.MSELoss()
y = np.zeros((1, 3), np.float32)
net.fit(row, y, loss=loss, optimizer=fc.SGD())
net.predict(row), net.forward(row), loss(y, y), net.evaluate(row, y, loss), fc.metrics.mae(y, y)
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 29), resource.RLIM_INFINITY))
before = net.params.copy()
for call in (
    lambda: net.predict(long),
    lambda: net.forward(long),
    lambda: loss(long, long),
    lambda: net.evaluate(long, long[:, :3], loss),
    lambda: net.fit(long, long[:, :3], loss=loss, optimizer=fc.SGD()),
    lambda: net.train_step(long, long[:, :3], loss, fc.SGD()),
    lambda: fc.metrics.mae(long, long),
    lambda: net.predict(np.broadcast_to(row.astype(np.float16), long.shape)),
):
    try:
        call()
    except MemoryError:
        print("MemoryError")
    assert (net.params == before).all()
assert net.predict(row).shape == (1, 3)
net.backward(net.forward(row))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by RLIMIT_AS, and read from /proc")
def test_results_of_too_many_rows_are_memory_errors():
    assert run(LIMITED)[0].split() == ["MemoryError"] * 8


def test_rows_of_nothing():
    """An array of no columns may have more rows than any loop could pass."""
    n = 1 << 58
    empty, none = np.zeros((n, 0), np.float32), np.zeros(0, np.float32)
    square = np.zeros((0, 0), np.float32)
    kernels.dense_forward(empty, square, none, empty.copy())
    kernels.dense_input_grad(empty, square, empty.copy())
    kernels.dense_weight_grad(empty, empty, square)
    kernels.dense_bias_grad(empty, none)
    for activation in ("relu", "softmax"):
        kernels.activation_forward(empty, empty.copy(), activation)
        kernels.activation_forward(empty.T, empty.T.copy(), activation)
        kernels.activation_backward(empty, empty, empty.copy(), activation)
    assert kernels.mse_loss(empty, empty, empty.copy()) == kernels.cross_entropy_loss(empty, empty, empty.copy()) == 0
    for layer in (fc.ReLU(), fc.Softmax(), fc.Dropout(0.5)):
        assert layer.predict(empty).shape == (n, 0)
        assert layer.backward(layer.forward(empty)).shape == (n, 0)


def test_arrays_are_held_while_a_kernel_runs():
    """Another thread drops its references and can't shrink them: NumPy sees that they are in use."""
    x, out = np.ones((1 << 13, 1 << 10), np.float32), np.zeros(1 << 10, np.float32)
    kernels.dense_bias_grad(x, out)
    refused, done = [], threading.Event()

    def shrink():
        while not done.is_set():
            for array in (x, out):
                try:
                    array.resize((0,))
                except ValueError:
                    refused.append(None)

    thread = threading.Thread(target=shrink)
    thread.start()
    for _ in range(50):
        kernels.dense_bias_grad(x, out)
        kernels.dense_bias_grad(x.copy(), out)  # nobody else has it
        assert (out == 1 << 13).all()
    done.set()
    thread.join()
    assert refused and x.shape == (1 << 13, 1 << 10)


def test_what_a_layer_keeps_may_be_gone_or_changed_before_backward():
    """`forward` keeps x itself: dropped it lives on, of another size it is refused, of other indices too."""
    net, x = fc.MLP([4, 3], seed=0), np.ones((5, 4), np.float32)
    y = net.forward(x)
    expected = net.backward(y)
    net.forward(np.ones((5, 4), np.float32))
    np.testing.assert_array_equal(net.backward(y), expected)
    net.forward(x)
    x.resize((2, 4), refcheck=False)
    with pytest.raises(ValueError, match="backward"):
        net.backward(y)
    table, indices = fc.Embedding(3, 2, seed=0), np.ones((5, 1), np.float32)
    y = table.forward(indices)
    for wrong in (3, -1, np.nan, 1e30):
        indices[2] = wrong
        with pytest.raises(ValueError, match="backward"):
            table.backward(y)
    assert np.isfinite(table.grads).all()
