"""Each public class that takes part in training, with arguments that its PyTorch twin takes too, and data for it."""

import inspect

import numpy as np
from arrays import normal
from numba import njit

import fastfc as fc
from fastfc.io.checkpoint import LAYERS as FILES

N, WIDTH = 12, 4  # samples, and numbers per sample


def numbers(seed):
    return normal((N, WIDTH), np.float64, seed)


def probabilities(seed):
    return np.random.default_rng(seed).dirichlet(np.ones(WIDTH), N)


def classes(seed):
    return np.random.default_rng(seed).integers(0, WIDTH, N)


def counts(seed):
    return np.random.default_rng(seed).integers(0, 6, (N, WIDTH)).astype(np.float64)


def half(seed):
    return numbers(seed)[:, : WIDTH // 2]


@njit
def square(x):
    return x * x


@njit
def twice(x):
    return x + x


@njit
def error(p, t):
    return (p - t) ** 2 / 2


@njit
def error_slope(p, t):
    return p - t


# name, arguments
ACTIVATIONS = [
    ("Identity", {}),
    ("ReLU", {}),
    ("LeakyReLU", {"negative_slope": 0.2}),
    ("Sigmoid", {}),
    ("LogSigmoid", {}),
    ("Tanh", {}),
    ("Hardtanh", {"min_val": -0.5, "max_val": 2.0}),
    ("ReLU6", {}),
    ("ELU", {"alpha": 0.7}),
    ("SELU", {}),
    ("CELU", {"alpha": 2.0}),
    ("GELU", {}),
    ("GELU", {"approximate": "tanh"}),
    ("Softplus", {"beta": 2.0, "threshold": 3.0}),
    ("Softsign", {}),
    ("Hardsigmoid", {}),
    ("Hardswish", {}),
    ("SiLU", {}),
    ("Mish", {}),
    ("Sin", {}),
    ("Cos", {}),
    ("SmoothClip", {"limit": 1.5}),
    ("Softmax", {}),
    ("LogSoftmax", {}),
    ("Softmax", {"dim": 1}),
    ("LogSoftmax", {"dim": -1}),
    ("Elementwise", {"function": square, "derivative": twice}),
]

# name, arguments, the layer that makes its predictions, its targets by seed
WEIGHTS = [0.5, 2.0, 0.0, 1.0]
LOSSES = [
    ("MSELoss", {}, fc.Identity, numbers),
    ("L1Loss", {}, fc.Identity, numbers),
    ("HuberLoss", {"delta": 0.5}, fc.Identity, numbers),
    ("SmoothL1Loss", {"beta": 0.5, "reduction": "sum"}, fc.Tanh, numbers),
    ("CrossEntropyLoss", {"weight": WEIGHTS, "ignore_index": 1, "label_smoothing": 0.1}, fc.Identity, classes),
    ("CrossEntropyLoss", {"label_smoothing": 0.1}, fc.Identity, probabilities),
    ("NLLLoss", {"weight": WEIGHTS}, fc.LogSoftmax, classes),
    ("BCELoss", {}, fc.Sigmoid, probabilities),
    ("BCEWithLogitsLoss", {"pos_weight": WEIGHTS}, fc.Identity, probabilities),
    ("PoissonNLLLoss", {}, fc.Identity, counts),
    ("PoissonNLLLoss", {"log_input": False, "full": True, "eps": 0.1}, fc.Softplus, counts),
    ("GaussianNLLLoss", {"full": True}, fc.Softplus, half),
    ("KLDivLoss", {"reduction": "batchmean"}, fc.LogSoftmax, probabilities),
    ("MultiMarginLoss", {"p": 2, "margin": 0.5, "weight": WEIGHTS}, fc.Identity, classes),
    ("QuantileLoss", {"quantile": [0.1, 0.3, 0.5, 0.8]}, fc.Identity, numbers),
    ("CustomLoss", {"value": error, "gradient": error_slope}, fc.Identity, numbers),
    ("BCELoss", {"weight": WEIGHTS}, fc.Sigmoid, probabilities),
    ("BCEWithLogitsLoss", {"weight": WEIGHTS}, fc.Identity, probabilities),
    ("BCEWithLogitsLoss", {"weight": WEIGHTS, "pos_weight": WEIGHTS[::-1]}, fc.Identity, probabilities),
]

# name, arguments
OPTIMIZERS = [
    ("SGD", {"lr": 0.05}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.25, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    ("Adam", {"lr": 0.01, "weight_decay": 0.01}),
    ("Adam", {"lr": 0.01, "betas": (0.5, 0.75), "amsgrad": True}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.1}),
    ("NAdam", {"lr": 0.01, "momentum_decay": 0.1}),
    ("RMSprop", {"lr": 0.01, "momentum": 0.5}),
    ("RMSprop", {"lr": 0.01, "centered": True}),
    ("Adagrad", {"lr": 0.05, "lr_decay": 0.01}),
    ("Adagrad", {"lr": 0.05, "initial_accumulator_value": 0.1}),
    ("Lion", {"lr": 0.01}),
    ("LBFGS", {"max_iter": 5}),
    ("LevenbergMarquardt", {}),
]


def chain(*layers, dtype):
    return fc.Sequential([fc.Linear(WIDTH, 6, seed=0, dtype=dtype), *layers, fc.Linear(6, WIDTH, seed=1, dtype=dtype)])


def tied(dtype):
    encoder = fc.Linear(WIDTH, 6, seed=0, dtype=dtype)
    return fc.Sequential([encoder, fc.Tanh(), fc.Tied(encoder)])


def residual(dtype):
    x = fc.Input(WIDTH)
    h = fc.Tanh()(fc.Linear(WIDTH, WIDTH, seed=0, dtype=dtype)(x))
    return fc.Graph(x, fc.Linear(2 * WIDTH, WIDTH, seed=1, dtype=dtype)(fc.concatenate([h + x, h * x])))


def numeric_embedding(dtype):
    layers = [
        fc.NumericEmbedding(WIDTH, 2, kind, n_frequencies=3, frequency_scale=0.5, seed=i, dtype=dtype)
        for i, kind in enumerate(("pbld", "plr", "plr-lite", "ple"))
    ]
    x = fc.Input(WIDTH)
    h = fc.concatenate([layer(x) for layer in layers])
    return fc.Graph(x, fc.Linear(h.width, WIDTH, seed=1, dtype=dtype)(h))


def members(layer, inputs, *layers):
    """A network in which a layer of three members stands between others."""
    return lambda dtype: fc.Sequential(
        [
            fc.Linear(WIDTH, inputs, seed=0, dtype=dtype),
            layer(dtype),
            *(make(dtype) for make in layers),
            fc.Linear(6, WIDTH, seed=1, dtype=dtype),
        ]
    )


def embedding(dtype):
    return fc.Sequential(
        [fc.Embedding(WIDTH, 3, WIDTH, seed=0, dtype=dtype), fc.Linear(3 * WIDTH, WIDTH, seed=1, dtype=dtype)]
    )


# arguments of an embedding of numbers
EMBEDDINGS = [
    {"in_features": 3, "n_frequencies": 5, "frequency_scale": 0.5, "name": "k"},
    {"in_features": 3, "embedding_dim": 2, "kind": "pbld", "dense": False, "relu": True},
    {"in_features": 3, "embedding_dim": 5, "kind": "plr", "n_frequencies": 3, "dense": True},
    {"in_features": 3, "embedding_dim": 2, "kind": "plr-lite", "n_frequencies": 3, "relu": False},
    {"in_features": 3, "kind": "ple", "n_frequencies": 4},
    {"in_features": 3, "embedding_dim": 2, "kind": "ple", "n_frequencies": 4, "relu": True},
]

# name, arguments: each argument of a layer in another way than usual, but for those of initial values
MORE_LAYERS = [
    ("Linear", {"in_features": 3, "out_features": 2, "bias": False, "name": "first"}),
    ("Tied", {"layer": None, "bias": False, "name": "decoder"}),
    ("LayerNorm", {"features": 3, "eps": 1e-3, "bias": False, "name": "a"}),
    ("LayerNorm", {"features": 3, "elementwise_affine": False}),
    ("RMSNorm", {"features": 3, "eps": 1e-3, "name": "b"}),
    ("RMSNorm", {"features": 3, "elementwise_affine": False}),
    ("BatchNorm1d", {"features": 3, "eps": 1e-3, "momentum": 0.3, "affine": False, "name": "c"}),
    ("BatchNorm1d", {"features": 3, "momentum": None, "bias": False}),
    ("BatchNorm1d", {"features": 3, "track_running_stats": False}),
    ("Dropout", {"p": 0.25, "seed": 7}),
    ("Embedding", {"num_embeddings": 5, "embedding_dim": 2, "in_features": 3, "name": "d"}),
    ("Standardize", {"features": 3, "name": "e"}),
    ("RobustScale", {"features": 3, "limit": 2.0, "name": "f"}),
    ("RobustScale", {"features": 3, "limit": None}),
    ("QuantileNormal", {"features": 3, "n_quantiles": 5, "name": "g"}),
    ("Clamp", {"features": 3, "name": "l"}),
    ("Scale", {"features": 3, "name": "h"}),
    ("Parametric", {"activation": fc.ELU(0.5), "features": 3, "name": "i"}),
    ("PReLU", {"num_parameters": 3, "name": "j"}),
    ("PReLU", {}),
    ("Linear", {"in_features": 3, "out_features": 2, "parametrization": "ntk"}),
    *(("NumericEmbedding", options) for options in EMBEDDINGS),
    ("BatchEnsemble", {"member_in": 3, "member_out": 2, "members": 4, "bias": False, "name": "m"}),
    ("BatchEnsemble", {"member_in": 3, "member_out": 2, "members": 2, "shared_input": True}),
    ("LinearEnsemble", {"member_in": 3, "member_out": 2, "members": 4, "bias": False, "name": "n"}),
    ("LinearEnsemble", {"member_in": 3, "member_out": 2, "members": 2, "shared_input": True}),
    ("MemberMean", {"member_in": 3, "members": 2}),
    ("MemberMean", {"member_in": 3, "members": 4, "activation": fc.Softmax()}),
    ("MemberMean", {"member_in": 3, "members": 1, "activation": fc.ELU(0.5)}),
]

# layers whose first argument is the number of their features
OF_FEATURES = [name for name, kind in FILES.items() if [*inspect.signature(kind).parameters][:1] == ["features"]]


def of_features(name, features, **options):
    return lambda dtype: getattr(fc, name)(features, **options, dtype=dtype)


def between(name):
    return lambda dtype: chain(of_features(name, 6)(dtype), dtype=dtype)


# what is tested, and a network with it by dtype; all take and give WIDTH numbers per sample
LAYERS = {
    "Linear": lambda dtype: fc.Sequential([fc.Linear(WIDTH, WIDTH, bias=False, seed=0, dtype=dtype)]),
    "Tied": tied,
    **{name: between(name) for name in OF_FEATURES},
    "Dropout": lambda dtype: chain(fc.Tanh(), fc.Dropout(0.3, seed=2), dtype=dtype),
    "Embedding": embedding,
    "NumericEmbedding": numeric_embedding,
    "Parametric": lambda dtype: chain(fc.Parametric("selu", 6, dtype=dtype), dtype=dtype),
    "PReLU": lambda dtype: chain(fc.PReLU(6, dtype=dtype), fc.PReLU(dtype=dtype), dtype=dtype),
    "BatchEnsemble": members(
        lambda dtype: fc.BatchEnsemble(5, 4, 3, shared_input=True, seed=2, dtype=dtype),
        5,
        lambda dtype: fc.Tanh(),
        lambda dtype: fc.BatchEnsemble(4, 2, 3, bias=False, scale_init="normal", seed=3, dtype=dtype),
    ),
    "LinearEnsemble": members(
        lambda dtype: fc.LinearEnsemble(5, 4, 3, shared_input=True, bias_init="normal", seed=2, dtype=dtype),
        5,
        lambda dtype: fc.Tanh(),
        lambda dtype: fc.LinearEnsemble(4, 2, 3, bias=False, seed=3, dtype=dtype),
    ),
    "MemberMean": members(lambda dtype: fc.MemberMean(6, 3, "softmax"), 18),
    "Standardize": lambda dtype: chain(fc.Standardize.of(normal((9, 6), dtype), dtype=dtype), dtype=dtype),
    "Sequential": lambda dtype: fc.Sequential([fc.MLP([WIDTH, 5, WIDTH], seed=0, dtype=dtype), fc.Tanh()]),
    "MLP": lambda dtype: fc.MLP([WIDTH, 5, WIDTH], "tanh", seed=0, dtype=dtype),
    "Graph": residual,
}


def inputs(layer, seed, dtype=np.float64):
    """Samples for a network of LAYERS."""
    return (classes(seed)[:, None] * np.ones(WIDTH) if layer == "Embedding" else numbers(seed)).astype(dtype)


def ids(rows):
    return [f"{i} {row[0]}" for i, row in enumerate(rows)]
