"""`Ensemble`: networks of one shape that train and predict together, their parameters the rows of one matrix."""

from __future__ import annotations

import copy
import inspect
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numba.core.typing.typeof import typeof_impl
from numpy.typing import ArrayLike, NDArray

from fastfc import kernels
from fastfc.attributes import Versioned
from fastfc.kernels.program.table import Header
from fastfc.kernels.runtime import threads
from fastfc.kernels.runtime.arrays import describe
from fastfc.losses.base import Loss
from fastfc.models.network import Network
from fastfc.nn.activations import LogSigmoid, LogSoftmax, Sigmoid, Softmax
from fastfc.nn.container import ENSEMBLES
from fastfc.nn.dropout import Dropout
from fastfc.nn.layer import Layer, aligned_rows, assign_matrix, run_members
from fastfc.nopython import type_of_ensemble
from fastfc.optim.base import Optimizer
from fastfc.ranks import OUTPUTS, Ranks, digest, ranks_of
from fastfc.training import ensemble as training
from fastfc.training.history import History
from fastfc.training.outputs import link_of, outputs_of
from fastfc.validation import as_real, choice, listed, positive_int

# How outputs become what is averaged; "gaussian" are means and, behind them, variances.
LINKS = ("identity", "softmax", "sigmoid", "exp", "gaussian")
LAYERS: dict[str, Layer] = {"softmax": Softmax(), "sigmoid": Sigmoid()}
MOST_BYTES = 1 << 26  # of all members' outputs that are in memory at a time, where not all are asked for


class Ensemble(Versioned):
    """Networks of one shape that are trained, and predict, in one native call for all of them.

    `params` is a matrix with a row for each member. `team[k]` is a plain network whose parameters are row k: it can
    do all that networks can, and what changes it changes the row. A member's training has the bits that its network
    has alone, for any number of threads.

    Parameters
    ----------
    make : callable
        Makes a member: `make(seed)` or `make()`. A parameter named `seed`, or else the first one without a default,
        gets seed + k for member k.
    n_members : int
    seed : int
    loss : Loss, optional
        What the outputs mean until `fit` says it; see `link`.
    n_threads : int or "auto"
        At most this many threads, over which members are spread; an attribute too.

    Attributes
    ----------
    members : tuple of networks
    params, grads : (k, p) arrays
    buffers : (k, b) array
        Assigning to these copies the values into place.
    optimizers : tuple of Optimizer
        Of the latest `fit`, one for each member; empty before.
    history : History
        Of the latest `fit`; `team[k].history` is that of a member.
    left_out : frozenset of int
        Members that diverged in the latest `fit`: predictions are without them, until `copy_member` makes them anew.
    link : tuple of str
        For each output how it becomes what `predict` averages: "softmax" and "sigmoid" of logits, "exp" of
        log-probabilities and of the logarithms of rates, "gaussian" for means and variances, and "identity". `fit` sets
        it by the loss: CrossEntropyLoss takes logits, so probabilities are averaged.

    Raises
    ------
    TypeError, ValueError
        Naming the member, if it is not a network, has another shape than the first, or belongs to another ensemble.

    References
    ----------
    B. Lakshminarayanan, A. Pritzel, C. Blundell, "Simple and scalable predictive uncertainty estimation using deep
    ensembles", NeurIPS 2017.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> x = np.linspace(-1, 1, 60)[:, None]
    >>> team = fc.Ensemble(lambda seed: fc.MLP([1, 16, 1], "tanh", seed=seed), 8)
    >>> history = team.fit(x, np.sin(3 * x), loss=fc.MSELoss(), optimizer=fc.Adam(0.02), epochs=60, seed=0)
    >>> mean, std = team.predict([[0.5], [4.0]], return_std=True)
    >>> mean.shape, bool(std[1, 0] > std[0, 0])
    ((2, 1), True)
    >>> team.params.shape, bool(np.shares_memory(team[3].params, team.params))
    ((8, 49), True)
    """

    members: tuple[Any, ...]
    optimizers: tuple[Optimizer, ...]
    left_out: frozenset[int]

    _fixed: ClassVar[Mapping[str, str]] = {
        "members": "the matrix is made of theirs; make a new one, such as Ensemble.of([*team.members, net])",
        "optimizers": "fit makes them; change their options, or give fit others",
        "left_out": "it is what fit has seen; copy_member(i, j) makes member j anew",
    }
    _internal = frozenset(
        {"average", "begin_fit", "changed", "forget", "frozen", "kept", "leave_out", "network", "optimizers_for"}
        | {"outputs", "restore", "settings", "vectors"}
    )
    _given: Any = None  # the optimizer that those of the members are copies of, and its numbers then
    _programs: tuple[Any, ...] | None = None  # of the members, for predictions, see programs
    frozen = False  # as an owner of layers

    fit = training.fit

    evaluate = training.evaluate

    def __init__(
        self,
        make: Callable[..., Any],
        n_members: int,
        *,
        seed: int = 0,
        loss: Loss | None = None,
        n_threads: int | str = threads.AUTO,
    ) -> None:
        n_members = positive_int(n_members, "Ensemble", "n_members")
        seed = positive_int(seed, "Ensemble", "seed", or_zero=True)
        if not callable(make) or isinstance(make, Layer):
            raise TypeError(
                f"Ensemble: make must be a function such as lambda seed: MLP([4, 8, 2], seed=seed), got {make!r}; "
                "Ensemble.of([net, …]) takes networks"
            )
        call = with_seed(make)
        self._adopt([call(seed + k) for k in range(n_members)], loss, n_threads)

    @classmethod
    def of(cls, networks: Iterable[Any], *, loss: Loss | None = None, n_threads: int | str = threads.AUTO) -> Ensemble:
        """An ensemble of these networks, which become its members: their parameters are rows of its matrix.

        Examples
        --------
        >>> import fastfc as fc
        >>> nets = [fc.MLP([2, 3], seed=seed) for seed in range(4)]
        >>> team = fc.Ensemble.of(nets, loss=fc.CrossEntropyLoss())
        >>> team[2] is nets[2], team.link
        (True, ('softmax',))
        """
        team = cls.__new__(cls)
        team._adopt(listed(networks, "Ensemble.of", "networks", "[net, other]"), loss, n_threads)
        return team

    def _adopt(self, networks: Sequence[Any], loss: Loss | None, n_threads: int | str) -> None:
        check_members(networks)
        self._fix(members=tuple(networks), optimizers=(), left_out=frozenset())
        self._n_threads = threads.check_n_threads(n_threads, "Ensemble")
        self._history = History()
        first = networks[0]
        p, b = first.params.size, first.buffers.size
        self._vectors = aligned_rows(len(networks), p + b, first.dtype)
        self._grads = aligned_rows(len(networks), p, first.dtype)
        for network, vector, grads in zip(networks, self._vectors, self._grads, strict=True):
            vector[:p], vector[p:], grads[:] = network.params, network.buffers, network.grads
            network.bind(vector, grads, b, weakref.ref(self))
        if loss is not None:
            training.check_loss(loss)
            self._link = tuple(map(link_of, outputs_of(first, loss)))
        else:
            logs = LogSoftmax | LogSigmoid
            self._link = tuple("exp" if isinstance(last, logs) else "identity" for last in first.last_layers())

    # as the owner of the members' layers

    def network(self) -> None:
        """The network that we are part of: none."""

    def forget(self) -> None:
        """Forget what is derived from the members' options."""
        self._programs = None
        self.raise_version()

    def changed(self) -> None:
        self.forget()

    # arrays

    def vectors(self) -> NDArray[Any]:
        """Parameters and buffers of all members, as the kernels take them."""
        return self._vectors

    @property
    def params(self) -> NDArray[Any]:
        return self._vectors[:, : self._grads.shape[1]]

    @params.setter
    def params(self, values: ArrayLike) -> None:
        assign_matrix(self, "params", values, self.params)

    @property
    def grads(self) -> NDArray[Any]:
        return self._grads

    @grads.setter
    def grads(self, values: ArrayLike) -> None:
        assign_matrix(self, "grads", values, self._grads)

    @property
    def buffers(self) -> NDArray[Any]:
        return self._vectors[:, self._grads.shape[1] :]

    @buffers.setter
    def buffers(self, values: ArrayLike) -> None:
        assign_matrix(self, "buffers", values, self.buffers)

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64"""
        return self._vectors.dtype

    @property
    def n_threads(self) -> int | str:
        return self._n_threads

    @n_threads.setter
    def n_threads(self, value: int | str) -> None:
        self._n_threads = threads.check_n_threads(value, self)

    @property
    def history(self) -> History:
        return self._history

    @history.setter
    def history(self, value: History) -> None:
        if not isinstance(value, History):
            raise TypeError(f"{self}: history must be a History, got {value!r}")
        self._history = value

    @property
    def link(self) -> tuple[str, ...]:
        return self._link

    @link.setter
    def link(self, link: str | Sequence[str]) -> None:
        widths = self.members[0].output_widths()
        links = [link] * len(widths) if isinstance(link, str) else listed(link, self, "link", "['softmax']")
        if len(links) != len(widths):
            raise ValueError(f"{self}: link has {len(links)} items for {len(widths)} outputs; give one for each")
        checked = tuple(choice(one, "Ensemble", "link", LINKS) for one in links)
        for one, width in zip(checked, widths, strict=True):
            if one == "gaussian" and width % 2:
                raise ValueError(f"{self}: link 'gaussian' is for means and variances; an output has {width} columns")
        self._link = checked

    # members

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.members)

    def __getitem__(self, index: int | slice) -> Any:
        return self.members[index]

    def kept(self) -> list[int]:
        """The members that predictions are of."""
        kept = [k for k in range(len(self.members)) if k not in self.left_out]
        if not kept:
            raise ValueError(f"{self}: all members have diverged; fit again, with a smaller lr")
        return kept

    def leave_out(self, members: Iterable[int]) -> None:
        self._fix(left_out=self.left_out.union(members))

    def begin_fit(self, optimizers: tuple[Optimizer, ...], given: Any, link: tuple[str, ...], history: History) -> None:
        """Keep what a `fit` is with; nobody has diverged yet."""
        self._fix(optimizers=optimizers, left_out=frozenset())
        self._given = (given, given.hyper.copy()) if isinstance(given, Optimizer) else None
        self._link, self._history = link, history

    def optimizers_for(self, optimizer: Any) -> list[Any]:
        """The optimizers of a `fit` that is given this one, or one for each member."""
        if isinstance(optimizer, Optimizer):
            if self._given is None or optimizer is not self._given[0]:
                return [copy.deepcopy(optimizer) for _ in self.members]
            if not np.array_equal(optimizer.hyper, self._given[1]):
                raise ValueError(
                    "fit: options of the optimizer have changed since the fit before, in which every member got a copy "
                    "of it; change those of team.optimizers, or make a new optimizer to begin anew"
                )
            return list(self.optimizers)
        what = "[Adam(1e-3), Adam(1e-2)], or one for all members"
        optimizers = listed(optimizer, "fit", "optimizer", what)
        if len(optimizers) != len(self.members):
            raise ValueError(
                f"fit: {len(optimizers)} optimizers for {len(self.members)} members; give one for each, or one for all"
            )
        for k, own in enumerate(optimizers):
            if any(own is other for other in optimizers[:k]):
                raise ValueError(
                    f"fit: optimizer {k} is duplicated; give each member its own, copy.deepcopy(optimizer)"
                )
        return optimizers

    def copy_member(self, source: int, target: int) -> None:
        """Make member `target` a copy of member `source`: parameters, buffers, and its optimizer with all it remembers.

        For population-based training: replace the worst by the best, and then change its options. The order of samples
        and the streams of Dropout stay the target's own. A target that was left out is with the others again.

        Examples
        --------
        >>> import fastfc as fc
        >>> team = fc.Ensemble(lambda seed: fc.MLP([2, 1], seed=seed), 3)
        >>> team.copy_member(0, 2)
        >>> bool((team.params[2] == team.params[0]).all())
        True
        """
        source, target = (self._number(k, what) for k, what in ((source, "source"), (target, "target")))
        if source == target:
            return
        self._vectors[target] = self._vectors[source]
        if self.optimizers:
            optimizers = list(self.optimizers)
            order = {
                key: value for key, value in optimizers[target].fit_state().items() if key in ("seed", "generator")
            }
            optimizers[target] = copy.deepcopy(optimizers[source])
            optimizers[target].restore_fit_state(**optimizers[source].fit_state() | order)
            self._fix(optimizers=tuple(optimizers))
        self._fix(left_out=self.left_out - {target} | ({target} if source in self.left_out else set()))

    def restore(self, optimizers: tuple[Optimizer, ...], left_out: frozenset[int]) -> None:
        """Have what a file says of the latest `fit`."""
        self._fix(optimizers=optimizers, left_out=left_out)

    def _number(self, k: Any, what: str) -> int:
        number = range(len(self.members))
        try:
            if isinstance(k, bool):
                raise TypeError
            return number[k]
        except (TypeError, IndexError):
            raise IndexError(
                f"{self}: {what} must be the number of a member, 0 to {len(self) - 1}, got {k!r}"
            ) from None

    # predictions

    def predict(
        self,
        x: Any,
        *,
        return_std: bool = False,
        quantiles: Any = None,
        members: bool | Sequence[int] = False,
        comm: Any = None,
    ) -> Any:
        """The mean over the members of what their outputs stand for, as `link` says: of logits, probabilities.

        Members that diverged in the latest `fit` are left out. Means and variances of GaussianNLLLoss become those of
        the mixture. Several outputs are tuples.

        Parameters
        ----------
        x : (n, in_features) or (in_features,) array of real numbers
        return_std : bool
            Whether to give the standard deviation over the members too.
        quantiles : float or sequence of floats, optional
            Instead of the mean, these quantiles over the members, from 0 to 1.
        members : bool or sequence of int
            Instead of the mean, what all members give, or these.
        comm : mpi4py.MPI.Comm, optional
            Each rank, all of which give the same x, computes a part of the rows, and gets all of them.

        Returns
        -------
        (n, out_features) array
            With return_std (mean, std); with quantiles (q, n, out_features), without the first axis for one number;
            with members (m, n, out_features).

        Raises
        ------
        TypeError, ValueError
            For x, quantiles or members that do not fit.

        Examples
        --------
        >>> import fastfc as fc
        >>> nets = [fc.MLP([1, 2], init="zeros") for _ in range(2)]
        >>> nets[0][0].bias, nets[1][0].bias = [100, 0], [0, 0]
        >>> team = fc.Ensemble.of(nets, loss=fc.CrossEntropyLoss())
        >>> team.predict([[0.0]])
        array([[0.75, 0.25]], dtype=float32)
        >>> team.predict([[0.0]], members=True)[:, 0]
        array([[1. , 0. ],
               [0.5, 0.5]], dtype=float32)
        """
        wanted = members, return_std, quantiles
        ranks = ranks_of(comm, "same", None, "predict")
        if ranks is None:
            return self._predict(x, *wanted, None)
        with ranks.together("predict"):
            return self._predict(x, *wanted, ranks)

    def _predict(self, x: Any, members: Any, return_std: bool, quantiles: Any, ranks: Ranks | None) -> Any:
        self.members[0].check_names(x)
        rows, chosen, levels = self.members[0].join(x), self._chosen(members), as_levels(quantiles)
        if members is not False and (return_std or levels is not None):
            raise ValueError(f"{self}: predict: members gives each member's prediction, without std and quantiles")
        single = rows.ndim == 1
        rows = rows[None] if single else rows

        def found(rows: NDArray[Any]) -> list[NDArray[Any]]:
            if members is not False:
                return [self.linked(self.outputs(rows, chosen))]
            return self._summarise(rows, chosen, return_std, levels)

        if ranks is not None:
            ranks.compare(self.settings() | {"the number of rows": str(len(rows)), "members": str(chosen)})
        if ranks is None or single or self.members[0].program_for(rows).whole:
            result = found(rows)
        else:
            own = found(rows[ranks.share(len(rows))])
            result = [np.moveaxis(ranks.gather(np.moveaxis(part, -2, 0), OUTPUTS), 0, -2) for part in own]
        if levels is not None and np.ndim(quantiles) == 0:
            result[0] = result[0][0]
        parts = [self.members[0].split_output(part[..., 0, :] if single else part) for part in result]
        return tuple(parts) if return_std else parts[0]

    def settings(self) -> dict[str, str]:
        """What must be the same on ranks that predict together, by name and as text."""
        return {"the digest of the parameters": digest(self.params, self.buffers), "the link": str(self._link)}

    def _summarise(self, x: NDArray[Any], chosen: list[int], std: bool, levels: Any) -> list[NDArray[Any]]:
        """Mean or quantiles, and the standard deviation if wanted, by blocks of rows."""
        widths = self.members[0].output_widths()
        program = self.members[0].program_for(x)
        rows = max(1, MOST_BYTES // (len(chosen) * max(sum(widths), 1) * x.itemsize))
        rows = max(len(x), 1) if program.table[0, Header.WHOLE] else rows
        blocks = []
        for start in range(0, max(len(x), 1), rows):
            linked = self.linked(self.outputs(x[start : start + rows], chosen))
            mean = self.mean(linked)
            found = mean if levels is None else np.quantile(linked, levels, axis=0).astype(x.dtype)
            blocks.append([found, spread(linked)] if std else [found])
        return [np.concatenate(parts, axis=-2) for parts in zip(*blocks, strict=True)]

    def _chosen(self, members: Any) -> list[int]:
        if members is False:
            return self.kept()
        if members is True:
            return list(range(len(self)))
        return [self._number(k, "members") for k in listed(members, self, "members", "[0, 3]")]

    def outputs(self, x: NDArray[Any], members: Sequence[int]) -> NDArray[Any]:
        """What these members' networks give, (m, n, o)."""
        program = self.members[0].program_for(x)
        everybody = list(members) == list(range(len(self.members)))
        vectors = self._vectors if everybody else self._vectors[list(members)]
        programs = self._described(x)
        out = np.empty((len(members), len(x), program.outputs), x.dtype)
        n_threads = threads.prepare_threads(self._n_threads, program.work(len(x)) * len(members))
        flat = out.reshape(len(members) * len(x), program.outputs)
        run_members(self, program, vectors, programs[list(members)], x, flat, n_threads)
        return out

    def _described(self, x: NDArray[Any]) -> NDArray[np.int64]:
        """The members' programs for this input, by address; they are kept alive here."""
        if self._programs is None or self._programs[0] != x.shape[1]:
            tables = [network.program_for(x).table for network in self.members]
            self._programs = x.shape[1], np.array([describe(table) for table in tables], np.int64), tables
        described: NDArray[np.int64] = self._programs[1]
        return described

    def linked(self, outputs: NDArray[Any], link: Sequence[str] | None = None) -> NDArray[Any]:
        """What (m, n, o) outputs stand for, by their link."""
        links = self._link if link is None else link
        if all(one in ("identity", "gaussian") for one in links):
            return outputs
        result, first = np.empty_like(outputs), 0
        for one, width in zip(links, self.members[0].output_widths(), strict=True):
            part, rows = outputs[..., first : first + width], outputs.shape[0] * outputs.shape[1]
            if one in LAYERS:
                part = LAYERS[one].predict(np.ascontiguousarray(part).reshape(rows, width)).reshape(part.shape)
            elif one == "exp":
                part = np.exp(np.ascontiguousarray(part))
            result[..., first : first + width] = part
            first += width
        return result

    def average(self, outputs: NDArray[Any], link: Sequence[str] | None = None) -> NDArray[Any]:
        """The mean (n, o) of what (m, n, o) outputs stand for."""
        return self.mean(self.linked(outputs, link), link)

    def mean(self, linked: NDArray[Any], link: Sequence[str] | None = None) -> NDArray[Any]:
        """The mean over members; of means and variances those of the mixture: v = mean(v + m²) − mean(m)²."""
        result, first = mean_of(linked), 0
        for one, width in zip(self._link if link is None else link, self.members[0].output_widths(), strict=True):
            if one == "gaussian":
                middle = first + width // 2
                between = spread(linked[..., first:middle])
                result[..., middle : first + width] += between * between
            first += width
        return result

    def predict_one(self, k: int, x: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """`team[k].predict_one(x, out)`: the output of member k for one sample, in `@njit` functions too.

        Examples
        --------
        >>> import numpy as np, fastfc as fc
        >>> team = fc.Ensemble(lambda seed: fc.MLP([2, 1], init="zeros"), 2)
        >>> team.predict_one(1, np.ones(2, np.float32))
        array([0.], dtype=float32)
        """
        result: NDArray[Any] = self.members[self._number(k, "k")].predict_one(x, out)
        return result

    @property
    def _handle(self) -> tuple[Any, ...]:
        """What we are in nopython code, see nopython.EnsembleType."""
        return self._vectors, self._described(np.zeros((0, self.members[0].in_features or 0), self.dtype))

    def save(self, path: str | os.PathLike[str], *, metadata: Mapping[str, Any] | None = None) -> None:
        """Write everything to one safetensors file, for `load`. Needs `fastfc[safetensors]`.

        That is what a network's `save` writes, for each member, and the optimizers. After `team = fc.load(path)`,
        `team.fit(…, optimizer=team.optimizers)` with the same data, settings and seed goes on as if it had never
        stopped.

        Parameters
        ----------
        path : str or path-like
        metadata : dict, optional
            Notes of your own, which `load_checkpoint` gives.

        Raises
        ------
        TypeError
            If a layer, an optimizer or the metadata can't be stored, as an Elementwise, which is code.

        Examples
        --------
        >>> import fastfc as fc
        >>> team = fc.Ensemble(lambda seed: fc.MLP([2, 3], seed=seed), 4)
        >>> team.save("team.safetensors")
        >>> bool((fc.load("team.safetensors").params == team.params).all())
        True
        """
        from fastfc.io import checkpoint as files

        files.save_ensemble(self, path, metadata)

    # what they are

    def summary(self) -> str:
        """The summary of a member, and how many there are."""
        first = self.members[0].summary()
        lines = [f"{len(self)} members, each of", first, f"{self.params.size:,} parameters of all members"]
        if self.left_out:
            lines.append(f"left out, as they diverged: {', '.join(map(str, sorted(self.left_out)))}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Ensemble of {len(self)} × {self.members[0]!r}"

    def __copy__(self) -> Ensemble:
        return copy.deepcopy(self)  # a shallow copy would share the members

    def __getstate__(self) -> dict[str, Any]:
        kept = ("members", "optimizers", "left_out", "_n_threads", "_history", "_link")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._adopt(state["members"], None, state["_n_threads"])
        self._fix(**state)


ENSEMBLES["Ensemble"] = Ensemble
typeof_impl.register(Ensemble)(type_of_ensemble)


def with_seed(make: Callable[..., Any]) -> Callable[[int], Any]:
    """`make` as a function of a seed, which it may have no use for."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # a builtin
        return make
    if any(p.name == "seed" and p.kind != p.POSITIONAL_ONLY for p in parameters):
        return lambda seed: make(seed=seed)
    needed = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return make if needed else lambda seed: make()


def check_members(networks: Sequence[Any]) -> None:
    """Raise unless these networks can be rows of one matrix."""
    if not networks:
        raise ValueError("Ensemble: give at least one network")
    for k, network in enumerate(networks):
        if not isinstance(network, Network):
            raise TypeError(f"Ensemble: member {k} must be a network such as MLP([4, 8, 2]), got {network!r}")
        if any(network is other for other in networks[:k]):
            raise ValueError(f"Ensemble: member {k} is duplicated; make another one, copy.deepcopy(net)")
        if network.network() is not None:
            raise ValueError(f"Ensemble: member {k}, {network}, is in an ensemble or a network; copy.deepcopy(net)")
        if network.dtype is None:
            raise ValueError(f"Ensemble: member {k}, {network}, has no parameters")
        difference = difference_of(networks[0], network)
        if difference:
            raise ValueError(f"Ensemble: member {k} differs from member 0: {difference}; members have one shape")


def difference_of(first: Any, other: Any) -> str:
    """What is not the same in two networks, as text; Dropout may drop other parts."""
    if first.dtype != other.dtype:
        return f"it is {other.dtype}, not {first.dtype}"
    if type(first) is not type(other):
        return f"it is a {type(other).__name__}, not a {type(first).__name__}"
    if len(first.layers) != len(other.layers):
        return f"it has {len(other.layers)} layers, not {len(first.layers)}"
    for i, (a, b) in enumerate(zip(first.layers, other.layers, strict=True)):
        if isinstance(a, Network) and isinstance(b, Network):
            within = difference_of(a, b)
            if within:
                return f"in layer {i}, {within}"
        elif type(a) is not type(b) or (not isinstance(a, Dropout) and repr(a) != repr(b)):
            return f"layer {i} is {b!r}, not {a!r}"
        shapes = [[(n.rpartition(".")[2], p.shape) for n, p, _ in layer.named_parameters()] for layer in (a, b)]
        if shapes[0] != shapes[1] or a.buffers.size != b.buffers.size:
            return f"layer {i}, {b!r}, has parameters of shapes {shapes[1]}, not {shapes[0]}"
    if first.output_widths() != other.output_widths() or connections(first) != connections(other):
        return "its nodes are connected in another way"
    return ""


def connections(network: Any) -> list[Any]:
    """What each node of a graph does and reads, by number."""
    nodes = list(getattr(network, "nodes", ()))
    number, layers = {node: i for i, node in enumerate(nodes)}, list(network.layers)
    return [
        (
            node.width,
            layers.index(node.what) if isinstance(node.what, Layer) else node.what,
            node.factor,
            [number[other] for other in node.inputs],
        )
        for node in nodes
    ]


def as_levels(quantiles: Any) -> NDArray[np.float64] | None:
    if quantiles is None:
        return None
    levels = np.atleast_1d(as_real(quantiles, "predict", "quantiles")).astype(np.float64)
    if levels.ndim != 1 or not levels.size or not ((levels >= 0) & (levels <= 1)).all():
        raise ValueError(f"predict: quantiles must be numbers from 0 to 1, got {quantiles!r}")
    return levels


def mean_of(values: NDArray[Any]) -> NDArray[Any]:
    """The mean over the first axis.

    A product with ones, whose sums are in the same order for any other axes: a row's bits do not depend on the others.
    """
    m, *shape = values.shape
    columns = values.reshape(m, -1)
    total = np.empty((columns.shape[1], 1), values.dtype)
    ones, zero = np.ones((m, 1), values.dtype), np.zeros(1, values.dtype)
    kernels.dense_forward(columns.T, ones, zero, total)
    return (total / values.dtype.type(m)).reshape(shape)


def spread(values: NDArray[Any]) -> NDArray[Any]:
    """The standard deviation over the first axis."""
    difference = values - mean_of(values)
    result: NDArray[Any] = np.sqrt(mean_of(difference * difference))
    return result
