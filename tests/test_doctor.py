import platform
import re
import subprocess
from pathlib import Path

import pytest

import fastfc
from fastfc.benchmark import processor as doctor
from fastfc.cli.main import main
from fastfc.kernels.runtime import threads


def test_doctor_tells_every_fact(capsys):
    assert main(["doctor"]) == 0
    facts = {line[:16].strip(): line[16:] for line in capsys.readouterr().out.splitlines()}
    assert list(facts) == [
        "system",
        "processor",
        "instructions",
        "float32 tile",
        "float32 blocks",
        "float64 tile",
        "float64 blocks",
        "caches",
        "cores",
        "threads",
        "threading",
        "kernel cache",
        "kernels",
        "float32 peak",
        "float64 peak",
        "memory read",
        "installed",
        "versions",
    ]
    assert all(facts.values())
    assert "-bit vectors" in facts["instructions"]
    for dtype in ["float32", "float64"]:
        assert re.fullmatch(r"[1-9]\d* x [1-9]\d*", facts[f"{dtype} tile"])
        assert float(facts[f"{dtype} peak"].split()[0]) > 0
        assert re.fullmatch(r"KC [1-9]\d*, MC [1-9]\d*, NC [1-9]\d*", facts[f"{dtype} blocks"])
    assert re.match(r"L1 [1-9]\d* KiB, [1-9]\d* ways", facts["caches"])
    assert float(facts["memory read"].split()[0]) > 0
    assert "workqueue" in facts["threading"]
    number, why = threads.auto_threads()
    assert facts["threads"].startswith(f'"auto" takes {number}, for {why}')
    assert "numba" in facts["versions"] and "scikit-learn" in facts["versions"]
    assert re.search(r": \d+ files, \d+\.\d MB$", facts["kernel cache"]) or facts["kernel cache"] == "off"
    assert str(Path(fastfc.__file__).parent) in facts["installed"]


def test_processor_is_told():
    assert doctor.processor()


MISSING = FileNotFoundError()


@pytest.mark.parametrize(
    ("system", "cpuinfo", "sysctl", "told"),
    [
        ("Linux", "processor: 0\nmodel name\t: Some Core\n", MISSING, "Some Core"),
        ("Linux", "Processor: 0\nFeatures: neon\n", MISSING, "arm"),
        ("Linux", MISSING, MISSING, "arm"),
        ("Darwin", MISSING, "Apple M9\n", "Apple M9"),
        ("Darwin", MISSING, "", "arm"),
        ("Darwin", MISSING, MISSING, "arm"),
        ("Windows", MISSING, MISSING, "arm"),
        ("FreeBSD", MISSING, "Other\n", "arm"),
    ],
)
def test_processor_of_other_systems(system, cpuinfo, sysctl, told, monkeypatch):
    """That /proc was missing ended the search, so that sysctl was never asked."""

    def answer(value):
        if value is MISSING:
            raise MISSING
        return value

    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    monkeypatch.setattr(Path, "read_text", lambda path, **options: answer(cpuinfo))
    done = subprocess.CompletedProcess
    monkeypatch.setattr(subprocess, "run", lambda command, **options: done(command, 0, answer(sysctl)))
    assert doctor.processor() == told
