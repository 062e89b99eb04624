"""Kernels that travel: a folder that processors of the same instruction set use, and refuse if anything is wrong."""

import json
import os
import platform
import shutil
import stat

import numpy as np
import pytest
from processes import run
from sample import slow

from fastfc.cli.main import main
from fastfc.kernels.runtime import portable

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names of x86 processors")

# Writes the tiny kernels for float32; prints which it compiled
WRITE = """
import sys, tiny_kernels
from pathlib import Path
from fastfc.cli import warmup
warmup.compiled_kernels = {name: warmup.compiled_kernels[name] for name in ("one", "two", "three")}
assert warmup.write(Path(sys.argv[-1] if len(sys.argv) > 1 else %r), ["float32"]) == 0
"""
# Uses them; prints which it compiled
USE = "import tiny_kernels as t; t.use(t.three, 'f4'); print(t.compiled)"
NOTHING, ALL = "[]\n", "['one:float32', 'two:float32', 'three:float32']\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of the tiny kernels for AVX2."""
    top = tmp_path_factory.mktemp("made")
    run(WRITE % str(top / "out"), FASTFC_CACHE=top / "cache", **portable.environment("avx2"))
    return top / "out"


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def use(folder, home, processor="haswell", **environment):
    """What a fresh home compiles with the folder, and what stderr says."""
    environment = {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": ""} | environment
    return run(USE, FASTFC_KERNELS=folder, FASTFC_CACHE=home / "cache", **environment)


@pytest.mark.parametrize("processor", [slow("haswell"), "znver2"])
def test_another_processor_of_the_instruction_set_compiles_nothing(made, tmp_path, processor):
    assert use(made, tmp_path, processor) == (NOTHING, "")
    assert list((tmp_path / "cache").glob("*")) == []


def test_other_builds_of_python_and_numpy(made, tmp_path):
    """A kernel that calls another one held their exact versions."""
    others = "import sys, numba, numpy; numpy.__version__, sys.version = '2.99.0', '3.99 of others'\n"
    environment = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}
    assert run(others + USE, FASTFC_KERNELS=made, FASTFC_CACHE=tmp_path, **environment) == (NOTHING, "")


def test_files_can_be_read_by_all_and_written_by_the_user_alone(made):
    folder = made / "avx2"
    assert {stat.S_IMODE(path.stat().st_mode) for path in (made, folder)} == {0o755}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}
    assert sorted(path.name.partition("-")[0] for path in folder.iterdir()) == ["about.json", "one", "three", "two"]


def test_another_instruction_set_says_so(made, tmp_path):
    output, errors = use(made, tmp_path, "nehalem")
    assert output == ALL
    assert "this process needs kernels for sse, and it has those for avx2" in errors
    assert errors.count("RuntimeWarning") == 1


def about(change):
    def apply(folder):
        path = folder / "avx2/about.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return apply


def flip(folder):
    """One bit of each kernel."""
    for path in (folder / "avx2").glob("*-*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content))


def open_files(folder):
    for path in (folder / "avx2").glob("*-*"):
        path.chmod(0o666)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (shutil.rmtree, "there is no such folder"),
        (lambda folder: folder.chmod(0o777), "can be written by others"),
        (lambda folder: (folder / "avx2").chmod(0o775), "can be written by others"),
        (lambda folder: (folder / "avx2/about.json").unlink(), "about.json is missing or damaged"),
        (lambda folder: (folder / "avx2/about.json").write_text("{"), "about.json is missing or damaged"),
        (lambda folder: (folder / "avx2/about.json").write_text("7"), "about.json is missing or damaged"),
        (lambda folder: (folder / "avx2/about.json").chmod(0o666), "can be written by others"),
        (about(lambda content: content.update(numba="0.1")), "another numba: 0.1, here it is"),
        (about(lambda content: content.update(llvmlite="0.1")), "another llvmlite: 0.1, here it is"),
        (about(lambda content: content.update(Python="cpython-27")), "another Python: cpython-27, here it is"),
        (about(lambda content: content.update({"kernel sources": "abc"})), "another kernel sources: abc, here it is"),
        (about(lambda content: content.pop("features")), "another features: None, here it is"),
    ],
)
def test_what_is_wrong(copy, monkeypatch, damage, reason):
    here = json.loads((copy / "avx2/about.json").read_text())
    monkeypatch.setattr(portable, "description", lambda: here)
    portable.check(copy / "avx2")
    damage(copy)
    with pytest.raises(portable.UnusableError, match=reason):
        portable.check(copy / "avx2")


def test_a_processor_that_lacks_something(copy, monkeypatch):
    here = json.loads((copy / "avx2/about.json").read_text())
    monkeypatch.setattr(portable, "description", lambda: here)
    monkeypatch.setattr(portable.llvm, "get_host_cpu_features", lambda: {"avx2": True, "fma": False})
    with pytest.raises(portable.UnusableError, match=r"this processor lacks cx16, popcnt, .*fma"):
        portable.check(copy / "avx2")


@pytest.mark.parametrize("damage", [slow(about(lambda content: content.update(numba="0.1"))), flip, slow(open_files)])
def test_what_is_wrong_is_said_once_and_nothing_of_it_is_run(copy, tmp_path, damage):
    damage(copy)
    output, errors = use(copy, tmp_path)
    assert output == ALL
    assert errors.count("RuntimeWarning") == 1 and str(copy) in errors


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no modes of files here")
@pytest.mark.parametrize(
    ("mode", "sources", "trusted"), [(0o664, 0o664, True), (0o664, 0o644, False), (0o666, 0o664, False)]
)
def test_what_came_with_the_package_is_trusted_as_its_sources_are(tmp_path, monkeypatch, mode, sources, trusted):
    """pip leaves files that a group may write, where the user's umask says so."""
    source, kernel = tmp_path / "portable.py", tmp_path / "kernel"
    for path, bits in ((source, sources), (kernel, mode)):
        path.write_text("")
        path.chmod(bits)
    monkeypatch.setattr(portable, "__file__", str(source))
    assert portable.untrusted_reason(kernel.stat()) == "can be written by others"  # it did not come with the package
    monkeypatch.setattr(portable, "place", lambda: portable.IN_WHEEL)
    assert (portable.untrusted_reason(kernel.stat()) == "") == trusted


@pytest.mark.parametrize("variables", [{"NUMBA_BOUNDSCHECK": "1"}])
def test_other_options_of_the_compiler(made, tmp_path, variables):
    output, errors = use(made, tmp_path, **variables)
    assert output == ALL and f"another {next(iter(variables))}: " in errors


def test_a_kernel_that_the_folder_lacks_is_compiled(copy, tmp_path):
    [path] = (copy / "avx2").glob("two-*")
    path.unlink()
    output, errors = use(copy, tmp_path)
    assert output == "['two:float32']\n" and "RuntimeWarning" not in errors


def test_0_uses_no_folder(monkeypatch):
    monkeypatch.setattr(portable.os.path, "isdir", lambda path: True)  # as in a wheel with kernels inside
    for named, expected in (("0", None), ("", portable.IN_WHEEL)):
        monkeypatch.setenv("FASTFC_KERNELS", named)
        assert portable.place.__wrapped__() == expected


def test_what_was_made_of_other_sources_goes(copy, monkeypatch):
    """And what the user has there stays."""
    (copy / "avx2/mine.txt").write_text("")
    monkeypatch.setattr(portable, "host_isa", lambda: type("isa", (), {"name": "avx2"}))
    monkeypatch.setattr(portable, "description", lambda: {"kernel sources": "new"})
    assert portable.prepare(copy) == copy / "avx2"
    assert sorted(path.name for path in (copy / "avx2").iterdir()) == ["about.json", "mine.txt"]
    assert json.loads((copy / "avx2/about.json").read_text()) == {"kernel sources": "new"}


def test_a_folder_that_would_not_be_trusted_is_not_written(tmp_path, capsys):
    tmp_path.chmod(0o777)
    from fastfc.cli import warmup

    assert warmup.write(tmp_path, ["float32"]) == 1
    assert "can be written by others: its kernels would not be used" in capsys.readouterr().err


def test_sizes_of_caches_are_no_part_of_a_kernel():
    """Blocks are chosen when a kernel runs: nothing at the level of a module knows a size."""
    import ast
    from pathlib import Path

    import fastfc.kernels

    for path in Path(fastfc.kernels.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        outside = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
        calls = {ast.unparse(node.func) for top in outside for node in ast.walk(top) if isinstance(node, ast.Call)}
        assert not {name for name in calls if name.endswith("_bytes")}, path


def test_the_sizes_of_caches_are_read_when_code_runs():
    from numba import njit

    from fastfc.kernels.ops.gemm_plan import TABLES, blocking
    from fastfc.kernels.simd.memory import pointer

    depth, x = njit(lambda x: blocking(pointer(x)).kc), np.zeros(1)
    before = depth(x)
    assert before == TABLES[8][0]
    try:
        TABLES[8][0] += 1
        assert depth(x) == before + 1
    finally:
        TABLES[8][0] = before


TRAIN = """
import time
begin = time.perf_counter()
import numpy as np, fastfc as fc
from fastfc.kernels.runtime.native import compiled_kernels
rng = np.random.default_rng(0)
x, y = rng.standard_normal((128, 64), np.float32), np.arange(128) % 10
net = fc.MLP([64, 128, 64, 10], seed=0)
loss, optimizer = fc.CrossEntropyLoss(), fc.SGD(lr=0.1, momentum=0.9)
net.train_step(x, y, loss, optimizer)
seconds = time.perf_counter() - begin
for _ in range(10):
    net.train_step(x, y, loss, optimizer)
net.predict(x)
misses = sum(sum(k.compiler.stats.cache_misses.values()) for k in compiled_kernels.values())
print(misses, round(seconds, 2), net.params.tobytes().hex()[:2000])
"""
PROCESSORS = {"avx2": ["haswell", "znver2"], "avx512": ["skylake-avx512", "znver4"]}


@pytest.mark.soak
@pytest.mark.parametrize("isa", PROCESSORS)
def test_a_first_training_in_a_fresh_home(tmp_path, isa):
    """With all kernels, in no more than a second, and with the bits of kernels that are compiled for the processor."""
    if not set(portable.X86[isa].features.split()) <= {name for name, has in features().items() if has}:
        pytest.skip(f"no {isa} here")
    command = ["warmup", "--out", str(tmp_path / "out"), "--isa", isa, "--dtype", "float32"]
    run(f"import sys; from fastfc.cli.main import main; sys.exit(main({command}))")
    seen = set()
    for processor in PROCESSORS[isa]:
        environment = {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": ""}
        output, errors = run(TRAIN, FASTFC_KERNELS=tmp_path / "out", FASTFC_CACHE=tmp_path / processor, **environment)
        compiled, seconds, bits = output.split()
        assert (compiled, errors) == ("0", "") and float(seconds) <= 1
        seen.add(bits)
    compiled, _, bits = run(TRAIN, FASTFC_KERNELS=0, FASTFC_CACHE=tmp_path / "own", **environment)[0].split()
    assert int(compiled) > 5 and seen == {bits}


def features():
    return portable.llvm.get_host_cpu_features()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--isa", "avx2"], "needs --out"),
        (["--out", "x", "--isa", "mmx"], "'mmx' is not an instruction set here; there are sse, avx2, avx512"),
    ],
)
def test_wrong_arguments(arguments, text, capsys):
    with pytest.raises(SystemExit):
        main(["warmup", *arguments])
    assert text in capsys.readouterr().err
