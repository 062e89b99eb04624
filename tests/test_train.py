import io
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from processes import run

import fastfc as fc
from fastfc.cli.main import main
from fastfc.tabular import BadTable, Table, train
from fastfc.tabular.columns import Wishes, profiled
from fastfc.tabular.target import Target, find_target

WINES = ["Barolo", "Grignolino", "Barbera"]


def wine(folder, **changes):
    x, y = fc.load_wine()
    table = pd.DataFrame(x, columns=[f"measure {i}" for i in range(x.shape[1])])
    table["colour"] = np.where(x[:, 9] > 5, "deep", np.where(x[:, 9] > 3, "middle", "pale"))
    table["wine"] = np.array(WINES)[y]
    for name, values in changes.items():
        table[name] = values
    path = folder / "wine.csv"
    table.to_csv(path, index=False)
    return path, table


def fails(capsys, *arguments):
    """What a command says that can't do what it is asked for."""
    assert main([str(argument) for argument in arguments]) == 2
    _, err = capsys.readouterr()
    assert err.startswith(f"fastfc {arguments[0]}: ") and err.count("\n") == 1
    return err


def predictions(capsys, *arguments):
    assert main(["predict", *map(str, arguments), "--proba"]) == 0
    out, err = capsys.readouterr()
    return pd.read_csv(io.StringIO(out)), err


# ---------- from a file to a network and to predictions


def test_wine(tmp_path, capsys):
    data, table = wine(tmp_path)
    model, plot = tmp_path / "wine.safetensors", tmp_path / "wine.svg"
    arguments = ["train", data, "--target", "wine", "--out", model, "--plot", plot, "--epochs", 60]
    assert main([*map(str, arguments)]) == 0
    out, _ = capsys.readouterr()
    assert '178 lines, "wine" by 14 columns: 13 of numbers, 1 of categories (3 inputs of 0 and 1)' in out
    assert 'classification into 3 classes: "wine" holds text' in out
    assert "114 lines to learn from, 28 to stop by, 36 held out, of each class alike" in out
    assert 'always "Grignolino"' in out and f"wrote {model}" in out and f"wrote {plot}" in out
    accuracy = float(out.partition("accuracy ")[2].split("%")[0])
    assert accuracy > 90
    assert plot.read_text().startswith("<?xml")

    found, err = predictions(capsys, model, data)
    assert err == "" and list(found) == ["wine", *(f"probability of {name}" for name in sorted(WINES))]
    assert np.mean(found["wine"] == table["wine"]) > 0.95
    assert_allclose(found.iloc[:, 1:].sum(axis=1), 1, atol=1e-5)
    assert_array_equal(
        found.iloc[:, 1:].to_numpy().argmax(axis=1), [sorted(WINES).index(name) for name in found["wine"]]
    )

    # columns in another order, others, no target: the same predictions, in a file
    other = tmp_path / "other.csv"
    table[sorted(table.columns.drop("wine"), reverse=True)].assign(cellar=1).to_csv(other, sep=";", index=False)
    assert main(["predict", str(model), str(other), "--proba", "--out", str(tmp_path / "p.csv")]) == 0
    out, err = capsys.readouterr()
    assert out == "" and 'left out, for the network does not know them: "cellar"' in err
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "p.csv"), found)

    # the file is a network like any other, which takes the columns as they are
    net = fc.load(model)
    x = np.column_stack([table.iloc[:, :13], *(table["colour"] == name for name in ("deep", "middle", "pale"))])
    assert_array_equal(np.array(sorted(WINES))[net.predict(x).argmax(axis=1)], found["wine"])


def test_regression_is_in_the_units_of_the_target(tmp_path, capsys):
    x, y = fc.load_diabetes()
    table = pd.DataFrame(x, columns=list("abcdefghij")).assign(progression=1000 * y + 5e5)
    data, model = tmp_path / "diabetes.csv", tmp_path / "m.safetensors"
    table.to_csv(data, index=False)
    arguments = ["--target", "progression", "--out", str(model), "--plot", str(tmp_path / "d.png")]
    assert main(["train", str(data), *arguments]) == 0
    out = capsys.readouterr().out
    assert 'regression: "progression" holds 214 different numbers' in out and "of each class" not in out
    values = dict(line.rsplit(None, 2)[:2] for line in out.splitlines() if line.startswith(("R²", "root")))
    assert float(values["R²"]) > 0.3 and 4e4 < float(values["root mean squared error"]) < 7e4
    found, _ = predictions(capsys, model, data)
    assert fc.metrics.r2(table["progression"], found["progression"]) > 0.4
    assert_array_equal(found["progression"].astype(np.float32), fc.load(model).predict(x)[:, 0])


def test_breast_cancer_in_another_process(tmp_path):
    x, y = fc.load_breast_cancer()
    pd.DataFrame(x).assign(benign=y.astype(bool)).to_csv(tmp_path / "b.csv")
    code = f"from fastfc.cli.main import main; main(['train', {str(tmp_path / 'b.csv')!r}, '--target', 'benign'])"
    out, err = run(code)
    assert '"column1" has no name and is different in each row: left out' in out
    assert 'classification into 2 classes: "benign" holds true and false' in out
    assert float(out.partition("accuracy ")[2].split("%")[0]) > 93
    assert "Traceback" not in err


def test_the_seed_decides_everything(tmp_path):
    data, _ = wine(tmp_path)
    found = [train.train(data, "wine", epochs=5, seed=seed) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def test_parquet_is_as_csv(tmp_path):
    data, table = wine(tmp_path)
    table.to_parquet(tmp_path / "wine.parquet")
    pd.read_csv(data).to_parquet(tmp_path / "wine.parquet")
    assert train.train(tmp_path / "wine.parquet", "wine", epochs=5) == train.train(data, "wine", epochs=5)


def test_options(tmp_path, capsys):
    data, _ = wine(tmp_path, code=np.arange(178) % 4)
    arguments = [
        "train",
        data,
        "--target",
        "wine",
        "--network",
        "mlp",
        "--exclude",
        "colour",
        "measure 1",
        "--categories",
        "code",
        "--epochs",
        2,
    ]
    arguments += [
        "--hidden",
        "5",
        "--batch-size",
        "16",
        "--lr",
        "0.01",
        "--seed",
        "3",
        "--out",
        tmp_path / "m.safetensors",
    ]
    assert main([*map(str, arguments)]) == 0
    assert "12 of numbers, 1 of categories (4 inputs" in capsys.readouterr().out
    net = fc.load(tmp_path / "m.safetensors")
    assert [p.shape for name, p, _ in net.named_parameters() if name.endswith("weight")] == [(16, 5), (5, 3)]
    assert 1 <= len(net.history) <= 2
    _, err = predictions(capsys, tmp_path / "m.safetensors", data)
    assert err == ""  # excluded columns are known


# ---------- what is told of the target


def target_of(cells, task=None):
    table = Table.of({"t": [str(cell) for cell in cells]}, "d.csv")
    return find_target(table, profiled(table, Wishes(), ["t"])["t"], Wishes(), "", task)


@pytest.mark.parametrize(
    "cells, task, classes, why",
    [
        (["b", "a"] * 9, None, ["a", "b"], "holds text"),
        (["True", "False"] * 9, None, ["False", "True"], "holds true and false"),
        ([0, 1, 2] * 9, None, ["0", "1", "2"], "3 different whole numbers; --task regression"),
        (["1.0", "0.0"] * 9, None, ["0.0", "1.0"], "2 different whole numbers"),
        ([10, 2, 1] * 9, None, ["1", "2", "10"], "3 different"),
        (["k10", "k2", "k1"] * 9, None, ["k1", "k2", "k10"], "holds text"),
        ([0.5, 1] * 9, None, None, "numbers that are not whole; --task classification"),
        (range(60), None, None, "60 different numbers; --task classification"),
        (range(18), None, None, "18 different numbers"),
        ([0, 1, 2] * 9, "regression", None, "as you say"),
        ([0.5, 1] * 9, "classification", ["0.5", "1"], "as you say"),
    ],
)
def test_classes_or_numbers(cells, task, classes, why):
    found = target_of(cells, task)
    assert found.classes == classes and why in found.why


@pytest.mark.parametrize(
    "cells, task, message",
    [
        (["a"] * 9, None, 'all cells are "a"; there is nothing to learn'),
        ([1.5] * 9, None, 'all cells are "1.5"; there is nothing to learn'),
        ([1] * 9, "regression", "nothing to learn"),
        ([*"abcdefgh"], None, "8 different values in 8 rows are not classes"),
        (range(60), "classification", "60 different values .* --task regression"),
    ],
)
def test_targets_that_make_no_sense(cells, task, message):
    with pytest.raises(BadTable, match=message):
        target_of(cells, task)


def test_targets_that_are_no_numbers_and_rows_without_one(tmp_path, capsys):
    data = tmp_path / "d.csv"
    rows = [f"{i * 0.37 % 1:.3f},{i}.5" for i in range(40)]
    data.write_text("\n".join(["x,t", *rows, "0.5,abc"]) + "\n")
    assert 'd.csv, line 42, column "t": "abc" is not a number; ' in fails(capsys, "train", data, "--target", "t")
    data.write_text("\n".join(["x,t", *rows, "0.5,", "0.25,NA"]) + "\n")
    assert main(["train", str(data), "--target", "t", "--epochs", "1"]) == 0
    assert 'note: 2 lines without "t" left out' in capsys.readouterr().out


@pytest.mark.parametrize("counts", [[100, 50, 5], [5, 5], [100, 1], [3, 2, 1, 1, 90]])
def test_a_fifth_of_each_class_is_held_out(counts):
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    goal = Target("t", [str(i) for i in range(len(counts))], "")
    chosen = train.held_out(goal, y, np.random.default_rng(0))
    assert abs(chosen.sum() - len(y) / 5) <= 1 + counts.count(1)
    assert_array_equal(np.abs(np.bincount(y[chosen], minlength=len(counts)) - np.array(counts) / 5) < 1, True)
    assert set(y[~chosen]) == set(y)


def test_scores_are_against_a_guess():
    y_learn, y = np.array([0, 1, 1, 1]), np.array([1, 0])
    goal = Target("t", ["no", "yes"], "")
    values, trivial, name = train.scored(goal, y_learn, y, np.array([[0, 20.0], [30.0, 0]], np.float32))
    assert name == 'always "yes"'
    assert values["accuracy"] == 1 and trivial["accuracy"] == 0.5 and values["log_loss"] < 1e-6
    assert_allclose(trivial["log_loss"], -(np.log(0.75) + np.log(0.25)) / 2)
    goal, y = Target("t", None, ""), np.array([1.0, 3.0])
    values, trivial, name = train.scored(goal, np.array([2.0, 2.0]), y, np.array([[1.0], [2.0]], np.float32))
    assert (values["mae"], trivial["mae"], trivial["r2"], name) == (0.5, 1, 0, "always the mean")


def test_large_numbers_of_small_spread_are_computed_in_float64():
    x, y = np.arange(50.0)[:, None], np.arange(50) % 2
    for large, dtype in [(2e7 + x, np.float64), (1e40 * x, np.float64), (0 * x + 2e7, np.float32), (x, np.float32)]:
        assert train.precision(large, y) == dtype
        assert train.precision(x, large[:, 0]) == dtype


@pytest.mark.parametrize("of", ["input", "target"])
def test_numbers_that_float32_can_not_tell_apart(of, tmp_path, capsys):
    x = np.random.default_rng(0).standard_normal(300)
    large = x / 100 + 20_000_000
    table = pd.DataFrame({"a": large, "b": x} if of == "input" else {"a": x, "b": large})
    table.to_csv(tmp_path / "d.csv", index=False)
    assert train.train(tmp_path / "d.csv", "b", epochs=50, out=tmp_path / "m.safetensors")["r2"] > 0.98
    capsys.readouterr()
    found, _ = predictions(capsys, tmp_path / "m.safetensors", tmp_path / "d.csv")
    assert fc.metrics.r2(table["b"], found["b"]) > 0.98


# ---------- errors of the commands


def test_errors_of_train(tmp_path, capsys):
    data, table = wine(tmp_path)
    assert "no such file" in fails(capsys, "train", tmp_path / "none.csv", "--target", "wine")
    assert "this is not a file" in fails(capsys, "train", tmp_path, "--target", "wine")
    err = fails(capsys, "train", data, "--target", "whine")
    assert 'there is no column "whine" (--target); there are "measure 0", ' in err
    err = fails(capsys, "train", data, "--target", "wine", "--exclude", "measure 77")
    assert 'no column "measure 77" (--exclude)' in err
    names = [name for name in table.columns if name != "wine"]
    assert "no column to predict it by" in fails(capsys, "train", data, "--target", "wine", "--exclude", *names)
    cells = [*map(str, range(178))]
    cells[15] = "abc"
    data, _ = wine(tmp_path, age=cells)
    err = fails(capsys, "train", data, "--target", "wine")
    assert 'wine.csv, line 17, column "age": "abc" is not a number; leave the column out with --exclude "age"' in err
    small = tmp_path / "small.csv"
    small.write_text("a,b\n1,x\n2,y\n3,x\n4,y\n")
    assert "4 lines are too few; give at least 10" in fails(capsys, "train", small, "--target", "b")
    table = pd.DataFrame({"a": np.arange(100) / 4, "b": np.arange(100) + 0.5})
    table.to_csv(small, index=False)
    assert "Use a smaller --lr" in fails(capsys, "train", small, "--target", "b", "--lr", "1e20")
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    data, table = wine(folder)
    train.train(data, "wine", out=folder / "wine.safetensors", epochs=3)
    return folder / "wine.safetensors", table


def test_errors_of_predict(model, tmp_path, capsys):
    model, table = model
    data = tmp_path / "data.csv"
    table.drop(columns="measure 3").assign(Measure3=1).to_csv(data, index=False)
    err = fails(capsys, "predict", model, data)
    assert 'data.csv: the network needs "measure 3"; there are "Measure3", which it does not know' in err
    table.assign(**{"measure 3": "x"}).to_csv(data, index=False)
    assert 'data.csv, line 2, column "measure 3": "x" is not a number' in fails(capsys, "predict", model, data)
    pd.DataFrame(np.ones((3, 14))).to_csv(data, index=False, header=False)
    assert 'there are "column1", ' in fails(capsys, "predict", model, data)
    fc.MLP([14, 3]).save(tmp_path / "plain.safetensors")
    err = fails(capsys, "predict", tmp_path / "plain.safetensors", data)
    assert "does not say how to read tables; make it with fastfc train" in err
    assert fails(capsys, "predict", data, data)
    assert fails(capsys, "predict", tmp_path / "none.safetensors", data)


def test_categories_that_training_has_not_seen_are_told(model, tmp_path, capsys):
    model, table = model
    data = tmp_path / "data.csv"
    table.loc[[3, 5], "colour"] = "mauve"
    table.to_csv(data, index=False)
    found, err = predictions(capsys, model, data)
    assert 'data.csv, line 5, column "colour": "mauve" (and 1 more) was not seen in training' in err
    assert len(found) == 178
    net = fc.load(model)
    x = np.column_stack([table.iloc[:, :13], *(table["colour"] == name for name in ("deep", "middle", "pale"))])
    assert_array_equal(np.array(sorted(WINES))[net.predict(x).argmax(axis=1)], found["wine"])


def test_extras_are_asked_for_before_the_work(tmp_path, capsys, monkeypatch):
    data, _ = wine(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit):
        main(["train", str(data), "--target", "wine", "--plot", str(tmp_path / "p.png")])
    assert "needs matplotlib: pip install 'fastfc[plot]'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "safetensors", None)
    err = fails(capsys, "train", data, "--target", "wine", "--out", tmp_path / "m.safetensors")
    assert "needs safetensors: pip install 'fastfc[safetensors]'" in err
    (tmp_path / "d.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    err = fails(capsys, "train", tmp_path / "d.parquet", "--target", "wine")
    assert "needs pyarrow: pip install 'fastfc[table]'" in err


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("target", ["wine", "measure 3"])
def test_the_default_network_goes_to_pytorch(target, members, tmp_path):
    torch = pytest.importorskip("torch")
    data, _ = wine(tmp_path)
    model = tmp_path / "wine.safetensors"
    train.train(data, target, epochs=2, out=model, n_ens=members)
    net = fc.load(model)
    x = (np.random.default_rng(0).normal(size=(20, net.in_features)) * 10).astype(net.dtype)
    with torch.no_grad():
        assert_allclose(net.to_torch()(torch.from_numpy(x)).numpy(), net.predict(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 1e9])
@pytest.mark.parametrize("target", ["wine", "measure 3"])
def test_the_network_goes_to_others(target, scale, tmp_path):
    """What is written begins with Standardize, which PyTorch has not; numbers that are large make it float64."""
    torch, onnxruntime = pytest.importorskip("torch"), pytest.importorskip("onnxruntime")
    x, _ = fc.load_wine()
    data, _ = wine(tmp_path, **{"measure 1": scale + x[:, 1].astype(np.float64)})
    model = tmp_path / "wine.safetensors"
    train.train(data, target, epochs=3, out=model, network="mlp")
    net = fc.load(model)
    assert net.dtype == (np.float32 if scale == 1 else np.float64)
    x = np.random.default_rng(0).normal(size=(20, net.in_features)).astype(net.dtype) + net[0].mean
    module = net.to_torch()
    with torch.no_grad():
        assert_allclose(module(torch.from_numpy(x)).numpy(), net.predict(x), rtol=1e-5, atol=1e-5)
    assert_array_equal(fc.from_torch(module).predict(x), net.predict(x))
    net.to_onnx(tmp_path / "wine.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "wine.onnx")
    assert_allclose(session.run(None, {"input": x})[0], net.predict(x), rtol=1e-5, atol=1e-5)
    assert_array_equal(fc.from_onnx(tmp_path / "wine.onnx").predict(x), net.predict(x))


@pytest.mark.parametrize("n_ens", [1, 2])
@pytest.mark.parametrize("scale", [1.0, 1e9])
@pytest.mark.parametrize("target", ["wine", "measure 3"])
def test_realmlp_goes_to_onnx(target, scale, n_ens, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    x, _ = fc.load_wine()
    data, table = wine(tmp_path, **{"measure 1": scale + x[:, 1].astype(np.float64)})
    train.train(data, target, epochs=3, out=tmp_path / "wine.safetensors", n_ens=n_ens)
    out = capsys.readouterr().out
    assert (
        f"RealMLP: {'2 networks, ' if n_ens == 2 else ''}3 epochs of" in out
        and "; this takes less than a second" in out
    )
    net = fc.load(tmp_path / "wine.safetensors")
    assert net.dtype == (np.float32 if scale == 1 else np.float64)
    columns = [name for name in table if name.startswith("measure") and name != target]
    names = ("deep", "middle", "pale")
    wines = [table["wine"] == name for name in sorted(WINES)] if target != "wine" else []
    parts = [table[columns], *(table["colour"] == name for name in names), *wines]
    x = np.column_stack(parts).astype(net.dtype)
    net.to_onnx(tmp_path / "wine.onnx")
    found = onnxruntime.InferenceSession(tmp_path / "wine.onnx").run(None, {"input": x})[0]
    assert_allclose(found, net.predict(x), rtol=1e-4, atol=1e-5)


def test_one_of_a_kind_is_singular(tmp_path, capsys):
    table = pd.DataFrame({"a": np.arange(50.0) ** 1.5, "c": ["x"] * 49 + [None], "y": np.sin(np.arange(50.0))})
    table.to_csv(tmp_path / "t.csv", index=False)
    train.train(tmp_path / "t.csv", "y", epochs=1)
    out = capsys.readouterr().out
    assert "RealMLP: 1 epoch of 1 step; " in out and "\n1 epoch, the best was epoch 1;" in out
    assert not re.search(r"\b1 \w+s\b", out.replace("always", "")), out


def test_the_mean_of_networks(tmp_path, capsys):
    """Of the members' outputs, each with the weights of its best epoch."""
    data, table = wine(tmp_path)
    model = tmp_path / "m.safetensors"
    train.train(data, "wine", epochs=9, out=model, n_ens=3)
    assert "that is the first of 3 networks" in capsys.readouterr().out
    net = fc.load(model)
    members = [layer for layer in net.layers if isinstance(layer, fc.Graph)]
    x = np.column_stack([table.iloc[:, :13], *(table["colour"] == name for name in ("deep", "middle", "pale"))])
    assert len(members) == 3
    assert_allclose(net.predict(x), np.mean([m.predict(x) for m in members], axis=0), rtol=1e-5, atol=1e-6)
    assert np.abs(members[0].predict(x) - members[1].predict(x)).max() > 0.01


def test_quick_ends_early(tmp_path, capsys):
    data, _ = wine(tmp_path)
    train.train(data, "wine", quick=True, epochs=400)
    out = capsys.readouterr().out
    assert "RealMLP: at most 400 epochs" in out
    assert int(out.partition(" epochs, the best was")[0].rpartition("\n")[2]) < 400


def test_predictions_of_numbers_stay_in_the_range_of_training(tmp_path):
    x = np.linspace(-1, 1, 200)
    pd.DataFrame({"a": x, "b": 3 * x + 1}).to_csv(tmp_path / "d.csv", index=False)
    train.train(tmp_path / "d.csv", "b", epochs=20, out=tmp_path / "m.safetensors")
    far = fc.load(tmp_path / "m.safetensors").predict([[-1e6], [1e6]])
    assert far.min() >= -2 and far.max() <= 4


# ---------- options of the commands


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A table with all that is unusual, and a network of it."""
    folder = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(0)
    n = 120
    price, town = rng.integers(100, 9999, n), rng.choice(["0012", "12", "007"], n)
    frame = pd.DataFrame(
        {
            "id": np.arange(n),
            "price": [f"{p:,}" for p in price],
            "town": town,
            "when": pd.date_range("2024-01-01", periods=n).strftime("%d.%m.%Y"),
            "dear": np.where(price > 5000, "TRUE", "FALSE"),
        }
    )
    frame.loc[3, "when"] = ""
    frame.to_csv(folder / "shop.csv", sep=";", index=False)
    out = folder / "shop.safetensors"
    assert main(["train", str(folder / "shop.csv"), "--target", "dear", "--epochs", "40", "--out", str(out)]) == 0
    return folder / "shop.csv", frame, out


def test_what_was_decided_is_printed_stored_and_applied(shop, tmp_path, capsys):
    data, frame, model = shop
    assert main(["train", str(data), "--target", "dear", "--epochs", "1"]) == 0
    out = capsys.readouterr().out
    for line in (
        "  id     left out",
        "  price  number",
        "  town   category: 12, 007, 0012",
        "  when   date; missing cells",
    ):
        assert line in out
    assert '"id" counts the rows: left out; --as number:id keeps it' in out and "holds true and false" in out
    assert '"007" has a zero in front' in out or '"0012" has a zero in front' in out
    assert main(["predict", str(model), str(data), "--keep", "id", "dear"]) == 0
    out, err = capsys.readouterr()
    said = pd.read_csv(io.StringIO(out), dtype=str)
    assert err == "" and list(said) == ["id", "dear", "predicted dear"]
    assert (said["dear"] == said["predicted dear"]).mean() > 0.9 and set(said["predicted dear"]) == {"TRUE", "FALSE"}
    # the same table, clean and from elsewhere
    clean = frame.drop(columns=["id", "dear"]).assign(price=frame["price"].str.replace(",", ""))
    clean.to_csv(tmp_path / "clean.csv", index=False)
    assert main(["predict", str(model), str(tmp_path / "clean.csv")]) == 0
    assert (
        pd.read_csv(io.StringIO(capsys.readouterr().out), dtype=str)["dear"].tolist() == said["predicted dear"].tolist()
    )


@pytest.mark.parametrize(
    "option, seen",
    [
        (["--as", "number:id,town"], ["  id     number", "  town   number"]),
        (["--as", "text:", "--epochs", "1"], None),
        (["--as", "text:town,ignore:when,price"], ["  when   left out", "  price  left out"]),
        (["--exclude", "town"], ["  town   left out"]),
        (["--categories", "town"], ["  town   category"]),
        (["--decimal", ","], ["  price  number"]),
        (["--delimiter", ";"], ["  price  number"]),
        (["--delimiter", "space"], None),
        (["--delimiter", "ab"], None),
        (["--as", "word:town"], None),
        (["--as", "text:twon"], None),
        (["--encoding", "latin-9000"], None),
        (["--network", "mlp", "--n-ens", "2"], None),
        (["--report", "nodir/r.html"], None),
        (["--plot", "nodir/r.png"], None),
    ],
)
def test_options_act_or_are_refused(option, seen, shop, capsys):
    arguments = ["train", str(shop[0]), "--target", "dear", "--epochs", "1", *option]
    if seen is None:
        try:
            assert main(arguments) == 2
        except SystemExit as error:
            assert error.code == 2
        err = capsys.readouterr().err
        assert err.startswith("fastfc train: ") and err.count("\n") == 1
        if "nodir" in option[1]:
            assert "there is no folder 'nodir'" in err
        return
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert all(line in out for line in seen)


def test_files_without_a_header_and_of_other_encodings(tmp_path, capsys):
    data = tmp_path / "d.csv"
    data.write_bytes("\n".join(f"{i % 7},{'süß' if i % 7 > 3 else 'sauer'}" for i in range(60)).encode("latin-1"))
    assert "this is not UTF-8 text; say --encoding latin-1" in fails(capsys, "train", data, "--target", "column2")
    model = tmp_path / "m.safetensors"
    arguments = ["train", data, "--target", "column2", "--encoding", "latin-1", "--no-header", "--out", model]
    assert main([*map(str, arguments), "--epochs", "60"]) == 0
    assert "1 of numbers" in capsys.readouterr().out
    arguments = ["predict", model, data, "--encoding", "latin-1", "--no-header", "--keep", "--out", tmp_path / "p.csv"]
    assert main([*map(str, arguments)]) == 0
    found = pd.read_csv(tmp_path / "p.csv")
    assert list(found) == ["column1", "column2", "predicted column2"]
    assert (found["column2"] == found["predicted column2"]).all()


def test_bad_cells_stop_or_are_left_empty(shop, tmp_path, capsys):
    _, frame, model = shop
    frame = frame.copy()
    frame.loc[4, "price"], frame.loc[9, "when"] = "dear", "yesterday"
    frame.to_csv(tmp_path / "bad.csv", index=False)
    out = tmp_path / "p.csv"
    err = fails(capsys, "predict", model, tmp_path / "bad.csv", "--out", out)
    assert 'bad.csv, line 6, column "price": "dear" is not a number' in err and "--skip-bad" in err
    assert not out.exists()
    assert (
        main(["predict", str(model), str(tmp_path / "bad.csv"), "--out", str(out), "--skip-bad", "--keep", "id"]) == 0
    )
    assert "2 lines without a prediction; the first: " in capsys.readouterr().err
    found = pd.read_csv(out, dtype=str)
    assert (
        np.flatnonzero(found["dear"].isna()).tolist() == [4, 9]
        and found["id"].tolist() == frame["id"].astype(str).tolist()
    )


def test_standard_input(shop):
    data, _, model = shop
    arguments = [sys.executable, "-m", "fastfc"]
    with open(data, "rb") as file:
        command = [*arguments, "train", "-", "--target", "dear", "--epochs", "1"]
        done = subprocess.run(command, stdin=file, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith('standard input: 120 lines, "dear" by 3 columns'), (
        done.stderr
    )
    with open(data, "rb") as file:
        done = subprocess.run([*arguments, "predict", str(model), "-"], stdin=file, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("\n") == 121
    done = subprocess.run(
        [*arguments, "predict", str(model), "-"], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr == "fastfc predict: standard input: the file is empty\n"


def test_ctrl_c_says_what_was_kept(shop, tmp_path, monkeypatch, capsys):
    from fastfc.training.callbacks import EarlyStopping

    on_epoch = EarlyStopping.on_epoch

    def interrupted(self, run):
        on_epoch(self, run)
        if len(run.history["epoch"]) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(EarlyStopping, "on_epoch", interrupted)
    out = tmp_path / "m.safetensors"
    assert main(["train", str(shop[0]), "--target", "dear", "--out", str(out)]) == 130
    said = capsys.readouterr().out
    assert "interrupted after 5 epochs, the best was epoch" in said and f"wrote {out}" in said
    assert main(["predict", str(out), str(shop[0])]) == 0


def test_networks_of_0_1_predict(tmp_path, capsys):
    net = fc.MLP([4, 3], seed=0)
    about = {
        "version": 1,
        "features": [{"name": "a", "categories": None}, {"name": "c", "categories": ["u", "v", "w"]}],
        "target": "y",
        "classes": ["r", "s", "t"],
        "excluded": ["z"],
        "held_out": {},
    }
    net.save(tmp_path / "old.safetensors", metadata={"fastfc train": about})
    (tmp_path / "d.csv").write_text("c,z,a\nv,8,1.5\nw,9,2\n")
    assert main(["predict", str(tmp_path / "old.safetensors"), str(tmp_path / "d.csv")]) == 0
    out, err = capsys.readouterr()
    x = np.array([[1.5, 0, 1, 0], [2, 0, 0, 1]], np.float32)
    assert out.split() == ["y", *(["r", "s", "t"][i] for i in net.predict(x).argmax(axis=1))] and err == ""


@pytest.mark.parametrize("target", ["dear", "price"])
def test_the_report_is_one_page_without_links(target, shop, tmp_path, capsys):
    page = tmp_path / "report.html"
    assert main(["train", str(shop[0]), "--target", target, "--epochs", "3", "--report", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    for heading in ("What the columns were taken for", "Which columns matter", "The hardest rows", "counts the rows"):
        assert heading in text
    assert text.count("<picture>") == 4 and text.count("prefers-color-scheme: dark") == 5
    assert not re.search(r'(src|href|srcset)="(?!data:)', text) and "http://" not in text.replace(
        "http://www.w3.org", ""
    )
    browser = shutil.which("chromium")
    if browser:
        flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
        folder = f"--user-data-dir={tmp_path / 'profile'}"
        done = subprocess.run(
            [browser, *flags.split(), folder, "--dump-dom", page.as_uri()], capture_output=True, timeout=90
        )
        dom = done.stdout.decode()
        assert dom.count("<img") == 4 and dom.count("<tr>") > 15
