"""An ensemble's `fit` on the ranks of an MPI job: each trains a block of the members, and all get all of them.

Members need nothing of one another. After each epoch ranks exchange the rows of the history, by which they know who has
diverged; parameters and optimizers travel at the end, and before callbacks that see the whole ensemble.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastfc.nn.dropout import Dropout
from fastfc.ranks import EPOCH, ROWS, Ranks, digest, known_to_all
from fastfc.training.distributed import every_layer, named, settings_of
from fastfc.training.members import Member

TRAINED, DIVERGED = 1, 2


def settings_of_team(
    team: Any, optimizers: Sequence[Any], samples: Any, options: Any, weights: Any, ranks: Ranks
) -> dict[str, str]:
    """What must be the same on all ranks before the first step, by name and as text."""
    settings = settings_of(team[0], samples, optimizers[0], ranks)
    for k, (network, optimizer) in enumerate(zip(team, optimizers, strict=True)):
        settings[f"member {k}"] = f"{described(network)}, {network.dtype}"
        settings[f"the optimizer of member {k}"] = f"{optimizer!r} after {optimizer.count[0]} steps"
    settings["joint_callbacks"] = ", ".join(map(named, options.joint_callbacks)) or "none"
    settings["bootstrap"], subset, seed = repr(options.bootstrap), options.subset, options.shared.seed
    settings["subset"] = digest(*map(np.asarray, subset)) if np.iterable(subset) else repr(subset)
    settings["seed"] = "a generator" if isinstance(seed, np.random.Generator) else repr(seed)
    settings["sample_weight"] = (
        "shared" if weights is None else f"{len(weights)} rows with the digest {digest(weights)}"
    )
    return settings


def described(network: Any) -> str:
    """A network as text, with what is trained of it."""
    return (
        f"{network!r}, of which {', '.join(name for name, *_ in network.trained_parameters()) or 'nothing'} is trained"
    )


def state_of(member: Member) -> tuple[Any, ...]:
    """What a rank knows of a member beside the row of the matrix."""
    return (
        member.network.rng_step,
        [layer.seed for layer in every_layer(member.network) if isinstance(layer, Dropout)],
        member.optimizer.__getstate__(),
    )


def restore(member: Member, state: tuple[Any, ...]) -> None:
    """Have what another rank knows of it."""
    member.network.rng_step, seeds, optimizer = state
    dropouts = [layer for layer in every_layer(member.network) if isinstance(layer, Dropout)]
    for layer, seed in zip(dropouts, seeds, strict=True):
        if layer.seed != seed:
            layer.restore_seed(seed)
    member.optimizer.__setstate__(optimizer)


def take_from_main(ranks: Ranks, team: Any, members: Sequence[Member], seeds: Sequence[Any]) -> None:
    """Begin with what rank 0 has: parameters, buffers, seeds of dropout, optimizers, orders of samples."""
    if ranks.size == 1:
        return
    for member in members:
        member.optimizer.prepare(member.network)
    vectors, states = ranks.of_main((team.vectors(), [state_of(member) for member in members]))
    if not ranks.main:
        team.vectors()[...] = vectors
        for member, state in zip(members, states, strict=True):
            restore(member, state)
    for member, seed in zip(members, seeds, strict=True):
        member.rng = member.optimizer.generator(seed)


def share(ranks: Ranks, team: Any, members: Sequence[Member]) -> None:
    """Have all members as the ranks that train them have them."""
    if ranks.size == 1:
        return
    own = ranks.block(len(members))
    matrices = team.vectors(), team.grads
    gathered = [ranks.gather(matrix[own]) for matrix in matrices]
    parts = ranks.collect([(described(m.network), state_of(m)) for m in members[own]], ROWS)
    everyone = [state for part in parts for state in part]
    for matrix, rows in zip(matrices, gathered, strict=True):
        matrix[: own.start], matrix[own.stop :] = rows[: own.start], rows[own.stop :]
    for k, (member, (_, state)) in enumerate(zip(members, everyone, strict=True)):
        if not own.start <= k < own.stop:
            restore(member, state)
    check_networks(ranks, members, [text for text, _ in everyone])


def check_networks(ranks: Ranks, members: Sequence[Member], texts: Sequence[str]) -> None:
    """Raise if a network is no longer made as other ranks have it, as these texts of its own rank say."""
    differ = [described(m.network) != text for m, text in zip(members, texts, strict=True)]
    everyone = np.any(ranks.meet(ROWS, np.array(differ, np.float64)), axis=0)
    if everyone.any():
        k = int(everyone.argmax())
        text = (
            f"fit: the rank that trains member {k} has changed it to {texts[k]}; other ranks see callbacks of members "
            "not, so change layers in joint_callbacks"
        )
        raise known_to_all(RuntimeError(text))


def exchanged(
    ranks: Ranks, k: int, columns: Sequence[str], rows: Mapping[int, dict[str, float]], diverged: Mapping[int, str]
) -> tuple[dict[int, dict[str, float]], dict[int, str]]:
    """The rows of the history of all k members that are trained, and the texts of those that diverged instead."""
    if ranks.size == 1:
        return {i: row for i, row in rows.items() if i not in diverged}, dict(diverged)
    first = ranks.block(k).start
    table = np.zeros((-(-k // ranks.size), 1 + len(columns)))  # as long on all ranks
    for i, row in rows.items():
        table[i - first] = DIVERGED if i in diverged else TRAINED, *(row.get(name, np.nan) for name in columns)
    everyone = ranks.meet(EPOCH, table.ravel()).reshape(ranks.size, *table.shape).tolist()
    found, texts = dict[int, dict[str, float]](), dict[int, str]()
    for rank, of_rank in enumerate(everyone):
        share = ranks.block(k, rank)
        for i, (state, *values) in zip(range(share.start, share.stop), of_rank, strict=False):
            if state == TRAINED:
                row = dict(zip(columns, values, strict=True))
                found[i] = row | {"epoch": int(row["epoch"])}
    if any(state == DIVERGED for of_rank in everyone for state, *_ in of_rank):
        for of_rank in ranks.collect(dict(diverged), EPOCH):
            texts |= of_rank
    return found, texts
