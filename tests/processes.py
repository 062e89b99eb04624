"""Python in another process, with the fastfc of this one."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import fastfc

HERE = str(Path(__file__).parent)
ROOT = str(Path(fastfc.__file__).parents[1])


def start(code, path=ROOT, stderr=subprocess.PIPE, **environment):
    """Run code with the fastfc in `path`, and environment variables on top of those of this process."""
    paths = os.pathsep.join([path, HERE])
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        env=os.environ | {"PYTHONPATH": paths} | {name: str(value) for name, value in environment.items()},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def finish(process, timeout=300):
    """What the process printed; its errors if it failed."""
    output, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, f"exit status {process.returncode}\n{output}\n{errors}"
    return output, errors


def run(code, path=ROOT, **environment):
    return finish(start(code, path, **environment))


def run_in_terminal(code, columns=120, **environment):
    """What a process printed, and what a terminal of this width got as its stderr. Skips where there is none."""
    fcntl, pty, termios = map(pytest.importorskip, ("fcntl", "pty", "termios"))
    mine, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    process = start(code, stderr=its, **environment)
    os.close(its)
    errors = b""
    with os.fdopen(mine, "rb", buffering=0) as terminal:
        try:
            while chunk := terminal.read(4096):
                errors += chunk
        except OSError:  # the other end is closed
            pass
    output, _ = process.communicate(timeout=300)
    return process.returncode, output, errors.decode()
