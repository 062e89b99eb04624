"""Names of columns: a network that was fitted on data frames takes no frame whose columns stand elsewhere.

Names are kept for each input of a network, and for each of its outputs, as tuples; None where an array has none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from fastfc import frames as tables
from fastfc.validation import listed

Names = tuple[Any, ...]
SHOWN = 8  # names in an error


class Columns:
    """The names that a network knows, and those that a `fit` is about to teach it.

    Parameters
    ----------
    owner : object
        Whose names these are, for errors.
    inputs, targets : tuple of Names, or None
        The known names of each input and of each output.
    counts : tuple of two ints
        The numbers of inputs and outputs.
    learning : bool
        Whether the first frame is that of a `fit`: it may have new names, but a known name stays where it was.
    """

    def __init__(
        self,
        owner: object,
        inputs: tuple[Names | None, ...] | None,
        targets: tuple[Names | None, ...] | None,
        counts: tuple[int, int],
        *,
        learning: bool = False,
    ) -> None:
        self.owner, self.inputs, self.targets, self.learning = owner, inputs, targets, learning
        self.n_inputs, self.n_outputs = counts

    def check(self, x: Any, y: Any = None) -> None:
        """Raise if frames do not fit the known names; learning, know theirs from now on."""
        names, targets = names_of(x, self.n_inputs == 1), names_of(y, self.n_outputs == 1)
        for what, known, new in pairs("x", self.inputs, names):
            check_names(self.owner, what, known, new, strict=not self.learning)
        for what, known, new in pairs("y", self.targets, targets):
            check_order(self.owner, what, known, new)
        if self.learning:
            self.inputs, self.targets, self.learning = names or self.inputs, targets or self.targets, False


def names_of(data: Any, one: bool) -> tuple[Names | None, ...] | None:
    """The names of a frame, or of each in a tuple of several inputs; None without any."""
    parts = (data,) if one or not isinstance(data, tuple | list) else tuple(data)
    names = tuple(tables.names(part) for part in parts)
    return names if any(name is not None for name in names) else None


def pairs(what: str, known: Any, new: Any) -> Iterator[tuple[str, Names, Names]]:
    """What to call each input for which names are known and new ones come, the known and the new names."""
    if known is None or new is None or len(known) != len(new):
        return
    for i, (old, names) in enumerate(zip(known, new, strict=True)):
        if old is not None and names is not None:
            yield what if len(known) == 1 else f"{what}[{i}]", old, names


def check_names(owner: object, what: str, known: Names, new: Names, *, strict: bool) -> None:
    """Raise unless the new names are the known ones, in their order.

    Not strict, names may be new, but a known one stays where it was. Numbers from 0 on are what pandas calls
    columns that have no name.
    """
    check_order(owner, what, known, new)
    if new == known or any(names == tuple(range(len(names))) for names in (known, new)):
        return
    if not strict:
        moved = [name for name, old in zip(new, known, strict=False) if name != old and name in known]
        if moved:
            raise ValueError(
                f"{owner}: {what} has {shown(moved)} in another place than in the fit before; reorder the columns, "
                "or forget their names with net.feature_names = None"
            )
        return
    expected, counts = Counter(known), Counter(new)
    missing, others = list((expected - counts).elements()), list((counts - expected).elements())
    reasons = [f"{shown(missing)} {'is' if len(missing) == 1 else 'are'} missing"] * bool(missing)
    reasons += [f"fit did not see {shown(others)}"] * bool(others)
    raise ValueError(
        f"{owner}: {what} has other columns than in fit: {', '.join(reasons)}; give {what}[net.feature_names]"
    )


def check_order(owner: object, what: str, known: Names, new: Names) -> None:
    """Raise if these are the known names in another order."""
    if new != known and Counter(new) == Counter(known):
        raise ValueError(
            f"{owner}: {what} has the columns {shown(new)}, which were {shown(known)} in fit; put them into that "
            "order" + (", x[net.feature_names]" if what == "x" else "")
        )


def shown(names: Sequence[Any]) -> str:
    return ", ".join(map(repr, names[:SHOWN])) + (", …" if len(names) > SHOWN else "")


def check_sample(owner: object, known: tuple[Names | None, ...] | None, series: Any) -> None:
    """Raise if a single sample, a row of a frame, has the known names in another order."""
    index = getattr(series, "index", ())
    if known is not None and known[0] is not None and not callable(index) and getattr(series, "ndim", 0) == 1:
        check_order(owner, "x", known[0], tuple(index))


def as_names(names: Any, widths: Sequence[int | None]) -> tuple[Names | None, ...] | None:
    """Names as a user assigns them: of one input a sequence, of several a sequence of such, or None."""
    if names is None:
        return None
    rows = [names] if len(widths) == 1 else listed(names, "feature_names", "names", "[['a', 'b'], ['c']]")
    if len(rows) != len(widths):
        raise ValueError(f"feature_names: give a list of names, or None, for each of {len(widths)} inputs")
    result = tuple(None if row is None else names_in(row) for row in rows)
    for row, width in zip(result, widths, strict=True):
        if row is not None and width is not None and len(row) != width:
            raise ValueError(f"feature_names: there are {len(row)} names for {width} features")
    return result


def names_in(row: Any) -> Names:
    return tuple(listed(row.tolist() if hasattr(row, "tolist") else row, "feature_names", "names", "['a', 'b']"))
