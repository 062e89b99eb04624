"""`History`: what `fit` saw, epoch by epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastfc import html
from fastfc.attributes import Guarded
from fastfc.extras import extra
from fastfc.validation import did_you_mean

SHOWN = 20  # rows in a notebook


class History(Guarded):
    """What `fit` saw: one row for each finished epoch, a column for each thing seen.

    Columns are `epoch` (counted from 1 for each optimizer, on from where an earlier `fit` with it stopped), `loss`
    (mean over the epoch's samples of the loss just before each step, also where reduction="sum" makes `val_loss` a
    sum), `seconds` (wall time, validation included), `lr` (the learning rate at the start), `val_loss` with validation
    data, and each metric by its name, with validation data `val_…` on those.

    Examples
    --------
    >>> import fastfc as fc
    >>> net = fc.MLP([1, 1], init="zeros")
    >>> history = net.fit([[2]], [[1]], loss=fc.MSELoss(), optimizer=fc.SGD(0.05), epochs=3)
    >>> history.loss
    [1.0, 0.25, 0.0625]
    >>> history["epoch"]
    array([1, 2, 3])
    """

    def __init__(self) -> None:
        self.rows = []

    @property
    def rows(self) -> list[dict[str, float]]:
        return self._rows

    @rows.setter
    def rows(self, rows: list[dict[str, float]]) -> None:
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise TypeError(f"History: rows must be a list of dicts, got {rows!r}")
        self._rows = rows

    @property
    def loss(self) -> list[float]:
        return self._list("loss")

    @property
    def val_loss(self) -> list[float]:
        return self._list("val_loss")

    @property
    def seconds(self) -> list[float]:
        return self._list("seconds")

    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self.rows[-1]) if self.rows else []

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A column as an array."""
        if name not in self.names():
            near = did_you_mean(name, self.names())
            raise KeyError(f"the history has no {name!r}; it has {', '.join(self.names()) or 'no epochs'}{near}")
        return np.array(self._list(name))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, History) and self.rows == other.rows

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.rows)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All columns by name."""
        return {name: self[name] for name in self.names()}

    def to_dataframe(self) -> Any:
        """A pandas DataFrame with a row for each epoch; needs the extra `fastfc[pandas]`."""
        pandas = extra("pandas", "pandas", "History.to_dataframe")
        return pandas.DataFrame(self.arrays()).set_index("epoch") if self.rows else pandas.DataFrame()

    def plot(self, title: str = "Training") -> Any:
        """A picture: a panel for the loss, and for each metric, over the epochs, training and validation.

        Parameters
        ----------
        title : str

        Returns
        -------
        matplotlib.figure.Figure
            A notebook shows it; `.savefig(path)` writes it, and `.axes` can be changed.

        Raises
        ------
        ImportError
            Without Matplotlib, the extra `fastfc[plot]`.
        ValueError
            If no epoch is finished.

        Examples
        --------
        >>> import fastfc as fc
        >>> history = fc.MLP([1, 1]).fit([[2]], [[1]], loss=fc.MSELoss(), optimizer=fc.SGD(0.05), epochs=3)
        >>> figure = history.plot()
        >>> figure.axes[0].get_ylabel()
        'loss'
        """
        from fastfc import plots

        return plots.history(self, title)

    def save_plot(self, path: Any) -> None:
        """Write the picture; the file's ending decides its format: .png, .svg, .pdf."""
        self.plot().savefig(path, dpi=120)

    def _repr_html_(self) -> str:
        """The rows as a table, for notebooks: the last ones of many."""
        names, shown = self.names(), self.rows[-SHOWN:]
        cells = [tuple(f"{row[name]:.6g}" if name in row else "" for name in names) for row in shown]
        notes = [f"the last {SHOWN} of {len(self)} epochs"] if len(self) > SHOWN else []
        return html.table([tuple(names), *cells], len(names), notes)

    def _list(self, name: str) -> list[float]:
        return [row[name] for row in self.rows if name in row]

    def __repr__(self) -> str:
        last = "".join(f", {name}={value:.4g}" for name, value in self.rows[-1].items()) if self.rows else ""
        return f"History({len(self)} epochs{last})"
