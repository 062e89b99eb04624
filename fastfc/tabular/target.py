"""What a network predicts: a number, or one of the classes of a column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfc.tabular.columns import FEW, PLAIN, Column, Profile, Style, Wishes, decide, texts_of
from fastfc.tabular.encoding import number_cells, plain_cells, sorted_names, spellings
from fastfc.tabular.reader import BadTable, Table, arrow

NO_TARGET = {"", "na", "n/a", "#n/a", "nan", "null"}


class Target(NamedTuple):
    """The column, its classes or None for numbers, and why it was taken for that."""

    name: str
    classes: list[str] | None
    why: str
    style: Style = PLAIN
    boolean: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return self._asdict()


def find_target(table: Table, profile: Profile, wishes: Wishes, hint: str, task: str | None) -> Target:
    """Whether a column is of classes or numbers, if it is not told, by what is in it."""
    column = decide(profile, wishes, hint)
    place = f'{table.path}, column "{profile.name}"'
    if task is None and wishes.kinds.get(profile.name) in ("number", "text"):
        task = "regression" if wishes.kinds[profile.name] == "number" else "classification"
    if profile.present == 0:
        raise BadTable(f"{place}: all cells are empty; there is nothing to learn")
    if task is None and column.kind not in ("number", "text"):
        raise BadTable(
            f"{place}: dates can't be predicted; make a number of days of them, or say --task classification"
        )
    texts = {text: n for text, n in (profile.texts or {}).items() if text.lower() not in NO_TARGET}
    if task == "regression" or (task is None and column.kind == "number" and not few_whole(profile, texts)):
        if profile.present and len(texts) == 1:
            raise nothing_to_learn(place, next(iter(texts)))
        why = "as you say" if task else why_numbers(profile, texts)
        return Target(profile.name, None, why, column.style)
    if len(texts) == 1:
        raise nothing_to_learn(place, next(iter(texts)))
    n = sum(texts.values())
    if profile.texts is None or (2 * len(texts) > n and len(texts) > 2):
        many = f"{len(texts):,}" if profile.texts is not None else "so many"
        raise BadTable(
            f"{place}: {many} different values in {profile.n:,} {table.unit}s are not "
            + ("classes; --task regression for a number" if task else "classes")
        )
    names = spellings(texts) if column.boolean else class_names(texts, column.style)
    return Target(profile.name, names, why_classes(profile, column, texts, task), column.style, column.boolean)


def few_whole(profile: Profile, texts: Mapping[str, int]) -> bool:
    """Whether these numbers are whole, and so few that they are classes."""
    values = np.array([value_or_nan(text) for text in texts])
    return bool((values == np.round(values)).all()) and len(texts) <= min(FEW, profile.present // 2)


def value_or_nan(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def why_numbers(profile: Profile, texts: Mapping[str, int]) -> str:
    values = np.array([value_or_nan(text) for text in texts])
    whole = len(values) and (values == np.round(values)).all()
    what = f"{len(texts):,} different numbers" if whole else "numbers that are not whole"
    return f'"{profile.name}" holds {what}; --task classification for classes'


def why_classes(profile: Profile, column: Column, texts: Mapping[str, int], task: str | None) -> str:
    name = profile.name
    if task:
        return "as you say"
    if column.boolean:
        return f'"{name}" holds true and false'
    if column.kind == "number":
        return f'"{name}" holds {len(texts)} different whole numbers; --task regression for a number'
    if profile.leading_zeros:
        return f'"{name}" holds numbers with a zero in front, which are names; --task regression for a number'
    return f'"{name}" holds text'


def class_names(texts: Mapping[str, int], style: Style) -> list[str]:
    values = [value_or_nan(text) for text in texts]
    if not np.isnan(values).any():
        return sorted(texts, key=lambda text: (float(text), text))
    return sorted_names(texts)


def nothing_to_learn(place: str, text: str) -> BadTable:
    return BadTable(f'{place}: all cells are "{text}"; there is nothing to learn')


def target_values(table: Table, target: Target, fix: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The number of each row's class, or its value, and the rows that have one; BadTable for one that is no number."""
    values: list[NDArray[Any]] = []
    there, first = [], 0
    for cells in table.column(target.name):
        cells = plain_cells(cells)
        if target.classes is None:
            numbers, wrong = number_cells(cells, target.style)
            if wrong.any():
                i = int(np.flatnonzero(wrong)[0])
                raise BadTable(f'{table.where(first + i, target.name)}: "{cells[i].as_py()}" is not a number; {fix}')
            values.append(numbers)
            there.append(~np.isnan(numbers))
        else:
            codes = codes_of(cells, target)
            values.append(codes)
            there.append(codes >= 0)
        first += len(cells)
    return np.concatenate(values), np.concatenate(there)


def codes_of(cells: Any, target: Target) -> NDArray[np.int64]:
    """The number of each cell's class, −1 where it is missing or not known."""
    assert target.classes is not None
    compute = arrow("reading tables", "compute")
    coded = compute.dictionary_encode(texts_of(cells).fill_null(""))
    fold = str.lower if target.boolean else str
    number = {fold(name): i for i, name in enumerate(target.classes)}
    codes = np.array([number.get(fold(name), -1) for name in coded.dictionary.to_pylist()], np.int64)
    return codes[np.asarray(coded.indices)]
