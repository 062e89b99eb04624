"""Losses: `value, grad = loss(prediction, target)`, with grad = dL/dprediction."""

from fastfc.losses.base import Loss
from fastfc.losses.classification import (
    BCELoss,
    BCEWithLogitsLoss,
    ClassLoss,
    CrossEntropyLoss,
    KLDivLoss,
    MultiMarginLoss,
    NLLLoss,
)
from fastfc.losses.custom import CustomLoss
from fastfc.losses.multi import MultiLoss
from fastfc.losses.regression import (
    GaussianNLLLoss,
    HuberLoss,
    L1Loss,
    MSELoss,
    PoissonNLLLoss,
    QuantileLoss,
    SmoothL1Loss,
)

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "ClassLoss",
    "CrossEntropyLoss",
    "CustomLoss",
    "GaussianNLLLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "Loss",
    "MSELoss",
    "MultiLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "PoissonNLLLoss",
    "QuantileLoss",
    "SmoothL1Loss",
]
