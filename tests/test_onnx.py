"""Models as ONNX Runtime computes them; everything else is refused by name."""

import itertools
import os
import pickle
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
from arrays import DTYPES, normal
from examples import ACTIVATIONS, LAYERS, ids, inputs, numbers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from onnx import TensorProto, helper, numpy_helper
from test_layer_kinds import NETS, data_of, net_of

import fastfc as fc
from fastfc.io.onnx.constants import CONSTANTS
from fastfc.io.onnx.operators import OPERATORS

onnxruntime.set_default_logger_severity(4)
KINDS = {np.float32: TensorProto.FLOAT, np.float64: TensorProto.DOUBLE, np.int64: TensorProto.INT64}


def node(op, read, y="y", **attributes):
    return helper.make_node(op, read.split(","), [y], name=f"the {op} of {y}", **attributes)


def model_of(nodes, constants=None, x=(("x", ("n", 4)),), y=("y",), opset=20, dtype=np.float32, domain=""):
    """A model of these nodes, inputs and outputs. Constants become initializers."""
    arrays = [
        numpy_helper.from_array(np.asarray(a, None if np.asarray(a).dtype == np.int64 else dtype), name)
        for name, a in (constants or {}).items()
    ]
    ends = [helper.make_tensor_value_info(name, KINDS[dtype], shape) for name, shape in x]
    results = [helper.make_tensor_value_info(name, KINDS[dtype], None) for name in y]
    graph = helper.make_graph(nodes, "g", ends, results, arrays)
    opsets = [helper.make_opsetid("", opset)] + [helper.make_opsetid(domain, 1)] * (domain != "")
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    for end, known in zip(model.graph.output, onnx.shape_inference.infer_shapes(model).graph.output, strict=True):
        rank = len(known.type.tensor_type.shape.dim) if known.type.tensor_type.HasField("shape") else 2
        end.CopyFrom(helper.make_tensor_value_info(end.name, KINDS[dtype], [None] * rank))
    return model


def runtime(model, xs):
    """What ONNX Runtime computes, of a path or a model."""
    session = onnxruntime.InferenceSession(model if isinstance(model, str) else model.SerializeToString())
    return session.run(None, {end.name: x for end, x in zip(session.get_inputs(), xs, strict=True)})


def assert_close(got, expected, rtol=1e-6):
    got, expected = (list(a) if isinstance(a, tuple | list) else [a] for a in (got, expected))
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.shape == theirs.shape
        bound = rtol if ours.dtype == np.float32 else 1e-14 * rtol / 1e-6
        size = np.abs(theirs[np.isfinite(theirs)]).max(initial=1)
        assert_array_equal(np.isfinite(ours), np.isfinite(theirs))
        with np.errstate(invalid="ignore"):
            error = np.where(np.isfinite(theirs), np.abs(ours - theirs), ours != theirs) * ~np.isnan(theirs)
        assert error.max(initial=0) <= bound * size


def samples(widths=(4,), dtype=np.float32, n=6):
    return [3 * normal((n, width), dtype, i) for i, width in enumerate(widths)]


def assert_agrees(model, xs=None, dtype=np.float32, rtol=1e-6):
    """The network, which computes what the model computes."""
    net = fc.from_onnx(model)
    xs = samples(dtype=dtype) if xs is None else xs
    flat = [x.reshape(len(x), -1) for x in xs]
    assert_close(net.predict(tuple(flat) if len(flat) > 1 else flat[0]), runtime(model, xs), rtol)
    return net


W, V = normal((4, 3), np.float64, 10), np.array([0.5, 0.0, -2.0, 3.0])
NORM = {"w": V + 1, "b": V - 1, "m": V, "v": V**2}

# what is read, as one-node models: what it is as layers, the node, constants, opset
READ = [
    ("Linear(4, 3, bias=False)", node("MatMul", "x,w"), {"w": W}, 20),
    ("Linear(4, 3, bias=False)", node("Gemm", "x,w"), {"w": W}, 20),
    ("Linear(4, 3)", node("Gemm", "x,w,c", alpha=0.5, beta=-2.0), {"w": W, "c": [1.0, 2.0, 3.0]}, 20),
    ("Linear(4, 3)", node("Gemm", "x,w,c", transB=1), {"w": W.T, "c": [[1.0, 2.0, 3.0]]}, 20),
    ("Linear(4, 3)", node("Gemm", "x,w,c", beta=0.25), {"w": W, "c": [[3.0]]}, 7),
    ("Linear(4, 3)", node("Gemm", "x,w,c", alpha=3.0), {"w": W, "c": 3.0}, 9),
    ("Linear(4, 1)", node("Gemm", "x,w,c"), {"w": W[:, :1], "c": [3.0]}, 9),
    ("Identity()", node("Identity", "x"), {}, 20),
    ("Identity()", node("Flatten", "x"), {}, 20),
    ("Identity()", node("Flatten", "x", axis=-1), {}, 13),
    ("Identity()", node("Reshape", "x,s"), {"s": [-1, 4]}, 20),
    ("Identity()", node("Reshape", "x,s"), {"s": [0, -1]}, 20),
    ("Identity()", node("Reshape", "x,s"), {"s": [0, 0]}, 20),
    ("Identity()", node("Cast", "x", to=TensorProto.FLOAT), {}, 20),
    ("Identity()", node("Concat", "x", axis=-1), {}, 20),
    ("Dropout(0.5)", node("Dropout", "x"), {}, 20),
    ("Dropout(0.25)", node("Dropout", "x", ratio=0.25), {}, 10),
    ("Dropout(0.25)", node("Dropout", "x,r"), {"r": np.float32(0.25)}, 12),
    ("ReLU()", node("Relu", "x"), {}, 20),
    ("LeakyReLU(negative_slope=0.01)", node("LeakyRelu", "x"), {}, 20),
    ("LeakyReLU(negative_slope=-0.3)", node("LeakyRelu", "x", alpha=-0.3), {}, 20),
    ("ELU(alpha=1)", node("Elu", "x"), {}, 20),
    ("ELU(alpha=-0.7)", node("Elu", "x", alpha=-0.7), {}, 20),
    ("SELU()", node("Selu", "x"), {}, 20),
    ("[ELU(alpha=0.5), Standardize(4)]", node("Selu", "x", alpha=0.5, gamma=2.0), {}, 20),
    ("CELU(alpha=1)", node("Celu", "x"), {}, 20),
    ("CELU(alpha=-2)", node("Celu", "x", alpha=-2.0), {}, 20),
    ("Sigmoid()", node("Sigmoid", "x"), {}, 20),
    ("Hardsigmoid()", node("HardSigmoid", "x", alpha=1 / 6), {}, 20),
    (
        "[Standardize(4), Standardize(4), Hardtanh(min_val=0, max_val=1)]",
        node("HardSigmoid", "x", alpha=0.3, beta=0.25),
        {},
        20,
    ),
    ("[Standardize(4), Standardize(4), Hardtanh(min_val=0, max_val=1)]", node("HardSigmoid", "x"), {}, 20),
    ("Tanh()", node("Tanh", "x"), {}, 20),
    ("Softplus(beta=1, threshold=20)", node("Softplus", "x"), {}, 20),
    ("Softsign()", node("Softsign", "x"), {}, 20),
    ("Hardswish()", node("HardSwish", "x"), {}, 20),
    ("Mish()", node("Mish", "x"), {}, 20),
    ("GELU(approximate='none')", node("Gelu", "x"), {}, 20),
    ("GELU(approximate='tanh')", node("Gelu", "x", approximate="tanh"), {}, 20),
    ("SiLU()", node("Swish", "x"), {}, 24),
    ("[Standardize(4), SiLU(), Standardize(4)]", node("Swish", "x", alpha=1.5), {}, 24),
    ("ReLU6()", node("Clip", "x,l,h"), {"l": 0.0, "h": 6.0}, 20),
    ("ReLU()", node("Clip", "x,l"), {"l": 0.0}, 20),
    ("Hardtanh(min_val=-0.5, max_val=2)", node("Clip", "x,l,h"), {"l": -0.5, "h": 2.0}, 20),
    ("Hardtanh(min_val=-0.5, max_val=2)", node("Clip", "x", min=-0.5, max=2.0), {}, 10),
    ("Hardtanh(min_val=-3.40282e+38, max_val=2)", node("Clip", "x", max=2.0), {}, 10),
    ("Hardtanh(min_val=1, max_val=3.40282e+38)", node("Clip", "x", min=1.0), {}, 10),
    ("Hardtanh(min_val=1, max_val=inf)", node("Clip", "x,l,h"), {"l": 1.0, "h": np.inf}, 20),
    ("Hardtanh(min_val=1, max_val=inf)", node("Max", "x,c"), {"c": 1.0}, 20),
    ("Hardtanh(min_val=1, max_val=inf)", node("Max", "c,x"), {"c": [[1.0] * 4]}, 8),
    ("Hardtanh(min_val=-inf, max_val=1)", node("Min", "c,x"), {"c": 1.0}, 20),
    ("ReLU()", node("Max", "x,c"), {"c": [0.0]}, 13),
    ("Identity()", node("Max", "x"), {}, 20),
    ("Graph", node("Max", "x,c"), {"c": V}, 20),
    ("Graph", node("Min", "c,x"), {"c": V}, 20),
    ("Graph", node("Sum", "x,c,x"), {"c": V}, 20),
    ("Standardize(4)", node("Sum", "c,x"), {"c": V}, 8),
    ("PReLU(1)", node("PRelu", "x,c"), {"c": [0.25]}, 20),
    ("PReLU(1)", node("PRelu", "x,c"), {"c": [[0.25] * 4]}, 7),
    ("PReLU(4)", node("PRelu", "x,c"), {"c": V}, 20),
    ("Sin()", node("Sin", "x"), {}, 20),
    ("Cos()", node("Cos", "x"), {}, 20),
    ("Identity()", node("Expand", "x,s"), {"s": [1, 4]}, 20),
    ("Identity()", node("Transpose", "x", perm=[0, 1]), {}, 20),
    ("Linear(4, 2, bias=False)", node("Slice", "x,b,e,a"), {"b": [1], "e": [3], "a": [1]}, 20),
    ("Linear(4, 4, bias=False)", node("Slice", "x,b,e,a,t"), {"b": [-1], "e": [-9], "a": [-1], "t": [-1]}, 11),
    ("Linear(4, 2, bias=False)", node("Slice", "x", starts=[0, 2], ends=[1 << 40, 1 << 40]), {}, 9),
    ("Linear(4, 3, bias=False)", node("Gather", "x,i", axis=1), {"i": [3, 0, -1]}, 20),
    ("Softmax()", node("Softmax", "x"), {}, 20),
    ("Softmax()", node("Softmax", "x"), {}, 11),
    ("Softmax()", node("Softmax", "x", axis=1), {}, 13),
    ("LogSoftmax()", node("LogSoftmax", "x", axis=-1), {}, 20),
    ("LogSoftmax()", node("LogSoftmax", "x"), {}, 9),
    ("Standardize(4)", node("Add", "x,c"), {"c": 2.5}, 20),
    ("Standardize(4)", node("Add", "c,x"), {"c": [V]}, 20),
    ("Standardize(4)", node("Sub", "x,c"), {"c": V}, 20),
    ("[Standardize(4), Standardize(4)]", node("Sub", "c,x"), {"c": V}, 20),
    ("[Standardize(4), Standardize(4)]", node("Sub", "c,x"), {"c": 1.0}, 20),
    ("Standardize(4)", node("Mul", "x,c"), {"c": V}, 20),
    ("Standardize(4)", node("Mul", "c,x"), {"c": [[0.3]]}, 20),
    ("Standardize(4)", node("Mul", "c,x"), {"c": 0.0}, 20),
    ("Graph", node("Mul", "c,x"), {"c": 1e-39}, 20),  # has no inverse in float32
    ("Standardize(4)", node("Neg", "x"), {}, 20),
    ("Standardize(4)", node("Div", "x,c"), {"c": V}, 20),
    ("Standardize(4)", node("Div", "x,c"), {"c": 3.0}, 20),
    ("Identity()", node("Add", "x,c"), {"c": 0.0}, 20),
    ("Graph", node("Add", "x,x"), {}, 20),
    ("Graph", node("Sub", "x,x"), {}, 20),
    ("Graph", node("Mul", "x,x"), {}, 20),
    ("Graph", node("Concat", "x,x,x", axis=1), {}, 20),
    ("LayerNorm(4)", node("LayerNormalization", "x,w,b"), NORM, 20),
    ("LayerNorm(4, eps=0.01, bias=False)", node("LayerNormalization", "x,w", axis=1, epsilon=0.01), NORM, 17),
    ("RMSNorm(4, eps=1e-05)", node("RMSNormalization", "x,w"), NORM, 23),
    ("BatchNorm1d(4)", node("BatchNormalization", "x,w,b,m,v"), NORM, 20),
    (
        "BatchNorm1d(4, eps=0.5, momentum=0.25)",
        node("BatchNormalization", "x,w,b,m,v", epsilon=0.5, momentum=0.75),
        NORM,
        9,
    ),
]


@pytest.mark.parametrize(
    "what, the_node, constants, opset", READ, ids=[f"{i} {r[1].op_type}" for i, r in enumerate(READ)]
)
def test_operator(what, the_node, constants, opset):
    """In float32, and in float64 where ONNX Runtime has it."""
    expected = what if what.startswith("[") else f"[{what}]"
    for dtype in DTYPES:
        constants = {k: v for k, v in constants.items() if k in the_node.input}
        model = model_of([the_node], constants, opset=opset, dtype=dtype)
        if dtype == np.float32:
            net = assert_agrees(model)
            assert what == "Graph" if isinstance(net, fc.Graph) else repr(net) == f"Sequential({expected})"
            continue
        try:
            runtime(model, samples(dtype=dtype))
        except Exception:
            continue
        if the_node.op_type not in ("Cast", "HardSwish", "Gelu"):  # in float64 it computes with float32's constants
            assert_agrees(model, dtype=dtype)


def test_every_operator_is_in_a_test():
    elsewhere = "Abs Constant Erf Exp Greater Log Pow Reciprocal ReduceMean Sqrt Where Shape Split Squeeze Unsqueeze"
    elsewhere += " Einsum"
    of_classifiers = "ArgMax ArrayFeatureExtractor Binarizer Scaler ZipMap"
    assert set(OPERATORS) == {row[1].op_type for row in READ} | set(f"{elsewhere} {of_classifiers}".split())
    assert set(CONSTANTS) <= set(OPERATORS)


# what is refused: the model and what the error says
REFUSED = [
    ("Tan.*not supported; supported are Abs, Add", node("Tan", "x"), {}, 20),
    ("Gemm.*transA", node("Gemm", "x,w", transA=1), {"w": W}, 20),
    ("Gemm.*alpha is inf", node("Gemm", "x,w", alpha=np.inf), {"w": W}, 20),
    ("Gemm.*input 2 has shape \\(6, 1\\)", node("Gemm", "x,w,c"), {"w": W, "c": np.ones((6, 1))}, 20),
    ("MatMul.*input 1 must be a constant", node("MatMul", "w,x"), {"w": np.ones((2, 6))}, 20),
    ("MatMul.*two dimensions", node("MatMul", "x,w"), {"w": W[:, 0]}, 20),
    ("Softmax.*axis is 0", node("Softmax", "x", axis=0), {}, 20),
    ("LogSoftmax.*axis is 0", node("LogSoftmax", "x", axis=0), {}, 9),
    ("Flatten.*axis is 0", node("Flatten", "x", axis=0), {}, 20),
    ("Flatten.*axis is 2", node("Flatten", "x", axis=2), {}, 20),
    ("Reshape.*\\[-1, 2\\]", node("Reshape", "x,s"), {"s": [-1, 2]}, 20),
    ("Reshape.*\\[4, -1\\]", node("Reshape", "x,s"), {"s": [4, -1]}, 20),
    ("Reshape.*\\[0, 2, 2\\]", node("Reshape", "x,s"), {"s": [0, 2, 2]}, 20),
    ("Concat.*axis is 0", node("Concat", "x,x", axis=0), {}, 20),
    ("Concat.*input 1 must depend", node("Concat", "x,c", axis=1), {"c": np.ones((6, 1))}, 20),
    ("Add.*input 1 has shape \\(6, 4\\)", node("Add", "x,c"), {"c": np.ones((6, 4))}, 20),
    ("Add.*input 1 has shape \\(1, 1, 4\\)", node("Add", "x,c"), {"c": np.ones((1, 1, 4))}, 20),
    ("Add.*input 1 has shape \\(1, 1, 1\\)", node("Add", "x,c"), {"c": np.ones((1, 1, 1))}, 20),
    ("output 'y' is a constant", node("Add", "c,c"), {"c": np.ones(1)}, 20),
    ("Split.*axis is 0", node("Split", "x", num_outputs=1, axis=0), {}, 20),
    ("Slice.*some of the samples", node("Slice", "x,b,e"), {"b": [0], "e": [2]}, 20),
    ("not in an axis of length 4", node("Gather", "x,j", axis=1), {"j": [4]}, 20),
    ("Max.*not finite", node("Max", "x,c"), {"c": np.inf}, 20),
    ("Binarizer.*labels", helper.make_node("Binarizer", ["x"], ["y"], "the Binarizer", domain="ai.onnx.ml"), {}, 20),
    ("Mul.*not finite", node("Mul", "x,c"), {"c": np.inf}, 20),
    ("Mul.*too small or too large", node("Mul", "x,c"), {"c": [1.0, 2.0, 3.0, 1e-39]}, 20),
    ("Div.*constant by a value", node("Div", "c,x"), {"c": 2.0}, 20),
    ("Div.*only as a part of", node("Div", "x,x"), {}, 20),
    ("Erf.*only as a part of", node("Erf", "x"), {}, 20),
    ("Pow.*only as a part of", node("Pow", "x,c"), {"c": 2.0}, 20),
    ("ReduceMean.*only as a part of", node("ReduceMean", "x,a"), {"a": [1]}, 20),
    ("ReduceMean.*keepdims", node("ReduceMean", "x,a", keepdims=0), {"a": [1]}, 20),
    ("ReduceMean.*axes", node("ReduceMean", "x", axes=[0]), {}, 13),
    ("Clip.*from 2.0 to 1.0", node("Clip", "x,l,h"), {"l": 2.0, "h": 1.0}, 20),
    ("Clip.*from None to None", node("Clip", "x"), {}, 20),
    ("Dropout.*training_mode", node("Dropout", "x,,t"), {"t": [1]}, 20),
    ("Gelu.*'some'", node("Gelu", "x", approximate="some"), {}, 20),
    ("BatchNormalization.*training_mode", node("BatchNormalization", "x,w,b,m,v", training_mode=1), NORM, 20),
    ("LayerNormalization.*axis is 0", node("LayerNormalization", "x,w", axis=0), NORM, 20),
    ("LayerNormalization.*stash_type", node("LayerNormalization", "x,w", stash_type=10), NORM, 20),
    ("Cast.*input of the model|Cast.*FLOAT16|output", node("Cast", "x", to=TensorProto.INT64), {}, 20),
    ("output 'y' is a constant", node("Identity", "c"), {"c": V}, 20),
    ("Transpose.*must be a constant", node("Transpose", "x"), {}, 20),
    ("Gather.*embedding|Gather.*float32", node("Gather", "w,x"), {"w": W}, 20),
]


@pytest.mark.parametrize("says, the_node, constants, opset", REFUSED, ids=[r[0] for r in REFUSED])
def test_refused_by_name(says, the_node, constants, opset):
    constants = {k: v for k, v in constants.items() if k in the_node.input}
    if "t" in constants:
        constants = {}
    model = model_of([the_node], constants, opset=opset, domain=the_node.domain)
    if says.startswith("Dropout"):
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "t"))
    if says.startswith("Gather"):
        model.graph.node[0].input[:] = ["w", "i"]
        model.graph.node.insert(0, node("Cast", "r", "i", to=TensorProto.INT64))
        model.graph.node.insert(0, node("Relu", "x", "r"))
        says = "the Cast.*only for inputs"
    if "training_mode=1" in says or says.startswith("BatchNorm"):
        model.graph.node[0].output.extend(["mean", "variance"])
    if the_node.op_type == "Cast":
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(ValueError, match=says):
        fc.from_onnx(model)


SAMPLE_ATTRIBUTES = {
    "to": TensorProto.FLOAT,
    "axis": 1,
    "axes": [1],
    "perm": [1, 0],
    "equation": "ij->ij",
    "blocksize": 1,
}


def one_node_models(schema):
    """This operator on x and on constants, as it is and with an attribute changed: whatever the checker lets pass."""
    required = {}
    for name, attribute in schema.attributes.items():
        if attribute.required:
            by_type = {"INT": 1, "FLOAT": 0.5, "INTS": [1], "FLOATS": [0.5], "STRING": "linear"}
            required[name] = SAMPLE_ATTRIBUTES.get(name, by_type.get(attribute.type.name))
    changes = [{}]
    for name, attribute in schema.attributes.items():
        by_type = {"INT": (0, 1, 2), "FLOAT": (0.25, -1.5), "STRING": ("tanh",), "INTS": ([0], [1])}
        changes += [{name: value} for value in by_type.get(attribute.type.name, ())]
    scalar, row, square = {"c": 0.75}, {"c": V + 1.5}, {"c": np.eye(4) + 0.5}
    index = {"c": [1]}
    for change in changes:
        for read, constants in [
            ("x", {}),
            ("x,x", {}),
            *[(read, values) for read in ("x,c", "c,x") for values in (scalar, row, square, index)],
            ("x,c,d", {"c": -0.5, "d": 1.0}),
            ("x,c,d,e,f", {name: np.abs(V) + 1 for name in "cdef"}),
        ]:
            attributes = {k: v for k, v in (required | change).items() if v is not None}
            domain = {"domain": schema.domain} if schema.domain else {}
            one = helper.make_node(schema.name, read.split(","), ["y"], name="the node", **attributes, **domain)
            try:
                model = model_of([one], constants, opset=24, domain=schema.domain)
                onnx.checker.check_model(model, full_check=True)
            except Exception:  # of the checker: the attributes do not go together
                continue
            yield model


def newest_schemas():
    newest = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.deprecated and schema.domain in ("", "ai.onnx.ml") and schema.since_version <= 24:
            key = schema.domain, schema.name
            if key not in newest or newest[key].since_version < schema.since_version:
                newest[key] = schema
    return newest


def test_each_operator_of_onnx_is_computed_right_or_refused():
    loaded, refused = set(), set()
    x = samples()
    for (_, name), schema in newest_schemas().items():
        for model in one_node_models(schema):
            try:
                net = fc.from_onnx(model)
            except ValueError as error:
                assert f"{name})" in str(error) or "output 'y'" in str(error), error
                refused.add(name)
                continue
            loaded.add(name)
            with np.errstate(all="ignore"):
                got = net.predict(x[0])
            assert_close(got, runtime(model, x))
    assert len(refused) > 95
    assert loaded <= set(OPERATORS)
    assert len(loaded) > 30


def chain_of(*steps, x="x"):
    """Nodes of steps "y = Op(a, b)", and constants for the numbers in them."""
    nodes, constants = [], {}
    for step in steps:
        y, _, rest = step.partition(" = ")
        op, _, read = rest.rstrip(")").partition("(")
        names = []
        for name in read.split(", "):
            if name.lstrip("-")[0].isdigit():
                constants[f"c{name}"] = float(name)
                name = f"c{name}"
            names.append(name)
        attributes = {"axes": [-1], "keepdims": 1} if op == "ReduceMean" else {}
        nodes.append(helper.make_node(op, names, [y], name=f"{y} of {op}", **attributes))
    return nodes, constants


MEAN = "m = ReduceMean(x)", "d = Sub(x, m)"
TANH_GELU = "h = Mul(x, 0.5)", "p = Add(t, 1)", "y = Mul(h, p)"
# what exporters write, and what it is
FORMULAS = {
    "SiLU of PyTorch": ("SiLU()", "s = Sigmoid(x)", "y = Mul(x, s)"),
    "SiLU of tf2onnx": ("SiLU()", "s = Sigmoid(x)", "y = Mul(s, x)"),
    "SiLU with slope": (
        "[Standardize(4), SiLU(), Standardize(4)]",
        "b = Mul(x, 1.702)",
        "s = Sigmoid(b)",
        "y = Mul(x, s)",
    ),
    "GELU of PyTorch": (
        "GELU(approximate='none')",
        *("a = Div(x, 1.4142135623730951)", "e = Erf(a)", "p = Add(e, 1)", "m = Mul(x, p)", "y = Mul(m, 0.5)"),
    ),
    "GELU of tf2onnx": (
        "GELU(approximate='none')",
        *("a = Mul(x, 0.7071067811865476)", "e = Erf(a)", "p = Add(1, e)", "h = Mul(0.5, x)", "y = Mul(h, p)"),
    ),
    "GELU, half of the gate": (
        "GELU(approximate='none')",
        *("a = Div(x, 1.4142135623730951)", "e = Erf(a)", "p = Add(e, 1)", "h = Mul(p, 0.5)", "y = Mul(x, h)"),
    ),
    "GELU tanh of PyTorch": (
        "GELU(approximate='tanh')",
        *("q = Mul(x, x)", "k = Mul(q, x)", "b = Mul(k, 0.044715)", "i = Add(x, b)", "j = Mul(i, 0.7978845608028654)"),
        *("t = Tanh(j)", *TANH_GELU),
    ),
    "GELU tanh of tf2onnx": (
        "GELU(approximate='tanh')",
        *("k = Pow(x, 3)", "b = Mul(k, 0.044715)", "i = Add(b, x)", "j = Mul(0.7978845608028654, i)", "t = Tanh(j)"),
        *TANH_GELU,
    ),
    "GELU tanh, factored": (
        "GELU(approximate='tanh')",
        *("a = Mul(x, 0.7978845608028654)", "q = Mul(x, x)", "r = Mul(q, 0.044715)", "s = Add(r, 1)", "j = Mul(a, s)"),
        *("t = Tanh(j)", *TANH_GELU),
    ),
    "Mish": ("Mish()", "s = Softplus(x)", "t = Tanh(s)", "y = Mul(x, t)"),
    "LogSigmoid of PyTorch": ("LogSigmoid()", "s = Sigmoid(x)", "y = Log(s)"),
    "LogSigmoid of softplus": ("LogSigmoid()", "a = Neg(x)", "s = Softplus(a)", "y = Neg(s)"),
    "Softsign of PyTorch": ("Softsign()", "a = Abs(x)", "b = Add(a, 1)", "y = Div(x, b)"),
    "Hardswish of PyTorch": ("Hardswish()", "a = Add(x, 3)", "b = Clip(a, 0, 6)", "c = Div(b, 6)", "y = Mul(x, c)"),
    "Softplus with beta": ("Softplus(beta=3, threshold=20)", "a = Mul(x, 3)", "b = Softplus(a)", "y = Div(b, 3)"),
    "Softplus with threshold": (
        "Softplus(beta=2, threshold=1)",
        *("a = Mul(x, 2)", "b = Softplus(a)", "s = Div(b, 2)", "g = Greater(a, 1)", "y = Where(g, x, s)"),
    ),
    "LayerNorm": (
        "LayerNorm(4, eps=0.001, elementwise_affine=False)",
        *(*MEAN, "q = Pow(d, 2)", "v = ReduceMean(q)", "e = Add(v, 0.001)", "s = Sqrt(e)", "y = Div(d, s)"),
    ),
    "LayerNorm by product and inverse": (
        "LayerNorm(4, eps=0.001, elementwise_affine=False)",
        *(*MEAN, "q = Mul(d, d)", "v = ReduceMean(q)", "e = Add(0.001, v)", "s = Sqrt(e)", "i = Reciprocal(s)"),
        "y = Mul(d, i)",
    ),
    "LayerNorm by power": (
        "LayerNorm(4, eps=0.001, elementwise_affine=False)",
        *(*MEAN, "q = Mul(d, d)", "v = ReduceMean(q)", "e = Add(0.001, v)", "s = Pow(e, 0.5)", "y = Div(d, s)"),
    ),
    "RMSNorm": (
        "RMSNorm(4, eps=0.001, elementwise_affine=False)",
        *("q = Pow(x, 2)", "v = ReduceMean(q)", "e = Add(v, 0.001)", "s = Sqrt(e)", "y = Div(x, s)"),
    ),
    "scaled there and back": ("Identity()", "a = Mul(x, 2)", "y = Mul(a, 0.5)"),
    "shift and division": ("Standardize(4)", "a = Sub(x, 2)", "y = Div(a, 3)"),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formula_that_exporters_write(name):
    what, *steps = FORMULAS[name]
    nodes, constants = chain_of(*steps)
    inexact = "LogSigmoid of PyTorch"  # in float32, the logarithm of a sigmoid
    net = assert_agrees(model_of(nodes, constants, opset=13), rtol=1e-5 if name == inexact else 3e-6)
    assert repr(net) == f"Sequential({what if what.startswith('[') else f'[{what}]'})"


# nearly those, with what is wrong: nothing is approximated
ALMOST = [
    ("Erf", "a = Div(x, 1.5)", "e = Erf(a)", "p = Add(e, 1)", "m = Mul(x, p)", "y = Mul(m, 0.5)"),
    ("Erf", "a = Div(x, 1.4142135623730951)", "e = Erf(a)", "p = Add(e, 2)", "y = Mul(x, p)"),
    ("Erf", "a = Div(x, 1.4142)", "e = Erf(a)", "p = Add(e, 1)", "y = Mul(x, p)"),
    ("Log", "s = Tanh(x)", "y = Log(s)"),
    ("Abs", "a = Abs(x)", "b = Add(a, 2)", "y = Div(x, b)"),
    ("Sub", *MEAN, "q = Pow(d, 4)", "v = ReduceMean(q)", "s = Sqrt(v)", "y = Div(d, s)"),
    ("Sub", *MEAN, "q = Mul(x, x)", "v = ReduceMean(q)", "s = Sqrt(v)", "y = Div(d, s)"),
    ("Greater|Where", "s = Softplus(x)", "a = Mul(x, 2)", "g = Greater(a, 1)", "y = Where(g, x, s)"),
    ("Mul", "m = ReduceMean(x)", "y = Mul(x, m)"),
    ("Sub", "m = ReduceMean(x)", "y = Sub(m, x)"),
]


@pytest.mark.parametrize("steps", ALMOST, ids=range(len(ALMOST)))
def test_what_is_nearly_a_formula_is_refused(steps):
    nodes, constants = chain_of(*steps[1:])
    with pytest.raises(ValueError, match=steps[0]):
        fc.from_onnx(model_of(nodes, constants, opset=13))


def test_near_formulas_that_are_networks():
    """They look like others, and are computed as they are written."""
    for steps in [
        ("s = Sigmoid(x)", "t = Tanh(x)", "y = Mul(s, t)"),
        ("s = Softplus(x)", "y = Mul(s, x)"),
        ("a = Add(x, 1)", "s = Sigmoid(a)", "y = Mul(x, s)"),
        ("t = Tanh(x)", "p = Add(t, 1)", "m = Mul(x, p)", "y = Mul(m, 0.5)"),
        ("a = Mul(x, 3)", "s = Softplus(a)", "y = Div(s, 2)"),
        ("q = Mul(x, x)", "y = Mul(q, q)"),
        ("s = Softplus(x)", "y = Neg(s)"),
        ("a = Add(x, 3)", "b = Clip(a, 0, 6)", "y = Div(b, 5)"),
    ]:
        nodes, constants = chain_of(*steps)
        assert_agrees(model_of(nodes, constants, opset=13))


def test_bias_and_affine_parts_join_their_layers():
    nodes = [
        node("MatMul", "x,w", "h"),
        node("Add", "c,h", "a"),
        *chain_of("m = ReduceMean(a)", "d = Sub(a, m)", "q = Pow(d, c2)", "v = ReduceMean(q)", "s = Sqrt(v)")[0],
        *chain_of("n = Div(d, s)", "g = Mul(n, f)", "y = Add(g, b)")[0],
    ]
    constants = {"w": W, "c": [1.0, 2.0, 3.0], "c2": 2.0, "f": [1.0, 0.0, 2.0], "b": [0.0, 0.0, 0.0]}
    net = assert_agrees(model_of(nodes, constants, opset=13), rtol=1e-5)
    assert repr(net) == "Sequential([Linear(4, 3), LayerNorm(3, eps=0)])"


def test_what_is_no_bias_of_a_norm():
    nodes = [node("LayerNormalization", "x,w", "h"), node("Div", "h,c")]
    assert_agrees(model_of(nodes, {"w": [2.0], "c": [4.0]}, x=(("x", ("n", 1)),)), samples((1,)))


def test_a_bias_that_others_do_not_see_is_not_joined():
    nodes = [node("MatMul", "x,w", "h"), node("Add", "h,c", "a"), node("Mul", "a,h", "y")]
    net = assert_agrees(model_of(nodes, {"w": W, "c": [1.0, 2.0, 3.0]}))
    assert sum(isinstance(layer, fc.Linear) for layer in net.layers) == 1


def test_constants_are_folded():
    half = numpy_helper.from_array(W.T.astype(np.float16), "half")
    nodes = [
        helper.make_node("Constant", [], ["k"], value=half),
        node("Cast", "k", "single", to=TensorProto.FLOAT),
        node("Identity", "single", "same"),
        node("Transpose", "same", "w", perm=[1, 0]),
        helper.make_node("Constant", [], ["b"], value_floats=[1.0, 2.0, 3.0]),
        node("Unsqueeze", "b,axis", "row"),
        node("Gemm", "x,w,row", "h"),
        node("Squeeze", "row", "flat"),
        node("Reshape", "flat,shape", "column"),
        node("Add", "h,column"),
    ]
    assert_agrees(model_of(nodes, {"axis": [0], "shape": [1, -1]}))


def test_functions_of_the_model_are_inlined():
    body = [node("Sigmoid", "a", "s"), node("Mul", "a,s", "b")]
    function = helper.make_function("mine", "Swoosh", ["a"], ["b"], body, [helper.make_opsetid("", 20)])
    one = helper.make_node("Swoosh", ["x"], ["y"], domain="mine")
    model = model_of([one], domain="mine")
    model.functions.append(function)
    assert repr(assert_agrees(model)) == "Sequential([SiLU()])"


def test_half_precision_is_computed_in_single():
    model = model_of([node("Gemm", "x,w")], {})
    model.graph.initializer.append(numpy_helper.from_array(W.astype(np.float16), "w"))
    for end in (*model.graph.input, *model.graph.output):
        end.type.tensor_type.elem_type = TensorProto.FLOAT16
    x = samples()[0].astype(np.float16)
    got, expected = fc.from_onnx(model).predict(x), runtime(model, [x])[0]
    assert got.dtype == np.float32
    assert np.abs(got - expected).max() <= 2e-3 * np.abs(expected).max()


def test_images_are_flattened():
    shape = (("x", ("n", 1, 3, 4)),)
    nodes = [
        *chain_of("a = Div(x, 255)", "b = Mul(a, f)", "r = Relu(b)")[0],
        node("Flatten", "r", "h"),
        node("Gemm", "h,w"),
    ]
    constants = {"c255": 255.0, "f": normal((1, 1, 3, 4), np.float32, 3), "w": normal((12, 3), np.float32, 4)}
    x = [normal((6, 1, 3, 4), np.float32, 5)]
    net = assert_agrees(model_of(nodes, constants, x=shape), x)
    assert repr(net) == "Sequential([Standardize(12), Standardize(12), ReLU(), Linear(12, 3, bias=False)])"
    nodes[3] = node("Reshape", "r,s", "h")
    assert_agrees(model_of(nodes, constants | {"s": [-1, 12]}, x=shape), x)
    with pytest.raises(ValueError, match=r"Softmax\): input 0 has 4 dimensions"):
        fc.from_onnx(model_of([node("Softmax", "x")], x=shape))
    with pytest.raises(ValueError, match=r"output 'y' is of shape \(batch, 1, 3, 4\)"):
        fc.from_onnx(model_of([node("Relu", "x")], x=shape))


def test_a_batch_of_fixed_size():
    one = (("x", (1, 4)),)
    model = model_of([node("Reshape", "x,s", "h"), node("Relu", "h")], {"s": [1, 4]}, x=one)
    assert repr(fc.from_onnx(model)) == "Sequential([ReLU()])"
    model = model_of([node("Add", "x,z")], x=(*one, ("z", ("n", 4))))
    with pytest.raises(ValueError, match="batches of different size, 'x': 1, 'z': any"):
        fc.from_onnx(model)


def test_the_batch_of_another_input():
    nodes = [node("Relu", "x", "y"), node("Reshape", "z,s", "r")]
    model = model_of(nodes, {"s": [4, -1]}, x=(("x", (4, 6)), ("z", (2, 6))), y=("y", "r"))
    with pytest.raises(ValueError, match="Reshape"):
        fc.from_onnx(model, outputs=["r"])


def test_several_inputs_and_outputs():
    ends = (("first", ("n", 4)), ("second", ("n", 3)))
    nodes = [
        node("Gemm", "first,w,second", "h", beta=0.5),
        node("Concat", "h,second,h", "y", axis=1),
        node("Sub", "h,second", "z"),
    ]
    model = model_of(nodes, {"w": W}, x=ends, y=("z", "y"))
    net = assert_agrees(model, samples((4, 3)))
    assert [x.name for x in net.inputs] == ["first", "second"]
    assert [y.width for y in net.outputs] == [3, 9]
    assert fc.from_onnx(model, outputs=["y"]).out_features == 9
    with pytest.raises(ValueError, match="no output 'q', only 'z', 'y'"):
        fc.from_onnx(model, outputs=["q"])
    with pytest.raises(TypeError, match="outputs must be a sequence"):
        fc.from_onnx(model, outputs="y")
    with pytest.raises(ValueError, match="no output needs the input 'second'"):
        fc.from_onnx(model_of([node("Relu", "first")], x=ends))


def test_what_no_output_needs_is_not_looked_at():
    nodes = [node("Relu", "x", "r"), node("ArgMax", "r", "label"), node("Softmax", "r", "p")]
    model = model_of(nodes, y=("label", "p"))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(ValueError, match=r"ArgMax\).*to read the others, give outputs=\['p'\]"):
        fc.from_onnx(model)
    assert repr(fc.from_onnx(model, outputs=["p"])) == "Sequential([ReLU(), Softmax()])"


def test_shared_weights_stay_shared():
    square = {"w": W @ W.T, "c": V}
    nodes = [node("Gemm", "x,w,c", "h"), node("Tanh", "h", "t"), node("Gemm", "t,w,c")]
    assert len(assert_agrees(model_of(nodes, square), rtol=1e-5).layers) == 2
    nodes = [node("Gemm", "x,w", "h"), node("Tanh", "h", "t"), node("Transpose", "w", "v"), node("MatMul", "t,v")]
    net = assert_agrees(model_of(nodes, {"w": W}))
    assert repr(net) == "Sequential([Linear(4, 3, bias=False), Tanh(), Tied(Linear(4, 3, bias=False), bias=False)])"


def test_what_only_looks_shared():
    """The same weight, but rounded on one way, or with another bias."""
    nodes = [
        node("Cast", "w", "half", to=TensorProto.FLOAT16),
        node("Cast", "half", "v", to=TensorProto.FLOAT),
        node("MatMul", "x,w", "a"),
        node("MatMul", "x,v", "b"),
        node("Sub", "a,b"),
    ]
    net = assert_agrees(model_of(nodes, {"w": W + 0.1}))
    assert len(net.layers) == 2
    assert np.abs(net.predict(samples()[0])).max() > 1e-5
    nodes = [node("MatMul", "x,w", "a"), node("MatMul", "x,w", "b"), node("Sub", "a,c", "d"), node("Sub", "b,e", "f")]
    assert_agrees(model_of([*nodes, node("Mul", "d,f")], {"w": W, "c": [1.0, 2.0, 3.0], "e": [3.0, 5.0, 6.0]}))


def test_embedding():
    nodes = [node("Gather", "w,x", "rows"), node("Flatten", "rows", "h"), node("Relu", "h")]
    model = model_of(nodes, {"w": W})
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    x = np.random.default_rng(0).integers(0, 4, (6, 4))
    net = assert_agrees(model, [x])
    assert repr(net) == "Sequential([Embedding(4, 3, 4), ReLU()])"
    with pytest.raises(ValueError, match="-1"):
        net.predict(x - 1)
    whole = model_of([node("Gather", "w,x", "rows"), node("Flatten", "rows")], {"w": np.ones((4, 2), np.int64)})
    for end in (*whole.graph.input, *whole.graph.output):
        end.type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(ValueError, match=r"Gather.*supported is an embedding"):
        fc.from_onnx(whole)


def test_casts():
    double = model_of([node("Cast", "x", "h", to=TensorProto.FLOAT), node("Gemm", "h,w")], {"w": W})
    double.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    net = assert_agrees(double, samples(dtype=np.float64))
    assert net.dtype == np.float32
    nodes = [node("Cast", "x", "i", to=TensorProto.INT64), node("Cast", "i", to=TensorProto.FLOAT)]
    with pytest.raises(ValueError, match="FLOAT of a int64 is supported only for inputs"):
        fc.from_onnx(model_of(nodes))
    nodes = [node("Relu", "x", "r"), node("Cast", "r", to=TensorProto.DOUBLE)]
    model = model_of(nodes)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    with pytest.raises(ValueError, match="DOUBLE of a float32"):
        fc.from_onnx(model)


def test_a_network_has_one_dtype():
    nodes = [node("Relu", "x", "y"), node("Cast", "x", "d", to=TensorProto.DOUBLE), node("Relu", "d", "z")]
    model = model_of(nodes, y=("y", "z"))
    model.graph.output[1].type.tensor_type.elem_type = TensorProto.DOUBLE
    with pytest.raises(ValueError, match="computes in float32 and float64"):
        fc.from_onnx(model)
    assert repr(fc.from_onnx(model, outputs=["z"])) == "Sequential([ReLU()])"


def test_second_outputs_are_refused():
    normal = helper.make_node("LayerNormalization", ["x", "w"], ["h", "mean"], name="the norm")
    model = model_of([normal, node("Add", "h,mean")], {"w": V})
    with pytest.raises(ValueError, match=r"the norm.*output 'mean' is not supported, only the first one is"):
        fc.from_onnx(model)
    assert_agrees(model_of([normal, node("Relu", "h")], {"w": V}))


def test_widths_that_are_not_known():
    x = (("x", ("n", "features")),)
    assert repr(fc.from_onnx(model_of([node("Relu", "x")], x=x))) == "Sequential([ReLU()])"
    assert_agrees(model_of([node("Gemm", "x,w")], {"w": W}, x=x))
    with pytest.raises(ValueError, match="number of features that is not known"):
        fc.from_onnx(model_of([node("Add", "x,x")], x=x))
    with pytest.raises(ValueError, match="number of features is not known"):
        fc.from_onnx(model_of([node("Add", "x,c")], {"c": 1.0}, x=x))


# Constants.

PERMUTATIONS = [list(perm) for rank in (1, 2, 3, 4) for perm in itertools.permutations(range(rank))]
CUBE_OF_TWO = np.arange(16.0).reshape(2, 2, 2, 2)  # all axes of the same length, so that a wrong order shows in numbers


def test_every_permutation_of_a_constant():
    """The identity transposed it, so that x [[1, 10]] by [[1, 2], [3, 4]] was [[21, 43]] and not [[31, 42]]."""
    x = samples((2,))
    for perm in [*PERMUTATIONS, *([*range(rank), None] for rank in (1, 2, 3, 4))]:
        attributes = {} if perm[-1] is None else {"perm": perm}
        rank = len(perm) - (perm[-1] is None)
        constant = CUBE_OF_TWO.ravel()[: 2**rank].reshape((2,) * rank)
        nodes = [
            node("Transpose", "c", "t", **attributes),
            node("Reshape", "t,s", "w"),
            node("MatMul", "x,w"),
        ]
        model = model_of(nodes, {"c": constant, "s": [2, -1]}, x=(("x", ("n", 2)),))
        assert_agrees(model, x)


@pytest.mark.parametrize("opset", [11, 13, 22])
def test_every_form_of_axes(opset):
    """Unsqueeze of a constant with axes [0] did nothing."""
    for op, shape, axes in [
        *[("Unsqueeze", (3,), axes) for axes in ([0], [1], [-1], [-2])],
        *[("Unsqueeze", (), axes) for axes in ([0, 1], [1, 0], [-1, 0], [-1, -2])],
        *[("Squeeze", (1, 3, 1), axes) for axes in ([0], [2], [-1], [-3], [0, 2], [-1, 0], None)],
        *[("Squeeze", (3, 1, 1), axes) for axes in ([1], [2], [-1], [-2])],
    ]:
        constants = {"c": np.arange(1.0, 1 + np.prod(shape)).reshape(shape), "w": normal((3, 3), np.float32)}
        attributes = {} if opset >= 13 or axes is None else {"axes": axes}
        read = "c,a" if opset >= 13 and axes is not None else "c"
        if read == "c,a":
            constants["a"] = axes
        nodes = [node(op, read, "u", **attributes), node("Mul", "w,u", "v"), node("MatMul", "x,v")]
        assert_agrees(model_of(nodes, constants, x=(("x", ("n", 3)),), opset=opset), samples((3,)))


def test_every_form_of_gemm():
    """With beta 0 an infinite C gave NaN; ONNX Runtime does not look at it."""
    rows = [(), (1,), (3,), (1, 3), (1, 1)]
    for alpha, beta, transposed, form in itertools.product([None, 0.5, -2.0], [None, 0.0, 3.0], [0, 1], rows):
        given = {"alpha": alpha, "beta": beta, "transB": transposed}
        attributes = {name: value for name, value in given.items() if value is not None}
        for c in [normal(form, np.float32, 2)] + [np.full(form, np.inf), np.full(form, np.nan)] * (beta == 0):
            constants = {"w": normal((3, 3), np.float32, 1), "c": c}
            model = model_of([node("Gemm", "x,w,c", **attributes)], constants, x=(("x", ("n", 3)),))
            assert_agrees(model, samples((3,)), rtol=3e-6)


def test_an_alpha_that_the_weights_cannot_take():
    """α W was infinite, or 0, where α (x W) is neither."""
    for alpha, weight, x in [(1e10, 1e30, 1e-20), (1e-30, 1e-20, 1e30)]:
        model = model_of([node("Gemm", "x,w", alpha=alpha)], {"w": [[weight]]}, x=(("x", ("n", 1)),))
        with np.errstate(under="ignore"):
            got, [expected] = fc.from_onnx(model).predict([[x]]), runtime(model, [np.float32([[x]])])
        np.testing.assert_allclose(got, expected, 1e-6)
        assert np.isfinite(expected).all() and expected.all()


OF_ONE = ["Abs", "Exp", "Log", "Neg", "Reciprocal", "Relu", "Sigmoid", "Softplus", "Sqrt", "Tanh", "Identity"]
OF_TWO = ["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Pow"]


@pytest.mark.parametrize("op", OF_ONE + OF_TWO)
@pytest.mark.parametrize("dtype", DTYPES)
def test_arithmetic_of_constants(op, dtype):
    """All were refused, as nodes without an input of the model."""
    a, b = np.array([[0.5, 2.0, 3.0]]), np.array([[2.0], [3.0], [0.25]])
    read = "a,b" if op in OF_TWO else "a"
    model = model_of(
        [node(op, read, "c"), node("Add", "c,zero", "w"), node("MatMul", "x,w")],
        {"a": a, **({"b": b} if read == "a,b" else {}), "zero": np.zeros((3, 3))},
        x=(("x", ("n", 3)),),
        dtype=dtype,
    )
    try:
        runtime(model, samples((3,), dtype))
    except Exception:
        pytest.skip("ONNX Runtime has no such kernel in float64")
    assert_agrees(model, samples((3,), dtype), dtype)


def test_whole_numbers_of_constants():
    """Shapes that exporters compute: −7 / 2 is −3."""
    nodes = [
        node("Div", "a,b", "q"),
        node("Mul", "q,m", "s"),
        node("Concat", "s,two", "shape", axis=0),
        node("Reshape", "c,shape", "w"),
        node("MatMul", "x,w"),
    ]
    constants = {"a": [-7], "b": [2], "m": [-1], "two": [-1], "c": np.arange(9.0)}
    assert_agrees(model_of(nodes, constants, x=(("x", ("n", 3)),)), samples((3,)))


def test_constants_cannot_claim_all_memory():
    nodes = [node("Mul", "r,c", "a"), node("Mul", "a,a", "b"), node("Add", "x,b")]
    constants = {"r": np.ones((1, 1 << 13)), "c": np.ones((1 << 13, 1))}
    with pytest.raises(ValueError, match=r"Mul.*67,108,864 numbers"):
        fc.from_onnx(model_of(nodes, constants, x=(("x", ("n", 1)),)))
    nodes = [node("Expand", "c,s", "a"), node("Add", "x,a")]
    with pytest.raises(ValueError, match=r"Expand.*1,099,511,627,776 numbers"):
        fc.from_onnx(model_of(nodes, {"c": 1.0, "s": [1 << 20, 1 << 20]}, x=(("x", ("n", 1)),)))


# What others write.


def typed(model, outputs, kind):
    """The model with the type of these outputs changed, and with none of what is said of shapes inside."""
    for end in model.graph.output:
        if end.name in outputs:
            end.type.tensor_type.elem_type = kind
    return model


def test_features_are_cut():
    """Split, Slice and Gather along the features were not supported."""
    x = (("x", ("n", 6)),)
    for opset, nodes, constants in [
        (9, [node("Split", "x", "y", axis=1, split=[2, 3, 1])], {}),
        (13, [node("Split", "x,s", "y", axis=-1)], {"s": [2, 3, 1]}),
        (18, [node("Split", "x", "y", axis=1, num_outputs=3)], {}),
        (11, [node("Split", "x", "y", axis=1)], {}),
    ]:
        nodes[0].output[:] = ["a", "b", "c"]
        model = model_of([*nodes, node("Tanh", "b", "t")], constants, x=x, y=("c", "t", "a"), opset=opset)
        net = assert_agrees(model, samples((6,)))
        assert [end.width for end in net.outputs] == ([1, 3, 2] if constants or opset == 9 else [2, 2, 2])
        assert net.dtype == np.float32 and all(layer.frozen for layer in net.layers if isinstance(layer, fc.Linear))


def test_columns_of_a_linear_layer_are_a_linear_layer():
    """As a policy has them that gives its mean and its spread together; what is trained are the columns."""
    nodes = [node("Gemm", "x,w,c", "h"), node("Tanh", "h", "t"), node("Split", "t", "a", axis=1, num_outputs=2)]
    nodes[-1].output[:] = ["a", "b"]
    w, c = normal((4, 6), np.float32), normal(6, np.float32, 1)
    net = assert_agrees(model_of(nodes, {"w": w, "c": c}, y=("a", "b")), rtol=3e-6)
    linear = [layer for layer in net.layers if isinstance(layer, fc.Linear)]
    assert [layer.out_features for layer in linear] == [3, 3]
    assert not any(layer.frozen for layer in linear)


def test_one_column_beside_several():
    """(n, 1) was refused beside (n, features), as in a dueling head."""
    ends = (("v", ("n", 1)), ("x", ("n", 5)))
    xs = samples((1, 5))
    for op in ("Add", "Sub", "Mul", "Max", "Min", "Sum"):
        for read in ("v,x", "x,v"):
            assert_agrees(model_of([node(op, read)], x=ends), xs)
    for op in ("Add", "Sub", "Mul", "Div", "Max"):
        assert_agrees(model_of([node(op, "v,c")], {"c": normal((1, 5), np.float32, 3)}, x=ends[:1]), xs[:1])
    assert_agrees(model_of([node("Gemm", "x,w,v")], {"w": normal((5, 3), np.float32)}, x=ends[::-1]), xs[::-1])


def test_largest_and_smallest_of_two():
    """Exactly, whatever the sizes: a + relu(b − a) is not."""
    ends, a = (("a", ("n", 1)), ("b", ("n", 1))), np.float32([[1e8], [-1e8], [1e-45], [-3.4e38], [7], [0], [np.nan]])
    for dtype in DTYPES:
        for op in ("Max", "Min"):
            model = model_of([node(op, "a,b")], x=ends, dtype=dtype)
            for b in np.float32([1, -1e-3, 0, 3.4e38, 1e30, 7]):
                xs = [a.astype(dtype), np.full(a.shape, b, dtype)]
                assert_array_equal(fc.from_onnx(model).predict(tuple(xs)), runtime(model, xs)[0])


def test_a_column_that_is_squeezed():
    """A model that gives (n,) is a network that gives (n, 1)."""
    for opset, axes in ((11, [1]), (13, [1]), (13, [-1]), (13, None)):
        read = "h,a" if opset == 13 and axes else "h"
        last = node("Squeeze", read, **({"axes": axes} if opset == 11 else {}))
        constants = {"w": normal((4, 1), np.float32)} | ({"a": axes} if read == "h,a" else {})
        model = model_of([node("MatMul", "x,w", "h"), last], constants, opset=opset)
        [expected] = runtime(model, samples())
        got = fc.from_onnx(model).predict(samples()[0])
        assert expected.shape == (6,) and got.shape == (6, 1)
        assert_close(got[:, 0], expected)


def test_inputs_of_one_axis():
    """A sample; or, where that is not a network, a number for each sample."""
    x = samples()[0][0]
    for shape in ((4,), ("features",)):
        model = model_of([node("MatMul", "x,w", "h"), node("Tanh", "h")], {"w": W}, x=(("x", shape),))
        assert_close(fc.from_onnx(model).predict(x), runtime(model, [x]))
    nodes = [node("Unsqueeze", "x,a", "r"), node("Gemm", "r,w", "h"), node("Squeeze", "h,a")]
    model = model_of(nodes, {"w": W, "a": [0]}, x=(("x", (4,)),))
    assert_close(fc.from_onnx(model).predict(x), runtime(model, [x]))
    for shape in (("n",), (6,)):
        nodes = [node("Unsqueeze", "x,a", "u"), node("Reshape", "z,s", "r"), node("Concat", "u,r", "h", axis=1)]
        ends = (("x", shape), ("z", shape))
        model = model_of([*nodes, node("Gemm", "h,w")], {"w": W[:2], "a": [1], "s": [-1, 1]}, x=ends)
        xs = [normal(6, np.float32, i) for i in range(2)]
        net = fc.from_onnx(model)
        assert_close(net.predict(tuple(xs)), runtime(model, xs))
        assert_close(net.predict(tuple(x[:, None] for x in xs)), runtime(model, xs))
        assert net.input_shapes == ((), ())


def test_a_width_that_a_constant_tells():
    """As Keras writes a Normalization before the first layer."""
    x = (("x", ("n", "features")),)
    nodes = [node("Sub", "x,m", "a"), node("Div", "a,v", "b"), node("MatMul", "b,w", "h"), node("Add", "h,c")]
    constants = {"m": [V], "v": [V + 3], "w": W, "c": [1.0, 2.0, 3.0]}
    net = assert_agrees(model_of(nodes, constants, x=x))
    assert repr(net) == "Sequential([Standardize(4), Linear(4, 3)])"
    for first in (node("PRelu", "x,m", "b"), node("Add", "x,x", "b"), node("Relu", "x", "b")):
        read = {name: constants[name] for name in "mw" if name in first.input or name == "w"}
        assert_agrees(model_of([first, node("MatMul", "b,w")], read, x=x))
    assert_agrees(model_of([node("LayerNormalization", "x,w,b")], {"w": NORM["w"], "b": NORM["b"]}, x=x), rtol=3e-6)
    with pytest.raises(ValueError, match="Incompatible dimensions"):
        fc.from_onnx(model_of([node("Add", "x,m", "a"), node("MatMul", "a,w")], {"m": V, "w": W.T}, x=x))


def test_stale_descriptions_of_shapes():
    """ONNX Runtime takes no notice of what a file says of the values inside; here it was not a valid model."""
    nodes = [node("Gemm", "x,w", "h"), node("Relu", "h")]
    for shape in (("n", 7), (1,), (1, 2, 3)):
        model = model_of(nodes, {"w": W})
        model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, shape))
        assert_agrees(model)
    model = model_of(nodes, {"w": W})
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 7)))
    assert_agrees(model)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert_agrees(model)


def policy(*spread, y=("mean", "log_std")):
    nodes = [node("Gemm", "x,w", "h"), node("Tanh", "h", "mean"), *spread]
    return model_of(nodes, {"w": W, "c": [0.5, -0.25, 1.0], "low": -20.0, "high": 2.0}, y=y)


@pytest.mark.parametrize("way", ["initializer", "exponential", "clipped", "ones like", "expanded", "unknown"])
def test_constant_outputs_are_left_out(way):
    """Policies give their log_std, which depends on no input, beside the mean."""
    like = [node("Shape", "mean", "shape"), node("ConstantOfShape", "shape", "ones")]
    ways = {
        "initializer": [node("Identity", "c", "log_std")],
        "exponential": [node("Exp", "c", "log_std")],
        "clipped": [node("Clip", "c,low,high", "d"), node("Exp", "d", "log_std")],
        "ones like": [*like, node("Mul", "ones,c", "log_std")],
        "expanded": [like[0], node("Expand", "c,shape", "log_std")],
        "unknown": [node("Tan", "c", "log_std")],
    }
    model = policy(*ways[way])
    net = fc.from_onnx(model)
    assert_close(net.predict(samples()[0]), runtime(model, samples())[0])
    with pytest.raises(ValueError, match=r"'log_std' is a constant; to read the others, give outputs=\['mean'\]"):
        fc.from_onnx(model, outputs=["log_std"])
    several = policy(*ways[way], node("Softmax", "h", "p"), y=("mean", "log_std", "p"))
    with pytest.raises(ValueError, match=r"'log_std' .*constant.* give outputs=\['mean', 'p'\]"):
        fc.from_onnx(several)


def test_labels_are_left_out_beside_what_they_are_of():
    for op, attributes in (("ArgMax", {"axis": 1}), ("ArgMax", {"axis": 1, "keepdims": 0})):
        nodes = [node("Gemm", "x,w", "h"), node("Softmax", "h", "p"), node(op, "p", "label", **attributes)]
        model = typed(model_of(nodes, {"w": W}, y=("label", "p")), ["label"], TensorProto.INT64)
        assert_close(fc.from_onnx(model).predict(samples()[0]), runtime(model, samples())[1])
        with pytest.raises(ValueError, match=r"ArgMax.*'label' is labels.*give outputs=\['p'\]"):
            fc.from_onnx(model, outputs=["label"])
    nodes = [node("Gemm", "x,w", "h"), node("Greater", "h,c", "g"), node("Cast", "g", "label", to=TensorProto.INT64)]
    model = typed(model_of(nodes, {"w": W, "c": 0.5}, y=("label", "h")), ["label"], TensorProto.INT64)
    assert_close(fc.from_onnx(model).predict(samples()[0]), runtime(model, samples())[1])
    alone = typed(model_of(nodes, {"w": W, "c": 0.5}, y=("label",)), ["label"], TensorProto.INT64)
    with pytest.raises(ValueError, match=r"Cast.*'label' is labels"):
        fc.from_onnx(alone)


def test_the_shape_of_a_batch():
    """As older exporters flatten: x.view(x.size(0), -1)."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s,zero", "n", axis=0),
        node("Unsqueeze", "n,axis", "u"),
        node("Concat", "u,rest", "shape", axis=0),
        node("Reshape", "x,shape", "h"),
        node("MatMul", "h,w"),
    ]
    constants = {"zero": np.int64(0), "axis": [0], "rest": [-1], "w": normal((12, 3), np.float32)}
    assert_agrees(model_of(nodes, constants, x=(("x", ("n", 1, 3, 4)),)), [normal((6, 1, 3, 4), np.float32)])


# Types.

NUMBER_TYPES = {
    "FLOAT16": np.float16,
    "FLOAT": np.float32,
    "DOUBLE": np.float64,
    **{name: np.dtype(name.lower()).type for name in ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT32", "UINT64")},
    "BOOL": np.bool_,
}
ODD_NUMBERS = [0.1, 1.5, -3.7, 65519.0, 1e5, 16777217.0, 123456789.0, 2.0**31 - 1, 1e-8, 0.0, 1.0, 300.0]


def numbers_of(dtype):
    """Some that are in the dtype."""
    with np.errstate(all="ignore"):
        cast = np.array(ODD_NUMBERS).astype(dtype)
        kept = np.abs(cast - np.array(ODD_NUMBERS)) < 1 if dtype not in (np.float16, np.bool_) else slice(None)
        return cast[kept][:, None]


def agrees_or_is_refused(model, x):
    """Whether it is read, and then it has the same numbers, but for rounding in the network's own dtype."""
    expected = runtime(model, [x])[0]
    try:
        net = fc.from_onnx(model)
    except ValueError:
        return False
    with np.errstate(over="ignore"):
        got = net.predict(x)
    bound = 3e-7 if got.dtype == np.float32 else 1e-15
    if expected.dtype == np.float64:
        assert got.dtype == np.float64 or np.array_equal(got, expected)
    assert_array_equal(np.isfinite(got), np.isfinite(expected))
    np.testing.assert_allclose(got, expected, bound)
    return True


@pytest.mark.parametrize("to", NUMBER_TYPES)
@pytest.mark.parametrize("of", NUMBER_TYPES)
def test_every_cast_is_exact_or_refused(of, to):
    """A Cast of an input to FLOAT16 was dropped: 0.1 stayed 0.1, and 1e5 was not infinite."""
    x = numbers_of(NUMBER_TYPES[of])
    for last in ("FLOAT", "DOUBLE"):
        for body in ([], ["Tanh"], ["Gemm"], ["Relu"]):
            steps = [("Cast", {"to": getattr(TensorProto, to)}), ("Cast", {"to": getattr(TensorProto, last)})]
            steps = steps[: 1 + (to != last)] + [(op, {}) for op in body]
            names = ["x", *(f"v{i}" for i in range(len(steps) - 1)), "y"]
            nodes = [
                helper.make_node(op, [a, "w"] if op == "Gemm" else [a], [b], **attributes)
                for (op, attributes), a, b in zip(steps, names, names[1:], strict=False)
            ]
            end = getattr(TensorProto, last)
            graph = helper.make_graph(
                nodes,
                "g",
                [helper.make_tensor_value_info("x", getattr(TensorProto, of), ["n", 1])],
                [helper.make_tensor_value_info("y", end, ["n", 1])],
                [numpy_helper.from_array(np.array([[0.7]], NUMBER_TYPES[last]), "w")],
            )
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
            was_read = agrees_or_is_refused(model, x)
            simple = {"FLOAT16", "FLOAT", "DOUBLE", "INT32", "INT64"}
            lossless = of == to or (of, to) in {("FLOAT16", "FLOAT"), ("FLOAT", "DOUBLE"), ("FLOAT16", "DOUBLE")}
            lossless = lossless or (of, to) in {("INT32", "INT64"), ("INT32", "DOUBLE")}
            if of in simple and to in simple and (to == last or lossless) and body != [] and of != "FLOAT16":
                assert was_read


@pytest.mark.parametrize("to", NUMBER_TYPES)
@pytest.mark.parametrize("of", NUMBER_TYPES)
def test_every_cast_of_a_constant(of, to):
    kinds = [getattr(TensorProto, name) for name in (of, to)]
    constant = numbers_of(NUMBER_TYPES[of])
    nodes = [node("Cast", "c", "d", to=kinds[1]), node("Cast", "d", "w", to=TensorProto.FLOAT), node("Gemm", "x,w")]
    model = model_of(nodes, x=(("x", ("n", len(constant))),))
    model.graph.initializer.append(numpy_helper.from_array(constant, "c"))
    x = np.eye(len(constant), dtype=np.float32)
    try:
        net = fc.from_onnx(model)
    except ValueError as error:
        assert "cannot hold" in str(error)
        return
    with np.errstate(over="ignore"):
        expected = constant.astype(NUMBER_TYPES[to]).astype(np.float32)
    assert_array_equal(net[0].weight, expected)
    if np.isfinite(expected).all():
        assert_array_equal(net.predict(x), runtime(model, [x])[0])


def test_a_cast_inside_is_refused_unless_it_changes_nothing():
    for to, read in (("FLOAT", True), ("DOUBLE", False), ("FLOAT16", False), ("INT64", False)):
        model = model_of([node("Relu", "x", "r"), node("Cast", "r", to=getattr(TensorProto, to))])
        typed(model, ["y"], getattr(TensorProto, to))
        if read:
            assert repr(fc.from_onnx(model)) == "Sequential([ReLU()])"
        else:
            with pytest.raises(ValueError, match=f"Cast.*to {to} of a float32"):
                fc.from_onnx(model)


# Inputs of several axes.


def test_the_models_own_input_is_taken(tmp_path):
    """Flatten and Reshape were read, but predict then refused the (n, 1, 3, 4) that the model takes."""
    shape, w = ("n", 1, 3, 4), normal((12, 3), np.float32)
    x, y = normal((6, 1, 3, 4), np.float32, 1), normal((6, 3), np.float32, 2)
    for first in (node("Flatten", "x", "h"), node("Reshape", "x,s", "h")):
        constants = {"w": w} | ({"s": [-1, 12]} if first.op_type == "Reshape" else {})
        model = model_of([first, node("Gemm", "h,w")], constants, x=(("x", shape),))
        net, expected = fc.from_onnx(model), runtime(model, [x])
        assert net.input_shapes == ((1, 3, 4),)
        for same in (x, x.astype(np.float64), x.reshape(6, 12), x.tolist()):
            assert_close(net.predict(same), expected)
        assert_close(net.predict(x[0]), expected[0][0])
        assert_close(net.forward(x), expected)
        assert_close(net.predict(iter([x[:2], x[2:]])), expected)
        net.fit(x, y, loss=fc.MSELoss(), optimizer=fc.SGD(0.01), epochs=1, seed=0)
        assert np.isfinite(net.evaluate(x, y, loss=fc.MSELoss()))
        for wrong in (x.reshape(6, 3, 4), x.reshape(6, 4, 3, 1), x[..., :3]):
            with pytest.raises(ValueError, match=r"expected \(n, 1, 3, 4\) or \(n, 12\)"):
                net.predict(wrong)
        net.save(tmp_path / "net")
        assert_close(fc.load(tmp_path / "net").predict(x), net.predict(x))
        assert_close(pickle.loads(pickle.dumps(net)).predict(x), net.predict(x))
        back = assert_round_trip(net, [x], tmp_path)
        assert back.input_shapes == net.input_shapes


def test_a_row_as_wide_as_the_models_input_is_a_row():
    """Of an input (n, 1, 4), an array (1, 4) is a batch of one row, before the first call as after it."""
    w = normal((4, 3), np.float32)
    net = fc.from_onnx(model_of([node("Flatten", "x", "h"), node("Gemm", "h,w")], {"w": w}, x=(("x", ("n", 1, 4)),)))
    x = normal((6, 1, 4), np.float32, 1)
    for _ in range(2):
        assert_close(net.predict(x[0]), x[0] @ w)
        assert_close(net.forward(x[0]), x[0] @ w)
        assert_close(net.predict(x[0].astype(np.float64)), x[0] @ w)
        assert_close(net.predict(x), x[:, 0] @ w)
        assert_close(net.predict(x[0, 0]), x[0, 0] @ w)


def test_a_shape_that_is_not_known():
    nodes = [node("Flatten", "x", "h"), node("Relu", "h")]
    for shape in (("n", "height", "width"), ("n", 3, "width")):
        with pytest.raises(ValueError, match="number of features is not known"):
            fc.from_onnx(model_of(nodes, x=(("x", shape),)))
    model = model_of([*nodes[:1], node("MatMul", "h,w")], {"w": normal((12, 3), np.float32)}, x=(("x", shape),))
    x = normal((6, 3, 4), np.float32)
    assert_close(fc.from_onnx(model).predict(x), runtime(model, [x]))


def test_several_inputs_of_several_axes(tmp_path):
    ends = (("image", ("n", 2, 3)), ("x", ("n", 4)))
    nodes = [node("Flatten", "image", "h"), node("Concat", "h,x", "j", axis=1), node("Gemm", "j,w")]
    model = model_of(nodes, {"w": normal((10, 3), np.float32)}, x=ends)
    xs = [normal((6, 2, 3), np.float32), *samples()]
    net = fc.from_onnx(model)
    assert_close(net.predict(tuple(xs)), runtime(model, xs))
    assert_close(net.forward(tuple(xs)), runtime(model, xs))
    assert_round_trip(net, xs, tmp_path)
    with pytest.raises(ValueError, match="do not fit inputs of"):
        net.input_shapes = ((2, 3), (5,))
    with pytest.raises(ValueError, match="do not fit inputs of"):
        net.input_shapes = ((2, 3),)
    net.input_shapes = None
    assert_close(net.predict((xs[0].reshape(6, 6), xs[1])), runtime(model, xs))


def damaged():
    model = model_of([node("Gemm", "x,w,c", "h"), node("Relu", "h")], {"w": W, "c": [1.0, 2.0, 3.0]})

    def changed(change):
        other = onnx.ModelProto()
        other.CopyFrom(model)
        change(other)
        return other.SerializeToString()

    data = model.SerializeToString()

    def external(location, **entries):
        def change(m):
            tensor = m.graph.initializer[0]
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in {"location": location, **entries}.items():
                tensor.external_data.add(key=key, value=str(value))

        return change

    def cycle(m):
        m.graph.node[0].input[0] = "y"

    def add_if(m):
        branch = helper.make_graph([node("Relu", "x", "b")], "g", [], [helper.make_tensor_value_info("b", 1, None)])
        m.graph.node.append(helper.make_node("If", ["x"], ["i"], then_branch=branch, else_branch=branch))

    return {
        "nothing": (b"", "no valid model"),
        "text": (b"this is not a model\n" * 9, "damaged"),
        "truncated": (data[:-9], "damaged"),
        "half": (data[: len(data) // 2], "damaged|no valid"),
        "bits": (bytes(b ^ 255 for b in data), "damaged"),
        "cycle": (changed(cycle), "no valid model"),
        "order": (changed(lambda m: m.graph.node.insert(0, m.graph.node.pop())), "no valid model"),
        "missing tensor": (changed(lambda m: m.graph.initializer.pop()), "no valid model"),
        "missing input": (changed(lambda m: m.graph.input.pop()), "no valid model"),
        "twice": (changed(lambda m: m.graph.node[1].output.__setitem__(0, "h")), "no valid model"),
        "giant tensor": (
            changed(lambda m: m.graph.initializer[0].dims.__setitem__(0, 2**40)),
            "no valid|cannot be read",
        ),
        "negative dims": (changed(lambda m: m.graph.initializer[0].dims.__setitem__(0, -4)), "no valid|cannot be read"),
        "small tensor": (changed(lambda m: m.graph.initializer[0].dims.__setitem__(0, 2)), "no valid|cannot be read"),
        "giant input": (
            changed(lambda m: (m.graph.node.pop(0), m.graph.node[0].input.__setitem__(0, "x"), giant(m))),
            "at most",
        ),
        "no outputs": (changed(lambda m: m.graph.output.pop()), "no output to read|no valid"),
        "opset of the future": (
            changed(lambda m: setattr(m.opset_import[0], "version", 999)),
            "opset 999 is not supported; from 7",
        ),
        "opset of the past": (
            changed(lambda m: setattr(m.opset_import[0], "version", 3)),
            "opset 3 is not supported; from 7",
        ),
        "no opset": (changed(lambda m: m.opset_import.pop()), "no valid model"),
        "domain": (changed(lambda m: setattr(m.graph.node[1], "domain", "evil")), "no valid model|evil"),
        "operator": (changed(lambda m: setattr(m.graph.node[1], "op_type", "Evil")), "no valid model"),
        "string": (changed(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 8)), "no valid|STRING"),
        "no graph": (changed(lambda m: m.ClearField("graph")), "no valid model"),
        "external outside": (changed(external("../secret")), "not in the model's folder"),
        "external absolute": (changed(external("/etc/passwd")), "not in the model's folder"),
        "external link": (changed(external("link")), "not in the model's folder"),
        "external missing": (changed(external("nowhere")), "which is missing"),
        "external folder": (changed(external(".")), "which is missing"),
        "external short": (changed(external("data", length=48, offset=1 << 40)), "should hold its shape"),
        "external length": (changed(external("data", length=1 << 50)), "should hold its shape"),
        "external entry": (changed(external("data", offset="one")), "that are not numbers"),
    }


def giant(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 10**12
    end = model.graph.output[0].type.tensor_type.shape
    end.dim[1].Clear()


DAMAGED = damaged()


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged(name, tmp_path):
    data, says = DAMAGED[name]
    (tmp_path / "secret").write_bytes(bytes(64))
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "data").write_bytes(bytes(48))
    (folder / "link").symlink_to(tmp_path / "secret")
    path = folder / "net.onnx"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=says) as caught:
        fc.from_onnx(path)
    assert str(path) in str(caught.value)


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "net.onnx"
    fc.MLP([2, 2], seed=0).to_onnx(path)
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError):
            fc.from_onnx(path)


def test_external_data_in_the_folder(tmp_path):
    w = W.astype(np.float32)
    model = model_of([node("Gemm", "x,w")], {"w": W})
    expected = runtime(model, samples())
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    assert_close(fc.from_onnx(tmp_path / "net.onnx").predict(samples()[0]), expected)
    external = onnx.load(tmp_path / "net.onnx", load_external_data=False)
    with pytest.raises(ValueError, match="give the path of the model"):
        fc.from_onnx(external)
    assert (tmp_path / "weights").stat().st_size >= w.nbytes


def test_missing_files_and_wrong_types(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fc.from_onnx("nowhere.onnx")
    with pytest.raises(TypeError):
        fc.from_onnx(3)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ValueError, match="not a regular file"):
            fc.from_onnx(path)


def test_concatenations_cannot_claim_all_memory():
    nodes = [
        node("Concat", f"{'x' if i == 0 else f'c{i}'},{'x' if i == 0 else f'c{i}'}", f"c{i + 1}", axis=1)
        for i in range(60)
    ]
    with pytest.raises(ValueError, match="at most"):
        fc.from_onnx(model_of(nodes, y=("c60",)))


def test_many_constants_cannot_claim_all_memory():
    x = (("x", ("n", 1 << 24)),)
    nodes = [helper.make_node("Add", [f"v{i}" if i else "x", "c"], [f"v{i + 1}"]) for i in range(900)]
    with pytest.raises(ValueError, match="all values together have"):
        fc.from_onnx(model_of(nodes, {"c": 1.0}, x=x, y=("v900",)))


def test_long_chains_and_many_scales():
    """No recursion without bound, and no time that grows exponentially."""
    nodes = [helper.make_node("Neg", [f"v{i}" if i else "x"], [f"v{i + 1}"]) for i in range(2000)]
    assert repr(fc.from_onnx(model_of(nodes, y=("v2000",)))) == "Sequential([Identity()])"
    nodes = [helper.make_node("Mul", [f"v{i}" if i else "x"] * 2, [f"v{i + 1}"]) for i in range(300)]
    nodes.append(node("Tanh", "v300"))
    with pytest.raises(ValueError, match="only as a part"):
        fc.from_onnx(model_of([*nodes, node("Erf", "y", "z")], y=("z",)))


# Writing.


def written(net, tmp_path):
    path = str(tmp_path / "net.onnx")
    net.to_onnx(path)
    onnx.checker.check_model(path, full_check=True)
    return path


def assert_round_trip(net, xs, tmp_path):
    """ONNX Runtime computes it, and it can be read again."""
    path = written(net, tmp_path)
    x = tuple(xs) if len(xs) > 1 else xs[0]
    assert_close(runtime(path, xs), net.predict(x))
    back = fc.from_onnx(path)
    assert_close(back.predict(x), net.predict(x))
    return back


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_layer_is_written(name, dtype, tmp_path):
    net = LAYERS[name](dtype)
    back = assert_round_trip(net, [inputs(name, 0, dtype)], tmp_path)
    assert back.dtype == dtype
    one = inputs(name, 0, dtype)[:1]
    assert_close(runtime(str(tmp_path / "net.onnx"), [one]), net.predict(one))  # any batch


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETS)
def test_every_kind_is_written(name, dtype, tmp_path):
    assert_round_trip(net_of(name, dtype), [data_of(name, dtype)], tmp_path)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, settings", ACTIVATIONS, ids=ids(ACTIVATIONS))
def test_activation_is_written(name, settings, dtype, tmp_path):
    layer = getattr(fc, name)(**settings)
    net = fc.Sequential([fc.Linear(4, 4, seed=0, dtype=dtype), layer])
    if name == "Elementwise":
        with pytest.raises(ValueError, match=r"layer 1, Elementwise\(square, twice\)"):
            net.to_onnx(tmp_path / "net.onnx")
        assert not list(tmp_path.iterdir())
        return
    x = np.concatenate([30 * numbers(0), numbers(1)]).astype(dtype)
    if dtype == np.float64 and layer.name == "gelu":  # ONNX Runtime has no erf in float64
        back = fc.from_onnx(written(net, tmp_path))
        assert_array_equal(back.predict(x), net.predict(x))
    else:
        back = assert_round_trip(net, [x], tmp_path)
    assert repr(back) == (repr(net) if name != "Identity" else f"Sequential([{net[0]}])")


@pytest.mark.parametrize("dtype", DTYPES)
def test_eps_is_written(dtype, tmp_path):
    norms = [fc.LayerNorm, fc.RMSNorm, fc.BatchNorm1d]
    net = fc.Sequential([norm(4, eps, dtype=dtype) for norm in norms for eps in (0.3, 0.0, 1e-7)])
    back = assert_round_trip(net, samples(dtype=dtype), tmp_path)
    if dtype == np.float32:
        assert repr(back) == repr(net)


def test_softplus_beyond_its_threshold(tmp_path):
    net = fc.Sequential([fc.Softplus(2.0, 0.5)])
    back = assert_round_trip(net, [np.linspace(-2, 2, 40, dtype=np.float32)[:, None]], tmp_path)
    assert repr(back) == repr(net)


def test_names_and_several_ends(tmp_path):
    a, b = fc.Input(3, name="state"), fc.Input(2)
    h = fc.Tanh()(fc.Linear(3, 2, seed=0, name="body")(a))
    net = fc.Graph([a, b], [h - b, h, a, h])
    back = assert_round_trip(net, samples((3, 2)), tmp_path)
    model = onnx.load(tmp_path / "net.onnx")
    assert [end.name for end in model.graph.input] == ["state", "input_1"]
    assert [end.name for end in model.graph.output] == ["output_0", "output_1", "output_2", "output_3"]
    assert [t.name for t in model.graph.initializer][:2] == ["body.weight", "body.bias"]
    assert len(back.inputs) == 2 and len(back.outputs) == 4


def test_names_that_are_there_twice(tmp_path):
    a, b = fc.Input(3, name="output"), fc.Input(3, name="output")
    linear = fc.Linear(3, 3, seed=0, name="output")
    assert_round_trip(fc.Graph([a, b], linear(a) + linear(b)), samples((3, 3)), tmp_path)
    assert len(onnx.load(tmp_path / "net.onnx").graph.initializer) == 2  # shared, so there once


def test_nested_networks(tmp_path):
    x = fc.Input(4)
    inner = fc.Graph(x, x + fc.Sequential([fc.Linear(4, 4, seed=0), fc.Dropout(0.5), fc.ReLU()])(x))
    back = assert_round_trip(fc.Sequential([inner, fc.Linear(4, 2, seed=1)]), samples(), tmp_path)
    assert "Dropout" not in repr(back)


def test_networks_without_parameters(tmp_path):
    net = fc.Sequential([fc.Tanh(), fc.Softmax()])
    assert repr(assert_round_trip(net, samples(), tmp_path)) == repr(net)
    x = fc.Input(4)
    assert_round_trip(fc.Graph(x, x), samples(), tmp_path)


def test_trained_statistics_are_written(tmp_path):
    x = 5 + 2 * normal((64, 4), np.float32)
    net = fc.Sequential(
        [fc.Standardize.of(x), fc.Linear(4, 8, seed=0), fc.BatchNorm1d(8), fc.ReLU(), fc.Linear(8, 1, seed=1)]
    )
    net.fit(x, x[:, :1], loss=fc.MSELoss(), optimizer=fc.Adam(), epochs=2, batch_size=16, seed=0)
    back = assert_round_trip(net, [x], tmp_path)
    assert repr(back) == repr(net)
    assert_array_equal(back.params, net.params)


def test_what_was_read_can_be_trained():
    model = model_of([node("Gemm", "x,w", "h"), node("Relu", "h")], {"w": W})
    net, x = fc.from_onnx(model), samples()[0]
    before = net.evaluate(x, np.ones((6, 3)), fc.MSELoss())
    net.fit(x, np.ones((6, 3)), loss=fc.MSELoss(), optimizer=fc.SGD(0.01), epochs=20, seed=0)
    assert net.evaluate(x, np.ones((6, 3)), fc.MSELoss()) < before


def test_the_file_is_replaced_at_once(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    fc.MLP([2, 2], seed=0).to_onnx(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            fc.MLP([3, 3], seed=0).to_onnx(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
    fc.MLP([3, 3], seed=0).to_onnx(str(path))
    assert fc.from_onnx(path).in_features == 3
    with pytest.raises(FileNotFoundError):
        fc.MLP([3, 3]).to_onnx(tmp_path / "nowhere" / "net.onnx")


def test_layers_of_other_classes_are_refused(tmp_path):
    class Mine(fc.Linear):
        pass

    with pytest.raises(ValueError, match=r"layer 1, Linear\(4, 2\), cannot be written"):
        fc.Sequential([fc.Linear(4, 4), Mine(4, 2)]).to_onnx(tmp_path / "net.onnx")


def test_too_many_parameters_for_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr("fastfc.io.onnx.writer.LARGEST", 40)
    with pytest.raises(ValueError, match="2 GB, but the network has 48 bytes"):
        fc.MLP([3, 3]).to_onnx(tmp_path / "net.onnx")


# Random graphs.


@st.composite
def random_models(draw):
    """Some nodes on what was there before; all that nothing reads is an output."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    widths, nodes, constants = {"x": 4, "z": 3}, [], {}
    unary = [
        "Relu",
        "Sigmoid",
        "Tanh",
        "Softplus",
        "Softsign",
        "Softmax",
        "Identity",
        "Elu",
        "HardSwish",
        "Neg",
        "Selu",
    ]
    for i in range(draw(st.integers(2, 9))):
        a = draw(st.sampled_from(sorted(widths)))
        kind = draw(st.sampled_from(["unary", "constant", "row", "gate", "gemm", "matmul", "concat", "norm", "silu"]))
        y, read, width, attributes, op = f"v{i}", [a], widths[a], {}, "Relu"
        same = [name for name in sorted(widths) if widths[name] == width]
        if kind == "unary":
            op = draw(st.sampled_from(unary))
        elif kind in ("constant", "row"):
            op = draw(st.sampled_from(["Add", "Sub", "Mul", "Div"]))
            values = rng.integers(-3, 4, width if kind == "row" else ()) / 2
            constants[f"c{i}"] = np.where(values == 0, 1, values) if op == "Div" else values
            read = draw(st.permutations([a, f"c{i}"])) if op != "Div" else [a, f"c{i}"]
        elif kind == "gate":
            op, read = draw(st.sampled_from(["Add", "Sub", "Mul"])), [a, draw(st.sampled_from(same))]
        elif kind in ("gemm", "matmul"):
            size = draw(st.integers(1, 5))
            constants[f"w{i}"], op, read = rng.standard_normal((width, size)) / 2, "MatMul", [a, f"w{i}"]
            if kind == "gemm":
                op, attributes = (
                    "Gemm",
                    {"alpha": draw(st.sampled_from([1.0, -0.5])), "transB": draw(st.integers(0, 1))},
                )
                if attributes["transB"]:
                    constants[f"w{i}"] = constants[f"w{i}"].T
            width = size
        elif kind == "concat":
            b = draw(st.sampled_from(sorted(widths)))
            op, read, width, attributes = "Concat", [a, b], width + widths[b], {"axis": draw(st.sampled_from([1, -1]))}
        elif kind == "norm":
            constants[f"g{i}"], constants[f"b{i}"] = rng.standard_normal((2, width))
            op, read, attributes = "LayerNormalization", [a, f"g{i}", f"b{i}"], {"epsilon": 0.125}
        elif kind == "silu":
            nodes.append(helper.make_node("Sigmoid", [a], [f"s{i}"]))
            op, read = "Mul", draw(st.permutations([a, f"s{i}"]))
        nodes.append(helper.make_node(op, read, [y], **attributes))
        widths[y] = width
    read = {name for each in nodes for name in each.input}
    ends = [name for name in widths if name not in read and name not in "xz"]
    x = tuple((name, ("n", widths[name])) for name in "xz" if name in read)
    return model_of(nodes, constants, x=x, y=ends)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(random_models())
def test_random_graphs(model):
    widths = [end.type.tensor_type.shape.dim[1].dim_value for end in model.graph.input]
    xs = [x / 3 for x in samples(widths)]
    expected = runtime(model, xs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = fc.from_onnx(model).predict(tuple(xs) if len(xs) > 1 else xs[0])
    assert_close(got, expected, rtol=3e-5)


# Real exporters.


def torch_layers(torch):
    nn = torch.nn
    activations = [
        *(
            nn.Identity(),
            nn.ReLU(),
            nn.LeakyReLU(0.2),
            nn.Sigmoid(),
            nn.LogSigmoid(),
            nn.Tanh(),
            nn.Hardtanh(-0.5, 2.0),
        ),
        *(nn.ReLU6(), nn.ELU(0.7), nn.SELU(), nn.CELU(2.0), nn.Softplus(2.0), nn.Softsign(), nn.Hardsigmoid()),
        *(nn.Hardswish(), nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.Mish(), nn.Softmax(1), nn.LogSoftmax(-1)),
    ]
    others = [nn.LayerNorm(8), nn.BatchNorm1d(8), nn.Dropout(), nn.Flatten(), nn.Linear(8, 8, bias=False)]
    return activations + others


def torch_net(torch, layers):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), *layers, torch.nn.Linear(8, 3)).eval()
    with torch.no_grad():
        for name, values in net.state_dict().items():
            if values.ndim == 1:
                values.copy_(torch.rand(values.shape) + 0.5 * ("var" in name))
    return net


@pytest.mark.parametrize("opset", [13, 17])
def test_exported_by_pytorch(opset, tmp_path):
    """By its older exporter, which needs onnx only."""
    torch = pytest.importorskip("torch")
    path = str(tmp_path / "net.onnx")
    for layer in torch_layers(torch):
        net = torch_net(torch, [layer])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                net,
                torch.zeros(2, 4),
                path,
                dynamo=False,
                opset_version=opset,
                input_names=["x"],
                dynamic_axes={"x": {0: "n"}},
            )
        back = assert_agrees(path)
        assert isinstance(back, fc.Sequential)
        expected = (
            [] if isinstance(layer, torch.nn.Identity | torch.nn.Dropout | torch.nn.Flatten) else [type(layer).__name__]
        )
        assert [type(part).__name__ for part in back] == ["Linear", *expected, "Linear"]
        with torch.no_grad():
            assert_close(back.predict(samples()[0]), net(torch.from_numpy(samples()[0])).numpy(), 2e-6)


def test_exported_by_pytorch_dynamo(tmp_path):
    """By its newer exporter: all activations in a few networks, and a residual block with two outputs."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = torch.nn.Linear(4, 4), torch.nn.Linear(8, 2)
            self.norm = torch.nn.LayerNorm(4)

        def forward(self, x):
            h = self.norm(x + torch.nn.functional.silu(self.body(x / 2 - 1)))
            return torch.nn.functional.softmax(self.head(torch.cat([h, x], 1)), dim=1), h * x

    layers = [layer for layer in torch_layers(torch) if not isinstance(layer, torch.nn.Softmax | torch.nn.LogSoftmax)]
    for net in (torch_net(torch, layers), Block().eval()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            n = torch.export.Dim("n")
            program = torch.onnx.export(net, (torch.zeros(2, 4),), dynamo=True, dynamic_shapes=({0: n},), verbose=False)
        path = str(tmp_path / "net.onnx")
        program.save(path)
        back = assert_agrees(path, rtol=1e-5)
        assert isinstance(back, fc.Graph) == isinstance(net, Block)


def test_exported_from_scikit_learn():
    skl2onnx = pytest.importorskip("skl2onnx")
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = 3 + 2 * normal((60, 4), np.float64)
    options = {"hidden_layer_sizes": (7, 5), "max_iter": 5, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for activation in ("relu", "tanh", "logistic", "identity"):
            fitted = MLPRegressor(activation=activation, **options).fit(x, x[:, 0])
            model = skl2onnx.to_onnx(fitted, x[:1].astype(np.float32))
            assert isinstance(assert_agrees(model, [x.astype(np.float32)], rtol=3e-6), fc.Sequential)
        fitted = make_pipeline(StandardScaler(), MLPRegressor(**options)).fit(x, x[:, 0])
        net = assert_agrees(skl2onnx.to_onnx(fitted, x[:1]), [x], rtol=3e-6)
        assert isinstance(net[0], fc.Standardize)
        net = assert_agrees(skl2onnx.to_onnx(fitted, x[:1].astype(np.float32)), [x.astype(np.float32)], rtol=3e-6)
        assert isinstance(net[0], fc.Standardize)


def probabilities(model, x):
    """Those that ONNX Runtime gives, as an array or as a dictionary for each sample."""
    found = runtime(model, [x])[1]
    return np.array([list(row.values()) for row in found], np.float32) if isinstance(found, list) else found


CLASSES = {
    "two": lambda x: x[:, 0] > 3,
    "three": lambda x: (x[:, 0] > 3) * 1 + (x[:, 1] > 3),
    "texts": lambda x: np.where(x[:, 0] > 3, "yes", np.where(x[:, 1] > 3, "maybe", "no")),
    "several labels": lambda x: (x[:, :3] > 3).astype(int),
}


@pytest.mark.parametrize("classes", CLASSES)
def test_classifiers_from_scikit_learn(classes):
    """As skl2onnx writes them by default, with labels by ArgMax and dictionaries by ZipMap: refused without a hint."""
    skl2onnx = pytest.importorskip("skl2onnx")
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

    x = 3 + 2 * normal((60, 4), np.float64)
    for scaler in (None, StandardScaler(), StandardScaler(with_std=False), MinMaxScaler(), RobustScaler()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = MLPClassifier(hidden_layer_sizes=(7, 5), max_iter=5, random_state=0)
            fitted = make_pipeline(*filter(None, [scaler, fitted])).fit(x, CLASSES[classes](x))
            single = x[:1].astype(np.float32)
            models = [skl2onnx.to_onnx(fitted, single)]
            models += [skl2onnx.to_onnx(fitted, single, options={"zipmap": False})]
            models += [skl2onnx.to_onnx(fitted, x[:1].astype(np.int64))]
        for model, dtype in zip(models, (np.float32, np.float32, np.int64), strict=True):
            net, data = fc.from_onnx(model), x.astype(dtype)
            expected = probabilities(model, data)
            assert_close(net.predict(data), expected, 3e-6)
            label, scores = (end.name for end in model.graph.output)
            assert_close(fc.from_onnx(model, outputs=[scores]).predict(data), expected, 3e-6)
            with pytest.raises(ValueError, match=rf"'{label}' is labels.*give outputs=\['{scores}'\]"):
                fc.from_onnx(model, outputs=[label])


def test_scaler():
    """(x − offset) · scale in float32, one number for all features or one for each."""
    for offset, scale in (([1.0], [0.25]), ([1.0, -2.0, 0.0, 0.5], [0.5, 0.0, -2.0, 3.0])):
        scaler = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=offset, scale=scale)
        model = model_of([scaler], domain="ai.onnx.ml")
        assert_agrees(model)
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
        assert_agrees(model, [np.arange(24).reshape(6, 4)])
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
        with pytest.raises(ValueError, match=r"Scaler.*of a float64 is not supported"):
            fc.from_onnx(model)
    for offset, scale in (([1.0], [1.0, 2.0]), ([1.0, 2.0], [1.0, 2.0])):
        scaler = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=offset, scale=scale)
        with pytest.raises(ValueError, match=r"Scaler.*(same length|2 numbers, but)"):
            fc.from_onnx(model_of([scaler], domain="ai.onnx.ml"))
