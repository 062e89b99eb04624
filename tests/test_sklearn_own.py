"""scikit-learn's own tests of its multi-layer perceptrons, on ours.

Three names are patched: the two estimators, and SGD.learning_rate for what their optimizers call the rate.
"""

import importlib.util
from unittest.mock import patch

import pytest

from fastfc.optim.first_order import SGD
from fastfc.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore")  # as in scikit-learn's own runs

# Tests that look at private parts of scikit-learn's estimators, and which.
PRIVATE = {
    "test_gradient": "calls _loss_grad_lbfgs with arrays for the activations and deltas of each layer; that gradients "
    "are right is known from test_gradcheck.py",
}


def own_tests():
    spec = importlib.util.find_spec("sklearn.neural_network.tests.test_mlp")
    if spec is None:
        pytest.skip("scikit-learn is installed without its tests", allow_module_level=True)
    module = importlib.util.module_from_spec(spec)  # not the one in sys.modules
    with patch.multiple("sklearn.neural_network", MLPClassifier=MLPClassifier, MLPRegressor=MLPRegressor):
        spec.loader.exec_module(module)
    tests = {name: test for name, test in vars(module).items() if name.startswith("test_")}
    for name, reason in PRIVATE.items():
        tests[name] = pytest.mark.xfail(raises=AttributeError, reason=reason)(tests[name])
    return tests


@pytest.fixture
def global_random_seed():
    return 42


@pytest.fixture(autouse=True)
def their_name_of_the_rate(monkeypatch):
    monkeypatch.setattr(SGD, "learning_rate", property(lambda optimizer: optimizer.lr), raising=False)


globals().update(own_tests())
