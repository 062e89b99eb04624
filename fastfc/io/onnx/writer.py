"""Networks as ONNX models."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fastfc.extras import extra
from fastfc.io.checkpoint import write
from fastfc.io.onnx.values import CUBE, NORMAL_SLOPE, OF_MEMBERS, SELU_ALPHA, SELU_SCALE
from fastfc.kernels.program import table as program_table
from fastfc.nn import activations as act
from fastfc.nn import norms
from fastfc.nn.batch_ensemble import BatchEnsemble, LinearEnsemble, MemberMean
from fastfc.nn.container import Container, is_a
from fastfc.nn.dropout import Dropout
from fastfc.nn.embedding import Embedding
from fastfc.nn.layer import Layer
from fastfc.nn.linear import Linear, Tied
from fastfc.nn.numeric_embedding import NumericEmbedding
from fastfc.nn.per_feature import Parametric, PReLU, Scale
from fastfc.nn.scalers import Clamp, QuantileNormal, RobustScale
from fastfc.nn.standardize import Standardize

if TYPE_CHECKING:
    from fastfc.nn.node import Node

Function = TypeVar("Function", bound=Callable[..., str])
OPSET, IR_VERSION = 20, 9  # the oldest that have Gelu: ONNX Runtime 1.17
FARTHEST = 1e9  # its square is finite, and with 1 added is the same
LARGEST = 2_000_000_000  # bytes; what protobuf can hold is 2 GiB
SAME = {
    act.ReLU: "Relu",
    act.Sigmoid: "Sigmoid",
    act.Tanh: "Tanh",
    act.Softmax: "Softmax",
    act.LogSoftmax: "LogSoftmax",
    act.Identity: "Identity",
    act.Sin: "Sin",
    act.Cos: "Cos",
}

WRITERS: dict[type[Layer], Any] = {}


def writes(kind: type[Layer]) -> Callable[[Function], Function]:
    """Declare what writes a layer: its nodes, and the name of their output."""

    def declare(function: Function) -> Function:
        WRITERS[kind] = function
        return function

    return declare


def to_onnx(network: Container, path: str | os.PathLike[str]) -> None:
    """See Network.to_onnx."""
    onnx = extra("onnx", "onnx", "to_onnx")
    size = network.params.nbytes + network.buffers.nbytes
    if size > LARGEST:
        raise ValueError(f"to_onnx: an ONNX file holds 2 GB, but the network has {size:,} bytes")
    model = Writer(onnx, network).model()
    onnx.checker.check_model(model, full_check=True)
    write(os.path.realpath(os.fsdecode(path)), model.SerializeToString())


def own_name(layer: Layer, i: int) -> str:
    return f"{i}" if layer.name is None or isinstance(layer, act.Activation) else layer.name


class Writer:
    """The nodes and initializers so far. Values are known by their names."""

    def __init__(self, onnx: Any, network: Any) -> None:
        self.onnx, self.network = onnx, network
        self.dtype = network.dtype or np.dtype(np.float32)
        self.double = self.dtype == np.float64
        self.nodes: list[tuple[str, list[str], str, dict[str, Any]]] = []
        self.constants: dict[str, np.ndarray] = {}
        self.stored: dict[tuple[int, str], str] = {}  # names of what layers hold, so that shared ones are there once
        self.names: set[str] = set()

    def model(self) -> Any:
        helper, network = self.onnx.helper, self.network
        widths: list[Any] = [network.in_features or "features"]
        out_widths: list[Any] = [network.out_features or "features"]
        named: list[str | None] = [None]
        if is_a(network, "Graph"):
            widths, out_widths = ([node.width for node in nodes] for nodes in (network.inputs, network.outputs))
            named = [getattr(node, "name", None) for node in network.inputs]
        wanted = [name or ("input" if len(named) == 1 else f"input_{i}") for i, name in enumerate(named)]
        inputs = [self.name(name) for name in wanted]
        many = len(out_widths) > 1
        outputs = [self.name(f"output_{i}" if many else "output") for i in range(len(out_widths))]
        shapes = [[width] for width in widths]
        read = inputs
        if network.input_shapes is not None:
            shapes = [list(shape) for shape in network.input_shapes]
            rows = zip(inputs, shapes, strict=True)
            read = [x if len(s) == 1 else self.op("Reshape", x, np.array([-1, math.prod(s)])) for x, s in rows]
        values = self.graph(network, read, "") if is_a(network, "Graph") else [self.layer(network, read[0], "")]
        rename: dict[str, str] = {}
        for value, output in zip(values, outputs, strict=True):
            if value in inputs or value in rename:
                self.nodes.append(("Identity", [value], output, {}))
            else:
                rename[value] = output
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        nodes = [
            helper.make_node(op, [rename.get(v, v) for v in read], [rename.get(y, y)], **attributes)
            for op, read, y, attributes in self.nodes
        ]
        describe = lambda names, shapes: [
            helper.make_tensor_value_info(name, kind, ["batch", *shape])
            for name, shape in zip(names, shapes, strict=True)
        ]
        constants = [self.onnx.numpy_helper.from_array(array, name) for name, array in self.constants.items()]
        graph = helper.make_graph(
            nodes, "fastfc", describe(inputs, shapes), describe(outputs, [[w] for w in out_widths]), constants
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="fastfc")

    def name(self, wanted: str) -> str:
        """A name that is new, like this."""
        name, i = wanted, 1
        while name in self.names:
            name, i = f"{wanted}_{i}", i + 1
        self.names.add(name)
        return name

    def weights(self, layer: Layer, place: str, *names: str) -> list[str]:
        """The initializers of those arrays that the layer has."""
        return [self.of(layer, name, place) for name in names if getattr(layer, name) is not None]

    def op(self, op: str, *read: str | float | np.ndarray, **attributes: Any) -> str:
        """Add a node; what it gives. Numbers and arrays among what it reads become initializers."""
        names = [value if isinstance(value, str) else self.constant(value) for value in read]
        self.nodes.append((op, names, self.name(op.lower()), attributes))
        return self.nodes[-1][2]

    def constant(self, value: Any, name: str = "constant") -> str:
        array = np.asarray(value)
        name = self.name(name)
        # a copy, as the network's own may be changed, and in the order that the file has
        self.constants[name] = np.array(array, array.dtype if array.dtype == np.int64 else self.dtype, order="C")
        return name

    def of(self, layer: Layer, what: str, prefix: str) -> str:
        """The initializer of one of the layer's arrays."""
        key = id(layer), what
        if key not in self.stored:
            self.stored[key] = self.constant(getattr(layer, what), f"{prefix}.{what}")
        return self.stored[key]

    def product_weight(self, layer: Linear, prefix: str, width: int | None = None) -> str:
        """The initializer of a weight, with the factor of the NTK parametrization for so many inputs."""
        if layer.parametrization == "standard":
            return self.of(layer, "weight", prefix)
        return self.constant(layer.effective_weight(width), f"{prefix}.weight")

    def graph(self, graph: Any, inputs: list[str], prefix: str) -> list[str]:
        values: dict[Node, str] = dict(zip(graph.inputs, inputs, strict=True))
        places = {layer: f"{prefix}{own_name(layer, i)}" for i, layer in enumerate(graph.layers)}
        for node in graph.nodes:
            if node in values:
                continue
            read = [values[other] for other in node.inputs]
            if isinstance(node.what, Layer):
                values[node] = self.layer(node.what, read[0], places[node.what])
            elif node.what == program_table.CONCAT:
                values[node] = self.op("Concat", *read, axis=1)
            elif node.what == program_table.SCALE:
                values[node] = self.op("Mul", read[0], node.factor)
            else:
                values[node] = self.op("Add" if node.what == program_table.ADD else "Mul", *read)
        return [values[node] for node in graph.outputs]

    def layer(self, layer: Layer, x: str, place: str) -> str:
        """What the layer gives for x; `place` says where in the network it is."""
        kind = type(layer)
        if is_a(layer, "Graph"):
            return self.graph(layer, [x], f"{place}." if place else "")[0]
        if is_a(layer, "Sequential"):
            for i, part in enumerate(layer.layers):
                x = self.layer(part, x, f"{place}." * bool(place) + own_name(part, i))
            return x
        if kind in SAME:
            return self.op(SAME[kind], x, **({"axis": 1} if "Softmax" in SAME[kind] else {}))
        if kind not in WRITERS:
            raise ValueError(
                f"to_onnx: layer {place}, {layer}, cannot be written in ONNX; the layers of fastfc can, but Elementwise"
            )
        return WRITERS[kind](self, layer, x, place)

    def where_positive(self, x: str, other: str) -> str:
        return self.op("Where", self.op("Greater", x, 0.0), x, other)

    def softplus(self, x: str) -> str:
        if not self.double:
            return self.op("Softplus", x)
        log = self.op("Log", self.op("Add", self.op("Exp", x), 1.0))
        return self.op("Where", self.op("Greater", x, 40.0), x, log)

    def exponential(self, x: str, alpha: float, factor: float = 1.0) -> str:
        """x where x > 0, else alpha (e^(factor x) − 1)"""
        inner = x if factor == 1 else self.op("Mul", x, factor)
        return self.where_positive(x, self.op("Mul", self.op("Sub", self.op("Exp", inner), 1.0), alpha))

    def smooth_clip(self, x: str, limit: float) -> str:
        """x / √(1 + (x / limit)²), where a number so far out that its square overflows is at the limit."""
        ratio = self.op("Clip", self.op("Div", x, limit), -FARTHEST, FARTHEST)
        root = self.op("Sqrt", self.op("Add", self.op("Mul", ratio, ratio), 1.0))
        return self.op("Mul", self.op("Div", ratio, root), limit)

    def places(self, x: str, low: np.ndarray, slope: np.ndarray) -> str:
        """(x − low) slope for each column of these, feature after feature."""
        spread = self.op("Gemm", x, np.kron(np.eye(len(low)), np.ones(low.shape[1])))
        return self.op("Mul", self.op("Sub", spread, low.ravel()), slope.ravel())

    def pieces(self, x: str, edges: np.ndarray) -> str:
        """The place of each feature in each of its bins, from 0 to 1, but beyond in the outermost bins."""
        low, slope = pieces_of(edges)
        place = self.places(x, low, slope)
        last = (edges[:, 1:] == edges[:, -1:]) & (slope > 0)
        first = np.broadcast_to(np.arange(low.shape[1]) == 0, last.shape)
        below = self.op("Mul", self.op("Relu", self.op("Neg", place)), first.ravel())
        above = self.op("Mul", self.op("Relu", self.op("Sub", place, 1.0)), last.ravel())
        return self.op("Add", self.op("Sub", self.op("Clip", place, 0.0, 1.0), below), above)

    def normalised(self, x: str, eps: float, centered: bool) -> str:
        if centered:
            x = self.op("Sub", x, self.mean(x))
        variance = self.mean(self.op("Mul", x, x))
        return self.op("Div", x, self.op("Sqrt", self.op("Add", variance, eps)))

    def row_of(self, layer: Layer, what: str, prefix: str) -> str:
        """The initializer of an array of the members', side by side."""
        return self.constant(getattr(layer, what).ravel(), f"{prefix}.{what}")

    def repeated(self, x: str, layer: BatchEnsemble | LinearEnsemble) -> str:
        """The input of all members side by side."""
        return self.op("Concat", *[x] * layer.members, axis=1) if layer.shared_input else x

    def by_member(self, x: str, members: int, columns: int) -> str:
        """(n, members, columns) of columns that stand side by side."""
        return self.op("Reshape", x, np.array([0, members, columns]))

    def mean(self, x: str) -> str:
        return self.op("ReduceMean", x, np.array([1]), keepdims=1)


# Attributes of ONNX are float32, and ONNX Runtime has kernels for float64 for few activations: in float64, the others
# are written as formulas.


@writes(act.LeakyReLU)
def leaky_relu(w: Writer, layer: act.LeakyReLU, x: str, place: str) -> str:
    if w.double:
        return w.where_positive(x, w.op("Mul", x, layer.negative_slope))
    return w.op("LeakyRelu", x, alpha=layer.negative_slope)


@writes(act.LogSigmoid)
def log_sigmoid(w: Writer, layer: act.LogSigmoid, x: str, place: str) -> str:
    return w.op("Neg", w.softplus(w.op("Neg", x)))


@writes(act.Hardtanh)
def hardtanh(w: Writer, layer: act.Hardtanh, x: str, place: str) -> str:
    return w.op("Clip", x, layer.min_val, layer.max_val)


@writes(act.ReLU6)
def relu6(w: Writer, layer: act.ReLU6, x: str, place: str) -> str:
    return w.op("Clip", x, 0.0, 6.0)


@writes(act.ELU)
def elu(w: Writer, layer: act.ELU, x: str, place: str) -> str:
    return w.exponential(x, layer.alpha) if w.double else w.op("Elu", x, alpha=layer.alpha)


@writes(act.SELU)
def selu(w: Writer, layer: act.SELU, x: str, place: str) -> str:
    return w.op("Mul", w.exponential(x, SELU_ALPHA), SELU_SCALE) if w.double else w.op("Selu", x)


@writes(act.CELU)
def celu(w: Writer, layer: act.CELU, x: str, place: str) -> str:
    return w.exponential(x, layer.alpha, 1 / layer.alpha) if w.double else w.op("Celu", x, alpha=layer.alpha)


@writes(act.Softplus)
def softplus(w: Writer, layer: act.Softplus, x: str, place: str) -> str:
    inner = x if layer.beta == 1 else w.op("Mul", x, layer.beta)
    soft = w.op("Log", w.op("Add", w.op("Exp", inner), 1.0)) if w.double else w.op("Softplus", inner)
    if layer.beta != 1:
        soft = w.op("Div", soft, layer.beta)
    # beyond this threshold the two are the same number
    if layer.threshold >= 20 and not w.double:
        return soft
    return w.op("Where", w.op("Greater", inner, layer.threshold), x, soft)


@writes(act.Softsign)
def softsign(w: Writer, layer: act.Softsign, x: str, place: str) -> str:
    return w.op("Div", x, w.op("Add", w.op("Abs", x), 1.0)) if w.double else w.op("Softsign", x)


@writes(act.Hardsigmoid)
def hardsigmoid(w: Writer, layer: Any, x: str, place: str) -> str:
    if w.double:
        return w.op("Div", w.op("Clip", w.op("Add", x, 3.0), 0.0, 6.0), 6.0)
    return w.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)


@writes(act.Hardswish)
def hardswish(w: Writer, layer: act.Hardswish, x: str, place: str) -> str:
    return w.op("Mul", x, hardsigmoid(w, layer, x, place)) if w.double else w.op("HardSwish", x)


@writes(act.SiLU)
def silu(w: Writer, layer: act.SiLU, x: str, place: str) -> str:
    return w.op("Mul", x, w.op("Sigmoid", x))


@writes(act.GELU)
def gelu(w: Writer, layer: act.GELU, x: str, place: str) -> str:
    if w.double and layer.approximate == "tanh":
        cube = w.op("Mul", w.op("Mul", w.op("Mul", x, x), x), CUBE)
        gate = w.op("Tanh", w.op("Mul", w.op("Add", x, cube), NORMAL_SLOPE))
        return w.op("Mul", w.op("Mul", x, 0.5), w.op("Add", gate, 1.0))
    return w.op("Gelu", x, approximate=layer.approximate)


@writes(act.Mish)
def mish(w: Writer, layer: act.Mish, x: str, place: str) -> str:
    return w.op("Mul", x, w.op("Tanh", w.softplus(x))) if w.double else w.op("Mish", x)


@writes(Linear)
def linear(w: Writer, layer: Linear, x: str, place: str) -> str:
    return w.op("Gemm", x, w.product_weight(layer, place), *w.weights(layer, place, "bias"))


@writes(Tied)
def tied(w: Writer, layer: Tied, x: str, place: str) -> str:
    weight = w.product_weight(layer.layer, place, layer.in_features)
    return w.op("Gemm", x, weight, *w.weights(layer, place, "bias"), transB=1)


@writes(norms.LayerNorm)
def layer_norm(w: Writer, layer: norms.LayerNorm, x: str, place: str) -> str:
    arrays = w.weights(layer, place, "weight", "bias")
    if not w.double:
        arrays = arrays or [w.constant(np.ones(layer.in_features))]
        return w.op("LayerNormalization", x, *arrays, axis=-1, epsilon=layer.eps)
    x = w.normalised(x, layer.eps, True)
    for op, array in zip(("Mul", "Add"), arrays, strict=False):
        x = w.op(op, x, array)
    return x


@writes(norms.RMSNorm)
def rms_norm(w: Writer, layer: norms.RMSNorm, x: str, place: str) -> str:
    x = w.normalised(x, float(np.finfo(w.dtype).eps) if layer.eps is None else layer.eps, False)
    weight = w.weights(layer, place, "weight")
    return w.op("Mul", x, *weight) if weight else x


@writes(norms.BatchNorm1d)
def batch_norm(w: Writer, layer: norms.BatchNorm1d, x: str, place: str) -> str:
    size = layer.in_features
    if layer.running_mean is None:
        raise ValueError(
            f"to_onnx: {layer} predicts by the statistics of each batch, which ONNX has for training only; train with "
            "track_running_stats=True"
        )
    weight = w.constant(np.ones(size)) if layer.weight is None else w.of(layer, "weight", place)
    bias = w.constant(np.zeros(size)) if layer.bias is None else w.of(layer, "bias", place)
    eps = np.float32(layer.eps)
    variance = w.of(layer, "running_var", place)
    if w.double and float(eps) != layer.eps:  # the attribute is float32: what it lacks goes to the variances
        eps = eps if float(eps) < layer.eps else np.nextafter(eps, np.float32(0))
        variance = w.constant(layer.running_var + (layer.eps - float(eps)), f"{place}.running_var")
    statistics, momentum = (w.of(layer, "running_mean", place), variance), 1 - (layer.momentum or 0.0)
    return w.op("BatchNormalization", x, weight, bias, *statistics, epsilon=float(eps), momentum=momentum)


@writes(act.SmoothClip)
def smooth_clip(w: Writer, layer: act.SmoothClip, x: str, place: str) -> str:
    return w.smooth_clip(x, layer.limit)


@writes(Scale)
def column_scale(w: Writer, layer: Scale, x: str, place: str) -> str:
    return w.op("Mul", x, w.of(layer, "weight", place))


@writes(PReLU)
def p_relu(w: Writer, layer: PReLU, x: str, place: str) -> str:
    slope = w.of(layer, "weight", place)
    if w.double:
        return w.op("Sub", w.op("Relu", x), w.op("Mul", w.op("Relu", w.op("Neg", x)), slope))
    return w.op("PRelu", x, slope)


@writes(Parametric)
def parametric(w: Writer, layer: Parametric, x: str, place: str) -> str:
    change = w.op("Sub", w.layer(layer.activation, x, place), x)
    return w.op("Add", x, w.op("Mul", change, w.of(layer, "weight", place)))


@writes(RobustScale)
def robust_scale(w: Writer, layer: RobustScale, x: str, place: str) -> str:
    z = w.op("Div", w.op("Sub", x, w.of(layer, "center", place)), w.of(layer, "scale", place))
    return z if layer.limit is None else w.smooth_clip(z, layer.limit)


@writes(Clamp)
def clamp(w: Writer, layer: Clamp, x: str, place: str) -> str:
    return w.op("Min", w.op("Max", x, w.of(layer, "low", place)), w.of(layer, "high", place))


@writes(QuantileNormal)
def quantile_normal(w: Writer, layer: QuantileNormal, x: str, place: str) -> str:
    # a hat at each knot: its rise less the rise to the next one, so that no more than two are not 0
    low, slope = pieces_of(layer.knots)
    nothing = np.zeros((len(low), 1))
    rises, falls = (
        w.op("Clip", w.places(x, np.hstack(lows), np.hstack(slopes)), 0.0, 1.0)
        for lows, slopes in (((nothing, low), (nothing, slope)), ((low, nothing), (slope, nothing)))
    )
    first = np.broadcast_to(np.arange(layer.n_quantiles) == 0, layer.knots.shape)
    hats = w.op("Sub", w.op("Add", rises, first.ravel()), falls)
    return w.op("Gemm", hats, block_diagonal(layer.values[:, :, None]))


@writes(NumericEmbedding)
def numeric_embedding(w: Writer, layer: NumericEmbedding, x: str, place: str) -> str:
    if layer.kind == "ple":
        y = w.pieces(x, layer.edges)
    else:
        turns = block_diagonal(2 * np.pi * layer.frequency.astype(np.float64)[:, None])
        y = waves(w, w.op("Gemm", x, turns, *([] if layer.phase is None else [layer.phase.ravel()])), layer)
    if layer.embedding_dim is not None:
        shape = layer.in_features, *layer.weight.shape[-2:]
        weight, bias = np.broadcast_to(layer.weight, shape), np.broadcast_to(layer.bias, (shape[0], shape[2]))
        y = w.op("Gemm", y, block_diagonal(weight), bias.ravel())
    y = w.op("Relu", y) if layer.relu else y
    return w.op("Concat", y, x, axis=1) if layer.dense else y


@writes(BatchEnsemble)
def batch_ensemble(w: Writer, layer: BatchEnsemble, x: str, place: str) -> str:
    u = w.op("Mul", w.repeated(x, layer), w.row_of(layer, "input_scale", place))
    y = w.op("MatMul", w.by_member(u, layer.members, layer.member_in), w.of(layer, "weight", place))
    y = w.op("Mul", w.op("Reshape", y, np.array([0, layer.out_features])), w.row_of(layer, "output_scale", place))
    return y if layer.bias is None else w.op("Add", y, w.row_of(layer, "bias", place))


@writes(LinearEnsemble)
def linear_ensemble(w: Writer, layer: LinearEnsemble, x: str, place: str) -> str:
    x, weight = w.by_member(w.repeated(x, layer), layer.members, layer.member_in), w.of(layer, "weight", place)
    y = w.op("Reshape", w.op("Einsum", x, weight, equation=OF_MEMBERS), np.array([0, layer.out_features]))
    return y if layer.bias is None else w.op("Add", y, w.row_of(layer, "bias", place))


@writes(MemberMean)
def member_mean(w: Writer, layer: MemberMean, x: str, place: str) -> str:
    along_rows = isinstance(layer.activation, act.Softmax | act.LogSoftmax)
    x = w.by_member(x if along_rows else w.layer(layer.activation, x, place), layer.members, layer.member_in)
    x = w.op(SAME[type(layer.activation)], x, axis=2) if along_rows else x
    return w.op("ReduceMean", x, np.array([1]), keepdims=0)


def waves(w: Writer, angles: str, layer: NumericEmbedding) -> str:
    """The functions of each feature, feature after feature."""
    cosines = w.op("Cos", angles)
    if layer.kind == "pbld":
        return cosines
    features, n = layer.frequency.shape
    order = np.arange(2 * features * n).reshape(2, features, n).transpose(1, 0, 2).ravel()
    return w.op("Gather", w.op("Concat", cosines, w.op("Sin", angles), axis=1), order, axis=1)


def pieces_of(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the pieces between edges begin, and their slopes, 0 for those of no width."""
    edges = edges.astype(np.float64)
    width = np.diff(edges)
    return edges[:, :-1], np.divide(1, width, out=np.zeros_like(width), where=width > 0)


def block_diagonal(blocks: np.ndarray) -> np.ndarray:
    """A matrix of these blocks, (n, rows, columns), along its diagonal."""
    n, rows, columns = blocks.shape
    result = np.zeros((n, rows, n, columns))
    result[np.arange(n), :, np.arange(n)] = blocks
    return result.reshape(n * rows, n * columns)


@writes(Standardize)
def standardize(w: Writer, layer: Standardize, x: str, place: str) -> str:
    return w.op("Div", w.op("Sub", x, w.of(layer, "mean", place)), w.of(layer, "scale", place))


@writes(Embedding)
def embedding(w: Writer, layer: Embedding, x: str, place: str) -> str:
    rows = w.op("Gather", w.of(layer, "weight", place), w.op("Cast", x, to=w.onnx.TensorProto.INT64), axis=0)
    return w.op("Flatten", rows, axis=1)


@writes(Dropout)
def dropout(w: Writer, layer: Dropout, x: str, place: str) -> str:
    return x
