"""The ONNX operators that can be read: each is a function of a node's inputs, and of its attributes by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .onnx_values import (
    SELU_ALPHA,
    SELU_SCALE,
    WHOLE,
    Value,
    divide,
    multiply_columns,
    of,
    scale,
    shape_text,
    shift,
    width_of,
)

if TYPE_CHECKING:
    from .onnx import Reader


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
    def read(call: Call, axis: int) -> Value:
        value = call.matrix(0)
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
            result = call.constant(0).astype(dtype)
        return call.fold(result) if np.can_cast(call.constant(0).dtype, dtype) else result
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
    batches = {source["batch"] for source in call.reader.inputs}
    batch = batches.pop() if len(batches) == 1 else None
    copies = () if allowzero else (0,)
    if len(shape) == 2:
        rows, columns = shape
        keeps_rows = rows in (*copies, batch) or (rows == -1 and columns == value.width)
        if keeps_rows and (columns in (-1, value.width) or (columns in copies and len(value.shape) == 1)):
            return flat(value)
    raise ValueError(f"of {shape_text(value.shape)} to {shape}: supported is (batch, all the features)")


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
    table = weight.ndim == 2 and weight.dtype in (np.float16, np.float32, np.float64)
    if axis != 0 or not table or len(value.shape) != 1:
        raise ValueError("supported is an embedding: rows, axis 0, of a constant of two dimensions by (batch, columns)")
    dtype = np.result_type(weight.dtype, np.float32)
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
    "LogSoftmax": (along_features("log_softmax"), {"axis": -1}),  # before opset 13 it is 1: in two dimensions the same
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
    "Softmax": (along_features("softmax"), {"axis": -1}),
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
