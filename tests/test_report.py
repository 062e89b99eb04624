import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc
from fastfc.tabular import report
from fastfc.tabular.target import Target


def history(epochs=9):
    found = fc.History()
    for epoch in range(1, epochs + 1):
        found.rows.append({"epoch": epoch, "loss": 1 / epoch, "val_loss": 0.5 + abs(epoch - 5) / 10})
    return found


def predictions(k, n=300, seed=0):
    rng = np.random.default_rng(seed)
    y, p = rng.integers(0, k, n), rng.random((n, k)) ** 4
    p[np.arange(n), y] += rng.random(n)
    return y, p / p.sum(axis=1, keepdims=True)


def names(k, long=False):
    return [f"class {i}" + " of a rather long name, that nobody reads" * long for i in range(k)]


def overlaps(boxes):
    return any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.few(4)
@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("k", [2, 3, 6, 12, 13, 30, 100])
def test_everything_is_on_the_picture_and_readable(k, long):
    y, p = predictions(k)
    picture = report.report("data.csv: kind", Target("kind", names(k, long), ""), history(), y, p, "accuracy 80 %")
    picture.draw_without_rendering()
    width, height = picture.get_size_inches()
    box = picture.get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
    for axes in picture.axes:
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            assert not overlaps([label.get_window_extent() for label in labels if label.get_text()])
    assert {"epoch", "predicted class", "probability of the predicted class"} <= {
        a.get_xlabel() for a in picture.axes
    } or k == 2


def test_a_regression_has_predictions_and_residuals(tmp_path):
    y = np.random.default_rng(0).standard_normal(50)
    picture = report.report("d.csv: y", Target("y", None, ""), history(), y, y[:, None] + 0.5, "R² 0.9")
    curves, scatter, residuals = picture.axes
    assert curves.get_ylabel() == "mean squared error / variance of y"
    assert curves.get_title() == "least validation loss 0.5, epoch 5"
    assert_array_equal(scatter.lines[1].get_xdata(), y)
    assert_array_equal(scatter.lines[1].get_ydata(), y + 0.5)
    assert_allclose(residuals.lines[1].get_ydata(), 0.5)
    assert residuals.get_title() == "Residuals, mean 0.5"
    report.save_report(tmp_path / "r.pdf", "t", Target("y", None, ""), history(1), y, y[:, None], "")
    assert (tmp_path / "r.pdf").read_bytes().startswith(b"%PDF")


def test_confusion_counts_true_by_row():
    axes = Figure().subplots()
    report.plot_confusion(axes, names(3), np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]))
    cells = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "1", (0, 1): "1", (1, 1): "1", (2, 0): "1"}
    assert axes.get_title() == "2 of 4 held out are right"
    assert axes.get_ylabel() == "true class"


def test_calibration_is_probability_against_frequency():
    p = np.array([0.05, 0.15, 0.15, 0.95, 1.0])
    happened = np.array([False, True, False, True, True])
    found = report.bins_of(p, happened)
    assert_allclose(found, [(0.05, 0, 1), (0.15, 0.5, 2), (0.975, 1, 2)])
    axes = Figure().subplots()
    report.plot_calibration(axes, ["no", "yes"], happened.astype(int), np.column_stack([1 - p, p]))
    assert axes.get_xlabel() == "probability of “yes”"
    assert axes.get_title() == f"Calibration: {(0.05 + 2 * 0.35 + 2 * 0.025) / 5:.1%} off on average"


@pytest.mark.parametrize("k", [2, 3, 12, 13, 30])
def test_no_bubble_of_the_calibration_is_cut(k):
    """Sure predictions lie at 0 and 1, where the frame cut them."""
    y = np.random.default_rng(0).integers(0, k, 5000)
    p = np.full((len(y), k), 1e-9)
    p[np.arange(len(y)), y] = 1
    picture = report.report("d", Target("kind", names(k), ""), history(), y, p, "accuracy 100 %")
    picture.draw_without_rendering()
    (axes,) = (axes for axes in picture.axes if axes.get_title().startswith("Calibration"))
    (points,) = (c for c in axes.collections if isinstance(c, PathCollection))
    radius = np.sqrt(points.get_sizes().max()) / 2 * picture.dpi / 72
    frame, at = axes.get_window_extent(), points.get_offset_transform().transform(points.get_offsets())
    assert (at - radius >= frame.min).all() and (at + radius <= frame.max).all()


@pytest.mark.parametrize(("factor", "tick"), [(1.0, "−1"), (1e5, "−100,000"), (1e8, "−1")])
def test_numbers_of_any_size_can_be_read(factor, tick):
    y = factor * np.linspace(-2, 2, 101)
    picture = report.report("d", Target("y", None, ""), history(), y, 0.9 * y[:, None] - 0.001 * factor, "")
    picture.draw_without_rendering()
    _, scatter, residuals = picture.axes
    for axis in (scatter.xaxis, scatter.yaxis, residuals.xaxis):
        texts = [label.get_text() for label in axis.get_ticklabels()]
        assert tick in texts and not any("-" in text for text in texts)
        assert not overlaps([label.get_window_extent() for label in axis.get_ticklabels()])
    assert residuals.get_title() == {1.0: "Residuals, mean −0.001", 1e5: "Residuals, mean −100"}.get(
        factor, "Residuals, mean −100,000"
    )
    for axes in picture.axes:
        assert len(axes.get_legend().get_texts()) == 2


def test_one_epoch_is_seen():
    axes = Figure().subplots()
    report.plot_curves(axes, history(1), "loss")
    assert [line.get_marker() for line in axes.lines[:2]] == [".", "."] and axes.get_xlim() == (0.5, 1.5)


def test_counts_have_separators():
    axes = Figure().subplots()
    y = np.repeat([0, 1], [12345, 10])
    report.plot_confusion(axes, names(2), y, y)
    assert [text.get_text() for text in axes.texts] == ["12,345", "10"]


def test_the_interval_is_wilsons():
    low, high = report.wilson(np.array([0.0, 0.5, 1.0]), np.array([10, 100, 10]))
    assert_allclose(low, [0, 0.4038, 0.7225], atol=1e-4)
    assert_allclose(high, [0.2775, 0.5962, 1], atol=1e-4)
