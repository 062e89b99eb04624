"""Dates and times in text, as moments, and moments as numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfc.tabular.reader import arrow

CLOCK = r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:\.\d+)?)?(?: ?(?P<half>[AaPp])\.?[Mm]\.?)?"
AFTER = rf"(?:(?:[T ]|, ?){CLOCK} ?(?:Z|UTC|[+-]\d{{2}}(?::?\d{{2}})?)?)?"  # the clock as it was there
NAMED = r"(?P<name>[A-Za-z]{3,9})\.?"
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
MARK = "[-./]"
# How a date may be written. Which of two numbers below 13 is the month, the other dates of the column tell.
FORMATS = {
    "year-month-day": rf"(?P<year>\d{{4}}){MARK}(?P<month>\d{{1,2}}){MARK}(?P<day>\d{{1,2}}){AFTER}",
    "day.month.year": rf"(?P<day>\d{{1,2}}){MARK}(?P<month>\d{{1,2}}){MARK}(?P<year>\d{{4}}){AFTER}",
    "month/day/year": rf"(?P<month>\d{{1,2}}){MARK}(?P<day>\d{{1,2}}){MARK}(?P<year>\d{{4}}){AFTER}",
    "day.month.yy": rf"(?P<day>\d{{1,2}})[./](?P<month>\d{{1,2}})[./](?P<year>\d{{2}}){AFTER}",
    "month/day/yy": rf"(?P<month>\d{{1,2}})/(?P<day>\d{{1,2}})/(?P<year>\d{{2}}){AFTER}",
    "day name year": rf"(?P<day>\d{{1,2}})[- .]{{1,2}}{NAMED}[- ](?P<year>\d{{4}}){AFTER}",
    "name day, year": rf"{NAMED}[- ](?P<day>\d{{1,2}}),?[- ](?P<year>\d{{4}}){AFTER}",
    "hour:minute": CLOCK,
}
PARTS = ("days", "month", "weekday", "hour")


class Dates(NamedTuple):
    """How the dates of a column become numbers: the format, the day that days are counted from, and which numbers."""

    format: str
    origin: str
    parts: tuple[str, ...]


def is_date(texts: Any, name: str) -> NDArray[np.bool_]:
    return ~np.isnat(moments(texts, name))


def moments(texts: Any, name: str) -> NDArray[np.datetime64]:
    """The moments that texts of a format name, to the second; NaT for other texts."""
    compute = arrow("reading tables", "compute")
    found = compute.extract_regex(texts, f"^{FORMATS[name]}$")
    good = np.asarray(found.is_valid())
    result = np.full(len(texts), np.datetime64("NaT"), "datetime64[s]")
    if not good.any():
        return result
    rows = np.flatnonzero(good)
    parts = {
        part.name: column for part, column in zip(found.type, found.filter(found.is_valid()).flatten(), strict=True)
    }

    def number(part: str, default: int) -> NDArray[np.int64]:
        if part not in parts:
            return np.full(len(rows), default)
        return np.array([int(cell) if cell else default for cell in parts[part].to_pylist()], np.int64)

    year, day = number("year", 1970), number("day", 1)
    if name.endswith("yy"):
        year += np.where(year < 69, 2000, 1900)
    if "name" in parts:
        names = [cell[:3].lower() for cell in parts["name"].to_pylist()]
        month = np.array([MONTHS.index(cell) + 1 if cell in MONTHS else 0 for cell in names])
    else:
        month = number("month", 1)
    hour, minute, second = number("hour", 0), number("minute", 0), number("second", 0)
    if "half" in parts:
        half = np.array([(cell or "").lower() for cell in parts["half"].to_pylist()])
        late = np.where(half == "p", 12, 0)
        hour = np.where((half != "") & (hour <= 12) & (hour > 0), hour % 12 + late, np.where(half != "", 99, hour))
    valid = (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31) & (hour <= 23) & (minute <= 59) & (second <= 60)
    first = (year - 1970).astype("datetime64[Y]").astype("datetime64[M]") + (np.where(valid, month, 1) - 1)
    date = first.astype("datetime64[D]") + (np.where(valid, day, 1) - 1)
    valid &= date.astype("datetime64[M]") == first  # no 31 April
    moment = date.astype("datetime64[s]") + (hour * 3600 + minute * 60 + second)
    result[rows[valid]] = moment[valid]
    return result


def typed_moments(cells: Any) -> NDArray[np.datetime64]:
    """The moments in a column of Arrow's dates or times; NaT where they are missing."""
    pyarrow, compute = arrow("reading tables"), arrow("reading tables", "compute")
    kind = str(cells.type)
    if kind.startswith("time32") or kind.startswith("time64"):
        unit = kind.partition("[")[2].rstrip("]")
        whole = compute.cast(compute.cast(cells, pyarrow.int32() if "32" in kind else pyarrow.int64()), pyarrow.int64())
        cells = whole.cast(pyarrow.timestamp(unit))
    elif ", tz=" in kind:
        cells = compute.local_timestamp(cells)
    elif kind.startswith("date"):
        cells = cells.cast(pyarrow.timestamp("s"))
    return np.asarray(cells).astype("datetime64[s]")


def numbers_of_parts(when: NDArray[np.datetime64], dates: Dates) -> dict[str, NDArray[np.float64]]:
    """Each part of moments as a number; NaN for NaT."""
    missing = np.isnat(when)
    filled = np.where(missing, np.datetime64("1970-01-01T00:00:00"), when)
    day = filled.astype("datetime64[D]")
    seconds = (filled - day).astype(np.float64)
    since = (filled - np.datetime64(dates.origin, "s")).astype(np.float64) / 86400
    numbers = {
        "days": np.floor(since) if "hour" in dates.parts else since,
        "month": filled.astype("datetime64[M]").astype(np.int64) % 12 + 1.0,
        "weekday": (day.astype(np.int64) + 3) % 7 + 0.0,  # 0 is Monday
        "hour": seconds / 3600,
    }
    return {part: np.where(missing, np.nan, numbers[part]) for part in dates.parts}


def parts_of(when: NDArray[np.datetime64], form: str) -> Dates:
    """Which parts vary among these moments."""
    when = when[~np.isnat(when)]
    origin = str(when.min().astype("datetime64[D]")) if len(when) else "1970-01-01"
    every = numbers_of_parts(when, Dates(form, origin, PARTS))
    varying = [part for part in PARTS if len(np.unique(every[part])) > 1]
    if "days" in varying and len(np.unique(every["weekday"])) == 1:
        varying = [part for part in varying if part != "weekday"]
    return Dates(form, origin, tuple(varying))
