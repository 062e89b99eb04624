"""First values of weights and biases: `initializer(rng, shape, dtype)` returns a new array; `fit_to` knows the data.

All are drawn in float64 and rounded, so that a float32 network starts from the rounded weights of the
float64 one. Definitions are those of torch.nn.init.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastfc.attributes import frozen
from fastfc.data import streams
from fastfc.nn.layer import Layer
from fastfc.validation import as_generator, choice, did_you_mean, finite_number, positive_number, unknown

Initializer = Callable[[np.random.Generator, tuple[int, ...], Any], NDArray[Any]]

# Of `fit_to`: samples whose mean a bias takes away, and what values of all layers together may take in memory.
N_ROWS = 5
MOST_BYTES = 1 << 28
COLUMNS = 32  # whose standard deviations are computed together
FARTHEST = 1e100  # of TruncatedNormal's interval from its mean, in units of std: squares must be finite
# The squares of the gains: exact, unlike √2.
SQUARED_GAINS = {"linear": 1.0, "identity": 1.0, "sigmoid": 1.0, "tanh": 25 / 9, "relu": 2.0, "selu": 9 / 16}


@frozen
class BaseInitializer:
    """Base of the initializers: what `draw` returns, rounded to the dtype."""

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        return self.draw(rng, shape).astype(dtype)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        raise NotImplementedError

    def _check_finite(self, *names: str) -> None:
        for name in names:
            finite_number(getattr(self, name), type(self).__name__, name)


@frozen
class Constant(BaseInitializer):
    """Every element the same number, w = value (torch.nn.init.constant_).

    Parameters
    ----------
    value : float
        Finite.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.Linear(2, 3, bias_init=fc.Constant(0.1)).bias
    array([0.1, 0.1, 0.1], dtype=float32)
    """

    value: float

    def __post_init__(self) -> None:
        self._check_finite("value")

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        return np.full(shape, float(self.value))


@frozen
class Zeros(BaseInitializer):
    """All zeros, w = 0, the usual start of a bias: an alias of `Constant(0)` (torch.nn.init.zeros_).

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> fc.Zeros()(np.random.default_rng(0), (3,), np.float32)
    array([0., 0., 0.], dtype=float32)
    """

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        return np.zeros(shape)


@frozen
class Normal(BaseInitializer):
    """Normal, density ∝ exp(−(w − mean)² / (2 std²)) (torch.nn.init.normal_).

    Parameters
    ----------
    mean, std : float
        Finite; std positive.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> weight = fc.Normal(std=0.02)(np.random.default_rng(0), (200, 300), np.float32)
    >>> print(f"{weight.std():.3f}")
    0.020
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        self._check_finite("mean")
        positive_number(self.std, type(self).__name__, "std")

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        return rng.normal(self.mean, self.std, shape)


@frozen
class Uniform(BaseInitializer):
    """Uniform, low ≤ w < high (torch.nn.init.uniform_); rounding to float32 may give `high` itself.

    Parameters
    ----------
    low, high : float
        Finite, low < high.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> weight = fc.Uniform(-0.1, 0.1)(np.random.default_rng(0), (200, 300), np.float32)
    >>> print(f"{weight.min():.3f} {weight.max():.3f}")
    -0.100 0.100
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_interval(self, self.low, self.high)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        return rng.uniform(self.low, self.high, shape)


@frozen
class TruncatedNormal(Normal):
    """Normal within [low, high], what falls outside drawn again (torch.nn.init.trunc_normal_).

    `std` is that of the whole normal distribution; within the bounds it is smaller, 0.88 std for ±2 std.

    Parameters
    ----------
    mean, std : float
        Finite; std positive.
    low, high : float
        Finite, low < high; absolute, not multiples of std. The mean need not lie between them.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range.

    References
    ----------
    C. P. Robert, "Simulation of truncated normal variables", Statistics and Computing 5, 1995, section 2.2:
    uniform proposals z, accepted with probability exp((z₀² − z²) / 2), z₀ the likeliest in the interval.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> weight = fc.TruncatedNormal(std=0.02, low=-0.04, high=0.04)(np.random.default_rng(0), (200, 300), np.float32)
    >>> print(f"{weight.min():.3f} {weight.max():.3f} {weight.std():.4f}")
    -0.040 0.040 0.0176
    """

    low: float = -2.0
    high: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval(self, self.low, self.high)
        if abs(self._likeliest()) > FARTHEST:
            raise ValueError(f"{type(self).__name__}: low and high are too many times std away from the mean")

    def _likeliest(self) -> float:
        """Between low and high, in units of std from the mean."""
        low, high = ((float(end) - float(self.mean)) / float(self.std) for end in (self.low, self.high))
        return min(max(0.0, low), high)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        low, high = (self.low - self.mean) / self.std, (self.high - self.mean) / self.std
        likeliest = self._likeliest()
        # Beyond this the density is less than 2⁻⁵³ of the greatest: no proposals there, so that at least
        # one in 40 is accepted however wide or far the interval is.
        edge = math.sqrt(likeliest**2 + 74)
        low, high = max(low, -edge), min(high, edge)
        out = np.empty(math.prod(shape))
        missing = np.arange(out.size)
        while missing.size:
            z = rng.uniform(low, high, missing.size)
            accepted = rng.random(missing.size) < np.exp((likeliest**2 - z**2) / 2)
            out[missing[accepted]] = self.mean + self.std * z[accepted]
            missing = missing[~accepted]
        return np.clip(out, self.low, self.high).reshape(shape)


@frozen
class Scaled(BaseInitializer):
    """Base of those whose spread follows from the shape: normal or uniform with variance gain² / fan."""

    uniform: ClassVar[bool] = False

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        squared_gain, fan = self._gain_and_fan(*(max(size, 1) for size in as_weight(self, shape)))
        if self.uniform:
            limit = math.sqrt(3 * squared_gain / fan)
            return rng.uniform(-limit, limit, shape)
        return rng.normal(0, math.sqrt(squared_gain / fan), shape)

    def _gain_and_fan(self, fan_in: int, fan_out: int) -> tuple[float, float]:
        """gain² and fan."""
        raise NotImplementedError


@frozen
class KaimingNormal(Scaled):
    """Normal with mean 0 and standard deviation gain / √fan (torch.nn.init.kaiming_normal_).

    With the defaults √(2 / fan_in), which keeps the signal's size through ReLU layers. `fc.He` and "he" are
    aliases.

    Parameters
    ----------
    a : float
        Negative slope, for nonlinearity "leaky_relu" only.
    mode : {"fan_in", "fan_out"}
        Whether to keep the size of the signal or that of the gradients; a weight is (fan_in, fan_out).
    nonlinearity : str
        What follows the layer: "linear", "identity" or "sigmoid" (gain 1), "tanh" (5/3), "relu" (√2),
        "leaky_relu" (√(2 / (1 + a²))) or "selu" (3/4).

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range. When called, for a shape that is not (fan_in, fan_out).

    References
    ----------
    K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers", ICCV 2015, equations 10, 14 and 15; gains:
    torch.nn.init.calculate_gain.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> weight = fc.KaimingNormal()(np.random.default_rng(0), (200, 300), np.float32)
    >>> print(f"{weight.std():.3f}")
    0.100
    """

    a: float = 0.0
    mode: str = "fan_in"
    nonlinearity: str = "leaky_relu"

    def __post_init__(self) -> None:
        self._check_finite("a")
        choice(self.mode, type(self).__name__, "mode", ("fan_in", "fan_out"))
        if not isinstance(self.nonlinearity, str):
            raise TypeError(f"{type(self).__name__}: nonlinearity must be a name, got {self.nonlinearity!r}")
        squared_gain(self.nonlinearity, self.a, type(self).__name__)

    def _gain_and_fan(self, fan_in: int, fan_out: int) -> tuple[float, float]:
        return squared_gain(self.nonlinearity, self.a, self), fan_in if self.mode == "fan_in" else fan_out


@frozen
class KaimingUniform(KaimingNormal):
    """Uniform in ±gain √(3 / fan) (torch.nn.init.kaiming_uniform_).

    With the defaults ±√(6 / fan_in). PyTorch's Linear starts its weight with `KaimingUniform(a=5**0.5)`, which
    is ±1 / √fan_in.

    Parameters
    ----------
    a, mode, nonlinearity
        As for `KaimingNormal`.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range. When called, for a shape that is not (fan_in, fan_out).

    References
    ----------
    As for `KaimingNormal`.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> weight = fc.KaimingUniform(nonlinearity="tanh")(np.random.default_rng(0), (300, 200), np.float32)
    >>> print(f"{abs(weight).max():.3f}")
    0.167
    """

    uniform = True


@frozen
class XavierNormal(Scaled):
    """Normal with mean 0 and standard deviation gain √(2 / (fan_in + fan_out)) (torch.nn.init.xavier_normal_).

    For tanh and sigmoid layers; also called Glorot.

    Parameters
    ----------
    gain : float or str
        Positive, or the activation whose gain to take: one of `KaimingNormal`'s, "leaky_relu" with slope 0.01.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range. When called, for a shape that is not (fan_in, fan_out).

    References
    ----------
    X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks",
    AISTATS 2010, equation 12.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> weight = fc.XavierNormal(gain="tanh")(np.random.default_rng(0), (200, 300), np.float32)
    >>> print(f"{weight.std():.3f}")
    0.105
    """

    gain: float | str = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.gain, str):
            positive_number(self.gain, type(self).__name__, "gain")
        squared_gain(self.gain, 0.01, type(self).__name__)

    def _gain_and_fan(self, fan_in: int, fan_out: int) -> tuple[float, float]:
        return squared_gain(self.gain, 0.01, self), (fan_in + fan_out) / 2


@frozen
class XavierUniform(XavierNormal):
    """Uniform in ±gain √(6 / (fan_in + fan_out)) (torch.nn.init.xavier_uniform_).

    For tanh and sigmoid layers; also called Glorot. `fc.Xavier` and "xavier" are aliases.

    Parameters
    ----------
    gain : float or str
        As for `XavierNormal`.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range. When called, for a shape that is not (fan_in, fan_out).

    References
    ----------
    X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks",
    AISTATS 2010, equation 16.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> weight = fc.XavierUniform()(np.random.default_rng(0), (200, 400), np.float32)
    >>> print(f"{abs(weight).max():.3f}")
    0.100
    """

    uniform = True


@frozen
class LeCunNormal(Scaled):
    """Normal with mean 0 and standard deviation 1 / √fan_in, for SELU layers; not truncated.

    References
    ----------
    Y. LeCun, L. Bottou, G. B. Orr, K.-R. Müller, "Efficient BackProp", 1998, equation 16; G. Klambauer and
    others, "Self-normalizing neural networks", NeurIPS 2017.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> weight = fc.LeCunNormal()(np.random.default_rng(0), (100, 300), np.float32)
    >>> print(f"{weight.std():.3f}")
    0.100
    """

    def _gain_and_fan(self, fan_in: int, fan_out: int) -> tuple[float, float]:
        return 1.0, fan_in


@frozen
class LeCunUniform(LeCunNormal):
    """Uniform in ±√(3 / fan_in), which has the standard deviation of `LeCunNormal`.

    References
    ----------
    As for `LeCunNormal`.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> weight = fc.LeCunUniform()(np.random.default_rng(0), (300, 200), np.float32)
    >>> print(f"{abs(weight).max():.3f}")
    0.100
    """

    uniform = True


@frozen
class Orthogonal(BaseInitializer):
    """gain · Q, Q uniform among the matrices with orthonormal columns, or rows if those are fewer.

    Q of the QR decomposition of a normal matrix, each column with the sign of R's diagonal
    (torch.nn.init.orthogonal_).

    Parameters
    ----------
    gain : float
        Positive.

    Raises
    ------
    TypeError, ValueError
        For a number of the wrong kind or out of its range. When called, for a shape that is not (fan_in, fan_out).

    References
    ----------
    A. M. Saxe, J. L. McClelland, S. Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks", ICLR 2014; the signs: F. Mezzadri, "How to generate random matrices from the
    classical compact groups", Notices of the AMS 54, 2007.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> weight = fc.Orthogonal()(np.random.default_rng(0), (5, 3), np.float64)
    >>> np.allclose(weight.T @ weight, np.eye(3))
    True
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        positive_number(self.gain, type(self).__name__, "gain")

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        rows, columns = as_weight(self, shape)
        q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
        q *= float(self.gain) * np.sign(np.diag(r))
        return q if rows >= columns else q.T


def squared_gain(gain: float | str, negative_slope: float, owner: object) -> float:
    """The square of a gain that is a number or the name of an activation."""
    if not isinstance(gain, str):
        square = float(gain) * float(gain)  # where ** raises for infinity
        if square == math.inf:
            raise ValueError(f"{owner}: gain must have a finite square, got {gain}")
        return square
    if gain == "leaky_relu":
        return 2 / (1 + float(negative_slope) * float(negative_slope))
    if gain not in SQUARED_GAINS:
        known = [*SQUARED_GAINS, "leaky_relu"]
        near = did_you_mean(gain, known)
        raise ValueError(f"{owner}: no gain is known for {gain!r}; known are {', '.join(map(repr, known))}{near}")
    return SQUARED_GAINS[gain]


def as_weight(initializer: object, shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) != 2:
        raise ValueError(f"{initializer} is for weights (fan_in, fan_out), got {shape}; use 'zeros' for a bias")
    return shape


def check_interval(initializer: object, low: float, high: float) -> None:
    name = type(initializer).__name__
    if not finite_number(low, name, "low") < finite_number(high, name, "high"):
        raise ValueError(f"{name}: low must be less than high, got {low} and {high}")


He, Xavier = KaimingNormal, XavierUniform

BY_NAME: dict[str, Initializer] = {
    "zeros": Zeros(),
    "normal": Normal(),
    "uniform": Uniform(),
    "truncated_normal": TruncatedNormal(),
    "he": He(),
    "kaiming_normal": KaimingNormal(),
    "kaiming_uniform": KaimingUniform(),
    "xavier": Xavier(),
    "xavier_normal": XavierNormal(),
    "xavier_uniform": XavierUniform(),
    "lecun_normal": LeCunNormal(),
    "lecun_uniform": LeCunUniform(),
    "orthogonal": Orthogonal(),
}


def get_initializer(init: str | Initializer) -> Initializer:
    """The initializer of that name, or `init` itself if it is callable."""
    if isinstance(init, str) and init in BY_NAME:
        return BY_NAME[init]
    if isinstance(init, str):
        raise unknown("initializer", init, BY_NAME)
    if isinstance(init, type) or not callable(init):
        raise TypeError(f"an initializer is a name or an object such as He(), got {init!r}")
    return init


def fit_to(network: Any, x: Any, seed: int | np.random.Generator | None = None) -> Any:
    """Give the Linear layers of a network first values that suit the data, layer after layer; the network itself.

    With Z of standard normal numbers and X the layer's input, as the layers before make it in `predict`:

        W = Z / std(X Z), for each unit      b = −Σ ω z, of five samples of z = X W

    so that the output of each unit has standard deviation 1 and, for some sample or other, its sign changes there. The
    samples are drawn for each unit by itself; ω are five exponential numbers over their sum. In the NTK parametrization
    X Z stands for X Z / √in_features. The standard deviation of a unit that gives the same for all samples counts as 1.
    Frozen layers, and all that have no weight matrix of their own, stay as they are; a layer that is used several times
    gets its values where it comes first.

    Parameters
    ----------
    network : Sequential, Graph or Linear
    x : as for `predict`
        Not an iterable of batches. Of more samples than have room in 256 MB with all values of the network, a random
        subset is taken; of arrays on disk that are larger than memory, as many random blocks as make 32 MiB.
    seed : int, numpy.random.Generator or None

    Returns
    -------
    network

    Raises
    ------
    TypeError, ValueError
        For x that the network does not take, that is empty, or is not finite; nothing has changed then.

    References
    ----------
    D. Holzmüller, L. Grinsztajn, I. Steinwart, "Better by default: strong pre-tuned MLPs and boosted trees on tabular
    data", NeurIPS 2024, for both; the biases: I. Steinwart, "A sober look at neural network initializations", 2019.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> x = np.random.default_rng(0).gamma(2.0, 10.0, (300, 4))
    >>> net = fc.initializers.fit_to(fc.MLP([4, 8, 8, 2], "selu"), x, seed=0)
    >>> net.predict(x).std(axis=0).round(4)
    array([1., 1.], dtype=float32)
    """
    if not isinstance(network, Layer):
        raise TypeError(f"fit_to: network must be a network or a layer, got {network!r}")
    rng = as_generator(seed, "fit_to")
    network.check_names(x)
    if streams.too_large(x):
        blocks = streams.Blocks((x, None, None), "fit_to").parts(rng, 1, 1)
        x = next(blocks).samples[0]
    x = network.join(x)
    if x.ndim != 2 or len(x) == 0:
        raise ValueError(f"fit_to: x has shape {x.shape}; give rows of samples, at least one")
    program = network.program_for(x)
    most = max(1, MOST_BYTES // (x.itemsize * (program.numbers + program.inputs + program.outputs)))
    x = x if len(x) <= most else x[np.sort(rng.choice(len(x), most, replace=False))]
    if not np.isfinite(x).all():
        raise ValueError("fit_to: x is not finite; remove such samples")
    network.initialise_from(x, rng)
    return network


def spread_of(z: NDArray[Any]) -> NDArray[np.float64]:
    """The standard deviation of each column, 1 for one that is constant but for rounding."""
    # some columns at a time, for NumPy makes float64 of all that it is given
    parts = np.array_split(z, max(1, z.shape[1] // COLUMNS), axis=1)
    mean, spread = z.mean(axis=0, dtype=np.float64), np.concatenate([p.std(axis=0, dtype=np.float64) for p in parts])
    rounding = 8 * np.finfo(z.dtype).eps * (np.abs(mean) + spread)
    return np.where(spread > rounding, spread, 1.0)


def mean_of_some(z: NDArray[Any], rng: np.random.Generator) -> NDArray[np.float64]:
    """A weighted mean of a few rows, other ones for each column."""
    shares, rows = rng.standard_exponential(N_ROWS), rng.integers(len(z), size=(N_ROWS, z.shape[1]))
    mean: NDArray[np.float64] = shares / shares.sum() @ z[rows, np.arange(z.shape[1])]
    return mean
