"""`Graph`: a network of nodes between some inputs and some outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastfc.kernels.ops.activation_rules import NONE
from fastfc.kernels.program import table as program_table
from fastfc.kernels.runtime.threads import AUTO, check_n_threads
from fastfc.models.network import Network
from fastfc.nn.activations import Identity
from fastfc.nn.container import CONTAINERS, check_free
from fastfc.nn.dropout import Dropout
from fastfc.nn.layer import Layer
from fastfc.nn.lowering import Lowering, Program
from fastfc.nn.node import OPS, Input, Node
from fastfc.validation import as_floats, listed


class Graph(Network):
    """A network of layers and operations from inputs to outputs, without cycles.

    It runs forward in topological order and backward in reverse order, and has all methods of a Sequential. With
    several inputs or outputs, `x`, `y` and gradients are tuples of arrays, one for each. A layer that is called
    several times shares its parameters; their gradient is the sum over its uses.

    Parameters
    ----------
    inputs, outputs : Node or iterable of Node
    n_threads : int or "auto"
        At most this many threads, see Layer.

    Raises
    ------
    ValueError
        Naming it: an input that no output needs, a node from an input that is not among the inputs, a cycle, layers of
        different dtype or of another network.

    Examples
    --------
    >>> import fastfc as fc
    >>> x, y, z = fc.Input(1), fc.Input(1), fc.Input(1)
    >>> graph = fc.Graph([x, y, z], (x + y) * z)
    >>> graph.forward(([[-2]], [[5]], [[-4]]))
    array([[-12.]], dtype=float32)
    >>> graph.backward([[1]])
    (array([[-4.]], dtype=float32), array([[-4.]], dtype=float32), array([[3.]], dtype=float32))

    A residual connection, and two heads on one trunk:

    >>> x = fc.Input(17)
    >>> h = fc.ReLU()(fc.Linear(17, 64)(x))
    >>> h = h + fc.ReLU()(fc.Linear(64, 64)(h))
    >>> policy_and_value = fc.Graph(x, [fc.Linear(64, 6)(h), fc.Linear(64, 1)(h)])
    """

    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    nodes: tuple[Node, ...]

    _fixed = dict.fromkeys(("inputs", "outputs", "nodes"), "make a new Graph")

    def __init__(
        self, inputs: Node | Iterable[Node], outputs: Node | Iterable[Node], *, n_threads: int | str = AUTO
    ) -> None:
        n_threads = check_n_threads(n_threads, "Graph")
        self._fix(inputs=as_nodes(inputs, "inputs"), outputs=as_nodes(outputs, "outputs"))
        for i, node in enumerate(self.inputs):
            if not isinstance(node, Input):
                raise ValueError(f"Graph: inputs must be Input nodes, got {node}")
            if node in self.inputs[:i]:
                raise ValueError(f"Graph: {node} is duplicated among the inputs")
        self._fix(nodes=in_order(self.outputs))
        for node in self.nodes:
            if isinstance(node, Input) and node not in self.inputs:
                raise ValueError(f"Graph: the outputs need {node}, which is not among the inputs {self.inputs}")
        for node in self.inputs:
            if node not in self.nodes:
                raise ValueError(f"Graph: no output needs {node}; leave it out of the inputs")
        called = [node.what for node in self.nodes if isinstance(node.what, Layer)]
        self._fix(layers=tuple(dict.fromkeys(called)))
        check_free("Graph", self.layers)
        for layer in self.layers:
            for other in self.layers:
                if layer.dtype and other.dtype and layer.dtype != other.dtype:
                    raise ValueError(f"Graph: {layer} is {layer.dtype}, but {other} is {other.dtype}")
        for node in self.nodes:
            node.enter_graph()
        super().__init__(sum(n.width for n in self.inputs), sum(n.width for n in self.outputs), n_threads)

    def __call__(self, node: Node) -> Node:
        self._check_layer()
        return super().__call__(node)

    def predict(self, x: Any, out: Any = None, params: Any = None, comm: Any = None) -> Any:
        if out is not None and len(self.outputs) > 1:
            raise ValueError(f"{self}: predict takes no out with several outputs")
        return self._split(super().predict(x, out, params, comm), self.outputs)

    def forward(self, x: Any) -> Any:
        return self._split(super().forward(x), self.outputs)

    def backward(self, grad_output: Any) -> Any:
        if len(self.outputs) > 1:
            grad_output = side_by_side(grad_output, self.outputs, self.dtype, self, "grad_output")
        return self._split(super().backward(grad_output), self.inputs)

    def _rows(self) -> list[tuple[str, ...]]:
        names = {node: getattr(node, "name", None) or f"{i}" for i, node in enumerate(self.nodes)}
        rows: list[tuple[str, ...]] = [("node", "what", "reads", "output", "parameters")]
        seen = set()
        for node, name in names.items():
            reads = ", ".join(names[other] for other in node.inputs)
            what = str(node.what) if isinstance(node.what, Layer) else repr(node).partition("(")[0]
            size = node.what.params.size if isinstance(node.what, Layer) and node.what not in seen else 0
            seen.add(node.what)
            rows.append((name, what, reads, str(node.width), f"{size:,}"))
        return [*rows, ("total", "", "", "", f"{self.params.size:,}")]

    @property
    def one_input(self) -> bool:
        return len(self.inputs) == 1

    def join(self, x: Any) -> NDArray[Any]:
        if self.one_input:
            return super().join(x)
        if self.input_shapes is not None and isinstance(x, tuple | list) and len(x) == len(self.inputs):
            x = tuple(self.rows_of_input(a, i) for i, a in enumerate(x))
        return side_by_side(x, self.inputs, self.dtype, self, "x")

    def input_widths(self) -> list[int | None]:
        return [node.width for node in self.inputs]

    def join_targets(self, y: Any) -> Any:
        return y if len(self.outputs) == 1 else side_by_side(y, self.outputs, self.dtype, self, "y")

    def output_widths(self) -> list[int]:
        return [node.width for node in self.outputs]

    def last_layers(self) -> list[Layer | None]:
        def of(node: Node) -> Layer | None:
            while isinstance(node.what, Identity | Dropout):
                (node,) = node.inputs
            return node.what.last_layers()[0] if isinstance(node.what, Layer) else None

        return [of(node) for node in self.outputs]

    def split_output(self, output: NDArray[Any]) -> Any:
        return self._split(output, self.outputs)

    def initialise_from(self, x: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        values = dict(zip(self.inputs, parts_of(x, self.inputs), strict=True))
        begun = set[Layer]()
        waiting = Counter([other for node in self.nodes for other in node.inputs] + list(self.outputs))
        for node in self.nodes:
            if isinstance(node, Input):
                continue
            read = [np.ascontiguousarray(values[other]) for other in node.inputs]
            if isinstance(node.what, Layer):
                layer, known = node.what, node.what in begun
                values[node] = layer.output(read[0]) if known else layer.initialise_from(read[0], rng)
                begun.add(layer)
            else:
                values[node] = node.computed(read)
            for other in node.inputs:  # what nobody reads any more would fill the memory
                waiting[other] -= 1
                if not waiting[other]:
                    del values[other]
        return np.concatenate([values[node] for node in self.outputs], axis=1)

    def _split(self, y: NDArray[Any], nodes: Sequence[Node]) -> Any:
        return y if len(nodes) == 1 else parts_of(y, nodes)

    def _lower(self, width: int) -> Program:
        lowering = Lowering()
        values = {node: lowering.value(node.width) for node in self.inputs}
        self._record_nodes(lowering, values, 0, True)
        inputs, outputs = ([values[node] for node in nodes] for nodes in (self.inputs, self.outputs))
        return lowering.program(inputs, outputs, *self._sizes)

    def record(self, lowering: Lowering, value: int, first: int, alone: bool = True) -> int:
        self._check_layer()
        if lowering.widths[value] != self.in_features:
            raise ValueError(f"{self} takes {self.in_features} numbers per sample, got {lowering.widths[value]}")
        values = {self.inputs[0]: value}
        self._record_nodes(lowering, values, first, alone)
        return lowering.activation(values[self.outputs[0]], NONE, alone or self.inputs != self.outputs)

    def _check_layer(self) -> None:
        if len(self.inputs) > 1 or len(self.outputs) > 1:
            raise ValueError(f"{self}: only a graph of one input and one output can be a layer of another network")

    def _record_nodes(self, lowering: Lowering, values: dict[Node, int], first: int, alone: bool) -> None:
        """Record all nodes but the inputs, whose values are known; `alone` says that nothing else reads those."""
        readers = [other for node in self.nodes for other in node.inputs] + list(self.outputs)
        begin, start = {}, first
        for layer in self.layers:
            begin[layer], start = start, start + layer.params.size
        for node in self.nodes:
            if isinstance(node, Input):
                continue
            read = [values[other] for other in node.inputs]
            if isinstance(node.what, Layer):
                source = node.inputs[0]
                only = readers.count(source) == 1 and (alone or not isinstance(source, Input))
                values[node] = node.what.record(lowering, read[0], begin[node.what], only)
            elif node.what == program_table.CONCAT:
                values[node] = lowering.concatenate(read)
            else:
                assert node.what is not None
                values[node] = lowering.op(node.what, *read, factor=node.factor)

    def __getstate__(self) -> dict[str, Any]:
        """With numbers for the nodes that a node reads: pickle does not follow long chains."""
        number = {node: i for i, node in enumerate(self.nodes)}
        rows = [(type(node), vars(node) | {"inputs": [number[n] for n in node.inputs]}) for node in self.nodes]
        ends = {what: [number[node] for node in getattr(self, what)] for what in ("inputs", "outputs")}
        return super().__getstate__() | {"nodes": rows} | ends

    def __setstate__(self, state: dict[str, Any]) -> None:
        nodes: list[Node] = []
        for kind, values in state["nodes"]:
            nodes.append(kind.__new__(kind))
            vars(nodes[-1]).update(values, inputs=tuple(nodes[i] for i in values["inputs"]))
        ends = {what: tuple(nodes[i] for i in state[what]) for what in ("inputs", "outputs")}
        super().__setstate__(state | {"nodes": tuple(nodes)} | ends)

    def __repr__(self) -> str:
        def plain(nodes: Sequence[Node]) -> str:
            return repr(nodes[0]) if len(nodes) == 1 else repr(list(nodes))

        return f"Graph({plain(self.inputs)}, {plain(self.outputs)})"


CONTAINERS["Graph"] = Graph


def as_nodes(nodes: Node | Iterable[Node], what: str) -> tuple[Node, ...]:
    result = (nodes,) if isinstance(nodes, Node) else tuple(listed(nodes, "Graph", what, "[Input(3), Input(2)]"))
    for node in result:
        if not isinstance(node, Node):
            raise TypeError(f"Graph: {what} must be nodes such as Input(3) or ReLU()(Input(3)), got {node!r}")
    if not result:
        raise ValueError(f"Graph: give at least one node as {what}")
    return result


def in_order(outputs: Sequence[Node]) -> tuple[Node, ...]:
    """All nodes that the outputs need, each after those that it reads."""
    order: dict[Node, None] = {}
    path: dict[Node, None] = {}
    stack = [(node, False) for node in reversed(outputs)]
    while stack:
        node, done = stack.pop()
        if done:
            order[node] = None
            del path[node]
        elif node in path:
            what = node.what if isinstance(node.what, Layer) else OPS[node.what or 0]
            raise ValueError(f"Graph: a cycle, {what} reads its own output; undo that connection")
        elif node not in order:
            path[node] = None
            stack.append((node, True))
            stack += [(other, False) for other in reversed(node.inputs)]
    return tuple(order)


def parts_of(y: NDArray[Any], nodes: Sequence[Node]) -> tuple[NDArray[Any], ...]:
    """The columns of each node."""
    ends = np.cumsum([node.width for node in nodes])
    return tuple(y[..., end - node.width : end] for node, end in zip(nodes, ends, strict=True))


def side_by_side(arrays: Any, nodes: Sequence[Node], dtype: Any, owner: object, what: str) -> NDArray[Any]:
    """One array for each node, side by side in one array."""
    if not isinstance(arrays, (tuple, list)) or len(arrays) != len(nodes):
        raise ValueError(f"{owner}: {what} must be a tuple of {len(nodes)} arrays, one for each of {list(nodes)}")
    parts = [as_floats(a, dtype, owner, f"{what}[{i}]") for i, a in enumerate(arrays)]
    for i, (part, node) in enumerate(zip(parts, nodes, strict=True)):
        if part.ndim not in (1, 2) or part.shape[-1] != node.width or part.shape[:-1] != parts[0].shape[:-1]:
            raise ValueError(
                f"{owner}: {what}[{i}] has shape {part.shape}, expected {(*parts[0].shape[:-1], node.width)} for {node}"
            )
    return np.concatenate(parts, axis=-1)
