"""What the columns of a table hold, and their cells as numbers.

The rule: text is the identity of a category, numbers are values. Texts are never merged because they could be read as
the same number, and a number is read in one way in all of a column. What is doubtful is said in a note.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfc.tabular.dates import FORMATS, is_date
from fastfc.tabular.reader import Table, arrow

KINDS = ("number", "text", "date", "ignore")  # as a user says them
MISSING = {"", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "?", "-", "--", "."}  # among numbers and dates
FEW = 20  # different whole numbers that are taken for classes
MOST_CATEGORIES = 1000
COUNTED = 100_000  # different texts that are counted
LARGEST_WHOLE = 2.0**53  # from which on not each whole number is a float64
LARGEST = 3e38  # numbers beyond are taken for mistakes
ID_NAME = re.compile(r"(.*[ _.-])?(id|index|idx|rownames|uuid|guid)|id[ _.-].*|key|nr|no|row|obs", re.IGNORECASE)
ID_CAMEL = re.compile(r".*[a-z](Id|ID)")

# ---------- numbers in text

CURRENCY = "[$€£¥₹₽₩]|USD|EUR|GBP|CHF|JPY|CNY|INR"
SPACES = "\u00a0\u202f\u2009"  # that do not break a line
MINUS, QUOTE = "\u2212", "\u2019"
DRESSED = f"[%<>≤≥(){SPACES}{MINUS}{QUOTE}]|{CURRENCY}"
GROUPS = "[+-]?[1-9][0-9]{0,2}"
EXPONENT = "([eE][+-]?[0-9]+)?"
# how a number may be written, each form with what it says of the marks for decimals and thousands
FORMS = {
    "whole": "[+-]?[0-9]+" + EXPONENT,
    "point": rf"[+-]?([0-9]+\.[0-9]*|\.[0-9]+){EXPONENT}",
    "point3": rf"{GROUPS}\.[0-9]{{3}}",
    "points": rf"{GROUPS}(\.[0-9]{{3}}){{2,}}",
    "comma": rf"[+-]?([0-9]+,[0-9]*|,[0-9]+){EXPONENT}",
    "comma3": rf"{GROUPS},[0-9]{{3}}",
    "commas": rf"{GROUPS}(,[0-9]{{3}}){{2,}}",
    "points comma": rf"{GROUPS}(\.[0-9]{{3}})+,[0-9]+",
    "commas point": rf"{GROUPS}(,[0-9]{{3}})+\.[0-9]+",
    "spaces": rf"{GROUPS}( [0-9]{{3}})+",
    "spaces point": rf"{GROUPS}( [0-9]{{3}})+\.[0-9]+",
    "spaces comma": rf"{GROUPS}( [0-9]{{3}})+,[0-9]+",
    "quotes": rf"{GROUPS}('[0-9]{{3}})+",
    "quotes point": rf"{GROUPS}('[0-9]{{3}})+\.[0-9]+",
    "quotes comma": rf"{GROUPS}('[0-9]{{3}})+,[0-9]+",
}
# a later form is narrower than the one before it that it fits too
ORDER = list(FORMS)
POINT_FORMS, COMMA_FORMS = (
    ("point", "commas point", "spaces point", "quotes point"),
    ("comma", "points comma", "spaces comma", "quotes comma"),
)


class Style(NamedTuple):
    """The marks in the numbers of a column."""

    decimal: str = "."
    thousands: str = ""


PLAIN = Style()


def full(pattern: str) -> str:
    return f"^({pattern})$"


def undressed(texts: Any) -> tuple[Any, NDArray[np.float64], Counter[str]]:
    """Texts without %, currency and the like, what to multiply each with, and how often each of these is there."""
    compute = arrow("reading tables", "compute")
    joined = compute.any(compute.match_substring_regex(texts, DRESSED)).as_py()
    factor = np.ones(len(texts))
    seen: Counter[str] = Counter()
    if not joined:
        return texts, factor, seen

    def cut(pattern: str, to: str = "") -> NDArray[np.bool_]:
        nonlocal texts
        there = as_bool(compute.match_substring_regex(texts, pattern))
        if there.any():
            texts = compute.utf8_trim_whitespace(compute.replace_substring_regex(texts, pattern, to))
        return there

    digits = "[0-9]"
    cut(f"[{SPACES}]", " ")
    cut(MINUS, "-")
    cut(QUOTE, "'")
    negative = cut(rf"^\((.*{digits}.*)\)$", r"\1")
    factor[negative] = -1
    percent = cut(rf"^(.*{digits}) ?%$", r"\1")
    factor[percent] /= 100
    censored = cut(rf"^[<>≤≥]=? ?([+-]?[.,]?{digits}.*)$", r"\1")
    currency = cut(rf"^([+-]?) ?({CURRENCY}) ?([+-]?[.,]?{digits}.*)$", r"\1\3")
    currency |= cut(rf"^(.*{digits}) ?({CURRENCY})$", r"\1")
    for name, there in (("()", negative), ("%", percent), ("<", censored), ("currency", currency)):
        if there.any():
            seen[name] += int(there.sum())
    return texts, factor, seen


def as_bool(values: Any) -> NDArray[np.bool_]:
    return np.asarray(values.fill_null(False)).astype(bool)


def forms_of(texts: Any) -> NDArray[np.int8]:
    """The form of each text, −1 for what is no number."""
    compute = arrow("reading tables", "compute")
    found = np.full(len(texts), -1, np.int8)
    for i, pattern in enumerate(FORMS.values()):
        found[as_bool(compute.match_substring_regex(texts, full(pattern)))] = i
    return found


def values_of(texts: Any, style: Style) -> NDArray[np.float64]:
    """The numbers in texts that are written in this style, NaN for others."""
    pyarrow, compute = arrow("reading tables"), arrow("reading tables", "compute")
    texts, factor, _ = undressed(texts)
    mark, sign = re.escape(style.decimal), "[+-]?"
    plain = rf"{sign}([0-9]+({mark}[0-9]*)?|{mark}[0-9]+){EXPONENT}"
    pattern = plain
    if style.thousands:
        pattern += rf"|{GROUPS}({re.escape(style.thousands)}[0-9]{{3}})+({mark}[0-9]*)?"
    good = compute.match_substring_regex(texts, full(pattern))
    texts = compute.if_else(good, texts, None)
    if style.thousands:
        texts = compute.replace_substring(texts, style.thousands, "")
    if style.decimal != ".":
        texts = compute.replace_substring(texts, style.decimal, ".")
    values = np.asarray(compute.cast(texts, pyarrow.float64()).fill_null(np.nan)) * factor
    return np.where(np.abs(values) <= LARGEST, values, np.nan)


# ---------- a column as it is


@dataclass
class Profile:
    """What was seen in the cells of a column."""

    name: str
    n: int = 0
    empty: int = 0
    markers: Counter[str] = field(default_factory=Counter)  # such as NA, in the case of the first
    forms: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    dressed: Counter[str] = field(default_factory=Counter)
    texts: Counter[str] | None = field(default_factory=Counter)  # None: too many, or numbers alone
    leading_zeros: str = ""
    dates: Counter[str] = field(default_factory=Counter)
    typed: str = ""  # number, bool or date where the file says so
    wide: bool = False  # whole numbers of four digits or more without a mark
    skimmed: bool = False  # batches of numbers, of whose texts nothing is known
    read: bool = False  # batches of which each text was looked at
    whole: bool = True
    counting: list[NDArray[np.float64]] | None = field(default_factory=list)
    large: bool = False

    @property
    def present(self) -> int:
        """Cells that are not empty and not a marker such as NA."""
        return self.n - self.empty - sum(self.markers.values())

    @property
    def numbers(self) -> int:
        return sum(self.forms.values())

    def add(self, cells: Any, texts: bool) -> None:
        """Look at a batch; at its texts too, if they are needed although all are numbers."""
        pyarrow, compute = arrow("reading tables"), arrow("reading tables", "compute")
        self.n += len(cells)
        kind = str(cells.type)
        if kind.startswith("dictionary"):
            cells = cells.dictionary_decode()
            kind = str(cells.type)
        if kind in ("string", "large_string", "string_view"):
            if texts or not self.add_plain(cells, pyarrow, compute):
                self.add_texts(cells.cast(pyarrow.string()), compute)
            return
        self.empty += cells.null_count
        if kind == "null":
            return
        if kind == "bool":
            self.typed = "bool"
            self.count(compute.if_else(cells, "True", "False").drop_null(), compute)
        elif kind.startswith(("int", "uint", "float", "double", "halffloat", "decimal")):
            self.typed = "number"
            values = numbers_of(cells)
            self.empty += int(np.isnan(values).sum()) - cells.null_count
            values = values[~np.isnan(values)]
            self.forms["whole" if kind.startswith(("int", "uint")) else "point"] += len(values)
            self.see(values)
            if texts:
                self.count(texts_of(cells).drop_null(), compute)
            else:
                self.texts, self.skimmed = None, True
        elif kind.startswith(("date", "timestamp", "time")):
            self.typed = "date"
            self.texts = None
            self.dates["typed"] += len(cells) - cells.null_count
        else:
            self.typed = kind
            self.texts = None

    def add_plain(self, cells: Any, pyarrow: Any, compute: Any) -> bool:
        """Whether all cells are numbers as Python writes them, so that nobody has to look at the texts."""
        empty = compute.equal(compute.binary_length(cells), 0)
        try:
            values = np.asarray(compute.cast(compute.if_else(empty, None, cells), pyarrow.float64()).drop_null())
        except pyarrow.ArrowInvalid:
            return False
        if not len(values) or not (np.abs(values) <= LARGEST).all():
            return False
        whole = bool((values == np.floor(values)).all())
        if not whole and (values * 1000 == np.round(values * 1000)).all():
            return False  # 1.203 may be a thousand
        if whole:
            if compute.any(compute.match_substring_regex(cells, r"^[+-]?0[0-9]|[.eE]")).as_py():
                return False
            self.wide = self.wide or bool((np.abs(values) >= 1000).any())
        self.forms["whole" if whole else "point"] += len(values)
        self.empty += len(cells) - len(values)
        self.texts, self.skimmed = None, True
        self.see(values)
        return True

    def see(self, values: NDArray[np.float64]) -> None:
        """Note of values whether they may count or name the rows."""
        if self.whole and (values == np.floor(values)).all():
            self.large = self.large or bool((np.abs(values) >= LARGEST_WHOLE).any())
            if self.counting is not None:
                self.counting.append(values)
        else:
            self.whole, self.counting = False, None

    def add_texts(self, cells: Any, compute: Any) -> None:
        self.read = True
        coded = compute.dictionary_encode(compute.utf8_trim_whitespace(cells.fill_null("")))
        different = coded.dictionary
        counts = np.bincount(np.asarray(coded.indices), minlength=len(different))
        names = different.to_pylist()
        lowered = [name.lower() if len(name) < 6 else "" if not name else "x" for name in names]
        marker = np.array([name in MISSING for name in lowered])
        blank = np.array([not name for name in names])
        self.empty += int(counts[blank].sum())
        for i in np.flatnonzero(marker & ~blank):
            self.markers[names[i]] += int(counts[i])
        if self.texts is not None:
            for i in np.flatnonzero(~blank):
                self.texts[names[i]] += int(counts[i])
            if len(self.texts) > COUNTED:
                self.texts = None
        bare, _, dressed = undressed(different)
        for name, _ in dressed.items():
            self.dressed[name] += dressed[name]
            self.examples.setdefault(name, next(n for n in names if is_dressed(n, name)))
        forms = forms_of(bare)
        forms[marker] = -1
        bare_names = bare.to_pylist()
        for form in np.unique(forms[forms >= 0]):
            rows = np.flatnonzero(forms == form)
            self.forms[ORDER[form]] += int(counts[rows].sum())
            self.examples.setdefault(ORDER[form], names[rows[0]])
            if ORDER[form] == "whole":
                self.leading_zeros = self.leading_zeros or next(
                    (names[i] for i in rows if re.match(r"[+-]?0\d", bare_names[i])), ""
                )
                self.wide = self.wide or any(len(bare_names[i].lstrip("+-")) > 3 for i in rows)
        if (forms[~marker & ~blank] == 0).all():
            whole = np.array(
                [float(name) if form == 0 else np.nan for name, form in zip(bare_names, forms, strict=True)]
            )
            values = whole[np.asarray(coded.indices)]
            self.see(values[~np.isnan(values)])
        else:
            self.whole, self.counting = False, None
        others = different.filter(arrow("reading tables").array((forms < 0) & ~marker))
        if len(others):
            numbers = counts[(forms < 0) & ~marker]
            for name in FORMATS:
                there = is_date(others, name)
                if there.any():
                    self.dates[name] += int(numbers[there].sum())

    def count(self, cells: Any, compute: Any) -> None:
        if self.texts is not None:
            for one in compute.value_counts(cells).to_pylist():
                self.texts[one["values"]] += one["counts"]
            if len(self.texts) > COUNTED:
                self.texts = None

    def counts_rows(self) -> bool:
        """Whether the cells are different whole numbers without a gap."""
        if self.counting is None or not self.counting or self.present != self.n:
            return False
        values = np.concatenate(self.counting)
        low, high = values.min(), values.max()
        return bool(high - low == len(values) - 1 and len(np.unique(values)) == len(values))

    def all_different(self) -> bool:
        if self.present != self.n or self.n < 2:
            return False
        if self.counting:
            return len(np.unique(np.concatenate(self.counting))) == self.n
        return self.texts is not None and len(self.texts) == self.n


def is_dressed(text: str, what: str) -> bool:
    marks = {"()": r"^\(", "%": "%", "<": "^[<>≤≥]", "currency": CURRENCY}
    return re.search(marks[what], text) is not None


def numbers_of(cells: Any) -> NDArray[np.float64]:
    """Numbers of a typed column; NaN where they are missing, too large ones as infinite."""
    pyarrow, compute = arrow("reading tables"), arrow("reading tables", "compute")
    kind = str(cells.type)
    if kind in ("halffloat", "float") or kind.startswith(("int", "uint", "decimal")):
        cells = compute.cast(cells, pyarrow.float64(), safe=False)
    return np.array(cells.fill_null(np.nan), np.float64)


def texts_of(cells: Any) -> Any:
    """Typed cells as text, null where they are missing."""
    pyarrow, compute = arrow("reading tables"), arrow("reading tables", "compute")
    kind = str(cells.type)
    if kind.startswith("dictionary"):
        return texts_of(cells.dictionary_decode())
    if kind == "bool":
        return compute.if_else(cells, "True", "False")
    if kind in ("double", "float", "halffloat"):
        values = numbers_of(cells)
        return pyarrow.array([None if np.isnan(v) else repr(float(v)) for v in values], pyarrow.string())
    texts = compute.cast(cells, pyarrow.string())
    return compute.utf8_trim_whitespace(texts) if "string" in kind else texts


# ---------- what a column is taken for


@dataclass(frozen=True)
class Column:
    """What a column was taken for, and how its cells are read.

    Attributes
    ----------
    kind : str
        number, text (a category), date, or ignore.
    why : str
        What there was to see, for people.
    doubt : str
        What else it could be, and how to say so; else empty.
    style : Style
        Of numbers.
    date : str
        The format of dates.
    boolean : bool
        Texts that are true and false in any case.
    missing : int
        How many cells are missing.
    """

    name: str
    kind: str
    why: str = ""
    doubt: str = ""
    style: Style = PLAIN
    date: str = ""
    boolean: bool = False
    missing: int = 0


@dataclass(frozen=True)
class Wishes:
    """What the user says of columns."""

    kinds: Mapping[str, str] = field(default_factory=dict)
    decimal: str | None = None
    thousands: str | None = None


def profiled(table: Table, wishes: Wishes, texts: Collection[str] = ()) -> dict[str, Profile]:
    """What is in each column; `texts` names columns whose texts are needed even if all are numbers."""
    profiles = {name: Profile(name) for name in table.names}
    styled = wishes.decimal is not None or wishes.thousands is not None
    needed = {name for name in table.names if styled or name in texts or wishes.kinds.get(name) == "text"}
    for batch in table.batches():
        for profile, cells in zip(profiles.values(), batch.columns, strict=True):
            profile.add(cells, profile.name in needed)
    # what a later batch holds may make texts of the plain numbers before it
    again = {name: Profile(name) for name, profile in profiles.items() if profile.skimmed and not plain(profile)}
    for batch in table.batches() if again else ():
        for name, profile in again.items():
            profile.add(batch.column(table.names.index(name)), True)
    return profiles | again


def plain(profile: Profile) -> bool:
    """Whether nothing but numbers was seen, of which each is the same as its text says."""
    return not profile.read and not profile.large


def file_decimal(profiles: Mapping[str, Profile]) -> str:
    """The decimal mark that is in use where there is no doubt; empty if there is none, or both."""
    point = any(unsure(p) == 0 and sum(p.forms[f] for f in POINT_FORMS) for p in profiles.values())
    comma = any(p.forms[f] for p in profiles.values() for f in COMMA_FORMS)
    return "." if point and not comma else "," if comma and not point else ""


def unsure(profile: Profile) -> int:
    return sum(profile.forms[f] for f in ("point3", "comma3"))


def styled(profile: Profile, wishes: Wishes, hint: str) -> tuple[Style, str]:
    """The marks in the numbers of a column, and what is doubtful about them."""
    forms = profile.forms
    if wishes.decimal is not None or wishes.thousands is not None:
        decimal = wishes.decimal or ("," if wishes.thousands == "." else ".")
        return Style(decimal, wishes.thousands or ""), ""
    used = {form.partition(" ")[0] for form in forms if forms[form]}
    mark = " " if "spaces" in used else "'" if "quotes" in used else ""
    point, comma = (sum(forms[f] for f in group) for group in (POINT_FORMS, COMMA_FORMS))
    if comma > point:
        groups = forms["points"] + forms["points comma"] + forms["point3"]
        return Style(",", mark or ("." if groups else "")), ""
    if point:
        groups = forms["commas"] + forms["commas point"] + forms["comma3"]
        return Style(".", mark or ("," if groups else "")), ""
    if forms["commas"]:
        return Style(".", ","), ""
    if forms["points"]:
        return Style(",", "."), ""
    if forms["comma3"]:
        one = profile.examples["comma3"]
        if hint == ",":
            return Style(",", mark), doubt(
                one, one.replace(",", "."), "--thousands , --decimal .", one.replace(",", "")
            )
        return Style(".", ","), doubt(one, one.replace(",", ""), "--decimal ,", one.replace(",", "."))
    if forms["point3"]:
        one = profile.examples["point3"]
        mixed = forms["whole"] and not profile.wide
        if hint == "," or (mixed and hint != "."):
            return Style(",", "."), doubt(one, one.replace(".", ""), "--decimal .", one)
    return Style(".", mark), ""


def doubt(one: str, taken: str, option: str, other: str) -> str:
    return f'"{one}" is taken for {taken}; {option} if it is {other}'


def decide(profile: Profile, wishes: Wishes, hint: str) -> Column:
    """What a column is taken for."""
    name, wish = profile.name, wishes.kinds.get(profile.name)
    style, unclear = styled(profile, wishes, hint)
    if wish == "ignore":
        return Column(name, "ignore", "as you say")
    if profile.typed and profile.typed not in ("number", "bool", "date"):
        return Column(name, "ignore", f"the file holds {profile.typed} in it")
    boolean = profile.typed == "bool" or (
        bool(profile.texts) and {t.lower() for t in profile.texts or ()} <= {"true", "false"}
    )
    best = max(profile.dates, key=lambda form: (profile.dates[form], form == date_first(form, hint)), default="")
    if wish is not None:
        return Column(name, wish, "as you say", unclear * (wish == "number"), style, best, boolean)
    if boolean:
        return Column(name, "text", "true and false", boolean=True)
    if profile.present == 0:
        return Column(name, "ignore", "all cells are empty")
    if profile.dates["typed"]:
        return Column(name, "date", "the file says so", date="typed")
    if best and 2 * profile.dates[best] > profile.present:
        return Column(name, "date", best, date_doubt(profile, best), date=best)
    if profile.leading_zeros and profile.forms["whole"] == profile.numbers == profile.present:
        sure = f'"{profile.leading_zeros}" has a zero in front'
        return Column(name, "text", sure, f"{sure}: taken for text; --as number:{name} if it is a number")
    if profile.large and profile.whole:
        sure = "whole numbers of 2^53 or more, not all of which a number can tell apart"
        return Column(
            name, "text", sure, f'"{name}" holds {sure}: taken for text; --as number:{name} if it is a number'
        )
    if 2 * profile.numbers > profile.present:
        why = "numbers"
        notes = [unclear] if unclear else []
        for what, reading in READINGS.items():
            if profile.dressed[what]:
                notes.append(reading.format(example=profile.examples[what], n=profile.dressed[what]))
        return Column(name, "number", why, "; ".join(notes), style)
    return Column(name, "text", "text", same_but(profile))


READINGS = {
    "%": 'percent: "{example}" is a hundredth of its number',
    "<": '"{example}" is taken for the number behind the sign',
    "()": '"{example}" is taken for a negative number',
    "currency": '"{example}": the currency is left out',
}


def date_first(form: str, hint: str) -> str:
    """Of two formats that fit alike, the one with the day first where numbers have a comma, else as the mark says."""
    return form if form.startswith("day" if hint == "," else "month") else ""


def date_doubt(profile: Profile, best: str) -> str:
    others = [f for f in profile.dates if f != best and profile.dates[f] == profile.dates[best]]
    return f"dates are read as {best}; they could be {others[0]} as well" if others else ""


def same_but(profile: Profile) -> str:
    """A note of texts that differ only in case, or in how a number is written."""
    lower: dict[str, str] = {}
    for text in profile.texts or ():
        other = lower.setdefault(text.lower(), text)
        if other != text:
            return f'"{other}" and "{text}" are two categories'
    return ""
