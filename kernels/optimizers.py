"""Optimizers: one pass over the flat vectors of parameters and gradients."""

from numba import njit, types
from numba.extending import overload

from fastfc.kernels.edge import BAD_SHAPE, NO_STATE, OK, OVERLAP, check, kernel, overlaps
from fastfc.kernels.simd import at, fma, load, load_first, pointer, splat, store, store_first, width


@njit
def sgd_vector(p, g, v, lr, momentum, weight_decay):
    """The new parameters and velocity."""
    v = fma(v, momentum, fma(p, weight_decay, g))
    return fma(v, -lr, p), v


@kernel("grads[p] -> params[p], velocity[v]", types.float64, types.float64, types.float64)
def _sgd(grads, params, velocity, lr, momentum, weight_decay):
    if grads.size != params.size or (momentum != 0.0 and velocity.size != params.size):
        return BAD_SHAPE
    if overlaps(grads, params) or overlaps(grads, velocity) or overlaps(params, velocity):
        return OVERLAP
    size, count, moving = params.itemsize, params.size, momentum != 0.0
    lanes = width(pointer(params))
    nothing = splat(pointer(params), 0.0)
    unit = params.strides[0] == size and grads.strides[0] == size and velocity.strides[0] == size
    # masks halve the speed of memory: they are for the rest only
    whole = count - count % lanes if unit else 0
    for j in range(0, whole, lanes):
        at_p, at_v = at(pointer(params), j * size), at(pointer(velocity), j * size)
        v = load(at_v) if moving else nothing
        p, v = sgd_vector(load(at_p), load(at(pointer(grads), j * size)), v, lr, momentum, weight_decay)
        store(at_p, p)
        if moving:
            store(at_v, v)
    # elements that are not neighbours are taken one by one, as vectors of one
    step = lanes if unit else 1
    for j in range(whole, count, step):
        some = min(step, count - j)
        at_p, at_v = at(pointer(params), j * params.strides[0]), at(pointer(velocity), j * velocity.strides[0])
        v = load_first(at_v, some, 0.0) if moving else nothing
        g = load_first(at(pointer(grads), j * grads.strides[0]), some, 0.0)
        p, v = sgd_vector(load_first(at_p, some, 0.0), g, v, lr, momentum, weight_decay)
        store_first(at_p, p, some)
        if moving:
            store_first(at_v, v, some)
    return OK


SGD = 0


@kernel("grads[p], hyper:float64[h] -> params[p], state[r, p], count:int64[one]", types.int64)
def update(grads, hyper, params, state, count, optimizer):
    """One step of an optimizer; state has a row for each of its vectors, count[0] is the number of steps."""
    found = NO_STATE
    if optimizer == SGD and (hyper[1] == 0.0 or state.shape == (1, params.size)):
        velocity = state[0] if state.shape[0] else params[:0]
        found = _sgd(grads, params, velocity, hyper[0], hyper[1], hyper[2])
    count[0] += found == OK
    return found


def sgd(params, grads, velocity, lr, momentum, weight_decay):
    """Stochastic gradient descent with momentum and an L2 penalty, in place, by PyTorch's rule.

        g = grads + weight_decay params;  velocity = momentum velocity + g;  params −= lr velocity

    Parameters
    ----------
    params : (p,) float32 or float64, updated
    grads : (p,), same dtype
    velocity : (p,), same dtype, updated; may be of length 0 if momentum is 0, and is then not used
    lr, momentum, weight_decay : float
    """
    _sgd.call(grads, params, velocity, lr, momentum, weight_decay)


@overload(sgd)
def nopython_sgd(params, grads, velocity, lr, momentum, weight_decay):
    def run(params, grads, velocity, lr, momentum, weight_decay):
        check(_sgd(grads, params, velocity, lr, momentum, weight_decay))

    return run
