"""Each library in a process of its own, for `fastfc compare`: what the processes do and how one talks to them.

Only one of them is awake at a time. So no library's threads, waiting for work or looking for it, take time
from another, and what one sets for its process holds for no other.
"""

import ctypes
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from functools import partial
from importlib import import_module, metadata
from typing import NamedTuple

import numpy as np

from fastfc import kernels, reference
from fastfc._version import __version__
from fastfc.benchmark.instructions import forced, told
from fastfc.benchmark.processor import processor

KERNELS = ["forward", "weight_grad", "input_grad", "bias_grad"]
# What to install for each library: those that have the kernels, and those that have networks.
PACKAGES = {"NumPy": ["numpy"], "PyTorch": ["torch"], "JAX": ["jax"]}
NETWORK_PACKAGES = PACKAGES | {"ONNX Runtime": ["onnxruntime", "onnx"], "scikit-learn": ["scikit-learn"]}

# Set on some machines to pin a library to an older processor's code, for debugging or to get equal bits
# everywhere. NumPy's BLAS, for one, reads such a variable when it loads, and can then run at half its
# speed; a comparison should meet every library at its best.
HANDICAPS = {
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
    "NVPL_BLAS_DEBUG_CPU_TYPE",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
}
THREAD_VARIABLES = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"]

# Where processes are not stopped: threads without work look for it so long (OpenBLAS) before they sleep.
IDLE_SECONDS = 0.03

# A matrix is kept as an array in memory, from which every library takes the view for itself.
LAYOUTS = {
    "contiguous": (lambda matrix: matrix, lambda kept: kept),
    "transposed": (lambda matrix: np.ascontiguousarray(matrix.T), lambda kept: kept.T),
    "sliced": (lambda matrix: np.repeat(matrix, 2, axis=1), lambda kept: kept[:, ::2]),
}


class Shape(NamedTuple):
    """x (rows, inputs), weight (inputs, outputs), grad_output (rows, outputs), all three in one layout."""

    rows: int
    inputs: int
    outputs: int
    layout: str = "contiguous"

    @classmethod
    def parse(cls, text):
        """The shape written as 256x64x10 or 256x64x10:transposed."""
        match = re.fullmatch(rf"([1-9]\d*)x([1-9]\d*)x([1-9]\d*)(?::({'|'.join(LAYOUTS)}))?", text, re.ASCII)
        if match is None:
            raise ValueError(f"{text!r} is not rows x inputs x outputs, such as 256x64x10")
        rows, inputs, outputs, layout = match.groups("contiguous")
        return cls(int(rows), int(inputs), int(outputs), layout)

    def __str__(self):
        sizes = f"{self.rows}x{self.inputs}x{self.outputs}"
        return sizes if self.layout == "contiguous" else f"{sizes}:{self.layout}"


def work(shape, kernel, dtype):
    """Multiplications and additions of a kernel; of bias_grad, which only reads, bytes."""
    rows, inputs, outputs, _ = shape
    return (rows + 1) * outputs * np.dtype(dtype).itemsize if kernel == "bias_grad" else 2 * rows * inputs * outputs


def values(shape, dtype):
    """x, weight, bias and grad_output."""
    rng = np.random.default_rng(0)
    rows, inputs, outputs, _ = shape
    sizes = [(rows, inputs), (inputs, outputs), outputs, (rows, outputs)]
    return [rng.standard_normal(size).astype(dtype) for size in sizes]


# Each library gives the four kernels as calls without arguments, and the array that the call writes. JAX
# writes no array of ours: its call returns one.


def array_calls(module, view, x, weight, bias, grad, **options):
    x, weight, grad = view(x), view(weight), view(grad)
    z, dw, db, dx = (np.empty(a.shape, a.dtype) for a in (grad, weight, bias, x))
    return {
        "forward": (partial(module.dense_forward, x, weight, bias, z, "relu", **options), z),
        "weight_grad": (partial(module.dense_weight_grad, x, grad, dw, **options), dw),
        "input_grad": (partial(module.dense_input_grad, grad, weight, dx, **options), dx),
        "bias_grad": (partial(module.dense_bias_grad, grad, db, **options), db),
    }


def torch_calls(torch, view, *arrays):
    x, weight, bias, grad = map(torch.from_numpy, arrays)
    x, weight, grad = view(x), view(weight), view(grad)
    z, dw, db, dx = (torch.empty(a.shape, dtype=a.dtype) for a in (grad, weight, bias, x))
    return {
        "forward": (lambda: torch.addmm(bias, x, weight, out=z).relu_(), z),
        "weight_grad": (partial(torch.mm, x.t(), grad, out=dw), dw),
        "input_grad": (partial(torch.mm, grad, weight.t(), out=dx), dx),
        "bias_grad": (partial(torch.sum, grad, 0, out=db), db),
    }


def jax_calls(jax, view, *arrays):
    x, weight, bias, grad = map(jax.device_put, arrays)
    forward = jax.jit(lambda x, weight, bias: jax.nn.relu(view(x) @ view(weight) + bias))
    weight_grad = jax.jit(lambda x, grad: view(x).T @ view(grad))
    input_grad = jax.jit(lambda grad, weight: view(grad) @ view(weight).T)
    bias_grad = jax.jit(lambda grad: view(grad).sum(0))
    return {
        "forward": (lambda: forward(x, weight, bias).block_until_ready(), None),
        "weight_grad": (lambda: weight_grad(x, grad).block_until_ready(), None),
        "input_grad": (lambda: input_grad(grad, weight).block_until_ready(), None),
        "bias_grad": (lambda: bias_grad(grad).block_until_ready(), None),
    }


def load(library, threads):
    """The function that gives a library's calls for a view and arrays."""
    if library.startswith("fastfc"):
        return partial(array_calls, kernels, n_threads=threads)
    if library == "NumPy":
        return partial(array_calls, reference)
    module = import_module(PACKAGES[library][0])
    if library == "PyTorch":
        module.set_num_threads(threads)
        module.set_grad_enabled(False)
        return partial(torch_calls, module)
    module.config.update("jax_enable_x64", True)
    return partial(jax_calls, module)


class Worker:
    """One library, in its process: makes its arrays, computes, takes the time."""

    def __init__(self, library, threads):
        self.calls_for = load(library, threads)

    def prepare(self, shape, dtype):
        keep, view = LAYOUTS[shape.layout]
        x, weight, bias, grad = values(shape, dtype)
        self.calls = self.calls_for(view, keep(x), keep(weight), bias, keep(grad))

    def result(self, kernel):
        call, written = self.calls[kernel]
        returned = call()
        return np.asarray(returned if written is None else written)

    def seconds(self, kernel, number):
        """Seconds of one call, on average; after one more that brings arrays to the caches and wakes threads."""
        call, _ = self.calls[kernel]
        call()
        start = time.perf_counter()
        for _ in range(number):
            call()
        return (time.perf_counter() - start) / number


def formulas(arrays, rows, inputs, outputs):
    """The results of the four kernels, for some rows, input and output columns."""
    x, weight, bias, grad = arrays
    return {
        "forward": np.maximum(x[rows] @ weight[:, outputs] + bias[outputs], 0),
        "weight_grad": x[:, inputs].T @ grad[:, outputs],
        "input_grad": grad[rows] @ weight[inputs].T,
        "bias_grad": grad[:, outputs].sum(axis=0),
    }


class ReferenceWorker(Worker):
    """The exact results; and, as a worker, what one core could do at most, the calls returning the work done."""

    FMA_STEPS = 100_000

    def __init__(self):
        from fastfc.kernels import machine
        from fastfc.kernels.simd import isa as simd

        self.machine, self.vector_bytes = machine, simd.host_isa().vector_bytes

    def prepare(self, shape, dtype):
        arrays = values(shape, dtype)
        wider = np.float64 if dtype == "float32" else np.longdouble
        # no BLAS multiplies long doubles: of large results every second, third, ... row and column must do
        most = 256 if wider is np.longdouble else max(shape[:3])
        rows, inputs, outputs = (slice(None, None, -(-size // most)) for size in shape[:3])
        self.parts = {
            "forward": (rows, outputs),
            "weight_grad": (inputs, outputs),
            "input_grad": (rows, inputs),
            "bias_grad": outputs,
        }
        self.exact = formulas([a.astype(wider) for a in arrays], rows, inputs, outputs)
        sums = formulas([np.abs(a.astype(np.float64)) for a in arrays], rows, inputs, outputs)
        terms = dict(zip(KERNELS, [shape.inputs + 1, shape.rows, shape.outputs, shape.rows], strict=True))
        self.bounds = {kernel: terms[kernel] * np.finfo(dtype).eps * sums[kernel] for kernel in KERNELS}

        ones = np.ones(self.vector_bytes // np.dtype(dtype).itemsize, dtype)
        grad = np.resize(arrays[-1], max(arrays[-1].size, ones.size))  # read_all needs a whole vector

        def multiply_add():
            self.machine.multiply_add(ones, self.FMA_STEPS)
            return 2 * 12 * ones.size * self.FMA_STEPS

        def read():
            self.machine.read_all(grad)
            return grad.nbytes

        self.calls = dict.fromkeys(KERNELS, (multiply_add, None)) | {"bias_grad": (read, None)}

    def error(self, kernel, result):
        """Largest error, as a part of the bound k eps |A| |B| for sums of k terms."""
        return float(np.max(np.abs(result[self.parts[kernel]] - self.exact[kernel]) / self.bounds[kernel]))


def make(library, threads):
    return ReferenceWorker() if library == "limit" else Worker(library, threads)


def serve(library, threads, make=make):
    """What a process does: answer requests for methods of its worker until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a stopped process would outlive it for ever
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a library prints comes between the answers
    worker = make(library, threads)
    while True:
        try:
            method, *args = pickle.load(requests)
        except EOFError:
            return
        call = partial(told, library) if method == "instructions" else getattr(worker, method)
        pickle.dump(call(*args), answers)
        answers.flush()


def environment(threads, isa=None):
    """The environment variables for a fair comparison; without change of the threads or instructions that are None."""
    kept = {name: value for name, value in os.environ.items() if name not in HANDICAPS}
    if threads:
        kept |= dict.fromkeys(THREAD_VARIABLES, str(threads)) | {"JAX_PLATFORMS": "cpu"}
    return kept | (forced(isa) if isa else {})


class WorkerProcess:
    """A worker's process, seen from outside. It is stopped but for the time of a request.

    The worker is made by the function `make` of a module.
    """

    def __init__(self, library, version, threads, module="fastfc.benchmark.worker", isa=None):
        self.library, self.version = library, version
        code = f"import sys; from fastfc.benchmark.worker import serve; from {module} import make; "
        code += "serve(sys.argv[1], int(sys.argv[2]), make)"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, library, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(threads, isa) | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def ask(self, method, *args):
        assert self.process.stdin and self.process.stdout
        if sys.platform == "linux":
            self.process.send_signal(signal.SIGCONT)
        try:
            pickle.dump((method, *args), self.process.stdin)
            self.process.stdin.flush()
            answer = pickle.load(self.process.stdout)
        except (EOFError, BrokenPipeError):
            self.process.wait()
            raise RuntimeError(f"the process of {self.library} ended, see its message above") from None
        if sys.platform == "linux":
            self.process.send_signal(signal.SIGSTOP)
        else:
            time.sleep(IDLE_SECONDS)
        return answer

    def close(self):
        self.process.kill()
        self.process.communicate()


def installed(packages=PACKAGES):
    """Name and version of every library that fastfc can be compared with."""
    found = {}
    for library, names in packages.items():
        try:
            found[library], *_ = [metadata.version(name) for name in names]
        except metadata.PackageNotFoundError:
            continue
    return found


def start(threads, libraries, module="fastfc.benchmark.worker", alone=True, isa=None):
    """Processes for the libraries, fastfc and the reference; with several threads also for fastfc `alone` on one."""
    versions = installed(NETWORK_PACKAGES)
    names = [(library, versions[library], threads) for library in libraries]
    names.append(("fastfc", __version__, threads))
    if threads > 1 and alone:
        names.append(("fastfc, 1 thread", __version__, 1))
    return [WorkerProcess(*name, module, isa) for name in [*names, ("limit", processor(), 1)]]
