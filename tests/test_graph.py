import copy
import gc
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc
from fastfc import Graph, Input, Linear, concatenate, reference
from fastfc.kernels.program import table as program_table

CLONES = [copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))]


# Graphs by NumPy: each function gives what it computes, and a function from its gradient to those of what it reads.


def linear(layer, x, grads):
    def back(g):
        weight_grad = np.concatenate([(x.T @ g).ravel(), g.sum(axis=0)])
        grads[layer] = grads.get(layer, 0) + weight_grad
        return g @ layer.weight.T.astype(float)

    return x @ layer.weight.astype(float) + layer.bias, back


def layer_by_numpy(layer, x, grads):
    if isinstance(layer, Linear):
        return linear(layer, x, grads)
    if isinstance(layer, Graph):
        values, back = graph_by_numpy(layer, [x], grads)
        return values[0], lambda g: back([g])[0]
    if isinstance(layer, fc.Sequential):
        backs = []
        for part in layer:
            x, back = layer_by_numpy(part, x, grads)
            backs.append(back)

        def all_back(g):
            for back in reversed(backs):
                g = back(g)
            return g

        return x, all_back
    y = reference.ACTIVATIONS[layer.name](x)
    return y, lambda g: reference.DERIVATIVES[layer.name](y, g)


def gate_by_numpy(node, read):
    if node.what == program_table.ADD:
        return read[0] + read[1], lambda g: [g, g]
    if node.what == program_table.MULTIPLY:
        return read[0] * read[1], lambda g: [g * read[1], g * read[0]]
    if node.what == program_table.SCALE:
        return node.factor * read[0], lambda g: [node.factor * g]
    ends = np.cumsum([x.shape[1] for x in read])[:-1]
    return np.concatenate(read, axis=1), lambda g: np.split(g, ends, axis=1)


def graph_by_numpy(graph, inputs, grads):
    values, backs = dict(zip(graph.inputs, inputs, strict=True)), {}
    for node in graph.nodes:
        read = [values[other] for other in node.inputs]
        if isinstance(node.what, fc.nn.layer.Layer):
            values[node], back = layer_by_numpy(node.what, read[0], grads)
            backs[node] = lambda g, back=back: [back(g)]
        elif node.inputs:
            values[node], backs[node] = gate_by_numpy(node, read)

    def back(grad_outputs):
        gradients = {node: 0 for node in graph.nodes}
        for node, g in zip(graph.outputs, grad_outputs, strict=True):
            gradients[node] = gradients[node] + g
        for node in reversed(graph.nodes):
            if node.inputs:
                for other, g in zip(node.inputs, backs[node](gradients[node]), strict=True):
                    gradients[other] = gradients[other] + g
        return [gradients[node] for node in graph.inputs]

    return [values[node] for node in graph.outputs], back


def leaves(layer):
    """All Linear layers, in the order of the parameters."""
    return [
        part for child in getattr(layer, "layers", [layer]) for part in ([child] if child is layer else leaves(child))
    ]


def as_list(x):
    return list(x) if isinstance(x, tuple) else [x]


def as_given(arrays):
    """One array, or a tuple of several: as a graph takes and gives them."""
    return tuple(arrays) if len(arrays) > 1 else arrays[0]


def random_arrays(nodes, n=3, seed=0, low=-2, high=3):
    rng = np.random.default_rng(seed)
    return [rng.integers(low, high, (n, node.width)).astype(float) for node in nodes]


def set_integers(net, seed=0):
    net.params[:] = np.random.default_rng(seed).integers(-2, 3, net.params.size)


def assert_like_numpy(graph, n=3, rtol=0.0):
    """Forward, predict, backward and all gradients, exact if rtol is 0."""
    x, g, grads = random_arrays(graph.inputs, n), random_arrays(graph.outputs, n, 1), {}
    outputs, back = graph_by_numpy(graph, x, grads)
    inputs_grad = back(g)
    same = lambda got, wanted: assert_allclose(got, wanted, rtol=rtol, atol=rtol)
    for method in (graph.predict, graph.forward):
        for got, wanted, node in zip(as_list(method(as_given(x))), outputs, graph.outputs, strict=True):
            assert got.shape == (n, node.width)
            same(got, wanted)
    graph.grads[:] = np.nan
    for got, wanted in zip(as_list(graph.backward(as_given(g))), inputs_grad, strict=True):
        same(got, np.broadcast_to(wanted, got.shape))
    for layer in leaves(graph):
        if layer.params.size:
            same(layer.grads, grads[layer])
    return x, outputs


def linear_of_integers(n_in, n_out, seed=0):
    layer = Linear(n_in, n_out, dtype=np.float64)
    set_integers(layer, seed)
    return layer


@st.composite
def random_graphs(draw):
    """Graphs of integers, so small that all sums are exact."""
    inputs = [Input(width) for width in draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))]
    nodes, layers, products = list(inputs), [], 0
    for seed in range(draw(st.integers(0, 10))):
        a = draw(st.sampled_from(nodes))
        alike = [node for node in nodes if node.width == a.width]
        kind = draw(st.sampled_from(["linear", "shared", "relu", "identity", "inner", "add", "*", "scale", "concat"]))
        width = draw(st.integers(1, 4))
        if kind == "linear":
            layers.append(linear_of_integers(a.width, width, seed))
            nodes.append(layers[-1](a))
        elif kind == "shared" and any(layer.in_features == a.width for layer in layers):
            nodes.append(draw(st.sampled_from([layer for layer in layers if layer.in_features == a.width]))(a))
        elif kind == "relu":
            nodes.append(fc.ReLU()(a))
        elif kind == "identity":
            nodes.append(fc.Identity()(a))
        elif kind == "inner":
            x = Input(a.width)
            inner = draw(
                st.sampled_from(
                    [
                        Graph(x, x),
                        Graph(x, fc.ReLU()(x)),
                        Graph(x, x + fc.Identity()(x)),
                        fc.Sequential([fc.Identity(), fc.ReLU()]),
                        fc.Sequential([linear_of_integers(a.width, width, seed), fc.ReLU()]),
                    ]
                )
            )
            layers.append(inner) if inner.in_features else None
            nodes.append(inner(a))
        elif kind == "add":
            nodes.append(a + draw(st.sampled_from(alike)))
        elif kind == "*" and products < 2:
            products += 1
            nodes.append(a * draw(st.sampled_from(alike)))
        elif kind == "scale":
            nodes.append(draw(st.sampled_from([-1, 0, 2, 0.5])) * a)
        elif kind == "concat":
            nodes.append(concatenate(draw(st.lists(st.sampled_from(nodes), min_size=1, max_size=3))))
    outputs = draw(st.lists(st.sampled_from(nodes), min_size=1, max_size=4))
    needed = set(fc.models.graph.in_order(outputs))
    return Graph([node for node in inputs if node in needed], outputs)


@given(graph=random_graphs(), n=st.sampled_from([0, 1, 3, 17]))
def test_random_graphs_are_exact(graph, n):
    x = random_arrays(graph.inputs, n)
    sizes = [np.abs(y).max(initial=0) for y in graph_by_numpy(graph, x, {})[0]]
    assume(max(sizes) < 2**20)
    assert_like_numpy(graph, n)
    twin = copy.deepcopy(graph)
    assert twin.params.size == graph.params.size
    assert_like_numpy(twin, n)


@given(graph=random_graphs(), cuts=st.lists(st.integers(0, 40), max_size=3))
def test_a_sample_has_the_same_bits_in_any_batch(graph, cuts):
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((40, node.width)) for node in graph.inputs]
    whole = as_list(graph.forward(as_given(x)))
    ends = [0, *sorted(cuts), 40]
    parts = [as_list(graph.predict(as_given([a[begin:end] for a in x]))) for begin, end in pairwise(ends)]
    for y, part in zip(whole, zip(*parts, strict=True), strict=True):
        assert_array_equal(np.concatenate(part), y)
    one = as_list(graph.predict(as_given([a[7] for a in x])))
    for y, y_one in zip(whole, one, strict=True):
        assert_array_equal(y_one, y[7])


def shared_between_two_inputs():
    a, b, layer = Input(3), Input(3), linear_of_integers(3, 2)
    return Graph([a, b], [layer(a), layer(b), layer(a) * layer(b)])


def shared_in_a_chain():
    x, layer = Input(3), linear_of_integers(3, 3)
    return Graph(x, layer(fc.ReLU()(layer(layer(x)))))


def residual():
    x = Input(3)
    h = fc.ReLU()(linear_of_integers(3, 4)(x))
    h = h + fc.ReLU()(linear_of_integers(4, 4, 1)(h))
    return Graph(x, linear_of_integers(4, 2, 2)(h))


def relu_with_another_reader_before_it():
    x = Input(3)
    h = linear_of_integers(3, 4)(x)
    return Graph(x, [fc.ReLU()(h), h + h])


def relu_with_another_reader_behind_it():
    x = Input(3)
    h = fc.ReLU()(linear_of_integers(3, 4)(x))
    return Graph(x, [fc.ReLU()(h), h, linear_of_integers(4, 1)(h)])


def two_activations_of_one_product():
    x = Input(3)
    h = linear_of_integers(3, 4)(x)
    return Graph(x, concatenate([fc.ReLU()(h), fc.ReLU()(-h)]))


def identities_with_several_readers():
    x = Input(3)
    h = linear_of_integers(3, 4)(x)
    i = fc.Identity()(fc.Identity()(h))
    return Graph(x, [fc.ReLU()(i), fc.Identity()(i), fc.Identity()(fc.ReLU()(h))])


def inner_graph_with_another_reader():
    x, a, b = Input(3), Input(4), Input(4)
    h = linear_of_integers(3, 4)(x)
    return Graph(x, [Graph(a, fc.ReLU()(a))(h), fc.ReLU()(Graph(b, b)(h)), h])


def inner_graph_without_another_reader():
    x, a = Input(3), Input(4)
    return Graph(x, Graph(a, fc.ReLU()(a))(linear_of_integers(3, 4)(x)))


def inner_graph_twice():
    x, a = Input(3), Input(3)
    inner = Graph(a, a + linear_of_integers(3, 3)(a))
    return Graph(x, inner(inner(x)))


def sequential_with_another_reader():
    x = Input(3)
    h = linear_of_integers(3, 4)(x)
    return Graph(x, [fc.Sequential([fc.Identity(), fc.ReLU(), linear_of_integers(4, 2)])(h), h])


def everything_out():
    x = Input(2)
    h = linear_of_integers(2, 2)(x)
    y = fc.ReLU()(h)
    return Graph(x, [y, x, h, y, x, x + h, y * h])


def powers():
    x = Input(2)
    square = x * x
    return Graph(x, [square, square * x, x + x, (x + x) * (x + x)])


def scales():
    x = Input(2)
    return Graph(x, [-x, 0 * x, x * 2.5, -3 * (x - 0.5 * x), 1 * x])


def takes_apart():
    a, b = Input(1), Input(3)
    c = concatenate([b, a, b])
    return Graph([a, b], [c * c, linear_of_integers(7, 2)(c), concatenate([concatenate([a, c])])])


def only_an_input():
    x = Input(3)
    return Graph(x, x)


def inputs_crossed():
    a, b = Input(1), Input(3)
    return Graph([a, b], [b, a])


SHAPED = [
    shared_between_two_inputs,
    shared_in_a_chain,
    residual,
    relu_with_another_reader_before_it,
    relu_with_another_reader_behind_it,
    two_activations_of_one_product,
    identities_with_several_readers,
    inner_graph_with_another_reader,
    inner_graph_without_another_reader,
    inner_graph_twice,
    sequential_with_another_reader,
    everything_out,
    powers,
    scales,
    takes_apart,
    only_an_input,
    inputs_crossed,
]


@pytest.mark.parametrize("n", [0, 1, 5, 33])
@pytest.mark.parametrize("build", SHAPED)
def test_shaped_graphs_are_exact(build, n):
    assert_like_numpy(build(), n)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_known_answer(dtype):
    x, y, z = Input(1), Input(1), Input(1)
    graph = Graph([x, y, z], (x + y) * z)
    arrays = tuple(np.array([[value]], dtype) for value in (-2, 5, -4))
    assert_array_equal(graph.forward(arrays), [[-12]])
    gradients = graph.backward(np.ones((1, 1), dtype))
    assert_array_equal(np.concatenate(gradients), [[-4], [-4], [3]])
    assert {gradient.dtype for gradient in gradients} == {np.dtype(dtype)}


def test_a_scale_is_one_rounding():
    x, values = Input(5), np.random.default_rng(0).standard_normal((3, 5))
    for dtype in (np.float32, np.float64):
        y = Graph(x, 0.1 * x).predict(values.astype(dtype))
        assert_array_equal(y, dtype(0.1) * values.astype(dtype))
    for factor in (np.float32(-2), np.float64(-2), np.int64(-2), -2):
        assert_array_equal(Graph(x, factor * x).predict(values), -2 * values)
        assert_array_equal(Graph(x, x * factor).predict(values), -2 * values)


@pytest.mark.parametrize("layer", [fc.Tanh, fc.Sigmoid, fc.Softmax, fc.ReLU, fc.Identity])
def test_activations_of_nodes_with_one_and_several_readers(layer):
    x = Input(3)
    trunk = [linear_of_integers(3, 4, seed) for seed in range(3)]
    a, b, c = (linear(x) for linear in trunk)
    once, twice, product = layer()(a), layer()(b), layer()(a * c)
    graph = Graph(x, [once, twice, twice * b, linear_of_integers(4, 1)(product), layer()(x), layer()(layer()(c))])
    assert_like_numpy(graph, 5, rtol=1e-12)


def smooth(dtype=np.float64):
    """One input, one output, all activations, a shared layer, all gates."""
    x = Input(3, name="x")
    shared = Linear(4, 4, seed=1, dtype=dtype, name="shared")
    h = fc.Tanh()(Linear(3, 4, seed=0, dtype=dtype)(x))
    h = fc.Sigmoid()(shared(h)) - fc.Softmax()(h) * shared(h)
    return Graph(x, Linear(7, 2, seed=2, dtype=dtype)(concatenate([h, x * x])))


def two_by_two(dtype=np.float64):
    """Two inputs, two outputs."""
    a, b = Input(2, name="a"), Input(3)
    h = fc.Tanh()(Linear(2, 4, seed=0, dtype=dtype)(a)) + Linear(3, 4, seed=1, dtype=dtype)(b)
    return Graph([a, b], [Linear(4, 2, seed=2, dtype=dtype)(h), fc.Tanh()(h)])


def data(n=10, seed=0):
    """Inputs and outputs of two_by_two."""
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal((n, 2 + i)) for i in range(2)), tuple(
        rng.standard_normal((n, 2 + 2 * i)) for i in range(2)
    )


def test_gradients_against_differences():
    x = np.random.default_rng(0).standard_normal((5, 3))
    assert fc.check_gradients(smooth(), x)
    assert fc.check_gradients(smooth(), x, [0, 1, 1, 0, 1], fc.CrossEntropyLoss())
    assert fc.check_gradients(fc.Sequential([Linear(2, 3, seed=3, dtype=np.float64), smooth(), fc.Tanh()]), x[:, :2])


def test_gradients_of_several_inputs_against_differences():
    graph, (x, y) = two_by_two(), data(4)

    def loss(_):
        return sum((part * r).sum() for part, r in zip(graph.predict(x), y, strict=True))

    graph.forward(x)
    inputs_grad = graph.backward(y)
    for array, gradient in [*zip(x, inputs_grad, strict=True), (graph.params, graph.grads)]:
        assert_allclose(gradient, fc.numerical_gradient(loss, array), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_chain_has_the_bits_of_a_sequential(dtype):
    net = fc.MLP([3, 20, 20, 4], activation="tanh", output_activation="softmax", seed=0, dtype=dtype)
    x = node = Input(3)
    for layer in copy.deepcopy(net).layers:
        node = copy.deepcopy(layer)(node)
    graph, rng = Graph(x, node), np.random.default_rng(0)
    samples, targets = rng.standard_normal((50, 3)).astype(dtype), rng.random((50, 4)).astype(dtype)
    for each in (net, graph):
        each.fit(samples, targets, loss=fc.MSELoss(), optimizer=fc.SGD(0.1, momentum=0.9), epochs=2, seed=0)
    assert_array_equal(graph.params, net.params)
    assert_array_equal(graph.predict(samples), net.predict(samples))
    assert graph.history.loss == net.history.loss


@pytest.mark.parametrize("shuffle", [True, False])
def test_fit_with_several_inputs_and_outputs_is_the_loop_of_train_steps(shuffle):
    graph, (x, y) = two_by_two(), data(25)
    twin, loss = copy.deepcopy(graph), fc.MSELoss()
    graph.fit(x, y, loss=loss, optimizer=fc.SGD(0.1), epochs=2, batch_size=10, shuffle=shuffle, seed=0)
    rng, optimizer = np.random.default_rng(0), fc.SGD(0.1)
    for _ in range(2):
        order = rng.permutation(25) if shuffle else np.arange(25)
        for rows in (order[:10], order[10:20], order[20:]):
            prediction = np.concatenate(twin.predict([a[rows] for a in x]), axis=1)
            expected = np.mean((prediction - np.concatenate([a[rows] for a in y], axis=1)) ** 2)
            assert_allclose(twin.train_step([a[rows] for a in x], [a[rows] for a in y], loss, optimizer), expected)
    assert_array_equal(graph.params, twin.params)


def test_evaluate_and_validation_data_of_several_inputs_and_outputs():
    graph, (x, y) = two_by_two(), data(25)
    errors = np.concatenate(graph.predict(x), axis=1) - np.concatenate(y, axis=1)
    assert_allclose(graph.evaluate(x, y, fc.MSELoss()), np.mean(errors**2), rtol=1e-14)
    history = graph.fit(x, y, loss=fc.MSELoss(), optimizer=fc.SGD(0.1), validation_data=(x, y), epochs=2)
    assert history.val_loss[1] == graph.evaluate(x, y, fc.MSELoss())


def test_update_parameters_of_a_shared_layer_is_one_step():
    x, layer = Input(1), Linear(1, 1, init="zeros", dtype=np.float64)
    graph = Graph(x, layer(x) + layer(2 * x))
    graph.forward([[1.0]])
    graph.backward([[1.0]])
    assert_array_equal(layer.weight_grad, [[3]])
    assert_array_equal(layer.bias_grad, [2])
    graph.update_parameters(lr=0.5)
    assert_array_equal(graph.params, [-1.5, -1])


@pytest.mark.parametrize("clone", CLONES)
@pytest.mark.parametrize("build", [smooth, two_by_two, shared_in_a_chain, inner_graph_twice, only_an_input])
def test_copies_are_whole_and_independent(clone, build):
    graph = build()
    x, _ = assert_like_numpy(graph, rtol=1e-12)
    twin, before = clone(graph), graph.params.copy()
    assert repr(twin) == repr(graph) and twin.summary() == graph.summary()
    assert len(leaves(twin)) == len(leaves(graph)) and not set(leaves(twin)) & set(leaves(graph))
    for got, wanted in zip(as_list(twin.predict(as_given(x))), as_list(graph.predict(as_given(x))), strict=True):
        assert_array_equal(got, wanted)
    assert_array_equal(twin.grads, graph.grads)
    assert not np.shares_memory(twin.params, graph.params)
    assert twin.params.ctypes.data % 64 == 0 or not graph.params.size
    twin.params[:] = 1
    assert_like_numpy(twin, rtol=1e-12)
    assert_array_equal(graph.params, before)
    assert_like_numpy(graph, rtol=1e-12)
    if graph.layers:
        with pytest.raises(ValueError, match="is in another network"):
            fc.Sequential([twin.layers[0]])


@pytest.mark.parametrize("clone", CLONES)
def test_inputs_and_layers_of_a_copy_stay_what_they_are_to_each_other(clone):
    twin = clone(smooth())
    assert twin.inputs == (twin.nodes[0],) and twin.outputs == (twin.nodes[-1],)
    assert [node.what for node in twin.nodes if isinstance(node.what, Linear)] == [twin.layers[i] for i in (0, 2, 2, 5)]
    assert isinstance(twin.inputs[0], Input) and twin.inputs[0].name == "x"


def deep(n):
    """A long residual network: as an expression it has 2ⁿ nodes."""
    x = h = Input(2)
    for seed in range(n):
        h = h + fc.ReLU()(linear_of_integers(2, 2, seed)(0.25 * h))
    return Graph(x, h)


@pytest.mark.parametrize("clone", CLONES)
def test_deep_graphs(clone):
    graph = deep(250)
    x = np.ones((3, 2))
    assert len(repr(graph)) < 1000 and len(graph.summary().splitlines()) == 1 + 1 + 4 * 250 + 1
    assert_array_equal(clone(graph).predict(x), graph.forward(x))
    with pytest.raises(ValueError, match=r"x has shape \(3, 1\), expected \(n, 2\)"):
        graph.predict(x[:, :1])


def test_graph_as_a_layer():
    inner, last = residual(), linear_of_integers(2, 1)
    net = fc.Sequential([inner, fc.ReLU(), last])
    x, y = random_arrays([Input(3), Input(1)], 5)
    assert np.shares_memory(inner.params, net.params) and [name for name, _, _ in net.named_parameters()] == [
        *(f"0.{i}.{what}" for i in (0, 2, 4) for what in ("weight", "bias")),
        "2.weight",
        "2.bias",
    ]
    node = Input(3)
    assert_like_numpy(Graph(node, copy.deepcopy(net)(node)))
    for each in (net, copy.deepcopy(net)):
        each.train_step(x, y, fc.MSELoss(), fc.SGD(2.0**-6))
        assert_array_equal(each.predict(x), each[2].predict(np.maximum(each[0].predict(x), 0)))


def test_layers_are_free_again_when_their_graph_is_gone():
    x, layer = Input(3), Linear(3, 2)
    Graph(x, layer(x))
    gc.collect()
    Graph(x, layer(x))


def test_what_x_may_be():
    graph, (x, _) = two_by_two(np.float32), data(6)
    expected = graph.predict(x)
    for change in (
        list,
        lambda x: [a.tolist() for a in x],
        lambda x: tuple(map(np.asfortranarray, x)),
        lambda x: tuple(a.astype(np.float32) for a in x),
        lambda x: (x[0].astype(">f4"), np.repeat(x[1], 2, axis=0)[::2]),
    ):
        for got, wanted in zip(graph.predict(change(x)), expected, strict=True):
            assert_array_equal(got, wanted)
    gates = Graph([a := Input(1), b := Input(1)], a + b)
    assert gates.predict(([[1]], np.ones((1, 1)))).dtype == np.float64 and gates.dtype is None
    assert gates.predict(([[1]], [[1]])).dtype == np.float32


def cyclic():
    x, layer = Input(2), Linear(2, 2)
    h = layer(x)
    h.inputs = (fc.ReLU()(h),)
    return Graph(x, h)


def cyclic_gate():
    x = Input(2)
    h = x + x
    h.inputs = (h, x)
    return Graph(x, h)


def foreign():
    net, x = fc.MLP([2, 3]), Input(2)
    return Graph(x, net[0](x))


def mixed():
    x = Input(2)
    return Graph(x, Linear(2, 3, dtype=np.float64)(Linear(2, 2)(x)))


def through(layer, **options):
    x = Input(2, **options)
    return Graph(x, layer(x))


A, B = Input(2), Input(3, name="speed")
BAD = [
    (lambda: A + B, ValueError, r"Input\(2\) \+ Input\(3, 'speed'\): 2 and 3 numbers per sample"),
    (lambda: A * B, ValueError, r"Input\(2\) \* Input\(3, 'speed'\): 2 and 3 numbers"),
    (lambda: A - B, ValueError, "2 and 3 numbers"),
    (lambda: A + 1, TypeError, r"Input\(2\) \+ 1: both sides must be nodes of a graph"),
    (lambda: A - 1, TypeError, "both sides must be nodes"),
    (lambda: A + np.ones(2), TypeError, "both sides must be nodes"),
    (lambda: np.ones(2) + A, TypeError, "both sides must be nodes"),
    (lambda: sum([A, A]), TypeError, r"\+ 0: both sides must be nodes"),
    (lambda: 1 - A, TypeError, "both sides must be nodes"),
    (lambda: np.ones(2) * A, TypeError, "scale: the factor's size must be a number, got array"),
    (lambda: A * "2", TypeError, "must be a number, got '2'"),
    (lambda: A * np.nan, ValueError, "must be finite"),
    (lambda: -np.inf * A, ValueError, "must be finite"),
    (lambda: Input(0), ValueError, "Input: width must be at least 1, got 0"),
    (lambda: Input(2.5), TypeError, "Input: width must be an integer"),
    (lambda: concatenate([]), ValueError, "concatenate: give at least one node"),
    (lambda: concatenate([A, np.ones(2)]), TypeError, "concatenate takes nodes of a graph, such as .*array"),
    (lambda: Linear(3, 1)(A), ValueError, r"Linear\(3, 1\) takes 3 numbers per sample, but Input\(2\) gives 2"),
    (lambda: Linear(2, 1)(np.ones((1, 2))), TypeError, r"Linear\(2, 1\) is called with nodes .* predict or forward"),
    (lambda: fc.ReLU()([1, 2]), TypeError, "is called with nodes"),
    (lambda: two_by_two()(B), ValueError, "only a graph of one input and one output can be a layer"),
    (lambda: Graph([], A), ValueError, "give at least one node as inputs"),
    (lambda: Graph(A, []), ValueError, "give at least one node as outputs"),
    (lambda: Graph(np.ones((1, 2)), A), TypeError, "inputs must be nodes .* got array"),
    (lambda: Graph(A, [A, "A"]), TypeError, "outputs must be nodes .* got 'A'"),
    (lambda: Graph([A, A], A), ValueError, r"Input\(2\) is duplicated among the inputs"),
    (lambda: Graph(-A, -A), ValueError, r"inputs must be Input nodes, got scale\(Input\(2\)\)"),
    (lambda: Graph([A, B], A), ValueError, r"no output needs Input\(3, 'speed'\); leave it out"),
    (lambda: Graph(A, concatenate([A, B])), ValueError, r"the outputs need Input\(3, 'speed'\), which is not among"),
    (cyclic, ValueError, r"a cycle, Linear\(2, 2\) reads its own output"),
    (cyclic_gate, ValueError, "a cycle, add reads its own output"),
    (foreign, ValueError, r"layer 0, Linear\(2, 3\), is in another network; copy.deepcopy"),
    (mixed, ValueError, r"Linear\(2, 2\) is float32, but Linear\(2, 3, dtype=float64\) is float64"),
    (lambda: fc.Sequential([Linear(2, 3), through(fc.ReLU())]), ValueError, "gives 3 numbers .* takes 2; make"),
]


@pytest.mark.parametrize("build, error, message", BAD)
def test_bad_graphs(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_refused_layers_are_unchanged():
    x, free, net = Input(2), Linear(2, 2), fc.MLP([2, 2])
    params = free.params
    for outputs in ([net[0](free(x))], [free(x), Linear(2, 1, dtype=np.float64)(x)]):
        with pytest.raises(ValueError):
            Graph(x, outputs)
    assert free.params is params and np.shares_memory(net[0].weight, net.params)
    assert Graph(x, free(x)).layers == (free,)


X, Y = data(6)
BAD_X = [
    (X[0], ValueError, r"x must be a tuple of 2 arrays, one for each of \[Input\(2, 'a'\), Input\(3\)\]"),
    (np.concatenate(X, axis=1), ValueError, "must be a tuple of 2 arrays"),
    (X + X[:1], ValueError, "must be a tuple of 2 arrays"),
    (X[::-1], ValueError, r"x\[0\] has shape \(6, 3\), expected \(6, 2\) for Input\(2, 'a'\)"),
    ((X[0], X[1][:5]), ValueError, r"x\[1\] has shape \(5, 3\), expected \(6, 3\)"),
    ((X[0], X[1][0]), ValueError, r"x\[1\] has shape \(3,\)"),
    ((X[0][None], X[1][None]), ValueError, r"x\[0\] has shape \(1, 6, 2\)"),
    ((1.0, X[1]), ValueError, r"x\[0\] has shape \(\)"),
    ((X[0] * 1j, X[1]), TypeError, r"x\[0\] has dtype complex128"),
    ((A, X[1]), TypeError, r"x\[0\] has dtype object"),
]


@pytest.mark.parametrize("x, error, message", BAD_X)
def test_bad_x_changes_nothing(x, error, message):
    graph, loss, optimizer = two_by_two(), fc.MSELoss(), fc.SGD(0.1, momentum=0.9)
    graph.forward(X)
    before, grads, params = graph.backward(Y), graph.grads.copy(), graph.params.copy()
    for method in (
        graph.predict,
        graph.forward,
        lambda x: graph.train_step(x, Y, loss, optimizer),
        lambda x: graph.fit(x, Y, loss=loss, optimizer=optimizer),
        lambda x: graph.evaluate(x, Y, loss),
    ):
        with pytest.raises(error, match=message):
            method(x)
    assert_array_equal(np.concatenate(graph.backward(Y), axis=1), np.concatenate(before, axis=1))
    assert_array_equal(graph.grads, grads)
    assert_array_equal(graph.params, params)


@pytest.mark.parametrize(
    "y, error, message",
    [
        (Y[0], ValueError, "must be a tuple of 2 arrays"),
        (Y[::-1], ValueError, r"\[0\] has shape \(6, 4\), expected \(6, 2\)"),
        ((Y[0], Y[1][:4]), ValueError, r"\[1\] has shape \(4, 4\)"),
        ((Y[0][:5], Y[1][:5]), ValueError, r"\(5, 6\)"),
        ((Y[0], Y[1] * 1j), TypeError, r"\[1\] has dtype complex128"),
    ],
)
def test_bad_targets_and_gradients_change_nothing(y, error, message):
    graph, loss, optimizer = two_by_two(), fc.MSELoss(), fc.SGD(0.1)
    graph.forward(X)
    graph.grads[:] = 7
    params = graph.params.copy()
    for method in (
        graph.backward,
        lambda y: graph.train_step(X, y, loss, optimizer),
        lambda y: graph.fit(X, y, loss=loss, optimizer=optimizer),
    ):
        with pytest.raises(error, match=message):
            method(y)
    assert (graph.grads == 7).all()
    assert_array_equal(graph.params, params)
    graph.backward(Y)


def test_backward_needs_forward():
    graph = two_by_two()
    graph.predict(X)
    with pytest.raises(RuntimeError, match=r"call forward\(x\) first"):
        graph.backward(Y)


def test_summary():
    assert smooth(np.float32).summary().splitlines() == [
        "node   what                         reads  output  parameters",
        "x      Input                                    3           0",
        "1      Linear(3, 4)                 x           4          16",
        "2      Tanh()                       1           4           0",
        "3      Linear(4, 4, name='shared')  2           4          20",
        "4      Sigmoid()                    3           4           0",
        "5      Softmax()                    2           4           0",
        "6      Linear(4, 4, name='shared')  2           4           0",
        "7      multiply                     5, 6        4           0",
        "8      scale                        7           4           0",
        "9      add                          4, 8        4           0",
        "10     multiply                     x, x        3           0",
        "11     concatenate                  9, 10       7           0",
        "12     Linear(7, 2)                 11          2          16",
        "total                                                      52",
    ]


def test_repr():
    x, layer = Input(2, name="x"), Linear(2, 3)
    h = fc.ReLU()(layer(x))
    assert repr(Graph(x, -h + h)) == (
        "Graph(Input(2, 'x'), add(scale(ReLU()(Linear(2, 3)(Input(2, 'x')))), ReLU()(Linear(2, 3)(Input(2, 'x')))))"
    )
    y = Input(2)
    assert repr(Graph([x, y], [x * y, concatenate([x, y])])) == (
        "Graph([Input(2, 'x'), Input(2)], [multiply(Input(2, 'x'), Input(2)), concatenate(Input(2, 'x'), Input(2))])"
    )


def test_repr_of_long_chains_and_many_readers_is_short():
    chain = tower = x = Input(1)
    for _ in range(3000):
        chain, tower = -chain, tower + tower
    for node in (chain, tower, concatenate([x] * 100)):
        assert len(repr(node)) < 400 and "..." in repr(node)
