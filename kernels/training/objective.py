"""The loss of a network on some samples, and its gradient: forward, loss, backward."""

from collections import namedtuple

import numpy as np
from numba import types

from fastfc.kernels.ops.losses import RESULTS, evaluate_losses, readonly
from fastfc.kernels.ops.matrix import matrix_type
from fastfc.kernels.program.interpreter import Memory, context_type, run_backward, run_forward, saved_batch
from fastfc.kernels.program.table import Header, Value
from fastfc.kernels.runtime.linkage import call_at
from fastfc.kernels.runtime.native import compiled_kernel
from fastfc.kernels.runtime.status import OK
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import vector, view

# What the loss depends on: the network and its samples (context), a matrix of numeric targets with so many columns,
# classes sample by sample, the samples' weights or none, the table of losses, and the share of label smoothing. All
# memory is the caller's.
Objective = namedtuple("Objective", ["context", "target", "columns", "labels", "weights", "losses", "smoothing"])

# What an optimizer minimises that evaluates the objective as often as it likes: pointers to the gradients and to its
# state, whose rows are `row` bytes apart; how it goes about it, and what is trained. `evaluator` is 0, or the place of
# the addresses of a function that evaluates the objective elsewhere, see call_at: of one of the numbers below, to what
# that asks for.
Problem = namedtuple("Problem", ["objective", "grads", "state", "row", "hyperparameters", "param_ranges", "evaluator"])
# Evaluate the gradient, or Jᵀ J and Jᵀ r, where they belong: a status. The loss of that gradient, and its part of an
# epoch's.
GRADIENT, EQUATIONS, VALUE, TOTAL = range(4)


def objective_type(dtype):
    return types.NamedTuple(
        [
            context_type(dtype),
            matrix_type(dtype),
            types.int64,
            readonly(types.int64, 1),
            readonly(dtype, 1),
            readonly(types.float64, 2),
            types.float64,
        ],
        Objective,
    )


def problem_type(dtype):
    pointer, tables = types.CPointer(dtype), [readonly(types.float64, 1), readonly(types.float64, 2)]
    return types.NamedTuple([objective_type(dtype), pointer, pointer, types.int64, *tables, types.int64], Problem)


@helper
def n_parameters(objective):
    return objective.context.program[0, Header.PARAMETERS]


@compiled_kernel(lambda dtype: RESULTS(objective_type(dtype), types.CPointer(dtype), types.int64))
def run_gradient(objective, grads, add):
    """Forward, loss and backward: grads, or what they add to. Returns a status, the loss and its part of an epoch's."""
    context, target, columns, labels, weights, losses, smoothing = objective
    memory, n, o = context.memory, context.n, context.program[0, Header.OUTPUTS]
    grad_output, _, _, _ = saved_batch(context.program, n, memory.workspace)
    status, value, total = run_forward(context, Value.TRAINING), 0.0, 0.0
    if status == OK:
        y, t, g = view(memory.output, n, o), view(target, n, columns), view(grad_output, n, o)
        values = vector(memory.workspace, 0)
        status, value, total = evaluate_losses(y, t, labels, weights, values, g, losses, smoothing)
    if status == OK:
        gradients = Memory(memory.x, grad_output, memory.workspace)
        status = run_backward(context, grads, gradients, 0, add)
    return status, value, total


@helper
def ask_evaluator(problem, what):
    place = np.int64(problem.evaluator).view(np.float64)
    return call_at(place, problem.grads, (np.int64(what),))


@helper
def evaluate_gradient(problem):
    """`run_gradient` of a problem's objective."""
    if problem.evaluator == 0:
        return run_gradient(problem.objective, problem.grads, 0)
    status = np.int64(ask_evaluator(problem, GRADIENT))
    return status, ask_evaluator(problem, VALUE), ask_evaluator(problem, TOTAL)
