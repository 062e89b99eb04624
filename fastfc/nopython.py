"""Layers, networks, losses and optimizers as arguments of `@njit` functions.

A layer is there what the kernels take: its program, its flat vectors and its memory for training. The types
hold the dtype and a hash of the sources, no sizes: a function is compiled once for all networks of a dtype,
and again after an upgrade of fastfc.

What has a wrong type is said in one sentence. Numba wraps an error of typing into twenty lines of its own, so a call
that can't be is compiled to one that raises.
"""

import functools
import hashlib
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numba import njit, types
from numba.core import cgutils, errors
from numba.core.imputils import lower_constant
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.core.typing.typeof import Purpose
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

from fastfc.kernels.ops import loss_rules
from fastfc.kernels.ops.activations import as_rows
from fastfc.kernels.ops.loss_table import LossColumn
from fastfc.kernels.program import interpreter
from fastfc.kernels.program import table as program_table
from fastfc.kernels.runtime import native
from fastfc.kernels.runtime import status as statuses
from fastfc.kernels.runtime.arrays import matrix_of
from fastfc.kernels.runtime.cache import hash_of_sources_and_versions
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import address
from fastfc.kernels.training import step as step_kernels
from fastfc.losses.base import Loss
from fastfc.nn.layer import USED, Layer
from fastfc.optim.base import Optimizer
from fastfc.validation import did_you_mean

CLASSES = -1  # instead of the columns of a target


@functools.cache
def sources():
    """Hash of all that is compiled into a function with such arguments: the kernels, and what is here."""
    return hashlib.sha256(hash_of_sources_and_versions().encode() + Path(__file__).read_bytes()).hexdigest()[:16]


class NopythonError(errors.TypingError, TypeError):
    """An `@njit` function gives a network something of a type that it does not take.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> from numba import njit
    >>> predict = njit(lambda net, x: net.predict(x))
    >>> try:
    ...     predict(fc.MLP([3, 1]), np.zeros((2, 3)))
    ... except TypeError as error:
    ...     print(str(error).partition(";")[0])
    fastfc: predict: x is an array of float64, the network of float32
    """


class FromHandle(types.Type):
    """Type of an object whose `_handle` is a tuple of its parts, with names and types of the parts."""

    def __init__(self, kind, dtype, parts):
        self.parts = parts
        super().__init__(f"fastfc.{kind}({dtype}, {sources()})")


class Global(types.Opaque):
    """Type of an object that is not an argument of the function: its arrays can't be constants of compiled code."""

    def __init__(self, kind, dtype):
        self.dtype, self.text = dtype, f"the {kind} is a global of the function; give it to the function as an argument"
        super().__init__(f"fastfc.Global({self.text})")


class LayerType(FromHandle):
    def __init__(self, dtype):
        self.dtype = dtype
        flat = types.Array(dtype, 1, "C")
        table = types.Array(types.int64, 2, "C", readonly=True)
        counters = types.Array(types.int64, 1, "C")
        parts = {"program": table, "vector": flat, "grads": flat, "workspace": flat, "counters": counters}
        super().__init__("Layer", dtype, parts)


class EnsembleType(FromHandle):
    """Type of an ensemble: parameters and buffers of all members, and their programs by address."""

    def __init__(self, dtype):
        self.dtype = dtype
        vectors, programs = types.Array(dtype, 2, "A"), types.Array(types.int64, 2, "C")
        super().__init__("Ensemble", dtype, {"vectors": vectors, "programs": programs})


class LossType(FromHandle):
    def __init__(self):
        super().__init__("Loss", "any", {"table": types.Array(types.float64, 2, "C")})


class OptimizerType(FromHandle):
    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(
            "Optimizer",
            dtype,
            {
                "code": types.int64,
                "hyper": types.Array(types.float64, 1, "C"),
                "segments": types.Array(types.float64, 2, "C"),
                "state": types.Array(dtype, 2, "C"),
                "count": types.Array(types.int64, 1, "C"),
                "home": types.int64,
            },
        )


# a type takes longer to make than a small network to run
layer_type, loss_type, optimizer_type, ensemble_type = (
    functools.cache(kind) for kind in (LayerType, LossType, OptimizerType, EnsembleType)
)


@typeof_impl.register(Layer)
def type_of_layer(layer, context):
    if layer.in_features is None or layer.dtype is None:
        raise errors.NumbaTypeError(f"{layer} has no width of its own; put it behind a Linear for @njit functions")
    dtype = native.DTYPES[layer.dtype]
    return Global("network", dtype) if context.purpose == Purpose.constant else layer_type(dtype)


@typeof_impl.register(Loss)
def type_of_loss(loss, context):
    return Global("loss", None) if context.purpose == Purpose.constant else loss_type()


@typeof_impl.register(Optimizer)
def type_of_optimizer(optimizer, context):
    dtype = native.DTYPES[optimizer.state.dtype]
    return Global("optimizer", dtype) if context.purpose == Purpose.constant else optimizer_type(dtype)


def type_of_ensemble(team, context):
    """What models/ registers for ensembles, which stand above this module."""
    dtype = native.DTYPES[team.dtype]
    return Global("ensemble", dtype) if context.purpose == Purpose.constant else ensemble_type(dtype)


@lower_constant(Global)
def lower_global(context, builder, kind, value):
    return context.get_dummy_value()


register_model(Global)(models.OpaqueModel)


class FromHandleModel(models.StructModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, list(kind.parts.items()))


for kind in (LayerType, LossType, OptimizerType, EnsembleType):
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
    (LayerType, ("program", "vector", "grads", "workspace", "counters")),
    (EnsembleType, ("vectors", "programs")),
    (LossType, ("table",)),
    (OptimizerType, ("code", "hyper", "segments", "state", "count", "home")),
):
    for name in names:
        make_attribute_wrapper(kind, name, name)


METHODS = ("predict", "predict_one", "forward", "backward", "train_step")
ATTRIBUTES = {
    LayerType: (*METHODS, "params", "grads", "buffers", "program", "vector", "workspace", "counters"),
    EnsembleType: ("predict_one", "vectors", "programs"),
    LossType: ("table",),
    OptimizerType: ("code", "hyper", "segments", "state", "count"),
    Global: METHODS,
}
INSTEAD = {
    LayerType: "a network has " + ", ".join(ATTRIBUTES[LayerType][:-4]),
    EnsembleType: "an ensemble has predict_one(k, x, out), and team[k] is a network",
    LossType: "a loss is an argument of net.train_step",
    OptimizerType: "an optimizer is an argument of net.train_step",
}


def explain_attributes(kind):
    @infer_getattr
    class Attributes(AttributeTemplate):
        key = kind

        def generic_resolve(self, of, attribute):
            known = ATTRIBUTES[kind]
            if attribute in known or (attribute.startswith("__") and attribute != "__call__"):
                return
            raise AttributeError(
                f"fastfc: {of.text}"
                if kind is Global
                else f"fastfc: there is no {attribute!r} in @njit code, where {INSTEAD[kind]}"
                + did_you_mean(attribute, known)
            )


for known_type in ATTRIBUTES:
    explain_attributes(known_type)


def method(name):
    """overload_method of networks, and of those that are globals, where every call raises."""

    def decorate(function):
        for kind in (LayerType, Global):
            overload_method(kind, name, inline="always")(function)
        return function

    return decorate


def array_fault(net, what, kind, ndims, fix, written=False):
    """What is wrong with the type of an argument that is to be an array of the network's dtype, or None."""
    if isinstance(kind, types.BaseTuple) and any(isinstance(part, types.Number | types.Boolean) for part in kind):
        return f"{what} is a tuple of numbers; give an array of {net.dtype}"
    if isinstance(kind, types.BaseTuple):
        axis = "" if all(getattr(part, "ndim", 0) == 1 for part in kind) else ", axis=1"
        return f"{what} is a tuple; put its arrays side by side, np.concatenate({what}{axis})"
    if not isinstance(kind, types.Array):
        return f"{what} is of type {kind}; give an array of {net.dtype}"
    if kind.dtype != net.dtype:
        remake = f", or make the network with dtype=np.{kind.dtype}" if kind.dtype in native.DTYPES.values() else ""
        fixed = f"make it np.empty(shape, np.{net.dtype})" if written else f"give {what}.astype(np.{net.dtype})"
        return f"{what} is an array of {kind.dtype}, the network of {net.dtype}; {fixed}{remake}"
    if kind.ndim not in ndims:
        return f"{what} has {kind.ndim} {'axis' if kind.ndim == 1 else 'axes'}; {fix}"
    if written and not kind.mutable:
        return f"{what} is read-only; give a writable array"
    return None


ROWS = "samples are rows, (n, width), and one sample is x.reshape(1, -1)"
ROW_OR_ROWS = "give one sample, (width,), or rows of them, (n, width)"


def first_fault(name, net, *faults):
    """The sentence of a call of this method with wrong types; None if all is right."""
    if isinstance(net, Global):
        faults = (net.text,)
    return next((f"fastfc: {name}: {fault}" for fault in faults if fault is not None), None)


@helper
def always():
    """True, which Numba does not know: what comes after a raise gives the call its type."""
    return True


# What BAD_SHAPE means; all that can be told without the names of the arrays.
MISFIT = "fastfc: the shapes of the arrays do not fit: "
WRONG_X = MISFIT + "x has another width than the network takes, net.in_features"
WRONG_PARAMS = MISFIT + "params has another length than net.params"
WRONG_OUT = MISFIT + "out must have a row for each row of x, as wide as net.out_features"
WRONG_GRADIENT = MISFIT + "grad_output must have the shape of what forward returned"
WRONG_ROWS = MISFIT + "y must have one target for each row of x"
WRONG_WEIGHTS = MISFIT + "sample_weight must have one number for each row of x"
WRONG_TARGETS = MISFIT + "y is not what the loss takes, numbers (n, net.out_features) or classes (n,)"


@helper
def check_prediction(status, x_fits):
    if status == statuses.BAD_SHAPE:
        if not x_fits:
            raise ValueError(WRONG_X)
        raise ValueError(WRONG_OUT)
    statuses.check(status)


@helper
def check_step(status, x_fits, rows_fit, weights_fit):
    if status == statuses.BAD_SHAPE:
        if not x_fits:
            raise ValueError(WRONG_X)
        if not rows_fit:
            raise ValueError(WRONG_ROWS)
        if not weights_fit:
            raise ValueError(WRONG_WEIGHTS)
        raise ValueError(WRONG_TARGETS)
    statuses.check(status)


@helper
def predict_into(vector, program, x, out):
    status = interpreter.predict(vector, program, x, out, 1, 1)
    check_prediction(status, x.shape[1] == program[0, program_table.Header.INPUTS])


@overload_attribute(LayerType, "params")
def params_of(net):
    return lambda net: net.vector[: net.grads.size]


@overload_attribute(LayerType, "buffers")
def buffers_of(net):
    return lambda net: net.vector[net.vector.size - net.program[0, program_table.Header.BUFFERS] :]


@method("predict")
def predict(net, x, out=None, params=None):
    fault = first_fault(
        "predict",
        net,
        array_fault(net, "x", x, (1, 2), ROW_OR_ROWS),
        None if is_none(out) else array_fault(net, "out", out, (1, 2), ROW_OR_ROWS, written=True),
        None if is_none(params) else array_fault(net, "params", params, (1,), "give a vector like net.params"),
    )
    if fault:
        shape, dtype = (0,) if getattr(x, "ndim", 2) == 1 else (0, 0), getattr(np, str(net.dtype))

        def wrong(net, x, out=None, params=None):
            if always():
                raise NopythonError(fault)
            return np.empty(shape, dtype)

        return wrong
    vector = njit((lambda net, params: net.vector) if is_none(params) else with_buffers)
    if is_none(out) and x.ndim == 1:

        def one(net, x, out=None, params=None):
            y = np.empty(net.program[0, program_table.Header.OUTPUTS], net.vector.dtype)
            predict_into(vector(net, params), net.program, as_rows(x), as_rows(y))
            return y

        return one
    if is_none(out):

        def rows(net, x, out=None, params=None):
            y = np.empty((x.shape[0], net.program[0, program_table.Header.OUTPUTS]), net.vector.dtype)
            predict_into(vector(net, params), net.program, x, y)
            return y

        return rows

    def into(net, x, out=None, params=None):
        predict_into(vector(net, params), net.program, as_rows(x), as_rows(out))
        return out

    return into


def with_buffers(net, params):
    """What the kernels take, with these parameters instead of the network's."""
    if params.size != net.grads.size:
        raise ValueError(WRONG_PARAMS)
    if net.vector.size == params.size:
        return np.ascontiguousarray(params)
    vector = net.vector.copy()
    vector[: params.size] = params
    return vector


def is_none(kind):
    return kind is None or isinstance(kind, (types.NoneType, types.Omitted))


@method("predict_one")
def predict_one(net, x, out=None):
    fault = first_fault(
        "predict_one",
        net,
        array_fault(net, "x", x, (1, 2), ROW_OR_ROWS),
        None if is_none(out) else array_fault(net, "out", out, (1, 2), ROW_OR_ROWS, written=True),
    )

    def wrong(net, x, out=None):
        if always():
            raise NopythonError(fault)

    def new(net, x, out=None):
        return net.predict(x)

    def run(net, x, out=None):
        status = interpreter.predict(net.vector, net.program, as_rows(x), as_rows(out), 1, 1)
        check_prediction(status, x.shape[-1] == net.program[0, program_table.Header.INPUTS])
        return out

    return wrong if fault else new if is_none(out) else run


@overload_method(EnsembleType, "predict_one", inline="always")
def predict_member(team, k, x, out=None):
    fault = first_fault(
        "predict_one",
        team,
        None if isinstance(k, types.Integer) else f"k is of type {k}; give the number of a member",
        array_fault(team, "x", x, (1, 2), ROW_OR_ROWS),
        None if is_none(out) else array_fault(team, "out", out, (1, 2), ROW_OR_ROWS, written=True),
    )
    if fault:
        shape, dtype = (0,) if getattr(x, "ndim", 2) == 1 else (0, 0), getattr(np, str(team.dtype))

        def wrong(team, k, x, out=None):
            if always():
                raise NopythonError(fault)
            return np.empty(shape, dtype)

        return wrong
    if is_none(out):

        def new(team, k, x, out=None):
            program = member_program(team, k)
            width = program[0, program_table.Header.OUTPUTS]
            rows = as_rows(x)
            y = np.empty((rows.shape[0], width), team.vectors.dtype)
            predict_into(team.vectors[k], program, rows, y)
            return y

        def new_row(team, k, x, out=None):
            return team.predict_one(k, x.reshape(1, -1))[0]

        return new_row if x.ndim == 1 else new

    def into(team, k, x, out=None):
        predict_into(team.vectors[k], member_program(team, k), as_rows(x), as_rows(out))
        return out

    return into


@helper
def member_program(team, k):
    if k < 0 or k >= team.programs.shape[0]:
        raise IndexError("fastfc: predict_one: k must be the number of a member, from 0 on")
    return matrix_of(team.programs, team.programs, k, 0)


@method("forward")
def forward(net, x):
    fault = first_fault("forward", net, array_fault(net, "x", x, (2,), ROWS))
    dtype = getattr(np, str(net.dtype))

    def wrong(net, x):
        if always():
            raise NopythonError(fault)
        return np.empty((0, 0), dtype)

    def run(net, x):
        n = x.shape[0]
        out = np.empty((n, net.program[0, program_table.Header.OUTPUTS]), net.vector.dtype)
        net.counters[0] = USED
        enough(interpreter.workspace_size(net.program, n), net.workspace)
        status = interpreter.forward_saving(x, net.program, net.vector, out, net.workspace, net.counters)
        check_prediction(status, x.shape[1] == net.program[0, program_table.Header.INPUTS])
        net.counters[0] = n
        return out

    return wrong if fault else run


@method("backward")
def backward(net, grad_output):
    fault = first_fault("backward", net, array_fault(net, "grad_output", grad_output, (2,), "give (n, out_features)"))
    dtype = getattr(np, str(net.dtype))

    def wrong(net, grad_output):
        if always():
            raise NopythonError(fault)
        return np.empty((0, 0), dtype)

    def run(net, grad_output):
        n = net.counters[0]
        if n < 0:
            raise ValueError("fastfc: backward needs what forward saves; call forward(x) first")
        grad_input = np.empty((n, net.program[0, program_table.Header.INPUTS]), net.vector.dtype)
        status = interpreter.backward_saved(
            net.vector, net.program, grad_output, net.counters, net.grads, grad_input, net.workspace
        )
        if status == statuses.BAD_SHAPE:
            raise ValueError(WRONG_GRADIENT)
        statuses.check(status)
        return grad_input

    return wrong if fault else run


@helper
def enough(numbers, workspace):
    if numbers > workspace.size:
        raise ValueError("fastfc: no memory for batches of this size; call reserve(batch_size) before, in Python")


def target_fault(net, what, kind, several=False):
    """The same of targets, which may be classes."""
    if isinstance(kind, types.BaseTuple) and not several:
        faults = [target_fault(net, f"{what}[{i}]", part, several=True) for i, part in enumerate(kind)]
        return next((fault for fault in faults if fault is not None), None)
    if isinstance(kind, types.Array) and (is_classes(kind) or (several and kind.ndim in (1, 2))):
        return None
    return array_fault(net, what, kind, (2,), f"numbers are (n, columns), {what}.reshape(-1, 1), and classes integers")


def others_fault(loss, optimizer):
    """What is wrong with a loss and an optimizer, or None."""
    for kind in (loss, optimizer):
        if isinstance(kind, Global):
            return kind.text
    if isinstance(loss, LossType) and isinstance(optimizer, OptimizerType):
        return None
    return f"it takes a loss and an optimizer, such as fc.MSELoss() and fc.SGD(), not {loss} and {optimizer}"


@method("train_step")
def train_step(net, x, y, loss, optimizer, sample_weight=None):
    fault = first_fault(
        "train_step",
        net,
        array_fault(net, "x", x, (2,), ROWS),
        target_fault(net, "y", y),
        others_fault(loss, optimizer),
        None if is_none(sample_weight) else array_fault(net, "sample_weight", sample_weight, (1,), "give a vector"),
    )
    if fault:

        def wrong(net, x, y, loss, optimizer, sample_weight=None):
            if always():
                raise NopythonError(fault)
            return 0.0

        return wrong
    same_dtype = optimizer.dtype == net.dtype
    unweighted, parts = is_none(sample_weight), isinstance(y, types.BaseTuple)
    if parts:
        split = split_parts
    elif is_classes(y):
        split = njit(lambda x, y, program, losses: (x[:0], y.astype(np.int64), losses))
    else:
        split = njit(lambda x, y, program, losses: (y, np.empty(0, np.int64), losses))
    weigh = njit((lambda x, w: np.empty(0, x.dtype)) if unweighted else (lambda x, w: w))

    def run(net, x, y, loss, optimizer, sample_weight=None):
        if optimizer.home != 0 and optimizer.home != address(net.vector):
            raise ValueError(
                "fastfc: the optimizer is for another network; use a new one for each, or optimizer.reset(), and then "
                "call optimizer.prepare(net), in Python"
            )
        begin(net, x)
        target, labels, losses = split(x, y, net.program, loss.table)
        weights = weigh(x, sample_weight)
        state = optimizer.state if same_dtype else np.empty((0, 0), net.vector.dtype)
        status, value = step_kernels.train_step(
            x, net.program, target, labels, weights, losses, optimizer.hyper, optimizer.segments,
            net.vector, net.grads, state, optimizer.count, net.workspace, net.counters, optimizer.code, 1, 1,
        )  # fmt: skip
        n, n_targets = len(x), len(target) if target.size else len(labels)
        rows_fit = n_targets == n or (parts and labels.size > 0)
        check_step(status, x.shape[1] == net.program[0, program_table.Header.INPUTS], rows_fit, weights.size in (0, n))
        return value

    return run


@helper
def split_parts(x, parts, program, losses):
    """The targets of several outputs: numbers side by side, classes sample by sample; and the table of their losses."""
    widths = np.empty(len(parts), np.int64)
    measure(parts, widths, 0)
    numbers, classes = np.maximum(widths, 0).sum(), (widths == CLASSES).sum()
    target, labels = np.empty((len(x), numbers), x.dtype), np.empty((len(x), classes), np.int64)
    fill(parts, target, labels, 0, 0)
    return target, labels.ravel(), table_for(program, losses, widths)


@helper
def table_for(program, losses, widths):
    """The table of losses for the outputs of this network and targets of these widths, as MultiLoss._table_for.

    A single loss is for all columns.
    """
    outputs = program[0, program_table.Header.PARTS]
    if len(losses) == 1:
        return losses
    if len(losses) != outputs or len(widths) != outputs:
        raise ValueError(
            "fastfc: a MultiLoss takes a network with an output for each of its losses, and as many targets"
        )
    table, column, number, place = losses.copy(), 0, 0, 0
    for r in range(outputs):
        row, width, classes = (
            table[r],
            program[len(program) - outputs + r, program_table.Value.WIDTH],
            widths[r] == CLASSES,
        )
        of_member = width // int(row[LossColumn.MEMBERS])
        if classes and row[LossColumn.CLASSES] == 0.0:
            raise ValueError("fastfc: the shapes do not fit: integers (n,) are classes, and this loss takes numbers")
        if not classes and widths[r] != (of_member // 2 if row[LossColumn.CODE] == loss_rules.GAUSSIAN else of_member):
            raise ValueError("fastfc: the shapes do not fit: a target of MultiLoss has other columns than its output")
        row[LossColumn.FIRST], row[LossColumn.WIDTH], row[LossColumn.CLASSES] = column, width, classes
        row[LossColumn.FIRST_TARGET] = place if classes else number
        column, number, place = column + width, number + max(widths[r], 0), place + classes
    return table


def measure(parts, widths, r):
    """Write how many columns each target has, from number r on, or CLASSES."""


def fill(parts, target, labels, first, place):
    """Copy the targets to where they belong, from this column of each on."""


def is_classes(part):
    return part.ndim == 1 and isinstance(part.dtype, types.Integer)


@overload(measure)
def nopython_measure(parts, widths, r):
    if len(parts) == 0:
        return lambda parts, widths, r: None
    wide, alone = parts[0].ndim == 2, CLASSES if is_classes(parts[0]) else 1

    def one(parts, widths, r):
        widths[r] = parts[0].shape[1] if wide else alone
        measure(parts[1:], widths, r + 1)

    return one


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


@helper
def copy_column(source, target, column):
    if len(source) != len(target):
        raise ValueError("fastfc: each output needs one target for each sample")
    for r in range(len(source)):
        target[r, column] = source[r]


@helper
def begin(net, x):
    """Before a step: neither Python's forward nor ours can be followed by backward now."""
    if len(x) == 0:
        raise ValueError("fastfc: x has no rows; give at least one sample")
    enough(interpreter.workspace_size(net.program, len(x)), net.workspace)
    net.counters[0] = USED
