"""Ensembles, whose members train in one native call; as a script, against `vmap` of JAX and of PyTorch.

    taskset -c 0 python -m asv_bench.benchmarks.ensembles
    FASTFC_LONG=1 python -m asv_bench.benchmarks.ensembles      # on all cores

Each library trains k networks by Adam, each member with its own weights and its own order of samples: fastfc by
`Ensemble.fit`, JAX by a compiled epoch (`vmap` of a step in `lax.scan`), PyTorch by `vmap` of a gradient, step by step.
Libraries take turns; of each the least of several rounds counts. Then one case is trained to its end.
"""

import os
import time
from typing import Any, NamedTuple

import numpy as np

import fastfc as fc

from .common import Timed, asked_for, needs, table, three_digits

LR, BETAS, EPS = 1e-3, (0.9, 0.999), 1e-8
ROUNDS, EPOCHS = 5, 20
# so many epochs of this case are its end, and so many rows are held out
LONG_CASE, LONG_EPOCHS, HELD_OUT = "100 x 30-32-2, batch 32", 200, 121


class Case(NamedTuple):
    members: int
    sizes: tuple[int, ...]
    batch: int
    n: int  # samples, whole batches, as JAX takes them
    of_classes: bool = False


CASES = {
    "32 x 4-64-64-2, batch 32": Case(32, (4, 64, 64, 2), 32, 4096),
    LONG_CASE: Case(100, (30, 32, 2), 32, 448, True),
    "8 x 17-256-256-6, batch 256": Case(8, (17, 256, 256, 6), 256, 8192),
}


def samples(case):
    """Samples to learn from; for classes, those of breast cancer and behind them HELD_OUT more."""
    rng = np.random.default_rng(0)
    if case.of_classes:
        x, y = fc.load_breast_cancer()
        order = rng.permutation(len(x))
        return ((x - x.mean(0)) / x.std(0)).astype(np.float32)[order], y[order]
    x = rng.standard_normal((case.n, case.sizes[0])).astype(np.float32)
    return x, np.tanh(x @ rng.standard_normal((case.sizes[0], case.sizes[-1]))).astype(np.float32)


def network(case, seed):
    return fc.MLP(case.sizes, "relu", seed=seed)


def settings(case):
    return {"loss": fc.CrossEntropyLoss() if case.of_classes else fc.MSELoss(), "batch_size": case.batch, "seed": 0}


def layers_of(networks):
    """Weights (k, i, o) and biases (k, o) of each dense layer of k networks, one after another."""
    indices = range(0, len(networks[0]), 2)
    return [np.stack([getattr(net[i], name) for net in networks]) for i in indices for name in ("weight", "bias")]


def outputs(layers, x):
    """What k networks compute for the same samples, (k, n, o)."""
    for i in range(0, len(layers), 2):
        x = (np.maximum(x, 0) if i else x) @ layers[i] + layers[i + 1][:, None]
    return x


class Fastfc:
    """The members' training: run(epochs) gives the mean losses of these epochs, layers() what is learnt."""

    def __init__(self, case, x, y, n_threads=None):
        n_threads = n_threads or len(os.sched_getaffinity(0))
        self.case, self.data, self.optimizer = case, (x, y), fc.Adam(LR, BETAS, EPS)
        self.team = fc.Ensemble(lambda seed: network(case, seed), case.members, n_threads=n_threads)

    def run(self, epochs):
        return self.team.fit(*self.data, optimizer=self.optimizer, epochs=epochs, **settings(self.case)).loss

    def layers(self):
        return layers_of(list(self.team))


class Jax:
    def __init__(self, case, x, y):
        jax = needs("jax")
        jnp = jax.numpy

        def loss_of(layers, x, y):
            for i in range(0, len(layers), 2):
                x = (jax.nn.relu(x) if i else x) @ layers[i] + layers[i + 1]
            if case.of_classes:
                return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], axis=1))
            return jnp.mean((x - y) ** 2)

        def step(state, rows):
            layers, m, v, t = state
            value, grads = jax.value_and_grad(loss_of)(layers, x_device[rows], y_device[rows])
            t = t + 1
            m = jax.tree.map(lambda a, g: BETAS[0] * a + (1 - BETAS[0]) * g, m, grads)
            v = jax.tree.map(lambda a, g: BETAS[1] * a + (1 - BETAS[1]) * g * g, v, grads)
            moved = lambda p, a, b: p - LR / (1 - BETAS[0] ** t) * a / (jnp.sqrt(b / (1 - BETAS[1] ** t)) + EPS)
            return (jax.tree.map(moved, layers, m, v), m, v, t), value

        @jax.jit
        def all_steps(state, orders):
            return jax.vmap(lambda state, order: jax.lax.scan(step, state, order))(state, orders)

        x_device, y_device = jax.device_put(x), jax.device_put(y)
        layers = layers_of([network(case, seed) for seed in range(case.members)])
        zeros = [np.zeros_like(each) for each in layers]
        self.state: Any = jax.device_put((layers, zeros, zeros, np.zeros(case.members, np.float32)))
        self.case, self.wait, self.all_steps = case, jax.block_until_ready, all_steps
        self.rngs = [np.random.default_rng(seed) for seed in range(case.members)]

    def run(self, epochs):
        return [self.epoch() for _ in range(epochs)]

    def epoch(self):
        orders = np.stack([rng.permutation(self.case.n).reshape(-1, self.case.batch) for rng in self.rngs])
        self.state, values = self.all_steps(self.state, orders)
        return float(self.wait(values).mean())

    def layers(self):
        return [np.asarray(each) for each in self.state[0]]


class Torch:
    def __init__(self, case, x, y):
        self.torch = torch = needs("torch")
        torch.set_num_threads(len(os.sched_getaffinity(0)))

        def loss_of(layers, x, y):
            for i in range(0, len(layers), 2):
                x = (torch.relu(x) if i else x) @ layers[i] + layers[i + 1]
            return torch.nn.functional.cross_entropy(x, y) if case.of_classes else torch.nn.functional.mse_loss(x, y)

        self.case, self.x, self.y = case, torch.tensor(x), torch.tensor(y)
        networks = [network(case, seed) for seed in range(case.members)]
        self.params = [torch.tensor(each) for each in layers_of(networks)]
        self.m, self.v, self.t = *([torch.zeros_like(p) for p in self.params] for _ in range(2)), 0
        self.gradient = torch.func.vmap(torch.func.grad_and_value(loss_of))
        self.rngs = [np.random.default_rng(seed) for seed in range(case.members)]

    def run(self, epochs):
        return [self.epoch() for _ in range(epochs)]

    def epoch(self):
        orders = self.torch.tensor(np.stack([rng.permutation(self.case.n) for rng in self.rngs]))
        return float(np.mean([self.step(rows) for rows in orders.split(self.case.batch, dim=1)]))

    def step(self, rows):
        grads, values = self.gradient(tuple(self.params), self.x[rows], self.y[rows])
        grads, self.t = list(grads), self.t + 1
        self.torch._foreach_lerp_(self.m, grads, 1 - BETAS[0])
        self.torch._foreach_mul_(self.v, BETAS[1])
        self.torch._foreach_addcmul_(self.v, grads, grads, 1 - BETAS[1])
        roots = self.torch._foreach_sqrt(self.v)
        self.torch._foreach_div_(roots, (1 - BETAS[1] ** self.t) ** 0.5)
        self.torch._foreach_add_(roots, EPS)
        self.torch._foreach_addcdiv_(self.params, self.m, roots, -LR / (1 - BETAS[0] ** self.t))
        return float(values.mean())

    def layers(self):
        return [each.numpy() for each in self.params]


LIBRARIES = {"fastfc": Fastfc, "JAX vmap": Jax, "torch vmap": Torch}


class Ensemble(Timed):
    """One core's members."""

    params = (table([*CASES][:1], [*CASES][1:]),)
    param_names = ("case",)

    def setup(self, name):
        case = CASES[name]
        x, y = samples(case)
        self.training = Fastfc(case, x[: case.n], y[: case.n], n_threads=1)
        self.x, self.network = x[:256], network(case, 0)
        self.network.n_threads = 1
        for method in dir(self):
            if method.startswith("time_"):
                getattr(self, method)(name)


class Members(Ensemble):
    """An epoch of all members."""

    def time_epoch(self, name):
        self.training.run(1)


@asked_for
class Predictions(Ensemble):
    """The mean of all members, and the outputs of as many candidates for a network's parameters."""

    def time_predict(self, name):
        self.training.team.predict(self.x)

    def time_population(self, name):
        self.network.predict(self.x, params=self.training.team.params)


def compare(case):
    """Milliseconds of an epoch, by library; they compute the same."""
    x, y = samples(case)
    runs = {library: make(case, x[: case.n], y[: case.n]) for library, make in LIBRARIES.items()}
    first = {library: training.run(3) for library, training in runs.items()}
    for library, values in first.items():
        np.testing.assert_allclose(values, first["fastfc"], rtol=1e-3, err_msg=library)
    best = dict.fromkeys(runs, np.inf)
    for _ in range(ROUNDS):
        for library, training in runs.items():
            epochs = 1 if library == "torch vmap" else EPOCHS
            start = time.perf_counter()
            training.run(epochs)
            best[library] = min(best[library], (time.perf_counter() - start) / epochs * 1e3)
    return best


def to_the_end(case):
    """By library the seconds of LONG_EPOCHS, and held-out accuracy: the members' mean, and that of their mean output.

    The first epoch, in which JAX compiles, is not timed.
    """
    x, y = samples(case)
    found = {}
    for library, make in LIBRARIES.items():
        training = make(case, x[: case.n], y[: case.n])
        training.run(1)
        start = time.perf_counter()
        training.run(LONG_EPOCHS - 1)
        seconds = time.perf_counter() - start
        z = outputs(training.layers(), x[-HELD_OUT:])
        p = np.exp(z - z.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        found[library] = seconds, *((each.argmax(-1) == y[-HELD_OUT:]).mean() for each in (p, p.mean(0)))
    return found


if __name__ == "__main__":
    n = len(os.sched_getaffinity(0))
    print(f"{n} core{'s' * (n > 1)}, ms an epoch of all members" + "".join(f"{library:>14}" for library in LIBRARIES))
    for name, case in CASES.items():
        best = compare(case)
        ratios = ", ".join(f"{three_digits(best[library] / best['fastfc'])} x" for library in LIBRARIES)
        print(f"{name:34}" + "".join(f"{best[library]:14.2f}" for library in LIBRARIES) + f"   {ratios}", flush=True)
    print(f"\n{LONG_CASE}, {LONG_EPOCHS} epochs: seconds, held out right by a member, by all")
    for library, (seconds, *right) in to_the_end(CASES[LONG_CASE]).items():
        print(f"{library:14}{seconds:8.2f}" + "".join(f"{share:8.4f}" for share in right))
