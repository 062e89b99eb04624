"""How a product is cut into blocks: the model of the caches, and the choice for one shape.

The model is that of Low, Igual, Smith and Quintana-Ortí, "Analytical Modeling Is Enough for High-Performance BLIS"
(2016): a micro-panel of A and one of B live in L1 beside a tile of C, a block of A in L2, a block of B in L3.

Kernels read the sizes from a table when they run. So compiled kernels are the same for all processors of an
instruction set, and no bit depends on the sizes.
"""

from collections import namedtuple

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastfc.kernels.simd.caches import host_caches
from fastfc.kernels.simd.compiler import inlined_helper
from fastfc.kernels.simd.isa import LINE, host_isa
from fastfc.kernels.simd.llvm import I64

# What `plan` needs to know of a processor, for elements of `itemsize` bytes. The fields of the instruction set:
# lanes of a register; a tile has up to `mr` rows and `vectors` registers across, four for up to `four_rows` rows and
# eight for one; `masked_loads` tells whether part of a register can be loaded. The fields of the caches: the summands
# of a block, and of one whose B is packed, the cache of the micro-panels and one of its ways, L1, L2, and the bytes of
# a block of B.
Blocking = namedtuple(
    "Blocking",
    "itemsize lanes mr vectors four_rows masked_loads kc packed_kc panel_bytes panel_way l1_bytes l2_bytes nc_bytes",
)
FIXED = 6

# tiles of rows, the first `tall` with short + 1 rows and the others with `short`; nr columns, kc summands, mc tiles
# and nc columns in a block; elements between the columns of a packed micro-panel of A; whether A is packed, and from
# which column on B is; whether tiles follow one another along the rows of C, or down its columns.
Plan = namedtuple(
    "Plan",
    ["tiles", "short", "tall", "nr", "kc", "mc", "nc", "a_width", "pack_a", "first_packed", "along_rows"],
)

# With AVX-512 a tile takes 14 cycles for the two lines of B that it reads, which come from L2 as fast: there blocks
# are so many times deeper than L1 allows. (BLIS has a KC of 384 for Skylake-X, 2.6 times what this model gives. With
# Zen 5, KC = 224 is 2 to 3 % slower than 672.) If B is packed, its panels lie in L2 without gaps, and half as many
# blocks read and write C half as often (Zen 5, 2048 x 2048 x 2048: KC = 512 gets 86 % of the peak, 1024 gets 91 %).
DEEPER, PACKED_DEEPER = 3, 6
# B in place comes while tiles are computed, as they ask for it. So packing it pays for as many tiles only, if rows of B
# share cache sets (Zen 5, 256 x 1024 x 1024 with AVX-512: 92 % of the peak in place, 87 % packed; 60 x 1024 x 1024 with
# AVX2: 64 % in place, 88 % packed; fewer with AVX-512 if L2 holds few of these rows too: 128 x 1024 x 2048 gets 90 % in
# place, 72 % packed, and 256 x 2048 x 2048 in float64 74 % in place, 81 % packed) ...
SOME_TILES, SOME_TILES_OF_L2, SOME_TILES_SHARED = 5, 24, 16
# ... or, if the matrix is larger than half of L2, for more than so many (180 x 1000 x 1000 in float64 with AVX2: 94 %
# in place, 86 % packed; 2048 x 2000 x 2000: alike).
IN_PLACE_TILES = 40
# So many tiles across use a block of A that packing it pays.
MANY_TILES = 16
# Rows of B so many bytes apart share few sets of L2, so what is asked for would be gone before it is used: KC is as
# small as this (64 x 4096 x 1024 in float64: 68 % of the peak with 256, 63 % with 384, 57 % with 512).
FAR_APART, SHARED_DEPTH = 8192, 320
# Sums so short leave C the most traffic.
SHORT = 128
# The part of L2 that a block of B may fill if tiles follow one another along rows of C.
ROWWISE = 4
# So few rows use each element of B so rarely that a panel has to stay in L1. A B that is not packed and meets one tile
# only has to be read in its order in memory, STREAM_DEPTH whole rows at a time, a quarter if they share cache sets.
FEW_ROWS, PANEL_DEPTH, STREAM_DEPTH = 4, 64, 64
# So few tiles share a panel of a large B in place that is no deeper than L1 keeps (Zen 5, AVX2, 8 x 4096 x 4096: 8.0 to
# 5.2 ms).
SHARING_TILES = 3


def block_depth(l1, a_row_bytes, b_row_bytes):
    """KC: the most summands for which micro-panels of A and B fit L1, each in ways of its own, and C in one way."""
    ways = max(l1.ways, 4)  # fewer would leave no room
    way_bytes = l1.nbytes // ways
    depths = [min(w * way_bytes // b_row_bytes, (ways - 1 - w) * way_bytes // a_row_bytes) for w in range(1, ways - 1)]
    return max(8, *depths)


def blocking_of(isa, caches, itemsize):
    """The Blocking of an instruction set and caches."""
    kc = packed_kc = block_depth(caches.l1, isa.rows * itemsize, isa.vectors * isa.vector_bytes)
    panels = caches.l1
    if isa.vector_bytes == LINE:
        kc, packed_kc, panels = DEEPER * kc, PACKED_DEEPER * kc, caches.l2
    four_rows = sum(vectors >= 4 for vectors in isa.few_rows)
    l2 = caches.l2.core_bytes
    return Blocking(
        itemsize,
        isa.vector_bytes // itemsize,
        isa.rows,
        isa.vectors,
        four_rows,
        int(isa.masked_loads),
        kc,
        packed_kc,
        panels.core_bytes,
        panels.way_bytes,
        caches.l1.nbytes,
        l2,
        max(caches.l3.core_bytes, l2) // 2,
    )


TABLES = {size: np.array(blocking_of(host_isa(), host_caches(), size)[FIXED:], np.int64) for size in (4, 8)}
for size, table in TABLES.items():
    llvm.add_symbol(f"fastfc.blocking.{size}", table.ctypes.data)


@intrinsic
def blocking(typingctx, like):
    """The Blocking of this machine, for the element type of a pointer."""
    size = like.dtype.bitwidth // 8
    result = types.NamedUniTuple(types.int64, len(Blocking._fields), Blocking)

    def codegen(context, builder, signature, args):
        name, kind = f"fastfc.blocking.{size}", ir.ArrayType(I64, len(TABLES[size]))
        table = builder.module.globals.get(name) or cgutils.add_global_variable(builder.module, kind, name)
        fixed = [ir.Constant(I64, value) for value in blocking_of(host_isa(), host_caches(), size)[:FIXED]]
        zero = ir.Constant(I64, 0)
        read = [builder.load(builder.gep(table, [zero, ir.Constant(I64, i)])) for i in range(kind.count)]
        return context.make_tuple(builder, result, [*fixed, *read])

    return result(like), codegen


@inlined_helper
def equal_depth(k, kc):
    """The summands of a block if none has more than kc, and all have nearly as many."""
    return k if k <= kc else -(-k // -(-k // kc))


@inlined_helper
def a_block_bytes(machine):
    """The part of L2 for a block of A if B is packed: panels of B and tiles of C pass through the rest."""
    return machine.l2_bytes // 8 * 3


@inlined_helper
def block_columns(n, k, kc, nr, machine):
    """NC: all n columns, unless a block of them and kc summands would be too large."""
    size, rowwise_bytes = machine.itemsize, machine.l2_bytes // ROWWISE
    nbytes = rowwise_bytes if k <= SHORT else machine.nc_bytes
    return n if n * kc * size <= rowwise_bytes else max(1, nbytes // (kc * size) // nr) * nr


@inlined_helper
def plan(m, n, k, a, b, c_row, machine):
    """The Plan of C = A B, for matrices A (m, k) and B (k, n), of which only the strides are looked at.

    C's columns are neighbours, and c_row bytes lie between its rows. Python may call plan.
    """
    size, l2_half = machine.itemsize, machine.l2_bytes // 2
    # with one or two summands all time goes to writing C, whose rows must not share cache sets
    tiles = -(-m // 2) if k <= 2 and c_row % 4096 == 0 else -(-m // machine.mr)
    # of nearly equal height: 32 rows are 11 + 11 + 10, not 14 + 14 + 4
    short, tall = m // tiles, m % tiles
    rows = short + (tall > 0)
    nr = machine.lanes * (8 if rows == 1 else 4 if rows <= machine.four_rows else machine.vectors)
    a_width = -(-rows // machine.lanes) * machine.lanes
    # without masked loads, the last columns of B are padded to whole registers
    padded_from = n if machine.masked_loads or k == 0 or n % machine.lanes == 0 else n // nr * nr

    # A step of a small network has no time for more: all of it is in L1, in place.
    nbytes = max(m * abs(a.row), k * abs(a.column)) + k * abs(b.row) + m * abs(c_row)
    if b.column == size and n <= MANY_TILES * nr and nbytes <= machine.l1_bytes:
        return Plan(tiles, short, tall, nr, k, tiles, n, a_width, False, padded_from, True)

    # In place, a row of a panel of B takes whole lines, and rows at the same place of a way share the sets there.
    b_lines = nr * size + (LINE if b.row % LINE else 0)
    b_apart = max(min(b_lines, abs(b.row)), min(b.row & -b.row, machine.panel_way))
    kc = machine.kc
    if b_apart == b_lines and tiles <= IN_PLACE_TILES and machine.panel_bytes < kc * (b_lines + rows * size):
        kc = machine.panel_bytes // (b_lines + rows * size)
    if b_apart >= FAR_APART:
        kc = min(kc, SHARED_DEPTH)
    kc = equal_depth(k, kc)

    rowwise_bytes = machine.l2_bytes // ROWWISE
    along_rows = block_columns(n, k, kc, nr, machine) * kc * size <= rowwise_bytes
    b_is_slow = kc * b_apart > machine.panel_bytes or (along_rows and n * kc * size > machine.panel_bytes)
    b_is_large = k * n * size > l2_half
    some_tiles = SOME_TILES_SHARED if b_apart >= FAR_APART else SOME_TILES_OF_L2
    if machine.panel_bytes == machine.l1_bytes:
        some_tiles = SOME_TILES
    pays = (b_is_slow and tiles >= some_tiles) or (b_is_large and tiles > IN_PLACE_TILES)
    pack_b = k > 0 and (b.column != size or pays)
    # so does a column of A, of which a tile needs a part of a line; rows of A are read side by side from left to right,
    # if L1 has ways enough
    a_apart = max(min(LINE, abs(a.column)), min(a.column & -a.column, machine.panel_way))
    a_is_slow = kc * (a_apart + nr * size) > machine.panel_bytes
    if a.column == size:
        a_is_slow = a.row % 4096 == 0 and rows > 8
    a_is_large = pack_b and m * k * size > l2_half
    a_aliases = a_apart % machine.panel_way == 0 and machine.panel_bytes == machine.l1_bytes
    pack_a = (a_is_slow or a_is_large) and n > (2 if a_aliases else MANY_TILES) * nr

    if pack_b:
        kc = equal_depth(k, machine.packed_kc)
    # along rows of C, as C prefers, while all of B's block stays in L1 and L2
    nc = block_columns(n, k, kc, nr, machine)
    along_rows = nc * kc * size <= rowwise_bytes
    if m <= FEW_ROWS and pack_b:
        kc, nc = min(k, PANEL_DEPTH), nr
    elif tiles == 1 and n > nr and b_is_large:
        kc, nc = min(k, STREAM_DEPTH // 4 if b.row % 4096 == 0 else STREAM_DEPTH), n
    elif tiles <= SHARING_TILES and n > nr and b_is_large and not pack_b and machine.panel_bytes == machine.l1_bytes:
        kc, nc, along_rows = min(k, STREAM_DEPTH // 4, machine.panel_bytes // b_apart), n, False
    first_packed = 0 if pack_b else padded_from
    # a B in place is read anew, from memory, for each block of A
    a_bytes = a_block_bytes(machine) if pack_b else l2_half
    a_rows = tiles * a_width if pack_a else m
    by_panels = b.column != size and k > SHORT
    if by_panels and m > FEW_ROWS and k * (a_rows + 2 * nr) * size <= machine.l2_bytes // 4 * 3:
        # A, a panel of Wᵀ and what the next one is packed from fit L2: a panel is packed just before the only block of
        # A meets it, from rows of W that are one piece of memory, which is asked for while the panel before is used
        kc, nc, a_bytes = k, nr, machine.l2_bytes
    elif by_panels and tiles * a_width * kc * size <= a_bytes:
        nc = nr
    mc = min(tiles, max(1, a_bytes // max(1, a_width * kc * size)))
    return Plan(tiles, short, tall, nr, kc, mc, min(n, nc), a_width, pack_a, first_packed, along_rows)
