"""The pictures of `fastfc compare --plot`: how many times as fast as each library, and a roofline."""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from fastfc.benchmark.networks import SAMPLES
from fastfc.benchmark.worker import KERNELS, work
from fastfc.extras import extra
from fastfc.plots import new_figure

# Okabe & Ito's, apart for every kind of colour vision; a second round of them is hatched.
COLOURS = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
GREY = "#707070"
MARKERS = "o", "s", "^", "D", "v", "P"
BAR = 0.17  # inches
NAMED = 24  # places of the roofline that have names, at most


class Work(NamedTuple):
    """Of one call: multiplications and additions; and bytes, if all that is read or written is so once."""

    operations: float
    moved: float

    @property
    def intensity(self):
        return self.operations / self.moved


class Point(NamedTuple):
    """What was measured for a Work."""

    group: str
    name: str
    work: Work
    seconds: float
    best: float  # seconds of the best other library, NaN if there is none

    def rate(self, seconds):
        """GFLOP/s"""
        return self.work.operations / seconds / 1e9


def kernel_work(shape, kernel, dtype):
    n, i, o, _ = shape
    moved = {"forward": n * i + i * o + o + n * o, "bias_grad": n * o + o}.get(kernel, n * i + i * o + n * o)
    operations = n * o if kernel == "bias_grad" else work(shape, kernel, dtype)
    return Work(operations, moved * np.dtype(dtype).itemsize)


def network_work(task, dtype):
    """None for what has no work of its own: an update does no products, fit is an epoch."""
    n, (first, *_, last), size = task.batch, task.sizes, np.dtype(dtype).itemsize
    products = [i * o for i, o in pairwise(task.sizes)]
    params = sum(products) + sum(task.sizes[1:])
    if task.kind in ("update", "fit"):
        return None
    if task.kind.startswith("predict"):
        return Work(2 * n * sum(products), (n * (first + last) + params) * size)
    # backward does each product twice more, but for the gradient of x; SGD reads and writes the parameters
    operations, moved = 2 * n * (3 * sum(products) - products[0]), (n * (first + last) + 2 * params) * size
    steps = 1 if task.kind == "step" else -(-SAMPLES // n)
    return Work(steps * operations, steps * moved)


def of_kernels(lines, peak, bandwidth):
    """The figure for the Lines of `fastfc compare`; peak in GFLOP/s, bandwidth in GB/s, of one core."""
    dtype, threads = (lines[0].records["fastfc"][name] for name in ("dtype", "threads"))
    panels: dict[str, list] = {kernel: [] for kernel in KERNELS}
    points = []
    for line in lines:
        others = {r["library"]: r["seconds"] / line.seconds for r in line.libraries if r["library"] != "fastfc"}
        panels[line.kernel].append((str(line.shape), others))
        there = kernel_work(line.shape, line.kernel, dtype)
        points.append(Point(line.kernel, str(line.shape), there, line.seconds, line.ratio * line.seconds))
    return drawn("kernels", panels, points, peak, bandwidth, dtype, threads)


def of_networks(rows, peak, bandwidth):
    """The figure for the Rows of `fastfc compare --networks`."""
    dtype, threads = (rows[0].records["fastfc"][name] for name in ("dtype", "threads"))
    bars, points = [], []
    for row in rows:
        others = {name: r["seconds"] / row.seconds for name, r in row.records.items() if name != "fastfc"}
        name = f"{row.task.kind} {row}"
        if others:
            bars.append((name, others))
        there = network_work(row.task, dtype)
        if there:
            best = min((row.records[name]["seconds"] for name in others), default=math.nan)
            points.append(Point(row.task.kind, str(row), there, row.seconds, best))
    return drawn("networks", {"networks, batch": bars}, points, peak, bandwidth, dtype, threads)


def drawn(what, panels, points, peak, bandwidth, dtype, threads):
    libraries = list(dict.fromkeys(name for rows in panels.values() for _, others in rows for name in others))
    units = max(sum(len(others) + 1 for _, others in rows) for rows in panels.values())
    heights = [1.2 + BAR * units, 6]
    title = f"fastfc's {what}, {dtype}, {threads} thread{'s' * (threads > 1)}"
    figure = new_figure(title, (15, sum(heights)))
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    grid = top.subplots(1, len(panels), squeeze=False, sharex=True)[0]
    for axes, (name, rows) in zip(grid, panels.items(), strict=True):
        ratios(axes, rows, libraries)
        axes.set_title(name)
    for axes in grid[1:]:
        axes.set_yticklabels([])
    low, high = grid[0].get_xlim()
    grid[0].set_xlim(low / 2, high * 2)  # room for the numbers
    ticks = [digit * 10**power for power in range(-3, 5) for digit in (1, 2, 5)]
    grid[0].set_xticks(*zip(*[(t, f"{t:g}") for t in ticks if low <= t <= high], strict=True), minor=False)
    grid[0].minorticks_off()
    top.supxlabel("time of the library / time of fastfc: right of the line fastfc is faster", fontsize=11)
    handles = {label: bar for axes in top.axes for bar, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    top.legend([handles[name] for name in libraries], libraries, loc="outside right upper", frameon=False)
    roof = bottom.subplots()
    move_apart(figure, roof, roofline(roof, points, peak * threads, bandwidth))
    return figure


def ratios(axes, rows, libraries):
    """A bar for each (name, {library: ratio}), from a line at 1."""
    y, ticks = 0, []
    for name, others in rows:
        ticks.append((y + (len(others) - 1) / 2, name))
        for library, ratio in others.items():
            i = libraries.index(library)
            style = {"color": COLOURS[i % len(COLOURS)], "hatch": "//" * (i >= len(COLOURS)), "edgecolor": "white"}
            axes.barh(y, ratio - 1, left=1, height=0.9, label=library, **style)
            side, align = (3, "left") if ratio >= 1 else (-3, "right")
            digits = 2 if ratio < 2 else 1 if ratio < 20 else 0
            note(axes, f"{ratio:.{digits}f}", (ratio, y), (side, 0), ha=align, va="center")
            y += 1
        y += 1
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xscale="log", ylim=(y - 1, -1))
    axes.set_yticks(*zip(*ticks, strict=True))
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def roofline(axes, points, peak, bandwidth):
    """Rate against operations per byte, under what the cores can compute and one can read; the names of the points."""
    x = np.array([point.work.intensity for point in points])
    knee = peak / bandwidth
    ends = np.array([min(x.min(), knee) / 4, knee, max(x.max(), knee) * 3])
    axes.plot(ends, np.minimum(peak, bandwidth * ends), color="black", linewidth=1.5)
    note(axes, f"multiply-add peak, {peak:.0f} GFLOP/s", (ends[2], peak), (0, 5), ha="right")
    above = 1.15 * bandwidth
    along = {"rotation": math.degrees(math.atan(above)), "rotation_mode": "anchor", "transform_rotates_text": True}
    left = ends[0] * 1.1
    axes.text(left, above * left, f"one core reads {bandwidth:.0f} GB/s", fontsize=8, **along)
    for i, group in enumerate(dict.fromkeys(point.group for point in points)):
        some = [point for point in points if point.group == group]
        at, rates, best = zip(*[(p.work.intensity, p.rate(p.seconds), p.rate(p.best)) for p in some], strict=True)
        style = {"marker": MARKERS[i], "s": 45}
        axes.scatter(at, best, facecolor="none", edgecolor=GREY, **style)
        axes.scatter(at, rates, color=COLOURS[i], label=f"fastfc, {group}", zorder=3, **style)
    axes.scatter([], [], facecolor="none", edgecolor=GREY, s=45, label="the best other library")
    notes = []
    for near in neighbours(points):
        names = list(dict.fromkeys(point.name for point in near))
        text = "\n".join(names) if len(names) <= 3 else f"{len(names)} shapes"
        lowest = min(rate for p in near for rate in (p.rate(p.seconds), p.rate(p.best)) if rate > 0)
        style = {"ha": "center", "va": "top", "arrowprops": {"arrowstyle": "-", "color": GREY, "linewidth": 0.5}}
        notes.append(note(axes, text, (near[0].work.intensity, lowest), (0, -7), **style))
    axes.set(xscale="log", yscale="log", xlabel="arithmetic intensity, FLOP / byte, each byte moved once")
    axes.set(ylabel="GFLOP/s", title="Roofline; what stays in a cache may be above the slope")
    axes.set_ylim(bottom=axes.get_ylim()[0] / 2)  # room for the names
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    return notes


def move_apart(figure, axes, notes):
    """Move names down, each with a line to its point, until none lies on another name or on a point."""
    extent = extra("matplotlib.text", "plot", "a picture").Text.get_window_extent  # without the line
    for _ in range(2):  # the second time with more room below
        figure.draw_without_rendering()
        scale = 72 / figure.dpi
        taken = [box for points in axes.collections for box in boxes(points)]
        for text in sorted(notes, key=lambda text: -text.xy[1]):
            text.xyann = (0, -7)
            box = extent(text)
            while blocking := [other for other in taken if other.overlaps(box)]:
                box = box.translated(0, min(other.y0 for other in blocking) - box.y1 - 1)
            text.xyann = (0, -7 + (box.y0 - extent(text).y0) * scale)
            taken.append(box)
        frame = axes.get_window_extent()
        below = max(frame.y0 - min((box.y0 for box in taken), default=frame.y0), 0) / frame.height
        low, high = np.log(axes.get_ylim())
        axes.set_ylim(np.exp(low - (high - low) * 1.3 * below), np.exp(high))


def boxes(points):
    """Where the markers of a scatter plot are, in pixels."""
    radius = np.sqrt(points.get_sizes()[0]) / 2 * points.figure.dpi / 72
    at = np.ma.filled(points.get_offset_transform().transform(points.get_offsets()), np.nan)
    bbox = extra("matplotlib.transforms", "plot", "a picture").Bbox
    return [bbox([xy - radius, xy + radius]) for xy in at if np.isfinite(xy).all()]


def neighbours(points):
    """Points of almost the same intensity together; none of them if they are too many to be named."""
    near: dict[int, list[Point]] = {}
    for point in points:
        near.setdefault(round(6 * math.log2(point.work.intensity)), []).append(point)
    return near.values() if len(near) <= NAMED else []


def note(axes, text, at, offset, **style):
    return axes.annotate(text, at, offset, textcoords="offset points", fontsize=8, **style)
