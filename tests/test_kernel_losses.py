import numpy as np
import pytest
from arrays import DTYPES, LAYOUTS, WRITABLE, nan, normal
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from fastfc import kernels, reference
from fastfc.kernels.simd.isa import host_isa

dtypes = pytest.mark.parametrize("dtype", DTYPES)
# the kernel, what its targets are, and its other arguments
LOSSES = {
    "mse_loss": ("mse_loss", "numbers", {}),
    "cross_entropy_loss": ("cross_entropy_loss", "probabilities", {}),
    "bce_with_logits_loss": ("bce_with_logits_loss", "probabilities", {}),
    "classes": ("cross_entropy_loss", "classes", {}),
    "l1_loss": ("l1_loss", "numbers", {}),
    "huber_loss": ("huber_loss", "numbers", {"delta": 1.5}),
    "smooth_l1_loss": ("smooth_l1_loss", "numbers", {"beta": 0.75}),
    "quantile_loss": ("quantile_loss", "numbers", {"quantile": 0.3}),
    "poisson_nll_loss": ("poisson_nll_loss", "counts", {"full": True}),
    "poisson_nll_loss of means": ("poisson_nll_loss", "means", {"log_input": False, "eps": 0.5}),
    "kl_div_loss": ("kl_div_loss", "probabilities", {}),
    "kl_div_loss of logarithms": ("kl_div_loss", "numbers", {"log_target": True}),
    "bce_loss": ("bce_loss", "predicted probabilities", {}),
    "gaussian_nll_loss": ("gaussian_nll_loss", "variances", {"full": True, "eps": 0.5}),
    "nll_loss": ("nll_loss", "classes", {}),
    "multi_margin_loss": ("multi_margin_loss", "classes", {"margin": 0.5}),
    "multi_margin_loss squared": ("multi_margin_loss", "classes", {"p": 2}),
}
losses = pytest.mark.parametrize("name", LOSSES)
# one of each way through the kernel: these go through what takes long
some_losses = pytest.mark.parametrize(
    "name", ["mse_loss", "cross_entropy_loss", "bce_with_logits_loss", "classes", "gaussian_nll_loss"]
)


def problem(name, shape, dtype, seed=0):
    """Loss, prediction and a target that suits it."""
    rng = np.random.default_rng(seed)
    name, targets, _ = LOSSES[name]
    if targets == "variances":
        shape = shape[0], 2 * shape[1]
    prediction = (3 * rng.standard_normal(shape)).astype(dtype)
    if targets == "classes":
        return name, prediction, rng.integers(shape[1], size=shape[0])
    target = rng.random(shape)
    if name == "cross_entropy_loss":
        target /= target.sum(axis=1, keepdims=True)
    if targets == "numbers":
        target *= 2
    if targets in ("counts", "means"):
        target = np.floor(5 * target)
    if targets in ("means", "variances"):
        prediction = np.abs(prediction)
    if targets == "variances":
        target = target[:, : shape[1] // 2]
    if targets == "predicted probabilities":
        prediction = rng.random(shape).astype(dtype)
    return name, prediction, target.astype(dtype)


def run(module, name, prediction, target, out, **numbers):
    return getattr(module, name)(prediction, target, out, **numbers)


def test_every_kernel_is_tested():
    assert {name for name, _, _ in LOSSES.values()} == {name for name in kernels.__all__ if name.endswith("_loss")}


def shapes(dtype):
    lanes = host_isa().vector_bytes // np.dtype(dtype).itemsize
    # 1,024 elements are summed in the given dtype before they go to the float64 total
    return [
        (1, 1),
        (3, 2),
        (7, lanes - 1),
        (2, lanes),
        (5, lanes + 1),
        (1, 1023),
        (1, 1024),
        (5, 205),
        (331, 13),
    ]


@losses
@dtypes
def test_value_and_gradient_against_the_reference(name, dtype):
    numbers = LOSSES[name][2]
    for shape in shapes(dtype):
        loss, prediction, target = problem(name, shape, dtype)
        out, exact = nan(prediction.shape, dtype), nan(prediction.shape, float)
        value = run(kernels, loss, prediction, target, out, **numbers)
        wide = target if target.dtype.kind == "i" else target.astype(float)
        exact_value = run(reference, loss, prediction.astype(float), wide, exact, **numbers)
        assert type(value) is float
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(value, exact_value, rtol=10 * eps, atol=10 * eps)
        np.testing.assert_allclose(out, exact, rtol=10 * eps, atol=10 * eps * np.abs(exact).max())


@some_losses
@dtypes
@pytest.mark.parametrize("shape", [(6, 35), (7, 7)])
@pytest.mark.parametrize("out_layout", WRITABLE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same_bits(name, dtype, shape, layout, out_layout):
    loss, prediction, target = problem(name, shape, dtype)
    plain, out = nan(prediction.shape, dtype), WRITABLE[out_layout](nan(prediction.shape, dtype))
    value = run(kernels, loss, prediction, target, plain)
    assert run(kernels, loss, LAYOUTS[layout](prediction), LAYOUTS[out_layout](target), out) == value
    np.testing.assert_array_equal(out, plain)


@losses
def test_gradient_is_the_slope_of_the_value(name):
    loss, prediction, target = problem(name, (4, 5), np.float64)
    numbers, shape, step = LOSSES[name][2], prediction.shape, 1e-6
    grad, spare = nan(shape, float), nan(shape, float)
    run(kernels, loss, prediction, target, grad, **numbers)
    for index in np.ndindex(shape):
        if name == "gaussian_nll_loss" and index[1] >= 5 and prediction[index] < 0.5:
            continue  # below eps the gradient is that at eps
        move = np.zeros(shape)
        move[index] = step
        above = run(kernels, loss, prediction + move, target, spare, **numbers)
        below = run(kernels, loss, prediction - move, target, spare, **numbers)
        assert abs((above - below) / (2 * step) - grad[index]) <= 1e-8 * max(1, abs(grad[index]))


@pytest.mark.few(5)
@losses
def test_nopython_code_gives_the_same(name):
    dtype = np.float32
    loss, prediction, target = problem(name, (5, 7), dtype)
    function, numbers = getattr(kernels, loss), list(LOSSES[name][2].items())
    expected, out = nan(prediction.shape, dtype), nan(prediction.shape, dtype)
    value = function(prediction, target, expected, **dict(numbers))
    source = f"lambda p, t, out: function(p, t, out, {', '.join(f'{a}={b}' for a, b in numbers)})"
    assert njit(eval(source, {"function": function}))(prediction, target, out) == value
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("name", ["mse_loss", "bce_with_logits_loss"])
@dtypes
def test_vectors(name, dtype):
    _, prediction, target = problem(name, (1, 21), dtype)
    rows, vector = nan((1, 21), dtype), nan(21, dtype)
    value = run(kernels, name, prediction, target, rows)
    assert run(kernels, name, prediction[0], target[0], vector) == value
    np.testing.assert_array_equal(vector, rows[0])


@dtypes
def test_class_indices_and_one_hot_probabilities_agree(dtype):
    _, logits, labels = problem("classes", (9, 11), dtype)
    by_class, by_row = nan((9, 11), dtype), nan((9, 11), dtype)
    value = kernels.cross_entropy_loss(logits, labels, by_class)
    one_hot_value = kernels.cross_entropy_loss(logits, np.eye(11, dtype=dtype)[labels], by_row)
    eps = np.finfo(dtype).eps
    assert abs(one_hot_value / value - 1) <= eps  # sums in registers
    np.testing.assert_allclose(by_class, by_row, rtol=4 * eps, atol=eps / 9)


@dtypes
def test_probabilities_that_do_not_add_up_to_one(dtype):
    logits, target = normal((3, 4), dtype), np.abs(normal((3, 4), dtype, 1)) / 4
    out, exact = nan((3, 4), dtype), nan((3, 4), float)
    value = kernels.cross_entropy_loss(logits, target, out)
    exact_value = reference.cross_entropy_loss(logits.astype(float), target.astype(float), exact)
    np.testing.assert_allclose(value, exact_value, rtol=10 * np.finfo(dtype).eps)
    np.testing.assert_allclose(out, exact, atol=10 * np.finfo(dtype).eps)


@dtypes
def test_softmax_minus_y(dtype):
    """p = [.2, .7, .1] and y = [0, 1, 0] give [.2, −.3, .1]."""
    out = nan((1, 3), dtype)
    value = kernels.cross_entropy_loss(np.log([[0.2, 0.7, 0.1]]).astype(dtype), np.array([1]), out)
    np.testing.assert_allclose(out, [[0.2, -0.3, 0.1]], rtol=10 * np.finfo(dtype).eps)
    assert abs(value + np.log(0.7)) <= 4 * np.finfo(dtype).eps


@dtypes
def test_large_logits_stay_finite(dtype):
    z = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 0]], dtype)
    out = nan(z.shape, dtype)
    assert kernels.cross_entropy_loss(z, np.array([0, 0]), out) == 1e4
    np.testing.assert_array_equal(out, [[0, 0, 0], [-0.5, 0.5, 0]])
    assert kernels.bce_with_logits_loss(z, (z > 0).astype(dtype), out) == pytest.approx(2 * np.log(2) / 6)
    np.testing.assert_allclose(out, [[0, 0, 0.5 / 6], [0, 0, 0.5 / 6]], rtol=1e-6)
    assert kernels.bce_with_logits_loss(z, (z < 0).astype(dtype), out) == pytest.approx((4e4 + 2 * np.log(2)) / 6)


@dtypes
def test_a_class_of_probability_zero_may_have_a_logit_of_minus_infinity(dtype):
    out = nan((1, 3), dtype)
    target = np.array([[0.5, 0.5, 0]], dtype)
    value = kernels.cross_entropy_loss(np.array([[1, 1, -np.inf]], dtype), target, out)
    assert value == pytest.approx(np.log(2))
    np.testing.assert_array_equal(out, [[0, 0, 0]])


@losses
@dtypes
def test_nan_is_not_swallowed(name, dtype):
    loss, prediction, target = problem(name, (3, 20), dtype)
    place = target[1] if target.ndim == 1 else 18
    prediction[1, place] = np.nan
    out = np.zeros(prediction.shape, dtype)
    assert np.isnan(run(kernels, loss, prediction, target, out))
    constant = loss in ("kl_div_loss", "nll_loss")  # their gradients do not depend on the prediction
    assert np.isnan(out[1, place]) != constant


@losses
@dtypes
def test_nothing_has_no_mean(name, dtype):
    loss, prediction, target = problem(name, (0, 3), dtype)
    assert np.isnan(run(kernels, loss, prediction, target, nan(prediction.shape, dtype)))


@dtypes
def test_the_sum_of_a_long_batch_loses_nothing(dtype):
    """A float32 running sum of 10⁶ terms would be wrong in the fourth digit."""
    prediction, target = np.full((1000, 1000), 0.1, dtype), np.zeros((1000, 1000), dtype)
    value = kernels.mse_loss(prediction, target, nan((1000, 1000), dtype))
    assert abs(value / float(dtype(0.1)) ** 2 - 1) <= 100 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [int, np.int32, np.int8, np.uint16, np.uint32, bool, ">i4", list])
def test_any_integers_are_labels(dtype):
    labels = np.array([0, 1, 1])
    given = [0, 1, 1] if dtype is list else labels.astype(dtype)
    logits, expected, out = normal((3, 4), float), nan((3, 4), float), nan((3, 4), float)
    value = kernels.cross_entropy_loss(logits, labels, expected)
    assert kernels.cross_entropy_loss(logits, given, out) == value
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.array([0, 4, 1]), ValueError, "cross_entropy_loss.*class 4 in target, but prediction has 4 columns"),
        (np.array([0, -1, 1]), ValueError, "class -1 in target"),
        (np.array([0, -(2**63), 1]), ValueError, "class -9223372036854775808 in target"),
        (np.array([0.0, 1.0, 2.0]), TypeError, "must hold integers, not float64"),
        (np.array([0, 1]), ValueError, r"\(2,\).*\(3, 4\)"),
        (np.array(["a", "b", "c"]), TypeError, "must hold integers"),
        (np.ma.array([0, 1, 2]), TypeError, "masked"),
        (np.array([1j, 0, 0]), TypeError, "must hold integers"),
    ],
)
def test_bad_labels_leave_the_output(labels, error, message):
    out = np.full((3, 4), 7.0)
    for logits in (np.zeros((3, 4)), np.asfortranarray(np.zeros((3, 4)))):
        with pytest.raises(error, match=message):
            kernels.cross_entropy_loss(logits, labels, out)
    np.testing.assert_array_equal(out, 7)


@some_losses
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 40)),
    row=st.sampled_from([1, -1, 2]),
    seed=st.integers(0, 99),
)
def test_any_shape_and_strides(name, shape, row, seed):
    loss, prediction, target = problem(name, shape, np.float64, seed)
    shape = prediction.shape
    large = np.full((2 * shape[0], shape[1]), np.nan)
    strided, out, exact = large[::row][: shape[0]], nan(shape[::-1], float).T, nan(shape, float)
    strided[...] = prediction
    value = run(kernels, loss, strided, target, out)
    np.testing.assert_allclose(value, run(reference, loss, prediction, target, exact), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(out, exact, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("loss", [kernels.cross_entropy_loss, kernels.bce_with_logits_loss])
@pytest.mark.parametrize("bad", [-1e-6, 1.001, np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 16, 38])
def test_probabilities_lie_in_the_unit_interval(loss, bad, place):
    target, out = np.full((3, 13), 0.5, np.float32), np.full((3, 13), 7, np.float32)
    target.flat[place] = bad
    with pytest.raises(ValueError, match=r"target must lie in \[0, 1\]"):
        loss(np.zeros((3, 13), np.float32), target, out)
    assert (out == 7).all()


@pytest.mark.parametrize("loss", [kernels.nll_loss, kernels.multi_margin_loss])
def test_the_least_of_all_integers_is_no_class(loss):
    out = np.full((2, 3), 7.0)
    with pytest.raises(ValueError, match="class -9223372036854775808 in target"):
        loss(np.zeros((2, 3)), np.array([0, -(2**63)]), out)
    assert (out == 7).all()
