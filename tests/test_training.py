import os
import pickle
import signal
import threading

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc

X = np.random.default_rng(0).standard_normal((25, 3))
Y = X @ [[1.0], [2.0], [3.0]] + 1
LABELS = (Y[:, 0] > 1).astype(int)
MSE, CROSS_ENTROPY = fc.MSELoss(), fc.CrossEntropyLoss()


def net_for(n_out=1, dtype=np.float64):
    return fc.MLP([3, 4, n_out], activation="tanh", seed=0, dtype=dtype)


def fit(net, x=X, y=Y, **options):
    defaults = {
        "loss": fc.MSELoss(),
        "optimizer": fc.SGD(0.05, momentum=0.9),
        "epochs": 3,
        "batch_size": 10,
        "seed": 0,
    }
    return net.fit(x, y, **{**defaults, **options})


@pytest.mark.parametrize("shuffle", [True, False])
def test_fit_is_the_loop_of_train_steps(shuffle):
    net, twin = net_for(), net_for()
    history = fit(net, shuffle=shuffle)
    rng, optimizer, losses = np.random.default_rng(0), fc.SGD(0.05, momentum=0.9), []
    for _ in range(3):
        order = rng.permutation(25) if shuffle else np.arange(25)
        values = []
        for rows in (order[:10], order[10:20], order[20:]):
            values.append(twin.train_step(X[rows], Y[rows], fc.MSELoss(), optimizer))
        losses.append((10 * values[0] + 10 * values[1] + 5 * values[2]) / 25)
    assert_array_equal(net.params, twin.params)
    assert_allclose(history.loss, losses, rtol=1e-14)
    assert history is net.history
    assert history.val_loss == [] and len(history.seconds) == 3 and min(history.seconds) > 0


def test_seed_decides_and_generators_go_on():
    nets = [net_for() for _ in range(4)]
    for net, seed in zip(nets, [1, 1, 2, np.random.default_rng(1)], strict=True):
        fit(net, seed=seed)
    assert_array_equal(nets[0].params, nets[1].params)
    assert_array_equal(nets[0].params, nets[3].params)
    assert (nets[0].params != nets[2].params).any()


def test_validation_data():
    net = net_for()
    history = fit(net, validation_data=(X[:7], Y[:7]))
    assert len(history.val_loss) == 3
    assert history.val_loss[-1] == net.evaluate(X[:7], Y[:7], fc.MSELoss())


def test_each_fit_has_its_own_history():
    net = net_for()
    first = fit(net, epochs=2)
    second = fit(net, epochs=1)
    assert net.history is second and (len(first.loss), len(second.loss)) == (2, 1)


@pytest.mark.parametrize(
    "x, y",
    [(X.tolist(), Y.tolist()), (np.asfortranarray(X), Y), (X[::-1].copy()[::-1], Y), (X.astype(">f8"), Y)],
)
def test_layout_and_dtype_of_the_data(x, y):
    net, twin = net_for(), net_for()
    fit(net, x, y)
    fit(twin)
    assert_allclose(net.params, twin.params, rtol=1e-12)


def test_data_is_left_alone():
    x, y = X.copy(), Y.copy()
    x.flags.writeable = y.flags.writeable = False
    fit(net_for(), x, y)
    assert_array_equal(x, X)


def test_evaluate():
    net = net_for(2)
    loss = fc.CrossEntropyLoss()
    expected, _ = loss(net.predict(X), LABELS)
    before = net.params.copy()
    assert_allclose(net.evaluate(X, LABELS, loss), expected, rtol=1e-14)
    assert_array_equal(net.params, before)
    with pytest.raises(RuntimeError):
        net.backward(np.zeros((25, 2)))


def ctrl_c_after(seconds):
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


def test_ctrl_c_leaves_the_last_completed_step_and_the_history():
    net, twin = net_for(), net_for()
    optimizer, other = fc.SGD(1e-4, momentum=0.9), fc.SGD(1e-4, momentum=0.9)
    fit(net, optimizer=optimizer, shuffle=False)
    timer = ctrl_c_after(0.1)
    with pytest.raises(KeyboardInterrupt):
        fit(net, optimizer=optimizer, shuffle=False, epochs=10**7)
    timer.join()
    done = int(optimizer.count[0])
    assert done > 9 and (done - 9) // 3 - len(net.history.loss) in (0, 1)  # 1 if it came just before the entry
    for step in range(done):
        rows = slice(step % 3 * 10, step % 3 * 10 + 10)
        twin.train_step(X[rows], Y[rows], fc.MSELoss(), other)
    assert_array_equal(net.params, twin.params)
    assert len(fit(net, epochs=1).loss) == 1


def test_ctrl_c_ends_a_long_epoch_early():
    x, y = np.broadcast_to(X[:1], (10**8, 3)), np.broadcast_to(Y[:1], (10**8, 1))
    net, optimizer = net_for(), fc.SGD(1e-4)
    fit(net, optimizer=optimizer)
    timer = ctrl_c_after(0.1)
    with pytest.raises(KeyboardInterrupt):
        fit(net, x, y, optimizer=optimizer, shuffle=False, epochs=1)
    timer.join()
    assert 0 < optimizer.count[0] < 10**7 and net.history.loss == []


BAD = [
    ({"x": X[:, :2]}, ValueError, r"x has shape \(25, 2\), expected \(n, 3\)"),
    ({"x": X[0]}, ValueError, r"x has shape \(3,\)"),
    ({"x": X[:20]}, ValueError, r"x has shape \(20, 3\), y \(25, 1\); give one target for each sample"),
    ({"x": X[:0], "y": Y[:0]}, ValueError, "at least one sample"),
    ({"x": X * 1j}, TypeError, "x has dtype complex128"),
    ({"y": Y[:, 0]}, ValueError, r"target\[:, None\]"),
    ({"y": [[1], [2, 3]]}, ValueError, "y has rows of different lengths"),
    ({"y": 1.0}, ValueError, r"y \(\)"),
    ({"y": Y.astype(str)}, TypeError, "y has dtype"),
    ({"loss": fc.CrossEntropyLoss(), "y": LABELS}, ValueError, r"class indices must lie in 0\.\.0"),
    ({"loss": fc.CrossEntropyLoss(), "y": LABELS * 1.0}, TypeError, "astype"),
    ({"loss": fc.MSELoss}, TypeError, r"loss must be an object such as MSELoss\(\)"),
    ({"loss": "mse"}, TypeError, "got 'mse'"),
    ({"loss": [MSE, MSE]}, TypeError, r"loss must be an object such as MultiLoss\(.*\), for several outputs"),
    ({"optimizer": fc.SGD}, TypeError, r"optimizer must be an object such as SGD\(lr=0.1\)"),
    ({"optimizer": None}, TypeError, "got None"),
]
BAD_FIT = [
    ({"epochs": 0}, ValueError, "epochs must be at least 1"),
    ({"epochs": 1.5}, TypeError, "epochs must be an integer"),
    ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
    ({"batch_size": None}, TypeError, "batch_size must be an integer"),
    ({"validation_data": (X,)}, ValueError, r"validation_data must be \(x, y\)"),
    ({"validation_data": (X, Y[:3])}, ValueError, r"y \(3, 1\)"),
]


@pytest.mark.parametrize("options, error, message", BAD + BAD_FIT)
def test_bad_input_of_fit_changes_nothing(options, error, message):
    net = net_for()
    history, params, grads = fit(net), net.params.copy(), net.grads.copy()
    with pytest.raises(error, match=message):
        fit(net, **options)
    assert_array_equal(net.params, params)
    assert_array_equal(net.grads, grads)
    assert net.history is history


@pytest.mark.parametrize("options, error, message", BAD)
def test_bad_input_of_train_step_changes_nothing(options, error, message):
    net = net_for()
    fit(net)
    params, grads = net.params.copy(), net.grads.copy()
    with pytest.raises(error, match=message):
        net.train_step(**{"x": X, "y": Y, "loss": fc.MSELoss(), "optimizer": fc.SGD(), **options})
    assert_array_equal(net.params, params)
    assert_array_equal(net.grads, grads)


def test_optimizer_of_another_network_changes_nothing():
    optimizer, net = fc.SGD(momentum=0.9), net_for()
    fit(fc.MLP([3, 1]), optimizer=optimizer)
    params, grads = net.params.copy(), net.grads.copy()
    for call in (
        lambda: fit(net, optimizer=optimizer),
        lambda: net.train_step(X, Y, fc.MSELoss(), optimizer),
    ):
        with pytest.raises(ValueError, match="use a new optimizer"):
            call()
    assert_array_equal(net.params, params)
    assert_array_equal(net.grads, grads)


@pytest.mark.parametrize("options, error, message", [case for case in BAD if "optimizer" not in case[0]])
def test_bad_input_of_evaluate(options, error, message):
    with pytest.raises(error, match=message):
        net_for().evaluate(**{"x": X, "y": Y, "loss": fc.MSELoss(), **options})


def test_digits():
    images, labels = fc.load_digits()
    net = fc.MLP([64, 64, 10], seed=0)
    optimizer = fc.SGD(0.1, momentum=0.9)
    net.fit(images[360:], labels[360:], loss=fc.CrossEntropyLoss(), optimizer=optimizer, epochs=8, seed=0)
    assert np.mean(net.predict(images[:360]).argmax(axis=1) == labels[:360]) > 0.93


def test_every_way_to_a_step_has_the_same_bits_and_errors():
    """The second step with the same objects takes a shorter way; a change of any of them must not."""
    x, y = X.astype(np.float32), Y.astype(np.float32)
    net, twin = net_for(dtype=np.float32), net_for(dtype=np.float32)
    optimizer, other = fc.SGD(0.05), fc.SGD(0.05)
    for step in range(9):
        if step == 3:
            optimizer.lr = other.lr = 0.1
        if step == 5:
            optimizer.momentum = other.momentum = 0.5
        rows = slice(None, 10 if step == 7 else 25)
        value = net.train_step(x[rows], y[rows], fc.MSELoss() if step == 6 else MSE, optimizer)
        assert value == twin.train_step(x[rows].tolist(), y[rows].tolist(), MSE, other)
        assert_array_equal(net.params, twin.params)
    with pytest.raises(RuntimeError, match="call forward"):
        net.backward(np.zeros((25, 1), np.float32))


@pytest.mark.parametrize("bad", [-1, 2])
def test_a_bad_class_is_named_on_the_short_way_too(bad):
    net, optimizer, labels = net_for(2), fc.SGD(0.05), LABELS.copy()
    net.train_step(X, labels, CROSS_ENTROPY, optimizer)
    before, labels[7] = net.params.copy(), bad
    with pytest.raises(ValueError, match=r"class indices must lie in 0\.\.1"):
        net.train_step(X, labels, CROSS_ENTROPY, optimizer)
    assert_array_equal(net.params, before)
    assert optimizer.count[0] == 1


def test_other_arrays_take_the_long_way():
    net, optimizer = net_for(), fc.SGD(0.05)
    net.train_step(X, Y, MSE, optimizer)
    for x, y in [(X[:, :2], Y), (X, Y[:20]), (X[:0], Y[:0])]:
        with pytest.raises(ValueError):
            net.train_step(x, y, MSE, optimizer)
    assert net.train_step(X.astype(np.float32), Y, MSE, optimizer) > 0


def test_weights_of_samples_are_repetitions():
    counts = np.arange(25) % 3
    net, twin = net_for(), net_for()
    history = fit(net, sample_weight=counts, batch_size=25, shuffle=False)
    other = fit(twin, np.repeat(X, counts, axis=0), np.repeat(Y, counts, axis=0), batch_size=25, shuffle=False)
    assert_allclose(net.params, twin.params, rtol=1e-12)
    assert_allclose(history.loss, other.loss, rtol=1e-13)
    value = net.evaluate(X, Y, MSE, sample_weight=counts)
    assert_allclose(value, net.evaluate(np.repeat(X, counts, axis=0), np.repeat(Y, counts, axis=0), MSE), rtol=1e-13)


def test_train_step_takes_weights_too():
    weights, net, twin = np.linspace(0, 2, 25), net_for(), net_for()
    optimizer, other = fc.SGD(0.05), fc.SGD(0.05)
    for given in (None, weights, None, weights):
        net.train_step(X, Y, MSE, optimizer, given)
        _, grad = MSE(twin.forward(X), Y, given)
        twin.backward(grad)
        other.step(twin)
    assert_allclose(net.params, twin.params, rtol=1e-13)


@pytest.mark.parametrize("class_weight", ["balanced", {0: 2.0, 1: 0.5}, [2.0, 0.5]])
def test_weights_of_classes(class_weight):
    net, twin = net_for(2), net_for(2)
    fit(net, y=LABELS, loss=CROSS_ENTROPY, class_weight=class_weight, batch_size=25)
    table = 25 / (2 * np.bincount(LABELS)) if class_weight == "balanced" else np.array([2.0, 0.5])
    fit(twin, y=LABELS, loss=fc.CrossEntropyLoss(weight=table), batch_size=25)
    assert_allclose(net.params, twin.params, rtol=1e-12)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"class_weight": {0: 1.0}}, ValueError, "class_weight has no weight for class 1"),
        ({"class_weight": "even"}, ValueError, "class_weight must be 'balanced'"),
        ({"sample_weight": np.ones(24)}, ValueError, r"\(24,\)"),
        ({"sample_weight": -np.ones(25)}, ValueError, "negative"),
        ({"accumulate": 0}, ValueError, "accumulate must be at least 1"),
        ({"validation_split": 1.0}, ValueError, "both parts need at least one"),
        ({"validation_split": -0.1}, ValueError, "validation_split"),
        ({"validation_data": (X, LABELS), "validation_split": 0.5}, ValueError, "validation_split, not both"),
        ({"validation_data": X}, ValueError, "got a ndarray"),
        ({"metrics": ["accurate"]}, ValueError, "unknown metric 'accurate'"),
        ({"metrics": [lambda t, p: 1.0, lambda t, p: 2.0]}, ValueError, "there would be two columns '<lambda>'"),
        ({"metrics": "accuracy"}, TypeError, r"fit: metrics must be a sequence such as \['accuracy'\]"),
        ({"metrics": ["mae"]}, ValueError, r"mae: y_true has shape \(25,\), y_pred \(25, 2\)"),
        ({"sample_weight": np.zeros(25)}, ValueError, "the weights of all samples for training are 0"),
        ({"validation_data": (X, LABELS, np.zeros(25))}, ValueError, "the weights of all samples for validation are 0"),
        ({"class_weight": 3}, TypeError, "class_weight must be a sequence such as"),
        ({"class_weight": [1, -1]}, ValueError, "class_weight must be a vector of finite numbers, not negative"),
        ({"class_weight": "balanced", "sample_weight": 2.0}, ValueError, r"sample_weight has shape \(\)"),
        ({"class_weight": "balanced", "sample_weight": np.ones((25, 1))}, ValueError, r"has shape \(25, 1\)"),
        ({"seed": "a"}, TypeError, "fit: seed must be an int of at least 0"),
    ],
)
def test_bad_options_of_fit_change_nothing(options, error, message):
    net = net_for(2)
    before = net.params.copy()
    with pytest.raises(error, match=message):
        fit(net, y=LABELS, loss=CROSS_ENTROPY, **options)
    assert_array_equal(net.params, before)


def test_class_weights_need_classes():
    with pytest.raises(ValueError, match="class_weight needs classes as targets"):
        fit(net_for(), class_weight="balanced")


@pytest.mark.parametrize("shuffle", [True, False])
def test_gradients_add_up(shuffle):
    """24 samples in batches of 4: three at a time are batches of 12, and the last update has what is left."""
    net, twin = net_for(), net_for()
    fit(net, X[:24], Y[:24], batch_size=4, accumulate=3, shuffle=shuffle)
    fit(twin, X[:24], Y[:24], batch_size=12, shuffle=shuffle)
    assert_allclose(net.params, twin.params, rtol=1e-12)
    optimizer = fc.SGD(0.05)
    fit(net, X[:20], Y[:20], batch_size=4, accumulate=3, optimizer=optimizer, epochs=1)
    assert optimizer.count[0] == 2


def test_the_loss_of_an_epoch_is_the_mean_over_the_samples_that_are_not_ignored():
    net, x, y = fc.MLP([4, 3], seed=0), np.random.default_rng(0).standard_normal((10, 4)), np.arange(10) % 3
    loss = fc.CrossEntropyLoss(ignore_index=2)
    history = net.fit(x, y, loss=loss, optimizer=fc.SGD(1e-30), batch_size=4, seed=0)
    assert history["loss"][0] == pytest.approx(loss(net.predict(x), y)[0], rel=1e-6)


def test_the_last_samples_are_for_validation():
    net, twin = net_for(), net_for()
    history = fit(net, validation_split=0.2, metrics=["mae"])
    other = fit(twin, X[:20], Y[:20], validation_data=(X[20:], Y[20:]), metrics=["mae"])
    assert_array_equal(net.params, twin.params)
    assert_array_equal(history["val_loss"], other["val_loss"])
    assert_array_equal(history["val_mae"], other["val_mae"])


def test_metrics():
    net = net_for(2)
    history = fit(net, y=LABELS, loss=CROSS_ENTROPY, metrics=["accuracy", lambda t, p: float(len(p))])
    found = net.evaluate(X, LABELS, CROSS_ENTROPY, metrics=["accuracy"])
    assert history["accuracy"][-1] == found["accuracy"] == np.mean(net.predict(X).argmax(axis=1) == LABELS)
    assert found["loss"] == net.evaluate(X, LABELS, CROSS_ENTROPY)
    assert history["<lambda>"].tolist() == [25, 25, 25]


def test_fit_goes_on_where_it_stopped():
    net, twin, third = net_for(), net_for(), net_for()
    schedule = lambda: fc.StepLR(2, gamma=0.5, unit="epoch")
    optimizer, other = fc.Adam(0.05, schedule=schedule()), fc.Adam(0.05, schedule=schedule())
    whole = fit(net, optimizer=optimizer, epochs=6)
    first = fit(twin, optimizer=other, epochs=2)
    third, fourth = pickle.loads(pickle.dumps((twin, other)))
    second = fit(twin, optimizer=other, epochs=4)
    fit(third, optimizer=fourth, epochs=4)
    assert_array_equal(net.params, twin.params)
    assert_array_equal(net.params, third.params)
    assert first.loss + second.loss == whole.loss
    assert second["epoch"].tolist() == [3, 4, 5, 6]
    assert second["lr"].tolist() == whole["lr"].tolist()[2:] == [0.025, 0.025, 0.0125, 0.0125]


def test_a_diverging_run_ends_at_the_last_good_epoch():
    net, optimizer = net_for(), fc.SGD(0.05, momentum=0.9)
    fit(net, optimizer=optimizer, epochs=2)
    params, state, count = net.params.copy(), optimizer.state.copy(), optimizer.count.copy()
    optimizer.lr = 1e300
    message = r"fit stopped: in update \d of epoch 3 the loss became (inf|nan); .* in \d\.(we|bi)"
    with pytest.warns(fc.DivergenceWarning, match=message):
        history = fit(net, optimizer=optimizer, epochs=2)
    for array, before in ((net.params, params), (optimizer.state, state), (optimizer.count, count)):
        assert_array_equal(array, before)
    assert optimizer.epochs == 2 and len(net.history) == 0 and history is net.history
    with pytest.raises(fc.DivergenceWarning, match=message):  # as warnings are errors here
        fit(net, optimizer=optimizer, epochs=2)
    assert_array_equal(net.params, params)


@pytest.mark.parametrize("what", ["x", "y"])
def test_a_nan_in_the_data_is_named(what):
    data = {"x": X.copy(), "y": Y.copy()}
    data[what][11, 0] = np.nan
    with pytest.raises(ValueError, match=f"fit: {what} is not finite in row 11"):
        fit(net_for(), **data)


def test_several_outputs_with_a_loss_each():
    x = fc.Input(3)
    hidden = fc.Tanh()(fc.Linear(3, 4, seed=0, dtype=np.float64)(x))
    net = fc.Graph(
        x, [fc.Linear(4, 2, seed=1, dtype=np.float64)(hidden), fc.Linear(4, 1, seed=2, dtype=np.float64)(hidden)]
    )
    loss, twin = fc.MultiLoss([CROSS_ENTROPY, MSE], weights=[1.0, 0.5]), pickle.loads(pickle.dumps(net))
    history = net.fit(X, (LABELS, Y), loss=loss, optimizer=fc.SGD(0.05), epochs=2, batch_size=25, shuffle=False)
    for expected in history.loss:
        (first, second), total, grads = twin.forward(X), 0.0, []
        for part, target, output, weight in ((CROSS_ENTROPY, LABELS, first, 1.0), (MSE, Y, second, 0.5)):
            value, grad = part(output, target)
            total += weight * value
            grads.append(weight * grad)
        twin.backward(tuple(grads))
        twin.update_parameters(0.05)
        assert_allclose(total, expected, rtol=1e-13)
    assert_allclose(net.params, twin.params, rtol=1e-12)
    assert_allclose(net.evaluate(X, (LABELS, Y), loss), loss_of(twin, loss), rtol=1e-12)


def loss_of(net, loss):
    first, second = net.predict(X)
    return CROSS_ENTROPY(first, LABELS)[0] + 0.5 * MSE(second, Y)[0]


@pytest.mark.parametrize("weight", [None, [1.0, 5.0, 0.1]])
def test_the_loss_of_an_epoch_is_that_of_all_samples_whatever_the_batches(weight):
    rng = np.random.default_rng(0)
    x, classes, weights = rng.standard_normal((64, 3)), np.arange(64) // 22, rng.random(64)
    classes[10:30] = -100
    node, options = fc.Input(3), {"epochs": 1, "batch_size": 7, "sample_weight": weights}
    net = fc.Graph(
        node, [fc.Linear(3, 3, seed=0, dtype=np.float64)(node), fc.Linear(3, 1, seed=1, dtype=np.float64)(node)]
    )
    loss, y = fc.MultiLoss([fc.CrossEntropyLoss(weight), fc.MSELoss()], [1, 2]), (classes, x[:, :1])
    expected = net.evaluate(x, y, loss, sample_weight=weights)
    assert net.fit(x, y, loss=loss, optimizer=fc.SGD(1e-12), **options).loss == [pytest.approx(expected, rel=1e-9)]
    net = fc.MLP([3, 4, 3], seed=0, dtype=np.float64)
    for loss in (fc.CrossEntropyLoss(weight), fc.NLLLoss(weight), fc.MultiMarginLoss()):
        y = np.maximum(classes, 0) if isinstance(loss, fc.MultiMarginLoss) else classes
        expected = net.evaluate(x, y, loss, sample_weight=weights)
        assert net.fit(x, y, loss=loss, optimizer=fc.SGD(1e-12), **options).loss == [pytest.approx(expected, rel=1e-9)]


def test_an_epoch_that_ends_with_parameters_that_are_no_numbers_is_reported():
    net = fc.MLP([1, 1], init="zeros")
    x = np.full((4, 1), 1e30)
    with pytest.warns(fc.DivergenceWarning, match="in update 1 of epoch 1 parameters became infinite or NaN"):
        net.fit(x, np.full((4, 1), 1e10), loss=fc.MSELoss(), optimizer=fc.SGD(1.0), batch_size=4)
    assert_array_equal(net.params, 0)


@pytest.mark.parametrize("balanced", [True, False])
def test_classes_that_the_loss_ignores_need_no_weight(balanced):
    net, twin, some = net_for(2), net_for(2), np.arange(25) % 5 > 0
    table, y = some.sum() / (2 * np.bincount(LABELS[some])), np.where(some, LABELS, -100)
    loss = fc.CrossEntropyLoss(reduction="sum")
    fit(net, y=y, loss=loss, class_weight="balanced" if balanced else list(table), epochs=1)
    fit(twin, y=y, loss=loss, sample_weight=table[LABELS], epochs=1)
    assert_allclose(net.params, twin.params, rtol=1e-12)


def two_heads():
    x = fc.Input(3)
    h = fc.Tanh()(fc.Linear(3, 4, seed=0)(x))
    return fc.Graph(x, [fc.Linear(4, 2, seed=1)(h), fc.Linear(4, 1, seed=2)(h)])


def test_metrics_of_several_outputs_get_tuples():
    seen = []

    def first(y_true, y_pred):
        seen.append((y_true, y_pred))
        return float(np.mean(y_pred[0].argmax(axis=1) == y_true[0]))

    for loss, y in ((fc.MultiLoss([CROSS_ENTROPY, MSE]), [LABELS, Y]), (MSE, [np.c_[Y, Y], Y])):
        fit(two_heads(), y=y, loss=loss, metrics=[first] if y[0] is LABELS else [], epochs=1, validation_split=0.2)
        evaluated = two_heads().evaluate(X, y, loss, metrics=[lambda t, p: float(len(t) + len(p))])
        assert evaluated["<lambda>"] == 4
    (labels, numbers), outputs = seen[0]
    assert_array_equal(labels, LABELS[20:])
    assert_array_equal(numbers, Y[20:])
    assert [part.shape for part in outputs] == [(5, 2), (5, 1)]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"metrics": ["accuracy"]}, "accuracy: the network has 2 outputs; give a function of both tuples"),
        ({"class_weight": "balanced"}, "class_weight is for one output"),
    ],
)
def test_what_several_outputs_do_not_take(options, message):
    net = two_heads()
    before = net.params.copy()
    with pytest.raises(ValueError, match=message):
        fit(net, y=(LABELS, Y), loss=fc.MultiLoss([CROSS_ENTROPY, MSE]), **options)
    assert_array_equal(net.params, before)


def test_parameters_that_the_last_update_made_infinite():
    net = fc.MLP([3, 4, 1], seed=0)
    before = net.params.copy()
    with pytest.warns(fc.DivergenceWarning, match="in update 3 of epoch 1 parameters became infinite"):
        fit(net, optimizer=fc.SGD(1e-3, schedule=fc.MultiStepLR([2], gamma=1e42)), epochs=1, batch_size=10)
    assert_array_equal(net.params, before)


@pytest.mark.parametrize("bad", ["sgd", None, [fc.SGD()]])
def test_what_is_no_optimizer_is_named_on_the_short_way_too(bad):
    net, optimizer = net_for(), fc.SGD(0.05)
    net.train_step(X, Y, MSE, optimizer)
    before = net.params.copy()
    with pytest.raises(TypeError, match="optimizer must be an object"):
        net.train_step(X, Y, MSE, bad)
    assert_array_equal(net.params, before)


def test_more_batches_than_there_are_make_one_update():
    net, twin = net_for(), net_for()
    fit(net, accumulate=2**62)
    fit(twin, accumulate=3)
    assert_array_equal(net.params, twin.params)


def test_a_seed_may_be_an_array():
    net, twin, optimizer, other = net_for(), net_for(), fc.SGD(0.05), fc.SGD(0.05)
    for _ in range(2):
        fit(net, optimizer=optimizer, seed=np.array([1, 2]))
        fit(twin, optimizer=other, seed=[1, 2])
    assert_array_equal(net.params, twin.params)
