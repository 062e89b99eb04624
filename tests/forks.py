"""Processes that come from one that computes. Each function is for a process of its own, and prints what it found."""

import json
import multiprocessing
import os
import signal
import socket
import threading
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from types import FunctionType

import numpy as np
from numba import types

import fastfc as fc
from fastfc import kernels
from fastfc.kernels.ops.dropout import apply_dropout
from fastfc.kernels.runtime import kernel as boundary
from fastfc.kernels.runtime import threads
from fastfc.kernels.runtime.pool import pool

SECONDS = 60  # a child that takes longer is hanging

X = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
Y = X[:, :2] ** 2


def network(n_threads=2):
    net = fc.MLP([6, 16, 2], seed=0)
    net.n_threads = n_threads
    return net


def fit(net, epochs=1):
    net.fit(X, Y, loss=fc.MSELoss(), optimizer=fc.Adam(), epochs=epochs, batch_size=8, seed=0)


def answers():
    """What every process must find: a prediction, a product, and a network after training."""
    net, out = network(), np.empty((40, 40), np.float32)
    predicted = net.predict(X)
    kernels.dense_forward(X, X.T, X[:, 0], out, n_threads=2)
    fit(net)
    return [predicted.tobytes(), out.tobytes(), net.params.tobytes()]


def parent():
    """A process that has computed on several threads; what it found."""
    threads.MIN_WORK = threads.MIN_RANGE_WORK = 1
    expected = answers()
    assert expected == answers() and (pool.n_workers > 0) == (threads.auto_threads()[0] > 1)
    return expected


def child(work):
    """The exit status of a forked child that does this."""
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(SECONDS)  # ends it
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def statuses(pids):
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def doubled(x, out):
    for i in range(x.size):
        out[i] = 2 * x[i]
    return 0


def compile_new(name):
    """Compile a kernel that nobody has compiled, and use it."""
    function = FunctionType(doubled.__code__, {}, name)
    function.__qualname__, function.__module__ = name, __name__
    kernel, out = boundary.Kernel(function, "x[n] -> out[n]"), np.full(3, np.nan)
    kernel.call(np.arange(3.0), out)
    assert (out == [0, 2, 4]).all()


def check(expected, kernel):
    assert answers() == expected
    if kernel:
        compile_new(kernel)


def forks(count):
    """After a parallel call; children with what is loaded, with kernels that are not yet, and children of children."""
    expected = parent()

    def cold():
        assert not apply_dropout.slots[types.float32][0]
        net = fc.Sequential([fc.Linear(6, 3, seed=0), fc.Dropout(0.5, seed=0), fc.Linear(3, 2, seed=1)])
        fit(net)
        assert np.isfinite(net.params).all()

    def grandchild():
        check(expected, None)
        assert statuses([child(lambda: check(expected, "grandchild"))]) == [0]

    found = []
    for index in range(count):
        kinds = [lambda: check(expected, None), lambda: check(expected, f"of_{index}"), cold, grandchild]  # noqa: B023
        found += statuses([child(kinds[index % 4])])
    assert answers() == expected
    print(json.dumps({"children": count, "right": found.count(0)}))


def busy(count):
    """While other threads fit a network and compile kernels, one after another."""
    expected, stopped, compiled, fitted = parent(), threading.Event(), [0], [0]

    def compiling():
        while not stopped.is_set():
            compile_new(f"kernel_{compiled[0]}")
            compiled[0] += 1

    def fitting():
        net = network()
        while not stopped.is_set():
            fit(net, epochs=50)
            fitted[0] += 1

    workers = [threading.Thread(target=work) for work in (compiling, fitting)]
    for worker in workers:
        worker.start()
    found = []
    for index in range(count):
        time.sleep(0.003 * (index % 7))
        found += statuses([child(lambda: check(expected, "of_a_child"))])
    stopped.set()
    for worker in workers:
        worker.join()
    assert compiled[0] and fitted[0]
    figures = {"children": count, "right": found.count(0), "compiled_meanwhile": compiled[0]}
    print(json.dumps(figures | {"fits_meanwhile": fitted[0]}))


def predict(arguments):
    net, rows = arguments
    return net.predict(rows)


def pools(method, count):
    """A pool of multiprocessing and one of concurrent.futures, both in this way of starting processes."""
    if method == "fork":
        parent()
    net, context = network(), multiprocessing.get_context(method)
    expected = net.predict(X)
    jobs = [(net, X[i % 30 : i % 30 + 10]) for i in range(count)]
    with context.Pool(2) as pool:
        found = pool.map_async(predict, jobs).get(SECONDS)
        pool.close()
        pool.join()
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        found += list(executor.map(predict, jobs, timeout=SECONDS))
    right = sum((y == expected[i % count % 30 :][:10]).all() for i, y in enumerate(found))
    print(json.dumps({"predictions": len(found), "right": int(right)}))


def server(count):
    """A server that computes, then forks workers who answer requests, and a new one for each that ends."""
    expected, net = parent(), network()
    wanted = net.predict(X).tobytes()
    listener = socket.create_server(("127.0.0.1", 0))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # for the workers, from their first moment on

    def worker():
        signal.alarm(0)
        while True:
            connection, _ = listener.accept()
            with connection:
                row = int(connection.recv(8))
                connection.sendall(net.predict(X[row : row + 1]).tobytes() if row else net.predict(X).tobytes())

    def ask(row):
        with socket.create_connection(listener.getsockname(), timeout=SECONDS) as connection:
            connection.sendall(str(row).encode())
            return b"".join(iter(lambda: connection.recv(1 << 16), b""))

    def end(pid):
        found = 0, 0
        while not found[0]:  # again, for Python forgets a signal just before it waits
            os.kill(pid, signal.SIGTERM)
            time.sleep(0.005)
            found = os.waitpid(pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(found[1])

    pids, right, ended = [child(worker) for _ in range(3)], 0, []
    for index in range(count):
        row = index % len(X)
        right += ask(row) == (wanted[8 * row : 8 * row + 8] if row else wanted)
        if index % 20 == 19:  # while the server computes too
            ended.append(end(pids[0]))
            assert answers() == expected
            pids = [*pids[1:], child(worker)]
    ended += map(end, pids)
    print(json.dumps({"requests": count, "right": right, "workers": len(ended), "ended_well": ended.count(0)}))


def memory_mapped(arguments):
    net, x, y = arguments
    assert isinstance(x, np.memmap) and not x.flags.writeable, "joblib has not mapped it"
    value = net.train_step(x, y, fc.MSELoss(), fc.SGD())
    return net.predict(x), value


def loky(count):
    """joblib's processes, whose inputs are files that are mapped into memory and can't be written."""
    from joblib import Parallel, delayed

    net = network()
    value = net.train_step(X, Y, fc.MSELoss(), fc.SGD())
    expected, jobs = net.predict(X), [(network(), X, Y) for _ in range(count)]  # some are pickled together
    found = Parallel(n_jobs=2, max_nbytes=1, mmap_mode="r", timeout=SECONDS)(
        delayed(memory_mapped)(job) for job in jobs
    )
    right = sum((y == expected).all() and v == value for y, v in found)
    print(json.dumps({"jobs": count, "right": int(right)}))
