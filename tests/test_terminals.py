"""Every command in terminals that can't print every character."""

import ast
import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import ROOT
from test_compare import LARGE, OTHER, records, task_records

import fastfc as fc
from fastfc.benchmark import compare
from fastfc.benchmark.compare import Line, Row
from fastfc.benchmark.worker import KERNELS
from fastfc.cli import demo_datasets as runs
from fastfc.cli import doctor, warmup
from fastfc.cli import main as cli
from fastfc.cli.main import main
from fastfc.kernels import machine

ENCODINGS = ["ascii", "cp932", "cp1252"]
COMMANDS = ["demo", "train", "predict", "compare", "warmup", "doctor"]
NAME = "Größe × m² ≤ 5 µm·s"  # none of the encodings has all of it


encodings = pytest.mark.parametrize("encoding", ENCODINGS)


def run(encoding, *arguments):
    """Status, stdout and stderr of a command whose terminal has this encoding and fails on other characters."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding, errors="strict", newline="") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([*map(str, arguments)])
        except SystemExit as stop:
            status = stop.code
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(encoding))
    return status, *texts


def shown(text, encoding):
    """A text as a command writes it."""
    plain = {"²": "2", "×": "x", "µ": "u", "·": "*"}
    return "".join(
        c if c.encode(encoding, "ignore") else plain.get(c, c.encode("ascii", "backslashreplace").decode())
        for c in text
    )


def table(folder, classes=()):
    """A CSV file whose target is a number, or one of the classes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 2))
    y = np.array(classes)[np.arange(60) % len(classes)] if classes else x.sum(axis=1)
    path = folder / f"{NAME}.csv"
    lines = [f"a,b,{NAME}", *(f"{a},{b},{c}" for (a, b), c in zip(x.tolist(), y.tolist(), strict=True))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@encodings
@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help(command, encoding):
    status, out, err = run(encoding, *filter(None, [command]), "--help")
    assert (status, out[:13], err) == (0, "usage: fastfc", "")


@encodings
@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_arguments(command, encoding):
    status, out, err = run(encoding, command, NAME, f"--{NAME}")
    assert (status, out, err[:6], err.count("\n")) == (2, "", "fastfc", 1)


@pytest.mark.few(3)
@encodings
@pytest.mark.parametrize("classes", [(), ("m²", "m2", "≤")], ids=["regression", "classification"])
def test_train_and_predict(encoding, tmp_path, classes):
    """`train` ended at the ² of R², with status 2 and before the network was written."""
    data = table(tmp_path, classes)
    model, plot, said = (tmp_path / f"{NAME}{ending}" for ending in (".safetensors", ".svg", " said.csv"))
    options = ["--target", NAME, "--epochs", 2, "--hidden", 3, "--out", model, "--plot", plot]
    status, out, err = run(encoding, "train", data, *options)
    assert (status, err) == (0, "")
    assert out.endswith(shown(f"wrote {model}\nwrote {plot}\n", encoding))
    assert NAME in plot.read_text(encoding="utf-8") and fc.load(model).out_features == (len(classes) or 1)
    assert classes or f"\n{shown('R²', encoding)}  " in out
    assert run(encoding, "predict", model, data, "--out", said) == (0, "", "")
    status, out, err = run(encoding, "predict", model, data)
    # data get no look-alikes, for m² and m2 are two classes
    expected = said.read_text(encoding="utf-8")
    assert (status, out) == (0, expected.encode(encoding, "backslashreplace").decode(encoding))
    assert err.startswith(f"fastfc predict: {encoding} has no characters for ") and "--out" in err


def test_predict_says_nothing_where_all_can_be_written(tmp_path):
    data, model = table(tmp_path), tmp_path / "model.safetensors"
    assert run("utf-8", "train", data, "--target", NAME, "--epochs", 1, "--out", model)[::2] == (0, "")
    assert run("utf-8", "predict", model, data)[::2] == (0, "")


@encodings
def test_predict_of_what_is_not_there(encoding):
    status, out, err = run(encoding, "predict", NAME, NAME)
    assert (status, out) == (2, "") and shown(NAME, encoding) in err


@pytest.mark.few(2)
@encodings
@pytest.mark.parametrize("options", [[], ["--data", "wine"], ["--data", "diabetes"]], ids=" ".join)
def test_demo(options, encoding, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "environment", lambda threads: os.environ)
    monkeypatch.setattr(runs, "FOLDS", 2)
    plot = tmp_path / f"{NAME}.svg"
    status, out, err = run(encoding, "demo", *options, "--epochs", 1, "--plot", plot)
    assert (status, err) == (0, "") and plot.exists()
    assert out.endswith(shown(f"wrote {plot}\n", encoding))


@pytest.fixture
def measured(monkeypatch):
    """Measurements that take no time, of kernels and networks that miss their targets."""

    def measure(shape, dtype, threads, workers):
        seconds = {"fastfc": 2e-5, "NumPy": 1e-5} if shape == LARGE else {"fastfc": 1e-3, "NumPy": 3e-3}
        return [Line(records(shape, kernel, **seconds)) for kernel in KERNELS]

    def measure_network(task, *args):
        return Row(task_records(task, fastfc=2e-5, NumPy=1e-5))

    monkeypatch.setattr(compare, "worker_processes", lambda *args, **options: contextlib.nullcontext([]))
    monkeypatch.setattr(compare, "pin", lambda threads: None)
    monkeypatch.setattr(compare, "measure", measure)
    monkeypatch.setattr(compare, "measure_network", measure_network)
    monkeypatch.setattr(machine, "fma_peak", lambda dtype: 100.0)
    monkeypatch.setattr(machine, "read_bandwidth", lambda: 10.0)


@pytest.mark.few(2)
@encodings
@pytest.mark.parametrize("what", [["--networks"], ["--shapes", LARGE, OTHER]], ids=["networks", "kernels"])
def test_compare(what, encoding, tmp_path, measured):
    files = [tmp_path / f"{NAME}{ending}" for ending in (".json", ".svg")]
    status, out, err = run(encoding, "compare", *what, "--peers", "NumPy", "--json", files[0], "--plot", files[1])
    assert (status, err) == (0, "") and all(path.exists() for path in files)
    assert shown("20.0 µs", encoding) in out and shown("0.50 × NumPy", encoding) in out
    assert out.endswith(shown(f"Wrote {files[0]}\nWrote {files[1]}\n", encoding))


@encodings
def test_warmup(encoding, tmp_path, monkeypatch):
    monkeypatch.setattr(warmup, "compiled_kernels", {})
    monkeypatch.setattr(warmup, "cache_folder", lambda: tmp_path / NAME)
    status, out, err = run(encoding, "warmup")
    assert (status, err) == (0, "") and shown(NAME, encoding) in out


@encodings
def test_doctor(encoding, measured, monkeypatch):
    monkeypatch.setattr(doctor, "processor", lambda: NAME)
    status, out, err = run(encoding, "doctor")
    assert (status, err) == (0, "") and shown(NAME, encoding) in out


@pytest.mark.few(1)
@encodings
def test_a_process(encoding, tmp_path):
    """Without UTF-8 mode, in the C locale, stdout a pipe."""
    data, model = table(tmp_path).rename(tmp_path / "data.csv"), tmp_path / "model.safetensors"
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "fastfc.cli.main",
            "train",
            data,
            "--target",
            "a",
            "--out",
            model,
            "--epochs",
            "1",
        ],
        env=os.environ
        | {"PYTHONPATH": ROOT, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "LC_ALL": "C"}
        | {"PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert shown("R²", encoding).encode(encoding) in done.stdout and model.exists()


@pytest.mark.parametrize("command", [["train"], ["demo"], ["compare", "--networks"]], ids=lambda words: words[0])
def test_files_are_written_before_the_results_are_printed(command, tmp_path, measured, monkeypatch):
    """As in `fastfc train … | head -3`: whatever becomes of the terminal, the training is not lost."""
    folder = tmp_path / "written"
    folder.mkdir()
    monkeypatch.setattr(cli, "environment", lambda threads: os.environ)
    command += {
        "train": [table(tmp_path), "--target", NAME, "--epochs", 1, "--out", folder / "net.safetensors"],
        "demo": ["--epochs", 1],
        "compare": ["--peers", "NumPy", "--json", folder / "found.json"],
    }[command[0]]
    results = [", the best was", "loss fastfc", "Below a target"]

    class Terminal(io.TextIOWrapper):
        def write(self, text):
            if any(word in text for word in results):
                found.append([path.name for path in folder.iterdir()])
            return super().write(text)

    found, out = [], Terminal(io.BytesIO(), "utf-8")
    with contextlib.redirect_stdout(out):
        assert main([*map(str, command), "--plot", str(folder / "plot.svg")]) == 0
    assert found == [[path.name for path in folder.iterdir()]] and "plot.svg" in found[0]


def test_bytes_of_a_name_stay_as_they_are():
    """A name of a file that is not in the encoding of the system."""
    name = os.fsdecode(b"gr\xf6\xdfe")
    for encoding in ("utf-8", *ENCODINGS):
        assert f"x{name}²y".encode(encoding, "fastfc") == b"xgr\xf6\xdfe" + shown("²y", encoding).encode(encoding)


def test_what_objects_say_of_themselves_is_ascii():
    """A script that prints them must not depend on the terminal: a report of gradients had ×, deep graphs …"""
    x = fc.Input(3)
    deep = x
    for _ in range(40):
        deep = 0.5 * (deep + fc.Linear(3, 3)(deep)) * fc.ReLU()(deep)
    net = fc.Sequential([fc.Linear(3, 4), fc.BatchNorm1d(4), fc.Dropout(0.5), fc.Linear(4, 2)])
    graph = fc.Graph(x, deep)
    made = [
        net,
        net.summary(),
        graph,
        graph.summary(),
        deep,
        fc.check_gradients(fc.MLP([3, 2], dtype=np.float64), np.ones((2, 3))),
        fc.Adam(schedule=fc.CosineAnnealingLR(10)),
        fc.CrossEntropyLoss(label_smoothing=0.1),
        net.fit(np.ones((4, 3)), np.ones((4, 2)), loss=fc.MSELoss(), optimizer=fc.SGD()),
    ]
    for each in made:
        assert str(each).isascii() and repr(each).isascii()


# ---------- systems that lack what Unix has


UNIX = {"fcntl", "pty", "termios", "resource", "pwd", "grp", "tty", "syslog", "readline", "curses"}
FILES = sorted([*Path(__file__).parent.glob("*.py"), *Path(fc.__file__).parent.rglob("*.py")])
FILES += sorted(Path(machine.__file__).parent.rglob("*.py"))


def imported(body):
    """What a module can't be imported without."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.If | ast.ClassDef | ast.With):
            yield from imported(node.body)


def test_modules_can_be_imported_on_windows():
    """tests/processes.py could not, and with it no test that starts a process."""
    needs = {path: UNIX & set(imported(ast.parse(path.read_text(encoding="utf-8")).body)) for path in FILES}
    assert {str(path): names for path, names in needs.items() if names} == {}
