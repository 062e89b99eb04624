"""Networks from scikit-learn's multi-layer perceptrons, and back."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfc.extras import extra
from fastfc.models.network import Network
from fastfc.models.sequential import Sequential
from fastfc.nn.activations import Activation, Hardtanh, Sigmoid, Softmax, get_activation
from fastfc.nn.dropout import Dropout
from fastfc.nn.layer import Layer
from fastfc.nn.linear import Linear
from fastfc.nn.standardize import Standardize

# scikit-learn's names of activations, and ours
NAMES = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}


def from_sklearn(estimator: Any) -> Sequential:
    """The network of a fitted scikit-learn MLPClassifier or MLPRegressor; needs the extra `fastfc[sklearn]`.

    Parameters
    ----------
    estimator : sklearn.neural_network.MLPClassifier or MLPRegressor, or those of fastfc.sklearn
        Or a Pipeline of scalers and one of these: of StandardScaler, MinMaxScaler, MaxAbsScaler and RobustScaler, with
        any options, which become Standardize layers, and Hardtanh where they clip. Or a TransformedTargetRegressor of
        either, whose transformer is such a scaler; its scale becomes part of the last layer.

    Returns
    -------
    Sequential
        Its `predict` gives what the estimator's `predict_proba` gives, one column for each class, also where there
        are two; or `predict` of a regressor, with a column for each output. It has copies of the estimator's
        parameters, in their dtype.

    Raises
    ------
    TypeError
        If it is not such an estimator, naming the steps of a Pipeline that can't be converted.
    ValueError
        If it is not fitted, or its last function is not a layer of fastfc (the exponential of loss="poisson").

    References
    ----------
    sklearn.neural_network

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> from sklearn.neural_network import MLPClassifier
    >>> X, y = fc.load_digits()
    >>> mlp = MLPClassifier((20,), tol=0.1, random_state=0).fit(X, y)
    >>> net = fc.from_sklearn(mlp)
    >>> net
    Sequential([Linear(64, 20), ReLU(), Linear(20, 10), Softmax()])
    >>> bool(np.allclose(net.predict(X), mlp.predict_proba(X), atol=1e-6))
    True
    """
    theirs = extra("sklearn.neural_network", "sklearn", "from_sklearn")
    from fastfc.sklearn.estimators import BaseMLP

    given, before, behind = estimator, list[Step](), list[Step]()
    while is_one_of(estimator, "pipeline.Pipeline", "compose.TransformedTargetRegressor"):
        if hasattr(estimator, "steps"):
            *others, last = estimator.steps
            before += steps(others)
            estimator = last[1]
        else:
            check_fitted(estimator, "regressor_")
            behind += steps([("transformer", estimator.transformer_)])
            estimator = estimator.regressor_
    if not isinstance(estimator, (theirs.MLPClassifier, theirs.MLPRegressor, BaseMLP)):
        hint = "; give its best_estimator_" if hasattr(given, "best_estimator_") else ""
        raise TypeError(
            f"from_sklearn: give a fitted MLPClassifier or MLPRegressor, or a Pipeline that ends in one, got {given!r}"
            + hint
        )
    wrong = [f"{name} ({step!r})" for name, step in before + behind if not is_scaler(step)]
    if wrong:
        raise TypeError(
            f"from_sklearn can't convert {', '.join(wrong)}; before a perceptron it takes {', '.join(SCALERS)}"
        )
    check_fitted(estimator, "coefs_")
    layers = layers_of(estimator)
    dtype = next(layer.dtype for layer in layers if layer.dtype is not None)
    scale_outputs(layers, [scaling(step) for _, step in behind], given)
    network = Sequential([layer for _, step in before for layer in scaling(step).layers(dtype)] + layers)
    if hasattr(given, "feature_names_in_"):
        network.feature_names = given.feature_names_in_
    return network


# A step of a Pipeline: its name and what it is.
Step = tuple[str, Any]
SCALERS = "StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler"


def is_one_of(thing: Any, *kinds: str) -> bool:
    """Whether something is of one of these classes of scikit-learn's, such as "pipeline.Pipeline"."""
    places = [kind.rpartition(".") for kind in kinds]
    return isinstance(
        thing, tuple(getattr(extra(f"sklearn.{place}", "sklearn", "from_sklearn"), name) for place, _, name in places)
    )


def steps(named: Iterable[Step], place: str = "") -> Iterator[Step]:
    """The steps that transform something, those of a Pipeline among them too."""
    for name, step in named:
        if is_one_of(step, "pipeline.Pipeline"):
            yield from steps(step.steps, f"{place}{name}.")
        elif step is not None and step != "passthrough" and not is_identity(step):
            yield f"{place}{name}", step


def is_identity(step: Any) -> bool:
    return is_one_of(step, "preprocessing.FunctionTransformer") and step.func is None and step.inverse_func is None


def is_scaler(step: Any) -> bool:
    kind = type(step).__name__  # a subclass may do anything
    return kind in SCALERS and type(step) is getattr(extra("sklearn.preprocessing", "sklearn", "from_sklearn"), kind)


def check_fitted(estimator: Any, attribute: str) -> None:
    if not hasattr(estimator, attribute):
        raise ValueError(f"from_sklearn: {estimator} is not fitted; call its fit first")


class Scaling(NamedTuple):
    """(x − mean) / scale of each feature, then perhaps cut to a range."""

    mean: NDArray[Any]
    scale: NDArray[Any]
    range: tuple[float, float] | None

    def layers(self, dtype: Any) -> list[Layer]:
        layer = Standardize(len(self.mean), dtype=dtype)
        layer.mean, layer.scale = self.mean, self.scale
        return [layer] if self.range is None else [layer, Hardtanh(*self.range)]


def scaling(scaler: Any) -> Scaling:
    check_fitted(scaler, "n_features_in_")
    kind, (zeros, ones) = type(scaler).__name__, (f(scaler.n_features_in_) for f in (np.zeros, np.ones))
    if kind == "StandardScaler":
        return Scaling(scaler.mean_ if scaler.with_mean else zeros, scaler.scale_ if scaler.with_std else ones, None)
    if kind == "RobustScaler":
        return Scaling(
            scaler.center_ if scaler.with_centering else zeros, scaler.scale_ if scaler.with_scaling else ones, None
        )
    if kind == "MaxAbsScaler":
        return Scaling(zeros, scaler.scale_, (-1.0, 1.0) if getattr(scaler, "clip", False) else None)
    low, high = scaler.feature_range
    return Scaling(scaler.data_min_ - low / scaler.scale_, 1 / scaler.scale_, (low, high) if scaler.clip else None)


def scale_outputs(layers: list[Layer], scalings: list[Scaling], given: Any) -> None:
    """Undo the scaling of targets in the last layer."""
    for mean, scale, _ in reversed(scalings):
        last = layers[-1]
        if not isinstance(last, Linear):
            raise ValueError(f"from_sklearn: {given} scales the outputs of {last}; it can those of a Linear layer")
        last.weight, last.bias = last.weight * scale, last.bias * scale + mean


def layers_of(estimator: Any) -> list[Layer]:
    """The layers of a perceptron."""
    from fastfc.sklearn.estimators import BaseMLP

    if isinstance(estimator, BaseMLP):
        estimator.adopt_assigned()
        if estimator.n_estimators > 1:
            raise ValueError(f"from_sklearn: {estimator} is an ensemble of {estimator.n_estimators} networks")
        layers = list(copy.deepcopy(estimator.network_).layers)
        if isinstance(layers[-1], (Sigmoid, Softmax)):
            layers.pop()
        layers = [copy.deepcopy(layer) for layer in layers]
    else:
        layers = []
        dtype = np.result_type(np.float32, *estimator.coefs_)
        for coef, intercept in zip(estimator.coefs_, estimator.intercepts_, strict=True):
            layers += [linear(coef, intercept, dtype), get_activation(NAMES[estimator.activation])]
        layers.pop()
    return layers + last_layers(estimator, layers)


def last_layers(estimator: Any, layers: list[Layer]) -> list[Layer]:
    """What makes the outputs of the last Linear layer those of the estimator."""
    function = estimator.out_activation_
    if function == "identity":
        return []
    if function == "softmax":
        return [Softmax()]
    if function != "logistic":
        raise ValueError(
            f"from_sklearn: the outputs of {estimator} go through {function!r}, which is not a layer of fastfc"
        )
    if estimator.n_outputs_ > 1 or not hasattr(estimator, "classes_"):
        return [Sigmoid()]
    last = layers.pop()
    assert isinstance(last, Linear)
    # softmax(0, z) = (1 − σ(z), σ(z))
    zeros = np.zeros_like(last.weight)
    layers.append(linear(np.hstack([zeros, last.weight]), np.append(0, last.bias), last.dtype))
    return [Softmax()]


def linear(weight: ArrayLike, bias: ArrayLike, dtype: Any) -> Linear:
    layer = Linear(*np.shape(weight), init="zeros", dtype=dtype)
    layer.weight, layer.bias = weight, bias
    return layer


def to_sklearn(network: Network, classes: ArrayLike | None = None) -> Any:
    """The scikit-learn estimator that predicts the same as a network; needs the extra `fastfc[sklearn]`.

    Parameters
    ----------
    network : Sequential
        Linear layers with the same activation after each but the last: ReLU, Tanh, Sigmoid or Identity (or none).
        Dropout plays no part in predictions and is left out.
    classes : (n_classes,) array, optional
        The labels of the classes, in the order of the outputs; 0, 1, … if not given.

    Returns
    -------
    sklearn.neural_network.MLPClassifier or MLPRegressor
        A classifier if the network ends in Softmax, or in Sigmoid (one output: two classes; several: several labels),
        or if there are classes, whose logits its outputs then are. Else a regressor. It can be trained on with
        `partial_fit`, or with warm_start=True by `fit`.

    Raises
    ------
    TypeError, ValueError
        Naming the layer that scikit-learn's estimators do not have.

    References
    ----------
    sklearn.neural_network

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> from fastfc.sklearn import to_sklearn
    >>> net = fc.MLP([4, 8, 2], activation="tanh", output_activation="softmax", seed=0, dtype=np.float64)
    >>> mlp = to_sklearn(net, classes=["no", "yes"])
    >>> mlp
    MLPClassifier(activation='tanh', hidden_layer_sizes=(8,))
    >>> X = np.eye(4)
    >>> bool(np.allclose(mlp.predict_proba(X), net.predict(X)))
    True
    """
    theirs = extra("sklearn.neural_network", "sklearn", "to_sklearn")
    linears, activation, last = parts(network)
    coefs: list[Any] = [layer.effective_weight().copy() for layer in linears]
    intercepts = [np.zeros_like(layer.weight[0]) if layer.bias is None else layer.bias.copy() for layer in linears]
    settings: dict[str, Any] = {"hidden_layer_sizes": tuple(layer.out_features for layer in linears[:-1])}
    if activation != "relu":
        settings["activation"] = next(name for name, ours in NAMES.items() if ours == activation)
    width = coefs[-1].shape[1]
    if classes is None and last == "identity":
        mlp, y, options = theirs.MLPRegressor(**settings), np.zeros((2, width)), {}
    else:
        mlp = theirs.MLPClassifier(**settings)
        if last == "sigmoid" and width > 1:
            y, known = np.repeat([[0], [1]], width, axis=1), np.arange(width)
        else:
            y, order = labels(network, classes, max(width, 2))
            known = y
            if width > 1:
                coefs[-1], intercepts[-1] = coefs[-1][:, order], intercepts[-1][order]
            elif order[0]:
                coefs[-1], intercepts[-1] = -coefs[-1], -intercepts[-1]
            if width == 2:  # σ(b − a) is the second of softmax(a, b)
                coefs[-1], intercepts[-1] = np.diff(coefs[-1]), np.diff(intercepts[-1])
        options = {"classes": known}
    # one step makes everything that a fitted estimator has; then what it has learned is replaced
    x = np.zeros((len(y), coefs[0].shape[0]), coefs[0].dtype)
    mlp.partial_fit(x, y.ravel() if y.shape[1:] == (1,) else y, **options)
    mlp.coefs_, mlp.intercepts_ = coefs, intercepts
    mlp.n_iter_, mlp.t_, mlp.loss_, mlp.loss_curve_, mlp.best_loss_ = 0, 0, np.inf, [], np.inf
    del mlp._optimizer
    return mlp


def parts(network: Network) -> tuple[list[Linear], str, str]:
    """The Linear layers, the name of the activation between them, and that of the one behind them."""
    if not isinstance(network, Sequential):
        raise TypeError(f"to_sklearn: give a Sequential of Linear layers and activations, got {network!r}")
    linears: list[Linear] = []
    between: list[str] = []
    for i, layer in enumerate(network):
        if isinstance(layer, Linear):
            between += ["identity"] * (len(linears) > len(between))
            linears.append(layer)
        elif isinstance(layer, Activation) and linears and len(between) < len(linears):
            between.append(layer.name)
        elif not isinstance(layer, Dropout):
            raise ValueError(f"to_sklearn: scikit-learn's estimators have nothing for layer {i}, {layer}, at its place")
    if not linears:
        raise ValueError(f"to_sklearn: {network} has no Linear layer")
    between += ["identity"] * (len(linears) > len(between))
    *hidden, last = between
    if set(hidden) - set(NAMES.values()) or len(set(hidden)) > 1:
        raise ValueError(
            f"to_sklearn: scikit-learn's estimators have one activation of {', '.join(NAMES.values())} behind all "
            f"hidden layers, the network has {', '.join(hidden)}"
        )
    if last not in ("identity", "sigmoid", "softmax") or (last == "softmax" and linears[-1].out_features < 2):
        raise ValueError(f"to_sklearn: scikit-learn's estimators can't end in {network[-1]} of {linears[-1]}")
    return linears, hidden[0] if hidden else "relu", last


def labels(network: Network, classes: ArrayLike | None, n: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The classes in the order that scikit-learn has them in, and their places."""
    names = np.arange(n) if classes is None else np.asarray(classes)
    if names.shape != (n,) or len(np.unique(names)) != n:
        raise ValueError(f"to_sklearn: {network} tells {n} classes apart; give one label for each, all different")
    order = np.argsort(names)
    return names[order], order
