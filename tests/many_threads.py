"""Many Python threads that all call fastfc, for a process of its own: prints how many calls were right."""

import contextlib
import ctypes
import faulthandler
import json
import random
import sys
import threading
import time

import numba
import numpy as np
from numba import njit, prange

import fastfc as fc
from fastfc import kernels
from fastfc.kernels.runtime import threads
from fastfc.kernels.runtime.native import DTYPES, load_parallel

STEPS = 20


@njit(cache=True, nogil=True)
def compiled(net, x):
    return net.predict(x)


@njit(cache=True, parallel=True)
def in_parallel(net, x, out):
    for i in prange(len(x) // 8):
        net.predict(x[8 * i : 8 * i + 8], out=out[8 * i : 8 * i + 8])


def rows(n, columns):
    return np.random.default_rng(n + columns).standard_normal((n, columns)).astype(np.float32)


class Caller:
    """What one thread does, on networks and arrays that all share, and on a network of its own."""

    def __init__(self, shared, user_parallel):
        self.shared = shared
        self.kinds = [self.predict, self.forward, self.weight_grad, self.train, self.nopython]
        self.kinds += [self.user_parallel] * user_parallel
        self.net, self.optimizer = trained(shared.threads)
        self.steps = 0

    def predict(self, chance):
        net, x, expected = chance.choice(self.shared.predictions)
        first = chance.randrange(len(x))
        assert (net.predict(x[first:]) == expected[first:]).all()

    def forward(self, chance):
        x, weight, bias, expected = self.shared.product
        out = np.full_like(expected, np.nan)
        kernels.dense_forward(x, weight, bias, out, "tanh", n_threads=chance.choice([1, self.shared.threads]))
        assert (out == expected).all()

    def weight_grad(self, chance):
        x, grad, expected = self.shared.gradient
        out = np.full_like(expected, np.nan)
        kernels.dense_weight_grad(x, grad, out, n_threads=chance.choice([1, self.shared.threads]))
        assert (out == expected).all()

    def train(self, chance):
        if self.steps == STEPS:
            self.net, self.optimizer = trained(self.shared.threads)
            self.steps = 0
        step(self.net, self.optimizer)
        self.steps += 1
        assert self.net.params.tobytes() == self.shared.trained[self.steps]

    def nopython(self, chance):
        net, x, expected = chance.choice(self.shared.predictions)
        assert (compiled(net, x) == expected).all()

    def user_parallel(self, chance):
        net, x, expected = chance.choice(self.shared.predictions)
        out = np.full_like(expected, np.nan)
        in_parallel(net, x, out)
        assert (out == expected).all()


def trained(n_threads):
    net = fc.MLP([7, 24, 2], seed=3)
    net.n_threads = n_threads
    return net, fc.Adam()


X, Y = rows(48, 7), rows(48, 2)


def step(net, optimizer):
    net.train_step(X, Y, fc.MSELoss(), optimizer)


class Shared:
    """Networks and arrays, and what must come out: computed on one thread."""

    def __init__(self, n_threads):
        self.threads, self.predictions = n_threads, []
        for sizes in ([7, 16, 3], [5, 33, 17, 2], [12, 64, 64, 4]):
            net, x = fc.MLP(sizes, activation="tanh", seed=1), rows(96, sizes[0])
            self.predictions.append((net, x, net.predict(x)))
        for net, _, _ in self.predictions:
            net.n_threads = n_threads
        x, weight, bias, grad = rows(70, 40), rows(40, 65), rows(1, 65)[0], rows(70, 65)
        out, weight_grad = np.empty((70, 65), np.float32), np.empty((40, 65), np.float32)
        kernels.dense_forward(x, weight, bias, out, "tanh")
        kernels.dense_weight_grad(x, grad, weight_grad)
        self.product, self.gradient = (x, weight, bias, out), (x, grad, weight_grad)
        net, optimizer = trained(1)
        self.trained = [net.params.tobytes()]
        for _ in range(STEPS):
            step(net, optimizer)
            self.trained.append(net.params.tobytes())


def settings():
    """Of those who may have some, how many threads they use."""
    found = [numba.get_num_threads()]
    if "torch" in sys.modules:
        found.append(sys.modules["torch"].get_num_threads())
    with contextlib.suppress(OSError):
        found.append(ctypes.CDLL("libgomp.so.1").omp_get_max_threads())
    return found


def run(seconds, count, parallel, timeout=None):
    """`count` threads for so long, with or without the parallel paths."""
    faulthandler.dump_traceback_later(timeout or seconds + 120, exit=True)
    threads.MIN_WORK = 1
    load_parallel(DTYPES[np.dtype("f4")])
    layer = threads.layer()
    shared, failures, calls, begun = Shared(2 if parallel else 1), [], [0] * count, threading.Barrier(count + 1)

    def work(index):
        # Numba's workqueue allows parallel functions of the user in one thread only, whatever else runs
        caller = Caller(shared, layer != "workqueue" or index == 0)
        chance, before = random.Random(index), settings()
        begun.wait()
        try:
            while not calls[index] or (time.perf_counter() < end and not failures):
                chance.choice(caller.kinds)(chance)
                calls[index] += 1
            assert settings() == before, (settings(), before)
        except BaseException as error:
            failures.append(repr(error))
            raise

    caller, before = Caller(shared, True), settings()
    for kind in set(caller.kinds):  # compiled, or loaded
        kind(random)
    assert settings() == before
    workers = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    for worker in workers:
        worker.start()
    end = time.perf_counter() + seconds
    begun.wait()
    for worker in workers:
        worker.join()
    assert settings() == before
    assert not failures, failures[0]
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps({"layer": layer, "threads": count, "calls": sum(calls), "fewest_of_a_thread": min(calls)}))
