"""Whether the tests miss a line that is wrong: python tests/mutations.py [-m MARKERS] [NUMBER ...]

Each mutation changes one line in a copy of the tree and runs the test files that are about it: the quick suite's tests,
or with `-m "not soak"` the slow ones too. Prints a table, a mutation a line, and ends with status 1 if one is missed.
Whatever it changes in kernels/ is compiled anew, which takes most of the time.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

# ruff: noqa: E501
# The line as it is and as it becomes, each once in all of kernels/ or fastfc/, and the test files
KERNELS = [
    (
        "return fma(c * fma(c, -0.5, size) / b, w, total)",
        "return fma(c * fma(c, 0.5, size) / b, w, total)",
        "kernel_losses",
    ),
    ("return fma(error * slope, w, total), 0.0 - slope", "return fma(error * slope, w, total), slope", "kernel_losses"),
    (
        "spread = where_less(spread, 1e-12, 1e-12, spread)",
        "spread = where_less(spread, 1e-3, 1e-3, spread)",
        "kernel_losses losses",
    ),
    ("v = fma(g, g, v)", "v = fma(g, v, g)", "kernel_optimizers optimizers"),
    (
        "b = fma(b, mu, g / (root_before_sum(v, 1.0, eps) + eps))\n    return b, v, b, fma",
        "b = fma(b, mu, g / root_before_sum(v + eps, 1.0, eps))\n    return b, v, b, fma",
        "optimizers",
    ),
    ("new = fma(old, keep, p * (1.0 - keep))", "new = fma(old, keep, p)", "optimizers"),
    (
        "scale = 1.0 / (1.0 - mask.p) if mask.p < 1.0 else 0.0",
        "scale = 1.0 / (1.0 + mask.p) if mask.p < 1.0 else 0.0",
        "dropout",
    ),
    ("mean = fma(delta, count / (before + count), mean)", "mean = fma(delta, count / before, mean)", "norms"),
    ("low = fma(x0, x0, x1 * x1) + fma(x2, x2, x3 * x3)", "low = fma(x0, x0, x1 * x1) + fma(x2, x2, x2 * x3)", "norms"),
    ("once = mix(np.uint64(seed) + golden)", "once = mix(np.uint64(seed))", "dropout"),
    ("    for r in range(eights, n):", "    for r in range(eights, n - (n > 15)):", "norms"),
    ("return x ^ (x >> np.uint64(31))", "return x ^ (x >> np.uint64(32))", "dropout golden"),
]
LAYERS = [
    ("if sign * loss < sign * best * (1.0 - sign * self.threshold):", "if sign * loss < sign * best * (1.0 + sign * self.threshold):", "schedules"),
    ("new if lr - new > 1e-8 else lr", "new if lr - new > 1e-2 else lr", "schedules"),
    ("self.waited >= self.patience:", "self.waited > self.patience:", "callbacks"),
    ("improved = self._sign * (value - best) > self.min_delta", "improved = self._sign * (value - best) >= self.min_delta", "callbacks"),
    ("accepted = rng.random(missing.size) < np.exp((likeliest**2 - z**2) / 2)", "accepted = rng.random(missing.size) < np.exp((likeliest**2 - z**2) / 3)", "initializers"),
    ("limit = math.sqrt(3 * squared_gain / fan)", "limit = math.sqrt(2 * squared_gain / fan)", "initializers"),
    ("before = np.count_nonzero((scores > own) | ((scores == own) & later), axis=1)", "before = np.count_nonzero((scores > own) | (scores == own), axis=1)", "metrics"),
    ("training.check_epochs(2 * epochs,", "training.check_epochs(epochs,", "streams"),
    ("self.rows(slice(middle, self.n), middle)", "self.rows(slice(middle, self.n - 1), middle)", "training options"),
    ("counted = classes != row[LossColumn.C]", "counted = classes == classes", "training losses"),
    ("if checksum(file.metadata()[\"fastfc\"], tensors) != file.metadata()[\"checksum\"]:", "if not file.metadata()[\"checksum\"]:", "files"),
    ("if version > newest:", "if version > newest + 1:", "files"),
    ("            run.optimizer.epochs += 1\n", "            run.optimizer.epochs += 2\n", "training schedules"),
    ("    if (n % batch_size or batch_size) == 1 and", "    if n % batch_size == 1 and", "training norms"),
    ("return sum(a.size * max(a.dtype.itemsize, 4) for", "return sum(a.size for", "streams"),
    ("len(numbers) < len(first) and 1 < len(numbers) == len(years)", "len(numbers) < len(first) and 1 < len(numbers)", "train tables table_corpus"),
    ("        if tracked:\n", "        if tracked and affine:\n", "norms layer_kinds"),
    ("eps = -1.0 if self.eps is None else self.eps", "eps = 0.0 if self.eps is None else self.eps", "norms"),
]  # fmt: skip
MUTATIONS = [*((("kernels", *row)) for row in KERNELS), *((("fastfc", *row)) for row in LAYERS)]


def place(tree, folder, line):
    """The one file that has the line."""
    paths = [path for path in (tree / folder).rglob("*.py") for _ in range(path.read_text().count(line))]
    if len(paths) != 1:
        raise ValueError(f"{folder}/ has {len(paths)} times, not once: {line!r}")
    return paths[0]


def copy(target):
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name, follow_symlinks=False)


def caught(tree, folder, line, other, files, markers):
    """Whether a test fails, and which one first."""
    path = place(tree, folder, line)
    text = path.read_text()
    path.write_text(text.replace(line, other))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", markers]
    command += [f"tests/test_{name}.py" for name in files.split()]
    env = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=tree, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    finally:
        path.write_text(text)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout)
    failed = [row for row in done.stdout.splitlines() if row.startswith(("FAILED ", "ERROR "))]
    return bool(failed), failed[0].split(" - ")[0] if failed else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-m", dest="markers", default="not slow and not soak")
    parser.add_argument("numbers", nargs="*", type=int, help="of mutations, from 1; all of them unless given")
    options = parser.parse_args()
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        copy(tree)
        for number, (where, line, other, files) in enumerate(MUTATIONS, 1):
            if options.numbers and number not in options.numbers:
                continue
            start = time.perf_counter()
            found, by = caught(tree, where, line, other, files, options.markers)
            missed += not found
            seconds = time.perf_counter() - start
            print(
                f"{number:3} {'caught' if found else 'MISSED'} {seconds:6.1f} s  {line.strip()[:60]:60} {by}",
                flush=True,
            )
    print(f"{missed} missed")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
