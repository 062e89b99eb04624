"""Random calls of every public function, with good, odd and bad arguments; test_fuzz runs them in another process.

A case is what `case` makes of a random generator. Either the answer is right (that of the reference, or of the same
call with plain arrays), or there is a TypeError, ValueError or MemoryError that names the function or layer, and then
nothing has changed. `python tests/fuzz.py FIRST LAST` runs the cases of these numbers and prints what came of them.
"""

import contextlib
import inspect
import json
import mmap
import os
import random
import struct
import sys
import tempfile
import warnings
from collections import Counter
from decimal import Decimal
from fractions import Fraction

import numpy as np

import fastfc as fc
from fastfc import kernels, reference
from fastfc.kernels.ops.activation_rules import ACTIVATIONS

FLOATS = [np.dtype(np.float32), np.dtype(np.float64)]
SPARE_BYTES = 1 << 30  # that a process of cases may take beyond what it has when it begins
WARM_UP_BYTES = 4 << 30  # and before, as it loads and compiles
LONG = [(1 << 31) - 1, 1 << 31, (1 << 31) + 1, 1 << 33]  # rows of views of one row
MOST_DEFECTS = 20

# the arrays of every kernel, "name:axes", and a star on those that it writes
PAIRS = "prediction:no target:no out:no*"
SPECIFICATIONS = {
    "dense_forward": "x:ni weight:io bias:o out:no*",
    "dense_weight_grad": "x:ni grad_output:no out:io*",
    "dense_add_weight_grad": "x:ni grad_output:no out:io*",
    "dense_bias_grad": "grad_output:no out:o*",
    "dense_add_bias_grad": "grad_output:no out:o*",
    "dense_input_grad": "grad_output:no weight:io out:ni*",
    "activation_forward": "x:no out:no*",
    "activation_backward": "output:no grad_output:no out:no*",
    **dict.fromkeys(["exp", "expm1", "log", "log1p", "tanh", "erf", "sin", "cos"], "x:no out:no*"),
    **dict.fromkeys(["mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "quantile_loss"], PAIRS),
    **dict.fromkeys(["poisson_nll_loss", "kl_div_loss", "bce_loss", "bce_with_logits_loss"], PAIRS),
    "cross_entropy_loss": PAIRS,
    **dict.fromkeys(["nll_loss", "multi_margin_loss"], "prediction:no labels:n out:no*"),
    "gaussian_nll_loss": "prediction:n2 target:no out:n2*",
    "sgd": "params:o* grads:o velocity:o*",
}
KERNELS = sorted(SPECIFICATIONS)
OF_ROWS = {name for name in KERNELS if SPECIFICATIONS[name] in (PAIRS, "x:no out:no*")}
OF_ROWS |= {"activation_backward"}  # which take vectors too
OF_ACTIVATION = {name: "activation_forward" for name in ("exp", "expm1", "log", "log1p", "tanh", "erf", "sin", "cos")}


class Defect(AssertionError):
    """The promise is broken."""


class Good(np.ndarray):
    """A subclass."""


class WithArray:
    """An object with `__array__`."""

    def __init__(self, answer):
        self.answer = answer

    def __array__(self, dtype=None, copy=None):
        return self.answer() if callable(self.answer) else self.answer


class WithInterface:
    def __init__(self, interface):
        self.__array_interface__ = interface


class Liar:
    """A sequence that is not as long as it says."""

    def __init__(self, said, truth):
        self.said, self.truth = said, truth

    def __len__(self):
        return self.said

    def __getitem__(self, index):
        if index >= self.truth:
            raise IndexError(index)
        return 0.5


# --- arguments


NUMBERS = np.random.default_rng(0).random(1 << 14) * 0.98 + 0.01  # suits every kernel
POOL = {dtype: NUMBERS.astype(dtype) for dtype in FLOATS}


def size(r):
    return r.choice([0, 1, 1, 2, 3, 4, 5, 7, 8, 9]) if r.random() < 0.9 else r.choice([16, 17, 31, 33, 40])


def numbers(r, shape, dtype):
    """An array of numbers in (0, 1)."""
    count = int(np.prod(shape))
    first = r.randrange(len(NUMBERS) - count)
    return POOL[dtype][first : first + count].reshape(shape).copy()


def laid_out(r, a):
    """The same values in another layout."""
    how = r.randrange(12)
    if how < 5:
        return a
    if how == 5:
        return np.asfortranarray(a)
    if how == 6:
        flip = (slice(None, None, -1),) * a.ndim
        return np.ascontiguousarray(a[flip])[flip]
    if how == 7:
        large = np.zeros([2 * n for n in a.shape], a.dtype)
        view = large[(slice(None, None, 2),) * a.ndim]
        view[...] = a
        return view
    if how == 8:
        records = np.zeros(a.shape, [("byte", "i1"), ("a", a.dtype)])
        records["a"] = a
        return records["a"]
    if how == 9 and a.size:
        a[...] = a[(slice(0, 1),) * a.ndim]
        return np.broadcast_to(a[(slice(0, 1),) * a.ndim], a.shape)
    if how == 10:
        a.flags.writeable = False
        return a
    if how == 11 and a.ndim == 2:
        return np.ascontiguousarray(a.T).T
    return a


def masked(r, a):
    return np.ma.array(a, mask=r.choice([False, True]) if r.random() < 0.5 else a > 0.5)


def interface(r, a):
    """Of a nonsensical type or shape."""
    a = np.ascontiguousarray(a)
    good = {"typestr": a.dtype.str, "shape": a.shape, "data": a.tobytes() + b"\0" * 8, "version": 3}
    wrong = {"typestr": "<q9", "shape": (-1, 3)}
    what = r.choice(list(wrong))
    return WithInterface(good | {what: wrong[what]})


def ragged(r, a):
    return [[1.0], [1.0, 2.0]]


def raising(error):
    def answer():
        raise error("no")

    return answer


# what holds the same numbers and is taken as well
SAME = [
    lambda r, a: a.tolist(),
    lambda r, a: a.astype(a.dtype.newbyteorder(">")),
    lambda r, a: a.view(Good),
    lambda r, a: np.asarray(WithArray(a)) if r.random() < 0.1 else WithArray(a),
    lambda r, a: WithInterface(a.__array_interface__ | {"_": a}) if a.dtype.isnative else a,
    lambda r, a: (a > 0.5).astype(r.choice(["i1", "u1", "i2", "i4", "i8", "u4", "?"])),
    lambda r, a: a.astype(np.float16),
    lambda r, a: a.view(np.memmap) if type(a) is np.ndarray else a,
    lambda r, a: np.asmatrix(a) if a.ndim == 2 else a,
]
# what holds no real numbers
BAD = [
    masked,
    interface,
    ragged,
    lambda r, a: a.astype(complex),
    lambda r, a: a.astype(object),
    lambda r, a: a.astype(str),
    lambda r, a: a.astype("S4"),
    lambda r, a: np.zeros(a.shape, "M8[s]"),
    lambda r, a: np.zeros(a.shape, "m8[D]"),
    lambda r, a: np.zeros(a.shape, [("a", a.dtype), ("b", "i4")]),
    lambda r, a: np.zeros(a.shape, "V8"),
    lambda r, a: None,
    lambda r, a: "text",
    lambda r, a: object(),
    lambda r, a: {1: 2},
    lambda r, a: {0.5},
    lambda r, a: np.float32,
    lambda r, a: WithArray([1, 2]),
    lambda r, a: WithArray(raising(r.choice([TypeError, ValueError]))),
    lambda r, a: WithArray(a.astype(complex)),
    lambda r, a: [[1.0, None]],
    lambda r, a: [["a"]],
    lambda r, a: (x for x in [1.0]),
]


def other_shape(r, shape):
    """A shape that does not fit, of few elements."""
    shape = list(shape)
    how = r.randrange(5)
    if how == 0 or not shape:
        return (*shape, r.choice([2, 3]))
    if how == 1:
        return (2, *shape)
    if how == 2 and len(shape) > 1:
        return tuple(shape[1:])
    place = r.randrange(len(shape))
    shape[place] = max(0, shape[place] + r.choice([-1, 1, 2])) if r.random() < 0.8 else 0
    return tuple(shape)


SCALARS = [0, 1, -1, 0.5, 2.0, 1e300, -1e-300, float("nan"), float("inf"), True, np.float32(0.5), np.int8(1)]
ODD_SCALARS = [None, "a", 1j, object(), [], [1.0], 10**400, -(10**400), np.array([1.0, 2.0]), Fraction(1, 2), 1 << 70]
THREADS = [1, 1, 1, 2, 3, 64, 1 << 40, np.int64(2)]
ODD_THREADS = [True, 0, -1, 1.5, None, "2", 2.0, [], np.array([1, 2]), -(1 << 70), float("nan"), 1j]


# --- judging


def named(error, *names):
    text = str(error)
    if not any(name in text for name in names):
        raise Defect(f"{type(error).__name__} names none of {names}: {text[:300]}")


def unchanged(before, what):
    for array, content in before:
        if array.tobytes() != content:
            raise Defect(f"{what} has changed after an error")


def close(got, exact, dtype):
    """Whether all errors are small beside the largest number; what is not finite must be equal."""
    exact = np.asarray(exact, float)
    got = np.asarray(got)
    if got.shape != exact.shape:
        return False
    limit = float(np.finfo(dtype).max)
    finite = np.isfinite(exact) & (np.abs(exact) < limit)
    with np.errstate(all="ignore"):
        scale = 1 + np.abs(exact[finite]).max(initial=0)
        error = np.abs(got[finite] - exact[finite]).max(initial=0)
    same = np.isnan(got[~finite]) == np.isnan(exact[~finite])
    return bool(error <= (1e-4 if dtype == np.float32 else 1e-10) * scale) and bool(same.all())


def refused(call, verdict, names, before, long=False):
    """Run: (whether it was refused, its result)."""
    try:
        result = call()
    except (TypeError, ValueError) as error:
        unchanged(before, names[0])
        named(error, *names)
        if verdict == "right":
            raise Defect(f"{names[0]} refuses what is good: {error!r}"[:500]) from None
        return True, None
    except MemoryError:
        unchanged(before, names[0])
        if not long:
            raise Defect(f"{names[0]}: MemoryError for small arrays") from None
        return True, None
    except Exception as error:
        raise Defect(f"{names[0]} raises {error!r}"[:500]) from error
    if verdict == "refused":
        raise Defect(f"{names[0]} takes what is bad")
    return False, result


# --- kernels


def scalars_of(r, name):
    """Keyword arguments, and whether they are good."""
    given, good = {}, True
    if name in ("dense_forward", "activation_forward", "activation_backward"):
        fused = ["identity", "relu", "sigmoid", "tanh"]
        given["activation"] = r.choice(fused if name == "dense_forward" else list(ACTIVATIONS))
        if r.random() < 0.02:
            given["activation"], good = r.choice(["", "no", None, 3, [], np.array(["relu"]), b"relu", object()]), False
    if name.startswith("dense"):
        given["n_threads"] = r.choice(THREADS)
        if r.random() < 0.02:
            given["n_threads"], good = r.choice(ODD_THREADS), False
    options = {
        "huber_loss": ["delta"],
        "smooth_l1_loss": ["beta"],
        "quantile_loss": ["quantile"],
        "poisson_nll_loss": ["eps"],
        "gaussian_nll_loss": ["eps"],
        "multi_margin_loss": ["margin"],
        "sgd": ["lr", "momentum", "weight_decay"],
    }
    for option in options.get(name, []):
        given[option] = r.choice([0.5, 0.25, 1.0])
        if r.random() < 0.03:
            given[option], good = r.choice(ODD_SCALARS), None  # some have a float, and are taken
        elif r.random() < 0.02:
            given[option], good = r.choice(SCALARS), None
    if name in ("poisson_nll_loss", "gaussian_nll_loss"):
        given["full"] = r.choice([True, False])
    if name == "poisson_nll_loss":
        given["log_input"] = r.choice([True, False])
    if name == "kl_div_loss":
        given["log_target"] = r.choice([True, False])
    return given, good


def fit(arrays, specification):
    """Whether the shapes do."""
    sizes = {}
    for a, (_, axes) in zip(arrays, specification, strict=True):
        axes = axes.rstrip("*")
        if a.ndim != len(axes) or any(sizes.setdefault(x, n) != n for x, n in zip(axes, a.shape, strict=True)):
            return False
    return sizes.get("2", 2 * sizes.get("o", 0)) == 2 * sizes.get("o", 0)


def worst(verdict, other):
    """Of right, either and refused."""
    order = ["right", "either", "refused"]
    return order[max(order.index(verdict), order.index(other))]


def odd_output(r, out, others):
    """What may be given as an output, and what must come of it."""
    how = r.randrange(10)
    if how == 0:
        return out.tolist(), "refused"
    if how == 1:
        return out.astype(r.choice(["i8", "f2", "c16", "O", "U3", np.longdouble])), "refused"
    if how == 2:
        return out.astype(out.dtype.newbyteorder(">")), "refused"
    if how == 3:
        out.flags.writeable = False
        return out, "refused"
    if how == 4:
        return np.ma.array(out), "refused"
    if how == 5:
        return out.astype(FLOATS[1] if out.dtype == FLOATS[0] else FLOATS[0]), "either"
    if how == 6:
        return r.choice([3, "out", object(), {}]), "refused"
    if how == 7:
        return out.view(Good), "right"
    shared = [x for x in others if type(x) is np.ndarray and x.dtype == out.dtype and x.flags.writeable and x.ndim]
    if how == 8 and shared:  # the same memory as an input, from some place on
        x = r.choice(shared)
        flat = np.zeros(x.size + out.size, out.dtype)
        flat[: x.size] = x.ravel()
        first = r.randrange(x.size + 1)
        view = flat[: x.size].reshape(x.shape)
        return (view, x, flat[first : first + out.size].reshape(out.shape)), "either"
    shape = other_shape(r, out.shape)
    return np.full(shape, 7, out.dtype), "refused" if shape != out.shape else "right"


def kernel_case(r):
    name = r.choice(KERNELS)
    specification = [text.partition(":")[::2] for text in SPECIFICATIONS[name].split()]
    by_class = name == "cross_entropy_loss" and r.random() < 0.5
    if by_class:
        specification[1] = "labels", "n"
    dtype, sizes = r.choice(FLOATS), {axis: size(r) for axis in "nio"}
    sizes["2"] = 2 * sizes["o"]
    if name in OF_ROWS and not by_class and r.random() < 0.1 and name != "cross_entropy_loss":
        sizes["n"] = 1
        specification = [(what, axes.replace("n", "")) for what, axes in specification]
    given, good = scalars_of(r, name)
    verdict = {True: "right", False: "refused", None: "either"}[good]
    arrays, written = [], []
    for what, axes in specification:
        shape = tuple(sizes[axis] for axis in axes.rstrip("*"))
        if what == "labels":
            a = (numbers(r, shape, FLOATS[1]) * sizes["o"]).astype(np.int64)
            if shape[0] and not sizes["o"]:
                verdict = "refused"
        else:
            a = numbers(r, shape, dtype)
        written.append(axes.endswith("*"))
        # what is written has its elements for itself and is writable
        a = np.ascontiguousarray(a) if written[-1] else laid_out(r, a)
        if written[-1] and r.random() < 0.2:
            a = np.asfortranarray(a)
        arrays.append(a)
    outs = [a for a, w in zip(arrays, written, strict=True) if w]
    chance = r.random()
    if chance < 0.45:
        place = r.randrange(len(arrays))
        what, a = specification[place][0], arrays[place]
        n_none = name in OF_ROWS and sizes["n"] == 1
        if written[place]:
            odd, found = odd_output(r, a, [x for x in arrays if x is not a])
            if isinstance(odd, tuple):
                view, x, odd = odd
                arrays = [view if y is x else y for y in arrays]
            # rows of vectors, and a velocity without momentum, may be of another shape
            if (n_none or what == "velocity") and found == "refused" and isinstance(odd, np.ndarray):
                found = "either"
            arrays[place], verdict = odd, worst(verdict, found)
        elif what == "labels":
            arrays[place], found = odd_labels(r, a, sizes["o"])
            if name == "cross_entropy_loss" and getattr(arrays[place], "shape", ()) == (sizes["n"], sizes["o"]):
                found = "either"  # these are probabilities
            verdict = worst(verdict, found)
        elif chance < 0.2:
            arrays[place] = r.choice(SAME)(r, a)
            if isinstance(arrays[place], list) and a.size == 0:
                verdict = worst(verdict, "either")  # a list has lost its shape
        elif chance < 0.32:
            arrays[place], verdict = r.choice(BAD)(r, a), worst(verdict, "refused")
        elif chance < 0.35:
            arrays[place] = a.astype(r.choice([FLOATS[0], FLOATS[1], np.dtype(np.longdouble)]))
            same = arrays[place].dtype == dtype
            verdict = worst(verdict, "right" if same else "refused" if name != "sgd" else "either")
        elif chance < 0.352 and a.ndim == 2:
            row = np.zeros((1, a.shape[1]), dtype)
            arrays[place] = np.broadcast_to(row, (r.choice(LONG), a.shape[1]))
            verdict = worst(verdict, "either" if "bias_grad" in name else "refused")
        else:
            arrays[place] = numbers(r, other_shape(r, a.shape), dtype)
            fits = n_none or (name == "sgd" and what == "velocity") or fit(arrays, specification)
            verdict = worst(verdict, "either" if fits else "refused")
    function = getattr(kernels, name)
    clean = []
    if verdict != "refused":
        clean = [
            plain(a, np.int64 if what == "labels" else float)
            for a, (what, _) in zip(arrays, specification, strict=True)
        ]
    before = [(a, a.tobytes()) for a in [*outs, *arrays] if isinstance(a, np.ndarray) and a.size < 10**6]
    names = [name.replace("add_", ""), *([OF_ACTIVATION[name]] if name in OF_ACTIVATION else [])]
    names += ["unknown activation"] if "activation" in given else []
    was_refused, value = refused(lambda: function(*arrays, **given), verdict, names, before)
    if was_refused:
        return "refused"
    if good is None or any(c is None for c in clean):
        return "taken"
    if name in OF_ROWS and not by_class and len({c.ndim for c in clean}) > 1:
        return "taken"  # a vector for a row
    given.pop("n_threads", None)
    of_something = "loss" in name or given.get("activation") in ("softmax", "log_softmax")
    if of_something and 0 in (sizes["n"], sizes["o"]):
        return "right"  # the reference has none of nothing
    expected = getattr(reference, name)(*clean, **given)
    for a, c, w in zip(arrays, clean, written, strict=True):
        if w and not close(a, c, a.dtype):
            raise Defect(f"{name}: {a} is not {c}")
    if expected is not None and not close(value, expected, dtype):
        raise Defect(f"{name} returns {value}, not {expected}")
    return "right"


def plain(a, dtype):
    """As an array of its own, None if it can't be one or is too large."""
    if a is None or (isinstance(a, np.ndarray) and a.size > 10**6):
        return None
    try:
        return np.array(a, dtype, subok=False)
    except (TypeError, ValueError):
        return None


def odd_labels(r, a, classes):
    """Classes that may be wrong, and what must come of it."""
    how, n = r.randrange(9), len(a)
    if how == 0 and n:
        a = a.copy()
        a[r.randrange(n)] = r.choice([-1, classes, -(1 << 63), (1 << 63) - 1])
        return a, "refused"
    if how == 1:
        return a.astype(r.choice(["i1", "u1", "i2", ">i4", "u4", ">i8"])), "right"
    if how == 2:
        return a.tolist(), "right" if n else "either"
    if how == 3:
        return a.astype(r.choice(["f2", "f4", "f8", "u8", "c8", "U3", "O", "m8[s]"])), "refused"
    if how == 4:
        return masked(r, a), "refused"
    if how == 5:
        return r.choice(BAD)(r, a), "refused"
    if how == 6:
        return a.view(Good), "right"
    if how == 7:
        large = np.zeros(2 * n, np.int64)
        large[::2] = a
        return large[::2], "right"
    shape = other_shape(r, a.shape)
    return np.zeros(shape, np.int64), "refused" if shape != a.shape else "right"


# --- layers, networks and their training


def networks():
    """Networks by name; the widths of their inputs and outputs; whether they take whole numbers."""
    x, y = fc.Input(4), fc.Input(2)
    h = fc.Tanh()(fc.Linear(4, 3, seed=0)(x))
    z = fc.Input(4)
    g = fc.Tanh()(fc.Linear(4, 4, seed=1, dtype=np.float64)(z))
    both = fc.concatenate([g + z, g * z])
    norms = [fc.LayerNorm(5), fc.ReLU(), fc.BatchNorm1d(5), fc.GELU(), fc.RMSNorm(5)]
    return {
        "linear": (fc.Linear(4, 3, seed=0), [4], [3], False),
        "activation": (fc.Softmax(), [4], [4], False),
        "mlp": (fc.MLP([4, 5, 3], "tanh", seed=0), [4], [3], False),
        "mlp64": (fc.MLP([4, 5, 3], seed=0, dtype=np.float64), [4], [3], False),
        "one": (fc.MLP([4, 1], seed=0, dtype=np.float64), [4], [1], False),
        "norms": (fc.Sequential([fc.Linear(4, 5, seed=0), *norms, fc.Linear(5, 3, seed=1)]), [4], [3], False),
        "dropout": (fc.Sequential([fc.Linear(4, 3, seed=0), fc.Dropout(0.3, seed=1)]), [4], [3], False),
        "embedding": (fc.Sequential([fc.Embedding(6, 3, 4, seed=0), fc.Linear(12, 3, seed=1)]), [4], [3], True),
        "standardize": (fc.Sequential([fc.Standardize(4), fc.Linear(4, 3, seed=0), fc.Sigmoid()]), [4], [3], False),
        "graph": (fc.Graph(z, fc.Linear(8, 3, seed=2, dtype=np.float64)(both)), [4], [3], False),
        "several": (
            fc.Graph([x, y], [fc.concatenate([h, y]), fc.Linear(3, 2, seed=3)(h)]), [4, 2], [5, 2], False
        ),
    }  # fmt: skip


NETS = {}
ANY_LOSS = {
    "numbers": [fc.MSELoss(), fc.L1Loss(), fc.HuberLoss(), fc.BCEWithLogitsLoss(), fc.QuantileLoss(), fc.KLDivLoss(),
                fc.MSELoss(reduction="sum"), fc.SmoothL1Loss(), fc.PoissonNLLLoss(), fc.CrossEntropyLoss()],
    "classes": [fc.CrossEntropyLoss(), fc.NLLLoss(), fc.MultiMarginLoss(), fc.CrossEntropyLoss(label_smoothing=0.1)],
}  # fmt: skip
OPTIMIZERS = [
    lambda: fc.SGD(0.01),
    lambda: fc.SGD(0.01, momentum=0.9, clip_norm=1.0),
    lambda: fc.Adam(0.01),
    lambda: fc.AdamW(0.01, max_norm=2.0, average=0.9),
    lambda: fc.Lion(0.001),
    lambda: fc.RMSprop(0.001, momentum=0.5),
    lambda: fc.LBFGS(max_iter=2),
]
NOT_LOSSES = [None, "mse", fc.MSELoss, [fc.MSELoss()], 3, fc.SGD(), fc.MSELoss(reduction="none")]
NOT_OPTIMIZERS = [None, "sgd", fc.SGD, 0.1, fc.MSELoss(), [fc.SGD()]]
FIT_OPTIONS = {
    "epochs": [1, 2, np.int64(1), 0, -1, 1.5, None, "1", [], True],
    "batch_size": [1, 2, 5, 1 << 40, 1 << 70, 0, -3, 2.0, None, "2"],
    "shuffle": [True, False],
    "seed": [0, 3, None, np.random.default_rng(0), -1, "a", 1.5, object(), [1, 2]],
    "validation_split": [0.0, 0.3, 0.5, 1.0, -0.1, float("nan"), None, "a", 10**400],
    "validation_data": [None, (), (1,), (1, 2), (None, None), "ab", np.zeros((2, 2)), ([[1.0]], [[1.0]])],
    "accumulate": [1, 2, 1 << 70, 0, -1, 1.5, None, "a"],
    "metrics": [(), ["mae"], ["rmse", "r2"], ["accuracy"], ["no"], "mae", None, [None], [3], [lambda y, p: 1.0],
                [lambda y, p: None], [lambda y, p: [1.0, 2.0]], [fc.TopK(2)], [max]],
    "callbacks": [(), [fc.EarlyStopping("loss")], [None], None, [3], ["a"], [lambda run: None], [fc.EarlyStopping]],
    "class_weight": [None, "balanced", "no", [1.0, 2.0, 3.0], {0: 1.0}, {0: 1.0, 1: 2.0, 2: 1.0}, 3, [-1.0] * 3,
                     {"a": 1.0}, [float("nan")] * 3, np.ones(3), 10**400],
    "progress": [False, True],
}  # fmt: skip


def odd_data(r, a):
    """An array of data in another guise, and what must come of it."""
    chance = r.random()
    if chance < 0.4:
        odd = r.choice(SAME)(r, a)
        return odd, "either" if isinstance(odd, list) and a.size == 0 else "right"
    if chance < 0.75:
        return r.choice(BAD)(r, a), "refused"
    if chance < 0.8:
        return a.astype(r.choice([*FLOATS, np.dtype(np.longdouble)])), "right"
    if chance < 0.803 and a.ndim == 2 and len(a):
        return np.broadcast_to(a[:1], (r.choice(LONG), a.shape[1])), "long"
    return numbers(r, other_shape(r, a.shape), a.dtype), "either"


class Problem:
    """A call of one method of a network, with data that fit."""

    def __init__(self, r):
        if not NETS:
            NETS.update({name: (*row, row[0]._vector.copy()) for name, row in networks().items()})
        self.name = r.choice(list(NETS))
        self.net, self.ins, self.outs, self.whole, self.values = NETS[self.name]
        self.dtype = self.net.dtype or r.choice(FLOATS)
        training = ["train_step", "evaluate", "fit"] if hasattr(self.net, "fit") else []
        self.method = r.choice(["predict", "forward", "backward", *training])
        n = self.n = max(size(r), 2) if self.method in training else size(r)
        xs = [numbers(r, (n, width), self.dtype) for width in self.ins]
        self.parts = {"x": [laid_out(r, np.floor(6 * x) if self.whole else x) for x in xs]}
        self.options = {}
        if self.method == "backward":
            self.parts["grad_output"] = [laid_out(r, numbers(r, (n, width), self.dtype)) for width in self.outs]
        elif self.method in training:
            self.add_targets(r, n)

    def add_targets(self, r, n):
        by_class = len(self.outs) == 1 and self.outs[0] > 1 and r.random() < 0.3
        self.options["loss"] = r.choice(ANY_LOSS["classes" if by_class else "numbers"])
        if by_class:
            self.parts["y"] = [(numbers(r, (n,), FLOATS[1]) * self.outs[0]).astype(np.int64)]
        else:
            self.parts["y"] = [laid_out(r, numbers(r, (n, width), self.dtype)) for width in self.outs]
        if len(self.outs) > 1 and r.random() < 0.5:
            self.options["loss"] = fc.MultiLoss([fc.MSELoss(), fc.L1Loss()])
        if r.random() < 0.2:
            self.parts["sample_weight"] = [numbers(r, (n,), self.dtype)]
        if self.method != "evaluate":
            self.options["optimizer"] = r.choice(OPTIMIZERS)
        if self.method == "fit":
            self.options |= {"seed": 0, "batch_size": 4}

    def odd(self, r):
        """Make one of the arrays odd; what must come of it."""
        what = r.choice(list(self.parts))
        arrays = self.parts[what]
        place = r.randrange(len(arrays))
        a = arrays[place]
        of_classes = a.dtype == np.int64
        arrays[place], verdict = odd_labels(r, a, self.outs[0]) if of_classes else odd_data(r, a)
        if of_classes and verdict == "refused":
            return "either"  # of some losses, as probabilities or one class for all
        if what == "x" and verdict == "right" and (self.whole or self.net.dtype is None):
            return "either"  # other numbers in another guise, or of another precision
        if what == "sample_weight" and verdict in ("right", "refused"):
            return "either"  # all of them may be 0, or None
        return verdict

    def odd_option(self, r):
        known = {"loss": NOT_LOSSES, "optimizer": NOT_OPTIMIZERS} | (FIT_OPTIONS if self.method == "fit" else {})
        what = r.choice([name for name in known if name in self.options or name in FIT_OPTIONS])
        self.options[what] = r.choice(known[what])

    def run(self, parts):
        """The method's result."""
        given = {what: tuple(p) if len(p) > 1 else p[0] for what, p in parts.items()}
        options = {
            k: v() if any(v is o for o in OPTIMIZERS) else v for k, v in self.options.items()
        }  # optimizers are made again
        if self.method == "backward":
            self.net.forward(given["x"])
            return self.net.backward(given["grad_output"])
        result = getattr(self.net, self.method)(**given, **options)
        return result.loss if self.method == "fit" else result

    def names(self):
        """What errors may speak of."""
        names = [str(self.net)[:12], self.method, "fit", "loss must", "optimizer must", "metric", "callback", "predict"]
        names += ["accuracy", "rmse", "mae", "r2", "fastfc"]
        return names + [type(o).__name__ for o in self.options.values()] + ["forward", "SGD", "LBFGS"]

    def restore(self):
        self.net._vector[...] = self.values


def network_case(r):
    problem, verdict = Problem(r), "right"
    net, method, parts = problem.net, problem.method, problem.parts
    if r.random() < 0.5:
        verdict = problem.odd(r)
    long, exact = verdict == "long", problem.name != "dropout"
    if long and method not in ("predict", "forward"):
        return "skipped"  # takes too long
    if long or (problem.name == "norms" and problem.n % 4 < 2):  # a batch may have one sample
        verdict = "either" if verdict in ("right", "long") else verdict
    problem.restore()
    if problem.options and r.random() < 0.15:
        problem.odd_option(r)
        verdict, exact = worst(verdict, "either"), False
    elif method == "predict" and len(problem.outs) == 1 and verdict == "right" and problem.n and r.random() < 0.2:
        out = np.full((problem.n, problem.outs[0]), 7, problem.dtype)
        problem.options["out"], verdict = odd_output(r, out, []) if r.random() < 0.7 else (out, "right")
    arrays = [a for p in parts.values() for a in p] + list(problem.options.values())
    arrays = [a for a in arrays if isinstance(a, np.ndarray) and a.size < 10**6]
    late = {"metrics", "callbacks"} & problem.options.keys()  # functions of one's own fail after the first epoch
    kept = [] if method == "backward" or late else [net.params, net.buffers, net.grads]  # a forward counts for norms
    watched = [(a, a.tobytes()) for a in [*kept, *arrays]]
    clean = None if long else {w: [plain_data(a, w, problem.dtype) for a in p] for w, p in parts.items()}
    was_refused, value = refused(lambda: problem.run(parts), verdict, problem.names(), watched, long)
    if was_refused:
        return "refused"
    exact = exact and (verdict == "right" or net.dtype is not None)
    if not exact or long or any(a is None for p in clean.values() for a in p):
        return "taken"
    after = net._vector.copy()
    problem.restore()
    value = np.array(value) if isinstance(value, np.ndarray) else value
    if isinstance(problem.options.get("out"), np.ndarray):
        problem.options["out"] = np.empty_like(problem.options["out"])
    if not same(problem.run(clean), value) or not same(net._vector, after):
        raise Defect(f"{method} of {problem.name} is not that of plain arrays")
    return "right"


def plain_data(a, what, dtype):
    if what == "y" and plain(a, None) is not None and plain(a, None).ndim == 1:
        return plain(a, np.int64)
    return plain(a, dtype)


def same(a, b):
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)


# --- losses and metrics by themselves

LOSSES = [loss for losses in ANY_LOSS.values() for loss in losses]
LOSSES += [fc.GaussianNLLLoss(), fc.BCELoss(), fc.MSELoss(reduction="none"), fc.CrossEntropyLoss([0.5, 1.0, 2.0])]
METRICS = {
    **dict.fromkeys(["accuracy", "top_k_accuracy", "f1", "roc_auc"], "classes"),
    **dict.fromkeys(["mae", "rmse", "r2"], "numbers"),
}


def scored_case(r):
    """A loss or a metric of two arrays and maybe weights."""
    n, c, dtype = max(1, size(r)), r.choice([1, 2, 3, 3, 4]), r.choice(FLOATS)
    verdict = "right"
    if r.random() < 0.6:
        loss = r.choice(LOSSES)
        of_classes, names, call = loss.of_classes and r.random() < 0.7, [type(loss).__name__], loss
        if (loss.of_classes and not of_classes) or isinstance(loss, fc.GaussianNLLLoss) or loss._table.shape[1] > 13:
            verdict = "either"  # of another shape
        arrays = [numbers(r, (n, c), dtype)]
    else:
        name = r.choice(list(METRICS))
        of_classes, names, call = METRICS[name] == "classes", [name], getattr(fc.metrics, name)
        if name in ("top_k_accuracy", "f1"):
            verdict = "either"  # only of some numbers of classes
        arrays = []
    classes = (numbers(r, (n,), FLOATS[1]) * max(c, 2 if not arrays else 1)).astype(np.int64)
    arrays.append(classes if of_classes else numbers(r, (n, c), dtype))
    if len(arrays) == 1:
        arrays.append(numbers(r, (n, c), dtype))
    if r.random() < 0.2:
        arrays.append(numbers(r, (n,), dtype))
    arrays = [laid_out(r, a) for a in arrays]
    clean = list(arrays)
    if r.random() < 0.6:
        place = r.randrange(len(arrays))
        a = arrays[place]
        if a.dtype == np.int64:
            arrays[place], found = odd_labels(r, a, c)
            verdict = worst(verdict, "right" if found == "right" else "either")
        else:
            arrays[place], found = odd_data(r, a)
            if found == "long":
                return "skipped"
            if found == "right":  # another precision is another prediction
                found = "either" if not isinstance(arrays[place], np.ndarray) or arrays[place].dtype != dtype else found
            verdict = worst(
                verdict, found if place < 2 or arrays[place] is not None else "right"
            )  # weights may be None
        clean = None
    watched = [(a, a.tobytes()) for a in arrays if isinstance(a, np.ndarray)]
    was_refused, value = refused(lambda: call(*arrays), verdict, names, watched)
    if was_refused:
        return "refused"
    if clean is None:
        return "taken"
    if not same(call(*[np.array(a) for a in clean]), value):
        raise Defect(f"{names[0]} is not that of plain arrays")
    return "right"


# --- constructors


def anything(r):
    return r.choice(VALUES)(r)


VALUES = [
    *[lambda r, v=v: v for v in [None, True, False, 0, 1, 2, 3, -1, 7, 1 << 31, 1 << 40, 1 << 70, 10**400, -(10**400)]],
    *[lambda r, v=v: v for v in [0.5, 1.0, 0.1, -0.5, 1e-320, 1e308, 3.0, float("nan"), float("inf"), -float("inf")]],
    *[
        lambda r, v=v: v
        for v in ["he", "relu", "tanh", "mean", "sum", "none", "update", "epoch", "cos", "min", "", "x"]
    ],
    *[lambda r, v=v: v for v in ["fan_in", "macro", "loss", "zeros", "orthogonal", "float64", b"he", (), (1,), (2, 3)]],
    *[lambda r, v=v: v for v in [(0.9, 0.99), (0.9, 1.0), [1, 2], [3, 4, 5], [0.5, 2.0], [], {}, {0: 1}, {"a": {}}]],
    *[
        lambda r, v=v: v
        for v in [{"*": {"lr": 0.1}}, {"*": {"lr": "a"}}, {1: {}}, np.float32, np.float64, np.int64, int]
    ],
    *[lambda r, v=v: v for v in [np.float32(0.5), np.int64(3), np.bool_(True), np.float16(2), 1j, Fraction(1, 2)]],
    *[lambda r, v=v: v for v in [Decimal("0.5"), object, max, range(3), np.longdouble(0.5), np.dtype("f8"), "text"]],
    lambda r: object(),
    lambda r: np.array(2),
    lambda r: np.array([1.0, 2.0]),
    lambda r: np.array(["he", "mean"]),
    lambda r: np.array([]),
    lambda r: np.ma.array([1.0, 2.0], mask=[True, False]),
    lambda r: np.ones((2, 2)),
    lambda r: np.array([None]),
    lambda r: Liar(3, 2),
    lambda r: Liar(1, 4),
    lambda r: WithArray([1]),
    lambda r: iter([1, 2]),
    lambda r: np.random.default_rng(0),
    lambda r: fc.ReLU(),
    lambda r: fc.Input(3),
    lambda r: fc.Tanh()(fc.Input(3)),
    lambda r: fc.MSELoss(),
    lambda r: fc.Linear(2, 3),
    lambda r: [fc.Linear(2, 3), fc.ReLU()],
    lambda r: [fc.MSELoss(), fc.L1Loss()],
    lambda r: fc.He(),
    lambda r: fc.StepLR(3),
    lambda r: lambda *_: [[1.0]],
    lambda r: lambda rng, shape, dtype: np.full(shape, np.nan),
]
SLOW = {"CustomLoss", "Elementwise"}  # they compile
MADE = [name for name in fc.__all__ if name not in SLOW and inspect.isclass(getattr(fc, name))]
MADE = [name for name in MADE if not issubclass(getattr(fc, name), Warning)] + ["MLP", "concatenate"]
OPTION_NAMES = ["groups", "clip_norm", "clip_value", "l1", "l2", "penalize_bias", "max_norm", "average", "schedule"]
PARAMETERS = {
    name: [p.name for p in inspect.signature(getattr(fc, name)).parameters.values() if p.kind != p.VAR_KEYWORD]
    + OPTION_NAMES * any(p.kind == p.VAR_KEYWORD for p in inspect.signature(getattr(fc, name)).parameters.values())
    for name in MADE
}
REQUIRED = {
    name: [p.name for p in inspect.signature(getattr(fc, name)).parameters.values() if p.default is p.empty]
    for name in MADE
}
# what values come from elsewhere: their errors name what they are for
ELSEWHERE = ["initializer", "is for weights", "activation", "gain", "scale", "__init__", "MLP", "Linear", "fastfc"]


def constructor_case(r):
    name = r.choice(MADE)
    required = [p for p in REQUIRED[name] if p != "options"]
    given = {p: anything(r) for p in PARAMETERS[name] if p in required or r.random() < 1.5 / len(PARAMETERS[name])}
    make = getattr(fc, name)
    was_refused, made = refused(lambda: make(**given), "either", [name, *make_names(make), *ELSEWHERE], [], True)
    if was_refused:
        return "refused"
    refused(lambda: repr(made), "right", [name], [])
    if isinstance(made, fc.nn.initializers.BaseInitializer):
        shape = r.choice([(2, 3), (0, 3), (3,), (), (1, 1), (4, 4), (2, 2, 2)])
        rng = np.random.default_rng(0)
        refused(lambda: made(rng, shape, np.float32), "either", [name, *make_names(make)], [])
    return "taken"


def make_names(make):
    """The names of a class and of those it is based on, of an alias too."""
    return [c.__name__ for c in inspect.getmro(make)[:-1]] if inspect.isclass(make) else []


def method_case(r):
    """What else there is to call and to assign, with anything."""
    layer = r.choice([lambda: fc.Linear(4, 3, seed=0), lambda: fc.MLP([4, 5, 3], seed=0), lambda: fc.LayerNorm(4)])()
    net, small = fc.MLP([4, 3], seed=0), fc.MLP([2, 1], seed=0, dtype=np.float64)
    x, y, value = numbers(r, (3, 4), FLOATS[0]), numbers(r, (3,), FLOATS[0]), anything(r)
    odd = r.choice([*SAME, *BAD])(r, numbers(r, r.choice([(3, 4), (4,), (3,), (4, 3)]), FLOATS[0]))
    optimizer = r.choice(OPTIMIZERS)()
    settings = sorted(name for name, p in inspect.getmembers(type(optimizer)) if getattr(p, "fset", None))
    name, call, kept = r.choice([
        ("update_parameters", lambda: layer.update_parameters(value), layer),
        ("reserve", lambda: layer.reserve(value), layer),
        ("n_threads", lambda: setattr(layer, "n_threads", value), layer),
        ("frozen", lambda: setattr(layer, "frozen", value), layer),
        ("weight", lambda: setattr(net[0], "weight", odd), net),
        ("bias", lambda: setattr(net[0], "bias", r.choice([odd, value])), net),
        ("predict", lambda: net.predict(x, params=r.choice([odd, value])), net),
        ("predict", lambda: net.predict_one(odd, y), net),
        ("predict", lambda: net.predict_one(x[0], odd), net),
        ("Linear", lambda: net[0](value), net),
        ("adapt", lambda: fc.Standardize(4).adapt(odd), net),
        ("find_lr", lambda: small.find_lr([[1, 2]], [[1]], fc.MSELoss(), fc.SGD(), lowest=value, steps=2), small),
        ("find_lr", lambda: small.find_lr([[1, 2]], [[1]], fc.MSELoss(), fc.SGD(), seed=value, steps=2), small),
        ("check_gradients", lambda: fc.check_gradients(small, r.choice([odd, [[1, 2]]]), eps=value), small),
        ("numerical_gradient", lambda: fc.numerical_gradient(lambda w: w.sum(), r.choice([odd, value, y])), net),
        ("load_fashion_mnist", lambda: fc.load_fashion_mnist(value, "/nowhere"), net),
        ("CustomLoss", lambda: fc.CustomLoss(value, r.choice([None, value])), net),
        ("Elementwise", lambda: fc.Elementwise(value, value), net),
        *[(what, lambda what=what: setattr(optimizer, what, r.choice([value, odd])), net) for what in settings],
    ])  # fmt: skip
    watched = [(kept.params, kept.params.tobytes())]
    names = [
        name,
        str(kept)[:9],
        "Linear",
        "MLP",
        "MSELoss",
        "Standardize",
        "numerical_gradient",
        *make_names(type(optimizer)),
        *ELSEWHERE,
    ]
    return "refused" if refused(call, "either", names, watched, True)[0] else "taken"


KINDS = [kernel_case] * 11 + [network_case] * 4 + [scored_case] * 3 + [constructor_case] * 3 + [method_case]


def case(r):
    """One case; what came of it."""
    kind = r.choice(KINDS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return f"{kind.__name__} {kind(r)}"


def warm_up():
    """Have everything compiled, so that memory is for arrays; there is no limit of it yet."""
    r, long, LONG[:] = random.Random(0), LONG[:], [5000]
    for dtype in FLOATS:
        for name in KERNELS:
            specification = [text.partition(":")[::2] for text in SPECIFICATIONS[name].split()]
            shapes = [tuple({"2": 4}.get(axis, 2) for axis in axes.rstrip("*")) for _, axes in specification]
            arrays = [
                np.zeros(2, int) if w == "labels" else numbers(r, s, dtype)
                for (w, _), s in zip(specification, shapes, strict=True)
            ]
            for attempt in range(60):  # for all activations
                given, good = scalars_of(random.Random(attempt), name)
                if good:
                    getattr(kernels, name)(*arrays, **given)
            if name == "cross_entropy_loss":
                kernels.cross_entropy_loss(arrays[0], np.zeros(2, int), arrays[2])
    for number in range(3000):
        with contextlib.suppress(Defect):
            case(random.Random(f"warm up {number}"))
    LONG[:] = long


def limit_memory(more):
    if sys.platform != "linux":  # without a limit, no large results
        LONG[:] = [5000]
        return
    import resource

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.RLIM_INFINITY))


def main(first, last, place):
    """Run cases; `place` is a file where the number of the case that runs is always to be read."""
    with open(place, "r+b") as file:
        running = mmap.mmap(file.fileno(), 8)
    np.seterr(all="ignore")
    limit_memory(WARM_UP_BYTES)
    warm_up()
    limit_memory(SPARE_BYTES)
    found, defects = Counter(), []
    for number in range(first, last):
        running[:8] = struct.pack("q", number)
        try:
            found[case(random.Random(number))] += 1
        except Defect as defect:
            defects.append((number, str(defect)))
            found["defect"] += 1
            if len(defects) >= MOST_DEFECTS:
                break
    print(json.dumps({"found": found, "defects": defects}))


if __name__ == "__main__":
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(8))
        file.flush()
        main(int(sys.argv[1]), int(sys.argv[2]), os.fspath(sys.argv[3] if len(sys.argv) > 3 else file.name))
