import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fastfc

ROOT = Path(__file__).parent.parent
CORE = sorted((ROOT / "fastfc").rglob("*.py"))
KERNELS = sorted((ROOT / "kernels").rglob("*.py"))
DATA = [ROOT / "fastfc" / "data" / file for file in ("digits.npz", "LICENSE-digits.txt")]


def name(path):
    return str(path.relative_to(ROOT))


def run_python(code, cwd, path=None):
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        env["PYTHONPATH"] = str(path)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def build(source, target, **environment):
    """A wheel of the working tree, built from a copy so that no build folder is left behind."""
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    for folder in ("fastfc", "kernels", "tests"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    command, env = [sys.executable, "-c", code, str(target)], os.environ | {"FASTFC_KERNELS": ""} | environment
    return subprocess.run(command, cwd=source, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    target = tmp_path_factory.mktemp("wheel")
    done = build(tmp_path_factory.mktemp("source"), target)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = target.iterdir()
    return file


def test_a_wheel_with_kernels_inside(tmp_path):
    """It is for one Python and one kind of system, and refuses kernels that it could not use."""
    from fastfc.kernels.runtime import cache, portable

    for folder in ("source", "target", "kernels", "kernels/avx2"):
        (tmp_path / folder).mkdir()
    (tmp_path / "kernels/avx2/product-0").write_bytes(b"machine code")
    about = tmp_path / "kernels/avx2/about.json"
    about.write_text(json.dumps(portable.description() | {"kernel sources": "abc"}))
    done = build(tmp_path / "source", tmp_path / "target", FASTFC_KERNELS=str(tmp_path / "kernels"))
    assert done.returncode and "avx2 was made with another kernel sources; make it anew" in done.stdout + done.stderr
    about.write_text(json.dumps(portable.description() | {"kernel sources": cache.hash_of_sources()}))
    shutil.rmtree(tmp_path / "source")
    (tmp_path / "source").mkdir()
    done = build(tmp_path / "source", tmp_path / "target", FASTFC_KERNELS=str(tmp_path / "kernels"))
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (tmp_path / "target").iterdir()
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert f"-{tag}-{tag}" in file.name and "none-any" not in file.name
    with zipfile.ZipFile(file) as archive:
        assert archive.read("fastfc/kernels/compiled/avx2/product-0") == b"machine code"


def test_wheel_holds_the_package_and_nothing_else(wheel):
    expected = {name(path) for path in [*CORE, *DATA]} | {"fastfc/py.typed"}
    expected |= {f"fastfc/{name(path)}" for path in KERNELS}
    with zipfile.ZipFile(wheel) as archive:
        files = {file for file in archive.namelist() if ".dist-info/" not in file}
        assert files == expected
        licences = {Path(file).name for file in archive.namelist() if ".dist-info/licenses/" in file}
    assert licences == {"LICENSE", "LICENSE-digits.txt"}


def test_version_comes_from_one_place(wheel):
    assert wheel.name == f"fastfc-{fastfc.__version__}-py3-none-any.whl"
    assert importlib.metadata.version("fastfc") == fastfc.__version__
    text = [path.read_text(encoding="utf-8") for path in [*CORE, *KERNELS, ROOT / "pyproject.toml"]]
    assert sum(len(re.findall(r"^(?:__version__|version) *= *\"", t, re.MULTILINE)) for t in text) == 1


def test_core_dependencies_are_numba_and_numpy(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (file for file in archive.namelist() if file.endswith("/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    core = [x for x in lines if x.startswith("Requires-Dist:") and "extra ==" not in x]
    assert sorted(re.split(r"[ <>=]+", x)[1] for x in core) == ["numba", "numpy"]


def test_wheel_imports_from_any_folder(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    where = "import fastfc.kernels; print(fastfc.kernels.__file__)"
    installed = run_python(where, tmp_path, tmp_path / "site")
    assert Path(installed) == tmp_path / "site" / "fastfc" / "kernels" / "__init__.py"
    # In the repository's root ./fastfc comes first on sys.path, and has no kernels folder beside it.
    assert Path(run_python(where, ROOT, tmp_path / "site")) == ROOT / "kernels" / "__init__.py"


@pytest.mark.parametrize("folder", [ROOT, ROOT / "tests", ROOT.parent], ids=["root", "tests", "above"])
def test_import_adds_only_numpy_and_numba(folder):
    code = """
import sys
import numba, numpy
before = set(sys.modules)
import fastfc, fastfc.kernels
print(*{m.split(".")[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names))
"""
    assert set(run_python(code, folder).split()) <= {"fastfc", "numba", "llvmlite", "numpy"}


@pytest.mark.parametrize("path", CORE + KERNELS, ids=name)
def test_only_two_rooms_know_llvm(path):
    knows = re.search(r"^ *(import|from) llvmlite", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert not knows or path.parent in (ROOT / "kernels" / "simd", ROOT / "kernels" / "runtime")


def test_dir_has_what_is_imported_later():
    assert set(fastfc.__all__) <= set(dir(fastfc))
