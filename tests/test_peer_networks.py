import numpy as np
import pytest

from fastfc.benchmark import networks as peer_networks
from fastfc.benchmark.networks import LIBRARIES, MOMENTUM, NetworkReference, NetworkWorker, Task, flat, make, values
from fastfc.benchmark.worker import NETWORK_PACKAGES, installed

STEP, PREDICT, ONE = Task("step", (3, 8, 5, 2), 4), Task("predict", (3, 8, 5, 2), 4), Task("predict_one", (3, 8, 2), 1)
EPOCH, FIT, UPDATE = Task("epoch", (3, 8, 5, 4), 4), Task("fit", (3, 8, 5, 4), 4), Task("update", (3, 8), 1)
CONTENDERS = {
    STEP: {"NumPy", "PyTorch", "JAX", "JAX loop", "fastfc"},
    PREDICT: {"NumPy", "PyTorch", "JAX", "ONNX Runtime", "fastfc"},
    ONE: {"fastfc"},
    EPOCH: {"PyTorch", "scikit-learn", "fastfc"},
    FIT: {"fastfc", "its steps"},
    UPDATE: {"fastfc"},
}
BY = {"JAX loop": "JAX", "its steps": "fastfc"}
THERE = [*installed(NETWORK_PACKAGES), "fastfc"]


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    monkeypatch.setattr(peer_networks, "SAMPLES", 20)


@pytest.fixture(params=[name for name in LIBRARIES if name != "limit"])
def worker(request):
    if request.param not in THERE:
        pytest.skip("not installed")
    worker = make(request.param, 1)
    worker.name = request.param
    return worker


def judge(task, dtype):
    judge = make("limit", 1)
    judge.prepare(task, dtype)
    return judge


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("task", CONTENDERS, ids=lambda task: task.kind)
def test_a_library_does_what_the_formulas_say(worker, task, dtype):
    names = worker.prepare(task, dtype)
    assert set(names) == {name for name in CONTENDERS[task] if BY.get(name, name) == worker.name}
    for name in names:
        result = worker.result(name)
        assert result.dtype == dtype
        assert judge(task, dtype).error(result) <= 100 * np.finfo(dtype).eps
        assert worker.seconds(name, 1) > 0


def test_an_error_is_a_part_of_the_change():
    exact = judge(STEP, "float64")
    assert exact.error(exact.exact) == 0
    assert exact.error(exact.start) == pytest.approx(1)
    assert judge(PREDICT, "float64").error(0.0) == pytest.approx(1)


def test_each_kind_changes_its_parameters():
    for task in (STEP, EPOCH, FIT, UPDATE):
        exact = judge(task, "float64")
        assert np.mean(exact.exact != exact.start) > 0.5


def test_the_update_is_the_rule_by_hand():
    exact, given = judge(UPDATE, "float64"), values(UPDATE, "float64")
    gone = sum((1 - MOMENTUM**k) / (1 - MOMENTUM) for k in range(1, peer_networks.CHECKED_STEPS + 1))
    expected = flat(given.weights, given.biases) - peer_networks.LR * gone * given.y
    np.testing.assert_allclose(exact.exact, expected, rtol=1e-12)


def test_a_call_that_does_many_is_made_so_much_less_often():
    worker = NetworkWorker("fastfc", 1)
    worker.prepare(ONE, "float32")
    made = []
    worker.calls["fastfc"] = (lambda: made.append(1), None)
    for number, calls in [(1, 1), (peer_networks.PREDICTIONS, 1), (peer_networks.PREDICTIONS + 1, 2)]:
        made.clear()
        worker.seconds("fastfc", number)
        assert len(made) == 1 + calls  # one before the clock starts


def test_the_memory_moves_as_many_bytes_as_the_update():
    judge = NetworkReference("limit", 1)
    assert judge.prepare(UPDATE, "float64") == ["memory"]
    [memory] = [call.run.__closure__ for call in judge.found.values()]
    array = memory[0].cell_contents.x
    parameters = judge.exact.size
    assert 2 * array.nbytes == pytest.approx(5 * 8 * parameters, abs=16)
    assert judge.result("memory") is None


def test_all_values_have_the_dtype():
    for task in CONTENDERS:
        x, y, weights, biases = values(task, "float32")
        assert {a.dtype for a in (x, *weights, *biases)} == {np.dtype("float32")}
        assert y.dtype == ("int64" if task.kind in ("epoch", "fit") else "float32")
