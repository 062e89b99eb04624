from itertools import pairwise

import numpy as np
import pytest
from arrays import DTYPES, LAYOUTS, normal
from numpy.testing import assert_array_equal
from processes import run as run_elsewhere
from test_kernel_program import ONE_THREAD, Arguments

import fastfc as fc
from fastfc import kernels
from fastfc.kernels.optim import rules, update
from fastfc.kernels.training import step as step_kernels

NO_LABELS = np.zeros(0, np.int64)


def code_of(optimizer):
    hyper, *_ = optimizer
    return rules.MOMENTUM if hyper[update.RULE] else rules.SGD


class Training(Arguments):
    """The same for steps."""

    def optimizer(self, momentum=0.9):
        optimizer = fc.SGD(0.05, momentum=momentum, weight_decay=0.01)
        state, segments = optimizer.prepare(self.net)
        return optimizer.hyper, segments, state, optimizer.count

    def arrays(self, x, target, labels, optimizer, loss, weights):
        hyper, segments, state, count = optimizer
        weights = x[0, :0] if weights is None else weights
        inputs = x, self.table, target, labels, weights, loss._handle[0], hyper, segments
        return *inputs, self.params, self.grads, state, count, self.workspace, self.counters

    def step(self, x, target, labels, optimizer, loss, weights=None):
        arrays = self.arrays(x, target, labels, optimizer, loss, weights)
        return step_kernels.train_step.call(*arrays, code_of(optimizer), *ONE_THREAD)

    def steps(self, x, target, labels, order, optimizer, loss, batch, first=0, last=None, weights=None, accumulate=1):
        arrays, last = self.arrays(x, target, labels, optimizer, loss, weights), len(x) if last is None else last
        rest = first, last, batch, accumulate, code_of(optimizer), 0.0, *ONE_THREAD
        return step_kernels.train_steps.call(*arrays, order, *rest)


def case_of(targets, dtype, n=23):
    """Samples, targets, labels and a loss."""
    x, rng = normal((n, 5), dtype), np.random.default_rng(0)
    if targets == "classes":
        return x, x[:0], rng.integers(0, 3, n), fc.CrossEntropyLoss()
    target = rng.random((n, 3)).astype(dtype)
    return x, target, NO_LABELS, {"numbers": fc.MSELoss(), "probabilities": fc.BCEWithLogitsLoss()}[targets]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("targets", ["classes", "numbers", "probabilities"])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch", [1, 5, 23])
def test_an_epoch_is_the_loop_of_steps(batch, shuffle, targets, dtype):
    net = fc.MLP([5, 9, 3], "tanh", seed=0, dtype=dtype)
    x, target, labels, loss = case_of(targets, dtype)
    order = np.random.default_rng(1).permutation(23) if shuffle else NO_LABELS
    run, one = Training(net, batch), Training(net, batch)
    optimizer, other = run.optimizer(), one.optimizer()
    total = run.steps(x, target, labels, order, optimizer, loss, batch)
    expected, samples = 0.0, order if shuffle else np.arange(23)
    for start in range(0, 23, batch):
        rows = samples[start : start + batch]
        chosen = target[rows] if len(target) else target, labels[rows] if len(labels) else labels
        expected += len(rows) * one.step(x[rows], *chosen, other, loss)
    np.testing.assert_allclose(total, expected, rtol=1e-14)
    assert_array_equal(run.params, one.params)
    assert_array_equal(run.grads, one.grads)
    assert_array_equal(optimizer[2], other[2])
    assert optimizer[3][0] == other[3][0] == -(-23 // batch)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_epoch_of_data_in_any_layout_and_in_parts(layout, shuffle):
    net, change = fc.MLP([5, 9, 3], seed=0), LAYOUTS[layout]
    order = np.random.default_rng(1).permutation(23) if shuffle else NO_LABELS
    for targets in ("classes", "numbers"):
        x, target, labels, loss = case_of(targets, np.float32)
        run, other = Training(net, 5), Training(net, 5)
        total = run.steps(x, target, labels, order, run.optimizer(), loss, 5)
        optimizer, changed = other.optimizer(), (change(x), change(target), change(labels), order, loss)
        parts = [
            other.steps(*changed[:4], optimizer, loss, 5, first, last) for first, last in ((0, 5), (5, 20), (20, 23))
        ]
        np.testing.assert_allclose(sum(parts), total, rtol=1e-14)
        assert_array_equal(other.params, run.params)


@pytest.mark.parametrize("targets", ["classes", "numbers"])
def test_a_step_is_forward_loss_backward_and_update(targets):
    net, (x, target, labels, loss) = fc.MLP([5, 9, 3], "tanh", seed=0, dtype=np.float64), case_of(targets, np.float64)
    run, other = Training(net, 23), Training(net, 23)
    _, _, state, count = optimizer = run.optimizer()
    value = run.step(x, target, labels, optimizer, loss)
    output = other.forward(x)
    expected, grad_output = fc.CrossEntropyLoss()(output, labels) if len(labels) else fc.MSELoss()(output, target)
    other.backward(x, output, grad_output)
    assert value == expected
    assert_array_equal(run.grads, other.grads)
    kernels.sgd(other.params, other.grads, other_state := np.zeros_like(state[0]), 0.05, 0.9, 0.01)
    assert_array_equal(run.params, other.params)
    assert_array_equal(state[0], other_state)
    assert count[0] == 1


BAD_STEPS = {
    "a class too many": (lambda a: a["labels"].__setitem__(22, 3), "class"),
    "a negative class": (lambda a: a["labels"].__setitem__(0, -1), "class"),
    "labels too short": (lambda a: a.update(labels=a["labels"][:5]), "does not fit"),
    "x too narrow": (lambda a: a.update(x=a["x"][:, :4]), "does not fit"),
    "space too small": (lambda a: a.update(workspace=a["workspace"][:-1]), "does not fit"),
    "params of another size": (lambda a: a.update(params=a["params"][1:], grads=a["grads"][1:]), "does not fit"),
    "gradients in the parameters": (lambda a: a.update(grads=a["params"]), "overlaps"),
}


@pytest.mark.parametrize("change, message", BAD_STEPS.values(), ids=BAD_STEPS.keys())
def test_a_step_that_fails_changes_nothing(change, message):
    net = fc.MLP([5, 9, 3], seed=0)
    run, (x, target, labels, loss) = Training(net, 23), case_of("classes", np.float32)
    hyper, segments, state, count = run.optimizer()
    state[:], before = 7, run.params.copy()
    a = {"x": x, "labels": labels, "params": run.params, "grads": run.grads, "workspace": run.workspace}
    change(a)
    inputs = a["x"], run.table, target, a["labels"], x[0, :0], loss._handle[0], hyper, segments
    with pytest.raises(ValueError, match=message):
        step_kernels.train_step.call(
            *inputs, a["params"], a["grads"], state, count, a["workspace"], run.counters, 0, *ONE_THREAD
        )
    assert_array_equal(run.params, before)
    assert (state == 7).all() and count[0] == 0


@pytest.mark.parametrize("loss", [fc.CrossEntropyLoss(), fc.BCEWithLogitsLoss()])
@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
def test_bad_probabilities_change_nothing(loss, value):
    net = fc.MLP([5, 9, 3], seed=0)
    run, (x, target, _, _) = Training(net, 23), case_of("numbers", np.float32)
    target[22, 2] = value
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        run.step(x, target, NO_LABELS, run.optimizer(), loss)
    assert_array_equal(run.params, net.params)


@pytest.mark.parametrize("targets", ["classes", "numbers"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_weights_follow_their_samples(shuffle, targets):
    net, weights = fc.MLP([5, 9, 3], seed=0, dtype=np.float64), np.random.default_rng(2).random(23)
    x, target, labels, loss = case_of(targets, np.float64)
    order = np.random.default_rng(1).permutation(23) if shuffle else NO_LABELS
    run, one = Training(net, 5), Training(net, 5)
    optimizer, other, expected = run.optimizer(), one.optimizer(), 0.0
    total = run.steps(x, target, labels, order, optimizer, loss, 5, weights=weights)
    for start in range(0, 23, 5):
        rows = (order if shuffle else np.arange(23))[start : start + 5]
        chosen = target[rows] if len(target) else target, labels[rows] if len(labels) else labels
        expected += weights[rows].sum() * one.step(x[rows], *chosen, other, loss, weights[rows])
    np.testing.assert_allclose(total, expected, rtol=1e-14)
    assert_array_equal(run.params, one.params)


def test_several_batches_make_one_update():
    """Of 23 samples in batches of 5, three batches and then what is left of them: the mean of their gradients each."""
    net, (x, target, labels, loss) = fc.MLP([5, 9, 3], "tanh", seed=0, dtype=np.float64), case_of("numbers", np.float64)
    run, one = Training(net, 5), Training(net, 23)
    optimizer, other = run.optimizer(0), one.optimizer(0)
    run.steps(x, target, labels, NO_LABELS, optimizer, loss, 5, accumulate=3)
    assert optimizer[3][0] == 2
    for batches in ((0, 5, 10, 15), (15, 20, 23)):
        grads, before, used = [], one.params.copy(), one.optimizer(0)
        for first, last in pairwise(batches):
            one.step(x[first:last], target[first:last], labels, used, loss)
            grads.append(one.grads.copy())
            one.params[:] = before
        state = np.zeros(0)
        kernels.sgd(one.params, np.mean(grads, axis=0), state, other[0][0], 0.0, 0.01)
    np.testing.assert_allclose(run.params, one.params, rtol=1e-12)


@pytest.mark.parametrize("wrong", ["weights", "losses", "target"])
def test_bad_tables_change_nothing(wrong):
    net, (x, target, labels, loss) = fc.MLP([5, 9, 3], seed=0), case_of("numbers", np.float32)
    run = Training(net, 23)
    weights = np.ones(22, np.float32) if wrong == "weights" else None
    loss = fc.CrossEntropyLoss() if wrong == "losses" else loss
    target = np.ones((23, 4), np.float32) if wrong == "target" else target
    labels = np.zeros(22, int) if wrong == "losses" else labels
    with pytest.raises(ValueError, match="does not fit"):
        run.step(x, target, labels, run.optimizer(), loss, weights)
    assert_array_equal(run.params, net.params)


@pytest.mark.parametrize("what", ["target", "weights", "x"])
@pytest.mark.parametrize("where", ["workspace", "params", "grads"])
def test_memory_that_is_shared_is_found_before_the_first_step(where, what):
    """The last samples' targets lie in the workspace: that showed in the last batch, after updates by all others."""
    net, (x, target, _, loss) = fc.MLP([5, 9, 3], seed=0), case_of("numbers", np.float32)
    run, weights = Training(net, 5), np.ones(23, np.float32)
    optimizer, given = run.optimizer(), {"x": x, "target": target, "weights": weights}
    array, written = given[what], getattr(run, where)
    memory = np.zeros(array.size + written.size, np.float32)
    given[what], shared = memory[: array.size].reshape(array.shape), memory[array.size - 3 :][: written.size]
    given[what][...], shared[...] = array, written
    setattr(run, where, shared)
    before = run.params.copy()
    with pytest.raises(ValueError, match=f"{where} overlaps {what} in memory|{what} overlaps {where} in memory"):
        run.steps(given["x"], given["target"], NO_LABELS, NO_LABELS, optimizer, loss, 5, weights=given["weights"])
    assert_array_equal(run.params, before)
    assert optimizer[3][0] == 0 and not optimizer[2].any()


def test_an_optimizer_that_is_not_prepared_is_found_before_anything_is_computed():
    net, (x, target, labels, loss) = fc.MLP([5, 9, 3], seed=0), case_of("numbers", np.float32)
    run = Training(net, 23)
    hyper, segments, state, count = run.optimizer()
    run.grads[:] = 7
    for optimizer in ((hyper, segments, state[:0], count), (hyper, segments[:0], state, count)):
        for train in (run.step, lambda x, y, labels, *rest: run.steps(x, y, labels, NO_LABELS, *rest, 5)):
            with pytest.raises(ValueError, match=r"optimizer.prepare\(net\)"):
                train(x, target, labels, optimizer, loss)
    assert (run.grads == 7).all() and count[0] == 0
    assert_array_equal(run.params, net.params)


NOT_LOADED = """
import numpy as np, fastfc as fc
from fastfc.nn import lowering
from fastfc.optim import base, full_batch
from fastfc.kernels.runtime import dispatch, native

lowering.Program.load = lambda self, dtypes: None  # nothing is loaded ahead
kinds = base.Optimizer, full_batch.LBFGS, full_batch.LevenbergMarquardt
for kind in kinds:
    assert hasattr(kind, "_optional_kernel")
    kind._optional_kernel = None

def layers(dtype):
    rest = [fc.BatchNorm1d(8, dtype=dtype), fc.Linear(8, 8, seed=1, dtype=dtype), fc.GELU(),
            fc.LayerNorm(8, dtype=dtype), fc.Dropout(0.3, seed=2), fc.RMSNorm(8, dtype=dtype),
            fc.Standardize(8, dtype=dtype), fc.QuantileNormal(8, 5, dtype=dtype), fc.Parametric("selu", 8, dtype=dtype),
            fc.Clamp.of(np.array([[-1.0] * 8, [1.0] * 8]), dtype=dtype),
            fc.NumericEmbedding(8, seed=4, dtype=dtype),
            fc.BatchEnsemble(32, 4, 2, shared_input=True, seed=5, dtype=dtype),
            fc.MemberMean(4, 2, "softmax"), fc.Linear(4, 3, seed=3, dtype=dtype)]
    return fc.Sequential([fc.Embedding(5, 4, 2, seed=0, dtype=dtype), *rest])

def small(dtype):
    return fc.MLP([2, 3, 3], "elu", seed=0, dtype=dtype)

rng = np.random.default_rng(0)
for dtype in (np.float32, np.float64):
    x, y = rng.integers(0, 5, (12, 2)).astype(dtype), rng.random((12, 3)).astype(dtype)
    for build, make, loss in (
        (layers, fc.Adagrad, fc.L1Loss()),
        (small, fc.LBFGS, fc.L1Loss()),
        (small, fc.LevenbergMarquardt, fc.MSELoss()),
    ):
        ends = []
        for _ in range(2):
            net, optimizer = build(dtype), make()
            if dtype == np.float32:
                net.train_step(x, y, loss, optimizer)
            net.fit(x, y, loss=loss, optimizer=optimizer, epochs=2, batch_size=5, seed=0)
            ends.append([a.copy() for a in (net.params, optimizer.state, optimizer.count, net._counters)])
        for one, other in zip(*ends):
            np.testing.assert_array_equal(one, other)
    kind = native.DTYPES[np.dtype(dtype)]
    for name, function in native.compiled_kernels.items():
        of_table = any(function in table.kernels.values() for table in dispatch.tables.values())
        needed = function.optional and not of_table and not function.on_demand
        if needed and not function.slots[kind][0]:
            print(name, "was not needed")
"""


def test_what_is_not_loaded_is_missed_before_anything_is_written():
    """A kernel that calls one that is not loaded runs again once it is: it must not have done a part before.

    The running statistics of BatchNorm1d were that late: after the update.
    """
    assert run_elsewhere(NOT_LOADED)[0] == ""
