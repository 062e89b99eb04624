import math

import numpy as np
import pytest
from numba import njit

import fastfc as fc
from fastfc import metrics, reference
from fastfc.metrics import BY_NAME, get_metric

N = 300
FUNCTIONS = ["accuracy", "top_k_accuracy", "f1", "roc_auc", "mae", "rmse", "r2"]


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def problem(kind):
    """Targets, outputs and weights; the outputs are coarse, so that many are equal, and some weights are 0."""
    rng = np.random.default_rng(0)
    weight = rng.integers(0, 4, N) / 4
    if kind == "binary":
        y = rng.integers(0, 2, N)
        return y, np.round(y + rng.normal(0, 1.5, N), 1), weight
    if kind == "multiclass":
        y = rng.integers(0, 5, N)
        return y, np.round(3 * np.eye(5)[y] + rng.normal(0, 2, (N, 5)), 0), weight
    y = rng.normal(3, 2, (N, 3))
    y[:, 2] = 7  # constant
    return y, y + rng.normal(0, 1, (N, 3)), weight


def predicted(outputs):
    return outputs.argmax(axis=1) if outputs.ndim == 2 else (outputs > 0).astype(int)


# kind of problem, ours by (y, outputs, weight), scikit-learn's by (its metrics, y, outputs, weight)
TABLE = {
    "accuracy": ("binary", metrics.accuracy, lambda m, y, p, w: m.accuracy_score(y, predicted(p), sample_weight=w)),
    "accuracy multiclass": (
        "multiclass",
        metrics.accuracy,
        lambda m, y, p, w: m.accuracy_score(y, predicted(p), sample_weight=w),
    ),
    **{
        f"top_k_accuracy {k}": (
            "multiclass",
            lambda y, p, w, k=k: metrics.top_k_accuracy(y, p, w, k=k),
            lambda m, y, p, w, k=k: m.top_k_accuracy_score(y, p, k=k, sample_weight=w),
        )
        for k in (1, 2, 4)
    },
    "f1": ("binary", metrics.f1, lambda m, y, p, w: m.f1_score(y, predicted(p), sample_weight=w)),
    **{
        f"f1 {average} {kind}": (
            kind,
            lambda y, p, w, average=average: metrics.f1(y, p, w, average=average),
            lambda m, y, p, w, average=average: m.f1_score(y, predicted(p), average=average, sample_weight=w),
        )
        for average in ("macro", "micro", "weighted")
        for kind in ("binary", "multiclass")
    },
    "roc_auc": ("binary", metrics.roc_auc, lambda m, y, p, w: m.roc_auc_score(y, p, sample_weight=w)),
    "roc_auc of logits": (
        "multiclass",
        metrics.roc_auc,
        lambda m, y, p, w: m.roc_auc_score(y, softmax(p), multi_class="ovr", sample_weight=w),
    ),
    "roc_auc of probabilities": (
        "multiclass",
        lambda y, p, w: metrics.roc_auc(y, softmax(p), w),
        lambda m, y, p, w: m.roc_auc_score(y, softmax(p), multi_class="ovr", sample_weight=w),
    ),
    "mae": ("regression", metrics.mae, lambda m, y, p, w: m.mean_absolute_error(y, p, sample_weight=w)),
    "rmse": ("regression", metrics.rmse, lambda m, y, p, w: m.root_mean_squared_error(y, p, sample_weight=w)),
    "r2": ("regression", metrics.r2, lambda m, y, p, w: m.r2_score(y, p, sample_weight=w)),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("row", TABLE)
def test_equal_to_scikit_learns(row, weighted):
    theirs = pytest.importorskip("sklearn.metrics")
    kind, function, expected = TABLE[row]
    y, outputs, weight = problem(kind)
    weight = weight if weighted else None
    assert function(y, outputs, weight) == pytest.approx(expected(theirs, y, outputs, weight), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_few_samples_equal_scikit_learns(seed):
    """Classes that are never true or never predicted, constant targets, ties everywhere."""
    theirs = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    n, weight = 6, rng.integers(1, 4, 6)
    y, p = rng.integers(0, 4, n), rng.integers(0, 3, (n, 4)).astype(float)
    for average in ("macro", "micro", "weighted"):
        expected = theirs.f1_score(y, p.argmax(axis=1), average=average, sample_weight=weight)
        assert metrics.f1(y, p, weight, average=average) == pytest.approx(expected, rel=1e-12)
    expected = theirs.top_k_accuracy_score(y, p, k=2, labels=range(4), sample_weight=weight)
    assert metrics.top_k_accuracy(y, p, weight) == pytest.approx(expected, rel=1e-12)
    y, score = np.arange(n) % 3 == 0, p[:, 0]
    assert metrics.roc_auc(y, score) == pytest.approx(theirs.roc_auc_score(y, score), rel=1e-12)
    for true, guess in [(p[:, 0], p[:, 1]), (np.full(n, 2.0), p[:, 1]), (np.full(n, 2.0), np.full(n, 2.0))]:
        assert metrics.r2(true, guess, weight) == pytest.approx(theirs.r2_score(true, guess, sample_weight=weight))


# by hand: y, outputs, value
KNOWN = [
    ("accuracy", [0, 1, 1, 0], [-1, 2, -3, 0], 3 / 4),  # a logit of 0 says class 0
    ("accuracy", [[1, 0], [0.2, 0.8]], [[1, 0], [1, 0]], 1 / 2),  # targets that are probabilities
    ("accuracy", [0, 1], [[1, 1], [1, 1]], 1 / 2),  # of equal ones the first
    ("top_k_accuracy", [0, 2], [[1, 1, 1], [1, 1, 1]], 1 / 2),  # of equal ones the last, as in scikit-learn
    ("f1", [1, 1, 1, 0], [1, 1, -1, 1], 2 / 3),
    ("f1", [0, 0], [-1, -1], 0),
    ("f1", [1, 0], [[0, 1], [0, 1]], 2 / 3),  # two outputs
    ("f1_macro", [0, 1, 1], [[1, 0, 0], [0, 1, 0], [1, 0, 0]], 2 / 3),  # class 2 does not count
    ("f1_micro", [0, 1, 2, 2], np.eye(3)[[0, 1, 0, 1]], 1 / 2),
    ("f1_weighted", [0, 1, 1], [[1, 0, 0], [0, 1, 0], [1, 0, 0]], 2 / 3),
    ("roc_auc", [0, 1, 0, 1], [1, 1, 1, 1], 1 / 2),
    ("roc_auc", [0, 0, 1], [[3, 1], [1, 1], [2, 3]], 1),
    ("roc_auc", [0, 1, 1], [0, np.inf, -np.inf], 1 / 2),
    ("roc_auc", [1, 1, 1], [1, 2, 3], math.nan),
    ("roc_auc", [0, 1, 0], [[3, 1, 0], [1, 3, 0], [3, 1, 0]], math.nan),  # no sample of class 2
    ("mae", [[1, 2]], [[2, 4]], 3 / 2),
    ("mae", [1, 2], [1, np.inf], math.inf),
    ("rmse", [[0, 0], [0, 0]], [[3, 1], [3, 1]], 2),
    ("r2", [1], [1], math.nan),
    ("r2", [2, 2], [2, 2], 1),
    ("r2", [2, 2], [2, 3], 0),
    ("r2", [1, 2, 3], [[1], [2], [3]], 1),  # columns and vectors
    ("r2", [1, 2, 3], [3, 2, 1], -3),
]


@pytest.mark.parametrize(("name", "y", "outputs", "value"), KNOWN)
def test_known_values(name, y, outputs, value):
    got = BY_NAME[name](y, outputs)
    assert type(got) is float
    assert got == pytest.approx(value, rel=1e-15, nan_ok=True)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_prediction_that_is_nan_gives_nan(name):
    y = [0, 0] if name in ("f1", "accuracy") else [0, 1]
    outputs = [-1, np.nan] if name not in ("top_k_accuracy",) else [[np.nan, 0], [0, 1]]
    assert math.isnan(BY_NAME[name](y, outputs))


@pytest.mark.parametrize("name", BY_NAME)
def test_whole_weights_are_repetitions(name):
    y, outputs, _ = problem("multiclass" if "top" in name or "_m" in name or "_w" in name else "binary")
    times = np.random.default_rng(1).integers(0, 3, N)
    repeated = BY_NAME[name](np.repeat(y, times), np.repeat(outputs, times, axis=0))
    assert BY_NAME[name](y, outputs, times) == pytest.approx(repeated, rel=1e-12)


@pytest.mark.parametrize("name", BY_NAME)
def test_any_dtype_layout_and_list(name):
    y, outputs, weight = problem("multiclass" if "top" in name or "_m" in name or "_w" in name else "binary")
    function, expected = BY_NAME[name], BY_NAME[name](y, outputs, weight)
    assert function(y.astype(np.int8), np.asfortranarray(outputs), weight.astype(np.float16)) == expected
    assert function(y.astype(np.float64)[:, None], np.repeat(outputs, 2, axis=0)[::2], list(weight)) == expected
    single = outputs.astype(np.float32)
    assert function(y, single) == function(y, single.astype(np.float64))
    before = y.copy(), outputs.copy(), weight.copy()
    function(y, outputs, weight)
    assert all(np.array_equal(a, b) for a, b in zip(before, (y, outputs, weight), strict=True))


@pytest.mark.parametrize("name", reference.METRICS)
def test_against_the_reference(name):
    kind = {"f1": "binary", "roc_auc": "binary", "accuracy": "multiclass", "top_k_accuracy": "multiclass"}
    y, outputs, _ = problem(kind.get(name, "regression"))
    outputs = outputs + np.random.default_rng(1).uniform(0, 1e-3, outputs.shape)  # no two alike
    y = y[:, :2] if y.ndim == 2 else y
    outputs = outputs[:, :2] if kind.get(name) is None else outputs
    assert BY_NAME[name](y, outputs) == pytest.approx(reference.METRICS[name](y, outputs), rel=1e-12)


def test_threshold():
    probabilities = [0.6, 0.4, 0.55, 0.7]
    assert metrics.accuracy([1, 0, 0, 1], probabilities) == 0.5
    assert metrics.accuracy([1, 0, 0, 1], probabilities, threshold=0.5) == 0.75
    assert fc.Accuracy(threshold=0.5)([1, 0, 0, 1], probabilities) == 0.75
    assert metrics.f1([1, 0, 0, 1], probabilities, threshold=0.5) == 0.8
    assert fc.F1(threshold=0.5)([1, 0, 0, 1], probabilities) == 0.8


X = np.zeros((4, 3))
BAD = [
    (lambda: metrics.accuracy([0, 1], X), ValueError, r"accuracy: y_true has shape \(2,\), y_pred \(4, 3\); give one"),
    (lambda: metrics.accuracy(np.zeros((4, 2)), X), ValueError, r"y_true has shape \(4, 2\), y_pred \(4, 3\)"),
    (lambda: metrics.accuracy([0, 1, 2, 3], X), ValueError, r"whole numbers in 0\.\.2 .* y_true has 0 to 3"),
    (lambda: metrics.accuracy([0, -1, 2, 2], X), ValueError, r"in 0\.\.2"),
    (lambda: metrics.accuracy([0, 0.5], [0, 1]), ValueError, r"whole numbers in 0\.\.1"),
    (lambda: metrics.f1([0, np.nan], [0, 1]), ValueError, "f1: class indices must be whole numbers"),
    (
        lambda: metrics.accuracy(np.ones((4, 3)), X),
        ValueError,
        "sum 1; for labels one by one accuracy takes multilabel",
    ),
    (
        lambda: metrics.accuracy(X + 0.5, X, multilabel=True),
        ValueError,
        "accuracy: labels must be 0 or 1, .*0.5 to 0.5",
    ),
    (lambda: metrics.f1(X, X, multilabel=True), ValueError, "f1: there are 3 labels; give average='macro'"),
    (lambda: fc.F1(multilabel=1), TypeError, "F1: multilabel must be True or False"),
    (lambda: metrics.accuracy(np.ones((4, 3)), X), ValueError, "rows of y_true must be probabilities of the 3 classes"),
    (lambda: metrics.accuracy([], []), ValueError, r"y_pred has shape \(0,\); give a row for each of at least one"),
    (lambda: metrics.accuracy([0], np.zeros((1, 2, 1))), ValueError, "y_pred has shape"),
    (lambda: metrics.accuracy(["a"], [0]), TypeError, "accuracy: y_true has dtype"),
    (lambda: metrics.mae([1], [1j]), TypeError, "mae: y_pred has dtype complex128"),
    (lambda: metrics.mae([1, 2], X[:2]), ValueError, r"y_true has shape \(2,\), y_pred \(2, 3\); they must be equal"),
    (lambda: metrics.r2([1, 2], [1, 2], [1]), ValueError, r"r2: sample_weight has shape \(1,\); .* shape \(2,\)"),
    (lambda: metrics.rmse([1, 2], [1, 2], [0, 0]), ValueError, "rmse: sample_weight must be finite, not neg.* all 0"),
    (lambda: metrics.rmse([1, 2], [1, 2], [2, -1]), ValueError, "sample_weight must be finite, not negative"),
    (lambda: metrics.rmse([1, 2], [1, 2], [2, np.nan]), ValueError, "sample_weight must be finite"),
    (lambda: metrics.f1([0, 1, 2, 0], X), ValueError, "f1: there are 3 classes; give average='macro'"),
    (lambda: metrics.f1([0], [0], average="samples"), ValueError, "f1: average must be one of 'binary', .*'samples'"),
    (lambda: fc.F1("samples"), ValueError, "F1: average must be one of"),
    (lambda: fc.F1(threshold="x"), TypeError, "F1: threshold must be a number"),
    (lambda: fc.Accuracy(np.nan), ValueError, "Accuracy: threshold must be finite"),
    (lambda: metrics.top_k_accuracy([0], [0]), ValueError, "top_k_accuracy: y_pred has one column"),
    (lambda: metrics.top_k_accuracy([0], [[0, 1]], k=0), ValueError, "top_k_accuracy: k must be at least 1"),
    (lambda: fc.TopK(1.5), TypeError, "TopK: k must be an integer"),
    (lambda: get_metric("auc"), ValueError, "unknown metric 'auc'; known are 'accuracy', .*'r2'"),
    (lambda: get_metric(None), TypeError, "a metric is a name, .*got None"),
    (lambda: get_metric(fc.TopK), TypeError, "a metric is a name, .*got <class"),
    (lambda: get_metric(lambda y, p: p)[1](X, X), TypeError, r"metric <lambda>: its value .* shape \(4, 3\)"),
    (lambda: get_metric(lambda y, p: None)[1](X, X), TypeError, "metric <lambda>: its value has dtype object"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("name", BY_NAME)
def test_by_name(name):
    assert get_metric(name) == (name, BY_NAME[name])


def test_objects_have_names():
    y, outputs, weight = problem("multiclass")
    for metric, name in [(fc.TopK(5), "top_5_accuracy"), (fc.F1("macro"), "f1_macro"), (fc.Accuracy(), "accuracy")]:
        got, function = get_metric(metric)
        assert got == name and function(y, outputs, weight) == metric(y, outputs, weight)
    assert get_metric(fc.F1())[0] == "f1" and repr(fc.TopK(5)) == "TopK(k=5)"
    assert get_metric(metrics.r2)[0] == "r2"


def test_functions_of_your_own():
    y, outputs, weight = problem("regression")

    @njit
    def compiled(y_true, y_pred):
        return np.abs(y_true - y_pred).max()

    def weighted(y_true, y_pred, sample_weight=None):
        return 0 if sample_weight is None else sample_weight.sum()

    for metric in (compiled, compiled.py_func):
        name, function = get_metric(metric)
        assert name == "compiled" and function(y, outputs, weight) == abs(y - outputs).max()
    name, function = get_metric(weighted)
    assert (name, function(y, outputs), function(y, outputs, weight)) == ("weighted", 0, weight.sum())


def test_scikit_learns_own_functions_will_do():
    theirs = pytest.importorskip("sklearn.metrics")
    y, outputs, weight = problem("regression")
    name, function = get_metric(theirs.r2_score)
    assert name == "r2_score" and function(y, outputs, weight) == pytest.approx(metrics.r2(y, outputs, weight))


def test_every_metric_has_its_rows_here():
    for name in FUNCTIONS:
        function = getattr(metrics, name)
        assert any(row.split()[0] == name for row in TABLE) and any(row[0].startswith(name) for row in KNOWN)
        assert all(part in function.__doc__ for part in ("References", "sklearn.metrics.", ">>> "))
        assert function in BY_NAME.values()
    assert {name for name in BY_NAME if not name.startswith("f1_")} == set(FUNCTIONS)
