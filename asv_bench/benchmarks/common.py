"""What benchmarks share: how they measure, and the situations in which kernels are measured.

Add rows; a changed row loses its history.
"""

import functools
import importlib
import os
import time

import numpy as np

from fastfc import kernels, reference
from fastfc.nn.layer import aligned_zeros

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


class Clock:
    """A clock for asv to read before and after a sample: what a benchmark adds to `elapsed`.

    One sample comes from each of several processes, in turns of the commits that asv compares: what differs from
    process to process and from minute to minute, such as where the arrays lie and what other programs do, then counts
    as noise. Of less than seven samples of each, asv finds none different.
    """

    number, repeat, rounds, warmup_time = 1, 1, 7, 0
    elapsed = 0.0

    def timer(self):
        return self.elapsed


class Timed(Clock):
    """The least processor time of a call, which neither other programs nor interrupts change much.

    A sample is the least of BLOCKS blocks of as many calls as fill BLOCK_SECONDS. asv's own sample is a single call,
    as there is a `setup`.
    """

    BLOCKS, BLOCK_SECONDS = 7, 0.01
    clock = staticmethod(time.process_time)

    def __init_subclass__(cls):
        for name, call in [*vars(cls).items()]:
            if name.startswith("time_") and call:
                setattr(cls, name, least_of_blocks(call))


def least_of_blocks(call):
    @functools.wraps(call)
    def sample(self, *params):
        def seconds(calls):
            start = self.clock()
            for _ in range(calls):
                call(self, *params)
            return self.clock() - start

        calls = max(1, round(self.BLOCK_SECONDS / max(seconds(1), 1e-6)))
        self.elapsed += min(seconds(calls) for _ in range(self.BLOCKS)) / calls

    return sample


def needs(package):
    """The module of a package, without which what a setup prepares is n/a."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise NotImplementedError(f"{package} is not installed") from None


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
    "300000x8x4",  # many rows of few columns
]


def aligned(array):
    """A copy that begins with a line of the cache: where malloc puts one makes a tenth of a short kernel's time."""
    copy = aligned_zeros(array.size, array.dtype).reshape(array.shape)
    copy[:] = array
    return copy


class Kernel(Timed):
    """The arrays of one dense layer; setup compiles what is measured by calling it once."""

    params = (table(["fastfc"], ["reference"]), table(SHAPES, LONG_SHAPES), table(["float32"], ["float64"]))
    param_names = ("implementation", "shape", "dtype")

    def setup(self, implementation, shape, dtype):
        n, i, o = map(int, shape.split("x"))
        rng = np.random.default_rng(0)
        self.kernels = IMPLEMENTATIONS[implementation]
        self.x, self.input_grad = (aligned(rng.standard_normal((n, i)).astype(dtype)) for _ in range(2))
        self.weight, self.weight_grad = (aligned(rng.standard_normal((i, o)).astype(dtype)) for _ in range(2))
        self.bias, self.bias_grad = (aligned(rng.standard_normal(o).astype(dtype)) for _ in range(2))
        self.output, self.grad_output = (aligned(rng.standard_normal((n, o)).astype(dtype)) for _ in range(2))
        for name in dir(self):
            if name.startswith("time_"):
                getattr(self, name)(implementation, shape, dtype)
