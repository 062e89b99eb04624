"""scikit-learn's multi-layer perceptrons on fastfc: `MLPClassifier` and `MLPRegressor`; needs `fastfc[sklearn]`.

The same `random_state` draws the same first weights, splits and orders of samples as scikit-learn's estimators do,
and each step is theirs: what comes out differs by rounding only.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import time
import warnings
from collections.abc import Generator, Mapping
from itertools import pairwise
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfc.extras import extra
from fastfc.kernels.ops import loss_table
from fastfc.kernels.ops.loss_table import LossColumn
from fastfc.kernels.optim import update as update_kernels
from fastfc.losses.base import Loss
from fastfc.losses.classification import BCEWithLogitsLoss, ClassLoss, CrossEntropyLoss, KLDivLoss, NLLLoss
from fastfc.losses.members import MemberLoss
from fastfc.losses.multi import MultiLoss
from fastfc.losses.regression import GaussianNLLLoss, MSELoss, PoissonNLLLoss
from fastfc.models.sequential import Sequential
from fastfc.nn.activations import ACTIVATIONS, Activation, Identity, LogSoftmax, Sigmoid, Softmax, get_activation
from fastfc.nn.dropout import Dropout
from fastfc.nn.layer import Layer
from fastfc.nn.linear import Linear
from fastfc.optim.base import Optimizer
from fastfc.optim.first_order import SGD, Adam, AdamW
from fastfc.optim.schedule import ReduceLROnPlateau, Schedule
from fastfc.ranks import Pulse, Ranks
from fastfc.training.callbacks import Run, as_callback
from fastfc.training.history import History
from fastfc.training.together import Step, Training, train_together
from fastfc.validation import as_floats, as_real, did_you_mean, listed

try:
    import scipy.optimize
    from scipy.sparse import issparse
    from scipy.special import xlogy
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
    from sklearn.exceptions import ConvergenceWarning, NotFittedError
    from sklearn.metrics import accuracy_score, r2_score
    from sklearn.model_selection import KFold, StratifiedKFold, train_test_split
    from sklearn.neural_network import MLPClassifier as ScikitLearns
    from sklearn.preprocessing import LabelBinarizer
    from sklearn.utils import check_random_state, column_or_1d
    from sklearn.utils._param_validation import Interval, StrOptions
    from sklearn.utils.class_weight import compute_sample_weight
    from sklearn.utils.metaestimators import available_if
    from sklearn.utils.multiclass import type_of_target, unique_labels
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

    from fastfc.sklearn import on_ranks
    from fastfc.sklearn.state import unchanged_on_error
except ImportError:
    extra("sklearn", "sklearn", "fastfc.sklearn")
    raise

BLOCK = 4096  # rows of a sparse matrix that are made dense at a time
OUTPUTS: dict[str, Layer] = {"softmax": Softmax(), "logistic": Sigmoid(), "identity": Identity()}


class Samples(NamedTuple):
    """What a network is trained on: inputs, targets as its loss takes them, weights or None."""

    x: Any
    target: NDArray[Any]
    weights: NDArray[Any] | None

    def rows(self, rows: Any) -> Samples:
        if type(self.x) is np.ndarray:
            x = self.x[rows] if type(rows) is slice else self.x.take(rows, axis=0)
        else:
            x = self.x[rows].toarray()
        return Samples(x, self.target[rows], None if self.weights is None else self.weights[rows])

    def part(self, rows: Any) -> Samples:
        """Some samples, sparse if they were."""
        return Samples(self.x[rows], self.target[rows], None if self.weights is None else self.weights[rows])

    @property
    def weight_sum(self) -> float:
        """The sum of the weights."""
        return self.target.shape[0] if self.weights is None else float(self.weights.sum(dtype=np.float64))


class Held(NamedTuple):
    """What a network is scored on: the targets as they were given."""

    x: Any
    y: Any
    weights: Any


def is_stochastic(estimator: BaseMLP) -> bool:
    if estimator.solver == "lbfgs":
        raise AttributeError("partial_fit is only available for stochastic optimizers. lbfgs is not stochastic.")
    return True


def keep(estimator: Any, arguments: dict[str, Any]) -> None:
    """Keep the arguments of __init__ as they are, as scikit-learn wants it."""
    vars(estimator).update({name: value for name, value in arguments.items() if name not in ("self", "__class__")})


def per_sample(loss: Loss, factor: float = 1.0) -> Loss:
    """The loss times a factor, summed over the columns, as a mean over the samples."""
    loss.table[0, [LossColumn.REDUCTION, LossColumn.WEIGHT]] = loss_table.BATCH_MEAN, factor
    return loss


class Given(NamedTuple):
    """The widths of a network, its weights and its biases."""

    sizes: list[int]
    coefs: list[NDArray[Any]]
    intercepts: list[NDArray[Any]]


class Arrays(list[NDArray[Any]]):
    """The weights or the biases of a fitted estimator: views of its network, whose number is fixed.

    What is assigned to an item, or to a slice, is copied into the network.
    """

    def __init__(self, owner: str, arrays: list[NDArray[Any]]) -> None:
        super().__init__(arrays)
        self._owner = owner

    def __setitem__(self, index: Any, values: Any) -> None:
        places = range(len(self))[index]
        if isinstance(index, slice):
            values = listed(values, self._owner, "what is assigned", "[weight, other_weight]")
            if len(values) != len(places):
                raise ValueError(
                    f"{self._owner} are {len(self)} arrays; {len(places)} were to be assigned, not {len(values)}"
                )
        else:
            places, values = [places], [values]
        arrays = []
        for i, value in zip(places, values, strict=True):
            array = as_floats(value, self[i].dtype, self._owner, f"item {i}")
            if array.shape != self[i].shape:
                raise ValueError(
                    f"{self._owner}: item {i} has shape {self[i].shape}, got an array of shape {array.shape}"
                )
            arrays.append(array)
        for i, array in zip(places, arrays, strict=True):
            self[i][...] = array

    def _fixed(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"{self._owner} are {len(self)} arrays, for {len(self)} layers; assign to an item")

    append = extend = insert = remove = pop = clear = sort = reverse = _fixed
    __delitem__ = __iadd__ = __imul__ = _fixed

    def __reduce__(self) -> Any:
        return list, (list(self),)


def arrays_of(name: str, what: str, doc: str) -> Any:
    """Property of BaseMLP: a parameter of all Linear layers, or until there is a network what was assigned."""

    def get(self: BaseMLP) -> Any:
        if hasattr(self, "network_"):
            return Arrays(f"{type(self).__name__}: {name}", [getattr(layer, what) for layer in self._linears()])
        if name not in self._assigned:
            raise AttributeError(f"{type(self).__name__} has no {name} before it is fitted")
        return self._assigned[name]

    def put(self: BaseMLP, values: Any) -> None:
        if hasattr(self, "network_"):
            get(self)[:] = values
        else:
            self._assigned = {**self._assigned, name: values}

    return property(get, put, doc=doc)


class BaseMLP(BaseEstimator):
    """What both estimators share."""

    _score_name: str
    _loss_names: set[str]
    _others: list[Any]
    _assigned: Mapping[str, Any] = MappingProxyType({})  # coefs_ and intercepts_ that wait for a network

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012, scikit-learn's name and kind
        **ScikitLearns._parameter_constraints,
        "activation": [StrOptions({"logistic", *ACTIVATIONS}), Activation, "array-like"],
        "solver": [StrOptions({"lbfgs", "sgd", "adam", "adamw"})],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"}), Schedule, ReduceLROnPlateau],
        "dropout": [Interval(Real, 0, 1, closed="left"), "array-like"],
        "callbacks": [list, tuple, None],
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "n_cv": [Interval(Integral, 2, None, closed="left"), None],
    }

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None = None,
        *,
        validation_data: Any = None,
        comm: Any = None,
    ) -> Any:
        """Fit to X and y.

        Parameters
        ----------
        X : (n_samples, n_features) array or sparse matrix
            Computed in float32 if it is that, else in float64. Sparse matrices are made dense batch by batch, by
            lbfgs as a whole.
        y : (n_samples,) or (n_samples, n_outputs) array
            Labels of classes, rows of 0 and 1 for several labels, or real numbers.
        sample_weight : (n_samples,) array, optional
            Not negative.
        validation_data : (X, y) or (X, y, sample_weight), optional
            Scored after each epoch as `validation_scores_`. With early_stopping it takes the place of the part of
            the samples that would be held out.
        comm : mpi4py.MPI.Comm, optional
            The ranks that fit together, all to the same samples: each trains a block of the members of n_estimators and
            n_cv, and all of them hold the whole ensemble then, with the bits of one process. Callbacks are called on
            the rank that trains a member. Needs the extra `fastfc[mpi]`.

        Returns
        -------
        self
        """
        owner = f"{type(self).__name__}.fit"
        ranks = on_ranks.ranks_for(comm, owner)
        with ranks.together(owner), contextlib.ExitStack() as stack:
            if self.verbose and not ranks.main:
                stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            on_ranks.begin(ranks, self, X=X, y=y, sample_weight=sample_weight)
            return self._fit_all(ranks, X, y, sample_weight, validation_data)

    def _fit_all(self, ranks: Ranks, X: Any, y: Any, sample_weight: Any, validation_data: Any, **options: Any) -> Any:
        """`_fit_members`; if that fails, a fit that makes new networks leaves everything as it was."""
        self._validate_params()
        first = self._is_first(bool(options))
        with unchanged_on_error(self) if first else contextlib.nullcontext():
            return self._fit_members(ranks, first, X, y, sample_weight, validation_data, **options)

    def _fit_members(
        self, ranks: Ranks, first: bool, X: Any, y: Any, sample_weight: Any, validation_data: Any, **options: Any
    ) -> Any:
        """Fit ourselves and the other members of the ensemble, their steps together in native calls."""
        if self.n_cv is not None and options:
            raise ValueError("partial_fit does not support n_cv, whose folds are of all samples; use n_estimators")
        folds = [None] if self.n_cv is None else self._folds(X, y)
        n_others = self.n_estimators * len(folds) - 1
        seeds = check_random_state(self.random_state).randint(np.iinfo(np.int32).max, size=n_others)
        others = [] if first else self._others
        others = others + [clone(self).set_params(random_state=int(seed)) for seed in seeds[len(others) :]]
        others = others[:n_others]
        params = self.get_params(deep=False) | {"n_estimators": 1, "n_cv": None}
        for other in others:
            callbacks = None if self.callbacks is None else [copy.copy(callback) for callback in self.callbacks]
            other.set_params(**(params | {"random_state": other.random_state, "callbacks": callbacks}))
            other._validate_params()
        members, rest = [self, *others], (X, y, sample_weight, validation_data)
        own, pulse = ranks.block(len(members)), Pulse(ranks)
        fittings = [members[i]._fitting(*rest, folds[i % len(folds)], **options) for i in range(own.start, own.stop)]
        try:
            with ranks.all_or_none():
                train_together(fittings, pulse.beat)
                pulse.finish()  # Ctrl-C ends trainings, and not a fit
        finally:
            on_ranks.share(ranks, members)
            if hasattr(self, "network_"):  # predictions are of those that have one
                self._others = [other for other in others if hasattr(other, "network_")]
        on_ranks.draw_as_main(ranks, self)
        if self.n_cv is not None:
            self._score_folds(X, y, sample_weight, folds)
        return self

    def _is_first(self, incremental: bool) -> bool:
        """Whether a fit makes a new network."""
        return not hasattr(self, "network_") or not (self.warm_start or incremental)

    def _folds(self, X: Any, y: Any) -> list[Any]:
        """The numbers of the samples to train on, and of those held out, for each fold."""
        if self.n_cv > len(y):
            raise ValueError(f"n_cv={self.n_cv} folds need as many samples, there are {len(y)}")
        stratify = isinstance(self, ClassifierMixin) and type_of_target(y) in ("binary", "multiclass")
        kind = StratifiedKFold if stratify else KFold
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        return list(kind(self.n_cv, shuffle=True, random_state=seed).split(np.zeros(len(y)), y))

    def _score_folds(self, X: Any, y: Any, sample_weight: Any, folds: list[Any]) -> None:
        """Score each fold's members on the samples that they have not seen."""
        members = [self, *self._others]
        X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        X, y = X.tocsr() if issparse(X) else X, np.asarray(y)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X)
        self.oof_outputs_ = np.zeros((len(y), self.n_outputs_), members[0].network_.dtype)
        scores = []
        for i, (_, left) in enumerate(folds):
            of_fold = [member._output(member.network_, X[left]) for member in members[i :: len(folds)]]
            self.oof_outputs_[left] = np.mean(of_fold, axis=0)
            of_left = None if weights is None else weights[left]
            scores.append(float(self._score(y[left], self._decode(self.oof_outputs_[left]), of_left)))
        self.cv_scores_ = np.array(scores)

    def _fitting(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        validation_data: Any,
        fold: Any = None,
        *,
        incremental: bool = False,
        classes: Any = None,
    ) -> Training:
        """Fit one network, to the samples of a fold if there are folds; it stands still at each step."""
        if incremental and self.early_stopping and validation_data is None:
            raise ValueError(
                "partial_fit does not support early_stopping=True without validation_data, which each call is scored on"
            )
        first = self._is_first(incremental)
        widths = self._hidden_widths()
        self._check_options()
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            y_numeric=self._score_name == "r2",
            dtype=(np.float64, np.float32),
            reset=first,
        )
        y = column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y
        X = X.tocsr() if issparse(X) else X
        self._check_y(y, incremental, classes, first)
        target = self._encode(y, X.dtype)
        self._loss, self._loss_scale = self._training_loss(target)
        samples = Samples(X, target, self._weights(sample_weight, X, y))
        if not samples.weight_sum:
            raise ValueError("Sample weights must contain at least one non-zero number.")
        rng = check_random_state(self.random_state)
        sizes, given = [X.shape[1], *widths, self._width(target)], None
        if not first:
            self._check_sizes(sizes, [X.shape[1], *(layer.out_features for layer in self._linears())])
        elif self._assigned and (self.warm_start or incremental):
            given = self._given()
            self._check_sizes(sizes, given.sizes)
        if first:
            self._begin(sizes, X.dtype, rng, given)
            if hasattr(self, "feature_names_in_"):
                self.network_.feature_names = self.feature_names_in_
        before = self.network_.params.copy()
        if self.solver == "lbfgs":
            self._minimise(samples if fold is None else samples.part(fold[0]))
        elif not (incremental and self.early_stopping and self.stopped_):
            samples, held = self._hold_out(samples, y, sample_weight, validation_data, rng, fold)
            yield from self._train(samples, held, rng, incremental)
        if not np.isfinite(self.network_.params).all():
            self._recover(first, before)
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to "
                "be preprocessed."
            )

    def _check_sizes(self, wanted: list[int], sizes: list[int]) -> None:
        if sizes != wanted:
            raise ValueError(
                f"hidden_layer_sizes={self.hidden_layer_sizes}, but the network that is to go on has {sizes[1:-1]}; "
                f"fit with warm_start=False. X, hidden_layer_sizes and y ask for the widths {wanted}, it has {sizes}"
            )

    def _recover(self, first: bool, before: NDArray[Any]) -> None:
        """Have the parameters from before; a new network is none, and an optimizer forgets."""
        if first:
            del self.network_
        else:
            self.network_.params[:] = before
        if hasattr(self, "_optimizer"):
            del self._optimizer

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_") or len(self._assigned) == 2

    def _hidden_widths(self) -> list[int]:
        sizes = self.hidden_layer_sizes
        widths = list(sizes) if np.iterable(sizes) else [sizes]
        if any(width <= 0 for width in widths):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {widths}.")
        return [int(width) for width in widths]

    def _each(self, what: str, n: int) -> list[Any]:
        """An option of the hidden layers, one for each."""
        value = getattr(self, what)
        if isinstance(value, str | Activation) or not np.iterable(value):
            return [value] * n
        values = list(value)
        if len(values) != n:
            raise ValueError(f"{what} has {len(values)} items for {n} hidden layers; give one for each, or one for all")
        return values

    def _check_options(self) -> None:
        name = type(self).__name__
        if isinstance(self.loss, str):
            if self.loss not in self._loss_names:
                known = ", ".join(map(repr, sorted(self._loss_names)))
                near = did_you_mean(self.loss, self._loss_names)
                raise ValueError(f"{name}: loss must be one of {known} or a loss of fastfc, got {self.loss!r}{near}")
        else:
            self._check_loss(self.loss)
        if self.solver == "lbfgs" and (np.any(self.dropout) or self.callbacks):
            raise ValueError(f"{name}: dropout and callbacks need solver 'sgd', 'adam' or 'adamw', not 'lbfgs'")

    def _check_loss(self, loss: Loss) -> None:
        loss.check_scalar()
        if isinstance(loss, (MultiLoss, MemberLoss, GaussianNLLLoss)):
            raise ValueError(
                f"{type(self).__name__}: {type(loss).__name__} takes other columns than the targets have; "
                "train a fastfc network with it"
            )

    def _begin(self, sizes: list[int], dtype: Any, rng: np.random.RandomState, given: Given | None = None) -> None:
        """A new network, of drawn or given weights, and nothing seen."""
        self.n_iter_ = self.t_ = 0
        self.n_layers_, self.n_outputs_, self.out_activation_ = len(sizes), sizes[-1], self._out_activation()
        n_hidden, layers = len(sizes) - 2, list[Layer]()
        activations, rates = self._each("activation", n_hidden), self._each("dropout", n_hidden)
        for i, (n_in, n_out) in enumerate(pairwise(sizes)):
            linear = Linear(n_in, n_out, init="zeros", dtype=dtype)
            if given is None:
                name = activations[min(i, n_hidden - 1)] if n_hidden else self.activation
                bound = np.sqrt((2.0 if name in ("logistic", "sigmoid") else 6.0) / (n_in + n_out))
                linear.weight = rng.uniform(-bound, bound, (n_in, n_out))
                linear.bias = rng.uniform(-bound, bound, n_out)
            else:
                linear.weight, linear.bias = given.coefs[i], given.intercepts[i]
            layers.append(linear)
            if i < n_hidden:
                layers.append(hidden_activation(activations[i]))
            if i < n_hidden and rates[i]:
                layers.append(Dropout(rates[i], seed=int(rng.randint(np.iinfo(np.int32).max))))
        self.network_, self._assigned = Sequential(layers + self._last_layers()), {}
        self._best_params = self.network_.params.copy()
        self.history_, self.stopped_ = History(), False
        if hasattr(self, "loss_curve_"):
            del self.loss_curve_

    def _out_activation(self) -> str:
        raise NotImplementedError

    def _last_layers(self) -> list[Layer]:
        """What the loss sees behind the last Linear layer."""
        return []

    def _training_loss(self, target: NDArray[Any]) -> tuple[Loss, float]:
        """The loss, and what its value is multiplied by to be shown."""
        raise NotImplementedError

    def _linears(self) -> list[Linear]:
        return [layer for layer in self.network_.layers if isinstance(layer, Linear)]

    coefs_ = arrays_of("coefs_", "weight", "The weights, views of the network's; what is assigned is copied into them.")
    intercepts_ = arrays_of(
        "intercepts_", "bias", "The biases, views of the network's; what is assigned is copied into them."
    )

    def _check_outputs(self, width: int) -> None:
        """Raise unless a network of this many outputs can be ours."""

    def _given(self) -> Given:
        """What was assigned."""
        name = type(self).__name__
        for what in ("coefs_", "intercepts_"):
            if what not in self._assigned:
                raise AttributeError(f"{name}: of coefs_ and intercepts_ both must be assigned; {what} is missing")
        coefs, intercepts = (
            [
                as_real(array, name, f"{what}[{i}]")
                for i, array in enumerate(listed(self._assigned[what], name, what, "[weight, other_weight]"))
            ]
            for what in ("coefs_", "intercepts_")
        )
        shapes = [array.shape for array in coefs], [array.shape for array in intercepts]
        sizes = [*(n for shape in shapes[0][:1] for n in shape[:1]), *(n for shape in shapes[1] for n in shape[:1])]
        if not coefs or shapes != (list(pairwise(sizes)), [(n,) for n in sizes[1:]]):
            raise ValueError(
                f"{name}: coefs_ of shapes {shapes[0]} and intercepts_ of shapes {shapes[1]} make no network"
            )
        return Given(sizes, coefs, intercepts)

    def _weights(self, sample_weight: Any, X: Any, y: Any) -> NDArray[Any] | None:
        return None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=X.dtype)

    def _hold_out(
        self, samples: Samples, y: Any, sample_weight: Any, given: Any, rng: np.random.RandomState, fold: Any
    ) -> tuple[Samples, Held | None]:
        """The samples to train on, and those to score on."""
        if fold is not None and (given is not None or not self.early_stopping):
            samples = samples.part(fold[0])
        if given is not None:
            if not isinstance(given, tuple | list) or len(given) not in (2, 3):
                raise ValueError("validation_data must be (X, y) or (X, y, sample_weight)")
            x_held, y_held = validate_data(
                self, given[0], given[1], accept_sparse=["csr", "csc"], multi_output=True, reset=False
            )
            return samples, Held(x_held, y_held, given[2] if len(given) == 3 else None)
        if not self.early_stopping:
            return samples, None
        chosen, left = fold or train_test_split(
            np.arange(len(y)), random_state=rng, test_size=self.validation_fraction, stratify=self._strata(samples)
        )
        if len(left) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, samples.x)[left]
        held = Held(samples.x[left], y[left], weights)
        return samples.part(chosen), held

    def _strata(self, samples: Samples) -> Any:
        return None

    def _new_optimizer(self) -> Optimizer:
        lr, eps = self.learning_rate_init, self.epsilon
        schedule = None if isinstance(self.learning_rate, str) else self.learning_rate
        if self.solver == "sgd":
            momentum = min(self.momentum, np.nextafter(1.0, 0.0))
            nesterov = self.nesterovs_momentum and momentum > 0
            return SGD(lr, momentum, nesterov=nesterov, schedule=schedule)
        betas = self.beta_1, self.beta_2
        if self.solver == "adam":
            return Adam(lr, betas, eps, schedule=schedule)
        groups = {"*.bias": {"weight_decay": 0.0}}
        return AdamW(lr, betas, eps, groups=groups, schedule=schedule)

    def _train(self, samples: Samples, held: Held | None, rng: np.random.RandomState, incremental: bool) -> Training:
        """Epochs of a stochastic solver."""
        net, n = self.network_, samples.target.shape[0]
        if self.batch_size != "auto" and self.batch_size > n:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=7
            )
        batch_size = min(200 if self.batch_size == "auto" else self.batch_size, n)
        if not (incremental and hasattr(self, "_optimizer")):
            self._optimizer = self._new_optimizer()
        optimizer = self._optimizer
        optimizer.steps_per_epoch = -(-n // batch_size)
        if self.solver == "adamw":
            optimizer.weight_decay = self.alpha
        else:
            optimizer.l2 = self.alpha
        if not hasattr(self, "loss_curve_"):
            self.loss_curve_: list[float] = []
            self._no_improvement_count = 0
            self.best_loss_: float | None = None if self.early_stopping else np.inf
            self.validation_scores_: list[float] | None = None
            self.best_validation_score_: float | None = None
        if held is not None and self.validation_scores_ is None:
            self.validation_scores_, self.best_validation_score_ = [], -np.inf
        if not incremental:
            self.history_ = History()
        monitored = ["loss"] + [f"val_{self._score_name}"] * (held is not None)
        optimizer.watched_column(monitored)  # says what is wrong before the first step
        run = Run(net, optimizer, self.history_, 1 if incremental else self.max_iter, monitored)
        callbacks = [as_callback(callback) for callback in self.callbacks or ()]
        self.n_iter_ = 0
        for callback in callbacks:
            callback.on_start(run)
        try:
            order = np.arange(n) if self.shuffle else None
            while self.n_iter_ < self.max_iter:
                order = yield from self._one_epoch(samples, held, batch_size, order, rng, run)
                for callback in callbacks:
                    callback.on_epoch(run)
                if self._is_over() or incremental or run.stopped:
                    break
                if self.n_iter_ == self.max_iter:
                    warnings.warn(
                        f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization "
                        "hasn't converged yet.",
                        ConvergenceWarning,
                        stacklevel=7,
                    )
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=7)
        finally:
            for callback in reversed(callbacks):
                callback.on_end(run)
        self.stopped_ = incremental and self.early_stopping and self.stopped_
        if self.early_stopping and (self.stopped_ or not incremental):
            net.params[:] = self._best_params

    def _one_epoch(
        self,
        samples: Samples,
        held: Held | None,
        batch_size: int,
        order: NDArray[Any] | None,
        rng: np.random.RandomState,
        run: Run,
    ) -> Generator[Step, float, NDArray[Any] | None]:
        """Train an epoch, and keep what was seen; the order of samples that it took."""
        n, optimizer = samples.target.shape[0], self._optimizer
        start, lr = time.perf_counter(), optimizer.current_lr
        if order is not None:  # as sklearn.utils.shuffle draws it
            drawn = np.arange(n)
            rng.shuffle(drawn)
            order = order[drawn]
        self.loss_ = yield from self._epoch(samples, order, batch_size)
        self.n_iter_ += 1
        self.t_ += n
        self.loss_curve_.append(self.loss_)
        optimizer.epochs += 1
        row = {"epoch": optimizer.epochs, "loss": self.loss_, "lr": lr}
        if self.verbose:
            print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
        if held is not None:
            row[f"val_{self._score_name}"] = self._score_held(held)
        self._compare()
        self.history_.rows.append(row | {"seconds": time.perf_counter() - start})
        optimizer.epoch_end(row[optimizer.watched_column(run.monitored)])
        if self.solver == "sgd" and self.learning_rate == "invscaling":
            self._set_lr(self.learning_rate_init / (self.t_ + 1) ** self.power_t)
        return order

    def _epoch(self, samples: Samples, order: NDArray[Any] | None, batch_size: int) -> Generator[Step, float, float]:
        """Steps on all batches; the mean of their losses, each before its step."""
        net, optimizer, loss, total = self.network_, self._optimizer, self._loss, 0.0
        n, prepared = samples.target.shape[0], 0.0
        optimizer.prepare(net)
        penalised = optimizer.segments[:, update_kernels.L2] > 0
        weights = [layer.weight.ravel() for layer in self._linears()] if penalised.any() else []
        adam = optimizer if type(optimizer) is Adam else None
        t = int(optimizer.count[0])
        for start in range(0, n, batch_size):
            stop = min(n, start + batch_size)
            x, target, sample_weight = batch = samples.rows(slice(start, stop) if order is None else order[start:stop])
            weight_sum = batch.weight_sum
            if not weight_sum:
                continue
            if weights:
                total += self.alpha / 2 / weight_sum * sum([float(w @ w) for w in weights]) * (stop - start)
                if weight_sum != prepared:
                    # the penalty is divided by the weight of the batch; in place, so that no step is prepared twice
                    optimizer.segments[penalised, update_kernels.L2] = self.alpha / weight_sum
                    prepared = weight_sum
            if adam is not None:
                t += 1
                # scikit-learn adds epsilon to √v, Adam here to √(v / (1 − β₂ᵗ))
                adam.eps = self.epsilon / math.sqrt(1 - adam.beta2**t)
            value = yield Step(net, x, target, loss, optimizer, sample_weight)
            total += (value * self._loss_scale + self._constant(target, sample_weight)) * (stop - start)
        return total / n

    def _constant(self, target: NDArray[Any], weights: NDArray[Any] | None) -> float:
        """What the shown loss has and the trained one has not."""
        return 0.0

    def _set_lr(self, lr: float) -> None:
        """Another learning rate, for a velocity that has the old one in it."""
        optimizer = self._optimizer
        assert isinstance(optimizer, SGD)
        if optimizer.velocity is not None:
            optimizer.velocity[:] *= optimizer.lr / lr
        optimizer.lr = lr

    def _score_held(self, held: Held) -> float:
        predicted = self._decode(self._output(self.network_, held.x))
        finite = predicted.dtype.kind != "f" or bool(np.isfinite(predicted).all())
        score = float(self._score(held.y, predicted, held.weights)) if finite else np.nan
        assert self.validation_scores_ is not None and self.best_validation_score_ is not None
        self.validation_scores_.append(score)
        if self.verbose:
            print(f"Validation score: {score:f}")
        return score

    def _compare(self) -> None:
        """Count the epochs since the latest one that was better by tol."""
        score = self.validation_scores_[-1] if self.validation_scores_ else -np.inf
        best = -np.inf if self.best_validation_score_ is None else self.best_validation_score_
        if self.early_stopping:
            worse = score < best + self.tol
        else:
            least = np.inf if self.best_loss_ is None else self.best_loss_
            worse = self.loss_ > least - self.tol
            self.best_loss_ = min(least, self.loss_)
        self._no_improvement_count = self._no_improvement_count + 1 if worse else 0
        if score > best:
            self.best_validation_score_ = score
            if self.early_stopping:
                self._best_params = self.network_.params.copy()

    def _is_over(self) -> bool:
        """Whether there was no improvement for too long; or then, at first, a lower learning rate."""
        if self._no_improvement_count <= self.n_iter_no_change:
            return False
        what = "Validation score" if self.early_stopping else "Training loss"
        reason = f"{what} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} consecutive epochs."
        adaptive = self.solver == "sgd" and self.learning_rate == "adaptive"
        self.stopped_ = not adaptive or self._optimizer.lr <= 1e-6
        if self.stopped_:
            then = "Learning rate too small. Stopping." if adaptive else "Stopping."
        else:
            self._set_lr(self._optimizer.lr / 5)
            self._no_improvement_count = 0
            then = f"Setting learning rate to {self._optimizer.lr:f}"
        if self.verbose:
            print(reason, then)
        return self.stopped_

    def _minimise(self, samples: Samples) -> None:
        """L-BFGS, scipy's, over the flat vector of parameters."""
        net, loss, weight_sum = self.network_, self._loss, samples.weight_sum
        x = samples.x.toarray() if issparse(samples.x) else samples.x
        constant = self._constant(samples.target, samples.weights)
        gradient_only = SGD(groups={"*": {"frozen": True}})
        decay = self.alpha / weight_sum

        def objective(params: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            net.params[:] = params
            value = net.train_step(x, samples.target, loss, gradient_only, samples.weights)
            penalty = 0.0
            for layer in self._linears():
                penalty += decay / 2 * float(np.vdot(layer.weight, layer.weight))
                layer.weight_grad += decay * layer.weight
            self.loss_ = value * self._loss_scale + constant + penalty
            return value + penalty, net.grads.astype(np.float64)

        def show(params: NDArray[np.float64]) -> None:
            print(f"loss = {self.loss_:.8f}")

        result = scipy.optimize.minimize(
            objective,
            net.params.astype(np.float64),
            method="L-BFGS-B",
            jac=True,
            callback=show if self.verbose else None,
            options={"maxfun": self.max_fun, "maxiter": self.max_iter, "gtol": self.tol},
        )
        objective(result.x)
        self.n_iter_ = min(result.nit, self.max_iter)
        if result.status:
            warnings.warn(
                f"lbfgs failed to converge after {result.nit} iteration(s) (status={result.status}): {result.message}. "
                "Increase max_iter or max_fun, or scale the data.",
                ConvergenceWarning,
                stacklevel=7,
            )

    def _output(self, network: Sequential, X: Any) -> NDArray[Any]:
        """Probabilities, or predicted numbers."""
        if issparse(X):
            X = X.tocsr()
            blocks = [X[i : i + BLOCK].toarray() for i in range(0, X.shape[0], BLOCK)]
            return np.concatenate([self._output(network, block) for block in blocks])
        z = network.predict(X)
        if self.out_activation_ == "exp":
            return np.exp(z)
        seen_by_the_loss = isinstance(network.layers[-1], (Sigmoid, Softmax))
        return z if seen_by_the_loss else OUTPUTS[self.out_activation_].predict(z)

    def _outputs(self, X: Any) -> NDArray[Any]:
        """Those of all members of the ensemble, (n_estimators, n_samples, n_outputs)."""
        check_is_fitted(self)
        self.adopt_assigned()
        X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        return np.stack([member._output(member.network_, X) for member in (self, *self._others)])

    def adopt_assigned(self) -> None:
        """Make a network of the coefs_ and intercepts_ that were assigned before fit, if there is none."""
        if not hasattr(self, "network_"):
            assigned = self._given()
            self._check_outputs(assigned.sizes[-1])
            dtype = np.result_type(np.float32, *assigned.coefs, *assigned.intercepts)
            self._begin(assigned.sizes, dtype, check_random_state(self.random_state), assigned)
            self.n_features_in_, self._others = assigned.sizes[0], []

    def _check_spread(self) -> None:
        if not self._others:
            raise ValueError("return_std needs an ensemble: fit with n_estimators of at least 2, or with n_cv")

    def _check_y(self, y: Any, incremental: bool, classes: Any, first: bool) -> None:
        raise NotImplementedError

    def _encode(self, y: Any, dtype: Any) -> NDArray[Any]:
        """y as the loss takes it."""
        raise NotImplementedError

    def _width(self, target: NDArray[Any]) -> int:
        return target.shape[1]

    def _decode(self, output: NDArray[Any]) -> Any:
        """Predictions from one network's outputs."""
        raise NotImplementedError

    @staticmethod
    def _score(y: Any, predicted: Any, weights: Any) -> float:
        raise NotImplementedError


def hidden_activation(activation: Any) -> Activation:
    return get_activation("sigmoid" if isinstance(activation, str) and activation == "logistic" else activation)


class MLPClassifier(ClassifierMixin, BaseMLP):
    """scikit-learn's MLPClassifier, and more: a multi-layer perceptron that minimises the log-loss.

    Parameters, attributes and results are those of sklearn.neural_network.MLPClassifier, whose documentation holds
    here too: to change over, change the line of the import. These parameters take more, or are new:

    Parameters
    ----------
    activation : str, Activation, or list of them
        "logistic" or any of fastfc's names, such as "gelu"; a list has one for each hidden layer.
    solver : {"lbfgs", "sgd", "adam", "adamw"}
        With "adamw", alpha is the decoupled weight decay of the weights: w ← w − lr alpha w.
    learning_rate : {"constant", "invscaling", "adaptive"} or a schedule
        A schedule of fastfc, such as CosineAnnealingLR(1000), is followed by all solvers but "lbfgs".
    early_stopping : bool
        Works with `partial_fit` too, if each call has validation_data to be scored on: after n_iter_no_change calls
        without a better score the best weights come back, `stopped_` is True, and further calls change nothing.
        Without early_stopping, and as in scikit-learn, every call of `partial_fit` trains.
    loss : "log_loss" or Loss
        A loss of fastfc. Those of logits or scores (CrossEntropyLoss, MultiMarginLoss, BCEWithLogitsLoss) see what the
        last layer gives, NLLLoss and KLDivLoss log-probabilities, all others probabilities.
    class_weight : "balanced", dict, list of dicts or None
        Weights of the classes, on top of sample_weight; "balanced" is n / (classes × samples of the class).
    dropout : float or list of floats
        The part of the hidden layers' outputs, or of each layer's, that is dropped in training.
    callbacks : list of Callback or callable, optional
        As for a network's `fit`; the score on held-out samples is their column "val_accuracy".
    n_estimators : int
        The number of networks, trained from different first weights, the steps of all in one native call. Predictions
        are their mean, and attributes are those of the first. Each has the bits that it has alone.
    n_cv : int, optional
        Train so many folds in one fit: n_estimators networks on all samples but those of a fold, for each fold, which
        early_stopping scores them on. All of them predict. `fit` only.

    Attributes
    ----------
    network_ : Sequential
        The trained network, which gives logits. `coefs_` and `intercepts_` are views of its parameters: what is
        assigned to them, or to one of their items, is copied into the network. Assigned before `fit`, `partial_fit`
        and `fit` with warm_start go on from them, and so does `predict`, which needs `classes_` too.
    cv_scores_ : (n_cv,) array
        With n_cv: of each fold the score on the samples that its networks have not seen.
    oof_outputs_ : (n_samples, n_outputs) array
        With n_cv: the mean outputs, as probabilities, of the networks that have not seen a sample.
    history_ : History
        Of the latest `fit`, and of the calls of `partial_fit` since.
    stopped_ : bool
        Whether `partial_fit` with early_stopping has stopped.

    References
    ----------
    F. Pedregosa et al., "Scikit-learn: machine learning in Python", JMLR 12, 2011. B. Lakshminarayanan, A. Pritzel,
    C. Blundell, "Simple and scalable predictive uncertainty estimation using deep ensembles", NeurIPS 2017.

    Examples
    --------
    >>> import fastfc as fc
    >>> from fastfc.sklearn import MLPClassifier
    >>> images, labels = fc.load_digits()
    >>> clf = MLPClassifier(random_state=0, tol=0.01).fit(images[:1500], labels[:1500])
    >>> clf.score(images[1500:], labels[1500:]) > 0.85
    True
    """

    _score_name, _loss_names = "accuracy", {"log_loss"}
    _score = staticmethod(lambda y, predicted, weights: accuracy_score(y, predicted, sample_weight=weights))

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012
        **BaseMLP._parameter_constraints,
        "loss": [str, Loss],
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        loss: str | Loss = "log_loss",
        class_weight: Any = None,
        dropout: Any = 0.0,
        callbacks: Any = None,
        n_estimators: int = 1,
        n_cv: int | None = None,
    ) -> None:
        keep(self, locals())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    @available_if(is_stochastic)
    def partial_fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None = None,
        classes: ArrayLike | None = None,
        *,
        validation_data: Any = None,
    ) -> Any:
        """One epoch on these samples, going on with the optimizer's state.

        Parameters
        ----------
        X, y, sample_weight, validation_data
            As for `fit`.
        classes : (n_classes,) array
            All classes that there will be; needed in the first call.

        Returns
        -------
        self
        """
        if self.class_weight == "balanced":
            raise ValueError("class_weight='balanced' needs all samples; give partial_fit's estimator a dict instead")
        alone = on_ranks.ranks_for(None, "partial_fit")
        return self._fit_all(alone, X, y, sample_weight, validation_data, incremental=True, classes=classes)

    def predict(self, X: Any) -> Any:
        """The classes of X, (n_samples,), or for several labels rows of 0 and 1."""
        return self._decode(self._outputs(X).mean(axis=0))

    def predict_proba(self, X: Any, return_std: bool = False) -> Any:
        """Probabilities of the classes, (n_samples, n_classes), in the order of `classes_`.

        With return_std also their standard deviation over the members of the ensemble, of the same shape.
        """
        outputs = self._outputs(X)
        if outputs.shape[2] == 1:
            outputs = np.concatenate([1 - outputs, outputs], axis=2)
        if not return_std:
            return outputs.mean(axis=0)
        self._check_spread()
        return outputs.mean(axis=0), outputs.std(axis=0)

    def predict_log_proba(self, X: Any) -> NDArray[Any]:
        """The logarithm of predict_proba."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def _check_y(self, y: Any, incremental: bool, classes: Any, first: bool) -> None:
        if incremental:
            named = None if classes is None else unique_labels(classes)
            if first and named is None and not hasattr(self, "classes_"):
                raise ValueError("classes must be passed on the first call to partial_fit.")
            if first:
                named = self.classes_ if named is None else named
                self._learn_classes(y if type_of_target(y).startswith("multilabel") else named)
            elif named is not None and not np.array_equal(named, self.classes_):
                raise ValueError(
                    f"`classes={classes}` is not the same as on last call to partial_fit, was: {self.classes_}"
                )
        elif first:
            return self._learn_classes(y)
        seen = unique_labels(y)
        if not incremental and set(seen) != set(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                f"Previously got {self.classes_}, `y` has {seen}"
            )
        if len(np.setdiff1d(seen, self.classes_)):
            raise ValueError(f"`y` has classes not in `self.classes_`. It has {self.classes_}. 'y' has {seen}.")
        return None

    def _learn_classes(self, y: Any) -> None:
        self._label_binarizer = LabelBinarizer().fit(y)
        self.classes_ = self._label_binarizer.classes_

    def _check_outputs(self, width: int) -> None:
        if not hasattr(self, "_label_binarizer"):
            if not hasattr(self, "classes_"):
                raise NotFittedError(
                    f"{type(self).__name__}: coefs_ are assigned; assign classes_ too, the sorted labels"
                )
            self._learn_classes(np.asarray(self.classes_))
        wanted = self._width(self._encode(self.classes_, np.float64)) if self._kind != "multilabel-indicator" else width
        if width != wanted:
            raise ValueError(
                f"{type(self).__name__}: coefs_ have {width} outputs, {len(self.classes_)} classes {wanted}"
            )

    @property
    def _kind(self) -> str:
        """Of targets: binary, multiclass or multilabel-indicator."""
        return self._label_binarizer.y_type_

    def _out_activation(self) -> str:
        return "softmax" if self._kind == "multiclass" or isinstance(self.loss, ClassLoss) else "logistic"

    @property
    def _indices(self) -> bool:
        """Whether the loss takes the classes' indices."""
        return isinstance(self.loss, ClassLoss) or (self.loss == "log_loss" and self._kind == "multiclass")

    def _training_loss(self, target: NDArray[Any]) -> tuple[Loss, float]:
        if isinstance(self.loss, str):
            return CrossEntropyLoss() if self._indices else per_sample(BCEWithLogitsLoss()), 1.0
        wanted: dict[type[Loss], tuple[str, ...]] = {
            ClassLoss: ("binary", "multiclass"),
            BCEWithLogitsLoss: ("binary", "multilabel-indicator"),
            KLDivLoss: ("multiclass",),
        }
        for kind, targets in wanted.items():
            if isinstance(self.loss, kind) and self._kind not in targets:
                raise ValueError(f"MLPClassifier: {self.loss} is for {' or '.join(targets)} targets, y is {self._kind}")
        return self.loss, 1.0

    def _last_layers(self) -> list[Layer]:
        if isinstance(self.loss, NLLLoss | KLDivLoss):
            return [LogSoftmax()]
        if isinstance(self.loss, str | ClassLoss | BCEWithLogitsLoss):
            return []
        return [Softmax() if self._kind == "multiclass" else Sigmoid()]

    def _encode(self, y: Any, dtype: Any) -> NDArray[Any]:
        if self._indices and self._kind != "multilabel-indicator":
            return np.searchsorted(self.classes_, y)
        return self._label_binarizer.transform(y).astype(dtype)

    def _width(self, target: NDArray[Any]) -> int:
        return len(self.classes_) if target.ndim == 1 else target.shape[1]

    def _weights(self, sample_weight: Any, X: Any, y: Any) -> NDArray[Any] | None:
        weights = super()._weights(sample_weight, X, y)
        if self.class_weight is None:
            return weights
        of_classes = compute_sample_weight(self.class_weight, y)
        return (of_classes if weights is None else of_classes * weights).astype(X.dtype)

    def _strata(self, samples: Samples) -> Any:
        return samples.target.astype(bool) if self._kind == "binary" else None

    def _decode(self, output: NDArray[Any]) -> Any:
        if self._kind == "binary":
            output = output[:, -1]
        return self._label_binarizer.inverse_transform(output)


class MLPRegressor(RegressorMixin, BaseMLP):
    """scikit-learn's MLPRegressor, and more: a multi-layer perceptron that minimises the squared error.

    Parameters, attributes and results are those of sklearn.neural_network.MLPRegressor, whose documentation holds
    here too: to change over, change the line of the import. What MLPClassifier here has in addition this one has too,
    but for class_weight; the score in "val_r2" is R². And:

    Parameters
    ----------
    loss : "squared_error", "poisson" or Loss
        A loss of fastfc whose prediction has the columns of the target. With PoissonNLLLoss predictions are eᶻ of the
        network's outputs z, with BCEWithLogitsLoss 1 / (1 + e⁻ᶻ).

    Attributes
    ----------
    network_ : Sequential
        The trained network. `coefs_` and `intercepts_` are views of its parameters.
    history_ : History
    stopped_ : bool
        As for MLPClassifier.

    References
    ----------
    F. Pedregosa et al., "Scikit-learn: machine learning in Python", JMLR 12, 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfc.sklearn import MLPRegressor
    >>> X = np.linspace(-2, 2, 200)[:, None]
    >>> reg = MLPRegressor(hidden_layer_sizes=(20,), solver="lbfgs", random_state=0, tol=1e-3)
    >>> reg = reg.fit(X, np.sin(2 * X[:, 0]))
    >>> bool(reg.score(X, np.sin(2 * X[:, 0])) > 0.99)
    True
    """

    _score_name, _loss_names = "r2", {"squared_error", "poisson"}
    _score = staticmethod(lambda y, predicted, weights: r2_score(y, predicted, sample_weight=weights))

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012
        **BaseMLP._parameter_constraints,
        "loss": [str, Loss],
    }

    def __init__(
        self,
        loss: str | Loss = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        dropout: Any = 0.0,
        callbacks: Any = None,
        n_estimators: int = 1,
        n_cv: int | None = None,
    ) -> None:
        keep(self, locals())

    @available_if(is_stochastic)
    def partial_fit(
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None, *, validation_data: Any = None
    ) -> Any:
        """One epoch on these samples, going on with the optimizer's state.

        Parameters
        ----------
        X, y, sample_weight, validation_data
            As for `fit`.

        Returns
        -------
        self
        """
        alone = on_ranks.ranks_for(None, "partial_fit")
        return self._fit_all(alone, X, y, sample_weight, validation_data, incremental=True)

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predicted numbers, (n_samples,) or (n_samples, n_outputs).

        With return_std also their standard deviation over the members of the ensemble, of the same shape.
        """
        outputs = self._outputs(X)
        if not return_std:
            return self._decode(outputs.mean(axis=0))
        self._check_spread()
        return self._decode(outputs.mean(axis=0)), self._decode(outputs.std(axis=0))

    def _check_y(self, y: Any, incremental: bool, classes: Any, first: bool) -> None:
        if self.loss == "poisson" and np.min(y) < 0:
            raise ValueError(f"MLPRegressor: loss='poisson' is for counts, but y has {np.min(y):g}")

    def _out_activation(self) -> str:
        if self.loss == "poisson" or (isinstance(self.loss, PoissonNLLLoss) and self.loss.log_input):
            return "exp"
        return "logistic" if isinstance(self.loss, BCEWithLogitsLoss) else "identity"

    def _training_loss(self, target: NDArray[Any]) -> tuple[Loss, float]:
        if self.loss == "squared_error":
            return per_sample(MSELoss(), 0.5), 1 / target.shape[1]
        if self.loss == "poisson":
            return per_sample(PoissonNLLLoss()), 1.0
        if isinstance(self.loss, ClassLoss):
            raise ValueError(f"MLPRegressor: {self.loss} is for classes; use MLPClassifier")
        return self.loss, 1.0

    def _constant(self, target: NDArray[Any], weights: NDArray[Any] | None) -> float:
        if self.loss != "poisson":
            return 0.0
        return float(np.average(xlogy(target, target) - target, weights=weights, axis=0).sum())

    def _encode(self, y: Any, dtype: Any) -> NDArray[Any]:
        return y.reshape(len(y), -1).astype(dtype, copy=False)

    def _decode(self, output: NDArray[Any]) -> NDArray[Any]:
        return output.ravel() if output.shape[1] == 1 else output
