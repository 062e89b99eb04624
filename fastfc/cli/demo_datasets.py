"""`fastfc demo --data NAME`: networks trained on real data, and how well they do on samples they have not seen."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fastfc import metrics
from fastfc.data import datasets
from fastfc.losses.classification import CrossEntropyLoss
from fastfc.losses.regression import MSELoss
from fastfc.models.sequential import MLP, Sequential
from fastfc.nn.initializers import Initializer, Normal
from fastfc.nn.standardize import Standardize
from fastfc.optim.first_order import AdamW
from fastfc.optim.schedules import MultiStepLR
from fastfc.training.progress import can_show
from fastfc.validation import plural

FOLDS = 5


@dataclass(frozen=True)
class Run:
    """What is trained on some data; the last quarter of the epochs is at a tenth of lr."""

    title: str
    load: Callable[[], datasets.Data]
    sizes: list[int]
    target: str
    lr: float = 2e-3
    weight_decay: float = 0.1
    epochs: int = 40
    batch_size: int = 32
    init: str | Initializer = "he"
    load_test: Callable[[], datasets.Data] | None = None  # else each of FOLDS parts is the test of a network,
    repeats: int = 1  # number of splits: a single split of few samples is a matter of luck
    images: bool = False


RUNS = {
    "digits": Run(
        "Handwritten digits, 8 x 8 pixels",
        datasets.load_digits,
        [64, 256, 128, 10],
        "98 %",
        images=True,
    ),
    "breast_cancer": Run(
        "Breast cancer, malignant or benign",
        datasets.load_breast_cancer,
        [30, 32, 2],
        "97 %",
        weight_decay=2,
        repeats=4,
    ),
    "wine": Run(
        "Wine of three growers",
        datasets.load_wine,
        [13, 32, 3],
        "97 %",
        epochs=60,
        repeats=4,
    ),
    "diabetes": Run(
        "Diabetes, progression after a year",
        datasets.load_diabetes,
        [10, 32, 1],
        "that of linear regression",
        lr=3e-3,
        weight_decay=1,
        init=Normal(std=0.05),
        repeats=4,
    ),
    "fashion_mnist": Run(
        "Fashion-MNIST, clothes, 28 x 28 pixels",
        datasets.load_fashion_mnist,
        [784, 256, 128, 100, 10],
        "89 %; published for this network: 88.3 %",
        lr=1e-3,
        epochs=16,
        batch_size=200,
        load_test=lambda: datasets.load_fashion_mnist("test"),
        images=True,
    ),
}


def parts(run):
    """(x, y, x_test, y_test) for each network to train."""
    x, y = run.load()
    if run.load_test:
        return [(x, y, *run.load_test())]
    rng = np.random.default_rng(0)
    folds = [rng.permutation(len(x)) % FOLDS for _ in range(run.repeats)]
    return [(x[fold != k], y[fold != k], x[fold == k], y[fold == k]) for fold in folds for k in range(FOLDS)]


def train(run, x, y, epochs, seed, **options):
    """The trained network and its history. It scales x: each column, or images as a whole."""
    scaled = Standardize(x.shape[1]) if run.images else Standardize.of(x)
    if run.images:
        scaled.mean[:], scaled.scale[:] = x.mean(dtype=np.float64), x.std(dtype=np.float64)
    net = Sequential([scaled, MLP(run.sizes, init=run.init, seed=seed)])
    loss = CrossEntropyLoss() if y.dtype == np.int64 else MSELoss()
    schedule = MultiStepLR([epochs - epochs // 4], gamma=0.1, unit="epoch")
    optimizer = AdamW(lr=run.lr, weight_decay=run.weight_decay, schedule=schedule)
    options |= {"epochs": epochs, "batch_size": run.batch_size, "seed": seed}
    return net, net.fit(x, y, loss=loss, optimizer=optimizer, **options)


def linear_regression(x, y, x_test):
    """Predictions of least squares with a constant."""
    with_one, with_one_test = (np.column_stack([a, np.ones(len(a))]) for a in (x, x_test))
    return with_one_test @ np.linalg.lstsq(with_one, y)[0]


def real_run(name, epochs=None, seed=0, plot_file=None):
    """Train and print what comes out; {name of metric: value} of the samples held out."""
    run = RUNS[name]
    epochs = epochs or run.epochs
    pieces = parts(run)
    x, y, _, y_test = pieces[0]
    classes = y.dtype == np.int64
    network = "-".join(map(str, run.sizes))
    held_out = f"{len(y_test):,} held out"
    if not run.load_test:
        held_out += f": every fifth once, in each of {run.repeats} splits" if run.repeats > 1 else ": every fifth once"
    print(
        f"{run.title}: {len(x):,} to learn from, {held_out}.\n"
        f"Network {network}, ReLU, {'softmax cross-entropy' if classes else 'squared error'}; "
        f"{plural(epochs, 'epoch')} of AdamW with lr {run.lr}, weight decay {run.weight_decay}, "
        f"batches of {run.batch_size}.",
        flush=True,
    )
    train(run, x[:1], y[:1] if classes else y[:1, None], 1, seed)[0].predict(x[:1])  # compiled, or read from the cache

    seconds, outputs, linear, histories = 0.0, [], [], []
    for x, y, x_test, y_test in pieces:
        mean, std = (0, 1) if classes else (y.mean(), y.std())
        target, target_test = (a if classes else ((a - mean) / std)[:, None] for a in (y, y_test))
        options = {"validation_data": (x_test, target_test)} if plot_file else {}
        start = time.perf_counter()
        net, history = train(run, x, target, epochs, seed, progress=can_show(), **options)
        seconds += time.perf_counter() - start
        histories.append(history)
        outputs.append(net.predict(x_test) * std + mean)
        if not classes:
            linear.append(linear_regression(x, y, x_test))
    true, predicted = np.concatenate([piece[3] for piece in pieces]), np.concatenate(outputs)
    if plot_file:
        from fastfc.plots import history as picture

        which = f", training 1 of {len(pieces)}" if len(pieces) > 1 else ""
        picture(histories[0], title=f"{name}: {network}{which}").savefig(plot_file, dpi=120)

    if classes:
        values = {"accuracy": metrics.accuracy(true, predicted)}
        print(f"held-out samples right: {values['accuracy']:.2%} (target {run.target})")
    else:
        values = {name: metrics.BY_NAME[name](true, predicted) for name in ("r2", "rmse")}
        values |= {f"linear_{name}": metrics.BY_NAME[name](true, np.concatenate(linear)) for name in ("r2", "rmse")}
        print("held-out samples: R2 {r2:.3f}, RMSE {rmse:.1f}".format(**values), f"(target {run.target}:", end=" ")
        print("R2 {linear_r2:.3f}, RMSE {linear_rmse:.1f})".format(**values))
    print(f"time of training: {seconds:.2f} s")
    if plot_file:
        print(f"wrote {plot_file}")
    return values
