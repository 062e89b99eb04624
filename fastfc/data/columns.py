"""Names of columns: a network that was fitted on data frames takes no frame whose columns stand elsewhere.

Names are kept for each input of a network, and for each of its outputs, as tuples; None where an array has none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from fastfc import frames as tables
from fastfc.validation import as_real, listed

Names = tuple[Any, ...]
SHOWN = 8  # names in an error


class Columns:
    """The names that a network knows, and those that a `fit` is about to teach it.

    Parameters
    ----------
    network : Network
    learning : bool
        Whether the first frame is that of a `fit`, which may have other names, but none in another place.
    """

    def __init__(self, network: Any, *, learning: bool = False) -> None:
        self.network, self.learning = network, learning
        self.inputs, self.targets = network._known_names(), network._target_names

    def look(self, x: Any, y: Any = None) -> None:
        """Raise if frames do not fit the names that are known."""
        names, targets = names_of(x, self.network._one_input), names_of(y, len(self.network._output_widths()) == 1)
        for what, known, given in pairs("x", self.inputs, names, x):
            check(self.network, what, known, given, strict=not self.learning)
        for what, known, given in pairs("y", self.targets, targets, y):
            check_order(self.network, what, known, given)
        if self.learning:
            self.inputs, self.targets, self.learning = names or self.inputs, targets or self.targets, False

    def take(self, x: Any, y: Any) -> Any:
        """Look, and x without names."""
        self.look(x, y)
        if names_of(x, self.network._one_input) is None:
            return x
        if self.network._one_input:
            return as_real(x, self.network, "x")
        return tuple(as_real(part, self.network, f"x[{i}]") for i, part in enumerate(x))

    def teach(self) -> None:
        """The network knows from now on what we know."""
        if self.inputs is not None:
            self.network._input_names = self.inputs
        if self.targets is not None:
            self.network._target_names = self.targets


def names_of(data: Any, one: bool) -> tuple[Names | None, ...] | None:
    """The names of a frame, or of each in a tuple of several inputs; None if there are none."""
    parts = (data,) if one or not isinstance(data, tuple | list) else tuple(data)
    names = tuple(tables.names(part) for part in parts)
    return names if any(name is not None for name in names) else None


def pairs(what: str, known: Any, given: Any, data: Any) -> Iterator[tuple[str, Names, Names]]:
    """What is known and given of each input for which both are, and what to call it."""
    if known is None or given is None or len(known) != len(given):
        return
    for i, (old, new) in enumerate(zip(known, given, strict=True)):
        if old is not None and new is not None:
            yield what if len(known) == 1 else f"{what}[{i}]", old, new


def check(network: Any, what: str, known: Names, given: Names, *, strict: bool) -> None:
    """Raise unless these are the names that are known, in their order.

    Not strict, names may be others, but a known one must stand where it stood. Numbers from 0 on are what pandas calls
    columns that have no name.
    """
    check_order(network, what, known, given)
    if given == known or any(names == tuple(range(len(names))) for names in (known, given)):
        return
    if not strict:
        moved = [name for name, old in zip(given, known, strict=False) if name != old and name in known]
        if moved:
            raise ValueError(
                f"{network}: {what} has {shown(moved)} in another place than in the fit before; reorder the columns, "
                "or forget their names with net.feature_names = None"
            )
        return
    seen, now = Counter(known), Counter(given)
    missing, others = list((seen - now).elements()), list((now - seen).elements())
    told = [f"{shown(missing)} {'is' if len(missing) == 1 else 'are'} missing"] * bool(missing)
    told += [f"fit did not see {shown(others)}"] * bool(others)
    raise ValueError(
        f"{network}: {what} has other columns than in fit: {', '.join(told)}; give {what}[net.feature_names]"
    )


def check_order(network: Any, what: str, known: Names, given: Names) -> None:
    """Raise if these are the known names in another order."""
    if given != known and Counter(given) == Counter(known):
        raise ValueError(
            f"{network}: {what} has the columns {shown(given)}, which were {shown(known)} in fit; put them into that "
            "order" + (", x[net.feature_names]" if what == "x" else "")
        )


def shown(names: Sequence[Any]) -> str:
    return ", ".join(map(repr, names[:SHOWN])) + (", …" if len(names) > SHOWN else "")


def check_sample(network: Any, series: Any) -> None:
    """Raise if a single sample, a row of a frame, has the known names in another order."""
    known, index = network._known_names(), getattr(series, "index", ())
    if known is not None and known[0] is not None and not callable(index) and getattr(series, "ndim", 0) == 1:
        check_order(network, "x", known[0], tuple(index))


def as_names(given: Any, widths: Sequence[int | None]) -> tuple[Names | None, ...] | None:
    """Names as a user assigns them: of one input a sequence, of several a sequence of such, or None."""
    if given is None:
        return None
    rows = [given] if len(widths) == 1 else listed(given, "feature_names", "names", "[['a', 'b'], ['c']]")
    if len(rows) != len(widths):
        raise ValueError(f"feature_names: give a list of names, or None, for each of {len(widths)} inputs")
    names = tuple(None if row is None else names_in(row) for row in rows)
    for name, width in zip(names, widths, strict=True):
        if name is not None and width is not None and len(name) != width:
            raise ValueError(f"feature_names: there are {len(name)} names for {width} features")
    return names


def names_in(row: Any) -> Names:
    return tuple(listed(row.tolist() if hasattr(row, "tolist") else row, "feature_names", "names", "['a', 'b']"))
