"""Functions by address: slots that hold the address of a kernel, and calls through them."""

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastfc.kernels.simd.llvm import I64


def define_symbol(name, address):
    """Let native code refer to a memory slot by name; the slot must live as long as the process."""
    llvm.add_symbol(name, address)


def slot_value(builder, name):
    """What stands in a memory slot: the address of a function, or 0."""
    known = builder.module.globals
    return builder.load(known[name] if name in known else cgutils.add_global_variable(builder.module, I64, name))


def call_through_slot(context, builder, name, signature, args, missing=None):
    """Call the Numba function whose address stands in the slot `name`; if none does, raise `missing`."""
    address = slot_value(builder, name)
    if missing is not None:
        with cgutils.if_unlikely(builder, builder.icmp_unsigned("==", address, ir.Constant(I64, 0))):
            context.call_conv.return_user_exc(builder, *missing)
    return call_address(context, builder, address, signature, args)


def call_address(context, builder, address, signature, args):
    """Call the Numba function at this address."""
    convention = context.call_conv
    kind = convention.get_function_type(signature.return_type, signature.args)
    function = builder.inttoptr(address, kind.as_pointer())
    status, result = convention.call_function(builder, function, signature.return_type, signature.args, args)
    with cgutils.if_unlikely(builder, status.is_error):
        convention.return_status_propagate(builder, status)
    return result


@intrinsic
def call_at(typingctx, function_pointer, like, arguments):
    """Call a C function of a tuple of numbers and pointers, to a float64, whose address stands at a place in memory.

    The place is given by the bits of a float64, and has two addresses: for pointers to float32 and to float64.
    """

    def codegen(context, builder, signature, args):
        addresses = builder.inttoptr(builder.bitcast(args[0], I64), I64.as_pointer())
        address = builder.load(builder.gep(addresses, [ir.Constant(I64, int(like.dtype == types.float64))]))
        values = cgutils.unpack_tuple(builder, args[2], len(arguments))
        kind = ir.FunctionType(ir.DoubleType(), [value.type for value in values])
        return builder.call(builder.inttoptr(address, kind.as_pointer()), values)

    return types.float64(types.float64, like, arguments), codegen
