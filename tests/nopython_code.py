"""What networks do in nopython code, as functions that tests share: each is compiled once for all of them."""

from numba import njit


@njit(cache=True)
def predict(net, x):
    return net.predict(x)


@njit(cache=True)
def forward_backward(net, x, g):
    return net.forward(x), net.backward(g)


@njit(cache=True)
def run(net, x, g):
    return net.predict(x), net.forward(x), net.backward(g)


@njit(cache=True)
def train_step(net, x, y, loss, optimizer):
    return net.train_step(x, y, loss, optimizer)


@njit(cache=True)
def train_weighted(net, x, y, loss, optimizer, weight):
    return net.train_step(x, y, loss, optimizer, weight)


@njit(cache=True)
def train_two(net, x, y, z, loss, optimizer):
    return net.train_step(x, (y, z), loss, optimizer)


def train(net, x, y, loss, optimizer, steps):
    """Their losses in all."""
    total = 0.0
    for _ in range(steps):  # as `sum` rounds otherwise from Python 3.12 on
        total += train_step(net, x, y, loss, optimizer)
    return total
