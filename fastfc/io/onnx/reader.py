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

from fastfc.extras import extra
from fastfc.io.checkpoint import regular
from fastfc.io.onnx.constants import CONSTANTS, OF_SHAPES, has_batch
from fastfc.io.onnx.operators import OF_LABELS, OF_ML, OPERATORS, Call, is_lossless
from fastfc.io.onnx.values import (
    BATCH,
    MOST_FEATURES,
    UNFINISHED,
    WHOLE,
    Told,
    Value,
    check_width,
    inverse,
    shape_text,
    width_of,
)
from fastfc.nn import activations as act
from fastfc.nn import norms
from fastfc.nn.batch_ensemble import BatchEnsemble, LinearEnsemble, MemberMean
from fastfc.nn.container import CONTAINERS, Container
from fastfc.nn.dropout import Dropout
from fastfc.nn.embedding import Embedding
from fastfc.nn.layer import Layer
from fastfc.nn.linear import Linear, Tied
from fastfc.nn.node import Input, Node, concatenate
from fastfc.nn.per_feature import PReLU
from fastfc.nn.standardize import Standardize
from fastfc.validation import FLOATS, listed

OLDEST = 7  # opset: before it, operators broadcast in other ways
MOST_NUMBERS = 1 << 27  # per sample, of all values; and of all constants that are computed
MOST_TOLD = 100  # inputs whose width is found in the model, each by reading it again


def from_onnx(model: Any, *, outputs: Iterable[str] | None = None) -> Any:
    """The network in an ONNX model: as a Sequential where its layers are a chain, else as a Graph.

    Read are Gemm, MatMul, Add, Sub, Mul, Div, Sum, Max and Min, with constants and between values, Concat, Split,
    Slice and Gather of features, Flatten, Reshape, Squeeze and Unsqueeze that keep samples apart, Dropout, PRelu,
    LayerNormalization, BatchNormalization, Gather of an embedding, Softmax and LogSoftmax along the features, Scaler of
    scikit-learn's pipelines, and all activations, also as the formulas that exporters write for them. What is made of
    constants alone is computed. Factors and shifts that are not part of another layer become Standardize layers or
    gates; columns are taken by a Linear of ones and zeros that is frozen.

    The network takes what the model takes: (n, features); for inputs of more axes, such as images, also (n, *shape),
    see `Network.input_shapes`; for an input of one axis a sample or, where that is not a network, one number for each
    sample. It gives (n, features): where the model gives (n,), (n, 1).

    Parameters
    ----------
    model : str, path-like or onnx.ModelProto
    outputs : iterable of str, optional
        Names of the outputs to read. By default all; or the only one that is left without constants, such as the
        log_std of a policy, and without the labels of a classifier whose scores are an output. A ZipMap is read as the
        scores in the order of its labels. Nodes that none of the outputs needs are not looked at.

    Returns
    -------
    Sequential or Graph
        In float32 or float64 as the model; models in float16 are computed in float32.

    Raises
    ------
    ValueError
        If the file is damaged or no valid model; or, naming the node, its operator and why, for everything that is
        not exactly a network of fastfc. Nothing is approximated. Only where a sample holds infinite numbers may NaN
        come out of what a 0 is to leave out: other columns than those taken, or the smaller of two values in Max.

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
        return read(onnx, *load(onnx, model), outputs)
    except (ValueError, OverflowError, MemoryError) as error:
        raise ValueError(f"from_onnx: {what}: {error}") from error


def read(onnx: Any, model: Any, types: dict[str, int], outputs: list[str] | None) -> Container:
    """The network. An input of one axis is a sample, or if that is not a network, a number for each sample."""
    first: ValueError | None = None
    widths: dict[str, int] = {}
    while True:
        reader = Reader(onnx, model, types, widths, scalars=first is not None)
        try:
            return reader.network(outputs)
        except Told as told:
            name, width = told.args
            widths[name] = width
            if len(widths) > MOST_TOLD:
                raise ValueError(
                    f"the widths of more than {MOST_TOLD} inputs are not known; give them shapes"
                ) from None
        except ValueError as error:
            if first is not None or all(BATCH in value.shape for value in reader.inputs):
                raise first or error from None
            first, widths = error, {}


def load(onnx: Any, model: Any) -> tuple[Any, dict[str, int]]:
    """The model with all its data, checked, and the element types of its values by name."""
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
        # What the file says of the shapes of values inside and of outputs may be stale or missing, as for ONNX Runtime;
        # the checker insists that there is one.
        ends = [end.type.tensor_type for end in model.graph.output if end.type.HasField("tensor_type")]
        for end in ends:
            end.shape.SetInParent()
        onnx.checker.check_model(model)
        del model.graph.value_info[:]
        for end in ends:
            end.ClearField("shape")
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    except Exception as error:
        raise ValueError(f"no valid model: {error}") from error
    infos = (*inferred.value_info, *inferred.input, *inferred.output)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return model, types | {info.name: info.type.tensor_type.elem_type for info in infos}


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
        raise ValueError(f"{where}, with entries that are not numbers: {error}") from error
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

    def __init__(
        self, onnx: Any, model: Any, types: dict[str, int], widths: dict[str, int], scalars: bool = False
    ) -> None:
        self.onnx, self.graph, self.types = onnx, model.graph, types
        self.widths, self.scalars = widths, scalars  # of inputs whose file does not say; whether one axis is the batch
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), OLDEST)
        kinds = onnx.TensorProto
        single, double = FLOATS
        self.floats: dict[int, np.dtype[Any]] = {kinds.FLOAT16: single, kinds.FLOAT: single, kinds.DOUBLE: double}
        self.integers = (kinds.INT32, kinds.INT64)
        self.initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        self.constants: dict[str, NDArray[Any]] = {}
        self.origins: dict[str, tuple[str, bool]] = {}  # the initializer that a constant is, and whether transposed
        self.numbers = 0  # of the constants that were computed
        self.unknown: dict[str, str] = {}  # why, by the name of a constant that is not computed
        self.values: dict[str, Value] = {}
        self.refused: dict[str, str] = {}  # why, by the name of what cannot be read
        self.inputs: list[Value] = []
        read = [name for node in self.graph.node for name in node.input]
        self.readers = Counter(read + [output.name for output in self.graph.output])

    def network(self, outputs: list[str] | None) -> Container:
        for info in self.graph.input:
            if info.name not in self.initializers:
                self.read_input(info)
        for tensor in self.graph.sparse_initializer:
            name = tensor.values.name
            self.refused[name] = f"initializer {name!r} is sparse, which is not supported"
        for node in self.graph.node:
            try:
                self.read(node)
            except (ValueError, TypeError, OverflowError, IndexError) as error:
                reason = str(error) if isinstance(error, Inherited) else f"{described(node)}: {error}"
                self.refused.update(dict.fromkeys(filter(None, node.output), reason))
        known = [info.name for info in self.graph.output]
        for name in outputs or ():
            if name not in known:
                raise ValueError(f"there is no output {name!r}, only {', '.join(map(repr, known))}")
        names = self.chosen(known) if outputs is None else outputs
        return self.built([self.output(name, known) for name in names], all_inputs=outputs is None)

    def chosen(self, known: list[str]) -> list[str]:
        """All outputs; or the only one left, if the others are constants, or labels that say what is largest in it."""
        scores = [self.values[name] for name in known if name in self.values]
        left = [
            name
            for name in known
            if not self.is_constant(name)
            and not (
                name in self.values and self.values[name].kind == "labels" and self.values[name].inputs[0] in scores
            )
        ]
        if not left or len(left) == len(known) or any(name in self.refused for name in left):
            return known
        if len(left) > 1:
            others = ", ".join(repr(name) for name in known if name not in left)
            raise ValueError(f"of its outputs {others} are constants or labels; give outputs={left} for the others")
        return left

    def is_constant(self, name: str) -> bool:
        return name in self.unknown or name in self.initializers or name in self.constants

    def read_input(self, info: Any) -> None:
        name, kind = info.name, info.type.tensor_type
        if not info.type.HasField("tensor_type") or kind.elem_type not in (*self.floats, *self.integers):
            types = {number: name for name, number in self.onnx.TensorProto.DataType.items()}
            what = types.get(kind.elem_type, "no tensor")
            self.refused[name] = f"input {name!r} is {what}; supported are FLOAT, DOUBLE, FLOAT16, INT32 and INT64"
            return
        shape = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
        batch = shape[0] if len(shape) > 1 or self.scalars else None
        if not shape or any(size is not None and size < 1 for size in shape):
            self.refused[name] = f"input {name!r} has shape {shape}; supported is (batch, features)"
            return
        if len(shape) > 1 or self.scalars:
            shape[0] = BATCH
        shape = [self.widths.get(name) if size is None else size for size in shape]
        dtype = self.floats.get(kind.elem_type, WHOLE)
        settings = {"name": name, "batch": batch, "type": self.dtype_of(kind.elem_type)}
        value = Value("input", (), tuple(shape), dtype, settings, readers=self.readers[name])
        try:
            check_width(value.shape)
        except ValueError as error:
            self.refused[name] = f"input {name!r}: {error}"
            return
        self.values[name] = value
        self.inputs.append(value)

    def read(self, node: Any) -> None:
        for name in node.input:
            if name in self.refused:
                raise Inherited(self.refused[name])
        arguments = [self.argument(name) for name in node.input if name]
        of_values = [argument for argument in arguments if isinstance(argument, Value)]
        known = node.op_type in OPERATORS and node.domain in (
            ("ai.onnx.ml",) if node.op_type in OF_ML else ("", "ai.onnx")
        )
        if arguments and not of_values and self.is_pure(node) and not (known and node.op_type in CONSTANTS):
            reason = f"{described(node)}: this operator is not computed for constants"
            self.unknown.update(dict.fromkeys(filter(None, node.output), reason))
            return
        if not known:
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
        if arguments and not of_values:
            self.fold(call, attributes)
            return
        for name in node.input:
            if name in self.unknown:
                raise ValueError(f"it reads a constant that is not known: {self.unknown[name]}")
        if any(value.kind == "labels" for value in of_values) and node.op_type in OF_LABELS:
            scores = next(value.inputs for value in of_values if value.kind == "labels")
            result: Any = Value("labels", scores, (BATCH,), WHOLE)
        else:
            result = function(call, **attributes)
        results = result if isinstance(result, list) else [result]
        for name, result in zip(node.output, results, strict=False):
            if isinstance(result, Value):
                passed = any(result is value for value in of_values)
                result.readers += self.readers[name] - passed
                check_width(result.shape)
                if result.kind in ("select", "standardize"):
                    self.count(*(row for row in result.settings.values() if isinstance(row, np.ndarray)))
                self.values[name] = result
                place(result, node)
            else:
                self.constants[name] = result
        for other in filter(None, node.output[len(results) :]):
            self.refused[other] = f"{described(node)}: output {other!r} is not supported, only the first one is"

    def is_pure(self, node: Any) -> bool:
        """Whether a node gives the same of the same inputs."""
        drawn = node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial")
        graphs = (self.onnx.AttributeProto.GRAPH, self.onnx.AttributeProto.GRAPHS)
        return not drawn and not any(attribute.type in graphs for attribute in node.attribute)

    def fold(self, call: Call, attributes: dict[str, Any]) -> None:
        """What a node makes of constants, if they are known."""
        node, op = call.node, call.node.op_type
        arrays = [call.argument(i) for i in range(len(node.input))]
        with_batch = [isinstance(a, np.ndarray) and has_batch(a) for a in arrays]
        unknown = next((self.unknown[name] for name in node.input if name in self.unknown), None)
        if unknown is None and any(with_batch) and (op not in OF_SHAPES or (op != "Concat" and any(with_batch[1:]))):
            unknown = f"{described(node)}: it depends on the number of samples"
        if unknown is not None:
            self.unknown.update(dict.fromkeys(filter(None, node.output), unknown))
            return
        with np.errstate(all="ignore"):
            result = CONSTANTS[op](call, *arrays, **attributes)
        results = result if isinstance(result, list) else [result]
        self.count(*(a for a in results if a.base is None))
        self.constants.update(zip(node.output, results, strict=False))
        first = arrays[0]
        assert isinstance(first, np.ndarray)
        # networks share weights that are the same, or the transposed, initializer
        same = op == "Identity" or (op == "Cast" and is_lossless(first.dtype, results[0].dtype))
        if same or (op == "Transpose" and first.ndim == 2):
            name, was = call.origin(0)
            self.origins[node.output[0]] = name, was != (op == "Transpose" and attributes["perm"] != [0, 1])

    def count(self, *arrays: NDArray[Any]) -> None:
        """Raise if there are too many arrays that the file does not hold."""
        self.numbers += sum(a.size for a in arrays)
        if self.numbers > MOST_NUMBERS:
            raise ValueError(f"more than {MOST_NUMBERS:,} numbers of constants are to be computed")

    def argument(self, name: str) -> Value | NDArray[Any] | None:
        """A value or a constant, None where there is none or it is not known."""
        return self.values[name] if name in self.values else self.constant(name)

    def dtype_of(self, kind: int) -> np.dtype[Any]:
        try:
            dtype: np.dtype[Any] = self.onnx.helper.tensor_dtype_to_np_dtype(kind)
        except KeyError:
            raise ValueError(f"there is no type of number {kind}") from None
        return dtype

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
            reason = self.refused[name]
        elif name not in self.values:
            reason = f"output {name!r} is a constant"
        elif self.values[name].kind == "labels":
            reason = f"{described(self.values[name].node)}: output {name!r} is labels, which are not floats"
        else:
            return self.of_floats(name)
        others = [other for other in known if other in self.values and self.values[other].kind != "labels"]
        raise ValueError(f"{reason}{f'; to read the others, give outputs={others}' if others else ''}")

    def of_floats(self, name: str) -> Value:
        value = self.values[name]
        wide = sum(size not in (1, BATCH) for size in value.shape) > 1
        if len(value.shape) > 2 or wide or value.shape[1:] == (BATCH,) or value.dtype == np.int64:
            check_reshapes(in_order([value]))
            what = f"of shape {shape_text(value.shape)}"
            what += ", of whole numbers" * (value.dtype == np.int64)
            raise ValueError(f"output {name!r} is {what}; supported is (batch, features), of floats")
        return value

    def built(self, ends: list[Value], all_inputs: bool) -> Container:
        """The network that gives these values."""
        if not ends:
            raise ValueError("there is no output to read")
        needed = in_order(ends)
        check_reshapes(needed)
        for value in needed:
            if value.kind in UNFINISHED:
                raise ValueError(
                    f"{described(value.node)}: this operator is supported only as a part of an activation or a norm, "
                    "as exporters write them"
                )
        dtype = self.one_dtype(needed, ends)
        numbers = sum(value.width or 0 for value in needed)
        numbers += sum(width_of(value) * width_of(value.inputs[0]) for value in needed if value.kind == "select")
        if numbers > MOST_NUMBERS:
            raise ValueError(f"all values together have {numbers:,} numbers per sample; {MOST_NUMBERS:,} are supported")
        reached = set(needed)
        inputs = [value for value in self.inputs if value in reached]
        for value in self.inputs:
            if value not in reached and all_inputs:
                raise ValueError(f"no output needs the input {value['name']!r}; it cannot be an input of a network")
        if len({value["batch"] for value in inputs}) > 1:
            batches = ", ".join(f"{value['name']!r}: {value['batch'] or 'any'}" for value in inputs)
            raise ValueError(f"its inputs have batches of different size, {batches}; make them the same")
        if not inputs:
            raise ValueError("the outputs do not depend on an input")
        if len({BATCH in value.shape for value in inputs}) > 1:
            raise ValueError("one of its inputs is a sample, and another a batch")
        self.pin(needed, dtype)
        network = self.network_of(needed, inputs, ends)
        shapes = [value.features if BATCH in value.shape else (value.width,) for value in inputs]
        if any(len(shape) != 1 for shape in shapes):
            for value in inputs:
                width_of(value)
            network.input_shapes = shapes
        return network

    def one_dtype(self, needed: list[Value], ends: list[Value]) -> np.dtype[Any]:
        """What the network computes in; inputs that are only cast may be of another type."""
        used = {other for value in needed if value.kind != "cast" for other in value.inputs} | set(ends)
        dtypes = {value.dtype for value in needed if value.kind != "input" or value in used} - {WHOLE}
        if len(dtypes) > 1:
            raise ValueError(f"it computes in {' and '.join(sorted(map(str, dtypes)))}; a network has one dtype")
        return dtypes.pop()

    def pin(self, needed: list[Value], dtype: np.dtype[Any]) -> None:
        """Without parameters a network computes in the dtype of its input: make a cast to another one a layer."""
        if any(value.kind in WITH_PARAMETERS for value in needed):
            return
        exact = all(value.kind in (*TRANSPARENT, "relu", "concatenate", "repeat") for value in needed)
        for value in needed:
            if value.kind == "cast":
                given = value.inputs[0]["type"]
                taken = given if given in FLOATS else FLOATS[0]
                if taken != dtype and not (exact and taken == given and is_lossless(given, dtype)):
                    one = np.ones((), dtype)
                    value.kind, value.settings = "standardize", {"mean": 0 * one, "scale": one}

    def network_of(self, needed: list[Value], inputs: list[Value], ends: list[Value]) -> Container:
        read = Counter(other for value in needed for other in value.inputs) + Counter(ends)
        if len(inputs) == 1 and len(ends) == 1 and max(read.values()) == 1:
            layers = self.chain(needed)
            if layers is not None:
                return CONTAINERS["Sequential"](layers or [act.Identity()])
        return self.dag(needed, inputs, ends)

    def chain(self, needed: list[Value]) -> list[Layer] | None:
        """The layers if one follows the other, None if one is duplicated or must be a gate."""
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
            elif value.kind in OPS:
                return None
            layer = made(value)
            if isinstance(layer, Linear):
                if value.settings.get("key") is None:  # of some columns only
                    layers.append(layer)
                    continue
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

    def dag(self, needed: list[Value], inputs: list[Value], ends: list[Value]) -> Container:
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
            elif value.kind in OPS:
                nodes[value] = OPS[value.kind](value, read)
            else:
                layer = made(value)
                if isinstance(layer, Linear):
                    known = value.settings.get("key") is not None
                    known = known and (value["bias"] is None or value["bias_key"] is not None)
                    layer = linear.setdefault((value["key"], value["bias_key"]) if known else value, layer)
                nodes[value] = layer(read[0])
        return CONTAINERS["Graph"]([nodes[value] for value in inputs], [nodes[value] for value in ends])


class Inherited(ValueError):
    """Why a node that this one reads cannot be read."""


def described(node: Any) -> str:
    name = f"node {node.name!r}" if node.name else f"the node of {node.output[0]!r}"
    return f"{name} ({node.domain + '.' if node.domain else ''}{node.op_type})"


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


def check_reshapes(values: list[Value]) -> None:
    """Raise if features were split into members, and not for a product or a mean of these."""
    for value in values:
        if value.kind == "by_member":
            raise ValueError(
                f"{described(value.node)}: {value['text']}: supported is (batch, all the features); for a product or a "
                "mean of members (batch, members, columns)"
            )


# How values become layers and gates.


def made(value: Value) -> Layer:
    try:
        return BUILT[value.kind](value)
    except ValueError as error:
        raise ValueError(f"{described(value.node)}: {error}") from error


def number(value: float, dtype: np.dtype[Any]) -> float:
    """In float32 the shortest number that is the same there, such as 0.01."""
    return float(str(np.float32(value))) if dtype == np.float32 else float(value)


PLAIN = (
    "relu sigmoid log_sigmoid tanh selu softsign hardsigmoid hardswish silu gelu gelu_tanh mish sin cos softmax "
    "log_softmax"
)
Maker = Callable[[Value], Any]
BUILT: dict[str, Maker] = {
    **{kind: (lambda value: act.get_activation(value.kind)) for kind in PLAIN.split()},
    "leaky_relu": lambda value: act.LeakyReLU(number(value["slope"], value.dtype)),
    "elu": lambda value: act.ELU(number(value["alpha"], value.dtype)),
    "celu": lambda value: act.CELU(number(value["alpha"], value.dtype)),
    "smooth_clip": lambda value: act.SmoothClip(number(value["limit"], value.dtype)),
    "dropout": lambda value: Dropout(number(value["p"], np.dtype(np.float32))),
}
WITH_PARAMETERS = set[str]()


def builds(kind: str, has_parameters: bool = False) -> Callable[[Maker], Maker]:
    """Declare what makes the layer for values of a kind."""

    def declare(function: Maker) -> Maker:
        BUILT[kind] = function
        if has_parameters:
            WITH_PARAMETERS.add(kind)
        return function

    return declare


@builds("linear", has_parameters=True)
def make_linear(value: Value) -> Layer:
    weight, bias = value["weight"], value["bias"]
    layer = Linear(weight.shape[0], weight.shape[1], bias is not None, init="zeros", dtype=value.dtype)
    layer.weight = weight
    if bias is not None:
        layer.bias = bias
    return layer


@builds("select", has_parameters=True)
def make_select(value: Value) -> Layer:
    """Columns of a value, by a matrix of ones and zeros that is not trained."""
    columns, width = value["columns"], width_of(value.inputs[0])
    if width * len(columns) > MOST_FEATURES:
        raise ValueError(f"{len(columns):,} of {width:,} features are too many to take by a matrix")
    layer = Linear(width, len(columns), False, init="zeros", dtype=value.dtype)
    layer.weight[columns, np.arange(len(columns))] = 1
    layer.frozen = True
    return layer


def repeat(node: Node, width: int) -> Node:
    """One column, side by side so many times."""
    if width == 1:
        return node
    half = repeat(node, width // 2)
    return concatenate([half, half, *[node] * (width % 2)])


@builds("standardize", has_parameters=True)
def make_standardize(value: Value) -> Layer:
    layer = Standardize(width_of(value), dtype=value.dtype)
    layer.mean = np.broadcast_to(value["mean"], layer.in_features)
    layer.scale = np.broadcast_to(value["scale"], layer.in_features)
    return layer


@builds("layer_norm", has_parameters=True)
def make_layer_norm(value: Value) -> Layer:
    weight, bias, eps = value["weight"], value["bias"], number(value["eps"], value.dtype)
    affine = weight is not None or bias is not None
    layer = norms.LayerNorm(width_of(value), eps, affine, bias is not None, dtype=value.dtype)
    if weight is not None:
        layer.weight = weight
    if bias is not None:
        layer.bias = bias
    return layer


@builds("rms_norm", has_parameters=True)
def make_rms_norm(value: Value) -> Layer:
    weight, eps = value["weight"], number(value["eps"], value.dtype)
    own = value["eps"] == np.finfo(value.dtype).eps
    layer = norms.RMSNorm(width_of(value), None if own else eps, weight is not None, dtype=value.dtype)
    if weight is not None:
        layer.weight = weight
    return layer


@builds("batch_norm", has_parameters=True)
def make_batch_norm(value: Value) -> Layer:
    momentum = round(1 - value["momentum"], 7)  # a float32
    layer = norms.BatchNorm1d(width_of(value), number(value["eps"], value.dtype), momentum, dtype=value.dtype)
    layer.weight, layer.bias = value["weight"], value["bias"]
    layer.running_mean, layer.running_var = value["mean"], value["variance"]
    return layer


@builds("embedding", has_parameters=True)
def make_embedding(value: Value) -> Layer:
    weight = value["weight"]
    layer = Embedding(weight.shape[0], weight.shape[1], width_of(value.inputs[0]), init="zeros", dtype=value.dtype)
    layer.weight = weight
    return layer


@builds("batch_ensemble", has_parameters=True)
def make_batch_ensemble(value: Value) -> Layer:
    (member_in, member_out), has_bias = value["weight"].shape, value["bias"] is not None
    layer = BatchEnsemble(member_in, member_out, value["members"], has_bias, init="zeros", dtype=value.dtype)
    layer.weight = value["weight"]
    for name in ("input_scale", "output_scale", "bias"):
        if value[name] is not None:
            setattr(layer, name, value[name].reshape(getattr(layer, name).shape))
    return layer


@builds("linear_ensemble", has_parameters=True)
def make_linear_ensemble(value: Value) -> Layer:
    members, member_in, member_out = value["weight"].shape
    layer = LinearEnsemble(member_in, member_out, members, value["bias"] is not None, init="zeros", dtype=value.dtype)
    layer.weight = value["weight"]
    if value["bias"] is not None:
        layer.bias = value["bias"].reshape(members, member_out)
    return layer


@builds("member_mean")
def make_member_mean(value: Value) -> Layer:
    return MemberMean(value.shape[1], value["members"], value["activation"])


@builds("p_relu", has_parameters=True)
def make_p_relu(value: Value) -> Layer:
    layer = PReLU(value["slope"].size, dtype=value.dtype)
    layer.weight = value["slope"]
    return layer


@builds("softplus")
def make_softplus(value: Value) -> Layer:
    # log(1 + eˣ) is x from there on, in float64 later than in float32
    exact = 20.0 if value.dtype == np.float32 else 40.0
    threshold = exact if value["threshold"] is None else number(value["threshold"], value.dtype)
    return act.Softplus(number(value["beta"], value.dtype), threshold)


@builds("hardtanh")
def make_hardtanh(value: Value) -> Layer:
    low, high = (number(value[name], value.dtype) for name in ("low", "high"))
    return act.ReLU6() if (low, high) == (0, 6) else act.Hardtanh(low, high)


TRANSPARENT = ("input", "cast", "flatten")
OPS: dict[str, Callable[[Value, list[Node]], Node]] = {
    **{kind: (lambda value, read: read[0]) for kind in TRANSPARENT},
    "add": lambda value, read: read[0] + read[1],
    "multiply": lambda value, read: read[0] * read[1],
    "scale": lambda value, read: value["factor"] * read[0],
    "concatenate": lambda value, read: concatenate(read),
    "repeat": lambda value, read: repeat(read[0], width_of(value)),
}
