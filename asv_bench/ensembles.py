"""Ensembles against `vmap` of JAX and of PyTorch on the same work: `python asv_bench/ensembles.py [1|2]` cores.

Each library trains k networks by Adam, each member with its own weights and its own order of samples: fastfc by
`Ensemble.fit`, JAX by a compiled epoch (`vmap` of a step in `lax.scan`), PyTorch by `vmap` of a gradient, step by step.
Libraries take turns; of each the least of several rounds counts. Numbers are milliseconds an epoch of all members.
"""

import os
import sys
import time

N_CORES = int(sys.argv[1]) if len(sys.argv) > 1 else 1
os.sched_setaffinity(0, set(range(N_CORES)))  # before libraries count cores

import numpy as np  # noqa: E402

import fastfc as fc  # noqa: E402

LR, BETAS, EPS = 1e-3, (0.9, 0.999), 1e-8
ROUNDS, EPOCHS = 5, 20
# name: members, widths, batch size, samples, whether targets are classes
CASES = {
    "32 x 4-64-64-2, batch 32": (32, (4, 64, 64, 2), 32, 4096, False),
    "8 x 17-256-256-6, batch 256": (8, (17, 256, 256, 6), 256, 8192, False),
    "100 x 30-32-2, breast cancer": (100, (30, 32, 2), 32, None, True),
}


def data_of(sizes, n, of_classes):
    if of_classes:
        x, y = fc.load_breast_cancer()
        x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
        return x[:544], y[:544]  # whole batches, as JAX takes them
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, sizes[0])).astype(np.float32)
    return x, np.tanh(x @ rng.standard_normal((sizes[0], sizes[-1]))).astype(np.float32)


def of_fastfc(k, sizes, batch, x, y, of_classes):
    team = fc.Ensemble(lambda seed: fc.MLP(sizes, "relu", seed=seed), k)
    loss, optimizer = fc.CrossEntropyLoss() if of_classes else fc.MSELoss(), fc.Adam(LR, BETAS, EPS)

    def run(epochs):
        fixed = {"loss": loss, "optimizer": optimizer, "batch_size": batch, "seed": 0}
        return team.fit(x, y, epochs=epochs, **fixed).loss

    return run


def of_jax(k, sizes, batch, x, y, of_classes):
    import jax
    from jax import numpy as jnp

    def loss_of(params, x, y):
        for weight, bias in params[:-1]:
            x = jax.nn.relu(x @ weight + bias)
        out = x @ params[-1][0] + params[-1][1]
        if of_classes:
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(out), y[:, None], axis=1))
        return jnp.mean((out - y) ** 2)

    def step(state, rows):
        params, m, v, t = state
        value, grads = jax.value_and_grad(loss_of)(params, x_device[rows], y_device[rows])
        t = t + 1
        m = jax.tree.map(lambda a, g: BETAS[0] * a + (1 - BETAS[0]) * g, m, grads)
        v = jax.tree.map(lambda a, g: BETAS[1] * a + (1 - BETAS[1]) * g * g, v, grads)
        scale = LR / (1 - BETAS[0] ** t)
        params = jax.tree.map(lambda p, a, b: p - scale * a / (jnp.sqrt(b / (1 - BETAS[1] ** t)) + EPS), params, m, v)
        return (params, m, v, t), value

    @jax.jit
    def all_steps(state, orders):
        return jax.vmap(lambda state, order: jax.lax.scan(step, state, order))(state, orders)

    x_device, y_device = jax.device_put(x), jax.device_put(y)
    nets = [fc.MLP(sizes, seed=seed) for seed in range(k)]
    layers = range(0, len(nets[0]), 2)
    params = [(np.stack([n[i].weight for n in nets]), np.stack([n[i].bias for n in nets])) for i in layers]
    zeros = jax.tree.map(np.zeros_like, params)
    state = jax.device_put((params, zeros, zeros, np.zeros(k, np.float32)))
    rngs, steps = [np.random.default_rng(seed) for seed in range(k)], len(x) // batch

    def epoch():
        nonlocal state
        orders = np.stack([rng.permutation(len(x))[: steps * batch].reshape(steps, batch) for rng in rngs])
        state, values = all_steps(state, orders)
        return float(jax.block_until_ready(values).mean())

    return lambda epochs: [epoch() for _ in range(epochs)]


def of_torch(k, sizes, batch, x, y, of_classes):
    import torch
    from torch.func import grad_and_value, vmap

    torch.set_num_threads(N_CORES)
    nets = [fc.MLP(sizes, seed=seed) for seed in range(k)]
    layers = range(0, len(nets[0]), 2)
    params = []
    for i in layers:
        params += [
            torch.tensor(np.stack([n[i].weight for n in nets])),
            torch.tensor(np.stack([n[i].bias for n in nets])),
        ]
    m, v, t = [torch.zeros_like(p) for p in params], [torch.zeros_like(p) for p in params], 0
    x_all, y_all = torch.tensor(x), torch.tensor(y)

    def loss_of(params, x, y):
        for i in range(0, len(params) - 2, 2):
            x = torch.relu(x @ params[i] + params[i + 1])
        out = x @ params[-2] + params[-1]
        return torch.nn.functional.cross_entropy(out, y) if of_classes else torch.nn.functional.mse_loss(out, y)

    gradient = vmap(grad_and_value(loss_of))
    rngs, steps = [np.random.default_rng(seed) for seed in range(k)], len(x) // batch

    def epoch():
        nonlocal t
        orders = torch.tensor(np.stack([rng.permutation(len(x)) for rng in rngs]))
        total = 0.0
        for start in range(0, steps * batch, batch):
            rows = orders[:, start : start + batch]
            grads, values = gradient(tuple(params), x_all[rows], y_all[rows])
            grads, t = list(grads), t + 1
            torch._foreach_lerp_(m, grads, 1 - BETAS[0])
            torch._foreach_mul_(v, BETAS[1])
            torch._foreach_addcmul_(v, grads, grads, 1 - BETAS[1])
            roots = torch._foreach_sqrt(v)
            torch._foreach_div_(roots, (1 - BETAS[1] ** t) ** 0.5)
            torch._foreach_add_(roots, EPS)
            torch._foreach_addcdiv_(params, m, roots, -LR / (1 - BETAS[0] ** t))
            total += float(values.mean())
        return total / steps

    return lambda epochs: [epoch() for _ in range(epochs)]


LIBRARIES = {"fastfc": of_fastfc, "JAX vmap": of_jax, "torch vmap": of_torch}


def measure(name):
    k, sizes, batch, n, of_classes = CASES[name]
    x, y = data_of(sizes, n, of_classes)
    runs = {library: make(k, sizes, batch, x, y, of_classes) for library, make in LIBRARIES.items()}
    first = {library: run(3) for library, run in runs.items()}
    for library, values in first.items():
        np.testing.assert_allclose(values, first["fastfc"], rtol=1e-3, err_msg=library)
    best = dict.fromkeys(runs, np.inf)
    for _ in range(ROUNDS):
        for library, run in runs.items():
            epochs = 1 if library == "torch vmap" else EPOCHS
            start = time.perf_counter()
            run(epochs)
            best[library] = min(best[library], (time.perf_counter() - start) / epochs)
    return best


if __name__ == "__main__":
    print(f"{N_CORES} core{'s' * (N_CORES > 1)}, ms an epoch of all members" + "".join(f"{n:>14}" for n in LIBRARIES))
    for name in CASES if len(sys.argv) < 3 else [list(CASES)[int(sys.argv[2])]]:
        best = measure(name)
        ratios = ", ".join(f"{best[n] / best['fastfc']:.1f}x" for n in LIBRARIES)
        print(f"{name:34}" + "".join(f"{1e3 * best[n]:14.2f}" for n in LIBRARIES) + f"   {ratios}", flush=True)
