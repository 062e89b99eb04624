"""Write what `fastfc compare --json FILE` measured into the README, as tables: python asv_bench/table.py FILE ..."""

import json
import sys
from itertools import groupby
from pathlib import Path

from fastfc.compare import lines, readable

BEGIN, END = "<!-- measured: written by asv_bench/table.py -->", "<!-- end of measured -->"
README = Path(__file__).parent.parent / "README.md"
TITLES = {
    "forward": "forward, bias, ReLU",
    "weight_grad": "weight gradient",
    "input_grad": "input gradient",
    "bias_grad": "bias gradient",
}


def table(records):
    """One row for each shape, one column for each kernel."""
    versions = {r["library"]: r["version"] for r in records if r["library"] != "fastfc, 1 thread"}
    processor = versions.pop("limit")
    threads = records[0]["threads"]
    yield (
        f"{records[0]['dtype']}, {threads} thread{'s' * (threads > 1)}, {processor}; "
        + ", ".join(f"{library} {version}" for library, version in versions.items())
        + ":"
    )
    yield ""
    yield f"| rows × in × out | {' | '.join(TITLES.values())} |"
    yield "| --- |" + " --- |" * len(TITLES)
    for shape, row in groupby(lines(records), lambda line: line.shape):
        cells = {line.kernel: f"**{line.ratio:.2f}** · {readable(line.seconds)} · {line.share:.0%}" for line in row}
        yield f"| {str(shape).replace('x', ' × ')} | {' | '.join(cells[kernel] for kernel in TITLES)} |"
    yield ""


def rewrite(text, files):
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{README} lacks the lines {BEGIN} and {END}")
    tables = [line for file in files for line in table(json.loads(Path(file).read_text()))]
    return "\n".join([before + begin, "", *tables, end]) + after


if __name__ == "__main__":
    README.write_text(rewrite(README.read_text(encoding="utf-8"), sys.argv[1:]), encoding="utf-8")
