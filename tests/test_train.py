import csv
import io
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from processes import run

import fastfc as fc
from fastfc.cli.main import main
from fastfc.tabular import encoding as features
from fastfc.tabular import reader as sheets
from fastfc.tabular import train
from fastfc.tabular.reader import BadTable, read_table

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
    assert main(["predict", *map(str, arguments)]) == 0
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
    assert main(["predict", str(model), str(other), "--out", str(tmp_path / "p.csv")]) == 0
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
    assert "column 1 has no name and counts the lines; left out" in out
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
    cells = [str(cell) for cell in cells]
    table = sheets.Table("d.csv", {"t": cells}, list(range(2, len(cells) + 2)), "line", [])
    return features.find_target(table, "t", task)


@pytest.mark.parametrize(
    "cells, task, classes, why",
    [
        (["b", "a"] * 9, None, ["a", "b"], "holds text"),
        (["True", "False"] * 9, None, ["False", "True"], "holds true and false"),
        ([0, 1, 2] * 9, None, ["0", "1", "2"], "3 different whole numbers; --task regression"),
        (["1.0", "0", "1"] * 9, None, ["0", "1"], "2 different whole numbers"),
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
        ([*"abcdefgh"], None, "8 different values in 8 lines are no classes"),
        (range(60), "classification", "60 different values .* --task regression"),
        (["a", "b"] * 9, "regression", 'd.csv, line 2, column "t": "a" is not a number'),
        ([1.5, 2.5, 3.5, "x"], None, 'line 5, column "t": "x" is not a number; .*--task classification'),
        (["a", "", "b"] * 9, None, 'line 3, column "t": the cell is empty, and 8 more'),
    ],
)
def test_targets_that_make_no_sense(cells, task, message):
    with pytest.raises(BadTable, match=message):
        target_of(cells, task)


@pytest.mark.parametrize("counts", [[100, 50, 5], [5, 5], [100, 1], [3, 2, 1, 1, 90]])
def test_a_fifth_of_each_class_is_held_out(counts):
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    goal = features.Target("t", [str(i) for i in range(len(counts))], "")
    chosen = train.held_out(goal, y, np.random.default_rng(0))
    assert abs(chosen.sum() - len(y) / 5) <= 1 + counts.count(1)
    assert_array_equal(np.abs(np.bincount(y[chosen], minlength=len(counts)) - np.array(counts) / 5) < 1, True)
    assert set(y[~chosen]) == set(y)


def test_scores_are_against_a_guess():
    y_learn, y = np.array([0, 1, 1, 1]), np.array([1, 0])
    goal = features.Target("t", ["no", "yes"], "")
    values, trivial, name = train.scored(goal, y_learn, y, np.array([[0, 20.0], [30.0, 0]], np.float32))
    assert name == 'always "yes"'
    assert values["accuracy"] == 1 and trivial["accuracy"] == 0.5 and values["log_loss"] < 1e-6
    assert_allclose(trivial["log_loss"], -(np.log(0.75) + np.log(0.25)) / 2)
    goal, y = features.Target("t", None, ""), np.array([1.0, 3.0])
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


# ---------- reading


def table_of(tmp_path, text, known=(), target="", encoding="utf-8"):
    path = tmp_path / "data.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return read_table(path, known, target)


READ = {
    "plain": ("a,b\n1,x\n2,y\n", {"a": ["1", "2"], "b": ["x", "y"]}, [2, 3]),
    "semicolons": ("a;b\n1,5;x\n2;y\n", {"a": ["1,5", "2"], "b": ["x", "y"]}, [2, 3]),
    "tabs": ("a\tb\n1\tx, y\n", {"a": ["1"], "b": ["x, y"]}, [2]),
    "bars": ("a|b\n1|x\n", {"a": ["1"], "b": ["x"]}, [2]),
    "quotes": ('a,b\n1,"x, ""y"""\n"2",z\n', {"a": ["1", "2"], "b": ['x, "y"', "z"]}, [2, 3]),
    "cells of several lines": ('a,b\n1,"x\n\ny"\n2,z\n', {"a": ["1", "2"], "b": ["x\n\ny", "z"]}, [2, 5]),
    "blank lines": ("\na,b\n\n1,x\n , \n2,y\n\n", {"a": ["1", "2"], "b": ["x", "y"]}, [4, 6]),
    "windows": ("\ufeffa,b\r\n1,x\r\n", {"a": ["1"], "b": ["x"]}, [2]),
    "spaces": ("a, b\n1, x\n", {"a": ["1"], "b": ["x"]}, [2]),
    "no end of line": ("a,b\n1,x", {"a": ["1"], "b": ["x"]}, [2]),
    "one column": ("a\n1\n2\n", {"a": ["1", "2"]}, [2, 3]),
    "no header": ("1,2.5\n3,-4e5\n", {"column1": ["1", "3"], "column2": ["2.5", "-400000"]}, [1, 2]),
    "no header, missing": ("1,NA\n3,4\n", {"column1": ["1", "3"], "column2": ["NA", "4"]}, [1, 2]),
    "a name is missing": ("a,,c\n1,7,3\n", {"a": ["1"], "column2": ["7"], "c": ["3"]}, [2]),
    "an index": (",a\n0,5\n1,6\n", {"a": ["5", "6"]}, [2, 3]),
    "a line separator": ("a,b\n1,x\u2028y\n2,z\n", {"a": ["1", "2"], "b": ["x\u2028y", "z"]}, [2, 3]),
}


@pytest.mark.parametrize("kind", READ)
def test_csv(kind, tmp_path):
    text, columns, places = READ[kind]
    table = table_of(tmp_path, text)
    assert {name: list(cells) for name, cells in table.columns.items()} == columns and table.places == places


def test_csv_in_utf_16_and_numbers_as_names(tmp_path):
    assert table_of(tmp_path, "ä,b\n1,ß\n", encoding="utf-16").texts("b", "") == ["ß"]
    text = "0,1,2\n5,6,7\n"
    assert list(table_of(tmp_path, text).columns) == ["column1", "column2", "column3"]
    assert table_of(tmp_path, text, target="2").texts("2", "") == ["7"]
    assert table_of(tmp_path, text, known=["0", "2"]).texts("2", "") == ["7"]


BAD = {
    "": "data.csv: the file is empty",
    "\n\n": "the file is empty",
    "a,b\n": "there is a header and nothing below it",
    "a,b\n1,2\n1,2,3\n": "data.csv, line 3: there are 3 cells, but the first line has 2",
    "a,b,a\n1,2,3\n": 'two columns are called "a"',
    'a,b\n1,"x\n2,y\n': "line 2: a quote is not closed",
    "a,b\n1,x\n2,\xff\n".encode("latin-1"): "line 3: this is not UTF-8 text; save",
    b"PK\x03\x04\x00\x00": "this is not a text file",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_csv(text, tmp_path):
    with pytest.raises(BadTable, match=BAD[text]):
        table_of(tmp_path, text)


def test_numbers_and_the_first_bad_cell(tmp_path):
    table = table_of(tmp_path, "age;size\n17;1,5\n 18 ;-2,5e1\n1e3;3\n")
    assert_array_equal(table.numbers("age", ""), [17, 18, 1000])
    assert_array_equal(table.numbers("size", ""), [1.5, -25, 3])
    for cell, message in [
        ("abc", '"abc" is not a number'),
        ("1_000", '"1_000" is not a number'),
        ("1,5", '"1,5" is not a number'),
        ("inf", '"inf" is not a finite number'),
        ("", "the cell is empty; fill it in, remove such lines, or leave"),
        ("NA", '"NA" is no value'),
    ]:
        table = table_of(tmp_path, f'size,age\n1,17\n\n2,"{cell}"\n')
        with pytest.raises(BadTable, match=f'data.csv, line 4, column "age": {message}'):
            table.numbers("age", "leave it out")


cells = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).map(str.strip).filter(bool)


@given(
    st.lists(st.tuples(st.floats(allow_nan=False, allow_infinity=False), cells), min_size=1, max_size=20),
    st.sampled_from(",;\t|"),
)
def test_any_table_comes_back(tmp_path_factory, rows, delimiter):
    path = tmp_path_factory.mktemp("csv") / "data.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(["the number", "the text"])
        writer.writerows(rows)
    table = read_table(path)
    assert_array_equal(table.numbers("the number", ""), [number for number, _ in rows])
    texts = table.texts("the text", "")
    for found, (_, text) in zip(texts, rows, strict=True):
        assert found == text or float(found) == float(text)  # numbers have one form


def test_numbers_have_one_form_and_take_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(sheets, "CHUNK", 3)
    text = "a,b,c,d\n" + "1.0,007,12345678901234567890,x\n" * 5 + "1,7,2,3\n" * 5 + "1e0,7,3,y\n"
    table = table_of(tmp_path, text)
    assert table.texts("a", "") == ["1"] * 11 and table.texts("b", "") == ["7"] * 11
    assert [type(cells) is sheets.Numbers for cells in table.columns.values()] == [True, True, False, False]
    assert table.texts("d", "") == ["x"] * 5 + ["3"] * 5 + ["y"]
    assert table.columns["c"][:6] == ["12345678901234567890"] * 5 + ["2"]
    assert_array_equal(table.numbers("a", ""), np.ones(11))


def test_parquet_names_rows(tmp_path):
    path = tmp_path / "d.parquet"
    pd.DataFrame({"a": [1.5, None], "b": ["x", None], "when": pd.to_datetime(["2020", "2021"])}).to_parquet(path)
    table = read_table(path)
    with pytest.raises(BadTable, match=r'd\.parquet, row 2, column "a": .*remove such rows'):
        table.numbers("a", "")
    with pytest.raises(BadTable, match='row 2, column "b": the cell is empty'):
        table.texts("b", "")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(BadTable, match="not a whole Parquet file"):
        read_table(path)
    pd.DataFrame({"a": []}).to_parquet(path)
    with pytest.raises(BadTable, match="there are no rows"):
        read_table(path)


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
    data, _ = wine(tmp_path, name=[f"bottle {i}" for i in range(178)])
    assert '"name": 178 different texts in 178 lines are no categories' in fails(
        capsys, "train", data, "--target", "wine"
    )
    small = tmp_path / "small.csv"
    small.write_text("a,b\n1,x\n2,y\n3,x\n4,y\n")
    assert "4 lines are too few; give at least 10" in fails(capsys, "train", small, "--target", "b")
    table = pd.DataFrame({"a": np.arange(100), "b": np.arange(100) + 0.5})
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
    assert "needs pyarrow: pip install 'fastfc[parquet]'" in err


@pytest.mark.parametrize("scale", [1.0, 1e9])
@pytest.mark.parametrize("target", ["wine", "measure 3"])
def test_the_network_goes_to_others(target, scale, tmp_path):
    """What is written begins with Standardize, which PyTorch has not; numbers that are large make it float64."""
    torch, onnxruntime = pytest.importorskip("torch"), pytest.importorskip("onnxruntime")
    x, _ = fc.load_wine()
    data, _ = wine(tmp_path, **{"measure 1": scale + x[:, 1].astype(np.float64)})
    model = tmp_path / "wine.safetensors"
    train.train(data, target, epochs=3, out=model)
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
