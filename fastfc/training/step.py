"""One training step: the arguments of the native call, and the plan by which the next step skips all checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfc.kernels.runtime.native import DTYPES, compile_or_load_all, one_piece
from fastfc.kernels.training import step as step_kernels
from fastfc.losses.base import Loss, kernels_of
from fastfc.nn.lowering import Program
from fastfc.optim.base import Optimizer
from fastfc.training.samples import Data, explain_refused, prepare

if TYPE_CHECKING:
    from fastfc.nn.container import Container


class StepPlan(NamedTuple):
    """What a step on arrays of the same kind passes to the kernel, as long as no version has changed.

    Attributes
    ----------
    versions : tuple of ints
        Of the network, the loss and the optimizer: each setter raises them.
    kinds : tuple
        Shapes and dtypes of x and y, which need no conversion.
    of_classes : bool
        Whether y is classes.
    table, empty, rest
        Arguments of the kernel: x, table, and y and empty in the order of `of_classes`, rest. Then the threads.
    work : int
        Multiplications of the step; 0 if they are for one thread.
    counters : (2,) int64 array
        Of the network; a step invalidates what `forward` saved.
    """

    versions: tuple[int, int, int]
    kinds: tuple[Any, ...]
    of_classes: bool
    table: NDArray[np.int64]
    empty: NDArray[Any]
    rest: tuple[Any, ...]
    work: int
    counters: NDArray[np.int64]


def train_step(
    network: Container, x: ArrayLike, y: ArrayLike, loss: Loss, optimizer: Optimizer, sample_weight: Any
) -> tuple[float, StepPlan | None]:
    """The loss of a step with all conversions and checks, and the plan of the next one if it needs none of them."""
    check_loss_and_optimizer(loss, optimizer)
    arrays = type(x) is np.ndarray and type(y) is np.ndarray
    columns = None if arrays else network.columns(learning=network.input_names() is None)
    with one_piece():
        data = prepare(network, x, y, loss, sample_weight, columns=columns, values=False)
        load_for(data, optimizer, step_kernels.train_step)
    value, arguments = step_on(network, data, loss, optimizer)
    if columns is not None:
        network.learn_names(columns.inputs, columns.targets)
    return value, plan_of(network, data, loss, optimizer, arguments) if data.y is y else None


def load_for(data: Data, optimizer: Optimizer, *kernels: Any) -> None:
    """Compile or load kernels that train, and what they need for this loss and this optimizer."""
    dtype = DTYPES[data.x.dtype]
    with one_piece():
        compile_or_load_all([*kernels, *kernels_of(data.losses, data.labels.size > 0)], dtype)
        optimizer.load([dtype])


def step_on(network: Container, data: Data, loss: Loss, optimizer: Optimizer) -> tuple[float, tuple[Any, ...]]:
    """The loss of a step on prepared samples, and what the kernel got."""
    arguments = kernel_arguments(network, data.program, data, optimizer, data.n)
    try:
        value = network.run(step_kernels.train_step, data.program.work(3 * data.n), *arguments, optimizer.code)
    except ValueError:
        explain_refused(network, data, loss)
        raise
    return value, arguments


def kernel_arguments(
    network: Container, program: Program, data: Data, optimizer: Optimizer, batch_size: int
) -> tuple[Any, ...]:
    """What the native functions take for training on this data in batches of this size."""
    vector, grads = network.vectors(data.x.dtype)
    state, segments = optimizer.prepare(network)
    workspace, counters = network.workspace_for(program, batch_size, data.x.dtype)
    samples = data.x, program.table, data.target, data.labels, data.weights, data.losses
    return *samples, optimizer.hyper, segments, vector, grads, state, optimizer.count, workspace, counters


def plan_of(
    network: Container, data: Data, loss: Loss, optimizer: Optimizer, arguments: tuple[Any, ...]
) -> StepPlan | None:
    """The plan of steps on samples like these; None if they need weights or several inputs."""
    of_classes = data.labels.size > 0
    y, empty = (data.labels, data.target) if of_classes else (data.target, data.labels)
    if y is not data.y or data.weights.size or not network.one_input:
        return None
    versions, kinds = (network.version, loss.version, optimizer.version), (data.x.shape, data.x.dtype, y.shape, y.dtype)
    work, rest = data.program.work(3 * data.n), (*arguments[4:], optimizer.code)
    if network.is_serial(work):
        work, rest = 0, (*rest, 1, 1)
    return StepPlan(versions, kinds, of_classes, data.program.table, empty, rest, work, arguments[-1])


def check_loss_and_optimizer(loss: Loss, optimizer: Optimizer) -> None:
    check_loss(loss)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be an object such as SGD(lr=0.1), got {optimizer!r}")
    optimizer.check_loss(loss)


def check_loss(loss: Any) -> None:
    if not isinstance(loss, Loss):
        several = "MultiLoss([...]), for several outputs" if isinstance(loss, tuple | list) else "MSELoss()"
        raise TypeError(f"loss must be an object such as {several}, got {loss!r}")
    loss.check_scalar()
