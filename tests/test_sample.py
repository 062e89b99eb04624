import itertools

import mutations
import pytest
from sample import axes, covering, pairs, rows, unlike

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


def test_few_rows_show_as_many_values_as_so_many_can():
    kept = unlike(TABLE, 4)
    assert kept[0] == 0 and [len({row[axis] for row in map(TABLE.__getitem__, kept)}) for axis in range(4)] == [
        4,
        4,
        2,
        2,
    ]
    assert unlike(["ab", "ab", "cd"], 5) == [0, 2, 1]
    assert unlike(["ab", "ab", "cd"], 1, every_value=True) == [0, 2]


@pytest.mark.few(2)
@pytest.mark.parametrize("other", [0, 1])
@pytest.mark.parametrize("one", [0, 1, 2])
def test_those_that_are_left_out_are_slow(request, one, other):
    slow = request.node.get_closest_marker("slow") is not None
    assert slow != ((one, other) in [(0, 0), (1, 1)])


@pytest.mark.parametrize("together, other", [("a", 1), ("b", 2)])
@pytest.mark.parametrize("alone", [None])
def test_what_changes_together_is_one_axis(request, together, other, alone):
    assert sorted(axes(request.node)) == [["alone"], ["together", "other"]]
    [row] = rows([request.node])
    assert {*row} == {(id(alone),), (id(together), id(other))}


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=range(1, len(mutations.MUTATIONS) + 1))
def test_every_line_that_is_to_be_mutated_is_there_once(mutation):
    """Five of thirty had been rewritten, and the check ended with an AttributeError."""
    folder, line, other, files = mutation
    assert mutations.place(mutations.ROOT, folder, line) and line != other
    assert all((mutations.ROOT / "tests" / f"test_{name}.py").is_file() for name in files.split())
