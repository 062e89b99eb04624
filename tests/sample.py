"""A part of the cases of parametrized tests, for runs that repeat on other instructions what the suite tests in full.

A case has a value on each axis: an axis is what one `parametrize` ranges over. Those cases are kept that show each pair
of values of two axes, so that a test of one or two axes stays whole. Which they are depends on the test's name alone.
"""

import itertools
import random
import re


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


def of(items):
    """Those of a session's tests that are kept."""
    kept = set()
    for test, group in itertools.groupby(items, key=lambda item: item.nodeid.partition("[")[0]):
        cases = [*group]
        whole = len(cases) == 1 or len(axes(cases[0])) < 3
        kept.update(cases if whole else (cases[i] for i in covering(rows(cases), test)))
    return kept
