"""Training many networks in one native call: each by the compiled `train_steps`, members spread over threads.

A member's arrays, options and place in its epoch are a row of a table, see `Argument` and `Number`. Each member takes
its steps one after another on one thread, so its bits are those that it has alone, for any number of threads.
"""

from numba import types

from fastfc.kernels.ops.losses import loss
from fastfc.kernels.ops.matrix import contiguous_matrix
from fastfc.kernels.runtime.arrays import N_FIELDS, deal, matrix_of, take_next, vector_of
from fastfc.kernels.runtime.columns import Columns
from fastfc.kernels.runtime.kernel import kernel
from fastfc.kernels.runtime.status import BAD_SHAPE, OK
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import pointer, view
from fastfc.kernels.training.step import train_step, train_steps


class Argument(Columns):
    """The arrays of a member, as `train_steps` takes them."""

    X = 0
    PROGRAM = 1
    TARGET = 2
    LABELS = 3
    WEIGHTS = 4
    LOSSES = 5
    HYPERPARAMETERS = 6
    PARAM_RANGES = 7
    PARAMS = 8
    GRADS = 9
    STATE = 10
    COUNT = 11
    COUNTERS = 12
    ORDER = 13


N_ARRAYS = len(Argument)


class Number(Columns):
    """Columns behind those of the arrays."""

    FIRST = N_ARRAYS * N_FIELDS
    LAST = FIRST + 1
    BATCH_SIZE = FIRST + 2
    ACCUMULATE = FIRST + 3
    OPTIMIZER = FIRST + 4


N_COLUMNS = Number.OPTIMIZER + 1
# The status of a member that is to be trained. A call that has to load what it needs runs again: others are done then.
PENDING = -1


@helper
def train_member(like, members, totals, integers, workspace, k):
    """Steps of one member; its total is added to. `like` and `integers` are arrays of the dtypes in the table."""
    return train_steps(
        matrix_of(like, members, k, Argument.X),
        matrix_of(integers, members, k, Argument.PROGRAM),
        matrix_of(like, members, k, Argument.TARGET),
        vector_of(integers, members, k, Argument.LABELS),
        vector_of(like, members, k, Argument.WEIGHTS),
        matrix_of(totals, members, k, Argument.LOSSES),
        vector_of(totals, members, k, Argument.HYPERPARAMETERS),
        matrix_of(totals, members, k, Argument.PARAM_RANGES),
        vector_of(like, members, k, Argument.PARAMS),
        vector_of(like, members, k, Argument.GRADS),
        matrix_of(like, members, k, Argument.STATE),
        vector_of(integers, members, k, Argument.COUNT),
        workspace,
        vector_of(integers, members, k, Argument.COUNTERS),
        vector_of(integers, members, k, Argument.ORDER),
        members[k, Number.FIRST],
        members[k, Number.LAST],
        members[k, Number.BATCH_SIZE],
        members[k, Number.ACCUMULATE],
        members[k, Number.OPTIMIZER],
        totals[k],
        1,
        1,
    )


@helper
def train_range(members, workspaces, totals, statuses, taken, index, n_threads):
    """Train members as long as there are any; each thread has a workspace."""
    k = take_next(taken)
    while k < members.shape[0]:
        if statuses[k] == PENDING:
            status, total = train_member(workspaces, members, totals, statuses, workspaces[index], k)
            statuses[k], totals[k] = status, total
        k = take_next(taken)
    return OK


@kernel(
    "members:int64[k, c] -> workspaces[t, z], totals:float64[k], statuses:int64[k]",
    types.int64,
)
def train_members(members, workspaces, totals, statuses, n_threads):
    """Steps of all members in a table that are PENDING; `totals` are added to, and each gets a status of its own."""
    if members.shape[1] != N_COLUMNS or workspaces.shape[0] < n_threads:
        return BAD_SHAPE
    return deal(train_range, (members, workspaces, totals, statuses), n_threads)


@helper
def step_member(like, members, values, integers, workspace, k):
    """One step of one member on the batch that its row names: status and loss. As train_member."""
    return train_step(
        matrix_of(like, members, k, Argument.X),
        matrix_of(integers, members, k, Argument.PROGRAM),
        matrix_of(like, members, k, Argument.TARGET),
        vector_of(integers, members, k, Argument.LABELS),
        vector_of(like, members, k, Argument.WEIGHTS),
        matrix_of(values, members, k, Argument.LOSSES),
        vector_of(values, members, k, Argument.HYPERPARAMETERS),
        matrix_of(values, members, k, Argument.PARAM_RANGES),
        vector_of(like, members, k, Argument.PARAMS),
        vector_of(like, members, k, Argument.GRADS),
        matrix_of(like, members, k, Argument.STATE),
        vector_of(integers, members, k, Argument.COUNT),
        workspace,
        vector_of(integers, members, k, Argument.COUNTERS),
        members[k, Number.OPTIMIZER],
        1,
        1,
    )


@helper
def step_range(members, workspaces, values, statuses, taken, index, n_threads):
    """Step members as long as there are any; each thread has a workspace."""
    k = take_next(taken)
    while k < members.shape[0]:
        if statuses[k] == PENDING:
            statuses[k], values[k] = step_member(workspaces, members, values, statuses, workspaces[index], k)
        k = take_next(taken)
    return OK


@kernel("members:int64[k, c] -> workspaces[t, z], values:float64[k], statuses:int64[k]", types.int64)
def step_members(members, workspaces, values, statuses, n_threads):
    """One step of all members in a table that are PENDING, on their batches: losses, and a status of each."""
    if members.shape[1] != N_COLUMNS or workspaces.shape[0] < n_threads:
        return BAD_SHAPE
    return deal(step_range, (members, workspaces, values, statuses), n_threads)


@helper
def losses_range(samples, prediction, scratch, values, statuses, taken, index, n_threads):
    """The losses of members as long as there are any; each thread has memory for a gradient."""
    target, labels, weights, losses = samples
    columns = prediction.shape[1]
    n = scratch.shape[1] // columns
    out = view(contiguous_matrix(pointer(scratch[index]), columns), n, columns)
    k = take_next(taken)
    while k < values.size:
        rows = prediction[k * n : (k + 1) * n]
        statuses[k], values[k] = loss(rows, target, labels, weights, losses, scratch[index, :0], out)
        k = take_next(taken)
    return OK


@kernel(
    "target[m, t], labels:int64[l], weights[w], losses:float64[r, c], prediction[kn, o] "
    "-> scratch[s, no], values:float64[k], statuses:int64[k]",
    types.int64,
)
def member_losses(target, labels, weights, losses, prediction, scratch, values, statuses, n_threads):
    """The loss of each member on the same n samples; prediction has the members' outputs one after another."""
    n = scratch.shape[1] // max(prediction.shape[1], 1)
    if values.size * n != prediction.shape[0] or scratch.shape[0] < n_threads:
        return BAD_SHAPE
    samples = target, labels, weights, losses
    return deal(losses_range, (samples, prediction, scratch, values, statuses), n_threads)
