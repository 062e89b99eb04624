"""Ctrl-C at random moments, for processes of their own: each function prints how often it came in time."""

import json
import os
import random
import signal
import threading
import time
from types import FunctionType

import numpy as np
from numba import types

import fastfc as fc
from fastfc.kernels.runtime import kernel as boundary
from fastfc.training import epoch as training

X = np.random.default_rng(1).standard_normal((64, 5)).astype(np.float32)
Y = np.sin(X[:, :2])
EPOCHS, BATCH = 1000, 16  # 4000 steps


def new():
    """A network that keeps statistics and draws random numbers, and an optimizer that remembers."""
    net = fc.Sequential(
        [fc.Linear(5, 16, seed=0), fc.BatchNorm1d(16), fc.ReLU(), fc.Dropout(0.2, seed=0), fc.Linear(16, 2, seed=1)]
    )
    return net, fc.Adam(lr=0.01, average=0.9)


def fit(net, optimizer, epochs=EPOCHS, data=(X, Y), **options):
    options = {"loss": fc.MSELoss(), "batch_size": BATCH, "seed": 0} | options
    return net.fit(*data, optimizer=optimizer, epochs=epochs, **options)


def state(net, optimizer):
    """All that a step changes."""
    return net._vector.tobytes(), optimizer.state.tobytes(), optimizer.count.tobytes(), net.rng_step


def completed_steps(make=new, **options):
    """{state: steps} after 0, 1, 2, … steps of a fit that nothing interrupts; each is a native call of its own."""
    net, optimizer = make()
    optimizer.prepare(net)
    states = [state(net, optimizer)]
    call = training.Epoch.call

    def recorded(self, *args):
        value = call(self, *args)
        states.append(state(net, optimizer))
        return value

    seconds = training.CALL_SECONDS
    training.Epoch.call, training.CALL_SECONDS = recorded, 0
    try:
        fit(net, optimizer, **options)
    finally:
        training.Epoch.call, training.CALL_SECONDS = call, seconds
    return {state: count for count, state in enumerate(states)}


def check(net, optimizer, states, accumulate=1):
    """Raise unless they are as after a completed step, and work on."""
    optimizer.prepare(net)
    assert state(net, optimizer) in states, "not the state after any step"
    assert optimizer.count[0] == states[state(net, optimizer)], "another count of steps"
    rows = len(net.history.loss) if len(net.history) else 0
    assert rows * len(X) // (BATCH * accumulate) <= optimizer.count[0], "an epoch in the history that is not over"
    reading = [thread for thread in threading.enumerate() if thread.name == "fastfc reads ahead"]
    for thread in reading:
        thread.join(10)
    assert not any(thread.is_alive() for thread in reading), "a thread reads on"
    before = net.predict(X)
    other, _ = new()
    other.params, other.buffers = net.params, net.buffers
    assert (other.predict(X) == before).all(), "predicts something else"
    count = int(optimizer.count[0])
    history = fit(net, optimizer, epochs=1)
    assert optimizer.count[0] == count + len(X) // BATCH and np.isfinite(history.loss).all(), "does not train on"


def interrupted(run, delay):
    """Whether Ctrl-C after so many seconds came before the end."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
    done = False
    try:
        timer.start()
        run()
        done = True
        timer.join()
        for _ in range(1000):  # it may be on its way; or lost, for Python ignores it in what frees an object
            time.sleep(0.001)
    except KeyboardInterrupt:
        pass
    timer.join()
    return not done


def random_fits(count):
    rng, states, seconds, hit = random.Random(0), completed_steps(), [], 0
    training.CALL_SECONDS = 1e-4
    for _ in range(3):
        net, optimizer = new()
        begin = time.perf_counter()
        fit(net, optimizer)
        seconds.append(time.perf_counter() - begin)
        assert states[state(net, optimizer)] == len(states) - 1
    for _ in range(count):
        net, optimizer = new()
        delay = 0.8 * min(seconds) * rng.random()
        hit += interrupted(lambda net=net, optimizer=optimizer: fit(net, optimizer), delay)
        check(net, optimizer, states)
    print(json.dumps({"fits": count, "interrupted": hit, "steps_of_each": len(states) - 1}))


def doubled(x, out):
    for i in range(x.size):
        out[i] = 2 * x[i]
    return 0


def random_compiles(count):
    """Each of a kernel under a new name, the first of them the first in this process."""
    rng, hit, longest, x = random.Random(0), 0, 1.0, np.arange(5.0)
    for trial in range(count):
        function = FunctionType(doubled.__code__, {}, f"copy_{trial}")
        function.__qualname__, function.__module__ = f"copy_{trial}", __name__
        kernel = boundary.Kernel(function, "x[n] -> out[n]")
        begin, out = time.perf_counter(), np.full(5, np.nan)
        hit += interrupted(lambda kernel=kernel: kernel.compile_or_load(types.float64), longest * rng.random())
        kernel.call(x, out)
        assert (out == 2 * x).all()
        kernel.call(out, x)
        assert (x == 2 * out).all()
        if trial:
            longest = min(longest, time.perf_counter() - begin)
        x = np.arange(5.0)
    print(json.dumps({"compiles": count, "interrupted": hit}))


def versions():
    """Two networks, with their optimizers, that a file may hold in turn."""
    made = []
    for seed in (0, 1):
        net, optimizer = fc.MLP([100, 200, 50], seed=seed), fc.Adam()
        x = np.random.default_rng(seed).standard_normal((9, 100)).astype(np.float32)
        for _ in range(seed + 1):
            net.train_step(x, x[:, :50], fc.MSELoss(), optimizer)
        made.append((net, optimizer))
    return made


def held(path, made):
    """Which of the versions a file holds, whole."""
    network, optimizer, _ = fc.load_checkpoint(path)
    for index, (net, known) in enumerate(made):
        if (network._vector == net._vector).all():
            assert (optimizer.state == known.state).all() and (optimizer.count == known.count).all()
            return index
    raise AssertionError(f"{path} holds neither")


def save(path, version):
    net, optimizer = version
    net.save(path, optimizer=optimizer)


def random_saves(folder, count):
    rng, path, made, hit, found = random.Random(0), f"{folder}/net.safetensors", versions(), 0, [0, 0]
    seconds = []
    for index in (1, 0, 1, 0):
        begin = time.perf_counter()
        save(path, made[index])
        seconds.append(time.perf_counter() - begin)
    for _ in range(count):
        before = held(path, made)
        in_time = interrupted(lambda before=before: save(path, made[1 - before]), min(seconds) * rng.random())
        after = held(path, made)
        assert in_time or after != before, "was to be saved"
        assert os.listdir(folder) == ["net.safetensors"], "leaves something behind"
        hit += in_time
        found[after != before] += 1
    print(json.dumps({"saves": count, "interrupted": hit, "old": found[0], "new": found[1]}))


def killed_saves(folder, count):
    """Children that save without end, and are killed."""
    rng, path, made, found = random.Random(0), f"{folder}/net.safetensors", versions(), [0, 0]
    begin = time.perf_counter()
    save(path, made[0])
    save(path, made[0])
    seconds = 10 * (time.perf_counter() - begin)  # in which a child saves some times, on a busy machine too
    for _ in range(count):
        child = os.fork()
        if not child:
            while True:
                save(path, made[1])
                save(path, made[0])
        time.sleep(seconds * rng.random())
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, "has ended before"
        found[held(path, made)] += 1
    parts = len(os.listdir(folder)) - 1
    print(json.dumps({"killed": count, "held_the_one": found[0], "held_the_other": found[1], "parts_left": parts}))
