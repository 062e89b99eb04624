"""Compiled kernels on disk, keyed by everything that they depend on.

Numba's own cache looks at the time stamp of one source file: it serves stale code when a helper in another
file changes, and its index file can be overwritten by a concurrent process. Here the key of a kernel is
in its file's name, a hash of all kernel sources among it, and a file is written once and complete.

What is loaded is run: only files are that nobody but the user and root could have written.
"""

import contextlib
import functools
import hashlib
import os
import pickle
import platform
import signal
import stat
import sys
import tempfile
import threading
import warnings
from pathlib import Path

import llvmlite.binding as llvm
import numba
import numpy as np
from numba.core import config
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.compiler_lock import global_compiler_lock
from numba.core.runtime._nrt_python import c_helpers

from fastfc.kernels.simd.llvm import LLVM_LOCK

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def untrusted_reason(status):
    """Why nothing of a file or folder with this `os.stat` may be run; empty if it may."""
    if not hasattr(os, "geteuid"):  # Windows keeps a user's folders from others
        return ""
    if status.st_uid not in (os.geteuid(), 0):
        return "belongs to another user"
    return "can be written by others" if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else ""


@functools.cache
def cache_folder():
    """Folder of the compiled kernels, or None where there is none.

    FASTFC_CACHE names it, and 0 turns the cache off; else `fastfc` in NUMBA_CACHE_DIR, XDG_CACHE_HOME or
    the user's own cache folder. If it can't be written, or if others can write there, kernels are compiled anew in
    each process, and a warning says so once.
    """
    wanted = os.environ.get("FASTFC_CACHE", "")
    if wanted == "0":
        return None
    home = config.CACHE_DIR or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(os.path.expanduser(wanted or Path(home, "fastfc")))
    try:
        if str(folder).startswith("~"):
            raise OSError("there is no such home folder")
        folder = folder.absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        why = untrusted_reason(folder.stat())
        if why:
            raise OSError(why)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        warnings.warn(
            f"fastfc compiles its kernels anew in every process: the cache folder {folder} can't be used "
            f"({error.strerror or error}). Set FASTFC_CACHE to a folder that only you can write, or to 0 to silence "
            "this.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return folder


@functools.cache
def hash_of_sources():
    """Hash of all kernel sources."""
    digest = hashlib.sha256()
    top = Path(__file__).parent.parent
    for path in sorted(top.rglob("*.py")):
        digest.update(path.relative_to(top).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


@functools.cache
def hash_of_sources_and_versions():
    """Hash of all kernel sources and of what compiles them."""
    versions = numba.__version__, np.__version__, sys.version, platform.machine(), hash_of_sources()
    return hashlib.sha256(repr(versions).encode()).hexdigest()


def before_fork():
    """Wait until nobody compiles.

    A child would wait forever for a lock that a thread of its parent held, and find LLVM half way.
    """
    global_compiler_lock.acquire()
    LLVM_LOCK.__enter__()


def after_fork():
    LLVM_LOCK.__exit__(None, None, None)
    global_compiler_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=before_fork, after_in_parent=after_fork, after_in_child=after_fork)


class DeferredInterrupt:
    """A handler of Ctrl-C that lets it wait, once."""

    def __init__(self, handler):
        self.handler, self.waiting = handler, False

    def __call__(self, number, frame):
        self.waiting = True
        signal.signal(number, self.handler)


@contextlib.contextmanager
def defer_sigint():
    """Let Ctrl-C wait until this is over: Numba does not survive it everywhere. A second one acts at once."""
    handler = signal.getsignal(signal.SIGINT)
    # current_thread() would list a worker of the pool as a thread of Python's, for good
    is_main = threading.get_ident() == threading.main_thread().ident
    if not is_main or not callable(handler) or isinstance(handler, DeferredInterrupt):
        yield
        return
    deferred = DeferredInterrupt(handler)
    signal.signal(signal.SIGINT, deferred)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if deferred.waiting:
            signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def compile_lock():
    """Held while a thread loads or compiles a kernel.

    It is Numba's own lock, for whoever compiles code that calls a kernel holds that and comes here; compiling a kernel
    may need another one: re-entrant. Processes exclude one another by KernelCache.claim, which never waits.
    """
    with defer_sigint(), global_compiler_lock:
        yield


def file_digest(key, content):
    """What a file begins with, so that neither a damaged nor a renamed one is taken for what its name says."""
    return hashlib.sha256(key.digest() + content).digest()


def read_trusted(path):
    """Content of a file, nothing if others could have written it."""
    with open(path, "rb") as file:
        return b"" if untrusted_reason(os.fstat(file.fileno())) else file.read()


def payload(key, content):
    """The pickled compile result that a file holds, None if it is damaged or another kernel's."""
    return content[32:] if file_digest(key, content[32:]) == content[:32] else None


def reduced(result):
    """What to pickle of a compile result: machine code, and of LLVM's code the names that callers ask for.

    Kernels are called by address, so nobody inlines their LLVM code; it and the annotated source would be most of a
    file, and take most of the time to load it.
    """
    (name, kind, code), *others, environments = result._replace(type_annotation="")._reduce()
    defined = {function.name for function in result.library.get_defined_functions()}
    names = defined & {result.fndesc.llvm_func_name, result.fndesc.llvm_cpython_wrapper_name}
    stubs = "".join(f'define void @"{name}"() {{ ret void }}\n' for name in names)
    environments = tuple(filter(is_needed, environments))
    return (name, kind, (code[0], llvm.parse_assembly(stubs).as_bitcode())), *others, environments


def is_needed(environment):
    """Whether code reads Python's objects from it: not those of functions of Numba's and ours that have none."""
    package = environment.globals["__name__"].partition(".")[0]
    return environment.consts or package not in ("numba", "fastfc")


@functools.cache
def add_runtime_symbols():
    """Tell LLVM where functions of Numba's runtime are, as Numba does when it first compiles."""
    for name, address in c_helpers.items():
        llvm.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)


def rebuild(target_context, payload):
    """The compiled kernel that was pickled."""
    # not refresh(), which takes 0.2 s to fill registries and to compile Numba's runtime: machine code needs no
    # registries, and has its own copy of the runtime, but for the functions that this calls
    add_runtime_symbols()
    return CompileResult._rebuild(target_context, *pickle.loads(payload))


def write_whole(path, content, mode=0o600):
    """Write a file that is there whole or not at all."""
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with open(handle, "wb") as file:
            file.write(content)
        os.chmod(part, mode)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise


def private(path, flags):
    """For open: a new file that only the user can read or write."""
    return os.open(path, flags, 0o600)


def remove(path):
    with contextlib.suppress(OSError):
        os.unlink(path)


class KernelCache(_Cache):
    """The cache of one dispatcher. A file holds a digest and the pickled compile result."""

    def __init__(self, function):
        self.name = function.__name__

    @property
    def cache_path(self):
        return cache_folder()

    def key(self, sig, target_context):
        """Hash of all that the machine code depends on."""
        parts = (
            self.name,
            hash_of_sources_and_versions(),
            str(sig),
            target_context.codegen().magic_tuple(),
            config.BOUNDSCHECK,
            config.OPT,
        )
        return hashlib.sha256(repr(parts).encode())

    def path(self, key):
        return cache_folder() / f"{self.name}-{key.hexdigest()[:32]}"

    @contextlib.contextmanager
    def claim(self, sig, target_context):
        """Whether this process may compile the kernel: not while another one does.

        The claim is a lock on a file of the kernel's own, which the system drops when the process ends. The file is
        deleted before it is unlocked: who then gets the lock of the deleted file finds the compiled kernel.
        """
        folder, mine = cache_folder(), True
        with contextlib.ExitStack() as stack:
            if folder is not None and fcntl is not None:
                path = f"{self.path(self.key(sig, target_context))}.lock"
                try:
                    file = stack.enter_context(open(path, "ab", opener=private))
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    stack.callback(remove, path)
                except BlockingIOError:
                    mine = False
                except OSError:  # a full disk or a file system without locks: compile twice rather than fail
                    remove(path)
            yield mine

    def read(self, sig, target_context):
        """The pickled compile result, or None. It needs no claim, for files are whole or absent."""
        key = self.key(sig, target_context)
        try:
            return payload(key, read_trusted(self.path(key))) if cache_folder() else None
        except OSError:
            return None

    def load(self, sig, target_context):
        """The compiled kernel, or None."""
        try:
            found = self.read(sig, target_context)
            return None if found is None else rebuild(target_context, found)
        except Exception:  # whatever is wrong with the file, compiling helps
            return None

    def load_overload(self, sig, target_context):
        return self.load(sig, target_context)

    def save_overload(self, sig, data):
        if cache_folder() is None or data.library.has_dynamic_globals:
            return
        self.write(self.key(sig, data.target_context), pickle.dumps(reduced(data), protocol=-1))

    def write(self, key, content):
        if cache_folder() is not None:
            with contextlib.suppress(OSError):  # a full disk costs a compile next time, nothing more
                write_whole(self.path(key), file_digest(key, content) + content)

    def enable(self):
        pass

    def disable(self):
        pass

    def flush(self):
        pass
