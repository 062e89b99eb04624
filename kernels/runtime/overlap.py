"""Whether arrays overlap in memory."""

from numba.extending import overload

from fastfc.kernels.simd.compiler import HelperCompiler, helper
from fastfc.kernels.simd.memory import address


def extent(x):
    """Addresses of an array's first byte and of the one after its last; 0 and 0 if it is empty."""
    raise NotImplementedError("for nopython code")


@overload(extent, jit_options={"pipeline_class": HelperCompiler})
def nopython_extent(x):
    # written out: loops over the dimensions take longer than the rest of a small kernel
    if x.ndim == 1:

        def vector(x):
            reach = (x.shape[0] - 1) * x.strides[0]
            low, high = address(x) + min(reach, 0), address(x) + max(reach, 0) + x.itemsize
            return (low, high) if x.size else (0, 0)

        return vector

    def matrix(x):
        down, across = (x.shape[0] - 1) * x.strides[0], (x.shape[1] - 1) * x.strides[1]
        low = address(x) + min(down, 0) + min(across, 0)
        high = address(x) + max(down, 0) + max(across, 0) + x.itemsize
        return (low, high) if x.size else (0, 0)

    return matrix


@helper
def meet(a, b):
    """Whether two extents overlap."""
    return a[0] < b[1] and b[0] < a[1]


@helper
def overlaps(x, y):
    """Whether the extents of two arrays overlap in memory."""
    return meet(extent(x), extent(y))


@helper
def same(x, y):
    """Whether two arrays of one shape are the same elements in the same order."""
    return address(x) == address(y) and x.strides == y.strides


@helper
def keep_alive(array):
    """Numba may free an array after its last use, and knows nothing of pointers into it: use it once more."""
    return array.size
