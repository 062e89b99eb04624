import copy
import datetime
import itertools
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from processes import run

import fastfc as fc
from fastfc import tables

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


NAMED = {
    "pandas": lambda columns: pd.DataFrame(columns),
    "polars": lambda columns: pl.DataFrame(columns),
    "pyarrow": lambda columns: pytest.importorskip("pyarrow").table(columns),
}
COLUMNS = {name: X[:, i].copy() for i, name in enumerate("abc")}
PERMUTATIONS = [list(names) for names in itertools.permutations("abc")][1:]
WHAT = {"loss": fc.MSELoss(), "seed": 0}


def of(make, names):
    return make({name: COLUMNS.get(name, X[:, 0]) for name in names})


def fitted(make, **more):
    net = net_for()
    net.fit(of(make, "abc"), Y, optimizer=fc.SGD(0.01), **WHAT, **more)
    return net


USES = {
    "predict": lambda net, x: net.predict(x),
    "forward": lambda net, x: net.forward(x),
    "evaluate": lambda net, x: net.evaluate(x, Y, fc.MSELoss()),
    "train_step": lambda net, x: net.train_step(x, Y, fc.MSELoss(), fc.SGD()),
    "fit": lambda net, x: net.fit(x, Y, optimizer=fc.SGD(), **WHAT),
    "find_lr": lambda net, x: net.find_lr(x, Y, fc.MSELoss(), fc.SGD(), steps=3),
    "validation": lambda net, x: net.fit(X, Y, optimizer=fc.SGD(), validation_data=(x, Y), **WHAT),
    "batches": lambda net, x: net.fit([(x, Y)], optimizer=fc.SGD(), **WHAT),
    "later batch": lambda net, x: net.fit([(X, Y), (x, Y)], optimizer=fc.SGD(), **WHAT),
    "evaluate batches": lambda net, x: net.evaluate([(x, Y)], loss=fc.MSELoss()),
    "predict batches": lambda net, x: net.predict(iter([(x, Y)])),
    "predict x of batches": lambda net, x: net.predict(iter([x])),
    "validation batches": lambda net, x: net.fit(X, Y, optimizer=fc.SGD(), validation_data=iter([(x, Y)]), **WHAT),
}


@pytest.mark.parametrize("module", NAMED)
@pytest.mark.parametrize("use", USES)
def test_columns_in_another_order_are_refused(use, module):
    """predict(frame[["b", "a"]]) after fit(frame[["a", "b"]]) gave other numbers without a word."""
    make = NAMED[module]
    net = fitted(make)
    assert net.feature_names == ["a", "b", "c"]
    for names in PERMUTATIONS:
        before = net.params.copy()
        with pytest.raises(ValueError, match=r"x has (the columns|.* in another place)"):
            USES[use](net, of(make, names))
        assert_array_equal(net.params, before)
    USES[use](net, of(make, "abc"))
    USES[use](net, X)
    assert net.feature_names == ["a", "b", "c"]


@pytest.mark.parametrize("module", NAMED)
def test_missing_and_other_columns_are_named(module):
    make = NAMED[module]
    net = fitted(make)
    for names, told in [
        ("abd", "'c' is missing, fit did not see 'd'"),
        ("ab", "'c' is missing"),
        ("abcd", "fit did not see 'd'"),
        ("xyz", "'a', 'b', 'c' are missing, fit did not see 'x', 'y', 'z'"),
    ]:
        for use in ("predict", "evaluate", "validation", "predict batches"):
            with pytest.raises(ValueError, match=told):
                USES[use](net, of(make, names))


@pytest.mark.parametrize("module", NAMED)
def test_the_first_train_step_teaches_the_names(module):
    make, net = NAMED[module], net_for()
    net.train_step(of(make, "bca"), Y, fc.MSELoss(), fc.SGD())
    assert net.feature_names == list("bca")
    with pytest.raises(ValueError, match="x has the columns"):
        net.train_step(of(make, "abc"), Y, fc.MSELoss(), fc.SGD())


@pytest.mark.parametrize("module", NAMED)
def test_a_second_fit_may_rename_but_not_move(module):
    make = NAMED[module]
    net = fitted(make)
    net.fit(of(make, "xyz"), Y, optimizer=fc.SGD(), **WHAT)
    assert net.feature_names == list("xyz")
    net.fit(of(make, "xyw"), Y, optimizer=fc.SGD(), **WHAT)
    with pytest.raises(ValueError, match="x has 'w', 'x' in another place than in the fit before"):
        net.fit(of(make, "wxv"), Y, optimizer=fc.SGD(), **WHAT)
    assert net.feature_names == list("xyw")
    net.feature_names = None
    net.fit(of(make, "wyx"), Y, optimizer=fc.SGD(), **WHAT)
    assert net.feature_names == list("wyx")
    net.fit(X, Y, optimizer=fc.SGD(), **WHAT)
    assert net.feature_names == list("wyx")
    bad = pd.DataFrame({"q": X[:, 0]})
    with pytest.raises(ValueError, match="x has shape"):
        net.fit(bad, Y, optimizer=fc.SGD(), **WHAT)
    assert net.feature_names == list("wyx")


@pytest.mark.parametrize("keep", ["pickle", "copy", "deepcopy", "file"])
@pytest.mark.parametrize("names", ["abc", [3, 1.5, True], [("u", 1), ("u", 2), ("v", 1)], ["a", "a", "b"]])
def test_names_stay_with_the_network(names, keep, tmp_path):
    net = net_for()
    frame = lambda order: pd.DataFrame(X[:, order], columns=pd.Index([names[i] for i in order], tupleize_cols=False))
    net.fit(frame([0, 1, 2]), Y, optimizer=fc.SGD(0.01), **WHAT)
    if keep == "file":
        net.save(tmp_path / "net.safetensors")
        twin = fc.load(tmp_path / "net.safetensors")
    else:
        twin = {"pickle": lambda n: pickle.loads(pickle.dumps(n))}.get(keep, getattr(copy, keep, None))(net)
    assert twin.feature_names == net.feature_names == list(names)
    assert_array_equal(twin.predict(frame([0, 1, 2])), net.predict(X))
    with pytest.raises(ValueError, match="x has the columns"):
        twin.predict(frame([2, 1, 0]))


def test_names_that_no_file_can_hold_are_left_out(tmp_path):
    net = net_for()
    table = pd.DataFrame(X, columns=pd.date_range("2020-01-01", periods=3))
    net.fit(table, Y, optimizer=fc.SGD(0.01), **WHAT)
    with pytest.raises(ValueError, match="x has the columns"):
        net.predict(table.iloc[:, ::-1])
    net.save(tmp_path / "net.safetensors")
    assert fc.load(tmp_path / "net.safetensors").feature_names is None


def test_names_of_pandas_own_are_none_but_may_not_move():
    net = net_for()
    net.fit(pd.DataFrame(X), Y, optimizer=fc.SGD(0.01), **WHAT)
    assert_array_equal(net.predict(of(pd.DataFrame, "xyz")[["x"] * 0 + list("xyz")]).shape, (40, 1))
    with pytest.raises(ValueError, match="x has the columns 2, 1, 0, which were 0, 1, 2 in fit"):
        net.predict(pd.DataFrame(X)[[2, 1, 0]])
    net = fitted(pd.DataFrame)
    assert_array_equal(net.predict(pd.DataFrame(X)), net.predict(X))


def test_find_lr_takes_nullable_columns():
    """Their frame became an array of objects."""
    table = pd.DataFrame({name: pd.array(range(40), dtype="Int64") for name in "abc"})
    rest = Y, fc.MSELoss(), fc.SGD()
    found, expected = (net_for().find_lr(x, *rest, steps=3, seed=0) for x in (table, table.to_numpy(int)))
    assert_array_equal(found.losses, expected.losses)


def test_a_row_of_a_frame():
    net, table = fitted(pd.DataFrame), of(pd.DataFrame, "abc")
    assert_array_equal(net.predict(table.iloc[0]), net.predict(X[0]))
    with pytest.raises(ValueError, match="x has the columns 'c', 'b', 'a'"):
        net.predict(table[list("cba")].iloc[0])
    square = pd.DataFrame(X[:3], columns=list("abc"), index=list("cba"))
    assert_array_equal(net.predict(square), net.predict(X[:3]))


def test_each_input_of_a_graph_has_its_names(tmp_path):
    a, b = fc.Input(1), fc.Input(2)
    net = fc.Graph([a, b], fc.Linear(3, 1, seed=0)(fc.concatenate([a, b])))
    x = X[:, :1], of(pd.DataFrame, "bc")
    net.fit(x, Y, optimizer=fc.SGD(0.01), **WHAT)
    assert net.feature_names == [None, ["b", "c"]]
    net.save(tmp_path / "net.safetensors")
    for one in (net, copy.deepcopy(net), fc.load(tmp_path / "net.safetensors")):
        assert_array_equal(one.predict(x), net.predict((X[:, :1], X[:, 1:])))
        for call in (one.predict, one.forward, lambda bad, one=one: one.predict(iter([(bad, Y)]))):
            with pytest.raises(ValueError, match=r"x\[1\] has the columns 'c', 'b'"):
                call((x[0], of(pd.DataFrame, "cb")))
    net.feature_names = [["q"], ["b", "c"]]
    with pytest.raises(ValueError, match=r"x\[0\] has other columns than in fit: 'q' is missing, fit did not see 'a'"):
        net.predict((of(pd.DataFrame, "a"), x[1]))


def test_a_network_in_a_network_knows_its_columns():
    inner = fitted(pd.DataFrame)
    outer = fc.Sequential([fc.Sequential([inner]), fc.Tanh()])
    assert outer.feature_names == list("abc")
    with pytest.raises(ValueError, match="x has the columns"):
        outer.predict(of(pd.DataFrame, "bac"))


def test_targets_do_not_change_their_order():
    """Validation and evaluation compared the columns of targets with the outputs of others."""
    y = pd.DataFrame({"u": Y[:, 0], "v": -Y[:, 0]})
    net = net_for(2)
    net.fit(X, y, optimizer=fc.SGD(0.01), validation_data=(X, y), **WHAT)
    for call in (
        lambda: net.evaluate(X, y[["v", "u"]], fc.MSELoss()),
        lambda: net.evaluate([(X, y[["v", "u"]])], loss=fc.MSELoss()),
        lambda: net.train_step(X, y[["v", "u"]], fc.MSELoss(), fc.SGD()),
        lambda: net.fit(X, y, optimizer=fc.SGD(), validation_data=(X, y[["v", "u"]]), **WHAT),
        lambda: net.fit(X, y[["v", "u"]], optimizer=fc.SGD(), **WHAT),
    ):
        with pytest.raises(ValueError, match="y has the columns 'v', 'u', which were 'u', 'v' in fit"):
            call()
    assert net.evaluate(X, y.rename(columns={"u": "w"}), fc.MSELoss()) == net.evaluate(X, y, fc.MSELoss())


def test_what_feature_names_takes():
    net = net_for()
    net.feature_names = np.array(["a", "b", "c"])
    assert net.feature_names == ["a", "b", "c"]
    with pytest.raises(ValueError, match="there are 2 names for 3 features"):
        net.feature_names = ["a", "b"]
    with pytest.raises(TypeError, match="feature_names: names must be a sequence"):
        net.feature_names = "abc"
    assert net.feature_names == ["a", "b", "c"]


def test_estimators_hand_their_names_over():
    pytest.importorskip("sklearn")
    from sklearn.neural_network import MLPRegressor as Theirs

    from fastfc.sklearn import MLPRegressor

    for kind in (Theirs, MLPRegressor):
        estimator = kind(hidden_layer_sizes=(2,), random_state=0, solver="lbfgs", max_iter=3, tol=1e10).fit(
            of(pd.DataFrame, "abc"), LABELS
        )
        assert fc.from_sklearn(estimator).feature_names == ["a", "b", "c"]
    assert estimator.network_.feature_names == ["a", "b", "c"]
