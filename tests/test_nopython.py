"""Layers, losses and optimizers as arguments of nopython functions: the same bits, and nothing compiled again."""

import copy
import gc
import itertools
import pickle
import shutil
import sys
import tracemalloc
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from arrays import DTYPES, LAYOUTS, nan, normal
from nopython_code import forward_backward, predict, train, train_step, train_two, train_weighted
from numba import njit, prange, typeof
from numba.core import errors
from numpy.testing import assert_allclose, assert_array_equal
from processes import run
from sample import slow

import fastfc as fc
from fastfc import kernels
from fastfc.kernels.runtime import native


@njit
def predict_into(net, x, out):
    return net.predict(x, out=out)


@njit
def predict_with(net, x, params):
    return net.predict(x, params=params)


@njit
def predict_one(net, x, out):
    net.predict_one(x, out)


@njit
def forward(net, x):
    return net.forward(x)


@njit
def backward(net, g):
    return net.backward(g)


@njit
def train_three_weighted(net, x, y, z, u, loss, optimizer, weight):
    return net.train_step(x, (y, z, u), loss, optimizer, sample_weight=weight)


def chain(dtype=np.float32, seed=0):
    return fc.MLP([5, 9, 3], "tanh", seed=seed, dtype=dtype)


def graph(dtype=np.float32, seed=0):
    x = fc.Input(5)
    h = fc.Linear(5, 3, seed=seed, dtype=dtype)(x)
    return fc.Graph(x, fc.Tanh()(h) * h + fc.Linear(3, 3, seed=seed + 1, dtype=dtype)(fc.Softmax()(h)))


def part(dtype=np.float32, seed=0):
    """A Linear that lives in a network."""
    part.owners.append(
        fc.Sequential([fc.Linear(4, 5, dtype=dtype), fc.Linear(5, 3, seed=seed, dtype=dtype), fc.Tanh()])
    )
    return part.owners[-1][1]


part.owners = []
NETS = [chain, graph, part]
VECTORS = [LAYOUTS[name] for name in ("C", "read-only")]


@pytest.mark.few(1)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("build", NETS)
def test_predict_has_pythons_bits(build, dtype):
    net, x, params = build(dtype), normal((20, 5), dtype), normal(build(dtype).params.shape, dtype, 1)
    expected = net.predict(x)
    assert_array_equal(predict(net, x), expected)
    assert_array_equal(predict(net, x[3]), expected[3])
    out = nan(expected.shape, dtype)
    assert_array_equal(predict_into(net, x, out), expected)
    assert_array_equal(out, expected)
    one = nan(3, dtype)
    predict_one(net, x[3], one)
    assert_array_equal(one, expected[3])
    one[:] = np.nan
    assert_array_equal(predict_into(net, x[3], one), expected[3])
    before = net.params.copy()
    twin = copy.deepcopy(net)
    twin.params[:] = params
    for layout in VECTORS:
        assert_array_equal(predict_with(net, x, layout(params)), twin.predict(x))
    assert_array_equal(net.params, before)


def test_params_none_are_the_networks_own():
    net, x = chain(), normal((4, 5), np.float32)
    assert_array_equal(predict_with(net, x, None), net.predict(x))
    assert_array_equal(predict_into(net, x, None), net.predict(x))


@pytest.mark.few(1)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("build", NETS)
def test_forward_and_backward_have_pythons_bits(build, dtype):
    net, twin = build(dtype), copy.deepcopy(build(dtype))
    net.reserve(20)
    for n in (20, 1, 0, 7):
        x, g = normal((n, 5), dtype), normal((n, 3), dtype, 1)
        net.grads[:] = np.nan
        for change in (np.array, np.asfortranarray):
            y, grad_input = forward_backward(net, change(x), change(g))
            assert_array_equal(y, twin.forward(x))
            assert_array_equal(grad_input, twin.backward(g))
            assert_array_equal(net.grads, twin.grads)


def test_forward_keeps_copies():
    net, x, g = chain(), normal((4, 5), np.float32), normal((4, 3), np.float32, 1)
    net.reserve(4)
    y, grad_input = forward_backward(net, x, g)
    y[:] = x[:] = np.nan
    assert_array_equal(backward(net, g), grad_input)


TARGETS = {
    "classes": (fc.CrossEntropyLoss(), np.arange(20) % 3),
    "few bytes": (fc.CrossEntropyLoss(), (np.arange(20) % 3).astype(np.uint8)),
    "probabilities": (fc.CrossEntropyLoss(), np.eye(3)[np.arange(20) % 3]),
    "numbers": (fc.MSELoss(), normal((20, 3), np.float64)),
    "bits": (fc.BCEWithLogitsLoss(), np.eye(3)[np.arange(20) % 3]),
}


@pytest.mark.few(5)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("momentum", [0, 0.9])
@pytest.mark.parametrize("loss, y", TARGETS.values(), ids=TARGETS.keys())
def test_train_step_has_pythons_bits(loss, y, momentum, dtype):
    net, optimizer, other = chain(dtype), fc.SGD(0.1, momentum=momentum), fc.SGD(0.1, momentum=momentum)
    twin, x = copy.deepcopy(net), normal((20, 5), dtype)
    y = y.astype(dtype) if y.ndim == 2 else y
    net.reserve(20)
    if momentum:
        optimizer.prepare(net)
    value = train(net, x, y, loss, optimizer, 5)
    expected = 0.0
    for _ in range(5):  # as `sum` rounds otherwise from Python 3.12 on
        expected += twin.train_step(x, y, loss, other)
    assert value == expected
    assert_array_equal(net.params, twin.params)
    assert_array_equal(net.grads, twin.grads)
    assert optimizer.count[0] == other.count[0] == 5
    if momentum:
        assert_array_equal(optimizer.velocity, other.velocity)


def test_training_of_a_graph():
    net, x, y = graph(), normal((20, 5), np.float32), np.arange(20) % 3
    twin = copy.deepcopy(net)
    net.reserve(20)
    train(net, x, y, fc.CrossEntropyLoss(), fc.SGD(0.1), 1)
    twin.train_step(x, y, fc.CrossEntropyLoss(), fc.SGD(0.1))
    assert_array_equal(net.params, twin.params)


WEIGHTS = np.random.default_rng(0).random(20) * (np.arange(20) % 4 > 0)  # some are 0


@pytest.mark.few(1)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss, y", TARGETS.values(), ids=TARGETS.keys())
def test_weights_of_samples(loss, y, dtype):
    net, twin, x, optimizer = chain(dtype), chain(dtype), normal((20, 5), dtype), fc.SGD(0.1)
    y, weights = y.astype(dtype) if y.ndim == 2 else y, WEIGHTS.astype(dtype)
    net.reserve(20)
    for change in (np.array, lambda w: np.repeat(w, 2)[::2]):
        value = train_weighted(net, x, y, loss, optimizer, change(weights))
        assert value == twin.train_step(x, y, loss, optimizer, weights)
        assert_array_equal(net.params, twin.params)
    assert train_weighted(net, x, y, loss, optimizer, None) == twin.train_step(x, y, loss, optimizer)
    assert_array_equal(net.params, twin.params)


def heads(*widths):
    """A graph with an output of each width."""
    x = fc.Input(5)
    h = fc.Tanh()(fc.Linear(5, 6, seed=0)(x))
    return fc.Graph(x, [fc.Linear(6, width, seed=width)(h) for width in widths])


CE, HUBER, MSE = fc.CrossEntropyLoss(), fc.HuberLoss(0.5), fc.MSELoss()


@pytest.mark.slow
def test_targets_of_several_outputs():
    """Classes, few bytes of classes and numbers, in any order; one column may be a vector."""
    x, numbers, classes = normal((20, 5), np.float32), normal((20, 4), np.float32, 1), np.arange(20) % 3
    column, few, weights = numbers[:, :1], (np.arange(20) % 4).astype(np.uint8), WEIGHTS.astype(np.float32)
    cases = [
        ((3, 4), [CE, MSE], (classes, numbers)),
        ((4, 4), [HUBER, CE], (numbers, few)),
        ((3, 4, 1), [CE, fc.MSELoss(reduction="sum"), MSE], (classes, numbers, column)),
    ]
    for widths, losses, targets in cases:
        loss = fc.MultiLoss(losses, weights=[0.5, 2, 1][: len(losses)])
        net, twin, ours, theirs = heads(*widths), heads(*widths), fc.SGD(0.1, momentum=0.9), fc.SGD(0.1, momentum=0.9)
        # which shows the loss the widths
        assert net.train_step(x, targets, loss, ours) == twin.train_step(x, targets, loss, theirs)
        for _ in range(3):
            if len(targets) == 2:
                value = train_two(net, x, *targets, loss, ours)
                expected = twin.train_step(x, targets, loss, theirs)
            else:
                value = train_three_weighted(net, x, *targets, loss, ours, weights)
                expected = twin.train_step(x, targets, loss, theirs, weights)
            assert value == expected
        assert_array_equal(net.params, twin.params)
        assert_array_equal(net.grads, twin.grads)
    net, loss = heads(4, 1), fc.MultiLoss([MSE, HUBER])
    net.reserve(20)
    assert net.evaluate(x, (numbers, column), loss) == train_two(net, x, numbers, column[:, 0], loss, fc.SGD())


GAUSSIAN = fc.GaussianNLLLoss()


def target_of(loss, width, kind, seed):
    """A target for an output of this width, of classes or of numbers."""
    rng = np.random.default_rng(seed)
    if kind == "classes":
        return rng.integers(0, width, 20)
    if loss is CE:
        return np.eye(width, dtype=np.float32)[rng.integers(0, width, 20)]
    return rng.standard_normal((20, width // 2 if loss is GAUSSIAN else width)).astype(np.float32)


def two_outputs(first, second):
    """A graph whose outputs may be variances too."""
    x = fc.Input(5)
    h = fc.Tanh()(fc.Linear(5, 6, seed=0)(x))
    net = fc.Graph(x, [fc.Softplus()(fc.Linear(6, width, seed=width)(h)) for width in (first, second)])
    net.reserve(20)
    return net


@pytest.mark.parametrize(
    "losses",  # with classes as the second target too, two more functions are compiled
    [*map(list, product([CE, HUBER, GAUSSIAN], [MSE])), *map(slow, map(list, product([CE, HUBER, GAUSSIAN], [CE])))],
    ids=str,
)
@pytest.mark.parametrize("first", ["Python", "nopython"])
def test_a_loss_of_several_outputs_is_for_whatever_network_it_is_given(losses, first):
    """It took the widths and the kinds of targets of what Python had trained last.

    Here all networks have as many columns in all, so that only the numbers tell.
    """
    loss, x = fc.MultiLoss(losses, weights=[0.5, 2]), normal((20, 5), np.float32)
    kinds = [("classes", "numbers") if part is CE else ("numbers",) for part in losses]
    nets, expected = {widths: two_outputs(*widths) for widths in ((2, 4), (4, 2))}, {}
    for (widths, net), both in product(nets.items(), product(*kinds)):
        targets = [target_of(part, *rest) for part, *rest in zip(losses, widths, both, (0, 1), strict=True)]
        values = [part(y, t)[0] for part, y, t in zip(losses, net.predict(x), targets, strict=True)]
        expected[widths, both] = targets, 0.5 * values[0] + 2 * values[1]
    for case, other in product(expected, expected):
        targets, value = expected[case]
        if first == "Python":
            nets[other[0]].train_step(x, tuple(expected[other][0]), loss, fc.SGD(1e-30))
        ours = train_two(nets[case[0]], x, *targets, loss, fc.SGD(1e-30))
        assert_allclose(ours, value, rtol=1e-5)


def noisy(seed=0):
    """With masks and running statistics."""
    layers = [
        fc.Linear(5, 8, seed=seed),
        fc.BatchNorm1d(8),
        fc.Tanh(),
        fc.Dropout(0.3, seed=3),
        fc.Linear(8, 3, seed=1),
    ]
    return fc.Sequential(layers)


def test_masks_and_running_statistics_go_on_in_nopython_code():
    """Each forward in training, there or here, draws the next mask and moves the statistics; predictions do neither."""
    net, twin, sgd, other = noisy(), noisy(), fc.SGD(0.1, weight_decay=0.1), fc.SGD(0.1, weight_decay=0.1)
    net.reserve(20)
    sgd.prepare(net)
    calls = [
        lambda net, sgd, native: forward(net, X) if native else net.forward(X),
        lambda net, sgd, native: predict(net, X) if native else net.predict(X),
        lambda net, sgd, native: [(train_step if native else train_step.py_func)(net, X, G, MSE, sgd) for _ in "ab"],
        lambda net, sgd, native: (forward_backward if native else forward_backward.py_func)(net, X, G)[1],
    ]
    for i, call in enumerate(calls * 3):
        assert_array_equal(call(net, sgd, i % 5 != 4), call(twin, other, False))
        assert net.rng_step == twin.rng_step
    assert net.rng_step == 3 * (1 + 2 + 1)
    assert_array_equal(net.params, twin.params)
    assert not np.array_equal(net[1].running_mean, noisy()[1].running_mean)
    # a step that is refused draws nothing
    before = net.params.copy()
    for bad in (lambda: train(net, X, G[:, :2].copy(), MSE, sgd, 1), lambda: forward(net, X[:1])):
        with pytest.raises(ValueError, match=r"shapes|two samples"):
            bad()
    assert net.rng_step == twin.rng_step
    assert_array_equal(net.params, before)
    assert_array_equal(forward(net, X), copy.deepcopy(twin).forward(X))


@njit
def add_to_params(net, number):
    net.params[:] += number
    net.grads[:] = number
    return net.params.size


def test_params_and_grads_are_the_networks_own():
    net = chain()
    before = net.params.copy()
    assert add_to_params(net, 2) == net.params.size
    assert_array_equal(net.params, before + 2)
    assert (net.grads == 2).all()
    add_to_params(net[2], 1)
    assert_array_equal(net.params[:54], before[:54] + 2)
    assert_array_equal(net.params[54:], before[54:] + 2 + 1)


def test_new_networks_compile_nothing():
    def use(net, loss, y):
        n, x = len(y), normal((len(y), net.in_features), net.dtype)
        net.reserve(n)
        predict(net, x)
        forward_backward(net, x, np.ascontiguousarray(net.predict(x)))
        train(net, x, y, loss, fc.SGD(0.1), 2)

    functions, activations = (predict, forward_backward, train_step), ["relu", "tanh", "sigmoid", "softmax", "identity"]
    for activation, n in itertools.product(activations, (1, 4)):  # what a first activation or batch of this size needs
        use(fc.MLP([2, 9, 3], activation), fc.MSELoss(), normal((n, 3), np.float32))
    use(graph(), fc.MSELoss(), normal((4, graph().out_features), np.float32))
    before = (
        [len(f.signatures) for f in functions],
        {k: len(v.loaded_types()) for k, v in native.compiled_kernels.items()},
    )
    for seed, activation in enumerate(activations):
        net = fc.MLP([seed + 1, 3 * seed + 2, 3], activation)
        for each in (net, net[0], graph(seed=seed)):
            use(each, fc.MSELoss(), normal((seed + 1, each.out_features), np.float32))
    after = (
        [len(f.signatures) for f in functions],
        {k: len(v.loaded_types()) for k, v in native.compiled_kernels.items()},
    )
    assert after == before


def test_types_hold_dtypes_and_kernels_but_no_sizes():
    assert typeof(chain()) == typeof(graph()) == typeof(part()) != typeof(chain(np.float64))
    assert typeof(fc.SGD(1)) == typeof(fc.SGD(2, momentum=0.5)) == typeof(fc.NAdam()) == typeof(fc.LBFGS())
    assert typeof(fc.MSELoss()) == typeof(fc.CrossEntropyLoss())
    assert fc.nopython.sources() in str(typeof(chain()))


X, G = normal((20, 5), np.float32), normal((20, 3), np.float32, 1)


def reserved(n=20):
    net = chain()
    net.reserve(n)
    return net


W = WEIGHTS.astype(np.float32)


WEIGHTED = fc.CrossEntropyLoss(weight=[1, 2, 3, 4])


def prepared_heads(*widths):
    net = heads(*widths)
    net.reserve(20)
    return net


def two_heads(*targets, before=()):
    """A step of a network with outputs of 3 and 2 after the loss has seen the widths of others."""
    net, loss = prepared_heads(3, 2), fc.MultiLoss([CE, MSE])
    for shape in before:
        heads(*shape).train_step(X, (CLASSES, np.zeros((20, shape[1]))), loss, fc.SGD())
    return train_two(net, X, *targets, loss, fc.SGD())


CLASSES, NUMBERS = np.arange(20) % 3, G[:, :2].copy()


def frozen_part():
    net = reserved()
    net[0].frozen = True
    return net


def forward_then(*calls):
    """backward after forward and other uses of the network's memory."""

    def all_calls():
        net = reserved()
        forward(net, X)
        for call in calls:
            call(net)
        backward(net, G)

    return all_calls


def refused_forward(net):
    with pytest.raises(ValueError, match="shapes"):
        forward(net, X[:, :4].copy())


ERRORS = {
    "backward first": (lambda: backward(reserved(), G), ValueError, r"call forward\(x\) first"),
    "nothing reserved": (lambda: forward(chain(), X), ValueError, r"call reserve\(batch_size\) before"),
    "too little reserved": (lambda: forward(reserved(16), X), ValueError, "call reserve"),
    "no training reserved": (
        lambda: train(chain(), X, G, fc.MSELoss(), fc.SGD(), 1),
        ValueError,
        "call reserve",
    ),
    "no state": (
        lambda: train(reserved(), X, G, fc.MSELoss(), fc.SGD(momentum=0.9), 1),
        ValueError,
        r"call optimizer.prepare\(net\) first",
    ),
    "another network's state": (
        lambda: train(reserved(), X, G, fc.MSELoss(), prepared(fc.MLP([2, 2])), 1),
        ValueError,
        r"call optimizer.prepare\(net\)",
    ),
    "no state of a rule that has one": (lambda: train(reserved(), X, G, MSE, fc.Adam(), 1), ValueError, "prepare"),
    "no segments": (
        lambda: train(reserved(), X, G, MSE, fc.SGD(l2=0.1), 1),
        ValueError,
        r"call optimizer.prepare\(net\)",
    ),
    "no state of a full-batch rule": (lambda: train(reserved(), X, G, MSE, fc.LBFGS(), 1), ValueError, "prepare"),
    "not told of what is frozen": (lambda: train(frozen_part(), X, G, MSE, fc.SGD(), 1), ValueError, "prepare"),
    "too little reserved to train": (lambda: train(reserved(16), X, G, MSE, fc.SGD(), 1), ValueError, "call reserve"),
    "a negative weight": (
        lambda: train_weighted(reserved(), X, G, MSE, fc.SGD(), -W),
        ValueError,
        "weight is negative",
    ),
    "a weight of NaN": (
        lambda: train_weighted(reserved(), X, G, MSE, fc.SGD(), W * np.float32(np.nan)),
        ValueError,
        "weight is negative",
    ),
    "too few weights": (lambda: train_weighted(reserved(), X, G, MSE, fc.SGD(), W[1:]), ValueError, "shapes"),
    "weights of another dtype": (
        lambda: train_weighted(reserved(), X, G, MSE, fc.SGD(), WEIGHTS),
        errors.TypingError,
        "float64",
    ),
    "fewer losses than outputs": (
        lambda: train_two(prepared_heads(3, 2, 2), X, CLASSES, NUMBERS, fc.MultiLoss([CE, MSE]), fc.SGD()),
        ValueError,
        "an output for each of its losses",
    ),
    "more losses than targets": (
        lambda: train_two(prepared_heads(3, 2, 2), X, CLASSES, NUMBERS, fc.MultiLoss([CE, MSE, MSE]), fc.SGD()),
        ValueError,
        "as many targets",
    ),
    "several losses of one target": (
        lambda: train(prepared_heads(3, 2), X, G, fc.MultiLoss([CE, MSE]), fc.SGD(), 1),
        ValueError,
        "shapes",
    ),
    "more losses than outputs": (
        lambda: train_two(reserved(), X, CLASSES, NUMBERS, fc.MultiLoss([CE, MSE]), fc.SGD()),
        ValueError,
        "an output for each of its losses",
    ),
    "classes for a loss of numbers": (lambda: two_heads(CLASSES, np.arange(20) % 2), ValueError, "integers"),
    "numbers of another output": (
        lambda: train_two(prepared_heads(2, 3), X, G, NUMBERS, fc.MultiLoss([MSE, HUBER]), fc.SGD()),
        ValueError,
        "shapes",
    ),
    "weights for another number of classes": (
        lambda: train(reserved(), X, CLASSES, fc.CrossEntropyLoss(weight=[1, 2, 3, 4]), fc.SGD(), 1),
        ValueError,
        "shapes",
    ),
    "weights for more classes than an output has": (
        lambda: train_two(prepared_heads(3, 2), X, CLASSES, NUMBERS, fc.MultiLoss([WEIGHTED, MSE]), fc.SGD()),
        ValueError,
        "shapes",
    ),
    "one target of too few samples": (
        lambda: two_heads(CLASSES[1:], NUMBERS, before=[(3, 2)]),
        ValueError,
        "one target for each sample",
    ),
    "another of too few": (
        lambda: two_heads(CLASSES, NUMBERS[1:], before=[(3, 2)]),
        ValueError,
        "one target for each sample",
    ),
    "one target too narrow": (lambda: two_heads(CLASSES, NUMBERS[:, :1].copy(), before=[(3, 2)]), ValueError, "shapes"),
    "numbers for classes": (lambda: two_heads(NUMBERS, NUMBERS, before=[(3, 2)]), ValueError, "shapes"),
    "a class too many of an output": (
        lambda: two_heads(CLASSES + 1, NUMBERS, before=[(3, 2)]),
        ValueError,
        "class index",
    ),
    "frozen since": (
        lambda: (lambda net, optimizer: train(frozen(net), X, G, fc.MSELoss(), optimizer, 1))(*pair()),
        ValueError,
        r"call optimizer.prepare\(net\)",
    ),
    "never told what is frozen": (
        lambda: train(frozen(reserved()), X, G, fc.MSELoss(), fc.SGD(), 1),
        ValueError,
        r"call optimizer.prepare\(net\)",
    ),
    "no samples": (lambda: train(reserved(), X[:0], G[:0], fc.MSELoss(), fc.SGD(), 1), ValueError, "at least one"),
    "x too narrow": (lambda: predict(chain(), X[:, :4]), ValueError, "shapes of the arrays do not fit"),
    "one sample too short": (lambda: predict(chain(), X[0, :4]), ValueError, "shapes"),
    "out too short": (lambda: predict_into(chain(), X, G[:5].copy()), ValueError, "shapes"),
    "params too short": (lambda: predict_with(chain(), X, chain().params[1:]), ValueError, "shapes"),
    "predict_one too short": (lambda: predict_one(chain(), X[0], G[0, :2].copy()), ValueError, "shapes"),
    "out is params": (
        lambda: (lambda net: predict_into(net, X[:1], net.params[:3][None]))(chain()),
        ValueError,
        "overlaps",
    ),
    "x too narrow for forward": (lambda: forward(reserved(), X[:, :4].copy()), ValueError, "shapes"),
    "gradient too narrow": (lambda: forward_backward(reserved(), X, NUMBERS), ValueError, "shapes"),
    "gradient of fewer samples": (lambda: forward_backward(reserved(), X, G[:5]), ValueError, "shapes"),
    "targets too narrow": (
        lambda: train(reserved(), X, NUMBERS, fc.MSELoss(), fc.SGD(), 1),
        ValueError,
        "shapes",
    ),
    "fewer classes": (
        lambda: train(reserved(), X, np.zeros(5, int), fc.CrossEntropyLoss(), fc.SGD(), 1),
        ValueError,
        "shapes",
    ),
    "a class too many": (
        lambda: train(reserved(), X, np.full(20, 3), fc.CrossEntropyLoss(), fc.SGD(), 1),
        ValueError,
        "class index",
    ),
    "no probability": (
        lambda: train(reserved(), X, 2 + G, fc.CrossEntropyLoss(), fc.SGD(), 1),
        ValueError,
        r"not in \[0, 1\]",
    ),
    "x of another dtype": (lambda: predict(chain(), X.astype(np.float64)), errors.TypingError, "float64"),
    "params of another dtype": (
        lambda: predict_with(chain(), X, chain().params.astype(np.float64)),
        errors.TypingError,
        "float64",
    ),
    "integers": (lambda: predict(chain(), X.astype(int)), errors.TypingError, "int64"),
    "targets of another dtype": (
        lambda: train(reserved(), X, G.astype(np.float64), fc.MSELoss(), fc.SGD(), 1),
        errors.TypingError,
        "float64",
    ),
    "classes for numbers": (
        lambda: train(reserved(), X, np.zeros(20, int), fc.MSELoss(), fc.SGD(), 1),
        ValueError,
        "shapes of the arrays do not fit",
    ),
    "a loss by name": (lambda: train(reserved(), X, G, "mse", fc.SGD(), 1), errors.TypingError, "such as fc.MSELoss"),
    "only an activation": (
        lambda: predict(fc.ReLU(), X),
        errors.NumbaTypeError,
        r"ReLU\(\) has no width of its own; put it behind a Linear",
    ),
    "only gates": (lambda: predict(fc.Graph(x := fc.Input(5), x + x), X), errors.NumbaTypeError, "behind a Linear"),
    "after a failed forward": (
        forward_then(refused_forward),
        ValueError,
        "call forward",
    ),
    "after a step": (
        forward_then(lambda net: train(net, X, G, fc.MSELoss(), fc.SGD(), 1)),
        ValueError,
        "call forward",
    ),
    "after a step in Python": (
        forward_then(lambda net: net.train_step(X, G, fc.MSELoss(), fc.SGD())),
        ValueError,
        "call forward",
    ),
    "after Python's forward": (forward_then(lambda net: net.forward(X)), ValueError, "call forward"),
    "after new memory": (forward_then(lambda net: net.reserve(500)), ValueError, "call forward"),
}


def noisy_reserved():
    net = noisy()
    net.reserve(20)
    return net


def frozen(net):
    net.layers[0].frozen = True
    return net


def pair():
    net = reserved()
    return net, prepared(net)


def normed():
    net = fc.Sequential([fc.BatchNorm1d(5)])
    net.reserve(len(X))
    return net


@pytest.mark.parametrize("make, y", [(noisy_reserved, G), (normed, X)])
def test_an_optimizer_that_is_not_prepared_takes_no_buffers_for_parameters(make, y):
    """They were in one vector: without `prepare` weight decay would have changed running statistics."""
    nets, optimizers = (make(), make()), (fc.SGD(weight_decay=0.1), fc.SGD(weight_decay=0.1))
    optimizers[0].prepare(nets[0])
    for net, optimizer in zip(nets, optimizers, strict=True):
        train(net, X, y, MSE, optimizer, 3)
    assert_array_equal(nets[0].params, nets[1].params)
    assert_array_equal(nets[0].buffers, nets[1].buffers)


def prepared(net):
    optimizer = fc.SGD(momentum=0.9)
    optimizer.prepare(net)
    return optimizer


@pytest.mark.parametrize("call, error, message", ERRORS.values(), ids=ERRORS.keys())
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_predict_between_forward_and_backward_changes_nothing():
    net = reserved()
    _, expected = forward_backward(net, X, G)
    forward(net, X)
    predict(net, X[:3])
    net.predict(2 * X)
    assert_array_equal(backward(net, G), expected)


@pytest.mark.parametrize(
    "use", [lambda net: forward(net, 2 * X), lambda net: train(net, X, G, fc.MSELoss(), fc.SGD(), 1)]
)
def test_python_backward_knows_that_nopython_code_used_the_memory(use):
    net = reserved()
    net.forward(X)
    use(net)
    with pytest.raises(RuntimeError, match="call forward"):
        net.backward(G)


def outside():
    """Probabilities of more than 1."""
    net = reserved()
    net.params[:] = 1
    return net, X, np.ones((20, 3), np.float32), fc.BCELoss()


def no_row():
    """An index that the network computes, of no row."""
    net = fc.Sequential([fc.Linear(5, 1, init="zeros", bias_init=fc.Constant(7)), fc.Embedding(3, 2, seed=0)])
    net.reserve(20)
    return net, X, np.ones((20, 2), np.float32), fc.MSELoss()


FAILING = {
    "class": (lambda: (reserved(), X, np.full(20, -1), fc.CrossEntropyLoss()), "class index"),
    "prediction": (outside, "a prediction is out of range"),
    "index": (no_row, "row of its table"),
    "one sample": (lambda: (noisy_reserved(), X[:1], G[:1], fc.MSELoss()), "at least two samples"),
}


@pytest.mark.parametrize("make", [lambda: fc.SGD(0.1, momentum=0.9), fc.NAdam, fc.LBFGS])
@pytest.mark.parametrize("case", FAILING)
def test_a_step_that_fails_changes_nothing(case, make):
    build, message = FAILING[case]
    (net, x, y, loss), optimizer = build(), make()
    optimizer.prepare(net)
    before, counters = net.params.copy(), net._counters.copy()
    with pytest.raises(ValueError, match=message):
        train(net, x, y, loss, optimizer, 1)
    assert_array_equal(net.params, before)
    assert not optimizer.state.any() and not optimizer.count.any() and net._counters[1] == counters[1]


def test_lr_can_change_between_calls():
    net, twin, optimizer, other = reserved(), chain(), fc.SGD(0.1), fc.SGD(0.1)
    for lr in (0.1, 0.01):
        optimizer.lr = other.lr = lr
        train(net, X, G, fc.MSELoss(), optimizer, 1)
        twin.train_step(X, G, fc.MSELoss(), other)
    assert_array_equal(net.params, twin.params)


@njit(parallel=True)
def predict_rows(net, x, out):
    for i in prange(len(x)):
        out[i] = net.predict(x[i])


@njit(parallel=True)
def predict_blocks(net, x, out):
    for i in prange(len(x) // 10):
        net.predict(x[10 * i : 10 * i + 10], out=out[10 * i : 10 * i + 10])


@pytest.mark.few(1)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", [predict_rows, predict_blocks])
def test_in_prange(function, dtype):
    net, x = chain(dtype), normal((1000, 5), dtype)
    out = nan((1000, 3), dtype)
    function(net, x, out)
    assert_array_equal(out, net.predict(x))


USER = """
import numpy as np
from numba import njit, prange
import fastfc as fc

@njit(cache=True)
def predict(net, x):
    return net.predict(x)

@njit(cache=True)
def train(net, x, y, loss, optimizer):
    return net.train_step(x, y, loss, optimizer)

@njit(cache=True, parallel=True)
def many(net, x, out):
    for i in prange(len(x)):
        out[i] = net.predict(x[i])
"""
CODE = """
import user
import numpy as np, fastfc as fc

net, x = fc.MLP([3, 4, 2], seed=0), np.ones((5, 3), np.float32)
net.reserve(5)
out = net.predict(x)
uses = {{
    "predict": lambda: np.array_equal(user.predict(net, x), out),
    "train": lambda: user.train(net, x, out, fc.MSELoss(), fc.SGD(0.1)) == 0,
    "many": lambda: user.many(net, x, rows := np.full_like(out, np.nan)) or np.array_equal(rows, out),
}}
for name in {names}:
    assert uses[name]()
    stats = getattr(user, name).stats
    print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


@pytest.mark.parametrize("names", [["predict"], slow(["train", "many"])], ids=" ".join)
def test_cached_functions(tmp_path, names):
    """A second process compiles nothing; new kernels do."""
    package = Path(fc.__file__).parent
    without = shutil.ignore_patterns("__pycache__", "kernels")
    shutil.copytree(package, tmp_path / "fastfc", ignore=without)
    shutil.copytree(Path(kernels.__file__).parent, tmp_path / "fastfc/kernels", ignore=without)
    (tmp_path / "user.py").write_text(USER)

    def hits_and_misses(change=""):
        environment = {"NUMBA_CACHE_DIR": tmp_path / "numba"}
        return run(change + CODE.format(names=names), path=str(tmp_path), **environment)[0].split()

    assert hits_and_misses() == ["0", "1"] * len(names)
    assert hits_and_misses() == ["1", "0"] * len(names)
    other = "import fastfc.nopython as n; n.hash_of_sources_and_versions = lambda: 'another'\n"
    assert hits_and_misses(other) == ["0", "1"] * len(names)
    assert hits_and_misses() == ["1", "0"] * len(names)


def test_calls_keep_nothing():
    net, optimizer, loss, y = reserved(), fc.SGD(1e-3), fc.MSELoss(), np.zeros((1, 3), np.float32)
    x = X[:1]

    def use():
        predict(net, x)
        train(net, x, y, loss, optimizer, 1)

    use()
    handle = [*net._handle, *optimizer._handle, net, optimizer, loss, x, y]
    gc.collect()
    counts = [sys.getrefcount(thing) for thing in handle]
    tracemalloc.start()
    try:
        memory, _ = tracemalloc.get_traced_memory()
        for _ in range(2 * 10**4):
            predict(net, x)
        for _ in range(10**3):
            use()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - memory
    finally:
        tracemalloc.stop()
    assert np.abs(np.subtract([sys.getrefcount(thing) for thing in handle], counts)).max() < 10
    assert grown < 1 << 17


def test_memory_outlives_the_network():
    """A native view of the parameters keeps them."""

    @njit
    def params(net):
        return net.params

    net = chain()
    expected, view = net.params.copy(), params(net)
    assert np.shares_memory(view, net.params)
    del net
    gc.collect()
    assert_array_equal(view, expected)


# What these are for: networks in the loops of simulations and searches.


@njit
def control(policy, state, steps):
    """A cart that is pushed left or right."""
    states = np.empty((steps, 4))
    for t in range(steps):
        push = policy.predict(state)
        force = 1.0 if push[1] > push[0] else -1.0
        position, speed, angle, turn = state
        states[t] = state
        state = np.array(
            [position + 0.02 * speed, speed + 0.02 * force, angle + 0.02 * turn, turn + 0.02 * (angle - force)]
        )
    return states


def test_a_control_loop():
    policy, state = fc.MLP([4, 16, 2], "tanh", seed=0, dtype=np.float64), np.array([0.1, 0, 0.05, 0])
    states = control(policy, state, 500)
    assert_array_equal(states, control.py_func(policy, state, 500))
    pushes = policy.predict(states).argmax(axis=1)
    assert 0 < pushes.mean() < 1


@njit
def runge_kutta(net, y, dt, steps):
    for _ in range(steps):
        k1 = net.predict(y)
        k2 = net.predict(y + dt / 2 * k1)
        k3 = net.predict(y + dt / 2 * k2)
        k4 = net.predict(y + dt * k3)
        y = y + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return y


def test_a_network_as_the_right_side_of_a_differential_equation():
    net = fc.MLP([3, 12, 3], "tanh", seed=0, dtype=np.float64)
    y = normal((7, 3), np.float64)
    assert_array_equal(runge_kutta(net, y, 0.1, 20), runge_kutta.py_func(net, y, 0.1, 20))
    exact = runge_kutta(net, y, 2 / 640, 640)
    coarse, fine = (np.abs(runge_kutta(net, y, 2 / n, n) - exact).max() for n in (20, 40))
    assert 3.5 < np.log2(coarse / fine) < 4.5


@njit(parallel=True)
def fitness(net, population, x, y):
    scores = np.empty(len(population), population.dtype)
    for i in prange(len(population)):
        scores[i] = -np.mean((net.predict(x, params=population[i]) - y) ** 2)
    return scores


@pytest.mark.slow
def test_evolution_strategies():
    net, rng = fc.MLP([1, 8, 1], "tanh", seed=0), np.random.default_rng(0)
    x = np.linspace(-2, 2, 32, dtype=np.float32)[:, None]
    y, mean, first = np.sin(2 * x), net.params.copy(), net.params.copy()
    for _ in range(60):
        noise = rng.standard_normal((2000, mean.size)).astype(np.float32)
        population = mean + 0.1 * noise
        scores = fitness(net, population, x, y)
        best = np.argsort(scores)[-200:]
        mean = population[best].mean(axis=0)
    twin = copy.deepcopy(net)
    for i in (0, 7, 1999):
        twin.params[:] = population[i]
        assert_allclose(scores[i], -np.mean((twin.predict(x) - y) ** 2), rtol=1e-5)
    before, after = fitness(net, np.stack([first, mean]), x, y)
    assert after > before / 10 and after > -0.05
    assert_array_equal(net.params, first)


@njit
def descend(net, x, goal, lr, steps):
    for _ in range(steps):
        x = x - lr * net.backward(net.forward(x) - goal)
    return x


def test_gradient_descent_on_the_input():
    net, goal = fc.MLP([4, 16, 2], "tanh", seed=0, dtype=np.float64), np.full((3, 2), 0.25)
    net.reserve(3)
    start = normal((3, 4), np.float64)
    params = net.params.copy()
    x = descend(net, start, goal, 0.1, 3000)
    assert np.abs(net.predict(x) - goal).max() < 1e-3 < np.abs(net.predict(start) - goal).max()
    assert_array_equal(descend(net, start, goal, 0.1, 5), descend.py_func(net, start, goal, 0.1, 5))
    assert_array_equal(net.params, params)


GLOBAL, GLOBAL_LOSS = fc.MLP([5, 3], seed=0), fc.MSELoss()
WIDE, LONG = X.astype(np.float64), np.zeros((4, 5, 1), np.float32)
READ_ONLY = np.broadcast_to(np.float32(0), (20, 3))
TWO = (X[:, :2].copy(), X[:, 2:].copy())


@njit
def predict_single(net, x, out):
    net.predict_one(x, out)


@njit
def rollout(net, state):
    for _ in range(3):
        state = state + 0.5 * net.predict(state)
    return state


@njit
def of_a_global(x):
    return GLOBAL.predict(x)


@njit
def with_a_global_loss(net, x, y, optimizer):
    return net.train_step(x, y, GLOBAL_LOSS, optimizer)


@njit
def misspelt(net, x):
    return net.predct(x)


def step(x=X, y=G, loss=MSE, optimizer=None, weights=None):
    net = reserved()
    optimizer = optimizer or fc.SGD()
    return (
        train(net, x, y, loss, optimizer, 1) if weights is None else train_weighted(net, x, y, loss, optimizer, weights)
    )


FLOAT64 = r"is an array of float64, the network of float32; give \w+\.astype\(np\.float32\), or make the network with"
SENTENCES = {
    "predict float64": (lambda: predict(chain(), WIDE), FLOAT64),
    "predict one sample of float64": (lambda: predict(chain(), WIDE[0]), FLOAT64),
    "a float64 state in a loop": (lambda: rollout(fc.MLP([5, 5]), WIDE), FLOAT64),
    "float32 for float64": (lambda: predict(fc.MLP([5, 1], dtype=np.float64), X), "float32, the network of float64"),
    "predict integers": (lambda: predict(chain(), X.astype(int)), r"array of int64, .*give x\.astype\(np\.float32\)$"),
    "predict bools": (lambda: predict(chain(), X > 0), r"array of bool, .*give x\.astype"),
    "predict complex": (lambda: predict(chain(), X.astype(np.complex64)), "array of complex64"),
    "three axes": (lambda: predict(chain(), LONG), r"x has 3 axes; give one sample, \(width,\), or rows"),
    "no axis": (lambda: predict(chain(), np.array(1, np.float32)), "x has 0 axes"),
    "a number": (lambda: predict(chain(), 1.0), "x is of type float64; give an array of float32"),
    "nothing": (lambda: predict(chain(), None), "x is of type none; give an array"),
    "a tuple": (lambda: predict(chain(), TWO), r"x is a tuple; put its arrays .*np\.concatenate\(x, axis=1\)"),
    "a tuple of samples": (lambda: predict(chain(), (X[0, :2], X[0, 2:])), r"np\.concatenate\(x\)$"),
    "a tuple of numbers": (lambda: predict(chain(), (1.0, 2.0, 3.0)), "x is a tuple of numbers; give an array"),
    "a tuple forward": (lambda: forward(chain(), TWO), "forward: x is a tuple"),
    "a tuple in a step": (lambda: step(TWO), "train_step: x is a tuple"),
    "out of float64": (
        lambda: predict_into(chain(), X, G.astype(float)),
        r"out is .*make it np\.empty\(shape, np\.float32",
    ),
    "out read-only": (lambda: predict_into(chain(), X, READ_ONLY), "out is read-only"),
    "one of float64": (lambda: predict_single(chain(), WIDE[0], G[0]), "predict_one: x is an array of float64"),
    "one into float64": (lambda: predict_single(chain(), X[0], WIDE[0]), "predict_one: out is an array of float64"),
    "params of float64": (lambda: predict_with(chain(), X, WIDE[0]), "params is an array of float64"),
    "params of two axes": (lambda: predict_with(chain(), X, X), "params has 2 axes; give a vector like net.params"),
    "forward one": (lambda: forward(chain(), X[0]), r"forward: x has 1 axis; samples are rows, .*x\.reshape\(1, -1\)"),
    "forward float64": (lambda: forward(chain(), WIDE), "forward: x is an array of float64"),
    "backward float64": (lambda: backward(chain(), WIDE), "backward: grad_output is an array of float64"),
    "backward one": (lambda: backward(chain(), X[0]), "grad_output has 1 axis"),
    "step of float64": (lambda: step(WIDE), "train_step: x is an array of float64"),
    "targets of float64": (lambda: step(y=G.astype(float)), r"train_step: y is an array of float64, .*y\.astype"),
    "targets of one axis": (lambda: step(y=G[:, 0]), r"y has 1 axis; numbers are \(n, columns\), y\.reshape\(-1, 1\)"),
    "weights of float64": (lambda: step(weights=np.ones(20)), "sample_weight is an array of float64"),
    "weights of integers": (lambda: step(weights=np.ones(20, int)), "sample_weight is an array of int64"),
    "weights of two axes": (lambda: step(weights=X), "sample_weight has 2 axes"),
    "a loss by name": (lambda: step(loss="mse"), r"such as fc\.MSELoss\(\) and fc\.SGD\(\), not unicode"),
    "loss and optimizer": (lambda: step(loss=fc.SGD(), optimizer=MSE), r"such as fc\.MSELoss\(\) and fc\.SGD\(\)"),
    "a global network": (
        lambda: of_a_global(X),
        "predict: the network is a global .*give it to the function as an arg",
    ),
    "a closed-over network": (lambda: njit(lambda x: forward_of(GLOBAL, x))(X), "the network is a global"),
    "a global loss": (lambda: with_a_global_loss(reserved(), X, G, fc.SGD()), "the loss is a global"),
    "a method of Python": (
        lambda: njit(lambda net: net.summary())(chain()),
        "no 'summary' in @njit code, where a network",
    ),
    "a misspelt method": (lambda: misspelt(chain(), X), r"there is no 'predct' .*did you mean 'predict'\?"),
    "step of an optimizer": (
        lambda: njit(lambda o, net: o.step(net))(fc.SGD(), chain()),
        "an argument of net.train_step",
    ),
    "a called network": (lambda: njit(lambda net, x: net(x))(chain(), X), "no '__call__' in @njit code"),
}


@njit
def forward_of(net, x):
    return net.forward(x)


@pytest.mark.parametrize("name", SENTENCES)
def test_wrong_types_are_said_in_one_sentence(name):
    """They were 12 to 94 lines of Numba, which ended with "During: Pass nopython_type_inference"."""
    call, sentence = SENTENCES[name]
    with pytest.raises((errors.TypingError, AttributeError), match=sentence) as raised:
        call()
    text = str(raised.value)
    assert text.startswith("fastfc: ") and "\n" not in text
    assert isinstance(raised.value, TypeError | AttributeError)


def test_other_layouts_are_no_fault():
    net, read_only = chain(), X.copy()
    read_only.flags.writeable = False
    for x in (np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2], X[::-1][::-1], read_only):
        assert_array_equal(predict(net, x), net.predict(X))
    a, b = fc.Input(2), fc.Input(3)
    graph = fc.Graph([a, b], fc.Linear(5, 1, seed=0)(fc.concatenate([a, b])))
    assert_array_equal(predict(graph, np.concatenate(TWO, axis=1)), graph.predict(TWO))


MISFITS = {
    "x": (lambda: predict(chain(), X[:, :4].copy()), r"x has another width than the network takes, net\.in_features"),
    "one x": (lambda: predict_single(chain(), X[0, :4].copy(), G[0].copy()), "x has another width"),
    "x forward": (lambda: forward(reserved(), X[:, :4].copy()), "x has another width"),
    "x of a step": (lambda: step(X[:, :4].copy()), "x has another width"),
    "params": (lambda: predict_with(chain(), X, X[0]), r"params has another length than net\.params"),
    "rows of out": (lambda: predict_into(chain(), X, G[:7].copy()), "out must have a row for each row of x"),
    "one out": (lambda: predict_single(chain(), X[0], X[0].copy()), "out must have a row for each row"),
    "gradient": (lambda: forward_backward(reserved(), X, G[:3]), "grad_output must have the shape of what forward"),
    "rows of y": (lambda: step(y=G[:3]), "y must have one target for each row of x"),
    "classes": (lambda: step(y=np.zeros(3, int), loss=fc.CrossEntropyLoss()), "y must have one target for each row"),
    "width of y": (lambda: step(y=X), r"y is not what the loss takes, numbers \(n, net\.out_features\) or classes"),
    "weights": (lambda: step(weights=np.ones(3, np.float32)), "sample_weight must have one number for each row"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_shapes_that_do_not_fit_are_named(name):
    """They were "the shapes of the arrays do not fit; call the kernel from Python for details"."""
    call, sentence = MISFITS[name]
    with pytest.raises(ValueError, match="fastfc: the shapes of the arrays do not fit: " + sentence):
        call()


@pytest.mark.parametrize("module", ["fastfc.kernels.edge", "fastfc.kernels.runtime.native"])
def test_code_that_earlier_versions_cached_is_compiled_anew(module):
    """It holds a class of theirs; where Numba gets another error than OSError, the user's program ends."""
    with pytest.raises(OSError, match="another version"):
        pickle.loads(f"c{module}\nLoad\n.".encode())
