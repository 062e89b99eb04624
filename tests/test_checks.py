import numpy as np
import pytest

import fastfc as fc
from fastfc.validation import (
    as_floats,
    as_real,
    did_you_mean,
    finite_number,
    float_dtype,
    positive_int,
    positive_number,
)


@pytest.mark.parametrize(
    "given",
    [[[1, 2]], [[True, False]], np.ones((1, 2), np.uint8), np.ones((1, 2), np.float16), np.ones((1, 2), ">f8")],
)
def test_numbers_become_the_wanted_dtype(given):
    for dtype in (np.float32, np.float64):
        got = as_floats(given, dtype, "Layer", "x")
        assert got.dtype == dtype and got.dtype.isnative
        np.testing.assert_array_equal(got, np.asarray(given, dtype))


def test_the_right_dtype_is_not_copied():
    x = np.ones((2, 3), np.float32)
    assert as_floats(x, np.float32, "Layer", "x") is x
    assert as_floats(x, None, "Layer", "x") is x


@pytest.mark.parametrize(("given", "dtype"), [([1], "f4"), (np.ones(1, ">f8"), "f8"), (np.ones(1, "f2"), "f4")])
def test_without_a_wanted_dtype(given, dtype):
    assert as_floats(given, None, "Layer", "x").dtype == np.dtype(dtype)


@pytest.mark.parametrize("given", [1j, "a", None, [object()]])
def test_what_is_not_a_real_number_is_refused(given):
    with pytest.raises(TypeError, match="Layer: x has dtype"):
        as_real(given, "Layer", "x")


@pytest.mark.parametrize("mask", [False, True])
def test_masked_arrays_are_refused(mask):
    """Whether or not something is masked: what is taken does not depend on the values."""
    x = np.ma.array(np.ones((3, 2)), mask=mask)
    for call in (fc.Linear(2, 1).predict, fc.Linear(2, 1).forward, fc.Standardize(2).adapt):
        with pytest.raises(TypeError, match="x is a masked array; fill it first"):
            call(x)


class Lying:
    def __array__(self, dtype=None, copy=None):
        return [1.0]


def test_what_numpy_can_not_read_is_named():
    with pytest.raises(ValueError, match=r"Layer: x can't be made an array: .*__array__"):
        as_real(Lying(), "Layer", "x")


def test_ragged_rows_are_refused():
    with pytest.raises(ValueError, match="Layer: x has rows of different lengths"):
        as_real([[1], [1, 2]], "Layer", "x")


def test_dtypes():
    assert float_dtype("float32", "Layer") == np.float32
    with pytest.raises(TypeError, match=r"Layer: dtype must be np.float32 or np.float64, got int64"):
        float_dtype(np.int64, "Layer")


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-3, ValueError), (1.0, TypeError), ("1", TypeError)])
def test_positive_int(value, error):
    assert positive_int(np.int64(3), "Layer", "width") == 3
    with pytest.raises(error, match="Layer: width must be"):
        positive_int(value, "Layer", "width")


@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf])
def test_positive_number(value):
    assert positive_number(np.float32(0.5), "SGD", "lr") == 0.5
    with pytest.raises(ValueError, match="SGD: lr must be finite and positive"):
        positive_number(value, "SGD", "lr")
    assert positive_number(0, "SGD", "momentum", or_zero=True) == 0
    with pytest.raises(TypeError, match="SGD: lr must be a number"):
        positive_number("fast", "SGD", "lr")


def test_finite_number():
    assert finite_number(np.float32(-0.5), "Normal", "mean") == -0.5
    for value in (np.nan, -np.inf):
        with pytest.raises(ValueError, match="Normal: mean must be finite"):
            finite_number(value, "Normal", "mean")
    with pytest.raises(TypeError, match="Normal: mean must be a number, got '0'"):
        finite_number("0", "Normal", "mean")


@pytest.mark.parametrize("dtype", [None, "foo", int, ",f4"])
def test_what_is_no_float_dtype(dtype):
    with pytest.raises(TypeError, match=r"Linear: dtype must be np\.float32 or np\.float64, got"):
        float_dtype(dtype, "Linear")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fc.Linear(2, 3, "he"), TypeError, "Linear: bias must be True or False, got 'he'"),
        (lambda: fc.Tied(fc.Linear(2, 3), 1), TypeError, "Tied: bias must be True or False"),
        (lambda: fc.LayerNorm(3, 1e-5, 1e-5), TypeError, "LayerNorm: elementwise_affine must be True or False"),
        (lambda: fc.RMSNorm(3, None, "no"), TypeError, "RMSNorm: elementwise_affine must be True or False"),
        (lambda: fc.BatchNorm1d(3, 1e-5, 0.1, "no"), TypeError, "BatchNorm1d: affine must be True or False"),
        (lambda: fc.SGD(momentum=0.9, nesterov="no"), TypeError, "SGD: nesterov must be True or False"),
        (lambda: fc.SGD(groups={"a": {"frozen": "no"}}), TypeError, "SGD: frozen must be True or False"),
        (lambda: fc.SGD(penalize_bias="no"), TypeError, "SGD: penalize_bias must be True or False"),
        (lambda: fc.Adam(amsgrad="no"), TypeError, "Adam: amsgrad must be True or False"),
        (lambda: fc.NAdam(decoupled_weight_decay=2), TypeError, "NAdam: decoupled_weight_decay must be True or False"),
        (lambda: fc.RMSprop(centered="no"), TypeError, "RMSprop: centered must be True or False"),
        (lambda: fc.OneCycleLR(1, 9, three_phase="no"), TypeError, "OneCycleLR: three_phase must be True or False"),
        (lambda: setattr(fc.ReLU(), "frozen", "no"), TypeError, r"ReLU\(\): frozen must be True or False"),
        (lambda: fc.AdamW(betas=0.9), TypeError, r"AdamW: betas must be a sequence such as \(0.9, 0.999\), got 0.9"),
        (lambda: fc.Lion(betas=(0.9,)), ValueError, r"Lion: betas must be two numbers such as \(0.9, 0.999\)"),
        (lambda: fc.ReduceLROnPlateau(patience=-1), ValueError, "patience must be at least 0, got -1"),
        (lambda: fc.Sequential(fc.ReLU()), TypeError, "Sequential: layers must be a sequence such as"),
        (lambda: fc.MultiLoss(fc.MSELoss()), TypeError, "MultiLoss: losses must be a sequence such as"),
        (
            lambda: fc.MultiLoss([fc.MSELoss()], 2),
            TypeError,
            r"MultiLoss: weights must be a sequence such as \[1.0, 0.5",
        ),
        (lambda: fc.Graph(fc.Input(2), 3), TypeError, "Graph: outputs must be a sequence such as"),
        (lambda: fc.Linear(2, 3, seed="a"), TypeError, "Linear: seed must be an int of at least 0"),
        (lambda: fc.Embedding(2, 3, seed=-1), ValueError, "Embedding: seed must be an int of at least 0"),
        (lambda: fc.Dropout(seed=1.5), TypeError, "Dropout: seed must be an int of at least 0"),
        (lambda: fc.MLP([2, 3], seed="a"), TypeError, "MLP: seed must be an int of at least 0"),
        (lambda: setattr(fc.LevenbergMarquardt(), "factor", 0.5), ValueError, "factor must be more than 1, got 0.5"),
        (
            lambda: fc.Linear(2, 1).predict_one([1, 2], np.zeros(1)),
            TypeError,
            "predict_one takes NumPy arrays of dtype f",
        ),
        (lambda: setattr(fc.LBFGS(), "max_iter", 0), ValueError, "LBFGS: max_iter must be at least 1, got 0"),
        (lambda: setattr(fc.MultiLoss([fc.MSELoss()]), "weights", [2]), AttributeError, "a loss can't be changed"),
        (
            lambda: setattr(fc.LayerNorm(2), "weight_grad", [1]),
            ValueError,
            r"LayerNorm\(2\): weight_grad has shape \(2",
        ),
        (lambda: setattr(fc.Embedding(2, 3), "weight_grad", [1]), ValueError, r"weight_grad has shape \(2, 3\)"),
        (lambda: setattr(fc.Tied(fc.Linear(2, 3)), "bias", [1]), ValueError, r"bias has shape \(2,\)"),
        (lambda: fc.SGD(lr=10**400), ValueError, "SGD: lr must be finite and fit in a float"),
        (lambda: fc.Normal(mean=-(10**400)), ValueError, "Normal: mean must be finite"),
        (lambda: fc.Dropout(10**400), ValueError, "Dropout: p must be finite"),
        (lambda: fc.Linear(2**70, 1), ValueError, r"Linear: in_features must be less than 2\*\*63"),
        (lambda: fc.Linear(2**40, 2**40), MemoryError, "no memory holds"),
        (lambda: fc.MSELoss(reduction=np.array(["mean", "sum"])), ValueError, "MSELoss: reduction must be one of"),
        (lambda: fc.MultiMarginLoss(np.array([1, 2])), ValueError, "MultiMarginLoss: p must be 1 or 2"),
        (lambda: fc.BCEWithLogitsLoss(Lying()), ValueError, "BCEWithLogitsLoss: pos_weight can't be made an array"),
        (lambda: fc.QuantileLoss(Lying()), ValueError, "QuantileLoss: quantile can't be made an array"),
        (lambda: fc.CustomLoss({}), TypeError, "CustomLoss: value must be decorated with numba.njit"),
        (lambda: fc.SGD(nesterov=np.ones(2)), TypeError, "SGD: nesterov must be True or False"),
        (lambda: setattr(fc.LBFGS(), "l1", np.ones(2)), ValueError, "LBFGS: it has no l1"),
        (lambda: setattr(fc.Adam(), "state", Lying()), ValueError, "Adam: state can't be made an array"),
        (lambda: fc.He(nonlinearity=int), TypeError, "KaimingNormal: nonlinearity must be a name"),
        (lambda: fc.Xavier(1e300), ValueError, "gain must have a finite square"),
        (lambda: fc.TruncatedNormal(1e308), ValueError, "TruncatedNormal: low and high are too many times std away"),
        (lambda: fc.BatchNorm1d(2, dtype=fc.ReLU()), TypeError, "BatchNorm1d: dtype must be np.float32 or np.float64"),
        (lambda: fc.RMSNorm(2, dtype={"a": {}}), TypeError, "RMSNorm: dtype must be np.float32 or np.float64"),
        (lambda: fc.concatenate(3), TypeError, "concatenate: nodes must be a sequence"),
        (lambda: fc.Linear(2, 1).predict_one({}, np.zeros(1)), TypeError, "predict_one takes NumPy arrays"),
    ],
)
def test_what_constructors_and_options_refuse(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_options_that_are_assigned_reach_the_kernel():
    x, tied, optimizer = np.ones((4, 1)), fc.Tied(fc.Linear(2, 3)), fc.LBFGS()
    tied.bias = [1, 2]
    np.testing.assert_array_equal(tied.params, [1, 2])
    optimizer.max_iter = 1
    first, second = (fc.MLP([1, 4, 1], activation="tanh", seed=0, dtype=np.float64) for _ in range(2))
    first.train_step(x, 2 * x, fc.MSELoss(), optimizer)
    second.train_step(x, 2 * x, fc.MSELoss(), fc.LBFGS(max_iter=1, max_eval=25))
    np.testing.assert_array_equal(first.params, second.params)


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        (fc.LayerNorm(3), "LayerNorm(3)"),
        (fc.LayerNorm(3, eps=1e-3, bias=False), "LayerNorm(3, eps=0.001, bias=False)"),
        (fc.LayerNorm(3, elementwise_affine=False, name="a"), "LayerNorm(3, elementwise_affine=False, name='a')"),
        (fc.RMSNorm(3, 0.1, dtype=np.float64), "RMSNorm(3, eps=0.1, dtype=float64)"),
        (fc.BatchNorm1d(3, momentum=0.5, affine=False), "BatchNorm1d(3, momentum=0.5, affine=False)"),
        (fc.MultiLoss([fc.MSELoss()], [2]), "MultiLoss([MSELoss()], weights=[2.0])"),
        (fc.SGD(0.1), "SGD(lr=0.1, momentum=0.0, weight_decay=0.0)"),
        (fc.SGD(0.1, 0.9, dampening=0.5), "SGD(lr=0.1, momentum=0.9, weight_decay=0.0, dampening=0.5)"),
        (fc.SGD(0.1, 0.9, nesterov=True), "SGD(lr=0.1, momentum=0.9, weight_decay=0.0, nesterov=True)"),
        (
            fc.Adam(amsgrad=True, clip_norm=1),
            "Adam(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0, amsgrad=True, clip_norm=1.0)",
        ),
        (
            fc.NAdam(decoupled_weight_decay=True),
            "NAdam(lr=0.002, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0, momentum_decay=0.004, "
            "decoupled_weight_decay=True)",
        ),
        (
            fc.RMSprop(centered=True),
            "RMSprop(lr=0.01, alpha=0.99, eps=1e-08, weight_decay=0.0, momentum=0.0, centered=True)",
        ),
        (fc.Lion(), "Lion(lr=0.0001, betas=(0.9, 0.99), weight_decay=0.0)"),
        (fc.EarlyStopping("loss", 3), "EarlyStopping('loss', patience=3)"),
        (fc.EarlyStopping("loss", None, keep="last"), "EarlyStopping('loss', patience=None, keep='last')"),
    ],
)
def test_texts(thing, text):
    assert repr(thing) == text


X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
Y = X[:, :1].copy()


class Points:
    pass


def strange():
    """What people pass, by name: what makes it, and the sentence it gets."""
    sparse, torch, polars = (pytest.importorskip(name) for name in ("scipy.sparse", "torch", "polars"))
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    tensor, frame = torch.from_numpy(X), pandas.DataFrame(X, columns=list("abc"))
    kinds = ("csr_matrix", "csc_matrix", "coo_matrix", "dok_matrix", "lil_matrix", "bsr_matrix", "dia_matrix")
    for kind in (*kinds, "csr_array", "coo_array"):
        yield kind, getattr(sparse, kind)(X), rf"is a sparse matrix, {kind}; give (x|y)\.toarray\(\)"
    yield "gradient", tensor.clone().requires_grad_(), r"is a tensor that needs a gradient; give (x|y)\.detach\(\)"
    yield "parameter", torch.nn.Parameter(tensor.clone()), r"needs a gradient; give (x|y)\.detach\(\)"
    yield "bfloat16", tensor.bfloat16(), r"is a tensor that is bfloat16; give (x|y)\.float\(\)"
    yield "device", tensor.to("meta"), r"is on the device meta; give (x|y)\.cpu\(\)"
    yield "layout", tensor.to_sparse(), r"has the layout torch\.sparse_coo; give (x|y)\.to_dense\(\)"
    yield "both", tensor.bfloat16().requires_grad_(), r"needs a gradient and is bfloat16; give (x|y)\.detach\(\)\.float"
    yield "negated", torch._neg_view(tensor), r"give (x|y)\.resolve_neg\(\)"
    yield "list of gradients", list(tensor.clone().requires_grad_()), r"(requires grad|needs a gradient)"
    yield "LazyFrame", polars.DataFrame(X).lazy(), r"is a LazyFrame, which has no rows yet; give (x|y)\.collect\(\)"
    yield "object column", frame.astype({"b": object}), "column 'b', has dtype object, .*to_numeric"
    yield "category", frame.assign(b=pandas.Categorical(list("uvuv"))), "column 'b', has dtype category"
    yield "missing", frame.assign(b=pandas.array([1, 2, None, 3], dtype="Int64")), "column 'b', has 1 missing values"
    yield "texts of Arrow", pyarrow.table({"a": ["u"]}), "column 'a', has dtype string, which is not of numbers"
    yield "nulls of Arrow", pyarrow.table({"a": [1.0, None]}), r"column 'a', has 1 missing values; .*fill_null\(0\)"
    yield "dict", {"a": X}, r"is a dict; give an array .*np\.column_stack\(list\((x|y)\.values\(\)\)\)"
    yield (
        "fields",
        np.rec.fromarrays(X.T.copy(), names="a,b,c"),
        "has the fields a, b, c; use .*to_unstructured",
    )
    yield "object of a class", Points(), "has dtype object, made of a Points; give real numbers"


USES = {
    "predict": lambda net, a, _: net.predict(a),
    "forward": lambda net, a, _: net.forward(a),
    "train_step": lambda net, a, _: net.train_step(a, Y, fc.MSELoss(), fc.SGD()),
    "fit": lambda net, a, _: net.fit(a, Y, loss=fc.MSELoss(), optimizer=fc.SGD()),
    "y of fit": lambda net, a, _: net.fit(X, a, loss=fc.MSELoss(), optimizer=fc.SGD()),
    "y of train_step": lambda net, a, _: net.train_step(X, a, fc.MSELoss(), fc.SGD()),
    "validation": lambda net, a, given: net.fit(X, Y, validation_data=(a, Y), **given),
    "evaluate": lambda net, a, _: net.evaluate(a, Y, fc.MSELoss()),
    "batches": lambda net, a, given: net.fit([(a, Y)], **given),
    "y of batches": lambda net, a, given: net.fit([(X, a)], **given),
    "predict batches": lambda net, a, _: net.predict(iter([a])),
}


@pytest.mark.parametrize("use", USES)
def test_what_is_no_array_is_said_in_one_sentence(use):
    """Of a sparse matrix or a LazyFrame it was "dtype object", of a tensor PyTorch's own error, nulls became NaN."""
    for name, given, sentence in strange():
        net, optimizer = fc.MLP([3, 4, 1], seed=0), fc.SGD(0.1)
        before = net.params.copy()
        with pytest.raises((TypeError, ValueError), match=sentence) as error:
            USES[use](net, given, {"loss": fc.MSELoss(), "optimizer": optimizer})
        assert "\n" not in str(error.value), name
        assert np.array_equal(net.params, before) and not optimizer.count.any(), name


def test_what_can_be_an_array_is_one():
    torch, pyarrow = pytest.importorskip("torch"), pytest.importorskip("pyarrow")
    tensor, net = torch.from_numpy(X), fc.MLP([3, 4, 1], seed=0)
    table = pyarrow.table({name: column for name, column in zip("abc", X.T, strict=True)})
    for given in (tensor, tensor.double(), list(tensor), table, table.to_batches()[0], memoryview(X), X.tolist()):
        np.testing.assert_array_equal(net.predict(given), net.predict(X))
    decimals = pyarrow.table({"a": pyarrow.array([1, 2], pyarrow.decimal128(5, 1)), "b": [True, False]})
    np.testing.assert_array_equal(as_real(decimals, "Layer", "x"), [[1, 1], [2, 0]])
    np.testing.assert_array_equal(as_real(table["a"], "Layer", "x"), X[:, 0])


NAMES = [
    (lambda: fc.MLP([1, 2, 1], "rleu"), "relu"),
    (lambda: fc.MLP([1, 2, 1], "LeakyReLU"), "leaky_relu"),
    (lambda: fc.MLP([1, 2, 1], "gelu-tanh"), "gelu_tanh"),
    (lambda: fc.MLP([1, 2, 1], output_activation="log-softmax"), "log_softmax"),
    (lambda: fc.Linear(1, 1, init="xavier_unifrom"), "xavier_uniform"),
    (lambda: fc.Linear(1, 1, bias_init="zero"), "zeros"),
    (lambda: fc.KaimingNormal(nonlinearity="leakyrelu")(np.random.default_rng(0), (2, 2), np.float32), "leaky_relu"),
    (lambda: fc.KaimingNormal(mode="fanin"), "fan_in"),
    (lambda: fc.metrics.get_metric("acuracy"), "accuracy"),
    (lambda: fc.metrics.get_metric("ROC-AUC"), "roc_auc"),
    (lambda: fc.F1("marco"), "macro"),
    (lambda: fc.MSELoss(reduction="means"), "mean"),
    (lambda: fc.GELU("Tanh"), "tanh"),
    (lambda: fc.OneCycleLR(0.1, 10, anneal_strategy="cosine"), "cos"),
    (lambda: fc.StepLR(2, unit="epochs"), "epoch"),
    (lambda: fc.EarlyStopping(mode="maximum"), None),
    (lambda: fc.SGD(groups={"*": {"weightdecay": 0.1}}), "weight_decay"),
    (lambda: fc.SGD(groups={"0.wieght": {"lr": 0.1}}).prepare(fc.MLP([1, 1])), "0.weight"),
    (lambda: fc.MLP([1, 1]).evaluate([[1]], [[1]], fc.MSELoss(), metrics=["rsme"]), "rmse"),
]


@pytest.mark.parametrize("row", range(len(NAMES)))
def test_a_name_that_is_nearly_one(row):
    """`unknown activation 'rleu'` listed them all and named none."""
    call, nearest = NAMES[row]
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value).endswith(f"did you mean {nearest!r}?") == (nearest is not None), error.value


def test_columns_of_a_history_that_are_nearly_there():
    history = fc.MLP([1, 1]).fit([[1]], [[1]], loss=fc.MSELoss(), optimizer=fc.SGD(), validation_data=([[1]], [[1]]))
    with pytest.raises(KeyError, match=r"no 'val_los'; it has .*did you mean 'val_loss'\?"):
        history["val_los"]
    assert did_you_mean("zzz", ["relu"]) == did_you_mean(None, ["relu"]) == ""
