"""Fully connected networks as fast as the processor allows, in Python, on Numba and NumPy alone."""

from pathlib import Path

# An editable install leaves kernels/ at the top of the repository: look for fastfc.kernels there.
if not (Path(__file__).parent / "kernels").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

__version__ = "0.1.0"

from . import kernels, metrics, nopython, reference
from .activations import Identity, ReLU, Sigmoid, Softmax, Tanh
from .callbacks import Callback, EarlyStopping
from .datasets import load_digits
from .gradcheck import check_gradients, numerical_gradient
from .graph import Graph, Input, concatenate
from .history import History
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
from .layers import Linear, Tied
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
from .metrics import F1, Accuracy, TopK
from .network import MLP, Sequential
from .optimizers import SGD, Adagrad, Adam, AdamW, Lion, RMSprop

__all__ = [
    "F1",
    "MLP",
    "SGD",
    "Accuracy",
    "Adagrad",
    "Adam",
    "AdamW",
    "BCELoss",
    "BCEWithLogitsLoss",
    "Callback",
    "Constant",
    "CrossEntropyLoss",
    "CustomLoss",
    "EarlyStopping",
    "GaussianNLLLoss",
    "Graph",
    "He",
    "History",
    "HuberLoss",
    "Identity",
    "Input",
    "KLDivLoss",
    "KaimingNormal",
    "KaimingUniform",
    "L1Loss",
    "LeCunNormal",
    "LeCunUniform",
    "Linear",
    "Lion",
    "MSELoss",
    "MultiLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "Normal",
    "Orthogonal",
    "PoissonNLLLoss",
    "QuantileLoss",
    "RMSprop",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "SmoothL1Loss",
    "Softmax",
    "Tanh",
    "Tied",
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
    "load_digits",
    "metrics",
    "nopython",
    "numerical_gradient",
    "reference",
]
