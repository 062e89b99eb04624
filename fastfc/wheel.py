"""A wheel with kernels inside, for one Python and one kind of system: `FASTFC_KERNELS=FOLDER pip wheel .`

The folder is what `fastfc warmup --out FOLDER` makes. Without the variable the wheel is pure Python. Only setuptools
imports this module, and this module nothing of fastfc.
"""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parents[1]
KERNELS = os.environ.get("FASTFC_KERNELS", "")


def hash_of_sources() -> str:
    """As in fastfc.kernels.runtime.cache."""
    digest, top = hashlib.sha256(), ROOT / "kernels"
    for path in sorted(top.rglob("*.py")):
        digest.update(path.relative_to(top).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def kernels() -> list[Path]:
    """The files to put in; an error if the wheel could not use them."""
    here = {"kernel sources": hash_of_sources(), "Python": f"{sys.implementation.cache_tag}{sys.abiflags}"}
    found = sorted(Path(KERNELS).glob("*/about.json"))
    if not found:
        raise SystemExit(f"FASTFC_KERNELS: {KERNELS} holds no kernels; fastfc warmup --out {KERNELS} makes them")
    for about in found:
        there = json.loads(about.read_text())
        for name, value in here.items():
            if there.get(name) != value:
                raise SystemExit(f"FASTFC_KERNELS: {about.parent} was made with another {name}; make it anew")
    return [path for about in found for path in about.parent.iterdir()]


class BuildPy(build_py):
    def run(self) -> None:
        super().run()
        inside = Path(self.build_lib, "fastfc", "kernels", "compiled")
        shutil.rmtree(inside, ignore_errors=True)  # of a build before
        for path in kernels() if KERNELS else []:
            (inside / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, inside / path.parent.name)


class BdistWheel(bdist_wheel):
    def finalize_options(self) -> None:
        if KERNELS:  # machine code, as that of extension modules is
            self.distribution.has_ext_modules = lambda: True
        super().finalize_options()
