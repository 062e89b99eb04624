"""Runs all kernels on arrays between pages that must not be touched; test_edge runs it in another process."""

import ctypes
import itertools
import mmap

import numpy as np
from arrays import CALLS, DTYPES, product_shapes
from numpy.lib.stride_tricks import as_strided
from test_gemm import big_shapes
from test_layer_kinds import NETS, data_of, net_of

from fastfc.kernels import dense_bias_grad
from fastfc.kernels.ops.gemm import CHUNK
from fastfc.kernels.ops.narrow import MANY, MOST_CHUNKS
from fastfc.kernels.program import interpreter

libc = ctypes.CDLL(None, use_errno=True)
PAGE = mmap.PAGESIZE
# Which axes of a layer are m, k and n of the product
PRODUCT_AXES = {
    "dense_forward": "nio",
    "dense_weight_grad": "ino",
    "dense_add_weight_grad": "ino",
    "dense_input_grad": "noi",
}


def guarded(x, at_end):
    """A copy of an array that ends just before a forbidden page, or begins just after one."""
    size = -(-x.nbytes // PAGE) * PAGE
    memory = mmap.mmap(-1, size + 2 * PAGE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (base, base + PAGE + size):
        assert libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), 0) == 0
    offset = PAGE + (size - x.nbytes if at_end else 0)
    copy = np.frombuffer(memory, x.dtype, x.size, offset).reshape(x.shape)
    copy[...] = x
    return copy


def check(name, dtype, sizes, orders):
    call = CALLS[name]
    expected = call.arguments(dtype, sizes)
    plain = [x.copy() for x in expected]
    value = call.run(*plain)
    for at_end in (True, False):
        arrays = [
            guarded(x.T, at_end).T if order == "F" else guarded(x, at_end)
            for x, order in zip(expected, orders, strict=True)
        ]
        print(name, np.dtype(dtype), sizes, orders, "end" if at_end else "begin", flush=True)
        np.testing.assert_equal(call.run(*arrays), value)
        for x, y in zip(arrays, plain, strict=True):
            np.testing.assert_array_equal(x, y)


for name, dtype in itertools.product(CALLS, DTYPES):
    for shape in product_shapes(dtype).values():
        if name == "cross_entropy_loss of classes" and shape[2] == 0:
            continue
        for orders in itertools.product(*("CF" if len(axes) == 2 else "C" for axes in CALLS[name].axes())):
            check(name, dtype, dict(zip(PRODUCT_AXES.get(name, "nio"), shape, strict=True)), orders)

m, k, n = big_shapes()["panels of a and b"]
for name, axes in PRODUCT_AXES.items():
    for orders in ("CCCC", "FFFF"):
        check(name, np.float32, dict(zip(axes, (m, k, n), strict=True)), orders[: len(CALLS[name].axes())])

for rows, i, o in [
    (MANY, 3, 2),
    (MANY + 5, 8, 4),
    (MANY, 5, 9),
    (MANY + 1, 33, 20),
    (MANY + 3, 31, 4),
    (MANY + 3, 25, 9),
    (3, 100, 5),
    ((MOST_CHUNKS + 1) * CHUNK + 1, 3, 5),
]:
    for name, dtype in itertools.product(PRODUCT_AXES, DTYPES):
        check(name, dtype, {"n": rows, "i": i, "o": o}, "CCCC"[: len(CALLS[name].axes())])

# column sums of every second and third column, of which the last is the end of memory
for dtype, apart, (n, o), at_end in itertools.product(DTYPES, (2, 3), ((1, 5), (9, 2), (40, 131)), (True, False)):
    print("dense_bias_grad", np.dtype(dtype), n, o, apart, "end" if at_end else "begin", flush=True)
    memory = guarded(np.ones((n - 1) * o * apart + (o - 1) * apart + 1, dtype), at_end)
    strides = o * apart * memory.itemsize, apart * memory.itemsize
    out = np.zeros(o, dtype)
    dense_bias_grad(as_strided(memory, (n, o), strides), out)
    np.testing.assert_array_equal(out, n)

for name, dtype, n, at_end in itertools.product(NETS, DTYPES, (0, 2, 9), (True, False)):
    print(name, np.dtype(dtype), n, "end" if at_end else "begin", flush=True)
    net, x = net_of(name, dtype), data_of(name, dtype, n)
    program = net.program_for(x)
    arrays = (
        x,
        program.table,
        net._vector,
        np.zeros((n, program.outputs), dtype),
        np.zeros(program.workspace_size(n), dtype),
    )
    x, table, params, out, space = (guarded(a, at_end) for a in arrays)
    tape, grads = np.zeros(2, np.int64), guarded(net.grads, at_end)
    interpreter.predict.call(params, table, x, out, 1, 1)
    interpreter.forward.call(x, table, params, out, space, tape, 1, 1)
    interpreter.backward.call(params, table, x, out, guarded(out, at_end), tape, grads, guarded(x, at_end), space, 1, 1)
