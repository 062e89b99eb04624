"""The values of an ONNX model while it is read, and how many nodes that exporters write become one layer again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

WHOLE: np.dtype[Any] = np.dtype(np.int64)  # of values that are indices


class Batch:
    """The dimension of the samples, in the shapes of values and in what the operator Shape gives."""

    def __repr__(self) -> str:
        return "batch"


BATCH = Batch()
# Exporters write an activation as a handful of nodes. Looking further would take exponentially long in hostile models.
DEPTH = 6
MOST_FEATURES = 1 << 24  # numbers per sample of one value: a few bytes of a file cannot claim all memory
NORMAL_SLOPE = math.sqrt(2 / math.pi)  # GELU's "tanh" form is x/2 (1 + tanh(slope (x + CUBE x³)))
CUBE = 0.044715
OF_MEMBERS = "nmi,mio->nmo"  # the equation of an Einsum, a product of n samples for each of m members
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


@dataclass(eq=False)
class Value:
    """What a node gives: an array of this shape, of what `kind` of operation on which other values.

    In a network each sample's part is a row, in the order of memory: axes of length 1 make no difference. Only some
    kinds are layers or gates of a network; others, such as "erf", are there until they turn out to be a part of one,
    such as a GELU.
    """

    kind: str
    inputs: tuple[Value, ...]
    shape: tuple[Any, ...]  # with BATCH at most once; what is not known is None
    dtype: np.dtype[Any]
    settings: dict[str, Any] = field(default_factory=dict)
    node: Any = None  # which gives it, for errors
    readers: int = 0  # how many nodes and outputs of the model read it

    @property
    def features(self) -> tuple[Any, ...]:
        return tuple(size for size in self.shape if size is not BATCH)

    @property
    def width(self) -> int | None:
        return None if None in self.shape else math.prod(self.features)

    def __getitem__(self, name: str) -> Any:
        return self.settings[name]

    def told(self, width: int) -> None:
        """The width, which was not known, as another operand tells it."""
        source = self
        while source.kind != "input":
            source = next(other for other in source.inputs if other.width is None)
        others = math.prod(size for size in source.features if size is not None)
        if source.features.count(None) == 1 and width % others == 0:
            raise Told(source["name"], width // others)
        width_of(self)


class Told(Exception):
    """The name of an input and the length of its axis that was not known."""


def width_of(value: Value) -> int:
    if value.width is None:
        raise ValueError("the number of features is not known; give the model's input a shape")
    return value.width


def check_width(shape: tuple[Any, ...]) -> None:
    features = [size for size in shape if size is not BATCH]
    if None not in features and math.prod(features) > MOST_FEATURES:
        raise ValueError(f"{math.prod(features):,} numbers per sample; at most {MOST_FEATURES:,} are supported")


def shape_text(shape: tuple[Any, ...]) -> str:
    return f"({', '.join('?' if size is None else str(size) for size in shape)})"


def of(kind: str, *inputs: Value, shape: tuple[Any, ...] | None = None, **settings: Any) -> Value:
    """The value of this operation, in its simplest form."""
    shape = inputs[0].shape if shape is None else shape
    return simplify(Value(kind, inputs, shape, inputs[0].dtype, settings))


def scale(a: Value, factor: float) -> Value:
    return of("scale", a, factor=float(factor))


def shift(a: Value, by: Any, key: Any = None) -> Value:
    """a + by, a number or one for each feature; `key` says which constant of the model it is."""
    by = np.asarray(by, a.dtype)
    return of("standardize", a, mean=-by, scale=np.ones((), a.dtype), bias_key=key)


def divide(a: Value, by: Any) -> Value:
    return of("standardize", a, mean=np.zeros((), a.dtype), scale=np.asarray(by, a.dtype), bias_key=None)


def inverse(by: NDArray[Any]) -> NDArray[Any] | None:
    """Numbers to divide by instead of multiplying, if they are exact but for rounding: x / ∞ is x · 0 for all x."""
    with np.errstate(divide="ignore", over="ignore"):
        result = 1 / by
    usable = (by == 0) | (np.isfinite(result) & (np.abs(result) >= np.finfo(by.dtype).tiny))
    return result if usable.all() else None


def multiply_columns(a: Value, by: NDArray[Any]) -> Value | None:
    """a · by, one number for each feature."""
    if a.kind in ("layer_norm", "rms_norm") and a.readers == 1 and a["weight"] is None:
        return of(a.kind, *a.inputs, **(a.settings | {"weight": by}))
    divisor = inverse(by)
    return None if divisor is None else divide(a, divisor)


def near(number: float, wanted: float, dtype: np.dtype[Any]) -> bool:
    """Whether a constant of this dtype is what it would be but for its rounding."""
    return abs(number - wanted) <= 4 * float(np.finfo(dtype).eps) * abs(wanted)


def scaled(a: Value) -> tuple[float, Value]:
    """(c, b) with a = c b."""
    factor = 1.0
    for _ in range(DEPTH):
        if a.kind == "scale":
            factor *= a["factor"]
        elif a.kind == "standardize" and a["mean"].size == a["scale"].size == 1 and not a["mean"] and a["scale"]:
            factor /= a["scale"].item()
        else:
            break
        a = a.inputs[0]
    return factor, a


def shifted(a: Value) -> tuple[float, Value]:
    """(c, b) with a = c + b."""
    if a.kind == "standardize" and a["mean"].size == a["scale"].size == 1 and a["scale"] == 1:
        return -a["mean"].item(), a.inputs[0]
    return 0.0, a


def factors(a: Value, depth: int = DEPTH) -> tuple[float, list[Value]]:
    """A number and values whose product is a."""
    number, a = scaled(a)
    if a.kind != "multiply" or depth == 0:
        return number, [a]
    left, right = (factors(b, depth - 1) for b in a.inputs)
    return number * left[0] * right[0], left[1] + right[1]


def polynomial(a: Value, x: Value, depth: int = DEPTH) -> dict[int, float] | None:
    """Coefficients by power if a is a polynomial of x."""
    if a is x:
        return {1: 1.0}
    if depth == 0:
        return None
    parts = [polynomial(b, x, depth - 1) for b in a.inputs]
    if not parts or None in parts:
        return None
    first, last = parts[0], parts[-1]
    assert first is not None and last is not None
    number, inner = scaled(a)
    if inner is not a:
        inside = polynomial(inner, x, depth - 1)
        return None if inside is None else {power: number * c for power, c in inside.items()}
    number, inner = shifted(a)
    if inner is not a:
        return first | {0: first.get(0, 0.0) + number}
    if a.kind == "power":
        return {power * a["exponent"]: c for power, c in first.items()} if list(first.items()) == [(1, 1.0)] else None
    if a.kind == "add":
        return {power: first.get(power, 0.0) + last.get(power, 0.0) for power in first | last}
    if a.kind == "multiply":
        product: dict[int, float] = {}
        for p, c in first.items():
            for q, d in last.items():
                product[p + q] = product.get(p + q, 0.0) + c * d
        return product
    return None


def is_polynomial(a: Value, x: Value, wanted: dict[int, float]) -> bool:
    got = polynomial(a, x)
    return got is not None and got.keys() == wanted.keys() and all(near(got[p], wanted[p], a.dtype) for p in wanted)


def slope(a: Value, x: Value) -> float | None:
    """c if a = c x."""
    got = polynomial(a, x)
    return got[1] if got is not None and got.keys() == {1} else None


def is_square(a: Value, of_what: Value) -> bool:
    if a.kind == "power":
        return a["exponent"] == 2 and a.inputs[0] is of_what
    return a.kind == "multiply" and all(b is of_what for b in a.inputs)


def is_exact(softplus: Value) -> bool:
    """Whether the threshold, beyond which it is x, changes nothing but rounding."""
    threshold = softplus["threshold"]
    return threshold is None or math.exp(-threshold) < np.finfo(softplus.dtype).eps


def simplify(value: Value) -> Value:
    """The same value as one layer, if this is how exporters write it."""
    rule = RULES.get(value.kind)
    found = rule(value) if rule else None
    return value if found is None else found


def of_scale(value: Value) -> Value | None:
    factor, a = scaled(value)
    if near(factor, 1, value.dtype):
        return a
    a = value.inputs[0]
    factor = value["factor"]
    if a.kind == "softplus" and a["beta"] == 1:
        b, x = scaled(a.inputs[0])
        if b > 0 and near(factor * b, 1, value.dtype):
            return of("softplus", x, beta=b, threshold=a["threshold"])
        if factor == b == -1 and is_exact(a):
            return of("log_sigmoid", x)
    if a.kind == "smooth_clip":
        b, x = scaled(a.inputs[0])
        if b > 0 and near(factor * b, 1, value.dtype):
            return of("smooth_clip", x, limit=factor * a["limit"])
    if a.kind == "elu" and near(factor, SELU_SCALE, value.dtype) and near(a["alpha"], SELU_ALPHA, value.dtype):
        return of("selu", *a.inputs)
    if a.kind == "hardtanh" and (a["low"], a["high"]) == (0, 6) and near(factor, 1 / 6, value.dtype):
        by, x = shifted(a.inputs[0])
        return of("hardsigmoid", x) if by == 3 else None
    return None


def of_standardize(value: Value) -> Value | None:
    """Shifts and divisions: as a bias, as part of a norm, or one after another as a single step."""
    a, mean, divisor = value.inputs[0], value["mean"], value["scale"]
    only_shifts = np.all(divisor == 1)
    if a.kind == "flatten" and a.inputs[0].kind in ("batch_ensemble", "linear_ensemble") and a.readers == 1:
        return of_members(value, a.inputs[0])
    if only_shifts and a.kind == "linear" and a["bias"] is None and a.readers == 1:
        settings = a.settings | {"bias": np.broadcast_to(-mean, a["weight"].shape[1:]), "bias_key": value["bias_key"]}
        return of("linear", *a.inputs, shape=a.shape, **settings)
    if only_shifts and a.kind == "layer_norm" and a["bias"] is None and a.readers == 1 and mean.size == a.width:
        return of("layer_norm", *a.inputs, **(a.settings | {"bias": -mean}))
    plain = mean.size == 1 and mean.item() == 0
    if plain and divisor.size == 1 and divisor.item() != 0:
        found = of_scale(Value("scale", value.inputs, value.shape, value.dtype, {"factor": 1 / divisor.item()}))
        if found is not None:
            return found
    if plain and a.kind == "standardize" and a.readers == 1 and np.all(a["scale"] == 1):
        return of("standardize", *a.inputs, mean=a["mean"], scale=divisor, bias_key=None)
    return None


def of_members(value: Value, product: Value) -> Value | None:
    """Division and shift of a product of members, as their scales and biases."""
    mean, divisor = value["mean"], value["scale"]
    scales = product.kind == "batch_ensemble" and product["output_scale"] is None and product["bias"] is None
    if product.readers != 1:
        return None
    if scales and mean.size == 1 and mean.item() == 0 and (divisor != 0).all():
        settings = {"output_scale": np.broadcast_to(1 / divisor, width_of(value))}
    elif np.all(divisor == 1) and product["bias"] is None:
        settings = {"bias": np.broadcast_to(-mean, width_of(value))}
    else:
        return None
    result = of(product.kind, *product.inputs, shape=product.shape, **(product.settings | settings))
    result.readers = 1
    return view(result, value.shape)


def of_hardtanh(value: Value) -> Value | None:
    """One bound after the other, as max and min give them."""
    a, low, high = value.inputs[0], value["low"], value["high"]
    if a.kind in ("hardtanh", "relu") and a.readers == 1:
        first = (0.0, math.inf) if a.kind == "relu" else (a["low"], a["high"])
        inner_low, inner_high = (min(max(bound, low), high) for bound in first)
        if inner_low < inner_high:
            return of("hardtanh", *a.inputs, low=inner_low, high=inner_high)
    return of("relu", a) if (low, high) == (0, math.inf) else None


# What acts on each feature by itself, by numbers that are the same for all.
ACTIVATIONS = (
    "relu sigmoid log_sigmoid tanh selu softsign hardsigmoid hardswish silu gelu gelu_tanh mish leaky_relu elu celu "
    "softplus hardtanh sin cos smooth_clip dropout scale"
)
ELEMENTWISE = set(ACTIVATIONS.split())
# What is only a part of a layer.
PARTS = "abs erf exp log mean sqrt power reciprocal quotient centered greater where member_softmax member_log_softmax"
UNFINISHED = set(PARTS.split())


def select(a: Value, columns: NDArray[Any], shape: tuple[Any, ...]) -> Value:
    """These features of a."""
    return of("select", a, shape=shape, columns=columns)


def view(a: Value, shape: tuple[Any, ...]) -> Value:
    """The same numbers in another shape."""
    return a if a.shape == shape else of("flatten", a, shape=shape)


def of_select(value: Value) -> Value | None:
    a, columns = value.inputs[0], value["columns"]
    if np.array_equal(columns, np.arange(a.width or 0)):
        return view(a, value.shape)
    if a.kind == "flatten":
        return select(a.inputs[0], columns, value.shape)
    if a.kind == "select":
        return select(a.inputs[0], a["columns"][columns], value.shape)
    if a.width == 1:
        return of("repeat", a, shape=value.shape)
    narrow = narrowed(a, columns) if np.bincount(columns).max() == 1 else None
    return None if narrow is None else view(narrow, value.shape)


def narrowed(a: Value, columns: NDArray[Any], depth: int = DEPTH) -> Value | None:
    """These features of a, if a comes from a linear layer that then need not compute the others."""
    if a.readers != 1 or depth == 0:
        return None
    shape = (*(size for size in a.shape if size is BATCH), len(columns))
    if a.kind == "linear":
        bias = None if a["bias"] is None else a["bias"][columns]
        settings = {"weight": a["weight"][:, columns], "bias": bias, "key": None, "bias_key": None}
        result = of("linear", *a.inputs, shape=shape, **settings)
        result.readers = 1
        return result
    inner = narrowed(a.inputs[0], columns, depth - 1) if a.kind in ELEMENTWISE | {"standardize"} else None
    if inner is None:
        return None
    rows = {name: row[columns] for name, row in a.settings.items() if isinstance(row, np.ndarray) and row.size > 1}
    return of(a.kind, inner, shape=shape, **(a.settings | rows))


def pairs(a: Value, b: Value) -> Iterator[tuple[Value, Value]]:
    yield a, b
    yield b, a


def of_multiply(value: Value) -> Value | None:
    for a, b in pairs(*value.inputs):
        if b.kind == "reciprocal":
            found = of_quotient(Value("quotient", (a, b.inputs[0]), value.shape, value.dtype))
            if found is not None:
                return found
    if value.inputs[0].shape != value.inputs[1].shape:
        return None
    number, leaves = factors(value)
    if len(leaves) != 2:
        return None
    for x, gate in pairs(*leaves):
        inner = gate.inputs[0] if gate.inputs else gate
        if gate.kind == "sigmoid":
            factor = slope(inner, x)
            if factor:
                return scale(of("silu", x if factor == 1 else scale(x, factor)), number / factor)
        mish = gate.kind == "tanh" and inner.kind == "softplus" and inner.inputs[0] is x
        if mish and inner["beta"] == 1 and is_exact(inner):
            return scale(of("mish", x), number)
        if gate.kind == "hardsigmoid" and inner is x:
            return scale(of("hardswish", x), number)
        by, inner = shifted(gate)
        if by == 1 and inner.kind == "erf" and is_polynomial(inner.inputs[0], x, {1: math.sqrt(0.5)}):
            return scale(of("gelu", x), 2 * number)
        wanted = {1: NORMAL_SLOPE, 3: NORMAL_SLOPE * CUBE}
        if by == 1 and inner.kind == "tanh" and is_polynomial(inner.inputs[0], x, wanted):
            return scale(of("gelu_tanh", x), 2 * number)
    return None


def of_quotient(value: Value) -> Value | None:
    a, b = value.inputs
    by, inner = shifted(b)
    if by == 1 and inner.kind == "abs" and inner.inputs[0] is a:
        return of("softsign", a)
    if b.kind == "sqrt":
        eps, mean = shifted(b.inputs[0])
        if eps == 1 and is_square(mean, a):  # also of a number that was bounded where 1 added to its square is lost
            far = a.kind == "hardtanh" and -a["low"] == a["high"] and 1 + a["high"] ** -2 == 1
            return of("smooth_clip", a.inputs[0] if far else a, limit=1.0)
        if mean.kind == "mean" and is_square(mean.inputs[0], a) and eps >= 0:
            if a.kind == "centered":
                return of("layer_norm", *a.inputs, eps=eps, weight=None, bias=None)
            return of("rms_norm", a, eps=eps, weight=None)
    return None


def of_log(value: Value) -> Value | None:
    a = value.inputs[0]
    if a.kind == "sigmoid":
        return of("log_sigmoid", *a.inputs)
    by, inner = shifted(a)
    if by == 1 and inner.kind == "exp":
        return of("softplus", *inner.inputs, beta=1.0, threshold=None)
    return None


def of_where(value: Value) -> Value | None:
    """Functions that are x above a threshold."""
    condition, x, other = value.inputs
    if condition.kind != "greater":
        return None
    number = slope(condition.inputs[0], x)
    soft = other.kind == "softplus" and other.inputs[0] is x and other["threshold"] is None
    if soft and number is not None and near(number, other["beta"], value.dtype):
        return of("softplus", x, beta=other["beta"], threshold=condition["number"])
    if condition["number"] != 0 or condition.inputs[0] is not x:
        return None
    factor, inner = scaled(other)
    if inner is x:
        return of("leaky_relu", x, slope=factor)
    by, inner = shifted(inner)
    if by == -1 and inner.kind == "exp":
        number = slope(inner.inputs[0], x)
        if number == 1:
            return of("elu", x, alpha=factor)
        if number and near(factor * number, 1, value.dtype):
            return of("celu", x, alpha=factor)
    return None


RULES = {
    "hardtanh": of_hardtanh,
    "select": of_select,
    "scale": of_scale,
    "standardize": of_standardize,
    "multiply": of_multiply,
    "quotient": of_quotient,
    "log": of_log,
    "where": of_where,
}
