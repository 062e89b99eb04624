"""The situations in which kernels are measured. Add rows; a changed row loses its history."""

import numpy as np

from fastfc import kernels, reference

IMPLEMENTATIONS = {"fastfc": kernels, "reference": reference}

# n x i x o: samples, input features, output features
SHAPES = [
    "1x64x64",  # one sample through a small layer
    "32x64x128",  # the digits network
    "33x65x17",  # no size fits a tile
    "4096x17x6",  # a long batch through a tiny layer
    "256x256x256",
    "128x784x512",
    "512x1024x1024",  # larger than the caches
]


class Kernel:
    """The arrays of one dense layer; setup compiles what is measured by calling it once."""

    params = (list(IMPLEMENTATIONS), SHAPES, ["float32", "float64"])
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
