"""Layers, networks, losses and optimizers as arguments of `@njit` functions.

A layer is there what the kernels take: its program, its flat vectors and its memory for training. The types
hold the dtype and a hash of the sources, no sizes: a function is compiled once for all networks of a dtype,
and anew after an upgrade of fastfc.
"""

import functools
import hashlib
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numba import njit, types
from numba.core import cgutils, errors
from numba.extending import (
    NativeValue,
    make_attribute_wrapper,
    models,
    overload,
    overload_attribute,
    overload_method,
    register_model,
    typeof_impl,
    unbox,
)

from .kernels import edge, training
from .kernels import program as native
from .kernels.activations import as_rows
from .kernels.cache import source_hash
from .kernels.losses import other_pointwise
from .kernels.optimizers import run_other_rule
from .layers import Layer
from .losses import Loss
from .optimizers import Optimizer

# The tape of a layer says what its space holds: values for `backward`, of so many samples; -1, of Python's forward;
USED = -2  # or nothing that a backward could use


@functools.cache
def sources():
    """Hash of all that is compiled into a function with such arguments: the kernels, and what is here."""
    return hashlib.sha256(source_hash().encode() + Path(__file__).read_bytes()).hexdigest()[:16]


class FromHandle(types.Type):
    """Type of an object whose `_handle` is a tuple of its parts, with names and types of the parts."""

    def __init__(self, kind, parts):
        self.parts = parts
        super().__init__(f"fastfc.{kind}({', '.join(map(str, parts.values()))}, {sources()})")


class LayerType(FromHandle):
    def __init__(self, dtype):
        self.dtype = dtype
        flat = types.Array(dtype, 1, "C")
        table = types.Array(types.int64, 2, "C", readonly=True)
        tape = types.Array(types.int64, 1, "C")
        super().__init__("Layer", {"program": table, "vector": flat, "grads": flat, "space": flat, "tape": tape})


class LossType(FromHandle):
    def __init__(self):
        super().__init__("Loss", {"table": types.Array(types.float64, 2, "C")})


class OptimizerType(FromHandle):
    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(
            "Optimizer",
            {
                "code": types.int64,
                "hyper": types.Array(types.float64, 1, "C"),
                "segments": types.Array(types.float64, 2, "C"),
                "state": types.Array(dtype, 2, "C"),
                "count": types.Array(types.int64, 1, "C"),
            },
        )


# a type takes longer to make than a small network to run
layer_type, loss_type, optimizer_type = (functools.cache(kind) for kind in (LayerType, LossType, OptimizerType))


@typeof_impl.register(Layer)
def type_of_layer(layer, context):
    if layer.in_features is None or layer.dtype is None:
        raise errors.NumbaTypeError(f"{layer} has no width of its own; put it behind a Linear for @njit functions")
    return layer_type(edge.DTYPES[layer.dtype])


@typeof_impl.register(Loss)
def type_of_loss(loss, context):
    return loss_type()


@typeof_impl.register(Optimizer)
def type_of_optimizer(optimizer, context):
    return optimizer_type(edge.DTYPES[optimizer.state.dtype])


class FromHandleModel(models.StructModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, list(kind.parts.items()))


for kind in (LayerType, LossType, OptimizerType):
    register_model(kind)(FromHandleModel)

    @unbox(kind)
    def unbox_handle(kind, value, c):
        result = cgutils.create_struct_proxy(kind)(c.context, c.builder)
        failed = cgutils.alloca_once_value(c.builder, cgutils.true_bit)
        with ExitStack() as stack:
            handle = c.pyapi.object_getattr_string(value, "_handle")
            with cgutils.early_exit_if_null(c.builder, stack, handle):
                pass
            parts = c.unbox(types.Tuple(list(kind.parts.values())), handle)
            c.pyapi.decref(handle)
            for i, name in enumerate(kind.parts):
                setattr(result, name, c.builder.extract_value(parts.value, i))
            c.builder.store(parts.is_error, failed)
        return NativeValue(result._getvalue(), is_error=c.builder.load(failed))


for kind, names in (
    (LayerType, ("program", "vector", "grads", "space", "tape")),
    (LossType, ("table",)),
    (OptimizerType, ("code", "hyper", "segments", "state", "count")),
):
    for name in names:
        make_attribute_wrapper(kind, name, name)


@overload_attribute(LayerType, "params")
def params_of(net):
    return lambda net: net.vector[: net.grads.size]


@overload_attribute(LayerType, "buffers")
def buffers_of(net):
    return lambda net: net.vector[net.vector.size - net.program[0, native.BUFFERS] :]


@overload_method(LayerType, "predict")
def predict(net, x, out=None, params=None):
    vector = njit((lambda net, params: net.vector) if is_none(params) else with_buffers)
    if not is_none(params) and params.dtype != net.dtype:
        raise errors.TypingError(f"predict: params is {params.dtype}, but the network {net.dtype}")
    if is_none(out) and x.ndim == 1:

        def one(net, x, out=None, params=None):
            y = np.empty(net.program[0, native.OUTPUTS], net.vector.dtype)
            edge.check(native.predict(vector(net, params), net.program, as_rows(x), as_rows(y), 1, 1))
            return y

        return one
    if is_none(out):

        def rows(net, x, out=None, params=None):
            y = np.empty((x.shape[0], net.program[0, native.OUTPUTS]), net.vector.dtype)
            edge.check(native.predict(vector(net, params), net.program, x, y, 1, 1))
            return y

        return rows

    def into(net, x, out=None, params=None):
        edge.check(native.predict(vector(net, params), net.program, as_rows(x), as_rows(out), 1, 1))
        return out

    return into


def with_buffers(net, params):
    """What the kernels take, with these parameters instead of the network's."""
    if params.size != net.grads.size:
        raise ValueError("fastfc: shapes of the arrays do not fit: params needs one number for each parameter")
    if net.vector.size == params.size:
        return np.ascontiguousarray(params)
    vector = net.vector.copy()
    vector[: params.size] = params
    return vector


def is_none(kind):
    return kind is None or isinstance(kind, (types.NoneType, types.Omitted))


@overload_method(LayerType, "predict_one")
def predict_one(net, x, out):
    def run(net, x, out):
        edge.check(native.predict(net.vector, net.program, as_rows(x), as_rows(out), 1, 1))

    return run


@overload_method(LayerType, "forward")
def forward(net, x):
    def run(net, x):
        n = x.shape[0]
        out = np.empty((n, net.program[0, native.OUTPUTS]), net.vector.dtype)
        net.tape[0] = USED
        enough(native.reserve(net.program, n), net.space)
        edge.check(native.forward_saving(x, net.program, net.vector, out, net.space, net.tape))
        net.tape[0] = n
        return out

    return run


@overload_method(LayerType, "backward")
def backward(net, grad_output):
    def run(net, grad_output):
        n = net.tape[0]
        if n < 0:
            raise ValueError("fastfc: backward needs what forward saves; call forward(x) first")
        grad_input = np.empty((n, net.program[0, native.INPUTS]), net.vector.dtype)
        status = native.backward_saved(net.vector, net.program, grad_output, net.tape, net.grads, grad_input, net.space)
        edge.check(status)
        return grad_input

    return run


@njit
def enough(numbers, space):
    if numbers > space.size:
        raise ValueError("fastfc: no memory for batches of this size; call reserve(batch_size) before, in Python")


# what any loss and optimizer may need: the types of both do not tell which they are
load_any = edge.loaded(other_pointwise, run_other_rule)


@overload_method(LayerType, "train_step")
def train_step(net, x, y, loss, optimizer, sample_weight=None):
    if not isinstance(loss, LossType) or not isinstance(optimizer, OptimizerType):
        raise errors.TypingError("train_step takes a loss and an optimizer, such as fc.MSELoss() and fc.SGD()")
    same_dtype = optimizer.dtype == net.dtype
    unweighted, parts = is_none(sample_weight), isinstance(y, types.BaseTuple)
    if parts:
        split = split_parts
    elif y.ndim == 1 and isinstance(y.dtype, types.Integer):
        split = njit(lambda x, y: (x[:0], y.astype(np.int64)))
    else:
        split = njit(lambda x, y: (y, np.empty(0, np.int64)))
    weigh = njit((lambda x, w: np.empty(0, x.dtype)) if unweighted else (lambda x, w: w))

    def run(net, x, y, loss, optimizer, sample_weight=None):
        load_any(net.vector)
        begin(net, x)
        target, labels = split(x, y)
        weights = weigh(x, sample_weight)
        state = optimizer.state if same_dtype else np.empty((0, 0), net.vector.dtype)
        status, value = training.step(
            x, net.program, target, labels, weights, loss.table, optimizer.hyper, optimizer.segments,
            net.vector, net.grads, state, optimizer.count, net.space, net.tape, optimizer.code, 1, 1,
        )  # fmt: skip
        edge.check(status)
        return value

    return run


@njit
def split_parts(x, parts):
    """The targets of several outputs: numbers side by side, classes sample by sample."""
    numbers, classes = columns(parts)
    target, labels = np.empty((len(x), numbers), x.dtype), np.empty((len(x), classes), np.int64)
    fill(parts, target, labels, 0, 0)
    return target, labels.ravel()


def columns(parts):
    """Columns that the numeric targets and the classes of several outputs take."""


def fill(parts, target, labels, first, place):
    """Copy the targets to where they belong, from this column of each on."""


def is_classes(part):
    return part.ndim == 1 and isinstance(part.dtype, types.Integer)


@overload(columns)
def nopython_columns(parts):
    if len(parts) == 0:
        return lambda parts: (0, 0)
    classes, wide = is_classes(parts[0]), parts[0].ndim == 2

    def count(parts):
        numbers, places = columns(parts[1:])
        return (numbers, places + 1) if classes else (numbers + (parts[0].shape[1] if wide else 1), places)

    return count


@overload(fill)
def nopython_fill(parts, target, labels, first, place):
    if len(parts) == 0:
        return lambda parts, target, labels, first, place: None
    if is_classes(parts[0]):

        def one(parts, target, labels, first, place):
            copy_column(parts[0], labels, place)
            fill(parts[1:], target, labels, first, place + 1)

    elif parts[0].ndim == 1:

        def one(parts, target, labels, first, place):
            copy_column(parts[0], target, first)
            fill(parts[1:], target, labels, first + 1, place)

    else:

        def one(parts, target, labels, first, place):
            for j in range(parts[0].shape[1]):
                copy_column(parts[0][:, j], target, first + j)
            fill(parts[1:], target, labels, first + parts[0].shape[1], place)

    return one


@njit
def copy_column(source, target, column):
    if len(source) != len(target):
        raise ValueError("fastfc: each output needs one target for each sample")
    for r in range(len(source)):
        target[r, column] = source[r]


@njit
def begin(net, x):
    """Before a step: neither Python's forward nor ours can be followed by backward now."""
    if len(x) == 0:
        raise ValueError("fastfc: x has no rows; give at least one sample")
    enough(native.reserve(net.program, len(x)), net.space)
    net.tape[0] = USED
