"""Data that comes with the package."""

from pathlib import Path

import numpy as np

DIGITS = Path(__file__).parent / "data" / "digits.npz"


def load_digits() -> tuple[np.ndarray, np.ndarray]:
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
