"""What wrote the files in the folder of this name: fastfc 0.1.0, whose `params` held the buffers too."""

import json
from pathlib import Path

import numpy as np

import fastfc as fc

HERE = Path(__file__).with_suffix("")


def data(n_in, n_out, n=24):
    rng = np.random.default_rng(0)
    return rng.normal(3, 2, (n, n_in)), rng.normal(size=(n, n_out))


def sequential():
    x, _ = data(3, 2)
    return fc.Sequential(
        [fc.Standardize.of(x), fc.Linear(3, 4, seed=0), fc.BatchNorm1d(4), fc.ReLU(), fc.Linear(4, 2, seed=1)]
    )


def standardized():
    x, _ = data(3, 2)
    return fc.Sequential([fc.Standardize.of(x), fc.Linear(3, 2, seed=0), fc.Tanh(), fc.Linear(2, 2, seed=1)])


def graph():
    x = fc.Input(3)
    h = fc.BatchNorm1d(3, name="norm")(x)
    inner = fc.Sequential([fc.Linear(3, 3, seed=0), fc.BatchNorm1d(3, affine=False), fc.Tanh()])
    return fc.Graph(x, fc.Linear(3, 2, seed=1)(inner(h) + h))


def tied():
    encoder = fc.Linear(3, 2, seed=0)
    return fc.Sequential([fc.BatchNorm1d(3), encoder, fc.Tanh(), fc.Tied(encoder), fc.Standardize(3)])


CASES = {
    "sequential": (sequential, lambda: fc.Adam(0.01, schedule=fc.StepLR(3)), 2),
    "graph": (graph, lambda: fc.SGD(0.05, momentum=0.9, groups={"*norm*": {"lr": 0.01}}), 2),
    "average": (tied, lambda: fc.Adam(0.01, average=0.5, amsgrad=True), 3),
    "lbfgs": (sequential, lambda: fc.LBFGS(), 2),
    "gauss_newton": (standardized, lambda: fc.LevenbergMarquardt(), 2),
}

if __name__ == "__main__":
    seen = {}
    for name, (make, optimizer, width) in CASES.items():
        x, y = data(3, width)
        net, optimizer = make(), optimizer()
        settings = {"loss": fc.MSELoss(), "optimizer": optimizer, "batch_size": 8, "seed": 0}
        net.fit(x, y, epochs=2, **settings)
        net.save(HERE / f"{name}.safetensors", optimizer=optimizer)
        here = {"prediction": net.predict(x[:3]).tolist()}
        if optimizer.average:
            here["averaged"] = net.predict(x[:3], params=optimizer.average_params).tolist()
        history = net.fit(x, y, epochs=2, **settings)
        here |= {"loss": history.loss, "later": net.predict(x[:3]).tolist()}
        seen[name] = here
    (HERE / "seen.json").write_text(json.dumps(seen) + "\n")
