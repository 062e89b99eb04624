"""The way in from Python: one builtin function per kernel, which reads NumPy's arrays by itself.

A call of a Numba function spends most of a microsecond on its arguments, more than a small layer computes.
Here the arguments' fields are read from where NumPy's and Python's C interfaces promise them, which takes
some ten nanoseconds. Anything unusual (another type, dtype or rank, a keyword) is handed to the kernel's `slow_path`,
which converts it or says what is wrong. A status that is not OK is handed to its `failed`, with the arguments:
what has run does not run again.
"""

import ctypes

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from fastfc.kernels.runtime.linkage import slot_value
from fastfc.kernels.simd.llvm import I8, I32, I64
from fastfc.kernels.simd.memory import array_at

OBJECT = I8.as_pointer()
HEAD = object.__basicsize__  # of every Python object: the fields of its type stand behind it
TYPE = HEAD - 8
# struct PyArrayObject_fields, from its head on
DATA, RANK, SHAPE, STRIDES, DESCR, FLAGS = (HEAD + offset for offset in (0, 8, 16, 24, 40, 48))
WRITEABLE = 0x0400
# struct _PyArray_Descr
BYTE_ORDER, TYPE_NUMBER = HEAD + 10, HEAD + 12
# With fewer numbers in all arrays together the call is so short that nobody waits for Python's lock.
KEEP_LOCK = 1 << 14


class NotLoaded(RuntimeError):
    """An optional kernel is called that is not loaded; its name is the second argument."""


def c_function(builder, name, result, *arguments):
    """A function of Python's C interface."""
    address = ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value
    return builder.inttoptr(ir.Constant(I64, address), ir.FunctionType(result, arguments).as_pointer())


def field(builder, base, offset, kind=I64):
    """The value `offset` bytes behind a pointer."""
    member = builder.gep(base, [ir.Constant(I64, offset)])
    return builder.load(builder.bitcast(member, kind.as_pointer()))


def identity(python_object):
    return ir.Constant(I64, id(python_object))


def equal(builder, value, wanted):
    return builder.icmp_signed("==", value, ir.Constant(value.type, wanted))


def array_fits(builder, array, kind):
    """Whether an ndarray has this Numba type's dtype, in native byte order, rank and permission."""
    descr = field(builder, array, DESCR, OBJECT)
    fits = equal(builder, field(builder, descr, TYPE_NUMBER, I32), np.dtype(str(kind.dtype)).num)
    fits = builder.and_(fits, equal(builder, field(builder, descr, BYTE_ORDER, I8), ord("=")))
    fits = builder.and_(fits, equal(builder, field(builder, array, RANK, I32), kind.ndim))
    if kind.mutable:
        bit = builder.and_(field(builder, array, FLAGS, I32), ir.Constant(I32, WRITEABLE))
        fits = builder.and_(fits, equal(builder, bit, WRITEABLE))
    return fits


def array_value(context, builder, array, kind):
    """An ndarray as Numba's struct; and how many elements it has."""
    shape, strides = (
        [field(builder, field(builder, array, offset, OBJECT), 8 * i) for i in range(kind.ndim)]
        for offset in (SHAPE, STRIDES)
    )
    return array_at(context, builder, kind, field(builder, array, DATA, OBJECT), shape, strides)


def go_on_if(builder, condition, otherwise):
    """Leave for the block `otherwise` unless a condition holds."""
    following = builder.append_basic_block()
    builder.cbranch(condition, following, otherwise)
    builder.position_at_end(following)


def emit(context, builder, slot_name, signatures, failed):
    """The body of the builtin function: (slow_path, args, count, keywords) -> object."""
    slow_path, args, count, keywords = builder.function.args
    slow = builder.append_basic_block("slow")
    kinds = next(iter(signatures.values())).args
    number = len(kinds)
    fits = builder.and_(equal(builder, count, number), equal(builder, builder.ptrtoint(keywords, I64), 0))
    go_on_if(builder, fits, slow)
    objects = [builder.load(builder.gep(args, [ir.Constant(I64, i)])) for i in range(number)]
    scalars = emit_scalars(builder, objects, kinds, slow)
    for dtype, signature in signatures.items():
        otherwise = builder.append_basic_block()
        address = slot_value(builder, slot_name(dtype))
        fits = builder.icmp_signed("!=", address, ir.Constant(I64, 0))
        for given, kind in zip(objects, signature.args, strict=True):
            if isinstance(kind, types.Array):
                fits = builder.and_(fits, array_fits(builder, given, kind))
        go_on_if(builder, fits, otherwise)
        status, result = emit_call(context, builder, address, signature, objects, scalars)
        raised, bad = builder.append_basic_block("raised"), builder.append_basic_block("bad")
        go_on_if(builder, status.is_ok, raised)
        code = emit_result(builder, result, signature, bad)
        builder.position_at_end(raised)
        emit_raised(context, builder, status, slow)
        builder.position_at_end(bad)
        emit_failed(builder, failed, code, objects)
        builder.position_at_end(otherwise)
    builder.branch(slow)
    builder.position_at_end(slow)
    builder.ret(call_object(builder, slow_path, args, count, keywords))


def emit_scalars(builder, objects, kinds, slow):
    """The arguments that are no arrays, by position, if all arguments have the types that they should."""
    python_types = {types.int64: int, types.float64: float}
    fits = ir.Constant(ir.IntType(1), 1)
    for given, kind in zip(objects, kinds, strict=True):
        wanted = np.ndarray if isinstance(kind, types.Array) else python_types[kind]
        fits = builder.and_(fits, builder.icmp_signed("==", field(builder, given, TYPE), identity(wanted)))
    go_on_if(builder, fits, slow)
    scalars = {}
    for i, (given, kind) in enumerate(zip(objects, kinds, strict=True)):
        if kind == types.float64:
            scalars[i] = field(builder, given, HEAD, ir.DoubleType())
        elif kind == types.int64:
            convert = c_function(builder, "PyLong_AsLongLongAndOverflow", I64, OBJECT, I32.as_pointer())
            overflow = cgutils.alloca_once(builder, I32)
            scalars[i] = builder.call(convert, [given, overflow])
            go_on_if(builder, equal(builder, builder.load(overflow), 0), slow)
    return scalars


def emit_call(context, builder, address, signature, objects, scalars):
    """Status and result of the kernel; with long arrays it runs without Python's lock."""
    values, total = dict(scalars), ir.Constant(I64, 0)
    for i, kind in enumerate(signature.args):
        if isinstance(kind, types.Array):
            values[i], size = array_value(context, builder, objects[i], kind)
            total = builder.add(total, size)
    long = builder.icmp_signed(">", total, ir.Constant(I64, KEEP_LOCK))
    thread = cgutils.alloca_once(builder, OBJECT)
    with builder.if_then(long):
        builder.store(builder.call(c_function(builder, "PyEval_SaveThread", OBJECT), []), thread)
    kind = context.call_conv.get_function_type(signature.return_type, signature.args)
    function, args = builder.inttoptr(address, kind.as_pointer()), [values[i] for i in range(len(objects))]
    status, result = context.call_conv.call_function(builder, function, signature.return_type, signature.args, args)
    with builder.if_then(long):
        restore = c_function(builder, "PyEval_RestoreThread", ir.VoidType(), OBJECT)
        builder.call(restore, [builder.load(thread)])
    return status, result


def emit_result(builder, result, signature, bad):
    """Return None or a float if the kernel's status is OK, else go to `bad`; the status."""
    code, value = result, None
    if isinstance(signature.return_type, types.BaseTuple):
        code, value = cgutils.unpack_tuple(builder, result, 2)
    go_on_if(builder, equal(builder, code, 0), bad)
    if value is None:
        none = builder.inttoptr(identity(None), OBJECT)
        builder.call(c_function(builder, "Py_IncRef", ir.VoidType(), OBJECT), [none])
        builder.ret(none)
    else:
        builder.ret(builder.call(c_function(builder, "PyFloat_FromDouble", OBJECT, ir.DoubleType()), [value]))
    return code


def call_object(builder, function, args, count, keywords):
    """The result of calling a Python object."""
    vectorcall = c_function(builder, "PyObject_Vectorcall", OBJECT, OBJECT, OBJECT.as_pointer(), I64, OBJECT)
    return builder.call(vectorcall, [function, args, count, keywords])


def emit_raised(context, builder, status, slow):
    """Raise the exception of a native call; NotLoaded comes before anything is written, and the slow way loads it."""
    context.call_conv.raise_error(builder, context.get_python_api(builder), status)
    matches = c_function(builder, "PyErr_ExceptionMatches", I32, OBJECT)
    missing = equal(builder, builder.call(matches, [builder.inttoptr(identity(NotLoaded), OBJECT)]), 1)
    with builder.if_then(missing):
        builder.call(c_function(builder, "PyErr_Clear", ir.VoidType()), [])
        builder.branch(slow)
    builder.ret(OBJECT(None))


def emit_failed(builder, failed, code, objects):
    """Return what `failed` returns for a status and the arguments of the call."""
    number = builder.call(c_function(builder, "PyLong_FromLongLong", OBJECT, I64), [code])
    args = cgutils.alloca_once(builder, OBJECT, size=len(objects) + 1)
    for i, given in enumerate([number, *objects]):
        builder.store(given, builder.gep(args, [ir.Constant(I64, i)]))
    function = builder.inttoptr(identity(failed), OBJECT)
    result = call_object(builder, function, args, ir.Constant(I64, len(objects) + 1), OBJECT(None))
    builder.call(c_function(builder, "Py_DecRef", ir.VoidType(), OBJECT), [number])
    builder.ret(result)


class MethodDefinition(ctypes.Structure):
    """struct PyMethodDef"""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    ]


FASTCALL_WITH_KEYWORDS = 0x0080 | 0x0002


def builtin(name, slot_name, signatures, slow_path, failed):
    """A builtin function that runs a kernel on plain arguments, and calls `slow_path` with any other.

    If the kernel returns a status that is not OK, it calls `failed` with that and the arguments.

    Parameters
    ----------
    name : str
    slot_name : callable
        dtype (a Numba float type) -> name of the slot with the address of the kernel for it, or 0
    signatures : dict
        dtype -> Numba signature: arrays, int64 and float64; returns a status, or a status and a float
    slow_path, failed : callable

    It lives as long as the process.
    """
    context = cpu_target.target_context
    context.refresh()
    symbol = f"fastfc.entry.{name}"
    library = context.codegen().create_library(symbol)
    module = library.create_ir_module(symbol)
    kind = ir.FunctionType(OBJECT, [OBJECT, OBJECT.as_pointer(), I64, OBJECT])
    function = ir.Function(module, kind, symbol)
    emit(context, ir.IRBuilder(function.append_basic_block("entry")), slot_name, signatures, failed)
    with global_compiler_lock:
        library.add_ir_module(module)
        library.finalize()
    address = library.get_pointer_to_function(symbol)
    definition = MethodDefinition(name.encode(), address, FASTCALL_WITH_KEYWORDS, None)
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
    # Python may look at the definition, and call the code, until the very end: nothing of it is ever freed
    ctypes.pythonapi.Py_IncRef(ctypes.py_object((library, definition, failed)))
    return make(ctypes.addressof(definition), slow_path, None)
