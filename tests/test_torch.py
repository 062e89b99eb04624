import os
import pathlib
import pickle
from collections import OrderedDict

import numpy as np
import pytest
from arrays import normal
from examples import ACTIVATIONS, ids
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import save_file

import fastfc as fc

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


# name, module of 5 inputs, by dtype
MODULES = {
    "Linear": lambda d: nn.Sequential(nn.Linear(5, 3, dtype=d)),
    "no bias": lambda d: nn.Sequential(nn.Linear(5, 3, bias=False, dtype=d), nn.Tanh()),
    "LayerNorm": lambda d: nn.Sequential(nn.LayerNorm(5, eps=1e-3, dtype=d), nn.Linear(5, 2, dtype=d)),
    "LayerNorm without bias": lambda d: nn.Sequential(nn.LayerNorm([5], bias=False, dtype=d)),
    "LayerNorm without weight": lambda d: nn.Sequential(nn.LayerNorm(5, elementwise_affine=False)),
    "RMSNorm": lambda d: nn.Sequential(nn.Linear(5, 4, dtype=d), nn.RMSNorm(4, dtype=d), nn.RMSNorm(4, 1e-3, dtype=d)),
    "RMSNorm without weight": lambda d: nn.Sequential(nn.RMSNorm(5, elementwise_affine=False)),
    "BatchNorm1d": lambda d: nn.Sequential(nn.BatchNorm1d(5, eps=1e-3, momentum=0.3, dtype=d), nn.ReLU()),
    "BatchNorm1d without weight": lambda d: nn.Sequential(nn.BatchNorm1d(5, affine=False, dtype=d)),
    "Dropout of nothing": lambda d: nn.Sequential(nn.Dropout(0.0), nn.Linear(5, 3, dtype=d)),
    "Flatten": lambda d: nn.Sequential(nn.Flatten(), nn.Linear(5, 3, dtype=d), nn.Identity(), nn.Flatten(1, 1 - 2)),
    "nested": lambda d: nn.Sequential(
        nn.Sequential(nn.Linear(5, 4, dtype=d), nn.BatchNorm1d(4, dtype=d)),
        nn.Sequential(nn.Sequential(nn.SiLU(inplace=True)), nn.Sequential()),
        nn.Linear(4, 2, dtype=d),
        nn.LogSoftmax(dim=1),
    ),
    "a layer alone": lambda d: nn.Linear(5, 3, dtype=d),
}


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
    module = draw(nn.Sequential(nn.Linear(5, 5, dtype=dtype), getattr(nn, name)(**arguments(name, settings))))
    with torch.no_grad():
        module[0].weight -= 0.6
    net = fc.from_torch(module)
    assert repr(net[1]) == repr(getattr(fc, name)(**settings))
    assert_equal(module, net, dtype)
    assert repr(net.to_torch()[1]) == repr(module[1])
    assert_equal(net.to_torch(), net, dtype)


def test_every_layer_is_known_or_refused_by_name():
    from fastfc.activations import Activation
    from fastfc.layers import Layer
    from fastfc.torch import KINDS

    layers = {
        name for name in fc.__all__ if isinstance(getattr(fc, name), type) and issubclass(getattr(fc, name), Layer)
    }
    refused = {"Tied", "Embedding", "Standardize", "Elementwise", "Graph"}
    assert layers == set(KINDS) | refused | {"Sequential"}
    assert {name for name in layers if issubclass(getattr(fc, name), Activation)} - {"Elementwise"} <= set(KINDS)
    x, encoder = fc.Input(4), fc.Linear(4, 2)
    for layers, message in [
        ([encoder, fc.Tied(encoder)], r"1 \(Tied\(Linear\(4, 2\)\)\)"),
        (
            [fc.Embedding(3, 4), fc.Sequential([fc.Standardize(4)])],
            r"0 \(Embedding\(3, 4\)\), 1.0 \(Standardize\(4\)\)",
        ),
        ([fc.ReLU(), fc.Graph(x, x + x)], r"1 \(Graph"),
        ([fc.Elementwise(**dict(ACTIVATIONS)["Elementwise"])], r"0 \(Elementwise\(square, twice\)\)"),
    ]:
        with pytest.raises(TypeError, match=f"to_torch: PyTorch has no module for {message}"):
            fc.Sequential(layers).to_torch()
    with pytest.raises(TypeError, match="to_torch: PyTorch has no module for Graph"):
        fc.Graph(x, x + fc.Linear(4, 4)(x)).to_torch()


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
        lambda: nn.Sequential(nn.PReLU(), nn.Sequential(nn.ReLU(), nn.Softmin(1))),
        r"0 \(PReLU, which has no counterpart\), 1.1 \(Softmin, which has no counterpart\)",
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
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), r"0 \(ParametrizedLinear"),
    "another forward": (patched, r"0 \(Linear, whose hooks are code\)"),
    "half": (lambda: nn.Linear(3, 3).half(), r"0 \(Linear, of torch.float16: module.float\(\) is of float32\)"),
    "bfloat16": (lambda: nn.BatchNorm1d(3, dtype=torch.bfloat16), "of torch.bfloat16"),
    "no data": (lambda: nn.Linear(3, 3, device="meta"), "on the device meta"),
    "no module": (lambda: {"0.weight": 1}, "give a torch.nn.Sequential, got {'0.weight': 1}"),
}


def hook_of_chain():
    module = nn.Sequential(nn.Linear(2, 2))
    module.register_forward_pre_hook(lambda *_: None)
    return module


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
        ({"state_dict": good, "epoch": 3}, TypeError, ["state_dict is OrderedDict, no tensor"]),
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

    safetensors.torch.save_file({"0.weight": torch.zeros(3).bfloat16()}, "bfloat16.safetensors")
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
        ("bfloat16.safetensors", ValueError, "bfloat16.safetensors is of a dtype that NumPy has not"),
        ("weights.bin", ValueError, r"weights.bin must end in .pt, .pth or .safetensors"),
        ("folder.pt", ValueError, "folder.pt is no regular file"),
        ("missing.pt", FileNotFoundError, "missing.pt"),
    ]:
        with pytest.raises(error, match=message):
            fc.load_state_dict(net, path)
        assert_array_equal(net.params, before)
    assert not (tmp_path / "evil").exists()
