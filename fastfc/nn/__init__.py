"""Layers, and how a network of them becomes a program for the kernels."""

from typing import Any

from fastfc.attributes import HERE_AND_IN_FASTFC


def __getattr__(name: str) -> Any:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}: {HERE_AND_IN_FASTFC}")
