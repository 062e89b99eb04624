import inspect
import os
import pathlib
import pickle
import warnings
from collections import OrderedDict
from itertools import pairwise, permutations

import numpy as np
import pytest
from arrays import normal
from examples import ACTIVATIONS, MORE_LAYERS, OF_FEATURES, ids
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import save_file

import fastfc as fc
from fastfc.io import checkpoint as files
from fastfc.io import torch as to_torch

torch = pytest.importorskip("torch")
nn = torch.nn

DTYPES = [torch.float32, torch.float64]
TORCH = [row for row in ACTIVATIONS if row[0] != "Elementwise"]


def arguments(name, settings):
    return settings | ({"dim": -1} if name.endswith("Softmax") or name == "Softmax" else {})


def tolerance(dtype):
    return {"rtol": 1e-6, "atol": 1e-6} if dtype in (torch.float32, np.float32) else {"rtol": 1e-12, "atol": 1e-12}


def samples(dtype, n=9, width=5, seed=0):
    return torch.from_numpy(normal((n, width), np.float64, seed)).to(dtype)


def draw(module):
    """Numbers of everything that starts at 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return module


def assert_equal(module, net, dtype):
    """Outputs, and in training gradients, of everything, and what batch norm keeps."""
    numpy_dtype = str(dtype).removeprefix("torch.")
    assert net.dtype in (numpy_dtype, None)
    x = samples(dtype)
    module.eval()
    assert_allclose(net.predict(x.numpy()), module(x).detach().numpy(), **tolerance(dtype))

    module.train()
    x.requires_grad_()
    output = module(x)
    g = samples(dtype, width=output.shape[1], seed=1)
    output.backward(g)
    assert_allclose(net.forward(x.detach().numpy()), output.detach().numpy(), **tolerance(dtype))
    assert_allclose(net.backward(g.numpy()), x.grad.numpy(), rtol=1e-5, atol=1e-6 if dtype == torch.float32 else 1e-12)
    parameters = dict(module.named_parameters())
    ours = net.named_parameters()
    assert len(parameters) == len(ours)
    for (_, _, grad), parameter in zip(ours, parameters.values(), strict=True):
        expected = parameter.grad.numpy().T
        assert_allclose(grad, expected, rtol=1e-5, atol=1e-5 if dtype == torch.float32 else 1e-12)
    kept = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    for (_, values), buffer in zip(net.named_buffers(), kept, strict=True):
        assert_allclose(values, buffer.numpy(), **tolerance(dtype))


# as those of fastfc, but for arguments that older versions of PyTorch do not know
NORMS = [(name, {}) for name in OF_FEATURES if hasattr(nn, name)]
NORMS += [
    (name, {what: value for what, value in options.items() if what not in ("features", "name")})
    for name, options in MORE_LAYERS
    if (name, {}) in NORMS
    and options.keys() - {"features", "name"} <= inspect.signature(getattr(nn, name)).parameters.keys()
]


def of_features(name, options):
    return lambda d: nn.Sequential(getattr(nn, name)(5, **options, dtype=d), nn.Linear(5, 2, dtype=d))


# name, module of 5 inputs, by dtype
MODULES = {
    "Linear": lambda d: nn.Sequential(nn.Linear(5, 3, dtype=d)),
    "no bias": lambda d: nn.Sequential(nn.Linear(5, 3, bias=False, dtype=d), nn.Tanh()),
    **{f"{name} {i}": of_features(name, options) for i, (name, options) in enumerate(NORMS)},
    "features as a list": lambda d: nn.Sequential(nn.LayerNorm([5], dtype=d)),
    "Dropout of nothing": lambda d: nn.Sequential(nn.Dropout(0.0), nn.Linear(5, 3, dtype=d)),
    "Flatten": lambda d: nn.Sequential(nn.Flatten(), nn.Linear(5, 3, dtype=d), nn.Identity(), nn.Flatten(1, 1 - 2)),
    "nested": lambda d: nn.Sequential(
        nn.Sequential(nn.Linear(5, 4, dtype=d), nn.BatchNorm1d(4, dtype=d)),
        nn.Sequential(nn.Sequential(nn.SiLU(inplace=True)), nn.Sequential()),
        nn.Linear(4, 2, dtype=d),
        nn.LogSoftmax(dim=1),
    ),
    "a layer alone": lambda d: nn.Linear(5, 3, dtype=d),
    "a class of one's own": lambda d: Holder(nn.Sequential(nn.Linear(5, 3, dtype=d), nn.ReLU())),
    "classes in classes": lambda d: nn.Sequential(
        nn.Linear(5, 4, dtype=d), Holder(Holder(nn.Sequential(nn.BatchNorm1d(4, dtype=d))), lambda x: x.flatten(1))
    ),
    "compiled": lambda d: torch.compile(
        nn.Sequential(nn.Linear(5, 3, dtype=d), torch.compile(nn.Sequential(nn.Tanh()), backend="eager")),
        backend="eager",
    ),
}


def test_every_layer_has_a_module_or_is_said_to_have_none():
    without = [name for name in files.LAYERS if to_torch.counterpart(torch, name) is None]
    assert sorted(without) == sorted(to_torch.NO_MODULE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODULES)
def test_from_torch(name, dtype):
    module = draw(MODULES[name](dtype))
    net = fc.from_torch(module)
    assert isinstance(net, fc.Sequential)
    assert_equal(module, net, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODULES)
def test_there_and_back(name, dtype):
    module = draw(MODULES[name](dtype))
    twin = fc.from_torch(module).to_torch()
    assert not twin.training
    module.eval()
    x = samples(dtype)
    assert_allclose(twin(x).detach().numpy(), module(x).detach().numpy(), **tolerance(dtype))
    assert all(a.dtype == b.dtype for a, b in zip(twin.parameters(), module.parameters(), strict=True))
    assert_equal(twin, fc.from_torch(twin), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, settings", TORCH, ids=ids(TORCH))
def test_activations(name, settings, dtype):
    module = draw(
        nn.Sequential(nn.Linear(5, 5, dtype=dtype), to_torch.counterpart(torch, name)(**arguments(name, settings)))
    )
    with torch.no_grad():
        module[0].weight -= 0.6
    net = fc.from_torch(module)
    assert repr(net[1]) == repr(getattr(fc, name)(**settings))
    assert_equal(module, net, dtype)
    assert repr(net.to_torch()[1]) == repr(module[1])
    assert_equal(net.to_torch(), net, dtype)


def test_every_layer_is_known_or_refused_by_name():
    from fastfc.io.torch import KINDS
    from fastfc.nn.activations import Activation
    from fastfc.nn.layer import Layer

    layers = {
        name for name in fc.__all__ if isinstance(getattr(fc, name), type) and issubclass(getattr(fc, name), Layer)
    }
    assert layers == set(KINDS) | {"Tied", "Elementwise", "Graph", "Sequential"}
    assert {name for name in layers if issubclass(getattr(fc, name), Activation)} - {"Elementwise"} <= set(KINDS)
    x, encoder, bent = fc.Input(4), fc.Linear(4, 2), lambda: fc.Elementwise(**dict(ACTIVATIONS)["Elementwise"])
    for layers, message in [
        ([encoder, fc.Tied(encoder)], r"1 \(Tied\(Linear\(4, 2\)\)\)"),
        ([fc.ReLU(), fc.Graph(x, x + bent()(x))], r"1.0 \(Elementwise\(square, twice\)\)"),
        ([bent()], r"0 \(Elementwise\(square, twice\)\)"),
    ]:
        with pytest.raises(TypeError, match=f"to_torch: PyTorch has no module for {message}"):
            fc.Sequential(layers).to_torch()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_to_torch(dtype):
    layers = [fc.Linear(5, 4, seed=0, dtype=dtype), fc.BatchNorm1d(4, dtype=dtype), fc.ReLU(), fc.Dropout(0.4)]
    net = fc.Sequential([fc.Sequential(layers), fc.LayerNorm(4, dtype=dtype), fc.Linear(4, 2, False, dtype=dtype)])
    x, y = normal((9, 5), dtype, 0), normal((9, 2), dtype, 1)
    net.fit(x, y, loss=fc.MSELoss(), optimizer=fc.Adam(0.1), epochs=3, seed=0)
    state = torch.random.get_rng_state()
    module = net.to_torch()
    assert torch.equal(state, torch.random.get_rng_state())
    assert_allclose(module(torch.from_numpy(x)).detach().numpy(), net.predict(x), **tolerance(dtype))
    assert [type(part).__name__ for part in module.modules() if not isinstance(part, nn.Sequential)] == [
        "Linear",
        "BatchNorm1d",
        "ReLU",
        "Dropout",
        "LayerNorm",
        "Linear",
    ]
    assert module[0][3].p == 0.4 and module[2].bias is None
    before = net.predict(x)
    with torch.no_grad():
        module[2].weight += 1
    assert_array_equal(net.predict(x), before)  # copies


def test_names_and_frozen_layers():
    inner = nn.Sequential(OrderedDict(fc1=nn.Linear(3, 3), act=nn.ReLU(), norm=nn.BatchNorm1d(3, affine=False)))
    module = nn.Sequential(OrderedDict(inner=inner, fc2=nn.Linear(3, 2), head=nn.Linear(2, 2)))
    module.fc2.requires_grad_(False)
    module.head.bias.requires_grad_(False)
    net = fc.from_torch(module)
    names = ["inner.fc1.weight", "inner.fc1.bias", "fc2.weight", "fc2.bias", "head.weight", "head.bias"]
    assert [name for name, _, _ in net.named_parameters()] == names
    assert [layer.frozen for layer in net] == [False, True, False]
    assert not any(layer.frozen for layer in net[0])
    back = net.to_torch()
    assert [name for name, _ in back.named_parameters()] == names
    assert [parameter.requires_grad for parameter in back.parameters()] == [True, True, False, False, True, True]
    module.load_state_dict({name: values for name, values in back.state_dict().items()}, strict=False)
    net.frozen = True
    assert not any(parameter.requires_grad for parameter in net.to_torch().parameters())

    layers = [fc.Linear(2, 2, name=name) for name in ("1", "a.b", "forward", "same", "same", "ok")]
    assert [name for name, _ in fc.Sequential(layers).to_torch().named_children()] == ["0", "1", "2", "same", "4", "ok"]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x):
        return x + self.inner(x)


class Holder(nn.Module):
    """Runs a chain that it holds, and what else it is told to."""

    def __init__(self, net, first=lambda x: x, then=lambda y: y, **more):
        super().__init__()
        self.net, self.first, self.then, self.drop = net, first, then, nn.Dropout()
        for name, part in more.items():
            setattr(self, name, part)

    def forward(self, *x):
        return self.then(self.net(self.first(*x)))


class Chain(nn.Sequential):
    pass


class Backwards(nn.Sequential):
    def forward(self, x):
        for part in reversed(self):
            x = part(x)
        return x


def hooked():
    module = nn.Linear(3, 3)
    module.register_forward_hook(lambda *_: None)
    return module


def patched():
    module = nn.Linear(3, 3)
    module.forward = lambda x: x
    return module


class Sub(nn.Linear):
    pass


REFUSED = {
    "others": (lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.Linear(2, 2)), r"0 \(Conv2d, which has no counterpart\)"),
    "all of them": (
        lambda: nn.Sequential(nn.GLU(), nn.Sequential(nn.ReLU(), nn.Softmin(1))),
        r"0 \(GLU, which has no counterpart\), 1.1 \(Softmin, which has no counterpart\)",
    ),
    "unknown order": (lambda: nn.Sequential(nn.Linear(3, 3), Block()), r"1 \(Block, which has no counterpart\)"),
    "alone": (Block, r"0 \(Block, which has no counterpart\)"),
    "a list": (lambda: nn.ModuleList([nn.Linear(2, 2)]), r"0 \(ModuleList"),
    "a chain with code": (lambda: Backwards(nn.Linear(2, 2), nn.ReLU()), r"0 \(Backwards"),
    "a subclass": (lambda: Sub(3, 3), r"0 \(Sub"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), r"0 \(LazyLinear"),
    "embedding": (lambda: nn.Sequential(nn.Embedding(3, 3)), r"0 \(Embedding"),
    "softmax of the batch": (lambda: nn.Softmax(dim=0), r"0 \(Softmax, along axis 0\)"),
    "log-softmax of the batch": (lambda: nn.LogSoftmax(dim=-2), r"0 \(LogSoftmax, along axis -2\)"),
    "norm of two axes": (lambda: nn.LayerNorm([2, 3]), r"0 \(LayerNorm, over the axes \(2, 3\)\)"),
    "flatten everything": (lambda: nn.Flatten(0), r"0 \(Flatten, from axis 0 to -1\)"),
    "hook": (hooked, r"0 \(Linear, whose hooks are code\)"),
    "hook of a chain": (lambda: hook_of_chain(), r"the module \(Sequential, whose hooks are code\)"),
    "parametrized others": (lambda: nn.utils.parametrizations.weight_norm(nn.Conv1d(1, 1, 3)), "ParametrizedConv1d"),
    "parametrized by a hook": (lambda: hooked_norm(), r"0 \(Linear, whose hooks are code\)"),
    "more than its chain": (
        lambda: Holder(nn.Sequential(nn.Linear(5, 3)), then=torch.tanh),
        r"0 \(Holder, which does more",
    ),
    "before its chain": (lambda: Holder(nn.Sequential(nn.Linear(5, 3)), first=lambda x: 2 * x), "which does more"),
    "cut": (lambda: Holder(nn.Sequential(nn.Linear(5, 3)), then=lambda y: y.clamp(-1e6, 1e6)), "which does more"),
    "cut below": (
        lambda: Holder(nn.Sequential(nn.Linear(5, 3)), first=lambda x: x.clamp_min(-1e-3)),
        "which does more",
    ),
    "several outputs": (lambda: Holder(nn.Sequential(nn.Linear(5, 3)), then=lambda y: (y, y)), "which does more"),
    "several inputs": (lambda: Holder(nn.Sequential(nn.Linear(5, 3)), first=lambda x, z: x), "which does more"),
    "an output in double": (lambda: Holder(nn.Sequential(nn.Linear(5, 3)), then=lambda y: y.double()), "does more"),
    "held and not converted": (
        lambda: nn.Sequential(nn.ReLU(), Holder(nn.Sequential(nn.Linear(5, 3), nn.GLU()))),
        r"1.1 \(GLU, which has no counterpart\)",
    ),
    "held and hooked": (lambda: hook_of(Holder(nn.Sequential(nn.Linear(5, 3)))), r"0 \(Holder, whose hooks are code"),
    "two chains": (
        lambda: Holder(nn.Sequential(nn.ReLU()), more=nn.Sequential(nn.ReLU())),
        r"0 \(Holder, which has no",
    ),
    "another forward": (patched, r"0 \(Linear, whose hooks are code\)"),
    "half": (lambda: nn.Linear(3, 3).half(), r"0 \(Linear, of torch.float16: module.float\(\) is of float32\)"),
    "bfloat16": (lambda: nn.BatchNorm1d(3, dtype=torch.bfloat16), "of torch.bfloat16"),
    "no data": (lambda: nn.Linear(3, 3, device="meta"), "on the device meta"),
    "no module": (lambda: {"0.weight": 1}, "give a torch.nn.Sequential, got {'0.weight': 1}"),
}


def hook_of(module):
    module.register_forward_pre_hook(lambda *_: None)
    return module


def hook_of_chain():
    return hook_of(nn.Sequential(nn.Linear(2, 2)))


def hooked_norm():
    return hook_of(old_norm(nn.utils.weight_norm)(nn.Linear(3, 3)))


def old_norm(norm):
    """A way to normalise weights that PyTorch advises against."""

    def act(module, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return norm(module, **options)

    return act


@pytest.mark.parametrize("name", REFUSED)
def test_modules_that_are_refused(name):
    make, message = REFUSED[name]
    with pytest.raises(TypeError, match=message):
        fc.from_torch(make())


def test_modules_that_are_there_twice():
    act, layer = nn.ReLU(), nn.Linear(5, 5)
    module = Chain(layer, act, nn.Linear(5, 5), act)
    assert repr(fc.from_torch(module)) == "Sequential([Linear(5, 5), ReLU(), Linear(5, 5), ReLU()])"
    with pytest.raises(TypeError, match=r"2 \(Linear, which shares its parameters with another\)"):
        fc.from_torch(nn.Sequential(layer, act, layer))
    module[2].weight = layer.weight
    with pytest.raises(TypeError, match=r"2 \(Linear, which shares its parameters with another\)"):
        fc.from_torch(module)


def test_different_dtypes_and_widths_are_refused():
    with pytest.raises(ValueError, match=r"is float32, but layer 1, .* is float64"):
        fc.from_torch(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, dtype=torch.float64)))
    with pytest.raises(ValueError, match="gives 2 numbers per sample, but layer 1"):
        fc.from_torch(nn.Sequential(nn.Linear(2, 2), nn.Linear(3, 2)))


def test_training_goes_on_alike():
    module = draw(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2))).double()
    net, theirs = fc.from_torch(module), torch.optim.Adam(module.parameters(), lr=0.01)
    x, y, ours = samples(torch.float64), samples(torch.float64, width=2, seed=1), fc.Adam(lr=0.01)
    module.train()
    for _ in range(20):
        theirs.zero_grad()
        loss = nn.functional.mse_loss(module(x), y)
        loss.backward()
        theirs.step()
        assert_allclose(net.train_step(x.numpy(), y.numpy(), fc.MSELoss(), ours), loss.item(), rtol=1e-7)
    assert_allclose(net.predict(x.numpy()), module.eval()(x).detach().numpy(), rtol=1e-7)


# Weights by themselves.


def source_and_target():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4, bias=False)), nn.LayerNorm(4)
    )
    module = draw(module.append(nn.Linear(4, 4)))
    layers = [fc.Linear(5, 4, seed=0), fc.BatchNorm1d(4), fc.ReLU(), fc.Sequential([fc.Linear(4, 4, False, seed=1)])]
    return module.eval(), fc.Sequential([*layers, fc.LayerNorm(4), fc.Linear(4, 4, seed=2)])


def write(state, path):
    if path.suffix == ".safetensors":
        save_file({name: np.ascontiguousarray(values.numpy()) for name, values in state.items()}, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("ending", [None, "arrays", ".pt", ".PTH", ".safetensors"])
def test_load_state_dict(ending, tmp_path):
    module, net = source_and_target()
    source = module.state_dict()
    if ending == "arrays":
        source = {name: values.numpy() for name, values in source.items()}
    elif ending:
        source = write(source, tmp_path / f"weights{ending}")
    fc.load_state_dict(net, source)
    x = samples(torch.float32)
    assert_allclose(net.predict(x.numpy()), module(x).detach().numpy(), **tolerance(torch.float32))


def test_order_and_names(tmp_path):
    module, net = source_and_target()
    x, state = samples(torch.float32), module.state_dict()
    expected = module(x).detach().numpy()

    def assert_loads(net, source):
        net.params[:] = 0
        fc.load_state_dict(net, source)
        assert_allclose(net.predict(x.numpy()), expected, **tolerance(torch.float32))

    assert_loads(net, dict(reversed(state.items())))  # by name
    names = {"0": "a", "1": "b", "3.0": "z.c", "4": "d", "5": "e"}
    renamed = {f"{names[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": v for name, v in state.items()}
    assert_loads(net, renamed)  # in order
    assert_loads(net, {f"module.{name}": values for name, values in state.items()})
    assert_loads(net, write(renamed, tmp_path / "renamed.pt"))
    with pytest.raises(ValueError, match=r"keeps no order, and its names a, b, d, e, z\.c are neither the network's"):
        fc.load_state_dict(net, write(renamed, tmp_path / "renamed.safetensors"))
    for i, name in zip((0, 1, 4, 5), "abde", strict=True):
        net[i].name = name
    net[3].name, net[3][0].name = "z", "c"
    assert_loads(net, tmp_path / "renamed.safetensors")

    chain = nn.Sequential(*(nn.Linear(5, 5) for _ in range(12))).eval()
    expected = chain(x).detach().numpy()
    numbered = {f"layers.{name}": values for name, values in chain.state_dict().items()}
    twelve = fc.Sequential([fc.Linear(5, 5) for _ in range(12)])
    assert_loads(twelve, write(numbered, tmp_path / "layers.safetensors"))  # 10 comes after 9
    assert_loads(twelve, str(write(numbered, tmp_path / "layers.pth")))
    for layer in twelve:
        layer.name = "same"
    assert_loads(twelve, numbered)


def test_other_networks_and_dtypes():
    x = fc.Input(5)
    encoder = fc.Linear(5, 3)
    graph = fc.Graph(x, fc.Sequential([fc.Standardize(5)])(x) + fc.Tied(encoder, name="tied")(encoder(x)))
    values = {"enc.weight": torch.ones(3, 5).bfloat16(), "enc.bias": torch.ones(3).half(), "dec.bias": torch.arange(5)}
    fc.load_state_dict(graph, values)
    assert_array_equal(graph.predict(np.zeros(5)), 3 + np.arange(5))
    table = fc.Sequential([fc.Embedding(3, 2, 2)])
    fc.load_state_dict(table, nn.Embedding(3, 2).state_dict() | {"weight": torch.arange(6.0).reshape(3, 2)})
    assert_array_equal(table.predict([2, 0]), [4, 5, 0, 1])
    net = fc.MLP([2, 2], dtype=np.float64)
    fc.load_state_dict(net, {"weight": np.float32([[1, 2], [3, 4]]), "bias": np.int64([5, 6])})
    assert_array_equal(net[0].weight, [[1, 3], [2, 4]])
    assert net.dtype == np.float64
    fc.load_state_dict(net, {"weight": torch.eye(2).to_sparse(), "bias": torch.zeros(2)})
    assert_array_equal(net[0].weight, np.eye(2))


def test_mismatches_are_all_named_and_nothing_is_changed():
    module, net = source_and_target()
    before, good = net.params.copy(), module.state_dict()
    changed = {"0.weight": torch.zeros(5, 4), "5.bias": torch.zeros(3), "4.more": torch.zeros(1)}
    for source, error, parts in [
        (
            {name: v for name, v in (good | changed).items() if name != "1.running_var"},
            ValueError,
            [
                "does not match the network: 0.weight has shape (5, 4), Linear(5, 4) takes (4, 5)",
                "1.running_var is missing, BatchNorm1d(4) has it",
                "4.more is there, LayerNorm(4) has none",
                "5.bias has shape (3,), Linear(4, 4) takes (4,)",
            ],
        ),
        (
            {"0.weight": torch.zeros(4, 5)},
            ValueError,
            ["the dict has parameters for 1 modules (0), the network 5 (0, 1, 3.0, 4, 5)"],
        ),
        ({}, ValueError, ["for 0 modules"]),
        ({"state_dict": {}, "epoch": 3}, TypeError, ["state_dict is dict, no tensor"]),
        ({"a": good, "b": good, "epoch": 3}, ValueError, ["has several dicts of tensors; give one of 'a', 'b' alone"]),
        (good | {"more": good}, TypeError, ["more is OrderedDict, no tensor"]),
        (good | {"0.weight": torch.zeros(4, 5, dtype=torch.complex64)}, TypeError, ["0.weight has dtype complex64"]),
        (good | {"0.weight": [1, 2]}, TypeError, ["0.weight is list, no tensor"]),
        (module, TypeError, ["give module.state_dict() or a path, got Sequential"]),
        (good | {3: torch.zeros(1)}, TypeError, ["the dict has the key 3"]),
    ]:
        with pytest.raises(error) as found:
            fc.load_state_dict(net, source)
        for part in parts:
            assert part in str(found.value)
        assert_array_equal(net.params, before)
    with pytest.raises(TypeError, match="give a network such as"):
        fc.load_state_dict(fc.Linear(2, 2), {})


# Names of modules that differ only in numbers, of which 10 is sorted before 2.
NUMBERED = ["{}", "net.{}", "module.net.{}", "fc{}", "encoder.layers.{}.0", "_orig_mod.layers.{}.linear", "block_{}.fc"]


def orders_of(items):
    items = list(items)
    yield items
    yield sorted(items)
    yield items[::-1]
    for seed in range(3):
        yield np.random.default_rng(seed).permutation(np.array(items, object)).tolist()


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize("pattern", NUMBERED)
def test_numbers_in_names_are_the_order(pattern, as_file, tmp_path):
    """safetensors.torch.load_file sorts names: layer 10 was the second one, without a word."""
    torch.manual_seed(0)
    chain = nn.Sequential(*(nn.Linear(5, 5) for _ in range(12))).eval()
    x = samples(torch.float32)
    expected = chain(x).detach().numpy()
    state = chain.state_dict()
    state = {f"{pattern.format(name.partition('.')[0])}.{name.partition('.')[2]}": v for name, v in state.items()}
    for own_names in ["", "same"]:
        net = fc.Sequential([fc.Linear(5, 5, name=own_names or None) for _ in range(12)])
        for order in orders_of(state):
            net.params[:] = 0
            source = {name: state[name] for name in order}
            if as_file:
                source = write(source, tmp_path / "weights.safetensors")
            fc.load_state_dict(net, source)
            assert_allclose(net.predict(x.numpy()), expected, **tolerance(torch.float32))


def test_numbers_that_are_no_order():
    """Widths in names are none where they do not fit."""
    module = nn.Sequential(OrderedDict(fc256=nn.Linear(5, 4), fc64=nn.Linear(4, 3), fc128=nn.Linear(3, 2))).eval()
    net, x = fc.MLP([5, 4, 3, 2], "identity"), samples(torch.float32)
    for order in permutations(["fc256", "fc64", "fc128"]):
        source = {
            f"{name}.{own}": getattr(module, name).state_dict()[own] for name in order for own in ("bias", "weight")
        }
        fc.load_state_dict(net, source)
        assert_allclose(net.predict(x.numpy()), module(x).detach().numpy(), **tolerance(torch.float32))


@pytest.mark.parametrize("sizes", [(5, 4, 3, 5, 2), (5, 5, 5, 5, 5), (5, 4, 4, 4, 3), (5, 4, 5, 4, 2)], ids=str)
@pytest.mark.parametrize("names", [("enc", "mid.a", "mid.b", "head"), ("fc1", "fc2", "fc10", "out")], ids=str)
def test_orders_are_right_or_refused(names, sizes):
    """All orders of the modules of a dict: what might go into several layers went into those in its order."""
    torch.manual_seed(0)
    parts = [nn.Linear(*pair) for pair in pairwise(sizes)]
    x, refused = samples(torch.float32), []
    expected = nn.Sequential(*parts)(x).detach().numpy()
    net = fc.MLP(sizes, "identity")
    for order in permutations(range(4)):
        source = {f"{names[i]}.{own}": values for i in order for own, values in parts[i].state_dict().items()}
        net.params[:] = 7
        try:
            fc.load_state_dict(net, source)
        except ValueError as error:
            assert "need not have" in str(error) and "give module.state_dict() itself" in str(error)
            assert (net.params == 7).all()
            refused.append(order)
        else:
            assert_allclose(net.predict(x.numpy()), expected, **tolerance(torch.float32))
    numbers_tell = names[0] == "fc1" and sizes in [(5, 4, 4, 4, 3), (5, 4, 5, 4, 2)]
    unique = len(set(pairwise(sizes))) == 4
    assert len(refused) == (0 if unique or numbers_tell else 24)


def test_the_modules_own_order_is_known(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.start, self.middle, self.end = nn.Linear(5, 5), nn.Sequential(nn.Linear(5, 5)), nn.Linear(5, 5)

    module, net, x = Net().eval(), fc.MLP([5, 5, 5, 5], "identity"), samples(torch.float32)
    expected = module.end(module.middle(module.start(x))).detach().numpy()
    state = module.state_dict()
    torch.save(state, tmp_path / "net.pt")
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "run.ckpt")
    again = module.state_dict()
    again.move_to_end("start.weight")  # the module's own order is kept elsewhere
    for source in (state, again, nn.DataParallel(module).state_dict(), tmp_path / "net.pt", tmp_path / "run.ckpt"):
        net.params[:] = 0
        fc.load_state_dict(net, source)
        assert_allclose(net.predict(x.numpy()), expected, **tolerance(torch.float32))
    with pytest.raises(ValueError, match=r"need not have start, middle\.0, end in the order of the layers"):
        fc.load_state_dict(net, dict(state))
    x = fc.Input(5)  # of two heads either may be the first
    trunk = fc.Linear(5, 5)(x)
    graph = fc.Graph(x, [fc.Linear(5, 5)(trunk), fc.Linear(5, 5)(trunk)])
    with pytest.raises(ValueError, match=r"both .* and .* fit Linear\(5, 5\)"):
        fc.load_state_dict(graph, state)


def test_many_modules_that_fit_nowhere_are_refused_at_once():
    net = fc.Sequential([*(fc.Linear(5, 5) for _ in range(40)), fc.Linear(5, 3)])
    words = ["".join(pair) for pair in permutations("abcdefg", 2)][:41]
    with pytest.raises(ValueError, match="does not match the network: "):
        fc.load_state_dict(
            net, {f"{word}.{own}": v for word in words for own, v in nn.Linear(5, 5).state_dict().items()}
        )


def test_names_after_a_path():
    """Names that are the network's own after a path were matched in order."""
    net = fc.Sequential(
        [
            fc.Linear(5, 5, name="first"),
            fc.Sequential(
                [fc.Linear(5, 5, name="second")],
            ),
        ]
    )
    net[1].name = "inner"
    for path in ("", "module.", "_orig_mod.", "a.b.", "a._orig_mod.b."):
        state = {
            f"{path}{name}": torch.full((5, 5) if "weight" in name else (5,), float(i))
            for i, name in enumerate(["inner.second.bias", "first.bias", "inner.second.weight", "first.weight"])
        }
        net.params[:] = 7
        fc.load_state_dict(net, state)
        assert [values.ravel()[0] for _, values, _ in net.named_parameters()] == [3, 1, 2, 0]


@pytest.mark.parametrize("key", ["model_state_dict", "state_dict", "model", "anything"])
@pytest.mark.parametrize("ending", [None, ".pt", ".pth", ".ckpt"])
def test_checkpoints(key, ending, tmp_path):
    """What a training loop saves was refused: torch.save({"model_state_dict": …, "epoch": 3}, path)."""
    module, net = source_and_target()
    optimizer = torch.optim.Adam(module.parameters())
    more = {"epoch": 3, "optimizer_state_dict": optimizer.state_dict(), "loss": torch.tensor(0.5), "none": None}
    checkpoint = {"rng": torch.get_rng_state(), key: module.state_dict(), **more}
    if ending:
        torch.save(checkpoint, tmp_path / f"run{ending}")
        checkpoint = tmp_path / f"run{ending}"
    fc.load_state_dict(net, checkpoint)
    x = samples(torch.float32)
    assert_allclose(net.predict(x.numpy()), module(x).detach().numpy(), **tolerance(torch.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_halves(dtype, tmp_path):
    """bfloat16 in a file was refused."""
    import safetensors.torch

    module, net = source_and_target()
    module.to(dtype)
    with torch.no_grad():
        module[0].weight[:2, 0] = torch.tensor([-0.0, 1e-3])  # signs and small numbers
    expected = {name: values.double().numpy() for name, values in module.state_dict().items()}
    safetensors.torch.save_file(
        module.state_dict() | {"1.num_batches_tracked": torch.tensor(3)}, tmp_path / "a.safetensors"
    )
    arrays = {name: torch.as_tensor(values).to(torch.float64).numpy() for name, values in module.state_dict().items()}
    for source in (module.state_dict(), write_pt(module, tmp_path), tmp_path / "a.safetensors", arrays):
        net.params[:] = 7
        fc.load_state_dict(net, source)
        assert_array_equal(net[0].weight.T, np.float32(expected["0.weight"]))
        assert np.signbit(net[0].weight[0, 0])
        assert_array_equal(net[1].running_var, np.float32(expected["1.running_var"]))
    ml_dtypes = pytest.importorskip("ml_dtypes")
    if dtype == torch.bfloat16:
        fc.load_state_dict(net, {name: values.astype(ml_dtypes.bfloat16) for name, values in arrays.items()})
        assert_array_equal(net[0].weight.T, np.float32(expected["0.weight"]))


def write_pt(module, folder):
    torch.save(module.state_dict(), folder / "a.pt")
    return folder / "a.pt"


WEIGHT_NORMS = {
    "each row": nn.utils.parametrizations.weight_norm,
    "each column": lambda m: nn.utils.parametrizations.weight_norm(m, dim=1),
    "all": lambda m: nn.utils.parametrizations.weight_norm(m, dim=None),
    "each row by a hook": lambda m: old_norm(nn.utils.weight_norm)(m),
    "each column by a hook": lambda m: old_norm(nn.utils.weight_norm)(m, dim=1),
    "all by a hook": lambda m: old_norm(nn.utils.weight_norm)(m, dim=None),
}
OTHER_NORMS = {
    "spectral": nn.utils.parametrizations.spectral_norm,
    "spectral by a hook": nn.utils.spectral_norm,
    "orthogonal": nn.utils.parametrizations.orthogonal,
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", [*WEIGHT_NORMS, *OTHER_NORMS])
def test_normed_weights_are_computed(name, bias, tmp_path):
    """Weights with weight_norm were refused."""
    norm = (WEIGHT_NORMS | OTHER_NORMS)[name]
    module = nn.Sequential(
        norm(nn.Linear(5, 4, bias)), nn.Tanh(), nn.Sequential(norm(nn.Linear(4, 4, bias)), nn.Linear(4, 1))
    )
    x = samples(torch.float32)
    module(x).sum().backward()  # hooks have left a weight
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3
    state = {key: values.clone() for key, values in module.state_dict().items()}
    module.train()
    net = fc.from_torch(module)
    assert all(part.training for part in module.modules())
    assert all(torch.equal(values, state[key]) for key, values in module.state_dict().items())
    expected = module.eval()(x).detach().numpy()
    assert_allclose(net.predict(x.numpy()), expected, **tolerance(torch.float32))
    module[0].requires_grad_(False)
    assert fc.from_torch(module)[0].frozen
    net.params[:] = 0
    torch.save(module.state_dict(), tmp_path / "a.pt")
    if name in WEIGHT_NORMS:
        for source in (module.state_dict(), tmp_path / "a.pt", dict(reversed(module.state_dict().items()))):
            net.params[:] = 0
            fc.load_state_dict(net, source)
            assert_allclose(net.predict(x.numpy()), expected, **tolerance(torch.float32))
    else:
        with pytest.raises(
            ValueError, match=r"0 has .* of spectral_norm or another parametrization; give the module to"
        ):
            fc.load_state_dict(net, module.state_dict())


def test_weight_norm_of_a_wrong_shape():
    state = {"0.weight_v": torch.ones(3, 2), "0.weight_g": torch.ones(3), "0.bias": torch.ones(3)}
    with pytest.raises(ValueError, match=r"0: weight_norm has lengths of shape \(3,\) for a weight of \(3, 2\)"):
        fc.load_state_dict(fc.MLP([2, 3]), state)


def test_prelu():
    module = nn.Sequential(nn.Linear(5, 3), nn.PReLU(), nn.Linear(3, 3), nn.PReLU(3, init=-0.5)).double()
    with torch.no_grad():
        module[1].weight[0], module[3].weight[1] = 1.5, 2
    net, x = fc.from_torch(module), samples(torch.float64)
    assert [layer.weight.tolist() for layer in net if isinstance(layer, fc.PReLU)] == [[1.5], [-0.5, 2, -0.5]]
    assert_allclose(net.predict(x.numpy()), module(x).detach().numpy(), rtol=1e-12, atol=1e-12)
    twin = fc.Sequential([fc.Linear(5, 3), fc.PReLU(), fc.Linear(3, 3), fc.PReLU(3)])
    fc.load_state_dict(twin, module.state_dict())
    assert_allclose(twin.predict(x.numpy()), module(x).detach().numpy(), rtol=1e-5, atol=1e-5)


def test_a_module_is_left_as_it_was():
    """from_torch calls modules of other classes to see whether they do more than run their Sequential."""
    module = Holder(nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)))
    module.log_std = nn.Parameter(torch.zeros(3))  # as in the policies of reinforcement learning
    module.net[0].eval()
    state = {name: values.clone() for name, values in module.state_dict().items()}
    modes, seed = [part.training for part in module.modules()], torch.random.get_rng_state()
    assert repr(fc.from_torch(module)) == "Sequential([Linear(5, 3), BatchNorm1d(3), Dropout(0.5)])"
    assert [part.training for part in module.modules()] == modes
    assert torch.equal(seed, torch.random.get_rng_state())
    assert all(torch.equal(values, state[name]) for name, values in module.state_dict().items())


def test_tied_weights():
    """A decoder with the transposed weight of the encoder: what it stores again is no other weight."""
    encoder = fc.Linear(4, 4)
    net = fc.Sequential([encoder, fc.Tanh(), fc.Tied(encoder)])
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    module[2].weight = nn.Parameter(module[0].weight.t())
    x = samples(torch.float32, width=4)
    expected = module(x).detach().numpy()
    for source in (module.state_dict(), dict(reversed(module.state_dict().items()))):
        net.params[:] = 0
        fc.load_state_dict(net, source)
        assert_allclose(net.predict(x.numpy()), expected, **tolerance(torch.float32))
    state = module.state_dict()
    named = {name.replace("0.", "enc.").replace("2.", "dec."): values for name, values in state.items()}
    for source in (named, state | {"2.weight": state["0.weight"]}):
        with pytest.raises(ValueError, match=r"(dec|2).weight is there, Tied\(Linear\(4, 4\)\) has none"):
            fc.load_state_dict(net, source)


class Evil:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("evil"),)


def test_files_that_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module, net = source_and_target()
    before = net.params.copy()
    torch.save(module, "module.pt")
    torch.save({"0.weight": Evil()}, "evil.pt")
    with open("plain.pth", "wb") as file:
        pickle.dump(Evil(), file)
    torch.save(torch.zeros(3), "tensor.pt")
    torch.save({"epoch": 3}, "numbers.pt")
    write(module.state_dict(), tmp_path / "good.pt")
    whole = (tmp_path / "good.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "cut.safetensors").write_bytes(b"abc")
    net.save("ours.safetensors")
    import safetensors.torch

    safetensors.torch.save_file({"0.weight": torch.zeros(3).to(torch.float8_e4m3fn)}, "float8.safetensors")
    (tmp_path / "weights.bin").write_bytes(whole)
    os.mkdir("folder.pt")
    for path, error, message in [
        ("module.pt", ValueError, "module.pt is damaged or holds more than weights"),
        ("evil.pt", ValueError, "evil.pt is damaged or holds more than weights"),
        ("plain.pth", ValueError, "plain.pth is damaged or holds more than weights"),
        ("tensor.pt", ValueError, "tensor.pt holds Tensor, no dict of tensors by name"),
        ("numbers.pt", TypeError, "numbers.pt: epoch is int, no tensor"),
        ("cut.pt", ValueError, "cut.pt is damaged"),
        ("empty.pt", ValueError, "empty.pt is damaged"),
        ("cut.safetensors", ValueError, "cut.safetensors is damaged, or no safetensors file"),
        ("ours.safetensors", ValueError, "ours.safetensors is a network of fastfc's; read it with fc.load"),
        ("float8.safetensors", ValueError, "float8.safetensors is of a dtype that NumPy has not: F8_E4M3"),
        ("weights.bin", ValueError, r"weights.bin must end in .pt, .pth, .ckpt or .safetensors"),
        ("folder.pt", ValueError, "folder.pt is not a regular file"),
        ("missing.pt", FileNotFoundError, "missing.pt"),
    ]:
        with pytest.raises(error, match=message):
            fc.load_state_dict(net, path)
        assert_array_equal(net.params, before)
    assert not (tmp_path / "evil").exists()
