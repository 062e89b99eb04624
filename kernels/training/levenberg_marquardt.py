"""Levenberg–Marquardt: least squares by a model that is linear in the parameters, trusted as far as it has held.

With residuals r = y(w) − target and J = ∂r/∂w, which has a row for each sample and output,

    (Jᵀ J + λ I) δ = Jᵀ r        w ← w − δ

if that makes Σ r² less, and then λ falls by ten; else λ grows by ten and δ is computed anew. (Hagan and Menhaj,
"Training feedforward networks with the Marquardt algorithm", 1994.) The system is solved by Cholesky's factors.
"""

from collections import namedtuple

import numpy as np
from numba import types
from numba.extending import register_jitable

from fastfc.kernels.ops.activation_rules import NONE
from fastfc.kernels.ops.gemm import product
from fastfc.kernels.ops.level1 import dot
from fastfc.kernels.ops.loss_rules import MSE
from fastfc.kernels.ops.loss_table import LossColumn
from fastfc.kernels.ops.losses import RESULTS
from fastfc.kernels.ops.matrix import contiguous_matrix, element, rows_from, transposed, zeros
from fastfc.kernels.optim.update import RULE
from fastfc.kernels.program.interpreter import Context, Memory, run_backward, run_forward, saved_batch
from fastfc.kernels.program.table import BATCH_NORM, DROPOUT, Column, Header, Value
from fastfc.kernels.runtime.native import compiled_kernel
from fastfc.kernels.runtime.status import BAD_INDEX, OK
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import at, itemsize, read, write
from fastfc.kernels.training.lbfgs import axpy, clear_untrained, copy
from fastfc.kernels.training.objective import (
    EQUATIONS,
    ask_evaluator,
    evaluate_gradient,
    n_parameters,
    problem_type,
)

# hyperparameters, behind the numbers that all optimizers have
DAMPING, GROWTH, MAX_DAMPING = range(RULE, RULE + 3)
MIN_DAMPING = 1e-20
# Rows of J that are computed before they are added to Jᵀ J.
ROWS = 64


@register_jitable
def rows(p, o):
    """Rows of the state for p parameters and o outputs."""
    return 2 * p + 3 + ROWS * o + -(-ROWS * o // max(p, 1))


# Where in the state everything is, and matrices of it: Jᵀ J and its factor (p, p), Jᵀ r (p, 1), the parameters before,
# and ROWS samples' rows of J and residuals.
Equations = namedtuple("Equations", ["square", "factor", "right", "before", "jacobian", "residuals"])


@helper
def are_residuals(program, losses):
    """Whether the loss is a sum of squares, to which each sample contributes by itself alone."""
    alone = losses.shape[0] == 1 and losses[0, LossColumn.CODE] == MSE and losses[0, LossColumn.MEMBERS] == 1
    for s in range(1, 1 + program[0, Header.N_OPS]):
        alone = alone and program[s, Column.OP] != BATCH_NORM and program[s, Column.OP] != DROPOUT
    return alone


@helper
def equations(problem):
    """The state by parts; the caller made it large enough, see `rows`."""
    p, size, state = n_parameters(problem.objective), itemsize(problem.state), problem.state
    o = problem.objective.context.program[0, Header.OUTPUTS]
    right, jacobian = at(state, 2 * p * p * size), at(state, (2 * p * p + 2 * p) * size)
    residuals = at(jacobian, ROWS * o * p * size)
    return Equations(state, at(state, p * p * size), right, at(right, p * size), jacobian, residuals)


@helper
def one_sample(context, i):
    """The same network and the sample i alone; its output goes to the workspace."""
    workspace = context.memory.workspace
    _, output, _, _ = saved_batch(context.program, 1, workspace)
    memory = Memory(rows_from(context.memory.x, i), output, workspace)
    return Context(context.params, context.program, memory, 1, 0, context.rng_step, 1.0, 1, 1)


@helper
def add_rows(problem, jacobian, residuals, first, n):
    """Rows of J and residuals of n samples from the first one on, times the root of a sample's weight."""
    objective, program, size = problem.objective, problem.objective.context.program, itemsize(jacobian)
    p, o, status = n_parameters(objective), program[0, Header.OUTPUTS], OK
    grad_output, output, _, _ = saved_batch(program, 1, objective.context.memory.workspace)
    for i in range(n):
        context, target = one_sample(objective.context, first + i), rows_from(objective.target, first + i)
        gradients = Memory(context.memory.x, grad_output, context.memory.workspace)
        status = max(status, run_forward(context, Value.TRAINING))
        scale = np.sqrt(np.float64(objective.weights[first + i])) if objective.weights.size else 1.0
        for j in range(o):
            row = at(jacobian, (i * o + j) * p * size)
            for k in range(o):
                write(element(grad_output, 0, k), scale if k == j else 0.0)
            status = max(status, run_backward(context, row, gradients, 0, 0))
            clear_untrained(p, row, problem.param_ranges)
            difference = np.float64(read(element(output, 0, j))) - np.float64(read(element(target, 0, j)))
            write(at(residuals, (i * o + j) * size), scale * difference)
    return status


@helper
def add_products(problem, parts):
    """Jᵀ J and Jᵀ r, over blocks of samples. Returns a status."""
    objective, status = problem.objective, OK
    p, o = n_parameters(objective), objective.context.program[0, Header.OUTPUTS]
    square, right = contiguous_matrix(parts.square, p), contiguous_matrix(parts.right, 1)
    square_start, right_start = zeros(square), zeros(right)
    for first in range(0, objective.context.n, ROWS):
        n = min(ROWS, objective.context.n - first)
        status = max(status, add_rows(problem, parts.jacobian, parts.residuals, first, n))
        j, r = contiguous_matrix(parts.jacobian, p), contiguous_matrix(parts.residuals, 1)
        status = max(status, product(square, transposed(j), j, square_start, p, p, n * o, NONE, square))
        status = max(status, product(right, transposed(j), r, right_start, p, 1, n * o, NONE, right))
        square_start, right_start = square, right
    return status


@helper
def evaluate_equations(problem, parts):
    """Jᵀ J and Jᵀ r. Returns a status."""
    if problem.evaluator == 0:
        return add_products(problem, parts)
    return np.int64(ask_evaluator(problem, EQUATIONS))


@helper
def factorise(p, matrix, damping, factor):
    """The lower triangle L with L Lᵀ = matrix + damping I; whether there is one."""
    size = itemsize(factor)
    for i in range(p):
        for j in range(i + 1):
            row_i, row_j = at(factor, i * p * size), at(factor, j * p * size)
            value = np.float64(read(at(matrix, (i * p + j) * size))) + (damping if i == j else 0.0)
            value -= dot(j, row_i, row_j)
            if i != j:
                write(at(row_i, j * size), value / read(at(row_j, j * size)))
            elif value > 0.0:
                write(at(row_i, j * size), np.sqrt(value))
            else:
                return False
    return True


@helper
def solve(p, factor, vector):
    """vector = (L Lᵀ)⁻¹ vector"""
    size = itemsize(factor)
    for i in range(p):
        row = at(factor, i * p * size)
        value = (read(at(vector, i * size)) - dot(i, row, vector)) / read(at(row, i * size))
        write(at(vector, i * size), value)
    for i in range(p - 1, -1, -1):
        row = at(factor, i * p * size)
        value = read(at(vector, i * size)) / read(at(row, i * size))
        write(at(vector, i * size), value)
        axpy(i, row, -value, vector, vector)


@compiled_kernel(
    lambda dtype: RESULTS(problem_type(dtype), types.Array(types.int64, 1, "A", aligned=False)), optional=True
)
def levenberg_marquardt(problem, count):
    """One iteration; count has how many there were, and the bits of λ. The loss before."""
    params, grads, hyperparameters = problem.objective.context.params, problem.grads, problem.hyperparameters
    p, parts = n_parameters(problem.objective), equations(problem)
    status, value, total = evaluate_gradient(problem)
    if status == OK:
        status = evaluate_equations(problem, parts)
    if status != OK:
        return status, value, total
    damping = np.int64(count[1]).view(np.float64) if count[0] else hyperparameters[DAMPING]
    copy(p, params, parts.before)
    better = False
    # steps that are shorter and shorter, until one makes the loss less
    while not better and damping <= hyperparameters[MAX_DAMPING]:
        if factorise(p, parts.square, damping, parts.factor):
            copy(p, parts.right, grads)
            solve(p, parts.factor, grads)
            axpy(p, grads, -1.0, parts.before, params)
            status, now, _ = evaluate_gradient(problem)
            if status not in (OK, BAD_INDEX):  # so long a step may leave where the network is defined
                copy(p, parts.before, params)
                return status, value, total
            better = status == OK and now < value
        damping *= 1.0 / hyperparameters[GROWTH] if better else hyperparameters[GROWTH]
    if not better:
        copy(p, parts.before, params)
    count[0] += 1
    count[1] = np.float64(max(damping, MIN_DAMPING)).view(np.int64)
    return OK, value, total
