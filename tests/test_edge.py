import functools

import numpy as np
import pytest
from arrays import CALLS, DTYPES, LAYOUTS, SIZES, read_only
from numba import njit, types
from numba.core.errors import TypingError
from processes import run
from sample import slow

import fastfc as fc
from fastfc import kernels
from fastfc.kernels.ops.dense_bias_grad import _dense_bias_grad
from fastfc.kernels.optim.update import update
from fastfc.kernels.runtime import kernel as boundary
from fastfc.kernels.runtime import native, overlap
from fastfc.kernels.runtime import status as statuses
from fastfc.kernels.runtime.cache import KernelCache

calls = pytest.mark.parametrize("name", CALLS)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def error_name(name):
    """The name by which errors speak of a kernel."""
    return {name: "activation_forward" for name in ("exp", "expm1", "log", "log1p", "tanh", "erf", "sin", "cos")}.get(
        name, name.replace("dense_add", "dense").partition(" ")[0]
    )


def read_arguments(name):
    return [(name, position) for position, written in enumerate(CALLS[name].written()) if not written]


def written_arguments(name):
    return [(name, position) for position, written in enumerate(CALLS[name].written()) if written]


READ = [pair for name in CALLS for pair in read_arguments(name)]
WRITTEN = [pair for name in CALLS for pair in written_arguments(name)]


def assert_close(arrays, expected, dtype):
    for x, y in zip(arrays, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=50 * np.finfo(dtype).eps, atol=10 * np.finfo(dtype).eps)


@calls
@dtypes
def test_against_the_reference(name, dtype):
    call = CALLS[name]
    arrays, expected = call.arguments(dtype), call.arguments(dtype)
    expected = [x if x.dtype == np.int64 else x.astype(float) for x in expected]
    value, expected_value = call.run(*arrays), call.reference(*expected)
    assert_close(arrays, expected, dtype)
    assert (value is None) == (expected_value is None)
    if value is not None:
        assert_close([value], [expected_value], dtype)


# --- from nopython code


@pytest.fixture(scope="module")
def compiled():
    """The calls as nopython functions."""
    return {name: njit(call.run) for name, call in CALLS.items()}


# Each is code to compile: both dtypes of every kernel, and one of the other layouts in turn
OTHER_LAYOUTS = [(np.float32, "F"), (np.float64, "sliced"), (np.float32, "read-only")]
FROM_NOPYTHON_CODE = [
    (slow if layout == "C" else pytest.param)(name, dtype, layout)
    for i, name in enumerate(CALLS)
    for dtype, layout in [OTHER_LAYOUTS[i % len(OTHER_LAYOUTS)], (np.float32, "C"), (np.float64, "C")]
]


@pytest.mark.parametrize(("name", "dtype", "layout"), FROM_NOPYTHON_CODE)
def test_from_nopython_code(compiled, name, dtype, layout):
    call = CALLS[name]
    expected = call.arguments(dtype)
    arrays = [
        x.copy() if layout == "read-only" and written else LAYOUTS[layout](x)
        for x, written in zip(expected, call.written(), strict=True)
    ]
    value = call.run(*expected)
    assert compiled[name](*arrays) == value
    for x, y in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.few(6)
@calls
def test_nopython_code_raises_on_wrong_shapes(compiled, name):
    call = CALLS[name]
    for name_, position in WRITTEN:
        if name_ == name:
            arrays = call.arguments(np.float64)
            before = [x.copy() for x in arrays]
            arrays[position] = np.full([size + 1 for size in arrays[position].shape], 7.0)
            with pytest.raises(ValueError, match="fastfc: the shapes"):
                compiled[name](*arrays)
            before[position] = np.full_like(arrays[position], 7)
            for x, y in zip(arrays, before, strict=True):
                np.testing.assert_array_equal(x, y)


def test_nopython_code_raises_on_overlap_and_bad_labels(compiled):
    x = np.ones((3, 3))
    with pytest.raises(ValueError, match="overlaps"):
        compiled["dense_input_grad"](x, np.ones((3, 3)), x)
    with pytest.raises(ValueError, match="class index"):
        compiled["cross_entropy_loss of classes"](x, np.array([0, 1, 3]), np.ones((3, 3)))


@pytest.mark.parametrize(
    "arrays",
    [
        [np.ones((2, 2), "f4"), np.ones((2, 2), "f8"), np.ones((2, 2), "f4")],
        [np.ones((2, 2), "i8")] * 3,
        [np.ones((2, 2), "c16")] * 3,
        [np.ones((2, 2)), np.ones((2, 2)), read_only(np.ones((2, 2)))],
        [np.ones(2), np.ones((2, 2)), np.ones((2, 2))],
    ],
)
def test_nopython_code_is_refused_for_wrong_types(compiled, arrays):
    with pytest.raises(TypingError, match=r"dense_input_grad takes.*got"):
        compiled["dense_input_grad"](*arrays)


def test_activation_in_nopython_code_must_be_a_literal():
    @njit
    def at_run_time(x, names, i):
        kernels.activation_forward(x, x, names[i])

    @njit
    def unknown(x):
        kernels.activation_forward(x, x, "nonsense")

    with pytest.raises(TypingError, match="string literal"):
        at_run_time(np.ones((2, 2)), ("relu", "tanh"), 1)
    with pytest.raises((TypingError, ValueError), match="unknown activation 'nonsense'"):
        unknown(np.ones((2, 2)))


# --- conversions and errors at the edge


CONVERSIONS = {
    "int64": lambda x: x.astype(int),
    "uint8": lambda x: x.astype(np.uint8),
    "bool": lambda x: x.astype(bool),
    "float16": lambda x: x.astype(np.float16),
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "list": lambda x: x.tolist(),
    "subclass": lambda x: x.view(type("Subclass", (np.ndarray,), {})),
}


@dtypes
@pytest.mark.parametrize("conversion", CONVERSIONS)
@pytest.mark.parametrize(("name", "position"), READ)
def test_inputs_are_converted(name, position, conversion, dtype):
    call = CALLS[name]
    arrays = call.arguments(dtype)
    if call.names()[position] == "labels" and conversion == "float16":
        pytest.skip("labels are integers")
    arrays[position] = (arrays[position] > 0).astype(arrays[position].dtype)
    expected = [x.copy() for x in arrays]
    arrays[position] = CONVERSIONS[conversion](arrays[position])
    assert call.run(*arrays) == call.run(*expected)
    for x, y in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(x, y)


def refuse(name, position, bad, error, pattern=None):
    """The call with one bad argument raises, names the kernel, and changes nothing."""
    call = CALLS[name]
    arrays = call.arguments(np.float64)
    before = [x.copy() for x in arrays]
    arrays[position] = bad
    with pytest.raises(error, match=pattern) as info:
        call.run(*arrays)
    assert error_name(name) in str(info.value)
    for k, (x, y) in enumerate(zip(arrays, before, strict=True)):
        if k != position:
            np.testing.assert_array_equal(x, y)
    return str(info.value)


@pytest.mark.parametrize(
    "bad",
    [
        np.ones((5, 4), complex),
        np.full((5, 4), None),
        np.full((5, 4), "a"),
        np.ones((5, 4), "m8[s]"),
        None,
        object(),
        np.ma.ones((5, 4)),
        np.ones((5, 4), np.longdouble),
    ],
    ids=lambda bad: f"{type(bad).__name__}-{getattr(bad, 'dtype', '')}",
)
@pytest.mark.parametrize(("name", "position"), READ)
def test_other_inputs_are_refused(name, position, bad):
    if isinstance(bad, np.ndarray) and CALLS[name].axes()[position] in ("o", "n"):
        bad = bad[0]
    refuse(name, position, bad, TypeError, f": {CALLS[name].names()[position].replace('labels', 'target')} ")


@pytest.mark.parametrize(("name", "position"), READ)
def test_two_dtypes_are_refused(name, position):
    if CALLS[name].names()[position] == "labels":
        bad, pattern = np.zeros(5), "float64"
    else:
        bad, pattern = CALLS[name].arguments(np.float32)[position], "float32.*float64.*astype"
    refuse(name, position, bad, TypeError, pattern)


@pytest.mark.parametrize("change", ["longer", "shorter", "transposed", "rank up", "number"])
@pytest.mark.parametrize(("name", "position"), READ + WRITTEN)
def test_wrong_shapes_are_refused_with_all_shapes(name, position, change):
    call = CALLS[name]
    good = call.arguments(np.float64)[position]
    shape = {
        "longer": tuple(size + 1 for size in good.shape),
        "shorter": tuple(size - 1 for size in good.shape),
        "transposed": good.shape[::-1],
        "rank up": (2, *good.shape),
        "number": (),
    }[change]
    if shape == good.shape:
        pytest.skip("a vector is its own transpose")
    message = refuse(name, position, np.ones(shape, good.dtype), (ValueError, TypeError))
    if change in ("longer", "shorter", "transposed"):
        assert str(shape) in message
        others = [x for k, x in enumerate(call.arguments(np.float64)) if k != position]
        assert any(str(x.shape) in message for x in others)


@pytest.mark.parametrize(("name", "position"), WRITTEN)
@pytest.mark.parametrize(
    ("bad", "error", "pattern"),
    [
        (lambda x: x.tolist(), TypeError, "must be a NumPy array"),
        (lambda x: x.astype(int), TypeError, "i8.*must be float32 or float64"),
        (lambda x: x.astype(np.float16), TypeError, "must be float32 or float64"),
        (lambda x: x.astype(">f8"), TypeError, ">f8.*native"),
        (lambda x: x.astype(complex), TypeError, "complex|c16"),
        (np.ma.array, TypeError, "MaskedArray"),
        (read_only, ValueError, "read-only"),
        (lambda x: None, TypeError, "NoneType"),
        (lambda x: x.astype(np.float32), TypeError, "float32"),
    ],
)
def test_other_outputs_are_refused(name, position, bad, error, pattern):
    refuse(name, position, bad(CALLS[name].arguments(np.float64)[position]), error, pattern)


def overlapping(name, position):
    """Arguments of which one input shares a part of the output's memory."""
    call = CALLS[name]
    arrays = call.arguments(np.float64)
    out = call.written().index(True)
    shapes = [x.shape for x in arrays]
    flat = np.arange(1.0, 100) / 100
    arrays[out] = flat[: arrays[out].size].reshape(shapes[out])
    first = max(arrays[out].size - 1, 0)
    arrays[position] = flat[first : first + arrays[position].size].reshape(shapes[position])
    return call, arrays, flat


@pytest.mark.parametrize(("name", "position"), [pair for pair in READ if pair[0] != "cross_entropy_loss of classes"])
def test_overlap_is_refused(name, position):
    call, arrays, flat = overlapping(name, position)
    before = flat.copy()
    with pytest.raises(ValueError, match=f"{error_name(name)}: .* overlaps .* in memory"):
        call.run(*arrays)
    np.testing.assert_array_equal(flat, before)


@calls
def test_interleaved_arrays_do_not_overlap(name):
    """As fields of records: their extents overlap, their elements do not."""
    call = CALLS[name]
    expected = call.arguments(np.float64, dict.fromkeys(SIZES, 6))
    fields = [(f"{k}", "f8") for k in range(len(expected))]
    matrices = np.zeros((6, 6), fields)
    vectors = np.zeros(6, fields)
    arrays = []
    for k, x in enumerate(expected):
        arrays.append(x if x.dtype == np.int64 else (matrices if x.ndim == 2 else vectors)[f"{k}"])
        arrays[-1][...] = x
    assert call.run(*arrays) == call.run(*expected)
    for x, y in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(("name", "position"), WRITTEN)
def test_memory_maps_are_outputs(name, position, tmp_path):
    call = CALLS[name]
    expected, arrays = call.arguments(np.float64), call.arguments(np.float64)
    arrays[position] = np.memmap(tmp_path / "x", arrays[position].dtype, "w+", shape=arrays[position].shape)
    arrays[position][...] = expected[position]
    assert call.run(*arrays) == call.run(*expected)
    np.testing.assert_array_equal(arrays[position], expected[position])


# --- overlap of extents


# For any layout: each would be compiled
@functools.cache
def extents():
    function = lambda x, y: (overlap.extent(x), overlap.overlaps(x, y), overlap.same(x, y))
    return njit(["(f8[:], f8[:])", "(f8[:, :], f8[:, :])"])(function)


def test_extents_are_numpys_bounds():
    try:
        from numpy.lib.array_utils import byte_bounds
    except ImportError:  # NumPy 1
        byte_bounds = getattr(np, "byte_bounds")  # noqa: B009, which newer versions do not have

    base = np.zeros((6, 8))
    views = [
        base,
        base[2:4],
        base[:, 3:5],
        base[::-2, ::3],
        base.T,
        base[4:, :1],
        base[3:3],
        base[:, 8:],
        base[2:3, 2:3],
    ]
    for x in views:
        for y in views:
            _, overlap, same = extents()(x, y)
            assert overlap == np.may_share_memory(x, y)
            assert same == (x.ctypes.data == y.ctypes.data and x.strides == y.strides)
    for x in (*views, base[0], base[::-1, 2]):
        if x.size:
            assert extents()(x, x)[0] == byte_bounds(x)


# --- memory and processes


@pytest.mark.parametrize("dtype", ["float32", slow("float64")])
def test_nothing_beyond_the_arrays_is_touched(dtype):
    pytest.importorskip("resource", reason="pages are protected by mprotect")
    code = f"import arrays, numpy; arrays.DTYPES = [numpy.{dtype}]; import guard_pages"
    assert len(run(code)[0].splitlines()) > 1000


USER = """
import numpy as np
from numba import njit, prange
from tiny_kernels import compiled, one, two

@njit(cache=True)
def direct(x, out):
    two(x, out)

@njit(cache=True)
def inner(x, out):
    one(x, out)

@njit(cache=True)
def middle(x, out):
    inner(x, out)

@njit(cache=True)
def outer(x, out):
    middle(x, out)

@njit(cache=True, parallel=True)
def parallel(x, out):
    for i in prange(x.shape[0]):
        one(x[i], out[i])

def test(*names):
    for name in names:
        function, x = globals()[name], np.arange(12.0).reshape(3, 4)
        x = x if name == "parallel" else x[0]
        out = np.empty_like(x)
        function(x, out)
        np.testing.assert_array_equal(out, x + 1)
        print(name, "hit" if sum(function.stats.cache_hits.values()) else "miss")
    print("compiled", len(compiled))
"""


@pytest.fixture
def user(tmp_path):
    """A user's module with cached functions; runs some of them in a process of its own, with a folder for the kernels.

    It tells of each whether it was cached, and how many kernels were compiled.
    """
    (tmp_path / "user.py").write_text(USER)

    def run_user(*names, kernels="first", before=""):
        environment = {"NUMBA_CACHE_DIR": tmp_path / "numba", "FASTFC_CACHE": tmp_path / kernels}
        code = f"{before}import sys; sys.path.append({str(tmp_path)!r}); import user; user.test(*{names!r})"
        return run(code, **environment)[0].split()[1::2]

    return run_user


def test_cached_functions_of_users(user):
    """In later processes they come from the cache, and load the kernels that they call, compiled or not."""
    names = "direct", "outer", "parallel"
    assert user(*names) == ["miss"] * 3 + ["2"]
    assert user(*names) == ["hit"] * 3 + ["0"]
    assert user(*names, kernels="empty") == ["hit"] * 3 + ["2"]
    upgrade = "import fastfc.kernels.runtime.native as e; e.hash_of_sources = lambda: 'another'\n"
    assert user("direct", before=upgrade) == ["miss", "1"]  # also a kernel that calls one


@pytest.mark.slow
def test_cached_function_that_calls_one_from_the_cache(user):
    """`outer` is compiled against `inner` out of the cache, then runs where nothing has loaded `inner`."""
    assert user("inner") == ["miss", "1"]
    assert user("outer") == ["miss", "0"]
    assert user("outer", kernels="second") == ["hit", "1"]


def test_threads_that_start_together():
    """First calls from several threads, without a cache: right, and compiled once per dtype."""
    code = """
import threading
import numpy as np
from tiny_kernels import compiled, two
wrong = []
def work(dtype):
    x = np.arange(3, dtype=dtype)
    for _ in range(300):
        out = np.empty_like(x)
        two.call(x, out)
        if (out != x + 1).any():
            wrong.append(out)
threads = [threading.Thread(target=work, args=(d,)) for d in (np.float32, np.float64) * 3]
[t.start() for t in threads]
[t.join() for t in threads]
print(len(wrong), *sorted(compiled))
"""
    expected = ["one:float32", "one:float64", "two:float32", "two:float64"]
    assert run(code, FASTFC_CACHE=0)[0].split() == ["0", *expected]


def test_in_place_and_interleaved_with_the_other_input():
    records = np.zeros((2, 3), [("y", "f8"), ("g", "f8")])
    records["y"], records["g"] = [[1, 0, 2], [0, 0, 3]], 5
    kernels.activation_backward(records["y"], records["g"], records["g"], "relu")
    np.testing.assert_array_equal(records["g"], [[5, 0, 5], [0, 0, 5]])
    np.testing.assert_array_equal(records["y"], [[1, 0, 2], [0, 0, 3]])


def test_the_number_of_arguments_is_checked_in_nopython_code():
    @njit
    def too_many(g, out):
        return _dense_bias_grad(g, out, 0, 1, 99)

    with pytest.raises(TypingError, match="dense_bias_grad takes"):
        too_many(np.ones((2, 3)), np.ones(3))


def test_an_optimizer_without_its_state_is_an_error():
    optimizer, params = fc.SGD(0.1, momentum=0.9), np.ones(3)
    arrays = np.ones(3), optimizer.hyper, optimizer.segments, params, np.zeros((0, 3)), optimizer.count
    with pytest.raises(ValueError, match="prepare"):
        update.call(*arrays, optimizer.code, 1.0, 1, 1)
    assert (params == 1).all() and optimizer.count[0] == 0


# --- statuses


def answering(x, out, status):
    """Count the call, and return the status."""
    out[0] += 1
    return status


class NoCache(KernelCache):
    """Whose key would not hold the source of a test."""

    def load(self, *_):
        return None

    def save_overload(self, *_):
        pass


@pytest.fixture(scope="module")
def answer():
    kernel = boundary.Kernel(answering, "x[n] -> out[k]", types.int64)
    kernel.compiler._cache = NoCache(answering)
    yield kernel
    del native.compiled_kernels[kernel.name]


NAMES = {v: name for name, v in vars(statuses).items() if name.isupper() and type(v) is int and name != "OK"}
ANSWERS = [*statuses.STATUSES, 12, 99, -1, 1 << 40]


def test_every_status_has_a_meaning():
    """Two chains of `if` were kept by hand; what neither knew was success."""
    assert NAMES.keys() == statuses.STATUSES.keys() and statuses.OK not in statuses.STATUSES
    for error, text, _ in [*statuses.STATUSES.values(), statuses.UNKNOWN]:
        assert issubclass(error, Exception) and len(text) > 20
    assert len({text for _, text, _ in statuses.STATUSES.values()}) == len(statuses.STATUSES)


@pytest.mark.parametrize("way", ["fast", "slow"])
@pytest.mark.parametrize("status", ANSWERS)
def test_a_status_is_raised_and_nothing_runs_twice(answer, status, way):
    """The way of plain arrays ran every kernel once more that gave a status."""
    x, out = np.zeros(3), np.zeros(1)
    assert answer.call(x, out, 0) is None and out[0] == 1
    meaning = statuses.STATUSES.get(status, statuses.UNKNOWN)
    with pytest.raises(meaning.error, match=f"^{answer.name}: ") as info:
        answer.call(x if way == "fast" else x.tolist(), out, status)
    assert type(info.value) is meaning.error
    assert out[0] == 2  # an overlap is computed with copies, which an error leaves behind


@pytest.fixture(scope="module")
def checked(answer):
    @njit
    def call(x, out, status):
        statuses.check(answer(x, out, status))

    return call


@pytest.mark.parametrize("status", ANSWERS)
def test_a_status_in_nopython_code(checked, status):
    x, out = np.zeros(3), np.zeros(1)
    checked(x, out, 0)
    meaning = statuses.STATUSES.get(status, statuses.UNKNOWN)
    with pytest.raises(meaning.error) as info:
        checked(x, out, status)
    assert type(info.value) is meaning.error and str(info.value) == f"fastfc: {meaning.text}"
    assert out[0] == 2
