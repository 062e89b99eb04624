import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastfc
from fastfc.benchmark.compare import ODD, SHAPES, TARGETS, TASKS
from fastfc.benchmark.instructions import VARIABLES
from fastfc.benchmark.worker import NETWORK_PACKAGES, Shape, environment, installed
from fastfc.cli import main as cli
from fastfc.cli.main import main

BAD = [
    ["no-such-command"],
    ["demo", "--epochs", "0"],
    ["demo", "--epochs", "two"],
    ["demo", "--epochs", "-1"],
    ["demo", "--seed", "1.5"],
    ["demo", "--plot", "no-such-folder/plot.png"],
    ["demo", "--plot", "plot.txt"],
    ["demo", "extra"],
    ["demo", "--data", "iris"],
    ["compare", "--shapes"],
    ["compare", "--shapes", "3x4"],
    ["compare", "--shapes", "3x4x0"],
    ["compare", "--shapes", "8x8x8", "3x4xfive"],
    ["compare", "--shapes", "8x8x8:diagonal"],
    ["compare", "--peers", "TensorFlow"],
    ["compare", "--threads", "0"],
    ["compare", "--threads", "100000"],
    ["compare", "--dtype", "float16"],
    ["compare", "--json", "."],
    ["compare", "--plot", "plot.txt"],
    ["compare", "--networks", "--shapes", "3x4x5"],
    ["warmup", "--dtype", "float16"],
    ["warmup", "--dtype"],
    ["doctor", "--verbose"],
    ["train"],
    ["train", "data.csv"],
    ["train", "data.csv", "--target", "y", "--out", "model.pickle"],
    ["train", "data.csv", "--target", "y", "--plot", "report.txt"],
    ["train", "data.csv", "--target", "y", "--task", "clustering"],
    ["train", "data.csv", "--target", "y", "--hidden", "64,0"],
    ["train", "data.csv", "--target", "y", "--hidden", "64;64"],
    ["train", "data.csv", "--target", "y", "--lr", "0"],
    ["train", "data.csv", "--target", "y", "--lr", "nan"],
    ["train", "data.csv", "--target", "y", "--batch-size", "0"],
    ["predict", "model.safetensors"],
    ["predict", "model.safetensors", "data.csv", "--out", "predictions.txt"],
]


def python(*arguments, stdout):
    """Run them in a new interpreter that finds what this one finds."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, env=environment)


def test_the_command_alone_prints_the_help(capsys):
    """It was an error that told of an option."""
    with pytest.raises(SystemExit) as stop:
        main([])
    out, err = capsys.readouterr()
    assert stop.value.code == 0 and out.startswith("usage: fastfc") and "warmup" in out and err == ""


@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_bad_arguments_give_one_line_and_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == "" and err.startswith("fastfc") and err.endswith(")\n") and err.count("\n") == 1
    if arguments:
        assert any(word.strip("-") in err for word in arguments)


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"fastfc {fastfc.__version__}\n"


@pytest.mark.parametrize("command", ["demo", "train", "predict", "compare", "warmup", "doctor"])
def test_help_names_every_option(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    options = {
        "demo": "--data --epochs --seed --plot",
        "compare": "--peers --networks --shapes --threads --dtype --json --plot",
        "warmup": "--dtype",
        "doctor": "",
        "train": "--target --out --plot --task --exclude --categories --hidden --epochs --batch-size --lr --seed",
        "predict": "--out",
    }
    assert all(option in out for option in options[command].split())


@pytest.mark.parametrize("command", ["demo", "compare"])
def test_without_matplotlib_one_line_says_what_to_install(command, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as stop:
        main([command, "--plot", "plot.png"])
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == "" and err.count("\n") == 1
    assert "--plot: a picture needs matplotlib: pip install 'fastfc[plot]'" in err


def test_interrupt_ends_without_traceback(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("fastfc.cli.main.run", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (SHAPES, installed(), 1, "float32")),
        (["--peers"], ([*TARGETS], installed(), 1, "float32")),
        (["--peers", "NumPy", "--dtype", "float64"], ([*TARGETS], ["NumPy"], 1, "float64")),
        (
            ["--shapes", "3x4x5", "6x7x8:sliced"],
            ([Shape(3, 4, 5), Shape(6, 7, 8, "sliced")], installed(), 1, "float32"),
        ),
        (["--peers", "--shapes", "1x2x3", "odd"], ([Shape(1, 2, 3), *ODD], installed(), 1, "float32")),
    ],
)
def test_what_compare_is_asked_for(arguments, expected, monkeypatch):
    calls = []
    monkeypatch.setattr(cli, "compare", lambda *args: calls.append(args))
    assert main(["compare", *arguments]) == 0
    assert calls == [(*expected, None, None, None)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (TASKS, installed(NETWORK_PACKAGES), 1, "float32", None, None, None)),
        (["--peers", "NumPy", "--dtype", "float64"], (TASKS, ["NumPy"], 1, "float64", None, None, None)),
        (["--peers", "NumPy", "--plot", "a.svg"], (TASKS, ["NumPy"], 1, "float32", None, Path("a.svg"), None)),
    ],
)
def test_what_compare_of_networks_is_asked_for(arguments, expected, monkeypatch):
    calls = []
    monkeypatch.setattr(cli, "compare_networks", lambda *args: calls.append(args))
    assert main(["compare", "--networks", *arguments]) == 0
    assert calls == [expected]


def test_a_library_of_networks_has_no_kernels(monkeypatch, capsys):
    monkeypatch.setattr(cli, "installed", lambda packages: dict.fromkeys(packages, "1.0"))
    with pytest.raises(SystemExit) as stop:
        main(["compare", "--peers", "NumPy", "scikit-learn"])
    assert stop.value.code == 2
    assert "scikit-learn is compared only with --networks" in capsys.readouterr().err


def test_environment_frees_the_libraries_and_sets_the_threads(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("UNRELATED", "kept")
    assert "OPENBLAS_CORETYPE" not in environment(None)
    wanted = environment(3)
    assert "OPENBLAS_CORETYPE" not in wanted and wanted["UNRELATED"] == "kept"
    assert wanted["OMP_NUM_THREADS"] == wanted["NUMBA_NUM_THREADS"] == "3"


@pytest.mark.parametrize("isa", VARIABLES)
def test_environment_forces_every_library(isa, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--some_flag=1")
    wanted = environment(1, isa)
    assert wanted["NUMBA_CPU_FEATURES"] == "" and wanted["XLA_FLAGS"].startswith("--some_flag=1 --xla_cpu_max_isa=")
    for name in ("NUMBA_CPU_NAME", "OPENBLAS_CORETYPE", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"):
        assert wanted[name]


def test_a_reader_that_leaves_early_sees_no_traceback():
    """As in `fastfc compare | head -1`."""
    source, sink = os.pipe()
    os.close(source)
    code = (
        "from fastfc.cli import main as cli; cli.run = lambda args: print('x'); raise SystemExit(cli.main(['doctor']))"
    )
    done = python("-c", code, stdout=sink)
    os.close(sink)
    assert (done.returncode, done.stderr) == (1, b"")


def test_runs_as_a_module():
    done = python("-m", "fastfc.cli.main", "--version", stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"fastfc {fastfc.__version__}\n".encode(), b"")


@pytest.mark.parametrize("error", [ImportError("get scikit-learn"), FileNotFoundError("get the files")])
def test_data_that_are_not_there_are_one_line_and_status_2(error, monkeypatch, capsys):
    def missing(*args):
        raise error

    monkeypatch.setattr(cli, "environment", lambda threads: os.environ)
    monkeypatch.setattr(cli, "real_run", missing)
    assert main(["demo", "--data", "wine"]) == 2
    assert capsys.readouterr() == ("", f"fastfc demo: {error}\n")


def test_what_a_demo_on_data_is_asked_for(monkeypatch):
    calls = []
    monkeypatch.setattr(cli, "environment", lambda threads: os.environ)
    monkeypatch.setattr(cli, "real_run", lambda *args: calls.append(args))
    assert main(["demo", "--data", "digits"]) == 0
    assert main(["demo", "--data", "wine", "--epochs", "3", "--seed", "7"]) == 0
    assert calls == [("digits", None, 0, None), ("wine", 3, 7, None)]


def test_the_plain_demo_has_30_epochs(monkeypatch):
    calls = []
    monkeypatch.setattr(cli, "environment", lambda threads: os.environ)
    monkeypatch.setattr("fastfc.cli.demo.demo", lambda *args: calls.append(args))
    assert main(["demo"]) == 0 and calls == [(30, 0, None)]
