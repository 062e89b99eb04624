"""Write what `fastfc compare --json FILE` measured as tables into README.md here: asv_bench/table.py FILE ..."""

import json
import sys
from itertools import groupby
from pathlib import Path

from fastfc.benchmark.compare import lines, readable, rows

PLACES = {
    "kernels": ("<!-- measured: written by asv_bench/table.py -->", "<!-- end of measured -->"),
    "networks": ("<!-- networks: written by asv_bench/table.py -->", "<!-- end of networks -->"),
}
README = Path(__file__).with_name("README.md")
TITLES = {
    "forward": "forward, bias, ReLU",
    "weight_grad": "weight gradient",
    "input_grad": "input gradient",
    "bias_grad": "bias gradient",
}
TASKS = {
    "step": "training step",
    "predict": "prediction",
    "predict_one": "prediction in `@njit` code",
    "epoch": "epoch of 60,000 samples",
    "fit": "epoch, against its steps",
    "update": "SGD with momentum, against memory",
}


def heading(records):
    versions = {r["library"].removesuffix(" loop"): r["version"] for r in records}
    for name in ("fastfc, 1 thread", "its steps"):
        versions.pop(name, None)
    processor = versions.pop("limit", None) or versions.pop("memory")
    threads = records[0]["threads"]
    libraries = ", ".join(f"{library} {version}" for library, version in versions.items())
    forced = f" made to use {records[0]['isa']}" if records[0].get("isa") else ""
    return [f"{records[0]['dtype']}, {threads} thread{'s' * (threads > 1)}, {processor}{forced}; {libraries}:", ""]


def kernels(records):
    """One row for each shape, one column for each kernel."""
    yield f"| rows × in × out | {' | '.join(TITLES.values())} |"
    yield "| --- |" + " --- |" * len(TITLES)
    for shape, row in groupby(lines(records), lambda line: line.shape):
        cells = {line.kernel: f"**{line.ratio:.2f}** · {readable(line.seconds)} · {line.share:.0%}" for line in row}
        yield f"| {str(shape).replace('x', ' × ')} | {' | '.join(cells[kernel] for kernel in TITLES)} |"


def networks(records):
    """One row for each task."""
    yield "| what | network, batch | time | ratio | to |"
    yield "| --- | --- | --- | --- | --- |"
    for row in rows(records):
        ratio = "" if row.ratio is None else f"**{row.ratio:.2f}**"
        yield f"| {TASKS[row.task.kind]} | {row} | {readable(row.seconds)} | {ratio} | {row.other or ''} |"


def rewrite(text, files):
    """The text with new tables, in the places of those that the files have records for."""
    measured = [json.loads(Path(file).read_text()) for file in files]
    for table in (kernels, networks):
        chosen = [records for records in measured if ("task" in records[0]) == (table is networks)]
        begin, end = PLACES[table.__name__]
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if chosen and not (found and closed):
            raise SystemExit(f"{README} lacks the lines {begin} and {end}")
        if chosen:
            tables = [line for records in chosen for line in [*heading(records), *table(records), ""]]
            text = "\n".join([before + begin, "", *tables, end]) + after
    return text


if __name__ == "__main__":
    README.write_text(rewrite(README.read_text(encoding="utf-8"), sys.argv[1:]), encoding="utf-8")
