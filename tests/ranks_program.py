"""What test_ranks.py runs on several ranks, by mpiexec, and in one process.

    mpiexec -n 3 python -m mpi4py ranks_program.py FOLDER NAME…

Each NAME is a function below, or of ranks_ensembles.py. What it returns on each rank goes to a file of JSON in FOLDER,
by the number of ranks.
"""

import faulthandler
import hashlib
import json
import os
import re
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import ranks_ensembles

import fastfc as fc

GIVE_UP = 240  # seconds after which each rank says where it hangs
N = 203
rng = np.random.default_rng(0)
X, TARGET, LABELS, WEIGHTS = (
    rng.normal(size=(N, 7)),
    rng.normal(size=(N, 2)),
    rng.integers(0, 3, N),
    rng.uniform(size=N),
)


class Place:
    """Which rank this is; one process without MPI is the only one."""

    def __init__(self, comm, folder):
        self.comm, self.folder = comm, Path(folder)
        self.rank, self.size = (0, 1) if comm is None else (comm.rank, comm.size)
        # of unequal numbers: 1, 2, 3, … parts
        ends = N * np.cumsum(np.arange(self.size + 1)) // (self.size * (self.size + 1) // 2)
        self.own = slice(int(ends[self.rank]), int(ends[self.rank + 1]))

    def options(self, rows="same"):
        return {"shards": 16} if self.comm is None else {"comm": self.comm, "rows": rows}


def network(outputs=3, dtype=np.float64, dropout=0.3):
    layers = [fc.Linear(7, 16, seed=0, dtype=dtype), fc.ReLU(), fc.Dropout(dropout, seed=4)]
    return fc.Sequential([*layers, fc.Linear(16, outputs, seed=1, dtype=dtype)])


def digest(net, history=None):
    """Of the bits of all parameters, and of a history without its seconds."""
    rows = (
        [{name: value for name, value in row.items() if name != "seconds"} for row in history.rows] if history else []
    )
    return hashlib.sha256(net.params.tobytes() + repr(rows).encode()).hexdigest()[:16]


SCHEDULE = fc.ReduceLROnPlateau(patience=1, monitor="val_loss")
CASES = {
    "class weights, weights, held out, metrics": lambda: (
        network(), fc.CrossEntropyLoss(weight=[1.0, 2.0, 0.5]), LABELS, fc.Adam(1e-2),
        {"validation_split": 0.2, "metrics": ["accuracy"], "sample_weight": WEIGHTS},
    ),
    "balanced, metrics of the training": lambda: (
        network(), fc.CrossEntropyLoss(), LABELS, fc.AdamW(1e-2, clip_norm=0.5),
        {"class_weight": "balanced", "metrics": ["accuracy"]},
    ),
    "weights, accumulated, float32, plateau, early stopping": lambda: (
        network(2, np.float32), fc.MSELoss(), TARGET, fc.SGD(0.3, momentum=0.9, schedule=SCHEDULE),
        {
            "accumulate": 3, "validation_data": (X, TARGET), "callbacks": [fc.EarlyStopping(patience=2)], "epochs": 12,
            "sample_weight": WEIGHTS,
        },
    ),
    "without the last batch, in order": lambda: (
        network(2), fc.HuberLoss(reduction="sum"), TARGET, fc.SGD(1e-3), {"shuffle": False, "drop_last": True}
    ),
    "L-BFGS": lambda: (network(2), fc.MSELoss(), TARGET, fc.LBFGS(), {}),
    "Levenberg–Marquardt": lambda: (
        fc.MLP([7, 5, 2], activation="tanh", seed=0, dtype=np.float64), fc.MSELoss(), TARGET,
        fc.LevenbergMarquardt(), {"sample_weight": WEIGHTS},
    ),
}  # fmt: skip


def train(name, place, rows="same"):
    net, loss, y, optimizer, options = CASES[name]()
    part = slice(None) if rows == "same" else place.own
    options = {"epochs": 3, "batch_size": 50, "seed": 1} | options | place.options(rows)
    if "sample_weight" in options:
        options["sample_weight"] = options["sample_weight"][part]
    if "validation_data" in options:
        options["validation_data"] = tuple(array[part] for array in options["validation_data"])
    return net, net.fit(X[part], y[part], loss=loss, optimizer=optimizer, **options)


def same_bits(place):
    """The digest of each case, with the same rows on all ranks and with rows of its own on each."""
    result = {}
    for rows in ("same", "local"):
        for name in CASES:
            net, history = train(name, place, rows)
            result[f"{name}, {rows}"] = digest(net, history)
    return result


def outputs(place):
    """Whether evaluate and predict on all ranks give what one process gives."""
    net, loss = network(), fc.CrossEntropyLoss()
    scores = net.evaluate(X, LABELS, loss, metrics=["accuracy"], sample_weight=WEIGHTS)
    own, expected = place.own, net.predict(X)
    out = np.zeros_like(expected)
    return {
        "same": net.evaluate(X, LABELS, loss, metrics=["accuracy"], sample_weight=WEIGHTS, comm=place.comm) == scores,
        "local": scores
        == net.evaluate(
            X[own], LABELS[own], loss, metrics=["accuracy"], sample_weight=WEIGHTS[own], comm=place.comm, rows="local"
        ),
        "predict": bool((net.predict(X, comm=place.comm) == expected).all()),
        "out": net.predict(X, out, comm=place.comm) is out and bool((out == expected).all()),
        "one": bool((net.predict(X[0], comm=place.comm) == expected[0]).all()),
    }


def unseeded(place):
    """Networks, masks and orders that differ between ranks begin with those of rank 0."""
    net = fc.Sequential([fc.Linear(7, 8), fc.Dropout(0.5), fc.Linear(8, 2)])
    net.fit(X, TARGET, loss=fc.MSELoss(), optimizer=fc.Adam(), epochs=2, comm=place.comm)
    return digest(net)


def interrupted_run(place):
    """The first two epochs of four, and a file of them from rank 0."""

    def save(run):
        if run.main:
            run.network.save(place.folder / "run.safetensors", optimizer=run.optimizer)

    net, optimizer = network(2), fc.Adam(1e-2)
    net.fit(
        X, TARGET, loss=fc.MSELoss(), optimizer=optimizer, epochs=2, batch_size=50, seed=1, callbacks=[save],
        **place.options(),
    )  # fmt: skip
    return digest(net)


def resumed_run(place):
    """The last two, from the file."""
    net, optimizer, _ = fc.load_checkpoint(place.folder / "run.safetensors")
    net.fit(X, TARGET, loss=fc.MSELoss(), optimizer=optimizer, epochs=2, batch_size=50, seed=1, **place.options())
    return digest(net)


def whole_run(place):
    net, optimizer = network(2), fc.Adam(1e-2)
    net.fit(X, TARGET, loss=fc.MSELoss(), optimizer=optimizer, epochs=4, batch_size=50, seed=1, **place.options())
    return digest(net)


def like_pytorch(place):
    """The parameters after some epochs in batches of 50, which DDP halves."""
    net, x, y = fc.MLP([7, 16, 2], activation="tanh", seed=0, dtype=np.float64), X[:200], TARGET[:200]
    net.fit(
        x, y, loss=fc.MSELoss(), optimizer=fc.AdamW(1e-2, clip_norm=0.5), epochs=5, batch_size=50, seed=3,
        **place.options(),
    )  # fmt: skip
    return net.params.tolist()


def ddp(folder, rank):
    """The same by PyTorch, on two processes."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/gloo", rank=rank, world_size=2)
    net = fc.MLP([7, 16, 2], activation="tanh", seed=0, dtype=np.float64)
    module = net.to_torch()
    parallel, x, y = DistributedDataParallel(module), torch.from_numpy(X[:200]), torch.from_numpy(TARGET[:200])
    optimizer = torch.optim.AdamW(parallel.parameters(), lr=1e-2, weight_decay=fc.AdamW().weight_decay)
    rng = np.random.default_rng(3)
    for _ in range(5):
        order = rng.permutation(200)
        for first in range(0, 200, 50):
            own = order[first + 25 * rank : first + 25 * (rank + 1)]
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(parallel(x[own]), y[own]).backward()
            torch.nn.utils.clip_grad_norm_(parallel.parameters(), 0.5)
            optimizer.step()
    if rank == 0:
        np.save(Path(folder) / "ddp.npy", fc.from_torch(module).params)
    torch.distributed.destroy_process_group()


def page(place):
    """The code of the page about ranks runs on several of them, and writes a file; that of joblib is not for ranks."""
    text = (Path(fc.__file__).parent / "training" / "README.md").read_text(encoding="utf-8").partition("joblib")[0]
    os.chdir(place.folder)
    namespace = {"__name__": "page"}
    for code in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        exec(code, namespace)
    return digest(namespace["net"])


def raised(place, **options):
    """What a fit raises, as text, and whether network and optimizer are as they were at the end of an epoch."""
    net = options.pop("net", None) or network(2)
    x, y = options.pop("x", X), options.pop("y", TARGET)
    options = {"loss": fc.MSELoss(), "optimizer": fc.Adam(), "epochs": 2, "comm": place.comm} | options
    try:
        net.fit(x, y, **options)
    except (Exception, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def network_with(frozen):
    net = network(2)
    net[0].frozen = bool(frozen)
    return net


def disagreements(place):
    """What evaluate and predict raise where ranks have other parameters, or other numbers of rows."""
    texts, own = [], fc.MLP([7, 2], seed=place.rank)
    for function in (
        lambda: own.evaluate(X, TARGET, fc.MSELoss(), comm=place.comm),
        lambda: own.predict(X, comm=place.comm),
        lambda: network().predict(X[: 100 + place.rank], comm=place.comm),
        lambda: network().predict(X, params=np.array([None]), comm=place.comm),
    ):
        try:
            texts.append(str(function()))
        except (TypeError, ValueError) as error:
            texts.append(str(error))
    return texts


def some_weights(place):
    """Rank 0 alone has weights, the others of 1; evaluate and fit, and the same with all weights."""
    weights, found = np.where(np.arange(N) < place.own.stop, WEIGHTS, 1.0), []
    weights = place.comm.bcast(weights)
    for own in (weights[place.own] if place.rank == 0 else None, weights[place.own]):
        net, data = network(2), (X[place.own], TARGET[place.own])
        options = {"sample_weight": own, "comm": place.comm, "rows": "local"}
        history = net.fit(*data, loss=fc.MSELoss(), optimizer=fc.Adam(), epochs=2, seed=0, **options)
        found.append([digest(net, history), net.evaluate(*data, fc.MSELoss(), **options)])
    return found


def failures(place):
    """What each rank raises where one of them fails, or is not like the others; all of it within seconds."""
    last = place.rank == place.size - 1

    def fail(run):
        if last and run.optimizer.epochs == 1:
            raise OSError("no space left")

    def faster(run):
        if last:
            run.optimizer.lr *= 2

    def stop(run):
        if run.main:
            run.stop()

    def press(run):
        if last:
            signal.raise_signal(signal.SIGINT)

    def metric(y, prediction):
        return 1 // (not last)

    start = time.perf_counter()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    net = network(2)
    before = net.params.copy()
    found = {
        "callback": raised(place, callbacks=[fail]),
        "metric": raised(place, net=net, metrics=[metric]),
        "undone": bool((net.params == before).all()),
        "interrupt": raised(place, callbacks=[press]),
        "learning rate": raised(place, callbacks=[faster]),
        "stopped": raised(place, net=net, callbacks=[stop], epochs=50, optimizer=fc.SGD(1e-3)),
        "epochs": raised(place, epochs=2 + last),
        "optimizer": raised(place, optimizer=fc.Adam(1e-3 * (1 + last))),
        "shape": raised(place, x=X[: N - last], y=TARGET[: N - last]),
        "data": raised(place, x=X + last),
        "argument": raised(place, batch_size=-1 if last else 32),
        "everyone": raised(place, batch_size=-1),
        "not finite": raised(place, x=np.where(np.arange(N)[:, None] == 200 * last, np.nan, X), rows="local"),
        "shards": raised(place, shards=16 + place.rank),
        "few shards": raised(place, shards=1),
        "metrics": raised(place, metrics=["mae" if last else "r2"]),
        "metrics of one": raised(place, metrics=["mae"] if last else [], rows="local"),
        "validation of one": raised(place, validation_data=(X, TARGET) if last else None, rows="local"),
        "balanced by one": raised(place, class_weight="balanced" if last else None, rows="local"),
        "patience": raised(place, callbacks=[fc.EarlyStopping("loss", patience=1 + last)]),
        "frozen": raised(place, net=network_with(frozen=last)),
        "batch norm": raised(place, net=fc.Sequential([fc.Linear(7, 2), fc.BatchNorm1d(2)])),
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        raised(place, net=network(2, dropout=0.0), optimizer=fc.SGD(1e30))
    found["diverged"] = [str(warning.message).partition(";")[0] for warning in caught]
    return found | {"epochs of stopped": len(net.history), "seconds": time.perf_counter() - start}


def killed(place):
    """The last rank dies in the second epoch."""

    def die(run):
        if place.rank == place.size - 1 and run.optimizer.epochs == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    return raised(place, callbacks=[die], epochs=10**6)


def main(folder, names):
    from mpi4py import MPI

    faulthandler.dump_traceback_later(GIVE_UP, exit=True)
    place = Place(MPI.COMM_WORLD, folder)
    functions = vars(ranks_ensembles) | globals()
    result = {name: functions[name](place) for name in names}
    (Path(folder) / f"{place.size}-{place.rank}.json").write_text(json.dumps(result))


if __name__ == "__main__" and sys.argv[2] == "ddp":
    ddp(sys.argv[1], int(sys.argv[3]))
elif __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
