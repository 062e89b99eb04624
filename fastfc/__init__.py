"""Fully connected networks as fast as the processor allows, in Python, on Numba and NumPy alone."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

# An editable install leaves kernels/ at the top of the repository: look for fastfc.kernels there.
if not (Path(__file__).parent / "kernels").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

from fastfc import kernels, metrics, nopython
from fastfc._version import __version__ as __version__
from fastfc.attributes import OF_FASTFC, suggestion
from fastfc.data.datasets import load_breast_cancer, load_diabetes, load_digits, load_fashion_mnist, load_wine
from fastfc.losses import classification, regression
from fastfc.losses.classification import *  # noqa: F403
from fastfc.losses.custom import CustomLoss
from fastfc.losses.members import MemberLoss
from fastfc.losses.multi import MultiLoss
from fastfc.losses.regression import *  # noqa: F403
from fastfc.metrics import F1, Accuracy, TopK
from fastfc.models.graph import Graph
from fastfc.models.sequential import MLP, Sequential
from fastfc.nn import (
    activations,
    batch_ensemble,
    dropout,
    embedding,
    initializers,
    linear,
    norms,
    numeric_embedding,
    per_feature,
    scalers,
    standardize,
)
from fastfc.nn.activations import *  # noqa: F403
from fastfc.nn.batch_ensemble import *  # noqa: F403
from fastfc.nn.dropout import *  # noqa: F403
from fastfc.nn.embedding import *  # noqa: F403
from fastfc.nn.initializers import (
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
from fastfc.nn.linear import *  # noqa: F403
from fastfc.nn.node import Input, concatenate
from fastfc.nn.norms import *  # noqa: F403
from fastfc.nn.numeric_embedding import *  # noqa: F403
from fastfc.nn.per_feature import *  # noqa: F403
from fastfc.nn.scalers import *  # noqa: F403
from fastfc.nn.standardize import *  # noqa: F403
from fastfc.optim import first_order, full_batch
from fastfc.optim.first_order import *  # noqa: F403
from fastfc.optim.full_batch import *  # noqa: F403
from fastfc.optim.schedule import ReduceLROnPlateau
from fastfc.training.callbacks import Callback, EarlyStopping
from fastfc.training.epoch import DivergenceWarning
from fastfc.training.history import History

if TYPE_CHECKING:
    from fastfc import reference, tabular
    from fastfc.io.checkpoint import load, load_checkpoint
    from fastfc.io.onnx.reader import from_onnx
    from fastfc.io.torch import from_torch, load_state_dict
    from fastfc.models.ensemble import Ensemble
    from fastfc.optim.schedules import (
        CosineAnnealingLR,
        CosineAnnealingWarmRestarts,
        CosLogLR,
        ExponentialLR,
        FlatCosineLR,
        LinearLR,
        LinearWarmup,
        MultiStepLR,
        OneCycleLR,
        StepLR,
    )
    from fastfc.sklearn.convert import from_sklearn
    from fastfc.training.gradcheck import check_gradients, numerical_gradient

__all__ = [
    "F1",
    "MLP",
    "Accuracy",
    "Callback",
    "Constant",
    "CosLogLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CustomLoss",
    "DivergenceWarning",
    "EarlyStopping",
    "Ensemble",
    "ExponentialLR",
    "FlatCosineLR",
    "Graph",
    "He",
    "History",
    "Input",
    "KaimingNormal",
    "KaimingUniform",
    "LeCunNormal",
    "LeCunUniform",
    "LinearLR",
    "LinearWarmup",
    "MemberLoss",
    "MultiLoss",
    "MultiStepLR",
    "Normal",
    "OneCycleLR",
    "Orthogonal",
    "ReduceLROnPlateau",
    "Sequential",
    "StepLR",
    "TopK",
    "TruncatedNormal",
    "Uniform",
    "Xavier",
    "XavierNormal",
    "XavierUniform",
    "Zeros",
    "check_gradients",
    "concatenate",
    "from_onnx",
    "from_sklearn",
    "from_torch",
    "initializers",
    "kernels",
    "load",
    "load_breast_cancer",
    "load_checkpoint",
    "load_diabetes",
    "load_digits",
    "load_fashion_mnist",
    "load_state_dict",
    "load_wine",
    "metrics",
    "nopython",
    "numerical_gradient",
    "reference",
    "tabular",
]
__all__ += activations.__all__
__all__ += linear.__all__
__all__ += norms.__all__
__all__ += dropout.__all__
__all__ += embedding.__all__
__all__ += standardize.__all__
__all__ += scalers.__all__
__all__ += per_feature.__all__
__all__ += numeric_embedding.__all__
__all__ += batch_ensemble.__all__
__all__ += classification.__all__
__all__ += regression.__all__
__all__ += first_order.__all__
__all__ += full_batch.__all__

# Imported when first used, as few programs use them: by module, its names.
MODULES = {
    "io.checkpoint": ["load", "load_checkpoint"],
    "io.onnx.reader": ["from_onnx"],
    "io.torch": ["from_torch", "load_state_dict"],
    "models.ensemble": ["Ensemble"],
    "optim.schedules": [
        "CosineAnnealingLR",
        "CosineAnnealingWarmRestarts",
        "CosLogLR",
        "ExponentialLR",
        "FlatCosineLR",
        "LinearLR",
        "LinearWarmup",
        "MultiStepLR",
        "OneCycleLR",
        "StepLR",
    ],
    "reference": ["reference"],
    "sklearn.convert": ["from_sklearn"],
    "tabular": ["tabular"],
    "training.gradcheck": ["check_gradients", "numerical_gradient"],
}
LATER = {name: module for module, names in MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in LATER:
        known = set() if name.startswith("_") else {*__all__, *LATER}
        raise AttributeError(suggestion(f"module {__name__!r} has no attribute {name!r}", name, known, OF_FASTFC))
    module = importlib.import_module(f".{LATER[name]}", __name__)
    return module if LATER[name] == name else getattr(module, name)


def __dir__() -> list[str]:
    """The public names, which editors and notebooks offer, and those with underscores."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("_"))})
