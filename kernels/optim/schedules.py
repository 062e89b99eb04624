"""Schedules: the learning rate η of an update from the number t of updates, or epochs, before it.

With the base rate b, PyTorch's closed forms:

    step             η = b γ^⌊t / s⌋                              A = s, B = γ
    multi-step       η = b γ^(milestones at or before t)          A = their number, B = γ, C = where they are
    exponential      η = b γᵗ                                     B = γ
    cosine           η = c + (b − c) (1 + cos(π t / T)) / 2       A = T, B = c
    warm restarts    the same from 0 on after T, T + T M, … for T, T M, T M², …         A = T, B = c, C = M
    one-cycle        from b / D to b, then to b / D / F           A = total steps, B = b or 0, C = share of the rise,
                                                                  D, E = F, F = linear?, G = three phases?
    linear           η = b (s + (e − s) min(t / T, 1))            A = T, B = s, C = e

and those of RealMLP, with u = min(t / T, 1):

    flat cosine      η = b for u < 1/2, then b (1 + cos(π (2 u − 1))) / 2               A = T
    cosine of log    η = b (1 − cos(2 π log₂(1 + (2ᶜ − 1) u))) / 2                      A = T, B = c

A warm-up comes before any of them: η = b (s + (1 − s) t / w) for t < w; the others then begin at t = w.

Other options than the learning rate have schedules too, each in numbers of its own behind the hyperparameters, with
b = 1: a share that the option is multiplied by.
"""

import numpy as np
from numba import types

from fastfc.kernels.runtime.native import on_demand_kernel
from fastfc.kernels.simd.compiler import helper

# The hyperparameters begin with these. If EPOCH is set, t counts epochs: there were EPOCHS of them when
# SINCE updates were done, and then each had STEPS_PER_EPOCH updates.
# MULTI_STEP has C as the place of its milestones, counted from LR.
LR, SCHEDULE, A, B, C, D, E, F, G, WARMUP, START, EPOCH, STEPS_PER_EPOCH, SINCE, EPOCHS, N_NUMBERS = range(16)
CONSTANT, STEP, MULTI_STEP, EXPONENTIAL, COSINE, RESTARTS, ONE_CYCLE, LINEAR, FLAT_COSINE, COS_LOG = range(10)


@helper
def between(start, end, share, linear):
    """From start to end as share goes from 0 to 1."""
    return start + (end - start) * (share if linear != 0.0 else (1.0 - np.cos(np.pi * share)) / 2.0)


@helper
def one_cycle(hyperparameters, base, t):
    first, last = base / hyperparameters[D], base / hyperparameters[D] / hyperparameters[E]
    top, end, linear = hyperparameters[C] * hyperparameters[A] - 1.0, hyperparameters[A] - 1.0, hyperparameters[F]
    down, low = (2.0 * top, first) if hyperparameters[G] != 0.0 else (end, last)
    if t < top:
        return between(first, base, t / top, linear)
    if t < down:
        return between(base, low, (t - top) / (down - top), linear)
    return between(low, last, min(1.0, (t - down) / (end - down)), linear) if end > down else last


@helper
def epochs(hyperparameters, t):
    """Finished epochs after t updates."""
    return hyperparameters[EPOCHS] + (t - hyperparameters[SINCE]) // max(1.0, hyperparameters[STEPS_PER_EPOCH])


@helper
def rate(like, hyperparameters, factor, t):
    """The learning rate after t updates, of parameters whose base rate is so many times the optimizer's."""
    if hyperparameters[SCHEDULE] == CONSTANT and hyperparameters[WARMUP] == 0.0:
        return hyperparameters[LR] * factor
    return scheduled_rate(like, hyperparameters, np.int64(0), factor, t)


@helper
def scheduled_share(like, hyperparameters, place, t):
    """What an option is multiplied by after t updates; hyperparameters[place] is where its schedule is, 0 for none."""
    first = np.int64(hyperparameters[place])
    return scheduled_rate(like, hyperparameters, first, 1.0, t) if first > 0 else 1.0


@on_demand_kernel(
    lambda dtype: types.float64(
        types.CPointer(dtype),
        types.Array(types.float64, 1, "A", readonly=True, aligned=False),
        types.int64,
        *[types.float64] * 2,
    )
)
def scheduled_rate(like, hyperparameters, first, factor, t):
    """`rate`, by the schedule whose numbers begin at `first`."""
    numbers = hyperparameters[first:]
    base, schedule = numbers[LR] * factor, numbers[SCHEDULE]
    if numbers[EPOCH] != 0.0:
        t = epochs(hyperparameters, t)
    if t < numbers[WARMUP]:
        return base * between(numbers[START], 1.0, t / numbers[WARMUP], 1.0)
    t -= numbers[WARMUP]
    if schedule == STEP:
        return base * numbers[B] ** (t // numbers[A])
    if schedule == MULTI_STEP:
        passed = 0.0
        for i in range(int(numbers[A])):
            passed += numbers[int(numbers[C]) + i] <= t
        return base * numbers[B] ** passed
    if schedule == EXPONENTIAL:
        return base * numbers[B] ** t
    if schedule == COSINE:
        return between(base, numbers[B], t / numbers[A], 0.0)
    if schedule == RESTARTS:
        length = numbers[A]
        if numbers[C] == 1.0:
            t -= t // length * length
        while t >= length:
            t, length = t - length, length * numbers[C]
        return between(base, numbers[B], t / length, 0.0)
    if schedule == ONE_CYCLE:
        return one_cycle(numbers, numbers[B] * factor if numbers[B] > 0.0 else base, t)
    if schedule == LINEAR:
        return base * between(numbers[B], numbers[C], min(t / numbers[A], 1.0), 1.0)
    if schedule == FLAT_COSINE:
        return between(base, 0.0, max(2.0 * min(t / numbers[A], 1.0) - 1.0, 0.0), 0.0)
    if schedule == COS_LOG:
        cycles = np.log(1.0 + (2.0 ** numbers[B] - 1.0) * min(t / numbers[A], 1.0)) / np.log(2.0)
        return between(0.0, base, 2.0 * cycles, 0.0)
    return base
