import re

import pytest

from fastfc import doctor
from fastfc.cli import main


def test_doctor_tells_every_fact(capsys):
    assert main(["doctor"]) == 0
    facts = {line[:14].strip(): line[14:] for line in capsys.readouterr().out.splitlines()}
    assert list(facts) == [
        "processor",
        "instructions",
        "float32 tile",
        "float64 tile",
        "cores",
        "threading",
        "kernel cache",
        "float32 peak",
        "float64 peak",
        "memory read",
        "versions",
    ]
    assert all(facts.values())
    assert "-bit vectors" in facts["instructions"]
    for dtype in ["float32", "float64"]:
        assert re.fullmatch(r"[1-9]\d* x [1-9]\d*", facts[f"{dtype} tile"])
        assert float(facts[f"{dtype} peak"].split()[0]) > 0
    assert float(facts["memory read"].split()[0]) > 0
    assert "workqueue" in facts["threading"]
    assert "numba" in facts["versions"]


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"cpu.max": "4000 1000", "a/cpu.max": "2000 1000", "a/b/cpu.max": "max 1000"}, 2),
        ("3:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ("3:cpu:/a\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("2:memory:/\n", {}, None),
    ],
    ids=["no limit", "limit", "limit above", "version 1", "version 1, no limit", "no controller"],
)
def test_quota_of_control_groups(tmp_path, membership, files, quota):
    groups = tmp_path / "cgroup"
    for name, text in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(text)
    (tmp_path / "membership").write_text(membership)
    assert doctor.quota(groups, tmp_path / "membership") == quota


def test_quota_without_control_groups(tmp_path):
    assert doctor.quota(tmp_path, tmp_path / "absent") is None


def test_processor_and_cores_are_told():
    assert doctor.processor()
    assert doctor.cores() >= 1
