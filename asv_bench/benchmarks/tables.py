"""Reading a table and finding out what its columns hold, as a multiple of the time that pandas takes to read it."""

import tempfile
import time
from pathlib import Path

import numpy as np

from fastfc.tabular import Table
from fastfc.tabular.columns import Wishes, profiled

from .common import Timed, needs, three_digits


class Read(Timed):
    """A table of numbers, and one of numbers and categories as the prices of diamonds."""

    params = ("300000x11 numbers", "53940x10 mixed")
    param_names = ("table",)

    def setup(self, table):
        needs("pyarrow")
        pandas = needs("pandas")
        rng = np.random.default_rng(0)
        if table == "300000x11 numbers":
            frame = pandas.DataFrame(rng.standard_normal((300_000, 11)).round(6)).add_prefix("x")
        else:
            columns = {f"x{i}": rng.uniform(0, 60, 53_940).round(2) for i in range(6)}
            columns |= {f"c{i}": rng.choice(["Fair", "Good", "Very Good", "Ideal"], 53_940) for i in range(3)}
            frame = pandas.DataFrame(columns).assign(price=rng.integers(300, 19_000, 53_940))
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "table.csv"
        frame.to_csv(self.path, index=False)
        self.pandas = lambda: pandas.read_csv(self.path)
        self.read()

    def teardown(self, table):
        self.folder.cleanup()

    def read(self):
        profiled(Table.read(self.path), Wishes())

    def time_read(self, table):
        self.read()

    def track_times_pandas(self, table):
        best = {}
        for _ in range(5):
            for name, read in (("pandas", self.pandas), ("fastfc", self.read)):
                begin = time.process_time()
                read()
                best[name] = min(best.get(name, np.inf), time.process_time() - begin)
        return three_digits(best["fastfc"] / best["pandas"])

    track_times_pandas.unit = "times pandas"


class RealMLP(Timed):
    """A fit and predictions of RealMLP on digits, which scikit-learn has."""

    params = ("td", "fast")
    param_names = ("preset",)

    def setup(self, preset):
        import sklearn.datasets

        from fastfc.sklearn import RealMLPClassifier

        self.x, self.y = sklearn.datasets.load_digits(return_X_y=True)
        self.estimator = RealMLPClassifier(preset, epochs=8, n_threads=1, random_state=0)
        self.time_fit(preset)

    def time_fit(self, preset):
        self.estimator.fit(self.x, self.y)

    def time_predict(self, preset):
        self.estimator.predict(self.x)


if __name__ == "__main__":
    from .table_contest import main

    main()
