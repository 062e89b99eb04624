"""To and from PyTorch: modules that are chains of layers which we have too, and weights by themselves.

A weight of PyTorch's is (out_features, in_features), ours (in_features, out_features): it is transposed on the way.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastfc.extras import extra
from fastfc.io.checkpoint import LAYERS, NOT_STORED, arrays, options, regular
from fastfc.nn.activations import Identity, LogSoftmax, Softmax
from fastfc.nn.batch_ensemble import MemberMean
from fastfc.nn.container import CONTAINERS, Container, is_a
from fastfc.nn.layer import Layer
from fastfc.nn.linear import Linear, Tied
from fastfc.nn.node import OPS
from fastfc.nn.norms import BatchNorm1d
from fastfc.nn.per_feature import Parametric
from fastfc.nn.standardize import Standardize
from fastfc.validation import as_floats

if TYPE_CHECKING:
    from fastfc.io.checkpoint import Path

# Layers that have no module. The others have one under the same name in torch.nn or torch_modules, with the same
# arguments, but for what the number of features is called.
NO_MODULE = ("Tied",)
KINDS = {name: kind for name, kind in LAYERS.items() if name not in NO_MODULE}
# Modules that become a layer of another name.
OTHERS = ("Flatten",)
HOOKS = "_forward_hooks", "_backward_hooks", "_backward_pre_hooks"
# Hooks that compute a weight, which we do once.
NORMS = "torch.nn.utils.weight_norm.WeightNorm", "torch.nn.utils.spectral_norm.SpectralNorm"
# What torch.compile and FSDP add to the names of parameters.
WRAPPERS = "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"


def from_torch(module: Any) -> Any:
    """A network of the same layers as a torch.nn.Sequential, with copies of its parameters. Needs `fastfc[torch]`.

    Parameters
    ----------
    module : torch.nn.Module
        A Sequential, of others too, or one layer. There may be Linear, Dropout, Flatten, and the activations and norms
        that we have, of float32 or float64, on any device. Parametrizations, such as weight_norm, become weights. Or a
        module of a class of your own that holds one Sequential, if on some random samples its output is the same.

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
    wrong: list[str] = []
    module = eager(module)
    with evaluating(torch, module):
        if is_chain(torch, module):
            layer: Layer | None = chain(torch, module, "", wrong, set())
        else:
            layer = converted(torch, module, "0", wrong, set())
    if wrong or layer is None:
        raise TypeError(
            f"from_torch can't convert {', '.join(wrong)}; it takes torch.nn.Sequential of {', '.join(KINDS)}, "
            f"{', '.join(OTHERS)}"
        )
    network = layer if is_a(layer, "Sequential") else CONTAINERS["Sequential"]([layer])
    counted = [int(b) for name, b in module.named_buffers() if name.rpartition(".")[2] == "num_batches_tracked"]
    network.rng_step = max(counted, default=0)  # for the running means of BatchNorm1d with momentum=None
    return network


@contextmanager
def evaluating(torch: Any, module: Any) -> Iterator[None]:
    """A module in eval mode, without gradients; and afterwards as it was."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def eager(module: Any) -> Any:
    """A module without torch.compile, whose first call would take long."""
    return module._orig_mod if type(module).__name__ == "OptimizedModule" else module


def is_chain(torch: Any, module: Any) -> bool:
    """Whether a module runs its children in order."""
    return isinstance(module, torch.nn.Sequential) and type(module).forward is torch.nn.Sequential.forward


def held(torch: Any, module: Any) -> Any:
    """The only Sequential in a module of another class, or in the only one that holds one; None if there is none."""
    parts = [eager(part) for part in module._modules.values() if part is not None]
    parts = [part if is_chain(torch, part) else held(torch, part) for part in parts]
    parts = [part for part in parts if part is not None]
    return parts[0] if len(parts) == 1 and not has_hooks(module) else None


def is_all_it_does(torch: Any, module: Any, inner: Any, width: int) -> bool:
    """Whether a module's output is that of the Sequential in it, to the last bit, on samples near 0 and far from it."""
    like = next(iter(inner.parameters()), torch.zeros(0))
    x = torch.randn(48, width, generator=torch.Generator().manual_seed(0))
    x *= 10.0 ** (torch.arange(48)[:, None] % 16 - 6)
    x = x.to(like.device, like.dtype)
    try:
        output, expected = module(x), inner(x)
        return output.dtype == expected.dtype and torch.equal(output.nan_to_num(), expected.nan_to_num())
    except Exception:  # its forward is anybody's code
        return False


def has_hooks(module: Any) -> bool:
    """Whether a call of a module runs other code than its class has."""
    before = getattr(module, "_forward_pre_hooks", {}).values()
    return (
        any(f"{type(hook).__module__}.{type(hook).__name__}" not in NORMS for hook in before)
        or any(getattr(module, hooks, None) for hooks in HOOKS)
        or "forward" in vars(module)
    )


def kind_of(torch: Any, module: Any) -> Any:
    """The class of a module, without its parametrizations."""
    return torch.nn.utils.parametrize.type_before_parametrizations(module)


def why_not(torch: Any, module: Any, seen: set[int]) -> str:
    """Why a module can't be converted; nothing if it can. What it has is added to what was seen."""
    if has_hooks(module):
        return "whose hooks are code"
    kind = kind_of(torch, module).__name__
    if kind_of(torch, module) is not counterpart(torch, kind) or kind not in (*KINDS, *OTHERS):
        return "which has no counterpart"
    if kind in ("Parametric", "MemberMean"):
        inner = why_not(torch, module.activation, seen)
        if inner:
            return f"with {type(module.activation).__name__}, {inner}"
    if kind == "Flatten" and (module.start_dim, module.end_dim) != (1, -1):
        return f"from axis {module.start_dim} to {module.end_dim}"
    if kind in ("Softmax", "LogSoftmax") and module.dim not in (None, 1, -1):
        return f"along axis {module.dim}"
    if len(getattr(module, "normalized_shape", (1,))) != 1:
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


def counterpart(torch: Any, kind: str) -> Any:
    """The class of PyTorch's modules for layers of this name, None if there is none."""
    from fastfc.io import torch_modules

    return getattr(torch_modules, kind, None) or getattr(torch.nn, kind, None)


def features_of(kind: Any) -> str:
    """What a module's class calls the number of features: its first argument, unless it has our name for it."""
    names = list(inspect.signature(kind).parameters)
    return "features" if "features" in names else names[0]


def chain(torch: Any, module: Any, place: str, wrong: list[str], seen: set[int]) -> Container | None:
    """The layers of a Sequential; or None, and what can't be converted is added to the list."""
    if has_hooks(module):
        wrong.append(f"{place or 'the module'} ({type(module).__name__}, whose hooks are code)")
    layers: list[Layer] = []
    for i, (name, part) in enumerate(module._modules.items()):
        layer = converted(torch, part, f"{place}.{name}" if place else name, wrong, seen)
        if layer is None:
            continue
        if name != str(i) and (arrays(layer) or isinstance(layer, Container)):
            layer.name = name
        layers.append(layer)
    return None if wrong else CONTAINERS["Sequential"](layers or [Identity()])


def converted(torch: Any, module: Any, place: str, wrong: list[str], seen: set[int]) -> Layer | None:
    """The layer or network for a module; or None, and why is added to the list."""
    module = eager(module)
    if is_chain(torch, module):
        return chain(torch, module, place, wrong, seen)
    inner = held(torch, module)
    if inner is not None:
        layer = chain(torch, inner, place, wrong, seen)
        if layer is not None and not is_all_it_does(torch, module, inner, layer.in_features or 8):
            wrong.append(f"{place} ({type(module).__name__}, which does more than the Sequential in it)")
        return layer
    why = why_not(torch, module, seen)
    if why:
        wrong.append(f"{place} ({type(module).__name__}, {why})")
        return None
    return alone(torch, module)


def alone(torch: Any, module: Any) -> Layer:
    """The layer for one that has no others in it."""
    name_of_kind = kind_of(torch, module).__name__
    if name_of_kind == "Flatten":  # our samples are rows already
        return Identity()
    kind = KINDS[name_of_kind]
    given: dict[str, Any] = {}
    for name in inspect.signature(kind).parameters:
        if name == "features":
            given[name] = int(np.prod(getattr(module, features_of(type(module)))))
        elif name == "activation":
            given[name] = alone(torch, module.activation)
        elif name == "bias":
            given[name] = getattr(module, "bias", None) is not None or (kind is BatchNorm1d and not module.affine)
        elif name not in NOT_STORED and not (kind is Linear and name == "parametrization"):
            given[name] = getattr(module, name)
    parameters = list(module.parameters())
    for tensor in [*module.buffers(), *parameters]:
        if tensor.is_floating_point():
            given["dtype"] = str(tensor.dtype).removeprefix("torch.")
    layer = kind(**given, **({"init": "zeros"} if kind is Linear else {}))
    for name, values in arrays(layer):
        value = value_of(module, name).detach().cpu().numpy()
        values[...] = value.T if kind is Linear else value
    layer.frozen = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
    return layer


def value_of(module: Any, name: str) -> Any:
    """A parameter or buffer of a module in eval mode, computed by the hook that does it for each forward."""
    for hook in module._forward_pre_hooks.values():
        if hook.name == name:
            no_iteration = [False] * (type(hook).__name__ == "SpectralNorm")
            return hook.compute_weight(module, *no_iteration)
    return getattr(module, name)


def to_torch(network: Container) -> Any:
    torch = extra("torch", "torch", "to_torch")
    layers = list(leaves(network))
    wrong = [f"{name} ({layer})" for name, layer in layers if KINDS.get(type(layer).__name__) is not type(layer)]
    if wrong or type(network) not in CONTAINERS.values():
        raise TypeError(
            f"to_torch: PyTorch has no module for {', '.join(wrong) or network}; there is one for Sequential and Graph "
            f"of {', '.join(KINDS)}"
        )
    with torch.random.fork_rng(devices=[]), torch.no_grad():  # modules draw first values
        module = modules_of(torch, network, network.frozen).eval()
        for name, buffer in module.named_buffers():
            if name.rpartition(".")[2] == "num_batches_tracked":
                buffer.fill_(network.rng_step)
        return module


def modules_of(torch: Any, network: Container, frozen: bool) -> Any:
    from fastfc.io import torch_modules

    result: Any = torch_modules.Graph() if is_a(network, "Graph") else torch.nn.Sequential()
    for i, layer in enumerate(network.layers):
        fixed = frozen or layer.frozen
        part = (modules_of if isinstance(layer, Container) else module_of)(torch, layer, fixed)
        name = layer.name if arrays(layer) or isinstance(layer, Container) else None
        free = name is not None and name.isidentifier() and not hasattr(result, name)
        result.add_module(name if free else str(i), part)
    if is_a(network, "Graph"):
        result.steps, result.outputs = steps_of(network, list(result._modules))
    return result


def steps_of(graph: Any, names: Sequence[str]) -> tuple[list[tuple[str, list[int], Any]], list[int]]:
    """What a module of a Graph does, with these names of its layers, and the numbers of its outputs."""
    name_of = dict(zip(graph.layers, names, strict=True))
    nodes = [*graph.inputs, *(node for node in graph.nodes if node not in graph.inputs)]
    place, steps = {node: i for i, node in enumerate(nodes)}, []
    for node in nodes[len(graph.inputs) :]:
        of_layer = isinstance(node.what, Layer)
        what, which = ("layer", name_of[node.what]) if of_layer else (OPS[node.what], node.factor)
        steps.append((what, [place[other] for other in node.inputs], which))
    return steps, [place[node] for node in graph.outputs]


def module_of(torch: Any, layer: Layer, frozen: bool) -> Any:
    given = options(layer)
    kind = type(layer)
    theirs = counterpart(torch, kind.__name__)
    if "features" in given:
        given[features_of(theirs)] = given.pop("features")
    if kind in (Softmax, LogSoftmax):
        given["dim"] = -1
    if kind is BatchNorm1d and (given["bias"] or not given["affine"]):
        del given["bias"]  # which older versions of PyTorch do not know
    if layer.dtype is not None:
        given["dtype"] = getattr(torch, layer.dtype.name)
    given.pop("parametrization", None)
    if isinstance(layer, Parametric | MemberMean):
        given["activation"] = module_of(torch, layer.activation, frozen)
    module = theirs(**given)
    for name, values in arrays(layer):
        if isinstance(layer, Linear) and name == "weight":
            values = layer.effective_weight().T
        getattr(module, name).copy_(torch.from_numpy(values))
    return module.requires_grad_(not frozen)


def leaves(network: Container, place: str = "") -> Iterator[tuple[str, Layer]]:
    """The layers of a network, those of such networks in it too, and their names as `named_parameters` has them."""
    for i, layer in enumerate(network.layers):
        name = layer.name if isinstance(layer, Container) or arrays(layer) else None
        here = f"{place}{name or i}"
        if isinstance(layer, Container):
            yield from leaves(layer, f"{here}.")
        else:
            yield here, layer


# Parameters of a module by their names.
Entries = dict[str, NDArray[Any]]


def load_state_dict(network: Container, source: Mapping[str, Any] | Path) -> None:
    """Copy the weights of a PyTorch module into a network of the same layers.

    Modules and layers are matched by name where the names are the same but for a path before all of them;
    `named_parameters` gives ours. Else where names differ in numbers alone, these are the order, as in "net.2" and
    "net.10"; else it is that of `module.state_dict()`. Other dicts may have any order, and are refused unless shapes
    and the numbers in names leave just one. Weights of Linear layers are transposed, those with weight_norm computed.

    Parameters
    ----------
    network : Network
    source : dict, str or path-like
        What `module.state_dict()` gives, of tensors or arrays, or a checkpoint with just one such dict in it, as
        {"model_state_dict": …, "epoch": 3}; or a file of either, `.pt`, `.pth` or `.ckpt` (read with
        `weights_only=True`; needs the extra `fastfc[torch]`), or of the former `.safetensors` (needs
        `fastfc[safetensors]`). Of float16 and bfloat16 too.

    Raises
    ------
    ValueError
        Naming everything that does not match, or that may match in several ways, or a file that can't be read. The
        network is then unchanged.

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
    if not isinstance(network, Container):
        raise TypeError(f"load_state_dict: give a network such as MLP([2, 3, 1]) first, got {network!r}")
    is_sorted = False
    if isinstance(source, str | os.PathLike):
        what = f"load_state_dict: {os.fspath(source)}"
        source, is_sorted = read(source)
    elif isinstance(source, Mapping):
        what = "load_state_dict: the dict"
    else:
        raise TypeError(f"load_state_dict: give module.state_dict() or a path, got {type(source).__name__}")
    source = state_dict_in(source, what)
    found = by_module(source, what)
    # to_torch keeps means and scales, other modules have none
    scales = any(own.keys() == {"mean", "scale"} for own in found.values())
    layers = [
        (name, layer)
        for name, layer in leaves(network)
        if arrays(layer) and (scales or not isinstance(layer, Standardize))
    ]
    if len(found) != len(layers):
        raise ValueError(
            f"{what} has parameters for {len(found)} modules ({', '.join(found)}), the network {len(layers)} "
            f"({', '.join(name for name, _ in layers)})"
        )
    order = [module_of_name(f"{name}.")[0] for name in getattr(source, "_metadata", {})] if is_line(network) else []
    names = matched(found, layers, order, is_sorted, what)
    name_of = {layer: name for name, (_, layer) in zip(names, layers, strict=True)}
    by_name = len({name.removesuffix(own) for name, (own, _) in zip(names, layers, strict=True)}) == 1
    wrong, copies = [], []
    for layer, name in name_of.items():
        given, wanted = found[name], entries(layer)
        for own in given.keys() | wanted.keys():
            if own not in given:
                wrong.append(f"{name}.{own} is missing, {layer} has it")
            elif own not in wanted:
                if not (by_name and is_tied(layer, own, given, found, name_of)):
                    wrong.append(f"{name}.{own} is there, {layer} has none")
            elif given[own].shape != wanted[own].shape:
                wrong.append(f"{name}.{own} has shape {given[own].shape}, {layer} takes {wanted[own].shape}")
            else:
                factor = layer.factor() if isinstance(layer, Linear) and own == "weight" else 1.0
                copies.append((wanted[own], as_floats(given[own], layer.dtype, what, f"{name}.{own}") / factor))
    if wrong:
        raise ValueError(f"{what} does not match the network: {'; '.join(sorted(wrong))}")
    for into, values in copies:
        into[...] = values


def state_dict_in(source: Mapping[Any, Any], what: str) -> Mapping[Any, Any]:
    """The only dict of tensors in a checkpoint, or the source if it is such a dict itself, or none."""
    is_tensor = lambda value: isinstance(value, np.ndarray) or hasattr(value, "detach")
    is_weight = lambda value: is_tensor(value) and value.ndim > 0 and "float" in str(value.dtype)  # no loss, no seed
    inside = [
        name
        for name, value in source.items()
        if isinstance(value, Mapping) and value and all(map(is_tensor, value.values()))
    ]
    if not inside or any(map(is_weight, source.values())):
        return source
    if len(inside) > 1:
        raise ValueError(f"{what} has several dicts of tensors; give one of {', '.join(map(repr, inside))} alone")
    found: Mapping[Any, Any] = source[inside[0]]
    return found


def module_of_name(name: str) -> tuple[str, str]:
    """The path of a module, without those that wrap it, and its own name of a parameter."""
    *path, own = [part for part in name.split(".") if part not in WRAPPERS]
    if "parametrizations" in path:
        i = path.index("parametrizations")
        path, own = path[:i], ".".join([*path[i + 1 :], own])
    return ".".join(path), own


def by_module(source: Mapping[Any, Any], what: str) -> dict[str, Entries]:
    """The arrays of each module."""
    found: dict[str, Entries] = {}
    for name, values in source.items():
        if not isinstance(name, str):
            raise TypeError(f"{what} has the key {name!r}, no name of a parameter")
        module, own = module_of_name(name)
        if own != "num_batches_tracked":
            found.setdefault(module, {})[own] = as_array(values, f"{what}: {name}")
    for module, own_arrays in found.items():
        for length, direction in ("weight_g", "weight_v"), ("weight.original0", "weight.original1"):
            if {length, direction} <= own_arrays.keys():
                own_arrays["weight"] = with_norm(own_arrays.pop(length), own_arrays.pop(direction), f"{what}: {module}")
        if any("." in own or own == "weight_orig" for own in own_arrays):
            raise ValueError(
                f"{what}: {module} has {', '.join(own_arrays)}, of spectral_norm or another parametrization; give the "
                "module to from_torch, or first torch.nn.utils.parametrize.remove_parametrizations its weight"
            )
    return found


def with_norm(length: NDArray[Any], direction: NDArray[Any], what: str) -> NDArray[Any]:
    """The weight g v / ‖v‖ of weight_norm; the norm is along all axes on which the length is 1, or has none."""
    axes = tuple(axis for axis in range(direction.ndim) if length.ndim == 0 or length.shape[axis : axis + 1] == (1,))
    v = direction.astype(np.float64)
    norm = np.sqrt((v * v).sum(axis=axes, keepdims=True))
    if length.shape not in ((), norm.shape):
        raise ValueError(f"{what}: weight_norm has lengths of shape {length.shape} for a weight of {direction.shape}")
    with np.errstate(all="ignore"):  # 0 / 0 is NaN, as in PyTorch
        weight: NDArray[Any] = v * (length / norm)
    return weight


def entries(layer: Layer) -> Entries:
    """Views of a layer's parameters and buffers in PyTorch's shapes."""
    return {name: values.T if isinstance(layer, Linear) else values for name, values in arrays(layer)}


def is_tied(layer: Layer, own: str, given: Entries, found: dict[str, Entries], name_of: dict[Layer, str]) -> bool:
    """Whether a weight that a layer has not is the one that it shares, transposed."""
    if not isinstance(layer, Tied) or own != "weight" or layer.layer not in name_of:
        return False
    shared = found[name_of[layer.layer]].get("weight")
    return shared is not None and np.array_equal(shared.T, given[own], equal_nan=True)


def is_line(network: Container) -> bool:
    """Whether layers follow one another, so that their order is one of definition too."""
    parts = [layer for layer in network.layers if isinstance(layer, Container)]
    return is_a(network, "Sequential") and all(map(is_line, parts))


def matched(
    found: dict[str, Entries], layers: list[tuple[str, Layer]], order: list[str], is_sorted: bool, what: str
) -> list[str]:
    """The name of the module for each layer.

    `order` is that in which a module has its parts, if it is known; a source that is sorted has none.
    """
    names, ours = list(found), [name for name, _ in layers]
    for i in range(names[0].count(".") + 1 if names else 0):
        path = "".join(f"{part}." for part in names[0].split(".")[:i])
        if {path + name for name in ours} == set(names):
            return [path + name for name in ours]
    all_fit = lambda names: all(fits(found[name], layer) for name, (_, layer) in zip(names, layers, strict=True))
    numbered = in_order_of_numbers(names)
    if len({without_numbers(name) for name in names}) <= 1 and (is_sorted or all_fit(numbered)):
        return numbered
    if is_sorted:
        raise ValueError(
            f"{what} keeps no order, and its names {', '.join(names)} are neither the network's nor different by "
            "numbers alone; give the layers these names, as in Linear(2, 3, name='hidden')"
        )
    known = sorted(names, key=order.index) if set(names) <= set(order) else []
    if known and (known == in_order_of_numbers(known) or all_fit(known)):
        return known
    groups: dict[str, list[str]] = {}
    for name in numbered:
        groups.setdefault(without_numbers(name), []).append(name)
    for parts in list(groups.values()), [[name] for name in names]:  # numbers may be those of something else
        orders = fitting_orders(parts, lambda name, i: fits(found[name], layers[i][1]), len(layers))
        first, second = next(orders, None), next(orders, None)
        if first is not None and second is not None:
            i, other = next((i, name) for i, name in enumerate(second) if name != first[i])
            raise ValueError(
                f"{what} need not have {', '.join(names)} in the order of the layers, and both {first[i]} and {other} "
                f"fit {layers[i][1]}; give module.state_dict() itself, or the layers these names, as in "
                "Linear(2, 3, name='hidden')"
            )
        if first is not None:
            return first
    return known or numbered


def without_numbers(name: str) -> str:
    return re.sub("[0-9]+", "0", name)


def numbers_in(name: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall("[0-9]+", name)))


def in_order_of_numbers(names: list[str]) -> list[str]:
    """The same names, where those that differ only in numbers have changed places so that these rise."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names, key=numbers_in):
        groups.setdefault(without_numbers(name), []).append(name)
    members = {kind: iter(group) for kind, group in groups.items()}
    return [next(members[without_numbers(name)]) for name in names]


def fits(given: Entries, layer: Layer) -> bool:
    """Whether a module's parameters have the names and shapes of a layer's."""
    wanted = entries(layer)
    return given.keys() == wanted.keys() and all(given[name].shape == wanted[name].shape for name in given)


def fitting_orders(groups: list[list[str]], fits: Callable[[str, int], bool], n_layers: int) -> Iterator[list[str]]:
    """All orders of modules in which each fits its layer and the members of each group keep their order."""
    dead = set[tuple[int, ...]]()

    def orders(used: tuple[int, ...]) -> Iterator[list[str]]:
        """How to go on where so many of each group are used."""
        layer, alive = sum(used), False
        # modules that fit the same layers can change places, so those without others in their group need not be told
        state = (layer, *(n for n, group in zip(used, groups, strict=True) if len(group) > 1))
        if layer == n_layers:
            yield []
        elif state not in dead:
            for k, group in enumerate(groups):
                if used[k] < len(group) and fits(group[used[k]], layer):
                    for rest in orders((*used[:k], used[k] + 1, *used[k + 1 :])):
                        alive = True
                        yield [group[used[k]], *rest]
            if not alive:
                dead.add(state)

    return orders((0,) * len(groups))


def as_array(values: Any, what: str) -> NDArray[Any]:
    if hasattr(values, "detach"):
        values = values.detach().to_dense().cpu()
        values = (values.float() if values.itemsize < 4 and values.is_floating_point() else values).numpy()
    if not isinstance(values, np.ndarray):
        raise TypeError(f"{what} is {type(values).__name__}, no tensor; give the dict of tensors alone")
    return values.astype(np.float32) if values.dtype.name == "bfloat16" else values


def read(path: Path) -> tuple[Mapping[str, Any], bool]:
    """The tensors in a file, and whether they are sorted by name."""
    path = regular(path)
    ending = os.path.splitext(path)[1].lower()
    if ending in (".pt", ".pth", ".ckpt"):
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
        return tensors, False
    if ending != ".safetensors":
        raise ValueError(f"load_state_dict: {path} must end in .pt, .pth, .ckpt or .safetensors")
    safetensors = extra("safetensors", "safetensors", "load_state_dict")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            if "fastfc" in (file.metadata() or {}):
                raise ValueError(f"load_state_dict: {path} is a network of fastfc's; read it with fc.load")
            dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118, it is not a dict
            unknown = {dtype for dtype in dtypes.values() if dtype not in KNOWN}
            if unknown:
                raise ValueError(f"load_state_dict: {path} is of a dtype that NumPy has not: {', '.join(unknown)}")
            halves = bfloat16s(path) if "BF16" in dtypes.values() else {}
            return {name: halves[name] if name in halves else file.get_tensor(name) for name in dtypes}, True
    except safetensors.SafetensorError as error:
        raise ValueError(f"load_state_dict: {path} is damaged, or no safetensors file: {error}") from error


# The dtypes of safetensors that hold real numbers and that NumPy has, or float32 has in its first half.
KNOWN = "BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "BF16", "F32", "F64"


def bfloat16s(path: str) -> Entries:
    """The bfloat16 tensors of a file in float32, of which bfloat16 is the first half of the bits."""
    safetensors = extra("safetensors", "safetensors", "load_state_dict")
    with open(path, "rb") as file:
        tensors = safetensors.deserialize(file.read())
    return {
        name: (np.frombuffer(tensor["data"], "<u2").astype(np.uint32) << 16).view(np.float32).reshape(tensor["shape"])
        for name, tensor in tensors
        if tensor["dtype"] == "BF16"
    }
