import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 300  # for each reader


@pytest.mark.soak
@pytest.mark.parametrize("reader", ["checkpoint", "onnx", "csv"])
def test_no_file_is_read_wrongly(reader, tmp_path):
    pytest.importorskip("atheris")
    command = [sys.executable, Path(__file__).with_name("fuzz_readers.py"), reader]
    limits = [f"-max_total_time={SECONDS}", "-rss_limit_mb=4096", "-timeout=10"]
    done = subprocess.run([*command, *limits], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-5000:]
    print(reader, done.stdout.splitlines()[-1], done.stderr.splitlines()[-1])
