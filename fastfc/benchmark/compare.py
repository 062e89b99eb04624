"""`fastfc compare`: the four kernels, and networks, against NumPy and what else is installed."""

import contextlib
import json
import os
import statistics
from functools import partial
from itertools import groupby
from typing import NamedTuple

from fastfc.benchmark.instructions import agrees
from fastfc.benchmark.networks import LOOP_STEPS, Task
from fastfc.benchmark.worker import KERNELS, Shape, start, work

SHAPES = [
    Shape(1, 784, 512),
    Shape(32, 64, 128),
    Shape(128, 128, 128),
    Shape(256, 256, 256),
    Shape(1024, 64, 10),
    Shape(512, 1024, 1024),
]
ROUNDS, BLOCK_SECONDS = 11, 0.003

# What fastfc is to reach on one core and more: the least ratio of the best other library's time to its own, for
# (forward, weight_grad, input_grad, bias_grad), and the least share of the limit, None for any.
SMALL, MEDIUM, LARGE = (3.0, 2.5, 2.5, 1.0), (1.3, 1.1, 1.1, 1.0), (1.15, 1.1, 1.1, 1.0)
ANY, READ, BOTH = (None, None, None, None), (None, None, None, 0.9), (0.9, None, None, 0.9)
TARGETS = {
    Shape(1, 64, 64): (SMALL, ANY),
    Shape(32, 64, 64): (SMALL, ANY),
    Shape(1000, 77, 129): (MEDIUM, ANY),
    Shape(4096, 128, 128): (MEDIUM, READ),
    Shape(65536, 32, 16): (MEDIUM, READ),
    Shape(128, 784, 512): (MEDIUM, ANY),
    Shape(256, 256, 256): (LARGE, ANY),
    Shape(512, 1024, 1024): (LARGE, BOTH),
    Shape(64, 4096, 1000): (LARGE, ANY),
    Shape(2048, 2048, 2048): (LARGE, BOTH),
}
ELSEWHERE = ((1.0, 1.0, 1.0, 1.0), ANY)
# Several threads against one, from so many multiplications on, and below that: no loss, less the noise.
SCALING, SCALING_FROM, NO_LOSS = 1.85, 512 * 1024 * 1024, 0.97

ODD = [
    Shape.parse(text)
    for group in (
        # one and two samples
        "1x1x1 1x1x1000 1x1000x1 1x7x13 1x64x10 1x1000x1000 1x1024x1024 1x4096x33 1x33x4096",
        "2x1x2 2x3x5 2x64x64 2x784x10 2x1000x1000 2x17x5000",
        # one, two and three columns
        "1000x1x1 500x300x1 500x300x2 500x300x3 500x1x300 500x2x300 500x3x300 4096x512x1 3x512x2 2048x2x3",
        # primes
        "3x5x7 7x11x13 17x19x23 31x37x41 61x67x71 97x101x103 127x131x137 251x257x263 509x521x523 1009x13x11",
        # tall, wide, deep
        "100000x3x5 50000x7x1 20000x64x10 30011x17x6 3x5x50000 8x16x20000 16x1x30011",
        "3x50000x5 16x20000x8 1x100000x1 10x30011x7",
        # powers of two, whose rows fall into the same few sets of a cache
        "16x16x16 32x32x32 64x64x64 128x128x128 1024x1024x1024 256x4096x64 64x2048x2048 2048x64x2048",
        "4096x4096x8 8x4096x4096 32x8192x32",
        # one more and one less
        "15x31x33 33x65x17 63x63x63 65x65x65 127x129x255 257x255x257 513x511x513",
        # views
        "1x784x512:transposed 32x64x64:transposed 1000x77x129:transposed 256x256x256:transposed",
        "4096x17x6:transposed 512x512x512:transposed",
        "1x784x512:sliced 32x64x64:sliced 1000x77x129:sliced 256x256x256:sliced 4096x17x6:sliced 512x512x512:sliced",
    )
    for text in group.split()
]


class Target(NamedTuple):
    """The least ratio of another's time to that of fastfc; the other is the best library, this one, or seconds."""

    ratio: float
    other: str | float | None = None


PERCEPTRON, LARGE_PERCEPTRON = (4, 64, 64, 2), (784, 256, 128, 100, 10)
TASKS = {
    Task("step", PERCEPTRON, 32): Target(2.0),
    Task("step", (64, 128, 64, 1), 128): Target(1.4),
    Task("step", (17, 256, 256, 6), 256): Target(1.4),
    Task("step", (784, 512, 10), 128): Target(1.3),
    Task("step", (784, 1024, 1024, 10), 256): Target(1.2),
    Task("step", (1024, 1024, 1024, 1024), 512): Target(1.2),
    Task("predict", PERCEPTRON, 1): Target(4.0, "ONNX Runtime"),
    Task("predict", (784, 512, 10), 1): Target(1.5),
    Task("predict_one", PERCEPTRON, 1): Target(1.0, 0.5e-6),
    Task("epoch", LARGE_PERCEPTRON, 200): Target(2.0),
    Task("fit", LARGE_PERCEPTRON, 200): Target(0.98, "its steps"),
    Task("update", (3162, 3161), 1): Target(0.85, "memory"),  # 9,998,244 parameters
}
TASK_TITLES = {
    "step": "One step from Python: forward, mean squared error, backward, SGD",
    "predict": "Prediction from Python",
    "predict_one": "Prediction from @njit code",
    "epoch": "One epoch of 60,000 samples: cross-entropy, SGD with momentum",
    "fit": "The same epoch, fit against its steps one by one",
    "update": "SGD with momentum, against as many bytes read and written in place",
}
SLOW_ROUNDS = 5  # of what takes longer than all rounds of the rest
# Larger errors are not rounding, not even with a sample that falls on the other side of the kink of a ReLU.
WRONG = {"float32": 5e-3, "float64": 5e-6}


def pin(threads):
    """Keep this process and those it starts on its last `threads` cores; return them, or None if impossible."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    os.sched_setaffinity(0, cores)
    return cores


@contextlib.contextmanager
def worker_processes(threads, libraries, **options):
    """One process for each library, the reference's last."""
    workers = start(threads, libraries, **options)
    try:
        yield workers
    finally:
        for worker in workers:
            worker.close()


def interleaved(timers, rounds):
    """Median seconds of each, from functions of a number of calls.

    All of them take turns in every round, so that noise meets all alike.
    """
    numbers = [max(1, int(BLOCK_SECONDS / min(timer(1) for _ in range(2)))) for timer in timers]
    samples = [[timer(number) for timer, number in zip(timers, numbers, strict=True)] for _ in range(rounds)]
    return [statistics.median(sample) for sample in zip(*samples, strict=True)]


def measure(shape, dtype, threads, workers, rounds=None):
    """For each kernel, its Line."""
    for worker in workers:
        worker.ask("prepare", shape, dtype)
    *libraries, reference = workers
    for kernel in KERNELS:
        errors = [reference.ask("error", kernel, library.ask("result", kernel)) for library in libraries]
        done = [work(shape, kernel, dtype)] * len(libraries) + [int(reference.ask("result", kernel))]
        medians = interleaved([partial(worker.ask, "seconds", kernel) for worker in workers], rounds or ROUNDS)
        yield Line(
            {
                "kernel": kernel,
                "rows": shape.rows,
                "in_features": shape.inputs,
                "out_features": shape.outputs,
                "layout": shape.layout,
                "dtype": dtype,
                "threads": threads,
                "library": worker.library,
                "version": worker.version,
                "seconds": seconds,
                "rate": operations / seconds / 1e9,
                "rate_unit": "GB/s" if kernel == "bias_grad" else "GFLOP/s",
                "error_in_bounds": error,
            }
            for worker, seconds, operations, error in zip(workers, medians, done, [*errors, 0.0], strict=True)
        )


class Line:
    """One kernel on one shape: the records of all libraries, and what they say of fastfc."""

    def __init__(self, records):
        self.records = {record["library"]: record for record in records}
        ours = self.records["fastfc"]
        self.shape = Shape(ours["rows"], ours["in_features"], ours["out_features"], ours["layout"])
        self.kernel, self.threads, self.seconds = ours["kernel"], ours["threads"], ours["seconds"]
        self.libraries = [r for name, r in self.records.items() if name not in ("fastfc, 1 thread", "limit")]
        best = min((r for r in self.libraries if r is not ours), key=lambda record: record["seconds"])
        self.best, self.ratio = best["library"], best["seconds"] / self.seconds
        self.share = ours["rate"] / (self.threads * self.records["limit"]["rate"])
        alone = self.records.get("fastfc, 1 thread")
        self.scaling = alone and alone["seconds"] / self.seconds

    def misses(self):
        """What is below its target, in words."""
        ratios, shares = TARGETS.get(self.shape, ELSEWHERE)
        least_ratio, least_share = (targets[KERNELS.index(self.kernel)] for targets in (ratios, shares))
        large = self.kernel != "bias_grad" and self.shape.rows * self.shape.inputs * self.shape.outputs >= SCALING_FROM
        checks = [
            (f"× {self.best}", self.ratio, least_ratio),
            ("of the limit", self.share, least_share),
            ("× one thread", self.scaling, SCALING if large else NO_LOSS),
        ]
        return [
            f"{value:.2f} {what}, not {least:.2f}"
            for what, value, least in checks
            if value is not None and least is not None and value < least
        ]


def lines(records):
    """The Lines of the records that --json wrote."""
    return [Line(group) for _, group in groupby(records, lambda r: [r[name] for name in [*r][:7]])]


def readable(seconds):
    unit, scale = ("s", 1) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("µs", 1e6)
    value = seconds * scale
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


def summarize(found):
    ratios = [line.ratio for line in found]
    below = [line for line in found if line.ratio < 1]
    missed = [(line, line.misses()) for line in found if line.misses()]
    peaks = [line.records["limit"]["rate"] for line in found if line.kernel != "bias_grad"]
    print(
        f"\nfastfc is first in {len(found) - len(below)} of {len(found)} lines; ratio {min(ratios):.2f} to "
        f"{max(ratios):.2f}, geometric mean {statistics.geometric_mean(ratios):.2f}. Multiply-add peak of one core: "
        f"{statistics.median(peaks):.0f} GFLOP/s ({min(peaks):.0f} to {max(peaks):.0f})."
    )
    print(f"Below 1.0: {len(below)} lines. Below a target: {len(missed)} lines{':' * bool(missed)}")
    for line, misses in missed:
        print(f"  {line.kernel:<11} {line.shape!s:<14} {', '.join(misses)}")


def compare(shapes, libraries, threads, dtype, json_file=None, plot_file=None, isa=None):
    """Print the table, a line at a time; write every record to `json_file` at the end, and a picture to `plot_file`."""
    print(
        f"{where(threads, dtype)}. Each library in a process of its own, called from\n"
        f"Python; all in turn, median of {ROUNDS} rounds. Rates are GFLOP/s, for bias_grad GB/s. err: largest error\n"
        "against a wider type, as a part of the bound k·eps·(|A| |B|) for sums of k terms. limit: fastfc's share of\n"
        "what the cores can do: multiply and add or, for bias_grad, read the matrix; measured in the same rounds.\n"
        "ratio: time of the best other library / time of fastfc; < marks a line that misses a target of fastfc."
    )
    found: list[Line] = []
    with worker_processes(threads, libraries, isa=isa) as workers:
        print(f"{instructions(workers, isa)}\n")
        for shape in shapes:
            for line in measure(shape, dtype, threads, workers):
                if not found:
                    titles = [f"{r['library']} {r['version']}" for r in line.libraries]
                    print(" " * 11 + "".join(f" | {title:^20}" for title in titles) + " |")
                    heads = f" | {'time':>7} {'rate':>6} {'err':>5}" * len(titles)
                    print(f"{'':11}{heads} | limit{' | scaling' * (threads > 1)} |  ratio to the best")
                if line.kernel == KERNELS[0]:
                    print(shape)
                cells = [
                    f" | {readable(r['seconds']):>7} {r['rate']:6.1f} {r['error_in_bounds']:5.3f}"
                    for r in line.libraries
                ]
                scaling = f" | {line.scaling:7.2f}" if line.scaling else ""
                ratio = f"{'<' if line.misses() else ' '} {line.ratio:5.2f} {line.best}"
                print(f"{line.kernel:<11}{''.join(cells)} | {line.share:5.0%}{scaling} |{ratio}", flush=True)
                found.append(line)
    write(json_file, [record for line in found for record in line.records.values()], isa)
    draw(plot_file, "of_kernels", found, dtype)
    summarize(found)
    say_written(json_file, plot_file)


def instructions(workers, isa):
    """What the libraries say of the instructions that they use, in words."""
    answers = {worker.library: worker.ask("instructions") for worker in workers if worker.library != "limit"}
    for library, answer in answers.items():
        if isa and not agrees(isa, answer):
            raise RuntimeError(f"{library} was to use {isa}, and says that it uses {answer}")
    listed = ", ".join(f"{library} {answer or 'does not tell'}" for library, answer in answers.items())
    return f"Instructions{f', forced to {isa}' if isa else ''}: {listed}."


def where(threads, dtype):
    """What is measured and on which cores, to which this process now keeps."""
    cores = pin(threads)
    pinned = "not pinned" if cores is None else f"pinned to {', '.join(f'core {core}' for core in cores)}"
    return f"{dtype}, {threads} thread{'s' * (threads > 1)}, {pinned}"


def write(json_file, records, isa):
    if json_file:
        forced = {"isa": isa} if isa else {}
        json_file.write_text(json.dumps([record | forced for record in records], indent=1) + "\n")


def draw(plot_file, what, found, dtype):
    if plot_file:
        from fastfc.benchmark import figures as comparison
        from fastfc.kernels import machine

        figure = getattr(comparison, what)(found, machine.fma_peak(dtype), machine.read_bandwidth())
        figure.savefig(plot_file, dpi=100)


def say_written(*files):
    for path in filter(None, files):
        print(f"Wrote {path}")


def measure_network(task, dtype, threads, workers, rounds=None):
    """The Row of one task."""
    entries = [(worker, name) for worker in workers for name in worker.ask("prepare", task, dtype)]
    results = [worker.ask("result", name) for worker, name in entries]
    errors = [0.0 if result is None else workers[-1].ask("error", result) for result in results]
    timers = [partial(worker.ask, "seconds", name) for worker, name in entries]
    rounds = rounds or (SLOW_ROUNDS if task.kind in ("epoch", "fit", "update") else ROUNDS)
    return Row(
        {
            "task": task.kind,
            "network": task.network,
            "batch": task.batch,
            "dtype": dtype,
            "threads": threads,
            "library": name,
            "version": worker.version,
            "seconds": seconds,
            "error": error,
        }
        for (worker, name), seconds, error in zip(entries, interleaved(timers, rounds), errors, strict=True)
    )


class Row:
    """One task: the records of all that do it, and what they say of fastfc."""

    def __init__(self, records):
        self.records = {record["library"]: record for record in records}
        ours = self.records["fastfc"]
        self.task = Task(ours["task"], tuple(map(int, ours["network"].split("-"))), ours["batch"])
        self.seconds = ours["seconds"]
        times = {name: record["seconds"] for name, record in self.records.items() if record is not ours}
        self.target = TASKS[self.task]
        if isinstance(self.target.other, float):
            times = {readable(self.target.other): self.target.other}
        elif self.target.other in times:
            times = {self.target.other: times[self.target.other]}
        elif self.target.other:
            times = {}
        self.other = min(times, key=times.__getitem__, default=None)
        self.ratio = times[self.other] / self.seconds if times else None

    def misses(self):
        """What is wrong or below its target, in words."""
        wrong = [f"{name} is wrong" for name, r in self.records.items() if not r["error"] <= WRONG[r["dtype"]]]
        if self.ratio is not None and self.ratio < self.target.ratio:
            wrong.append(f"{self.ratio:.2f} × {self.other}, not {self.target.ratio:.2f}")
        return wrong

    def __str__(self):
        return f"{self.task.network}, {self.task.batch}"


def rows(records):
    """The Rows of the records that --json wrote."""
    return [Row(group) for _, group in groupby(records, lambda r: [r[name] for name in [*r][:5]])]


def compare_networks(tasks, libraries, threads, dtype, json_file=None, plot_file=None, isa=None):
    """Print the tables, a row at a time; write every record to `json_file` at the end, and a picture to `plot_file`."""
    print(
        f"{where(threads, dtype)}. Each library in a process of its own; all in turn,\n"
        f"median of {ROUNDS} rounds, {SLOW_ROUNDS} of an epoch and below. JAX loop: {LOOP_STEPS} steps in a compiled\n"
        "loop. err: distance from what float64 formulas give after some steps, as a part of what these changed.\n"
        "ratio: time of the other / time of fastfc, and its target; < marks a row that misses it."
    )
    found: list[Row] = []
    with worker_processes(threads, libraries, module="fastfc.benchmark.networks", alone=False, isa=isa) as workers:
        print(instructions(workers, isa))
        for task in tasks:
            row = measure_network(task, dtype, threads, workers)
            if not found or found[-1].task.kind != task.kind:
                print(f"\n{TASK_TITLES[task.kind]}\n{'network, batch':<25}", end="")
                print("".join(f" | {name:^13}" for name in row.records) + " |  ratio")
            cells = [f" | {readable(r['seconds']):>7} {r['error']:5.0e}" for r in row.records.values()]
            ratio = "" if row.ratio is None else f"{row.ratio:5.2f} {row.other} ({row.target.ratio:g})"
            print(f"{row!s:<25}{''.join(cells)} |{'<' if row.misses() else ' '} {ratio}", flush=True)
            found.append(row)
    write(json_file, [record for row in found for record in row.records.values()], isa)
    draw(plot_file, "of_networks", found, dtype)
    missed = [(row, row.misses()) for row in found if row.misses()]
    print(f"\nBelow a target: {len(missed)} of {len(found)} rows{':' * bool(missed)}")
    for row, misses in missed:
        print(f"  {row.task.kind:<11} {row!s:<25} {', '.join(misses)}")
    say_written(json_file, plot_file)
