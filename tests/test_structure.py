"""Functions stay small: few parameters in the kernels, and bodies that fit a screen."""

import ast
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
MOST_PARAMETERS, MOST_LINES = 8, 60

# Signatures that are interfaces: arrays and scalars that Python or compiled code passes one by one, such as C functions
# and those in a table of addresses.
INTERFACES = {
    "kernels/ops/gemm.py": ["product"],
    "kernels/ops/loss_rules.py": ["custom"],
    "kernels/ops/losses.py": ["custom_array.run"],
    "kernels/optim/update.py": ["update"],
    "kernels/program/interpreter.py": ["backward"],
    "kernels/simd/microkernel.py": ["multiply_tile"],
    "kernels/training/members.py": ["member_losses"],
    "kernels/training/shards.py": ["minimise_elsewhere", "shard_equations", "shard_gradients"],
    "kernels/training/step.py": ["train_step", "train_steps"],
}
# Formulas, whose arguments are the letters in them.
FORMULAS = {"kernels/optim/rules.py": ["adam", "amsgrad"]}
# What is still to be cut: this list only becomes shorter.
TOO_LONG: dict[str, list[str]] = {}


def functions(folder):
    """(file, qualified name, node) of each function in a folder."""

    def of(node, names):
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            inner = [*names, child.name] if named else names
            if named and not isinstance(child, ast.ClassDef):
                yield ".".join(inner), child
            yield from of(child, inner)

    for path in sorted((TOP / folder).rglob("*.py")):
        for name, node in of(ast.parse(path.read_text()), []):
            yield path.relative_to(TOP).as_posix(), name, node


def n_parameters(node):
    a = node.args
    return len([*a.posonlyargs, *a.args, *a.kwonlyargs])


def code_lines(node):
    """Lines of a function with code, those of its docstring and of functions inside it apart."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    inner = {
        line
        for statement in body
        for child in ast.walk(statement)
        if isinstance(child, ast.FunctionDef | ast.ClassDef)
        for line in range(child.lineno, child.end_lineno + 1)
    }
    leaves = (child for statement in body for child in ast.walk(statement) if hasattr(child, "lineno"))
    return len({line for child in leaves for line in (child.lineno, child.end_lineno)} - inner)


def listed(found):
    result: dict[str, list[str]] = {}
    for path, name in found:
        result.setdefault(path, []).append(name)
    return result


def test_parameters_of_kernels():
    """A function of more than eight takes a named tuple instead, unless it is an interface."""
    many = [(path, name) for path, name, node in functions("kernels") if n_parameters(node) > MOST_PARAMETERS]
    allowed = [(path, name) for known in (INTERFACES, FORMULAS) for path in known for name in known[path]]
    assert sorted(many) == sorted(allowed)


@pytest.mark.parametrize("folder", ["kernels", "fastfc"])
def test_lengths(folder):
    """A longer function does several things, which could be tested one by one."""
    long = [(path, name) for path, name, node in functions(folder) if code_lines(node) > MOST_LINES]
    assert listed(long) == {path: names for path, names in TOO_LONG.items() if path.startswith(folder)}


def test_counts():
    """The counts themselves: parameters of all kinds; lines without docstrings, comments and inner functions."""
    source = '''
def f(a, /, b, *c, d=1, **e):
    """Two
    lines."""
    # a comment
    def inner():
        return 1

    x = [
        a,
        b,
    ]
    return x
'''
    node = ast.parse(source).body[0]
    assert n_parameters(node) == 3
    assert code_lines(node) == 5
