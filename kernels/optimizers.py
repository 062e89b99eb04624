"""Optimizers: one pass over the flat vectors of parameters and gradients."""

from numba import types
from numba.extending import overload

from fastfc.kernels.edge import BAD_SHAPE, NO_STATE, OK, OVERLAP, check, kernel, overlaps
from fastfc.kernels.simd import at, fma, load_first, pointer, store_first, width


@kernel("grads[p] -> params[p], velocity[v]", types.float64, types.float64, types.float64)
def _sgd(grads, params, velocity, lr, momentum, weight_decay):
    if grads.size != params.size or (momentum != 0.0 and velocity.size != params.size):
        return BAD_SHAPE
    if overlaps(grads, params) or overlaps(grads, velocity) or overlaps(params, velocity):
        return OVERLAP
    size = params.itemsize
    unit = params.strides[0] == size and grads.strides[0] == size and velocity.strides[0] == size
    # elements that are not neighbours are taken one by one, as vectors of one
    step = width(pointer(params)) if unit or params.size <= 1 else 1
    for j in range(0, params.size, step):
        some = min(step, params.size - j)
        at_p, at_v = at(pointer(params), j * params.strides[0]), at(pointer(velocity), j * velocity.strides[0])
        p = load_first(at_p, some, 0.0)
        g = fma(p, weight_decay, load_first(at(pointer(grads), j * grads.strides[0]), some, 0.0))
        if momentum != 0.0:
            g = fma(load_first(at_v, some, 0.0), momentum, g)
            store_first(at_v, g, some)
        store_first(at_p, fma(g, -lr, p), some)
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
