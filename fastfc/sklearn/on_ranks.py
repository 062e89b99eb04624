"""`fit(comm=)` of the estimators: each rank of an MPI job trains a block of the networks, and all get all of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import check_random_state

from fastfc._version import __version__
from fastfc.ranks import ROWS, Ranks, digest, ranks_of
from fastfc.training.distributed import SAMPLED, named


def ranks_for(comm: Any, owner: str) -> Ranks:
    """The ranks of a fit; of one process without a communicator."""
    return ranks_of(comm, "same", None, owner) or Ranks(None, "same", 1)


def begin(ranks: Ranks, estimator: Any, **arrays: Any) -> None:
    """Raise unless all ranks fit the same estimator to the same samples, and draw as rank 0 does."""
    if ranks.size == 1:
        return
    settings = {"the version of fastfc": __version__, "the estimator": type(estimator).__name__}
    for name, value in estimator.get_params(deep=False).items():
        settings[name] = re.sub(r" at 0x[0-9a-f]+", "", repr(value))
        if name == "callbacks":
            settings[name] = ", ".join(map(named, value or ())) or "none"
        elif name == "random_state" and not isinstance(value, int | np.integer):
            settings[name] = type(value).__name__
    if hasattr(estimator, "network_"):
        settings["the digest of the parameters of the fit before"] = digest(estimator.network_.params)
    ranks.compare(settings | {name: described(array) for name, array in arrays.items()})
    draw_as_main(ranks, estimator)


def draw_as_main(ranks: Ranks, estimator: Any) -> None:
    """Let a generator of random numbers go on from where that of rank 0 is."""
    if ranks.size > 1 and not isinstance(estimator.random_state, int | np.integer):
        rng = check_random_state(estimator.random_state)
        rng.set_state(ranks.of_main(rng.get_state()))


def described(array: Any) -> str:
    """The shape of samples or targets and a digest of some of their numbers."""
    if array is None:
        return "none"
    try:
        values = np.asarray(array.data if issparse(array) else array)
    except (TypeError, ValueError):  # which is refused where it is used
        return "not an array"
    sampled = values.reshape(-1)[:: max(1, values.size // SAMPLED)]
    sampled = sampled.astype(str) if sampled.dtype.hasobject else sampled
    shape = array.shape if issparse(array) else values.shape
    return f"an array {shape} of {values.dtype} with the digest {digest(sampled)}"


def fitted_of(estimator: Any) -> dict[str, Any]:
    """What a fit leaves in an estimator of one network: all but its parameters."""
    given = {*estimator.get_params(deep=False), "_others"}
    return {name: value for name, value in vars(estimator).items() if name not in given}


def share(ranks: Ranks, estimators: Sequence[Any]) -> None:
    """Have all estimators as the ranks that fit them have them."""
    own = ranks.block(len(estimators))
    states = [state for part in ranks.collect([fitted_of(e) for e in estimators[own]], ROWS) for state in part]
    for k, (estimator, state) in enumerate(zip(estimators, states, strict=True)):
        if not own.start <= k < own.stop:
            for name in fitted_of(estimator):
                del vars(estimator)[name]
            vars(estimator).update(state)
