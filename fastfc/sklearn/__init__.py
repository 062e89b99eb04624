"""scikit-learn's multi-layer perceptrons on fastfc: `MLPClassifier` and `MLPRegressor`; needs `fastfc[sklearn]`.

The same `random_state` draws the same first weights, splits and orders of samples as scikit-learn's estimators do,
and each step is theirs: what comes out differs by rounding only.
"""

from fastfc.sklearn.convert import from_sklearn, to_sklearn
from fastfc.sklearn.estimators import MLPClassifier, MLPRegressor
from fastfc.sklearn.realmlp import RealMLPClassifier, RealMLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor", "RealMLPClassifier", "RealMLPRegressor", "from_sklearn", "to_sklearn"]
