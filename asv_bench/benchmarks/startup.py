"""What a user waits for before the first result, each in a process of its own."""

import os
import subprocess
import sys
import tempfile

FIRST_CALL = {
    "dense_forward": """
x, weight, bias, out = (np.zeros(shape, np.float32) for shape in [(32, 64), (64, 10), (10,), (32, 10)])
def call(): fc.kernels.dense_forward(x, weight, bias, out, "relu")
""",
    "predict": """
net, x = fc.MLP([64, 128, 10], seed=0), np.zeros((32, 64), np.float32)
def call(): net.predict(x)
""",
    "train_step": """
net, x, y = fc.MLP([64, 128, 10], seed=0), np.zeros((32, 64), np.float32), np.zeros(32, np.int64)
def call(): net.train_step(x, y, fc.CrossEntropyLoss(), fc.SGD(lr=0.1))
""",
}

WARMUP = """
import contextlib, sys
from fastfc.cli.warmup import warmup
def call():
    with contextlib.redirect_stdout(sys.stderr):
        warmup(["float32"])
"""

TIME_CALL = """
start = time.perf_counter()
call()
print(time.perf_counter() - start)
"""


def seconds(code, cache):
    env = {**os.environ, "FASTFC_CACHE": cache, "NUMBA_CACHE_DIR": cache}
    command = [sys.executable, "-c", "import time\nimport numba, numpy as np\n" + code]
    return float(subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout)


class Import:
    unit = "seconds"

    def track_import_above_numba(self):
        code = "start = time.perf_counter()\nimport fastfc\nprint(time.perf_counter() - start)"
        with tempfile.TemporaryDirectory() as cache:
            seconds(code, cache)  # compiles the .pyc files
            return min(seconds(code, cache) for _ in range(5))


class FirstCall:
    params = tuple(FIRST_CALL)
    param_names = ("call",)
    unit = "seconds"
    timeout = 600

    def setup(self, call):
        self.code = "import fastfc as fc\n" + FIRST_CALL[call] + TIME_CALL

    def track_cold(self, call):
        with tempfile.TemporaryDirectory() as cache:
            return seconds(self.code, cache)

    def track_warm_cache(self, call):
        with tempfile.TemporaryDirectory() as cache:
            seconds(self.code, cache)
            return min(seconds(self.code, cache) for _ in range(3))


class SecondProcess:
    unit = "seconds"
    timeout = 600

    def track_import_to_first_step_of_a_new_network(self):
        first = "start = time.perf_counter()\nimport fastfc as fc\n" + FIRST_CALL["train_step"]
        code = first + "call()\nprint(time.perf_counter() - start)"
        with tempfile.TemporaryDirectory() as cache:
            seconds(code, cache)
            return min(seconds(code, cache) for _ in range(3))


class Warmup:
    unit = "seconds"
    timeout = 600

    def track_float32_cold(self):
        """Every kernel, as `fastfc warmup --dtype float32` compiles them."""
        with tempfile.TemporaryDirectory() as cache:
            return seconds(WARMUP + TIME_CALL, cache)
