"""fastfc.sklearn against scikit-learn's own: as a script, a table of scores and times."""

import os
import time
import warnings

import numpy as np

import fastfc as fc

from .common import Timed, asked_for, needs, table, three_digits

# data, widths of the hidden layers, epochs: the same for both
SITUATIONS = [
    ("digits", (100,), 50),
    ("digits", (64, 32), 50),
    ("breast_cancer", (100,), 100),
    ("breast_cancer", (20,), 100),
    ("wine", (100,), 200),
    ("diabetes", (100,), 200),
    ("diabetes", (50, 50), 200),
    ("fashion_mnist", (100,), 3),
    ("fashion_mnist", (256, 128, 100), 3),
]
SEEDS = range(5)


def ready(name, dtype="float32"):
    """Samples to learn from and to test, features and regression targets standardised if they are not pixels."""
    if name == "fashion_mnist":
        (x, y), (x_test, y_test) = fc.load_fashion_mnist(), fc.load_fashion_mnist("test")
        return x.astype(dtype), y, x_test.astype(dtype), y_test
    x, y = getattr(fc, f"load_{name}")()
    x = x if name == "digits" else (x - x.mean(axis=0)) / x.std(axis=0)
    y = y if name != "diabetes" else (y - y.mean()) / y.std()
    order = np.random.default_rng(0).permutation(len(x))
    chosen, left = order[len(x) // 4 :], order[: len(x) // 4]
    return x[chosen].astype(dtype), y[chosen], x[left].astype(dtype), y[left]


def estimators(name, hidden, epochs, seed=0):
    """fastfc's and scikit-learn's, which do all the epochs."""
    import sklearn.neural_network

    import fastfc.sklearn.estimators

    kind = "MLPRegressor" if name == "diabetes" else "MLPClassifier"
    settings = {"hidden_layer_sizes": hidden, "max_iter": epochs, "n_iter_no_change": epochs, "random_state": seed}
    return [getattr(module, kind)(**settings) for module in (fastfc.sklearn, sklearn.neural_network)]


def fitted(estimator, x, y):
    """Seconds of a processor that a fit on one core takes, which other programs hardly change."""
    from threadpoolctl import threadpool_limits

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these are as many epochs as there are to be
        start = time.process_time()
        with threadpool_limits(1, "blas"):
            estimator.fit(x, y)
        return time.process_time() - start


NAMES = [f"{name} {'-'.join(map(str, hidden))}" for name, hidden, _ in SITUATIONS if name != "fashion_mnist"]
USUAL = ["digits 100", "wine 100", "diabetes 50-50"]


class Estimators(Timed):
    params = (table(USUAL, [name for name in NAMES if name not in USUAL]),)
    param_names = ("situation",)

    def setup(self, situation):
        needs("sklearn")
        self.name, hidden = situation.split()
        self.hidden = tuple(map(int, hidden.split("-")))
        self.x, self.y, *_ = ready(self.name)
        fitted(estimators(self.name, self.hidden, 20)[0], self.x, self.y)

    def time_fit(self, situation):
        fitted(estimators(self.name, self.hidden, 20)[0], self.x, self.y)


@asked_for
class AgainstScikitLearn(Estimators):
    params = (NAMES,)
    time_fit = None

    def track_ratio(self, situation):
        pairs = [estimators(self.name, self.hidden, 20) for _ in range(5)]
        times = np.array([[fitted(estimator, self.x, self.y) for estimator in pair] for pair in pairs])
        return three_digits(times[:, 1].min() / times[:, 0].min())

    track_ratio.unit = "times as fast"


def compare(name, hidden, epochs, dtype):
    """Scores by seed and seconds by seed, of both."""
    x, y, x_test, y_test = ready(name, dtype)
    fitted(estimators(name, hidden, 1)[0], x[:200], y[:200])
    scores, times = np.zeros((2, len(SEEDS))), np.full((2, len(SEEDS)), np.inf)
    for i, seed in enumerate(SEEDS):
        for _ in range(1 if len(x) > 10_000 else 5):
            for j, estimator in enumerate(estimators(name, hidden, epochs, seed)):
                times[j, i] = min(times[j, i], fitted(estimator, x, y))
                scores[j, i] = estimator.score(x_test, y_test)
    return scores, times


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {0})
    print("Test score (accuracy; R² of diabetes) over five seeds; the least seconds of a processor that a fit took")
    heads = ("fastfc", "scikit-learn", "fastfc", "sklearn", "")
    print(f"{'data':<14}{'hidden layers':<14}{'dtype':<9}{'{:>17}{:>17}{:>9}{:>9}{:>8}'.format(*heads)}")
    for name, hidden, epochs in SITUATIONS:
        for dtype in ("float32", "float64"):
            scores, times = compare(name, hidden, epochs, dtype)
            ours, theirs = times.min(axis=1)
            texts = [f"{row.mean():.4f} ± {row.std():.4f}" for row in scores]
            numbers = f"{texts[0]:>17}{texts[1]:>17}{ours:9.3f}{theirs:9.3f}{theirs / ours:7.1f}x"
            print(f"{name:<14}{'-'.join(map(str, hidden)):<14}{dtype:<9}{numbers}", flush=True)
