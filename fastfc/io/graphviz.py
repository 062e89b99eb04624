"""A network as a diagram, drawn by Graphviz: `plot`, which is a method of every network."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastfc.extras import extra
from fastfc.kernels.program import table as program_table
from fastfc.nn.container import Container, is_a
from fastfc.nn.layer import Layer
from fastfc.nn.node import Node

FORMATS = ".svg", ".png", ".pdf"
DPI = "144"  # of a .png
SIGNS = {program_table.ADD: "+", program_table.MULTIPLY: "×"}
WIDEST, MOST_LINES = 36, 4  # of a layer's text, in characters
# Dark text on light; what has parameters is blue, of Okabe & Ito's.
FONT = {"fontname": "Helvetica,Arial,sans-serif", "fontcolor": "#202020"}
LINES, PLAIN, TRAINED, END = "#606060", "#ffffff", "#cfe5f3", "#eeeeee"


def draw(network: Container, path: Any) -> Any:
    """See `Network.plot`."""
    graphviz = extra("graphviz", "graphviz", "plot")
    ending = "" if path is None else Path(path).suffix.lower()
    if path is not None and ending not in FORMATS:
        raise ValueError(f"plot: {str(path)!r} must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    drawing = Drawing(network, graphviz)
    inputs = [drawing.end(*end) for end in ends(network)]
    outputs = drawing.network(network, drawing.diagram, inputs)
    for i, value in enumerate(outputs):
        end = drawing.end(f"output {i}" if len(outputs) > 1 else "output", value.width)
        drawing.edge(value, end.name)
    if path is not None:
        Path(path).write_bytes(drawing.render(ending))
    return drawing.diagram


def ends(network: Any) -> list[tuple[str, int | None]]:
    """Text and width of each input."""
    if not is_a(network, "Graph"):
        return [(f"Input({network.in_features or 'any width'})", network.in_features)]
    named = [(getattr(node, "name", None), node.width) for node in network.inputs]
    return [(f"{name}: Input({width})" if name else f"Input({width})", width) for name, width in named]


def wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDEST, max_lines=MOST_LINES, placeholder=" …")


def parameters(layer: Layer) -> str:
    n = layer.params.size
    return f"{n:,} parameter{'s' * (n != 1)}{', frozen' * (layer.frozen and n > 0)}"


class Value(NamedTuple):
    """What a node of the diagram gives."""

    name: str
    width: int | None


class Drawing:
    """A diagram that grows."""

    def __init__(self, network: Container, graphviz: Any) -> None:
        self.graphviz, self.number, self.has_grads = graphviz, 0, bool(np.any(network.grads))
        title = f"{type(network).__name__}, {parameters(network)}"
        if self.has_grads:
            title += "\n|dL/d …|: norms of the latest gradients"
        self.diagram = graphviz.Digraph(
            graph_attr={"label": title, "labelloc": "t", "fontsize": "15", "ranksep": "0.3", **FONT},
            node_attr={"shape": "box", "style": "filled", "fillcolor": PLAIN, "color": LINES, "fontsize": "12", **FONT},
            edge_attr={"color": LINES, "fontsize": "10", **FONT},
        )

    def node(self, diagram: Any, text: str, **style: str) -> str:
        self.number += 1
        text = "\n".join(wrap for row in text.split("\n") for wrap in wrapped(row))
        diagram.node(f"{self.number}", self.graphviz.escape(text), **style)
        return f"{self.number}"

    def end(self, text: str, width: int | None) -> Value:
        """An input or output of the whole."""
        return Value(self.node(self.diagram, text, shape="oval", fillcolor=END), width)

    def edge(self, value: Value, to: str, layer: Layer | None = None) -> None:
        rows = [f"(n, {value.width or 'any'})"]
        if layer is not None and self.has_grads:
            rows += [f"|dL/d {name}| {np.linalg.norm(grad):.3g}" for name, _, grad in layer.named_parameters()]
        label = "\n".join(f" {row} " for row in rows)  # spaces keep it off the line
        self.diagram.edge(value.name, to, self.graphviz.escape(label))

    def network(self, network: Any, diagram: Any, inputs: Sequence[Value]) -> list[Value]:
        """All that is between inputs and outputs."""
        keys = {layer: i for i, layer in enumerate(network.layers)}
        if not is_a(network, "Graph"):
            value = inputs[0]
            for layer, key in keys.items():
                value = self.layer(layer, key, diagram, value)
            return [value]
        values = dict(zip(network.inputs, inputs, strict=True))
        for node in network.nodes:
            if node in values:
                continue
            read = [values[other] for other in node.inputs]
            if isinstance(node.what, Layer):
                values[node] = self.layer(node.what, keys[node.what], diagram, read[0])
            else:
                values[node] = self.gate(node, diagram, read)
        return [values[node] for node in network.outputs]

    def layer(self, layer: Layer, key: int, diagram: Any, value: Value) -> Value:
        """A node; for a network those of its own, in a frame."""
        if isinstance(layer, Container):
            self.number += 1
            with diagram.subgraph(name=f"cluster_{self.number}") as frame:
                label = self.graphviz.escape(f"{key}: {type(layer).__name__}, {parameters(layer)}")
                frame.attr(label=label, fontsize="12", color=LINES, style="rounded")
                return self.network(layer, frame, [value])[0]
        text, style = str(layer), {"style": "filled,dashed"} if layer.frozen else {}
        if layer.params.size:  # the number is that in the parameters' names
            text = f"{text if layer.name else f'{key}: {text}'}\n{parameters(layer)}"
            style["fillcolor"] = TRAINED
        name = self.node(diagram, text, **style)
        self.edge(value, name, layer)
        return Value(name, layer.out_features or value.width)

    def gate(self, node: Node, diagram: Any, read: list[Value]) -> Value:
        """A sum, a product, …"""
        sign = SIGNS.get(node.what)
        text = f"× {node.factor:g}" if node.what == program_table.SCALE else sign or repr(node).partition("(")[0]
        name = self.node(diagram, text, **({"shape": "circle", "margin": "0"} if sign else {}))
        for value in read:
            self.edge(value, name)
        return Value(name, node.width)

    def render(self, ending: str) -> bytes:
        diagram = self.diagram.copy()
        if ending == ".png":
            diagram.attr(dpi=DPI)
        try:
            return diagram.pipe(ending[1:])
        except self.graphviz.ExecutableNotFound as error:
            raise RuntimeError(
                "plot: to write a picture, Graphviz's program `dot` must be on the PATH: apt install graphviz, brew "
                "install graphviz, or https://graphviz.org/download"
            ) from error
