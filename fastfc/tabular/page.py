"""The page that `fastfc train --report` writes: what the columns are, and how good the network is."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastfc._version import __version__
from fastfc.extras import extra
from fastfc.plots import BLUE
from fastfc.tabular.columns import texts_of
from fastfc.tabular.report import plot_calibration, plot_confusion, plot_curves, plot_predictions, plot_residuals, short
from fastfc.tabular.result import TITLES, Result, column_rows, probabilities, scored, written
from fastfc.validation import plural

HARDEST = 10  # rows that are shown
SHUFFLES = 5  # of each column, for its importance
MOST_BARS = 25
MOST_CELLS = 12  # of a row that is shown
THEMES = {
    "light": {"text.color": "#1f2328", "axes.edgecolor": "#59636e", "axes.labelcolor": "#1f2328"},
    "dark": {"text.color": "#e6edf3", "axes.edgecolor": "#9198a1", "axes.labelcolor": "#e6edf3"},
}
STYLE = """
:root { color-scheme: light dark; --line: #d1d9e0; --soft: #59636e; --bar: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --line: #3d444d; --soft: #9198a1; --bar: #4aa8e0; } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
p.of { color: var(--soft); margin-top: 0.2rem; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { border-bottom: 1px solid var(--line); padding: 0.3rem 0.8rem; text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
div.figures { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: 1.5rem; align-items: start; }
div.figures picture { flex: 1 1 20rem; max-width: 36rem; }
div.figures img { width: 100%; }
img { max-width: 100%; height: auto; }
"""


def save_page(path: Path, result: Result) -> None:
    """Write the page."""
    path.write_text(page(result), encoding="utf-8")


def page(result: Result) -> str:
    """The page as HTML."""
    goal, parts, table = result.target, result.parts, result.table
    kind = f"classification into {len(goal.classes)} classes" if goal.classes else "regression"
    title = f"{Path(table.path).name}: {goal.name}"
    scores = [
        [TITLES[key], written(key, value), written(key, result.trivial[key])] for key, value in result.values.items()
    ]
    importance = importances(result)
    measure = TITLES[next(iter(result.values))]
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="of">{escape(kind)}: {escape(goal.why)}. {plural(len(table), table.unit)}, '
        f"{parts.learn.sum():,} to learn from, {parts.stop.sum():,} to stop by, {parts.test.sum():,} held out. "
        f"fastfc {escape(__version__)}.</p>",
        f"<h2>On the {parts.test.sum():,} held out</h2>",
        html_table([["", "network", result.guess], *scores], numeric=2),
        '<div class="figures">' + "".join(pictures(result)) + "</div>",
        "<h2>What the columns were taken for</h2>",
        html_table(column_rows(result.encoder), numeric=1),
        "".join(f"<p>{escape(note)}</p>" for note in table.notes),
        "<h2>Which columns matter</h2>",
        f"<p>What the {escape(measure)} on the held-out rows loses when a column is shuffled: means of {SHUFFLES}.</p>",
        picture(
            lambda axes: plot_bars(axes, importance, measure),
            (7.5, 0.9 + 0.28 * min(len(importance), MOST_BARS)),
            "importance",
        ),
        "<h2>The hardest rows</h2>",
        "<p>The held-out rows with the largest errors. A wrong cell, or a wrong label, is often among them.</p>",
        html_table(hardest_rows(result), numeric=0),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    head += f"<style>{STYLE}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def html_table(rows: Sequence[Sequence[str]], numeric: int) -> str:
    """A table whose first row is the heads; the last `numeric` columns are aligned right."""
    first = len(rows[0]) - numeric

    def line(row: Sequence[str], tag: str) -> str:
        cells = (f"<{tag}{' class=n' * (i >= first)}>{escape(cell)}</{tag}>" for i, cell in enumerate(row))
        return f"<tr>{''.join(cells)}</tr>"

    body = "".join(line(row, "td") for row in rows[1:])
    return f'<div class="wide"><table><thead>{line(rows[0], "th")}</thead><tbody>{body}</tbody></table></div>'


def pictures(result: Result) -> list[str]:
    """The learning curves, and what suits classes or numbers."""
    goal, y = result.target, result.parts.y[result.parts.test]
    if goal.classes:
        p, classes = probabilities(result.output), goal.classes
        side = 4.6 if len(classes) <= 12 else min(3 + 0.22 * len(classes), 14)
        return [
            picture(
                lambda axes: plot_curves(axes, result.history, "cross-entropy (nats)"), (5.4, 4.6), "learning curves"
            ),
            picture(lambda axes: plot_confusion(axes, classes, y, p.argmax(axis=1)), (side, side), "confusion matrix"),
            picture(lambda axes: plot_calibration(axes, classes, y, p), (4.6, 4.9), "calibration"),
        ]
    label = f"mean squared error / variance of {short(goal.name)}"
    said = result.output[:, 0]
    return [
        picture(lambda axes: plot_curves(axes, result.history, label), (5.4, 4.6), "learning curves"),
        picture(lambda axes: plot_predictions(axes, goal.name, y, said), (4.6, 4.6), "predictions against truth"),
        picture(lambda axes: plot_residuals(axes, goal.name, y, said), (5.4, 4.6), "residuals"),
    ]


def picture(draw: Callable[[Any], None], size: tuple[float, float], what: str) -> str:
    """A picture for light pages and one for dark ones, of which the browser shows the one that fits."""
    matplotlib = extra("matplotlib", "plot", "a report")
    figure_of = extra("matplotlib.figure", "plot", "a report").Figure
    sources = {}
    for theme, colours in THEMES.items():
        tint = colours["text.color"]
        settings = {**colours, "xtick.color": tint, "ytick.color": tint, "axes.facecolor": "none", "svg.hashsalt": what}
        with matplotlib.rc_context(settings):
            figure = figure_of(figsize=size, layout="constrained")
            draw(figure.subplots())
            file = io.BytesIO()
            figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        sources[theme] = "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode()
    return (
        f'<picture><source srcset="{sources["dark"]}" media="(prefers-color-scheme: dark)">'
        f'<img src="{sources["light"]}" alt="{escape(what)}"></picture>'
    )


def importances(result: Result) -> dict[str, float]:
    """What the first score loses when a column is shuffled among the held-out rows, largest first.

    L. Breiman, "Random forests", Machine Learning 45, 2001.
    """
    x, y = result.parts.x[result.parts.test], result.parts.y[result.parts.test]
    key, rng = next(iter(result.values)), np.random.default_rng(0)
    lost, left = {}, 0
    for column in result.encoder.encoded_:
        inputs = slice(left, left + column.width)
        scores = []
        for _ in range(SHUFFLES):
            changed = x.copy()
            changed[:, inputs] = changed[rng.permutation(len(x)), inputs]
            output = result.network.predict(changed.astype(result.network.dtype))
            scores.append(scored(result.target, result.parts.y[result.parts.learn], y, output)[0][key])
        lost[column.name] = result.values[key] - float(np.mean(scores))
        left += column.width
    return dict(sorted(lost.items(), key=lambda item: -item[1]))


def plot_bars(axes: Any, importance: dict[str, float], measure: str) -> None:
    names, values = list(importance)[:MOST_BARS], list(importance.values())[:MOST_BARS]
    axes.barh(range(len(names)), values, color=BLUE)
    axes.set_yticks(range(len(names)), [short(name) for name in names])
    axes.invert_yaxis()
    axes.axvline(0, color="0.6", linewidth=1)
    axes.set_xlabel(f"loss of {measure}")
    axes.margins(y=0.01)
    if len(importance) > MOST_BARS:
        axes.set_title(f"the first {MOST_BARS} of {len(importance)}")


def hardest_rows(result: Result) -> list[list[str]]:
    """The held-out rows with the largest errors, and their cells."""
    goal, parts, table = result.target, result.parts, result.table
    y, rows = parts.y[parts.test], parts.rows[parts.test]
    if goal.classes:
        p = probabilities(result.output)
        error = -np.log(np.maximum(p[np.arange(len(y)), y], 1e-15))
        said = [f"{goal.classes[q.argmax()]} ({q.max():.0%})" for q in p]
        true = [goal.classes[c] for c in y]
    else:
        error = np.abs(result.output[:, 0] - y)
        said, true = [f"{v:.5g}" for v in result.output[:, 0]], [f"{v:.5g}" for v in y]
    chosen = np.argsort(-error, kind="stable")[:HARDEST]
    names = [column.name for column in result.encoder.encoded_][:MOST_CELLS]
    cells = cells_of(table, rows[chosen], names)
    heads = [table.unit, f"true {goal.name}", "network says", *names]
    return [heads, *([str(table.line(int(rows[i]))), true[i], said[i], *cells[j]] for j, i in enumerate(chosen))]


def cells_of(table: Any, rows: NDArray[np.int64], names: Sequence[str]) -> list[list[str]]:
    """The texts of some cells."""
    cells, first = {int(row): [""] * len(names) for row in rows}, 0
    places = [table.names.index(name) for name in names]
    for batch in table.batches():
        for row in rows[(rows >= first) & (rows < first + batch.num_rows)]:
            one = batch.slice(int(row) - first, 1)
            cells[int(row)] = [texts_of(one.column(place))[0].as_py() or "" for place in places]
        first += batch.num_rows
    return [cells[int(row)] for row in rows]
