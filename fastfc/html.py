"""Tables for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def table(rows: Sequence[Sequence[str]], numeric: int, notes: Sequence[str] = ()) -> str:
    """A table as HTML, its first row the heads, the last `numeric` columns aligned right; notes stand below it."""
    first = len(rows[0]) - numeric

    def line(row: Sequence[str], tag: str) -> str:
        cells = (
            f'<{tag} style="text-align: {"left" if i < first else "right"}">{escape(cell)}</{tag}>'
            for i, cell in enumerate(row)
        )
        return f"<tr>{''.join(cells)}</tr>"

    body = "".join(line(row, "td") for row in rows[1:])
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f"<table><thead>{line(rows[0], 'th')}</thead><tbody>{body}</tbody></table>{below}"
