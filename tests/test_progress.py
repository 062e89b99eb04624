import io
import re
import sys
import types

import numpy as np
import pytest
from processes import run, run_in_terminal
from sample import slow

import fastfc as fc
from fastfc.training import progress

X = np.random.default_rng(0).standard_normal((25, 3))
Y = X @ [[1.0], [2.0], [3.0]]

HIDE = "import sys; sys.modules['tqdm'] = None\n"
FIT = """
import numpy as np, fastfc as fc
x = np.random.default_rng(0).standard_normal((200, 3))
net = fc.MLP([3, 4, 1], seed=0)
history = net.fit(x, x[:, :1], loss=fc.MSELoss(), optimizer=fc.SGD(0.01), seed=0, {options})
print(*(f"{{history[name][-1]:.3g}}" for name in history.names()[1:-1]))
"""


def fit(net, **options):
    defaults = {"loss": fc.MSELoss(), "optimizer": fc.SGD(0.01), "epochs": 3, "batch_size": 10, "seed": 0}
    return net.fit(X, Y, **{**defaults, **options})


def screens(text):
    """What stood in the terminal's line, one time after another."""
    assert text.count("\n") == 1 and text.endswith("\r\n")
    return [shown.strip() for shown in text.split("\r") if shown.strip()]


def test_the_bar_in_a_terminal():
    options = "epochs=4, validation_split=0.25, metrics=['mae', 'rmse'], progress=True"
    status, out, err = run_in_terminal(FIT.format(options=options))
    assert status == 0
    loss, _, val_loss, val_mae, val_rmse = out.split()
    last = screens(err)[-1]
    assert last.startswith("epoch 4/4: 100%|█") and "| 600/600 [" in last
    assert re.search(r" [\d.]+k? samples/s, ", last)
    assert last.endswith(f", loss={loss}, val_loss={val_loss}, val_mae={val_mae}]") and val_rmse not in last


def test_scores_are_those_of_the_validation_and_nothing_unless_asked():
    fits = [FIT.format(options=f"epochs=2, {options}") for options in ("", "progress=True, metrics=['mae']")]
    *_, err = run_in_terminal("".join(fits), COLUMNS="")
    assert screens(err)[-1].count("=") == 1
    *_, err = run_in_terminal(FIT.format(options="epochs=2, progress=True, validation_split=0.5"), COLUMNS="")
    assert screens(err)[-1].count("=") == 2


@pytest.mark.parametrize("columns", [40, slow(200)])
def test_one_bar_per_fit_however_narrow_the_terminal(columns):
    seen = screens(run_in_terminal(FIT.format(options="epochs=3000, progress=True"), columns)[2])
    assert max(map(len, seen)) <= columns and seen[-1].startswith("epoch 3000/3000")
    epochs = [int(shown.split()[1].split("/")[0]) for shown in seen if shown.startswith("epoch")]
    assert epochs == sorted(epochs) and 2 <= len(epochs) < 100  # not 3000 drawings


def test_quiet_in_pipes_with_and_without_tqdm():
    fit = FIT.format(options="epochs=2, progress=True")
    out, err = run(HIDE + fit + "del sys.modules['tqdm']\n" + fit)
    assert err == "" and len(out.split()) == 4


def test_without_tqdm_a_terminal_gets_the_name_of_the_extra_before_the_first_step():
    status, out, err = run_in_terminal(HIDE + FIT.format(options="epochs=2, progress=True"))
    assert status == 1 and out == ""
    assert "ImportError: progress=True needs tqdm: pip install 'fastfc[progress]'" in err


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_an_import_error_changes_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    net, optimizer, rng = fc.MLP([3, 4, 1], seed=0), fc.Adam(), np.random.default_rng(0)
    before = net.params.copy(), net.history, rng.bit_generator.state
    with pytest.raises(ImportError, match=r"fastfc\[progress\]"):
        fit(net, optimizer=optimizer, seed=rng, progress=True)
    np.testing.assert_array_equal(net.params, before[0])
    assert net.history is before[1] and rng.bit_generator.state == before[2] and optimizer.state.size == 0
    fit(net, optimizer=optimizer)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_line_ends_when_training_does(monkeypatch, error):
    monkeypatch.setattr(sys, "stderr", Terminal())

    def stop(run):
        if len(run.history) == 2:
            raise error

    with pytest.raises(error):
        fit(fc.MLP([3, 4, 1], seed=0), progress=True, callbacks=[stop])
    text = sys.stderr.getvalue()
    assert text.endswith("\n") and "epoch 2/3:  67%" in text and "50.0/75.0" in text


def test_a_notebook_has_a_bar(monkeypatch):
    stream = types.new_class("OutStream", (io.StringIO,))
    stream.__module__ = "ipykernel.iostream"
    monkeypatch.setattr(sys, "stderr", stream())
    fit(fc.MLP([3, 4, 1], seed=0), progress=True)
    assert "epoch 3/3: 100%" in sys.stderr.getvalue()


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_no_bar_where_nobody_watches(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    fit(fc.MLP([3, 4, 1], seed=0), progress=True)
    assert stream is None or stream.getvalue() == ""


def test_epochs_of_unknown_length(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    bar, history = progress.Progress(True, 3, None), fc.History()
    for epoch in range(3):
        for done in (10, 17):
            bar.show(epoch, done, 0.5, history)
    bar.close()
    assert "epoch 3/3: 51.0 samples [" in sys.stderr.getvalue() and "loss=0.5]" in sys.stderr.getvalue()
    progress.Progress(True, 3, None).close()


def test_demo_has_bars_only_with_tqdm():
    code = "from fastfc.cli.demo import demo; demo(epochs=2, seed=0, plot_file=None)"
    status, out, err = run_in_terminal(code)
    assert status == 0 and "times as fast" in out
    assert err.count("epoch 2/2: 100%") >= 2 and err.count("\n") == 2  # the reference's and ours
    status, out, err = run_in_terminal(HIDE + code)
    assert status == 0 and "times as fast" in out and err == ""
