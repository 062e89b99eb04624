"""`fastfc compare`: the four kernels against NumPy and, where installed, PyTorch and JAX."""

import contextlib
import json
import os
import statistics
from itertools import groupby

from fastfc.peers import KERNELS, Shape, start, work

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


def pin(threads):
    """Keep this process and those it starts on its last `threads` cores; return them, or None if impossible."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    os.sched_setaffinity(0, cores)
    return cores


@contextlib.contextmanager
def contestants(threads, peers):
    """One process for each library, the judge's last."""
    workers = start(threads, peers)
    try:
        yield workers
    finally:
        for worker in workers:
            worker.close()


def interleaved(workers, kernel, rounds):
    """Median seconds of a call in each process, all of them in turn in every round, so that noise meets all alike."""
    numbers = [max(1, int(BLOCK_SECONDS / min(w.ask("seconds", kernel, 1) for _ in range(2)))) for w in workers]
    samples = [
        [worker.ask("seconds", kernel, number) for worker, number in zip(workers, numbers, strict=True)]
        for _ in range(rounds)
    ]
    return [statistics.median(sample) for sample in zip(*samples, strict=True)]


def measure(shape, dtype, threads, workers, rounds=None):
    """For each kernel, its Line."""
    for worker in workers:
        worker.ask("prepare", shape, dtype)
    *libraries, judge = workers
    for kernel in KERNELS:
        errors = [judge.ask("error", kernel, library.ask("result", kernel)) for library in libraries]
        done = [work(shape, kernel, dtype)] * len(libraries) + [int(judge.ask("result", kernel))]
        medians = interleaved(workers, kernel, rounds or ROUNDS)
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


def compare(shapes, peers, threads, dtype, json_file):
    """Print the table, a line at a time; write every record to `json_file` at the end."""
    cores = pin(threads)
    where = "not pinned" if cores is None else f"pinned to {', '.join(f'core {core}' for core in cores)}"
    print(
        f"{dtype}, {threads} thread{'s' * (threads > 1)}, {where}. Each library in a process of its own, called from\n"
        f"Python; all in turn, median of {ROUNDS} rounds. Rates are GFLOP/s, for bias_grad GB/s. err: largest error\n"
        "against a wider type, as a part of the bound k·eps·(|A| |B|) for sums of k terms. limit: fastfc's share of\n"
        "what the cores can do: multiply and add or, for bias_grad, read the matrix; measured in the same rounds.\n"
        "ratio: time of the best other library / time of fastfc; < marks a line that misses a target of fastfc.\n"
    )
    found: list[Line] = []
    with contestants(threads, peers) as workers:
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
    summarize(found)
    if json_file:
        records = [record for line in found for record in line.records.values()]
        json_file.write_text(json.dumps(records, indent=1) + "\n")
        print(f"Wrote {json_file}")
