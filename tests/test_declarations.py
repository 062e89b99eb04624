"""What a new activation, loss, optimizer or layer is missing from is named, table by table."""

from pathlib import Path

import examples
import numpy as np
import pytest
from test_table import FORMULAS, snake

import fastfc as fc
from fastfc import losses, reference
from fastfc.io import checkpoint
from fastfc.io import torch as to_torch
from fastfc.io.onnx import reader, values, writer
from fastfc.kernels.ops import activation_rules, loss_rules
from fastfc.kernels.optim import rules
from fastfc.losses import Loss
from fastfc.nn import activations
from fastfc.nn.activations import Activation
from fastfc.nn.layer import Layer
from fastfc.optim.base import Optimizer
from fastfc.training import outputs

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
NETWORKS = {"Sequential", "Graph", "MLP"}
# layers of yours, which no file can hold
YOURS = {"Elementwise", "CustomLoss"}
# what is read from ONNX as another layer: nothing, or the general form
READ_AS_OTHERS = {
    *("Identity", "ReLU6", "Tied", "Parametric", "NumericEmbedding", "Scale", "RobustScale", "QuantileNormal", "Clamp"),
}


def public(kind):
    found = (getattr(fc, name) for name in fc.__all__)
    return [thing for thing in found if isinstance(thing, type) and issubclass(thing, kind)]


def common(kind, of_examples):
    return {
        "fastfc.__all__": kind.__name__ in fc.__all__,
        "README.md": f"`{kind.__name__}`" in README,
        f"tests/examples.py: {of_examples} (nopython code, PyTorch, files, determinism)": kind.__name__
        in {row if isinstance(row, str) else row[0] for row in getattr(examples, of_examples)},
    }


def of_layer(kind):
    """The tables of files and exporters."""
    found = {}
    if kind.__name__ not in YOURS:
        found["fastfc/io/checkpoint.py: LAYERS"] = checkpoint.LAYERS.get(kind.__name__) is kind
        found["fastfc/io/onnx/writer.py: WRITERS or SAME"] = kind in writer.WRITERS or kind in writer.SAME
        found["fastfc/io/torch.py: KINDS"] = kind.__name__ in {*to_torch.NO_MODULE, *to_torch.KINDS}
    return found


def of_activation(kind):
    if kind.__name__ in YOURS:
        return common(kind, "ACTIVATIONS")
    name = kind().name
    is_read = name in reader.BUILT or kind.__name__ in READ_AS_OTHERS
    return {
        **common(kind, "ACTIVATIONS"),
        **of_layer(kind),
        "kernels/ops/activation_rules.py: activation(…)": name in activation_rules.ACTIVATIONS,
        "fastfc/reference.py: ACTIVATIONS": name in reference.ACTIVATIONS,
        "fastfc/reference.py: DERIVATIVES": name in reference.DERIVATIVES,
        "fastfc/nn/activations.py: ACTIVATIONS": name in activations.ACTIVATIONS,
        "fastfc/io/onnx/reader.py: BUILT": is_read,
        "fastfc/io/onnx/values.py: ACTIVATIONS": kind.__name__ in READ_AS_OTHERS
        or "softmax" in name
        or name in values.ELEMENTWISE,
    }


def of_loss(kind):
    found = common(kind, "LOSSES")
    if kind in (fc.MultiLoss, fc.MemberLoss):
        return {where: there for where, there in found.items() if "examples" not in where}
    code = getattr(kind, "code", None)  # some decide by their arguments
    found["kernels/ops/loss_rules.py: pointwise_loss(…) or row_loss(…)"] = (
        not isinstance(code, int) or bool(code & loss_rules.EAGER) or loss_rules.kernel_of(code) is not None
    )
    found["fastfc/losses/__init__.py: __all__"] = kind.__name__ in losses.__all__
    found["fastfc/training/outputs.py: TAKEN"] = kind in outputs.TAKEN
    if kind.__name__ not in YOURS:
        found["fastfc/reference.py"] = hasattr(reference, snake(kind.__name__))
    return found


def of_optimizer(kind):
    code = kind().code
    formula = FORMULAS.get(kind.__name__, snake(kind.__name__))
    return {
        **common(kind, "OPTIMIZERS"),
        "kernels/optim/rules.py: rule(…)": code >= rules.LBFGS or code & rules.NUMBER in rules.RULES.kernels,
        "fastfc/reference.py": hasattr(reference, formula),
        "fastfc/io/checkpoint.py: OPTIMIZERS": checkpoint.OPTIMIZERS.get(kind.__name__) is kind,
    }


def tells_shapes(kind):
    """Whether the class knows the tensors that its layers have, in its example and of other arguments."""
    if kind.__name__ not in examples.LAYERS:
        return False
    layers = [layer for layer in examples.LAYERS[kind.__name__](np.float64).layers if type(layer) is kind]
    if kind.__name__ in examples.OF_FEATURES:
        layers += [kind(**options) for name, options in examples.MORE_LAYERS if name == kind.__name__]
    for layer in layers:
        options = checkpoint.options(layer) | {"layer": getattr(layer, "layer", None)}
        if kind.tensor_shapes(options) != {name: values.shape for name, values in checkpoint.arrays(layer)}:
            return False
    return bool(layers)


def of_other_layer(kind):
    found = common(kind, "LAYERS")
    if kind.__name__ in NETWORKS:
        return found
    formula = FORMULAS.get(kind.__name__, "")
    return {
        **found,
        **of_layer(kind),
        "the class: tensor_shapes": tells_shapes(kind),
        "tests/examples.py: MORE_LAYERS": kind.__name__ in {name for name, _ in examples.MORE_LAYERS},
        "fastfc/reference.py, by tests/test_table.py: FORMULAS": hasattr(reference, formula),
        "fastfc/io/onnx/reader.py: BUILT": snake(kind.__name__.removesuffix("1d")).replace("re_lu", "relu")
        in reader.BUILT
        or kind.__name__ in READ_AS_OTHERS,
    }


def missing(kind):
    """The tables that lack a class."""
    of = next(
        of
        for base, of in [
            (Activation, of_activation),
            (Loss, of_loss),
            (Optimizer, of_optimizer),
            (Layer, of_other_layer),
        ]
        if issubclass(kind, base)
    )
    return [where for where, is_there in of(kind).items() if not is_there]


@pytest.mark.parametrize("kind", [kind for base in (Layer, Loss, Optimizer) for kind in public(base)])
def test_every_public_class_is_in_all_tables(kind):
    assert missing(kind) == []


class NewActivation(Activation):
    name = "new_activation"


class NewLoss(Loss):
    code = 100

    def __init__(self):
        super().__init__("mean")


class NewOptimizer(Optimizer):
    code = 100

    def __init__(self):
        super().__init__(("lr", 0.1))


class NewLayer(Layer):
    pass


COMMON = ["fastfc.__all__", "README.md", "tests/examples.py"]
IO = ["fastfc/io/checkpoint.py: LAYERS", "fastfc/io/onnx/writer.py", "fastfc/io/torch.py", "fastfc/io/onnx/reader.py"]


@pytest.mark.parametrize(
    "kind, tables",
    [
        (
            NewActivation,
            [
                *COMMON,
                *IO,
                "kernels/ops/activation_rules.py",
                "fastfc/reference.py: ACTIVATIONS",
                "fastfc/reference.py: DERIVATIVES",
                "fastfc/nn/activations.py",
                "fastfc/io/onnx/values.py",
            ],
        ),
        (
            NewLoss,
            [*COMMON, "kernels/ops/loss_rules.py", "losses/__init__.py", "training/outputs.py", "fastfc/reference.py"],
        ),
        (NewOptimizer, [*COMMON, "kernels/optim/rules.py", "fastfc/reference.py", "io/checkpoint.py: OPTIMIZERS"]),
        (NewLayer, [*COMMON, *IO, "tensor_shapes", "tests/examples.py: MORE_LAYERS", "fastfc/reference.py"]),
    ],
)
def test_a_new_class_is_told_where_it_is_missing(kind, tables):
    found = missing(kind)
    assert len(found) == len(tables), found
    for table in tables:
        assert any(table in where for where in found), table
