"""The layers beside Linear and the activations: alone, and with backward."""

import numpy as np

import fastfc as fc

from .common import Timed, table

LAYERS = {
    "LayerNorm": fc.LayerNorm,
    "RMSNorm": fc.RMSNorm,
    "BatchNorm1d": fc.BatchNorm1d,
    "Dropout": lambda features: fc.Dropout(0.5, seed=0),
    "Standardize": fc.Standardize,
    "Embedding": lambda features: fc.Embedding(1000, features, seed=0),
    "Scale": fc.Scale,
    "Parametric": lambda features: fc.Parametric("selu", features),
    "BatchEnsemble": lambda features: fc.BatchEnsemble(features // 8, features // 8, 8, seed=0),
    "LinearEnsemble": lambda features: fc.LinearEnsemble(features // 8, features // 8, 8, seed=0),
    "NumericEmbedding": lambda features: fc.NumericEmbedding(features, seed=0),
}


class Layers(Timed):
    params = (list(LAYERS), table(["32x128"], ["256x256", "1024x1024"]), table(["float32"], ["float64"]))
    param_names = ("layer", "shape", "dtype")

    def setup(self, layer, shape, dtype):
        n, features = map(int, shape.split("x"))
        rng = np.random.default_rng(0)
        self.layer = LAYERS[layer](features)
        self.layer.convert_to(np.dtype(dtype))
        self.x = rng.standard_normal((n, features)).astype(dtype)
        if layer == "Embedding":
            self.x = rng.integers(0, 1000, (n, 1)).astype(dtype)
        self.grad_output = rng.standard_normal((n, self.layer.out_features or features)).astype(dtype)
        self.time_with_backward()

    def time_layer(self, *_):
        self.layer.forward(self.x)

    def time_with_backward(self, *_):
        self.layer.forward(self.x)
        self.layer.backward(self.grad_output)
