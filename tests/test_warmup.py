import importlib
import pkgutil
import re
import shutil

import pytest
from processes import run

from fastfc import kernels
from fastfc.cli import warmup
from fastfc.cli.main import main
from fastfc.kernels.runtime.cache import cache_folder
from fastfc.kernels.runtime.native import compiled_kernels

WARMUP = "import sys; from fastfc.cli.main import main; sys.exit(main(['warmup', '--dtype', 'float32']))"
TINY = """
import tiny_kernels
from fastfc.cli import warmup
warmup.compiled_kernels = {name: warmup.compiled_kernels[name] for name in ("one", "two", "three")}
"""
STEP = """
import numpy as np, fastfc as fc
x = np.ones((2, 3), np.float32)
fc.MLP([3, 4, 1], seed=0).train_step(x, x[:, :1], fc.MSELoss(), fc.SGD())
"""
LINE = re.compile(r"float32 (\w+) +\d+\.\d\d s(, from the cache|, by the second process)?")


def listed(output):
    """Name and whether it was in the cache, of each kernel listed."""
    *lines, total = output.splitlines()
    assert re.match(r"\d+\.\d s in all; compiled kernels are in ", total)
    return [LINE.fullmatch(line).groups() for line in lines]


def test_what_is_compiled_is_compiled_once(tmp_path):
    for found in (None, ", from the cache"):
        output, errors = run(TINY + WARMUP, FASTFC_CACHE=tmp_path)
        assert errors == "" and listed(output) == [(name, found) for name in ("one", "two", "three")]
        assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["one", "three", "two"]


def test_nothing_is_left_to_compile(tmp_path):
    if cache_folder() is None:
        pytest.skip("no folder for compiled kernels")
    for module in pkgutil.walk_packages(kernels.__path__, "fastfc.kernels."):  # some of which are imported when used
        if module.name != "fastfc.kernels.runtime.second":  # a program
            importlib.import_module(module.name)
    output, errors = run(WARMUP)  # what other tests have not compiled yet
    of_tests = "one", "two", "three", "late", "call_late"  # of tiny_kernels.py and late_kernels.py
    ours = [name for name in compiled_kernels if name not in of_tests]
    assert errors == "" and sorted(name for name, _ in listed(output)) == sorted(ours)
    folder = shutil.copytree(cache_folder(), tmp_path / "cache")
    files = sorted(path.name for path in folder.iterdir())
    output, errors = run(WARMUP, FASTFC_CACHE=folder)
    assert errors == "" and set(listed(output)) == {(name, ", from the cache") for name in ours}
    assert run(STEP, FASTFC_CACHE=folder) == ("", "")
    assert sorted(path.name for path in folder.iterdir()) == files


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [([], ["float32", "float64"]), (["--dtype", "float64"], ["float64"])],
)
def test_which_dtypes(arguments, expected, monkeypatch):
    asked = []
    monkeypatch.setattr(warmup, "warmup", asked.append)
    assert main(["warmup", *arguments]) == 0
    assert asked == [expected]


def test_without_a_cache_folder_there_is_nothing_to_do(monkeypatch, capsys):
    monkeypatch.setattr(warmup, "cache_folder", lambda: None)
    assert main(["warmup"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "no cache folder" in err
