"""A fit that fails leaves an estimator as it was: not fitted, or fitted by the fit before."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

pytest.importorskip("sklearn")

from fastfc.sklearn import MLPClassifier, MLPRegressor, RealMLPClassifier, RealMLPRegressor

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 3))
CLASSES, NUMBERS = np.where(X[:, 0] > 0, "yes", "no"), X[:, 0] + X[:, 1]
OTHER_X, OTHER_CLASSES = RNG.standard_normal((40, 5)), np.array(["a", "b", "c", "d"])[np.arange(40) % 4]


def raising(error, epoch=2):
    def callback(run):
        if len(run.history) == epoch:
            raise error("from the callback")

    return callback


def mlp(kind):
    return kind(hidden_layer_sizes=(4,), max_iter=3, random_state=0, early_stopping=True)


def realmlp(kind):
    return kind("fast", hidden=[4], epochs=3, random_state=0, n_threads=1)


ESTIMATORS = {
    "MLPClassifier": lambda: mlp(MLPClassifier),
    "MLPRegressor": lambda: mlp(MLPRegressor),
    "RealMLPClassifier": lambda: realmlp(RealMLPClassifier),
    "RealMLPRegressor": lambda: realmlp(RealMLPRegressor),
}
REAL = "RealMLPClassifier", "RealMLPRegressor"
# what goes wrong: of which estimators, their parameters, arguments of fit, and the exception
FAILURES = {
    "negative weights": ([*ESTIMATORS], {}, {"sample_weight": np.full(40, -1.0)}, ValueError),
    "weights of 0": ([*ESTIMATORS], {}, {"sample_weight": np.zeros(40)}, ValueError),
    "weights of another length": ([*ESTIMATORS], {}, {"sample_weight": np.ones(39)}, ValueError),
    "a callback raises": ([*ESTIMATORS], {"callbacks": [raising(RuntimeError)]}, {}, RuntimeError),
    "a later fold raises": (
        [*ESTIMATORS],
        {"callbacks": [raising(RuntimeError)], "n_cv": 2},
        {},
        RuntimeError,
    ),
    "Ctrl-C": (REAL, {"callbacks": [raising(KeyboardInterrupt)]}, {}, KeyboardInterrupt),
    "X_val without y_val": (REAL, {}, {"X_val": OTHER_X}, ValueError),
    "X_val of another width": (REAL, {}, {"X_val": X, "y_val": NUMBERS}, ValueError),
    "another class in y_val": (["RealMLPClassifier"], {}, {"X_val": OTHER_X, "y_val": np.full(40, "z")}, ValueError),
    "a weight for an unknown class": (
        ["RealMLPClassifier", "MLPClassifier"],
        {"class_weight": {"z": 2}},
        {},
        ValueError,
    ),
    "quantiles": (["RealMLPRegressor"], {"quantiles": []}, {}, ValueError),
    "another score": (["RealMLPRegressor"], {"val_metric": "error"}, {}, ValueError),
    "validation data of another width": (
        ["MLPClassifier", "MLPRegressor"],
        {},
        {"validation_data": (X, NUMBERS)},
        ValueError,
    ),
    "numbers that are too large": (
        ["MLPClassifier", "MLPRegressor"],
        {"learning_rate_init": 1e300, "solver": "sgd", "early_stopping": False},
        {},
        ValueError,
    ),
}
CASES = [(failure, name) for failure, (names, *_) in FAILURES.items() for name in names]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("failure, name", CASES)
def test_nothing_changes(failure, name, fitted):
    _, params, arguments, error = FAILURES[failure]
    estimator, of_classes = ESTIMATORS[name](), "Classifier" in name
    if fitted:
        estimator.fit(X, CLASSES if of_classes else NUMBERS)
        said = estimator.predict(X)
    estimator.set_params(**params)
    before = dict(vars(estimator))
    with pytest.raises(error):
        estimator.fit(OTHER_X, OTHER_CLASSES if of_classes else np.arange(40.0), **arguments)
    assert vars(estimator).keys() == before.keys()
    assert [key for key, value in vars(estimator).items() if value is not before[key]] == []
    if fitted:
        assert_array_equal(estimator.predict(X), said)
