"""Ctrl-C: a network is that of a completed step, files are whole, and the next call works."""

import json
import os
import signal
import sys
import warnings
from pathlib import Path

import pytest
from interruptions import BATCH, X, Y, check, completed_steps, fit, held, new, save, state, versions
from processes import run
from soak import report

import fastfc as fc
from fastfc import DivergenceWarning
from fastfc.kernels.runtime.cache import defer_sigint
from fastfc.training import epoch as training

# One in so many of the lines; interruptions at random, here and in the long run
EVERY = 9
FITS, LONG_FITS = 10, 500
COMPILES, LONG_COMPILES = 10, 500
SAVES, LONG_SAVES = 10, 500
long = pytest.mark.soak
PACKAGE = str(Path(fc.__file__).parent)


def interrupted_at(line, call):
    """Whether Ctrl-C at the line of fastfc that is run as number `line` came before the end of a call."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        if not frame.f_code.co_filename.startswith(PACKAGE) or frame.f_code.co_name == "restore":
            return None
        if event == "line":
            count += 1
            if count == line:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    try:
        sys.settrace(trace)
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.fixture
def step_by_step(monkeypatch):
    """Fits come back to Python after each step."""
    monkeypatch.setattr(training, "CALL_SECONDS", 0)


OPTIONS = {
    "plain": {},
    "accumulate": {"accumulate": 2},
    "batches": {"data": ([(X[i : i + BATCH], Y[i : i + BATCH]) for i in range(0, len(X), BATCH)],)},
    "validation": {"validation_data": (X, Y), "metrics": ["mae"], "callbacks": [lambda run: None]},
}


@pytest.mark.few(2)
@pytest.mark.parametrize("every", [EVERY, pytest.param(1, marks=long)])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_fit_interrupted_at_each_of_its_lines(step_by_step, options, every):
    states, line = completed_steps(epochs=2, **options), 1
    net, optimizer = new()
    while interrupted_at(line, lambda net=net, optimizer=optimizer: fit(net, optimizer, epochs=2, **options)):
        check(net, optimizer, states, options.get("accumulate", 1))
        line += every
        net, optimizer = new()
    assert line > 100 and states[state(net, optimizer)] == len(states) - 1
    report("interrupted lines of fit", lines=line // every)


def diverging(net, optimizer):
    optimizer.lr = 1e30
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergenceWarning)
        fit(net, optimizer, epochs=2)


def test_a_diverging_fit_interrupted_at_each_of_its_lines(step_by_step):
    """It goes back to the epoch before, and looks for the step that went wrong."""
    known, call = set(), training.Epoch.call
    net, optimizer = new()

    def recorded(*args):
        value = call(*args)
        known.add(state(net, optimizer))
        return value

    optimizer.prepare(net)
    first = state(net, optimizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Epoch, "call", recorded)
        diverging(net, optimizer)
    assert state(net, optimizer) == first
    line = 1
    net, optimizer = new()
    while interrupted_at(line, lambda net=net, optimizer=optimizer: diverging(net, optimizer)):
        optimizer.prepare(net)
        assert state(net, optimizer) in {first, *known}
        line += EVERY
        net, optimizer = new()


def test_ctrl_c_waits_once():
    """Where nothing may be half done."""
    done, before = [], signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), defer_sigint():
        signal.raise_signal(signal.SIGINT)
        with defer_sigint():
            done.append("inner")
        done.append("outer")
    with pytest.raises(KeyboardInterrupt), defer_sigint():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append("never")
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)
    assert done == ["inner", "outer"]


@pytest.mark.parametrize("count", [FITS, pytest.param(LONG_FITS, marks=long)])
def test_fits_interrupted_at_random(count):
    figures = json.loads(run(f"import interruptions; interruptions.random_fits({count})")[0])
    assert figures["interrupted"] > count // 10
    report("interrupted fits", **figures)


@pytest.mark.parametrize("count", [COMPILES, pytest.param(LONG_COMPILES, marks=long)])
def test_compiles_interrupted_at_random(count, tmp_path):
    code = f"import interruptions; interruptions.random_compiles({count})"
    figures = json.loads(run(code, FASTFC_CACHE=tmp_path)[0])
    assert figures["interrupted"] > count // 10
    names = [path.name for path in tmp_path.iterdir() if path.name.startswith("copy_")]
    assert len(names) == len({name.partition("-")[0] for name in names}) == count  # all there, and no parts of files
    report("interrupted compiles", **figures)


# between open and with, nobody closes a file but who frees it
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("every", [10 * EVERY, pytest.param(1, marks=long)])
def test_a_save_interrupted_at_each_of_its_lines(tmp_path, every):
    pytest.importorskip("safetensors")
    path, (old, new), line = tmp_path / "net.safetensors", versions(), 1
    save(path, old)
    while interrupted_at(line, lambda: save(path, new)):
        if held(path, [old, new]):
            save(path, old)
        assert list(tmp_path.iterdir()) == [path]
        line += every
    assert line > 100 and held(path, [old, new]) == 1
    report("interrupted lines of save", lines=line // every)


@pytest.mark.parametrize("count", [SAVES, pytest.param(LONG_SAVES, marks=long)])
def test_saves_interrupted_at_random(tmp_path, count):
    pytest.importorskip("safetensors")
    figures = json.loads(run(f"import interruptions; interruptions.random_saves({str(tmp_path)!r}, {count})")[0])
    assert figures["interrupted"] > count // 10
    report("interrupted saves", **figures)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("count", [SAVES, pytest.param(LONG_SAVES, marks=long)])
def test_saves_killed_at_random(tmp_path, count):
    pytest.importorskip("safetensors")
    figures = json.loads(run(f"import interruptions; interruptions.killed_saves({str(tmp_path)!r}, {count})")[0])
    assert figures["held_the_one"] and figures["held_the_other"]
    report("killed saves", **figures)
