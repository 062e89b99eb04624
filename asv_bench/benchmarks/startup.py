"""What a user waits for before the first result: seconds of a processor, each in a process with its own cache.

Both cores may compile, and other programs hardly change processor time.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .common import Clock, asked_for

IMPORTS = "import resource\nimport numba, numpy as np\n"
# Processor time of a process and of those it has waited for; os.times counts hundredths of a second
TIMED = """
def spent():
    usages = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
start = spent()
{}
print(spent() - start)
"""

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
    for variable in ("NUMBA_NUM_THREADS", "PYTHONDONTWRITEBYTECODE"):
        env.pop(variable, None)
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


class Startup(Clock):
    timeout = 600

    def setup(self):
        self.folder = tempfile.TemporaryDirectory()
        self.cache = self.folder.name

    def teardown(self):
        self.folder.cleanup()


class Import(Startup):
    def time_import_above_numba(self):
        seconds("", "import fastfc", self.cache)  # compiles the .pyc files
        self.elapsed += min(seconds("", "import fastfc", self.cache) for _ in range(5))


class NothingCached(Startup):
    def time_demo(self):
        """What compiling adds to `fastfc demo`."""
        cold, warm = (seconds_of_command("demo", cache=self.cache) for _ in range(2))
        self.elapsed += cold - warm

    def time_kernel(self):
        """The first `dense_forward`."""
        self.elapsed += seconds("import fastfc as fc\n" + DENSE, "call()", self.cache)

    def time_train_step(self):
        self.elapsed += seconds("import fastfc as fc\n" + TRAIN, "train()", self.cache)


@asked_for
class Everything(Startup):
    def time_warmup(self):
        self.elapsed += seconds_of_command("warmup", "--dtype", "float32", cache=self.cache)


class Cached(Startup):
    """With the usual training compiled."""

    def setup_cache(self):
        folder = Path("kernels").absolute()
        folder.mkdir(mode=0o700)
        seconds("import fastfc as fc\n" + TRAIN, "train()", folder)
        return str(folder)

    setup_cache.timeout = 600

    def setup(self, compiled, *params):
        super().setup()
        self.compiled = compiled

    def teardown(self, compiled, *params):
        super().teardown()

    def least(self, n, setup, call):
        """Of n new processes, each with a copy of what is compiled."""
        caches = [shutil.copytree(self.compiled, Path(self.folder.name, str(i))) for i in range(n)]
        self.elapsed += min(seconds(setup, call, cache) for cache in caches)


class SecondProcess(Cached):
    def time_second_process(self, compiled):
        """From the import to the first training step."""
        self.least(3, "", f"import fastfc as fc\n{TRAIN}\ntrain()")


class More(Cached):
    """The same training, but for one thing that is not compiled."""

    params = tuple(MORE)
    param_names = ("new",)

    def time_more(self, compiled, new):
        self.least(3, "import fastfc as fc\n" + TRAIN + "train()\n", f"train({MORE[new]})")


@asked_for
class Wall(Startup):
    """Seconds of the clock: they depend on how many cores are free."""

    def time_demo(self):
        start = time.perf_counter()
        run("-m", "fastfc.cli.main", "demo", cache=self.cache)
        self.elapsed += time.perf_counter() - start
