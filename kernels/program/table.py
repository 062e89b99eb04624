"""The columns of a program, which is a table of integers: a header, then a row for each op, then one for each value."""

from numba import types

from fastfc.kernels.runtime.columns import Columns


class Header(Columns):
    """Columns of row 0."""

    N_OPS = 0
    INPUTS = 1
    OUTPUTS = 2
    PARAMETERS = 3  # so many first numbers of the vector of values are parameters, and each has a gradient
    PREDICT_WORKSPACE = 4  # numbers per sample
    TRAIN_WORKSPACE = 5
    TRAINED = 6  # so many parameters are not frozen
    VALUES = 7  # numbers in the vector of values
    BUFFERS = 8  # so many last numbers of that vector are not trained, such as running statistics
    WHOLE = 9  # whether the prediction of a row depends on the other rows, so that it can't be cut into blocks of them
    PARTS = 10  # outputs side by side: as many rows at the end of the table have their WIDTH


class Column(Columns):
    """Columns of an op, which reads the values a and b and writes the value y.

    WEIGHT and BIAS are indices into the vector of values, NOWHERE for none; FACTOR and FACTOR_2 the bits of float64
    numbers. The ADD_ columns tell to add to a gradient rather than to overwrite it.
    """

    OP = 0
    CODE = 1  # of the activation
    A = 2
    B = 3  # of a norm: where it keeps statistics
    Y = 4
    WEIGHT = 5  # of dropout the number of its step, which its masks depend on
    BIAS = 6
    TRANSPOSED = 7  # whether the vector of values holds the transpose of the weight; of an embedding of numbers,
    # whether features share it; of a product of members, whether they do
    NUMBER = 8  # of concat the first column, of dropout the seed, of an embedding the rows of its table, of batch norm
    # the index of its running statistics, NOWHERE for none, of layers with a parameter for each feature how many these
    # are, of an embedding of numbers the functions of each feature, of polygons their knots, of ops of members how many
    # these are
    FACTOR = 9
    FACTOR_2 = 10  # of batch norm the momentum of its running statistics, -1 for a plain mean; of dropout what y is
    # multiplied by
    ADD_A = 11
    ADD_B = 12
    ADD_WEIGHT = 13
    ADD_BIAS = 14
    DERIVE_A = 15  # the op that gives a, if the derivative of its activation is applied with the gradient of a
    DERIVED = 16  # whether another op's DERIVE_A names this one
    OF_INPUT = 17  # whether the derivative is in terms of the activation's input: training keeps what the product
    # gives, and the activation is an op of its own
    SKIPPED = 18  # whether a prediction skips the op: an activation that is part of a product, or a dropout
    AFTER = 19  # of a parametric activation the bits of what a prediction multiplies y by, for a dropout that it skips


class Value(Columns):
    """Columns of a value: its width; and for each purpose where it is, and from which number per sample on."""

    WIDTH = 0
    PREDICTING = 1
    TRAINING = 3
    GRADIENT = 5


NOWHERE = -1
# Column.OP
PRODUCT, ACTIVATION, ADD, MULTIPLY, SCALE, CONCAT = range(6)
DROPOUT, LAYER_NORM, RMS_NORM, BATCH_NORM, STANDARDIZE, EMBEDDING, FROZEN_BATCH_NORM = range(6, 13)
COLUMN_SCALE, P_RELU, PARAMETRIC, COLUMN_AFFINE, NUMERIC_EMBEDDING, POLYGON, CLAMP = range(13, 20)
PER_FEATURE = COLUMN_SCALE, P_RELU, PARAMETRIC, COLUMN_AFFINE
# of values in which the columns of several members stand side by side
MEMBER_PRODUCT, MEMBER_ACTIVATION, REPEAT, MEMBER_MEAN = range(20, 24)
NORMS = LAYER_NORM, RMS_NORM, BATCH_NORM, FROZEN_BATCH_NORM
# where a value is
IN_X, IN_OUTPUT, IN_WORKSPACE = range(3)

# Rows that the workspace holds of each value are a multiple of this: every value begins at a multiple of 64 bytes.
ROW_MULTIPLE = 16


def table_type():
    return types.Array(types.int64, 2, "A", readonly=True, aligned=False)
