"""`fastfc predict`: what a network of `fastfc train` says of each row of a table."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from fastfc.io.checkpoint import load_checkpoint
from fastfc.tabular.columns import Style, texts_of
from fastfc.tabular.encoding import Encoded, TableEncoder, Unseen, listing
from fastfc.tabular.reader import BadTable, Options, Table, read_table
from fastfc.tabular.result import probabilities
from fastfc.tabular.target import Target
from fastfc.tabular.train import KEY, VERSION
from fastfc.validation import plural


def predict(
    model: Path,
    data: Path | str,
    out: Path | None = None,
    keep: Sequence[str] | None = None,
    proba: bool = False,
    skip_bad: bool = False,
    delimiter: str | None = None,
    header: bool = True,
    encoding: str | None = None,
) -> None:
    """Write a CSV file of what a network of `fastfc train` says of each row of a file."""
    network, encoder, target = loaded(model)
    table = read_table(data, Options(delimiter, header, encoding, known=encoder.names))
    notes = [*table.notes, *encoder.check(table)]
    kept = list(table.names) if keep is not None and not keep else list(keep or ())
    unknown = [name for name in kept if name not in table.names]
    if unknown:
        raise BadTable(
            f"{table.path}: there is no column {listing(unknown)} (--keep); there are {listing(table.names)}"
        )
    if out is None:
        notes += unprintable([target.name, *(target.classes or [])])
    for note in notes:
        print(f"fastfc predict: {note}", file=sys.stderr)
    if not skip_bad:
        check_cells(table, encoder)
    name = f"predicted {target.name}" if target.name in kept else target.name
    with opened(out) as file:
        writer = csv.writer(file, lineterminator="\n")
        heads = [f"probability of {c}" for c in target.classes or []] if proba else []
        writer.writerow([*kept, name, *heads])
        bad, unseen = write_rows(writer, network, encoder, target, table, kept, proba)
    for note in encoder.unseen_notes(table, unseen):
        print(f"fastfc predict: {note}", file=sys.stderr)
    if bad:
        first = bad[min(bad)]
        print(
            f"fastfc predict: {plural(len(bad), table.unit)} without a prediction; the first: {first}", file=sys.stderr
        )


def loaded(model: Path) -> tuple[Any, TableEncoder, Target]:
    """The network, what encodes tables for it, and what it predicts."""
    try:
        checkpoint = load_checkpoint(model)
    except FileNotFoundError:
        raise BadTable(f"{model}: there is no such file; fastfc train --out {model} makes it") from None
    except (OSError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise BadTable(f"{model}: this can't be read as a network of fastfc train ({reason})") from None
    about = (checkpoint.metadata or {}).get(KEY)
    version = about.get("version") if isinstance(about, dict) else None
    if version not in (1, VERSION):
        newer = f" (its version is {version}, known are 1 to {VERSION}: upgrade fastfc)" if version else ""
        raise BadTable(
            f"{model}: this network does not say how to read tables{newer}; make it with fastfc train data.csv "
            f"--target NAME --out {model}, or load it with fastfc.load and call predict"
        )
    assert about is not None
    if version == 1:
        return checkpoint.network, encoder_of_0_1(about), Target(about["target"], about["classes"], "")
    stored = dict(about["target"])
    stored["style"] = Style(*stored["style"])
    return checkpoint.network, TableEncoder.from_dict(about["encoder"]), Target(**stored)


def encoder_of_0_1(about: dict[str, Any]) -> TableEncoder:
    """Of a network that version 0.1 has made."""
    encoder = TableEncoder()
    encoder.columns_ = []
    encoder.encoded_ = [
        Encoded(f["name"], "number", fill=[0.0])
        if f["categories"] is None
        else Encoded(f["name"], "text", categories=f["categories"])
        for f in about["features"]
    ]
    names = [*(f["name"] for f in about["features"]), about["target"], *about["excluded"]]
    encoder.feature_names_in_, encoder.n_features_in_ = np.array(names, dtype=object), len(names)
    return encoder


def check_cells(table: Table, encoder: TableEncoder) -> None:
    """Raise what is wrong with the first row that can't be read, before anything is written."""
    first = 0
    for batch in table.batches():
        bad: dict[int, str] = {}
        encoder.read_batch(table, batch, first, bad, {}, "make it one, as it was in training")
        if bad:
            raise BadTable(f"{bad[min(bad)]}, or leave such {table.unit}s empty with --skip-bad")
        first += batch.num_rows


def write_rows(
    writer: Any, network: Any, encoder: TableEncoder, target: Target, table: Table, kept: Sequence[str], proba: bool
) -> tuple[dict[int, str], Unseen]:
    """Write the predictions, batch by batch; the rows that have none, and the categories that are not known."""
    bad: dict[int, str] = {}
    unseen: Unseen = {}
    first = 0
    for batch in table.batches():
        x = encoder.read_batch(table, batch, first, bad, unseen, "left empty")
        columns = [texts_of(batch.column(table.names.index(name))).fill_null("").to_pylist() for name in kept]
        said = answers(network.predict(x), target, proba)
        empty = [""] * len(said[0]) if said else []
        for i, cells in enumerate(said):
            writer.writerow([*(column[i] for column in columns), *(empty if first + i in bad else cells)])
        first += len(x)
    return bad, unseen


def answers(output: NDArray[Any], target: Target, proba: bool) -> list[list[str]]:
    """The cells of each row's prediction."""
    if target.classes is None:
        return [[str(value)] for value in output[:, 0]]
    shares = probabilities(output)
    names = [target.classes[i] for i in shares.argmax(axis=1)]
    if not proba:
        return [[name] for name in names]
    return [[name, *(f"{value:.6g}" for value in p)] for name, p in zip(names, shares, strict=True)]


def unprintable(names: Sequence[str]) -> list[str]:
    """A note about names that stdout has no characters for."""
    encoding = sys.stdout.encoding or "utf-8"
    lost = [name for name in names if name.encode(encoding, "ignore").decode(encoding) != name]
    return [f"{encoding} has no characters for {listing(lost)}: escaped here; --out writes UTF-8"] if lost else []


@contextmanager
def opened(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # names of classes stay different
        yield sys.stdout
        return
    with open(path, "w", encoding="utf-8", newline="") as file:
        yield file
