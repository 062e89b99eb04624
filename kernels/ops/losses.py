"""Losses of matrices and their gradients, and the functions of `fastfc.kernels`; the formulas are in loss_rules.py."""

from collections import namedtuple
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload, register_jitable
from numpy.typing import ArrayLike, NDArray

from fastfc.kernels.ops.activations import as_rows
from fastfc.kernels.ops.loss_rules import (
    BCE,
    BCE_WITH_LOGITS,
    BLOCK,
    BLOCK_BYTES,
    BY_CLASS_WEIGHTS,
    BY_NUMBER_OF_CLASSES,
    BY_ROWS,
    CROSS_ENTROPY,
    CUSTOM_ARRAY,
    EAGER,
    GAUSSIAN,
    HUBER,
    KL,
    KL_LOG,
    L1,
    LOG_2PI,
    MSE,
    MULTI_MARGIN,
    NLL,
    NUMBER,
    OF_PROBABILITIES,
    ONLY_CLASSES,
    POISSON,
    POISSON_LOG,
    PREDICTS_PROBABILITIES,
    QUANTILE,
    SOFT,
    SOFT_CROSS_ENTROPY,
    VARIANCES,
    cross_entropy_row,
    fill,
    kernel_of,
    mix_row,
    nll_row,
    require_row,
    run_pointwise,
    run_row,
)
from fastfc.kernels.ops.loss_table import (
    BATCH_MEAN,
    HAS_VECTOR,
    HAS_WEIGHTS,
    MEAN,
    NO_CLASS,
    NONE,
    VECTOR,
    LossColumn,
)
from fastfc.kernels.ops.matrix import Matrix, contiguous_matrix, copy_matrix, element, matrix, matrix_type
from fastfc.kernels.runtime import kernel as boundary
from fastfc.kernels.runtime.kernel import kernel
from fastfc.kernels.runtime.linkage import call_at
from fastfc.kernels.runtime.native import compiled_kernel, on_demand_kernel, requires
from fastfc.kernels.runtime.overlap import overlaps
from fastfc.kernels.runtime.status import (
    BAD_LABEL,
    BAD_PREDICTION,
    BAD_PROBABILITY,
    BAD_SHAPE,
    BAD_WEIGHT,
    NO_MEMORY,
    OK,
    OVERLAP,
    check,
)
from fastfc.kernels.simd.compiler import helper, inlined_helper
from fastfc.kernels.simd.memory import allocate, at, is_null, itemsize, pointer, read, release, stack, view, write

RESULT = types.Tuple((types.int64, types.float64))
RESULTS = types.Tuple((types.int64, types.float64, types.float64))

# What one loss reads and writes: matrices of its prediction and its numeric target; labels, of which each sample has
# `stride`, 0 if the loss has none; the samples' weights or none; its values, if it has no reduction; and its gradient.
LossData = namedtuple("LossData", ["prediction", "target", "labels", "stride", "weights", "values", "out"])


def readonly(dtype, ndim):
    return types.Array(dtype, ndim, "A", readonly=True, aligned=False)


def loss_data(dtype):
    matrix, values = matrix_type(dtype), types.Array(dtype, 1, "A", aligned=False)
    members = [matrix, matrix, readonly(types.int64, 1), types.int64, readonly(dtype, 1), values, matrix]
    return types.NamedTuple(members, LossData)


@helper
def unit_stride(x, columns):
    """Whether the elements of a row are neighbours in memory."""
    return x.column == itemsize(x.data) or columns == 1


@helper
def is_contiguous(x, rows, columns):
    """Whether all elements are."""
    return unit_stride(x, columns) and (rows == 1 or x.row == columns * itemsize(x.data))


@helper
def block(x, i, j):
    """A matrix without its first i rows and j columns."""
    return Matrix(element(x, i, j), x.row, x.column)


@helper
def as_contiguous(x, rows, columns, buffer):
    """The elements as neighbours: where they are, or copied."""
    if is_contiguous(x, rows, columns):
        return x.data
    copy_matrix(rows, columns, x, contiguous_matrix(buffer, columns))
    return buffer


@helper
def copy_back(data, rows, columns, x):
    """What was written to a copy, to where it belongs."""
    if not is_contiguous(x, rows, columns):
        copy_matrix(rows, columns, contiguous_matrix(data, columns), x)


@helper
def are_within(x, rows, columns, high, nan):
    """Whether all elements lie in [0, high]; NaN does if `nan`."""
    if is_contiguous(x, rows, columns):
        x, rows, columns = contiguous_matrix(x.data, rows * columns), min(rows, 1), rows * columns
    for i in range(rows):
        inside = 0
        for j in range(columns):
            value = read(element(x, i, j))
            inside += ((value >= 0) & (value <= high)) | ((nan != 0) & (value != value))
        if inside < columns:
            return False
    return True


@helper
def fill_from(numbers, first, count, target):
    for j in range(count):
        write(at(target, j * itemsize(target)), numbers[first + j])


@helper
def multiply_by(numbers, first, count, target):
    for j in range(count):
        src = at(target, j * itemsize(target))
        write(src, read(src) * numbers[first + j])


@on_demand_kernel(
    lambda dtype: types.float64(loss_data(dtype), readonly(types.float64, 1), types.int64, types.int64, types.float64)
)
def evaluate_pointwise(data, row, n, k, scale):
    """The sum of w L for n rows and k columns of targets."""
    p, t, _, _, weights, values, o = data
    code, a, b = int(row[LossColumn.CODE]), row[LossColumn.A], row[LossColumn.B]
    keep, size = np.int64(row[LossColumn.REDUCTION] == NONE), itemsize(p.data)
    p_room, t_room = stack(p.data, BLOCK_BYTES), stack(p.data, BLOCK_BYTES)
    v, w = stack(p.data, BLOCK_BYTES), stack(p.data, BLOCK_BYTES)
    kept, total = Matrix(pointer(values), k * values.strides[0], values.strides[0]), 0.0
    for j in range(0, k, BLOCK):
        columns = min(BLOCK, k - j)
        most = min(n, BLOCK // columns)
        vectors = int(row[LossColumn.VECTORS])
        of_columns = VECTOR + j + (k if vectors & HAS_VECTOR else 0)
        fill(most * columns, v, row[LossColumn.C])
        fill(most * columns, w, 1.0)
        for i in range(most):
            if vectors & HAS_VECTOR:
                fill_from(row, VECTOR + j, columns, at(v, i * columns * size))
            if vectors & HAS_WEIGHTS:
                fill_from(row, of_columns, columns, at(w, i * columns * size))
        for i in range(0, n, max(most, 1)):
            rows = min(most, n - i)
            there, kept_there = block(o, i, j), block(kept, i, j) if keep else kept
            if weights.size:
                for r in range(rows):
                    src = at(w, r * columns * size)
                    fill(columns, src, np.float64(weights[i + r]))
                    if vectors & HAS_WEIGHTS:
                        multiply_by(row, of_columns, columns, src)
            if code & VARIANCES:
                copy_matrix(rows, columns, block(p, i, k + j), contiguous_matrix(v, columns))
            x, y = (
                as_contiguous(block(p, i, j), rows, columns, p_room),
                as_contiguous(block(t, i, j), rows, columns, t_room),
            )
            # a rule reads before it writes, so that copies of what is read have room for what is written
            g = there.data if is_contiguous(there, rows, columns) else p_room
            kept_here = kept_there.data if is_contiguous(kept_there, rows, columns) else t_room
            total += run_pointwise(code & NUMBER, (x, y, v, w, g, kept_here, rows * columns, keep, scale, a, b))
            copy_back(g, rows, columns, there)
            if keep:
                copy_back(kept_here, rows, columns, kept_there)
            if code & VARIANCES:
                copy_matrix(rows, columns, contiguous_matrix(v, columns), block(o, i, k + j))
    return total


@on_demand_kernel(
    lambda dtype: RESULT(loss_data(dtype), readonly(types.float64, 1), types.int64, types.int64, *[types.float64] * 2)
)
def evaluate_rowwise(data, row, n, c, scale, smoothing):
    """Status, and the sum of w L, for n rows and c classes; of classes if there are labels.

    Label smoothing, a of the losses that have it, is multiplied by `smoothing`, and at most 1.
    """
    z, y, labels, stride, weights, values, o = data
    code, size, of_classes = int(row[LossColumn.CODE]), itemsize(z.data), stride > 0
    a, kept = row[LossColumn.A], row[LossColumn.REDUCTION] == NONE
    if code & SOFT:
        a = min(a * smoothing, 1.0)
    first, ignored = int(row[LossColumn.FIRST_TARGET]), np.int64(row[LossColumn.C])
    soft = code & SOFT != 0 and not (of_classes and a == 0.0)
    number = np.int64((SOFT_CROSS_ENTROPY if soft else code) & NUMBER)
    eager = code & EAGER != 0 and not soft
    if not eager:
        require_row(number, z.data)
    mixed = soft and (of_classes or a != 0.0 or row[LossColumn.VECTORS])
    if c == 0:  # of which there may be more rows than a loop could pass
        return OK, 0.0
    in_place = unit_stride(z, c) and unit_stride(o, c) and (of_classes or unit_stride(y, c))
    wanted = 0 if in_place and not mixed else 4 * c * size
    z_room, memory = allocate(z.data, wanted)
    if wanted and is_null(memory):
        return NO_MEMORY, 0.0
    o_room, q_room, v = at(z_room, c * size), at(z_room, 2 * c * size), at(z_room, 3 * c * size)
    if mixed and row[LossColumn.VECTORS]:
        fill_from(row, np.int64(VECTOR), c, v)
    elif mixed:
        fill(c, v, 1.0)
    # typed numbers: for a literal Numba compiles a function once more
    none, one, total = np.int64(0), np.int64(1), 0.0
    for i in range(n):
        weight, label = np.float64(weights[i]) if weights.size else 1.0, labels[i * stride + first] if of_classes else 0
        there = block(o, i, none)
        x, g = as_contiguous(block(z, i, none), one, c, z_room), there.data if unit_stride(there, c) else o_room
        if of_classes and label == ignored:
            fill(c, g, 0.0)
            value = 0.0
        elif soft:
            q = q_room
            if of_classes:
                fill(c, q, 0.0)
                write(at(q, label * size), 1.0)
            else:
                q = as_contiguous(block(y, i, none), one, c, q_room)
            if mixed:
                mix_row(c, q, q_room, v, 1.0 - a, a / c)
                q = q_room
            value = run_row(number, (x, q, g, c, label, scale * weight, a, row[LossColumn.B]))
        else:
            factor = row[VECTOR + label] if row[LossColumn.VECTORS] else 1.0
            if code & BY_NUMBER_OF_CLASSES:
                factor /= c
            if not eager:
                value = factor * run_row(number, (x, x, g, c, label, scale * weight * factor, a, row[LossColumn.B]))
            elif code == CROSS_ENTROPY:
                value = factor * cross_entropy_row(c, x, label, g, scale * weight * factor)
            else:
                value = factor * nll_row(c, x, label, g, scale * weight * factor)
        copy_back(g, one, c, there)
        total += weight * value
        if kept:
            values[i] = weight * value
    release(memory)
    return OK, total


@helper
def width_of(row, output):
    """Columns of the prediction."""
    return int(row[LossColumn.WIDTH]) if row[LossColumn.WIDTH] else output.shape[1]


@helper
def member_width(row, output):
    """Columns of each member's prediction."""
    columns = width_of(row, output)
    return columns if row[LossColumn.MEMBERS] == 1.0 else columns // int(row[LossColumn.MEMBERS])


@helper
def target_width(row, output):
    """Columns of the target, if it is not classes."""
    columns = member_width(row, output)
    return columns // 2 if int(row[LossColumn.CODE]) & VARIANCES else columns


@helper
def inspect(row, output, target, labels, stride, weights, values):
    """Status of what a loss is to read."""
    n, columns, code = output.shape[0], member_width(row, output), int(row[LossColumn.CODE])
    first, k = int(row[LossColumn.FIRST_TARGET]), target_width(row, output)
    of_classes, ignored = row[LossColumn.CLASSES] and stride, row[LossColumn.C]
    vectors = (int(row[LossColumn.VECTORS]) & HAS_VECTOR != 0) + (int(row[LossColumn.VECTORS]) & HAS_WEIGHTS != 0)
    wide, members = width_of(row, output), row[LossColumn.MEMBERS]
    if int(row[LossColumn.FIRST]) + wide > output.shape[1] or (members != 1.0 and columns * int(members) != wide):
        return BAD_SHAPE
    if vectors and (row[LossColumn.LENGTH] != columns or row.size < VECTOR + vectors * columns):
        return BAD_SHAPE
    if code & VARIANCES and columns != 2 * k:
        return BAD_SHAPE
    if row[LossColumn.REDUCTION] == NONE and values.size != (n if code & BY_ROWS else n * k):
        return BAD_SHAPE
    if code == CUSTOM_ARRAY and (weights.size or row[LossColumn.REDUCTION] == NONE):
        return BAD_SHAPE
    if of_classes:
        wrong = 0
        for i in range(n):
            label = labels[i * stride + first]
            wrong += (label < 0 or label >= columns) and (label != np.int64(ignored) or ignored == NO_CLASS)
        return BAD_LABEL if wrong else OK
    if target.shape[0] != n or (n and first + k > target.shape[1]) or (n and code & ONLY_CLASSES):
        return BAD_SHAPE
    none, one = np.int64(0), np.int64(1)
    y = block(matrix(target), none, first)
    if code & OF_PROBABILITIES and not are_within(y, n, k, 1.0, none):
        return BAD_PROBABILITY
    for m in range(int(members) if code & (PREDICTS_PROBABILITIES | VARIANCES) else 0):
        p = block(matrix(output), none, int(row[LossColumn.FIRST]) + m * columns)
        if code & PREDICTS_PROBABILITIES and not are_within(p, n, k, 1.0, one):
            return BAD_PREDICTION
        if code & VARIANCES and not are_within(block(p, none, k), n, k, np.inf, one):
            return BAD_PREDICTION
    return OK


@helper
def class_weight_sum(row, labels, stride, weights, n):
    """The sum of w v_y over the samples whose class is not ignored."""
    total, ignored = 0.0, np.int64(row[LossColumn.C])
    for i in range(n):
        label = labels[i * stride + int(row[LossColumn.FIRST_TARGET])]
        if label != ignored:
            factor = row[VECTOR + label] if row[LossColumn.VECTORS] else 1.0
            total += factor * (np.float64(weights[i]) if weights.size else 1.0)
    return total


@helper
def inspect_all(output, target, labels, weights, values, out, losses):
    """Status of what all losses are to read, weights apart; and how many labels each sample has."""
    n, stride, none = output.shape[0], np.int64(0), np.int64(0)
    if output.shape != out.shape or (weights.size and weights.size != n) or losses.shape[1] < VECTOR:
        return BAD_SHAPE, none
    if overlaps(output, out) or overlaps(target, out) or overlaps(weights, out):
        return OVERLAP, none
    if labels.size or losses.shape[0] > 1:  # the targets of a single loss may be probabilities instead
        for r in range(losses.shape[0]):
            stride += int(losses[r, LossColumn.CLASSES])
    columns, numbers = np.int64(0), np.int64(0)
    for r in range(losses.shape[0]):
        columns += width_of(losses[r], output)
        numbers += none if losses[r, LossColumn.CLASSES] and stride else target_width(losses[r], output)
    wrong = n > 0 and numbers > 0 and target.shape[1] != numbers
    if wrong or labels.size != n * stride or columns != output.shape[1]:
        return BAD_SHAPE, none
    for r in range(losses.shape[0]):
        status = inspect(losses[r], output, target, labels, stride, weights, values)
        if status != OK:
            return status, none
    return OK, stride


@helper
def sum_of_weights(weights, n, losses):
    """Status, and the sum of the samples' weights; those of a mean are not negative."""
    if weights.size == 0:
        return OK, np.float64(n)
    weight_sum, least, bad = np.float64(0.0), -np.inf, 0
    for r in range(losses.shape[0]):
        least = 0.0 if losses[r, LossColumn.REDUCTION] in (MEAN, BATCH_MEAN) else least
    for i in range(n):
        weight_sum += weights[i]
        bad += not weights[i] >= least
    return BAD_WEIGHT if bad else OK, weight_sum


@inlined_helper
def evaluate_member(data, row, n, k, scale, smoothing):
    """Status, and the sum of w L, of one prediction."""
    p, t, _, _, _, _, o = data
    if int(row[LossColumn.CODE]) == CUSTOM_ARRAY:
        places = (p.data, p.row, p.column, t.data, t.row, t.column, o.data, o.row, o.column)
        return OK, call_at(row[LossColumn.A], p.data, (n, k, scale, *places))
    if int(row[LossColumn.CODE]) & BY_ROWS:
        return evaluate_rowwise(data, row, n, k, scale, smoothing)
    return OK, evaluate_pointwise(data, row, n, k, scale)


@on_demand_kernel(
    lambda dtype: RESULT(loss_data(dtype), readonly(types.float64, 1), types.int64, types.int64, *[types.float64] * 2)
)
def evaluate_others(data, row, n, k, scale, smoothing):
    """Status, and the sum of w L, of all members but the first one, whose prediction and gradient `data` has."""
    p, t, labels, stride, weights, values, o = data
    columns, total, none = 2 * k if int(row[LossColumn.CODE]) & VARIANCES else k, 0.0, np.int64(0)
    for m in range(1, int(row[LossColumn.MEMBERS])):
        own, out = block(p, none, m * columns), block(o, none, m * columns)
        member = LossData(own, t, labels, stride, weights, values, out)
        status, part = evaluate_member(member, row, n, k, scale, smoothing)
        if status != OK:
            return status, 0.0
        total += part
    return OK, total


@compiled_kernel(
    lambda dtype: RESULTS(
        *[readonly(dtype, 2)] * 2,
        readonly(types.int64, 1),
        readonly(dtype, 1),
        types.Array(dtype, 1, "A", aligned=False),
        types.Array(dtype, 2, "A", aligned=False),
        readonly(types.float64, 2),
        types.float64,
    )
)
def evaluate_losses(output, target, labels, weights, values, out, losses, smoothing):
    """Status, value, and part of an epoch's sum, of all losses in a table; out = gradient.

    target (n, t) has the numeric targets of all outputs side by side, labels (n k,) the classes of k outputs sample
    by sample, weights the n samples' or none. A loss of reduction NONE puts its values into `values`. The value is the
    sum of the losses times their WEIGHT. In the epoch's sum a mean counts as often as the samples' weights add up to,
    or what a mean over classes divides by, for its SHARE of them in the epoch. Weights of samples may be negative if
    no loss is a mean. Label smoothing is multiplied by `smoothing`.
    """
    n, none = output.shape[0], np.int64(0)
    status, stride = inspect_all(output, target, labels, weights, values, out, losses)
    if status != OK:
        return status, 0.0, 0.0
    status, weight_sum = sum_of_weights(weights, n, losses)
    if status != OK:
        return status, 0.0, 0.0
    value, epoch = 0.0, 0.0
    for r in range(losses.shape[0]):
        row = losses[r]
        code, reduction, k = int(row[LossColumn.CODE]), row[LossColumn.REDUCTION], target_width(row, output)
        steps, first = stride if row[LossColumn.CLASSES] else none, int(row[LossColumn.FIRST])
        p, o = block(matrix(output), none, first), block(matrix(out), none, first)
        t = block(matrix(target), none, none if steps else int(row[LossColumn.FIRST_TARGET]))
        divisor, counted = 1.0, weight_sum
        if reduction == BATCH_MEAN or (reduction == MEAN and code & BY_ROWS):
            divisor = weight_sum
            if steps and code & BY_CLASS_WEIGHTS:
                divisor = class_weight_sum(row, labels, steps, weights, n)
                counted = divisor / row[LossColumn.SHARE]
        elif reduction == MEAN and code != CUSTOM_ARRAY:
            divisor = weight_sum * k
        # without any weight a mean is 0, that of no samples NaN
        void, divisor = divisor == 0.0 and n > 0, divisor * row[LossColumn.MEMBERS]
        scale = 0.0 if void else row[LossColumn.WEIGHT] / divisor
        data = LossData(p, t, labels, steps, weights, values, o)
        status, total = evaluate_member(data, row, n, k, scale, smoothing)
        if status == OK and row[LossColumn.MEMBERS] != 1.0:
            status, rest = evaluate_others(data, row, n, k, scale, smoothing)
            total += rest
        if status != OK:
            return status, 0.0, 0.0
        one = 0.0 if void else row[LossColumn.WEIGHT] * (total / divisor)
        value += one
        epoch += one * counted if reduction in (MEAN, BATCH_MEAN) else one
    return OK, value, epoch


@kernel(
    "prediction[n, o], target[m, t], labels:int64[l], weights[w], losses:float64[r, c] -> values[v], out[n, o]",
    result=RESULT,
)
def loss(prediction, target, labels, weights, losses, values, out):
    """The value of all losses in a table, and out = dL/d(prediction): see evaluate_losses."""
    status, value, _ = evaluate_losses(prediction, target, labels, weights, values, out, losses, 1.0)
    return status, value


@helper
def one_loss(code, a, b, c):
    """A table of one loss, for all columns, reduced to its mean."""
    losses = np.zeros((1, VECTOR))
    row = losses[0]
    row[LossColumn.CODE], row[LossColumn.CLASSES] = code, code & BY_ROWS != 0
    row[LossColumn.WEIGHT], row[LossColumn.REDUCTION], row[LossColumn.SHARE] = 1.0, MEAN, 1.0
    row[LossColumn.MEMBERS] = 1.0
    row[LossColumn.A], row[LossColumn.B], row[LossColumn.C] = a, b, c
    return losses


@helper
def evaluate_one(prediction, target, labels, out, losses):
    nothing = np.empty(0, out.dtype)
    status, value, _ = evaluate_losses(prediction, target, labels, nothing, nothing, out, losses, 1.0)
    return status, value


@kernel("prediction[n, o], target[n, o] -> out[n, o]", types.int64, *[types.float64] * 3, result=RESULT)
def loss_of_numbers(prediction, target, out, code, a, b, c):
    if target.shape != prediction.shape:
        return BAD_SHAPE, 0.0
    return evaluate_one(prediction, target, np.empty(0, np.int64), out, one_loss(code, a, b, c))


@kernel("prediction[n, o], target[n, k] -> out[n, o]", types.float64, types.float64, result=RESULT)
def loss_of_variances(prediction, target, out, a, b):
    if 2 * target.shape[1] != prediction.shape[1]:
        return BAD_SHAPE, 0.0
    return evaluate_one(prediction, target, np.empty(0, np.int64), out, one_loss(GAUSSIAN, a, b, 0.0))


@kernel("prediction[n, c], target:int64[n] -> out[n, c]", types.int64, *[types.float64] * 3, result=RESULT)
def loss_of_classes(prediction, target, out, code, a, b, c):
    if target.shape[0] != prediction.shape[0]:
        return BAD_SHAPE, 0.0
    return evaluate_one(prediction, prediction, target, out, one_loss(code, a, b, c))


def call(name, kernel, *arguments):
    """Call a kernel that serves several functions; its errors name this one."""
    try:
        return kernel.call(*arguments)
    except (TypeError, ValueError, MemoryError) as error:
        raise type(error)(str(error).replace(kernel.name, name)) from None


@helper
def checked(result):
    status, value = result
    check(status)
    return value


def of_numbers(name, prediction, target, out, code, a, b, c):
    return call(name, loss_of_numbers, as_rows(prediction), as_rows(target), as_rows(out), code, a, b, c)


@overload(of_numbers, prefer_literal=True)
def nopython_of_numbers(name, prediction, target, out, code, a, b, c):
    load = requires(kernel_of(SOFT_CROSS_ENTROPY if code.literal_value == CROSS_ENTROPY else code.literal_value))

    def run(name, prediction, target, out, code, a, b, c):
        load(out)
        return checked(loss_of_numbers(as_rows(prediction), as_rows(target), as_rows(out), code, a, b, c))

    return run


def of_classes(name, prediction, target, out, code, a, b, c):
    return call(name, loss_of_classes, prediction, target, out, code, a, b, c)


@overload(of_classes, prefer_literal=True)
def nopython_of_classes(name, prediction, target, out, code, a, b, c):
    load = requires(*filter(None, [kernel_of(code.literal_value)]))

    def run(name, prediction, target, out, code, a, b, c):
        load(out)
        return checked(loss_of_classes(prediction, target, out, code, a, b, c))

    return run


def of_variances(name, prediction, target, out, a, b):
    return call(name, loss_of_variances, prediction, target, out, a, b)


@overload(of_variances)
def nopython_of_variances(name, prediction, target, out, a, b):
    load = requires(kernel_of(GAUSSIAN))

    def run(name, prediction, target, out, a, b):
        load(out)
        return checked(loss_of_variances(prediction, target, out, a, b))

    return run


@register_jitable
def mse_loss(prediction: ArrayLike, target: ArrayLike, out: NDArray[Any]) -> float:
    """Mean squared error: L = Σ (prediction − target)² / (n o); out = 2 (prediction − target) / (n o).

    Parameters
    ----------
    prediction, target : (n, o) or (n,) float32 or float64, any strides
    out : same shape and dtype, overwritten with dL/d(prediction)

    Returns
    -------
    float : the loss

    Examples
    --------
    >>> import numpy as np
    >>> from fastfc.kernels import mse_loss
    >>> g = np.empty((1, 2))
    >>> mse_loss(np.array([[1.0, 2.0]]), np.array([[0.0, 4.0]]), g), g.tolist()
    (2.5, [[1.0, -2.0]])
    """
    return of_numbers("mse_loss", prediction, target, out, MSE, 0.0, 0.0, 0.0)


@register_jitable
def l1_loss(prediction: ArrayLike, target: ArrayLike, out: NDArray[Any]) -> float:
    """Mean absolute error: L = Σ |prediction − target| / (n o). Arguments as for mse_loss, as in all that follow."""
    return of_numbers("l1_loss", prediction, target, out, L1, 0.0, 0.0, 0.0)


@register_jitable
def huber_loss(prediction: ArrayLike, target: ArrayLike, out: NDArray[Any], delta: float = 1.0) -> float:
    """Mean of e² / 2 for errors |e| ≤ delta, and of delta (|e| − delta / 2) for larger ones; delta > 0."""
    return of_numbers("huber_loss", prediction, target, out, HUBER, delta, 1.0, 0.0)


@register_jitable
def smooth_l1_loss(prediction: ArrayLike, target: ArrayLike, out: NDArray[Any], beta: float = 1.0) -> float:
    """huber_loss by beta, divided by beta; beta > 0."""
    return of_numbers("smooth_l1_loss", prediction, target, out, HUBER, beta, beta, 0.0)


@register_jitable
def quantile_loss(prediction: ArrayLike, target: ArrayLike, out: NDArray[Any], quantile: float = 0.5) -> float:
    """Mean of quantile e for errors e = target − prediction > 0, and of (quantile − 1) e for others."""
    return of_numbers("quantile_loss", prediction, target, out, QUANTILE, 0.0, 0.0, quantile)


@register_jitable
def poisson_nll_loss(
    prediction: ArrayLike,
    target: ArrayLike,
    out: NDArray[Any],
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
) -> float:
    """Mean of e^p − t p, or without log_input of p − t log(p + eps); if full, with Stirling's log t! for t > 1."""
    whole = 1.0 if full else 0.0
    if log_input:
        return of_numbers("poisson_nll_loss", prediction, target, out, POISSON_LOG, eps, whole, 0.0)
    return of_numbers("poisson_nll_loss", prediction, target, out, POISSON, eps, whole, 0.0)


@register_jitable
def kl_div_loss(prediction: ArrayLike, target: ArrayLike, out: NDArray[Any], log_target: bool = False) -> float:
    """Mean over all elements of t (log t − p) for log-probabilities p, or of eᵗ (t − p) if t are logarithms too."""
    if log_target:
        return of_numbers("kl_div_loss", prediction, target, out, KL_LOG, 0.0, 0.0, 0.0)
    return of_numbers("kl_div_loss", prediction, target, out, KL, 0.0, 0.0, 0.0)


@register_jitable
def bce_loss(prediction: ArrayLike, target: ArrayLike, out: NDArray[Any]) -> float:
    """Binary cross entropy of probabilities in [0, 1]; logarithms are at least −100."""
    return of_numbers("bce_loss", prediction, target, out, BCE, 0.0, 0.0, 0.0)


@register_jitable
def gaussian_nll_loss(
    prediction: ArrayLike, target: ArrayLike, out: NDArray[Any], full: bool = False, eps: float = 1e-6
) -> float:
    """Mean of (log v + (p − t)² / v) / 2; the prediction (n, 2 k) has k columns of p, then k of v ≥ 0; target (n, k).

    v is at least eps; if full, with log(2 π) / 2.
    """
    return of_variances("gaussian_nll_loss", prediction, target, out, eps, LOG_2PI if full else 0.0)


@register_jitable
def nll_loss(prediction: ArrayLike, target: ArrayLike, out: NDArray[Any]) -> float:
    """Mean over rows of −prediction at the row's class; target (n,) integers. Class −100 is ignored."""
    return of_classes("nll_loss", prediction, target, out, NLL, 0.0, 0.0, -100.0)


@register_jitable
def multi_margin_loss(
    prediction: ArrayLike, target: ArrayLike, out: NDArray[Any], p: int = 1, margin: float = 1.0
) -> float:
    """Mean over rows of Σ max(0, margin − z_y + z_j)ᵖ / c over the classes j ≠ y; target (n,) integers, p 1 or 2."""
    return of_classes("multi_margin_loss", prediction, target, out, MULTI_MARGIN, margin, float(p), NO_CLASS)


@register_jitable
def bce_with_logits_loss(prediction: ArrayLike, target: ArrayLike, out: NDArray[Any]) -> float:
    """Binary cross entropy of σ(prediction), mean over all elements; out = (σ(prediction) − target) / (n o).

    Parameters
    ----------
    prediction, target : (n, o) or (n,) float32 or float64, any strides; targets in [0, 1]
    out : same shape and dtype, overwritten with dL/d(prediction)

    Returns
    -------
    float : the loss
    """
    return of_numbers("bce_with_logits_loss", prediction, target, out, BCE_WITH_LOGITS, 0.0, 0.0, 1.0)


def cross_entropy_loss(prediction: ArrayLike, target: ArrayLike, out: NDArray[Any]) -> float:
    """Cross entropy of softmax(prediction), mean over rows; out = (softmax(prediction) − y) / n.

    Parameters
    ----------
    prediction : (n, c) float32 or float64, any strides
    target : (n,) integers, the class of each row; or (n, c) probabilities y in [0, 1], in the prediction's dtype
    out : (n, c), same dtype, overwritten with dL/d(prediction)

    Returns
    -------
    float : the loss

    Examples
    --------
    >>> import numpy as np
    >>> from fastfc.kernels import cross_entropy_loss
    >>> g = np.empty((1, 2))
    >>> value = cross_entropy_loss(np.zeros((1, 2)), np.array([0]), g)
    >>> round(value, 6), g.tolist()
    (0.693147, [[-0.5, 0.5]])
    """
    if boundary.as_array(target, "cross_entropy_loss: target").ndim == 1:
        return of_classes("cross_entropy_loss", prediction, target, out, CROSS_ENTROPY, 0.0, 0.0, -100.0)
    return of_numbers("cross_entropy_loss", prediction, target, out, CROSS_ENTROPY, 0.0, 0.0, -100.0)


@overload(cross_entropy_loss)
def nopython_cross_entropy_loss(prediction, target, out):
    evaluate = of_classes if target.ndim == 1 else of_numbers

    def run(prediction, target, out):
        return evaluate("cross_entropy_loss", prediction, target, out, CROSS_ENTROPY, 0.0, 0.0, -100.0)

    return run


def custom_pass(value, gradient, dtype):
    """The source and signature of a C function that `pointwise` calls, from two scalar functions of p and t."""

    def run(count, p, t, w, out, values, keep, scale):
        size, total = itemsize(p), 0.0
        for j in range(count):
            x, y, weight = read(at(p, j * size)), read(at(t, j * size)), np.float64(read(at(w, j * size)))
            write(at(out, j * size), gradient(x, y) * (weight * scale))
            one = value(x, y) * weight
            total += one
            if keep:
                write(at(values, j * size), one)
        return total

    vectors, number = types.CPointer(dtype), types.int64
    return run, types.float64(number, *[vectors] * 5, number, types.float64)


def custom_array(function, dtype):
    """The same from a function of arrays, f(prediction, target, out) -> float, for `evaluate_losses`."""

    def run(n, k, factor, p, p_row, p_column, t, t_row, t_column, out, out_row, out_column):
        x, y = view(Matrix(p, p_row, p_column), n, k), view(Matrix(t, t_row, t_column), n, k)
        grad = view(Matrix(out, out_row, out_column), n, k)
        value = np.float64(function(x, y, grad))
        for i in range(n):
            for j in range(k):
                grad[i, j] *= factor
        return value

    number = types.int64
    return run, types.float64(number, number, types.float64, *[types.CPointer(dtype), number, number] * 3)
