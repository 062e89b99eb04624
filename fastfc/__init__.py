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
from .losses import (
    BCELoss,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    CustomLoss,
    GaussianNLLLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    MSELoss,
    MultiLoss,
    MultiMarginLoss,
    NLLLoss,
    PoissonNLLLoss,
    QuantileLoss,
    SmoothL1Loss,
)
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
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "CustomLoss",
    "Elementwise",
    "GaussianNLLLoss",
    "Graph",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "He",
    "History",
    "HuberLoss",
    "Identity",
    "Input",
    "KLDivLoss",
    "L1Loss",
    "LeakyReLU",
    "Linear",
    "Lion",
    "LogSigmoid",
    "LogSoftmax",
    "MSELoss",
    "Mish",
    "MultiLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "PoissonNLLLoss",
    "QuantileLoss",
    "RMSprop",
    "ReLU",
    "ReLU6",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SmoothL1Loss",
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
