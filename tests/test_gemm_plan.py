"""The choice of blocks, for processors of which documents tell the caches."""

import numpy as np
import pytest
from arrays import normal

from fastfc import kernels
from fastfc.kernels.ops.gemm_plan import (
    FEW_ROWS,
    FIXED,
    IN_PLACE_TILES,
    MANY_TILES,
    PANEL_DEPTH,
    SHARED_DEPTH,
    SHARING_TILES,
    SOME_TILES,
    SOME_TILES_OF_L2,
    SOME_TILES_SHARED,
    STREAM_DEPTH,
    TABLES,
    Blocking,
    blocking,
    blocking_of,
    plan,
)
from fastfc.kernels.ops.matrix import Matrix
from fastfc.kernels.program.interpreter import L2_SHARE, PACKED_ROWS, rows_of_block
from fastfc.kernels.simd.caches import KIB, MIB, NO_CACHE, Cache, Caches
from fastfc.kernels.simd.isa import ISAS, host_isa


def processor(isa, l1, l2, l3):
    return ISAS[isa], Caches(Cache(*l1), Cache(*l2), Cache(*l3) if l3 else NO_CACHE, "test")


# Bytes, ways and cores of L1, L2 and L3. Intel: "Intel 64 and IA-32 Architectures Optimization Reference Manual"
# (248966), tables of cache parameters of Skylake Client, Golden Cove, Sapphire Rapids. AMD: "Software Optimization
# Guide" for families 17h models 30h and greater (56305), 19h (56665), 1Ah (58455). Arm: "Neoverse N1 Core Technical
# Reference Manual" (100616), with an L3 (SLC) of 1 MiB a core. Apple M1: `sysctl hw.perflevel0`, and the "Apple
# Silicon CPU Optimization Guide".
PROCESSORS = {
    "Skylake": processor("avx2", (32 * KIB, 8), (256 * KIB, 4), (8 * MIB, 16, 4)),
    "Alder Lake P": processor("avx2", (48 * KIB, 12), (1280 * KIB, 10), (30 * MIB, 12, 10)),
    "Sapphire Rapids": processor("avx512", (48 * KIB, 12), (2 * MIB, 16), (105 * MIB, 15, 56)),
    "Zen 2": processor("avx2", (32 * KIB, 8), (512 * KIB, 8), (16 * MIB, 16, 4)),
    "Zen 3": processor("avx2", (32 * KIB, 8), (512 * KIB, 8), (32 * MIB, 16, 8)),
    "Zen 5": processor("avx512", (48 * KIB, 12), (1 * MIB, 16), (32 * MIB, 16, 8)),
    "Neoverse N1": processor("neon", (64 * KIB, 4), (1 * MIB, 8), (32 * MIB, 16, 32)),
    "M1": processor("neon", (128 * KIB, 8), (12 * MIB, 12, 4), None),
}
# KC of float32 and float64, in place and packed, and NC bytes.
EXPECTED = {
    "Skylake": ((320, 256), (320, 256), 1 * MIB),
    "Alder Lake P": ((512, 384), (512, 384), 1536 * KIB),
    "Sapphire Rapids": ((672, 546), (1344, 1092), 1 * MIB),
    "Zen 2": ((320, 256), (320, 256), 2 * MIB),
    "Zen 3": ((320, 256), (320, 256), 2 * MIB),
    "Zen 5": ((672, 546), (1344, 1092), 2 * MIB),
    "Neoverse N1": ((512, 341), (512, 341), 512 * KIB),
    "M1": ((1365, 1024), (1365, 1024), 1536 * KIB),
}
processors = pytest.mark.parametrize("name", PROCESSORS)
itemsizes = pytest.mark.parametrize("itemsize", [4, 8])


def of(name, itemsize=4):
    return blocking_of(*PROCESSORS[name], itemsize)


def planned(m, n, k, name="Zen 3", itemsize=4, a="C", b="C"):
    """The plan of A (m, k) times B (k, n), each contiguous, or transposed if its layout is F."""
    rows = [(columns * itemsize, itemsize) for columns in (k, n)]
    columns = [(itemsize, rows_ * itemsize) for rows_ in (m, k)]
    a_strides, b_strides = (c if layout == "F" else r for r, c, layout in zip(rows, columns, (a, b), strict=True))
    return plan(m, n, k, Matrix(0, *a_strides), Matrix(0, *b_strides), n * itemsize, of(name, itemsize))


@processors
def test_sizes_of_blocks(name):
    both = [of(name, itemsize) for itemsize in (4, 8)]
    depths = tuple(sizes.kc for sizes in both), tuple(sizes.packed_kc for sizes in both)
    assert (*depths, both[0].nc_bytes) == EXPECTED[name]


@processors
@itemsizes
def test_micro_panels_and_a_tile_of_c_fit_l1(name, itemsize):
    """Each in ways of its own; three times deeper with registers of a whole line, which L2 fills as fast."""
    (isa, caches), sizes = PROCESSORS[name], of(name, itemsize)
    kc = sizes.kc // (3 if isa.vector_bytes == 64 else 1)
    panels = kc * isa.rows * itemsize, kc * isa.vectors * isa.vector_bytes
    ways = [-(-nbytes // caches.l1.way_bytes) for nbytes in panels]
    assert sum(ways) + 1 <= caches.l1.ways
    panels = (kc + 8) * isa.rows * itemsize, (kc + 8) * isa.vectors * isa.vector_bytes
    ways = [-(-nbytes // caches.l1.way_bytes) for nbytes in panels]
    assert sum(ways) + 1 > caches.l1.ways


@processors
@itemsizes
@pytest.mark.parametrize("layouts", ["CC", "FC", "CF", "FF"])
def test_every_plan_covers_the_product_and_its_blocks_fit(name, itemsize, layouts):
    sizes, (_, caches) = of(name, itemsize), PROCESSORS[name]
    lengths = [1, 2, 5, 13, 64, 129, 1000, 4096]
    for m in lengths:
        for n in lengths:
            for k in [0, *lengths]:
                how = planned(m, n, k, name, itemsize, *layouts)
                assert how.tiles * how.short + how.tall == m and 0 <= how.tall < how.tiles
                assert how.short + (how.tall > 0) <= sizes.mr <= how.a_width or how.a_width >= how.short > 0
                assert how.nr % sizes.lanes == 0 and 0 < how.nr <= 8 * sizes.lanes
                assert 0 <= how.kc <= max(k, 0) and (how.kc > 0) == (k > 0)
                assert 0 < how.nc <= n and (how.nc == n or how.nc % how.nr == 0)
                assert 0 < how.mc <= how.tiles
                assert how.first_packed in (0, n) or how.first_packed % how.nr == 0
                if how.mc > 1:
                    rows = how.mc * how.a_width if how.pack_a else min(m, how.mc * (how.short + (how.tall > 0)))
                    quarters = 3 if how.nc <= how.nr else 2
                    assert rows * how.kc * itemsize <= caches.l2.core_bytes // 4 * quarters
                if layouts[1] == "F" and k > 1:
                    assert how.first_packed == 0


@pytest.mark.parametrize("isa", ISAS.values(), ids=ISAS)
def test_width_of_the_tile_is_that_of_the_micro_kernel(isa):
    sizes = blocking_of(isa, PROCESSORS["Zen 3"][1], 4)
    for rows in range(1, isa.rows + 1):
        how = plan(rows, 1000, 50, Matrix(0, 200, 4), Matrix(0, 4000, 4), 4000, sizes)
        assert how.nr == isa.tile_vectors(rows) * sizes.lanes


@pytest.mark.parametrize("ways", [1, 2, 3])
def test_caches_of_few_ways(ways):
    tiny = Caches(Cache(KIB, ways), Cache(4 * KIB, ways), NO_CACHE, "test")
    for isa in ISAS.values():
        assert blocking_of(isa, tiny, 8).kc >= 8


def test_a_large_b_in_place_that_few_tiles_share():
    """Its panel is no deeper than L1 has ways for its rows (Zen 3: 8), if those are a multiple of 4 KiB apart."""
    for rows, depth in [(7, 8), (6 * SHARING_TILES, 8), (6 * SHARING_TILES + 1, 316)]:
        assert planned(rows, 4096, 4096).kc == depth
    assert planned(12, 4000, 4000).kc == STREAM_DEPTH // 4
    assert not planned(12, 4096, 4096).along_rows
    assert planned(12, 4096, 4096, "Zen 5").kc == 16  # one tile of twelve rows reads B in its order


def test_columns_of_a_that_share_sets_are_packed_sooner():
    """Weight gradient of 256 x 4096 x 64 with AVX2."""
    assert planned(4096, 64, 256, a="F").pack_a
    assert not planned(4096, 32, 256, a="F").pack_a
    assert not planned(4096 + 16, 64, 256, a="F").pack_a
    assert not planned(4096, 128, 256, "Zen 5", a="F").pack_a


def test_short_sums_of_a_transposed_b_are_packed_before():
    """Else tiles would go down the columns of C, of which each needs a part of a page only."""
    assert planned(4096, 4096, 8, "Zen 5", b="F").nc > planned(4096, 4096, 8, "Zen 5", b="F").nr
    how = planned(64, 1000, 1000, "Zen 5", b="F")
    assert how.nc == how.nr


def test_what_is_packed():
    # 256 rows of B a KiB apart share four of the sets of L1
    assert planned(256, 256, 256).first_packed == 0
    assert planned(256, 256, 256, "Zen 5").first_packed == 256
    # rows without gaps are a micro-panel already
    assert planned(32, 16, 4096, a="F").first_packed == 16
    assert planned(6 * (SOME_TILES - 1), 256, 256).first_packed == 256
    assert planned(6 * SOME_TILES, 256, 256).first_packed == 0
    assert planned(14 * (SOME_TILES_OF_L2 - 1), 1024, 784, "Zen 5").first_packed == 1024
    assert planned(14 * SOME_TILES_OF_L2, 1024, 784, "Zen 5").first_packed == 0
    # a large B is packed by many
    assert planned(512, 1024, 1024, "Zen 5").first_packed == 0
    for name, mr in [("Zen 3", 6), ("Zen 5", 14)]:
        assert planned(mr * IN_PLACE_TILES, 1000, 1000, name).first_packed == 1000
        assert planned(mr * IN_PLACE_TILES + 1, 1000, 1000, name).first_packed == 0
    # xᵀ is packed where columns of x share sets, and there are many columns to use it
    assert planned(512, 16 * MANY_TILES + 1, 512, a="F").pack_a
    assert not planned(512, 16 * MANY_TILES, 512, a="F").pack_a
    assert not planned(64, 16 * MANY_TILES + 1, 64).pack_a
    # so is x whose rows share the sets of L1, if a tile has more of them than L1 has ways
    assert planned(128, 32 * MANY_TILES + 1, 1024, "Zen 5").pack_a
    assert not planned(128, 32 * MANY_TILES + 1, 1040, "Zen 5").pack_a
    assert not planned(60, 16 * MANY_TILES + 1, 1024).pack_a


def test_rows_of_a_block_of_a_prediction():
    """Few where W is read in place and L2 holds the rows' values; many where W is packed, or meets a tile or two."""
    width = 4 * 2048
    assert rows_of_block(width, of("Zen 5")) == 1 * MIB // L2_SHARE // width
    assert rows_of_block(2 * width, of("Zen 5")) == PACKED_ROWS
    assert rows_of_block(width, of("Zen 3")) == rows_of_block(width, of("Neoverse N1")) == PACKED_ROWS
    assert rows_of_block(0, of("Zen 3")) == rows_of_block(1, of("Zen 3")) == 512 * KIB // L2_SHARE


def test_few_rows_read_b_in_place_in_blocks_that_fit_l1():
    """A row of 64 bytes lies in two lines: 64 x 4096 x 1000, which packing would take a tenth of the time."""
    how, sizes = planned(64, 1000, 4096), of("Zen 3")
    assert how.first_packed == 1000
    assert how.kc * (128 + 6 * 4) <= sizes.panel_bytes < 2 * how.kc * (128 + 6 * 4)


def test_panels_of_a_transposed_b_follow_one_another_if_a_is_one_block():
    """A panel is then still in L1 or L2 when it is used: 64 x 4096 x 1000, input gradient, 4 to 7 % faster."""
    how = planned(64, 4096, 1000, "Zen 5", b="F")
    assert how.mc == how.tiles and how.nc == how.nr
    several = planned(200, 4096, 1000, "Zen 5", b="F")
    assert several.mc < several.tiles and several.nc > several.nr


@pytest.mark.parametrize(("name", "itemsize"), [("Zen 3", 4), ("Zen 5", 4), ("Zen 5", 8)])
def test_a_panel_of_a_transposed_b_has_whole_rows_of_w_where_l2_holds_them(name, itemsize):
    """They are one piece of memory, which can be asked for: 64 x 4096 x 1000, input gradient, 76 to 84 % of peak."""
    how = planned(64, 4096, 1000, name, itemsize, b="F")
    assert (how.kc, how.nc, how.mc) == (1000, how.nr, how.tiles)
    assert planned(64, 4096, 10**4, name, itemsize, b="F").kc < 10**4
    assert planned(FEW_ROWS, 4096, 1000, name, itemsize, b="F").kc == PANEL_DEPTH


def test_rows_of_b_that_share_few_sets_have_shallow_blocks():
    for how in (planned(64, 1024, 4096, "Zen 5", 8), planned(64, 4096, 4096, "Zen 5")):
        assert SHARED_DEPTH // 2 < how.kc <= SHARED_DEPTH
    assert planned(64, 1000, 4096, "Zen 5", 8).kc > SHARED_DEPTH
    assert planned(64, 1024, 4096, "Zen 5").kc > SHARED_DEPTH
    # and are packed by fewer tiles
    assert planned(14 * (SOME_TILES_SHARED - 1), 2048, 784, "Zen 5").first_packed == 2048
    assert planned(14 * SOME_TILES_SHARED, 2048, 784, "Zen 5").first_packed == 0


def test_without_masked_loads_the_last_columns_are_padded():
    assert planned(100, 29, 50, "M1").first_packed == 24
    assert planned(100, 28, 50, "M1").first_packed == 28
    assert planned(100, 29, 50, "Zen 3").first_packed == 29


def test_blocks_are_of_nearly_equal_depth():
    assert planned(300, 1000, 784).kc == 262
    assert planned(600, 1000, 2048, "Zen 5").kc == 1024


def test_blocks_of_a_packed_b_are_deeper_with_registers_of_a_line():
    """Half as many of them read and write C half as often."""
    packed, in_place = planned(600, 1000, 1344, "Zen 5"), planned(70, 1000, 1344, "Zen 5")
    assert packed.first_packed == 0 and packed.kc == 1344
    assert in_place.first_packed == 1000 and in_place.kc == 672


@processors
@itemsizes
def test_a_block_of_a_leaves_panels_of_b_a_part_of_l2(name, itemsize):
    sizes, how = of(name, itemsize), planned(10**4, 10**4, 10**4, name, itemsize)
    block, two_panels = how.mc * how.a_width * how.kc * itemsize, 2 * how.nr * how.kc * itemsize
    assert block + two_panels <= sizes.l2_bytes


@itemsizes
def test_kernels_read_the_table_of_this_machine(itemsize):
    assert list(TABLES[itemsize]) == list(blocking_of(host_isa(), caches_here(), itemsize)[FIXED:])
    assert len(Blocking._fields) - FIXED == len(TABLES[itemsize])
    assert blocking.__name__ == "blocking"


def caches_here():
    from fastfc.kernels.simd.caches import host_caches

    return host_caches()


@processors
def test_bits_are_those_of_any_processor(name):
    """Compiled kernels travel: with the sizes of another processor they give the same bits."""
    n, i, o = 70, 1100, 300
    x, weight, bias = normal((n, i), np.float32), normal((i, o), np.float32, 1), normal(o, np.float32, 2)
    results = []
    before = TABLES[4].copy()
    try:
        for table in (before, blocking_of(host_isa(), PROCESSORS[name][1], 4)[FIXED:]):
            TABLES[4][:] = table
            out, dw, dx = np.empty((n, o), np.float32), np.empty_like(weight), np.empty_like(x)
            kernels.dense_forward(x, weight, bias, out, "tanh")
            kernels.dense_weight_grad(x, out, dw)
            kernels.dense_input_grad(out, weight, dx)
            results.append([out, dw, dx])
    finally:
        TABLES[4][:] = before
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)
