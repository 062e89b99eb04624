"""Whole networks in one native call: a network is a table of integers, the *program*, that these kernels run.

Row 0 of a program is its header, then follow the steps in topological order, then the values that the steps
read and write. A value is a matrix with a row for each sample. Where it lies is in the table too, once for
prediction, once for training, once for its gradient: in x, in the output, or in the *space*, one piece of
memory in which everything is counted in numbers per sample.

    product       y = f(a W + b)      dz = dy f′(y)   dW = aᵀ dz   db = column sums of dz   da = dz Wᵀ
    activation    y = f(a)            da = dy f′(y) or dy f′(a), along rows for softmax
    add           y = a + b           da = dy         db = dy
    multiply      y = a b             da = dy b       db = dy a
    scale         y = c a             da = c dy
    place         y[:, columns] = a   da = dy[:, columns]

Backward runs the steps in reverse, each multiplying what it receives by its local gradient (the chain rule);
what several steps contribute to one gradient is added in that order.
"""

import numpy as np
from numba import njit, prange, types

from fastfc.kernels.activations import DERIVATIVE, IDENTITY, NONE, Activation, _activation_backward, _activation_forward
from fastfc.kernels.bias_grad import _dense_bias_grad
from fastfc.kernels.edge import BAD_SHAPE, NO_MEMORY, OK, OVERLAP, keep_alive, kernel, native, overlaps
from fastfc.kernels.gemm import (
    Matrix,
    element,
    forward_product,
    input_product,
    matrix,
    matrix_type,
    transposed,
    zeros,
)
from fastfc.kernels.losses import BCE_WITH_LOGITS, RESULT, evaluate_one, one_loss
from fastfc.kernels.optimizers import update
from fastfc.kernels.simd import (
    allocate,
    at,
    fetch,
    is_null,
    itemsize,
    l2_bytes,
    load,
    load_first,
    one,
    pointer,
    read,
    release,
    splat,
    stack,
    store,
    store_first,
    vector,
    view,
    width,
)
from fastfc.kernels.threads import part
from fastfc.kernels.weight_grad import _dense_weight_grad

COLUMNS = 17
# columns of the header
STEPS, INPUTS, OUTPUTS, PARAMETERS, PREDICT_SPACE, TRAIN_SPACE = range(6)
# columns of a step; WEIGHT and BIAS are places in the vector of parameters, FACTOR and FACTOR_2 bits of the numbers in
# its formula, ADD_ tells to add to a gradient. DERIVE_A is the step that made a, if the derivative of its activation
# is done with the gradient of a: that step is DERIVED. If a derivative is OF_INPUT, training keeps what the product
# gives, and the activation is a step of its own; in a prediction that is IN_PRODUCT
OP, CODE, A, B, Y, WEIGHT, BIAS, FIRST_COLUMN, FACTOR, FACTOR_2 = range(10)
ADD_A, ADD_B, ADD_PARAMETERS, DERIVE_A, DERIVED, OF_INPUT, IN_PRODUCT = range(10, COLUMNS)
PRODUCT, ACTIVATION, ADD, MULTIPLY, SCALE, PLACE = range(6)
# columns of a value: its width; and for each of the three purposes where it is, and from which number per sample on
WIDTH = 0
PREDICTING, TRAINING, GRADIENT = 1, 3, 5
IN_X, IN_OUTPUT, IN_SPACE = range(3)
# Rows of a prediction go through all layers together, as many as find room in a part of L2.
BLOCK_BYTES = l2_bytes() // 4
# So many for each thread, and a prediction is cut into rows.
MANY_ROWS = 64
# Samples are gathered while those that come so many later are fetched: in a random order no processor foresees them.
AHEAD = 2
# Up to so many bytes, a prediction's space is on the stack.
STACK_BYTES = 1 << 15


def table_type():
    return types.Array(types.int64, 2, "A", readonly=True, aligned=False)


@njit
def padded(n):
    """Rows that each value has room for: every value then begins at a multiple of 64 bytes."""
    return (n + 15) // 16 * 16


@njit
def room(numbers, n):
    """Numbers in a space of so many per sample."""
    return numbers * padded(n)


@njit
def reserve(program, n):
    """Numbers of space that training in batches of n needs.

    Behind the values and gradients: dL/d(output), the output, the inputs and the targets.
    """
    return room(program[0, TRAIN_SPACE] + 3 * program[0, OUTPUTS] + program[0, INPUTS], n)


@njit
def locate(program, value, purpose, n, x, output, space):
    """The matrix of a value."""
    where, first = program[value, purpose], program[value, purpose + 1]
    if where == IN_X:
        return Matrix(element(x, 0, first), x.row, x.column)
    if where == IN_OUTPUT:
        return Matrix(element(output, 0, first), output.row, output.column)
    size = itemsize(space)
    return Matrix(at(space, room(first, n) * size), program[value, WIDTH] * size, size)


@njit
def dense(n, columns, data):
    """A matrix of n whole rows, one after another."""
    return Matrix(data, columns * itemsize(data), itemsize(data))


@njit
def kept(program, n, space):
    """Where space, a pointer, has dL/d(output), the output, the inputs and the targets."""
    i, o, first, size = program[0, INPUTS], program[0, OUTPUTS], program[0, TRAIN_SPACE], itemsize(space)
    return (
        dense(n, o, at(space, room(first, n) * size)),
        dense(n, o, at(space, room(first + o, n) * size)),
        dense(n, i, at(space, room(first + 2 * o, n) * size)),
        dense(n, o, at(space, room(first + 2 * o + i, n) * size)),
    )


@njit
def row(x, r):
    """A matrix without its first r rows."""
    return Matrix(element(x, r, 0), x.row, x.column)


@njit
def pay(parts, least, work):
    """How many of the parts there should be, each with at least so many multiplications."""
    return 1 if parts == 1 else max(1, min(parts, work // least))


@njit
def gate(n, columns, a, b, factor, y, add):
    """y = a b factor, or y += a b factor; b may be one number, with strides of 0."""
    size = itemsize(y.data)
    solid = a.column == size and y.column == size and (b.column == size or b.column == 0)
    step = width(y.data) if solid else 1
    for r in range(n):
        for j in range(0, columns, step):
            some = min(step, columns - j)
            here, partner = element(y, r, j), element(b, r, j)
            local = splat(y.data, read(partner)) if b.column == 0 else load_first(partner, some, 0.0)
            value = load_first(element(a, r, j), some, 0.0) * local * factor
            store_first(here, load_first(here, some, 0.0) + value if add else value, some)


@njit
def number(program, s, column):
    """A number in the formula of a step."""
    return np.int64(program[s, column]).view(np.float64)


@njit
def activation_of(program, s):
    return Activation(program[s, CODE], number(program, s, FACTOR), number(program, s, FACTOR_2))


@njit
def derivative(f):
    return Activation(f.code + DERIVATIVE, f.a, f.b)


@njit
def gather(count, columns, order, source, target):
    """target[r] = source[order[r]] for r < count."""
    size = itemsize(target.data)
    lanes = width(target.data)
    solid = source.column == size and target.column == size
    whole = columns - columns % lanes if solid else 0
    step = lanes if solid else 1
    for r in range(count):
        there, here = row(source, order[r]), row(target, r)
        later = row(source, order[min(r + AHEAD, count - 1)])
        for j in range(0, whole, lanes):
            fetch(element(later, 0, j))
            store(element(here, 0, j), load(element(there, 0, j)))
        for j in range(whole, columns, step):
            some = min(step, columns - j)
            store_first(element(here, 0, j), load_first(element(there, 0, j), some, 0.0), some)


@njit
def operands(program, s, purpose, n, x, output, space):
    """Of step s: a, b and y, the columns of y that a fills in case of `place`; and their number."""
    a = locate(program, program[s, A], purpose, n, x, output, space)
    b = locate(program, program[s, B], purpose, n, x, output, space)
    y = locate(program, program[s, Y], purpose, n, x, output, space)
    if program[s, OP] == PLACE:
        return a, b, Matrix(element(y, 0, program[s, FIRST_COLUMN]), y.row, y.column), program[program[s, A], WIDTH]
    return a, b, y, program[program[s, Y], WIDTH]


@native(
    lambda dtype: types.int64(
        types.CPointer(dtype),
        table_type(),
        matrix_type(dtype),
        matrix_type(dtype),
        types.CPointer(dtype),
        *[types.int64] * 4,
    )
)
def run_forward(params, program, x, output, space, n, purpose, parts, least):
    """All steps in order. Returns a status."""
    size = itemsize(params)
    ones = Matrix(one(params), 0, 0)
    for s in range(1, 1 + program[0, STEPS]):
        op, found = program[s, OP], OK
        a, b, y, o = operands(program, s, purpose, n, x, output, space)
        if op == PRODUCT:
            i = program[program[s, A], WIDTH]
            weight = dense(i, o, at(params, program[s, WEIGHT] * size))
            bias = Matrix(at(params, program[s, BIAS] * size), 0, size)
            f = activation_of(program, s)
            if program[s, OF_INPUT] and purpose == TRAINING:
                f = NONE
            found = forward_product(y, a, weight, bias, n, o, i, f, pay(parts, least, n * i * o))
        elif op == ACTIVATION:
            f = activation_of(program, s)
            if not (program[s, IN_PRODUCT] and purpose == PREDICTING):
                found = _activation_forward(view(a, n, o), view(y, n, o), f.code, f.a, f.b)
        elif op == MULTIPLY:
            gate(n, o, a, b, 1.0, y, False)
        else:
            gate(n, o, a, ones, number(program, s, FACTOR), y, False)
            if op == ADD:
                gate(n, o, b, ones, 1.0, y, True)
        if found != OK:
            return found
    return OK


@native(
    lambda dtype: types.int64(
        types.CPointer(dtype),
        types.CPointer(dtype),
        table_type(),
        *[matrix_type(dtype)] * 4,
        types.CPointer(dtype),
        *[types.int64] * 4,
    )
)
def run_backward(params, grads, program, x, output, grad_x, grad_output, space, n, input_wanted, parts, least):
    """All steps in reverse: the gradients of all parameters and, if wanted, of x. Returns a status.

    grad_output is dL/d(output), and is used up.
    """
    size = itemsize(params)
    ones = Matrix(one(params), 0, 0)
    for s in range(program[0, STEPS], 0, -1):
        op, f, found = program[s, OP], activation_of(program, s), OK
        a, b, y, o = operands(program, s, TRAINING, n, x, output, space)
        grad_a, grad_b, grad_y, _ = operands(program, s, GRADIENT, n, grad_x, grad_output, space)
        a_wanted = input_wanted or program[program[s, A], GRADIENT] != IN_X
        b_wanted = input_wanted or program[program[s, B], GRADIENT] != IN_X
        add_a, add_b = program[s, ADD_A], program[s, ADD_B]
        if op == PRODUCT:
            i, add = program[program[s, A], WIDTH], program[s, ADD_PARAMETERS]
            dz = view(grad_y, n, o)
            if f.code != IDENTITY and not program[s, DERIVED] and not program[s, OF_INPUT]:
                found = _activation_backward(view(y, n, o), dz, dz, f.code, f.a, f.b)
            weight_grad = view(dense(i, o, at(grads, program[s, WEIGHT] * size)), i, o)
            some = pay(parts, least, n * i * o)
            found += _dense_weight_grad(view(a, n, i), dz, weight_grad, add, some)
            found += _dense_bias_grad(
                dz, vector(at(grads, program[s, BIAS] * size), o), add, pay(parts, least, 2 * n * o)
            )
            if a_wanted:
                weight = dense(i, o, at(params, program[s, WEIGHT] * size))
                start, derive, maker, kept = grad_a if add_a else zeros(grad_a), NONE, program[s, DERIVE_A], a
                if maker:
                    derive = derivative(activation_of(program, maker))
                if maker and program[maker, OF_INPUT]:
                    kept = locate(program, program[maker, A], TRAINING, n, x, output, space)
                found += input_product(grad_a, grad_y, transposed(weight), start, n, i, o, derive, kept, some)
        elif op == ACTIVATION:
            target = grad_y if add_a else grad_a
            if a_wanted and not program[s, DERIVED]:
                kept = a if program[s, OF_INPUT] else y
                found = _activation_backward(view(kept, n, o), view(grad_y, n, o), view(target, n, o), f.code, f.a, f.b)
                if add_a:
                    gate(n, o, grad_y, ones, 1.0, grad_a, True)
        else:
            if a_wanted:
                c = number(program, s, FACTOR)
                gate(n, o, grad_y, b if op == MULTIPLY else ones, c, grad_a, add_a)
            if b_wanted and op in (MULTIPLY, ADD):
                gate(n, o, grad_y, a if op == MULTIPLY else ones, 1.0, grad_b, add_b)
        if found != OK:
            return NO_MEMORY
    return OK


@njit(inline="always")
def fits(params, program, x, out):
    """Whether arrays are of the shapes that a program needs."""
    if x.shape[0] != out.shape[0] or x.shape[1] != program[0, INPUTS] or out.shape[1] != program[0, OUTPUTS]:
        return BAD_SHAPE
    if params.size != program[0, PARAMETERS]:
        return BAD_SHAPE
    return OVERLAP if overlaps(out, x) or overlaps(out, params) else OK


@native(
    lambda dtype: types.int64(
        types.Array(dtype, 1, "A", readonly=True, aligned=False),
        table_type(),
        types.Array(dtype, 2, "A", readonly=True, aligned=False),
        types.Array(dtype, 2, "A", aligned=False),
        types.int64,
    ),
    parallel=True,
)
def predict_threads(params, program, x, out, parts):
    """`predict` with the rows on several threads."""
    failed = 0
    for p in prange(parts):
        rows = part(p, parts, x.shape[0])
        failed += predict(params, program, x[rows], out[rows], 1, 1)
    return NO_MEMORY if failed else OK


@kernel("params[p], program:int64[t, c], x[n, i] -> out[n, o]", *[types.int64] * 2)
def predict(params, program, x, out, parts, least):
    """out = the network's output, by blocks of rows that go through all layers.

    Several parts are rows or, of few rows, parts of each product.
    """
    found = fits(params, program, x, out)
    if found != OK:
        return found
    n, numbers, size = x.shape[0], program[0, PREDICT_SPACE], out.itemsize
    if parts > 1 and n >= parts * MANY_ROWS:
        return predict_threads(params, program, x, out, parts)
    rows = max(16, BLOCK_BYTES // (max(numbers, 1) * size) // 16 * 16)
    rows = min(rows, n)
    wanted = room(numbers, rows) * size
    heap, memory = allocate(pointer(out), wanted if wanted > STACK_BYTES else 0)
    if wanted > STACK_BYTES and is_null(memory):
        return NO_MEMORY
    space = heap if wanted > STACK_BYTES else stack(pointer(out), STACK_BYTES)
    x_all, out_all = matrix(x), matrix(out)
    for r in range(0, n, max(rows, 1)):
        x_some, out_some, some = row(x_all, r), row(out_all, r), min(rows, n - r)
        found = run_forward(pointer(params), program, x_some, out_some, space, some, PREDICTING, parts, least)
        if found != OK:
            break
    release(memory)
    return found


@kernel("params[p], program:int64[t, c], x[n, i] -> out[n, o], space[s]", *[types.int64] * 2)
def forward(params, program, x, out, space, parts, least):
    """out = the network's output; space keeps what `backward` needs."""
    found = fits(params, program, x, out)
    if found != OK or space.size < reserve(program, x.shape[0]):
        return max(found, BAD_SHAPE)
    return run_forward(
        pointer(params), program, matrix(x), matrix(out), pointer(space), x.shape[0], TRAINING, parts, least
    )


@kernel(
    "params[p], program:int64[t, c], x[n, i], output[n, o], grad_output[n, o] -> grads[p], grad_input[m, i], space[s]",
    *[types.int64] * 2,
)
def backward(params, program, x, output, grad_output, grads, grad_input, space, parts, least):
    """grads, and grad_input if it has rows, from what `forward` left in space."""
    found, n = fits(params, program, x, output), x.shape[0]
    if found != OK or space.size < reserve(program, n):
        return max(found, BAD_SHAPE)
    data = pointer(space)
    used, _, _, _ = kept(program, n, data)
    gate(n, output.shape[1], matrix(grad_output), Matrix(one(data), 0, 0), 1.0, used, False)
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
        parts,
        least,
    )


@kernel("params[p], program:int64[t, c], x[n, i] -> out[n, o], space[s]")
def forward_saving(params, program, x, out, space):
    """As `forward`; space keeps the inputs and outputs too."""
    found, n = fits(params, program, x, out), x.shape[0]
    if found != OK or space.size < reserve(program, n):
        return max(found, BAD_SHAPE)
    _, y, x_kept, _ = kept(program, n, pointer(space))
    ones = Matrix(one(y.data), 0, 0)
    gate(n, x.shape[1], matrix(x), ones, 1.0, x_kept, False)
    found = run_forward(pointer(params), program, x_kept, y, pointer(space), n, TRAINING, 1, 1)
    gate(n, out.shape[1], y, ones, 1.0, matrix(out), False)
    return found


@kernel("params[p], program:int64[t, c], grad_output[n, o] -> grads[p], grad_input[n, i], space[s]")
def backward_saved(params, program, grad_output, grads, grad_input, space):
    """As `backward`, after `forward_saving`."""
    found, n = fits(params, program, grad_input, grad_output), grad_input.shape[0]
    if found != OK or space.size < reserve(program, n) or grads.size != params.size:
        return max(found, BAD_SHAPE)
    g, y, x, _ = kept(program, n, pointer(space))
    gate(n, grad_output.shape[1], matrix(grad_output), Matrix(one(g.data), 0, 0), 1.0, g, False)
    grad_x = matrix(grad_input)
    return run_backward(pointer(params), pointer(grads), program, x, y, grad_x, g, pointer(space), n, 1, 1, 1)


@native(
    lambda dtype: RESULT(
        types.CPointer(dtype),
        types.CPointer(dtype),
        table_type(),
        *[matrix_type(dtype)] * 2,
        types.Array(types.int64, 1, "A", readonly=True, aligned=False),
        types.CPointer(dtype),
        *[types.int64] * 4,
    )
)
def run_gradient(params, grads, program, x, target, labels, space, n, loss, parts, least):
    """Forward, loss and backward of n samples: grads. Returns a status and the loss."""
    o = program[0, OUTPUTS]
    grad_output, output, _, _ = kept(program, n, space)
    found, value = run_forward(params, program, x, output, space, n, TRAINING, parts, least), 0.0
    if found == OK:
        losses = one_loss(loss, 0.0, 0.0, 1.0 if loss == BCE_WITH_LOGITS else -100.0)
        found, value = evaluate_one(view(output, n, o), view(target, n, o), labels, view(grad_output, n, o), losses)
        keep_alive(losses)
    if found == OK:
        found = run_backward(params, grads, program, x, output, x, grad_output, space, n, 0, parts, least)
    return found, value


@njit
def training_fits(program, x, target, labels, params, grads, state, space, n):
    """Whether arrays are of the shapes that training in batches of n needs."""
    o, samples = program[0, OUTPUTS], x.shape[0]
    targets = labels.size == samples if labels.size else target.shape == (samples, o)
    if not targets or x.shape[1] != program[0, INPUTS] or params.size != program[0, PARAMETERS]:
        return BAD_SHAPE
    if space.size < reserve(program, n):
        return BAD_SHAPE
    if overlaps(params, x) or overlaps(params, grads) or overlaps(params, target) or overlaps(grads, x):
        return OVERLAP
    return OK


@kernel(
    "x[n, i], program:int64[t, c], target[m, o], labels:int64[l], hyper:float64[h] "
    "-> params[p], grads[p], state[r, q], count:int64[one], space[s]",
    *[types.int64] * 4,
    result=RESULT,
)
def step(x, program, target, labels, hyper, params, grads, state, count, space, loss, optimizer, parts, least):
    """One step on one batch: forward, loss, backward, update. The loss before the update.

    Targets are in target, or classes in labels; count[0] is how many steps there were.
    """
    n = x.shape[0]
    found, value = training_fits(program, x, target, labels, params, grads, state, space, n), 0.0
    if found == OK:
        found, value = run_gradient(
            pointer(params),
            pointer(grads),
            program,
            matrix(x),
            matrix(target),
            labels,
            pointer(space),
            n,
            loss,
            parts,
            least,
        )
    if found == OK:
        found = update(grads, hyper, params, state, count, optimizer)
    return found, value


@kernel(
    "x[n, i], program:int64[t, c], target[m, o], labels:int64[l], hyper:float64[h] "
    "-> params[p], grads[p], state[r, q], count:int64[one], space[s], order:int64[k]",
    *[types.int64] * 7,
    result=RESULT,
)
def steps(
    x,
    program,
    target,
    labels,
    hyper,
    params,
    grads,
    state,
    count,
    space,
    order,
    first,
    last,
    batch,
    loss,
    optimizer,
    parts,
    least,
):
    """Steps on batches of the samples first, ..., last - 1 in an order; the sum of all samples' losses.

    Without an order the samples are taken as they lie in x.
    """
    found, total = training_fits(program, x, target, labels, params, grads, state, space, batch), 0.0
    if found != OK:
        return found, total
    i, o = program[0, INPUTS], program[0, OUTPUTS]
    data = pointer(space)
    _, _, x_batch, target_batch = kept(program, batch, data)
    labels_batch = np.empty(batch if order.size and labels.size else 0, np.int64)
    x_all, target_all = matrix(x), matrix(target)
    for start in range(first, last, batch):
        n = min(batch, last - start)
        if order.size:
            chosen = order[start : start + n]
            gather(n, i, chosen, x_all, x_batch)
            if labels.size:
                for r in range(n):
                    labels_batch[r] = labels[chosen[r]]
            else:
                gather(n, o, chosen, target_all, target_batch)
            x_now, target_now, labels_now = x_batch, target_batch, labels_batch[:n]
        else:
            x_now, target_now = row(x_all, start), row(target_all, start)
            labels_now = labels[start : start + n]
        found, value = run_gradient(
            pointer(params), pointer(grads), program, x_now, target_now, labels_now, data, n, loss, parts, least
        )
        if found == OK:
            found = update(grads, hyper, params, state, count, optimizer)
        if found != OK:
            break
        total += n * value
    keep_alive(labels_batch)
    return found, total
