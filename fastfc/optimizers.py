"""Optimizers: one pass over a network's flat parameter vector per step.

The rules stand in kernels/optimizers.py; here are the hyperparameters, and what a rule remembers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checks import positive_number
from .kernels import optimizers as native
from .layers import Layer


def hyperparameter(index: int, what: str, or_zero: bool = False, below: float | None = None) -> Any:
    """Property of an optimizer: one of the numbers that its kernel reads."""

    def get(self: Optimizer) -> float:
        return float(self.hyper[index])

    def assign(self: Optimizer, value: float) -> None:
        number = positive_number(value, type(self).__name__, what, or_zero=or_zero)
        if below is not None and number >= below:
            raise ValueError(f"{type(self).__name__}: {what} must be less than {below:g}, got {value}")
        self.hyper[index] = number

    return property(get, assign)


class Optimizer:
    """Base of the optimizers. One of them serves one network: it remembers vectors of the network's size.

    Attributes
    ----------
    hyper : (h,) float64 array
        What the kernel reads; each has a name too, and may be changed between steps.
    state : (r, p) array of the network's dtype
        The vectors that the rule remembers; zeros before the first step.
    count : (1,) int64 array
        Number of steps so far.
    """

    code: int  # what the kernels call it

    def __init__(self, *hyper: tuple[str, float]) -> None:
        self.hyper = np.zeros(len(hyper))
        for name, value in hyper:
            setattr(self, name, value)
        self.state = np.zeros((0, 0), np.float32)
        self.count = np.zeros(1, np.int64)
        self._names = [name for name, _ in hyper]

    def step(self, network: Layer) -> None:
        """Update the parameters of a network or layer from its gradients.

        Raises
        ------
        ValueError
            If earlier steps went to a network of another size or dtype.
        """
        state = self.prepare(network)
        native.update.call(network.grads, self.hyper, network.params, state, self.count, self.code)

    def prepare(self, network: Layer) -> NDArray[Any]:
        """The state for this network's parameters, zeros at first."""
        params, state, rows = network.params, self.state, self._rows
        if state.shape == (rows, params.size) and state.dtype == params.dtype:
            return state
        if len(state) == 0:
            self.state = np.zeros((rows, params.size), params.dtype)
        elif state.shape[1] != params.size or state.dtype != params.dtype:
            raise ValueError(
                f"{self}: its state is for {state.shape[1]} {state.dtype} parameters, the network "
                f"has {params.size} {params.dtype}; use a new optimizer for each network"
            )
        return self.state

    @property
    def _rows(self) -> int:
        """How many vectors the rule remembers."""
        return native.ROWS[self.code]

    @property
    def _handle(self) -> tuple[NDArray[Any], ...]:
        """What we are in nopython code, see nopython.OptimizerType."""
        return self.hyper, self.state, self.count

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)}' for name in self._names)})"


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and weight decay.

    For each parameter w with gradient ∇L, in PyTorch's form of the rule:

        g = ∇L + λ w,    v ← μ v + (1 − δ) g,    w ← w − lr v

    λ w is the gradient of the L2 penalty λ Ω(w) = λ/2 ‖w‖², so weight decay adds λ ∇Ω to every
    parameter's gradient, biases included. In the first step v is g.

    Parameters
    ----------
    lr : float
        Learning rate, positive.
    momentum, dampening : float
        μ and δ, at least 0 and less than 1.
    weight_decay : float
        λ, at least 0.
    nesterov : bool
        Whether to look ahead, w ← w − lr (g + μ v).

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
    momentum = hyperparameter(1, "momentum", or_zero=True, below=1)
    dampening = hyperparameter(2, "dampening", or_zero=True, below=1)
    nesterov = hyperparameter(3, "nesterov", or_zero=True)
    weight_decay = hyperparameter(4, "weight_decay", or_zero=True)

    def __init__(
        self,
        lr: float = 0.01,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError("SGD: nesterov needs a momentum and no dampening")
        super().__init__(
            ("lr", lr),
            ("momentum", momentum),
            ("dampening", dampening),
            ("nesterov", bool(nesterov)),
            ("weight_decay", weight_decay),
        )

    def __repr__(self) -> str:
        rest = f", dampening={self.dampening}" * bool(self.dampening) + ", nesterov=True" * bool(self.nesterov)
        return f"SGD(lr={self.lr}, momentum={self.momentum}, weight_decay={self.weight_decay}{rest})"

    @property
    def _rows(self) -> int:
        return 1 if self.hyper[1] else 0

    @property
    def velocity(self) -> NDArray[Any] | None:
        """v, for all parameters; None before the first step and without momentum."""
        return self.state[0] if len(self.state) else None


class Adam(Optimizer):
    """Adam: steps by the mean of the gradients over the root of the mean of their squares.

    With g = ∇L + λ w and the t-th step:

        m ← β₁ m + (1 − β₁) g,    v ← β₂ v + (1 − β₂) g²
        w ← w − lr m / (1 − β₁ᵗ) / (√(v / (1 − β₂ᵗ)) + ε)

    Parameters
    ----------
    lr : float
        Learning rate, positive.
    betas : (float, float)
        β₁ and β₂, at least 0 and less than 1.
    eps : float
        ε, positive.
    weight_decay : float
        λ, at least 0.
    amsgrad : bool
        Whether to divide by the largest v so far (Reddi, Kale, Kumar, ICLR 2018).

    References
    ----------
    D. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR 2015.

    Examples
    --------
    >>> import fastfc as fc
    >>> layer = fc.Linear(1, 1, init="zeros")
    >>> layer.weight_grad = [[2.0]]
    >>> fc.Adam(lr=0.5).step(layer)
    >>> layer.weight
    array([[-0.5]], dtype=float32)
    """

    lr = hyperparameter(0, "lr")
    beta1 = hyperparameter(1, "beta1", or_zero=True, below=1)
    beta2 = hyperparameter(2, "beta2", or_zero=True, below=1)
    eps = hyperparameter(3, "eps")
    weight_decay = hyperparameter(4, "weight_decay", or_zero=True)
    _decoupled = hyperparameter(5, "decoupled", or_zero=True)

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        self.amsgrad = bool(amsgrad)
        beta1, beta2 = betas
        decoupled = isinstance(self, AdamW)
        super().__init__(
            ("lr", lr),
            ("beta1", beta1),
            ("beta2", beta2),
            ("eps", eps),
            ("weight_decay", weight_decay),
            ("_decoupled", decoupled),
        )

    @property
    def code(self) -> int:  # type: ignore[override]
        return native.AMSGRAD if self.amsgrad else native.ADAM

    def __repr__(self) -> str:
        rest = f", weight_decay={self.weight_decay}" + ", amsgrad=True" * self.amsgrad
        return f"{type(self).__name__}(lr={self.lr}, betas=({self.beta1}, {self.beta2}), eps={self.eps}{rest})"


class AdamW(Adam):
    """Adam with decoupled weight decay: w ← w − lr λ w first, and then the step of Adam for g = ∇L.

    Parameters as for Adam; weight_decay is 0.01 unless given.

    References
    ----------
    I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", ICLR 2019.

    Examples
    --------
    >>> import fastfc as fc
    >>> layer = fc.Linear(1, 1, init="zeros")
    >>> layer.weight = [[1.0]]
    >>> fc.AdamW(lr=0.5, weight_decay=0.1).step(layer)
    >>> layer.weight
    array([[0.95]], dtype=float32)
    """

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(lr, betas, eps, weight_decay, amsgrad)


class RMSprop(Optimizer):
    """RMSprop: steps by the gradient over the root of the mean of its squares.

    With g = ∇L + λ w:

        v ← α v + (1 − α) g²,    b ← μ b + g / (√v + ε),    w ← w − lr b

    and, if centered, a ← α a + (1 − α) g and v − a² under the root.

    Parameters
    ----------
    lr, eps : float
        Positive.
    alpha, momentum : float
        α and μ, at least 0 and less than 1.
    weight_decay : float
        λ, at least 0.
    centered : bool

    References
    ----------
    T. Tieleman, G. Hinton, "Lecture 6.5: rmsprop", Coursera, 2012. A. Graves, "Generating sequences with
    recurrent neural networks", 2013, for the centered form.

    Examples
    --------
    >>> import fastfc as fc
    >>> layer = fc.Linear(1, 1, init="zeros")
    >>> layer.weight_grad = [[2.0]]
    >>> fc.RMSprop(lr=0.5, alpha=0.75).step(layer)
    >>> layer.weight
    array([[-1.]], dtype=float32)
    """

    lr = hyperparameter(0, "lr")
    alpha = hyperparameter(1, "alpha", or_zero=True, below=1)
    eps = hyperparameter(2, "eps")
    weight_decay = hyperparameter(3, "weight_decay", or_zero=True)
    momentum = hyperparameter(4, "momentum", or_zero=True, below=1)

    def __init__(
        self,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        self.centered = bool(centered)
        super().__init__(
            ("lr", lr), ("alpha", alpha), ("eps", eps), ("weight_decay", weight_decay), ("momentum", momentum)
        )

    @property
    def code(self) -> int:  # type: ignore[override]
        return native.RMSPROP_CENTERED if self.centered else native.RMSPROP

    def __repr__(self) -> str:
        return super().__repr__()[:-1] + ", centered=True" * self.centered + ")"


class Adagrad(Optimizer):
    """Adagrad: steps by the gradient over the root of the sum of all its squares.

    With g = ∇L + λ w and the t-th step:

        v ← v + g²,    w ← w − lr / (1 + (t − 1) d) g / (√v + ε)

    Parameters
    ----------
    lr, eps : float
        Positive.
    lr_decay, weight_decay : float
        d and λ, at least 0.

    References
    ----------
    J. Duchi, E. Hazan, Y. Singer, "Adaptive subgradient methods for online learning and stochastic
    optimization", JMLR 12, 2011.

    Examples
    --------
    >>> import fastfc as fc
    >>> layer = fc.Linear(1, 1, init="zeros")
    >>> layer.weight_grad = [[2.0]]
    >>> fc.Adagrad(lr=0.5).step(layer)
    >>> layer.weight
    array([[-0.5]], dtype=float32)
    """

    code = native.ADAGRAD

    lr = hyperparameter(0, "lr")
    lr_decay = hyperparameter(1, "lr_decay", or_zero=True)
    eps = hyperparameter(2, "eps")
    weight_decay = hyperparameter(3, "weight_decay", or_zero=True)

    def __init__(self, lr: float = 1e-2, lr_decay: float = 0.0, weight_decay: float = 0.0, eps: float = 1e-10) -> None:
        super().__init__(("lr", lr), ("lr_decay", lr_decay), ("eps", eps), ("weight_decay", weight_decay))


class Lion(Optimizer):
    """Lion: steps of one size, in the direction of the sign of a mean of the gradients.

        w ← w − lr λ w − lr sign(β₁ m + (1 − β₁) ∇L),    then m ← β₂ m + (1 − β₂) ∇L

    Parameters
    ----------
    lr : float
        Positive.
    betas : (float, float)
        β₁ and β₂, at least 0 and less than 1.
    weight_decay : float
        λ, at least 0.

    References
    ----------
    X. Chen et al., "Symbolic discovery of optimization algorithms", NeurIPS 2023.

    Examples
    --------
    >>> import fastfc as fc
    >>> layer = fc.Linear(1, 1, init="zeros")
    >>> layer.weight_grad = [[2.0]]
    >>> fc.Lion(lr=0.5).step(layer)
    >>> layer.weight
    array([[-0.5]], dtype=float32)
    """

    code = native.LION

    lr = hyperparameter(0, "lr")
    beta1 = hyperparameter(1, "beta1", or_zero=True, below=1)
    beta2 = hyperparameter(2, "beta2", or_zero=True, below=1)
    weight_decay = hyperparameter(3, "weight_decay", or_zero=True)

    def __init__(self, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0) -> None:
        beta1, beta2 = betas
        super().__init__(("lr", lr), ("beta1", beta1), ("beta2", beta2), ("weight_decay", weight_decay))

    def __repr__(self) -> str:
        return f"Lion(lr={self.lr}, betas=({self.beta1}, {self.beta2}), weight_decay={self.weight_decay})"
