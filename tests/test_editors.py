"""Type checkers, and editors by them, know `fastfc` and `fastfc.kernels` where they are installed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "user_program.py"
CACHE = Path(__file__).parent.parent / ".mypy_cache" / "user_program"


def told(command, folder):
    """What a checker writes, run in a folder without the sources of fastfc."""
    return subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True).stdout


@pytest.mark.slow  # it reads all that fastfc imports
@pytest.mark.parametrize("options", [pytest.param([], id="plain"), pytest.param(["--strict"], id="strict")])
def test_mypy_finds_nothing_in_a_users_program(options, tmp_path):
    pytest.importorskip("mypy")
    text = told(["mypy", "--config-file=", f"--cache-dir={CACHE}", *options, str(PROGRAM)], tmp_path)
    assert text == "Success: no issues found in 1 source file\n"


@pytest.mark.parametrize("mode", ["standard", "strict"])
def test_pyright_finds_nothing_in_a_users_program(mode, tmp_path):
    pytest.importorskip("pyright")
    shutil.copy(PROGRAM, tmp_path)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": mode}))
    found = json.loads(told(["pyright", "--outputjson", f"--pythonpath={sys.executable}"], tmp_path))
    assert found["summary"]["filesAnalyzed"] == 1
    assert [f"{each['range']['start']['line'] + 1}: {each['message']}" for each in found["generalDiagnostics"]] == []
