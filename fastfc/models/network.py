"""`Network`, what every network can do: train, save, plot, and become another library's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from numpy import ndarray
from numpy.typing import ArrayLike

from fastfc import html
from fastfc.kernels.runtime import threads
from fastfc.kernels.training import step as step_kernels
from fastfc.nn.container import Container
from fastfc.nn.layer import USED, explained_error
from fastfc.training import evaluation, fit, lr_finder, step
from fastfc.training.history import History
from fastfc.training.samples import explain_refused, prepare

if TYPE_CHECKING:
    from fastfc.losses.base import Loss
    from fastfc.optim.base import Optimizer


NUMERIC = 2  # columns of numbers in a summary, the last ones
KEPT_PLANS = 7  # plans of train_step beside the latest one


class Network(Container):
    """Base of the networks: layers whose parameters live in one flat vector, and their training."""

    _plan: step.StepPlan | None = None  # of the latest train_step
    _plans: Mapping[Any, step.StepPlan] = MappingProxyType({})  # of that and those before, by kinds of arrays

    fit = fit.fit

    evaluate = evaluation.evaluate

    find_lr = lr_finder.find_lr

    def __init__(self, in_features: int | None, out_features: int | None, n_threads: int | str = threads.AUTO) -> None:
        self._fix(in_features=in_features, out_features=out_features)
        self.history = History()
        self._make_vectors()
        if n_threads != threads.AUTO:  # which every layer has, unless it was given a number
            self.n_threads = n_threads

    def train_step(
        self, x: ArrayLike, y: ArrayLike, loss: Loss, optimizer: Optimizer, sample_weight: ArrayLike | None = None
    ) -> float:
        """One step on one batch: forward, loss, backward, update.

        Parameters
        ----------
        x : (n, in_features) array of real numbers
        y : the loss's target for these n samples
        loss : Loss
        optimizer : Optimizer
        sample_weight : (n,) array of numbers, optional
            At least 0 where the loss is a mean, which divides by their sum; of either sign with reduction="sum".

        Returns
        -------
        float
            The loss before the update.

        Raises
        ------
        TypeError, ValueError
            For bad input, such as a prediction that the loss is not defined for. Parameters, buffers and the
            optimizer's memory are unchanged then, whatever is raised; `grads` may have changed.

        Examples
        --------
        >>> import fastfc as fc
        >>> net = fc.MLP([2, 1], init="zeros")
        >>> net.train_step([[1, 2]], [[3]], fc.MSELoss(), fc.SGD(lr=0.1))
        9.0
        >>> net.params
        array([0.6, 1.2, 0.6], dtype=float32)
        """
        plan = self._plan
        if plan is not None and sample_weight is None and type(x) is ndarray and type(y) is ndarray:
            # the shortest way, for arrays like those of the latest steps
            kinds = x.shape, x.dtype, y.shape, y.dtype
            versions, planned_kinds, of_classes, table, empty, rest, work, counters = plan
            if kinds != planned_kinds and kinds in self._plans:
                versions, planned_kinds, of_classes, table, empty, rest, work, counters = self._plans[kinds]
            try:
                fits = kinds == planned_kinds and versions == (self.version, loss.version, optimizer.version)
            except AttributeError:  # not a loss, or not an optimizer
                fits = False
            if fits:
                counters[0] = USED
                target, labels = (empty, y) if of_classes else (y, empty)
                if work:
                    rest = *rest, threads.prepare_threads(self._n_threads, work), threads.MIN_RANGE_WORK
                try:
                    return step_kernels.train_step.call(x, table, target, labels, *rest)
                except ValueError as error:
                    explain_refused(self, prepare(self, x, y, loss, values=False), loss)
                    raise explained_error(error, self) from None
        value, plan = step.train_step(self, x, y, loss, optimizer, sample_weight)
        if plan is not None:
            self._keep_plan(plan)
        return value

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name not in ("_plan", "_plans")}

    def _keep_plan(self, plan: step.StepPlan) -> None:
        """Keep the plan of the latest step, and earlier ones that still hold: the last batch of an epoch is shorter."""
        others = [other for other in self._plans.values() if other.versions == plan.versions]
        self._plan = plan
        self._plans = {other.kinds: other for other in [*others[-KEPT_PLANS:], plan]}

    @property
    def history(self) -> History:
        """Of the latest `fit`."""
        return self._history

    @history.setter
    def history(self, value: History) -> None:
        if not isinstance(value, History):
            raise TypeError(f"{self}: history must be a History, got {value!r}")
        self._history = value

    def summary(self) -> str:
        """A table of the parts, the width of what they give and their numbers of parameters."""
        rows = self._rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        first = len(widths) - NUMERIC
        lines = [
            "  ".join(
                cell.ljust(width) if i < first else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        return "\n".join(lines + self._more())

    def _repr_html_(self) -> str:
        """The summary, for notebooks."""
        return html.table(self._rows(), NUMERIC, self._more())

    def _rows(self) -> list[tuple[str, ...]]:
        """The rows of the summary, the first with the heads of the columns; the last columns are numbers."""
        raise NotImplementedError

    def plot(self, path: Any = None) -> Any:
        """A diagram of the network: layers, shapes, parameters, and for a Graph its nodes and operations.

        What flows along an edge is (n, width) for n samples. After `backward`, `train_step` or `fit`, a layer also
        tells the Euclidean norm of the gradient of each of its parameters, |dL/d weight|, from `grads`: that of the
        latest batch, and for a layer with several uses the sum over them.

        Parameters
        ----------
        path : str or path-like, optional
            A file to write, ending in .svg, .png or .pdf; this needs Graphviz's program `dot`.

        Returns
        -------
        graphviz.Digraph
            A notebook shows it, if `dot` is installed; its text is `.source`.

        Raises
        ------
        ImportError
            Without the package graphviz, the extra `fastfc[graphviz]`.
        ValueError
            If path has another ending.
        RuntimeError
            If a path is given and `dot` is not installed.

        Examples
        --------
        >>> import fastfc as fc
        >>> diagram = fc.MLP([64, 128, 10]).plot()
        >>> "Linear(64, 128)" in diagram.source
        True
        """
        from fastfc.io import graphviz as diagram

        return diagram.draw(self, path)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        optimizer: Optimizer | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write everything to a safetensors file, for `load` and `load_checkpoint`. Needs `fastfc[safetensors]`.

        That is layers, parameters, buffers and history, and of the optimizer all that `fit` needs to go on as if it
        had never stopped: hyperparameters, state, schedule, and the order of samples of a `seed` that is a number.
        The file is written whole or not at all: a file of that name is replaced at the end. Gradients and `n_threads`
        are not part of it.

        Parameters
        ----------
        path : str or path-like
        optimizer : Optimizer, optional
        metadata : dict, optional
            Notes of your own: None, strings, numbers, and lists and dicts of them.

        Raises
        ------
        TypeError
            If a layer, the optimizer or the metadata can't be stored, as an Elementwise, which is code.
        """
        from fastfc.io import checkpoint as files

        files.save(self, path, optimizer, metadata)

    def to_torch(self) -> Any:
        """A torch.nn.Sequential of the same layers, with copies of the parameters. Needs `fastfc[torch]`.

        It is in eval mode, in which its output is that of `predict`. A Graph becomes a module of
        fastfc.io.torch_modules, as do the layers that torch.nn does not have; it takes a tensor for each input. All
        layers but Tied and an Elementwise can be converted.

        Raises
        ------
        TypeError
            Naming the layers that PyTorch has no counterpart for.
        """
        from fastfc.io import torch

        return torch.to_torch(self)

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Write the network as an ONNX model, which any runtime can run: what `predict` computes.

        Inputs are (batch, width), named as the `Input` nodes are, or "input" and "input_1", …; outputs are "output" or
        "output_0", …. Dropout is left out; BatchNorm1d takes its running statistics. ONNX Runtime runs all of it in
        float32; in float64 all but GELU("none"), as it has no such erf.

        Parameters
        ----------
        path : str or path-like
            Replaced if it exists, once the new file is complete.

        Raises
        ------
        ValueError
            Naming it, if a layer cannot be written: an Elementwise of your own function, a layer class of your own;
            or if there are more than 2 GB of parameters. Nothing is written then.

        References
        ----------
        Operators of opset 20 of https://onnx.ai/onnx/operators/

        Examples
        --------
        >>> import fastfc as fc
        >>> fc.MLP([4, 8, 3], output_activation="softmax").to_onnx("classifier.onnx")
        >>> fc.from_onnx("classifier.onnx")
        Sequential([Linear(4, 8), ReLU(), Linear(8, 3), Softmax()])
        """
        from fastfc.io.onnx.writer import to_onnx

        to_onnx(self, path)
