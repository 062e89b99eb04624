"""What may be assigned to our objects, and what they say of names that there are not."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import attributes
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastfc as fc

KINDS = {kind.__name__: kind for kind in attributes.classes()}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def net_of_all():
    return fc.Sequential([fc.Linear(3, 4, seed=0), fc.BatchNorm1d(4), fc.Embedding(9, 2, 4, seed=0), fc.Linear(8, 2)])


def test_wrong_values_are_refused_or_act():
    """`net.params = np.zeros(3)` let kernels read and write foreign memory: the process ended, or numbers were random.

    Everything else that was assigned was kept and ignored.
    """
    script = Path(__file__).parent / "attributes.py"
    found = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False)
    assert (found.returncode, found.stdout) == (0, "done\n"), found.stderr


def arrays_of(thing):
    """Names of the arrays that an object hands out and that can be assigned, with and without an owner."""
    names = [name for name in dir(type(thing)) if isinstance(getattr(type(thing), name), property)]
    return [name for name in names if not name.startswith("_") and isinstance(getattr(thing, name), np.ndarray)]


def owners():
    net, optimizer = net_of_all(), fc.Adam()
    nested = fc.Sequential([net, fc.Tanh()])
    optimizer.step(nested)
    alone = [fc.Linear(3, 2), fc.Tied(fc.Linear(3, 2)), fc.Standardize(3), fc.LayerNorm(3), fc.RMSNorm(3)]
    return [nested, net, *net.layers, *alone, optimizer]


def test_assigning_an_array_copies_into_place():
    """`net.params = net.params * 0.99` left weights, files and summaries at the old vector."""
    for owner in owners():
        for name in arrays_of(owner):
            place, values = getattr(owner, name), getattr(owner, name) + 1
            if not place.size:
                continue
            setattr(owner, name, values)
            assert getattr(owner, name).ctypes.data == place.ctypes.data
            assert_array_equal(place, values)
            setattr(owner, name, values.tolist())
            for wrong in (
                values[..., :-1],
                values.ravel()[None, :-1],
                values.astype(complex),
                values.astype(object),
                None,
                "a",
            ):
                with pytest.raises((TypeError, ValueError), match=name):
                    setattr(owner, name, wrong)
            assert_array_equal(getattr(owner, name), values)
            with pytest.raises(AttributeError, match=name):
                delattr(owner, name)


def test_parameters_reach_everything(tmp_path):
    net = net_of_all()
    net.params *= 0.5
    net.params = net.params * 2
    half = 0.5 * net.params
    net.params = half
    assert_array_equal(np.concatenate([p.ravel() for _, p, _ in net.named_parameters()]), half)
    net.save(tmp_path / "net.safetensors")
    assert_array_equal(fc.load(tmp_path / "net.safetensors").params, half)
    net.grads = np.ones_like(half)
    assert (net[0].weight_grad == 1).all()
    fc.SGD(1.0).step(net)
    assert_array_equal(net[3].bias, half[-2:] - 1)


def test_the_state_of_an_optimizer():
    net, optimizer = fc.MLP([3, 2], seed=0), fc.Adam()
    x, y = np.ones((2, 3)), np.ones((2, 2))
    with pytest.raises(ValueError, match=r"Adam: state must be \(vectors, parameters\)"):
        optimizer.state = np.zeros(8)
    for _ in range(2):
        net.train_step(x, y, fc.MSELoss(), optimizer)
    state, count, twin, other = optimizer.state.copy(), optimizer.count.copy(), copy.deepcopy(net), fc.Adam()
    for _ in range(2):
        net.train_step(x, y, fc.MSELoss(), optimizer)
    after = net.params.copy()
    # of the same optimizer, whose arguments the network has at hand, and of another one
    for again in (optimizer, other):
        net.params, again.state, again.count = twin.params, state, count
        for _ in range(2):
            net.train_step(x, y, fc.MSELoss(), again)
        assert_array_equal(net.params, after)
    for wrong in ([1], [1.5, 0], [-1, 0], None, "ab"):
        with pytest.raises((TypeError, ValueError), match="Adam: count"):
            optimizer.count = wrong
    for name in ("hyper", "segments", "code", "full_batch"):
        with pytest.raises(AttributeError, match=f"Adam: {name} is fixed"):
            setattr(optimizer, name, getattr(optimizer, name))


NEAR = {
    fc.MLP: {"param": "params", "grad_s": "grads", "n_thread": "n_threads", "freeze": "frozen", "Params": "params"},
    fc.Sequential: {"learning_rate": "Adam", "lr": "Adam"},
    fc.Linear: {"weights": "weight", "biases": "bias", "in_feature": "in_features", "weightgrad": "weight_grad"},
    fc.BatchNorm1d: {"runing_mean": "running_mean", "momentun": "momentum", "running_variance": "running_var"},
    fc.Dropout: {"seeds": "seed"},
    fc.Adam: {"learning_rate": "lr", "beta": "betas", "weightdecay": "weight_decay", "ams_grad": "amsgrad", "LR": "lr"},
    fc.SGD: {"momentun": "momentum", "nestrov": "nesterov", "clipnorm": "clip_norm", "group": "groups"},
    fc.CrossEntropyLoss: {"labelsmoothing": "label_smoothing", "weights": "weight", "reductions": "reduction"},
    fc.HuberLoss: {"Delta": "delta"},
    fc.StepLR: {"stepsize": "step_size", "gama": "gamma", "units": "unit"},
    fc.EarlyStopping: {"patient": "patience", "monitors": "monitor", "mindelta": "min_delta"},
    fc.History: {"losses": "loss", "val_losses": "val_loss", "row": "rows"},
    fc.Accuracy: {},
    fc.KaimingNormal: {"modes": "mode", "non_linearity": "nonlinearity"},
}


@pytest.mark.parametrize("kind", NEAR, ids=lambda kind: kind.__name__)
def test_a_misspelt_attribute_names_the_nearest(kind):
    """`opt.learning_rate = 3`, `layer.weights = …`, `loss.labelsmoothing = 0.1` were kept and ignored."""
    arguments = {"MLP": ([3, 2],), "BatchNorm1d": (3,)}.get(kind.__name__)
    thing = kind(*arguments) if arguments else attributes.maker(kind)()
    for name, nearest in NEAR[kind].items():
        with pytest.raises(AttributeError, match=f"{name}.*{nearest}"):
            setattr(thing, name, 3)
        assert not hasattr(thing, name)
    with pytest.raises(AttributeError, match=f"{type(thing).__name__} has no attribute 'zzzz'$"):
        thing.zzzz = 1


@every_kind
def test_no_class_takes_any_attribute(kind):
    thing = attributes.maker(kind)()
    with pytest.raises(AttributeError, match="qwertz"):
        thing.qwertz = 1
    assert not hasattr(thing, "qwertz")
    thing_again = copy.copy(thing)
    assert type(thing_again) is kind and type(copy.deepcopy(thing)) is kind
    if kind.__name__ not in ("Elementwise", "CustomLoss", "Run"):
        assert type(pickle.loads(pickle.dumps(thing))) is kind


@every_kind
def test_classes_of_yours_have_attributes_of_their_own(kind):
    """A subclass of a loss could set none once it was made."""

    class Mine(kind):
        pass

    thing = object.__new__(Mine)
    vars(thing).update(vars(attributes.maker(kind)()))
    for value in (1, 2):
        thing.of_mine = value
    assert thing.of_mine == 2
    del thing.of_mine
    assert not hasattr(thing, "of_mine")


FIXED = [
    (net_of_all, "layers", ()), (net_of_all, "in_features", 3), (net_of_all, "dtype", np.float64),
    (net_of_all, "predict", print), (lambda: fc.Linear(3, 2), "in_features", 3), (lambda: fc.ReLU(), "in_features", 3),
    (lambda: fc.ReLU(), "name", "tanh"), (attributes.graph, "nodes", ()),
    (lambda: fc.Tied(fc.Linear(2, 3)), "layer", fc.Linear(2, 3)), (lambda: fc.Embedding(3, 2), "num_embeddings", 9),
    (lambda: attributes.graph().nodes[1], "inputs", ()),
    (lambda: fc.MSELoss(), "reduction", "sum"), (lambda: fc.StepLR(2), "gamma", 0.5), (lambda: fc.TopK(2), "k", 3),
]  # fmt: skip


@pytest.mark.parametrize("make, name, value", FIXED, ids=lambda value: value if isinstance(value, str) else None)
def test_what_is_fixed_says_so(make, name, value):
    thing = make()
    with pytest.raises(AttributeError, match=rf"{name} |{name}:|a loss can't be changed"):
        setattr(thing, name, value)


OPTIONS = [
    (lambda: fc.LeakyReLU(0.5), "negative_slope", 0.25, "a"), (lambda: fc.ELU(), "alpha", 2.0, np.inf),
    (lambda: fc.CELU(), "alpha", 2.0, 0), (lambda: fc.Softplus(), "beta", 2.0, -1),
    (lambda: fc.Softplus(), "threshold", -2.0, np.nan), (lambda: fc.LayerNorm(4), "eps", 0.5, -1),
    (lambda: fc.RMSNorm(4), "eps", 0.5, "a"), (lambda: fc.BatchNorm1d(4), "eps", 0.5, None),
    (lambda: fc.BatchNorm1d(4), "momentum", 0.5, 2), (lambda: fc.Dropout(0.5, seed=0), "p", 0.25, 1.5),
    (lambda: fc.Dropout(0.5, seed=0), "seed", 7, -1),
]  # fmt: skip


@pytest.mark.parametrize(
    "make, name, value, wrong", OPTIONS, ids=lambda value: value if isinstance(value, str) else None
)
def test_an_option_of_a_layer_acts_in_all_networks_around_it(make, name, value, wrong):
    """The network went on with the program of before; with another batch width, or after a copy, with the new one."""
    x, y = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32), np.ones((8, 2), np.float32)
    losses = []
    for late in (True, False):
        layer = make()
        inner = fc.Sequential([fc.Linear(3, 4, seed=0), layer])
        net = fc.Sequential([inner, fc.Linear(4, 2, seed=1)])
        if late:
            net.train_step(x, y, fc.MSELoss(), fc.SGD(1e-30))
            for part in (net, inner, layer):
                part.predict(x if part is not layer else np.ones((2, 4), np.float32))
            net.rng_step = 0  # masks of Dropout are numbered from there
            if isinstance(layer, fc.BatchNorm1d):
                layer.running_mean, layer.running_var = np.zeros(4), np.ones(4)
        setattr(layer, name, value)
        with pytest.raises((TypeError, ValueError), match=name):
            setattr(layer, name, wrong)
        assert getattr(layer, name) == (fc.Dropout(seed=value).seed if name == "seed" else value)
        optimizer = fc.SGD(0.1)
        losses.append(
            [net.train_step(x, y, fc.MSELoss(), optimizer) for _ in range(3)] + net.predict(x).ravel().tolist()
        )
    assert losses[0] == losses[1]


def test_arrays_of_a_loss_are_read_only():
    """`loss.weight[0] = 5` changed a copy that nothing reads."""
    for loss, name in (
        (fc.CrossEntropyLoss(weight=[1, 2]), "weight"),
        (fc.BCEWithLogitsLoss(pos_weight=[1, 2]), "pos_weight"),
    ):
        with pytest.raises(ValueError, match="read-only"):
            getattr(loss, name)[0] = 5


TORCH = {
    "net": "cuda cpu to half bfloat16 float double eval train training zero_grad grad parameters state_dict "
    "load_state_dict requires_grad_ requires_grad modules children named_modules apply register_forward_hook "
    "register_buffer append add_module compile",
    "optimizer": "zero_grad param_groups add_param_group state_dict load_state_dict minimize",
    "loss": "backward item forward to cuda",
    "fc": "no_grad enable_grad inference_mode functional tensor Tensor from_numpy device cuda manual_seed "
    "save utils DataLoader Module Dense compile",
}


@pytest.mark.parametrize("whose", TORCH)
def test_names_of_pytorch_say_what_to_do_here(whose):
    """They were "object has no attribute"."""
    thing = {"net": fc.MLP([3, 2]), "optimizer": fc.Adam(), "loss": fc.MSELoss(), "fc": fc}[whose]
    for name in TORCH[whose].split():
        with pytest.raises(AttributeError, match=rf"has no attribute '{name}': \w.{{15,}}"):
            getattr(thing, name)
        assert not hasattr(thing, name) and getattr(thing, name, None) is None
    for name in ("__array__", "_repr_png_", "_numba_type_", "__dataframe__"):
        with pytest.raises(AttributeError, match="has no attribute"):
            getattr(thing, name)
    for layer in (fc.ReLU(), fc.Linear(2, 3), fc.BatchNorm1d(3)):
        with pytest.raises(AttributeError, match="there is no mode to set"):
            layer.eval()


@pytest.mark.parametrize("package", [fc.nn, fc.optim])
def test_packages_say_where_to_look(package):
    """`fc.nn.Linear` and `fc.optim.Adam` are what a user of PyTorch tries first."""
    with pytest.raises(AttributeError, match=r"has no attribute 'Linear': .* fc\.Linear"):
        package.Linear  # noqa: B018


def test_hints_do_not_name_what_there_is():
    from fastfc import attributes as ours

    for hints, things in (
        (ours.OF_LAYERS, [net_of_all(), fc.Linear(3, 2), fc.ReLU(), attributes.graph()]),
        (ours.OF_NETWORKS, [net_of_all(), attributes.graph()]),
        (ours.OF_OPTIMIZERS, [fc.SGD(), fc.LBFGS()]),
        (ours.OF_LOSSES, [fc.MSELoss(), fc.CrossEntropyLoss()]),
        (ours.OF_FASTFC, [fc]),
    ):
        assert not [name for thing in things for name in hints if name in dir(thing)]
