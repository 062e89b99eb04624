"""The columns of a table of losses: of floats, with a row for each loss of a network's outputs."""

from fastfc.kernels.runtime.columns import Columns


class LossColumn(Columns):
    """Columns of a loss, which takes so many columns of the prediction from FIRST on, and those of the target."""

    CODE = 0
    FIRST = 1
    WIDTH = 2  # 0 is all columns
    FIRST_TARGET = 3
    CLASSES = 4  # whether its targets are classes, in labels, if there are any
    WEIGHT = 5  # a factor
    REDUCTION = 6
    A = 7
    B = 8
    C = 9
    VECTORS = 10  # the bits below
    LENGTH = 11  # of each vector
    SHARE = 12  # of the epoch's weights, those that a mean over classes divides by
    MEMBERS = 13  # so many predictions of the target stand side by side; the loss is the mean of theirs


VECTOR = len(LossColumn)  # the first column of the vectors
HAS_VECTOR, HAS_WEIGHTS = 1, 2  # bits of VECTORS: a number for each column, and then a weight for each
MEAN, SUM, NONE, BATCH_MEAN = range(4)  # REDUCTION
NO_CLASS = -(2.0**63)  # for the class to be ignored, C of a loss of classes
