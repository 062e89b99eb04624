"""Kernels that travel: compiled for an instruction set instead of a processor, in a folder that other machines use.

`fastfc warmup --out` makes such a folder, with one folder in it for each instruction set. FASTFC_KERNELS names the
folder to use; without it, that is the one that a wheel was built with. A kernel that it lacks comes from the cache, or
is compiled.

What is loaded is run: as in the cache, only what nobody but the user and root could have written, with the digest that
it should have. About itself the folder says what it was made of, and it is used only where all of that is the same.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np
from numba.core import config
from numba.core.registry import cpu_target

from fastfc.kernels.runtime import cache
from fastfc.kernels.simd.isa import host_isa


class Level(NamedTuple):
    """What the code for an instruction set may use.

    Attributes
    ----------
    processor : str
        LLVM's name for all processors that have it.
    features : str
        What they have, in LLVM's words.
    """

    processor: str
    features: str


V2 = "cx16 popcnt sahf sse3 sse4.1 sse4.2 ssse3"
V3 = f"{V2} avx avx2 bmi bmi2 f16c fma lzcnt movbe xsave"
V4 = f"{V3} avx512bw avx512cd avx512dq avx512f avx512vl"
# The levels of the x86-64 psABI; every AArch64 processor has NEON.
X86 = {"sse": Level("x86-64-v2", V2), "avx2": Level("x86-64-v3", V3), "avx512": Level("x86-64-v4", V4)}
ARM = {"neon": Level("generic", "")}

ABOUT = "about.json"
IN_WHEEL = Path(__file__).parents[1] / "compiled"


def levels():
    """The instruction sets that code can be compiled for here, by the names of `simd.isa.ISAS`."""
    return X86 if llvm.get_process_triple().startswith("x86_64") else ARM


def environment(isa):
    """Environment variables with which a process compiles for an instruction set, and for nothing else."""
    level = levels()[isa]
    return {
        "NUMBA_CPU_NAME": level.processor,
        "NUMBA_CPU_FEATURES": ",".join(f"+{feature}" for feature in level.features.split()),
        "NUMBA_DISABLE_INTEL_SVML": "1",  # a library that others lack
        "FASTFC_KERNELS": "0",
    }


@functools.cache
def description():
    """What kernels for this process's instruction set depend on, beside their names and types."""
    isa = host_isa().name
    return {
        "instruction set": isa,
        "features": levels()[isa].features if isa in levels() else "",
        "system": cpu_target.target_context.codegen().magic_tuple()[0],
        "Python": f"{sys.implementation.cache_tag}{getattr(sys, 'abiflags', '')}",
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "NumPy": np.__version__.partition(".")[0],
        "NUMBA_OPT": str(config.OPT),
        "NUMBA_BOUNDSCHECK": str(config.BOUNDSCHECK),
        "kernel sources": cache.hash_of_sources(),
    }


def key(name, signature):
    """Hash of all that a kernel's machine code depends on."""
    return hashlib.sha256(repr((name, str(signature), sorted(description().items()))).encode())


def path(folder, name, key):
    return folder / f"{name}-{key.hexdigest()[:32]}"


class UnusableError(Exception):
    """Why a folder of kernels is not used."""


def check(folder):
    """Raise if nothing in the folder may be used, or could."""
    if not folder.parent.is_dir():
        raise UnusableError("there is no such folder")
    if not folder.is_dir():
        others = ", ".join(sorted(path.parent.name for path in folder.parent.glob(f"*/{ABOUT}"))) or "none"
        raise UnusableError(f"this process needs kernels for {folder.name}, and it has those for {others}")
    for place in (folder.parent, folder):
        if reason := untrusted_reason(place.stat()):
            raise UnusableError(f"{place} {reason}")
    try:
        about = dict(json.loads(read_trusted(folder / ABOUT)))
    except (OSError, ValueError, TypeError):
        raise UnusableError(f"{folder / ABOUT} is missing or damaged, or can be written by others") from None
    for name, here in description().items():
        if (there := about.get(name)) != here:
            raise UnusableError(f"it was made with another {name}: {short(there)}, here it is {short(here)}")
    features = llvm.get_host_cpu_features()
    missing = [name for name in description()["features"].split() if not features.get(name)]
    if missing:
        raise UnusableError(f"this processor lacks {', '.join(missing)}")


def short(text):
    return str(text)[:40]


def untrusted_reason(status):
    """As in the cache. What came with the package may be run if the package's own sources may."""
    reason = cache.untrusted_reason(status)
    if reason and place() == IN_WHEEL:
        ours = os.stat(__file__)
        if status.st_uid == ours.st_uid and not (status.st_mode & ~ours.st_mode & 0o022):
            return ""
    return reason


def read_trusted(path):
    """Content of a file, nothing if others could have written it."""
    with open(path, "rb") as file:
        return b"" if untrusted_reason(os.fstat(file.fileno())) else file.read()


@functools.cache
def place():
    """The folder that is to be used, None if there is none."""
    named = os.environ.get("FASTFC_KERNELS", "")
    if named == "0":
        return None
    if named:
        return Path(os.path.expanduser(named)).absolute()
    return IN_WHEEL if os.path.isdir(IN_WHEEL) else None  # which raises nothing where a folder can't be read


@functools.cache
def state():
    """The folder of kernels for this process's instruction set, None if there is none; and why it is not used."""
    if place() is None:
        return None, ""
    folder = place() / host_isa().name
    try:
        check(folder)
    except (UnusableError, OSError) as error:
        return folder, str(error)
    return folder, ""


@functools.cache
def usable_folder():
    """The folder that kernels are loaded from, or None; a warning says once why it is not the one that is named."""
    folder, reason = state()
    if reason:
        warn(f"the kernels in {place()}: {reason}")
    return None if reason else folder


@functools.cache
def warn(what):
    warnings.warn(
        f"fastfc does not use {what}. It compiles its own instead. Make the folder anew with fastfc warmup --out, or "
        "set FASTFC_KERNELS to 0.",
        RuntimeWarning,
        stacklevel=2,
    )


def load(name, signature, rebuild):
    """What `rebuild` makes of the stored kernel, or None."""
    folder = usable_folder()
    if folder is None:
        return None
    wanted = key(name, signature)
    try:
        found = cache.payload(wanted, read_trusted(path(folder, name, wanted)))
        if found is not None:
            return rebuild(found)
    except FileNotFoundError:
        return None
    except Exception:  # whatever is wrong with the file, compiling helps
        pass
    warn(f"some of the kernels in {place()}: files are damaged, or can be written by others")
    return None


def prepare(out):
    """Make the folder for this process's instruction set in `out`, without what was made of something else."""
    folder = out / host_isa().name
    for new in (out, folder):
        if not new.is_dir():
            new.mkdir(parents=True)
            new.chmod(0o755)
        if reason := cache.untrusted_reason(new.stat()):
            raise OSError(f"{new} {reason}: its kernels would not be used")
    about = folder / ABOUT
    with contextlib.suppress(OSError, ValueError):
        if json.loads(about.read_text()) == description():
            return folder
    for old in folder.iterdir():
        if re.fullmatch(r"\w+-[0-9a-f]{32}", old.name):
            old.unlink()
    cache.write_whole(about, json.dumps(description(), indent=1).encode(), 0o644)
    return folder


def write(folder, name, signature, payload):
    """Add a kernel, for all to read."""
    wanted = key(name, signature)
    cache.write_whole(path(folder, name, wanted), cache.file_digest(wanted, payload) + payload, 0o644)
