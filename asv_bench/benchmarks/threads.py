import time

import numpy as np

from fastfc import kernels

from .common import Timed, asked_for


class Wall(Timed):
    clock = staticmethod(time.perf_counter)


@asked_for
class Launch(Wall):
    """Squares around the work from which two threads pay, see MIN_WORK in kernels/runtime/threads.py."""

    params = ([64, 96, 128, 160, 192, 256], [1, 2])
    param_names = ("size", "n_threads")

    def setup(self, size, n_threads):
        rng = np.random.default_rng(0)
        self.x, self.weight = (rng.standard_normal((size, size), dtype=np.float32) for _ in range(2))
        self.bias, self.out = np.zeros(size, np.float32), np.empty((size, size), np.float32)
        self.time_launch(size, n_threads)

    def time_launch(self, size, n_threads):
        kernels.dense_forward(self.x, self.weight, self.bias, self.out, "relu", n_threads=n_threads)


@asked_for
class LaunchOfSums(Wall):
    """The same for the bias gradient, which only reads, see ELEMENT_WORK in kernels/runtime/threads.py."""

    params = ([256, 512, 1024, 2048, 4096], [1, 2])
    param_names = ("rows", "n_threads")

    def setup(self, rows, n_threads):
        self.grad_output = np.random.default_rng(0).standard_normal((rows, 512), dtype=np.float32)
        self.out = np.empty(512, np.float32)
        self.time_launch(rows, n_threads)

    def time_launch(self, rows, n_threads):
        kernels.dense_bias_grad(self.grad_output, self.out, n_threads=n_threads)
