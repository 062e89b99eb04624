import math

import numpy as np
import pytest
from numba import njit

import fastfc as fc
from fastfc import metrics, outputs, reference
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


class ByOurselves:
    """What scikit-learn is given: the outputs in its terms, by the definitions of loss and last layer."""

    def __init__(self, loss, last, z):
        # what the last layer gives, and what of it are probabilities of class 1 or of each class, or numbers
        sigmoid, rows = 1 / (1 + np.exp(-z)), softmax(z)
        self.output = {
            None: z,
            fc.Tanh: np.tanh(z),
            fc.Sigmoid: sigmoid,
            fc.Hardsigmoid: np.clip(z / 6 + 0.5, 0, 1),
            fc.LogSigmoid: np.log(sigmoid),
            fc.Softmax: rows,
            fc.LogSoftmax: np.log(rows),
        }[last]
        kind = type(loss)
        if last in (fc.Sigmoid, fc.Hardsigmoid, fc.Softmax) or kind in NUMERIC or kind is fc.BCELoss:
            self.p = self.output
        elif last in (fc.LogSigmoid, fc.LogSoftmax) or kind in (fc.NLLLoss, fc.KLDivLoss):
            self.p = np.exp(self.output)
        elif kind is fc.BCEWithLogitsLoss:
            self.p = 1 / (1 + np.exp(-self.output))
        else:
            self.p = softmax(self.output)


NUMERIC = (fc.MSELoss, fc.L1Loss, fc.HuberLoss, fc.SmoothL1Loss, fc.QuantileLoss)
ANY = [None, fc.Tanh, fc.Sigmoid, fc.Hardsigmoid, fc.LogSigmoid]
PROBABILITIES = [fc.Sigmoid, fc.Hardsigmoid]
# losses, kinds of targets, and last layers whose outputs they take
COMBINATIONS = [
    *((kind, "one", last) for kind in (*NUMERIC, fc.BCEWithLogitsLoss) for last in (None, fc.Sigmoid)),
    *((kind, "one", last) for kind in (fc.MSELoss, fc.BCEWithLogitsLoss) for last in (fc.Tanh, fc.Hardsigmoid)),
    (fc.BCEWithLogitsLoss, "one", fc.LogSigmoid),
    *((fc.BCELoss, kind, last) for kind in ("one", "labels") for last in PROBABILITIES),
    *((fc.BCEWithLogitsLoss, "labels", last) for last in ANY),
    *((fc.CrossEntropyLoss, kind, last) for kind in ("classes", "rows") for last in (None, fc.Softmax, fc.LogSoftmax)),
    *((fc.MultiMarginLoss, "classes", last) for last in (None, fc.Softmax)),
    *((fc.NLLLoss, "classes", last) for last in (fc.LogSoftmax, fc.Softmax)),
    (fc.KLDivLoss, "rows", fc.LogSoftmax),
    (fc.MSELoss, "rows", fc.Softmax),
    (fc.BCELoss, "rows", fc.Softmax),
]


def by_scikit_learn(name, kind, y, p, weight):
    """A metric of probabilities, or None if there is no such thing."""
    theirs = pytest.importorskip("sklearn.metrics")
    averages = {"f1": "binary", "f1_macro": "macro", "f1_micro": "micro", "f1_weighted": "weighted"}
    if name in ("mae", "rmse", "r2"):
        if kind == "classes":
            return None
        function = {"mae": "mean_absolute_error", "rmse": "root_mean_squared_error", "r2": "r2_score"}[name]
        return getattr(theirs, function)(y, p, sample_weight=weight)
    if kind == "rows":
        y = y.argmax(axis=1)
    if name == "roc_auc":
        score, options = (p[:, 0], {}) if kind == "one" else (p, {"multi_class": "ovr"} if kind != "labels" else {})
        score = score / score.sum(axis=1, keepdims=True) if kind in ("classes", "rows") else score
        return theirs.roc_auc_score(y, score, sample_weight=weight, **options)
    if name == "top_k_accuracy":
        if kind in ("one", "labels"):
            return None
        return theirs.top_k_accuracy_score(y, p, k=2, sample_weight=weight)
    said = {"one": lambda: p[:, 0] > 0.5, "labels": lambda: p > 0.5}.get(kind, lambda: p.argmax(axis=1))()
    if name == "accuracy":
        return theirs.accuracy_score(y, said, sample_weight=weight)
    if name == "f1" and kind != "one":
        return None
    return theirs.f1_score(y, said, average=averages[name], sample_weight=weight)


def targets_of(kind, rng, n):
    if kind == "one":
        return rng.integers(0, 2, (n, 1))
    if kind == "labels":
        return rng.integers(0, 2, (n, 3))
    classes = rng.integers(0, 3, n)
    return classes if kind == "classes" else np.eye(3)[classes]


@pytest.mark.parametrize(("loss", "kind", "last"), COMBINATIONS)
def test_a_metric_knows_what_the_network_gives(loss, kind, last):
    """Sigmoid with BCELoss was cut at 0: accuracy 0.35 where 1.00 was true; several labels took the greatest."""
    rng, n = np.random.default_rng(3), 60
    loss, y, weight = loss(), targets_of(kind, rng, n), rng.uniform(0.5, 2, n)
    x = rng.standard_normal((n, 1 if kind == "one" else 3))
    layers = [fc.Linear(x.shape[1], x.shape[1], init="zeros", dtype=np.float64), fc.Identity(), fc.Dropout(0.0)]
    layers[0].weight = np.eye(x.shape[1])
    net = fc.Sequential(layers[:1] + [kind_of() for kind_of in [last] if kind_of] + layers[1:])
    p = ByOurselves(loss, last, x).p
    expected = {name: by_scikit_learn(name, kind, y, p, weight) for name in BY_NAME}
    for name in [name for name, value in expected.items() if value is None]:
        with pytest.raises(ValueError, match=name.partition("_")[0]):
            net.evaluate(x, y, loss, metrics=[name])
        del expected[name]
    names, expected = list(expected), pytest.approx(expected, rel=1e-9)
    scores = lambda found: {name: value for name, value in found.items() if name != "loss"}
    given = {"loss": loss, "metrics": names}
    assert scores(net.evaluate(x, y, sample_weight=weight, **given)) == expected
    batches = [(x[i : i + 7], y[i : i + 7], weight[i : i + 7]) for i in range(0, n, 7)]
    assert scores(net.evaluate(batches, **given)) == expected
    functions = [BY_NAME[name] for name in names]
    assert scores(net.evaluate(x, y, loss, sample_weight=weight, metrics=functions)) == expected
    seen = {}
    see = lambda run: seen.update({name: run.history[f"val_{name}"][-1] for name in names})
    net.fit(x, y, optimizer=fc.SGD(1e-30), validation_data=(x, y, weight), callbacks=[see], **given)
    assert seen == expected


def test_what_every_loss_takes_is_known():
    kinds = {kind for kind in vars(fc).values() if isinstance(kind, type) and issubclass(kind, fc.losses.Loss)}
    assert set(outputs.TAKEN) == kinds - {fc.MultiLoss}


@pytest.mark.parametrize("name", ["mae", "rmse", "r2"])
def test_numbers_are_in_the_targets_unit(name):
    """Logarithms of counts were compared with counts, and variances with targets."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 2))
    net = fc.Sequential([fc.Linear(2, 2, seed=0, dtype=np.float64)])
    z, y = net.predict(x), rng.poisson(3, (40, 2)) + 1.0
    for loss, wanted in [
        (fc.PoissonNLLLoss(), np.exp(z)),
        (fc.QuantileLoss(0.9), z),
        (fc.KLDivLoss(), np.exp(z)),
    ]:
        found = net.evaluate(x, y, loss, metrics=[name])[name]
        assert found == pytest.approx(BY_NAME[name](y, wanted), rel=1e-12)
    net = fc.Sequential([fc.Linear(2, 2, seed=0, dtype=np.float64), fc.Softplus()])
    z = net.predict(x)
    for loss, columns in [(fc.PoissonNLLLoss(log_input=False), 2), (fc.GaussianNLLLoss(), 1)]:
        found = net.evaluate(x, y[:, :columns], loss, metrics=[name])[name]
        assert found == pytest.approx(BY_NAME[name](y[:, :columns], z[:, :columns]), rel=1e-12)


def test_logarithms_of_targets():
    p, y = softmax(np.random.default_rng(0).standard_normal((2, 30, 3)).reshape(-1, 3)).reshape(2, 30, 3)
    net = fc.Sequential([fc.Linear(3, 3, init="zeros", dtype=np.float64), fc.LogSoftmax()])
    net[0].weight = np.eye(3)
    found = net.evaluate(np.log(p), np.log(y), fc.KLDivLoss(log_target=True), metrics=["accuracy", "mae"])
    assert found["accuracy"] == np.mean(p.argmax(axis=1) == y.argmax(axis=1))
    assert found["mae"] == pytest.approx(np.abs(p - y).mean())


def test_what_a_loss_of_your_own_takes_is_asked_for():
    value, gradient = njit(lambda p, t: (p - t) ** 2), njit(lambda p, t: 2 * (p - t))
    x, y, loss = np.array([[-1.0], [0.3], [2.0]]), np.array([[0], [0], [1]]), fc.CustomLoss(value, gradient)
    net = fc.Sequential([fc.Linear(1, 1, init="zeros")])
    net[0].weight = [[1.0]]
    for name in ("accuracy", "f1"):
        with pytest.raises(
            ValueError, match=rf"{name}: what the output means CustomLoss.*\(threshold=0\.0\) for logits"
        ):
            net.evaluate(x, y, loss, metrics=[name])
    assert net.evaluate(x, y, loss, metrics=[fc.Accuracy(0.0)])["accuracy"] == pytest.approx(2 / 3)
    assert net.evaluate(x, y, loss, metrics=[fc.Accuracy(0.5)])["accuracy"] == 1
    assert net.evaluate(x, y, loss, metrics=["roc_auc"])["roc_auc"] == 1
    net = fc.Sequential([fc.Linear(1, 1, init="zeros"), fc.Sigmoid()])
    assert net.evaluate(x, y, loss, metrics=["accuracy"])["accuracy"] == pytest.approx(2 / 3)  # 0.5 is no more than 0.5


def test_your_options_come_first():
    x, y = np.array([[0.2], [0.6], [0.9]]), np.array([[0], [0], [1]])
    net = fc.Sequential([fc.Linear(1, 1, init="zeros")])
    net[0].weight = [[1.0]]
    for threshold, right in [(None, 2 / 3), (0.7, 1), (0.0, 1 / 3)]:
        found = net.evaluate(x, y, fc.MSELoss(), metrics=[fc.Accuracy(threshold), fc.F1("micro", threshold)])
        assert found["accuracy"] == found["f1_micro"] == pytest.approx(right)
    x, y = np.eye(3), np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    net = fc.Sequential([fc.Linear(3, 3, init="zeros")])
    net[0].weight = np.eye(3) - 2
    loss = fc.BCEWithLogitsLoss()
    assert net.evaluate(x, y, loss, metrics=["accuracy"])["accuracy"] == 0  # no label is more likely than not
    assert net.evaluate(x, y, loss, metrics=[fc.Accuracy(multilabel=False)])["accuracy"] == 1


def test_several_outputs_are_told_what_each_is():
    x, a = np.random.default_rng(0).standard_normal((20, 2)), fc.Input(2)
    ends = [fc.Sigmoid()(fc.Linear(2, 1, seed=0)(a)), fc.Linear(2, 1, seed=1)(a)]
    y = (x[:, :1] > 0).astype(float), x[:, 1:]
    net, loss = fc.Graph(a, ends), fc.MultiLoss([fc.BCELoss(), fc.MSELoss()])
    with pytest.raises(ValueError, match=r"accuracy\(y_true\[0\], y_pred\[0\], threshold=0\.5, multilabel=True\)"):
        net.evaluate(x, y, loss, metrics=["accuracy"])
    net = fc.Graph(net.inputs, fc.Sigmoid()(fc.Linear(2, 1, seed=0)(net.inputs[0])))
    found = net.evaluate(x, y[:1], fc.MultiLoss([fc.BCELoss()]), metrics=["accuracy"])
    assert found["accuracy"] == np.mean((net.predict(x) > 0.5) == y[0])
