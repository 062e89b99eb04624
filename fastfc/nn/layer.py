"""`Layer`, what every layer can do.

Other modules of fastfc use the methods named in `_internal`, which have no underscore and are hidden from users.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfc import kernels
from fastfc.attributes import OF_LAYERS, Versioned
from fastfc.data import streams
from fastfc.kernels.program import interpreter, members
from fastfc.kernels.runtime import native, threads
from fastfc.kernels.runtime.arrays import describe
from fastfc.nn.lowering import Lowering, Program
from fastfc.nn.node import Node
from fastfc.ranks import OUTPUTS, digest, ranks_of
from fastfc.validation import as_floats, flag, positive_int, positive_number

ALIGNMENT = 64  # bytes: one cache line, one AVX-512 vector

# The first counter of a layer says what its workspace holds: what `forward` of Python saved,
SAVED_BY_PYTHON = -1
# or nothing that a backward could use; a count of samples is one of nopython code.
USED = -2


class Parameter(NamedTuple):
    """A parameter that optimizers may change: where it is in a network's flat vectors."""

    name: str
    first: int
    shape: tuple[int, ...]


class Option:
    """Attribute of a layer that may be changed at any time; the next call of any kind takes the new value.

    `check(value, owner, what)` returns the value as it is kept, or raises.
    """

    def __init__(self, check: Callable[[Any, str, str], Any], default: Any = None) -> None:
        self.check, self.default = check, default

    def __set_name__(self, owner: type, name: str) -> None:
        self.name, self.attribute = name, f"_{name}"

    def __get__(self, layer: Layer | None, owner: type | None = None) -> Any:
        return self if layer is None else getattr(layer, self.attribute, self.default)

    def __set__(self, layer: Layer, value: Any) -> None:
        before = self.__get__(layer)
        setattr(layer, self.attribute, self.check(value, type(layer).__name__, self.name))
        try:
            layer.check_options()
        except ValueError:
            setattr(layer, self.attribute, before)
            raise
        layer.changed()


def option(check: Callable[[Any, str, str], Any], default: Any = None) -> Any:
    return Option(check, default)


def text_or_none(value: Any, owner: str, what: str) -> str | None:
    if not isinstance(value, str | None):
        raise TypeError(f"{owner}: {what} must be a string or None, got {value!r}")
    return value


class Layer(Versioned):
    """Base of every layer and network: checks at the edge, then one native call that runs its program.

    Samples are rows: inputs are (n, in_features), outputs (n, out_features).

    Attributes
    ----------
    in_features, out_features : int or None
        Numbers per sample; None where any width will do (activations).
    params, grads : (p,) arrays
        All parameters and all their gradients, each one flat 64-byte-aligned vector of float32 or float64. Assigning
        to one copies the values into place.
    buffers : (b,) array
        What is kept but not trained: running statistics of BatchNorm1d, mean and scale of Standardize. Assigning
        copies the values into place.
    n_threads : int or "auto"
        At most this many threads. "auto", unless you assign a number, is as many as this process may use: cores
        by affinity, the container's quota, NUMBA_NUM_THREADS, OMP_NUM_THREADS, FASTFC_NUM_THREADS and threadpoolctl
        limit it. It is 1 in a forked process, in a worker of joblib, and in a process of multiprocessing that has
        neither OMP_NUM_THREADS nor FASTFC_NUM_THREADS; `fastfc doctor` says what holds. Calls that are too small
        to gain stay on one. Results are the same bits for any number.
    frozen : bool
        Whether optimizers leave our parameters alone; False unless you assign True. A frozen BatchNorm1d also leaves
        its running statistics alone, and takes them in training too. For nopython code call
        `optimizer.prepare(network)` after a change.
    """

    name: str | None = option(text_or_none)
    in_features: int | None = None
    out_features: int | None = None

    _fixed: ClassVar[Mapping[str, str]] = {
        "in_features": "the parameters depend on it; make a new layer",
        "out_features": "the parameters depend on it; make a new layer",
        "dtype": "it is that of the parameters; make a new layer with dtype=…",
    }
    _elsewhere = OF_LAYERS

    _internal = frozenset(
        {
            *("check_names", "input_widths", "join", "join_targets", "last_layers", "one_input", "output_widths"),
            *("is_finite", "is_serial", "output", "program_for", "run", "split_output", "vectors", "workspace_for"),
            *("bind", "changed", "check_options", "forget", "frozen_here_or_above", "network", "parts", "record"),
            *("initialise_from", "tensor_shapes"),
            *("convert_to", "rng_step", "trained_parameters", "trained_version"),
        }
    )

    # What the kernels take: our parameters first, our buffers last. In a network that is a piece of the network's
    # vector, and what lies between the two belongs to other layers.
    _vector: NDArray[Any] = np.zeros(0, np.float32)
    _params: NDArray[Any] = _vector
    _grads: NDArray[Any] = _vector
    _buffers: NDArray[Any] = _vector
    _frozen = False
    _trained: list[Parameter] | None = None  # see trained_parameters
    trained_version = 0  # the version since which trained_parameters and the vectors are the same
    _n_threads: int | str = threads.AUTO
    _programs: dict[int, Program] | None = None  # by the width of x
    _shortest: tuple[Any, ...] | None = None  # see _straight
    _workspace: NDArray[Any] = np.zeros(0, np.float32)  # memory for training
    _capacity: tuple[Program | None, int] = None, 0  # the program and the number of samples that it suffices for
    _saved: tuple[Any, ...] | None = None  # what backward needs from forward
    _counters: NDArray[np.int64] | None = None  # what the workspace holds, see USED; how many forwards in training
    _rng_step = 0  # of these, those before there were counters
    _owner: weakref.ref[Layer] | None = None  # the network whose vectors hold our parameters
    _derived = (
        "version",
        "trained_version",
        "_programs",
        "_shortest",
        "_workspace",
        "_capacity",
        "_saved",
        "_counters",
        "_trained",
    )
    _arrays: tuple[str, ...] = "params", "grads", "buffers"  # what a pickle holds of the vectors
    _not_pickled: tuple[str, ...] = (*_derived, "_owner", "_vector", "_params", "_grads", "_buffers", "_views")

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """float32 or float64; None for a layer without parameters, which takes both."""
        return None

    @property
    def params(self) -> NDArray[Any]:
        return self._params

    @params.setter
    def params(self, values: ArrayLike) -> None:
        assign(self, "params", values, self._params)

    @property
    def grads(self) -> NDArray[Any]:
        return self._grads

    @grads.setter
    def grads(self, values: ArrayLike) -> None:
        assign(self, "grads", values, self._grads)

    @property
    def buffers(self) -> NDArray[Any]:
        return self._buffers

    @buffers.setter
    def buffers(self, values: ArrayLike) -> None:
        assign(self, "buffers", values, self._buffers)

    @property
    def n_threads(self) -> int | str:
        return self._n_threads

    @n_threads.setter
    def n_threads(self, value: int | str) -> None:
        self._n_threads = threads.check_n_threads(value, self)
        self.raise_version()
        for part in self.parts():
            if part is not self:
                part.n_threads = value

    @property
    def frozen(self) -> bool:
        return self._frozen

    @frozen.setter
    def frozen(self, value: bool) -> None:
        self._frozen = flag(value, self, "frozen")
        self.changed()

    def changed(self) -> None:
        """Forget what is derived from our options, in our parts and in the networks that we are part of."""
        layer: Layer | None = self
        while layer is not None:
            layer.forget()
            layer = layer.network()
        waiting = [part for part in self.parts() if part is not self]
        while waiting:
            layer = waiting.pop()
            layer.forget()
            waiting += [part for part in layer.parts() if part is not layer]

    def forget(self) -> None:
        self._programs = self._shortest = self._trained = None
        self.raise_version()
        self._fix(trained_version=self.version)

    def network(self) -> Layer | None:
        """The network whose vectors hold our parameters."""
        return None if self._owner is None else self._owner()

    def frozen_here_or_above(self) -> bool:
        """Whether we, or a network that we are part of, are frozen."""
        layer: Layer | None = self
        while layer is not None and not layer.frozen:
            layer = layer.network()
        return layer is not None

    def check_options(self) -> None:
        """Raise if options contradict each other."""

    def __call__(self, node: Node) -> Node:
        """The node of a graph that this layer gives for another node; see Graph."""
        if not isinstance(node, Node):
            raise TypeError(f"{self} is called with nodes of a graph, such as Input(3); for arrays, predict or forward")
        if self.in_features not in (None, node.width):
            raise ValueError(f"{self} takes {self.in_features} numbers per sample, but {node} gives {node.width}")
        return Node(self.out_features or node.width, [node], self)

    def predict(self, x: Any, out: Any = None, params: Any = None, comm: Any = None) -> Any:
        """Output for `x`, saving nothing: safe to call from many threads at once.

        Parameters
        ----------
        x : (n, in_features) or (in_features,) array of real numbers
            Or a data frame; or, read in parts, an array on disk that is larger than memory (np.memmap, Zarr), or an
            iterable of batches, each x or (x, y), or a function that returns one.
        out : array of the result's shape and of the layer's dtype, optional
            Overwritten and returned. With x in parts, also an array on disk.
        params : (p,) or (k, p) array of the layer's dtype, optional
            Used instead of the layer's own; buffers are the layer's own. Of a matrix each row is a candidate, as of an
            evolution strategy: the result has an axis of k before the others. Threads take candidates times rows.
        comm : mpi4py.MPI.Comm, optional
            Each rank, all of which give the same x, computes a part of the rows, or of the candidates, and gets all of
            them. A rank predicts rows of its own without it.

        Returns
        -------
        (n, out_features) array, or (out_features,) for a single sample; with k candidates (k, n, out_features)

        Raises
        ------
        TypeError, ValueError
            For x, out or params of another shape or kind.

        Examples
        --------
        >>> import fastfc as fc
        >>> fc.Linear(2, 1, init="zeros", bias_init=fc.Constant(0.5)).predict([[1, 2], [3, 4]])
        array([[0.5],
               [0.5]], dtype=float32)
        """
        straight = self._straight(x)
        if straight is not None and out is None and params is None and comm is None:
            _, _, dtype, outputs, program, vector = straight
            out = np.empty((len(x), outputs), dtype)
            interpreter.predict.call(vector, program.table, x, out, 1, 1)
            return out
        if comm is not None:
            return self._predict_on_ranks(x, out, params, comm)
        if type(x) is not np.ndarray and (streams.gives_batches(x) or streams.too_large(x)):
            if np.ndim(params) == 2:
                raise ValueError(f"{self}: predict with a matrix of params takes x in memory, such as np.asarray(x)")
            return self._predict_in_parts(x, out, params)
        self.check_names(x)
        x = self.join(x)
        single = x.ndim == 1
        rows = self._check_rows(x[None]) if single else x
        candidates = (len(params),) if np.ndim(params) == 2 else ()
        if out is not None:
            n, width = len(rows), self.program_for(rows).outputs
            check_array(out, (*candidates, *(() if single else (n,)), width), x.dtype, self, "out", written=True)
            out = out[..., None, :] if single else out
        result = (self._outputs_of if candidates else self.output)(rows, out, params)
        return result[..., 0, :] if single else result

    def _predict_on_ranks(self, x: Any, out: Any, params: Any, comm: Any) -> Any:
        """`predict` of a part of the rows, and the rest from the other ranks."""
        ranks = ranks_of(comm, "same", None, "predict")
        assert ranks is not None
        with ranks.together("predict"):
            if streams.gives_batches(x):
                raise TypeError(f"{self}: with comm, x must be an array, got {streams.kind(x)}")
            self.check_names(x)
            single, whole, part, candidates = False, False, self._predict_in_parts, np.ndim(params) == 2
            if not streams.too_large(x):
                x = self.join(x)
                single, part = x.ndim == 1, self._outputs_of if candidates else self.output
                x = self._check_rows(x[None] if single else x)
                whole = self.program_for(x).whole
            used = self._params if params is None else params
            settings = {"the digest of the parameters": digest(used, self._buffers)}
            ranks.compare(settings | {"the number of rows": str(len(streams.tree_leaves(x)[0]))})
            if candidates:
                params = self._candidates(params, (len(params), self._params.size), self._params.dtype)
                result = ranks.gather(part(x, None, params[ranks.share(len(params))]), OUTPUTS)
            elif single or whole:
                result = part(x, None, params)
            else:
                own = streams.tree_map(lambda array: array[ranks.share(len(array))], x)
                result = ranks.gather(part(own, None, params), OUTPUTS)
            result = result[..., 0, :] if single else result
            if out is None:
                return result
            check_array(out, result.shape, result.dtype, self, "out", written=True)
            out[...] = result
            return out

    def _straight(self, x: Any) -> tuple[Any, ...] | None:
        """What the shortest ways of `predict` and `forward` read, if x is as the kernels take it and small."""
        straight = self._shortest
        if straight is not None and type(x) is np.ndarray and x.ndim == 2:
            n, width = x.shape
            if width == straight[0] and n <= straight[1] and x.dtype == straight[2]:
                return straight
        return None

    def output(self, x: NDArray[Any], out: Any = None, params: Any = None) -> NDArray[Any]:
        """`predict` for an array as `join` makes it."""
        program = self.program_for(x, interpreter.predict)
        if out is None:
            out = np.empty((x.shape[0], program.outputs), x.dtype)
        vector, _ = self.vectors(x.dtype) if params is None else (self._with_buffers(params, x.dtype), None)
        self.run(interpreter.predict, program.work(len(x)), vector, program.table, x, out)
        return out

    def initialise_from(self, x: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """`output`, after Linear layers have got first values from these data, see initializers.fit_to."""
        return self.output(x)

    def _outputs_of(self, x: NDArray[Any], out: Any, params: Any) -> NDArray[Any]:
        """The outputs of candidates, one for each row of params."""
        program = self.program_for(x)
        params = self._candidates(params, (len(params), self._params.size), x.dtype)
        if self._buffers.size:
            params = np.concatenate([params, np.tile(self._buffers, (len(params), 1))], axis=1)
        result = np.empty((len(params), len(x), program.outputs), x.dtype)
        n_threads = threads.prepare_threads(self._n_threads, program.work(len(x)) * len(params))
        flat = result.reshape(len(params) * len(x), program.outputs)
        table = np.array([describe(program.table)], np.int64)
        run_members(self, program, params, table, x, flat, n_threads)
        if out is None:
            return result
        out[...] = result
        return out

    def _predict_in_parts(self, x: Any, out: Any, params: Any) -> Any:
        """`predict` for an array on disk or an iterable of batches; a thread reads ahead."""
        source = streams.source_of_inputs(x, str(self), self.one_input, self.check_names)
        rows = streams.Rows(out, str(self), source.n)
        with closing(streams.prefetch(self._joined(source), source.together)) as parts:
            for part in parts:
                rows.append(self.output(part, None, params))
        return rows.result(f"{streams.kind(x)} gives no batch; give at least one")

    def _joined(self, source: streams.Blocks | streams.Batches) -> Iterator[NDArray[Any]]:
        for i, samples in enumerate(source.in_order()):
            try:
                yield self.join(samples[0])
            except (TypeError, ValueError) as error:
                raise source.named(error, i) from None

    def _with_buffers(self, params: Any, dtype: Any) -> Any:
        """The vector that the kernels take, with these parameters instead of ours."""
        params = self._candidates(params, self._params.shape, dtype)
        if not self._buffers.size:
            return params
        vector = self._vector.copy()
        vector[: params.size] = params
        return vector

    def _candidates(self, params: Any, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Parameters that `predict` is given, as the kernels take them: the numbers of a network side by side."""
        params = params if type(params) is np.ndarray else as_floats(params, dtype, self, "params")
        check_array(params, shape, dtype, self, "params")
        return params if params.strides[-1] == params.itemsize else np.ascontiguousarray(params)

    def predict_one(self, x: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Output for one sample; for inner loops of `@njit` functions, where small networks then allocate nothing.

        Parameters
        ----------
        x : (in_features,) array of the layer's dtype
        out : (out_features,) array of the layer's dtype, optional
            Overwritten and returned. Without one, the output is a new array.

        Returns
        -------
        (out_features,) array

        Raises
        ------
        TypeError, ValueError
            For arrays of another dtype or shape; nothing is converted.

        Examples
        --------
        >>> import numpy as np, fastfc as fc
        >>> out = np.empty(1, np.float32)
        >>> fc.Linear(2, 1, init="zeros", bias_init=fc.Constant(0.5)).predict_one(np.ones(2, np.float32), out)
        array([0.5], dtype=float32)
        >>> out
        array([0.5], dtype=float32)
        """
        try:
            rows = x[None]
            program = self.program_for(rows)
            out = np.empty(program.outputs, x.dtype) if out is None else out
            into = out[None]
        except (AttributeError, TypeError, LookupError):
            raise TypeError(f"{self}: predict_one takes NumPy arrays of dtype {self.dtype}; or use predict") from None
        try:
            interpreter.predict.call(self._vector, program.table, rows, into, 1, 1)
        except (TypeError, ValueError):
            check_array(x, (program.inputs,), self.dtype or into.dtype, self, "x")
            check_array(out, (program.outputs,), self.dtype or into.dtype, self, "out", written=True)
            raise
        return out

    def reserve(self, batch_size: int) -> None:
        """Make memory for training in batches of up to `batch_size` samples inside `@njit` functions."""
        batch_size = positive_int(batch_size, self, "batch_size")
        self._make_workspace(self.program_for(np.zeros((0, self.in_features or 0), self.dtype)), batch_size, self.dtype)

    def forward(self, x: Any) -> Any:
        """Output for `x`, keeping what `backward` needs.

        Parameters
        ----------
        x : (n, in_features) array of real numbers
            Kept by reference if it has the layer's dtype; change neither it nor the result before `backward`.

        Returns
        -------
        (n, out_features) array

        Raises
        ------
        TypeError, ValueError
            For x of another shape or kind.

        Examples
        --------
        >>> import fastfc as fc
        >>> fc.ReLU().forward([[-1, 2]])
        array([[0., 2.]], dtype=float32)
        """
        straight = self._straight(x)
        if straight is not None:
            _, _, dtype, _, program, vector = straight
        else:
            self.check_names(x)
            x = self.join(x)
            program, dtype = self.program_for(x, interpreter.forward), x.dtype
            vector, _ = self.vectors(dtype)
        if TYPE_CHECKING:
            assert isinstance(x, np.ndarray)
        n = len(x)
        out = np.empty((n, program.outputs), dtype)
        counters = self._make_workspace(program, n, dtype)
        counters[0] = USED
        arguments = x, program.table, vector, out, self._workspace, counters
        if straight is not None:
            interpreter.forward.call(*arguments, 1, 1)
        else:
            self.run(interpreter.forward, program.work(n), *arguments)
        counters[0] = SAVED_BY_PYTHON
        object.__setattr__(self, "_saved", (program, x, out, self._workspace))  # ours takes as long as a small layer
        return out

    def backward(self, grad_output: ArrayLike) -> NDArray[Any]:
        """Overwrite the parameters' gradients and return dL/dx, given `grad_output` = dL/dy.

        Parameters
        ----------
        grad_output : array of the shape of the last `forward`'s result

        Returns
        -------
        (n, in_features) array

        Raises
        ------
        RuntimeError
            Before the first `forward`.
        TypeError, ValueError
            For a gradient of another shape or kind.

        Examples
        --------
        >>> import fastfc as fc
        >>> layer = fc.Linear(2, 1, init="zeros")
        >>> y = layer.forward([[1, 2]])
        >>> layer.backward([[1]])
        array([[0., 0.]], dtype=float32)
        >>> layer.weight_grad
        array([[1.],
               [2.]], dtype=float32)
        """
        counters = self._counters
        if self._saved is None or counters is None or counters[0] != SAVED_BY_PYTHON:
            raise RuntimeError(f"{self}: backward needs what forward saves; call forward(x) first")
        program, x, output, workspace = self._saved
        grad_output = as_floats(grad_output, output.dtype, self, "grad_output")
        if grad_output.shape != output.shape:
            raise ValueError(
                f"{self}: grad_output has shape {grad_output.shape}; it must have the output's, {output.shape}"
            )
        grad_input = np.empty(x.shape, x.dtype)
        vector, grads = self.vectors(x.dtype)
        arrays = vector, program.table, x, output, grad_output, counters, grads, grad_input, workspace
        self.run(interpreter.backward, program.work(2 * len(x)), *arrays)
        return grad_input

    def update_parameters(self, lr: float) -> None:
        """One step of gradient descent, params −= lr · grads, of all that is not frozen.

        Parameters
        ----------
        lr : float
            Positive and finite.

        Raises
        ------
        TypeError, ValueError
            For another lr.

        Examples
        --------
        >>> import fastfc as fc
        >>> layer = fc.Linear(1, 1, init="zeros")
        >>> layer.weight_grad[:] = 2
        >>> layer.update_parameters(lr=0.5)
        >>> layer.weight
        array([[-1.]], dtype=float32)
        """
        lr = positive_number(lr, self, "lr")
        if self._n_trained == self._params.size:
            ranges = [slice(None)]
        else:
            ranges = [slice(first, first + math.prod(shape)) for _, first, shape in self.trained_parameters()]
        for rows in ranges:
            try:
                kernels.sgd(self._params[rows], self._grads[rows], self._params[:0], lr, 0.0, 0.0)
            except ValueError as error:
                raise explained_error(error, self) from None

    def named_parameters(self) -> list[tuple[str, NDArray[Any], NDArray[Any]]]:
        """(name, parameter, gradient) of each parameter: views, in the order of `params`.

        PyTorch gives pairs (name, parameter), whose gradient is an attribute; arrays have none, so it is the third
        here: `for name, weight, grad in net.named_parameters()`.
        """
        return []

    def named_buffers(self) -> list[tuple[str, NDArray[Any]]]:
        """(name, values) of what is kept but not trained, such as running statistics: views, as in `buffers`."""
        return []

    def trained_parameters(self) -> list[Parameter]:
        """The parameters that optimizers may change, in the order of `params`."""
        if self._trained is None:
            self._trained = self._list_trained()
        return self._trained

    def _list_trained(self) -> list[Parameter]:
        parameters, start = [], self.params.ctypes.data
        for name, values, _ in [] if self.frozen else self.named_parameters():
            first = (values.ctypes.data - start) // self.params.itemsize
            parameters.append(Parameter(name, first, values.shape))
        return parameters

    @property
    def _n_trained(self) -> int:
        """How many numbers optimizers may change."""
        return sum(math.prod(shape) for _, _, shape in self.trained_parameters())

    @classmethod
    def tensor_shapes(cls, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """The shapes of the parameters and buffers, by name, of a layer with these options in a file."""
        return {}

    def record(self, lowering: Lowering, value: int, first: int, alone: bool = True) -> int:
        """Record the steps from this value to the output, which is returned; our parameters begin at `first`.

        `alone` says that no other layer reads the value.
        """
        raise NotImplementedError

    def program_for(self, x: NDArray[Any], *kernels: Any) -> Program:
        """The program for this input, which is checked.

        When it is made, what it needs is compiled or loaded, and with it the kernels that are to run it.
        """
        if self._programs is None:
            self._programs = {}
        if x.ndim == 2 and x.shape[1] in self._programs:
            return self._programs[x.shape[1]]
        width = self._check_rows(x).shape[1]
        program = self._lower(width)
        with native.one_piece():
            program.load(native.DTYPES.values() if self.dtype is None else [native.DTYPES[self.dtype]])
            if kernels:
                native.compile_or_load_all(kernels, native.DTYPES[x.dtype])
        self._programs[width] = program
        if self._vector.size and self.one_input:
            rows = program.serial_rows(2 * threads.MIN_WORK)  # not worth a second thread
            self._shortest = width, rows, self._vector.dtype, program.outputs, program, self._vector
        return program

    def _lower(self, width: int) -> Program:
        lowering = Lowering()
        x = lowering.value(width)
        return lowering.program([x], [self.record(lowering, x, 0)], *self._sizes)

    @property
    def _sizes(self) -> tuple[int, ...]:
        return self._params.size, self._n_trained, self._vector.size, self._buffers.size

    @property
    def one_input(self) -> bool:
        """Whether x is one array, and not a tuple with one for each input."""
        return True

    def check_names(self, x: Any) -> None:
        """Raise if a frame has other columns than those that the network knows."""

    def join(self, x: Any) -> NDArray[Any]:
        """The input as one array of our dtype; its names are not looked at."""
        return as_floats(x, self.dtype, self, "x")

    def join_targets(self, y: Any) -> Any:
        """Targets for several outputs as one array, others as they are."""
        return y

    def input_widths(self) -> list[int | None]:
        """The width of each input."""
        return [self.in_features]

    def output_widths(self) -> list[int]:
        """The width of each output, for losses of several outputs."""
        return [self.out_features or 0]

    def split_output(self, output: NDArray[Any]) -> Any:
        """The outputs, of one array."""
        return output

    def last_layers(self) -> list[Layer | None]:
        """The layer that each output comes from; None where it comes from an operation of a graph or from an input."""
        return [self]

    def workspace_for(self, program: Program, n: int, dtype: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Memory for training in batches of n, and the counters; what `forward` saved there is given up."""
        counters = self._make_workspace(program, n, dtype)
        counters[0] = USED
        if self._saved is not None:
            object.__setattr__(self, "_saved", None)  # ours takes as long as a small layer
        return self._workspace, counters

    def _make_workspace(self, program: Program, n: int, dtype: Any) -> NDArray[np.int64]:
        """Make a workspace for batches of n, unless the present one suffices; the counters."""
        if self._capacity[0] is not program or n > self._capacity[1] or self._workspace.dtype != dtype:
            size = program.workspace_size(n)
            if self._workspace.size < size or self._workspace.dtype != dtype:
                self._workspace = aligned_zeros(size, dtype)
                if self._counters is not None and self._counters[0] > 0:
                    self._counters[0] = USED  # what nopython code saved is in the old one
                self.raise_version()
            self._capacity = program, n
        if self._counters is None:
            self._counters = np.array([USED, self._rng_step], np.int64)
            self.raise_version()
        return self._counters

    @property
    def rng_step(self) -> int:
        """The number of forwards in training so far, which numbers the masks of Dropout."""
        return self._rng_step if self._counters is None else int(self._counters[1])

    @rng_step.setter
    def rng_step(self, value: int) -> None:
        self._rng_step = value
        if self._counters is not None:
            self._counters[1] = value

    @property
    def _handle(self) -> tuple[Any, ...]:
        """What we are in nopython code, see nopython.LayerType."""
        program = self.program_for(np.zeros((0, self.in_features or 0), self.dtype))
        counters = self._counters
        if counters is None:
            counters = self._make_workspace(program, 0, self.dtype)
        return program.table, self._vector, self._grads, self._workspace, counters

    def vectors(self, dtype: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """Parameters with buffers, and gradients, of the dtype of the input where we have none."""
        if self._vector.size:
            return self._vector, self._grads
        return np.zeros(0, dtype), np.zeros(0, dtype)

    def is_serial(self, work: int) -> bool:
        """Whether a kernel runs on one thread, if it has so many multiplications."""
        return work < 2 * threads.MIN_WORK or self._n_threads == 1

    def run(self, kernel: Any, work: int, *args: Any) -> Any:
        """Run a kernel, on several threads if n_threads allows it and that pays for this many multiplications.

        A prediction is cut into rows, so all its products count; in training each product is cut for itself.
        """
        try:
            if self.is_serial(work):
                return kernel.call(*args, 1, 1)
            return kernel.call(*args, threads.prepare_threads(self._n_threads, work), threads.MIN_RANGE_WORK)
        except ValueError as error:
            raise explained_error(error, self) from None

    def _check_rows(self, x: NDArray[Any]) -> NDArray[Any]:
        width = self.in_features
        if x.ndim == 2 and width in (None, x.shape[1]):
            return x
        if x.shape == (width,) or (x.ndim == 1 and width is None):
            fix = "a single sample is x[None]"
        elif x.ndim == 2 and x.shape[0] == width:
            fix = "samples are rows: pass x.T"
        else:
            fix = "samples are rows, features are columns"
        raise ValueError(f"{self}: x has shape {x.shape}, expected (n, {width or 'width'}); {fix}")

    def parts(self) -> Sequence[Layer]:
        """The layers whose vectors, one after another, make up `params`."""
        return [self]

    def bind(
        self, vector: NDArray[Any], grads: NDArray[Any], n_buffers: int = 0, owner: weakref.ref[Layer] | None = None
    ) -> None:
        """Make these flat vectors the home of our parameters with our buffers, and of the gradients; see `_vector`.

        The owner is the network that they are pieces of the vectors of.
        """
        self._vector, self._grads = vector, grads
        self._params, self._buffers = vector[: grads.size], vector[vector.size - n_buffers :]
        if owner is not None:
            self._owner = owner
        self.forget()

    def convert_to(self, dtype: Any) -> None:
        """Move parameters, buffers and gradients into two new aligned vectors of this dtype."""
        layers, none = self.parts(), np.zeros(0, np.float32)
        values = [none, *(layer.params for layer in layers), *(layer.buffers for layer in layers)]
        grads = [none, *(layer.grads for layer in layers)]
        self.bind(
            np.concatenate(values, out=aligned_zeros(sum(a.size for a in values), dtype)),
            np.concatenate(grads, out=aligned_zeros(sum(a.size for a in grads), dtype)),
            sum(layer.buffers.size for layer in layers),
        )

    def _make_vectors(self) -> None:
        """Make the vectors, of the dtype of our parts."""
        self.convert_to(next((layer.dtype for layer in self.parts() if layer.dtype is not None), np.float32))

    def is_finite(self) -> bool:
        """Whether all parameters and buffers are."""
        return bool(np.isfinite(self._params).all() and np.isfinite(self._buffers).all())

    def __getstate__(self) -> dict[str, Any]:
        state = {key: value for key, value in vars(self).items() if key not in self._not_pickled}
        state |= {name: getattr(self, name) for name in self._arrays}
        if not self._grads.any():  # half of the size
            state |= dict.fromkeys(self._arrays and ("grads",))
        return state | ({"_rng_step": self.rng_step} if self.rng_step else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        if not state.keys() >= set(self._arrays):
            kind = type(self).__name__
            raise ValueError(f"{kind}: a pickle of fastfc 0.1.0; write files with net.save, which later versions read")
        if state.get("grads", 0) is None:
            state = state | {"grads": np.zeros_like(state["params"])}
        vars(self).update({f"_{key}" if key in self._arrays else key: value for key, value in state.items()})
        self._make_vectors()


def assign(layer: Layer, what: str, values: ArrayLike, view: NDArray[Any] | None) -> None:
    """Copy values into place."""
    values = as_floats(values, layer.dtype, layer, what)
    if view is None:
        raise AttributeError(f"{layer} has no {what}")
    if values.shape != view.shape:
        raise ValueError(f"{layer}: {what} has shape {view.shape}, got values of shape {values.shape}")
    view[...] = values


def run_members(owner: object, program: Program, *args: Any) -> None:
    """`predict_members`, whose errors name the owner and what x holds wrong."""
    try:
        members.predict_members.call(*args)
    except ValueError as error:
        raise ValueError(f"{owner}: {interpreter.wrong_index(program.table, args[2]) or error}") from None


def assign_matrix(owner: Any, what: str, values: ArrayLike, view: NDArray[Any]) -> None:
    """Copy values into the rows of several networks."""
    values = as_floats(values, view.dtype, owner, what)
    if values.shape != view.shape:
        raise ValueError(f"{owner}: {what} has shape {view.shape}, got values of shape {values.shape}")
    view[...] = values


def check_array(
    array: Any, shape: tuple[int, ...], dtype: Any, owner: object, what: str, *, written: bool = False
) -> None:
    """Raise unless this is an array of such a shape and dtype, that can be written into if it has to be."""
    if not isinstance(array, np.ndarray):
        kind = type(array).__name__
        raise TypeError(f"{owner}: {what} must be an array of shape {shape} and dtype {dtype}, not a {kind}")
    if array.shape != shape:
        raise ValueError(f"{owner}: {what} {array.shape} does not fit; it must have shape {shape}")
    if array.dtype != dtype:
        fix = f"make it np.zeros({shape}, np.{dtype})" if written else f"use {what}.astype(np.{dtype})"
        raise TypeError(f"{owner}: {what} has dtype {array.dtype}, expected {dtype}; {fix}")
    if written and not array.flags.writeable:
        raise ValueError(f"{owner}: {what} is read-only; give a writable array")


def explained_error(error: ValueError, layer: Layer) -> ValueError:
    """The error of a kernel; if it names shapes of its own arguments, one that says which arrays these are."""
    if "; needed " not in str(error):
        return error
    use = str(error).partition(":")[0]
    return ValueError(
        f"{layer}: {use}: an array that it keeps, or one of its optimizer, has another shape now or was replaced "
        f"(params has shape {np.shape(layer.params)}, grads {np.shape(layer.grads)}); change values in place, as with "
        "net.params[:] = …"
    )


def aligned_zeros(size: int, dtype: Any) -> NDArray[Any]:
    """A flat vector of zeros that starts at a multiple of 64 bytes."""
    n_bytes = size * np.dtype(dtype).itemsize
    try:
        memory = np.zeros(n_bytes + ALIGNMENT, np.uint8)
    except (OverflowError, ValueError):  # more than any address space
        raise MemoryError(f"fastfc: no memory holds {size:,} numbers of {np.dtype(dtype)}") from None
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + n_bytes].view(dtype)


def aligned_rows(n: int, size: int, dtype: Any) -> NDArray[Any]:
    """A matrix of zeros, each of whose rows starts at a multiple of 64 bytes."""
    per_line = ALIGNMENT // np.dtype(dtype).itemsize
    width = -(-size // per_line) * per_line
    return aligned_zeros(n * width, dtype).reshape(n, width)[:, :size]
