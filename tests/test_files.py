import copy
import dataclasses
import importlib
import inspect
import json
import os
import random
import stat
import struct
import threading
import tracemalloc

import numpy as np
import pytest
from examples import ACTIVATIONS, LAYERS, MORE_LAYERS, OPTIMIZERS, WIDTH, N, ids, inputs, numbers
from numpy.testing import assert_array_equal
from processes import run
from safetensors import safe_open
from safetensors.numpy import save, save_file

import fastfc as fc
from fastfc.io import checkpoint as files
from fastfc.nn.container import CONTAINERS
from fastfc.nn.layer import Layer
from fastfc.optim.base import Optimizer
from fastfc.optim.schedules import Schedule

STORED = [row for row in ACTIVATIONS if row[0] != "Elementwise"]
SCHEDULES = [
    fc.StepLR(2, gamma=0.5, unit="epoch"),
    fc.MultiStepLR([3, 5], gamma=0.5, unit="epoch"),
    fc.ExponentialLR(0.9, unit="epoch"),
    fc.CosineAnnealingLR(9, eta_min=1e-4, unit="epoch"),
    fc.CosineAnnealingWarmRestarts(2, T_mult=2, eta_min=1e-4, unit="epoch"),
    fc.OneCycleLR(0.02, 20, 0.4, "linear", 10.0, 100.0, True, unit="epoch"),
    fc.LinearLR(0.5, 0.1, 9, unit="epoch"),
    fc.FlatCosineLR(30, unit="epoch"),
    fc.CosLogLR(30, cycles=3, unit="epoch"),
    fc.LinearWarmup(2, 0.1, fc.CosineAnnealingLR(5)),
    fc.LinearWarmup(2, 0.1, fc.MultiStepLR([2], unit="epoch"), unit="epoch"),
    fc.ReduceLROnPlateau(0.5, patience=0, threshold=0.9, cooldown=1, min_lr=1e-5, mode="max", monitor="loss"),
]
ALL_OPTIONS = {
    "groups": {"*.bias": {"lr": 0.02, "weight_decay": 0.0, "l1": 0.1, "l2": 0.2, "max_norm": None, "frozen": False}},
    "clip_norm": 1.0,
    "clip_value": 0.5,
    "l1": 1e-4,
    "l2": 1e-3,
    "penalize_bias": True,
    "max_norm": 2.0,
    "average": 0.9,
    "schedule": fc.StepLR(3),
    "schedules": {"weight_decay": fc.MultiStepLR([3, 5], unit="epoch")},
    "square_factors": False,
    "maximize": True,
}
MORE_OPTIMIZERS = [
    ("SGD", {"lr": 0.05, "momentum": 0.5, **ALL_OPTIONS}),
    ("Adam", {"eps": 1e-6, **ALL_OPTIONS}),
    ("AdamW", {"eps": 1e-6, "betas": (0.5, 0.75), "amsgrad": True, **ALL_OPTIONS, "square_factors": True}),
    ("NAdam", {"eps": 1e-6, "betas": (0.5, 0.9), "weight_decay": 0.1, "decoupled_weight_decay": True, **ALL_OPTIONS}),
    ("RMSprop", {"lr": 0.02, "alpha": 0.9, "eps": 1e-6, "weight_decay": 0.1, **ALL_OPTIONS}),
    ("Adagrad", {"eps": 1e-6, "weight_decay": 0.1, "initial_accumulator_value": 0.2, **ALL_OPTIONS}),
    ("Lion", {"betas": (0.5, 0.9), "weight_decay": 0.1, **ALL_OPTIONS}),
    (
        "LBFGS",
        {
            "lr": 0.5,
            "max_iter": 3,
            "max_eval": 5,
            "tolerance_grad": 1e-6,
            "tolerance_change": 1e-8,
            "history_size": 4,
            "weight_decay": 0.1,
            "groups": {"0.*": {"frozen": True}},
        },
    ),
    (
        "LevenbergMarquardt",
        {"damping": 0.1, "factor": 5.0, "max_damping": 1e8, "groups": {"0.*": {"frozen": True}}},
    ),
]


def kept(optimizer):
    """What is only there once it is more than nothing."""
    state = optimizer.state if optimizer.state.size else None
    return {"epochs": optimizer.epochs, "_state": state, "_outputs": 0, "_parameters": 0}


def assert_same(a, b):
    """Both have the same of everything but gradients, to the bit."""
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        assert_array_equal(a.view(np.uint8) if a.size else a, b.view(np.uint8) if b.size else b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for part, other in zip(a, b, strict=True):
            assert_same(part, other)
    elif isinstance(a, np.random.Generator):
        assert a.bit_generator.state == b.bit_generator.state
    elif isinstance(a, Layer):
        assert_same(a.params, b.params)
        assert_same(*({key: value for key, value in net.__getstate__().items() if key != "grads"} for net in (a, b)))
    elif isinstance(a, Optimizer):
        assert_same(*(optimizer.__getstate__() | kept(optimizer) for optimizer in (a, b)))
    elif isinstance(a, fc.History):
        assert_same(a.rows, b.rows)
    else:
        assert a == b or (a != a and b != b)


def there_and_back(net, path, **more):
    net.save(path / "net.safetensors", **more)
    found = fc.load_checkpoint(path / "net.safetensors")
    assert_same(net, found.network)
    return found


def of_kind(*kinds):
    names = [name for name in fc.__all__ if inspect.isclass(getattr(fc, name))]
    return {name for name in names if issubclass(getattr(fc, name), kinds)}


def test_every_public_class_can_be_stored():
    assert {*files.LAYERS, *CONTAINERS} == of_kind(Layer) - {"Elementwise"}
    assert set(files.OPTIMIZERS) == of_kind(Optimizer)
    assert set(files.SCHEDULES) == of_kind(Schedule, fc.ReduceLROnPlateau)


def test_the_examples_have_every_argument():
    """So that one that is not stored fails a test here."""
    examples = [*STORED, *MORE_LAYERS, *OPTIMIZERS, *MORE_OPTIMIZERS]
    examples += [(type(example).__name__, dataclasses.asdict(example)) for example in SCHEDULES]
    for name in of_kind(Layer, Optimizer, Schedule, fc.ReduceLROnPlateau) - {"Elementwise", "Sequential", "Graph"}:
        defaults = {
            what: parameter.default for what, parameter in inspect.signature(getattr(fc, name)).parameters.items()
        }
        if defaults.pop("options", None):
            defaults |= dict.fromkeys(ALL_OPTIONS)
        not_stored = {"init", "bias_init", "scale_init", "dtype"} | ({"seed"} if name != "Dropout" else set())
        for what in defaults.keys() - not_stored:
            values = [given[what] for other, given in examples if other == name and what in given]
            assert any(value != defaults[what] for value in values), (name, what)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_come_back(name, dtype, tmp_path):
    net = LAYERS[name](dtype)
    net.fit(inputs(name, 0), numbers(1), loss=fc.MSELoss(), optimizer=fc.SGD(0.01), seed=0)
    found = there_and_back(net, tmp_path)
    assert found.optimizer is None and found.metadata == {}
    assert_array_equal(net.predict(inputs(name, 2)), found.network.predict(inputs(name, 2)))


@pytest.mark.parametrize("name, settings", STORED, ids=ids(STORED))
def test_activations_come_back(name, settings, tmp_path):
    there_and_back(fc.Sequential([fc.Linear(2, 2, seed=0), getattr(fc, name)(**settings)]), tmp_path)


@pytest.mark.parametrize("name, settings", MORE_LAYERS, ids=ids(MORE_LAYERS))
def test_arguments_of_layers_come_back(name, settings, tmp_path):
    if name == "Tied":
        encoder = fc.Linear(3, 2, seed=0)
        layers = [encoder, fc.Tied(**settings | {"layer": encoder})]
    else:
        layers = [getattr(fc, name)(**settings)]
    for layer in layers:
        layer.params[:] = np.random.default_rng(0).random(layer.params.size)
    there_and_back(fc.Sequential(layers), tmp_path)


def test_networks_in_networks(tmp_path):
    inner = fc.MLP([3, 4, 3], "gelu_tanh", seed=0)
    inner.name, inner[2].frozen = "inner", True
    x, y = fc.Input(3, "x"), fc.Input(2, "y")
    shared, encoder = fc.Linear(3, 3, seed=1), fc.Linear(3, 2, seed=2)
    h = fc.Tanh()(shared(shared(inner(x)))) - 0.5 * x
    code = encoder(h)
    outputs = [fc.Tied(encoder)(code * y), -fc.concatenate([code, y, h]), fc.Identity()(h), x + h]
    net = fc.Graph([x, y], outputs)
    found = there_and_back(net, tmp_path).network
    samples = numbers(0)[:, :3], numbers(1)[:, :2]
    for ours, theirs in zip(net.predict(samples), found.predict(samples), strict=True):
        assert_array_equal(ours, theirs)
    assert found.summary() == net.summary()
    assert found.layers[0].name == "inner" and found.layers[0][2].frozen and not found.frozen

    x = fc.Input(3)
    graph = fc.Graph(x, x + fc.Linear(3, 3, seed=3)(x))
    encoder = fc.Linear(3, 2, seed=0)
    net = fc.Sequential([fc.Sequential([fc.Sequential([encoder])]), fc.Sequential([fc.Tied(encoder), graph])])
    net.frozen = True
    found = there_and_back(net, tmp_path).network
    assert found[1][0].layer is found[0][0][0]
    assert_array_equal(net.predict(numbers(0)[:, :3]), found.predict(numbers(0)[:, :3]))


def test_all_sorts_of_numbers_and_texts(tmp_path):
    net = fc.Sequential([fc.Linear(2, 2, name='a "b"\n\ud800 ü'), fc.Softplus(np.float32(0.1)), fc.Dropout(0.5)])
    net.params[:] = [np.nan, np.inf, -np.inf, -0.0, 1e-45, 3e38]
    net.history.rows = [{"epoch": 1, "loss": float("nan"), "val_loss": float("inf")}, {"epoch": 2, "loss": 0.1}]
    notes = {"a": [1, 2.5, None, True, {"b": "ü"}], "n": np.int64(3), "x": np.float32(0.5), "t": (1, 2), "b": np.True_}
    found = there_and_back(net, tmp_path, metadata=notes)
    assert found.metadata == {"a": [1, 2.5, None, True, {"b": "ü"}], "n": 3, "x": 0.5, "t": [1, 2], "b": True}
    assert_same(fc.load(os.fsencode(tmp_path / "net.safetensors")).history, net.history)


@pytest.mark.parametrize("name, settings", [*OPTIMIZERS, *MORE_OPTIMIZERS], ids=ids([*OPTIMIZERS, *MORE_OPTIMIZERS]))
def test_optimizers_come_back(name, settings, tmp_path):
    net, optimizer = fc.MLP([WIDTH, 3, WIDTH], seed=0), getattr(fc, name)(**settings)
    assert_same(there_and_back(net, tmp_path, optimizer=optimizer).optimizer, optimizer)
    optimizer.lr *= 0.3
    net.fit(numbers(0), numbers(1), loss=fc.MSELoss(), optimizer=optimizer, epochs=2, seed=5)
    found = there_and_back(net, tmp_path, optimizer=optimizer).optimizer
    assert_same(found, optimizer)
    assert found.groups == optimizer.groups and found.current_lr == optimizer.current_lr


def test_a_momentum_where_there_was_none(tmp_path):
    net, optimizer = fc.MLP([WIDTH, WIDTH], seed=0), fc.SGD(0.01, average=0.5)
    net.train_step(numbers(0), numbers(1), fc.MSELoss(), optimizer)
    optimizer.momentum = 0.9
    found = there_and_back(net, tmp_path, optimizer=optimizer)
    assert_same(found.optimizer.state, optimizer.state)
    assert len(optimizer.state) == 2
    optimizer.momentum = 0.0
    assert_same(there_and_back(net, tmp_path, optimizer=optimizer).optimizer.state, optimizer.state)


def test_seeds(tmp_path):
    net = fc.MLP([WIDTH, WIDTH], seed=0)
    for seed in (0, np.int64(3), 1 << 100):
        optimizer = fc.SGD(0.01)
        net.fit(numbers(0), numbers(1), loss=fc.MSELoss(), optimizer=optimizer, seed=seed)
        twin = there_and_back(net, tmp_path, optimizer=optimizer).optimizer
        assert twin.generator(int(seed)).integers(1 << 60) == optimizer.generator(seed).integers(1 << 60)
    for seed in (None, np.random.default_rng(0)):
        optimizer = fc.SGD(0.01)
        net.fit(numbers(0), numbers(1), loss=fc.MSELoss(), optimizer=optimizer, seed=seed)
        assert there_and_back(net, tmp_path, optimizer=optimizer).optimizer._generator is None


# Runs that are continued: what makes a network, the optimizer, and what else fit takes.
def perceptron(dtype=np.float32):
    rng = np.random.default_rng(0)
    layers = [fc.Linear(WIDTH, 8, seed=rng, dtype=dtype), fc.BatchNorm1d(8, dtype=dtype), fc.ReLU()]
    return fc.Sequential([*layers, fc.Dropout(0.3, seed=1), fc.Linear(8, WIDTH, seed=rng, dtype=dtype)])


def plain():
    return fc.MLP([WIDTH, 6, WIDTH], "tanh", seed=0)


def runs():
    everything = {
        "schedule": fc.LinearWarmup(4, after=fc.CosineAnnealingLR(30)),
        "average": 0.9,
        "clip_norm": 0.5,
        "groups": {"*.bias": {"lr": 0.02}},
    }
    found = {
        "all": (perceptron(), fc.Adam(0.01, **everything), {"validation_split": 0.25, "metrics": ["mae"]}),
        "float64": (perceptron(np.float64), fc.Adam(0.01, **everything), {"accumulate": 2}),
        "graph": (LAYERS["Graph"](np.float32), fc.SGD(0.01, momentum=0.9), {}),
    }
    for i, (name, settings) in enumerate([*OPTIMIZERS, *MORE_OPTIMIZERS]):
        found[f"{i} {name}"] = plain(), getattr(fc, name)(**settings), {}
    for i, schedule in enumerate(SCHEDULES):
        found[f"{i} {type(schedule).__name__}"] = perceptron(), fc.RMSprop(0.01, schedule=schedule), {}
    return found


def go_on(net, optimizer, more, epochs=3):
    given = {"loss": fc.MSELoss(), "optimizer": optimizer, "epochs": epochs, "batch_size": 5, "seed": 3}
    return net.fit(numbers(0), numbers(1), **given, **more)


CONTINUE = """
import fastfc as fc
from pathlib import Path
from test_files import go_on
for path in Path({path!r}).glob("*.half"):
    net, optimizer, more = fc.load_checkpoint(path)
    go_on(net, optimizer, more)
    net.save(path.with_suffix(".continued"), optimizer=optimizer)
"""


def test_a_run_goes_on_in_another_process_as_if_it_had_never_stopped(tmp_path):
    for name, (net, optimizer, more) in runs().items():
        first = go_on(net, optimizer, more)
        net.save(tmp_path / f"{name}.half", optimizer=optimizer, metadata=more)
        go_on(net, optimizer, more)
        net.history.rows[:0] = first.rows
        net.save(tmp_path / f"{name}.two", optimizer=optimizer)
    run(CONTINUE.format(path=str(tmp_path)))
    for name, (net, optimizer, more) in runs().items():
        whole = go_on(net, optimizer, more, epochs=6)
        half, continued, two = (
            fc.load_checkpoint(tmp_path / f"{name}.{ending}") for ending in ("half", "continued", "two")
        )
        continued.network.history.rows[:0] = half.network.history.rows
        for found in (continued, two):
            found.network.history.rows[:] = [row | {"seconds": 0.0} for row in found.network.history.rows]
        whole.rows[:] = [row | {"seconds": 0.0} for row in whole.rows]
        if optimizer.full_batch:
            assert len(whole) == 6
        for found in (continued, two):
            assert_same(found.network, net)
            assert_same(found.optimizer, optimizer)
        assert_array_equal(continued.network.predict(numbers(2)), net.predict(numbers(2)))


def test_a_checkpoint_of_a_callback(tmp_path):
    """Written in the middle of a run, it goes on to the end of that run."""
    paths = []

    def write(run):
        paths.append(tmp_path / f"{len(run.history)}")
        run.network.save(paths[-1], optimizer=run.optimizer)

    (net, optimizer, more), given = runs()["all"], {"loss": fc.MSELoss(), "epochs": 4, "batch_size": 5, "seed": 3}
    net.fit(numbers(0), numbers(1), optimizer=optimizer, callbacks=[write], **given, **more)
    for done, path in enumerate(paths, 1):
        twin, its_optimizer, _ = fc.load_checkpoint(path)
        assert len(twin.history) == done
        if done < 4:
            twin.fit(numbers(0), numbers(1), optimizer=its_optimizer, **given | {"epochs": 4 - done}, **more)
            assert twin.history.loss == net.history.loss[done:]
            assert twin.history.val_loss == net.history.val_loss[done:]
        assert_same(its_optimizer, optimizer)
        assert_array_equal(twin.params, net.params)


# Files that are wrong.


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good.safetensors"
    net, optimizer, more = runs()["all"]
    optimizer.schedule = fc.ReduceLROnPlateau(patience=0)
    go_on(net, optimizer, more)
    net.save(path, optimizer=optimizer, metadata={"a": 1})
    return path


def contents(path):
    with safe_open(path, "numpy") as file:
        return json.loads(file.metadata()["fastfc"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def put(path, header, tensors):
    """A file of this header, with the checksum that it should have."""
    text = header if isinstance(header, str) else json.dumps(header)
    path.write_bytes(save(tensors, {"fastfc": text, "checksum": files.checksum(text, tensors)}))
    return path


def changed(*keys, to):
    """A change of one number in the header."""

    def change(header, tensors):
        for key in keys[:-1]:
            header = header[key]
        header[keys[-1]] = to

    return change


def without(*keys):
    def change(header, tensors):
        for key in keys[:-1]:
            header = header[key]
        del header[keys[-1]]

    return change


def tensor(name, values):
    def change(header, tensors):
        tensors[name] = values

    return change


FIRST, NORM, DROPOUT = ("network", "layers", 0), ("network", "layers", 1), ("network", "layers", 3)
OPTIMIZER = ("optimizer", "options")
BAD = {
    "newer": (
        changed("version", to=2),
        f"newer fastfc, {fc.__version__}, in version 2 of the format; this one reads version 1",
    ),
    "no version": (without("version"), "it has no 'version'"),
    "version 0": (changed("version", to=0), "version is 0"),
    "version as text": (changed("version", to="1"), "version is '1'"),
    "dtype": (changed("dtype", to="float16"), "dtype must be np.float32 or np.float64"),
    "other dtype": (changed("dtype", to="float64"), "0.weight has shape .* dtype float32, expected .* float64"),
    "no network": (without("network"), "it has no 'network'"),
    "a layer as network": (changed("network", to={"kind": "ReLU", "options": {}}), "which is not a network"),
    "a list as network": (changed("network", to=[]), "it has no 'kind'"),
    "no layers": (changed("network", "layers", to=[]), "at least one layer"),
    "unknown layer": (changed(*FIRST, "kind", to="os.system"), "layer 0 is of the unknown kind 'os.system'"),
    "a layer of functions": (changed(*FIRST, "kind", to="Elementwise"), "unknown kind 'Elementwise'"),
    "kind as list": (changed(*FIRST, "kind", to=[]), "nothing was loaded"),
    "unknown option": (changed(*FIRST, "options", "hook", to=1), "unexpected keyword argument 'hook'"),
    "missing option": (without(*FIRST, "options", "bias"), "it has no 'bias'"),
    "parts of a layer": (changed(*FIRST, "layers", to=[]), "layer 0 has layers"),
    "no parts": (without("network", "layers"), "it has no 'layers'"),
    "unknown entry": (changed(*FIRST, "more", to=1), "layer 0 has more"),
    "huge": (changed(*FIRST, "options", "in_features", to=10**12), r"expected \(1000000000000, 8\)"),
    "huger": (changed(*FIRST, "options", "in_features", to=10**30), "shape"),
    "negative": (changed(*FIRST, "options", "in_features", to=-4), "shape"),
    "a float as size": (changed(*FIRST, "options", "in_features", to=4.0), "must be an integer"),
    "a text as size": (changed(*FIRST, "options", "in_features", to="4"), "shape"),
    "NaN": (changed(*NORM, "options", "eps", to=float("nan")), "eps must be finite"),
    "infinity": (changed(*NORM, "options", "momentum", to=float("inf")), r"momentum must lie in \[0, 1\]"),
    "other widths": (changed(*NORM, "options", "features", to=9), r"1.weight has shape \(8,\)"),
    "seed": (changed(*DROPOUT, "seed", to=-1), "seed must be at least 0"),
    "large seed": (changed(*DROPOUT, "seed", to=1 << 63), r"seed must be less than 2\*\*63"),
    "draws": (changed("network", "draws", to=1.5), "draws must be an integer"),
    "name": (changed(*FIRST, "name", to=3), "has the name 3"),
    "name of an activation": (changed("network", "layers", 2, "name", to="tanh"), "an activation, and has the name"),
    "frozen": (changed("network", "frozen", to=1), "frozen must be True or False"),
    "missing tensor": (lambda header, tensors: tensors.pop("0.bias"), "tensor 0.bias is missing"),
    "missing buffer": (lambda header, tensors: tensors.pop("1.running_var"), "1.running_var is missing"),
    "tensor too many": (tensor("7.weight", np.zeros(3)), "nothing has the tensors 7.weight"),
    "wrong shape": (tensor("0.weight", np.zeros((8, 4), np.float32)), r"shape \(8, 4\) .* expected \(4, 8\)"),
    "wrong dtype": (tensor("0.weight", np.zeros((4, 8), np.int32)), "dtype int32"),
    "empty tensor": (tensor("0.bias", np.zeros((0,), np.float32)), r"shape \(0,\)"),
    "unknown optimizer": (changed("optimizer", "kind", to="eval"), "the optimizer is of the unknown kind 'eval'"),
    "NaN as lr": (changed("optimizer", "lr", to=float("nan")), "lr must be finite and positive"),
    "NaN as eps": (changed(*OPTIMIZER, "eps", to=float("nan")), "eps must be finite"),
    "unknown group": (changed(*OPTIMIZER, "groups", to={"*": {"hook": 1}}), "not 'hook'"),
    "groups as list": (changed(*OPTIMIZER, "groups", to=[1]), "groups must be a dict"),
    "unknown schedule": (changed(*OPTIMIZER, "schedule", "kind", to="x"), "the schedule is of the unknown kind 'x'"),
    "a bad schedule": (changed(*OPTIMIZER, "schedule", "options", "factor", to=2.0), "factor must be less than 1"),
    "other optimizer": (changed("optimizer", "kind", to="SGD"), "unexpected keyword argument"),
    "count": (changed("optimizer", "count", to=[-1, 0]), "count must be at least 0"),
    "long count": (changed("optimizer", "count", to=[1, 0, 0]), "nothing was loaded"),
    "large count": (changed("optimizer", "count", to=[1 << 63, 0]), r"less than 2\*\*63"),
    "epochs": (changed("optimizer", "epochs", to="3"), "epochs must be an integer"),
    "epochs of the schedule": (changed("optimizer", "of_epochs", to=[0, 0, float("nan")]), "must be finite"),
    "negative epochs": (changed("optimizer", "of_epochs", to=[0, 0, -1]), r"are \[0, 0, -1\]"),
    "plateau": (changed("optimizer", "plateau", to=[1, 2]), "nothing was loaded"),
    "negative plateau": (changed("optimizer", "plateau", to=[1.0, 2, -1]), "must be at least 0"),
    "generator": (changed("optimizer", "generator", "bit_generator", to="MT19937"), "nothing was loaded"),
    "generator's state": (changed("optimizer", "generator", "state", "state", to=-1), "nothing was loaded"),
    "no generator": (without("optimizer", "generator"), "it has no 'generator'"),
    "no state": (lambda header, tensors: tensors.pop("optimizer.state"), "its state is missing"),
    "a short state": (tensor("optimizer.state", np.zeros((2, 92), np.float32)), "its state has 2 vectors, not 3"),
    "a narrow state": (tensor("optimizer.state", np.zeros((3, 91), np.float32)), r"optimizer.state has shape \(3, 91"),
    "a state of floats": (tensor("optimizer.state", np.zeros(3, np.float32)), "shape"),
    "a state of no axes": (tensor("optimizer.state", np.full((), 3, np.float32)), "nothing was loaded"),
    "history": (changed("history", to=[{"loss": "x"}]), "the history has the row"),
    "history as text": (changed("history", to="abc"), "nothing was loaded"),
    "metadata": (changed("metadata", to=[]), "its metadata are not a dict"),
    "no history": (without("history"), "it has no 'history'"),
}


def load_fails(path, match):
    with pytest.raises(ValueError, match=match) as found:
        fc.load_checkpoint(path)
    assert str(path) in str(found.value)


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_was_changed_on_purpose(name, good, tmp_path):
    change, message = BAD[name]
    header, tensors = contents(good)
    change(header, tensors)
    load_fails(put(tmp_path / "bad.safetensors", header, tensors), message)


def test_the_checksum_is_of_everything(good, tmp_path):
    header, tensors = contents(good)
    load_is_fine = put(tmp_path / "good.safetensors", header, tensors)
    assert_same(fc.load(load_is_fine), fc.load(good))
    for changes in ({"metadata": {"a": 2}}, {"history": []}):
        text = json.dumps(header | changes)
        notes = {"fastfc": text, "checksum": files.checksum(json.dumps(header), tensors)}
        save_file(tensors, tmp_path / "bad.safetensors", notes)
        load_fails(tmp_path / "bad.safetensors", "its checksum is wrong")
    notes["fastfc"] = json.dumps(header)
    tensors["0.weight"][0, 0] += 1
    save_file(tensors, tmp_path / "bad.safetensors", notes)
    load_fails(tmp_path / "bad.safetensors", "its checksum is wrong")


def test_a_key_that_is_there_twice(good, tmp_path):
    header, tensors = contents(good)
    text = json.dumps(header)[:-1] + ', "metadata": {"a": 2}}'
    load_fails(put(tmp_path / "bad.safetensors", text, tensors), "a key is duplicated")


def test_graphs_that_are_wrong(tmp_path):
    x = fc.Input(3, "x")
    h = fc.Linear(3, 3, seed=0)(x)
    fc.Graph(x, fc.concatenate([0.5 * h, h + x, h * x])).save(tmp_path / "good.safetensors")
    names = ["Input", "Linear", "scale", "add", "multiply", "concatenate"]
    for change, message in {
        changed("nodes", 1, "reads", to=[1]): "list index out of range",  # itself: a cycle
        changed("nodes", 1, "reads", to=[]): "list index out of range",
        changed("nodes", 1, "reads", to=[0, 0]): "reads 2 others",
        changed("nodes", 1, "layer", to=1): "list index out of range",
        changed("nodes", 1, "reads", to=0): "nothing was loaded",
        changed("nodes", 0, "input", to=4): "takes 3 numbers per sample",
        changed("nodes", 0, "input", to=-1): "width must be at least 1",
        changed("nodes", 0, "name", to=[]): "an input has the name",
        changed("nodes", 2, "factor", to=float("nan")): "factor must be finite",
        changed("nodes", 3, "gate", to="__import__"): "it has no '__import__'",
        changed("nodes", 3, "reads", to=[1]): "not enough values",
        changed("nodes", 3, "reads", to=[0, 1, 1]): "reads 3 others",
        changed("nodes", 5, "reads", to=[2, 3]): "need not all of its nodes",
        changed("inputs", to=[1]): "inputs must be Input nodes",
        changed("inputs", to=[]): "at least one node",
        changed("outputs", to=[9]): "list index out of range",
        without("outputs"): "it has no 'outputs'",
        changed("layers", to=[]): "list index out of range",
    }.items():
        header, tensors = contents(tmp_path / "good.safetensors")
        assert len(header["network"]["nodes"]) == len(names)
        change(header["network"], tensors)
        load_fails(put(tmp_path / "bad.safetensors", header, tensors), message)
    header, tensors = contents(tmp_path / "good.safetensors")
    header["network"]["layers"].append({"kind": "ReLU", "options": {}})
    load_fails(put(tmp_path / "bad.safetensors", header, tensors), "need not all of its nodes and layers")


def test_what_optimizers_keep_is_checked(tmp_path):
    """A count that would make the native functions read elsewhere, or search for ever."""
    for optimizer, bits in [
        (fc.LevenbergMarquardt(), 0),
        (fc.LevenbergMarquardt(), np.float64(np.inf).view(np.int64)),
        (fc.NAdam(), np.float64(np.nan).view(np.int64)),
        (fc.LBFGS(max_iter=2), -1),
    ]:
        net = plain()
        go_on(net, optimizer, {})
        net.save(tmp_path / "good.safetensors", optimizer=optimizer)
        header, tensors = contents(tmp_path / "good.safetensors")
        header["optimizer"]["count"][1] = int(bits)
        load_fails(put(tmp_path / "bad.safetensors", header, tensors), "count")
        header, tensors = contents(tmp_path / "good.safetensors")
        del tensors["optimizer.state"]
        load_fails(put(tmp_path / "bad.safetensors", header, tensors), "its state is missing")


def test_texts_that_are_no_json(tmp_path):
    deep = '{"version": 1, "network": ' + "[" * 100_000 + "]" * 100_000 + "}"
    for text in ("", "{", "[]", "3", "null", deep, '{"version": 1, "version": 1}', '{"version": ' + "9" * 5000 + "}"):
        load_fails(put(tmp_path / "bad.safetensors", text, {}), "bad.safetensors")
    text = '{"kind": "Sequential", "layers": [' * 5000 + "]}" * 5000
    text = f'{{"version": 1, "dtype": null, "network": {text}}}'
    load_fails(put(tmp_path / "bad.safetensors", text, {}), "bad.safetensors")


def header_of(text, data=b"", length=None):
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ONE = b'{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}'
RAW = {
    "empty": b"",
    "short": b"abc",
    "zeros": bytes(1000),
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07fastfc.",
    "a zip": b"PK\x03\x04" + bytes(100),
    "a length of 4 EB": header_of(b"{}", length=1 << 62),
    "a length beyond the end": header_of(b"{}", length=3),
    "no JSON": header_of(b"{"),
    "no text": header_of(b'{"__metadata__":{"fastfc":"\xff"}}'),
    "a number as metadata": header_of(b'{"__metadata__":{"fastfc":3}}'),
    "deep": header_of(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "overlapping": header_of(b'{"a":' + ONE % (0, 4) + b',"b":' + ONE % (0, 4) + b"}", b"1234"),
    "with a hole": header_of(b'{"a":' + ONE % (0, 4) + b',"b":' + ONE % (8, 12) + b"}", b"123456789012"),
    "twice": header_of(b'{"a":' + ONE % (0, 4) + b',"a":' + ONE % (4, 8) + b"}", b"12345678"),
    "too long": header_of(b'{"a":' + ONE % (0, 4) + b"}", b"12345"),
    "huge": header_of(b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}', b"1234"),
    "huger": header_of(b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}'),
}


@pytest.mark.parametrize("name", RAW)
def test_files_that_are_no_safetensors(name, tmp_path):
    (tmp_path / "bad").write_bytes(RAW[name])
    load_fails(tmp_path / "bad", "damaged, or no safetensors file")


def test_files_of_others(tmp_path):
    for notes in (None, {"format": "pt"}, {"fastfc": "{}"}, {"checksum": "0"}):
        save_file({"0.weight": np.zeros((2, 3))}, tmp_path / "other", notes)
        load_fails(tmp_path / "other", "not a file that network.save wrote; .* fc.load_state_dict")
    text = json.dumps({"version": 1, "fastfc": "0.1.0"})
    notes = {"__metadata__": {"fastfc": text, "checksum": "0"}, "a": {}}
    notes["a"] = {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}
    (tmp_path / "other").write_bytes(header_of(json.dumps(notes).encode(), b"12"))
    load_fails(tmp_path / "other", "bfloat16")
    importlib.import_module("onnx")  # its ml_dtypes make bfloat16 known to NumPy
    load_fails(tmp_path / "other", "bfloat16")


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        fc.load(tmp_path / "missing")
    load_fails(tmp_path, "not a regular file")
    os.mkfifo(tmp_path / "pipe")
    load_fails(tmp_path / "pipe", "not a regular file")
    with pytest.raises(TypeError):
        fc.load(3)


def test_nothing_is_allocated_that_the_file_has_no_data_for(good, tmp_path):
    header, tensors = contents(good)
    paths = []
    for name, layer in {
        "in": {"kind": "Linear", "options": {"in_features": 1 << 30, "out_features": 8, "bias": True}},
        "out": {"kind": "Linear", "options": {"in_features": 4, "out_features": 1 << 30, "bias": True}},
        "table": {"kind": "Embedding", "options": {"num_embeddings": 1 << 30, "embedding_dim": 8, "in_features": 1}},
        "norm": {"kind": "LayerNorm", "options": {"features": 1 << 30, "elementwise_affine": True, "bias": True}},
        "batch": {"kind": "BatchNorm1d", "options": {"features": 1 << 30, "affine": False}},
        "rms": {"kind": "RMSNorm", "options": {"features": 1 << 30, "elementwise_affine": True}},
        "standard": {"kind": "Standardize", "options": {"features": 1 << 30}},
    }.items():
        header["network"]["layers"][0] = layer
        paths.append(put(tmp_path / name, header, tensors))
    header, tensors = contents(good)
    for kind, given in {"LBFGS": {"history_size": 1 << 30}, "LevenbergMarquardt": {}}.items():
        changes = {"kind": kind, "options": given, "count": [3, 3], "lr": 1.0}
        paths.append(put(tmp_path / kind, header | {"optimizer": header["optimizer"] | changes}, tensors))
    tracemalloc.start()
    try:
        for path in paths:
            load_fails(path, "damaged")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 21


def test_random_damage(good, tmp_path):
    """Whatever happens to a file, it gives the same as before or a ValueError."""
    whole, rng, same = good.read_bytes(), random.Random(0), 0
    expected = fc.load_checkpoint(good)
    n_header = 8 + struct.unpack("<Q", whole[:8])[0]
    for i in range(900):
        data = bytearray(whole)
        where = rng.randrange(n_header if i % 2 else len(data))
        if i % 9 == 0:
            del data[where:]
        elif i % 9 == 1:
            del data[where : where + rng.randrange(1, 9)]
        elif i % 9 == 2:
            data[where:where] = rng.randbytes(rng.randrange(1, 9))
        elif i % 9 < 6:
            data[where] ^= 1 << rng.randrange(8)
        else:
            some = rng.randrange(1, 9)
            data[where : where + some] = rng.choices(b'0123456789"{}[],: eE.-+naul', k=len(data[where : where + some]))
        path = tmp_path / "bad"
        path.write_bytes(data)
        try:
            found = fc.load_checkpoint(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:
            same += 1
            assert_same(found.network, expected.network)
            assert_same(found.optimizer, expected.optimizer)
            assert found.metadata == expected.metadata
    assert same < 90


def spots(value, keys=()):
    """The keys of everything in a header."""
    yield from [keys] * bool(keys)
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from spots(value[key], (*keys, key))


STRANGE = [None, -1, 0, 2, 1e308, float("nan"), float("inf"), "", "x", "0", [], {}, [1], True, 1 << 70, -1.5, 1 << 31]


def test_random_changes_of_the_header(good, tmp_path):
    """With the right checksum: a ValueError, or a network that predicts and an optimizer that trains."""
    rng, loaded = random.Random(0), 0
    before = contents(good)
    for i in range(600):
        header, tensors = copy.deepcopy(before)
        keys = rng.choice(list(spots(header)))
        (without(*keys) if i % 5 == 0 else changed(*keys, to=rng.choice(STRANGE)))(header, tensors)
        try:
            found = fc.load_checkpoint(put(tmp_path / "bad", header, tensors))
        except ValueError as error:
            assert str(tmp_path / "bad") in str(error)
            continue
        loaded += 1
        assert found.network.predict(numbers(0)).shape == (N, WIDTH)
        if found.optimizer is not None:
            found.network.train_step(numbers(0), numbers(1), fc.MSELoss(), found.optimizer)
    assert 30 < loaded < 300


# Writing.


class Mine(fc.Linear):
    pass


class MyOptimizer(fc.SGD):
    pass


def test_what_cannot_be_stored(tmp_path):
    example = dict(ACTIVATIONS)["Elementwise"]
    net, path = fc.MLP([2, 2], seed=0), tmp_path / "net"
    net.save(path)
    before = path.read_bytes()
    circle = []
    circle.append(circle)
    other = fc.Linear(3, 2)
    x = fc.Input(3)
    strange = fc.MLP([2, 2])
    strange.history.rows = [{"loss": "much"}]
    two = fc.Graph(x, [other(x), fc.Linear(2, 3)(fc.Linear(3, 2)(x))])
    for network, more, error, message in [
        (
            fc.Sequential([fc.Linear(2, 2), fc.Elementwise(**example)]),
            {},
            TypeError,
            r"Elementwise\(square, twice\) can't be stored: it is made of functions, and a file holds no code",
        ),
        (fc.Sequential([Mine(2, 2)]), {}, TypeError, "its class is none of fastfc's own"),
        (net, {"optimizer": MyOptimizer()}, TypeError, "its class is none of fastfc's own"),
        (net, {"optimizer": "adam"}, TypeError, "optimizer must be an object such as"),
        (net, {"metadata": [1]}, TypeError, "metadata must be a dict"),
        (net, {"metadata": {"a": [{1: 2}]}}, TypeError, r"metadata\['a'\]\[0\] has the key 1"),
        (net, {"metadata": {"a": np.zeros(3)}}, TypeError, r"metadata\['a'\] is ndarray"),
        (net, {"metadata": {"a": circle}}, ValueError, "metadata is nested more than 100 deep"),
        (net, {"metadata": {"a": "x" * files.LARGEST_TEXT}}, ValueError, "keep them elsewhere"),
        (strange, {}, ValueError, "the history has the row {'loss': 'much'}"),
        (fc.Sequential([fc.Tied(other)]), {}, ValueError, "must come before it in the same network"),
    ]:
        with pytest.raises(error, match=message):
            network.save(path, **more)
        assert os.listdir(tmp_path) == ["net"] and path.read_bytes() == before
    two.save(path)
    optimizer = fc.Adam()
    two.train_step(
        numbers(0)[:, :3], (numbers(0)[:, :2], numbers(0)[:, :3]), fc.MultiLoss([fc.MSELoss()] * 2), optimizer
    )
    with pytest.raises(ValueError, match="is for 25 float32 parameters, the network has 6"):
        net.save(path, optimizer=optimizer)


def test_saving_changes_nothing(tmp_path):
    net, optimizer, more = runs()["all"]
    go_on(net, optimizer, more)
    state, params = optimizer.__getstate__(), net.params.copy()
    net.save(tmp_path / "net", optimizer=optimizer)
    assert_same(state, optimizer.__getstate__())
    assert_array_equal(params, net.params)


@pytest.mark.parametrize("what", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
def test_an_error_leaves_the_old_file_and_no_other(what, error, tmp_path, monkeypatch):
    net, path = fc.MLP([2, 2], seed=0), tmp_path / "net"
    net.save(path)
    before = path.read_bytes()
    net.params[:] = 1

    def fail(*_):
        raise error

    monkeypatch.setattr(os, what, fail)
    with pytest.raises(type(error)):
        net.save(path)
    assert os.listdir(tmp_path) == ["net"] and path.read_bytes() == before


def test_the_data_are_on_the_disk_before_the_name(tmp_path, monkeypatch):
    calls = []
    for what in ("fsync", "replace"):
        original = getattr(os, what)
        monkeypatch.setattr(os, what, lambda *args, f=original, what=what: (calls.append((what, args)), f(*args))[1])
    fc.MLP([2, 2]).save(tmp_path / "net")
    assert [what for what, _ in calls] == ["fsync", "replace", "fsync"]
    source, target = calls[1][1]
    assert os.path.dirname(source) == str(tmp_path) and target == str(tmp_path / "net")


def test_mode_is_that_of_the_umask(tmp_path):
    for mask, mode in ((0o027, 0o640), (0o002, 0o664), (0o077, 0o600)):
        old = os.umask(mask)
        try:
            fc.MLP([2, 2]).save(tmp_path / "net")
        finally:
            os.umask(old)
        assert stat.S_IMODE(os.stat(tmp_path / "net").st_mode) == mode


def test_where_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = fc.MLP([2, 2], seed=0)
    net.save("net")
    os.mkdir("folder")
    os.symlink(tmp_path / "folder" / "target", "link")
    net.save("link")
    assert os.path.islink("link") and sorted(os.listdir()) == ["folder", "link", "net"]
    assert os.listdir("folder") == ["target"]
    assert_same(fc.load("link"), net)
    net.save("x" * 255)
    for path, error in (("folder", ValueError), ("missing/net", FileNotFoundError), ("/dev/null", ValueError)):
        with pytest.raises(error, match=path.rpartition("/")[0] or path):
            net.save(path)
    assert os.path.exists("/dev/null")


def test_others_read_while_it_is_written(tmp_path):
    net, stop, problems = fc.MLP([50, 50], seed=0), threading.Event(), []
    net.save(tmp_path / "net")

    def read():
        while not stop.is_set():
            try:
                values = fc.load(tmp_path / "net").params
                assert values.min() == values.max() or values[-1] == 0
            except Exception as error:
                problems.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(30):
        net.params[:] = i
        net.save(tmp_path / "net")
    stop.set()
    reader.join()
    assert not problems


def test_a_file_is_no_pickle(good):
    assert b"\x80\x04" not in good.read_bytes()[:64]
    source = inspect.getsource(files)
    assert not {"pickle", "eval(", "exec(", "import_module", "getattr(fc"} & set(source.split())
