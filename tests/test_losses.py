import inspect
import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nopython_code import train_weighted
from numba import njit
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc
from fastfc import kernels, reference
from fastfc.kernels.ops import losses as loss_kernels
from fastfc.losses import Loss

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


# A problem is (prediction, target); every public loss has at least one, with the arguments that it is made of.
N, K = 7, 5
NUMBERS = RNG.normal(0, 2, (N, K)), RNG.normal(0, 2, (N, K))
CLASSES = NUMBERS[0], np.array([0, 2, 1, 4, 2, 3, 0])
SOFT = NUMBERS[0], RNG.dirichlet(np.ones(K), N)
UNIT = RNG.uniform(0.05, 0.95, (N, K)), RNG.uniform(0, 1, (N, K))
COUNTS = NUMBERS[0], RNG.integers(0, 6, (N, K)).astype(float)
RATES = np.abs(NUMBERS[0]), COUNTS[1]
VARIANCES = np.abs(RNG.normal(0, 2, (N, 2 * K))), NUMBERS[1]
LOG = NUMBERS[0], np.log(SOFT[1])
SOME = np.array([0.5, 2.0, 0.0, 1.0, 3.0])
PUBLIC = [
    ("MSELoss", {}, NUMBERS),
    ("L1Loss", {}, NUMBERS),
    ("HuberLoss", {}, NUMBERS),
    ("HuberLoss", {"delta": 2.5}, NUMBERS),
    ("SmoothL1Loss", {}, NUMBERS),
    ("SmoothL1Loss", {"beta": 2.5}, NUMBERS),
    ("SmoothL1Loss", {"beta": 0.0}, NUMBERS),
    ("CrossEntropyLoss", {}, CLASSES),
    ("CrossEntropyLoss", {"weight": SOME}, CLASSES),
    ("CrossEntropyLoss", {"ignore_index": 2}, CLASSES),
    ("CrossEntropyLoss", {"label_smoothing": 0.3}, CLASSES),
    ("CrossEntropyLoss", {"weight": SOME, "label_smoothing": 0.3, "ignore_index": 0}, CLASSES),
    ("CrossEntropyLoss", {}, SOFT),
    ("CrossEntropyLoss", {"weight": SOME, "label_smoothing": 1.0}, SOFT),
    ("NLLLoss", {}, CLASSES),
    ("NLLLoss", {"weight": SOME, "ignore_index": 4}, CLASSES),
    ("BCELoss", {}, UNIT),
    ("BCEWithLogitsLoss", {}, (NUMBERS[0], UNIT[1])),
    ("BCEWithLogitsLoss", {"pos_weight": SOME}, (NUMBERS[0], UNIT[1])),
    ("PoissonNLLLoss", {}, COUNTS),
    ("PoissonNLLLoss", {"full": True}, COUNTS),
    ("PoissonNLLLoss", {"log_input": False, "full": True, "eps": 0.1}, RATES),
    ("GaussianNLLLoss", {}, VARIANCES),
    ("GaussianNLLLoss", {"full": True, "eps": 0.3}, VARIANCES),
    ("KLDivLoss", {}, SOFT),
    ("KLDivLoss", {"log_target": True}, LOG),
    ("MultiMarginLoss", {}, CLASSES),
    ("MultiMarginLoss", {"p": 2, "margin": 0.5, "weight": SOME}, CLASSES),
    ("QuantileLoss", {}, NUMBERS),
    ("QuantileLoss", {"quantile": 0.2}, NUMBERS),
    ("QuantileLoss", {"quantile": [0.1, 0.3, 0.5, 0.7, 0.9]}, NUMBERS),
]
IDS = [f"{i} {name} {' '.join(settings)}" for i, (name, settings, _) in enumerate(PUBLIC)]
public = pytest.mark.parametrize("name, settings, problem", PUBLIC, ids=IDS)
COMPOSED = {"CustomLoss", "MultiLoss", "MemberLoss"}  # have tests of their own
WEIGHTS = np.array([0.5, 2.0, 0.0, 1.0, 1.0, 3.0, 0.25])


def test_every_public_loss_is_in_the_table():
    names = {name for name in fc.__all__ if inspect.isclass(getattr(fc, name)) and issubclass(getattr(fc, name), Loss)}
    assert names == {name for name, _, _ in PUBLIC} | COMPOSED
    for name in names - COMPOSED:
        snake = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z1])(?=[A-Z][a-z])", "_", name).lower()
        snake = {"bcewith_logits_loss": "bce_with_logits_loss", "kldiv_loss": "kl_div_loss"}.get(snake, snake)
        assert hasattr(reference, snake) and hasattr(kernels, snake), snake
        # formula and source
        doc = getattr(fc, name).__doc__
        assert "References" in doc or name in ("MSELoss", "L1Loss", "BCELoss", "BCEWithLogitsLoss")
        assert any(sign in doc for sign in "=−≤")


@public
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "weights"])
def test_gradients_are_slopes(name, settings, problem, weights):
    prediction, target = problem
    for reduction in ("mean", "sum", "none"):
        loss = getattr(fc, name)(**settings, reduction=reduction)
        _, grad = loss(prediction, target, weights)
        slope = fc.numerical_gradient(lambda p, loss=loss: np.sum(loss(p, target, weights)[0]), prediction)
        if name == "GaussianNLLLoss":  # below eps the gradient is that at eps
            grad, slope = (np.where(prediction > loss.eps, g, 0) for g in (grad, slope))
        assert_allclose(grad, slope, atol=1e-7, rtol=1e-7)


@public
def test_reductions_follow_from_the_losses_of_the_elements(name, settings, problem):
    prediction, target = problem
    kind = getattr(fc, name)
    losses, grads = kind(**settings, reduction="none")(prediction, target)
    of_samples = losses if losses.ndim == 1 else losses.sum(axis=1)
    columns = 1 if losses.ndim == 1 else losses.shape[1]
    chosen = np.ones(N)
    if name in ("CrossEntropyLoss", "NLLLoss") and target.ndim == 1:
        chosen = np.asarray(settings.get("weight", np.ones(K)))[target] * (target != settings.get("ignore_index"))
    for weights in (None, WEIGHTS, np.zeros(N)):
        w = np.ones(N) if weights is None else weights
        value, grad = kind(**settings, reduction="sum")(prediction, target, weights)
        assert type(value) is float
        assert_allclose(value, (w * of_samples).sum(), rtol=1e-13)
        assert_allclose(grad, w[:, None] * grads, rtol=1e-13, atol=1e-15)
        value, grad = kind(**settings)(prediction, target, weights)
        divisor = (w * chosen).sum() * columns or 1.0  # without any weight the mean is 0
        assert_allclose(value, (w * of_samples).sum() / divisor, rtol=1e-13)
        assert_allclose(grad, w[:, None] * grads / divisor, rtol=1e-13, atol=1e-15)
        weighted, grad = kind(**settings, reduction="none")(prediction, target, weights)
        assert_allclose(weighted.T, w * losses.T, rtol=1e-13)
        assert_allclose(grad, w[:, None] * grads, rtol=1e-13, atol=1e-15)


@public
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
def test_values_and_gradients_are_those_of_torch(name, settings, problem, dtype):
    torch = pytest.importorskip("torch")
    prediction, target = problem
    reductions = ["mean", "sum", "none"] + ["batchmean"] * (name == "KLDivLoss")
    for reduction in reductions:
        value, grad = getattr(fc, name)(**settings, reduction=reduction)(prediction.astype(dtype), target)
        p = torch.tensor(prediction.astype(dtype), requires_grad=True)
        t = torch.tensor(target if target.dtype.kind == "i" else target.astype(dtype))
        vectors = ("weight", "pos_weight", "quantile")
        given = {k: torch.tensor(v, dtype=p.dtype) if k in vectors else v for k, v in settings.items()}
        if name == "QuantileLoss":
            q, error = given.get("quantile", 0.5), t - p
            expected = torch.maximum(q * error, (q - 1) * error)
            expected = {"mean": expected.mean(), "sum": expected.sum(), "none": expected}[reduction]
        elif name == "GaussianNLLLoss":
            expected = torch.nn.GaussianNLLLoss(**given, reduction=reduction)(p[:, :K], t, p[:, K:])
        else:
            expected = getattr(torch.nn, name)(**given, reduction=reduction)(p, t)
        expected.sum().backward()
        tolerance = 20 * np.finfo(dtype).eps
        assert np.shape(value) == tuple(expected.shape)
        assert_allclose(value, expected.detach().numpy(), rtol=tolerance, atol=tolerance)
        assert_allclose(grad, p.grad.numpy(), rtol=tolerance, atol=tolerance * max(1, np.abs(grad).max()))


def test_defaults_are_those_of_torch():
    torch = pytest.importorskip("torch")
    for name in {name for name, _, _ in PUBLIC} - {"QuantileLoss"}:
        theirs = inspect.signature(getattr(torch.nn, name)).parameters
        for parameter in inspect.signature(getattr(fc, name)).parameters.values():
            assert parameter.default == theirs[parameter.name].default, (name, parameter)


@public
def test_one_sample_and_many_columns(name, settings, problem):
    """More columns than a block of rows has elements: the sums of the pieces are those of the columns."""
    prediction, target = problem
    if any(np.ndim(value) for value in settings.values()):
        return
    many = 500
    if target.ndim == 2:
        halves = np.split(prediction, 2, axis=1) if name == "GaussianNLLLoss" else [prediction]
        wide, target = np.hstack([np.tile(half, (1, many)) for half in halves]), np.tile(target, (1, many))
    else:
        wide = np.tile(prediction, (1, many))
    loss = getattr(fc, name)(**settings, reduction="none")
    values, grad = loss(wide, target)
    first, first_grad = loss(np.asfortranarray(wide)[:1], target[:1])
    assert_array_equal(first, values[:1])
    assert_array_equal(first_grad, grad[:1])
    if values.ndim == 2:
        assert_allclose(values, np.tile(loss(*problem)[0], (1, many)), rtol=1e-14)


def test_what_is_ignored_does_not_matter():
    loss, labels = fc.CrossEntropyLoss(ignore_index=-1), np.array([1, -1, 0])
    value, grad = loss(NUMBERS[0][:3], labels)
    expected, expected_grad = loss(NUMBERS[0][[0, 2]], labels[[0, 2]])
    assert value == expected and (grad[1] == 0).all()
    assert_array_equal(grad[[0, 2]], expected_grad)
    value, grad = loss(NUMBERS[0][:2], [-1, -1])
    assert value == 0 and (grad == 0).all()


@pytest.mark.parametrize(
    "loss, prediction, target, value, grad",
    [
        (fc.BCELoss(), [[0.0, 1.0, 0.0, 1.0]], [[0, 1, 1, 0]], 50, [[0, 0, -2.5e11, 2.5e11]]),
        (fc.L1Loss(), [[0.0, np.inf]], [[0, 0]], np.inf, [[0, 0.5]]),
        (fc.HuberLoss(), [[np.inf, -np.inf]], [[0, 0]], np.inf, [[0.5, -0.5]]),
        (fc.BCEWithLogitsLoss(), [[1e4, -1e4]], [[1, 0]], 0, [[0, 0]]),
        (fc.BCEWithLogitsLoss(), [[-1e4, -200]], [[1, 1]], 5100, [[-0.5, -0.5]]),
        (fc.KLDivLoss(), [[-1.0, -2.0]], [[0, 1]], 1, [[0, -0.5]]),
        (fc.PoissonNLLLoss(), [[-np.inf, 0]], [[0, 2]], np.nan, [[0, -0.5]]),
        (fc.GaussianNLLLoss(eps=0.5), [[1.0, 0.0]], [[2]], (np.log(0.5) + 2) / 2, [[-2, -1]]),
        (fc.QuantileLoss(0.25), [[1.0, 2.0, 3.0]], [[2, 2, 2]], 1 / 3, [[-0.25 / 3, 0, 0.25]]),
        (fc.NLLLoss(), [[-np.inf, 0]], [0], np.inf, [[-1, 0]]),
        (fc.MultiMarginLoss(), [[1.0, 1.0, 2.0]], [0], 1, [[-2 / 3, 1 / 3, 1 / 3]]),
    ],
)
def test_special_values(loss, prediction, target, value, grad):
    for dtype in (np.float32, np.float64):
        found, found_grad = loss(np.array(prediction, dtype), target)
        assert_allclose(found, value, rtol=1e-6, atol=1e-30)
        assert_allclose(found_grad, grad, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("p", [1e-30, 1e-7, 0.3, 1 - 2.0**-24])
def test_binary_cross_entropy_keeps_its_digits(p):
    values, _ = fc.BCELoss(reduction="none")(np.float32([[p, p]]), [[0, 1]])
    assert_allclose(values, [[-np.log1p(-np.float64(np.float32(p))), -np.log(np.float64(np.float32(p)))]], rtol=5e-7)
    z = np.float32(np.log(p) - np.log1p(-p))
    values, _ = fc.BCEWithLogitsLoss(reduction="none")([[z, z]], [[0, 1]])
    assert_allclose(values, [[np.logaddexp(0, np.float64(z)), np.logaddexp(0, -np.float64(z))]], rtol=5e-7)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (
            lambda: fc.MSELoss(reduction="average"),
            ValueError,
            "MSELoss: reduction must be one of 'mean', 'sum', 'none'",
        ),
        (lambda: fc.KLDivLoss(reduction=0), ValueError, "'batchmean', got 0"),
        (lambda: fc.HuberLoss(0), ValueError, "HuberLoss: delta must be finite and positive, got 0"),
        (lambda: fc.HuberLoss("1"), TypeError, "delta must be a number"),
        (lambda: fc.SmoothL1Loss(-1), ValueError, "beta must be finite and not negative"),
        (
            lambda: fc.CrossEntropyLoss(label_smoothing=1.5),
            ValueError,
            r"label_smoothing must lie in \[0, 1\], got 1.5",
        ),
        (lambda: fc.CrossEntropyLoss([1, -1]), ValueError, "weight must be a vector of finite numbers, not negative"),
        (lambda: fc.CrossEntropyLoss([[1]]), ValueError, r"weight must be a vector"),
        (lambda: fc.NLLLoss(ignore_index=0.5), TypeError, "ignore_index must be an integer"),
        (lambda: fc.PoissonNLLLoss(log_input=1), TypeError, "log_input must be True or False, got 1"),
        (lambda: fc.GaussianNLLLoss(eps=0), ValueError, "eps must be finite and positive"),
        (lambda: fc.MultiMarginLoss(p=3), ValueError, "p must be 1 or 2, got 3"),
        (lambda: fc.MultiMarginLoss(margin=np.nan), ValueError, "margin must be finite"),
        (lambda: fc.QuantileLoss(1.0), ValueError, "quantile must lie between 0 and 1"),
        (lambda: fc.BCEWithLogitsLoss(pos_weight=-1), ValueError, "pos_weight must be finite and not negative"),
        (lambda: setattr(fc.HuberLoss(), "delta", 2), AttributeError, "a loss can't be changed"),
        (lambda: fc.CrossEntropyLoss([1, 2, 3])(Z, [0, 1, 0]), ValueError, "3 numbers, .* the prediction has 2"),
        (lambda: MSE(Z, Z, [1, 2]), ValueError, r"sample_weight has shape \(2,\), expected \(3,\)"),
        (lambda: MSE(Z, Z, [1, 2, -1]), ValueError, "sample_weight must be finite and not negative"),
        (lambda: MSE(Z, Z, [1, 2, np.nan]), ValueError, "sample_weight must be finite"),
        (lambda: fc.BCELoss()(Z - 1, Z), ValueError, r"BCELoss\(\): a prediction is out of range.*Sigmoid"),
        (lambda: fc.GaussianNLLLoss()(Z - 1, Z[:, :1]), ValueError, "out of range.*Softplus"),
        (lambda: fc.GaussianNLLLoss()(Z, Z), ValueError, r"so that must have shape \(3, 1\)"),
        (lambda: fc.NLLLoss()(Z, Z), ValueError, r"give class indices of shape \(3,\)"),
        (lambda: fc.NLLLoss()(Z, [0, 1, 2]), ValueError, "must lie in 0..1"),
        (lambda: fc.MSELoss(reduction="none").check_scalar(), ValueError, "no training with reduction='none'"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_settings_show_and_survive_pickling():
    loss = fc.CrossEntropyLoss([1, 2], label_smoothing=0.5)
    assert repr(loss) == "CrossEntropyLoss(weight=[1.0, 2.0], label_smoothing=0.5)"
    assert repr(pickle.loads(pickle.dumps(loss))) == repr(loss)
    assert pickle.loads(pickle.dumps(loss))(Z, [0, 1, 0])[0] == loss(Z, [0, 1, 0])[0]


@njit
def cosh(p, t):
    return np.cosh(p - t)


@njit
def sinh(p, t):
    return np.sinh(p - t)


@njit
def half_square(prediction, target, out):
    out[:] = (prediction - target) / len(out)
    return ((prediction - target) ** 2).sum() / (2 * len(out))


@njit
def square(p, t):
    return (p - t) ** 2


@njit
def twice(p, t):
    return 2 * (p - t)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_custom_loss_is_like_a_built_in_one(dtype, reduction):
    loss, expected = fc.CustomLoss(square, twice, reduction=reduction), fc.MSELoss(reduction=reduction)
    for weights in (None, WEIGHTS):
        value, grad = loss(NUMBERS[0].astype(dtype), NUMBERS[1], weights)
        expected_value, expected_grad = expected(NUMBERS[0].astype(dtype), NUMBERS[1], weights)
        assert_allclose(value, expected_value, rtol=1e-6 if dtype == np.float32 else 1e-14)
        assert_allclose(grad, expected_grad, rtol=1e-6 if dtype == np.float32 else 1e-14)


@pytest.mark.slow
def test_custom_losses_of_matrices_and_pickles():
    loss = fc.CustomLoss(half_square)
    value, grad = loss(np.asfortranarray(NUMBERS[0]), NUMBERS[1])
    expected, expected_grad = fc.MSELoss()(*NUMBERS)
    assert_allclose(value, expected * K / 2)
    assert_allclose(grad, expected_grad * K / 2)
    for custom in (loss, fc.CustomLoss(cosh, sinh)):
        again = pickle.loads(pickle.dumps(custom))
        assert again(*NUMBERS)[0] == custom(*NUMBERS)[0]
    divide = fc.CustomLoss(njit(lambda p, t: 1 / (p - t)), njit(lambda p, t: -1 / (p - t) ** 2))
    assert divide(Z + 1, Z + 1)[0] == np.inf  # no exception


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: fc.CustomLoss(lambda p, t: 0.0, sinh), TypeError, "value must be decorated with numba.njit"),
        (lambda: fc.CustomLoss(cosh, 1), TypeError, "gradient must be decorated"),
        (lambda: fc.CustomLoss(njit(lambda p: p), sinh), TypeError, "Numba can't compile it for float32"),
        (lambda: fc.CustomLoss(half_square, reduction="sum"), ValueError, "reduction must be 'mean'"),
        (lambda: fc.CustomLoss(half_square)(Z, Z, [1, 1, 1]), ValueError, "takes no sample weights"),
    ],
)
def test_bad_custom_losses(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "weights"])
def test_several_losses_are_their_weighted_sum(weights):
    parts = [
        (fc.CrossEntropyLoss(SOME), CLASSES),
        (fc.GaussianNLLLoss(), VARIANCES),
        (fc.MultiMarginLoss(), (NUMBERS[1], CLASSES[1])),
        (fc.CrossEntropyLoss(), SOFT),
        (fc.MSELoss(reduction="sum"), (NUMBERS[0][:, :1], NUMBERS[1][:, :1])),
        (fc.CustomLoss(half_square) if weights is None else fc.CustomLoss(cosh, sinh), NUMBERS),
    ]
    factors = [1, 0.5, 2, 3, 0.25, 4]
    several = fc.MultiLoss([loss for loss, _ in parts], factors)
    value, grads = several(*zip(*(problem for _, problem in parts), strict=True), weights)
    single = [loss(*problem, weights) for loss, problem in parts]
    assert_allclose(value, sum(f * v for f, (v, _) in zip(factors, single, strict=True)), rtol=1e-14)
    for grad, factor, (_, expected) in zip(grads, factors, single, strict=True):
        assert_allclose(grad, factor * expected, rtol=1e-14, atol=1e-16)


def test_an_epochs_part_counts_a_mean_as_often_as_its_samples_weigh():
    @njit
    def evaluate(p, t, labels, weights, out, losses):
        return loss_kernels.evaluate_losses(p, t, labels, weights, np.zeros(0), out, losses, 1.0)

    several = fc.MultiLoss([fc.MSELoss(), fc.CrossEntropyLoss(SOME), fc.L1Loss(reduction="sum")], [2, 3, 4])
    given = NUMBERS[1], CLASSES[1], UNIT[0]
    target, labels, table = several.as_targets(given, [K, K, K], N, np.float64)
    joined = np.hstack([NUMBERS[0], CLASSES[0], UNIT[1]])
    values = [
        loss(p, t, WEIGHTS)[0] for loss, p, t in zip(several.losses, np.split(joined, 3, axis=1), given, strict=True)
    ]
    status, value, total = evaluate(joined, target, labels, WEIGHTS, np.empty((N, 3 * K)), table)
    mass, of_classes = WEIGHTS.sum(), WEIGHTS @ SOME[CLASSES[1]]
    assert status == 0
    assert_allclose(value, 2 * values[0] + 3 * values[1] + 4 * values[2], rtol=1e-14)
    assert_allclose(total, 2 * values[0] * mass + 3 * values[1] * of_classes + 4 * values[2], rtol=1e-14)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: fc.MultiLoss([]), TypeError, "losses must be losses such as"),
        (lambda: fc.MultiLoss([MSE, fc.MultiLoss([MSE])]), TypeError, "losses must be losses"),
        (lambda: fc.MultiLoss([MSE], [1, 2]), ValueError, "one weight for each of 1 losses, got 2"),
        (lambda: fc.MultiLoss([MSE], [-1]), ValueError, "each weight must be finite and not negative"),
        (lambda: fc.MultiLoss([fc.MSELoss(reduction="none")]), ValueError, "no training with reduction='none'"),
        (lambda: fc.MultiLoss([MSE, CE])(Z, Z), ValueError, "prediction must be a tuple of 2 arrays.*got a ndarray"),
        (lambda: fc.MultiLoss([MSE, CE])((Z, Z), (Z,)), ValueError, "target must be a tuple of 2 arrays.*got 1"),
        (lambda: fc.MultiLoss([MSE, CE])((Z, Z[:1]), (Z, [0])), ValueError, r"shapes \(3, 2\), \(1, 2\)"),
        (lambda: fc.MultiLoss([MSE, CE])((Z, Z), (Z, [0, 1, 2])), ValueError, "must lie in 0..1"),
        (lambda: fc.MultiLoss([MSE, BCE])((Z, Z), (Z, Z - 1)), ValueError, r"BCEWithLogitsLoss\(\): target must lie"),
        (lambda: fc.MultiLoss([MSE, CE]).as_targets((Z, Z), [2], 3, float), ValueError, "for 2 outputs, .* has 1"),
    ],
)
def test_bad_lists_of_losses(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_pickles_of_several_losses_hold_no_addresses():
    several = fc.MultiLoss([fc.CustomLoss(square, twice), fc.MSELoss()], [2, 3])
    expected, _ = several((Z, Z), (0 * Z, 0 * Z))
    twin = pickle.loads(pickle.dumps(several))
    assert not twin._tables
    assert twin((Z, Z), (0 * Z, 0 * Z))[0] == expected


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("columns", [1, 3, 17, 1500])
@pytest.mark.parametrize("pos_weight", [None, 2.5, "of columns"])
def test_weights_of_columns_are_pytorch_s(columns, reduction, pos_weight):
    """`weight=` of BCELoss and BCEWithLogitsLoss was refused."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(columns)
    z, y, weight = rng.standard_normal((7, columns)), rng.random((7, columns)), rng.random(columns)
    v = rng.random(columns) if isinstance(pos_weight, str) else pos_weight
    w, given = torch.tensor(weight), {} if v is None else {"pos_weight": torch.tensor(v)}
    pairs = [
        (
            fc.BCEWithLogitsLoss(v, weight=weight, reduction=reduction),
            torch.nn.BCEWithLogitsLoss(w, reduction=reduction, **given),
            z,
        )
    ]
    if v is None:
        p = 1 / (1 + np.exp(-z))
        pairs.append((fc.BCELoss(weight, reduction=reduction), torch.nn.BCELoss(w, reduction=reduction), p))
    for loss, theirs, prediction in pairs:
        assert repr(eval(repr(loss), vars(fc))) == repr(loss)
        for ours in (loss, pickle.loads(pickle.dumps(loss))):
            value, grad = ours(prediction, y)
            x = torch.tensor(prediction, requires_grad=True)
            expected = theirs(x, torch.tensor(y))
            expected.sum().backward()
            assert_allclose(value, expected.detach().numpy(), rtol=1e-12)
            assert_allclose(grad, x.grad.numpy(), rtol=1e-11, atol=1e-15)
            of_samples = rng.random(7)
            value, grad = ours(prediction, y, of_samples)
            each = theirs.__class__(w, reduction="none", **given)(x, torch.tensor(y)).detach().numpy()
            each = each * of_samples[:, None]
            expected = {"mean": each.sum() / of_samples.sum() / columns, "sum": each.sum(), "none": each}[reduction]
            assert_allclose(value, expected, rtol=1e-12)


@pytest.mark.parametrize("kind", [fc.BCELoss, fc.BCEWithLogitsLoss])
def test_bad_weights_of_columns(kind):
    for weight, message in [
        (2.0, "weight must be a vector, one number for each column; weights of samples are sample_weight"),
        (np.ones((4, 1)), "weight must be a vector"),
        ([1.0, -1.0], "weight must be a vector of finite numbers, not negative"),
        ([], "weight must be a vector of finite numbers"),
    ]:
        with pytest.raises(ValueError, match=f"{kind.__name__}: {message}"):
            kind(weight=weight)
    with pytest.raises(ValueError, match="it has 2 numbers, one for each column, but the prediction has 3"):
        kind(weight=[1, 2])(np.full((4, 3), 0.5), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="weight has 2 numbers, pos_weight 3"):
        fc.BCEWithLogitsLoss([1, 2, 3], weight=[1, 2])


SUMS = {
    "mse": (fc.MSELoss(reduction="sum"), lambda f, p, y: f.mse_loss(p, y, reduction="none").sum(1), "numbers"),
    "cross entropy": (
        fc.CrossEntropyLoss(reduction="sum", label_smoothing=0.1, weight=[1.0, 2.0, 0.5]),
        lambda f, p, y: f.cross_entropy(p, y, p.new_tensor([1.0, 2.0, 0.5]), reduction="none", label_smoothing=0.1),
        "classes",
    ),
    "nll": (fc.NLLLoss(reduction="sum"), lambda f, p, y: f.nll_loss(p, y, reduction="none"), "classes"),
    "huber": (fc.HuberLoss(reduction="sum"), lambda f, p, y: f.huber_loss(p, y, reduction="none").sum(1), "numbers"),
}


@pytest.mark.parametrize("name", SUMS)
def test_weights_of_either_sign(name):
    """Policy gradients weigh the log-likelihoods of actions with advantages, which were refused for every loss."""
    torch = pytest.importorskip("torch")
    loss, formula, targets = SUMS[name]
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((8, 4)), rng.standard_normal(8) / 8
    y = rng.integers(0, 3, 8) if targets == "classes" else rng.standard_normal((8, 3))
    net = lambda: fc.MLP([4, 3], seed=0, dtype=np.float64)
    first = net().params.copy()
    expected = [torch.tensor(p.copy(), requires_grad=True) for _, p, _ in net().named_parameters()]
    output = torch.tensor(x) @ expected[0] + expected[1]
    value = (torch.tensor(weights) * formula(torch.nn.functional, output, torch.tensor(y))).sum()
    value.backward()
    step = first - 0.1 * np.concatenate([p.grad.numpy().ravel() for p in expected])
    nets = [net() for _ in range(4)]
    optimizers = [fc.SGD(0.1) for _ in nets]
    nets[1].reserve(8)
    values = [
        nets[0].train_step(x, y, loss, optimizers[0], weights),
        train_weighted(nets[1], x, y, loss, optimizers[1], weights),
        loss(net().predict(x), y, weights)[0],
        net().evaluate(x, y, loss, sample_weight=weights),
    ]
    assert_allclose(values, value.item(), rtol=1e-12)
    history = nets[2].fit(x, y, loss=loss, optimizer=optimizers[2], batch_size=8, shuffle=False, sample_weight=weights)
    assert_allclose(history.loss, value.item() / 8)  # of one sample
    nets[3].fit([(x, y, weights)], loss=loss, optimizer=optimizers[3])
    for trained in nets:
        assert_allclose(trained.params, step, rtol=1e-12)


def test_negative_weights_of_a_mean_are_refused_with_the_fix():
    x, y, weights = np.ones((2, 1)), np.zeros((2, 1)), [1.0, -1.0]
    fix = "not negative, as the mean divides by its sum; .* use reduction='sum' and weights / n"
    for loss in (fc.MSELoss(), fc.KLDivLoss(reduction="batchmean"), fc.BCEWithLogitsLoss()):
        with pytest.raises(ValueError, match=fix):
            loss(x, y, weights)
        with pytest.raises(ValueError, match=fix):
            fc.MLP([1, 1]).fit(x, y, loss=loss, optimizer=fc.SGD(), sample_weight=weights)
    both = fc.MultiLoss([fc.MSELoss(reduction="sum"), fc.MSELoss()])
    with pytest.raises(ValueError, match=fix):
        both((x, x), (y, y), weights)
    sums = fc.MultiLoss([fc.MSELoss(reduction="sum"), fc.L1Loss(reduction="sum")])
    assert sums((2 * x, x), (y, y), [1.0, -3.0])[0] == -2 * 4 - 2 * 1
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="sample_weight must be finite"):
            fc.MSELoss(reduction="sum")(x, y, [1.0, bad])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_that_are_right_have_small_gradients(dtype):
    """σ(z) - 1 was 0 in float32 from z = 17 on, where the gradient of a positive target is -4e-8."""
    z = np.linspace(-60, 60, 241, dtype=dtype)[:, None]
    for target in (0, 1):
        for v in (1.0, 3.0):
            _, grad = fc.BCEWithLogitsLoss(v, reduction="sum")(z, np.full_like(z, target))
            wide = z.astype(np.longdouble)
            exact = 1 / (1 + np.exp(-wide)) if target == 0 else -v / (1 + np.exp(wide))
            assert_allclose(grad, exact.astype(float), rtol=8 * np.finfo(dtype).eps)
