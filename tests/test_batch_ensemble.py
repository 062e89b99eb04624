"""Members within one network: BatchEnsemble, LinearEnsemble, MemberMean, and MemberLoss."""

import copy
import pickle

import numpy as np
import pytest
from arrays import DTYPES, LAYOUTS, normal
from examples import LOSSES, ids
from nopython_code import train_step, train_two
from numba import njit
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc
from fastfc import reference
from fastfc.kernels.program import table

dtypes = pytest.mark.parametrize("dtype", DTYPES)
X, LABELS = normal((40, 5), np.float32), np.random.default_rng(0).integers(0, 3, 40)
# member_in, member_out, members; among them one number, one member, more than a register, and narrow with long sums
SIZES = [(1, 1, 1), (3, 2, 1), (1, 1, 4), (5, 3, 3), (19, 33, 2), (70, 2, 3)]


def tolerance(dtype, scale=64):
    return {"rtol": scale * np.finfo(dtype).eps, "atol": scale * np.finfo(dtype).eps}


def drawn(layer):
    """A layer with parameters that are not special."""
    for i, (_, values, _) in enumerate(layer.named_parameters()):
        values[...] += normal(values.shape, values.dtype, i + 7) / 2
    return layer


def wide(*arrays):
    return [np.asarray(a, np.float64) for a in arrays]


def tabm(members=4, hidden=8, outputs=3, dropout=0.0, dtype=np.float32):
    layers = [
        fc.BatchEnsemble(5, hidden, members, shared_input=True, seed=0, dtype=dtype),
        fc.ReLU(),
        fc.BatchEnsemble(hidden, hidden, members, seed=1, dtype=dtype),
        fc.ReLU(),
        *([fc.Dropout(dropout, seed=2)] if dropout else []),
        fc.LinearEnsemble(hidden, outputs, members, seed=3, dtype=dtype),
    ]
    return fc.Sequential(layers)


# ---------- layers


@dtypes
@pytest.mark.parametrize("n", [1, 7, 300])
@pytest.mark.parametrize("shared_input", [False, True])
@pytest.mark.parametrize("i, o, k", SIZES)
def test_batch_ensemble_is_the_formula(i, o, k, shared_input, n, dtype):
    layer = drawn(fc.BatchEnsemble(i, o, k, shared_input=shared_input, seed=0, dtype=dtype))
    x, g = normal((n, layer.in_features), dtype), normal((n, k * o), dtype, 1)
    w, r, s, b = wide(layer.weight, layer.input_scale, layer.output_scale, layer.bias)
    assert_allclose(layer.predict(x), reference.batch_ensemble(x, w, r, s, b), **tolerance(dtype, 8 * i))
    assert_array_equal(layer.forward(x), layer.predict(x))
    of_x = layer.backward(g)
    x64, g64 = (a.astype(np.float64).reshape(n, -1, size) for a, size in ((x, i), (g, o)))
    u, dv = x64 * r, g64 * s
    du = dv @ w.T
    expected = {
        "weight": np.einsum("nmi,nmo->io", u, dv),
        "input_scale": (du * x64).sum(axis=0),
        "output_scale": (g64 * (u @ w)).sum(axis=0),
        "bias": g64.sum(axis=0),
    }
    bound = tolerance(dtype, 16 * n * k * (i + o))
    for name, _, grad in layer.named_parameters():
        assert_allclose(grad, expected[name], **bound, err_msg=name)
    dx = (du * r).sum(axis=1) if shared_input else (du * r).reshape(n, k * i)
    assert_allclose(of_x, dx, **bound)


@dtypes
@pytest.mark.parametrize("shared_input", [False, True])
@pytest.mark.parametrize("i, o, k", SIZES)
def test_linear_ensemble_is_linear_layers_side_by_side(i, o, k, shared_input, dtype):
    """Bit by bit, but for the gradient of an input that all members share."""
    layer = drawn(fc.LinearEnsemble(i, o, k, shared_input=shared_input, seed=0, dtype=dtype))
    x, g = normal((9, layer.in_features), dtype), normal((9, k * o), dtype, 1)
    y, of_x = layer.forward(x), layer.backward(g)
    assert_array_equal(layer.predict(x), y)
    w, b = wide(layer.weight, layer.bias)
    assert_allclose(y, reference.linear_ensemble(x, w, b), **tolerance(dtype, 8 * i))
    inputs = []
    for m in range(k):
        one, own = fc.Linear(i, o, dtype=dtype), slice(m * o, (m + 1) * o)
        one.weight, one.bias = layer.weight[m], layer.bias[m]
        assert_array_equal(one.forward(x if shared_input else x[:, m * i : (m + 1) * i]), y[:, own])
        inputs.append(one.backward(g[:, own]))
        assert_array_equal(layer.weight_grad[m], one.weight_grad)
        assert_array_equal(layer.bias_grad[m], one.bias_grad)
    expected = sum(a.astype(np.float64) for a in inputs) if shared_input else np.hstack(inputs)
    assert_allclose(of_x, expected, **tolerance(dtype, 8 * k * shared_input))


@dtypes
@pytest.mark.parametrize("activation", ["identity", "softmax", "log_softmax", "sigmoid", "mish"])
@pytest.mark.parametrize("c, k", [(1, 1), (3, 1), (1, 4), (5, 3), (19, 2)])
def test_member_mean_is_the_formula(c, k, activation, dtype):
    layer, x, g = fc.MemberMean(c, k, activation), normal((9, k * c), dtype), normal((9, c), dtype, 1)
    assert_allclose(layer.predict(x), reference.member_mean(x.astype(float), k, activation), **tolerance(dtype))
    assert_array_equal(layer.forward(x), layer.predict(x))
    rows = fc.nn.activations.get_activation(activation)
    rows.forward(np.ascontiguousarray(x.reshape(9 * k, c)))
    expected = rows.backward(np.repeat(g / k, k, axis=0)).reshape(9, k * c)
    assert_allclose(layer.backward(g), expected, **tolerance(dtype))


def test_first_values():
    """Members of the first layer differ by signs; others begin alike but for the last layer."""
    first, next_one = (fc.BatchEnsemble(4, 3, 5, shared_input=shared, seed=0) for shared in (True, False))
    assert set(first.input_scale.ravel()) == {-1, 1} and (next_one.input_scale == 1).all()
    for layer in (first, next_one):
        assert (layer.output_scale == 1).all() and (layer.bias == 0).all()
    layer = fc.BatchEnsemble(4, 3, 5, bias_init="normal", scale_init="normal", init="zeros", seed=0)
    assert len(set(layer.input_scale.ravel())) == 20 and not layer.weight.any()
    assert (layer.bias == layer.bias[0]).all() and layer.bias[0].all()
    heads = fc.LinearEnsemble(400, 30, 3, seed=0)
    assert_allclose(heads.weight.std(axis=(1, 2)), np.sqrt(2 / 400), rtol=0.03)
    assert not np.array_equal(heads.weight[0], heads.weight[1])
    assert_array_equal(heads.weight, fc.LinearEnsemble(400, 30, 3, seed=0).weight)


def test_members_of_a_network_do_not_see_one_another():
    """But for the shared W: each member alone is a network of Linear layers."""
    net = tabm(dtype=np.float64)
    for _, values, _ in net.named_parameters():
        values += normal(values.shape, np.float64, values.size) / 4
    x, whole = X.astype(np.float64), net.predict(X)
    for m in range(4):
        h = x
        for layer in (net[0], net[2]):
            h = np.maximum((h * layer.input_scale[m]) @ layer.weight * layer.output_scale[m] + layer.bias[m], 0)
        assert_allclose(h @ net[-1].weight[m] + net[-1].bias[m], whole[:, 3 * m : 3 * m + 3], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_a_network(bias):
    x = fc.Input(5)
    h = fc.BatchEnsemble(5, 4, 3, bias, shared_input=True, scale_init="normal", seed=0, dtype=np.float64)(x)
    h = fc.BatchEnsemble(4, 4, 3, bias, scale_init="normal", seed=1, dtype=np.float64)(fc.Tanh()(h)) + h
    h = fc.LinearEnsemble(4, 3, 3, bias, seed=2, dtype=np.float64)(h)
    whole = [fc.MemberMean(3, 3, f)(h) for f in ("softmax", "tanh")]
    net = fc.Graph(x, fc.concatenate([h, *whole]))
    for layer in net.layers:
        drawn(layer)
    assert fc.check_gradients(net, X[:6].astype(np.float64))


def test_gradients_of_a_value_that_many_read():
    """Each op but the last one adds to the gradient that is there."""
    x = fc.Input(5)
    h = fc.Linear(5, 6, seed=0, dtype=np.float64)(x)
    readers = [
        fc.LinearEnsemble(2, 1, 3, seed=1, dtype=np.float64),
        fc.LinearEnsemble(6, 1, 2, shared_input=True, seed=2, dtype=np.float64),
        fc.BatchEnsemble(3, 2, 2, seed=3, dtype=np.float64),
        fc.BatchEnsemble(6, 1, 2, False, shared_input=True, seed=4, dtype=np.float64),
        *(fc.MemberMean(2, 3, f) for f in ("softmax", "identity", "mish")),
        fc.Linear(6, 1, seed=5, dtype=np.float64),
    ]
    net = fc.Graph(x, fc.concatenate([drawn(layer)(h) for layer in readers]))
    assert fc.check_gradients(net, X[:6].astype(np.float64))


def test_a_layer_that_is_called_twice_adds_its_gradients():
    layers = [fc.BatchEnsemble(2, 2, 3, seed=0, dtype=float), fc.LinearEnsemble(2, 2, 3, seed=1, dtype=float)]
    x = fc.Input(6)
    h = x
    for layer in (*layers, *layers):
        h = layer(fc.Tanh()(h))
    net = fc.Graph(x, h + fc.MemberMean(6, 1)(x))
    assert fc.check_gradients(net, normal((5, 6), np.float64))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strided_inputs_and_gradients_change_no_bit(layout):
    """LinearEnsemble and MemberMean read inputs and write outputs where they are."""
    x, change = fc.Input(6), LAYOUTS[layout]
    ends = [fc.LinearEnsemble(2, 3, 3, seed=0)(x), fc.MemberMean(2, 3, "softmax")(x)]
    net = fc.Graph(x, [*ends, fc.BatchEnsemble(2, 2, 3, seed=1)(x)])
    x, gs = normal((40, 6), np.float32), [normal((40, node.width), np.float32, 1) for node in net.outputs]
    expected = [*net.predict(x), *net.forward(x), net.backward(gs), net.grads.copy()]
    got = [*net.predict(change(x)), *net.forward(change(x)), net.backward([change(g) for g in gs]), net.grads.copy()]
    for a, b in zip(got, expected, strict=True):
        assert_array_equal(a, b)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_bits_of_a_row_do_not_depend_on_the_batch_or_the_threads(n_threads):
    net, x = tabm(8, 70), normal((700, 5), np.float32)
    net.n_threads = 1
    whole, out = net.predict(x), np.empty(24, np.float32)
    net.n_threads = n_threads
    for n in (1, 2, 3, 64, 699, 700):
        assert_array_equal(net.predict(x[:n]), whole[:n])
    net.predict_one(x[5], out)
    assert_array_equal(out, whole[5])
    assert_array_equal(net.forward(x), whole)
    assert net.program_for(x).multiplications == 8 * (5 * 70 + 70 * 70 + 70 * 3)


@pytest.mark.parametrize("frozen", ["first", "last", "all"])
def test_frozen_layers_stay(frozen):
    net, loss = tabm(), fc.MemberLoss(fc.CrossEntropyLoss(), 4)
    layers = {"first": [net[0]], "last": [net[-1]], "all": [net]}[frozen]
    for layer in layers:
        layer.frozen = True
    before = net.params.copy()
    net.train_step(X, LABELS, loss, fc.SGD(0.1, weight_decay=0.1))
    changed = {name for name, values, _ in net.named_parameters() if (values != view(before, net, name)).any()}
    there = {name for name, *_ in net.named_parameters()}
    gone = {"first": {n for n in there if n[0] == "0"}, "last": {n for n in there if n[0] == "4"}, "all": there}
    assert changed == there - gone[frozen]


def view(vector, net, name):
    """The part of a vector like params that has this name."""
    twin = copy.deepcopy(net)
    twin.params = vector
    return dict((known, values) for known, values, _ in twin.named_parameters())[name]


def test_groups_of_scales():
    """As TabM trains r and s without weight decay."""
    net = tabm()
    optimizer = fc.AdamW(1e-30, weight_decay=0.5, groups={"*_scale": {"lr": 0.01, "weight_decay": 0.0}})
    before = net[0].weight.copy(), net[0].input_scale.copy()
    net.train_step(X, LABELS, fc.MemberLoss(fc.CrossEntropyLoss(), 4), optimizer)
    assert_array_equal(net[0].weight, before[0])
    assert_allclose(np.abs(net[0].input_scale - before[1]).max(), 0.01, rtol=1e-3)


# ---------- what others get


def test_files_and_pickles(tmp_path):
    pytest.importorskip("safetensors")
    net = fc.Sequential([tabm(dropout=0.2), fc.MemberMean(3, 4, fc.Softmax())])
    drawn(net)
    net.save(tmp_path / "net.safetensors")
    for twin in (fc.load(tmp_path / "net.safetensors"), pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        assert repr(twin) == repr(net)
        assert_array_equal(twin.predict(X), net.predict(X))


NETS = {
    "shared input": lambda d: [fc.BatchEnsemble(5, 4, 3, shared_input=True, seed=0, dtype=d)],
    "batch": lambda d: [fc.BatchEnsemble(1, 4, 5, seed=0, dtype=d)],
    "batch without bias": lambda d: [fc.BatchEnsemble(5, 4, 1, False, seed=0, dtype=d)],
    "linear": lambda d: [fc.LinearEnsemble(1, 4, 5, seed=0, dtype=d)],
    "linear without bias": lambda d: [fc.LinearEnsemble(5, 4, 3, False, shared_input=True, seed=0, dtype=d)],
    "mean": lambda d: [fc.MemberMean(1, 5)],
    "mean of softmax": lambda d: [fc.Linear(5, 6, seed=0, dtype=d), fc.MemberMean(3, 2, "softmax")],
    "mean of log_softmax": lambda d: [fc.Linear(5, 6, seed=0, dtype=d), fc.MemberMean(3, 2, "log_softmax")],
    "mean of tanh": lambda d: [fc.Linear(5, 6, seed=0, dtype=d), fc.MemberMean(2, 3, "tanh")],
}


@dtypes
@pytest.mark.parametrize("name", NETS)
def test_onnx(name, dtype, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    net, path = fc.Sequential([drawn(layer) for layer in NETS[name](dtype)]), tmp_path / "net.onnx"
    net.to_onnx(path)
    session, width = runtime.InferenceSession(path), net.out_features
    read = session.get_inputs()[0]
    for n in (1, 40):
        x = X[:n].astype("f8" if "double" in read.type else "f4")
        (theirs,) = session.run(None, {read.name: x})
        assert theirs.shape == (n, width)
        assert_allclose(theirs, net.predict(x), **tolerance(x.dtype, 100))
    assert ("double" in read.type) == (net.dtype == np.float64)
    again = fc.from_onnx(path)
    assert_allclose(again.predict(x), net.predict(x), **tolerance(x.dtype, 100))


def test_a_network_comes_back_from_onnx_as_it_was(tmp_path):
    pytest.importorskip("onnx")
    net = fc.Sequential([tabm(dtype=np.float64), fc.MemberMean(3, 4, "softmax")])
    for layer in (net[0][0], net[0][2]):
        layer.output_scale += 1  # scales, which are divided by when they are read, are exact
        layer.bias += 0.5
    net.to_onnx(tmp_path / "net.onnx")
    again = fc.from_onnx(tmp_path / "net.onnx")
    kinds = [type(layer).__name__ for layer in again.layers]
    assert [kind for kind in kinds if "Ensemble" in kind or "Member" in kind] == [
        "BatchEnsemble", "BatchEnsemble", "LinearEnsemble", "MemberMean",
    ]  # fmt: skip
    assert not any("Standardize" in kind for kind in kinds)
    assert_array_equal(again.predict(X), net.predict(X))


BAD_ONNX = [
    ([("MatMul", "h,w", {})], {"w": np.ones(3)}, "members share one matrix"),
    ([("Einsum", "h,w", {"equation": "nmi,mjo->nmo"})], {"w": np.ones((2, 3, 2))}, "equation is"),
    ([("Einsum", "h,w", {"equation": "nmi,mio->nmo"})], {"w": np.ones((3, 3, 2))}, r"by \(3, 3, 2\)"),
    ([("Relu", "h", {})], {}, r"of \(batch, 6\) to \[0, 2, 3\]: supported is"),
    ([("Softmax", "h", {"axis": 2})], {}, r"of \(batch, 6\) to \[0, 2, 3\]: supported is"),
    ([("Softmax", "h", {"axis": 1})], {}, "flatten it before"),
]


@pytest.mark.parametrize("nodes, constants, message", BAD_ONNX, ids=ids([(row[2],) for row in BAD_ONNX]))
def test_what_is_not_of_members_is_refused(nodes, constants, message, tmp_path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    made = [helper.make_node("Reshape", ["x", "s"], ["h"])]
    made += [helper.make_node(op, read.split(","), ["y"], **given) for op, read, given in nodes]
    arrays = {name: array.astype(np.float32) for name, array in constants.items()} | {"s": np.array([0, 2, 3])}
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    ends = [helper.make_tensor_value_info("x", 1, ["n", 6]), helper.make_tensor_value_info("y", 1, None)]
    graph = helper.make_graph(made, "g", ends[:1], ends[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=message):
        fc.from_onnx(tmp_path / "net.onnx")


@dtypes
@pytest.mark.parametrize("name", NETS)
def test_to_torch_and_from_it(name, dtype):
    torch = pytest.importorskip("torch")
    net, x = fc.Sequential([drawn(layer) for layer in NETS[name](dtype)]), X.astype(dtype)
    module = net.to_torch()
    assert_allclose(module(torch.tensor(x)).detach().numpy(), net.predict(x), **tolerance(dtype, 100))
    again = fc.from_torch(module)
    assert repr(again) == repr(net)
    assert_array_equal(again.predict(x), net.predict(x))


@pytest.mark.parametrize("inner", [fc.CrossEntropyLoss(), fc.MSELoss()], ids=repr)
def test_in_nopython_code(inner):
    loss, nets = fc.MemberLoss(inner, 4), [tabm(dropout=0.3) for _ in range(2)]
    y = LABELS if inner.of_classes else normal((40, 3), np.float32)
    optimizers = [fc.AdamW(0.01) for _ in nets]
    nets[1].reserve(40)
    optimizers[1].prepare(nets[1])
    for _ in range(3):
        assert train_step(nets[1], X, y, loss, optimizers[1]) == nets[0].train_step(X, y, loss, optimizers[0])
    assert_array_equal(nets[1].params, nets[0].params)


def test_as_one_of_several_losses():
    """In Python and compiled: the first output has members, the second none."""
    inner = [fc.MemberLoss(fc.GaussianNLLLoss(), 2), fc.CrossEntropyLoss()]
    loss, z = fc.MultiLoss(inner, weights=[0.5, 2]), normal((40, 1), np.float32)

    def make():
        x = fc.Input(5)
        return fc.Graph(x, [fc.Softplus()(fc.Linear(5, 4, seed=0)(x)), fc.Linear(5, 3, seed=1)(x)])

    nets = make(), make()
    p, q = nets[0].predict(X)
    value, (g, _) = loss((p, q), (z, LABELS))
    parts = [one(prediction, target) for one, prediction, target in zip(inner, (p, q), (z, LABELS), strict=True)]
    assert value == pytest.approx(0.5 * parts[0][0] + 2 * parts[1][0])
    assert_allclose(g, 0.5 * parts[0][1], rtol=1e-5)
    expected = nets[0].train_step(X, (z, LABELS), loss, fc.SGD(0.1))
    nets[1].reserve(40)
    assert train_two(nets[1], X, z, LABELS, loss, fc.SGD(0.1)) == expected
    assert_array_equal(nets[0].params, nets[1].params)


# ---------- the loss


@dtypes
@pytest.mark.parametrize("name, settings, last, targets", LOSSES, ids=ids(LOSSES))
def test_member_loss_is_the_mean_of_the_losses(name, settings, last, targets, dtype):
    inner = getattr(fc, name)(**settings)
    predictions = [last().predict(normal((12, 4), dtype, seed)) for seed in range(3)]
    y = targets(0)
    y = y if y.dtype.kind == "i" else y.astype(dtype)
    weights = [None] if name == "CustomLoss" else [None, np.linspace(0.5, 2, 12)]
    for weight in weights:
        parts = [inner(p, y, weight) for p in predictions]
        value, grad = fc.MemberLoss(inner, 3)(np.hstack(predictions), y, weight)
        assert value == pytest.approx(np.mean([v for v, _ in parts]), rel=64 * float(np.finfo(dtype).eps))
        assert_allclose(grad, np.hstack([g for _, g in parts]) / 3, **tolerance(dtype))
    one, alone = fc.MemberLoss(inner, 1)(predictions[0], y), inner(predictions[0], y)
    assert one[0] == alone[0]
    assert_array_equal(one[1], alone[1])


@pytest.mark.slow  # such a loss takes two seconds to compile, for each dtype
def test_a_loss_of_matrices_has_members_too():
    @njit
    def of_matrices(p, t, out):
        out[:] = 2 * (p - t)
        return ((p - t) ** 2).sum()

    p, y = normal((6, 4), np.float64), normal((6, 2), np.float64, 1)
    inner = fc.CustomLoss(of_matrices)
    value, grad = fc.MemberLoss(inner, 2)(p, y)
    parts = [inner(np.ascontiguousarray(p[:, j : j + 2]), y) for j in (0, 2)]
    assert value == pytest.approx(np.mean([v for v, _ in parts]))
    assert_allclose(grad, np.hstack([g for _, g in parts]) / 2)
    with pytest.raises(ValueError, match="takes no sample weights"):
        fc.MemberLoss(inner, 2)(p, y, np.ones(6))


@pytest.mark.parametrize("inner", [fc.CrossEntropyLoss([1, 2, 3]), fc.MSELoss(), fc.L1Loss(reduction="sum")], ids=repr)
def test_fit_is_the_same_in_arrays_batches_and_shards(inner):
    loss, y = fc.MemberLoss(inner, 4), LABELS if inner.of_classes else normal((40, 3), np.float32)
    given = {"loss": loss, "epochs": 3, "shuffle": False, "seed": 0}
    nets = [tabm() for _ in range(3)]
    plain = nets[0].fit(X, y, optimizer=fc.SGD(0.01), batch_size=16, **given)
    cut = nets[1].fit(X, y, optimizer=fc.SGD(0.01), batch_size=16, shards=4, **given)
    batches = [(X[i : i + 16], y[i : i + 16]) for i in (0, 16, 32)]
    streamed = nets[2].fit(lambda: iter(batches), optimizer=fc.SGD(0.01), **given)
    for net, history in ((nets[1], cut), (nets[2], streamed)):
        assert_allclose(net.params, nets[0].params, rtol=1e-4, atol=1e-5)
        assert_allclose(history.loss, plain.loss, rtol=1e-5)
    whole = nets[0].evaluate(X, y, loss)
    assert whole == pytest.approx(loss(nets[0].predict(X), y)[0], rel=1e-5)
    parts = nets[0].evaluate(iter(batches), loss=loss)
    assert parts == pytest.approx(whole, rel=1e-5)


def test_metrics_are_those_of_the_mean_prediction():
    net, loss = tabm(), fc.MemberLoss(fc.CrossEntropyLoss(), 4)
    drawn(net)
    whole = fc.Sequential([copy.deepcopy(net), fc.MemberMean(3, 4, "softmax")])
    seen = []
    own = lambda y_true, y_pred: seen.append(y_pred) or 0.0
    found = net.evaluate(X, LABELS, loss, metrics=["accuracy", own])
    assert found["accuracy"] == np.mean(whole.predict(X).argmax(axis=1) == LABELS)
    assert_array_equal(seen[0], whole.predict(X))
    history = net.fit(
        X, LABELS, loss=loss, optimizer=fc.SGD(1e-30), validation_data=(X, LABELS), metrics=["accuracy"], epochs=1
    )
    assert history["val_accuracy"][-1] == found["accuracy"]
    numbers = normal((40, 3), np.float32)
    mean = net.predict(X).reshape(40, 4, 3).mean(axis=1)
    expected = {name: fc.metrics.get_metric(name)[1](numbers, mean) for name in ("mae", "rmse", "r2")}
    found = net.evaluate(X, numbers, fc.MemberLoss(fc.MSELoss(), 4), metrics=list(expected))
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5)


LINKS = [
    (fc.BCEWithLogitsLoss(), lambda p: 1 / (1 + np.exp(-p))),
    (fc.PoissonNLLLoss(), np.exp),
    (fc.PoissonNLLLoss(log_input=False), lambda p: p),
    (fc.HuberLoss(), lambda p: p),
]


@pytest.mark.parametrize("inner, link", LINKS, ids=[repr(inner) for inner, _ in LINKS])
def test_metrics_know_what_the_mean_is_of(inner, link):
    net = fc.Sequential([fc.LinearEnsemble(5, 2, 3, shared_input=True, seed=0), fc.Sigmoid()])
    net = net if not isinstance(inner, fc.BCEWithLogitsLoss) else fc.Sequential([copy.deepcopy(net[0])])
    y = np.random.default_rng(0).integers(0, 2, (40, 2)).astype(np.float32)
    found = net.evaluate(X, y, fc.MemberLoss(inner, 3), metrics=["mae"])["mae"]
    mean = link(net.predict(X).astype(np.float64)).reshape(40, 3, 2).mean(axis=1)
    assert found == pytest.approx(np.abs(mean - y).mean(), rel=1e-5)


def test_gaussian_members_are_scored_by_their_mean():
    net = fc.Sequential([fc.LinearEnsemble(5, 2, 3, shared_input=True, seed=0), fc.Softplus()])
    y = normal((40, 1), np.float32)
    found = net.evaluate(X, y, fc.MemberLoss(fc.GaussianNLLLoss(), 3), metrics=["mae"])["mae"]
    mean = net.predict(X)[:, ::2].mean(axis=1)
    assert found == pytest.approx(np.abs(mean - y[:, 0]).mean(), rel=1e-5)


def test_members_learn_to_differ_and_their_mean_is_better():
    images, labels = fc.load_digits()
    test = np.arange(len(images)) % 5 == 0
    layers = [fc.BatchEnsemble(64, 32, 8, shared_input=True, seed=0), fc.ReLU(), fc.LinearEnsemble(32, 10, 8, seed=1)]
    net = fc.Sequential(layers)
    loss = fc.MemberLoss(fc.CrossEntropyLoss(), 8)
    net.fit(images[~test], labels[~test], loss=loss, optimizer=fc.AdamW(3e-3), epochs=12, batch_size=32, seed=0)
    output = net.predict(images[test])
    alone = [np.mean(output[:, 10 * m : 10 * m + 10].argmax(axis=1) == labels[test]) for m in range(8)]
    mean = fc.MemberMean(10, 8, "softmax").predict(output)
    assert np.mean(mean.argmax(axis=1) == labels[test]) > max(0.95, np.mean(alone))
    assert len(set(alone)) > 1


BAD = [
    (lambda: fc.BatchEnsemble(3, 0, 2), ValueError, "BatchEnsemble: member_out must be at least 1"),
    (lambda: fc.BatchEnsemble(3, 2, 2.5), TypeError, "BatchEnsemble: members must be an integer"),
    (lambda: fc.BatchEnsemble(3, 2, 2, scale_init="sings"), ValueError, "initializer.*sings"),
    (lambda: fc.BatchEnsemble(3, 2, 2, bias_init=lambda rng, shape, dtype: np.ones(3)), ValueError, "bias has shape"),
    (lambda: fc.LinearEnsemble(3, 2, 2, init=lambda rng, shape, dtype: np.ones(3)), ValueError, "weight has shape"),
    (lambda: fc.LinearEnsemble(3, 2, 2, shared_input=1.5), TypeError, "LinearEnsemble: shared_input"),
    (
        lambda: fc.LinearEnsemble(3, 2, 2).predict(np.zeros((4, 3))),
        ValueError,
        r"x has shape \(4, 3\), expected \(n, 6\)",
    ),
    (lambda: fc.MemberMean(3, 2, "sofmax"), ValueError, "sofmax"),
    (lambda: fc.MemberMean(3, 2).predict(np.zeros((4, 5))), ValueError, r"x has shape \(4, 5\), expected \(n, 6\)"),
    (lambda: fc.Sequential([fc.Linear(2, 3), fc.BatchEnsemble(3, 2, 2)]), ValueError, "gives 3 numbers per sample"),
    (lambda: setattr(fc.BatchEnsemble(3, 2, 2), "members", 3), AttributeError, "members is fixed"),
    (lambda: fc.MemberLoss("mse", 2), TypeError, "MemberLoss: loss must be the loss of one member"),
    (lambda: fc.MemberLoss(fc.MultiLoss([fc.MSELoss()]), 2), TypeError, "must be the loss of one member"),
    (lambda: fc.MemberLoss(fc.MemberLoss(fc.MSELoss(), 2), 2), TypeError, "must be the loss of one member"),
    (lambda: fc.MemberLoss(fc.MSELoss(), 0), ValueError, "MemberLoss: members must be at least 1"),
    (lambda: fc.MemberLoss(fc.MSELoss(reduction="none"), 2), ValueError, "reduction='none'"),
    (
        lambda: fc.MemberLoss(fc.MSELoss(), 2)(np.ones((4, 3)), np.ones((4, 1))),
        ValueError,
        "the c columns of each of 2",
    ),
    (lambda: fc.MemberLoss(fc.MSELoss(), 2)(np.ones(4), np.ones(4)), ValueError, "the c columns of each of 2"),
    (lambda: fc.MemberLoss(fc.MSELoss(), 2)(np.ones((4, 6)), np.ones((4, 6))), ValueError, r"prediction \(4, 3\)"),
    (lambda: fc.MemberLoss(fc.CrossEntropyLoss(), 2)(np.ones((4, 6)), [0, 1, 2, 3]), ValueError, "lie in 0..2"),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=ids([(message,) for _, _, message in BAD]))
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_what_takes_no_members_says_so():
    net, loss = tabm(outputs=1), fc.MemberLoss(fc.MSELoss(), 4)
    y, before = normal((40, 1), np.float32), net.params.copy()
    with pytest.raises(TypeError, match="it takes MSELoss"):
        net.fit(X, y, loss=loss, optimizer=fc.LevenbergMarquardt(), epochs=1)
    assert_array_equal(net.params, before)
    team = fc.Ensemble(lambda seed: tabm(outputs=1), 2)
    with pytest.raises(ValueError, match="a MemberLoss is for a network with members within"):
        team.fit(X, y, loss=loss, optimizer=fc.SGD(), epochs=1)
    with pytest.raises(ValueError, match="the c columns of each of 3"):
        net.fit(X, y, loss=fc.MemberLoss(fc.MSELoss(), 3), optimizer=fc.SGD(), epochs=1)


def test_full_batch_training():
    net, y = tabm(2, 6, 1, dtype=np.float64), np.sin(X[:, :1].astype(np.float64))
    history = net.fit(X, y, loss=fc.MemberLoss(fc.MSELoss(), 2), optimizer=fc.LBFGS(), epochs=30)
    assert history.loss[-1] < history.loss[0] / 10


def test_no_product_reads_what_has_gaps():
    """A product that members share takes (n, k i) for (n k, i): what it reads and writes is in the workspace."""
    x = fc.Input(6)
    net = fc.Graph([x], [fc.BatchEnsemble(2, 3, 3)(x), fc.BatchEnsemble(2, 2, 3, False)(x)])
    program = net.program_for(np.zeros((0, 6), np.float32))
    shared = [row for row in program.ops() if row[table.Column.OP] == table.MEMBER_PRODUCT]
    assert len(shared) == 2
    for row in shared:
        for value in (row[table.Column.A], row[table.Column.Y]):
            places = program.table[value][[table.Value.PREDICTING, table.Value.TRAINING, table.Value.GRADIENT]]
            assert (places == table.IN_WORKSPACE).all()
