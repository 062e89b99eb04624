import hashlib
import importlib
import pkgutil
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from numba import njit
from numba.core import config
from numba.core.dispatcher import Dispatcher
from processes import finish, run, start

import fastfc
from fastfc import kernels
from fastfc.kernels import cache
from fastfc.kernels.cache import KernelCache, cache_folder

# One kernel, which prints what it computed: relu(−1) + 5
RELU = """
import numpy as np
from fastfc import kernels
x = np.array([-1.0, 5.0])
kernels.activation_forward(x, x, "relu")
print(x.sum())
"""


def twice(x):
    return 2 * x


def dispatcher():
    """A nopython function with a cache, as in a new process."""
    fresh = njit(twice)
    fresh._cache = KernelCache(twice)
    return fresh


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("FASTFC_CACHE", str(tmp_path / "cache"))
    cache_folder.cache_clear()
    yield tmp_path / "cache"
    cache_folder.cache_clear()


NOTICE = "fastfc compiles its kernels for this machine, "


def test_compiling_is_announced_once_and_only_then(folder, caplog):
    cache.tell.cache_clear()
    dispatcher()(1.5)
    dispatcher()(np.float32(1.5))
    [record] = caplog.records
    assert (record.name, record.levelname) == ("fastfc", "WARNING")
    assert record.message.startswith(NOTICE + "once: ")
    caplog.clear()
    cache.tell.cache_clear()
    assert hits(second := dispatcher()) == 0 and second(1.5) == 3 and hits(second) == 1
    assert not caplog.records


def test_the_notice_is_a_line_on_stderr_that_logging_can_silence(tmp_path):
    output, errors = run(RELU + RELU, FASTFC_CACHE=tmp_path / "one")
    assert output.split() == ["5.0", "5.0"]
    assert errors.startswith(NOTICE + "once: ") and errors.count("\n") == 1
    assert run(RELU, FASTFC_CACHE=tmp_path / "one") == ("5.0\n", "")
    silent = "import logging; logging.getLogger('fastfc').setLevel(logging.ERROR)\n"
    assert run(silent + RELU, FASTFC_CACHE=tmp_path / "two") == ("5.0\n", "")
    _, errors = run(RELU, FASTFC_CACHE=0)
    assert errors.startswith(NOTICE + "in every process: ") and errors.count("\n") == 1


def hits(function):
    return sum(function.stats.cache_hits.values())


def test_a_second_process_loads(folder):
    assert dispatcher()(1.5) == 3
    [file] = folder.iterdir()
    second = dispatcher()
    assert second(1.5) == 3
    assert hits(second) == 1
    assert list(folder.iterdir()) == [file]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:20],
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2] + b"\0" + content[len(content) // 2 + 1 :],
        lambda content: bytes(len(content)),
        lambda content: hashlib.sha256(content[32:-100]).digest() + content[32:-100],
    ],
    ids=["empty", "only a part of the hash", "one byte short", "one byte changed", "zeros", "another pickle"],
)
def test_a_broken_file_is_compiled_anew(folder, damage):
    dispatcher()(1.5)
    [file] = folder.iterdir()
    content = file.read_bytes()
    file.write_bytes(damage(content))
    second, third = dispatcher(), dispatcher()
    assert (second(1.5), hits(second)) == (3, 0)
    assert (third(1.5), hits(third)) == (3, 1)


def test_a_folder_that_vanishes_costs_nothing_but_time(folder):
    cache_folder()
    shutil.rmtree(folder)
    assert dispatcher()(1.5) == 3


def test_the_key_holds_all_that_code_depends_on(folder, monkeypatch):
    dispatcher()(1.5)
    for change in (
        lambda: monkeypatch.setattr(config, "BOUNDSCHECK", int(not config.BOUNDSCHECK)),
        lambda: monkeypatch.setattr(config, "OPT", type(config.OPT)(1)),
        lambda: monkeypatch.setattr(cache, "source_hash", lambda: "another"),
    ):
        change()
        other = dispatcher()
        assert (other(1.5), hits(other)) == (3, 0)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"FASTFC_CACHE": "{0}/a", "XDG_CACHE_HOME": "{0}/b"}, "{0}/a"),
        ({"XDG_CACHE_HOME": "{0}/b", "HOME": "{0}/c"}, "{0}/b/fastfc"),
        ({"HOME": "{0}/c"}, "{0}/c/.cache/fastfc"),
        ({"FASTFC_CACHE": "0", "XDG_CACHE_HOME": "{0}/b"}, None),
    ],
)
def test_which_folder(tmp_path, monkeypatch, variables, expected):
    for name in ("FASTFC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(config, "CACHE_DIR", "")
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    cache_folder.cache_clear()
    assert cache_folder() == (Path(expected.format(tmp_path)) if expected else None)
    cache_folder.cache_clear()


def test_a_folder_that_cannot_be_written_warns_once(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTFC_CACHE", str(tmp_path / "file" / "below"))
    cache_folder.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert cache_folder() is None
        assert dispatcher()(1.5) == 3
        assert dispatcher()(np.float32(1.5)) == 3
    assert [w.category for w in caught] == [RuntimeWarning]
    assert "file/below can't be written" in str(caught[0].message)
    cache_folder.cache_clear()


def test_kernels_work_without_a_cache_folder(tmp_path):
    (tmp_path / "file").write_text("")
    output, errors = run(RELU + RELU, FASTFC_CACHE=tmp_path / "file" / "below")
    assert output.split() == ["5.0", "5.0"]
    assert errors.count("RuntimeWarning") == 1
    output, errors = run(RELU, FASTFC_CACHE=0, HOME=tmp_path, XDG_CACHE_HOME=tmp_path)
    assert output.split() == ["5.0"]
    assert "Warning" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_compiled_functions_have_names_of_their_own():
    """Machine code of two processes may meet in a third, which links it by names."""
    modules = [importlib.import_module(f"fastfc.kernels.{m.name}") for m in pkgutil.iter_modules(kernels.__path__)]
    found = {id(f): f for module in modules for f in vars(module).values() if isinstance(f, Dispatcher)}.values()
    names = [(f.py_func.__module__, f.py_func.__qualname__) for f in found]
    assert len(names) > 100 and {name for name in names if names.count(name) > 1} == set()


def test_processes_that_start_together(tmp_path):
    processes = [start(RELU, FASTFC_CACHE=tmp_path) for _ in range(3)]
    for process in processes:
        assert finish(process)[0].split() == ["5.0"]
    names = [path.name.partition("-")[0] for path in tmp_path.iterdir() if path.name != "lock"]
    assert sorted(names) == ["_activation_forward", "apply"]


USER = """
from numba import njit
@njit(cache=True)
def relu(x):
    kernels.activation_forward(x, x, "relu")
"""


def test_an_edit_of_a_helper_is_seen(tmp_path):
    """By calls from Python, and by a cached function of the user that is not compiled again."""
    package = Path(fastfc.__file__).parent
    without = shutil.ignore_patterns("__pycache__", "kernels")
    shutil.copytree(package, tmp_path / "fastfc", ignore=without)
    shutil.copytree(Path(kernels.__file__).parent, tmp_path / "fastfc/kernels", ignore=without)
    (tmp_path / "user.py").write_text("from fastfc import kernels\n" + USER)
    code = (
        RELU
        + """
import fastfc, user
x = np.array([-1.0, 5.0])
user.relu(x)
print(x.sum(), sum(user.relu.stats.cache_hits.values()), fastfc.__file__)
"""
    )
    environment = {"FASTFC_CACHE": tmp_path / "cache", "NUMBA_CACHE_DIR": tmp_path / "numba"}
    file = str(tmp_path / "fastfc" / "__init__.py")
    assert run(code, path=str(tmp_path), **environment)[0].split() == ["5.0", "5.0", "0", file]
    helper = tmp_path / "fastfc/kernels/activations.py"
    before = helper.read_text()
    after = before.replace("return maximum(x, 0.0)", "return where_less(x, 0.0, 7.0, x)")
    assert after != before
    helper.write_text(after)
    assert run(code, path=str(tmp_path), **environment)[0].split() == ["12.0", "12.0", "1", file]
