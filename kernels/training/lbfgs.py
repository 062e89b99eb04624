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
from fastfc.kernels.optim.update import DECAY, RULE, bounds, decay_of
from fastfc.kernels.runtime.native import compiled_kernel
from fastfc.kernels.runtime.status import BAD_INDEX, BAD_PREDICTION, OK
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import at, itemsize, read, write
from fastfc.kernels.simd.vector import fma, load_first, store_first, width
from fastfc.kernels.training.objective import evaluate_gradient, n_parameters, problem_type

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
    """out = a x + y, for contiguous vectors"""
    size, lanes = itemsize(x), width(x)
    for j in range(0, count, lanes):
        rest, p = count - j, j * size
        store_first(at(out, p), fma(load_first(at(x, p), rest, 0.0), a, load_first(at(y, p), rest, 0.0)), rest)


@helper
def copy(count, x, out):
    """out = x"""
    axpy(count, x, 0.0, x, out)


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
def state_row(problem, i):
    return at(problem.state, i * problem.row)


@helper
def evaluate(problem):
    """Status, f and its gradient, with weight decay; the loss and its part of an epoch's, without.

    The gradient of what is in no range is 0.
    """
    objective, grads, param_ranges = problem.objective, problem.grads, problem.param_ranges
    p, size = n_parameters(objective), itemsize(grads)
    status, value, total = evaluate_gradient(problem)
    f = value
    clear_untrained(p, grads, param_ranges)
    for i in range(param_ranges.shape[0]):
        first, last = bounds(param_ranges, i, p)
        decay = decay_of(problem.hyperparameters, param_ranges[i, DECAY])
        if decay != 0.0:
            w, g = at(objective.context.params, first * size), at(grads, first * size)
            f += 0.5 * decay * dot(last - first, w, w)
            axpy(last - first, w, decay, g, g)
    return status, f, value, total


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
def probe(problem, t):
    """The point at step t, to where the parameters and gradients go."""
    p, d = n_parameters(problem.objective), state_row(problem, DIRECTION)
    axpy(p, d, t, state_row(problem, START), problem.objective.context.params)
    status, f, _, _ = evaluate(problem)
    if status in (BAD_PREDICTION, BAD_INDEX):  # so long a step leaves where the loss is defined
        return OK, Point(t, np.inf, 0.0)
    return status, Point(t, f, np.float64(dot(p, problem.grads, d)))


@helper
def search(problem, t, begin, most):
    """A step that satisfies the strong Wolfe conditions, or the best one. Status, point and evaluations."""
    d = state_row(problem, DIRECTION)
    low = high = before = begin
    bracketed, used, status = False, 0, OK
    # algorithm 3.5: longer steps, until an interval holds a minimum
    while used < most and not bracketed:
        status, now = probe(problem, t)
        used += 1
        if status != OK:
            return status, now, used
        if not now.f <= begin.f + ARMIJO * t * begin.slope or (used > 1 and now.f >= before.f):
            low, high, bracketed = before, now, True
        elif abs(now.slope) <= -CURVATURE * begin.slope:
            return status, now, used
        elif now.slope >= 0.0:
            low, high, bracketed = now, before, True
        else:
            # the cubic may point anywhere: go on by a hundredth of the last stride at least, tenfold at most
            t, before, low = cubic_minimum(before, now, t + 0.01 * (t - before.t), 10.0 * t), now, now
    # algorithm 3.6: smaller intervals
    while used < most and bracketed:
        distance = abs(high.t - low.t)
        if distance * largest(n_parameters(problem.objective), d) < 1e-9:
            break
        # neither end again, nor close to it
        nearest, farthest = min(low.t, high.t) + 0.1 * distance, max(low.t, high.t) - 0.1 * distance
        t = cubic_minimum(low, high, nearest, farthest)
        status, now = probe(problem, t)
        used += 1
        if status != OK:
            return status, now, used
        if not now.f <= begin.f + ARMIJO * t * begin.slope or now.f >= low.f:
            high = now
        else:
            if abs(now.slope) <= -CURVATURE * begin.slope:
                return status, now, used
            if now.slope * (high.t - low.t) >= 0.0:
                high = low
            low = now
    status, now = probe(problem, low.t)
    return status, now, used + 1


@helper
def direct(problem, pairs, memory, alphas):
    """The direction d = −H g from the pairs, the latest of which is number pairs − 1; alphas is to work with."""
    p, d, oldest = n_parameters(problem.objective), state_row(problem, DIRECTION), max(0, pairs - memory)
    axpy(p, problem.grads, -2.0, problem.grads, d)  # −g
    for k in range(pairs - 1, oldest - 1, -1):
        s, y = state_row(problem, PAIRS + k % memory), state_row(problem, PAIRS + memory + k % memory)
        alphas[k - oldest] = dot(p, s, d) / dot(p, s, y)
        axpy(p, y, -alphas[k - oldest], d, d)
    if pairs > oldest:
        k = (pairs - 1) % memory
        s, y = state_row(problem, PAIRS + k), state_row(problem, PAIRS + memory + k)
        scale = np.float64(dot(p, s, y)) / dot(p, y, y)
        axpy(p, d, scale - 1.0, d, d)
    for k in range(oldest, pairs):
        s, y = state_row(problem, PAIRS + k % memory), state_row(problem, PAIRS + memory + k % memory)
        beta = dot(p, y, d) / dot(p, s, y)
        axpy(p, s, alphas[k - oldest] - beta, d, d)


@helper
def first_step(problem):
    """The step that a line search begins with as long as nothing is known of the curvature, over LR."""
    size = 0.0
    for j in range(n_parameters(problem.objective)):
        size += abs(np.float64(read(at(problem.grads, j * itemsize(problem.grads)))))
    return min(1.0, 1.0 / size)


@helper
def remember_pair(problem, number, memory, t):
    """s = t d and y = g − g₀, over the oldest pair."""
    p, s = n_parameters(problem.objective), state_row(problem, PAIRS + number % memory)
    d = state_row(problem, DIRECTION)
    axpy(p, d, t - 1.0, d, s)
    axpy(p, state_row(problem, GRADIENT), -1.0, problem.grads, at(s, memory * problem.row))


@compiled_kernel(
    lambda dtype: RESULTS(problem_type(dtype), types.int64, types.Array(types.int64, 1, "A", aligned=False)),
    optional=True,
)
def lbfgs(problem, memory, count):
    """Up to MAX_ITER iterations; count has how many there were, and how many pairs. The loss before them.

    One that fails changes nothing, and ends the step: with its status if it is the first.
    """
    alphas, before = np.empty(memory), count[0]  # first of all, as there may be no memory
    params, grads, hyperparameters = problem.objective.context.params, problem.grads, problem.hyperparameters
    p, d = n_parameters(problem.objective), state_row(problem, DIRECTION)
    status, f, value, total = evaluate(problem)
    used = 1
    if not np.isfinite(np.float64(dot(p, grads, grads))):
        return status, np.nan, np.nan  # there is no step, and the loss alone would not show it
    for _ in range(np.int64(hyperparameters[MAX_ITER])):
        converged = not largest(p, grads) > hyperparameters[TOLERANCE_GRAD]
        if status != OK or converged or used >= hyperparameters[MAX_EVAL]:
            break
        direct(problem, count[1], memory, alphas)
        slope = np.float64(dot(p, grads, d))
        if not slope < -hyperparameters[TOLERANCE_CHANGE]:
            break
        copy(p, grads, state_row(problem, GRADIENT))
        copy(p, params, state_row(problem, START))
        t = hyperparameters[LR] * (first_step(problem) if count[1] == 0 else 1.0)
        most = min(SEARCH, np.int64(hyperparameters[MAX_EVAL]) - used)
        status, now, evaluations = search(problem, t, Point(0.0, f, slope), most)
        if status != OK:
            copy(p, state_row(problem, START), params)
            return status if count[0] == before else OK, value, total
        used += evaluations
        count[0] += 1
        if now.t * (now.slope - slope) > NEGLIGIBLE:  # sᵀy
            remember_pair(problem, count[1], memory, now.t)
            count[1] += 1
        change, f = abs(now.f - f), now.f
        if change < hyperparameters[TOLERANCE_CHANGE] or now.t * largest(p, d) <= hyperparameters[TOLERANCE_CHANGE]:
            break
    return status, value, total
