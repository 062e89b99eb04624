"""Estimators on tables of other packages: scores, seconds of a processor, peak memory, and mean ranks.

Each table is split into 64 % to learn from, 16 % to stop by and 20 % to test, another way for each seed. All estimators
have their defaults, one thread, and the rows to stop by: RealMLP and CatBoost keep the best epoch or tree by them,
LightGBM the best of its 100 trees.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from . import table_data

ESTIMATORS = ("fast", "fast-4", "td", "td-s", "mlp", "catboost", "lightgbm", "reference")
NAMES = {"reference": "RealMLP-TD of pytabkit", "mlp": "fastfc.sklearn.MLP", "catboost": "CatBoost"}
NAMES |= {"lightgbm": "LightGBM", "td": 'RealMLP "td"', "td-s": 'RealMLP "td-s"', "fast": 'RealMLP "fast"'}
NAMES |= {"fast-4": '"fast", n_ens=4'}
RECORD = Path(__file__).parent.parent / "tables.json"


class Contestant:
    """One estimator of another library or of ours, for classes or for numbers."""

    def __init__(self, kind, numbers, seed, changes=None):
        self.kind, self.numbers, self.seed = kind, numbers, seed
        self.model = getattr(self, kind, self.realmlp)(**(changes or {}))

    def realmlp(self, **changes):
        from fastfc.sklearn import RealMLPClassifier, RealMLPRegressor

        kind = RealMLPRegressor if self.numbers else RealMLPClassifier
        preset, _, members = self.kind.partition("-") if self.kind == "fast-4" else (self.kind, "", 1)
        options = {"preset": preset, "n_ens": int(members), "n_threads": 1, "random_state": self.seed}
        return kind(**options | changes)

    def reference(self):
        import torch
        from pytabkit import RealMLP_TD_Classifier, RealMLP_TD_Regressor

        torch.set_num_threads(1)
        kind = RealMLP_TD_Regressor if self.numbers else RealMLP_TD_Classifier
        return kind(device="cpu", n_threads=1, random_state=self.seed, verbosity=0)

    def catboost(self):
        import catboost

        kind = catboost.CatBoostRegressor if self.numbers else catboost.CatBoostClassifier
        return kind(thread_count=1, random_seed=self.seed, verbose=0, allow_writing_files=False)

    def lightgbm(self):
        import lightgbm

        kind = lightgbm.LGBMRegressor if self.numbers else lightgbm.LGBMClassifier
        return kind(n_jobs=1, random_state=self.seed, verbose=-1)

    def mlp(self):
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        from fastfc.sklearn import MLPClassifier, MLPRegressor

        self.mean, self.spread = 0.0, 1.0
        kind = MLPRegressor if self.numbers else MLPClassifier
        return make_pipeline(StandardScaler(), kind(early_stopping=True, random_state=self.seed))

    def prepared(self, frame, learn):
        """The columns as the library takes them."""
        frame = frame.copy()
        texts = [c for c in frame if frame[c].dtype == object]
        if self.kind == "catboost":
            frame[texts] = frame[texts].fillna("missing").astype(str)
            self.model.set_params(cat_features=texts)
        elif self.kind == "lightgbm":
            frame[texts] = frame[texts].astype("category")
            frame.columns = [f"c{i}" for i in range(frame.shape[1])]
        elif self.kind in ("reference", "mlp"):  # they take no missing numbers
            for c in frame.columns.difference(texts):
                if frame[c].isna().any():
                    frame[f"{c} is missing"] = frame[c].isna().astype(float)
                    frame[c] = frame[c].fillna(frame[c].iloc[learn].median())
        if self.kind == "mlp":
            import pandas

            frame = pandas.get_dummies(frame, dummy_na=False).astype(np.float32)
        return frame

    def fit(self, x, y, learn, stop):
        a, b = (x.iloc[learn], y[learn]), (x.iloc[stop], y[stop])
        if self.kind == "mlp":
            if self.numbers:
                self.mean, self.spread = a[1].mean(), a[1].std()
            scaler, mlp = (step for _, step in self.model.steps)
            held = scaler.fit(a[0]).transform(b[0]), self.scaled(b[1])
            mlp.fit(scaler.transform(a[0]), self.scaled(a[1]), validation_data=held)
        elif self.kind == "catboost":
            self.model.fit(*a, eval_set=b)
        elif self.kind == "lightgbm":
            import lightgbm

            self.model.fit(*a, eval_set=[b], callbacks=[lightgbm.early_stopping(100, verbose=False)])
        elif self.kind == "reference":
            self.model.fit(*a, *b)
        else:
            self.model.fit(*a, X_val=b[0], y_val=b[1])

    def scaled(self, y):
        return (y - self.mean) / self.spread if self.numbers else y

    def predict(self, x):
        if not self.numbers:
            return self.model.predict_proba(x)
        y = np.ravel(self.model.predict(x))
        return y * self.spread + self.mean if self.kind == "mlp" else y


def run(kind, name, seed, changes=None):
    """The row of one fit."""
    frame, y, learn, stop, test = table_data.split(name, seed)
    numbers = table_data.TABLES[name].numbers
    contestant = Contestant(kind, numbers, seed, changes)
    x = contestant.prepared(frame, learn)
    begin, before = time.process_time(), peak_memory()
    contestant.fit(x, y, learn, stop)
    seconds, begin = time.process_time() - begin, time.process_time()
    said = contestant.predict(x.iloc[test])
    row = {"table": name, "estimator": kind, "seed": seed, "seconds": round(seconds, 3)}
    row |= {"predict_seconds": round(time.process_time() - begin, 4), "rows": len(learn), "test_rows": len(test)}
    row |= {"peak_mb": round(peak_memory(), 1), "base_mb": round(before, 1)}
    if numbers:
        return row | {"rmse": round(float(np.sqrt(np.mean((said - y[test]) ** 2))), 6)}
    classes = np.asarray(contestant.model.classes_).astype(str)
    own = said[np.arange(len(test)), np.searchsorted(classes, y[test])]
    accuracy = np.mean(classes[said.argmax(axis=1)] == y[test])
    loss = -np.log(np.clip(own, 1e-15, 1)).mean()
    return row | {"accuracy": round(float(accuracy), 6), "log_loss": round(float(loss), 6)}


def peak_memory():
    """Of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def key(row):
    return row["estimator"], row["table"], row["seed"]


def read(path):
    return json.loads(path.read_text()) if path.exists() else []


def keep(path, rows):
    """Add rows to a file; those of the same estimator, table and seed are replaced."""
    merged = {key(row): row for row in [*read(path), *rows]}
    text = ",\n".join(json.dumps(row) for row in sorted(merged.values(), key=key))
    path.write_text(f"[\n{text}\n]\n")


# ---------- tables of results


def mean_of(rows, estimator, table, what):
    values = [row[what] for row in rows if (row["estimator"], row["table"]) == (estimator, table) and what in row]
    return float(np.mean(values)) if values else np.nan


def ranks(rows, estimators, tables, loss=False):
    """The mean rank of each estimator over the tables, by accuracy or log loss, and root mean squared error."""
    errors = []
    for table in tables:
        what = "rmse" if table_data.TABLES[table].numbers else "log_loss" if loss else "accuracy"
        sign = -1 if what == "accuracy" else 1
        errors.append([sign * mean_of(rows, estimator, table, what) for estimator in estimators])
    known = [row for row in errors if np.isfinite(row).all()]
    if not known:
        return dict.fromkeys(estimators, np.nan), 0
    table = np.array(known)
    better = (table[:, None, :] < table[:, :, None]).sum(axis=2)
    equal = (table[:, None, :] == table[:, :, None]).sum(axis=2)  # itself too
    return dict(zip(estimators, (better + (equal + 1) / 2).mean(axis=0), strict=True)), len(known)


def print_scores(rows, estimators, tables):
    heads = [NAMES[estimator] for estimator in estimators]
    print(f"{'table':<14}{'rows':>6}  " + "".join(f"{head:>24}" for head in heads))
    for table in tables:
        cells = []
        for estimator in estimators:
            score, loss, rmse, seconds = (
                mean_of(rows, estimator, table, what) for what in ("accuracy", "log_loss", "rmse", "seconds")
            )
            text = f"{rmse:.4g}" if table_data.TABLES[table].numbers else f"{score:.3f} / {loss:.3f}"
            cells.append(f"{text} {seconds:6.2f} s" if np.isfinite(seconds) else "")
        n = next((row["rows"] for row in rows if row["table"] == table), 0)
        print(f"{table:<14}{n:>6}  " + "".join(f"{cell:>24}" for cell in cells))


def print_ranks(rows, estimators, tables, title):
    by_accuracy, n = ranks(rows, estimators, tables)
    by_loss, _ = ranks(rows, estimators, tables, loss=True)
    print(f"\nmean ranks, {title} ({n} tables): by accuracy and RMSE, by log loss and RMSE")
    for estimator in sorted(estimators, key=by_accuracy.get):
        print(f"  {NAMES[estimator]:<26}{by_accuracy[estimator]:6.2f}{by_loss[estimator]:8.2f}")


def plot(rows, estimators, tables, path):
    """Error relative to the best against seconds, a point for each estimator: medians over the tables."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    shares = {estimator: [] for estimator in estimators}
    seconds = {estimator: [] for estimator in estimators}
    for table in tables:
        errors = {}
        for estimator in estimators:
            numbers = table_data.TABLES[table].numbers
            error = mean_of(rows, estimator, table, "rmse" if numbers else "accuracy")
            errors[estimator] = error if numbers else 1 - error
        if not np.isfinite(list(errors.values())).all():
            continue
        best = min(errors.values())
        for estimator, error in errors.items():
            shares[estimator].append(100 * (error + 1e-3) / (best + 1e-3) - 100)
            seconds[estimator].append(mean_of(rows, estimator, table, "seconds"))
    for i, estimator in enumerate(estimators):
        time, worse = np.array(seconds[estimator]), np.array(shares[estimator])
        axes.scatter(time, worse, s=14, alpha=0.25, color=f"C{i}")
        place = [np.exp(np.log(time).mean())], [worse.mean()]
        axes.scatter(*place, s=110, color=f"C{i}", edgecolor="black", zorder=3, label=NAMES[estimator])
    axes.legend(frameon=False)
    axes.set(xscale="log", ylim=(-2, 60), xlabel="seconds of one core for a fit (geometric mean large)")
    axes.set(ylabel="error above the best one's, % (mean large)", title=f"{len(shares[estimators[0]])} tables")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m asv_bench.benchmarks.tables")
    parser.add_argument("--estimators", nargs="+", choices=ESTIMATORS, default=["fast", "td", "catboost", "lightgbm"])
    parser.add_argument("--tables", nargs="+", choices=table_data.TABLES, default=[*table_data.TEST])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--json", type=Path, default=RECORD, help="where results are kept, and read from")
    parser.add_argument("--recorded", action="store_true", help="run nothing; show what is kept")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture of errors against seconds")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.worker:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        warnings.simplefilter("ignore")
        for seed in args.seeds:
            print(json.dumps(run(args.estimators[0], args.tables[0], seed)), flush=True)
        return
    if not args.recorded:
        done = {key(row) for row in read(args.json)} if args.json != RECORD else set()
        for table in args.tables:
            for estimator in args.estimators:
                seeds = [str(seed) for seed in args.seeds if (estimator, table, seed) not in done]
                if seeds:
                    command = ["--worker", "--estimators", estimator, "--tables", table, "--seeds", *seeds]
                    keep(args.json, in_own_process(command))
    rows = read(args.json)
    print_scores(rows, args.estimators, args.tables)
    print_ranks(rows, args.estimators, args.tables, "these tables")
    if args.plot:
        plot(rows, args.estimators, args.tables, args.plot)


def in_own_process(arguments):
    """What a worker prints: memory is then its own."""
    command = [sys.executable, "-m", f"{__package__}.tables", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it failed"]
        print(f"{' '.join(arguments)}: {last[0]}", file=sys.stderr)
        return []
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"table"')]
