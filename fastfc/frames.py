"""Data frames and their columns, of pandas, polars and pyarrow, as arrays of numbers.

None of them is imported: whoever passes a frame has done that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

NUMBERS = "biuf"


def is_table(a: Any) -> bool:
    """Whether this is a data frame or a column of one."""
    return (hasattr(a, "to_numpy") and (hasattr(a, "columns") or hasattr(a, "dtype"))) or is_arrow(a)


def is_arrow(a: Any) -> bool:
    """Whether this is a table, a batch or a column of pyarrow."""
    return hasattr(a, "null_count" if hasattr(a, "type") else "column_names") and hasattr(a, "to_pylist")


def names(table: Any) -> tuple[Any, ...] | None:
    """The names of a frame's columns; None of what is not a frame."""
    if type(table) is np.ndarray:
        return None
    if is_arrow(table):
        return tuple(table.column_names) if hasattr(table, "column_names") else None
    return tuple(table.columns) if is_table(table) and hasattr(table, "columns") else None


def as_array(table: Any, owner: object, what: str) -> NDArray[Any]:
    """The numbers of a frame, (n, columns), or of a column, (n,), in the order of the rows; an index plays no part.

    Raises
    ------
    TypeError, ValueError
        Naming the column that holds something else than numbers, or has missing values where its type has no number
        for them, and what to do. NaN is a number here, as it is in arrays.
    """
    if is_arrow(table):
        if not hasattr(table, "columns"):
            return arrow_column(table, None, owner, what)
        pairs = zip(table.columns, table.column_names, strict=True)
        return side_by_side([arrow_column(values, name, owner, what) for values, name in pairs], table.num_rows)
    if not hasattr(table, "columns"):
        return column(table, table.name if hasattr(table, "name") else None, owner, what)
    names, dtypes = list(table.columns), list(table.dtypes)
    if names and all(isinstance(dtype, np.dtype) and dtype.kind in NUMBERS for dtype in dtypes):
        kinds = {dtype.kind == "b" for dtype in dtypes}
        if len(kinds) == 1:
            return table.to_numpy()
    parts = [column(values, name, owner, what) for values, name in zip(columns(table), names, strict=True)]
    return side_by_side(parts, len(table))


def side_by_side(parts: list[NDArray[Any]], n: int) -> NDArray[Any]:
    """One array of n rows of these columns."""
    if not parts:
        return np.empty((n, 0), np.float32)
    result = np.empty((n, len(parts)), np.result_type(*parts))
    for place, part in zip(result.T, parts, strict=True):
        place[:] = part
    return result


def columns(table: Any) -> list[Any]:
    """All columns, those that share a name too."""
    if hasattr(table, "iloc"):
        return [table.iloc[:, i] for i in range(len(table.columns))]
    return list(table.iter_columns())


def arrow_column(values: Any, name: str | None, owner: object, what: str) -> NDArray[Any]:
    """The numbers of a column of pyarrow."""
    where, kind = f"{owner}: {what}" + (f", column {name!r}," if name else ""), str(values.type)
    if not kind.startswith(("int", "uint", "float", "double", "halffloat", "bool", "decimal")):
        raise TypeError(f"{where} has dtype {kind}, which is not of numbers; leave it out, or cast it to numbers")
    if values.null_count:
        raise ValueError(
            f"{where} has {values.null_count} missing values; drop these rows, or fill them, as with fill_null(0)"
        )
    array = np.asarray(values)
    return array.astype(np.float64) if array.dtype.kind not in NUMBERS else array  # decimals


def column(values: Any, name: Any, owner: object, what: str) -> NDArray[Any]:
    """The numbers of one column."""
    where = f"{owner}: {what}" + (f", column {name!r}," if name not in (None, "") else "")
    dtype = values.dtype
    plain = isinstance(dtype, np.dtype)
    if not plain and is_number(dtype):
        missing = int(values.null_count()) if hasattr(values, "null_count") else int(values.isna().sum())
        if missing:
            raise ValueError(
                f"{where} has {missing} missing values; drop these rows, or fill them, as with "
                + ("fill_null(0)" if hasattr(values, "null_count") else "fillna(0)")
            )
        values = values.to_numpy()
        if values.dtype.kind not in NUMBERS:  # decimals
            values = values.astype(np.float64)
        return values
    if plain and dtype.kind in NUMBERS:
        return values.to_numpy()
    raise TypeError(f"{where} has dtype {dtype}, which is not of numbers; {advice(values)}")


def is_number(dtype: Any) -> bool:
    """Whether an extension dtype of pandas or a dtype of polars is of real numbers or booleans."""
    if hasattr(dtype, "is_numeric"):
        return dtype.is_numeric() or str(dtype) == "Boolean"
    return getattr(dtype, "kind", "O") in NUMBERS and getattr(dtype, "name", "") != "category"


def advice(values: Any) -> str:
    name = str(values.dtype).lower()
    if "date" in name or "duration" in name or "timedelta" in name:
        return "leave it out, or compute numbers from it, such as a year or seconds"
    if "complex" in name:
        return "give its real and imaginary parts as two columns"
    if hasattr(values, "null_count"):
        return "leave it out, encode it with to_dummies(), or, as classes, cast it to Categorical and to_physical()"
    return "leave it out, encode it with pandas.get_dummies, or convert it with pandas.to_numeric or factorize"
