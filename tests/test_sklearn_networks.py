"""Networks from scikit-learn's estimators, and back."""

import pickle

import numpy as np
import pytest
import sklearn.neural_network
from estimator_data import DATA, THEIRS, counts, digits
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.preprocessing import StandardScaler

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
