"""Data that comes with the package, with scikit-learn or with Debian: arrays (x, y), new at every call."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Data = tuple[NDArray[np.float32], NDArray[Any]]

DIGITS = Path(__file__).parent / "digits.npz"
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def load_digits() -> Data:
    """1,797 handwritten digits of 13 writers, 8 x 8 pixels each.

    Returns
    -------
    images : (1797, 64) float32
        A row is an image, row by row from the top left; 0 is paper, 1 is full ink (the published
        counts 0 to 16, divided by 16).
    labels : (1797,) int64
        The digit, 0 to 9.

    Notes
    -----
    The order is the published one, in which neighbours are often of one writer: shuffle before you
    hold out a part. Both arrays are new at every call.

    Source: Alpaydin, E. & Kaynak, C. (1998), Optical Recognition of Handwritten Digits, UCI Machine
    Learning Repository, https://doi.org/10.24432/C50P49, CC BY 4.0; the test part of that data set.

    Examples
    --------
    >>> import fastfc as fc
    >>> images, labels = fc.load_digits()
    >>> images.shape, labels[:10]
    ((1797, 64), array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]))
    """
    with np.load(DIGITS) as archive:
        return archive["images"].astype(np.float32) / np.float32(16), archive["labels"].astype(np.int64)


def load_breast_cancer() -> Data:
    """569 tumours by 30 measures of their cells' nuclei: malignant (0) or benign (1).

    Returns
    -------
    features : (569, 30) float32
        As published: they differ in scale.
    labels : (569,) int64

    Raises
    ------
    ImportError
        Without scikit-learn: pip install "fastfc[sklearn]".

    Notes
    -----
    Source: Wolberg, W., Mangasarian, O., Street, N. & Street, W. (1993), Breast Cancer Wisconsin (Diagnostic), UCI
    Machine Learning Repository, https://doi.org/10.24432/C5DW2B, CC BY 4.0; it comes with scikit-learn.

    Examples
    --------
    >>> import fastfc as fc
    >>> features, labels = fc.load_breast_cancer()  # doctest: +SKIP
    """
    x, y = scikit_learns("load_breast_cancer")
    return x.astype(np.float32), y.astype(np.int64)


def load_wine() -> Data:
    """178 wines of three growers by 13 chemical measures.

    Returns
    -------
    features : (178, 13) float32
        As published: they differ in scale.
    labels : (178,) int64
        The grower, 0 to 2.

    Raises
    ------
    ImportError
        Without scikit-learn: pip install "fastfc[sklearn]".

    Notes
    -----
    Source: Aeberhard, S. & Forina, M. (1992), Wine, UCI Machine Learning Repository,
    https://doi.org/10.24432/C5PC7J, CC BY 4.0; it comes with scikit-learn.

    Examples
    --------
    >>> import fastfc as fc
    >>> features, labels = fc.load_wine()  # doctest: +SKIP
    """
    x, y = scikit_learns("load_wine")
    return x.astype(np.float32), y.astype(np.int64)


def load_diabetes() -> Data:
    """442 diabetes patients by age, sex, body mass index, blood pressure and six blood serum measures.

    Returns
    -------
    features : (442, 10) float32
        In their units, not scaled: they differ in scale.
    progression : (442,) float32
        A measure of the disease's progression one year later, 25 to 346.

    Raises
    ------
    ImportError
        Without scikit-learn: pip install "fastfc[sklearn]".

    Notes
    -----
    Source: B. Efron, T. Hastie, I. Johnstone, R. Tibshirani, "Least angle regression", Annals of Statistics 32,
    2004; it comes with scikit-learn.

    Examples
    --------
    >>> import fastfc as fc
    >>> features, progression = fc.load_diabetes()  # doctest: +SKIP
    """
    x, y = scikit_learns("load_diabetes", scaled=False)
    return x.astype(np.float32), y.astype(np.float32)


def scikit_learns(name: str, **options: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(f'{name} reads data that come with scikit-learn: pip install "fastfc[sklearn]"') from error
    return getattr(datasets, name)(return_X_y=True, **options)


def load_fashion_mnist(part: str = "train", folder: str | Path = FASHION_MNIST) -> Data:
    """70,000 photographs of clothes in ten classes, 28 x 28 pixels each: 60,000 to learn from, 10,000 to test.

    Parameters
    ----------
    part : {"train", "test"}
    folder : path
        Where the four files lie, such as train-images-idx3-ubyte.gz. The default is where the Debian package
        dataset-fashion-mnist has them; https://github.com/zalandoresearch/fashion-mnist has them too.

    Returns
    -------
    images : (60000, 784) or (10000, 784) float32
        A row is an image, row by row from the top left, in [0, 1].
    labels : (60000,) or (10000,) int64
        T-shirt, trousers, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot: 0 to 9.

    Raises
    ------
    FileNotFoundError
        If the files are missing; it says how to get them.
    ValueError
        If `part` is neither, or a file is not what its name says.

    Notes
    -----
    Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
    algorithms", arXiv:1708.07747, 2017; MIT licence.

    Examples
    --------
    >>> import fastfc as fc
    >>> images, labels = fc.load_fashion_mnist("test")  # doctest: +SKIP
    """
    if not isinstance(part, str) or part not in ("train", "test"):
        raise ValueError(f"load_fashion_mnist: part must be 'train' or 'test', got {part!r}")
    prefix = Path(folder) / ("train" if part == "train" else "t10k")
    images = read_idx(Path(f"{prefix}-images-idx3-ubyte.gz"))
    labels = read_idx(Path(f"{prefix}-labels-idx1-ubyte.gz"))
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255), labels.astype(np.int64)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The bytes in a compressed IDX file: 0, 0, 8 and the number of axes, their lengths in big-endian, the data."""
    try:
        import gzip

        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is missing: apt-get install dataset-fashion-mnist, or give the folder of the files from "
            "https://github.com/zalandoresearch/fashion-mnist"
        ) from None
    axes = int.from_bytes(content[3:4]) if content[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * axes
    shape = [int.from_bytes(content[i : i + 4]) for i in range(4, start, 4)]
    if not axes or len(content) != start + math.prod(shape):
        raise ValueError(f"{path} is not a whole IDX file of bytes")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
