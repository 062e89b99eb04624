"""A network that was trained on a table, and how good it is on rows that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastfc import metrics, reference
from fastfc.models.sequential import Sequential
from fastfc.tabular.encoding import TableEncoder
from fastfc.tabular.reader import Table
from fastfc.tabular.target import Target
from fastfc.training.history import History


@dataclass
class Parts:
    """The rows that have a target, as a network takes them, and which of them are for what."""

    x: NDArray[np.float64]
    y: NDArray[Any]
    rows: NDArray[np.int64]  # of the table
    learn: NDArray[np.bool_]
    stop: NDArray[np.bool_]
    test: NDArray[np.bool_]


@dataclass
class Result:
    """A network that was trained on a table, and how good it is on rows that it has not seen."""

    network: Sequential
    encoder: TableEncoder
    target: Target
    table: Table
    parts: Parts
    history: History
    values: dict[str, float]
    trivial: dict[str, float]
    guess: str
    output: NDArray[Any]  # of the test rows
    best_epoch: int


def probabilities(output: NDArray[Any]) -> NDArray[np.float64]:
    return reference.softmax(output.astype(np.float64))


def scored(
    goal: Target, y_learn: NDArray[Any], y: NDArray[Any], output: NDArray[Any]
) -> tuple[dict[str, float], dict[str, float], str]:
    """Metrics of the network's output, of a guess that knows only the target's distribution, and its name."""
    if goal.classes:
        counts = np.bincount(y_learn, minlength=len(goal.classes))
        guess = np.broadcast_to(np.log(np.maximum(counts, 0.5) / counts.sum()), output.shape)
        names, name = ("accuracy", "f1_macro", "log_loss"), f'always "{goal.classes[counts.argmax()]}"'
    else:
        guess, names, name = np.full(output.shape, y_learn.mean()), ("r2", "rmse", "mae"), "always the mean"

    def score(output: NDArray[Any]) -> dict[str, float]:
        if not goal.classes:
            return {name: metrics.BY_NAME[name](y, output) for name in names}
        p = np.maximum(probabilities(output)[np.arange(len(y)), y], 1e-15)
        found = {name: metrics.BY_NAME[name](y, output) for name in names[:2]}
        return found | {"log_loss": float(-np.log(p).mean())}

    return score(output), score(guess), name


TITLES = {"accuracy": "accuracy", "f1_macro": "F1, mean of classes", "log_loss": "log loss"}
TITLES |= {"r2": "R²", "rmse": "root mean squared error", "mae": "mean absolute error"}


def written(key: str, value: float) -> str:
    if key in ("rmse", "mae"):
        return f"{value:.4g}"
    return f"{value:.1%}" if key == "accuracy" else f"{value:.3f}"


def column_rows(encoder: TableEncoder) -> list[list[str]]:
    """What each column was taken for, below a row of heads."""
    rows = [["column", "taken for", "because", "inputs"]]
    encoded = {column.name: column for column in encoder.encoded_}
    for column in encoder.columns_:
        kind = {"ignore": "left out", "text": "category"}.get(column.kind, column.kind)
        read = encoded.get(column.name)
        if read is not None and read.kind == "text":
            kind += f": {', '.join(read.categories[:6])}" + (
                f", … ({len(read.categories)})" if len(read.categories) > 6 else ""
            )
        if read is not None and read.missing:
            kind += "; missing cells are told"
        rows.append([column.name, kind, column.doubt or column.why, str(read.width if read else 0)])
    return rows
