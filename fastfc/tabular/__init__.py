"""Tables of numbers, categories and dates: `fastfc train`, `fastfc predict`, and what they are made of."""

from fastfc.tabular.encoding import TableEncoder
from fastfc.tabular.reader import BadTable, Table

__all__ = ["BadTable", "Table", "TableEncoder"]
