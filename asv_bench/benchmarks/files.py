"""A network of 784-512-256-10 and its optimizer, written to and read from a file."""

import tempfile
from pathlib import Path

import numpy as np

import fastfc as fc

from .common import Timed, three_digits


class Checkpoint(Timed):
    def setup(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "net.safetensors"
        self.net, self.optimizer = fc.MLP([784, 512, 256, 10], seed=0), fc.Adam()
        self.net.train_step(np.zeros((32, 784)), np.zeros(32, np.int64), fc.CrossEntropyLoss(), self.optimizer)
        self.net.save(self.path, optimizer=self.optimizer)

    def teardown(self):
        self.folder.cleanup()

    def time_save(self):
        self.net.save(self.path, optimizer=self.optimizer)

    def time_load(self):
        fc.load_checkpoint(self.path)

    def track_size(self):
        return three_digits(self.path.stat().st_size / self.net.params.nbytes)

    track_size.unit = "times the parameters"
