import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc

RNG = np.random.default_rng(0)
PREDICTION = RNG.normal(0, 2, (6, 4))
LABELS = RNG.integers(0, 4, 6)
PROBABILITIES = RNG.dirichlet(np.ones(4), 6)
CASES = [
    (fc.MSELoss(), RNG.normal(0, 2, (6, 4))),
    (fc.CrossEntropyLoss(), LABELS),
    (fc.CrossEntropyLoss(), PROBABILITIES),
    (fc.BCEWithLogitsLoss(), RNG.uniform(0, 1, (6, 4))),
]
every_loss = pytest.mark.parametrize("loss, target", CASES, ids=["mse", "labels", "probabilities", "bce"])


def textbook(loss, z, y):
    if isinstance(loss, fc.MSELoss):
        return np.mean((z - y) ** 2), 2 * (z - y) / z.size
    if isinstance(loss, fc.BCEWithLogitsLoss):
        p = 1 / (1 + np.exp(-z))
        return -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)), (p - y) / z.size
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    y = np.eye(z.shape[1])[y] if np.ndim(y) == 1 else y
    return -np.mean((y * np.log(p)).sum(axis=1)), (p - y) / len(z)


@every_loss
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_value_and_gradient(loss, target, dtype):
    prediction = PREDICTION.astype(dtype)
    before = prediction.copy()
    value, grad = loss(prediction, target)
    expected_value, expected_grad = textbook(loss, PREDICTION, target)
    tolerance = 32 * np.finfo(dtype).eps
    assert type(value) is float and grad.dtype == dtype
    assert_allclose(value, expected_value, rtol=tolerance)
    assert_allclose(grad, expected_grad, atol=tolerance)
    assert_array_equal(prediction, before)


def test_exact_values():
    value, grad = fc.MSELoss()([[1, 2], [3, 4]], [[1, 0], [0, 4]])
    assert value == 13 / 4
    assert_array_equal(grad, [[0, 1], [1.5, 0]])
    value, grad = fc.BCEWithLogitsLoss()(np.zeros(4), [0, 1, 0.5, 1])
    assert_allclose(value, np.log(2), rtol=1e-15)
    assert_array_equal(grad, [0.125, -0.125, 0, -0.125])
    value, grad = fc.CrossEntropyLoss()(np.zeros((2, 4)), [0, 3])
    assert_allclose(value, np.log(4), rtol=1e-15)
    assert_array_equal(grad, [[-0.375, 0.125, 0.125, 0.125], [0.125, 0.125, 0.125, -0.375]])


@every_loss
def test_layout_and_dtype_of_the_input(loss, target):
    expected_value, expected_grad = loss(PREDICTION, target)
    for change in (
        np.asfortranarray,
        lambda a: a[::-1].copy()[::-1],
        lambda a: a.astype(a.dtype.newbyteorder()),
    ):
        value, grad = loss(change(PREDICTION), change(np.asarray(target)))
        assert_allclose(value, expected_value, rtol=1e-15)
        assert_allclose(grad, expected_grad, rtol=1e-14)
    rounded = PREDICTION.round()
    assert loss(rounded.tolist(), target)[0] == loss(rounded, target)[0]
    for dtype in (np.int16, np.float16):
        assert loss(rounded.astype(dtype), target)[0] == loss(rounded.astype(np.float32), target)[0]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, ">i8", bool])
def test_integer_labels_of_any_dtype(dtype):
    labels = (LABELS % 2).astype(dtype)
    value, grad = fc.CrossEntropyLoss()(PREDICTION, labels)
    expected_value, expected_grad = fc.CrossEntropyLoss()(PREDICTION, LABELS % 2)
    assert value == expected_value
    assert_array_equal(grad, expected_grad)


@given(n=st.integers(1, 9), classes=st.integers(1, 20), seed=st.integers(0, 99))
def test_labels_are_one_hot_probabilities(n, classes, seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(0, 5, (n, classes)), rng.integers(0, classes, n)
    value, grad = fc.CrossEntropyLoss()(logits, labels)
    one_hot_value, one_hot_grad = fc.CrossEntropyLoss()(logits, np.eye(classes)[labels])
    assert_allclose(value, one_hot_value, rtol=1e-13, atol=1e-15)
    assert_allclose(grad, one_hot_grad, rtol=1e-13, atol=1e-16)
    assert (np.abs(grad.sum(axis=1)) <= classes * np.finfo(float).eps).all()


def test_large_logits():
    value, grad = fc.CrossEntropyLoss()(np.array([[1e4, -1e4], [1e4, -1e4]], np.float32), [0, 1])
    assert value == 1e4
    assert_array_equal(grad, [[0, 0], [0.5, -0.5]])
    value, grad = fc.BCEWithLogitsLoss()(np.array([1e4, -1e4], np.float32), [1, 1])
    assert value == 5e3
    assert_array_equal(grad, [0, -0.5])


def test_nan_shows():
    for loss, target in CASES:
        prediction = PREDICTION.copy()
        prediction[0, 0] = np.nan
        assert np.isnan(loss(prediction, target)[0])


MSE, CE, BCE = fc.MSELoss(), fc.CrossEntropyLoss(), fc.BCEWithLogitsLoss()
Z = np.zeros((3, 2))


@pytest.mark.parametrize(
    "loss, prediction, target, error, message",
    [
        (MSE, np.zeros((3, 1)), np.zeros(3), ValueError, r"\(3,\), prediction \(3, 1\).*target\[:, None\]"),
        (MSE, np.zeros(3), np.zeros((3, 1)), ValueError, r"\(3, 1\), prediction \(3,\)"),
        (MSE, Z, 0.0, ValueError, r"target has shape \(\)"),
        (MSE, np.zeros((0, 2)), np.zeros((0, 2)), ValueError, r"prediction has shape \(0, 2\)"),
        (MSE, 1.0, 1.0, ValueError, r"prediction has shape \(\)"),
        (MSE, np.zeros((1, 2, 3)), np.zeros((1, 2, 3)), ValueError, r"\(1, 2, 3\)"),
        (MSE, Z * 1j, Z, TypeError, "prediction has dtype complex128"),
        (MSE, Z, Z.astype(object), TypeError, "target has dtype object"),
        (MSE, Z, [[1, 2], [3]], ValueError, "target has rows of different lengths"),
        (CE, Z, [0, 1, 2], ValueError, r"must lie in 0\.\.1 .*\(3, 2\), target has 0 to 2"),
        (CE, Z, [0, -1, 0], ValueError, "target has -1 to 0"),
        (CE, Z, [0.0, 1.0, 0.0], TypeError, r"dtype float64; use target\.astype\(np\.int64\)"),
        (CE, Z, ["a", "b", "c"], TypeError, "<U1"),
        (CE, Z, [0, 1], ValueError, r"target has shape \(2,\), prediction \(3, 2\); .* shape \(3,\) or"),
        (CE, Z, [[0], [1], [0]], ValueError, r"target\.ravel\(\)"),
        (CE, Z, np.zeros((3, 3)), ValueError, r"target has shape \(3, 3\)"),
        (CE, Z, np.full((3, 2), 1.5), ValueError, r"in \[0, 1\], it runs from 1\.5 to 1\.5"),
        (CE, Z, np.full((3, 2), np.nan), ValueError, "from nan"),
        (CE, np.zeros(3), [0, 1, 0], ValueError, r"prediction has shape \(3,\), expected \(n, classes\)"),
        (CE, np.zeros((0, 2)), np.zeros(0, int), ValueError, r"shape \(0, 2\)"),
        (BCE, Z, np.zeros(3), ValueError, r"target has shape \(3,\), prediction \(3, 2\)"),
        (BCE, Z, Z - 1, ValueError, r"\[0, 1\], it runs from -1 to -1; .*\(target \+ 1\) / 2"),
        (BCE, Z, Z + np.nan, ValueError, "from nan"),
    ],
)
def test_bad_input(loss, prediction, target, error, message):
    with pytest.raises(error, match=message) as caught:
        loss(prediction, target)
    assert str(caught.value).startswith(repr(loss))
