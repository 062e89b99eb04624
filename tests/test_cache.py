import errno
import hashlib
import importlib
import itertools
import os
import pickle
import pkgutil
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from numba import njit, types
from numba.core import config
from numba.core.codegen import CPUCodegen
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from processes import finish, run, start
from sample import slow
from soak import report

import fastfc
from fastfc import kernels
from fastfc.kernels.runtime import cache, native
from fastfc.kernels.runtime.cache import KernelCache, cache_folder, compile_lock, hash_of_sources
from fastfc.kernels.simd.compiler import Helper

# Files damaged at random, and processes that start together: here, and in the long run
DAMAGED, LONG_DAMAGED = 20, 2000
TOGETHER, LONG_TOGETHER = 6, 30
long = pytest.mark.soak

# A kernel that compiles in no time: prints (−2 + 1) + (5 + 1)
TINY = """
import numpy as np
from tiny_kernels import one
out = np.zeros(2)
one.call(np.array([-2.0, 5.0]), out)
print(out.sum())
"""
# One of ours, which prints relu(−1) + 5
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


NOTICE = "fastfc compiles %s for this machine, "


def test_the_notice_is_a_line_on_stderr_that_logging_can_silence(tmp_path):
    """It counts the kernels that the first one needs, and comes once in a process."""
    output, errors = run(TINY + TINY, FASTFC_CACHE=tmp_path / "one")
    assert output.split() == ["5.0", "5.0"]
    assert errors == NOTICE % "a kernel" + "once (fastfc warmup does it ahead)\n"
    three = "from tiny_kernels import *; use(three); print(5.0)"
    silent = "import logging; logging.getLogger('fastfc').setLevel(logging.ERROR)\n"
    assert run(silent + three, FASTFC_CACHE=tmp_path / "two") == ("5.0\n", "")
    _, errors = run(three, FASTFC_CACHE=0)
    assert errors.startswith(NOTICE % "3 kernels" + "in every process ") and errors.count("\n") == 1
    _, errors = run(three, FASTFC_CACHE=tmp_path / "one")
    assert errors.startswith(NOTICE % "2 kernels" + "once ") and errors.count("\n") == 1


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
        lambda content: hashlib.sha256(content[32:]).digest() + content[32:],
        lambda content: pickle.dumps("foreign"),
        lambda content: content + b"more",
    ],
    ids=[
        "empty",
        "part of the seal",
        "one byte short",
        "one byte changed",
        "zeros",
        "another seal",
        "foreign",
        "longer",
    ],
)
def test_a_broken_file_is_compiled_anew(folder, damage):
    dispatcher()(1.5)
    [file] = folder.iterdir()
    content = file.read_bytes()
    file.write_bytes(damage(content))
    second, third = dispatcher(), dispatcher()
    assert (second(1.5), hits(second)) == (3, 0)
    assert (third(1.5), hits(third)) == (3, 1)


@pytest.mark.parametrize("count", [DAMAGED, pytest.param(LONG_DAMAGED, marks=long)])
def test_files_damaged_at_random(folder, count):
    dispatcher()(1.5)
    [file] = folder.iterdir()
    content, rng = np.frombuffer(file.read_bytes(), np.uint8), np.random.default_rng(0)
    for _ in range(count):
        damaged = content[: rng.integers(1, len(content) + 1)].copy()
        damaged[rng.integers(0, len(damaged), 8)] ^= rng.integers(1, 256, 8, np.uint8)
        file.write_bytes(damaged.tobytes())
        again = dispatcher()
        assert (again(1.5), hits(again)) == (3, 0)
    assert file.read_bytes()[32:] != b"" and hits(dispatcher()) == 0
    report("damaged cache files", files=count)


def test_what_cannot_be_unpickled_is_compiled_anew(folder, monkeypatch):
    """Whatever Numba raises."""
    dispatcher()(1.5)

    def fail(*args):
        raise AttributeError("no such class any more")

    with monkeypatch.context() as patch:
        patch.setattr(cache.CompileResult, "_rebuild", fail)
        assert dispatcher()(1.5) == 3
    assert hits(third := dispatcher()) == 0 and third(1.5) == 3 and hits(third) == 1


@pytest.mark.parametrize("when", ["opened", "written", "renamed"])
def test_a_full_disk_costs_nothing_but_time(folder, monkeypatch, when):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Full:
        def __init__(self, handle, mode):
            self.file = os.fdopen(handle, mode)

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self.file.close()

        write = full

    cache_folder()
    with monkeypatch.context() as patch:
        if when == "opened":
            patch.setattr(tempfile, "mkstemp", full)
        elif when == "written":
            patch.setattr(cache, "open", lambda f, mode: (Full if mode == "wb" else open)(f, mode), raising=False)
        else:
            patch.setattr(os, "replace", full)
        assert dispatcher()(1.5) == 3
        assert list(folder.iterdir()) == []
    assert dispatcher()(1.5) == 3
    assert len(list(folder.iterdir())) == 1


def test_files_that_may_not_grow(tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    assert run(limit + TINY, FASTFC_CACHE=tmp_path)[0] == "5.0\n"
    assert list(tmp_path.iterdir()) == []


@long
def test_a_file_system_that_is_full(tmp_path):
    """A real one, as large as the first of the files."""
    command = f"mount -t tmpfs -o size=64k none {tmp_path}"
    if subprocess.run(["unshare", "-m", "sh", "-c", command], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    command += f" && {sys.executable} -c '{RELU}' && ls {tmp_path}"
    environment = os.environ | {"FASTFC_CACHE": str(tmp_path)}
    shell = ["unshare", "-m", "sh", "-c", command]
    done = subprocess.run(shell, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.split()[0]) == (0, "5.0"), done.stderr
    assert all(name.startswith(("activation_relu-", "_activation")) for name in done.stdout.split()[1:])


def test_an_interrupted_save_leaves_nothing(folder, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        dispatcher()(1.5)
    assert list(folder.iterdir()) == []


# Whom the folder belongs to, and who can write there


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners of files here")
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702], ids=oct)
def test_a_folder_that_others_can_write_is_not_used(folder, mode):
    folder.mkdir()
    folder.chmod(mode)
    with pytest.warns(RuntimeWarning, match=r"can't be used \(can be written by others\)"):
        assert dispatcher()(1.5) == 3
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_another_user_is_not_used(folder):
    dispatcher()(1.5)
    [file] = folder.iterdir()
    os.chown(file, 65534, 65534)
    assert hits(second := dispatcher()) == 0 and second(1.5) == 3 and hits(second) == 0
    assert file.stat().st_uid == 0
    os.chown(folder, 65534, 65534)
    cache_folder.cache_clear()
    with pytest.warns(RuntimeWarning, match=r"can't be used \(belongs to another user\)"):
        assert dispatcher()(1.5) == 3


class Payload:
    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return Path.touch, (self.proof,)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners of files here")
def test_what_others_could_have_written_is_not_run(folder, tmp_path, monkeypatch):
    """A file with a valid seal, for that is not a secret."""
    proof, (file, key) = tmp_path / "proof", planted(folder, monkeypatch)
    content = pickle.dumps(Payload(proof))
    file.write_bytes(cache.file_digest(key, content) + content)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "untrusted_reason", lambda status: "")
        assert dispatcher()(1.5) == 3
    assert proof.exists()  # so it would run
    proof.unlink()
    file.write_bytes(cache.file_digest(key, content) + content)
    file.chmod(0o666)
    second = dispatcher()
    assert (second(1.5), hits(second), proof.exists()) == (3, 0, False)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def planted(folder, monkeypatch):
    """The file of `twice` for a float, and its key."""
    keys = []
    with monkeypatch.context() as patch:
        patch.setattr(KernelCache, "path", lambda self, key, path=KernelCache.path: keys.append(key) or path(self, key))
        dispatcher()(1.5)
    [file] = folder.iterdir()
    return file, keys[0]


def test_only_the_user_can_read_or_write_what_is_kept(folder):
    dispatcher()(1.5)
    [file] = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_user_without_rights_or_home(tmp_path):
    """An install that is read-only, and a home that can't be written or does not exist."""
    (tmp_path / "home").mkdir(mode=0o555)
    # Python and we may be where only root can read: what is imported or read late is so first
    late = "numba.njit(lambda: 0)()\nfastfc.kernels.runtime.cache.hash_of_sources_and_versions()\n"
    others = f"import os, fastfc, numba, tiny_kernels\n{late}if os.geteuid() == 0: os.setuid(65534)\n"
    environment = {"FASTFC_CACHE": "", "NUMBA_CACHE_DIR": "", "XDG_CACHE_HOME": ""}
    for home, code in (
        (tmp_path / "home", TINY),
        ("/nonexistent", "print(fastfc.kernels.runtime.cache.cache_folder())"),
    ):
        output, errors = run(others + code, HOME=home, **environment)
        assert output in ("5.0\n", "None\n")
        assert errors.count("RuntimeWarning: fastfc compiles its kernels anew") == 1
    assert list((tmp_path / "home").iterdir()) == []


def test_no_home_at_all(tmp_path, monkeypatch):
    """As for a user of a container whom no list of users names."""
    for name in ("FASTFC_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    cache_folder.cache_clear()
    with pytest.warns(RuntimeWarning, match="there is no such home folder"):
        assert cache_folder() is None
    assert list(tmp_path.iterdir()) == []
    cache_folder.cache_clear()


@pytest.mark.parametrize("name", [".", "below/it"])
def test_a_relative_folder_stays_where_it_was(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTFC_CACHE", name)
    cache_folder.cache_clear()
    assert cache_folder() == tmp_path / name
    cache_folder.cache_clear()


def test_a_folder_that_vanishes_costs_nothing_but_time(folder):
    cache_folder()
    shutil.rmtree(folder)
    assert dispatcher()(1.5) == 3


def test_the_key_holds_all_that_code_depends_on(folder, monkeypatch):
    dispatcher()(1.5)
    for change in (
        lambda: monkeypatch.setattr(config, "BOUNDSCHECK", int(not config.BOUNDSCHECK)),
        lambda: monkeypatch.setattr(config, "OPT", type(config.OPT)(1)),
        lambda: monkeypatch.setattr(cache, "hash_of_sources_and_versions", lambda: "another"),
        lambda: monkeypatch.setattr(CPUCodegen, "magic_tuple", lambda self: ("x86_64", "another", "")),
    ):
        change()
        other = dispatcher()
        assert (other(1.5), hits(other)) == (3, 0)


def test_a_file_under_another_name_is_refused(folder, monkeypatch):
    """Code for another processor would be as good as damaged."""
    with monkeypatch.context() as patch:
        patch.setattr(CPUCodegen, "magic_tuple", lambda self: ("x86_64", "another", ""))
        dispatcher()(1.5)
        [foreign] = folder.iterdir()
    dispatcher()(1.5)
    [file] = set(folder.iterdir()) - {foreign}
    foreign.rename(file)
    assert hits(second := dispatcher()) == 0 and second(1.5) == 3 and hits(second) == 0


@long
def test_a_cache_made_on_another_processor(tmp_path):
    """Two kinds of processors share a folder, and somebody mixes up the files."""
    ours, other = {}, {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": ""}
    assert run(RELU, FASTFC_CACHE=tmp_path, **ours)[0] == "5.0\n"
    first = sorted(tmp_path.glob("*-*"))
    assert run(RELU, FASTFC_CACHE=tmp_path, **other)[0] == "5.0\n"
    second = sorted(set(tmp_path.glob("*-*")) - set(first))
    assert len(first) == 2
    pairs = list(zip(first, second, strict=True))
    for one, two in pairs:
        one.rename(tmp_path / "some")
        two.rename(one)
        (tmp_path / "some").rename(two)
    before = {path: path.read_bytes() for pair in pairs for path in pair}
    for environment in (ours, other):
        assert run(RELU, FASTFC_CACHE=tmp_path, **environment)[0] == "5.0\n"
    assert all(path.read_bytes() != content for path, content in before.items())


def test_every_source_of_the_kernels_is_in_the_key(tmp_path, monkeypatch):
    shutil.copytree(Path(kernels.__file__).parent, tmp_path / "kernels")
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "kernels/runtime/cache.py"))
    seen = [hash_of_sources.__wrapped__()]
    for path in sorted((tmp_path / "kernels").rglob("*.py")):
        path.write_text(path.read_text() + "\n")
        seen.append(hash_of_sources.__wrapped__())
    assert len(seen) > 20 and len(set(seen)) == len(seen)


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
    assert "file/below can't be used (Not a directory)" in str(caught[0].message)
    cache_folder.cache_clear()


def test_kernels_work_without_a_cache_folder(tmp_path):
    (tmp_path / "file").write_text("")
    output, errors = run(TINY, FASTFC_CACHE=0, HOME=tmp_path, XDG_CACHE_HOME=tmp_path)
    assert output.split() == ["5.0"]
    assert "Warning" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_compiled_functions_have_names_of_their_own():
    """Machine code of two processes may meet in a third, which links it by names."""
    every = pkgutil.walk_packages(kernels.__path__, "fastfc.kernels.")
    modules = [importlib.import_module(module.name) for module in every]
    waiting = [f.py_func for module in modules for f in vars(module).values() if isinstance(f, Helper)]
    waiting += [k.function for k in native.compiled_kernels.values() if isinstance(k, native.CompiledKernel)]
    found = {}
    while waiting:
        function = waiting.pop()
        if function not in found:
            found[function] = function.__module__, function.__qualname__
            within = [cell.cell_contents for cell in function.__closure__ or ()]
            waiting += [f.py_func for f in within if isinstance(f, Helper)]
    names = [*found.values()]
    assert len(names) > 300 and {name for name in names if names.count(name) > 1} == set()


@pytest.mark.parametrize("count", [3, slow(TOGETHER), pytest.param(LONG_TOGETHER, marks=long)])
def test_processes_that_start_together(tmp_path, count):
    """In whatever order they need kernels: each is compiled once, and two never wait for one another."""
    orders = list(itertools.permutations(["one", "two", "three"]))
    use = "from tiny_kernels import *; [use(kernel) for kernel in ({})]; print(*compiled)"
    codes = [use.format(", ".join(orders[i % len(orders)])) for i in range(count)]
    processes = [start(code, FASTFC_CACHE=tmp_path) for code in codes]
    outputs, notices = zip(*map(finish, processes), strict=True)
    assert sorted(" ".join(outputs).split()) == ["one:float64", "three:float64", "two:float64"]
    assert all(
        notice for notice, output in zip(notices, outputs, strict=True) if output != "\n"
    )  # who compiles says so
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["one", "three", "two"]
    report("cold start together", processes=count)


@pytest.fixture
def new_process(folder, monkeypatch):
    """Imports the tiny kernels as a new process does; the cache folder is empty."""
    monkeypatch.setattr(native, "compiled_kernels", dict(native.compiled_kernels))

    def imported():
        sys.modules.pop("tiny_kernels", None)
        return importlib.import_module("tiny_kernels")

    yield imported
    sys.modules.pop("tiny_kernels", None)


def claimed(kernel, dtype=types.float64):
    """Like another process that compiles the kernel: a lock belongs to an open file."""
    return kernel.compiler._cache.claim(kernel.signature(dtype), kernel.compiler.targetctx)


def started(function, *args):
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


needs_locks = pytest.mark.skipif(cache.fcntl is None, reason="no locks between processes here")


@needs_locks
def test_what_is_compiled_elsewhere_holds_up_nothing_else(new_process):
    """There was one lock: a job of 5 s, with all that it needs cached, took 37 s as a stranger compiled float64."""
    tiny = new_process()
    tiny.use(tiny.two)
    assert tiny.compiled == ["one:float64", "two:float64"]
    with claimed(tiny.one), claimed(tiny.two), claimed(tiny.three), claimed(tiny.one, types.float32):
        tiny = new_process()
        tiny.use(tiny.two)
        waiting = [started(tiny.use, tiny.three), started(tiny.use, tiny.one, "f4")]
        time.sleep(3 * native.POLL_SECONDS)
        # nor do the threads of one that waits
        tiny.use(tiny.one)
        assert dispatcher()(1.5) == 3
        assert all(thread.is_alive() for thread in waiting) and tiny.compiled == []
    for thread in waiting:
        thread.join(60)
    assert sorted(tiny.compiled) == ["one:float32", "three:float64"]


@needs_locks
def test_who_waits_for_a_kernel_takes_what_the_other_has_compiled(new_process):
    first, second = new_process(), new_process()
    with claimed(second.one):
        waiting = started(second.use, second.one)
        time.sleep(2 * native.POLL_SECONDS)
        first.one.compiler.compile(first.one.signature(types.float64))
    waiting.join(60)
    assert (first.compiled, second.compiled) == (["one:float64"], [])


@needs_locks
def test_who_is_killed_leaves_its_work_to_others(new_process, folder):
    code = """
import time, tiny_kernels as tiny
from numba import types
with tiny.one.compiler._cache.claim(tiny.one.signature(types.float64), tiny.one.compiler.targetctx) as mine:
    print(mine, flush=True)
    time.sleep(300)
"""
    tiny, killed = new_process(), start(code, FASTFC_CACHE=folder)
    assert killed.stdout.readline() == "True\n"
    waiting = started(tiny.use, tiny.one)
    waiting.join(2 * native.POLL_SECONDS)
    assert waiting.is_alive()
    killed.kill()
    killed.communicate()
    waiting.join(60)
    assert [path.name.partition("-")[0] for path in folder.iterdir()] == ["one"]  # and no lock file


@needs_locks
def test_waiting_can_be_interrupted(new_process):
    """Ctrl-C waits for what this process compiles, not for others."""
    tiny = new_process()
    with claimed(tiny.one):
        threading.Timer(2 * native.POLL_SECONDS, signal.raise_signal, [signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            tiny.use(tiny.one)
    tiny.use(tiny.one)


@needs_locks
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EIO])
def test_a_file_system_without_locks(folder, monkeypatch, number):
    def fail(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(cache.fcntl, "flock", fail)
    with dispatcher()._cache.claim((types.float64,), cpu_target.target_context) as mine:
        assert mine
    assert not list(folder.iterdir())


def test_a_compile_that_fails_leaves_no_lock(folder):
    claim = dispatcher()._cache.claim
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), claim((types.float64,), cpu_target.target_context) as mine:
            assert mine
            raise ZeroDivisionError
    assert not list(folder.iterdir())


def test_compiling_in_two_ways_at_once(folder):
    """Code that calls a kernel is compiled under Numba's lock, and the kernel then too: one order of all locks."""
    first, second = threading.Event(), threading.Event()

    def kernel():
        with compile_lock():
            first.set()
            second.wait(0.2)
            with global_compiler_lock:
                pass

    def user():
        first.wait()
        with global_compiler_lock:
            second.set()
            with compile_lock():
                pass

    workers = [threading.Thread(target=work, daemon=True) for work in (kernel, user)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
    assert not any(worker.is_alive() for worker in workers)


USER = """
from numba import njit, types
@njit(cache=True)
def relu(x):
    kernels.activation_forward(x, x, "relu")
"""


def test_an_edit_of_a_helper_is_seen(tmp_path):
    """By calls from Python and by a cached function of the user, which may hold numbers with another meaning now."""
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

    def results():
        return run(code, path=str(tmp_path), **environment)[0].split()

    environment = {"FASTFC_CACHE": tmp_path / "cache", "NUMBA_CACHE_DIR": tmp_path / "numba"}
    if cache_folder():  # whose kernels are of the same sources
        shutil.copytree(
            cache_folder(), tmp_path / "cache", ignore=lambda _, names: {n for n in names if "activation" not in n}
        )
    file = str(tmp_path / "fastfc" / "__init__.py")
    assert results() == ["5.0", "5.0", "0", file]
    assert results() == ["5.0", "5.0", "1", file]
    helper = tmp_path / "fastfc/kernels/ops/activation_rules.py"
    before = helper.read_text()
    after = before.replace("return maximum(x, 0.0)", "return where_less(x, 0.0, 7.0, x)")
    assert after != before
    declared = 'RELU = activation("relu", relu, relu_derivative)'
    assert after.count(declared) == 1  # one more before it: the numbers of those behind it change
    helper.write_text(
        after.replace(declared, declared.replace("RELU", "OTHER").replace('"relu"', '"other"') + "\n" + declared)
    )
    assert results() == ["12.0", "12.0", "0", file]
    assert results() == ["12.0", "12.0", "1", file]
