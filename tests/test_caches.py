"""The caches as each source tells them."""

import ctypes
import platform

import pytest

from fastfc.kernels.simd import caches
from fastfc.kernels.simd.caches import DEFAULTS, KIB, MIB, NO_CACHE, Cache, Caches, cpu_count_in


def folder(root, cpu, entries):
    for index, files in enumerate(entries):
        path = root / f"cpu{cpu}" / "cache" / f"index{index}"
        path.mkdir(parents=True)
        for name, text in files.items():
            (path / name).write_text(f"{text}\n")


def entry(level, kind, size, ways, shared):
    names = ["level", "type", "size", "ways_of_associativity", "shared_cpu_list"]
    return dict(zip(names, (level, kind, size, ways, shared), strict=True))


ZEN3 = [
    entry(1, "Data", "32K", 8, "0,8"),
    entry(1, "Instruction", "32K", 8, "0,8"),
    entry(2, "Unified", "512K", 8, "0,8"),
    entry(3, "Unified", "32768K", 16, "0-15"),
]


@pytest.fixture
def first_cpu(monkeypatch):
    monkeypatch.setattr(caches.os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)


def test_sysfs_of_the_cores_that_a_process_may_use(tmp_path, first_cpu):
    """Two threads of a core share its caches; they are one core."""
    folder(tmp_path, 3, ZEN3)
    l3 = Cache(32 * MIB, 16, 8)
    assert caches.sysfs_caches(tmp_path) == Caches(Cache(32 * KIB, 8), Cache(512 * KIB, 8), l3, "sysfs")
    assert l3.core_bytes == 4 * MIB and l3.way_bytes == 2 * MIB


def test_sysfs_without_the_third_level_or_ways(tmp_path, first_cpu):
    folder(tmp_path, 3, [entry(1, "Data", "64K", 0, "3"), entry(2, "Unified", "1M", 8, "3")])
    found = caches.sysfs_caches(tmp_path)
    assert found == Caches(Cache(64 * KIB, 8), Cache(MIB, 8), NO_CACHE, "sysfs")


@pytest.mark.parametrize("missing", ["size", "level", "type", "shared_cpu_list"])
def test_sysfs_that_does_not_tell(tmp_path, first_cpu, missing):
    entries = [{name: text for name, text in one.items() if name != missing} for one in ZEN3]
    folder(tmp_path, 3, entries)
    assert caches.sysfs_caches(tmp_path) is None
    assert caches.sysfs_caches(tmp_path / "none") is None


def test_sysfs_of_nonsense(tmp_path, first_cpu):
    folder(tmp_path, 3, [entry(1, "Data", "many", 8, "3"), entry(2, "Unified", "0K", 8, "3")])
    assert caches.sysfs_caches(tmp_path) is None


def test_lists_of_processors():
    assert [cpu_count_in(text) for text in ("0", "0,8", "0-3", "0-3,8-11,16")] == [1, 2, 4, 9]


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="no cpuid")
def test_cpuid_agrees_with_sysfs():
    told, expected = caches.cpuid_caches(), caches.sysfs_caches()
    assert told is not None
    if expected is not None:
        assert [cache[:2] for cache in told[:2]] == [cache[:2] for cache in expected[:2]]


def test_cpuid_of_another_architecture(monkeypatch):
    monkeypatch.setattr(caches.platform, "machine", lambda: "arm64")
    assert caches.cpuid_caches() is None


def test_cpuid_fields(monkeypatch):
    """Leaf 4 of Skylake, from Intel's manual: type, level and threads in A, line and ways in B, sets in C."""
    leaves = [(1 | 1 << 5 | 1 << 14, 63 | 7 << 22, 63, 0), (2 | 1 << 5, 63 | 7 << 22, 63, 0)]
    leaves += [(3 | 2 << 5 | 1 << 14, 63 | 3 << 22, 1023, 0), (3 | 3 << 5 | 15 << 14, 63 | 15 << 22, 8191, 0)]
    monkeypatch.setattr(caches.platform, "machine", lambda: "AMD64")
    monkeypatch.setattr(caches, "cpuid_leaves", lambda leaf: leaves if leaf == 4 else [])
    expected = Caches(Cache(32 * KIB, 8), Cache(256 * KIB, 4), Cache(8 * MIB, 16, 8), "cpuid")
    assert caches.cpuid_caches() == expected


def test_sysctl(monkeypatch):
    """Of an M1: 12 MiB of L2 for four fast cores."""
    known = {b"hw.perflevel0.l1dcachesize": 128 * KIB, b"hw.l1dcachesize": 64 * KIB}
    known |= {b"hw.perflevel0.l2cachesize": 12 * MIB, b"hw.perflevel0.cpusperl2": 4}

    class Library:
        @staticmethod
        def sysctlbyname(name, value, *rest):
            value._obj.value = known.get(name, 0)
            return 0 if name in known else -1

    monkeypatch.setattr(caches.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(caches.ctypes, "CDLL", lambda name: Library)
    found = caches.sysctl_caches()
    assert found == Caches(Cache(128 * KIB, 8), Cache(12 * MIB, 8, 4), NO_CACHE, "sysctl")
    monkeypatch.setattr(caches.platform, "system", lambda: "Linux")
    assert caches.sysctl_caches() is None


def test_the_first_that_tells_is_believed(monkeypatch):
    names = ["sysfs_caches", "cpuid_caches", "sysctl_caches"]
    told = [Caches(Cache(KIB, 1), Cache(KIB, 1), NO_CACHE, name) for name in names]
    for name, answer in zip(names, told, strict=True):
        monkeypatch.setattr(caches, name, lambda answer=answer: answer)
    for name, answer in zip(names, told, strict=True):
        assert caches.host_caches.__wrapped__() is answer
        monkeypatch.setattr(caches, name, lambda: None)
    assert caches.host_caches.__wrapped__() is DEFAULTS


def test_sysctl_is_not_everywhere(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert caches.sysctl("hw.l1dcachesize") == 0
