"""Columns of frames as inputs: the formulas, what is missing, what is not known, and every kind of frame."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fastfc.data.features import Features, raw_columns

NAMES = [f"n{i}" for i in range(9)]


def frame(n=200, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "number": rng.normal(5, 3, n),
            "gaps": rng.normal(size=n),
            "whole": rng.integers(0, 9, n),
            "flag": rng.random(n) < 0.3,
            "constant": 2.0,
            "two": rng.choice(["u", "v"], n),
            "three": rng.choice(["x", "y", "z"], n),
            "many": rng.choice(NAMES, n),
        }
    )
    table.loc[::7, "gaps"] = np.nan
    table.loc[::9, "three"] = None
    return table


def features(x, more=None, **options):
    raw = raw_columns(x, "test")
    known = Features(raw, None if more is None else raw_columns(more, "test"), **options)
    return known, known.transform(raw, "test")


def reference_scaled(x):
    """The formula, of one column."""
    low, middle, high = np.quantile(x, [0.25, 0.5, 0.75])
    width = high - low if high > low else (x.max() - x.min()) / 2
    z = (x - middle) / width if width else 0 * x
    return z / np.sqrt(1 + (z / 3) ** 2)


def test_numbers_are_scaled_robustly_and_clipped_smoothly():
    x = np.column_stack([np.r_[np.zeros(90), np.arange(10)], np.r_[np.arange(99), 1e9], np.ones(100)])
    known, inputs = features(x)
    assert_allclose(inputs.x, np.column_stack([reference_scaled(c) for c in x.T]), rtol=1e-6, atol=1e-7)
    assert np.abs(inputs.x).max() <= 3 and not inputs.x[:, 2].any()
    # others rows are scaled by what the training rows tell, also those of a constant
    other = known.transform(
        raw_columns(np.array([[1e300, -1e300, 5.0]]), "test").__class__(
            None, [*np.array([[1e300], [-1e300], [5.0]])], 1
        ),
        "test",
    )
    assert_allclose(other.x, [[3, -3, 0]], rtol=1e-6)


def test_categories_of_few_names_are_columns_that_are_scaled_like_numbers():
    table = frame()
    _, inputs = features(table)
    gaps = table["gaps"].fillna(table["gaps"].median())
    three = [np.where(table["three"] == name, 1.0, 0.0) for name in "xyz"]
    columns = [
        *(table[name].astype(float) for name in ("number",)), gaps, table["whole"], table["flag"].astype(float),
        table["constant"], table["gaps"].isna().astype(float), np.where(table["two"] == "u", 1.0, -1.0), *three,
    ]  # fmt: skip
    expected = np.column_stack([reference_scaled(np.asarray(c, float)) for c in columns])
    # the median of a column with gaps is that of the numbers that are there
    present = table["gaps"].dropna().to_numpy()
    low, middle, high = np.quantile(present, [0.25, 0.5, 0.75])
    z = (gaps.to_numpy() - middle) / (high - low)
    expected[:, 1] = z / np.sqrt(1 + (z / 3) ** 2)
    assert_allclose(inputs.x, expected, rtol=1e-5, atol=1e-6)
    assert_array_equal(inputs.codes[:, 0], [1 + NAMES.index(name) for name in table["many"]])


@pytest.mark.parametrize("limit, width, codes", [(8, 10, 1), (9, 19, 0), (None, 19, 0), (2, 7, 2), (0, 6, 3)])
def test_the_limit_of_columns_for_a_category(limit, width, codes):
    known, inputs = features(frame(), max_one_hot=limit)
    assert inputs.x.shape[1] == known.width == width and inputs.codes.shape[1] == codes == len(known.sizes)


def test_one_name():
    """Missing is −1, the name 1."""
    column = np.array([["a"], [None], ["a"], ["a"], [None]], object)
    _, inputs = features(column)
    assert len(np.unique(inputs.x)) == 2 and inputs.x[0, 0] > inputs.x[1, 0]


def test_what_training_has_not_seen_is_missing():
    table = frame()
    known, _ = features(table)
    other = table.assign(three="new", many="new", two=None)
    missing = table.assign(three=None, many=None, two=None)
    one, two = (known.transform(raw_columns(t, "test"), "test") for t in (other, missing))
    assert_array_equal(one.x, two.x)
    assert not one.codes.any() and not two.codes.any()
    # numbers that are missing where none was: the median, which is 0
    holes = known.transform(raw_columns(table.assign(number=np.nan), "test"), "test")
    assert not holes.x[:, 0].any()


@pytest.mark.parametrize(
    "trained, later",
    [
        (pd.Categorical([1, 2, 3]), pd.Categorical([1, 2, None])),  # of which to_numpy makes floats
        (pd.Categorical([1, 2, None]), pd.Categorical([1, 2, 3])),
        (pd.Categorical([1.0, 2.0, 2.5]), pd.Categorical([1, 2, 3])),
        (["1", "2", "x"], [1, 2, 3]),
        (["1", "2", "x"], [1.0, 2.0, np.nan]),
        (np.array([1, 2, "x"], object), np.array([1.0, 2, None], object)),
    ],
)
def test_names_do_not_depend_on_the_dtype(trained, later):
    trained, later = pd.DataFrame({"c": trained}), pd.DataFrame({"c": later})
    known = Features(raw_columns(trained, "test"), max_one_hot=0)
    expected = known.transform(raw_columns(trained, "test"), "test").codes
    assert_array_equal(known.transform(raw_columns(later, "test"), "test").codes[:2], expected[:2])
    assert expected[:2].all()


def test_columns_without_a_value():
    numbers = [
        np.full((3, 1), np.nan),
        np.full((3, 1), None, object),
        np.full((3, 1), pd.NA, object),
        pd.DataFrame({"m": pd.Series([None] * 3, dtype="Int64")}),
        pl.DataFrame({"m": [None] * 3}),
        pa.table({"m": pa.nulls(3)}),
    ]
    for table in numbers:
        raw = raw_columns(table, "test")
        assert Features(raw).numbers == [0] and np.isnan(raw.columns[0]).all()
    for dtype in ("string", "category"):
        raw = raw_columns(pd.DataFrame({"m": pd.Series([None] * 3, dtype=dtype)}), "test")
        assert Features(raw).names == [[]]


@pytest.mark.parametrize("unit", [1e-310, 1e-40, 1e40, 1e300])
def test_numbers_of_any_size(unit):
    x = np.arange(1000.0)[:, None] * unit
    z = Features(raw := raw_columns(x, "test")).transform(raw, "test").x
    assert_allclose(z, Features(raw := raw_columns(x / unit, "test")).transform(raw, "test").x, rtol=1e-3)


def test_names_of_the_validation_are_known():
    table, other = frame(), frame().assign(many="late")
    known, _ = features(table, other)
    assert known.names[2] == sorted([*NAMES, "late"])
    scales = Features(raw_columns(table, "test")).scales
    assert known.scales == scales  # but numbers are those of the training


def test_every_frame_gives_the_same():
    table = frame()
    _, expected = features(table)
    arrow = pa.Table.from_pandas(table)
    two = arrow.schema.get_field_index("two")
    coded = arrow.set_column(two, "two", arrow["two"].dictionary_encode())
    tables = [
        table.astype({"two": "category", "many": "category"}),
        table.astype({"two": object, "whole": "Int64", "flag": "boolean", "gaps": "Float64"}),
        table.astype(object),
        pl.from_pandas(table),
        pl.from_pandas(table).with_columns(pl.col("two").cast(pl.Categorical), pl.col("gaps").cast(pl.Float32)),
        arrow,
        coded,
        table.to_numpy(dtype=object),
        table.set_index(np.arange(len(table))[::-1]),
    ]
    for other in tables:
        _, inputs = features(other)
        assert_allclose(inputs.x, expected.x, rtol=1e-6, atol=1e-6)
        assert_array_equal(inputs.codes, expected.codes)


def test_stored_and_read_again():
    import json

    table = frame()
    known, expected = features(table)
    again = Features.from_dict(json.loads(json.dumps(known.to_dict())))
    inputs = again.transform(raw_columns(table, "test"), "test")
    assert_array_equal(inputs.x, expected.x)
    assert_array_equal(inputs.codes, expected.codes)


@pytest.mark.parametrize(
    "bad, error, words",
    [
        (lambda t: t.assign(number=np.inf), ValueError, "column 'number' of X holds infinity in row 0"),
        (lambda t: t.assign(when=pd.Timestamp("2020-01-01")), TypeError, "column 'when' of X has dtype datetime64"),
        (lambda t: t.assign(odd=[{}] * len(t)), TypeError, "column 'odd' of X holds dict"),
        (lambda t: pl.from_pandas(t.assign(when=pd.Timestamp("2020-01-01"))), TypeError, "'when' of X has dtype Date"),
        (lambda t: pa.table({"when": [pd.Timestamp("2020-01-01")]}), TypeError, "'when' of X has dtype timestamp"),
    ],
)
def test_columns_that_are_refused(bad, error, words):
    with pytest.raises(error, match=words):
        raw_columns(bad(frame()), "test")


def test_other_columns_are_refused():
    known, _ = features(frame())
    with pytest.raises(ValueError, match="X has 7 features, but test is expecting 8"):
        known.transform(raw_columns(frame().iloc[:, 1:], "test"), "test")
    with pytest.raises(TypeError, match="column 'number' of X holds texts, but numbers in fit"):
        known.transform(raw_columns(frame().assign(number="5"), "test"), "test")


@pytest.mark.parametrize("rows", [slice(0, 8), slice(8, 16)])
@pytest.mark.parametrize("convert", [lambda f: f, lambda f: f.astype("category"), lambda f: f.to_numpy(dtype=object)])
def test_known_texts_have_the_codes_of_all_others(convert, rows):
    """The first rows hold what is known alone, the others unknown and missing names, and numbers among texts."""
    few, many = [f"{i % 3}" for i in range(16)], [f"name {i % 8}" for i in range(16)]
    few[9:11], many[12:14] = [None, "new"], [7, None]
    table = pd.DataFrame({"few": few, "many": many}, dtype=object)
    known = Features(raw_columns(table.iloc[:8], "test"), max_one_hot=3)
    given = convert(table.iloc[rows])
    coded = raw_columns(given, "test", known.known())
    assert [column.dtype == np.int64 for column in coded.columns] == [rows.start == 0] * 2
    expected, found = known.transform(raw_columns(given, "test"), "test"), known.transform(coded, "test")
    assert_array_equal(found.x, expected.x)
    assert_array_equal(found.codes, expected.codes)
    assert (found.codes == 0).any() == (rows.start == 8)
