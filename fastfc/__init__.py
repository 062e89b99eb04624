"""Fully connected networks as fast as the processor allows, in Python, on Numba and NumPy alone."""

from pathlib import Path

# An editable install leaves kernels/ at the top of the repository: look for fastfc.kernels there.
if not (Path(__file__).parent / "kernels").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

__version__ = "0.1.0"

from . import kernels, nopython, reference
from .activations import Identity, ReLU, Sigmoid, Softmax, Tanh
from .datasets import load_digits
from .gradcheck import check_gradients, numerical_gradient
from .graph import Graph, Input, concatenate
from .initializers import He, Xavier, Zeros
from .layers import Linear
from .losses import BCEWithLogitsLoss, CrossEntropyLoss, MSELoss
from .network import MLP, Sequential
from .optimizers import SGD, Adagrad, Adam, AdamW, Lion, NAdam, RMSprop
from .schedules import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LinearWarmup,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)
from .training import History

__all__ = [
    "MLP",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "BCEWithLogitsLoss",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CrossEntropyLoss",
    "ExponentialLR",
    "Graph",
    "He",
    "History",
    "Identity",
    "Input",
    "Linear",
    "LinearWarmup",
    "Lion",
    "MSELoss",
    "MultiStepLR",
    "NAdam",
    "OneCycleLR",
    "RMSprop",
    "ReLU",
    "ReduceLROnPlateau",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "StepLR",
    "Tanh",
    "Xavier",
    "Zeros",
    "check_gradients",
    "concatenate",
    "kernels",
    "load_digits",
    "nopython",
    "numerical_gradient",
    "reference",
]
