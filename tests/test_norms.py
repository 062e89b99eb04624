import pickle

import numpy as np
import pytest
from arrays import DTYPES, nan, normal
from nopython_code import train_step
from numba import njit
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc
from fastfc import reference

KINDS = {
    "layer norm": (fc.LayerNorm, lambda x, w, b: reference.layer_norm(x, w, b, 1e-5), 1e-5, -1, True),
    "rms norm": (fc.RMSNorm, lambda x, w, b: reference.rms_norm(x, w, 1e-3), 1e-3, -1, False),
    "batch norm": (fc.BatchNorm1d, lambda x, w, b: reference.batch_norm(x, w, b, 1e-5), 1e-5, 0, True),
}
SHAPES = {
    "two of everything": (2, 2),
    "one feature": (5, 1),
    "short of eight rows": (7, 3),
    "beyond eight rows": (17, 5),
    "a vector and one": (9, 17),
    "four vectors and one": (6, 65),
    "nine vectors": (3, 130),
    "many rows": (2001, 3),
    "many features": (3, 2001),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def layer_of(kind, features, dtype):
    layer = KINDS[kind][0](features, eps=KINDS[kind][2], dtype=dtype)
    layer.weight = normal(features, dtype, 3)
    if hasattr(layer, "bias"):
        layer.bias = normal(features, dtype, 4)
    return layer


@every_kind
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, features", SHAPES.values(), ids=SHAPES.keys())
def test_against_the_reference(n, features, kind, dtype):
    layer, (_, formula, eps, axis, centered) = layer_of(kind, features, dtype), KINDS[kind]
    x, g = 3 * normal((n, features), dtype, 1) + 1, normal((n, features), dtype, 2)
    w, b = layer.weight, getattr(layer, "bias", 0)
    wide = [np.asarray(a, np.float64) for a in (x, w, b, g)]
    layer.grads[:] = np.nan
    unit, y = 16 * np.finfo(dtype).eps, layer.forward(x)
    # an error of x̂ is one of x over the spread, and features with no spread to speak of have ε for it
    factor = float(reference.normalised(wide[0], eps, axis, centered)[1].max())
    bound = unit * (1 + np.abs(x).max() * factor)
    assert np.abs(y - formula(*wide[:3])).max() <= bound * (np.abs(w).max() + np.abs(b).max())
    grad_input, weight_grad, bias_grad = reference.norm_backward(wide[0], wide[1], wide[3], eps, axis, centered)
    largest = np.abs(g).max() * np.abs(w).max()
    assert np.abs(layer.backward(g) - grad_input).max() <= 8 * bound * factor * largest
    assert np.abs(layer.weight_grad - weight_grad).max() <= n * bound * np.abs(g).max()
    if hasattr(layer, "bias"):
        assert np.abs(layer.bias_grad - bias_grad).max() <= n * unit * np.abs(g).max()
    if kind != "batch norm":
        assert_array_equal(layer.predict(x), y)


@every_kind
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_mean_that_is_large_against_the_spread(kind, dtype):
    x = (normal((999, 99), dtype) + 1e4).astype(dtype)
    layer, (_, formula, *_) = layer_of(kind, 99, dtype), KINDS[kind]
    layer.weight = np.ones(99)
    expected = formula(x.astype(np.longdouble), 1.0, getattr(layer, "bias", 0))
    # the rounding of μ, half an ulp at best, against the spread, 1
    assert np.abs(layer.forward(x) - expected).max() <= 4 * np.spacing(dtype(1e4))


@every_kind
def test_what_is_not_finite_stays_in_its_row_or_column(kind):
    x = normal((9, 20), np.float32)
    for value in (np.nan, np.inf, -np.inf):
        x[4, 17] = value
        layer = layer_of(kind, 20, np.float32)
        y = layer.forward(x)
        bad = np.isnan(y)
        if kind == "rms norm" and np.isinf(value):  # r is 0 there
            assert_array_equal(np.argwhere(bad), [[4, 17]])
        elif kind == "batch norm":
            assert bad[:, 17].all() and not np.delete(bad, 17, axis=1).any()
            assert np.isnan(layer.running_mean[17]) or np.isinf(layer.running_mean[17])
        else:
            assert bad[4].all() and not np.delete(bad, 4, axis=0).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_running_statistics(dtype):
    layer, eps = fc.BatchNorm1d(3, momentum=0.25, dtype=dtype), np.finfo(dtype).eps
    mean, variance = np.zeros(3), np.ones(3)
    for i, n in enumerate((2, 9, 33)):
        x = 2 * normal((n, 3), dtype, i) + 1
        layer.forward(x)
        mean = 0.75 * mean + 0.25 * x.astype(np.float64).mean(axis=0)
        variance = 0.75 * variance + 0.25 * x.astype(np.float64).var(axis=0, ddof=1)
        assert_allclose(layer.running_mean, mean, atol=8 * eps)
        assert_allclose(layer.running_var, variance, rtol=16 * eps)
    layer.weight, layer.bias = [1, 2, 3], [4, 5, 6]
    expected = (x - mean) / np.sqrt(variance + 1e-5) * [1, 2, 3] + [4, 5, 6]
    before = layer.buffers.copy()
    assert_allclose(layer.predict(x), expected, rtol=32 * eps, atol=32 * eps)
    layer.backward(np.ones_like(x))
    assert_array_equal(layer.buffers, before)
    assert_array_equal(pickle.loads(pickle.dumps(layer)).buffers, before)


def test_buffers_are_no_parameters():
    net = fc.Sequential([fc.Linear(2, 3), fc.BatchNorm1d(3, name="norm"), fc.Standardize(3)])
    assert [name for name, *_ in net.named_parameters()] == ["0.weight", "0.bias", "norm.weight", "norm.bias"]
    assert [name for name, _ in net.named_buffers()] == ["norm.running_mean", "norm.running_var", "2.mean", "2.scale"]
    assert [parameter.first for parameter in net.trained_parameters()] == [0, 6, 9, 12]
    assert (net.params.size, net.buffers.size) == (15, 12)
    net.named_buffers()[0][1][:] = 7
    assert_array_equal(net.layers[1].running_mean, [7, 7, 7])
    assert_array_equal(net.buffers[:3], [7, 7, 7])
    assert fc.Linear(2, 3).named_buffers() == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_zeros_stay_zeros(dtype):
    """RMSNorm's own eps is that of the dtype, as PyTorch's is, and not 0."""
    assert_array_equal(fc.RMSNorm(3, dtype=dtype).forward(np.zeros((2, 3), dtype)), np.zeros((2, 3)))


def test_one_sample_has_no_variance():
    net = fc.Sequential([fc.Linear(2, 3), fc.BatchNorm1d(3), fc.Dropout()])
    x, y, optimizer = np.ones((5, 2), np.float32), np.ones((5, 3), np.float32), fc.SGD()
    net.forward(x)
    net.reserve(5)
    optimizer.prepare(net)
    values, draws = net._vector.copy(), net.rng_step
    calls = [
        lambda: net.forward(x[:1]),
        lambda: net.train_step(x[:1], y[:1], fc.MSELoss(), optimizer),
        lambda: train_step(net, x[:1], y[:1], fc.MSELoss(), optimizer),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"BatchNorm1d needs (at least )?two"):
            call()
    for size in (1, 2):
        with pytest.raises(ValueError, match=f"5 samples in batches of {size} leave one alone"):
            net.fit(x, y, loss=fc.MSELoss(), optimizer=optimizer, batch_size=size)
    assert_array_equal(net._vector, values)
    assert net.rng_step == draws
    net.predict(x[:1])
    net.fit(x, y, loss=fc.MSELoss(), optimizer=optimizer, batch_size=3)


def test_a_step_that_fails_leaves_running_statistics_and_masks():
    net = fc.Sequential([fc.Linear(2, 3), fc.BatchNorm1d(3), fc.Dropout()])
    before, x = net._vector.copy(), np.ones((5, 2), np.float32)
    net.reserve(5)
    optimizer = fc.SGD()
    optimizer.prepare(net)
    for step in (net.train_step, lambda *args: train_step(net, *args)):
        with pytest.raises(ValueError, match="class"):
            step(x, np.array([0, 1, 2, 3, 0]), fc.CrossEntropyLoss(), optimizer)
    assert_array_equal(net._vector, before)
    assert net.rng_step == 0


@njit
def nopython_frozen(net, x):
    for _ in range(3):
        y = net.forward(x)
        grad_x = net.backward(np.ones_like(y))
    return y, grad_x


def frozen_networks(dtype):
    """Networks with a batch norm that is frozen by itself, as part of a network, and of one around that."""
    for which in range(3):
        norm = fc.BatchNorm1d(3, dtype=dtype)
        inner = fc.Sequential([fc.Linear(2, 3, seed=0, dtype=dtype), norm, fc.Tanh()])
        x = fc.Input(2)
        net = fc.Graph(x, fc.Linear(3, 2, seed=1, dtype=dtype)(inner(x)))
        norm.weight, norm.bias, norm.running_mean, norm.running_var = [2, 1, 3], [0, 1, 2], [0.5, 0, 1], [2, 0.25, 1]
        yield net, inner, norm, (norm, inner, net)[which]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_frozen_batch_norm_takes_its_running_statistics_and_leaves_them(dtype):
    """They moved, and training took those of the batch, whatever was frozen."""
    x, y = normal((8, 2), dtype, 1), normal((8, 2), dtype, 2)
    for net, inner, norm, part in frozen_networks(dtype):
        net.forward(x)  # programs of before are not used again
        inner.forward(x)
        part.frozen = True
        kept, optimizer, fit = net.buffers.copy(), fc.SGD(0.1), {"loss": fc.MSELoss(), "optimizer": fc.Adam()}
        for layer in (net, inner, norm):
            rows = x if layer is not norm else normal((8, 3), dtype)
            assert_allclose(layer.forward(rows), layer.predict(rows), rtol=8 * np.finfo(dtype).eps)
            assert_allclose(layer.forward(rows[:1]), layer.predict(rows[:1]), rtol=8 * np.finfo(dtype).eps)
        grads = []
        for layer in (inner, net):
            layer.forward(x)
            grads.append(layer.backward(np.ones((8, layer.out_features))))
        net.reserve(8)
        output, grad_x = nopython_frozen(net, x)
        assert_array_equal(output, net.forward(x))
        assert_array_equal(grad_x, grads[1])
        net.train_step(x, y, fc.MSELoss(), optimizer)
        net.train_step(x[:1], y[:1], fc.MSELoss(), optimizer)
        train_step(net, x, y, fc.MSELoss(), optimizer)
        net.fit(x, y, epochs=2, batch_size=7, **fit)
        net.fit([(x[:3], y[:3]), (x[3:], y[3:])], **fit)
        assert_array_equal(net.buffers, kept)
        assert bool(fc.check_gradients(net, x)) and bool(fc.check_gradients(norm, normal((8, 3), dtype)))
        part.frozen = False
        net.train_step(x, y, fc.MSELoss(), optimizer)
        assert (net.buffers != kept).all()


@pytest.mark.parametrize("affine", [True, False])
def test_a_frozen_batch_norm_is_torchs_in_eval_mode(affine):
    torch = pytest.importorskip("torch")
    layer, x, g = (
        fc.BatchNorm1d(3, affine=affine, dtype=np.float64),
        normal((7, 3), np.float64, 1),
        normal((7, 3), np.float64),
    )
    other = torch.nn.BatchNorm1d(3, affine=affine).double()
    for _ in range(2):
        layer.forward(x)
        other(torch.tensor(x))
    layer.frozen = True
    other.eval()
    there = torch.tensor(2 * x, requires_grad=True)
    assert_allclose(layer.forward(2 * x), other(there).detach(), rtol=1e-12, atol=1e-12)
    other(there).backward(torch.tensor(g))
    assert_allclose(layer.backward(g), there.grad, rtol=1e-12, atol=1e-12)
    if affine:
        assert_allclose(layer.weight_grad, other.weight.grad, rtol=1e-12, atol=1e-12)
        assert_allclose(layer.bias_grad, other.bias.grad, rtol=1e-12, atol=1e-12)


BAD = [
    (lambda: fc.LayerNorm(0), ValueError, "LayerNorm: features must be at least 1"),
    (lambda: fc.LayerNorm(3, eps=-1), ValueError, "LayerNorm: eps must be finite and not negative"),
    (lambda: fc.RMSNorm(3, eps="a"), TypeError, "RMSNorm: eps must be a number"),
    (lambda: fc.RMSNorm(3, dtype=int), TypeError, "RMSNorm: dtype must be"),
    (lambda: fc.BatchNorm1d(3, momentum=1.5), ValueError, r"BatchNorm1d: momentum must lie in \[0, 1\], got 1.5"),
    (lambda: fc.BatchNorm1d(3, momentum=np.nan), ValueError, "BatchNorm1d: momentum"),
    (lambda: fc.BatchNorm1d(3, momentum="0.1"), TypeError, "BatchNorm1d: momentum must be a number"),
    (lambda: setattr(fc.LayerNorm(3), "weight", [1, 2]), ValueError, r"weight has shape \(3,\)"),
    (
        lambda: setattr(fc.LayerNorm(3, bias=False), "bias", [1, 2]),
        AttributeError,
        r"LayerNorm\(3, bias=False\) has no bias",
    ),
    (lambda: fc.LayerNorm(3).predict(np.ones((2, 4))), ValueError, r"x has shape \(2, 4\), expected \(n, 3\)"),
    (
        lambda: fc.Sequential([fc.Linear(2, 4), fc.RMSNorm(3, elementwise_affine=False)]),
        ValueError,
        r"gives 4 numbers per sample, but layer 1, RMSNorm\(3, elementwise_affine=False\), takes 3",
    ),
]


@pytest.mark.parametrize("call, error, message", BAD)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_repr():
    assert repr(fc.LayerNorm(3)) == "LayerNorm(3)"
    assert repr(fc.RMSNorm(3, dtype=np.float64, name="a")) == "RMSNorm(3, dtype=float64, name='a')"
    assert repr(fc.BatchNorm1d(3)) == "BatchNorm1d(3)"


@pytest.mark.parametrize("affine", [True, False])
@every_kind
def test_a_hundred_steps_of_torch(kind, affine):
    torch = pytest.importorskip("torch")
    layer = KINDS[kind][0]
    option = {"affine" if kind == "batch norm" else "elementwise_affine": affine}
    net = fc.Sequential(
        [fc.Linear(4, 9, seed=0, dtype=np.float64), layer(9, **option, dtype=np.float64), fc.ReLU(),
         fc.Linear(9, 2, seed=1, dtype=np.float64)]
    )  # fmt: skip
    other = torch.nn.Sequential(
        torch.nn.Linear(4, 9),
        getattr(torch.nn, layer.__name__)(9, **option),
        torch.nn.ReLU(),
        torch.nn.Linear(9, 2),
    ).double()
    for i in (0, 3):
        other[i].weight.data, other[i].bias.data = torch.tensor(net[i].weight.T.copy()), torch.tensor(net[i].bias)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.05, momentum=0.9)
    ours = fc.SGD(0.05, momentum=0.9)
    for step in range(100):
        x, y = normal((12, 4), np.float64, step), normal((12, 2), np.float64, step + 1)
        value = net.train_step(x, y, fc.MSELoss(), ours)
        loss = torch.nn.functional.mse_loss(other(torch.tensor(x)), torch.tensor(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert_allclose(value, loss.item(), rtol=1e-9)
    other.eval()
    assert_allclose(net.predict(x), other(torch.tensor(x)).detach().numpy(), rtol=1e-7, atol=1e-9)
    for name, values in net.named_buffers():
        assert_allclose(values, getattr(other[1], name.partition(".")[2]).numpy(), rtol=1e-9)


@every_kind
def test_what_is_not_finite_is_torchs(kind):
    torch = pytest.importorskip("torch")
    layer = KINDS[kind][0]
    for value in (np.nan, np.inf, -np.inf):
        x = normal((4, 5), np.float32)
        x[2, 3] = value
        y = getattr(torch.nn, layer.__name__)(5)(torch.tensor(x)).detach().numpy()
        with np.errstate(all="ignore"):
            ours = layer(5).forward(x)
        assert_array_equal(np.isnan(ours), np.isnan(y))


def test_outputs_are_overwritten_and_never_read():
    layer, x, out = fc.LayerNorm(5), normal((3, 5), np.float32), nan((3, 5), np.float32)
    assert layer.predict(x, out=out) is out
    assert_array_equal(out, layer.predict(x))


VARIANTS = {
    "plain mean": {"momentum": None},
    "no statistics": {"track_running_stats": False},
    "no bias": {"bias": False},
    "not affine": {"affine": False},
    "nothing": {"affine": False, "track_running_stats": False},
    "all": {"momentum": None, "bias": False, "eps": 0.1},
}


@njit
def predict_and_train(net, x, y, loss, optimizer):
    net.train_step(x, y, loss, optimizer)
    return net.predict(x)


@pytest.mark.parametrize("way", ["train_step", "fit", "nopython", "loaded between"])
@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_batch_norm_are_pytorch_s(name, way, tmp_path):
    """momentum=None, track_running_stats=False and bias=False were refused."""
    torch = pytest.importorskip("torch")
    given, rng, loss, optimizer = VARIANTS[name], np.random.default_rng(0), fc.MSELoss(), fc.SGD(0.1, momentum=0.9)
    net = fc.Sequential([fc.Linear(3, 5, seed=0, dtype=np.float64), fc.BatchNorm1d(5, dtype=np.float64, **given)])
    assert repr(eval(repr(net[1]), {"BatchNorm1d": fc.BatchNorm1d, "float64": np.float64})) == repr(net[1])
    module = net.to_torch().train()
    theirs = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for step in range(4):
        x, y = rng.standard_normal((9, 3)), rng.standard_normal((9, 5))
        if way == "fit":
            net.fit(x, y, loss=loss, optimizer=optimizer, batch_size=9, shuffle=False)
        elif way == "nopython":
            optimizer.prepare(net)
            net.reserve(9)
            assert_array_equal(predict_and_train(net, x, y, loss, optimizer), net.predict(x))
        else:
            net.train_step(x, y, loss, optimizer)
        theirs.zero_grad()
        torch.nn.functional.mse_loss(module(torch.tensor(x)), torch.tensor(y)).backward()
        theirs.step()
        if way == "loaded between" and step == 1:
            net.save(tmp_path / "net.safetensors", optimizer=optimizer)
            net, optimizer, _ = fc.load_checkpoint(tmp_path / "net.safetensors")
            net = fc.from_torch(net.to_torch())  # with its count of batches
            optimizer = pickle.loads(pickle.dumps(optimizer))
    module.eval()
    assert_allclose(net.predict(x), module(torch.tensor(x)).detach().numpy(), atol=1e-12)
    for (name, values), buffer in zip(net.named_buffers(), list(module.buffers()), strict=False):
        assert_allclose(values, buffer.numpy(), rtol=1e-12, err_msg=name)
    for (name, values, _), parameter in zip(net[1].named_parameters(), module[1].parameters(), strict=True):
        assert_allclose(values, parameter.detach().numpy(), rtol=1e-11, atol=1e-13, err_msg=name)


def test_a_prediction_by_the_batch_is_of_the_whole_batch():
    """Rows are predicted in blocks, and on several threads; statistics are those of all of them."""
    net = fc.Sequential([fc.Linear(30, 400, seed=0), fc.BatchNorm1d(400, track_running_stats=False)])
    x = normal((3000, 30), np.float32, 0) + np.linspace(0, 5, 3000, dtype=np.float32)[:, None]
    y = net.predict(x)
    assert np.abs(y.mean(axis=0)).max() < 1e-4 and np.abs(y.var(axis=0) - 1).max() < 1e-3
    net.n_threads = 2
    assert_array_equal(net.predict(x), y)
    for call in (lambda: net.predict(x[:1]), lambda: net.predict(x[0]), lambda: net.forward(x[:1])):
        with pytest.raises(ValueError, match="BatchNorm1d needs at least two samples"):
            call()
    with pytest.raises(ValueError, match=r"track_running_stats=False\): predicts|predicts by the statistics"):
        net.to_onnx("never.onnx")
