import numpy as np
import pytest
from numba import njit

import fastfc as fc
from fastfc.metrics import BY_NAME
from fastfc.training import outputs


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


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
    assert set(outputs.TAKEN) == kinds - {fc.MultiLoss, fc.MemberLoss}


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
