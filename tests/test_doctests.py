"""The examples in the docstrings.

pytest's own collector names a file after its folder and would import kernels/ a second time as
`kernels`; here every module is the installed one.
"""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import fastfc
import fastfc.kernels

MODULES = ["fastfc"] + [
    module.name
    for package in (fastfc, fastfc.kernels)
    for module in pkgutil.walk_packages(package.__path__[:1], package.__name__ + ".")
    if module.name != "fastfc.__main__"
]


@pytest.mark.parametrize("name", dict.fromkeys([*MODULES, "fastfc.kernels"]))
def test_examples(name, tmp_path, monkeypatch):
    if name in ("fastfc.io.torch", "fastfc.io.torch_modules"):
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(importlib.import_module(name), optionflags=flags).failed == 0


@pytest.mark.parametrize("name", fastfc.__all__)
def test_every_public_class_and_function_has_an_example(name):
    thing = getattr(fastfc, name)
    assert inspect.ismodule(thing) or ">>> " in thing.__doc__
