"""Random ONNX graphs: from_onnx refuses one, or its network agrees with ONNX Runtime. They are made in fuzz_onnx.py."""

import pytest
from fuzz_onnx import run
from soak import report

QUICK, FULL = 250, 20_000


def check(last):
    """No graph is wrong, and not all are refused."""
    counts, _, defects = run(0, last)
    assert not defects, "\n\n".join(defects)
    assert counts["right"] > 0.4 * (last - counts["invalid"]) > 0.3 * last
    return counts


def test_random_graphs_agree_or_are_refused():
    """Wrong were constants that are transposed by the identity, and a Gemm of beta 0 with an infinite C."""
    check(QUICK)


@pytest.mark.soak
def test_twenty_thousand_random_graphs():
    report("random ONNX graphs", **check(FULL))
