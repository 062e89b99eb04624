"""Options that are changed between two steps act, or are refused with a reason: all of them, in all ways of training.

Each result is compared with that of an object which was made with the option, and goes on from the same state.
"""

import copy
import inspect
import pickle
import re

import numpy as np
import pytest
from examples import LOSSES, OF_FEATURES
from nopython_code import train
from numba import njit
from numpy.testing import assert_array_equal

import fastfc as fc
from fastfc.io import checkpoint as files
from fastfc.nn.layer import Option

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((10, 3)), RNG.standard_normal((10, 2))
LOSS = fc.MSELoss()

# A value of each option that is not the usual one.
VALUES = {
    "lr": 0.03,
    "weight_decay": 0.3,
    "momentum": 0.5,
    "dampening": 0.5,
    "nesterov": True,
    "betas": (0.4, 0.5),
    "eps": 0.1,
    "amsgrad": True,
    "momentum_decay": 0.3,
    "decoupled_weight_decay": True,
    "alpha": 0.4,
    "centered": True,
    "lr_decay": 2.0,
    "initial_accumulator_value": 0.7,
    "max_iter": 2,
    "max_eval": 3,
    "tolerance_grad": 1e3,
    "tolerance_change": 1e3,
    "history_size": 2,
    "damping": 7.0,
    "factor": 2.0,
    "max_damping": 1e-12,
    "groups": {"0.bias": {"frozen": True}},
    "clip_norm": 0.01,
    "clip_value": 0.01,
    "l1": 0.1,
    "l2": 0.1,
    "penalize_bias": True,
    "max_norm": 0.1,
    "average": 0.5,
    "schedule": fc.StepLR(1, gamma=0.5),
    "schedules": {"weight_decay": fc.LinearLR(0.5, 0.2)},
    "square_factors": True,
    "maximize": True,
}
# What the optimizers are made with, as some options need others.
MADE_WITH = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "l2": 0.1, "average": 0.9}),
    ("Adam", {"lr": 0.1, "betas": (0.5, 0.1), "amsgrad": True}),
    ("Adam", {"lr": 0.1, "betas": (0.5, 0.1)}),
    ("NAdam", {"lr": 0.1, "weight_decay": 0.1}),
    ("RMSprop", {"centered": True, "momentum": 0.5, "average": 0.9}),
    *((name, {}) for name in files.OPTIMIZERS if name != "SGD"),
]
OPPOSITE = {"amsgrad", "centered", "average"}  # of what it was made with
# These are for the first step only, or contradict what there is.
LATE = {"initial_accumulator_value", "damping", "history_size", "average"}


def net(seed=0):
    return fc.MLP([3, 4, 2], "tanh", seed=seed, dtype=np.float64)


def options_of(kind):
    names = [name for name in inspect.signature(kind).parameters if name != "options"]
    return names + list(fc.optim.first_order.Options.__annotations__) * (not kind.full_batch)


CASES = [(name, made, option) for name, made in MADE_WITH for option in options_of(files.OPTIMIZERS[name])]


def by_train_step(net, optimizer, steps, n=10):
    for _ in range(steps):
        net.train_step(X[:n], Y[:n], LOSS, optimizer)


def by_fit(net, optimizer, steps):
    net.fit(X, Y, loss=LOSS, optimizer=optimizer, epochs=steps, batch_size=10, shuffle=False)


def by_nopython(net, optimizer, steps):
    optimizer.prepare(net)
    net.reserve(10)
    train(net, X, Y, LOSS, optimizer, steps)


WAYS = {
    "train_step": by_train_step,
    "another batch size": lambda net, optimizer, steps: by_train_step(net, optimizer, steps, 7),
    "fit": by_fit,
    "nopython": by_nopython,
}


def changed(name, option, made):
    value = VALUES[option]
    return not value if option in OPPOSITE - {"average"} and made.get(option) else value


def twin_of(optimizer, kind, options, its_net):
    """An optimizer that was made with these options, and goes on from the state of another one."""
    twin, state = kind(**options), optimizer.state
    twin.prepare(its_net)
    twin.count[:] = optimizer.count
    if kind is fc.SGD and not optimizer.momentum:
        twin.count[1] = twin.count[0]  # its first step with a momentum
    if kind is fc.RMSprop and twin.centered != optimizer.centered:
        # v, the mean of squares, and the variance: v - mean²
        state = state.copy()
        if optimizer.centered:
            state[0] += state[2] ** 2
        twin.count[1] = twin.centered
    rows = len(state) - (optimizer.average is not None)
    kept = min(rows, len(twin.state) - (twin.average is not None))
    twin.state[:kept] = state[:kept]
    if twin.average is not None:
        twin.state[-1] = state[-1]
    return twin


@pytest.mark.parametrize("way", WAYS)
def test_options_of_optimizers_act_or_are_refused(way):
    """`optimizer.amsgrad = True` after a step was shown by repr, and the old rule ran on; nesterov without momentum,
    LBFGS.max_iter above max_eval and LevenbergMarquardt.damping were ignored as well."""
    go, wrong = WAYS[way], []
    for name, made, option in CASES:
        kind, value = files.OPTIMIZERS[name], changed(name, option, made)
        mine, optimizer = net(), kind(**made)
        go(mine, optimizer, 2)
        other, same = copy.deepcopy(mine), copy.deepcopy(mine)
        unchanged = copy.deepcopy(optimizer)
        before = repr(optimizer)
        try:
            setattr(optimizer, option, value)
        except (ValueError, AttributeError) as error:
            if option not in str(error) or repr(optimizer) != before:
                wrong.append((name, made, option, str(error)))
            go(mine, optimizer, 2)
            go(same, unchanged, 2)
            if not np.array_equal(mine.params, same.params):
                wrong.append((name, made, option, "refused, and changed something"))
            coupled = option == "square_factors" and kind not in (fc.AdamW, fc.Lion)
            if option not in LATE and not coupled and (option, "momentum" in made) != ("nesterov", False):
                wrong.append((name, made, option, "refused"))
            continue
        twin = twin_of(unchanged, kind, made | {option: value}, other)
        go(mine, optimizer, 2)
        go(other, twin, 2)
        go(same, unchanged, 2)
        if not np.array_equal(mine.params, other.params) or not np.array_equal(
            optimizer.state[: len(twin.state)] if optimizer.average is None else optimizer.state[-1:],
            twin.state if optimizer.average is None else twin.state[-1:],
        ):
            wrong.append((name, made, option, "not as if it had been made so"))
        idle = option == "dampening" and not made.get("momentum")  # what the option is for is not there
        idle |= option == "penalize_bias" and not made.get("l2")
        idle |= option in ("momentum_decay", "max_eval") or made.get(option) == value
        idle |= option == "decoupled_weight_decay" and not made.get("weight_decay")
        idle |= option == "amsgrad" and "betas" not in made
        idle |= kind is fc.Lion and option in ("betas", "l2", "clip_norm", "clip_value")
        idle |= option == "square_factors"  # without groups, see test_option_schedules.py
        idle |= option == "schedules" and not optimizer.weight_decay
        idle |= kind.full_batch and option in ("tolerance_change",)
        if not idle and np.array_equal(mine.params, same.params) and option not in LATE:
            wrong.append((name, made, option, "does nothing"))
    assert not wrong, "\n".join(map(str, wrong))


def test_every_option_is_tried():
    named = {option for kind in files.OPTIMIZERS.values() for option in options_of(kind)}
    assert named == set(VALUES)


# A value of each option of a layer that is not the usual one.
OF_LAYERS = {
    "negative_slope": 0.4,
    "min_val": -0.1,
    "max_val": 0.1,
    "alpha": 0.3,
    "beta": 3.0,
    "threshold": -1.0,
    "approximate": "tanh",
    "dim": 1,
    "p": 0.6,
    "seed": 9,
    "eps": 0.3,
    "momentum": 0.7,
    "limit": 0.7,
    "name": "renamed",
}


def attributes(kind, what):
    names = {name for base in kind.__mro__ for name in vars(base)}
    return sorted(name for name in names if type(inspect.getattr_static(kind, name)) is what)


def made(kind, **options):
    """A layer of this kind for rows of 4 numbers."""
    first = {fc.Parametric: ("relu", 4), fc.NumericEmbedding: (4,)}.get(kind, (4,) * (kind.__name__ in OF_FEATURES))
    options |= {"seed": options.get("seed", 1)} if kind is fc.Dropout else {}
    typed = {"dtype": np.float64} if "dtype" in inspect.signature(kind).parameters else {}
    return kind(*first, **options, **typed)


def around(layer):
    ends = [fc.Linear(3, 4, seed=0, dtype=np.float64), fc.Linear(4, 2, seed=1, dtype=np.float64)]
    return fc.Sequential([ends[0], layer, ends[1]])


NOT_SIMPLE = {"Linear", "Tied", "Embedding", "NumericEmbedding", "Sequential", "Graph"}
NOT_SIMPLE |= {"BatchEnsemble", "LinearEnsemble", "MemberMean"}
SIMPLE = [kind for name, kind in files.LAYERS.items() if name not in NOT_SIMPLE]


def by_forward(net, optimizer, steps):
    for _ in range(steps):
        net.backward(net.forward(X) - Y)
        optimizer.step(net)


@pytest.mark.parametrize("way", [*WAYS, "forward"])
def test_options_of_layers_act(way):
    """`dropout.p = 0.6`, `norm.eps = 0.3`, `leaky.negative_slope = 0.4`, … were shown by repr, and the network that
    held the layer went on with the old number."""
    go, wrong = {**WAYS, "forward": by_forward}[way], []
    for kind in SIMPLE:
        for option in sorted({*attributes(kind, Option)} & {*inspect.signature(kind).parameters}):
            nets, optimizers = [around(made(kind)) for _ in range(3)], [fc.SGD(0.1) for _ in range(3)]
            for net, optimizer in zip(nets, optimizers, strict=True):
                go(net, optimizer, 2)
                net.predict(X)
            mine, other, same = nets
            setattr(mine[1], option, OF_LAYERS[option])
            twin = around(made(kind, **{option: OF_LAYERS[option]}))
            twin.params, twin.buffers, twin.rng_step = other.params, other.buffers, other.rng_step
            for net, optimizer in ((mine, optimizers[0]), (twin, optimizers[1]), (same, optimizers[2])):
                optimizer.reset()
                go(net, optimizer, 2)
            mine, twin, same = (
                np.concatenate([net.params, net.buffers, net.predict(X).ravel()]) for net in (mine, twin, same)
            )
            if not np.array_equal(mine, twin):
                wrong.append((kind.__name__, option, "not as if it had been made so"))
            if np.array_equal(mine, same) and option not in ("name", "dim"):
                wrong.append((kind.__name__, option, "does nothing"))
    assert not wrong, "\n".join(map(str, wrong))


def test_attributes_of_layers_are_options_or_refuse():
    """Whatever a layer is made with and keeps is an option, which acts, or says that it can't be changed."""
    encoder = fc.Linear(3, 4)
    a = fc.Input(3)
    layers = [made(kind) for kind in SIMPLE] + [
        encoder,
        fc.Tied(encoder),
        fc.Embedding(5, 2),
        made(fc.NumericEmbedding),
        fc.MLP([2, 2]),
    ]
    square = njit(lambda x: x * x)
    layers += [fc.Graph(a, fc.ReLU()(a)), fc.Elementwise(square, square)]
    for layer in layers:
        kind = type(layer)
        for name in [*inspect.signature(kind).parameters, "in_features", "out_features", "layers"]:
            if name in ("dtype", "init", "bias_init", "features") or not hasattr(layer, name):
                continue
            found = inspect.getattr_static(kind, name, None)
            assert name in kind._fixed or isinstance(found, Option | property), (kind, name)
        for name in kind._fixed:
            before = getattr(layer, name)
            if before is None:
                continue
            with pytest.raises(AttributeError, match=f"{name} is fixed: {re.escape(kind._fixed[name])}"):
                setattr(layer, name, before)
            assert getattr(layer, name) is before
        if isinstance(layer, fc.nn.activations.Activation) and type(layer) is not fc.GELU:
            with pytest.raises(AttributeError, match="its name says which function it is"):
                layer.name = "tanh"


def test_a_wrong_option_of_a_layer_changes_nothing():
    for layer, option, value in [
        (fc.Hardtanh(-1, 1), "min_val", 2),
        (fc.Hardtanh(-1, 1), "max_val", "3"),
        (fc.CELU(2), "alpha", 0),
        (fc.Dropout(0.5, seed=0), "p", 2),
        (fc.BatchNorm1d(3), "momentum", -1),
        (fc.LayerNorm(3), "eps", np.nan),
        (fc.GELU(), "approximate", "fast"),
        (fc.Softmax(), "dim", 0),
        (fc.Linear(2, 2), "name", 3),
    ]:
        before, name = repr(layer), type(layer).__name__
        with pytest.raises((TypeError, ValueError), match=f"{name}: .*{option}|alpha|min_val"):
            setattr(layer, option, value)
        assert repr(layer) == before


def test_names_of_layers_are_those_of_the_next_step():
    """A group's pattern was compared with the names at the first step."""
    net = fc.MLP([2, 3, 1], seed=0)
    net.train_step([[1, 2]], [[3]], LOSS, fc.SGD())
    net[0].name = "encoder"
    before = net[0].weight.copy()
    net.train_step([[1, 2]], [[3]], LOSS, fc.SGD(groups={"encoder.*": {"frozen": True}}))
    assert_array_equal(net[0].weight, before)


@pytest.mark.parametrize("name, given, last, targets", LOSSES)
def test_losses_refuse_changes(name, given, last, targets):
    """`loss.weight[0] = 5` changed what repr showed, and nothing else; after a pickle too."""
    for loss in (getattr(fc, name)(**given), pickle.loads(pickle.dumps(getattr(fc, name)(**given)))):
        for attribute in [*inspect.signature(type(loss)).parameters, "code", "reduction"]:
            value = getattr(loss, attribute)
            with pytest.raises(AttributeError, match="a loss can't be changed; make a new one"):
                setattr(loss, attribute, value)
            if isinstance(value, np.ndarray):
                with pytest.raises(ValueError, match="read-only"):
                    value[0] = 5.0


def test_groups_are_read_only():
    """`optimizer.groups["*.bias"] = …` changed a copy."""
    optimizer = fc.Adam(groups={"*.bias": {"lr": 0.1}})
    with pytest.raises(TypeError, match="does not support item assignment"):
        optimizer.groups["*.weight"] = {"lr": 1.0}
    with pytest.raises(TypeError, match="does not support item assignment"):
        optimizer.groups["*.bias"]["lr"] = 1.0
    assert optimizer.groups == {"*.bias": {"lr": 0.1}}
    assert repr(optimizer).endswith("groups={'*.bias': {'lr': 0.1}})")


# One optimizer, one network

EVERY = [(name, {}) for name in files.OPTIMIZERS]
EVERY += [("SGD", {"momentum": 0.9}), ("SGD", {"average": 0.9}), ("SGD", {"schedule": fc.CosineAnnealingLR(9)})]
EVERY += [("SGD", {"schedule": fc.ReduceLROnPlateau(patience=0, threshold=0.9)})]
USES = {
    "fit": lambda net, o: net.fit(X, Y, loss=LOSS, optimizer=o, epochs=3, batch_size=4, seed=0),
    "train_step": lambda net, o: [net.train_step(X, Y, LOSS, o) for _ in range(3)],
    "step": lambda net, o: (net.backward(net.forward(X) - Y), o.step(net)),
    "nopython": by_nopython,
    "find_lr": lambda net, o: net.find_lr(X, Y, LOSS, o, steps=5, batch_size=4, seed=0),
    "save": lambda net, o: net.save("net.safetensors", optimizer=o),
}


@pytest.mark.parametrize("name, given", EVERY)
def test_a_second_fold_is_refused_or_as_with_a_new_optimizer(name, given):
    """The second fold began with the first one's moments, step count and learning rate, if the sizes were equal."""
    kind = files.OPTIMIZERS[name]
    optimizer, first, second, third = kind(**given), net(), net(1), net(1)
    USES["fit"](first, optimizer)
    USES["fit"](third, kind(**given))
    try:
        USES["fit"](second, optimizer)
    except ValueError as error:
        assert "use a new optimizer for each network, or call optimizer.reset()" in str(error)
        assert_array_equal(second.params, net(1).params)
        optimizer.reset()
        USES["fit"](second, optimizer)
    else:
        assert not optimizer._remembers
    assert_array_equal(second.params, third.params)
    assert second.history.rows[0]["lr"] == third.history.rows[0]["lr"] and second.history.rows[0]["epoch"] == 1


@pytest.mark.parametrize("use", USES)
def test_a_second_network_is_refused_everywhere(use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    optimizer, first, second = fc.Adam(), net(), net(1)
    first.train_step(X, Y, LOSS, optimizer)
    state, count = optimizer.state.copy(), optimizer.count.copy()
    with pytest.raises(ValueError, match="another network"):
        USES[use](second, *([optimizer] if use != "nopython" else [optimizer, 1]))
    with pytest.raises(ValueError, match="another network"):
        second.reserve(10)
        train(second, X, Y, LOSS, optimizer, 1)
    assert_array_equal(second.params, net(1).params)
    assert_array_equal(optimizer.state, state)
    assert_array_equal(optimizer.count, count)
    first.train_step(X, Y, LOSS, optimizer)  # and goes on with its own
    del first
    with pytest.raises(ValueError, match="another network"):
        second.train_step(X, Y, LOSS, optimizer)


@pytest.mark.parametrize("how", ["pickled", "copied", "saved", "pickled apart", "copied apart", "part of another"])
def test_copies_go_on_together(how, tmp_path):
    first, optimizer = net(), fc.Adam(0.1)
    first.train_step(X, Y, LOSS, optimizer)
    its = first, optimizer
    if how == "pickled":
        its = pickle.loads(pickle.dumps(its))
    elif how == "copied":
        its = copy.deepcopy(its)
    elif how == "saved":
        first.save(tmp_path / "net.safetensors", optimizer=optimizer)
        its = fc.load_checkpoint(tmp_path / "net.safetensors")[:2]
    elif how == "pickled apart":
        its = tuple(pickle.loads(pickle.dumps(part)) for part in its)
    elif how == "copied apart":
        its = tuple(copy.deepcopy(part) for part in its)
    elif how == "part of another":
        whole = fc.Sequential([first])
        assert whole[0] is first
    expected, its_optimizer = copy.deepcopy(first), copy.deepcopy(optimizer)
    its[0].train_step(X, Y, LOSS, its[1])
    expected.train_step(X, Y, LOSS, its_optimizer)
    assert_array_equal(its[0].params, expected.params)
    with pytest.raises(ValueError, match="another network"):
        net(2).train_step(X, Y, LOSS, its[1])


def test_an_optimizer_that_had_no_step_serves_any():
    optimizer = fc.Adam()
    optimizer.prepare(fc.MLP([2, 2]))
    with pytest.raises(ValueError, match="x has shape"):
        fc.MLP([7, 2]).train_step(X, Y, LOSS, optimizer)
    mine, other = net(), net()
    mine.train_step(X, Y, LOSS, optimizer)
    other.train_step(X, Y, LOSS, fc.Adam())
    assert_array_equal(mine.params, other.params)


def test_parameters_are_not_for_optimizers():
    """`fc.Adam(net.params, lr=0.1)`, as PyTorch has it, got "multiple values for argument 'lr'"."""
    first = net()
    for name, kind in files.OPTIMIZERS.items():
        for given in (first.params, first, first.named_parameters(), iter([first.params])):
            for options in ({}, {"lr": 0.1}):
                with pytest.raises(TypeError, match=f"{name}: an optimizer is made without parameters.*net.fit"):
                    kind(given, **options)
