"""The instruction set that LLVM compiles for."""

from functools import cache
from typing import NamedTuple

import llvmlite.binding as llvm
from numba.core import config
from numba.core.codegen import get_host_cpu_features
from numba.core.registry import cpu_target

LINE = 64  # bytes of a cache's line


class ISA(NamedTuple):
    """What the kernels need to know of an instruction set.

    `rows` and `vectors` span the register tile: rows x vectors accumulators, one row of `vectors`
    registers for the right operand and one for a broadcast element of the left must fit `registers`.
    `few_rows` gives wider tiles for 1, 2, ... rows, to have enough sums under way at once.
    Without `masked_loads`, LLVM makes a branch for each lane of a register of which a part is loaded.
    """

    name: str
    vector_bytes: int
    registers: int
    fma: bool
    rows: int
    vectors: int
    few_rows: tuple[int, ...]
    masked_loads: bool

    def tile_vectors(self, rows):
        """Registers across a tile of `rows` rows."""
        return self.few_rows[rows - 1] if rows <= len(self.few_rows) else self.vectors


ISAS = {
    "avx512": ISA("avx512", 64, 32, True, 14, 2, (8, 4, 4, 4), True),
    "avx2": ISA("avx2", 32, 16, True, 6, 2, (8, 4), True),
    "neon": ISA("neon", 16, 32, True, 8, 3, (8, 4, 4), False),
    "sse": ISA("sse", 16, 16, False, 6, 2, (8, 4), False),
    "generic": ISA("generic", 16, 16, False, 6, 2, (8, 4), False),
}


def processor_features():
    """LLVM's names of what this processor has, with whether it has it."""
    return llvm.get_host_cpu_features()


@cache
def host_isa():
    """The instruction set that Numba's LLVM target compiles for (NUMBA_CPU_NAME and NUMBA_CPU_FEATURES are obeyed)."""
    if config.CPU_FEATURES is None:  # Numba then names to LLVM all features of this processor
        features = set(get_host_cpu_features().split(","))
        if features >= {"+fma", "+avx"}:
            return ISAS["avx512" if "+avx512f" in features else "avx2"]
    return compiled_isa()


def compiled_isa():
    """The same in any case: LLVM offers no query for "which registers", so this compiles one vector fma and looks."""
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
