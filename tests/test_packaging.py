import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
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


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the working tree, so that no build folder is left behind."""
    copy = tmp_path_factory.mktemp("source")
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    for folder in (".ci", "fastfc", "kernels", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def run_backend(what, source, target, **environment):
    """Build "wheel", "editable" or "sdist" of a tree in a process."""
    code = (
        "import sys; sys.path.insert(0, '.ci'); import build_backend as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, f"build_{what}", str(target)]
    env = os.environ | {"FASTFC_KERNELS": ""} | environment
    return subprocess.run(command, cwd=source, env=env, capture_output=True, text=True)


def build(what, source, target):
    """The file that the backend builds."""
    done = run_backend(what, source, target)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = target.iterdir()
    assert done.stdout.splitlines()[-1] == file.name
    return file


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


def test_a_wheel_with_kernels_inside(source, tmp_path):
    """It is for one Python and one kind of system, and refuses kernels that it could not use."""
    from fastfc.kernels.runtime import cache, portable

    for folder in ("target", "kernels", "kernels/avx2"):
        (tmp_path / folder).mkdir()
    (tmp_path / "kernels/avx2/product-0").write_bytes(b"machine code")
    about = tmp_path / "kernels/avx2/about.json"
    about.write_text(json.dumps(portable.description() | {"kernel sources": "abc"}))
    done = run_backend("wheel", source, tmp_path / "target", FASTFC_KERNELS=str(tmp_path / "kernels"))
    assert done.returncode and "avx2 was made with another kernel sources; make it anew" in done.stdout + done.stderr
    about.write_text(json.dumps(portable.description() | {"kernel sources": cache.hash_of_sources()}))
    shutil.rmtree(source / "build", ignore_errors=True)
    done = run_backend("wheel", source, tmp_path / "target", FASTFC_KERNELS=str(tmp_path / "kernels"))
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (tmp_path / "target").iterdir()
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert f"-{tag}-{tag}" in file.name and "none-any" not in file.name
    with zipfile.ZipFile(file) as archive:
        assert archive.read("fastfc/kernels/compiled/avx2/product-0") == b"machine code"
    shutil.rmtree(source / "build")


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


def test_an_editable_install_is_folders_that_any_tool_can_read(source, tmp_path):
    """An import hook told Python where kernels/ lies, which pyright, mypy and VS Code do not run."""
    with zipfile.ZipFile(build("editable", source, tmp_path)) as archive:
        files = {file: archive.read(file).decode() for file in archive.namelist()}
    (pth,) = (file for file in files if "dist-info" not in file)
    folders = [Path(line) for line in files[pth].splitlines()]
    assert pth.endswith(".pth") and folders[0] == source
    found = [folder / "fastfc" / "kernels" / "__init__.py" for folder in folders]
    assert [path.resolve() for path in found if path.exists()] == [source / "kernels" / "__init__.py"]
    for folder in folders:
        assert (folder / "fastfc" / "__init__.py").exists() and (folder / "fastfc" / "py.typed").exists()
    where = "import fastfc.kernels; print(fastfc.__file__, fastfc.kernels.__file__)"
    path = os.pathsep.join(map(str, folders))
    assert run_python(where, tmp_path, path).split() == [
        str(source / folder / "__init__.py") for folder in ("fastfc", "kernels")
    ]
    (record,) = (text for file, text in files.items() if file.endswith("/RECORD"))
    assert {line.split(",")[0] for line in record.splitlines()} == set(files)
    (entries,) = (text for file, text in files.items() if file.endswith("/entry_points.txt"))
    assert "fastfc = fastfc.cli.main:main" in entries


def test_a_wheel_of_the_source_archive_is_the_same(source, wheel, tmp_path):
    with tarfile.open(build("sdist", source, tmp_path)) as archive:
        archive.extractall(tmp_path / "sdist", filter="data")
    (extracted,) = (tmp_path / "sdist").iterdir()
    (tmp_path / "wheel").mkdir()
    again = build("wheel", extracted, tmp_path / "wheel")
    names = [zipfile.ZipFile(file).namelist() for file in (wheel, again)]
    assert sorted(names[0]) == sorted(names[1])


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


def test_import_makes_no_dispatchers():
    """Numba's dispatchers of 261 kernels were a fifth of the time of the import, and few programs need one."""
    code = """
import gc, numba
from numba.core.dispatcher import Dispatcher
made = lambda: {each.py_func.__qualname__ for each in gc.get_objects() if isinstance(each, Dispatcher)}
before = made()
import fastfc
print(*made() - before)
"""
    assert run_python(code, ROOT).split() == []


def test_the_python_layer_does_not_know_llvm():
    knows = re.compile(r"^ *(import|from) llvmlite", re.MULTILINE)
    assert [name(path) for path in CORE if knows.search(path.read_text(encoding="utf-8"))] == []


def test_dir_has_what_is_imported_later():
    assert set(fastfc.__all__) <= set(dir(fastfc))
