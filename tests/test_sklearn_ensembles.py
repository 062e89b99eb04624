"""n_estimators and n_cv: the members of one fit step together, and have the bits that they have alone."""

import signal

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

pytest.importorskip("sklearn")

from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV

import fastfc as fc
from fastfc.kernels.runtime import threads
from fastfc.kernels.training import members as kernels
from fastfc.ranks import Pulse
from fastfc.sklearn import MLPClassifier, MLPRegressor
from fastfc.training.together import Steps

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 4))
Y = np.sin(X[:, :2])
CLASSES = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)
SMALL = {"hidden_layer_sizes": (8,), "max_iter": 4, "batch_size": 16, "random_state": 0}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def members_of(estimator):
    return [estimator, *estimator._others]


@pytest.fixture(params=[True, False], ids=["in one call", "in turn"])
def together(request, monkeypatch):
    """Whether members step in one native call, as on several threads, or each in its turn, here of one step."""
    n_threads = threads.prepare_threads(2, 1 << 40) if request.param else 1
    monkeypatch.setattr(Steps, "n_threads_for", lambda self, steps: n_threads)
    monkeypatch.setattr("fastfc.training.together.TURN_SECONDS", 0.0)
    return request.param


@pytest.fixture
def calls(monkeypatch):
    """How many members each native call for several had."""
    counts, call = [], kernels.step_members.call

    def counted(table, *rest):
        counts.append(len(table))
        return call(table, *rest)

    monkeypatch.setattr(kernels.step_members, "call", counted)
    return counts


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"solver": "sgd", "learning_rate": "invscaling", "shuffle": False},
        {"solver": "adamw", "dropout": 0.3, "activation": "gelu", "learning_rate": fc.CosineAnnealingLR(20)},
        {"early_stopping": True, "max_iter": 60, "n_iter_no_change": 1, "callbacks": [lambda run: None]},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
@pytest.mark.parametrize("of_classes", [True, False])
def test_members_have_their_own_bits(of_classes, options, calls, together):
    kind, y = (MLPClassifier, CLASSES) if of_classes else (MLPRegressor, Y)
    weights = None if "dropout" not in options else RNG.random(60)
    team = kind(**SMALL | options, n_estimators=3).fit(X, y, weights)
    assert calls.count(3) >= (4 * 4 if together else 0) or options.get("early_stopping")
    assert together or not calls
    seeds = [member.random_state for member in members_of(team)]
    assert len(set(seeds)) == 3
    for member, seed in zip(members_of(team), seeds, strict=True):
        alone = kind(**(SMALL | options | {"random_state": seed}))
        alone.fit(X, y, weights)
        assert_array_equal(member.network_.params, alone.network_.params)
        assert member.loss_curve_ == alone.loss_curve_ and member.n_iter_ == alone.n_iter_


def test_partial_fit_and_warm_start(calls, together):
    team = MLPRegressor(**SMALL, n_estimators=2)
    for _ in range(3):
        team.partial_fit(X, Y)
    assert calls == [2] * 12 * together
    alone = MLPRegressor(**SMALL | {"random_state": team._others[0].random_state})
    for _ in range(3):
        alone.partial_fit(X, Y)
    assert_array_equal(team._others[0].network_.params, alone.network_.params)
    team = MLPRegressor(**SMALL, n_estimators=2, warm_start=True).fit(X, Y)
    others = team._others
    assert team.set_params(n_estimators=3).fit(X, Y)._others[:1] == others


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_folds(kind, sparse, calls, together):
    """Each member is trained on all samples but those of its fold, as alone, and predictions are means of all."""
    y = CLASSES if kind is MLPClassifier else Y
    x = csr_matrix(X) if sparse else X
    team = kind(**SMALL, n_cv=3).fit(x, y)
    assert calls == [3] * 12 * together and len(members_of(team)) == 3
    folds = team._folds(x, y)
    assert_array_equal(np.sort(np.concatenate([left for _, left in folds])), np.arange(60))
    for member, (train, left) in zip(members_of(team), folds, strict=True):
        alone = kind(**SMALL | {"random_state": member.random_state}).fit(x[train], y[train])
        assert_array_equal(member.network_.params, alone.network_.params)
        outputs = alone.predict_proba(x[left]) if kind is MLPClassifier else alone.predict(x[left])
        assert_allclose(team.oof_outputs_[left], outputs, rtol=1e-12)
        assert team.cv_scores_[members_of(team).index(member)] == alone.score(x[left], y[left])
    predict = team.predict_proba if kind is MLPClassifier else team.predict
    mean, std = predict(x, return_std=True)
    assert mean.shape == std.shape and std.max() > 0


def test_folds_with_early_stopping_and_several_members():
    """The fold's own samples decide when its members stop."""
    options = SMALL | {"max_iter": 80, "learning_rate_init": 0.05, "n_iter_no_change": 2}
    team = MLPClassifier(**options, early_stopping=True, n_cv=3, n_estimators=2).fit(X, CLASSES)
    assert len(members_of(team)) == 6 and len(team.cv_scores_) == 3
    for i, member in enumerate(members_of(team)):
        _, left = team._folds(X, CLASSES)[i % 3]
        assert member.best_validation_score_ == max(member.validation_scores_)
        found = member._decode(member._output(member.network_, X[left]))
        assert accuracy_score(CLASSES[left], found) == member.best_validation_score_


def test_one_fit_in_a_search(monkeypatch):
    fits, fit = [], MLPRegressor.fit
    monkeypatch.setattr(MLPRegressor, "fit", lambda self, *args: fits.append(0) or fit(self, *args))
    small = SMALL | {"batch_size": 8}
    search = GridSearchCV(MLPRegressor(**small, n_cv=2, n_estimators=2), {"alpha": [1e-4, 1e-2]}, cv=2)
    search.fit(X, Y)
    assert len(fits) == 5 and len(members_of(search.best_estimator_)) == 4
    assert clone(search.best_estimator_).n_cv == 2


def test_refused():
    with pytest.raises(ValueError, match="partial_fit does not support n_cv"):
        MLPRegressor(**SMALL, n_cv=2).partial_fit(X, Y)
    with pytest.raises(ValueError, match="n_cv=70 folds need as many samples, there are 60"):
        MLPRegressor(**SMALL, n_cv=70).fit(X, Y)
    with pytest.raises(ValueError, match="'n_cv' parameter"):
        MLPRegressor(**SMALL, n_cv=1).fit(X, Y)


def test_what_is_raised_ends_all():
    """A callback of one member raises: the callbacks of all end."""
    ended = []

    class Raises(fc.Callback):
        def on_epoch(self, run):
            if len(run.history) == 2:
                raise RuntimeError("enough")

        def on_end(self, run):
            ended.append(run)

    with pytest.raises(RuntimeError, match="enough"):
        MLPRegressor(**SMALL, n_estimators=3, callbacks=[Raises()]).fit(X, Y)
    assert len(ended) == 3


def test_ctrl_c(monkeypatch, together):
    """As in scikit-learn, what is trained until then stays, of all members."""
    run, count = Steps.run, []

    def interrupted(self, steps):
        count.extend(steps)
        if len(count) == 21:
            raise KeyboardInterrupt
        return run(self, steps)

    monkeypatch.setattr(Steps, "run", interrupted)
    with pytest.warns(UserWarning, match="interrupted"):
        team = MLPRegressor(**SMALL, n_estimators=3).fit(X, Y)
    assert [member.n_iter_ for member in members_of(team)] == [1, 1, 1]
    assert team.predict(X).shape == Y.shape


def test_ctrl_c_ends_all_members():
    """Between two steps it ended only the member whose turn it was, and the others went on."""

    pressed = []

    def press(run):
        if len(run.history) == 2 and not pressed:
            pressed.append(run)
            signal.raise_signal(signal.SIGINT)

    team = MLPRegressor(**SMALL | {"max_iter": 500}, n_estimators=3, callbacks=[press])
    with pytest.warns(UserWarning, match="interrupted by user"):
        team.fit(X, Y)
    assert max(member.n_iter_ for member in members_of(team)) == 2


def test_trainings_meet_other_ranks(monkeypatch):
    """Again and again while they train, so that a rank that fails ends the others."""
    beats = []
    monkeypatch.setattr(Pulse, "beat", lambda pulse: beats.append(pulse))
    MLPRegressor(**SMALL, n_estimators=3).fit(X, Y)
    assert len(beats) >= 4
