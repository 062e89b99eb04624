"""RealMLP: a perceptron for tables with the constants and the training that suit most of them.

References: D. Holzmüller, L. Grinsztajn, I. Steinwart, "Better by Default: Strong Pre-Tuned MLPs and Boosted Trees on
Tabular Data", NeurIPS 2024; the constants are those of its implementation, pytabkit 1.7.3.
"""

from __future__ import annotations

import copy
import fnmatch
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfc.losses.base import Loss
from fastfc.models.graph import Graph
from fastfc.nn.activations import get_activation
from fastfc.nn.dropout import Dropout
from fastfc.nn.embedding import Embedding
from fastfc.nn.initializers import fit_to
from fastfc.nn.layer import Layer
from fastfc.nn.linear import Linear
from fastfc.nn.node import Node, concatenate
from fastfc.nn.numeric_embedding import NumericEmbedding
from fastfc.nn.per_feature import Parametric, Scale
from fastfc.optim.first_order import AdamW
from fastfc.optim.schedules import CosineAnnealingLR, CosLogLR, FlatCosineLR, OneCycleLR, Schedule
from fastfc.training.callbacks import EarlyStopping
from fastfc.training.history import History
from fastfc.validation import choice, did_you_mean

LEAST_BATCH = 32  # rows
# How an option changes in a training of so many steps.
SCHEDULES: dict[str, Callable[[int, float], Schedule | None]] = {
    "coslog4": lambda steps, lr: CosLogLR(steps, 4),
    "coslog1": lambda steps, lr: CosLogLR(steps, 1),
    "flat_cos": lambda steps, lr: FlatCosineLR(steps),
    "cosine": lambda steps, lr: CosineAnnealingLR(steps),
    "one_cycle": lambda steps, lr: OneCycleLR(lr, steps),
    "constant": lambda steps, lr: None,
}


@dataclass(frozen=True)
class Recipe:
    """Every constant of a RealMLP.

    Attributes
    ----------
    hidden : tuple of int
        Widths of the hidden layers.
    epochs, batch_size : int
    least_steps : int
        Batches are smaller than batch_size, down to 32 rows, where an epoch would have fewer steps than this.
    lr, lr_schedule : float, str
        Of AdamW; the schedule is one of coslog4, flat_cos, cosine, one_cycle, constant.
    beta1, beta2, eps : float
        Of AdamW.
    dropout, dropout_schedule : float, str
    weight_decay, weight_decay_schedule : float, str
    activation : str
    parametric, parametric_lr : bool, float
        Whether a number for each neuron mixes its activation with the identity, and its factor of lr.
    embedding : str or None
        How numbers are embedded, see fastfc.NumericEmbedding; None is not at all.
    embedding_lr, embedding_frequencies, embedding_sigma, embedding_width
        Its factor of lr, frequencies for each number, their spread, and numbers that each number becomes, besides
        itself.
    max_one_hot : int or None
        Categories of at most so many names are columns of 0 and 1, others are embedded; None is all.
    category_width : int
        Of the embeddings of categories.
    scale, scale_lr : bool, float
        Whether each input has a factor that is trained, and that factor's factor of lr.
    bias_lr : float
        Factor of lr for biases.
    init : {"data", "normal"}
        First values from the training rows; or standard normal, and 0 in the last layer.
    label_smoothing : float
        Of classes.
    calibrate : bool
        Whether a temperature, which the rows that choose the epoch tell, corrects the probabilities of classes.
    clamp : bool
        Whether predictions of numbers stay in the range of the training targets.
    """

    hidden: tuple[int, ...] = (256, 256, 256)
    epochs: int = 256
    batch_size: int = 256
    least_steps: int = 1
    lr: float = 0.04
    lr_schedule: str = "coslog4"
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    dropout: float = 0.15
    dropout_schedule: str = "flat_cos"
    weight_decay: float = 0.02
    weight_decay_schedule: str = "flat_cos"
    activation: str = "selu"
    parametric: bool = True
    parametric_lr: float = 0.1
    embedding: str | None = "pbld"
    embedding_lr: float = 0.1
    embedding_frequencies: int = 16
    embedding_sigma: float = 0.1
    embedding_width: int = 3
    max_one_hot: int | None = 8
    category_width: int = 8
    scale: bool = True
    scale_lr: float = 6.0
    bias_lr: float = 0.1
    init: str = "data"
    label_smoothing: float = 0.1
    calibrate: bool = False
    clamp: bool = True

    def __post_init__(self) -> None:
        for what in ("lr_schedule", "dropout_schedule", "weight_decay_schedule"):
            choice(getattr(self, what), "RealMLP", what, tuple(SCHEDULES))
        choice(self.init, "RealMLP", "init", ("data", "normal"))
        get_activation(self.activation)


TD = Recipe()
TD_S = replace(
    TD, embedding=None, parametric=False, dropout=0.0, weight_decay=0.0, init="normal", clamp=False, max_one_hot=None
)
# Found on tables that no comparison uses, see fastfc/tabular/README.md.
FAST = replace(TD, epochs=64, batch_size=128, least_steps=8, hidden=(192, 192, 192), calibrate=True)
# The recipe of each preset, for classes and for numbers.
PRESETS = {
    "fast": (FAST, replace(FAST, lr=0.2, activation="mish", hidden=(256, 128))),
    "td": (TD, replace(TD, lr=0.2, activation="mish")),
    "td-s": (TD_S, replace(TD_S, lr=0.07, activation="mish")),
}


def recipe_of(preset: str, of_classes: bool, **changes: Any) -> Recipe:
    """The recipe of a preset, with other constants where they are not None."""
    if preset not in PRESETS:
        raise ValueError(
            f"RealMLP: preset must be one of {', '.join(PRESETS)}, got {preset!r}{did_you_mean(preset, PRESETS)}"
        )
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(PRESETS[preset][0 if of_classes else 1], **given)


def selected(x: Node, columns: Sequence[int], dtype: Any) -> Node:
    """These columns of a node, by a product with a matrix of 0 and 1, which is exact."""
    if list(columns) == list(range(x.width)):
        return x
    pick = Linear(x.width, len(columns), bias=False, init="zeros", dtype=dtype)
    pick.weight[list(columns), np.arange(len(columns))] = 1
    pick.frozen = True
    return pick(x)


def build(
    recipe: Recipe,
    numbers: Node | None,
    plain: Sequence[Node],
    codes: Node | None,
    sizes: Sequence[int],
    n_out: int,
    rng: np.random.Generator,
    dtype: Any = np.float32,
) -> Node:
    """The outputs of a network for scaled numbers, columns that it takes as they are, and codes of categories.

    Parameters
    ----------
    recipe : Recipe
    numbers : Node or None
        Numbers that are embedded.
    plain : sequence of Node
        The numbers themselves, and one-hot columns.
    codes : Node or None
        Codes of categories: rows of one table of embeddings.
    sizes : sequence of int
        Of each code, how many there are. In the table, the codes of a category begin at the sum of the sizes before it.
    n_out : int
    rng : numpy.random.Generator
        Draws the first values, but those of "data", see `train`.
    dtype : np.float32 or np.float64
    """
    parts = list(plain)
    if recipe.embedding is not None and numbers is not None:
        embedded = NumericEmbedding(
            numbers.width,
            recipe.embedding_width,
            recipe.embedding,
            n_frequencies=recipe.embedding_frequencies,
            frequency_scale=recipe.embedding_sigma,
            dense=False,
            seed=rng,
            dtype=dtype,
            name="embedding",
        )
        parts.insert(0, embedded(numbers))
    if codes is not None:
        table = Embedding(sum(sizes), recipe.category_width, len(sizes), seed=rng, dtype=dtype, name="categories")
        parts.append(table(codes))
    h = parts[0] if len(parts) == 1 else concatenate(parts)
    if recipe.scale:
        h = Scale(h.width, dtype=dtype, name="scale")(h)
    for i, width in enumerate((*recipe.hidden, n_out)):
        last = i == len(recipe.hidden)
        init = "zeros" if recipe.init == "normal" and last else standard_normal
        h = Linear(
            h.width,
            width,
            parametrization="ntk",
            init=init,
            bias_init=init,
            seed=rng,
            dtype=dtype,
            name="output" if last else f"linear{i + 1}",
        )(h)
        if not last:
            if recipe.parametric:
                h = Parametric(recipe.activation, width, dtype=dtype, name=f"activation{i + 1}")(h)
            else:
                h = get_activation(recipe.activation)(h)
            if recipe.dropout:
                h = Dropout(recipe.dropout, seed=rng)(h)
    return h


def replayed(network: Graph, inputs: Sequence[Node]) -> Node:
    """The output of a copy of a network of `build` for these inputs."""
    values, copies = dict(zip(network.inputs, inputs, strict=True)), dict[Any, Any]()
    for node in network.nodes:
        if node not in values:
            read = [values[other] for other in node.inputs]
            if isinstance(node.what, Layer):
                layer = copies.setdefault(node.what, copy.deepcopy(node.what))
                values[node] = layer(read[0])
            else:
                values[node] = concatenate(read)
    return values[network.outputs[0]]


def columns_of(network: Graph, x: NDArray[Any]) -> Any:
    """The columns of each input of a network, of an array that has all side by side."""
    if len(network.inputs) == 1:
        return x
    return tuple(np.split(x, np.cumsum([node.width for node in network.inputs])[:-1], axis=1))


def standard_normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    return rng.standard_normal(shape, dtype)


def optimizer_for(recipe: Recipe, names: Sequence[str], steps: int) -> AdamW:
    """The optimizer of a training of so many steps, for a network whose parameters have these names."""
    groups = {
        "*.bias": {"lr_factor": recipe.bias_lr, "weight_decay_factor": 0.0},
        "activation*": {"lr_factor": recipe.parametric_lr},
        "scale.*": {"lr_factor": recipe.scale_lr},
        "embedding.*": {"lr_factor": recipe.embedding_lr, "weight_decay_factor": 1.0},
    }
    schedules = {}
    for what in ("dropout", "weight_decay"):
        schedule = SCHEDULES[getattr(recipe, f"{what}_schedule")](steps, 1.0)
        if getattr(recipe, what) and schedule is not None and (what != "dropout" or recipe.hidden):
            schedules[what] = schedule
    return AdamW(
        recipe.lr,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.eps,
        weight_decay=recipe.weight_decay,
        schedule=SCHEDULES[recipe.lr_schedule](steps, recipe.lr),
        schedules=schedules,
        groups={pattern: options for pattern, options in groups.items() if fnmatch.filter(names, pattern)},
        square_factors=True,
    )


class Samples(NamedTuple):
    """Inputs and targets as a network takes them, and weights or None."""

    x: NDArray[Any]
    y: NDArray[Any]
    weights: NDArray[Any] | None = None


class Score(NamedTuple):
    """What tells the best epoch: the name, and the value of targets, outputs and weights, of which less is better."""

    name: str
    value: Callable[[Any, Any, Any], float]


class Member(NamedTuple):
    """A network that was trained, its history, and the number of the epoch whose weights it has."""

    network: Graph
    history: History
    best_epoch: int


def batch_of(recipe: Recipe, n: int) -> int:
    """Rows of a batch, of n rows."""
    return min(recipe.batch_size, n, max(n // recipe.least_steps, LEAST_BATCH))


def train(
    network: Graph,
    samples: Samples,
    validation: Samples | None,
    loss: Loss,
    score: Score,
    recipe: Recipe,
    rng: np.random.Generator,
    *,
    patience: int | None = None,
    callbacks: Sequence[Any] = (),
    progress: bool = False,
    comm: Any = None,
) -> Member:
    """Train a network of `build` to the end, or until there was nothing better for `patience` epochs."""
    batch = batch_of(recipe, len(samples.x))
    steps = recipe.epochs * (len(samples.x) // batch)
    if recipe.init == "data":
        fit_to(network, columns_of(network, samples.x), rng)
    names = [name for name, *_ in network.named_parameters()]
    keeping, given = EarlyStopping(f"val_{score.name}", patience, mode="min", keep="last"), validation is not None
    held = None
    if validation is not None:
        held = (columns_of(network, validation.x), *validation[1 : 2 if validation.weights is None else 3])
    history = network.fit(
        columns_of(network, samples.x),
        samples.y,
        sample_weight=samples.weights,
        loss=loss,
        optimizer=optimizer_for(recipe, names, steps),
        epochs=recipe.epochs,
        batch_size=batch,
        drop_last=True,
        seed=rng,
        validation_data=held,
        metrics=[named(score)] if given else [],
        callbacks=[*([keeping] if given else []), *callbacks],
        progress=progress,
        comm=comm,
    )
    return Member(network, history, best_epoch(history, score.name))


def best_epoch(history: History, score: str) -> int:
    """The last of the epochs with the least value of this score on the validation; the last one without any."""
    if f"val_{score}" not in history.names():
        return len(history)
    values = np.nan_to_num(history[f"val_{score}"], nan=np.inf)
    return len(values) - int(np.argmin(values[::-1]))


def named(score: Score) -> Callable[[Any, Any], float]:
    """A function that `fit` calls by the name of the score."""

    def function(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
        return score.value(y_true, y_pred, sample_weight)

    function.__name__ = score.name
    return function


def seconds_for(network: Graph, samples: Samples, loss: Loss, recipe: Recipe) -> float:
    """An estimate of the time that `train` takes for all epochs, from a few steps of a copy."""
    copied, batch = copy.deepcopy(network), batch_of(recipe, len(samples.x))
    few = slice(0, min(len(samples.x), 4 * batch) // batch * batch)
    options: dict[str, Any] = {"loss": loss, "optimizer": AdamW(recipe.lr), "batch_size": batch}
    least = math.inf
    for _ in range(3):  # the first one may compile
        start = time.perf_counter()
        copied.fit(columns_of(copied, samples.x[few]), samples.y[few], **options)
        least = min(least, time.perf_counter() - start)
    return least * recipe.epochs * (len(samples.x) // batch) / (few.stop // batch)


# ---------- scores that choose an epoch


def error_rate(y: NDArray[Any], output: NDArray[Any], weights: Any = None) -> float:
    """The share of classes that are not the largest output, to 6 decimals: what weighs less chooses no epoch."""
    return round(float(np.average(output.argmax(axis=1) != y, weights=weights)), 6)


def log_loss(y: NDArray[Any], output: NDArray[Any], weights: Any = None) -> float:
    """The mean of −log of the probability of the class, without label smoothing."""
    z = output.astype(np.float64)
    z = z - z.max(axis=1, keepdims=True)
    losses = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), y]
    return float(np.average(losses, weights=weights))


def clamped_rmse(low: NDArray[Any], high: NDArray[Any]) -> Callable[[Any, Any, Any], float]:
    """The root of the mean squared error of outputs that are clamped, in the units that the network learns."""

    def value(y: NDArray[Any], output: NDArray[Any], weights: Any = None) -> float:
        squares = (np.clip(output, low, high).astype(np.float64) - y) ** 2
        return float(np.sqrt(np.average(squares.mean(axis=1), weights=weights)))

    return value


def pinball(quantiles: Any) -> Callable[[Any, Any, Any], float]:
    """The mean pinball loss of these quantiles."""
    q = np.asarray(quantiles, np.float64)

    def value(y: NDArray[Any], output: NDArray[Any], weights: Any = None) -> float:
        error = y.astype(np.float64) - output
        return float(np.average(np.maximum(q * error, (q - 1) * error).mean(axis=1), weights=weights))

    return value


def temperature_of(y: NDArray[Any], output: NDArray[Any]) -> float:
    """The T > 0 for which softmax(output / T) has the least log loss: Newton's method in log(1/T).

    Of n rows a share of 1/(n + 1) counts for all classes alike, so that few rows, all of them right, do not make T 0.

    References: C. Guo, G. Pleiss, Y. Sun, K. Weinberger, "On calibration of modern neural networks", ICML 2017.
    """
    z = output.astype(np.float64)
    z = z - z.max(axis=1, keepdims=True)
    share, s = 1 / (len(z) + 1), 0.0
    own = (1 - share) * z[np.arange(len(z)), y] + share * z.mean(axis=1)
    for _ in range(50):
        b = math.exp(s)
        p = np.exp(b * z)
        p /= p.sum(axis=1, keepdims=True)
        mean = (p * z).sum(axis=1)
        slope = b * np.mean(mean - own)
        curvature = slope + b * b * np.mean((p * z * z).sum(axis=1) - mean**2)
        step = float(np.clip(slope / max(curvature, 1e-12), -1, 1)) if curvature > 0 else float(np.sign(slope))
        s = float(np.clip(s - step, -5, 5))
        if abs(step) < 1e-9:
            break
    return math.exp(-s)
