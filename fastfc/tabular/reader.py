"""CSV and Parquet files, as columns of cells whose places are known."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from fastfc.extras import extra

DELIMITERS = ",;\t|"
CHUNK = 10_000  # rows that are text at a time
LARGEST_WHOLE = 2.0**53  # from which on not each whole number is a float
PROBED = 50  # lines by which the delimiter is found
MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}  # among numbers; elsewhere only the empty cell is
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")


class BadTable(ValueError):
    """What is wrong with a file, and where."""


class Numbers(Sequence[str]):
    """Cells that are all numbers, of which only the values are kept; as text each number has one form."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, i: Any) -> Any:
        return text_of(float(self.values[i]))


def text_of(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


@dataclass(frozen=True)
class Table:
    """The columns of a file: their cells as text, None where a file says so itself, and the place of each row."""

    path: str
    columns: dict[str, Sequence[str | None]]
    places: list[int]
    unit: str  # of the places: line or row
    notes: list[str]
    delimiter: str = ","
    parsed: dict[str, NDArray[np.float64] | None] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.places)

    def where(self, i: int, name: str) -> str:
        return f'{self.path}, {self.unit} {self.places[i]}, column "{name}"'

    def is_missing(self, cell: str | None, number: bool) -> bool:
        return cell is None or not cell.strip() or (number and cell.strip().lower() in MISSING)

    def number(self, cell: str | None) -> float:
        """The number in a cell; ValueError if there is none, or one that is not finite."""
        text = cell or ""
        if "," in text and self.delimiter != "," and DECIMAL_COMMA.fullmatch(text.strip()):
            text = text.replace(",", ".")
        value = float(text)
        if not math.isfinite(value) or "_" in text:
            raise ValueError
        return value

    def is_number(self, cell: str | None) -> bool:
        try:
            self.number(cell)
        except ValueError:
            return False
        return True

    def as_numbers(self, name: str) -> NDArray[np.float64] | None:
        """A column in which all cells are numbers."""
        cells = self.columns[name]
        if isinstance(cells, Numbers):
            return cells.values
        if name not in self.parsed:
            try:
                self.parsed[name] = np.array([self.number(cell) for cell in cells])
            except ValueError:
                self.parsed[name] = None
        return self.parsed[name]

    def numbers(self, name: str, fix: str) -> NDArray[np.float64]:
        """A column of numbers; BadSheet names the first cell that is none."""
        found, cells = self.as_numbers(name), self.columns[name]
        if found is not None:
            return found
        i = next(i for i, cell in enumerate(cells) if not self.is_number(cell))
        if self.is_missing(cells[i], number=True):
            raise self.missing(name, i, True, fix)
        raise BadTable(f'{self.where(i, name)}: "{cells[i]}" is not a {"finite " * is_infinite(cells[i])}number; {fix}')

    def texts(self, name: str, fix: str) -> list[str]:
        """A column of texts, numbers in one form; BadSheet names the first cell that is empty."""
        cells = self.columns[name]
        for i, cell in enumerate(cells):
            if self.is_missing(cell, number=False):
                raise self.missing(name, i, False, fix)
        if isinstance(cells, Numbers):
            return list(cells)
        return [text_of(self.number(cell)) if self.is_number(cell) else cell.strip() for cell in cells if cell]

    def missing(self, name: str, i: int, number: bool, fix: str) -> BadTable:
        count = sum(self.is_missing(cell, number) for cell in self.columns[name])
        others = "" if count == 1 else f", and {count - 1} more in this column"
        cell = (self.columns[name][i] or "").strip()
        found = f'"{cell}" is no value' if cell else "the cell is empty"
        return BadTable(f"{self.where(i, name)}: {found}{others}; fill it in, remove such {self.unit}s, or {fix}")


def is_infinite(cell: str | None) -> bool:
    return (cell or "").strip().lower().lstrip("+-") in ("inf", "infinity")


def read_table(path: Path, known: Collection[str] = (), target: str = "") -> Table:
    """Read a file by its ending: .parquet, anything else as CSV. Names that are known to be there tell a header."""
    if not path.is_file():  # a pipe would wait for ever
        raise BadTable(f"{path}: this is not a file" if path.exists() else f"{path}: there is no such file")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return read_parquet(path)
        return read_csv(path, known, target)
    except OSError as error:
        raise BadTable(f"{path}: {error.strerror or error}") from None


def read_csv(path: Path, known: Collection[str], target: str) -> Table:
    encoding = encoding_of(path)
    try:
        with open(path, encoding=encoding, newline="") as file:
            delimiter = sniffed(list(islice(file, PROBED)))
        with open(path, encoding=encoding, newline="") as file:
            return read_rows(path, file, delimiter, known, target)
    except UnicodeDecodeError:
        pass
    try:
        path.read_bytes().decode(encoding)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise BadTable(f"{path}, line {line}: this is not UTF-8 text; save the file as UTF-8") from None
    raise BadTable(f"{path}: the file changed while it was read")


def read_rows(path: Path, file: TextIO, delimiter: str, known: Collection[str], target: str) -> Table:
    reader = csv.reader(file, delimiter=delimiter, strict=True, skipinitialspace=True)
    names: list[str] = []
    chunks: list[list[Sequence[str]]] = []
    rows: list[list[str]] = []
    places: list[int] = []
    notes, begin = [], 0
    try:
        for row in reader:
            place, begin = begin + 1, reader.line_num
            if not any(cell.strip() for cell in row):
                continue
            if not names:
                chunks, header = [[] for _ in row], is_header(row, known, target)
                names = [cell.strip() if header else "" for cell in row]
                if header:
                    continue
                notes.append(f"no header: the columns are called column1 to column{len(row)}")
            if len(row) != len(names):
                raise BadTable(f"{path}, line {place}: there are {len(row)} cells, but the first line has {len(names)}")
            rows.append(row)
            places.append(place)
            if len(rows) == CHUNK:
                add_rows(rows, chunks)
    except csv.Error as error:
        what = "a quote is not closed" if "end of data" in str(error) else str(error)
        raise BadTable(f"{path}, line {begin + 1}: {what}") from None
    if not names:
        raise BadTable(f"{path}: the file is empty")
    if not places:
        raise BadTable(f"{path}: there is a header and nothing below it")
    add_rows(rows, chunks)
    columns = [joined(column) for column in chunks]
    for i, name in reversed(list(enumerate(names))):
        if not name and not notes and is_index(columns[i]):
            notes.append(f"column {i + 1} has no name and counts the lines; left out")
            del names[i], columns[i]
    names = [name or f"column{i}" for i, name in enumerate(names, 1)]
    check_names(path, names)
    return Table(str(path), dict(zip(names, columns, strict=True)), places, "line", notes, delimiter)


def add_rows(rows: list[list[str]], chunks: list[list[Sequence[str]]]) -> None:
    """Move these rows to the columns."""
    for column, cells in zip(chunks, zip(*rows, strict=True), strict=False):
        column.append(compact(cells))
    rows.clear()


def compact(cells: Sequence[str]) -> Sequence[str]:
    """The same cells; numbers without their text, which takes more memory."""
    try:
        if any("_" in cell for cell in cells):  # Python allows it
            return cells
        values = np.array(list(map(float, cells)))
    except ValueError:
        return cells
    return Numbers(values) if np.abs(values).max(initial=0) < LARGEST_WHOLE else cells  # not if NaN or infinite


def joined(chunks: list[Sequence[str]]) -> Sequence[str]:
    if all(isinstance(chunk, Numbers) for chunk in chunks):
        return Numbers(np.concatenate([chunk.values for chunk in chunks if isinstance(chunk, Numbers)]))
    return [cell for chunk in chunks for cell in chunk]


def encoding_of(path: Path) -> str:
    with open(path, "rb") as file:
        head = file.read(2**16)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if b"\0" in head:
        raise BadTable(f"{path}: this is not a text file, but has zero bytes; give CSV, or Parquet named .parquet")
    return "utf-8-sig"


def sniffed(lines: list[str]) -> str:
    """The delimiter that cuts most of the first lines into as many cells, more than one."""

    def agreement(delimiter: str) -> tuple[int, int]:
        try:
            rows = [len(row) for row in csv.reader(lines[:PROBED], delimiter=delimiter) if any(row)]
        except csv.Error:
            return 0, 0
        cells, count = Counter(rows).most_common(1)[0] if rows else (0, 0)
        return (count, cells) if cells > 1 else (0, 0)

    return max(DELIMITERS, key=agreement)


def is_header(row: list[str], known: Collection[str], target: str) -> bool:
    """Whether the first line holds names: not all are numbers, or they are the ones that are known or a count."""
    cells = [cell.strip() for cell in row]
    if known and set(known) <= set(cells):
        return True
    if target in cells and cells == [str(i) for i in range(len(cells))]:
        return True
    for cell in cells:
        try:
            float(cell.replace(",", "."))
        except ValueError:
            if cell.lower() not in MISSING:
                return True
    return False


def is_index(cells: Sequence[str | None]) -> bool:
    if not isinstance(cells, Numbers):
        return False
    return any(np.array_equal(cells.values, np.arange(first, first + len(cells))) for first in (0, 1))


def check_names(path: Path, names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BadTable(f'{path}: two columns are called "{twice[0]}"; give each a name of its own')


def read_parquet(path: Path) -> Table:
    pyarrow = extra("pyarrow", "parquet", "reading Parquet")
    parquet = extra("pyarrow.parquet", "parquet", "reading Parquet")
    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise BadTable(f"{path}: this is not a whole Parquet file ({error})") from None
    if not table.num_rows:
        raise BadTable(f"{path}: there are no rows")
    check_names(path, table.column_names)
    columns = {name: cells_of(column) for name, column in zip(table.column_names, table.columns, strict=True)}
    return Table(str(path), columns, list(range(1, table.num_rows + 1)), "row", [])


def cells_of(column: Any) -> Sequence[str | None]:
    """The cells of a column of Arrow."""
    if not column.null_count and str(column.type).startswith(("int", "uint", "float", "double", "halffloat")):
        values = column.to_numpy().astype(np.float64)
        if np.abs(values).max(initial=0) < LARGEST_WHOLE:
            return Numbers(values)
    return [text(value) for value in column.to_pylist()]


def text(value: Any) -> str | None:
    return None if value is None else str(value)
