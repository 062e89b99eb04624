"""Coverage-guided fuzzing of all that reads files, with atheris: python tests/fuzz_readers.py READER [-runs=N ...]

READER is checkpoint, onnx or csv. Whatever a file holds, the reader returns or raises ValueError, soon and in little
memory (libFuzzer's -timeout and -rss_limit_mb); anything else ends this process with an error and leaves the input.
"""

import os
import sys
import tempfile
from pathlib import Path

import atheris
import safetensors.numpy

with atheris.instrument_imports(include=["fastfc"]):
    import fastfc as fc
    from fastfc.io import checkpoint as files
    from fastfc.io.onnx import reader as onnx
    from fastfc.tabular import reader as sheets

FOLDER = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
FILE = FOLDER / "input"
TENSORS = []  # of the checkpoints


def networks():
    x = fc.Input(3, name="x")
    hidden = fc.SiLU()(fc.Linear(3, 4, seed=0)(x))
    yield fc.MLP([3, 4, 2], activation="gelu", output_activation="softmax", seed=0)
    yield fc.Sequential([fc.Standardize(3), fc.Linear(3, 4, bias=False, seed=0), fc.LayerNorm(4), fc.BatchNorm1d(4)])
    yield fc.Graph(x, [fc.concatenate([hidden, x]), 0.5 * hidden * hidden])


def checkpoints():
    """A file as it is, or the text of a header that then gets the tensors and the checksum that it needs."""
    for network in networks():
        optimizer = fc.Adam(schedule=fc.StepLR(2), average=0.9)
        network.save(FILE, optimizer=optimizer, metadata={"a": [1, "b"]})
        content = FILE.read_bytes()
        yield b"\0" + content
        with safetensors.safe_open(FILE, framework="numpy") as file:
            TENSORS.append({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118, it is no dict
            yield bytes([len(TENSORS)]) + file.metadata()["fastfc"].encode()


def read_checkpoint(data):
    if data and 1 <= data[0] <= len(TENSORS):
        text, tensors = data[1:].decode(errors="replace"), TENSORS[data[0] - 1]
        checksum = files.checksum(text, tensors)
        data = b"\0" + safetensors.numpy.save(tensors, {"fastfc": text, "checksum": checksum})
    FILE.write_bytes(data[1:])
    fc.load_checkpoint(FILE)


def models():
    for network in networks():
        network.to_onnx(FILE)
        yield FILE.read_bytes()


def read_onnx(data):
    FILE.write_bytes(data)
    onnx.from_onnx(FILE)


def tables():
    yield b"a,b,c\n1,2.5,x\n3,,'y'\n"
    yield '\ufeffName;Größe\n"Müller; A";1,5\n'.encode()
    yield b"1\t2\n3\t4\n"


def read_csv(data):
    FILE.write_bytes(data)
    sheets.read_table(FILE)


READERS = {"checkpoint": (read_checkpoint, checkpoints), "onnx": (read_onnx, models), "csv": (read_csv, tables)}


def main():
    read, seeds = READERS[sys.argv.pop(1)]
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for i, data in enumerate(seeds()):
        (corpus / str(i)).write_bytes(data)
    counts = {"read": 0, "refused": 0}

    def once(data):
        try:
            read(data)
            counts["read"] += 1
        except ValueError:
            counts["refused"] += 1
        if sum(counts.values()) % 1000 == 0:
            print(counts, flush=True)

    atheris.Setup([*sys.argv, str(corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
