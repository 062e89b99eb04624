"""What the kernel tests share: a call of every kernel, shapes with reasons, memory layouts, exact chains."""

import re
import types
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest

from fastfc import kernels, reference
from fastfc.kernels.ops.gemm import tile
from fastfc.kernels.ops.gemm_plan import blocking_of
from fastfc.kernels.simd.caches import host_caches
from fastfc.kernels.simd.isa import host_isa

DTYPES = [np.float32, np.float64]
# The sizes of blocks of float32 on this machine.
BLOCKING = blocking_of(host_isa(), host_caches(), 4)
SIZES = {"n": 5, "i": 4, "o": 3}


class Call(NamedTuple):
    """A kernel with its arguments: "name:axes", and a star on those that it writes."""

    specification: str
    run: types.FunctionType

    def names(self):
        return [text.partition(":")[0] for text in self.specification.split()]

    def axes(self):
        return [text.partition(":")[2].rstrip("*") for text in self.specification.split()]

    def written(self):
        return [text.endswith("*") for text in self.specification.split()]

    def arguments(self, dtype, sizes=SIZES, seed=0):
        """Random arguments: `labels` are class indices, all else is in (0, 1), which suits every kernel."""
        rng = np.random.default_rng(seed)
        shapes = [tuple(sizes[axis] for axis in axes) for axes in self.axes()]
        return [
            rng.integers(max(sizes["o"], 1), size=shape) if name == "labels" else rng.random(shape).astype(dtype)
            for name, shape in zip(self.names(), shapes, strict=True)
        ]

    def reference(self, *arrays):
        return types.FunctionType(self.run.__code__, {"kernels": reference})(*arrays)


CALLS = {
    "dense_forward": Call(
        "x:ni weight:io bias:o out:no*",
        lambda x, w, b, out: kernels.dense_forward(x, w, b, out, activation="tanh"),
    ),
    "dense_weight_grad": Call("x:ni grad_output:no out:io*", lambda x, g, out: kernels.dense_weight_grad(x, g, out)),
    "dense_add_weight_grad": Call(
        "x:ni grad_output:no out:io*", lambda x, g, out: kernels.dense_add_weight_grad(x, g, out)
    ),
    "dense_bias_grad": Call("grad_output:no out:o*", lambda g, out: kernels.dense_bias_grad(g, out)),
    "dense_add_bias_grad": Call("grad_output:no out:o*", lambda g, out: kernels.dense_add_bias_grad(g, out)),
    "dense_input_grad": Call("grad_output:no weight:io out:ni*", lambda g, w, out: kernels.dense_input_grad(g, w, out)),
    "activation_forward": Call("x:no out:no*", lambda x, out: kernels.activation_forward(x, out, activation="softmax")),
    "activation_backward": Call(
        "output:no grad_output:no out:no*",
        lambda y, g, out: kernels.activation_backward(y, g, out, "sigmoid"),
    ),
    "exp": Call("x:no out:no*", lambda x, out: kernels.exp(x, out)),
    "expm1": Call("x:no out:no*", lambda x, out: kernels.expm1(x, out)),
    "log": Call("x:no out:no*", lambda x, out: kernels.log(x, out)),
    "log1p": Call("x:no out:no*", lambda x, out: kernels.log1p(x, out)),
    "tanh": Call("x:no out:no*", lambda x, out: kernels.tanh(x, out)),
    "erf": Call("x:no out:no*", lambda x, out: kernels.erf(x, out)),
    "sin": Call("x:no out:no*", lambda x, out: kernels.sin(x, out)),
    "cos": Call("x:no out:no*", lambda x, out: kernels.cos(x, out)),
    "mse_loss": Call("prediction:no target:no out:no*", lambda p, t, out: kernels.mse_loss(p, t, out)),
    "cross_entropy_loss": Call(
        "prediction:no target:no out:no*", lambda z, t, out: kernels.cross_entropy_loss(z, t, out)
    ),
    "cross_entropy_loss of classes": Call(
        "prediction:no labels:n out:no*", lambda z, labels, out: kernels.cross_entropy_loss(z, labels, out)
    ),
    "bce_with_logits_loss": Call(
        "prediction:no target:no out:no*", lambda z, t, out: kernels.bce_with_logits_loss(z, t, out)
    ),
    "sgd": Call("params:o* grads:o velocity:o*", lambda p, g, v: kernels.sgd(p, g, v, 0.1, 0.9, 0.01)),
}

# The products as C (m, n) from A (m, k) and B (k, n)
PRODUCTS = {
    "forward": lambda a, b, c: kernels.dense_forward(a, b, np.zeros(b.shape[1], b.dtype), c),
    "weight_grad": lambda a, b, c: kernels.dense_weight_grad(a.T, b, c),
    "input_grad": lambda a, b, c: kernels.dense_input_grad(a, b.T, c),
}


def product_shapes(dtype):
    """(m, k, n) by the reason why it is tested."""
    rows, columns = tile(dtype)
    one, two = (host_isa().tile_vectors(r) * columns // host_isa().vectors for r in (1, 2))
    return {
        "nothing": (0, 0, 0),
        "no rows": (0, 3, 5),
        "no summands": (3, 0, 5),
        "no columns": (3, 5, 0),
        "one element": (1, 1, 1),
        "one column": (2 * rows + 1, 7, 1),
        "one row short of its wide tile": (1, 7, one - 1),
        "one row, wide tile": (1, 7, one),
        "one row beyond its wide tile": (1, 7, one + 1),
        "two rows beyond their wide tile": (2, 5, two + 1),
        "small primes": (3, 5, 7),
        "primes": (17, 11, 13),
        "short of a tile": (rows - 1, 4, columns - 1),
        "a tile": (rows, 4, columns),
        "beyond a tile": (rows + 1, 4, columns + 1),
        "beyond two tiles": (2 * rows + 1, 5, 2 * columns + 1),
        "tall": (7 * rows + 3, 3, columns // 2 + 1),
        "broad": (4, 2, 5 * columns + 3),
        "deep": (rows + 1, 257, columns // 2 - 1),
    }


def by_shape():
    """Parameters (dtype, shape) from product_shapes."""
    return [
        pytest.param(dtype, shape, id=f"{np.dtype(dtype)}-{reason}")
        for dtype in DTYPES
        for reason, shape in product_shapes(dtype).items()
    ]


def sliced(x):
    """Every second row and third column of a larger array, whose other elements are 777."""
    step = (2, 3)[: x.ndim]
    large = np.full([size * s for size, s in zip(x.shape, step, strict=True)], 777, x.dtype)
    view = large[tuple(slice(None, None, s) for s in step)]
    view[...] = x
    return view


def packed(x):
    """A field of packed records: no element is aligned."""
    records = np.zeros(x.shape, [("byte", "i1"), ("x", x.dtype)])
    records["x"] = x
    return records["x"]


def backward(x):
    """Negative strides along all axes."""
    flip = (slice(None, None, -1),) * x.ndim
    return np.ascontiguousarray(x[flip])[flip]


def read_only(x):
    x = np.array(x)
    x.flags.writeable = False
    return x


WRITABLE = {"C": np.array, "F": np.asfortranarray, "sliced": sliced, "backward": backward, "packed": packed}
LAYOUTS = WRITABLE | {"read-only": read_only}


def integers(shape, dtype, seed=0):
    """Integers so small that sums of their products are exact in any order."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(dtype)


def normal(shape, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def nan(shape, dtype):
    """An output that a kernel must overwrite and must not read."""
    return np.full(shape, np.nan, dtype)


def assert_product_close(got, a, b, start=0):
    """|got − (start + a b)| <= 2 (k + 2) eps (|start| + |a| |b|): the error of any order of summation."""
    wide = np.longdouble
    exact = start + a.astype(wide) @ b.astype(wide)
    bound = np.abs(start) + np.abs(a.astype(wide)) @ np.abs(b.astype(wide))
    assert np.all(np.abs(got - exact) <= 2 * (a.shape[1] + 2) * np.finfo(got.dtype).eps * bound)


def multiply_add(a, b, c):
    """a b + c in the roundings of the machine: one where it has fused multiply-adds, else two."""
    if not host_isa().fma:
        return a * b + c
    if c.dtype == np.float64:
        triples = zip(a.flat, b.flat, c.flat, strict=True)
        return np.array([float(Fraction(x) * Fraction(y) + Fraction(z)) for x, y, z in triples]).reshape(c.shape)
    # a b is exact in float64. The sum is rounded to odd there, so that rounding once more errs nothing.
    ab, c = a.astype(np.float64) * b, c.astype(np.float64)
    total = ab + c
    error = (ab - (total - (total - ab))) + (c - (total - ab))
    bits = total.view(np.int64)
    away = np.where((error > 0) == (total > 0), 1, -1)
    odd = np.where((error != 0) & (bits % 2 == 0), bits + away, bits)
    return odd.view(np.float64).astype(np.float32)


def chain(a, b, start):
    """start + a b, every element one chain of multiply-adds in the order of the summands."""
    total = np.broadcast_to(start, (a.shape[0], b.shape[1])).astype(a.dtype)
    for p in range(a.shape[1]):
        column, row = np.broadcast_arrays(a[:, p, None], b[p])
        total = multiply_add(column, row, total)
    return total


def multiply_add_lines(text, dtype):
    """Lines of assembly that multiply and add, or without fused instructions add, registers of full width."""
    kind = {"float32": "s", "float64": "d"}[str(dtype)]
    mnemonic, register = {
        "avx512": (rf"\tvfn?madd\w+p{kind}\t", "zmm"),
        "avx2": (rf"\tvfn?madd\w+p{kind}\t", "ymm"),
        "sse": (rf"\taddp{kind}\t", "xmm"),
        "neon": (r"\tfmla\t", {"s": r"\.4s", "d": r"\.2d"}[kind]),
    }[host_isa().name]
    return [line for line in text.splitlines() if re.search(mnemonic, line) and re.search(register, line)]
