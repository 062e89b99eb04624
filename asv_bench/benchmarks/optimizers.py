import timeit

import numpy as np
from numba import njit

import fastfc as fc
from fastfc.kernels.optim import update as update_kernels
from fastfc.kernels.simd.memory import at, itemsize, pointer
from fastfc.kernels.simd.vector import load, store, width
from fastfc.nn.layer import aligned_zeros

from .common import Timed, asked_for, table, three_digits

RULES = {
    "SGD": lambda: fc.SGD(1e-3),
    "momentum": lambda: fc.SGD(1e-3, momentum=0.9),
    "Adam": lambda: fc.Adam(),
    "amsgrad": lambda: fc.Adam(amsgrad=True),
    "AdamW": lambda: fc.AdamW(),
    "NAdam": lambda: fc.NAdam(),
    "RMSprop": lambda: fc.RMSprop(1e-3),
    "centered": lambda: fc.RMSprop(1e-3, centered=True),
    "Adagrad": lambda: fc.Adagrad(),
    "Lion": lambda: fc.Lion(),
    "Adam, clipped, averaged": lambda: fc.Adam(clip_norm=1.0, average=0.999),
}

USUAL = ["SGD", "momentum", "Adam", "AdamW"]


def plain_pass(written):
    """x += g for so many vectors: as many streams of memory as a rule, and nothing to compute."""

    @njit(nogil=True)
    def run(g, x):
        source, target, row = pointer(g), pointer(x), x.strides[0]
        step = width(source) * itemsize(source)
        for j in range(0, g.size * itemsize(source), step):
            some, here = load(at(source, j)), at(target, j)
            store(here, load(here) + some)
            if written > 1:
                store(at(here, row), load(at(here, row)) + some)
            if written > 2:
                store(at(here, 2 * row), load(at(here, 2 * row)) + some)
            if written > 3:
                store(at(here, 3 * row), load(at(here, 3 * row)) + some)

    return run


PASSES = {written: plain_pass(written) for written in (1, 2, 3, 4)}


class Update(Timed):
    params = (table(USUAL, [rule for rule in RULES if rule not in USUAL]), [1000], table(["float32"], ["float64"]))
    param_names = ("rule", "parameters", "dtype")

    def setup(self, rule, parameters, dtype):
        self.optimizer = RULES[rule]()
        rows = self.optimizer.n_vectors
        self.grads, self.vectors = aligned_zeros(parameters, dtype), np.ones((4, parameters), dtype)
        self.grads[:] = 1e-3
        self.params_, self.state = self.vectors[0].copy(), np.zeros((rows, parameters), dtype)
        self.update()

    def update(self):
        o = self.optimizer
        update_kernels.update.call(
            self.grads, o.hyper, o.segments, self.params_, self.state, o.count, o.code, 1.0, 1, 1
        )

    def time_update(self, *_):
        self.update()


@asked_for
class AgainstMemory(Update):
    params = (list(RULES), [10_000_000], ["float32", "float64"])
    time_update = None

    def setup(self, rule, parameters, dtype):
        super().setup(rule, parameters, dtype)
        self.plain, self.streams = PASSES[1 + self.optimizer._rule_rows], 3 + 2 * self.optimizer._rule_rows
        self.plain(self.grads, self.vectors)

    def seconds(self, run):
        return min(timeit.repeat(run, number=1, repeat=5))

    def track_gigabytes(self, rule, parameters, dtype):
        return three_digits(self.streams * self.grads.nbytes / self.seconds(self.update) / 1e9)

    track_gigabytes.unit = "GB/s"

    def track_share(self, rule, parameters, dtype):
        """Of the speed of a plain pass over as many streams, measured in turn."""

        def plain():
            self.plain(self.grads, self.vectors)

        return three_digits(np.median([self.seconds(plain) / self.seconds(self.update) for _ in range(7)]))

    track_share.unit = "of a plain pass"
