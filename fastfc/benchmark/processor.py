"""The name of the processor, as its system tells it."""

import platform
import subprocess
from pathlib import Path


def linux_processor():
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    return next((line.partition(":")[2] for line in text.splitlines() if line.startswith("model name")), "")


def mac_processor():
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    return subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace").stdout


def processor():
    """Its name."""
    ask = {"Linux": linux_processor, "Darwin": mac_processor}.get(platform.system(), platform.processor)
    try:
        name = ask().strip()
    except OSError:  # no /proc, no sysctl
        name = ""
    return name or platform.processor() or platform.machine()
