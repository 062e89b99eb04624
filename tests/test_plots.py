import pickle
import sys

import matplotlib.figure as figure
import numpy as np
import pytest

import fastfc as fc
from fastfc import plots
from fastfc.data.datasets import load_digits


@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_the_ending_of_the_file_decides_its_kind(tmp_path, ending):
    images, labels = (array[:60] for array in load_digits())
    predictions = np.where(np.arange(60) < 3, (labels + 1) % 10, labels)
    file = tmp_path / f"plot{ending}"
    plots.save_plot(file, "title", {"NumPy": [2.0, 1.0], "fastfc": [2.0, 1.0]}, images, labels, predictions)
    assert file.read_bytes().startswith(b"\x89PNG" if ending == ".png" else b"<?xml")


def test_every_mistake_is_counted_and_marked():
    images, labels = (array[:60] for array in load_digits())
    predictions = np.where(np.arange(60) < 3, (labels + 1) % 10, labels)
    sheet = figure.Figure()
    plots.plot_digits(sheet, images, labels, predictions)
    titles = [axes.get_title() for axes in sheet.axes]
    assert [title.startswith("✗") for title in titles] == [True] * 3 + [False] * 27
    assert titles[0] == f"✗ {predictions[0]}, is {labels[0]}"

    axes = figure.Figure().subplots()
    plots.plot_confusion(axes, labels, predictions)
    cells = {text.get_position()[::-1]: int(text.get_text()) for text in axes.texts}
    assert sum(cells.values()) == 60
    assert sum(count for (true, predicted), count in cells.items() if true != predicted) == 3


def lines(axes):
    return {line.get_label(): line for line in axes.lines if line.get_label()[0] != "_"}


def test_history_has_a_panel_for_each_quantity(tmp_path):
    loss, val_loss = [2.0, 1.0, np.nan, 0.5], [2.0, 0.8, np.nan, 1.0]
    metrics = {"accuracy": [0.1, 0.5, 0.6, 0.7], "val_accuracy": [0.2, 0.4, 0.6, 0.5], "val_r2": [-1.0, 0, 0, 1]}
    sheet = plots.history({"loss": loss, "val_loss": val_loss, "seconds": [1] * 4, **metrics}, "some title")
    assert sheet.get_suptitle() == "some title"
    assert [axes.get_ylabel() for axes in sheet.axes] == ["loss", "accuracy", "r2"]
    assert [axes.get_yscale() for axes in sheet.axes] == ["log", "linear", "linear"]
    assert [list(lines(axes)) for axes in sheet.axes] == [["training", "validation"]] * 2 + [["validation"]]
    training = lines(sheet.axes[0])["training"]
    np.testing.assert_array_equal(training.get_xdata(), [1, 2, 3, 4])
    np.testing.assert_array_equal(training.get_ydata(), loss)
    assert sheet.axes[0].get_title() == "least validation loss 0.8, epoch 2" and sheet.axes[1].get_title() == ""
    sheet.savefig(tmp_path / "history.svg")


def ticks(axis, low, high):
    """The texts at the major ticks between these values."""
    axis.axes.figure.draw_without_rendering()
    found = zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
    return [label.get_text() for value, label in found if low <= value <= high]


def test_one_epoch_has_one_tick():
    """They were 0.96, 0.98, 1.00, …"""
    sheet = plots.history({"epoch": [7], "loss": [0.83], "val_loss": [0.91], "accuracy": [0.7]})
    for axes in sheet.axes:
        low, high = axes.get_xlim()
        assert (low, high) == (6.5, 7.5) and ticks(axes.xaxis, low, high) == ["7"]


def test_only_two_curves_need_a_legend():
    values = {"loss": [2.0, 1.0], "val_loss": [2.0, 1.0], "accuracy": [0.1, 0.2], "val_r2": [0.1, 0.2]}
    both, one, other = plots.history(values).axes
    assert [text.get_text() for text in both.get_legend().get_texts()] == ["training", "validation"]
    assert one.get_legend() is other.get_legend() is None
    assert (one.get_title(), other.get_title()) == ("", "validation")


EPOCHS = np.arange(100)


@pytest.mark.parametrize(
    ("rates", "scale"),
    [
        (np.cos(EPOCHS / 99 * np.pi) / 2 + 0.5, "linear"),
        (np.cos(EPOCHS / 99 * np.pi) / 2 + 0.5 + 1e-9, "linear"),
        (np.minimum(EPOCHS + 1e-6, 20) / 20, "linear"),
        (1 - EPOCHS / 200, "linear"),
        (0.1 * 0.1 ** (EPOCHS // 30), "log"),
        (0.1 * 0.9**EPOCHS, "log"),
    ],
    ids=["to 0", "almost to 0", "warm-up", "line", "steps", "exponential"],
)
def test_a_learning_rate_fills_its_panel(rates, scale):
    """On a logarithmic axis, one that ends near 0 lay squashed at the top."""
    axes = plots.history({"loss": 1 / (1 + EPOCHS), "lr": rates}).axes[1]
    assert axes.get_ylabel() == "learning rate" and axes.get_yscale() == scale
    middle = axes.transAxes.inverted().transform(axes.transData.transform((0, np.median(rates))))[1]
    assert middle > 0.2 and len(ticks(axes.yaxis, *axes.get_ylim())) >= 3


def test_large_numbers_and_narrow_ranges_can_be_read():
    epochs = np.arange(1, 3001)
    wide, narrow, mae = plots.history(
        {"epoch": epochs, "loss": 3e4 / epochs, "val_mae": 9000 - 4 * epochs, "val_r2": -2.0 - epochs}
    ).axes
    assert "10,000" in ticks(wide.yaxis, *wide.get_ylim()) and "1,000" in ticks(wide.xaxis, *wide.get_xlim())
    assert "2,000" in ticks(narrow.yaxis, *narrow.get_ylim())
    assert "−2,000" in ticks(mae.yaxis, *mae.get_ylim())
    (axes,) = plots.history({"loss": [0.92, 0.9, 0.83]}).axes
    assert {"0.9", "0.85"} & {*ticks(axes.yaxis, *axes.get_ylim())} and not axes.yaxis.get_offset_text().get_text()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.001, "−0.001"),
        (123456.7, "123,000"),
        (260.4, "260"),
        (-1234.5, "−1,230"),
        (1.5e-7, "1.5e−07"),
        (2e9, "2e+09"),
    ],
)
def test_numbers_have_minus_signs_and_separators(value, text):
    assert plots.number(value) == text


def test_history_of_a_fit():
    net = fc.MLP([1, 1], init="zeros")
    losses = [net.fit([[2]], [[1]], loss=fc.MSELoss(), optimizer=fc.SGD(0.05), epochs=3)]
    losses.append(fc.History())
    losses[1].rows = [{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 0.0}]  # no logarithm of 0
    for history, scale in zip(losses, ["log", "linear"], strict=True):
        (axes,) = plots.history(history).axes
        assert axes.get_ylabel() == "loss" and axes.get_yscale() == scale and axes.get_legend() is None
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), history.loss)
    with pytest.raises(ValueError, match="no finished epoch"):
        plots.history(fc.History())


def test_plot_of_a_continued_training_with_many_panels():
    net, optimizer = fc.MLP([3, 4, 1], seed=0), fc.SGD(0.01, schedule=fc.ExponentialLR(0.9, unit="epoch"))
    x = np.random.default_rng(0).standard_normal((20, 3))
    options = {"loss": fc.MSELoss(), "optimizer": optimizer, "metrics": ["mae", "rmse", "r2"], "seed": 0}
    net.fit(x, x[:, :1], epochs=2, **options)
    history = net.fit(x, x[:, :1], epochs=4, validation_data=(x, x[:, :1]), **options)
    sheet = history.plot(title="second part")
    assert sheet.get_suptitle() == "second part"
    assert [axes.get_ylabel() for axes in sheet.axes] == ["loss", "learning rate", "mae", "rmse", "r2"]
    assert {axes.get_xlabel() for axes in sheet.axes} == {"epoch"}
    assert all(list(line.get_xdata())[:4] == [3, 4, 5, 6] for axes in sheet.axes for line in lines(axes).values())
    assert sheet.axes[0].get_title() == f"least validation loss {history.val_loss[-1]:.3g}, epoch 6"
    ring = sheet.axes[0].lines[-1]
    assert (ring.get_xdata(), ring.get_ydata()) == (6, history.val_loss[-1])
    rows = {tuple(axes.get_subplotspec().get_geometry()[:2]) for axes in sheet.axes}
    assert rows == {(2, 3)}  # not five side by side
    np.testing.assert_array_equal(sheet.axes[1].lines[0].get_ydata(), history["lr"])


def test_a_notebook_shows_figures():
    sheet = plots.history({"loss": [2.0, 1.0]})
    assert sheet._repr_png_().startswith(b"\x89PNG")
    assert pickle.loads(pickle.dumps(sheet))._repr_png_().startswith(b"\x89PNG")


def test_learning_rates(tmp_path):
    rates = np.geomspace(1e-5, 1, 6)
    sheet = plots.learning_rates(rates, [2.0, 1.9, 1.0, 3.0, 1e9, np.nan], suggestion=1e-3)
    (axes,) = sheet.axes
    curve, mark = axes.lines
    np.testing.assert_array_equal(curve.get_xdata(), rates[:5])
    assert list(mark.get_xdata()) == [1e-3, 1e-3] and mark.get_label() == "suggestion 0.001"
    assert axes.get_xscale() == "log" and 3 <= axes.get_ylim()[1] < 3.2  # as far above the first loss as below
    sheet.savefig(tmp_path / "rates.png")
    assert len(plots.learning_rates([1], [1]).axes[0].lines) == 1
    with pytest.raises(ValueError, match=r"rates have shape \(2,\), losses \(1,\)"):
        plots.learning_rates([1, 2], [1])
    with pytest.raises(ValueError, match="no loss is finite"):
        plots.learning_rates([1, 2], [np.nan, np.inf])


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"needs matplotlib: pip install 'fastfc\[plot\]'"):
        plots.history({"loss": [1.0]})
