"""The cases of parametrized tests that the quick suite runs. The others are slow.

A case has a value on each axis: an axis is what one `parametrize` ranges over. Of a product the cases are kept that
show each pair of values of two axes; of these the LEAST that differ most, or as many as it takes to show each value.
Which they are depends on the test's name alone. Of a test that is marked `few(n)`, since each case compiles or takes
long, n cases are kept.
"""

import itertools
import random
import re

import pytest

LEAST = 16  # cases of a product


def axes(test):
    """Names of the parameters of each axis."""
    marks = [mark.args[0] for mark in test.iter_markers("parametrize")]
    together = [re.findall(r"\w+", names) if isinstance(names, str) else [*names] for names in marks]
    alone = test.callspec.params.keys() - {*itertools.chain(*together)}
    return together + [[name] for name in sorted(alone)]


def rows(cases):
    """For each case its values, as identities."""
    return [tuple(tuple(id(case.callspec.params[n]) for n in names) for names in axes(cases[0])) for case in cases]


def pairs(values):
    return {*itertools.combinations(enumerate(values), 2)}


def covering(table, seed):
    """Indices of rows that show all pairs that any row shows."""
    order, missing, kept = [*range(len(table))], set().union(*map(pairs, table)), []
    random.Random(seed).shuffle(order)
    for i in order:
        if pairs(table[i]) & missing:
            kept.append(i)
            missing -= pairs(table[i])
    return kept


def unlike(table, n, every_value=False):
    """Indices of n rows: the first, then each time the first of those that show the most values not yet shown.

    Of more rows if that takes to show every value.
    """
    rest, kept, shown = [*range(len(table))], [], set()
    missing = {value for row in table for value in enumerate(row)} if every_value else set()
    while rest and (len(kept) < n or missing - shown):
        best = max(rest, key=lambda i: len({*enumerate(table[i])} - shown))  # max takes the first of equals
        rest.remove(best)
        kept.append(best)
        shown |= {*enumerate(table[best])}
    return kept


def of(items):
    """Those of a session's tests that are kept."""
    kept = set()
    for test, group in itertools.groupby(items, key=lambda item: item.nodeid.partition("[")[0]):
        cases = [*group]
        few = cases[0].get_closest_marker("few")
        if few:
            cases = [cases[i] for i in unlike(rows(cases), *few.args)]
        elif len(cases) > LEAST and len(axes(cases[0])) > 1:
            if len(axes(cases[0])) > 2:
                cases = [cases[i] for i in covering(rows(cases), test)]
            cases = [cases[i] for i in unlike(rows(cases), LEAST, every_value=True)]
        kept.update(cases)
    return kept


def slow(*values):
    """A case for `parametrize` that the quick suite leaves out."""
    return pytest.param(*values, marks=pytest.mark.slow)
