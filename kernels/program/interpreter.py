"""Whole networks in one native call: a network is a table of integers, the *program*, that these kernels run.

Row 0 of a program is its header, then follow the steps in topological order, then the values that the steps
read and write. A value is a matrix with a row for each sample. Where it lies is in the table too, once for
prediction, once for training, once for its gradient: in x, in the output, or in the *workspace*, one piece of
memory in which everything is counted in numbers per sample.

    product       y = f(a W + b)      dz = dy f′(y)   dW = aᵀ dz   db = column sums of dz   da = dz Wᵀ
    activation    y = f(a)            da = dy f′(y) or dy f′(a), along rows for softmax
    add           y = a + b           da = dy         db = dy
    multiply      y = a b             da = dy b       db = dy a
    scale         y = c a             da = c dy
    place         y[:, columns] = a   da = dy[:, columns]

and what has files of its own: `dropout`, `embedding`; in `norms`, layer norm, rms norm, batch norm and standardise; in
`per_feature`, layers with one parameter for each feature; in `numeric_embedding`, functions of each feature; in
`batch_ensemble`, products of several members.

Backward runs the steps in reverse, each multiplying what it receives by its local gradient (the chain rule);
what several steps contribute to one gradient is added in that order.
"""

from collections import namedtuple

import numpy as np
from numba import types

from fastfc.kernels.ops.activation_rules import DERIVATIVE, IDENTITY, NONE, Activation
from fastfc.kernels.ops.activations import _activation_backward, _activation_forward
from fastfc.kernels.ops.batch_ensemble import MemberProduct, member_product_backward, member_product_forward
from fastfc.kernels.ops.dense_bias_grad import bias_grad
from fastfc.kernels.ops.dense_weight_grad import weight_grad
from fastfc.kernels.ops.dropout import Mask, apply_dropout, key, skip
from fastfc.kernels.ops.embedding import embedding_backward, embedding_forward
from fastfc.kernels.ops.gemm import Product, forward_product, input_product
from fastfc.kernels.ops.gemm_plan import blocking
from fastfc.kernels.ops.matrix import (
    Matrix,
    columns_from,
    contiguous_matrix,
    element,
    matrix,
    matrix_type,
    rows_from,
    transposed,
    zeros,
)
from fastfc.kernels.ops.norms import (
    ACCUMULATE,
    IGNORE,
    OVERWRITE,
    Affine,
    batch_norm_backward,
    divide_columns,
    normalise_batch,
    normalise_columns,
    normalise_rows,
    normalise_rows_backward,
    update_running,
)
from fastfc.kernels.ops.numeric_embedding import (
    Embedding,
    interpolate_backward,
    interpolate_forward,
    numeric_embedding_backward,
    numeric_embedding_forward,
)
from fastfc.kernels.ops.per_feature import (
    PerFeature,
    clamp_backward,
    clamp_forward,
    per_feature_backward,
    per_feature_forward,
)
from fastfc.kernels.program.table import (
    ACTIVATION,
    ADD,
    BATCH_NORM,
    CLAMP,
    COLUMN_SCALE,
    CONCAT,
    DROPOUT,
    EMBEDDING,
    FROZEN_BATCH_NORM,
    IN_OUTPUT,
    IN_X,
    LAYER_NORM,
    MEMBER_ACTIVATION,
    MEMBER_PRODUCT,
    MULTIPLY,
    NORMS,
    NOWHERE,
    NUMERIC_EMBEDDING,
    PER_FEATURE,
    POLYGON,
    PRODUCT,
    REPEAT,
    RMS_NORM,
    ROW_MULTIPLE,
    STANDARDIZE,
    Column,
    Header,
    Value,
    table_type,
)
from fastfc.kernels.runtime.kernel import kernel
from fastfc.kernels.runtime.native import OnDemand, compiled_kernel, on_demand_kernel
from fastfc.kernels.runtime.overlap import overlaps
from fastfc.kernels.runtime.pool import parallel
from fastfc.kernels.runtime.status import BAD_SHAPE, NO_MEMORY, OK, OVERLAP
from fastfc.kernels.runtime.threads import ELEMENT_WORK, product_work_in_kernels, thread_range
from fastfc.kernels.simd.compiler import helper, inlined_helper
from fastfc.kernels.simd.memory import allocate, at, is_null, itemsize, one, pointer, read, release, stack, vector, view
from fastfc.kernels.simd.vector import load_first, splat, store_first, width

# products apply most activations themselves
activation_forward, activation_backward = OnDemand(_activation_forward), OnDemand(_activation_backward)

# what only programs with these operations need, and have loaded
OPTIONAL_KERNELS = {
    DROPOUT: [apply_dropout],
    LAYER_NORM: [normalise_rows, normalise_rows_backward],
    RMS_NORM: [normalise_rows, normalise_rows_backward],
    BATCH_NORM: [normalise_batch, normalise_columns, batch_norm_backward, update_running],
    FROZEN_BATCH_NORM: [normalise_batch, normalise_columns, batch_norm_backward],
    STANDARDIZE: [normalise_columns, divide_columns],
    EMBEDDING: [embedding_forward, embedding_backward],
    **{op: [per_feature_forward, per_feature_backward] for op in PER_FEATURE},
    NUMERIC_EMBEDDING: [numeric_embedding_forward, numeric_embedding_backward],
    POLYGON: [interpolate_forward, interpolate_backward],
    CLAMP: [clamp_forward, clamp_backward],
    MEMBER_PRODUCT: [member_product_forward, member_product_backward],
}

# Rows of a prediction go through all layers together, as many as find room in this part of L2. At least PACKED_ROWS do
# where each such block packs W or, of LEAST_ROWS, reads a W beyond L2 for a tile or two.
L2_SHARE = 4
LEAST_ROWS, PACKED_ROWS = 16, 512
# So many for each thread, and a prediction is cut into rows.
MANY_ROWS = 64
# Multiplications that an element of an activation takes as long as.
ACTIVATION_WORK = 32
# Up to so many bytes, a prediction's workspace is on the stack.
STACK_BYTES = 1 << 15

# Where the values of a pass are: matrices x and output, and a pointer to the workspace.
Memory = namedtuple("Memory", ["x", "output", "workspace"])
# What all ops of a pass share: a pointer to the vector of values, the program, n samples, the first of which is row
# first_row of its batch; rng_step numbers the masks of dropout, whose p is multiplied by `dropout`. `memory` is owned
# by the caller, and values overlap as the program says.
Context = namedtuple(
    "Context", ["params", "program", "memory", "n", "first_row", "rng_step", "dropout", "n_threads", "min_work"]
)
# Matrices of an op, n rows each, and the columns of y that it writes.
Operands = namedtuple("Operands", ["a", "b", "y", "width"])


def memory_type(dtype):
    return types.NamedTuple([matrix_type(dtype), matrix_type(dtype), types.CPointer(dtype)], Memory)


def context_type(dtype):
    members = [types.CPointer(dtype), table_type(), memory_type(dtype), *[types.int64] * 3, types.float64]
    members += [types.int64] * 2
    return types.NamedTuple(members, Context)


@helper
def padded_size(numbers, n):
    """Numbers in a workspace of so many per sample."""
    return numbers * ((n + ROW_MULTIPLE - 1) // ROW_MULTIPLE * ROW_MULTIPLE)


@helper
def workspace_size(program, n):
    """Numbers in the workspace that training in batches of n needs.

    Behind the values and gradients: dL/d(output), the output, the inputs and the targets.
    """
    numbers = program[0, Header.TRAIN_WORKSPACE] + 3 * program[0, Header.OUTPUTS] + program[0, Header.INPUTS]
    return numbers * ((n + ROW_MULTIPLE - 1) // ROW_MULTIPLE * ROW_MULTIPLE)


@inlined_helper
def locate(context, value, purpose, memory):
    """The matrix of a value."""
    program, workspace = context.program, memory.workspace
    where, first = program[value, purpose], program[value, purpose + 1]
    if where == IN_X:
        return columns_from(memory.x, first)
    if where == IN_OUTPUT:
        return columns_from(memory.output, first)
    size = itemsize(workspace)
    data = at(workspace, padded_size(first, context.n) * size)
    return Matrix(data, program[value, Value.WIDTH] * size, size)


@helper
def saved_batch(program, n, workspace):
    """Where the workspace, a pointer, has dL/d(output), the output, the inputs and the targets."""
    i, o, first = program[0, Header.INPUTS], program[0, Header.OUTPUTS], program[0, Header.TRAIN_WORKSPACE]
    size = itemsize(workspace)
    return (
        contiguous_matrix(at(workspace, padded_size(first, n) * size), o),
        contiguous_matrix(at(workspace, padded_size(first + o, n) * size), o),
        contiguous_matrix(at(workspace, padded_size(first + 2 * o, n) * size), i),
        contiguous_matrix(at(workspace, padded_size(first + 2 * o + i, n) * size), o),
    )


@helper
def multiply_add(n, columns, a, b, factor, y, add):
    """y = a b factor, or y += a b factor; b may be one number, with strides of 0."""
    size = itemsize(y.data)
    unit_stride = a.column == size and y.column == size and (b.column == size or b.column == 0)
    lanes = width(y.data) if unit_stride else 1
    for r in range(n):
        for j in range(0, columns, lanes):
            count = min(lanes, columns - j)
            dst, right = element(y, r, j), element(b, r, j)
            factors = splat(y.data, read(right)) if b.column == 0 else load_first(right, count, 0.0)
            value = load_first(element(a, r, j), count, 0.0) * factors * factor
            store_first(dst, load_first(dst, count, 0.0) + value if add else value, count)


@helper
def copy_values(n, columns, source, target, add):
    """target = source, or target += source."""
    multiply_add(n, columns, source, Matrix(one(source.data), 0, 0), 1.0, target, add)


@helper
def number(program, s, column):
    """A number in the formula of an op."""
    return np.int64(program[s, column]).view(np.float64)


@helper
def mask_of(context, s, columns, before, after):
    """The mask of a dropout, whose p is as its schedule changes it."""
    program = context.program
    own = key(program[s, Column.NUMBER], program[s, Column.WEIGHT], context.rng_step)
    p = min(number(program, s, Column.FACTOR) * context.dropout, 1.0)
    return Mask(skip(own, context.first_row * columns), p, before, after)


@helper
def activation_of(program, s):
    return Activation(program[s, Column.CODE], number(program, s, Column.FACTOR), number(program, s, Column.FACTOR_2))


@helper
def derivative(f):
    return Activation(f.code + DERIVATIVE, f.a, f.b)


@helper
def threads_of(context, work):
    """Number of threads for an op of so many multiplications: each does at least context.min_work of them."""
    return 1 if context.n_threads == 1 else max(1, min(context.n_threads, work // context.min_work))


@helper
def activate(a, y, n, o, f, n_threads):
    """y = f(a), by rows on several threads."""
    if n_threads > 1:
        return parallel(activate_range, (a, y, n, o, f), n_threads)
    return activation_forward(view(a, n, o), view(y, n, o), f.code, f.a, f.b)


@helper
def activate_range(a, y, n, o, f, index, n_threads):
    first, last = thread_range(index, n_threads, n)
    n = last - first
    return activation_forward(view(rows_from(a, first), n, o), view(rows_from(y, first), n, o), f.code, f.a, f.b)


@helper
def multiply_by_derivative(known, grad_y, out, n, o, f, n_threads):
    """out = grad_y f′, f′ in terms of what is known, by rows on several threads."""
    if n_threads > 1:
        return parallel(derivative_range, (known, grad_y, out, n, o, f), n_threads)
    return activation_backward(view(known, n, o), view(grad_y, n, o), view(out, n, o), f.code, f.a, f.b)


@helper
def derivative_range(known, grad_y, out, n, o, f, index, n_threads):
    first, last = thread_range(index, n_threads, n)
    known, grad_y, out, n = rows_from(known, first), rows_from(grad_y, first), rows_from(out, first), last - first
    return activation_backward(view(known, n, o), view(grad_y, n, o), view(out, n, o), f.code, f.a, f.b)


def embeddings_of_x(program):
    """(first column, columns, rows of the table, its width) of each embedding that reads x."""
    result = []
    for row in program[1 : 1 + program[0, Header.N_OPS]]:
        a, y = program[row[Column.A]], program[row[Column.Y]]
        if row[Column.OP] == EMBEDDING and a[Value.PREDICTING] == IN_X:
            first, columns = int(a[Value.PREDICTING + 1]), int(a[Value.WIDTH])
            result.append((first, columns, int(row[Column.NUMBER]), int(y[Value.WIDTH]) // columns))
    return result


def wrong_index(program, x):
    """What is wrong with the indices that x holds for embeddings, as text; empty if nothing is."""
    for first, columns, rows, table_width in embeddings_of_x(program):
        indices = x[:, first : first + columns]
        wrong = indices[~((indices >= 0) & (indices < rows) & (indices == np.floor(indices)))]
        if wrong.size:
            takes = f"Embedding({rows}, {table_width}) takes whole numbers from 0 to {rows - 1}"
            return f"x holds {wrong[0]:g}, but {takes}"
    return ""


def computed_index(program, x):
    return wrong_index(program, x) or "what a network computes for an Embedding is no row of its table"


@inlined_helper
def operands(context, s, purpose, memory):
    """The matrices of op s; y begins at the column that concat writes."""
    program = context.program
    a = locate(context, program[s, Column.A], purpose, memory)
    b = locate(context, program[s, Column.B], purpose, memory)
    y = locate(context, program[s, Column.Y], purpose, memory)
    if program[s, Column.OP] == CONCAT:
        return Operands(a, b, columns_from(y, program[s, Column.NUMBER]), program[program[s, Column.A], Value.WIDTH])
    return Operands(a, b, y, program[program[s, Column.Y], Value.WIDTH])


@inlined_helper
def weight_of(program, s, values, i, o):
    """The weight of a product, (i, o), in a vector of parameters or gradients."""
    data = at(values, program[s, Column.WEIGHT] * itemsize(values))
    return transposed(contiguous_matrix(data, i)) if program[s, Column.TRANSPOSED] else contiguous_matrix(data, o)


@helper
def affine_of(context, s, grads, o, add):
    """γ and β of a norm."""
    program = context.program
    weight, bias = program[s, Column.WEIGHT], program[s, Column.BIAS]
    return Affine(context.params, grads, weight, bias, context.n, o, add or program[s, Column.ADD_WEIGHT])


@inlined_helper
def product_op(context, s, x, training):
    """y = f(a W + b)"""
    program, params = context.program, context.params
    i, o, size = program[program[s, Column.A], Value.WIDTH], x.width, itemsize(params)
    first = program[s, Column.BIAS]
    bias = zeros(x.y) if first == NOWHERE else Matrix(at(params, first * size), 0, size)
    # if f′ is in terms of what the product gives, training keeps that: f is an op of its own
    f = NONE if training and program[s, Column.OF_INPUT] else activation_of(program, s)
    n_threads = threads_of(context, product_work_in_kernels(context.n, o, i))
    weight = weight_of(program, s, params, i, o)
    return forward_product(Product(x.y, x.a, weight, bias, context.n, o, i), f, n_threads)


@helper
def norm_op(context, s, x, training):
    """Layer norm, rms norm, batch norm and standardise."""
    program, params, o = context.program, context.params, x.width
    op, eps, affine = program[s, Column.OP], number(program, s, Column.FACTOR), affine_of(context, s, params, o, 0)
    if op in (LAYER_NORM, RMS_NORM):
        return normalise_rows(affine, x.a, x.y, x.b, op == LAYER_NORM, eps)
    if op == STANDARDIZE:
        mean = at(params, program[s, Column.WEIGHT] * itemsize(params))
        scale = at(mean, o * itemsize(params))
        return normalise_columns(Affine(params, params, -1, -1, context.n, o, 0), mean, scale, x.a, x.y, True)
    training = training and op == BATCH_NORM
    return normalise_batch(affine, x.b.data, x.a, x.y, program[s, Column.NUMBER], training, eps)


@helper
def per_feature_of(context, s, grads, o, after):
    """The parameters of a layer with one for each feature."""
    program, size = context.program, itemsize(grads)
    weight, bias = program[s, Column.WEIGHT] * size, program[s, Column.BIAS] * size
    kind, f = program[s, Column.OP] - COLUMN_SCALE, activation_of(program, s)
    count, of_input = program[s, Column.NUMBER], program[s, Column.OF_INPUT]
    values, gradients = (at(context.params, weight), at(context.params, bias)), (at(grads, weight), at(grads, bias))
    return PerFeature(*values, *gradients, count, kind, f, of_input, context.n, o, after)


@helper
def numeric_embedding_of(context, s, grads, o):
    """The parameters of an embedding of numbers."""
    program = context.program
    features = program[program[s, Column.A], Value.WIDTH]
    first, weight, k = program[s, Column.WEIGHT], program[s, Column.BIAS], program[s, Column.NUMBER]
    kind, shared = np.int64(number(program, s, Column.FACTOR)), program[s, Column.TRANSPOSED]
    return Embedding(context.params, grads, first, weight, features, k, o // features, kind, shared)


@helper
def sum_members(n, columns, members, source, target, factor, add):
    """target = factor × the sum of so many matrices that stand side by side, or target += that."""
    for m in range(members):
        part = columns_from(source, m * columns)
        multiply_add(n, columns, part, Matrix(one(source.data), 0, 0), factor, target, add or m > 0)


@helper
def repeat(n, columns, members, source, target, factor, add):
    """Each of so many matrices that stand side by side = factor × source, or += that."""
    for m in range(members):
        part = columns_from(target, m * columns)
        multiply_add(n, columns, source, Matrix(one(source.data), 0, 0), factor, part, add)


@helper
def feature_op(context, s, x, training):
    """Layers with parameters for each feature."""
    program, params, o, op = context.program, context.params, x.width, context.program[s, Column.OP]
    if op == NUMERIC_EMBEDDING:
        return numeric_embedding_forward(numeric_embedding_of(context, s, params, o), x.a, x.y, context.n)
    if op == POLYGON:
        polygons = at(params, program[s, Column.WEIGHT] * itemsize(params))
        return interpolate_forward(polygons, x.a, x.y, context.n, o, program[s, Column.NUMBER])
    if op == CLAMP:
        return clamp_forward(at(params, program[s, Column.WEIGHT] * itemsize(params)), x.a, x.y, context.n, o)
    after = 1.0 if training else number(program, s, Column.AFTER)
    return per_feature_forward(per_feature_of(context, s, params, o, after), x.a, x.y)


def operands_type(dtype):
    return types.NamedTuple([*[matrix_type(dtype)] * 3, types.int64], Operands)


@helper
def member_product_of(context, s, grads, x):
    """The weights and biases of a product of members."""
    program, params, size, n = context.program, context.params, itemsize(grads), context.n
    members, shared = program[s, Column.NUMBER], program[s, Column.TRANSPOSED]
    i, o = program[program[s, Column.A], Value.WIDTH] // members, x.width // members
    weight, bias = program[s, Column.WEIGHT], program[s, Column.BIAS]
    values = at(params, weight * size), at(params, bias * size)
    gradients = at(grads, weight * size), at(grads, bias * size)
    n_threads = threads_of(context, product_work_in_kernels(n * members if shared else n, o, i))
    return MemberProduct(*values, *gradients, members, shared, np.int64(bias != NOWHERE), n, i, o, n_threads)


@on_demand_kernel(lambda dtype: types.int64(context_type(dtype), types.int64, operands_type(dtype)))
def member_op(context, s, x):
    """y of an op of several members, whose columns stand side by side. Returns a status."""
    program, n = context.program, context.n
    op, members = program[s, Column.OP], program[s, Column.NUMBER]
    if op == MEMBER_PRODUCT:
        return member_product_forward(member_product_of(context, s, context.params, x), x.a, x.y)
    if op == MEMBER_ACTIVATION:
        f, o, status = activation_of(program, s), x.width // members, OK
        for m in range(members):
            status = max(status, activate(columns_from(x.a, m * o), columns_from(x.y, m * o), n, o, f, 1))
        return status
    factor = number(program, s, Column.FACTOR)
    if op == REPEAT:
        repeat(n, x.width // members, members, x.a, x.y, factor, False)
    else:
        sum_members(n, x.width, members, x.a, x.y, factor, False)
    return OK


@inlined_helper
def forward_op(context, s, purpose):
    """y of op s. Returns a status."""
    program, n, training = context.program, context.n, purpose == Value.TRAINING
    op, x = program[s, Column.OP], operands(context, s, purpose, context.memory)
    if op == PRODUCT:
        return product_op(context, s, x, training)
    if op == ACTIVATION:
        if program[s, Column.SKIPPED] and not training:
            return OK
        f = activation_of(program, s)
        return activate(x.a, x.y, n, x.width, f, threads_of(context, ACTIVATION_WORK * n * x.width))
    return other_op(context, s, x, purpose)


@on_demand_kernel(lambda dtype: types.int64(context_type(dtype), types.int64, operands_type(dtype), types.int64))
def other_op(context, s, x, purpose):
    """y of an op that is neither a product nor an activation. Returns a status."""
    program, n, training = context.program, context.n, purpose == Value.TRAINING
    op = program[s, Column.OP]
    if program[s, Column.SKIPPED] and not training:
        return OK
    if op == DROPOUT and training and context.dropout > 0.0:
        mask = mask_of(context, s, x.width, 1.0, number(program, s, Column.FACTOR_2))
        return apply_dropout(x.a, x.y, n, x.width, mask, False)
    if op in NORMS or op == STANDARDIZE:
        return norm_op(context, s, x, training)
    if op == EMBEDDING:
        i = program[program[s, Column.A], Value.WIDTH]
        table = at(context.params, program[s, Column.WEIGHT] * itemsize(context.params))
        return embedding_forward(table, x.a, x.y, n, i, x.width // i, program[s, Column.NUMBER])
    if op >= MEMBER_PRODUCT:
        return member_op(context, s, x)
    if op >= COLUMN_SCALE:
        return feature_op(context, s, x, training)
    ones = Matrix(one(context.params), 0, 0)
    factor = number(program, s, Column.FACTOR_2 if op == DROPOUT else Column.FACTOR)
    multiply_add(n, x.width, x.a, x.b if op == MULTIPLY else ones, factor, x.y, False)
    if op == ADD:
        multiply_add(n, x.width, x.b, ones, 1.0, x.y, True)
    return OK


@compiled_kernel(lambda dtype: types.int64(context_type(dtype), types.int64))
def run_forward(context, purpose):
    """All ops in order, for a prediction or in training. Returns a status."""
    for s in range(1, 1 + context.program[0, Header.N_OPS]):
        status = forward_op(context, s, purpose)
        if status != OK:
            return status
    return OK


# What a backward op computes: whether the gradients of a and of b, and whether it adds to those of parameters.
Flags = namedtuple("Flags", ["a", "b", "add"])
flags_type = types.NamedUniTuple(types.int64, 3, Flags)


@inlined_helper
def product_op_backward(context, s, grads, x, grad, flags):
    """dz = dy f′(y); dW = aᵀ dz, db = column sums of dz, da = dz Wᵀ"""
    program, n, f = context.program, context.n, activation_of(context.program, s)
    i, o = program[program[s, Column.A], Value.WIDTH], x.width
    dz, status = view(grad.y, n, o), OK
    if f.code != IDENTITY and not program[s, Column.DERIVED] and not program[s, Column.OF_INPUT]:
        status = multiply_by_derivative(x.y, grad.y, grad.y, n, o, f, threads_of(context, ACTIVATION_WORK * n * o))
    n_threads = threads_of(context, product_work_in_kernels(n, o, i))
    grad_w, add = view(weight_of(program, s, grads, i, o), i, o), flags.add or program[s, Column.ADD_WEIGHT]
    status = max(status, weight_grad(view(x.a, n, i), dz, grad_w, add, n_threads))
    first = program[s, Column.BIAS]
    if first != NOWHERE:
        bias_threads = threads_of(context, ELEMENT_WORK * n * o)
        grad_b, add = vector(at(grads, first * itemsize(grads)), o), flags.add or program[s, Column.ADD_BIAS]
        status = max(status, bias_grad(dz, grad_b, add, bias_threads))
    if flags.a:
        # with the derivative of the activation before, in terms of what that op read or wrote
        maker, f_before, known = program[s, Column.DERIVE_A], NONE, x.a
        if maker:
            f_before = derivative(activation_of(program, maker))
        if maker and program[maker, Column.OF_INPUT]:
            known = locate(context, program[maker, Column.A], Value.TRAINING, context.memory)
        start = grad.a if program[s, Column.ADD_A] else zeros(grad.a)
        weight = transposed(weight_of(program, s, context.params, i, o))
        product = Product(grad.a, grad.y, weight, start, n, i, o)
        status = max(status, input_product(product, f_before, known, n_threads))
    return status


@helper
def norm_op_backward(context, s, grads, x, grad, flags):
    """dL/dγ, dL/dβ and da"""
    program, params = context.program, context.params
    op, add_a = program[s, Column.OP], program[s, Column.ADD_A]
    into = (ACCUMULATE if add_a else OVERWRITE) if flags.a else IGNORE
    affine = affine_of(context, s, grads, x.width, flags.add)
    if op in (LAYER_NORM, RMS_NORM):
        return normalise_rows_backward(affine, x.a, grad.y, grad.a, x.b, op == LAYER_NORM, into)
    if op == STANDARDIZE:
        scale = at(params, (program[s, Column.WEIGHT] + x.width) * itemsize(params))
        return divide_columns(scale, grad.y, grad.a, context.n, x.width, add_a) if flags.a else OK
    running = program[s, Column.NUMBER] if op == FROZEN_BATCH_NORM else NOWHERE
    return batch_norm_backward(affine, x.b.data, x.a, grad.y, grad.a, running, into)


@helper
def feature_op_backward(context, s, grads, x, grad, flags):
    """Gradients of the parameters, and da, of layers with parameters for each feature."""
    program, params, o, op = context.program, context.params, x.width, context.program[s, Column.OP]
    into = (ACCUMULATE if program[s, Column.ADD_A] else OVERWRITE) if flags.a else IGNORE
    add = flags.add or program[s, Column.ADD_WEIGHT]
    if op == NUMERIC_EMBEDDING:
        e = numeric_embedding_of(context, s, grads, o)
        return numeric_embedding_backward(e, x.a, grad.y, grad.a, context.n, into, add)
    if op == POLYGON:
        if into == IGNORE:
            return OK
        polygons = at(params, program[s, Column.WEIGHT] * itemsize(params))
        return interpolate_backward(polygons, x.a, grad.y, grad.a, context.n, o, program[s, Column.NUMBER], into)
    if op == CLAMP:
        bounds = at(params, program[s, Column.WEIGHT] * itemsize(params))
        return OK if into == IGNORE else clamp_backward(bounds, x.a, grad.y, grad.a, context.n, o, into)
    return per_feature_backward(per_feature_of(context, s, grads, o, 1.0), x.a, grad.y, grad.a, into, add)


@on_demand_kernel(
    lambda dtype: types.int64(
        context_type(dtype), types.int64, types.CPointer(dtype), *[operands_type(dtype)] * 2, flags_type
    )
)
def member_op_backward(context, s, grads, x, grad, flags):
    """Gradients of an op of several members. Returns a status."""
    program, n = context.program, context.n
    op, members = program[s, Column.OP], program[s, Column.NUMBER]
    add_a, o = program[s, Column.ADD_A], x.width // members
    if op == MEMBER_PRODUCT:
        into = (ACCUMULATE if add_a else OVERWRITE) if flags.a else IGNORE
        add = flags.add or program[s, Column.ADD_WEIGHT]
        return member_product_backward(member_product_of(context, s, grads, x), x.a, grad.y, grad.a, into, add)
    if not flags.a:
        return OK
    if op == MEMBER_ACTIVATION:
        f, target, status = activation_of(program, s), grad.y if add_a else grad.a, OK
        known = x.a if program[s, Column.OF_INPUT] else x.y
        for m in range(0, x.width, o):
            of_y, of_a = columns_from(grad.y, m), columns_from(target, m)
            status = max(status, multiply_by_derivative(columns_from(known, m), of_y, of_a, n, o, f, 1))
        if add_a:
            copy_values(n, x.width, grad.y, grad.a, True)
        return status
    factor = number(program, s, Column.FACTOR)
    if op == REPEAT:
        sum_members(n, o, members, grad.y, grad.a, factor, add_a)
    else:
        repeat(n, x.width, members, grad.y, grad.a, factor, add_a)
    return OK


@helper
def activation_op_backward(context, s, x, grad):
    """da = dy f′"""
    program, n, o, f = context.program, context.n, x.width, activation_of(context.program, s)
    add_a, known = program[s, Column.ADD_A], x.a if program[s, Column.OF_INPUT] else x.y
    target = grad.y if add_a else grad.a
    n_threads = threads_of(context, ACTIVATION_WORK * n * o)
    status = multiply_by_derivative(known, grad.y, target, n, o, f, n_threads)
    if add_a:
        copy_values(n, o, grad.y, grad.a, True)
    return status


@helper
def embedding_op_backward(context, s, grads, x, grad, flags):
    """The gradient of the table; that of the indices is 0."""
    program, n, i = context.program, context.n, context.program[context.program[s, Column.A], Value.WIDTH]
    table_grad = at(grads, program[s, Column.WEIGHT] * itemsize(grads))
    add, rows = flags.add or program[s, Column.ADD_WEIGHT], program[s, Column.NUMBER]
    if flags.a and not program[s, Column.ADD_A]:
        copy_values(n, i, zeros(grad.a), grad.a, False)
    return embedding_backward(table_grad, x.a, grad.y, n, i, x.width // i, rows, add)


@inlined_helper
def backward_op(context, s, grads, x, grad, flags):
    """Gradients of op s, from that of y. Returns a status."""
    program, op = context.program, context.program[s, Column.OP]
    if op == PRODUCT:
        return product_op_backward(context, s, grads, x, grad, flags)
    if op == ACTIVATION:
        return activation_op_backward(context, s, x, grad) if flags.a and not program[s, Column.DERIVED] else OK
    return other_op_backward(context, s, grads, x, grad, flags)


@on_demand_kernel(
    lambda dtype: types.int64(
        context_type(dtype), types.int64, types.CPointer(dtype), *[operands_type(dtype)] * 2, flags_type
    )
)
def other_op_backward(context, s, grads, x, grad, flags):
    """Gradients of an op that is neither a product nor an activation, from that of y. Returns a status."""
    program, n, op = context.program, context.n, context.program[s, Column.OP]
    add_a, add_b = program[s, Column.ADD_A], program[s, Column.ADD_B]
    if op in NORMS or op == STANDARDIZE:
        return norm_op_backward(context, s, grads, x, grad, flags)
    if op == EMBEDDING:
        return embedding_op_backward(context, s, grads, x, grad, flags)
    if op >= MEMBER_PRODUCT:
        return member_op_backward(context, s, grads, x, grad, flags)
    if op >= COLUMN_SCALE:
        return feature_op_backward(context, s, grads, x, grad, flags)
    if op == DROPOUT and context.dropout > 0.0:
        mask = mask_of(context, s, x.width, number(program, s, Column.FACTOR_2), 1.0)
        return apply_dropout(grad.y, grad.a, n, x.width, mask, add_a) if flags.a else OK
    ones = Matrix(one(context.params), 0, 0)
    if flags.a:
        factor = number(program, s, Column.FACTOR_2 if op == DROPOUT else Column.FACTOR)
        multiply_add(n, x.width, grad.y, x.b if op == MULTIPLY else ones, factor, grad.a, add_a)
    if flags.b and op in (MULTIPLY, ADD):
        multiply_add(n, x.width, grad.y, x.a if op == MULTIPLY else ones, 1.0, grad.b, add_b)
    return OK


@compiled_kernel(
    lambda dtype: types.int64(context_type(dtype), types.CPointer(dtype), memory_type(dtype), *[types.int64] * 2)
)
def run_backward(context, grads, gradients, wants_x, add):
    """All ops in reverse: the gradients of all parameters, or what they add to, and of x if wanted. Returns a status.

    gradients.output is dL/d(output), and is used up; gradients.x receives dL/dx.
    """
    program = context.program
    for s in range(program[0, Header.N_OPS], 0, -1):
        x = operands(context, s, Value.TRAINING, context.memory)
        grad = operands(context, s, Value.GRADIENT, gradients)
        wants_a = wants_x or program[program[s, Column.A], Value.GRADIENT] != IN_X
        wants_b = wants_x or program[program[s, Column.B], Value.GRADIENT] != IN_X
        status = backward_op(context, s, grads, x, grad, Flags(np.int64(wants_a), np.int64(wants_b), add))
        if status != OK:
            return status
    return OK


@helper
def check_shapes(params, program, x, out):
    """Status of arrays that a program is to run on."""
    inputs, outputs = program[0, Header.INPUTS], program[0, Header.OUTPUTS]
    if x.shape[0] != out.shape[0] or x.shape[1] != inputs or out.shape[1] != outputs:
        return BAD_SHAPE
    if params.size != program[0, Header.VALUES]:
        return BAD_SHAPE
    return OVERLAP if overlaps(out, x) or overlaps(out, params) else OK


@helper
def predict_range(params, program, x, out, index, n_threads):
    """`predict_rows` of one range of the rows."""
    first, last = thread_range(index, n_threads, x.shape[0])
    return predict_rows(params, program, x[first:last], out[first:last], 1, 1)


@inlined_helper
def rows_of_block(row_bytes, machine):
    """How many rows of a prediction go through all layers together, if each takes so much of the workspace."""
    rows = max(LEAST_ROWS, machine.l2_bytes // L2_SHARE // max(row_bytes, 1) // LEAST_ROWS * LEAST_ROWS)
    if rows == LEAST_ROWS or machine.panel_bytes == machine.l1_bytes:
        return max(rows, PACKED_ROWS)
    return rows


@inlined_helper
def predict_rows(params, program, x, out, n_threads, min_work):
    """out = the network's output, by blocks of rows that go through all layers."""
    n, numbers, size = x.shape[0], program[0, Header.PREDICT_WORKSPACE], out.itemsize
    rows = rows_of_block(numbers * size, blocking(pointer(out)))
    rows = n if program[0, Header.WHOLE] else min(rows, n)
    nbytes = padded_size(numbers, rows) * size
    heap, to_release = allocate(pointer(out), nbytes if nbytes > STACK_BYTES else 0)
    if nbytes > STACK_BYTES and is_null(to_release):
        return NO_MEMORY
    workspace, status = heap if nbytes > STACK_BYTES else stack(pointer(out), STACK_BYTES), OK
    for r in range(0, n, max(rows, 1)):
        memory = Memory(rows_from(matrix(x), r), rows_from(matrix(out), r), workspace)
        context = Context(pointer(params), program, memory, min(rows, n - r), 0, 0, 1.0, n_threads, min_work)
        status = run_forward(context, Value.PREDICTING)
        if status != OK:
            break
    release(to_release)
    return status


@kernel(
    "params[p], program:int64[t, c], x[n, i] -> out[n, o]",
    *[types.int64] * 2,
    wrong_index=lambda params, program, x, out: computed_index(program, x),
)
def predict(params, program, x, out, n_threads, min_work):
    """out = the network's output, by blocks of rows that go through all layers.

    Several threads have rows each or, of few rows, their part of each product.
    """
    status = check_shapes(params, program, x, out)
    if status != OK:
        return status
    if out.size == 0:  # of which there may be more rows than a loop could pass
        return OK
    n = x.shape[0]
    if n_threads > 1 and n >= n_threads * MANY_ROWS and not program[0, Header.WHOLE]:
        return parallel(predict_range, (params, program, x, out), n_threads)
    return predict_rows(params, program, x, out, n_threads, min_work)


@helper
def commit_step(context, counters):
    """After a forward, or a step, that went well: count it, and remember what batch norm saw."""
    program, n = context.program, context.n
    counters[1] += 1
    for s in range(1, 1 + program[0, Header.N_OPS]):
        running = program[s, Column.NUMBER]
        if program[s, Column.OP] == BATCH_NORM and n > 1 and running != NOWHERE:
            saved = locate(context, program[s, Column.B], Value.TRAINING, context.memory)
            momentum, o = number(program, s, Column.FACTOR_2), program[program[s, Column.Y], Value.WIDTH]
            share = momentum if momentum >= 0.0 else 1.0 / counters[1]
            update_running(context.params, saved.data, running, n, o, share)


@helper
def fits_workspace(program, n, workspace, counters):
    """Whether the memory of a network is large enough to train in batches of n."""
    return workspace.size >= workspace_size(program, n) and counters.size == 2


@kernel(
    "x[n, i], program:int64[t, c] -> params[p], out[n, o], workspace[s], counters:int64[two]",
    *[types.int64] * 2,
    wrong_index=lambda x, program, *rest: computed_index(program, x),
)
def forward(x, program, params, out, workspace, counters, n_threads, min_work):
    """out = the network's output; workspace keeps what `backward` needs."""
    status, n = check_shapes(params, program, x, out), x.shape[0] if out.size else 0
    if status != OK or not fits_workspace(program, n, workspace, counters):
        return max(status, BAD_SHAPE)
    memory = Memory(matrix(x), matrix(out), pointer(workspace))
    context = Context(pointer(params), program, memory, n, 0, counters[1] + 1, 1.0, n_threads, min_work)
    status = run_forward(context, Value.TRAINING)
    if status == OK:
        commit_step(context, counters)
    return status


@kernel(
    "params[p], program:int64[t, c], x[n, i], output[n, o], grad_output[n, o], counters:int64[two] "
    "-> grads[g], grad_input[m, i], workspace[s]",
    *[types.int64] * 2,
    wrong_index=lambda params, program, x, *rest: computed_index(program, x),
)
def backward(params, program, x, output, grad_output, counters, grads, grad_input, workspace, n_threads, min_work):
    """grads, and grad_input if it has rows, from what `forward` left in workspace."""
    status, n = check_shapes(params, program, x, output), x.shape[0] if output.size else 0
    fits = fits_workspace(program, n, workspace, counters) and grads.size == program[0, Header.PARAMETERS]
    if status != OK or not fits:
        return max(status, BAD_SHAPE)
    if overlaps(grads, x):
        return OVERLAP
    data = pointer(workspace)
    g, _, _, _ = saved_batch(program, n, data)
    copy_values(n, output.shape[1], matrix(grad_output), g, False)
    memory = Memory(matrix(x), matrix(output), data)
    context = Context(pointer(params), program, memory, n, 0, counters[1], 1.0, n_threads, min_work)
    wants_x = grad_input.shape[0] == n and n > 0
    return run_backward(context, pointer(grads), Memory(matrix(grad_input), g, data), wants_x, 0)


@kernel("x[n, i], program:int64[t, c] -> params[p], out[n, o], workspace[s], counters:int64[two]")
def forward_saving(x, program, params, out, workspace, counters):
    """As `forward`; workspace keeps the inputs and outputs too."""
    status, n = check_shapes(params, program, x, out), x.shape[0]
    if status != OK or not fits_workspace(program, n, workspace, counters):
        return max(status, BAD_SHAPE)
    data = pointer(workspace)
    _, y, x_saved, _ = saved_batch(program, n, data)
    copy_values(n, x.shape[1], matrix(x), x_saved, False)
    context = Context(pointer(params), program, Memory(x_saved, y, data), n, 0, counters[1] + 1, 1.0, 1, 1)
    status = run_forward(context, Value.TRAINING)
    copy_values(n, out.shape[1], y, matrix(out), False)
    if status == OK:
        commit_step(context, counters)
    return status


@kernel(
    "params[p], program:int64[t, c], grad_output[n, o], counters:int64[two] -> grads[g], grad_input[n, i], workspace[s]"
)
def backward_saved(params, program, grad_output, counters, grads, grad_input, workspace):
    """As `backward`, after `forward_saving`."""
    status, n = check_shapes(params, program, grad_input, grad_output), grad_input.shape[0]
    fits = fits_workspace(program, n, workspace, counters) and grads.size == program[0, Header.PARAMETERS]
    if status != OK or not fits:
        return max(status, BAD_SHAPE)
    data = pointer(workspace)
    g, y, x, _ = saved_batch(program, n, data)
    copy_values(n, grad_output.shape[1], matrix(grad_output), g, False)
    context = Context(pointer(params), program, Memory(x, y, data), n, 0, counters[1], 1.0, 1, 1)
    return run_backward(context, pointer(grads), Memory(matrix(grad_input), g, data), 1, 0)
