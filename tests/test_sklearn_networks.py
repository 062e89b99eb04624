"""Networks from scikit-learn's estimators, and back."""

import pickle
from itertools import permutations

import numpy as np
import pytest
import sklearn.neural_network
from estimator_data import DATA, THEIRS, counts, diabetes, digits
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)

import fastfc as fc
from fastfc.sklearn import MLPClassifier, MLPRegressor, to_sklearn

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize("data", ["digits", "cancer", "several_labels", "diabetes", "several_outputs"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_there_and_back(data, activation, dtype):
    kind, x, y = DATA[data]()
    x = x.astype(dtype)
    mlp = THEIRS[kind](hidden_layer_sizes=(7, 6), activation=activation, max_iter=3, random_state=0).fit(x, y)
    predict = lambda estimator: estimator.predict(x) if kind is MLPRegressor else estimator.predict_proba(x)
    net = fc.from_sklearn(mlp)
    assert net.dtype == dtype
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    assert_allclose(np.squeeze(net.predict(x)), predict(mlp), rtol=tolerance, atol=tolerance)
    back = to_sklearn(net, classes=np.unique(y) if data in ("digits", "cancer") else None)
    assert type(back) is type(mlp) and back.hidden_layer_sizes == (7, 6) and back.activation == activation
    assert back.out_activation_ == mlp.out_activation_ and back.n_outputs_ == mlp.n_outputs_
    assert_allclose(predict(back), predict(mlp), rtol=10 * tolerance, atol=10 * tolerance)
    assert_array_equal(back.predict(x) if kind is MLPClassifier else 0, mlp.predict(x) if kind is MLPClassifier else 0)
    assert_allclose(back.score(x, y), mlp.score(x, y), rtol=1e-3)
    pickle.dumps(clone(back)), pickle.dumps(back)
    net.params[:] = 0
    assert np.any(mlp.coefs_[0]) and np.any(back.coefs_[0])  # copies


@pytest.mark.parametrize("data", ["digits", "cancer", "several_labels", "diabetes", "several_outputs"])
def test_both_can_be_trained_on(data):
    kind, x, y = DATA[data]()
    back = to_sklearn(fc.from_sklearn(THEIRS[kind](hidden_layer_sizes=(7,), max_iter=3, random_state=0).fit(x, y)))
    y = np.unique(y, return_inverse=True)[1] if data in ("digits", "cancer") else y
    before = back.score(x, y)
    for _ in range(20):
        back.partial_fit(x, y)
    assert back.score(x, y) > before and back.t_ == 20 * len(x) and back.loss_curve_[0] > back.loss_curve_[-1]
    assert back.set_params(warm_start=True, max_iter=30).fit(x, y).score(x, y) > before


@pytest.mark.parametrize("data", ["digits", "cancer", "several_labels", "diabetes", "several_outputs"])
def test_networks_of_our_estimators(data):
    kind, x, y = DATA[data]()
    ours = kind(hidden_layer_sizes=(7, 6), activation=["gelu", "tanh"], dropout=0.1, max_iter=3, random_state=0).fit(
        x, y
    )
    predicted = ours.predict(x) if kind is MLPRegressor else ours.predict_proba(x)
    net = fc.from_sklearn(ours)
    assert_allclose(np.squeeze(net.predict(x)), predicted, rtol=1e-12, atol=1e-12)
    net.params[:] = 0
    assert np.any(ours.coefs_[0])
    brier = MLPClassifier((5,), loss=fc.MSELoss(), max_iter=2).fit(*digits()[1:])
    assert_allclose(fc.from_sklearn(brier).predict(digits()[1]), brier.predict_proba(digits()[1]), rtol=1e-12)


def test_classes_of_a_network():
    net = fc.MLP([3, 4, 3], seed=0, dtype=np.float64)
    x = np.eye(3)
    mlp = to_sklearn(net, classes=["c", "a", "b"])  # logits; scikit-learn sorts the classes
    assert_array_equal(mlp.classes_, ["a", "b", "c"])
    assert_array_equal(mlp.predict(x), np.array(["c", "a", "b"])[net.predict(x).argmax(axis=1)])
    assert isinstance(to_sklearn(net), sklearn.neural_network.MLPRegressor)
    one = fc.MLP([3, 4, 1], output_activation="sigmoid", seed=0, dtype=np.float64)
    p = one.predict(x)[:, 0]
    assert_allclose(to_sklearn(one).predict_proba(x)[:, 1], p)
    assert_allclose(to_sklearn(one, classes=["yes", "no"]).predict_proba(x)[:, 0], p)  # "no" is the first there
    deep = fc.Sequential([fc.Linear(3, 2, bias=False), fc.Linear(2, 2), fc.Dropout(0.5), fc.Softmax()])
    assert_allclose(to_sklearn(deep).predict_proba(x), deep.predict(x), rtol=1e-5)


def sequential(*layers):
    return fc.Sequential([fc.Linear(3, 4), *layers, fc.Linear(4, 2)])


@pytest.mark.parametrize(
    "net, message",
    [
        (sequential(fc.GELU()), "the network has gelu"),
        (fc.MLP([3, 3, 3, 3], output_activation="tanh"), r"can't end in Tanh\(\)"),
        (sequential(fc.ReLU(), fc.Linear(4, 4), fc.Tanh()), "the network has relu, tanh"),
        (sequential(fc.ReLU(), fc.Tanh()), r"nothing for layer 2, Tanh\(\)"),
        (sequential(fc.LayerNorm(4), fc.ReLU()), r"nothing for layer 1, LayerNorm\(4"),
        (fc.Sequential([fc.Standardize(3), fc.Linear(3, 2)]), "nothing for layer 0, Standardize"),
        (fc.Sequential([fc.ReLU()]), r"nothing for layer 0, ReLU\(\)"),
        (fc.Sequential([fc.Dropout(0.1)]), "has no Linear layer"),
        (fc.Linear(3, 2), "give a Sequential"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value)[:60],
)
def test_what_scikit_learn_does_not_have(net, message):
    with pytest.raises((ValueError, TypeError), match=message):
        to_sklearn(net)


def test_wrong_classes_and_estimators():
    with pytest.raises(ValueError, match="tells 2 classes apart"):
        to_sklearn(fc.MLP([3, 2], output_activation="softmax"), classes=[1, 2, 3])
    with pytest.raises(TypeError, match="give a fitted MLPClassifier or MLPRegressor"):
        fc.from_sklearn(StandardScaler())
    with pytest.raises(ValueError, match="is not fitted"):
        fc.from_sklearn(sklearn.neural_network.MLPClassifier())
    with pytest.raises(ValueError, match="go through 'exp'"):
        fc.from_sklearn(MLPRegressor("poisson", max_iter=2).fit(*counts()[1:]))
    with pytest.raises(ValueError, match="an ensemble of 2 networks"):
        fc.from_sklearn(MLPRegressor(max_iter=2, n_estimators=2).fit(*counts()[1:]))


SCALERS = {
    "StandardScaler": lambda: StandardScaler(),
    "without mean": lambda: StandardScaler(with_mean=False),
    "without std": lambda: StandardScaler(with_std=False),
    "without both": lambda: StandardScaler(with_mean=False, with_std=False),
    "MinMaxScaler": lambda: MinMaxScaler(),
    "range": lambda: MinMaxScaler((-3, 0.5)),
    "clip": lambda: MinMaxScaler((-1, 2), clip=True),
    "MaxAbsScaler": lambda: MaxAbsScaler(),
    "RobustScaler": lambda: RobustScaler(),
    "without centering": lambda: RobustScaler(with_centering=False),
    "without scaling": lambda: RobustScaler(with_scaling=False),
    "quantiles": lambda: RobustScaler(quantile_range=(10, 80), unit_variance=True),
    "passthrough": lambda: "passthrough",
    "nothing": lambda: None,
    "identity": lambda: FunctionTransformer(),
    "pipeline": lambda: make_pipeline(RobustScaler(), "passthrough", make_pipeline(MinMaxScaler(clip=True))),
}
SEVERAL = [*((name,) for name in SCALERS), *permutations(["without mean", "clip", "quantiles"])]


def far(x):
    """Inputs in units of their own, one of which never changes; and others, in part out of their range."""
    x = np.column_stack([1000 + 50 * x[:, :5], 1e-3 * x[:, 5:], np.full(len(x), 7.0)])
    return x[: len(x) // 2], np.concatenate([x, 2 * x - x.mean(axis=0)])


def assert_pipeline(pipeline, net, x, tolerance=1e-9):
    predicted = pipeline.predict_proba(x) if hasattr(pipeline, "classes_") else pipeline.predict(x)
    assert_allclose(np.squeeze(net.predict(x)), predicted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("names", SEVERAL, ids=", ".join)
@pytest.mark.parametrize("theirs", [True, False])
def test_pipelines_of_scalers(names, theirs):
    kind, x, y = DATA["diabetes" if theirs else "cancer"]()
    learned, others = far(x)
    mlp = (THEIRS[kind] if theirs else kind)(hidden_layer_sizes=(6,), activation="tanh", max_iter=3, random_state=0)
    pipeline = Pipeline([*((name, SCALERS[name]()) for name in names), ("mlp", mlp)]).fit(learned, y[: len(learned)])
    net = fc.from_sklearn(pipeline)
    assert net.dtype == np.float64
    assert_pipeline(pipeline, net, others)
    if names == ("StandardScaler",) and theirs:
        assert str(net) == f"Sequential([Standardize(11, dtype=float64), {str(fc.from_sklearn(mlp))[12:]}"


def test_pipelines_in_float32():
    kind, x, y = digits()
    x = x.astype(np.float32)
    pipeline = make_pipeline(RobustScaler(), MinMaxScaler(), THEIRS[kind]((6,), max_iter=3, random_state=0)).fit(x, y)
    net = fc.from_sklearn(pipeline)
    assert net.dtype == np.float32
    assert_pipeline(pipeline, net, x, 1e-4)


@pytest.mark.parametrize("transformer", [*[*SCALERS][:-5], "identity", "pipeline", None])
def test_scaled_targets(transformer):
    for data in ("diabetes", "several_outputs"):
        kind, x, y = DATA[data]()
        mlp = THEIRS[kind](hidden_layer_sizes=(6,), max_iter=30, random_state=0)
        scaler = SCALERS[transformer]() if transformer else None
        target = TransformedTargetRegressor(make_pipeline(MinMaxScaler(), mlp), transformer=scaler)
        pipeline = make_pipeline(StandardScaler(), target).fit(x, 300 + 50 * y)
        assert_pipeline(pipeline, fc.from_sklearn(pipeline), x)


class Doubled(StandardScaler):
    def transform(self, X, copy=None):
        return 2 * super().transform(X, copy)


def test_pipelines_that_are_refused():
    kind, x, y = diabetes()
    mlp = THEIRS[kind](hidden_layer_sizes=(3,), max_iter=2)
    refused = [("poly", PolynomialFeatures(1)), ("own", Doubled()), ("log", FunctionTransformer(np.arcsinh))]
    pipeline = Pipeline([("scale", StandardScaler()), *refused, ("in", make_pipeline(PCA(2))), ("mlp", mlp)]).fit(x, y)
    with pytest.raises(
        TypeError, match=r"can't convert poly .*, own .*, log .*, in\.pca .*; before a perceptron it takes"
    ):
        fc.from_sklearn(pipeline)
    with pytest.raises(TypeError, match=r"can't convert transformer \(FunctionTransformer"):
        fc.from_sklearn(TransformedTargetRegressor(mlp, func=np.cbrt, inverse_func=lambda z: z**3).fit(x, y))
    with pytest.raises(ValueError, match="is not fitted"):
        fc.from_sklearn(make_pipeline(StandardScaler(), mlp))
    with pytest.raises(ValueError, match="is not fitted"):
        fc.from_sklearn(TransformedTargetRegressor(mlp))
    with pytest.raises(ValueError, match="is not fitted"):
        fc.from_sklearn(make_pipeline(StandardScaler(), clone(mlp).fit(x, y)))
    with pytest.raises(TypeError, match="a Pipeline that ends in one, got Pipeline"):
        fc.from_sklearn(make_pipeline(StandardScaler(), PCA()).fit(x))
    with pytest.raises(TypeError, match="give its best_estimator_"):
        fc.from_sklearn(GridSearchCV(pipeline, {}, cv=2).fit(x, y))
    shares = MLPRegressor(fc.BCEWithLogitsLoss(), max_iter=2)
    with pytest.raises(ValueError, match=r"scales the outputs of Sigmoid\(\)"):
        fc.from_sklearn(TransformedTargetRegressor(shares, transformer=MinMaxScaler()).fit(x, y))
