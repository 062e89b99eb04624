"""Files: a network, with its history, an optimizer and notes of yours, in one safetensors file.

Its tensors are the parameters and buffers, named by the place of their layer, such as "0.weight" or "2.1.bias", and
"optimizer.state", with a column for each parameter and, behind those of their layer, for each buffer. Its metadata are
two texts: "fastfc", all the rest as JSON, and "checksum", the CRC-32 of that text and of the tensors. A file holds no
code: what it names is looked up in the tables below. Nothing is allocated that the size of the file does not vouch for.
"""

from __future__ import annotations

import inspect
import json
import math
import operator
import os
import secrets
import stat
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfc._version import __version__
from fastfc.data import columns
from fastfc.extras import extra
from fastfc.kernels.optim import rules
from fastfc.kernels.optim import schedules as schedule_kernels
from fastfc.nn import (
    activations,
    batch_ensemble,
    dropout,
    embedding,
    linear,
    norms,
    numeric_embedding,
    per_feature,
    scalers,
    standardize,
)
from fastfc.nn.activations import Activation, Elementwise
from fastfc.nn.container import CONTAINERS, ENSEMBLES, Container, is_a
from fastfc.nn.dropout import Dropout
from fastfc.nn.layer import Layer
from fastfc.nn.linear import Tied
from fastfc.nn.node import OPS, Input, Node, concatenate
from fastfc.optim import base, full_batch, schedules
from fastfc.optim import first_order as optimizers
from fastfc.optim.base import Optimizer
from fastfc.validation import finite_number, float_dtype, positive_int, positive_number

if TYPE_CHECKING:
    Path = str | os.PathLike[str]

VERSION, VERSION_OF_ENSEMBLES = 1, 2  # of the format; earlier releases say that they can't read the second
LARGEST_TEXT = 90_000_000  # safetensors has headers of up to 100 MB
DEEPEST = 100


def by_name(*kinds: type[Any]) -> dict[str, type[Any]]:
    return {kind.__name__: kind for kind in kinds}


LAYERS: dict[str, type[Any]] = by_name(*activations.LAYERS) | {
    name: getattr(module, name)
    for module in (
        linear,
        norms,
        dropout,
        embedding,
        standardize,
        scalers,
        per_feature,
        numeric_embedding,
        batch_ensemble,
    )
    for name in module.__all__
}
OPTIMIZERS = {name: getattr(module, name) for module in (optimizers, full_batch) for name in module.__all__}
SCHEDULES = by_name(
    schedules.StepLR,
    schedules.MultiStepLR,
    schedules.ExponentialLR,
    schedules.CosineAnnealingLR,
    schedules.CosineAnnealingWarmRestarts,
    schedules.OneCycleLR,
    schedules.LinearWarmup,
    schedules.LinearLR,
    schedules.FlatCosineLR,
    schedules.CosLogLR,
    schedules.ReduceLROnPlateau,
)
# Arguments that are not attributes of the same name: how to read them, or that parameters and `name` hold them.
TOLD_BY: dict[str, Callable[[Any], Any]] = {
    "features": lambda layer: layer.in_features,
    "bias": lambda layer: layer.bias is not None,
    "affine": lambda layer: layer.weight is not None,
    "track_running_stats": lambda layer: layer.running_mean is not None,
    "elementwise_affine": lambda layer: layer.weight is not None,
    "activation": lambda layer: {"kind": type(layer.activation).__name__, "options": options(layer.activation)},
    "groups": lambda optimizer: optimizer.option_as_given("groups"),
    "max_eval": lambda optimizer: optimizer.option_as_given("max_eval"),
    "lr": lambda optimizer: optimizer.option_as_given("lr"),  # rates of groups are in proportion to it
    "schedule": lambda optimizer: optimizer.schedule and schedule_row(optimizer.schedule),
    "schedules": lambda optimizer: {what: schedule_row(one) for what, one in optimizer.schedules.items()},
}
NOT_STORED = ("init", "bias_init", "scale_init", "seed", "dtype", "name", "options", "dim")


class Checkpoint(NamedTuple):
    """What a file holds; of an ensemble its optimizers, a tuple."""

    network: Any
    optimizer: Any
    metadata: dict[str, Any]


def save(network: Container, path: Path, optimizer: Optimizer | None, metadata: Mapping[str, Any] | None) -> None:
    extra("safetensors.numpy", "safetensors", "save")
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise TypeError(f"save: optimizer must be an object such as Adam(), got {optimizer!r}")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise TypeError(f"save: metadata must be a dict, got {metadata!r}")
    writer = Writer()
    header = {
        "version": VERSION,
        "fastfc": __version__,
        "dtype": None if network.dtype is None else network.dtype.name,
        "network": writer.layer(network, ""),
        "history": rows_of_numbers(network.history.rows),
        "optimizer": None if optimizer is None else writer.optimizer(optimizer, network),
    }
    header |= names_of(network)
    write_file(path, header, metadata, writer)


def save_ensemble(team: Any, path: Path, metadata: Mapping[str, Any] | None) -> None:
    """Write what `save` writes of a network for each member, and what is the ensemble's own."""
    extra("safetensors.numpy", "safetensors", "save")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise TypeError(f"save: metadata must be a dict, got {metadata!r}")
    writer = Writer()
    members = [
        {"network": writer.layer(member, str(k)), "history": rows_of_numbers(member.history.rows), **names_of(member)}
        for k, member in enumerate(team.members)
    ]
    for k, (row, optimizer) in enumerate(zip(members, team.optimizers, strict=False)):
        row["optimizer"] = writer.optimizer(optimizer, team.members[k], f"{k}.")
    header = {
        "version": VERSION_OF_ENSEMBLES,
        "fastfc": __version__,
        "dtype": team.dtype.name,
        "ensemble": members,
        "link": team.link,
        "left_out": sorted(team.left_out),
        "history": rows_of_numbers(team.history.rows),
    }
    write_file(path, header, metadata, writer)


def write_file(path: Path, header: dict[str, Any], metadata: Mapping[str, Any] | None, writer: Writer) -> None:
    safetensors = extra("safetensors.numpy", "safetensors", "save")
    text = json.dumps(as_json(header, "the network") | {"metadata": as_json(metadata or {}, "metadata")})
    if len(json.dumps(text)) > LARGEST_TEXT:
        raise ValueError(f"save: metadata and history take more than {LARGEST_TEXT:,} characters; keep them elsewhere")
    notes = {"fastfc": text, "checksum": checksum(text, writer.tensors)}
    write(os.path.realpath(os.fsdecode(path)), safetensors.save(writer.tensors, notes))


def load(path: Path) -> Any:
    """The network or ensemble that its `save` wrote, with its history. Needs the extra `fastfc[safetensors]`.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    Sequential, Graph or Ensemble

    Raises
    ------
    ValueError
        Naming the file, if it is damaged, not one of ours, or of a newer version.
    OSError
        If it can't be read.

    Examples
    --------
    >>> import fastfc as fc
    >>> net = fc.MLP([2, 8, 1], "tanh", seed=0)
    >>> net.save("net.safetensors")
    >>> twin = fc.load("net.safetensors")
    >>> twin
    Sequential([Linear(2, 8), Tanh(), Linear(8, 1)])
    >>> bool((twin.params == net.params).all())
    True
    """
    return load_checkpoint(path).network


def load_checkpoint(path: Path) -> Checkpoint:
    """All that `network.save` wrote: network, optimizer (or None) and metadata. Needs `fastfc[safetensors]`.

    `fit` with the same data, settings and seed then goes on as if it had never stopped, to the last bit.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    Checkpoint
        A named tuple (network, optimizer, metadata).

    Raises
    ------
    ValueError, OSError
        As for `load`.

    Examples
    --------
    >>> import fastfc as fc
    >>> x, y, loss = [[0], [1], [2]], [[1], [3], [5]], fc.MSELoss()
    >>> net, optimizer = fc.MLP([1, 4, 1], seed=0), fc.Adam(0.1, schedule=fc.StepLR(2))
    >>> history = net.fit(x, y, loss=loss, optimizer=optimizer, epochs=2, seed=0)
    >>> net.save("run.safetensors", optimizer=optimizer, metadata={"unit": "m"})
    >>> twin, its_optimizer, metadata = fc.load_checkpoint("run.safetensors")
    >>> metadata, len(twin.history)
    ({'unit': 'm'}, 2)
    >>> history = net.fit(x, y, loss=loss, optimizer=optimizer, epochs=2, seed=0)
    >>> history.loss == twin.fit(x, y, loss=loss, optimizer=its_optimizer, epochs=2, seed=0).loss
    True
    """
    safetensors = extra("safetensors", "safetensors", "load")
    path = regular(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = read_header(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is not a dict
            for name, values in tensors.items():
                if values.dtype.kind not in "biuf":  # bfloat16, where some package makes it known to NumPy
                    raise ValueError(f"{name!r} is {values.dtype}, which no network holds")
            if checksum(file.metadata()["fastfc"], tensors) != file.metadata()["checksum"]:
                raise ValueError("its checksum is wrong")
        return build(header, tensors)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: damaged, or no safetensors file: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path}: damaged: it has no {error}") from error
    except (ValueError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: {error}; nothing was loaded") from error


def regular(path: Path) -> str:
    """The path of a file that can be read without waiting for anybody."""
    path = os.fsdecode(path)
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{path} is not a regular file")
    return path


def read_header(notes: dict[str, str]) -> dict[str, Any]:
    if not {"fastfc", "checksum"} <= set(notes):
        raise ValueError(
            "not a file that network.save wrote; for the weights of another library there is fc.load_state_dict"
        )
    header = json.loads(notes["fastfc"], object_pairs_hook=without_repetition)
    version = header["version"]
    if type(version) is not int or version < 1:
        raise ValueError(f"damaged: its version is {version!r}")
    newest = VERSION_OF_ENSEMBLES if "ensemble" in header else VERSION
    if version > newest:
        raise ValueError(
            f"written by a newer fastfc, {header['fastfc']}, in version {version} of the format; this one reads "
            f"version {newest}: pip install -U fastfc"
        )
    return header


def build(header: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Checkpoint:
    reader = Reader(header["dtype"], tensors)
    if "ensemble" in header:
        return build_ensemble(header, reader)
    network = reader.network(header["network"], "")
    optimizer = None if header["optimizer"] is None else reader.optimizer(header["optimizer"], network)
    check_taken(header, reader)
    network.history.rows[:] = rows_of_numbers(header["history"])
    read_names(network, header)
    return Checkpoint(network, optimizer, header["metadata"])


def build_ensemble(header: dict[str, Any], reader: Reader) -> Checkpoint:
    networks, optimizers = [], []
    for k, row in enumerate(header["ensemble"]):
        network = reader.network(row["network"], str(k))
        network.history.rows[:] = rows_of_numbers(row["history"])
        read_names(network, row)
        networks.append(network)
        if "optimizer" in row:
            optimizers.append(reader.optimizer(row["optimizer"], network, f"{k}."))
    check_taken(header, reader)
    if optimizers and len(optimizers) != len(networks):
        raise ValueError("damaged: some of its members have no optimizer")
    left_out = [below_limit(k, "the ensemble", "left_out") for k in header["left_out"]]
    if any(k >= len(networks) for k in left_out):
        raise ValueError(f"damaged: left_out is {left_out} for {len(networks)} members")
    team = ENSEMBLES["Ensemble"].of(networks)
    team.link = header["link"]
    team.restore(tuple(optimizers), frozenset(left_out))
    team.history.rows[:] = rows_of_numbers(header["history"])
    return Checkpoint(team, team.optimizers or None, header["metadata"])


def check_taken(header: dict[str, Any], reader: Reader) -> None:
    """Raise if a file holds what nothing took, or metadata that are none."""
    if reader.tensors:
        raise ValueError(f"damaged: nothing has the tensors {', '.join(sorted(reader.tensors))}")
    if not isinstance(header["metadata"], dict):
        raise ValueError("damaged: its metadata are not a dict")


def names_of(network: Container) -> dict[str, Any]:
    """The names of the columns that a network knows, if any; names that are neither text nor numbers are not kept."""
    known = {"feature_names": network.input_names(), "target_names": network.target_names()}
    found: dict[str, Any] = {}
    for what, rows in known.items():
        with suppress(TypeError, ValueError):
            found |= {what: as_json(rows, what)} if rows is not None else {}
    return found


def read_names(network: Container, header: dict[str, Any]) -> None:
    known: dict[str, Any] = {}
    no_widths: list[int | None] = [None] * len(network.output_widths())
    for what, widths in (("feature_names", network.input_widths()), ("target_names", no_widths)):
        rows = header.get(what)
        if rows is None:
            continue
        if not isinstance(rows, list) or not all(isinstance(row, list | None) for row in rows):
            raise ValueError(f"damaged: its {what} are {rows!r}")
        rows = [row and [tuple(name) if isinstance(name, list) else name for name in row] for row in rows]
        known[what] = columns.as_names(rows[0] if len(widths) == 1 else rows, widths)
    if known:
        network.learn_names(known.get("feature_names"), known.get("target_names"))


def rows_of_numbers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for row in rows:
        if not all(isinstance(value, Real) for value in row.values()):
            raise ValueError(f"the history has the row {row}; numbers can be stored")
    return rows


class Writer:
    """Describes networks and optimizers in numbers and texts, and gathers their tensors."""

    def __init__(self) -> None:
        self.tensors: dict[str, NDArray[Any]] = {}
        self.places: dict[Layer, str] = {}

    def layer(self, layer: Layer, place: str) -> dict[str, Any]:
        kind = type(layer).__name__
        if (LAYERS | CONTAINERS).get(kind) is not type(layer):
            why = "it is made of functions" if isinstance(layer, Elementwise) else "its class is none of fastfc's own"
            raise TypeError(
                f"save: {layer} can't be stored: {why}, and a file holds no code; build the network again with it and "
                "copy net.params"
            )
        row: dict[str, Any] = {"kind": kind}
        if not isinstance(layer, Activation) and layer.name is not None:
            row["name"] = a_name(layer.name, f"save: {layer}")
        if layer.frozen:
            row["frozen"] = True
        if layer.rng_step:
            row["draws"] = layer.rng_step
        if isinstance(layer, Container):
            if layer.input_shapes is not None:
                row["input_shapes"] = layer.input_shapes
            row["layers"] = [self.layer(part, below(place, i)) for i, part in enumerate(layer.layers)]
            return row | graph_rows(layer) if is_a(layer, "Graph") else row
        self.places[layer] = place
        row["options"] = options(layer)
        if isinstance(layer, Tied):
            if layer.layer not in self.places:
                raise ValueError(f"save: {layer}: {layer.layer} must come before it in the same network")
            row["options"]["layer"] = self.places[layer.layer]
        if isinstance(layer, Dropout):
            row["seed"] = layer.seed
        for name, values in arrays(layer):
            self.tensors[f"{place}.{name}"] = values
        return row

    def optimizer(self, optimizer: Optimizer, network: Container, prefix: str = "") -> dict[str, Any]:
        kind = type(optimizer).__name__
        if OPTIMIZERS.get(kind) is not type(optimizer):
            raise TypeError(f"save: {optimizer} can't be stored: its class is none of fastfc's own")
        try:
            optimizer.check_network(network)
        except ValueError as error:
            raise ValueError(f"save: {error}; give the optimizer that trained the network") from None
        state = optimizer.state
        if 0 < len(state) < optimizer.n_vectors:  # a momentum where there was none
            optimizer.prepare(network)
        if optimizer.state.size:
            of_parameters = columns_of_parameters(network)
            state = np.zeros((len(optimizer.state), len(of_parameters)), network.params.dtype)
            state[:, of_parameters] = optimizer.state
            if optimizer.average:
                state[-1, ~of_parameters] = network.buffers
            self.tensors[f"{prefix}optimizer.state"] = state
        row = {
            "kind": kind,
            "options": options(optimizer),
            "lr": optimizer.lr,
            "count": optimizer.count.tolist(),
            "epochs": optimizer.epochs,
            "of_epochs": optimizer.hyper[OF_EPOCHS].tolist(),
        }
        return row | optimizer.fit_state()


OF_EPOCHS = [schedule_kernels.EPOCHS, schedule_kernels.SINCE, schedule_kernels.STEPS_PER_EPOCH]


class Reader:
    """Makes networks and optimizers from what a Writer has described, and takes their tensors."""

    def __init__(self, dtype: Any, tensors: dict[str, NDArray[Any]]) -> None:
        self.dtype = np.dtype(np.float32) if dtype is None else float_dtype(dtype, "the network")
        self.tensors = tensors
        self.layers: dict[str, Layer] = {}

    def take(self, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        if name not in self.tensors:
            raise ValueError(f"damaged: the tensor {name} is missing")
        found = self.tensors.pop(name)
        if (found.shape, found.dtype) != (shape, self.dtype):
            raise ValueError(
                f"damaged: the tensor {name} has shape {found.shape} and dtype {found.dtype}, expected {shape} and "
                f"{self.dtype}"
            )
        return found

    def network(self, row: dict[str, Any], place: str) -> Container:
        network = self.layer(row, place)
        if not isinstance(network, Container):
            raise ValueError(f"damaged: it holds {network}, which is not a network")
        return network

    def layer(self, row: dict[str, Any], place: str) -> Layer:
        what = f"layer {place}" if place else "the network"
        row = dict(row)
        kind = known(LAYERS | CONTAINERS, row.pop("kind"), what)
        name, frozen, draws = row.pop("name", None), row.pop("frozen", False), row.pop("draws", 0)
        if issubclass(kind, Container):
            parts = [self.layer(part, below(place, i)) for i, part in enumerate(row.pop("layers"))]
            ends = (row.pop(key) for key in ("nodes", "inputs", "outputs"))
            network: Any = graph(parts, *ends) if kind is CONTAINERS["Graph"] else CONTAINERS["Sequential"](parts)
            if "input_shapes" in row:
                network.input_shapes = row.pop("input_shapes")
            layer: Layer = network
        else:
            layer = self.leaf(kind, row.pop("options"), place)
        if isinstance(layer, Dropout):
            layer.restore_seed(below_limit(row.pop("seed"), what, "seed"))
        if name is not None:
            if isinstance(layer, Activation):
                raise ValueError(f"damaged: {what} is an activation, and has the name {name!r}")
            layer.name = a_name(name, what)
        if frozen is not False:
            layer.frozen = frozen
        if draws:
            layer.rng_step = below_limit(draws, what, "draws")
        if row:
            raise ValueError(f"damaged: {what} has {', '.join(row)}")
        self.layers[place] = layer
        return layer

    def leaf(self, kind: type[Layer], given: dict[str, Any], place: str) -> Layer:
        given = dict(given)
        if kind is Tied:
            given["layer"] = self.layers[given["layer"]]
        if isinstance(given.get("activation"), Mapping):
            inner = dict(given["activation"])
            activation = known(by_name(*activations.LAYERS), inner.pop("kind"), f"the activation of layer {place}")
            given["activation"] = self.leaf(activation, inner.pop("options"), place)
        found = {name: self.take(f"{place}.{name}", shape) for name, shape in kind.tensor_shapes(given).items()}
        more = {"dtype": self.dtype, "init": "zeros"}
        layer = kind(**given, **{name: more[name] for name in inspect.signature(kind).parameters if name in more})
        for name, values in arrays(layer):
            values[...] = found[name]
        return layer

    def optimizer(self, row: dict[str, Any], network: Container, prefix: str = "") -> Optimizer:
        given = dict(row["options"])
        if given.get("schedule"):
            given["schedule"] = schedule(given["schedule"])
        if given.get("schedules"):
            given["schedules"] = {what: schedule(one) for what, one in given["schedules"].items()}
        optimizer: Optimizer = known(OPTIMIZERS, row["kind"], "the optimizer")(**given)
        optimizer.lr = row["lr"]
        for place, number in zip(OF_EPOCHS, row["of_epochs"], strict=True):
            if finite_number(number, optimizer, "epochs of the schedule") < 0:
                raise ValueError(f"damaged: {optimizer}: epochs of the schedule are {row['of_epochs']}")
            optimizer.hyper[place] = number
        optimizer.epochs = below_limit(row["epochs"], optimizer, "epochs")
        plateau = first_lr = seed = generator = None
        if row["plateau"] is not None:
            best, bad, cooldown = row["plateau"]
            counts = [positive_int(count, optimizer, "counts of epochs", or_zero=True) for count in (bad, cooldown)]
            plateau = float(best), counts[0], counts[1]
            first_lr = row.get("first_lr")  # which version 0.1 did not keep
            first_lr = None if first_lr is None else positive_number(first_lr, optimizer, "first_lr")
        if "seed" in row:
            seed, generator = row["seed"], row["generator"]
            if type(seed) is not int:
                raise ValueError(f"damaged: {optimizer}: its seed is {seed!r}")
        optimizer.restore_fit_state(plateau, first_lr, seed, generator)
        optimizer.count[:] = counts_of(optimizer, *row["count"])
        if optimizer.count[0]:
            optimizer.measure(network)
        tensor = f"{prefix}optimizer.state"
        if tensor in self.tensors:
            state = self.tensors[tensor]
            if len(state) < optimizer.n_vectors or not state.size:
                raise ValueError(f"damaged: {optimizer}: its state has {len(state)} vectors, not {optimizer.n_vectors}")
            of_parameters = columns_of_parameters(network)
            optimizer.state = self.take(tensor, (len(state), len(of_parameters)))[:, of_parameters]
        elif optimizer.count[0] and optimizer.n_vectors and network.params.size:
            raise ValueError(f"damaged: {optimizer}: its state is missing")
        return optimizer


def columns_of_parameters(layer: Layer) -> NDArray[np.bool_]:
    """Which columns of the state in a file are of parameters; the others are of buffers, behind each layer's own."""
    if isinstance(layer, Container):
        return np.concatenate([columns_of_parameters(part) for part in layer.layers])
    return np.repeat([True, False], [layer.params.size, layer.buffers.size])


def counts_of(optimizer: Optimizer, steps: Any, other: Any) -> tuple[int, int]:
    """The optimizer's count, if it can be one: the second is a number of steps, or the bits of a float that is."""
    steps, other = below_limit(steps, optimizer, "count"), below_limit(other, optimizer, "count")
    as_float = float(np.int64(other).view(np.float64))
    bad = {rules.NADAM: not math.isfinite(as_float), rules.LEVENBERG_MARQUARDT: not 0 < as_float < math.inf}
    if steps and bad.get(optimizer.code):
        raise ValueError(f"damaged: {optimizer}: its count is {[steps, other]}")
    return steps, other


def graph_rows(network: Any) -> dict[str, Any]:
    """The nodes of a graph and what they read, by number."""
    place = {node: i for i, node in enumerate(network.nodes)}
    layer_of = {layer: i for i, layer in enumerate(network.layers)}
    rows = []
    for node in network.nodes:
        row: dict[str, Any] = {"reads": [place[other] for other in node.inputs]}
        if isinstance(node, Input):
            row = {"input": node.width, "name": a_name(node.name, f"save: {node}")}
        elif isinstance(node.what, Layer):
            row["layer"] = layer_of[node.what]
        else:
            assert node.what is not None
            row["gate"] = OPS[node.what]
            if row["gate"] == "scale":
                row["factor"] = node.factor
        rows.append(row)
    ends = {what: [place[node] for node in getattr(network, what)] for what in ("inputs", "outputs")}
    return {"nodes": rows, **ends}


def graph(parts: Sequence[Layer], rows: list[dict[str, Any]], inputs: list[int], outputs: list[int]) -> Container:
    nodes: list[Node] = []
    for row in rows:
        if "input" in row:
            nodes.append(Input(row["input"], a_name(row["name"], "an input")))
            continue
        read = [nodes[index] for index in row["reads"]]
        if "layer" in row:
            node, *others = (parts[row["layer"]](read[0]), *read[1:])
        elif row["gate"] == "concatenate":
            node, others = concatenate(read), []
        elif row["gate"] == "scale":
            node, *others = (read[0] * finite_number(row["factor"], "the graph", "factor"), *read[1:])
        else:
            first, second, *others = read
            node = {"add": operator.add, "multiply": operator.mul}[row["gate"]](first, second)
        if others:
            raise ValueError(f"damaged: node {len(nodes)} of the graph reads {len(read)} others")
        nodes.append(node)
    network = CONTAINERS["Graph"]([nodes[index] for index in inputs], [nodes[index] for index in outputs])
    if network.layers != tuple(parts) or set(network.nodes) != set(nodes):
        raise ValueError("damaged: the outputs of the graph need not all of its nodes and layers in this order")
    return network


def schedule_row(what: Any) -> dict[str, Any]:
    kind = type(what).__name__
    if SCHEDULES.get(kind) is not type(what):
        raise TypeError(f"save: {what} can't be stored: its class is none of fastfc's own")
    given = {field.name: getattr(what, field.name) for field in fields(what)}
    if given.get("after") is not None:
        given["after"] = schedule_row(given["after"])
    return {"kind": kind, "options": given}


def schedule(row: dict[str, Any]) -> Any:
    given = dict(row["options"])
    if given.get("after") is not None:
        given["after"] = schedule(given["after"])
    return known(SCHEDULES, row["kind"], "the schedule")(**given)


def options(thing: Any) -> dict[str, Any]:
    """The arguments that make another one like it."""
    names = list(inspect.signature(type(thing)).parameters)
    names = [name for name in names if name not in NOT_STORED] + list(base.Options.__annotations__) * (
        "options" in names
    )
    return {
        name: TOLD_BY[name](thing) if name in TOLD_BY else getattr(thing, name) for name in names if name != "layer"
    }


def arrays(layer: Layer) -> list[tuple[str, NDArray[Any]]]:
    return [(name, values) for name, values, _ in layer.named_parameters()] + layer.named_buffers()


def below(place: str, i: int) -> str:
    return f"{place}.{i}" if place else str(i)


def known(kinds: dict[str, type[Any]], kind: Any, what: str) -> type[Any]:
    if kind not in kinds:
        raise ValueError(f"{what} is of the unknown kind {kind!r}; known are {', '.join(kinds)}")
    return kinds[kind]


def a_name(name: Any, owner: str) -> str | None:
    if not isinstance(name, str | None):
        raise ValueError(f"{owner} has the name {name!r}, which is not text")
    return name


def below_limit(value: Any, owner: object, what: str) -> int:
    """A number that an int64 can hold."""
    value = positive_int(value, owner, what, or_zero=True)
    if value >= 1 << 63:
        raise ValueError(f"{owner}: {what} must be less than 2**63, got {value}")
    return value


def without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("damaged: a key is duplicated")
    return found


def as_json(value: Any, what: str, depth: int = 0) -> Any:
    """The value in Python's own dicts, lists, texts and numbers, or a TypeError that says where it has others."""
    if depth > DEEPEST:
        raise ValueError(f"save: {what.partition('[')[0]} is nested more than {DEEPEST} deep")
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, list | tuple):
        return [as_json(part, f"{what}[{i}]", depth + 1) for i, part in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"save: {what} has the key {key!r}; a file holds texts as keys")
        return {key: as_json(part, f"{what}[{key!r}]", depth + 1) for key, part in value.items()}
    raise TypeError(
        f"save: {what} is {type(value).__name__}; a file holds None, texts, numbers, and lists and dicts of them"
    )


def checksum(text: str, tensors: dict[str, NDArray[Any]]) -> str:
    found = zlib.crc32(text.encode())
    for name, values in sorted(tensors.items()):
        found = zlib.crc32(f"{name} {values.dtype.name} {values.shape}".encode(), found)
        found = zlib.crc32(values.astype(values.dtype.newbyteorder("<"), copy=False).data, found)
    return f"{found:08x}"


def write(path: str, data: bytes) -> None:
    """Make or replace a file: anybody who reads it finds the old one or the new one, even after a crash."""
    if os.path.lexists(path) and not os.path.isfile(path):
        raise ValueError(f"{path} is there already, and no regular file")
    folder = os.path.dirname(path)
    temporary = os.path.join(folder, f".fastfc-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    if hasattr(os, "O_DIRECTORY"):  # where folders can be opened, the new name is to last too
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
