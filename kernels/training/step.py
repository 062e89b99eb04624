"""Training in one native call: a step on one batch, or all the steps of an epoch.

    gather a batch, forward, loss, backward (kernels/program/interpreter.py, losses.py), update (optimizers.py)

Several batches may add up their gradients for one update, by the mean of them.
"""

import numpy as np
from numba import types

from fastfc.kernels.ops.loss_rules import CLASSES
from fastfc.kernels.ops.losses import RESULT
from fastfc.kernels.ops.matrix import element, matrix
from fastfc.kernels.optim.rules import LBFGS
from fastfc.kernels.optim.update import N_RANGE_COLUMNS, are_param_ranges, bounds, update, update_fits
from fastfc.kernels.program.interpreter import commit_step, computed_index, dense, row, saved, workspace_size
from fastfc.kernels.program.table import INPUTS, OUTPUTS, PARAMETERS, TRAINED, VALUES
from fastfc.kernels.runtime.kernel import kernel
from fastfc.kernels.runtime.overlap import extent, keep_alive, meet
from fastfc.kernels.runtime.status import BAD_SHAPE, NO_RESIDUALS, NO_STATE, OK, OVERLAP
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import itemsize, pointer
from fastfc.kernels.simd.vector import fetch, load, load_first, store, store_first, width
from fastfc.kernels.training.lbfgs import PAIRS, lbfgs
from fastfc.kernels.training.levenberg_marquardt import are_residuals, levenberg_marquardt, rows
from fastfc.kernels.training.objective import Objective, run_gradient

# Samples are gathered while those that come so many later are fetched: in a random order no processor foresees them.
AHEAD = 2


@helper
def gather(count, columns, order, source, target):
    """target[r] = source[order[r]] for r < count."""
    size = itemsize(target.data)
    lanes = width(target.data)
    contiguous = source.column == size and target.column == size
    whole = columns - columns % lanes if contiguous else 0
    step = lanes if contiguous else 1
    for r in range(count):
        there, here = row(source, order[r]), row(target, r)
        later = row(source, order[min(r + AHEAD, count - 1)])
        for j in range(0, whole, lanes):
            fetch(element(later, 0, j))
            store(element(here, 0, j), load(element(there, 0, j)))
        for j in range(whole, columns, step):
            some = min(step, columns - j)
            store_first(element(here, 0, j), load_first(element(there, 0, j), some, 0.0), some)


@helper
def columns_of(target):
    """Columns of the numeric targets; without any, target has no rows."""
    return target.shape[1] if target.shape[0] else 0


@helper
def training_fits(
    program, x, target, labels, weights, losses, hyperparameters, param_ranges, params, grads, state, count,
    workspace, counters, optimizer, n
):  # fmt: skip
    """Whether arrays are of the shapes that training in batches of n needs, and param_ranges knows what is not trained.

    What is wrong with an optimizer, and all that overlaps, shows here, before anything is written.
    """
    samples, classes = x.shape[0], 0
    for i in range(losses.shape[0]):
        classes += losses[i, CLASSES] != 0.0
    if labels.size not in (0, classes * samples) or target.shape[0] not in (0, samples):
        return BAD_SHAPE
    if x.shape[1] != program[0, INPUTS] or params.size != program[0, VALUES] or grads.size != program[0, PARAMETERS]:
        return BAD_SHAPE
    if columns_of(target) > program[0, OUTPUTS] or (weights.size and weights.size != samples):
        return BAD_SHAPE
    if workspace.size < workspace_size(program, n) or counters.size != 2 or param_ranges.shape[1] != N_RANGE_COLUMNS:
        return BAD_SHAPE
    # each extent once: the smallest networks train in the time of a few more
    of_params, of_grads, of_space = extent(params), extent(grads), extent(workspace)
    of_x, of_target, of_weights = extent(x), extent(target), extent(weights)
    for read in (of_x, of_target, of_weights):
        if meet(of_params, read) or meet(of_grads, read) or meet(of_space, read):
            return OVERLAP
    if meet(of_params, of_grads) or meet(of_params, of_space) or meet(of_grads, of_space):
        return OVERLAP
    changed = 0
    for s in range(param_ranges.shape[0]):
        first, last = bounds(param_ranges, s, grads.size)
        changed += last - first
    if changed > program[0, TRAINED]:
        return NO_STATE
    return OK if optimizer >= LBFGS else update_fits(grads.size, hyperparameters, param_ranges, state, count, optimizer)


@helper
def minimise(objective, hyperparameters, param_ranges, params, grads, state, count, optimizer):
    """A step of an optimizer that evaluates the objective as often as it likes. As for run_gradient."""
    p, row = grads.size, state.strides[0]
    if state.shape[1] != p or param_ranges.shape[0] == 0 or not are_param_ranges(param_ranges, p):
        return NO_STATE, 0.0, 0.0
    if state.shape[0] < (PAIRS + 2 if optimizer == LBFGS else rows(p, objective.program[0, OUTPUTS])):
        return NO_STATE, 0.0, 0.0
    w, g, s = pointer(params), pointer(grads), pointer(state)
    if optimizer == LBFGS:
        return lbfgs(w, g, objective, hyperparameters, param_ranges, s, (state.shape[0] - PAIRS) // 2, row, count)
    if not are_residuals(objective.program, objective.losses):
        return NO_RESIDUALS, 0.0, 0.0
    return levenberg_marquardt(w, g, objective, hyperparameters, param_ranges, s, count)


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
    found = training_fits(
        program, x, target, labels, weights, losses, hyperparameters, param_ranges, params, grads, state,
        count, workspace, counters,
        optimizer, n,
    )  # fmt: skip
    if found == OK:
        objective = Objective(
            program, matrix(x), matrix(target), columns_of(target), labels, weights, losses, pointer(workspace), n,
            counters[1] + 1, n_threads, min_work,
        )  # fmt: skip
        if optimizer >= LBFGS:
            found, value, _ = minimise(objective, hyperparameters, param_ranges, params, grads, state, count, optimizer)
        else:
            found, value, _ = run_gradient(pointer(params), pointer(grads), objective, 0)
            if found == OK:
                found = update(grads, hyperparameters, param_ranges, params[: grads.size], state, count, optimizer, 1.0)
    if found == OK:
        commit_step(pointer(params), program, pointer(workspace), n, counters)
    return found, value


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
    first, last, batch, accumulate, optimizer, so_far, n_threads, min_work,
):  # fmt: skip
    """Steps on batches of the samples first, ..., last - 1 in an order; all their losses added to those so far.

    Without an order the samples are taken as they lie in x. So many batches as in accumulate make one update. With
    another status than OK the updates before stay: whoever calls undoes them.
    """
    sum_of_losses = so_far
    found = training_fits(
        program, x, target, labels, weights, losses, hyperparameters, param_ranges, params, grads, state,
        count, workspace, counters,
        optimizer, batch,
    )  # fmt: skip
    if found != OK:
        return found, sum_of_losses
    i, columns, classes = program[0, INPUTS], columns_of(target), labels.size // max(x.shape[0], 1)
    _, _, x_batch, target_place = saved(program, batch, pointer(workspace))
    target_batch = dense(batch, columns, target_place.data)
    labels_batch = np.empty(batch * classes if order.size else 0, np.int64)
    weights_batch = np.empty(batch if order.size and weights.size else 0, weights.dtype)
    x_all, target_all, waiting = matrix(x), matrix(target), 0
    for start in range(first, last, batch):
        n = min(batch, last - start)
        x_now, target_now = row(x_all, start), row(target_all, start)
        labels_now, weights_now = labels[start * classes : (start + n) * classes], weights[start : start + n]
        if order.size:
            chosen = order[start : start + n]
            gather(n, i, chosen, x_all, x_batch)
            gather(n, columns, chosen, target_all, target_batch)
            for r in range(n):
                for c in range(classes):
                    labels_batch[r * classes + c] = labels[chosen[r] * classes + c]
                if weights.size:
                    weights_batch[r] = weights[chosen[r]]
            x_now, target_now = x_batch, target_batch
            labels_now, weights_now = labels_batch[: n * classes], weights_batch[: min(n, weights.size)]
        objective = Objective(
            program, x_now, target_now, columns, labels_now, weights_now, losses, pointer(workspace), n,
            counters[1] + 1, n_threads, min_work,
        )  # fmt: skip
        if optimizer >= LBFGS:
            found, _, total = minimise(objective, hyperparameters, param_ranges, params, grads, state, count, optimizer)
        else:
            found, _, total = run_gradient(pointer(params), pointer(grads), objective, waiting > 0)
            waiting += 1
        if found == OK and waiting and (waiting == accumulate or start + n == last):
            found = update(
                grads, hyperparameters, param_ranges, params[: grads.size], state, count, optimizer, 1.0 / waiting
            )
            waiting = 0
        if found != OK:
            break
        commit_step(pointer(params), program, pointer(workspace), n, counters)
        sum_of_losses += total
    keep_alive(labels_batch)
    keep_alive(weights_batch)
    return found, sum_of_losses
