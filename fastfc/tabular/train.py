"""`fastfc train` and `fastfc predict`: a network for a table, and what it says of another one."""

from __future__ import annotations

import csv
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from fastfc import metrics, reference
from fastfc.extras import extra
from fastfc.io.checkpoint import load_checkpoint
from fastfc.losses.classification import CrossEntropyLoss
from fastfc.losses.regression import MSELoss
from fastfc.models.sequential import MLP, Sequential
from fastfc.nn.linear import Linear
from fastfc.nn.standardize import Standardize
from fastfc.optim.first_order import AdamW
from fastfc.tabular.encoding import Feature, Target, classes_of, described, find_features, find_target, inputs_of
from fastfc.tabular.reader import BadTable, Table, read_table
from fastfc.training.callbacks import EarlyStopping
from fastfc.training.epoch import DivergenceWarning
from fastfc.training.progress import can_show

KEY = "fastfc train"  # of our metadata in the file of a network
VERSION = 1
HELD_OUT = 5  # every so manieth row is held out, and of the others every so manieth is to stop by
PATIENCE = 30  # epochs
WEIGHT_DECAY = 0.1
# for float32: numbers that are so many times as large as their spread, and so large
TOO_FINE, TOO_LARGE = 1e5, 1e30


def train(
    data: Path,
    target: str,
    out: Path | None = None,
    plot: Path | None = None,
    epochs: int = 300,
    hidden: Sequence[int] = (64, 64),
    batch_size: int = 32,
    lr: float = 2e-3,
    seed: int = 0,
    task: str | None = None,
    exclude: Sequence[str] = (),
    categories: Sequence[str] = (),
) -> dict[str, float]:
    """Train a network that predicts a column of a file by the others, print how good it is; the metrics."""
    if out is not None:
        extra("safetensors", "safetensors", "fastfc train --out")
    table = read_table(data, [target, *exclude, *categories], target)
    for option, names in (("--target", [target]), ("--exclude", exclude), ("--categories", categories)):
        for name in names:
            if name not in table.columns:
                raise BadTable(f'{data}: there is no column "{name}" ({option}); there are {listing(table.columns)}')
    names = [name for name in table.columns if name != target and name not in exclude]
    if not names:
        raise BadTable(f'{data}: besides "{target}" there is no column to predict it by')
    goal = find_target(table, target, task)
    features = find_features(table, names, categories)
    x, _ = inputs_of(table, features)
    y = classes_of(table, goal) if goal.classes else table.numbers(target, "")
    rng = np.random.default_rng(seed)
    test = held_out(goal, y, rng)
    stop = np.zeros_like(test)
    stop[~test] = held_out(goal, y[~test], rng)
    learn = ~test & ~stop
    if min(learn.sum(), stop.sum(), test.sum()) == 0:
        raise BadTable(f"{data}: {len(table)} {table.unit}s are too few; give at least 10")
    describe(table, features, goal, learn, stop, test)

    dtype = precision(x[learn], y[learn])
    net = network_for(x[learn], features, hidden, len(goal.classes) if goal.classes else 1, seed, dtype)
    mean, spread = (0.0, 1.0) if goal.classes else (y[learn].mean(), y[learn].std() or 1.0)
    wanted = y if goal.classes else ((y - mean) / spread)[:, None]
    x = x.astype(net.dtype)
    stopping = EarlyStopping("val_loss", patience=PATIENCE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DivergenceWarning)
            history = net.fit(
                x[learn],
                wanted[learn],
                loss=CrossEntropyLoss() if goal.classes else MSELoss(),
                optimizer=AdamW(lr=lr, weight_decay=WEIGHT_DECAY),
                epochs=epochs,
                batch_size=batch_size,
                validation_data=(x[stop], wanted[stop]),
                callbacks=[stopping],
                seed=seed,
                progress=can_show(),
            )
    except DivergenceWarning as warning:
        raise BadTable(f"{data}: {str(warning).partition(';')[0]}. Use a smaller --lr than {lr:g}") from None
    in_units(net, mean, spread)
    output = net.predict(x[test])
    values, trivial, name = scored(goal, y[learn], y[test], output)
    # files first: whatever may go wrong with the terminal, the training is not lost
    if out is not None:
        about = {
            "version": VERSION,
            "features": described(features),
            "target": target,
            "classes": goal.classes,
            "excluded": list(exclude),
            "held_out": values,
        }
        net.save(out, metadata={KEY: about})
    if plot is not None:
        from fastfc.tabular.report import save_report

        key = next(iter(values))
        one, other = (written(key, scores[key]) for scores in (values, trivial))
        summary = f"{TITLES[key]} {one} on {test.sum():,} {table.unit}s held out ({name}: {other})"
        said = probabilities(output) if goal.classes else output
        save_report(plot, f"{data.name}: {target}", goal, history, y[test], said, summary)
    print(f"{len(history)} epochs, the best was epoch {stopping.best_epoch}; the network is that of this epoch")
    print_scores(f"held out, {test.sum():,} {table.unit}s", values, trivial, name)
    for path in filter(None, (out, plot)):
        print(f"wrote {path}")
    return values


def listing(names: Any, most: int = 20) -> str:
    names = [f'"{name}"' for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def held_out(goal: Target, y: NDArray[Any], rng: np.random.Generator) -> NDArray[np.bool_]:
    """A fifth of the rows, of each class as exactly as can be."""
    order = rng.permutation(len(y))
    if goal.classes:
        order = order[np.argsort(y[order], kind="stable")]  # class by class, in each at random
    chosen = np.zeros(len(y), bool)
    chosen[order[HELD_OUT // 2 :: HELD_OUT]] = True
    if goal.classes:
        for c in np.flatnonzero(np.bincount(y[~chosen], minlength=len(goal.classes)) == 0):
            chosen[y == c] = False  # a class of one is there to be learned
    return chosen


def plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + "s" * (n != 1)


def describe(table: Table, features: list[Feature], goal: Target, learn: Any, stop: Any, test: Any) -> None:
    numbers = sum(feature.categories is None for feature in features)
    categories = [feature for feature in features if feature.categories is not None]
    columns = f"{numbers} of numbers"
    if categories:
        columns += f", {len(categories)} of categories ({sum(f.width for f in categories)} inputs of 0 and 1)"
    print(f'{table.path}: {len(table):,} {table.unit}s, "{goal.name}" by {plural(len(features), "column")}: {columns}')
    for note in table.notes:
        print(note)
    what = f"classification into {len(goal.classes)} classes" if goal.classes else "regression"
    print(f"{what}: {goal.why}")
    print(
        f"{learn.sum():,} {table.unit}s to learn from, {stop.sum():,} to stop by, {test.sum():,} held out"
        + (", of each class alike" if goal.classes else ""),
        flush=True,
    )


def precision(x: NDArray[np.float64], y: NDArray[Any]) -> type[Any]:
    """float32, or float64 where numbers are very large, or large in comparison with their spread."""
    numbers = np.column_stack([x, y])
    size, spread = np.abs(numbers).max(axis=0), numbers.std(axis=0)
    return np.float64 if ((size > TOO_FINE * spread) & (spread > 0)).any() or size.max() > TOO_LARGE else np.float32


def network_for(
    x: NDArray[np.float64], features: list[Feature], hidden: Sequence[int], n_out: int, seed: int, dtype: Any
) -> Sequential:
    """Numbers are standardised, categories stay 0 and 1."""
    numbers = np.concatenate([np.full(f.width, f.categories is None) for f in features])
    scaled = Standardize.of(x, dtype=dtype)
    scaled.mean, scaled.scale = np.where(numbers, scaled.mean, 0), np.where(numbers, scaled.scale, 1)
    return Sequential([scaled, *MLP([x.shape[1], *hidden, n_out], seed=seed, dtype=dtype).layers])


def in_units(net: Sequential, mean: float, spread: float) -> None:
    """Make the last layer give numbers of this mean and spread, where it gave 0 and 1."""
    last = net.layers[-1]
    assert isinstance(last, Linear) and last.bias is not None
    last.weight[...] *= spread
    last.bias[...] = last.bias * spread + mean


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


def print_scores(title: str, values: dict[str, float], trivial: dict[str, float], name: str) -> None:
    width = max(len(title), *(len(TITLES[key]) for key in values))
    print(f"\n{title:<{width}}   network   {name}")
    for key, value in values.items():
        one, other = written(key, value), written(key, trivial[key])
        print(f"{TITLES[key]:<{width}}  {one:>8}   {other:>{len(name)}}")
    print()


def predict(model: Path, data: Path, out: Path | None = None) -> None:
    """Write a CSV file of what a network of `fastfc train` says of each row of a file."""
    checkpoint = load_checkpoint(model)
    about = (checkpoint.metadata or {}).get(KEY)
    if not isinstance(about, dict) or about.get("version") != VERSION:
        raise BadTable(
            f"{model}: this network does not say how to read tables; make it with fastfc train data.csv --target NAME "
            f"--out {model}, or load it with fastfc.load and call predict"
        )
    features = [Feature(feature["name"], feature["categories"]) for feature in about["features"]]
    names = [feature.name for feature in features]
    table = read_table(data, names)
    missing = [name for name in names if name not in table.columns]
    others = [name for name in table.columns if name not in [*names, about["target"], *about["excluded"]]]
    if missing:
        there = f"; there are {listing(others)}, which it does not know" if others else ""
        raise BadTable(f"{data}: the network needs {listing(missing)}{there}; give each column the name it had")
    notes = [*table.notes, *([f"left out, for the network does not know them: {listing(others)}"] if others else [])]
    x, unseen = inputs_of(table, features)
    if out is None:
        unseen += unprintable([about["target"], *(about["classes"] or [])])
    for note in [*notes, *unseen]:
        print(f"fastfc predict: {note}", file=sys.stderr)
    with opened(out) as file:
        write(csv.writer(file, lineterminator="\n"), checkpoint.network, x, about["target"], about["classes"])


def unprintable(names: Sequence[str]) -> list[str]:
    """A note about names that stdout has no characters for."""
    encoding = sys.stdout.encoding or "utf-8"
    lost = [name for name in names if name.encode(encoding, "ignore").decode(encoding) != name]
    return [f"{encoding} has no characters for {listing(lost)}: escaped here; --out writes UTF-8"] if lost else []


def write(rows: Any, net: Any, x: NDArray[np.float64], target: str, classes: list[str] | None) -> None:
    output = net.predict(x)
    if classes is None:
        rows.writerow([target])
        rows.writerows([[str(value)] for value in output[:, 0]])
        return
    rows.writerow([target, *(f"probability of {name}" for name in classes)])
    for p in probabilities(output):
        rows.writerow([classes[p.argmax()], *(f"{value:.6g}" for value in p)])


@contextmanager
def opened(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # names of classes stay different
        yield sys.stdout
        return
    with open(path, "w", encoding="utf-8", newline="") as file:
        yield file
