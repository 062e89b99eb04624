"""PyTorch modules of layers that torch.nn does not have; needs the extra `fastfc[torch]`."""

from __future__ import annotations

from typing import Any

import torch


class Standardize(torch.nn.Module):
    """y = (x − mean) / scale, with a stored mean and scale of each feature, which are not trained.

    Parameters
    ----------
    features : int
    dtype : torch.dtype, optional

    Attributes
    ----------
    mean, scale : (features,) tensors
        Buffers, first 0 and 1.
    """

    def __init__(self, features: int, dtype: Any = None) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("mean", torch.zeros(features, dtype=dtype))
        self.register_buffer("scale", torch.ones(features, dtype=dtype))

    def forward(self, x: Any) -> Any:
        return (x - self.mean) / self.scale

    def extra_repr(self) -> str:
        return str(self.features)
