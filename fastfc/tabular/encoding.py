"""Tables as the inputs of a network: numbers as they are, categories as columns of 0 and 1, dates as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfc.tabular.columns import (
    FEW,
    ID_CAMEL,
    ID_NAME,
    KINDS,
    MISSING,
    MOST_CATEGORIES,
    PLAIN,
    Column,
    Profile,
    Style,
    Wishes,
    decide,
    file_decimal,
    numbers_of,
    profiled,
    texts_of,
    values_of,
)
from fastfc.tabular.dates import Dates, moments, numbers_of_parts, parts_of, typed_moments
from fastfc.tabular.reader import BadTable, Table, arrow

Unseen = dict[tuple[str, str], tuple[int, int]]  # column and text: the first row, and how many
LEAVE_OUT = 'leave the column out with kinds={{"{name}": "ignore"}}, or mend the cell'


@dataclass(frozen=True)
class Encoded:
    """A column that a network reads, and how.

    Attributes
    ----------
    name, kind : str
        kind is number, text or date.
    categories : list of str
        Of a text.
    fill : list of float
        What stands for a missing number (the median), or for the parts of a missing date.
    missing : bool
        Whether there is an input that tells missing cells.
    """

    name: str
    kind: str
    style: Style = PLAIN
    categories: list[str] = field(default_factory=list)
    boolean: bool = False
    dates: Dates | None = None
    fill: list[float] = field(default_factory=list)
    missing: bool = False

    @property
    def width(self) -> int:
        if self.kind == "text":
            return len(self.categories) + self.missing
        return len(self.fill) + self.missing

    @property
    def inputs(self) -> list[str]:
        """The names of its inputs."""
        if self.kind == "text":
            names = [f"{self.name}={category}" for category in self.categories]
        elif self.dates is not None:
            names = [f"{self.name} {part}" for part in self.dates.parts]
        else:
            names = [self.name]
        return names + [f"{self.name} is missing"] * self.missing

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Encoded:
        """From what JSON has of it."""
        dates = stored.get("dates")
        return cls(
            stored["name"],
            stored["kind"],
            Style(*stored["style"]),
            list(stored["categories"]),
            stored["boolean"],
            None if dates is None else Dates(dates[0], dates[1], tuple(dates[2])),
            list(stored["fill"]),
            stored["missing"],
        )


class Read(NamedTuple):
    """The inputs of the rows of a table, the rows that can't be read, and what is to be said."""

    x: NDArray[np.float64]
    bad: dict[int, str]  # row: what is wrong with a cell
    notes: list[str]


class TableEncoder:
    """Makes numbers of tables, by what it saw in the table that it was fitted to.

    Numbers stay as they are; a missing one becomes the median, and a column tells where. A category becomes columns
    of 0 and 1, missing cells are a category of their own. Dates become elapsed days, month, day of the week (0 is
    Monday) and hour, as far as they vary. Columns that number or name the rows are left out. Each decision is in
    `columns_`; scikit-learn's conventions hold: `fit`, `transform`, `get_feature_names_out`, pickles.

    Parameters
    ----------
    kinds : dict of str, optional
        Of a column's name: "number", "text", "date" or "ignore", where that is not to be found out.
    decimal, thousands : str, optional
        The marks in numbers, where they are not to be found out.

    Examples
    --------
    >>> import fastfc as fc
    >>> table = {"age": ["31", "48", ""], "town": ["Ulm", "Jena", "Ulm"]}
    >>> encoder = fc.tabular.TableEncoder().fit(table)
    >>> encoder.transform(table).tolist()
    [[31.0, 0.0, 0.0, 1.0], [48.0, 0.0, 1.0, 0.0], [39.5, 1.0, 0.0, 1.0]]
    >>> encoder.get_feature_names_out().tolist()
    ['age', 'age is missing', 'town=Jena', 'town=Ulm']
    """

    def __init__(
        self, kinds: Mapping[str, str] | None = None, decimal: str | None = None, thousands: str | None = None
    ) -> None:
        self.kinds, self.decimal, self.thousands = kinds, decimal, thousands

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {"kinds": self.kinds, "decimal": self.decimal, "thousands": self.thousands}

    def set_params(self, **params: Any) -> TableEncoder:
        for name, value in params.items():
            if name not in self.get_params():
                raise ValueError(f"TableEncoder: there is no parameter {name!r}; there are kinds, decimal, thousands")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items() if value is not None)
        return f"TableEncoder({given})"

    @property
    def wishes(self) -> Wishes:
        for name, kind in (self.kinds or {}).items():
            if kind not in KINDS:
                raise ValueError(f'TableEncoder: column "{name}" can\'t be {kind!r}; there are {", ".join(KINDS)}')
        return Wishes(self.kinds or {}, self.decimal, self.thousands)

    def fit(
        self, table: Any, y: Any = None, *, rows: NDArray[np.bool_] | None = None, profiles: Any = None
    ) -> TableEncoder:
        """Find out what the columns of a table, frame or dictionary hold; medians are those of `rows`, or of all."""
        table, wishes = Table.of(table), self.wishes
        unknown = [name for name in wishes.kinds if name not in table.names]
        if unknown:
            raise BadTable(f"{table.path}: there is no column {listing(unknown)}; there are {listing(table.names)}")
        profiles = profiles or profiled(table, wishes)
        hint = file_decimal(profiles)
        self.columns_ = [feature(table, profiles[name], wishes, hint) for name in table.names if name in profiles]
        kept = [column for column in self.columns_ if column.kind != "ignore"]
        if not kept:
            raise BadTable(f"{table.path}: there is no column to learn from; {self.left_out()}")
        values = collected(table, [column for column in kept if column.kind != "text"])
        self.encoded_ = [encoded(column, profiles[column.name], values.get(column.name), rows) for column in kept]
        self.feature_names_in_ = np.array(table.names, dtype=object)
        self.n_features_in_ = len(table.names)
        return self

    def left_out(self) -> str:
        return "; ".join(f'"{c.name}": {c.why}' for c in self.columns_ if c.kind == "ignore")

    @property
    def width(self) -> int:
        """Inputs of a network."""
        return sum(column.width for column in self.encoded_)

    @property
    def names(self) -> list[str]:
        """The columns that are read."""
        return [column.name for column in self.encoded_]

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        return np.array([name for column in self.encoded_ for name in column.inputs], dtype=object)

    def transform(self, table: Any, fix: str = LEAVE_OUT) -> NDArray[np.float64]:
        """The inputs of each row, (n, width) float64.

        Raises
        ------
        BadTable
            Naming the columns that are missing, or the first cell that can't be read.
        """
        table = Table.of(table)
        read = self.read(table, fix)
        if read.bad:
            i = min(read.bad)
            raise BadTable(read.bad[i])
        return read.x

    def fit_transform(self, table: Any, y: Any = None) -> NDArray[np.float64]:
        table = Table.of(table)
        return self.fit(table).transform(table)

    def check(self, table: Table) -> list[str]:
        """Notes of what a table has that the one of the fit had not; BadTable names the columns that are missing."""
        missing = [name for name in self.names if name not in table.names]
        if missing:
            others = [name for name in table.names if name not in set(self.feature_names_in_)]
            there = f"; there are {listing(others)}, which it does not know" if others else ""
            raise BadTable(
                f"{table.path}: the network needs {listing(missing)}{there}; give each column the name it had"
            )
        others = [name for name in table.names if name not in set(self.feature_names_in_)]
        return [f"left out, for the network does not know them: {listing(others)}"] if others else []

    def read(self, table: Table, fix: str = LEAVE_OUT) -> Read:
        """The inputs of each row of a table; rows with a bad cell are told, not raised."""
        notes = self.check(table)
        bad: dict[int, str] = {}
        unseen: Unseen = {}
        parts, first = [], 0
        for batch in table.batches():
            x = self.read_batch(table, batch, first, bad, unseen, fix)
            parts.append(x)
            first += len(x)
        notes += self.unseen_notes(table, unseen)
        return Read(np.concatenate(parts) if parts else np.zeros((0, self.width)), bad, notes)

    def unseen_notes(self, table: Table, unseen: Unseen) -> list[str]:
        """What is to be said of cells that training has not seen: where, how many, and what they are taken for."""
        notes, columns = [], {column.name: column for column in self.encoded_}
        for (name, text), (i, count) in unseen.items():
            column, others = columns[name], f" (and {count - 1} more)" if count > 1 else ""
            near = [known for known in column.categories if known.lower() == text.lower()]
            but = f'; "{near[0]}" was' if near else ""
            taken = "none of the categories" if column.kind == "text" else "the median"
            shown = f'"{text}"' if text else "an empty cell"
            notes.append(f"{table.where(i, name)}: {shown}{others} was not seen in training{but}; taken for {taken}")
        return notes

    def read_batch(
        self,
        table: Table,
        batch: Any,
        first: int,
        bad: dict[int, str],
        unseen: Unseen,
        fix: str,
    ) -> NDArray[np.float64]:
        """The inputs of a batch whose first row is number `first`."""
        x, left = np.zeros((batch.num_rows, self.width)), 0
        for column in self.encoded_:
            place = x[:, left : left + column.width]
            cells = batch.column(table.names.index(column.name))
            wrong = (
                read_texts(column, cells, place, first, unseen)
                if column.kind == "text"
                else read_numbers(column, cells, place, first, unseen)
            )
            for i in np.flatnonzero(wrong):
                bad.setdefault(first + int(i), bad_cell(table, column, first + int(i), cells[int(i)].as_py(), fix))
            left += column.width
        return x

    def restrict(self, x: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Forget the categories that no row of x has; which inputs stay."""
        seen = (x != 0).any(axis=0)
        stay, encoded, left = np.ones(self.width, bool), [], 0
        for column in self.encoded_:
            if column.kind == "text":
                inputs = seen[left : left + len(column.categories)]
                if not inputs.any():
                    inputs[:] = True
                stay[left : left + len(inputs)] = inputs
                names = [name for name, there in zip(column.categories, inputs, strict=True) if there]
                encoded.append(Encoded(**(vars(column) | {"categories": names})))
            else:
                encoded.append(column)
            left += column.width
        self.encoded_ = encoded
        return stay

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "params": self.get_params(),
            "columns": [asdict(column) for column in self.columns_],
            "encoded": [asdict(column) for column in self.encoded_],
            "names": list(self.feature_names_in_),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> TableEncoder:
        encoder = cls(**stored["params"])
        encoder.columns_ = [
            Column(**(dict(column) | {"style": Style(*column["style"])})) for column in stored["columns"]
        ]
        encoder.encoded_ = [Encoded.of(column) for column in stored["encoded"]]
        encoder.feature_names_in_ = np.array(stored["names"], dtype=object)
        encoder.n_features_in_ = len(stored["names"])
        return encoder


def listing(names: Any, most: int = 20) -> str:
    names = [f'"{name}"' for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def feature(table: Table, profile: Profile, wishes: Wishes, hint: str) -> Column:
    """What a column is taken for that a network may learn from."""
    column = decide(profile, wishes, hint)
    if column.kind == "date" and not column.date:
        raise BadTable(
            f'{table.path}, column "{profile.name}": no cell is a date; say --as text:{profile.name}, or mend it'
        )
    missing = profile.empty if column.kind == "text" else profile.n - profile.present
    column = replace(column, missing=missing)
    if column.kind == "ignore" or profile.name in wishes.kinds:
        return column
    name = profile.name

    def ignored(why: str) -> Column:
        return Column(name, "ignore", why, f'"{name}" {why}: left out; --as {column.kind}:{name} keeps it')

    different = profile.all_different()
    if name in table.unnamed and different:
        return ignored("has no name and is different in each row")
    if column.kind == "number" and profile.counts_rows():
        values = np.concatenate(profile.counting or [])
        if values.min() in (0, 1) or ID_NAME.fullmatch(name) or ID_CAMEL.fullmatch(name):
            return ignored("counts the rows")
    if column.kind == "number" and different and (ID_NAME.fullmatch(name) or ID_CAMEL.fullmatch(name)):
        return ignored("names the rows: it is different in each")
    if column.kind == "text":
        if different and profile.n > 2:
            return ignored("is different in each row")
        n = len(profile.texts) if profile.texts is not None else profile.present
        if profile.texts is None or n > MOST_CATEGORIES or (n > FEW and 2 * n > profile.present):
            return ignored(f"holds {n:,} different texts in {profile.n:,} {table.unit}s")
        if n == 1 and profile.present == profile.n:
            return ignored(f'is always "{next(iter(profile.texts))}"')
    if column.kind == "number" and profile.counting and profile.present == profile.n:
        values = np.concatenate(profile.counting)
        if profile.n > 1 and values.min() == values.max():
            return ignored(f"is always {values[0]:g}")
    return column


def collected(table: Table, columns: Sequence[Column]) -> dict[str, NDArray[Any]]:
    """The values of columns of numbers and the moments of dates, of all rows."""
    parts: dict[str, list[NDArray[Any]]] = {column.name: [] for column in columns}
    for batch in table.batches():
        for column in columns:
            cells = batch.column(table.names.index(column.name))
            if column.kind == "number":
                parts[column.name].append(number_cells(cells, column.style)[0])
            else:
                parts[column.name].append(date_cells(cells, column.date)[0])
    return {name: np.concatenate(values) for name, values in parts.items()}


def encoded(column: Column, profile: Profile, values: NDArray[Any] | None, rows: NDArray[np.bool_] | None) -> Encoded:
    """How a column is encoded, by all its values."""
    missing = column.missing > 0
    if column.kind == "text":
        names = sorted_names(profile.texts or {})
        if column.boolean:
            names = spellings(profile.texts or {})
        return Encoded(column.name, "text", column.style, names, column.boolean, missing=missing)
    assert values is not None
    values = values if rows is None else values[rows]
    if column.kind == "number":
        good = values[~np.isnan(values)]
        fill = [float(np.median(good))] if len(good) else [0.0]
        return Encoded(column.name, "number", column.style, fill=fill, missing=missing)
    dates = parts_of(values, column.date)
    numbers = numbers_of_parts(values, dates)
    fill = [float(np.nanmedian(numbers[part])) for part in dates.parts]
    return Encoded(column.name, "date", column.style, dates=dates, fill=fill, missing=missing)


def sorted_names(names: Any) -> list[str]:
    """Names in the order of people: 2 before 10."""
    import re

    return sorted(names, key=lambda name: [(len(p), p) if p.isdigit() else (0, p) for p in re.split(r"(\d+)", name)])


def spellings(texts: Mapping[str, int]) -> list[str]:
    """False and true, in the spelling that is the commonest."""
    best: dict[str, str] = {}
    for text in sorted(texts, key=lambda text: -texts[text]):
        best.setdefault(text.lower(), text)
    return [best[lower] for lower in sorted(best)]


# ---------- cells as numbers


def text_kind(cells: Any) -> bool:
    return str(cells.type) in ("string", "large_string", "string_view")


def plain_cells(cells: Any) -> Any:
    return cells.dictionary_decode() if str(cells.type).startswith("dictionary") else cells


def number_cells(cells: Any, style: Style) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values, NaN where there is none, and which of the cells are neither numbers nor missing."""
    pyarrow, compute = arrow("reading tables"), arrow("reading tables", "compute")
    cells = plain_cells(cells)
    if not text_kind(cells):
        if str(cells.type) in ("null",):
            return np.full(len(cells), np.nan), np.zeros(len(cells), bool)
        if str(cells.type) == "bool":
            cells = cells.cast(pyarrow.int8())
        values = numbers_of(cells)
        return values, np.isinf(values)
    if style == PLAIN:
        empty = compute.equal(compute.binary_length(cells), 0)
        try:
            values = np.asarray(compute.cast(compute.if_else(empty, None, cells), pyarrow.float64()).fill_null(np.nan))
            if not np.isnan(values[~np.asarray(empty.fill_null(True))]).any() and not (np.abs(values) > 3e38).any():
                return values, np.zeros(len(cells), bool)
        except pyarrow.ArrowInvalid:
            pass
    coded = compute.dictionary_encode(compute.utf8_trim_whitespace(cells.cast(pyarrow.string()).fill_null("")))
    different, indices = coded.dictionary, np.asarray(coded.indices)
    values = values_of(different, style)
    missing = np.array([name.lower() in MISSING for name in different.to_pylist()])
    values[missing] = np.nan
    return values[indices], (np.isnan(values) & ~missing)[indices]


def date_cells(cells: Any, form: str) -> tuple[NDArray[np.datetime64], NDArray[np.bool_]]:
    pyarrow, compute = arrow("reading tables"), arrow("reading tables", "compute")
    cells = plain_cells(cells)
    if not text_kind(cells):
        if not str(cells.type).startswith(("date", "time")):
            good = np.full(len(cells), np.datetime64("NaT"), "datetime64[s]")
            return good, np.asarray(cells.is_valid())
        return typed_moments(cells), np.zeros(len(cells), bool)
    coded = compute.dictionary_encode(compute.utf8_trim_whitespace(cells.cast(pyarrow.string()).fill_null("")))
    different, indices = coded.dictionary, np.asarray(coded.indices)
    values = moments(different, "year-month-day" if form == "typed" else form)
    missing = np.array([name.lower() in MISSING for name in different.to_pylist()])
    return values[indices], (np.isnat(values) & ~missing)[indices]


def note_unseen(unseen: Unseen, column: Encoded, text: str, rows: NDArray[np.int64], first: int) -> None:
    if len(rows):
        begin, count = unseen.get((column.name, text), (first + int(rows[0]), 0))
        unseen[column.name, text] = begin, count + len(rows)


def read_numbers(
    column: Encoded, cells: Any, place: NDArray[np.float64], first: int, unseen: Unseen
) -> NDArray[np.bool_]:
    """Write the inputs of a column of numbers or dates; which cells can't be read."""
    if column.dates is None:
        values, wrong = number_cells(cells, column.style)
        numbers = [values]
    else:
        when, wrong = date_cells(cells, column.dates.format)
        numbers = list(numbers_of_parts(when, column.dates).values())
    for j, (values, fill) in enumerate(zip(numbers, column.fill, strict=True)):
        missing = np.isnan(values)
        place[:, j] = np.where(missing | wrong, fill, values)
        if column.missing:
            place[:, -1] = missing & ~wrong
        elif j == 0:
            note_unseen(unseen, column, "", np.flatnonzero(missing & ~wrong), first)
    return wrong


def read_texts(
    column: Encoded,
    cells: Any,
    place: NDArray[np.float64],
    first: int,
    unseen: Unseen,
) -> NDArray[np.bool_]:
    """Write the inputs of a column of categories."""
    compute = arrow("reading tables", "compute")
    cells = texts_of(plain_cells(cells))
    coded = compute.dictionary_encode(cells.fill_null(""))
    names, indices = coded.dictionary.to_pylist(), np.asarray(coded.indices)
    number = {(name.lower() if column.boolean else name): i for i, name in enumerate(column.categories)}
    numbers = np.full(len(names), -1)
    for i, name in enumerate(names):
        if not name:
            numbers[i] = len(column.categories) if column.missing else -1
        else:
            numbers[i] = number.get(name.lower() if column.boolean else name, -1)
        if numbers[i] < 0:
            note_unseen(unseen, column, name, np.flatnonzero(indices == i), first)
    at = numbers[indices]
    rows = np.flatnonzero(at >= 0)
    place[rows, at[rows]] = 1
    return np.zeros(len(cells), bool)


def bad_cell(table: Table, column: Encoded, i: int, cell: Any, fix: str) -> str:
    noun = "number" if column.kind == "number" else "date"
    text = str(cell).strip()
    finite = "finite " if text.lower().lstrip("+-") in ("inf", "infinity") else ""
    return f'{table.where(i, column.name)}: "{text}" is not a {finite}{noun}; {fix.format(name=column.name)}'
