import re
import shutil
import subprocess
from xml.etree import ElementTree

import numpy as np
import pytest

import fastfc as fc

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz's program dot is not installed")
X, Y = np.random.default_rng(0).standard_normal((2, 6, 3))


def drawn(network, tmp_path):
    """What the .svg says: {name of a node: its text}, and (from, to, text) of the edges."""
    file = tmp_path / "network.svg"
    network.plot(file)
    svg = "{http://www.w3.org/2000/svg}"
    nodes, edges, frames = {}, [], []
    for group in ElementTree.parse(file).iter(f"{svg}g"):
        text = "\n".join(part.text.strip() for part in group.findall(f"{svg}text"))
        title = group.findtext(f"{svg}title")
        match group.get("class"):
            case "node":
                nodes[title] = text
            case "edge":
                edges.append((*title.split("->"), text))
            case "cluster":
                frames.append(text)
    return nodes, [(nodes[a], nodes[b], text) for a, b, text in edges], frames


@needs_dot
def test_a_chain_before_training(tmp_path):
    net = fc.Sequential([fc.Linear(3, 4, name="first"), fc.Tanh(), fc.Linear(4, 3, bias=False)])
    nodes, edges, frames = drawn(net, tmp_path)
    first, tanh, last = "Linear(3, 4, name='first')\n16 parameters", "Tanh()", f"2: {net[2]}\n12 parameters"
    assert edges == [
        ("Input(3)", first, "(n, 3)"),
        (first, tanh, "(n, 4)"),
        (tanh, last, "(n, 4)"),
        (last, "output", "(n, 3)"),
    ]
    assert len(nodes) == 5 and frames == []
    assert "Sequential, 28 parameters" in net.plot().source and "dL" not in net.plot().source


@needs_dot
def test_norms_of_gradients_after_backward(tmp_path):
    net = fc.Sequential([fc.Linear(3, 4, seed=0), fc.LayerNorm(4), fc.Linear(4, 3, seed=1)])
    net.forward(X)
    net.backward(Y)
    rows = [
        [f"|dL/d {name}| {np.sqrt(np.sum(grad.astype(float) ** 2)):.3g}" for name, _, grad in layer.named_parameters()]
        for layer in net
    ]
    nodes, edges, _ = drawn(net, tmp_path)
    # On the edge above its layer a norm read as the neighbour's.
    assert [text for *_, text in edges] == ["(n, 3)", "(n, 4)", "(n, 4)", "(n, 3)"]
    assert [text.split("\n")[2:] for text in nodes.values() if "parameters" in text] == rows
    assert len({row for each in rows for row in each}) == 6
    net[1].frozen = True
    assert net.plot().source.count("|dL/d ") == 4 + 1  # and the title
    net.grads[:] = 0
    assert "dL" not in net.plot().source


@needs_dot
def test_a_graph(tmp_path):
    a, b = fc.Input(3, name='the "first" & <only> \\one'), fc.Input(3)
    shared = fc.Linear(3, 3, seed=0)
    h = shared(a) + shared(b)
    h = fc.concatenate([0.5 * (h * h), a])
    net = fc.Graph([a, b], [fc.Linear(6, 2, seed=1)(h), h])
    net.forward((X, Y))
    net.backward((X[:, :2], np.hstack([X, Y])))
    nodes, edges, _ = drawn(net, tmp_path)
    named, plain = 'the "first" & <only> \\one: Input(3)', "Input(3)"
    assert {text.replace("\n", " ") for text in nodes.values()} >= {named}
    edges = [tuple(text.replace("\n", " ") for text in edge) for edge in edges]
    linears = (net.layers[0], "0: Linear(3, 3) 12 parameters"), (net.layers[1], "1: Linear(6, 2) 14 parameters")
    layer, last = (
        f"{text} |dL/d weight| {np.linalg.norm(each.weight_grad):.3g} |dL/d bias| {np.linalg.norm(each.bias_grad):.3g}"
        for each, text in linears
    )
    ways = [(source, to) for source, to, _ in edges]
    assert sorted(ways) == sorted(
        [
            (named, layer),
            (plain, layer),
            (layer, "+"),
            (layer, "+"),
            ("+", "×"),
            ("+", "×"),
            ("×", "× 0.5"),
            ("× 0.5", "concatenate"),
            (named, "concatenate"),
            ("concatenate", last),
            (last, "output 0"),
            ("concatenate", "output 1"),
        ]
    )
    assert [t for _, to, t in edges if to == layer] == ["(n, 3)"] * 2 and net.layers[0] is shared
    assert {t for _, to, t in edges if to in ("output 0", "output 1")} == {"(n, 2)", "(n, 6)"}


@needs_dot
def test_networks_in_networks_are_framed(tmp_path):
    x = fc.Input(4)
    body = fc.Graph(x, x + fc.ReLU()(fc.Linear(4, 4, seed=0)(x)))
    net = fc.Sequential([fc.MLP([3, 5, 4], seed=1), body, fc.Linear(4, 1, seed=2)])
    nodes, edges, frames = drawn(net, tmp_path)
    assert frames == ["0: Sequential, 44 parameters", "1: Graph, 20 parameters"]
    before = "2: Linear(5, 4)\n24 parameters"
    assert {to for source, to, _ in edges if source == before} == {"0: Linear(4, 4)\n20 parameters", "+"}
    assert len(nodes) == 2 + 3 + 3 + 1


@needs_dot
def test_numbers_that_are_not_trained_are_not_parameters(tmp_path):
    net = fc.Sequential([fc.Standardize.of(X), fc.Linear(3, 4), fc.BatchNorm1d(4)])
    net.fit(X, np.tile(X, 2)[:, :4], loss=fc.MSELoss(), optimizer=fc.SGD(0.1))
    nodes, _, _ = drawn(net, tmp_path)
    counts = {text.split("(")[0]: re.findall(r"\d+ parameters", text) for text in nodes.values()}
    assert counts["Standardize"] == [] and counts["1: Linear"] == ["16 parameters"]
    assert counts["2: BatchNorm1d"] == ["8 parameters"] and "Sequential, 24 parameters" in net.plot().source


@needs_dot
def test_frozen_layers_and_any_width(tmp_path):
    net = fc.MLP([3, 4, 3])
    net[0].frozen = True
    nodes, _, _ = drawn(net, tmp_path)
    assert "0: Linear(3, 4)\n16 parameters, frozen" in nodes.values()
    assert net.plot().source.count("dashed") == 1
    nodes, edges, _ = drawn(fc.Sequential([fc.ReLU()]), tmp_path)
    assert [*nodes.values()] == ["Input(any width)", "ReLU()", "output"] and {t for *_, t in edges} == {"(n, any)"}


@needs_dot
def test_long_texts_are_wrapped_and_cut(tmp_path):
    net = fc.Sequential([fc.Linear(2, 2, name="name " * 40), fc.Linear(2, 2, name="x" * 100)])
    nodes, _, _ = drawn(net, tmp_path)
    rows = [row for text in nodes.values() for row in text.split("\n")]
    assert max(map(len, rows)) <= 36 and "…" in "".join(rows) and rows.count("6 parameters") == 2


@needs_dot
@pytest.mark.parametrize(("ending", "magic"), [(".svg", b"<?xml"), (".PNG", b"\x89PNG"), (".pdf", b"%PDF")])
def test_the_ending_decides_the_kind(tmp_path, ending, magic):
    file = tmp_path / f"net{ending}"
    assert fc.MLP([2, 1]).plot(str(file)).source.startswith("digraph")
    assert file.read_bytes().startswith(magic) and [*tmp_path.iterdir()] == [file]


def test_errors(tmp_path, monkeypatch):
    net = fc.MLP([2, 1])
    with pytest.raises(ValueError, match=r"'net.gif' must end in .svg, .png or .pdf"):
        net.plot("net.gif")
    monkeypatch.setenv("PATH", str(tmp_path))
    net.plot()
    with pytest.raises(RuntimeError, match="program `dot` must be on the PATH: apt install graphviz"):
        net.plot(tmp_path / "net.svg")
    assert [*tmp_path.iterdir()] == []


@needs_dot
def test_the_source_is_graphviz():
    source = fc.MLP([2, 3, 1]).plot().source
    done = subprocess.run(["dot", "-Tplain"], input=source, capture_output=True, text=True, check=True)
    assert len(re.findall("^node", done.stdout, re.MULTILINE)) == 5 and done.stderr == ""
