"""The layers that normalise, drop or look up: forward, and forward with backward."""

import numpy as np

import fastfc as fc

LAYERS = {
    "LayerNorm": fc.LayerNorm,
    "RMSNorm": fc.RMSNorm,
    "BatchNorm1d": fc.BatchNorm1d,
    "Dropout": lambda features: fc.Dropout(0.5, seed=0),
    "Standardize": fc.Standardize,
    "Embedding": lambda features: fc.Embedding(1000, features, seed=0),
}


class Layers:
    params = (list(LAYERS), ["32x128", "256x256", "1024x1024"], ["float32", "float64"])
    param_names = ("layer", "shape", "dtype")

    def setup(self, layer, shape, dtype):
        n, features = map(int, shape.split("x"))
        rng = np.random.default_rng(0)
        self.layer = LAYERS[layer](features)
        self.layer.convert_to(np.dtype(dtype))
        self.x = rng.standard_normal((n, features)).astype(dtype)
        if layer == "Embedding":
            self.x = rng.integers(0, 1000, (n, 1)).astype(dtype)
        self.grad_output = rng.standard_normal((n, features)).astype(dtype)
        self.time_forward_and_backward(layer, shape, dtype)

    def time_forward(self, layer, shape, dtype):
        self.layer.forward(self.x)

    def time_forward_and_backward(self, layer, shape, dtype):
        self.layer.forward(self.x)
        self.layer.backward(self.grad_output)
