import json
import os
import subprocess
import sys

import numpy as np
import pytest

from fastfc import compare, kernels, reference
from fastfc.cli import main

FIELDS = {
    "kernel": str,
    "rows": int,
    "in_features": int,
    "out_features": int,
    "dtype": str,
    "threads": int,
    "library": str,
    "version": str,
    "seconds": float,
    "rate": float,
    "rate_unit": str,
    "error_in_bounds": float,
}


@pytest.fixture
def quick(monkeypatch):
    """One short round, in this process, without its cores changed."""
    monkeypatch.setattr(compare, "ROUNDS", 1)
    monkeypatch.setattr(compare, "BLOCK_SECONDS", 0)
    monkeypatch.setattr(compare, "pin", lambda threads: None)


def arrays(dtype, shape=(5, 7, 3), seed=1):
    rows, inputs, outputs = shape
    rng = np.random.default_rng(seed)
    sizes = [(rows, inputs), (inputs, outputs), outputs, (rows, outputs)]
    return [rng.standard_normal(size).astype(dtype) for size in sizes]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_table_and_json(quick, dtype, tmp_path, capsys):
    file = tmp_path / "out.json"
    compare.compare([(5, 7, 3), (1, 1, 1)], 1, dtype, file)
    out = capsys.readouterr().out
    records = json.loads(file.read_text())
    libraries = {record["library"] for record in records}
    assert {"NumPy", "fastfc"} <= libraries
    assert len(records) == 2 * 4 * len(libraries)
    for record in records:
        assert {name: type(value) for name, value in record.items()} == FIELDS
        assert record["rate_unit"] == ("GB/s" if record["kernel"] == "bias_grad" else "GFLOP/s")
        assert record["error_in_bounds"] <= 1, record
        assert record["rate"] > 0
    for word in ["5x7x3", "1x1x1", "forward", "weight_grad", "input_grad", "bias_grad", "geometric mean"]:
        assert word in out


@pytest.mark.parametrize("module", [kernels, reference])
def test_the_calls_are_the_four_formulas(module):
    x, weight, bias, grad = arrays("float64")
    calls = compare.array_calls(module, x, weight, bias, grad)
    np.testing.assert_allclose(calls["forward"](), np.maximum(x @ weight + bias, 0))
    np.testing.assert_allclose(calls["weight_grad"](), x.T @ grad)
    np.testing.assert_allclose(calls["input_grad"](), grad @ weight.T)
    np.testing.assert_allclose(calls["bias_grad"](), grad.sum(axis=0))


@pytest.mark.parametrize("package", ["torch", "jax"])
def test_a_peer_computes_the_same(package):
    peer = pytest.importorskip(package)
    peer_calls = getattr(compare, f"{package}_calls")
    values = arrays("float32")
    ours, theirs = compare.array_calls(reference, *values), peer_calls(peer, *values)
    for kernel, call in ours.items():
        np.testing.assert_allclose(np.asarray(theirs[kernel]()), call(), rtol=1e-4, atol=1e-6, err_msg=kernel)


def test_an_error_larger_than_its_bound_shows(quick, monkeypatch):
    def wrong(x, grad_output, out, **options):
        reference.dense_weight_grad(x, grad_output, out)
        out[-1, -1] += 1

    monkeypatch.setattr(kernels, "dense_weight_grad", wrong)
    for records in compare.measure((5, 7, 3), "float32", 1, compare.libraries(1)):
        errors = {record["library"]: record["error_in_bounds"] for record in records}
        assert errors["NumPy"] <= 1
        assert (errors["fastfc"] > 1) == (records[0]["kernel"] == "weight_grad")


def test_rate_counts_every_multiplication_and_addition(quick):
    for records in compare.measure((5, 7, 3), "float64", 1, compare.libraries(1)):
        for record in records:
            work = (5 + 1) * 3 * 8 if record["kernel"] == "bias_grad" else 2 * 5 * 7 * 3
            assert record["rate"] * record["seconds"] * 1e9 == pytest.approx(work)


def test_ratio_is_against_the_best_other():
    seconds = {"NumPy": 4.0, "fastfc": 2.0, "PyTorch": 1.0}
    assert compare.ratio([{"library": name, "seconds": s} for name, s in seconds.items()]) == 0.5


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.5, "1.50 s"), (0.25, "250 ms"), (1.234e-3, "1.23 ms"), (56.78e-6, "56.8 µs"), (2e-7, "0.20 µs")],
)
def test_readable(seconds, text):
    assert compare.readable(seconds) == text


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot pin here")
def test_pin_keeps_the_process_on_as_many_cores():
    code = "import os; from fastfc.compare import pin; assert pin(1) == sorted(os.sched_getaffinity(0))"
    path = os.pathsep.join(filter(None, sys.path))
    subprocess.run([sys.executable, "-P", "-c", code], check=True, env=os.environ | {"PYTHONPATH": path})


def test_command_starts_over_where_numpy_was_held_back(monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    file = tmp_path / "out.json"
    assert main(["compare", "--shapes", "2x3x4", "--json", str(file)]) == 0
    assert "2x3x4" in capfd.readouterr().out
    assert {record["rows"] for record in json.loads(file.read_text())} == {2}
