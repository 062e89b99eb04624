import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text
from sample import slow

from fastfc.benchmark import compare
from fastfc.benchmark import figures as comparison
from fastfc.benchmark.compare import ODD, TARGETS, TASKS, Line, Row, Target, interleaved, lines, readable, rows
from fastfc.benchmark.networks import Task
from fastfc.benchmark.worker import KERNELS, LAYOUTS, Shape
from fastfc.cli.main import main

FIELDS = {
    "kernel": str,
    "rows": int,
    "in_features": int,
    "out_features": int,
    "layout": str,
    "dtype": str,
    "threads": int,
    "library": str,
    "version": str,
    "seconds": float,
    "rate": float,
    "rate_unit": str,
    "error_in_bounds": float,
}


@pytest.fixture
def quick(monkeypatch):
    """One short round, without the cores of this process changed."""
    monkeypatch.setattr(compare, "ROUNDS", 1)
    monkeypatch.setattr(compare, "BLOCK_SECONDS", 0)
    monkeypatch.setattr(compare, "pin", lambda threads: None)


LARGE, SMALL, OTHER, DEEP = Shape(512, 1024, 1024), Shape(1, 64, 64), Shape(2, 3, 5), Shape(64, 4096, 1000)


def records(shape=LARGE, kernel="forward", threads=1, share=0.95, **seconds):
    """As --json has them, from the libraries' seconds; `alone` stands for fastfc on one thread."""
    rates = {name: 100 / value for name, value in seconds.items()}
    rates["limit"] = rates["fastfc"] / share / threads
    return [
        {
            "kernel": kernel,
            "rows": shape.rows,
            "in_features": shape.inputs,
            "out_features": shape.outputs,
            "layout": shape.layout,
            "dtype": "float32",
            "threads": threads,
            "library": "fastfc, 1 thread" if library == "alone" else library,
            "version": "Some Processor" if library == "limit" else "1.0",
            "seconds": seconds.get(library, 1.0),
            "rate": rate,
            "rate_unit": "GFLOP/s",
            "error_in_bounds": 0.01,
        }
        for library, rate in rates.items()
    ]


@pytest.mark.few(1)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_table_and_json(quick, dtype, threads, tmp_path, capsys):
    file = tmp_path / "out.json"
    shapes = [Shape(5, 7, 3), Shape(1, 1, 1, "sliced")]
    compare.compare(shapes, ["NumPy"], threads, dtype, file, tmp_path / "out.svg")
    out = capsys.readouterr().out
    written = json.loads(file.read_text())
    libraries = ["NumPy", "fastfc", *["fastfc, 1 thread"] * (threads == 2), "limit"]
    assert [r["library"] for r in written] == libraries * 4 * len(shapes)
    for record in written:
        assert {name: type(value) for name, value in record.items()} == FIELDS
        assert record["rate_unit"] == ("GB/s" if record["kernel"] == "bias_grad" else "GFLOP/s")
        assert record["error_in_bounds"] <= 1, record
        assert record["seconds"] > 0 and record["rate"] > 0
        assert (record["dtype"], record["threads"]) == (dtype, threads)
    for word in ["5x7x3", "1x1x1:sliced", *KERNELS, "geometric mean", "Multiply-add peak", "Below 1.0: ", "limit"]:
        assert word in out
    assert ("scaling" in out) == (threads == 2)
    picture = (tmp_path / "out.svg").read_text(encoding="utf-8")
    assert f"fastfc's kernels, {dtype}, {threads} thread" in picture and f"Wrote {tmp_path / 'out.svg'}" in out
    found = lines(written)
    assert [(line.shape, line.kernel) for line in found] == [(s, k) for s in shapes for k in KERNELS]
    assert f"first in {sum(line.ratio >= 1 for line in found)} of 8 lines" in out


def test_rate_counts_the_work(quick):
    with compare.worker_processes(1, ["NumPy"]) as workers:
        for line in compare.measure(Shape(5, 7, 3), "float64", 1, workers):
            work = (5 + 1) * 3 * 8 if line.kernel == "bias_grad" else 2 * 5 * 7 * 3
            for record in line.libraries:
                assert record["rate"] * record["seconds"] * 1e9 == pytest.approx(work)


def test_libraries_take_turns_and_the_median_counts(monkeypatch):
    asked = []

    def timer(name, answers):
        answers = iter(answers)

        def time(number):
            asked.append((name, number))
            return next(answers)

        return time

    monkeypatch.setattr(compare, "BLOCK_SECONDS", 1.0)
    timers = [timer("a", [9.0, 0.1, 1.0, 9.0, 2.0]), timer("b", [3.0, 4.0, 5.0, 5.0, 6.0])]
    assert interleaved(timers, rounds=3) == [2.0, 5.0]
    assert asked == [("a", 1), ("a", 1), ("b", 1), ("b", 1), *[("a", 10), ("b", 1)] * 3]


def test_ratio_is_against_the_best_other():
    line = Line(records(NumPy=4.0, fastfc=2.0, PyTorch=1.0, alone=0.5))
    assert (line.ratio, line.best) == (0.5, "PyTorch")


def test_share_and_scaling():
    line = Line(records(NumPy=4.0, fastfc=2.0, alone=3.0, threads=2, share=0.8))
    assert line.share == pytest.approx(0.8)
    assert line.scaling == 1.5
    assert Line(records(NumPy=4.0, fastfc=2.0)).scaling is None


@pytest.mark.parametrize(
    ("given", "misses"),
    [
        ({"NumPy": 1.16}, []),
        ({"NumPy": 1.14}, ["1.14 × NumPy, not 1.15"]),
        ({"NumPy": 1.16, "share": 0.89}, ["0.89 of the limit, not 0.90"]),
        ({"NumPy": 1.16, "share": 0.89, "kernel": "input_grad"}, []),
        ({"NumPy": 1.01, "share": 0.89, "kernel": "bias_grad"}, ["0.89 of the limit, not 0.90"]),
        ({"NumPy": 2.9, "share": 0.1, "shape": SMALL}, ["2.90 × NumPy, not 3.00"]),
        ({"NumPy": 2.6, "share": 0.1, "shape": SMALL, "kernel": "weight_grad"}, []),
        ({"NumPy": 1.01, "share": 0.1, "shape": OTHER}, []),
        ({"NumPy": 0.99, "share": 0.1, "shape": OTHER}, ["0.99 × NumPy, not 1.00"]),
        ({"NumPy": 1.16, "alone": 1.86, "threads": 2}, []),
        ({"NumPy": 1.16, "alone": 1.84, "threads": 2}, ["1.84 × one thread, not 1.85"]),
        ({"NumPy": 1.16, "alone": 1.5, "threads": 2, "shape": DEEP}, []),
        ({"NumPy": 1.16, "alone": 0.9, "threads": 2, "shape": DEEP}, ["0.90 × one thread, not 0.97"]),
        ({"NumPy": 1.16, "alone": 1.5, "threads": 2, "kernel": "bias_grad"}, []),
    ],
)
def test_misses(given, misses):
    assert Line(records(fastfc=1.0, **given)).misses() == misses


def test_the_end_names_what_is_missed(capsys):
    good, bad = Line(records(fastfc=1.0, NumPy=2.0)), Line(records(OTHER, "bias_grad", fastfc=1.0, NumPy=0.5))
    compare.summarize([good, bad])
    out = capsys.readouterr().out
    assert "first in 1 of 2 lines; ratio 0.50 to 2.00, geometric mean 1.00" in out
    assert "Below 1.0: 1 lines. Below a target: 1 lines:\n  bias_grad   2x3x5 " in out
    assert "0.50 × NumPy, not 1.00" in out


def test_targets():
    assert len(TARGETS) == 10
    assert all(len(ratios) == len(shares) == len(KERNELS) for ratios, shares in TARGETS.values())


def test_odd_shapes():
    assert len(ODD) == len(set(ODD)) >= 60
    assert {shape.layout for shape in ODD} == set(LAYOUTS)
    assert {1, 2} <= {shape.rows for shape in ODD}
    assert {1, 2, 3} <= {shape.outputs for shape in ODD} & {shape.inputs for shape in ODD}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.5, "1.50 s"), (0.25, "250 ms"), (1.234e-3, "1.23 ms"), (56.78e-6, "56.8 µs"), (2e-7, "0.20 µs")],
)
def test_readable(seconds, text):
    assert readable(seconds) == text


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot pin here")
def test_pin_keeps_the_process_on_as_many_cores():
    code = "import os; from fastfc.benchmark.compare import pin; assert pin(1) == sorted(os.sched_getaffinity(0))"
    path = os.pathsep.join(filter(None, sys.path))
    subprocess.run([sys.executable, "-P", "-c", code], check=True, env=os.environ | {"PYTHONPATH": path})


def test_command(quick, tmp_path, capsys):
    file = tmp_path / "out.json"
    assert main(["compare", "--peers", "NumPy", "--shapes", "2x3x4", "--json", str(file)]) == 0
    assert "2x3x4" in capsys.readouterr().out
    assert {record["rows"] for record in json.loads(file.read_text())} == {2}


TASK_FIELDS = {
    "task": str,
    "network": str,
    "batch": int,
    "dtype": str,
    "threads": int,
    "library": str,
    "version": str,
    "seconds": float,
    "error": float,
}


def task_records(task, error=1e-7, **seconds):
    """As --json has them, from the libraries' seconds."""
    return [
        {
            "task": task.kind,
            "network": task.network,
            "batch": task.batch,
            "dtype": "float32",
            "threads": 1,
            "library": library,
            "version": "Some Processor" if library == "memory" else "1.0",
            "seconds": value,
            "error": 0.0 if library == "memory" else error,
        }
        for library, value in seconds.items()
    ]


def test_every_kind_of_task_has_a_title():
    assert {task.kind for task in TASKS} == set(compare.TASK_TITLES)


@pytest.mark.few(1)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tables_of_networks_and_json(quick, dtype, tmp_path, capsys, monkeypatch):
    file = tmp_path / "out.json"
    tasks = {
        Task("step", (3, 5, 2), 4): Target(1e9),
        Task("step", (2, 5, 1), 4): Target(0.0),
        Task("predict", (3, 5, 2), 1): Target(2.0, "ONNX Runtime"),
        Task("predict_one", (3, 5, 2), 1): Target(1.0, 0.5e-6),
        Task("update", (3, 5), 1): Target(0.0, "memory"),
    }
    monkeypatch.setattr(compare, "TASKS", tasks)
    compare.compare_networks(tasks, ["NumPy"], 1, dtype, file, tmp_path / "out.svg")
    out = capsys.readouterr().out
    written = json.loads(file.read_text())
    libraries = [*["NumPy", "fastfc"] * 3, "fastfc", "fastfc", "memory"]
    assert [record["library"] for record in written] == libraries
    for record in written:
        assert {name: type(value) for name, value in record.items()} == TASK_FIELDS
        assert record["error"] <= 1e3 * {"float32": 1e-7, "float64": 2e-16}[dtype]
    assert [row.task for row in rows(written)] == [*tasks]
    assert f"fastfc's networks, {dtype}, 1 thread" in (tmp_path / "out.svg").read_text(encoding="utf-8")
    assert all(out.count(compare.TASK_TITLES[task.kind]) == 1 for task in tasks)
    assert f"{rows(written)[0].ratio:5.2f} NumPy (1e+09)" in out
    assert "rows:\n  step        3-5-2, 4 " in out and "× NumPy, not 1000000000.00" in out


@pytest.mark.parametrize(
    ("target", "given", "ratio", "misses"),
    [
        (Target(2.0), {"NumPy": 9.0, "JAX": 3.0}, 3.0, []),
        (Target(2.0), {"NumPy": 9.0, "JAX": 1.9}, 1.9, ["1.90 × JAX, not 2.00"]),
        (Target(2.0), {}, None, []),
        (Target(4.0, "NumPy"), {"NumPy": 4.5, "JAX": 1.0}, 4.5, []),
        (Target(4.0, "NumPy"), {"JAX": 1.0}, None, []),
        (Target(1.0, 0.5), {}, 0.5, ["0.50 × 500 ms, not 1.00"]),
        (Target(2.0), {"NumPy": 9.0, "error": 1e-2}, 9.0, ["fastfc is wrong", "NumPy is wrong"]),
        (Target(2.0), {"NumPy": 9.0, "error": float("nan")}, 9.0, ["fastfc is wrong", "NumPy is wrong"]),
    ],
)
def test_a_row(target, given, ratio, misses, monkeypatch):
    task = Task("step", (2, 3), 1)
    monkeypatch.setattr(compare, "TASKS", {task: target})
    row = Row(task_records(task, fastfc=1.0, **given))
    assert (row.ratio, row.misses()) == (ratio, misses)


def bars(axes):
    """{row: its bars' lengths, as ratios} and the texts beside them."""
    rows, last = [], -9.0
    for bar in axes.patches:
        if bar.get_y() - last > 1.5:
            rows.append([])
        assert bar.get_x() == 1
        rows[-1].append(bar.get_x() + bar.get_width())
        last = bar.get_y()
    names = [text.get_text() for text in axes.get_yticklabels()]
    return dict(zip(names, rows, strict=True)), [text.get_text() for text in axes.texts]


def scattered(axes):
    """{name in the legend: its points}"""
    return {each.get_label(): np.asarray(each.get_offsets()) for each in axes.collections}


def test_picture_of_kernels():
    given = [
        Line(records(shape, kernel, fastfc=1e-3, NumPy=3e-3, PyTorch=5e-4 * (i + 1), threads=2, alone=2e-3))
        for i, shape in enumerate([LARGE, OTHER])
        for kernel in KERNELS
    ]
    figure = comparison.of_kernels(given, peak=100.0, bandwidth=20.0)
    *panels, roof = figure.axes
    assert figure.get_suptitle() == "fastfc's kernels, float32, 2 threads"
    assert [axes.get_title() for axes in panels] == list(KERNELS)
    (names, legend) = figure.subfigs[0].get_supxlabel(), figure.subfigs[0].legends[0]
    assert "right of the line fastfc is faster" in names
    assert [text.get_text() for text in legend.get_texts()] == ["NumPy", "PyTorch"]
    for axes in panels:
        assert axes.get_xscale() == "log" and axes.get_shared_x_axes().joined(axes, panels[0])
        (one,) = axes.lines
        assert list(one.get_xdata()) == [1, 1]
        assert len({bar.get_facecolor() for bar in axes.patches}) == 2
    found, texts = bars(panels[0])
    assert found == {"512x1024x1024": [3.0, 0.5], "2x3x5": [3.0, 1.0]} and texts == ["3.0", "0.50", "3.0", "1.00"]
    assert [label.get_text() for label in panels[1].get_yticklabels()] == ["", ""]  # the same rows

    assert roof.get_xscale() == roof.get_yscale() == "log"
    assert roof.get_ylabel() == "GFLOP/s" and "FLOP / byte" in roof.get_xlabel()
    (line,) = roof.lines
    np.testing.assert_allclose(line.get_ydata(), np.minimum(200.0, 20.0 * line.get_xdata()))  # of two cores
    assert 10.0 in line.get_xdata()
    points = scattered(roof)
    n, i, o = LARGE[:3]
    intensity = 2 * n * i * o / (4 * (n * i + i * o + o + n * o))
    np.testing.assert_allclose(points["fastfc, forward"][0], [intensity, 2 * n * i * o / 1e-3 / 1e9])
    np.testing.assert_allclose(points["fastfc, bias_grad"][0], [n * o / (4 * (n * o + o)), n * o / 1e-3 / 1e9])
    assert {"fastfc, weight_grad", "fastfc, input_grad", "the best other library"} < set(points)
    texts = [text.get_text() for text in roof.texts]
    assert texts[:2] == ["multiply-add peak, 200 GFLOP/s", "one core reads 20 GB/s"]
    assert {"512x1024x1024", "2x3x5"} <= set(texts[2:])


def test_picture_of_networks():
    step, one, update = Task("step", (4, 64, 64, 2), 32), Task("predict_one", (4, 64, 64, 2), 1), [*TASKS][-1]
    many = {f"library {i}": 2.0 + i for i in range(8)}
    given = [Row(task_records(step, fastfc=1.0, **many)), Row(task_records(one, fastfc=1.0))]
    given.append(Row(task_records(update, fastfc=2.0, memory=1.0)))
    figure = comparison.of_networks(given, 100.0, 20.0)
    panel, roof = figure.axes
    assert figure.get_suptitle() == "fastfc's networks, float32, 1 thread"
    found, _ = bars(panel)
    assert found == {"step 4-64-64-2, 32": [2.0 + i for i in range(8)], f"update {given[2]}": [0.5]}
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in panel.patches}) == 9  # all different
    points = scattered(roof)
    assert {name for name in points if name[0] != "_"} == {
        "fastfc, step",
        "fastfc, predict_one",
        "the best other library",
    }
    products, params = 4 * 64 + 64 * 64 + 64 * 2, 4 * 64 + 64 * 64 + 64 * 2 + 130
    assert comparison.network_work(one, "float64") == (2 * products, 8 * (4 + 2 + params))
    operations = 32 * (6 * products - 2 * 4 * 64)
    assert comparison.network_work(step, "float32") == (operations, 4 * (32 * 6 + 2 * params))
    assert comparison.network_work(Task("epoch", step.sizes, 32), "float32").operations == 1875 * operations
    np.testing.assert_allclose(points["fastfc, step"][0, 1], operations / 1e9)


def overlaps(texts):
    boxes = [Text.get_window_extent(text) for text in texts]
    return [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


@pytest.mark.parametrize("shapes", [TARGETS, slow(compare.SHAPES)], ids=len)
def test_names_in_the_roofline_lie_apart(shapes):
    """The gradients of the bias of many shapes are at one place."""
    given = [Line(records(s, kernel, fastfc=1e-6, NumPy=2e-6)) for s in shapes for kernel in KERNELS]
    figure = comparison.of_kernels(given, 100.0, 20.0)
    figure.draw_without_rendering()
    texts = figure.axes[-1].texts[2:]
    frame = figure.axes[-1].get_window_extent()
    assert texts and not overlaps(texts)
    assert all(frame.y0 <= Text.get_window_extent(text).y0 for text in texts)


def test_names_of_networks_lie_apart():
    rates = [Row(task_records(task, fastfc=1e-3, NumPy=1.5e-3)) for task in TASKS]
    figure = comparison.of_networks(rates, 100.0, 20.0)
    figure.draw_without_rendering()
    assert len(figure.axes[-1].texts) > 5 and not overlaps(figure.axes[-1].texts[2:])


@pytest.mark.slow
def test_many_shapes_are_not_named():
    given = [Line(records(shape, kernel, fastfc=1e-3, NumPy=2e-3)) for shape in ODD for kernel in KERNELS]
    figure = comparison.of_kernels(given, 100.0, 20.0)
    assert len(figure.axes[-1].texts) == 2 and len(figure.axes[0].get_yticks()) == len(ODD)


SCRIPT = Path(__file__).parent.parent / "asv_bench" / "table.py"


def table(tmp_path, text, *files):
    """The README beside the script after it, run on a copy."""
    script, readme = tmp_path / "table.py", tmp_path / "README.md"
    script.write_bytes(SCRIPT.read_bytes())
    readme.write_text(text, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, str(script), *files], env=environment, capture_output=True, text=True)
    return done, readme.read_text(encoding="utf-8")


def test_json_says_which_instructions_were_asked_for(tmp_path):
    file = tmp_path / "out.json"
    for isa, expected in (None, [{"rows": 2}]), ("avx2", [{"rows": 2, "isa": "avx2"}]):
        compare.write(file, [{"rows": 2}], isa)
        assert json.loads(file.read_text()) == expected


def test_readme_table(tmp_path):
    file = tmp_path / "measured.json"
    ratios = dict(zip(KERNELS, [1.2, 2.0, 3.0, 4.0], strict=True))
    given = [r | {"isa": "avx2"} for kernel, n in ratios.items() for r in records(kernel=kernel, fastfc=1, NumPy=n)]
    file.write_text(json.dumps(given))
    marks = "<!-- measured: written by asv_bench/table.py -->", "<!-- end of measured -->"
    done, text = table(tmp_path, f"before\n{marks[0]}\nold\n{marks[1]}\nafter\n", str(file))
    assert done.returncode == 0, done.stderr
    cells = " | ".join(f"**{ratio:.2f}** · 1.00 s · 95%" for ratio in ratios.values())
    assert (
        text
        == f"""before
{marks[0]}

float32, 1 thread, Some Processor made to use avx2; fastfc 1.0, NumPy 1.0:

| rows × in × out | forward, bias, ReLU | weight gradient | input gradient | bias gradient |
| --- | --- | --- | --- | --- |
| 512 × 1024 × 1024 | {cells} |

{marks[1]}
after
"""
    )
    again, twice = table(tmp_path, text, str(file))
    assert again.returncode == 0 and twice == text


def test_readme_table_of_networks(tmp_path):
    step, update = Task("step", (4, 64, 64, 2), 32), Task("update", (3162, 3161), 1)
    file = tmp_path / "measured.json"
    given = [*task_records(step, fastfc=1.0, NumPy=2.0), *task_records(update, fastfc=2.0, memory=1.0)]
    file.write_text(json.dumps(given))
    marks = "<!-- networks: written by asv_bench/table.py -->", "<!-- end of networks -->"
    kernels = "<!-- measured: written by asv_bench/table.py -->\nkept\n<!-- end of measured -->"
    done, text = table(tmp_path, f"{kernels}\n{marks[0]}\nold\n{marks[1]}\nafter\n", str(file))
    assert done.returncode == 0, done.stderr
    assert (
        text
        == f"""{kernels}
{marks[0]}

float32, 1 thread, Some Processor; fastfc 1.0, NumPy 1.0:

| what | network, batch | time | ratio | to |
| --- | --- | --- | --- | --- |
| training step | 4-64-64-2, 32 | 1.00 s | **2.00** | NumPy |
| SGD with momentum, against memory | 3162-3161, 1 | 2.00 s | **0.50** | memory |

{marks[1]}
after
"""
    )
    again, twice = table(tmp_path, text, str(file))
    assert again.returncode == 0 and twice == text


@pytest.mark.parametrize(
    "given", [records(NumPy=1.0, fastfc=1.0), task_records(next(iter(TASKS)), fastfc=1.0, memory=1.0)]
)
def test_readme_without_a_place_for_the_table_is_left_alone(given, tmp_path):
    file = tmp_path / "measured.json"
    file.write_text(json.dumps(given))
    done, text = table(tmp_path, "before\n", str(file))
    assert done.returncode != 0 and "lacks the lines" in done.stderr and text == "before\n"


def test_the_readme_has_a_place_for_the_table():
    text = SCRIPT.with_name("README.md").read_text(encoding="utf-8")
    assert "<!-- measured: written by asv_bench/table.py -->\n" in text and "\n<!-- end of measured -->\n" in text
