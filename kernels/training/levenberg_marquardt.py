"""Levenberg–Marquardt: least squares by a model that is linear in the parameters, trusted as far as it has held.

With residuals r = y(w) − target and J = ∂r/∂w, which has a row for each sample and output,

    (Jᵀ J + λ I) δ = Jᵀ r        w ← w − δ

if that makes Σ r² less, and then λ falls by ten; else λ grows by ten and δ is computed anew. (Hagan and Menhaj,
"Training feedforward networks with the Marquardt algorithm", 1994.) The system is solved by Cholesky's factors.
"""

import numpy as np
from numba import types
from numba.extending import register_jitable

from fastfc.kernels.ops.activation_rules import NONE
from fastfc.kernels.ops.gemm import product
from fastfc.kernels.ops.level1 import dot
from fastfc.kernels.ops.loss_rules import CODE, MSE
from fastfc.kernels.ops.losses import RESULTS
from fastfc.kernels.ops.matrix import element, transposed, zeros
from fastfc.kernels.optim.update import RULE
from fastfc.kernels.program.interpreter import dense, row, run_backward, run_forward, saved
from fastfc.kernels.program.table import BATCH_NORM, DROPOUT, N_OPS, OP, OUTPUTS, PARAMETERS, TRAINING
from fastfc.kernels.runtime.native import compiled_kernel
from fastfc.kernels.runtime.status import BAD_INDEX, OK
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import at, itemsize, read, write
from fastfc.kernels.training.lbfgs import axpy, clear_untrained
from fastfc.kernels.training.objective import objective_type, readonly, run_gradient

# hyperparameters, behind the numbers that all optimizers have
DAMPING, GROWTH, MOST = range(RULE, RULE + 3)
LEAST = 1e-20  # damping
# Rows of J that are computed before they are added to Jᵀ J.
ROWS = 64


@register_jitable
def rows(p, o):
    """Rows of the state for p parameters and o outputs."""
    return 2 * p + 3 + ROWS * o + -(-ROWS * o // max(p, 1))


@helper
def are_residuals(program, losses):
    """Whether the loss is a sum of squares, to which each sample contributes by itself alone."""
    alone = losses.shape[0] == 1 and losses[0, CODE] == MSE
    for s in range(1, 1 + program[0, N_OPS]):
        alone = alone and program[s, OP] != BATCH_NORM and program[s, OP] != DROPOUT
    return alone


@helper
def add_rows(params, objective, param_ranges, jacobian, residuals, first, some):
    """Rows of J and residuals of some samples from the first one on, times the root of a sample's weight."""
    program, workspace, o, size = (
        objective.program,
        objective.workspace,
        objective.program[0, OUTPUTS],
        itemsize(params),
    )
    p, found = objective.program[0, PARAMETERS], OK
    grad_output, output, _, _ = saved(program, 1, workspace)
    for i in range(some):
        x, target = row(objective.x, first + i), row(objective.target, first + i)
        found = max(found, run_forward(params, program, x, output, workspace, 1, TRAINING, objective.rng_step, 1, 1))
        scale = np.sqrt(np.float64(objective.weights[first + i])) if objective.weights.size else 1.0
        for j in range(o):
            here = at(jacobian, (i * o + j) * p * size)
            for k in range(o):
                write(element(grad_output, 0, k), scale if k == j else 0.0)
            one = run_backward(
                params, here, program, x, output, x, grad_output, workspace, 1, 0, objective.rng_step, 0, 1, 1
            )
            found = max(found, one)
            clear_untrained(p, here, param_ranges)
            difference = np.float64(read(element(output, 0, j))) - np.float64(read(element(target, 0, j)))
            write(at(residuals, (i * o + j) * size), scale * difference)
    return found


@helper
def factorise(p, matrix, damping, factor):
    """The lower triangle L with L Lᵀ = matrix + damping I; whether there is one."""
    size = itemsize(factor)
    for i in range(p):
        for j in range(i + 1):
            here, there = at(factor, i * p * size), at(factor, j * p * size)
            value = np.float64(read(at(matrix, (i * p + j) * size))) + (damping if i == j else 0.0)
            value -= dot(j, here, there)
            if i != j:
                write(at(here, j * size), value / read(at(there, j * size)))
            elif value > 0.0:
                write(at(here, j * size), np.sqrt(value))
            else:
                return False
    return True


@helper
def solve(p, factor, vector):
    """vector = (L Lᵀ)⁻¹ vector"""
    size = itemsize(factor)
    for i in range(p):
        here = at(factor, i * p * size)
        value = (read(at(vector, i * size)) - dot(i, here, vector)) / read(at(here, i * size))
        write(at(vector, i * size), value)
    for i in range(p - 1, -1, -1):
        here = at(factor, i * p * size)
        value = read(at(vector, i * size)) / read(at(here, i * size))
        write(at(vector, i * size), value)
        axpy(i, here, -value, vector, vector)


@compiled_kernel(
    lambda dtype: RESULTS(
        types.CPointer(dtype),
        types.CPointer(dtype),
        objective_type(dtype),
        readonly(types.float64, 1),
        readonly(types.float64, 2),
        types.CPointer(dtype),
        types.Array(types.int64, 1, "A", aligned=False),
    ),
    optional=True,
)
def levenberg_marquardt(params, grads, objective, hyperparameters, param_ranges, state, count):
    """One iteration; count has how many there were, and the bits of λ. The loss before.

    state: Jᵀ J, its factor, Jᵀ r, the parameters before, then ROWS samples' rows of J and their residuals.
    """
    p, o, n, size = objective.program[0, PARAMETERS], objective.program[0, OUTPUTS], objective.n, itemsize(params)
    found, value, total = run_gradient(params, grads, objective, 0)
    if found != OK:
        return found, value, total
    square, factor = state, at(state, p * p * size)
    right = at(state, 2 * p * p * size)
    before, block = at(right, p * size), at(right, 2 * p * size)
    residuals = at(block, ROWS * o * p * size)
    whole, column = dense(p, p, square), dense(p, 1, right)
    start, begin = zeros(whole), zeros(column)
    for first in range(0, n, ROWS):
        some = min(ROWS, n - first)
        found = max(found, add_rows(params, objective, param_ranges, block, residuals, first, some))
        j, r = dense(some * o, p, block), dense(some * o, 1, residuals)
        found = max(found, product(whole, transposed(j), j, start, p, p, some * o, NONE, whole))
        found = max(found, product(column, transposed(j), r, begin, p, 1, some * o, NONE, column))
        start, begin = whole, column
    if found != OK:
        return found, value, total
    damping = np.int64(count[1]).view(np.float64) if count[0] else hyperparameters[DAMPING]
    axpy(p, params, 0.0, params, before)
    better = False
    while not better and damping <= hyperparameters[MOST]:
        if factorise(p, square, damping, factor):
            axpy(p, right, 0.0, right, grads)
            solve(p, factor, grads)
            axpy(p, grads, -1.0, before, params)
            found, now, _ = run_gradient(params, grads, objective, 0)
            if found not in (OK, BAD_INDEX):  # so long a step may leave where the network is defined
                axpy(p, before, 0.0, before, params)
                return found, value, total
            better = found == OK and now < value
        damping *= 1.0 / hyperparameters[GROWTH] if better else hyperparameters[GROWTH]
    if not better:
        axpy(p, before, 0.0, before, params)
    count[0] += 1
    count[1] = np.float64(max(damping, LEAST)).view(np.int64)
    return OK, value, total
