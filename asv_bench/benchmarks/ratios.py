"""The four kernels' time divided by that of NumPy, in turn in one process: less is better, as asv takes it.

`fastfc compare --peers` compares with the best of all other libraries.
"""

import time
import timeit

import numpy as np

from .common import Kernel, needs, three_digits

PLACES, ROUNDS, SAMPLE_SECONDS = 9, 20, 0.003


def interleaved(*calls):
    """Of each call the least processor time, of rounds in which they take turns."""
    # A loop of its own for each: in one that calls them all, Python specialises the call for none or for the last.
    timers = [timeit.Timer(call, timer=time.process_time) for call in calls]
    counts = [max(1, round(SAMPLE_SECONDS / max(timer.timeit(1), 1e-6))) for timer in timers]
    rounds = [[timer.timeit(count) / count for timer, count in zip(timers, counts, strict=True)] for _ in range(ROUNDS)]
    return [min(times) for times in zip(*rounds, strict=True)]


class Ratios(Kernel):
    params = (Kernel.params[1], Kernel.params[2])
    param_names = ("shape", "dtype")
    unit = "of NumPy's time"

    def setup(self, shape, dtype):
        super().setup("fastfc", shape, dtype)
        self.keep_alive, self.prepare = [], lambda: Kernel.setup(self, "fastfc", shape, dtype)
        # asv imports NumPy before this package could set a number of threads in the environment
        self.limits = needs("threadpoolctl").threadpool_limits(1, "blas")

    def ratio(self, ours, theirs):
        """The median of arrays in several places: where their pages lie changes how fast they are read."""
        ratios = []
        for _ in range(PLACES):
            self.keep_alive.append(vars(self).copy())
            self.prepare()
            ours(), theirs()
            mine, other = interleaved(ours, theirs)
            ratios.append(mine / other)
        return three_digits(np.median(ratios))

    def track_output(self, *_):
        """Bias and ReLU among it."""

        def theirs():
            np.matmul(self.x, self.weight, out=self.output)
            np.add(self.output, self.bias, out=self.output)
            np.maximum(self.output, 0, out=self.output)

        return self.ratio(
            lambda: self.kernels.dense_forward(self.x, self.weight, self.bias, self.output, "relu"), theirs
        )

    def track_grad_weight(self, *_):
        return self.ratio(
            lambda: self.kernels.dense_weight_grad(self.x, self.grad_output, self.weight_grad),
            lambda: np.matmul(self.x.T, self.grad_output, out=self.weight_grad),
        )

    def track_grad_input(self, *_):
        return self.ratio(
            lambda: self.kernels.dense_input_grad(self.grad_output, self.weight, self.input_grad),
            lambda: np.matmul(self.grad_output, self.weight.T, out=self.input_grad),
        )

    def track_grad_bias(self, *_):
        return self.ratio(
            lambda: self.kernels.dense_bias_grad(self.grad_output, self.bias_grad),
            lambda: np.sum(self.grad_output, axis=0, out=self.bias_grad),
        )
