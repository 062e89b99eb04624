"""The shortest way of train_step sees every change: versions guard it, which every setter raises.

Each case makes a change between steps, after the plan of the step is there; the steps that follow are those of a twin
that has never had a plan.
"""

import copy
import inspect
import pickle

import numpy as np
import pytest
from examples import OF_FEATURES
from numpy.testing import assert_array_equal

import fastfc as fc
from fastfc.io import checkpoint
from fastfc.nn.layer import Option

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((6, 3)).astype("f"), RNG.standard_normal((6, 2)).astype("f")
LOSS = fc.MSELoss()


def network():
    layers = [fc.Linear(3, 4, seed=0), fc.BatchNorm1d(4), fc.LeakyReLU(0.1), fc.Dropout(0.2, seed=1)]
    return fc.Sequential([*layers, fc.Sequential([fc.Linear(4, 2, seed=2)])])


def planned(optimizer=None):
    """A network whose next step has a plan, and its optimizer."""
    net, optimizer = network(), optimizer or fc.SGD(0.1, momentum=0.9)
    for _ in range(2):
        net.train_step(X, Y, LOSS, optimizer)
    assert net._plan.versions == (net.version, LOSS.version, optimizer.version)
    return net, optimizer


def set_attribute(path, value):
    def change(net, optimizer):
        *owners, name = path.split(".")
        thing = {"net": net, "optimizer": optimizer}[owners[0]]
        for owner in owners[1:]:
            thing = thing[int(owner)] if owner.isdigit() else getattr(thing, owner)
        setattr(thing, name, value)

    return change


def freeze_and_thaw(net, optimizer):
    net[0].frozen = True
    net.train_step(X, Y, LOSS, optimizer)
    net[0].frozen = False


def grow(net, optimizer):
    net.train_step(np.repeat(X, 9, axis=0), np.repeat(Y, 9, axis=0), LOSS, optimizer)


def reset(net, optimizer):
    optimizer.reset()


def other_network(net, optimizer):
    optimizer.reset()
    network().train_step(X, Y, LOSS, optimizer)
    optimizer.reset()


def reload_state(net, optimizer):
    optimizer.state = 0.5 * optimizer.state


def more_state(net, optimizer):
    optimizer.state = np.zeros((2, net.params.size))


def load_state_dict(net, optimizer):
    net[0].weight, net[0].bias = np.ones((3, 4)), np.ones(4)
    net.buffers = np.full(net.buffers.size, 0.5)


def forward_between(net, optimizer):
    net.backward(net.forward(X[:3]))


CHANGES = {
    "params": set_attribute("net.params", np.full(34, 0.1)),
    "params of a layer": set_attribute("net.0.weight", np.ones((3, 4))),
    "weights of a nested layer": set_attribute("net.4.0.weight", np.ones((4, 2))),
    "grads": set_attribute("net.grads", np.ones(34)),
    "buffers": set_attribute("net.buffers", np.full(8, 0.3)),
    "loaded": load_state_dict,
    "frozen layer": set_attribute("net.0.frozen", True),
    "frozen norm": set_attribute("net.1.frozen", True),
    "frozen nested layer": set_attribute("net.4.0.frozen", True),
    "frozen network": set_attribute("net.frozen", True),
    "frozen and not": freeze_and_thaw,
    "p": set_attribute("net.3.p", 0.7),
    "no dropout": set_attribute("net.3.p", 0.0),
    "seed": set_attribute("net.3.seed", 5),
    "slope": set_attribute("net.2.negative_slope", 0.7),
    "eps of a norm": set_attribute("net.1.eps", 0.5),
    "momentum of a norm": set_attribute("net.1.momentum", 0.9),
    "name": set_attribute("net.0.name", "first"),
    "n_threads": set_attribute("net.n_threads", 2),
    "reserve": lambda net, optimizer: net.reserve(1000),
    "larger batch": grow,
    "forward": forward_between,
    "fit": lambda net, optimizer: net.fit(X, Y, loss=LOSS, optimizer=optimizer, epochs=2, batch_size=4, seed=0),
    "predict": lambda net, optimizer: net.predict(X),
    "rng_step": set_attribute("net.rng_step", 7),
    "lr": set_attribute("optimizer.lr", 0.01),
    "momentum": set_attribute("optimizer.momentum", 0.1),
    "no momentum": set_attribute("optimizer.momentum", 0.0),
    "nesterov": set_attribute("optimizer.nesterov", True),
    "weight_decay": set_attribute("optimizer.weight_decay", 0.3),
    "l1": set_attribute("optimizer.l1", 0.3),
    "l2": set_attribute("optimizer.l2", 0.3),
    "max_norm": set_attribute("optimizer.max_norm", 0.1),
    "clip_norm": set_attribute("optimizer.clip_norm", 0.01),
    "clip_value": set_attribute("optimizer.clip_value", 0.01),
    "maximize": set_attribute("optimizer.maximize", True),
    "schedule": set_attribute("optimizer.schedule", fc.StepLR(1, gamma=0.5)),
    "groups": set_attribute("optimizer.groups", {"0.*": {"lr": 0.5}, "*.bias": {"frozen": True}}),
    "count": set_attribute("optimizer.count", [9, 0]),
    "reset": reset,
    "another network between": other_network,
    "state": reload_state,
    "steps_per_epoch": set_attribute("optimizer.steps_per_epoch", 3),
}


def forget_plans(net):
    net._plan, net._plans = None, {}


@pytest.mark.parametrize("change", CHANGES)
def test_the_next_step_sees_a_change(change):
    """Identities of arrays told a change, in six places; a seventh setter would have been forgotten."""
    net, optimizer = planned()
    twin, its = planned()
    CHANGES[change](net, optimizer)
    CHANGES[change](twin, its)
    for step in range(3):
        forget_plans(twin)
        values = net.train_step(X, Y, LOSS, optimizer), twin.train_step(X, Y, LOSS, its)
        assert values[0] == values[1], step
        for what in ("params", "grads", "buffers", "rng_step"):
            assert_array_equal(getattr(net, what), getattr(twin, what))
        assert_array_equal(optimizer.state, its.state)
        assert_array_equal(optimizer.count, its.count)


@pytest.mark.parametrize("change", ["copied", "pickled", "another loss", "another optimizer", "part of another"])
def test_a_plan_is_of_one_network_loss_and_optimizer(change):
    (net, optimizer), (twin, its) = planned(), planned()
    loss = LOSS
    if change == "copied":
        net, optimizer = copy.deepcopy((net, optimizer))
    elif change == "pickled":
        net, optimizer = pickle.loads(pickle.dumps((net, optimizer)))
    elif change == "another loss":
        loss = fc.L1Loss()
    elif change == "another optimizer":
        optimizer, its = fc.Adam(0.1), fc.Adam(0.1)
    else:
        whole = fc.Sequential([net])
        assert net.params.base is whole.params.base
    for _ in range(2):
        forget_plans(twin)
        assert net.train_step(X, Y, loss, optimizer) == twin.train_step(X, Y, loss, its)
        assert_array_equal(net.params, twin.params)


def test_plans_of_several_batch_sizes_are_kept():
    """The last batch of an epoch is shorter: each first and each last step took the long way."""
    net, optimizer = planned()
    net.train_step(X[:4], Y[:4], LOSS, optimizer)
    plans = dict(net._plans)
    assert len(plans) == 2
    for n in (6, 4, 6, 4):
        net.train_step(X[:n], Y[:n], LOSS, optimizer)
    assert all(net._plans[kinds] is plan for kinds, plan in plans.items())
    for n in range(1, 60):
        net.train_step(np.zeros((n + 1, 3), "f"), np.zeros((n + 1, 2), "f"), LOSS, optimizer)
    assert len(net._plans) <= 8


def settable(kind):
    """The options and properties of a class that can be assigned."""
    names = {name for base in kind.__mro__ for name in vars(base) if not name.startswith("_")} - kind.internal_names()
    found = {name: inspect.getattr_static(kind, name) for name in names}
    return sorted(name for name, at in found.items() if isinstance(at, Option) or getattr(at, "fset", None))


# Their arrays are changed in place, and plans hold the arrays; a name or a history is of no step.
IN_PLACE = {"params", "grads", "buffers", "weight", "weight_grad", "bias", "bias_grad"}
IN_PLACE |= {"running_mean", "running_var", "mean", "scale", "center", "low", "high", "knots", "values", "edges"}
IN_PLACE |= {f"{name}{of}" for name in ("frequency", "phase", "input_scale", "output_scale") for of in ("", "_grad")}
NOT_OF_STEPS = {"history", "feature_names"}


def layers():
    encoder = fc.Linear(2, 4, seed=0)
    yield from (fc.Sequential([fc.Linear(4, 4, seed=0)]), fc.Tied(encoder), fc.Embedding(5, 2, seed=0), encoder)
    for name, kind in checkpoint.LAYERS.items():
        if name not in ("Linear", "Tied", "Embedding"):
            needs = {"Parametric": ("relu", 4), "NumericEmbedding": (4,), **{name: (4,) for name in OF_FEATURES}}
            needs |= dict.fromkeys(("BatchEnsemble", "LinearEnsemble"), (4, 2, 2)) | {"MemberMean": (4, 2)}
            yield kind(*needs.get(name, ()))


@pytest.mark.parametrize("layer", list(layers()), ids=lambda layer: type(layer).__name__)
def test_every_setter_of_a_layer_raises_the_versions_around_it(layer):
    """Of the layer, of the networks that it is part of, and of its parts."""
    inner = fc.Sequential([layer]) if not isinstance(layer, fc.Tied) else fc.Sequential([layer.layer, layer])
    whole = fc.Sequential([inner])
    for name in settable(type(layer)):
        if name in IN_PLACE | NOT_OF_STEPS:
            continue
        versions = [thing.version for thing in (layer, inner, whole)]
        setattr(layer, name, getattr(layer, name))
        around = [thing.version for thing in (layer, inner, whole)]
        changed = [old < new for old, new in zip(versions, around, strict=True)]
        # threads are a network's own matter, and those of its parts
        assert changed == ([True, False, False] if name in ("n_threads", "input_shapes") else [True] * 3), name


@pytest.mark.parametrize("kind", checkpoint.OPTIMIZERS.values(), ids=checkpoint.OPTIMIZERS)
def test_every_setter_of_an_optimizer_is_in_place_or_raises_its_version(kind):
    def arrays(optimizer):
        return optimizer.hyper, optimizer.segments, optimizer.state, optimizer.count

    for name in settable(kind):
        optimizer = kind()
        before, version = arrays(optimizer), optimizer.version
        setattr(optimizer, name, 3 if name == "steps_per_epoch" else getattr(optimizer, name))
        same = all(old is new for old, new in zip(before, arrays(optimizer), strict=True))
        assert same or optimizer.version > version, name


def test_no_two_objects_share_a_version():
    nets = [network() for _ in range(3)]
    nets += [copy.deepcopy(nets[0]), pickle.loads(pickle.dumps(nets[0])), copy.copy(nets[0])]
    optimizers = [fc.Adam() for _ in range(3)]
    optimizers += [copy.deepcopy(optimizers[0]), copy.copy(optimizers[0])]
    losses = [fc.MSELoss(), fc.MSELoss(), copy.deepcopy(fc.MSELoss()), pickle.loads(pickle.dumps(LOSS)), LOSS]
    losses.append(fc.MultiLoss([LOSS]))
    versions = [thing.version for thing in (*nets, *optimizers, *losses)]
    assert len(set(versions)) == len(versions) and min(versions) > 0


def test_a_subclass_of_a_loss_raises_its_version():
    class Mine(fc.MSELoss):
        pass

    loss = Mine()
    version = loss.version
    loss.scale = 2
    assert loss.version > version
