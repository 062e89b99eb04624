import datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from processes import run

import fastfc as fc
from fastfc import frames as tables

X = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
Y = (X @ [[1.0], [2.0], [3.0]]).astype(np.float32)
LABELS = (Y[:, 0] > 0).astype(np.int64)
FRAMES = [pd, pl]


def frame(module, array, **more):
    return module.DataFrame({f"c{i}": column for i, column in enumerate(array.T)} | more)


def net_for(n_out=1):
    return fc.MLP([3, 4, n_out], activation="tanh", seed=0)


@pytest.mark.parametrize("module", FRAMES)
def test_every_use_takes_frames(module):
    x, y, labels = frame(module, X), frame(module, Y), module.Series(LABELS)
    weights = module.Series(np.arange(40.0))
    net, twin, options = net_for(), net_for(), {"loss": fc.MSELoss(), "epochs": 3, "seed": 0, "metrics": ["mae"]}
    history = net.fit(x, y, optimizer=fc.SGD(0.1), sample_weight=weights, validation_data=(x, y, weights), **options)
    data = X, Y, np.arange(40.0)
    other = twin.fit(X, Y, optimizer=fc.SGD(0.1), sample_weight=data[2], validation_data=data, **options)
    assert_array_equal(net.params, twin.params)
    assert history.val_loss == other.val_loss
    assert net.train_step(x, y, fc.MSELoss(), fc.SGD()) == twin.train_step(X, Y, fc.MSELoss(), fc.SGD())
    assert_array_equal(net.predict(x), twin.predict(X))
    assert net.evaluate(x, y, fc.MSELoss()) == twin.evaluate(X, Y, fc.MSELoss())
    net, twin, options = net_for(2), net_for(2), {"loss": fc.CrossEntropyLoss(), "class_weight": "balanced", "seed": 0}
    net.fit(x, labels, optimizer=fc.SGD(0.1), **options)
    twin.fit(X, LABELS, optimizer=fc.SGD(0.1), **options)
    assert_array_equal(net.params, twin.params)
    assert fc.metrics.accuracy(labels, net.predict(x)) == fc.metrics.accuracy(LABELS, twin.predict(X))
    assert_array_equal(fc.Standardize.of(x).mean, fc.Standardize.of(X).mean)
    found = net.find_lr(x, labels, fc.CrossEntropyLoss(), fc.SGD(), steps=5, seed=0)
    assert_array_equal(found.losses, twin.find_lr(X, LABELS, fc.CrossEntropyLoss(), fc.SGD(), steps=5, seed=0).losses)


@pytest.mark.parametrize("module", FRAMES)
def test_several_inputs_and_outputs_are_tuples_of_frames(module):
    def graph():
        a, b = fc.Input(1), fc.Input(2)
        h = fc.concatenate([a, b])
        return fc.Graph([a, b], [fc.Linear(3, 1, seed=0)(h), fc.Linear(3, 1, seed=1)(h)])

    net, twin, inputs = graph(), graph(), (X[:, :1], X[:, 1:])
    x, y = tuple(frame(module, part) for part in inputs), (frame(module, Y), frame(module, -Y))
    options = {"loss": fc.MSELoss(), "seed": 0}
    net.fit(x, y, optimizer=fc.SGD(0.1), **options)
    twin.fit(inputs, (Y, -Y), optimizer=fc.SGD(0.1), **options)
    assert_array_equal(net.params, twin.params)


GOOD = [
    (pd.DataFrame({"a": [1, 2], "b": [1.5, 2.5], "c": [True, False]}), [[1, 1.5, 1], [2, 2.5, 0]]),
    (
        pd.DataFrame({"a": pd.array([1, 2], dtype="Int64"), "b": pd.array([True, False], dtype="boolean")}),
        [[1, 1], [2, 0]],
    ),
    (pd.DataFrame({"a": pd.array([1.5, 2], dtype="Float32")}), [[1.5], [2]]),
    (pd.DataFrame({"a": pd.array([1.5, 2], dtype="double[pyarrow]")}), [[1.5], [2]]),
    (pd.DataFrame({"a": pd.arrays.SparseArray([0, 0, 1.0])}), [[0], [0], [1]]),
    (pd.DataFrame([[1, 2.5], [3, 4]], columns=["a", "a"]), [[1, 2.5], [3, 4]]),
    (pd.DataFrame({"a": [1.0, np.nan]}), [[1], [np.nan]]),
    (pd.DataFrame({"a": [1, 2, 3]}, index=[2, 0, 1]), [[1], [2], [3]]),
    (pd.DataFrame(index=[1, 2]), [[], []]),
    (pd.Series([1, 2], name="a"), [1, 2]),
    (pd.Series([True, False]), [1, 0]),
    (pd.Index([3, 4]), [3, 4]),
    (pl.DataFrame({"a": [1, 2], "b": [1.5, 2.5], "c": [True, False]}), [[1, 1.5, 1], [2, 2.5, 0]]),
    (pl.DataFrame({"a": ["1.25"]}).cast(pl.Decimal(10, 2)), [[1.25]]),
    (pl.Series("a", [1, 2], dtype=pl.UInt8), [1, 2]),
    (pl.Series([True, False]), [1, 0]),
    (pl.DataFrame({"a": [1.0, float("nan")]}), [[1], [np.nan]]),
]


@pytest.mark.parametrize("table, expected", GOOD)
def test_numbers(table, expected):
    found = tables.as_array(table, "net", "x")
    assert found.dtype.kind in "biuf"
    assert_array_equal(found.astype(float), np.array(expected, float))


BAD = [
    (pd.DataFrame({"a": [1], "b": ["u"]}), TypeError, "column 'b', has dtype str, .*get_dummies"),
    (pd.DataFrame({"a": pd.Series([1, "u"], dtype=object)}), TypeError, "column 'a', has dtype object, .*to_numeric"),
    (pd.DataFrame({"a": pd.Series(["x"], dtype="category")}), TypeError, "column 'a', has dtype category"),
    (pd.DataFrame({"a": pd.Series([1, 2], dtype="category")}), TypeError, "dtype category"),
    (
        pd.DataFrame({"a": [1], "when": [datetime.datetime(2020, 1, 1)]}),
        TypeError,
        "'when', has dtype datetime.*seconds",
    ),
    (pd.DataFrame({"a": [1 + 2j]}), TypeError, "complex128.*real and imaginary parts"),
    (pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}), ValueError, r"'a', has 1 missing values; .*fillna\(0\)"),
    (pd.DataFrame({"a": pd.array([True, None], dtype="boolean")}), ValueError, "1 missing values"),
    (pd.DataFrame({7: pd.array([None, None], dtype="double[pyarrow]")}), ValueError, "column 7, has 2 missing"),
    (pd.DataFrame([[1, "k"]], columns=["a", "a"]), TypeError, "column 'a', has dtype"),
    (pd.Series(["a"], name="kind"), TypeError, "x, column 'kind', has dtype"),
    (pd.Series(["a"]), TypeError, "net: x has dtype"),
    (pl.DataFrame({"a": [1], "b": ["u"]}), TypeError, r"column 'b', has dtype String, .*to_dummies\(\)"),
    (pl.DataFrame({"a": [1, None]}), ValueError, r"'a', has 1 missing values; .*fill_null\(0\)"),
    (pl.DataFrame({"a": [1.5, None]}), ValueError, "1 missing"),
    (pl.DataFrame({"a": [datetime.date(2020, 1, 1)]}), TypeError, "has dtype Date, .*seconds"),
    (pl.Series("k", ["a"], dtype=pl.Categorical), TypeError, "'k', has dtype Categorical"),
    (pl.Series("k", [[1], [2]]), TypeError, "'k', has dtype List"),
]


@pytest.mark.parametrize("table, error, message", BAD)
def test_what_is_no_number_is_named(table, error, message):
    with pytest.raises(error, match=message):
        tables.as_array(table, "net", "x")


@pytest.mark.parametrize("module", FRAMES)
def test_an_error_changes_nothing_and_names_the_use(module):
    net = net_for()
    before, bad = net.params.copy(), module.DataFrame({"a": [1, 2], "b": [1, 2], "c": ["u", "v"]})
    for call in (
        lambda: net.predict(bad),
        lambda: net.fit(bad, Y[:2], loss=fc.MSELoss(), optimizer=fc.SGD()),
        lambda: net.train_step(bad, Y[:2], fc.MSELoss(), fc.SGD()),
        lambda: net.evaluate(bad, Y[:2], fc.MSELoss()),
    ):
        with pytest.raises(TypeError, match=r"Sequential\(.*: x, column 'c'"):
            call()
    with pytest.raises(TypeError, match=r"y, column 'c'"):
        net.fit(X[:2], bad[["c"]], loss=fc.MSELoss(), optimizer=fc.SGD())
    with pytest.raises(ValueError, match=r"x has shape \(2, 2\)"):
        net.predict(bad[["a", "b"]])
    assert_array_equal(net.params, before)


def test_a_frame_of_one_kind_is_not_copied():
    table = pd.DataFrame(X, copy=False)
    assert np.shares_memory(tables.as_array(table, "net", "x"), X)


def test_rows_of_a_frame_keep_their_order():
    table = pd.DataFrame(X).sample(frac=1, random_state=0)
    assert_allclose(net_for().predict(table), net_for().predict(table.to_numpy()))


def test_frames_are_not_imported():
    code = "import sys, fastfc; print(sorted({'pandas', 'polars', 'zarr', 'torch'} & sys.modules.keys()))"
    output, _ = run(code)
    assert output == "[]\n"


def test_find_lr_takes_nullable_columns():
    """Their frame became an array of objects."""
    table = pd.DataFrame({name: pd.array(range(40), dtype="Int64") for name in "abc"})
    rest = Y, fc.MSELoss(), fc.SGD()
    found, expected = (net_for().find_lr(x, *rest, steps=3, seed=0) for x in (table, table.to_numpy(int)))
    assert_array_equal(found.losses, expected.losses)
