"""Numerical gradients, and the check of `backward` against them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfc.kernels.program.interpreter import embeddings_of_x
from fastfc.losses.base import Loss, evaluate
from fastfc.nn.layer import Layer
from fastfc.training.samples import prepare
from fastfc.training.step import check_loss
from fastfc.validation import FLOATS, as_floats, positive_number


def numerical_gradient(
    f: Callable[[NDArray[Any]], float], w: NDArray[Any], eps: float | None = None
) -> NDArray[np.float64]:
    """Gradient of f at w by central differences, (f(w + h eᵢ) − f(w − h eᵢ)) / 2h for each entry i.

    Parameters
    ----------
    f : callable
        f(w) is a number. It is called twice per entry of w.
    w : writable float32 or float64 array
        Changed in place entry by entry, so f may also reach it by another name, and restored exactly.
        Use float64: in float32 only about three digits of the gradient are right.
    eps : float, optional
        h = eps · max(1, |wᵢ|). By default the cube root of the dtype's machine epsilon, 6e-6 in float64,
        which balances the error of the formula, O(h²), with that of rounding, O(ε / h).

    Returns
    -------
    float64 array of w's shape

    Raises
    ------
    TypeError
        If w is not a writable array of floating-point numbers.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> w = np.array([1.0, 2.0, 3.0])
    >>> fc.numerical_gradient(lambda w: (w**2).sum(), w).round(6)
    array([2., 4., 6.])
    """
    if not isinstance(w, np.ndarray) or w.dtype not in FLOATS or not w.flags.writeable:
        got = f"dtype {w.dtype}" if isinstance(w, np.ndarray) else type(w).__name__
        raise TypeError(f"numerical_gradient: w must be a writable float array, got {got}; use np.array(w, np.float64)")
    if eps is None:
        eps = float(np.finfo(w.dtype).eps) ** (1 / 3)
    eps = positive_number(eps, "numerical_gradient", "eps")
    gradient = np.empty(w.shape)
    for i in np.ndindex(w.shape):
        old = w[i]
        h = eps * max(1.0, abs(float(old)))
        try:
            w[i] = old + h
            above, f_above = float(w[i]), float(f(w))
            w[i] = old - h
            below, f_below = float(w[i]), float(f(w))
        finally:
            w[i] = old
        if above == below:
            raise ValueError(f"numerical_gradient: eps={eps} is too small to change {old!r}")
        gradient[i] = (f_above - f_below) / (above - below)
    return gradient


class GradientCheck(NamedTuple):
    """One row of a report: the gradient with respect to one array."""

    name: str
    shape: tuple[int, ...]
    absolute: float
    relative: float
    ok: bool


class GradientReport(list[GradientCheck]):
    """Result of `check_gradients`: a list of rows, true if all are ok, a table as a string."""

    def __bool__(self) -> bool:
        return all(row.ok for row in self)

    def __str__(self) -> str:
        table = [("gradient of", "shape", "max error", "relative", "")]
        for row in self:
            shape, verdict = "x".join(map(str, row.shape)), "ok" if row.ok else "WRONG"
            table.append((row.name, shape, f"{row.absolute:.1e}", f"{row.relative:.1e}", verdict))
        first, second = (max(len(line[i]) for line in table) for i in (0, 1))
        lines = (f"{a:<{first}}  {b:>{second}}  {c:>9}  {d:>8}  {e}" for a, b, c, d, e in table)
        return "\n".join(line.rstrip() for line in lines)

    __repr__ = __str__


def check_gradients(
    network: Layer,
    x: ArrayLike,
    target: ArrayLike | None = None,
    loss: Loss | None = None,
    *,
    tolerance: float = 1e-6,
    eps: float | None = None,
    seed: int = 0,
) -> GradientReport:
    """Compare `backward` with central differences, for every parameter and for the input.

    Works in float64 on copies: the network, its gradients and x stay as they are. The number
    differentiated is loss(network.forward(x), target), or without a loss Σ r ⊙ forward(x) with fixed
    normal random r. Columns of x that hold indices for an Embedding are left out. Cost: two forward passes
    per parameter and per entry of x, so use small ones.

    Parameters
    ----------
    network : Sequential or Layer
    x : (n, in_features) array of real numbers
        Choose it such that no ReLU sits within eps of its kink at 0.
    target, loss : optional
        Both or neither.
    tolerance : float
        A gradient is ok if its largest error is at most this, relative to its largest entry, or within
        rounding of the differences.
    eps : float, optional
        See `numerical_gradient`.
    seed : int
        For r.

    Returns
    -------
    GradientReport
        True if all is ok; print it for a table. Its rows have name, shape, absolute, relative, ok.

    Raises
    ------
    TypeError, ValueError
        For something that is neither a network nor a layer, or x and target that do not fit it.

    Examples
    --------
    >>> import fastfc as fc
    >>> net = fc.MLP([3, 4, 2], activation="tanh", seed=0)
    >>> bool(fc.check_gradients(net, [[1, 2, 3], [4, 5, 6]]))
    True
    """
    if not isinstance(network, Layer):
        raise TypeError(f"check_gradients: give a network or layer object, got {network!r}")
    if (target is None) != (loss is None):
        raise TypeError("check_gradients: give both target and loss, or neither")
    if loss is not None:
        check_loss(loss)
    tolerance = positive_number(tolerance, "check_gradients", "tolerance")
    network = copy.deepcopy(network)
    network.convert_to(np.float64)
    x = as_floats(x, np.float64, network, "x").copy()
    value_and_grad = objective(network, x, target, loss, seed)
    value, grad_output = value_and_grad()
    input_grad = network.backward(grad_output)
    rounding = 1e-9 * max(1.0, abs(value))
    arrays = [*network.named_parameters(), ("input", x, input_grad)]
    indices = embeddings_of_x(network.program_for(x).table)
    report = GradientReport()
    for name, array, grad in arrays:
        if array is x and indices:  # which have no neighbours to take differences with
            numeric = grad.copy()
            for j in range(x.shape[1]):
                if not any(first <= j < first + columns for first, columns, _, _ in indices):
                    numeric[:, j] = numerical_gradient(lambda _: value_and_grad()[0], x[:, j], eps)
        else:
            numeric = numerical_gradient(lambda _: value_and_grad()[0], array, eps)
        absolute = float(np.max(np.abs(grad - numeric), initial=0))
        scale = float(max(np.max(np.abs(grad), initial=0), np.max(np.abs(numeric), initial=0)))
        relative = absolute / scale if absolute else 0.0
        ok = absolute <= tolerance * scale + rounding
        report.append(GradientCheck(name, array.shape, absolute, relative, ok))
    return report


def objective(
    network: Layer, x: NDArray[Any], target: ArrayLike | None, loss: Loss | None, seed: int
) -> Callable[[], tuple[float, NDArray[Any]]]:
    """A function that gives the number to be differentiated and its gradient with respect to the output."""

    def forward() -> Any:
        network.rng_step = 0  # the same masks of Dropout each time
        return network.forward(x)

    if loss is None or target is None:
        r = np.random.default_rng(seed).standard_normal(forward().shape)
        return lambda: (float((r * forward()).sum()), r)
    data = prepare(network, x, target, loss)

    def value_and_grad() -> tuple[float, NDArray[Any]]:
        output = forward()
        grad = np.empty_like(output)
        arrays = output, data.target, data.labels, data.weights, data.losses, output[:0, 0], grad
        return evaluate(loss, *arrays), grad

    return value_and_grad
