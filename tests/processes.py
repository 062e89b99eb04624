"""Python in another process, with the fastfc of this one."""

import os
import subprocess
import sys
from pathlib import Path

import fastfc

HERE = str(Path(__file__).parent)
ROOT = str(Path(fastfc.__file__).parents[1])


def start(code, path=ROOT, **environment):
    """Run code with the fastfc in `path`, and environment variables on top of those of this process."""
    paths = os.pathsep.join([path, HERE])
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        env=os.environ | {"PYTHONPATH": paths} | {name: str(value) for name, value in environment.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, timeout=300):
    """What the process printed; its errors if it failed."""
    output, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, f"exit status {process.returncode}\n{output}\n{errors}"
    return output, errors


def run(code, path=ROOT, **environment):
    return finish(start(code, path, **environment))
