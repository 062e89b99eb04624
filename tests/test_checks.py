import numpy as np
import pytest

from fastfc.checks import as_floats, as_real, finite_number, float_dtype, positive_int, positive_number


@pytest.mark.parametrize(
    "given",
    [[[1, 2]], [[True, False]], np.ones((1, 2), np.uint8), np.ones((1, 2), np.float16), np.ones((1, 2), ">f8")],
)
def test_numbers_become_the_wanted_dtype(given):
    for dtype in (np.float32, np.float64):
        got = as_floats(given, dtype, "Layer", "x")
        assert got.dtype == dtype and got.dtype.isnative
        np.testing.assert_array_equal(got, np.asarray(given, dtype))


def test_the_right_dtype_is_not_copied():
    x = np.ones((2, 3), np.float32)
    assert as_floats(x, np.float32, "Layer", "x") is x
    assert as_floats(x, None, "Layer", "x") is x


@pytest.mark.parametrize(("given", "dtype"), [([1], "f4"), (np.ones(1, ">f8"), "f8"), (np.ones(1, "f2"), "f4")])
def test_without_a_wanted_dtype(given, dtype):
    assert as_floats(given, None, "Layer", "x").dtype == np.dtype(dtype)


@pytest.mark.parametrize("given", [1j, "a", None, [object()]])
def test_what_is_not_a_real_number_is_refused(given):
    with pytest.raises(TypeError, match="Layer: x has dtype"):
        as_real(given, "Layer", "x")


def test_ragged_rows_are_refused():
    with pytest.raises(ValueError, match="Layer: x has rows of different lengths"):
        as_real([[1], [1, 2]], "Layer", "x")


def test_dtypes():
    assert float_dtype("float32", "Layer") == np.float32
    with pytest.raises(TypeError, match=r"Layer: dtype must be np.float32 or np.float64, got int64"):
        float_dtype(np.int64, "Layer")


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-3, ValueError), (1.0, TypeError), ("1", TypeError)])
def test_positive_int(value, error):
    assert positive_int(np.int64(3), "Layer", "width") == 3
    with pytest.raises(error, match="Layer: width must be"):
        positive_int(value, "Layer", "width")


@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf])
def test_positive_number(value):
    assert positive_number(np.float32(0.5), "SGD", "lr") == 0.5
    with pytest.raises(ValueError, match="SGD: lr must be finite and positive"):
        positive_number(value, "SGD", "lr")
    assert positive_number(0, "SGD", "momentum", or_zero=True) == 0
    with pytest.raises(TypeError, match="SGD: lr must be a number"):
        positive_number("fast", "SGD", "lr")


def test_finite_number():
    assert finite_number(np.float32(-0.5), "Normal", "mean") == -0.5
    for value in (np.nan, -np.inf):
        with pytest.raises(ValueError, match="Normal: mean must be finite"):
            finite_number(value, "Normal", "mean")
    with pytest.raises(TypeError, match="Normal: mean must be a number, got '0'"):
        finite_number("0", "Normal", "mean")
