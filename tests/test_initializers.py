import math
from fractions import Fraction

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc
from fastfc import reference
from fastfc.nn import initializers
from fastfc.nn.initializers import BY_NAME, SQUARED_GAINS, get_initializer, squared_gain

SHAPE = (300, 200)
KAIMING = dict(a=0.3, mode="fan_out", nonlinearity="leaky_relu")
SLOPE = math.sqrt(2 / (1 + 0.3**2))


def truncated_moments(low, high):
    """Mean and standard deviation of the standard normal distribution within [low, high]."""
    z = np.linspace(low, high, 200_001)
    p = np.exp((min(z**2) - z**2) / 2)
    mean = np.sum(p * z) / np.sum(p)
    return mean, math.sqrt(np.sum(p * (z - mean) ** 2) / np.sum(p))


def interval(low, high):
    return (low + high) / 2, (high - low) / math.sqrt(12), low, high


def normal(std):
    return 0, std, -math.inf, math.inf


def truncated(mean, std, low, high):
    m, s = truncated_moments((low - mean) / std, (high - mean) / std)
    return mean + std * m, std * s, low, high


def uniform(limit):
    return interval(-limit, limit)


# (initializer, (mean, standard deviation, least, greatest)) of a weight of SHAPE
MOMENTS = [
    (fc.Zeros(), (0, 0, 0, 0)),
    (fc.Constant(-0.7), (-0.7, 0, -0.7, -0.7)),
    (fc.Normal(), normal(1)),
    (fc.Normal(3, 0.5), (3, 0.5, -math.inf, math.inf)),
    (fc.Uniform(), interval(0, 1)),
    (fc.Uniform(-3, -1), interval(-3, -1)),
    (fc.TruncatedNormal(), truncated(0, 1, -2, 2)),
    (fc.TruncatedNormal(1, 0.5, 0.9, 4), truncated(1, 0.5, 0.9, 4)),
    (fc.TruncatedNormal(0, 1, 6, 1000), truncated(0, 1, 6, 12)),
    (fc.TruncatedNormal(0, 1, -1000, -20), truncated(0, 1, -21, -20)),
    (fc.TruncatedNormal(0, 1, -1e9, 1e9), normal(1)),
    (fc.TruncatedNormal(0, 100, -1e-3, 1e-3), uniform(1e-3)),
    (fc.KaimingNormal(), normal(math.sqrt(2 / 300))),
    (fc.KaimingNormal(**KAIMING), normal(SLOPE / math.sqrt(200))),
    (fc.KaimingNormal(nonlinearity="selu"), normal(0.75 / math.sqrt(300))),
    (fc.KaimingUniform(), uniform(math.sqrt(6 / 300))),
    (fc.KaimingUniform(a=math.sqrt(5)), uniform(1 / math.sqrt(300))),
    (fc.KaimingUniform(**KAIMING), uniform(SLOPE * math.sqrt(3 / 200))),
    (fc.XavierNormal(), normal(math.sqrt(2 / 500))),
    (fc.XavierNormal(gain=3), normal(3 * math.sqrt(2 / 500))),
    (fc.XavierUniform(), uniform(math.sqrt(6 / 500))),
    (fc.XavierUniform(gain="tanh"), uniform(5 / 3 * math.sqrt(6 / 500))),
    (fc.LeCunNormal(), normal(1 / math.sqrt(300))),
    (fc.LeCunUniform(), uniform(math.sqrt(3 / 300))),
    (fc.Orthogonal(), normal(1 / math.sqrt(300))),
    (fc.Orthogonal(gain=2), normal(2 / math.sqrt(300))),
]


def draw(init, shape=SHAPE, dtype=np.float64, seed=0):
    return get_initializer(init)(np.random.default_rng(seed), shape, dtype)


@pytest.mark.parametrize("init", [*BY_NAME, *(init for init, _ in MOMENTS)], ids=str)
def test_shape_dtype_and_rounding(init):
    exact = draw(init)
    assert exact.shape == SHAPE and exact.dtype == np.float64
    rounded = draw(init, dtype=np.float32)
    assert rounded.dtype == np.float32
    assert_array_equal(rounded, exact.astype(np.float32))


@pytest.mark.parametrize(("init", "expected"), MOMENTS, ids=lambda value: str(value) if callable(value) else "")
def test_moments_and_bounds(init, expected):
    mean, std, low, high = expected
    values = draw(init)
    assert low <= values.min() and values.max() <= high
    # of a sample of N: the mean's own spread is σ / √N, that of the standard deviation at most σ / √N
    spread = 5 * std / math.sqrt(values.size)
    assert abs(values.mean() - mean) <= spread + 1e-12
    assert abs(values.std() - std) <= spread + 1e-12
    if math.isfinite(high):
        assert min(values.min() - low, high - values.max()) <= max(0.01 * (high - low), 1e-3 * std)


@pytest.mark.parametrize("name", reference.VARIANCES)
def test_variances_are_the_references(name):
    init = fc.Constant(1) if name == "Constant" else getattr(fc, name)()
    values, variance = draw(init), reference.VARIANCES[name](*SHAPE)
    # that of a sample of N has itself a spread of √(2 / N) σ² at most
    assert abs(values.var() - variance) <= 5 * math.sqrt(2 / values.size) * variance + 1e-12


def test_every_initializer_has_a_row_here():
    kinds = {kind for kind in vars(initializers).values() if isinstance(kind, type) and hasattr(kind, "draw")}
    public = {kind for kind in kinds if kind.__name__ not in ("BaseInitializer", "Scaled")}
    assert public == {type(init) for init, _ in MOMENTS} == {getattr(fc, kind.__name__) for kind in public}
    assert {type(init) for init in BY_NAME.values()} == public - {fc.Constant}
    for kind in public:
        assert "References\n" in kind.__doc__ or "torch.nn.init" in kind.__doc__ or kind is fc.Zeros


def test_bits():
    rng = np.random.default_rng(0)
    assert_array_equal(draw("he"), rng.normal(0, np.sqrt(2 / 300), SHAPE))
    rng, limit = np.random.default_rng(0), np.sqrt(6 / 500)
    assert_array_equal(draw("xavier"), rng.uniform(-limit, limit, SHAPE))


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (7, 7), (1, 5), (5, 1), (1, 1)])
def test_orthogonal(shape):
    weight = draw(fc.Orthogonal(gain=3), shape) / 3
    gram = weight.T @ weight if shape[0] >= shape[1] else weight @ weight.T
    assert_allclose(gram, np.eye(min(shape)), atol=1e-13)


def test_orthogonal_is_uniform():
    # without the signs of R's diagonal, LAPACK's first column would have one sign at its first place
    first = [draw("orthogonal", (3, 3), seed=seed)[0, 0] for seed in range(200)]
    assert abs(np.mean(first)) <= 5 * np.sqrt(1 / 3 / 200)


def test_truncated_normal_has_the_shape_of_the_density():
    values = draw(fc.TruncatedNormal(0.5, 2, -3, 1), shape=(400, 1000))
    counts, edges = np.histogram(values, 40, (-3, 1))
    middle = (edges[1:] + edges[:-1]) / 2
    density = np.exp(-((middle - 0.5) ** 2) / 8)
    expected = values.size * density / density.sum()
    assert np.sum((counts - expected) ** 2 / expected) <= 39 + 5 * np.sqrt(2 * 39)  # χ² of 39 degrees of freedom


def test_he_keeps_the_signal_through_relu_layers():
    net = fc.MLP([256] * 11, seed=0)
    x = np.random.default_rng(1).standard_normal((100, 256))
    ratio = np.mean(net.predict(x) ** 2) / np.mean(x**2)
    assert 1 <= ratio <= 4  # 2 without the last ReLU; 2⁻¹⁰ or 2¹⁰ if the factor 2 is wrong


def test_orthogonal_keeps_lengths_through_linear_layers():
    net = fc.MLP([64] * 11, activation="identity", init="orthogonal", seed=0, dtype=np.float64)
    x = np.random.default_rng(1).standard_normal((10, 64))
    assert_allclose(np.linalg.norm(net.predict(x), axis=1), np.linalg.norm(x, axis=1), rtol=1e-12)


@pytest.mark.parametrize("name", BY_NAME)
def test_by_name_object_or_function(name):
    init = BY_NAME[name]
    assert init == type(init)()
    expected = fc.Linear(4, 3, init=name, seed=1).weight
    for same in (init, lambda rng, shape, dtype: init(rng, shape, dtype)):
        assert_array_equal(fc.Linear(4, 3, init=same, seed=1).weight, expected)


def test_aliases():
    assert fc.He is fc.KaimingNormal and fc.Xavier is fc.XavierUniform
    assert BY_NAME["he"] == BY_NAME["kaiming_normal"] and BY_NAME["xavier"] == BY_NAME["xavier_uniform"]
    assert_array_equal(draw("zeros"), draw(fc.Constant(0)))
    assert str(fc.KaimingUniform(a=1)) == "KaimingUniform(a=1, mode='fan_in', nonlinearity='leaky_relu')"
    assert repr(fc.Zeros()) == "Zeros()"


def test_each_layer_has_its_own():
    layer = fc.Linear(4, 3, init=fc.Uniform(5, 6), bias_init=fc.Constant(-1))
    assert (layer.weight >= 5).all() and (layer.bias == -1).all()


BAD = [
    (lambda: get_initializer("glorot"), ValueError, "unknown initializer 'glorot'; known are 'zeros',.*'orthogonal'"),
    (lambda: get_initializer(fc.He), TypeError, r"a name or an object such as He\(\)"),
    (lambda: get_initializer(None), TypeError, r"a name or an object such as He\(\)"),
    (lambda: draw(fc.He(), shape=(3,)), ValueError, r"Kaiming.*\) is for weights .* got \(3,\); use 'zeros'"),
    (lambda: draw(fc.LeCunUniform(), shape=(3,)), ValueError, r"LeCunUniform\(\) is for weights"),
    (lambda: draw(fc.Orthogonal(), shape=(3,)), ValueError, r"Orthogonal\(gain=1.0\) is for weights"),
    (lambda: fc.Constant("0"), TypeError, "Constant: value must be a number, got '0'"),
    (lambda: fc.Constant(np.nan), ValueError, "Constant: value must be finite"),
    (lambda: fc.Normal(std=0), ValueError, "Normal: std must be finite and positive, got 0"),
    (lambda: fc.Normal(mean=np.inf), ValueError, "Normal: mean must be finite"),
    (lambda: fc.Uniform(1, 1), ValueError, "Uniform: low must be less than high, got 1 and 1"),
    (lambda: fc.Uniform(0, np.inf), ValueError, "Uniform: high must be finite"),
    (lambda: fc.TruncatedNormal(std=-1), ValueError, "TruncatedNormal: std must be"),
    (lambda: fc.TruncatedNormal(low=2, high=-2), ValueError, "TruncatedNormal: low must be less than high"),
    (
        lambda: fc.KaimingNormal(mode="fan"),
        ValueError,
        "KaimingNormal: mode must be one of 'fan_in', 'fan_out', got 'fan'",
    ),
    (lambda: fc.KaimingUniform(nonlinearity="gelu"), ValueError, "KaimingUniform: no gain is known for 'gelu'.*'selu'"),
    (lambda: fc.KaimingUniform(a="1"), TypeError, "KaimingUniform: a must be a number"),
    (lambda: fc.XavierNormal(gain=-1), ValueError, "XavierNormal: gain must be finite and positive"),
    (lambda: fc.XavierUniform(gain="step"), ValueError, "XavierUniform: no gain is known for 'step'"),
    (lambda: fc.Orthogonal(gain=0), ValueError, "Orthogonal: gain must be finite and positive"),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD)
def test_bad_initializers(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("name", [*(name for name in SQUARED_GAINS if name != "identity"), "leaky_relu"])
def test_gains_are_pytorchs(name):
    init = pytest.importorskip("torch.nn.init")
    for slope in (0.01, 0.0, 0.3):
        expected = init.calculate_gain(name, slope if name == "leaky_relu" else None)
        assert math.sqrt(squared_gain(name, slope, "test")) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("ours", "theirs", "arguments"),
    [
        (fc.KaimingNormal(), "kaiming_normal_", {}),
        (fc.KaimingNormal(**KAIMING), "kaiming_normal_", KAIMING),
        (fc.KaimingUniform(), "kaiming_uniform_", {}),
        (fc.KaimingUniform(**KAIMING), "kaiming_uniform_", KAIMING),
        (fc.XavierNormal(gain=2), "xavier_normal_", {"gain": 2}),
        (fc.XavierUniform(gain=2), "xavier_uniform_", {"gain": 2}),
        (fc.TruncatedNormal(0.5, 2, -1, 3), "trunc_normal_", {"mean": 0.5, "std": 2, "a": -1, "b": 3}),
        (fc.TruncatedNormal(0, 1, 1, 3), "trunc_normal_", {"mean": 0, "std": 1, "a": 1, "b": 3}),
        (fc.Orthogonal(gain=2), "orthogonal_", {"gain": 2}),
    ],
    ids=str,
)
def test_spread_is_pytorchs(ours, theirs, arguments):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    weight = torch.empty(*SHAPE[::-1], dtype=torch.float64)  # PyTorch's weights are (fan_out, fan_in)
    getattr(torch.nn.init, theirs)(weight, **arguments)
    values, expected = draw(ours), weight.numpy()
    assert abs(values.mean() - expected.mean()) <= 7 * expected.std() / np.sqrt(values.size)
    assert abs(values.std() - expected.std()) <= 7 * expected.std() / np.sqrt(values.size)
    if "uniform" in theirs or "trunc" in theirs:
        assert abs(values).max() == pytest.approx(abs(expected).max(), rel=1e-3)


def test_gains_may_be_fractions():
    weights = [fc.Orthogonal(gain)(np.random.default_rng(0), (4, 3), np.float64) for gain in (0.5, Fraction(1, 2))]
    np.testing.assert_array_equal(*weights)
