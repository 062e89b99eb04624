"""Optimizers: one pass over a network's flat parameter vector per step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checks import positive_number
from .kernels import optimizers as native
from .layers import Layer


def hyperparameter(index: int, what: str, or_zero: bool = False) -> Any:
    """Property of an optimizer: one of the numbers that its kernel reads."""

    def get(self: SGD) -> float:
        return float(self.hyper[index])

    def assign(self: SGD, value: float) -> None:
        number = positive_number(value, type(self).__name__, what, or_zero=or_zero)
        if what == "momentum" and number >= 1:
            raise ValueError(f"{type(self).__name__}: momentum must be less than 1, got {value}")
        self.hyper[index] = number

    return property(get, assign)


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

    code = native.SGD

    lr = hyperparameter(0, "lr")
    momentum = hyperparameter(1, "momentum", or_zero=True)
    weight_decay = hyperparameter(2, "weight_decay", or_zero=True)

    def __init__(self, lr: float = 0.01, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        self.hyper = np.zeros(3)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.state = np.zeros((0, 0), np.float32)
        self.count = np.zeros(1, np.int64)

    def step(self, network: Layer) -> None:
        """Update the parameters of a network or layer from its gradients.

        Raises
        ------
        ValueError
            If earlier steps went to a network of another size or dtype.
        """
        state = self.prepare(network)
        native.update.call(network.grads, self.hyper, network.params, state, self.count, self.code)

    @property
    def _handle(self) -> tuple[NDArray[Any], ...]:
        """What we are in nopython code, see nopython.OptimizerType."""
        return self.hyper, self.state, self.count

    @property
    def velocity(self) -> NDArray[Any] | None:
        """v, for all parameters; None before the first step and without momentum."""
        return self.state[0] if len(self.state) else None

    def prepare(self, network: Layer) -> NDArray[Any]:
        """The state for this network's parameters, a row for each of the rule's vectors; zeros at first."""
        params, state, rows = network.params, self.state, 1 if self.hyper[1] else 0
        if state.shape == (rows, params.size) and state.dtype == params.dtype:
            return state
        if len(state) == 0:
            self.state = np.zeros((rows, params.size), params.dtype)
        elif state.shape[1] != params.size or state.dtype != params.dtype:
            raise ValueError(
                f"{self}: its velocity is for {state.shape[1]} {state.dtype} parameters, the network "
                f"has {params.size} {params.dtype}; use a new optimizer for each network"
            )
        return self.state

    def __repr__(self) -> str:
        return f"SGD(lr={self.lr}, momentum={self.momentum}, weight_decay={self.weight_decay})"
