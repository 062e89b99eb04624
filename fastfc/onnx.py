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
from .graph import Graph, Input, Node, concatenate
from .layers import Layer, Linear, Tied
from .network import Network, Sequential
from .norms import BatchNorm1d, LayerNorm, RMSNorm
from .onnx_values import SELU_ALPHA, SELU_SCALE, Value, divide, inverse, multiply_columns, of, scale, shift
from .standardize import Standardize

WHOLE: np.dtype[Any] = np.dtype(np.int64)
OLDEST = 7  # opset: before it, operators broadcast in other ways
MOST_FEATURES = 1 << 24  # of one value, so that a few bytes of file cannot claim all memory


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
    >>> import os, tempfile, fastfc as fc
    >>> path = os.path.join(tempfile.mkdtemp(), "residual.onnx")
    >>> x = fc.Input(4, name="x")
    >>> fc.Graph(x, x + fc.SiLU()(fc.Linear(4, 4)(x))).to_onnx(path)
    >>> fc.from_onnx(path)
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
        folder = Path(os.fspath(model)).parent
        data = Path(model).read_bytes()
        try:
            model = onnx.load_model_from_string(data)
        except Exception as error:  # protobuf's own
            raise ValueError(f"is damaged or no ONNX model: {error}") from error
    else:
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        model = copied
    known = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and not OLDEST <= opset.version <= known:
            raise ValueError(f"is of opset {opset.version}; from {OLDEST} to {known} can be read")
    if model.functions:
        try:
            model = onnx.inliner.inline_local_functions(model)
        except Exception as error:
            raise ValueError(f"has functions that cannot be inlined: {error}") from error
    for tensor in tensors(onnx, model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            read_external(onnx, tensor, folder)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise ValueError(f"is no valid model: {error}") from error
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
            what = f"of shape {text(value.shape)}"
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
            raise ValueError(f"computes in {' and '.join(sorted(map(str, dtypes)))}; a network has one dtype")
        inputs = [value for value in self.inputs if value in needed]
        for value in self.inputs:
            if value not in inputs and len(ends) == len(self.graph.output):
                raise ValueError(f"no output needs the input {value['name']!r}; it cannot be an input of a network")
        batches = {value["batch"] for value in inputs}
        if 1 in batches and len(batches) > 1:
            raise ValueError("some inputs have a batch of 1, others not; they must all have the same batch")
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
                    layer = linear.setdefault((value["key"], value["bias_key"]), layer)
                nodes[value] = layer(read[0])
        return Graph([nodes[value] for value in inputs], [nodes[value] for value in ends])


class Inherited(ValueError):
    """Why a node that this one reads cannot be read."""


def described(node: Any) -> str:
    name = f"node {node.name!r}" if node.name else f"the node of {node.output[0]!r}"
    return f"{name} ({node.domain + '.' if node.domain else ''}{node.op_type})"


def text(shape: tuple[Any, ...]) -> str:
    return f"(batch, {', '.join('?' if size is None else str(size) for size in shape)})"


def checked(value: Value) -> Value:
    if value.width is not None and value.width > MOST_FEATURES:
        raise ValueError(f"has {value.width:,} numbers per sample; at most {MOST_FEATURES:,} are supported")
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


def width_of(value: Value) -> int:
    if value.width is None:
        raise ValueError("the number of features is not known; give the model's input a shape")
    return value.width


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


# The operators. Each function gets the node's inputs, and its attributes by name.


class Call:
    """A node and what it reads."""

    def __init__(self, reader: Reader, node: Any) -> None:
        self.reader, self.node, self.opset = reader, node, reader.opset

    def argument(self, i: int) -> Value | NDArray[Any] | None:
        """A value, a constant, or None where there is none."""
        name = self.node.input[i] if i < len(self.node.input) else ""
        return self.reader.values[name] if name in self.reader.values else self.reader.constant(name)

    def value(self, i: int, whole: bool = False) -> Value:
        value = self.argument(i)
        if not isinstance(value, Value):
            raise ValueError(f"input {i} must depend on the model's inputs")
        if (value.dtype == np.int64) != whole:
            raise ValueError(f"input {i} is {value.dtype}, which is supported only for Gather and Cast of an input")
        return value

    def matrix(self, i: int) -> Value:
        """A value of two dimensions, counting the batch."""
        value = self.value(i)
        if len(value.shape) != 1:
            raise ValueError(
                f"input {i} has {len(value.shape) + 1} dimensions; supported are two, so flatten it before"
            )
        return value

    def constant(self, i: int, optional: bool = False) -> Any:
        constant = self.argument(i)
        if isinstance(constant, Value) or (constant is None and not optional):
            raise ValueError(f"input {i} must be a constant")
        return constant

    def scalar(self, i: int) -> float | None:
        constant = self.constant(i, optional=True)
        if constant is None:
            return None
        if constant.size != 1:
            raise ValueError(f"input {i} has shape {constant.shape}; supported is one number")
        return constant.item()

    def row(self, i: int, shape: tuple[Any, ...]) -> NDArray[Any]:
        """A constant that is one number, or one for each feature."""
        constant = self.constant(i)
        if constant.size == 1 and constant.ndim <= len(shape) + 1:
            return constant.reshape(())
        if constant.shape not in (shape, (1, *shape)):
            width = "×".join(map(str, shape))
            raise ValueError(
                f"input {i} has shape {constant.shape}; supported are one number, or {width}, one a feature"
            )
        return constant.ravel()

    def full_row(self, i: int, value: Value) -> NDArray[Any] | None:
        if self.constant(i, optional=True) is None:
            return None
        return np.broadcast_to(self.row(i, value.shape), (width_of(value),)).astype(value.dtype)

    def origin(self, i: int) -> tuple[str, bool]:
        name = self.node.input[i]
        return self.reader.origins.get(name, (name, False))

    def fold(self, result: NDArray[Any], transposed: bool = False) -> NDArray[Any]:
        """What this node makes of a constant."""
        name, was = self.origin(0)
        self.reader.origins[self.node.output[0]] = name, was != transposed
        return result


def plain(kind: str) -> Callable[[Call], Value]:
    return lambda call: of(kind, call.value(0))


def along_features(kind: str) -> Callable[..., Value]:
    def read(call: Call, axis: int | None) -> Value:
        value = call.matrix(0)
        axis = (-1 if call.opset >= 13 else 1) if axis is None else axis
        check_axis(axis)
        return of(kind, value)

    return read


def check_axis(axis: Any) -> None:
    if axis not in (1, -1):
        raise ValueError(f"attribute axis is {axis}; supported are the features, 1 or -1")


def identity(call: Call) -> Any:
    argument = call.argument(0)
    return argument if isinstance(argument, Value) else call.fold(call.constant(0))


def constant(call: Call, **given: Any) -> Any:
    ((name, value),) = ((name, value) for name, value in given.items() if value is not None)
    if name == "value":
        return call.reader.array(value)
    return np.array(value, np.float32 if "float" in name else np.int64)


def cast(call: Call, to: int, saturate: int, round_mode: str) -> Any:
    reader, value = call.reader, call.argument(0)
    if saturate != 1 or round_mode != "up":
        raise ValueError("attributes saturate and round_mode: supported are 1 and 'up'")
    if not isinstance(value, Value):
        dtype = reader.onnx.helper.tensor_dtype_to_np_dtype(to)
        if dtype.kind not in "fi" or call.constant(0).dtype.kind not in "fiub":
            raise ValueError(f"of a constant of {call.constant(0).dtype} to {dtype} is not supported")
        with np.errstate(all="ignore"):
            return call.fold(call.constant(0).astype(dtype))
    kinds = reader.onnx.TensorProto
    known = reader.floats | dict.fromkeys(reader.integers, WHOLE)
    if to in known and value.kind == "input":
        return Value("cast", (value,), value.shape, known[to])
    if to in known and known[to] == value.dtype and value.dtype != np.int64 and to != kinds.FLOAT16:
        return value
    raise ValueError(f"to {kinds.DataType.Name(to)} of a {value.dtype} is supported only for inputs of the model")


def transpose(call: Call, perm: list[int] | None) -> Any:
    array = call.constant(0)
    swapped = array.ndim == 2 and (perm is None or list(perm) == [1, 0])
    if not swapped and perm is not None and list(perm) != list(range(array.ndim)):
        call.reader.origins[call.node.output[0]] = call.node.output[0], False
        return array.transpose(perm)
    return call.fold(array.T, transposed=swapped)


def squeeze(call: Call, axes: list[int] | None) -> Any:
    array = call.constant(0)
    axes = axes if call.opset < 13 else call.constant(1, optional=True)
    return np.squeeze(array, None if axes is None else tuple(int(axis) for axis in axes))


def unsqueeze(call: Call, axes: list[int] | None) -> Any:
    axes = axes if call.opset < 13 else call.constant(1)
    return np.expand_dims(call.constant(0), tuple(int(axis) for axis in axes or ()))


def flatten(call: Call, axis: int) -> Any:
    value = call.value(0)
    if axis not in (1, -len(value.shape)):
        raise ValueError(f"attribute axis is {axis}; supported is 1, all but the batch")
    return flat(value)


def flat(value: Value) -> Value:
    if len(value.shape) == 1:
        return value
    return of("flatten", value, shape=(width_of(value),))


def reshape(call: Call, allowzero: int) -> Any:
    shape = [int(size) for size in call.constant(1)]
    argument = call.argument(0)
    if not isinstance(argument, Value):
        array = call.constant(0)
        if not allowzero:
            shape = [array.shape[i] if size == 0 and i < array.ndim else size for i, size in enumerate(shape)]
        return array.reshape(shape)
    value = call.value(0)
    batch = next((i["batch"] for i in call.reader.inputs), None)
    copies = () if allowzero else (0,)
    if len(shape) == 2:
        rows, columns = shape
        keeps_rows = rows in (*copies, batch) or (rows == -1 and columns == value.width)
        if keeps_rows and (columns in (-1, value.width) or (columns in copies and len(value.shape) == 1)):
            return flat(value)
    raise ValueError(
        f"to {shape} of (batch, {', '.join(map(str, value.shape))}): supported is (batch, all the features)"
    )


def gemm(call: Call, alpha: float, beta: float, transA: int, transB: int) -> Value:
    if transA:
        raise ValueError("attribute transA is 1: the batch would be the columns; supported is 0")
    weight = call.constant(1)
    value = product(call, weight.T if transB else weight, bool(transB), alpha)
    bias = call.argument(2)
    if bias is None:
        return value
    if isinstance(bias, Value):
        if bias.shape != value.shape:
            raise ValueError(f"input 2 has shape (batch, {bias.width}), not (batch, {value.width})")
        return of("add", value, call.value(2) if beta == 1 else scale(call.value(2), beta))
    bias = np.broadcast_to(beta * call.row(2, value.shape).astype(np.float64), value.shape)
    value.settings |= {"bias": bias.astype(value.dtype), "bias_key": (*call.origin(2), beta)}
    return value


def matmul(call: Call) -> Value:
    return product(call, call.constant(1), False, 1.0)


def product(call: Call, weight: NDArray[Any], transposed: bool, alpha: float) -> Value:
    value = call.matrix(0)
    if weight.ndim != 2:
        raise ValueError(f"input 1 has shape {weight.shape}; supported are two dimensions")
    if value.width not in (None, weight.shape[0]):
        raise ValueError(f"input 0 has {value.width} features, but input 1 takes {weight.shape[0]}")
    name, was = call.origin(1)
    key = name, was != transposed, alpha
    with np.errstate(over="ignore"):
        weight = weight.astype(value.dtype) if alpha == 1 else (alpha * weight.astype(np.float64)).astype(value.dtype)
    return of("linear", value, shape=weight.shape[1:], weight=weight, bias=None, key=key, bias_key=None)


def same_shape(a: Value, b: Value) -> None:
    if a.shape != b.shape:
        raise ValueError(f"of (batch, {a.width}) and (batch, {b.width}) is not supported; the two must be equal")


def add(call: Call) -> Value:
    a, b = call.argument(0), call.argument(1)
    if isinstance(a, Value) and isinstance(b, Value):
        same_shape(call.value(0), call.value(1))
        return of("add", a, b)
    i, j = (0, 1) if isinstance(a, Value) else (1, 0)
    value = call.value(i)
    return shift(value, call.row(j, value.shape), (*call.origin(j), 1.0))


def subtract(call: Call) -> Value:
    a, b = call.argument(0), call.argument(1)
    if isinstance(a, Value) and isinstance(b, Value):
        if b.kind == "mean" and b.inputs[0] is a:
            return of("centered", a)
        same_shape(call.value(0), call.value(1))
        return of("add", a, scale(b, -1))
    if isinstance(a, Value):
        a = call.value(0)
        return shift(a, -call.row(1, a.shape).astype(a.dtype))
    b = call.value(1)
    return shift(scale(b, -1), call.row(0, b.shape))


def multiply(call: Call) -> Value:
    a, b = call.argument(0), call.argument(1)
    if isinstance(a, Value) and isinstance(b, Value):
        result = of("multiply", call.value(0), call.value(1))
        if result.kind == "multiply":
            same_shape(a, b)
        return result
    i, j = (0, 1) if isinstance(a, Value) else (1, 0)
    value = call.value(i)
    by = call.row(j, value.shape).astype(value.dtype)
    if not np.isfinite(by).all():
        raise ValueError(f"input {j} has factors that are not finite")
    if by.ndim == 0:
        return scale(value, by.item())
    product = multiply_columns(value, by)
    if product is None:
        raise ValueError(f"input {j} has factors too small or too large to divide by their inverse in {value.dtype}")
    return product


def division(call: Call) -> Value:
    a, b = call.argument(0), call.argument(1)
    if isinstance(a, Value) and isinstance(b, Value):
        return of("quotient", call.value(0), call.value(1))
    if isinstance(a, Value):
        return divide(call.value(0), call.row(1, a.shape))
    if call.constant(0).size == 1 and call.constant(0).item() == 1:
        return of("reciprocal", call.value(1))
    raise ValueError("of a constant by a value is not supported")


def power(call: Call) -> Value:
    value, exponent = call.value(0), call.scalar(1)
    return of("sqrt", value) if exponent == 0.5 else of("power", value, exponent=exponent)


def reduce_mean(call: Call, axes: list[int] | None, keepdims: int, noop_with_empty_axes: int) -> Value:
    value = call.matrix(0)
    given = axes if call.opset < 18 else call.constant(1, optional=True)
    if given is None or [int(axis) for axis in given] not in ([1], [-1]) or not keepdims:
        raise ValueError("supported is only the mean of the features, axes 1 or -1 with keepdims")
    return of("mean", value, shape=(1,))


def greater(call: Call) -> Value:
    return of("greater", call.value(0), number=call.scalar(1))


def where(call: Call) -> Value:
    condition, a, b = (call.value(i) for i in range(3))
    same_shape(a, b)
    return of("where", condition, a, b, shape=a.shape)


def clip(call: Call, min: float | None, max: float | None) -> Value:
    value = call.value(0)
    low, high = call.scalar(1), call.scalar(2)
    if call.opset < 11:
        largest = float(np.finfo(np.float32).max)
        low, high = -largest if min is None else min, largest if max is None else max
    if low == 0 and high in (None, math.inf):
        return of("relu", value)
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"from {low} to {high} is not supported; give two finite bounds, or 0 alone below")
    return of("hardtanh", value, low=low, high=high)


def hard_sigmoid(call: Call, alpha: float, beta: float) -> Value:
    value = call.value(0)
    if value.dtype == np.float32 and alpha == np.float32(1 / 6) and beta == 0.5:
        return of("hardsigmoid", value)
    return of("hardtanh", shift(scale(value, alpha), beta), low=0.0, high=1.0)


def swish(call: Call, alpha: float) -> Value:
    value = call.value(0)
    if alpha == 0:
        return scale(value, 0.5)
    return of("silu", value) if alpha == 1 else scale(of("silu", scale(value, alpha)), 1 / alpha)


def gelu(call: Call, approximate: str) -> Value:
    if approximate not in ("none", "tanh"):
        raise ValueError(f"attribute approximate is {approximate!r}; supported are 'none' and 'tanh'")
    return of("gelu" if approximate == "none" else "gelu_tanh", call.value(0))


def concat(call: Call, axis: int) -> Value:
    values = [call.matrix(i) for i in range(len(call.node.input))]
    check_axis(axis)
    if len(values) == 1:
        return values[0]
    return of("concatenate", *values, shape=(sum(width_of(value) for value in values),))


def layer_normalization(call: Call, axis: int, epsilon: float, stash_type: int) -> Value:
    value = call.matrix(0)
    check_axis(axis)
    check_stash(stash_type)
    return of("layer_norm", value, eps=epsilon, weight=call.full_row(1, value), bias=call.full_row(2, value))


def rms_normalization(call: Call, axis: int, epsilon: float, stash_type: int) -> Value:
    value = call.matrix(0)
    check_axis(axis)
    check_stash(stash_type)
    return of("rms_norm", value, eps=epsilon, weight=call.full_row(1, value))


def check_stash(stash_type: int) -> None:
    if stash_type != 1:
        raise ValueError(f"attribute stash_type is {stash_type}; supported is 1")


def batch_normalization(call: Call, epsilon: float, momentum: float, training_mode: int, spatial: int) -> Value:
    value = call.matrix(0)
    if training_mode or spatial != 1:
        raise ValueError("attributes training_mode and spatial: supported are 0 and 1")
    names = ("weight", "bias", "mean", "variance")
    rows = {name: call.full_row(i, value) for i, name in enumerate(names, 1)}
    return of("batch_norm", value, eps=epsilon, momentum=momentum, **rows)  # type: ignore[arg-type]


def dropout(call: Call, ratio: float | None, seed: int | None) -> Value:
    if call.opset >= 12:
        ratio = call.scalar(1)
        if call.scalar(2):
            raise ValueError("input 2, training_mode, is True; supported is inference")
    return of("dropout", call.value(0), p=0.5 if ratio is None else ratio)


def gather(call: Call, axis: int) -> Value:
    weight, value = call.constant(0), call.value(1, whole=True)
    if axis != 0 or weight.ndim != 2 or len(value.shape) != 1:
        raise ValueError("supported is an embedding: rows, axis 0, of a constant of two dimensions by (batch, columns)")
    dtype = np.dtype(np.float64 if weight.dtype == np.float64 else np.float32)
    result = Value("embedding", (value,), (*value.shape, weight.shape[1]), dtype)
    result.settings["weight"] = weight.astype(dtype)
    return result


# Defaults of attributes are float32, as the attributes are.
EPSILON, LEAK, FIFTH = (float(np.float32(a)) for a in (1e-5, 0.01, 0.2))
OPERATORS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "Abs": (plain("abs"), {}),
    "Add": (add, {}),
    "BatchNormalization": (
        batch_normalization,
        {"epsilon": EPSILON, "momentum": 0.9, "training_mode": 0, "spatial": 1},
    ),
    "Cast": (cast, {"to": None, "saturate": 1, "round_mode": "up"}),
    "Celu": (lambda call, alpha: of("celu", call.value(0), alpha=alpha), {"alpha": 1.0}),
    "Clip": (clip, {"min": None, "max": None}),
    "Concat": (concat, {"axis": 1}),
    "Constant": (
        constant,
        dict.fromkeys(("value", "value_float", "value_floats", "value_int", "value_ints")),
    ),
    "Div": (division, {}),
    "Dropout": (dropout, {"ratio": None, "seed": None}),
    "Elu": (lambda call, alpha: of("elu", call.value(0), alpha=alpha), {"alpha": 1.0}),
    "Erf": (plain("erf"), {}),
    "Exp": (plain("exp"), {}),
    "Flatten": (flatten, {"axis": 1}),
    "Gather": (gather, {"axis": 0}),
    "Gelu": (gelu, {"approximate": "none"}),
    "Gemm": (gemm, {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}),
    "Greater": (greater, {}),
    "HardSigmoid": (hard_sigmoid, {"alpha": FIFTH, "beta": 0.5}),
    "HardSwish": (plain("hardswish"), {}),
    "Identity": (identity, {}),
    "LayerNormalization": (layer_normalization, {"axis": -1, "epsilon": EPSILON, "stash_type": 1}),
    "LeakyRelu": (
        lambda call, alpha: of("leaky_relu", call.value(0), slope=alpha),
        {"alpha": LEAK},
    ),
    "Log": (plain("log"), {}),
    "LogSoftmax": (along_features("log_softmax"), {"axis": None}),
    "MatMul": (matmul, {}),
    "Mish": (plain("mish"), {}),
    "Mul": (multiply, {}),
    "Neg": (lambda call: scale(call.value(0), -1), {}),
    "Pow": (power, {}),
    "RMSNormalization": (rms_normalization, {"axis": -1, "epsilon": EPSILON, "stash_type": 1}),
    "Reciprocal": (plain("reciprocal"), {}),
    "ReduceMean": (reduce_mean, {"axes": None, "keepdims": 1, "noop_with_empty_axes": 0}),
    "Relu": (plain("relu"), {}),
    "Reshape": (reshape, {"allowzero": 0}),
    "Selu": (
        lambda call, alpha, gamma: scale(of("elu", call.value(0), alpha=alpha), gamma),
        {"alpha": float(np.float32(SELU_ALPHA)), "gamma": float(np.float32(SELU_SCALE))},
    ),
    "Sigmoid": (plain("sigmoid"), {}),
    "Softmax": (along_features("softmax"), {"axis": None}),
    "Softplus": (lambda call: of("softplus", call.value(0), beta=1.0, threshold=None), {}),
    "Softsign": (plain("softsign"), {}),
    "Sqrt": (plain("sqrt"), {}),
    "Squeeze": (squeeze, {"axes": None}),
    "Sub": (subtract, {}),
    "Swish": (swish, {"alpha": 1.0}),
    "Tanh": (plain("tanh"), {}),
    "Transpose": (transpose, {"perm": None}),
    "Unsqueeze": (unsqueeze, {"axes": None}),
    "Where": (where, {}),
}
