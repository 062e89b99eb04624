import numpy as np
import pytest

from fastfc.datasets import DIGITS, load_digits


def test_digits_are_the_published_ones():
    images, labels = load_digits()
    assert (images.shape, images.dtype) == ((1797, 64), np.float32)
    assert (labels.shape, labels.dtype) == ((1797,), np.int64)
    counts = images * 16
    assert np.array_equal(counts, np.round(counts)) and counts.min() == 0 and counts.max() == 16
    assert counts.sum(dtype=np.int64) == 561718
    # the class counts printed in the data set's description
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_digits_equal_scikit_learns():
    published = pytest.importorskip("sklearn.datasets").load_digits()
    images, labels = load_digits()
    np.testing.assert_array_equal(images * 16, published.data)
    np.testing.assert_array_equal(labels, published.target)


def test_each_call_gives_new_writable_arrays():
    images, labels = load_digits()
    images[:], labels[:] = -1, -1
    again, labels_again = load_digits()
    assert again.min() == 0 and labels_again.min() == 0


def test_source_and_licence_lie_beside_the_data():
    text = DIGITS.with_name("LICENSE-digits.txt").read_text()
    assert "Alpaydin" in text and "UCI Machine Learning Repository" in text and "CC BY 4.0" in text
