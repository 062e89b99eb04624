"""Small tables of every form that people have: what is written is read back, nothing is merged, doubts are said."""

import bz2
import contextlib
import csv
import gzip
import importlib.util
import io
import itertools
import lzma
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastfc.tabular import BadTable, Table, TableEncoder, reader
from fastfc.tabular.columns import Wishes, decide, file_decimal, profiled
from fastfc.tabular.target import find_target

NUMBERS = [1.5, -2.25, 3e5, 0.125, 1234.5, -7.0, 0.0, 88.0]
TEXTS = ["red", "green, dark", "blue", 'a "b"', "x y", "red", "Ünï", "red"]
WHOLE = [5, 6, 7, 5, 6, 7, 1000, 12]


def written(rows, delimiter=",", header=("number", "text", "whole"), **options):
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator=options.pop("end", "\n"), **options)
    writer.writerows([header, *rows] if header else rows)
    return file.getvalue()


def read(tmp_path, data, name="data.csv", **options):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return Table.read(path, **options)


def cells(table, name):
    return [cell for batch in table.column(name) for cell in batch.to_pylist()]


def decided(table, name, **wishes):
    wishes = Wishes(**wishes)
    profiles = profiled(table, wishes)
    return decide(profiles[name], wishes, file_decimal(profiles))


def values(table, name, **params):
    """The values of a column of numbers, as an encoder reads them, and what is doubtful."""
    encoder = TableEncoder({name: "number"} if not params else None, **params)
    encoder.fit(table)
    i = list(encoder.get_feature_names_out()).index(name)
    column = next(c for c in encoder.columns_ if c.name == name)
    return encoder.transform(table)[:, i], column.doubt


ROWS = list(zip(NUMBERS, TEXTS, WHOLE, strict=True))

# ---------- forms of files: 4 delimiters × 6 ways of writing


WAYS = {
    "plain": {},
    "windows": {"end": "\r\n"},
    "old mac": {"end": "\r"},
    "all quoted": {"quoting": csv.QUOTE_ALL},
    "texts quoted": {"quoting": csv.QUOTE_NONNUMERIC},
    "no header": {"header": None},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("delimiter", ",;\t|")
def test_what_is_written_is_read_back(way, delimiter, tmp_path):
    table = read(tmp_path, written(ROWS, delimiter, **WAYS[way]))
    names = ["column1", "column2", "column3"] if way == "no header" else ["number", "text", "whole"]
    assert table.names == names and len(table) == len(ROWS) and table.delimiter == delimiter
    assert [float(cell) for cell in cells(table, names[0])] == NUMBERS
    assert cells(table, names[1]) == TEXTS
    assert [int(cell) for cell in cells(table, names[2])] == WHOLE
    first = 1 if way == "no header" else 2
    assert [table.line(i) for i in (0, 3)] == [first, first + 3]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"])
@pytest.mark.parametrize("pack", [None, "gz", "bz2", "xz", "zst"])
def test_encodings_and_compression(encoding, pack, tmp_path):
    import pyarrow

    data = written(ROWS).encode(encoding)
    packs = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
    packs["zst"] = lambda data: pyarrow.compress(data, "zstd", asbytes=True)
    name = "data.csv" + (f".{pack}" if pack else "")
    told = {"encoding": encoding} if encoding in ("latin-1", "cp1252") else {}
    table = read(tmp_path, packs[pack](data) if pack else data, name, **told)
    assert cells(table, "text") == TEXTS and cells(table, "whole") == [str(n) for n in WHOLE]


FILES = {
    "sep line": ("sep=;\na;b\n1;2\n", {"a": ["1"], "b": ["2"]}),
    "comments above": ("# made by x\n# on Monday\na,b\n1,2\n3,4\n", {"a": ["1", "3"], "b": ["2", "4"]}),
    "comments between": ("a,b\n1,2\n# half\n3,4\n", {"a": ["1", "3"], "b": ["2", "4"]}),
    "names in a comment": ("# a, b\n1,2\n3,4\n", {"a": ["1", "3"], "b": ["2", "4"]}),
    "R's write.table": (
        '"x" "y"\n"1" 1.5 "a b"\n"2" 2.5 "c"\n',
        {"column1": ["1", "2"], "x": ["1.5", "2.5"], "y": ["a b", "c"]},
    ),
    "R's write.csv": ('"","x"\n"1",1.5\n"2",2.5\n', {"column1": ["1", "2"], "x": ["1.5", "2.5"]}),
    "runs of spaces": (
        "a   b    c\n 1  2.5  3\n10  20  30\n",
        {"a": ["1", "10"], "b": ["2.5", "20"], "c": ["3", "30"]},
    ),
    "runs of spaces, no header": (
        "1   2.5 3\n4  5.5  6\n",
        {"column1": ["1", "4"], "column2": ["2.5", "5.5"], "column3": ["3", "6"]},
    ),
    "one column": ("a\n1\n2\n", {"a": ["1", "2"]}),
    "one column of words": ("remark\nvery good\nnot bad\n", {"remark": ["very good", "not bad"]}),
    "delimiter at the end": ("a,b,\n1,2,\n3,4,\n", {"a": ["1", "3"], "b": ["2", "4"], "column3": ["", ""]}),
    "delimiter at the end of rows": ("a,b\n1,2,\n3,4,\n", {"a": ["1", "3"], "b": ["2", "4"]}),
    "blank lines": ("\n\na,b\n\n1,2\n , \n\n3,4\n\n", {"a": ["1", "3"], "b": ["2", "4"]}),
    "lines in cells": ('a,b\n"x\ny",1\n"z",2\n', {"a": ["x\ny", "z"], "b": ["1", "2"]}),
    "lines in names": ('"a\n1",b\nx,1\n', {"a\n1": ["x"], "b": ["1"]}),
    "spaces before quotes": ('a, b\n1, "x, y"\n2, z\n', {"a": ["1", "2"], "b": ["x, y", "z"]}),
    "inches": ('a,b\n5" pipe,1\n7" pipe,2\n', {"a": ['5" pipe', '7" pipe'], "b": ["1", "2"]}),
    "an inch": ('a,b\n5" pipe,1\nrod,2\n', {"a": ['5" pipe', "rod"], "b": ["1", "2"]}),
    "iris without names": ("5.1,3.5,Iris\n4.9,3.0,Iris\n6.2,2.9,Rose\n", {"column3": ["Iris", "Iris", "Rose"]}),
    "texts without names": ("a,x\nb,y\na,y\nb,x\n", {"column1": ["a", "b", "a", "b"]}),
    "no header, twice the same": (
        "1,2,2,x\n3,4,5,y\n1,2,2,x\n",
        {"column2": ["2", "4", "2"], "column4": ["x", "y", "x"]},
    ),
    "years as names": ("town,2019,2020\nUlm,5,6\nJena,7,8\n", {"town": ["Ulm", "Jena"], "2020": ["6", "8"]}),
    "bom and quotes": ('\ufeff"a","b"\n1,2\n', {"a": ["1"], "b": ["2"]}),
    "unnamed": ("a,,c\n1,7,3\n", {"a": ["1"], "column2": ["7"], "c": ["3"]}),
    "a line separator": ("a,b\n1,x\u2028y\n2,z\x0b\n", {"a": ["1", "2"], "b": ["x\u2028y", "z"]}),
    "text above": (
        "Report of May\n\nMade by: me, x\n\na,b,c\n1,2,3\n4,5,6\n7,8,9\n0,1,2\n3,4,6\n9,9,8\n",
        {"a": ["1", "4", "7", "0", "3", "9"]},
    ),
    "tabs and spaces": ("a\tb c\n1\tx y\n", {"a": ["1"], "b c": ["x y"]}),
}


@pytest.mark.parametrize("kind", FILES)
def test_forms_of_files(kind, tmp_path):
    text, columns = FILES[kind]
    table = read(tmp_path, text)
    assert {name: [cell.strip() for cell in cells(table, name)] for name in columns} == columns
    assert len(table) == len(next(iter(columns.values())))


WRONG = {
    "": "the file is empty",
    "\n\n": "the file is empty",
    "# only\n": "only lines that begin with #",
    "a,b\n": "there is a header and nothing below it",
    "a,b\n1,2\n1,2,3\n": "line 3: 3 cells for 2 columns",
    "a,b\n1,2\n1\n": "line 3: 1 cell for 2 columns",
    "a,b,a\n1,2,3\n": 'two columns are called "a"',
    'a,b\n1,"x\n2,y\n': "line 2: a quote is not closed",
    b"a,b\n1,x\n2,\xff\n": "line 3: this is not UTF-8 text; say --encoding latin-1",
    b"a,b\n" + b"1,x\n" * 50_000 + b"2,\xff\n": "line 50002: this is not UTF-8 text",
    b"PK\x03\x04\x00\x00": "this is a workbook or a zip archive, not a text file",
    b"a\0\0b": "has zero bytes",
}


@pytest.mark.parametrize("data", WRONG, ids=lambda data: str(data[:20]))
def test_files_that_can_not_be_read(data, tmp_path):
    with pytest.raises(BadTable, match=WRONG[data]):
        len(read(tmp_path, data))


def test_a_bad_row_far_below_is_named_and_rows_above_it_are_not_read_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "BLOCK_BYTES", 1 << 12)  # Arrow reads blocks ahead, all of them where they are few
    rows = [f"{i},x" for i in range(60_000)]
    table = read(tmp_path, "\n".join(["a,b", *rows, '1, "x"']) + "\n")
    assert len(table) == 60_001
    assert [cell.strip() for cell in cells(table, "a")] == [*map(str, range(60_000)), "1"]
    with pytest.raises(BadTable, match="line 60002: 1 cell for"):
        read(tmp_path, "\n".join(["a,b", *rows, "1"]) + "\n")


# ---------- how numbers are written: style × delimiter × sign


def grouped(value, thousands, decimal, digits):
    whole, _, rest = f"{value:,.{digits}f}".partition(".")
    return whole.replace(",", thousands) + (decimal + rest if digits else "")


STYLES = [
    *itertools.product([",", ".", " ", "'", "\u00a0", "\u202f", "’", ""], ["."], [0, 2]),
    *itertools.product([".", " ", "\u00a0", "'", ""], [","], [0, 2, 1]),
]
STYLES = [s for s in STYLES if s[0] != s[1]]
VALUES = [3255.25, 431.0, 12.5, 1203456.75, -88000.0, 7.0, 999.25, 431.0]


@pytest.mark.parametrize("thousands, decimal, digits", STYLES)
def test_separators_of_numbers(thousands, decimal, digits, tmp_path):
    rows = [[grouped(v, thousands, decimal, digits), i % 2] for i, v in enumerate(VALUES)]
    found = [values(read(tmp_path, written(rows, d, ("price", "y"))), "price")[0] for d in ",;\t|"]
    for one in found:
        np.testing.assert_allclose(one, [round(v, digits) for v in VALUES])


DOUBTS = {
    "thousands, comma": (
        ["3,255", "431", "1,000", "12"],
        [3255, 431, 1000, 12],
        '"3,255" is taken for 3255; --decimal ,',
    ),
    "thousands, point": (
        ["3.255", "431", "1.000", "12"],
        [3255, 431, 1000, 12],
        '"3.255" is taken for 3255; --decimal .',
    ),
    "three decimals": (["3.255", "0.431", "1.000", "12.100"], [3.255, 0.431, 1, 12.1], ""),
    "three decimals alone": (["3.255", "1.431", "1.000"], [3.255, 1.431, 1], ""),
    "comma, three decimals": (["3,255", "0,431", "1,5"], [3.255, 0.431, 1.5], ""),
    "percent": (["12%", "5.5 %", "100%"], [0.12, 0.055, 1], "percent"),
    "currency": (["$1,200.50", "$3", "-$7.25", "$ 8"], [1200.5, 3, -7.25, 8], "currency is left out"),
    "euros": (["1.200,50 €", "3 €", "7,25€"], [1200.5, 3, 7.25], "currency"),
    "codes": (["EUR 5", "USD 7", "5.5 CHF"], [5, 7, 5.5], "currency"),
    "censored": (["<1.0", "2.5", ">= 7"], [1, 2.5, 7], "number behind the sign"),
    "brackets": (["(1,200)", "300", "(5)"], [-1200, 300, -5], "negative"),
    "minus": (["\u22125", "5", "7"], [-5, 5, 7], ""),
    "exponents": (["1e3", "2.5E-2", "+3"], [1000, 0.025, 3], ""),
    "points at the ends": ([".5", "5.", "-.25"], [0.5, 5, -0.25], ""),
}


@pytest.mark.parametrize("delimiter", ";\t")
@pytest.mark.parametrize("kind", DOUBTS)
def test_doubts_are_said(kind, delimiter, tmp_path):
    texts, numbers, said = DOUBTS[kind]
    table = read(tmp_path, written([[t, i % 2] for i, t in enumerate(texts * 3)], delimiter, ("price", "y")))
    found, doubt = values(table, "price")
    np.testing.assert_allclose(found, numbers * 3)
    encoder = TableEncoder().fit(table)
    doubt = next(c.doubt for c in encoder.columns_ if c.name == "price")
    assert (said in doubt) if said else doubt == ""
    if "--decimal" in said:
        other = said.split("--decimal ")[1][0]
        found, doubt = values(table, "price", decimal=other)
        assert doubt == "" and found[0] == 3.255


def test_the_file_tells_the_decimal_mark_of_a_column_that_does_not(tmp_path):
    rows = [["1,5", "3,255", "1.000"], ["2,25", "1,000", "2.500"], ["3,125", "7,125", "12"]] * 3
    table = read(tmp_path, written(rows, ";", ("sure", "unsure", "thousands")))
    found, doubt = values(table, "unsure")
    np.testing.assert_allclose(found[:3], [3.255, 1, 7.125])
    assert "is taken for 3.255" in doubt
    np.testing.assert_allclose(values(table, "thousands")[0][:3], [1000, 2500, 12])


# ---------- text is the identity of a category


NAMES = {
    "zeros": ["0012", "12", "012", "7"],
    "james": ["007", "7", "07", "70"],
    "decimals": ["1.10", "1.1", "1.100", "2"],
    "exponents": ["1E5", "1e5", "100000", "2"],
    "zips": ["02116", "2116", "02117", "10001"],
    "large": ["9007199254740993", "9007199254740992", "9007199254740994", "1"],
    "signs": ["+1", "1", "-1", "01"],
    "spaces in": ["a b", "a  b", "ab", "b"],
    "case": ["Yes", "yes", "YES", "no"],
    "commas": ["1,000", "1000", "1.000", "2"],
    "texts like missing": ["NA!", "None", "none", "?"],
}


@pytest.mark.parametrize("delimiter", ",;\t|")
@pytest.mark.parametrize("kind", NAMES)
def test_labels_and_categories_keep_their_text(kind, delimiter, tmp_path):
    names = NAMES[kind] * 5
    table = read(tmp_path, written([[name, i] for i, name in enumerate(names)], delimiter, ("name", "y")))
    profiles = profiled(table, Wishes(), ["name"])
    target = find_target(table, profiles["name"], Wishes(), "", "classification")
    assert sorted(target.classes) == sorted(set(names))
    encoder = TableEncoder({"name": "text"}).fit(table)
    assert sorted(encoder.encoded_[0].categories) == sorted(set(names))
    np.testing.assert_array_equal(encoder.transform(table)[:, :4].sum(axis=1), 1)


@pytest.mark.parametrize("spelling", [("True", "False"), ("true", "false"), ("TRUE", "FALSE"), ("True", "false")])
def test_booleans_are_two_classes_however_they_are_written(spelling, tmp_path):
    import pyarrow
    from pyarrow import parquet

    texts = [*spelling, spelling[0].upper(), spelling[1].title()] * 5
    table = read(tmp_path, written([[t, i] for i, t in enumerate(texts)], ",", ("b", "y")))
    parquet.write_table(pyarrow.table({"b": [t.lower() == "true" for t in texts]}), tmp_path / "b.parquet")
    encoder = TableEncoder().fit(table)
    assert len(encoder.encoded_[0].categories) == 2
    b = encoder.transform(table)[:, :2]
    np.testing.assert_array_equal(b[:, 1], [t.lower() == "true" for t in texts])
    only = TableEncoder().fit(Table.read(tmp_path / "b.parquet"))
    np.testing.assert_array_equal(only.transform(table), b)
    target = find_target(table, profiled(table, Wishes(), ["b"])["b"], Wishes(), "", None)
    assert [c.lower() for c in target.classes] == ["false", "true"] and "true and false" in target.why


LEFT_OUT = {
    "an index": ("", range(30), "has no name"),
    "an index of pandas": ("Unnamed: 0", range(30), "has no name"),
    "a shuffled index": ("", np.random.default_rng(0).permutation(30), "has no name"),
    "an index with gaps": ("", np.arange(30) * 7 + 3, "has no name"),
    "row names": ("", [f"car {i}" for i in range(30)], "has no name"),
    "ids from one": ("patient", range(1, 31), "counts the rows"),
    "shuffled ids": ("patient", np.random.default_rng(1).permutation(30), "counts the rows"),
    "ids by name": ("customer_id", np.arange(30) * 13 + 1000, "names the rows"),
    "ids in camel case": ("customerId", np.arange(30) * 13 + 1000, "names the rows"),
    "names": ("name", [f"person {i}" for i in range(30)], "is different in each row"),
    "free text": ("remark", [f"remark {i % 29}" for i in range(30)], "different texts"),
    "constant": ("source", ["web"] * 30, 'is always "web"'),
    "constant number": ("version", [2] * 30, "is always 2"),
    "empty": ("nothing", [""] * 30, "empty"),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_what_says_nothing_is_left_out_and_said(kind, tmp_path):
    name, numbers, why = LEFT_OUT[kind]
    x = np.random.default_rng(2).normal(size=30)
    table = read(tmp_path, written(list(zip(numbers, x, strict=True)), ",", (name, "x")))
    encoder = TableEncoder().fit(table)
    assert encoder.names == ["x"]
    column = encoder.columns_[0]
    assert column.kind == "ignore" and why in column.why
    if name not in ("nothing",):
        assert "--as" in column.doubt
        kept = TableEncoder({table.names[0]: column.doubt.split("--as ")[1].split(":")[0]}).fit(table)
        assert table.names[0] in kept.names
    clean = read(tmp_path, written([[v] for v in x], ",", ("x",)), "clean.csv")
    np.testing.assert_array_equal(encoder.transform(clean)[:, 0], x)


@pytest.mark.parametrize(
    "name, numbers", [("year", range(1990, 2020)), ("age", [20, 30, 40] * 10), ("x", np.arange(30) / 4)]
)
def test_numbers_that_say_something_stay(name, numbers, tmp_path):
    table = read(tmp_path, written([[v, i % 3] for i, v in enumerate(numbers)], ",", (name, "y")))
    assert name in TableEncoder().fit(table).names


# ---------- missing cells


@pytest.mark.parametrize("marker", ["", "NA", "N/A", "nan", "NULL", "None", "?", "-", " ", "."])
def test_missing_numbers_get_the_median_and_a_column_that_says_so(marker, tmp_path):
    texts = ["1", "2", marker, "4", "10", marker]
    table = read(tmp_path, written([[t, i] for i, t in enumerate(texts)], ";", ("a", "y")))
    encoder = TableEncoder({"y": "ignore"}).fit(table)
    assert encoder.get_feature_names_out().tolist() == ["a", "a is missing"]
    np.testing.assert_array_equal(encoder.transform(table), [[1, 0], [2, 0], [3, 1], [4, 0], [10, 0], [3, 1]])


def test_missing_categories_are_one_of_their_own(tmp_path):
    table = read(tmp_path, "c,y\na,1.5\n,2.5\nNA,3\na,4\n")
    encoder = TableEncoder().fit(table)
    assert encoder.encoded_[0].categories == ["NA", "a"]  # a text that somebody wrote
    np.testing.assert_array_equal(encoder.transform(table)[:, :3], [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]])


def test_missing_cells_are_counted_and_those_that_training_had_not_are_told(tmp_path, capsys):
    from fastfc.tabular.train import train

    rows = [["" if i in (3, 7) else i * 0.37 % 1, i % 3 + 0.5, i % 2] for i in range(40)]
    data = read(tmp_path, written(rows, ",", ("a", "b", "y"))).path
    train(data, "y", epochs=1)
    assert 'missing cells in "a" (2): the median' in capsys.readouterr().out
    encoder = TableEncoder({"y": "ignore"}).fit(read(tmp_path, "a,b,y\n1,x,0\n2,y,1\n6,x,0\n"))
    result = encoder.read(read(tmp_path, "a,b\n,X\n4,x\nNA,\n", "new.csv"))
    np.testing.assert_array_equal(result.x, [[2, 0, 0], [4, 1, 0], [2, 0, 0]])
    assert [note.partition(", ")[2] for note in result.notes] == [
        'line 2, column "a": an empty cell (and 1 more) was not seen in training; taken for the median',
        'line 2, column "b": "X" was not seen in training; "x" was; taken for none of the categories',
        'line 4, column "b": an empty cell was not seen in training; taken for none of the categories',
    ]


# ---------- what a column is does not depend on how it is cut into batches


BATCHES = {
    "a zero in front, late": ["12345"] * 6 + ["02116", "2116"],
    "texts, late": ["1", "2", "1"] * 2 + ["a", "b"] * 6,
    "a mark for thousands, late": ["431", "12", "7", "999"] + ["3,255"] * 2,
    "points, then commas": ["1.5"] * 4 + ["2,5"] * 6,
    "large numbers, late": ["1", "2", "3"] + ["9007199254740993", "9007199254740992"] * 4,
    "dates, late": ["5", "6"] + ["2021-03-04"] * 4,
}


@pytest.mark.parametrize("kind", BATCHES)
def test_batches_do_not_decide(kind, tmp_path, monkeypatch):
    """A first batch of plain numbers had its texts forgotten, which a later one showed to be needed."""
    from fastfc.tabular import reader

    data = written([[cell, i % 2] for i, cell in enumerate(BATCHES[kind] * 2)], ";", ("a", "y"))
    whole = TableEncoder({"y": "ignore"}).fit(read(tmp_path, data))
    monkeypatch.setattr(reader, "ROWS", 2)
    cut = read(tmp_path, data, encoding="latin-1")  # which comes in batches of ROWS
    assert len(list(cut.batches())) > 3
    assert TableEncoder({"y": "ignore"}).fit(cut).to_dict() == whole.to_dict()


@pytest.mark.parametrize("source", ["csv", "arrow"])
def test_whole_numbers_that_float64_can_not_tell_apart_are_categories(source, tmp_path):
    ids = [9007199254740993, 9007199254740992, 9007199254740994] * 4
    table = Table.of({"a": ids}) if source == "arrow" else read(tmp_path, written([[i] for i in ids], header=("a",)))
    encoder = TableEncoder().fit(table)
    assert encoder.encoded_[0].categories == [str(i) for i in sorted(set(ids))] and "2^53" in encoder.columns_[0].doubt


def test_wishes_that_no_cell_fulfils(tmp_path):
    table = read(tmp_path, "a,b\n1.5,x\n2,y\n")
    for name in ("a", "b"):
        with pytest.raises(BadTable, match=f'column "{name}": no cell is a date'):
            TableEncoder({name: "date"}).fit(table)
    with pytest.raises(BadTable, match='line 2, column "b": "x" is not a number'):
        TableEncoder({"b": "number"}).fit_transform(table)


# ---------- any table


CELLS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=8).map(str.strip)


@given(
    st.lists(st.tuples(st.floats(-3e38, 3e38), CELLS.filter(bool)), min_size=1, max_size=20),
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_any_table_comes_back_and_no_two_texts_are_one(tmp_path_factory, rows, delimiter, end):
    """Whatever the texts are, each has a category of its own; numbers keep all their digits."""
    data = written(rows, delimiter, ("the number", "the text"), end=end, quoting=csv.QUOTE_NONNUMERIC)
    table = read(tmp_path_factory.mktemp("csv"), data)
    assert [float(cell) for cell in cells(table, "the number")] == [number for number, _ in rows]
    assert [cell.strip() for cell in cells(table, "the text")] == [text for _, text in rows]
    encoder = TableEncoder({"the number": "number", "the text": "text"}).fit(table)
    texts = encoder.encoded_[1]
    folded = str.lower if texts.boolean else str
    assert len(texts.categories) == len({folded(text) for _, text in rows})
    x = encoder.transform(table)
    np.testing.assert_array_equal(x[:, 0], [number for number, _ in rows])
    names = [texts.categories[i] for i in x[:, 1 : 1 + len(texts.categories)].argmax(axis=1)]
    assert [folded(name) for name in names] == [folded(text) for _, text in rows]


# ---------- dates


DATES = {
    "iso": ["2021-03-04", "2021-12-31", "2022-01-01"],
    "iso with time": ["2021-03-04T05:06:07Z", "2021-12-31 23:59", "2022-01-01 00:00:00.5"],
    "german": ["4.3.2021", "31.12.2021", "01.01.2022"],
    "american": ["3/4/2021", "12/31/2021", "1/1/2022"],
    "british": ["4/3/2021", "31/12/2021", "1/1/2022"],
    "slashes": ["2021/3/4", "2021/12/31", "2022/01/01"],
    "names": ["4 Mar 2021", "31-Dec-2021", "1 January 2022"],
    "american names": ["Mar 4, 2021", "December 31, 2021", "Jan 1, 2022"],
    "american names, dashes": ["Mar-4-2021", "Dec-31-2021", "Jan-1-2022"],
    "short years": ["3/4/21", "12/31/21", "1/1/22"],
}


@pytest.mark.parametrize("kind", DATES)
def test_dates(kind, tmp_path):
    table = read(tmp_path, written([[d, i] for i, d in enumerate(DATES[kind] * 4)], ",", ("when", "y")))
    encoder = TableEncoder({"y": "ignore"}).fit(table)
    names = encoder.get_feature_names_out().tolist()
    x = dict(zip(names, encoder.transform(table)[:3].T, strict=True))
    np.testing.assert_array_equal(np.floor(x["when days"]), [0, 302, 303])
    np.testing.assert_array_equal(x["when month"], [3, 12, 1])
    np.testing.assert_array_equal(x["when weekday"], [3, 4, 5])
    assert ("when hour" in names) == (kind == "iso with time")


def test_dates_that_may_be_two_things_are_said(tmp_path):
    table = read(
        tmp_path, written([[d, i] for i, d in enumerate(["1/2/2021", "3/4/2021", "5/6/2021"] * 3)], ",", ("when", "y"))
    )
    column = TableEncoder().fit(table).columns_[0]
    assert column.kind == "date" and "could be" in column.doubt


def test_times_and_typed_dates(tmp_path):
    import datetime

    table = read(tmp_path, written([[t, i] for i, t in enumerate(["7:30", "19:45", "7:30"] * 3)], ",", ("at", "y")))
    encoder = TableEncoder({"y": "ignore"}).fit(table)
    assert encoder.get_feature_names_out().tolist() == ["at hour"]
    np.testing.assert_array_equal(encoder.transform(table)[:3, 0], [7.5, 19.75, 7.5])
    days = [datetime.date(2021, 3, 4), datetime.date(2021, 12, 31), None]
    typed = Table.of({"when": days})
    x = TableEncoder().fit(typed)
    assert x.get_feature_names_out().tolist() == ["when days", "when month", "when weekday", "when is missing"]


# ---------- a new file


def test_each_difference_of_a_new_file_is_named(tmp_path):
    table = read(tmp_path, "a,c\n1.5,x\n2,y\n3,x\n")
    encoder = TableEncoder().fit(table)
    new = read(tmp_path, "c,b,a\nX,1,5\n,1,6\nx,2,7\n", "new.csv")
    result = encoder.read(new)
    assert any('does not know them: "b"' in note for note in result.notes)
    assert any('line 2, column "c": "X" was not seen in training' in note for note in result.notes)
    np.testing.assert_array_equal(result.x, [[5, 0, 0], [6, 0, 0], [7, 1, 0]])
    with pytest.raises(BadTable, match='needs "c"; there are "d", which it does not know'):
        encoder.transform(read(tmp_path, "a,d\n1,x\n2,y\n"))
    with pytest.raises(BadTable, match='line 3, column "a": "abc" is not a number; leave the column out with kinds='):
        encoder.transform(read(tmp_path, "a,c\n1,x\nabc,y\n"))
    with pytest.raises(BadTable, match='"inf" is not a finite number'):
        encoder.transform(read(tmp_path, "a,c\ninf,x\n2,y\n"))


@pytest.mark.parametrize("library", ["pandas", "polars", "arrow", "dict", "csv", "parquet", "feather"])
def test_the_same_table_from_anywhere(library, tmp_path):
    import pandas
    import polars
    import pyarrow

    columns = {"a": [1.5, None, 3.0], "b": ["x", "y", None], "c": [1, 2, 7], "d": [True, False, True]}
    frame = pandas.DataFrame(columns)
    if library == "csv":
        frame.to_csv(tmp_path / "f.csv", index=False)
    elif library == "parquet":
        frame.to_parquet(tmp_path / "f.parquet")
    elif library == "feather":
        frame.to_feather(tmp_path / "f.feather")
    table = {
        "pandas": lambda: frame,
        "polars": lambda: polars.DataFrame(columns),
        "arrow": lambda: pyarrow.table(columns),
        "dict": lambda: columns,
        "csv": lambda: Table.read(tmp_path / "f.csv"),
        "parquet": lambda: Table.read(tmp_path / "f.parquet"),
        "feather": lambda: Table.read(tmp_path / "f.feather"),
    }[library]()
    encoder = TableEncoder({"b": "text"})
    x = encoder.fit_transform(table)
    np.testing.assert_array_equal(
        x, [[1.5, 0, 1, 0, 0, 1, 0, 1], [2.25, 1, 0, 1, 0, 2, 1, 0], [3, 0, 0, 0, 1, 7, 0, 1]]
    )


def test_the_encoder_is_one_of_scikit_learn(tmp_path):
    import json
    import pickle

    from sklearn.base import clone
    from sklearn.pipeline import make_pipeline

    from fastfc.sklearn import MLPClassifier

    table = read(tmp_path, "a;c;when\n" + "1,5;x;2021-01-02\n2;y;2021-03-04\n;x;2022-07-08\n3;;2023-01-01\n" * 5)
    encoder = TableEncoder(kinds={"c": "text"}).fit(table)
    for again in (
        pickle.loads(pickle.dumps(encoder)),
        TableEncoder.from_dict(json.loads(json.dumps(encoder.to_dict()))),
    ):
        np.testing.assert_array_equal(again.transform(table), encoder.transform(table))
        assert again.get_params() == encoder.get_params()
    assert clone(encoder).get_params() == encoder.get_params()
    net = make_pipeline(TableEncoder(), MLPClassifier(max_iter=2))
    with pytest.warns(match="iterations"):
        net.fit(Table.of({"a": [1, 2, 3, 4], "b": ["u", "v", "u", "v"]}), [0, 1, 0, 1])
    assert net.predict(Table.of({"a": [1, 2], "b": ["u", "v"]})).shape == (2,)
    with pytest.raises(ValueError, match="no parameter 'kind'"):
        encoder.set_params(kind=3)
    with pytest.raises(ValueError, match="can't be 'category'; there are number, text, date, ignore"):
        TableEncoder({"c": "category"}).fit(table)
    with pytest.raises(BadTable, match='no column "z"'):
        TableEncoder({"z": "text"}).fit(table)


def test_tables_that_are_not_held_are_read_again(tmp_path, monkeypatch):
    from fastfc.tabular import reader

    monkeypatch.setattr(reader, "HELD_BYTES", 100)
    rows = [[i * 0.5, "ab"[i % 2]] for i in range(5000)]
    table = read(tmp_path, written(rows, ",", ("x", "c")))
    assert len(table) == 5000 and table.held is None
    encoder = TableEncoder().fit(table)
    np.testing.assert_array_equal(encoder.transform(table)[:, 0], np.arange(5000) * 0.5)
    assert math.isclose(encoder.encoded_[0].fill[0], 1249.75)


def packaged_tables():
    """The CSV files of packages that are installed."""
    for name, folder in [
        ("sklearn", "datasets/data"),
        ("statsmodels", "datasets"),
        ("plotnine", "data"),
        ("vega_datasets", "_data"),
    ]:
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None:
            yield from sorted((Path(found.origin).parent / folder).rglob("*.csv*"))


@pytest.mark.parametrize("path", list(packaged_tables()), ids=lambda path: path.name)
def test_tables_of_packages_train_or_one_line_says_why_not(path, capsys):
    from fastfc.tabular.train import train

    try:
        table = Table.read(path)
        for name in reversed(table.names):
            with contextlib.suppress(BadTable):
                train(path, name, epochs=1)
                break
        else:
            train(path, table.names[-1], epochs=1)
    except BadTable as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
