import copy
import itertools
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_array_equal

import fastfc as fc

X = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
Y = (X @ [[1.0], [2.0], [3.0]]).astype(np.float32)
LABELS = (Y[:, 0] > 0).astype(np.int64)


def net_for(n_out=1):
    return fc.MLP([3, 4, n_out], activation="tanh", seed=0)


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
