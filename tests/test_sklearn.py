"""The estimators of fastfc.sklearn, against scikit-learn's own."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from estimator_data import DATA, THEIRS, cancer, counts, diabetes, digits, several_labels, several_outputs
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csc_matrix, csr_matrix
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from test_extras import WITHOUT

import fastfc as fc
from fastfc.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@parametrize_with_checks([MLPClassifier(max_iter=100), MLPRegressor(max_iter=100)])
@pytest.mark.filterwarnings("ignore")  # scikit-learn's checks give odd data, and it warns of them
def test_scikit_learns_checks(estimator, check):
    check(estimator)


SETTINGS = {
    "adam": {},
    "large alpha": {"alpha": 10.0, "epsilon": 1e-3},
    "sgd": {"solver": "sgd"},
    "sgd without nesterov": {"solver": "sgd", "nesterovs_momentum": False},
    "sgd without momentum": {"solver": "sgd", "momentum": 0.0},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 1.0, "n_iter_no_change": 1, "max_iter": 40},
    "lbfgs": {"solver": "lbfgs"},
    "tol": {"tol": 0.1, "n_iter_no_change": 3, "max_iter": 100},
    "early stopping": {"early_stopping": True, "n_iter_no_change": 2, "max_iter": 20},
    "in order": {"shuffle": False, "batch_size": 37},
    "tanh": {"activation": "tanh", "hidden_layer_sizes": (20, 10)},
    "logistic": {"activation": "logistic", "hidden_layer_sizes": 20},
    "no hidden layer": {"hidden_layer_sizes": [], "activation": "identity"},
}


def both(data, sample_weight=None, **settings):
    """Ours and theirs, fitted."""
    kind, x, y = DATA[data]()
    settings = {"random_state": 3, "max_iter": 5, "alpha": 0.01, "hidden_layer_sizes": (20,)} | settings
    if data == "counts":
        settings["loss"] = "poisson"
    ours, theirs = kind(**settings), THEIRS[kind](**settings)
    return ours.fit(x, y, sample_weight), theirs.fit(x, y, sample_weight), x


def assert_same(ours, theirs, x, rtol=1e-9):
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for a, b in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        assert_allclose(a, b, rtol=rtol, atol=rtol)
    for name in ("loss_", "best_loss_", "loss_curve_", "validation_scores_", "best_validation_score_"):
        assert hasattr(ours, name) == hasattr(theirs, name), name
        if hasattr(theirs, name):
            expected = getattr(theirs, name)
            if expected is None:
                assert getattr(ours, name) is None, name
            else:
                assert_allclose(getattr(ours, name), expected, rtol=rtol, err_msg=name)
    if hasattr(theirs, "classes_"):
        assert_array_equal(ours.classes_, theirs.classes_)
        assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), rtol=1e-7, atol=1e-9)
        assert_allclose(ours.predict_log_proba(x), theirs.predict_log_proba(x), rtol=1e-6, atol=1e-6)
        assert_array_equal(ours.predict(x), theirs.predict(x))
    else:
        assert_allclose(ours.predict(x), theirs.predict(x), rtol=1e-7, atol=1e-9)


# scikit-learn's loss of several outputs is their mean, its gradient that of their sum: L-BFGS is misled there
DEFINED = [(data, name) for data in DATA for name in SETTINGS if (data, name) != ("several_outputs", "lbfgs")]


@pytest.mark.parametrize("data, settings", DEFINED)
def test_is_scikit_learns(data, settings):
    """The same seed gives the same model, to rounding."""
    assert_same(*both(data, **SETTINGS[settings]))


@pytest.mark.parametrize("data, settings", [d for d in DEFINED if d[1] in ("adam", "sgd", "lbfgs", "early stopping")])
def test_is_scikit_learns_with_weights(data, settings):
    weights = np.random.default_rng(0).uniform(0.1, 2, len(DATA[data]()[1]))
    assert_same(*both(data, weights, **SETTINGS[settings]))


def test_lbfgs_of_several_outputs_does_as_well():
    ours, theirs, _ = both("several_outputs", solver="lbfgs", max_iter=200)
    assert ours.loss_ < 1.02 * theirs.loss_


@pytest.mark.parametrize("kind", THEIRS)
def test_parameters_are_scikit_learns(kind):
    ours, theirs = kind().get_params(), THEIRS[kind]().get_params()
    assert {name: ours[name] for name in theirs} == theirs
    assert set(ours) - set(theirs) <= {"loss", "class_weight", "dropout", "callbacks", "n_estimators", "n_cv"}
    assert list(ours)  # by position too
    if kind is MLPRegressor:
        assert (
            kind("poisson", (3,), "tanh").get_params()
            == kind(loss="poisson", hidden_layer_sizes=(3,), activation="tanh").get_params()
        )


@pytest.mark.parametrize("data", ["digits", "diabetes"])
def test_float32_is_computed_in_float32(data):
    kind, x, y = DATA[data]()
    settings = {"random_state": 0, "max_iter": 5}
    ours, theirs = (k(**settings).fit(x.astype(np.float32), y) for k in (kind, THEIRS[kind]))
    assert {w.dtype for w in ours.coefs_ + ours.intercepts_} == {np.dtype(np.float32)}
    for a, b in zip(ours.coefs_, theirs.coefs_, strict=True):
        assert_allclose(a, b, rtol=0.1, atol=1e-4)
    assert kind(**settings).fit(x, y).coefs_[0].dtype == np.float64


@pytest.mark.parametrize("data", ["digits", "diabetes"])
def test_partial_fit_is_scikit_learns(data):
    kind, x, y = DATA[data]()
    ours, theirs = kind(random_state=0), THEIRS[kind](random_state=0)
    options = {"classes": np.unique(y)} if kind is MLPClassifier else {}
    for rows in (slice(0, 100), slice(100, 350), slice(0, 90)):
        for estimator in (ours, theirs):
            estimator.partial_fit(x[rows], y[rows], **options)
        options = {}
        assert_same(ours, theirs, x)
    for estimator in (ours, theirs):  # fit starts again, and partial_fit goes on with its optimizer
        estimator.set_params(max_iter=3).fit(x, y).partial_fit(x[:150], y[:150])
    assert_same(ours, theirs, x)


def assert_same_lr(ours, theirs):
    if ours.solver == "sgd":  # their Adam's rate has its corrections in it
        assert_allclose(ours._optimizer.lr, theirs._optimizer.learning_rate, rtol=1e-12)


@pytest.mark.parametrize("settings", ["adam", "sgd", "sgd without momentum", "invscaling", "adaptive", "logistic"])
@pytest.mark.parametrize("data", ["digits", "cancer", "several_labels", "diabetes", "counts"])
def test_every_call_of_partial_fit_trains(data, settings, capsys):
    """After n_iter_no_change calls without a better loss all others did nothing, without a word."""
    kind, x, y = DATA[data]()
    options = SETTINGS[settings] | {"n_iter_no_change": 1, "tol": 1.0, "random_state": 0, "verbose": True}
    options |= {"hidden_layer_sizes": (5,)} | ({"loss": "poisson"} if data == "counts" else {})
    pair = [k(**options) for k in (kind, THEIRS[kind])]
    classes = {"classes": np.arange(3) if y.ndim > 1 else np.unique(y)} if kind is MLPClassifier else {}
    for i in range(24):
        rows, printed = slice(16 * i, 16 * i + 16), []
        for estimator in pair:
            estimator.partial_fit(x[rows], y[rows], **classes)
            printed.append(capsys.readouterr().out)
        assert printed[0] == printed[1]
        assert pair[0]._no_improvement_count == pair[1]._no_improvement_count and not pair[0].stopped_
        assert_same_lr(*pair)
    assert_same(*pair, x, rtol=1e-7)
    assert "Stopping" in printed[0] or settings == "adaptive"


@pytest.mark.parametrize("warm_start", [False, True])
@pytest.mark.parametrize("settings", ["adam", "sgd", "invscaling", "adaptive"])
def test_fit_and_partial_fit_take_turns(settings, warm_start):
    """The counters of either go on in the other, or start again, as scikit-learn's do."""
    kind, x, y = diabetes()
    options = SETTINGS[settings] | {"n_iter_no_change": 2, "tol": 1e-3, "max_iter": 12, "random_state": 0}
    pair = [k(**options, warm_start=warm_start, hidden_layer_sizes=(5,)) for k in (kind, THEIRS[kind])]
    for what in (
        "partial_fit",
        "fit",
        "partial_fit",
        "partial_fit",
        "partial_fit",
        "partial_fit",
        "fit",
        "partial_fit",
    ):
        for estimator in pair:
            getattr(estimator, what)(x, y)
        assert_same(*pair, x, rtol=1e-7)
        assert_same_lr(*pair)
        assert pair[0]._no_improvement_count == pair[1]._no_improvement_count


def test_one_sample_at_a_time_is_learned():
    ours, theirs = (k(random_state=0, learning_rate_init=0.01) for k in (MLPRegressor, THEIRS[MLPRegressor]))
    for _ in range(300):
        for estimator in (ours, theirs):
            estimator.partial_fit([[2.0, 1.0]], [1.0])
    assert_allclose(ours.predict([[2.0, 1.0]]), theirs.predict([[2.0, 1.0]]), rtol=1e-9)
    assert_allclose(ours.predict([[2.0, 1.0]]), 1, atol=1e-3)


def test_a_refused_first_call_of_partial_fit_leaves_nothing():
    """Classes of a call that had failed were those of all others."""
    _, x, y = digits()
    ours = MLPClassifier((5,), random_state=0)
    with pytest.raises(ValueError, match="classes not in"):
        ours.partial_fit(x, y, classes=range(5))
    ours.partial_fit(x, y, classes=range(10))
    assert_array_equal(ours.classes_, range(10))


@pytest.mark.parametrize("settings", ["adam", "sgd", "lbfgs", "adaptive"])
@pytest.mark.parametrize("data", ["cancer", "diabetes"])
def test_warm_start_is_scikit_learns(data, settings):
    kind, x, y = DATA[data]()
    ours, theirs = (
        k(random_state=0, warm_start=True, max_iter=4).set_params(**SETTINGS[settings]) for k in (kind, THEIRS[kind])
    )
    for _ in range(3):
        ours.fit(x, y), theirs.fit(x, y)
    with np.errstate(divide="ignore"):
        assert_same(ours, theirs, x, rtol=1e-6)


def test_warm_start_with_early_stopping_keeps_the_best():
    _, x, y = cancer()
    ours = MLPClassifier((20,), early_stopping=True, warm_start=True, max_iter=30, random_state=0, n_iter_no_change=2)
    best = ours.fit(x, y).network_.params.copy()
    ours.set_params(learning_rate_init=1e-9).fit(x, y)  # no better; scikit-learn keeps the latest weights here
    assert_array_equal(ours.network_.params, best)


def test_warm_start_keeps_to_its_network():
    _, x, y = cancer()
    ours = MLPClassifier((5,), warm_start=True, max_iter=2, random_state=0).fit(x, y)
    before = ours.network_.params.copy()
    with pytest.raises(ValueError, match=r"hidden_layer_sizes=\(6,\), but the network that is to go on has \[5\]"):
        ours.set_params(hidden_layer_sizes=(6,)).fit(x, y)
    with pytest.raises(ValueError, match="same classes as in the previous call"):
        ours.set_params(hidden_layer_sizes=(5,)).fit(x, np.where(y == "benign", "benign", "other"))
    assert_array_equal(ours.network_.params, before)


def test_partial_fit_knows_its_classes():
    _, x, y = digits()
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        MLPClassifier().partial_fit(x, y)
    ours = MLPClassifier((5,)).partial_fit(x[:50], y[:50], classes=range(10))
    with pytest.raises(ValueError, match="not the same as on last call"):
        ours.partial_fit(x, y, classes=range(11))
    with pytest.raises(ValueError, match="classes not in"):
        ours.partial_fit(x, y + 1)
    with pytest.raises(ValueError, match="balanced"):
        ours.set_params(class_weight="balanced").partial_fit(x, y)
    assert not hasattr(MLPClassifier(solver="lbfgs"), "partial_fit")
    assert not hasattr(MLPRegressor(solver="lbfgs"), "partial_fit")


@pytest.mark.parametrize("sparse", [csr_matrix, csc_matrix])
@pytest.mark.parametrize("settings", ["adam", "lbfgs", "early stopping", "in order"])
def test_sparse_is_dense(sparse, settings):
    kind, x, y = digits()
    dense, thin = (kind((20,), random_state=0, max_iter=4).set_params(**SETTINGS[settings]) for _ in range(2))
    dense.fit(x, y), thin.fit(sparse(x), y)
    for a, b in zip(dense.coefs_, thin.coefs_, strict=True):
        assert_array_equal(a, b)
    assert_array_equal(dense.predict_proba(x), thin.predict_proba(sparse(x)))


def test_long_sparse_input_is_predicted_in_parts():
    kind, x, y = digits()
    ours = kind((5,), random_state=0, max_iter=2).fit(x, y)
    x = np.tile(x, (9, 1))
    assert_array_equal(ours.predict_proba(csr_matrix(x)), ours.predict_proba(x))


def test_verbose_prints_what_scikit_learn_prints(capsys):
    for settings in ("tol", "early stopping", "adaptive"):
        printed = []
        for k in (MLPRegressor, THEIRS[MLPRegressor]):
            k(hidden_layer_sizes=(5,), random_state=0, verbose=True).set_params(**SETTINGS[settings]).fit(
                *diabetes()[1:]
            )
            printed.append(capsys.readouterr().out)
        assert printed[0] == printed[1] != ""
    MLPRegressor(hidden_layer_sizes=(5,), solver="lbfgs", verbose=True, max_iter=3, random_state=0).fit(*diabetes()[1:])
    assert capsys.readouterr().out.count("loss = ") == 3


@pytest.mark.filterwarnings("error")
def test_warnings():
    kind, x, y = diabetes()
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(3\) reached"):
        kind(max_iter=3).fit(x, y)
    with pytest.warns(ConvergenceWarning, match="lbfgs failed to converge"):
        kind(max_iter=3, solver="lbfgs").fit(x, y)
    with pytest.warns(UserWarning, match="Got `batch_size`"):
        kind(batch_size=1000, tol=10, max_iter=100).fit(x, y)
    kind(tol=10, max_iter=100).fit(x, y)
    kind().partial_fit(x, y)


def test_ctrl_c_keeps_what_was_learned():
    kind, x, y = diabetes()

    def interrupt(run):
        if len(run.history) == 2:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted"):
        ours = kind(callbacks=[interrupt]).fit(x, y)
    assert ours.n_iter_ == 2
    ours.predict(x)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"alpha": -1}, "alpha"),
        ({"solver": "newton"}, "solver"),
        ({"activation": "square"}, "activation"),
        ({"hidden_layer_sizes": (5, -1)}, "hidden_layer_sizes must be > 0"),
        ({"activation": ["relu"], "hidden_layer_sizes": (5, 5)}, "activation has 1 items for 2 hidden layers"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": [0.1, 0.1]}, "dropout has 2 items for 1 hidden layers"),
        ({"dropout": 0.1, "solver": "lbfgs"}, "dropout and callbacks need solver"),
        ({"callbacks": [print], "solver": "lbfgs"}, "dropout and callbacks need solver"),
        ({"loss": "hinge"}, "loss must be one of"),
        ({"loss": fc.GaussianNLLLoss()}, "GaussianNLLLoss takes other columns"),
        ({"loss": fc.MultiLoss([fc.MSELoss()])}, "MultiLoss takes other columns"),
        ({"loss": fc.MSELoss(reduction="none")}, "reduction='none'"),
        ({"n_estimators": 0}, "n_estimators"),
        ({"early_stopping": True, "validation_fraction": 0.001}, "validation set is too small|number of classes"),
    ],
)
def test_bad_parameters(settings, message):
    _, x, y = diabetes()
    for kind, target in ((MLPRegressor, y), (MLPClassifier, y > 0)):
        with pytest.raises(ValueError, match=message):
            kind(**settings).fit(x, target)


def test_losses_that_do_not_fit():
    _, x, y = digits()
    with pytest.raises(ValueError, match=r"BCEWithLogitsLoss\(\) is for binary or multilabel-indicator targets"):
        MLPClassifier(loss=fc.BCEWithLogitsLoss()).fit(x, y)
    with pytest.raises(ValueError, match=r"CrossEntropyLoss\(\) is for binary or multiclass targets"):
        MLPClassifier(loss=fc.CrossEntropyLoss()).fit(x, np.stack([y > 4, y < 3], axis=1).astype(int))
    with pytest.raises(ValueError, match=r"KLDivLoss\(\) is for multiclass targets"):
        MLPClassifier(loss=fc.KLDivLoss()).fit(x, y > 4)
    with pytest.raises(ValueError, match="is for classes; use MLPClassifier"):
        MLPRegressor(loss=fc.CrossEntropyLoss()).fit(x, y)
    with pytest.raises(ValueError, match="'poisson' is for counts, but y has -1"):
        MLPRegressor(loss="poisson").fit(x, y - 1)


def test_bad_samples():
    kind, x, y = diabetes()
    with pytest.raises(ValueError, match="at least one non-zero number"):
        kind().fit(x, y, np.zeros(len(y)))
    with pytest.raises(ValueError, match="not negative"):
        kind().fit(x, y, -np.ones(len(y)))
    with pytest.raises(ValueError, match="validation_data must be"):
        kind().fit(x, y, validation_data=(x,))


def test_what_is_not_finite_is_not_kept():
    kind, x, y = diabetes()
    ours = kind(solver="sgd", learning_rate_init=1e10, random_state=0)
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        ours.fit(1e10 * x, 1e10 * y)
    with pytest.raises(NotFittedError):
        ours.predict(x)
    ours.set_params(learning_rate_init=1e-3, max_iter=2).fit(x, y)
    before = ours.predict(x)
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        ours.partial_fit(1e200 * x, 1e200 * y)
    assert_array_equal(ours.predict(x), before)
    assert np.isfinite(ours.partial_fit(x, y).predict(x)).all()


def test_alpha_may_change_between_calls_of_partial_fit():
    kind, x, y = diabetes()
    ours, theirs = kind(alpha=0.0, random_state=0), THEIRS[kind](alpha=0.0, random_state=0)
    for alpha in (0.0, 5.0, 0.0, 0.1):
        for estimator in (ours, theirs):
            estimator.set_params(alpha=alpha).partial_fit(x, y)
        assert_same(ours, theirs, x)


def test_batches_without_weight_change_nothing():
    kind, x, y = diabetes()
    weights = np.ones(len(y))
    weights[100:] = 0
    settings = {"shuffle": False, "batch_size": 100, "max_iter": 4, "random_state": 0}
    ours, part = kind(**settings).fit(x, y, weights), kind(**settings).fit(x[:100], y[:100])
    assert_allclose(ours.coefs_[0], part.coefs_[0], rtol=1e-9, atol=1e-12)


def test_coefs_are_the_networks():
    kind, x, y = diabetes()
    ours = kind(hidden_layer_sizes=(4,), random_state=0, max_iter=2).fit(x, y)
    ours.coefs_ = [np.zeros_like(w) for w in ours.coefs_]
    ours.intercepts_ = [np.zeros(4), [3.0]]
    assert_array_equal(ours.predict(x), np.full(len(x), 3.0))
    ours.intercepts_[1][0] = 4
    assert_array_equal(ours.predict(x), np.full(len(x), 4.0))
    assert not hasattr(kind(), "coefs_")


# ways to give an estimator the parameters of another one
ASSIGNED = {
    "item": lambda m, w, b: [
        m.coefs_.__setitem__(0, w[0]),
        m.coefs_.__setitem__(-1, w[1]),
        m.intercepts_.__setitem__(0, b[0]),
        m.intercepts_.__setitem__(-1, b[1]),
    ],
    "lists": lambda m, w, b: [
        m.coefs_.__setitem__(i, w[i].tolist()) or m.intercepts_.__setitem__(i, b[i].tolist()) for i in (0, 1)
    ],
    "slice": lambda m, w, b: [
        m.coefs_.__setitem__(slice(None), w),
        m.intercepts_.__setitem__(slice(None, None, -1), b[::-1]),
    ],
    "whole": lambda m, w, b: [setattr(m, "coefs_", w), setattr(m, "intercepts_", tuple(b))],
    "in place": lambda m, w, b: [np.copyto(a, c) for a, c in zip(m.coefs_ + m.intercepts_, w + b, strict=True)],
    "float32": lambda m, w, b: [setattr(m, "coefs_", w), setattr(m, "intercepts_", b)],
}


@pytest.mark.parametrize("way", ASSIGNED)
@pytest.mark.parametrize("data", ["digits", "diabetes"])
def test_what_is_assigned_to_coefs_acts(data, way):
    """Assigned items were those of a list that nobody read."""
    kind, x, y = DATA[data]()
    ours, theirs, other = (
        k(hidden_layer_sizes=(4,), random_state=seed, max_iter=2).fit(x, y)
        for k, seed in ((kind, 0), (THEIRS[kind], 0), (THEIRS[kind], 1))
    )
    w, b = other.coefs_, other.intercepts_
    if way == "float32":
        w, b = [a.astype(np.float32) for a in w], [a.astype(np.float32) for a in b]
    ASSIGNED[way](ours, w, b)
    theirs.coefs_[:], theirs.intercepts_[:] = w, b
    for estimator in (ours, theirs, pickle.loads(pickle.dumps(ours))):
        assert_allclose(estimator.predict(x), other.predict(x), rtol=1e-5)
    assert_allclose(fc.from_sklearn(ours).layers[0].weight, w[0])
    for estimator in (ours, theirs):  # training goes on from it
        estimator.partial_fit(x, y)
    assert_allclose(ours.predict(x), theirs.predict(x), rtol=1e-5)


def test_what_coefs_refuse():
    kind, x, y = diabetes()
    ours = kind(hidden_layer_sizes=(4,), random_state=0, max_iter=2).fit(x, y)
    before = ours.network_.params.copy()
    n, w = x.shape[1], ours.coefs_[0] + 1
    for act, error, message in [
        (
            lambda: ours.coefs_.__setitem__(0, w.T),
            ValueError,
            rf"coefs_: item 0 has shape \({n}, 4\), got .* \(4, {n}\)",
        ),
        (
            lambda: ours.intercepts_.__setitem__(-1, 3.0),
            ValueError,
            r"intercepts_: item 1 has shape \(1,\), got .* \(\)",
        ),
        (lambda: ours.coefs_.__setitem__(2, w), IndexError, "out of range"),
        (lambda: ours.coefs_.__setitem__(0, w + 1j), TypeError, "complex128"),
        (lambda: setattr(ours, "coefs_", [w]), ValueError, "MLPRegressor: coefs_ are 2 arrays; 2 .* not 1"),
        (lambda: setattr(ours, "coefs_", [w, w]), ValueError, "item 1 has shape"),  # and not the first one either
        (lambda: setattr(ours, "coefs_", 3), TypeError, "coefs_: what is assigned must be a sequence"),
        (lambda: ours.coefs_.append(w), TypeError, "coefs_ are 2 arrays, for 2 layers"),
        (lambda: ours.coefs_.__delitem__(0), TypeError, "assign to an item"),
        (lambda: ours.coefs_.__iadd__([w]), TypeError, "assign to an item"),
    ]:
        with pytest.raises(error, match=message):
            act()
        assert_array_equal(ours.network_.params, before)


@pytest.mark.parametrize("train", ["predict", "partial_fit", "warm_start"])
@pytest.mark.parametrize("data", ["digits", "cancer", "diabetes", "several_outputs"])
def test_coefs_that_are_assigned_before_fit(data, train):
    """Where scikit-learn goes on from them there was an AttributeError."""
    kind, x, y = DATA[data]()
    fitted = THEIRS[kind](hidden_layer_sizes=(4, 3), max_iter=2, random_state=0).fit(x, y)
    ours, theirs = (k(hidden_layer_sizes=(4, 3), max_iter=2, random_state=0) for k in (kind, THEIRS[kind]))
    for estimator in (ours, theirs):
        estimator.coefs_, estimator.intercepts_ = [0] * 3, [0] * 3
        for i in range(3):
            estimator.coefs_[i], estimator.intercepts_[i] = fitted.coefs_[i].copy(), fitted.intercepts_[i].copy()
        estimator.n_layers_, estimator.n_outputs_, estimator.out_activation_ = (
            4,
            fitted.n_outputs_,
            fitted.out_activation_,
        )
        estimator.t_, estimator.loss_curve_, estimator.best_loss_, estimator._no_improvement_count = 0, [], np.inf, 0
        if kind is MLPClassifier and train != "partial_fit":
            estimator.classes_, estimator._label_binarizer = fitted.classes_, fitted._label_binarizer
        if train == "partial_fit":
            estimator.partial_fit(x, y, **({"classes": np.unique(y)} if kind is MLPClassifier else {}))
        elif train == "warm_start":
            estimator.set_params(warm_start=True).fit(x, y)
    same = assert_array_equal if kind is MLPClassifier else assert_allclose
    same(ours.predict(x), theirs.predict(x))
    if train == "predict":
        same(ours.predict(x), fitted.predict(x))
        assert ours.network_.dtype == np.float64 and ours.n_features_in_ == x.shape[1]
    else:
        for a, b in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
            assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    fresh = kind(hidden_layer_sizes=(4, 3), max_iter=2, random_state=0)
    fresh.coefs_ = fresh.intercepts_ = [0] * 3
    assert_array_equal(fresh.fit(x, y).coefs_[0], kind(**fresh.get_params()).fit(x, y).coefs_[0])  # fit starts again


def test_assigned_coefs_that_make_no_network():
    kind, x, y = diabetes()
    ours, n = kind(hidden_layer_sizes=(4,)), x.shape[1]
    ours.coefs_ = [np.ones((n, 4)), np.ones((4, 1))]
    with pytest.raises(NotFittedError):
        ours.predict(x)
    with pytest.raises(AttributeError, match="both must be assigned; intercepts_ is missing"):
        ours.partial_fit(x, y)
    ours.intercepts_ = 3
    with pytest.raises(TypeError, match="MLPRegressor: intercepts_ must be a sequence"):
        ours.predict(x)
    for intercepts in ([np.ones(4)], [np.ones(4), np.ones(2)], [np.ones(4), 3.0], [4, [1.0]]):
        ours.intercepts_ = intercepts
        with pytest.raises(
            ValueError, match=rf"coefs_ of shapes \[\({n}, 4\), \(4, 1\)\] and intercepts_ .* make no network"
        ):
            ours.predict(x)
    ours.intercepts_ = [np.ones(4), [1.0]]
    with pytest.raises(ValueError, match=r"hidden_layer_sizes=\(5,\), but the network that is to go on has \[4\]"):
        ours.set_params(hidden_layer_sizes=(5,)).partial_fit(x, y)
    assert_allclose(ours.predict(np.zeros((1, n))), 5)
    with pytest.raises(ValueError, match="features"):
        ours.predict(x[:, 1:])
    classifier = MLPClassifier((4,))
    classifier.coefs_, classifier.intercepts_ = ours.coefs_, ours.intercepts_
    with pytest.raises(NotFittedError, match="assign classes_ too"):
        classifier.predict(x)
    classifier.classes_ = ["a", "b", "c"]
    with pytest.raises(ValueError, match="coefs_ have 1 outputs, 3 classes 3"):
        classifier.predict(x)


def test_class_weight():
    _, x, y = cancer()
    settings = {"hidden_layer_sizes": (10,), "max_iter": 5, "random_state": 0}
    weights = np.where(y == "benign", 3.0, 0.5)
    of_samples = MLPClassifier(**settings).fit(x, y, weights)
    of_classes = MLPClassifier(**settings, class_weight={"benign": 3.0, "malignant": 0.5}).fit(x, y)
    assert_array_equal(of_classes.coefs_[0], of_samples.coefs_[0])
    both = MLPClassifier(**settings, class_weight={"benign": 6.0}).fit(x, y, np.where(y == "benign", 0.5, 0.5))
    assert_array_equal(both.coefs_[0], of_samples.coefs_[0])
    balanced = MLPClassifier(**settings, class_weight="balanced").fit(x, y)
    counts = {name: np.sum(y == name) for name in np.unique(y)}
    by_hand = MLPClassifier(**settings).fit(x, y, [len(y) / 2 / counts[name] for name in y])
    assert_allclose(balanced.coefs_[0], by_hand.coefs_[0], rtol=1e-12)


def test_dropout_is_for_training_only():
    _, x, y = digits()
    settings = {"hidden_layer_sizes": (20, 10), "max_iter": 3, "random_state": 0}
    ours = MLPClassifier(**settings, dropout=[0.5, 0]).fit(x, y)
    assert str(ours.network_).count("Dropout(0.5)") == 1
    assert_array_equal(ours.predict_proba(x), ours.predict_proba(x))
    again = MLPClassifier(**settings, dropout=[0.5, 0]).fit(x, y)
    assert_array_equal(ours.coefs_[0], again.coefs_[0])
    assert not np.allclose(ours.coefs_[0], MLPClassifier(**settings).fit(x, y).coefs_[0])
    assert str(MLPClassifier(**settings, dropout=0.25).fit(x, y).network_).count("Dropout(0.25)") == 2


def test_any_activation_for_each_layer():
    _, x, y = digits()
    slope = fc.LeakyReLU(0.3)
    ours = MLPClassifier((8, 7, 6), ["gelu", slope, "logistic"], max_iter=2, random_state=0).fit(x, y)
    kinds = [type(layer) for layer in ours.network_.layers]
    assert kinds == [fc.Linear, fc.GELU, fc.Linear, fc.LeakyReLU, fc.Linear, fc.Sigmoid, fc.Linear]
    assert ours.network_.layers[3].negative_slope == 0.3
    same = MLPClassifier((8, 7), ["tanh", "tanh"], max_iter=2, random_state=0).fit(x, y)
    assert_array_equal(same.coefs_[0], MLPClassifier((8, 7), "tanh", max_iter=2, random_state=0).fit(x, y).coefs_[0])


CLASS_LOSSES = [
    fc.CrossEntropyLoss(label_smoothing=0.1),
    fc.NLLLoss(),
    fc.MultiMarginLoss(),
    fc.MSELoss(),
    fc.BCELoss(),
    fc.KLDivLoss(),
    fc.BCEWithLogitsLoss(pos_weight=2.0),
]


@pytest.mark.parametrize("loss", CLASS_LOSSES, ids=str)
def test_losses_of_classes(loss):
    settings = {"loss": loss, "max_iter": 60, "random_state": 0, "learning_rate_init": 0.01}
    for data in (digits, cancer, several_labels):
        _, x, y = data()
        ours = MLPClassifier((20,), **settings)
        try:
            ours.fit(x, y)
        except ValueError as error:
            assert "targets, y is" in str(error)
            continue
        assert ours.score(x, y) > 0.9
        proba = ours.predict_proba(x)
        assert proba.min() >= 0 and proba.max() <= 1 and proba.shape == (len(x), len(ours.classes_))
        if data is not several_labels:
            assert_allclose(proba.sum(axis=1), 1)
            assert_array_equal(ours.classes_[proba.argmax(axis=1)], ours.predict(x))


def test_a_loss_of_ones_own_is_used():
    """NLLLoss and CrossEntropyLoss are the default's twins; two classes are told apart by two outputs then."""
    for data in (digits, cancer):
        _, x, y = data()
        settings = {"hidden_layer_sizes": (8,), "max_iter": 5, "random_state": 0}
        ours = [MLPClassifier(**settings, loss=loss).fit(x, y) for loss in (fc.CrossEntropyLoss(), fc.NLLLoss())]
        assert ours[0].n_outputs_ == len(ours[0].classes_)
        assert_allclose(ours[0].predict_proba(x), ours[1].predict_proba(x), rtol=1e-6)
        if data is digits:
            assert_array_equal(ours[0].coefs_[0], MLPClassifier(**settings).fit(x, y).coefs_[0])


@pytest.mark.parametrize("loss", [fc.HuberLoss(0.5), fc.QuantileLoss(0.9), fc.L1Loss()], ids=str)
def test_losses_of_numbers(loss):
    for data in (diabetes, several_outputs):
        _, x, y = data()
        ours = MLPRegressor(loss, (10,), max_iter=100, random_state=0, learning_rate_init=0.01).fit(x, y)
        predicted = ours.predict(x)
        assert predicted.shape == y.shape
        assert loss(predicted, y)[0] < 0.8 * loss(np.zeros(y.shape), y)[0]
    assert_allclose(
        MLPRegressor(fc.PoissonNLLLoss(), max_iter=5, random_state=0).fit(*counts()[1:]).predict(x),
        MLPRegressor("poisson", max_iter=5, random_state=0).fit(*counts()[1:]).predict(x),
        rtol=1e-9,
    )
    share = MLPRegressor(fc.BCEWithLogitsLoss(), max_iter=5).fit(x, y[:, 0] > 0).predict(x)
    assert share.min() > 0 and share.max() < 1


def test_adamw_decays_weights_only():
    kind, x, y = diabetes()
    settings = {"max_iter": 1, "random_state": 0, "hidden_layer_sizes": (5,), "batch_size": len(y), "epsilon": 1e-30}
    start = kind(**settings, learning_rate_init=1e-300).fit(x, y)
    adam = kind(**settings, alpha=0, learning_rate_init=0.01).fit(x, y)
    adamw = kind(**settings, alpha=0.5, learning_rate_init=0.01, solver="adamw").fit(x, y)
    for first, plain, decayed in zip(start.coefs_, adam.coefs_, adamw.coefs_, strict=True):
        assert_allclose(decayed, plain - 0.01 * 0.5 * first, rtol=1e-6, atol=1e-6)
    assert_allclose(adamw.intercepts_[0], adam.intercepts_[0], rtol=1e-6)
    assert_allclose(adamw.loss_, adam.loss_, rtol=1e-12)  # no penalty in it


def test_schedules():
    kind, x, y = diabetes()
    ours = kind(learning_rate=fc.StepLR(2, gamma=0.5, unit="epoch"), max_iter=6, random_state=0).fit(x, y)
    assert_allclose(ours.history_["lr"], [1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4, 2.5e-4])
    plateau = fc.ReduceLROnPlateau(factor=0.5, patience=1, threshold=0.9999)
    for solver in ("sgd", "adam", "adamw"):
        ours = kind(learning_rate=plateau, solver=solver, max_iter=8, random_state=0).fit(x, y)
        assert ours.history_["lr"][-1] < 1e-3


def test_validation_data_of_ones_own():
    _, x, y = digits()
    settings = {"hidden_layer_sizes": (20,), "random_state": 0, "max_iter": 200}
    ours = MLPClassifier(**settings, early_stopping=True, n_iter_no_change=3, tol=0)
    ours.fit(x[:300], y[:300], validation_data=(x[300:], y[300:]))
    assert ours.n_iter_ < 200 and len(ours.validation_scores_) == ours.n_iter_
    assert ours.best_validation_score_ == max(ours.validation_scores_) == ours.score(x[300:], y[300:])
    assert ours.t_ == 300 * ours.n_iter_  # nothing else was held out
    assert_array_equal(ours.history_["val_accuracy"], ours.validation_scores_)
    only_seen = MLPClassifier(**settings | {"max_iter": 5}).fit(
        x[:300], y[:300], validation_data=(x[300:], y[300:], np.ones(200))
    )
    plain = MLPClassifier(**settings | {"max_iter": 5}).fit(x[:300], y[:300])
    assert_array_equal(only_seen.coefs_[0], plain.coefs_[0])
    assert len(only_seen.validation_scores_) == 5 and plain.validation_scores_ is None
    assert only_seen.best_loss_ == plain.best_loss_


def test_callbacks():
    kind, x, y = diabetes()
    seen = []

    class Watch(fc.Callback):
        def on_start(self, run):
            seen.append(run.monitored)

        def on_epoch(self, run):
            seen.append(run.history.loss[-1])
            if len(run.history) == 3:
                run.stop()

        def on_end(self, run):
            seen.append("end")

    ours = kind(callbacks=[Watch()]).fit(x, y)
    assert seen == [["loss"], *ours.loss_curve_, "end"] and ours.n_iter_ == 3
    stopping = fc.EarlyStopping("val_r2", patience=2)
    ours = kind(callbacks=[stopping], learning_rate_init=0.1, random_state=0).fit(
        x[:300], y[:300], validation_data=(x[300:], y[300:])
    )
    assert ours.n_iter_ == stopping.best_epoch + 2
    assert ours.score(x[300:], y[300:]) == stopping.best


def test_a_callback_may_freeze_a_layer():
    kind, x, y = diabetes()
    kept = []

    def freeze(run):
        run.network.layers[0].frozen = True
        kept.append(run.network.layers[0].weight.copy())

    ours = kind(max_iter=4, callbacks=[freeze], random_state=0).fit(x, y)
    assert_array_equal(kept[0], ours.coefs_[0])
    assert not np.allclose(ours.coefs_[1], kind(max_iter=1, random_state=0).fit(x, y).coefs_[1])


def test_ensemble():
    kind, x, y = diabetes()
    settings = {"hidden_layer_sizes": (10,), "max_iter": 20, "random_state": 0, "learning_rate_init": 0.01}
    one, ours = kind(**settings).fit(x, y), kind(**settings, n_estimators=4).fit(x, y)
    assert_array_equal(ours.coefs_[0], one.coefs_[0])
    mean, std = ours.predict(x, return_std=True)
    assert_array_equal(mean, ours.predict(x))
    assert mean.shape == std.shape == y.shape and (std > 0).all()
    assert not np.allclose(mean, one.predict(x))
    assert_array_equal(kind(**settings, n_estimators=4).fit(x, y).predict(x), mean)
    _, std_far = ours.predict(20 * x, return_std=True)
    assert std_far.mean() > 2 * std.mean()  # it knows what it has not seen
    with pytest.raises(ValueError, match="n_estimators of at least 2"):
        one.predict(x, return_std=True)
    _, x, y = cancer()
    ours = MLPClassifier(**settings, n_estimators=3).fit(x, y)
    proba, std = ours.predict_proba(x, return_std=True)
    assert proba.shape == std.shape == (len(x), 2)
    assert_array_equal(ours.predict(x), ours.classes_[proba.argmax(axis=1)])
    assert_array_equal(pickle.loads(pickle.dumps(ours)).predict_proba(x), proba)
    for _ in range(2):
        ours.partial_fit(x, y)
    assert not np.allclose(ours.predict_proba(x), proba)
    ours.set_params(warm_start=True, n_estimators=2).fit(x, y)
    assert len(ours._others) == 1


def test_partial_fit_with_early_stopping():
    _, x, y = digits()
    ours = MLPClassifier((20,), early_stopping=True, n_iter_no_change=3, tol=0, random_state=0, learning_rate_init=0.01)
    calls = 0
    while calls < 200:
        ours.partial_fit(x[:300], y[:300], classes=range(10), validation_data=(x[300:], y[300:]))
        calls += 1
        if ours.stopped_:
            break
    assert calls < 200 and len(ours.validation_scores_) == calls
    assert ours.best_validation_score_ == max(ours.validation_scores_) == ours.score(x[300:], y[300:])
    before = ours.network_.params.copy()
    ours.partial_fit(x[:300], y[:300], validation_data=(x[300:], y[300:]))
    assert_array_equal(ours.network_.params, before)  # it has stopped
    ours.set_params(early_stopping=False).partial_fit(x[:300], y[:300])
    assert not np.array_equal(ours.network_.params, before) and not ours.stopped_
    assert not ours.set_params(max_iter=2, early_stopping=True).fit(x, y).stopped_
    for estimator in (ours, MLPClassifier((20,), early_stopping=True)):
        known = dict(vars(estimator))
        with pytest.raises(
            ValueError, match="partial_fit does not support early_stopping=True without validation_data"
        ):
            estimator.partial_fit(x, y, classes=range(10))
        assert vars(estimator) == known


@pytest.mark.parametrize("data", DATA)
def test_pickle_and_clone(data):
    kind, x, y = DATA[data]()
    ours = kind(hidden_layer_sizes=(5,), max_iter=3, random_state=0).fit(x, y)
    there = pickle.loads(pickle.dumps(ours))
    assert_array_equal(there.predict(x), ours.predict(x))
    ours.partial_fit(x, y), there.partial_fit(x, y)  # the optimizer's state came along
    assert_array_equal(there.predict(x), ours.predict(x))
    assert clone(ours).get_params() == ours.get_params() and not hasattr(clone(ours), "network_")


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_grid_search_in_a_pipeline(backend):
    import joblib

    _, x, y = cancer()
    search = GridSearchCV(
        make_pipeline(StandardScaler(), MLPClassifier((20,), max_iter=60, random_state=0)),
        {"mlpclassifier__alpha": [1e-4, 10.0], "mlpclassifier__activation": ["relu", ["gelu"]]},
        cv=2,
        n_jobs=2,
    )
    with joblib.parallel_config(backend=backend):
        # the processes warn for themselves, and say so where they do not have our filters
        search.fit(x, y)
    alone = clone(search).set_params(n_jobs=1).fit(x, y)
    assert_array_equal(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])
    assert search.best_score_ > 0.8


def test_metadata_routing():
    _, x, y = cancer()
    weights = np.where(y == "benign", 1.0, 0.0)
    with config_context(enable_metadata_routing=True):
        ours = MLPClassifier((5,), max_iter=3, random_state=0).set_fit_request(sample_weight=True)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        pipeline = make_pipeline(scaler, ours).fit(x, y, sample_weight=weights)
        direct = MLPClassifier((5,), max_iter=3, random_state=0).fit(StandardScaler().fit_transform(x), y, weights)
        assert_array_equal(pipeline[-1].coefs_[0], direct.coefs_[0])
        scores = cross_val_score(ours.set_score_request(sample_weight=False), x, y, params={"sample_weight": weights})
        assert len(scores) == 5


def test_frames_and_their_names():
    pandas = pytest.importorskip("pandas")
    _, x, y = cancer()
    frame = pandas.DataFrame(x, columns=[f"c{i}" for i in range(x.shape[1])])
    ours = MLPClassifier((5,), max_iter=3, random_state=0).fit(frame, pandas.Series(y))
    assert_array_equal(ours.feature_names_in_, frame.columns)
    assert_array_equal(ours.predict(frame), MLPClassifier((5,), max_iter=3, random_state=0).fit(x, y).predict(x))
    with pytest.raises(ValueError, match="feature names"):
        ours.predict(frame[frame.columns[::-1]])


def test_same_accuracy_as_scikit_learns():
    """In float32, where rounding makes other models: the same within the spread of seeds."""
    _, x, y = digits()
    x = x.astype(np.float32)
    scores = [
        [k(random_state=seed, max_iter=30).fit(x[:350], y[:350]).score(x[350:], y[350:]) for seed in range(3)]
        for k in (MLPClassifier, THEIRS[MLPClassifier])
    ]
    assert abs(np.mean(scores[0]) - np.mean(scores[1])) < 0.02


def test_without_scikit_learn_the_import_names_the_extra(tmp_path):
    code = WITHOUT.format(module="sklearn", use="import fastfc.sklearn")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "fastfc.sklearn needs sklearn: pip install 'fastfc[sklearn]'" in done.stdout, done.stderr
