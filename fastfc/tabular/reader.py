"""Files as tables of text: CSV in its many forms, Parquet and Arrow. What the cells mean is decided in columns.py.

pyarrow cuts a file into cells. A file that it does not take as it is (a row with too few cells, spaces before a quote,
runs of spaces between cells) is cut by Python's csv module instead, which knows the line of each row.
"""

from __future__ import annotations

import atexit
import bz2
import codecs
import csv
import gzip
import io
import lzma
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from fastfc import frames
from fastfc.extras import extra
from fastfc.validation import plural

DELIMITERS = ",;\t|"
SPACES = " "  # the delimiter of files whose cells are apart by one or more spaces or tabs
SAMPLE_BYTES = 1 << 16  # by which delimiter and header are found
SAMPLE_ROWS = 60
BLOCK_BYTES = 1 << 22  # of text that is cut at a time
HELD_BYTES = 1 << 30  # a larger table is read again for each pass over it
ROWS = 10_000  # of a batch, where rows come one by one
UTF_8 = "utf-8-sig"
BOMS = [
    (codecs.BOM_UTF8, UTF_8),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]
ARROW_SUFFIXES = (".parquet", ".pq", ".arrow", ".feather", ".ipc")
NOT_TABLES = {b"PK\x03\x04": "a workbook or a zip archive", b"%PDF": "a PDF file", b"SQLi": "a database"}


class BadTable(ValueError):
    """What is wrong with a table, and where."""


@dataclass(frozen=True)
class Options:
    """How a file is read, where that is not to be found out.

    Attributes
    ----------
    delimiter : str, optional
        Between cells; " " stands for runs of spaces or tabs.
    header : bool
        Whether the first line may hold the names of the columns.
    encoding : str, optional
        Of the text; UTF-8, -16 and -32 are found out.
    comment : str
        What a line that is no row begins with.
    known : collection of str
        Names of columns that are expected, which tell a header.
    """

    delimiter: str | None = None
    header: bool = True
    encoding: str | None = None
    comment: str = "#"
    known: Collection[str] = ()


@dataclass
class Table:
    """Columns of cells, in batches of rows.

    Attributes
    ----------
    path : str
        Where it comes from, for messages.
    names : list of str
        Of the columns; a column that has none in the file is called by its number.
    notes : list of str
        What was found out about the file that somebody may want to know.
    unit : str
        What a row is called: line or row.

    Examples
    --------
    >>> import fastfc as fc
    >>> table = fc.tabular.Table.of({"age": [31, 48], "town": ["Ulm", "Jena"]})
    >>> table.names, len(table)
    (['age', 'town'], 2)
    """

    path: str
    names: list[str]
    source: Callable[[], Iterator[Any]]
    notes: list[str] = field(default_factory=list)
    unit: str = "row"
    unnamed: frozenset[str] = frozenset()
    lines: Callable[[], Iterator[int]] | None = None
    delimiter: str = ""
    held: list[Any] | None = None
    n: int | None = None

    @classmethod
    def read(cls, path: str | os.PathLike[str], **options: Any) -> Table:
        """The table in a file; `-` reads standard input. For the options see Options.

        Raises
        ------
        BadTable
            Naming the file, the line, and what to do.
        """
        return read_table(path, Options(**options))

    @classmethod
    def of(cls, data: Any, path: str = "the table") -> Table:
        """The table in a frame of pandas, polars or Arrow, or in a dictionary of columns."""
        pyarrow = arrow("Table.of")
        if isinstance(data, cls):
            return data
        if hasattr(data, "iloc"):
            cells = [data.iloc[:, i] for i in range(data.shape[1])]
            table = pyarrow.Table.from_arrays([of_pandas(column) for column in cells], [str(name) for name in data])
        elif hasattr(data, "to_arrow"):
            table = data.to_arrow()
        elif isinstance(data, dict):
            table = pyarrow.table({str(name): pyarrow.array(list(cells)) for name, cells in data.items()})
        elif frames.is_arrow(data) and hasattr(data, "column_names"):
            table = pyarrow.table(data)
        else:
            raise TypeError(f"{path}: a {type(data).__name__} is not a table; give a data frame, or columns by name")
        return of_arrow(path, table)

    def batches(self) -> Iterator[Any]:
        """Batches of Arrow, once more from the first row on."""
        if self.held is not None:
            yield from self.held
            return
        held, size, n = [], 0, 0
        keep = self.n is None
        for batch in self.source():
            n += batch.num_rows
            if keep:
                held.append(batch)
                size += batch.nbytes
                if size > HELD_BYTES:
                    keep, held = False, []
            yield batch
        self.held, self.n = held if keep else None, n

    def __len__(self) -> int:
        if self.n is None:
            for _ in self.batches():
                pass
        assert self.n is not None
        return self.n

    def column(self, name: str) -> Iterator[Any]:
        """The batches of one column."""
        i = self.names.index(name)
        for batch in self.batches():
            yield batch.column(i)

    def where(self, i: int, name: str) -> str:
        """The place of a cell, for a message."""
        return f'{self.path}, {self.unit} {self.line(i)}, column "{name}"'

    def line(self, i: int) -> int:
        """The number of row i in its file, from 1 on."""
        return i + 1 if self.lines is None else next(islice(self.lines(), i, None))


def arrow(owner: str, part: str = "") -> Any:
    return extra(f"pyarrow.{part}" if part else "pyarrow", "table", owner)


def read_table(path: str | os.PathLike[str], options: Options) -> Table:
    """Read a file by its ending: Parquet, Arrow, anything else as CSV."""
    name = str(path)
    if name == "-":
        return read_csv(spooled(sys.stdin.buffer), "standard input", options)
    file = Path(path)
    if not file.is_file() and not file.is_fifo():
        raise BadTable(f"{name}: this is not a file" if file.exists() else f"{name}: there is no such file")
    try:
        if file.is_fifo():
            with open(file, "rb") as pipe:
                return read_csv(spooled(pipe), name, options)
        if file.suffix.lower() in ARROW_SUFFIXES:
            return read_arrow(file)
        return read_csv(file, name, options)
    except OSError as error:
        raise BadTable(f"{name}: {error.strerror or error}") from None


def spooled(stream: IO[bytes]) -> Path:
    """A temporary file with what a stream holds, which can be read more than once."""
    file = tempfile.NamedTemporaryFile(prefix="fastfc-", suffix=".csv", delete=False)  # noqa: SIM115
    with file:
        shutil.copyfileobj(stream, file)
    atexit.register(Path(file.name).unlink, missing_ok=True)
    return Path(file.name)


# ---------- Parquet, Arrow, frames


def read_arrow(path: Path) -> Table:
    pyarrow = arrow(f"{path}: reading this format")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            file = arrow("reading Parquet", "parquet").ParquetFile(path)
            schema, source = file.schema_arrow, file.iter_batches
        else:
            data = arrow("reading Arrow", "dataset").dataset(path, format="ipc")
            schema, source = data.schema, data.to_batches
        first = next(iter(source()), None)
    except pyarrow.ArrowInvalid as error:
        kind = "Parquet" if path.suffix.lower() in (".parquet", ".pq") else "Arrow"
        raise BadTable(f"{path}: this is not a whole {kind} file ({error})") from None
    if first is None or not first.num_rows:
        raise BadTable(f"{path}: there are no rows")
    names = list(schema.names)
    index = [name for name in names if re.fullmatch(r"__index_level_\d+__", name)]
    check_names(str(path), names)
    return Table(str(path), names, source, unnamed=frozenset(index))


def of_pandas(column: Any) -> Any:
    pyarrow = arrow("Table.of")
    try:
        return pyarrow.array(column, from_pandas=True)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):  # objects of several types
        return pyarrow.array(
            [None if missing else str(cell) for cell, missing in zip(column, column.isna(), strict=True)]
        )


def of_arrow(path: str, table: Any) -> Table:
    names = [str(name) for name in table.column_names]
    check_names(path, names)
    if not names:
        raise BadTable(f"{path}: there are no columns")
    return Table(path, names, table.to_batches, held=table.to_batches(), n=table.num_rows)


# ---------- CSV


@dataclass(frozen=True)
class Format:
    """How a text file is cut."""

    path: Path
    name: str
    encoding: str
    delimiter: str
    first: int  # lines above the first row
    names: tuple[str, ...]
    comment: str
    plain: bool  # UTF-8 whose lines end in a line feed

    def text(self) -> IO[str]:
        return io.TextIOWrapper(opened(self.path), encoding=self.encoding, newline="")


def opened(path: Path) -> Any:
    """The bytes of a file, decompressed by its ending."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.open(path, "rb")
    if suffix == ".bz2":
        return bz2.open(path, "rb")
    if suffix == ".xz":
        return lzma.open(path, "rb")
    if suffix == ".zst":
        return io.BufferedReader(Readable(arrow("reading .zst").input_stream(str(path), compression="zstd")))
    return open(path, "rb")


class Readable(io.RawIOBase):
    """A stream of Arrow as one of Python."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def read_csv(path: Path, name: str, options: Options) -> Table:
    arrow("reading tables")
    try:
        with opened(path) as file:
            head = file.read(SAMPLE_BYTES)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise BadTable(f"{name}: this can't be decompressed ({error})") from None
    if not head.strip():
        raise BadTable(f"{name}: the file is empty")
    encoding = encoding_of(name, head, options)
    sample = decoded(name, head, encoding, whole=len(head) < SAMPLE_BYTES)
    shape, notes, unnamed = format_of(path, name, encoding, sample, options)
    table = Table(name, list(shape.names), lambda: batches_of(shape), notes, "line", unnamed, None, shape.delimiter)
    table.lines = lambda: (line for line, _ in rows_of(shape))
    if not len(table):
        raise BadTable(f"{name}: there is a header and nothing below it")
    return table


def encoding_of(name: str, head: bytes, options: Options) -> str:
    if options.encoding:
        try:
            codecs.lookup(options.encoding)
        except LookupError:
            raise BadTable(f"{name}: there is no encoding {options.encoding!r}; try utf-8, latin-1 or cp1252") from None
        return UTF_8 if codecs.lookup(options.encoding).name == "utf-8" else options.encoding
    for bom, encoding in BOMS:
        if head.startswith(bom):
            return encoding
    for magic, kind in NOT_TABLES.items():
        if head.startswith(magic):
            raise BadTable(f"{name}: this is {kind}, not a text file; save the table as CSV or Parquet")
    if b"\0" in head:
        even, odd = head[::2].count(0), head[1::2].count(0)
        if max(even, odd) > len(head) // 4 and min(even, odd) == 0:
            return "utf-16-be" if even else "utf-16-le"
        raise BadTable(f"{name}: this is not a text file, but has zero bytes; give CSV, or Parquet named .parquet")
    return UTF_8


def decoded(name: str, head: bytes, encoding: str, whole: bool) -> str:
    """The text of the sample, without a last line that is cut off."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head, final=whole)
    except UnicodeDecodeError as error:
        raise not_text(name, error.object[: error.start].count(b"\n") + 1, encoding) from None
    if not whole:
        end = max(text.rfind("\n"), text.rfind("\r"))
        text = text[: end + 1] if end >= 0 else text
    return text


def not_text(name: str, line: int, encoding: str) -> BadTable:
    known = "UTF-8" if encoding == UTF_8 else encoding
    return BadTable(
        f"{name}, line {line}: this is not {known} text; say --encoding latin-1 if it is that, or save it as UTF-8"
    )


def format_of(
    path: Path, name: str, encoding: str, sample: str, options: Options
) -> tuple[Format, list[str], frozenset[str]]:
    """How the file is cut, what is to be said of that, and the columns without a name."""
    lines = list(io.StringIO(sample, newline=""))
    first, delimiter, notes = 0, options.delimiter, []
    if re.fullmatch(r"sep=.", lines[0].strip("\ufeff\r\n"), re.IGNORECASE):
        first, delimiter = 1, delimiter or lines[0].strip("\ufeff\r\n")[-1]
    above = first
    while first < len(lines) and (not lines[first].strip() or is_comment(lines[first], options.comment)):
        first += 1
    delimiter = delimiter or sniffed(lines[first:])
    above_table = lines_above(lines[first:], delimiter)
    if above_table:
        first += above_table
        notes.append(f"{plural(above_table, 'line')} above the table left out")
    comments = [line for line in lines[above:first] if line.strip()]
    rows = list(islice(cut(lines[first:], delimiter), SAMPLE_ROWS))
    rows = [cells for cells in rows if any(cells)]
    width = Counter(map(len, rows[1:] or rows)).most_common(1)[0][0] if rows else 0
    names: list[str] | None = None
    header = options.header
    if comments and header and not is_header(rows, options):
        # "# a, b" above rows of two cells are their names
        last = comments[-1].lstrip()[len(options.comment) :]
        cells = next(cut([last], delimiter), [])
        if len(cells) == width and width > 1 and all(cells):
            names, header = cells, False
    if not rows and names is None:
        if comments:
            raise BadTable(f"{name}: there are only lines that begin with {options.comment}")
        raise BadTable(f"{name}: the file is empty")
    if header and is_header(rows, options):
        names = rows[0]
        first += lines_of(lines[first:], delimiter)
        if len(names) == width - 1 and any(row[-1] for row in rows[1:] if len(row) == width):
            names = ["", *names]  # as R's write.table has it
        elif len(names) == width + 1 and not names[-1]:
            names = names[:-1]
    elif names is None:
        width = max(width, len(rows[0]))
        names = [""] * width
        notes.append(f"no header: the columns are called column1 to column{width}")
    called = tuple(cell or f"column{i}" for i, cell in enumerate(names, 1))
    unnamed = frozenset(called[i] for i, cell in enumerate(names) if not cell or re.fullmatch(r"Unnamed: \d+", cell))
    check_names(name, list(called))
    if all(not cell for cell in names):
        unnamed = frozenset()
    plain = encoding == UTF_8 and not re.search(r"\r(?!\n)", sample) and delimiter != SPACES
    return Format(path, name, encoding, delimiter, first, called, options.comment, plain), notes, unnamed


def lines_above(lines: list[str], delimiter: str) -> int:
    """How many lines of text stand above a table: their cells are fewer than those of most rows, and of its header."""
    counts = [len(row) if any(row) else 0 for row in islice(cut(lines, delimiter), SAMPLE_ROWS)]
    cells, rows = Counter(filter(None, counts)).most_common(1)[0] if any(counts) else (0, 0)
    if cells < 2 or rows < 3 or 2 * rows <= len(counts) or not counts or counts[0] >= cells - 1:
        return 0
    reader = reader_of(lines, delimiter)
    for _ in range(next(i for i, count in enumerate(counts) if count >= cells)):
        next(reader)
    return int(reader.line_num)


def is_comment(line: str, comment: str) -> bool:
    return bool(comment) and line.lstrip("\ufeff ").startswith(comment)


def lines_of(lines: list[str], delimiter: str) -> int:
    """Lines of the first row that is not blank, with the blank ones above."""
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    for row in reader:
        if any(cell.strip() for cell in row):
            break
    return reader.line_num


def cut(lines: Sequence[str] | Iterator[str], delimiter: str) -> Iterator[list[str]]:
    """Rows of stripped cells; what is wrong with quotes is told later."""
    try:
        for row in reader_of(lines, delimiter):
            yield [cell.strip() for cell in row]
    except csv.Error:
        return


def reader_of(lines: Any, delimiter: str) -> Any:
    if delimiter != SPACES:
        return csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    return csv.reader((line.strip().replace("\t", " ") + "\n" for line in lines), delimiter=" ", skipinitialspace=True)


def sniffed(lines: list[str]) -> str:
    """The delimiter that cuts most of the first lines into as many cells, more than one, and the header too."""

    def agreement(delimiter: str) -> tuple[int, int, int]:
        rows = [len(row) for row in islice(cut(lines, delimiter), SAMPLE_ROWS) if any(row)]
        cells, count = Counter(rows[1:] or rows).most_common(1)[0] if rows else (0, 0)
        if cells < 2:
            return 0, 0, 0
        header = 2 if rows[0] == cells else abs(rows[0] - cells) == 1  # R names one column less
        return (header, count, cells) if 2 * count >= len(rows[1:]) else (0, count, cells)

    best = max(DELIMITERS, key=agreement)
    rows = [line for line in lines[:SAMPLE_ROWS] if line.strip()]
    if 2 * agreement(best)[1] > len(rows) - 1:
        return best
    _, count, cells = agreement(SPACES)
    numbers = sum(is_number(cell) for row in islice(cut(lines[1:], SPACES), SAMPLE_ROWS) for cell in row)
    # a column of texts that have as many words is not cut
    return SPACES if cells > 1 and count >= len(rows) - 1 > 0 and 3 * numbers > count * cells else best


def is_number(cell: str) -> bool:
    try:
        float(cell.strip('"').replace(",", "."))
    except ValueError:
        return False
    return True


def is_header(rows: list[list[str]], options: Options) -> bool:
    """Whether the first line holds names."""
    if not rows:
        return False
    first, below = rows[0], rows[1:]
    if options.known and set(options.known) <= set(first):
        return True
    if options.known and first == [str(i) for i in range(len(first))]:
        return bool(set(options.known) & set(first))
    numbers = [cell for cell in first if is_number(cell)]
    if numbers:  # names such as town, 2019, 2020; else it is a row
        years = [int(cell) for cell in numbers if re.fullmatch("1[5-9][0-9]{2}|20[0-9]{2}", cell)]
        return (
            len(numbers) < len(first) and 1 < len(numbers) == len(years) and np.ptp(np.diff(years)) == 0 and all(first)
        )
    if not any(first):
        return False
    if len(set(filter(None, first))) < len(list(filter(None, first))):
        # a name that is there twice is an error to tell of, unless the line is a row like the others
        return not any(set(first) & set(row) for row in below)
    columns = list(zip(*(row for row in below if len(row) == len(first)), strict=True))
    if any(all(is_number(cell) or not cell for cell in column) for column in columns):
        return True
    # texts alone: a name is not among the cells of its column
    return not columns or not any(cell and cell in column for cell, column in zip(first, columns, strict=True))


def check_names(path: str, names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BadTable(f'{path}: two columns are called "{twice[0]}"; give each a name of its own')


def batches_of(shape: Format) -> Iterator[Any]:
    """The rows, cut by Arrow; from the first row that it does not take on by the csv module."""
    n = 0
    if shape.plain:
        for batch in arrow_batches(shape):
            if batch is None:
                break
            n += batch.num_rows
            yield batch
        else:
            return
    pyarrow = arrow("reading tables")
    rows = islice(rows_of(shape), n, None)
    while some := list(islice(rows, ROWS)):
        cells = zip(*(row for _, row in some), strict=True)
        yield pyarrow.record_batch([pyarrow.array(column, pyarrow.string()) for column in cells], names=shape.names)


def arrow_batches(shape: Format) -> Iterator[Any]:
    """Batches of rows without the blank ones; None instead of a batch that needs a closer look, and no more."""
    pyarrow, compute, csv_of = (arrow("reading tables", part) for part in ("", "compute", "csv"))
    wrong: list[Any] = []

    def look(row: Any) -> str:
        if row.text.strip() and not is_comment(row.text, shape.comment):
            wrong.append(row)
        return "skip"

    with opened(shape.path) as file:
        for _ in range(shape.first):
            file.readline()
        position = Quotes(file)
        try:
            reader = csv_of.open_csv(
                pyarrow.PythonFile(position, mode="r"),
                read_options=csv_of.ReadOptions(
                    use_threads=False, block_size=BLOCK_BYTES, column_names=list(shape.names)
                ),
                parse_options=csv_of.ParseOptions(
                    delimiter=shape.delimiter, newlines_in_values=True, invalid_row_handler=look
                ),
                convert_options=csv_of.ConvertOptions(
                    column_types=dict.fromkeys(shape.names, pyarrow.string()), strings_can_be_null=False
                ),
            )
            for batch in reader:
                if wrong or position.needs_a_look():
                    yield None
                    return
                yield without_blank_rows(batch, compute)
        except pyarrow.ArrowInvalid as error:
            if "Empty CSV file" not in str(error):
                yield None
            return
        if wrong or position.needs_a_look(at_end=True):
            yield None


class Quotes:
    """A file that is read, and whether its quotes may mean something else to Arrow than to the csv module."""

    closed = False

    def __init__(self, file: Any) -> None:
        self.file, self.count, self.spaced, self.last = file, 0, False, b""

    def read(self, size: int = -1) -> bytes:
        data: bytes = self.file.read(size)
        count = data.count(b'"')
        if count:
            self.count += count
            self.spaced = self.spaced or re.search(rb'[,;|\t] +"', self.last + data) is not None
        self.last = data[-16:]
        return data

    def needs_a_look(self, at_end: bool = False) -> bool:
        return self.spaced or (at_end and self.count % 2 == 1)


def without_blank_rows(batch: Any, compute: Any) -> Any:
    if not batch.num_rows:
        return batch
    blank = None
    for column in batch.columns:  # most rows have a first cell
        empty = compute.equal(compute.utf8_length(column), 0) if blank is None else is_blank(column, compute)
        blank = empty if blank is None else compute.and_(blank, empty)
        if blank is not None and not compute.any(blank).as_py():
            first = batch.column(0)
            if not compute.any(compute.starts_with(first, " ")).as_py():
                return batch
            blank = is_blank(first, compute)
            for other in batch.columns[1:]:
                blank = compute.and_(blank, is_blank(other, compute))
            break
    return batch.filter(compute.invert(blank)) if compute.any(blank).as_py() else batch


def is_blank(column: Any, compute: Any) -> Any:
    return compute.equal(compute.utf8_length(compute.utf8_trim_whitespace(column)), 0)


def rows_of(shape: Format) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of each row."""
    width, begin = len(shape.names), shape.first
    try:
        with shape.text() as file:
            for _ in range(shape.first):
                file.readline()
            reader = reader_of(file, shape.delimiter)
            try:
                for row in reader:
                    line, begin = begin + 1, shape.first + reader.line_num
                    if not any(cell.strip() for cell in row):
                        continue
                    if len(row) == width + 1 and not row[-1].strip():
                        row.pop()
                    if len(row) != width:
                        if is_comment(row[0], shape.comment):
                            continue
                        raise BadTable(
                            f"{shape.name}, line {line}: {plural(len(row), 'cell')} for {plural(width, 'column')}; "
                            "put a cell that holds the delimiter in quotes, or say --delimiter"
                        )
                    yield line, row
            except csv.Error as error:
                what = "a quote is not closed" if "end of data" in str(error) else str(error)
                raise BadTable(f"{shape.name}, line {begin + 1}: {what}") from None
    except UnicodeDecodeError as error:
        raise not_text(shape.name, bad_line(shape), shape.encoding) from error


def bad_line(shape: Format) -> int:
    """The line with the first byte that is not text."""
    decoder, line = codecs.getincrementaldecoder(shape.encoding)(), 1
    with opened(shape.path) as file:
        while data := file.read(BLOCK_BYTES):
            try:
                line += decoder.decode(data).count("\n")
            except UnicodeDecodeError as error:
                return line + error.object[: error.start].count(b"\n")
    return line
