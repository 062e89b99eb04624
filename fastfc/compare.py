"""`fastfc compare`: the four kernels against NumPy and, where installed, PyTorch and JAX."""

import json
import os
import statistics
import time
from importlib import import_module, metadata

import numpy as np

from fastfc import __version__, kernels, reference

SHAPES = [(1, 784, 512), (32, 64, 128), (128, 128, 128), (256, 256, 256), (1024, 64, 10), (512, 1024, 1024)]
ROUNDS, BLOCK_SECONDS = 11, 0.003


def pin(threads):
    """Keep this process on its last `threads` cores; return them, or None where that is impossible."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    os.sched_setaffinity(0, cores)
    return cores


# Each library gives the four kernels as calls without arguments that return the output. PyTorch and the
# two in NumPy's form write into an output made beforehand; JAX has no such thing.


def array_calls(module, x, weight, bias, grad, **options):
    z, dw, db, dx = np.empty_like(grad), np.empty_like(weight), np.empty_like(bias), np.empty_like(x)

    def forward():
        module.dense_forward(x, weight, bias, z, "relu", **options)
        return z

    def weight_grad():
        module.dense_weight_grad(x, grad, dw, **options)
        return dw

    def input_grad():
        module.dense_input_grad(grad, weight, dx, **options)
        return dx

    def bias_grad():
        module.dense_bias_grad(grad, db, **options)
        return db

    return {"forward": forward, "weight_grad": weight_grad, "input_grad": input_grad, "bias_grad": bias_grad}


def torch_calls(torch, *arrays):
    x, weight, bias, grad = map(torch.from_numpy, arrays)
    z, dw, db, dx = map(torch.empty_like, (grad, weight, bias, x))
    return {
        "forward": lambda: torch.addmm(bias, x, weight, out=z).relu_(),
        "weight_grad": lambda: torch.mm(x.t(), grad, out=dw),
        "input_grad": lambda: torch.mm(grad, weight.t(), out=dx),
        "bias_grad": lambda: torch.sum(grad, 0, out=db),
    }


def jax_calls(jax, *arrays):
    x, weight, bias, grad = map(jax.device_put, arrays)
    forward = jax.jit(lambda x, weight, bias: jax.nn.relu(x @ weight + bias))
    weight_grad = jax.jit(lambda x, grad: x.T @ grad)
    input_grad = jax.jit(lambda grad, weight: grad @ weight.T)
    bias_grad = jax.jit(lambda grad: grad.sum(0))
    return {
        "forward": lambda: forward(x, weight, bias).block_until_ready(),
        "weight_grad": lambda: weight_grad(x, grad).block_until_ready(),
        "input_grad": lambda: input_grad(grad, weight).block_until_ready(),
        "bias_grad": lambda: bias_grad(grad).block_until_ready(),
    }


def libraries(threads):
    """Name and version of each library, with the function that gives its calls for arrays."""
    options = {"n_threads": threads} if threads > 1 else {}
    found = {
        ("NumPy", np.__version__): lambda *arrays: array_calls(reference, *arrays),
        ("fastfc", __version__): lambda *arrays: array_calls(kernels, *arrays, **options),
    }
    for name, package, calls in [("PyTorch", "torch", torch_calls), ("JAX", "jax", jax_calls)]:
        try:
            module = import_module(package)
        except ImportError:
            continue
        if package == "torch":
            module.set_num_threads(threads)
        else:
            module.config.update("jax_enable_x64", True)
        found[name, metadata.version(package)] = lambda *arrays, m=module, c=calls: c(m, *arrays)
    return found


def references(x, weight, bias, grad):
    """Each kernel in the next wider type, and the bound k eps |A| |B| of its error, k terms to a sum."""
    wider = np.float64 if x.dtype == np.float32 else np.longdouble
    exact = array_calls(reference, *(a.astype(wider) for a in (x, weight, bias, grad)))
    (rows, inputs), outputs, eps = x.shape, len(bias), np.finfo(x.dtype).eps
    x, weight, bias, grad = (np.abs(a.astype(np.float64)) for a in (x, weight, bias, grad))
    bounds = {
        "forward": (inputs + 1) * eps * (x @ weight + bias),
        "weight_grad": rows * eps * (x.T @ grad),
        "input_grad": outputs * eps * (grad @ weight.T),
        "bias_grad": rows * eps * grad.sum(axis=0),
    }
    return {kernel: (exact[kernel](), bound) for kernel, bound in bounds.items()}


def block(call, number):
    start = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - start) / number


def interleaved(calls, threads):
    """Median seconds of each call, all of them in turn in every round, so that noise meets all alike."""
    numbers = [max(1, int(BLOCK_SECONDS / min(block(call, 1) for _ in range(3)))) for call in calls]
    samples: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, number, sample in zip(calls, numbers, samples, strict=True):
            if threads > 1:
                time.sleep(0.005)  # until the last library's idle threads no longer spin on our cores
            call()
            sample.append(block(call, number))
    return [statistics.median(sample) for sample in samples]


def measure(shape, dtype, threads, contestants):
    """For each kernel, one record for each library."""
    rows, inputs, outputs = shape
    rng = np.random.default_rng(0)
    sizes = [(rows, inputs), (inputs, outputs), outputs, (rows, outputs)]
    arrays = [rng.standard_normal(size).astype(dtype) for size in sizes]
    calls = [make(*arrays) for make in contestants.values()]
    for kernel, (exact, bound) in references(*arrays).items():
        if kernel == "bias_grad":
            unit, work = "GB/s", (rows + 1) * outputs * np.dtype(dtype).itemsize
        else:
            unit, work = "GFLOP/s", 2 * rows * inputs * outputs
        ours = [library[kernel] for library in calls]
        errors = [float(np.max(np.abs(np.asarray(call()) - exact) / bound)) for call in ours]
        medians = interleaved(ours, threads)
        yield [
            {
                "kernel": kernel,
                "rows": rows,
                "in_features": inputs,
                "out_features": outputs,
                "dtype": dtype,
                "threads": threads,
                "library": library,
                "version": version,
                "seconds": seconds,
                "rate": work / seconds / 1e9,
                "rate_unit": unit,
                "error_in_bounds": error,
            }
            for (library, version), seconds, error in zip(contestants, medians, errors, strict=True)
        ]


def ratio(records):
    """How many times as fast as the best other library fastfc is."""
    seconds = {record["library"]: record["seconds"] for record in records}
    fastfc = seconds.pop("fastfc")
    return min(seconds.values()) / fastfc


def readable(seconds):
    unit, scale = ("s", 1) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("µs", 1e6)
    value = seconds * scale
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


def compare(shapes, threads, dtype, json_file):
    """Print the table, a line at a time; write every record to `json_file` at the end."""
    cores = pin(threads)
    contestants = libraries(threads)
    where = "not pinned" if cores is None else f"pinned to {', '.join(f'core {core}' for core in cores)}"
    print(
        f"{dtype}, {threads} thread{'s' * (threads > 1)}, {where}; "
        f"median of {ROUNDS} interleaved rounds, each library called from Python.\n"
        "Rates are GFLOP/s, for bias_grad GB/s. err: largest error against a wider type, as a part of the\n"
        "bound k·eps·(|A| |B|) for sums of k terms. ratio: time of the best other library / time of fastfc."
    )
    titles = [f"{library} {version}" for library, version in contestants]
    print("\n" + " " * 13 + "".join(f" | {title:^24}" for title in titles) + " |")
    records, ratios = [], []
    for shape in shapes:
        heads = f" | {'time':>9} {'rate':>7} {'err':>6}" * len(contestants)
        print(f"{'x'.join(map(str, shape)):<13}{heads} |  ratio")
        for row in measure(shape, dtype, threads, contestants):
            cells = [
                f" | {readable(r['seconds']):>9} {r['rate']:7.1f} {r['error_in_bounds']:6.3f}" for r in row
            ]
            ratios.append(ratio(row))
            print(f"{row[0]['kernel']:<13}{''.join(cells)} | {ratios[-1]:6.2f}", flush=True)
            records += row
    print(
        f"\nfastfc is first in {sum(r >= 1 for r in ratios)} of {len(ratios)} lines; ratio {min(ratios):.2f} "
        f"to {max(ratios):.2f}, geometric mean {statistics.geometric_mean(ratios):.2f}."
    )
    if json_file:
        json_file.write_text(json.dumps(records, indent=1) + "\n")
        print(f"Wrote {json_file}")
