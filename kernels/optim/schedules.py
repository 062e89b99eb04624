"""Schedules: the learning rate η of an update from the number t of updates, or epochs, before it.

With the base rate b, PyTorch's closed forms:

    step             η = b γ^⌊t / s⌋                              A = s, B = γ
    multi-step       η = b γ^(milestones at or before t)          B = γ, and the milestones, at the end
    exponential      η = b γᵗ                                     B = γ
    cosine           η = c + (b − c) (1 + cos(π t / T)) / 2       A = T, B = c
    warm restarts    the same from 0 on after T, T + T M, … for T, T M, T M², …         A = T, B = c, C = M
    one-cycle        from b / D to b, then to b / D / F           A = total steps, B = b or 0, C = share of the rise,
                                                                  D, E = F, F = linear?, G = three phases?

A warm-up comes before any of them: η = b (s + (1 − s) t / w) for t < w; the others then begin at t = w.
"""

import numpy as np
from numba import njit, types

from fastfc.kernels.runtime.native import on_demand_kernel
from fastfc.kernels.simd.compiler import helper

# The hyperparameters begin with these. If EPOCH is set, t counts epochs: there were EPOCHS of them when
# SINCE updates were done, and then each had STEPS_PER_EPOCH updates.
LR, SCHEDULE, A, B, C, D, E, F, G, WARMUP, START, EPOCH, STEPS_PER_EPOCH, SINCE, EPOCHS, N_NUMBERS = range(16)
CONSTANT, STEP, MULTI_STEP, EXPONENTIAL, COSINE, RESTARTS, ONE_CYCLE = range(7)


# Python computes rates, too: what `rate` calls is no helper.
@njit
def between(start, end, share, linear):
    """From start to end as share goes from 0 to 1."""
    return start + (end - start) * (share if linear != 0.0 else (1.0 - np.cos(np.pi * share)) / 2.0)


@njit
def one_cycle(hyperparameters, base, t):
    first, last = base / hyperparameters[D], base / hyperparameters[D] / hyperparameters[E]
    top, end, linear = hyperparameters[C] * hyperparameters[A] - 1.0, hyperparameters[A] - 1.0, hyperparameters[F]
    down, low = (2.0 * top, first) if hyperparameters[G] != 0.0 else (end, last)
    if t < top:
        return between(first, base, t / top, linear)
    if t < down:
        return between(base, low, (t - top) / (down - top), linear)
    return between(low, last, min(1.0, (t - down) / (end - down)), linear) if end > down else last


@njit
def epochs(hyperparameters, t):
    """Finished epochs after t updates."""
    return hyperparameters[EPOCHS] + (t - hyperparameters[SINCE]) // max(1.0, hyperparameters[STEPS_PER_EPOCH])


@helper
def rate(like, hyperparameters, factor, t):
    """The learning rate after t updates, of parameters whose base rate is so many times the optimizer's."""
    if hyperparameters[SCHEDULE] == CONSTANT and hyperparameters[WARMUP] == 0.0:
        return hyperparameters[LR] * factor
    return scheduled_rate(like, hyperparameters, factor, t)


@on_demand_kernel(
    lambda dtype: types.float64(
        types.CPointer(dtype), types.Array(types.float64, 1, "A", readonly=True, aligned=False), *[types.float64] * 2
    )
)
def scheduled_rate(like, hyperparameters, factor, t):
    """`rate`, by any schedule."""
    base, schedule = hyperparameters[LR] * factor, hyperparameters[SCHEDULE]
    if hyperparameters[EPOCH] != 0.0:
        t = epochs(hyperparameters, t)
    if t < hyperparameters[WARMUP]:
        return base * between(hyperparameters[START], 1.0, t / hyperparameters[WARMUP], 1.0)
    t -= hyperparameters[WARMUP]
    if schedule == STEP:
        return base * hyperparameters[B] ** (t // hyperparameters[A])
    if schedule == MULTI_STEP:
        passed = 0.0
        for i in range(int(hyperparameters[A])):
            passed += hyperparameters[hyperparameters.size - 1 - i] <= t
        return base * hyperparameters[B] ** passed
    if schedule == EXPONENTIAL:
        return base * hyperparameters[B] ** t
    if schedule == COSINE:
        return between(base, hyperparameters[B], t / hyperparameters[A], 0.0)
    if schedule == RESTARTS:
        length = hyperparameters[A]
        if hyperparameters[C] == 1.0:
            t -= t // length * length
        while t >= length:
            t, length = t - length, length * hyperparameters[C]
        return between(base, hyperparameters[B], t / length, 0.0)
    if schedule == ONE_CYCLE:
        return one_cycle(hyperparameters, hyperparameters[B] * factor if hyperparameters[B] > 0.0 else base, t)
    return base
