"""`fastfc train`: a network for a table, and how good it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastfc.extras import extra
from fastfc.tabular.columns import Wishes, file_decimal, profiled
from fastfc.tabular.encoding import TableEncoder, listing
from fastfc.tabular.networks import Task, Trained, Wanted, precision, trained
from fastfc.tabular.reader import BadTable, Options, Table, read_table
from fastfc.tabular.result import TITLES, Parts, Result, column_rows, probabilities, scored, written
from fastfc.tabular.target import Target, find_target, target_values
from fastfc.validation import plural

KEY = "fastfc train"  # of our metadata in the file of a network
VERSION = 2
HELD_OUT = 5  # every fifth row is the test set, and of the others every fifth is to stop by
MOST_COLUMNS, LONGEST_NAME = 40, 40  # that are printed


def train(
    data: Path | str,
    target: str,
    out: Path | None = None,
    plot: Path | None = None,
    report: Path | None = None,
    epochs: int | None = None,
    hidden: Sequence[int] | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    network: str = "realmlp",
    quick: bool = False,
    n_ens: int = 1,
    task: str | None = None,
    exclude: Sequence[str] = (),
    categories: Sequence[str] = (),
    kinds: Mapping[str, str] | None = None,
    delimiter: str | None = None,
    header: bool = True,
    encoding: str | None = None,
    decimal: str | None = None,
    thousands: str | None = None,
    comm: Any = None,
) -> dict[str, float]:
    """Train a network that predicts a column of a file by the others, print how good it is; the metrics."""
    if out is not None:
        extra("safetensors", "safetensors", "fastfc train --out")
    if network == "mlp" and n_ens > 1:
        raise BadTable(f"--n-ens {n_ens} is for RealMLP; leave out --network mlp, or --n-ens")
    kinds = {**dict.fromkeys(exclude, "ignore"), **dict.fromkeys(categories, "text"), **(kinds or {})}
    table = read_table(data, Options(delimiter, header, encoding, known=[target, *kinds]))
    check_columns(table, {"--target": [target], "--exclude": exclude, "--categories": categories, "--as": kinds})
    encoder = TableEncoder({n: k for n, k in kinds.items() if n != target}, decimal, thousands)
    goal, parts, notes = prepare(table, target, encoder, Wishes(kinds, decimal, thousands), task, seed)
    describe(table, encoder, goal, parts, notes)
    widths = None if hidden is None else tuple(hidden)
    wanted = Wanted(network, quick, n_ens, epochs, widths, batch_size, lr, seed, comm)
    result, done = fitted(table, encoder, goal, parts, wanted)
    # files first: whatever may go wrong with the terminal, the training is not lost
    wrote = written_files(result, out, plot, report)
    kept = f"{'interrupted after ' * done.interrupted}{plural(len(result.history), 'epoch')}"
    print(f"{kept}, the best was epoch {result.best_epoch}; the network is that of this epoch")
    if done.n_networks > 1:
        print(f"that is the first of {done.n_networks} networks, each of its best epoch; predictions are their mean")
    print_scores(f"held out, {parts.test.sum():,} {table.unit}s", result.values, result.trivial, result.guess)
    for path in wrote:
        print(f"wrote {path}")
    if done.interrupted:
        raise KeyboardInterrupt
    return result.values


def check_columns(table: Table, options: Mapping[str, Any]) -> None:
    for option, names in options.items():
        for name in names:
            if name not in table.names:
                raise BadTable(
                    f'{table.path}: there is no column "{name}" ({option}); there are {listing(table.names)}'
                )


def prepare(
    table: Table, name: str, encoder: TableEncoder, wishes: Wishes, task: str | None, seed: int
) -> tuple[Target, Parts, list[str]]:
    """Find out what the columns hold, and divide the rows; notes about what was found."""
    names = [other for other in table.names if other != name]
    if not [other for other in names if wishes.kinds.get(other) != "ignore"]:
        raise BadTable(f'{table.path}: besides "{name}" there is no column to predict it by')
    profiles = profiled(table, wishes, [name])
    hint = file_decimal(profiles)
    goal = find_target(table, profiles[name], wishes, hint, task)
    y, there = target_values(table, goal, f"mend it, remove such {table.unit}s, or say --task classification")
    notes = []
    if not there.all():
        notes.append(f'{plural(int((~there).sum()), table.unit)} without "{name}" left out')
    rows = np.flatnonzero(there)
    y = y[rows]
    if goal.classes is None and len(y) and (y == y[0]).all():
        raise BadTable(f'{table.path}, column "{name}": all cells are {y[0]:g}; there is nothing to learn')
    rng = np.random.default_rng(seed)
    test = held_out(goal, y, rng)
    stop = np.zeros_like(test)
    stop[~test] = held_out(goal, y[~test], rng)
    learn = ~test & ~stop
    if min(learn.sum(), stop.sum(), test.sum()) == 0:
        raise BadTable(f"{table.path}: {len(y)} {table.unit}s are too few; give at least 10")
    of_learning = np.zeros(len(table), bool)
    of_learning[rows[learn]] = True
    others = {other: profile for other, profile in profiles.items() if other != name}
    encoder.fit(table, rows=of_learning, profiles=others)
    notes += [column.doubt for column in encoder.columns_ if column.doubt]
    x = encoder.transform(table, 'leave the column out with --exclude "{name}", or mend the cell')[rows]
    x = x[:, encoder.restrict(x[learn])]
    return goal, Parts(x, y, rows, learn, stop, test), notes


def fitted(table: Table, encoder: TableEncoder, goal: Target, parts: Parts, wanted: Wanted) -> tuple[Result, Trained]:
    """A network that has learned, and how good it is."""
    dtype = precision(parts.x[parts.learn], parts.y[parts.learn])
    task = Task(parts, encoder, len(goal.classes or ()), dtype)
    done = trained(task, wanted, table.path)
    output = done.network.predict(task.x[parts.test])
    values, trivial, guess = scored(goal, parts.y[parts.learn], parts.y[parts.test], output)
    of_result = done.network, encoder, goal, table, parts, done.history, values, trivial, guess, output, done.best_epoch
    return Result(*of_result), done


def written_files(result: Result, out: Path | None, plot: Path | None, report: Path | None) -> list[Path]:
    """Write the network, the picture and the page that are asked for."""
    goal, y = result.target, result.parts.y
    if out is not None:
        about = {
            "version": VERSION,
            "encoder": result.encoder.to_dict(),
            "target": goal.to_dict(),
            "held_out": result.values,
        }
        result.network.save(out, metadata={KEY: about})
    if plot is not None:
        from fastfc.tabular.report import save_report

        key = next(iter(result.values))
        one, other = (written(key, scores[key]) for scores in (result.values, result.trivial))
        held = f"{result.parts.test.sum():,} {result.table.unit}s held out"
        summary = f"{TITLES[key]} {one} on {held} ({result.guess}: {other})"
        said = probabilities(result.output) if goal.classes else result.output
        title = f"{Path(result.table.path).name}: {goal.name}"
        save_report(plot, title, goal, result.history, y[result.parts.test], said, summary)
    if report is not None:
        from fastfc.tabular.page import save_page

        save_page(report, result)
    return [path for path in (out, plot, report) if path is not None]


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


def describe(table: Table, encoder: TableEncoder, goal: Target, parts: Parts, notes: Sequence[str]) -> None:
    """Print what the columns were taken for."""
    read = encoder.encoded_
    numbers, dates = ([c for c in read if c.kind == kind] for kind in ("number", "date"))
    texts = [c for c in read if c.kind == "text"]
    columns = f"{len(numbers)} of numbers"
    if texts:
        columns += f", {len(texts)} of categories ({plural(sum(c.width for c in texts), 'input')} of 0 and 1)"
    if dates:
        columns += f", {len(dates)} of dates ({plural(sum(c.width for c in dates), 'input')})"
    print(f'{table.path}: {len(table):,} {table.unit}s, "{goal.name}" by {plural(len(read), "column")}: {columns}')
    print_columns(encoder)
    for note in [*table.notes, *notes]:
        print(f"note: {note}")
    missing = [f'"{c.name}" ({c.missing:,})' for c in encoder.columns_ if c.missing and c.kind != "ignore"]
    if missing:
        print(f"missing cells in {', '.join(missing)}: the median and an input that tells, or a category of their own")
    what = f"classification into {len(goal.classes)} classes" if goal.classes else "regression"
    print(f"{what}: {goal.why}")
    print(
        f"{parts.learn.sum():,} {table.unit}s to learn from, {parts.stop.sum():,} to stop by, "
        f"{parts.test.sum():,} held out" + (", of each class alike" if goal.classes else ""),
        flush=True,
    )


def print_columns(encoder: TableEncoder) -> None:
    """What each column was taken for."""
    rows = [row[:2] for row in column_rows(encoder)[1:]]
    width = min(max(len(name) for name, _ in rows), LONGEST_NAME)
    for name, kind in rows[:MOST_COLUMNS]:
        print(f"  {name:<{width}}  {kind}")
    if len(rows) > MOST_COLUMNS:
        print(f"  and {len(rows) - MOST_COLUMNS} more, which --report lists")


def print_scores(title: str, values: dict[str, float], trivial: dict[str, float], name: str) -> None:
    width = max(len(title), *(len(TITLES[key]) for key in values))
    print(f"\n{title:<{width}}   network   {name}")
    for key, value in values.items():
        one, other = written(key, value), written(key, trivial[key])
        print(f"{TITLES[key]:<{width}}  {one:>8}   {other:>{len(name)}}")
    print()
