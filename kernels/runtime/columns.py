"""`Columns`: enumerations whose members are plain integers in nopython code.

Numba's own members are types of their own, which it takes as indices from 0.68 on.
"""

from enum import EnumMeta, IntEnum

from numba import types
from numba.extending import models, register_model, typeof_impl


class ColumnsMeta(EnumMeta):
    """So that Numba tells these classes from other enumerations."""


class Columns(IntEnum, metaclass=ColumnsMeta):
    """Base of enumerations of the columns of a table."""


class ColumnsType(types.IntEnumClass):
    """The type of such a class in nopython code."""

    member_type = types.intp


register_model(ColumnsType)(models.OpaqueModel)


@typeof_impl.register(ColumnsMeta)
def typeof_columns(value, context):
    return ColumnsType(value, types.intp)
