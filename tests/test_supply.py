"""What fastfc is made of and runs on: versions of numba and numpy, and licences of what is shipped."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The oldest and the newest that are supported: fastfc's own cache of compiled code uses parts of numba that change.
NUMBA = "0.63.0", "0.68.1"
NUMPY = "1.26.4", "2.5.5"
NEWEST_HERE = NUMPY[1] if sys.version_info >= (3, 12) else "2.4.6"  # that NumPy is for newer versions of Python
PARTS = ["entry", "simd", "forward", "weight_grad", "edge", "cache", "network", "training", "nopython", "known_answers"]


def minor(version):
    return tuple(map(int, version.split(".")[:2]))


@pytest.mark.parametrize("package, tested", [("numba", NUMBA), ("numpy", NUMPY)])
def test_the_bounds_are_those_that_were_tested(package, tested):
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (given,) = (line for line in dependencies if re.match(rf"{package}\b", line))
    (major, low), (_, high) = map(minor, tested)
    above = f"{minor(tested[1])[0]}.{high + 1}"
    assert given == f"{package}>={major}.{low},<{above}"
    assert minor(tested[0]) <= minor(importlib.metadata.version(package)) <= minor(tested[1])


@pytest.mark.soak
@pytest.mark.parametrize("numba, numpy", [*zip(NUMBA, (NUMPY[0], NEWEST_HERE), strict=True)], ids=["oldest", "newest"])
def test_kernels_networks_and_training_by_version(numba, numpy, tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    packages = [f"numba=={numba}", f"numpy=={numpy}", "pytest>=8", "hypothesis"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    files = [f"tests/test_{part}.py" for part in PARTS]
    env = os.environ | {"PYTHONPATH": str(ROOT), "FASTFC_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    print(numba, numpy, done.stdout.splitlines()[-1:])
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]


def test_what_is_shipped_has_its_licence():
    data = {path.name for path in (ROOT / "fastfc" / "data").iterdir() if path.suffix in (".npz", ".txt")}
    licences = {name for name in data if name.startswith("LICENSE-")}
    assert {f"LICENSE-{name.partition('.')[0]}.txt" for name in data - licences} == licences
    text = (ROOT / "fastfc" / "data" / "LICENSE-digits.txt").read_text()
    assert "Creative Commons" in text and "archive.ics.uci.edu" in text


@pytest.mark.soak
def test_no_known_vulnerabilities(tmp_path):
    """Of the packages of all extras that are installed here; needs the network and pip-audit's database."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "pip-audit"], check=True)
    site = Path(importlib.metadata.distribution("numba").locate_file(""))
    done = subprocess.run([python, "-m", "pip_audit", "--path", site], capture_output=True, text=True)
    output = done.stdout + done.stderr
    if "numpy" in output and "not found on PyPI" in output:
        pytest.skip("pip-audit can't reach the database of vulnerabilities from here")
    assert done.returncode == 0, output
