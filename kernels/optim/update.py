"""Optimizers: one pass over the flat vectors of parameters p and gradients g = dL/dp, in place.

With weight decay λ, g stands for g + λ p below, or if it is decoupled, p is first scaled by 1 − η λ. t counts the
steps from 1 on. All but Lion are PyTorch's rules, to rounding.

    SGD       v = μ v + (1 − δ) g, but v = g in the first step     p −= η v, by Nesterov p −= η (g + μ v)
    Adam      m = β₁ m + (1 − β₁) g   v = β₂ v + (1 − β₂) g²       p −= η / (1 − β₁ᵗ) m / (√(v / (1 − β₂ᵗ)) + ε)
              amsgrad: with the largest v so far instead of v
    NAdam     the same with μₜ₊₁ / (1 − μ₁ … μₜ₊₁) m + (1 − μₜ) / (1 − μ₁ … μₜ) g instead of m / (1 − β₁ᵗ),
              μₜ = β₁ (1 − 0.96^(t ψ) / 2)
    RMSprop   v = α v + (1 − α) g²    b = μ b + g / (√v + ε)       p −= η b
              centered: v = α (v + (1 − α) (g − a)²), the variance of g about its mean  a = α a + (1 − α) g
    Adagrad   v += g²                                              p −= η / (1 + (t − 1) d) g / (√v + ε)
    Lion      m = β₂ m + (1 − β₂) g                                p −= η sign(β₁ m + (1 − β₁) g), m from before

No rule subtracts like numbers: m + (1 − β₁)(g − m) would lose a small g after a large one, and the difference of the
mean of g² and a², the centered RMSprop of the papers, all digits of the variance of a g that hardly changes.

The rules stand in rules.py.

Before the rule, in this order: g is scaled, the gradient of the penalty l₁ |p|₁ + l₂ |p|²/2 is added, each element
clipped, and all of them together clipped by their norm; afterwards columns of a weight are shortened to a norm, and a
moving average of p is taken. Gradients are changed by blocks in a small buffer, so that this is still one pass.
"""

from collections import namedtuple
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import ArrayLike, NDArray

from fastfc.kernels.optim import schedules
from fastfc.kernels.optim.rules import (
    MOMENTUM,
    NUMBER,
    ROWS_SHIFT,
    SGD,
    kernel_of,
    require_rule,
    run_rule,
    sign,
    step_numbers,
)
from fastfc.kernels.optim.schedules import rate, scheduled_share
from fastfc.kernels.runtime.kernel import kernel
from fastfc.kernels.runtime.native import on_demand_kernel, requires
from fastfc.kernels.runtime.overlap import overlaps
from fastfc.kernels.runtime.pool import parallel
from fastfc.kernels.runtime.status import BAD_SHAPE, NO_STATE, OK, OVERLAP, check
from fastfc.kernels.runtime.threads import thread_range
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import at, itemsize, pointer, stack
from fastfc.kernels.simd.vector import (
    fma,
    load,
    load_first,
    splat,
    square_root,
    store,
    store_first,
    sum_of_lanes,
    where_less,
    width,
)

# hyperparameters: the learning rate and its schedule, see schedules.py, what is common to all rules, up to five numbers
# of the rule, and where the schedules of other options begin, 0 for none: these, and milestones, are behind them
WEIGHT_DECAY, FLAGS, CLIP_VALUE, CLIP_NORM, AVERAGE, RULE = range(schedules.N_NUMBERS, schedules.N_NUMBERS + 6)
DECAY_SCHEDULE, DROPOUT_SCHEDULE, SMOOTHING_SCHEDULE, N_HYPERPARAMETERS = range(RULE + 5, RULE + 9)
DECOUPLED, MAXIMIZE = 1, 2  # bits of FLAGS
# param_ranges: one row for each run of parameters that are treated alike, in order. RATE is a factor; a negative
# DECAY −f stands for f times that of the hyperparameters; COLUMNS are those of the weight, if it has a MAX_NORM; SIZE
# is that of the whole vector, 0 stands for any, and then the range is all of it
FIRST, LAST, RATE, DECAY, L1, L2, MAX_NORM, COLUMNS, SIZE, N_RANGE_COLUMNS = range(10)
BLOCK_BYTES = 1 << 13

# How gradients are changed before the rule sees them, if at all: see `change_gradient`.
Change = namedtuple("Change", ["l1", "l2", "scale", "limit", "factor"])
# One pass of a rule: pointers to gradients, parameters and state, whose vectors are `row` bytes apart; the rule; how
# it steps and its numbers, see rules.py; whether gradients are changed, and the change.
Pass = namedtuple("Pass", ["grads", "params", "state", "row", "optimizer", "how", "numbers", "changes", "change"])

# Multiplications that the update of a parameter takes as long as, if all is in L2; from memory it takes thrice as long.
UPDATE_WORK = 32


def readonly(ndim):
    return types.Array(types.float64, ndim, "A", readonly=True, aligned=False)


@helper
def step_coefficients(optimizer, hyperparameters, count, like):
    """What is the same for all parameters in a step: a factor of the learning rate, and the rule's numbers."""
    given = (
        hyperparameters[RULE],
        hyperparameters[RULE + 1],
        hyperparameters[RULE + 2],
        hyperparameters[RULE + 3],
        hyperparameters[RULE + 4],
    )
    share, a, b, c, d, e, f, memory = step_numbers(optimizer & NUMBER, (like, given, count[0], count[1]))
    count[1] = np.float64(memory).view(np.int64)
    return share, (a, b, c, d, e, f)


@helper
def load_up_to(data, count, lanes):
    return load(data) if count >= lanes else load_first(data, count, 0.0)


@helper
def change_gradient(count, grads, params, out, change):
    """out = factor clip(scale g + l₁ sign(p) + l₂ p), up to a whole register; and the sum of its squares."""
    l1, l2, scale, limit, factor = change
    size, lanes = itemsize(params), width(params)
    total = splat(params, 0.0)
    for j in range(0, count, lanes):
        p = load_up_to(at(params, j * size), count - j, lanes)
        g = load_up_to(at(grads, j * size), count - j, lanes)
        g = fma(sign(p), l1, fma(p, l2, g * scale))
        g = where_less(limit, g, limit, where_less(g, -limit, -limit, g)) * factor
        store(at(out, j * size), g)
        total = fma(g, g, total)
    return np.float64(sum_of_lanes(total))


@helper
def take_average(count, params, out, keep):
    """out = keep out + (1 − keep) p, or p if keep is 0, whatever out was."""
    size, lanes = itemsize(params), width(params)
    for j in range(0, count, lanes):
        src, p = at(out, j * size), load_up_to(at(params, j * size), count - j, lanes)
        old = load_up_to(src, count - j, lanes) if keep > 0.0 else p
        new = fma(old, keep, p * (1.0 - keep))
        if count - j >= lanes:
            store(src, new)
        else:
            store_first(src, new, count - j)


@on_demand_kernel(lambda dtype: types.int64(*[types.CPointer(dtype)] * 2, types.int64, readonly(2), types.float64))
def take_averages(params, out, n, param_ranges, keep):
    """The average of what is trained; the rest as it is."""
    end = 0
    for i in range(param_ranges.shape[0] + 1):
        first, last = bounds(param_ranges, i, n) if i < param_ranges.shape[0] else (n, n)
        for begin, stop, share in ((end, first, 0.0), (first, last, keep)):
            take_average(stop - begin, at(params, begin * itemsize(params)), at(out, begin * itemsize(params)), share)
        end = last
    return OK


@on_demand_kernel(lambda dtype: types.int64(types.CPointer(dtype), types.int64, types.int64, types.float64))
def shorten_columns(weight, rows, columns, norm):
    """Scale each column whose Euclidean norm is larger to this norm."""
    size, lanes, buffer = itemsize(weight), width(weight), stack(weight, BLOCK_BYTES)
    block = BLOCK_BYTES // size
    for first in range(0, columns, block):
        count, start = min(block, columns - first), at(weight, first * size)
        for j in range(0, count, lanes):
            store(at(buffer, j * size), splat(weight, 0.0))
        for i in range(rows):
            row = at(start, i * columns * size)
            for j in range(0, count, lanes):
                w, sums = load_up_to(at(row, j * size), count - j, lanes), at(buffer, j * size)
                store(sums, fma(w, w, load(sums)))
        for j in range(0, count, lanes):
            length = square_root(load(at(buffer, j * size)))
            store(at(buffer, j * size), where_less(norm, length, splat(weight, norm) / length, splat(weight, 1.0)))
        for i in range(rows):
            row = at(start, i * columns * size)
            for j in range(0, count, lanes):
                src = at(row, j * size)
                w = load_up_to(src, count - j, lanes) * load(at(buffer, j * size))
                if count - j >= lanes:
                    store(src, w)
                else:
                    store_first(src, w, count - j)
    return OK


@on_demand_kernel(
    lambda dtype: types.float64(
        *[types.CPointer(dtype)] * 2, types.int64, readonly(1), readonly(2), *[types.float64] * 2
    )
)
def clip_factor(grads, params, n, hyperparameters, param_ranges, scale, limit):
    """What all gradients are multiplied by so that their norm is at most CLIP_NORM, as PyTorch does it."""
    size, total, buffer = itemsize(params), 0.0, stack(params, BLOCK_BYTES)
    block = BLOCK_BYTES // size
    for s in range(param_ranges.shape[0]):
        first, last = bounds(param_ranges, s, n)
        for j in range(first, last, block):
            g, p, count = at(grads, j * size), at(params, j * size), min(block, last - j)
            change = Change(param_ranges[s, L1], param_ranges[s, L2], scale, limit, 1.0)
            total += change_gradient(count, g, p, buffer, change)
    factor = hyperparameters[CLIP_NORM] / (np.sqrt(total) + 1e-6)
    return 1.0 if factor > 1.0 else factor  # NaN stays NaN


@helper
def bounds(param_ranges, s, n):
    """Where a range of a vector of length n begins and ends."""
    return int(param_ranges[s, FIRST]), int(param_ranges[s, LAST]) if param_ranges[s, SIZE] > 0.0 else n


@helper
def decay_of(hyperparameters, decay):
    """The weight decay of a range, without a schedule."""
    return decay if decay >= 0.0 else -decay * hyperparameters[WEIGHT_DECAY]


@helper
def are_param_ranges(param_ranges, n):
    """Whether all of them are of a vector of length n, and matrices where they must be."""
    wrong = 0
    for s in range(param_ranges.shape[0]):
        first, last = bounds(param_ranges, s, n)
        wrong += (
            first < 0 or first > last or last > n or not (param_ranges[s, SIZE] == n or param_ranges[s, SIZE] == 0.0)
        )
        columns = int(param_ranges[s, COLUMNS])
        wrong += param_ranges[s, MAX_NORM] > 0.0 and (columns < 1 or (last - first) % max(columns, 1) != 0)
    return wrong == 0


@helper
def update_fits(n, hyperparameters, param_ranges, state, count, optimizer):
    """Whether `update` of n parameters can run: it returns no other statuses, and these before it writes anything."""
    if count.size != 2 or hyperparameters.size < N_HYPERPARAMETERS or param_ranges.shape[1] != N_RANGE_COLUMNS:
        return BAD_SHAPE
    if param_ranges.shape[0] == 0 or not are_param_ranges(param_ranges, n):
        return NO_STATE
    rows = (optimizer >> ROWS_SHIFT) + (hyperparameters[AVERAGE] > 0.0)
    return NO_STATE if state.shape[0] < rows or (rows > 0 and state.shape[1] != n) else OK


@helper
def update_range(x, first, last):
    """The rule for a range of a pass, and before it the change of its gradients."""
    size, buffer, j = itemsize(x.params), stack(x.params, BLOCK_BYTES), first
    while j < last:  # a range would divide
        count, g, p, s = last - j, at(x.grads, j * size), at(x.params, j * size), at(x.state, j * size)
        if x.changes:
            count = min(count, BLOCK_BYTES // size)
            change_gradient(count, g, p, buffer, x.change)
            g = buffer
        run_rule(x.optimizer & NUMBER, (g, p, s, x.row, count, x.how, x.numbers))
        j += count


@helper
def update_part(x, n, index, n_threads):
    """`update_range` of one thread's part of n parameters."""
    first, last = thread_range(index, n_threads, n)
    update_range(x, first, last)
    return OK


@kernel(
    "grads[p], hyperparameters:float64[h], param_ranges:float64[s, k] -> params[p], state[r, q], count:int64[two]",
    types.int64,
    types.float64,
    *[types.int64] * 2,
)
def update(grads, hyperparameters, param_ranges, params, state, count, optimizer, scale, n_threads, min_work):
    """One step of an optimizer on contiguous vectors, with gradients multiplied by scale.

    count is the number of steps so far; and for NAdam the bits of μ₁ … μₜ, for SGD the number of steps before its first
    with momentum, for RMSprop whether it is CENTERED. Parameters in no range are left alone. Without any range the
    optimizer was not prepared.
    """
    found = (
        update_fits(params.size, hyperparameters, param_ranges, state, count, optimizer)
        if grads.size == params.size
        else BAD_SHAPE
    )
    if found != OK:
        return found
    require_rule(optimizer & NUMBER, pointer(params))
    n, average = params.size, hyperparameters[AVERAGE] > 0.0
    grads_data, params_data, state_data = pointer(grads), pointer(params), pointer(state)
    size, row, t = itemsize(params_data), state.strides[0], float(count[0])
    share, numbers = step_coefficients(optimizer, hyperparameters, count, params_data)
    flags = int(hyperparameters[FLAGS])
    scale = -scale if flags & MAXIMIZE else scale
    decay_share = scheduled_share(params_data, hyperparameters, DECAY_SCHEDULE, t)
    limit = hyperparameters[CLIP_VALUE] if hyperparameters[CLIP_VALUE] > 0.0 else np.inf
    factor = 1.0
    if hyperparameters[CLIP_NORM] > 0.0:
        factor = clip_factor(grads_data, params_data, n, hyperparameters, param_ranges, scale, limit)
    for i in range(param_ranges.shape[0]):
        first, last = bounds(param_ranges, i, n)
        l1, l2, max_norm = param_ranges[i, L1], param_ranges[i, L2], param_ranges[i, MAX_NORM]
        lr = share * rate(params_data, hyperparameters, param_ranges[i, RATE], t)
        decay = decay_share * decay_of(hyperparameters, param_ranges[i, DECAY])
        how = (lr, 1.0 - lr * decay, 0.0) if flags & DECOUPLED else (lr, 1.0, decay)
        changes = l1 != 0.0 or l2 != 0.0 or scale * factor != 1.0 or limit != np.inf
        g, p, s = at(grads_data, first * size), at(params_data, first * size), at(state_data, first * size)
        x = Pass(g, p, s, row, optimizer, how, numbers, changes, Change(l1, l2, scale, limit, factor))
        n_here = min(n_threads, (last - first) * UPDATE_WORK // min_work)
        if n_here > 1:
            parallel(update_part, (x, last - first), n_here)
        else:
            update_range(x, 0, last - first)
        if max_norm > 0.0:
            columns = int(param_ranges[i, COLUMNS])
            shorten_columns(at(params_data, first * size), (last - first) // columns, columns, max_norm)
    if average:
        averages = at(state_data, (state.shape[0] - 1) * row)
        take_averages(params_data, averages, n, param_ranges, hyperparameters[AVERAGE] if t > 0.0 else 0.0)
    count[0] += 1
    return OK


@kernel("grads[p] -> params[p], velocity[v]", types.float64, types.float64, types.float64)
def _sgd(grads, params, velocity, lr, momentum, weight_decay):
    if grads.size != params.size or (momentum != 0.0 and velocity.size != params.size):
        return BAD_SHAPE
    if overlaps(grads, params) or overlaps(grads, velocity) or overlaps(params, velocity):
        return OVERLAP
    how, numbers = (lr, 1.0, weight_decay), (momentum, 1.0, 0.0, 0.0, 0.0, 0.0)
    number = np.int64((SGD if momentum == 0.0 else MOMENTUM) & NUMBER)
    require_rule(number, pointer(params))
    size, count = params.itemsize, params.size
    unit = params.strides[0] == size and grads.strides[0] == size and velocity.strides[0] == size
    # elements that are not neighbours are taken one by one, as vectors of one
    step = count if unit else 1
    for j in range(0, count, max(step, 1)):
        g, p = at(pointer(grads), j * grads.strides[0]), at(pointer(params), j * params.strides[0])
        v = at(pointer(velocity), j * velocity.strides[0]) if momentum != 0.0 else p
        run_rule(number, (g, p, v, 0, step, how, numbers))
    return OK


def sgd(
    params: NDArray[Any], grads: ArrayLike, velocity: NDArray[Any], lr: float, momentum: float, weight_decay: float
) -> None:
    """Stochastic gradient descent with momentum and an L2 penalty, in place, by PyTorch's rule.

        g = grads + weight_decay params;  velocity = momentum velocity + g;  params −= lr velocity

    Parameters
    ----------
    params : (p,) float32 or float64, updated
    grads : (p,), same dtype
    velocity : (p,), same dtype, updated; may be of length 0 if momentum is 0, and is then not used
    lr, momentum, weight_decay : float
    """
    _sgd.call(grads, params, velocity, lr, momentum, weight_decay)


@overload(sgd)
def nopython_sgd(params, grads, velocity, lr, momentum, weight_decay):
    load = requires(kernel_of(SGD), kernel_of(MOMENTUM))

    def run(params, grads, velocity, lr, momentum, weight_decay):
        load(params)
        check(_sgd(grads, params, velocity, lr, momentum, weight_decay))

    return run
