"""Numba kernels of dense layers: functions of arrays, callable from Python and from @njit code."""

from fastfc.kernels.ops.activations import (
    activation_backward,
    activation_forward,
    cos,
    erf,
    exp,
    expm1,
    log,
    log1p,
    sin,
    tanh,
)
from fastfc.kernels.ops.dense_bias_grad import dense_add_bias_grad, dense_bias_grad
from fastfc.kernels.ops.dense_forward import dense_forward
from fastfc.kernels.ops.dense_input_grad import dense_input_grad
from fastfc.kernels.ops.dense_weight_grad import dense_add_weight_grad, dense_weight_grad
from fastfc.kernels.ops.losses import (
    bce_loss,
    bce_with_logits_loss,
    cross_entropy_loss,
    gaussian_nll_loss,
    huber_loss,
    kl_div_loss,
    l1_loss,
    mse_loss,
    multi_margin_loss,
    nll_loss,
    poisson_nll_loss,
    quantile_loss,
    smooth_l1_loss,
)
from fastfc.kernels.optim.update import sgd
from fastfc.kernels.runtime import threadpool as threadpool

__all__ = [
    "activation_backward",
    "activation_forward",
    "bce_loss",
    "bce_with_logits_loss",
    "cos",
    "cross_entropy_loss",
    "dense_add_bias_grad",
    "dense_add_weight_grad",
    "dense_bias_grad",
    "dense_forward",
    "dense_input_grad",
    "dense_weight_grad",
    "erf",
    "exp",
    "expm1",
    "gaussian_nll_loss",
    "huber_loss",
    "kl_div_loss",
    "l1_loss",
    "log",
    "log1p",
    "mse_loss",
    "multi_margin_loss",
    "nll_loss",
    "poisson_nll_loss",
    "quantile_loss",
    "sgd",
    "sin",
    "smooth_l1_loss",
    "tanh",
]


def __dir__():
    """The public names, which editors and notebooks offer, and those with underscores."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("_"))})
