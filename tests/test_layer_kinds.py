"""What every kind of layer must do, wherever it is used."""

import copy
import pickle

import numpy as np
import pytest
from arrays import DTYPES, LAYOUTS, normal
from examples import MORE_LAYERS, OF_FEATURES, of_features
from nopython_code import run, train_step
from numpy.testing import assert_array_equal

import fastfc as fc


def chain(*layers):
    return lambda dtype: fc.Sequential(
        [
            fc.Linear(5, 7, seed=0, dtype=dtype),
            *(layer(dtype) for layer in layers),
            fc.Linear(7, 3, seed=1, dtype=dtype),
        ]
    )


def shared(layer):
    """A layer that is used twice, and whose input others read as well."""

    def build(dtype):
        x, norm = fc.Input(5), layer(dtype)
        a = fc.Linear(5, 7, seed=0, dtype=dtype)(x)
        b = norm(fc.Tanh()(norm(a) + a))
        return fc.Graph(x, fc.Linear(7, 3, seed=1, dtype=dtype)(b * a))

    return build


def on_inputs(dtype):
    """Everything that reads x itself, of which nothing is needed."""
    x = fc.Input(5)
    norms = [of_features(name, 5)(dtype) for name in OF_FEATURES]
    return fc.Graph(x, fc.concatenate([norm(x) for norm in norms] + [fc.Dropout(0.3, seed=4)(x)]))


def embedded(dtype):
    x, table = fc.Input(5), fc.Embedding(4, 3, 5, seed=0, dtype=dtype)
    return fc.Graph(x, fc.concatenate([fc.Linear(15, 3, seed=1, dtype=dtype)(table(x) * table(x)), 0.5 * x]))


# by the statistics of a batch, the prediction of one sample is another
VARIANTS = [
    (name, {what: value for what, value in options.items() if what not in ("features", "name")})
    for name, options in MORE_LAYERS
    if name in OF_FEATURES and options.get("track_running_stats", True)
]
NETS = {
    **{name: chain(of_features(name, 7)) for name in OF_FEATURES},
    **{f"{name}, shared": shared(of_features(name, 7)) for name in OF_FEATURES},
    **{
        f"{name} of {', '.join(options)}": chain(of_features(name, 7, **options), lambda _: fc.ReLU())
        for name, options in VARIANTS
    },
    "dropout": chain(lambda _: fc.Tanh(), lambda _: fc.Dropout(0.4, seed=3)),
    "dropout, shared": shared(lambda _: fc.Dropout(0.4, seed=3)),
    "embedding": embedded,
    "on inputs": on_inputs,
}
every_kind = pytest.mark.parametrize("name", NETS)


def net_of(name, dtype=np.float64):
    """With parameters and statistics that are not special."""
    net = NETS[name](dtype)
    for i, (name, values, *_) in enumerate(net.named_parameters() + net.named_buffers()):
        values[...] = np.abs(normal(values.shape, dtype, i)) + 0.25
        if name.endswith(("knots", "values")):  # a polygon that rises
            values.sort()
    return net


def data_of(name, dtype=np.float64, n=8):
    x = normal((n, 5), dtype, 1)
    return np.random.default_rng(0).integers(0, 4, (n, 5)).astype(dtype) if name == "embedding" else x


@every_kind
def test_gradients_are_those_of_differences(name):
    net = net_of(name)
    report = fc.check_gradients(net, data_of(name))
    assert report, str(report)


@every_kind
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_threads_and_copies_change_no_bit(name, dtype):
    x, g = data_of(name, dtype), None
    expected = None
    variants = LAYOUTS | {"threads": np.array, "pickle": np.array}
    for variant, change in variants.items():
        net = net_of(name, dtype)
        if variant == "threads":
            net.n_threads = 2
        if variant == "pickle":
            net = pickle.loads(pickle.dumps(copy.deepcopy(net)))
        predicted = net.predict(change(x))
        y = net.forward(change(x))
        g = normal(y.shape, dtype, 2)
        got = predicted, y, net.backward(change(g)), net.grads.copy(), net.params.copy()
        expected = expected or got
        for ours, theirs in zip(got, expected, strict=True):
            assert_array_equal(ours, theirs)


@every_kind
def test_nopython_code_has_pythons_bits(name):
    net, other, x = net_of(name, np.float32), net_of(name, np.float32), data_of(name, np.float32)
    net.reserve(8)
    n_out = net.out_features
    g = normal((8, n_out), np.float32, 2)
    predicted, y, grad_input = run(net, x, g)
    assert_array_equal(predicted, other.predict(x))
    assert_array_equal(y, other.forward(x))
    assert_array_equal(grad_input, other.backward(g))
    assert_array_equal(net.grads, other.grads)
    assert_array_equal(net.params, other.params)
    loss, optimizer, same = fc.MSELoss(), fc.SGD(lr=0.01), fc.SGD(lr=0.01)
    optimizer.prepare(net)
    for _ in range(3):
        assert train_step(net, x, g, loss, optimizer) == other.train_step(x, g, loss, same)
    assert_array_equal(net.params, other.params)


@every_kind
def test_fit_is_the_loop_of_steps(name):
    net, other, x = net_of(name, np.float32), net_of(name, np.float32), data_of(name, np.float32, 23)
    y = normal((23, net.out_features), np.float32, 2)
    for part in (net, other):
        part.n_threads = 2 if part is net else 1
    net.fit(x, y, loss=fc.MSELoss(), optimizer=fc.SGD(0.01), epochs=2, batch_size=5, seed=0)
    rng, optimizer = np.random.default_rng(0), fc.SGD(0.01)
    for _ in range(2):
        order = rng.permutation(23)
        for start in range(0, 23, 5):
            rows = order[start : start + 5]
            other.train_step(x[rows], y[rows], fc.MSELoss(), optimizer)
    assert_array_equal(net.params, other.params)


@every_kind
def test_steps_with_none_or_one_sample_predicted(name):
    net, x = net_of(name), data_of(name)
    y = net.predict(x)
    assert_array_equal(net.predict(x[:1]), y[:1])
    assert net.predict(x[:0]).shape == (0, net.out_features)
    out = np.full(net.out_features, np.nan)
    net.predict_one(x[0], out)
    assert_array_equal(out, y[0])
    before = net.params.copy()
    net.forward(x[:0])
    assert net.backward(np.zeros((0, net.out_features))).shape == (0, 5)
    assert not net.grads.any()
    assert_array_equal(net.params, before)
