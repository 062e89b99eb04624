"""The picture that `fastfc train --plot` writes: learning curves, and how good the predictions of unseen rows are."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastfc.plots import (
    BLUE,
    FEW_EPOCHS,
    ORANGE,
    count_epochs,
    log_scale,
    mark_best,
    new_figure,
    number,
    separate_thousands,
)
from fastfc.tabular.target import Target
from fastfc.training.history import History

LONGEST_NAME, LONGEST_LINE = 18, 11
FEW = 5  # classes whose names may take several lines
MOST_IN_A_ROW = 12  # classes for which three panels are side by side
MOST_NUMBERS = 15  # classes for which there is room to write numbers into the cells
MOST_NAMES = 40
BINS = 10  # of probabilities


def save_report(
    path: Path, title: str, goal: Target, history: History, y: NDArray[Any], output: NDArray[Any], summary: str
) -> None:
    """Write the picture; the file's ending decides its format."""
    report(title, goal, history, y, output, summary).savefig(path, dpi=120)


def report(title: str, goal: Target, history: History, y: NDArray[Any], output: NDArray[Any], summary: str) -> Any:
    """The figure, of the held-out targets y and what the network says of them: probabilities, or numbers."""
    k = len(goal.classes or ())
    if k <= MOST_IN_A_ROW:
        figure = new_figure(f"{title}\n{summary}", (16, 5.6))
        curves, table, quality = figure.subplots(1, 3)
    else:
        side = min(5 + 0.3 * k, 16)
        figure = new_figure(f"{title}\n{summary}", (6 + side, side))
        left, right = figure.subfigures(1, 2, width_ratios=[6, side])
        (curves, quality), table = left.subplots(2, 1), right.subplots()
    if goal.classes:
        plot_curves(curves, history, "cross-entropy (nats)")
        plot_confusion(table, goal.classes, y, output.argmax(axis=1))
        plot_calibration(quality, goal.classes, y, output)
    else:
        plot_curves(curves, history, f"mean squared error / variance of {short(goal.name)}")
        plot_predictions(table, goal.name, y, output[:, 0])
        plot_residuals(quality, goal.name, y, output[:, 0])
    return figure


def plot_curves(axes: Any, history: History, label: str) -> None:
    epochs = history["epoch"]
    style = {"linewidth": 1.5, "marker": "." if len(epochs) <= FEW_EPOCHS else ""}
    axes.plot(epochs, history["loss"], color=BLUE, label="training", **style)
    axes.plot(epochs, history["val_loss"], color=ORANGE, label="validation, to stop by", **style)
    mark_best(axes, "loss", history["val_loss"])
    axes.set(xlabel="epoch", ylabel=label)
    losses = np.concatenate([history["loss"], history["val_loss"]])
    if losses.min() > 0:
        axes.set_yscale("log")
        log_scale(axes.yaxis, losses)
    count_epochs(axes)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def lines(name: str) -> str:
    """A name on a few lines."""
    return "\n".join(textwrap.wrap(name, LONGEST_LINE, max_lines=4, placeholder="…"))


def short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def plot_confusion(axes: Any, classes: Sequence[str], y: NDArray[Any], predicted: NDArray[Any]) -> None:
    k = len(classes)
    counts = np.zeros((k, k), int)
    np.add.at(counts, (y, predicted), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)  # the root keeps a single mistake visible
    if k <= MOST_NUMBERS:
        for (i, j), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[i, j] > 0.3 else "black"
                size = 10 if k <= 10 else 8 if count < 1000 else 7
                axes.text(j, i, f"{count:,}", ha="center", va="center", color=colour, fontsize=size)
    else:
        bar = axes.figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class")
        bar.set_ticks(np.sqrt([0, 0.01, 0.1, 0.25, 0.5, 1]), labels=["0", "1 %", "10 %", "25 %", "50 %", "100 %"])
    names = [lines(name) if k <= FEW else short(name) for name in classes]
    step = -(-k // MOST_NAMES)
    ticks, labels = range(0, k, step), names[::step]
    long = k > FEW and max(map(len, labels)) * len(labels) > 40
    size = 10 if k <= MOST_NUMBERS else 8
    axes.set_xticks(ticks, labels, rotation=90 if long else 0, fontsize=size)
    axes.set_yticks(ticks, labels, fontsize=size)
    wrong = int((y != predicted).sum())
    axes.set(
        xlabel="predicted class", ylabel="true class", title=f"{len(y) - wrong:,} of {len(y):,} held out are right"
    )


def bins_of(p: NDArray[Any], happened: NDArray[np.bool_]) -> list[tuple[float, float, int]]:
    """(mean probability, share that happened, count) of the tenths of [0, 1] in which there are any."""
    tenth = np.minimum((p * BINS).astype(int), BINS - 1)
    parts = [np.flatnonzero(tenth == i) for i in range(BINS)]
    return [(float(p[part].mean()), float(happened[part].mean()), len(part)) for part in parts if len(part)]


def wilson(share: NDArray[Any], n: NDArray[Any], z: float = 1.96) -> tuple[NDArray[Any], NDArray[Any]]:
    """The 95 % interval of a share among n (E. B. Wilson, 1927)."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return middle - half, middle + half


def plot_calibration(axes: Any, classes: Sequence[str], y: NDArray[Any], p: NDArray[Any]) -> None:
    """Of two classes the second's probability, of more the predicted one's, against how often it was true."""
    if len(classes) == 2:
        said, happened, what = p[:, 1], y == 1, f"“{short(classes[1])}”"
    else:
        said, happened, what = p.max(axis=1), p.argmax(axis=1) == y, "the predicted class"
    points = bins_of(said, happened)
    x, share, n = (np.array(column) for column in zip(*points, strict=True))
    low, high = wilson(share, n)
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="perfectly calibrated")
    errors = np.maximum([share - low, high - share], 0)
    axes.errorbar(x, share, errors, color=BLUE, fmt="none", capsize=3, linewidth=1.2)
    # Bubbles of the edge lie across the frame's line, whole.
    label = "held out (area: how many), 95 % interval"
    axes.scatter(x, share, 20 + 180 * n / n.max(), color=BLUE, label=label, clip_on=False, zorder=3)
    error = float((np.abs(x - share) * n).sum() / n.sum())
    axes.set(xlim=(-0.06, 1.06), ylim=(-0.06, 1.06), xlabel=f"probability of {what}", ylabel="how often it was true")
    axes.set_title(f"Calibration: {error:.1%} off on average")
    axes.set_aspect("equal")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12), fontsize=9)


def plot_predictions(axes: Any, name: str, y: NDArray[Any], predicted: NDArray[Any]) -> None:
    low, high = min(y.min(), predicted.min()), max(y.max(), predicted.max())
    axes.plot([low, high], [low, high], color="0.6", linestyle="--", linewidth=1, label="prediction = truth")
    scatter(axes, y, predicted)
    axes.set(xlabel=f"true {short(name)}", ylabel=f"predicted {short(name)}", title=f"{len(y):,} held out")
    axes.set_aspect("equal")
    axes.legend(frameon=False, loc="upper left")


def plot_residuals(axes: Any, name: str, y: NDArray[Any], predicted: NDArray[Any]) -> None:
    errors = predicted - y
    axes.axhline(0, color="0.6", linestyle="--", linewidth=1)
    scatter(axes, predicted, errors)
    spread = float(np.sqrt(np.mean(errors**2)))
    axes.axhspan(-spread, spread, color=ORANGE, alpha=0.12, linewidth=0, label=f"± root mean square, {number(spread)}")
    axes.set(xlabel=f"predicted {short(name)}", ylabel="predicted − true")
    axes.set_title(f"Residuals, mean {number(errors.mean(), 2)}")
    axes.legend(frameon=False, loc="best")


def scatter(axes: Any, x: NDArray[Any], y: NDArray[Any]) -> None:
    """Points of the held-out rows, the paler the more there are, on axes that suit large numbers."""
    alpha = float(np.clip(300 / len(x), 0.05, 0.7))
    style = {"color": BLUE, "markersize": 4, "alpha": alpha, "markeredgewidth": 0, "rasterized": len(x) > 5000}
    axes.plot(x, y, "o", label="held out", **style)
    for axis, values in ((axes.xaxis, x), (axes.yaxis, y)):
        axis.get_major_locator().set_params(nbins=6)
        separate_thousands(axis, np.abs(values).max())
    axes.grid(alpha=0.3)
