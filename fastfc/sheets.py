"""CSV and Parquet files, as columns of cells whose places are known."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .extras import extra

DELIMITERS = ",;\t|"
PROBED = 50  # lines by which the delimiter is found
MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}  # among numbers; elsewhere only the empty cell is
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")


class BadSheet(ValueError):
    """What is wrong with a file, and where."""


@dataclass(frozen=True)
class Sheet:
    """The columns of a file: their cells as text, None where a file says so itself, and the place of each row."""

    path: str
    columns: dict[str, list[str | None]]
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
        if name not in self.parsed:
            cells = self.columns[name]
            try:
                if any(map(self.is_odd, cells)):
                    values = np.array([self.number(cell) for cell in cells])
                else:
                    values = np.array(list(map(float, cells)))  # type: ignore[arg-type]
                self.parsed[name] = values if np.isfinite(values).all() else None
            except ValueError:
                self.parsed[name] = None
        return self.parsed[name]

    def is_odd(self, cell: str | None) -> bool:
        """Whether Python reads this otherwise than we do."""
        return cell is None or "_" in cell or "," in cell

    def numbers(self, name: str, fix: str) -> NDArray[np.float64]:
        """A column of numbers; BadSheet names the first cell that is none."""
        found, cells = self.as_numbers(name), self.columns[name]
        if found is not None:
            return found
        i = next(i for i, cell in enumerate(cells) if not self.is_number(cell))
        if self.is_missing(cells[i], number=True):
            raise self.missing(name, i, True, fix)
        raise BadSheet(f'{self.where(i, name)}: "{cells[i]}" is not a {"finite " * is_infinite(cells[i])}number; {fix}')

    def texts(self, name: str, fix: str) -> list[str]:
        """A column of texts; BadSheet names the first cell that is empty."""
        cells = self.columns[name]
        for i, cell in enumerate(cells):
            if self.is_missing(cell, number=False):
                raise self.missing(name, i, False, fix)
        return [cell.strip() for cell in cells if cell is not None]

    def missing(self, name: str, i: int, number: bool, fix: str) -> BadSheet:
        count = sum(self.is_missing(cell, number) for cell in self.columns[name])
        others = "" if count == 1 else f", and {count - 1} more in this column"
        cell = (self.columns[name][i] or "").strip()
        found = f'"{cell}" is no value' if cell else "the cell is empty"
        return BadSheet(f"{self.where(i, name)}: {found}{others}; fill it in, remove such {self.unit}s, or {fix}")


def is_infinite(cell: str | None) -> bool:
    return (cell or "").strip().lower().lstrip("+-") in ("inf", "infinity")


def read_sheet(path: Path, known: Collection[str] = (), target: str = "") -> Sheet:
    """Read a file by its ending: .parquet, anything else as CSV. Names that are known to be there tell a header."""
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return read_parquet(path)
        return read_csv(path, known, target)
    except FileNotFoundError:
        raise BadSheet(f"{path}: there is no such file") from None
    except OSError as error:
        raise BadSheet(f"{path}: {error.strerror or error}") from None


def read_csv(path: Path, known: Collection[str], target: str) -> Sheet:
    text = decoded(path, path.read_bytes())
    lines = list(io.StringIO(text, newline=""))
    delimiter = sniffed(lines)
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    rows: list[list[str]] = []
    places: list[int] = []
    begin = 0
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append(row)
                places.append(begin + 1)
            begin = reader.line_num
    except csv.Error as error:
        what = "a quote is not closed" if "end of data" in str(error) else str(error)
        raise BadSheet(f"{path}, line {begin + 1}: {what}") from None
    if not rows:
        raise BadSheet(f"{path}: the file is empty")
    notes = []
    if is_header(rows[0], known, target):
        names, rows, places = [cell.strip() for cell in rows[0]], rows[1:], places[1:]
    else:
        names = [f"column{i}" for i in range(1, len(rows[0]) + 1)]
        notes.append(f"no header: the columns are called {names[0]} to {names[-1]}")
    for row, place in zip(rows, places, strict=True):
        if len(row) != len(names):
            raise BadSheet(f"{path}, line {place}: there are {len(row)} cells, but the first line has {len(names)}")
    if not rows:
        raise BadSheet(f"{path}: there is a header and nothing below it")
    columns = [list(column) for column in zip(*rows, strict=True)]
    for i, name in reversed(list(enumerate(names))):
        if not name and is_index(columns[i]):
            notes.append(f"column {i + 1} has no name and counts the lines; left out")
            del names[i], columns[i]
    names = [name or f"column{i}" for i, name in enumerate(names, 1)]
    check_names(path, names)
    return Sheet(str(path), dict(zip(names, columns, strict=True)), places, "line", notes, delimiter)


def decoded(path: Path, content: bytes) -> str:
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise BadSheet(f"{path}, line {line}: this is not UTF-8 text; save the file as UTF-8") from None
    if "\0" in text:
        raise BadSheet(f"{path}: this is not a text file, but has zero bytes; give CSV, or Parquet named .parquet")
    return text


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


def is_index(cells: list[str | None]) -> bool:
    return any(cells == [str(i) for i in range(first, first + len(cells))] for first in (0, 1))


def check_names(path: Path, names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BadSheet(f'{path}: two columns are called "{twice[0]}"; give each a name of its own')


def read_parquet(path: Path) -> Sheet:
    pyarrow = extra("pyarrow", "parquet", "reading Parquet")
    parquet = extra("pyarrow.parquet", "parquet", "reading Parquet")
    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise BadSheet(f"{path}: this is not a whole Parquet file ({error})") from None
    if not table.num_rows:
        raise BadSheet(f"{path}: there are no rows")
    check_names(path, table.column_names)
    columns = {
        name: [text(value) for value in column.to_pylist()]
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return Sheet(str(path), columns, list(range(1, table.num_rows + 1)), "row", [])


def text(value: Any) -> str | None:
    return None if value is None else str(value)
