"""Layers with numbers for each feature, from Scale to NumericEmbedding, and Linear in the NTK parametrization."""

import pickle

import numpy as np
import pytest
from arrays import DTYPES, LAYOUTS, normal
from examples import EMBEDDINGS, ids
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc
from fastfc import reference
from fastfc.nn.activations import get_activation

dtypes = pytest.mark.parametrize("dtype", DTYPES)
SHAPES = [(1, 1), (9, 3), (300, 18)]  # the last of more rows than a chunk, and more columns than a register


def tolerance(dtype, scale=64):
    return {"rtol": scale * np.finfo(dtype).eps, "atol": scale * np.finfo(dtype).eps}


def drawn(layer):
    """A layer with parameters that are not special."""
    for i, (_, values, _) in enumerate(layer.named_parameters()):
        values[...] += normal(values.shape, values.dtype, i + 7) / 2
    return layer


def wide(*arrays):
    return [np.asarray(a, np.float64) for a in arrays]


PER_FEATURE = {
    "scale": (lambda o, dtype: fc.Scale(o, dtype=dtype), lambda x, a: (a, x)),
    "p_relu": (lambda o, dtype: fc.PReLU(o, dtype=dtype), lambda x, a: (np.where(x > 0, 1, a), np.minimum(x, 0))),
    "one slope": (lambda o, dtype: fc.PReLU(dtype=dtype), lambda x, a: (np.where(x > 0, 1, a), np.minimum(x, 0))),
    **{
        name: (lambda o, dtype, name=name: fc.Parametric(name, o, dtype=dtype), None)
        for name in ("selu", "mish", "tanh", "relu")
    },
}


@dtypes
@pytest.mark.parametrize("n, o", SHAPES)
@pytest.mark.parametrize("kind", PER_FEATURE)
def test_one_parameter_a_feature_is_the_formula(kind, n, o, dtype):
    make, slopes = PER_FEATURE[kind]
    layer, x, g = drawn(make(o, dtype)), normal((n, o), dtype), normal((n, o), dtype, 1)
    x64, g64, a = wide(x, g, layer.weight)
    if slopes is None:
        change = reference.ACTIVATIONS[kind](x64) - x64
        kept = x64 if kind in ("selu", "mish") else reference.ACTIVATIONS[kind](x64)
        by_x, by_a = 1 + a * (reference.DERIVATIVES[kind](kept, np.ones_like(x64)) - 1), change
        y = reference.parametric(x64, a, kind)
    else:
        by_x, by_a = slopes(x64, a)
        y = (reference.scale if kind == "scale" else reference.p_relu)(x64, a)
    assert_allclose(layer.predict(x), y, **tolerance(dtype))
    assert_allclose(layer.forward(x), y, **tolerance(dtype))
    assert_allclose(layer.backward(g), g64 * by_x, **tolerance(dtype))
    total = g64 * by_a
    expected = [total.sum()] if kind == "one slope" else total.sum(axis=0)
    assert_allclose(layer.weight_grad, expected, rtol=0, atol=4 * n * o * np.finfo(dtype).eps)


def test_first_values():
    """Scale and Parametric change nothing but by f, and a PReLU has PyTorch's slope."""
    x = normal((5, 3), np.float32)
    assert_array_equal(fc.Scale(3).predict(x), x)
    assert_allclose(fc.Parametric("selu", 3).predict(x), fc.SELU().predict(x), rtol=1e-6, atol=1e-7)
    assert_array_equal(fc.PReLU(3).weight, [0.25] * 3)
    assert_array_equal(fc.PReLU(2, init=-1).weight, [-1, -1])
    assert_array_equal(fc.PReLU(2, init="zeros").weight, [0, 0])


def functions(layer, x):
    """The functions of each feature, by the reference."""
    if layer.kind == "ple":
        return reference.pieces(x, layer.edges.astype(np.float64))
    frequency = layer.frequency.astype(np.float64)
    return (
        reference.cosines(x, frequency, layer.phase.astype(np.float64))
        if layer.kind == "pbld"
        else reference.waves(x, frequency)
    )


@dtypes
@pytest.mark.parametrize("options", EMBEDDINGS, ids=[f"{o.get('kind', 'pbld')} {i}" for i, o in enumerate(EMBEDDINGS)])
def test_numeric_embedding_is_the_formula(options, dtype):
    layer, x = fc.NumericEmbedding(**options, seed=0, dtype=dtype), 3 * normal((300, 3), dtype)
    x64 = x.astype(np.float64)
    u = functions(layer, x64)
    expected = u.reshape(len(x), -1)
    if layer.embedding_dim is not None:
        expected = reference.numeric_embedding(u, layer.weight.astype(np.float64), layer.bias.astype(np.float64))
    expected = np.maximum(expected, 0) if layer.relu else expected
    expected = np.hstack([expected, x64]) if layer.dense else expected
    assert layer.out_features == expected.shape[1]
    assert_allclose(layer.predict(x), expected, **tolerance(dtype, 128))
    assert_array_equal(layer.predict(x), layer.forward(x))
    assert_array_equal(layer.predict(x[:7]), layer.predict(x)[:7])
    assert_array_equal(pickle.loads(pickle.dumps(layer)).predict(x), layer.predict(x))


@pytest.mark.parametrize("options", EMBEDDINGS, ids=[f"{o.get('kind', 'pbld')} {i}" for i, o in enumerate(EMBEDDINGS)])
@pytest.mark.parametrize("n", [1, 300])
def test_numeric_embedding_has_pytorchs_gradients(options, n):
    torch = pytest.importorskip("torch")
    layer = fc.NumericEmbedding(**options, seed=0, dtype=np.float64)
    net, x = fc.Sequential([layer]), normal((n, 3), np.float64)
    module = net.to_torch().requires_grad_()
    z = torch.tensor(x, requires_grad=True)
    y = module(z)
    g = normal(y.shape, np.float64, 1)
    y.backward(torch.tensor(g))
    assert_allclose(net.forward(x), y.detach().numpy(), rtol=1e-12, atol=1e-12)
    assert_allclose(net.backward(g), z.grad.numpy(), rtol=1e-10, atol=1e-10)
    for (name, _, grad), theirs in zip(layer.named_parameters(), module.parameters(), strict=True):
        assert_allclose(grad, theirs.grad.numpy(), rtol=1e-10, atol=1e-10, err_msg=name)


def test_pbld_stands_as_realmlp_has_it():
    """Three numbers of each feature, feature after feature, and then the features themselves."""
    layer = fc.NumericEmbedding(4, seed=0, dtype=np.float64)
    assert layer.out_features == 16 and layer.frequency.shape == layer.phase.shape == (4, 16)
    assert layer.weight.shape == (4, 16, 3) and layer.bias.shape == (4, 3)
    assert [name for name, *_ in layer.named_parameters()] == ["frequency", "phase", "weight", "bias"]
    x = normal((5, 4), np.float64)
    for j in range(4):
        u = np.cos(2 * np.pi * x[:, j : j + 1] * layer.frequency[j] + layer.phase[j])
        y = layer.predict(x)
        assert_allclose(y[:, 3 * j : 3 * j + 3], u @ layer.weight[j] + layer.bias[j], rtol=1e-12, atol=1e-12)
        assert_array_equal(y[:, 12 + j], x[:, j])


def test_bins_are_quantiles_and_fewer_where_there_are_few_values():
    x = np.stack([np.arange(101.0), np.repeat([0.0, 1.0], [50, 51]), np.full(101, 7.0)], axis=1)
    layer = fc.NumericEmbedding.of(x, n_frequencies=4, dtype=np.float64)
    assert_array_equal(layer.edges, [[0, 25, 50, 75, 100], [0, 1, 1, 1, 1], [7] * 5])
    y = layer.predict([[60, 0.25, 9], [-25, 2, 7]])
    assert_allclose(y[0], [1, 1, 0.4, 0] + [0.25, 0, 0, 0] + [0] * 4)
    assert_allclose(y[1], [-1, 0, 0, 0] + [2, 0, 0, 0] + [0] * 4)


def test_robust_scale_is_realmlps():
    rng = np.random.default_rng(0)
    x = np.stack([rng.standard_normal(50), np.r_[np.zeros(45), np.arange(5)], np.full(50, 3.0)], axis=1)
    low, middle, high = np.quantile(x, [0.25, 0.5, 0.75], axis=0)
    layer = fc.RobustScale.of(x, dtype=np.float64)
    width = np.array([high[0] - low[0], 2, np.inf])
    z = (x - middle) / width
    assert_allclose(layer.predict(x), z / np.sqrt(1 + (z / 3) ** 2), rtol=1e-12, atol=1e-12)
    assert_allclose(fc.RobustScale.of(x, limit=None, dtype=np.float64).predict(x), z, rtol=1e-12, atol=1e-12)
    assert_array_equal(layer.predict(x)[:, 2], 0)
    assert_allclose(layer.predict([[1e300, 0, 4], [-1e300, 0, 2]])[:, [0, 2]], [[3, 0], [-3, 0]], atol=1e-20)


def test_quantile_normal_is_scikit_learns_at_the_quantiles():
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    x = np.random.default_rng(0).exponential(size=(201, 2))
    theirs = preprocessing.QuantileTransformer(n_quantiles=201, output_distribution="normal").fit_transform(x)
    layer = fc.QuantileNormal.of(x, dtype=np.float64)
    assert_allclose(layer.predict(x), theirs, rtol=1e-9, atol=1e-9)
    assert_array_equal(layer.predict(x), reference.quantile_normal(x, layer.knots, layer.values))
    assert_array_equal(layer.predict([[-1.0, 1e9]]), [[layer.values[0, 0], layer.values[1, -1]]])
    assert layer.params.size == 0


def test_quantile_normal_of_values_that_many_share():
    layer = fc.QuantileNormal.of(np.array([[0.0], [0], [0], [1]]), dtype=np.float64)
    assert layer.predict([[0.0]]).item() == pytest.approx(-0.43, abs=0.01)  # the middle of 0 and 2/3
    assert fc.QuantileNormal.of([[2.0]] * 5, dtype=np.float64).predict([[2.0], [3], [1]]).tolist() == [[0], [0], [0]]


@dtypes
@pytest.mark.parametrize("activation", ["identity", "relu", "selu"])
def test_ntk_is_the_standard_layer_with_another_weight(activation, dtype):
    layers = [fc.Linear(9, 7, parametrization=kind, init="normal", seed=0, dtype=dtype) for kind in ("ntk", "standard")]
    layers[1].weight = layers[0].weight / 3
    ours, theirs = (fc.Sequential([layer, get_activation(activation)]) for layer in layers)
    x, g = normal((20, 9), dtype), normal((20, 7), dtype, 1)
    assert_allclose(ours.predict(x), theirs.predict(x), **tolerance(dtype))
    assert_allclose(ours.forward(x), theirs.forward(x), **tolerance(dtype))
    assert_allclose(ours.backward(g), theirs.backward(g), **tolerance(dtype))
    assert_allclose(layers[0].weight_grad, layers[1].weight_grad / 3, **tolerance(dtype))
    assert_allclose(layers[0].bias_grad, layers[1].bias_grad, **tolerance(dtype))


def test_a_tied_layer_has_the_factor_of_its_own_inputs():
    encoder = fc.Linear(9, 4, parametrization="ntk", init="normal", seed=0, dtype=np.float64)
    net, x = fc.Sequential([encoder, fc.Tied(encoder)]), normal((5, 9), np.float64)
    assert_allclose(net.predict(x), x @ encoder.weight / 3 @ encoder.weight.T / 2, rtol=1e-12, atol=1e-12)
    assert fc.check_gradients(net, x)


def test_scikit_learn_gets_the_weight_with_its_factor():
    pytest.importorskip("sklearn")
    from fastfc.sklearn import to_sklearn

    options = {"parametrization": "ntk", "init": "normal", "dtype": np.float64}
    net = fc.Sequential([fc.Linear(4, 8, seed=0, **options), fc.Tanh(), fc.Linear(8, 2, seed=1, **options)])
    x = normal((5, 4), np.float64)
    assert_allclose(to_sklearn(net).predict(x), net.predict(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_to_torch_and_from_it(dtype):
    pytest.importorskip("torch")
    layers = [
        fc.RobustScale.of(normal((30, 3), dtype), dtype=dtype),
        fc.QuantileNormal.of(normal((30, 3), dtype), 7, dtype=dtype),
        fc.NumericEmbedding(3, seed=0, dtype=dtype),
        fc.Scale(12, dtype=dtype),
        fc.Linear(12, 5, parametrization="ntk", init="normal", bias_init="normal", seed=1, dtype=dtype),
        fc.Parametric(fc.ELU(0.5), 5, dtype=dtype),
        fc.PReLU(5, dtype=dtype),
        fc.Sin(),
        fc.Clamp.of(normal((4, 5), dtype), dtype=dtype),
    ]
    net, x = fc.Sequential([drawn(layer) if layer.params.size else layer for layer in layers]), normal((9, 3), dtype)
    import torch

    module = net.to_torch()
    assert_allclose(module(torch.tensor(x)).detach().numpy(), net.predict(x), **tolerance(dtype, 1000))
    again = fc.from_torch(module)
    assert_allclose(again.predict(x), net.predict(x), **tolerance(dtype, 1000))
    other = fc.Sequential([fc.Linear(12, 5, parametrization="ntk")])
    fc.load_state_dict(other, {f"0.{name}": value for name, value in module[4].state_dict().items()})
    assert_allclose(other[0].weight, net[4].weight, rtol=1e-5, atol=1e-6)


ROUND_TRIPS = {
    "scale": lambda d: fc.Scale(3, dtype=d),
    "p_relu": lambda d: fc.PReLU(3, dtype=d),
    "one slope": lambda d: fc.PReLU(dtype=d),
    "parametric": lambda d: fc.Parametric("mish", 3, dtype=d),
    "ntk": lambda d: fc.Linear(3, 4, parametrization="ntk", init="normal", seed=0, dtype=d),
    "robust scale": lambda d: fc.RobustScale.of(normal((30, 3), d), dtype=d),
    "quantile normal": lambda d: fc.QuantileNormal.of(normal((30, 3), d), 7, dtype=d),
    "few values": lambda d: fc.QuantileNormal.of(np.arange(12).reshape(4, 3) % 2, 4, dtype=d),
    "clamp": lambda d: fc.Clamp.of(normal((5, 3), d), dtype=d),
    "clamp of equal bounds": lambda d: fc.Clamp.of([[-1, -1, -1], [2, 2, 2]], dtype=d),
    "sin": lambda d: fc.Sin(),
    "cos": lambda d: fc.Cos(),
    "smooth clip": lambda d: fc.SmoothClip(0.5),
    **{f"embedding {i}": lambda d, o=o: fc.NumericEmbedding(**o, dtype=d) for i, o in enumerate(EMBEDDINGS)},
}


@dtypes
@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_onnx_and_back(name, dtype, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    layer = drawn(ROUND_TRIPS[name](dtype))
    net = fc.Sequential([fc.Linear(3, 3, seed=5, dtype=dtype), layer])
    path, x = tmp_path / "net.onnx", 2 * normal((11, 3), dtype)
    net.to_onnx(path)
    (theirs,) = runtime.InferenceSession(path).run(None, {"input": x})
    assert_allclose(theirs, net.predict(x), **tolerance(dtype, 1000))
    assert_allclose(fc.from_onnx(path).predict(x), net.predict(x), **tolerance(dtype, 1000))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strided_inputs_and_gradients_change_no_bit(layout):
    net = fc.Sequential([fc.NumericEmbedding(6, seed=0), fc.Scale(24), fc.Parametric("selu", 24)])
    x, g = normal((40, 6), np.float32), normal((40, 24), np.float32, 1)
    expected = net.predict(x), net.forward(x), net.backward(g), net.grads.copy()
    change = LAYOUTS[layout]
    got = net.predict(change(x)), net.forward(change(x)), net.backward(change(g)), net.grads.copy()
    for a, b in zip(got, expected, strict=True):
        assert_array_equal(a, b)


BAD = [
    (lambda: fc.Linear(2, 3, parametrization="mup"), ValueError, "Linear: parametrization must be one of"),
    (lambda: fc.Scale(0), ValueError, "Scale: features must be at least 1"),
    (lambda: fc.Parametric("softmax", 3), ValueError, "Parametric: Softmax.* works along rows"),
    (lambda: fc.Parametric("relu", 3).predict(np.zeros((2, 4))), ValueError, r"Parametric\(ReLU\(\), 3\): x has shape"),
    (lambda: fc.PReLU(0), ValueError, "PReLU: num_parameters must be at least 1"),
    (lambda: fc.NumericEmbedding(3, kind="plx"), ValueError, "NumericEmbedding: kind must be one of"),
    (lambda: fc.NumericEmbedding(3, 0), ValueError, "NumericEmbedding: embedding_dim must be at least 1"),
    (lambda: fc.NumericEmbedding(3).adapt(np.zeros((5, 3))), ValueError, "only kind 'ple' has bins"),
    (lambda: fc.NumericEmbedding.of(np.zeros(3)), ValueError, r"x has shape \(3,\), expected \(n, in_features\)"),
    (lambda: fc.NumericEmbedding(3).predict(np.zeros((5, 2))), ValueError, r"x has shape \(5, 2\), expected \(n, 3\)"),
    (lambda: fc.RobustScale.of(np.zeros((0, 3))), ValueError, "give at least one sample"),
    (lambda: fc.RobustScale.of([[1, np.nan]]), ValueError, "column 1 of x has entries that are not finite"),
    (lambda: fc.RobustScale(3, limit=0), ValueError, "RobustScale: limit must be"),
    (lambda: fc.QuantileNormal(3, 1), ValueError, "n_quantiles must be at least 2"),
    (lambda: fc.QuantileNormal(2).adapt(np.zeros((4, 3))), ValueError, r"x has shape \(4, 3\), expected \(n, 2\)"),
    (lambda: fc.Sequential([fc.Linear(2, 3), fc.Scale(4)]), ValueError, "gives 3 numbers per sample, but layer 1"),
    (lambda: fc.Sequential([fc.Linear(2, 3), fc.PReLU(dtype=float)]), ValueError, "is float32, but layer 1"),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=ids([(message,) for _, _, message in BAD]))
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_changed_limits_and_parts_are_refused_or_taken():
    layer = fc.RobustScale(2)
    layer.limit = 1.0
    assert_allclose(layer.predict([[1e9, 0]]), [[1, 0]])
    for layer, name in [(fc.Parametric("relu", 2), "activation"), (fc.Linear(2, 2), "parametrization")]:
        with pytest.raises(AttributeError, match="make a new"):
            setattr(layer, name, "x")
