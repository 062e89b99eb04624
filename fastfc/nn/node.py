"""Nodes of a computational graph: inputs, layers and operations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastfc.attributes import Guarded
from fastfc.kernels.program import table as program_table
from fastfc.validation import listed, positive_int, positive_number

REPR_NODES = 12  # that the representation of a node shows at most
OPS = {
    program_table.ADD: "add",
    program_table.MULTIPLY: "multiply",
    program_table.SCALE: "scale",
    program_table.CONCAT: "concatenate",
}


class Node(Guarded):
    """A value of a graph, `width` numbers per sample: an input, or the output of a layer or an operation.

    Nodes come from `Input`, from calling a layer with a node, and from operations: `a + b`, `a * b`, `0.5 * a`,
    `concatenate([a, b])`. Backward, each operation multiplies the gradient that it receives by its local gradient:
    `+` passes it on, `*` swaps the factors, a scale multiplies, a concatenation splits it. Gradients that reach a node
    on several paths are added.

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", 2016, section 6.5.
    """

    width: int
    inputs: tuple[Node, ...]
    what: Any  # a layer, or the number of an operation
    factor: float

    _fixed = dict.fromkeys(("width", "inputs", "what", "factor", "name"), "graphs are made of it; make a new node")

    _internal = frozenset(("computed", "enter_graph", "text"))
    _in_graph = False

    def __init__(self, width: int, inputs: Sequence[Node] = (), what: Any = None, factor: float = 1.0):
        self._fix(width=width, inputs=tuple(inputs), what=what, factor=factor)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "inputs" and not self._in_graph:
            self._fix(inputs=value)
        else:
            super().__setattr__(name, value)

    def __add__(self, other: Node) -> Node:
        return operation(program_table.ADD, "+", self, other)

    __radd__ = __add__  # no node is on the left, so this says what is wrong

    def __mul__(self, other: Any) -> Node:
        if isinstance(other, Node):
            return operation(program_table.MULTIPLY, "*", self, other)
        size = abs(other) if isinstance(other, Real) else other
        size = positive_number(size, "scale", "the factor's size", or_zero=True)
        return Node(self.width, [self], program_table.SCALE, math.copysign(size, other))

    __rmul__ = __mul__

    def __neg__(self) -> Node:
        return -1.0 * self

    def __sub__(self, other: Node) -> Node:
        return self + -other

    def __rsub__(self, other: Any) -> Node:
        return -self + other

    __array_ufunc__ = None  # an array times a node is an error, not an array of nodes

    def computed(self, read: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """The value of an operation on arrays, outside of any program."""
        if self.what == program_table.CONCAT:
            return np.concatenate(read, axis=1)
        if self.what == program_table.SCALE:
            return read[0] * self.factor
        return read[0] + read[1] if self.what == program_table.ADD else read[0] * read[1]

    def enter_graph(self) -> None:
        """Be a node of a graph, whose inputs do not change any more."""
        self._in_graph = True

    def __repr__(self) -> str:
        return self.text(REPR_NODES)

    def text(self, most: int) -> str:
        """Itself, what it reads, and so on, `most` nodes: a node that is read twice would be listed twice."""
        share = (most - 1) // max(len(self.inputs), 1)
        inputs = ", ".join(node.text(share) for node in self.inputs) if share else "..."
        return f"{OPS.get(self.what, self.what)}({inputs})"


class Input(Node):
    """An input of a graph.

    Parameters
    ----------
    width : int
        Numbers per sample.
    name : str, optional
        Shown in errors and summaries.

    Raises
    ------
    TypeError, ValueError
        If width is not a positive integer.

    Examples
    --------
    >>> import fastfc as fc
    >>> fc.Tanh()(fc.Linear(3, 2)(fc.Input(3, name="state")))
    Tanh()(Linear(3, 2)(Input(3, 'state')))
    """

    name: str | None

    def __init__(self, width: int, name: str | None = None) -> None:
        super().__init__(positive_int(width, "Input", "width"))
        self._fix(name=name)

    def text(self, most: int) -> str:
        return f"Input({self.width})" if self.name is None else f"Input({self.width}, {self.name!r})"


def operation(op: int, sign: str, a: Node, b: Any) -> Node:
    if not isinstance(b, Node):
        raise TypeError(f"{a} {sign} {b!r}: both sides must be nodes of a graph, such as Input({a.width})")
    if a.width != b.width:
        raise ValueError(f"{a} {sign} {b}: {a.width} and {b.width} numbers per sample; make the two widths equal")
    return Node(a.width, [a, b], op)


def concatenate(nodes: Iterable[Node]) -> Node:
    """The columns of several nodes side by side.

    Parameters
    ----------
    nodes : iterable of Node
        The same node may be repeated.

    Returns
    -------
    Node
        As wide as all of them together.

    Raises
    ------
    TypeError, ValueError
        If an element is not a node, or the iterable is empty.

    Examples
    --------
    >>> import fastfc as fc
    >>> a, b = fc.Input(2), fc.Input(1)
    >>> fc.Graph([a, b], fc.concatenate([a, b, a])).predict(([1, 2], [3]))
    array([1., 2., 3., 1., 2.], dtype=float32)
    """
    nodes = listed(nodes, "concatenate", "nodes", "[a, b]")
    for node in nodes:
        if not isinstance(node, Node):
            raise TypeError(f"concatenate takes nodes of a graph, such as Input(3), got {node!r}")
    if not nodes:
        raise ValueError("concatenate: give at least one node")
    return Node(sum(node.width for node in nodes), nodes, program_table.CONCAT)
