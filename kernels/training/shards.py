"""Gradients of a batch that is cut into shards: a fixed number of ranges of its rows, whoever computes them.

The gradient of each shard is one chain. Their sum is taken in a fixed tree, so that its bits depend on the number of
shards alone: neighbours are added if both are sums of as many shards, and the first begins with a multiple of twice
that number. What is left at the end is added from left to right.

    0   1   2   3   4   5   6           of 7 shards
     0‒1     2‒3     4‒5    6
         0‒3         4‒5    6           (0‒3 + 4‒5) + 6

So whoever computes shards 4 to 6 hands over two sums, 4‒5 and 6.
"""

from collections import namedtuple

import numpy as np
from numba import types
from numba.extending import register_jitable

from fastfc.kernels.ops.losses import RESULT, evaluate_losses
from fastfc.kernels.ops.matrix import contiguous_matrix, matrix, rows_from
from fastfc.kernels.optim.update import N_RANGE_COLUMNS, SMOOTHING_SCHEDULE
from fastfc.kernels.program.interpreter import (
    Memory,
    computed_index,
    fits_workspace,
    run_backward,
    run_forward,
    saved_batch,
)
from fastfc.kernels.program.table import Header, Value
from fastfc.kernels.runtime.kernel import kernel
from fastfc.kernels.runtime.overlap import keep_alive
from fastfc.kernels.runtime.status import BAD_SHAPE, NO_RESIDUALS, OK
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import at, itemsize, pointer, vector, view
from fastfc.kernels.training.lbfgs import axpy
from fastfc.kernels.training.levenberg_marquardt import ROWS, Equations, add_products, are_residuals
from fastfc.kernels.training.objective import Objective, Problem
from fastfc.kernels.training.step import (
    BEGIN,
    Batch,
    Network,
    OptimizerState,
    Place,
    Threads,
    check_overlaps,
    columns_of,
    context_of,
    gather_batch,
    minimise,
    share_of,
)

MOST_SUMS = 64  # at once: two for each bit of the number of shards

# Where the samples are: places in `order`, or in the arrays without an order. For each of several batches a row of
# `bounds`, from one shard to the next, and in `starts` the place where the batch begins, whoever has it. The number of
# the first shard.
Shards = namedtuple("Shards", ["order", "bounds", "starts", "first"])
# What tells the shares of options that have schedules
Options = namedtuple("Options", ["hyperparameters", "count"])
# The sums of the tree that wait for a neighbour: which shards each begins with, and how many it is of.
Tree = namedtuple("Tree", ["begins", "sizes"])


@register_jitable
def merges(begins, sizes, n):
    """Whether the last two of n sums become one."""
    return n > 1 and sizes[n - 1] == sizes[n - 2] and begins[n - 2] % (2 * sizes[n - 2]) == 0


@register_jitable
def sums_of(first, last, begins, sizes):
    """(sums of shards first, ..., last - 1; how many there are at most on the way): begins and sizes are written."""
    n, most = 0, 0
    for s in range(first, last):
        begins[n], sizes[n] = s, 1
        n += 1
        most = max(most, n)
        while merges(begins, sizes, n):
            n -= 1
            sizes[n - 1] *= 2
    return n, most


@helper
def merge_sums(tree, n, sums, shard):
    """Enter the last of n rows of sums, that of a shard, and add what the tree says. How many sums there are."""
    tree.begins[n - 1], tree.sizes[n - 1] = shard, 1
    row, size = sums.strides[0], sums.shape[1]
    while merges(tree.begins, tree.sizes, n):
        left, right = at(pointer(sums), (n - 2) * row), at(pointer(sums), (n - 1) * row)
        axpy(size, right, 1.0, left, left)
        tree.sizes[n - 2] *= 2
        n -= 1
    return n


@helper
def check_shards(batch, network, shards, sums):
    """Status of arrays, before anything is written."""
    samples, program, capacity = batch.x.shape[0], network.program, 0
    if shards.starts.size != shards.bounds.shape[0] or batch.losses.shape[0] % max(shards.starts.size, 1):
        return BAD_SHAPE
    for i in range(shards.bounds.shape[0]):
        for s in range(1, shards.bounds.shape[1]):
            n = shards.bounds[i, s] - shards.bounds[i, s - 1]
            capacity = max(capacity, n)
            if n < 0 or shards.bounds[i, 0] < 0:
                return BAD_SHAPE
        last = shards.bounds[i, shards.bounds.shape[1] - 1]
        if last > (shards.order.size if shards.order.size else samples):
            return BAD_SHAPE
    if batch.x.shape[1] != program[0, Header.INPUTS] or columns_of(batch.target) > program[0, Header.OUTPUTS]:
        return BAD_SHAPE
    if network.params.size != program[0, Header.VALUES] or batch.weights.size not in (0, samples):
        return BAD_SHAPE
    if batch.labels.size % max(samples, 1) or batch.target.shape[0] not in (0, samples):
        return BAD_SHAPE
    if sums.strides[1] != sums.itemsize or not fits_workspace(program, capacity, network.workspace, network.counters):
        return BAD_SHAPE
    return check_overlaps(batch, network)


@helper
def largest_shard(bounds):
    """Rows of the largest one."""
    most = 0
    for i in range(bounds.shape[0]):
        for s in range(1, bounds.shape[1]):
            most = max(most, bounds[i, s] - bounds[i, s - 1])
    return most


@helper
def add_gradient(objective, grads, add, values):
    """Forward, losses and backward of a shard: grads, or what they add to; values += the values of each table.

    The last of the objective's tables of losses is the one whose gradient is taken. Returns a status.
    """
    context, target, columns, labels, weights, losses, smoothing = objective
    memory, n, o = context.memory, context.n, context.program[0, Header.OUTPUTS]
    grad_output, _, _, _ = saved_batch(context.program, n, memory.workspace)
    status, tables = run_forward(context, Value.TRAINING), values.size
    rows = losses.shape[0] // tables
    for t in range(tables):
        if status == OK:
            y, goal, g = view(memory.output, n, o), view(target, n, columns), view(grad_output, n, o)
            table, nothing = losses[t * rows : (t + 1) * rows], vector(memory.workspace, 0)
            status, value, _ = evaluate_losses(y, goal, labels, weights, nothing, g, table, smoothing)
            values[t] += value
    if status == OK:
        status = run_backward(context, grads, Memory(memory.x, grad_output, memory.workspace), 0, add)
    return status


@kernel(
    "x[n, i], program:int64[t, c], target[m, k], labels:int64[l], weights[w], losses:float64[e, d], "
    "hyperparameters:float64[h], order:int64[y], bounds:int64[a, b], starts:int64[f] -> params[p], grads[g], "
    "sums[r, q], values:float64[u, v], outcome:int64[one], count:int64[two], workspace[z], counters:int64[two]",
    *[types.int64] * 3,
    wrong_index=lambda x, program, *rest: computed_index(program, x),
)
def shard_gradients(
    x, program, target, labels, weights, losses, hyperparameters, order, bounds, starts,
    params, grads, sums, values, outcome, count, workspace, counters,
    first, n_threads, min_work,
):  # fmt: skip
    """The sums that the gradients of some shards make, see above: the first rows of `sums`.

    A shard has its rows of each batch, whose gradients are added. Losses of all samples are sums, divided by what the
    whole batch is divided by: for each batch the same number of tables, of which the last is for the gradient. The
    values of shard s in batch i, by each table, go to row s a + i of `values`, and what failed to `outcome`, which is a
    status. grads, which is not used, tells whether arrays are a network's.
    """
    batch, network = Batch(x, target, labels, weights, losses), Network(program, params, grads, workspace, counters)
    shards, n_shards, n_batches = Shards(order, bounds, starts, first), bounds.shape[1] - 1, bounds.shape[0]
    status, threads = check_shards(batch, network, shards, sums), Threads(n_threads, min_work)
    if status != OK or values.shape[0] != n_shards * n_batches or outcome.size != 1:
        return max(status, BAD_SHAPE)
    capacity, columns, classes = largest_shard(bounds), columns_of(target), labels.size // max(x.shape[0], 1)
    _, _, x_batch, target_memory = saved_batch(program, capacity, pointer(workspace))
    target_batch = contiguous_matrix(target_memory.data, columns)
    labels_batch = np.empty(capacity * classes if order.size else 0, np.int64)
    weights_batch = np.empty(capacity if order.size and weights.size else 0, weights.dtype)
    gathered = Batch(x, target, labels_batch, weights_batch, losses)
    tree, n_sums, rows = Tree(np.empty(MOST_SUMS, np.int64), np.empty(MOST_SUMS, np.int64)), 0, losses.shape[0]
    rows //= max(n_batches, 1)
    optimizer = Options(hyperparameters, count)
    smoothing = share_of(network, optimizer, SMOOTHING_SCHEDULE)
    values[:] = 0.0
    for s in range(n_shards):
        if n_sums == sums.shape[0]:
            return BAD_SHAPE
        into, done = at(pointer(sums), n_sums * sums.strides[0]), 0
        for i in range(n_batches):
            start, n = bounds[i, s], bounds[i, s + 1] - bounds[i, s]
            if n == 0:
                continue
            x_now, target_now = rows_from(matrix(x), start), rows_from(matrix(target), start)
            labels_now, weights_now = labels[start * classes : (start + n) * classes], weights[start : start + n]
            if order.size:
                gather_batch(batch, order[start : start + n], gathered, x_batch, target_batch)
                x_now, target_now = x_batch, target_batch
                labels_now, weights_now = labels_batch[: n * classes], weights_batch[: min(n, weights.size)]
            context = context_of(network, optimizer, x_now, n, Place(start - starts[i], i), threads)
            tables = losses[i * rows : (i + 1) * rows]
            objective = Objective(context, target_now, columns, labels_now, weights_now, tables, smoothing)
            outcome[0] = add_gradient(objective, into, np.int64(done > 0), values[s * n_batches + i])
            if outcome[0] != OK:
                return OK
            done += 1
        if done == 0:
            vector(into, sums.shape[1])[:] = 0.0
        n_sums = merge_sums(tree, n_sums + 1, sums, first + s)
    keep_alive(labels_batch)
    keep_alive(weights_batch)
    outcome[0] = OK
    return OK


@kernel(
    "x[n, i], program:int64[t, c], target[m, k], weights[w], losses:float64[e, d], hyperparameters:float64[h], "
    "param_ranges:float64[s, f], bounds:int64[b] -> params[p], grads[g], sums[r, q], scratch[y], outcome:int64[one], "
    "count:int64[two], workspace[z], counters:int64[two]",
    types.int64,
    wrong_index=lambda x, program, *rest: computed_index(program, x),
)
def shard_equations(
    x, program, target, weights, losses, hyperparameters, param_ranges, bounds,
    params, grads, sums, scratch, outcome, count, workspace, counters,
    first,
):  # fmt: skip
    """The same sums of Jᵀ J and then Jᵀ r, p² + p numbers, of Levenberg–Marquardt; scratch is for rows of J."""
    labels, p, o = bounds[:0], grads.size, program[0, Header.OUTPUTS]
    batch, network = Batch(x, target, labels, weights, losses), Network(program, params, grads, workspace, counters)
    status = check_overlaps(batch, network)
    last, size = bounds[bounds.size - 1], itemsize(pointer(sums))
    if not are_residuals(program, losses):
        return NO_RESIDUALS
    if sums.shape[1] != p * p + p or scratch.size < ROWS * o * (p + 1) or last > x.shape[0] or outcome.size != 1:
        return BAD_SHAPE
    if status != OK or not fits_workspace(program, 1, workspace, counters):
        return max(status, BAD_SHAPE)
    tree, n_sums, columns = Tree(np.empty(MOST_SUMS, np.int64), np.empty(MOST_SUMS, np.int64)), 0, columns_of(target)
    jacobian, one = pointer(scratch), Threads(1, 1)
    for s in range(bounds.size - 1):
        if n_sums == sums.shape[0]:
            return BAD_SHAPE
        start, n = bounds[s], bounds[s + 1] - bounds[s]
        square = at(pointer(sums), n_sums * sums.strides[0])
        vector(square, p * p + p)[:] = 0.0
        context = context_of(network, Options(hyperparameters, count), rows_from(matrix(x), start), n, BEGIN, one)
        target_now, weights_now = rows_from(matrix(target), start), weights[start : start + n]
        objective = Objective(context, target_now, columns, labels, weights_now, losses, 1.0)
        problem = Problem(objective, pointer(grads), jacobian, 0, hyperparameters, param_ranges, 0)
        right, residuals = at(square, p * p * size), at(jacobian, ROWS * o * p * size)
        outcome[0] = add_products(problem, Equations(square, square, right, right, jacobian, residuals))
        if outcome[0] != OK:
            return OK
        n_sums = merge_sums(tree, n_sums + 1, sums, first + s)
    outcome[0] = OK
    return OK


@kernel(
    "x[n, i], program:int64[t, c], labels:int64[l], weights[w], losses:float64[e, d], hyperparameters:float64[h], "
    "param_ranges:float64[s, f] -> params[p], grads[g], state[r, q], count:int64[two], workspace[z], "
    "counters:int64[two]",
    *[types.int64] * 2,
    result=RESULT,
)
def minimise_elsewhere(
    x, program, labels, weights, losses, hyperparameters, param_ranges,
    params, grads, state, count, workspace, counters,
    optimizer, evaluator,
):  # fmt: skip
    """A step of an optimizer that evaluates the objective as often as it likes, by an evaluator: see Problem."""
    network = Network(program, params, grads, workspace, counters)
    optimizer_state = OptimizerState(hyperparameters, param_ranges, state, count, optimizer)
    if param_ranges.shape[1] != N_RANGE_COLUMNS or grads.size != program[0, Header.PARAMETERS]:
        return BAD_SHAPE, 0.0
    if params.size != program[0, Header.VALUES] or not fits_workspace(program, 1, workspace, counters):
        return BAD_SHAPE, 0.0
    context = context_of(network, optimizer_state, matrix(x), 1, BEGIN, Threads(1, 1))
    objective = Objective(context, matrix(x), 0, labels, weights, losses, 1.0)
    status, value, _ = minimise(objective, network, optimizer_state, evaluator)
    return status, value
