"""The networks of `fastfc train`: RealMLP, or a plain perceptron."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastfc.losses.base import Loss
from fastfc.losses.classification import CrossEntropyLoss
from fastfc.losses.regression import MSELoss
from fastfc.models.graph import Graph
from fastfc.models.realmlp import (
    Recipe,
    Samples,
    Score,
    batch_of,
    best_epoch,
    build,
    clamped_rmse,
    error_rate,
    recipe_of,
    seconds_for,
    selected,
    temperature_of,
    train,
)
from fastfc.models.sequential import MLP, Sequential
from fastfc.nn.activations import Hardtanh
from fastfc.nn.linear import Linear
from fastfc.nn.node import Input
from fastfc.nn.scalers import RobustScale
from fastfc.nn.standardize import Standardize
from fastfc.optim.first_order import AdamW
from fastfc.ranks import ROWS, Pulse, Ranks, in_place_of, ranks_of
from fastfc.tabular.encoding import TableEncoder
from fastfc.tabular.reader import BadTable
from fastfc.tabular.result import Parts
from fastfc.training.callbacks import EarlyStopping
from fastfc.training.epoch import DivergenceWarning
from fastfc.training.history import History
from fastfc.training.progress import can_show
from fastfc.validation import plural

PRESET = "fast"
PATIENCE = 30  # epochs
WEIGHT_DECAY = 0.1
QUICK_PATIENCE = 16
# for float32: numbers that are this many times as large as their spread, and this large
TOO_FINE, TOO_LARGE = 1e5, 1e30


@dataclass(frozen=True)
class Wanted:
    """What network is asked for; None is what suits the kind of network."""

    network: str = "realmlp"
    quick: bool = False
    n_ens: int = 1
    epochs: int | None = None
    hidden: tuple[int, ...] | None = None
    batch_size: int | None = None
    lr: float | None = None
    seed: int = 0
    comm: Any = None


@dataclass
class Trained:
    """A network in the units of the target, the history and the best epoch of its first member, and how it ended."""

    network: Any
    history: History
    best_epoch: int
    n_networks: int
    interrupted: bool


class Task:
    """Rows as a network takes them, and targets as it learns them: classes, or numbers of mean 0 and spread 1."""

    def __init__(self, parts: Parts, encoder: TableEncoder, n_classes: int, dtype: Any) -> None:
        self.parts, self.encoder, self.n_classes = parts, encoder, n_classes
        y, learn, self.dtype = parts.y, parts.learn, np.dtype(dtype)
        self.x = parts.x.astype(self.dtype)
        self.mean = 0.0 if n_classes else float(y[learn].mean())
        self.spread = 1.0 if n_classes else float(y[learn].std()) or 1.0
        self.y = y if n_classes else ((y - self.mean) / self.spread)[:, None].astype(self.dtype)

    @property
    def width(self) -> int:
        return self.n_classes or 1

    @property
    def loss(self) -> Loss:
        return CrossEntropyLoss() if self.n_classes else MSELoss()

    def samples(self, rows: NDArray[np.bool_]) -> Samples:
        return Samples(self.x[rows], self.y[rows])

    @property
    def numbers(self) -> NDArray[np.bool_]:
        """Which inputs are numbers, and not 0 and 1."""
        widths = [(c.width, 0 if c.kind == "text" else len(c.fill)) for c in self.encoder.encoded_]
        return np.concatenate([np.arange(width) < n for width, n in widths])


def trained(task: Task, wanted: Wanted, path: str) -> Trained:
    """A network that has learned, up to Ctrl-C.

    Raises
    ------
    BadTable
        If training diverges.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", DivergenceWarning)
        try:
            return perceptron(task, wanted) if wanted.network == "mlp" else realmlp(task, wanted)
        except DivergenceWarning as warning:
            lr = f" than {wanted.lr:g}" if wanted.lr is not None else ""
            error = BadTable(f"{path}: {str(warning).partition(';')[0]}. Use a smaller --lr{lr}")
            raise in_place_of(warning, error) from None


def realmlp(task: Task, wanted: Wanted) -> Trained:
    """The mean of RealMLPs with the recipe of the preset."""
    recipe = recipe_of(
        PRESET,
        bool(task.n_classes),
        epochs=wanted.epochs,
        hidden=wanted.hidden,
        batch_size=wanted.batch_size,
        lr=wanted.lr,
    )
    stop = task.samples(task.parts.stop)
    ranks = ranks_of(wanted.comm, "same", None, "fastfc train") or Ranks(None, "same", 1)
    with ranks.together("fastfc train"):
        networks, interrupted = members(task, wanted, recipe, ranks)
    if not networks:
        raise KeyboardInterrupt
    for network in networks:
        # a temperature corrects probabilities: networks are mostly too sure
        scale = 1 / temperature_of(stop.y, network.predict(stop.x)) if task.n_classes else task.spread
        in_units(network.layers[-1], task.mean, scale)
    history = networks[0].history
    best = best_epoch(history, score_of(task).name)
    return Trained(averaged(networks, task), history, best, len(networks), interrupted)


def members(task: Task, wanted: Wanted, recipe: Recipe, ranks: Ranks) -> tuple[list[Graph], bool]:
    """The networks that have learned, and whether Ctrl-C ended that. Several are dealt to ranks; one learns on all."""
    dealt, pulse = wanted.n_ens > 1, Pulse(ranks)
    own = range(wanted.n_ens)[ranks.block(wanted.n_ens) if dealt else slice(None)]
    learn, stop = task.samples(task.parts.learn), task.samples(task.parts.stop)
    options: dict[str, Any] = {"patience": QUICK_PATIENCE if wanted.quick else None, "progress": can_show()}
    options |= {"callbacks": [lambda run: pulse.beat()]} if dealt else {"comm": wanted.comm}
    networks: list[Graph] = []
    interrupted = False
    for i in own:
        rng = np.random.default_rng([wanted.seed, i])
        network = realmlp_network(task, recipe, rng)
        if i == 0:
            announce(network, task, recipe, wanted)
        loss = CrossEntropyLoss(label_smoothing=recipe.label_smoothing) if task.n_classes else MSELoss()
        try:
            train(network, learn, stop, loss, score_of(task), recipe, rng, **options)
        except KeyboardInterrupt:
            interrupted = True
        if len(network.history):
            networks.append(network)
        if interrupted:
            break
    if not dealt:
        return networks, interrupted
    interrupted = pulse.finish() or interrupted
    everyone = ranks.collect((networks, interrupted), ROWS)
    return [network for part, _ in everyone for network in part], any(ended for _, ended in everyone)


def score_of(task: Task) -> Score:
    if task.n_classes:
        return Score("error", error_rate)
    y = task.y[task.parts.learn]
    return Score("rmse", clamped_rmse(y.min(axis=0), y.max(axis=0)))


def realmlp_network(task: Task, recipe: Recipe, rng: np.random.Generator) -> Graph:
    """From the inputs in their own units to classes, or to numbers of mean 0 and spread 1."""
    x = Input(task.x.shape[1])
    robust = RobustScale.of(task.parts.x[task.parts.learn], dtype=task.dtype)
    numbers = np.flatnonzero(task.numbers).tolist()
    z = robust(x)
    embedded = selected(z, numbers, task.dtype) if numbers else None
    return Graph(x, build(recipe, embedded, [z], None, [], task.width, rng, task.dtype))


def announce(network: Graph, task: Task, recipe: Recipe, wanted: Wanted) -> None:
    """Print what will be done, and how long it takes."""
    learn = task.samples(task.parts.learn)
    seconds = wanted.n_ens * seconds_for(network, learn, task.loss, recipe)
    steps = len(learn.x) // batch_of(recipe, len(learn.x))
    many = f"{wanted.n_ens} networks, " if wanted.n_ens > 1 else ""
    most = "at most " if wanted.quick else ""
    said = f"about {seconds:.0f} s" if seconds >= 1 else "less than a second"
    epochs = f"{plural(recipe.epochs, 'epoch')} of {plural(steps, 'step')}"
    print(f"RealMLP: {many}{most}{epochs}; this takes {said}", flush=True)


def averaged(networks: list[Graph], task: Task) -> Any:
    """One network: the mean of the outputs, for classes of log-probabilities; numbers stay where targets were."""
    if len(networks) == 1:
        mean = networks[0]
    else:
        x = Input(task.x.shape[1])
        total = networks[0](x)
        for network in networks[1:]:
            total = total + network(x)
        mean = Graph(x, (1 / len(networks)) * total)
    if task.n_classes:
        return mean
    y = task.parts.y[task.parts.learn]
    return Sequential([mean, Hardtanh(float(y.min()), float(y.max()))])


def perceptron(task: Task, wanted: Wanted) -> Trained:
    """Linear layers with ReLU, trained by AdamW until the validation's loss no longer falls."""
    parts = task.parts
    numbers, sizes = task.numbers, [task.x.shape[1], *(wanted.hidden or (64, 64)), task.width]
    scaled = Standardize.of(parts.x[parts.learn], dtype=task.dtype)
    scaled.mean, scaled.scale = np.where(numbers, scaled.mean, 0), np.where(numbers, scaled.scale, 1)
    net = Sequential([scaled, *MLP(sizes, seed=wanted.seed, dtype=task.dtype).layers])
    stopping, interrupted = EarlyStopping("val_loss", patience=QUICK_PATIENCE if wanted.quick else PATIENCE), False
    learn, stop = task.samples(parts.learn), task.samples(parts.stop)
    try:
        net.fit(
            learn.x,
            learn.y,
            loss=task.loss,
            optimizer=AdamW(lr=2e-3 if wanted.lr is None else wanted.lr, weight_decay=WEIGHT_DECAY),
            epochs=wanted.epochs or 300,
            batch_size=wanted.batch_size or 32,
            validation_data=(stop.x, stop.y),
            callbacks=[stopping],
            seed=wanted.seed,
            progress=can_show(),
            comm=wanted.comm,
        )
    except KeyboardInterrupt:
        if not len(net.history):
            raise
        interrupted = True
    in_units(net.layers[-1], task.mean, task.spread)
    return Trained(net, net.history, stopping.best_epoch, 1, interrupted)


def precision(x: NDArray[np.float64], y: NDArray[Any]) -> type[Any]:
    """float32, or float64 where numbers are very large, or large in comparison with their spread."""
    numbers = np.column_stack([x, y])
    size, spread = np.abs(numbers).max(axis=0), numbers.std(axis=0)
    return np.float64 if ((size > TOO_FINE * spread) & (spread > 0)).any() or size.max() > TOO_LARGE else np.float32


def in_units(last: Any, mean: float, spread: float) -> None:
    """Make the last layer give numbers of this mean and spread, where it gave 0 and 1."""
    assert isinstance(last, Linear) and last.bias is not None
    last.weight[...] *= spread
    last.bias[...] = last.bias * spread + mean
