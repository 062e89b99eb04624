"""Assigns wrong values to every attribute of every public class and then calls every method; a process of its own.

Prints what was kept where it should have been refused, as lines that test_attributes.py expects none of.
"""

import contextlib
import faulthandler
import io
import os
import tempfile
import warnings

import numpy as np
from examples import OF_FEATURES, square, twice
from numba import njit

import fastfc as fc
from fastfc.nn.node import Node
from fastfc.training.callbacks import Run

REFUSED = AttributeError, TypeError, ValueError
HARMLESS = (*REFUSED, RuntimeError, ImportError, KeyError, IndexError)
X, Y = np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3), np.ones((5, 2), np.float32)
# what is needed to make one
ARGUMENTS = {
    **dict.fromkeys(OF_FEATURES, (3,)),
    "Linear": (3, 2), "Tied": (fc.Linear(2, 3),), "Embedding": (4, 2), "Input": (3,), "Constant": (1.0,), "TopK": (2,),
    "StepLR": (2,), "FlatCosineLR": (8,), "CosLogLR": (8,), "NumericEmbedding": (3,), "Parametric": ("relu", 3),
    "MultiStepLR": ([2],), "ExponentialLR": (0.9,), "CosineAnnealingLR": (5,), "CosineAnnealingWarmRestarts": (5,),
    "OneCycleLR": (0.1, 9), "LinearWarmup": (3,), "QuantileLoss": (0.5,), "MultiLoss": ([fc.MSELoss()],),
    "BatchEnsemble": (3, 2, 2), "LinearEnsemble": (3, 2, 2), "MemberMean": (3, 2), "MemberLoss": (fc.MSELoss(), 2),
}  # fmt: skip


def graph():
    x = fc.Input(3)
    return fc.Graph(x, fc.Linear(3, 2, seed=0)(fc.BatchNorm1d(3)(x)))


def sequential():
    return fc.Sequential(
        [fc.Standardize(3), fc.Linear(3, 4, seed=0), fc.BatchNorm1d(4), fc.ReLU(), fc.Linear(4, 2, seed=1)]
    )


def run():
    net = sequential()
    return Run(net, fc.SGD(), fc.History(), 1, ["loss"])


def history():
    return sequential().fit(X, Y, loss=fc.MSELoss(), optimizer=fc.SGD(), epochs=2)


MAKERS = {
    "Sequential": sequential,
    "Graph": graph,
    "Ensemble": lambda: fc.Ensemble(sequential, 2),
    "Elementwise": lambda: fc.Elementwise(square, twice),
    "CustomLoss": lambda: fc.CustomLoss(custom_value, custom_gradient),
    "Run": run,
    "Node": lambda: fc.Input(3) + fc.Input(3),
    "History": history,
}


@njit
def custom_value(prediction, target):
    return (prediction - target) ** 2


@njit
def custom_gradient(prediction, target):
    return 2 * (prediction - target)


def classes():
    public = [getattr(fc, name) for name in fc.__all__]
    kinds = [kind for kind in public if isinstance(kind, type) and not issubclass(kind, Warning)]
    return [*kinds, Run, Node]


def maker(kind):
    return MAKERS.get(kind.__name__, lambda: kind(*ARGUMENTS.get(kind.__name__, ())))


def wrong(value):
    """Values that an attribute can't have, by what it has now."""
    array = isinstance(value, np.ndarray)
    return {
        "None": None,
        "text": "text",
        "a shape": np.zeros((*value.shape, 2) if array else 3, value.dtype if array else np.float32),
        "a dtype": np.full(value.shape if array else (2, 2), 1j),
        "an object": object(),
    }


def same(a, b):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return a is b or bool(np.all(a == b))
        except Exception:
            return False


def outcome(call):
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return call()
    except HARMLESS as error:
        return type(error).__name__, str(error)


def calls(thing, folder):
    """All that one can do with it."""
    loss, optimizer = fc.MSELoss(), fc.SGD()
    if isinstance(thing, fc.Callback):
        yield lambda: sequential().fit(X, Y, loss=loss, optimizer=optimizer, validation_split=0.4, callbacks=[thing])
    if isinstance(thing, Run):
        yield thing.stop
        yield lambda: thing.network.predict(X)
    if isinstance(thing, Node):
        yield lambda: fc.Graph([node for node in thing.inputs or [thing]], fc.ReLU()(thing))
    if isinstance(thing, fc.History):
        yield from (thing.names, thing.arrays, lambda: thing["loss"], lambda: thing.loss, lambda: repr(thing))
    if isinstance(thing, fc.optim.first_order.Optimizer):
        net = fc.MLP([3, 2], seed=0)
        yield lambda: net.train_step(X, Y, loss, thing)
        yield lambda: net.fit(X, Y, loss=loss, optimizer=thing, batch_size=2, epochs=2, seed=0).loss
        yield lambda: net.save(os.path.join(folder, "net"), optimizer=thing)
        yield lambda: thing.step(net)
        yield lambda: (repr(thing), thing.current_lr, thing.average_params)
    if isinstance(thing, fc.losses.Loss):
        yield lambda: thing(X, X)
        yield lambda: thing(X, np.arange(5) % 3)
        yield lambda: repr(thing)
    if isinstance(thing, fc.nn.layer.Layer):
        x = X[:, : thing.in_features or 3].copy()
        yield lambda: thing.predict(x)
        yield lambda: thing.predict(x, params=0.5 * thing.params)
        yield lambda: thing.backward(np.ones_like(thing.forward(x)))
        yield lambda: thing.forward(x[:1])
        yield lambda: thing.update_parameters(0.1)
        yield lambda: fc.SGD().step(thing)
        yield lambda: (repr(thing), len(thing.named_parameters()), len(thing.named_buffers()), thing.dtype)
        yield lambda: thing.reserve(2)
        yield lambda: fc.Sequential([fc.Linear(3, thing.in_features or 3, seed=0), thing]).predict(X)
    if isinstance(thing, fc.models.sequential.Network):
        yield lambda: thing.train_step(X, Y, loss, optimizer)
        yield lambda: thing.fit(X, Y, loss=loss, optimizer=optimizer, batch_size=3, seed=0).loss
        yield lambda: thing.evaluate(X, Y, loss)
        yield lambda: thing.save(os.path.join(folder, "net"))
        yield lambda: fc.load(os.path.join(folder, "net")).predict(X)
        yield thing.summary
    if isinstance(thing, fc.optim.schedules.Schedule):
        yield lambda: thing.rate(0.1, 3)
    if type(thing).__module__ == "fastfc.nn.initializers":
        yield lambda: fc.Linear(3, 2, init=thing, seed=0)


def attributes(thing):
    return [name for name in dir(thing) if not name.startswith("_")]


def read(thing, name):
    try:
        return getattr(thing, name)
    except Exception:
        return None


def looks(thing):
    """What can be seen of it, to see that nothing has changed."""
    return {
        name: np.copy(value) if isinstance(value := read(thing, name), np.ndarray) else value
        for name in attributes(thing)
    }


# None stands for another value: one that is drawn, the usual one, one by another option.
CHOSEN = {"seed", "dim", "max_eval"}


def sweep(kind, folder):
    make = maker(kind)
    thing, twin = make(), make()
    before, kept = looks(thing), []
    for name in attributes(thing):
        for what, value in wrong(read(thing, name)).items():
            try:
                setattr(thing, name, value)
            except REFUSED:
                continue
            kept.append((name, what))
            if not same(read(thing, name), value) and (value is not None or (read(thing, name) and name not in CHOSEN)):
                print(f"{kind.__name__}.{name} = {what} does nothing")
            thing = make()
            before = looks(thing)
        try:
            delattr(thing, name)
        except REFUSED:
            continue
        print(f"del {kind.__name__}.{name} is possible")
    for name, value in before.items():
        if not same(read(thing, name), value) and not callable(value):
            print(f"{kind.__name__}.{name} has changed from {value!r} to {read(thing, name)!r}")
    for call, other in zip(calls(thing, folder), calls(twin, folder), strict=True):
        found, expected = outcome(call), outcome(other)
        if isinstance(thing, fc.models.sequential.Network) and not same(found, expected):
            print(f"{kind.__name__} gives {found!r} after all that was refused, not {expected!r}")
    for name, what in kept:
        thing = make()
        setattr(thing, name, wrong(read(thing, name))[what])
        for call in calls(thing, folder):
            outcome(call)


if __name__ == "__main__":
    faulthandler.enable()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        for kind in classes():
            sweep(kind, folder)
    print("done")
