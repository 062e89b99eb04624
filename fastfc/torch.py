"""To and from PyTorch: modules that are chains of layers which we have too, and weights by themselves.

A weight of PyTorch's is (out_features, in_features), ours (in_features, out_features): it is transposed on the way.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import activations
from .activations import Identity, LogSoftmax, Softmax
from .checks import as_floats
from .dropout import Dropout
from .extras import extra
from .files import NOT_STORED, arrays, by_name, options, regular
from .layers import Layer, Linear
from .network import Network, Sequential
from .norms import BatchNorm1d, LayerNorm, RMSNorm
from .standardize import Standardize

if TYPE_CHECKING:
    from .files import Path

# Layers that torch.nn has under the same name, and but for these with the same arguments.
KINDS: dict[str, type[Any]] = by_name(
    *activations.LAYERS, activations.GELU, Linear, Dropout, LayerNorm, RMSNorm, BatchNorm1d
)
FEATURES = {LayerNorm: "normalized_shape", RMSNorm: "normalized_shape", BatchNorm1d: "num_features"}
HOOKS = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"


def from_torch(module: Any) -> Sequential:
    """A network of the same layers as a torch.nn.Sequential, with copies of its parameters. Needs `fastfc[torch]`.

    Parameters
    ----------
    module : torch.nn.Module
        A Sequential, of others too, or one layer. There may be Linear, the activations that we have, Dropout,
        LayerNorm, RMSNorm, BatchNorm1d, Identity and Flatten, of float32 or float64, on any device.

    Returns
    -------
    Sequential
        `predict` gives what the module gives in eval mode. Layers with parameters have the names that the module gives
        them, if these are more than numbers, and are frozen if none of their parameters requires a gradient.

    Raises
    ------
    TypeError
        Naming all modules that can't be converted: any others, and those with an argument that we have not, such as a
        softmax along the batch.

    Examples
    --------
    >>> import fastfc as fc, torch
    >>> module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.GELU(approximate="tanh"))
    >>> net = fc.from_torch(module)
    >>> net
    Sequential([Linear(4, 3), GELU(approximate='tanh')])
    >>> x = torch.rand(2, 4)
    >>> bool(abs(module(x).detach().numpy() - net.predict(x.numpy())).max() < 1e-6)
    True
    """
    torch = extra("torch", "torch", "from_torch")
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"from_torch: give a torch.nn.Sequential, got {module!r}")
    if not is_chain(torch, module):
        module = torch.nn.Sequential(module)
    seen: set[int] = set()
    reasons = [(name, part, why_not(torch, part, seen)) for name, part in modules(torch, module)]
    wrong = [f"{name} ({type(part).__name__}, {why})" for name, part, why in reasons if why]
    if wrong:
        raise TypeError(
            f"from_torch can't convert {', '.join(wrong)}; it takes torch.nn.Sequential of {', '.join(KINDS)} and "
            "Flatten"
        )
    network = chain(torch, module)
    counted = [int(b) for name, b in module.named_buffers() if name.rpartition(".")[2] == "num_batches_tracked"]
    network._drawn = max(counted, default=0)  # for the running means of BatchNorm1d with momentum=None
    return network


def is_chain(torch: Any, module: Any) -> bool:
    """Whether a module runs its children in order."""
    return isinstance(module, torch.nn.Sequential) and type(module).forward is torch.nn.Sequential.forward


def modules(torch: Any, module: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """All modules of a chain and where they are, itself too."""
    yield place or "the module", module
    if is_chain(torch, module):
        for name, part in module._modules.items():
            yield from modules(torch, part, f"{place}.{name}" if place else name)


def why_not(torch: Any, module: Any, seen: set[int]) -> str:
    """Why a module can't be converted; nothing if it can. What it has is added to what was seen."""
    kind = type(module).__name__
    if any(getattr(module, hooks, None) for hooks in HOOKS) or "forward" in vars(module):
        return "whose hooks are code"
    if is_chain(torch, module):
        return ""
    if type(module) is not getattr(torch.nn, kind, None) or (kind not in KINDS and kind != "Flatten"):
        return "which has no counterpart"
    if kind == "Flatten" and (module.start_dim, module.end_dim) != (1, -1):
        return f"from axis {module.start_dim} to {module.end_dim}"
    if kind in ("Softmax", "LogSoftmax") and module.dim not in (None, 1, -1):
        return f"along axis {module.dim}"
    if kind in ("LayerNorm", "RMSNorm") and len(module.normalized_shape) != 1:
        return f"over the axes {tuple(module.normalized_shape)}"
    tensors = [*module.parameters(), *module.buffers()]
    for tensor in tensors:
        if id(tensor) in seen:
            return "which shares its parameters with another"
        if tensor.is_meta:
            return "whose parameters are on the device meta"
        if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
            return f"of {tensor.dtype}: module.float() is of float32"
    seen.update(map(id, tensors))
    return ""


def chain(torch: Any, module: Any) -> Sequential:
    layers: list[Layer] = []
    for i, (name, part) in enumerate(module._modules.items()):
        layer = chain(torch, part) if is_chain(torch, part) else converted(part)
        if name != str(i) and (arrays(layer) or isinstance(layer, Network)):
            layer.name = name
        layers.append(layer)
    return Sequential(layers or [Identity()])


def converted(module: Any) -> Layer:
    if type(module).__name__ == "Flatten":  # our samples are rows already
        return Identity()
    kind = KINDS[type(module).__name__]
    given: dict[str, Any] = {}
    for name in inspect.signature(kind).parameters:
        if name == "features":
            given[name] = int(np.prod(getattr(module, FEATURES[kind])))
        elif name == "bias":
            given[name] = getattr(module, "bias", None) is not None or (kind is BatchNorm1d and not module.affine)
        elif name not in NOT_STORED:
            given[name] = getattr(module, name)
    parameters = list(module.parameters())
    for tensor in [*module.buffers(), *parameters]:
        if tensor.is_floating_point():
            given["dtype"] = str(tensor.dtype).removeprefix("torch.")
    layer = kind(**given, **({"init": "zeros"} if kind is Linear else {}))
    for name, values in arrays(layer):
        values[...] = getattr(module, name).detach().cpu().numpy().T
    layer.frozen = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
    return layer


def to_torch(network: Network) -> Any:
    torch = extra("torch", "torch", "to_torch")
    layers = list(leaves(network, Sequential))
    wrong = [f"{name} ({layer})" for name, layer in layers if KINDS.get(type(layer).__name__) is not type(layer)]
    if wrong or type(network) is not Sequential:
        raise TypeError(
            f"to_torch: PyTorch has no module for {', '.join(wrong) or network}; it has one for Sequential of "
            f"{', '.join(KINDS)}"
        )
    with torch.random.fork_rng(devices=[]), torch.no_grad():  # modules draw first values
        module = modules_of(torch, network, network.frozen).eval()
        for name, buffer in module.named_buffers():
            if name.rpartition(".")[2] == "num_batches_tracked":
                buffer.fill_(network._draws)
        return module


def modules_of(torch: Any, network: Sequential, frozen: bool) -> Any:
    result = torch.nn.Sequential()
    for i, layer in enumerate(network.layers):
        fixed = frozen or layer.frozen
        part = modules_of(torch, layer, fixed) if isinstance(layer, Sequential) else module_of(torch, layer, fixed)
        name = layer.name if arrays(layer) or isinstance(layer, Network) else None
        free = name is not None and name.isidentifier() and not hasattr(result, name)
        result.add_module(name if free else str(i), part)
    return result


def module_of(torch: Any, layer: Layer, frozen: bool) -> Any:
    given = options(layer)
    kind = type(layer)
    if kind in FEATURES:
        given[FEATURES[kind]] = given.pop("features")
    if kind in (Softmax, LogSoftmax):
        given["dim"] = -1
    if kind is BatchNorm1d and (given["bias"] or not given["affine"]):
        del given["bias"]  # which older versions of PyTorch do not know
    if layer.dtype is not None:
        given["dtype"] = getattr(torch, layer.dtype.name)
    module = getattr(torch.nn, kind.__name__)(**given)
    for name, values in arrays(layer):
        getattr(module, name).copy_(torch.from_numpy(values.T))
    return module.requires_grad_(not frozen)


def leaves(network: Network, into: type[Network] = Network, place: str = "") -> Iterator[tuple[str, Layer]]:
    """The layers of a network, those of such networks in it too, and their names as `named_parameters` has them."""
    for i, layer in enumerate(network.layers):
        name = layer.name if isinstance(layer, Network) or arrays(layer) else None
        here = f"{place}{name or i}"
        if isinstance(layer, into):
            yield from leaves(layer, into, f"{here}.")
        else:
            yield here, layer


def load_state_dict(network: Network, source: Mapping[str, Any] | Path) -> None:
    """Copy the weights of a PyTorch module into a network of the same layers.

    Modules and layers are matched by name where the names are the same, `named_parameters` gives ours, else in order.
    Weights of Linear layers are transposed.

    Parameters
    ----------
    network : Network
    source : dict, str or path-like
        What `module.state_dict()` gives, of tensors or arrays; or a file of that, `.pt` or `.pth` (read with
        `weights_only=True`; needs the extra `fastfc[torch]`) or `.safetensors` (needs `fastfc[safetensors]`).

    Raises
    ------
    ValueError
        Naming everything that does not match, or a file that can't be read. The network is then unchanged.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> net = fc.MLP([2, 3, 1])
    >>> weights = {"hidden.weight": np.ones((3, 2)), "hidden.bias": np.zeros(3)}
    >>> weights |= {"last.weight": np.ones((1, 3)), "last.bias": np.zeros(1)}
    >>> fc.load_state_dict(net, weights)
    >>> net.predict([1, 2])
    array([9.], dtype=float32)
    """
    if not isinstance(network, Network):
        raise TypeError(f"load_state_dict: give a network such as MLP([2, 3, 1]) first, got {network!r}")
    in_order = True
    if isinstance(source, str | os.PathLike):
        what = f"load_state_dict: {os.fspath(source)}"
        source, in_order = read(source)
    elif isinstance(source, Mapping):
        what = "load_state_dict: the dict"
    else:
        raise TypeError(f"load_state_dict: give module.state_dict() or a path, got {type(source).__name__}")
    found: dict[str, dict[str, NDArray[Any]]] = {}
    for name, values in source.items():
        if not isinstance(name, str):
            raise TypeError(f"{what} has the key {name!r}, no name of a parameter")
        module, _, own = name.rpartition(".")
        if own != "num_batches_tracked":
            found.setdefault(module, {})[own] = as_array(values, f"{what}: {name}")
    layers = [(name, layer) for name, layer in leaves(network) if arrays(layer) and not isinstance(layer, Standardize)]
    if len(found) != len(layers):
        raise ValueError(
            f"{what} has parameters for {len(found)} modules ({', '.join(found)}), the network {len(layers)} "
            f"({', '.join(name for name, _ in layers)})"
        )
    if set(found) != {name for name, _ in layers}:
        names = list(found) if in_order else by_numbers(list(found), what)
        layers = [(name, layer) for name, (_, layer) in zip(names, layers, strict=True)]
    wrong, copies = [], []
    for name, layer in layers:
        given, wanted = found[name], {own: to_copy(layer, values) for own, values in arrays(layer)}
        for own in given.keys() | wanted.keys():
            if own not in given:
                wrong.append(f"{name}.{own} is missing, {layer} has it")
            elif own not in wanted:
                wrong.append(f"{name}.{own} is there, {layer} has none")
            elif given[own].shape != wanted[own].shape:
                wrong.append(f"{name}.{own} has shape {given[own].shape}, {layer} takes {wanted[own].shape}")
            else:
                copies.append((wanted[own], as_floats(given[own], layer.dtype, what, f"{name}.{own}")))
    if wrong:
        raise ValueError(f"{what} does not match the network: {'; '.join(sorted(wrong))}")
    for into, values in copies:
        into[...] = values


def to_copy(layer: Layer, values: NDArray[Any]) -> NDArray[Any]:
    """A parameter in PyTorch's shape."""
    return values.T if isinstance(layer, Linear) else values


def as_array(values: Any, what: str) -> NDArray[Any]:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if values.itemsize < 4 and values.is_floating_point() else values).numpy()
    if not isinstance(values, np.ndarray):
        raise TypeError(f"{what} is {type(values).__name__}, no tensor; give the dict of tensors alone")
    return values


def by_numbers(names: list[str], what: str) -> list[str]:
    """Names from a file that keeps no order, in the order of their numbers."""
    if len({re.sub("[0-9]+", "0", name) for name in names}) > 1:
        raise ValueError(
            f"{what} keeps no order, and its names {', '.join(names)} are neither the network's nor different by "
            "numbers alone; give the layers these names, as in Linear(2, 3, name='hidden')"
        )
    return sorted(names, key=lambda name: [int(number) for number in re.findall("[0-9]+", name)])


def read(path: Path) -> tuple[dict[str, Any], bool]:
    """The tensors in a file, and whether their order is that of the module."""
    path = regular(path)
    ending = os.path.splitext(path)[1].lower()
    if ending in (".pt", ".pth"):
        torch = extra("torch", "torch", "load_state_dict")
        try:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # the kinds of damage are as many as those of errors
            raise ValueError(
                f"load_state_dict: {path} is damaged or holds more than weights; write it with "
                f"torch.save(module.state_dict(), path)"
            ) from error
        if not isinstance(tensors, Mapping) or not all(isinstance(name, str) for name in tensors):
            raise ValueError(f"load_state_dict: {path} holds {type(tensors).__name__}, no dict of tensors by name")
        return dict(tensors), True
    if ending != ".safetensors":
        raise ValueError(f"load_state_dict: {path} must end in .pt, .pth or .safetensors")
    safetensors = extra("safetensors", "safetensors", "load_state_dict")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            if "fastfc" in (file.metadata() or {}):
                raise ValueError(f"load_state_dict: {path} is a network of fastfc's; read it with fc.load")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
        for values in tensors.values():
            if values.dtype.kind not in "biuf":  # bfloat16, where some package makes it known to NumPy
                raise TypeError(values.dtype)
        return tensors, False
    except safetensors.SafetensorError as error:
        raise ValueError(f"load_state_dict: {path} is damaged, or no safetensors file: {error}") from error
    except TypeError as error:  # such as bfloat16
        raise ValueError(f"load_state_dict: {path} is of a dtype that NumPy has not: {error}") from error
