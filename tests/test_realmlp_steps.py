"""RealMLP of fastfc's parts, step by step as the reference implementation has computed it.

`tabular_golden/` holds two runs of pytabkit 1.7.3 on 820 rows, 600 of them for training, then 120 for validation and
100 for the test: the preset "td" for classes with its dropout off, and "td-s" for regression.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc

STEPS, EPOCHS, BATCH_SIZE, TRAINING, VALIDATION, TEST = 512, 256, 256, slice(600), slice(600, 720), slice(720, 820)
# the names of the reference's parameters, and of ours
FIRST, SECOND, THIRD, LAST = "first_layer.layer-0", "middle_layer.layer-1", "middle_layer.layer-2", "last_layer.layer-3"
NAMES = {
    "plr.weight_1": "numbers.frequency",
    "plr.bias_1": "numbers.phase",
    "plr.weight_2": "numbers.weight",
    "plr.bias_2": "numbers.bias",
    "tfms.emb": "category.weight",
    f"net.{FIRST}.scale": "scale.weight",
    **{
        f"net.{layer}.{what}": f"{kind}{i}.{ours}"
        for i, layer in enumerate((FIRST, SECOND, THIRD, LAST))
        for what, kind, ours in (("weight", "linear", "weight"), ("bias", "linear", "bias"), ("act", "f", "weight"))
    },
}

TD_GROUPS = {
    "numbers.*": {"lr_factor": 0.1},
    "scale.*": {"lr_factor": 6.0},
    "f*": {"lr_factor": 0.1},
    "linear*.bias": {"lr_factor": 0.1, "weight_decay_factor": 0.0},
}
TD_DECAY = {"weight_decay": 0.02, "schedules": {"weight_decay": fc.FlatCosineLR(STEPS)}}
TDS_GROUPS = {"scale.*": {"lr_factor": 6.0}, "linear*.bias": {"lr_factor": 0.1}}
TDS_DECAY = {"weight_decay": 0.0}


def arrays(run):
    """Arrays by name.

    num, cat (codes, 0 for missing) and y; perms, the order of the samples in 16 epochs; init.*, after1.*, …, the
    parameters; grad0.*, grad1.*, …, the gradients of these steps; and what came of it.
    """
    return dict(np.load(Path(__file__).parent / "tabular_golden" / f"{run}.npz"))


def of(golden, what):
    """The arrays `what.name` by our names."""
    return {NAMES[name.partition(".")[2]]: golden[name] for name in golden if name.startswith(f"{what}.")}


def one_hot(codes, size):
    """Columns of a category with these codes, 0 for missing: of two names one column of 1 and −1."""
    columns = (codes[:, None] == np.arange(1, size)).astype(np.float32)
    return columns[:, :1] - columns[:, 1:] if size == 3 else columns


class TD:
    """Three classes; SELU, embeddings of numbers and of a category, parametric activations, weight decay."""

    run, lr = "golden_td_class", 0.04
    loss = fc.CrossEntropyLoss(label_smoothing=0.1)
    groups, decay = TD_GROUPS, TD_DECAY

    @staticmethod
    def network():
        numbers, hot, category = fc.Input(5), fc.Input(4), fc.Input(1)
        embedded = fc.NumericEmbedding(5, kind="pbld", name="numbers")(numbers)
        x = fc.concatenate([embedded, hot, fc.Embedding(13, 8, name="category")(category)])
        h = fc.Scale(32, name="scale")(x)
        for i, (n_in, n_out) in enumerate([(32, 32), (32, 24), (24, 16)]):
            h = fc.Linear(n_in, n_out, parametrization="ntk", name=f"linear{i}")(h)
            h = fc.Parametric("selu", n_out, name=f"f{i}")(h)
        return fc.Graph([numbers, hot, category], fc.Linear(16, 3, parametrization="ntk", name="linear3")(h))

    @staticmethod
    def inputs(golden):
        cat = golden["cat"]
        hot = np.concatenate([one_hot(cat[:, 0], 3), one_hot(cat[:, 1], 4)], axis=1)
        scaled = [fc.RobustScale.of(x[TRAINING]).predict(x) for x in (golden["num"], hot)]
        assert_array_equal(hot[:720], golden["static.x_one_hot"])
        return (*scaled, cat[:, 2:].astype(np.float32))

    @staticmethod
    def targets(golden):
        return golden["y"]

    @staticmethod
    def error(y, p):
        return np.mean(p.argmax(axis=1) != y)

    @staticmethod
    def output(golden, p):
        return p


class TDS:
    """Numbers; Mish, all categories one-hot, no decay."""

    run, lr = "golden_tds_reg", 0.07
    loss = fc.MSELoss()
    groups, decay = TDS_GROUPS, TDS_DECAY

    @staticmethod
    def network():
        layers = [fc.Scale(21, name="scale")]
        for i, (n_in, n_out) in enumerate([(21, 32), (32, 24), (24, 16)]):
            layers += [fc.Linear(n_in, n_out, parametrization="ntk", name=f"linear{i}"), fc.Mish()]
        return fc.Sequential([*layers, fc.Linear(16, 1, parametrization="ntk", name="linear3")])

    @staticmethod
    def inputs(golden):
        cat = golden["cat"]
        x = np.concatenate([golden["num"], *(one_hot(cat[:, i], size) for i, size in enumerate((3, 4, 13)))], axis=1)
        x = fc.RobustScale.of(x[TRAINING]).predict(x)
        assert_allclose(x[:720], golden["static.x_cont"], rtol=1e-5, atol=1e-6)
        return x

    @staticmethod
    def scale(golden):
        y = golden["y"][TRAINING].astype(np.float64)
        return y.mean(), y.std()

    @classmethod
    def targets(cls, golden):
        mean, std = cls.scale(golden)
        return ((golden["y"] - mean) / std).astype(np.float32)[:, None]

    @classmethod
    def error(cls, y, p):
        return np.sqrt(np.mean((p - y) ** 2)) * cls.scale(arrays(cls.run))[1]

    @classmethod
    def output(cls, golden, p):
        mean, std = cls.scale(golden)
        return p * std + mean


KINDS = pytest.mark.parametrize("kind", [TD, TDS], ids=["td", "td-s"])


def rows_of(x, rows):
    return tuple(part[rows] for part in x) if isinstance(x, tuple) else x[rows]


def put(net, values):
    known = {name: parameter for name, parameter, _ in net.named_parameters()}
    assert known.keys() == values.keys()
    for name, value in values.items():
        known[name][...] = value.reshape(known[name].shape)


def begun(kind):
    """The recorded arrays, the network as it starts, its optimizer, and all inputs and targets."""
    golden, net = arrays(kind.run), kind.network()
    put(net, of(golden, "init"))
    schedule = fc.CosLogLR(STEPS)
    optimizer = fc.AdamW(
        kind.lr, (0.9, 0.95), 1e-8, schedule=schedule, groups=kind.groups, square_factors=True, **kind.decay
    )
    return golden, net, optimizer, kind.inputs(golden), kind.targets(golden)


def assert_parameters(net, expected, atol):
    for name, parameter, _ in net.named_parameters():
        assert_allclose(parameter, expected[name].reshape(parameter.shape), rtol=0, atol=atol, err_msg=name)


@KINDS
def test_gradients_and_parameters_of_the_first_steps(kind):
    golden, net, optimizer, x, y = begun(kind)
    for k in range(10):
        epoch, batch = divmod(k, 2)
        rows = golden["perms"][epoch][batch * BATCH_SIZE : (batch + 1) * BATCH_SIZE]
        loss = net.train_step(rows_of(x, rows), y[rows], kind.loss, optimizer)
        assert_allclose(loss, golden["train_loss"][k], rtol=1e-5)
        if k in (0, 1, 2, 9):
            expected = of(golden, f"grad{k}")
            for name, _, gradient in net.named_parameters():
                tolerance = 1e-5 * max(1.0, np.abs(expected[name]).max())
                assert_allclose(gradient, expected[name].reshape(gradient.shape), rtol=0, atol=tolerance, err_msg=name)
        if k + 1 in (1, 2, 3, 10):
            assert_parameters(net, of(golden, f"after{k + 1}"), 1e-5)
        if k == 0:
            assert_parameters(net, of(golden, "init"), 0)  # the first rate is 0


@KINDS
def test_factors_of_rates_and_decays(kind):
    """Of every parameter, as the groups tell the kernel: its rate, and its decay times its rate, both squared."""
    golden, net, optimizer, _, _ = begun(kind)
    factors = {NAMES[name]: value for name, value in json.loads(str(golden["hyper_factors"])).items()}
    optimizer.prepare(net)
    starts = {name: first for name, first, _ in net.trained_parameters()}
    for name, first in starts.items():
        row = next(row for row in optimizer.segments if row[0] <= first < row[1] or not row[-1])
        lr, decay = factors[name]["lr"], factors[name].get("wd", 1.0)
        assert_allclose(row[2], lr, err_msg=name)
        if kind.decay["weight_decay"]:
            assert_allclose(row[2] * -row[3], (lr * decay) ** 2, rtol=1e-12, err_msg=name)


@KINDS
def test_rates_and_decays_of_all_steps(kind):
    golden, _, optimizer, _, _ = begun(kind)
    assert_allclose([optimizer.schedule.rate(kind.lr, k) for k in range(STEPS)], golden["lr_value"], atol=1e-15)
    for what, schedule in optimizer.schedules.items():
        expected = golden["wd_value"] if what == "weight_decay" else None
        assert_allclose([0.02 * schedule.rate(1.0, k) for k in range(STEPS)], expected, atol=1e-15)


class Recorded(np.random.Generator):
    """The orders of the samples that were recorded."""

    def __init__(self, orders):
        super().__init__(np.random.PCG64(0))
        self.orders = iter(orders)

    def permutation(self, n):
        return next(self.orders).astype(np.int64)


@KINDS
def test_fit_takes_the_same_steps(kind):
    """Sixteen epochs, in as few native calls as there are: losses, and errors of the validation after each."""
    golden, net, optimizer, x, y = begun(kind)
    orders, error = golden["perms"], lambda y_true, y_pred: kind.error(y_true, y_pred)
    error.__name__ = "error"
    validation = rows_of(x, VALIDATION), y[VALIDATION]
    options = {"epochs": len(orders), "batch_size": BATCH_SIZE, "drop_last": True, "seed": Recorded(orders)}
    options |= {"loss": kind.loss, "optimizer": optimizer, "validation_data": validation, "metrics": [error]}
    history = net.fit(rows_of(x, TRAINING), y[TRAINING], **options)
    assert optimizer.count[0] == 2 * len(orders) and optimizer.steps_per_epoch == 2
    assert_allclose(history.loss, golden["train_loss"][: 2 * len(orders)].reshape(-1, 2).mean(axis=1), rtol=1e-4)
    assert_allclose(history["val_error"], golden["val_errors"][: len(orders)], rtol=1e-4, atol=1e-7)


@KINDS
def test_the_epoch_that_is_kept_and_its_output(kind):
    golden, net, _, x, _ = begun(kind)
    values, keep = iter(golden["val_errors"]), fc.EarlyStopping("error", patience=None, mode="min", keep="last")
    error = lambda y_true, y_pred: next(values)
    error.__name__ = "error"
    fc.MLP([1, 1], seed=0).fit(
        [[1]], [[1]], loss=fc.MSELoss(), optimizer=fc.SGD(), epochs=EPOCHS, metrics=[error], callbacks=[keep]
    )
    recorded = json.loads(str(golden["best_epoch"]).replace("'", '"'))
    assert [keep.best_epoch] == list(recorded["stop_epoch"].values())
    put(net, of(golden, "best"))
    output = kind.output(golden, net.predict(rows_of(x, TEST)))
    assert_allclose(output, golden["test_output"], rtol=1e-5, atol=1e-5)
