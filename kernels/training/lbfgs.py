"""L-BFGS: steps by a model of the curvature that the latest steps showed, each as long as a line search says.

With g = ∇f and the last pairs s = Δw, y = Δg, the direction d = −H g comes from the two-loop recursion (Nocedal and
Wright, "Numerical Optimization", 2006, algorithm 7.4), which begins with H = (sᵀy / yᵀy) I. The step t along d
satisfies the strong Wolfe conditions (algorithms 3.5 and 3.6, with cubic interpolation, equation 3.59):

    f(w + t d) <= f(w) + c₁ t gᵀd        |∇f(w + t d)ᵀ d| <= c₂ |gᵀd|
"""

from collections import namedtuple

import numpy as np
from numba import types

from fastfc.kernels.ops.level1 import dot
from fastfc.kernels.ops.losses import RESULTS
from fastfc.kernels.optim.schedules import LR
from fastfc.kernels.optim.update import DECAY, RULE, WEIGHT_DECAY, bounds
from fastfc.kernels.program.table import PARAMETERS
from fastfc.kernels.runtime.native import compiled_kernel
from fastfc.kernels.runtime.status import BAD_INDEX, BAD_PREDICTION, OK
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import at, itemsize, read, write
from fastfc.kernels.simd.vector import fma, load_first, store_first, width
from fastfc.kernels.training.objective import objective_type, readonly, run_gradient

# hyperparameters, behind the numbers that all optimizers have
MAX_ITER, MAX_EVAL, TOLERANCE_GRAD, TOLERANCE_CHANGE = range(RULE, RULE + 4)
# rows of the state: what a line search begins with; from PAIRS on all s and then all y
DIRECTION, GRADIENT, START, PAIRS = range(4)
ARMIJO, CURVATURE = 1e-4, 0.9  # c₁ and c₂
SEARCH = 25  # evaluations of one line search, at most
NEGLIGIBLE = 1e-10  # a pair with a smaller sᵀy says nothing of the curvature

# A point of a line search: the step, f there, and its slope ∇fᵀd
Point = namedtuple("Point", ["t", "f", "slope"])


@helper
def axpy(count, x, a, y, out):
    """out = a x + y"""
    size, lanes = itemsize(x), width(x)
    for j in range(0, count, lanes):
        some, here = count - j, j * size
        store_first(at(out, here), fma(load_first(at(x, here), some, 0.0), a, load_first(at(y, here), some, 0.0)), some)


@helper
def largest(count, x):
    """max |x|"""
    top = 0.0
    for j in range(count):
        top = max(top, abs(np.float64(read(at(x, j * itemsize(x))))))
    return top


@helper
def clear_untrained(p, grads, param_ranges):
    """Gradients of what is in no range become 0."""
    done = 0
    for i in range(param_ranges.shape[0] + 1):
        first, last = bounds(param_ranges, i, p) if i < param_ranges.shape[0] else (p, p)
        for j in range(done, first):
            write(at(grads, j * itemsize(grads)), 0)
        done = last


@helper
def evaluate(params, grads, hyperparameters, param_ranges, objective):
    """Status, f and its gradient, with weight decay; the loss and its part of an epoch's, without.

    The gradient of what is in no range is 0.
    """
    p, size = objective.program[0, PARAMETERS], itemsize(params)
    found, value, total = run_gradient(params, grads, objective, 0)
    f = value
    clear_untrained(p, grads, param_ranges)
    for i in range(param_ranges.shape[0]):
        first, last = bounds(param_ranges, i, p)
        decay = param_ranges[i, DECAY] if param_ranges[i, DECAY] >= 0.0 else hyperparameters[WEIGHT_DECAY]
        if decay != 0.0:
            w, g = at(params, first * size), at(grads, first * size)
            f += 0.5 * decay * dot(last - first, w, w)
            axpy(last - first, w, decay, g, g)
    return found, f, value, total


@helper
def cubic_minimum(a, b, low, high):
    """Where the cubic with the values and slopes of two points has its minimum from low to high; else in the middle."""
    d1 = a.slope + b.slope - 3.0 * (a.f - b.f) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    if not square >= 0.0:
        return 0.5 * (low + high)
    d2 = np.sqrt(square) if b.t > a.t else -np.sqrt(square)
    t = b.t - (b.t - a.t) * (b.slope + d2 - d1) / (b.slope - a.slope + 2.0 * d2)
    return min(max(t, low), high) if np.isfinite(t) else 0.5 * (low + high)


@helper
def probe(t, p, params, grads, state, row, hyperparameters, param_ranges, objective):
    """The point at step t, to where the parameters and gradients go."""
    axpy(p, at(state, DIRECTION * row), t, at(state, START * row), params)
    found, f, _, _ = evaluate(params, grads, hyperparameters, param_ranges, objective)
    if found in (BAD_PREDICTION, BAD_INDEX):  # so long a step leaves where the loss is defined
        return OK, Point(t, np.inf, 0.0)
    return found, Point(t, f, np.float64(dot(p, grads, at(state, DIRECTION * row))))


@helper
def search(t, begin, p, params, grads, state, row, hyperparameters, param_ranges, objective, most):
    """A step that satisfies the strong Wolfe conditions, or the best found. Status, point and evaluations."""
    low = high = before = begin
    bracketed, used, found = False, 0, OK
    while used < most and not bracketed:
        found, now = probe(t, p, params, grads, state, row, hyperparameters, param_ranges, objective)
        used += 1
        if found != OK:
            return found, now, used
        if not now.f <= begin.f + ARMIJO * t * begin.slope or (used > 1 and now.f >= before.f):
            low, high, bracketed = before, now, True
        elif abs(now.slope) <= -CURVATURE * begin.slope:
            return found, now, used
        elif now.slope >= 0.0:
            low, high, bracketed = now, before, True
        else:
            # the cubic may point anywhere: go on by a hundredth of the last stride at least, tenfold at most
            t, before, low = cubic_minimum(before, now, t + 0.01 * (t - before.t), 10.0 * t), now, now
    while used < most and bracketed:
        wide = abs(high.t - low.t)
        if wide * largest(p, at(state, DIRECTION * row)) < 1e-9:
            break
        # neither end again, nor close to it
        least, far = min(low.t, high.t) + 0.1 * wide, max(low.t, high.t) - 0.1 * wide
        t = cubic_minimum(low, high, least, far)
        found, now = probe(t, p, params, grads, state, row, hyperparameters, param_ranges, objective)
        used += 1
        if found != OK:
            return found, now, used
        if not now.f <= begin.f + ARMIJO * t * begin.slope or now.f >= low.f:
            high = now
        else:
            if abs(now.slope) <= -CURVATURE * begin.slope:
                return found, now, used
            if now.slope * (high.t - low.t) >= 0.0:
                high = low
            low = now
    found, now = probe(low.t, p, params, grads, state, row, hyperparameters, param_ranges, objective)
    return found, now, used + 1


@helper
def direct(p, pairs, memory, grads, state, row, alphas):
    """The direction d = −H g from the pairs, the latest of which is number pairs − 1; alphas is to work with."""
    d = at(state, DIRECTION * row)
    axpy(p, grads, -2.0, grads, d)  # −g
    oldest = max(0, pairs - memory)
    for k in range(pairs - 1, oldest - 1, -1):
        s, y = at(state, (PAIRS + k % memory) * row), at(state, (PAIRS + memory + k % memory) * row)
        alphas[k - oldest] = dot(p, s, d) / dot(p, s, y)
        axpy(p, y, -alphas[k - oldest], d, d)
    if pairs > oldest:
        k = (pairs - 1) % memory
        s, y = at(state, (PAIRS + k) * row), at(state, (PAIRS + memory + k) * row)
        scale = np.float64(dot(p, s, y)) / dot(p, y, y)
        axpy(p, d, scale - 1.0, d, d)
    for k in range(oldest, pairs):
        s, y = at(state, (PAIRS + k % memory) * row), at(state, (PAIRS + memory + k % memory) * row)
        beta = dot(p, y, d) / dot(p, s, y)
        axpy(p, s, alphas[k - oldest] - beta, d, d)


@compiled_kernel(
    lambda dtype: RESULTS(
        types.CPointer(dtype),
        types.CPointer(dtype),
        objective_type(dtype),
        readonly(types.float64, 1),
        readonly(types.float64, 2),
        types.CPointer(dtype),
        types.int64,
        types.int64,
        types.Array(types.int64, 1, "A", aligned=False),
    ),
    optional=True,
)
def lbfgs(params, grads, objective, hyperparameters, param_ranges, state, memory, row, count):
    """Up to MAX_ITER iterations; count has how many there were, and how many pairs. The loss before them.

    One that fails changes nothing, and ends the step: with its status if it is the first.
    """
    alphas, before = np.empty(memory), count[0]  # first of all, as there may be no memory
    p = objective.program[0, PARAMETERS]
    found, f, value, total = evaluate(params, grads, hyperparameters, param_ranges, objective)
    used = 1
    if not np.isfinite(np.float64(dot(p, grads, grads))):
        return found, np.nan, np.nan  # there is no step, and the loss alone would not show it
    for _ in range(np.int64(hyperparameters[MAX_ITER])):
        if found != OK or not largest(p, grads) > hyperparameters[TOLERANCE_GRAD] or used >= hyperparameters[MAX_EVAL]:
            break
        direct(p, count[1], memory, grads, state, row, alphas)
        d, g0, start = at(state, DIRECTION * row), at(state, GRADIENT * row), at(state, START * row)
        slope = np.float64(dot(p, grads, d))
        if not slope < -hyperparameters[TOLERANCE_CHANGE]:
            break
        axpy(p, grads, 0.0, grads, g0)
        axpy(p, params, 0.0, params, start)
        t = hyperparameters[LR]
        if count[1] == 0:
            size = 0.0
            for j in range(p):
                size += abs(np.float64(read(at(grads, j * itemsize(grads)))))
            t *= min(1.0, 1.0 / size)
        most = min(SEARCH, np.int64(hyperparameters[MAX_EVAL]) - used)
        found, now, some = search(
            t, Point(0.0, f, slope), p, params, grads, state, row, hyperparameters, param_ranges, objective, most
        )
        if found != OK:
            axpy(p, start, 0.0, start, params)
            return found if count[0] == before else OK, value, total
        used += some
        count[0] += 1
        if now.t * (now.slope - slope) > NEGLIGIBLE:  # sᵀy
            s = at(state, (PAIRS + count[1] % memory) * row)
            axpy(p, d, now.t - 1.0, d, s)
            axpy(p, g0, -1.0, grads, at(s, memory * row))
            count[1] += 1
        change, f = abs(now.f - f), now.f
        if change < hyperparameters[TOLERANCE_CHANGE] or now.t * largest(p, d) <= hyperparameters[TOLERANCE_CHANGE]:
            break
    return found, value, total
