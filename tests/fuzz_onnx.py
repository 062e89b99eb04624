"""Random small ONNX graphs: from_onnx refuses one, or its network agrees with ONNX Runtime.

`python tests/fuzz_onnx.py FIRST LAST` runs the graphs of these numbers. Sizes are few and often equal, so that a wrong
transposition, axis or broadcast shows in numbers and not in shapes.
"""

import collections
import random
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import fastfc as fc

onnxruntime.set_default_logger_severity(4)

FLOAT, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64
OPSETS = [7, 9, 10, 11, 12, 13, 15, 17, 18, 20, 22]
SIZES = [1, 2, 3, 3, 3, 3]
UNARY = ["Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "Tanh", "Softplus", "Softsign"]
UNARY += ["HardSwish", "Mish", "Gelu", "Neg", "Identity", "Clip", "Softmax", "LogSoftmax", "Dropout"]
# those that ONNX Runtime has in float64; those that are only parts of others, or not supported
IN_DOUBLE = ["Relu", "Sigmoid", "Tanh", "Neg", "Identity", "Clip", "Softmax", "LogSoftmax", "Dropout"]
PARTS = ["Abs", "Sqrt", "Exp", "Erf", "Reciprocal", "Log", "Floor", "ThresholdedRelu"]
NUMBERS = [-2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 3.0]
BINARY = ["Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu", "Pow"]


class Defect(AssertionError):
    """The network is not the model."""


class Graphs:
    """A model that grows node by node; what is not valid ONNX is taken back."""

    def __init__(self, r):
        self.r = r
        self.opset = r.choice(OPSETS)
        self.type = FLOAT if r.random() < 0.7 else DOUBLE
        self.dtype = np.float32 if self.type == FLOAT else np.float64
        self.batch = r.choice([1, 2, 3, 3, 3])
        self.fixed = r.random() < 0.3  # whether the file says how large the batch is
        self.nodes, self.initializers, self.inputs = [], [], {}
        self.shapes = {}  # of values that depend on the inputs, with the batch as a number
        self.constants = {}  # shapes of constants
        self.count = 0
        for i in range(r.choice([1, 1, 1, 2])):
            rank = r.choice([2, 2, 2, 2, 2, 2, 2, 1, 3, 4])
            shape = [self.batch] + [self.size() for _ in range(rank - 1)]
            if rank == 1 and r.random() < 0.6:
                shape = [self.size()]
            name = f"x{i}"
            said = list(shape)
            if rank > 1 or shape[0] == self.batch:
                said[0] = shape[0] if self.fixed else "n"
            if rank == 2 and r.random() < 0.1:
                said[1] = "features"
            self.inputs[name], self.shapes[name] = said, tuple(shape)

    def size(self):
        return self.r.choice(SIZES)

    def name(self, what):
        self.count += 1
        return f"{what}{self.count}"

    def model(self, nodes=None, outputs=()):
        make = helper.make_tensor_value_info
        ends = [make(name, *self.described(name)) for name in outputs]
        graph = helper.make_graph(
            self.nodes if nodes is None else nodes,
            "g",
            [make(name, self.type, shape) for name, shape in self.inputs.items()],
            ends,
            self.initializers,
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("ai.onnx.ml", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def described(self, name):
        return self.type, [None] * len({**self.shapes, **self.constants}[name])

    def constant(self, array, whole=False):
        """An initializer, a Constant or a small expression that gives this array."""
        r = self.r
        array = np.asarray(array, np.int64 if whole else self.dtype)
        name = self.name("i" if whole else "c")
        if r.random() < 0.3:
            tensor = numpy_helper.from_array(array, name)
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.initializers.append(numpy_helper.from_array(array, name))
        if not whole:
            self.constants[name] = array.shape
        return name

    def numbers(self, shape):
        size = int(np.prod(shape))
        zero = [0.0] if self.r.random() < 0.2 else []
        return np.array([self.r.choice(NUMBERS + zero) for _ in range(size)]).reshape(shape)

    def random_constant(self, shape):
        """A constant of this shape, maybe by arithmetic of others."""
        r, shape = self.r, tuple(shape)
        how = r.randrange(12)
        if how == 0 and len(shape) > 0:
            perm = r.sample(range(len(shape)), len(shape))
            source = tuple(np.zeros(shape).transpose(np.argsort(perm)).shape)
            attributes = {} if perm == list(range(len(shape)))[::-1] and r.random() < 0.5 else {"perm": perm}
            return self.fold("Transpose", [self.constant(self.numbers(source))], **attributes)
        if how == 1 and 1 in shape:
            axis = shape.index(1)
            return self.by_axes("Unsqueeze", self.constant(self.numbers(shape[:axis] + shape[axis + 1 :])), axis, shape)
        if how == 2:
            axis = r.randrange(len(shape) + 1)
            wider = (*shape[:axis], 1, *shape[axis:])
            return self.by_axes("Squeeze", self.constant(self.numbers(wider)), axis, wider)
        if how == 3:
            flat = self.constant(self.numbers(int(np.prod(shape))))
            return self.fold("Reshape", [flat, self.constant(shape, whole=True)])
        if how == 4:
            other = self.constant(self.numbers(r.choice([(), (1,), shape])))
            read = r.sample([self.constant(self.numbers(shape)), other], 2)
            return self.fold(r.choice(["Add", "Sub", "Mul"]), read)
        if how == 5:
            return self.fold(r.choice(["Neg", "Identity", "Abs", "Exp", "Relu"]), [self.constant(self.numbers(shape))])
        if how == 6:
            other = DOUBLE if self.type == FLOAT else FLOAT
            there = self.fold("Cast", [self.constant(self.numbers(shape))], to=r.choice([self.type, other]))
            return self.fold("Cast", [there], to=self.type)
        return self.constant(self.numbers(shape))

    def fold(self, op, read, **attributes):
        name = self.name("f")
        self.nodes.append(helper.make_node(op, read, [name], **attributes))
        return name

    def by_axes(self, op, name, axis, shape):
        axis -= len(shape) * (self.r.random() < 0.3 and self.opset >= 11)
        if self.opset >= 13:
            return self.fold(op, [name, self.constant([axis], whole=True)])
        return self.fold(op, [name], axes=[axis])

    def value(self):
        return self.r.choice([name for name, shape in self.shapes.items() if shape][-4:])

    # --- nodes: operator, what it reads, attributes, number of outputs

    def unary(self):
        r, x, attributes = self.r, self.value(), {}
        op = r.choice(PARTS if r.random() < 0.03 else UNARY if self.type == FLOAT else IN_DOUBLE)
        read = [x]
        maybe = lambda name, values: attributes.update({name: r.choice(values)}) if r.random() < 0.6 else None
        if op in ("LeakyRelu", "Elu", "Celu", "Selu", "HardSigmoid", "ThresholdedRelu", "Swish"):
            maybe("alpha", [0.25, 1.0, 0.5, 2.0])
        if op == "Selu":
            maybe("gamma", [0.5, 1.0])
        if op == "HardSigmoid":
            maybe("beta", [0.5, 0.25])
        if op == "Gelu":
            maybe("approximate", ["none", "tanh"])
        if op in ("Softmax", "LogSoftmax"):
            maybe("axis", [-1, -1, 1, 1, 1, 0, len(self.shapes[x]) - 1])
        if op == "Dropout" and self.opset < 12:
            maybe("ratio", [0.25])
        if op == "Clip":
            bounds = sorted(r.sample([-1.0, -0.5, 0.0, 0.5, 2.0], 2))
            bounds = [bound if r.random() < 0.7 else None for bound in bounds]
            if self.opset < 11:
                attributes |= {k: v for k, v in zip(("min", "max"), bounds, strict=True) if v is not None}
            else:
                read += ["" if bound is None else self.constant(bound) for bound in bounds]
        return op, read, attributes, 1

    def operand_shape(self, shape):
        """Of a constant that broadcasts with this shape, or makes it larger."""
        r = self.r
        own = tuple(size if r.random() < 0.7 else 1 for size in shape[1:])
        if r.random() < 0.1:
            return r.choice([(shape[0], *own), own[1:], (*own, 1), (1, 1, *own)])
        return r.choice([(), (1,), shape[-1:], own, (1, *own)])

    def binary(self):
        r, op, x = self.r, self.r.choice(BINARY), self.value()
        other = self.value() if r.random() < 0.4 else self.random_constant(self.operand_shape(self.shapes[x]))
        if op == "Pow":
            other = self.constant(r.choice([1.0, 2.0, 0.5]))
        read = [x, other]
        if op not in ("PRelu", "Pow") and r.random() < 0.5:
            read.reverse()
        return op, read, {}, 1

    def several(self):
        x = self.value()
        same = [name for name, shape in self.shapes.items() if shape == self.shapes[x]]
        read = [x, *(self.r.choice(same) for _ in range(self.r.randrange(3)))]
        if self.r.random() < 0.4:
            read.insert(self.r.randrange(2), self.random_constant(self.operand_shape(self.shapes[x])))
        return self.r.choice(["Sum", "Max", "Min"]), read, {}, 1

    def gemm(self):
        r, x = self.r, self.value()
        attributes = {}
        for name, values in {
            "alpha": NUMBERS,
            "beta": [*NUMBERS, 0.0],
            "transA": [0] * 9 + [1],
            "transB": [0, 1],
        }.items():
            if r.random() < 0.5:
                attributes[name] = r.choice(values)
        width, size = self.shapes[x][-1], self.size()
        weight = self.random_constant((size, width) if attributes.get("transB") else (width, size))
        read = [x, weight] if r.random() < 0.9 else [weight, x]
        if r.random() < 0.7 or self.opset < 11:
            form = r.choice([(), (1,), (size,), (1, size), (1, 1)])
            if r.random() < 0.1:
                form = r.choice([(self.batch, size), (self.batch, 1)])
            if r.random() < 0.2:
                read.append(self.value())
            elif attributes.get("beta") == 0 and r.random() < 0.6:
                read.append(self.constant(np.full(form, r.choice([np.inf, np.nan, 1.0]))))
            else:
                read.append(self.random_constant(form))
        return "Gemm", read, attributes, 1

    def matmul(self):
        r, x = self.r, self.value()
        width, size = self.shapes[x][-1], self.size()
        if r.random() < 0.1:
            return "MatMul", [self.random_constant((size, self.shapes[x][0])), x], {}, 1
        if r.random() < 0.05:
            return "MatMul", [x, self.value()], {}, 1
        return "MatMul", [x, self.random_constant((width, size) if r.random() < 0.95 else (width,))], {}, 1

    def join(self):
        r, x = self.r, self.value()
        read = [x, *(self.value() for _ in range(r.randrange(3)))]
        if r.random() < 0.2:
            read.append(self.random_constant(self.shapes[x]))
        return "Concat", read, {"axis": r.choice([1, 1, 1, -1, 0, len(self.shapes[x]) - 1])}, 1

    def cut(self):
        """Split, Slice and Gather along an axis."""
        r, x = self.r, self.value()
        shape = self.shapes[x]
        axis = r.choice([len(shape) - 1, len(shape) - 1, 1, 0, -1])
        width = shape[axis] if -len(shape) <= axis < len(shape) else 1
        op = r.choice(["Split", "Slice", "Slice", "Gather"])
        if op == "Gather":
            index = r.choice([0, width - 1, [0], [width - 1, 0], list(range(width))[::-1], -1, [-1, 0], [[0, 0]]])
            return op, [x, self.constant(index, whole=True)], {"axis": axis}, 1
        if op == "Split":
            first = r.randrange(1, width) if width > 1 else 1
            sizes = [first, width - first] if width > 1 else [1]
            if r.random() < 0.2 and width == 3:
                sizes = [1, 1, 1]
            if len(sizes) == 1 or (len(set(sizes)) == 1 and r.random() < 0.6):
                attributes = {"num_outputs": len(sizes)} if self.opset >= 18 else {}
                return op, [x], {"axis": axis, **attributes}, len(sizes)
            if self.opset < 13:
                return op, [x], {"axis": axis, "split": sizes}, len(sizes)
            return op, [x, self.constant(sizes, whole=True)], {"axis": axis}, len(sizes)
        start = r.choice([0, 0, 1, -1, -2, width - 1, -9])
        end = r.choice([width, 1, 2, -1, 1 << 40, width + 3, -9])
        step = r.choice([1, 1, 1, 2, -1])
        if self.opset < 10:
            given = {} if r.random() < 0.2 and axis == 0 else {"axes": [axis]}
            return op, [x], {"starts": [start], "ends": [end], **given}, 1
        numbers = [[start], [end]]
        if r.random() < 0.9 or step != 1:
            numbers.append([axis])
        if step != 1 or r.random() < 0.3:
            numbers.append([step])
        return op, [x, *(self.constant(number, whole=True) for number in numbers)], {}, 1

    def reshape(self):
        r, x = self.r, self.value()
        shape = self.shapes[x]
        op = r.choice(["Flatten", "Reshape", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile"])
        if op == "Flatten":
            return op, [x], r.choice([{}, {"axis": r.randrange(-2, len(shape) + 1)}]), 1
        if op == "Transpose":
            perm = r.sample(range(len(shape)), len(shape))
            return op, [x], r.choice([{}, {"perm": perm}, {"perm": list(range(len(shape)))}]), 1
        if op in ("Squeeze", "Unsqueeze"):
            axes = r.choice([[0], [1], [-1], [1, 2], [len(shape) - 1]])
            if op == "Squeeze" and r.random() < 0.2:
                return op, [x], {}, 1
            if self.opset >= 13:
                return op, [x, self.constant(axes, whole=True)], {}, 1
            return op, [x], {"axes": axes}, 1
        if op == "Reshape":
            total = int(np.prod(shape[1:]))
            forms = [(-1, total), (0, -1), (0, total), (shape[0], -1), (-1,), (0, 0), (-1, 1), (1, -1), (total, -1)]
            forms += [(0, -1, 1), (0, 1, -1), (-1, total, 1), (-1, shape[-1]), (shape[0], total), shape]
            attributes = {"allowzero": 1} if self.opset >= 14 and r.random() < 0.1 else {}
            return op, [x, self.constant(r.choice(forms), whole=True)], attributes, 1
        form = r.choice([(1, 1), (1, 3), shape, (3, 1)])
        return op, [x, self.constant(form, whole=True)], {}, 1

    def norm(self):
        r, x = self.r, self.value()
        width = self.shapes[x][1] if len(self.shapes[x]) == 3 else self.shapes[x][-1]
        op = r.choice(["LayerNormalization", "BatchNormalization", "Scaler"])
        if r.random() < 0.1:
            op = "ReduceMean"
        row = lambda form=(width,): self.random_constant(form)
        if op == "Scaler":
            forms = [self.numbers(n).tolist() for n in [r.choice([1, width])] * 2]
            named = zip(("offset", "scale"), forms, strict=True)
            return op, [x], {"domain": "ai.onnx.ml", **dict(named)}, 1
        attributes = {"epsilon": 0.125} if r.random() < 0.6 and op != "ReduceMean" else {}
        if op == "LayerNormalization":
            if r.random() < 0.6:
                attributes["axis"] = r.choice([-1, -1, 1, 1, 1, len(self.shapes[x]) - 1, 0])
            return op, [x, row(r.choice([(width,), (1,), ()])), *([row()] if r.random() < 0.6 else [])], attributes, 1
        if op == "BatchNormalization":
            variance = self.constant(np.abs(self.numbers(width)))
            return op, [x, row(), row(), row(), variance], attributes, 1
        axes, keep = r.choice([[1], [-1], [0], [0, 1]]), {"keepdims": r.choice([0, 1])} if r.random() < 0.6 else {}
        if self.opset >= 18:
            return op, [x, self.constant(axes, whole=True)], keep, 1
        return op, [x], {"axes": axes, **keep}, 1

    def cast(self):
        return "Cast", [self.value()], {"to": self.r.choice([self.type] * 6 + [FLOAT, DOUBLE, TensorProto.FLOAT16])}, 1

    def formula(self):
        """What exporters write for activations and norms, right or nearly."""
        r, x = self.r, self.value()
        add = lambda op, *read, **attributes: self.fold(
            op, [a if isinstance(a, str) else self.constant(a) for a in read], **attributes
        )
        kind = r.randrange(6)
        if kind == 0:
            inner = add("Mul", x, r.choice([1.0, 1.5])) if r.random() < 0.3 else x
            return "Mul", r.sample([x, add("Sigmoid", inner)], 2), {}, 1
        if kind == 1:
            gate = add("Add", add("Erf", add("Div", x, 2**0.5)), 1.0)
            return "Mul", [add("Mul", x, 0.5), gate], {}, 1
        if kind == 2:
            return "Where", [add("Greater", x, 0.0), x, add("Mul", x, r.choice(NUMBERS))], {}, 1
        if kind == 3:
            clipped = add("Clip", add("Add", x, 3.0), 0.0, 6.0) if self.opset >= 11 else add("Add", x, 3.0)
            return "Mul", [x, add("Div", clipped, 6.0)], {}, 1
        if kind == 4:
            return "Div", [x, add("Add", add("Abs", x), 1.0)], {}, 1
        return "Mul", [x, add("Tanh", add("Softplus", x))], {}, 1

    def grow(self):
        """Add a node, if it is valid."""
        before = len(self.nodes), len(self.initializers), dict(self.constants)
        kinds = [self.unary, self.binary, self.gemm, self.matmul, self.several, self.join, self.cut, self.reshape]
        kinds += [self.unary, self.binary, self.gemm, self.matmul, self.norm, self.cast, self.formula]
        op, read, attributes, count = self.r.choice(kinds)()
        names = [self.name("v") for _ in range(count)]
        self.nodes.append(helper.make_node(op, read, names, **attributes))
        try:
            known = self.infer()
            found = {name: known[name] for name in names}
            if any(None in shape or kind != self.type for kind, shape in found.values()):
                raise ValueError
            if any(np.prod(shape) > 64 or 0 in shape for _, shape in found.values()):
                raise ValueError
        except Exception:
            self.nodes[before[0] :], self.initializers[before[1] :] = [], []
            self.constants = before[2]
            return
        self.shapes |= {name: tuple(shape) for name, (_, shape) in found.items()}

    def infer(self):
        """Types and shapes, with numbers for the dimensions that the file leaves open."""
        model = self.model(outputs=())
        for info in model.graph.input:
            info.CopyFrom(helper.make_tensor_value_info(info.name, self.type, self.shapes[info.name]))
        checked = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        return {
            info.name: (
                info.type.tensor_type.elem_type,
                [dim.dim_value if dim.HasField("dim_value") else None for dim in info.type.tensor_type.shape.dim],
            )
            for info in checked.graph.value_info
        }


def graph_of(number):
    """The random graph of this number, its model and inputs."""
    r = random.Random(number)
    graph = Graphs(r)
    for _ in range(r.randint(1, 7)):
        graph.grow()
    read = {name for node in graph.nodes for name in node.input}
    ends = [name for name in graph.shapes if name not in read and name not in graph.inputs]
    if ends and r.random() < 0.6:
        ends = ends[-1:]
    return pruned(graph, ends), ends


def data_of(graph, number):
    """Inputs of usual numbers, and the same with some that are large or no numbers.

    What a Clip without a bound makes of infinity is the largest number in ONNX Runtime, and here infinity for ReLU.
    """
    clips = any(node.op_type == "Clip" for node in graph.nodes)
    rng = np.random.default_rng(number)
    usual = {name: rng.standard_normal(graph.shapes[name]).astype(graph.dtype) for name in graph.inputs}
    odd = {name: x.copy() for name, x in usual.items()}
    for x in odd.values():
        x.flat[rng.integers(x.size)] = rng.choice(
            [np.nan, 1e4, -1e12] if clips else [np.inf, -np.inf, np.nan, 1e4, -1e12]
        )
    return usual, odd


def compare(got, expected, xs, odd):
    """What is wrong, or None. A network gives (n, features), whatever the model's shape.

    Of samples with infinite numbers a network may give NaN where others do not: it takes columns by a matrix of ones
    and zeros, and what is larger by a product with 1 and 0.
    """
    got = got if isinstance(got, tuple) else (got,)
    if len(got) != len(expected):
        return f"{len(got)} outputs, not {len(expected)}"
    for ours, theirs in zip(got, expected, strict=True):
        if ours.size != theirs.size:
            return f"shape {ours.shape}, not {theirs.shape}"
        flat = ours.reshape(theirs.shape)
        bound = 1e-4 if theirs.dtype == np.float32 else 1e-9
        if theirs.dtype != ours.dtype:
            return f"{ours.dtype}, not {theirs.dtype}"
        finite = np.isfinite(theirs)
        size = sizes_of([theirs, *xs.values()] if odd else [theirs])
        with np.errstate(all="ignore"):
            same = np.where(finite, np.abs(flat - theirs) <= bound * size, flat == theirs) | (
                np.isnan(flat) & (np.isnan(theirs) | odd)
            )
        if not same.all():
            return f"got\n{ours}\nnot\n{theirs}"
    return None


def sizes_of(arrays):
    """How large the numbers are that are rounded, for each sample where all arrays have one."""
    largest = lambda a: np.abs(a)[np.isfinite(a)].max(initial=1)
    n = len(arrays[0]) if arrays[0].ndim else 0
    if any(a.ndim == 0 or len(a) != n for a in arrays):
        return max(map(largest, arrays))
    rows = [max(largest(a[i]) for a in arrays) for i in range(n)]
    return np.reshape(rows, (-1,) + (1,) * (arrays[0].ndim - 1))


def outcome(graph, ends, number):
    """ "invalid", "refused" and why, or "right"; a Defect for a wrong network."""
    model = graph.model(outputs=ends)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString())
        usual, odd = data_of(graph, number)
        expected = [session.run(None, xs) for xs in (usual, odd)]
    except Exception as error:
        return "invalid", str(error)
    try:
        net = fc.from_onnx(model)
    except (ValueError, TypeError) as error:
        return "refused", str(error)
    for what, xs, theirs in zip(("usual", "odd"), (usual, odd), expected, strict=True):
        x = tuple(xs.values())
        try:
            with np.errstate(all="ignore"):
                got = net.predict(x if len(x) > 1 else x[0])
        except Exception as error:
            raise Defect(f"{what} inputs: {error!r}\n{net}\n{xs}") from error
        wrong = compare(got, theirs, xs, what == "odd")
        if wrong:
            raise Defect(f"{what} inputs: {wrong}\nof\n{xs}\nby\n{net}")
    return "right", type(net).__name__


def shrunk(graph, ends, number):
    """The first value of the graph that is wrong by itself, as text, with its constants."""
    for name in [*graph.shapes]:
        if name in graph.inputs:
            continue
        try:
            outcome(pruned(graph, [name]), [name], number)
        except Defect as error:
            return f"{text_of(pruned(graph, [name]), [name])}\n{error}"
        except Exception:
            continue
    return f"{text_of(graph, ends)}\n(only as a whole)"


def pruned(graph, ends):
    """What these need."""
    other = object.__new__(Graphs)
    vars(other).update(vars(graph))
    needed, nodes = set(ends), []
    for node in reversed(graph.nodes):
        if needed & set(node.output):
            nodes.insert(0, node)
            needed |= set(node.input)
    other.nodes = nodes
    other.initializers = [tensor for tensor in graph.initializers if tensor.name in needed]
    other.inputs = {name: shape for name, shape in graph.inputs.items() if name in needed}
    return other


def text_of(graph, ends):
    lines = [f"opset {graph.opset}, batch {graph.batch}"]
    lines += [f"{name}: {shape}" for name, shape in graph.inputs.items()]
    lines += [f"{t.name} = {numpy_helper.to_array(t).tolist()}" for t in graph.initializers]
    for node in graph.nodes:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if "value" in attributes:
            attributes["value"] = numpy_helper.to_array(attributes["value"]).tolist()
        lines.append(f"{', '.join(node.output)} = {node.op_type}({', '.join(node.input)}) {attributes}")
    return "\n".join([*lines, f"outputs {', '.join(ends)}"])


def run(first, last, most_defects=5):
    """How many graphs came out how, why they were refused, and the defects."""
    counts, reasons, defects = collections.Counter(), collections.Counter(), []
    for number in range(first, last):
        graph, ends = graph_of(number)
        try:
            what, why = outcome(graph, ends, number)
            counts[what] += 1
            if what == "refused":
                reasons[why] += 1
        except Defect:
            counts["wrong"] += 1
            if len(defects) < most_defects:
                defects.append(f"graph {number}:\n{shrunk(graph, ends, number)}")
    return counts, reasons, defects


if __name__ == "__main__":
    counts, reasons, defects = run(int(sys.argv[1]), int(sys.argv[2]))
    print("\n\n".join(defects))
    print(dict(counts))
    tried = sum(counts.values()) - counts["invalid"]
    print(f"{counts['right'] / tried:.0%} of {tried} valid graphs are networks")
    kinds = collections.Counter()
    for why, count in reasons.items():
        kinds[why.partition("(")[2].partition(":")[2][:90] if "(" in why else why[:120]] += count
        if "-v" in sys.argv:
            print(count, why[:200])
    for why, count in kinds.most_common(40):
        print(count, why)
