"""Optimizers: one pass over the flat vectors of parameters p and gradients g = dL/dp, in place.

With weight decay λ, g stands for g + λ p below, but where p is scaled first. t counts the steps from 1 on. All but
Lion are PyTorch's rules, to rounding.

    SGD       v = μ v + (1 − δ) g, but v = g in the first step     p −= η v, by Nesterov p −= η (g + μ v)
    Adam      m += (1 − β₁)(g − m)    v = β₂ v + (1 − β₂) g²       p −= η / (1 − β₁ᵗ) m / (√(v / (1 − β₂ᵗ)) + ε)
    AdamW     the same after p *= 1 − η λ, without λ in g          amsgrad: with the largest v so far instead of v
    RMSprop   v = α v + (1 − α) g²    a += (1 − α)(g − a), if centered, and v − a² instead of v
              b = μ b + g / (√v + ε)                               p −= η b
    Adagrad   v += g²                                              p −= η / (1 + (t − 1) d) g / (√v + ε)
    Lion      after p *= 1 − η λ      m = β₂ m + (1 − β₂) g        p −= η sign(β₁ m + (1 − β₁) g), m from before

A rule is a function of registers, from p, g and up to three vectors that the optimizer remembers to their new values;
what is the same for all parameters comes as a tuple of numbers, made of the hyperparameters once in a step.
"""

import numpy as np
from numba import njit, types
from numba.extending import overload

from fastfc.kernels.edge import BAD_SHAPE, NO_STATE, OK, OVERLAP, check, kernel, named_after, overlaps
from fastfc.kernels.simd import (
    at,
    copysign,
    fma,
    itemsize,
    load,
    load_first,
    pointer,
    splat,
    square_root,
    store,
    store_first,
    where_less,
    width,
)


@njit
def sgd_rule(p, g, v, s, u, numbers):
    lr, momentum, fresh, nesterov, decay, _, _, _ = numbers
    g = fma(p, decay, g)
    v = fma(v, momentum, g * fresh)
    return fma(fma(v, momentum, g) if nesterov != 0.0 else v, -lr, p), v, s, u


@njit
def adam_moments(p, g, m, v, numbers):
    _, decay, new_m, keep_v, new_v, _, _, _ = numbers
    g = fma(p, decay, g)
    return fma(g - m, new_m, m), fma(v, keep_v, g * g * new_v)


@njit
def adam_step(p, m, v, numbers):
    shrink, _, _, _, _, size, scale, eps = numbers
    return fma(m / fma(square_root(v), scale, eps), -size, p * shrink)


@njit
def adam_rule(p, g, m, v, s, numbers):
    m, v = adam_moments(p, g, m, v, numbers)
    return adam_step(p, m, v, numbers), m, v, s


@njit
def amsgrad_rule(p, g, m, v, largest, numbers):
    m, v = adam_moments(p, g, m, v, numbers)
    largest = where_less(largest, v, v, largest)
    return adam_step(p, m, largest, numbers), m, v, largest


def rmsprop_by(centered):
    def rule(p, g, v, b, a, numbers):
        lr, alpha, eps, decay, momentum, _, _, _ = numbers
        g = fma(p, decay, g)
        v = fma(v, alpha, g * g * (1.0 - alpha))
        a = fma(g - a, 1.0 - alpha, a) if centered else a
        b = fma(b, momentum, g / (square_root(v - a * a if centered else v) + eps))
        return fma(b, -lr, p), v, b, a

    return njit(named_after(rule, centered))


@njit
def adagrad_rule(p, g, v, s, u, numbers):
    lr, eps, decay, _, _, _, _, _ = numbers
    g = fma(p, decay, g)
    v = fma(g, g, v)
    return fma(g / (square_root(v) + eps), -lr, p), v, s, u


@njit
def lion_rule(p, g, m, s, u, numbers):
    lr, shrink, keep, new, keep_m, new_m, _, _ = numbers
    direction = fma(m, keep, g * new)
    size = copysign(splat(p, lr), direction)
    size = where_less(direction, 0.0, size, where_less(0.0, direction, size, direction))
    return p * shrink - size, fma(m, keep_m, g * new_m), s, u


def one_pass(rule, rows):
    """Parameters and state, which has so many rows, by a rule."""

    def run(count, grads, params, state, row, numbers):
        size, lanes = itemsize(params), width(params)
        # masks halve the speed of memory: they are for the rest only
        whole = count - count % lanes
        for j in range(0, whole * size, lanes * size):
            p, s = at(params, j), at(state, j)
            x = load(s) if rows > 0 else load(p)
            y = load(at(s, row)) if rows > 1 else x
            z = load(at(s, 2 * row)) if rows > 2 else x
            new, x, y, z = rule(load(p), load(at(grads, j)), x, y, z, numbers)
            store(p, new)
            if rows > 0:
                store(s, x)
            if rows > 1:
                store(at(s, row), y)
            if rows > 2:
                store(at(s, 2 * row), z)
        some, end = count - whole, whole * size
        if some > 0:
            p, s = at(params, end), at(state, end)
            x = load_first(s, some, 0.0) if rows > 0 else load_first(p, some, 0.0)
            y = load_first(at(s, row), some, 0.0) if rows > 1 else x
            z = load_first(at(s, 2 * row), some, 0.0) if rows > 2 else x
            new, x, y, z = rule(load_first(p, some, 0.0), load_first(at(grads, end), some, 0.0), x, y, z, numbers)
            store_first(p, new, some)
            if rows > 0:
                store_first(s, x, some)
            if rows > 1:
                store_first(at(s, row), y, some)
            if rows > 2:
                store_first(at(s, 2 * row), z, some)

    return njit(named_after(run, rule, rows))


SGD, ADAM, AMSGRAD, RMSPROP, RMSPROP_CENTERED, ADAGRAD, LION = range(7)
ROWS = (1, 2, 3, 2, 3, 1, 1)  # of state; SGD without momentum needs none
HYPER = (5, 6, 6, 5, 5, 4, 4)  # numbers in hyper
sgd_pass, momentum_pass = one_pass(sgd_rule, 0), one_pass(sgd_rule, 1)
adam_pass, amsgrad_pass = one_pass(adam_rule, 2), one_pass(amsgrad_rule, 3)
rmsprop_pass, rmsprop_centered_pass = one_pass(rmsprop_by(centered=False), 2), one_pass(rmsprop_by(centered=True), 3)
adagrad_pass, lion_pass = one_pass(adagrad_rule, 1), one_pass(lion_rule, 1)


@njit
def adam_numbers(hyper, t):
    lr, beta1, beta2, eps, decay, decoupled = hyper[0], hyper[1], hyper[2], hyper[3], hyper[4], hyper[5]
    shrink, decay = (1.0 - lr * decay, 0.0) if decoupled != 0.0 else (1.0, decay)
    size, scale = lr / (1.0 - beta1**t), 1.0 / np.sqrt(1.0 - beta2**t)
    return shrink, decay, 1.0 - beta1, beta2, 1.0 - beta2, size, scale, eps


@kernel("grads[p], hyper:float64[h] -> params[p], state[r, p], count:int64[one]", types.int64)
def update(grads, hyper, params, state, count, optimizer):
    """One step of an optimizer on contiguous vectors; count[0] is the number of steps."""
    if grads.size != params.size or count.size != 1 or hyper.size != HYPER[optimizer]:
        return BAD_SHAPE
    rows = 0 if optimizer == SGD and hyper[1] == 0.0 else ROWS[optimizer]
    if state.shape[0] < rows or (rows and state.shape[1] != params.size):
        return NO_STATE
    n, t, row = params.size, count[0] + 1.0, state.strides[0]
    g, p, s = pointer(grads), pointer(params), pointer(state)
    if optimizer == SGD:
        lr, momentum, dampening, nesterov, decay = hyper[0], hyper[1], hyper[2], hyper[3], hyper[4]
        numbers = lr, momentum, 1.0 if t == 1.0 else 1.0 - dampening, nesterov, decay, 0.0, 0.0, 0.0
        if rows == 0:
            sgd_pass(n, g, p, s, row, numbers)
        else:
            momentum_pass(n, g, p, s, row, numbers)
    elif optimizer == ADAM:
        adam_pass(n, g, p, s, row, adam_numbers(hyper, t))
    elif optimizer == AMSGRAD:
        amsgrad_pass(n, g, p, s, row, adam_numbers(hyper, t))
    elif optimizer in (RMSPROP, RMSPROP_CENTERED):
        numbers = hyper[0], hyper[1], hyper[2], hyper[3], hyper[4], 0.0, 0.0, 0.0
        if optimizer == RMSPROP:
            rmsprop_pass(n, g, p, s, row, numbers)
        else:
            rmsprop_centered_pass(n, g, p, s, row, numbers)
    elif optimizer == ADAGRAD:
        lr, lr_decay, eps, decay = hyper[0], hyper[1], hyper[2], hyper[3]
        adagrad_pass(n, g, p, s, row, (lr / (1.0 + (t - 1.0) * lr_decay), eps, decay, 0.0, 0.0, 0.0, 0.0, 0.0))
    elif optimizer == LION:
        lr, beta1, beta2, decay = hyper[0], hyper[1], hyper[2], hyper[3]
        lion_pass(n, g, p, s, row, (lr, 1.0 - lr * decay, beta1, 1.0 - beta1, beta2, 1.0 - beta2, 0.0, 0.0))
    else:
        return NO_STATE
    count[0] += 1
    return OK


@kernel("grads[p] -> params[p], velocity[v]", types.float64, types.float64, types.float64)
def _sgd(grads, params, velocity, lr, momentum, weight_decay):
    if grads.size != params.size or (momentum != 0.0 and velocity.size != params.size):
        return BAD_SHAPE
    if overlaps(grads, params) or overlaps(grads, velocity) or overlaps(params, velocity):
        return OVERLAP
    numbers = lr, momentum, 1.0, 0.0, weight_decay, 0.0, 0.0, 0.0
    size, count = params.itemsize, params.size
    unit = params.strides[0] == size and grads.strides[0] == size and velocity.strides[0] == size
    # elements that are not neighbours are taken one by one, as vectors of one
    step = count if unit else 1
    for j in range(0, count, max(step, 1)):
        g, p = at(pointer(grads), j * grads.strides[0]), at(pointer(params), j * params.strides[0])
        if momentum != 0.0:
            momentum_pass(step, g, p, at(pointer(velocity), j * velocity.strides[0]), 0, numbers)
        else:
            sgd_pass(step, g, p, p, 0, numbers)
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
