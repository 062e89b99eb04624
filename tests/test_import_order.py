"""Imports point one way, also those inside functions and those for typing."""

import ast
import functools
import itertools
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A package imports itself and what stands in the lines before its own.
PACKAGES = """
    kernels
    _version attributes extras frames html reference wheel
    validation
    ranks
    data plots
    losses nn metrics
    optim
    training io nopython
    models
    sklearn tabular
    __init__
    benchmark
    cli
    __main__
"""
KERNELS = """
    simd
    runtime
    ops optim machine
    program
    training
    __init__
"""


def ranks(lines):
    return {name: rank for rank, line in enumerate(lines.split("\n")) for name in line.split()}


def module(path):
    """The name of a file, as it is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "fastfc" else ("fastfc", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module(path): path for folder in ("fastfc", "kernels") for path in sorted((ROOT / folder).rglob("*.py"))}


def imports(source, package):
    """Names of the modules of fastfc that a source imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "fastfc")
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: 1 - node.level or None] if node.level else []
            name = ".".join([*base, *filter(None, [node.module])])
            if name.split(".")[0] == "fastfc":
                for alias in node.names:
                    yield f"{name}.{alias.name}" if f"{name}.{alias.name}" in FILES else name


def package_of(name):
    return name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]


@functools.cache
def graph():
    """For each module the modules that it imports."""
    return {
        name: set(imports(path.read_text(encoding="utf-8"), package_of(name))) - {name} for name, path in FILES.items()
    }


def place(name):
    """Where a module stands in the order: its package, its rank; in kernels those of the folder there."""
    first, *rest = name.split(".")[1:] or ["__init__"]
    return (first, ranks(PACKAGES)[first]) if first != "kernels" else ("kernels", ranks(PACKAGES)["kernels"], *rest[:1])


def against(importer, imported):
    """Whether an import points the wrong way."""
    here, there = place(importer), place(imported)
    if here[0] == there[0] == "kernels":
        folder, other = ((*names, "__init__")[2] for names in (here, there))
        rank = ranks(KERNELS)
        return folder != other and rank[other] >= rank[folder]
    return here[0] != there[0] and there[1] >= here[1]


@pytest.mark.parametrize("name", FILES)
def test_imports_point_one_way(name):
    assert {imported for imported in graph()[name] if against(name, imported)} == set()


def test_no_files_import_each_other_in_a_circle():
    """Before the packages, 18 files of fastfc did, by imports inside functions and for typing."""
    left = {name: imported & graph().keys() for name, imported in graph().items()}
    while free := {name for name, imported in left.items() if not imported & left.keys()}:
        left = {name: imported for name, imported in left.items() if name not in free}
    assert left == {}


def test_a_wrong_import_is_seen_wherever_it_stands():
    for source in ("import fastfc.cli.main", "def f():\n    from fastfc.cli import main", "from ..cli import main"):
        assert any(against("fastfc.nn.linear", name) for name in imports(source, "fastfc.nn"))
    assert against("fastfc.kernels.simd.isa", "fastfc.kernels.ops.gemm")
    assert not against("fastfc.nn.linear", "fastfc.kernels.ops.gemm")


def test_every_package_has_its_place():
    """A new room is entered into the order; an old one leaves it."""
    known = set(ranks(PACKAGES)) | {"kernels"}
    assert {place(name)[0] for name in FILES} == known
    rooms = {[*name.split("."), "__init__"][2] for name in FILES if name.startswith("fastfc.kernels")}
    assert rooms == set(ranks(KERNELS))
    assert len(list(itertools.chain(*map(str.split, PACKAGES.split("\n"))))) == len(known)
