"""The bits of every kernel stay what they were, on each instruction set that was recorded in golden.json.

A change of the order of a sum, or of an approximation, shows here first. If it is meant, record again, once for
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
from examples import LAYERS, LOSSES, OPTIMIZERS, WIDTH, N
from test_kernel_losses import LOSSES as LOSS_KERNELS

import fastfc as fc
from fastfc import kernels
from fastfc.io.checkpoint import columns_of_parameters
from fastfc.kernels.ops.activation_rules import ACTIVATIONS, of_input
from fastfc.kernels.ops.gemm import CHUNK, LONG
from fastfc.kernels.simd.isa import host_isa

FILE = Path(__file__).with_name("golden.json")
DTYPES = ["float32", "float64"]
# (n, i, o): small, beyond tiles and blocks, one row, narrow layers with long sums, several chunks of a batch
SHAPES = [(5, 7, 3), (33, 773, 37), (1, 150, 70), (6, LONG + 9, 2), (6, 3, LONG + 9), (CHUNK + 50, 3, 5)]
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
    for activation, numbers in ACTIVATIONS.items():
        kernels.activation_forward(logits, out, activation)
        yield f"activation_forward {activation}", [out]
        grad = values(out.shape, dtype, 8)
        kernels.activation_backward(logits if of_input(numbers) else out, grad, grad, activation)
        yield f"activation_backward {activation}", [grad]
    for name in ["exp", "expm1", "log", "log1p", "tanh", "erf", "sin", "cos"]:
        getattr(kernels, name)(np.abs(logits) if "log" in name else logits, out)
        yield name, [out]
    for name in ["mse_loss", "cross_entropy_loss", "bce_with_logits_loss"]:
        yield name, [getattr(kernels, name)(logits, target, out), out]
    yield "cross_entropy_loss of classes", [kernels.cross_entropy_loss(logits, np.arange(37) % 19, out), out]
    params, grads, velocity = (values((101,), dtype, seed) for seed in (9, 10, 11))
    for _ in range(3):
        kernels.sgd(params, grads, velocity, 0.1, 0.9, 0.01)
    yield "sgd", [params, velocity]
    yield from loss_results(dtype)
    yield from network_results(dtype)


def loss_results(dtype):
    """Every loss kernel, with its numbers."""
    for name, (loss, targets, numbers) in LOSS_KERNELS.items():
        n, c = 29, 2 * 17
        prediction, out = 4 * values((n, c), dtype, 20), values((n, c), dtype, 21)
        target = np.abs(values((n, c), dtype, 22))
        if targets == "classes":
            target = np.arange(n) * 7 % c
        if targets in ("counts", "means"):
            target = np.floor(5 * target)
        if targets in ("means", "variances", "predicted probabilities"):
            prediction = np.abs(prediction) / (4 if "prob" in targets else 1)
        if targets == "variances":
            target = target[:, : c // 2]
        yield f"{name} with {numbers}", [getattr(kernels, loss)(prediction, target, out, **numbers), out]


def filled(net, dtype):
    """The network with parameters and statistics that every machine and version makes alike, all positive."""
    of_parameters = columns_of_parameters(net)
    given = np.abs(values(of_parameters.shape, dtype, 30)) + dtype(0.0625)
    net.params, net.buffers = given[of_parameters], given[~of_parameters]
    return net


def by_layer(net, of_parameters, of_buffers):
    """One vector, each layer's buffers behind its parameters: so they were recorded."""
    result = np.zeros(net.params.size + net.buffers.size, net.dtype)
    where = columns_of_parameters(net)
    result[where], result[~where] = of_parameters, of_buffers
    return result


def network_results(dtype):
    """Every kind of layer: a prediction, forward, backward and two steps; every optimizer and every loss: three."""
    x, y = values((N, WIDTH), dtype, 31), values((N, WIDTH), dtype, 32)
    for name, build in LAYERS.items():
        net, given = filled(build(dtype), dtype), np.floor(2 * x + 2) if name == "Embedding" else x
        yield f"predict {name}", [net.predict(given)]
        yield f"forward and backward {name}", [net.forward(given), net.backward(y), by_layer(net, net.grads, 0)]
        optimizer = fc.SGD(0.05, momentum=0.9)
        steps = [net.train_step(given, y, fc.MSELoss(), optimizer) for _ in range(2)]
        yield f"steps {name}", [*steps, by_layer(net, net.params, net.buffers)]
    for name, options in OPTIMIZERS:
        net, optimizer = (
            filled(fc.MLP([WIDTH, 6, WIDTH], "tanh", seed=0, dtype=dtype), dtype),
            getattr(fc, name)(**options),
        )
        steps = [net.train_step(x, y, fc.MSELoss(), optimizer) for _ in range(3)]
        yield f"{name} {options}", [*steps, net.params, optimizer.state]
    for i, (name, options, last, targets) in enumerate(LOSSES):
        net = filled(fc.Sequential([fc.Linear(WIDTH, WIDTH, seed=0, dtype=dtype), last()]), dtype)
        target = np.abs(y)
        if targets.__name__ == "classes":
            target = np.arange(N) % WIDTH
        elif targets.__name__ == "counts":
            target = np.floor(6 * target)
        elif targets.__name__ == "half":
            target = target[:, : WIDTH // 2]
        loss, optimizer = getattr(fc, name)(**options), fc.SGD(0.01)
        steps = [net.train_step(x, target, loss, optimizer) for _ in range(3)]
        yield f"steps by loss {i} {name}", [*steps, net.params]
    net = filled(fc.MLP([WIDTH, 9, WIDTH], "gelu", seed=0, dtype=dtype), dtype)
    schedule = fc.CosineAnnealingLR(5)
    net.fit(x, y, loss=fc.MSELoss(), optimizer=fc.Adam(0.01, schedule=schedule), epochs=2, batch_size=5, shuffle=False)
    yield "fit", [net.params]


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
