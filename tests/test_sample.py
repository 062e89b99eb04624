import itertools

import pytest
from sample import axes, covering, pairs, rows

TABLE = [*itertools.product("abcde", "uvwxyz", (1, 2), (True, False))]


def test_all_pairs_are_covered_by_few_rows():
    kept = covering(TABLE, "a test")
    assert set().union(*(pairs(TABLE[i]) for i in kept)) == set().union(*map(pairs, TABLE))
    assert 30 <= len(kept) < 60 and len({*kept}) == len(kept)
    assert kept == covering(TABLE, "a test") != covering(TABLE, "another test")


def test_rows_that_are_left_out_of_a_product_are_not_missed():
    table = [row for row in TABLE if row[:2] != ("a", "u")]
    kept = covering(table, "a test")
    assert set().union(*(pairs(table[i]) for i in kept)) == set().union(*map(pairs, table))


@pytest.mark.parametrize("together, other", [("a", 1), ("b", 2)])
@pytest.mark.parametrize("alone", [None])
def test_what_changes_together_is_one_axis(request, together, other, alone):
    assert sorted(axes(request.node)) == [["alone"], ["together", "other"]]
    [row] = rows([request.node])
    assert {*row} == {(id(alone),), (id(together), id(other))}
