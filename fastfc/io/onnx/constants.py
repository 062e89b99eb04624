"""ONNX operators on constants alone, whose results are constants of the network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastfc.io.onnx.values import BATCH, MOST_FEATURES


def transpose(call: Any, a: NDArray[Any], perm: list[int] | None) -> NDArray[Any]:
    return a.transpose(perm)


def axes_of(call: Any, axes: list[int] | None, i: int = 1, since: int = 13) -> list[int] | None:
    """Axes that are an attribute, and from that opset on input `i`."""
    given = call.constant(i, optional=True) if call.opset >= since else axes
    return None if given is None else [int(axis) for axis in given]


def normalized(axis: int, rank: int) -> int:
    """The axis, counted from the first one."""
    if not -rank <= axis < rank:
        raise ValueError(f"there is no axis {axis} in {rank} dimensions")
    return axis % rank


def squeezed(shape: Sequence[Any], axes: list[int] | None) -> tuple[Any, ...]:
    if axes is None:
        return tuple(size for size in shape if size != 1)
    out = {normalized(axis, len(shape)) for axis in axes}
    for i in out:
        if shape[i] != 1:
            raise ValueError(f"axis {i} has the length {shape[i]}, not 1")
    return tuple(size for i, size in enumerate(shape) if i not in out)


def unsqueezed(shape: Sequence[Any], axes: list[int] | None) -> tuple[Any, ...]:
    rank = len(shape) + len(axes or ())
    new, rest = {normalized(axis, rank) for axis in axes or ()}, iter(shape)
    if len(new) != len(axes or ()):
        raise ValueError(f"axes {axes} are not different")
    return tuple(1 if i in new else next(rest) for i in range(rank))


def squeeze(call: Any, a: NDArray[Any], *_: Any, axes: list[int] | None) -> NDArray[Any]:
    return a.reshape(squeezed(a.shape, axes_of(call, axes)))


def unsqueeze(call: Any, a: NDArray[Any], *_: Any, axes: list[int] | None) -> NDArray[Any]:
    return a.reshape(unsqueezed(a.shape, axes_of(call, axes)))


def reshape(call: Any, a: NDArray[Any], shape: NDArray[Any], allowzero: int) -> NDArray[Any]:
    sizes = [int(size) for size in shape]
    if not allowzero:
        sizes = [a.shape[i] if size == 0 and i < a.ndim else size for i, size in enumerate(sizes)]
    return a.reshape(sizes)


def flatten(call: Any, a: NDArray[Any], axis: int) -> NDArray[Any]:
    axis += a.ndim * (axis < 0)
    return a.reshape(math.prod(a.shape[:axis]), math.prod(a.shape[axis:]))


def concat(call: Any, *arrays: NDArray[Any], axis: int) -> NDArray[Any]:
    return np.concatenate(arrays, axis)


def slices(call: Any, rank: int, starts: Any, ends: Any, axes: Any) -> dict[int, slice]:
    """The slice of each axis that has one."""
    if call.opset < 10:
        steps = None
    else:
        starts, ends = call.constant(1), call.constant(2)
        axes, steps = (call.constant(i, optional=True) for i in (3, 4))
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    result = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        last = int(end)
        if step < 0 and last < -(1 << 30):  # before the first, where -1 is the last
            last = -(1 << 62)
        result[normalized(int(axis), rank)] = slice(int(start), last, int(step))
    return result


def slice_(call: Any, a: NDArray[Any], *_: Any, starts: Any, ends: Any, axes: Any) -> NDArray[Any]:
    cuts = slices(call, a.ndim, starts, ends, axes)
    return a[tuple(cuts.get(i, slice(None)) for i in range(a.ndim))]


def parts(call: Any, length: int, split: Any, num_outputs: int | None) -> list[slice]:
    """What each output of a Split gets."""
    n = len(call.node.output)
    if call.opset >= 13:
        split = call.constant(1, optional=True)
    if split is None:
        size = -(-length // (num_outputs or n))
        split = [min(size, max(length - i * size, 0)) for i in range(n)]
    if len(split) != n or sum(split) != length:
        raise ValueError(f"parts of {[int(size) for size in split]} do not make {n} outputs of {length} together")
    ends = np.cumsum(split)
    return [slice(int(end - size), int(end)) for size, end in zip(split, ends, strict=True)]


def split_(call: Any, a: NDArray[Any], *_: Any, axis: int, split: Any, num_outputs: int | None) -> list[NDArray[Any]]:
    axis = normalized(axis, a.ndim)
    cuts = parts(call, a.shape[axis], split, num_outputs)
    return [a[(slice(None),) * axis + (cut,)] for cut in cuts]


def gather(call: Any, a: NDArray[Any], indices: NDArray[Any], axis: int) -> NDArray[Any]:
    check_size(math.prod(a.shape) * indices.size // max(1, a.shape[normalized(axis, a.ndim)]), a, indices)
    return np.asarray(np.take(a, indices, axis))


def expand(call: Any, a: NDArray[Any], shape: NDArray[Any]) -> NDArray[Any]:
    result = np.broadcast_shapes(a.shape, tuple(int(size) for size in shape))
    check_size(math.prod(result), a)
    return np.broadcast_to(a, result)


def cast(call: Any, a: NDArray[Any], to: int, saturate: int, round_mode: str) -> NDArray[Any]:
    dtype = call.reader.dtype_of(to)
    if dtype.kind not in "fiub" or a.dtype.kind not in "fiub":
        raise ValueError(f"of a constant of {a.dtype} to {dtype} is not supported")
    if a.dtype.kind == "f" and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if not (np.isfinite(a).all() and (a > limits.min - 1.0).all() and (a < limits.max + 1.0).all()):
            raise ValueError(f"of a constant to {dtype}, which cannot hold all of its numbers")
    return a.astype(dtype)


def divide(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    if a.dtype.kind == "f":
        return a / b
    if not b.all():
        raise ValueError("of whole numbers by 0")
    whole = np.abs(a) // np.abs(b)
    return whole * np.sign(a) * np.sign(b)  # towards 0


def clip(call: Any, a: NDArray[Any], *bounds: Any, min: float | None, max: float | None) -> NDArray[Any]:
    low, high = (min, max) if call.opset < 11 else (*bounds, None, None)[:2]
    a = a if low is None else np.maximum(a, np.asarray(low, a.dtype))
    return a if high is None else np.minimum(a, np.asarray(high, a.dtype))


def matmul(call: Any, a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(f"of constants of shapes {a.shape} and {b.shape}; supported are two dimensions")
    check_size(a.shape[0] * b.shape[1], a, b)
    return a @ b


def check_size(numbers: int, *arrays: NDArray[Any]) -> None:
    if numbers > max(MOST_FEATURES, sum(a.size for a in arrays)):
        raise ValueError(f"makes a constant of {numbers:,} numbers; at most {MOST_FEATURES:,} are supported")


def elementwise(function: Callable[..., Any]) -> Callable[..., NDArray[Any]]:
    def fold(call: Any, *arrays: NDArray[Any]) -> NDArray[Any]:
        check_size(math.prod(np.broadcast_shapes(*(a.shape for a in arrays))), *arrays)
        result: NDArray[Any] = np.asarray(function(*arrays), arrays[0].dtype)
        return result

    return fold


def variadic(function: Callable[[Any, Any], Any]) -> Callable[..., NDArray[Any]]:
    return elementwise(lambda *arrays: reduce(function, arrays))


CONSTANTS: dict[str, Callable[..., Any]] = {
    "Abs": elementwise(np.abs),
    "Add": elementwise(np.add),
    "Cast": cast,
    "Clip": clip,
    "Concat": concat,
    "Div": elementwise(divide),
    "Exp": elementwise(np.exp),
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "Identity": lambda call, a: a,
    "Log": elementwise(np.log),
    "MatMul": matmul,
    "Max": variadic(np.maximum),
    "Min": variadic(np.minimum),
    "Mul": elementwise(np.multiply),
    "Neg": elementwise(np.negative),
    "Pow": elementwise(np.power),
    "Reciprocal": elementwise(lambda a: 1 / a),
    "Relu": elementwise(lambda a: np.maximum(a, 0)),
    "Reshape": reshape,
    "Sigmoid": elementwise(lambda a: 1 / (1 + np.exp(-a))),
    "Slice": slice_,
    "Softplus": elementwise(lambda a: np.logaddexp(a, 0)),
    "Split": split_,
    "Sqrt": elementwise(np.sqrt),
    "Squeeze": squeeze,
    "Sub": elementwise(np.subtract),
    "Sum": variadic(np.add),
    "Tanh": elementwise(np.tanh),
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
# These work on what Shape gives of a value too, in which BATCH stands for the number of samples.
OF_SHAPES = {"Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze"}


def has_batch(a: NDArray[Any]) -> bool:
    return a.dtype == object and any(entry is BATCH for entry in a.ravel())
