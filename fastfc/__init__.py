"""Fully connected networks as fast as the processor allows, in Python, on Numba and NumPy alone."""

from pathlib import Path

# An editable install leaves kernels/ at the top of the repository: look for fastfc.kernels there.
if not (Path(__file__).parent / "kernels").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

__version__ = "0.1.0"

from . import kernels, metrics, nopython, reference
from .activations import Identity, ReLU, Sigmoid, Softmax, Tanh
from .datasets import load_breast_cancer, load_diabetes, load_digits, load_fashion_mnist, load_wine
from .gradcheck import check_gradients, numerical_gradient
from .graph import Graph, Input, concatenate
from .initializers import (
    Constant,
    He,
    KaimingNormal,
    KaimingUniform,
    LeCunNormal,
    LeCunUniform,
    Normal,
    Orthogonal,
    TruncatedNormal,
    Uniform,
    Xavier,
    XavierNormal,
    XavierUniform,
    Zeros,
)
from .layers import Linear
from .losses import BCEWithLogitsLoss, CrossEntropyLoss, MSELoss
from .metrics import F1, Accuracy, TopK
from .network import MLP, Sequential
from .optimizers import SGD, Adagrad, Adam, AdamW, Lion, RMSprop
from .training import History

__all__ = [
    "F1",
    "MLP",
    "SGD",
    "Accuracy",
    "Adagrad",
    "Adam",
    "AdamW",
    "BCEWithLogitsLoss",
    "Constant",
    "CrossEntropyLoss",
    "Graph",
    "He",
    "History",
    "Identity",
    "Input",
    "KaimingNormal",
    "KaimingUniform",
    "LeCunNormal",
    "LeCunUniform",
    "Linear",
    "Lion",
    "MSELoss",
    "Normal",
    "Orthogonal",
    "RMSprop",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "TopK",
    "TruncatedNormal",
    "Uniform",
    "Xavier",
    "XavierNormal",
    "XavierUniform",
    "Zeros",
    "check_gradients",
    "concatenate",
    "kernels",
    "load_breast_cancer",
    "load_diabetes",
    "load_digits",
    "load_fashion_mnist",
    "load_wine",
    "metrics",
    "nopython",
    "numerical_gradient",
    "reference",
]
