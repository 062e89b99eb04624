import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastfc as fc

X = np.random.default_rng(0).standard_normal((25, 3))
Y = X @ [[1.0], [2.0], [3.0]]


def history(**options):
    net = fc.MLP([3, 4, 1], seed=0)
    return net.fit(X, Y, loss=fc.MSELoss(), optimizer=fc.SGD(0.05), epochs=3, seed=0, **options)


def test_columns():
    plain, full = history(), history(validation_data=(X, Y), metrics=["mae"])
    assert plain.names() == ["epoch", "loss", "lr", "seconds"]
    assert full.names() == ["epoch", "loss", "lr", "val_loss", "val_mae", "seconds"]
    assert_array_equal(full["loss"], full.loss)
    assert_array_equal(full["val_loss"], full.val_loss)
    assert full["epoch"].tolist() == [1, 2, 3] and len(full) == 3
    assert set(full.arrays()) == set(full.names())
    with pytest.raises(KeyError, match="no 'val_loss'; it has epoch, loss"):
        plain["val_loss"]


def test_empty():
    assert fc.History().loss == [] and fc.History().names() == [] and len(fc.History()) == 0
    assert repr(fc.History()) == "History(0 epochs)"


def test_dataframe():
    pandas = pytest.importorskip("pandas")
    seen = history(validation_data=(X, Y))
    frame = seen.to_dataframe()
    assert list(frame.index) == [1, 2, 3]
    assert_array_equal(frame["val_loss"], seen.val_loss)
    assert isinstance(fc.History().to_dataframe(), pandas.DataFrame)


def test_without_pandas_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'fastfc\[pandas\]'"):
        history().to_dataframe()


def test_picture(tmp_path):
    history(validation_data=(X, Y), metrics=["mae"]).save_plot(tmp_path / "training.png")
    assert (tmp_path / "training.png").stat().st_size > 10_000
