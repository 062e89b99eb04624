"""`Optimizer`, what every optimizer can do: one pass over a network's flat parameter vector per step."""

from __future__ import annotations

import fnmatch
import functools
import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from types import MappingProxyType
from typing import Any, ClassVar, TypedDict

import numpy as np
from numpy.typing import NDArray

from fastfc.attributes import OF_OPTIMIZERS, Versioned
from fastfc.kernels.optim import rules, schedules
from fastfc.kernels.optim import update as update_kernels
from fastfc.kernels.runtime import native, threads
from fastfc.nn.container import Container
from fastfc.nn.dropout import Dropout
from fastfc.nn.layer import Layer, Parameter, explained_error
from fastfc.optim.schedule import ReduceLROnPlateau, Schedule, Seen
from fastfc.validation import as_floats, as_generator, as_real, did_you_mean, flag, positive_int, positive_number

GROUP_OPTIONS = ("lr", "weight_decay", "l1", "l2", "max_norm", "frozen", "lr_factor", "weight_decay_factor")
# What is relative to an option of the optimizer, of which a group has one or the other.
FACTORS = {"lr": "lr_factor", "weight_decay": "weight_decay_factor"}
# Options beside the learning rate that have schedules: where the kernel finds those.
SCHEDULED = {
    "weight_decay": update_kernels.DECAY_SCHEDULE,
    "dropout": update_kernels.DROPOUT_SCHEDULE,
    "label_smoothing": update_kernels.SMOOTHING_SCHEDULE,
}


PLAIN = [1.0, -1.0, 0.0, 0.0, 0.0, 0]  # how a segment is treated without options


def everything() -> NDArray[np.float64]:
    """The segments of any network all of whose parameters are treated alike."""
    return np.array([[0, 0, *PLAIN, 0]], np.float64)


class Options(TypedDict, total=False):
    """What every optimizer takes, see Optimizer."""

    groups: Mapping[str, Mapping[str, Any]] | None
    clip_norm: float | None
    clip_value: float | None
    l1: float
    l2: float
    penalize_bias: bool
    max_norm: float | None
    average: float | None
    schedule: Schedule | ReduceLROnPlateau | None
    schedules: Mapping[str, Schedule] | None
    square_factors: bool
    maximize: bool


def hyperparameter(
    index: int,
    what: str,
    or_zero: bool = False,
    above: float = -math.inf,
    below: float = math.inf,
    decides: bool = False,
) -> Any:
    """Property of an optimizer: a number that its kernel reads, and that decides what is remembered if `decides`."""

    def get(self: Optimizer) -> float:
        return float(self.hyper[index])

    def assign(self: Optimizer, value: float) -> None:
        number = positive_number(value, type(self).__name__, what, or_zero=or_zero)
        if number <= above:
            raise ValueError(f"{type(self).__name__}: {what} must be more than {above:g}, got {value}")
        if number >= below:
            raise ValueError(f"{type(self).__name__}: {what} must be less than {below:g}, got {value}")
        self._put(index, number)
        if decides:
            self._options_changed()

    return property(get, assign)


def of_rule(index: int, what: str, **limits: Any) -> Any:
    """hyperparameter, for one of the rule's own numbers."""
    return hyperparameter(update_kernels.RULE + index, what, **limits)


def limit(index: int, what: str) -> Any:
    """Property of an optimizer: a positive number or None, which the kernel reads as 0."""

    def get(self: Optimizer) -> float | None:
        return float(self.hyper[index]) or None

    def assign(self: Optimizer, value: float | None) -> None:
        self.hyper[index] = 0.0 if value is None else positive_number(value, type(self).__name__, what)

    return property(get, assign)


def switch(index: int, what: str, bit: int = 1) -> Any:
    """Property of an optimizer: True or False, which the kernel reads as a bit of a number."""

    def get(self: Optimizer) -> bool:
        return bool(int(self.hyper[index]) & bit)

    def assign(self: Optimizer, value: bool) -> None:
        rest = int(self.hyper[index]) & ~bit
        self._put(index, rest | bit * flag(value, type(self).__name__, what))

    return property(get, assign)


def variant(what: str) -> Any:
    """Property of an optimizer: True or False, for a rule of its own that remembers more."""

    def get(self: Optimizer) -> bool:
        return bool(vars(self)[what])

    def assign(self: Optimizer, value: bool) -> None:
        vars(self)[what] = flag(value, type(self).__name__, what)
        self._options_changed()

    return property(get, assign)


def without_parameters(init: Callable[..., None]) -> Callable[..., None]:
    """The `__init__` of an optimizer, which says what to do where PyTorch's takes parameters."""

    @functools.wraps(init)
    def checked_init(self: Optimizer, *args: Any, **options: Any) -> None:
        params = args[0] if args else options.get("params")
        if isinstance(params, Layer) or (np.iterable(params) and not isinstance(params, str)):
            kind = type(self).__name__
            raise TypeError(
                f"{kind}: an optimizer is made without parameters; it changes those of the network that it trains: "
                f"net.fit(x, y, loss=loss, optimizer=fc.{kind}()), net.train_step(x, y, loss, optimizer) or, after "
                "net.backward(grad), optimizer.step(net)"
            )
        init(self, *args, **options)

    return checked_init


def group_option(what: str) -> Any:
    """Property of an optimizer: an option that groups may have of their own."""

    def get(self: Optimizer) -> float | None:
        return getattr(self, f"_{what}")

    def assign(self: Optimizer, value: float | None) -> None:
        setattr(self, f"_{what}", checked(value, what, type(self).__name__))
        self._options_changed()

    return property(get, assign)


class Optimizer(Versioned):
    """Base of the optimizers. One of them serves one network, whose gradients it remembers.

    A second network is refused, unless nothing is remembered (SGD without momentum, average and schedule): make an
    optimizer for each, or call `reset` when you are done with the first. A copy, or one that comes from a file or a
    pickle, goes on with what it remembers, for the first network that it is given.

    All options may be changed between steps, and count from the next one on; what comes too late is refused. All of
    them take these options, by keyword. In each step the gradients first get those of the penalties, and are then
    clipped, one by one and all together; after the rule follow max_norm and the average.

    Parameters
    ----------
    groups : dict of dicts, optional
        Options of some parameters: {"*.bias": {"lr": 0.01, "weight_decay": 0.0}, "encoder.*": {"frozen": True}}.
        The keys are patterns of the names that `network.named_parameters()` gives, as in `fnmatch`; where several
        match, the later ones count. The options are "lr", "weight_decay", "l1", "l2", "max_norm" and "frozen", and
        instead of the first two "lr_factor" and "weight_decay_factor", which multiply those of the optimizer. A rate
        of a group stays in proportion to `optimizer.lr` when that is changed, by a schedule or by you.
    clip_norm : float, optional
        Positive. All gradients are scaled to this Euclidean norm of all of them together if it is larger.
    clip_value : float, optional
        Positive. Each element of the gradients is brought into [-clip_value, clip_value].
    l1, l2 : float
        At least 0. l1 |w|₁ + l2/2 |w|² is added to the loss that is minimised (not to the one that is shown). Other
        than weight_decay it is part of the gradient that is clipped, and leaves vectors alone: biases, and what
        scales and shifts in norms, unless `penalize_bias`.
    penalize_bias : bool
        Whether l1 and l2 count for vectors too.
    max_norm : float, optional
        Positive. The weights into one unit, a column of a weight (in_features, out_features), are scaled to this
        Euclidean norm after each step if theirs is larger.
    average : float, optional
        The decay d, positive and less than 1, of a moving average of the parameters: a ← d a + (1 − d) w after each
        step, a = w after the first. It is `average_params`, for `net.predict(x, params=optimizer.average_params)`.
    schedule : Schedule or ReduceLROnPlateau, optional
        How the learning rate changes, such as CosineAnnealingLR(T_max=1000); from update to update unless it has
        unit="epoch".
    schedules : dict of Schedules, optional
        How other options change: {"weight_decay": FlatCosineLR(1000), "dropout": LinearLR(1.0, 0.0, 1000)}. The keys
        are "weight_decay", also that of groups, "dropout", the p of every Dropout in the network, and
        "label_smoothing", that of the loss. In an update each is multiplied by `schedule.rate(1.0, t)`, with the t
        of the learning rate; p and label smoothing stay at most 1. `fit` and `train_step` know the loss and the
        network's dropout; `step` takes no schedules of those two.
    square_factors : bool
        Whether the factors of groups count twice in a decoupled weight decay λ, w ← w (1 − lr λ (f_lr f_λ)²), as in
        the reference implementation of RealMLP; f_λ is 1 where a group has a weight_decay of its own.
    maximize : bool
        Whether to go up instead: g = −∇L in the rule, and in clipping. Penalties and weight decay make parameters
        smaller nevertheless.

    Attributes
    ----------
    lr : float
        The base of the learning rate, as you gave it: a schedule leaves it alone, but for ReduceLROnPlateau, which
        changes it. `current_lr` is what the schedule makes of it for the next step; the history shows that.
    hyper : (h,) float64 array
        What the kernel reads; each has a name too, and may be changed between steps.
    segments : (s, 9) float64 array
        How the kernel treats which parameters, as of the latest `prepare`.
    state : (r, p) array of the network's dtype
        The vectors that the rule remembers, and at the end the average; zeros before the first step. Assigning copies
        the values into place; another number of vectors takes their place.
    count : (2,) int64 array
        Number of steps so far, and a number of the rule's own. Assigning copies the values into place.

    References
    ----------
    R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML 2013, for
    clip_norm, as torch.nn.utils.clip_grad_norm_. N. Srivastava et al., "Dropout", JMLR 15, 2014, for max_norm.
    B. Polyak, A. Juditsky, "Acceleration of stochastic approximation by averaging", 1992, for average.

    Examples
    --------
    >>> import fastfc as fc
    >>> net = fc.MLP([2, 3, 1], seed=0)
    >>> optimizer = fc.Adam(groups={"0.*": {"frozen": True}}, clip_norm=1.0, average=0.9)
    >>> before = net.params.copy()
    >>> value = net.train_step([[1, 2]], [[3]], fc.MSELoss(), optimizer)
    >>> bool((net.params == before)[:9].all()), bool((net.params == before)[9:].all())
    (True, False)
    >>> bool((optimizer.average_params == net.params).all())
    True
    """

    code: int  # what the kernels call it
    hyper: NDArray[np.float64]
    segments: NDArray[np.float64]

    _fixed: ClassVar[Mapping[str, str]] = {
        "hyper": "assign optimizer.lr and the like, each number has a name",
        "segments": "it is made of groups, l1, l2, max_norm and of what is frozen; assign those",
        "code": "it is that of the rule; make another optimizer",
        "full_batch": "it is that of the rule; make another optimizer",
    }
    _elsewhere = OF_OPTIMIZERS
    _internal = frozenset(
        ("check_network", "fit_state", "measure", "n_vectors", "option_as_given", "restore_fit_state", "watched_column")
    )
    _prepared: int | None = None  # the trained_version of our network that the segments were made for
    _optional: tuple[str, ...] = ()  # what the text shows only if it is neither 0 nor False
    _group_options: tuple[str, ...] = GROUP_OPTIONS
    full_batch = False  # whether a step needs all samples
    _seed: Any = None  # of the latest fit
    _generator: np.random.Generator | None = None
    _plateau: Seen | None = None  # what ReduceLROnPlateau has seen
    _groups: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    _schedule: Schedule | ReduceLROnPlateau | None = None
    _schedules: Mapping[str, Schedule] = MappingProxyType({})
    _square_factors = False
    _flags = 0  # of the rule, for the kernel
    _l1, _l2, _max_norm = 0.0, 0.0, None
    _network: weakref.ref[Layer] | None = None  # that we are for; after a copy or a file, the next one
    _first_lr: float | None = None  # before ReduceLROnPlateau changed it

    lr = hyperparameter(schedules.LR, "lr")
    weight_decay = hyperparameter(update_kernels.WEIGHT_DECAY, "weight_decay", or_zero=True)
    clip_value, clip_norm = limit(update_kernels.CLIP_VALUE, "clip_value"), limit(update_kernels.CLIP_NORM, "clip_norm")
    l1, l2, max_norm = group_option("l1"), group_option("l2"), group_option("max_norm")
    maximize = switch(update_kernels.FLAGS, "maximize", update_kernels.MAXIMIZE)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "__init__" in vars(cls):
            cls.__init__ = without_parameters(cls.__init__)  # type: ignore[method-assign]

    def __init__(
        self,
        *hyper: tuple[str, Any],
        groups: Mapping[str, Mapping[str, Any]] | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        l1: float = 0.0,
        l2: float = 0.0,
        penalize_bias: bool = False,
        max_norm: float | None = None,
        average: float | None = None,
        schedule: Schedule | ReduceLROnPlateau | None = None,
        schedules: Mapping[str, Schedule] | None = None,
        square_factors: bool = False,
        maximize: bool = False,
    ) -> None:
        self._fix(hyper=np.zeros(update_kernels.N_HYPERPARAMETERS))
        self.hyper[update_kernels.FLAGS] = self._flags
        self._state = np.zeros((0, 0), np.float32)
        self._count, self._epochs = np.zeros(2, np.int64), 0
        for name, value in hyper:
            setattr(self, name, value)
        self._names = [name for name, _ in hyper if name not in self._optional]
        self.clip_norm, self.clip_value = clip_norm, clip_value
        self.l1, self.l2, self.max_norm, self.penalize_bias = l1, l2, max_norm, penalize_bias
        self.average, self.maximize = average, maximize
        self.groups, self.schedule, self.schedules, self.square_factors = groups, schedule, schedules, square_factors

    def step(self, network: Layer) -> None:
        """Update the parameters of a network or layer from its gradients.

        Raises
        ------
        ValueError
            If earlier steps went to another network, a group matches no parameter, or there is a schedule of what
            forward and the loss did before.
        """
        late = [what for what in self._schedules if what != "weight_decay"]
        if late:
            raise ValueError(
                f"{type(self).__name__}: schedules has {late[0]!r}, which forward and loss take before step; train "
                "with fit or train_step"
            )
        state, segments = self.prepare(network)
        n_threads = threads.prepare_threads(network.n_threads, update_kernels.UPDATE_WORK * network.grads.size)
        rest = self.count, self.code, 1.0, n_threads, threads.MIN_RANGE_WORK
        try:
            update_kernels.update.call(network.grads, self.hyper, segments, network.params, state, *rest)
        except ValueError as error:
            raise explained_error(error, network) from None

    def load(self, dtypes: Iterable[Any]) -> None:
        """Compile, or load, what this optimizer needs and not every one does."""
        for dtype in dtypes if self._optional_kernel is not None else ():
            native.compile_or_load_all([self._optional_kernel], dtype)

    def prepare(self, network: Layer) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """The state for this network's parameters, zeros at first, and their segments."""
        if self._prepared == network.trained_version and self._is_for(network):
            return self._state, self.segments
        self.load([native.DTYPES[network.params.dtype]])
        self.bind(network)
        if "dropout" in self._schedules and not has_dropout(network):
            raise ValueError(f"{type(self).__name__}: schedules has 'dropout', but {network} has no Dropout; remove it")
        every = self._schedule, *self._schedules.values()
        if any(one.unit == "epoch" for one in every if isinstance(one, Schedule)) and not self.steps_per_epoch:
            raise ValueError(
                f"{self}: its schedule counts epochs; train with fit, or assign optimizer.steps_per_epoch before"
            )
        segments = self._segments_of(network, network.trained_parameters())
        self._make_state(network.params)
        self._fix(segments=segments)
        self._prepared = network.trained_version
        return self._state, segments

    def _make_state(self, params: NDArray[Any]) -> None:
        """Make the vectors that are missing, of zeros; the average stays the last one."""
        state, rows = self._state, self.n_vectors
        if len(state) >= max(rows, 1):
            return
        self._state = np.zeros((rows, params.size), params.dtype)
        of_rule = len(state) - (self.average is not None and len(state) > 0)
        if len(state):
            self._state[:of_rule] = state[:of_rule]
            self._state[rows - len(state) + of_rule :] = state[of_rule:]
        self._begin(of_rule)

    def _begin(self, known: int) -> None:
        """Begin with new vectors, of which the first `known` keep their values and others are 0."""

    def _is_for(self, network: Layer) -> bool:
        return self._network is not None and self._network() is network

    def bind(self, network: Layer) -> None:
        """Be the optimizer of this network from now on; `prepare` and `fit` call this."""
        self.check_network(network)
        if not self._is_for(network):
            if self._network is not None:  # another one's, of which nothing is remembered
                self.reset()
            self._network = weakref.ref(network)

    def check_network(self, network: Layer) -> None:
        """Raise if what is remembered is of another network."""
        state, params = self._state, network.params
        remembers = self.count[0] > 0 and self._remembers
        fix = "use a new optimizer for each network, or call optimizer.reset() before the next one"
        ours = self._network is None or self._is_for(network)
        if (ours or remembers) and len(state) and (state.shape[1], state.dtype) != (params.size, params.dtype):
            raise ValueError(
                f"{self}: its state is for {state.shape[1]} {state.dtype} parameters, the network "
                f"has {params.size} {params.dtype}; {fix}"
            )
        if remembers and not ours:
            raise ValueError(f"{self}: it remembers {self.count[0]} steps of another network; {fix}")

    def reset(self) -> None:
        """Forget all steps: for another network, such as that of the next fold of a cross-validation.

        Options stay; `lr` is again what it was before ReduceLROnPlateau changed it.

        Examples
        --------
        >>> import fastfc as fc
        >>> x, y, optimizer = [[0.0], [1.0], [2.0]], [[1.0], [3.0], [5.0]], fc.Adam(0.1)
        >>> nets = [fc.MLP([1, 1], seed=0) for fold in range(2)]
        >>> for net in nets:
        ...     history = net.fit(x, y, loss=fc.MSELoss(), optimizer=optimizer, epochs=2, seed=0)
        ...     optimizer.reset()
        >>> bool((nets[0].params == nets[1].params).all())
        True
        """
        if self._first_lr is not None:
            self.lr = self._first_lr
        self._state = self._state[:0]
        self.count[:] = 0
        self.hyper[[schedules.EPOCHS, schedules.SINCE, schedules.STEPS_PER_EPOCH]] = 0.0
        self.epochs, self._seed, self._generator, self._plateau, self._first_lr = 0, None, None, None, None
        self._network = None
        self._options_changed()

    def _refuse_after_steps(self, what: str, why: str) -> None:
        """Raise if an option comes too late, after the first step."""
        if self.count[0]:
            raise ValueError(
                f"{type(self).__name__}: {what} can't be changed after the first step: {why}; choose it when you make "
                "the optimizer, or call optimizer.reset() first"
            )

    def _put(self, index: int, number: float) -> None:
        """Assign to one of the kernel's numbers, unless the options then contradict each other."""
        before, self.hyper[index] = self.hyper[index], number
        try:
            self._check_options()
        except ValueError:
            self.hyper[index] = before
            raise

    def _check_options(self) -> None:
        """Raise if options contradict each other."""
        if self._square_factors and not int(self.hyper[update_kernels.FLAGS]) & update_kernels.DECOUPLED:
            raise ValueError(
                f"{type(self).__name__}: square_factors is for a decoupled weight decay, such as that of AdamW"
            )

    def _segments_of(self, network: Layer, trained: list[Parameter]) -> NDArray[np.float64]:
        """The table of segments: parameters that are neighbours and treated alike are in one."""
        self._check_patterns([name for name, _, _ in network.named_parameters()])
        rows: list[list[float]] = []
        for name, first, shape in trained:
            own: dict[str, Any] = {"l1": self.l1, "l2": self.l2, "max_norm": self.max_norm}
            for pattern, options in self._groups.items():
                if fnmatch.fnmatchcase(name, pattern):
                    replaced = [other for pair in FACTORS.items() for other in pair if options.keys() & pair]
                    own = {what: value for what, value in own.items() if what not in replaced} | dict(options)
            if own.get("frozen"):
                continue
            matrix, last = len(shape) > 1, first + int(np.prod(shape))
            penalty, max_norm = matrix or self.penalize_bias, own["max_norm"] if matrix else None
            rate = own["lr"] / self._groups_lr if "lr" in own else own.get("lr_factor", 1.0)
            treated = [
                rate,
                self._decay_of(own, rate),
                own["l1"] if penalty else 0.0,
                own["l2"] if penalty else 0.0,
                max_norm or 0.0,
                shape[-1] if max_norm else 0,
            ]
            if (
                rows
                and rows[-1][update_kernels.LAST] == first
                and rows[-1][update_kernels.RATE :] == treated
                and not max_norm
            ):
                rows[-1][update_kernels.LAST] = last
            else:
                rows.append([first, last, *treated])
        if rows == [[0, network.params.size, *PLAIN]]:
            return everything()
        return np.array([[*row, network.params.size] for row in rows or [[0] * update_kernels.SIZE]], np.float64)

    def _decay_of(self, own: Mapping[str, Any], rate: float) -> float:
        """How the kernel knows the weight decay of parameters with these options and this factor of the rate.

        It multiplies the decay by the rate, as it is with its factor.
        """
        factor = own.get("weight_decay_factor", 1.0)
        return (
            rate * own.get("weight_decay", -(factor**2)) if self._square_factors else own.get("weight_decay", -factor)
        )

    def _check_patterns(self, names: list[str]) -> None:
        for pattern in self._groups:
            if not fnmatch.filter(names, pattern):
                raise ValueError(
                    f"{type(self).__name__}: groups has {pattern!r}, which matches none of the parameters "
                    f"{', '.join(names) or '(none)'}{did_you_mean(pattern, names)}"
                )

    def _options_changed(self) -> None:
        """Prepare anew before the next step; until then, the segments are all parameters if that is simple."""
        plain = not (self._groups or self.l1 or self.l2 or self.max_norm)
        self._fix(segments=everything()[: int(plain)])
        self._prepared = None
        self.raise_version()

    @property
    def state(self) -> NDArray[Any]:
        return self._state

    @state.setter
    def state(self, state: NDArray[Any]) -> None:
        owner, now = type(self).__name__, self._state
        state = as_floats(state, now.dtype if len(now) else None, owner, "state")
        if state.ndim != 2:
            raise ValueError(f"{owner}: state must be (vectors, parameters), got shape {state.shape}")
        if len(now) and state.shape[1] != now.shape[1]:
            raise ValueError(f"{owner}: state has shape {now.shape}, got values of shape {state.shape}")
        if state.shape == now.shape:
            now[...] = state
        else:
            self._state, self._network = np.array(state, order="C"), None
            self._options_changed()

    @property
    def count(self) -> NDArray[np.int64]:
        return self._count

    @count.setter
    def count(self, count: NDArray[np.int64]) -> None:
        owner, values = type(self).__name__, as_real(count, type(self).__name__, "count")
        if values.dtype.kind not in "iu" or values.shape != (2,) or values.min() < 0 or values.max() >= 1 << 63:
            raise ValueError(f"{owner}: count must be two integers, not negative, got {count!r}")
        self._count[...] = values

    @property
    def epochs(self) -> int:
        """How many `fit` has finished."""
        return self._epochs

    @epochs.setter
    def epochs(self, value: int) -> None:
        self._epochs = positive_int(value, type(self).__name__, "epochs", or_zero=True)

    @property
    def groups(self) -> Mapping[str, Mapping[str, Any]]:
        """Options of some parameters, to be read; assign another dict to change them."""
        change = self.lr / self._groups_lr
        return MappingProxyType(
            {
                pattern: MappingProxyType(
                    {what: value * change if what == "lr" else value for what, value in options.items()}
                )
                for pattern, options in self._groups.items()
            }
        )

    @groups.setter
    def groups(self, groups: Mapping[str, Mapping[str, Any]] | None) -> None:
        owner, checked_groups = type(self).__name__, {}
        for pattern, options in (checked_dict(groups, owner, "groups") if groups is not None else {}).items():
            for what in checked_dict(options, owner, f"groups[{pattern!r}]"):
                if what not in self._group_options:
                    known = ", ".join(self._group_options)
                    near = did_you_mean(what, self._group_options)
                    raise ValueError(f"{owner}: groups have the options {known}, not {what!r}{near}")
            for what, factor in FACTORS.items():
                if {what, factor} <= options.keys():
                    raise ValueError(f"{owner}: groups[{pattern!r}] has {what!r} and {factor!r}; give one of them")
            checked_groups[pattern] = {what: checked(value, what, owner) for what, value in options.items()}
        self._groups, self._groups_lr = checked_groups, self.lr
        self._options_changed()

    @property
    def penalize_bias(self) -> bool:
        return self._penalize_bias

    @penalize_bias.setter
    def penalize_bias(self, value: bool) -> None:
        self._penalize_bias = flag(value, type(self).__name__, "penalize_bias")
        self._options_changed()

    @property
    def average(self) -> float | None:
        """The decay of the moving average; it can be set or removed only before the first step."""
        return float(self.hyper[update_kernels.AVERAGE]) or None

    @average.setter
    def average(self, average: float | None) -> None:
        owner = type(self).__name__
        if average is not None and positive_number(average, owner, "average") >= 1:
            raise ValueError(f"{owner}: average must be less than 1, got {average}")
        if (average is None) != (self.average is None):
            self._refuse_after_steps("whether there is an average", "it is one of all steps")
        self.hyper[update_kernels.AVERAGE] = average or 0.0
        self._state = self._state if self.count[0] else self._state[:0]
        self._options_changed()

    @property
    def average_params(self) -> NDArray[Any] | None:
        """The moving average of all parameters, (p,); None before the first step and without one."""
        return self.state[-1] if self.average and self.count[0] else None

    @property
    def schedule(self) -> Schedule | ReduceLROnPlateau | None:
        return self._schedule

    @schedule.setter
    def schedule(self, schedule: Schedule | ReduceLROnPlateau | None) -> None:
        if not isinstance(schedule, (Schedule, ReduceLROnPlateau, type(None))):
            raise TypeError(
                f"{type(self).__name__}: schedule must be an object such as StepLR(100) or None, got {schedule!r}"
            )
        self._schedule, self._plateau, self._first_lr = schedule, None, None
        self._write_schedules()

    @property
    def schedules(self) -> Mapping[str, Schedule]:
        """Of other options than the learning rate, to be read; assign another dict to change them."""
        return MappingProxyType(dict(self._schedules))

    @schedules.setter
    def schedules(self, given: Mapping[str, Schedule] | None) -> None:
        owner, given = (
            type(self).__name__,
            {} if given is None else checked_dict(given, type(self).__name__, "schedules"),
        )
        for what, one in given.items():
            if what == "lr":
                raise ValueError(f"{owner}: the schedule of lr is schedule={one!r}, not one of schedules")
            if what not in SCHEDULED:
                known, near = ", ".join(SCHEDULED), did_you_mean(what, SCHEDULED)
                raise ValueError(f"{owner}: schedules are for {known}, not {what!r}{near}")
            if not isinstance(one, Schedule):
                raise TypeError(
                    f"{owner}: schedules[{what!r}] must be an object such as FlatCosineLR(100), got {one!r}"
                )
        self._schedules = dict(given)
        self._write_schedules()

    def _write_schedules(self) -> None:
        """Tell the kernel of all schedules. What it knows of epochs stays, and so do the numbers of the options."""
        hyper = np.zeros(update_kernels.N_HYPERPARAMETERS)
        known = update_kernels.DECAY_SCHEDULE
        hyper[:known] = self.hyper[:known]
        hyper[schedules.SCHEDULE : schedules.STEPS_PER_EPOCH] = 0.0
        if isinstance(self._schedule, Schedule):
            hyper = self._schedule.write(hyper)
        for what, one in self._schedules.items():
            hyper[SCHEDULED[what]] = len(hyper)
            hyper = np.concatenate([hyper, one.numbers(1.0)])
        self._fix(hyper=hyper)
        self._options_changed()

    @property
    def square_factors(self) -> bool:
        return self._square_factors

    @square_factors.setter
    def square_factors(self, value: bool) -> None:
        before, self._square_factors = self._square_factors, flag(value, type(self).__name__, "square_factors")
        try:
            self._check_options()
        except ValueError:
            self._square_factors = before
            raise
        self._options_changed()

    @property
    def current_lr(self) -> float:
        """The learning rate of the next step: `lr`, as the schedule changes it."""
        return self._scheduled(0)

    @property
    def current_shares(self) -> dict[str, float]:
        """What `schedules` multiply their options by in the next step."""
        return {what: self._scheduled(int(self.hyper[SCHEDULED[what]])) for what in self._schedules}

    def _scheduled(self, first: int) -> float:
        return float(schedules.scheduled_rate(None, self.hyper, first, 1.0, float(self.count[0])))

    @property
    def steps_per_epoch(self) -> int:
        """Updates in an epoch, for a schedule that counts epochs; 0 if that is not known. `fit` assigns it."""
        return int(self.hyper[schedules.STEPS_PER_EPOCH])

    @steps_per_epoch.setter
    def steps_per_epoch(self, value: int) -> None:
        value, now = positive_int(value, type(self).__name__, "steps_per_epoch"), float(self.count[0])
        if value != self.steps_per_epoch:
            # epochs of another length from now on
            done = schedules.epochs(self.hyper, now) if self.steps_per_epoch else 0.0
            self.hyper[[schedules.EPOCHS, schedules.SINCE, schedules.STEPS_PER_EPOCH]] = done, now, value

    def epoch_end(self, loss: float) -> None:
        """An epoch with this loss is over: ReduceLROnPlateau may change `lr`. `fit` calls this."""
        if isinstance(self._schedule, ReduceLROnPlateau):
            self._first_lr = self.lr if self._plateau is None else self._first_lr
            self.lr, self._plateau = self._schedule.reduced(self.lr, float(loss), self._plateau)

    def watched_column(self, columns: Sequence[str]) -> str:
        """The one of these columns of a history whose values `epoch_end` takes; an error if it is missing."""
        plateau = self._schedule if isinstance(self._schedule, ReduceLROnPlateau) else ReduceLROnPlateau()
        return plateau.column(columns)

    def measure(self, network: Layer) -> None:
        """Note the sizes of the network that decide how many vectors are remembered."""

    def check_loss(self, loss: Any) -> None:
        """Raise if this optimizer can't minimise such a loss."""
        parts = getattr(loss, "losses", (loss,))
        if "label_smoothing" in self._schedules and not any(hasattr(part, "label_smoothing") for part in parts):
            raise ValueError(
                f"{type(self).__name__}: schedules has 'label_smoothing', but {loss} has none; remove it, or use "
                "CrossEntropyLoss(label_smoothing=0.1)"
            )

    def generator(self, seed: int | np.random.Generator | None) -> np.random.Generator:
        """The generator of a fit's orders of samples: with the same number as in the fit before, that fit's."""
        if self._generator is None or not isinstance(seed, int | np.integer) or self._seed != seed:
            self._seed, self._generator = seed, as_generator(seed, "fit")
        return self._generator

    def option_as_given(self, name: str) -> Any:
        """An option as it was assigned: rates of groups are in proportion to the `lr` of that time."""
        return self._groups if name == "groups" else self._groups_lr if name == "lr" else getattr(self, name)

    def fit_state(self) -> dict[str, Any]:
        """What `fit` remembers beside the vectors: of ReduceLROnPlateau, and of the order of samples."""
        state: dict[str, Any] = {"plateau": self._plateau, "first_lr": self._first_lr}
        if isinstance(self._seed, Integral) and self._generator is not None:
            state |= {"seed": int(self._seed), "generator": self._generator.bit_generator.state}
        return state

    def restore_fit_state(
        self, plateau: Seen | None, first_lr: float | None, seed: int | None = None, generator: Any = None
    ) -> None:
        """Go on from what `fit_state` gave."""
        self._plateau, self._first_lr = plateau, first_lr
        if seed is not None:
            self.generator(seed).bit_generator.state = generator

    @property
    def n_vectors(self) -> int:
        """How many vectors are remembered."""
        return self._rule_rows + (self.average is not None)

    @property
    def _rule_rows(self) -> int:
        return rules.rows_of(self.code)

    @property
    def _optional_kernel(self) -> native.CompiledKernel | None:
        """What the kernels need for this optimizer and not for every one."""
        return rules.kernel_of(self.code)

    @property
    def _handle(self) -> tuple[Any, ...]:
        """What we are in nopython code, see nopython.OptimizerType."""
        self.load(update_kernels.update.loaded_types())  # the code that takes us has loaded those
        home = 0  # where the parameters of our network are, if it may not be another one
        if self._network is not None and self._remembers and self.count[0]:
            network = self._network()
            home = -1 if network is None else network.params.ctypes.data
        return self.code, self.hyper, self.segments, self.state, self.count, home

    @property
    def _remembers(self) -> bool:
        """Whether later steps depend on earlier ones."""
        return self.n_vectors > 0 or self._schedule is not None or bool(self._schedules)

    def __getstate__(self) -> dict[str, Any]:
        # they are those of one network object
        return {
            key: value
            for key, value in vars(self).items()
            if key not in ("version", "segments", "_prepared", "_network")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._write_schedules()  # version 0.2.0 had fewer numbers

    def __repr__(self) -> str:
        numbers = {name: getattr(self, name) for name in self._names}
        options = {name: getattr(self, name) for name in (*self._optional, *Options.__annotations__)}
        options["groups"] = {pattern: dict(own) for pattern, own in self.groups.items()}
        options["schedules"] = dict(self._schedules)
        shown = numbers | {name: value for name, value in options.items() if value}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def has_dropout(layer: Layer) -> bool:
    parts = layer.layers if isinstance(layer, Container) else ()
    return isinstance(layer, Dropout) or any(map(has_dropout, parts))


def checked(value: Any, what: str, owner: str) -> Any:
    """The value of an option of a group, or an error."""
    if what == "frozen":
        return flag(value, owner, what)
    if what == "max_norm":
        return None if value is None else positive_number(value, owner, what)
    return positive_number(value, owner, what, or_zero=what not in ("lr", "lr_factor"))


def checked_dict(value: Any, owner: str, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{owner}: {what} must be a dict with strings as keys, got {value!r}")
    return value
