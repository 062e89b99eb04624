"""Networks in each library, for `fastfc compare --networks`: what the processes of fastfc.benchmark.worker do then."""

from functools import partial
from importlib import import_module
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numba import njit

import fastfc as fc
from fastfc import reference
from fastfc.benchmark import numpy_network as demo
from fastfc.benchmark.worker import Worker

# Samples of an epoch, steps in one call of "JAX loop", predictions in one call of @njit code.
SAMPLES, LOOP_STEPS, PREDICTIONS = 60_000, 100, 10_000
# Steps after which parameters are compared. With each it is likelier that rounding moves some sample over the
# kink of a ReLU, which then changes more than rounding does.
CHECKED_STEPS = 3
LR, MOMENTUM = demo.LR, demo.MOMENTUM


class Task(NamedTuple):
    """What is timed, for a network of these sizes with ReLU between its layers.

    kind is the name of a method of the classes below:

        step         forward, mean squared error, backward, update by SGD, called from Python
        predict      a prediction, called from Python
        predict_one  a prediction of one sample, called from @njit code
        epoch        steps on all batches in random order: cross-entropy, SGD with momentum
        fit          the same, and its steps one by one
        update       SGD with momentum, nothing else
    """

    kind: str
    sizes: tuple[int, ...]
    batch: int

    @property
    def network(self):
        return "-".join(map(str, self.sizes))


class Values(NamedTuple):
    x: Any
    y: Any
    weights: list[Any]
    biases: list[Any]


class Call(NamedTuple):
    """What is timed: `run` does it `times` times. `outcome` is one of the first runs, for the judge."""

    run: Any
    outcome: Any
    times: int = 1


def values(task, dtype):
    """Samples, targets and first parameters."""
    rng = np.random.default_rng(0)
    classes = task.kind in ("epoch", "fit")
    rows = SAMPLES if classes else task.batch
    weights = [np.sqrt(2 / i) * rng.standard_normal((i, o)) for i, o in pairwise(task.sizes)]
    biases = [0.1 * rng.standard_normal(o) for o in task.sizes[1:]]
    x = rng.standard_normal((rows, task.sizes[0]), np.float32)
    y = rng.integers(0, task.sizes[-1], rows) if classes else rng.standard_normal((rows, task.sizes[-1]))
    if task.kind == "update":
        y = rng.standard_normal(flat(weights, biases).size)
    as_dtype = partial(np.asarray, dtype=dtype)
    return Values(as_dtype(x), y if classes else as_dtype(y), *([*map(as_dtype, each)] for each in (weights, biases)))


def flat(weights, biases):
    """All parameters as one vector, in the order of fastfc."""
    return np.concatenate([np.ravel(p) for pair in zip(weights, biases, strict=True) for p in pair])


def repeated(run, times, result):
    """Result of some runs."""
    for _ in range(times):
        run()
    return result()


def batches(task, rows):
    return [slice(start, start + task.batch) for start in range(0, rows, task.batch)]


class NumPy:
    """By hand, in arrays that are made once."""

    def __init__(self, task, given, threads):
        self.x, self.y, self.weights, self.biases = given
        shapes = [(task.batch, size) for size in task.sizes[1:]]
        self.outputs, self.grads = ([np.empty(shape, self.x.dtype) for shape in shapes] for _ in range(2))
        self.positive = [np.empty(shape, bool) for shape in shapes]
        self.weight_grads = [np.empty_like(weight) for weight in self.weights]
        self.bias_grads = [np.empty_like(bias) for bias in self.biases]

    def forward(self):
        x = self.x
        for weight, bias, out in zip(self.weights, self.biases, self.outputs, strict=True):
            if x is not self.x:
                np.maximum(x, 0, out=x)
            np.matmul(x, weight, out=out)
            out += bias
            x = out
        return x

    def train(self):
        grad = self.grads[-1]
        np.subtract(self.forward(), self.y, out=grad)
        loss = np.vdot(grad, grad) / grad.size
        grad *= 2 / grad.size
        for i in reversed(range(len(self.weights))):
            x = self.outputs[i - 1] if i else self.x
            np.matmul(x.T, grad, out=self.weight_grads[i])
            grad.sum(axis=0, out=self.bias_grads[i])
            if i:
                np.matmul(grad, self.weights[i].T, out=self.grads[i - 1])
                grad = self.grads[i - 1]
                grad *= np.greater(x, 0, out=self.positive[i - 1])
            for parameter, gradient in (
                (self.weights[i], self.weight_grads[i]),
                (self.biases[i], self.bias_grads[i]),
            ):
                gradient *= LR
                parameter -= gradient
        return loss

    def step(self):
        return {"NumPy": Call(self.train, lambda: repeated(self.train, CHECKED_STEPS, self.parameters))}

    def parameters(self):
        return flat(self.weights, self.biases)

    def predict(self):
        return {"NumPy": Call(self.forward, self.forward)}


class PyTorch:
    def __init__(self, task, given, threads):
        self.torch = import_module("torch")
        self.torch.set_num_threads(threads)
        self.task = task
        self.x, self.y = map(self.torch.from_numpy, given[:2])
        linears = []
        for weight, bias in zip(given.weights, given.biases, strict=True):
            linears.append(self.torch.nn.Linear(*weight.shape, dtype=self.x.dtype))
            linears[-1].load_state_dict(
                {"weight": self.torch.from_numpy(weight.T), "bias": self.torch.from_numpy(bias)}
            )
        layers = [layer for linear in linears for layer in (linear, self.torch.nn.ReLU())]
        self.net, self.linears = self.torch.nn.Sequential(*layers[:-1]), linears

    def parameters(self):
        weights, biases = zip(
            *((linear.weight.detach().T, linear.bias.detach()) for linear in self.linears), strict=True
        )
        return flat(weights, biases)

    def step(self):
        loss, optimizer = self.torch.nn.MSELoss(), self.torch.optim.SGD(self.net.parameters(), LR)

        def run():
            optimizer.zero_grad(set_to_none=True)
            loss(self.net(self.x), self.y).backward()
            optimizer.step()

        return {"PyTorch": Call(run, lambda: repeated(run, CHECKED_STEPS, self.parameters))}

    def predict(self):
        @self.torch.inference_mode()
        def run():
            return self.net(self.x)

        return {"PyTorch": Call(run, lambda: run().numpy())}

    def epoch(self):
        loss = self.torch.nn.CrossEntropyLoss()
        optimizer = self.torch.optim.SGD(self.net.parameters(), LR, MOMENTUM)

        def train(order):
            for rows in order.split(self.task.batch):
                optimizer.zero_grad(set_to_none=True)
                loss(self.net(self.x[rows]), self.y[rows]).backward()
                optimizer.step()

        def outcome():
            train(self.torch.arange(CHECKED_STEPS * self.task.batch))
            return self.parameters()

        return {"PyTorch": Call(lambda: train(self.torch.randperm(len(self.x))), outcome)}


class JAX:
    def __init__(self, task, given, threads):
        self.jax = import_module("jax")
        self.jax.config.update("jax_enable_x64", True)
        self.x, self.y = map(self.jax.device_put, given[:2])
        self.params = [(weight, bias) for weight, bias in zip(given.weights, given.biases, strict=True)]

    def forward(self, params, x):
        for weight, bias in params[:-1]:
            x = self.jax.nn.relu(x @ weight + bias)
        weight, bias = params[-1]
        return x @ weight + bias

    def step(self):
        jax = self.jax

        def train(params, x, y):
            loss, grads = jax.value_and_grad(lambda p: jax.numpy.mean((self.forward(p, x) - y) ** 2))(params)
            return jax.tree.map(lambda p, grad: p - LR * grad, params, grads), loss

        def train_often(params, x, y, times):
            return jax.lax.fori_loop(0, times, lambda _, params: train(params, x, y)[0], params)

        one, many = jax.jit(train, donate_argnums=0), jax.jit(train_often, donate_argnums=0)
        # each with parameters of its own, since a call destroys those that it is given
        state = {name: jax.device_put(self.params, may_alias=False) for name in ("JAX", "JAX loop")}

        def run():
            state["JAX"], _ = jax.block_until_ready(one(state["JAX"], self.x, self.y))

        def loop(times=LOOP_STEPS):
            state["JAX loop"] = jax.block_until_ready(many(state["JAX loop"], self.x, self.y, times))

        def parameters(name):
            return flat(*zip(*state[name], strict=True))

        return {
            "JAX": Call(run, lambda: repeated(run, CHECKED_STEPS, partial(parameters, "JAX"))),
            "JAX loop": Call(
                loop,
                lambda: repeated(partial(loop, CHECKED_STEPS), 1, partial(parameters, "JAX loop")),
                LOOP_STEPS,
            ),
        }

    def predict(self):
        forward = self.jax.jit(partial(self.forward, self.params))  # parameters as constants: the shortest call

        def run():
            return forward(self.x).block_until_ready()

        return {"JAX": Call(run, lambda: np.asarray(run()))}


class ONNXRuntime:
    def __init__(self, task, given, threads):
        runtime, onnx = import_module("onnxruntime"), import_module("onnx")
        kind = onnx.helper.np_dtype_to_tensor_dtype(given.x.dtype)
        nodes, constants, last = [], [], len(given.weights) - 1
        value = "x"
        for i, pair in enumerate(zip(given.weights, given.biases, strict=True)):
            names = f"weight{i}", f"bias{i}"
            constants += [onnx.numpy_helper.from_array(p, name) for p, name in zip(pair, names, strict=True)]
            nodes.append(onnx.helper.make_node("Gemm", [value, *names], ["y" if i == last else f"product{i}"]))
            if i < last:
                nodes.append(onnx.helper.make_node("Relu", [f"product{i}"], [f"output{i}"]))
                value = f"output{i}"
        ends = [
            [onnx.helper.make_tensor_value_info(name, kind, [task.batch, size])]
            for name, size in (("x", task.sizes[0]), ("y", task.sizes[-1]))
        ]
        graph = onnx.helper.make_graph(nodes, "network", *ends, constants)
        # of versions that any ONNX Runtime of today reads
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = runtime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        self.given = {"x": given.x}

    def predict(self):
        run = partial(self.session.run, ["y"], self.given)
        return {"ONNX Runtime": Call(run, lambda: run()[0])}


class ScikitLearn:
    def __init__(self, task, given, threads):
        self.task, self.given = task, given

    def epoch(self):
        neural_network = import_module("sklearn.neural_network")
        x, y, weights, biases = self.given

        def model(**options):
            return neural_network.MLPClassifier(
                self.task.sizes[1:-1],
                solver="sgd",
                alpha=0.0,
                batch_size=self.task.batch,
                learning_rate_init=LR,
                momentum=MOMENTUM,
                nesterovs_momentum=False,
                random_state=0,
                **options,
            )

        classes = np.arange(self.task.sizes[-1])
        timed = model()

        def outcome():
            rows = slice(CHECKED_STEPS * self.task.batch)
            batch = slice(self.task.batch)
            checked = model(shuffle=False).partial_fit(x[batch], y[batch], classes=classes)  # makes the arrays
            checked.coefs_, checked.intercepts_ = [w.copy() for w in weights], [b.copy() for b in biases]
            del checked._optimizer  # made anew, for these parameters
            checked.partial_fit(x[rows], y[rows])
            return flat(checked.coefs_, checked.intercepts_)

        return {"scikit-learn": Call(lambda: timed.partial_fit(x, y, classes=classes), outcome)}


class FastFC:
    def __init__(self, task, given, threads):
        self.task, self.given, self.threads = task, given, threads
        self.net = self.network()

    def network(self):
        net = fc.MLP(self.task.sizes, dtype=self.given.x.dtype)
        net.params[...] = flat(self.given.weights, self.given.biases)
        net.n_threads = self.threads
        return net

    def step(self):
        loss, optimizer = fc.MSELoss(), fc.SGD(LR)
        run = partial(self.net.train_step, self.given.x, self.given.y, loss, optimizer)
        return {"fastfc": Call(run, lambda: repeated(run, CHECKED_STEPS, self.net.params.copy))}

    def predict(self):
        run = partial(self.net.predict, self.given.x)
        return {"fastfc": Call(run, run)}

    def predict_one(self):
        x, out = self.given.x[0], np.empty(self.task.sizes[-1], self.given.x.dtype)

        @njit
        def predictions(net, x, out, times):
            for _ in range(times):
                net.predict_one(x, out)

        run = partial(predictions, self.net, x, out)
        return {"fastfc": Call(partial(run, PREDICTIONS), lambda: repeated(partial(run, 1), 1, out.copy), PREDICTIONS)}

    def epoch(self):
        net, loss, optimizer = self.net, fc.CrossEntropyLoss(), fc.SGD(LR, MOMENTUM)
        train = partial(net.fit, loss=loss, optimizer=optimizer, batch_size=self.task.batch, seed=0)
        rows = slice(CHECKED_STEPS * self.task.batch)

        def outcome():
            train(self.given.x[rows], self.given.y[rows], shuffle=False)
            return net.params.copy()

        return {"fastfc": Call(partial(train, self.given.x, self.given.y), outcome)}

    def fit(self):
        net, loss, optimizer = self.network(), fc.CrossEntropyLoss(), fc.SGD(LR, MOMENTUM)

        def steps(rows=SAMPLES):
            for batch in batches(self.task, rows):
                net.train_step(self.given.x[batch], self.given.y[batch], loss, optimizer)

        outcome = lambda: repeated(partial(steps, CHECKED_STEPS * self.task.batch), 1, net.params.copy)
        return self.epoch() | {"its steps": Call(steps, outcome)}

    def update(self):
        optimizer = fc.SGD(LR, MOMENTUM)
        self.net.grads[...] = self.given.y
        run = partial(optimizer.step, self.net)
        return {"fastfc": Call(run, lambda: repeated(run, CHECKED_STEPS, self.net.params.copy))}


class Memory:
    """The judge's own: as many bytes read and written in one pass as by the update, each line of them both."""

    def __init__(self, task, given, threads):
        # SGD with momentum reads parameters, gradients and velocities, and writes the first and the last
        self.x = np.ones(given.y.size * 5 // 2, given.x.dtype)

    def update(self):
        return {"memory": Call(lambda: np.negative(self.x, out=self.x), None)}


LIBRARIES = {
    "NumPy": NumPy,
    "PyTorch": PyTorch,
    "JAX": JAX,
    "ONNX Runtime": ONNXRuntime,
    "scikit-learn": ScikitLearn,
    "fastfc": FastFC,
    "limit": Memory,
}


class NetworkWorker(Worker):
    def __init__(self, library, threads):
        self.library, self.threads = LIBRARIES[library], threads

    def prepare(self, task, dtype):
        """Names of what this library has for the task."""
        self.found = {}
        if hasattr(self.library, task.kind):
            self.found = getattr(self.library(task, values(task, dtype), self.threads), task.kind)()
        self.calls = {name: (call.run, None) for name, call in self.found.items()}
        return [*self.found]

    def result(self, name):
        """To be asked for once, before `seconds`."""
        outcome = self.found[name].outcome
        return outcome and np.ravel(outcome())

    def seconds(self, name, number):
        times = self.found[name].times
        return super().seconds(name, -(-number // times)) / times


class NetworkReference(NetworkWorker):
    """The results of the textbook formulas in float64; and, as a contestant, the speed of the memory."""

    def prepare(self, task, dtype):
        given = values(task, dtype)
        x, y = given.x.astype(np.float64), given.y
        layers = [(w.astype(np.float64), b.astype(np.float64)) for w, b in zip(*given[2:], strict=True)]
        velocities = [(np.zeros_like(weight), np.zeros_like(bias)) for weight, bias in layers]
        weights, biases = zip(*layers, strict=True)
        self.start = flat(weights, biases)
        if task.kind.startswith("predict"):
            self.start, self.exact = 0.0, demo.reference_forward(x, layers)[-1].ravel()
        elif task.kind == "update":
            self.exact, velocity = self.start.copy(), np.zeros_like(self.start)
            for _ in range(CHECKED_STEPS):
                reference.sgd(self.exact, y, velocity, LR, MOMENTUM, 0.0)
        else:
            if task.kind == "step":
                for _ in range(CHECKED_STEPS):
                    reference.train_step(x, y, [*weights], [*biases], LR, loss=reference.mse_loss)
            else:
                for rows in batches(task, CHECKED_STEPS * task.batch):
                    demo.reference_step(x[rows], y[rows], layers, velocities)
            self.exact = flat(weights, biases)
        return super().prepare(task, dtype)

    def error(self, result):
        """Distance from the exact result, as a part of what the steps changed."""
        return float(np.linalg.norm(result - self.exact) / np.linalg.norm(self.exact - self.start))


def make(library, threads):
    return NetworkReference(library, threads) if library == "limit" else NetworkWorker(library, threads)
