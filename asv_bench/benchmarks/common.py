"""What benchmarks share: how they measure, and the situations in which kernels are measured.

Add rows; a changed row loses its history.
"""

import os
import time

import numpy as np

from fastfc import kernels, reference

# The long tables: FASTFC_LONG=1 asv run --bench ...
LONG = bool(os.environ.get("FASTFC_LONG"))


def table(rows, long=()):
    """Values of a parameter: `rows`, and after them `long` where the long tables are asked for."""
    return [*rows, *(long if LONG else ())]


def asked_for(benchmark):
    """A class that is part of the long tables alone: what asv sees of it elsewhere is None."""
    return benchmark if LONG else None


def three_digits(value):
    return float(f"{value:.3g}")


class Timed:
    """Processor time, which other programs hardly change, of few and long samples."""

    timer = time.process_time
    sample_time = 0.05
    warmup_time = 0.1
    repeat = (5, 10, 1.0)
    rounds = 2


IMPLEMENTATIONS = {"fastfc": kernels, "reference": reference}

# n x i x o: samples, input features, output features
SHAPES = [
    "1x64x64",  # one sample through a small layer
    "32x64x128",  # the digits network
    "4096x17x6",  # a long batch through a tiny layer
    "256x256x256",
]
LONG_SHAPES = [
    "33x65x17",  # no size fits a tile
    "128x784x512",
    "512x1024x1024",  # larger than the caches
]


class Kernel(Timed):
    """The arrays of one dense layer; setup compiles what is measured by calling it once."""

    params = (table(["fastfc"], ["reference"]), table(SHAPES, LONG_SHAPES), table(["float32"], ["float64"]))
    param_names = ("implementation", "shape", "dtype")

    def setup(self, implementation, shape, dtype):
        n, i, o = map(int, shape.split("x"))
        rng = np.random.default_rng(0)
        self.kernels = IMPLEMENTATIONS[implementation]
        self.x = rng.standard_normal((n, i)).astype(dtype)
        self.weight = rng.standard_normal((i, o)).astype(dtype)
        self.bias = rng.standard_normal(o).astype(dtype)
        self.grad_output = rng.standard_normal((n, o)).astype(dtype)
        self.output = np.zeros_like(self.grad_output)
        self.weight_grad = np.zeros_like(self.weight)
        self.bias_grad = np.zeros_like(self.bias)
        self.input_grad = np.zeros_like(self.x)
        for name in dir(self):
            if name.startswith("time_"):
                getattr(self, name)(implementation, shape, dtype)
