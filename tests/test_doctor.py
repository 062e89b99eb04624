import re

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


def test_processor_is_told():
    assert doctor.processor()
