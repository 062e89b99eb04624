"""Optimizers whose steps look at one batch: SGD, Adam and their relatives.

The rules stand in kernels/optim/rules.py; here are the hyperparameters, and what a rule remembers.
"""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from fastfc.kernels.optim import rules
from fastfc.kernels.optim import update as update_kernels
from fastfc.nn.layer import Layer
from fastfc.optim.base import Optimizer, Options, of_rule, switch, variant
from fastfc.validation import listed, positive_number

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Lion",
    "NAdam",
    "RMSprop",
]


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and weight decay.

    For each parameter w with gradient ∇L, in PyTorch's form of the rule:

        g = ∇L + λ w,    v ← μ v + (1 − δ) g,    w ← w − lr v

    λ w is the gradient of the L2 penalty λ Ω(w) = λ/2 ‖w‖², so weight decay adds λ ∇Ω to every
    parameter's gradient, biases included. In the first step with momentum v is g.

    Parameters
    ----------
    lr : float
        Learning rate, positive. It is 0.01 unless given, 0.001 in torch.optim.SGD.
    momentum, dampening : float
        μ and δ, at least 0 and less than 1.
    weight_decay : float
        λ, at least 0.
    nesterov : bool
        Whether to look ahead, w ← w − lr (g + μ v).
    **options
        See Optimizer.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range, or groups that name no parameter.

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

    momentum = of_rule(0, "momentum", or_zero=True, below=1, decides=True)
    dampening = of_rule(1, "dampening", or_zero=True, below=1)
    nesterov = switch(update_kernels.RULE + 2, "nesterov")
    _optional = "dampening", "nesterov"

    def __init__(
        self,
        lr: float = 0.01,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            ("lr", lr),
            ("momentum", momentum),
            ("weight_decay", weight_decay),
            ("dampening", dampening),
            ("nesterov", nesterov),
            **options,
        )

    def _check_options(self) -> None:
        super()._check_options()
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError("SGD: nesterov needs a momentum and no dampening")

    def _begin(self, known: int) -> None:
        if self._rule_rows and not known:
            self.count[1] = self.count[0]

    @property
    def code(self) -> int:  # type: ignore[override]
        return rules.MOMENTUM if self.momentum else rules.SGD

    @property
    def velocity(self) -> NDArray[Any] | None:
        """v, for all parameters; None before the first step and without momentum."""
        return self.state[0] if self._rule_rows and len(self.state) else None


class BetaOptimizer(Optimizer):
    """Base of the rules that remember means of the gradients: their decays are β₁ and β₂."""

    beta1 = of_rule(0, "beta1", or_zero=True, below=1)
    beta2 = of_rule(1, "beta2", or_zero=True, below=1)

    @property
    def betas(self) -> tuple[float, float]:
        return self.beta1, self.beta2

    @betas.setter
    def betas(self, betas: tuple[float, float]) -> None:
        owner, example = type(self).__name__, "(0.9, 0.999)"
        found = listed(betas, owner, "betas", example)
        if len(found) != 2:
            raise ValueError(f"{owner}: betas must be two numbers such as {example}, got {betas!r}")
        before = self.beta1
        self.beta1 = found[0]
        try:
            self.beta2 = found[1]
        except (TypeError, ValueError):
            self.beta1 = before
            raise


class Adam(BetaOptimizer):
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
        Whether to divide by the largest v so far (Reddi, Kale, Kumar, ICLR 2018), which is sought from the first
        step with amsgrad on.
    **options
        See Optimizer.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range, or groups that name no parameter.

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

    eps = of_rule(2, "eps")
    amsgrad = variant("amsgrad")
    _optional = ("amsgrad",)

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        **options: Unpack[Options],
    ) -> None:
        self.amsgrad = amsgrad
        super().__init__(("lr", lr), ("betas", betas), ("eps", eps), ("weight_decay", weight_decay), **options)

    @property
    def code(self) -> int:  # type: ignore[override]
        return rules.AMSGRAD if self.amsgrad else rules.ADAM


class AdamW(Adam):
    """Adam with decoupled weight decay: w ← w − lr λ w first, and then the step of Adam for g = ∇L.

    Parameters
    ----------
    lr, betas, eps, weight_decay, amsgrad, **options
        As for Adam; weight_decay, λ, is 0.01 unless given.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range, or groups that name no parameter.

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

    _flags = update_kernels.DECOUPLED

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(lr, betas, eps, weight_decay, amsgrad, **options)


class NAdam(BetaOptimizer):
    """NAdam: Adam with Nesterov's look ahead, by a momentum that grows.

    With g = ∇L + λ w, the t-th step and μₜ = β₁ (1 − 0.96^(t ψ) / 2):

        m ← β₁ m + (1 − β₁) g,    v ← β₂ v + (1 − β₂) g²
        m̂ = μₜ₊₁ / (1 − μ₁ … μₜ₊₁) m + (1 − μₜ) / (1 − μ₁ … μₜ) g
        w ← w − lr m̂ / (√(v / (1 − β₂ᵗ)) + ε)

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
    momentum_decay : float
        ψ, at least 0.
    decoupled_weight_decay : bool
        Whether w ← w − lr λ w comes first, and g = ∇L, as in AdamW.
    **options
        See Optimizer.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range, or groups that name no parameter.

    References
    ----------
    T. Dozat, "Incorporating Nesterov momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> import fastfc as fc
    >>> layer = fc.Linear(1, 1, init="zeros")
    >>> layer.weight_grad = [[2.0]]
    >>> fc.NAdam(lr=0.5).step(layer)
    >>> layer.weight.round(4)
    array([[-0.5282]], dtype=float32)
    """

    code = rules.NADAM

    eps = of_rule(2, "eps")
    momentum_decay = of_rule(3, "momentum_decay", or_zero=True)
    decoupled_weight_decay = switch(update_kernels.FLAGS, "decoupled_weight_decay", update_kernels.DECOUPLED)
    _optional = ("decoupled_weight_decay",)

    def __init__(
        self,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            ("lr", lr),
            ("betas", betas),
            ("eps", eps),
            ("weight_decay", weight_decay),
            ("momentum_decay", momentum_decay),
            ("decoupled_weight_decay", decoupled_weight_decay),
            **options,
        )


class RMSprop(Optimizer):
    """RMSprop: steps by the gradient over the root of the mean of its squares.

    With g = ∇L + λ w:

        v ← α v + (1 − α) g²,    b ← μ b + g / (√v + ε),    w ← w − lr b

    and, if centered, v is the variance of g instead, the mean of g² less that of the mean of g:

        v ← α (v + (1 − α) (g − a)²),    a ← α a + (1 − α) g

    Parameters
    ----------
    lr, eps : float
        Positive.
    alpha, momentum : float
        α and μ, at least 0 and less than 1.
    weight_decay : float
        λ, at least 0.
    centered : bool
    **options
        See Optimizer.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range, or groups that name no parameter.

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

    alpha = of_rule(0, "alpha", or_zero=True, below=1)
    eps = of_rule(2, "eps")
    momentum = of_rule(1, "momentum", or_zero=True, below=1)
    centered = variant("centered")
    _optional = ("centered",)

    def __init__(
        self,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        **options: Unpack[Options],
    ) -> None:
        self.centered = centered
        super().__init__(
            ("lr", lr),
            ("alpha", alpha),
            ("eps", eps),
            ("weight_decay", weight_decay),
            ("momentum", momentum),
            **options,
        )

    @property
    def code(self) -> int:  # type: ignore[override]
        return rules.RMSPROP_CENTERED if self.centered else rules.RMSPROP

    def prepare(self, network: Layer) -> tuple[NDArray[Any], NDArray[np.float64]]:
        prepared = super().prepare(network)
        self._convert()
        return prepared

    @property
    def _handle(self) -> tuple[Any, ...]:
        self._convert()
        return super()._handle

    def _convert(self) -> None:
        """Make v the variance of g, or the mean of g², after a change of `centered`; files of version 0.1 have that."""
        is_variance = self.count[1] == rules.CENTERED
        if self.count[0] and self.centered != is_variance and len(self._state) > 2:
            v, _, mean = self._state[:3]
            v[...] = np.maximum(v - mean**2, 0) if self.centered else v + mean**2
            self.count[1] = rules.CENTERED * self.centered


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
    initial_accumulator_value : float
        v before the first step, at least 0. It can't be changed after it.
    **options
        See Optimizer.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range, or groups that name no parameter.

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

    code = rules.ADAGRAD

    lr_decay = of_rule(0, "lr_decay", or_zero=True)
    eps = of_rule(1, "eps")
    _initial = 0.0
    _optional = ("initial_accumulator_value",)

    def __init__(
        self,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        eps: float = 1e-10,
        initial_accumulator_value: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(("lr", lr), ("lr_decay", lr_decay), ("eps", eps), ("weight_decay", weight_decay), **options)
        self.initial_accumulator_value = initial_accumulator_value

    @property
    def initial_accumulator_value(self) -> float:
        return self._initial

    @initial_accumulator_value.setter
    def initial_accumulator_value(self, value: float) -> None:
        value = positive_number(value, "Adagrad", "initial_accumulator_value", or_zero=True)
        if value != self._initial:
            self._refuse_after_steps("initial_accumulator_value", "it is what v began with")
        self._initial = value
        self._state = self._state if self.count[0] else self._state[:0]
        self._options_changed()

    def _begin(self, known: int) -> None:
        if not known:
            self._state[0] = self._initial


class Lion(BetaOptimizer):
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
    **options
        See Optimizer.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range, or groups that name no parameter.

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

    code = rules.LION
    _flags = update_kernels.DECOUPLED

    def __init__(
        self,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(("lr", lr), ("betas", betas), ("weight_decay", weight_decay), **options)
