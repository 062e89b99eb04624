import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastfc as fc
from fastfc.initializers import BY_NAME, get_initializer

SHAPE = (300, 200)


def draw(init, shape=SHAPE, dtype=np.float64, seed=0):
    return get_initializer(init)(np.random.default_rng(seed), shape, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", BY_NAME)
def test_shape_dtype_and_rounding(name, dtype):
    values = draw(name, dtype=dtype)
    assert values.shape == SHAPE and values.dtype == dtype
    assert_array_equal(values, draw(name).astype(dtype))


def test_formulas():
    rng = np.random.default_rng(0)
    assert_array_equal(draw("zeros"), np.zeros(SHAPE))
    assert_array_equal(draw("he"), rng.normal(0, np.sqrt(2 / 300), SHAPE))
    rng, limit = np.random.default_rng(0), np.sqrt(6 / 500)
    assert_array_equal(draw("xavier"), rng.uniform(-limit, limit, SHAPE))


def test_spread():
    # the standard deviation of the sample's standard deviation is σ / √(2N), at most
    for name, std in [("he", np.sqrt(2 / 300)), ("xavier", np.sqrt(2 / 500))]:
        values = draw(name)
        assert abs(values.std() - std) <= 5 * std / np.sqrt(2 * values.size)
        assert abs(values.mean()) <= 5 * std / np.sqrt(values.size)


def test_he_keeps_the_signal_through_relu_layers():
    net = fc.MLP([256] * 11, seed=0)
    x = np.random.default_rng(1).standard_normal((100, 256))
    ratio = np.mean(net.predict(x) ** 2) / np.mean(x**2)
    assert 1 <= ratio <= 4  # 2 without the last ReLU; 2⁻¹⁰ or 2¹⁰ if the factor 2 is wrong


@pytest.mark.parametrize("name, kind", [("zeros", fc.Zeros), ("he", fc.He), ("xavier", fc.Xavier)])
def test_by_name_object_or_function(name, kind):
    assert repr(kind()) == f"{kind.__name__}()"
    expected = fc.Linear(4, 3, init=name, seed=1).weight
    for init in (kind(), lambda rng, shape, dtype: kind()(rng, shape, dtype)):
        assert_array_equal(fc.Linear(4, 3, init=init, seed=1).weight, expected)


def test_bad_initializers():
    with pytest.raises(ValueError, match="unknown initializer 'glorot'; known are 'zeros', 'he', 'xavier'"):
        get_initializer("glorot")
    for wrong in (fc.He, None, 0):
        with pytest.raises(TypeError, match=r"a name or an object such as He\(\)"):
            get_initializer(wrong)
    for kind in (fc.He, fc.Xavier):
        with pytest.raises(ValueError, match=rf"{kind.__name__}\(\) .* got \(3,\); use 'zeros'"):
            draw(kind(), shape=(3,))
