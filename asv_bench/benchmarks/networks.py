import os

import numpy as np

import fastfc as fc

from .common import Timed, asked_for, table

# layer sizes
NETWORKS = {"digits": [64, 128, 10], "mnist": [784, 512, 256, 10], "control": [17, 64, 64, 6]}
BATCHES = [1, 32, 1024]


def network_and_data(sizes, samples, dtype="float32"):
    rng = np.random.default_rng(0)
    net = fc.MLP(sizes, seed=0, dtype=np.dtype(dtype).type)
    x = rng.standard_normal((samples, sizes[0]), dtype=dtype)
    return net, x, rng.integers(0, sizes[-1], samples)


class Predict(Timed):
    params = (list(NETWORKS), BATCHES, table(["float32"], ["float64"]))
    param_names = ("network", "batch", "dtype")

    def setup(self, network, batch, dtype):
        self.net, self.x, _ = network_and_data(NETWORKS[network], batch, dtype)
        self.net.predict(self.x)

    def time_predict(self, *_):
        self.net.predict(self.x)


class TrainStep(Timed):
    params = (list(NETWORKS), BATCHES, table(["float32"], ["float64"]))
    param_names = ("network", "batch", "dtype")

    def setup(self, network, batch, dtype):
        self.net, self.x, self.y = network_and_data(NETWORKS[network], batch, dtype)
        self.loss, self.optimizer = fc.CrossEntropyLoss(), fc.SGD(lr=1e-3, momentum=0.9)
        self.time_train_step()

    def time_train_step(self, *_):
        self.net.train_step(self.x, self.y, self.loss, self.optimizer)


class Epoch(Timed):
    params = (list(NETWORKS), table([256], [32]))
    param_names = ("network", "batch")

    def setup(self, network, batch):
        self.net, self.x, self.y = network_and_data(NETWORKS[network], 4096)
        self.loss, self.optimizer = fc.CrossEntropyLoss(), fc.SGD(lr=1e-3, momentum=0.9)
        self.net.fit(self.x[:batch], self.y[:batch], loss=self.loss, optimizer=self.optimizer, seed=0)

    def time_epoch(self, network, batch):
        self.net.fit(self.x, self.y, loss=self.loss, optimizer=self.optimizer, epochs=1, batch_size=batch, seed=0)


class Memory:
    """Peak of the whole process: the imports, the network, 51 MB of data, and what the call itself needs."""

    def setup(self):
        self.net, self.x, self.y = network_and_data(NETWORKS["mnist"], 16384)

    def peakmem_data_only(self):
        pass

    def peakmem_predict(self):
        self.net.predict(self.x)

    def peakmem_epoch(self):
        self.net.fit(
            self.x,
            self.y,
            loss=fc.CrossEntropyLoss(),
            optimizer=fc.SGD(lr=1e-3, momentum=0.9),
            batch_size=256,
        )


def resident():
    """Bytes of memory that this process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@asked_for
class Soak:
    unit = "bytes"
    timeout = 600

    def track_growth_in_a_million_train_steps(self):
        net, x, y = network_and_data([4, 64, 64, 2], 32)
        loss, optimizer = fc.CrossEntropyLoss(), fc.SGD(lr=1e-3)

        def train(steps):
            for _ in range(steps):
                net.train_step(x, y, loss, optimizer)
            return resident()

        before = train(1000)
        return train(1_000_000) - before
