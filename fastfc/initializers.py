"""First values of weights and biases: `initializer(rng, shape, dtype)` returns a new array."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Initializer = Callable[[np.random.Generator, tuple[int, ...], Any], NDArray[Any]]


class Named:
    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Zeros(Named):
    """All zeros, the usual start of a bias.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> fc.Zeros()(np.random.default_rng(0), (3,), np.float32)
    array([0., 0., 0.], dtype=float32)
    """

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        return np.zeros(shape, dtype)


class He(Named):
    """Normal with mean 0 and standard deviation √(2 / fan_in): keeps the signal's size through ReLU layers.

    `shape` is (fan_in, fan_out). Drawn in float64 and rounded, so that a float32 network starts from
    the rounded weights of the float64 one.

    References
    ----------
    K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers", ICCV 2015, equation 10.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> weight = fc.He()(np.random.default_rng(0), (200, 300), np.float32)
    >>> print(f"{weight.std():.3f}")
    0.100
    """

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        fan_in, _ = fans(self, shape)
        return rng.normal(0, np.sqrt(2 / fan_in), shape).astype(dtype)


class Xavier(Named):
    """Uniform in ±√(6 / (fan_in + fan_out)), for tanh and sigmoid layers; also called Glorot.

    `shape` is (fan_in, fan_out). Drawn in float64 and rounded, as for `He`.

    References
    ----------
    X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks",
    AISTATS 2010, equation 16.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> weight = fc.Xavier()(np.random.default_rng(0), (200, 400), np.float32)
    >>> print(f"{abs(weight).max():.3f}")
    0.100
    """

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        limit = np.sqrt(6 / sum(fans(self, shape)))
        return rng.uniform(-limit, limit, shape).astype(dtype)


def fans(initializer: object, shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) != 2:
        raise ValueError(f"{initializer} is for weights (fan_in, fan_out), got {shape}; use 'zeros' for a bias")
    return shape


BY_NAME: dict[str, Initializer] = {"zeros": Zeros(), "he": He(), "xavier": Xavier()}


def get_initializer(init: str | Initializer) -> Initializer:
    """The initializer of that name, or `init` itself if it is callable."""
    if isinstance(init, str) and init in BY_NAME:
        return BY_NAME[init]
    if isinstance(init, str):
        raise ValueError(f"unknown initializer {init!r}; known are {', '.join(map(repr, BY_NAME))}")
    if isinstance(init, type) or not callable(init):
        raise TypeError(f"an initializer is a name or an object such as He(), got {init!r}")
    return init
