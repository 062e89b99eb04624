"""Every public name has a formula, a docstring with its source, a test, and is the same in nopython code."""

import ast
import copy
import functools
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from arrays import normal
from examples import ACTIVATIONS, LAYERS, LOSSES, OF_FEATURES, OPTIMIZERS, WIDTH, N, classes, ids, inputs, numbers
from nopython_code import run, train_step, train_two
from numpy.testing import assert_array_equal

import fastfc as fc
from fastfc import reference
from fastfc.losses import Loss
from fastfc.metrics import BY_NAME as METRICS
from fastfc.nn.activations import Activation
from fastfc.nn.initializers import BaseInitializer
from fastfc.nn.layer import Layer
from fastfc.optim.base import Optimizer
from fastfc.optim.schedules import Schedule


def of_kind(kind):
    return [name for name in fc.__all__ if inspect.isclass(getattr(fc, name)) and issubclass(getattr(fc, name), kind)]


def snake(name):
    """BCEWithLogitsLoss is bce_with_logits_loss."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


# The reference of each public name, in reference.py.
FORMULAS = {
    **{name: snake(name) for name in of_kind(Loss)},
    **{name: f"SCHEDULES {name}" for name in of_kind(Schedule)},
    **{name: f"VARIANCES {getattr(fc, name).__name__}" for name in of_kind(BaseInitializer)},
    "SGD": "sgd",
    "Adam": "adam",
    "AdamW": "adam",
    "NAdam": "nadam",
    "RMSprop": "rmsprop",
    "Adagrad": "adagrad",
    "Lion": "lion",
    "LBFGS": "lbfgs_direction",
    "LevenbergMarquardt": "levenberg_marquardt",
    "Linear": "dense_forward",
    "Tied": "dense_input_grad",
    **{name: snake(name.removesuffix("1d")) for name in OF_FEATURES},
    "Dropout": "dropout_mask",
    "Embedding": "embedding",
    "NumericEmbedding": "numeric_embedding",
    "Parametric": "parametric",
    "PReLU": "p_relu",
    "BatchEnsemble": "batch_ensemble",
    "LinearEnsemble": "linear_ensemble",
    "MemberMean": "member_mean",
    "Sequential": "train_step",
    "MLP": "train_step",
    "Accuracy": "METRICS accuracy",
    "TopK": "METRICS top_k_accuracy",
    "F1": "METRICS f1",
}
for name in of_kind(Activation):
    layer = getattr(fc, name)
    FORMULAS |= {name: f"ACTIVATIONS {layer().name if name != 'Elementwise' else ''}"}

# What has none: functions of yours, what is made of others, a rule of Python's own numbers, and what is not a formula.
YOURS = {"Elementwise", "CustomLoss"}
COMPOSED = {"Graph", "Input", "concatenate", "MultiLoss", "MemberLoss", "Ensemble"}
PLAIN = {"ReduceLROnPlateau", "EarlyStopping"}
TOOLS = {"Callback", "DivergenceWarning", "History", "check_gradients", "numerical_gradient"}
FILES = {"load", "load_checkpoint", "load_state_dict", "from_onnx", "from_sklearn", "from_torch"}
DATA = {name for name in fc.__all__ if name.startswith("load_")} - FILES
for name in YOURS | COMPOSED:
    FORMULAS.pop(name, None)
PUBLIC = [name for name in fc.__all__ if not inspect.ismodule(getattr(fc, name))]


def test_all_public_names_are_classified():
    groups = [set(FORMULAS), YOURS, COMPOSED, PLAIN, TOOLS, FILES, DATA]
    assert set(PUBLIC) == set().union(*groups)
    assert len(PUBLIC) == sum(map(len, groups))


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name):
    table, _, row = FORMULAS[name].rpartition(" ")
    assert row in getattr(reference, table) if table else callable(getattr(reference, row))
    if table == "ACTIVATIONS":
        assert row in reference.DERIVATIVES


@pytest.mark.parametrize("name", METRICS)
def test_formula_of_a_metric(name):
    assert name.partition("_m")[0].partition("_w")[0] in reference.METRICS


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring(name):
    text = inspect.getdoc(getattr(fc, name))
    assert re.search("^Examples\n--------\n(.*\n)*>>> ", text, re.MULTILINE)
    if name in TOOLS | FILES | DATA:
        return
    definition = re.split(r"^(?:Parameters|References|Examples)\n---", text, flags=re.MULTILINE)[0]
    if name in set(FORMULAS) - {"Sequential", "MLP"}:
        assert re.search(r"[=←∝≤−±√·]", definition)
    if name not in YOURS | COMPOSED | {"Sequential", "MLP"}:
        assert "References\n" in text or re.search(r"torch\.(nn|optim)\.", text)


def parameters(name):
    thing = getattr(fc, name)
    is_warning = inspect.isclass(thing) and issubclass(thing, Warning)
    return [] if is_warning else list(inspect.signature(thing).parameters)


@pytest.mark.parametrize("name", [name for name in PUBLIC if parameters(name) and name not in DATA])
def test_docstring_tells_parameters_and_errors(name):
    text = inspect.getdoc(getattr(fc, name))
    section = re.search(r"^Parameters\n-+\n(.*?)(?=\n\n\w[\w ]*\n-|\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, "there is no section Parameters"
    missing = [word for word in parameters(name) if not re.search(rf"\b{word}\b", section[1])]
    assert missing == []
    assert re.search("^Raises\n------\n", text, re.MULTILINE)
    if inspect.isfunction(getattr(fc, name)) and inspect.signature(getattr(fc, name)).return_annotation != "None":
        assert re.search("^Returns\n-------\n", text, re.MULTILINE)


LAYER = ["predict", "predict_one", "forward", "backward", "update_parameters"]


@pytest.mark.parametrize("name", [*LAYER, "train_step", "fit", "evaluate", "find_lr", "plot"])
def test_docstring_of_a_method(name):
    text = inspect.getdoc(getattr(fc.Sequential, name))
    for section in ("Parameters", "Raises", "Examples"):
        assert re.search(f"^{section}\n---", text, re.MULTILINE), section


REQUIRED = {
    **dict.fromkeys([*OF_FEATURES, "Input", "StepLR", "FlatCosineLR", "CosLogLR", "LinearWarmup"], (2,)),
    **dict.fromkeys(["CosineAnnealingLR", "CosineAnnealingWarmRestarts", "Constant", "TopK"], (2,)),
    **dict.fromkeys(["MultiStepLR", "MLP"], ([2, 3],)),
    **dict.fromkeys(["Linear", "Embedding"], (3, 2)),
    "ExponentialLR": (0.5,),
    "OneCycleLR": (0.1, 10),
    "Tied": (fc.Linear(2, 2),),
    "Parametric": ("relu", 2),
    "NumericEmbedding": (2,),
    "MultiLoss": ([fc.MSELoss()],),
    "MemberLoss": (fc.MSELoss(), 2),
    **dict.fromkeys(["BatchEnsemble", "LinearEnsemble"], (3, 2, 2)),
    "MemberMean": (3, 2),
    "Ensemble": (lambda seed: fc.MLP([2, 2], seed=seed), 2),
}
COMPUTING = {"Sequential", "Graph", "concatenate", "check_gradients", "numerical_gradient"}


@pytest.mark.parametrize(
    "name", sorted({name for name in PUBLIC if parameters(name)} - YOURS - DATA - FILES - COMPUTING)
)
def test_wrong_parameters_are_refused(name):
    thing, words = getattr(fc, name), inspect.signature(getattr(fc, name)).parameters.values()
    thing(*REQUIRED.get(name, ()))
    for word in words:
        if word.default is not word.empty and word.name != "name":
            with pytest.raises((TypeError, ValueError)):
                thing(*REQUIRED.get(name, ()), **{word.name: object()})


@functools.cache
def names_in_tests():
    """Names and strings in the other test files."""
    found = set()
    for file in set(Path(__file__).parent.glob("test_*.py")) - {Path(__file__)}:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Name):
                found.add(node.id)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PUBLIC)
def test_is_in_the_readme(name):
    assert f"`{name}`" in README


@pytest.mark.parametrize("name", PUBLIC)
def test_is_tested(name):
    also = getattr(fc, name)().name if name in of_kind(Activation) and name not in YOURS else name
    assert name in names_in_tests() or also in names_in_tests()


def assert_nopython_is_python(make, x, y, loss, optimizer):
    """Everything a network does, with the same bits."""
    net, twin, other = make(), make(), copy.deepcopy(optimizer)
    x, y = x.astype(np.float32), y.astype(np.float32) if y.ndim == 2 else y
    net.reserve(N)
    g = normal((N, net.out_features), np.float32, 5)
    for ours, theirs in zip(run(net, x, g), (twin.predict(x), twin.forward(x), twin.backward(g)), strict=True):
        assert_array_equal(ours, theirs)
    assert_array_equal(net.grads, twin.grads)
    optimizer.prepare(net)
    for _ in range(3):
        assert train_step(net, x, y, loss, optimizer) == twin.train_step(x, y, loss, other)
    assert_array_equal(net.params, twin.params)
    assert_array_equal(net.grads, twin.grads)
    assert_array_equal(optimizer.state, other.state)
    assert_array_equal(optimizer.count, other.count)
    assert not np.array_equal(net.params, make().params)


def chain(*layers):
    return lambda: fc.Sequential([fc.Linear(WIDTH, WIDTH, seed=0), *(layer() for layer in layers)])


def test_nopython_covers_the_public_table():
    for kind, examples, others in [
        (Activation, ACTIVATIONS, set()),
        (Loss, LOSSES, {"MultiLoss", "MemberLoss"}),
        (Optimizer, OPTIMIZERS, set()),
    ]:
        assert set(of_kind(kind)) == {name for name, *_ in examples} | others
    assert set(of_kind(Layer)) | {"MLP"} == set(of_kind(Activation)) | set(LAYERS)


@pytest.mark.parametrize("name, settings", ACTIVATIONS, ids=ids(ACTIVATIONS))
def test_activation_in_nopython_code(name, settings):
    layer = lambda: getattr(fc, name)(**settings)
    make = chain(layer, lambda: fc.Linear(WIDTH, WIDTH, seed=1), layer)
    assert_nopython_is_python(make, numbers(0), numbers(1), fc.MSELoss(), fc.SGD(0.1))


@pytest.mark.parametrize("name, settings, last, targets", LOSSES, ids=ids(LOSSES))
def test_loss_in_nopython_code(name, settings, last, targets):
    loss = getattr(fc, name)(**settings)
    assert_nopython_is_python(chain(last), numbers(0), targets(1), loss, fc.SGD(0.1))


def test_several_losses_in_nopython_code():
    def make():
        x = fc.Input(WIDTH)
        return fc.Graph(x, [fc.Linear(WIDTH, 3, seed=0)(x), fc.Linear(WIDTH, WIDTH, seed=1)(x)])

    net, twin, x, y = make(), make(), numbers(0).astype(np.float32), classes(1) % 3
    loss = fc.MultiLoss([fc.CrossEntropyLoss(), fc.MSELoss()], weights=[1, 0.5])
    expected = twin.train_step(x, (y, x), loss, fc.SGD(0.1))
    net.reserve(N)
    assert train_two(net, x, y, x, loss, fc.SGD(0.1)) == expected
    assert_array_equal(net.params, twin.params)


@pytest.mark.parametrize("name, settings", OPTIMIZERS, ids=ids(OPTIMIZERS))
def test_optimizer_in_nopython_code(name, settings):
    make = chain(fc.Tanh, lambda: fc.Linear(WIDTH, WIDTH, seed=1))
    assert_nopython_is_python(make, numbers(0), numbers(1), fc.MSELoss(), getattr(fc, name)(**settings))


@pytest.mark.parametrize("name", LAYERS)
def test_layer_in_nopython_code(name):
    make = lambda: LAYERS[name](np.float32)
    assert_nopython_is_python(make, inputs(name, 0), numbers(1), fc.MSELoss(), fc.SGD(0.1))


def test_nopython_code_was_compiled_once_for_all():
    """The types hold no names: what was compiled for the first of each was used for all."""
    of_a_network = [signature for signature in train_step.signatures if "float32" in str(signature[1])]
    assert len({str(signature[0]) for signature in of_a_network}) <= 1
    assert len([signature for signature in run.signatures if "float32" in str(signature[1])]) <= 1
