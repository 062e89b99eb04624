"""What a user waits for before the first result: seconds of a processor, each in a process with its own cache.

Both cores may compile, and other programs hardly change processor time.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .common import asked_for, three_digits

IMPORTS = "import os, time\nimport numba, numpy as np\n"
# Processor time of a process and of those it has waited for
TIMED = "\nspent = lambda: sum(os.times()[:4])\nstart = spent()\n{}\nprint(spent() - start)\n"

DENSE = """
x, weight, bias, out = (np.zeros(shape, np.float32) for shape in [(32, 64), (64, 10), (10,), (32, 10)])
def call(): fc.kernels.dense_forward(x, weight, bias, out, "relu")
"""
TRAIN = """
x, y = np.zeros((32, 64), np.float32), np.zeros(32, np.int64)
def train(activation=fc.ReLU, loss=fc.CrossEntropyLoss, optimizer=fc.SGD):
    net = fc.Sequential([fc.Linear(64, 128, seed=0), activation(), fc.Linear(128, 10, seed=1)])
    net.train_step(x, y if loss is fc.CrossEntropyLoss else x[:, :10], loss(), optimizer(lr=0.1))
"""
# To train with what the usual training has not compiled
MORE = {
    "GELU": "activation=fc.GELU",
    "HuberLoss": "loss=fc.HuberLoss",
    "Adagrad": "optimizer=fc.Adagrad",
}


def environment(cache):
    env = {**os.environ, "FASTFC_CACHE": str(cache), "NUMBA_CACHE_DIR": str(cache)}
    env.pop("NUMBA_NUM_THREADS", None)
    return env


def run(*command, cache):
    done = subprocess.run([sys.executable, *command], env=environment(cache), check=True, stdout=subprocess.PIPE)
    return done.stdout.decode()


def seconds(setup, call, cache):
    """Processor time that a call takes in a new process."""
    return float(run("-c", IMPORTS + setup + TIMED.format(call), cache=cache))


def seconds_of_command(*arguments, cache):
    """Processor time of a fastfc command, its start included."""

    def spent():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    start = spent()
    run("-m", "fastfc.cli.main", *arguments, cache=cache)
    return spent() - start


class Startup:
    unit = "seconds"
    timeout = 600

    def setup(self):
        self.folder = tempfile.TemporaryDirectory()
        self.cache = self.folder.name

    def teardown(self):
        self.folder.cleanup()

    def track_import_above_numba(self):
        seconds("", "import fastfc", self.cache)  # compiles the .pyc files
        return three_digits(min(seconds("", "import fastfc", self.cache) for _ in range(10)))


class NothingCached(Startup):
    track_import_above_numba = None

    def track_demo(self):
        """What compiling adds to `fastfc demo`."""
        cold, warm = (seconds_of_command("demo", cache=self.cache) for _ in range(2))
        return three_digits(cold - warm)

    def track_kernel(self):
        """The first `dense_forward`."""
        return three_digits(seconds("import fastfc as fc\n" + DENSE, "call()", self.cache))

    def track_train_step(self):
        return three_digits(seconds("import fastfc as fc\n" + TRAIN, "train()", self.cache))

    def track_warmup(self):
        return three_digits(seconds_of_command("warmup", "--dtype", "float32", cache=self.cache))


class Cached(Startup):
    """With the usual training compiled."""

    def setup_cache(self):
        folder = Path("kernels").absolute()
        folder.mkdir(mode=0o700)
        seconds("import fastfc as fc\n" + TRAIN, "train()", folder)
        return str(folder)

    setup_cache.timeout = 600

    def setup(self, compiled):
        super().setup()
        self.cache = shutil.copytree(compiled, Path(self.folder.name, "kernels"))

    def teardown(self, compiled):
        super().teardown()

    track_import_above_numba = None

    def track_second_process(self, compiled):
        """From the import to the first training step."""
        call = f"import fastfc as fc\n{TRAIN}\ntrain()"
        return three_digits(min(seconds("", call, self.cache) for _ in range(5)))


class More(Cached):
    """The same training, but for one thing that is not compiled."""

    params = tuple(MORE)
    param_names = ("new",)
    track_second_process = None

    def setup(self, compiled, new):
        super().setup(compiled)

    def teardown(self, compiled, new):
        super().teardown(compiled)

    def track_more(self, compiled, new):
        return three_digits(seconds("import fastfc as fc\n" + TRAIN + "train()\n", f"train({MORE[new]})", self.cache))


@asked_for
class Wall(Startup):
    """Seconds of the clock: they depend on how many cores are free."""

    track_import_above_numba = None

    def track_demo(self):
        import time

        start = time.perf_counter()
        run("-m", "fastfc.cli.main", "demo", cache=self.cache)
        return three_digits(time.perf_counter() - start)
