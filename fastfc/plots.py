"""Pictures: of a training, of a search for the learning rate, and the one that `fastfc demo --plot` writes."""

import io
import math
from collections.abc import Mapping
from functools import partial

import numpy as np

from fastfc.extras import extra

BLUE, ORANGE = "#0072b2", "#d55e00"  # apart for every kind of colour vision (Okabe & Ito)
ABREAST = 3  # panels at most
FEW_EPOCHS = 60  # each is marked
MOST_DIGITS = 1e7  # numbers below are written out


def plot_losses(axes, losses):
    """losses: name of the implementation -> loss of each epoch. They coincide, so one is wide and pale."""
    styles = [dict(color=ORANGE, linewidth=6, alpha=0.4), dict(color=BLUE, linewidth=1.5, marker=".")]
    for (name, values), style in zip(losses.items(), styles, strict=True):
        axes.plot(range(1, len(values) + 1), values, label=name, **style)
    axes.set(xlabel="epoch", ylabel="mean cross-entropy of the epoch", yscale="log")
    difference = np.max(np.abs(np.subtract(*losses.values())))
    axes.set_title(f"Loss of both trainings, at most {number(difference, 1)} apart")
    count_epochs(axes)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def plot_confusion(axes, labels, predictions):
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (labels, predictions), 1)
    axes.imshow(np.sqrt(counts), cmap="Blues")  # the root keeps a single mistake visible
    for (true, predicted), count in np.ndenumerate(counts):
        if count:
            colour = "white" if 4 * count > counts.max() else "black"
            axes.text(predicted, true, count, ha="center", va="center", color=colour, fontsize=9)
    axes.set(xlabel="predicted", ylabel="true", title="Confusion matrix, held-out digits")
    axes.set(xticks=range(10), yticks=range(10))


def plot_digits(figure, images, labels, predictions):
    """The wrong ones first, framed and crossed, then right ones."""
    rows, columns = 3, 10
    figure.suptitle("Held-out digits with their predictions: mistakes first, in a frame")
    wrong = predictions != labels
    chosen = np.argsort(~wrong, kind="stable")[: rows * columns]
    for axes, i in zip(figure.subplots(rows, columns).flat, chosen, strict=True):
        axes.imshow(images[i].reshape(8, 8), cmap="Greys", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.set_title(predictions[i], fontsize=10, pad=3)
        axes.spines[:].set_color("0.8")
        if wrong[i]:
            text = f"✗ {predictions[i]}, is {labels[i]}"
            axes.set_title(text, fontsize=9, pad=3, color=ORANGE, weight="bold")
            axes.spines[:].set(color=ORANGE, linewidth=3)


def save_plot(path, title, losses, images, labels, predictions):
    """Write the picture; the file's ending decides its format."""
    figure = new_figure(title, (12, 9))
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.15, 1])[:, 0]
    loss, confusion = top.subplots(1, 2, width_ratios=[1.3, 1])
    plot_losses(loss, losses)
    plot_confusion(confusion, labels, predictions)
    plot_digits(bottom, images, labels, predictions)
    figure.savefig(path, dpi=120)


def number(value, digits=3):
    """A number as a picture shows it: with a minus sign, not a hyphen, and separators of thousands."""
    text = f"{value:.{digits}g}"
    if 1 <= abs(value) < MOST_DIGITS:
        text = f"{float(text):,.10g}"
    return text.replace("-", "−")


def count_epochs(axes):
    """The x axis counts epochs from 1 or a later one: whole numbers, also where there is a single one."""
    low, high = axes.dataLim.intervalx
    if low == high:
        axes.set_xlim(low - 0.5, low + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    separate_thousands(axes.xaxis, high)


def written_out(value, _=None):
    """The text of a tick; a function of its own, as figures with one can be pickled."""
    return f"{value:,.10g}".replace("-", "−")


def separate_thousands(axis, largest):
    """Ticks such as 12,500, where the numbers on this axis are that long and not longer."""
    if 1000 <= largest < MOST_DIGITS:
        axis.set_major_formatter(written_out)


def log_scale(axis, values):
    """A logarithmic axis with plain numbers as ticks, more of them where the values span little."""
    values = values[np.isfinite(values)]
    decades = np.log10(values.max() / values.min())
    digits = (1,) if decades > 3 else (1, 2, 5) if decades > 0.6 else range(1, 10)
    ticker = extra("matplotlib.ticker", "plot", "a picture")
    axis.set_major_locator(ticker.LogLocator(subs=digits, numticks=12))
    axis.set_major_formatter(written_out)
    axis.set_minor_formatter("")


def decays(rates):
    """Whether a learning rate goes through decades in steps or evenly; one that warms up or ends at 0 does not."""
    low, middle, high = np.quantile(rates, [0, 0.5, 1])
    return 1e-6 * high < low and middle < high / 5 and low > middle / 1e3


def curves(columns):
    """Name -> value of each epoch, of what there is to draw; a learning rate that never changes is not."""
    found = {name: np.asarray(values, float) for name, values in columns.items() if len(values)}
    constant = {"lr"} if "lr" in found and np.ptp(found["lr"]) == 0 else set()
    return {name: values for name, values in found.items() if name not in {"epoch", "seconds", *constant}}


def history(history, title="Training"):
    """A picture of a training: a panel for the loss, and for each metric, over the epochs.

    Parameters
    ----------
    history : History or dict
        What `fit` returned, or name -> values of the epochs. `val_loss` is drawn beside `loss`, and likewise for
        metrics. Values that are not finite leave a gap.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        A notebook shows it; `.savefig(path)` writes it.

    Raises
    ------
    ImportError
        Without Matplotlib: pip install "fastfc[plot]".
    ValueError
        If there is no finished epoch.

    Examples
    --------
    >>> from fastfc import plots
    >>> figure = plots.history({"loss": [2.0, 1.0, 0.6], "val_loss": [1.8, 1.1, 0.9]})  # doctest: +SKIP
    """
    columns = history if isinstance(history, Mapping) else history.arrays()
    found = curves(columns)
    if not found:
        raise ValueError("history: there is no finished epoch to draw")
    first = int(columns["epoch"][0]) if "epoch" in columns else 1
    panels = list(dict.fromkeys(name.removeprefix("val_") for name in found))
    rows = math.ceil(len(panels) / ABREAST)
    abreast = math.ceil(len(panels) / rows)
    figure = new_figure(title, (5.5 * abreast, 0.4 + 3.8 * rows))
    places = [figure.add_subplot(rows, abreast, i + 1) for i in range(len(panels))]
    for axes, panel in zip(places, panels, strict=True):
        plot_panel(axes, panel, {name: found[name] for name in (panel, f"val_{panel}") if name in found}, first)
    return figure


def plot_panel(axes, panel, found, first):
    """A quantity over the epochs, of training and validation."""
    styles = {panel: dict(label="training", color=BLUE), f"val_{panel}": dict(label="validation", color=ORANGE)}
    for name, values in found.items():
        epochs = first + np.arange(len(values))
        axes.plot(epochs, values, linewidth=1.5, marker="." if len(epochs) <= FEW_EPOCHS else "", **styles[name])
    if len(found) > 1:
        axes.legend(frameon=False)
    elif panel not in found:
        axes.set_title("validation")
    mark_best(axes, panel, found.get(f"val_{panel}"), first)
    axes.set(xlabel="epoch", ylabel="learning rate" if panel == "lr" else panel)
    everything = np.concatenate([*found.values()])
    finite = everything[np.isfinite(everything)]
    if len(finite) and finite.min() > 0 and (panel == "loss" or (panel == "lr" and decays(finite))):
        axes.set_yscale("log")
        log_scale(axes.yaxis, finite)
    elif len(finite):
        separate_thousands(axes.yaxis, np.abs(finite).max())
    count_epochs(axes)
    axes.grid(alpha=0.3)


def mark_best(axes, name, values, first=1):
    """A ring about the best validation, which is the least loss."""
    if name != "loss" or values is None or not np.isfinite(values).any():
        return
    best = int(np.nanargmin(values))
    axes.plot(first + best, values[best], "o", color=ORANGE, markersize=9, fillstyle="none")
    axes.set_title(f"least validation loss {number(values[best])}, epoch {first + best:,}")


def learning_rates(rates, losses, suggestion=None, title="Learning rates"):
    """A picture of a search for the learning rate: the loss at each of the rising rates.

    Parameters
    ----------
    rates, losses : (k,) arrays
        Rates are positive. What is far above the first loss is cut off, what is not finite left out.
    suggestion : float, optional
        The rate to take, marked by a line.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        A notebook shows it; `.savefig(path)` writes it.

    Raises
    ------
    ImportError
        Without Matplotlib: pip install "fastfc[plot]".
    ValueError
        If rates and losses differ in length, or no loss is finite.

    Examples
    --------
    >>> from fastfc import plots
    >>> figure = plots.learning_rates([1e-3, 1e-2, 1e-1], [2.3, 1.2, 4.0], suggestion=1e-2)  # doctest: +SKIP
    """
    rates, losses = np.asarray(rates, float), np.asarray(losses, float)
    if rates.shape != losses.shape or rates.ndim != 1:
        raise ValueError(f"learning_rates: rates have shape {rates.shape}, losses {losses.shape}; give one of each")
    finite = np.isfinite(losses)
    if not finite.any():
        raise ValueError("learning_rates: no loss is finite")
    figure = new_figure(title, (7, 4.5))
    axes = figure.subplots()
    axes.plot(rates[finite], losses[finite], color=BLUE, linewidth=1.5)
    low, first = losses[finite].min(), losses[finite][0]
    high = min(losses[finite].max(), first + (first - low))
    if high > low:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    if suggestion is not None:
        text = f"suggestion {number(suggestion, 2)}"
        axes.axvline(suggestion, color=ORANGE, linewidth=1.5, linestyle="--", label=text)
        axes.set_title(text, color=ORANGE)
    axes.set(xlabel="learning rate", ylabel="loss", xscale="log")
    axes.grid(alpha=0.3)
    return figure


def new_figure(title, size):
    """An empty one. Not pyplot's: no display and no state are needed."""
    module, engine = (extra(f"matplotlib.{name}", "plot", "a picture") for name in ("figure", "layout_engine"))
    figure = module.Figure(figsize=size, layout=engine.ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    figure.suptitle(title, fontsize=14, weight="bold")
    figure._repr_png_ = partial(as_png, figure)  # without pyplot a notebook does not know figures
    return figure


def as_png(figure):
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    return data.getvalue()
