"""Columns of a sheet as the inputs of a network: numbers as they are, categories as columns of 0 and 1."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfc.tabular.reader import BadTable, Table

FEW = 20  # different whole numbers that are taken for classes
MOST_CATEGORIES = 1000
TRUE_OR_FALSE = {"true", "false"}


class Feature(NamedTuple):
    """A column that a network reads; its categories, or None for numbers."""

    name: str
    categories: list[str] | None

    @property
    def width(self) -> int:
        return 1 if self.categories is None else len(self.categories)


class Target(NamedTuple):
    """What a network predicts: a number, or one of the classes; and why it was taken for that."""

    name: str
    classes: list[str] | None
    why: str


def find_features(table: Table, names: Sequence[str], categories: Collection[str]) -> list[Feature]:
    """How each of these columns is read; BadSheet for a cell or a column that can't be."""
    return [find_feature(table, name, name in categories) for name in names]


def find_feature(table: Table, name: str, category: bool) -> Feature:
    if not category and mostly_numbers(table, name):
        table.numbers(name, f'leave the column out with --exclude "{name}"')
        return Feature(name, None)
    texts = table.texts(name, f'leave the column out with --exclude "{name}"')
    found, n = sorted(set(texts)), len(texts)
    if len(found) > MOST_CATEGORIES or (len(found) > FEW and 2 * len(found) > n):
        raise BadTable(
            f'{table.path}, column "{name}": {len(found)} different texts in {n} {table.unit}s are no categories; '
            f'leave the column out with --exclude "{name}"'
        )
    return Feature(name, found)


def mostly_numbers(table: Table, name: str) -> bool:
    """Whether more than half of the cells that are not empty are numbers, so that the others are mistakes."""
    if table.as_numbers(name) is not None:
        return True
    cells = [cell for cell in table.columns[name] if not table.is_missing(cell, number=True)]
    return 2 * sum(map(table.is_number, cells)) > len(cells) or not cells


def find_target(table: Table, name: str, task: str | None) -> Target:
    """Whether a column is of classes or numbers, if it is not told, by what is in it."""
    fix, why = f"remove such {table.unit}s", "as you say"
    if task == "regression":
        check_different(table, name, table.numbers(name, fix))
        return Target(name, None, why)
    if mostly_numbers(table, name):
        if task is None:
            values = table.numbers(name, fix + "; or, if these are classes, --task classification")
            whole, different = bool((values == np.round(values)).all()), len(np.unique(values))
            if not (whole and different <= min(FEW, len(values) // 2)):
                why = f"{different} different numbers" if whole else "numbers that are not whole"
                check_different(table, name, values)
                return Target(name, None, f'"{name}" holds {why}; --task classification for classes')
            why = f'"{name}" holds {different} different whole numbers; --task regression for a number'
    elif task is None:
        kind = "true and false" if {c.strip().lower() for c in table.columns[name] if c} <= TRUE_OR_FALSE else "text"
        why = f'"{name}" holds {kind}'
    texts = table.texts(name, fix)
    counts = Counter(texts)
    check_different(table, name, texts)
    if 2 * len(counts) > len(texts) and len(counts) > 2:
        raise BadTable(
            f'{table.path}, column "{name}": {len(counts)} different values in {len(texts)} {table.unit}s are no '
            + ("classes; --task regression for a number" if task else "classes")
        )
    return Target(name, in_order(table, list(counts)), why)


def check_different(table: Table, name: str, values: Sequence[Any] | NDArray[Any]) -> None:
    if all(value == values[0] for value in values):
        raise BadTable(
            f'{table.path}, column "{name}": all cells are "{table.columns[name][0]}"; there is nothing to learn'
        )


def in_order(table: Table, names: list[str]) -> list[str]:
    """Sorted by the numbers in them, as people do: 2 before 10."""
    if all(map(table.is_number, names)):
        return sorted(names, key=table.number)
    return sorted(names, key=lambda name: [(len(p), p) if p.isdigit() else (0, p) for p in re.split(r"(\d+)", name)])


def classes_of(table: Table, target: Target) -> NDArray[np.int64]:
    assert target.classes is not None
    number = {name: i for i, name in enumerate(target.classes)}
    return np.array([number[name] for name in table.texts(target.name, "")], np.int64)


def inputs_of(table: Table, features: Sequence[Feature]) -> tuple[NDArray[np.float64], list[str]]:
    """The inputs of each row, (n, Σ widths), and notes about categories that are not among the known ones."""
    x, notes, first = np.zeros((len(table), sum(f.width for f in features))), [], 0
    for feature in features:
        if feature.categories is None:
            x[:, first] = table.numbers(feature.name, "make it a number, as it was in training")
        else:
            texts = table.texts(feature.name, "give one of the categories of the training")
            number = {name: i for i, name in enumerate(feature.categories)}
            unseen = [i for i, cell in enumerate(texts) if cell not in number]
            if unseen:
                others = f" (and {len(unseen) - 1} more)" if len(unseen) > 1 else ""
                notes.append(
                    f'{table.where(unseen[0], feature.name)}: "{texts[unseen[0]]}"{others} was not seen in training; '
                    "taken for none of the categories"
                )
            known = [(i, number[cell]) for i, cell in enumerate(texts) if cell in number]
            rows, places = np.array(known, np.int64).reshape(-1, 2).T
            x[rows, first + places] = 1
        first += feature.width
    return x, notes


def described(features: Sequence[Feature]) -> list[dict[str, Any]]:
    """For JSON."""
    return [{"name": feature.name, "categories": feature.categories} for feature in features]
