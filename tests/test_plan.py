"""What is compiled for a first call, and the second process that helps."""

import signal
import sys
import time
import types as python_types

import numpy as np
import pytest
from numba import types
from processes import run, start
from tiny_kernels import one, three, two, use

import fastfc as fc
from fastfc.kernels.runtime import cache, dispatch, native, plan, threads
from fastfc.kernels.runtime import kernel as boundary
from fastfc.kernels.runtime.native import compiled_kernels

needs_locks = pytest.mark.skipif(cache.fcntl is None, reason="no second process without locks")
# Two cores and much to do, whatever machine this is
HELP = """
import os, tiny_kernels
from numba import types
from fastfc.kernels.runtime import plan, threads
plan.MUCH_WORK = 0
os.environ.pop("FASTFC_SECOND", None)
threads.cores = threads.quota = lambda: 2
tiny = [tiny_kernels.one, tiny_kernels.two, tiny_kernels.three]
"""


def test_what_others_need_comes_first(monkeypatch):
    for kernel in (one, two, three):
        monkeypatch.setattr(kernel, "slots", {dtype: [0] for dtype in kernel.slots})
    assert plan.missing([three], types.float64) == [one, two, three]
    assert plan.missing([two, three], types.float64) == [one, two, three]
    monkeypatch.setattr(one, "slots", {dtype: [1] for dtype in one.slots})
    assert plan.missing([three], types.float64) == [two, three]


def test_a_plan_has_what_a_first_training_loads():
    """No kernel more, which would be compiled for nothing, and none less."""
    step = compiled_kernels["train_step"]
    planned = {kernel.name for kernel in plan.uses(step.function)[1]}
    assert "run_gradient" in planned and not any(compiled_kernels[name].optional for name in planned)
    code = """
import numpy as np, fastfc as fc
from fastfc.kernels.runtime.native import compiled_kernels
from numba import types
x = np.ones((2, 3), np.float32)
fc.MLP([3, 4, 1], seed=0).train_step(x, x[:, :1], fc.MSELoss(), fc.SGD())
print(*(name for name, kernel in compiled_kernels.items() if kernel.slots[types.float32][0]))
"""
    run(code)  # compiles what is missing, for which Numba imports much
    names, modules = run(f"{code}import sys\nprint(*sys.modules)")[0].splitlines()
    unused = {"numpy.ma", "numba.cpython.numbers", *(f"fastfc.{module}" for module in fc.MODULES)}
    assert unused & set(modules.split()) == set()
    loaded = {compiled_kernels[name] for name in names.split()}
    everything, waiting = set(), [step]
    while waiting:
        kernel = waiting.pop()
        if kernel not in everything:
            everything.add(kernel)
            waiting += plan.uses(kernel.function)[1]
    assert everything <= loaded and all(kernel.optional for kernel in loaded - everything)


@needs_locks
def test_a_second_process_compiles_and_hands_over(tmp_path):
    code = (
        HELP
        + """
from fastfc.kernels.runtime.native import CompiledKernel
CompiledKernel.find_or_compile = CompiledKernel.find  # the first one only waits
tiny_kernels.use(tiny_kernels.three)
print(tiny_kernels.compiled)
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("nobody is left")
"""
    )
    output, errors = run(code, FASTFC_CACHE=tmp_path)
    assert output == "[]\nnobody is left\n"
    assert all(line.startswith("fastfc") for line in errors.splitlines())  # the notice
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["one", "three", "two"]


SLEEPS = """
import subprocess, time
pids = []
Popen = subprocess.Popen
plan.subprocess.Popen = lambda *args, **options: pids.append(process := Popen(*args, **options)) or process
"""


@needs_locks
@pytest.mark.parametrize("end", ["error", "interrupt", "killed"])
def test_a_second_process_ends_with_the_first(tmp_path, end):
    code = (
        HELP
        + SLEEPS
        + f"""
try:
    with plan.second_process(tiny, types.float32):
        print(pids[0].pid, flush=True)
        if {end!r} == "error":
            raise KeyError
        time.sleep(100)
except (KeyError, KeyboardInterrupt):
    print(pids[0].returncode, flush=True)
    time.sleep(100)
"""
    )
    first = start(code, FASTFC_CACHE=tmp_path)
    pid = int(first.stdout.readline())
    if end == "killed":
        first.kill()
    else:
        if end == "interrupt":
            first.send_signal(signal.SIGINT)
        assert first.stdout.readline() in ("-9\n", "-2\n", "1\n")  # it is over and nothing of it is left
    give_up = time.monotonic() + 60
    while exists(pid):
        assert time.monotonic() < give_up
        time.sleep(0.05)
    first.kill()
    assert "Traceback" not in first.communicate()[1]


def exists(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"  # a zombie of a killed parent is init's to reap
    except OSError:
        return False


@pytest.fixture
def able(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(threads, "cores", lambda: 2)
    monkeypatch.setattr(threads, "quota", lambda: None)
    monkeypatch.setattr(plan, "forked", plan.threading.Event())
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    monkeypatch.delenv("FASTFC_SECOND", raising=False)


@needs_locks
@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(cache, "cache_folder", lambda: None),
        lambda patch: patch.setattr(cache, "fcntl", None),
        lambda patch: patch.setattr(threads, "cores", lambda: 1),
        lambda patch: patch.setattr(threads, "quota", lambda: 1.5),
        lambda patch: patch.setattr(sys, "frozen", True, raising=False),
        lambda patch: patch.setattr(sys, "executable", ""),
        lambda patch: patch.setattr(sys, "executable", None),
        lambda patch: patch.setattr(sys, "executable", "/opt/blender/blender"),
        lambda patch: patch.setenv("FASTFC_SECOND", "1"),
        lambda patch: plan.forked.set(),
        lambda patch: patch.setitem(
            sys.modules, "multiprocessing.process", python_types.SimpleNamespace(parent_process=lambda: object())
        ),
    ],
)
def test_where_there_is_no_second_process(able, monkeypatch, change):
    assert plan.may_start_process()
    change(monkeypatch)
    assert not plan.may_start_process()


def test_kernels_of_a_script_are_left_to_it(able, monkeypatch):
    """A second process would run the script."""
    monkeypatch.setattr(plan, "MUCH_WORK", 0)
    monkeypatch.setattr(plan.subprocess, "Popen", lambda *args, **options: pytest.fail("started"))
    monkeypatch.setattr(one.function, "__module__", "__main__")
    with plan.second_process([one, two], types.float32):
        pass


def test_no_memory_for_a_process_is_no_error(able, monkeypatch):
    def fail(*args, **options):
        raise OSError("no memory")

    monkeypatch.setattr(plan, "MUCH_WORK", 0)
    monkeypatch.setattr(plan.subprocess, "Popen", fail)
    with plan.second_process([one, two], types.float32):
        pass


def test_the_time_that_is_left_is_told_once_and_follows_the_machine(monkeypatch, caplog):
    monkeypatch.setattr(plan.Telling, "begun", False)
    monkeypatch.setattr(plan, "work", lambda kernel: 10)
    for kernel in (one, two, three):
        monkeypatch.setattr(kernel, "slots", {types.float64: [0]})
        monkeypatch.setattr(kernel, "cached", lambda dtype: None)
    telling = plan.Telling([one, two, three], types.float64)
    assert caplog.messages == [
        f"fastfc compiles 3 kernels for this machine, {plan.times()} (fastfc warmup does it ahead)"
    ]
    telling.start -= 20  # seconds
    one.slots[types.float64][0] = 1
    telling.next(one)
    telling.next(two)
    assert caplog.messages[1:] == ["fastfc: 33 % compiled in 20 s; some 40 s more"]


def test_more_kernels_are_told_if_they_take_long(monkeypatch, caplog):
    """Those that a first call meets late, such as the steps after the program's own kernels."""
    monkeypatch.setattr(plan.Telling, "begun", False)
    monkeypatch.setattr(plan, "work", lambda kernel: plan.MUCH_WORK / 2)
    for kernels in ([one], [two], [two, three]):
        plan.Telling(kernels, types.float64)
    assert [message.split(" for")[0] for message in caplog.messages] == [
        "fastfc compiles a kernel",
        "fastfc compiles 2 more kernels",
    ]


def test_nothing_is_told_of_what_is_quick(monkeypatch, caplog):
    monkeypatch.setattr(plan.Telling, "begun", False)
    telling = plan.Telling([one, two], types.float64)
    telling.next(one)
    assert len(caplog.messages) == 1


@pytest.fixture
def pieces(monkeypatch):
    """The names of what is asked for together, for each piece of work in turn."""
    found: list[list[str]] = []
    load = native.load_asked

    def record(dtype, *kernels):
        wanted = [*native.asked[dtype], *kernels]
        if wanted:
            found.append([kernel.name for kernel in wanted])
        load(dtype, *kernels)

    for module in (native, boundary, dispatch):
        monkeypatch.setattr(module, "load_asked", record)
    return found


X, Y = np.ones((8, 3), np.float32), np.ones((8, 2), np.float32)
PROGRAM = {"normalise_rows", "normalise_rows_backward", "activation_gelu_tanh"}
USES = {
    "train_step": (lambda net, *how: net.train_step(X, Y, *how), {"train_step"}),
    "fit": (
        lambda net, loss, optimizer: net.fit(X, Y, loss=loss, optimizer=optimizer, validation_split=0.5),
        {"train_steps", "predict", "loss"},
    ),
    "batches": (lambda net, loss, optimizer: net.fit([(X, Y)], loss=loss, optimizer=optimizer), {"train_steps"}),
    "find_lr": (lambda net, *how: net.find_lr(X, Y, *how, steps=2), {"train_step"}),
    "predict": (lambda net, *how: net.predict(X), {"predict"}),
    "forward": (lambda net, *how: net.forward(X), {"forward"}),
}


def network():
    return fc.Sequential([fc.Linear(3, 4, seed=0), fc.LayerNorm(4), fc.GELU("tanh"), fc.Linear(4, 2, seed=1)])


@pytest.mark.parametrize("use", USES)
def test_what_a_call_needs_is_one_piece_of_work(pieces, use):
    """The network's kernels, the loss's and the optimizer's, and the function that runs them."""
    call, expected = USES[use]
    call(network(), fc.HuberLoss(), fc.Adagrad())
    if use not in ("predict", "forward"):
        expected = expected | {"loss_huber", "rule_adagrad"}
    assert set(pieces[0]) == PROGRAM | expected
    assert {name for piece in pieces[1:] for name in piece} <= set(pieces[0])


@pytest.mark.parametrize("use", ["train_step", "fit"])
def test_what_a_full_batch_needs_is_one_piece_of_work(pieces, use):
    call, expected = USES[use]
    call(network(), fc.MSELoss(), fc.LBFGS())
    assert set(pieces[0]) == PROGRAM | expected | {"loss_mse", "lbfgs"}


@pytest.mark.parametrize(
    "target, smoothing, soft", [(np.arange(8) % 2, 0.0, False), (np.arange(8) % 2, 0.1, True), (Y, 0.0, True)]
)
def test_cross_entropy_of_classes_does_not_need_that_of_probabilities(pieces, target, smoothing, soft):
    network().train_step(X, target, fc.CrossEntropyLoss(label_smoothing=smoothing), fc.SGD())
    assert ("loss_soft_cross_entropy" in pieces[0]) == soft


def test_what_an_ensemble_needs_is_one_piece_of_work(pieces):
    fc.Ensemble(lambda seed: network(), 2).fit(X, Y, loss=fc.HuberLoss(), optimizer=fc.Adagrad())
    assert set(pieces[0]) == PROGRAM | {"loss_huber", "rule_adagrad", "train_members"}


def test_what_a_block_asked_for_before_it_failed_comes_with_the_next_call(pieces):
    with pytest.raises(KeyError), native.one_piece():
        native.compile_or_load_all([one], types.float64)
        with native.one_piece():
            native.compile_or_load_all([two], types.float64)
        assert not pieces
        raise KeyError
    assert not pieces
    use(three)
    assert pieces == [["one", "two", "three"]] and not native.asked[types.float64]
