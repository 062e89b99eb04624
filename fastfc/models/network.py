"""`Network`, what every network can do: train, save, plot, and become another library's."""

from __future__ import annotations

import copy
import math
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastfc.attributes import OF_NETWORKS
from fastfc.data import columns
from fastfc.data.columns import Names
from fastfc.nn.layer import Layer, Parameter
from fastfc.training import fit as training
from fastfc.training import lr_finder
from fastfc.training.history import History
from fastfc.validation import as_floats, positive_int

if TYPE_CHECKING:
    from fastfc.optim.base import Optimizer


class Network(Layer):
    """Base of the networks: layers whose parameters live in one flat vector, and their training."""

    layers: tuple[Layer, ...]
    _input_shapes: tuple[tuple[int, ...], ...] | None = None

    _fixed: ClassVar[Mapping[str, str]] = {
        "in_features": "it is that of the layers; make a new network",
        "out_features": "it is that of the layers; make a new network",
        "layers": "the vectors are made of theirs; make a new network, such as Sequential([*net, Tanh()])",
        "dtype": "it is that of the layers; make a new network of layers with dtype=…",
    }
    _elsewhere = OF_NETWORKS
    _arrays = ()
    _input_names: tuple[Names | None, ...] | None = None  # of frames that we were fitted on, see columns.py
    _target_names: tuple[Names | None, ...] | None = None

    train_step = training.train_step
    fit = training.fit
    evaluate = training.evaluate
    find_lr = lr_finder.find_lr

    def __init__(self, in_features: int | None, out_features: int | None) -> None:
        self._fix(in_features=in_features, out_features=out_features)
        self.history = History()
        self._rehome()

    @property
    def dtype(self) -> np.dtype[Any] | None:
        return self._vector.dtype if self._vector.size else None

    @property
    def history(self) -> History:
        """Of the latest `fit`."""
        return self._history

    @history.setter
    def history(self, value: History) -> None:
        if not isinstance(value, History):
            raise TypeError(f"{self}: history must be a History, got {value!r}")
        self._history = value

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...] | None:
        """The shape of a sample of each input, where samples need not be rows; None where they are.

        `predict`, `forward`, `fit` and `evaluate` then take (n, *shape) too, and make it (n, features) in the order of
        memory. `from_onnx` sets it for models that take images, or one number for each sample: the shape ().

        Raises
        ------
        ValueError
            On assignment, if there is not one shape for each input, of as many numbers as it has features.
        """
        return self._input_shapes

    @input_shapes.setter
    def input_shapes(self, shapes: Iterable[Iterable[int]] | None) -> None:
        if shapes is not None:
            found = tuple(
                tuple(positive_int(size, self, "each size in input_shapes") for size in shape) for shape in shapes
            )
            widths = self._input_widths()
            if len(found) != len(widths) or any(
                width not in (None, math.prod(shape)) for width, shape in zip(widths, found, strict=True)
            ):
                raise ValueError(f"{self}: input_shapes {found} do not fit inputs of {widths} features")
            shapes = found
        self._input_shapes = shapes

    def forward(self, x: Any) -> Any:
        return super().forward(self._as_rows(x))

    def _as_rows(self, x: Any, i: int = 0) -> Any:
        """What is given for input i, with each sample as a row."""
        if self._input_shapes is None:
            return x
        shape, x = self._input_shapes[i], as_floats(x, self.dtype, self, "x")
        if x.ndim == 1 + len(shape) and x.shape[1:] == shape:
            return x.reshape(len(x), math.prod(shape))
        if x.ndim > 1 and x.shape == shape:
            return x.reshape(-1)
        if x.ndim > 2:
            sizes = "".join(f", {size}" for size in shape)
            raise ValueError(f"{self}: x has shape {x.shape}, expected (n{sizes}) or (n, {math.prod(shape)})")
        return x

    def named_parameters(self) -> list[tuple[str, NDArray[Any], NDArray[Any]]]:
        return [
            (f"{layer.name or i}.{name}", parameter, grad)
            for i, layer in enumerate(self.layers)
            for name, parameter, grad in layer.named_parameters()
        ]

    def named_buffers(self) -> list[tuple[str, NDArray[Any]]]:
        return [
            (f"{layer.name or i}.{name}", values)
            for i, layer in enumerate(self.layers)
            for name, values in layer.named_buffers()
        ]

    def _trained(self) -> list[Parameter]:
        parameters, start = [], 0
        for i, layer in enumerate([] if self.frozen else self.layers):
            for name, first, shape in layer._trained():
                parameters.append(Parameter(f"{layer.name or i}.{name}", start + first, shape))
            start += layer._params.size
        return parameters

    @property
    def feature_names(self) -> Any:
        """Names of the columns of the data frame that the network was fitted on, a list; None after arrays.

        A frame whose columns have other names or another order is refused. For a graph of several inputs, a list with
        the names of each. Assign names to have frames checked by them, None to forget them.
        """
        known = self._known_names()
        if known is None:
            return None
        lists = [None if names is None else list(names) for names in known]
        return lists[0] if self._one_input else lists

    @feature_names.setter
    def feature_names(self, names: Any) -> None:
        self._input_names, self._target_names = columns.as_names(names, self._input_widths()), None

    def _known_names(self) -> tuple[Names | None, ...] | None:
        return self._input_names

    def _input_widths(self) -> list[int | None]:
        return [self.in_features]

    def _look(self, x: Any) -> None:
        if type(x) is not np.ndarray and self._known_names() is not None:
            columns.Columns(self).look(x)
            columns.check_sample(self, x)

    def _join(self, x: Any) -> NDArray[Any]:
        self._look(x)
        return super()._join(self._as_rows(x))

    def summary(self) -> str:
        """A table of the parts, the width of what they give and their numbers of parameters."""
        raise NotImplementedError

    def _more(self) -> list[str]:
        """Lines below the summary's table."""
        kinds = dict.fromkeys(name.rpartition(".")[2] for name, _ in self.named_buffers())
        return [f"and {self.buffers.size:,} numbers that are not trained: {', '.join(kinds)}"] if kinds else []

    def plot(self, path: Any = None) -> Any:
        """A diagram of the network: layers, shapes, parameters, and for a Graph its nodes and gates.

        What flows along an edge is (n, width) for n samples. After `backward`, `train_step` or `fit`, the edge into a
        layer also tells the Euclidean norm of the gradient of each of its parameters, |dL/d weight|, from `grads`:
        that of the latest batch, and for a layer with several uses the sum over them.

        Parameters
        ----------
        path : str or path-like, optional
            A file to write, ending in .svg, .png or .pdf; this needs Graphviz's program `dot`.

        Returns
        -------
        graphviz.Digraph
            A notebook shows it, if there is `dot`; its text is `.source`.

        Raises
        ------
        ImportError
            Without the package graphviz, the extra `fastfc[graphviz]`.
        ValueError
            If path has another ending.
        RuntimeError
            If a file is wanted and there is no `dot`.

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
        The file is there whole or not at all: a file of that name is replaced at the end. Gradients and `n_threads`
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

        It is in eval mode, in which its output is that of `predict`. Linear layers, activations, Dropout, LayerNorm,
        RMSNorm, BatchNorm1d, Standardize (a module of fastfc.io.torch_modules) and Sequential can be converted.

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

    def _parts(self) -> Sequence[Layer]:
        return self.layers

    def _bind(self, vector: NDArray[Any], grads: NDArray[Any], n_buffers: int = 0) -> None:
        super()._bind(vector, grads, n_buffers)
        start, place = 0, vector.size - n_buffers
        for layer in self.layers:
            stop, n = start + layer._params.size, layer._buffers.size
            layer._bind(vector[start : place + n if n else stop], grads[start:stop], n)
            layer._owner = weakref.ref(self)
            start, place = stop, place + n

    def __copy__(self) -> Network:
        return copy.deepcopy(self)  # a shallow copy would move our layers' arrays to itself


def check_free(network: str, layers: tuple[Layer, ...]) -> None:
    """Raise if a layer is part of another network."""
    for i, layer in enumerate(layers):
        if layer._owner is not None and layer._owner() is not None:
            raise ValueError(f"{network}: layer {i}, {layer}, is in another network; copy.deepcopy(layer)")
