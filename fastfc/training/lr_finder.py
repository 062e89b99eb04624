"""`find_lr`: which learning rates a network can be trained with, a method of every network."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfc.kernels.runtime.native import one_piece
from fastfc.kernels.training import step as step_kernels
from fastfc.training.samples import Data, check_finite, prepare, refuse_not_finite
from fastfc.training.step import check_loss_and_optimizer, load_for, step_on
from fastfc.validation import as_generator, positive_int, positive_number

if TYPE_CHECKING:
    from fastfc.losses.base import Loss
    from fastfc.optim.base import Optimizer

SMOOTHING = 0.9  # of the losses, each a mean of the ones before it with weights that fall by this factor
FIRST = 10  # steps, in which the mean only sets in
DIVERGED = 4  # times the least loss: larger rates are of no interest


class NotFinite(ValueError, FloatingPointError):
    """Samples that are not finite: a ValueError as in `fit`, and the FloatingPointError of earlier versions."""


class LearningRates(NamedTuple):
    """Result of `find_lr`.

    Attributes
    ----------
    rates, losses : (k,) float64 arrays
        The rates tried, rising, and the smoothed loss after a step with each.
    suggestion : float
        A tenth of the rate at which the loss is least.
    """

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    suggestion: float

    def plot(self, title: str = "Learning rates") -> Any:
        """A picture of loss against rate, a matplotlib.figure.Figure; needs the extra `fastfc[plot]`."""
        from fastfc import plots

        return plots.learning_rates(self.rates, self.losses, self.suggestion, title)

    def save_plot(self, path: Any) -> None:
        """Write the picture; the file's ending decides its format: .png, .svg, .pdf."""
        self.plot().savefig(path, dpi=120)


def find_lr(
    network: Any,
    x: Any,
    y: Any,
    loss: Loss,
    optimizer: Optimizer,
    *,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int = 100,
    batch_size: int = 32,
    seed: int | np.random.Generator | None = None,
) -> LearningRates:
    """Train a copy of the network with a learning rate that grows from step to step, and see where the loss falls.

    The network and the optimizer stay as they are; the optimizer's schedules play no part.

    Parameters
    ----------
    x, y, loss, optimizer, batch_size, seed
        As for `fit`.
    lowest, highest : float
        The first and the last rate. The run ends earlier if the loss grows to four times its least value, is infinite
        or not a number, or is not defined; that loss is not part of the result.
    steps : int
        The number of rates, each the same multiple of the one before.

    Returns
    -------
    LearningRates

    Raises
    ------
    TypeError, ValueError
        For bad input, such as samples that are infinite or not a number.
    FloatingPointError
        If the first loss is infinite or not a number, though the samples are finite.

    References
    ----------
    L. Smith, "Cyclical learning rates for training neural networks", WACV 2017, section 3.3.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> x = np.linspace(-1, 1, 64)[:, None]
    >>> net = fc.MLP([1, 8, 1], seed=0)
    >>> result = net.find_lr(x, x**2, fc.MSELoss(), fc.SGD(), seed=0)
    >>> 1e-4 < result.suggestion < 1
    True
    """
    lowest, highest = (positive_number(rate, "find_lr", "each rate") for rate in (lowest, highest))
    if highest <= lowest:
        raise ValueError(f"find_lr: highest must be more than lowest, got {highest} and {lowest}")
    steps = positive_int(steps, "find_lr", "steps")
    batch_size = positive_int(batch_size, "find_lr", "batch_size")
    check_loss_and_optimizer(loss, optimizer)
    optimizer.check_network(network)
    if optimizer.full_batch:
        raise TypeError(f"find_lr: {optimizer} finds the size of its steps by itself; call fit")
    with one_piece():
        data = prepare(network, x, y, loss, columns=network.columns())
        load_for(data, optimizer, step_kernels.train_step)
    network, optimizer = copy.deepcopy(network), copy.deepcopy(optimizer)
    optimizer.schedule = optimizer.schedules = None
    rng = as_generator(seed, "find_lr")
    rows = np.concatenate([rng.permutation(data.n) for _ in range(-(-steps * batch_size // data.n))])
    rates = np.geomspace(lowest, highest, steps)
    batches = (rows[i * batch_size : (i + 1) * batch_size] for i in range(steps))
    losses = smoothed_losses(network, data, loss, optimizer, zip(rates, batches, strict=True))
    check_finite(data, "find_lr: {}")  # what no loss has shown
    first = min(FIRST, len(losses) - 1)
    return LearningRates(rates[: len(losses)], losses, float(rates[first + np.argmin(losses[first:])] / 10))


def smoothed_losses(
    network: Any, data: Data, loss: Loss, optimizer: Optimizer, steps: Iterable[tuple[float, NDArray[np.int64]]]
) -> NDArray[np.float64]:
    """The smoothed loss after a step with each rate on each batch, until it diverges.

    The mean m ← βm + (1 − β)L begins at 0, so it is divided by 1 − βᵗ.
    """
    losses: list[float] = []
    mean = 0.0
    for i, (optimizer.lr, rows) in enumerate(steps):
        try:
            value, _ = step_on(network, data.rows(rows), loss, optimizer)
        except ValueError:  # so high a rate has led to where the loss is not defined
            if i == 0:
                raise
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        losses.append(mean / (1 - SMOOTHING ** (i + 1)))
        if not np.isfinite(value):
            refuse_samples(data, value, i)
        if not losses[i] <= DIVERGED * min(losses):  # NaN is not
            del losses[max(i, 1) :]
            break
    return np.array(losses)


def refuse_samples(data: Data, value: float, i: int) -> None:
    """Raise if the loss of step i is not finite because of the samples, or already before the first step."""
    when = "before the first step" if i == 0 else f"in step {i + 1}"
    try:
        refuse_not_finite(data, f"find_lr: the loss is {value} {when}: {{}}")
    except ValueError as error:
        raise NotFinite(str(error)) from None
    if i == 0:
        raise FloatingPointError(
            f"find_lr: the loss is {value} before the first step, though x and y are finite; bring them to mean 0 "
            "and spread 1, or make a new network"
        )
