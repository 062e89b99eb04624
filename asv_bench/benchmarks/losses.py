"""Every loss with its gradient, and one with the weights of samples."""

import numpy as np

import fastfc as fc

from .common import Timed, table

LOSSES = {
    "MSELoss": fc.MSELoss(),
    "L1Loss": fc.L1Loss(),
    "HuberLoss": fc.HuberLoss(),
    "SmoothL1Loss": fc.SmoothL1Loss(),
    "CrossEntropyLoss": fc.CrossEntropyLoss(),
    "CrossEntropyLoss, smoothed": fc.CrossEntropyLoss(label_smoothing=0.1),
    "NLLLoss": fc.NLLLoss(),
    "BCELoss": fc.BCELoss(),
    "BCEWithLogitsLoss": fc.BCEWithLogitsLoss(),
    "PoissonNLLLoss": fc.PoissonNLLLoss(),
    "GaussianNLLLoss": fc.GaussianNLLLoss(),
    "KLDivLoss": fc.KLDivLoss(),
    "MultiMarginLoss": fc.MultiMarginLoss(),
    "QuantileLoss": fc.QuantileLoss(0.9),
}
USUAL = ["MSELoss", "HuberLoss", "CrossEntropyLoss"]


def problem(loss, shape):
    """Prediction and target of a shape."""
    rng = np.random.default_rng(0)
    prediction, target = (rng.uniform(0.01, 0.99, shape).astype(np.float32) for _ in range(2))
    if loss.of_classes:
        return prediction, rng.integers(shape[1], size=shape[0])
    return prediction, target[:, : loss.target_width(shape[1])]


class Losses(Timed):
    params = (table(USUAL, [name for name in LOSSES if name not in USUAL]), table([(1000, 10)], [(10000, 100)]))
    param_names = ("loss", "shape")

    def setup(self, name, shape):
        self.loss = LOSSES[name]
        self.prediction, self.target = problem(self.loss, shape)
        self.weights = np.ones(shape[0], np.float32)
        self.loss(self.prediction, self.target)

    def time_loss(self, name, shape):
        self.loss(self.prediction, self.target)

    def time_loss_with_sample_weights(self, name, shape):
        self.loss(self.prediction, self.target, self.weights)
