"""Packages that some features use and the core does without."""

from __future__ import annotations

import importlib
from typing import Any


def extra(module: str, name: str, owner: str) -> Any:
    """The module, imported; where it is missing, an ImportError that names the extra which installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"{owner} needs {package}: pip install 'fastfc[{name}]'") from error
