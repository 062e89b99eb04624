"""RealMLP estimators: scikit-learn's checks, frames, options, files, ONNX, and that the recipe is what it says."""

import pickle
from dataclasses import fields
from threading import Event

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastfc as fc
from fastfc.models import realmlp
from fastfc.sklearn import RealMLPClassifier, RealMLPRegressor
from fastfc.sklearn.realmlp import side_by_side

# Where nothing of this is, twice a row is a row of weight two: see test_weights_are_repetitions.
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": "rows are held out, units are dropped at random, first values "
    "come from the data, and medians of columns are those of rows, whatever they weigh",
}
SMALL = {"epochs": 8, "hidden": (32, 32), "random_state": 0}


@parametrize_with_checks(
    [RealMLPClassifier(epochs=64), RealMLPRegressor(epochs=128)], expected_failed_checks=lambda _: EXPECTED
)
@pytest.mark.filterwarnings("ignore")  # scikit-learn's checks give odd data, and it warns of them
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("kind", [RealMLPClassifier, RealMLPRegressor])
def test_weights_are_repetitions(kind):
    """Of columns that have the same quartiles with and without them, in a fit that draws nothing from rows."""
    rng = np.random.default_rng(0)
    x = np.where(rng.random((60, 4)) < 0.62, 1.0, -1.0)
    y, weights = (x[:, 0] * x[:, 1] + rng.standard_normal(60) > 0).astype(int), rng.integers(0, 4, 60)
    rows = np.repeat(np.arange(60), weights)
    # eps keeps Adam from steps of full length where a gradient is 0 but for rounding
    options = {
        "validation_fraction": 0,
        "dropout": 0.0,
        "init": "normal",
        "epochs": 20,
        "batch_size": 1000,
        "eps": 1e-3,
    }
    weighted, repeated, plain = (kind(hidden=[16], random_state=0, **options) for _ in range(3))
    weighted.fit(x, y, sample_weight=weights)
    repeated.fit(x[rows], y[rows])
    said = [getattr(m, "predict_proba", m.predict)(x) for m in (weighted, repeated, plain.fit(x, y))]
    assert_allclose(said[0], said[1], atol=1e-5)
    assert np.abs(said[0] - said[2]).max() > 0.05


@pytest.fixture(scope="module")
def shop():
    """Numbers and categories, with missing cells, a class and a number that depend on them."""
    rng = np.random.default_rng(0)
    n = 300
    x = pd.DataFrame(
        {
            "size": rng.normal(size=n),
            "age": rng.integers(0, 50, n).astype(float),
            "always": 1.0,
            "sold": rng.random(n) < 0.5,
            "colour": rng.choice(["red", "green", "blue"], n),
            "street": rng.choice([f"street {i:02}" for i in range(12)], n),
            "side": rng.choice(["left", "right"], n),
        }
    )
    x.loc[::7, "age"] = np.nan
    x.loc[::9, "colour"] = None
    place = x["street"].str[-2:].astype(int).to_numpy()
    number = 3 * x["size"].to_numpy() + x["age"].fillna(20).to_numpy() / 10 + 3 * (x["colour"] == "red") + place / 3
    return x, np.where((x["size"] > 0) ^ (x["side"] == "left"), "cheap", "dear"), number.to_numpy()


def classifier(**options):
    return RealMLPClassifier(**(SMALL | {"epochs": 40, "batch_size": 32} | options))


def regressor(**options):
    return RealMLPRegressor(**(SMALL | {"epochs": 40, "batch_size": 32} | options))


def test_it_learns_from_numbers_and_categories(shop):
    x, label, number = shop
    clf = classifier().fit(x[:240], label[:240])
    assert clf.score(x[240:], label[240:]) > 0.85
    assert_array_equal(clf.classes_, ["cheap", "dear"])
    assert_array_equal(clf.feature_names_in_, x.columns)
    reg = regressor().fit(x[:240], number[:240])
    assert reg.score(x[240:], number[240:]) > 0.85
    # without the street, which is embedded, it can't be as good
    other = regressor().fit(x[:240].drop(columns="street"), number[:240])
    assert other.score(x[240:].drop(columns="street"), number[240:]) < reg.score(x[240:], number[240:]) - 0.02


@pytest.mark.parametrize("make", [pl.from_pandas, pa.Table.from_pandas, lambda x: x.to_numpy(dtype=object)])
def test_other_frames_give_the_same(shop, make):
    x, label, _ = shop
    expected = RealMLPClassifier(**SMALL).fit(x, label).predict_proba(x)
    assert_allclose(RealMLPClassifier(**SMALL).fit(make(x), label).predict_proba(make(x)), expected, atol=1e-6)


@pytest.mark.parametrize("preset", ["td", "td-s"])
def test_presets_are_the_constants_of_the_paper(preset):
    """realmlp.md, of pytabkit 1.7.3."""
    of_classes, of_numbers = (kind(preset)._recipe() for kind in (RealMLPClassifier, RealMLPRegressor))
    for recipe in (of_classes, of_numbers):
        assert (recipe.hidden, recipe.epochs, recipe.batch_size) == ((256, 256, 256), 256, 256)
        assert (recipe.lr_schedule, recipe.beta1, recipe.beta2, recipe.eps) == ("coslog4", 0.9, 0.95, 1e-8)
        assert (recipe.scale_lr, recipe.bias_lr, recipe.label_smoothing) == (6.0, 0.1, 0.1)
    assert (of_classes.activation, of_numbers.activation) == ("selu", "mish")
    if preset == "td":
        assert (of_classes.lr, of_numbers.lr) == (0.04, 0.2)
        for recipe in (of_classes, of_numbers):
            assert (recipe.dropout, recipe.weight_decay, recipe.max_one_hot, recipe.init) == (0.15, 0.02, 8, "data")
            assert (recipe.embedding, recipe.embedding_lr, recipe.parametric_lr) == ("pbld", 0.1, 0.1)
            assert (recipe.embedding_frequencies, recipe.embedding_width, recipe.embedding_sigma) == (16, 3, 0.1)
    else:
        assert (of_classes.lr, of_numbers.lr) == (0.04, 0.07)
        for recipe in (of_classes, of_numbers):
            assert (recipe.dropout, recipe.weight_decay, recipe.max_one_hot, recipe.init) == (0, 0, None, "normal")
            assert (recipe.embedding, recipe.parametric, recipe.clamp) == (None, False, False)


CHANGES = {
    "hidden": (5, 7), "epochs": 3, "batch_size": 50,
    "least_steps": 6, "lr": 0.01, "lr_schedule": "cosine", "beta1": 0.8, "beta2": 0.9,
    "eps": 1e-4, "dropout": 0.5, "dropout_schedule": "constant", "weight_decay": 0.5, "weight_decay_schedule": "cosine",
    "activation": "relu", "parametric": False, "parametric_lr": 1.0, "embedding": "plr", "embedding_lr": 1.0,
    "embedding_frequencies": 3, "embedding_sigma": 2.0, "embedding_width": 5, "max_one_hot": 2, "category_width": 3,
    "scale": False, "scale_lr": 1.0, "bias_lr": 1.0, "init": "normal", "label_smoothing": 0.0,
    "calibrate": True, "clamp": False,
}  # fmt: skip


def test_every_constant_of_the_recipe_is_tried():
    assert {field.name for field in fields(realmlp.Recipe)} == CHANGES.keys()


@pytest.mark.parametrize("name", CHANGES)
def test_every_constant_is_a_parameter_that_changes_the_result(name, shop):
    x, label, number = shop
    kind, y = (RealMLPRegressor, number) if name == "clamp" else (RealMLPClassifier, label)
    batch_size = 256 if name == "least_steps" else 16
    options = {"epochs": 4, "hidden": (8, 8), "batch_size": batch_size, "random_state": 0}
    options["validation_fraction"] = 0.2 if name == "calibrate" else 0.0  # the last epoch counts
    first = kind(**options).fit(x, y)
    other = kind(**(options | {name: CHANGES[name]})).fit(x, y)
    assert getattr(other.recipe_, name) == CHANGES[name]
    # to the edge, where clamping counts
    far = x.assign(size=50.0, age=1e3, colour="red", street="street 11")
    said = [model.predict(far) if kind is RealMLPRegressor else model.predict_proba(far) for model in (first, other)]
    assert np.abs(said[0] - said[1]).max() > 1e-7


def test_all_categories_as_columns_and_no_embedding_of_numbers(shop):
    x, label, _ = shop
    clf = RealMLPClassifier(**SMALL, max_one_hot="all", embedding="none").fit(x, label)
    assert clf.features_.sizes == [] and clf.network_.in_features == clf.features_.width == 4 + 1 + 1 + 3 + 12
    kinds = [type(layer).__name__ for layer in clf.network_.layers]
    assert "NumericEmbedding" not in kinds and "Embedding" not in kinds


def test_numbers_stay_in_the_range_of_training(shop):
    x, _, number = shop
    reg = regressor().fit(x, number, X_val=x, y_val=number)
    far = reg.predict(x.assign(size=1e6, age=1e6))
    assert far.min() >= number.min() and far.max() <= number.max()
    several = regressor(n_ens=2).fit(x, number, X_val=x, y_val=number)
    far = several.predict(x.assign(size=1e6, age=1e6))
    assert far.min() >= number.min() and far.max() <= number.max()


# ---------- which rows count


def test_the_last_of_the_best_epochs_is_kept(shop):
    x, label, _ = shop
    clf = classifier().fit(x[:200], label[:200], X_val=x[200:], y_val=label[200:])
    errors = clf.histories_[0]["val_error"]
    assert len(errors) == 40
    assert clf.best_epochs_ == [40 - int(np.argmin(errors[::-1]))]
    assert np.mean(clf.predict(x[200:]) != label[200:]) == pytest.approx(errors.min(), abs=1e-9)


def test_the_log_loss_can_choose(shop):
    x, label, _ = shop
    clf = classifier(val_metric="log_loss").fit(x[:200], label[:200], X_val=x[200:], y_val=label[200:])
    losses = clf.histories_[0]["val_log_loss"]
    assert clf.best_epochs_ == [1 + int(np.argmin(losses))]
    assert log_loss(label[200:], clf.predict_proba(x[200:])) == pytest.approx(losses.min(), rel=1e-5)


def test_early_stopping_ends(shop):
    x, label, _ = shop
    clf = classifier(epochs=200, early_stopping=True, patience=5).fit(x, label)
    errors = clf.histories_[0]["val_error"]
    assert len(errors) == clf.n_iter_ < 200 and clf.n_iter_ == 1 + int(np.argmin(errors)) + 5


def test_rows_without_weight_do_not_count(shop):
    x, label, number = shop
    weights = np.arange(300) % 3 > 0
    strange = x.assign(size=np.where(weights, x["size"], 1e9), colour=np.where(weights, x["colour"], "?"))
    one = RealMLPClassifier(**SMALL).fit(x, label, sample_weight=weights)
    assert one.score(x[weights], label[weights]) > 0.5
    # nor do their numbers and names
    reg = RealMLPRegressor(**SMALL).fit(x, np.where(weights, number, 1e9), sample_weight=weights)
    assert reg.predict(x).max() < 100
    assert (
        RealMLPClassifier(**SMALL).fit(strange, label, sample_weight=weights).features_.scales == one.features_.scales
    )


@pytest.mark.parametrize("folds", [{}, {"n_cv": 3}, {"X_val": True}])
def test_rows_without_weight_are_as_if_not_there(folds, shop):
    x, label, _ = shop
    keep = np.arange(300) % 3 > 0
    strange = x.assign(size=np.where(keep, x["size"], 1e9), colour=np.where(keep, x["colour"], "?"))
    held = {"X_val": x[:60], "y_val": label[:60]} if "X_val" in folds else {}
    clf = RealMLPClassifier(**(SMALL | {"epochs": 2}), **({} if held else folds))
    expected = clf.fit(x[keep], label[keep], **held).predict_proba(x)
    assert_array_equal(clf.fit(strange, label, sample_weight=keep, **held).predict_proba(x), expected)


def test_weights_and_class_weights(shop):
    x, label, _ = shop
    by_row = classifier().fit(x, label, sample_weight=np.where(label == "dear", 1000.0, 1e-3))
    by_class = classifier(class_weight={"dear": 1000.0, "cheap": 1e-3}).fit(x, label)
    assert np.mean(by_row.predict(x) == "dear") > 0.9
    assert_array_equal(by_row.predict_proba(x), by_class.predict_proba(x))
    assert classifier(class_weight="balanced").fit(x, label).score(x, label) > 0.8


def test_folds_and_members(shop):
    x, label, _ = shop
    clf = RealMLPClassifier(**SMALL, n_cv=3, n_ens=2, n_threads=2).fit(x, label)
    assert len(clf.histories_) == len(clf.best_epochs_) == len(clf.network_.outputs) == 6
    one = clone(clf).set_params(n_threads=1).fit(x, label)
    p = clf.predict_proba(x)
    assert_array_equal(one.predict_proba(x), p)
    assert_allclose(p.sum(axis=1), 1)
    # probabilities are averaged
    inputs = clf.features_.transform(*raw(clf, x))
    from fastfc.sklearn.realmlp import columns_of, joined

    outputs = clf.network_.predict(columns_of(clf.network_, joined(inputs, clf.features_)))
    assert_allclose(np.mean([fc.reference.softmax(o.astype(float)) for o in outputs], axis=0), p, atol=1e-6)
    # each fold holds other rows out, and members start from other weights
    histories = {tuple(history["val_loss"]) for history in clf.histories_}
    assert len(histories) == 6


def raw(estimator, x):
    from fastfc.data.features import raw_columns

    return raw_columns(x, "test"), type(estimator).__name__


def test_a_temperature_lowers_the_log_loss_of_the_validation(shop):
    x, label, _ = shop
    options = {"X_val": x[200:], "y_val": label[200:]}
    plain = classifier(calibrate=False).fit(x[:200], label[:200], **options)
    warm = classifier(calibrate=True).fit(x[:200], label[:200], **options)
    losses = [log_loss(label[200:], clf.predict_proba(x[200:])) for clf in (plain, warm)]
    assert losses[1] < losses[0]
    assert_array_equal(plain.predict(x), warm.predict(x))


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_the_temperature_is_the_best_one(scale):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(500, 3))
    y = np.array([rng.choice(3, p=p) for p in fc.reference.softmax(z)])
    t = realmlp.temperature_of(y, (scale * z).astype(np.float32))
    loss = lambda t: log_loss(y, fc.reference.softmax(scale * z / t))
    assert loss(t) <= min(loss(t * 1.1), loss(t / 1.1))
    assert t == pytest.approx(scale, rel=0.2)


def test_few_rows_do_not_make_probabilities_certain():
    t = realmlp.temperature_of(np.array([0, 1]), np.array([[3.0, 0.0], [0.0, 3.0]], np.float32))
    assert 0.3 < t < 10
    assert realmlp.temperature_of(np.array([0, 0]), np.zeros((2, 1), np.float32)) > 0  # one class


# ---------- several outputs


def test_several_outputs_and_quantiles(shop):
    x, _, number = shop
    y = np.column_stack([number, 100 * x["size"]])
    reg = regressor().fit(x, y)
    assert reg.predict(x).shape == (300, 2) and reg.score(x, y) > 0.8
    assert regressor().fit(x, y[:, :1]).predict(x).shape == (300, 1)
    quantiles = regressor(quantiles=[0.9, 0.1, 0.5]).fit(x, number).predict(x)
    assert quantiles.shape == (300, 3)
    assert (quantiles[:, 1] <= quantiles[:, 2]).all() and (quantiles[:, 2] <= quantiles[:, 0]).all()
    assert 0.7 < np.mean(number < quantiles[:, 0]) < 1 and 0 < np.mean(number < quantiles[:, 1]) < 0.3


# ---------- copies and files

MODELS = {
    "two classes": lambda x, label, number: classifier(epochs=8).fit(x, label),
    "numbers as classes, calibrated": lambda x, label, number: classifier(epochs=8, calibrate=True).fit(
        x, number.astype(int) % 3
    ),
    "folds": lambda x, label, number: RealMLPClassifier(**SMALL, n_cv=2, preset="td-s").fit(x, label),
    "a number": lambda x, label, number: regressor(epochs=8).fit(x, number),
    "members, no clamp": lambda x, label, number: RealMLPRegressor(**SMALL, n_ens=2, clamp=False).fit(x, number),
    "two numbers": lambda x, label, number: regressor(epochs=8).fit(x, np.column_stack([number, -number])),
    "quantiles": lambda x, label, number: regressor(epochs=8, quantiles=[0.2, 0.8]).fit(x, number),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request, shop):
    return MODELS[request.param](*shop)


def test_pickles_and_files_predict_the_same(model, shop, tmp_path):
    x, *_ = shop
    model.save(tmp_path / "m.safetensors")
    again = type(model).load(tmp_path / "m.safetensors")
    for other in (again, pickle.loads(pickle.dumps(model))):
        assert_array_equal(other.predict(x), model.predict(x))
        assert other.get_params().keys() == model.get_params().keys()
        assert_array_equal(other.feature_names_in_, model.feature_names_in_)
        assert other.best_epochs_ == model.best_epochs_ and other.recipe_ == model.recipe_
    with pytest.raises(ValueError, match="feature names"):
        again.predict(x[x.columns[::-1]])
    wrong = RealMLPRegressor if isinstance(model, RealMLPClassifier) else RealMLPClassifier
    with pytest.raises(ValueError, match=f"use {type(model).__name__}.load"):
        wrong.load(tmp_path / "m.safetensors")


def test_a_pickle_is_small(shop):
    x, label, _ = shop
    clf = RealMLPClassifier(epochs=1, random_state=0).fit(x, label)
    assert len(pickle.dumps(clf)) < 5 * clf.network_.params.size


def test_onnx_takes_the_columns(model, shop, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    x = shop[0].copy()
    x.loc[3, ["street", "side"]] = ["street 99", None]  # not known, missing
    x.loc[5, "size"] = np.nan  # missing only here
    model.to_onnx(tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    feed = {"numbers": x[["size", "age", "always", "sold"]].to_numpy(np.float32)}
    for name in ("colour", "street", "side"):
        feed[name] = x[name].astype(object).fillna("").to_numpy(object)[:, None]
    found = session.run(None, feed)
    if isinstance(model, RealMLPClassifier):
        assert_array_equal(found[0], model.predict(x))
        assert_allclose(found[1], model.predict_proba(x), atol=2e-5)
    else:
        expected = model.predict(x).reshape(len(x), -1)
        assert_allclose(found[0], expected, rtol=1e-4, atol=1e-4)


def test_onnx_of_an_array_alone(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    x, y = fc.load_wine()
    clf = RealMLPClassifier(**SMALL).fit(x, y)
    clf.to_onnx(tmp_path / "m.onnx")
    found = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"numbers": x.astype(np.float32)})
    assert_array_equal(found[0], clf.predict(x))
    assert_allclose(found[1], clf.predict_proba(x), atol=1e-4)


def test_in_a_grid_search(shop):
    x, label, _ = shop
    search = GridSearchCV(RealMLPClassifier(**SMALL), {"lr": [1e-5, 0.04]}, cv=2).fit(x, label)
    assert search.best_params_ == {"lr": 0.04}


def test_only_categories_of_many_names():
    x = np.array([[f"{i % 20}" for i in range(60)]]).T
    y = np.arange(60) % 2
    assert classifier(epochs=20).fit(x, y).score(x, y) > 0.9


@pytest.mark.parametrize("unit", [1e-310, 1e-200, 1e200, 1e305])
def test_targets_of_any_size(unit, shop):
    x, _, number = shop
    reg = RealMLPRegressor(**(SMALL | {"epochs": 2}))
    y = (number - number.mean()) / number.std()
    assert_allclose(reg.fit(x, y * unit).predict(x) / unit, reg.fit(x, y).predict(x), rtol=1e-3, atol=1e-5)


def test_labels_of_every_kind(shop):
    x, label, _ = shop
    label = np.asarray(label).astype(str)
    expected = classifier(epochs=1).fit(x, label).predict_proba(x)
    arrow = pa.array(label)
    for y in (list(label), pd.Series(label).astype("category"), pl.Series(label), arrow, arrow.dictionary_encode()):
        clf = classifier(epochs=1).fit(x, y)
        assert clf.classes_.tolist() == sorted(set(label))
        assert_array_equal(clf.predict_proba(x), expected)


def test_files_keep_class_weights_and_the_seed(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 2
    clf = classifier(epochs=1, class_weight={0: 5.0, 1: 1.0}).fit(x, y)
    clf.save(tmp_path / "clf.safetensors")
    again = RealMLPClassifier.load(tmp_path / "clf.safetensors")
    assert (again.class_weight, again.random_state) == (clf.class_weight, clf.random_state)
    assert_array_equal(again.fit(x, y).predict_proba(x), clf.predict_proba(x))


def test_onnx_of_far_numbers(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    x = np.random.default_rng(0).normal(size=(100, 2)) * [1, 1e-30]
    y = np.arange(100) % 2
    clf = classifier(epochs=2).fit(x, y)
    clf.to_onnx(tmp_path / "clf.onnx")
    far = np.array([[1e30, 0.0], [-3e38, 1e30], [0.1, -1e38]], np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "clf.onnx")
    assert_allclose(session.run(None, {"numbers": far})[1], clf.predict_proba(far), rtol=1e-4, atol=1e-5)


def test_an_exception_ends_the_other_networks():
    """Of Ctrl-C all but the exception is the same."""
    began = Event()

    def learn(job, end, beat):
        if job:
            began.wait(10)
            raise KeyboardInterrupt
        began.set()
        assert end.wait(10)

    with pytest.raises(KeyboardInterrupt):
        side_by_side(learn, [0, 1], 2, lambda: None)


# ---------- errors


@pytest.mark.parametrize(
    "options, words",
    [
        ({"preset": "dt"}, "preset"),
        ({"val_metric": "rmse"}, "val_metric must be 'error' or 'log_loss'"),
        ({"activation": "selo"}, "selu"),
        ({"n_cv": 500}, "n_cv=500 folds need as many samples"),
        ({"calibrate": True, "validation_fraction": 0.0}, "calibrate needs rows to validate"),
        ({"lr_schedule": "cosines"}, "lr_schedule"),
        ({"hidden": [0]}, "hidden"),
        ({"class_weight": {"Dear": 3}}, "not in class_weight"),
    ],
)
def test_options_that_are_refused(options, words, shop):
    x, label, _ = shop
    with pytest.raises(ValueError, match=words):
        RealMLPClassifier(**(SMALL | {"epochs": 1} | options)).fit(x, label)


def test_data_that_are_refused(shop, tmp_path):
    x, label, number = shop
    clf = RealMLPClassifier(**SMALL)
    with pytest.raises(ValueError, match="give both X_val and y_val"):
        clf.fit(x, label, X_val=x)
    with pytest.raises(ValueError, match="y_val has the class 'free'"):
        clf.fit(x, label, X_val=x, y_val=np.full(300, "free"))
    with pytest.raises(ValueError, match="at least one non-zero"):
        clf.fit(x, label, sample_weight=np.zeros(300))
    with pytest.raises(ValueError, match="y has no label in row 0; leave such rows out"):
        clf.fit(x[:2], [None, "dear"])
    with pytest.raises(ValueError, match="all cells of X are missing"):
        clf.fit(pd.DataFrame({"m": pd.Series([None, None], dtype="string")}), ["dear", "cheap"])
    with pytest.raises(ValueError, match="quantiles is empty"):
        RealMLPRegressor(**SMALL, quantiles=[]).fit(x, number)
    with pytest.raises(ValueError, match="do not fit float32"):
        RealMLPRegressor(**(SMALL | {"epochs": 1})).fit(x, number * 1e60).to_onnx(tmp_path / "far.onnx")
    with pytest.raises(ValueError, match="labels of int64"):
        classifier(epochs=1).fit(x, (np.arange(300) % 2).astype(np.uint64) + np.uint64(2**63)).to_onnx(
            tmp_path / "far.onnx"
        )
    with pytest.raises(ValueError, match="column 'size' of X holds infinity"):
        clf.fit(x.assign(size=np.inf), label)
    with pytest.raises(ValueError, match="quantiles are of one target"):
        RealMLPRegressor(**SMALL, quantiles=[0.5]).fit(x, np.column_stack([number, number]))
    with pytest.raises(ValueError, match="y_val has 2 columns, y has 1"):
        RealMLPRegressor(**SMALL).fit(x, number, X_val=x, y_val=np.column_stack([number, number]))
    fc.MLP([2, 1]).save(tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="was not written by save"):
        RealMLPClassifier.load(tmp_path / "plain.safetensors")
