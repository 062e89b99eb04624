"""The bits of every kernel stay what they were, on each instruction set that was recorded in golden.json.

A change of the order of a sum, or of an approximation, shows here first. If it is meant, record anew, once for
each instruction set (with a folder of its own for compiled kernels, FASTFC_CACHE):

    python tests/test_golden.py
    NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES= python tests/test_golden.py
    NUMBA_CPU_NAME=nehalem NUMBA_CPU_FEATURES= python tests/test_golden.py
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from fastfc import kernels
from fastfc.kernels.activations import of_input
from fastfc.kernels.gemm import CHUNK, DEPTH, LONG
from fastfc.kernels.simd import host_isa

FILE = Path(__file__).with_name("golden.json")
DTYPES = ["float32", "float64"]
# (n, i, o): small, beyond tiles and blocks, one row, narrow layers with long sums, several chunks of a batch
SHAPES = [(5, 7, 3), (33, DEPTH + 5, 37), (1, 150, 70), (6, LONG + 9, 2), (6, 3, LONG + 9), (CHUNK + 50, 3, 5)]
SHAPES += [(CHUNK + 50, 1, 1)]


def values(shape, dtype, seed):
    """Numbers in [-1, 1) that every machine and version makes alike: multiples of 2⁻²³ by a formula."""
    index = np.arange(1, np.prod(shape, dtype=int) + 1, dtype=np.uint64) + np.uint64(1000003 * seed)
    scattered = (index * np.uint64(2654435761) >> np.uint64(8)) % np.uint64(1 << 24)
    return (scattered.astype(np.int64) - (1 << 23)).astype(dtype).reshape(shape) / dtype(1 << 23)


def results(dtype):
    """(name, arrays) of every kernel and shape."""
    for n, i, o in SHAPES:
        x, weight, bias, grad = (values(s, dtype, seed) for seed, s in enumerate([(n, i), (i, o), (o,), (n, o)]))
        out, dw, db, dx = (values(s, dtype, 4) for s in [(n, o), (i, o), (o,), (n, i)])
        shape = f"{n}x{i}x{o}"
        for activation in ["identity", "relu", "sigmoid", "tanh"]:
            kernels.dense_forward(x, weight, bias, out, activation)
            yield f"dense_forward {activation} {shape}", [out]
        for name, call, written in [
            ("weight_grad", lambda f, x=x, grad=grad, dw=dw: f(x, grad, dw), dw),
            ("bias_grad", lambda f, grad=grad, db=db: f(grad, db), db),
        ]:
            for kind in ("dense_", "dense_add_"):
                call(getattr(kernels, kind + name))
                yield f"{kind}{name} {shape}", [written]
        kernels.dense_input_grad(grad, weight, dx)
        yield f"dense_input_grad {shape}", [dx]
    logits, target, out = (
        8 * values((37, 19), dtype, 5),
        np.abs(values((37, 19), dtype, 6)),
        values((37, 19), dtype, 7),
    )
    for activation, numbers in kernels.activations.ACTIVATIONS.items():
        kernels.activation_forward(logits, out, activation)
        yield f"activation_forward {activation}", [out]
        grad = values(out.shape, dtype, 8)
        kernels.activation_backward(logits if of_input(numbers) else out, grad, grad, activation)
        yield f"activation_backward {activation}", [grad]
    for name in ["exp", "expm1", "log", "log1p", "tanh", "erf"]:
        getattr(kernels, name)(np.abs(logits) if "log" in name else logits, out)
        yield name, [out]
    for name in ["mse_loss", "cross_entropy_loss", "bce_with_logits_loss"]:
        yield name, [getattr(kernels, name)(logits, target, out), out]
    yield "cross_entropy_loss of classes", [kernels.cross_entropy_loss(logits, np.arange(37) % 19, out), out]
    params, grads, velocity = (values((101,), dtype, seed) for seed in (9, 10, 11))
    for _ in range(3):
        kernels.sgd(params, grads, velocity, 0.1, 0.9, 0.01)
    yield "sgd", [params, velocity]


def digests():
    return {
        f"{name} {dtype}": hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in arrays)).hexdigest()
        for dtype in DTYPES
        for name, arrays in results(np.dtype(dtype).type)
    }


def test_bits_are_those_recorded():
    recorded, isa = json.loads(FILE.read_text()), host_isa().name
    if isa not in recorded:
        pytest.skip(f"no bits are recorded for {isa}; `python tests/test_golden.py` records those of this machine")
    found = digests()
    assert [name for name in found if found[name] != recorded[isa].get(name)] == []
    assert found.keys() == recorded[isa].keys()


if __name__ == "__main__":
    recorded = json.loads(FILE.read_text()) if FILE.exists() else {}
    recorded[host_isa().name] = digests()
    FILE.write_text(json.dumps(dict(sorted(recorded.items())), indent=1) + "\n")
    print(f"Recorded {len(recorded[host_isa().name])} results for {host_isa().name} in {FILE}")
