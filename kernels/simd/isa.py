"""The instruction set that LLVM compiles for, and the caches of the processor."""

from functools import cache
from pathlib import Path
from typing import ClassVar, NamedTuple

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.core.typing.templates import ConcreteTemplate, infer_global
from numba.extending import lower_builtin

I64 = ir.IntType(64)


class ISA(NamedTuple):
    """What the kernels need to know of an instruction set.

    `rows` and `vectors` span the register tile: rows x vectors accumulators, one row of `vectors`
    registers for the right operand and one for a broadcast element of the left must fit `registers`.
    `few_rows` gives wider tiles for 1, 2, ... rows, to have enough sums under way at once.
    """

    name: str
    vector_bytes: int
    registers: int
    fma: bool
    rows: int
    vectors: int
    few_rows: tuple[int, ...]

    def tile_vectors(self, rows):
        """Registers across a tile of `rows` rows."""
        return self.few_rows[rows - 1] if rows <= len(self.few_rows) else self.vectors


ISAS = {
    "avx512": ISA("avx512", 64, 32, True, 14, 2, (8, 4, 4, 4)),
    "avx2": ISA("avx2", 32, 16, True, 6, 2, (8, 4)),
    "neon": ISA("neon", 16, 32, True, 8, 3, (8, 4, 4)),
    "sse": ISA("sse", 16, 16, False, 6, 2, (8, 4)),
    "generic": ISA("generic", 16, 16, False, 6, 2, (8, 4)),
}


@cache
def l2_bytes():
    """Size of a core's second-level cache; 1 MiB where the system doesn't tell.

    Compiled code looks it up each time it runs, for it may have been compiled on another machine. So no constant of a
    module holds it: Numba would freeze that.
    """
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
        return int(text[:-1]) * {"K": 1 << 10, "M": 1 << 20}[text[-1]]
    except (OSError, ValueError, KeyError):
        return 1 << 20


L2_BYTES = np.array([l2_bytes()])  # where compiled code finds it
llvm.add_symbol("fastfc.l2_bytes", L2_BYTES.ctypes.data)


@infer_global(l2_bytes)
class L2Template(ConcreteTemplate):
    cases: ClassVar = [types.int64()]


@lower_builtin(l2_bytes)
def nopython_l2_bytes(context, builder, signature, args):
    name, known = "fastfc.l2_bytes", builder.module.globals
    return builder.load(known[name] if name in known else cgutils.add_global_variable(builder.module, I64, name))


@cache
def host_isa():
    """The instruction set that Numba's LLVM target compiles for (NUMBA_CPU_NAME is obeyed).

    LLVM offers no query for "which registers", so this compiles one vector fma and looks.
    """
    probe = """define <16 x float> @probe(<16 x float> %a, <16 x float> %b) {
        %c = call <16 x float> @llvm.fma.v16f32(<16 x float> %a, <16 x float> %a, <16 x float> %b)
        ret <16 x float> %c }
        declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)"""
    codegen = cpu_target.target_context.codegen()
    module = llvm.parse_assembly(probe)
    module.triple = codegen._tm.triple
    assembly = codegen._tm.emit_assembly(module)
    fused = "vfmadd" in assembly
    if fused and "zmm" in assembly:
        return ISAS["avx512"]
    if fused and "ymm" in assembly:
        return ISAS["avx2"]
    if "fmla" in assembly:
        return ISAS["neon"]
    return ISAS["sse" if "xmm" in assembly else "generic"]


def lanes(dtype):
    """Elements of `dtype` (a Numba float type) in one register."""
    return host_isa().vector_bytes * 8 // dtype.bitwidth
