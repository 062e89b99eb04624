import gzip
import sys

import numpy as np
import pytest

import fastfc as fc
from fastfc.data.datasets import DIGITS, FASHION_MNIST, load_digits, load_fashion_mnist


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


@pytest.mark.parametrize(
    ("name", "shape", "kind", "classes"),
    [
        ("wine", (178, 13), np.int64, [59, 71, 48]),
        ("breast_cancer", (569, 30), np.int64, [212, 357]),
        ("diabetes", (442, 10), np.float32, None),
    ],
)
def test_data_of_scikit_learn(name, shape, kind, classes):
    published = pytest.importorskip("sklearn.datasets")
    x, y = getattr(fc, f"load_{name}")()
    assert (x.shape, x.dtype) == (shape, np.float32) and (y.shape, y.dtype) == (shape[:1], kind)
    options = {"scaled": False} if name == "diabetes" else {}
    expected = getattr(published, f"load_{name}")(**options)
    np.testing.assert_allclose(x, expected.data, rtol=1e-7)
    np.testing.assert_array_equal(y, expected.target)
    assert classes is None or np.bincount(y).tolist() == classes


@pytest.mark.parametrize("load", [fc.load_wine, fc.load_breast_cancer, fc.load_diabetes])
def test_without_scikit_learn_the_extra_is_named(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=rf'{load.__name__} reads .* pip install "fastfc\[sklearn\]"'):
        load()


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_the_published_one():
    for part, n in [("train", 60000), ("test", 10000)]:
        images, labels = load_fashion_mnist(part)
        assert (images.shape, images.dtype) == ((n, 784), np.float32)
        assert (labels.shape, labels.dtype) == ((n,), np.int64)
        assert images.min() == 0 and images.max() == 1
        assert np.bincount(labels).tolist() == [n // 10] * 10
    assert labels[:5].tolist() == [9, 2, 1, 1, 6]
    assert abs(load_fashion_mnist()[0].mean(dtype=np.float64) - 0.2860) < 5e-5  # as PyTorch's users normalise it


def write_idx(folder, name, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    (folder / name).write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def test_fashion_mnist_from_a_folder(tmp_path):
    pixels = np.arange(2 * 28 * 28).reshape(2, 28, 28) % 256
    write_idx(tmp_path, "t10k-images-idx3-ubyte.gz", pixels)
    write_idx(tmp_path, "t10k-labels-idx1-ubyte.gz", np.array([3, 9]))
    images, labels = load_fashion_mnist("test", tmp_path)
    np.testing.assert_array_equal(np.round(images * 255), pixels.reshape(2, 784))
    assert labels.tolist() == [3, 9]
    labels[0] = 5  # writable

    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte.gz is missing: apt-get install dataset-"):
        load_fashion_mnist("train", tmp_path)
    with pytest.raises(ValueError, match="part must be 'train' or 'test', got 'valid'"):
        load_fashion_mnist("valid", tmp_path)
    for content in (b"", b"\0\0\x08\x01\0\0\0\x02\x03", b"\0\0\x0d\x01\0\0\0\x00", b"<html>"):
        (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(content))
        with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte.gz is not a whole IDX file"):
            load_fashion_mnist("test", tmp_path)
