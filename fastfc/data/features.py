"""Columns of arrays and frames as features: numbers, codes of categories, and what is known of each from training.

Numbers are scaled robustly and clipped smoothly: with the median m and w = q₇₅ − q₂₅ of the training rows,
z = (x − m)/w, z ← z/sqrt(1 + (z/3)²), which lies within ±3. A category is coded by its place among the sorted names, 1,
2, …; 0 is missing, or not known. A category of few names becomes columns of 0 and 1, which are scaled like numbers.

References: D. Holzmüller, L. Grinsztajn, I. Steinwart, "Better by Default: Strong Pre-Tuned MLPs and Boosted Trees on
Tabular Data", 2024, appendix A; the median and an indicator for missing numbers are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfc import frames

CLIP = 3.0  # the smooth clip's bound


# The codes of a category's names.
Codes = Mapping[str, int]


class Raw(NamedTuple):
    """The columns of a table: a name, and an array of float64 (NaN is missing), texts (None is missing), or codes."""

    names: tuple[str, ...] | None
    columns: list[NDArray[Any]]
    n: int


class Inputs(NamedTuple):
    """What a network gets of n rows: (n, k) numbers, scaled and clipped, then one-hot columns; and (n, c) codes."""

    x: NDArray[np.float32]
    codes: NDArray[np.int64]


def raw_columns(table: Any, owner: str, known: Mapping[int, Codes] | None = None) -> Raw:
    """The columns of an array or of a frame of pandas, polars or pyarrow.

    Of the columns whose codes are known, those with known texts alone are coded at once.

    Raises
    ------
    TypeError, ValueError
        Naming the column that is neither of numbers nor of texts, or holds infinite numbers.
    """
    names, known = frames.names(table), known or {}
    if names is None:
        array = np.asarray(table)
        if array.ndim != 2:
            raise ValueError(f"{owner}: X has shape {array.shape}, expected (n, features)")
        columns = [array_column(array[:, i], owner, i, known.get(i)) for i in range(array.shape[1])]
        return Raw(None, columns, len(array))
    parts = list(table.columns) if frames.is_arrow(table) else frames.columns(table)
    columns = [
        frame_column(part, owner, name, known.get(i)) for i, (part, name) in enumerate(zip(parts, names, strict=True))
    ]
    return Raw(tuple(map(str, names)), columns, table.num_rows if frames.is_arrow(table) else len(table))


def array_column(values: NDArray[Any], owner: str, name: Any, known: Codes | None = None) -> NDArray[Any]:
    if values.dtype.kind in frames.NUMBERS:
        return finite(values.astype(np.float64), owner, name)
    if values.dtype.kind in "OUST":
        values = values.astype(object)
        codes = codes_of_known(values, known)
        return object_column(values, None, owner, name) if codes is None else codes
    raise TypeError(f"{owner}: column {name!r} of X has dtype {values.dtype}; {ADVICE}")


ADVICE = "give numbers, or texts for categories; leave it out, or compute numbers from it"


def object_column(values: NDArray[Any], missing: NDArray[np.bool_] | None, owner: str, name: Any) -> NDArray[Any]:
    """Numbers if all are, else texts."""
    if missing is None:
        missing = missing_cells(values)
    present = values[~missing]
    if not any(issubclass(kind, str) for kind in set(map(type, present.tolist()))):
        try:
            numbers = np.full(len(values), np.nan)
            numbers[~missing] = present.astype(np.float64)
            return finite(numbers, owner, name)
        except (TypeError, ValueError):
            raise TypeError(
                f"{owner}: column {name!r} of X holds {type(present[0]).__name__}, but an argument must be a string or "
                f"a number; {ADVICE}"
            ) from None
    return texts(values, missing)


def missing_cells(values: NDArray[Any]) -> NDArray[np.bool_]:
    if all_texts(values):
        return np.zeros(len(values), bool)
    return np.array([is_missing(value) for value in values.tolist()], bool)


def all_texts(values: NDArray[Any]) -> bool:
    return set(map(type, values.tolist())) <= {str}


def is_missing(value: Any) -> bool:
    # pandas.NA is neither equal to itself nor not
    return value is None or type(value).__name__ == "NAType" or bool(value != value)


def codes_of_known(values: NDArray[Any], known: Codes | None) -> NDArray[np.int64] | None:
    """The codes of cells, if each is a text that is known."""
    if known is None:
        return None
    try:
        return np.fromiter(map(known.get, values.tolist()), np.int64, len(values))  # None is refused
    except TypeError:
        return None


def texts(values: NDArray[Any], missing: NDArray[np.bool_]) -> NDArray[Any]:
    """The names of categories, which do not depend on the dtype that holds them: 1 and 1.0 are "1"."""
    result = np.full(len(values), None, object)
    present = values[~missing]
    if all_texts(present):
        result[~missing] = present
    else:
        result[~missing] = [value if isinstance(value, str) else text(value) for value in present.tolist()]
    return result


def text(value: Any) -> str:
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def frame_column(values: Any, owner: str, name: Any, known: Codes | None = None) -> NDArray[Any]:
    """A column of a frame as numbers or texts."""
    if frames.is_arrow(values):
        kind = str(values.type)
        if kind.startswith("dictionary"):
            values = values.cast(values.type.value_type)
            kind = str(values.type) if not kind.startswith("dictionary<values=int") else "string"
        if kind.startswith(("int", "uint", "float", "double", "halffloat", "bool", "decimal", "null")):
            return finite(
                np.asarray(values.to_numpy(zero_copy_only=False), dtype=object).astype(np.float64), owner, name
            )
        if kind.startswith(("string", "large_string")):
            array = np.asarray(values.to_numpy(zero_copy_only=False), dtype=object)
            return texts(array, np.asarray(values.is_null()))
        raise TypeError(f"{owner}: column {name!r} of X has dtype {kind}; {ADVICE}")
    dtype = values.dtype
    if isinstance(dtype, np.dtype) and dtype.kind in frames.NUMBERS:
        return finite(values.to_numpy().astype(np.float64), owner, name)
    if str(dtype) == "category":  # to_numpy makes floats of integers where some are missing
        values = values.astype(object)
    array = np.asarray(values.to_numpy(), dtype=object)
    codes = codes_of_known(array, known)
    if codes is not None:
        return codes
    if all_texts(array):
        return array
    missing = np.asarray(values.is_null() if hasattr(values, "is_null") else values.isna(), dtype=bool)
    if isinstance(dtype, np.dtype) and dtype.kind == "O":
        return object_column(array, missing, owner, name)
    if frames.is_number(dtype) or str(dtype) == "Null":
        numbers = np.full(len(array), np.nan)
        numbers[~missing] = array[~missing].astype(np.float64)
        return finite(numbers, owner, name)
    if str(dtype).lower().startswith(("str", "categ", "enum", "object")):
        return texts(array, missing)
    raise TypeError(f"{owner}: column {name!r} of X has dtype {dtype}; {ADVICE}")


def finite(values: NDArray[np.float64], owner: str, name: Any) -> NDArray[np.float64]:
    wrong = np.isinf(values)
    if wrong.any():
        raise ValueError(
            f"{owner}: column {name!r} of X holds infinity in row {int(wrong.argmax())}; give finite numbers, or NaN "
            "for missing ones"
        )
    return values


class Numbers(NamedTuple):
    """How a column of numbers is scaled: the median, the width, and whether an indicator tells missing ones."""

    center: float
    width: float
    missing: bool


class Features:
    """What the training rows tell of each column, and how rows become inputs of a network.

    Parameters
    ----------
    x : Raw
        Of the training rows: medians, spreads and names are theirs.
    more : Raw, optional
        Other rows whose categories are known too, those of the validation.
    max_one_hot : int or None
        Categories of at most so many names become columns of 0 and 1, the others codes for an embedding; None is all.

    Attributes
    ----------
    numbers : list of int
        The columns that are numbers.
    categories : list of int
        The columns of texts.
    names : list of list of str
        Of each category.
    sizes : list of int
        Rows of the embedding's table that each coded category takes.
    """

    def __init__(self, x: Raw, more: Raw | None = None, max_one_hot: int | None = 8) -> None:
        self.column_names, self.n_columns, self.max_one_hot = x.names, len(x.columns), max_one_hot
        self.categories = [i for i, column in enumerate(x.columns) if column.dtype == object]
        if more is not None:
            self.categories = [
                i for i, column in enumerate(more.columns) if i in self.categories or column.dtype == object
            ]
        self.numbers = [i for i in range(self.n_columns) if i not in self.categories]
        self.names = [names_of([part.columns[i] for part in (x, more) if part is not None]) for i in self.categories]
        self.scales = [self._scale(x.columns[i], more.columns[i] if more is not None else None) for i in self.numbers]
        hot = self._hot_columns(x)
        self.hot_scales = [center_and_width(column) for column in hot.T]

    @staticmethod
    def _scale(values: NDArray[np.float64], more: NDArray[np.float64] | None) -> Numbers:
        present = values[~np.isnan(values)]
        center, width = center_and_width(present)
        missing = len(present) < len(values) or (more is not None and bool(np.isnan(more).any()))
        return Numbers(center, width, missing)

    def is_hot(self, names: Sequence[str]) -> bool:
        return self.max_one_hot is None or len(names) <= self.max_one_hot

    @property
    def n_numbers(self) -> int:
        return len(self.numbers)

    @property
    def width(self) -> int:
        """Columns of Inputs.x."""
        return self.n_numbers + len(self.hot_scales)

    @property
    def sizes(self) -> list[int]:
        return [len(names) + 1 for names in self.names if not self.is_hot(names)]

    def _codes(self, x: Raw, index: int) -> NDArray[np.int64]:
        """The codes of a category's cells."""
        column = x.columns[self.categories[index]]
        if column.dtype == np.int64:
            return column
        if column.dtype != object:  # numbers where there were texts
            column = texts(column.astype(object), np.isnan(column))
        return np.fromiter(map(self._code_of(index).get, column.tolist(), repeat(0)), np.int64, len(column))

    def _code_of(self, index: int) -> Codes:
        return {name: code for code, name in enumerate(self.names[index], 1)}

    def known(self) -> dict[int, Codes]:
        """The codes of each column of texts."""
        return {i: self._code_of(index) for index, i in enumerate(self.categories)}

    def _hot_columns(self, x: Raw) -> NDArray[np.float64]:
        """Indicators of missing numbers, then the columns of 0 and 1 of each category of few names, unscaled."""
        parts = [np.isnan(x.columns[i])[:, None] for i, s in zip(self.numbers, self.scales, strict=True) if s.missing]
        for index, names in enumerate(self.names):
            if self.is_hot(names):
                parts.append(one_hot(len(names))[self._codes(x, index)])
        return np.concatenate([part.astype(np.float64) for part in parts] or [np.zeros((x.n, 0))], axis=1)

    def transform(self, x: Raw, owner: str) -> Inputs:
        """The inputs of rows.

        Raises
        ------
        TypeError, ValueError
            For texts in a column of numbers, or another number of columns.
        """
        if len(x.columns) != self.n_columns:
            raise ValueError(
                f"X has {len(x.columns)} features, but {owner} is expecting {self.n_columns} features as input"
            )
        result, place = np.empty((x.n, self.width), np.float32), self.n_numbers
        for j, (i, scale) in enumerate(zip(self.numbers, self.scales, strict=True)):
            values = x.columns[i]
            if values.dtype == object:
                name = i if x.names is None else x.names[i]
                raise TypeError(f"{owner}: column {name!r} of X holds texts, but numbers in fit; give numbers")
            missing = np.isnan(values)
            if missing.any():
                values = np.where(missing, scale.center, values)
            result[:, j] = clipped(values, scale.center, scale.width)
            if scale.missing:
                no, yes = clipped(np.array([0.0, 1.0]), *self.hot_scales[place - self.n_numbers])
                result[:, place] = np.where(missing, yes, no)
                place += 1
        for index, names in enumerate(self.names):
            if self.is_hot(names):
                table = self.hot_table(index)
                result[:, place : place + table.shape[1]] = np.take(table, self._codes(x, index), axis=0)
                place += table.shape[1]
        codes = [self._codes(x, i) for i, names in enumerate(self.names) if not self.is_hot(names)]
        return Inputs(result, np.column_stack(codes) if codes else np.zeros((x.n, 0), np.int64))

    def hot_table(self, index: int) -> NDArray[np.float32]:
        """The scaled one-hot columns of each code of a category of few names, (names + 1, columns)."""
        first = sum(s.missing for s in self.scales)
        first += sum(one_hot(len(names)).shape[1] for names in self.names[:index] if self.is_hot(names))
        rows = one_hot(len(self.names[index]))
        scales = np.array(self.hot_scales[first : first + rows.shape[1]]).reshape(-1, 2)
        return clipped(rows, scales[:, 0], scales[:, 1]).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        keys = ("column_names", "n_columns", "max_one_hot", "categories", "numbers", "names", "hot_scales", "scales")
        return {key: getattr(self, key) for key in keys}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Features:
        features = cls.__new__(cls)
        vars(features).update(stored)
        if features.column_names is not None:
            features.column_names = tuple(features.column_names)
        features.scales = [Numbers(*scale) for scale in features.scales]
        features.hot_scales = [(center, width) for center, width in features.hot_scales]
        return features


def names_of(columns: Sequence[NDArray[Any]]) -> list[str]:
    """The sorted names of a category."""
    found: set[str] = set()
    for column in columns:
        if column.dtype != object:
            column = texts(column.astype(object), np.isnan(column))
        found.update(value for value in set(column.tolist()) if value is not None)
    return sorted(found)


def one_hot(n: int) -> NDArray[np.float64]:
    """The columns of each code 0 to n, where 0 is missing: of one name −1 and 1, of two names 0, 1 and −1."""
    if n == 1:
        return np.array([[-1.0], [1.0]])
    if n == 2:
        return np.array([[0.0], [1.0], [-1.0]])
    return np.eye(n + 1)[:, 1:]


def center_and_width(values: NDArray[np.float64]) -> tuple[float, float]:
    """The median, and the distance of the quartiles, or half the range where that is 0."""
    if not len(values):
        return 0.0, 0.0
    low, center, high = np.quantile(values, [0.25, 0.5, 0.75])
    width = high - low if high > low else (values.max() - values.min()) / 2
    return float(center), float(width)


def clipped(values: NDArray[np.float64], center: Any, width: Any) -> NDArray[np.float64]:
    """Scaled and clipped; 0 for a column that is constant in training. Center and width may be rows of numbers."""
    with np.errstate(over="ignore"):
        z = values - center
        z /= np.where(width, width, np.inf)
    # the limit of the formula, where the square would overflow
    np.clip(z, -1e100, 1e100, out=z)
    square = z / CLIP
    square *= square
    square += 1
    z /= np.sqrt(square, out=square)
    return z
