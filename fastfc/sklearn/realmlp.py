"""`RealMLPClassifier` and `RealMLPRegressor`: networks for tables with numbers, categories and missing cells."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import fields
from numbers import Integral, Real
from threading import Event
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfc import frames, reference
from fastfc.data.features import Features, Inputs, Raw, is_missing, raw_columns
from fastfc.extras import extra
from fastfc.kernels.runtime.threads import most_threads
from fastfc.losses.base import Loss
from fastfc.losses.classification import CrossEntropyLoss
from fastfc.losses.regression import MSELoss, QuantileLoss
from fastfc.models.graph import Graph
from fastfc.models.realmlp import (
    PRESETS,
    SCHEDULES,
    Member,
    Recipe,
    Samples,
    Score,
    build,
    clamped_rmse,
    columns_of,
    error_rate,
    log_loss,
    pinball,
    recipe_of,
    replayed,
    temperature_of,
    train,
)
from fastfc.nn.node import Input
from fastfc.ranks import PULSE, ROWS, Pulse, Ranks
from fastfc.training.history import History
from fastfc.validation import positive_int

try:
    from scipy.sparse import issparse
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.model_selection import KFold, StratifiedKFold, train_test_split
    from sklearn.utils import check_array, check_random_state, column_or_1d
    from sklearn.utils._param_validation import Interval, StrOptions
    from sklearn.utils.class_weight import compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import (
        _check_sample_weight,
        _num_samples,
        check_consistent_length,
        check_is_fitted,
        validate_data,
    )

    from fastfc.sklearn import on_ranks
    from fastfc.sklearn.state import unchanged_on_error
except ImportError:
    extra("sklearn", "sklearn", "fastfc.sklearn")
    raise

ALL = slice(None)
POSITIVE = Interval(Integral, 1, None, closed="left")
SHARE = Interval(Real, 0, 1, closed="left")
AT_LEAST_0 = Interval(Real, 0, None, closed="left")
CONSTRAINTS: dict[str, list[Any]] = {
    "preset": [StrOptions(set(PRESETS))],
    "n_cv": [POSITIVE],
    "n_ens": [POSITIVE],
    "validation_fraction": [SHARE],
    "val_metric": [StrOptions({"error", "log_loss", "rmse", "pinball"}), None],
    "early_stopping": ["boolean"],
    "patience": [POSITIVE],
    "n_threads": [POSITIVE, StrOptions({"auto"})],
    "random_state": ["random_state"],
    "callbacks": [list, tuple, None],
    "hidden": ["array-like", None],
    "max_one_hot": [Interval(Integral, 0, None, closed="left"), StrOptions({"all"}), None],
    "activation": [str, None],
    "init": [StrOptions({"data", "normal"}), None],
    "embedding": [StrOptions({"pbld", "plr", "plr-lite", "none"}), None],
    **{name: [POSITIVE, None] for name in ("epochs", "batch_size", "least_steps", "category_width")},
    **{name: [POSITIVE, None] for name in ("embedding_frequencies", "embedding_width")},
    **{name: ["boolean", None] for name in ("parametric", "scale", "clamp")},
    **{name: [SHARE, None] for name in ("beta1", "beta2", "dropout", "label_smoothing")},
    **{name: [AT_LEAST_0, None] for name in ("lr", "eps", "weight_decay", "parametric_lr", "embedding_lr")},
    **{name: [AT_LEAST_0, None] for name in ("embedding_sigma", "scale_lr", "bias_lr")},
    **{f"{name}_schedule": [StrOptions(set(SCHEDULES)), None] for name in ("lr", "dropout", "weight_decay")},
}


class Part(NamedTuple):
    """Rows that one network learns from, and those that choose its epoch, of samples that folds share."""

    samples: Samples
    rows: NDArray[np.int64] | slice
    others: Samples
    held: NDArray[np.int64] | slice

    @property
    def train(self) -> Samples:
        return taken(self.samples, self.rows)

    @property
    def validation(self) -> Samples | None:
        held = taken(self.others, self.held)
        return held if len(held.x) else None


class BaseRealMLP(BaseEstimator):
    """What both estimators share."""

    _of_classes: bool
    _parameter_constraints: dict[str, list[Any]]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.non_deterministic = False
        return tags

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        comm: Any = None,
    ) -> Any:
        """Fit to X and y.

        Parameters
        ----------
        X : (n_samples, n_features) array, or frame of pandas, polars or pyarrow
            Columns of texts, and those of a dtype for categories, are categories. NaN and null are missing: of a
            number the median is taken and a column tells; of a category missing is a name of its own.
        y : (n_samples,) or (n_samples, n_outputs) array
            Labels of classes, or numbers.
        sample_weight : (n_samples,) array, optional
            Not negative; 0 is as if the row were not there. It weighs rows that validate too; those of X_val weigh 1.
            Medians and spreads of columns are those of the rows, whatever they weigh.
        X_val, y_val : optional
            Rows that choose the epoch, instead of a part of X.
        comm : mpi4py.MPI.Comm, optional
            The ranks that fit together, all to the same samples: each trains a block of the networks of n_cv and n_ens,
            and all of them hold all networks then, with the bits of one process. Callbacks are called on the rank that
            trains a network. Needs the extra `fastfc[mpi]`.

        Returns
        -------
        self
        """
        owner = f"{type(self).__name__}.fit"
        ranks = on_ranks.ranks_for(comm, owner)
        with ranks.together(owner), unchanged_on_error(self):
            on_ranks.begin(ranks, self, X=X, y=y, sample_weight=sample_weight, X_val=X_val, y_val=y_val)
            return self._fit_on(ranks, X, y, sample_weight, X_val, y_val)

    def _fit_on(self, ranks: Ranks, X: Any, y: Any, sample_weight: Any, X_val: Any, y_val: Any) -> Any:
        """Fit the networks that are ours, and have those of the other ranks."""
        self._validate_params()
        recipe = self._recipe()
        table = self._table(X, reset=True)
        y = self._targets(y, table.n, reset=True)
        weights = self._weights(sample_weight, y, table.n)
        if weights is not None and not weights.all():
            if not weights.any():
                raise ValueError("Sample weights must contain at least one non-zero number.")
            rows = np.flatnonzero(weights)
            table, y, weights = rows_of(table, rows), y[rows], weights[rows]
        rng = check_random_state(self.random_state)
        features, parts = self._parts(table, y, weights, X_val, y_val, recipe, rng)
        del table  # which is twice as large as what the networks get
        if not features.width and not features.sizes:
            raise ValueError(f"{type(self).__name__}: all cells of X are missing; give columns that have values")
        seeds = [int(seed) for seed in rng.randint(np.iinfo(np.int32).max, size=len(parts) * self.n_ens)]
        jobs = [(part, seed) for part, seed in zip([p for p in parts for _ in range(self.n_ens)], seeds, strict=True)]
        own, pulse = jobs[ranks.block(len(jobs))], Pulse(ranks)
        n_threads = 1 if self.callbacks else max(1, min(most_threads(self.n_threads), len(own)))
        inside = self.n_threads if n_threads == 1 else 1
        learn = lambda job, end, beat: self._learn(job[0], job[1], features, recipe, inside, end, beat)
        members = side_by_side(learn, own, n_threads, pulse.beat)
        if pulse.finish():
            raise KeyboardInterrupt
        members = [member for part in ranks.collect(members, ROWS) for member in part]
        self._keep(features, recipe, members, [part for part, _ in jobs])
        return self

    def _recipe(self) -> Recipe:
        changes = {field.name: getattr(self, field.name, None) for field in fields(Recipe)}
        if changes["hidden"] is not None:
            changes["hidden"] = tuple(positive_int(width, type(self).__name__, "hidden") for width in changes["hidden"])
        recipe = recipe_of(self.preset, self._of_classes, **changes)
        special = {
            name: None
            for name, value, none in (
                ("embedding", recipe.embedding, "none"),
                ("max_one_hot", recipe.max_one_hot, "all"),
            )
            if value == none
        }
        return Recipe(**(vars(recipe) | special))

    def _table(self, X: Any, reset: bool, known: Any = None) -> Raw:
        """The columns of X, which is checked as scikit-learn does, but for what is in them."""
        if issparse(X):
            raise TypeError(
                f"{type(self).__name__}: sparse matrices are not supported; use X.toarray() or fastfc.sklearn.MLP…"
            )
        if frames.names(X) is None:
            X = check_array(X, dtype=None, ensure_all_finite=False, input_name="X", estimator=self)
        elif not _num_samples(X):
            raise ValueError(f"Found array with 0 sample(s) while a minimum of 1 is required by {type(self).__name__}.")
        validate_data(self, X, reset=reset, skip_check_array=True)
        return raw_columns(X, type(self).__name__, known)

    def _weights(self, sample_weight: Any, y: NDArray[Any], n: int) -> NDArray[Any] | None:
        if sample_weight is None:
            return None
        return _check_sample_weight(sample_weight, np.empty((n, 1)), dtype=np.float64, ensure_non_negative=True)

    def _parts(
        self, table: Raw, y: NDArray[Any], weights: Any, X_val: Any, y_val: Any, recipe: Recipe, rng: Any
    ) -> tuple[Features, list[Part]]:
        """What the columns are, and the rows of each network."""
        owner = type(self).__name__
        if (X_val is None) != (y_val is None):
            raise ValueError(f"{owner}: give both X_val and y_val, or none of them")
        if X_val is not None:
            if self.n_cv > 1:
                raise ValueError(f"{owner}: n_cv={self.n_cv} folds take their validation from X; leave out X_val")
            other = self._table(X_val, reset=False)
            features = Features(table, other, recipe.max_one_hot)
            self._learn_targets(y, weights)
            y_other = self._targets(y_val, other.n)
            known = joined(features.transform(other, owner), features)
            held = Samples(known, self._encoded(y_other), self._of_class(y_other))
            samples = Samples(joined(features.transform(table, owner), features), self._encoded(y), weights)
            return features, [Part(samples, ALL, held, ALL)]
        folds = self._folds(y, rng)
        if getattr(self, "calibrate", None) and not len(folds[0][1]):
            raise ValueError(f"{owner}: calibrate needs rows to validate; give a validation_fraction")
        # the folds share what is known of columns and targets, which is then that of all rows
        rows = folds[0][0] if len(folds) == 1 else np.arange(table.n)
        features = Features(rows_of(table, rows), table, recipe.max_one_hot)
        self._learn_targets(y[rows], None if weights is None else weights[rows])
        x, target = joined(features.transform(table, owner), features), self._encoded(y)
        samples = Samples(x, target, weights)
        if len(folds) == 1:
            return features, [Part(taken(samples, folds[0][0]), ALL, taken(samples, folds[0][1]), ALL)]
        return features, [Part(samples, a, samples, b) for a, b in folds]

    def _folds(self, y: NDArray[Any], rng: Any) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Rows to learn from, and rows that choose the epoch."""
        rows = np.arange(len(y))
        seed = int(rng.randint(np.iinfo(np.int32).max))
        classes = y if self._of_classes else None
        counts = np.unique(classes, return_counts=True)[1] if classes is not None else np.array([len(rows)])
        if self.n_cv > 1:
            if len(rows) < self.n_cv:
                raise ValueError(f"{type(self).__name__}: n_cv={self.n_cv} folds need as many samples, got {len(rows)}")
            kind = StratifiedKFold if classes is not None and counts.min() >= self.n_cv else KFold
            split = kind(self.n_cv, shuffle=True, random_state=seed).split(rows, classes)
            return list(split)
        held = round(len(rows) * self.validation_fraction)
        if self.validation_fraction and not held and len(rows) > 4:
            held = 1
        if not held or len(rows) < 2:
            return [(rows, rows[:0])]
        alike = (
            classes if classes is not None and counts.min() > 1 and min(held, len(rows) - held) >= len(counts) else None
        )
        a, b = train_test_split(rows, test_size=held, random_state=seed, stratify=alike)
        return [(np.sort(a), np.sort(b))]

    def _learn(
        self,
        part: Part,
        seed: int,
        features: Features,
        recipe: Recipe,
        n_threads: int | str,
        end: Event,
        beat: Callable[[], None],
    ) -> Member:
        """Train one network, unless `end` is set, and call `beat` after each epoch."""
        rng, (inputs, numbers, plain, codes) = np.random.default_rng(seed), input_nodes(features)
        output = build(recipe, numbers, plain, codes, features.sizes, self._width(), rng)
        graph = Graph(inputs, output, n_threads=n_threads)
        patience = self.patience if self.early_stopping else None
        return train(
            graph,
            part.train,
            part.validation,
            self._loss(recipe),
            self._score(recipe),
            recipe,
            rng,
            patience=patience,
            callbacks=[lambda run: run.stop() if end.is_set() else beat(), *(self.callbacks or ())],
        )

    def _keep(self, features: Features, recipe: Recipe, members: Sequence[Member], parts: Sequence[Part]) -> None:
        self.features_, self.recipe_ = features, recipe
        self.histories_: list[History] = [member.history for member in members]
        self.best_epochs_ = [member.best_epoch for member in members]
        networks = [member.network for member in members]
        for network in networks:
            network.grads[:] = 0  # pickles leave them out
        if len(networks) == 1:
            self.network_ = networks[0]
        else:
            inputs, *_ = input_nodes(features)
            self.network_ = Graph(inputs, [replayed(network, inputs) for network in networks])
        self.network_.n_threads = self.n_threads
        self.n_iter_ = max(len(history) for history in self.histories_)

    def _outputs(self, X: Any) -> NDArray[np.float64]:
        """What each network gives, (networks, n, width)."""
        check_is_fitted(self)
        table = self._table(X, reset=False, known=self.features_.known())
        x = joined(self.features_.transform(table, type(self).__name__), self.features_)
        return self._networks_outputs(x)

    def _networks_outputs(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        output = self.network_.output(x)
        return np.stack(np.split(output, len(self.network_.outputs), axis=1)).astype(np.float64)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the estimator, with what it knows of the columns, to a file for `load`. Needs fastfc[safetensors]."""
        from fastfc.sklearn import realmlp_files

        check_is_fitted(self)
        realmlp_files.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Any:
        """The estimator that `save` wrote."""
        from fastfc.sklearn import realmlp_files

        return realmlp_files.load(cls, path)

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Write preprocessing and networks as an ONNX model. Needs fastfc[onnx].

        The columns of numbers are the input "numbers", (batch, columns) float32, in which NaN is missing. Each category
        is an input of its name, (batch, 1) of strings, in which "" is missing; where X was an array its name is
        "column" and its number. The outputs are "label" and "probabilities" of a classifier, "prediction" of a
        regressor. The file needs the operator set ai.onnx.ml for categories.
        """
        from fastfc.sklearn import realmlp_files

        check_is_fitted(self)
        realmlp_files.to_onnx(self, path)

    # what the two kinds of estimators differ in

    def _targets(self, y: Any, n: int, reset: bool = False) -> NDArray[Any]:
        raise NotImplementedError

    def _of_class(self, y: NDArray[Any]) -> NDArray[Any] | None:
        """Weights by class, or None."""
        return None

    def _learn_targets(self, y: NDArray[Any], weights: NDArray[Any] | None) -> None:
        """Know what is to be known of the targets of the training rows."""

    def _encoded(self, y: NDArray[Any]) -> NDArray[Any]:
        raise NotImplementedError

    def _width(self) -> int:
        raise NotImplementedError

    def _loss(self, recipe: Recipe) -> Loss:
        raise NotImplementedError

    def _score(self, recipe: Recipe) -> Score:
        raise NotImplementedError


def side_by_side(
    learn: Callable[[Any, Event, Callable[[], None]], Member],
    jobs: Sequence[Any],
    n_threads: int,
    beat: Callable[[], None],
) -> list[Member]:
    """What `learn` gives of each job. An exception, Ctrl-C for instance, ends the others; this thread calls `beat`."""
    end = Event()
    if n_threads == 1:
        return [learn(job, end, beat) for job in jobs]
    with ThreadPoolExecutor(n_threads) as pool:
        futures = [pool.submit(learn, job, end, lambda: None) for job in jobs]
        try:
            while (state := wait(futures, PULSE, FIRST_EXCEPTION)).not_done:
                for future in state.done:
                    future.result()  # raises
                beat()
        finally:
            end.set()
            pool.shutdown(cancel_futures=True)
    return [future.result() for future in futures]


def joined(inputs: Inputs, features: Features) -> NDArray[np.float32]:
    """The columns of a network: numbers, one-hot columns, and codes as rows of one table of embeddings."""
    if not inputs.codes.shape[1]:
        return inputs.x
    first = np.concatenate([[0], np.cumsum(features.sizes)[:-1]]).astype(np.int64)
    return np.concatenate([inputs.x, (inputs.codes + first).astype(np.float32)], axis=1)


def input_nodes(features: Features) -> tuple[list[Input], Input | None, list[Input], Input | None]:
    """Inputs of a network for these columns; of them the numbers, those that are taken as they are, and the codes."""
    numbers = Input(features.n_numbers, "numbers") if features.n_numbers else None
    hot = Input(features.width - features.n_numbers, "hot") if features.hot_scales else None
    codes = Input(len(features.sizes), "codes") if features.sizes else None
    plain = [node for node in (numbers, hot) if node is not None]
    return [*plain, *([] if codes is None else [codes])], numbers, plain, codes


def taken(samples: Samples, rows: NDArray[np.int64] | slice) -> Samples:
    return Samples(samples.x[rows], samples.y[rows], None if samples.weights is None else samples.weights[rows])


def rows_of(table: Raw, rows: NDArray[np.int64]) -> Raw:
    return Raw(table.names, [column[rows] for column in table.columns], len(rows))


def keep(estimator: Any, arguments: dict[str, Any]) -> None:
    """Keep the arguments of __init__ as they are, as scikit-learn wants it."""
    vars(estimator).update({name: value for name, value in arguments.items() if name not in ("self", "__class__")})


class RealMLPClassifier(ClassifierMixin, BaseRealMLP):
    """A network for tables that says which class a row is of: RealMLP.

    Parameters
    ----------
    preset : {"td", "td-s", "fast"}
        Where the constants come from that are None: of RealMLP-TD, of the simpler RealMLP-TD-S, or ours.
    n_cv : int
        Above 1, so many networks are trained, each without another fold of the rows, which chooses its epoch.
    n_ens : int
        Networks of each fold, from different first weights. Probabilities are the mean of theirs.
    validation_fraction : float
        Of the rows, those that choose the epoch, where there are neither folds nor X_val. With 0 the last epoch counts.
    val_metric : {"error", "log_loss", None}
        What the epoch is chosen by; None is "error". Of equal epochs the last one counts.
    early_stopping, patience : bool, int
        Whether training ends when no epoch was better for so many.
    calibrate : bool, optional
        Whether a temperature for each network, which the rows that choose the epoch tell, corrects probabilities; None
        is what the preset has: "fast" does.
    class_weight : "balanced", dict or None
        Weights of the classes, on top of sample_weight.
    n_threads : int or "auto"
        Networks are trained side by side. Results are the same for any number.
    random_state : int, RandomState or None
    callbacks : list of Callback or callable, optional
        As for a network's `fit`; called for each network, one network after the other.
    hidden, epochs, batch_size, lr, … : optional
        Constants of the recipe, see `fastfc.models.realmlp.Recipe`. `embedding` may be "none", `max_one_hot` "all".

    Attributes
    ----------
    network_ : Graph
        From the columns as the networks get them; with several networks, an output for each.
    features_ : Features
        What is known of the columns.
    recipe_ : Recipe
    histories_ : list of History
    best_epochs_ : list of int
        Of each network.
    classes_ : (n_classes,) array
    temperatures_ : list of float
        What the outputs of each network are divided by before they become probabilities.

    References
    ----------
    D. Holzmüller, L. Grinsztajn, I. Steinwart, "Better by Default: Strong Pre-Tuned MLPs and Boosted Trees on Tabular
    Data", NeurIPS 2024.

    Examples
    --------
    >>> import fastfc as fc
    >>> from fastfc.sklearn import RealMLPClassifier
    >>> x, y = fc.load_wine()
    >>> clf = RealMLPClassifier(epochs=20, random_state=0).fit(x[::2], y[::2])
    >>> clf.score(x[1::2], y[1::2]) > 0.9
    True
    """

    _of_classes = True
    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012, scikit-learn's name and kind
        **CONSTRAINTS,
        "calibrate": ["boolean", None],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        preset: str = "td",
        *,
        n_cv: int = 1,
        n_ens: int = 1,
        validation_fraction: float = 0.2,
        val_metric: str | None = None,
        early_stopping: bool = False,
        patience: int = 40,
        calibrate: bool | None = None,
        class_weight: Any = None,
        n_threads: int | str = "auto",
        random_state: Any = None,
        callbacks: Sequence[Any] | None = None,
        hidden: Sequence[int] | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        least_steps: int | None = None,
        lr: float | None = None,
        lr_schedule: str | None = None,
        beta1: float | None = None,
        beta2: float | None = None,
        eps: float | None = None,
        dropout: float | None = None,
        dropout_schedule: str | None = None,
        weight_decay: float | None = None,
        weight_decay_schedule: str | None = None,
        activation: str | None = None,
        parametric: bool | None = None,
        parametric_lr: float | None = None,
        embedding: str | None = None,
        embedding_lr: float | None = None,
        embedding_frequencies: int | None = None,
        embedding_sigma: float | None = None,
        embedding_width: int | None = None,
        max_one_hot: int | str | None = None,
        category_width: int | None = None,
        scale: bool | None = None,
        scale_lr: float | None = None,
        bias_lr: float | None = None,
        init: str | None = None,
        label_smoothing: float | None = None,
    ) -> None:
        keep(self, locals())

    def _targets(self, y: Any, n: int, reset: bool = False) -> NDArray[Any]:
        """The number of each row's class."""
        y = column_or_1d(as_array(y), warn=True)
        check_consistent_length(np.empty(n), y)
        missing = [is_missing(label) for label in y.tolist()] if y.dtype == object else []
        if any(missing):
            raise ValueError(f"{type(self).__name__}: y has no label in row {missing.index(True)}; leave such rows out")
        if reset:
            check_classification_targets(y)
            self.classes_, numbers = np.unique(y, return_inverse=True)
            return numbers
        numbers = np.searchsorted(self.classes_, y)
        unknown = self.classes_[np.minimum(numbers, len(self.classes_) - 1)] != y
        if unknown.any():
            raise ValueError(f"{type(self).__name__}: y_val has the class {y[unknown].tolist()[0]!r}, which y has not")
        return numbers

    def _weights(self, sample_weight: Any, y: NDArray[Any], n: int) -> NDArray[Any] | None:
        weights = super()._weights(sample_weight, y, n)
        self._class_weights = None
        if self.class_weight is not None:
            given: Any = self.class_weight
            self._class_weights = compute_class_weight(given, classes=self.classes_, y=self.classes_[y])
            of_class = self._of_class(y)
            weights = of_class if weights is None else weights * of_class
        return weights

    def _of_class(self, y: NDArray[Any]) -> NDArray[Any] | None:
        return None if self._class_weights is None else self._class_weights[y]

    def _encoded(self, y: NDArray[Any]) -> NDArray[Any]:
        return y.astype(np.int64)

    def _width(self) -> int:
        return len(self.classes_)

    def _loss(self, recipe: Recipe) -> Loss:
        return CrossEntropyLoss(label_smoothing=recipe.label_smoothing)

    def _score(self, recipe: Recipe) -> Score:
        if self.val_metric in ("rmse", "pinball"):
            raise ValueError(f"RealMLPClassifier: val_metric must be 'error' or 'log_loss', got {self.val_metric!r}")
        return Score("log_loss", log_loss) if self.val_metric == "log_loss" else Score("error", error_rate)

    def _keep(self, features: Features, recipe: Recipe, members: Sequence[Member], parts: Sequence[Part]) -> None:
        super()._keep(features, recipe, members, parts)
        self.temperatures_ = [1.0] * len(members)
        if recipe.calibrate:
            for i, (member, part) in enumerate(zip(members, parts, strict=True)):
                held = part.validation
                if held is not None:
                    output = member.network.predict(columns_of(member.network, held.x))
                    self.temperatures_[i] = temperature_of(held.y, output)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """The probability of each class, (n, n_classes)."""
        outputs = self._outputs(X)
        parts = [reference.softmax(o / t) for o, t in zip(outputs, self.temperatures_, strict=True)]
        return np.asarray(np.mean(parts, axis=0))

    def predict_log_proba(self, X: Any) -> NDArray[np.float64]:
        return np.log(np.maximum(self.predict_proba(X), np.finfo(np.float64).tiny))

    def predict(self, X: Any) -> NDArray[Any]:
        """The class of each row."""
        p = self.predict_proba(X)
        return np.asarray(self.classes_[p.argmax(axis=1)])


class RealMLPRegressor(RegressorMixin, BaseRealMLP):
    """A network for tables that predicts numbers: RealMLP.

    Parameters
    ----------
    preset : {"td", "td-s", "fast"}
        Where the constants come from that are None: of RealMLP-TD, of the simpler RealMLP-TD-S, or ours.
    n_cv : int
        Above 1, so many networks are trained, each without another fold of the rows, which chooses its epoch.
    n_ens : int
        Networks of each fold, from different first weights. Predictions are the mean of theirs.
    validation_fraction : float
        Of the rows, those that choose the epoch, where there are neither folds nor X_val. With 0 the last epoch counts.
    val_metric : {"rmse", "pinball", None}
        What the epoch is chosen by; None is "pinball" with quantiles, else "rmse". Of equal epochs the last one counts.
    early_stopping, patience : bool, int
        Whether training ends when no epoch was better for so many.
    quantiles : sequence of float, optional
        Instead of the mean, these quantiles of one target, by the pinball loss: predictions are (n, quantiles).
    n_threads : int or "auto"
        Networks are trained side by side. Results are the same for any number.
    random_state : int, RandomState or None
    callbacks : list of Callback or callable, optional
        As for a network's `fit`; called for each network, one network after the other.
    hidden, epochs, batch_size, lr, … : optional
        Constants of the recipe, see `fastfc.models.realmlp.Recipe`. `embedding` may be "none", `max_one_hot` "all".

    Attributes
    ----------
    network_ : Graph
        From the columns as the networks get them; with several networks, an output for each.
    features_ : Features
        What is known of the columns.
    recipe_ : Recipe
    histories_ : list of History
    best_epochs_ : list of int
        Of each network.
    center_, spread_ : arrays
        Mean and standard deviation of the training targets, as they weigh, in units of which the networks learn.
    low_, high_ : arrays
        The range that predictions stay in, of the training targets where `clamp` holds.
    quantiles_ : list of float, or None
        Those that the networks have learned.

    References
    ----------
    D. Holzmüller, L. Grinsztajn, I. Steinwart, "Better by Default: Strong Pre-Tuned MLPs and Boosted Trees on Tabular
    Data", NeurIPS 2024.

    Examples
    --------
    >>> import fastfc as fc
    >>> from fastfc.sklearn import RealMLPRegressor
    >>> x, y = fc.load_diabetes()
    >>> reg = RealMLPRegressor(epochs=20, random_state=0).fit(x[::2], y[::2])
    >>> reg.score(x[1::2], y[1::2]) > 0.2
    True
    """

    _of_classes = False
    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012
        **CONSTRAINTS,
        "quantiles": ["array-like", None],
    }

    def __init__(
        self,
        preset: str = "td",
        *,
        n_cv: int = 1,
        n_ens: int = 1,
        validation_fraction: float = 0.2,
        val_metric: str | None = None,
        early_stopping: bool = False,
        patience: int = 40,
        quantiles: Sequence[float] | None = None,
        n_threads: int | str = "auto",
        random_state: Any = None,
        callbacks: Sequence[Any] | None = None,
        hidden: Sequence[int] | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        least_steps: int | None = None,
        lr: float | None = None,
        lr_schedule: str | None = None,
        beta1: float | None = None,
        beta2: float | None = None,
        eps: float | None = None,
        dropout: float | None = None,
        dropout_schedule: str | None = None,
        weight_decay: float | None = None,
        weight_decay_schedule: str | None = None,
        activation: str | None = None,
        parametric: bool | None = None,
        parametric_lr: float | None = None,
        embedding: str | None = None,
        embedding_lr: float | None = None,
        embedding_frequencies: int | None = None,
        embedding_sigma: float | None = None,
        embedding_width: int | None = None,
        max_one_hot: int | str | None = None,
        category_width: int | None = None,
        scale: bool | None = None,
        scale_lr: float | None = None,
        bias_lr: float | None = None,
        init: str | None = None,
        clamp: bool | None = None,
    ) -> None:
        keep(self, locals())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _targets(self, y: Any, n: int, reset: bool = False) -> NDArray[Any]:
        """The targets as columns; those of several quantiles are repeated."""
        y = check_array(as_array(y), dtype=np.float64, ensure_2d=False, input_name="y", estimator=self)
        if y.ndim > 2:
            raise ValueError(f"RealMLPRegressor: y has shape {y.shape}, expected (n,) or (n, outputs)")
        check_consistent_length(np.empty(n), y)
        columns = y.reshape(len(y), -1)
        if reset:
            self._one_column, self.n_outputs_ = y.ndim == 1, columns.shape[1]
            self.quantiles_ = None if self.quantiles is None else [float(level) for level in self.quantiles]
        elif columns.shape[1] != self.n_outputs_:
            raise ValueError(f"RealMLPRegressor: y_val has {columns.shape[1]} columns, y has {self.n_outputs_}")
        if self.quantiles_ is not None:
            if not self.quantiles_:
                raise ValueError("RealMLPRegressor: quantiles is empty; give at least one, as [0.1, 0.5, 0.9]")
            if columns.shape[1] != 1:
                raise ValueError(f"RealMLPRegressor: quantiles are of one target, but y has shape {y.shape}")
            columns = np.repeat(columns, len(self.quantiles_), axis=1)
        return columns

    def _learn_targets(self, y: NDArray[Any], weights: NDArray[Any] | None) -> None:
        # powers of two, in which no square is too large, or too small
        unit = np.ldexp(1.0, np.frexp(np.abs(y).max(axis=0))[1] - 1)
        z = y / unit
        mean, spread = z.mean(axis=0), z.std(axis=0)
        if weights is not None:
            mean = np.average(z, axis=0, weights=weights)
            spread = np.sqrt(np.average((z - mean) ** 2, axis=0, weights=weights))
        self.center_, self.spread_ = mean * unit, spread * unit
        self.spread_ = np.where(self.spread_ > 0, self.spread_, 1.0)
        self.low_, self.high_ = y.min(axis=0), y.max(axis=0)

    def _encoded(self, y: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(((y - self.center_) / self.spread_).astype(np.float32))

    def _width(self) -> int:
        return len(self.center_)

    def _loss(self, recipe: Recipe) -> Loss:
        return MSELoss() if self.quantiles_ is None else QuantileLoss(self.quantiles_)

    def _score(self, recipe: Recipe) -> Score:
        if self.val_metric in ("error", "log_loss"):
            raise ValueError(f"RealMLPRegressor: val_metric must be 'rmse' or 'pinball', got {self.val_metric!r}")
        low, high = (self.low_ - self.center_) / self.spread_, (self.high_ - self.center_) / self.spread_
        if not recipe.clamp:
            low, high = np.full_like(low, -np.inf), np.full_like(high, np.inf)
        if self.val_metric == "pinball" or (self.val_metric is None and self.quantiles_ is not None):
            return Score("pinball", pinball(0.5 if self.quantiles_ is None else self.quantiles_))
        return Score("rmse", clamped_rmse(low, high))

    def _keep(self, features: Features, recipe: Recipe, members: Sequence[Member], parts: Sequence[Part]) -> None:
        super()._keep(features, recipe, members, parts)
        if not recipe.clamp:
            self.low_, self.high_ = np.full_like(self.low_, -np.inf), np.full_like(self.high_, np.inf)

    def predict(self, X: Any) -> NDArray[np.float64]:
        """The numbers of each row, (n,) or (n, n_outputs); with quantiles (n, quantiles), in order."""
        outputs = np.clip(self._outputs(X) * self.spread_ + self.center_, self.low_, self.high_).mean(axis=0)
        if self.quantiles_ is not None:
            order = np.argsort(self.quantiles_, kind="stable")
            outputs[:, order] = np.sort(outputs, axis=1)
            return np.asarray(outputs)
        return np.asarray(outputs[:, 0] if self._one_column else outputs)


def as_array(y: Any) -> Any:
    """A column of a frame as an array; scikit-learn takes those of pandas and polars itself."""
    if y is None:
        raise ValueError("this estimator requires y to be passed, but the target y is None")
    if frames.is_arrow(y) and hasattr(y, "type"):
        return np.array(y.to_pylist())
    return np.asarray(y.to_numpy() if hasattr(y, "null_count") and hasattr(y, "to_numpy") else y)
