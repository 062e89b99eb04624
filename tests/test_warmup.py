import re

import pytest
from processes import run

from fastfc import warmup
from fastfc.cli import main
from fastfc.kernels.edge import natives

WARMUP = "import sys; from fastfc.cli import main; sys.exit(main(['warmup', '--dtype', 'float32']))"
STEP = """
import numpy as np, fastfc as fc
x = np.ones((2, 3), np.float32)
fc.MLP([3, 4, 1], seed=0).train_step(x, x[:, :1], fc.MSELoss(), fc.SGD())
"""
LINE = re.compile(r"float32 (\w+) +\d+\.\d\d s(, from the cache)?")


def listed(output):
    """Name and whether it was in the cache, of each kernel listed."""
    *lines, total = output.splitlines()
    assert re.match(r"\d+\.\d s in all; compiled kernels are in ", total)
    return [LINE.fullmatch(line).groups() for line in lines]


def test_everything_is_compiled_once(tmp_path):
    output, errors = run(WARMUP, FASTFC_CACHE=tmp_path)
    assert errors == ""
    assert listed(output) == [(name, None) for name in natives]
    files = sorted(path.name for path in tmp_path.iterdir())
    output, errors = run(WARMUP, FASTFC_CACHE=tmp_path)
    assert errors == ""
    assert listed(output) == [(name, ", from the cache") for name in natives]
    assert run(STEP, FASTFC_CACHE=tmp_path) == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == files


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
