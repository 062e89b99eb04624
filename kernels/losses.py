"""Losses: each returns its value and writes out = dL/d(first argument), for n rows of o columns.

    mse                 L = Σ (p − t)² / (n o)                        dL/dp = 2 (p − t) / (n o)
    cross entropy       L = Σ y (log Σ e^z − z) / n                   dL/dz = (softmax(z) Σ y − y) / n
    bce with logits     L = Σ (max(z, 0) − z y + log(1 + e^−|z|)) / (n o)   dL/dz = (σ(z) − y) / (n o)

The sums over rows are in float64, in order.
"""

import numpy as np
from numba import njit, types
from numba.extending import overload

from fastfc.kernels.activations import as_rows, sigmoid_row, softmax_row, sum_lanes
from fastfc.kernels.edge import (
    BAD_LABEL,
    BAD_PROBABILITY,
    BAD_SHAPE,
    NO_MEMORY,
    OK,
    OVERLAP,
    check,
    kernel,
    native,
    overlaps,
)
from fastfc.kernels.gemm import Matrix, copy_matrix, matrix
from fastfc.kernels.simd import (
    allocate,
    at,
    fma,
    is_null,
    itemsize,
    load_first,
    pointer,
    read,
    release,
    splat,
    store_first,
    width,
    write,
)

RESULT = types.Tuple((types.int64, types.float64))


@njit
def is_contiguous(x):
    return (x.shape[1] <= 1 or x.strides[1] == x.itemsize) and (
        x.shape[0] <= 1 or x.strides[0] == x.shape[1] * x.itemsize
    )


@njit
def room_for(x):
    """Memory for a contiguous copy of a matrix: pointer, what to release, and whether there was enough.

    It is the matrix itself, and nothing to release, if its rows follow one another.
    """
    wanted = 0 if is_contiguous(x) else x.size * x.itemsize
    copy, memory = allocate(pointer(x), wanted)
    return copy if wanted else pointer(x), memory, wanted == 0 or not is_null(memory)


@njit
def contiguous(x):
    """As room_for, with the copy made."""
    data, memory, enough = room_for(x)
    if not is_null(memory):
        copy_matrix(x.shape[0], x.shape[1], matrix(x), Matrix(data, x.shape[1] * x.itemsize, x.itemsize))
    return data, memory, enough


@njit
def write_back(out, data, memory):
    """Results that are in a copy, to where they belong."""
    if not is_null(memory):
        copy_matrix(out.shape[0], out.shape[1], Matrix(data, out.shape[1] * out.itemsize, out.itemsize), matrix(out))


@njit
def forget(status, copies):
    """Release copies; the status, and a loss of 0."""
    for memory in copies:
        release(memory)
    return status, 0.0


@njit
def are_probabilities(count, t):
    """Whether neighbours in memory all lie in [0, 1]; NaN does not."""
    inside = 0
    for j in range(count):
        value = read(at(t, j * itemsize(t)))
        inside += (value >= 0) & (value <= 1)
    return inside == count


@njit
def mse_row(count, p, t, scale, out):
    size, lanes = itemsize(p), width(p)
    total = splat(p, 0.0)
    for j in range(0, count, lanes):
        some = count - j
        error = load_first(at(p, j * size), some, 0.0) - load_first(at(t, j * size), some, 0.0)
        store_first(at(out, j * size), error * scale, some)
        total = fma(error, error, total)
    return np.float64(sum_lanes(total, p))


@njit
def scaled_difference_row(count, p, y, factor, scale, out):
    """out = (p factor − y) scale"""
    size, lanes = itemsize(p), width(p)
    for j in range(0, count, lanes):
        some = count - j
        difference = load_first(at(p, j * size), some, 0.0) * factor - load_first(at(y, j * size), some, 0.0)
        store_first(at(out, j * size), difference * scale, some)


@njit
def begin(x, y, out):
    """Whether the arguments of a loss are in order."""
    if x.shape != out.shape or y.shape[0] != x.shape[0] or (y.ndim == 2 and y.shape[-1] != x.shape[1]):
        return BAD_SHAPE
    return OVERLAP if overlaps(x, out) or overlaps(y, out) else OK


@kernel("prediction[n, o], target[n, o] -> out[n, o]", result=RESULT)
def _mse_loss(prediction, target, out):
    status = begin(prediction, target, out)
    if status != OK:
        return status, 0.0
    (p, x, x_fits), (t, y, y_fits), (o, g, g_fits) = contiguous(prediction), contiguous(target), room_for(out)
    if not (x_fits and y_fits and g_fits):
        return forget(NO_MEMORY, (x, y, g))
    count, total, block = prediction.size, 0.0, 1024
    for j in range(0, count, block):
        start = j * prediction.itemsize
        total += mse_row(min(block, count - j), at(p, start), at(t, start), 2.0 / count, at(o, start))
    write_back(out, o, g)
    forget(OK, (x, y, g))
    return OK, total / count


@kernel("logits[n, c], target[n, c] -> out[n, c]", result=RESULT)
def _cross_entropy_loss(logits, target, out):
    status = begin(logits, target, out)
    if status != OK:
        return status, 0.0
    n, c = logits.shape
    (z, x, x_fits), (t, y, y_fits), (o, g, g_fits) = contiguous(logits), contiguous(target), room_for(out)
    if not (x_fits and y_fits and g_fits):
        return forget(NO_MEMORY, (x, y, g))
    if not are_probabilities(target.size, t):
        return forget(BAD_PROBABILITY, (x, y, g))
    total, size = 0.0, logits.itemsize
    for i in range(n):
        row = i * c * size
        top, denominator = softmax_row(c, at(z, row), at(o, row))
        log_sum, mass = np.log(np.float64(denominator)), 0.0
        for j in range(c):
            weight = np.float64(read(at(t, row + j * size)))
            if weight != 0.0:
                total += weight * (log_sum - (np.float64(read(at(z, row + j * size))) - top))
            mass += weight
        scaled_difference_row(c, at(o, row), at(t, row), mass, 1.0 / n, at(o, row))
    write_back(out, o, g)
    forget(OK, (x, y, g))
    return OK, total / n


@kernel("logits[n, c], target:int64[n] -> out[n, c]", result=RESULT)
def _cross_entropy_loss_of_classes(logits, target, out):
    status = begin(logits, target, out)
    if status != OK:
        return status, 0.0
    n, c = logits.shape
    for i in range(n):
        if target[i] < 0 or target[i] >= c:
            return BAD_LABEL, 0.0
    (z, x, x_fits), (o, g, g_fits) = contiguous(logits), room_for(out)
    if not (x_fits and g_fits):
        return forget(NO_MEMORY, (x, g))
    total, size = 0.0, logits.itemsize
    for i in range(n):
        row, label = i * c * size, target[i] * size
        top, denominator = softmax_row(c, at(z, row), at(o, row))
        total += np.log(np.float64(denominator)) - (np.float64(read(at(z, row + label))) - top)
        chosen = at(o, row + label)
        write(chosen, read(chosen) - 1)
        scaled_difference_row(c, at(o, row), at(o, row), 2.0, 1.0 / n, at(o, row))
    write_back(out, o, g)
    forget(OK, (x, g))
    return OK, total / n


@kernel("logits[n, o], target[n, o] -> out[n, o]", result=RESULT)
def _bce_with_logits_loss(logits, target, out):
    status = begin(logits, target, out)
    if status != OK:
        return status, 0.0
    (z, x, x_fits), (t, y, y_fits), (o, g, g_fits) = contiguous(logits), contiguous(target), room_for(out)
    if not (x_fits and y_fits and g_fits):
        return forget(NO_MEMORY, (x, y, g))
    if not are_probabilities(target.size, t):
        return forget(BAD_PROBABILITY, (x, y, g))
    count, total, size = logits.size, 0.0, logits.itemsize
    for j in range(count):
        value = np.float64(read(at(z, j * size)))
        total += max(value, 0.0) - value * np.float64(read(at(t, j * size))) + np.log1p(np.exp(-abs(value)))
    sigmoid_row(count, z, o)
    scaled_difference_row(count, o, t, 1.0, 1.0 / count, o)
    write_back(out, o, g)
    forget(OK, (x, y, g))
    return OK, total / count


MSE, CROSS_ENTROPY, BCE_WITH_LOGITS = range(3)


@native(
    lambda dtype: RESULT(
        *[types.Array(dtype, 2, "A", readonly=True, aligned=False)] * 2,
        types.Array(types.int64, 1, "A", readonly=True, aligned=False),
        types.Array(dtype, 2, "A", aligned=False),
        types.int64,
    )
)
def evaluate_loss(prediction, target, labels, out, loss):
    """Status and value of a loss; of the classes in labels, if there are any, instead of target."""
    if loss == MSE:
        return _mse_loss(prediction, target, out)
    if loss == BCE_WITH_LOGITS:
        return _bce_with_logits_loss(prediction, target, out)
    if labels.size:
        return _cross_entropy_loss_of_classes(prediction, labels, out)
    return _cross_entropy_loss(prediction, target, out)


def mse_loss(prediction, target, out):
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
    return _mse_loss.call(as_rows(prediction), as_rows(target), as_rows(out))


def cross_entropy_loss(logits, target, out):
    """Cross entropy of softmax(logits), mean over rows; out = (softmax(logits) − y) / n.

    Parameters
    ----------
    logits : (n, c) float32 or float64, any strides
    target : (n,) integers, the class of each row; or (n, c) probabilities y in [0, 1], in the dtype of logits
    out : (n, c), same dtype, overwritten with dL/d(logits)

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
    if np.ndim(target) == 1:
        return _cross_entropy_loss_of_classes.call(logits, target, out)
    return _cross_entropy_loss.call(logits, target, out)


def bce_with_logits_loss(logits, target, out):
    """Binary cross entropy of σ(logits), mean over all elements; out = (σ(logits) − target) / (n o).

    Parameters
    ----------
    logits, target : (n, o) or (n,) float32 or float64, any strides; targets in [0, 1]
    out : same shape and dtype, overwritten with dL/d(logits)

    Returns
    -------
    float : the loss
    """
    return _bce_with_logits_loss.call(as_rows(logits), as_rows(target), as_rows(out))


@njit
def checked(result):
    status, value = result
    check(status)
    return value


@overload(mse_loss)
def nopython_mse_loss(prediction, target, out):
    return lambda prediction, target, out: checked(_mse_loss(as_rows(prediction), as_rows(target), as_rows(out)))


@overload(cross_entropy_loss)
def nopython_cross_entropy_loss(logits, target, out):
    if target.ndim == 1:
        return lambda logits, target, out: checked(_cross_entropy_loss_of_classes(logits, target, out))
    return lambda logits, target, out: checked(_cross_entropy_loss(logits, target, out))


@overload(bce_with_logits_loss)
def nopython_bce_with_logits_loss(logits, target, out):
    return lambda logits, target, out: checked(_bce_with_logits_loss(as_rows(logits), as_rows(target), as_rows(out)))
