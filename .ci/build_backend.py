"""Builds by setuptools, whose editable install is made of folders alone.

Setuptools maps `fastfc.kernels` to kernels/ by an import hook, which pyright, mypy and VS Code do not run. Two folders
on the search path say the same: the repository has `fastfc`, and .ci/editable has a link to kernels/ where these tools
look for `fastfc.kernels`. Python finds kernels/ by `fastfc/__init__.py`, on systems without links too.
"""

import base64
import hashlib
import io
import tarfile
import tempfile
import zipfile
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

ROOT = Path(__file__).parent.parent
WHEEL = "Wheel-Version: 1.0\nGenerator: fastfc\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    """A wheel of metadata and a .pth file."""
    with tempfile.TemporaryDirectory() as folder:
        info = Path(folder, prepare_metadata_for_build_editable(folder, config_settings))
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in info.rglob("*") if path.is_file()}
    release = info.name.removesuffix(".dist-info")
    files[f"{info.name}/WHEEL"] = WHEEL.encode()
    files[f"__editable__.{release}.pth"] = f"{ROOT}\n{ROOT / '.ci' / 'editable'}\n".encode()
    record = [f"{name},sha256={digest(data)},{len(data)}\n" for name, data in files.items()]
    files[f"{info.name}/RECORD"] = "".join([*record, f"{info.name}/RECORD,,\n"]).encode()
    wheel = f"{release}-py3-none-any.whl"
    with zipfile.ZipFile(Path(wheel_directory, wheel), "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return wheel


def digest(data):
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def build_sdist(sdist_directory, config_settings=None):
    """Setuptools' archive, and this file, without which nothing can be built from it."""
    name = build_meta.build_sdist(sdist_directory, config_settings)
    path = Path(sdist_directory, name)
    with tarfile.open(path) as archive:
        members = [(member, archive.extractfile(member)) for member in archive.getmembers()]
        contents = [(member, file and file.read()) for member, file in members]
    own = tarfile.TarInfo(f"{name.removesuffix('.tar.gz')}/.ci/{Path(__file__).name}")
    text = Path(__file__).read_bytes()
    own.size = len(text)
    with tarfile.open(path, "w:gz") as archive:
        for member, data in [*contents, (own, text)]:
            archive.addfile(member, None if data is None else io.BytesIO(data))
    return name
