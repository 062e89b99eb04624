"""The caches of the processor, as its system or the processor itself tells them."""

import ctypes
import os
import platform
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import llvmlite.binding as llvm

SYSFS = Path("/sys/devices/system/cpu")
FIELDS = "type", "size", "level", "ways_of_associativity", "shared_cpu_list"  # of a cache there


class Cache(NamedTuple):
    """A cache for data: its bytes, its ways, and how many cores share it. It holds way_bytes at any stride."""

    nbytes: int
    ways: int
    cores: int = 1

    @property
    def way_bytes(self) -> int:
        return self.nbytes // self.ways

    @property
    def core_bytes(self) -> int:
        """The share of one core."""
        return self.nbytes // self.cores


class Caches(NamedTuple):
    """The caches that a core uses; of no bytes where there is no third level."""

    l1: Cache
    l2: Cache
    l3: Cache
    source: str


KIB, MIB = 1 << 10, 1 << 20
NO_CACHE = Cache(0, 1)
DEFAULTS = Caches(Cache(32 * KIB, 8), Cache(512 * KIB, 8), NO_CACHE, "assumed")


def caches_of(levels: dict[int, Cache], source: str) -> Caches | None:
    """The caches of some levels, whose `cores` count threads; None without the first two."""
    if any(level not in levels or levels[level].nbytes <= 0 for level in (1, 2)):
        return None
    threads = max(1, levels[1].cores)
    l1, l2, l3 = (
        Cache(c.nbytes, max(1, c.ways), max(1, c.cores // threads))
        for c in (levels.get(n, NO_CACHE) for n in (1, 2, 3))
    )
    return Caches(l1, l2, l3, source)


def cpu_count_in(cpu_list: str) -> int:
    """The number of processors in a list such as 0-3,8."""
    ends = [part.partition("-") for part in cpu_list.split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in ends)


def sysfs_caches(root: Path = SYSFS) -> Caches | None:
    """What Linux tells of the first processor that this process may run on."""
    cpu = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    levels = {}
    for index in sorted((root / f"cpu{cpu}" / "cache").glob("index*")):
        try:
            entry = {name: (index / name).read_text().strip() for name in FIELDS if (index / name).is_file()}
            if entry["type"] in ("Data", "Unified"):
                nbytes = int(entry["size"].rstrip("KM")) * (MIB if entry["size"].endswith("M") else KIB)
                ways = int(entry.get("ways_of_associativity", 0)) or 8
                levels[int(entry["level"])] = Cache(nbytes, ways, cpu_count_in(entry["shared_cpu_list"]))
        except (OSError, ValueError, KeyError):
            continue
    return caches_of(levels, "sysfs")


@cache
def cpuid_engine() -> llvm.ExecutionEngine:
    """The instruction as a function cpuid(leaf, subleaf, registers)."""
    llvm.initialize_native_asmparser()
    module = llvm.parse_assembly("""
        define void @cpuid(i32 %leaf, i32 %subleaf, ptr %registers) {
        %result = call {i32, i32, i32, i32} asm sideeffect "cpuid", "={ax},={bx},={cx},={dx},{ax},{cx}"
                  (i32 %leaf, i32 %subleaf)
        store {i32, i32, i32, i32} %result, ptr %registers
        ret void }""")
    engine = llvm.create_mcjit_compiler(module, llvm.Target.from_default_triple().create_target_machine())
    engine.finalize_object()
    return engine


def cpuid_leaves(leaf: int) -> Iterator[tuple[int, int, int, int]]:
    """The registers of each subleaf of a leaf that lists caches, until one that is of no cache."""
    kind = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)
    ask = kind(cpuid_engine().get_function_address("cpuid"))
    registers = (ctypes.c_uint32 * 4)()
    ask(leaf & 0x80000000, 0, registers)
    if registers[0] < leaf:
        return
    for subleaf in range(16):
        ask(leaf, subleaf, registers)
        if not registers[0] & 31:
            return
        yield tuple(registers)


def cpuid_caches() -> Caches | None:
    """What an x86 processor tells: leaf 4 of Intel's, leaf 0x8000001D of AMD's, which have the same fields."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return None
    for leaf in (4, 0x8000001D):
        levels = {}
        for a, b, c, _ in cpuid_leaves(leaf):
            kind, level, threads = a & 31, a >> 5 & 7, (a >> 14 & 4095) + 1
            line, partitions, ways, sets = (b & 4095) + 1, (b >> 12 & 1023) + 1, (b >> 22) + 1, c + 1
            if kind in (1, 3):  # data, unified
                levels[level] = Cache(line * partitions * ways * sets, ways, threads)
        found = caches_of(levels, "cpuid")
        if found:
            return found
    return None


def sysctl(name: str) -> int:
    """A number that macOS knows by name, 0 if it does not."""
    value, size = ctypes.c_uint64(), ctypes.c_size_t(8)
    ask = getattr(ctypes.CDLL(None), "sysctlbyname", None)
    if ask is None or ask(name.encode(), ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)):
        return 0
    return value.value


def sysctl_caches() -> Caches | None:
    """What macOS tells of its fast cores."""
    if platform.system() != "Darwin":
        return None
    levels = {
        1: Cache(sysctl("hw.perflevel0.l1dcachesize") or sysctl("hw.l1dcachesize"), 8),
        2: Cache(
            sysctl("hw.perflevel0.l2cachesize") or sysctl("hw.l2cachesize"), 8, sysctl("hw.perflevel0.cpusperl2") or 1
        ),
    }
    return caches_of(levels, "sysctl")


@cache
def host_caches() -> Caches:
    """The caches of this machine."""
    return sysfs_caches() or cpuid_caches() or sysctl_caches() or DEFAULTS
