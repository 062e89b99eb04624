"""The loss of a network on some samples, and its gradient: forward, loss, backward."""

from collections import namedtuple

from numba import types

from fastfc.kernels.ops.losses import RESULTS, evaluate_losses
from fastfc.kernels.ops.matrix import matrix_type
from fastfc.kernels.program.interpreter import run_backward, run_forward, saved
from fastfc.kernels.program.table import OUTPUTS, TRAINING, table_type
from fastfc.kernels.runtime.native import compiled_kernel
from fastfc.kernels.runtime.status import OK
from fastfc.kernels.simd.memory import vector, view

# What the loss depends on besides the parameters: x and target are matrices of n rows, target of so many columns;
# draw numbers the masks of Dropout.
Objective = namedtuple(
    "Objective",
    [
        "program",
        "x",
        "target",
        "columns",
        "labels",
        "weights",
        "losses",
        "workspace",
        "n",
        "rng_step",
        "n_threads",
        "min_work",
    ],
)


def readonly(dtype, ndim):
    return types.Array(dtype, ndim, "A", readonly=True, aligned=False)


def objective_type(dtype):
    workspace, number = types.CPointer(dtype), types.int64
    return types.NamedTuple(
        [
            table_type(),
            matrix_type(dtype),
            matrix_type(dtype),
            number,
            readonly(types.int64, 1),
            readonly(dtype, 1),
            readonly(types.float64, 2),
            workspace,
            *[number] * 4,
        ],
        Objective,
    )


@compiled_kernel(
    lambda dtype: RESULTS(types.CPointer(dtype), types.CPointer(dtype), objective_type(dtype), types.int64)
)
def run_gradient(params, grads, objective, add):
    """Forward, loss and backward: grads, or what they add to. Returns a status, the loss and its part of an epoch's."""
    program, x, target, columns, labels, weights, losses, workspace, n, rng_step, n_threads, min_work = objective
    o = program[0, OUTPUTS]
    grad_output, output, _, _ = saved(program, n, workspace)
    found, value, total = (
        run_forward(params, program, x, output, workspace, n, TRAINING, rng_step, n_threads, min_work),
        0.0,
        0.0,
    )
    if found == OK:
        y, t, nowhere, g = view(output, n, o), view(target, n, columns), vector(workspace, 0), view(grad_output, n, o)
        found, value, total = evaluate_losses(y, t, labels, weights, nowhere, g, losses)
    if found == OK:
        found = run_backward(
            params, grads, program, x, output, x, grad_output, workspace, n, 0, rng_step, add, n_threads, min_work
        )
    return found, value, total
