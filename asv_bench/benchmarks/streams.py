"""Training and prediction on data that come in parts, against the same in memory. Reading goes on meanwhile."""

import tempfile
from pathlib import Path

import numpy as np

import fastfc as fc
from fastfc.data import streams

from .common import Timed, needs, table

N, SIZES, BATCH = 2**17, [128, 64, 10], 256


class Sources(Timed):
    """67 MB in windows of 4 MB."""

    params = (table(["memory", "memmap"], ["zarr", "batches"]),)
    param_names = ("source",)

    def setup(self, source):
        streams.IN_MEMORY, streams.BLOCK, streams.WINDOW = 0, 2**19, 2**22
        rng, self.folder = np.random.default_rng(0), tempfile.TemporaryDirectory()
        self.net = fc.MLP(SIZES, seed=0)
        self.x = rng.standard_normal((N, SIZES[0]), dtype=np.float32)
        self.y = rng.integers(0, SIZES[-1], N)
        if source == "memmap":
            np.save(Path(self.folder.name) / "x.npy", self.x)
            self.x = np.load(Path(self.folder.name) / "x.npy", mmap_mode="r")
        if source == "zarr":
            zarr = needs("zarr")
            path = str(Path(self.folder.name) / "x.zarr")
            self.x = zarr.create_array(path, data=self.x, chunks=(2**11, SIZES[0]), compressors=None)
        self.data = self.x, self.y
        if source == "batches":
            self.data = ([(self.x[i : i + BATCH], self.y[i : i + BATCH]) for i in range(0, N, BATCH)],)
        self.options = {"loss": fc.CrossEntropyLoss(), "optimizer": fc.SGD(lr=1e-3), "batch_size": BATCH, "seed": 0}
        self.fit()

    def teardown(self, source):
        self.folder.cleanup()

    def fit(self):
        self.net.fit(*self.data, **self.options)


class Use(Sources):
    def time_fit(self, source):
        self.fit()

    def time_predict(self, source):
        self.net.predict(self.x if source != "batches" else lambda: iter(self.data[0]))


class Read(Sources):
    params = (table(["memmap"], ["zarr"]),)

    def time_read(self, source):
        for _ in streams.Blocks((*self.data, None), "fit").parts(np.random.default_rng(0), BATCH, 1):
            pass
