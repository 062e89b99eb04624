"""Optimizers: one pass over a network's flat parameter vector per step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .checks import positive_number
from .layers import Layer


class SGD:
    """Stochastic gradient descent with momentum and weight decay.

    For each parameter w with gradient ∇L, in PyTorch's form of the rule:

        g = ∇L + λ w,    v ← μ v + g,    w ← w − lr v

    λ w is the gradient of the L2 penalty λ Ω(w) = λ/2 ‖w‖², so weight decay adds λ ∇Ω to every
    parameter's gradient, biases included. v is made, as zeros, at the first step.

    Parameters
    ----------
    lr : float
        Learning rate, positive.
    momentum : float
        μ, at least 0 and less than 1.
    weight_decay : float
        λ, at least 0.

    References
    ----------
    I. Sutskever, J. Martens, G. Dahl, G. Hinton, "On the importance of initialization and momentum in
    deep learning", ICML 2013.

    Examples
    --------
    >>> import fastfc as fc
    >>> layer = fc.Linear(1, 1, init="zeros")
    >>> layer.weight_grad = [[2.0]]
    >>> optimizer = fc.SGD(lr=0.5, momentum=0.5)
    >>> optimizer.step(layer)
    >>> optimizer.step(layer)
    >>> layer.weight
    array([[-2.5]], dtype=float32)
    """

    def __init__(self, lr: float = 0.01, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        self.lr = positive_number(lr, "SGD", "lr")
        self.momentum = positive_number(momentum, "SGD", "momentum", or_zero=True)
        self.weight_decay = positive_number(weight_decay, "SGD", "weight_decay", or_zero=True)
        if self.momentum >= 1:
            raise ValueError(f"SGD: momentum must be less than 1, got {momentum}")
        self.velocity: NDArray[Any] | None = None

    def step(self, network: Layer) -> None:
        """Update the parameters of a network or layer from its gradients.

        Raises
        ------
        ValueError
            If earlier steps went to a network of another size or dtype.
        """
        self.prepare(network)
        velocity = self.velocity if self.momentum else network.params[:0]
        kernels.sgd(network.params, network.grads, velocity, self.lr, self.momentum, self.weight_decay)

    def prepare(self, network: Layer) -> None:
        """Make the velocity for this network, or check that it fits."""
        params, velocity = network.params, self.velocity
        if not self.momentum:
            return
        if velocity is None:
            self.velocity = np.zeros(params.size, params.dtype)
        elif (velocity.size, velocity.dtype) != (params.size, params.dtype):
            raise ValueError(
                f"{self}: its velocity is for {velocity.size} {velocity.dtype} parameters, the network "
                f"has {params.size} {params.dtype}; use a new optimizer for each network"
            )

    def __repr__(self) -> str:
        return f"SGD(lr={self.lr}, momentum={self.momentum}, weight_decay={self.weight_decay})"
