"""Losses: `value, grad = loss(prediction, target)`, with grad = dL/dprediction."""

from fastfc.losses import classification, regression
from fastfc.losses.base import Loss
from fastfc.losses.classification import *  # noqa: F403
from fastfc.losses.classification import ClassLoss
from fastfc.losses.custom import CustomLoss
from fastfc.losses.members import MemberLoss
from fastfc.losses.multi import MultiLoss
from fastfc.losses.regression import *  # noqa: F403

__all__ = ["ClassLoss", "CustomLoss", "Loss", "MemberLoss", "MultiLoss"]
__all__ += classification.__all__
__all__ += regression.__all__
