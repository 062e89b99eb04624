"""No module of fastfc reaches into the underscore members of another object."""

import ast
from pathlib import Path

import pytest

import fastfc as fc

ROOT = Path(__file__).parent.parent / "fastfc"

# What may be reached: of other libraries, and of an object of the same class.
ALLOWED = {
    # of named tuples
    "nn/activations.py": {"_replace"},
    "training/ensemble.py": {"_replace"},
    "training/members.py": {"_replace"},
    "training/outputs.py": {"_replace"},
    "models/ensemble.py": {"_adopt"},  # of an ensemble that is being made
    "training/distributed.py": {"_replace"},
    "training/evaluation.py": {"_replace"},
    "training/fit.py": {"_replace"},
    "nopython.py": {"_getvalue"},  # of Numba's struct proxies
    "plots.py": {"_repr_png_"},  # of IPython's protocol
    "io/torch.py": {"_modules", "_orig_mod", "_forward_pre_hooks"},  # of PyTorch's modules
    "sklearn/convert.py": {"_optimizer"},  # of scikit-learn's estimators
    "benchmark/networks.py": {"_optimizer"},
    # of scikit-learn's estimators; the members of an ensemble are estimators of one class
    "sklearn/estimators.py": {"_parameter_constraints", "_fitting", "_output", "_validate_params"},
    "optim/schedules.py": {"_numbers", "_milestones"},  # of the schedule that a warm-up leads to
}


def foreign(source):
    """(line, name) of each underscore attribute of anything but self, cls and super()."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            of = node.value
            own = isinstance(of, ast.Name) and of.id in ("self", "cls")
            own |= isinstance(of, ast.Call) and isinstance(of.func, ast.Name) and of.func.id == "super"
            if not own:
                yield node.lineno, node.attr


def test_no_module_reaches_into_another_object():
    """158 places did: a change of what a layer kept for itself had to be made in ten files."""
    wrong, used = [], set()
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for line, attribute in foreign(path.read_text(encoding="utf-8")):
            used.add((name, attribute))
            if attribute not in ALLOWED.get(name, ()):
                wrong.append(f"fastfc/{name}:{line}: {attribute}")
    assert not wrong, "\n".join(wrong)
    assert used == {(name, attribute) for name, attributes in ALLOWED.items() for attribute in attributes}


def test_the_check_sees_what_it_is_for():
    source = "self._a; cls._b; super()._c; x.__d__; x._e; self.net._f; f()._g = 1"
    assert [name for _, name in foreign(source)] == ["_e", "_f", "_g"]


OBJECTS = [
    fc.MLP([2, 3, 1]),
    fc.Graph(a := fc.Input(2), fc.ReLU()(a)),
    fc.Linear(2, 1),
    fc.ReLU(),
    fc.Dropout(),
    fc.Adam(),
    fc.LBFGS(),
    fc.MSELoss(),
    a,
]


@pytest.mark.parametrize("thing", OBJECTS, ids=repr)
def test_users_do_not_see_the_internal_interface(thing):
    """Completion in a notebook shows what is for users; what is not can't be assigned either."""
    internal = type(thing).internal_names()
    assert internal >= {"internal_names"}
    assert not internal & set(dir(thing))
    for name in internal - {"rng_step"}:
        assert hasattr(thing, name), name
        with pytest.raises(AttributeError, match=name):
            setattr(thing, name, 1)
