"""Fully connected networks as fast as the processor allows, in Python, on Numba and NumPy alone."""

from pathlib import Path

# An editable install leaves kernels/ at the top of the repository: look for fastfc.kernels there.
if not (Path(__file__).parent / "kernels").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

__version__ = "0.1.0"

from . import kernels, nopython, reference
from .activations import (
    CELU,
    ELU,
    GELU,
    SELU,
    Elementwise,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    Identity,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Mish,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Softsign,
    Tanh,
)
from .datasets import load_digits
from .gradcheck import check_gradients, numerical_gradient
from .graph import Graph, Input, concatenate
from .initializers import He, Xavier, Zeros
from .layers import Linear
from .losses import BCEWithLogitsLoss, CrossEntropyLoss, MSELoss
from .network import MLP, Sequential
from .optimizers import SGD, Adagrad, Adam, AdamW, Lion, RMSprop
from .training import History

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "MLP",
    "SELU",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "Elementwise",
    "Graph",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "He",
    "History",
    "Identity",
    "Input",
    "LeakyReLU",
    "Linear",
    "Lion",
    "LogSigmoid",
    "LogSoftmax",
    "MSELoss",
    "Mish",
    "RMSprop",
    "ReLU",
    "ReLU6",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Softsign",
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
