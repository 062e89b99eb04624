"""Data for the estimators: (kind, x, y) of each, kind one of fastfc.sklearn."""

import numpy as np
import sklearn.neural_network
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.preprocessing import scale

from fastfc.sklearn import MLPClassifier, MLPRegressor

THEIRS = {MLPClassifier: sklearn.neural_network.MLPClassifier, MLPRegressor: sklearn.neural_network.MLPRegressor}


def digits():
    x, y = load_digits(return_X_y=True)
    return MLPClassifier, x[:500] / 16, y[:500]


def cancer():
    x, y = load_breast_cancer(return_X_y=True)
    return MLPClassifier, scale(x), np.array(["malignant", "benign"])[y]


def several_labels():
    _, x, y = cancer()
    return MLPClassifier, x, np.stack([y == "benign", y != "benign", x[:, 0] > 0], axis=1).astype(int)


def diabetes():
    x, y = load_diabetes(return_X_y=True)
    return MLPRegressor, x, y / 100 - 1.5


def several_outputs():
    kind, x, y = diabetes()
    return kind, x, np.stack([y, y**2, -y], axis=1)


def counts():
    kind, x, y = diabetes()
    return kind, x, np.round(np.exp(y))


DATA = {f.__name__: f for f in (digits, cancer, several_labels, diabetes, several_outputs, counts)}
