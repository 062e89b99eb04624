"""The assembly of tiles and squares, for every instruction set: cross-compiled, so that any machine tests all."""

import re

import llvmlite.binding as llvm
import pytest
from llvmlite import ir
from numba import float32, float64

from fastfc.kernels.simd import few_summands, microkernel, narrow, squares
from fastfc.kernels.simd import isa as isa_module
from fastfc.kernels.simd import llvm as llvm_module
from fastfc.kernels.simd.compiler import fold_constants
from fastfc.kernels.simd.few_summands import FEW, FewSummands
from fastfc.kernels.simd.isa import ISAS
from fastfc.kernels.simd.microkernel import Tile
from fastfc.kernels.simd.narrow import Narrow, Sums
from fastfc.kernels.simd.squares import Squares

# Triple, processor, the mnemonic of a multiply-add of whole registers, a branch, an access to the stack.
TARGETS = {
    "avx512": ("x86_64-unknown-linux-gnu", "skylake-avx512", r"vfmadd\w+p[sd].*zmm", r"\tj", r"%rsp|%rbp"),
    "avx2": ("x86_64-unknown-linux-gnu", "haswell", r"vfmadd\w+p[sd].*ymm", r"\tj", r"%rsp|%rbp"),
    "sse": ("x86_64-unknown-linux-gnu", "nehalem", r"\taddp[sd]\t.*xmm", r"\tj", r"%rsp|%rbp"),
    "neon": ("aarch64-unknown-linux-gnu", "neoverse-n1", r"\tfmla\t", r"\t(b\.|cb|tb|b\t)", r"\[sp"),
}
SHAPES = [(ISAS[name], rows) for name in TARGETS for rows in (1, 2, ISAS[name].rows - 1, ISAS[name].rows)]


def optimise(module, machine):
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)


def assembly(name, function, monkeypatch, passes=optimise):
    for module in (isa_module, llvm_module, few_summands, microkernel, narrow, squares):
        monkeypatch.setattr(module, "host_isa", lambda: ISAS[name])
    triple, cpu, *_ = TARGETS[name]
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = ir.Module()
    module.triple = triple
    function(module).linkage = "external"
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=3)
    parsed = llvm.parse_assembly(str(module))
    passes(parsed, machine)
    return machine.emit_assembly(parsed)


def loop(text, name, choose=min):
    """The lines from the label that the last multiply-adds jump back to; of several loops the shortest."""
    lines = text.splitlines()
    labels = {line.split(":")[0]: number for number, line in enumerate(lines) if re.match(r"\.L\w+:", line)}
    _, _, fused, branch, _ = TARGETS[name]
    loops = []
    for end, line in enumerate(lines):
        target = re.search(r"(\.L\w+)\s*$", line)
        if re.search(branch, line) and target and labels.get(target[1], end) < end:
            body = lines[labels[target[1]] : end + 1]
            if any(re.search(fused, row) for row in body):
                loops.append(body)
    assert loops, text
    return choose(loops, key=len)


@pytest.mark.parametrize("dtype", [float32, float64], ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize(("isa", "rows"), SHAPES, ids=[f"{isa.name}-{rows}" for isa, rows in SHAPES])
def test_loop_over_k_has_the_multiply_adds_one_branch_and_no_spill(isa, rows, masked, dtype, monkeypatch):
    """NEON and SSE have no masked loads: LLVM made 22 branches of those of an 8 x 3 tile, for each step of k."""
    _, _, fused, branch, stack = TARGETS[isa.name]
    vectors = isa.tile_vectors(rows)
    tile = Tile(dtype, rows, vectors, masked)
    body = loop(assembly(isa.name, tile.function, monkeypatch, fold_constants), isa.name)
    assert sum(bool(re.search(fused, line)) for line in body) == rows * vectors
    assert sum(bool(re.search(branch, line)) for line in body) == 1
    if masked and isa.masked_loads:
        # the masks are more registers than there are: they are read from the stack, but nothing goes there
        stack = rf"({stack})\)?$"
    assert not [line for line in body if re.search(stack, line)]


@pytest.mark.parametrize("name", TARGETS)
def test_whole_tiles_ask_for_a_line_for_each_row_of_b(name, monkeypatch):
    """And for a second one where a row takes more than a line; others, which come last in a row of tiles, for none."""
    isa = ISAS[name]
    for masked in (False, True):
        tile = Tile(float32, isa.rows, isa.vectors, masked)
        body = loop(assembly(name, tile.function, monkeypatch, fold_constants), name)
        lines = -(-isa.vectors * isa.vector_bytes // isa_module.LINE)
        assert sum("prefetch" in line or "prfm" in line for line in body) == (0 if masked else lines)


# The registers of each instruction set, as assembly names them.
REGISTERS = {"avx512": "zmm", "avx2": "ymm", "sse": "xmm", "neon": r"\bq\d|\bv\d"}


@pytest.mark.parametrize("dtype", [float32, float64], ids=str)
@pytest.mark.parametrize(("name", "rows"), [(n, r) for n in TARGETS for r in range(1, 1 + squares.many_rows(ISAS[n]))])
def test_squares_are_transposed_in_registers(name, rows, dtype, monkeypatch):
    """Each column meets a multiply-add for each row; for one row no register goes to the stack."""
    across = squares.across(ISAS[name], rows)
    shape = Squares(dtype, rows, across)
    body = loop(assembly(name, lambda module: shape.function(module, shape.emit), monkeypatch), name, max)
    fused, stack = TARGETS[name][2], r"%rsp|\[sp"
    lanes = ISAS[name].vector_bytes * 8 // dtype.bitwidth
    assert sum(bool(re.search(fused, line)) for line in body) == rows * across * lanes
    spilled = [line for line in body if re.search(stack, line) and re.search(REGISTERS[name], line)]
    assert rows > 1 or not spilled


@pytest.mark.parametrize("dtype", [float32, float64], ids=str)
@pytest.mark.parametrize("name", TARGETS)
def test_the_last_few_columns_of_squares_are_transposed_apart(name, dtype, monkeypatch):
    """Of one row no register goes to the stack, which those of whole squares of so few columns would."""
    across, lanes = squares.across(ISAS[name], 1), ISAS[name].vector_bytes * 8 // dtype.bitwidth
    counts = []
    for narrow_last in (False, True):
        shape = Squares(dtype, 1, across + 1, clipped=True, narrow=narrow_last)
        text = assembly(name, lambda module, s=shape: s.function(module, s.emit), monkeypatch)
        body = loop(text, name, max)
        assert sum(bool(re.search(TARGETS[name][2], line)) for line in body) == (across + 1) * lanes
        counts.append(len(body))
    assert counts[1] < counts[0] or lanes * dtype.bitwidth == 128


@pytest.mark.parametrize("dtype", [float32, float64], ids=str)
@pytest.mark.parametrize("name", TARGETS)
def test_few_summands_stay_in_registers(name, dtype, monkeypatch):
    _, _, fused, branch, _ = TARGETS[name]
    for summands in range(1, FEW + 1):
        body = loop(assembly(name, FewSummands(dtype, summands).function, monkeypatch, fold_constants), name)
        assert sum(bool(re.search(fused, line)) for line in body) == summands
        assert sum(bool(re.search(branch, line)) for line in body) == 1
        assert not [line for line in body if re.search(r"%rsp|\[sp", line)]


@pytest.mark.parametrize("dtype", [float32, float64], ids=str)
@pytest.mark.parametrize("vectors", [1, 2, 3, 4])
@pytest.mark.parametrize("name", TARGETS)
def test_many_rows_of_few_columns_stay_in_registers(name, vectors, dtype, monkeypatch):
    if vectors > narrow.columns_in_registers(ISAS[name]):
        return
    for sources in {0, narrow.sources(ISAS[name])} if vectors == 1 else {0}:
        shape = Narrow(dtype, vectors, sources)
        body = loop(assembly(name, shape.function, monkeypatch, fold_constants), name)
        _, _, fused, branch, _ = TARGETS[name]
        assert sum(bool(re.search(fused, line)) for line in body) == shape.groups * vectors
        assert sum(bool(re.search(branch, line)) for line in body) == 1
        assert not [line for line in body if re.search(r"%rsp|\[sp", line)]


SUMS = [(name, r, v) for name in TARGETS for r in narrow.SUMMED for v in (1, 2)]


@pytest.mark.parametrize("dtype", [float32, float64], ids=str)
@pytest.mark.parametrize(("name", "rows", "vectors"), SUMS)
def test_sums_of_chunks_stay_in_registers(name, rows, vectors, dtype, monkeypatch):
    """But with ten or more of 16 registers: there LLVM reads too early what it multiplies, and keeps some of it."""
    monkeypatch.setattr(narrow, "host_isa", lambda: ISAS[name])
    chunks = narrow.chunks_at_once(rows, vectors)
    if not chunks:  # too many registers
        return
    body = loop(assembly(name, Sums(dtype, rows, vectors).function, monkeypatch, fold_constants), name)
    _, _, fused, branch, _ = TARGETS[name]
    sums = rows * vectors * chunks
    assert sum(bool(re.search(fused, line)) for line in body) == sums * narrow.ROWS_AT_ONCE
    assert sum(bool(re.search(branch, line)) for line in body) == 1
    spilled = [line for line in body if re.search(r"%rsp|\[sp", line) and re.search(REGISTERS[name], line)]
    most = sums * narrow.ROWS_AT_ONCE // 2 if ISAS[name].registers == 16 and sums >= 10 else 0
    assert len(spilled) <= most
