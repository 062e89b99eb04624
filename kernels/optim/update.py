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

A rule is a function of registers, from g and up to three vectors that the optimizer remembers to the direction of the
step and their new values; what is the same for all parameters comes as a tuple of numbers, made of the hyperparameters
once in a step.

Before the rule, in this order: g is scaled, the gradient of the penalty l₁ |p|₁ + l₂ |p|²/2 is added, each element
clipped, and all of them together clipped by their norm; afterwards columns of a weight are shortened to a norm, and a
moving average of p is taken. Gradients are changed by blocks in a small buffer, so that this is still one pass.
"""

import numpy as np
from numba import types
from numba.extending import overload

from fastfc.kernels.optim import schedules
from fastfc.kernels.optim.schedules import rate
from fastfc.kernels.runtime.kernel import kernel
from fastfc.kernels.runtime.native import compiled_kernel, named_after
from fastfc.kernels.runtime.overlap import overlaps
from fastfc.kernels.runtime.status import BAD_SHAPE, NO_STATE, OK, OVERLAP, check
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

# hyperparameters: the learning rate and its schedule, see schedules.py, what is common to all rules, and up to five
# numbers of the rule; a schedule may have more numbers behind them
WEIGHT_DECAY, FLAGS, CLIP_VALUE, CLIP_NORM, AVERAGE, RULE = range(schedules.N_NUMBERS, schedules.N_NUMBERS + 6)
N_HYPERPARAMETERS = RULE + 5
DECOUPLED, MAXIMIZE = 1, 2  # bits of FLAGS
# param_ranges: one row for each run of parameters that are treated alike, in order. RATE is a factor; a negative
# DECAY stands for that of the hyperparameters; COLUMNS are those of the weight, if it has a MAX_NORM; SIZE is that
# of the whole vector, 0 stands for any, and then the range is all of it
FIRST, LAST, RATE, DECAY, L1, L2, MAX_NORM, COLUMNS, SIZE, N_RANGE_COLUMNS = range(10)
BLOCK_BYTES = 1 << 13


@helper
def plain_rule(g, s, u, w, numbers):
    return g, s, u, w


@helper
def momentum_rule(g, v, s, u, numbers):
    momentum, fresh, nesterov, _, _, _ = numbers
    v = fma(v, momentum, g * fresh)
    return fma(v, momentum, g) if nesterov != 0.0 else v, v, s, u


@helper
def adam_moments(g, m, v, numbers):
    keep_m, keep_v, _, _, _, _ = numbers
    return fma(m, keep_m, g * (1.0 - keep_m)), fma(v, keep_v, g * g * (1.0 - keep_v))


@helper
def adam_direction(g, m, v, numbers):
    _, _, of_m, of_g, scale, eps = numbers
    return fma(g, of_g, m * of_m) / fma(square_root(v), scale, eps)


@helper
def adam_rule(g, m, v, s, numbers):
    m, v = adam_moments(g, m, v, numbers)
    return adam_direction(g, m, v, numbers), m, v, s


@helper
def amsgrad_rule(g, m, v, largest, numbers):
    m, v = adam_moments(g, m, v, numbers)
    largest = where_less(largest, v, v, largest)
    return adam_direction(g, m, largest, numbers), m, v, largest


@helper
def rmsprop_rule(g, v, b, s, numbers):
    alpha, momentum, eps, _, _, _ = numbers
    v = fma(v, alpha, g * g * (1.0 - alpha))
    b = fma(b, momentum, g / (square_root(v) + eps))
    return b, v, b, s


@helper
def rmsprop_centered_rule(g, v, b, a, numbers):
    alpha, momentum, eps, _, _, _ = numbers
    change = g - a
    v = fma(v, alpha, change * change * (alpha * (1.0 - alpha)))
    b = fma(b, momentum, g / (square_root(v) + eps))
    return b, v, b, fma(a, alpha, g * (1.0 - alpha))


@helper
def adagrad_rule(g, v, s, u, numbers):
    v = fma(g, g, v)
    return g / (square_root(v) + numbers[0]), v, s, u


@helper
def lion_rule(g, m, s, u, numbers):
    beta1, beta2, _, _, _, _ = numbers
    mean = fma(m, beta1, g * (1.0 - beta1))
    return sign(mean), fma(m, beta2, g * (1.0 - beta2)), s, u


@helper
def sign(x):
    return where_less(x, 0.0, -1.0, where_less(0.0, x, 1.0, x))


def one_pass(rule, rows):
    """Parameters and state, which has so many rows, by a rule."""

    def run(count, grads, params, state, row, how, numbers):
        size, lanes = itemsize(params), width(params)
        lr, shrink, decay = how
        # masks halve the speed of memory: they are for the rest only
        whole = count - count % lanes
        for j in range(0, whole * size, lanes * size):
            s = at(state, j)
            p, g = load(at(params, j)), load(at(grads, j))
            x = load(s) if rows > 0 else p
            y = load(at(s, row)) if rows > 1 else x
            z = load(at(s, 2 * row)) if rows > 2 else x
            step, x, y, z = rule(fma(p, decay, g), x, y, z, numbers)
            store(at(params, j), fma(step, -lr, p * shrink))
            if rows > 0:
                store(s, x)
            if rows > 1:
                store(at(s, row), y)
            if rows > 2:
                store(at(s, 2 * row), z)
        some, end = count - whole, whole * size
        if some > 0:
            s = at(state, end)
            p, g = load_first(at(params, end), some, 0.0), load_first(at(grads, end), some, 0.0)
            x = load_first(s, some, 0.0) if rows > 0 else p
            y = load_first(at(s, row), some, 0.0) if rows > 1 else x
            z = load_first(at(s, 2 * row), some, 0.0) if rows > 2 else x
            step, x, y, z = rule(fma(p, decay, g), x, y, z, numbers)
            store_first(at(params, end), fma(step, -lr, p * shrink), some)
            if rows > 0:
                store_first(s, x, some)
            if rows > 1:
                store_first(at(s, row), y, some)
            if rows > 2:
                store_first(at(s, 2 * row), z, some)

    return helper(named_after(run, rule, rows))


SGD, ADAM, AMSGRAD, NADAM, RMSPROP, RMSPROP_CENTERED, ADAGRAD, LION = range(8)
LBFGS, LEVENBERG_MARQUARDT = 8, 9  # have files of their own, and no rule
ROWS = (1, 2, 3, 2, 2, 3, 1, 1)  # of state; SGD without momentum needs none
CENTERED = 1  # in count[1], if the v of RMSprop is a variance
sgd_pass, momentum_pass = one_pass(plain_rule, 0), one_pass(momentum_rule, 1)
adam_pass, amsgrad_pass = one_pass(adam_rule, 2), one_pass(amsgrad_rule, 3)
rmsprop_pass, rmsprop_centered_pass = one_pass(rmsprop_rule, 2), one_pass(rmsprop_centered_rule, 3)
adagrad_pass, lion_pass = one_pass(adagrad_rule, 1), one_pass(lion_rule, 1)


@helper
def step_coefficients(optimizer, hyperparameters, count):
    """What is the same for all parameters in a step: a factor of the learning rate, and the rule's numbers."""
    a, b, c, d, e = (
        hyperparameters[RULE],
        hyperparameters[RULE + 1],
        hyperparameters[RULE + 2],
        hyperparameters[RULE + 3],
        hyperparameters[RULE + 4],
    )
    t = count[0] + 1.0
    if optimizer == SGD:
        return 1.0, (a, 1.0 if count[0] == count[1] else 1.0 - b, c, 0.0, 0.0, 0.0)
    if optimizer in (ADAM, AMSGRAD):
        return 1.0, (a, b, 1.0 / (1.0 - a**t), 0.0, 1.0 / np.sqrt(1.0 - b**t), c)
    if optimizer == NADAM:
        now, after = a * (1.0 - 0.5 * 0.96 ** (t * d)), a * (1.0 - 0.5 * 0.96 ** ((t + 1.0) * d))
        product = now * (1.0 if t == 1.0 else np.int64(count[1]).view(np.float64))
        count[1] = np.float64(product).view(np.int64)
        of_m, of_g = after / (1.0 - product * after), (1.0 - now) / (1.0 - product)
        return 1.0, (a, b, of_m, of_g, 1.0 / np.sqrt(1.0 - b**t), c)
    if optimizer == RMSPROP_CENTERED:
        count[1] = CENTERED
    if optimizer == ADAGRAD:
        return 1.0 / (1.0 + (t - 1.0) * a), (b, 0.0, 0.0, 0.0, 0.0, 0.0)
    return 1.0, (a, b, c, d, e, 0.0)


def rule_type(dtype):
    return types.void(
        *[types.CPointer(dtype)] * 3,
        *[types.int64] * 4,
        types.UniTuple(types.float64, 3),
        types.UniTuple(types.float64, 6),
    )


@compiled_kernel(rule_type)
def run_rule(g, p, s, row, optimizer, rows, n, how, numbers):
    """n neighbours by the rule of an optimizer that remembers so many rows; apart from `update` it compiles faster."""
    if rows == 0:
        sgd_pass(n, g, p, s, row, how, numbers)
    elif optimizer == SGD:
        momentum_pass(n, g, p, s, row, how, numbers)
    elif optimizer in (ADAM, NADAM):
        adam_pass(n, g, p, s, row, how, numbers)
    else:
        run_lazy_rule(g, p, s, row, optimizer, rows, n, how, numbers)


@compiled_kernel(rule_type, optional=True)
def run_lazy_rule(g, p, s, row, optimizer, rows, n, how, numbers):
    """For the optimizers that most networks do not need."""
    if optimizer == AMSGRAD:
        amsgrad_pass(n, g, p, s, row, how, numbers)
    elif optimizer == RMSPROP:
        rmsprop_pass(n, g, p, s, row, how, numbers)
    elif optimizer == RMSPROP_CENTERED:
        rmsprop_centered_pass(n, g, p, s, row, how, numbers)
    elif optimizer == ADAGRAD:
        adagrad_pass(n, g, p, s, row, how, numbers)
    else:
        lion_pass(n, g, p, s, row, how, numbers)


# what only these optimizers need, and have loaded
OPTIONAL_KERNELS = {code: run_lazy_rule for code in (AMSGRAD, RMSPROP, RMSPROP_CENTERED, ADAGRAD, LION)}


@helper
def load_up_to(data, count, lanes):
    return load(data) if count >= lanes else load_first(data, count, 0.0)


@helper
def change_gradient(count, grads, params, out, l1, l2, scale, limit, factor):
    """out = factor clip(scale g + l₁ sign(p) + l₂ p), up to a whole register; and the sum of its squares."""
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
        here, p = at(out, j * size), load_up_to(at(params, j * size), count - j, lanes)
        old = load_up_to(here, count - j, lanes) if keep > 0.0 else p
        new = fma(old, keep, p * (1.0 - keep))
        if count - j >= lanes:
            store(here, new)
        else:
            store_first(here, new, count - j)


@helper
def take_averages(n, params, out, param_ranges, keep):
    """The average of what is trained; the rest as it is."""
    end = 0
    for i in range(param_ranges.shape[0] + 1):
        first, last = bounds(param_ranges, i, n) if i < param_ranges.shape[0] else (n, n)
        for begin, stop, share in ((end, first, 0.0), (first, last, keep)):
            take_average(stop - begin, at(params, begin * itemsize(params)), at(out, begin * itemsize(params)), share)
        end = last


@helper
def shorten_columns(rows, columns, weight, norm, buffer):
    """Scale each column whose Euclidean norm is larger to this norm."""
    size, lanes = itemsize(weight), width(weight)
    block = BLOCK_BYTES // size
    for first in range(0, columns, block):
        some, start = min(block, columns - first), at(weight, first * size)
        for j in range(0, some, lanes):
            store(at(buffer, j * size), splat(weight, 0.0))
        for i in range(rows):
            row = at(start, i * columns * size)
            for j in range(0, some, lanes):
                w, sums = load_up_to(at(row, j * size), some - j, lanes), at(buffer, j * size)
                store(sums, fma(w, w, load(sums)))
        for j in range(0, some, lanes):
            length = square_root(load(at(buffer, j * size)))
            store(at(buffer, j * size), where_less(norm, length, splat(weight, norm) / length, splat(weight, 1.0)))
        for i in range(rows):
            row = at(start, i * columns * size)
            for j in range(0, some, lanes):
                here = at(row, j * size)
                w = load_up_to(here, some - j, lanes) * load(at(buffer, j * size))
                if some - j >= lanes:
                    store(here, w)
                else:
                    store_first(here, w, some - j)


@helper
def clip_factor(n, grads, params, hyperparameters, param_ranges, scale, limit, buffer):
    """What all gradients are multiplied by so that their norm is at most CLIP_NORM, as PyTorch does it."""
    size, total = itemsize(params), 0.0
    block = BLOCK_BYTES // size
    for s in range(param_ranges.shape[0]):
        first, last = bounds(param_ranges, s, n)
        for j in range(first, last, block):
            g, p, some = at(grads, j * size), at(params, j * size), min(block, last - j)
            total += change_gradient(some, g, p, buffer, param_ranges[s, L1], param_ranges[s, L2], scale, limit, 1.0)
    factor = hyperparameters[CLIP_NORM] / (np.sqrt(total) + 1e-6)
    return 1.0 if factor > 1.0 else factor  # NaN stays NaN


@helper
def bounds(param_ranges, s, n):
    """Where a range of a vector of length n begins and ends."""
    return int(param_ranges[s, FIRST]), int(param_ranges[s, LAST]) if param_ranges[s, SIZE] > 0.0 else n


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
def rows_of(optimizer, hyperparameters):
    """Rows of the state that a rule needs."""
    return 0 if optimizer == SGD and hyperparameters[RULE] == 0.0 else ROWS[optimizer]


@helper
def update_fits(n, hyperparameters, param_ranges, state, count, optimizer):
    """Whether `update` of n parameters can run: it returns no other statuses, and these before it writes anything."""
    if count.size != 2 or hyperparameters.size < N_HYPERPARAMETERS or param_ranges.shape[1] != N_RANGE_COLUMNS:
        return BAD_SHAPE
    if optimizer < 0 or optimizer >= len(ROWS) or param_ranges.shape[0] == 0 or not are_param_ranges(param_ranges, n):
        return NO_STATE
    rows = rows_of(optimizer, hyperparameters) + (hyperparameters[AVERAGE] > 0.0)
    return NO_STATE if state.shape[0] < rows or (rows > 0 and state.shape[1] != n) else OK


@kernel(
    "grads[p], hyperparameters:float64[h], param_ranges:float64[s, k] -> params[p], state[r, q], count:int64[two]",
    types.int64,
    types.float64,
)
def update(grads, hyperparameters, param_ranges, params, state, count, optimizer, scale):
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
    n, average, rows = params.size, hyperparameters[AVERAGE] > 0.0, rows_of(optimizer, hyperparameters)
    grads_data, params_data, state_data = pointer(grads), pointer(params), pointer(state)
    size, row, t = itemsize(params_data), state.strides[0], float(count[0])
    share, numbers = step_coefficients(optimizer, hyperparameters, count)
    flags = int(hyperparameters[FLAGS])
    scale = -scale if flags & MAXIMIZE else scale
    limit = hyperparameters[CLIP_VALUE] if hyperparameters[CLIP_VALUE] > 0.0 else np.inf
    buffer, factor = stack(params_data, BLOCK_BYTES), 1.0
    if hyperparameters[CLIP_NORM] > 0.0:
        factor = clip_factor(n, grads_data, params_data, hyperparameters, param_ranges, scale, limit, buffer)
    for i in range(param_ranges.shape[0]):
        first, last = bounds(param_ranges, i, n)
        l1, l2, max_norm = param_ranges[i, L1], param_ranges[i, L2], param_ranges[i, MAX_NORM]
        lr = share * rate(hyperparameters, param_ranges[i, RATE], t)
        decay = param_ranges[i, DECAY] if param_ranges[i, DECAY] >= 0.0 else hyperparameters[WEIGHT_DECAY]
        how = (lr, 1.0 - lr * decay, 0.0) if flags & DECOUPLED else (lr, 1.0, decay)
        change = l1 != 0.0 or l2 != 0.0 or scale * factor != 1.0 or limit != np.inf
        j = first
        while j < last:  # a range would divide
            some, p, g = last - j, at(params_data, j * size), at(grads_data, j * size)
            if change:
                some = min(some, BLOCK_BYTES // size)
                change_gradient(some, g, p, buffer, l1, l2, scale, limit, factor)
                g = buffer
            run_rule(g, p, at(state_data, j * size), row, optimizer, rows, some, how, numbers)
            j += some
        if max_norm > 0.0:
            columns = int(param_ranges[i, COLUMNS])
            shorten_columns((last - first) // columns, columns, at(params_data, first * size), max_norm, buffer)
    if average:
        averages = at(state_data, (state.shape[0] - 1) * row)
        take_averages(n, params_data, averages, param_ranges, hyperparameters[AVERAGE] if t > 0.0 else 0.0)
    count[0] += 1
    return OK


@kernel("grads[p] -> params[p], velocity[v]", types.float64, types.float64, types.float64)
def _sgd(grads, params, velocity, lr, momentum, weight_decay):
    if grads.size != params.size or (momentum != 0.0 and velocity.size != params.size):
        return BAD_SHAPE
    if overlaps(grads, params) or overlaps(grads, velocity) or overlaps(params, velocity):
        return OVERLAP
    how, numbers = (lr, 1.0, weight_decay), (momentum, 1.0, 0.0, 0.0, 0.0, 0.0)
    size, count = params.itemsize, params.size
    unit = params.strides[0] == size and grads.strides[0] == size and velocity.strides[0] == size
    # elements that are not neighbours are taken one by one, as vectors of one
    step = count if unit else 1
    for j in range(0, count, max(step, 1)):
        g, p = at(pointer(grads), j * grads.strides[0]), at(pointer(params), j * params.strides[0])
        if momentum != 0.0:
            momentum_pass(step, g, p, at(pointer(velocity), j * velocity.strides[0]), 0, how, numbers)
        else:
            sgd_pass(step, g, p, p, 0, how, numbers)
    return OK


def sgd(params, grads, velocity, lr, momentum, weight_decay):
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
    def run(params, grads, velocity, lr, momentum, weight_decay):
        check(_sgd(grads, params, velocity, lr, momentum, weight_decay))

    return run
