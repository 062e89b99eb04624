import timeit

import numpy as np

from fastfc import kernels


class Activations:
    params = (["sigmoid", "tanh"], [1_000, 100_000, 10_000_000], ["float32", "float64"])
    param_names = ("activation", "elements", "dtype")
    unit = "elements per nanosecond"

    def track_rate(self, activation, elements, dtype):
        x = np.linspace(-5, 5, elements, dtype=dtype)
        out = np.empty_like(x)
        timer = timeit.Timer(lambda: kernels.activation_forward(x, out, activation))
        timer.timeit(1)  # compiles
        number = max(1, 10_000_000 // elements)
        return number * elements / min(timer.repeat(5, number)) / 1e9
