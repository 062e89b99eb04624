"""A hundred steps from the same weights on the same batches give PyTorch's parameters, to rounding.

What test_norms.py, test_dropout.py and test_embedding.py do for their layers and test_optimizers.py for gradients that
are drawn, here for networks with every activation, loss, optimizer and the other layers.
"""

import numpy as np
import pytest
from examples import ACTIVATIONS, LAYERS, LOSSES, OPTIMIZERS, WIDTH, N, chain, classes, ids, numbers
from numpy.testing import assert_allclose
from test_norms import KINDS as NORMS

import fastfc as fc

torch = pytest.importorskip("torch")
torch_modules = pytest.importorskip("fastfc.io.torch_modules")  # what torch.nn does not have
functional = torch.nn.functional

# float64 has 16 digits, and a step adds errors to those it was given; 1e-9 is what is left of them after a hundred.
ROUNDING = {"rtol": 1e-9, "atol": 1e-10}
LAYERS_ELSEWHERE = {kind.__name__ for kind, *_ in NORMS.values()} | {"Dropout", "Embedding"}
LAYERS_ELSEWHERE |= {
    "NumericEmbedding",
    "RobustScale",
    "QuantileNormal",
    "Clamp",
}  # test_feature_layers.py, test_clamp.py
# PyTorch has no Lion and no Levenberg–Marquardt; line searches go different ways, see test_full_batch.py.
OPTIMIZERS_ELSEWHERE = {"Lion", "LBFGS", "LevenbergMarquardt"}


@pytest.fixture(autouse=True)
def float64():
    """NAdam's product of momenta is of the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def sgd(weights):
    return torch.optim.SGD(weights, lr=0.05, momentum=0.9)


def tensors(data):
    return tuple(map(tensors, data)) if isinstance(data, tuple) else torch.tensor(data)


def assert_same_training(net, value_of, batch, loss=None, optimizer=None, theirs=sgd, tolerance=ROUNDING):
    """batch(step) is what train_step takes, x, y and perhaps weights; value_of(batch, parameters) PyTorch's loss."""
    loss, optimizer = loss or fc.MSELoss(), optimizer or fc.SGD(0.05, momentum=0.9)
    parameters = [torch.tensor(values.copy(), requires_grad=True) for _, values, _ in net.named_parameters()]
    other, first = theirs(parameters), net.params.copy()
    for step in range(100):
        x, y, *weights = batch(step)
        value = net.train_step(x, y, loss, optimizer, *weights)
        expected = value_of(tensors(batch(step)), *parameters)
        other.zero_grad()
        expected.backward()
        other.step()
        assert_allclose(value, expected.item(), **tolerance)
    for (name, values, _), parameter in zip(net.named_parameters(), parameters, strict=True):
        assert_allclose(values, parameter.detach().numpy(), **tolerance, err_msg=name)
    assert np.abs(net.params - first).max() > 0.01


def assert_same_predictions(net, forward, their_loss=functional.mse_loss, targets=numbers, **others):
    """The same of forward(x, parameters), the network in PyTorch."""
    value_of = lambda batch, *parameters: their_loss(forward(batch[0], *parameters), batch[1])
    assert_same_training(net, value_of, lambda step: (numbers(step), targets(step + 1)), **others)


def layer_of(name, settings):
    """PyTorch's activation."""
    if name == "Elementwise":
        return lambda z: z * z
    module = torch.nn if hasattr(torch.nn, name) else torch_modules
    return getattr(module, name)(**({"dim": -1} if name.endswith("Softmax") else {}) | settings)


@pytest.mark.parametrize("name, settings", ACTIVATIONS, ids=ids(ACTIVATIONS))
def test_activations(name, settings):
    f = layer_of(name, settings)
    net = chain(getattr(fc, name)(**settings), dtype=np.float64)
    # a sixth, its slope, is of float32 there
    tolerance = {"rtol": 1e-6, "atol": 1e-7} if name == "Hardsigmoid" else ROUNDING
    assert_same_predictions(net, lambda x, w, b, v, c: f(x @ w + b) @ v + c, tolerance=tolerance)


def loss_of(name, settings):
    """PyTorch's loss."""
    given = {k: torch.tensor(v) if isinstance(v, list) else v for k, v in settings.items()}
    if name == "QuantileLoss":
        q = given["quantile"]
        return lambda p, t: torch.maximum(q * (t - p), (q - 1) * (t - p)).mean()
    if name == "GaussianNLLLoss":
        return lambda p, t: torch.nn.GaussianNLLLoss(**given)(p[:, : WIDTH // 2], t, p[:, WIDTH // 2 :])
    if name == "CustomLoss":
        return lambda p, t: ((p - t) ** 2 / 2).mean()
    return getattr(torch.nn, name)(**given)


@pytest.mark.parametrize("name, settings, last, targets", LOSSES, ids=ids(LOSSES))
def test_losses(name, settings, last, targets):
    f = layer_of(last.__name__, {})
    net = fc.Sequential([*fc.MLP([WIDTH, 6, WIDTH], "tanh", seed=0, dtype=np.float64), last()])
    assert_same_predictions(
        net,
        lambda x, w, b, v, c: f(torch.tanh(x @ w + b) @ v + c),
        loss_of(name, settings),
        targets,
        loss=getattr(fc, name)(**settings),
        optimizer=fc.SGD(0.02),
        theirs=lambda parameters: torch.optim.SGD(parameters, lr=0.02),
    )


def test_sample_weights():
    of_class = [1, 2, 0.5, 1]

    def value_of(batch, weight, bias):
        (x, y, w), v = batch, torch.tensor(of_class)
        rows = functional.cross_entropy(x @ weight + bias, y, v, reduction="none")
        return (w * rows).sum() / (w * v[y]).sum()

    net = fc.MLP([WIDTH, WIDTH], seed=0, dtype=np.float64)
    batch = lambda step: (numbers(step), classes(step), np.random.default_rng(step).random(N))
    assert_same_training(net, value_of, batch, fc.CrossEntropyLoss(weight=of_class))


def test_several_losses():
    def value_of(batch, w, b, v, c, u, d):
        x, (y, z) = batch
        h = torch.tanh(x @ w + b)
        return functional.cross_entropy(h @ v + c, y) + 0.5 * functional.huber_loss(h @ u + d, z)

    layers = [fc.Linear(*sizes, seed=i, dtype=np.float64) for i, sizes in enumerate([(WIDTH, 6), (6, 4), (6, WIDTH)])]
    x = fc.Input(WIDTH)
    h = fc.Tanh()(layers[0](x))
    net = fc.Graph(x, [layers[1](h), layers[2](h)])
    batch = lambda step: (numbers(step), (classes(step), numbers(step + 1)))
    assert_same_training(net, value_of, batch, fc.MultiLoss([fc.CrossEntropyLoss(), fc.HuberLoss()], weights=[1, 0.5]))


RULES = [row for row in OPTIMIZERS if row[0] not in OPTIMIZERS_ELSEWHERE]


@pytest.mark.parametrize("name, settings", RULES, ids=ids(RULES))
def test_optimizers(name, settings):
    assert_same_predictions(
        fc.MLP([WIDTH, 6, WIDTH], "tanh", seed=0, dtype=np.float64),
        lambda x, w, b, v, c: torch.tanh(x @ w + b) @ v + c,
        optimizer=getattr(fc, name)(**settings),
        theirs=lambda parameters: getattr(torch.optim, name)(parameters, **settings),
    )


def residual_in_torch(x, w, b, v, c):
    h = torch.tanh(x @ w + b)
    return torch.cat([h + x, h * x], dim=1) @ v + c


def parametric_in_torch(x, w, b, a, v, c):
    z = x @ w + b
    return (z + a * (functional.selu(z) - z)) @ v + c


def batch_ensemble_in_torch(x, w, b, w1, r1, s1, b1, w2, r2, s2, v, c):
    u = (x @ w + b)[:, None] * r1
    u = torch.tanh(u @ w1 * s1 + b1) * r2
    return (u @ w2 * s2).flatten(1) @ v + c


def linear_ensemble_in_torch(x, w, b, w1, b1, w2, v, c):
    u = torch.tanh(torch.einsum("ni,mio->nmo", x @ w + b, w1) + b1)
    return torch.einsum("nmi,mio->nmo", u, w2).flatten(1) @ v + c


def member_mean_in_torch(x, w, b, v, c):
    return torch.softmax((x @ w + b).unflatten(1, (3, 6)), 2).mean(1) @ v + c


def standardized(net):
    mean, scale = (torch.tensor(values.copy()) for _, values in net.named_buffers())
    return lambda x, w, b, v, c: ((x @ w + b - mean) / scale) @ v + c


FORWARD = {
    "Linear": lambda net: lambda x, w: x @ w,
    "Tied": lambda net: lambda x, w, b, c: torch.tanh(x @ w + b) @ w.T + c,
    "Scale": lambda net: lambda x, w, b, s, v, c: ((x @ w + b) * s) @ v + c,
    "Parametric": lambda net: parametric_in_torch,
    "PReLU": lambda net: lambda x, w, b, a, p, v, c: functional.prelu(functional.prelu(x @ w + b, a), p) @ v + c,
    "BatchEnsemble": lambda net: batch_ensemble_in_torch,
    "LinearEnsemble": lambda net: linear_ensemble_in_torch,
    "MemberMean": lambda net: member_mean_in_torch,
    "Standardize": standardized,
    "Sequential": lambda net: lambda x, w, b, v, c: torch.tanh(torch.relu(x @ w + b) @ v + c),
    "MLP": lambda net: lambda x, w, b, v, c: torch.tanh(x @ w + b) @ v + c,
    "Graph": lambda net: residual_in_torch,
}


def test_all_layers_are_compared():
    assert set(LAYERS) == set(FORWARD) | LAYERS_ELSEWHERE


@pytest.mark.parametrize("name", FORWARD)
def test_layers(name):
    net = LAYERS[name](np.float64)
    assert_same_predictions(net, FORWARD[name](net))
