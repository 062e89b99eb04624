"""Training in one native call: a step on one batch, or all the steps of an epoch.

    gather a batch, forward, loss, backward (program/interpreter.py, ops/losses.py), update (optim/update.py)

Several batches may add up their gradients for one update, by the mean of them.
"""

from collections import namedtuple

import numpy as np
from numba import types

from fastfc.kernels.ops.loss_table import LossColumn
from fastfc.kernels.ops.losses import RESULT, RESULTS
from fastfc.kernels.ops.matrix import contiguous_matrix, element, matrix, rows_from
from fastfc.kernels.optim.rules import LBFGS
from fastfc.kernels.optim.schedules import scheduled_share
from fastfc.kernels.optim.update import (
    DROPOUT_SCHEDULE,
    N_RANGE_COLUMNS,
    SMOOTHING_SCHEDULE,
    are_param_ranges,
    bounds,
    update,
    update_fits,
)
from fastfc.kernels.program.interpreter import (
    Context,
    Memory,
    commit_step,
    computed_index,
    fits_workspace,
    saved_batch,
)
from fastfc.kernels.program.table import Header, table_type
from fastfc.kernels.runtime.kernel import kernel
from fastfc.kernels.runtime.native import on_demand_kernel
from fastfc.kernels.runtime.overlap import extent, keep_alive, meet
from fastfc.kernels.runtime.status import BAD_SHAPE, NO_RESIDUALS, NO_STATE, OK, OVERLAP
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import itemsize, pointer
from fastfc.kernels.simd.vector import fetch, load, load_first, store, store_first, width
from fastfc.kernels.training.lbfgs import PAIRS, lbfgs
from fastfc.kernels.training.levenberg_marquardt import are_residuals, levenberg_marquardt, rows
from fastfc.kernels.training.objective import Objective, Problem, objective_type, run_gradient

# Samples are gathered while those that come so many later are fetched: in a random order no processor foresees them.
PREFETCH_ROWS = 2

# Arrays of samples: inputs, numeric targets or none, classes sample by sample or none, weights or none, and the table
# of losses
Batch = namedtuple("Batch", ["x", "target", "labels", "weights", "losses"])
# Arrays of a network: its program, values, gradients, memory, and the counters of what was done with it
Network = namedtuple("Network", ["program", "params", "grads", "workspace", "counters"])
# Arrays of an optimizer, and its code
OptimizerState = namedtuple("OptimizerState", ["hyperparameters", "param_ranges", "state", "count", "code"])
# The row of a batch that samples begin with, and which of the batches of the next update it is
Place = namedtuple("Place", ["row", "batch"])
BEGIN = Place(0, 0)
# How many threads, and the multiplications that each must have
Threads = namedtuple("Threads", ["n_threads", "min_work"])


@helper
def gather(count, columns, order, source, target):
    """target[r] = source[order[r]] for r < count."""
    size = itemsize(target.data)
    lanes = width(target.data)
    unit_stride = source.column == size and target.column == size
    whole = columns - columns % lanes if unit_stride else 0
    step = lanes if unit_stride else 1
    for r in range(count):
        src, dst = rows_from(source, order[r]), rows_from(target, r)
        later = rows_from(source, order[min(r + PREFETCH_ROWS, count - 1)])
        for j in range(0, whole, lanes):
            fetch(element(later, 0, j))
            store(element(dst, 0, j), load(element(src, 0, j)))
        for j in range(whole, columns, step):
            rest = min(step, columns - j)
            store_first(element(dst, 0, j), load_first(element(src, 0, j), rest, 0.0), rest)


@helper
def columns_of(target):
    """Columns of the numeric targets; without any, target has no rows."""
    return target.shape[1] if target.shape[0] else 0


@helper
def check_shapes(batch, network, optimizer, n):
    """Status of arrays to train on in batches of n."""
    program, samples, classes = network.program, batch.x.shape[0], 0
    for i in range(batch.losses.shape[0]):
        classes += batch.losses[i, LossColumn.CLASSES] != 0.0
    if batch.labels.size not in (0, classes * samples) or batch.target.shape[0] not in (0, samples):
        return BAD_SHAPE
    if batch.x.shape[1] != program[0, Header.INPUTS] or columns_of(batch.target) > program[0, Header.OUTPUTS]:
        return BAD_SHAPE
    if network.params.size != program[0, Header.VALUES] or network.grads.size != program[0, Header.PARAMETERS]:
        return BAD_SHAPE
    if batch.weights.size and batch.weights.size != samples:
        return BAD_SHAPE
    fits = fits_workspace(program, n, network.workspace, network.counters)
    return OK if fits and optimizer.param_ranges.shape[1] == N_RANGE_COLUMNS else BAD_SHAPE


@helper
def check_overlaps(batch, network):
    """Status: whether what is written overlaps what is read. Each extent is computed once."""
    params, grads, workspace = extent(network.params), extent(network.grads), extent(network.workspace)
    if meet(params, grads) or meet(params, workspace) or meet(grads, workspace):
        return OVERLAP
    for source in (extent(batch.x), extent(batch.target), extent(batch.weights)):
        if meet(params, source) or meet(grads, source) or meet(workspace, source):
            return OVERLAP
    return OK


@helper
def check_training(batch, network, optimizer, n):
    """Status of arrays to train on in batches of n, and of an optimizer, before anything is written."""
    status = check_shapes(batch, network, optimizer, n)
    if status == OK:
        status = check_overlaps(batch, network)
    if status != OK:
        return status
    p, param_ranges, changed = network.grads.size, optimizer.param_ranges, 0
    for s in range(param_ranges.shape[0]):
        first, last = bounds(param_ranges, s, p)
        changed += last - first
    if changed > network.program[0, Header.TRAINED]:  # the ranges do not know what is frozen
        return NO_STATE
    if optimizer.code >= LBFGS:
        return OK
    return update_fits(p, optimizer.hyperparameters, param_ranges, optimizer.state, optimizer.count, optimizer.code)


def array(dtype, ndim, readonly=False):
    return types.Array(dtype, ndim, "A", readonly=readonly, aligned=False)


def network_type(dtype):
    vectors = [array(dtype, 1)] * 3
    return types.NamedTuple([table_type(), *vectors, array(types.int64, 1)], Network)


def optimizer_type(dtype):
    tables = [array(types.float64, 1, True), array(types.float64, 2, True)]
    return types.NamedTuple([*tables, array(dtype, 2), array(types.int64, 1), types.int64], OptimizerState)


@on_demand_kernel(lambda dtype: RESULTS(objective_type(dtype), network_type(dtype), optimizer_type(dtype), types.int64))
def minimise(objective, network, optimizer, evaluator):
    """A step of an optimizer that evaluates the objective as often as it likes. As for run_gradient.

    If there is an evaluator, see Problem, it evaluates the objective.
    """
    p, state = network.grads.size, optimizer.state
    ranges, code = optimizer.param_ranges, optimizer.code
    if state.shape[1] != p or ranges.shape[0] == 0 or not are_param_ranges(ranges, p):
        return NO_STATE, 0.0, 0.0
    if state.shape[0] < (PAIRS + 2 if code == LBFGS else rows(p, network.program[0, Header.OUTPUTS])):
        return NO_STATE, 0.0, 0.0
    vectors, how = (pointer(network.grads), pointer(state), state.strides[0]), (optimizer.hyperparameters, ranges)
    problem = Problem(objective, *vectors, *how, evaluator)
    if code == LBFGS:
        return lbfgs(problem, (state.shape[0] - PAIRS) // 2, optimizer.count)
    if not are_residuals(network.program, objective.losses):
        return NO_RESIDUALS, 0.0, 0.0
    return levenberg_marquardt(problem, optimizer.count)


@helper
def apply_update(network, optimizer, scale, threads):
    """An update by the gradients times scale. Returns a status."""
    params = network.params[: network.grads.size]
    return update(
        network.grads, optimizer.hyperparameters, optimizer.param_ranges, params, optimizer.state, optimizer.count,
        optimizer.code, scale, threads.n_threads, threads.min_work,
    )  # fmt: skip


@helper
def share_of(network, optimizer, place):
    """What an option is multiplied by in the next update."""
    return scheduled_share(pointer(network.params), optimizer.hyperparameters, place, float(optimizer.count[0]))


@helper
def context_of(network, optimizer, x, n, place, threads):
    """What a pass over n samples of the matrix x needs; its output goes to the workspace."""
    workspace = pointer(network.workspace)
    _, output, _, _ = saved_batch(network.program, n, workspace)
    memory, rng_step = Memory(x, output, workspace), network.counters[1] + 1 + place.batch
    dropout = share_of(network, optimizer, DROPOUT_SCHEDULE)
    n_threads, min_work = threads
    row = place.row
    return Context(pointer(network.params), network.program, memory, n, row, rng_step, dropout, n_threads, min_work)


@kernel(
    "x[n, i], program:int64[t, c], target[m, k], labels:int64[l], weights[w], losses:float64[e, d], "
    "hyperparameters:float64[h], param_ranges:float64[s, f] -> params[p], grads[g], state[r, q], count:int64[two], "
    "workspace[z], counters:int64[two]",
    *[types.int64] * 3,
    result=RESULT,
    wrong_index=lambda x, program, *rest: computed_index(program, x),
)
def train_step(
    x, program, target, labels, weights, losses, hyperparameters, param_ranges, params, grads, state,
    count, workspace, counters,
    optimizer, n_threads, min_work,
):  # fmt: skip
    """One step on one batch: forward, loss, backward, update. The loss before the update.

    Numeric targets are in target, classes in labels; count[0] is how many updates there were. Only with status OK have
    params, state, count and counters changed; but the state of LBFGS and LevenbergMarquardt has rows that are used
    anew.
    """
    n, value = x.shape[0], 0.0
    batch = Batch(x, target, labels, weights, losses)
    network = Network(program, params, grads, workspace, counters)
    optimizer_state = OptimizerState(hyperparameters, param_ranges, state, count, optimizer)
    status = check_training(batch, network, optimizer_state, n)
    if status != OK:
        return status, value
    threads = Threads(n_threads, min_work)
    context = context_of(network, optimizer_state, matrix(x), n, BEGIN, threads)
    smoothing = share_of(network, optimizer_state, SMOOTHING_SCHEDULE)
    objective = Objective(context, matrix(target), columns_of(target), labels, weights, losses, smoothing)
    if optimizer >= LBFGS:
        status, value, _ = minimise(objective, network, optimizer_state, 0)
    else:
        status, value, _ = run_gradient(objective, pointer(grads), 0)
        if status == OK:
            status = apply_update(network, optimizer_state, 1.0, threads)
    if status == OK:
        commit_step(context, counters)
    return status, value


@helper
def gather_batch(batch, chosen, gathered, x_batch, target_batch):
    """Copy samples by their numbers: to matrices of inputs and targets, and to the arrays of another Batch."""
    n, columns, samples = chosen.size, columns_of(batch.target), max(batch.x.shape[0], 1)
    classes = batch.labels.size // samples
    gather(n, batch.x.shape[1], chosen, matrix(batch.x), x_batch)
    gather(n, columns, chosen, matrix(batch.target), target_batch)
    for r in range(n):
        for c in range(classes):
            gathered.labels[r * classes + c] = batch.labels[chosen[r] * classes + c]
        if batch.weights.size:
            gathered.weights[r] = batch.weights[chosen[r]]


@kernel(
    "x[n, i], program:int64[t, c], target[m, k], labels:int64[l], weights[w], losses:float64[e, d], "
    "hyperparameters:float64[h], param_ranges:float64[s, f] -> params[p], grads[g], state[r, q], count:int64[two], "
    "workspace[z], counters:int64[two], "
    "order:int64[y]",
    *[types.int64] * 5,
    types.float64,
    *[types.int64] * 2,
    result=RESULT,
    wrong_index=lambda x, program, *rest: computed_index(program, x),
)
def train_steps(
    x, program, target, labels, weights, losses, hyperparameters, param_ranges, params, grads, state,
    count, workspace, counters, order,
    first, last, batch_size, accumulate, optimizer, so_far, n_threads, min_work,
):  # fmt: skip
    """Steps on batches of the samples first, ..., last - 1 in an order; all their losses added to those so far.

    Without an order the samples are taken as they lie in x. So many batches as in accumulate make one update. With
    another status than OK the updates before stay: whoever calls undoes them.
    """
    sum_of_losses = so_far
    batch = Batch(x, target, labels, weights, losses)
    network = Network(program, params, grads, workspace, counters)
    optimizer_state = OptimizerState(hyperparameters, param_ranges, state, count, optimizer)
    status, threads = check_training(batch, network, optimizer_state, batch_size), Threads(n_threads, min_work)
    if status != OK:
        return status, sum_of_losses
    columns, classes = columns_of(target), labels.size // max(x.shape[0], 1)
    # memory for gathered samples: matrices in the workspace, classes and weights of their own
    _, _, x_batch, target_memory = saved_batch(program, batch_size, pointer(workspace))
    target_batch = contiguous_matrix(target_memory.data, columns)
    labels_batch = np.empty(batch_size * classes if order.size else 0, np.int64)
    weights_batch = np.empty(batch_size if order.size and weights.size else 0, weights.dtype)
    gathered, waiting = Batch(x, target, labels_batch, weights_batch, losses), 0
    for start in range(first, last, batch_size):
        n = min(batch_size, last - start)
        # the samples of this batch: where they lie, or gathered
        x_now, target_now = rows_from(matrix(x), start), rows_from(matrix(target), start)
        labels_now, weights_now = labels[start * classes : (start + n) * classes], weights[start : start + n]
        if order.size:
            gather_batch(batch, order[start : start + n], gathered, x_batch, target_batch)
            x_now, target_now = x_batch, target_batch
            labels_now, weights_now = labels_batch[: n * classes], weights_batch[: min(n, weights.size)]
        context = context_of(network, optimizer_state, x_now, n, BEGIN, threads)
        smoothing = share_of(network, optimizer_state, SMOOTHING_SCHEDULE)
        objective = Objective(context, target_now, columns, labels_now, weights_now, losses, smoothing)
        # its gradient, added to those that wait for an update
        if optimizer >= LBFGS:
            status, _, total = minimise(objective, network, optimizer_state, 0)
        else:
            status, _, total = run_gradient(objective, pointer(grads), waiting > 0)
            waiting += 1
        if status == OK and waiting and (waiting == accumulate or start + n == last):
            status = apply_update(network, optimizer_state, 1.0 / waiting, threads)
            waiting = 0
        if status != OK:
            break
        commit_step(context, counters)
        sum_of_losses += total
    keep_alive(labels_batch)
    keep_alive(weights_batch)
    return status, sum_of_losses
