"""The picture that `fastfc demo --plot` writes."""

import numpy as np

BLUE, ORANGE = "#0072b2", "#d55e00"  # apart for every kind of colour vision (Okabe & Ito)


def plot_losses(axes, losses):
    """losses: name of the implementation -> loss of each epoch. They coincide, so one is wide and pale."""
    styles = [dict(color=ORANGE, linewidth=6, alpha=0.4), dict(color=BLUE, linewidth=1.5, marker=".")]
    for (name, values), style in zip(losses.items(), styles, strict=True):
        axes.plot(range(1, len(values) + 1), values, label=name, **style)
    axes.set(xlabel="epoch", ylabel="mean cross-entropy of the epoch", yscale="log")
    difference = np.max(np.abs(np.subtract(*losses.values())))
    axes.set_title(f"Loss of both trainings, at most {difference:.0e} apart")
    axes.xaxis.get_major_locator().set_params(integer=True)
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
    """Write the picture; its kind is told by the file's ending."""
    from matplotlib.figure import Figure  # not pyplot: no display and no state are needed
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(12, 9), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    figure.suptitle(title, fontsize=14, weight="bold")
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.15, 1])[:, 0]
    loss, confusion = top.subplots(1, 2, width_ratios=[1.3, 1])
    plot_losses(loss, losses)
    plot_confusion(confusion, labels, predictions)
    plot_digits(bottom, images, labels, predictions)
    figure.savefig(path, dpi=120)
