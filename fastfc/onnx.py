"""ONNX models as networks: `from_onnx`."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import activations as act
from .checks import FLOATS, listed
from .dropout import Dropout
from .embedding import Embedding
from .extras import extra
from .files import regular
from .graph import Graph, Input, Node, concatenate
from .layers import Layer, Linear, Tied
from .network import Network, Sequential
from .norms import BatchNorm1d, LayerNorm, RMSNorm
from .onnx_operators import OPERATORS, Call
from .onnx_values import WHOLE, Value, inverse, shape_text, width_of
from .standardize import Standardize

OLDEST = 7  # opset: before it, operators broadcast in other ways
# Numbers per sample of one value, and of all: a few bytes of a file cannot claim all memory.
MOST_FEATURES, MOST_NUMBERS = 1 << 24, 1 << 27


def from_onnx(model: Any, *, outputs: Iterable[str] | None = None) -> Network:
    """The network in an ONNX model: as a Sequential where its layers are a chain, else as a Graph.

    Read are Gemm, MatMul, Add, Sub, Mul and Div, with constants and between values, Concat of features, Flatten and
    Reshape to two dimensions, Dropout, LayerNormalization, BatchNormalization, Gather of an embedding, Softmax and
    LogSoftmax along the features, and all activations, also as the formulas that exporters write for them. Inputs
    of more dimensions, such as images, become one of all their features. Factors and shifts that are no part of
    another layer become Standardize layers or gates.

    Parameters
    ----------
    model : str, path-like or onnx.ModelProto
    outputs : iterable of str, optional
        Names of the outputs to read, by default all. Nodes that none of them needs are not looked at.

    Returns
    -------
    Sequential or Graph
        In float32 or float64 as the model; models in float16 are computed in float32.

    Raises
    ------
    ValueError
        If the file is damaged or no valid model; or, naming the node, its operator and why, for everything that is
        not exactly a network of fastfc. Nothing is approximated.

    References
    ----------
    https://onnx.ai/onnx/operators/

    Examples
    --------
    >>> import fastfc as fc
    >>> x = fc.Input(4, name="x")
    >>> fc.Graph(x, x + fc.SiLU()(fc.Linear(4, 4)(x))).to_onnx("residual.onnx")
    >>> fc.from_onnx("residual.onnx")
    Graph(Input(4, 'x'), add(Input(4, 'x'), SiLU()(Linear(4, 4)(Input(4, 'x')))))
    """
    onnx = extra("onnx", "onnx", "from_onnx")
    if outputs is not None:
        outputs = listed(outputs, "from_onnx", "outputs", "['probabilities']")
    what = "the model" if isinstance(model, onnx.ModelProto) else os.fspath(model)
    try:
        return Reader(onnx, load(onnx, model)).network(outputs)
    except (ValueError, OverflowError, MemoryError) as error:
        raise ValueError(f"from_onnx: {what}: {error}") from error


def load(onnx: Any, model: Any) -> Any:
    """The model with all its data, checked."""
    folder = None
    if not isinstance(model, onnx.ModelProto):
        path = Path(regular(model))
        folder, data = path.parent, path.read_bytes()
        try:
            model = onnx.load_model_from_string(data)
        except Exception as error:  # protobuf's own
            raise ValueError(f"damaged, or no ONNX model: {error}") from error
    else:
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        model = copied
    known = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and not OLDEST <= opset.version <= known:
            raise ValueError(f"opset {opset.version} is not supported; from {OLDEST} to {known} are")
    if model.functions:
        try:
            model = extra("onnx.inliner", "onnx", "from_onnx").inline_local_functions(model)
        except Exception as error:
            raise ValueError(f"its functions cannot be inlined: {error}") from error
    for tensor in tensors(onnx, model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            read_external(onnx, tensor, folder)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise ValueError(f"no valid model: {error}") from error
    return model


def tensors(onnx: Any, graph: Any) -> Iterable[Any]:
    """All that the graph holds, but for graphs inside it, which are refused."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors


def read_external(onnx: Any, tensor: Any, folder: Path | None) -> None:
    """Data in a file of its own, which must lie in the model's folder."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    where = f"tensor {tensor.name!r} is in the file {location!r}"
    if folder is None:
        raise ValueError(f"{where}; give the path of the model")
    folder = folder.resolve()
    file = (folder / location).resolve()
    if not location or "\0" in location or not file.is_relative_to(folder):
        raise ValueError(f"{where}, which is not in the model's folder")
    if not file.is_file():
        raise ValueError(f"{where}, which is missing")
    try:
        offset = int(entries.get("offset", 0))
        size = math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        length = int(entries.get("length", size))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where}, with entries that are no numbers: {error}") from error
    if length != size or min(tensor.dims, default=0) < 0 or offset < 0 or offset + size > file.stat().st_size:
        raise ValueError(
            f"{where} of {file.stat().st_size:,} bytes, where bytes {offset:,} to {offset + length:,} should hold its "
            f"shape {tuple(tensor.dims)}"
        )
    with open(file, "rb") as opened:
        opened.seek(offset)
        tensor.raw_data = opened.read(size)
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]


class Reader:
    """Goes through the nodes in the file's order, which is topological: constants are folded, all else is a Value."""

    def __init__(self, onnx: Any, model: Any) -> None:
        self.onnx, self.graph = onnx, model.graph
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), OLDEST)
        kinds = onnx.TensorProto
        single, double = FLOATS
        self.floats: dict[int, np.dtype[Any]] = {kinds.FLOAT16: single, kinds.FLOAT: single, kinds.DOUBLE: double}
        self.integers = (kinds.INT32, kinds.INT64)
        self.initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        self.constants: dict[str, NDArray[Any]] = {}
        self.origins: dict[str, tuple[str, bool]] = {}  # the initializer that a constant is, and whether transposed
        self.values: dict[str, Value] = {}
        self.refused: dict[str, str] = {}  # why, by the name of what cannot be read
        self.inputs: list[Value] = []
        read = [name for node in self.graph.node for name in node.input]
        self.readers = Counter(read + [output.name for output in self.graph.output])

    def network(self, outputs: list[str] | None) -> Network:
        for info in self.graph.input:
            if info.name not in self.initializers:
                self.read_input(info)
        for tensor in self.graph.sparse_initializer:
            name = tensor.values.name
            self.refused[name] = f"initializer {name!r} is sparse, which is not supported"
        for node in self.graph.node:
            try:
                self.read(node)
            except (ValueError, TypeError, OverflowError) as error:
                reason = str(error) if isinstance(error, Inherited) else f"{described(node)}: {error}"
                self.refused.update(dict.fromkeys(filter(None, node.output), reason))
        known = [info.name for info in self.graph.output]
        for name in known if outputs is None else outputs:
            if name not in known:
                raise ValueError(f"there is no output {name!r}, only {', '.join(map(repr, known))}")
        return self.built([self.output(name, known) for name in (known if outputs is None else outputs)])

    def read_input(self, info: Any) -> None:
        name, kind = info.name, info.type.tensor_type
        if not info.type.HasField("tensor_type") or kind.elem_type not in (*self.floats, *self.integers):
            types = {number: name for name, number in self.onnx.TensorProto.DataType.items()}
            what = types.get(kind.elem_type, "no tensor")
            self.refused[name] = f"input {name!r} is {what}; supported are FLOAT, DOUBLE, FLOAT16, INT32 and INT64"
            return
        batch, *shape = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim] or [None]
        if not shape or any(size is not None and size < 1 for size in shape):
            self.refused[name] = f"input {name!r} has shape {[batch, *shape]}; supported is (batch, features)"
            return
        dtype = self.floats.get(kind.elem_type, WHOLE)
        value = Value("input", (), tuple(shape), dtype, {"name": name, "batch": batch}, readers=self.readers[name])
        try:
            self.values[name] = checked(value)
            self.inputs.append(value)
        except ValueError as error:
            self.refused[name] = f"input {name!r}: {error}"

    def read(self, node: Any) -> None:
        for name in node.input:
            if name in self.refused:
                raise Inherited(self.refused[name])
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            raise ValueError(f"this operator is not supported; supported are {', '.join(sorted(OPERATORS))}")
        function, defaults = OPERATORS[node.op_type]
        attributes = dict(defaults)
        for attribute in node.attribute:
            if attribute.name not in defaults:
                supported = f"supported are {', '.join(defaults)}" if defaults else "none is"
                raise ValueError(f"attribute {attribute.name} is not supported; {supported}")
            value = self.onnx.helper.get_attribute_value(attribute)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"attribute {attribute.name} is {value}; it must be finite")
            attributes[attribute.name] = value.decode() if isinstance(value, bytes) else value
        call = Call(self, node)
        result, name = function(call, **attributes), node.output[0]
        if isinstance(result, Value):
            passed = any(result is call.argument(i) for i in range(len(node.input)))
            result.readers += self.readers[name] - passed
            self.values[name] = checked(result)
            place(result, node)
        else:
            self.constants[name] = result
        for other in filter(None, node.output[1:]):
            self.refused[other] = f"{described(node)}: output {other!r} is not supported, only the first one is"

    def constant(self, name: str) -> NDArray[Any] | None:
        if name not in self.constants and name in self.initializers:
            self.constants[name] = self.array(self.initializers[name])
        return self.constants.get(name)

    def array(self, tensor: Any) -> NDArray[Any]:
        try:
            return self.onnx.numpy_helper.to_array(tensor)
        except Exception as error:
            raise ValueError(f"tensor {tensor.name!r} cannot be read: {error}") from error

    def output(self, name: str, known: list[str]) -> Value:
        if name in self.refused:
            others = [other for other in known if other in self.values]
            hint = f"; to read the others, give outputs={others}" if others else ""
            raise ValueError(f"{self.refused[name]}{hint}")
        if name not in self.values:
            raise ValueError(f"output {name!r} is a constant")
        value = self.values[name]
        if len(value.shape) != 1 or value.dtype == np.int64:
            what = f"of shape {shape_text(value.shape)}"
            what += ", of whole numbers" * (value.dtype == np.int64)
            raise ValueError(f"output {name!r} is {what}; supported is (batch, features), of floats")
        return value

    def built(self, ends: list[Value]) -> Network:
        """The network that gives these values."""
        if not ends:
            raise ValueError("there is no output to read")
        needed = in_order(ends)
        for value in needed:
            if value.kind not in BUILT and value.kind not in GATES:
                raise ValueError(
                    f"{described(value.node)}: this operator is supported only as a part of an activation or a norm, "
                    "as exporters write them"
                )
        dtypes = {value.dtype for value in needed if value.kind not in ("input", "cast")}
        if len(dtypes) > 1:
            raise ValueError(f"it computes in {' and '.join(sorted(map(str, dtypes)))}; a network has one dtype")
        numbers = sum(value.width or 0 for value in needed)
        if numbers > MOST_NUMBERS:
            raise ValueError(f"all values together have {numbers:,} numbers per sample; {MOST_NUMBERS:,} are supported")
        reached = set(needed)
        inputs = [value for value in self.inputs if value in reached]
        for value in self.inputs:
            if value not in reached and len(ends) == len(self.graph.output):
                raise ValueError(f"no output needs the input {value['name']!r}; it cannot be an input of a network")
        if len({value["batch"] for value in inputs}) > 1:
            batches = ", ".join(f"{value['name']!r}: {value['batch'] or 'any'}" for value in inputs)
            raise ValueError(f"its inputs have batches of different size, {batches}; make them the same")
        if not inputs:
            raise ValueError("the outputs do not depend on an input")
        read = Counter(other for value in needed for other in value.inputs) + Counter(ends)
        if len(inputs) == 1 and len(ends) == 1 and max(read.values()) == 1:
            layers = self.chain(needed)
            if layers is not None:
                return Sequential(layers or [act.Identity()])
        return self.dag(needed, inputs, ends)

    def chain(self, needed: list[Value]) -> list[Layer] | None:
        """The layers if one follows the other, None if some is there twice or must be a gate."""
        layers: list[Layer] = []
        linear: dict[Any, Linear] = {}
        for value in needed:
            if value.kind in TRANSPARENT:
                continue
            if value.kind == "scale":
                divisor = inverse(np.asarray(value["factor"], value.dtype))
                if divisor is None:
                    return None
                settings = {"mean": np.zeros((), value.dtype), "scale": divisor}
                value = Value("standardize", value.inputs, value.shape, value.dtype, settings, value.node)
            elif value.kind in GATES:
                return None
            layer = made(value)
            if isinstance(layer, Linear):
                name, transposed, alpha = value["key"]
                if value["key"] in linear:
                    return None
                if (name, not transposed, alpha) in linear:
                    tied = Tied(linear[name, not transposed, alpha], layer.bias is not None)
                    if layer.bias is not None:
                        tied.bias = layer.bias
                    layers.append(tied)
                    continue
                linear[value["key"]] = layer
            layers.append(layer)
        return layers

    def dag(self, needed: list[Value], inputs: list[Value], ends: list[Value]) -> Graph:
        nodes: dict[Value, Node] = {}
        linear: dict[Any, Layer] = {}
        for value in inputs:
            if value.width is None:
                raise ValueError(f"input {value['name']!r} has a number of features that is not known")
            nodes[value] = Input(value.width, value["name"])
        for value in needed:
            if value in nodes:
                continue
            read = [nodes[other] for other in value.inputs]
            if value.kind in TRANSPARENT:
                nodes[value] = read[0]
            elif value.kind in GATES:
                nodes[value] = GATES[value.kind](value, read)
            else:
                layer = made(value)
                if isinstance(layer, Linear):
                    known = value["bias"] is None or value["bias_key"] is not None
                    layer = linear.setdefault((value["key"], value["bias_key"]) if known else value, layer)
                nodes[value] = layer(read[0])
        return Graph([nodes[value] for value in inputs], [nodes[value] for value in ends])


class Inherited(ValueError):
    """Why a node that this one reads cannot be read."""


def described(node: Any) -> str:
    name = f"node {node.name!r}" if node.name else f"the node of {node.output[0]!r}"
    return f"{name} ({node.domain + '.' if node.domain else ''}{node.op_type})"


def checked(value: Value) -> Value:
    if value.width is not None and value.width > MOST_FEATURES:
        raise ValueError(f"{value.width:,} numbers per sample; at most {MOST_FEATURES:,} are supported")
    return value


def place(value: Value, node: Any) -> None:
    """Say for all new values that this node gives them."""
    stack = [value]
    while stack:
        value = stack.pop()
        if value.node is None and value.kind != "input":
            value.node = node
            stack += value.inputs


def in_order(ends: list[Value]) -> list[Value]:
    """All that these need, each after what it reads."""
    order: dict[Value, None] = {}
    stack = [(value, False) for value in reversed(ends)]
    while stack:
        value, done = stack.pop()
        if done:
            order[value] = None
        elif value not in order:
            stack.append((value, True))
            stack += [(other, False) for other in reversed(value.inputs)]
    return list(order)


# How values become layers and gates.


def made(value: Value) -> Layer:
    try:
        return BUILT[value.kind](value)
    except ValueError as error:
        raise ValueError(f"{described(value.node)}: {error}") from error


def number(value: float, dtype: np.dtype[Any]) -> float:
    """In float32 the shortest number that is the same there, such as 0.01."""
    return float(str(np.float32(value))) if dtype == np.float32 else float(value)


def make_linear(value: Value) -> Layer:
    weight, bias = value["weight"], value["bias"]
    layer = Linear(weight.shape[0], weight.shape[1], bias is not None, init="zeros", dtype=value.dtype)
    layer.weight = weight
    if bias is not None:
        layer.bias = bias
    return layer


def make_standardize(value: Value) -> Layer:
    layer = Standardize(width_of(value), dtype=value.dtype)
    layer.mean = np.broadcast_to(value["mean"], layer.in_features)
    layer.scale = np.broadcast_to(value["scale"], layer.in_features)
    return layer


def make_layer_norm(value: Value) -> Layer:
    weight, bias, eps = value["weight"], value["bias"], number(value["eps"], value.dtype)
    affine = weight is not None or bias is not None
    layer = LayerNorm(width_of(value), eps, affine, bias is not None, dtype=value.dtype)
    if weight is not None:
        layer.weight = weight
    if bias is not None:
        layer.bias = bias
    return layer


def make_rms_norm(value: Value) -> Layer:
    weight, eps = value["weight"], number(value["eps"], value.dtype)
    own = value["eps"] == np.finfo(value.dtype).eps
    layer = RMSNorm(width_of(value), None if own else eps, weight is not None, dtype=value.dtype)
    if weight is not None:
        layer.weight = weight
    return layer


def make_batch_norm(value: Value) -> Layer:
    momentum = round(1 - value["momentum"], 7)  # a float32
    layer = BatchNorm1d(width_of(value), number(value["eps"], value.dtype), momentum, dtype=value.dtype)
    layer.weight, layer.bias = value["weight"], value["bias"]
    layer.running_mean, layer.running_var = value["mean"], value["variance"]
    return layer


def make_embedding(value: Value) -> Layer:
    weight = value["weight"]
    layer = Embedding(weight.shape[0], weight.shape[1], width_of(value.inputs[0]), init="zeros", dtype=value.dtype)
    layer.weight = weight
    return layer


def make_softplus(value: Value) -> Layer:
    # log(1 + eˣ) is x from there on, in float64 later than in float32
    exact = 20.0 if value.dtype == np.float32 else 40.0
    threshold = exact if value["threshold"] is None else number(value["threshold"], value.dtype)
    return act.Softplus(number(value["beta"], value.dtype), threshold)


def make_hardtanh(value: Value) -> Layer:
    low, high = (number(value[name], value.dtype) for name in ("low", "high"))
    return act.ReLU6() if (low, high) == (0, 6) else act.Hardtanh(low, high)


PLAIN = "relu sigmoid log_sigmoid tanh selu softsign hardsigmoid hardswish silu gelu gelu_tanh mish softmax log_softmax"
BUILT: dict[str, Callable[[Value], Any]] = {
    **{kind: (lambda value: act.get_activation(value.kind)) for kind in PLAIN.split()},
    "leaky_relu": lambda value: act.LeakyReLU(number(value["slope"], value.dtype)),
    "elu": lambda value: act.ELU(number(value["alpha"], value.dtype)),
    "celu": lambda value: act.CELU(number(value["alpha"], value.dtype)),
    "softplus": make_softplus,
    "hardtanh": make_hardtanh,
    "dropout": lambda value: Dropout(number(value["p"], np.dtype(np.float32))),
    "linear": make_linear,
    "standardize": make_standardize,
    "layer_norm": make_layer_norm,
    "rms_norm": make_rms_norm,
    "batch_norm": make_batch_norm,
    "embedding": make_embedding,
}
TRANSPARENT = ("input", "cast", "flatten")
GATES: dict[str, Callable[[Value, list[Node]], Node]] = {
    **{kind: (lambda value, read: read[0]) for kind in TRANSPARENT},
    "add": lambda value, read: read[0] + read[1],
    "multiply": lambda value, read: read[0] * read[1],
    "scale": lambda value, read: value["factor"] * read[0],
    "concatenate": lambda value, read: concatenate(read),
}
