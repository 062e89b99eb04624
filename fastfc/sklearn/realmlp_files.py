"""RealMLP estimators as files: safetensors, and ONNX models that take the columns of a table."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from fastfc.data.features import CLIP, Features
from fastfc.extras import extra
from fastfc.io.checkpoint import load_checkpoint, write
from fastfc.io.onnx.writer import IR_VERSION, OPSET, Writer
from fastfc.models.realmlp import Recipe
from fastfc.training.history import History

KEY = "fastfc.sklearn.RealMLP"
VERSION = 1
ML = "ai.onnx.ml"
FAR = 1e18  # where the smooth clip is at its bound, and squares are finite
ARRAYS = ("center_", "spread_", "low_", "high_", "classes_")
PLAIN = ("temperatures_", "best_epochs_", "n_iter_", "n_features_in_", "n_outputs_", "_one_column", "quantiles_")


def save(estimator: Any, path: str | os.PathLike[str]) -> None:
    params = {name: value for name, value in estimator.get_params().items() if name != "callbacks"}
    if not isinstance(params["random_state"], int | np.integer):
        del params["random_state"]
    if isinstance(params.get("class_weight"), dict):  # whose keys need not be texts
        params["class_weight"] = {"pairs": list(params["class_weight"].items())}
    about: dict[str, Any] = {
        "version": VERSION,
        "class": type(estimator).__name__,
        "params": {name: plain(value) for name, value in params.items()},
        "features": plain(estimator.features_.to_dict()),
        "recipe": plain(vars(estimator.recipe_)),
        "histories": [history.rows for history in estimator.histories_],
        "names": [str(name) for name in getattr(estimator, "feature_names_in_", ())],
    }
    for name in ARRAYS:
        if hasattr(estimator, name):
            array = getattr(estimator, name)
            about[name] = {"dtype": array.dtype.str, "values": [plain(value) for value in array.tolist()]}
    about |= {name: plain(getattr(estimator, name)) for name in PLAIN if hasattr(estimator, name)}
    estimator.network_.save(path, metadata={KEY: about})


def plain(value: Any) -> Any:
    """As JSON has it, with infinite numbers as texts."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value


def load(kind: type[Any], path: str | os.PathLike[str]) -> Any:
    checkpoint = load_checkpoint(path)
    about = (checkpoint.metadata or {}).get(KEY)
    if not isinstance(about, dict) or about.get("version") != VERSION:
        raise ValueError(f"{kind.__name__}.load: {path} was not written by save of such an estimator of this version")
    if about["class"] != kind.__name__:
        raise ValueError(f"{kind.__name__}.load: {path} holds a {about['class']}; use {about['class']}.load")
    weights = about["params"].get("class_weight")
    if isinstance(weights, dict) and "pairs" in weights:
        about["params"]["class_weight"] = dict(weights["pairs"])
    estimator = kind(**about["params"])
    estimator.features_ = Features.from_dict(about["features"])
    recipe = about["recipe"]
    estimator.recipe_ = Recipe(**(recipe | {"hidden": tuple(recipe["hidden"])}))
    estimator.histories_ = []
    for rows in about["histories"]:
        estimator.histories_.append(History())
        estimator.histories_[-1].rows.extend(rows)
    if about["names"]:
        estimator.feature_names_in_ = np.array(about["names"], dtype=object)
    for name in ARRAYS:
        if name in about:
            setattr(estimator, name, np.array(about[name]["values"], dtype=np.dtype(about[name]["dtype"])))
    if "quantiles" in about["params"]:
        about.setdefault("quantiles_", about["params"]["quantiles"])  # of a file that has none
    for name in PLAIN:
        if name in about:
            setattr(estimator, name, about[name])
    estimator.network_ = checkpoint.network
    estimator.network_.n_threads = estimator.n_threads
    return estimator


def to_onnx(estimator: Any, path: str | os.PathLike[str]) -> None:
    """Nodes for the columns, those of the networks, and those that make predictions of their outputs."""
    onnx = extra("onnx", "onnx", "to_onnx")
    model = Model(onnx, estimator).model()
    onnx.checker.check_model(model, full_check=True)
    write(os.path.realpath(os.fsdecode(path)), model.SerializeToString())


class Model:
    """An ONNX model of an estimator."""

    def __init__(self, onnx: Any, estimator: Any) -> None:
        self.onnx, self.estimator, self.features = onnx, estimator, estimator.features_
        self.writer = Writer(onnx, estimator.network_)
        self.inputs: list[Any] = []
        self.extra_nodes: list[Any] = []  # of ai.onnx.ml, and others whose constants are not of the network's dtype
        self.extra_constants: list[Any] = []

    def model(self) -> Any:
        helper = self.onnx.helper
        outputs = self.writer.graph(self.estimator.network_, self.columns(), "")
        described = self.probabilities(outputs) if hasattr(self.estimator, "classes_") else self.numbers(outputs)
        nodes = [helper.make_node(op, read, [y], **attributes) for op, read, y, attributes in self.writer.nodes]
        constants = [self.onnx.numpy_helper.from_array(a, name) for name, a in self.writer.constants.items()]
        graph = helper.make_graph(
            in_order([*self.extra_nodes, *nodes], [i.name for i in self.inputs]),
            "fastfc",
            self.inputs,
            described,
            [*constants, *self.extra_constants],
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(ML, 3)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="fastfc")

    def node(self, op: str, read: list[str], domain: str = "", **attributes: Any) -> str:
        name = self.writer.name(op.lower())
        self.extra_nodes.append(self.onnx.helper.make_node(op, read, [name], domain=domain, **attributes))
        return name

    def array(self, values: Any) -> str:
        """A constant of its own dtype."""
        name = self.writer.name("constant")
        self.extra_constants.append(self.onnx.numpy_helper.from_array(np.asarray(values), name))
        return name

    def input(self, wanted: str, kind: Any, width: int) -> str:
        name = self.writer.name(wanted)
        self.inputs.append(self.onnx.helper.make_tensor_value_info(name, kind, ["batch", width]))
        return name

    def columns(self) -> list[str]:
        """What the network's inputs are, from the columns of a table."""
        f, kinds, parts = self.features, self.onnx.TensorProto, []
        hot: list[str] = []
        if f.n_numbers:
            parts.append(self.scaled_numbers(self.input("numbers", kinds.FLOAT, f.n_numbers), hot))
        codes, first = [], 0
        for index, (i, names) in enumerate(zip(f.categories, f.names, strict=True)):
            own = f"column{i}" if f.column_names is None else f.column_names[i]
            text = self.input(own, kinds.STRING, 1)
            code = self.node(
                "LabelEncoder",
                [text],
                ML,
                keys_strings=names or [""],
                default_int64=0,
                values_int64s=[*range(1, len(names) + 1)] or [0],
            )
            if f.is_hot(names):
                table = f.hot_table(index)
                if table.shape[1]:
                    flat = self.node("Reshape", [code, self.array(np.array([-1], np.int64))])
                    hot.append(self.node("Gather", [self.array(table), flat], axis=0))
            else:
                shifted = self.node("Add", [code, self.array(np.int64(first))])
                codes.append(self.node("Cast", [shifted], to=kinds.FLOAT))
                first += len(names) + 1
        together = lambda values: [values[0] if len(values) == 1 else self.writer.op("Concat", *values, axis=1)]
        return [*parts, *(together(hot) if hot else []), *(together(codes) if codes else [])]

    def scaled_numbers(self, x: str, hot: list[str]) -> str:
        """The numbers, scaled and clipped; appends the scaled indicators of missing ones to `hot`."""
        f, kinds = self.features, self.onnx.TensorProto
        center = np.array([[s.center for s in f.scales]], np.float32)
        width = np.array([[s.width for s in f.scales]])
        missing = self.node("IsNaN", [x])
        filled = self.node("Where", [missing, self.array(center), x])
        told = [j for j, s in enumerate(f.scales) if s.missing]
        if told:
            columns = self.node("Gather", [missing, self.array(np.array(told, np.int64))], axis=1)
            number = self.node("Cast", [columns], to=kinds.FLOAT)
            scales = np.array(f.hot_scales[: len(told)], np.float64)
            hot.append(self.clipped(number, scales[None, :, 0], scales[None, :, 1]))
        return self.clipped(filled, center, width)

    def clipped(self, x: str, center: Any, width: Any) -> str:
        w = self.writer
        z = w.op("Div", w.op("Sub", x, center), np.where(width > 0, width, np.inf))
        z = w.op("Max", w.op("Min", z, FAR), -FAR)
        third = w.op("Mul", z, 1 / CLIP)
        return w.op("Div", z, w.op("Sqrt", w.op("Add", w.op("Mul", third, third), 1.0)))

    def mean(self, parts: list[str]) -> str:
        total = parts[0] if len(parts) == 1 else self.writer.op("Sum", *parts)
        return self.writer.op("Mul", total, 1 / len(parts))

    def probabilities(self, outputs: list[str]) -> list[Any]:
        """The label and the probabilities."""
        w, kinds, classes = self.writer, self.onnx.TensorProto, self.estimator.classes_
        warm = [
            w.op("Softmax", w.op("Mul", o, 1 / t), axis=1)
            for o, t in zip(outputs, self.estimator.temperatures_, strict=True)
        ]
        p = self.renamed(self.mean(warm), "probabilities")
        texts = classes.dtype.kind not in "biuf"
        if not texts and any(int(label) != label or abs(int(label)) >= 2**63 for label in classes.tolist()):
            raise ValueError(f"to_onnx: classes are {classes.dtype}; ONNX has labels of int64 and of strings")
        place = self.node("ArgMax", [p], axis=1, keepdims=0)
        constant = self.array(np.array([str(c) for c in classes], object) if texts else classes.astype(np.int64))
        self.extra_nodes.append(self.onnx.helper.make_node("Gather", [constant, place], ["label"], axis=0))
        describe = self.onnx.helper.make_tensor_value_info
        return [
            describe("label", kinds.STRING if texts else kinds.INT64, ["batch"]),
            describe("probabilities", kinds.FLOAT, ["batch", len(classes)]),
        ]

    def numbers(self, outputs: list[str]) -> list[Any]:
        e, w, limits = self.estimator, self.writer, np.finfo(np.float32)
        if (np.abs(e.center_) + 1e3 * e.spread_ > limits.max).any() or (e.spread_ < limits.tiny).any():
            raise ValueError(f"to_onnx: targets of spread {e.spread_.tolist()} do not fit float32; scale them")
        bounds = [np.nan_to_num(b, posinf=3e38, neginf=-3e38) for b in (e.low_, e.high_)]
        parts = [w.op("Add", w.op("Mul", o, e.spread_[None]), e.center_[None]) for o in outputs]
        parts = [w.op("Max", w.op("Min", part, bounds[1][None]), bounds[0][None]) for part in parts]
        mean = self.mean(parts)
        if e.quantiles_ is not None:  # in order
            rank = np.argsort(np.argsort(e.quantiles_, kind="stable"))
            mean = self.node("Gather", [self.sorted(mean, len(rank)), self.array(rank.astype(np.int64))], axis=1)
        name = self.renamed(mean, "prediction")
        return [self.onnx.helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, ["batch", len(e.center_)])]

    def sorted(self, value: str, width: int) -> str:
        """The columns of each row from the least to the greatest."""
        names = [self.writer.name("sorted"), self.writer.name("places")]
        read = [value, self.array(np.array([width], np.int64))]
        self.extra_nodes.append(self.onnx.helper.make_node("TopK", read, names, axis=1, largest=0))
        return names[0]

    def renamed(self, value: str, name: str) -> str:
        self.writer.nodes.append(("Identity", [value], self.writer.name(name), {}))
        return self.writer.nodes[-1][2]


def in_order(nodes: list[Any], known: list[str]) -> list[Any]:
    """The nodes, each after those whose values it reads."""
    made = {output for node in nodes for output in node.output}
    there, order, rest = set(known), [], list(nodes)
    while rest:
        ready = [node for node in rest if all(name in there or name not in made for name in node.input)]
        order += ready
        there.update(output for node in ready for output in node.output)
        rest = [node for node in rest if not any(node is other for other in ready)]
    return order
