"""Compiled kernels on disk, keyed by everything that they depend on.

Numba's own cache looks at the time stamp of one source file: it serves stale code when a helper in another
file changes, and its index file can be overwritten by a concurrent process. Here the key of a kernel is
in its file's name, a hash of all kernel sources among it, and a file is written once and complete.
"""

import contextlib
import functools
import hashlib
import logging
import os
import pickle
import platform
import sys
import tempfile
import threading
import warnings
from pathlib import Path

import numba
import numpy as np
from numba.core import config
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult

from fastfc.kernels.simd import l2_bytes

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@functools.cache
def cache_folder():
    """Folder of the compiled kernels, or None where there is none.

    FASTFC_CACHE names it, and 0 turns the cache off; else `fastfc` in NUMBA_CACHE_DIR, XDG_CACHE_HOME or
    the user's own cache folder. If it can't be written, kernels are compiled anew in each process, and a
    warning says so once.
    """
    wanted = os.environ.get("FASTFC_CACHE", "")
    if wanted == "0":
        return None
    home = config.CACHE_DIR or os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(wanted or Path(home, "fastfc"))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        warnings.warn(
            f"fastfc compiles its kernels anew in every process: the cache folder {folder} can't be written "
            f"({error.strerror}). Set FASTFC_CACHE to a folder that can, or to 0 to silence this.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return folder


@functools.cache
def source_hash():
    """Hash of all kernel sources and of what compiles them."""
    digest = hashlib.sha256(repr((numba.__version__, np.__version__, sys.version, platform.machine())).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


@functools.cache
def tell():
    """Say, once in a process, why the first call takes its time."""
    times = "once" if cache_folder() else "in every process"
    logging.getLogger("fastfc").warning(
        "fastfc compiles its kernels for this machine, %s: some 20 seconds (fastfc warmup does it ahead)", times
    )


compiling = threading.RLock()


@contextlib.contextmanager
def compile_lock():
    """Held while a kernel is looked up or compiled, by one thread of one process.

    Processes that start together then compile once. Compiling a kernel may need another one: re-entrant.
    """
    nested = compiling._is_owned()  # type: ignore[attr-defined]
    folder = cache_folder()
    with compiling, contextlib.ExitStack() as stack:
        if folder is not None and fcntl is not None and not nested:
            with contextlib.suppress(OSError):  # a file system without locks: compile twice rather than fail
                file = stack.enter_context(open(folder / "lock", "ab"))
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


class KernelCache(_Cache):
    """The cache of one dispatcher. A file holds the SHA-256 of the rest, and the pickled compile result."""

    def __init__(self, function):
        self.name = function.__name__

    @property
    def cache_path(self):
        return cache_folder()

    def path(self, sig, target_context):
        if cache_folder() is None:
            return None
        key = (
            source_hash(),
            str(sig),
            target_context.codegen().magic_tuple(),
            l2_bytes(),
            config.BOUNDSCHECK,
            config.OPT,
        )
        return cache_folder() / f"{self.name}-{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}"

    def load_overload(self, sig, target_context):
        target_context.refresh()
        path = self.path(sig, target_context)
        try:
            content = path.read_bytes() if path else b""
            if hashlib.sha256(content[32:]).digest() == content[:32]:
                return CompileResult._rebuild(target_context, *pickle.loads(content[32:]))
        except (OSError, pickle.UnpicklingError):
            pass
        tell()  # Numba now compiles
        return None

    def save_overload(self, sig, data):
        path = self.path(sig, data.target_context)
        if path is None or data.library.has_dynamic_globals:
            return
        content = pickle.dumps(data._reduce(), protocol=-1)
        with contextlib.suppress(OSError):  # a full disk costs a compile next time, nothing more
            handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.name)
            try:
                with open(handle, "wb") as file:
                    file.write(hashlib.sha256(content).digest() + content)
                os.replace(part, path)
            except OSError:
                os.unlink(part)

    def enable(self):
        pass

    def disable(self):
        pass

    def flush(self):
        pass
