import numpy as np
import pytest

from fastfc.datasets import load_digits

figure = pytest.importorskip("matplotlib.figure")
from fastfc import plots  # noqa: E402


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
