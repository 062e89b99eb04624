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

and what has files of its own: `dropout`, `embedding` and, in `norms`, layer norm, rms norm, batch norm and
standardise.

Backward runs the steps in reverse, each multiplying what it receives by its local gradient (the chain rule);
what several steps contribute to one gradient is added in that order.
"""

import numpy as np
from numba import prange, types

from fastfc.kernels.ops.activation_rules import DERIVATIVE, IDENTITY, NONE, Activation
from fastfc.kernels.ops.activations import _activation_backward, _activation_forward
from fastfc.kernels.ops.dense_bias_grad import _dense_bias_grad
from fastfc.kernels.ops.dense_weight_grad import _dense_weight_grad
from fastfc.kernels.ops.dropout import apply_dropout, key
from fastfc.kernels.ops.embedding import embedding_backward, embedding_forward
from fastfc.kernels.ops.gemm import forward_product, input_product
from fastfc.kernels.ops.gemm_plan import blocking
from fastfc.kernels.ops.matrix import Matrix, element, matrix, matrix_type, transposed, zeros
from fastfc.kernels.ops.norms import (
    batch_norm_backward,
    divide_columns,
    normalise_batch,
    normalise_columns,
    normalise_rows,
    normalise_rows_backward,
    update_running,
)
from fastfc.kernels.program.table import (
    ACTIVATION,
    ADD,
    ADD_A,
    ADD_B,
    ADD_BIAS,
    ADD_WEIGHT,
    BATCH_NORM,
    BIAS,
    CODE,
    CONCAT,
    DERIVE_A,
    DERIVED,
    DROPOUT,
    EMBEDDING,
    FACTOR,
    FACTOR_2,
    FROZEN_BATCH_NORM,
    GRADIENT,
    IN_OUTPUT,
    IN_PRODUCT,
    IN_X,
    INPUTS,
    LAYER_NORM,
    MULTIPLY,
    N_OPS,
    NOWHERE,
    NUMBER,
    OF_INPUT,
    OP,
    OUTPUTS,
    PARAMETERS,
    PREDICT_WORKSPACE,
    PREDICTING,
    PRODUCT,
    RMS_NORM,
    STANDARDIZE,
    TRAIN_WORKSPACE,
    TRAINING,
    TRANSPOSED,
    VALUES,
    WEIGHT,
    WHOLE,
    WIDTH,
    A,
    B,
    Y,
    table_type,
)
from fastfc.kernels.runtime.kernel import kernel
from fastfc.kernels.runtime.native import compiled_kernel
from fastfc.kernels.runtime.overlap import overlaps
from fastfc.kernels.runtime.status import BAD_SHAPE, NO_MEMORY, OK, OVERLAP
from fastfc.kernels.runtime.threads import thread_range
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import allocate, at, is_null, itemsize, one, pointer, read, release, stack, vector, view
from fastfc.kernels.simd.vector import load_first, splat, store_first, width

# what only programs with these operations need, and have loaded
OPTIONAL_KERNELS = {
    DROPOUT: [apply_dropout],
    LAYER_NORM: [normalise_rows, normalise_rows_backward],
    RMS_NORM: [normalise_rows, normalise_rows_backward],
    BATCH_NORM: [normalise_batch, normalise_columns, batch_norm_backward, update_running],
    FROZEN_BATCH_NORM: [normalise_batch, normalise_columns, batch_norm_backward],
    STANDARDIZE: [normalise_columns, divide_columns],
    EMBEDDING: [embedding_forward, embedding_backward],
}

# Rows of a prediction go through all layers together, as many as find room in this part of L2.
L2_SHARE = 4
# So many for each thread, and a prediction is cut into rows.
MANY_ROWS = 64
# Up to so many bytes, a prediction's workspace is on the stack.
STACK_BYTES = 1 << 15

# Rows that each value has room for at least: every value then begins at a multiple of 64 bytes.
LEAST_ROWS = 16


@helper
def padded_rows(n):
    """Rows that each value has room for."""
    return (n + LEAST_ROWS - 1) // LEAST_ROWS * LEAST_ROWS


@helper
def padded_size(numbers, n):
    """Numbers in a workspace of so many per sample."""
    return numbers * padded_rows(n)


@helper
def workspace_size(program, n):
    """Numbers of workspace that training in batches of n needs.

    Behind the values and gradients: dL/d(output), the output, the inputs and the targets.
    """
    return padded_size(program[0, TRAIN_WORKSPACE] + 3 * program[0, OUTPUTS] + program[0, INPUTS], n)


@helper
def locate(program, value, purpose, n, x, output, workspace):
    """The matrix of a value."""
    where, first = program[value, purpose], program[value, purpose + 1]
    if where == IN_X:
        return Matrix(element(x, 0, first), x.row, x.column)
    if where == IN_OUTPUT:
        return Matrix(element(output, 0, first), output.row, output.column)
    size = itemsize(workspace)
    return Matrix(at(workspace, padded_size(first, n) * size), program[value, WIDTH] * size, size)


@helper
def dense(n, columns, data):
    """A matrix of n whole rows, one after another."""
    return Matrix(data, columns * itemsize(data), itemsize(data))


@helper
def saved(program, n, workspace):
    """Where workspace, a pointer, has dL/d(output), the output, the inputs and the targets."""
    i, o, first, size = program[0, INPUTS], program[0, OUTPUTS], program[0, TRAIN_WORKSPACE], itemsize(workspace)
    return (
        dense(n, o, at(workspace, padded_size(first, n) * size)),
        dense(n, o, at(workspace, padded_size(first + o, n) * size)),
        dense(n, i, at(workspace, padded_size(first + 2 * o, n) * size)),
        dense(n, o, at(workspace, padded_size(first + 2 * o + i, n) * size)),
    )


@helper
def row(x, r):
    """A matrix without its first r rows."""
    return Matrix(element(x, r, 0), x.row, x.column)


@helper
def n_threads_for(n_threads, min_work, work):
    """How many of the parts there should be, each with at least so many multiplications."""
    return 1 if n_threads == 1 else max(1, min(n_threads, work // min_work))


@helper
def multiply_add(n, columns, a, b, factor, y, add):
    """y = a b factor, or y += a b factor; b may be one number, with strides of 0."""
    size = itemsize(y.data)
    contiguous = a.column == size and y.column == size and (b.column == size or b.column == 0)
    step = width(y.data) if contiguous else 1
    for r in range(n):
        for j in range(0, columns, step):
            some = min(step, columns - j)
            here, partner = element(y, r, j), element(b, r, j)
            local = splat(y.data, read(partner)) if b.column == 0 else load_first(partner, some, 0.0)
            value = load_first(element(a, r, j), some, 0.0) * local * factor
            store_first(here, load_first(here, some, 0.0) + value if add else value, some)


@helper
def number(program, s, column):
    """A number in the formula of a step."""
    return np.int64(program[s, column]).view(np.float64)


@helper
def activation_of(program, s):
    return Activation(program[s, CODE], number(program, s, FACTOR), number(program, s, FACTOR_2))


@helper
def derivative(f):
    return Activation(f.code + DERIVATIVE, f.a, f.b)


def looked_up(program):
    """(first column, columns, rows of the table, its width) of each embedding that reads x."""
    found = []
    for s in range(1, 1 + program[0, N_OPS]):
        a, y = program[s, A], program[s, Y]
        if program[s, OP] == EMBEDDING and program[a, PREDICTING] == IN_X:
            first, columns = map(int, (program[a, PREDICTING + 1], program[a, WIDTH]))
            found.append((first, columns, int(program[s, NUMBER]), int(program[y, WIDTH]) // columns))
    return found


def wrong_index(program, x):
    """What is wrong with the indices that x holds for embeddings, as text; empty if nothing is."""
    for first, columns, rows, wide in looked_up(program):
        some = x[:, first : first + columns]
        wrong = some[~((some >= 0) & (some < rows) & (some == np.floor(some)))]
        if wrong.size:
            return f"x holds {wrong[0]:g}, but Embedding({rows}, {wide}) takes whole numbers from 0 to {rows - 1}"
    return ""


def computed_index(program, x):
    return wrong_index(program, x) or "what a network computes for an Embedding is no row of its table"


@helper
def operands(program, s, purpose, n, x, output, workspace):
    """Of step s: a, b and y, the columns of y that a fills in case of `place`; and their number."""
    a = locate(program, program[s, A], purpose, n, x, output, workspace)
    b = locate(program, program[s, B], purpose, n, x, output, workspace)
    y = locate(program, program[s, Y], purpose, n, x, output, workspace)
    if program[s, OP] == CONCAT:
        return a, b, Matrix(element(y, 0, program[s, NUMBER]), y.row, y.column), program[program[s, A], WIDTH]
    return a, b, y, program[program[s, Y], WIDTH]


@compiled_kernel(
    lambda dtype: types.int64(
        types.CPointer(dtype),
        table_type(),
        matrix_type(dtype),
        matrix_type(dtype),
        types.CPointer(dtype),
        *[types.int64] * 5,
    )
)
def run_forward(params, program, x, output, workspace, n, purpose, rng_step, n_threads, min_work):
    """All steps in order; draw is the number of this forward in training. Returns a status."""
    size = itemsize(params)
    ones = Matrix(one(params), 0, 0)
    for s in range(1, 1 + program[0, N_OPS]):
        op, found = program[s, OP], OK
        a, b, y, o = operands(program, s, purpose, n, x, output, workspace)
        if op == PRODUCT:
            i = program[program[s, A], WIDTH]
            weight = weight_of(program, s, params, i, o)
            bias = zeros(y) if program[s, BIAS] == NOWHERE else Matrix(at(params, program[s, BIAS] * size), 0, size)
            f = activation_of(program, s)
            if program[s, OF_INPUT] and purpose == TRAINING:
                f = NONE
            found = forward_product(y, a, weight, bias, n, o, i, f, n_threads_for(n_threads, min_work, n * i * o))
        elif op == ACTIVATION:
            f = activation_of(program, s)
            if not (program[s, IN_PRODUCT] and purpose == PREDICTING):
                found = _activation_forward(view(a, n, o), view(y, n, o), f.code, f.a, f.b)
        elif op == MULTIPLY:
            multiply_add(n, o, a, b, 1.0, y, False)
        elif op == DROPOUT and purpose == TRAINING:
            found = apply_dropout(a, y, n, o, key(program[s, NUMBER], s, rng_step), number(program, s, FACTOR), False)
        elif op in (LAYER_NORM, RMS_NORM):
            weight, bias, eps = program[s, WEIGHT], program[s, BIAS], number(program, s, FACTOR)
            found = normalise_rows(params, a, y, b, n, o, weight, bias, op == LAYER_NORM, eps)
        elif op in (BATCH_NORM, FROZEN_BATCH_NORM):
            weight, bias, running = program[s, WEIGHT], program[s, BIAS], program[s, NUMBER]
            training, eps = purpose == TRAINING and op == BATCH_NORM, number(program, s, FACTOR)
            found = normalise_batch(params, b.data, a, y, n, o, weight, bias, running, training, eps)
        elif op == STANDARDIZE:
            mean, spread = at(params, program[s, WEIGHT] * size), at(params, (program[s, WEIGHT] + o) * size)
            found = normalise_columns(params, mean, spread, a, y, n, o, -1, -1, True)
        elif op == EMBEDDING:
            i = program[program[s, A], WIDTH]
            found = embedding_forward(at(params, program[s, WEIGHT] * size), a, y, n, i, o // i, program[s, NUMBER])
        else:
            multiply_add(n, o, a, ones, 1.0 if op == DROPOUT else number(program, s, FACTOR), y, False)
            if op == ADD:
                multiply_add(n, o, b, ones, 1.0, y, True)
        if found != OK:
            return found
    return OK


@helper
def weight_of(program, s, params, i, o):
    """The weight of a product, (i, o), in a vector of parameters or gradients."""
    data = at(params, program[s, WEIGHT] * itemsize(params))
    return transposed(dense(o, i, data)) if program[s, TRANSPOSED] else dense(i, o, data)


@compiled_kernel(
    lambda dtype: types.int64(
        types.CPointer(dtype),
        types.CPointer(dtype),
        table_type(),
        *[matrix_type(dtype)] * 4,
        types.CPointer(dtype),
        *[types.int64] * 6,
    )
)
def run_backward(
    params, grads, program, x, output, grad_x, grad_output, workspace, n, input_wanted, rng_step, add,
    n_threads, min_work
):  # fmt: skip
    """All steps in reverse: the gradients of all parameters, or what they add to, and of x if wanted. Returns a status.

    grad_output is dL/d(output), and is used up.
    """
    size = itemsize(params)
    ones = Matrix(one(params), 0, 0)
    for s in range(program[0, N_OPS], 0, -1):
        op, f, found = program[s, OP], activation_of(program, s), OK
        a, b, y, o = operands(program, s, TRAINING, n, x, output, workspace)
        grad_a, grad_b, grad_y, _ = operands(program, s, GRADIENT, n, grad_x, grad_output, workspace)
        a_wanted = input_wanted or program[program[s, A], GRADIENT] != IN_X
        b_wanted = input_wanted or program[program[s, B], GRADIENT] != IN_X
        add_a, add_b = program[s, ADD_A], program[s, ADD_B]
        if op == PRODUCT:
            i = program[program[s, A], WIDTH]
            dz = view(grad_y, n, o)
            if f.code != IDENTITY and not program[s, DERIVED] and not program[s, OF_INPUT]:
                found = _activation_backward(view(y, n, o), dz, dz, f.code, f.a, f.b)
            weight_grad = view(weight_of(program, s, grads, i, o), i, o)
            some = n_threads_for(n_threads, min_work, n * i * o)
            more = add or program[s, ADD_WEIGHT]
            found = max(found, _dense_weight_grad(view(a, n, i), dz, weight_grad, more, some))
            if program[s, BIAS] != NOWHERE:
                bias_grad = vector(at(grads, program[s, BIAS] * size), o)
                more, some_more = add or program[s, ADD_BIAS], n_threads_for(n_threads, min_work, 2 * n * o)
                found = max(found, _dense_bias_grad(dz, bias_grad, more, some_more))
            if a_wanted:
                weight = weight_of(program, s, params, i, o)
                start, derive, maker, saved = grad_a if add_a else zeros(grad_a), NONE, program[s, DERIVE_A], a
                if maker:
                    derive = derivative(activation_of(program, maker))
                if maker and program[maker, OF_INPUT]:
                    saved = locate(program, program[maker, A], TRAINING, n, x, output, workspace)
                found = max(
                    found, input_product(grad_a, grad_y, transposed(weight), start, n, i, o, derive, saved, some)
                )
        elif op == ACTIVATION:
            target = grad_y if add_a else grad_a
            if a_wanted and not program[s, DERIVED]:
                saved = a if program[s, OF_INPUT] else y
                found = _activation_backward(
                    view(saved, n, o), view(grad_y, n, o), view(target, n, o), f.code, f.a, f.b
                )
                if add_a:
                    multiply_add(n, o, grad_y, ones, 1.0, grad_a, True)
        elif op == DROPOUT:
            if a_wanted:
                found = apply_dropout(
                    grad_y, grad_a, n, o, key(program[s, NUMBER], s, rng_step), number(program, s, FACTOR), add_a
                )
        elif op in (LAYER_NORM, RMS_NORM):
            weight, bias, more = program[s, WEIGHT], program[s, BIAS], add or program[s, ADD_WEIGHT]
            found = normalise_rows_backward(
                params, grads, a, grad_y, grad_a, b, n, o, weight, bias, op == LAYER_NORM, more, a_wanted, add_a
            )
        elif op in (BATCH_NORM, FROZEN_BATCH_NORM):
            weight, bias, more = program[s, WEIGHT], program[s, BIAS], add or program[s, ADD_WEIGHT]
            running = program[s, NUMBER] if op == FROZEN_BATCH_NORM else NOWHERE
            found = batch_norm_backward(
                params, grads, b.data, a, grad_y, grad_a, n, o, weight, bias, running, more, a_wanted, add_a
            )
        elif op == STANDARDIZE:
            if a_wanted:
                spread = at(params, (program[s, WEIGHT] + o) * size)
                found = divide_columns(spread, grad_y, grad_a, n, o, add_a)
        elif op == EMBEDDING:
            i, more, rows = program[program[s, A], WIDTH], add or program[s, ADD_WEIGHT], program[s, NUMBER]
            found = embedding_backward(at(grads, program[s, WEIGHT] * size), a, grad_y, n, i, o // i, rows, more)
            if a_wanted and not add_a:
                multiply_add(n, i, zeros(grad_a), ones, 1.0, grad_a, False)
        else:
            if a_wanted:
                c = number(program, s, FACTOR)
                multiply_add(n, o, grad_y, b if op == MULTIPLY else ones, c, grad_a, add_a)
            if b_wanted and op in (MULTIPLY, ADD):
                multiply_add(n, o, grad_y, a if op == MULTIPLY else ones, 1.0, grad_b, add_b)
        if found != OK:
            return found
    return OK


@helper
def fits(params, program, x, out):
    """Whether arrays are of the shapes that a program needs."""
    if x.shape[0] != out.shape[0] or x.shape[1] != program[0, INPUTS] or out.shape[1] != program[0, OUTPUTS]:
        return BAD_SHAPE
    if params.size != program[0, VALUES]:
        return BAD_SHAPE
    return OVERLAP if overlaps(out, x) or overlaps(out, params) else OK


@compiled_kernel(
    lambda dtype: types.int64(
        types.Array(dtype, 1, "A", readonly=True, aligned=False),
        table_type(),
        types.Array(dtype, 2, "A", readonly=True, aligned=False),
        types.Array(dtype, 2, "A", aligned=False),
        types.int64,
    ),
    parallel=True,
)
def predict_threads(params, program, x, out, n_threads):
    """`predict` with the rows on several threads."""
    failed = 0
    for p in prange(n_threads):
        rows = thread_range(p, n_threads, x.shape[0])
        failed = max(failed, predict(params, program, x[rows], out[rows], 1, 1))
    return failed


@kernel(
    "params[p], program:int64[t, c], x[n, i] -> out[n, o]",
    *[types.int64] * 2,
    wrong_index=lambda params, program, x, out: computed_index(program, x),
)
def predict(params, program, x, out, n_threads, min_work):
    """out = the network's output, by blocks of rows that go through all layers.

    Several parts are rows or, of few rows, parts of each product.
    """
    found = fits(params, program, x, out)
    if found != OK:
        return found
    if out.size == 0:  # of which there may be more rows than a loop could pass
        return OK
    n, numbers, size = x.shape[0], program[0, PREDICT_WORKSPACE], out.itemsize
    if n_threads > 1 and n >= n_threads * MANY_ROWS and not program[0, WHOLE]:
        return predict_threads(params, program, x, out, n_threads)
    block_bytes = blocking(pointer(out)).l2_bytes // L2_SHARE
    rows = max(16, block_bytes // (max(numbers, 1) * size) // 16 * 16)
    rows = n if program[0, WHOLE] else min(rows, n)
    wanted = padded_size(numbers, rows) * size
    heap, memory = allocate(pointer(out), wanted if wanted > STACK_BYTES else 0)
    if wanted > STACK_BYTES and is_null(memory):
        return NO_MEMORY
    workspace = heap if wanted > STACK_BYTES else stack(pointer(out), STACK_BYTES)
    x_all, out_all = matrix(x), matrix(out)
    for r in range(0, n, max(rows, 1)):
        x_some, out_some, some = row(x_all, r), row(out_all, r), min(rows, n - r)
        found = run_forward(
            pointer(params), program, x_some, out_some, workspace, some, PREDICTING, 0, n_threads, min_work
        )
        if found != OK:
            break
    release(memory)
    return found


@helper
def commit_step(params, program, workspace, n, counters):
    """After a forward, or a step, that went well: count it, and remember what batch norm saw."""
    counters[1] += 1
    for s in range(1, 1 + program[0, N_OPS]):
        if program[s, OP] == BATCH_NORM and n > 1 and program[s, NUMBER] != NOWHERE:
            saved = at(workspace, padded_size(program[program[s, B], TRAINING + 1], n) * itemsize(workspace))
            momentum, o = number(program, s, FACTOR_2), program[program[s, Y], WIDTH]
            share = momentum if momentum >= 0.0 else 1.0 / counters[1]
            update_running(params, saved, program[s, NUMBER], n, o, share)


@kernel(
    "x[n, i], program:int64[t, c] -> params[p], out[n, o], workspace[s], counters:int64[two]",
    *[types.int64] * 2,
    wrong_index=lambda x, program, *rest: computed_index(program, x),
)
def forward(x, program, params, out, workspace, counters, n_threads, min_work):
    """out = the network's output; workspace keeps what `backward` needs."""
    found, n = fits(params, program, x, out), x.shape[0] if out.size else 0
    if found != OK or workspace.size < workspace_size(program, n) or counters.size != 2:
        return max(found, BAD_SHAPE)
    y, data, rng_step = matrix(out), pointer(workspace), counters[1] + 1
    found = run_forward(pointer(params), program, matrix(x), y, data, n, TRAINING, rng_step, n_threads, min_work)
    if found == OK:
        commit_step(pointer(params), program, pointer(workspace), n, counters)
    return found


@kernel(
    "params[p], program:int64[t, c], x[n, i], output[n, o], grad_output[n, o], counters:int64[two] "
    "-> grads[g], grad_input[m, i], workspace[s]",
    *[types.int64] * 2,
    wrong_index=lambda params, program, x, *rest: computed_index(program, x),
)
def backward(params, program, x, output, grad_output, counters, grads, grad_input, workspace, n_threads, min_work):
    """grads, and grad_input if it has rows, from what `forward` left in workspace."""
    found, n = fits(params, program, x, output), x.shape[0] if output.size else 0
    if (
        found != OK
        or workspace.size < workspace_size(program, n)
        or grads.size != program[0, PARAMETERS]
        or counters.size != 2
    ):
        return max(found, BAD_SHAPE)
    data = pointer(workspace)
    used, _, _, _ = saved(program, n, data)
    multiply_add(n, output.shape[1], matrix(grad_output), Matrix(one(data), 0, 0), 1.0, used, False)
    return run_backward(
        pointer(params),
        pointer(grads),
        program,
        matrix(x),
        matrix(output),
        matrix(grad_input),
        used,
        data,
        n,
        grad_input.shape[0] == n and n > 0,
        counters[1],
        0,
        n_threads,
        min_work,
    )


@kernel("x[n, i], program:int64[t, c] -> params[p], out[n, o], workspace[s], counters:int64[two]")
def forward_saving(x, program, params, out, workspace, counters):
    """As `forward`; workspace keeps the inputs and outputs too."""
    found, n = fits(params, program, x, out), x.shape[0]
    if found != OK or workspace.size < workspace_size(program, n) or counters.size != 2:
        return max(found, BAD_SHAPE)
    _, y, x_kept, _ = saved(program, n, pointer(workspace))
    ones = Matrix(one(y.data), 0, 0)
    multiply_add(n, x.shape[1], matrix(x), ones, 1.0, x_kept, False)
    found = run_forward(pointer(params), program, x_kept, y, pointer(workspace), n, TRAINING, counters[1] + 1, 1, 1)
    multiply_add(n, out.shape[1], y, ones, 1.0, matrix(out), False)
    if found == OK:
        commit_step(pointer(params), program, pointer(workspace), n, counters)
    return found


@kernel(
    "params[p], program:int64[t, c], grad_output[n, o], counters:int64[two] -> grads[g], grad_input[n, i], workspace[s]"
)
def backward_saved(params, program, grad_output, counters, grads, grad_input, workspace):
    """As `backward`, after `forward_saving`."""
    found, n = fits(params, program, grad_input, grad_output), grad_input.shape[0]
    if (
        found != OK
        or workspace.size < workspace_size(program, n)
        or grads.size != program[0, PARAMETERS]
        or counters.size != 2
    ):
        return max(found, BAD_SHAPE)
    g, y, x, _ = saved(program, n, pointer(workspace))
    multiply_add(n, grad_output.shape[1], matrix(grad_output), Matrix(one(g.data), 0, 0), 1.0, g, False)
    p, dp, grad_x, data = pointer(params), pointer(grads), matrix(grad_input), pointer(workspace)
    return run_backward(p, dp, program, x, y, grad_x, g, data, n, 1, counters[1], 0, 1, 1)
