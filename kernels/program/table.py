"""The columns of a program, which is a table of integers: one row for the header, one for each op."""

from numba import types

COLUMNS = 19
# columns of the header. The first PARAMETERS numbers of the vector of VALUES are the parameters, of which TRAINED are
# to be, and each has a gradient; the last BUFFERS numbers are kept but not trained, such as running statistics. WHOLE
# tells that a prediction of a row depends on the other rows, so that it can't be cut into blocks of them; PARTS is how
# many outputs stand side by side: as many rows at the end of the table have their WIDTH
N_OPS, INPUTS, OUTPUTS, PARAMETERS, PREDICT_WORKSPACE, TRAIN_WORKSPACE, TRAINED, VALUES, BUFFERS, WHOLE, PARTS = range(
    11
)
# columns of a step; WEIGHT and BIAS are places in the vector of values, NOWHERE for none; TRANSPOSED tells that the
# weight lies there as its transpose; FACTOR and FACTOR_2 are the bits of a step's numbers; ADD_ tells to add to a
# gradient. NUMBER is the first column of `place`, the seed of dropout, the rows of an embedding's table, the place of
# batch norm's running statistics, NOWHERE for none; its FACTOR_2 is their momentum, -1 for a plain mean. B of a norm is
# where it keeps statistics. DERIVE_A is the step that made a, if the derivative of its activation is done with the
# gradient of a: that step is DERIVED. If a derivative is OF_INPUT, training keeps what the product gives, and the
# activation is a step of its own; in a prediction that is IN_PRODUCT
OP, CODE, A, B, Y, WEIGHT, BIAS, TRANSPOSED, NUMBER, FACTOR, FACTOR_2 = range(11)
ADD_A, ADD_B, ADD_WEIGHT, ADD_BIAS, DERIVE_A, DERIVED, OF_INPUT, IN_PRODUCT = range(11, COLUMNS)
NOWHERE = -1
PRODUCT, ACTIVATION, ADD, MULTIPLY, SCALE, CONCAT = range(6)
DROPOUT, LAYER_NORM, RMS_NORM, BATCH_NORM, STANDARDIZE, EMBEDDING, FROZEN_BATCH_NORM = range(6, 13)
NORMS = LAYER_NORM, RMS_NORM, BATCH_NORM, FROZEN_BATCH_NORM

# columns of a value: its width; and for each of the three purposes where it is, and from which number per sample on
WIDTH = 0
PREDICTING, TRAINING, GRADIENT = 1, 3, 5
IN_X, IN_OUTPUT, IN_WORKSPACE = range(3)


def table_type():
    return types.Array(types.int64, 2, "A", readonly=True, aligned=False)
