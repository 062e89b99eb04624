"""Training on ranks of an MPI job: on one process without MPI, and on one and two ranks.

A step of one network, in shards, and an epoch of an ensemble, of which each rank has some members.
"""

import os
import shutil
import subprocess
import sys

import numpy as np

import fastfc as fc

from .common import asked_for, needs

STEPS, EPOCHS = 4, 4
OPTIONS = {"loss": fc.CrossEntropyLoss(), "epochs": EPOCHS, "seed": 0}


def networks(what):
    """A network, its samples, and how it is trained."""
    rng = np.random.default_rng(0)
    if what == "ensemble":
        x = rng.normal(size=(4096, 4)).astype(np.float32)
        team = fc.Ensemble(lambda seed: fc.MLP([4, 64, 64, 2], seed=seed), 32, n_threads=1)
        options = {"loss": fc.MSELoss(), "optimizer": fc.Adam(1e-3), "epochs": EPOCHS, "batch_size": 32, "seed": 0}
        return team, (x, np.sin(x[:, :2])), options, 1
    if what == "L-BFGS":
        x = rng.normal(size=(50_000, 20)).astype(np.float32)
        net = fc.MLP([20, 64, 64, 1], activation="tanh", seed=0, n_threads=1)
        options = {"loss": fc.MSELoss(), "optimizer": fc.LBFGS(max_iter=4, max_eval=5), "epochs": EPOCHS}
        return net, (x, np.sin(2 * x[:, :1]) + x[:, 1:2]), options, 1
    x, y = rng.normal(size=(STEPS * what, 784)).astype(np.float32), rng.integers(0, 10, STEPS * what)
    net = fc.MLP([784, 1024, 1024, 10], seed=0, n_threads=1)
    return net, (x, y), OPTIONS | {"optimizer": fc.SGD(1e-2, momentum=0.9), "batch_size": what}, STEPS


def seconds(what, **ranks):
    """Of a step, or of an epoch of L-BFGS or of an ensemble: the least of some epochs."""
    net, data, options, steps = networks(what)
    return min(net.fit(*data, **options, **ranks)["seconds"][1:]) / steps


@asked_for
class Step:
    """Each rank has a core of its own. Seconds of the clock: they depend on how many cores are free."""

    params = [1024, "ensemble", "L-BFGS", 2048, 4096], ["1 rank", "2 ranks", "without shards"]
    param_names = "batch", "on"
    unit, timeout = "seconds", 300

    def setup(self, batch, on):
        if on != "without shards":
            needs("mpi4py")
            folder = os.path.dirname(sys.executable)
            self.mpiexec = shutil.which("mpiexec", path=os.pathsep.join([folder, os.environ["PATH"]]))
            if self.mpiexec is None:
                raise NotImplementedError("mpiexec is not installed")

    def track_step(self, batch, on):
        if on == "without shards":
            return seconds(batch)
        command = [self.mpiexec, "-n", on[0], sys.executable, "-m", __spec__.name, str(batch)]
        top = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        return float(subprocess.run(command, cwd=top, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    from mpi4py import MPI

    result = seconds(int(sys.argv[1]) if sys.argv[1].isdigit() else sys.argv[1], comm=MPI.COMM_WORLD)
    if MPI.COMM_WORLD.rank == 0:
        print(result)
