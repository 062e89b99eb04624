"""The ONNX operators that can be read: each is a function of a node's inputs, and of its attributes by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastfc.io.onnx.constants import axes_of, has_batch, normalized, parts, slices, squeezed, unsqueezed
from fastfc.io.onnx.values import (
    BATCH,
    OF_MEMBERS,
    SELU_ALPHA,
    SELU_SCALE,
    UNFINISHED,
    WHOLE,
    Value,
    check_width,
    divide,
    multiply_columns,
    of,
    scale,
    select,
    shape_text,
    shift,
    view,
    width_of,
)
from fastfc.validation import FLOATS


class Call:
    """A node and what it reads."""

    def __init__(self, reader: Any, node: Any) -> None:
        self.reader, self.node, self.opset = reader, node, reader.opset

    def argument(self, i: int) -> Value | NDArray[Any] | None:
        """A value, a constant, or None where there is none."""
        return self.reader.argument(self.node.input[i]) if i < len(self.node.input) else None

    def value(self, i: int, whole: bool = False) -> Value:
        value = self.argument(i)
        if not isinstance(value, Value):
            raise ValueError(f"input {i} must depend on the model's inputs")
        if value.kind == "labels":
            raise ValueError(f"input {i} is made of labels, which are not numbers to compute with")
        if (value.dtype == np.int64) != whole:
            raise ValueError(f"input {i} is {value.dtype}, which is supported only for Gather and Cast of an input")
        return value

    def values(self) -> list[Value]:
        return [self.value(i) for i in range(len(self.node.input))]

    def matrix(self, i: int) -> Value:
        """A value whose last axis is that of the features: all others but the batch have length 1."""
        value = self.value(i)
        if not value.shape or value.shape[-1] is BATCH:
            raise ValueError(f"input {i} has shape {shape_text(value.shape)}; supported is (batch, features)")
        if any(size not in (1, BATCH) for size in value.shape[:-1]):
            raise ValueError(f"input {i} has {len(value.shape)} dimensions; supported are two, so flatten it before")
        return value

    def constant(self, i: int, optional: bool = False) -> Any:
        constant = self.argument(i)
        if isinstance(constant, Value) or (constant is None and not optional):
            raise ValueError(f"input {i} must be a constant")
        if isinstance(constant, np.ndarray) and has_batch(constant):
            raise ValueError(f"input {i} depends on the number of samples")
        return constant

    def sizes(self, i: int) -> list[Any]:
        """A shape, which may say BATCH."""
        given = self.argument(i)
        if not isinstance(given, np.ndarray):
            raise ValueError(f"input {i} must be a constant")
        return [size if size is BATCH else int(size) for size in given]

    def scalar(self, i: int) -> float | None:
        constant = self.constant(i, optional=True)
        if constant is None:
            return None
        if constant.size != 1:
            raise ValueError(f"input {i} has shape {constant.shape}; supported is one number")
        return constant.item()

    def with_row(self, i: int, value: Value) -> tuple[Value, NDArray[Any]]:
        """A value, as wide as with such a constant, and the constant as one number or one for each feature."""
        constant, rank = self.constant(i), len(value.shape)
        if constant.size == 1 and constant.ndim <= rank:
            return value, constant.reshape(())
        if constant.ndim <= rank and value.width is None:
            aligned = (1,) * (rank - constant.ndim) + constant.shape
            if aligned[value.shape.index(None)] > 1:
                value.told(math.prod(aligned))
            width_of(value)
        shape = broadcast(value.shape, constant.shape) if constant.ndim <= rank else None
        if shape is None:
            width = "×".join(map(str, value.features))
            raise ValueError(
                f"input {i} has shape {constant.shape}; supported are one number, or {width}, one a feature"
            )
        row = constant.reshape((1,) * (rank - constant.ndim) + constant.shape)
        return expand(value, shape), np.broadcast_to(row, of_one_sample(shape)).ravel()

    def full_row(self, i: int, value: Value) -> NDArray[Any] | None:
        """Of a norm's features, which are on one axis."""
        constant = self.constant(i, optional=True)
        if constant is None:
            return None
        if value.width is None and constant.size > 1:
            value.told(constant.size)
        if constant.shape not in ((), (1,), (width_of(value),)):
            raise ValueError(f"input {i} has shape {constant.shape}; supported is ({value.width},)")
        return np.broadcast_to(constant, (width_of(value),)).astype(value.dtype)

    def is_whole(self, i: int) -> bool:
        value = self.argument(i)
        return isinstance(value, Value) and value.dtype == np.int64

    def origin(self, i: int) -> tuple[str, bool]:
        name = self.node.input[i]
        return self.reader.origins.get(name, (name, False))


def of_one_sample(shape: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(1 if size is BATCH else size for size in shape)


def broadcast(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The shape of the two together; None if there is none, or none of one row for each sample."""
    rank = max(len(a), len(b))
    a, b = ((1,) * (rank - len(shape)) + tuple(shape) for shape in (a, b))
    if any(p != q and 1 not in (p, q) for p, q in zip(a, b, strict=True)):
        return None
    result = tuple(q if p == 1 else p for p, q in zip(a, b, strict=True))
    return result if result.count(BATCH) <= 1 else None


def expand(value: Value, shape: tuple[Any, ...]) -> Value:
    """A value in a shape that it is broadcast to."""
    own = (1,) * (len(shape) - len(value.shape)) + value.shape
    if all(p == q or q is BATCH for p, q in zip(own, shape, strict=True)):
        return view(value, shape)
    check_width(shape)
    columns = np.arange(width_of(value)).reshape(of_one_sample(own))
    return select(value, np.broadcast_to(columns, of_one_sample(shape)).ravel(), shape)


def together(*values: Value) -> list[Value]:
    """Values broadcast to one shape."""
    shape: tuple[Any, ...] | None = values[0].shape
    for value in values[1:]:
        other = broadcast(shape, value.shape) if shape is not None else None
        # a sample alone would meet every one of the batch
        shape = other if (BATCH in values[0].shape) == (BATCH in value.shape) else None
    if shape is None or any(value.shape != shape and value.kind in UNFINISHED for value in values):
        what = " and ".join(shape_text(value.shape) for value in values)
        raise ValueError(f"of {what} is not supported; the two must be equal")
    return [expand(value, shape) for value in values]


def plain(kind: str) -> Callable[[Call], Value]:
    return lambda call: of(kind, call.value(0))


def along_features(kind: str) -> Callable[..., Value]:
    def read(call: Call, axis: int | None) -> Value:
        value = call.value(0)
        if axis is None:
            axis = -1 if call.opset >= 13 else 1
        if members_of(value) and axis in (2, -1):
            return of(f"member_{kind}", value)
        # until opset 12, along all axes from there on
        check_axes(value, axis, to_the_end=call.opset < 13)
        return of(kind, value)

    return read


def check_axes(value: Value, axis: int, to_the_end: bool) -> None:
    """Raise unless the features lie on this axis, or on it and those after it."""
    rank = len(value.shape)
    axes = {axis % rank} if -rank <= axis < rank else set()
    if axes and to_the_end:
        axes = set(range(axis % rank, rank))
    wrong = any(size is BATCH if i in axes else size not in (1, BATCH) for i, size in enumerate(value.shape))
    if wrong and sum(size not in (1, BATCH) for size in value.shape) > 1:
        raise ValueError(f"input 0 has {rank} dimensions; supported are two, so flatten it before")
    if not axes or wrong:
        raise ValueError(f"attribute axis is {axis}; supported are the features, 1 or -1")


def identity(call: Call) -> Value:
    return call.value(0, whole=call.is_whole(0))


def constant(call: Call, **given: Any) -> Any:
    ((name, value),) = ((name, value) for name, value in given.items() if value is not None)
    if name == "value":
        return call.reader.array(value)
    return np.array(value, np.float32 if "float" in name else np.int64)


def cast(call: Call, to: int, saturate: int, round_mode: str) -> Value:
    """A network converts its inputs to its own dtype, at once. So an input may be cast to that."""
    reader, value = call.reader, call.value(0, whole=call.is_whole(0))
    kinds, source = reader.onnx.TensorProto, value
    if saturate != 1 or round_mode != "up":
        raise ValueError("attributes saturate and round_mode: supported are 1 and 'up'")
    if value.kind == "greater":
        return Value("labels", value.inputs, value.shape, WHOLE)
    known = reader.floats | dict.fromkeys(reader.integers, WHOLE)
    if value.kind == "cast" and value["lossless"]:
        source = value.inputs[0]
    of_type = reader.dtype_of(reader.types.get(call.node.input[0], kinds.UNDEFINED))
    to_type = reader.dtype_of(to)
    if to in known and source.kind == "input":
        lossless = is_lossless(source["type"], to_type)
        if to != kinds.FLOAT16 or lossless:
            return Value("cast", (source,), source.shape, known[to], {"lossless": lossless})
    elif value.dtype != np.int64 and to in known and known[to] == value.dtype and is_lossless(of_type, to_type):
        return value
    raise ValueError(
        f"to {kinds.DataType.Name(to)} of a {value.dtype} is supported only for inputs of the model, and where it "
        "rounds nothing or to the network's own dtype"
    )


def is_lossless(a: np.dtype[Any], b: np.dtype[Any]) -> bool:
    """Whether all numbers of one dtype are in the other."""
    if a.kind == "i" and b.kind == "f":
        return np.iinfo(a).bits - 1 <= np.finfo(b).nmant + 1
    return np.can_cast(a, b)


def transpose(call: Call, perm: list[int] | None) -> Value:
    value = call.value(0)
    if perm is None or perm != list(range(len(value.shape))):
        raise ValueError("input 0 must be a constant; values are not transposed")
    return value


def squeeze(call: Call, axes: list[int] | None) -> Value:
    value = call.value(0)
    if None in value.shape:
        width_of(value)
    return view(value, squeezed(value.shape, axes_of(call, axes)))


def unsqueeze(call: Call, axes: list[int] | None) -> Value:
    value = call.value(0)
    return view(value, unsqueezed(value.shape, axes_of(call, axes)))


def flatten(call: Call, axis: int) -> Value:
    value = call.value(0)
    rank = len(value.shape)
    if not -rank <= axis <= rank:
        raise ValueError(f"attribute axis is {axis}; there are {rank} dimensions")
    before, after = value.shape[: axis + rank * (axis < 0)], value.shape[axis + rank * (axis < 0) :]
    if BATCH in value.shape and (BATCH not in before or any(size not in (1, BATCH) for size in before)):
        raise ValueError(f"attribute axis is {axis}; supported is 1, all but the batch")
    if None in after:
        return view(value, (BATCH, None))
    return view(value, (BATCH if BATCH in before else math.prod(before), math.prod(after)))


def reshape(call: Call, allowzero: int) -> Value:
    value, shape = call.value(0), call.sizes(1)
    result = reshaped(call, value, shape, allowzero)
    if result is not None and len(result) == 3 and result[0] is BATCH and min(result[1:]) > 1:
        return of("by_member", value, shape=result, text=f"of {shape_text(value.shape)} to {shape}")
    if result is None or sum(size not in (1, BATCH) for size in result) > 1:
        raise ValueError(f"of {shape_text(value.shape)} to {shape}: supported is (batch, all the features)")
    return view(value, result)


def reshaped(call: Call, value: Value, shape: list[Any], allowzero: int) -> tuple[Any, ...] | None:
    """The shape that is meant, where the batch stays whole and comes first."""
    sizes = list(shape)
    if not allowzero:
        sizes = [value.shape[i] if size == 0 and i < len(value.shape) else size for i, size in enumerate(shape)]
    if value.width is None:  # all that is known is that all the features stay together
        return tuple(None if size == -1 else size for size in sizes) if sizes in ([BATCH, -1], [BATCH, None]) else None
    if BATCH in value.shape and BATCH not in sizes:
        others = [size for size in sizes if size != -1]
        batches = {source["batch"] for source in call.reader.inputs}
        batch = batches.pop() if len(batches) == 1 else None
        if -1 in sizes and math.prod(others) == value.width:
            sizes[sizes.index(-1)] = BATCH
        elif batch is not None and sizes and sizes[0] == batch:
            sizes[0] = BATCH
        elif batch != 1:
            return None
    first = sizes.index(BATCH) if BATCH in sizes else 0
    if any(size != 1 for size in sizes[:first]):
        return None
    known = math.prod(size for size in sizes if size not in (-1, BATCH))
    if -1 in sizes and known and value.width % known == 0:
        sizes[sizes.index(-1)] = value.width // known
    whole = [size for size in sizes if size is not BATCH]
    return tuple(sizes) if min(whole, default=1) > 0 and math.prod(whole) == value.width else None


def gemm(call: Call, alpha: float, beta: float, transA: int, transB: int) -> Value:
    if transA:
        raise ValueError("attribute transA is 1: the batch would be the columns; supported is 0")
    weight = call.constant(1)
    value = product(call, weight.T if transB else weight, bool(transB), alpha)
    if not beta or call.argument(2) is None:  # with beta 0 the third input is not looked at
        return value
    if isinstance(call.argument(2), Value):
        bias = call.value(2)
        if broadcast(value.shape, bias.shape) != value.shape:
            raise ValueError(f"input 2 has shape {shape_text(bias.shape)}, not {shape_text(value.shape)}")
        return of("add", *together(value, bias if beta == 1 else scale(bias, beta)))
    value, row = call.with_row(2, value)
    with np.errstate(over="ignore"):
        row = (beta * row.astype(np.float64)).astype(value.dtype)
    if value.kind != "linear":
        return shift(value, row)
    value.settings |= {"bias": np.broadcast_to(row, (width_of(value),)), "bias_key": (*call.origin(2), beta)}
    return value


def members_of(value: Value) -> int | None:
    """How many members stand side by side in a value that was reshaped to (batch, members, columns)."""
    if len(value.shape) != 3 or value.shape[0] is not BATCH or value.shape[1] in (1, None):
        return None
    split = value.kind in ("by_member", "member_softmax", "member_log_softmax")
    return value.shape[1] if split or (value.kind == "flatten" and value.shape[2] == 1) else None


def of_rows(value: Value) -> Value:
    """The value that was reshaped to one of members."""
    return value.inputs[0] if value.kind == "by_member" else value


def matmul(call: Call) -> Value:
    value = call.value(0) if isinstance(call.argument(0), Value) else None
    members = None if value is None else members_of(value)
    if value is None or members is None or "softmax" in value.kind:
        return product(call, call.constant(1), False, 1.0)
    weight = call.constant(1)
    if weight.shape[:1] != value.shape[2:] or weight.ndim != 2:
        raise ValueError(f"of {shape_text(value.shape)} by {weight.shape} is not supported; members share one matrix")
    source, scales = of_rows(value), None
    if source.kind == "standardize" and source.readers == 1 and not source["mean"].any() and source["scale"].all():
        source, scales = source.inputs[0], np.broadcast_to(1 / source["scale"], width_of(value))
    settings = {"weight": weight.astype(value.dtype), "input_scale": scales, "output_scale": None, "bias": None}
    return of("batch_ensemble", source, shape=(BATCH, members, weight.shape[1]), **settings, members=members)


def einsum(call: Call, equation: str) -> Value:
    value, weight = call.value(0), call.constant(1)
    if equation.replace(" ", "") != OF_MEMBERS or len(call.node.input) != 2:
        raise ValueError(f"attribute equation is {equation!r}; supported is {OF_MEMBERS!r}")
    if weight.ndim != 3 or value.shape != (BATCH, *weight.shape[:2]):
        what = f"of {shape_text(value.shape)} by {weight.shape}"
        raise ValueError(f"{what} is not supported; give (batch, m, i) by (m, i, o)")
    shape = BATCH, weight.shape[0], weight.shape[2]
    return of("linear_ensemble", of_rows(value), shape=shape, weight=weight.astype(value.dtype), bias=None)


def product(call: Call, weight: NDArray[Any], transposed: bool, alpha: float) -> Value:
    value = call.matrix(0)
    if weight.ndim != 2:
        raise ValueError(f"input 1 has shape {weight.shape}; supported are two dimensions")
    if value.width is None:
        value.told(weight.shape[0])
    if value.width != weight.shape[0]:
        raise ValueError(f"input 0 has {value.width} features, but input 1 takes {weight.shape[0]}")
    name, was = call.origin(1)
    weight = weight.astype(value.dtype)
    with np.errstate(all="ignore"):
        scaled = (alpha * weight.astype(np.float64)).astype(value.dtype)
    tiny = np.finfo(value.dtype).tiny
    exact = alpha == 1 or (np.isfinite(scaled) & ((np.abs(scaled) >= tiny) | (weight == 0))).all()
    key = name, was != transposed, alpha if exact else 1.0
    settings = {"weight": scaled if exact else weight, "bias": None, "key": key, "bias_key": None}
    result = of("linear", value, shape=(*value.shape[:-1], weight.shape[1]), **settings)
    return result if exact else scale(result, alpha)


def add(call: Call) -> Value:
    a, b = call.argument(0), call.argument(1)
    if isinstance(a, Value) and isinstance(b, Value):
        return of("add", *together(*call.values()))
    i, j = (0, 1) if isinstance(a, Value) else (1, 0)
    value, row = call.with_row(j, call.value(i))
    return shift(value, row, (*call.origin(j), 1.0))


def subtract(call: Call) -> Value:
    a, b = call.argument(0), call.argument(1)
    if isinstance(a, Value) and isinstance(b, Value):
        if b.kind == "mean" and b.inputs[0] is a:
            return of("centered", a)
        a, b = together(*call.values())
        return of("add", a, scale(b, -1))
    if isinstance(a, Value):
        value, row = call.with_row(1, call.value(0))
        return shift(value, -row.astype(value.dtype))
    value, row = call.with_row(0, call.value(1))
    return shift(scale(value, -1), row)


def multiply(call: Call) -> Value:
    a, b = call.argument(0), call.argument(1)
    if isinstance(a, Value) and isinstance(b, Value):
        result = of("multiply", *call.values())
        return of("multiply", *together(a, b)) if result.kind == "multiply" else result
    i, j = (0, 1) if isinstance(a, Value) else (1, 0)
    value, by = call.with_row(j, call.value(i))
    return times(value, by, j)


def times(value: Value, by: NDArray[Any], i: int) -> Value:
    by = by.astype(value.dtype)
    if not np.isfinite(by).all():
        raise ValueError(f"input {i} has factors that are not finite")
    if by.ndim == 0:
        return scale(value, by.item())
    product = multiply_columns(value, by)
    if product is None:
        raise ValueError(f"input {i} has factors too small or too large to divide by their inverse in {value.dtype}")
    return product


def division(call: Call) -> Value:
    a, b = call.argument(0), call.argument(1)
    if isinstance(a, Value) and isinstance(b, Value):
        return of("quotient", *call.values())
    if isinstance(a, Value):
        return divide(*call.with_row(1, call.value(0)))
    number, value = call.constant(0), call.value(1)
    if number.size == 1 and number.item() == 1 and number.ndim <= len(value.shape):
        return of("reciprocal", value)
    raise ValueError("of a constant by a value is not supported")


def power(call: Call) -> Value:
    value, exponent = call.value(0), call.scalar(1)
    return of("sqrt", value) if exponent == 0.5 else of("power", value, exponent=exponent)


def sum_(call: Call) -> Value:
    return folded(call, lambda a, b: of("add", *together(a, b)), lambda a, row, i: shift(a, row))


def extremum(sign: int) -> Callable[[Call], Value]:
    """Max, and with sign −1 Min, which is −max(−a, −b)."""

    def with_row(a: Value, row: NDArray[Any], i: int) -> Value:
        row = row.astype(a.dtype)
        if not np.isfinite(row).all():
            raise ValueError(f"input {i} has bounds that are not finite")
        if (row == row.flat[0]).all():
            bound = row.flat[0].item()
            low, high = (bound, math.inf) if sign > 0 else (-math.inf, bound)
            return of("hardtanh", a, low=low, high=high)
        first = steps(shift(scale(a, sign), -sign * row))
        return of("add", of("multiply", first, a), times(shift(scale(first, -1), 1.0), row, i))

    def of_two(a: Value, b: Value) -> Value:
        if a is b:
            return a
        a, b = together(a, b)
        first = steps(scale(of("add", a, scale(b, -1)), sign))
        return of("add", of("multiply", first, a), of("multiply", shift(scale(first, -1), 1.0), b))

    return lambda call: folded(call, of_two, with_row)


def steps(a: Value) -> Value:
    """1 where a > 0, else 0: twice this factor makes the smallest number at least 1."""
    factor = 2.0**100 if a.dtype == np.float32 else 2.0**1000
    return of("hardtanh", of("scale", of("scale", a, factor=factor), factor=factor), low=0.0, high=1.0)


def folded(call: Call, of_two: Callable[..., Value], with_row: Callable[..., Value]) -> Value:
    """What an operator of any number of inputs gives of two, one after the other; constants are the last."""
    arguments = [call.argument(i) for i in range(len(call.node.input))]
    first, *others = sorted(range(len(arguments)), key=lambda i: not isinstance(arguments[i], Value))
    result = call.value(first)
    for i in others:
        if isinstance(arguments[i], Value):
            result = of_two(result, call.value(i))
        else:
            wide, row = call.with_row(i, result)
            result = with_row(wide, row, i)
    return result


def p_relu(call: Call) -> Value:
    """x where x > 0, else slope · x; for slopes that are not finite, as relu(x) − slope · relu(−x)."""
    value = call.value(0)
    wide, slope = call.with_row(1, value)
    if wide.width != value.width:
        raise ValueError(f"input 1 has shape {call.constant(1).shape}, which is wider than the value")
    if np.isfinite(slope).all():
        shared = (slope == slope.flat[0]).all()
        return of("p_relu", value, slope=slope.ravel()[: 1 if shared else None])
    below = scale(of("relu", scale(value, -1)), -1)
    return of("add", of("relu", value), times(below, slope, 1))


def reduce_mean(call: Call, axes: list[int] | None, keepdims: int, noop_with_empty_axes: int) -> Value:
    value = call.value(0)
    given, rank = axes_of(call, axes, since=18), len(value.shape)
    if rank == 3 and given == [1] and not keepdims and value.shape[0] is BATCH:
        return mean_of_members(value)
    value = call.matrix(0)
    if given is None or given not in ([rank - 1], [-1]) or not keepdims:
        raise ValueError("supported is only the mean of the features, axes 1 or -1 with keepdims")
    return of("mean", value, shape=(*value.shape[:-1], 1))


def mean_of_members(value: Value) -> Value:
    shape = BATCH, value.shape[2]
    if value.shape[1] == 1:
        return view(value, shape)
    members = members_of(value)
    if members is None:
        raise ValueError(f"of {shape_text(value.shape)} along axis 1 is supported only where features were reshaped so")
    activation = value.kind.removeprefix("member_") if "softmax" in value.kind else "identity"
    source = of_rows(value.inputs[0] if "softmax" in value.kind else value)
    return of("member_mean", source, shape=shape, members=members, activation=activation)


def greater(call: Call) -> Value:
    return of("greater", call.value(0), number=call.scalar(1))


def where(call: Call) -> Value:
    condition, a, b = (call.value(i) for i in range(3))
    if not condition.shape == a.shape == b.shape:
        raise ValueError(f"of {shape_text(a.shape)} and {shape_text(b.shape)} is not supported; the two must be equal")
    return of("where", condition, a, b, shape=a.shape)


def clip(call: Call, min: float | None, max: float | None) -> Value:
    """What is not given is the largest finite number, and for ReLU infinity."""
    value = call.value(0)
    low, high = (min, max) if call.opset < 11 else (call.scalar(1), call.scalar(2))
    largest = float(np.finfo(np.float32 if call.opset < 11 else value.dtype).max)
    if low == 0 and high in (None, math.inf):
        return of("relu", value)
    given = low is not None or high is not None or call.opset < 11
    lower, upper = -largest if low is None else low, largest if high is None else high
    if not given or not lower < upper:
        raise ValueError(f"from {low} to {high} is not supported; give a bound, and the lower one first")
    return of("hardtanh", value, low=lower, high=upper)


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


def feature_axis(value: Value, axis: int) -> int:
    """The axis, counted from the first one, unless it is that of the batch."""
    axis = normalized(axis, len(value.shape))
    if value.shape[axis] is BATCH:
        raise ValueError(f"attribute axis is {axis}; supported are the features, 1 or -1")
    return axis


def concat(call: Call, axis: int) -> Value:
    values = call.values()
    axis = feature_axis(values[0], axis)
    around = [(value.shape[:axis], value.shape[axis + 1 :]) for value in values]
    if any(other != around[0] for other in around) or any(size not in (1, BATCH) for size in around[0][0]):
        what = ", ".join(shape_text(value.shape) for value in values)
        raise ValueError(f"of {what} along axis {axis} is not supported; flatten them before")
    if len(values) == 1:
        return values[0]
    before, after = around[0]
    size = sum(width_of(value) for value in values) // math.prod(size for size in after if size is not BATCH)
    return of("concatenate", *values, shape=(*before, size, *after))


def cut(value: Value, axis: int, indices: Any) -> Value:
    """What indices, or a slice, take along an axis."""
    columns = np.arange(width_of(value)).reshape(of_one_sample(value.shape))
    columns = np.asarray(columns[(slice(None),) * axis + (indices,)])
    if not columns.size:
        raise ValueError("it takes no features")
    shape = (*value.shape[:axis], *columns.shape[axis : columns.ndim - (len(value.shape) - axis - 1)])
    return select(value, columns.ravel(), (*shape, *value.shape[axis + 1 :]))


def slice_(call: Call, starts: Any, ends: Any, axes: Any) -> Value:
    value = call.value(0)
    for axis, part in slices(call, len(value.shape), starts, ends, axes).items():
        if value.shape[axis] is BATCH:
            if (part.start, part.step) != (0, 1) or part.stop < np.iinfo(np.int32).max:
                raise ValueError("it takes some of the samples; supported is along the features")
        else:
            value = cut(value, axis, part)
    return value


def split(call: Call, axis: int, split: Any, num_outputs: int | None) -> list[Value]:
    value = call.value(0)
    axis = feature_axis(value, axis)
    width_of(value)
    return [cut(value, axis, part) for part in parts(call, value.shape[axis], split, num_outputs)]


def shape_of(call: Call, start: int, end: int | None) -> NDArray[Any]:
    value = call.argument(0)
    shape = value.shape if isinstance(value, Value) else call.constant(0).shape
    if None in shape:
        raise ValueError("the number of features is not known; give the model's input a shape")
    part = shape[start:end]
    return np.array(part, object if BATCH in part else np.int64)


def scaler(call: Call, offset: list[float], scale: list[float]) -> Value:
    """(x − offset) · scale, in float32 for any x."""
    reader = call.reader
    whole = call.is_whole(0)
    value = call.value(0, whole=whole)
    if whole and value.kind == "input":
        value = Value("cast", (value,), value.shape, FLOATS[0], {"lossless": False})
    if value.dtype != np.float32 or reader.types.get(call.node.input[0]) == reader.onnx.TensorProto.FLOAT16:
        raise ValueError(f"of a {value.dtype} is not supported; supported are float32, and whole numbers of an input")
    if not value.shape or len(value.shape) > 2 or value.shape[-1] is BATCH:
        raise ValueError(f"of {shape_text(value.shape)} is not supported; supported is (batch, features)")
    if not offset or not scale or len(offset) != len(scale):
        raise ValueError("attributes offset and scale: supported are two of the same length")
    if value.width is None and len(offset) > 1:
        value.told(len(offset))
    if len(offset) not in (1, value.width):
        raise ValueError(f"attribute offset has {len(offset)} numbers, but the value {value.width} features")
    mean, factor = (np.array(row if len(row) > 1 else row[0], np.float32) for row in (offset, scale))
    return times(shift(value, -mean), factor, 0)


def zip_map(call: Call, classlabels_int64s: Any, classlabels_strings: Any) -> Value:
    """A dictionary for each sample: its values, in the order of the labels."""
    return call.matrix(0)


def labels(call: Call, **_: Any) -> Value:
    """Which class it is, of the numbers that say so."""
    value = call.value(0)
    return Value("labels", (value,), value.shape, WHOLE)


def layer_normalization(call: Call, axis: int, epsilon: float, stash_type: int) -> Value:
    value = call.value(0)
    check_axes(value, axis, to_the_end=True)
    check_stash(stash_type)
    return of("layer_norm", value, eps=epsilon, weight=call.full_row(1, value), bias=call.full_row(2, value))


def rms_normalization(call: Call, axis: int, epsilon: float, stash_type: int) -> Value:
    value = call.value(0)
    check_axes(value, axis, to_the_end=True)
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
    data = call.argument(0)
    if isinstance(data, Value):
        value = call.value(0)
        axis = feature_axis(value, axis)
        indices, size = call.constant(1), width_of(value) and value.shape[axis]
        if indices.size and not (-size <= indices.min() and indices.max() < size):
            raise ValueError(f"input 1 has indices that are not in an axis of length {size}")
        return cut(value, axis, indices)
    weight, value = call.constant(0), call.value(1, whole=True)
    table = weight.ndim == 2 and weight.dtype in (np.float16, np.float32, np.float64)
    if axis != 0 or not table:
        raise ValueError("supported is an embedding: rows, axis 0, of a constant of two dimensions by (batch, columns)")
    dtype = np.result_type(weight.dtype, np.float32)
    result = Value("embedding", (value,), (*value.shape, weight.shape[1]), dtype)
    result.settings["weight"] = weight.astype(dtype)
    return result


def expand_to(call: Call) -> Value:
    value, sizes = call.value(0), call.sizes(1)
    shape = broadcast(value.shape, tuple(sizes))
    if shape is None:
        raise ValueError(f"of {shape_text(value.shape)} to {shape_text(tuple(sizes))} is not supported")
    return expand(value, shape)


def of_labels_only(call: Call) -> Value:
    raise ValueError("supported is only the choice of a label")


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
    "ArgMax": (labels, {"axis": 0, "keepdims": 1, "select_last_index": 0}),
    "ArrayFeatureExtractor": (of_labels_only, {}),
    "Binarizer": (labels, {"threshold": 0.0}),
    "Celu": (lambda call, alpha: of("celu", call.value(0), alpha=alpha), {"alpha": 1.0}),
    "Clip": (clip, {"min": None, "max": None}),
    "Concat": (concat, {"axis": 1}),
    "Cos": (plain("cos"), {}),
    "Constant": (
        constant,
        dict.fromkeys(("value", "value_float", "value_floats", "value_int", "value_ints")),
    ),
    "Div": (division, {}),
    "Dropout": (dropout, {"ratio": None, "seed": None}),
    "Einsum": (einsum, {"equation": ""}),
    "Elu": (lambda call, alpha: of("elu", call.value(0), alpha=alpha), {"alpha": 1.0}),
    "Erf": (plain("erf"), {}),
    "Exp": (plain("exp"), {}),
    "Expand": (expand_to, {}),
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
    "Max": (extremum(1), {}),
    "Min": (extremum(-1), {}),
    "Mish": (plain("mish"), {}),
    "Mul": (multiply, {}),
    "Neg": (lambda call: scale(call.value(0), -1), {}),
    "PRelu": (p_relu, {}),
    "Pow": (power, {}),
    "RMSNormalization": (rms_normalization, {"axis": -1, "epsilon": EPSILON, "stash_type": 1}),
    "Reciprocal": (plain("reciprocal"), {}),
    "ReduceMean": (reduce_mean, {"axes": None, "keepdims": 1, "noop_with_empty_axes": 0}),
    "Relu": (plain("relu"), {}),
    "Reshape": (reshape, {"allowzero": 0}),
    "Scaler": (scaler, {"offset": None, "scale": None}),
    "Selu": (
        lambda call, alpha, gamma: scale(of("elu", call.value(0), alpha=alpha), gamma),
        {"alpha": float(np.float32(SELU_ALPHA)), "gamma": float(np.float32(SELU_SCALE))},
    ),
    "Shape": (shape_of, {"start": 0, "end": None}),
    "Sigmoid": (plain("sigmoid"), {}),
    "Sin": (plain("sin"), {}),
    "Slice": (slice_, dict.fromkeys(("starts", "ends", "axes"))),
    "Softmax": (along_features("softmax"), {"axis": None}),
    "Softplus": (lambda call: of("softplus", call.value(0), beta=1.0, threshold=None), {}),
    "Softsign": (plain("softsign"), {}),
    "Split": (split, {"axis": 0, "split": None, "num_outputs": None}),
    "Sqrt": (plain("sqrt"), {}),
    "Squeeze": (squeeze, {"axes": None}),
    "Sub": (subtract, {}),
    "Sum": (sum_, {}),
    "Swish": (swish, {"alpha": 1.0}),
    "Tanh": (plain("tanh"), {}),
    "Transpose": (transpose, {"perm": None}),
    "Unsqueeze": (unsqueeze, {"axes": None}),
    "Where": (where, {}),
    "ZipMap": (zip_map, dict.fromkeys(("classlabels_int64s", "classlabels_strings"))),
}
# Those of ai.onnx.ml, and those that make labels of labels.
OF_ML = {"ArrayFeatureExtractor", "Binarizer", "Scaler", "ZipMap"}
OF_LABELS = {"ArrayFeatureExtractor", "Cast", "Flatten", "Gather", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
